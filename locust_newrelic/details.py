"""What a window tells besides numbers: failures by error, user exceptions, sampled requests, events of the user's own.

All of it is bounded, and what several processes have can be merged. No clock, no I/O, no Locust.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self  # for the type checker only: it is no dependency

    from .acceptable import Attributes
    from .window import Key

MOST_ERRORS, MOST_EXCEPTIONS = 200, 50
"""Different ones in a window; what comes later counts as one of other errors."""

MOST_FAILURES = 1_000
"""Pairs of endpoint (with its dimensions) and error in a window."""

FAILURES_AT_ONCE = 20
"""Such pairs that are merged in a step: some 0.1 ms."""

MOST_ASIDE = 1_000
"""Failures that wait to be counted."""

MOST_SAMPLES = 1_000
"""Sampled requests in a window."""

MOST_RECORDED = 1_000
"""Events of the user's own that a process takes in a window, and that a window has of all processes: ten times that."""

MOST_CHARACTERS = 2_000_000
"""Of the texts in these events of a process; ten times that of all processes."""

OTHER_TEXT = "(other)"


class Error(NamedTuple):
    """What failed a request: the class of the exception (empty for a mere text), and its text as Locust groups it."""

    error_type: str
    error: str


class Failure(NamedTuple):
    """What failed requests have in common that are counted together."""

    key: Key
    error_type: str
    error: str

    @property
    def other(self) -> Failure:
        """Where it is counted when there are too many: the endpoint stays."""
        return Failure(self.key, OTHER_TEXT, OTHER_TEXT)


class UserException(NamedTuple):
    """What exceptions in users' tasks have in common that are counted together."""

    user_class: str
    error_type: str
    error: str
    traceback: str

    @property
    def other(self) -> UserException:
        """Where it is counted when there are too many."""
        return UserException("", OTHER_TEXT, OTHER_TEXT, "")


class _Countable(Protocol):
    def __hash__(self) -> int: ...

    @property
    def other(self) -> Self: ...


_C = TypeVar("_C", bound=_Countable)


class Tally(dict[_C, int], Generic[_C]):
    """How often things happened that are the same; the first *most* different ones by themselves."""

    __slots__ = ("_most",)

    def __init__(self, most: int) -> None:
        self._most = most

    def add(self, what: _C, number: int = 1) -> None:
        """Count it, that many times."""
        present = self.get(what)
        if present is None:
            what = self._place_of(what)
            present = self.get(what, 0)
        self[what] = present + number

    def _place_of(self, what: _C) -> _C:
        """Where something is counted that was not there before."""
        return what.other if len(self) >= self._most else what


class Failures(Tally[Failure]):
    """How often each error failed each endpoint."""

    __slots__ = ("_errors",)

    def __init__(self) -> None:
        super().__init__(MOST_FAILURES)
        self._errors: set[str] = set()

    def _place_of(self, what: Failure) -> Failure:
        if what.error not in self._errors and what.error != OTHER_TEXT:
            if len(self._errors) >= MOST_ERRORS:
                what = what.other
            else:
                self._errors.add(what.error)
        return super()._place_of(what)

    def add_all(self, failures: list[tuple[Failure, int]]) -> None:
        """Count all of those: at once, if they are the first ones, all different, and not too many."""
        numbers = dict(failures)
        errors = {what.error for what in numbers}
        if self or len(numbers) < len(failures) or len(numbers) > MOST_FAILURES or len(errors) > MOST_ERRORS:
            for what, number in failures:
                self.add(what, number)
        else:
            self.update(numbers)
            self._errors = errors - {OTHER_TEXT}


@dataclass(frozen=True)
class Sample:
    """One request."""

    lot: float
    """The random number, from 0 to 1, by which it was drawn."""
    key: Key
    timestamp_ms: int | None
    """When it was made, by the clock of its process; None if that is not known."""
    response_time_ms: float | None
    content_length: float
    status_code: int
    url: str | None
    error: Error | None
    context: Attributes


class Samples:
    """A uniform sample of requests: those with the smallest lots, at most ``MOST_SAMPLES``.

    Samples of several processes are merged in the same way. The share of all requests that a sample stands for is the
    rate at which lots were drawn or, when there were too many, the smallest lot that had no room ("bottom-k sketches":
    Cohen, Kaplan: "Summarizing Data using Bottom-k Sketches", PODC 2007).
    """

    __slots__ = ("_kept", "_most", "_numbers", "bound")

    def __init__(self, most: int = MOST_SAMPLES) -> None:
        self._most = most
        self._kept: list[tuple[float, int, Sample]] = []  # a heap, the largest lot first; the number decides draws
        self._numbers = count()
        self.bound = 1.0
        """Lots from here on have no room."""

    def has_room_for(self, lot: float) -> bool:
        """Whether a request with that lot belongs to the sample; if not, the bound tells of it from now on."""
        if len(self._kept) < self._most:
            return lot < self.bound
        if lot < -self._kept[0][0]:
            return True
        self.bound = min(self.bound, lot)
        return False

    def add(self, sample: Sample) -> None:
        """Take the request in, if its lot is small enough."""
        if not self.has_room_for(sample.lot):
            return
        item = (-sample.lot, next(self._numbers), sample)
        if len(self._kept) < self._most:
            heapq.heappush(self._kept, item)
        else:
            lot, _, _ = heapq.heapreplace(self._kept, item)
            self.bound = min(self.bound, -lot)

    def merge(self, other: Samples, rename: Callable[[Key], Key]) -> Iterator[None]:
        """Add what *other* has, which stays as it is, in small steps."""
        self.lower(other.bound)
        for sample in other:
            self.add(replace(sample, key=rename(sample.key)))
            yield

    def lower(self, bound: float) -> None:
        """Lots from *bound* on have no room, as they had none elsewhere."""
        self.bound = min(self.bound, bound)
        if any(sample.lot >= self.bound for sample in self):
            kept = [item for item in self._kept if -item[0] < self.bound]
            heapq.heapify(kept)
            self._kept = kept

    def shift(self, shift_ms: int) -> None:
        """Move the requests by so many ms."""
        self._kept = [
            (order, number, replace(sample, timestamp_ms=sample.timestamp_ms + shift_ms))
            if sample.timestamp_ms is not None
            else (order, number, sample)
            for order, number, sample in self._kept
        ]

    def __iter__(self) -> Iterator[Sample]:
        return (sample for _, _, sample in self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Samples):
            return NotImplemented
        return (self.bound, sorted(map(repr, self))) == (other.bound, sorted(map(repr, other)))

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Recorded:
    """An event of the user's own."""

    event_type: str
    timestamp_ms: int
    """By the clock of its process."""
    attributes: Attributes


class Records:
    """Events of the user's own: the first *most* of them, and with so many characters of text at the most."""

    __slots__ = ("_most", "_room", "events", "num_refused")

    def __init__(self, most: int = MOST_RECORDED, most_characters: int = MOST_CHARACTERS) -> None:
        self._most, self._room = most, most_characters
        self.events: list[Recorded] = []
        self.num_refused = 0
        """How many there was no room for."""

    def add(self, event: Recorded) -> None:
        """Take it in, if there is room."""
        characters = sum(len(value) for value in event.attributes.values() if isinstance(value, str))
        if len(self.events) < self._most and characters <= self._room:
            self.events.append(event)
            self._room -= characters
        else:
            self.num_refused += 1

    def merge(self, other: Records) -> Iterator[None]:
        """Add what *other* has, which stays as it is, in small steps."""
        self.num_refused += other.num_refused
        for event in other.events:
            self.add(event)
            yield

    def shift(self, shift_ms: int) -> None:
        """Move the events by so many ms."""
        self.events = [replace(event, timestamp_ms=event.timestamp_ms + shift_ms) for event in self.events]

    def __bool__(self) -> bool:
        return bool(self.events or self.num_refused)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Records):
            return NotImplemented
        return (self.events, self.num_refused) == (other.events, other.num_refused)

    __hash__ = None  # type: ignore[assignment]


class Details:
    """All of this, of one window: each part is made when it is first asked for, as most windows have few of them."""

    __slots__ = ("_aside", "_exceptions", "_failures", "_num_processes", "_records", "_samples")

    def __init__(self, num_processes: int = 1) -> None:
        self._num_processes = num_processes
        self._aside: list[Failure] = []
        self._failures: Failures | None = None
        self._exceptions: Tally[UserException] | None = None
        self._samples: Samples | None = None
        self._records: Records | None = None

    @property
    def failures(self) -> Failures:
        """Failed requests, by endpoint and error."""
        self.count()
        if self._failures is None:
            self._failures = Failures()
        return self._failures

    @property
    def exceptions(self) -> Tally[UserException]:
        """Exceptions in users' tasks."""
        if self._exceptions is None:
            self._exceptions = Tally(MOST_EXCEPTIONS)
        return self._exceptions

    @property
    def samples(self) -> Samples:
        """Sampled requests."""
        if self._samples is None:
            self._samples = Samples()
        return self._samples

    @property
    def records(self) -> Records:
        """Events of the user's own."""
        if self._records is None:
            number = self._num_processes
            self._records = Records(number * MOST_RECORDED, number * MOST_CHARACTERS)
        return self._records

    def put_aside(self, failure: Failure) -> None:
        """Count a failed request, but later: to look up many at once costs less than one by one."""
        self._aside.append(failure)
        if len(self._aside) >= MOST_ASIDE:
            self.count()

    def count(self) -> None:
        """Count what was put aside; it is also done when it is asked for."""
        if self._aside:
            aside, self._aside = self._aside, []
            self.failures.add_all(list(Counter(aside).items()))

    def parts(self) -> list[tuple[str, Any]]:
        """The parts that there are, each with its name."""
        self.count()
        parts = {
            "failures": self._failures,
            "exceptions": self._exceptions,
            "samples": self._samples,
            "records": self._records,
        }
        return [(name, part) for name, part in parts.items() if part is not None]

    def without_failures(self) -> Details:
        """All but the failures; it shares the rest with this one."""
        other = Details(self._num_processes)
        other._exceptions, other._samples, other._records = self._exceptions, self._samples, self._records
        return other

    def merge(self, other: Details, rename: Callable[[Key], Key] = lambda key: key) -> Iterator[None]:
        """Add what *other* has, which stays as it is, in small steps; *rename* says under which key requests count."""
        other.count()
        for nth, (failure, number) in enumerate((other._failures or {}).items(), 1):
            key = rename(failure.key)
            self.failures.add(failure if key is failure.key else failure._replace(key=key), number)
            if nth % FAILURES_AT_ONCE == 0:  # each report has some
                yield
        for exception, number in (other._exceptions or {}).items():
            self.exceptions.add(exception, number)
        if other._samples is not None:
            yield from self.samples.merge(other._samples, rename)
        if other._records is not None:
            yield from self.records.merge(other._records)

    def shift(self, shift_ms: int) -> None:
        """Move what happened at some moment by so many ms."""
        self.samples.shift(shift_ms)
        self.records.shift(shift_ms)

    def __bool__(self) -> bool:
        return bool(self._aside or self._failures or self._exceptions or self._samples or self._records)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Details):
            return NotImplemented
        return (self.failures, self.exceptions, self.samples, self.records) == (
            other.failures,
            other.exceptions,
            other.samples,
            other.records,
        )

    __hash__ = None  # type: ignore[assignment]
