"""What a flush holds up: the longest gap of a greenlet that wants to run every millisecond, and response times.

``python benchmarks/flush.py`` has each candidate send 100, 1,000 and 10,000 things at once to a server in another
process, in fresh processes by turns. Ours are events of a window, made and delivered as the reporter does it; the naive
listener's are its events, sent by one call of the SDK; OpenTelemetry's are series of a histogram. The gap with nothing
to do is measured beside it. Then users ask a server, some 500 times a second, with and without flushes of 1,000 things
going on, and the response times are those that Locust measures.
"""

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import time

import gevent
import peers
from locust import FastHttpUser, constant_pacing, task
from locust.env import Environment
from locust.event import Events
from results import Budget, Table, main, progress, ratios, spread
from servers import Sink, Target, pin

NUMBERS = (100, 1_000, 10_000)
COMPARED = (peers.Ours, peers.Naive, peers.Otel, peers.LocustTelemetry)
USERS, PACE_S = 50, 0.1
NUM_DURING_REQUESTS = 1_000
PAUSE_S = 0.2
"""Between two flushes while users ask."""
BUDGET_MS, GOAL_MS = 5, 3


class Ticker:
    """Wants to run every millisecond, and notes by how much it was late."""

    def __init__(self):
        self._late_s = []
        self._greenlet = gevent.spawn(self._run)

    def _run(self):
        last = time.perf_counter()
        while True:
            gevent.sleep(0.001)
            now = time.perf_counter()
            self._late_s.append(now - last - 0.001)
            last = now

    def longest_ms(self, wait):
        """The longest gap while *wait* runs, and the 99.9th percentile."""
        gevent.sleep(0.01)
        self._late_s.clear()
        wait()
        gevent.sleep(0.002)  # it notes the last gap when it runs again
        late = sorted(self._late_s)
        return 1000 * late[-1], 1000 * late[int(0.999 * len(late))]

    def close(self):
        """Run no more."""
        self._greenlet.kill()


def make(key, sink):
    """The candidate, and what it does at the end of an interval."""
    if key == "ours":
        candidate = peers.Ours(sink, max_series=max(NUMBERS))
        return candidate, candidate.deliver
    candidate = peers.BY_KEY[key](sink)
    return candidate, candidate.end_interval


def measure_here(key, seconds):
    """One repetition of a candidate, in this process."""
    with Sink(core=1) as sink, Target(core=1) as target:
        pin(0)
        candidate, flush = make(key, sink)
        candidate.fill(100)
        flush()  # the connection is there
        gaps = [gap(candidate, flush, number) for number in NUMBERS]
        without = response_times(target, seconds)
        during = response_times(target, seconds, candidate, flush)
        candidate.close()
    return {"gaps": gaps, "without": without, "with": during}


def gap(candidate, flush, number):
    """Of a flush of about so many things: how many they were, and the longest gap in ms, beside that of doing nothing.

    Twice, since the first time whatever is allocated is new.
    """
    ticker = Ticker()
    flushes, idle = [], []
    for _ in range(2):
        sent = candidate.fill(number)
        idle.append(ticker.longest_ms(lambda: gevent.sleep(0.5))[0])
        begun = time.perf_counter()
        flushes.append(ticker.longest_ms(flush)[0])
        took_ms = (time.perf_counter() - begun) * 1000
    ticker.close()
    return {"sent": sent, "gap_ms": min(flushes), "idle_ms": min(idle), "took_ms": took_ms}


class Collections:
    """How long each full collection of the garbage collector took, in s, since this was made."""

    def __init__(self):
        self.seconds = []
        self._begun = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase, info):
        if phase == "start":
            self._begun = time.perf_counter()
        elif info["generation"] == 2:
            self.seconds.append(time.perf_counter() - self._begun)

    def close(self):
        """Note no more."""
        gc.callbacks.remove(self._note)


class Visitor(FastHttpUser):
    """Asks ten times a second, at a moment of its own."""

    abstract = True
    wait_time = constant_pacing(PACE_S)

    def on_start(self):
        gevent.sleep(random.uniform(0, PACE_S))

    @task
    def ask(self):
        self.client.get("/")


def response_times(target, seconds, candidate=None, flush=None):
    """Locust's response times in ms (p50, p99 and the longest), while flushes go on if there is a candidate.

    And how many ms each full collection of the garbage collector took meanwhile.
    """
    environment = Environment(events=Events(), user_classes=[type("Asking", (Visitor,), {"host": target.url})])
    times_ms = []
    environment.events.request.add_listener(lambda response_time, **_: times_ms.append(response_time))
    runner = environment.create_local_runner()
    runner.start(USERS, USERS)
    gevent.sleep(0.5)  # all of them have a connection
    gc.collect()  # so that the next one is not due for what went before
    gevent.sleep(0.2)
    times_ms.clear()
    collections = Collections()
    begun = time.perf_counter()
    while time.perf_counter() < begun + seconds:
        if flush is not None:
            candidate.fill(NUM_DURING_REQUESTS, pause=lambda: gevent.sleep(0.0005))
            flush()
        gevent.sleep(PAUSE_S)
    collections.close()
    ordered = sorted(times_ms)
    runner.quit()
    return {
        "seconds": time.perf_counter() - begun,
        "ms": [ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99, 1)],
        "collections_ms": [1000 * duration_s for duration_s in collections.seconds],
    }


def repeat(quick):
    """The figures of all repetitions by candidate, and the reasons why there are none."""
    repetitions, seconds = (1, 0.5) if quick else (5, 5)
    figures, failed = {candidate.key: [] for candidate in COMPARED}, {}
    for number in range(repetitions):
        for candidate in COMPARED[number % 4 :] + COMPARED[: number % 4]:
            if candidate.key in failed:
                continue
            progress(f"flush: {candidate.label}, {number + 1} of {repetitions}")
            command = [sys.executable, __file__, "--here", candidate.key, str(seconds)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                failed[candidate.key] = (done.stderr.strip().splitlines() or ["it failed"])[-1]
            else:
                figures[candidate.key].append(json.loads(done.stdout.splitlines()[-1]))
    return figures, failed


def measure(quick):
    """The tables."""
    figures, failed = repeat(quick)
    return [gaps_table(figures, failed), times_table(figures, failed)]


def gaps_table(figures, failed):
    """How long the loop is held."""
    result = Table(
        "What a flush holds up: the longest gap, in ms",
        ["", "things sent", "gap", "with nothing to do", "ratio", "whole flush"],
    )
    for candidate in COMPARED:
        if candidate.key in failed:
            result.failed(candidate.label, failed[candidate.key])
            continue
        seen = set()
        for index in range(len(NUMBERS)):
            gaps = [figure["gaps"][index] for figure in figures[candidate.key]]
            sent = gaps[0]["sent"]
            if sent in seen:
                continue
            seen.add(sent)
            gap_ms, idle_ms = ([one[what] for one in gaps] for what in ("gap_ms", "idle_ms"))
            took = statistics.median(one["took_ms"] for one in gaps)
            result.rows.append([candidate.label, f"{sent:,}", spread(gap_ms, 1), spread(idle_ms, 1),
                                spread(ratios(gap_ms, idle_ms), 1), f"{took:,.0f}"])  # fmt: skip
            if candidate is peers.Ours:
                beyond = statistics.median(gap - idle for gap, idle in zip(gap_ms, idle_ms, strict=True))
                what = f"longest stall from a flush of {sent:,} events, beyond the gap with nothing to do"
                result.budgets.append(Budget(what, beyond, BUDGET_MS, GOAL_MS, " ms"))
    result.note(
        "Ours and the naive listener's are events, those of OpenTelemetry series of a histogram; Locust's `--otel`"
        " keeps 20 names apart, so it has no more of them. Ours are those of one window, with two status codes at each"
        " endpoint; by default it has 1,000 endpoints at the most, some 3,000 events, and here as many as it takes. A"
        " gap is the shorter one of two flushes in a process."
    )
    return result


def times_table(figures, failed):
    """Response times with and without."""
    result = Table(
        f"Response times that Locust measures while {NUM_DURING_REQUESTS:,} things are flushed again and again, in ms",
        ["", "p50 without", "p50 with", "p99 without", "p99 with", "p99 ratio", "longest without", "longest with",
         "collections a minute without", "with"],
    )  # fmt: skip
    collections_ms = []
    for candidate in COMPARED:
        if candidate.key in failed:
            result.failed(candidate.label, failed[candidate.key])
            continue
        without, during = ([one[what] for one in figures[candidate.key]] for what in ("without", "with"))
        cells = []
        for index in range(3):
            before, after = ([one["ms"][index] for one in times] for times in (without, during))
            cells += [f"{statistics.median(before):.1f}", f"{statistics.median(after):.1f}"]
            if index == 1:
                cells.append(spread(ratios(after, before)))
        for times in (without, during):
            collections_ms += [ms for one in times for ms in one["collections_ms"]]
            per_s = sum(len(one["collections_ms"]) / one["seconds"] for one in times) / len(times)
            cells.append(f"{60 * per_s:.0f}")
        result.rows.append([candidate.label, *cells])
    held = f"each held all greenlets, for {spread(collections_ms, 0)} ms." if collections_ms else "there was none."
    result.note(
        f"{USERS} users ask {1 / PACE_S:g} times a second each; a flush every {PAUSE_S:g} s or when the last one is"
        " over, far more often than in a test. The requests that make the things to send are fired in between, 20 at a"
        " time, which costs something with every candidate. Collections are full ones of Python's garbage collector,"
        f" which Locust alone has as well; {held}"
    )
    return result


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--here", nargs=2)
        name, duration = parser.parse_args().here
        print(json.dumps(measure_here(name, float(duration))))
    else:
        main(__doc__, measure)
