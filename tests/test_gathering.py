"""Windows of several processes become one, in whatever order and parts they arrive."""

from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_window import SCALE, Plain, fire, fired, make_window, told

from locust_newrelic.details import MOST_RECORDED, Recorded
from locust_newrelic.gathering import Gathering, NodesInTurn, Slot
from locust_newrelic.health import Health
from locust_newrelic.payload import Interval, Node
from locust_newrelic.recorder import Recorder
from locust_newrelic.window import ROWS_AT_ONCE, Names, Window

MANY = 1000
PLACES = [(start_ms, epoch) for start_ms in (10_000, 20_000) for epoch in (0, 1)]


def node(name="a", role="worker", **health):
    """A process."""
    return Node(name, role, 0, Health(**health))


def add(gathering, window, place, of=None, due_s=100.0):
    """Count a window in."""
    for _ in gathering.add(window, of or node(), *place, due_s=due_s):
        pass


PROCESSES = [("a", "worker"), ("b", "worker"), ("m", "master")]


def gathered(arrivals, max_series=MANY):
    """The slots, by place, after those arrivals: requests, place, and who made them."""
    gathering = Gathering(Names(max_series), MANY)
    for requests, place, process in arrivals:
        add(gathering, make_window(requests), place, node(*process))
    return {(slot.start_ms, slot.stats_epoch): slot for slot in gathering.take_all()}


def arrivals_of(processes):
    """Parts of windows of those processes."""
    return st.lists(
        st.tuples(st.lists(fired, max_size=8), st.sampled_from(PLACES), st.sampled_from(processes)), max_size=8
    )


arrivals = arrivals_of(PROCESSES)


@given(arrivals, st.randoms(use_true_random=False))
def test_any_order(arrived, chance):
    """Parts that arrive in any order make the same windows: those of all their requests."""
    mixed = arrived.copy()
    chance.shuffle(mixed)
    slots, others = gathered(arrived), gathered(mixed)

    assert slots.keys() == others.keys() == {place for _, place, _ in arrived}
    for place, slot in slots.items():
        together = [request for requests, at, _ in arrived if at == place for request in requests]
        assert slot.window == others[place].window == make_window(together)
        of_process = Counter()
        for requests, at, (name, _) in arrived:
            if at == place:
                of_process[name] += len(requests)
        assert {one.host: one.num_requests for one in slot.nodes.values()} == of_process
        assert {one.host: one.num_requests for one in others[place].nodes.values()} == of_process


@given(arrivals_of(PROCESSES[:2]), st.integers(1, 3))
def test_more_series_than_a_run_may_have(arrived, max_series):
    """Where the names of all processes are too many, the counts stay exact, and the series bounded."""
    slots = gathered(arrived, max_series)

    for place, slot in slots.items():
        together = [request for requests, at, _ in arrived if at == place for request in requests]
        assert slot.window.num_requests == len(together)
        assert Plain.figures(together)["content_length"] == slot.window.total().content_length
    assert len({key for slot in slots.values() for key in slot.window.series}) <= max_series + 1


@given(st.lists(fired), st.lists(fired), st.booleans())
def test_merging_tells_how_many(here, there, is_sorted):
    """A part that is merged has its requests counted, whether it was sorted by series before or not, and keeps them."""
    whole, part, num_merged = make_window(here), make_window(there), []
    if is_sorted:
        for _ in part.settle():
            pass

    def merge():
        num_merged.append((yield from whole.merge(part)))

    for _ in merge():
        pass

    assert num_merged == [len(there)]
    assert told(whole) == told(make_window([*here, *there]))
    assert told(part) == told(make_window(there))


def test_merging_goes_in_small_steps():
    """In no step more than a few rows are added, whether they were sorted before or not."""
    for is_sorted in (False, True):
        recorder, whole = Recorder(SCALE, MANY), Window()
        for number in range(10 * ROWS_AT_ONCE):
            fire(recorder, name=f"/{number}")
        part = recorder.take()
        assert not is_sorted or len(part.series) == 10 * ROWS_AT_ONCE
        sizes = [0, *(len(whole.series) for _ in whole.merge(part)), len(whole.series)]

        assert sizes[-1] == 10 * ROWS_AT_ONCE
        assert max(after - before for before, after in pairwise(sizes)) == ROWS_AT_ONCE


def test_nodes_in_turn():
    """Of many workers each is told of in some windows, and with them of all between; of few, in each window."""
    for number in (1, 20, 21, 100, 1000):
        turns, told_of, most = NodesInTurn(), [], 0
        for window in range(7):
            nodes = [Node("w", "worker", index, Health(wall_s=1.0), num_requests=1) for index in range(number)]
            slot = Slot(window * 10_000, 0, Window(), {str(index): one for index, one in enumerate(nodes)})
            told_now = [told_one for one in nodes if (told_one := turns.take(one, slot, 10_000))]
            most = max(most, len(told_now))
            told_of += told_now
        assert most <= min(number, 20)
        assert (number > 20) or len(told_of) == 7 * number
        left = turns.take_all()
        assert turns.take_all() == []
        all_of_it = [one for one, *_ in [*told_of, *left]]
        assert sum(one.num_requests for one in all_of_it) == 7 * number
        assert sum(one.health.wall_s for one in all_of_it) == 7 * number
        assert {one.name for one in all_of_it} == {f"w:worker-{index}" for index in range(number)}
        assert all(since_ms % 10_000 == 0 and 0 <= since_ms < 70_000 for _, since_ms, *_ in [*told_of, *left])


def test_health_adds_up():
    """What a process tells of a window in several parts is added up; users and memory are the last ones."""
    gathering = Gathering(Names(MANY), MANY)
    add(gathering, Window(), PLACES[0], node(cpu_s=1, wall_s=2, memory_bytes=9, user_count=3, num_lags=1, lag_max_s=5))
    add(gathering, Window(), PLACES[0], node("b", cpu_s=7, wall_s=7))
    add(gathering, Window(), PLACES[0], node(cpu_s=2, wall_s=2, memory_bytes=8, user_count=4, num_lags=2, lag_max_s=4))
    (slot,) = gathering.take_all()

    assert [one.name for one in slot.nodes.values()] == ["a:worker-0", "b:worker-0"]
    assert slot.nodes["a:worker-0"].health == Health(3, 4, 8, 4, 3, 0, 5)
    assert slot.nodes["a:worker-0"].health.cpu_percent == 75


def test_a_node_of_several_windows():
    """A process that tells of several windows at once has in each of them the requests of that window."""
    gathering, one = Gathering(Names(MANY), MANY), node()
    for number, place in enumerate(PLACES):
        add(gathering, window_of([None] * number), place, one)

    nodes = [slot.nodes[one.name] for slot in gathering.take_all()]
    assert [of_window.num_requests for of_window in nodes] == [0, 1, 2, 3]


@pytest.mark.parametrize("own_first", [True, False])
def test_hidden_names_of_a_window_without_requests(own_first):
    """The names that a worker hides count, whether its part comes before or after our own, and has requests or not."""
    recorder = Recorder(SCALE, 1)
    for name in "abc":
        fire(recorder, name=name)
    recorder.take()
    parts = [(Window(), node(role="master")), (recorder.take(), node())]
    gathering = Gathering(Names(MANY), MANY)
    for window, of in parts if own_first else reversed(parts):
        add(gathering, window, PLACES[0], of)
    (slot,) = gathering.take_all()

    assert slot.window.num_hidden_names == 2


def test_due_without_a_cut():
    """What is never cut is due at the latest of the moments that were given; what is due comes in order."""
    gathering = Gathering(Names(MANY), MANY)
    for start_ms, due_s in ((30_000, 26.0), (20_000, 30.0), (10_000, 30.0), (10_000, 16.0)):
        add(gathering, Window(), (start_ms, 0), due_s=due_s)

    assert [slot.start_ms for slot in gathering.take_due(29.9, 0)] == [30_000]
    assert [slot.start_ms for slot in gathering.take_due(30.0, 0)] == [10_000, 20_000]


def test_due():
    """A window is due some time after its cut; without one, when it should have been cut; a former epoch's at once."""
    gathering = Gathering(Names(MANY), MANY)
    add(gathering, Window(), (10_000, 0), due_s=16.0)
    add(gathering, Window(), (20_000, 0), due_s=26.0)
    gathering.cut(Interval(10_000, 10.0, 0), due_s=17.0, is_needed=True)
    add(gathering, Window(), (10_000, 0), due_s=99.0)

    assert gathering.take_due(16.9, 0) == []
    (slot,) = gathering.take_due(17.0, 0)
    assert (slot.start_ms, slot.interval, slot.is_needed) == (10_000, Interval(10_000, 10.0, 0), True)
    add(gathering, Window(), (20_000, 1), due_s=30.0)
    (slot,) = gathering.take_due(17.0, 1)
    assert (slot.start_ms, slot.stats_epoch, slot.interval, slot.is_needed) == (20_000, 0, None, False)
    (slot,) = gathering.take_all()
    assert (slot.start_ms, slot.stats_epoch) == (20_000, 1)
    assert gathering.take_all() == []


def test_a_clock_that_is_set_back_into_a_window():
    """The window was open for both times together, and is as needed, and due, as the later of its two cuts says."""
    gathering = Gathering(Names(MANY), MANY)
    gathering.cut(Interval(10_000, 10.0, 0, user_count=3), due_s=17.0, is_needed=True)
    gathering.cut(Interval(20_000, 0.002, 0), due_s=17.0, is_needed=True)
    gathering.cut(Interval(10_000, 0.003, 0, user_count=4), due_s=17.1, is_needed=True)
    gathering.cut(Interval(20_000, 9.0, 0), due_s=27.0, is_needed=True)
    gathering.cut(Interval(20_000, 0.5, 0, user_count=9), due_s=27.5, is_needed=False)
    first, second = gathering.take_all()

    assert (first.interval, first.due_s, first.is_needed) == (Interval(10_000, 10.003, 0, user_count=4), 17.1, True)
    assert (second.interval, second.due_s, second.is_needed) == (Interval(20_000, 9.002, 0), 27.5, True)


def test_what_comes_after_a_window_was_taken():
    """It makes a slot of its own, without a cut: that is how one knows that it is late."""
    gathering = Gathering(Names(MANY), MANY)
    gathering.cut(Interval(10_000, 10.0, 0), due_s=0.0, is_needed=True)
    assert len(gathering.take_due(0.0, 0)) == 1
    add(gathering, Window(), (10_000, 0), due_s=0.0)
    (slot,) = gathering.take_due(0.0, 0)

    assert slot.interval is None


@pytest.mark.parametrize("first", ["worker", "master"])
def test_many_status_codes(first):
    """Status codes beyond what a window may have count as none, from however many processes they come."""
    gathering = Gathering(Names(1), 1)
    for hundred in range(10):
        requests = [SimpleNamespace(status_code=100 * hundred + number) for number in range(70)]
        add(gathering, window_of(requests, 1), PLACES[0], node(role="worker" if hundred else first))
    (slot,) = gathering.take_all()
    ((_, series),) = slot.window.series.items()

    assert slot.window.num_requests == 700
    assert len(series.statuses) <= 75


def window_of(responses, max_series=MANY):
    """The window of requests with those responses."""
    recorder = Recorder(SCALE, max_series)
    for response in responses:
        recorder.on_request("GET", "/", 1.0, 1, response)
    return recorder.take()


@pytest.mark.parametrize("order", [("m", "a", "b", "c"), ("a", "b", "c", "m"), ("a", "m", "b", "c")])
def test_events_of_many_processes(order):
    """A window has room for what ten processes may record, whichever of them comes first; the rest is counted."""
    gathering = Gathering(Names(MANY), MANY)
    for name in order:
        recorder = Recorder(SCALE, MANY)
        for number in range(MOST_RECORDED):
            recorder.record_event(Recorded("Order", number, {"of": name}))
        for _ in range(1 if name == "m" else 3):
            add(gathering, recorder.take(), PLACES[0], node(name, "master" if name == "m" else "worker"))
    for _ in range(7):
        more = Window()
        for number in range(MOST_RECORDED):
            more.details.records.add(Recorded("Order", number, {"of": "more"}))
        add(gathering, more, PLACES[0], node("d"))
    (slot,) = gathering.take_all()

    of = Counter(event.attributes["of"] for event in slot.window.details.records.events)
    assert of == {"m": 1000, "a": 1000, "b": 1000, "c": 1000, "more": 6000}
    assert slot.window.details.records.num_refused == 1000
