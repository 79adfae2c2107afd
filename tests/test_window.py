"""Whatever Locust or a custom client fires is counted exactly, in bounded memory, and raises nothing."""

import enum
import http
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from locust_newrelic.acceptable import LONGEST_VALUE
from locust_newrelic.histogram import LARGEST_MS, Scale
from locust_newrelic.recorder import LONGEST_PENDING, Recorder
from locust_newrelic.window import (
    FREED_AT_ONCE,
    NO_STATUS,
    OTHER,
    Distinct,
    Key,
    Names,
    Numbers,
    Window,
)

SCALE = Scale((100, 1000))
ERROR = 1 / math.sqrt(Distinct.SIZE)  # one standard deviation of its estimate, relative


class Odd:
    """Whatever is asked of it raises."""

    __hash__ = None

    def _raise(self, *_):
        msg = "odd"
        raise RuntimeError(msg)

    __str__ = __bool__ = __float__ = __int__ = __add__ = __radd__ = __eq__ = __lt__ = _raise
    status_code = property(_raise)


class OddBytes(bytes):
    """Decodes to something that is no text."""

    def decode(self, *_, **__):
        return ["odd"]


class OddInt(int):
    """An integer that does not become one."""

    def __int__(self):
        msg = "odd"
        raise RuntimeError(msg)


class Page(str, enum.Enum):
    """Names as an enumeration; they equal, and hash as, plain text, but str() makes something else of them."""

    LOGIN = "login"


class WithFloat:
    """A number to float() alone."""

    def __float__(self):
        return 0.25


def response(status_code):
    """A response as of the requests library: falsy if it is a 4xx or 5xx."""
    made = requests.Response()
    made.status_code = status_code
    return made


def custom(status_code):
    """A response as of some custom client."""
    return SimpleNamespace(status_code=status_code)


# What may be fired, and what it counts as. Sums of these times are exact, in whatever order they are added.

NAMES = [
    ("login", "login"), ("/", "/"), ("", ""), (Page.LOGIN, "login"), (b"login", "login"), (b"\xff", "\ufffd"),
    (None, "None"), (7, "7"), ((1, 2), "(1, 2)"), (["a"], "['a']"), (Odd(), "<Odd>"), (OddBytes(b"a"), "['odd']"),
    ("\ud800", "\ud800"), ("ä" * 5000, "ä" * LONGEST_VALUE), ("ä" * 5001, "ä" * LONGEST_VALUE),
]  # fmt: skip

TIMES = [
    (0, 0.0), (0.0, 0.0), (-0.0, 0.0), (1, 1.0), (12.5, 12.5), (99.75, 99.75), (100, 100.0), (100.25, 100.25),
    (1e6, 1e6), (True, 1.0), (Decimal("12.5"), 12.5), (Fraction(1, 4), 0.25), (WithFloat(), 0.25),
    (np.float32(0.5), 0.5), (np.float64(2.5), 2.5), (np.int16(30_000), 30_000.0), (np.array(3.0), 3.0),
    (np.array([1, 2]), None), (None, None), (math.nan, None), (np.float64("nan"), None), (math.inf, None),
    (-math.inf, None), (-1, None), (-0.5, None), (1e16, None), (10**400, None), (-(10**400), None),
    (Decimal("NaN"), None), (Decimal("sNaN"), None), (1j, None), ("12", None), (b"12", None), ([1], None),
    (Odd(), None),
]  # fmt: skip

LENGTHS = [
    (0, 0), (7, 7), (10**9, 10**9), (-1, -1), (True, 1), (2.5, 2.5), (OddInt(3), 3), (np.int8(100), 100),
    (Decimal("1.5"), 1.5), (1 << 63, 0), (10**400, 0), (None, 0), (math.nan, 0), (math.inf, 0), ("7", 0), (b"7", 0),
    ([], 0), (Odd(), 0),
]  # fmt: skip

RESPONSES = [
    (lambda: None, 0), (lambda: response(200), 200), (lambda: response(404), 404), (lambda: response(None), 0),
    (lambda: response(http.HTTPStatus.OK), 200), (lambda: custom(200.0), 200), (lambda: custom(True), 1),
    (lambda: custom("200"), 200), (lambda: custom(b"200"), 200), (lambda: custom("OK"), 0), (lambda: custom([200]), 0),
    (lambda: custom(0), 0), (lambda: custom(-1), 0), (lambda: custom(10_000), 0), (lambda: custom(10**400), 0),
    (lambda: custom(math.nan), 0), (lambda: custom(object()), 0), (lambda: custom(Odd()), 0), (Odd, 0), (object, 0),
    (lambda: "no response", 0),
]  # fmt: skip

EXCEPTIONS = [
    (None, False), (ValueError("no"), True), ("", False), ("no", True), (ValueError, True), (0, False), (Odd(), False),
    (np.array([1, 2]), False),
]  # fmt: skip

FURTHER = [{}, {"context": {}, "start_time": 0.0, "url": "/"}, {"context": None, "something_new": Odd()}]


class Fired:
    """The arguments of a request, and what is to be counted for them."""

    def __init__(self, method, name, time, length, response, exception, further):
        self._values = {"request_type": method[0], "name": name[0], "response_time": time[0]}
        self._values |= {"response_length": length[0], "exception": exception[0]}
        self._make_response, self.further = response[0], further
        self.key, self.status_code, self.failed = Key(method[1], name[1]), response[1], exception[1]
        self.time_ms, self.length = time[1], length[1]

    def arguments(self):
        return self._values | {"response": self._make_response()}

    def __repr__(self):
        return f"Fired({self.arguments()}, {self.further})"


def usual_or_any(values):
    """As often one of the first three, which are usual, as any."""
    return st.sampled_from(values[:3]) | st.sampled_from(values)


POOLS = (NAMES, NAMES, TIMES, LENGTHS, RESPONSES, EXCEPTIONS, FURTHER)
USUAL_TIMES = [(eighth / 8, eighth / 8) for eighth in range(9_000)]
USUAL_POOLS = (NAMES[:2], NAMES[:2], USUAL_TIMES, LENGTHS[:2], RESPONSES[:2], EXCEPTIONS[:2], FURTHER[:2])
fired = st.builds(Fired, *map(usual_or_any, POOLS))


def on_request(recorder, request):
    """As Locust's event fires it."""
    recorder.on_request(**request.arguments(), **request.further)


def record(recorder, request):
    """The careful way."""
    recorder.record(**request.arguments())


def bins_of(times):
    """The histogram of those response times."""
    return Counter(map(SCALE.index, times))


class Plain:
    """What a recorder should have counted, by the plainest of means."""

    def __init__(self, max_series):
        self.max_series, self.own, self.hidden, self.requests = max_series, set(), set(), []

    def count(self, request):
        key = request.key
        if key not in self.own and len(self.own) == self.max_series:
            self.hidden.add(key)
            key = OTHER
        else:
            self.own.add(key)
        self.requests.append((key, request))

    def forget_names(self):
        self.own, self.hidden = set(), set()

    def take(self):
        groups = defaultdict(list)
        for key, request in self.requests:
            groups[key, request.status_code].append(request)
        self.requests = []
        return {place: self.figures(group) for place, group in groups.items()}, len(self.hidden)

    @staticmethod
    def figures(group):
        times = [request.time_ms for request in group if request.time_ms is not None]
        return {
            "num_requests": len(group),
            "num_failures": sum(request.failed for request in group),
            "num_timed": len(times),
            "num_untimed": len(group) - len(times),
            "total_ms": math.fsum(times),
            "min_ms": min(times, default=math.inf),
            "max_ms": max(times, default=-math.inf),
            "content_length": sum(request.length for request in group),
            "bins": bins_of(times),
        }


def figures(numbers):
    """What the numbers tell."""
    names = "num_requests num_failures num_timed num_untimed total_ms min_ms max_ms content_length bins"
    return {name: getattr(numbers, name) for name in names.split()}


def told(window):
    """What a window tells: the figures of each series and status code, and the number of hidden names."""
    places = {
        (key, status_code): figures(numbers)
        for key, series in window.series.items()
        for status_code, numbers in series.statuses.items()
    }
    return places, window.num_hidden_names


def make_window(requests, max_series=1000):
    """The window of those requests."""
    recorder = Recorder(SCALE, max_series)
    for request in requests:
        on_request(recorder, request)
    return recorder.take()


def fire(recorder, method="GET", name="/", time_ms=1.0, status_code=200, **further):
    """Fire a usual request."""
    recorder.on_request(method, name, time_ms, 10, custom(status_code), **further)


def num_requests(window):
    """How many requests each series has."""
    return {key: series.total().num_requests for key, series in window.series.items()}


@pytest.mark.parametrize("way", [on_request, record])
@given(st.lists(fired | st.sampled_from(["take", "forget names"]), max_size=60), st.integers(1, 5))
def test_every_window_is_exact(way, steps, max_series):
    """Odd values and usual ones, windows taken at any point: each has what came since the last, and nothing else."""
    recorder, plain = Recorder(SCALE, max_series), Plain(max_series)
    taken, expected = [], []
    for step in [*steps, "take"]:
        if step == "take":
            taken.append(recorder.take())
            expected.append(plain.take())
        elif step == "forget names":
            recorder.forget_names()
            plain.forget_names()
        else:
            way(recorder, step)
            plain.count(step)

    assert list(map(told, taken)) == expected
    assert not recorder.take()


@pytest.mark.parametrize("pools", [POOLS, USUAL_POOLS], ids=["odd", "usual"])
def test_every_request_of_many(pools):
    """Tens of thousands between two takes are counted as exactly, odd ones and usual ones."""
    choose = random.Random(1)
    recorder, plain = Recorder(SCALE, 1000), Plain(1000)
    for _ in range(20_000):
        request = Fired(*map(choose.choice, pools))
        on_request(recorder, request)
        plain.count(request)

    assert told(recorder.take()) == plain.take()


def of_one_kind(time=(1.5, 1.5), length=(7, 7), exception=(None, False)):
    """A request that is usual but for what is given."""
    return Fired(NAMES[0], NAMES[0], time, length, RESPONSES[1], exception, {})


ODD_ONES = [*(of_one_kind(time=time) for time in TIMES), *(of_one_kind(length=length) for length in LENGTHS)]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("odd", [*ODD_ONES, of_one_kind(exception=EXCEPTIONS[1])])
def test_odd_values_in_company(odd):
    """An odd value counts the same alone, thousands of times, and between usual ones, which it leaves as they are."""
    usual, many = of_one_kind(time=(2.5, 2.5)), LONGEST_PENDING * 3 // 2

    for group in ([odd], [odd] * many, [usual, usual, odd, usual], [usual] * many + [odd, usual]):
        assert told(make_window(group)) == ({(odd.key, 200): Plain.figures(group)}, 0)


@given(st.lists(st.floats() | st.floats(0, 1e15), min_size=1))
def test_any_float(values):
    """Of arbitrary floats, those from 0 to 1e15 are response times; their sum is right as far as floats go."""
    recorder = Recorder(SCALE, 1)
    for value in values:
        fire(recorder, time_ms=value)
    (series,) = recorder.take().series.values()
    numbers, times = series.total(), [value for value in values if 0 <= value <= LARGEST_MS]

    assert (numbers.num_timed, numbers.num_untimed) == (len(times), len(values) - len(times))
    assert (numbers.min_ms, numbers.max_ms) == (min(times, default=math.inf), max(times, default=-math.inf))
    assert numbers.total_ms == pytest.approx(math.fsum(times), rel=1e-9)
    assert numbers.bins == bins_of(times)


@pytest.mark.parametrize("missing", ["request_type", "name", "response_time", "response_length"])
def test_missing_arguments(missing):
    """A request that lacks what Locust's own statistics require is not counted, before or after one of its kind."""
    recorder = Recorder(SCALE, 10)
    whole = Fired(*(pool[0] for pool in POOLS)).arguments()
    part = {name: value for name, value in whole.items() if name != missing}

    counted = []
    for fired_together in ([part], [whole, part, whole, part], [part]):
        for arguments in fired_together:
            recorder.on_request(**arguments)
        counted.append(num_requests(recorder.take()))

    assert counted == [{}, {Key("login", "login"): 2}, {}]


def test_names_keep_their_place():
    """Names that came first have their own series for good; all later ones share one, and are counted as hidden."""
    recorder = Recorder(SCALE, 2)
    told_by_window = []
    for names in ("ab", "abccd", "dea", "b"):
        for name in names:
            fire(recorder, "GET", name)
        window = recorder.take()
        told_by_window.append(
            ({key.name: number for key, number in num_requests(window).items()}, window.num_hidden_names)
        )

    assert told_by_window == [
        ({"a": 1, "b": 1}, 0),
        ({"a": 1, "b": 1, "(other)": 3}, 2),
        ({"a": 1, "(other)": 2}, 3),
        ({"b": 1}, 3),
    ]


def test_forgotten_names():
    """A new run admits names from the beginning again; what was counted before is not lost."""
    recorder = Recorder(SCALE, 1)
    for name in "abab":
        fire(recorder, name=name)
    recorder.forget_names()
    for name in "bab":
        fire(recorder, name=name)
    window = recorder.take()

    assert num_requests(window) == {Key("GET", "a"): 2, OTHER: 3, Key("GET", "b"): 2}
    assert window.num_hidden_names == 1


@pytest.mark.parametrize("number", [0, 1, 1023, 1024])
def test_few_hidden_names(number):
    """Up to 1,024 hidden names are counted exactly, however often each comes."""
    recorder = Recorder(SCALE, 1)
    for _ in range(2):
        for name in range(number + 1):
            fire(recorder, name=str(name))

    assert recorder.take().num_hidden_names == number


def test_many_hidden_names():
    """Of 50,000 hidden names the number is estimated; all of their requests are counted."""
    recorder = Recorder(SCALE, 1)
    for name in range(50_001):
        fire(recorder, name=str(name))
    window = recorder.take()

    assert window.num_hidden_names == pytest.approx(50_000, rel=5 * ERROR)
    assert num_requests(window) == {Key("GET", "0"): 1, OTHER: 50_000}


def test_the_estimate_is_not_biased():
    """Many estimates together are nearer to the truth than each is, so they err to both sides; each stays small."""
    estimates = []
    for method in range(25):
        distinct = Distinct()
        for name in range(10_000):
            distinct.add(Key(str(method), str(name)))
        estimates.append(len(distinct))
        assert size(vars(distinct)) < 2.1 * Distinct.SIZE

    assert sum(estimates) / len(estimates) == pytest.approx(10_000, rel=ERROR)
    assert estimates == pytest.approx([10_000] * len(estimates), rel=5 * ERROR)


def size(thing):
    """How many things a thing consists of, as far as our own classes and containers hold them."""
    if isinstance(thing, dict):
        return 1 + sum(size(key) + size(value) for key, value in thing.items())
    if isinstance(thing, (list, tuple, set)):
        return 1 + sum(map(size, thing))
    if type(thing).__module__ == Recorder.__module__:
        return 1 + sum(size(getattr(thing, name)) for name in getattr(thing, "__slots__", None) or vars(thing))
    return 1


STREAMS = {
    "names": lambda number: {"name": f"/{number}"},
    "methods": lambda number: {"method": f"M{number}"},
    "names and methods": lambda number: {"name": f"/{number}", "method": f"M{number % 7}"},
    "status codes": lambda number: {"status_code": number % 9999},
    "names and status codes": lambda number: {"name": f"/{number % 97}", "status_code": number % 9999},
    "outcomes": lambda number: {"name": f"/{number % 97}", "status_code": number, "exception": number % 2},
    "no status codes": lambda _: {"status_code": object()},
    "nothing new": lambda _: {},
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_memory_is_bounded(stream):
    """Whatever is new about each request of an endless stream, a recorder stops growing, and counts them all."""
    recorder = Recorder(SCALE, 20)
    for number in range(40_000):
        fire(recorder, **stream(number))

    assert size(recorder) < 15_000
    assert sum(num_requests(recorder.take()).values()) == 40_000


def test_status_codes_of_a_full_window():
    """Status codes for which a window has no room are counted as none; the others, and the next window, have it."""
    recorder = Recorder(SCALE, 1)
    for _ in range(2):
        for status_code in [*range(100, 200), *range(100, 200)]:
            fire(recorder, status_code=status_code)
        (series,) = recorder.take().series.values()
        counts = {status_code: numbers.num_requests for status_code, numbers in series.statuses.items()}

        assert counts.pop(NO_STATUS) == 52
        assert list(counts.values()) == [2] * 74


@given(st.lists(fired), st.lists(fired))
def test_numbers_merge(here, there):
    """Merged numbers are those of all requests together, and the argument of a merge stays as it is."""

    def numbers_of(requests):
        numbers = Numbers()
        for request in requests:
            for series in make_window([request]).series.values():
                numbers.merge(series.total())
        return numbers

    left, right = numbers_of(here), numbers_of(there)
    left.merge(right)

    assert figures(left) == Plain.figures([*here, *there])
    assert right == numbers_of(there)
    left.merge(numbers_of(here))
    assert right == numbers_of(there)


@given(st.lists(fired))
def test_totals_of_a_window(requests):
    """The total of a series is that of its status codes, a window's that of its series; to ask changes nothing."""
    window = make_window(requests)
    before = told(window)
    by_key = defaultdict(list)
    for request in requests:
        by_key[request.key].append(request)

    totals = {key: figures(series.total()) for key, series in window.series.items()}

    assert totals == {key: Plain.figures(group) for key, group in by_key.items()}
    assert figures(window.total()) == Plain.figures(requests)
    assert told(window) == before


@given(st.lists(fired), st.lists(fired), st.integers(0, 20))
def test_settling_bit_by_bit(here, there, steps):
    """However far a window is settled when others are recorded and it is asked for, it tells what it would have."""
    recorder, plain = Recorder(SCALE, 1000), Plain(1000)
    for request in here:
        on_request(recorder, request)
        plain.count(request)
    window = recorder.take()
    settling = window.settle()
    for _ in zip(range(steps), settling, strict=False):
        pass
    for request in there:
        on_request(recorder, request)

    whole = plain.take()
    assert told(window) == whole
    for _ in settling:
        pass
    assert told(window) == whole


@given(st.lists(fired), st.lists(fired))
def test_windows_add_up(here, there):
    """What is added to a window, place by place, makes it the window of all requests."""
    window, together = Window(), []
    for group in (here, there):
        for key, series in make_window(group).series.items():
            for status_code, numbers in series.statuses.items():
                window.place(key, status_code).merge(numbers)
        together = [*together, *group]
        assert figures(window.total()) == Plain.figures(together)

    assert told(window) == told(make_window(together))


def merged(windows, max_rows=math.inf):
    """Windows merged into one, one after the other."""
    whole = Window(max_rows=max_rows)
    for window in windows:
        for _ in whole.merge(window):
            pass
    return whole


@given(st.lists(st.lists(fired, max_size=15), max_size=5), st.randoms(use_true_random=False))
def test_windows_merge_in_any_order_and_grouping(groups, chance):
    """However windows are merged, the whole is the window of all requests."""
    windows = [make_window(group, 3) for group in groups]
    mixed = windows.copy()
    chance.shuffle(mixed)
    middle = chance.randint(0, len(mixed))

    whole = merged([merged(mixed[:middle]), merged(mixed[middle:])])
    assert whole == merged(windows)
    hidden = {
        request.key
        for group, window in zip(groups, windows, strict=True)
        for request in group
        if request.key not in window.series
    }
    assert whole.num_hidden_names == len(hidden)
    everything = [request for group in groups for request in group]
    assert told(merged(make_window(group) for group in groups)) == told(make_window(everything))


@given(st.lists(st.lists(fired, max_size=15), max_size=4), st.integers(0, 6), st.integers(1, 3))
def test_merged_windows_are_bounded(groups, max_rows, max_series):
    """Merged, a window has no more series and status codes than it may, whatever comes; the counts stay exact."""
    window, names = Window(max_rows=max_rows), Names(max_series)
    for group in groups:
        for _ in window.merge(make_window(group), names):
            pass
    series = window.series
    everything = [request for group in groups for request in group]
    keys = {request.key for request in everything}

    assert figures(window.total()) == Plain.figures(everything)
    assert len(series.keys() - {OTHER}) == min(len(keys), max_series)
    assert sum(len(one.statuses.keys() - {NO_STATUS}) for one in series.values()) <= max_rows
    assert len(names.hidden) == max(len(keys) - max_series, 0)


@given(st.lists(fired), st.lists(fired), st.integers(0, 20))
def test_merging_what_is_counted_in_part(here, there, steps):
    """However far windows are counted when they are merged, asked for or not in between, the whole is the same."""
    one, other = make_window(here), make_window(there)
    for _ in zip(range(steps), other.count(), strict=False):
        pass
    whole = merged([one])
    assert figures(whole.total()) == Plain.figures(here)
    for _ in whole.merge(other):
        pass

    assert figures(whole.total()) == Plain.figures([*here, *there])
    assert whole == merged([make_window(there), make_window(here)])


@given(st.lists(fired), st.lists(fired))
def test_a_merge_leaves_its_argument_alone(here, there):
    """The window that is merged in stays as it was, also when further ones follow."""
    one, other = make_window(here), make_window(there)
    whole = merged([one, other, other])

    assert told(one) == told(make_window(here))
    assert told(other) == told(make_window(there))
    assert figures(whole.total()) == Plain.figures([*here, *there, *there])


@pytest.mark.parametrize("is_sorted", [False, True])
def test_a_large_window_is_forgotten_bit_by_bit(is_sorted):
    """Of thousands of names, no step frees more than a few, and few are left to be freed with the window itself."""
    recorder = Recorder(SCALE, 3_000)
    for name in range(3_000):
        fire(recorder, name=str(name))
    window = recorder.take()
    assert not is_sorted or len(window.series) == 3_000
    for _ in window.count():
        pass
    left = [len(list(window.rows())) for _ in window.clear()]

    assert max(before - after for before, after in pairwise([3_000, *left])) == FREED_AT_ONCE
    assert left[-1] <= FREED_AT_ONCE


def test_what_is_counted_one_by_one_and_together():
    """Requests of a window are the same whether their bins are kept one by one or counted, and so are merged ones."""
    parts, plain = [], Plain(1000)
    for number in (3, 199, 201, LONGEST_PENDING + 7, 1, 700):
        requests = [of_one_kind(time=USUAL_TIMES[(number * index) % 9_000]) for index in range(number)]
        parts.append(make_window(requests))
        for request in requests:
            plain.count(request)

    assert told(merged(parts)) == plain.take()


@given(st.lists(st.integers(0, 3_000)), st.lists(st.integers(0, 3_000)))
def test_distinct_merges(here, there):
    """What two have seen is what one would have seen of both; the one that is merged in stays as it was."""
    one, other, both = Distinct(), Distinct(), Distinct()
    for distinct, names in ((one, here), (other, there), (both, here + there)):
        for name in names:
            distinct.add(Key("GET", str(name)))
    before = other.hashes
    one.merge(other)

    assert one == both
    assert len(one) == len(set(here + there))
    assert other.hashes == before
    assert Distinct(one.hashes) == one.copy() == one


@pytest.mark.parametrize("number", [1000, 1024, 1025, 1500, 6000])
def test_many_distinct_merge(number):
    """Also when they have seen more than they keep, merged ones tell in any order what one tells that saw it all."""
    keys = [Key("GET", str(name)) for name in range(number)]
    parts, both = [Distinct(), Distinct(), Distinct()], Distinct()
    for index, key in enumerate(keys):
        for distinct in (parts[index % 3], parts[index % 2], both):
            distinct.add(key)

    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        merged_one = parts[order[0]].copy()
        for index in order[1:]:
            merged_one.merge(Distinct(parts[index].hashes))
        assert merged_one == both
        assert len(merged_one) == len(both)
        assert size(vars(merged_one)) < 2.1 * Distinct.SIZE


def test_distinct_in_another_process():
    """Hashes are the same in every process, whatever its hash seed, so that workers' can be merged."""
    program = (
        "from locust_newrelic.window import Distinct, Key\n"
        "seen = Distinct()\nseen.add(Key('GET', 'a'))\nseen.add(Key('G', 'ETa'))\nprint(seen.hashes)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }

    assert len(printed) == 1
    assert len(json.loads(printed.pop())) == 2


def test_names_of_a_run():
    """The first names have a place; further ones share one, which nobody's name takes from them."""
    names = Names(2)
    keys = [Key("GET", name) for name in "abcad"]

    assert [names.admit(key) for key in keys] == [keys[0], keys[1], OTHER, keys[0], OTHER]
    assert names.admit(OTHER) == OTHER
    assert len(names.hidden) == 2
