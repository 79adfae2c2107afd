"""What a saturated Locust process does with a candidate, as a ratio to what it does alone.

``python benchmarks/throughput.py`` runs the real ``locust`` command with ``FastHttpUser`` against a target that is
faster than it is. Two processes, one with the candidate and one of Locust alone, share a core by turns of a fraction of
a second: one runs while the other is stopped. What a noisy machine does to one of them it does to the other, too: two
of Locust alone differ by tenths of a percent, where runs one after the other differ by several. All others (target,
sink and masters) are on another core. Where a process's objects happen to lie in memory makes as much of a difference
as this package does, so each process moves them (``saturate.py``), and what counts is the median of many pairs.

The clock goes on while a process is stopped. So that what is done by the clock is done as often in the time that it
runs as in a process that has the core for itself, all intervals are longer: those of the candidates, and that of a
worker's reports.

A candidate that listens to requests on workers only is measured on a worker, beside a bare worker, and so is this
package, once more. Of this package there are more pairs than of others: what it costs is less than what pairs differ
by.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import peers
from results import Budget, Table, main, progress, ratios, spread
from servers import Sink, Target, pin

HERE = Path(__file__).parent
USERS = 20
TURN_S = 0.2
SHARED_BY = 2
"""Processes that share a core: each of them runs for so small a part of the time."""
LONGEST_START_S, LONGEST_END_S = 60, 60
BUDGET, GOAL = 0.985, 0.995
MORE_OF_OURS = 6
LOCALLY = (peers.Bare, peers.Empty, peers.Ours, peers.Naive, peers.Otel)
ON_A_WORKER = (peers.Ours, peers.LocustTelemetry)


class FailedRunError(Exception):
    """A run of Locust went wrong; says how."""


class Locust:
    """A process with users (with *on_worker*, a worker, and its master), which runs by turns once it is warm."""

    def __init__(self, candidate, target, sink, folder, *, on_worker):
        self._output, self._said = Path(folder) / "turns.json", Path(folder) / "said.txt"
        command = [sys.executable, "-m", "locust", "-f", str(HERE / "saturate.py"), "--host", target.url,
                   "--only-summary", "--loglevel", "ERROR", *candidate.arguments(sink)]  # fmt: skip
        self._variables = os.environ | candidate.variables(sink)
        self._variables |= candidate.reporting_every(SHARED_BY * candidate.interval_s)
        self._variables |= {"BENCHMARK_CANDIDATE": candidate.key, "BENCHMARK_OUTPUT": str(self._output),
                            "BENCHMARK_SHARED_BY": str(SHARED_BY), "OTEL_PYTHON_LOG_LEVEL": "error"}  # fmt: skip
        users = ["--headless", "-u", str(USERS), "-r", str(USERS)]
        if on_worker:
            port = str(peers.free_port())
            master = ["--master", "--expect-workers", "1", "--master-bind-host", "127.0.0.1",
                      "--master-bind-port", port]  # fmt: skip
            worker = ["--worker", "--master-host", "127.0.0.1", "--master-port", port]
            self._processes = [self._start(0, command + worker), self._start(1, command + users + master)]
        else:
            self._processes = [self._start(0, command + users)]
        self._process = self._processes[0]

    def _start(self, core, command):
        with self._said.open("a") as said:
            process = subprocess.Popen(
                command, cwd=self._output.parent, stdout=said, stderr=subprocess.STDOUT, env=self._variables
            )
        pin(core, process.pid)
        return process

    def wait(self):
        """Until it has stopped: it does when it is warm, and after each turn."""
        # an end is only looked at here: its exit code is for Popen
        state = os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if state.si_code != os.CLD_STOPPED:
            raise self._failed(how="before its time")
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def take_turn(self):
        """Have it run for a while."""
        self._process.send_signal(signal.SIGCONT)
        time.sleep(TURN_S)
        self._process.send_signal(signal.SIGUSR1)
        self.wait()

    def end(self):
        """End it as a user would; returns ``wall_s cpu_s requests`` of each of its turns."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
        try:
            for process in self._processes:
                process.wait(LONGEST_END_S)
        except subprocess.TimeoutExpired:
            raise self._failed(how="not at all") from None
        if not self._output.exists():
            raise self._failed(how="without its figures")
        return json.loads(self._output.read_text())

    def kill(self):
        """End it, however it is."""
        for process in self._processes:
            process.kill()

    def close(self):
        """End it, and wait for that."""
        self.kill()
        for process in self._processes:
            process.wait()

    def _failed(self, *, how):
        last = next((line for line in reversed(self._said.read_text().splitlines()) if line.strip()), "")
        return FailedRunError(f"Locust ended {how}: {last[:150]}")


class Pairs:
    """Pairs of processes, one with a candidate and one of Locust alone: what they did, and what that takes."""

    def __init__(self, target, sink, seconds):
        self._target, self._sink, self._seconds = target, sink, seconds
        self.bare_shares, self.target_shares = [], []
        """Of a core, in each pair, of Locust alone and of the target."""

    def run(self, candidate, *, on_worker):
        """One pair; returns two lists of turns, of Locust alone and of the candidate."""
        arrived = self._arrived()
        with contextlib.ExitStack() as stack:
            pair = []
            for role in (peers.Bare, candidate):
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                pair.append(Locust(role, self._target, self._sink, folder, on_worker=on_worker))
                stack.callback(pair[-1].close)
                alarm = threading.Timer(LONGEST_START_S + self._seconds, pair[-1].kill)  # which ends a wait for it
                stack.callback(alarm.cancel)
                alarm.start()
            for process in pair:
                process.wait()
            begun_s, before_s = time.perf_counter(), self._target.cpu_s
            while time.perf_counter() - begun_s < self._seconds:
                for process in pair + pair[::-1]:
                    process.take_turn()
            self.target_shares.append((self._target.cpu_s - before_s) / (time.perf_counter() - begun_s))
            bare, figures = (process.end()[2:] for process in pair)  # the first ones are still of the start
        if candidate.interval_s and self._arrived() == arrived:
            msg = "nothing arrived of what it should have reported"
            raise FailedRunError(msg)
        self.bare_shares.append(share(bare))
        return bare, figures

    def _arrived(self):
        counts = self._sink.counts()
        return counts["posts"] + counts["exports"]


def total(turns):
    """Of all turns together, as what is done in a few of them counts as well: seconds, seconds of CPU, and requests."""
    return map(sum, zip(*turns, strict=True))


def per_second(turns):
    """Requests a second."""
    wall_s, _, requests = total(turns)
    return requests / wall_s


def per_ten_thousand(turns):
    """Seconds of CPU for 10,000 requests."""
    _, cpu_s, requests = total(turns)
    return cpu_s / requests * 10_000


def share(turns):
    """Of a core."""
    wall_s, cpu_s, _ = total(turns)
    return cpu_s / wall_s


class Comparison:
    """The pairs of one candidate."""

    def __init__(self, candidate, *, on_worker):
        self.candidate, self.on_worker = candidate, on_worker
        self.label = candidate.label + (" once more" if candidate is peers.Bare else "")
        self.label += ", on a worker" if on_worker else ""
        self.reason = None
        self._pairs = []

    @property
    def num_turns(self):
        """Of the candidate, in all pairs."""
        return sum(len(turns) for _, turns in self._pairs)

    def add(self, bare, turns):
        """Note what a pair did."""
        self._pairs.append((bare, turns))

    def bare(self, figure):
        """Of Locust alone, in each pair."""
        return [figure(bare) for bare, _ in self._pairs]

    def figures(self, figure):
        """Of the candidate, in each pair."""
        return [figure(turns) for _, turns in self._pairs]

    def ratios(self, figure):
        """Of the candidate to Locust alone, in each pair."""
        return ratios(self.figures(figure), self.bare(figure))

    def row(self):
        """Of the table."""
        return [self.label, str(len(self._pairs)), spread(self.figures(per_second), 0),
                spread(self.ratios(per_second), 3), spread(self.figures(per_ten_thousand)),
                spread(self.ratios(per_ten_thousand), 3)]  # fmt: skip

    def budget(self):
        """Of what it does beside Locust alone."""
        what = f"requests/s of a saturated process{', a worker' * self.on_worker}, of Locust alone"
        return Budget(what, statistics.median(self.ratios(per_second)), BUDGET, GOAL, at_least=True)


def measure(quick):
    """The table."""
    repetitions, seconds = (1, 2) if quick else (3, 10)
    comparisons = [Comparison(candidate, on_worker=False) for candidate in LOCALLY]
    comparisons += [Comparison(candidate, on_worker=True) for candidate in ON_A_WORKER]
    ours = [comparison for comparison in comparisons if comparison.candidate is peers.Ours]
    more = [] if quick else ours * (MORE_OF_OURS - 1)
    with Target(core=1) as target, Sink(core=1) as sink:
        pairs = Pairs(target, sink, seconds)
        for number in range(repetitions):
            for comparison in comparisons + more:
                if comparison.reason is not None:
                    continue
                progress(f"throughput: {comparison.label}, {number + 1} of {repetitions}")
                try:
                    comparison.add(*pairs.run(comparison.candidate, on_worker=comparison.on_worker))
                except FailedRunError as error:
                    comparison.reason = str(error)
        arrived = sink.counts()
    return [table(comparisons, pairs, seconds, arrived)]


def table(comparisons, pairs, seconds, arrived):
    """What came out."""
    result = Table(
        "A saturated process",
        ["", "pairs", "requests/s", "ratio of requests/s", "CPU s per 10,000", "ratio of CPU per request"],
    )
    measured = [comparison for comparison in comparisons if comparison.reason is None]
    num_turns = sum(comparison.num_turns for comparison in measured)
    for on_worker in (False, True):
        of_a_kind = [comparison for comparison in measured if comparison.on_worker is on_worker]
        rates, cpu_s = (
            [figure for comparison in of_a_kind for figure in comparison.bare(what)]
            for what in (per_second, per_ten_thousand)
        )
        if rates:
            label = "Locust alone" + ", a worker" * on_worker
            result.rows.append([label, str(len(rates)), spread(rates, 0), "1", spread(cpu_s), "1"])
    for comparison in comparisons:
        if comparison.reason is None:
            result.rows.append(comparison.row())
        else:
            result.failed(comparison.label, comparison.reason)
    result.budgets += [comparison.budget() for comparison in measured if comparison.candidate is peers.Ours]
    if not measured:
        return result
    result.notes += [
        f"{USERS} users without a pause, 20 endpoints, 2 % errors. Each pair is a process of Locust alone and one with"
        f" the candidate, which share a core for {seconds} s, by turns of {TURN_S} s; {num_turns} turns of"
        " each in all. Medians of the pairs with least and most. In its turns Locust alone had"
        f" {min(pairs.bare_shares):.0%} of its core at the least, and the target used {max(pairs.target_shares):.0%} of"
        " the other at the most: "
        + (
            "it is Locust that is saturated."
            if min(pairs.bare_shares) > 0.9
            else "LOCUST HAD NOT ALL OF IT, something else ran there: do not quote this."
        )
        + " CPU is that of the process with the users, all threads included. With"
        " `HttpUser` in place of `FastHttpUser`, Locust's `--otel` would make a span of each request as well.",
        "Each candidate reports as often as it does by default, in the time that it runs: all intervals, those of"
        f" workers' reports included, are {SHARED_BY} times as long, as the clock goes on while a process is stopped."
        f" The sink got {arrived['events']:,} events in"
        f" {arrived['posts']:,} POSTs, and {arrived['exports']:,} exports of OpenTelemetry."
        + (" The runs are shorter than the intervals, so most of the sending is at the end." if seconds < 10 else ""),
    ]
    return result


if __name__ == "__main__":
    main(__doc__, measure)
