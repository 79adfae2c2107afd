"""What happened in one interval, per series, bounded. No clock, no I/O, no Locust.

Windows of several processes are merged into one.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import sys
from array import array
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .details import Details
from .histogram import Bins, merge

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

LONGEST_NAME = 4096
"""Characters of a method or a name that are kept: what New Relic stores of an attribute's value."""

LARGEST_STATUS_CODE = 9999
STATUS_CODES_PER_SERIES, MOST_STATUS_CODES = 10, 64
"""A window keeps numbers for ten status codes per series it may have, and 64 more; further ones are ``NO_STATUS``."""

NO_STATUS = 0
"""The status code of a request without a response, or whose response has none."""

LARGEST_CONTENT_LENGTH = 1 << 62
"""In bytes; what is beyond is no content length, and counts as 0."""

LONGEST_LOOSE = 2_000
"""Of so many requests at the most the bins are kept one by one: up to there that costs less than to count them."""


ROWS_AT_ONCE = 4
"""In so many rows at a time a window is added to another: each step has its price, as has a long time without one."""


def most_rows(max_series: int) -> int:
    """For how many pairs of series and status code a window keeps numbers."""
    return max_series * STATUS_CODES_PER_SERIES + MOST_STATUS_CODES


class Key(NamedTuple):
    """The name of a series: what Locust keeps an entry of its statistics for, and the run's dimensions."""

    method: str
    name: str
    values: tuple[str | None, ...] = ()
    """Of each dimension, None for one that the requests lack; empty if they lack all."""


OTHER = Key("", "(other)")
"""The series that all names share which came after a run had as many series as it may have."""


NONE_LOOSE = array("H")


class Numbers:
    """Requests counted together: exact counts, sums and extremes, and the response times' histogram."""

    __slots__ = ("_bins", "content_length", "loose", "max_ms", "min_ms", "num_failures", "num_untimed", "total_ms")

    def __init__(self, bins: Bins | None = None, loose: array[int] = NONE_LOOSE) -> None:
        self.num_failures = 0
        self.num_untimed = 0
        """Requests without a usable response time: None, negative, NaN or infinite."""
        self.total_ms = 0.0
        self.min_ms = math.inf
        self.max_ms = -math.inf
        self.content_length: float = 0
        self._bins: Bins = {} if bins is None else bins
        self.loose = loose
        """The bins of some requests, one by one, that are not counted in a histogram yet; never changed in place.

        As long as they are few, to copy them is a fraction of the cost of counting: when they are recorded, sent by a
        worker, checked and merged.
        """

    @property
    def bins(self) -> Bins:
        """The histogram of all response times."""
        self.count_loose()
        return self._bins

    @bins.setter
    def bins(self, bins: Bins) -> None:
        self._bins, self.loose = bins, NONE_LOOSE

    @property
    def counted(self) -> Bins:
        """The histogram but for what is loose."""
        return self._bins

    def add_loose(self, loose: array[int]) -> None:
        """Count requests in those bins, one for each."""
        self.loose = self.loose + loose if self.loose else loose
        if len(self.loose) > LONGEST_LOOSE:
            self.count_loose()

    def count_loose(self) -> None:
        """Count in the histogram what is loose."""
        if self.loose:
            loose, self.loose = self.loose, NONE_LOOSE
            if self._bins:
                merge(self._bins, Counter(loose))
            else:
                self._bins = dict(Counter(loose))

    @property
    def num_timed(self) -> int:
        """Requests with a response time."""
        return sum(self._bins.values()) + len(self.loose)

    @property
    def num_requests(self) -> int:
        """All requests."""
        return self.num_timed + self.num_untimed

    def merge(self, other: Numbers) -> None:
        """Add what *other* counted; *other* stays as it is."""
        self.num_failures += other.num_failures
        self.num_untimed += other.num_untimed
        self.total_ms += other.total_ms
        if other.min_ms < self.min_ms:  # noqa: PLR1730  (a third of the time that min() takes)
            self.min_ms = other.min_ms
        if other.max_ms > self.max_ms:  # noqa: PLR1730
            self.max_ms = other.max_ms
        self.content_length += other.content_length
        if other.loose:
            self.add_loose(other.loose)
        if other._bins:
            merge(self._bins, other._bins)

    def _values(self) -> tuple[Any, ...]:
        return (
            self.num_failures,
            self.num_untimed,
            self.total_ms,
            self.min_ms,
            self.max_ms,
            self.content_length,
            self.bins,
        )

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Numbers) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Numbers{self._values()}"


def merged(parts: Iterable[Numbers]) -> Numbers:
    """The sum of *parts*, which stay as they are."""
    total = Numbers()
    for numbers in parts:
        total.merge(numbers)
    return total


class Series:
    """The requests of one key, per status code."""

    __slots__ = ("_total", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, Numbers] = {}
        self._total: Numbers | None = None

    def add(self, status_code: int, numbers: Numbers) -> None:
        """Take *numbers* over as requests with that status code."""
        self._total = None
        present = self.statuses.setdefault(status_code, numbers)
        if present is not numbers:
            present.merge(numbers)

    def merge(self, status_code: int, numbers: Numbers) -> None:
        """Add *numbers*, which stay as they are, to the requests with that status code."""
        self._total = None
        present = self.statuses.get(status_code)
        if present is None:
            present = self.statuses[status_code] = Numbers()
        present.merge(numbers)

    def __eq__(self, other: object) -> bool:
        return self.statuses == other.statuses if isinstance(other, Series) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Series({self.statuses})"

    def total(self) -> Numbers:
        """All of them together; not to be changed."""
        if self._total is None:
            parts = list(self.statuses.values())
            self._total = parts[0] if len(parts) == 1 else merged(parts)
        return self._total


Row = tuple[Key, int, Numbers]
"""The requests of a series that were answered with one status code."""


class Source(Protocol):
    """Where a window gets its rows from, once they are asked for."""

    def __bool__(self) -> bool:
        """Whether there are any."""

    def rows(self) -> Iterator[Row | None]:
        """Each row once; None for a step on the way to the next."""


class Window:
    """All that was recorded between two hand-overs, and which names were hidden in ``OTHER`` by then."""

    __slots__ = ("_max_rows", "_num_rows", "_rows", "_series", "_source", "_total", "details", "hidden")

    def __init__(
        self,
        source: Source | None = None,
        hidden: Distinct | None = None,
        details: Details | None = None,
        *,
        max_rows: float = math.inf,
    ) -> None:
        self.hidden = Distinct() if hidden is None else hidden
        self.details = Details() if details is None else details
        self._source = source
        self._rows = iter(()) if source is None else source.rows()
        self._max_rows = max_rows
        self._num_rows = 0
        self._series: dict[Key, Series] = {}
        self._total: Numbers | None = None

    @property
    def num_hidden_names(self) -> int:
        """How many names share the series ``OTHER``."""
        return len(self.hidden)

    def settle(self) -> Iterator[None]:
        """Count and add up all that still waits, in small steps: time for others in between."""
        yield from self.collect()
        if self._total is None:
            total = Numbers()
            for series in self._series.values():
                numbers = series.total()
                numbers.count_loose()  # once: an event of the series asks for its histogram, too
                total.merge(numbers)
                yield
            self._total = total

    def collect(self) -> Iterator[None]:
        """Count all that still waits, in small steps, without adding it up."""
        for row in self._rows:
            if row is not None:
                self.add(*row)
            yield

    @property
    def num_requests(self) -> int:
        """All requests of the window."""
        return sum(numbers.num_requests for series in self.series.values() for numbers in series.statuses.values())

    @property
    def series(self) -> dict[Key, Series]:
        """The series by key."""
        for _ in self.collect():
            pass
        return self._series

    def add(self, key: Key, status_code: int, numbers: Numbers) -> None:
        """Take *numbers* over as requests of that series and status code, or of no status code if there is no room."""
        series = self._series.get(key)
        present = None if series is None else series.statuses.get(status_code)
        if series is None or present is None:
            series, status_code = self._place(key, status_code)
            series.add(status_code, numbers)
            return
        # Most of what workers report has its place already: straight there, as each call costs as much as a sum.
        self._total = series._total = None
        present.merge(numbers)

    def merge(self, other: Window, names: Names | None = None) -> Iterator[None]:
        """Add what *other* recorded, in small steps; *other* stays as it is.

        With *names*, only the series that they admit keep theirs.
        """
        yield from other.collect()
        for key, their_series in other.series.items():
            own_key = key if names is None else names.admit(key)
            for their_code, numbers in their_series.statuses.items():
                series, status_code = self._place(own_key, their_code)
                series.merge(status_code, numbers)
            yield
        self._merge_rest(other, names)

    def absorb(self, other: Window, names: Names | None = None) -> Generator[None, None, int]:
        """Add what *other* recorded, in small steps, as :meth:`merge` does; *other* is used up, which is quicker.

        Returns how many requests that were.
        """
        num_requests = num_rows = 0
        their_key: Key | None = None
        for row in other._take_rows():
            if row is None:
                yield
                continue
            key, status_code, numbers = row
            if key is not their_key:  # most reports have the rows of a series one behind the other
                their_key, own_key = key, key if names is None else names.admit(key)
            num_requests += numbers.num_requests
            self.add(own_key, status_code, numbers)
            num_rows += 1
            if num_rows % ROWS_AT_ONCE == 0:
                yield
        self._merge_rest(other, names)
        return num_requests

    def _merge_rest(self, other: Window, names: Names | None) -> None:
        """Add what *other* has besides rows; *other* stays as it is."""
        self.details.merge(other.details, names.admit if names is not None else lambda key: key)
        self.hidden.merge(other.hidden)

    def _take_rows(self) -> Iterator[Row | None]:
        """All rows, which the window thereby loses."""
        return chain(self._take_series(), self._rows)

    def _take_series(self) -> Iterator[Row]:
        while self._series:
            key, series = self._series.popitem()
            for status_code, numbers in series.statuses.items():
                yield key, status_code, numbers

    def _place(self, key: Key, status_code: int) -> tuple[Series, int]:
        """Where requests of that series and status code belong."""
        self._total = None
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series()
        if status_code not in series.statuses and status_code != NO_STATUS:
            if self._num_rows >= self._max_rows:
                return series, NO_STATUS
            self._num_rows += 1
        return series, status_code

    def total(self) -> Numbers:
        """All requests of the window together; not to be changed."""
        for _ in self.settle():
            pass
        return self._total or Numbers()

    def __bool__(self) -> bool:
        return bool(self._series or self._source or self.details)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Window):
            return NotImplemented
        return (self.series, self.hidden, self.details) == (other.series, other.hidden, other.details)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Window({self.series}, {self.num_hidden_names} hidden names)"


class Distinct:
    """How many different keys were seen, in constant memory: exact up to ``SIZE``; above, the standard error is 3 %.

    It keeps the ``SIZE`` smallest hashes and one more, and concludes from how closely they lie (Bar-Yossef, Jayram,
    Kumar, Sivakumar, Trevisan: "Counting Distinct Elements in a Data Stream", RANDOM 2002). The hashes are the same in
    every process, so that what several have seen can be merged.
    """

    SIZE = 1024
    SPAN = 1 << 64
    """Hashes are below."""

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self._smallest: list[int] = []  # a heap of negated hashes: the largest of the kept ones first
        self._kept: set[int] = set()
        for value in hashes:
            self._add(value)

    @property
    def hashes(self) -> list[int]:
        """What it keeps: a :class:`Distinct` of these tells the same."""
        return sorted(self._kept)

    def add(self, key: Key) -> None:
        """Note that *key* was seen."""
        text = f"{len(key.method)} {key.method}{key.name}{key.values or ''}".encode("utf-8", "surrogatepass")
        self._add(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big"))

    def merge(self, other: Distinct) -> None:
        """Note what *other* has seen; *other* stays as it is."""
        for value in other._kept - self._kept:
            self._add(value)

    def copy(self) -> Distinct:
        """One that has seen the same."""
        other = Distinct()
        other._smallest, other._kept = self._smallest.copy(), self._kept.copy()
        return other

    def _add(self, value: int) -> None:
        if value in self._kept:
            return

        if len(self._kept) <= self.SIZE:
            self._kept.add(value)
            heapq.heappush(self._smallest, -value)
        elif value < -self._smallest[0]:
            self._kept.add(value)
            self._kept.remove(-heapq.heapreplace(self._smallest, -value))

    def __len__(self) -> int:
        if len(self._kept) <= self.SIZE:
            return len(self._kept)
        return min(round(self.SIZE * self.SPAN / max(-self._smallest[0], 1)), sys.maxsize)

    def __eq__(self, other: object) -> bool:
        return self._kept == other._kept if isinstance(other, Distinct) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


class Names:
    """Which names of a run have series of their own: those that came first; all others share ``OTHER``."""

    def __init__(self, max_series: int) -> None:
        self._max_series = max_series
        self._admitted: set[Key] = set()
        self.hidden = Distinct()

    def admit(self, key: Key) -> Key:
        """The key itself while the run has room for it, else the one that all further names share."""
        if key in self._admitted or key == OTHER:
            return key
        if len(self._admitted) < self._max_series:
            self._admitted.add(key)
            return key

        self.hidden.add(key)
        return OTHER
