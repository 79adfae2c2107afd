"""What the user's own code adds to what is reported: attributes, events, functions that see each event last.

It is kept with an environment's events, since a locustfile may use it before there is a reporter.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeGuard

import gevent

from .acceptable import FARTHEST_MS, MOST_ATTRIBUTES, acceptable, is_event_type, with_acceptable_names
from .config import ConfigError
from .details import Recorded, Records
from .dictionary import MOST_USER_ATTRIBUTES, is_users_type, why_not_an_attribute

if TYPE_CHECKING:
    from locust.event import Events

    from .acceptable import Attributes
    from .payload import NewRelicEvent

logger = logging.getLogger(__name__)

MOST_RECORDED_ATTRIBUTES = 128
"""Of an event of the user's own; New Relic takes 254 with all others."""

PER_EVENT_S, AT_ONCE_S = 0.01, 1.0
"""How long a function may take to see an event, on average and, if it was quick before, at once."""

_ATTRIBUTE = "locust_newrelic_own"

BeforeSend = Callable[[dict[str, Any]], "Mapping[str, Any] | None"]


class _Watched:
    """A function that sees events, and how long it may still take."""

    def __init__(self, function: BeforeSend) -> None:
        self.function = function
        self.name = getattr(function, "__qualname__", type(function).__qualname__)
        self.allowance_s = AT_ONCE_S


class Own:
    """What the user's code has added, of one environment."""

    def __init__(self) -> None:
        self.attributes: Attributes = {}
        self.defaults: Attributes = {}
        """Attributes of the settings, which these go before."""
        self._functions: list[_Watched] = []
        self._said: set[str] = set()
        self._waiting = Records()
        """Events that were recorded while nobody took them."""
        self._process_id = os.getpid()
        self.take: Callable[[Recorded], None] | None = None
        """What takes events now, if anything does."""
        self.is_on_worker = False
        self.num_runs = 0
        """Runs that were reported, whoever did: an id that is given is that of the first."""

    def record(self, event_type: str, attributes: Mapping[str, object] | None = None) -> None:
        """See :func:`locust_newrelic.record`."""
        if not is_users_type(event_type):
            rule = "New Relic takes letters, digits, '_' and ':' only, and has some types of its own"
            why = "it is one of this package" if is_event_type(event_type) else rule
            msg = f"{event_type!r} cannot be the type of an event of yours: {why}"
            raise ValueError(msg)
        if not isinstance(attributes, (Mapping, type(None))):
            msg = f"attributes must be a mapping, not {type(attributes).__name__}"
            raise TypeError(msg)

        given = dict(islice((attributes or {}).items(), MOST_RECORDED_ATTRIBUTES))
        time_ms = given.pop("timestamp", None)
        now_ms = int(time.time() * 1000)
        if isinstance(time_ms, float) and math.isfinite(time_ms):
            time_ms = int(time_ms)
        if not _is_near(time_ms, now_ms):
            time_ms = now_ms
        event = Recorded(event_type, time_ms, acceptable(with_acceptable_names(given)))
        if self.take is not None:
            self.take(event)
        else:
            self._wait_for_taker().add(event)

    def hand_over(
        self, take: Callable[[Recorded], None] | None, refuse: Callable[[int], None] = lambda _: None
    ) -> None:
        """Have events taken by *take* from now on, those that wait first; *refuse* is told how many had no room."""
        self.take = take
        if take is not None:
            waiting, self._waiting = self._wait_for_taker(), Records()
            for event in waiting.events:
                take(event)
            refuse(waiting.num_refused)

    def end(self) -> None:
        """Note that nothing more is sent."""
        self.take = lambda _: self._say(logging.WARNING, "an event was recorded after the end: such are not sent")

    def _wait_for_taker(self) -> Records:
        """The events that wait. Those that did when this process was forked are its parent's: it sends them once."""
        if os.getpid() != self._process_id:
            self._waiting, self._process_id = Records(), os.getpid()
        return self._waiting

    def set_attributes(self, attributes: Mapping[str, object]) -> None:
        """See :func:`locust_newrelic.set_attributes`."""
        for name in attributes:
            reason = why_not_an_attribute(name) if isinstance(name, str) else "a name is text"
            if reason:
                msg = f"{name!r} cannot be an attribute: {reason}"
                raise ConfigError(msg)
        kept = {name: value for name, value in self.attributes.items() if name not in attributes}
        kept |= acceptable(attributes)
        if len(kept) > MOST_USER_ATTRIBUTES:
            msg = f"at most {MOST_USER_ATTRIBUTES} attributes can be set, these would be {len(kept)}"
            raise ConfigError(msg)
        self._say_on_worker("set_attributes")
        for name, value in attributes.items():
            if value is None:
                self.defaults.pop(name, None)
        self.attributes.clear()  # in place: runs hold this very dictionary
        self.attributes.update(kept)

    def before_send(self, function: BeforeSend) -> BeforeSend:
        """See :func:`locust_newrelic.before_send`."""
        if not callable(function):
            msg = f"before_send needs a function, not {type(function).__name__}"
            raise TypeError(msg)
        self._say_on_worker("before_send")
        self._functions.append(_Watched(function))
        return function

    def on_worker(self) -> None:
        """Note that nothing is sent from here."""
        self.is_on_worker = True
        if self.attributes:
            self._say_on_worker("set_attributes")
        if self._functions:
            self._say_on_worker("before_send")

    def _say_on_worker(self, what: str) -> None:
        if self.is_on_worker:
            self._say(logging.INFO, f"{what} has no effect on a worker: the master sends")

    def seen(self, event: NewRelicEvent) -> NewRelicEvent | None:
        """What the functions make of an event; None if one of them drops it. One that fails changes nothing."""
        for watched in self._functions.copy():
            left = self._seen_by(watched, event)
            if left is None:
                return None
            event = left
        return event

    @property
    def has_functions(self) -> bool:
        """Whether there are any."""
        return bool(self._functions)

    def skip_functions(self) -> None:
        """Have no function see any event from now on: there is no time for it."""
        self._functions.clear()

    def _seen_by(self, watched: _Watched, event: NewRelicEvent) -> NewRelicEvent | None:
        begun_s, out_of_time = time.monotonic(), gevent.Timeout(max(watched.allowance_s, 0.001))
        try:
            with out_of_time:
                result = watched.function(dict(event))
                left = None if result is None else _changed(event, result)
        except BaseException as error:  # also sys.exit(), which is none for Locust; the text may hold a secret
            if isinstance(error, gevent.Timeout) and error is not out_of_time:
                raise
            left, kind = event, type(error).__name__
            if error is not out_of_time:
                what = f"before_send: {watched.name} failed with {kind}"
                self._say(logging.WARNING, f"{what}; the event goes out as it was")
        watched.allowance_s = min(watched.allowance_s + PER_EVENT_S - (time.monotonic() - begun_s), AT_ONCE_S)
        if watched.allowance_s <= 0 and watched in self._functions:
            self._functions.remove(watched)
            self._say(logging.ERROR, f"before_send: {watched.name} takes too long; it is not called any more")
        return left

    def _say(self, level: int, message: str) -> None:
        """Log it, once."""
        if message not in self._said:
            self._said.add(message)
            logger.log(level, "New Relic: %s", message)


def own_of(events: Events) -> Own:
    """What the user's code adds in the environment with these events."""
    own = getattr(events, _ATTRIBUTE, None)
    if own is None:
        own = Own()
        setattr(events, _ATTRIBUTE, own)
    return own


def _changed(event: NewRelicEvent, result: Mapping[str, Any]) -> NewRelicEvent:
    """*result* as New Relic takes it, with type and moment of *event* where its own are not acceptable."""
    attributes = {name: value for name, value in result.items() if name not in ("eventType", "timestamp")}
    event_type, time_ms = result.get("eventType"), result.get("timestamp")
    changed: NewRelicEvent = {
        "eventType": event_type if is_event_type(event_type) else event["eventType"],
        "timestamp": time_ms if _is_near(time_ms, event["timestamp"]) else event["timestamp"],
    }
    changed |= acceptable(with_acceptable_names(attributes))
    return dict(islice(changed.items(), MOST_ATTRIBUTES))


def _is_near(time_ms: object, other_ms: Any) -> TypeGuard[int]:
    """Whether it is a moment that New Relic takes, as it does the other."""
    return type(time_ms) is int and abs(time_ms - other_ms) <= FARTHEST_MS
