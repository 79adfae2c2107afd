"""What happened in one interval, per series, bounded. No clock, no I/O, no Locust.

:class:`Recorder` counts requests into the open window; :meth:`Recorder.take` hands that window over and opens the next.
Windows of several processes are merged into one.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import sys
from array import array
from bisect import bisect_left
from collections import Counter
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .histogram import LARGEST_MS, Bins, Scale, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

LONGEST_NAME = 4096
"""Characters of a method or a name that are kept: what New Relic stores of an attribute's value."""

LARGEST_STATUS_CODE = 9999
STATUS_CODES_PER_SERIES, MOST_STATUS_CODES = 10, 64
"""A window keeps numbers for ten status codes per series it may have, and 64 more; further ones are ``NO_STATUS``."""

NO_STATUS = 0
"""The status code of a request without a response, or whose response has none."""

LARGEST_CONTENT_LENGTH = 1 << 62
"""In bytes; what is beyond is no content length, and counts as 0."""

LONGEST_PENDING, MOST_PENDING = 2_000, 50_000
"""Requests of a kind, and of all kinds, that wait to be counted: the more at once, the less each of them costs."""

LONGEST_LOOSE = 2_000
"""Of so many requests at the most the bins are kept one by one: up to there that costs less than to count them."""

FEW = 200
"""Requests of a kind of which each is looked up by itself."""

_Pending = dict["int | None", dict[str, dict[str, list[Any]]]]
"""By status code, method and name: response time and content length of one request after the other."""

_MISSING = object()


def most_rows(max_series: int) -> int:
    """For how many pairs of series and status code a window keeps numbers."""
    return max_series * STATUS_CODES_PER_SERIES + MOST_STATUS_CODES


class Key(NamedTuple):
    """The name of a series: what Locust keeps an entry of its statistics for."""

    method: str
    name: str


class Kind(NamedTuple):
    """What requests have in common that are counted together."""

    key: Key
    status_code: int
    failed: bool


OTHER = Key("", "(other)")
"""The series that all names share which came after a run had as many series as it may have."""


class Numbers:
    """Requests counted together: exact counts, sums and extremes, and the response times' histogram."""

    __slots__ = ("_bins", "content_length", "loose", "max_ms", "min_ms", "num_failures", "num_untimed", "total_ms")

    def __init__(self) -> None:
        self.num_failures = 0
        self.num_untimed = 0
        """Requests without a usable response time: None, negative, NaN or infinite."""
        self.total_ms = 0.0
        self.min_ms = math.inf
        self.max_ms = -math.inf
        self.content_length: float = 0
        self._bins: Bins = {}
        self.loose: array[int] = _NONE_LOOSE
        """The bins of some requests, one by one, that are not counted in a histogram yet; never changed in place.

        As long as they are few, to copy them is a fraction of the cost of counting: when they are recorded, sent by a
        worker, checked and merged.
        """

    @property
    def bins(self) -> Bins:
        """The histogram of all response times."""
        if self.loose:
            loose, self.loose = self.loose, _NONE_LOOSE
            merge(self._bins, Counter(loose))
        return self._bins

    @bins.setter
    def bins(self, bins: Bins) -> None:
        self._bins, self.loose = bins, _NONE_LOOSE

    @property
    def counted(self) -> Bins:
        """The histogram but for what is loose."""
        return self._bins

    def add_loose(self, loose: array[int]) -> None:
        """Count requests in those bins, one for each."""
        self.loose = self.loose + loose if self.loose else loose
        if len(self.loose) > LONGEST_LOOSE:
            self.bins  # noqa: B018  (counts them)

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
        if self._bins:
            merge(self._bins, other._bins)
        else:
            self._bins = dict(other._bins)

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


_NONE_LOOSE = array("H")


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
        if status_code in self.statuses:
            self.merge(status_code, numbers)
        else:
            self._total = None
            self.statuses[status_code] = numbers

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


class Counts:
    """The numbers of a window by series and status code, and the requests that wait to be counted there."""

    def __init__(self, scale: Scale, max_numbers: int) -> None:
        self.numbers: dict[tuple[Key, int], Numbers] = {}
        self.waiting: list[tuple[Kind, list[Any]]] = []
        self._scale = scale
        self._max_numbers = max_numbers

    def __bool__(self) -> bool:
        return bool(self.numbers or self.waiting)

    def rows(self) -> Iterator[Row | None]:
        """Count what waits, with None for each step, then hand over row after row."""
        while self.waiting:
            self.count_many(*self.waiting.pop())
            yield None
        while self.numbers:
            (key, status_code), numbers = self.numbers.popitem()
            yield key, status_code, numbers

    def count(self, kind: Kind, response_time_ms: float, content_length: float) -> None:
        """Count one request."""
        numbers = self._place(kind)
        numbers.num_failures += kind.failed
        numbers.content_length += content_length
        try:
            self._scale.record(numbers.bins, response_time_ms)
        except ValueError:
            numbers.num_untimed += 1
            return

        numbers.total_ms += response_time_ms
        numbers.min_ms = min(numbers.min_ms, response_time_ms)
        numbers.max_ms = max(numbers.max_ms, response_time_ms)

    def count_many(self, kind: Kind, times_and_lengths: list[Any]) -> None:
        """Count requests of a kind: response time and content length of one after the other, whatever they are."""
        times, lengths = times_and_lengths[::2], times_and_lengths[1::2]
        few = len(times) <= FEW
        bins, loose = {}, _NONE_LOOSE
        try:
            total_ms, content_length = sum(times), sum(lengths)
            if not few:
                times.sort()
            low_ms, high_ms = float(min(times)), float(max(times))
            # The sum tells of each: it is NaN if one is, and NumPy's, which may have overflown, if one is NumPy's.
            usual = type(total_ms) in (float, int) and total_ms < math.inf and low_ms >= 0 and high_ms <= LARGEST_MS
            usual = usual and type(content_length) is int and abs(content_length) < LARGEST_CONTENT_LENGTH
            total_ms = float(total_ms)
            numbers = self._place(kind)
            if usual and few:
                loose = array("H", map(bisect_left, repeat(self._scale.edges), times))
            elif usual:
                bins = self._with_sorted(numbers.bins, times)
        except Exception:
            usual = False

        if not usual:
            for response_time, length in zip(times, lengths, strict=True):
                if response_time is not _MISSING and length is not _MISSING:
                    self.count(kind, _number(response_time), _length(length))
            return

        numbers.total_ms += total_ms
        numbers.content_length += content_length
        numbers.min_ms = min(numbers.min_ms, low_ms)
        numbers.max_ms = max(numbers.max_ms, high_ms)
        if few:
            numbers.add_loose(loose)
        else:
            numbers.bins = bins
        if kind.failed:
            numbers.num_failures += len(times)

    def _with_sorted(self, bins: Bins, times: list[float]) -> Bins:
        """*bins*, which stay as they are, with *times* counted as well; neighbours share a lookup."""
        edges = self._scale.edges
        bins = dict(bins)
        index, edge, count = 0, -math.inf, 0
        for time in times:
            if time > edge:
                bins[index] = bins.get(index, 0) + count
                index = bisect_left(edges, time, index)
                edge, count = edges[index], 0
            count += 1
        bins[index] = bins.get(index, 0) + count
        del bins[0]  # the nothing that was counted before the first

        return bins

    def _place(self, kind: Kind) -> Numbers:
        """The numbers of that series and status code, or of the series alone once the window has too many."""
        place = (kind.key, kind.status_code)
        if place not in self.numbers and len(self.numbers) >= self._max_numbers:
            place = (kind.key, NO_STATUS)

        return self.numbers.setdefault(place, Numbers())


class Source(Protocol):
    """Where a window gets its rows from, once they are asked for."""

    def __bool__(self) -> bool:
        """Whether there are any."""

    def rows(self) -> Iterator[Row | None]:
        """Each row once; None for a step on the way to the next."""


class Window:
    """All that was recorded between two hand-overs, and which names were hidden in ``OTHER`` by then."""

    __slots__ = ("_max_rows", "_num_rows", "_rows", "_series", "_source", "_total", "hidden")

    def __init__(
        self, source: Source | None = None, hidden: Distinct | None = None, *, max_rows: float = math.inf
    ) -> None:
        self.hidden = Distinct() if hidden is None else hidden
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
                total.merge(series.total())
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
        series, status_code = self._place(key, status_code)
        series.add(status_code, numbers)

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
        self.hidden.merge(other.hidden)

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
        return bool(self._series or self._source)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Window):
            return NotImplemented
        return (self.series, self.hidden) == (other.series, other.hidden)

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
        text = f"{len(key.method)} {key.method}{key.name}".encode("utf-8", "surrogatepass")
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


class Recorder:
    """Counts requests into the open window.

    :attr:`on_request` is the listener for Locust's ``events.request``: it takes whatever a custom client may fire, and
    never raises. What it costs is added to every request that Locust makes, and no design was found to be as cheap:

    - The listener only finds the list of its kind of request (by outcome, status code, method and name) and appends the
      response time and the content length to it. It is a closure over plain dicts, without a single attribute access.
    - A list that has become long is counted as a whole, which costs the less the longer it is. The others are handed
      over with their window, to be counted later, bit by bit.
    - All that is unusual (the first request of its kind in a run, a value that is odd in any way) goes to
      :meth:`record`, which is as careful as it is slow.
    """

    def __init__(self, scale: Scale, max_series: int) -> None:
        self.names = Names(max_series)
        """Those of the run."""
        self._scale = scale
        self._max_series = max_series
        self._max_kinds = most_rows(max_series)
        self._counts = Counts(scale, self._max_kinds)
        self._pending: tuple[_Pending, _Pending] = ({}, {})  # without and with an exception
        self._num_kinds = 0
        self.on_request, self._set_longest = self._listener()

    def _listener(self) -> tuple[Callable[..., None], Callable[[int], None]]:
        """The listener, and how to tell it the length from which a list is counted."""
        (passed, failed), count_pending, record = self._pending, self._count_pending, self.record
        longest = 2 * LONGEST_PENDING

        def on_request(
            request_type: Any = _MISSING,
            name: Any = _MISSING,
            response_time: Any = _MISSING,
            response_length: Any = _MISSING,
            response: Any = None,
            exception: Any = None,
            context: Any = None,  # noqa: ARG001 (not used, but a name of its own is cheaper than a place in **_)
            start_time: Any = None,  # noqa: ARG001
            url: Any = None,  # noqa: ARG001
            **_: Any,
        ) -> None:
            try:
                kinds = failed if exception else passed
                status_code = getattr(response, "status_code", None)
                pending = kinds[status_code][request_type][name]
            except Exception:
                record(request_type, name, response_time, response_length, response, exception)
                return

            pending += response_time, response_length  # in one step: a Ctrl-C between two would swap all that follow
            if len(pending) >= longest:
                count_pending(pending, kinds is failed, status_code, request_type, name)

        def set_longest(requests: int) -> None:
            nonlocal longest
            longest = 2 * requests

        return on_request, set_longest

    def record(
        self,
        request_type: object,
        name: object,
        response_time: object,
        response_length: object,
        response: object = None,
        exception: object = None,
    ) -> None:
        """Count one request, whatever its values are.

        One that lacks an argument which Locust's own statistics require is not counted, as it is not by Locust.
        """
        if any(value is _MISSING for value in (request_type, name, response_time, response_length)):
            return

        # All foreign code (their attributes, __str__, __bool__, __float__) runs before the place to count is looked up:
        # should any of it switch greenlets, the window may be another one afterwards.
        method_text, name_text = as_text(request_type), as_text(name)
        seen = _attribute(response, "status_code")
        status_code = _status_code(seen)
        failed = _truth(exception)
        response_time_ms, length = _number(response_time), _length(response_length)

        key = self.names.admit(Key(method_text, name_text))
        self._counts.count(Kind(key, status_code, failed), response_time_ms, length)

        same = type(request_type) is type(name) is str and key == (request_type, name)
        if same and (seen is None or (type(seen) is int and seen == status_code)):
            self._expect(failed, seen, key)

    def take(self) -> Window:
        """The open window, which is thereby closed; the next one opens. Nothing is lost or counted twice in between."""
        self._hand_over_pending()
        counts, self._counts = self._counts, Counts(self._scale, self._max_kinds)
        return Window(counts, self.names.hidden.copy(), max_rows=self._max_kinds)

    def forget_names(self) -> None:
        """Admit names from the beginning again, for a new run; what is not taken yet is kept."""
        self._hand_over_pending()
        for kinds in self._pending:
            kinds.clear()  # in place: the listener holds these very dicts
        self._num_kinds = 0
        self.names = Names(self._max_series)

    def _hand_over_pending(self) -> None:
        """Leave what the listener has put aside to the open window."""
        for failed, kinds in zip((False, True), self._pending, strict=True):
            for status_code, methods in kinds.items():
                for method, names in methods.items():
                    for name, pending in names.items():
                        if pending:
                            names[name] = []
                            self._counts.waiting.append((_kind(failed, status_code, method, name), pending))

    def _count_pending(self, pending: list[Any], failed: bool, status_code: int | None, method: str, name: str) -> None:
        """Count what the listener has put aside for one kind of request."""
        requests = pending.copy()
        pending.clear()
        self._counts.count_many(_kind(failed, status_code, method, name), requests)

    def _expect(self, failed: bool, seen: int | None, key: Key) -> None:
        """Let the listener find requests like this one, as long as there is room."""
        if self._num_kinds < self._max_kinds:
            names = self._pending[failed].setdefault(seen, {}).setdefault(key.method, {})
            self._num_kinds += key.name not in names
            names.setdefault(key.name, [])
            self._set_longest(min(LONGEST_PENDING, MOST_PENDING // self._num_kinds + 1))


def _kind(failed: bool, status_code: int | None, method: str, name: str) -> Kind:
    """The kind of those requests for which the listener looks up these values."""
    return Kind(Key(method, name), _status_code(status_code), failed)


def _attribute(thing: object, name: str) -> object:
    """The attribute, or None if there is none or it cannot be read."""
    try:
        return getattr(thing, name, None)
    except Exception:
        return None


def as_text(value: object) -> str:
    """A name as text, at most ``LONGEST_NAME`` characters of it.

    Of a subclass of text, as an enumeration may be, it is the text that the value equals, whatever ``str`` makes of it.
    """
    try:
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        return str.__str__(text if isinstance(text, str) else str(text))[:LONGEST_NAME]
    except Exception:
        return f"<{type(value).__name__}>"


def _status_code(value: object) -> int:
    """The status code as a plain integer, ``NO_STATUS`` if it is none."""
    try:
        code = int(value)  # type: ignore[call-overload]
    except Exception:
        return NO_STATUS

    return code if 0 <= code <= LARGEST_STATUS_CODE else NO_STATUS


def _truth(value: object) -> bool:
    """Whether Locust takes *value* for an exception; one whose truth cannot be told fails in Locust as well."""
    try:
        return bool(value)
    except Exception:
        return False


def _number(value: object) -> float:
    """The value as a float, NaN if it is no number; text is none, for Locust either."""
    try:
        return math.nan if isinstance(value, (str, bytes)) else float(value)  # type: ignore[arg-type]
    except Exception:
        return math.nan


def _length(value: object) -> float:
    """The content length, 0 if it is no number."""
    number = _number(value)
    if not abs(number) < LARGEST_CONTENT_LENGTH:  # NaN is not below anything
        return 0
    return int(number) if number.is_integer() else number
