"""What the workers of a master report, in the time of the master's clock."""

from types import SimpleNamespace

import pytest
from locust.stats import RequestStats
from test_window import SCALE, fire

from locust_newrelic import relay
from locust_newrelic.health import Health
from locust_newrelic.recorder import Recorder
from locust_newrelic.recording import Cadence
from locust_newrelic.relay import Part, Report
from locust_newrelic.workers import Workers

NOW_MS = 1_700_000_000_000
LIMITS_MS = (100, 1000)


@pytest.fixture
def environment():
    """A master with two workers."""
    clients = {name: SimpleNamespace(state="running", cpu_usage=0, memory_usage=0, user_count=1) for name in "ab"}
    return SimpleNamespace(runner=SimpleNamespace(clients=clients, worker_indexes={"a": 0, "b": 1}))


def report(sent_at_ms, start_ms):
    """A report with one request in a window."""
    recorder = Recorder(SCALE, 10)
    fire(recorder)
    part = Part("run", start_ms, LIMITS_MS, recorder.take(), Health(1.0, 2.0, 3, 1))
    return {relay.KEY: relay.pack(Report(sent_at_ms, [part]))}


def test_how_late_windows_of_workers_end(environment):
    """A window waits for the worker whose clock is furthest behind, as long as that worker is there."""
    workers = Workers(environment, SCALE, Cadence(10.0))
    assert workers.lag_s == 0.0
    for number in range(3):
        arrival_ms = NOW_MS + 3000 * number
        for client_id, behind_ms in (("a", 40), ("b", 2_700)):
            (reported,) = workers.read(client_id, report(arrival_ms - behind_ms, NOW_MS), arrival_ms)
            assert reported.start_ms == NOW_MS
    assert workers.lag_s == 2.7

    del environment.runner.clients["b"]
    assert workers.lag_s == 2.7
    workers.forget_absent()
    assert workers.lag_s == 0.04


def test_a_worker_whose_clock_is_whole_windows_behind(environment):
    """Its windows are those of the master's clock, and later by what is no whole window."""
    workers = Workers(environment, SCALE, Cadence(10.0))
    (reported,) = workers.read("a", report(NOW_MS - 61_500, NOW_MS - 60_000), NOW_MS)

    assert (reported.start_ms, workers.lag_s) == (NOW_MS, 1.5)
    assert reported.node.clock_skew_ms == -61_500


def test_a_report_without_its_requests(environment):
    """They are taken from Locust's own statistics, by the same clock; how the worker does is told once."""
    environment.runner.clients["a"].cpu_usage = 50
    entries = RequestStats()
    entries.log_request("GET", "/", 5, 10)
    (stats,) = entries.serialize_stats()
    stats |= {"num_requests": 3, "response_times": {5: 3}, "last_request_timestamp": NOW_MS / 1000 - 59}
    stats["num_reqs_per_sec"] = {NOW_MS // 1000 - 59: 2, NOW_MS // 1000 - 72: 1}
    recorder = Recorder(SCALE, 10)
    recorder.record_exception("Visitor", KeyError("boom"), None)
    part = Part("run", NOW_MS - 60_000, LIMITS_MS, recorder.take(), Health(1.0, 2.0, 3, 1))
    packed = relay.pack(Report(NOW_MS - 60_000, [part], is_partial=True))

    workers = Workers(environment, SCALE, Cadence(10.0))
    told = workers.read("a", {relay.KEY: packed, "stats": [stats], "errors": {}}, NOW_MS)
    assert [(one.start_ms, one.is_approximate, one.window.num_requests, one.node.health.wall_s) for one in told] == [
        (NOW_MS - 20_000, True, 1, 3.0),
        (NOW_MS, True, 2, 0.0),
        (NOW_MS, False, 0, 2.0),
    ]
    assert sum(told[-1].window.details.exceptions.values()) == 1
