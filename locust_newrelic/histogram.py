"""Response times to quantiles: mergeable, bounded, with a stated error. No clock, no I/O, no Locust.

A histogram here is a plain ``dict`` of bin index to count; merging is adding counts. What an index means is the
business of a :class:`Scale`, which every histogram of a run shares.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from itertools import accumulate, repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Bins = dict[int, int]

BINS_PER_OCTAVE = 64

RELATIVE_ERROR = 1 / (2 * BINS_PER_OCTAVE + 1)
"""The most by which a quantile between ``FINEST_MS`` and ``COARSEST_MS`` can be off, as a share of the true value."""

FINEST_MS, COARSEST_MS = 2.0**-6, 2.0**22
LARGEST_MS = 1e15
"""A response time above this (or infinite, negative or NaN) is not a measurement and belongs to no bin."""

_BELOW_FINEST = 3
"""Bins that are not regular come first: what is no measurement, exactly 0, and up to ``FINEST_MS``."""

_UNIT = 53 - BINS_PER_OCTAVE.bit_length()
"""Which bit of a float tells a bin from the next one: those below, of the 52 of the mantissa, are within a bin."""

_LOWEST = struct.unpack("=Q", struct.pack("=d", FINEST_MS))[0] - (_BELOW_FINEST << _UNIT) + 1
"""What is taken from a float's bits to have its bin's index at ``_UNIT``: 1 more, as a bin has its upper edge only."""

_OF_EACH_FLOAT = slice(3, -4, 4) if sys.byteorder == "little" else slice(4, None, 4)
"""Its highest 16 bits, if behind the last float there is room for one more."""


class Scale:
    """Which response times share a bin.

    An octave has ``BINS_PER_OCTAVE`` bins of the same width, so the error is relative; each of *limits_ms* is a bin's
    upper edge as well, which makes the count of requests within it exact. Bin ``i`` holds
    ``edges[i - 1] < ms <= edges[i]``. Two indexes hold nothing that can be timed: 0 (negative or NaN) and
    ``len(edges)`` (above ``LARGEST_MS``).

    The bins are those of HdrHistogram (Gil Tene), and their index is in the bits of a float, where an octave is an
    exponent, and a place in it a mantissa.
    """

    __slots__ = ("_spans", "edges", "limits_ms", "middles", "tops")

    def __init__(self, limits_ms: Iterable[int] = ()) -> None:
        self.limits_ms = tuple(sorted(limits_ms))
        octaves = range(round(math.log2(FINEST_MS)), round(math.log2(COARSEST_MS)))
        regular = [
            2.0**octave * (1 + step / BINS_PER_OCTAVE) for octave in octaves for step in range(BINS_PER_OCTAVE)
        ] + [COARSEST_MS]
        edges = sorted({*regular, *map(float, self.limits_ms)})
        dividing = sorted(limit for limit in set(self.limits_ms).difference(regular) if limit < COARSEST_MS)
        self._spans = [
            (end_ms, struct.pack("=Q", _LOWEST - (number << _UNIT)))
            for number, end_ms in enumerate([*dividing, COARSEST_MS])
        ]
        """Each limit that divides a regular bin moves the indexes from there on by one: up to where so many do, and
        what is taken from the bits of a float up to there."""

        # The first edge lies just below zero: a response time of exactly 0 is a measurement, in a bin of its own.
        self.edges: list[float] = [-5e-324, 0.0, *edges, LARGEST_MS]
        self.middles: list[float] = [
            0.0 if upper <= 0 else 2 * max(lower, 0.0) * upper / (max(lower, 0.0) + upper)
            for lower, upper in zip([0.0, *self.edges], self.edges, strict=False)
        ]

        self.tops = [bisect_left(self.edges, limit) for limit in self.limits_ms]
        """The last bin within each limit."""

    def is_timed(self, index: int) -> bool:
        """Whether the bin of that index holds measurements."""
        return 0 < index < len(self.edges)

    def index(self, response_time_ms: float) -> int:
        """The bin of a response time; raises ValueError for one that cannot be a measurement."""
        index = bisect_left(self.edges, response_time_ms)
        if not self.is_timed(index):
            msg = f"not a response time: {response_time_ms!r}"
            raise ValueError(msg)
        return index

    def indexes(self, times_ms: list[float], low_ms: float, high_ms: float) -> array[int]:
        """The bins of response times, in any order; *low_ms* and *high_ms* are the least and the largest of them.

        They are measurements, all of them.
        """
        end_ms, lowest = self._spans[0]
        if low_ms > FINEST_MS and high_ms <= end_ms:
            return _indexes(times_ms, lowest)

        times_ms = sorted(times_ms)
        begin = bisect_right(times_ms, FINEST_MS)
        indexes = self._looked_up(times_ms[:begin])
        for end_ms, lowest in self._spans:
            end = bisect_right(times_ms, end_ms, begin)
            indexes += _indexes(times_ms[begin:end], lowest)
            begin = end
        return indexes + self._looked_up(times_ms[begin:])

    def _looked_up(self, times_ms: Iterable[float]) -> array[int]:
        return array("H", map(bisect_left, repeat(self.edges), times_ms))

    def distribution(self, bins: Mapping[int, int]) -> Distribution:
        """What the bins say."""
        return Distribution(self, bins)


def _indexes(times_ms: list[float], lowest: bytes) -> array[int]:
    """The bins of response times, found by what is taken from the bits of each.

    All of them at once, as one large integer: a tenth of what it takes to look each of them up.
    """
    number = len(times_ms)
    bits = int.from_bytes(array("d", times_ms).tobytes(), sys.byteorder)
    bits -= int.from_bytes(lowest * number, sys.byteorder)
    return array("H", (bits << 48 - _UNIT).to_bytes(8 * (number + 1), sys.byteorder))[_OF_EACH_FLOAT]


class Distribution:
    """The response times of a histogram, in order: for its quantiles and its counts within limits."""

    __slots__ = ("_indexes", "_scale", "_totals")

    def __init__(self, scale: Scale, bins: Mapping[int, int]) -> None:
        self._scale = scale
        self._indexes = sorted(bins)
        self._totals = list(accumulate(map(bins.__getitem__, self._indexes)))

    @property
    def count(self) -> int:
        """How many response times there are."""
        return self._totals[-1] if self._totals else 0

    def __len__(self) -> int:
        return self.count

    def __bool__(self) -> bool:
        return bool(self._totals)

    def counts_within(self) -> list[int]:
        """For each of the scale's limits how many response times are at or below it: exact, whatever the error."""
        below = [0, *self._totals]
        return [below[bisect_right(self._indexes, top)] for top in self._scale.tops]

    def quantiles(self, fractions: Sequence[float], *, low: float, high: float) -> list[float]:
        """Response times in ms below which those *fractions* (0 to 1) of the requests lie.

        Between two neighbouring requests the value is interpolated linearly (Hyndman and Fan's type 7, what NumPy does
        by default). *low* and *high* are the exact smallest and largest response time, and no quantile is beyond them.
        Raises ValueError if there are no response times.
        """
        if not self._totals:
            msg = "no response times, no quantiles"
            raise ValueError(msg)

        values = []
        for fraction in fractions:
            position = fraction * (self.count - 1)
            rank = int(position)
            share = position - rank
            value = self._at(rank, low, high)
            values.append(value + (self._at(rank + 1, low, high) - value) * share if share else value)

        return values

    def quantile(self, fraction: float) -> float:
        """One quantile, as far as the bins alone tell; 0 if there are no response times."""
        if not self._totals:
            return 0.0
        last = self._scale.middles[self._indexes[-1]]
        (value,) = self.quantiles([fraction], low=self._scale.middles[self._indexes[0]], high=last)
        return value

    def _at(self, rank: int, low: float, high: float) -> float:
        """The response time of that rank, counted from 0."""
        totals = self._totals
        if rank == 0:
            return low
        if rank >= totals[-1] - 1:
            return high
        middle = self._scale.middles[self._indexes[bisect_right(totals, rank)]]
        return low if middle < low else min(middle, high)


def merge(bins: Bins, other: Mapping[int, int]) -> None:
    """Add *other* to *bins*; both belong to the same scale."""
    if not bins:
        bins.update(other)
        return
    for index, count in other.items():
        bins[index] = bins.get(index, 0) + count


def count(bins: Bins, indexes: Iterable[int]) -> None:
    """Add response times to *bins*, by the indexes of theirs."""
    Counter.update(bins, indexes)  # type: ignore[call-overload]  # a plain dict will do, too


LARGEST_JOINED = (1 << 32) - 1


def joined(bins: Bins) -> int:
    """A histogram as one integer, 32 bits for each bin: the sum of two of them is that of the histograms.

    As long as there are at most ``LARGEST_JOINED`` response times in all; raises OverflowError for a bin with more.
    """
    counts = array("I", bytes(4 * (max(bins, default=-1) + 1)))
    for index, count in bins.items():
        counts[index] = count
    if sys.byteorder == "big":
        counts.byteswap()
    return int.from_bytes(counts, "little")


def separated(total: int) -> Bins:
    """The histogram of which :func:`joined` made that integer."""
    counts = array("I", total.to_bytes((total.bit_length() + 31) // 32 * 4, "little"))
    if sys.byteorder == "big":
        counts.byteswap()
    return {index: count for index, count in enumerate(counts) if count}
