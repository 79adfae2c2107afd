"""What a saturated Locust process does with a candidate, as a ratio to what it does alone.

``python benchmarks/throughput.py`` runs the real ``locust`` command with ``FastHttpUser`` against a target that is
faster than it is, Locust on one core, all others (target, sink and master) on another. Before and after each run with a
candidate is one of Locust alone, and the ratio is to the mean of both. A candidate that listens to requests on workers
only is measured on a worker, beside a bare worker, and so is this package, once more. This package has two turns where
others have one: what it costs is less than what two runs of the same differ by.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import peers
from results import Budget, Table, main, progress, ratios, spread
from servers import Sink, Target, pin

HERE = Path(__file__).parent
USERS = 20
WARM_UP_S = 2
BUDGET, GOAL = 0.985, 0.995
LOCALLY = (peers.Empty, peers.Ours, peers.Naive, peers.Otel)
ON_A_WORKER = (peers.Ours, peers.LocustTelemetry)


class FailedRunError(Exception):
    """A run of Locust went wrong; says how."""


class Runs:
    """Runs of Locust: what they did, and what the target did in the meantime."""

    def __init__(self, target, sink, seconds):
        self._target, self._sink, self._seconds = target, sink, seconds
        self.target_shares = []
        """Of a core, in each run."""

    def run(self, candidate, *, on_worker):
        """One run; returns ``wall_s cpu_s requests`` of the process with the users."""
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "figures.json"
            roles = [["--master"], ["--worker"]] if on_worker else [[]]
            port = peers.free_port()
            before_s, arrived = self._target.cpu_s, self._arrived()
            processes = [self._start(candidate, role, port, folder, output) for role in roles]
            said = self._wait(processes)
            if not output.exists():
                last = next((line for text in reversed(said) for line in reversed(text.splitlines()) if line), "")
                msg = f"Locust ended with {processes[-1].returncode}: {last[:150]}"
                raise FailedRunError(msg)
            figures = json.loads(output.read_text())
            if candidate.interval_s and self._arrived() == arrived:
                msg = "nothing arrived of what it should have reported"
                raise FailedRunError(msg)
        self.target_shares.append((self._target.cpu_s - before_s) / figures["wall_s"])
        return figures

    def _wait(self, processes):
        """Until all of them have ended; returns what each has said."""
        try:
            return [process.communicate(timeout=self._seconds + 60)[0] for process in processes]
        except subprocess.TimeoutExpired:
            msg = f"Locust did not end within {self._seconds + 60} s"
            raise FailedRunError(msg) from None
        finally:
            for process in processes:
                process.kill()  # nothing, if it has ended

    def _arrived(self):
        counts = self._sink.counts()
        return counts["posts"] + counts["exports"]

    def _start(self, candidate, role, port, folder, output):
        command = [sys.executable, "-m", "locust", "-f", str(HERE / "saturate.py"), "--headless", "--host",
                   self._target.url, "--only-summary", "--loglevel", "ERROR", *role]  # fmt: skip
        if role == ["--worker"]:
            command.remove("--headless")
            command += ["--master-host", "127.0.0.1", "--master-port", str(port)]
        else:
            command += ["-u", str(USERS), "-r", str(USERS), "--run-time", str(WARM_UP_S + self._seconds + 1)]
        if role == ["--master"]:
            command += ["--expect-workers", "1", "--master-bind-host", "127.0.0.1", "--master-bind-port", str(port)]
        variables = {"BENCHMARK_CANDIDATE": candidate.key, "BENCHMARK_OUTPUT": str(output),
                     "BENCHMARK_WARM_UP_S": str(WARM_UP_S), "BENCHMARK_SECONDS": str(self._seconds),
                     "OTEL_PYTHON_LOG_LEVEL": "error"}  # fmt: skip
        process = subprocess.Popen(
            command + candidate.arguments(self._sink), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env=os.environ | variables | candidate.variables(self._sink),
        )  # fmt: skip
        pin(1 if role == ["--master"] else 0, process.pid)
        return process


def per_second(figures):
    """Requests a second."""
    return figures["requests"] / figures["wall_s"]


def per_ten_thousand(figures):
    """Seconds of CPU for 10,000 requests."""
    return figures["cpu_s"] / figures["requests"] * 10_000


class Comparison:
    """The runs of one candidate, each between two of Locust alone."""

    def __init__(self, candidate, *, on_worker):
        self.candidate, self.on_worker = candidate, on_worker
        self.label = candidate.label + (", on a worker" if on_worker else "")
        self.reason = None
        self._runs, self._bare = [], []

    def add(self, before, figures, after):
        """Note a run, and the bare ones around it."""
        self._runs.append(figures)
        self._bare.append((before, after))

    def ratios(self, figure):
        """Of that figure, to the mean of the bare runs around it."""
        bare = [(figure(before) + figure(after)) / 2 for before, after in self._bare]
        return ratios(map(figure, self._runs), bare)

    def row(self):
        """Of the table."""
        return [self.label, spread(map(per_second, self._runs), 0), spread(self.ratios(per_second), 3),
                spread(map(per_ten_thousand, self._runs)), spread(self.ratios(per_ten_thousand), 3)]  # fmt: skip


def compare(runs, comparisons, bare_runs, number, repetitions):
    """One repetition: all candidates in turn, with a bare run around each; this package once more at the end."""
    on_worker = comparisons[0].on_worker
    before = runs.run(peers.Bare, on_worker=on_worker)
    bare_runs.append(before)
    turned = comparisons[number % len(comparisons) :] + comparisons[: number % len(comparisons)]
    turned += [comparison for comparison in comparisons if comparison.candidate is peers.Ours]
    for comparison in turned:
        if comparison.reason is not None:
            continue
        progress(f"throughput: {comparison.label}, {number + 1} of {repetitions}")
        try:
            figures = runs.run(comparison.candidate, on_worker=on_worker)
        except FailedRunError as error:
            comparison.reason = str(error)
            continue
        after = runs.run(peers.Bare, on_worker=on_worker)
        bare_runs.append(after)
        comparison.add(before, figures, after)
        before = after


def measure(quick):
    """The table."""
    repetitions, seconds = (1, 2) if quick else (4, 10)
    locally = [Comparison(candidate, on_worker=False) for candidate in LOCALLY]
    on_a_worker = [Comparison(candidate, on_worker=True) for candidate in ON_A_WORKER]
    bare = {"Locust alone": [], "Locust alone, a worker": []}
    with Target(core=1) as target, Sink(core=1) as sink:
        runs = Runs(target, sink, seconds)
        for number in range(repetitions):
            for comparisons, bare_runs in zip((locally, on_a_worker), bare.values(), strict=True):
                compare(runs, comparisons, bare_runs, number, repetitions)
        arrived = sink.counts()
    return [table(bare, locally + on_a_worker, runs, seconds, arrived)]


def table(bare, comparisons, runs, seconds, arrived):
    """What came out."""
    result = Table(
        "A saturated process",
        ["", "requests/s", "ratio of requests/s", "CPU s per 10,000", "ratio of CPU per request"],
    )
    for label, figures in bare.items():
        rate, cpu_s = spread(map(per_second, figures), 0), spread(map(per_ten_thousand, figures))
        result.rows.append([label, rate, "1", cpu_s, "1"])
    for comparison in comparisons:
        if comparison.reason is None:
            result.rows.append(comparison.row())
        else:
            result.failed(comparison.label, comparison.reason)
    for comparison in comparisons:
        if comparison.candidate is peers.Ours and comparison.reason is None:
            what = f"requests/s of a saturated process{', a worker' * comparison.on_worker}, of Locust alone"
            result.budgets.append(
                Budget(what, statistics.median(comparison.ratios(per_second)), BUDGET, GOAL, at_least=True)
            )
    busy = [figures["cpu_s"] / figures["wall_s"] for all_figures in bare.values() for figures in all_figures]
    result.notes += [
        f"{USERS} users without a pause, 20 endpoints, 2 % errors, {seconds} s for each run; medians with least and"
        f" most. Locust alone used {min(busy):.0%} of its core at the least, the target"
        f" {max(runs.target_shares):.0%} of the other at the most: "
        + (
            "it is Locust that is saturated."
            if min(busy) > 0.9
            else "LOCUST HAD NOT ALL OF IT, something else ran there: do not quote this."
        )
        + " CPU is that of the process with the users, all threads included. With `HttpUser` in place of"
        " `FastHttpUser`, Locust's `--otel` would make a span of each request as well.",
        f"Each candidate reports as it does by default. The sink got {arrived['events']:,} events in"
        f" {arrived['posts']:,} POSTs, and {arrived['exports']:,} exports of OpenTelemetry."
        + (" The runs are shorter than the intervals, so most of the sending is at the end." if seconds < 10 else ""),
    ]
    return result


if __name__ == "__main__":
    main(__doc__, measure)
