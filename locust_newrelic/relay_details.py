"""A window's details to plain values and back, in columns as the rest of a report. No clock, no I/O, no Locust."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

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
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .acceptable import Attributes
    from .window import Key

_NONE = -1
"""Stands for a number that is not known."""


class Places(dict["Key", int]):
    """Where keys are in a report: those of its series, and whatever else is asked for behind them."""

    def __init__(self, keys: Iterable[Key]) -> None:
        super().__init__(zip(keys, count()))

    def __missing__(self, key: Key) -> int:
        place = self[key] = len(self)
        return place


def pack(details: Details, places: Places) -> dict[str, Any] | None:
    """The details as plain values, None if there are none; *places* says where the keys are."""
    if not details and details.samples.bound == 1.0:
        return None
    packed: dict[str, Any] = {"bound": details.samples.bound, "refused": details.records.num_refused}
    if details.failures:
        packed |= _pack_failures(details.failures, places)
    if details.exceptions:
        texts = zip(*details.exceptions, strict=True)
        packed["exceptions"] = [*(plain.encodable(list(column)) for column in texts), [*details.exceptions.values()]]
    if details.samples:
        packed["samples"] = _pack_samples(list(details.samples), places)
    if details.records.events:
        packed["events"] = [
            [event.event_type for event in details.records.events],
            [event.timestamp_ms for event in details.records.events],
            [event.attributes for event in details.records.events],
        ]
    return packed


def _pack_failures(failures: Mapping[Failure, int], places: Places) -> dict[str, Any]:
    texts: dict[str, int] = {}  # most failures have an error in common
    columns = [
        [places[failure.key] for failure in failures],
        [texts.setdefault(failure.error_type, len(texts)) for failure in failures],
        [texts.setdefault(failure.error, len(texts)) for failure in failures],
        list(failures.values()),
    ]
    return {"failures": columns, "errors": plain.encodable(list(texts))}


def _pack_samples(samples: Sequence[Sample], places: Places) -> list[list[Any]]:
    return [
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


def unpack(data: object, keys: Sequence[Key]) -> Details:
    """What :func:`pack` made; the places are those of *keys*. Raises :class:`MalformedError` for anything else."""
    details = Details()
    if data is None:
        return details
    fields = plain.mapping(data, "details")
    if "failures" in fields:
        for failure, number in _failures(fields, keys):
            details.failures.add(failure, number)
    if "exceptions" in fields:
        for exception, number in _exceptions(fields):
            details.exceptions.add(exception, number)
    if "samples" in fields:
        for sample in _samples(fields, keys):
            details.samples.add(sample)
    (bound,) = plain.numbers([fields.get("bound")], "bound", 0, 1)
    details.samples.lower(bound)
    if "events" in fields:
        for event in _events(fields):
            details.records.add(event)
    (refused,) = plain.integers([fields.get("refused")], 0, plain.LARGEST, "refused")
    details.records.num_refused += refused
    return details


def _failures(fields: Mapping[str, Any], keys: Sequence[Key]) -> Iterator[tuple[Failure, int]]:
    places, types, errors, numbers = _read_columns(fields, "failures", 4, MOST_FAILURES + len(keys))
    texts = plain.texts(fields.get("errors", []), "errors")
    plain.integers(places, 0, len(keys) - 1, "failures")
    plain.integers(types + errors, 0, len(texts) - 1, "failures")
    plain.integers(numbers, 1, plain.LARGEST, "failures")
    text = texts.__getitem__
    return zip(map(Failure, map(keys.__getitem__, places), map(text, types), map(text, errors)), numbers, strict=True)


def _exceptions(fields: Mapping[str, Any]) -> Iterator[tuple[UserException, int]]:
    *texts, numbers = _read_columns(fields, "exceptions", 5, MOST_EXCEPTIONS + 1)
    plain.texts([text for column in texts for text in column], "exceptions")
    plain.integers(numbers, 1, plain.LARGEST, "exceptions")
    for *values, number in zip(*texts, numbers, strict=True):
        yield UserException(*values), number


def _samples(fields: Mapping[str, Any], keys: Sequence[Key]) -> Iterator[Sample]:
    columns = _read_columns(fields, "samples", 10, MOST_SAMPLES)
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


def _events(fields: Mapping[str, Any]) -> Iterator[Recorded]:
    event_types, times_ms, attributes = _read_columns(fields, "events", 3, MOST_RECORDED)
    plain.integers(times_ms, 0, plain.LARGEST, "events")
    for event_type, time_ms, values in zip(event_types, times_ms, attributes, strict=True):
        if not is_users_type(event_type):
            raise plain.MalformedError("events")  # noqa: EM101
        yield Recorded(event_type, time_ms, _attributes(values, "events"))


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


def _read_columns(fields: Mapping[str, Any], name: str, number: int, longest: int) -> list[list[Any]]:
    """That many columns of the same length."""
    columns = [plain.items(column, name) for column in plain.items(fields.get(name), name)]
    if len(columns) != number or len(set(map(len, columns))) != 1 or len(columns[0]) > longest:
        raise plain.MalformedError(name)
    return columns
