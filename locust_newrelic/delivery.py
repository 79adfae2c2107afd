"""The bounded queue on the way out: batches, retry, the deadline at exit, losses counted by reason."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Protocol

import gevent
from gevent.event import Event

from .transport import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .payload import NewRelicEvent

logger = logging.getLogger(__name__)

BATCH_SIZE, BATCH_CHARACTERS = 100, 100_000
"""Events in a POST, and how much text. Encoding them holds Locust's event loop for some 3 ms, ten times as many 20."""

MOST_QUEUED = 20_000
CALL_TIMEOUT_S = 10.0
"""New Relic gives up a call after as long."""

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 16.0
LONGEST_RETRY_AFTER_S = 300.0
"""However long New Relic asks to wait: its limits are per minute, and events wait in a queue that is bounded."""


class Transport(Protocol):
    """What delivery needs of the way to New Relic."""

    host: str

    def send(self, batch: Sequence[NewRelicEvent], timeout_s: float) -> Outcome:
        """Send *batch*; there is a verdict after *timeout_s* at the latest."""

    def close(self) -> None:
        """Send no more."""


def backoff_s(attempt: int) -> float:
    """How long to wait after that many failures in a row: 1, 2, 4, 8, 16, 16 … seconds."""
    return min(FIRST_BACKOFF_S * 2.0 ** min(attempt - 1, 10), LONGEST_BACKOFF_S)


class Delivery:
    """Takes events at once and delivers them from a greenlet of its own."""

    def __init__(
        self, transport: Transport, *, most_queued: int = MOST_QUEUED, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._transport, self._most_queued, self._clock = transport, most_queued, clock
        self._queue: deque[NewRelicEvent] = deque()
        self._batches: deque[list[NewRelicEvent]] = deque()  # taken from the queue, in flight or to be sent again
        self._wake, self._closing, self._closed = Event(), Event(), Event()
        self._deadline: float | None = None
        self._interrupted = False
        self._failures = 0
        self._said: set[str] = set()
        self.num_sent = 0
        self.lost: Counter[str] = Counter()
        """Events that will not arrive, by reason."""
        self.greenlet = gevent.spawn(self._run)

    @property
    def num_queued(self) -> int:
        """Events that are not delivered yet."""
        return len(self._queue) + sum(map(len, self._batches))

    def put(self, events: Iterable[NewRelicEvent]) -> None:
        """Queue *events*; when there is no room, the oldest ones go."""
        self._queue.extend(events)
        excess = len(self._queue) - self._most_queued
        if excess > 0:
            self._give_up([self._queue.popleft() for _ in range(excess)], "queue full")
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
            for batch in self._batches:
                self._give_up(batch, "not delivered in time")
            self._give_up(list(self._queue), "not delivered in time")
            self._batches.clear()
            self._queue.clear()
            self._transport.close()
            self._closed.set()

    def interrupt(self) -> None:
        """Send no more: what is queued is given up by ``close``, which thereby returns at once."""
        self._interrupted = True
        self.greenlet.kill(block=False)

    def _run(self) -> None:
        while not (self._closing.is_set() and not self.num_queued):
            self._wake.wait()
            self._wake.clear()
            while self.num_queued:
                pause_s = self._send_one()
                if pause_s and not self._pause(pause_s):
                    return

    def _send_one(self) -> float:
        """Send one batch; returns the seconds to wait before the next."""
        if not self._batches:
            self._batches.append(self._next_batch())

        batch = self._batches[0]
        outcome = self._transport.send(batch, min(CALL_TIMEOUT_S, max(self._remaining_s(), 0.001)))
        if outcome.verdict is Verdict.RETRY:
            return self._failed(outcome)

        self._batches.popleft()
        if outcome.verdict is Verdict.ACCEPTED:
            self._accepted(batch)
        elif outcome.verdict is Verdict.SPLIT and len(batch) > 1:
            middle = len(batch) // 2
            self._batches.extendleft([batch[middle:], batch[:middle]])
        else:
            self._refused(batch, outcome)
        return 0.0

    def _next_batch(self) -> list[NewRelicEvent]:
        """The oldest events of the queue: as many as may be encoded at once, at least one."""
        batch: list[NewRelicEvent] = []
        characters = 0
        while self._queue and len(batch) < BATCH_SIZE:
            characters += _characters(self._queue[0])
            if batch and characters > BATCH_CHARACTERS:
                break
            batch.append(self._queue.popleft())
        return batch

    def _accepted(self, batch: Sequence[NewRelicEvent]) -> None:
        self.num_sent += len(batch)
        logger.debug("New Relic: %d events accepted by %s", len(batch), self._transport.host)
        if self._failures:
            logger.info("New Relic: %s takes events again", self._transport.host)
        self._failures = 0

    def _failed(self, outcome: Outcome) -> float:
        self._failures += 1
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        if outcome.retry_after_s is not None:
            pause_s = min(outcome.retry_after_s, LONGEST_RETRY_AFTER_S)
        else:
            pause_s = backoff_s(self._failures)
            if self._closing.is_set():  # rather often than late: there may be little time left
                pause_s = min(pause_s, FIRST_BACKOFF_S)
        logger.log(
            level,
            "New Relic: events cannot be sent to %s now: %s. They are kept (%d) and sent again; the test goes on.",
            self._transport.host,
            outcome.reason,
            self.num_queued,
        )
        return max(pause_s, 0.001)

    def _refused(self, batch: Sequence[NewRelicEvent], outcome: Outcome) -> None:
        if outcome.reason not in self._said:
            self._said.add(outcome.reason)
            hint = " Check the license key and --newrelic-region." if outcome.reason == "HTTP 403" else ""
            logger.error("New Relic: %s refused events: %s.%s", self._transport.host, outcome.reason, hint)
        self._give_up(batch, f"refused {outcome.reason}")

    def _give_up(self, events: Sequence[NewRelicEvent], reason: str) -> None:
        if events:
            self.lost[reason] += len(events)

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


def _characters(event: NewRelicEvent) -> int:
    """About how long the event is as JSON."""
    return 24 * len(event) + sum(len(value) for value in event.values() if isinstance(value, str))
