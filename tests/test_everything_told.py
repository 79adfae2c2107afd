"""All that a run can tell, of one process and of several: as exact as Locust's own figures, or as the truth itself."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from crew import no_log_of_a_fault
from test_distributed import processes
from test_end_to_end import assert_same

from locust_newrelic.dictionary import why_not_an_attribute

LOCUSTFILE = """
import json, os, random
import locust_newrelic
from locust import FastHttpUser, constant_throughput, events, task
from locust.stats import StatsError

truth = open(f"truth-{os.getpid()}", "a", buffering=1)
locust_newrelic.record("BeforeTheRun", {"pid": os.getpid()})
locust_newrelic.set_attributes(team="blue", nothing=None)

@events.init.add_listener
def remove(**_):
    locust_newrelic.set_attributes(c=None)

@events.request.add_listener
def write_truth(request_type, name, response_time, response, exception, context, **_):
    error = StatsError.parse_error(exception) if exception else None
    status = getattr(response, "status_code", None) or 0
    truth.write(json.dumps([request_type, name, response_time, status, error, context.get("tenant")]) + "\\n")

@locust_newrelic.before_send
def see(event):
    if event["eventType"] == "Dropped":
        return None
    if event["eventType"] == "Broken":
        event.clear()
        raise RuntimeError("key=secret")
    event["seen"] = True
    return event

class Shop(FastHttpUser):
    wait_time = constant_throughput(15)

    @task(6)
    def item(self):
        self.client.get("/items/17?token=secret", name="/items/[id]", context={"tenant": random.choice("ab"), "n": [1]})

    @task(2)
    def slow(self):
        self.client.get("/slow")

    @task(2)
    def flaky(self):
        self.client.get("/flaky", context={"tenant": "a"})

    @task(1)
    def missing(self):
        with self.client.get("/missing", catch_response=True) as response:
            response.failure(f"no page for {random.choice(('you', 'me'))}")

    @task(1)
    def faulty(self):
        locust_newrelic.record("Bought", {"price": 9.5, "is_new": True, "items": [1, 2], "since": None})
        locust_newrelic.record("Dropped")
        locust_newrelic.record("Broken", {"why": "before_send"})
        truth.write(json.dumps(["fault", None, None, None, None, None]) + "\\n")
        raise ValueError("faulty " + "x" * 5_000)
"""


def truth_of(folder):
    """What all processes have written: the requests, and how many faults there were."""
    lines = [json.loads(line) for path in folder.glob("truth-*") for line in path.read_text().splitlines()]
    return [line for line in lines if line[0] != "fault"], sum(line[0] == "fault" for line in lines)


def total(events, name):
    """The sum of an attribute."""
    return sum(event[name] for event in events)


@pytest.mark.parametrize("workers", [0, 2])
def test_everything(new_relic, locusts, target, workers):
    """All counts equal Locust's and the truth; percentiles are within 1 %, samples within what chance allows."""
    options, environment = processes(new_relic, workers) if workers else ([], new_relic.environment())
    environment |= {"GITLAB_CI": "true", "CI_COMMIT_SHA": "0123abcd", "CI_COMMIT_REF_NAME": "main"}
    told = ("--newrelic-dimension", "tenant", "--newrelic-sample-rate", "0.5", "--newrelic-buckets", "2,60,100,5000")
    load = (
        "-u",
        "8",
        "-r",
        "4",
        "-t",
        "11",
        "-H",
        target,
        "--newrelic-interval",
        "2",
        "--newrelic-attribute",
        "a=b",
        "--newrelic-attribute",
        "c=d",
    )
    run = locusts.run(LOCUSTFILE, *options, *told, *load, environment=environment)
    requests, num_faults = truth_of(locusts.folder)
    endpoints, summaries = new_relic.of_type("LocustRequestStatistics"), new_relic.of_type("LocustSummary")
    (stop,) = new_relic.of_type("LocustTestRun", phase="stop")

    assert_same(endpoints, run.stats())
    assert len(requests) > 500
    for event_type in ("LocustSummary", "LocustRequestStatistics", "LocustStatusCode"):
        assert total(new_relic.of_type(event_type), "num_requests") == len(requests), event_type
    num_failures = sum(error is not None for *_, error, _ in requests)
    for event_type in ("LocustSummary", "LocustRequestStatistics", "LocustStatusCode", "LocustFailure"):
        assert total(new_relic.of_type(event_type), "num_failures") == num_failures, event_type
    assert (stop["num_requests"], stop["num_failures"], stop["num_exceptions"]) == (
        len(requests), num_failures, num_faults,
    )  # fmt: skip
    assert_percentiles(stop, requests)
    assert_limits([stop, *summaries], requests)
    assert_groups(new_relic, requests)
    assert_samples(new_relic.of_type("LocustRequest"), requests)
    assert_exceptions(new_relic.of_type("LocustException"), num_faults)
    assert_own_events(new_relic, num_faults)
    assert stop["events_dropped"] == num_faults
    assert 0 < stop["ramp_up_ms"] < stop["duration_ms"]
    assert (stop["worst_p95_name"], stop["worst_failures_name"]) == ("/slow", "/missing")
    assert stop["worst_failures"] == sum(name == "/missing" for _, name, *_ in requests)
    for event in new_relic.events:
        assert (event.get("team"), event.get("c")) == ("blue", None)
        assert (event["a"], event["ci"], event["ci_commit"], event["ci_branch"]) == ("b", "GitLab", "0123abcd", "main")
        assert event.get("seen") == (None if event["eventType"] == "Broken" else "true")
    assert f"{stop['run_id']}: {len(new_relic.events)} events, {num_faults} more dropped" in run.log
    assert run.log.count("before_send: see failed with RuntimeError") == 1
    assert "secret" not in json.dumps(new_relic.events) + run.log
    assert no_log_of_a_fault(run.log.replace("/locust_newrelic/hooks.py", ""))


def assert_percentiles(stop, requests):
    times = [time_ms for _, _, time_ms, *_ in requests]
    for name, share in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99), ("p999", 99.9)):
        assert stop[f"latency_{name}"] == pytest.approx(np.percentile(times, share), rel=0.01), name
    assert stop["latency_avg"] == pytest.approx(math.fsum(times) / len(times), abs=0.001)


def assert_limits(events, requests):
    stop, *summaries = events
    for limit in (2, 60, 100, 5000):
        within = sum(time_ms <= limit for _, _, time_ms, *_ in requests)
        assert stop[f"le_{limit}"] == total(summaries, f"le_{limit}") == within


def assert_groups(new_relic, requests):
    """Endpoints by tenant, status codes and errors have the counts that they really had."""
    by_tenant, by_status, by_error = Counter(), Counter(), Counter()
    for event in new_relic.of_type("LocustRequestStatistics"):
        by_tenant[event["name"], event.get("tenant")] += event["num_requests"]
    for event in new_relic.of_type("LocustStatusCode"):
        by_status[event["name"], event["status_code"]] += event["num_requests"]
    for event in new_relic.of_type("LocustFailure"):
        by_error[event["name"], event["error"]] += event["num_failures"]
    assert by_tenant == Counter((name, tenant) for _, name, *_, tenant in requests)
    assert by_status == Counter((name, status) for _, name, _, status, _, _ in requests)
    assert by_error == Counter((name, error) for _, name, _, _, error, _ in requests if error)
    assert len(by_error) >= 3
    assert {event["error_type"] for event in new_relic.of_type("LocustFailure", name="/missing")} == {
        "CatchResponseError"
    }


def assert_samples(samples, requests):
    """Five standard deviations are allowed."""
    assert {sample["sample_rate"] for sample in samples} == {0.5}
    assert abs(len(samples) - len(requests) / 2) < 5 * math.sqrt(len(requests) / 4)
    times, ranked = sorted(sample["response_time"] for sample in samples), sorted(time for _, _, time, *_ in requests)
    for share in (0.5, 0.9):
        found, spread = np.quantile(times, share), 5 * math.sqrt(share * (1 - share) / len(times))
        low, high = np.quantile(ranked, [max(share - spread, 0), min(share + spread, 1)])
        assert low - 0.001 <= found <= high + 0.001
    item = next(sample for sample in samples if sample["name"] == "/items/[id]")
    assert item["url"].endswith("/items/17")
    assert (item["context.tenant"], item["context.n"], item["status_code"]) == (item["tenant"], "[1]", 200)
    missing = next(sample for sample in samples if sample["name"] == "/missing")
    assert (missing["error_type"], missing["status_code"]) == ("CatchResponseError", 404)


def assert_exceptions(exceptions, num_faults):
    assert total(exceptions, "num_exceptions") == num_faults > 0
    for exception in exceptions:
        assert (exception["user_class"], exception["error_type"]) == ("Shop", "ValueError")
        assert exception["error"].startswith("faulty xxx")
        assert exception["traceback"].rstrip().endswith('raise ValueError("faulty " + "x" * 5_000)')


def assert_own_events(new_relic, num_faults):
    bought = new_relic.of_type("Bought")
    assert len(bought) == len(new_relic.of_type("Broken")) == num_faults
    assert new_relic.of_type("Dropped") == []
    assert {(event["price"], event["is_new"], event["items"], "since_" in event) for event in bought} == {
        (9.5, "true", "[1, 2]", False)
    }
    assert {event["why"] for event in new_relic.of_type("Broken")} == {"before_send"}
    assert len(new_relic.of_type("BeforeTheRun")) == 1  # Locust forks its workers after the import
    own = {name for event in bought for name in event}
    assert {name for name in ("price", "is_new", "items") if why_not_an_attribute(name)} == set()
    assert {"run_id", "seq", "stats_epoch", "timestamp"} <= own


FUNCTIONS = {
    "never returns": """
    while True:
        try:
            gevent.sleep(0.01)
        except BaseException:
            pass
""",
    "exits": "    sys.exit(7)",
    "is killed": "    raise gevent.GreenletExit",
    "spins": """
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        pass
    return event
""",
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_that_goes_wrong(locusts, target, function):
    """Whatever a user's function does, the test goes on, ends in time and with Locust's own code, and is reported."""
    locustfile = f"""
import sys, time, gevent, locust_newrelic
from locust import HttpUser, constant, task

@locust_newrelic.before_send
def goes_wrong(event):
    if event.get("phase") == "start":
        return event
{FUNCTIONS[function]}

class Visitor(HttpUser):
    wait_time = constant(0.1)

    @task
    def index(self):
        self.client.get("/")
        if self.environment.stats.total.num_requests == 30:
            self.environment.runner.quit()
"""
    options = ("-H", target, "--newrelic-output", "events", "--newrelic-flush-timeout", "2")
    run = locusts.run(locustfile, *options, "--newrelic-interval", "1")
    events = [json.loads(line) for line in (locusts.folder / "events").read_text().splitlines()]

    assert run.process.returncode == 0
    assert run.log.count("before_send: goes_wrong") == (function != "never returns")
    assert [event["phase"] for event in events if event.get("phase") in ("start", "stop")] == ["start", "stop"]
    told = total([event for event in events if event["eventType"] == "LocustSummary"], "num_requests")
    if function == "never returns":
        assert "does not return" in run.log
    else:
        assert told == total(run.stats().values(), "num_requests") > 0
