"""What a listener adds to a request, as a ratio to Locust's own statistics on the same requests.

``python benchmarks/request_hook.py`` fires Locust's ``events.request`` for requests of 20 and of 200 endpoints, 2 % of
them failed, with a real ``FastHttpUser`` response. The candidates take turns in short rounds, in random order, and
ratios are taken within a block of rounds: what else the machine does hits them all alike. All of it is repeated in
fresh processes, since the layout of memory differs from one to the next. Counted is everything that a request costs:
the listener, and its share of what is done when an interval ends, as CPU time. For that the candidate's own default
interval counts, at 4,000 requests a second.
"""

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import time

import peers
from peers import REQUESTS_PER_S
from results import Budget, Table, main, progress, spread
from servers import Sink, pin

REQUESTS_PER_ROUND = 500
ROUNDS_PER_BLOCK = 40
"""Ratios are those of blocks: what happens for every thousandth request of a kind only must be in each of them."""
BUDGET, GOAL = 0.30, 0.22


class Turns:
    """The seconds of one candidate, round by round, and the CPU seconds of its intervals' ends."""

    def __init__(self, candidate, *, with_locust=True):
        self.candidate = candidate
        self.fire = candidate.hook(with_locust=with_locust).fire
        self.per_interval = int(candidate.interval_s * REQUESTS_PER_S)
        self.seconds, self.ends_s = [], []
        self._fired = 0

    def round(self, requests):
        """Fire the requests."""
        fire = self.fire
        begun = time.perf_counter()
        for request in requests:
            fire(**request)
        self.seconds.append(time.perf_counter() - begun)
        self._fired += len(requests)
        if self.per_interval and self._fired >= self.per_interval:
            self.end_interval()

    def end_interval(self):
        """What is due then."""
        begun = time.process_time()
        self.candidate.end_interval()
        self.ends_s.append(time.process_time() - begun)
        self._fired = 0

    @property
    def later_ns(self):
        """Per request, of the intervals' ends."""
        if not self.per_interval:
            return 0.0
        if not self.ends_s:  # its interval is longer than all of this took; the cost does not depend on the requests
            self.end_interval()
        return statistics.median(self.ends_s) / self.per_interval * 1e9

    def blocks(self):
        """The nanoseconds per request of each block of rounds."""
        starts = range(0, len(self.seconds) - ROUNDS_PER_BLOCK + 1, ROUNDS_PER_BLOCK)
        requests = ROUNDS_PER_BLOCK * REQUESTS_PER_ROUND
        return [sum(self.seconds[start : start + ROUNDS_PER_BLOCK]) / requests * 1e9 for start in starts]


def measure_here(endpoints, rounds):
    """One repetition, in this process: plain figures."""
    with Sink(core=1) as sink:
        pin(0)
        started, failed = peers.start(sink, *peers.ALL, endpoints=endpoints)
        nobody = Turns(peers.Bare(), with_locust=False)
        turns = {"nobody": nobody} | {key: Turns(candidate) for key, candidate in started.items()}
        take_turns(turns, peers.make_requests(20_000, endpoints), rounds)
        figures = {"failed": failed, "of": {key: figures_of(turns[key], turns) for key in started if key != "bare"}}
        ours = started["ours"]
        per_window = turns["ours"].per_interval
        figures["window_ns"] = [seconds / per_window * 1e9 for seconds in ours.later_s()]
        figures["longest_step_ms"] = ours.longest_step_s * 1000
        figures["own_ns"] = statistics.median(own_ns(turns))
        for candidate in started.values():
            candidate.close()
    return figures


def take_turns(turns, requests, rounds):
    """Let all of them fire the same requests, in short rounds and random order."""
    order = list(turns.values())
    gc.collect()
    gc.disable()
    for number in range(rounds):
        start = number * REQUESTS_PER_ROUND % len(requests)
        random.shuffle(order)
        for turn in order:
            turn.round(requests[start : start + REQUESTS_PER_ROUND])
        if number % 20 == 19:
            gc.collect()
    gc.enable()


def own_ns(turns):
    """What Locust's own statistics cost, block by block."""
    pairs = zip(turns["bare"].blocks(), turns["nobody"].blocks(), strict=True)
    return [locust_ns - nobody_ns for locust_ns, nobody_ns in pairs]


def figures_of(turn, turns):
    """Of a candidate: nanoseconds added, nanoseconds later, and its ratio without what comes later, all by block."""
    added = [ns - bare_ns for ns, bare_ns in zip(turn.blocks(), turns["bare"].blocks(), strict=True)]
    return {"added_ns": statistics.median(added), "later_ns": turn.later_ns, "by_block_ns": added,
            "own_by_block_ns": own_ns(turns)}  # fmt: skip


def ratios_of(figures, later_ns):
    """A ratio to Locust's own statistics for each block."""
    pairs = zip(figures["by_block_ns"], figures["own_by_block_ns"], strict=True)
    return [(added + later_ns) / own for added, own in pairs]


def repeat(endpoints, processes, rounds):
    """The figures of so many fresh processes."""
    all_figures = []
    for number in range(processes):
        progress(f"request hook: {endpoints} endpoints, process {number + 1} of {processes}")
        command = [sys.executable, __file__, "--here", str(endpoints), str(rounds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        all_figures.append(json.loads(done.stdout.splitlines()[-1]))
    return all_figures


def table(endpoints, all_figures):
    """Medians over the processes of medians over their blocks; least and most of the processes."""
    result = Table(
        f"A request, with {endpoints} endpoints",
        ["listener beside Locust's statistics", "ns at once", "ns later", "ratio", "per request: least to most"],
    )
    own = statistics.median(figures["own_ns"] for figures in all_figures)
    result.rows.append(["Locust's own statistics", f"{own:,.0f}", "", "1.00", ""])
    for candidate in peers.ALL[1:]:
        row(result, candidate, [figures["of"].get(candidate.key) for figures in all_figures], all_figures)
    ours(result, all_figures)
    return result


def row(result, candidate, of_candidate, all_figures):
    """The row of a candidate."""
    if None in of_candidate:
        reason = next(figures["failed"].get(candidate.key, "it failed") for figures in all_figures)
        result.failed(candidate.label, reason)
        return
    ratios = [statistics.median(ratios_of(figures, figures["later_ns"])) for figures in of_candidate]
    added, later = (statistics.median(one[what] for one in of_candidate) for what in ("added_ns", "later_ns"))
    result.rows.append(
        [candidate.label, f"{added:,.0f}", f"{later:,.0f}", f"{statistics.median(ratios):.2f}",
         f"{min(ratios):.2f} to {max(ratios):.2f}"]
    )  # fmt: skip


def ours(result, all_figures):
    """The budget, and what is behind it."""
    count_ns, events_ns = (
        statistics.median(figures["window_ns"][index] for figures in all_figures) for index in (0, 1)
    )
    ratios = [statistics.median(ratios_of(figures["of"]["ours"], sum(figures["window_ns"]))) for figures in all_figures]
    longest = max(figures["longest_step_ms"] for figures in all_figures)
    result.budgets.append(
        Budget(
            f"request hook with its window's end, of Locust's own statistics, {len_of(result)}",
            statistics.median(ratios),
            BUDGET,
            GOAL,
        )
    )
    result.note(
        f"“Later” is a request's share of what its interval's end costs, sending over TLS or gRPC included, as CPU"
        f" time at {REQUESTS_PER_S:,} requests a second and the candidate's own interval. Of ours,"
        f" {count_ns:.0f} ns are for counting what was left (in steps of {longest:.1f} ms at the most) and"
        f" {events_ns:.0f} ns for making the events; the budget is for the listener and these two:"
        f" {spread(ratios)} of Locust's own statistics."
    )
    result.note(
        "Locust's `--otel` keeps 20 names apart and puts further ones together; locust-telemetry listens to requests"
        " on workers only."
    )


def len_of(result):
    """By which the tables differ."""
    return result.title.removeprefix("A request, with ")


def measure(quick):
    """The tables."""
    processes, rounds = (1, 120) if quick else (7, 320)
    return [table(endpoints, repeat(endpoints, processes, rounds)) for endpoints in (20, 200)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--here", nargs=2, type=int)
        print(json.dumps(measure_here(*parser.parse_args().here)))
    else:
        main(__doc__, measure)
