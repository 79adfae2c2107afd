"""Windows from Locust's own statistics, for workers that report nothing of ours: a Go or Java worker, say.

What Locust's statistics tell is less: no status codes, and response times with two digits. Counts are exact. No clock,
no I/O, no Locust.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from . import plain
from .acceptable import without_secrets
from .details import OTHER_TEXT, Failure
from .histogram import LARGEST_MS
from .recorder import as_text
from .window import NO_STATUS, Key, Numbers, Window

if TYPE_CHECKING:
    from .histogram import Bins, Scale

_UNTIMED = -1
"""Among bins, where requests without a response time are."""


def windows_of(
    stats: object, scale: Scale, *, interval_ms: int, shift_ms: int, arrival_ms: int, errors: object = None
) -> dict[int, Window]:
    """The windows, by their start, of the entries that a worker's report has under ``stats``, and under ``errors``.

    Locust counts requests by second, which tells their window; their response times are dealt out evenly to the windows
    of the report. *shift_ms* is what to add to the worker's clock. If the seconds are missing, or do not add up, the
    requests belong to the window of *arrival_ms*. Of failures for which there is no error, it is ``(other)``. Raises
    :class:`MalformedError` for statistics that cannot be read.
    """

    def start_of(time_ms: int) -> int:
        return time_ms // interval_ms * interval_ms

    windows: dict[int, Window] = {}
    found = _errors_by_key(errors)
    for data in plain.items(stats, "stats"):
        fields = plain.mapping(data, "stats")
        key = Key(as_text(fields.get("method")), as_text(fields.get("name")))
        rest = _numbers_of(fields, scale)
        requests, failures = (
            _by_start({second * 1000 + shift_ms: number for second, number in seconds.items()}, start_of)
            for seconds in (
                plain.per_second(fields.get(name), name) for name in ("num_reqs_per_sec", "num_fail_per_sec")
            )
        )
        if sum(requests.values()) != rest.num_requests:
            requests = Counter({start_of(arrival_ms): rest.num_requests})
        *starts, last = sorted(requests) or [start_of(arrival_ms)]
        for start_ms in starts:
            part, rest = _split(rest, requests[start_ms], failures[start_ms])
            _add(windows.setdefault(start_ms, Window()), key, part, found[key])
        _add(windows.setdefault(last, Window()), key, rest, found[key])
    return windows


def _add(window: Window, key: Key, numbers: Numbers, errors: Counter[str]) -> None:
    """Count the numbers in, and so many of the errors, which are taken from them."""
    window.place(key, NO_STATUS).merge(numbers)
    left = numbers.num_failures
    for error in list(errors):
        number = min(errors[error], left)
        if number:
            window.details.failures.add(Failure(key, _type_of(error), error), number)
            errors[error] -= number
            left -= number
    if left:
        window.details.failures.add(Failure(key, "", OTHER_TEXT), left)


def _errors_by_key(errors: object) -> defaultdict[Key, Counter[str]]:
    """How often each error is told of each endpoint; one that cannot be read is not."""
    found: defaultdict[Key, Counter[str]] = defaultdict(Counter)
    for fields in errors.values() if isinstance(errors, Mapping) else ():
        number = fields.get("occurrences") if isinstance(fields, Mapping) else None
        if type(number) is int and 0 < number <= plain.LARGEST:
            key = Key(as_text(fields.get("method")), as_text(fields.get("name")))
            found[key][without_secrets(as_text(fields.get("error")))] += number
    return found


def _type_of(error: str) -> str:
    """The class of an exception that an error is the text of, as far as that can be told."""
    match = re.match(r"([A-Za-z_][A-Za-z0-9_.]*)\(", error)
    return match[1] if match else ""


def last_request_ms(stats: object) -> float | None:
    """When a worker made the last request of a report, by its own clock; None if that is not told."""
    entries = stats if isinstance(stats, list) else []
    times = [entry.get("last_request_timestamp") for entry in entries if isinstance(entry, Mapping)]
    known = [1000.0 * time_s for time_s in times if _is_time(time_s) and time_s > 0]
    return max(known, default=None)


def _by_start(times_ms: Mapping[int, int], start_of: Any) -> Counter[int]:
    counts: Counter[int] = Counter()
    for time_ms, number in times_ms.items():
        counts[start_of(time_ms)] += number
    return counts


def _numbers_of(fields: Mapping[str, Any], scale: Scale) -> Numbers:
    """An entry's numbers. Response times that are none, which Locust takes as they come, count as not known."""
    numbers = Numbers()
    (numbers.num_requests,) = plain.integers([fields.get("num_requests")], 0, plain.LARGEST, "num_requests")
    (numbers.num_failures,) = plain.integers([fields.get("num_failures")], 0, plain.LARGEST, "num_failures")
    (numbers.content_length,) = plain.numbers(
        [fields.get("total_content_length")], "total_content_length", -plain.LARGEST_SUM, plain.LARGEST_SUM
    )

    times = plain.mapping(fields.get("response_times"), "response_times")
    plain.integers(list(times.values()), 0, plain.LARGEST, "response_times")
    usual = {float(time_ms): count for time_ms, count in times.items() if count and _is_time(time_ms)}
    for time_ms, count in usual.items():
        index = scale.index(time_ms)
        numbers.bins[index] = numbers.bins.get(index, 0) + count
    numbers.num_untimed = numbers.num_requests - sum(numbers.bins.values())
    if numbers.num_untimed < 0:
        raise plain.MalformedError("response_times")  # noqa: EM101

    if usual:
        low_ms, high_ms, total_ms = (fields.get(f"{name}_response_time") for name in ("min", "max", "total"))
        numbers.min_ms = low_ms if _is_time(low_ms) else min(usual)
        numbers.max_ms = max(high_ms if _is_time(high_ms) else max(usual), numbers.min_ms)
        estimate_ms = sum(time_ms * count for time_ms, count in usual.items())
        numbers.total_ms = float(total_ms) if _is_time(total_ms) else estimate_ms
    return numbers


def _is_time(value: object) -> TypeGuard[float]:
    return type(value) in (int, float) and 0 <= value <= LARGEST_MS  # type: ignore[operator]


def _split(numbers: Numbers, num_requests: int, num_failures: int) -> tuple[Numbers, Numbers]:
    """That many of the requests and failures, evenly taken from all of them, and the rest."""
    part, rest = Numbers(), Numbers()
    counts = {_UNTIMED: numbers.num_untimed, **numbers.bins}
    dealt = _deal(counts, num_requests)
    left = {index: count - dealt[index] for index, count in counts.items()}
    for some, taken in ((part, dealt), (rest, left)):
        some.num_requests = sum(taken.values())
        some.num_untimed = taken.pop(_UNTIMED)
        some.bins = {index: count for index, count in taken.items() if count}
        if some.bins:
            some.min_ms, some.max_ms = numbers.min_ms, numbers.max_ms

    part.num_failures = min(num_failures, numbers.num_failures)
    part.content_length = int(numbers.content_length * num_requests / max(numbers.num_requests, 1))
    part.total_ms = numbers.total_ms * part.num_timed / max(numbers.num_timed, 1)
    rest.num_failures = numbers.num_failures - part.num_failures
    rest.content_length = numbers.content_length - part.content_length
    rest.total_ms = max(numbers.total_ms - part.total_ms, 0.0)
    return part, rest


def _deal(counts: Mapping[int, int], number: int) -> Bins:
    """That *number* of the things counted, taken evenly from all of them."""
    total, seen, dealt = max(sum(counts.values()), 1), 0, {}
    for index, count in counts.items():
        dealt[index] = (seen + count) * number // total - seen * number // total
        seen += count
    return dealt
