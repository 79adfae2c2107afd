"""How far percentiles are from the exact ones, in what arrives at the other side.

``python benchmarks/accuracy.py`` records the same response times with each candidate and computes p50, p95, p99 and
p99.9 from what it reports: ours are attributes of its events, Locust's own are those of its statistics, and those of
OpenTelemetry are interpolated within the buckets that arrive, as a backend does it (beyond the last bound up to the
largest value, which arrives as well). The exact ones are NumPy's.
"""

import math
import random

import numpy
import peers
from results import Budget, Table, main, progress
from servers import Sink

FRACTIONS = (0.5, 0.95, 0.99, 0.999)
ATTRIBUTES = ("median_response_time", "response_time_p95", "response_time_p99", "response_time_p999")
BUDGET, GOAL = 1.0, 0.5
LONGEST_MS = 3_600_000.0


def lognormal(chance):
    """Around 55 ms, with a tail to seconds."""
    return chance.lognormvariate(4, 1)


def bimodal(chance):
    """Four of five from a cache, in 5 ms; the others in 800 ms."""
    middle_ms, width = (5, 0.2) if chance.random() < 0.8 else (800, 0.3)
    return chance.lognormvariate(math.log(middle_ms), width)


def heavy_tailed(chance):
    """Pareto: from 2 ms to an hour."""
    return min(2 * chance.paretovariate(1.1), LONGEST_MS)


SHAPES = (lognormal, bimodal, heavy_tailed)


def label_of(shape):
    """What it is called."""
    return shape.__name__.replace("_", "-")


def of_locust(bare, name):
    """Those of Locust's statistics."""
    entry = bare.environment.stats.get(name, "GET")
    return [entry.get_response_time_percentile(fraction) for fraction in FRACTIONS]


def of_events(events, name):
    """Those in our events."""
    (event,) = (one for one in events if one["eventType"] == "LocustRequestStatistics" and one["name"] == name)
    return [event[attribute] for attribute in ATTRIBUTES]


def of_histogram(histogram):
    """Those that a backend can compute from the buckets, in ms."""
    to_ms = 1000.0 if histogram["unit"] == "s" else 1.0
    lows = [histogram["min"], *histogram["bounds"]]
    highs = [*histogram["bounds"], histogram["max"]]
    return [to_ms * _in_buckets(histogram["counts"], lows, highs, fraction) for fraction in FRACTIONS]


def _in_buckets(counts, lows, highs, fraction):
    rank, below = fraction * sum(counts), 0
    for count, low, high in zip(counts, lows, highs, strict=True):
        if count and below + count >= rank:
            return low + (high - low) * (rank - below) / count
        below += count
    return highs[-1]


def histogram_of(histograms, name):
    """The one with the requests of that name."""
    return next(one for one in histograms if name in (one["attributes"].get("name"), one["attributes"].get("endpoint")))


def record(candidate, samples):
    """Fire the response times, each shape under a name of its own."""
    fire = candidate.hook(with_locust=candidate.key == "bare").fire
    passed, _ = peers.responses()
    for name, times_ms in samples.items():
        for response_time in times_ms:
            fire(request_type="GET", name=name, response_time=response_time, response_length=1, response=passed,
                 exception=None, context={}, start_time=0.0, url="")  # fmt: skip


def figures_of(candidate, samples, sink):
    """The percentiles by name."""
    record(candidate, samples)
    if candidate.key == "bare":
        return {name: of_locust(candidate, name) for name in samples}
    if candidate.key == "ours":
        events = candidate.events()
        return {name: of_events(events, name) for name in samples}
    candidate.end_interval()
    histograms = sink.histograms()
    return {name: of_histogram(histogram_of(histograms, name)) for name in samples}


def errors(figures, exact):
    """Relative errors in %."""
    return [100 * abs(figure - true) / true for figure, true in zip(figures, exact, strict=True)]


def error_text(error):
    """With two digits that count."""
    return f"{error:,.0f}" if error >= 10 else f"{error:.2f}"


def measure(quick):
    """The table."""
    number = 20_000 if quick else 200_000
    chance = random.Random(11)
    samples = {label_of(shape): [shape(chance) for _ in range(number)] for shape in SHAPES}
    exact = {name: numpy.quantile(times_ms, FRACTIONS) for name, times_ms in samples.items()}
    result = Table(
        "Accuracy: relative error of p50 / p95 / p99 / p99.9, in %",
        ["percentiles of", *samples],
    )
    with Sink() as sink:
        started, failed = peers.start(sink, peers.Bare, peers.Ours, peers.Otel, peers.LocustTelemetry)
        for candidate in (peers.Bare, peers.Ours, peers.Otel, peers.LocustTelemetry):
            label = "Locust's own statistics" if candidate is peers.Bare else candidate.label
            if candidate.key in failed:
                result.failed(label, failed[candidate.key])
                continue
            progress(f"accuracy: {label}")
            figures = figures_of(started[candidate.key], samples, sink)
            by_name = {name: errors(figures[name], exact[name]) for name in samples}
            result.rows.append([label, *(" / ".join(map(error_text, by_name[name])) for name in samples)])
            if candidate is peers.Ours:
                worst = max(map(max, by_name.values()))
                result.budgets.append(Budget("largest error of a percentile", worst, BUDGET, GOAL, " %"))
        for candidate in started.values():
            candidate.close()
    result.rows.append([peers.Naive.label, *["exact"] * len(samples)])
    result.note(
        f"{number:,} response times of each shape: lognormal around 55 ms; bimodal, 5 ms and 800 ms; heavy-tailed, from"
        " 2 ms to an hour. Nothing here depends on the machine. An event per request arrives as it was; each is stored."
    )
    return [result]


if __name__ == "__main__":
    main(__doc__, measure)
