"""What a worker packs into its report, the master unpacks unchanged; anything else is refused as a whole."""

import copy
import math
import time
from array import array
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from locust.rpc.protocol import Message
from locust.stats import StatsError
from new_relic import why_refused
from test_own import own_events
from test_recorder import anything, odd_requests
from test_window import SCALE, fire, fired, make_window, told

from locust_newrelic.health import Health
from locust_newrelic.histogram import Scale
from locust_newrelic.own import Own
from locust_newrelic.payload import PHASE_STOP, Interval, Node, Payload, Totals
from locust_newrelic.plain import MalformedError, packed, packed_columns, unpacked
from locust_newrelic.recorder import Recorder
from locust_newrelic.relay import NUM_OFFSETS, Part, Report, RunOptions, UnknownVersionError, WorkerClock, pack, unpack
from locust_newrelic.window import Distinct, Key, Names, Window

NOW_MS = int(time.time()) * 1000

seconds = st.floats(0, 1e6)
counts = st.integers(0, 10**9)
healths = st.builds(Health, seconds, seconds, counts, counts, counts, seconds, seconds)


def travel(data):
    """As Locust sends it: through msgpack."""
    return Message.unserialize(Message("stats", {"newrelic": data}, "worker").serialize()).data["newrelic"]


def part(requests, max_series, **facts):
    """A part of a report in which those requests were recorded."""
    return Part(buckets_ms=SCALE.limits_ms, window=make_window(requests, max_series), **facts)


parts = st.builds(
    part,
    st.lists(fired, max_size=20),
    max_series=st.integers(1, 5) | st.just(1000),
    health=healths,
    run_id=st.text(st.characters(codec="utf-8"), min_size=1, max_size=200),
    start_ms=st.integers(0, 2**53),
    was_reset=st.booleans(),
)


@given(st.lists(parts, max_size=3), st.integers(0, 2**53), st.booleans())
def test_there_and_back(recorded, sent_at_ms, is_partial):
    """Through real msgpack, a report stays what it was; names that UTF-8 cannot hold are replaced, and counted."""
    there = Report(sent_at_ms, recorded, is_partial)
    back = unpack(travel(pack(there)), SCALE)

    assert (back.sent_at_ms, len(back.parts)) == (sent_at_ms, len(recorded))
    for sent, got in zip(recorded, back.parts, strict=True):
        assert (got.run_id, got.start_ms, got.health, got.was_reset) == (
            sent.run_id, sent.start_ms, sent.health, sent.was_reset,
        )  # fmt: skip
        if any("\ud800" in key.name + key.method for key in sent.window.series):
            assert num_requests(got.window) == num_requests(sent.window)
            assert got.window.total() == sent.window.total()
            assert got.window.hidden == sent.window.hidden
        else:
            assert got.window == sent.window
            assert told(got.window) == told(sent.window)


def num_requests(window):
    """How many requests each name has, as far as UTF-8 has a form for it."""
    found = Counter()
    for (method, name, _), series in window.series.items():
        found[Key(method.replace("\ud800", "?"), name.replace("\ud800", "?"))] += series.total().num_requests
    return found


def test_each_report_tells_of_its_own_requests():
    """Reports are additive: what was in one is not in the next, and together they are all requests."""
    recorder, together = Recorder(SCALE, 10), Window()
    for number in (3, 0, 2):
        for _ in range(number):
            fire(recorder)
        sent = Part("run", NOW_MS, SCALE.limits_ms, recorder.take(), Health())
        (got,) = unpack(travel(pack(Report(NOW_MS, [sent]))), SCALE).parts
        assert got.window.num_requests == number
        assert bool(got.window) == bool(number)
        for _ in together.merge(got.window):
            pass

    assert together.num_requests == 5


def places(value, path=()):
    """The paths of all values in nested lists and dicts, itself included."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part_of in inner:
        yield from places(part_of, (*path, key))


def changed(value, path, change):
    """A copy of *value* in which the value at *path* is changed."""
    if not path:
        return change(value)
    value = copy.copy(value)
    new = changed(value[path[0]], path[1:], change)
    if new is REMOVED:
        del value[path[0]]
    else:
        value[path[0]] = new
    return value


REMOVED = object()
ODD = [
    None, True, False, -1, 0, 1, 2, 10**6, 2**53, 2**53 + 1, 2**64, 10**400, -(10**400), 0.5, -0.5, 1e300, 1.7e308,
    math.nan, math.inf, -math.inf, "", "text", "ä" * 5000, "\ud800", b"bytes", [], [None], [[]], [1] * 50, [-1],
    [1e400], {}, {"__datetime__": 1}, {1: 2}, (), (1,),
    object(), REMOVED,
]  # fmt: skip
changes = st.one_of(
    st.sampled_from([lambda _, odd=odd: odd for odd in ODD]),
    st.sampled_from([
        lambda value: value * 2 if isinstance(value, (list, int, str)) else value,
        lambda value: value[:-1] if isinstance(value, (list, str)) else value,
        lambda value: [*value, value[0]] if isinstance(value, list) and value else value,
        lambda value: list(reversed(value)) if isinstance(value, list) else value,
        lambda value: -value if isinstance(value, (int, float)) else value,
        lambda value: float(value) if type(value) is int and abs(value) < 2**64 else value,
    ]),
)  # fmt: skip


@given(st.lists(parts, min_size=1, max_size=2), st.data())
def test_malformed_reports(recorded, data):
    """However a report is malformed, it is refused as a whole, without a word of its values, or is a usable one."""
    there = pack(Report(NOW_MS, recorded))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(places(there))))
        there = changed(there, path, data.draw(changes))
        if not isinstance(there, dict):
            break

    report = read(lambda: unpack(there, SCALE), WORDS)
    assert report is None or {why_refused(event) for event in events_of(report)} == {None}


def read(reading, words):
    """What is read, or None if it is malformed, and the error says one of those words and nothing else."""
    try:
        return reading()
    except MalformedError as error:
        word = str(error)
    assert word in words
    return None


def events_of(report, dimensions=()):
    """The events of all kinds that are made of a report's windows."""
    payload, totals = make_payload(dimensions), Totals()
    names, window = Names(3), Window(max_rows=100)
    for got in report.parts:
        for _ in window.merge(got.window, names):
            pass
        yield payload.node_event(Node("host", "worker", 0, got.health, got.window.num_requests), NOW_MS, 0, {})
    yield from payload.late_events(window, NOW_MS, 0, totals)
    yield from payload.window_events(window, Interval(NOW_MS, 10.0, 0), totals)
    yield payload.test_run(PHASE_STOP, NOW_MS, 0, payload.whole_run(totals, 10.0, {}))


def make_payload(dimensions):
    """The payload of a run with those dimensions."""
    return Payload(
        SCALE, app_name="a", run_id="r", test_name="t", attributes={}, dimensions=dimensions, sample_rate=1.0
    )


WORDS = {
    *"report version sent_at windows window start buckets reset health hidden run names rows series status".split(),
    *"failures length times loose histograms sizes bins counts".split(),
    *"dimensions values details errors exceptions samples bound records events refused".split(),
    "columns of different length",
    "min above max",
}


def rows_of(*, series=(0,), status=(200,), failures=(0,), untimed=(0,), loose_sizes=(0,)):
    """The columns of whole numbers, of one row unless they are longer."""
    return packed_columns(series, status, failures, untimed, loose_sizes)


def histograms_of(sizes, bins, counts):
    """Histograms, one behind the other."""
    return {"sizes": packed(sizes), "bins": packed(bins), "counts": packed(counts)}


MOST = 2**53
ALL_BINS = list(range(1, len(SCALE.edges)))
EXTREMES = {
    "counts in every bin": {"histograms": histograms_of([len(ALL_BINS)], ALL_BINS, [MOST] * len(ALL_BINS))},
    "failures": {"rows": rows_of(failures=[MOST], untimed=[MOST], loose_sizes=[1])},
    "the smallest hashes": {"hidden": list(range(Distinct.SIZE + 1))},
    "the largest hashes": {"hidden": list(range(Distinct.SPAN - Distinct.SIZE - 1, Distinct.SPAN))},
    "a sum": {"times": [1.7e308, 1.0, 1.0]},
    "a content length": {"length": [1.7e308]},
    "a negative content length": {"length": [-1.7e308]},
    "health": {"health": [MOST] * 7},
    "little health": {"health": [5e-324] * 7},
    "much in no time": {"health": [MOST, 5e-324, 1, 1, 1, MOST, MOST]},
}  # fmt: skip


@pytest.mark.parametrize("columns", EXTREMES.values(), ids=EXTREMES)
def test_extremes(columns):
    """Of the largest numbers that are not refused, several reports together still make whole events."""
    recorder = Recorder(SCALE, 10)
    fire(recorder)
    there = pack(Report(NOW_MS, [Part("run", NOW_MS, SCALE.limits_ms, recorder.take(), Health())]))
    assert there["windows"][0].keys() >= columns.keys()
    there["windows"][0] |= columns
    there["windows"] *= 3
    report = read(lambda: unpack(travel(there), SCALE), columns)

    usual = {"num_requests", "num_failures", "total_response_time", "total_content_length", "le_100"}
    for event in events_of(report) if report else []:
        assert why_refused(event) is None
        if event["eventType"] == "LocustRequestStatistics":
            assert usual <= event.keys()


@pytest.mark.parametrize("report", [None, 1, "x", [], {}, {"version": 1}, {"version": 1, "sent_at": 1}])
def test_not_a_report(report):
    """What is no report at all is malformed."""
    with pytest.raises(MalformedError):
        unpack(report, SCALE)


@pytest.mark.parametrize("version", [0, 2, 99, "1", None, True, 1.0])
def test_another_version(version):
    """A report in another version of the wire form is told from a malformed one."""
    with pytest.raises(UnknownVersionError):
        unpack(pack(Report(NOW_MS, [])) | {"version": version}, SCALE)


def test_other_buckets():
    """Bins of another scale mean something else, and are refused."""
    there = pack(Report(NOW_MS, [part([], 1, run_id="run", start_ms=NOW_MS, health=Health())]))

    with pytest.raises(MalformedError, match="buckets"):
        unpack(there, Scale((100, 1001)))


NO_LOOSE = {"rows": rows_of(), "loose": packed(array("H"))}
IMPOSSIBLE = {
    "a bin that is none": ({"loose": packed(array("H", [1, 65_000]))}, "loose"),
    "bin 0, which is no time": ({"loose": packed(array("H", [0, 1]))}, "loose"),
    "half a number": ({"loose": [2, b"\1\0\1"]}, "loose"),
    "numbers of another size": ({"loose": packed([1, 1])}, "loose"),
    "a bin twice": (NO_LOOSE | {"histograms": histograms_of([2], [5, 5], [1, 1])}, "bins"),
    "a bin beyond the last": (NO_LOOSE | {"histograms": histograms_of([1], [65_000], [1])}, "bins"),
    "a bin of nothing": (NO_LOOSE | {"histograms": histograms_of([1], [5], [0])}, "counts"),
    "a count beyond all": (NO_LOOSE | {"histograms": histograms_of([1], [5], [2**60])}, "counts"),
    "fewer counts than bins": (NO_LOOSE | {"histograms": histograms_of([2], [5, 6], [1])}, "columns"),
    "fewer bins than sizes": (NO_LOOSE | {"histograms": histograms_of([2], [5], [1])}, "columns"),
    "a histogram without a row": (NO_LOOSE | {"histograms": histograms_of([1, 1], [5, 5], [1, 1])}, "columns"),
    "fewer loose bins than their sizes": ({"rows": rows_of(loose_sizes=[3])}, "columns"),
    "more failures than requests": ({"rows": rows_of(failures=[3], loose_sizes=[2])}, "failures"),
    "a name that is not there": ({"rows": rows_of(series=[1], loose_sizes=[2])}, "series"),
    "half a name": ({"names": ["GET"]}, "names"),
    "a minimum above the maximum": ({"times": [3.0, 9.0, 2.0]}, "min above max"),
    "a maximum above all": ({"times": [3.0, 1.0, 1e16]}, "times"),
    "no such status": ({"rows": rows_of(status=[10_000], loose_sizes=[2])}, "status"),
    "half a row": ({"rows": packed(array("I", [0, 200, 0, 0]))}, "rows"),
    "a number beyond all": ({"rows": rows_of(untimed=[2**60], loose_sizes=[2])}, "rows"),
    "no content length": ({"length": []}, "columns"),
    "no sum": ({"times": []}, "columns"),
    "a sum that is none": ({"times": [math.nan, 1.0, 2.0]}, "times"),
    "half of the health": ({"health": [0.0] * 6}, "health"),
    "health that is no number": ({"health": [0.0, 1.0, math.nan, 0.0, 0.0, 0.0, 0.0]}, "health"),
    "health without end": ({"health": [0.0, 1.0, math.inf, 0.0, 0.0, 0.0, 0.0]}, "health"),
}


@pytest.mark.parametrize(("columns", "word"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_columns(columns, word):
    """Bins that do not exist, more failures than requests, a name that is not there: each is refused by its name."""
    recorder = Recorder(SCALE, 10)
    fire(recorder, time_ms=1.0)
    fire(recorder, time_ms=2.0)
    report = pack(Report(NOW_MS, [Part("run", NOW_MS, SCALE.limits_ms, recorder.take(), Health())]))
    assert report["windows"][0].keys() >= columns.keys()
    unpack(report, SCALE)
    report["windows"][0] |= columns

    with pytest.raises(MalformedError, match=word):
        unpack(report, SCALE)


around_edges = st.sampled_from([0, 1, 255, 256, 257, 512, 767, 768, 1023, 1024, 1099, 1100, 1101, 1279, 1280, 65_535])


@given(st.lists(around_edges | st.integers(1, 1100), max_size=6), st.sampled_from([1, 255, 256, 1100, 2**16, 2**53]))
def test_numbers_of_two_bytes(numbers, high):
    """Of many numbers in few bytes, each is within its limits, or all are refused; what is accepted is unchanged."""
    values = array("H", numbers)

    if all(1 <= number <= high for number in numbers):
        assert unpacked(packed(values), 1, high, "loose", sizes=[2]) == values
    else:
        with pytest.raises(MalformedError, match=r"^loose$"):
            unpacked(packed(values), 1, high, "loose", sizes=[2])


def test_many_requests():
    """Requests of which the bins are kept one by one, counted ones, and both together come over as they were."""
    recorder, plain = Recorder(SCALE, 10), Recorder(SCALE, 10)
    for number in range(12_000):
        name = "abc"[number % 3 and number % 100 == 0] if number % 7 else "d"
        for one in (recorder, plain):
            fire(one, name=name, time_ms=number % 1000 / 8)
    sent = Part("run", NOW_MS, SCALE.limits_ms, recorder.take(), Health())
    (got,) = unpack(travel(pack(Report(NOW_MS, [sent]))), SCALE).parts

    assert got.window == plain.take()
    assert got.window.num_requests == 12_000


# -- details -------------------------------------------------------------------------------------------------------

DIMENSIONS = ("tenant", "plan")

errors = st.builds(ValueError, st.text(st.characters()))


def detailed(requests, exceptions, events, max_series, dimensions=DIMENSIONS):
    """A part of a report with those requests, all of them sampled, those users' exceptions and own events."""
    recorder = Recorder(SCALE, max_series, dimensions=dimensions, sample_rate=1.0, error_text=StatsError.parse_error)
    own = Own()
    own.hand_over(recorder.record_event)
    for request in requests:
        for listener in recorder.listeners:
            listener(**request)
    for error in exceptions:
        recorder.record_exception("Shopper", error, None)
    for event_type, attributes in events:
        own.record(event_type, attributes)
    return Part("run", NOW_MS, SCALE.limits_ms, recorder.take(), Health(), dimensions=dimensions)


contexts = st.fixed_dictionaries({}, optional={"tenant": anything, "plan": st.sampled_from("ab"), "other": anything})
few_odd = st.builds(lambda request, context: {**request, "context": context}, odd_requests, contexts)
detailed_parts = st.builds(
    detailed,
    st.lists(odd_requests | few_odd, max_size=8),
    st.lists(errors, max_size=3),
    st.lists(own_events, max_size=3),
    st.integers(1, 5) | st.just(1000),
)


def in_utf8(value):
    """The same with a replacement for what UTF-8 has no form for."""
    if isinstance(value, tuple):
        return tuple(map(in_utf8, value))
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def details_of(window):
    """All that the details of a window tell."""
    details, failures, exceptions = window.details, Counter(), Counter()
    for failure, number in details.failures.items():
        failures[in_utf8(tuple(failure))] += number
    for exception, number in details.exceptions.items():
        exceptions[in_utf8(tuple(exception))] += number
    samples = sorted(
        (
            sample.lot, in_utf8(tuple(sample.key)), sample.timestamp_ms, sample.response_time_ms,
            float(sample.content_length), sample.status_code, in_utf8(sample.url or None),
            None if sample.error is None else in_utf8(tuple(sample.error)), sample.context,
        )
        for sample in details.samples
    )  # fmt: skip
    return failures, exceptions, details.samples.bound, samples, details.records.events, details.records.num_refused


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(detailed_parts, max_size=2), st.sampled_from([1.0, 0.5]), st.integers(0, 3))
def test_details_there_and_back(recorded, bound, num_refused):
    """Through real msgpack, details and values of dimensions stay what they were, whatever was fired and recorded."""
    for sent in recorded:
        sent.window.details.samples.lower(bound)
        sent.window.details.records.num_refused += num_refused
    back = unpack(travel(pack(Report(NOW_MS, recorded))), SCALE, DIMENSIONS)

    for sent, got in zip(recorded, back.parts, strict=True):
        assert details_of(got.window) == details_of(sent.window)
        assert got.dimensions == DIMENSIONS
        counts, expected = Counter(), Counter()
        for found, window in ((counts, got.window), (expected, sent.window)):
            for key, series in window.series.items():
                found[in_utf8(tuple(key))] += series.total().num_requests
        assert counts == expected
        assert bool(got.window) == bool(sent.window)


def test_values_of_dimensions_there_and_back():
    """Each value of a dimension stays where it was; a request that has none has none."""
    contexts = [{"tenant": "a"}, {"plan": "b"}, {"tenant": "a", "plan": "b"}, {}, {"tenant": ""}]
    there = detailed([USUAL | {"context": context} for context in contexts], [], [], 1000)
    (got,) = unpack(travel(pack(Report(NOW_MS, [there]))), SCALE, DIMENSIONS).parts

    values = {key.values: series.total().num_requests for key, series in got.window.series.items()}
    assert values == {("a", None): 1, (None, "b"): 1, ("a", "b"): 1, (): 2}


class SilentError(Exception):
    """Its text is empty."""

    def __repr__(self):
        return ""


def test_an_error_without_text():
    """A sampled request that failed without a text has failed on the master, too."""
    there = detailed([USUAL | {"exception": SilentError()}], [], [], 1000)
    (got,) = unpack(travel(pack(Report(NOW_MS, [there]))), SCALE, DIMENSIONS).parts
    (sample,) = got.window.details.samples

    assert sample.error == ("SilentError", "<SilentError>")


USUAL = {"request_type": "GET", "name": "/", "response_time": 1.5, "response_length": 10}


def full_report():
    """A report in which there is something of everything."""
    requests = [
        USUAL | {"context": {"tenant": "a", "b": 1}, "exception": "no", "url": "/", "start_time": NOW_MS / 1000}
    ]
    return pack(Report(NOW_MS, [detailed(requests, [ValueError("no")], [("Order", {"a": 1, "b": "c"})], 1000)]))


@given(st.data())
def test_malformed_details(data):
    """However details are malformed, the report is refused as a whole, by one of the words, or makes whole events."""
    there = full_report()
    for _ in range(data.draw(st.integers(1, 3))):
        paths = [path for path in places(there) if {"details", "values", "dimensions", "names"} & set(path)]
        if not paths:
            break
        there = changed(there, data.draw(st.sampled_from(paths)), data.draw(changes))

    report = read(lambda: unpack(there, SCALE, DIMENSIONS), WORDS)
    assert report is None or {why_refused(event) for event in events_of(report, DIMENSIONS)} == {None}


FAILURES = ["details", "failures", "failures"]
MALFORMED = {
    "details that are none": (["details"], 7, "details"),
    "details of another kind": (["details"], {"other": []}, "details"),
    "failures that are none": (["details", "failures"], [], "failures"),
    "no failures": (["details", "failures", "failures"], [], "failures"),
    "failures of unequal columns": (FAILURES, packed(array("I", [0, 0, 0, 1, 1])), "failures"),
    "a failure of no endpoint": (FAILURES, packed_columns([1], [0], [1], [1]), "failures"),
    "a failure of no error": (FAILURES, packed_columns([0], [0], [2], [1]), "failures"),
    "a failure that never was": (FAILURES, packed_columns([0], [0], [1], [0]), "failures"),
    "too many failures": (FAILURES, packed_columns(*[[0] * 1002] * 3, [1] * 1002), "failures"),
    "an error too long": (["details", "failures", "errors"], ["x" * 4097, "y"], "errors"),
    "an exception that never was": (["details", "exceptions", 4], [-1], "exceptions"),
    "an exception that is no text": (["details", "exceptions", 3], [None], "exceptions"),
    "too many exceptions": (["details", "exceptions"], [["x"] * 52] * 4 + [[1] * 52], "exceptions"),
    "a bound above all": (["details", "samples", "bound"], 1.5, "bound"),
    "a lot above all": (["details", "samples", "samples", 0], [1.5], "samples"),
    "a lot that is none": (["details", "samples", "samples", 0], [math.nan], "samples"),
    "a sample of no endpoint": (["details", "samples", "samples", 1], [1], "samples"),
    "a sample of no moment": (["details", "samples", "samples", 2], [0.5], "samples"),
    "a sample that took for ever": (["details", "samples", "samples", 3], [1e16], "samples"),
    "a status that is none": (["details", "samples", "samples", 5], [10_000], "samples"),
    "an address too long": (["details", "samples", "samples", 6], ["x" * 4097], "samples"),
    "a context that is none": (["details", "samples", "samples", 9], [None], "samples"),
    "a context of another name": (["details", "samples", "samples", 9], [{"name": 1}], "samples"),
    "a context of nested things": (["details", "samples", "samples", 9], [{"context.a": [1]}], "samples"),
    "a context too large": (
        ["details", "samples", "samples", 9],
        [{f"context.a{n}": 1 for n in range(255)}],
        "samples",
    ),
    "too many samples": (["details", "samples", "samples"], [[0.5] * 1001] * 10, "samples"),
    "an event of New Relic's": (["details", "records", "events", 0], ["Metric"], "events"),
    "an event of no type": (["details", "records", "events", 0], [["Order"]], "events"),
    "an event of no moment": (["details", "records", "events", 1], [-1], "events"),
    "an event of a far moment": (["details", "records", "events", 1], [2**53 + 1], "events"),
    "an event with a reserved name": (["details", "records", "events", 2], [{"nr.a": 1}], "events"),
    "an event with a truth": (["details", "records", "events", 2], [{"a": True}], "events"),
    "too many events": (["details", "records", "events"], [["Order"] * 1001, [1] * 1001, [{}] * 1001], "events"),
    "fewer than none refused": (["details", "records", "refused"], -1, "refused"),
    "too few values": (["values"], ["a"], "names"),
    "a value that is no text": (["values"], ["a", 7], "values"),
    "a value too long": (["values"], ["a", "x" * 4097], "values"),
    "no dimensions": (["dimensions"], [], "dimensions"),
    "dimensions that are none": (["dimensions"], None, "dimensions"),
    "dimensions in another order": (["dimensions"], ["plan", "tenant"], "dimensions"),
}


@pytest.mark.parametrize(("path", "value", "word"), MALFORMED.values(), ids=MALFORMED)
def test_each_way_to_be_malformed(path, value, word):
    """Each part of the details that cannot be is refused by its name; without the change, the report is whole."""
    there = full_report()
    unpack(there, SCALE, DIMENSIONS)
    there = changed(there, ("windows", 0, *path), lambda _: value)

    with pytest.raises(MalformedError, match=f"^{word}$"):
        unpack(there, SCALE, DIMENSIONS)


@pytest.mark.parametrize(("worker", "master"), [(("a",), ()), ((), ("a",)), (("a", "b"), ("b", "a")), (("a",), ("b",))])
def test_other_dimensions(worker, master):
    """A worker whose dimensions are not the master's counts something else: its report is refused."""
    there = pack(Report(NOW_MS, [detailed([USUAL], [], [], 1000, dimensions=worker)]))

    with pytest.raises(MalformedError, match=r"^dimensions$"):
        unpack(there, SCALE, master)
    assert unpack(there, SCALE, worker).parts[0].window.num_requests == 1


OPTIONS = RunOptions("run", 2.5, (100, 250), 1000, ("tenant",), 0.25)


def test_options_of_a_run():
    """What a worker has to know of a run reaches it through msgpack as it was."""
    assert RunOptions.read(travel(OPTIONS.plain())) == OPTIONS
    assert all(type(value) in (str, int, float, list) for value in OPTIONS.plain().values())


@pytest.mark.parametrize("name", OPTIONS.plain())
@pytest.mark.parametrize("odd", ODD)
def test_odd_options_of_a_run(name, odd):
    """What is not the options of a run is read as none."""
    plain = OPTIONS.plain() | {name: odd}
    read = RunOptions.read({key: value for key, value in plain.items() if value is not REMOVED})

    assert read is None or read.plain() == plain
    assert RunOptions.read(odd) is None


@pytest.mark.parametrize("hours", [-1, 1, 0])
@pytest.mark.parametrize("interval_ms", [1000, 2000, 10_000, 300_000])
def test_a_clock_that_is_off(hours, interval_ms):
    """A clock an hour off is shifted by an hour of whole windows, however slow some of the reports are."""
    clock = WorkerClock()
    for number in range(30):
        arrival_ms = NOW_MS + 3000 * number
        delay_ms = 5 if number % 3 else 2500
        clock.see(arrival_ms - delay_ms + hours * 3_600_000, arrival_ms)

    assert clock.offset_ms == 5 - hours * 3_600_000
    assert clock.shift_ms(interval_ms) == -hours * 3_600_000
    assert clock.lag_ms(interval_ms) == 5


@pytest.mark.parametrize(
    ("offset_ms", "shift_ms", "lag_ms"),
    [(0, 0, 0), (999, 0, 999), (-999, 0, 0), (1001, 2000, 0), (-1001, -2000, 999), (2900, 2000, 900), (3100, 4000, 0)],
)
def test_shifts_are_whole_windows(offset_ms, shift_ms, lag_ms):
    """From half a window up, a clock is shifted by whole ones; by what remains, its windows may end later."""
    clock = WorkerClock()
    clock.see(NOW_MS - offset_ms, NOW_MS)

    assert (clock.shift_ms(2000), clock.lag_ms(2000)) == (shift_ms, lag_ms)


@given(
    st.integers(-(10**8), 10**8),
    st.sampled_from([1000, 2000, 7000, 10_000, 300_000]),
    st.lists(st.integers(0, 5000), min_size=1, max_size=NUM_OFFSETS),
)
def test_any_clock(ahead_ms, interval_ms, delays_ms):
    """However far it is off and however long reports take, it is shifted by whole windows, to the nearest one."""
    clock = WorkerClock()
    for number, delay_ms in enumerate(delays_ms):
        sent_ms = NOW_MS + 3000 * number
        clock.see(sent_ms + ahead_ms, sent_ms + delay_ms)
    behind_ms, shift_ms = min(delays_ms) - ahead_ms, clock.shift_ms(interval_ms)

    assert clock.offset_ms == behind_ms
    assert shift_ms % interval_ms == 0
    assert abs(behind_ms - shift_ms) <= interval_ms / 2
    assert clock.lag_ms(interval_ms) == max(behind_ms - shift_ms, 0)


def test_a_clock_that_is_set_forward():
    """A clock that is set forward while a test runs is seen with the next report."""
    clock = WorkerClock()
    for number in range(NUM_OFFSETS):
        clock.see(NOW_MS + 3000 * number, NOW_MS + 3000 * number)
    clock.see(NOW_MS + 3_660_000, NOW_MS + 60_000)

    assert clock.shift_ms(10_000) == -3_600_000


def test_a_clock_that_is_set():
    """A clock that is set back while a test runs is seen after 20 reports; without any report, none is off."""
    clock = WorkerClock()
    assert (clock.offset_ms, clock.shift_ms(1000)) == (0, 0)
    clock.see(NOW_MS, NOW_MS)
    for number in range(20):
        assert clock.shift_ms(10_000) == 0
        clock.see(NOW_MS + 3000 * number, NOW_MS + 3000 * number + 60_000)

    assert clock.shift_ms(10_000) == 60_000
