"""When windows begin and end, whatever is done to the clock."""

from types import SimpleNamespace

import pytest

from locust_newrelic import recording
from locust_newrelic.recording import LONGEST_PAUSE_S, Cadence

START_S = 1_700_000_000.0
"""At a multiple of each interval."""


@pytest.fixture
def clock(monkeypatch):
    """The clock of the cadence: what ``wall_s`` and ``monotonic_s`` are set to."""
    clock = SimpleNamespace(wall_s=START_S, monotonic_s=50.0)
    times = SimpleNamespace(time=lambda: clock.wall_s, monotonic=lambda: clock.monotonic_s)
    monkeypatch.setattr(recording, "time", times)
    return clock


@pytest.mark.parametrize(("offset_s", "is_over"), [
    (0.0, False), (3.2, False), (9.998, False), (10.0, True), (10.001, True), (3600.0, True),
    (-0.001, True), (-10.0, True), (-3600.0, True),
])  # fmt: skip
def test_a_window_ends_at_its_boundary(clock, offset_s, is_over):
    """It lasts from one multiple of the interval to the next, and ends if the clock is set out of it either way."""
    cadence = Cadence(10.0)
    clock.wall_s = START_S + offset_s
    assert cadence.is_over == is_over
    cadence.restart()

    assert not cadence.is_over
    assert cadence.start_ms == (START_S + offset_s) * 1000 // 10_000 * 10_000
    assert cadence.start_of(int(START_S * 1000) + 9_999) == START_S * 1000


def test_pauses(clock):
    """It is asked again at the boundary, and within a second in any case: the clock may be set."""
    cadence, pauses_s = Cadence(10.0), []
    for clock.wall_s in (START_S, START_S + 9.25, START_S + 10.5, START_S - 7):
        pauses_s.append(cadence.pause_s)

    assert pauses_s == [LONGEST_PAUSE_S, 0.75, 0.001, LONGEST_PAUSE_S]
    assert cadence.opened_s == 50.0
