"""The queries of the documentation are NRQL, name what exists, and give a real run's figures; and so does nrql.py."""

import json
import math
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import nrql
import pytest
from hypothesis import given
from hypothesis import strategies as st
from locusts import Locusts
from new_relic import NewRelic

PROJECT = Path(__file__).parent.parent
QUERIES_PAGE = "docs/nrql.md"
EXAMPLES = {"tenant"}
"""Attributes that exist only because the page's examples name a dimension so."""


def dictionary() -> dict[str, list[re.Pattern]]:
    """What attributes an event of each type may have, as patterns; under "" those of every event.

    What is nothing but a placeholder, as a dimension is, may have any name: such a name is to be one of ``EXAMPLES``.
    """
    from locust_newrelic.dictionary import DICTIONARY

    patterns = defaultdict(list)
    for entry in DICTIONARY:
        parts = re.split(r"<\w+>", entry.attribute)
        if any(parts):
            patterns[entry.event_type or ""].append(re.compile(".+".join(map(re.escape, parts))))
    return patterns


def documented(page: str = QUERIES_PAGE) -> dict[str, list[str]]:
    """The queries of a page, by the heading that they are under."""
    queries, fence = defaultdict(list), re.compile(r"^## ([^\n]+)$|^```sql\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
    heading = ""
    for match in fence.finditer((PROJECT / page).read_text()):
        heading = match[1] or heading
        if match[2]:
            queries[heading].append(match[2])
    return queries


ALL = [
    pytest.param(query, id=f"{page}, {heading}, {number}")
    for page in ("README.md", QUERIES_PAGE)
    for heading, queries in documented(page).items()
    for number, query in enumerate(queries, 1)
]


def the_query(heading: str, *parts: str) -> str:
    """The one query under a heading of the page that has those parts, as one line."""
    lines = [" ".join(query.split()) for query in documented()[heading]]
    (found,) = [query for query in lines if all(part in query for part in parts)]
    return found


# The evaluator, on events made by hand

NOW_MS = 1_700_000_000_000


def event(seconds_ago: float, event_type: str = "LocustSummary", **attributes) -> dict:
    """An event of that many seconds before ``NOW_MS``."""
    return {"eventType": event_type, "timestamp": round(NOW_MS - seconds_ago * 1000), **attributes}


def ask(query: str, *events: dict) -> list[nrql.Row]:
    """The rows of a query at ``NOW_MS``."""
    return nrql.parse(query).over(events, NOW_MS)


def value(expression: str, *events: dict) -> nrql.Value:
    """The value of an expression over events."""
    (row,) = ask(f"SELECT {expression} FROM LocustSummary", *events)
    return row.value


def facets(query: str, *events: dict) -> dict[tuple, nrql.Value]:
    """The first value of each facet, in the order of the result."""
    return {row.facet: row.value for row in ask(query, *events)}


def test_null_is_no_part_of_an_aggregate():
    """An event without the attribute neither adds to an aggregate of it nor divides it."""
    events = [event(3, rps=4), event(2), event(1, rps=8), event(0.5, other=1)]

    assert value("count(*)", *events) == 4
    assert value("count(rps)", *events) == 2
    assert value("sum(rps)", *events) == 12
    assert value("average(rps)", *events) == 6
    assert (value("min(rps)", *events), value("max(rps)", *events)) == (4, 8)
    assert value("latest(rps)", *events) == 8
    assert value("uniqueCount(rps)", *events) == 2
    assert value("uniques(rps)", *events) == [4, 8]


def test_of_nothing_there_is_no_extreme():
    """Over no values a sum and a count are 0, everything else is null."""
    assert (value("sum(rps)", event(1)), value("count(rps)", event(1))) == (0, 0)
    for name in ("average", "min", "max", "latest", "percentile"):
        assert value(f"{name}(rps)", event(1)) is None


def test_text_is_no_number():
    """Text is left out where numbers are wanted; latest() and uniqueCount() take it."""
    events = [event(2, state="running"), event(1, state="stopped")]

    assert (value("sum(state)", *events), value("average(state)", *events)) == (0, None)
    assert (value("latest(state)", *events), value("uniqueCount(state)", *events)) == ("stopped", 2)


def test_arithmetic():
    """Products come before sums, brackets before both, and what has no value, as a quotient by zero, is null."""
    events = [event(2, a=6, b=2), event(1, a=4, b=3)]

    assert value("1 + 2 * sum(a)", *events) == 21
    assert value("(1 + 2) * sum(a)", *events) == 30
    assert value("sum(a) - sum(b) - 1", *events) == 4
    assert value("sum(a) / sum(b) / 2", *events) == 1
    assert value("sum(a * b)", *events) == 24
    assert value("average(100 * a)", *events) == 500
    assert value("sum(a) / sum(none)", *events) is None
    assert value("sum(a) + max(none)", *events) is None
    assert value("sum(a) / 1e1", *events) == 1


@pytest.mark.parametrize(
    "condition",
    ["x = 1", "x != 1", "x < 1", "x >= 1", "x IN (1)", "x NOT IN (1)", "x LIKE '%1%'", "x NOT LIKE '%1%'", "x = other"],
)
def test_no_comparison_with_null_is_true(condition):
    """An event without the attribute passes no comparison, whether it asks for likeness or for its opposite."""
    assert ask(f"SELECT count(*) FROM LocustSummary WHERE {condition}", event(1))[0].value == 0


@pytest.mark.parametrize(
    ("condition", "passing"),
    [
        ("x IS NULL", [4]),
        ("x IS NOT NULL", [1, 2, 3]),
        ("x > 1", [2, 3]),
        ("x >= 2 AND x <= 2", [2]),
        ("x != 2", [1, 3]),
        ("x IN (1, 3)", [1, 3]),
        ("x NOT IN (1, 3)", [2]),
        ("name LIKE '/ITEM%'", [1, 2]),
        ("name NOT LIKE '%item%'", [3]),
        ("name LIKE 'item'", []),
        ("name = '/item/1'", [1]),
        ("name = '/ITEM/1'", []),
        ("name > 1", []),
        ("x = 1 OR x = 2 AND name = '/cart'", [1]),
        ("(x = 1 OR x = 3) AND name = '/cart'", [3]),
        ("number = 2 * x", [2]),
        ("eventType() = 'LocustSummary' AND `number` = 4", [2, 4]),
    ],
)
def test_conditions(condition, passing):
    """WHERE takes what its condition says: AND before OR, LIKE whatever the case, text and numbers apart."""
    events = [
        event(4, number=1, x=1, name="/item/1"),
        event(3, number=4, x=2, name="/Item/2"),
        event(2, number=3, x=3, name="/cart"),
        event(1, number=4),
    ]
    rows = ask(f"SELECT timestamp FROM LocustSummary WHERE {condition}", *events)

    assert sorted(5 - (NOW_MS - row.value) // 1000 for row in rows) == passing


def test_facets_need_a_value_and_are_sorted():
    """A facet is a value that events have; the largest first column comes first."""
    events = [event(4, name="a", n=1), event(3, name="b", n=5), event(2, name="a", n=2), event(1, n=9)]

    found = facets("SELECT sum(n) FROM LocustSummary FACET name", *events)
    assert list(found.items()) == [(("b",), 5), (("a",), 3)]


def test_a_facet_is_chosen_for_an_event_that_has_the_first_attribute():
    """A value that occurs only in events without the first column's attribute is no facet."""
    events = [event(2, name="a", n=1), event(1, name="b", m=1)]

    assert facets("SELECT sum(n), sum(m) FROM LocustSummary FACET name", *events) == {("a",): 1}
    assert facets("SELECT count(*) FROM LocustSummary FACET name", *events) == {("a",): 1, ("b",): 1}


def test_ten_facets_unless_there_is_a_limit():
    """max() chooses the facets with the largest values, sum() those with the most events, ORDER BY as it says."""
    events = [event(number, name=number, n=number) for number in range(1, 13)] + [event(1, name=1, n=0)]
    by_value, by_events = {(number,) for number in range(3, 13)}, {(1,)}

    assert facets("SELECT max(n) FROM LocustSummary FACET name", *events).keys() == by_value
    assert facets("SELECT sum(n) FROM LocustSummary FACET name LIMIT 1", *events).keys() == by_events
    assert facets("SELECT sum(n) FROM LocustSummary FACET name ORDER BY max(n)", *events).keys() == by_value
    assert len(facets("SELECT sum(n) FROM LocustSummary FACET name LIMIT MAX", *events)) == 12
    assert list(facets("SELECT max(n) FROM LocustSummary FACET name LIMIT 2", *events)) == [(12,), (11,)]


def test_several_facets():
    """Facets of several attributes are their combinations; one may be named, and the event's type may be one."""
    events = [event(2, method="GET", name="/"), event(1, "LocustNode", method="GET", name="/")]

    found = facets(
        "SELECT count(*) FROM LocustSummary, LocustNode FACET method, name AS 'endpoint', eventType()", *events
    )
    assert found == {("GET", "/", "LocustSummary"): 1, ("GET", "/", "LocustNode"): 1}


def test_timeseries():
    """Each step from the range's begin has a row, also one without events; an event at a border is in the later one."""
    events = [event(40, n=1), event(35, n=2), event(20, n=4)]
    rows = ask("SELECT sum(n), max(n) FROM LocustSummary SINCE 40 seconds ago TIMESERIES 10 seconds", *events)

    assert [row.value for row in rows] == [3, 0, 4, 0]
    assert [row.values["max(n)"] for row in rows] == [2, None, 4, None]
    assert [NOW_MS - row.begin_ms for row in rows] == [40_000, 30_000, 20_000, 10_000]


def test_automatic_steps():
    """TIMESERIES AUTO makes steps of a minute of an hour, of 30 minutes of a day, of 6 hours of a week."""
    for since, minutes in [("1 hour", 1), ("1 day", 30), ("1 week", 360)]:
        rows = ask(f"SELECT count(*) FROM LocustSummary SINCE {since} ago TIMESERIES AUTO")
        assert rows[1].begin_ms - rows[0].begin_ms == minutes * 60_000


def test_a_range_begins_with_since_and_ends_before_until():
    """SINCE is in the range, UNTIL is not, and without either it is the last hour."""
    events = [event(seconds) for seconds in (1, 60, 90, 120, 3600, 3601)]

    assert ask("SELECT count(*) FROM LocustSummary", *events)[0].value == 5
    assert ask("SELECT count(*) FROM LocustSummary SINCE 2 minutes ago UNTIL 1 minute ago", *events)[0].value == 2
    assert ask("SELECT count(*) FROM LocustSummary SINCE 2 minutes ago UNTIL NOW", *events)[0].value == 4
    assert len(ask("SELECT timestamp FROM LocustSummary SINCE 2 minutes ago UNTIL 1 minute ago", *events)) == 2


def test_compare_with():
    """COMPARE WITH adds the same rows for the range that was so long before, for the facets of the later one."""
    week = 7 * 86_400
    events = [event(1, name="a", n=3), event(week + 1, name="a", n=2), event(week + 2, name="b", n=7)]
    rows = ask("SELECT sum(n) FROM LocustSummary SINCE 1 hour ago COMPARE WITH 1 week ago FACET name", *events)

    assert [(row.facet, row.value, row.compared) for row in rows] == [(("a",), 3, False), (("a",), 2, True)]


def test_aggregates_of_aggregates():
    """filter() and percentage() look at the events that meet a condition, rate() divides by the range or the step."""
    events = [event(30, n=6, ok=1), event(20, n=2, ok=0), event(10, n=4, ok=1)]

    assert value("filter(sum(n), WHERE ok = 1)", *events) == 10
    assert value("percentage(count(*), WHERE ok = 0)", *events) == pytest.approx(100 / 3)
    assert value("rate(sum(n), 1 minute)", *events) == pytest.approx(12 / 60)
    rows = ask("SELECT rate(sum(n), 1 second) FROM LocustSummary SINCE 1 minute ago TIMESERIES 20 seconds", *events)
    assert [row.value for row in rows] == [0, 0.3, 0.3]


def test_distributions():
    """percentile() takes the nearest rank, histogram() puts what is beyond its range into the outermost buckets."""
    events = [event(1, t=t) for t in range(1, 21)]

    assert value("percentile(t)", *events) == 19
    assert value("percentile(t, 50)", *events) == 10
    assert value("percentile(t, 5, 100)", *events) == {5: 1, 100: 20}
    assert value("histogram(t, 10, 2)", *events) == [4, 16]
    assert value("histogram(t, 8, 2, 4)", *events) == [7, 13]


def test_events_one_by_one():
    """Attributes without an aggregate are those of single events, the newest first or in an order, up to a limit."""
    events = [event(3, n=2, name="a"), event(2, n=1), event(1, n=3, name="c")]

    rows = ask("SELECT n, name AS 'who', `a.b` FROM LocustSummary", *events)
    assert [row.values for row in rows] == [
        {"n": 3, "who": "c", "`a.b`": None},
        {"n": 1, "who": None, "`a.b`": None},
        {"n": 2, "who": "a", "`a.b`": None},
    ]
    assert [row.value for row in ask("SELECT n FROM LocustSummary ORDER BY n", *events)] == [1, 2, 3]
    assert [row.value for row in ask("SELECT n FROM LocustSummary ORDER BY n DESC LIMIT 2", *events)] == [3, 2]


def test_several_types_of_events():
    """FROM with several types looks at all of them together; it may come first, and case does not matter."""
    events = [event(2, rps=5), event(1, "LocustNode", lag=7), event(1, "Other", lag=9)]

    (row,) = ask("from LocustSummary, LocustNode select MAX(rps), max(lag) as 'lag', count(*)", *events)
    assert row.values == {"MAX(rps)": 5, "lag": 7, "count(*)": 2}
    assert value("bytecountestimate()", events[0]) == len(json.dumps(events[0]))


def test_a_query_tells_what_it_names():
    """Event types, attributes (wherever they stand), functions and clauses of a query are known without running it."""
    query = nrql.parse(
        "SELECT filter(sum(a), WHERE b = 'x') / count(*) FROM One, Two"
        " WHERE c IS NULL AND `d.e` IN ('f') FACET g, eventType()"
    )
    assert query.event_types == ["One", "Two"]
    assert query.attributes == {"a", "b", "c", "d.e", "g"}
    assert query.functions == {"filter", "sum", "count"}
    assert query.clauses == {"where", "facet"}


@pytest.mark.parametrize(
    "query",
    [
        "",
        "SELECT count(*)",
        "SELECT count(*) FROM",
        "SELECT FROM LocustSummary",
        "SELECT median(rps) FROM LocustSummary",
        "SELECT average(rps, 2) FROM LocustSummary",
        "SELECT average(*) FROM LocustSummary",
        "SELECT rps, max(rps) FROM LocustSummary",
        "SELECT max(max(rps)) FROM LocustSummary",
        "SELECT filter(sum(rps)) FROM LocustSummary",
        "SELECT filter(sum(rps), rps > 1) FROM LocustSummary",
        "SELECT rate(sum(rps), 1) FROM LocustSummary",
        "SELECT rate(rps, 1 second) FROM LocustSummary",
        "SELECT rate(sum(rps), 1 fortnight) FROM LocustSummary",
        'SELECT count(*) AS "label" FROM LocustSummary',
        "SELECT count(*) FROM LocustSummary WHERE",
        "SELECT count(*) FROM LocustSummary WHERE rps",
        "SELECT count(*) FROM LocustSummary WHERE rps ~ 1",
        "SELECT count(*) FROM LocustSummary WHERE rps = 1 OR",
        "SELECT count(*) FROM LocustSummary WHERE (rps = 1",
        "SELECT count(*) FROM LocustSummary WHERE rps IN ()",
        "SELECT count(*) FROM LocustSummary WHERE rps RLIKE 'x'",
        "SELECT count(*) FROM LocustSummary WHERE length(state) > 1",
        "SELECT count(*) FROM LocustSummary HAVING count(*) > 1",
        "SELECT count(*) FROM LocustSummary WHERE rps = 1 WHERE rps = 2",
        "SELECT count(*) FROM LocustSummary FACET a, b, c, d, e, f",
        "SELECT count(*) FROM LocustSummary FACET CASES (WHERE rps > 1)",
        "SELECT count(*) FROM LocustSummary FACET name ORDER BY count(*) DESC",
        "SELECT count(*) FROM LocustSummary ORDER BY count(*)",
        "SELECT rps FROM LocustSummary FACET name",
        "SELECT rps FROM LocustSummary TIMESERIES",
        "SELECT count(*) FROM LocustSummary TIMESERIES MAX",
        "SELECT count(*) FROM LocustSummary TIMESERIES 5 minutes SLIDE BY 1 minute",
        "SELECT count(*) FROM LocustSummary TIMESERIES 5 seconds",
        "SELECT count(*) FROM LocustSummary COMPARE WITH 1 week ago",
        "SELECT count(*) FROM LocustSummary SINCE yesterday",
        "SELECT count(*) FROM LocustSummary SINCE 1 hour",
        "SELECT count(*) FROM LocustSummary LIMIT 5001",
        "SELECT count(*) FROM LocustSummary WITH TIMEZONE 'UTC'",
        "SELECT count(*) FROM LocustSummary;",
    ],
)
def test_what_is_not_known_is_refused(query):
    """Whatever is no NRQL, or not known here, is an error and never left out."""
    with pytest.raises(nrql.NrqlError):
        nrql.parse(query)


# What the page says of windows

requests = st.lists(
    st.tuples(st.integers(0, 5), st.floats(0, 1e4), st.booleans()).map(lambda one: (one[0], round(one[1], 3), one[2])),
    min_size=1,
    max_size=60,
)
"""Requests: the window each falls into, its response time, and whether it failed."""


def windowed(of: list[tuple]) -> list[dict]:
    """The summary events of those requests, one per window."""
    windows = defaultdict(list)
    for window, response_time, failed in of:
        windows[window].append((response_time, failed))
    return [
        event(
            600 - 10 * window,
            num_requests=len(inside),
            num_failures=sum(failed for _, failed in inside),
            error_rate=sum(failed for _, failed in inside) / len(inside),
            le_250=sum(response_time <= 250 for response_time, _ in inside),
            latency_p95=nrql.percentile([response_time for response_time, _ in inside]),
        )
        for window, inside in windows.items()
    ]


@given(requests)
def test_quotients_of_sums_do_not_depend_on_the_windows(of):
    """Error rate and share within a limit, as the page has them, are those of the requests, however they fall."""
    events = windowed(of)
    errors = the_query("Throughput and errors", "'errors %'").replace("TIMESERIES 10 seconds", "")
    share = the_query("Response times", "% within 250 ms", "FROM LocustSummary").replace("TIMESERIES 10 seconds", "")

    assert ask(errors, *events)[0].value == pytest.approx(100 * sum(failed for *_, failed in of) / len(of))
    assert ask(share, *events)[0].value == pytest.approx(100 * sum(time_ms <= 250 for _, time_ms, _ in of) / len(of))


@given(requests)
def test_the_highest_percentile_is_a_bound(of):
    """The 95th percentile of all requests is not above the highest of the windows."""
    highest = value("max(latency_p95)", *windowed(of))

    assert nrql.percentile([response_time for _, response_time, _ in of]) <= highest


def test_an_average_of_windows_is_not_that_of_requests():
    """One request that failed and a thousand that did not: the average of the windows says 50 %, the sums 0.1 %."""
    events = windowed([(0, 1.0, True)] + [(1, 1.0, False)] * 1000)

    assert value("average(100 * error_rate)", *events) == 50
    assert value("100 * sum(num_failures) / sum(num_requests)", *events) == pytest.approx(100 / 1001)


# The queries of the documentation


@pytest.mark.parametrize("query", ALL)
def test_a_documented_query_is_nrql(query):
    """Each query of the documentation is understood."""
    assert nrql.parse(query).items


@pytest.mark.parametrize("query", ALL)
def test_a_documented_query_names_what_exists(query):
    """Each event type, and each attribute of such events, that a query of the documentation names is one we send."""
    parsed, known = nrql.parse(query), dictionary()
    assert set(parsed.event_types) <= known.keys() - {""}
    patterns = [pattern for event_type in ("", *parsed.event_types) for pattern in known[event_type]]
    unknown = {name for name in parsed.attributes if not any(pattern.fullmatch(name) for pattern in patterns)}
    assert unknown <= EXAMPLES


def test_examples_are_said_to_be_examples():
    """The page says which names are examples."""
    introduction = (PROJECT / QUERIES_PAGE).read_text().partition("\n## ")[0]
    for name in EXAMPLES | {"Shop", "nightly-16", "nightly-17", "acme"}:
        assert f"`{name}`" in introduction.partition("The names ")[2]


@pytest.mark.parametrize("query", documented()["Alert conditions"])
def test_a_condition_is_one_for_alerts(query):
    """A query for an alert condition has one value, and nothing that New Relic's alerts do not take."""
    parsed = nrql.parse(query)
    assert len(parsed.items) == 1
    assert parsed.clauses <= {"where", "facet"}
    assert not parsed.functions & {"histogram", "bytecountestimate", "uniques"}
    assert not parsed.by_event


# The queries, on what a real run sent

SHOP = """
import json
from itertools import cycle

import locust_newrelic
from locust import FastHttpUser, HttpUser, User, constant_throughput, events, task

truth = open("truth", "a", buffering=1)
tenants = cycle(["acme", "globex", "initech"])
response_times = cycle([7, 120, 250, 250.5, 700, 1000, 1600, 33])


@events.request.add_listener
def write_truth(request_type, name, response_time, response=None, exception=None, context=None, **_):
    status_code = 0 if response is None else response.status_code or 0
    tenant = (context or {}).get("tenant")
    truth.write(json.dumps([request_type, name, response_time, status_code, exception is not None, tenant]) + "\\n")


def step(user):
    next(user.steps)()


class Shopper:
    wait_time = constant_throughput(3)
    tasks = [step]

    def on_start(self):
        self.tenant = next(tenants)
        self.steps = cycle([self.start_page, self.item, self.wrong, self.start_page, self.judged, self.faulty])

    def context(self):
        return {"tenant": self.tenant}

    def start_page(self):
        self.client.get("/")

    def item(self):
        self.client.get("/items/1", name="/items/[id]")
        self.client.get("/slow")

    def wrong(self):
        self.client.get("/missing")
        self.client.post("/broken", json={})
        self.client.get("http://127.0.0.1:9/", name="no connection")

    def judged(self):
        with self.client.get("/", name="unwanted 200", catch_response=True) as response:
            response.failure("not what we wanted")

    def faulty(self):
        truth.write(json.dumps(["exception", type(self).__name__, None, 0, True, None]) + "\\n")
        raise ValueError("a fault in the locustfile")


class Requests(Shopper, HttpUser):
    pass


class Fast(Shopper, FastHttpUser):
    pass


class Custom(User):
    wait_time = constant_throughput(8)

    @task
    def call(self):
        fire = self.environment.events.request.fire
        time_ms = next(response_times)
        fire(request_type="rpc", name="timed", response_time=time_ms, response_length=3, url="rpc://stock", context={})
        fire(request_type="rpc", name="cast", response_time=None, response_length=0)
        fire(request_type="rpc", name="refused", response_time=3, response_length=0, exception="out of stock")
"""


@dataclass
class Request:
    """A request as Locust's own listeners saw it."""

    method: str
    name: str
    response_time: float | None
    status_code: int
    failed: bool
    tenant: str | None


@dataclass
class Shop:
    """A run that is over: the events that New Relic has, Locust's own figures, and every request made."""

    events: list[dict]
    now_ms: int
    stats: dict[tuple[str, str], dict]
    requests: list[Request]
    num_exceptions: Counter

    def ask(self, query: str) -> list[nrql.Row]:
        """The rows of a query, over the whole range where it would be a series."""
        return replace(nrql.parse(query), step_ms=None).over(self.events, self.now_ms)

    def value(self, query: str) -> nrql.Value:
        """The first value of its only row."""
        (row,) = self.ask(query)
        return row.value

    def facets(self, query: str) -> dict:
        """The first value of each facet; a single attribute is its own key."""
        return {row.facet if len(row.facet) > 1 else row.facet[0]: row.value for row in self.ask(query)}

    def by_endpoint(self, of) -> dict[tuple[str, str], float]:
        """What a function says of the requests of each endpoint."""
        endpoints = defaultdict(list)
        for request in self.requests:
            endpoints[request.method, request.name].append(request)
        return {endpoint: of(inside) for endpoint, inside in endpoints.items()}

    @property
    def times(self) -> list[float]:
        """All response times."""
        return [request.response_time for request in self.requests if request.response_time is not None]


@pytest.fixture(scope="module")
def shop(target, tmp_path_factory):
    """A run of 12 s with samples, a dimension, and all that can go wrong."""
    folder = tmp_path_factory.mktemp("shop")
    server, processes = NewRelic(folder), Locusts(folder)
    build = {"CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_RUN_ID": "17", "GITHUB_RUN_NUMBER": "17"}
    ended = processes.run(
        SHOP, "-H", target, "-u", "12", "-r", "12", "-t", "12", "--newrelic-interval", "2",
        "--newrelic-app-name", "Shop", "--newrelic-run-id", "nightly-17",
        "--newrelic-sample-rate", "1", "--newrelic-dimension", "tenant", environment=server.environment() | build,
    )  # fmt: skip
    processes.close()
    server.close()
    assert ended.process.returncode == 1, ended.log
    assert server.refused == []

    written = [Request(*json.loads(line)) for line in (folder / "truth").read_text().splitlines()]
    return Shop(
        events=server.events,
        now_ms=round(time.time() * 1000) + 1000,
        stats=ended.stats(),
        requests=[request for request in written if request.method != "exception"],
        num_exceptions=Counter(request.name for request in written if request.method == "exception"),
    )


def about(expected: object) -> object:
    """Equal but for the rounding of numbers that are sent."""
    return pytest.approx(expected, rel=1e-4, abs=1e-3)


WITHOUT_A_VALUE = {
    "latest(clock_skew_ms)": "a worker's, and there is none",
    "max(num_hidden_names)": "no name is hidden",
}


@pytest.mark.parametrize("query", ALL)
def test_a_documented_query_answers(shop, query):
    """Each column of each query has a value on a real run, but for the few that ask for what this run has not."""
    parsed = nrql.parse(query)
    rows = parsed.over(shop.events, shop.now_ms)

    for item in parsed.items:
        answered = any(row.num_events and row.values[item.label] not in (None, []) for row in rows)
        assert answered != (item.label in WITHOUT_A_VALUE), item.label


def test_the_truth_is_locusts_own(shop):
    """What the locustfile's listener wrote is what Locust counted, so that each of the two may stand for both."""
    counted = {endpoint: (entry["num_requests"], entry["num_failures"]) for endpoint, entry in shop.stats.items()}

    assert counted == shop.by_endpoint(lambda inside: (len(inside), sum(request.failed for request in inside)))


def test_totals(shop):
    """The sums over all windows are Locust's requests and failures."""
    (row,) = shop.ask(the_query("Throughput and errors", "sum(num_requests), sum(num_failures)"))
    totals = [sum(entry[name] for entry in shop.stats.values()) for name in ("num_requests", "num_failures")]

    assert list(row.values.values()) == totals
    assert shop.value(the_query("Throughput and errors", "AS 'errors %'")) == pytest.approx(100 * totals[1] / totals[0])


def test_throughput(shop):
    """Requests a second, by the time that windows were open, are those of the whole run in its stop event."""
    (stop,) = [one for one in shop.events if one.get("phase") == "stop"]
    (row,) = shop.ask(the_query("Throughput and errors", "'while it ran'"))

    assert row.values["while it ran"] == pytest.approx(stop["rps"], rel=0.1)
    assert row.values["of half an hour"] == pytest.approx(len(shop.requests) / 1800)


def test_users(shop):
    """The users and those wanted are the twelve of the command line."""
    (row,) = shop.ask(the_query("Throughput and errors", "'users wanted'"))

    assert (row.values["users"], row.values["users wanted"]) == (12, 12)


def test_error_rates_of_endpoints(shop):
    """The errors in percent of each endpoint, the most first, are Locust's failures by its requests."""
    found = shop.facets(the_query("Endpoints and status codes", "'errors %'"))

    assert found == {
        endpoint: pytest.approx(100 * entry["num_failures"] / entry["num_requests"])
        for endpoint, entry in shop.stats.items()
    }
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert 0 in found.values()
    assert 100 in found.values()


def test_rates_of_endpoints(shop):
    """The requests a second of each endpoint are its requests by the hour that is asked about."""
    found = shop.facets(the_query("Endpoints and status codes", "rate(", "LocustRequestStatistics"))

    assert found == {endpoint: pytest.approx(entry["num_requests"] / 3600) for endpoint, entry in shop.stats.items()}


def test_status_codes(shop):
    """The requests by status code, and each endpoint's share of classes, are those that the locustfile saw."""
    assert shop.facets(the_query("Endpoints and status codes", "FACET status_code")) == Counter(
        request.status_code for request in shop.requests
    )
    shares = shop.ask(the_query("Endpoints and status codes", "'5xx %'"))
    assert {row.facet: tuple(row.values.values()) for row in shares} == shop.by_endpoint(
        lambda inside: tuple(
            100 * sum(request.status_code // 100 == digit for request in inside) / len(inside) for digit in (5, 4, 0)
        )
    )


def test_failures_with_a_good_status(shop):
    """The one endpoint that fails with status 200 is found, with all its failures."""
    found = shop.facets(the_query("Endpoints and status codes", "status_class = '2xx' AND"))

    assert found == {("GET", "unwanted 200"): shop.stats["GET", "unwanted 200"]["num_failures"]}


def test_average_response_times(shop):
    """The averages are those of the requests; with untimed endpoints left out, of those that have a time."""
    found = shop.facets(the_query("Response times", "SELECT sum(total_response_time) / sum(num_requests)", "FACET"))
    assert found == shop.by_endpoint(
        lambda inside: about(math.fsum(request.response_time or 0 for request in inside) / len(inside))
    )
    timed = shop.value(the_query("Response times", "WHERE total_response_time > 0"))
    assert timed == about(math.fsum(shop.times) / len(shop.times))


def test_the_share_within_a_limit(shop):
    """The share of requests answered within 250 ms is exact, to a request that took 250 and one that took 250.5."""
    share = the_query("Response times", "% within 250 ms", "LocustRequestStatistics")
    found = shop.facets(share)

    assert found == shop.by_endpoint(
        lambda inside: pytest.approx(
            100 * sum(request.response_time is not None and request.response_time <= 250 for request in inside)
            / len(inside)
        )
    )  # fmt: skip
    timed = [request.response_time for request in shop.requests if request.name == "timed"]
    assert {250, 250.5} <= set(timed)


def test_apdex(shop):
    """Apdex is the share of satisfied requests and half of the tolerated ones."""
    satisfied, tolerated = (sum(time_ms <= limit for time_ms in shop.times) for limit in (250, 1000))
    expected = (satisfied + (tolerated - satisfied) / 2) / len(shop.requests)

    assert shop.value(the_query("Response times", "Apdex")) == pytest.approx(expected)


def test_bands_of_response_times(shop):
    """The bands are the requests whose time is between their limits, and together all requests."""
    (row,) = shop.ask(the_query("Response times", "'to 100 ms'"))
    limits = [0, 100, 250, 1000, 10_000]
    bands = [sum(low < time_ms <= high for time_ms in shop.times) for low, high in pairwise(limits)]

    assert list(row.values.values()) == [*bands, len(shop.requests) - sum(bands)]


def test_percentiles_of_the_run(shop):
    """The stop event's p95 is within 1 % of the requests' own, and the highest of the windows not below that."""
    (row,) = shop.ask(the_query("Response times", "latest(latency_p95)"))
    exact = nrql.percentile(shop.times)

    assert row.values["latest(latency_p95)"] == pytest.approx(exact, rel=0.011)
    (highest,) = shop.ask(the_query("Response times", "max(latency_p95)"))
    assert highest.values["max(latency_p95)"] >= 0.989 * exact


def test_the_slowest_endpoints(shop):
    """The share over a second, and the seconds spent, are those of the requests; the slowest come first."""
    share = shop.facets(the_query("Response times", "'% over 1 s'"))
    assert share == shop.by_endpoint(
        lambda inside: pytest.approx(
            100 * sum(request.response_time is None or request.response_time > 1000 for request in inside) / len(inside)
        )
    )
    spent = shop.facets(the_query("Response times", "'seconds in all'"))
    assert next(iter(spent)) == ("rpc", "timed")
    worst = shop.facets(the_query("Response times", "'p95 ms, worst window'"))
    assert next(iter(worst)) == ("rpc", "timed")


def test_samples(shop):
    """With every request sampled, percentiles, counts and shares of the samples are those of the requests."""
    rows = shop.ask(the_query("Response times", "percentile(response_time, 50, 95, 99)"))
    times = shop.by_endpoint(lambda inside: [request.response_time for request in inside])
    timed = {endpoint: inside for endpoint, inside in times.items() if None not in inside}

    assert {row.facet: row.value for row in rows} == {
        endpoint: {percent: pytest.approx(nrql.percentile(inside, percent), rel=1e-3) for percent in (50, 95, 99)}
        for endpoint, inside in timed.items()
    }
    assert {row.facet: row.values["samples"] for row in rows} == {
        endpoint: len(inside) for endpoint, inside in timed.items()
    }
    (row,) = shop.ask(the_query("Response times", "'requests, about'"))
    assert list(row.values.values()) == [1, 1, len(shop.requests)]
    share = shop.facets(the_query("Response times", "percentage("))
    assert {endpoint: share[endpoint] for endpoint in timed} == {
        endpoint: pytest.approx(100 * sum(time_ms <= 300 for time_ms in inside) / len(inside))
        for endpoint, inside in timed.items()
    }


def test_failures_by_what_they_say(shop):
    """The failures by error are all of Locust's, endpoint by endpoint, and say what the locustfile said."""
    found = shop.ask(the_query("Failures and exceptions", "FACET method, name, error"))
    by_endpoint = Counter()
    for row in found:
        by_endpoint[row.facet[:2]] += row.value

    assert by_endpoint == {
        endpoint: entry["num_failures"] for endpoint, entry in shop.stats.items() if entry["num_failures"]
    }
    assert any("not what we wanted" in row.facet[2] for row in found)
    by_error = shop.facets(the_query("Failures and exceptions", "FACET error LIMIT"))
    assert sum(by_error.values()) == sum(by_endpoint.values())
    assert by_error["out of stock"] == by_endpoint["rpc", "refused"]


def test_exceptions(shop):
    """The exceptions of each user class are those that it raised, with a traceback that names the task."""
    rows = shop.ask(the_query("Failures and exceptions", "LocustException"))

    assert shop.num_exceptions.keys() == {"Requests", "Fast"}
    assert {row.facet[0]: row.value for row in rows} == shop.num_exceptions
    for row in rows:
        assert row.facet[1:] == ("ValueError", "a fault in the locustfile")
        assert "in faulty" in row.values["latest(traceback)"]


def test_the_slowest_requests(shop):
    """The requests one by one begin with the slowest."""
    rows = shop.ask(the_query("Failures and exceptions", "ORDER BY response_time DESC"))

    assert [row.values["response_time"] for row in rows] == pytest.approx(sorted(shop.times, reverse=True)[:20])


def test_the_generators_share(shop):
    """The generator's requests are all requests, by node."""
    found = shop.facets(the_query("The load generator", "latest(clock_skew_ms)"))

    assert sum(found.values()) == len(shop.requests)


def test_tenants(shop):
    """The figures of each tenant are those of its requests, and what has none is what the page says it is."""
    rows = shop.ask(the_query("Tenants", "'average ms'"))
    tenants = defaultdict(list)
    for request in shop.requests:
        tenants[request.tenant].append(request)
    without = tenants.pop(None)
    assert tenants.keys() == {"acme", "globex", "initech"}

    assert {row.facet[0]: list(row.values.values()) for row in rows} == {
        tenant: about([
            len(inside),
            100 * sum(request.failed for request in inside) / len(inside),
            math.fsum(request.response_time for request in inside) / len(inside),
            100 * sum(request.response_time <= 250 for request in inside) / len(inside),
        ])
        for tenant, inside in tenants.items()
    }  # fmt: skip
    share = shop.value(the_query("Tenants", "tenant IS NULL"))
    assert share == pytest.approx(100 * len(without) / len(shop.requests))
    codes = shop.facets(the_query("Tenants", "tenant = 'acme'"))
    assert codes == Counter((request.name, request.status_code) for request in tenants["acme"])


def test_the_stop_event_stands_on_its_own(shop):
    """One row has the whole run: its counts, its build, and the endpoints that were worst."""
    (row,) = shop.ask(the_query("Runs, one beside the other", "worst_p95"))

    assert row.values["run_id"] == "nightly-17"
    assert row.values["num_requests"] == len(shop.requests)
    assert row.values["num_exceptions"] == shop.num_exceptions.total()
    assert row.values["worst_p95_name"] == "timed"
    assert row.values["worst_failures"] == max(entry["num_failures"] for entry in shop.stats.values())
    (ended,) = shop.ask(the_query("Runs, one beside the other", "'without an end'"))
    assert ended.value == 0


def test_nothing_is_missing_or_doubled(shop):
    """Numbers, highest number and different numbers of the events are the same, and none is there twice."""
    (row,) = shop.ask(the_query("Is the picture whole?", "'duplicates'"))
    assert list(row.values.values()) == [len(shop.events)] * 3 + [0]
    assert set(shop.facets(the_query("Is the picture whole?", "FACET seq")).values()) == {1}

    first, second, *_ = shop.events
    doubled = replace(shop, events=[*shop.events, first, second])
    (row,) = doubled.ask(the_query("Is the picture whole?", "'duplicates'"))
    assert row.values["duplicates"] == 2
    assert Counter(doubled.facets(the_query("Is the picture whole?", "FACET seq")).values())[2] == 2


def test_late_events(shop):
    """What became known late has its share of the requests, and stays in the sums."""
    late = {**next(one for one in shop.events if one["eventType"] == "LocustSummary"), "late": 1}
    late["num_requests"] = len(shop.requests)
    with_late = replace(shop, events=[*shop.events, late])

    assert list(shop.facets(the_query("Is the picture whole?", "late = 1")).values()) == [0]
    assert list(with_late.facets(the_query("Is the picture whole?", "late = 1")).values()) == [50]


def test_the_charts_of_the_sidecar(shop):
    """Where each point is one window, a chart of the sidecar shows what the corrected one does."""
    charts = documented()["The charts of the sidecar"]
    pairs = list(zip(charts[::2], charts[1::2], strict=True))
    assert len(pairs) == 7

    def points(query: str) -> dict[int, nrql.Value]:
        step = query.replace("TIMESERIES AUTO", "SINCE 5 minutes ago TIMESERIES 2 seconds")
        return {row.begin_ms: row.value for row in nrql.parse(step).over(shop.events, shop.now_ms) if row.num_events}

    for number in (0, 2, 3):
        before, after = map(points, pairs[number])
        busy = [begin_ms for begin_ms, corrected in after.items() if corrected is not None]
        assert len(busy) >= 5
        assert [before[begin_ms] for begin_ms in busy] == about([after[begin_ms] for begin_ms in busy])
