"""NRQL over a list of events: the part of the language that the documentation uses. Anything else is an error.

``parse(text)`` makes a :class:`Query`, which knows what it names, and whose ``over(events, now_ms)`` gives its rows.
As in New Relic, null is no part of an aggregate, no comparison with null is true, and a facet needs a value.
Percentiles are exact here (nearest rank), and ``bytecountestimate()`` is the length of the events as JSON.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import NoReturn

Event = dict[str, str | int | float]
Value = str | int | float | dict | list | None
RowFunction = Callable[[Event], Value]

CHOOSE_FACETS = frozenset(["min", "max", "percentile", "average", "count"])
MS_PER = {"second": 1000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000, "week": 604_800_000}
AUTO_STEPS_MS = [
    number * MS_PER[unit]
    for unit, numbers in {"second": (1, 5, 10, 30), "minute": (1, 5, 10, 30), "hour": (1, 6), "day": (1,)}.items()
    for number in numbers
]
AUTO_BUCKETS, MOST_BUCKETS = 60, 366
FACETS, ROWS, LARGEST_LIMIT, MOST_FACET_ATTRIBUTES = 10, 100, 5000, 5
KEYWORDS = frozenset(
    "select from where facet timeseries compare with since until limit order by as and or not in like is null ago now"
    " auto max asc desc".split()
)
TOKEN = re.compile(
    r"(?P<space>\s*)(?:(?P<number>\d+(?:\.\d+)?(?:e\d+)?)|'(?P<text>[^']*)'|`(?P<quoted>[^`]+)`|(?P<word>[A-Za-z_][\w.]*)"
    r"|(?P<symbol><=|>=|!=|[-+*/(),=<>])|(?P<end>$))"
)


class NrqlError(ValueError):
    """Text that is no query, or one with something that is not known here."""


@dataclass(frozen=True)
class Token:
    """A piece of a query: its kind (the last group of ``TOKEN``), what it says, and where it begins and ends."""

    kind: str
    text: str
    begin: int
    end: int


@dataclass(frozen=True)
class Group:
    """The events that an aggregate is made of, in the order of time, and the seconds of the range they are from."""

    events: list[Event]
    seconds: float


@dataclass(frozen=True)
class Item:
    """What is selected: its label, and how its value comes from a group, or from an event."""

    label: str
    of: Callable[[Group | Event], Value]


@dataclass(frozen=True)
class Row:
    """A row of a result: of a facet, of the bucket of time that begins then, of the range compared with, or neither."""

    values: dict[str, Value]
    num_events: int
    facet: tuple[Value, ...] = ()
    begin_ms: int | None = None
    compared: bool = False

    @property
    def value(self) -> Value:
        """The first value."""
        return next(iter(self.values.values()))


@dataclass
class Query:
    """A query that was understood."""

    text: str
    event_types: list[str] = field(default_factory=list)
    attributes: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    clauses: set[str] = field(default_factory=set)
    items: list[Item] = field(default_factory=list)
    by_event: bool = False
    """Whether it selects attributes, event by event, and no aggregates."""
    where: Callable[[Event], bool] = lambda _event: True
    facets: list[RowFunction] = field(default_factory=list)
    facet_order: Callable[[Group], Value] | None = None
    facet_needs: RowFunction = lambda _event: True
    """What the first aggregate is made of: a facet is chosen for an event that has it."""
    facets_by_value: bool = False
    """Whether the first aggregate says which facets are chosen of too many, or the number of events does."""
    order: tuple[RowFunction, bool] | None = None
    since_ms: int = MS_PER["hour"]
    until_ms: int = 0
    compare_ms: int | None = None
    step_ms: int | None = None
    limit: int | None = None

    def over(self, events: Iterable[Event], now_ms: int) -> list[Row]:
        """Its rows over those events, at that time."""
        events = [event for event in events if event["eventType"] in self.event_types and self.where(event)]
        events.sort(key=lambda event: event["timestamp"])
        begin_ms, end_ms = now_ms - self.since_ms, now_ms - self.until_ms
        inside = within(events, begin_ms, end_ms)
        if self.by_event:
            return self._rows(inside)

        facets = self._chosen(Group(inside, (end_ms - begin_ms) / 1000)) if self.facets else [()]
        rows = self._aggregated(inside, facets, begin_ms, end_ms)
        if self.compare_ms is None:
            return rows

        begin_ms, end_ms = begin_ms - self.compare_ms, end_ms - self.compare_ms
        before = self._aggregated(within(events, begin_ms, end_ms), facets, begin_ms, end_ms)
        return rows + [replace(row, compared=True) for row in before]

    def _rows(self, events: list[Event]) -> list[Row]:
        of, descending = self.order or (lambda event: event["timestamp"], True)
        ordered = sorted(events, key=lambda event: sortable(of(event)), reverse=descending)
        limit = ROWS if self.limit is None else self.limit
        return [Row({item.label: item.of(event) for item in self.items}, 1) for event in ordered[:limit]]

    def _facet_of(self, event: Event) -> tuple[Value, ...]:
        return tuple(of(event) for of in self.facets)

    def _chosen(self, group: Group) -> list[tuple[Value, ...]]:
        """The facets with the largest values of ORDER BY or of some functions, or with the most events.

        They are sorted by the first value, the largest first.
        """
        groups: dict[tuple[Value, ...], list[Event]] = defaultdict(list)
        for event in group.events:
            groups[self._facet_of(event)].append(event)

        def largest(facets: Iterable[tuple[Value, ...]], of: Callable[[Group], Value]) -> list[tuple[Value, ...]]:
            return sorted(facets, key=lambda facet: sortable(of(Group(groups[facet], group.seconds))), reverse=True)

        possible = [
            facet
            for facet, events in sorted(groups.items(), key=lambda item: str(item[0]))
            if None not in facet and any(self.facet_needs(event) is not None for event in events)
        ]
        first = self.items[0].of
        order = self.facet_order or (first if self.facets_by_value else lambda group: len(group.events))
        chosen = largest(possible, order)[: FACETS if self.limit is None else self.limit]
        return largest(chosen, first)

    def _aggregated(
        self, events: list[Event], facets: list[tuple[Value, ...]], begin_ms: int, end_ms: int
    ) -> list[Row]:
        step_ms = self.step_ms or end_ms - begin_ms
        groups: dict[tuple, list[Event]] = defaultdict(list)
        for event in events:
            groups[self._facet_of(event), (event["timestamp"] - begin_ms) // step_ms].append(event)

        rows = []
        for facet, begin in product(facets, range(begin_ms, end_ms, step_ms)):
            inside = groups[facet, (begin - begin_ms) // step_ms]
            group = Group(inside, min(step_ms, end_ms - begin) / 1000)
            values = {item.label: item.of(group) for item in self.items}
            rows.append(Row(values, len(inside), facet, begin if self.step_ms else None))
        return rows


def within(events: Iterable[Event], begin_ms: int, end_ms: int) -> list[Event]:
    """The events from one time to another, that one not included."""
    return [event for event in events if begin_ms <= event["timestamp"] < end_ms]


def sortable(value: Value) -> tuple:
    """A key by which null is the smallest, numbers come next, and then text."""
    if value is None:
        return (0, 0)
    return (1, value) if is_number(value) else (2, str(value))


def is_number(value: object) -> bool:
    """Whether it is one to calculate with."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def parse(text: str) -> Query:
    """The query that the text is."""
    return _Parser(text).query()


def tokens(text: str) -> list[Token]:
    """The pieces of a query; the last one is its end."""
    found, position = [], 0
    while not found or found[-1].kind != "end":
        match = TOKEN.match(text, position)
        if match is None:
            msg = f"no NRQL: {text[position:]!r} in {text!r}"
            raise NrqlError(msg)
        kind = match.lastgroup
        position = match.end()
        found.append(Token(kind, match[kind], match.end("space"), position))
    return found


class _Parser:
    """Recursive descent: each method takes what it is named after, and gives what that means as a function."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self._at = 0
        self._query = Query(text)
        self._needed: list[tuple[RowFunction, bool]] = []
        """What the aggregates are made of, and whether facets are chosen by them."""

    # The tokens

    @property
    def _token(self) -> Token:
        return self._tokens[self._at]

    def _refuse(self, why: str) -> NoReturn:
        msg = f"{why}: {self._text!r}"
        raise NrqlError(msg)

    def _expect(self, what: str) -> NoReturn:
        self._refuse(f"{what} expected, not {self._text[self._token.begin :]!r}")

    def _next(self, kind: str) -> str:
        token = self._token
        if token.kind != kind:
            self._expect(kind)
        self._at += 1
        return token.text

    def _is(self, *words: str) -> bool:
        """Whether the next tokens are those keywords or symbols."""
        following = self._tokens[self._at : self._at + len(words)]
        return [token.kind in ("word", "symbol") and token.text.lower() for token in following] == list(words)

    def _take(self, *words: str) -> bool:
        """Take those keywords or symbols if they come next."""
        if taken := self._is(*words):
            self._at += len(words)
        return taken

    def _need(self, *words: str) -> None:
        if not self._take(*words):
            self._expect(" ".join(words).upper())

    def _separated(self, part: Callable[[], object]) -> list:
        parts = [part()]
        while self._take(","):
            parts.append(part())
        return parts

    # Clauses

    def query(self) -> Query:
        query = self._query
        if self._take("from"):
            self._from()
            self._need("select")
            self._select()
        else:
            self._need("select")
            self._select()
            self._need("from")
            self._from()

        while self._token.kind != "end":
            self._clause()
        if query.compare_ms is not None and not query.clauses & {"since", "until"}:
            self._refuse("COMPARE WITH needs SINCE or UNTIL")
        self._set_step()
        return query

    def _clause(self) -> None:
        keyword = self._token.text.lower()
        clauses = {
            "where": self._where, "facet": self._facet, "timeseries": self._timeseries, "compare": self._compare,
            "since": self._since, "until": self._until, "limit": self._limit, "order": self._order,
        }  # fmt: skip
        if self._token.kind != "word" or keyword not in clauses or keyword in self._query.clauses:
            self._expect("another clause")
        self._at += 1
        self._query.clauses.add(keyword)
        clauses[keyword]()

    def _from(self) -> None:
        self._query.event_types = self._separated(lambda: self._next("word"))

    def _select(self) -> None:
        following = self._tokens[self._at :]
        calls = {one.text.lower() for one, two in pairwise(following) if two.text == "("}
        self._query.by_event = not calls & (AGGREGATES.keys() | OF_AGGREGATES)
        self._query.items = self._separated(self._item)
        if self._needed:
            self._query.facet_needs, self._query.facets_by_value = self._needed[0]

    def _item(self) -> Item:
        begin = self._token.begin
        value = self._expression(self._attribute if self._query.by_event else self._aggregate)
        label = self._text[begin : self._tokens[self._at - 1].end]
        return Item(self._label() or label, value)

    def _label(self) -> str | None:
        if not self._take("as"):
            return None
        return self._next("quoted" if self._token.kind == "quoted" else "text")

    def _where(self) -> None:
        self._query.where = self._condition()

    def _facet(self) -> None:
        query = self._query
        if query.by_event:
            self._refuse("FACET needs an aggregate")
        query.facets = self._separated(self._facet_item)
        if len(query.facets) > MOST_FACET_ATTRIBUTES:
            self._refuse(f"more than {MOST_FACET_ATTRIBUTES} facets")
        if self._take("order", "by"):
            query.facet_order = self._expression(self._aggregate)

    def _facet_item(self) -> RowFunction:
        of = self._attribute()
        self._label()
        return of

    def _order(self) -> None:
        self._need("by")
        if not self._query.by_event:
            self._refuse("ORDER BY belongs right behind FACET, or to attributes")
        of = self._attribute()
        descending = self._take("desc")
        if not descending:
            self._take("asc")
        self._query.order = of, descending

    def _timeseries(self) -> None:
        if self._query.by_event:
            self._refuse("TIMESERIES needs an aggregate")
        if self._token.kind == "number":
            self._query.step_ms = self._duration_ms()
        else:
            self._take("auto")

    def _set_step(self) -> None:
        """Choose the step of TIMESERIES AUTO, once the range is known, or see whether the given one will do."""
        query = self._query
        if "timeseries" not in query.clauses:
            return
        range_ms = query.since_ms - query.until_ms
        if query.step_ms is None:
            query.step_ms = next((step for step in AUTO_STEPS_MS if range_ms <= AUTO_BUCKETS * step), AUTO_STEPS_MS[-1])
        if range_ms > MOST_BUCKETS * query.step_ms:
            self._refuse(f"more than {MOST_BUCKETS} buckets of time")

    def _compare(self) -> None:
        self._need("with")
        self._query.compare_ms = self._ago_ms()

    def _since(self) -> None:
        self._query.since_ms = self._ago_ms()

    def _until(self) -> None:
        self._query.until_ms = 0 if self._take("now") else self._ago_ms()

    def _ago_ms(self) -> int:
        duration_ms = self._duration_ms()
        self._need("ago")
        return duration_ms

    def _duration_ms(self) -> int:
        number = int(self._next("number"))
        unit = self._next("word").lower().removesuffix("s")
        if unit not in MS_PER:
            self._refuse(f"{unit!r} is no unit of time")
        return number * MS_PER[unit]

    def _limit(self) -> None:
        self._query.limit = LARGEST_LIMIT if self._take("max") else int(self._next("number"))
        if self._query.limit > LARGEST_LIMIT:
            self._refuse(f"LIMIT has at most {LARGEST_LIMIT}")

    # Conditions: functions of an event

    def _condition(self) -> Callable[[Event], bool]:
        parts = [self._all_of()]
        while self._take("or"):
            parts.append(self._all_of())
        return lambda event: any(part(event) for part in parts)

    def _all_of(self) -> Callable[[Event], bool]:
        parts = [self._predicate()]
        while self._take("and"):
            parts.append(self._predicate())
        return lambda event: all(part(event) for part in parts)

    def _predicate(self) -> Callable[[Event], bool]:
        if self._take("("):
            condition = self._condition()
            self._need(")")
            return condition

        of = self._expression(self._attribute)
        if self._take("is"):
            negated = self._take("not")
            self._need("null")
            return lambda event: (of(event) is None) != negated
        negated = self._take("not")
        if self._take("in"):
            self._need("(")
            values = self._separated(self._constant)
            self._need(")")
            return lambda event: of(event) is not None and (of(event) in values) != negated
        if self._take("like"):
            pattern = re.compile(".*".join(map(re.escape, self._next("text").split("%"))), re.IGNORECASE | re.DOTALL)
            return lambda event: of(event) is not None and bool(pattern.fullmatch(str(of(event)))) != negated
        if negated or self._token.text not in COMPARISONS:
            self._expect("a comparison")
        compare = COMPARISONS[self._next("symbol")]
        other = self._expression(self._attribute)
        return lambda event: comparable(of(event), other(event)) and compare(of(event), other(event))

    def _constant(self) -> str | float:
        return self._next("text") if self._token.kind == "text" else float(self._next("number"))

    # Expressions: functions of an event, or of a group

    def _expression(self, leaf: Callable[[], Callable]) -> Callable:
        left = self._product(leaf)
        while self._token.text in ("+", "-") and self._token.kind == "symbol":
            left = calculated(left, self._next("symbol"), self._product(leaf))
        return left

    def _product(self, leaf: Callable[[], Callable]) -> Callable:
        left = self._factor(leaf)
        while self._token.text in ("*", "/") and self._token.kind == "symbol":
            left = calculated(left, self._next("symbol"), self._factor(leaf))
        return left

    def _factor(self, leaf: Callable[[], Callable]) -> Callable:
        if self._take("("):
            inner = self._expression(leaf)
            self._need(")")
            return inner
        if self._token.kind in ("number", "text"):
            constant = self._constant()
            return lambda _: constant
        return leaf()

    def _attribute(self) -> RowFunction:
        if self._is("eventtype", "(", ")"):
            self._at += 3
            return lambda event: event["eventType"]
        if self._token.kind == "quoted":
            name = self._next("quoted")
        else:
            name = self._next("word")
            if name.lower() in KEYWORDS or self._is("("):
                self._at -= 1
                self._expect("an attribute")
        self._query.attributes.add(name)
        return lambda event: event.get(name)

    def _aggregate(self) -> Callable[[Group], Value]:
        name = self._token.text.lower()
        if name not in AGGREGATES and name not in OF_AGGREGATES:
            self._expect("an aggregate")
        self._next("word")
        self._query.functions.add(name)
        self._need("(")
        aggregate = self._of_aggregate(name) if name in OF_AGGREGATES else self._of_attribute(name)
        self._need(")")
        return aggregate

    def _of_aggregate(self, name: str) -> Callable[[Group], Value]:
        inner = self._aggregate()
        self._need(",")
        if name == "rate":
            unit_s = self._duration_ms() / 1000
            return lambda group: divided(inner(group), group.seconds / unit_s)

        self._need("where")
        condition = self._condition()

        def filtered(group: Group) -> Value:
            return inner(Group([event for event in group.events if condition(event)], group.seconds))

        if name == "filter":
            return filtered
        return lambda group: divided(filtered(group), divided(inner(group), 100))

    def _of_attribute(self, name: str) -> Callable[[Group], Value]:
        function, num_arguments = AGGREGATES[name]
        if name == "bytecountestimate" or (name == "count" and self._take("*")):
            self._needed.append((lambda _event: True, name in CHOOSE_FACETS))
            return lambda group: function(group.events)

        of = self._expression(self._attribute)
        self._needed.append((of, name in CHOOSE_FACETS))
        arguments = []
        while self._take(","):
            arguments.append(float(self._next("number")))
        if not num_arguments[0] <= len(arguments) <= num_arguments[1]:
            self._refuse(f"{name}() with {len(arguments)} further arguments")

        def aggregate(group: Group) -> Value:
            return function([value for event in group.events if (value := of(event)) is not None], *arguments)

        return aggregate


def comparable(one: Value, other: Value) -> bool:
    """Whether both are numbers, or both text; null is neither."""
    return (is_number(one) and is_number(other)) or (isinstance(one, str) and isinstance(other, str))


def divided(one: Value, other: Value) -> Value:
    """The quotient; null if there is none."""
    return one / other if is_number(one) and is_number(other) and other != 0 else None


def calculated(left: Callable, operator: str, right: Callable) -> Callable:
    """The function of what both functions give; null of anything but numbers."""

    def result(argument: Group | Event) -> Value:
        one, other = left(argument), right(argument)
        return OPERATORS[operator](one, other) if is_number(one) and is_number(other) else None

    return result


OPERATORS = {
    "+": lambda one, other: one + other,
    "-": lambda one, other: one - other,
    "*": lambda one, other: one * other,
    "/": divided,
}
COMPARISONS = {
    "=": lambda one, other: one == other,
    "!=": lambda one, other: one != other,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}


def numbers(values: list[Value]) -> list[float]:
    """Those to calculate with."""
    return [value for value in values if is_number(value)]


def average(values: list[Value]) -> Value:
    """The mean; null of none."""
    return divided(math.fsum(numbers(values)), len(numbers(values)))


def percentile(values: list[Value], *percents: float) -> Value:
    """The 95th percentile, or the given one; a dict of them for several."""
    ordered = sorted(numbers(values))
    percents = percents or (95.0,)
    if not ordered:
        return None
    found = {percent: ordered[max(math.ceil(percent / 100 * len(ordered)) - 1, 0)] for percent in percents}
    return found if len(percents) > 1 else found[percents[0]]


def histogram(values: list[Value], width: float = 10, buckets: float = 40, start: float = 0) -> Value:
    """How many are in each of the buckets from start; the first and the last have what is outside as well."""
    counts = [0] * int(buckets)
    for value in numbers(values):
        bucket = math.floor((value - start) / width * len(counts))
        counts[min(max(bucket, 0), len(counts) - 1)] += 1
    return counts


NO_MORE = (0, 0)
AGGREGATES: dict[str, tuple[Callable[..., Value], tuple[int, int]]] = {
    "count": (len, NO_MORE),
    "sum": (lambda values: math.fsum(numbers(values)), NO_MORE),
    "average": (average, NO_MORE),
    "min": (lambda values: min(numbers(values), default=None), NO_MORE),
    "max": (lambda values: max(numbers(values), default=None), NO_MORE),
    "latest": (lambda values: values[-1] if values else None, NO_MORE),
    "uniquecount": (lambda values: len(set(values)), NO_MORE),
    "uniques": (lambda values: sorted(set(values), key=sortable), NO_MORE),
    "percentile": (percentile, (0, 10)),
    "histogram": (histogram, (0, 3)),
    "bytecountestimate": (lambda events: sum(len(json.dumps(event)) for event in events), NO_MORE),
}
"""Aggregates of an attribute's values, in the order of time, and how few and many arguments follow the attribute."""
OF_AGGREGATES = frozenset(["filter", "percentage", "rate"])
