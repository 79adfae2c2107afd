"""What failed requests, sampled ones, dimensions and exceptions tell, whatever a custom client fires."""

import math
import sys
import time
from collections import Counter
from decimal import Decimal
from types import MappingProxyType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from locust.exception import CatchResponseError
from locust.stats import RequestStats, StatsError
from new_relic import why_refused
from requests.structures import CaseInsensitiveDict
from test_window import SCALE, Odd, Page, custom, fired, on_request, record

from locust_newrelic.acceptable import LONGEST_NAME, LONGEST_VALUE, without_secrets
from locust_newrelic.details import MOST_ERRORS, MOST_FAILURES, OTHER_TEXT, Failure
from locust_newrelic.recorder import LONGEST_PENDING, MANY_PENDING, MOST_OF_CONTEXT, MOST_PENDING, Recorder
from locust_newrelic.window import OTHER, Key

NOW_MS = int(time.time()) * 1000


def make_recorder(max_series=1000, **further):
    """A recorder that groups failures as Locust does."""
    return Recorder(SCALE, max_series, **{"error_text": StatsError.parse_error, **further})


def fire(recorder, method="GET", name="/", **further):
    """Fire a usual request, at every listener."""
    for listener in recorder.listeners:
        listener(method, name, 1.5, 10, **{"response": custom(200), "exception": None, "context": {}, **further})


def failures_of(window):
    """How many failures there are of each endpoint and error."""
    return {(*failure.key[:2], failure.error): number for failure, number in window.details.failures.items()}


# -- failures ------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A tuple with names."""

    one: int
    other: int


class Thing:
    """An object whose text has its address in it."""


class OddError(Exception):
    """Its text cannot be had."""

    def __repr__(self):
        raise RuntimeError

    __str__ = __repr__


texts = st.text(st.characters(codec="utf-8")).filter(lambda text: "://" not in text)
errors = st.one_of(
    texts,
    st.sampled_from(
        ["no", "<x object at 0x7f00>", "object at 0x12", "<a object at 0x1> <b object at 0x1>", "x" * 4096]
    ),
    st.builds(ValueError, texts),
    st.builds(CatchResponseError, texts),
    st.builds(KeyError, st.builds(Thing)),
    st.builds(ValueError, st.builds(Thing), st.builds(Thing)),
    st.builds(OSError, st.integers(0, 200), texts),
    st.builds(Thing),
    st.just(ValueError),
    st.integers(),
)


@given(st.lists(st.tuples(st.sampled_from("ab"), errors), max_size=30))
def test_failures_are_grouped_as_locust_groups_them(failed):
    """Failures count together if they do in Locust's own list, under the same text."""
    recorder, stats = make_recorder(), RequestStats()
    for name, error in failed:
        fire(recorder, name=name, exception=error)
        if error:
            stats.log_error("GET", name, error)
    expected = Counter()
    for error in stats.errors.values():
        expected[error.method, error.name, StatsError.parse_error(error.error)] += error.occurrences

    found = Counter()
    for failure, number in recorder.take().details.failures.items():
        found[failure.key.method, failure.key.name, failure.error] += number
    assert found == expected


@pytest.mark.parametrize(
    ("exception", "error_type", "error"),
    [
        (ValueError("no"), "ValueError", "ValueError('no')"),
        (CatchResponseError("no"), "CatchResponseError", "CatchResponseError('no')"),
        ("no", "", "no"), (Page.LOGIN, "", "login"), (ValueError, "type", "<class 'ValueError'>"), (7, "int", "7"),
        (OddError(), "OddError", "<OddError>"), ([1], "list", "[1]"), ("x" * 5000, "", "x" * LONGEST_VALUE),
    ],
)  # fmt: skip
def test_what_a_failure_says(exception, error_type, error):
    """Type and text of an error, before and after the first of its kind; one that has none is known by its type."""
    recorder = make_recorder()
    for number in (1, 2):
        for _ in range(number):
            fire(recorder, exception=exception)
        assert dict(recorder.take().details.failures) == {Failure(Key("GET", "/"), error_type, error): number}


WAYS = {
    "at once": ({}, on_request),
    "carefully": ({}, record),
    "with dimensions": ({"dimensions": ("tenant",)}, on_request),
    "with dimensions, carefully": ({"dimensions": ("tenant",)}, record),
}


@pytest.mark.parametrize(("settings", "way"), WAYS.values(), ids=WAYS)
@given(st.lists(fired, max_size=40), st.integers(1, 5))
def test_failures_add_up(settings, way, requests, max_series):
    """However odd what is fired is, and in whatever way, each endpoint has as many failures told as counted."""
    recorder = make_recorder(max_series, **settings)
    for request in requests:
        request.further = request.further | {"context": {"tenant": "a"}}
        way(recorder, request)
    window = recorder.take()
    told = Counter()
    for failure, number in window.details.failures.items():
        told[failure.key] += number

    assert told == Counter({key: n for key, series in window.series.items() if (n := series.total().num_failures)})
    assert told.total() == sum(request.failed for request in requests)
    assert len(recorder.names.hidden) == max(len({request.key for request in requests}) - max_series, 0)
    assert all(type(text) is str for failure in window.details.failures for text in (*failure.key[:2], *failure[1:]))


def test_failures_of_an_enumeration():
    """A name of an enumeration is the text that it equals, in failures too: elsewhere it counts as no other name."""
    recorder = make_recorder()
    fire(recorder, name="login", exception="no")
    fire(recorder, name=Page.LOGIN, exception="nor this")
    (first, second) = recorder.take().details.failures

    assert {type(first.key.name), type(second.key.name)} == {str}
    assert first.key == second.key == Key("GET", "login")


def test_one_error_of_many_endpoints():
    """One error keeps its name at each of a thousand endpoints; the endpoints beyond have failures of other errors."""
    recorder = make_recorder(max_series=2_000)
    for number in range(MOST_FAILURES + 100):
        fire(recorder, name=str(number), exception="no")
        fire(recorder, name=str(number), exception="no")
    failures = failures_of(recorder.take())

    assert sum(number for (*_, error), number in failures.items() if error == "no") == 2 * MOST_FAILURES
    assert sum(failures.values()) == 2 * (MOST_FAILURES + 100)


def test_many_failures():
    """Of thousands of different errors, 200 are told by themselves, the rest by endpoint; the next window has room."""
    recorder = make_recorder()
    for first in (0, 10_000):
        for number in range(first, first + 5_000):
            fire(recorder, name="ab"[number % 2], exception=f"no {number}")
        failures = failures_of(recorder.take())
        assert len(failures) == MOST_ERRORS + 2
        assert failures["GET", "a", f"no {first}"] == 1
        assert failures["GET", "a", OTHER_TEXT] == failures["GET", "b", OTHER_TEXT] == 2_400


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("at http://user:secret@shop/a", "at http://shop/a"),
        ("at https://secret@shop", "at https://shop"),
        ("http://user:secret@shop and ftp://user:secret@shop", "http://shop and ftp://shop"),
        ("at http://user:sec@ret@shop/a", "at http://shop/a"),
        ("at http://shop/a@b", "at http://shop/a@b"),
        ("to a@b.example", "to a@b.example"),
        ("at //user:secret@shop/a", "at //shop/a"),
        ("at http://user:sec/ret@shop/a", "at http://shop/a"),
        ("at http://shop:8080/a@b", "at http://shop:8080/a@b"),
        (
            "401 for url: http://shop/a?token=secret#x, then http://b/?mail=a@b.c)",
            "401 for url: http://shop/a?... then http://b/?...)",
        ),
        (
            "Max retries exceeded with url: /a?token=secret (Caused by",
            "Max retries exceeded with url: /a?... (Caused by",
        ),
        ("/a?token=secret", "/a?..."),
        ("get('/a?token=secret')", "get('/a?...')"),
        ("either/or? a / b? 1/2?", "either/or? a / b? 1/2?"),
        ("x" * (LONGEST_VALUE - 14) + " http://user:secret@shop", "x" * (LONGEST_VALUE - 14) + " http://shop"),
    ],
)
def test_errors_without_secrets(text, told):
    """Neither a failure nor a user's exception tells a user or password of an address in its text."""
    recorder = make_recorder()
    fire(recorder, exception=text)
    fire(recorder, exception=text)
    recorder.record_exception("U", ValueError(text), None)
    details = recorder.take().details

    assert [failure.error for failure in details.failures] == [told[:LONGEST_VALUE]]
    assert [exception.error for exception in details.exceptions] == [told[:LONGEST_VALUE]]


@pytest.mark.parametrize(
    "part",
    [
        "https://shop.example/{},",
        '{{"mail":"a@shop","host":"https://h{}.example:80","at":"1:2"}},',
        "//{}:",
        "//",
        "/",
        "@",
    ],
)
def test_long_errors_take_as_long_as_they_are(part):
    """A page without a blank as the text of an error does not hold the load generator."""

    def takes_s(parts):
        text = "".join(part.format(number) for number in range(parts))
        times_s = []
        for _ in range(3):
            begun_s = time.process_time()
            without_secrets(text)
            times_s.append(time.process_time() - begun_s)
        return min(times_s)

    assert takes_s(4_000) < 64 * takes_s(250)  # 16 times, in proportion; 256 times, if each looked at all others


# -- dimensions ----------------------------------------------------------------------------------------------------

NOT_A_MAPPING = SimpleNamespace(tenant="a")


class OddMapping(dict):
    """A mapping in which nothing can be found."""

    def get(self, *_):
        raise RuntimeError


class OddItems(OddMapping):
    """Nor can it be gone through."""

    def items(self):
        raise RuntimeError


CONTEXTS = [
    ({"tenant": "a", "plan": "b"}, ("a", "b")), ({"tenant": "a"}, ("a", None)), ({"plan": 7}, (None, "7")),
    ({"tenant": None, "plan": ""}, ()), ({"tenant": 0, "plan": False}, ("0", "False")), ({"other": "x"}, ()),
    ({}, ()), (None, ()), ({"tenant": b"a"}, ("a", None)), ({"tenant": Page.LOGIN}, ("login", None)),
    ({"tenant": ["a"]}, ("['a']", None)), ({"tenant": "ä" * 5000}, ("ä" * LONGEST_VALUE, None)),
    ({"tenant": Odd()}, ("<Odd>", None)), ({"tenant": np.array([1, 2])}, ("[1 2]", None)),
    ({"tenant": math.nan}, ("nan", None)), ({"tenant": "\ud800"}, ("\ud800", None)), ("tenant", ()), (7, ()),
    ([("tenant", "a")], ()), (NOT_A_MAPPING, ()), (Odd(), ()), (np.array([1, 2]), ()), (OddMapping(tenant="a"), ()),
    (MappingProxyType({"tenant": "a"}), ("a", None)), (Counter(tenant=2), ("2", None)),
]  # fmt: skip


@pytest.mark.parametrize(("context", "values"), CONTEXTS)
def test_values_of_dimensions(context, values):
    """Requests count by what their context has under the dimensions, the first of their kind as all that follow."""
    recorder = make_recorder(dimensions=("tenant", "plan"))
    for number in (1, 3):
        for _ in range(number):
            fire(recorder, context=context, exception="no")
        window = recorder.take()
        (key,), (failure,) = window.series, window.details.failures
        assert key == failure.key == Key("GET", "/", values)
        assert (window.num_requests, window.details.failures[failure]) == (number, number)
        assert {type(value) for value in key.values} <= {str, type(None)}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(CONTEXTS), st.booleans()), max_size=40))
def test_dimensions_add_up(requests):
    """Whatever contexts are, each request counts once, under its own values, as it does the careful way."""
    quick, careful = (make_recorder(dimensions=("tenant", "plan")) for _ in range(2))
    expected = Counter()
    for name, (context, values), failed in requests:
        fire(quick, name=name, context=context, exception="no" if failed else None)
        careful.record("GET", name, 1.5, 10, custom(200), "no" if failed else None, context)
        expected[Key("GET", name, values)] += 1
    window = quick.take()

    assert {key: series.total().num_requests for key, series in window.series.items()} == expected
    assert window == careful.take()


def test_many_values():
    """Values of dimensions count as names do: beyond --newrelic-max-series they share one series, and are counted."""
    recorder = make_recorder(3, dimensions=("tenant",))
    for number in range(10):
        fire(recorder, context={"tenant": str(number)})
    window = recorder.take()

    assert window.series[OTHER].total().num_requests == 7
    assert (len(window.series), window.num_hidden_names) == (4, 7)


@pytest.mark.parametrize("settings", [{}, {"dimensions": ("tenant",)}], ids=["plain", "with dimensions"])
def test_few_requests_wait(settings):
    """However many kinds of requests there are, few of them wait to be counted at any time."""
    recorder = make_recorder(**settings)
    most = 0
    for number in range(3 * MOST_PENDING):
        fire(recorder, name=f"/{number % 100}", context={"tenant": "a"})
        if number % 1000 == 0:
            waiting = recorder._pending[0].get(200, {}).get("GET", {}).values()
            most = max(most, sum(map(len, waiting)) / 2)
    assert LONGEST_PENDING < most <= MOST_PENDING + 1000
    assert recorder.take().num_requests == 3 * MOST_PENDING


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 3 * MANY_PENDING)), max_size=8), st.data())
def test_counting_aside(fired, data):
    """Whenever requests, the end of a window and its counting come between: each request is in its window, once."""
    recorder, open_window, windows = make_recorder(), Counter(), []
    counting = recorder.count_aside()
    for name, number in fired:
        for _ in range(number):
            fire(recorder, name=name)
        open_window[name] += number
        for step in data.draw(st.lists(st.sampled_from(["begin", "count", "take", "count the window"]), max_size=5)):
            if step == "begin":
                counting = recorder.count_aside()
            elif step == "count":
                next(counting, None)
            elif step == "take":
                windows.append((recorder.take(), open_window))
                open_window = Counter()
            elif windows:
                next(windows[-1][0].settle(), None)
    windows.append((recorder.take(), open_window))
    for _ in counting:
        pass

    for window, expected in windows:
        assert {key.name: series.total().num_requests for key, series in window.series.items()} == expected


def test_what_is_counted_aside():
    """Of a kind with many requests all are counted before the window ends, of others none."""
    recorder = make_recorder()
    for name, number in (("many", MANY_PENDING + 1), ("few", MANY_PENDING)):  # the first of a kind is not put aside
        for _ in range(number):
            fire(recorder, name=name)
    assert len(list(recorder.count_aside())) == 1

    waiting = recorder._pending[0][200]["GET"]
    assert {name: len(requests) for name, requests in waiting.items()} == {"many": 0, "few": 2 * (MANY_PENDING - 1)}


class Flaky:
    """A response whose status code can be read at every other time."""

    def __init__(self):
        self._reads = 0

    @property
    def status_code(self):
        self._reads += 1
        if self._reads % 2:
            msg = "not now"
            raise RuntimeError(msg)
        return 200


def test_requests_that_are_found_late():
    """Few requests wait to be counted, also if the quick way finds none of them."""
    recorder, most = make_recorder(), 0
    for _ in range(3 * LONGEST_PENDING):
        fire(recorder, response=Flaky())
        most = max(most, *map(len, recorder._pending[0].get(200, {}).get("GET", {"/": []}).values()))

    assert most <= 2 * LONGEST_PENDING
    assert recorder.take().num_requests == 3 * LONGEST_PENDING


class Switching(float):
    """A response time that lets the end of a window come while it is added up."""

    def __radd__(self, other):
        self.switch()
        return float(self) + other


def test_the_end_of_a_window_while_it_is_counted():
    """If counting itself lets a window end, the request that was to be put aside is in the next one."""
    recorder, windows = make_recorder(), []

    def take():
        windows.append(recorder.take())
        for _ in windows[-1].settle():
            pass

    fire(recorder, exception="no")
    recorder._set_longest(2)
    for number in range(3):
        time_ms = Switching(1.0)
        time_ms.switch = take if number == 0 else int
        recorder.on_request("GET", "/", time_ms, 10, custom(200), "no")
    take()

    assert sum(window.num_requests for window in windows) == 4
    assert sum(sum(window.details.failures.values()) for window in windows) == 4


@pytest.mark.parametrize("settings", [{}, {"dimensions": ("tenant",)}], ids=["plain", "with dimensions"])
@pytest.mark.parametrize("exception", [None, "no"], ids=["passed", "failed"])
def test_a_ctrl_c_while_a_request_is_put_aside(settings, exception):
    """Wherever it comes, that request is in the window or not, and those before and after it are as they were."""
    seen, instruction = set(), 0
    while True:
        recorder = make_recorder(**settings)
        request = {"response": custom(200), "exception": exception}
        recorder.on_request("GET", "/", 1.0, 10, **request)
        recorder.on_request("GET", "/", 2.0, 20, **request)
        instruction += 1
        interrupted = interrupt(recorder.on_request, instruction, "GET", "/", 4.0, 40, **request)
        recorder.on_request("GET", "/", 8.0, 80, **request)
        numbers = recorder.take().total()
        seen.add((numbers.num_requests, numbers.total_ms, numbers.content_length))
        if not interrupted:
            break

    assert seen == {(3, 11.0, 110), (4, 15.0, 150)}


def interrupt(function, instruction, *args, **named):
    """Call it, and press Ctrl-C before its bytecode instruction of that number; tells whether it came that far."""
    left = instruction

    def on_frame(frame, event, arg):
        nonlocal left
        if frame.f_code is not function.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return on_frame

    tracing = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 asks before it traces whether somebody wants instructions
    sys.settrace(on_frame)
    try:
        function(*args, **named)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(tracing)
    return False


@pytest.mark.parametrize("missing", ["response_time", "response_length"])
def test_a_failure_that_locust_does_not_count(missing):
    """A failed request without what Locust requires is not counted, and its error neither."""
    recorder = make_recorder()
    fire(recorder, exception="no")
    usual = {"request_type": "GET", "name": "/", "response_time": 1.0, "response_length": 1, "exception": "no"}
    recorder.on_request(**{name: value for name, value in usual.items() if name != missing})
    window = recorder.take()

    assert window.num_requests == sum(window.details.failures.values()) == 1


def test_long_errors_are_not_remembered():
    """Of errors with long texts, of which there may be a new one with each request, a recorder keeps none."""
    recorder = make_recorder()
    for number in range(10):
        fire(recorder, exception=ValueError(f"{number}" * 100_000))
    (window, known) = recorder.take(), recorder._known_failures

    assert sum(window.details.failures.values()) == 10
    assert sum(len(text) for *_, text in known) < 100_000


# -- samples -------------------------------------------------------------------------------------------------------


def samples_of(recorder):
    """The requests in its sample."""
    return list(recorder.take().details.samples)


def test_what_a_sample_says():
    """A sampled request tells all there is to tell of it, as it was."""
    recorder = make_recorder(sample_rate=1.0, dimensions=("tenant",))
    recorder.on_sample(
        "GET", "/login", 12.5, 100, response=custom(404), exception=ValueError("no"), start_time=NOW_MS / 1000,
        context={"tenant": "a", "number": 7, "since": 1}, url="https://user:secret@shop:8443/login?token=secret",
    )  # fmt: skip
    (sample,) = samples_of(recorder)

    assert sample.key == Key("GET", "/login", ("a",))
    assert (sample.timestamp_ms, sample.response_time_ms, sample.content_length) == (NOW_MS, 12.5, 100)
    assert (sample.status_code, sample.url) == (404, "https://shop:8443/login")
    assert sample.error == ("ValueError", "ValueError('no')")
    assert sample.context == {"context.tenant": "a", "context.number": 7, "context.since": 1}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (None, None), ("/login", "/login"), ("/login?token=secret#part", "/login"), (b"/login", "/login"),
        ("https://shop/login;session=secret", "https://shop/login"), ("http://[::1]:80/a?b", "http://[::1]:80/a"),
        ("https://user:sec@ret@shop/login", "https://shop/login"),
        ("https://shop/login?token=secret&next=https://shop/home", "https://shop/login"),
        ("https://user:secret@shop/login?next=https://shop/home", "https://shop/login"),
        ("https://user:secret@shop/users/@me", "https://shop/users/@me"), ("/users/@me", "/users/@me"),
        ("https://user:se/cret@shop/login", "https://shop/login"),
        ("https://shop/users/a@b.example/cart?x=c@d", "https://shop/users/a@b.example/cart"), (7, "7"),
        (Odd(), "<Odd>"),
    ],
)  # fmt: skip
def test_urls_without_secrets(url, told):
    """Of a sampled request's address, user, password, parameters and query are left out, and nothing else."""
    recorder = make_recorder(sample_rate=1.0)
    fire(recorder, url=url)
    (sample,) = samples_of(recorder)

    assert sample.url == told


anything = st.one_of(
    st.sampled_from([
        Odd(), Page.LOGIN, OddMapping(a=1), OddItems(a=1), np.array([1, 2]), np.float64("nan"), Decimal("NaN"), 1j,
        {"since": 1, "end": 2, "nr.x": 3, "": 4, "a b": 5, None: 6, (1, 2): 7, "timestamp": 8, "eventType": "X"},
        {"x" * 5000: "y" * 50_000, "z": "\ud800", "t": True, "n": None, "nan": math.nan, "inf": -math.inf},
        {"nested": {"a": [1, {"b": {1: None}}], (1, 2): 3}, "bytes": b"\xff", "set": {1}, "odd": Odd()},
        {f"key{number}": 10**400 for number in range(300)}, {"context.a": 1, "a": 2}, {Odd: Odd},
        MappingProxyType({"a": MappingProxyType({"b": 1})}), CaseInsensitiveDict(a=CaseInsensitiveDict(b=1)),
        "x" * 10_000, "https://a@b@c://d?e://f@", "\ud800://\0@", [Odd()], 10**400, -(10**400), 1e308,
    ]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    st.dictionaries(st.text(st.characters(), max_size=5) | st.none(), st.integers() | st.text(st.characters())),
)  # fmt: skip
odd_requests = st.fixed_dictionaries(
    {"request_type": anything, "name": anything, "response_time": anything, "response_length": anything},
    optional=dict.fromkeys("response exception context start_time url tenant".split(), anything),
)


@given(st.lists(odd_requests, max_size=8), st.integers(1, 3))
def test_any_request_can_be_sampled(requests, max_series):
    """Whatever is fired, no listener raises, each request counted is in a whole sample, and each part is in bounds."""
    recorder = make_recorder(max_series, sample_rate=1.0, dimensions=("tenant", "a"))
    for request in requests:
        for listener in recorder.listeners:
            listener(**request)
    window = recorder.take()
    samples = list(window.details.samples)

    assert len(samples) == window.num_requests == len(requests)
    assert Counter(sample.key for sample in samples) == {
        key: series.total().num_requests for key, series in window.series.items()
    }
    for sample in samples:
        assert sample.url is None or (type(sample.url) is str and len(sample.url) <= LONGEST_VALUE)
        assert sample.timestamp_ms is None or (type(sample.timestamp_ms) is int and 0 <= sample.timestamp_ms < 1e15)
        assert sample.response_time_ms is None or 0 <= sample.response_time_ms <= 1e15
        assert len(sample.context) <= MOST_OF_CONTEXT
        assert all(name.startswith("context.") for name in sample.context)
        assert why_refused({"eventType": "Own", "timestamp": NOW_MS, **sample.context}) is None
        assert sum(sample.error is not None for sample in samples) == window.total().num_failures


@pytest.mark.parametrize(
    ("context", "told"),
    [
        ({"a": True, "b": None, "c": math.nan, "d": [1, {"e": None}], "f": b"g"},
         {"context.a": "true", "context.d": '[1, {"e": null}]', "context.f": "g"}),
        ({"since": 1, "a b": 2, "ä": 3, None: 4, 7: 5},
         {"context.since": 1, "context.a_b": 2, "context._": 3, "context.None": 4, "context.7": 5}),
        (CaseInsensitiveDict(A=1), {"context.A": 1}),
        ({"headers": CaseInsensitiveDict(A="1")}, {"context.headers": '{"A": "1"}'}),
        ({"headers": MappingProxyType({"A": MappingProxyType({"b": 1})})}, {"context.headers": '{"A": {"b": 1}}'}),
        ({"pair": Pair(1, 2)}, {"context.pair": "[1, 2]"}),
        (None, {}), (7, {}), ("text", {}), (Odd(), {}), (OddItems(a=1), {}), ([], {}),
    ],
)  # fmt: skip
def test_the_context_of_a_sample(context, told):
    """A context is told under names that New Relic takes; dictionaries of any kind in it are JSON."""
    recorder = make_recorder(sample_rate=1.0)
    fire(recorder, context=context)
    (sample,) = samples_of(recorder)

    assert sample.context == told


def test_names_of_a_contexts_keys():
    """A long key, or text, keeps what there is room for, and a context the first of its keys."""
    recorder = make_recorder(sample_rate=1.0)
    fire(recorder, context={"x" * 300: 1, "text": "y" * 257, **dict.fromkeys(range(100), 2)})
    (sample,) = samples_of(recorder)

    assert len(sample.context) == MOST_OF_CONTEXT
    assert sample.context["context.text"] == "y" * 256
    assert max(map(len, sample.context)) == LONGEST_NAME - 2


@pytest.mark.parametrize(
    ("start_time", "timestamp_ms"),
    [
        (NOW_MS / 1000, NOW_MS), (1.5, 1500), (0, None), (-1, None), (math.nan, None), (math.inf, None), (1e300, None),
        ("now", None), (Odd(), None), (None, None), (10**400, None), (np.float64(1.5), 1500),
    ],
)  # fmt: skip
def test_the_moment_of_a_sample(start_time, timestamp_ms):
    """When a request was made is known if it was said in seconds since 1970."""
    recorder = make_recorder(sample_rate=1.0)
    fire(recorder, start_time=start_time)
    (sample,) = samples_of(recorder)

    assert sample.timestamp_ms == timestamp_ms


@pytest.mark.parametrize("missing", ["request_type", "name", "response_time", "response_length"])
def test_what_is_not_counted_is_not_sampled(missing):
    """A request that lacks what Locust's own statistics require is in no sample, nor is its name known."""
    recorder = make_recorder(1, sample_rate=1.0)
    whole = {"request_type": "GET", "name": "/", "response_time": 1, "response_length": 1}
    recorder.on_sample(**{name: value for name, value in whole.items() if name != missing})
    assert samples_of(recorder) == []
    fire(recorder, name="other")
    assert recorder.take().num_hidden_names == 0


def test_no_sample_without_a_rate():
    """Unless samples are asked for, there is no listener for them."""
    assert len(make_recorder().listeners) == 1
    assert len(make_recorder(sample_rate=0.1).listeners) == 2


def test_the_rate_of_a_sample():
    """So many of the requests are sampled as was asked for, and 1,000 in a window at most."""
    recorder = make_recorder(sample_rate=0.1)
    for _ in range(5_000):
        fire(recorder)
    first = recorder.take().details.samples
    for _ in range(20_000):
        fire(recorder)
    second = recorder.take().details.samples

    assert len(first) == pytest.approx(500, abs=130)  # six standard deviations
    assert first.bound == 1.0
    assert {one.lot < 0.1 for one in [*first, *second]} == {True}
    assert len(second) == 1_000
    assert 1_000 / second.bound == pytest.approx(20_000, rel=0.2)
    assert recorder.take().details.samples.bound == 1.0


# -- exceptions of users -------------------------------------------------------------------------------------------


def exception_in(depth, error):
    """An exception raised so many calls deep, with its traceback, in which no line follows itself."""

    def call(left):
        if left:
            call_again(left)
        raise error

    def call_again(left):
        call(left - 1)

    try:
        call(depth)
    except type(error):
        return sys.exc_info()[1:]


@pytest.mark.parametrize("depth", [0, 3, 200])
def test_an_exception_of_a_user(depth):
    """An exception tells its user's class, its type and text, and the deepest frames in whole lines, 4,096 bytes."""
    recorder = make_recorder()
    for _ in range(3):
        recorder.record_exception("Shopper", *exception_in(depth, KeyError("no")))
    ((exception, number),) = recorder.take().details.exceptions.items()
    *rest, last_place, last_line = [line for line in exception.traceback.splitlines() if set(line.strip()) - {"^", "~"}]

    assert (exception[:3], number) == (("Shopper", "KeyError", "'no'"), 3)
    assert (last_place.split()[-1], last_line.strip()) == ("call", "raise error")
    assert len(exception.traceback.encode()) <= LONGEST_VALUE
    assert exception.traceback.startswith(("...\n  ", "  File"))
    assert ("..." in rest) == (depth == 200)
    assert depth < 200 or len(exception.traceback) > LONGEST_VALUE - 500


def test_exceptions_are_counted_by_place():
    """The same error from two places is told twice, of two classes of users as well."""
    recorder = make_recorder()
    for user_class, depth in (("A", 1), ("A", 2), ("B", 1), ("A", 1)):
        recorder.record_exception(user_class, *exception_in(depth, KeyError("no")))

    assert sorted(recorder.take().details.exceptions.values()) == [1, 1, 2]


@pytest.mark.parametrize(
    ("error", "error_type", "text"),
    [
        (OddError(), "OddError", "<OddError>"), (ValueError("ä" * 9000), "ValueError", "ä" * LONGEST_VALUE),
        (ValueError(), "ValueError", ""), (ValueError("\ud800"), "ValueError", "\ud800"),
        (type("ä" * 5000, (Exception,), {})("x"), ("ä" * 5000)[:LONGEST_VALUE], "x"),
    ],
)  # fmt: skip
def test_odd_exceptions(error, error_type, text):
    """An exception whose text cannot be had, is empty or too long is counted all the same."""
    recorder = make_recorder()
    recorder.record_exception("U", error, None)
    (exception,) = recorder.take().details.exceptions

    assert exception == ("U", error_type, text, "")


def test_a_traceback_without_secrets(tmp_path):
    """A line of source in a traceback does not tell the user and password of an address in it."""
    path = tmp_path / "task.py"
    path.write_text("def task(): raise ValueError(len('http://user:pa55@shop'))\n")
    scope = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    recorder = make_recorder()
    try:
        scope["task"]()
    except ValueError as error:
        recorder.record_exception("U", error, error.__traceback__)
    (exception,) = recorder.take().details.exceptions

    assert "http://shop" in exception.traceback
    assert "pa55" not in exception.traceback


def test_details_belong_to_their_window():
    """What is taken with one window is not in the next."""
    recorder = make_recorder(sample_rate=1.0)
    fire(recorder, exception="no")
    recorder.record_exception("U", ValueError(), None)
    window = recorder.take()

    assert (len(window.details.failures), len(window.details.exceptions)) == (1, 1)
    assert len(window.details.samples) == 1
    assert not recorder.take()
