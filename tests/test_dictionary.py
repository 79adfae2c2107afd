"""The data dictionary tells of each attribute that is sent, and of none that is not."""

import re
import time

import pytest
from test_library import Failing, make_environment, master_and_worker, run_on_workers, run_users, written
from test_payload import detailed_window, of_type, payload_of_details

import locust_newrelic
from locust_newrelic.dictionary import ADDITIVE_NAMES, DICTIONARY, EVENT_TYPES, as_markdown
from locust_newrelic.payload import Totals, check_event

SETTINGS = {
    "dimensions": ["tenant"],
    "sample_rate": 1.0,
    "max_series": 30,
    "interval_s": 1,
    "attributes": {"ci": "own"},
}


@pytest.fixture
def events(tmp_path, new_relic, monkeypatch):
    """Events of all types: of a local run in a CI job, of a master with a worker, late ones, a check."""
    for name in ("GITHUB_ACTIONS", "GITHUB_RUN_NUMBER", "GITHUB_SHA", "GITHUB_REF_NAME"):
        monkeypatch.setenv(name, "1")
    environment = make_environment("http://shop/<b>")
    reporter = locust_newrelic.attach(
        environment, license_key=new_relic.license_key, endpoint=new_relic.url, ca_bundle=new_relic.certificate,
        **SETTINGS,
    )  # fmt: skip
    environment.user_classes = [Failing, *environment.user_classes]
    for _ in range(1_001):
        reporter.record("Order")
    environment.events.test_start.add_listener(lambda **_: many_requests(environment))
    run_users(environment, 40)
    reporter.close()
    output = {"output": str(tmp_path / "events")}
    with master_and_worker(lambda it: locust_newrelic.attach(it, **output, **SETTINGS), Failing) as (master, worker):
        locust_newrelic.attach(worker)
        run_on_workers(master)
        locust_newrelic.attach(worker).close()
        locust_newrelic.attach(master).close()
    late = payload_of_details().late_events(detailed_window(), int(time.time() * 1000), 0, Totals())
    told = [*new_relic.events, *written(tmp_path / "events"), *late, check_event(1, app_name="Shop", version="1")]
    return [event for event in told if event["eventType"] != "Order"]


def many_requests(environment):
    """Requests of more endpoints than there may be, one of them failed; of all that may be said of one."""
    for number in range(40):
        environment.events.request.fire(
            request_type="rpc", name=f"<{number}>", response_time=1, response_length=1, context={"tenant": "a"},
            exception=ValueError("no") if number == 0 else None, url="/", start_time=time.time(),
        )  # fmt: skip


def entry_of(event_type, name):
    """The entry of the dictionary that tells of an attribute, None if there is none."""
    if name in ("tenant", "plan"):
        name = "<dimension>"
    for entry in DICTIONARY:
        pattern = re.escape(entry.attribute).replace("<ms>", "[0-9]+")
        pattern = re.sub("<(key|reason)>", ".+", pattern)
        if entry.event_type in ("", event_type) and re.fullmatch(pattern, name):
            return entry
    return None


def test_the_dictionary_is_complete(events):
    """Each attribute of each event is in the dictionary, and each entry of the dictionary is on some event."""
    found = {(event["eventType"], name): entry_of(event["eventType"], name) for event in events for name in event}

    assert [place for place, entry in found.items() if entry is None and place[1] != "eventType"] == []
    assert [entry for entry in DICTIONARY if entry not in found.values()] == []
    assert {event["eventType"] for event in events} == {kind.name for kind in EVENT_TYPES}
    assert [event["ci"] for event in of_type(events, "LocustSummary") if "late" not in event][:1] == ["own"]


def test_the_table():
    """The page has a line for each attribute of each type, and that of one type only its own."""
    lines = as_markdown().splitlines()
    for entry in DICTIONARY:
        assert any(line.startswith(f"| `{entry.attribute}` | {entry.unit} | {entry.meaning} |") for line in lines)
    for kind in EVENT_TYPES:
        page = as_markdown(kind.name)
        told = [entry for entry in DICTIONARY if entry.event_type == kind.name]
        assert len(re.findall(r"^\| `", page, re.MULTILINE)) == len(told)
        assert page.startswith(f"## `{kind.name}`")


def test_what_adds_up():
    """What late events may say is what is to be summed, and of what; of a window no gauge, rate or percentile."""
    summed = {entry.attribute for entry in DICTIONARY if entry.nrql == f"sum({entry.attribute})"}
    assert summed - {"le_<ms>"} <= ADDITIVE_NAMES
    assert {"num_requests", "num_failures", "num_exceptions", "total_response_time"} <= summed
    assert ADDITIVE_NAMES & {"rps", "user_count", "latency_p95", "error_rate", "interval_ms", "cpu_percent"} == set()


@pytest.mark.parametrize("entry", DICTIONARY, ids=lambda entry: f"{entry.event_type}.{entry.attribute}")
def test_queries(entry):
    """What is to be selected for an attribute names only attributes that its events have."""
    words = set(re.findall(r"[a-z]\w*_\w*", entry.nrql))
    known = {re.sub("<.*>", "", other.attribute) for other in DICTIONARY if other.event_type in ("", entry.event_type)}

    assert words <= known
