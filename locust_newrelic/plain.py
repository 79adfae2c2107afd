"""Plain values that come from outside, checked: what is not as it must be raises :class:`MalformedError`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LARGEST = 2**53
"""No count, time or size is above."""

LONGEST_TEXT = 4096


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


def numbers(value: object, name: str, low: float = -math.inf, high: float = math.inf) -> list[Any]:
    """The value, which must be a list of finite numbers from *low* to *high*."""
    values = items(value, name)
    usual = set(map(type, values)) <= {int, float} and all(map(_is_finite, values))
    if values and not (usual and low <= min(values) and max(values) <= high):
        raise MalformedError(name)
    return values


def texts(value: object, name: str) -> list[str]:
    """The value, which must be a list of texts of at most 4,096 characters."""
    values = items(value, name)
    if not (set(map(type, values)) <= {str} and max(map(len, values), default=0) <= LONGEST_TEXT):
        raise MalformedError(name)
    return values


def text(value: object, name: str) -> str:
    """The value, which must be text of at most 4,096 characters, and not empty."""
    if not (isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT):
        raise MalformedError(name)
    return value


def per_second(value: object, name: str) -> dict[int, int]:
    """The value, which must be counts by second, or None."""
    if value is None:
        return {}
    seconds = mapping(value, name)
    keys = integers(list(seconds), 0, LARGEST // 1000, name)
    return dict(zip(keys, integers(list(seconds.values()), 0, LARGEST, name), strict=True))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False
