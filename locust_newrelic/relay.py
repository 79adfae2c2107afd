"""Windows to plain values and back: what a worker puts into Locust's report to the master.

It is additive (each report tells of its own requests only), and made of what msgpack takes. A report is input from
outside: it is checked as a whole before anything of it is used. No clock, no I/O, no Locust.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, fields
from itertools import accumulate, compress, islice, pairwise
from operator import add, attrgetter, gt
from typing import TYPE_CHECKING, Any

from . import plain, relay_details
from .health import Health
from .histogram import LARGEST_MS
from .plain import MalformedError
from .relay_details import Places
from .window import (
    LARGEST_CONTENT_LENGTH,
    LARGEST_STATUS_CODE,
    NONE_LOOSE,
    Distinct,
    Key,
    Numbers,
    Window,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .histogram import Bins, Scale
    from .window import Row

KEY = "newrelic"
"""What a worker reports is under this key of Locust's report."""

RUN_OPTION = "newrelic_run"
"""The one option of ours that Locust forwards to the workers."""

VERSION = 1

NUM_OFFSETS = 20
"""The clock of a worker is judged by that many of its last reports."""


_HEALTH = [field.name for field in fields(Health)]

_COLUMNS = attrgetter(
    "num_failures", "num_untimed", "content_length", "total_ms", "min_ms", "max_ms", "counted", "loose"
)
_NO_ROWS = ((),) * 8


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


@dataclass(frozen=True)
class Part:
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


@dataclass(frozen=True)
class Report:
    """All that a worker reports at once."""

    sent_at_ms: float
    """Its wall clock."""
    parts: list[Part]


def pack(report: Report) -> dict[str, Any]:
    """The report as plain values. Its numbers are in columns, which are small and quickly made, sent and checked."""
    return {"version": VERSION, "sent_at": report.sent_at_ms, "windows": [_pack_part(part) for part in report.parts]}


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
    return Report(sent_at_ms, [_unpack_part(part, scale, dimensions) for part in parts])


def _pack_part(part: Part) -> dict[str, Any]:
    places = Places(part.window.series)
    by_status = [series.statuses for series in part.window.series.values()]
    rows = [numbers for statuses in by_status for numbers in statuses.values()]
    failures, untimed, lengths, *times, histograms, loose = zip(*map(_COLUMNS, rows), strict=True) if rows else _NO_ROWS
    sizes, loose_sizes = list(map(len, histograms)), list(map(len, loose))
    timed = list(map(add, sizes, loose_sizes))
    total_ms, min_ms, max_ms = (list(compress(column, timed)) for column in times)
    details = relay_details.pack(part.window.details, places)
    keys = list(places)
    none = ("",) * len(part.dimensions)
    return {
        "run": plain.encodable([part.run_id])[0],
        "start": part.start_ms,
        "reset": part.was_reset,
        "buckets": list(part.buckets_ms),
        "health": [getattr(part.health, name) for name in _HEALTH],
        "hidden": part.window.hidden.hashes,
        "dimensions": list(part.dimensions),
        "names": plain.encodable([text for key in keys for text in key[:2]]),
        "values": plain.encodable([value or "" for key in keys for value in key.values or none]),
        "details": details,
        "series": [index for index, statuses in enumerate(by_status) for _ in statuses],
        "status": [status_code for statuses in by_status for status_code in statuses],
        "failures": list(failures),
        "untimed": list(untimed),
        "length": list(map(_within_64_bits, lengths)),
        # of those with response times only:
        "total": total_ms,
        "min": min_ms,
        "max": max_ms,
        # and of their histograms, one behind the other: how many bins, which, and the count of each
        "sizes": sizes,
        "bins": plain.packed([index for bins in histograms for index in bins]),
        "counts": plain.packed([count for bins in histograms for count in bins.values()]),
        # and the bins of those requests that are not counted there, one by one
        "loose_sizes": loose_sizes,
        "loose": plain.packed(array("H", b"".join(loose))),
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
    was_reset = fields.get("reset")
    if not isinstance(was_reset, bool):
        msg = "reset"
        raise MalformedError(msg)

    keys = _read_keys(fields, len(dimensions))
    rows = _Rows(fields, scale, keys)
    hidden = Distinct(plain.integers(fields.get("hidden"), 0, Distinct.SPAN - 1, "hidden"))
    run_id = plain.text(fields.get("run"), "run")
    details = relay_details.unpack(fields.get("details"), keys)
    health = _unpack_health(fields.get("health"))
    return Part(run_id, start_ms, scale.limits_ms, Window(rows, hidden, details), health, was_reset, dimensions)


def _read_keys(fields: Mapping[str, Any], num_dimensions: int) -> list[Key]:
    """What is in the places of a report, each once."""
    names = plain.texts(fields.get("names"), "names")
    values = plain.texts(fields.get("values"), "values")
    if len(names) % 2 or len(values) != len(names) // 2 * num_dimensions:
        msg = "names"
        raise MalformedError(msg)
    if not num_dimensions:
        return list(map(Key, names[::2], names[1::2]))
    rows = zip(*[iter([value or None for value in values])] * num_dimensions, strict=True)
    return [
        Key(method, name, row if any(row) else ())
        for method, name, row in zip(names[::2], names[1::2], rows, strict=True)
    ]


def _unpack_health(data: object) -> Health:
    values = plain.numbers(data, "health", 0, plain.LARGEST)
    if len(values) != 7:
        msg = "health"
        raise MalformedError(msg)
    cpu_s, wall_s, memory_bytes, user_count, num_lags, lag_total_s, lag_max_s = values
    return Health(cpu_s, wall_s, int(memory_bytes), int(user_count), int(num_lags), lag_total_s, lag_max_s)


class _Rows:
    """The rows of a reported window: all checked at once, made one by one."""

    def __init__(self, fields: Mapping[str, Any], scale: Scale, keys: list[Key]) -> None:
        self._keys = keys
        self._series = plain.integers(fields.get("series"), 0, len(self._keys) - 1, "series")
        self._status = plain.integers(fields.get("status"), 0, LARGEST_STATUS_CODE, "status")
        self._failures = plain.integers(fields.get("failures"), 0, plain.LARGEST, "failures")
        self._untimed = plain.integers(fields.get("untimed"), 0, plain.LARGEST, "untimed")
        self._lengths = plain.numbers(fields.get("length"), "length", -plain.LARGEST_SUM, plain.LARGEST_SUM)
        self._sizes = plain.integers(fields.get("sizes"), 0, len(scale.edges), "sizes")
        self._totals = plain.numbers(fields.get("total"), "total", 0, plain.LARGEST_SUM)
        self._mins = plain.numbers(fields.get("min"), "min", 0, LARGEST_MS)
        self._maxs = plain.numbers(fields.get("max"), "max", 0, LARGEST_MS)
        self._bins = plain.unpacked(fields.get("bins"), 1, len(scale.edges) - 1, "bins")
        self._counts = plain.unpacked(fields.get("counts"), 1, plain.LARGEST, "counts")
        self._loose_sizes = plain.integers(fields.get("loose_sizes"), 0, plain.LARGEST, "loose_sizes")
        self._loose = plain.unpacked(fields.get("loose"), 1, len(scale.edges) - 1, "loose", sizes=[2])
        self._check_lengths()
        self._histograms = self._read_histograms()
        self._check_rows()

    def _check_lengths(self) -> None:
        columns = (self._series, self._status, self._failures, self._untimed, self._lengths, self._loose_sizes)
        num_timed = sum(map(bool, map(add, self._sizes, self._loose_sizes)))
        fits = (
            {len(column) for column in columns} == {len(self._sizes)}
            and {len(column) for column in (self._totals, self._mins, self._maxs)} <= {num_timed}
            and len(self._counts) == len(self._bins) == sum(self._sizes)
            and len(self._loose) == sum(self._loose_sizes)
        )
        if not fits:
            msg = "columns of different length"
            raise MalformedError(msg)

    def _read_histograms(self) -> list[Bins]:
        """What was counted of each row, which names no bin twice."""
        bins = zip(self._bins, self._counts, strict=True)
        histograms = [dict(islice(bins, size)) if size else {} for size in self._sizes]
        if list(map(len, histograms)) != self._sizes:
            msg = "bins"
            raise MalformedError(msg)
        return histograms

    def _check_rows(self) -> None:
        """No row has more failures than requests, or a minimum above its maximum.

        Locust itself counts failures apart from requests, but this package does not.
        """
        if any(map(gt, self._mins, self._maxs)):
            msg = "min above max"
            raise MalformedError(msg)
        columns = (self._failures, self._untimed, self._loose_sizes, self._histograms)
        for failures, untimed, loose, bins in zip(*columns, strict=True):
            if failures > untimed + loose and failures > untimed + loose + sum(bins.values()):
                msg = "failures"
                raise MalformedError(msg)

    def __bool__(self) -> bool:
        return bool(self._sizes)

    def rows(self) -> Iterator[Row | None]:
        """The rows, once."""
        timed = zip(self._totals, self._mins, self._maxs, strict=True)
        loose = pairwise(accumulate(self._loose_sizes, initial=0))
        columns = (self._series, self._status, self._failures, self._untimed, self._lengths, self._histograms, loose)
        for index, status_code, failures, untimed, length, bins, (start, end) in zip(*columns, strict=True):
            numbers = Numbers(bins, self._loose[start:end] if start < end else NONE_LOOSE)
            numbers.num_failures, numbers.num_untimed, numbers.content_length = failures, untimed, length
            if bins or start < end:
                numbers.total_ms, numbers.min_ms, numbers.max_ms = next(timed)
            yield self._keys[index], status_code, numbers


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


def _within_64_bits(number: float) -> float:
    return number if abs(number) < LARGEST_CONTENT_LENGTH else float(number)
