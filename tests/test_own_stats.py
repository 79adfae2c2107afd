"""Of workers that report nothing of ours, Locust's own statistics count, in the windows in which requests were made."""

import math
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from locust.rpc.protocol import Message
from locust.stats import RequestStats
from new_relic import why_refused
from test_relay import REMOVED, changed, changes, places, read
from test_window import SCALE

from locust_newrelic.own_stats import last_request_ms, windows_of
from locust_newrelic.payload import Payload, Totals
from locust_newrelic.plain import MalformedError
from locust_newrelic.window import NO_STATUS, Window

SECOND = int(time.time()) // 60 * 60
ODD_TIMES = (None, -5)  # at NaN, Locust's own statistics raise


class Request:
    """What Locust's statistics are told, and when."""

    def __init__(self, second, name, time_ms, length, failed):
        self.second, self.name, self.time_ms, self.length, self.failed = second, name, time_ms, length, failed

    def __repr__(self):
        return f"Request({vars(self)})"


requests = st.builds(
    Request,
    second=st.integers(0, 12),
    name=st.sampled_from("ab"),
    time_ms=st.integers(0, 60_000) | st.floats(0, 60_000) | st.sampled_from(ODD_TIMES),
    length=st.integers(0, 1000),
    failed=st.booleans(),
)


def stats_of(made, monkeypatch):
    """Locust's own statistics of those requests, as they arrive at the master."""
    stats = RequestStats(use_response_times_cache=False)
    for request in made:
        with monkeypatch.context() as patch:
            patch.setattr("locust.stats.time.time", lambda second=request.second: SECOND + second + 0.5)
            stats.log_request("GET", request.name, request.time_ms, request.length)
            if request.failed:
                stats.log_error("GET", request.name, "no")
    return Message.unserialize(Message("stats", stats.serialize_stats(), "w").serialize()).data


def told(stats, **options):
    """The windows of 2 s that *stats* tell of."""
    settings = {"interval_ms": 2000, "shift_ms": 0, "arrival_ms": SECOND * 1000 + 13_000}
    return windows_of(stats, SCALE, **settings | options)


def sums(windows):
    """What all windows hold, by name."""
    found = Counter()
    for window in windows.values():
        for key, series in window.series.items():
            (numbers,) = series.statuses.values()
            assert set(series.statuses) == {NO_STATUS}
            for what in ("num_requests", "num_failures", "content_length", "num_untimed"):
                found[key.name, what] += getattr(numbers, what)
            assert min(numbers.num_failures, numbers.num_untimed, numbers.num_timed) >= 0
            assert numbers.total_ms > -1e-6
    return +found


def total_ms(windows):
    """The sum of all their response times."""
    return sum(window.total().total_ms for window in windows.values())


def expected(made):
    """The same of the requests."""
    found = Counter()
    for request in made:
        found[request.name, "num_requests"] += 1
        found[request.name, "num_failures"] += request.failed
        found[request.name, "content_length"] += request.length
        found[request.name, "num_untimed"] += request.time_ms is None or not request.time_ms >= 0
    return +found


@given(st.lists(requests, max_size=40))
def test_counts_are_exact(made):
    """Whatever was requested when, each window has its requests and failures, and together they have all."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        windows = told(stats_of(made, monkeypatch))
    by_window = Counter((SECOND + request.second) // 2 * 2000 for request in made)

    assert sums(windows) == expected(made)
    assert {start: window.num_requests for start, window in windows.items()} == by_window
    if not any(request.time_ms in ODD_TIMES for request in made):
        assert total_ms(windows) == pytest.approx(math.fsum(request.time_ms for request in made))


per_second = st.none() | st.dictionaries(st.integers(SECOND, SECOND + 12), st.integers(0, 9))


@given(st.lists(requests, max_size=20), per_second, per_second, st.integers(-10_000, 10_000))
def test_any_seconds(made, requested, failed, shift_ms):
    """Whatever the seconds tell, right or wrong, no request, failure or byte is lost or made up."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        stats = stats_of(made, monkeypatch)
    apart = total_ms(told(stats))
    for entry in stats:
        entry |= {"num_reqs_per_sec": requested, "num_fail_per_sec": failed}
    windows = told(stats, shift_ms=shift_ms)

    assert sums(windows) == expected(made)
    assert total_ms(windows) == pytest.approx(apart)
    assert {start_ms % 2000 for start_ms in windows} <= {0}


@given(st.integers(1, 8), st.data())
def test_seconds_that_add_up(number, data):
    """Requests are in the windows of their seconds, however these are split, and whatever their failures are."""
    of_second = data.draw(st.lists(st.integers(0, 9), min_size=number, max_size=number))
    made = [
        Request(second, "a", 10.0 * second, 100, data.draw(st.booleans()))
        for second, count in enumerate(of_second)
        for _ in range(count)
    ]
    with pytest.MonkeyPatch.context() as monkeypatch:
        windows = told(stats_of(made, monkeypatch))
    failures = Counter((SECOND + request.second) // 2 * 2000 for request in made if request.failed)

    assert +Counter({start: window.total().num_failures for start, window in windows.items()}) == failures
    assert all(window.total().content_length == 100 * window.num_requests for window in windows.values())


@given(st.lists(requests, max_size=20), st.sampled_from(["missing", "none", "wrong"]))
def test_without_seconds(made, how):
    """Requests whose seconds are not told, or do not add up, belong to the window of the report's arrival."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        stats = stats_of(made, monkeypatch)
    for entry in stats:
        if how == "missing":
            del entry["num_reqs_per_sec"], entry["num_fail_per_sec"]
        else:
            entry["num_reqs_per_sec"] = None if how == "none" else {SECOND: entry["num_requests"] + 1}
    windows = told(stats)

    assert sums(windows) == expected(made)
    assert set(windows) <= {SECOND * 1000 + 12_000}


def test_response_times(monkeypatch):
    """Sum and extremes are those of all; percentiles are as good as Locust's two digits, in each window of a report."""
    times = [1.5 * number for number in range(1, 401)]
    made = [Request(number % 4, "a", time_ms, 1, False) for number, time_ms in enumerate(times)]
    windows = told(stats_of(made, monkeypatch))

    assert len(windows) == 2
    assert sum(window.total().total_ms for window in windows.values()) == pytest.approx(sum(times))
    for window in windows.values():
        numbers = window.total()
        assert (numbers.num_timed, numbers.min_ms, numbers.max_ms) == (200, 1.5, 600)
        distribution = SCALE.distribution(numbers.bins)
        low, high = distribution.quantiles([0.5, 0.95], low=1.5, high=600)
        assert (low, high) == (pytest.approx(300, rel=0.06), pytest.approx(570, rel=0.06))


@given(st.lists(st.integers(0, 60_000) | st.floats(0, 60_000), min_size=1, max_size=40))
def test_percentiles_have_two_digits(times):
    """They are those of all the times as far as two digits go, and the smallest and largest are exact."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        windows = told(stats_of([Request(0, "a", time_ms, 1, False) for time_ms in times], monkeypatch))
    (window,) = windows.values()
    numbers, fractions = window.total(), (0.5, 0.9, 0.99)
    found = SCALE.distribution(numbers.bins).quantiles(fractions, low=numbers.min_ms, high=numbers.max_ms)

    assert (numbers.min_ms, numbers.max_ms) == (min(times), max(times))
    for value, exact in zip(found, np.quantile(times, fractions), strict=True):
        assert abs(value - exact) <= 0.06 * exact + 0.51


def test_a_clock_that_is_off(monkeypatch):
    """What is added to the worker's clock moves its requests to the windows in which they were made."""
    stats = stats_of([Request(0, "a", 1, 1, False), Request(3, "a", 1, 1, True)], monkeypatch)

    assert set(told(stats, shift_ms=3_600_000)) == {SECOND * 1000 + 3_600_000, SECOND * 1000 + 3_602_000}
    assert last_request_ms(stats) == (SECOND + 3.5) * 1000


@pytest.mark.parametrize("stats", [[], None, "text", [None], [{}], [{"last_request_timestamp": "now"}]])
def test_no_last_request(stats):
    """A report may not tell when a request was made."""
    assert last_request_ms(stats) is None


@pytest.mark.parametrize("stats", [None, {}, "text", [None], [[]], [{}], [{"name": "a", "method": "GET"}]])
def test_no_statistics(stats):
    """What is no list of Locust's entries is malformed."""
    with pytest.raises(MalformedError):
        told(stats)


ODD = [
    None, -1, 2**60, 10**400, 1.5, math.nan, math.inf, "", b"x", [], {}, {"a": 1}, {1: -1}, {1: "x"}, {-1: 3},
    {math.nan: 2}, {None: 1}, {5: 10**9}, object(),
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_malformed_statistics(odd, monkeypatch):
    """Whatever is odd about an entry, its requests are all counted, or it is malformed; nothing else happens."""
    made = [Request(number, "a", 10 * number, 1, number % 2) for number in range(4)]
    for name in stats_of(made, monkeypatch)[0]:
        (entry,) = stats_of(made, monkeypatch)
        entry[name] = odd
        try:
            windows = told([entry])
        except MalformedError:
            continue
        total = Counter()
        for window in windows.values():
            total["num_requests"] += window.num_requests
            total["num_failures"] += window.total().num_failures
        assert total == {"num_requests": 4, "num_failures": 2}, name
        assert all(math.isfinite(window.total().total_ms) for window in windows.values()), name


def test_more_failures_in_a_second_than_in_all(monkeypatch):
    """Of failures, no window has more than there are, and the last one has the rest."""
    (entry,) = stats_of([Request(number, "a", 1, 1, number > 0) for number in (0, 2, 4)], monkeypatch)
    windows = told([entry | {"num_fail_per_sec": {SECOND: 1, SECOND + 2: 9}}])

    assert [window.total().num_failures for window in windows.values()] == [1, 1, 0]


def test_fewer_requests_than_response_times(monkeypatch):
    """More response times than requests cannot be, and are refused."""
    (entry,) = stats_of([Request(0, "a", 1, 1, False)] * 3, monkeypatch)

    with pytest.raises(MalformedError, match="response_times"):
        told([entry | {"num_requests": 2}])


def events_of(windows):
    """What is sent of all of them, as of one."""
    payload, whole = Payload(SCALE, app_name="a", run_id="r", test_name="t", attributes={}), Window()
    for window in windows.values():
        for _ in whole.merge(window):
            pass
    return list(payload.late_events(whole, SECOND * 1000, 0, Totals()))


@given(st.lists(requests, min_size=1, max_size=6), st.data())
def test_any_malformed_statistics(made, data):
    """However entries are malformed, they are refused, or New Relic takes what they tell, with every request."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        stats = stats_of(made, monkeypatch)
    for _ in range(data.draw(st.integers(1, 3))):
        path, change = data.draw(st.sampled_from(list(places(stats)))), data.draw(changes)
        new = changed(stats, path, change)
        stats = stats if new is REMOVED else new
    assert last_request_ms(stats) is None or last_request_ms(stats) > 0
    windows = read(lambda: told(stats), WORDS)
    if windows is None:
        return

    assert sums(windows) or not any(entry["num_requests"] or entry["num_failures"] for entry in stats)
    summary, *others = events_of(windows)
    assert {why_refused(event) for event in (summary, *others)} == {None}
    assert summary["num_requests"] == sum(entry["num_requests"] for entry in stats)


WORDS = {"stats", "num_requests", "num_failures", "num_reqs_per_sec", "num_fail_per_sec", "total_content_length"}
WORDS |= {"response_times"}


@pytest.mark.parametrize("times", [1, 10**14])
@pytest.mark.parametrize("length", [1.7e308, -1.7e308, 1e300, 1e299, 2**63 - 1])
def test_content_lengths_beyond_all(length, times, monkeypatch):
    """A content length that no bytes could have is malformed, or harms nothing, whatever the number of requests."""
    made = [Request(number, name, 1, 1, False) for number in range(9) for name in "ab"]
    stats = stats_of(made, monkeypatch)
    for entry in stats:
        entry["total_content_length"] = length
        entry["num_requests"] *= times
        for counts in (entry["num_reqs_per_sec"], entry["response_times"]):
            counts |= {key: count * times for key, count in counts.items()}
    windows = read(lambda: told(stats), {"total_content_length"})

    for event in events_of(windows or {}):
        assert why_refused(event) is None
        assert event.keys() & {"content_length", "total_content_length", "status_code"}
