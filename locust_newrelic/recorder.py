"""Requests into the open window: what it takes from Locust's hooks, and what that costs. No clock, no I/O, no Locust.

:class:`Recorder` counts requests into the open window; :meth:`Recorder.take` hands that window over and opens the next.
"""

from __future__ import annotations

import math
import random
import traceback
from array import array
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from .acceptable import LONGEST_VALUE, acceptable, address_only, with_acceptable_names, without_secrets
from .details import MOST_FAILURES, Details, Error, Failure, Recorded, Sample, UserException
from .histogram import LARGEST_MS, Scale
from .window import (
    LARGEST_CONTENT_LENGTH,
    LARGEST_STATUS_CODE,
    NO_BINS,
    NO_STATUS,
    NONE_LOOSE,
    Key,
    Names,
    Numbers,
    Window,
    most_rows,
    values_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from .acceptable import Attributes
    from .window import Row, Values

LONGEST_PENDING, MOST_PENDING = 2_000, 80_000
"""Requests of a kind, and of all kinds, that wait to be counted: the more at once, the less each of them costs."""

MOST_OF_CONTEXT, LONGEST_OF_CONTEXT = 50, 256
"""Keys of a sampled request's context that are kept, and characters of the text under each of them."""

MANY_PENDING = 50
"""So many requests of a kind are worth counting before their window ends."""

_Pending = dict["int | None", dict[str, dict[Any, list[Any]]]]
"""By status code, method and name (or name and dimensions): response time and content length, one after the other."""

_Kinds = dict["int | None", dict[str, dict[Any, "Kind"]]]
"""What requests are, by the same."""

_CUT = "...\n"

_MISSING = object()


class Kind(NamedTuple):
    """What requests have in common that are counted together."""

    key: Key
    status_code: int
    failed: bool


class Counts:
    """The numbers of a window by series and status code, and the requests that wait to be counted there."""

    def __init__(self, scale: Scale, max_places: int) -> None:
        self.waiting: list[tuple[dict[Any, list[Any]], dict[Any, Kind]]] = []
        """Requests by place, response times and content lengths by turns, and the kinds of these places."""
        self._counted: dict[tuple[Key, int], Row] = {}
        self._summed: dict[tuple[Key, int], Numbers] = {}
        """Where more came than what was counted first; most places have no more than that."""
        self._scale = scale
        self._max_places = max_places

    def __bool__(self) -> bool:
        return bool(self._counted or self.waiting)

    def count(self) -> Iterator[None]:
        """Count what waits, in small steps."""
        while self.waiting:
            requests, kinds = self.waiting[-1]
            if requests:
                place, times_and_lengths = requests.popitem()
                self.count_many(kinds[place], times_and_lengths)
                yield
            else:
                self.waiting.pop()

    def rows(self) -> Iterable[Row]:
        """What is counted."""
        if not self._summed:
            return self._counted.values()
        return (
            (*place, values_of(self._summed[place])) if place in self._summed else row
            for place, row in self._counted.items()
        )

    def take_rows(self) -> Iterator[Row]:
        """What is counted, which is thereby forgotten."""
        while self._counted:
            place, row = self._counted.popitem()
            numbers = self._summed.pop(place, None)
            yield row if numbers is None else (*place, values_of(numbers))

    def count_one(self, kind: Kind, time_ms: float, content_length: float) -> None:
        """Count one request."""
        self.add(kind, _values_of_one(self._scale, kind.failed, time_ms, content_length))

    def count_many(self, kind: Kind, times_and_lengths: list[Any]) -> None:
        """Count requests of a kind: response time and content length of one after the other, whatever they are."""
        for values in values_of_many(self._scale, kind.failed, times_and_lengths):
            self.add(kind, values)

    def add(self, kind: Kind, values: Values) -> None:
        """Add to the numbers of that series and status code, or of the series alone once the window has too many."""
        place = (kind.key, kind.status_code)
        if place not in self._counted and len(self._counted) >= self._max_places:
            place = (kind.key, NO_STATUS)

        if place not in self._counted:
            self._counted[place] = (*place, values)
            return
        if place not in self._summed:
            _, _, before = self._counted[place]
            self._summed[place] = Numbers()
            self._summed[place].add(*before)
        self._summed[place].add(*values)


def values_of_many(scale: Scale, failed: bool, times_and_lengths: list[Any]) -> Iterator[Values]:
    """What requests are together, or each of them if one is odd; response times and content lengths by turns."""
    times, lengths = times_and_lengths[::2], times_and_lengths[1::2]
    try:
        total_ms, content_length = sum(times), sum(lengths)
        low_ms, high_ms = float(min(times)), float(max(times))
        # The sum tells of each: it is NaN if one is, and NumPy's, which may have overflown, if one is NumPy's.
        usual = type(total_ms) in (float, int) and total_ms < math.inf and low_ms >= 0 and high_ms <= LARGEST_MS
        usual = usual and type(content_length) is int and abs(content_length) < LARGEST_CONTENT_LENGTH
        total_ms = float(total_ms)
        bins = scale.indexes(times, low_ms, high_ms) if usual else NONE_LOOSE
    except Exception:
        usual = False

    if usual:
        number = len(times)
        yield number, number if failed else 0, 0, content_length, total_ms, low_ms, high_ms, NO_BINS, bins
        return
    for response_time, length in zip(times, lengths, strict=True):
        if response_time is not _MISSING and length is not _MISSING:
            yield _values_of_one(scale, failed, _number(response_time), _length(length))


def _values_of_one(scale: Scale, failed: bool, time_ms: float, content_length: float) -> Values:
    try:
        bins = array("H", [scale.index(time_ms)])
    except ValueError:
        return 1, int(failed), 1, content_length, 0.0, math.inf, -math.inf, NO_BINS, NONE_LOOSE
    return 1, int(failed), 0, content_length, time_ms, time_ms, time_ms, NO_BINS, bins


class Recorder:
    """Counts requests into the open window.

    :attr:`on_request` is the listener for Locust's ``events.request``: it takes whatever a custom client may fire, and
    never raises. What it costs is added to every request that Locust makes, and no design was found to be as cheap:

    - The listener only finds the list of its kind of request (by outcome, status code, method and name) and appends the
      response time and the content length to it. It is a closure over plain dicts, without a single attribute access.
    - A list that has become long is counted as a whole, at a fraction of what it costs to count one by one. The others
      are handed over with their window, to be counted later, bit by bit: all names at once, however many they are, so
      the first request of a kind in a window is one for which there is no list yet.
    - All that is unusual (the first request of its kind in a run, a value that is odd in any way) goes to
      :meth:`record`, which is as careful as it is slow.
    - What not everybody wants has a listener of its own: :attr:`on_request` is another one with *dimensions*, and
      :attr:`on_sample`, None unless there is a *sample_rate*, draws requests.

    *dimensions* are keys of a request's ``context`` by which requests are counted as well; *error_text* says what
    failures have to share to be counted together.
    """

    def __init__(
        self,
        scale: Scale,
        max_series: int,
        *,
        dimensions: Sequence[str] = (),
        sample_rate: float = 0.0,
        error_text: Callable[[Any], str] = repr,
    ) -> None:
        self.names = Names(max_series)
        """Those of the run."""
        self._scale = scale
        self._max_series = max_series
        self._max_kinds = most_rows(max_series)
        self._dimensions = tuple(dimensions)
        self._error_text = error_text
        self._counts = Counts(scale, self._max_kinds)
        self._details = Details()
        self._known_failures: dict[tuple[Any, ...], Failure] = {}
        """What a method, place, class of exception and error are to the window: most errors come again."""
        self._pending: tuple[_Pending, _Pending] = ({}, {})  # without and with an exception
        self._kinds: tuple[_Kinds, _Kinds] = ({}, {})
        """All that may be put aside there."""
        self._num_kinds = 0
        on_request, self._set_longest = self._listener()
        self.on_request = self._dimensional_listener() if dimensions else on_request
        self.on_sample = self._sampler(sample_rate) if sample_rate > 0 else None

    @property
    def listeners(self) -> list[Callable[..., None]]:
        """What is to be called for each request."""
        return [self.on_request] if self.on_sample is None else [self.on_request, self.on_sample]

    def _listener(self) -> tuple[Callable[..., None], Callable[[int], None]]:
        """The listener, and how to tell it the length from which a list is counted."""
        passed, failure, first, count_pending = self._pending[False], self._failure, self._first, self._count_pending
        longest = self._longest = 2 * LONGEST_PENDING

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
                status_code = getattr(response, "status_code", None)
                if exception:
                    pending = failure(status_code, request_type, name, exception, response_time, response_length)
                else:
                    pending = passed[status_code][request_type][name]
            except Exception:
                first(request_type, name, response_time, response_length, response, exception)
                return

            try:
                pending.append(response_time)  # half of what it costs to append both at once
                pending.append(response_length)
            except BaseException:  # a Ctrl-C; between the two it would swap all that follow
                if len(pending) % 2:
                    pending.append(response_length)
                raise
            if len(pending) >= longest:
                count_pending(pending, False, status_code, request_type, name)

        def set_longest(requests: int) -> None:
            nonlocal longest
            longest = self._longest = 2 * max(requests, 2)

        return on_request, set_longest

    def _dimensional_listener(self) -> Callable[..., None]:
        """The listener for requests that are counted by values of their context as well; it need not be as quick."""
        passed, failure, first, count_pending = self._pending[False], self._failure, self._first, self._count_pending
        values_of = self._values_of

        def on_request(
            request_type: Any = _MISSING,
            name: Any = _MISSING,
            response_time: Any = _MISSING,
            response_length: Any = _MISSING,
            response: Any = None,
            exception: Any = None,
            context: Any = None,
            **_: Any,
        ) -> None:
            try:
                status_code = getattr(response, "status_code", None)
                values = values_of(context)
                place = (name, values) if values else name
                if exception:
                    pending = failure(status_code, request_type, place, exception, response_time, response_length)
                else:
                    pending = passed[status_code][request_type][place]
            except Exception:
                first(request_type, name, response_time, response_length, response, exception, context)
                return

            pending += response_time, response_length
            if len(pending) >= self._longest:
                count_pending(pending, False, status_code, request_type, place)

        return on_request

    def _failure(
        self, status_code: Any, request_type: Any, place: Any, exception: Any, response_time: Any, response_length: Any
    ) -> list[Any]:
        """Where a failed request is to be put aside, after its error is noted; never as long as a list is counted at.

        Raises what the lookup or foreign code raises, and LookupError without a response time or length; nothing is
        noted then.
        """
        if response_time is _MISSING or response_length is _MISSING:
            raise LookupError
        error = (request_type, place, type(exception), self._error_text(exception))
        failure = self._known_failures.get(error) or self._know(error)
        pending = self._list_of(True, status_code, request_type, place)
        if len(pending) + 2 >= self._longest:
            self._count_pending(pending, True, status_code, request_type, place)
            pending = self._list_of(True, status_code, request_type, place)  # odd times may have switched greenlets
        self._details.put_aside(failure)
        return pending

    def _first(
        self,
        request_type: Any,
        name: Any,
        response_time: Any,
        response_length: Any,
        response: Any,
        exception: Any,
        context: Any = None,
    ) -> None:
        """Put a request aside for which the listener found no list, or count it: it may be unusual.

        Most are the first of their kind in a window.
        """
        try:
            values = self._values_of(context)
            place = (name, values) if values else name
            status_code = getattr(response, "status_code", None)
            pending = None if exception else self._list_of(False, status_code, request_type, place)
        except Exception:
            pending = None

        if pending is None:
            self.record(request_type, name, response_time, response_length, response, exception, context)
            return
        pending += response_time, response_length
        if len(pending) >= self._longest:
            self._count_pending(pending, False, status_code, request_type, place)

    def _list_of(self, failed: bool, status_code: Any, request_type: Any, place: Any) -> list[Any]:
        """Where requests of a known kind are put aside; of no other: raises what the lookup raises."""
        names = self._pending[failed][status_code][request_type]
        if place not in names and place in self._kinds[failed][status_code][request_type]:
            names[place] = []
        return names[place]

    def _sampler(self, sample_rate: float) -> Callable[..., None]:
        """The listener that draws requests for the sample."""
        draw_lot = random.Random().random  # noqa: S311  (of its own: forked processes share the global one)
        take_sample = self._take_sample

        def on_sample(
            request_type: Any = _MISSING,
            name: Any = _MISSING,
            response_time: Any = _MISSING,
            response_length: Any = _MISSING,
            **more: Any,
        ) -> None:
            lot = draw_lot()
            if lot < sample_rate and self._details.samples.has_room_for(lot):
                take_sample(lot, request_type, name, response_time, response_length, more)

        return on_sample

    def record(
        self,
        request_type: object,
        name: object,
        response_time: object,
        response_length: object,
        response: object = None,
        exception: object = None,
        context: object = None,
    ) -> None:
        """Count one request, whatever its values are.

        One that lacks an argument which Locust's own statistics require is not counted, as it is not by Locust.
        """
        if any(value is _MISSING for value in (request_type, name, response_time, response_length)):
            return

        # All foreign code (their attributes, __str__, __bool__, __float__) runs before the place to count is looked up:
        # should any of it switch greenlets, the window may be another one afterwards.
        plain_key = Key(as_text(request_type), as_text(name), self._values_of(context))
        seen = _attribute(response, "status_code")
        status_code = _status_code(seen)
        failed = _truth(exception)
        error = self._error_of(exception) if failed else None
        response_time_ms, length = _number(response_time), _length(response_length)

        key = self.names.admit(plain_key)
        kind = Kind(key, status_code, failed)
        self._counts.count_one(kind, response_time_ms, length)
        if error is not None:
            self._details.put_aside(Failure(key, *error))

        same = type(request_type) is type(name) is str and key[:2] == (request_type, name)
        if same and (seen is None or (type(seen) is int and seen == status_code)):
            self._expect(kind, seen)

    def record_exception(self, user_class: str, exception: BaseException, trace: TracebackType | None) -> None:
        """Count an exception in a user's task."""
        frames = without_secrets("".join(traceback.format_tb(trace)))
        error = without_secrets(as_text(exception, longest=None))[:LONGEST_VALUE]
        kind = UserException(as_text(user_class), _class_name(type(exception)), error, _deepest(frames))
        self._details.exceptions.add(kind)

    def record_event(self, event: Recorded) -> None:
        """Take an event of the user's own."""
        self._details.records.add(event)

    def refuse_events(self, number: int) -> None:
        """Count events of the user's own for which there was no room elsewhere."""
        self._details.records.num_refused += number

    def take(self) -> Window:
        """The open window, which is thereby closed; the next one opens. Nothing is lost or counted twice in between."""
        self._hand_over_pending()
        counts, self._counts = self._counts, Counts(self._scale, self._max_kinds)
        details, self._details = self._details, Details()
        return Window(counts, self.names.hidden.copy(), details, max_rows=self._max_kinds)

    def count_aside(self) -> Iterator[None]:
        """Count what the listener has put aside, in small steps, of kinds of which that is much.

        So there is less to do at a time. The window may be taken, and counted, meanwhile.
        """
        counts = self._counts
        self._details.count()
        much = [
            (names, place, kinds[status_code][method][place])
            for pending, kinds in zip(self._pending, self._kinds, strict=True)
            for status_code, methods in pending.items()
            for method, names in methods.items()
            for place, requests in names.items()
            if len(requests) >= 2 * MANY_PENDING
        ]
        for names, place, kind in much:
            if names.get(place):
                requests, names[place] = names[place], []
                counts.count_many(kind, requests)
            yield

    def forget_names(self) -> None:
        """Admit names from the beginning again, for a new run; what is not taken yet is kept."""
        self._hand_over_pending()
        for pending in self._pending:
            pending.clear()  # in place: the listener holds these very dicts
        self._kinds, self._num_kinds = ({}, {}), 0
        self._known_failures.clear()
        self.names = Names(self._max_series)

    def _hand_over_pending(self) -> None:
        """Leave what the listener has put aside to the open window: all names at once, as they may be thousands."""
        waiting = self._counts.waiting
        for pending, kinds in zip(self._pending, self._kinds, strict=True):
            for status_code, methods in pending.items():
                for method, names in methods.items():
                    if names:
                        waiting.append((names, kinds[status_code][method]))
                        methods[method] = {}

    def _count_pending(self, pending: list[Any], failed: bool, status_code: Any, method: Any, place: Any) -> None:
        """Count what the listener has put aside for one kind of request."""
        kind, requests = self._kinds[failed][status_code][method][place], pending.copy()
        pending.clear()
        for values in values_of_many(self._scale, failed, requests):
            self._counts.add(kind, values)  # not to those of before: odd times may have switched greenlets

    def _expect(self, kind: Kind, seen: int | None) -> None:
        """Let the listener find requests like this one, as long as there is room."""
        if self._num_kinds >= self._max_kinds:
            return
        method, name, values = kind.key
        kinds = self._kinds[kind.failed].setdefault(seen, {}).setdefault(method, {})
        place = (name, values) if values else name
        if place not in kinds:
            kinds[place] = kind
            self._pending[kind.failed].setdefault(seen, {}).setdefault(method, {})
            self._num_kinds += 1
            self._set_longest(min(LONGEST_PENDING, MOST_PENDING // self._num_kinds + 1))

    def _know(self, error: tuple[Any, ...]) -> Failure:
        """What an error is to the window; remembered unless its text is long, as there may be many such."""
        method, place, kind, text = error
        method, name, values = _key(method, place)
        key = Key(as_text(method), as_text(name), values)  # an enumeration is found as the text that it equals
        failure = Failure(key, *_error(kind, text))
        if len(text) <= LONGEST_VALUE:
            if len(self._known_failures) >= MOST_FAILURES:
                self._known_failures.clear()
            self._known_failures[error] = failure
        return failure

    def _values_of(self, context: Any) -> tuple[str | None, ...]:
        """The request's values of the dimensions; nothing if it has none."""
        if not self._dimensions:
            return ()
        try:
            found = [context.get(dimension) for dimension in self._dimensions] if context else []
        except Exception:  # foreign code may do anything
            return ()
        values = tuple([None if value is None else as_text(value) or None for value in found])
        return values if any(values) else ()

    def _error_of(self, exception: Any) -> Error:
        """What failed a request."""
        try:
            text = self._error_text(exception)
        except Exception:
            text = ""
        return _error(type(exception), text)

    def _take_sample(
        self, lot: float, request_type: object, name: object, response_time: object, length: object, more: Any
    ) -> None:
        """Note all of a request that was drawn, whatever its values are."""
        if any(value is _MISSING for value in (request_type, name, response_time, length)):
            return
        context, exception, url = more.get("context"), more.get("exception"), more.get("url")
        response_time_ms, start_ms = _number(response_time), _number(more.get("start_time")) * 1000
        key = Key(as_text(request_type), as_text(name), self._values_of(context))
        sample = Sample(
            lot,
            self.names.admit(key),
            int(start_ms) if 0 < start_ms < LARGEST_MS else None,
            response_time_ms if 0 <= response_time_ms <= LARGEST_MS else None,
            _length(length),
            _status_code(_attribute(more.get("response"), "status_code")),
            None if url is None else address_only(as_text(url)),
            self._error_of(exception) if _truth(exception) else None,
            _context(context),
        )
        self._details.samples.add(sample)


def _class_name(kind: type) -> str:
    """What a class is called, whatever its own class makes of that."""
    try:
        return as_text(kind.__name__)
    except Exception:
        return "?"


def _error(kind: type, text: object) -> Error:
    """An error by the class of the exception, if it is one, and its text."""
    class_name = _class_name(kind)
    error = without_secrets(as_text(text, longest=None))[:LONGEST_VALUE]
    return Error("" if issubclass(kind, str) else class_name, error or f"<{class_name}>")


def _context(context: object) -> Attributes:
    """The request's context as attributes, the first ``MOST_OF_CONTEXT`` of its keys."""
    try:
        some = dict(islice(context.items(), MOST_OF_CONTEXT)) if context else {}  # type: ignore[attr-defined]
        kept = acceptable(with_acceptable_names(some, "context."))
        return {name: value[:LONGEST_OF_CONTEXT] if isinstance(value, str) else value for name, value in kept.items()}
    except Exception:
        return {}


def _deepest(frames: str) -> str:
    """The last of the lines, as many as New Relic stores: the deepest frames of a traceback."""
    encoded = frames.encode("utf-8", "replace")
    if len(encoded) <= LONGEST_VALUE:
        return frames
    last = encoded[-LONGEST_VALUE + len(_CUT) :].decode("utf-8", "ignore")
    return _CUT + last.partition("\n")[2]


def _key(method: str, place: Any) -> Key:
    """The key of requests for which the listener looks up that method, and a name, or a name and the dimensions."""
    return Key(method, *place) if type(place) is tuple else Key(method, place)


def _attribute(thing: object, name: str) -> object:
    """The attribute, or None if there is none or it cannot be read."""
    try:
        return getattr(thing, name, None)
    except Exception:
        return None


def as_text(value: object, longest: int | None = LONGEST_VALUE) -> str:
    """A name as text, at most *longest* characters of it: by default, what New Relic stores of a value.

    Of a subclass of text, as an enumeration may be, it is the text that the value equals, whatever ``str`` makes of it.
    """
    try:
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        return str.__str__(text if isinstance(text, str) else str(text))[:longest]
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
