"""The bounded queue on the way out: batches, retry, the deadline at exit, losses counted by reason."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, deque
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import gevent
from gevent.event import Event

from .faults import log_unexpected
from .pauses import BREATH_S
from .transport import Outcome, Verdict, what_to_do

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .payload import NewRelicEvent

logger = logging.getLogger(__name__)

BATCH_SIZE, BATCH_CHARACTERS = 1_000, 500_000
"""Events in a POST, and how much text: with 0.2 s from a POST to the next, that is some 3,000 events a second."""

KEPT_AT_ONCE = 50
"""Events that are written to the spool before other greenlets may run: some 1 ms."""

MOST_QUEUED, MOST_CHARACTERS = 20_000, 10_000_000
CALL_TIMEOUT_S = 10.0
"""New Relic gives up a call after as long."""

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 16.0
LONGEST_RETRY_AFTER_S = 300.0
"""However long New Relic asks to wait: its limits are per minute, and events wait in a queue that is bounded."""

SAY_AGAIN_S = 60.0
"""A warning is said again after as long at the earliest: every third connection may fail."""


class Transport(Protocol):
    """What delivery needs of the way to New Relic."""

    host: str

    def send(self, batch: Sequence[NewRelicEvent], timeout_s: float) -> Outcome:
        """Send *batch*; there is a verdict after *timeout_s* at the latest."""

    def close(self) -> None:
        """Send no more."""


class Spool(Protocol):
    """What delivery needs of the disk."""

    path: str | None
    why_not: str

    def keep(self, events: Sequence[NewRelicEvent], /) -> list[int | None]:
        """Keep *events*; returns the place of each, None for one that could not be kept, for the reason *why_not*."""

    def settle(self, places: Sequence[int], /) -> None:
        """The events there are delivered."""

    def close(self) -> None:
        """Keep no more."""


def in_bytes(number: float) -> str:
    """So many bytes, as a person reads it."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} bytes"


def with_region(host: str, region: str | None) -> str:
    """The host as a person reads it, with its region if that is known."""
    return f"{host} (region {region})" if region else host


def backoff_s(attempt: int) -> float:
    """How long to wait at most after that many failures in a row: 1, 2, 4, 8, 16, 16 … seconds."""
    return min(FIRST_BACKOFF_S * 2.0 ** min(attempt - 1, 10), LONGEST_BACKOFF_S)


class Patience:
    """How long to wait before the next attempt: as New Relic asks, else a random part of ``backoff_s``.

    The random part ("full jitter") is there so that many that failed together do not come back together.
    """

    def __init__(self) -> None:
        # One of its own: forked processes share the global one.
        self._random = random.Random()  # noqa: S311
        self.failures = 0

    def after(self, outcome: Outcome) -> float:
        """The pause after one more failure, in seconds."""
        self.failures += 1
        if outcome.retry_after_s is not None:
            return min(outcome.retry_after_s, LONGEST_RETRY_AFTER_S)
        return self._random.uniform(0.0, backoff_s(self.failures))

    def reset(self) -> None:
        """It worked."""
        self.failures = 0


@dataclass(eq=False, slots=True)
class _Queued:
    """An event that is not delivered yet."""

    event: NewRelicEvent
    characters: int
    place: int | None = None
    """Where it is in the spool."""
    has_left: bool = False
    """It is no longer the queue's business: spooled for good, or lost."""


class Delivery:
    """Takes events at once and delivers them from a greenlet of its own.

    While New Relic takes none, what is queued is in the *spool* as well, for the case that the process is killed; what
    the queue cannot hold, what is refused and what is left at the end stays there. Without a spool, or when it is full,
    such an event is lost.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        spool: Spool | None = None,
        region: str | None = None,
        most_queued: int = MOST_QUEUED,
        most_characters: int = MOST_CHARACTERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport, self._spool, self._clock = transport, spool, clock
        self._most_queued, self._most_characters = most_queued, most_characters
        self._host = with_region(transport.host, region)
        self._queue: deque[_Queued] = deque()
        self._characters = 0
        """Of the queue."""
        self._batches: deque[list[_Queued]] = deque()  # taken from the queue, in flight or to be sent again
        self._wake, self._closing, self._closed = Event(), Event(), Event()
        self._deadline: float | None = None
        self._interrupted = False
        self._patience = Patience()
        self._said: set[str] = set()
        self._warned_s: float | None = None
        self._is_told = False
        """Whether a user was told that something is wrong, and not yet that all is well."""
        self.num_sent = 0
        """Events that New Relic has taken."""
        self.num_bytes = 0
        """How long they were, compressed."""
        self.num_retried = 0
        """Events that were sent once more, as often as they were."""
        self.spooled: Counter[str] = Counter()
        """Events that are left to the spool for good, by reason."""
        self.lost: Counter[str] = Counter()
        """Events that will not arrive, by reason."""
        self.greenlet = gevent.spawn(self._run)

    @property
    def num_queued(self) -> int:
        """Events that are not delivered yet."""
        return len(self._queue) + sum(map(len, self._batches))

    @property
    def num_spooled(self) -> int:
        """Events that are left to the spool for good."""
        return sum(self.spooled.values())

    def put(self, events: Iterable[NewRelicEvent]) -> None:
        """Queue *events*; when there is no room, the oldest ones go to the spool."""
        new = [_Queued(event, _characters(event)) for event in events]
        self._queue.extend(new)
        self._characters += sum(queued.characters for queued in new)
        if self._patience.failures:
            for _ in self._keep(new):
                pass
        self._leave(self._excess(), "queue full")
        self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Deliver what is queued, for *timeout_s* seconds at most; a second caller waits for the first."""
        if self._closing.is_set():
            self._closed.wait()
            return

        self._deadline = self._clock() + timeout_s
        self._closing.set()
        self._wake.set()
        try:
            if self.greenlet.ready() and self.num_queued and not self._interrupted:  # a Ctrl-C may hit any greenlet
                self.greenlet = gevent.spawn(self._run)
            self.greenlet.join(timeout_s)
        except KeyboardInterrupt:
            logger.warning("New Relic: interrupted while %d events were still to be sent", self.num_queued)
        finally:
            self.greenlet.kill(timeout=1)  # it must not go on with what is counted now
            self._leave(self._all(), "not delivered in time")
            self._batches.clear()
            self._queue.clear()
            self._characters = 0
            self._transport.close()
            if self._spool is not None:
                self._spool.close()
            self._closed.set()

    def interrupt(self) -> None:
        """Send no more: what is queued is given up by ``close``, which thereby returns at once."""
        self._interrupted = True
        self.greenlet.kill(block=False)

    def summary(self) -> str:
        """What became of the events, in a sentence or two."""
        said = [f"{self.num_sent} events sent"]
        if self.num_bytes:
            said = [f"{said[0]} ({in_bytes(self.num_bytes)} compressed)"]
        if self.num_retried:
            said.append(f"{self.num_retried} sent repeatedly")
        if self.num_queued:
            said.append(f"{self.num_queued} queued")
        if self.spooled:
            said.append(f"{self.num_spooled} kept in {self._path} ({_by_reason(self.spooled)})")
        said.append(f"{sum(self.lost.values())} lost ({_by_reason(self.lost)})" if self.lost else "none lost")
        advice = f". Send what was kept: locust-newrelic replay {self._path}" if self.spooled else ""
        return ", ".join(said) + advice

    @property
    def _path(self) -> str | None:
        return self._spool.path if self._spool is not None else None

    def _run(self) -> None:
        while not (self._closing.is_set() and not self.num_queued):
            self._wake.wait()
            self._wake.clear()
            while self.num_queued:
                try:
                    pause_s = self._send_one()
                except Exception as error:
                    log_unexpected(error)
                    pause_s = LONGEST_BACKOFF_S
                if pause_s and not self._pause(pause_s):
                    return
                gevent.sleep(BREATH_S)

    def _send_one(self) -> float:
        """Send one batch; returns the seconds to wait before the next."""
        if not self._batches:
            self._batches.append(self._next_batch())

        batch = self._batches[0]
        if self._patience.failures:
            self.num_retried += len(batch)
        timeout_s = min(CALL_TIMEOUT_S, max(self._remaining_s(), 0.001))
        outcome = self._transport.send([queued.event for queued in batch], timeout_s)
        if outcome.verdict is Verdict.RETRY:
            return self._failed(outcome)

        self._batches.popleft()
        self._patience.reset()
        if outcome.verdict is Verdict.ACCEPTED:
            self._accepted(batch, outcome.num_bytes)
        elif outcome.verdict is Verdict.SPLIT and len(batch) > 1:
            middle = len(batch) // 2
            self._batches.extendleft([batch[middle:], batch[:middle]])
        else:
            self._refused(batch, outcome)
        return 0.0

    def _next_batch(self) -> list[_Queued]:
        """The oldest events of the queue: as many as may be encoded at once, at least one."""
        batch: list[_Queued] = []
        characters = 0
        while self._queue and len(batch) < BATCH_SIZE:
            characters += self._queue[0].characters
            if batch and characters > BATCH_CHARACTERS:
                break
            batch.append(self._take())
        return batch

    def _take(self) -> _Queued:
        """The oldest event of the queue."""
        queued = self._queue.popleft()
        self._characters -= queued.characters
        return queued

    def _all(self) -> list[_Queued]:
        """All events that are not delivered yet, the oldest first."""
        return [*chain.from_iterable(self._batches), *self._queue]

    def _excess(self) -> list[_Queued]:
        """The oldest events of the queue, taken from it: as many as it has no room for."""
        excess = []
        while len(self._queue) > self._most_queued or self._characters > self._most_characters:
            excess.append(self._take())
        return excess

    def _accepted(self, batch: Sequence[_Queued], num_bytes: int) -> None:
        self.num_sent += len(batch)
        self.num_bytes += num_bytes
        for queued in batch:
            queued.has_left = True
        if self._spool is not None:
            self._spool.settle([queued.place for queued in batch if queued.place is not None])
        logger.debug("New Relic: %d events accepted by %s; %s", len(batch), self._transport.host, self.summary())
        if self._is_told:
            self._is_told = False
            logger.info("New Relic: %s takes events again", self._transport.host)

    def _failed(self, outcome: Outcome) -> float:
        pause_s = self._patience.after(outcome)
        if self._closing.is_set() and outcome.retry_after_s is None:  # rather often than late: there may be little time
            pause_s = min(pause_s, FIRST_BACKOFF_S)
        logger.log(
            logging.WARNING if self._may_warn() else logging.DEBUG,
            "New Relic: events cannot be sent to %s now: %s. They are kept (%d) and sent again; the test goes on.%s",
            self._host,
            outcome.reason,
            self.num_queued,
            what_to_do(outcome.reason),
        )
        for _ in self._keep(self._all()):
            gevent.sleep(BREATH_S)
        return max(pause_s, 0.001)

    def _may_warn(self) -> bool:
        """Whether the failure is news: the first of several, and not one of many single ones."""
        now_s = self._clock()
        if self._patience.failures > 1 or (self._warned_s is not None and now_s - self._warned_s < SAY_AGAIN_S):
            return False
        self._warned_s = now_s
        self._is_told = True
        return True

    def _refused(self, batch: Sequence[_Queued], outcome: Outcome) -> None:
        self._leave(batch, f"refused {outcome.reason}")
        if outcome.reason not in self._said:
            self._said.add(outcome.reason)
            self._is_told = True
            are_kept = all(queued.place is not None for queued in batch)
            kept = f" They are kept in {self._path}." if are_kept else ""
            logger.error(
                "New Relic: %s refused events: %s.%s%s", self._host, outcome.reason, what_to_do(outcome.reason), kept
            )

    def _keep(self, events: Sequence[_Queued]) -> Iterator[None]:
        """Have the events in the spool as well; yields where other greenlets may run, and ends if that fails."""
        if self._spool is None:
            return
        for start in range(0, len(events), KEPT_AT_ONCE):
            chunk = events[start : start + KEPT_AT_ONCE]
            some = [queued for queued in chunk if queued.place is None and not queued.has_left]
            if not some:
                continue
            for queued, place in zip(some, self._spool.keep([queued.event for queued in some]), strict=True):
                queued.place = place
            if all(queued.place is None for queued in some):
                return
            yield

    def _leave(self, events: Sequence[_Queued], reason: str) -> None:
        """Give the events up: to the spool, else they are lost."""
        for _ in self._keep(events):
            pass
        num_kept = sum(queued.place is not None for queued in events)
        if num_kept:
            self.spooled[reason] += num_kept
        if num_kept < len(events):
            self.lost[reason if self._spool is None else self._spool.why_not] += len(events) - num_kept
        for queued in events:
            queued.has_left = True

    def _remaining_s(self) -> float:
        return CALL_TIMEOUT_S if self._deadline is None else self._deadline - self._clock()

    def _pause(self, seconds: float) -> bool:
        """Wait before the next attempt, less if the exit begins; False if there is no time for another."""
        if not self._closing.is_set():
            self._closing.wait(seconds)
            return True

        if seconds < self._remaining_s():
            gevent.sleep(seconds)
            return True
        return False


def _by_reason(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in counts.items())


def _characters(event: NewRelicEvent) -> int:
    """About how long the event is as JSON, what is not ASCII by what is left of it once it is compressed."""
    return 24 * len(event) + sum(
        len(value) if value.isascii() else 3 * len(value) for value in event.values() if isinstance(value, str)
    )
