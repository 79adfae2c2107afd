"""What happened in one interval, per series, bounded. No clock, no I/O, no Locust.

Windows of several processes are merged into one.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import sys
from array import array
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from .details import Details
from .histogram import Bins, count, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

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

FREED_AT_ONCE = 20
"""Of so many series or rows at a time the memory is freed."""


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


NO_BINS: Bins = {}
NONE_LOOSE = array("H")
"""What numbers have in place of a histogram, or of loose bins, of their own: never changed."""

Values = tuple[int, int, int, float, float, float, float, Bins, "array[int]"]
"""What :class:`Numbers` holds: the arguments of its ``add``."""

Row = tuple["Key", int, Values]
"""The requests of a series that were answered with one status code."""


class Numbers:
    """Requests counted together: exact counts, sums and extremes, and the response times' histogram."""

    __slots__ = (
        "_bins",
        "content_length",
        "loose",
        "max_ms",
        "min_ms",
        "num_failures",
        "num_requests",
        "num_untimed",
        "total_ms",
    )

    def __init__(self) -> None:
        self.num_requests = 0
        self.num_failures = 0
        self.num_untimed = 0
        """Requests without a usable response time: None, negative, NaN or infinite."""
        self.content_length: float = 0
        self.total_ms = 0.0
        self.min_ms = math.inf
        self.max_ms = -math.inf
        self._bins = NO_BINS
        self.loose = NONE_LOOSE
        """The bins of some requests, one by one, that are not counted in a histogram yet; never changed in place.

        As long as they are few, to copy them is a fraction of the cost of counting: when they are recorded, sent by a
        worker, checked and merged.
        """

    def add(
        self,
        num_requests: int,
        num_failures: int,
        num_untimed: int,
        content_length: float,
        total_ms: float,
        min_ms: float,
        max_ms: float,
        bins: Bins,
        loose: array[int],
    ) -> None:
        """Count in what others have counted: *loose* are the bins of requests that are not in *bins*."""
        self.num_requests += num_requests
        self.num_failures += num_failures
        self.num_untimed += num_untimed
        self.content_length += content_length
        self.total_ms += total_ms
        if min_ms < self.min_ms:  # noqa: PLR1730  (a third of the time that min() takes)
            self.min_ms = min_ms
        if max_ms > self.max_ms:  # noqa: PLR1730
            self.max_ms = max_ms
        if bins:
            merge(self._own_bins(), bins)
        if loose:
            self.loose = self.loose + loose if self.loose else loose
            if len(self.loose) > LONGEST_LOOSE:
                self.count_loose()

    def merge(self, other: Numbers) -> None:
        """Add what *other* counted; *other* stays as it is."""
        self.add(*values_of(other))

    @property
    def bins(self) -> Bins:
        """The histogram of all response times."""
        self.count_loose()
        return self._own_bins()

    @bins.setter
    def bins(self, bins: Bins) -> None:
        self._bins, self.loose = bins, NONE_LOOSE

    def count_loose(self) -> None:
        """Count in the histogram what is loose."""
        if self.loose:
            loose, self.loose = self.loose, NONE_LOOSE
            count(self._own_bins(), loose)

    def _own_bins(self) -> Bins:
        if self._bins is NO_BINS:
            self._bins = {}
        return self._bins

    @property
    def num_timed(self) -> int:
        """Requests with a response time."""
        return self.num_requests - self.num_untimed

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Numbers):
            return NotImplemented
        self.count_loose()
        other.count_loose()
        return values_of(self) == values_of(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Numbers{values_of(self)}"


values_of: Callable[[Numbers], Values] = attrgetter(
    "num_requests",
    "num_failures",
    "num_untimed",
    "content_length",
    "total_ms",
    "min_ms",
    "max_ms",
    "_bins",
    "loose",
)
"""All that they hold, in the order of :data:`Values`, at once: it is asked for with each row of a report."""


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

    def forget_total(self) -> None:
        """Note that there will be more."""
        self._total = None

    def total(self) -> Numbers:
        """All of them together; not to be changed."""
        if self._total is None:
            parts = list(self.statuses.values())
            self._total = parts[0] if len(parts) == 1 else merged(parts)
        return self._total

    def __eq__(self, other: object) -> bool:
        return self.statuses == other.statuses if isinstance(other, Series) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Series({self.statuses})"


class Source(Protocol):
    """Where a window gets its rows from, once they are asked for."""

    def __bool__(self) -> bool:
        """Whether there are any."""

    def count(self) -> Iterator[None]:
        """Count what still has to be counted, in small steps."""

    def rows(self) -> Iterable[Row]:
        """All rows, once they are counted."""

    def take_rows(self) -> Iterator[Row]:
        """All rows, each of which the source thereby loses: what thousands of them hold is freed bit by bit."""


class Window:
    """All that was recorded between two hand-overs, and which names were hidden in ``OTHER`` by then."""

    __slots__ = ("_max_rows", "_num_rows", "_series", "_source", "_total", "details", "hidden")

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
        self._max_rows = max_rows
        self._num_rows = 0
        self._series: dict[Key, Series] = {}
        self._total: Numbers | None = None

    @property
    def num_hidden_names(self) -> int:
        """How many names share the series ``OTHER``."""
        return len(self.hidden)

    @property
    def num_requests(self) -> int:
        """All requests of the window."""
        return sum(values[0] for _, _, values in self.rows())

    @property
    def series(self) -> dict[Key, Series]:
        """The series by key; the rows of a source are sorted into them now, all at once."""
        if self._source:
            for _ in self.count():
                pass
            for key, status_code, values in self._source.take_rows():
                self.place(key, status_code).add(*values)
        return self._series

    def count(self) -> Iterator[None]:
        """Count all that still waits, in small steps: time for others in between."""
        if self._source is not None:
            yield from self._source.count()
        self.details.count()

    def settle(self) -> Iterator[None]:
        """Add up all of it, in small steps."""
        if self._total is None:
            total = Numbers()
            for series in self.series.values():
                numbers = series.total()
                numbers.count_loose()  # once: an event of the series asks for its histogram, too
                total.merge(numbers)
                yield
            self._total = total

    def total(self) -> Numbers:
        """All requests of the window together; not to be changed."""
        for _ in self.settle():
            pass
        return self._total or Numbers()

    def rows(self) -> Iterable[Row]:
        """All rows; those of a source as they come, which is quicker than to have them sorted by series first."""
        if self._source and not self._series:
            for _ in self.count():
                pass
            return self._source.rows()

        return (
            (key, status_code, values_of(numbers))
            for key, series in self.series.items()
            for status_code, numbers in series.statuses.items()
        )

    def clear(self) -> Iterator[None]:
        """Forget its rows in small steps, as to free thousands of them takes ms; it is not to be used any more."""
        while len(self._series) > FREED_AT_ONCE:
            for _ in range(FREED_AT_ONCE):
                self._series.popitem()
            yield
        rows = iter(()) if self._source is None else self._source.take_rows()
        while list(islice(rows, FREED_AT_ONCE)):
            yield

    def place(self, key: Key, status_code: int) -> Numbers:
        """Where requests of that series and status code are counted; without a status code if there is no room."""
        self._total = None
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series()
        series.forget_total()
        present = series.statuses.get(status_code)
        if present is not None:
            return present

        if status_code != NO_STATUS:
            if self._num_rows >= self._max_rows:
                return series.statuses.setdefault(NO_STATUS, Numbers())
            self._num_rows += 1
        series.statuses[status_code] = numbers = Numbers()
        return numbers

    def merge(self, other: Window, names: Names | None = None) -> Generator[None, None, int]:
        """Add what *other* recorded, in small steps; *other* stays as it is.

        With *names*, only the series that they admit keep theirs. Returns how many requests that were.
        """
        yield from other.count()
        num_requests = 0
        their_key: Key | None = None
        for number, (key, status_code, values) in enumerate(other.rows(), 1):
            if key is not their_key:  # often rows of a series follow each other
                their_key, own_key = key, key if names is None else names.admit(key)
            self.place(own_key, status_code).add(*values)
            num_requests += values[0]
            if number % ROWS_AT_ONCE == 0:
                yield
        yield from self.details.merge(other.details, names.admit if names is not None else lambda key: key)
        self.hidden.merge(other.hidden)
        return num_requests

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
