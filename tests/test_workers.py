"""What the workers of a master report, in the time of the master's clock."""

from types import SimpleNamespace

import pytest
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
