"""The locustfile of ``throughput.py``: users without a pause, and whatever the candidate's user writes.

The process with the users shares its core with another one: by turns they run, and are stopped. It stops by itself when
it is warm, and then whenever it is told that its turn is over; of each turn it notes how long it took, the CPU time of
all its threads, and its requests. What is done for that is the same for all candidates.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import gevent
from locust import FastHttpUser, events, runners, task
from usage import USE

ENDPOINTS = 20
WARM_UP_S = 1.0
CANDIDATE, OUTPUT = os.environ["BENCHMARK_CANDIDATE"], os.environ["BENCHMARK_OUTPUT"]

MALLOC_STEP, LARGEST_SMALL, POOL = 16, 512, 16_384
"""Of CPython's allocator, in bytes: it has pools for each size of small objects; ``bytes`` take three steps or more."""
BYTES_OVERHEAD = b"".__sizeof__()

runners.WORKER_REPORT_INTERVAL *= int(os.environ["BENCHMARK_SHARED_BY"])  # its clock goes on while it is stopped

_moved = []


def move_memory():
    """Move what is allocated from now on by a random distance, in each of the allocator's pools.

    Where objects happen to lie decides which of them share a cache's lines, and that is the same in each run of a
    program: it made empty modules cost, or gain, more than 1 % here. (Mytkowicz et al., "Producing Wrong Data Without
    Doing Anything Obviously Wrong!", ASPLOS 2009.)
    """
    for size in range(3 * MALLOC_STEP, LARGEST_SMALL + 1, MALLOC_STEP):
        _moved.extend(bytes(size - BYTES_OVERHEAD) for _ in range(random.randrange(POOL // size)))
    for make in (random.random, dict, lambda: [None], lambda: bytes(random.randrange(600, 5_000))):
        _moved.extend(make() for _ in range(random.randrange(POOL // 64)))


move_memory()
USE[CANDIDATE]()
move_memory()


class Visitor(FastHttpUser):
    """Asks without a pause; every fiftieth answer is an error."""

    asked = 0
    """By all users."""

    @task
    def ask(self):
        Visitor.asked += 1
        kind = "500" if Visitor.asked % 50 == 0 else "items"
        self.client.get(f"/{kind}", name=f"/endpoint/{Visitor.asked % ENDPOINTS}")


class Turns:
    """What this process has done in each of its turns."""

    def __init__(self):
        self._begun = None
        self._done = []

    def end(self, *_):
        """Note what was done, and stop until the next turn."""
        if self._begun is not None:
            self._done.append([now - before for now, before in zip(self._now(), self._begun, strict=True)])
        os.kill(os.getpid(), signal.SIGSTOP)
        self._begun = self._now()

    def write(self, **_):
        """Seconds, seconds of CPU, and requests of each."""
        Path(OUTPUT).write_text(json.dumps(self._done))

    @staticmethod
    def _now():
        return time.perf_counter(), time.process_time(), Visitor.asked


@events.test_start.add_listener
def on_test_start(environment, **_):
    """A master has no users, and no turns."""
    if isinstance(environment.runner, runners.MasterRunner):
        return
    move_memory()
    turns = Turns()
    signal.signal(signal.SIGUSR1, turns.end)
    events.quitting.add_listener(turns.write)
    gevent.spawn_later(WARM_UP_S, turns.end)
