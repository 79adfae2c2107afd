"""Response times to quantiles: mergeable, bounded, with a stated error. No clock, no I/O, no Locust.

A histogram here is a plain ``dict`` of bin index to count: recording is one ``bisect`` and one addition, merging is
adding counts. What an index means is the business of a :class:`Scale`, which every histogram of a run shares.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Bins = dict[int, int]

RELATIVE_ERROR = 0.009
"""The most by which a quantile between ``FINEST_MS`` and ``COARSEST_MS`` can be off, as a share of the true value."""

FINEST_MS = 0.01
COARSEST_MS = 3_600_000.0
LARGEST_MS = 1e15
"""A response time above this (or infinite, negative or NaN) is not a measurement and belongs to no bin."""


class Scale:
    """Which response times share a bin.

    Bins grow by a constant ratio, so the error is relative; each of *limits_ms* is a bin's upper edge as well, which
    makes the count of requests within it exact. Bin ``i`` holds ``edges[i - 1] < ms <= edges[i]``. Two indexes hold
    nothing that can be timed: 0 (negative or NaN) and ``len(edges)`` (above ``LARGEST_MS``).

    The method is that of DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with
    relative-error guarantees", VLDB 2019), with a table of edges in place of the logarithm.
    """

    __slots__ = ("edges", "limits_ms", "middles", "tops")

    def __init__(self, limits_ms: Iterable[int] = ()) -> None:
        self.limits_ms = tuple(sorted(limits_ms))
        ratio = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
        steps = [FINEST_MS]
        while steps[-1] < COARSEST_MS:
            steps.append(steps[-1] * ratio)

        # The first edge lies just below zero: a response time of exactly 0 is a measurement, in a bin of its own.
        self.edges: list[float] = [-5e-324, 0.0, *sorted({*steps, *map(float, self.limits_ms)}), LARGEST_MS]
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

    def record(self, bins: Bins, response_time_ms: float) -> None:
        """Count one response time; raises ValueError for one that cannot be a measurement."""
        index = self.index(response_time_ms)
        bins[index] = bins.get(index, 0) + 1

    def distribution(self, bins: Mapping[int, int]) -> Distribution:
        """What the bins say."""
        return Distribution(self, bins)


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
        if rank == 0:
            return low
        if rank >= self.count - 1:
            return high
        middle = self._scale.middles[self._indexes[bisect_right(self._totals, rank)]]
        return min(max(middle, low), high)


def merge(bins: Bins, other: Mapping[int, int]) -> None:
    """Add *other* to *bins*; both belong to the same scale."""
    for index, count in other.items():
        bins[index] = bins.get(index, 0) + count
