"""What a window tells besides numbers is bounded, and the same in whatever order and parts it comes together."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locust_newrelic.details import (
    FAILURES_AT_ONCE,
    MOST_ERRORS,
    MOST_EXCEPTIONS,
    MOST_FAILURES,
    MOST_RECORDED,
    MOST_SAMPLES,
    OTHER_TEXT,
    Details,
    Failure,
    Recorded,
    Records,
    Sample,
    Samples,
    Tally,
    UserException,
)
from locust_newrelic.window import OTHER, Key

PLACES = [Key("GET", name) for name in "abc"]

failures = st.builds(Failure, st.sampled_from(PLACES), st.sampled_from(["", "ValueError"]), st.sampled_from("xyz"))
exceptions = st.builds(UserException, st.sampled_from("UV"), st.just("E"), st.sampled_from("xyz"), st.just("at"))
numbers = st.integers(1, 10**9)
lots = st.floats(0, 1, exclude_max=True)


def sample(lot, name="a", timestamp_ms=None):
    """A request with that lot."""
    return Sample(lot, Key("GET", name), timestamp_ms, 1.5, 10, 200, None, None, {})


def samples_of(lots, most):
    """The sample of requests with those lots."""
    samples = Samples(most)
    for lot in lots:
        samples.add(sample(lot))
    return samples


def same_key(key):
    """Requests are counted under the key that they have."""
    return key


def kept(samples):
    """The lots that it keeps, in order."""
    return sorted(one.lot for one in samples)


def recorded(number, timestamp_ms=0):
    """An event of a user's own."""
    return Recorded("Order", timestamp_ms, {"number": number})


# -- failures and exceptions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("things", [failures, exceptions], ids=["failures", "exceptions"])
@given(st.data(), st.integers(0, 4))
def test_a_tally(things, data, most):
    """The first different things are counted by themselves, all others together; the sum is that of all."""
    came = data.draw(st.lists(st.tuples(things, numbers), max_size=30))
    tally, expected, own = Tally(most), Counter(), set()
    for what, number in came:
        tally.add(what, number)
        if what in own or len(expected) < most:
            own.add(what)
            expected[what] += number
        else:
            expected[what.other] += number

    assert tally == expected
    assert sum(tally.values()) == sum(number for _, number in came)
    assert len(tally) <= most + len({what.other for what, _ in came})


def test_what_there_are_too_many_of():
    """A further failure is one of its endpoint's others, a further exception one of all others."""
    failure = Failure(PLACES[0], "ValueError", "no")
    assert failure.other == Failure(PLACES[0], OTHER_TEXT, OTHER_TEXT)
    assert failure.other.other == failure.other
    assert UserException("Shopper", "ValueError", "no", "at").other == UserException("", OTHER_TEXT, OTHER_TEXT, "")


def test_bounds_of_a_window():
    """A window has 200 failures and 50 exceptions by themselves, 1,000 samples, 1,000 events, and counts them all."""
    details = Details()
    for number in range(3_000):
        details.failures.add(Failure(PLACES[number % 3], "", str(number)))
        details.exceptions.add(UserException("U", "E", str(number), ""))
        details.samples.add(sample(number / 3_000))
        details.records.add(recorded(number))

    assert (MOST_ERRORS, MOST_FAILURES, MOST_EXCEPTIONS, MOST_SAMPLES, MOST_RECORDED) == (200, 1_000, 50, 1_000, 1_000)
    assert (len(details.failures), sum(details.failures.values())) == (200 + 3, 3_000)
    assert (len(details.exceptions), sum(details.exceptions.values())) == (50 + 1, 3_000)
    assert (len(details.samples), len(details.records.events), details.records.num_refused) == (1_000, 1_000, 2_000)


def merge(whole, part, *how):
    """Add what a part has, all at once."""
    for _ in whole.merge(part, *how):
        pass


# -- samples -------------------------------------------------------------------------------------------------------


def merged_somehow(parts, most, chance):
    """The parts merged in some order and grouping."""
    heaps = [samples_of(part, most) for part in parts] or [Samples(most)]
    while len(heaps) > 1:
        chance.shuffle(heaps)
        other = heaps.pop()
        merge(heaps[-1], other, same_key)
    return heaps[0]


@given(st.sets(lots, max_size=40), st.integers(1, 12), st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_smallest_lots(drawn, most, number_of_parts, chance):
    """Whatever the order and grouping of merges, the sample is that of the smallest lots, and the bound the next."""
    came = sorted(drawn)
    chance.shuffle(came)
    samples = merged_somehow([came[part::number_of_parts] for part in range(number_of_parts)], most, chance)

    assert kept(samples) == sorted(drawn)[:most]
    assert samples.bound == min(sorted(drawn)[most:], default=1.0)
    assert samples == samples_of(sorted(drawn), most)


@given(st.lists(lots, max_size=40), st.integers(1, 12), st.randoms(use_true_random=False))
def test_equal_lots(drawn, most, chance):
    """Where lots are equal, too, the sample has room for no more, the smallest ones stay, none is above the bound."""
    samples = merged_somehow([drawn[:20], drawn[20:]], most, chance)
    below = sorted(lot for lot in drawn if lot < samples.bound)

    assert len(samples) <= most
    assert kept(samples)[: len(below)] == below
    assert all(lot <= samples.bound for lot in kept(samples))


@given(st.sets(lots, min_size=1, max_size=20), st.integers(1, 12))
def test_what_a_sample_has_room_for(drawn, most):
    """It wants what it would take; of what it does not want it knows from then on that there was one."""
    samples, asked = Samples(most), Samples(most)
    for lot in drawn:
        before = kept(samples)
        wanted = samples.has_room_for(lot)
        if wanted:
            samples.add(sample(lot))
        asked.add(sample(lot))
        assert wanted == (kept(samples) != before) == (lot in kept(samples))

    assert samples == asked


@given(st.sets(lots, max_size=20), st.floats(0, 1))
def test_a_lower_bound(drawn, bound):
    """What was left out elsewhere is left out here: lots from there on are gone for good, a higher bound is nothing."""
    samples = samples_of(drawn, 1_000)
    samples.lower(bound)
    samples.lower(1.0)
    for lot in drawn:
        if lot >= bound:
            samples.add(sample(lot))

    assert kept(samples) == sorted(lot for lot in drawn if lot < bound)
    assert samples.bound == bound
    samples.add(sample(bound / 2))
    assert len(samples) == len([lot for lot in drawn if lot < bound]) + (bound / 2 < bound)


@pytest.mark.parametrize("parts", [1, 3])
def test_sampling_is_not_biased(parts):
    """Slow requests are in the sample as often as they are made; by the bound, it tells how many there were."""
    chance, num_requests, most, rounds = random.Random(1), 2_000, 100, 200
    slow, estimates = 0, []
    for _ in range(rounds):
        heaps = [Samples(most) for _ in range(parts)]
        for number in range(num_requests):
            heaps[number % parts if number % 4 else 0].add(sample(chance.random(), "slow" if number % 4 == 0 else "a"))
        for other in heaps[1:]:
            merge(heaps[0], other, same_key)
        slow += sum(one.key.name == "slow" for one in heaps[0])
        estimates.append(len(heaps[0]) / heaps[0].bound)

    assert slow / (rounds * most) == pytest.approx(1 / 4, abs=0.02)  # six standard deviations
    assert sum(estimates) / rounds == pytest.approx(num_requests, rel=0.05)


def test_a_sample_that_has_room():
    """As long as all have room, the sample stands for all that was drawn."""
    samples = samples_of([0.1, 0.2, 0.3], 3)
    assert samples.bound == 1.0
    samples.add(sample(0.25))
    assert (kept(samples), samples.bound) == ([0.1, 0.2, 0.25], 0.3)


# -- events of the user's own --------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10), max_size=6), st.integers(0, 20))
def test_records(sizes, most):
    """The first events are kept in their order, also of several processes; the others are counted."""
    whole = Records(most=most)
    came = []
    for size in sizes:
        part = Records(most=7)
        for number in range(size):
            part.add(recorded(number))
        came += [recorded(number) for number in range(size)][:7]
        merge(whole, part)

    assert whole.events == came[:most]
    assert len(whole.events) + whole.num_refused == sum(sizes)
    assert bool(whole) == bool(sum(sizes))


def test_long_records():
    """What would be too long for all of a window is refused; what is short still has room."""
    records = Records(most_characters=10)
    for text in ("12345", "123456", "12345", "1", ""):
        records.add(Recorded("Order", 0, {"text": text, "number": 10**9}))

    assert [event.attributes["text"] for event in records.events] == ["12345", "12345", ""]
    assert records.num_refused == 2


# -- all of it -----------------------------------------------------------------------------------------------------

details_of = st.fixed_dictionaries(
    {
        "failures": st.lists(st.tuples(failures, numbers), max_size=10),
        "exceptions": st.lists(st.tuples(exceptions, numbers), max_size=10),
        "lots": st.lists(st.tuples(lots, st.none() | st.integers(0, 10**13)), max_size=10, unique_by=lambda it: it[0]),
        "bound": st.just(1.0) | st.floats(0, 1),
        "records": st.lists(st.builds(recorded, st.integers(), st.integers(0, 10**13)), max_size=10),
    }
)


def make_details(of):
    """The details of those things."""
    details = Details()
    for failure, number in of["failures"]:
        details.failures.add(failure, number)
    for exception, number in of["exceptions"]:
        details.exceptions.add(exception, number)
    for lot, timestamp_ms in of["lots"]:
        details.samples.add(sample(lot, timestamp_ms=timestamp_ms))
    details.samples.lower(of["bound"])
    for event in of["records"]:
        details.records.add(event)
    return details


@given(details_of, details_of)
def test_details_merge(here, there):
    """Merged details are those of all things together; what is merged in stays as it was, also when more follows."""
    left, right = make_details(here), make_details(there)
    merge(left, right)
    bound = min(here["bound"], there["bound"])

    for name in ("failures", "exceptions"):
        expected = Counter()
        for what, number in [*here[name], *there[name]]:
            expected[what] += number
        assert getattr(left, name) == expected
    assert kept(left.samples) == sorted(lot for lot, _ in [*here["lots"], *there["lots"]] if lot < bound)
    assert left.samples.bound == bound
    assert left.records.events == [*here["records"], *there["records"]]

    merge(left, make_details(here))
    left.shift(1)
    left.records.add(recorded(1))
    assert right == make_details(there)


@given(details_of)
def test_details_without_failures(of):
    """All else stays what it was."""
    details, rest = make_details(of), make_details(of).without_failures()

    assert not rest.failures
    assert (rest.exceptions, rest.samples, rest.records) == (details.exceptions, details.samples, details.records)


def test_details_merge_in_small_steps():
    """In no step more is added than some failures, or one of what may be thousands."""
    whole, part = Details(), Details()
    for number in range(5 * FAILURES_AT_ONCE):
        part.failures.add(Failure(OTHER, "ValueError", str(number)))
        part.samples.add(sample(number / 100))
        part.records.add(recorded(number))
    sizes = [
        len(whole.failures) + len(whole.samples) + len(whole.records.events)
        for _ in whole.merge(part)
    ]  # fmt: skip

    num_failures = 5 * FAILURES_AT_ONCE
    of_failures = range(FAILURES_AT_ONCE, num_failures + 1, FAILURES_AT_ONCE)
    assert sizes == [*of_failures, *range(num_failures + 1, 3 * num_failures + 1)]


@given(details_of)
def test_details_of_hidden_names(of):
    """Where keys are renamed, failures and samples are counted under the new ones, and none is lost."""
    details = Details()
    merge(details, make_details(of), lambda _: OTHER)

    assert {failure.key for failure in details.failures} | {one.key for one in details.samples} <= {OTHER}
    assert sum(details.failures.values()) == sum(number for _, number in of["failures"])
    assert kept(details.samples) == kept(make_details(of).samples)


@given(details_of, st.integers(-(10**12), 10**12))
def test_a_shift(of, shift_ms):
    """By another clock, what has a moment is so much later; all else is the same."""
    details, before = make_details(of), make_details(of)
    details.shift(shift_ms)

    def moments(some):
        return {one.lot: one.timestamp_ms for one in some.samples}, [one.timestamp_ms for one in some.records.events]

    sampled, events = moments(before)
    shifted = {lot: None if moment is None else moment + shift_ms for lot, moment in sampled.items()}
    assert moments(details) == (shifted, [moment + shift_ms for moment in events])
    details.samples.add(sample(0.0))
    details.shift(-shift_ms)
    before.samples.add(sample(0.0))
    assert details == before


@pytest.mark.parametrize(
    "thing",
    [
        {"failures": [(Failure(PLACES[0], "", "no"), 1)]}, {"exceptions": [(UserException("U", "E", "no", ""), 1)]},
        {"lots": [(0.5, None)]}, {"records": [recorded(1)]},
    ],
)  # fmt: skip
def test_whether_there_are_details(thing):
    """Details are true if they have anything to tell, be it that there was no room for an event."""
    nothing = {"failures": [], "exceptions": [], "lots": [], "bound": 1.0, "records": []}
    refused = make_details(nothing)
    refused.records.num_refused = 1

    assert make_details(nothing | thing)
    assert refused
    assert not make_details(nothing)
