"""The locustfile of ``throughput.py``: users without a pause, and whatever the candidate's user writes.

After a while the process with the users notes what it has done in some seconds: requests, and CPU time of all its
threads. What is done for that is the same for all candidates.
"""

import json
import os
import resource
import time
from pathlib import Path

import gevent
from locust import FastHttpUser, events, task
from locust.runners import MasterRunner
from usage import USE

ENDPOINTS = 20
CANDIDATE, OUTPUT = os.environ["BENCHMARK_CANDIDATE"], os.environ["BENCHMARK_OUTPUT"]
WARM_UP_S, SECONDS = float(os.environ["BENCHMARK_WARM_UP_S"]), float(os.environ["BENCHMARK_SECONDS"])

USE[CANDIDATE]()


class Visitor(FastHttpUser):
    """Asks without a pause; every fiftieth answer is an error."""

    asked = 0
    """By all users."""

    @task
    def ask(self):
        Visitor.asked += 1
        kind = "500" if Visitor.asked % 50 == 0 else "items"
        self.client.get(f"/{kind}", name=f"/endpoint/{Visitor.asked % ENDPOINTS}")


def now():
    """Wall clock, CPU time of this process, and its requests so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"wall_s": time.perf_counter(), "cpu_s": used.ru_utime + used.ru_stime, "requests": Visitor.asked}


def watch():
    """Note what happens in the seconds after the warm-up."""
    gevent.sleep(WARM_UP_S)
    before = now()
    gevent.sleep(SECONDS)
    after = now()
    Path(OUTPUT).write_text(json.dumps({name: after[name] - before[name] for name in before}))


@events.test_start.add_listener
def on_test_start(environment, **_):
    """A master has no users."""
    if not isinstance(environment.runner, MasterRunner):
        gevent.spawn(watch)
