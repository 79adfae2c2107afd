"""Every event is what New Relic takes, and says what its window says."""

import json
import math
import re
import time
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from new_relic import MOST_ATTRIBUTES, NRQL_WORDS, why_refused
from test_own import own_events
from test_recorder import odd_requests

from locust_newrelic.acceptable import LONGEST_NAME, acceptable
from locust_newrelic.config import MOST_BUCKETS
from locust_newrelic.details import Details, Recorded
from locust_newrelic.dictionary import DICTIONARY, MOST_USER_ATTRIBUTES, OWN_NAMES, why_not_an_attribute
from locust_newrelic.health import Health
from locust_newrelic.histogram import Scale
from locust_newrelic.own import MOST_RECORDED_ATTRIBUTES, Own
from locust_newrelic.payload import (
    PHASE_START,
    PHASE_STOP,
    Endpoint,
    Interval,
    Node,
    Payload,
    Totals,
    Volume,
)
from locust_newrelic.recorder import Recorder
from locust_newrelic.window import Numbers

SCALE = Scale((100, 1000))
NOW_MS = int(time.time()) * 1000


def named(event_type, without=""):
    """The names that the data dictionary has for events of that type, but for some."""
    names = {entry.attribute for entry in DICTIONARY if entry.event_type == event_type} - {"<dimension>"}
    if "le_<ms>" in names:
        names |= {f"le_{limit}" for limit in SCALE.limits_ms}
    return names - {"le_<ms>", *without.split()}


EVERY_EVENT = {"eventType"} | named("", without="late ci ci_build ci_commit ci_branch")
TIMED_SUMMARY = {name for name in named("LocustSummary") if name.startswith("latency_")}
SUMMARY = EVERY_EVENT | named("LocustSummary", without="num_hidden_names") - TIMED_SUMMARY
TIMED_ENDPOINT = set(
    "avg_response_time min_response_time max_response_time median_response_time ninetieth_response_time"
    " response_time_p95 response_time_p99 response_time_p999".split()
)
ENDPOINT = EVERY_EVENT | named("LocustRequestStatistics", without="safe_name") - TIMED_ENDPOINT
STATUS_CODE = EVERY_EVENT | named("LocustStatusCode")
SENDING = dict.fromkeys("events_sent events_retried events_queued events_spooled events_lost".split(), 1)
NODE = EVERY_EVENT | named("LocustNode") - SENDING.keys()
RUN = EVERY_EVENT | TIMED_SUMMARY | set(
    "phase duration_ms num_requests num_failures error_rate rps fail_per_sec content_length le_100 le_1000"
    " peak_user_count num_exceptions worst_failures worst_failures_method worst_failures_name"
    " events_lost events_lost_queue_full events_lost_HTTP_403 events_spooled events_dropped".split()
)  # fmt: skip


class Request(SimpleNamespace):
    """What is fired of a request."""

    def __init__(self, time_ms=10.0, method="GET", name="/", status_code=200, length=100, failed=False):
        super().__init__(
            time_ms=time_ms, method=method, name=name, status_code=status_code, length=length, failed=failed
        )


texts = st.text(st.characters(), max_size=20) | st.sampled_from(["ä" * 3000, "<" * 4096, "\ud800" * 4096, "\0", "end"])
requests = st.builds(
    Request,
    time_ms=st.none() | st.floats() | st.floats(0, 1e15) | st.floats(0, 1e4),
    method=texts,
    name=texts,
    status_code=st.none() | st.integers(-1, 10_000) | st.sampled_from([200, 404, 500]),
    length=st.none() | st.integers(-(1 << 40), 1 << 40) | st.sampled_from([1 << 61, 1 << 70]) | st.floats(),
    failed=st.booleans(),
)
windows = st.lists(requests, max_size=20)
intervals = st.builds(
    Interval,
    start_ms=st.just(NOW_MS),
    duration_s=st.floats(0, 86_400),
    stats_epoch=st.integers(0, 10),
    user_count=st.integers(0, 10**6),
    target_user_count=st.integers(0, 10**6),
    worker_count=st.integers(0, 1000),
    state=st.sampled_from(["ready", "spawning", "running", "stopped"]),
)


def make_window(fired, max_series=1000):
    """The window of those requests."""
    recorder = Recorder(SCALE, max_series)
    for request in fired:
        recorder.on_request(
            request.method,
            request.name,
            request.time_ms,
            request.length,
            SimpleNamespace(status_code=request.status_code),
            request.failed,
        )
    return recorder.take()


def make_payload(scale=SCALE, **attributes):
    """The payload of a run."""
    return Payload(scale, app_name="Shop", run_id="run-1", test_name="checkout", attributes=acceptable(attributes))


def make_interval(duration_s=10.0):
    """An interval that was open for so long."""
    return Interval(NOW_MS, duration_s, 3, user_count=5, target_user_count=7, worker_count=2, state="running")


def events_of(fired, interval=None, payload=None, totals=None):
    """The events of the window of those requests."""
    payload, interval = payload or make_payload(), interval or make_interval()
    return list(payload.window_events(make_window(fired), interval, Totals() if totals is None else totals))


def of_type(events, event_type):
    """Those of a type."""
    return [event for event in events if event["eventType"] == event_type]


def parts_of(events):
    """The summary, the endpoints' events, and the status codes'."""
    (summary,) = of_type(events, "LocustSummary")
    return summary, of_type(events, "LocustRequestStatistics"), of_type(events, "LocustStatusCode")


def stop_of(windows_of_requests, duration_s=60.0, lost=None):
    """The stop event of a run with those windows."""
    payload, totals = make_payload(), Totals()
    for fired in windows_of_requests:
        events_of(fired, payload=payload, totals=totals)
    for _ in payload.find_slowest(totals):
        pass
    return payload.test_run(PHASE_STOP, NOW_MS, 0, payload.whole_run(totals, duration_s, lost or {}))


@given(windows, intervals)
def test_new_relic_takes_every_event(fired, interval):
    """Whatever was requested, each event is one that New Relic stores, and survives the way as JSON."""
    for event in [*events_of(fired, interval), stop_of([fired], interval.duration_s, {"refused HTTP 403": 7})]:
        assert why_refused(event) is None
        assert json.loads(json.dumps(event, allow_nan=False)) == event


@given(windows, intervals)
def test_sums(fired, interval):
    """The endpoints' events add up to the summary, and so do the status codes', and all were requested.

    Of a sum of response times, each event tells three digits behind the point.
    """
    summary, endpoints, status_codes = parts_of(events_of(fired, interval))

    def sums(events, *names):
        return tuple(sum(event[name] for event in events) for name in names)

    counts = (len(fired), sum(request.failed for request in fired))
    times = [request.time_ms for request in fired if request.time_ms is not None and 0 <= request.time_ms <= 1e15]
    assert sums([summary], "num_requests", "num_failures") == counts
    assert sums(endpoints, "num_requests", "num_failures") == counts
    assert sums(status_codes, "num_requests", "num_failures") == counts
    assert sums([summary], "le_100", "le_1000") == sums(endpoints, "le_100", "le_1000")
    assert sums(endpoints, "le_100") == (sum(time_ms <= 100 for time_ms in times),)
    for events in (endpoints, status_codes):
        (told,) = sums(events, "total_response_time")
        assert told == pytest.approx(math.fsum(times), rel=1e-9, abs=0.0005 * len(events))


def test_names_of_attributes():
    """The events' types and attributes are those of the data dictionary: no more, no less."""
    fired = [Request(), Request(None, failed=True, status_code=None)]
    summary, (endpoint,), status_codes = parts_of(events_of(fired))
    stop = stop_of([fired], lost={"queue full": 1, "HTTP 403": 2})

    assert summary.keys() == SUMMARY | TIMED_SUMMARY
    assert endpoint.keys() == ENDPOINT | TIMED_ENDPOINT
    assert [event.keys() for event in status_codes] == [STATUS_CODE] * 2
    assert (stop["eventType"], stop.keys()) == ("LocustTestRun", RUN)
    for sending in ({}, SENDING):
        event = make_payload().node_event(node(), NOW_MS, 0, sending)
        assert (event["eventType"], event.keys()) == ("LocustNode", NODE | sending.keys())


def node(role="worker", **facts):
    """A process in a window."""
    health = Health(1.0, 4.0, 10**8, 3, 10, 0.05, 0.04)
    return Node("host", role, 1, **{"health": health, "num_requests": 5, "clock_skew_ms": -7} | facts)


def test_what_a_node_says():
    """How a process did; what is not known of it is left out."""
    (known, unknown) = (
        make_payload().node_event(one, NOW_MS, 2, sending)
        for one, sending in ((node(), {"events_sent": 3}), (node("master", health=Health(), clock_skew_ms=None), {}))
    )

    assert known == {
        "eventType": "LocustNode", "timestamp": NOW_MS, "appName": "Shop", "run_id": "run-1", "test_name": "checkout",
        "stats_epoch": 2, "seq": 1, "node": "host:worker-1", "node_index": 1, "role": "worker", "num_requests": 5,
        "interval_ms": 4000,
        "user_count": 3, "cpu_percent": 25.0, "memory_bytes": 10**8, "loop_lag_avg_ms": 5.0, "loop_lag_max_ms": 40.0,
        "clock_skew_ms": -7, "events_sent": 3,
    }  # fmt: skip
    assert known.keys() - unknown.keys() == {
        "cpu_percent", "memory_bytes", "loop_lag_avg_ms", "loop_lag_max_ms", "clock_skew_ms", "events_sent",
        "interval_ms",
    }  # fmt: skip
    assert {name for name in known if why_not_an_attribute(name) is None} == set()


amounts = st.floats(0, 2**53) | st.integers(0, 2**53) | st.sampled_from([0, 0.0, 5e-324, 2**53])
whole_amounts = st.integers(0, 2**53)
healths = st.builds(Health, amounts, amounts, whole_amounts, whole_amounts, whole_amounts, amounts, amounts)


@given(healths, texts, st.none() | st.integers() | st.floats(), st.booleans())
def test_new_relic_takes_every_node(health, host, skew_ms, late):
    """However a process does and whatever its host is called, New Relic stores it; none has a lag that has no lags."""
    one = node(health=health, clock_skew_ms=skew_ms)
    one.host = host
    event = make_payload().node_event(one, NOW_MS, 0, SENDING, late=late)

    assert why_refused(event) is None
    assert ("loop_lag_avg_ms" in event) == ("loop_lag_max_ms" in event) == (health.num_lags > 0 and not late)
    assert event.keys() <= NODE | SENDING.keys() | {"late"}


exact_requests = st.builds(
    Request,
    time_ms=st.none() | st.floats(0, 1e5),
    name=texts,
    status_code=st.sampled_from([None, 200, 404, 500]),
    length=st.none() | st.integers(-(1 << 40), 1 << 40),
    failed=st.booleans(),
)


@given(st.lists(st.lists(exact_requests, max_size=10), max_size=3))
def test_late_events_add_up(windows_of_requests):
    """What comes of a window in time and late adds up to what one window of all these requests would say."""
    payload, totals = make_payload(team="a"), Totals()
    events = [
        event for fired in windows_of_requests for event in payload.late_events(make_window(fired), NOW_MS, 3, totals)
    ]
    whole = events_of([request for fired in windows_of_requests for request in fired])

    for event_type, names in (
        ("LocustSummary", "num_requests num_failures content_length le_100 le_1000"),
        (
            "LocustRequestStatistics",
            "num_requests num_failures total_response_time total_content_length le_100 le_1000",
        ),
        ("LocustStatusCode", "num_requests num_failures total_response_time"),
    ):
        for name in names.split():
            several, one = of_type(events, event_type), of_type(whole, event_type)
            told, expected = (math.fsum(event[name] for event in them) for them in (several, one))
            assert told == pytest.approx(expected, rel=1e-9, abs=0.0005 * (len(several) + len(one))), name
    assert {event["team"] for event in events} <= {"a"}
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert totals.peak_user_count == 0


@given(windows)
def test_late_events(fired):
    """What comes late says only what adds up, and that it is late; it is in the run's totals like all else."""
    payload, totals = make_payload(), Totals()
    window = make_window(fired)
    events = list(payload.late_events(window, NOW_MS, 3, totals))
    summary, endpoints, status_codes = parts_of(events)
    in_time = {event["eventType"]: event for event in make_payload().window_events(window, make_interval(), Totals())}

    assert {event["late"] for event in events} == {1}
    assert {why_refused(event) for event in events} == {None}
    additive = EVERY_EVENT | {"late", "num_requests", "num_failures", "le_100", "le_1000"}
    assert summary.keys() == additive | {"content_length"}
    for event in endpoints:
        of_it = {"method", "name", "total_response_time", "total_content_length"}
        assert event.keys() - {"safe_name"} == additive | of_it
    for event in status_codes:
        of_it = {"method", "name", "status_code", "status_class", "total_response_time"}
        assert event.keys() == additive - {"le_100", "le_1000"} | of_it
    assert summary["num_requests"] == len(fired) == totals.numbers.num_requests
    assert all(summary[name] == in_time["LocustSummary"][name] for name in ("num_failures", "content_length", "le_100"))


def test_a_late_node():
    """Late, a process tells its requests only."""
    event = make_payload().node_event(node(), NOW_MS, 0, {}, late=True)

    assert event.keys() == EVERY_EVENT | {"late", "node", "node_index", "role", "num_requests"}


def test_own_names():
    """Every name of the dictionary is known as ours, but for those of a CI job, which a user may set; no word of NRQL.

    So no user's attribute hides one of ours.
    """
    own = {re.sub("<.*>", "1", entry.attribute) for entry in DICTIONARY} - {"1", "context.1"}

    assert {name for name in own if why_not_an_attribute(name) is None} == {"ci", "ci_build", "ci_commit", "ci_branch"}
    assert {name for name in own - OWN_NAMES if not re.match(r"le_|events_lost_|ci", name)} == {"timestamp"}
    assert {name.lower() for name in own | OWN_NAMES} & NRQL_WORDS == set()


def test_what_a_window_says():
    """The figures of a small window, one by one."""
    fired = [Request(50.0), Request(100), Request(300.0, status_code=503, failed=True), Request(None, length=0)]
    fired += [Request(3000.0, "POST", "/<b>&")]
    summary, endpoints, status_codes = parts_of(events_of(fired, make_interval(duration_s=2.5)))
    get, post = sorted(endpoints, key=lambda event: event["method"])

    assert summary == {
        "eventType": "LocustSummary",
        "timestamp": NOW_MS,
        "appName": "Shop",
        "run_id": "run-1",
        "test_name": "checkout",
        "stats_epoch": 3,
        "seq": 1,
        "num_requests": 5,
        "num_failures": 1,
        "error_rate": 0.2,
        "rps": 2.0,
        "fail_per_sec": 0.4,
        "content_length": 400,
        "latency_avg": 862.5,
        "latency_min": 50.0,
        "latency_max": 3000.0,
        "latency_p50": pytest.approx(200, rel=0.01),
        "latency_p90": pytest.approx(2190, rel=0.01),
        "latency_p95": pytest.approx(2595, rel=0.01),
        "latency_p99": pytest.approx(2919, rel=0.01),
        "latency_p999": pytest.approx(2991.9, rel=0.01),
        "le_100": 2,
        "le_1000": 3,
        "user_count": 5,
        "target_user_count": 7,
        "worker_count": 2,
        "state": "running",
        "interval_ms": 2500,
    }
    assert {name: get[name] for name in ENDPOINT | TIMED_ENDPOINT if name not in EVERY_EVENT} == {
        "method": "GET",
        "name": "/",
        "num_requests": 4,
        "num_failures": 1,
        "error_rate": 0.25,
        "current_rps": 1.6,
        "current_fail_per_sec": 0.4,
        "avg_response_time": 150.0,
        "min_response_time": 50.0,
        "max_response_time": 300.0,
        "median_response_time": pytest.approx(100, rel=0.01),
        "ninetieth_response_time": pytest.approx(260, rel=0.01),
        "response_time_p95": pytest.approx(280, rel=0.01),
        "response_time_p99": pytest.approx(296, rel=0.01),
        "response_time_p999": pytest.approx(299.6, rel=0.01),
        "total_response_time": 450.0,
        "avg_content_length": 75.0,
        "total_content_length": 300,
        "le_100": 2,
        "le_1000": 3,
        "interval_ms": 2500,
    }
    assert "safe_name" not in get
    assert (post["name"], post["safe_name"]) == ("/<b>&", "/&lt;b&gt;&amp;")
    assert sorted(
        (event["method"], event["status_code"], event["num_requests"], event["num_failures"]) for event in status_codes
    ) == [("GET", 200, 3, 0), ("GET", 503, 1, 1), ("POST", 200, 1, 0)]


def test_a_window_without_requests():
    """A stall is a summary that says zero, without response times."""
    (summary,) = events_of([])

    assert summary.keys() == SUMMARY
    assert {name: summary[name] for name in ("num_requests", "num_failures", "error_rate", "rps", "le_100")} == {
        "num_requests": 0, "num_failures": 0, "error_rate": 0.0, "rps": 0.0, "le_100": 0
    }  # fmt: skip


def test_requests_without_times():
    """Requests without a response time are counted; of response times nothing is said."""
    summary, (endpoint,), _ = parts_of(events_of([Request(None), Request(math.nan)]))

    assert summary.keys() == SUMMARY
    assert endpoint.keys() == ENDPOINT
    assert (endpoint["num_requests"], endpoint["total_response_time"]) == (2, 0.0)


@pytest.mark.parametrize("time_ms", [1.4, 14.6, 1234.56, 3_599_999.0])
def test_percentiles(time_ms):
    """In the events, too, percentiles are within 1 % of the truth."""
    fired = [Request(time_ms * factor) for factor in (0.5, 1, 1, 1, 2)]
    summary, (endpoint,), _ = parts_of(events_of(fired))

    assert summary["latency_p50"] == endpoint["median_response_time"] == pytest.approx(time_ms, rel=0.01)
    assert summary["latency_p95"] == endpoint["response_time_p95"] == pytest.approx(1.8 * time_ms, rel=0.01)


def test_hidden_names():
    """The summary says how many names share the series of the others."""
    window = make_window([Request(name=name) for name in "abcc"], max_series=1)
    summary, endpoints, _ = parts_of(list(make_payload().window_events(window, make_interval(), Totals())))

    assert summary["num_hidden_names"] == 2
    assert sorted((event["name"], event["num_requests"]) for event in endpoints) == [("(other)", 3), ("a", 1)]


@pytest.mark.parametrize(("duration_s", "seconds"), [(0.0, 1), (0.25, 1), (1.0, 1), (2.5, 2.5), (10.0, 10)])
def test_rates(duration_s, seconds):
    """Rates use the time that the window was really open, but at least 1 s; the event tells that time as it is."""
    fired = [Request(failed=number < 20) for number in range(100)]
    summary, (endpoint,), _ = parts_of(events_of(fired, make_interval(duration_s)))
    stop = stop_of([fired], duration_s)

    assert (summary["rps"], summary["fail_per_sec"]) == (100 / seconds, 20 / seconds)
    assert (endpoint["current_rps"], endpoint["current_fail_per_sec"]) == (100 / seconds, 20 / seconds)
    assert (stop["rps"], stop["fail_per_sec"]) == (100 / seconds, 20 / seconds)
    assert summary["interval_ms"] == endpoint["interval_ms"] == stop["duration_ms"] == duration_s * 1000


def test_seq():
    """The events of a run are numbered from 1, without gaps, whatever they are."""
    payload = make_payload()
    events = [payload.test_run(PHASE_START, NOW_MS, 0, {})]
    for fired in ([], [Request(), Request(name="/b")], []):
        events += events_of(fired, payload=payload)
    events.append(payload.test_run(PHASE_STOP, NOW_MS, 0, {}))

    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert len(events) == 9


@pytest.mark.parametrize(
    ("status_code", "told"),
    [
        (None, (0, "none")), (0, (0, "none")), (99, (99, "none")), (100, (100, "1xx")), (204, (204, "2xx")),
        (399, (399, "3xx")), (404, (404, "4xx")), (599, (599, "5xx")), (600, (600, "none")), (10_000, (0, "none")),
    ],
)  # fmt: skip
def test_status_class(status_code, told):
    """A status code belongs to its hundred, or to none."""
    (event,) = of_type(events_of([Request(status_code=status_code)]), "LocustStatusCode")

    assert (event["status_code"], event["status_class"]) == told


def test_status_codes_are_integers():
    """Each is sent as a number, as is every count."""
    for event in events_of([Request(status_code=200.0), Request(status_code=True)]):
        for name in event.keys() & {"status_code", "num_requests", "num_failures", "le_100", "seq", "timestamp"}:
            assert type(event[name]) is int, name


@given(st.lists(windows, max_size=4))
def test_whole_run(windows_of_requests):
    """The stop event says of all windows together what one summary would say of all their requests."""
    stop = stop_of(windows_of_requests, duration_s=10.0)
    (summary, *_) = events_of([request for fired in windows_of_requests for request in fired])
    shared = (summary.keys() - EVERY_EVENT) & stop.keys()

    assert shared >= TIMED_SUMMARY & summary.keys() | {"num_requests", "num_failures", "error_rate", "rps", "le_100"}
    assert {name: stop[name] for name in shared} == pytest.approx({name: summary[name] for name in shared})


def test_what_a_stop_says():
    """How long it took, the most users at a time, and what was lost on the way, by reason."""
    payload, totals = make_payload(), Totals()
    for user_count in (3, 8, 0):
        interval = Interval(NOW_MS, 10.0, 0, user_count, 10, 0, "running")
        events_of([Request()], interval, payload, totals)
    stop = payload.test_run(PHASE_STOP, NOW_MS, 0, payload.whole_run(totals, 29.9996, {"queue full": 2, "HTTP 403": 3}))

    names = "phase num_requests duration_ms peak_user_count events_lost events_lost_queue_full events_lost_HTTP_403"
    assert [stop[name] for name in names.split()] == ["stop", 3, 30_000, 8, 5, 2, 3]


def test_facts_of_a_run():
    """What is said of a run goes into the event, unless it is not known."""
    event = make_payload().test_run(PHASE_START, NOW_MS, 2, {"target_host": None, "user_count": 3})

    assert event.keys() == EVERY_EVENT | {"phase", "user_count"}
    assert (event["phase"], event["user_count"], event["stats_epoch"]) == ("start", 3, 2)


def test_the_users_attributes():
    """Each event carries them; of our own attributes they replace none."""
    payload = make_payload(build="1234", team="\ud800", appName="not ours")
    for event in [*events_of([Request()], payload=payload), payload.test_run(PHASE_START, NOW_MS, 0, {})]:
        assert (event["build"], event["team"], event["appName"]) == ("1234", "?", "Shop")


def test_as_many_attributes_as_may_be():
    """With all the attributes and limits that a user may have, an event has not too many."""
    scale = Scale(range(1, MOST_BUCKETS + 1))
    payload = make_payload(scale, **{f"a{number}": "x" for number in range(MOST_USER_ATTRIBUTES)})
    lost = {f"reason {number}": 1 for number in range(50)}
    stop = payload.test_run(PHASE_STOP, NOW_MS, 0, payload.whole_run(Totals(), 1.0, lost))
    events = [*events_of([Request()], payload=payload), stop]

    assert max(map(len, events)) > MOST_USER_ATTRIBUTES + MOST_BUCKETS
    assert max(map(len, events)) < MOST_ATTRIBUTES


class Text(str):
    """Text, and more."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        (True, "true"), (False, "false"), (0, 0), (-3, -3), (0.5, 0.5), ("", ""), ("text", "text"),
        (2**63 - 1, 2**63 - 1), (2**63, 2**63 - 1), (-(2**70), 1 - 2**63), (10**400, 2**63 - 1), (1e300, 1e300),
        (Decimal("1.50"), 1.5), ([1, "a"], '[1, "a"]'), ((1, None), "[1, null]"), (["x" * 5000], '["' + "x" * 4094),
        ({"a": {"b": [True, "ä"]}, 1: Decimal("0.5")}, '{"a": {"b": [true, "ä"]}, "1": "0.5"}'), ([], "[]"), ({}, "{}"),
        (b"a", "a"), (b"\xff", "\ufffd"), ([b"a"], '["a"]'),
        ("x" * 4096, "x" * 4096), ("x" * 4097, "x" * 4096), ("ä" * 4096, "ä" * 2048), ("xä" * 2000, "xä" * 1365 + "x"),
        ("x" + "ä" * 4096, "x" + "ä" * 2047), ("\N{GRINNING FACE}" * 1025, "\N{GRINNING FACE}" * 1024),
        ("a\ud800b", "a?b"), ("\udfff" * 5000, "?" * 4096), (Text("text"), "text"),
    ],
)  # fmt: skip
def test_acceptable(value, accepted):
    """Text and numbers stay as they are within New Relic's limits; what is neither becomes JSON or text."""
    (found,) = acceptable({"name": value}).values()

    assert (type(found), found) == (type(accepted), accepted)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_left_out(value):
    """What is unknown or no number is left out, and the rest is not."""
    assert acceptable({"before": 1, "name": value, "after": 2}) == {"before": 1, "after": 2}


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.lists(st.text()))
def test_new_relic_takes_what_is_acceptable(value):
    """Whatever a value is, what becomes of it is one that New Relic stores."""
    assert why_refused(acceptable({"eventType": "Own", "timestamp": NOW_MS, "name": value})) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("end", "a word of"), ("End", "a word of"), ("SINCE", "a word of"),
        ("timestamp", "reserves"), ("eventType", "reserves"), ("appId", "reserves"), ("accountId", "reserves"),
        ("nr.x", "reserves"), ("entity.name", "reserves"), ("entity.own", "reserves"),
        ("le_100", "own events"), ("le_7", "own events"), ("run_id", "own events"), ("events_lost_x", "own events"),
        ("", "begins with"), ("1a", "begins with"), ("_a", "begins with"), ("a b", "begins with"),
        ("a\n", "begins with"), ("ä", "begins with"), ("a-b", "begins with"), ("a" * (LONGEST_NAME + 1), "at most 255"),
    ],
)  # fmt: skip
def test_bad_attribute_names(name, reason):
    """A name that New Relic would not store, or that one of ours has, is refused with the reason."""
    assert reason in why_not_an_attribute(name)


@pytest.mark.parametrize("name", ["build", "team.name", "a:b", "A_1", "ended", "le_x", "nrx", "a" * LONGEST_NAME])
def test_good_attribute_names(name):
    """Any other name is as good for us as it is for New Relic."""
    assert why_not_an_attribute(name) is None


@given(
    st.from_regex(r"[A-Za-z0-9_:. ]{0,9}", fullmatch=True)
    | st.sampled_from(sorted(NRQL_WORDS)).map(str.title)
    | st.text()
)
def test_new_relic_takes_every_name_that_we_accept(name):
    """What we do not refuse New Relic does not, either."""
    if why_not_an_attribute(name) is None:
        assert why_refused({"eventType": "Own", "timestamp": NOW_MS, name: "x"}) is None


# -- details -------------------------------------------------------------------------------------------------------

DIMENSIONS = ("tenant", "plan")


FIRED = {
    "response": SimpleNamespace(status_code=503), "exception": "no", "context": {"tenant": "a", "b": [1]},
    "url": "/x?y", "start_time": NOW_MS / 1000 + 1,
}  # fmt: skip


def detailed_window(own=(), **further):
    """A window with a failed request, of which all there is to tell is fired, an exception and events of a user's."""
    recorder = Recorder(SCALE, 1000, dimensions=DIMENSIONS, sample_rate=1.0)
    for listener in recorder.listeners:
        listener("GET", "/<", 12.34567, 100, **{**FIRED, **further})
    recorder.record_exception("Shopper", KeyError("no"), None)
    for event in own:
        recorder.record_event(event)
    return recorder.take()


def payload_of_details(**attributes):
    """The payload of a run with dimensions and samples."""
    return Payload(
        SCALE, app_name="Shop", run_id="run-1", test_name="checkout", attributes=attributes,
        dimensions=DIMENSIONS, sample_rate=0.5,
    )  # fmt: skip


ENVELOPE = {"appName": "Shop", "run_id": "run-1", "test_name": "checkout", "stats_epoch": 3}
FAILED = {"method": "GET", "name": "/<", "tenant": "a", "error": "'no'"}
OWN = Recorded("Order", NOW_MS + 2, {"price": 1.5, "run_id": "mine", "seq": 0, "late": "x", "stats_epoch": "e"})
TOLD = [
    {"eventType": "LocustFailure", "timestamp": NOW_MS, **ENVELOPE, **FAILED, "num_failures": 1},
    {"eventType": "LocustException", "timestamp": NOW_MS, **ENVELOPE, "user_class": "Shopper",
     "error_type": "KeyError", "error": "'no'", "num_exceptions": 1},
    {"eventType": "LocustRequest", "timestamp": NOW_MS + 1000, **ENVELOPE, **FAILED, "response_time": 12.346,
     "content_length": 100, "status_code": 503, "status_class": "5xx", "url": "/x", "sample_rate": 0.5,
     "context.tenant": "a", "context.b": "[1]"},
    {"eventType": "Order", "timestamp": NOW_MS + 2, **ENVELOPE, "price": 1.5, "run_id_": "mine", "seq_": 0,
     "late_": "x", "stats_epoch_": "e"},
]  # fmt: skip


@pytest.mark.parametrize("late", [False, True])
def test_what_details_say(late):
    """Failures, exceptions, sampled requests and own events, one by one, also late; ours no attribute replaces."""
    payload, totals, window = payload_of_details(), Totals(), detailed_window([OWN])
    if late:
        events = list(payload.late_events(window, NOW_MS, 3, totals))
    else:
        events = list(payload.window_events(window, make_interval(), totals))

    assert [event["seq"] for event in events] == list(range(1, 8))
    assert all(event.get("late") == (1 if late else None) for event in events)
    assert [{name: event[name] for name in event if name not in ("seq", "late")} for event in events[3:]] == TOLD
    assert [event.get("tenant") for event in events[:3]] == [None, "a", "a"]
    assert {"plan"} & set().union(*events) == set()
    assert totals.num_exceptions == 1
    assert {why_refused(event) for event in events} == {None}


def test_a_request_without_anything():
    """Of a sampled request what is not known is left out; its moment is then its window's."""
    window = detailed_window(context=None, url=None, start_time=None, exception=None, response=None)
    (event,) = of_type(payload_of_details().window_events(window, make_interval(), Totals()), "LocustRequest")

    assert event == {
        "eventType": "LocustRequest", "timestamp": NOW_MS, **ENVELOPE, "seq": event["seq"], "method": "GET",
        "name": "/<", "response_time": 12.346, "content_length": 100, "status_code": 0, "status_class": "none",
        "sample_rate": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("hours", [-100_000, -13, 13, 100_000])
def test_far_moments(hours):
    """A sampled request or an own event far from its window, which New Relic would not take, is told at its start."""
    far_ms = NOW_MS + hours * 3_600_000
    window = detailed_window([Recorded("Order", far_ms, {})], start_time=far_ms / 1000)
    events = list(payload_of_details().window_events(window, make_interval(), Totals()))

    assert {event["timestamp"] for event in events} == {NOW_MS}


@pytest.mark.parametrize(("bound", "rate"), [(1.0, 0.5), (0.5, 0.5), (0.25, 0.25)])
def test_the_rate_of_samples(bound, rate):
    """A request's sample_rate is the rate asked for or, where there were too many, the share that was kept."""
    window = detailed_window()
    (sample,), window.details = window.details.samples, Details()
    window.details.samples.add(replace(sample, lot=0.1))
    window.details.samples.lower(bound)
    (event,) = of_type(payload_of_details().window_events(window, make_interval(), Totals()), "LocustRequest")

    assert event["sample_rate"] == rate


@given(st.lists(odd_requests, max_size=6), st.lists(own_events, max_size=3), st.lists(st.text(st.characters())))
def test_new_relic_takes_all_details(fired, recorded, errors):
    """Whatever was fired, raised and recorded, each event of it is one that New Relic stores, in time and late."""
    recorder = Recorder(SCALE, 3, dimensions=DIMENSIONS, sample_rate=1.0)
    own = Own()
    own.hand_over(recorder.record_event)
    for request in fired:
        for listener in recorder.listeners:
            listener(**request)
    for event_type, attributes in recorded:
        own.record(event_type, attributes)
    for error in errors:
        recorder.record_exception(error, ValueError(error), None)
    window, payload = recorder.take(), payload_of_details(build="7")
    events = list(payload.window_events(window, make_interval(), Totals()))
    late = list(payload.late_events(window, NOW_MS, 3, Totals()))

    assert {why_refused(event) for event in [*events, *late]} == {None}
    assert len(events) == len(late)
    assert len(of_type(events, "LocustRequest")) == len(fired)
    assert sum(event["num_failures"] for event in of_type(events, "LocustFailure")) == events[0]["num_failures"]
    assert sum(event["num_exceptions"] for event in of_type(events, "LocustException")) == len(errors)
    for event_type in ("LocustFailure", "LocustException"):
        allowed = EVERY_EVENT | named(event_type) | {*DIMENSIONS, "build", "late"}
        assert all(event.keys() <= allowed for event in of_type([*events, *late], event_type))


def test_an_event_of_a_users_own_with_all_attributes():
    """With all attributes that a user can set in all places, no event has too many, nor lacks what makes it one."""
    attributes = {f"a{number}": "x" for number in range(2 * MOST_USER_ATTRIBUTES + 4)}
    own = Recorded("Order", NOW_MS, {f"own{number}": number for number in range(MOST_RECORDED_ATTRIBUTES)})
    window = detailed_window([own], context={f"key{number}": 1 for number in range(100)})
    events = list(payload_of_details(**attributes).window_events(window, make_interval(), Totals()))
    late = list(payload_of_details(**attributes).late_events(window, NOW_MS, 3, Totals()))

    assert {why_refused(event) for event in [*events, *late]} == {None}
    assert all(event.keys() >= EVERY_EVENT for event in [*events, *late])
    for order in of_type([*events, *late], "Order"):
        assert order.keys() >= own.attributes.keys()
        assert len(order) >= MOST_ATTRIBUTES - 1
    assert late[-1]["late"] == 1


# -- the whole run -------------------------------------------------------------------------------------------------

WORST = "worst_p95_method worst_p95_name worst_p95 worst_failures_method worst_failures_name worst_failures".split()


def test_the_worst_endpoints():
    """The stop event names the endpoint with the highest p95 of those with 20 requests, and that with most failures."""
    slow = [Request(500.0, "POST", "/slow") for _ in range(10)]
    rare = [Request(9000.0, name="/rare") for _ in range(19)]
    failing = [Request(5.0, name="/failing", failed=number < 3) for number in range(30)]
    more = [Request(1.0, name="/sometimes", failed=True) for _ in range(2)]
    stop = stop_of([[*slow, *rare, *failing], [*slow, *more]])

    assert [stop[name] for name in WORST] == [
        "POST", "/slow", pytest.approx(500, rel=0.01), "GET", "/failing", 3,
    ]  # fmt: skip


def test_no_worst_endpoints():
    """Where nothing failed and nothing was requested often, or nothing was timed, no endpoint is the worst."""
    assert stop_of([[Request() for _ in range(19)]]).keys() & set(WORST) == set()
    assert stop_of([[Request(None) for _ in range(30)]]).keys() & set(WORST) == set()
    assert stop_of([[Request(0.0) for _ in range(20)]]).keys() & set(WORST) == set(WORST[:3])


def test_the_worst_endpoint_whatever_its_dimensions():
    """Requests of an endpoint are of one, whatever its dimensions."""
    recorder, payload, totals = Recorder(SCALE, 1000, dimensions=DIMENSIONS), payload_of_details(), Totals()
    for number in range(20):
        recorder.on_request("GET", "/", 10.0, 1, None, "no", {"tenant": str(number)})
    list(payload.window_events(recorder.take(), make_interval(), totals))
    for _ in payload.find_slowest(totals):
        pass
    stop = payload.test_run(PHASE_STOP, NOW_MS, 0, payload.whole_run(totals, 10.0, {}))

    assert [stop[name] for name in WORST] == ["GET", "/", pytest.approx(10, rel=0.01), "GET", "/", 20]


def test_ramp_up_and_exceptions_of_a_run():
    """The stop event says when all users were there, if they ever were, and how many exceptions there were."""
    payload, totals = payload_of_details(), Totals()
    assert "ramp_up_ms" not in payload.test_run(PHASE_STOP, NOW_MS, 0, payload.whole_run(totals, 9.0, {}))
    totals.ramp_up_s, totals.num_dropped = 1.2345, 4
    for _ in range(3):
        list(payload.window_events(detailed_window(), make_interval(), totals))
    list(payload.late_events(detailed_window(), NOW_MS, 3, totals))
    stop = payload.test_run(PHASE_STOP, NOW_MS, 0, payload.whole_run(totals, 9.0, {}, num_spooled=5))

    names = "ramp_up_ms num_exceptions events_dropped events_spooled"
    assert [stop[name] for name in names.split()] == [1234, 4, 4, 5]


@pytest.mark.parametrize("num_endpoints", [1, 3, 8, 16, 64, 100])
def test_the_volume(num_endpoints):
    """Whatever the number of endpoints, and however unlike they are, the estimate is within 5 % of all JSON."""
    payload, volume, exact = make_payload(build="17"), Volume(), 0
    for window_number in range(2_000 // num_endpoints):
        fired = [Request(1.0 + window_number, name="/" + "x" * (number * 40)) for number in range(num_endpoints)]
        for event in events_of(fired, payload=payload):
            volume.add(event)
            exact += len(json.dumps(event, separators=(",", ":")))

    assert volume.num_bytes == pytest.approx(exact, rel=0.05)
    assert volume.num_events == next(payload._seq) - 1


def test_the_endpoints_of_a_long_run():
    """After more requests than a bin can count, the times of an endpoint are those of the first ones."""
    endpoint, numbers = Endpoint(), Numbers()
    numbers.num_requests, numbers.bins = 2**31, {5: 2**31 - 1, 6: 1}
    for _ in range(3):
        endpoint.add(numbers)

    assert endpoint.bins == {5: 2**31 - 1, 6: 1}
    assert endpoint.num_requests == 3 * 2**31
