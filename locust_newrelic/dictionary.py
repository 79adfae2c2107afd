"""The data dictionary: each event type and attribute, what it means, and how to ask for it in NRQL."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from .acceptable import is_event_type, why_not_a_name

SUMMARY = "LocustSummary"
REQUEST_STATISTICS = "LocustRequestStatistics"
STATUS_CODE = "LocustStatusCode"
FAILURE = "LocustFailure"
EXCEPTION = "LocustException"
REQUEST = "LocustRequest"
NODE = "LocustNode"
TEST_RUN = "LocustTestRun"
CHECK = "LocustCheck"

MOST_USER_ATTRIBUTES = 100
"""Of the 254 attributes that New Relic keeps of an event, how many may be the user's own."""


@dataclass(frozen=True)
class EventType:
    """One type of event."""

    name: str
    one_per: str
    example: str
    """A query whose answer is right for any range."""


@dataclass(frozen=True)
class Entry:
    """One attribute of an event type."""

    event_type: str
    """Empty for what every event has."""
    attribute: str
    """With ``<...>`` in it where it stands for several."""
    unit: str
    meaning: str
    nrql: str
    """What to select for a range of time; empty for what is to be filtered and grouped by."""

    @property
    def adds_up(self) -> bool:
        """Whether its sum over events means something."""
        return self.nrql == f"sum({self.attribute})"


EVENT_TYPES = (
    EventType(
        SUMMARY, "window", "SELECT sum(num_requests), 100 * sum(num_failures) / sum(num_requests) FROM LocustSummary"
    ),
    EventType(
        REQUEST_STATISTICS,
        "endpoint (method and name) and window",
        "SELECT sum(num_requests), sum(total_response_time) / sum(num_requests) FROM LocustRequestStatistics"
        " FACET method, name",
    ),
    EventType(
        STATUS_CODE,
        "endpoint, status code and window",
        "SELECT sum(num_requests) FROM LocustStatusCode FACET status_code",
    ),
    EventType(
        FAILURE,
        "endpoint, error and window",
        "SELECT sum(num_failures) FROM LocustFailure FACET name, error",
    ),
    EventType(
        EXCEPTION,
        "exception in a user's task and window",
        "SELECT sum(num_exceptions), latest(traceback) FROM LocustException FACET user_class, error",
    ),
    EventType(
        REQUEST,
        "sampled request (--newrelic-sample-rate)",
        "SELECT percentile(response_time, 95) FROM LocustRequest FACET name",
    ),
    EventType(
        NODE,
        "process and window (with many workers, each of them in every few windows)",
        "SELECT max(loop_lag_max_ms), max(cpu_percent) FROM LocustNode FACET node",
    ),
    EventType(
        TEST_RUN,
        "start, spawning complete and stop of a run",
        "SELECT latest(latency_p95), latest(error_rate) FROM LocustTestRun WHERE phase = 'stop' FACET run_id",
    ),
    EventType(CHECK, "call of locust-newrelic check", "SELECT count(*) FROM LocustCheck"),
)

_MOST = "max({0})"
_SUM = "sum({0})"
_LAST = "latest({0})"
_RATE = "rate(sum(num_requests), 1 second)"
_FAILURE_RATE = "rate(sum(num_failures), 1 second)"
_SHARE = "sum(num_failures) / sum(num_requests)"
_MEAN_TIME = "sum(total_response_time) / sum(num_requests)"
_LE = ("le_<ms>", "requests", _SUM, "Requests answered within so many ms (--newrelic-buckets), failed ones included.")
_ENDPOINT = (
    ("method", "", "", "Method of the request, as Locust has it."),
    ("name", "", "", "Name of the request."),
    ("<dimension>", "", "", "Value of each --newrelic-dimension in the request's context, if it has one."),
)
_REQUESTS = (
    ("num_requests", "requests", _SUM, "Requests."),
    ("num_failures", "requests", _SUM, "Requests that failed."),
)
_ERROR = (
    ("error_type", "", "", "Class of the exception; missing if the locustfile gave a text."),
    ("error", "", "", "What it says, as in Locust's own list."),
)
_TABLE: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "": (
        (
            "timestamp",
            "ms since 1970",
            "",
            "Start of the window, which may be before that of the run; of what happens once, the moment.",
        ),
        ("appName", "", "", "--newrelic-app-name."),
        ("run_id", "", "", "The run."),
        ("test_name", "", "", "--newrelic-test-name."),
        ("stats_epoch", "", _MOST, "How often Locust's statistics had been reset in the run."),
        ("seq", "", "uniqueCount(seq)", "Number of the event in the run, from 1 on; an event sent twice has one."),
        ("late", "1", "", "On what became known of a window after its other events were sent; else missing."),
        ("ci", "", "", "In a CI job: GitHub Actions, GitLab or Jenkins."),
        ("ci_build", "", "", "In a CI job: number of the build, or of the pipeline."),
        ("ci_commit", "", "", "In a CI job: commit."),
        ("ci_branch", "", "", "In a CI job: branch."),
    ),
    SUMMARY: (
        *_REQUESTS,
        ("error_rate", "0 to 1", _SHARE, "Share of the requests that failed."),
        ("rps", "1/s", _RATE, "Requests per second of the time that the window was open, of 1 s at the least."),
        ("fail_per_sec", "1/s", _FAILURE_RATE, "Failures per second, likewise."),
        ("latency_avg", "ms", "max(latency_avg)", "Mean response time in the window."),
        ("latency_min", "ms", "min({0})", "Shortest response time in the window."),
        ("latency_max", "ms", _MOST, "Longest response time in the window."),
        ("latency_p50", "ms", _MOST, "Median of the response times in the window."),
        ("latency_p90", "ms", _MOST, "90th percentile."),
        ("latency_p95", "ms", _MOST, "95th percentile."),
        ("latency_p99", "ms", _MOST, "99th percentile."),
        ("latency_p999", "ms", _MOST, "99.9th percentile."),
        _LE,
        ("content_length", "bytes", _SUM, "Length of all responses."),
        ("user_count", "users", _LAST, "Users at the window's end."),
        ("target_user_count", "users", _LAST, "Users that Locust was to have then."),
        ("worker_count", "workers", _LAST, "Workers of the master; 1 in a local run."),
        ("state", "", _LAST, "Locust's state at the window's end: spawning, running, ..."),
        ("interval_ms", "ms", "max({0})", "How long the window was open."),
        ("num_hidden_names", "names", _MOST, "Endpoints that share the name (other), so far; missing if none."),
    ),
    REQUEST_STATISTICS: (
        *_ENDPOINT,
        ("safe_name", "", "", "The name with &, < and > escaped, if that differs."),
        *_REQUESTS,
        ("error_rate", "0 to 1", _SHARE, "Share of the requests that failed."),
        ("current_rps", "1/s", _RATE, "Requests per second of the time that the window was open, of 1 s at the least."),
        ("current_fail_per_sec", "1/s", _FAILURE_RATE, "Failures per second, likewise."),
        ("avg_response_time", "ms", _MEAN_TIME, "Mean response time in the window."),
        ("min_response_time", "ms", "min({0})", "Shortest response time in the window."),
        ("max_response_time", "ms", _MOST, "Longest response time in the window."),
        ("median_response_time", "ms", _MOST, "Median of the response times in the window."),
        ("ninetieth_response_time", "ms", _MOST, "90th percentile."),
        ("response_time_p95", "ms", _MOST, "95th percentile."),
        ("response_time_p99", "ms", _MOST, "99th percentile."),
        ("response_time_p999", "ms", _MOST, "99.9th percentile."),
        ("total_response_time", "ms", _SUM, "All response times together."),
        _LE,
        ("avg_content_length", "bytes", "sum(total_content_length) / sum(num_requests)", "Mean length of a response."),
        ("total_content_length", "bytes", _SUM, "Length of all responses."),
        ("interval_ms", "ms", "max({0})", "How long the window was open."),
    ),
    STATUS_CODE: (
        *_ENDPOINT,
        ("status_code", "", "", "Status of the responses; 0 without a response, or if it has none."),
        ("status_class", "", "", "1xx to 5xx, or none."),
        *_REQUESTS,
        ("total_response_time", "ms", _SUM, "All response times together."),
    ),
    FAILURE: (
        *_ENDPOINT,
        *_ERROR,
        ("num_failures", "requests", _SUM, "Requests that failed with it."),
    ),
    EXCEPTION: (
        ("user_class", "", "", "Class of the user."),
        ("error_type", "", "", "Class of the exception."),
        ("error", "", "", "What it says."),
        ("traceback", "", _LAST, "Where it was raised; the deepest frames of a long one."),
        ("num_exceptions", "exceptions", _SUM, "How often that happened."),
    ),
    REQUEST: (
        *_ENDPOINT,
        ("response_time", "ms", "percentile(response_time, 95)", "Response time."),
        ("content_length", "bytes", "average({0})", "Length of the response."),
        ("status_code", "", "", "Status of the response; 0 without one."),
        ("status_class", "", "", "1xx to 5xx, or none."),
        ("url", "", "", "Address, without user, password, parameters and query."),
        *_ERROR,
        ("sample_rate", "0 to 1", "count(*) / average(sample_rate)", "Share of the window's requests that are sent."),
        ("context.<key>", "", "", "What the request's context has under that key."),
    ),
    NODE: (
        ("node", "", "", "Process: <host>:<role>-<index>."),
        ("node_index", "", "", "Locust's number of the worker; 0 for others."),
        ("role", "", "", "local, master or worker."),
        ("interval_ms", "ms", "max({0})", "The time that the event tells of."),
        ("cpu_percent", "%", _MOST, "CPU time, 100 being one core; a process cannot use more."),
        ("memory_bytes", "bytes", _MOST, "Resident memory."),
        ("user_count", "users", _LAST, "Users of the process."),
        ("num_requests", "requests", _SUM, "Requests that it made."),
        ("loop_lag_avg_ms", "ms", _MOST, "By how much a sleeping greenlet woke up too late, on average."),
        ("loop_lag_max_ms", "ms", _MOST, "The same, at the most."),
        ("clock_skew_ms", "ms", _LAST, "How far a worker's clock is ahead of the master's."),
        ("events_sent", "events", _SUM, "Events that New Relic took, since the last such event."),
        ("events_retried", "events", _SUM, "Events that were sent again, likewise."),
        ("events_spooled", "events", _SUM, "Events left to the spool, likewise."),
        ("events_lost", "events", _SUM, "Events that will not arrive, likewise."),
        ("events_queued", "events", _LAST, "Events that wait to be sent."),
    ),
    TEST_RUN: (
        ("phase", "", "", "start, spawning_complete or stop."),
        ("target_host", "", _LAST, "Host that is loaded."),
        ("user_classes", "", _LAST, "Classes of the users."),
        ("user_count", "users", _LAST, "Users at that moment."),
        ("target_user_count", "users", _LAST, "Users that Locust was to have then."),
        ("worker_count", "workers", _LAST, "Workers; 1 in a local run."),
        ("locust_version", "", _LAST, "Version of Locust."),
        ("locust_newrelic_version", "", _LAST, "Version of this package."),
        ("interval_ms", "ms", _LAST, "At the start: how long a window is."),
        ("duration_ms", "ms", _LAST, "At the stop, as all that follows: how long the run was."),
        ("ramp_up_ms", "ms", _LAST, "From the start until all users were there, if they ever were."),
        ("num_requests", "requests", _LAST, "Requests of the whole run."),
        ("num_failures", "requests", _LAST, "Those that failed."),
        ("error_rate", "0 to 1", _LAST, "Their share."),
        ("rps", "1/s", _LAST, "Requests per second of the run."),
        ("fail_per_sec", "1/s", _LAST, "Failures per second of the run."),
        ("content_length", "bytes", _LAST, "Length of all responses."),
        ("latency_avg", "ms", _LAST, "Mean of all response times."),
        ("latency_min", "ms", _LAST, "Shortest response time."),
        ("latency_max", "ms", _LAST, "Longest response time."),
        ("latency_p50", "ms", _LAST, "Median of all response times."),
        ("latency_p90", "ms", _LAST, "90th percentile."),
        ("latency_p95", "ms", _LAST, "95th percentile."),
        ("latency_p99", "ms", _LAST, "99th percentile."),
        ("latency_p999", "ms", _LAST, "99.9th percentile."),
        ("le_<ms>", "requests", _LAST, "Requests answered within so many ms."),
        ("peak_user_count", "users", _LAST, "Most users at the end of a window."),
        ("num_exceptions", "exceptions", _LAST, "Exceptions in users' tasks."),
        ("worst_p95_method", "", _LAST, "Endpoint with the highest p95, of those with 20 requests or more: method,"),
        ("worst_p95_name", "", _LAST, "name,"),
        ("worst_p95", "ms", _LAST, "and p95."),
        ("worst_failures_method", "", _LAST, "Endpoint with the most failures: method,"),
        ("worst_failures_name", "", _LAST, "name,"),
        ("worst_failures", "requests", _LAST, "and failures."),
        ("events_lost", "events", _LAST, "Events that were found not to arrive since the start."),
        ("events_lost_<reason>", "events", _LAST, "Those of them for that reason."),
        ("events_spooled", "events", _LAST, "Events left to the spool since the start."),
        ("events_dropped", "events", _LAST, "Events of the run that before_send dropped."),
        ("approximate_workers", "workers", _LAST, "Workers of which only Locust's own statistics are known."),
    ),
    CHECK: (
        ("locust_newrelic_version", "", _LAST, "Version of this package."),
    ),
}  # fmt: skip


def is_users_type(value: object) -> bool:
    """Whether events of the user's own may be of that type."""
    return is_event_type(value) and all(value != event_type.name for event_type in EVENT_TYPES)


DICTIONARY = tuple(
    Entry(event_type, attribute, unit, meaning, nrql.format(attribute))
    for event_type, attributes in _TABLE.items()
    for attribute, unit, nrql, meaning in attributes
)

OWN_NAMES = frozenset(
    entry.attribute for entry in DICTIONARY if "<" not in entry.attribute and not entry.attribute.startswith("ci")
) - {"timestamp"}
"""The names of our own attributes, those with ``<...>`` aside: no user's attribute may hide one."""

_IDENTITY = frozenset(
    "method name safe_name status_code status_class error_type error user_class traceback node node_index role".split()
)
ADDITIVE_NAMES = _IDENTITY | {entry.attribute for entry in DICTIONARY if entry.adds_up}
"""What an event says of a window whose events were sent before (``le_<ms>`` aside): what adds up, and of what."""


def why_not_an_attribute(name: str) -> str | None:
    """Why New Relic (or one of our own attributes) stands against an attribute of that name; None if nothing does."""
    reason = why_not_a_name(name)
    if reason is None and (name in OWN_NAMES or re.fullmatch(r"le_\d+|events_lost_.*", name)):
        return "locust-newrelic's own events use it"
    return reason


INTRODUCTION = """\
# What is sent

Each event describes one window, of 10 s by default, or one thing that happened. The last column says what to select for
a range of time; there is none for what is to be filtered and grouped by. `max()` stands there for percentiles, means
and extremes of a window: the worst window is a fair answer, an average of averages is none.
"""


def as_markdown(event_type: str | None = None) -> str:
    """The dictionary as a page, or the part of it for one event type."""
    parts = [INTRODUCTION, _attributes_table("Every event", "", "", "")] if event_type is None else []
    parts += [
        _attributes_table(f"`{kind.name}`", kind.name, f"One per {kind.one_per}.", kind.example)
        for kind in EVENT_TYPES
        if event_type in (None, kind.name)
    ]
    return "\n".join(parts)


def _attributes_table(title: str, event_type: str, one_per: str, example: str) -> str:
    lines = [f"## {title}", ""]
    if one_per:
        lines += [one_per, ""]
    if example:
        lines += ["```sql", *textwrap.wrap(example, 118, break_long_words=False), "```", ""]
    lines += ["| attribute | unit | meaning | in NRQL |", "|---|---|---|---|"]
    for entry in DICTIONARY:
        if entry.event_type == event_type:
            nrql = f"`{entry.nrql}`" if entry.nrql else ""
            lines.append(f"| `{entry.attribute}` | {entry.unit} | {entry.meaning} | {nrql} |")
    return "\n".join([*lines, ""])
