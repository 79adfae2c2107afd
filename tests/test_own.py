"""What a user's code adds: events, attributes, functions that see each event last; whatever it passes."""

import logging
import math
import time
from decimal import Decimal
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from locust.event import Events
from new_relic import why_refused
from test_recorder import anything
from test_window import Odd, OddInt

from locust_newrelic import ConfigError
from locust_newrelic.acceptable import is_event_type
from locust_newrelic.details import MOST_RECORDED, Records
from locust_newrelic.own import MOST_RECORDED_ATTRIBUTES, Own, own_of

EVENT = {"eventType": "LocustSummary", "timestamp": int(time.time() * 1000), "run_id": "r", "seq": 1, "rps": 1.5}

names = st.text(st.characters(), max_size=9) | st.sampled_from(["timestamp", "eventType", "since", "run_id", None, 7])
own_events = st.tuples(st.sampled_from(["Order", "a:b"]), st.none() | st.dictionaries(names, anything))


class OddFloat(float):
    """A number that does not become one."""

    def __float__(self):
        raise RuntimeError


def taking():
    """What a user's code added, and the events that were taken of it."""
    own, records = Own(), Records()
    own.hand_over(records.add)
    return own, records.events


# -- record --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event_type",
    ["", "a b", "ä", "x" * 256, "Metric", "MetricRaw", "Metric7x", "Public_x", "Entity", "EntityRelationship", "a-b",
     "LocustSummary", "LocustRequest", "LocustCheck", "a\n", None, 7, b"Order", ["Order"], Odd()],
)  # fmt: skip
def test_types_that_cannot_be(event_type):
    """A type that New Relic does not take, or that is one of ours, is a ValueError, and nothing is recorded."""
    own, events = taking()
    why = "it is one of this package" if is_event_type(event_type) else "New Relic takes"
    with pytest.raises(ValueError, match=f"cannot be the type of an event of yours: {why}"):
        own.record(event_type, {"a": 1})
    assert events == []


@pytest.mark.parametrize("event_type", ["Order", "shop:order_1", "7", "Metrics", "Entities", "x" * 255])
def test_types_that_can_be(event_type):
    """Any other type is as good for us as it is for New Relic."""
    own, (events) = taking()
    own.record(event_type)
    assert [event.event_type for event in events] == [event_type]
    assert why_refused({"eventType": event_type, "timestamp": events[0].timestamp_ms}) is None


@pytest.mark.parametrize("attributes", [7, "a=1", [("a", 1)], {"a"}, True, 0, ""])
def test_attributes_that_are_no_mapping(attributes):
    """Attributes that are no mapping are a TypeError that says what they are."""
    own, events = taking()
    with pytest.raises(TypeError, match=f"must be a mapping, not {type(attributes).__name__}"):
        own.record("Order", attributes)
    assert events == []


@pytest.mark.parametrize(
    ("attributes", "recorded"),
    [
        (None, {}), ({}, {}), (MappingProxyType({"a": 1}), {"a": 1}),
        ({"a": True, "b": None, "c": math.nan, "d": math.inf, "e": "x", "f": 1.5}, {"a": "true", "e": "x", "f": 1.5}),
        ({"a": [1, {"b": None}], "b": {"c": (1, 2)}, "c": b"x"},
         {"a": '[1, {"b": null}]', "b": '{"c": [1, 2]}', "c": "x"}),
        ({"a": MappingProxyType({"b": MappingProxyType({})})}, {"a": '{"b": {}}'}), ({"a": Odd()}, {"a": "<Odd>"}),
        ({"a": 10**400, "b": "x" * 5000, "c": Decimal("1.5")}, {"a": 2**63 - 1, "b": "x" * 4096, "c": 1.5}),
        ({"a": OddInt(3), "b": OddFloat(0.5)}, {"a": 3, "b": 0.5}),
        ({"since": 1, "nr.a": 2, "a b": 3, "ä": 4, "": 5, "_x": 6, 7: 8, None: 9, "eventType": "X", "entity.x": 1},
         {"since_": 1, "nr_a": 2, "a_b": 3, "a_": 5, "a_x": 6, "a_7": 8, "None": 9,
          "eventType_": "X", "entity_x": 1}),
        ({"a b": 1, "a-b": 2}, {"a_b": 2}),
    ],
)  # fmt: skip
def test_what_becomes_of_attributes(attributes, recorded):
    """Attributes become what New Relic takes: names, truths, nested things; what says nothing is left out."""
    own, events = taking()
    before = int(time.time() * 1000)
    own.record("Order", attributes)

    assert [event.attributes for event in events] == [recorded]
    assert {type(value) for value in events[0].attributes.values()} <= {str, int, float}
    assert before <= events[0].timestamp_ms <= int(time.time() * 1000)


@given(own_events)
def test_new_relic_takes_whatever_is_recorded(event):
    """Whatever a user records, it is one event that New Relic stores."""
    own, events = taking()
    own.record(*event)
    (recorded,) = events

    assert (
        why_refused({"eventType": recorded.event_type, "timestamp": recorded.timestamp_ms, **recorded.attributes})
        is None
    )


def test_the_first_attributes():
    """Of more than 128 attributes the first are kept."""
    own, events = taking()
    own.record("Order", {f"a{number}": number for number in range(300)})
    assert list(events[0].attributes.values()) == list(range(MOST_RECORDED_ATTRIBUTES))


@pytest.mark.parametrize(
    ("timestamp", "is_taken"),
    [
        (0, True),
        (-3_600_000, True),
        (3_600_000, True),
        (-(10**9), False),
        (10**9, False),
        (10**30, False),
        (-(10**30), False),
    ],
)
def test_an_events_own_moment(timestamp, is_taken):
    """An event may bring its moment in ms since 1970; one that New Relic would not take is now."""
    own, events = taking()
    now_ms = int(time.time() * 1000)
    own.record("Order", {"timestamp": now_ms + timestamp, "a": 1})

    assert events[0].attributes == {"a": 1}
    if is_taken:
        assert events[0].timestamp_ms == now_ms + timestamp
    else:
        assert now_ms <= events[0].timestamp_ms <= int(time.time() * 1000)


@pytest.mark.parametrize("timestamp", [None, "2026-01-01", 1.5, math.nan, True, [1], Odd(), 0, -1, time.time_ns()])
def test_a_moment_that_is_none(timestamp):
    """A timestamp that is no integer, or in nanoseconds, is now."""
    own, events = taking()
    now_ms = int(time.time() * 1000)
    own.record("Order", {"timestamp": timestamp})

    assert now_ms <= events[0].timestamp_ms <= int(time.time() * 1000)
    assert events[0].attributes == {}


def test_what_is_recorded_while_nobody_takes_it():
    """Events wait in their order until somebody takes them, once, and as long as there is room."""
    own, taken = Own(), Records(most=10_000)
    for number in range(MOST_RECORDED + 5):
        own.record("Order", {"number": number})
    own.hand_over(taken.add)
    own.record("Order", {"number": "next"})
    own.hand_over(None)
    own.record("Order", {"number": "last"})

    assert [event.attributes["number"] for event in taken.events] == [*range(MOST_RECORDED), "next"]
    own.hand_over(taken.add)
    assert [event.attributes["number"] for event in taken.events[MOST_RECORDED:]] == ["next", "last"]


# -- set_attributes ------------------------------------------------------------------------------------------------


def test_setting_attributes():
    """Attributes add up, the later value counts, None removes one; the dictionary stays the same that runs hold."""
    own = Own()
    held = own.attributes
    own.set_attributes({"build": 7, "team": "a", "flag": True})
    own.set_attributes({"build": 8, "team": None, "nothing": None})

    assert held is own.attributes
    assert held == {"build": 8, "flag": "true"}


@pytest.mark.parametrize(
    "name", ["", "a b", "end", "nr.x", "timestamp", "run_id", "rps", "le_100", "url", 7, None, b"a"]
)
def test_names_that_cannot_be_set(name):
    """A name that cannot be an attribute is a ConfigError that names it, and nothing is set."""
    own = Own()
    own.set_attributes({"a": 1})
    with pytest.raises(ConfigError, match="cannot be an attribute"):
        own.set_attributes({"b": 2, name: 1})
    assert own.attributes == {"a": 1}


def test_more_than_a_hundred_attributes():
    """At most 100 attributes can be set, in however many calls; what is removed makes room."""
    own = Own()
    own.set_attributes({f"a{number}": 1 for number in range(100)})
    with pytest.raises(ConfigError, match="at most 100 attributes can be set, these would be 101"):
        own.set_attributes({"b": 1})
    assert len(own.attributes) == 100
    own.set_attributes({"a7": None, "b": 1})
    assert (len(own.attributes), own.attributes["b"]) == (100, 1)


# -- before_send ---------------------------------------------------------------------------------------------------


def raising(event):
    """Mutates what it got, and fails."""
    event.clear()
    event["rps"] = "changed"
    msg = "http://user:secret@shop"
    raise ValueError(msg)


UNCHANGED = [lambda event: event, raising, lambda _: 7, lambda _: "text", lambda _: [("rps", 1)], lambda _: True,
             lambda: None, lambda _: object(), lambda _: Odd(),
             lambda event: event | {"eventType": "Metric"}, lambda event: event | {"eventType": None},
             lambda event: event | {"timestamp": "now"}, lambda event: event | {"timestamp": 10**30},
             lambda event: event | {"timestamp": 0}, lambda event: event | {"timestamp": True},
             MappingProxyType,
             lambda event: {name: value for name, value in event.items() if name not in ("eventType", "timestamp")},
             ]  # fmt: skip


@pytest.mark.parametrize("function", UNCHANGED)
def test_functions_that_change_nothing(function):
    """A function that returns nonsense, raises in the middle, or spoils type and moment leaves the event as it was."""
    own = Own()
    own.before_send(function)
    event = dict(EVENT)

    assert own.seen(event) == EVENT == event


def test_functions_that_change_events():
    """A function may change, add and remove what it likes; what it adds becomes what New Relic takes."""
    own = Own()

    @own.before_send
    def change(event):
        event |= {"rps": 2, "flag": True, "since": [1], "nothing": None, "eventType": "Own"}
        event["timestamp"] -= 1000
        del event["seq"]
        return event

    assert callable(change)
    assert own.seen(EVENT) == {
        "eventType": "Own", "timestamp": EVENT["timestamp"] - 1000, "run_id": "r", "rps": 2, "flag": "true",
        "since_": "[1]",
    }  # fmt: skip


def test_several_functions():
    """Functions are called in their order, each with what the one before left; after a drop, no further one is."""
    own, called = Own(), []
    own.before_send(lambda event: called.append("first") or {**event, "by": "first"})
    own.before_send(raising)
    own.before_send(lambda event: called.append(event["by"]) or (None if event["rps"] == 1.5 else event))
    own.before_send(lambda event: called.append("last") or {**event, "by": event["by"] + " and last"})

    assert own.seen(EVENT) is None
    assert called == ["first", "first"]
    assert own.seen(EVENT | {"rps": 2.5}) == EVENT | {"rps": 2.5, "by": "first and last"}


def test_a_function_that_fails_is_named_once(caplog):
    """One that fails is logged once, by its name and the kind of the error, of which the text may hold a secret."""
    own = Own()
    own.before_send(raising)
    for _ in range(3):
        own.seen(EVENT)

    (line,) = caplog.messages
    assert "raising failed with ValueError" in line
    assert "secret" not in caplog.text


@given(st.dictionaries(names, anything) | anything)
def test_new_relic_takes_whatever_a_function_returns(result):
    """Whatever a function returns, what goes out is an event that New Relic stores, or nothing."""
    own = Own()
    own.before_send(lambda _: result)
    left = own.seen(EVENT)

    assert (left is None) == (result is None)
    assert left is None or why_refused(left) is None


def test_a_function_that_adds_too_much():
    """Of more attributes than New Relic keeps, the first go out."""
    own = Own()
    own.before_send(lambda event: event | {f"a{number}": 1 for number in range(300)})
    assert len(own.seen(EVENT)) == 254
    assert own.seen(EVENT).items() >= EVENT.items()


@pytest.mark.parametrize("function", [None, 7, "name"])
def test_what_is_no_function(function):
    """What cannot be called is a TypeError at once."""
    with pytest.raises(TypeError, match="before_send needs a function"):
        Own().before_send(function)


# -- on a worker ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_has_no_effect_on_a_worker(caplog, when):
    """On a worker, each of the two that act where events are sent says once that it does not, at INFO; record does."""
    caplog.set_level(logging.INFO)
    own, events = taking()
    if when == "after":
        own.on_worker()
    for _ in range(3):
        own.before_send(lambda event: event)
        own.set_attributes({"a": 1})
        own.record("Order")
    if when == "before":
        assert caplog.messages == []
        own.on_worker()

    assert sorted(caplog.messages) == [
        f"New Relic: {name} has no effect on a worker: the master sends" for name in ("before_send", "set_attributes")
    ]
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert len(events) == 3


def test_events_have_an_own_each():
    """What is added in one environment is not in another."""
    one, other = Events(), Events()
    own_of(one).set_attributes({"a": 1})

    assert own_of(one).attributes == {"a": 1}
    assert own_of(other).attributes == {}
    assert own_of(one) is own_of(one)
