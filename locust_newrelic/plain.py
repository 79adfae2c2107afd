"""Plain values that come from outside, checked: what is not as it must be raises :class:`MalformedError`."""

from __future__ import annotations

import contextlib
import math
import sys
from array import array
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from .acceptable import LONGEST_VALUE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LARGEST = 2**53
"""No count, time or size is above."""

LARGEST_SUM = 1e100
"""Nor any sum: many of them together are still finite."""


class MalformedError(ValueError):
    """Something that cannot be read; the message says which part of it, and nothing of its values."""


def mapping(value: object, name: str) -> Mapping[Any, Any]:
    """The value, which must be a mapping."""
    if not isinstance(value, Mapping):
        raise MalformedError(name)
    return value


def items(value: object, name: str) -> list[Any]:
    """The value, which must be a list."""
    if type(value) is not list:
        raise MalformedError(name)
    return value


def integers(value: object, low: float, high: float, name: str) -> list[int]:
    """The value, which must be a list of integers from *low* to *high*."""
    values = items(value, name)
    if values and not (set(map(type, values)) == {int} and low <= min(values) and max(values) <= high):
        raise MalformedError(name)
    return values


_TYPE_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""By bytes per number: those of an :class:`array.array` of unsigned integers."""


def packed(values: Sequence[int]) -> list[Any]:
    """Many integers from 0 on in few bytes: how many each of them takes, and all of them, the lowest byte first.

    Raises OverflowError for one of more than 64 bits.
    """
    if isinstance(values, array):
        return [values.itemsize, _in_order(values).tobytes()]
    with contextlib.suppress(ValueError):  # of one above 255
        return [1, bytes(values)]
    largest = max(values)
    size = next((size for size in _TYPE_CODES if not largest >> 8 * size), 8)
    return [size, _in_order(array(_TYPE_CODES[size], values)).tobytes()]


def unpacked(value: object, low: int, high: int, name: str, sizes: Iterable[int] = _TYPE_CODES) -> array[int]:
    """What :func:`packed` made, which must be integers from *low* to *high*, of one of those *sizes*."""
    size, data = (*items(value, name), None, None)[:2]
    if type(size) is not int or size not in sizes or type(data) is not bytes or len(data) % size:
        raise MalformedError(name)
    values = _in_order(array(_TYPE_CODES[size], data))
    if (size, low) == (2, 1) and _are_surely_within(data, high):
        return values
    if values and ((low > 0 and min(values) < low) or (high < 1 << 8 * size and max(values) > high)):
        raise MalformedError(name)
    return values


def columns(rows: Iterable[tuple[Any, ...]], number: int) -> Sequence[tuple[Any, ...]]:
    """The columns of rows of so many values each: empty ones, if there are no rows."""
    return tuple(zip(*rows, strict=True)) or ((),) * number


def packed_columns(*columns: Iterable[int]) -> list[Any]:
    """Columns of the same length, packed one behind the other; to look for the least size would take too long."""
    values = list(chain.from_iterable(columns))
    try:
        return packed(array("I", values))
    except OverflowError:
        return packed(array("Q", values))


def unpacked_columns(value: object, number: int, name: str) -> list[array[int]]:
    """What :func:`packed_columns` made: that many columns of the same length."""
    values = unpacked(value, 0, LARGEST, name)
    length, rest = divmod(len(values), number)
    if rest:
        raise MalformedError(name)
    return [values[index * length : (index + 1) * length] for index in range(number)]


def check_highest(values: Sequence[float], high: float, name: str) -> None:
    """Raise :class:`MalformedError` if one of them is above."""
    if values and max(values) > high:
        raise MalformedError(name)


def _are_surely_within(data: bytes, high: int) -> bool:
    """Whether their bytes alone tell that numbers of two bytes are from 1 to *high*: far quicker than to look at each.

    They do unless the zeros of two numbers meet, or a number has the higher byte of *high*.
    """
    lower_high_bytes = bytes(range(min(high >> 8, 256)))
    return b"\0\0" not in data and not data[1::2].translate(None, lower_high_bytes)


def _in_order(values: array[int]) -> array[int]:
    """*values* as they are on the wire, or back from there."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values


def numbers(value: object, name: str, low: float = -math.inf, high: float = math.inf) -> list[Any]:
    """The value, which must be a list of finite numbers from *low* to *high*."""
    values = items(value, name)
    usual = set(map(type, values)) <= {int, float} and _are_finite(values)
    if values and not (usual and low <= min(values) and max(values) <= high):
        raise MalformedError(name)
    return values


def texts(value: object, name: str) -> list[str]:
    """The value, which must be a list of texts of at most 4,096 characters."""
    values = items(value, name)
    if not (set(map(type, values)) <= {str} and max(map(len, values), default=0) <= LONGEST_VALUE):
        raise MalformedError(name)
    return values


def encodable(values: list[str]) -> list[str]:
    """The texts, each with a replacement for what UTF-8 has no form for."""
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return [value.encode("utf-8", "replace").decode() for value in values]
    return values


def flag(value: object, name: str) -> bool:
    """The value, which must be true or false."""
    if not isinstance(value, bool):
        raise MalformedError(name)
    return value


def text(value: object, name: str) -> str:
    """The value, which must be text of at most 4,096 characters, and not empty."""
    if not (isinstance(value, str) and 0 < len(value) <= LONGEST_VALUE):
        raise MalformedError(name)
    return value


def per_second(value: object, name: str) -> dict[int, int]:
    """The value, which must be counts by second, or None."""
    if value is None:
        return {}
    seconds = mapping(value, name)
    keys = integers(list(seconds), 0, LARGEST // 1000, name)
    return dict(zip(keys, integers(list(seconds.values()), 0, LARGEST, name), strict=True))


def _are_finite(values: list[float]) -> bool:
    """Whether each of them is, and their sum: NaN and infinity stay what they are in a sum."""
    try:
        return math.isfinite(sum(values))
    except OverflowError:  # an integer that no float can hold
        return False
