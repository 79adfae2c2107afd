"""Windows to plain values and back: what a worker puts into Locust's report to the master.

It is additive (each report tells of its own requests only), and made of what msgpack takes. A report is input from
outside: it is checked as a whole before anything of it is used. No clock, no I/O, no Locust.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, compress, islice, pairwise, repeat
from operator import add, eq, gt, sub
from typing import TYPE_CHECKING, Any, NamedTuple

from . import plain, relay_details
from .health import Health
from .histogram import LARGEST_MS
from .plain import MalformedError
from .window import (
    LARGEST_CONTENT_LENGTH,
    LARGEST_STATUS_CODE,
    NO_BINS,
    Distinct,
    Key,
    Window,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from .histogram import Bins, Scale
    from .window import Row

KEY = "newrelic"
"""What a worker reports is under this key of Locust's report."""

RUN_OPTION = "newrelic_run"
"""The one option of ours that Locust forwards to the workers."""

VERSION = 1

NUM_OFFSETS = 20
"""The clock of a worker is judged by that many of its last reports."""


class UnknownVersionError(MalformedError):
    """A report in another version of the wire form."""


@dataclass(frozen=True)
class RunOptions:
    """What a worker has to know of a run."""

    run_id: str
    interval_s: float
    buckets_ms: tuple[int, ...]
    max_series: int
    dimensions: tuple[str, ...] = ()
    sample_rate: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As plain values, for Locust to forward."""
        return {
            "run_id": self.run_id,
            "interval": self.interval_s,
            "buckets": list(self.buckets_ms),
            "max_series": self.max_series,
            "dimensions": list(self.dimensions),
            "sample_rate": self.sample_rate,
        }

    @classmethod
    def read(cls, value: object) -> RunOptions | None:
        """What :meth:`plain` made, or None if *value* is something else."""
        try:
            fields = plain.mapping(value, "run")
            (interval_s,) = plain.numbers([fields.get("interval")], "interval", 1, 300)
            buckets_ms = plain.integers(fields.get("buckets"), 1, plain.LARGEST, "buckets")
            (max_series,) = plain.integers([fields.get("max_series")], 1, plain.LARGEST, "max_series")
            (sample_rate,) = plain.numbers([fields.get("sample_rate")], "sample_rate", 0, 1)
            return cls(
                plain.text(fields.get("run_id"), "run_id"),
                interval_s,
                tuple(buckets_ms),
                max_series,
                tuple(plain.texts(fields.get("dimensions"), "dimensions")),
                sample_rate,
            )
        except MalformedError:
            return None


class Part(NamedTuple):
    """What one process recorded in one window, or since its last report in that window."""

    run_id: str
    start_ms: int
    """When the window began, by the clock of that process."""
    buckets_ms: tuple[int, ...]
    window: Window
    health: Health
    was_reset: bool = False
    """Whether the worker's own statistics were reset afterwards, so that Locust's master never heard of these."""
    dimensions: tuple[str, ...] = ()


class Report(NamedTuple):
    """All that a worker reports at once."""

    sent_at_ms: float
    """Its wall clock."""
    parts: list[Part]
    is_partial: bool = False
    """Whether its requests are missing, to be taken from Locust's own statistics of the same time."""


def pack(report: Report) -> dict[str, Any]:
    """The report as plain values. Its numbers are in columns, which are small and quickly made, sent and checked."""
    packed = {"version": VERSION, "sent_at": report.sent_at_ms, "windows": [_pack_part(part) for part in report.parts]}
    return packed | {"partial": True} if report.is_partial else packed


def unpack(data: object, scale: Scale, dimensions: tuple[str, ...] = ()) -> Report:
    """What :func:`pack` made; its bins must be those of *scale*, and its series have those *dimensions*.

    Raises :class:`MalformedError` for anything else.
    """
    fields = plain.mapping(data, "report")
    version = fields.get("version")
    if version != VERSION or type(version) is not int:
        msg = "version"
        raise UnknownVersionError(msg)

    (sent_at_ms,) = plain.numbers([fields.get("sent_at")], "sent_at", 0, plain.LARGEST)
    parts = plain.items(fields.get("windows"), "windows")
    is_partial = plain.flag(fields.get("partial", False), "partial")
    return Report(sent_at_ms, [_unpack_part(part, scale, dimensions) for part in parts], is_partial)


def _pack_part(part: Part) -> dict[str, Any]:
    places = relay_details.places()
    keys, status_codes, values = plain.columns(part.window.rows(), 3)
    requests, failures, untimed, lengths, *times, histograms, loose = plain.columns(values, 9)
    series = list(map(places.__getitem__, keys))
    timed = list(map(sub, requests, untimed))
    details = relay_details.pack(part.window.details, places)
    methods, names, values_by_key = plain.columns(places, 3)
    return {
        "run": plain.encodable([part.run_id])[0],
        "start": part.start_ms,
        "reset": part.was_reset,
        "buckets": list(part.buckets_ms),
        "health": list(part.health),
        "hidden": part.window.hidden.hashes,
        "dimensions": list(part.dimensions),
        "names": plain.encodable([*methods, *names]),
        "values": _pack_values(values_by_key, part.dimensions),
        "details": details,
        "rows": plain.packed_columns(series, status_codes, failures, untimed, list(map(len, loose))),
        "length": _within_64_bits(lengths),
        "times": [*chain.from_iterable(compress(column, timed) for column in times)],  # of rows that have some
        # the bins of requests that are not counted yet, one by one
        "loose": plain.packed(array("H", b"".join(loose))),
        "histograms": _pack_histograms(histograms),
    }


def _pack_values(values_by_key: Iterable[tuple[str | None, ...]], dimensions: tuple[str, ...]) -> list[str]:
    """The values of dimensions of one key after the other."""
    if not dimensions:
        return []
    none = ("",) * len(dimensions)
    return plain.encodable([value or "" for values in values_by_key for value in values or none])


def _pack_histograms(histograms: Sequence[Bins]) -> dict[str, Any] | None:
    """One histogram behind the other: how many bins, which, and the count of each; None if all are empty."""
    if not any(histograms):
        return None
    return {
        "sizes": plain.packed(list(map(len, histograms))),
        "bins": plain.packed([index for bins in histograms for index in bins]),
        "counts": plain.packed([count for bins in histograms for count in bins.values()]),
    }


def _unpack_part(data: object, scale: Scale, dimensions: tuple[str, ...]) -> Part:
    fields = plain.mapping(data, "window")
    (start_ms,) = plain.integers([fields.get("start")], 0, plain.LARGEST, "start")
    if fields.get("buckets") != list(scale.limits_ms):
        msg = "buckets"
        raise MalformedError(msg)
    if fields.get("dimensions") != list(dimensions):
        msg = "dimensions"
        raise MalformedError(msg)
    was_reset = plain.flag(fields.get("reset"), "reset")
    keys = _read_keys(fields, len(dimensions))
    rows = _Rows(fields, scale, keys)
    hidden = Distinct(plain.integers(fields.get("hidden"), 0, Distinct.SPAN - 1, "hidden"))
    run_id = plain.text(fields.get("run"), "run")
    details = relay_details.unpack(fields.get("details"), keys)
    health = _unpack_health(fields.get("health"))
    return Part(run_id, start_ms, scale.limits_ms, Window(rows, hidden, details), health, was_reset, dimensions)


_new_key: Callable[[tuple[str, str, tuple[str | None, ...]]], Key] = partial(tuple.__new__, Key)
"""As ``Key._make``, in a fraction of the time: it has no check of how many they are."""


def _read_keys(fields: Mapping[str, Any], num_dimensions: int) -> list[Key]:
    """What is in the places of a report, each once."""
    texts = plain.texts(fields.get("names"), "names")
    values = plain.texts(fields.get("values"), "values")
    number, rest = divmod(len(texts), 2)
    if rest or len(values) != number * num_dimensions:
        msg = "names"
        raise MalformedError(msg)

    methods, names = texts[:number], texts[number:]
    values_by_key: Iterable[tuple[str | None, ...]] = repeat(())
    if num_dimensions:
        rows = zip(*[iter([value or None for value in values])] * num_dimensions, strict=True)
        values_by_key = [row if any(row) else () for row in rows]
    return list(map(_new_key, zip(methods, names, values_by_key)))  # noqa: B905  (as many as there are names)


def _unpack_health(data: object) -> Health:
    values = plain.numbers(data, "health", 0, plain.LARGEST)
    if len(values) != 7:
        msg = "health"
        raise MalformedError(msg)
    cpu_s, wall_s, memory_bytes, user_count, num_lags, lag_total_s, lag_max_s = values
    return Health(cpu_s, wall_s, int(memory_bytes), int(user_count), int(num_lags), lag_total_s, lag_max_s)


class _Rows:
    """The rows of a reported window, all of them checked."""

    def __init__(self, fields: Mapping[str, Any], scale: Scale, keys: list[Key]) -> None:
        series, status_codes, failures, untimed, sizes = plain.unpacked_columns(fields.get("rows"), 5, "rows")
        plain.check_highest(series, len(keys) - 1, "series")
        plain.check_highest(status_codes, LARGEST_STATUS_CODE, "status")
        lengths = plain.numbers(fields.get("length"), "length", -plain.LARGEST_SUM, plain.LARGEST_SUM)
        loose = plain.unpacked(fields.get("loose"), 1, len(scale.edges) - 1, "loose", sizes=[2])
        if len(lengths) != len(series) or len(loose) != sum(sizes):
            msg = "columns of different length"
            raise MalformedError(msg)

        histograms = _read_histograms(fields.get("histograms"), len(series), scale)
        counted = [sum(bins.values()) for bins in histograms] if any(histograms) else repeat(0)
        timed = list(map(add, sizes, counted))
        requests = list(map(add, untimed, timed))
        if any(map(gt, failures, requests)):  # Locust itself counts them apart, but this package does not
            msg = "failures"
            raise MalformedError(msg)

        pieces = [loose[start:end] for start, end in pairwise(accumulate(sizes, initial=0))]
        times = _read_times(fields.get("times"), timed)
        values = zip(requests, failures, untimed, lengths, *times, histograms, pieces, strict=True)
        self._rows: list[Row] = list(zip(map(keys.__getitem__, series), status_codes, values, strict=True))

    def __bool__(self) -> bool:
        return bool(self._rows)

    def count(self) -> Iterator[None]:
        """They are counted already."""
        return iter(())

    def rows(self) -> list[Row]:
        """All rows."""
        return self._rows

    def take_rows(self) -> Iterator[Row]:
        """All rows, which are thereby forgotten."""
        while self._rows:
            yield self._rows.pop()


def _read_histograms(data: object, num_rows: int, scale: Scale) -> list[Bins]:
    """What was counted of each row, which names no bin twice."""
    if data is None:
        return [NO_BINS] * num_rows
    fields = plain.mapping(data, "histograms")
    sizes = plain.unpacked(fields.get("sizes"), 0, len(scale.edges), "sizes")
    bins = plain.unpacked(fields.get("bins"), 1, len(scale.edges) - 1, "bins")
    counts = plain.unpacked(fields.get("counts"), 1, plain.LARGEST, "counts")
    if len(sizes) != num_rows or not len(bins) == len(counts) == sum(sizes):
        msg = "columns of different length"
        raise MalformedError(msg)

    pairs = zip(bins, counts, strict=True)
    histograms = [dict(islice(pairs, size)) if size else NO_BINS for size in sizes]
    if not all(map(eq, map(len, histograms), sizes)):
        msg = "bins"
        raise MalformedError(msg)
    return histograms


def _read_times(data: object, timed: list[int]) -> Iterator[list[float]]:
    """Total, least and most of the response times of each row; told are those of rows that have some."""
    times = plain.numbers(data, "times", 0, plain.LARGEST_SUM)
    num_timed = len(timed) - timed.count(0)
    if len(times) != 3 * num_timed:
        msg = "columns of different length"
        raise MalformedError(msg)

    lowest, highest = times[num_timed:-num_timed], times[2 * num_timed :]
    plain.check_highest(highest, LARGEST_MS, "times")
    if any(map(gt, lowest, highest)):
        msg = "min above max"
        raise MalformedError(msg)
    for column, of_none in ((times[:num_timed], 0.0), (lowest, math.inf), (highest, -math.inf)):
        told = iter(column)
        yield column if num_timed == len(timed) else [next(told) if number else of_none for number in timed]


class WorkerClock:
    """How far a worker's clock is off, by its last reports: the quickest of them tells best."""

    def __init__(self) -> None:
        self._offsets_ms: deque[float] = deque(maxlen=NUM_OFFSETS)

    def see(self, sent_at_ms: float, arrival_ms: float) -> None:
        """Note when a report was sent by the worker's clock, and arrived by ours."""
        self._offsets_ms.append(arrival_ms - sent_at_ms)

    @property
    def offset_ms(self) -> float:
        """What to add to the worker's clock to have ours; it includes how long the quickest report took."""
        return min(self._offsets_ms, default=0.0)

    def shift_ms(self, interval_ms: int) -> int:
        """What to add to the start of its windows: whole windows, from half a one up."""
        if abs(self.offset_ms) < interval_ms / 2:
            return 0
        return round(self.offset_ms / interval_ms) * interval_ms

    def lag_ms(self, interval_ms: int) -> float:
        """How much later than ours its windows end all the same."""
        return max(self.offset_ms - self.shift_ms(interval_ms), 0.0)


def _within_64_bits(numbers: Sequence[float]) -> list[float]:
    if sum(map(abs, numbers)) < LARGEST_CONTENT_LENGTH:
        return list(numbers)
    return [number if abs(number) < LARGEST_CONTENT_LENGTH else float(number) for number in numbers]
