"""What the benchmarks' figures rest on: their servers, their tables, and percentiles from buckets."""

import gzip
import json
import sys
from pathlib import Path

import pytest
import requests

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from accuracy import of_histogram
from results import Budget, Table, spread
from servers import Sink, Target


def test_target_answers_each_request_on_a_connection():
    """The target answers 500 to what asks for it, 200 to all else, on a connection that stays."""
    with Target() as target, requests.Session() as session:
        statuses = [session.get(f"{target.url}{path}").status_code for path in ("/", "/500", "/items")]
        assert statuses == [200, 500, 200]
        assert target.cpu_s >= 0


def test_sink_counts_what_arrives():
    """The sink counts POSTs, events, and bytes as they were before they were compressed."""
    events = [{"eventType": "A", "number": 1}, {"eventType": "B", "number": 2}]
    body = json.dumps(events).encode()
    with Sink() as sink:
        answer = requests.post(f"{sink.events_url}/v1/accounts/events", gzip.compress(body), verify=sink.certificate)
        assert answer.status_code == 200
        assert sink.counts() == {"posts": 1, "events": 2, "event_bytes": len(body), "exports": 0, "export_bytes": 0}


@pytest.mark.parametrize(
    ("value", "at_least", "verdict"),
    [(0.3, False, "kept"), (0.31, False, "missed"), (0.3, True, "kept"), (0.29, True, "missed")],
)
def test_budget_is_kept_up_to_its_limit(value, at_least, verdict):
    """A budget is kept at its limit, and missed beyond it, in the direction that it has."""
    assert Budget("it", value, 0.3, 0.2, at_least=at_least).verdict == verdict


def test_spread_has_median_least_and_most():
    """A spread is the median with least and most; a figure alone has none."""
    assert spread([3, 1, 2], 1) == "2.0 (1.0 to 3.0)"
    assert spread([1234.5], 0) == "1,234"


def test_table_survives_json():
    """What a benchmark hands over as JSON is the same table again, budgets included."""
    table = Table("It", ["", "ns"], [["a", "1"]], ["A note."], [Budget("it", 1.0, 2.0, 0.5)])
    table.failed("b", "It is not installed.")
    again = Table.from_plain(json.loads(json.dumps(table.plain())))
    assert again == table
    assert "| b   | not measured |" in again.text()
    assert "Not measured: b. It is not installed." in again.text()


def test_percentiles_are_interpolated_within_their_bucket():
    """Of 100 values, 90 up to 10 and 10 beyond: each percentile is in its bucket, at its rank's place."""
    histogram = {"unit": "ms", "bounds": [10.0], "counts": [90, 10], "min": 0.0, "max": 20.0}
    assert of_histogram(histogram) == pytest.approx([50 / 9, 15.0, 19.0, 19.9])
    assert of_histogram(histogram | {"unit": "s"}) == pytest.approx([50_000 / 9, 15_000, 19_000, 19_900])
