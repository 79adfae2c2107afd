"""Quantiles against NumPy, counts within limits against plain counting."""

import functools
import math
from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locust_newrelic.histogram import LARGEST_MS, RELATIVE_ERROR, Scale, count, joined, merge, separated

LIMITS_MS = (100, 250, 500, 1000, 2500, 5000, 10000)
SCALE = Scale(LIMITS_MS)
HOUR_MS = 3_600_000.0
FRACTIONS = (0, 0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1)
AT_LIMITS_MS = [time_ms for ms in LIMITS_MS for time_ms in (math.nextafter(ms, 0), float(ms), math.nextafter(ms, 1e9))]

usual_times = st.lists(st.floats(1, HOUR_MS), min_size=1)
times = st.lists(st.floats(0, LARGEST_MS) | st.sampled_from(AT_LIMITS_MS))


def beside(time_ms, way):
    """The next number, on that side."""
    return math.nextafter(time_ms, math.copysign(math.inf, way))


def histogram(response_times):
    """The bins of those response times."""
    return Counter(SCALE.index(float(response_time_ms)) for response_time_ms in response_times)


def quantiles(response_times):
    """Their quantiles by way of the histogram."""
    distribution = SCALE.distribution(histogram(response_times))
    return distribution.quantiles(FRACTIONS, low=min(response_times), high=max(response_times))


def assert_close_to_numpy(response_times):
    """Each quantile is as far from the true one as the module says, at most."""
    assert quantiles(response_times) == pytest.approx(np.quantile(response_times, FRACTIONS), rel=RELATIVE_ERROR + 1e-9)


def shapes():
    """Response times as they are met: in one hump, in two that lie far apart, and with some that take forever."""
    random = np.random.default_rng(1)
    for size in (3, 100, 20_000):
        for typical_ms in (2, 50, 3_000, 600_000):
            yield typical_ms * random.lognormal(0, 0.7, size)
            yield np.where(random.random(size) < 0.93, typical_ms, 40 * typical_ms) * random.lognormal(0, 0.1, size)
            yield typical_ms * (1 + random.pareto(1.1, size))


def test_the_promise():
    """The stated error is within the one percent that users are told."""
    assert RELATIVE_ERROR <= 0.01


@pytest.mark.parametrize("response_times", list(shapes()))
def test_quantiles_of_realistic_times(response_times):
    """From 1 ms to 1 h, whatever the distribution looks like, quantiles are within the error of NumPy's."""
    assert_close_to_numpy(np.clip(response_times, 1, HOUR_MS))


@given(usual_times)
def test_quantiles_of_any_times(response_times):
    """The same goes for a few requests with nothing in common, where quantiles lie in the gaps between them."""
    assert_close_to_numpy(response_times)


@given(times.filter(len))
def test_quantiles_stay_in_order(response_times):
    """However odd the times are, quantiles begin at the smallest, end at the largest, and never fall on the way."""
    found = quantiles(response_times)

    assert (found[0], found[-1]) == (min(response_times), max(response_times))
    assert all(below <= above * (1 + 1e-12) for below, above in pairwise(found))


def test_no_times_no_quantiles():
    """Quantiles of nothing are refused, and nothing is within each limit."""
    nothing = SCALE.distribution({})

    assert len(nothing) == 0
    assert nothing.counts_within() == [0] * len(LIMITS_MS)
    with pytest.raises(ValueError, match="no response times"):
        nothing.quantiles(FRACTIONS, low=0, high=0)


@given(times)
def test_counts_within_limits(response_times):
    """What is counted within a limit is exactly what is at or below it."""
    distribution = SCALE.distribution(histogram(response_times))

    assert len(distribution) == len(response_times)
    assert distribution.counts_within() == [sum(time_ms <= limit for time_ms in response_times) for limit in LIMITS_MS]


@given(st.lists(st.integers(1, 3_600_000), min_size=1, max_size=20, unique=True))
def test_limits_of_any_size(limits_ms):
    """A user's own limits, in any order, are as exact at the limit itself and right beside it."""
    scale = Scale(limits_ms)
    for limit in limits_ms:
        within = []
        for time_ms in (math.nextafter(limit, 0), limit, math.nextafter(limit, math.inf)):
            bins = {scale.index(time_ms): 1}
            counts = dict(zip(scale.limits_ms, scale.distribution(bins).counts_within(), strict=True))
            within.append(counts[limit])
        assert within == [1, 1, 0]


@given(
    st.lists(st.integers(1, 3_600_000), max_size=20, unique=True),
    st.lists(
        st.integers(0, len(SCALE.edges) - 1).flatmap(
            lambda index: st.sampled_from(
                [beside(SCALE.edges[index], -1), SCALE.edges[index], beside(SCALE.edges[index], 1)]
            )
        )
        | st.floats(0, LARGEST_MS)
        | st.floats(0.01, 10_000)
        | st.integers(0, 10**15),
        min_size=1,
    ),
)
def test_many_at_once(limits_ms, response_times):
    """Bins of many times at once are those of each of them, whatever the limits, and at each edge as well."""
    scale = Scale(limits_ms)
    response_times = [min(max(time_ms, 0), LARGEST_MS) for time_ms in response_times]
    indexes = scale.indexes(response_times, min(response_times), max(response_times))

    assert sorted(indexes) == sorted(map(scale.index, response_times))


def test_each_edge():
    """A bin has its upper edge, and not its lower one."""
    for edge_ms in SCALE.edges[2:-1]:
        for time_ms in (beside(edge_ms, -1), edge_ms, beside(edge_ms, 1)):
            (index,) = SCALE.indexes([time_ms], time_ms, time_ms)
            assert SCALE.edges[index - 1] < time_ms <= SCALE.edges[index]


@given(st.data(), st.lists(times, min_size=1, max_size=6))
def test_merging_in_any_order_and_grouping(data, groups):
    """Histograms merged in any order, one by one or in groups, are the histogram of all the times."""

    def together(parts):
        merged = {}
        for part in parts:
            merge(merged, part)
        return merged

    parts = [histogram(group) for group in data.draw(st.permutations(groups))]
    cut = data.draw(st.integers(0, len(parts)))
    expected = histogram(chain(*groups))

    assert together([together(parts[:cut]), together(parts[cut:])]) == expected
    assert functools.reduce(lambda right, left: together([left, right]), parts, {}) == expected


counts = st.dictionaries(st.integers(0, len(SCALE.edges)), st.integers(1, 2**31 - 1))


@given(counts, counts)
def test_joined_histograms_add_up(here, there):
    """Two histograms, each as one integer, are their sum when they are added; none is nothing."""
    assert separated(joined(here)) == here
    assert separated(joined(here) + joined(there)) == Counter(here) + Counter(there)


@given(counts, st.lists(st.integers(0, len(SCALE.edges))))
def test_counting_adds_up(bins, indexes):
    """To count more response times in a histogram is to add theirs; it remains a plain dictionary."""
    expected = dict(Counter(bins) + Counter(indexes))
    count(bins, indexes)

    assert bins == expected
    assert type(bins) is dict


@given(times, times)
def test_merge_leaves_its_argument_alone(here, there):
    """Recording after a merge does not reach the merged-in histogram."""
    left, right = histogram(here), histogram(there)
    merge(left, right)
    left[SCALE.index(1.0)] += 1

    assert right == histogram(there)


@pytest.mark.parametrize(
    "time_ms", [-5e-324, -1.0, -math.inf, math.nan, math.inf, 1e300, math.nextafter(LARGEST_MS, math.inf)]
)
def test_what_is_no_response_time(time_ms):
    """Negative, NaN, infinite or absurdly long: refused."""
    with pytest.raises(ValueError, match="not a response time"):
        SCALE.index(time_ms)


def test_no_time_at_all():
    """0 ms is a measurement, within every limit, and shares its bin with nothing else."""
    assert quantiles([0, 0.0, -0.0]) == [0.0] * len(FRACTIONS)
    assert SCALE.distribution(histogram([0])).counts_within() == [1] * len(LIMITS_MS)
    assert histogram([0, 0.0, -0.0, 5e-324]).keys() == {*histogram([0]), *histogram([5e-324])}
    assert len(histogram([0, 5e-324])) == 2


def test_number_of_bins():
    """However many different times are recorded, a histogram has some 2,000 bins at most."""
    every_size = np.geomspace(1e-6, LARGEST_MS * (1 - 1e-12), 50_000)

    assert len(histogram(every_size)) < 2_100
