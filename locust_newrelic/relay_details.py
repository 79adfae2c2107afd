"""A window's details to plain values and back, in columns as the rest of a report. No clock, no I/O, no Locust."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from . import plain
from .acceptable import MOST_ATTRIBUTES, acceptable, why_not_a_name
from .details import (
    MOST_EXCEPTIONS,
    MOST_FAILURES,
    MOST_RECORDED,
    MOST_SAMPLES,
    Details,
    Error,
    Failure,
    Recorded,
    Sample,
    UserException,
)
from .dictionary import is_users_type
from .histogram import LARGEST_MS
from .window import LARGEST_STATUS_CODE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .acceptable import Attributes
    from .details import Failures, Records, Samples, Tally
    from .window import Key

_NONE = -1
"""Stands for a number that is not known."""


_T = TypeVar("_T")
Places = defaultdict[_T, int]

_new_failure: Callable[[tuple[Key, str, str]], Failure] = partial(tuple.__new__, Failure)


def places() -> Places[Any]:
    """Where things are in a report: each comes to it when it is first asked for."""
    return defaultdict(count().__next__)


def pack(details: Details, places: Places[Key]) -> dict[str, Any]:
    """The parts that there are as plain values; *places* says where the keys are."""
    return {name: _PACK[name](part, places) for name, part in details.parts()}


def unpack(data: object, keys: Sequence[Key]) -> Details:
    """What :func:`pack` made; the places are those of *keys*. Raises :class:`MalformedError` for anything else."""
    details = Details()
    for name, part in plain.mapping(data, "details").items():
        if name not in _UNPACK:
            raise plain.MalformedError("details")  # noqa: EM101
        _UNPACK[name](part, keys, details)
    return details


def _pack_failures(failures: Failures, places_of_keys: Places[Key]) -> dict[str, Any]:
    keys, types, errors = plain.columns(failures, 3)
    texts = places()  # most failures have an error in common
    place, text = places_of_keys.__getitem__, texts.__getitem__
    columns = map(place, keys), map(text, types), map(text, errors), failures.values()
    return {"failures": plain.packed_columns(*columns), "errors": plain.encodable(list(texts))}


def _unpack_failures(data: object, keys: Sequence[Key], details: Details) -> None:
    fields = plain.mapping(data, "failures")
    places, types, errors, numbers = plain.unpacked_columns(fields.get("failures"), 4, "failures")
    texts = plain.texts(fields.get("errors"), "errors")
    plain.check_highest(places, len(keys) - 1, "failures")
    plain.check_highest(types + errors, len(texts) - 1, "failures")
    if len(numbers) > MOST_FAILURES + len(keys) or 0 in numbers:
        raise plain.MalformedError("failures")  # noqa: EM101
    text = texts.__getitem__
    columns = zip(map(keys.__getitem__, places), map(text, types), map(text, errors), strict=True)
    details.failures.add_all(list(zip(map(_new_failure, columns), numbers, strict=True)))


def _pack_exceptions(exceptions: Tally[UserException], _: Places[Key]) -> list[list[Any]]:
    texts = plain.columns(exceptions, 4)
    return [*(plain.encodable(list(column)) for column in texts), list(exceptions.values())]


def _unpack_exceptions(data: object, _: Sequence[Key], details: Details) -> None:
    *texts, numbers = _read_columns(data, "exceptions", 5, MOST_EXCEPTIONS + 1)
    plain.texts([text for column in texts for text in column], "exceptions")
    plain.integers(numbers, 1, plain.LARGEST, "exceptions")
    for *values, number in zip(*texts, numbers, strict=True):
        details.exceptions.add(UserException(*values), number)


def _pack_samples(samples: Samples, places: Places[Key]) -> dict[str, Any]:
    columns = [
        [sample.lot for sample in samples],
        [places[sample.key] for sample in samples],
        [_NONE if sample.timestamp_ms is None else sample.timestamp_ms for sample in samples],
        [_NONE if sample.response_time_ms is None else sample.response_time_ms for sample in samples],
        [sample.content_length for sample in samples],
        [sample.status_code for sample in samples],
        plain.encodable([sample.url or "" for sample in samples]),
        plain.encodable([sample.error.error_type if sample.error else "" for sample in samples]),
        plain.encodable([sample.error.error if sample.error else "" for sample in samples]),
        [sample.context for sample in samples],
    ]
    return {"samples": columns, "bound": samples.bound}


def _unpack_samples(data: object, keys: Sequence[Key], details: Details) -> None:
    fields = plain.mapping(data, "samples")
    (bound,) = plain.numbers([fields.get("bound")], "bound", 0, 1)
    for sample in _samples(fields.get("samples"), keys):
        details.samples.add(sample)
    details.samples.lower(bound)


def _samples(data: object, keys: Sequence[Key]) -> Iterator[Sample]:
    columns = _read_columns(data, "samples", 10, MOST_SAMPLES)
    lots, places, times_ms, response_times, lengths, status_codes, urls, types, errors, _ = columns
    plain.numbers(lots, "samples", 0, 1)
    plain.integers(places, 0, len(keys) - 1, "samples")
    plain.integers(times_ms, _NONE, plain.LARGEST, "samples")
    plain.numbers(response_times, "samples", _NONE, LARGEST_MS)
    plain.numbers(lengths, "samples", -plain.LARGEST_SUM, plain.LARGEST_SUM)
    plain.integers(status_codes, 0, LARGEST_STATUS_CODE, "samples")
    plain.texts(urls + types + errors, "samples")
    for lot, place, time_ms, response_time, length, status_code, url, error_type, error, context in zip(
        *columns, strict=True
    ):
        yield Sample(
            lot,
            keys[place],
            None if time_ms < 0 else time_ms,
            None if response_time < 0 else response_time,
            length,
            status_code,
            url or None,
            Error(error_type, error) if error_type or error else None,
            _attributes(context, "samples", "context."),
        )


def _pack_records(records: Records, _: Places[Key]) -> dict[str, Any]:
    columns = [
        [event.event_type for event in records.events],
        [event.timestamp_ms for event in records.events],
        [event.attributes for event in records.events],
    ]
    return {"events": columns, "refused": records.num_refused}


def _unpack_records(data: object, _: Sequence[Key], details: Details) -> None:
    fields = plain.mapping(data, "records")
    event_types, times_ms, attributes = _read_columns(fields.get("events"), "events", 3, MOST_RECORDED)
    plain.integers(times_ms, 0, plain.LARGEST, "events")
    for event_type, time_ms, values in zip(event_types, times_ms, attributes, strict=True):
        if not is_users_type(event_type):
            raise plain.MalformedError("events")  # noqa: EM101
        details.records.add(Recorded(event_type, time_ms, _attributes(values, "events")))
    (refused,) = plain.integers([fields.get("refused")], 0, plain.LARGEST, "refused")
    details.records.num_refused += refused


def _attributes(value: object, name: str, prefix: str = "") -> Attributes:
    attributes = plain.mapping(value, name)
    usual = all(
        isinstance(key, str)
        and key.startswith(prefix)
        and why_not_a_name(key) is None
        and type(one) in (str, int, float)
        for key, one in attributes.items()
    )
    if not usual or len(attributes) > MOST_ATTRIBUTES:
        raise plain.MalformedError(name)
    return acceptable(attributes)


def _read_columns(data: object, name: str, number: int, longest: int) -> list[list[Any]]:
    """That many columns of the same length."""
    columns = [plain.items(column, name) for column in plain.items(data, name)]
    if len(columns) != number or len(set(map(len, columns))) != 1 or len(columns[0]) > longest:
        raise plain.MalformedError(name)
    return columns


_PACK: dict[str, Callable[[Any, Places[Key]], Any]] = {
    "failures": _pack_failures,
    "exceptions": _pack_exceptions,
    "samples": _pack_samples,
    "records": _pack_records,
}
_UNPACK: dict[str, Callable[[object, Sequence[Key], Details], None]] = {
    "failures": _unpack_failures,
    "exceptions": _unpack_exceptions,
    "samples": _unpack_samples,
    "records": _unpack_records,
}
"""Each part of the details by its name."""
