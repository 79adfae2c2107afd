"""Windows and run facts to New Relic events: every event and attribute name lives here.

An event is a plain dict of text and numbers, ready for the Event API: what New Relic would refuse is made acceptable
here, once, for all of them. Times are in ms, ``error_rate`` is 0 to 1; each number describes its own window only.
"""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

from .window import Key, Numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .health import Health
    from .histogram import Scale
    from .window import Window

Value = str | int | float
NewRelicEvent = dict[str, Value]

SUMMARY = "LocustSummary"
REQUEST_STATISTICS = "LocustRequestStatistics"
STATUS_CODE = "LocustStatusCode"
TEST_RUN = "LocustTestRun"
NODE = "LocustNode"
CHECK = "LocustCheck"

PHASE_START, PHASE_SPAWNING_COMPLETE, PHASE_STOP = "start", "spawning_complete", "stop"

LONGEST_VALUE = 4096
LONGEST_NAME = 255
MOST_USER_ATTRIBUTES = 100
"""Of the 254 attributes that New Relic keeps of an event, how many may be the user's own."""

_LARGEST_INTEGER = 2**63 - 1
_QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
_SUMMARY_QUANTILES = ("latency_p50", "latency_p90", "latency_p95", "latency_p99", "latency_p999")
_ENDPOINT_QUANTILES = (
    "median_response_time",
    "ninetieth_response_time",
    "response_time_p95",
    "response_time_p99",
    "response_time_p999",
)

# New Relic: "Data requirements and limits for custom event data", https://docs.newrelic.com
NRQL_WORDS = frozenset(
    "ago and as auto begin begintime compare day days end endtime explain facet from hour hours in is like limit minute"
    " minutes month months not null offset or raw second seconds select since timeseries until week weeks where"
    " with".split()
)
RESERVED_NAMES = frozenset(
    ["accountId", "appId", "eventType", "timestamp", "entity.guid", "entity.name", "entity.type"]
)

OWN_NAMES = frozenset(
    "appName run_id test_name stats_epoch seq late num_requests num_failures error_rate interval_ms content_length"
    " rps fail_per_sec latency_avg latency_min latency_max user_count target_user_count worker_count state"
    " num_hidden_names method name safe_name current_rps current_fail_per_sec avg_response_time min_response_time"
    " max_response_time total_response_time avg_content_length total_content_length status_code status_class phase"
    " target_host user_classes locust_version locust_newrelic_version duration_ms peak_user_count events_lost"
    " approximate_workers node node_index role cpu_percent memory_bytes loop_lag_avg_ms loop_lag_max_ms clock_skew_ms"
    " events_sent events_retried events_queued events_spooled".split()
) | {*_SUMMARY_QUANTILES, *_ENDPOINT_QUANTILES}
"""The names of our own attributes, ``le_<ms>`` and ``events_lost_<reason>`` aside: no user's attribute may hide one."""


ADDITIVE_NAMES = frozenset(
    "method name safe_name status_code status_class num_requests num_failures content_length total_response_time"
    " total_content_length node node_index role".split()
)
"""What an event says of a window whose events were sent before (``le_<ms>`` aside): what adds up, and of what."""


def why_not_an_attribute(name: str) -> str | None:
    """Why New Relic (or one of our own attributes) stands against an attribute of that name; None if nothing does."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_:.]*", name):
        return "a name begins with a letter and has letters, digits, '_', ':' and '.' only"
    if len(name) > LONGEST_NAME:
        return f"a name has at most {LONGEST_NAME} characters"
    if name.lower() in NRQL_WORDS:
        return "it is a word of New Relic's query language"
    if name in RESERVED_NAMES or name.startswith(("nr.", "entity.")):
        return "New Relic reserves it"
    if name in OWN_NAMES or re.fullmatch(r"le_\d+|events_lost_.*", name):
        return "locust-newrelic's own events use it"
    return None


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


@dataclass
class Totals:
    """The whole run so far."""

    numbers: Numbers = field(default_factory=Numbers)
    peak_user_count: int = 0

    def add(self, numbers: Numbers, user_count: int) -> None:
        """Count a window's requests, and the users seen at its end."""
        self.numbers.merge(numbers)
        self.see_users(user_count)

    def see_users(self, user_count: int) -> None:
        """Note how many users there were at some moment."""
        self.peak_user_count = max(self.peak_user_count, user_count)


class Payload:
    """Makes the events of one run, each with what all of them carry."""

    def __init__(
        self, scale: Scale, *, app_name: str, run_id: str, test_name: str, attributes: Mapping[str, str]
    ) -> None:
        self._scale = scale
        self._seq = count(1)
        self._limits = [f"le_{limit}" for limit in scale.limits_ms]
        self._common = {**attributes, "appName": app_name, "run_id": run_id, "test_name": test_name}
        self._envelope_names = self._common.keys() | {"eventType", "timestamp", "stats_epoch", "seq"}

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
            endpoint = self._endpoint(key, series.total(), seconds) | shared
            yield self._event(REQUEST_STATISTICS, interval.start_ms, interval.stats_epoch, endpoint)
            for status_code, part in series.statuses.items():
                status = self._status(key, status_code, part)
                yield self._event(STATUS_CODE, interval.start_ms, interval.stats_epoch, status)

    def late_events(self, window: Window, start_ms: int, stats_epoch: int, totals: Totals) -> Iterator[NewRelicEvent]:
        """The events for what became known of a window after its own were sent; they have ``late: 1``.

        They say only what adds up. As with :meth:`window_events`, the window is counted in the run's *totals*.
        """
        for event in self.window_events(window, Interval(start_ms, 0.0, stats_epoch), totals):
            yield self._additive(event)

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
        names = ADDITIVE_NAMES | self._envelope_names | set(self._limits)
        return {**{name: value for name, value in event.items() if name in names}, "late": 1}

    def test_run(
        self, phase: str, timestamp_ms: int, stats_epoch: int, facts: Mapping[str, Value | None]
    ) -> NewRelicEvent:
        """That a run reached a phase."""
        return self._event(TEST_RUN, timestamp_ms, stats_epoch, {"phase": phase, **facts})

    def whole_run(self, totals: Totals, duration_s: float, lost: Mapping[str, int]) -> dict[str, Value | None]:
        """What the stop event says of the run, *lost* being the events that will not arrive, by reason."""
        by_reason = {f"events_lost_{reason.replace(' ', '_')}": number for reason, number in lost.items()}
        return {
            **self._summary(totals.numbers, max(duration_s, 1.0)),
            "duration_ms": round(duration_s * 1000),
            "peak_user_count": totals.peak_user_count,
            "events_lost": sum(lost.values()),
            **by_reason,
        }

    def _event(
        self, event_type: str, timestamp_ms: int, stats_epoch: int, attributes: Mapping[str, Value | None]
    ) -> NewRelicEvent:
        envelope = {"eventType": event_type, "timestamp": timestamp_ms, **self._common}
        return acceptable({**envelope, "stats_epoch": stats_epoch, "seq": next(self._seq), **attributes})

    def _summary(self, numbers: Numbers, seconds: float) -> dict[str, Value | None]:
        num_requests, num_timed = numbers.num_requests, numbers.num_timed
        return {
            "num_requests": num_requests,
            "num_failures": numbers.num_failures,
            "error_rate": _ratio(numbers.num_failures, num_requests) or 0.0,
            "rps": round(num_requests / seconds, 3),
            "fail_per_sec": round(numbers.num_failures / seconds, 3),
            "content_length": numbers.content_length,
            "latency_avg": _ratio(numbers.total_ms, num_timed),
            "latency_min": numbers.min_ms,
            "latency_max": numbers.max_ms,
            **self._quantiles(numbers, _SUMMARY_QUANTILES),
        }

    def _endpoint(self, key: Key, numbers: Numbers, seconds: float) -> dict[str, Value | None]:
        num_requests, num_timed = numbers.num_requests, numbers.num_timed
        return {
            "method": key.method,
            "name": key.name,
            "safe_name": html.escape(key.name, quote=False),
            "num_requests": num_requests,
            "num_failures": numbers.num_failures,
            "error_rate": _ratio(numbers.num_failures, num_requests) or 0.0,
            "current_rps": round(num_requests / seconds, 3),
            "current_fail_per_sec": round(numbers.num_failures / seconds, 3),
            "avg_response_time": _ratio(numbers.total_ms, num_timed),
            "min_response_time": numbers.min_ms,
            "max_response_time": numbers.max_ms,
            "total_response_time": numbers.total_ms,
            "avg_content_length": _ratio(numbers.content_length, num_requests),
            "total_content_length": numbers.content_length,
            **self._quantiles(numbers, _ENDPOINT_QUANTILES),
        }

    def _status(self, key: Key, status_code: int, numbers: Numbers) -> dict[str, Value | None]:
        return {
            "method": key.method,
            "name": key.name,
            "status_code": status_code,
            "status_class": f"{status_code // 100}xx" if 100 <= status_code < 600 else "none",
            "num_requests": numbers.num_requests,
            "num_failures": numbers.num_failures,
            "total_response_time": numbers.total_ms,
        }

    def _quantiles(self, numbers: Numbers, names: Sequence[str]) -> dict[str, Value | None]:
        """Quantiles under those names (none if nothing was timed) and the counts within the limits."""
        distribution = self._scale.distribution(numbers.bins)
        counts: dict[str, Value | None] = dict(zip(self._limits, distribution.counts_within(), strict=True))
        if not distribution:
            return counts

        values = distribution.quantiles(_QUANTILES, low=numbers.min_ms, high=numbers.max_ms)
        return {**{name: round(value, 4) for name, value in zip(names, values, strict=True)}, **counts}


def check_event(timestamp_ms: int, *, app_name: str, version: str) -> NewRelicEvent:
    """An event that says nothing but that events arrive."""
    return acceptable(
        {"eventType": CHECK, "timestamp": timestamp_ms, "appName": app_name, "locust_newrelic_version": version}
    )


def acceptable(attributes: Mapping[str, object]) -> NewRelicEvent:
    """The attributes as New Relic takes them: text and finite numbers within its limits.

    None, NaN and infinity are left out, booleans become ``"true"`` and ``"false"``, integers stay within 64 bit, text
    is cut after 4,096 bytes of UTF-8, and anything else becomes text.
    """
    event: NewRelicEvent = {}
    for name, value in attributes.items():
        if isinstance(value, str):
            event[name] = _acceptable_text(value)
        elif isinstance(value, bool):
            event[name] = "true" if value else "false"
        elif isinstance(value, int):
            event[name] = max(-_LARGEST_INTEGER, min(int(value), _LARGEST_INTEGER))
        elif isinstance(value, float):
            if math.isfinite(value):
                event[name] = float(value)
        elif value is not None:
            event[name] = _acceptable_text(str(value))

    return event


def _acceptable_text(text: str) -> str:
    if text.isascii():
        return text[:LONGEST_VALUE]
    return text.encode("utf-8", "replace")[:LONGEST_VALUE].decode("utf-8", "ignore")


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
