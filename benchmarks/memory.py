"""What memory a candidate adds over 10 million requests with a million names, each candidate in a process of its own.

``python benchmarks/memory.py`` fires the requests at the candidate's listener alone; every tenth has a name that none
had before. At the end of each of the candidate's intervals it does what it does then, sending included. Whoever needs
too long or too much is stopped, and its row says after how many requests. Locust's own statistics are there to compare:
they keep each name.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import time

import peers
import psutil
from peers import REQUESTS_PER_S
from results import Budget, Table, main, progress
from servers import Sink

REQUESTS, NAMES_EVERY = 10_000_000, 10
PARTS = 20
STOP_AT_MB = 1_500
BUDGET_MB, GOAL_MB = 25, 10
COMPARED = (peers.Bare, peers.Ours, peers.Naive, peers.Otel, peers.LocustTelemetry)


def rss_mb():
    """Resident memory of this process."""
    return psutil.Process().memory_info().rss / 1e6


def measure_here(key, requests, seconds):
    """One candidate, in this process: the memory added after each part, and how far it came."""
    with Sink() as sink:
        candidate = peers.BY_KEY[key](sink)
        fire = candidate.hook(with_locust=key == "bare").fire
        passed, failed = peers.responses()
        peers.fire_many(candidate.hook(with_locust=key == "bare"), 1000, names=20)
        candidate.end_interval()
        per_interval = int(candidate.interval_s * REQUESTS_PER_S)
        chance, names = random.Random(3), 0
        until, before_mb = time.monotonic() + seconds, rss_mb()
        added_mb, fired = [], 0
        while fired < requests and time.monotonic() < until and (not added_mb or added_mb[-1] < STOP_AT_MB):
            for _ in range(max(requests // PARTS, 1)):
                names += fired % NAMES_EVERY == 0
                fails = fired % 50 == 0
                number = names if fired % NAMES_EVERY == 0 else int(chance.random() * names)
                fire(request_type="GET", name=f"/item/{number}", response_time=chance.lognormvariate(4, 1),
                     response_length=1000, response=failed if fails else passed, context={}, start_time=0.0,
                     exception=ValueError("failed") if fails else None, url="http://127.0.0.1/")  # fmt: skip
                fired += 1
                if per_interval and fired % per_interval == 0:
                    candidate.end_interval()
                if fired % 20_000 == 0 and time.monotonic() > until:
                    break
            added_mb.append(rss_mb() - before_mb)
        with contextlib.suppress(Exception):
            candidate.close()
    return {"before_mb": before_mb, "added_mb": added_mb, "requests": fired, "names": names}


def run_all(quick):
    """The figures by candidate, and the reasons why there are none."""
    requests, seconds = (200_000, 4) if quick else (REQUESTS, 150)
    figures, failed = {}, {}
    for candidate in COMPARED:
        progress(f"memory: {candidate.label}")
        command = [sys.executable, __file__, "--here", candidate.key, str(requests), str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            failed[candidate.key] = (done.stderr.strip().splitlines() or ["it failed"])[-1]
        else:
            figures[candidate.key] = json.loads(done.stdout.splitlines()[-1])
    return figures, failed, requests


def measure(quick):
    """The table."""
    figures, failed, requests = run_all(quick)
    result = Table(
        "Memory: MB added by requests with ever new names",
        ["", "requests", "names", "whole process before", "after a tenth", "after half", "at the end", "most"],
    )
    for candidate in COMPARED:
        if candidate.key in failed:
            result.failed(candidate.label, failed[candidate.key])
            continue
        added, done, names = (figures[candidate.key][what] for what in ("added_mb", "requests", "names"))
        moments = added[(len(added) - 1) // 10], added[(len(added) - 1) // 2], added[-1], max(added)
        before_mb = figures[candidate.key]["before_mb"]
        label = candidate.label + (" (stopped)" if done < requests else "")
        result.rows.append([label, f"{done:,}", f"{names:,}", f"{before_mb:,.0f}", *(f"{mb:+,.1f}" for mb in moments)])
        if candidate is peers.Ours:
            what = f"resident memory added by {done:,} requests with {names:,} names"
            result.budgets.append(Budget(what, max(added), BUDGET_MB, GOAL_MB, " MB"))
    result.note(
        f"At {REQUESTS_PER_S:,} requests a second and the candidate's own interval: a report every so many requests."
        f" Stopped is who has added {STOP_AT_MB:,} MB, or has not come further in the time that the benchmark gives it;"
        " a tenth and half are those of its own requests. One run each: memory is not as noisy as times are. Locust's"
        " own statistics are measured without a candidate, the candidates without Locust's statistics."
    )
    return [result]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--here", nargs=3)
        name, number, duration = parser.parse_args().here
        print(json.dumps(measure_here(name, int(number), float(duration))))
    else:
        main(__doc__, measure)
