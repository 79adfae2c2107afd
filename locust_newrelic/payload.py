"""Windows and run facts to New Relic events: every event and attribute name lives here.

An event is a plain dict of text and numbers, ready for the Event API: what New Relic would refuse is made acceptable
here, once, for all of them. Times are in ms, ``error_rate`` is 0 to 1; each number describes its own window only.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import TYPE_CHECKING

from .acceptable import FARTHEST_MS, MOST_ATTRIBUTES, Attributes, Value, acceptable
from .dictionary import (
    ADDITIVE_NAMES,
    CHECK,
    EXCEPTION,
    FAILURE,
    NODE,
    REQUEST,
    REQUEST_STATISTICS,
    STATUS_CODE,
    SUMMARY,
    TEST_RUN,
)
from .histogram import LARGEST_JOINED, joined, separated
from .window import Key, Numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .details import Error, Failure, Recorded, Sample, UserException
    from .health import Health
    from .histogram import Bins, Scale
    from .window import Window

NewRelicEvent = Attributes

PHASE_START, PHASE_SPAWNING_COMPLETE, PHASE_STOP = "start", "spawning_complete", "stop"

_OF_A_WINDOW = (SUMMARY, REQUEST_STATISTICS, STATUS_CODE, FAILURE, EXCEPTION)
_ENVELOPE = ("eventType", "timestamp", "stats_epoch", "seq")


_LARGEST_TO_ROUND = 1e12
"""A number above keeps its digits: they are few behind the point already, and it may be infinite."""

_WEIGHED_ONE_IN = 8
_STRIDE, _SPAN = 0x9E3779B1, 1 << 32
"""Which ones: as often of any that come back with every window, however many of them a window has."""

_FEWEST_FOR_P95 = 20
"""Requests of an endpoint below which its p95 is the slowest of them."""

_QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
_SUMMARY_QUANTILES = ("latency_p50", "latency_p90", "latency_p95", "latency_p99", "latency_p999")
_ENDPOINT_QUANTILES = (
    "median_response_time",
    "ninetieth_response_time",
    "response_time_p95",
    "response_time_p99",
    "response_time_p999",
)


@dataclass(frozen=True)
class Interval:
    """When a window was open, and what Locust looked like at its end."""

    start_ms: int
    """Wall clock, aligned to a multiple of the interval."""
    duration_s: float
    """How long the window was really open."""
    stats_epoch: int
    user_count: int = 0
    target_user_count: int = 0
    worker_count: int = 0
    state: str = "unknown"


@dataclass
class Node:
    """A process of the run, in one window."""

    host: str
    role: str
    """``local``, ``master`` or ``worker``."""
    index: int
    """Locust's number of the worker; 0 for others."""
    health: Health
    num_requests: int = 0
    clock_skew_ms: float | None = None
    """How far its clock is ahead of that of the process which sends; None for that process itself."""

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.host}:{self.role}-{self.index}"

    @property
    def is_own(self) -> bool:
        """Whether it is the process that sends."""
        return self.role != "worker"

    def then(self, later: Node) -> Node:
        """Both together: this part of the window, and a later one."""
        return replace(
            later, health=self.health.then(later.health), num_requests=self.num_requests + later.num_requests
        )


class Endpoint:
    """What is known of one endpoint over the whole run: less than of a window, as it is kept for all of them."""

    __slots__ = ("_bins", "num_failures", "num_requests")

    def __init__(self) -> None:
        self.num_requests = self.num_failures = 0
        self._bins = 0
        """As one integer: a fraction of the memory that a dictionary takes, and a window's are added all at once."""

    def add(self, numbers: Numbers) -> None:
        """Count in what a window has of it."""
        self.num_requests += numbers.num_requests
        self.num_failures += numbers.num_failures
        if self.num_requests <= LARGEST_JOINED:  # later ones, after thousands of millions, change no quantile any more
            self._bins += joined(numbers.bins)

    @property
    def bins(self) -> Bins:
        """Its response times."""
        return separated(self._bins)


class Volume:
    """How much New Relic stores of events, uncompressed, as JSON. One in some of each type is weighed."""

    def __init__(self) -> None:
        self._numbers: Counter[str] = Counter()
        self._weighed: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def add(self, event: NewRelicEvent) -> None:
        """Count the event in."""
        event_type = str(event["eventType"])
        if self._numbers[event_type] * _STRIDE % _SPAN < _SPAN // _WEIGHED_ONE_IN:
            self._weighed[event_type] += 1
            self._bytes[event_type] += len(json.dumps(event, separators=(",", ":")))
        self._numbers[event_type] += 1

    @property
    def num_events(self) -> int:
        """How many events there were."""
        return self._numbers.total()

    @property
    def num_bytes(self) -> float:
        """About how many bytes they are."""
        return sum(self._bytes[kind] / self._weighed[kind] * number for kind, number in self._numbers.items())


@dataclass
class Totals:
    """The whole run so far."""

    numbers: Numbers = field(default_factory=Numbers)
    endpoints: dict[tuple[str, str], Endpoint] = field(default_factory=dict)
    slowest: tuple[tuple[str, str], float] | None = None
    """The endpoint with the largest p95, and that in ms, once it was looked for."""
    peak_user_count: int = 0
    num_exceptions: int = 0
    ramp_up_s: float | None = None
    num_dropped: int = 0
    """Events that the user's ``before_send`` dropped."""
    num_refused: int = 0
    """Events of the user's own for which there was no room."""
    volume: Volume = field(default_factory=Volume)
    """Of all events of the run."""

    def add(self, numbers: Numbers, user_count: int) -> None:
        """Count a window's requests, and the users seen at its end."""
        self.numbers.merge(numbers)
        self.see_users(user_count)

    def see_users(self, user_count: int) -> None:
        """Note how many users there were at some moment."""
        self.peak_user_count = max(self.peak_user_count, user_count)


class Payload:
    """Makes the events of one run, each with what all of them carry.

    *attributes* are the user's own, acceptable already; what is put into them later is on all events from then on.
    *dimensions* are the names of what requests are counted by as well.
    """

    def __init__(
        self,
        scale: Scale,
        *,
        app_name: str,
        run_id: str,
        test_name: str,
        attributes: Mapping[str, Value],
        dimensions: Sequence[str] = (),
        sample_rate: float = 0.0,
    ) -> None:
        self._scale = scale
        self._seq = count(1)
        self._limits = [f"le_{limit}" for limit in scale.limits_ms]
        self._attributes = attributes
        self._common = acceptable({"appName": app_name, "run_id": run_id, "test_name": test_name})
        self._protected = {*_ENVELOPE, *self._common, "late"}
        self._dimensions = tuple(dimensions)
        self._sample_rate = sample_rate

    def window_events(self, window: Window, interval: Interval, totals: Totals) -> Iterator[NewRelicEvent]:
        """The events of one window, one by one, so that whoever asks for them can pause in between.

        With the first of them the window is counted in the run's *totals*.
        """
        seconds = max(interval.duration_s, 1.0)
        shared = {"interval_ms": round(interval.duration_s * 1000)}
        numbers = window.total()
        totals.add(numbers, interval.user_count)
        yield self._event(
            SUMMARY,
            interval.start_ms,
            interval.stats_epoch,
            self._summary(numbers, seconds)
            | {
                "user_count": interval.user_count,
                "target_user_count": interval.target_user_count,
                "worker_count": interval.worker_count,
                "state": interval.state,
                "num_hidden_names": window.num_hidden_names or None,
            }
            | shared,
        )
        for key, series in window.series.items():
            total = series.total()
            self._endpoint_of(key, totals).add(total)
            endpoint = self._endpoint(key, total, seconds) | shared
            yield self._event(REQUEST_STATISTICS, interval.start_ms, interval.stats_epoch, endpoint)
            for status_code, part in series.statuses.items():
                status = self._status(key, status_code, part)
                yield self._event(STATUS_CODE, interval.start_ms, interval.stats_epoch, status)
        yield from self._detail_events(window, interval, totals)

    def late_events(self, window: Window, start_ms: int, stats_epoch: int, totals: Totals) -> Iterator[NewRelicEvent]:
        """The events for what became known of a window after its own were sent; they have ``late: 1``.

        Of the window they say only what adds up; what happens once is told as always. As with :meth:`window_events`,
        the window is counted in the run's *totals*.
        """
        for event in self.window_events(window, Interval(start_ms, 0.0, stats_epoch), totals):
            yield self._additive(event) if event["eventType"] in _OF_A_WINDOW else {**event, "late": 1}

    def _detail_events(self, window: Window, interval: Interval, totals: Totals) -> Iterator[NewRelicEvent]:
        start_ms, epoch, details = interval.start_ms, interval.stats_epoch, window.details
        for failure, number in details.failures.items():
            yield self._event(FAILURE, start_ms, epoch, {**self._failure(failure), "num_failures": number})
        for exception, number in details.exceptions.items():
            totals.num_exceptions += number
            yield self._event(EXCEPTION, start_ms, epoch, {**_exception(exception), "num_exceptions": number})
        rate = min(self._sample_rate, details.samples.bound)
        for sample in details.samples:
            moment_ms = _moment_ms(sample.timestamp_ms, start_ms)
            yield self._event(REQUEST, moment_ms, epoch, {**self._sample(sample), "sample_rate": rate})
        for own in details.records.events:
            yield self._event(own.event_type, _moment_ms(own.timestamp_ms, start_ms), epoch, self._own(own))

    def _own(self, own: Recorded) -> dict[str, Value]:
        """The attributes of an event of the user's own, none of which hides what every event has."""
        return {f"{name}_" if name in self._protected else name: value for name, value in own.attributes.items()}

    def node_event(
        self, node: Node, start_ms: int, stats_epoch: int, sending: Mapping[str, int], *, late: bool = False
    ) -> NewRelicEvent:
        """How a process did in a window, with what only the one that sends can tell."""
        health = node.health
        lags = health.num_lags or None
        event = self._event(
            NODE,
            start_ms,
            stats_epoch,
            {
                "node": node.name,
                "node_index": node.index,
                "role": node.role,
                "interval_ms": round(1000 * health.wall_s) or None,
                "num_requests": node.num_requests,
                "user_count": health.user_count,
                "cpu_percent": health.cpu_percent and round(health.cpu_percent, 2),
                "memory_bytes": health.memory_bytes or None,
                "loop_lag_avg_ms": lags and round(1000 * health.lag_total_s / lags, 3),
                "loop_lag_max_ms": lags and round(1000 * health.lag_max_s, 3),
                "clock_skew_ms": node.clock_skew_ms,
                **sending,
            },
        )
        return self._additive(event) if late else event

    def _additive(self, event: NewRelicEvent) -> NewRelicEvent:
        shared = {*self._attributes, *self._common, *self._dimensions, *self._limits, *_ENVELOPE}
        return {**{name: value for name, value in event.items() if name in ADDITIVE_NAMES or name in shared}, "late": 1}

    def test_run(
        self, phase: str, timestamp_ms: int, stats_epoch: int, facts: Mapping[str, Value | None]
    ) -> NewRelicEvent:
        """That a run reached a phase."""
        return self._event(TEST_RUN, timestamp_ms, stats_epoch, {"phase": phase, **facts})

    def whole_run(
        self, totals: Totals, duration_s: float, lost: Mapping[str, int], num_spooled: int = 0
    ) -> dict[str, Value | None]:
        """What the stop event says of the run, *lost* being the events that will not arrive, by reason.

        Its slowest endpoint is to be found before.
        """
        by_reason = {f"events_lost_{reason.replace(' ', '_')}": number for reason, number in lost.items()}
        return {
            **self._summary(totals.numbers, max(duration_s, 1.0)),
            "duration_ms": round(duration_s * 1000),
            "ramp_up_ms": None if totals.ramp_up_s is None else round(totals.ramp_up_s * 1000),
            "peak_user_count": totals.peak_user_count,
            "num_exceptions": totals.num_exceptions,
            **self._worst(totals),
            "events_lost": sum(lost.values()),
            **by_reason,
            "events_spooled": num_spooled,
            "events_dropped": totals.num_dropped,
        }

    def find_slowest(self, totals: Totals) -> Iterator[None]:
        """Find the endpoint with the largest p95 of the run, in small steps: :meth:`whole_run` tells of it."""
        for place, endpoint in list(totals.endpoints.items()):
            times = self._scale.distribution(endpoint.bins)
            if times.count >= _FEWEST_FOR_P95:
                p95 = times.quantile(0.95)
                if totals.slowest is None or p95 > totals.slowest[1]:
                    totals.slowest = place, p95
            yield

    def _worst(self, totals: Totals) -> dict[str, Value | None]:
        """The endpoints that deserve a look first."""
        worst: dict[str, Value | None] = {}
        if totals.slowest is not None:
            (method, name), p95 = totals.slowest
            worst |= {"worst_p95_method": method, "worst_p95_name": name, "worst_p95": _rounded(p95)}
        failing = max(totals.endpoints, key=lambda place: totals.endpoints[place].num_failures, default=None)
        if failing is not None and (number := totals.endpoints[failing].num_failures):
            worst |= {
                "worst_failures_method": failing[0],
                "worst_failures_name": failing[1],
                "worst_failures": number,
            }
        return worst

    def _endpoint_of(self, key: Key, totals: Totals) -> Endpoint:
        """What is known of the endpoint, whatever the dimensions."""
        place = (key.method, key.name)
        if place not in totals.endpoints:
            totals.endpoints[place] = Endpoint()
        return totals.endpoints[place]

    def _event(
        self, event_type: str, timestamp_ms: int, stats_epoch: int, attributes: Mapping[str, Value | None]
    ) -> NewRelicEvent:
        event: NewRelicEvent = {
            "eventType": event_type,
            "timestamp": timestamp_ms,
            **self._attributes,
            **self._common,
            "stats_epoch": stats_epoch,
            "seq": next(self._seq),
            **acceptable(attributes),
        }
        return event if len(event) < MOST_ATTRIBUTES else self._cut(event)

    def _cut(self, event: NewRelicEvent) -> NewRelicEvent:
        """As much of an event as New Relic keeps, with room for ``late``: first what is not on all events."""
        first = {name: value for name, value in event.items() if name not in self._attributes}
        return dict(islice((first | event).items(), MOST_ATTRIBUTES - 1))

    def _summary(self, numbers: Numbers, seconds: float) -> dict[str, Value | None]:
        num_requests, num_timed = numbers.num_requests, numbers.num_timed
        return {
            "num_requests": num_requests,
            "num_failures": numbers.num_failures,
            "error_rate": _share(numbers.num_failures, num_requests),
            "rps": _rounded(num_requests / seconds),
            "fail_per_sec": _rounded(numbers.num_failures / seconds),
            "content_length": numbers.content_length,
            "latency_avg": _ratio(numbers.total_ms, num_timed),
            "latency_min": _rounded(numbers.min_ms),
            "latency_max": _rounded(numbers.max_ms),
            **self._quantiles(numbers, _SUMMARY_QUANTILES),
        }

    def _endpoint(self, key: Key, numbers: Numbers, seconds: float) -> dict[str, Value | None]:
        num_requests, num_timed = numbers.num_requests, numbers.num_timed
        safe_name = html.escape(key.name, quote=False)
        return {
            **self._of(key),
            "safe_name": safe_name if safe_name != key.name else None,
            "num_requests": num_requests,
            "num_failures": numbers.num_failures,
            "error_rate": _share(numbers.num_failures, num_requests),
            "current_rps": _rounded(num_requests / seconds),
            "current_fail_per_sec": _rounded(numbers.num_failures / seconds),
            "avg_response_time": _ratio(numbers.total_ms, num_timed),
            "min_response_time": _rounded(numbers.min_ms),
            "max_response_time": _rounded(numbers.max_ms),
            "total_response_time": round(numbers.total_ms, 6),
            "avg_content_length": _ratio(numbers.content_length, num_requests),
            "total_content_length": numbers.content_length,
            **self._quantiles(numbers, _ENDPOINT_QUANTILES),
        }

    def _status(self, key: Key, status_code: int, numbers: Numbers) -> dict[str, Value | None]:
        return {
            **self._of(key),
            "status_code": status_code,
            "status_class": _status_class(status_code),
            "num_requests": numbers.num_requests,
            "num_failures": numbers.num_failures,
            "total_response_time": round(numbers.total_ms, 6),
        }

    def _failure(self, failure: Failure) -> dict[str, Value | None]:
        return {**self._of(failure.key), **_error(failure)}

    def _sample(self, sample: Sample) -> dict[str, Value | None]:
        return {
            **sample.context,
            **self._of(sample.key),
            "response_time": None if sample.response_time_ms is None else _rounded(sample.response_time_ms),
            "content_length": sample.content_length,
            "status_code": sample.status_code,
            "status_class": _status_class(sample.status_code),
            "url": sample.url,
            **(_error(sample.error) if sample.error is not None else {}),
        }

    def _of(self, key: Key) -> dict[str, Value | None]:
        """Which requests an event is about."""
        of: dict[str, Value | None] = {"method": key.method, "name": key.name}
        return of | dict(zip(self._dimensions, key.values, strict=True)) if key.values else of

    def _quantiles(self, numbers: Numbers, names: Sequence[str]) -> dict[str, Value | None]:
        """Quantiles under those names (none if nothing was timed) and the counts within the limits."""
        distribution = self._scale.distribution(numbers.bins)
        counts: dict[str, Value | None] = dict(zip(self._limits, distribution.counts_within(), strict=True))
        if not distribution:
            return counts

        values = distribution.quantiles(_QUANTILES, low=numbers.min_ms, high=numbers.max_ms)
        return {**{name: _rounded(value) for name, value in zip(names, values, strict=True)}, **counts}


def _moment_ms(time_ms: int | None, start_ms: int) -> int:
    """The moment of something in the window that began at *start_ms*: that itself if no other can be."""
    return start_ms if time_ms is None or abs(time_ms - start_ms) > FARTHEST_MS else time_ms


def _error(error: Error | Failure) -> dict[str, Value | None]:
    return {"error_type": error.error_type or None, "error": error.error}


def _exception(exception: UserException) -> dict[str, Value | None]:
    return {
        "user_class": exception.user_class,
        "error_type": exception.error_type,
        "error": exception.error,
        "traceback": exception.traceback or None,
    }


def _status_class(status_code: int) -> str:
    return f"{status_code // 100}xx" if 100 <= status_code < 600 else "none"


def check_event(timestamp_ms: int, *, app_name: str, version: str) -> NewRelicEvent:
    """An event that says nothing but that events arrive."""
    return acceptable(
        {"eventType": CHECK, "timestamp": timestamp_ms, "appName": app_name, "locust_newrelic_version": version}
    )


def _ratio(part: float, whole: int) -> float | None:
    return _rounded(part / whole) if whole else None


def _share(number: int, whole: int) -> float:
    """With six digits."""
    return round(number / whole, 6) if number else 0.0


def _rounded(number: float) -> float:
    """With three digits behind the point, to the microsecond in ms: what more digits say, New Relic would store.

    By way of an integer, a third of the time that ``round(number, 3)`` takes.
    """
    return round(number * 1000) / 1000 if abs(number) < _LARGEST_TO_ROUND else number
