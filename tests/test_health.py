"""How a process is doing is measured, and adds up."""

import time

import gevent
from hypothesis import given
from hypothesis import strategies as st

from locust_newrelic.health import PROBE_INTERVAL_S, Gauge, Health

numbers = st.integers(0, 1000)
healths = st.builds(Health, numbers, numbers, numbers, numbers, numbers, numbers, numbers)


@given(healths, healths, healths)
def test_in_any_grouping(one, two, three):
    """However the parts of a window are put together, in their order, the whole is the same."""
    assert one.then(two).then(three) == one.then(two.then(three))
    assert one.then(two).cpu_s == one.cpu_s + two.cpu_s
    assert one.then(two).user_count == two.user_count


def test_nothing_known():
    """Without time there is no percentage."""
    assert Health().cpu_percent is None
    assert Health(cpu_s=1.0, wall_s=4.0).cpu_percent == 25


def test_a_blocked_loop():
    """While somebody holds the event loop, the lag shows it; then it is measured afresh."""
    created_s, gauge = time.perf_counter(), Gauge()
    gevent.sleep(0)
    blocked_s, cpu_s, begun_s = 4 * PROBE_INTERVAL_S, time.process_time(), time.perf_counter()
    while time.perf_counter() < begun_s + blocked_s:
        pass
    spent_s = time.process_time() - cpu_s
    health = Health()
    while not health.num_lags:
        gevent.sleep(0.01)
        health = health.then(gauge.take(7))
    passed_s = time.perf_counter() - created_s

    assert blocked_s - PROBE_INTERVAL_S <= health.lag_max_s <= health.lag_total_s
    assert health.lag_total_s <= passed_s - PROBE_INTERVAL_S * health.num_lags + 1e-3
    assert health.cpu_s >= spent_s
    assert health.wall_s >= blocked_s
    assert health.user_count == 7
    assert health.memory_bytes > 1_000_000
    assert gauge.take(0).lag_max_s == 0
    gauge.close()
