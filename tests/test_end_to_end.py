"""Real Locust processes load a real server; what arrives at New Relic equals Locust's own figures."""

import json
import signal
from collections import Counter

import pytest
from locusts import sums

SIMPLE = """
import locust_newrelic
from locust import FastHttpUser, constant_throughput, task

class Visitor(FastHttpUser):
    wait_time = constant_throughput(50)

    @task
    def index(self):
        self.client.get("/")
"""

EVERYTHING = """
import locust_newrelic
import gevent
from locust import FastHttpUser, HttpUser, User, constant_throughput, events, task

class Steps:
    wait_time = constant_throughput(10)

    @task(5)
    def index(self):
        self.client.get("/")

    @task(3)
    def items(self):
        for item in range(3):
            self.client.get(f"/items/{item}", name="/items/[id]")

    @task
    def missing(self):
        self.client.get("/missing")

    @task
    def broken(self):
        self.client.post("/broken", json={})

    @task
    def judged(self):
        with self.client.get("/missing", name="expected 404", catch_response=True) as response:
            response.success()
        with self.client.get("/", name="unwanted 200", catch_response=True) as response:
            response.failure("not what we wanted")

    @task
    def nobody_listens(self):
        self.client.get("http://127.0.0.1:9/", name="no connection")

    @task
    def raising(self):
        self.client.get("/", name="before the exception")
        raise ValueError("a fault in the locustfile")

class Slow(HttpUser):
    wait_time = Steps.wait_time
    index, items, missing, broken = Steps.index, Steps.items, Steps.missing, Steps.broken
    judged, nobody_listens, raising = Steps.judged, Steps.nobody_listens, Steps.raising

class Fast(FastHttpUser):
    wait_time = Steps.wait_time
    index, items, missing, broken = Steps.index, Steps.items, Steps.missing, Steps.broken
    judged, nobody_listens, raising = Steps.judged, Steps.nobody_listens, Steps.raising

class Custom(User):
    wait_time = Steps.wait_time

    @task
    def call(self):
        fire = self.environment.events.request.fire
        fire(request_type="rpc", name="int", response_time=7, response_length=3, exception=None, context={})
        fire(request_type="rpc", name="none", response_time=None, response_length=0, exception="no answer")
        fire(request_type="rpc", name="zero", response_time=0, response_length=0)
        with self.environment.events.request.measure("rpc", "measured"):
            gevent.sleep(0.001)
"""


def assert_same(received, stats):
    """The sums of the endpoint events are Locust's own figures, for every endpoint and none besides.

    Of their sum, each event tells six digits behind the point.
    """
    events, received = Counter((event["method"], event["name"]) for event in received), sums(received)
    assert received.keys() == stats.keys()
    for key, entry in stats.items():
        for name in ("num_requests", "num_failures", "total_content_length"):
            assert received[key][name] == entry[name], (key, name)
        rounded = pytest.approx(entry["total_response_time"], rel=1e-9, abs=5e-7 * events[key])
        assert received[key]["total_response_time"] == rounded


def assert_consistent(new_relic):
    """Summary, endpoint and status events of each run and epoch tell the same; nothing is missing or doubled."""
    for run_id in {event["run_id"] for event in new_relic.events}:
        seqs = [event["seq"] for event in new_relic.events if event["run_id"] == run_id]
        assert sorted(seqs) == list(range(1, len(seqs) + 1))
        (stop,) = new_relic.of_type("LocustTestRun", run_id=run_id, phase="stop")
        for name in ("num_requests", "num_failures"):
            of_types = {
                event_type: sum(event[name] for event in new_relic.of_type(event_type, run_id=run_id))
                for event_type in ("LocustSummary", "LocustRequestStatistics", "LocustStatusCode")
            }
            assert set(of_types.values()) == {stop[name]}, name
        assert stop["events_lost"] == 0


def last_epoch(new_relic):
    """The endpoint events since Locust's last reset."""
    events = new_relic.of_type("LocustRequestStatistics")
    epoch = max(event["stats_epoch"] for event in new_relic.events)
    return [event for event in events if event["stats_epoch"] == epoch]


def test_every_kind_of_user_and_outcome(new_relic, locusts, target):
    """Counts, failures, times and bytes of each endpoint are Locust's own, whatever the users do."""
    run = locusts.run(
        EVERYTHING, "--newrelic-interval", "2", "-H", target, "-u", "9", "-r", "9", "-t", "6",
        "--newrelic-attribute", "build=17", environment=new_relic.environment(),
    )  # fmt: skip

    assert run.process.returncode == 1, run.log
    assert_same(new_relic.of_type("LocustRequestStatistics"), run.stats())
    assert_consistent(new_relic)
    codes = {
        (event["name"], event["status_code"], event["status_class"])
        for event in new_relic.of_type("LocustStatusCode", method="GET")
    }
    assert codes == {
        ("/", 200, "2xx"),
        ("/items/[id]", 200, "2xx"),
        ("/missing", 404, "4xx"),
        ("expected 404", 404, "4xx"),
        ("unwanted 200", 200, "2xx"),
        ("no connection", 0, "none"),
        ("before the exception", 200, "2xx"),
    }
    assert all(event["build"] == "17" and event["test_name"] == "locustfile.py" for event in new_relic.events)
    windows = new_relic.of_type("LocustSummary")
    (stop,) = new_relic.of_type("LocustTestRun", phase="stop")
    assert len(windows) >= max(stop["duration_ms"] // 2000, 1)  # Locust's run time is shorter if its start took long
    assert all(event["timestamp"] % 2000 == 0 for event in windows)


def test_a_run_tells_its_phases(new_relic, locusts, target):
    """Start, spawning complete and stop arrive, in this order, and the stop stands on its own."""
    locusts.run(
        SIMPLE, "--newrelic-interval", "1", "-H", target.replace("//", "//user:secret@"), "-u", "3", "-r", "3",
        "-t", "6", "--newrelic-run-id", "nightly", environment=new_relic.environment(),
    )  # fmt: skip

    phases = new_relic.of_type("LocustTestRun", run_id="nightly")
    assert [event["phase"] for event in phases] == ["start", "spawning_complete", "stop"]
    start, spawned, stop = phases
    assert (start["target_host"], start["user_classes"]) == (target, "Visitor")
    assert (spawned["user_count"], stop["peak_user_count"]) == (3, 3)
    assert 0 < stop["duration_ms"] < 20_000
    assert 0 < stop["latency_min"] <= stop["latency_p50"] <= stop["latency_p999"] <= stop["latency_max"]
    assert stop["le_10000"] == stop["num_requests"]
    assert "secret" not in json.dumps(new_relic.events)


def test_a_run_shorter_than_a_window(new_relic, locusts, target):
    """A run of one second, with windows of five minutes, is whole."""
    run = locusts.run(
        SIMPLE, "--newrelic-interval", "300", "-H", target, "-t", "1", environment=new_relic.environment()
    )

    assert run.process.returncode == 0, run.log
    assert_same(new_relic.of_type("LocustRequestStatistics"), run.stats())
    assert_consistent(new_relic)


AFTER_SOME_REQUESTS = """
import gevent
from locust import events

@events.test_start.add_listener
def end_soon(environment, **_):
    def end():
        while environment.runner.state != "running" or environment.stats.total.num_requests < 5:
            gevent.sleep(0.05)
        environment.runner.quit()

    gevent.spawn(end)
"""
"""A locustfile's end: the run is over once its users are there and have made some requests."""


def test_reset_stats(new_relic, locusts, target):
    """With --reset-stats, Locust's figures are those of the last epoch, and the run is the sum of all epochs."""
    run = locusts.run(
        SIMPLE + AFTER_SOME_REQUESTS, "--newrelic-interval", "1", "--reset-stats", "-H", target, "-u", "5", "-r", "2",
        environment=new_relic.environment(),
    )  # fmt: skip

    assert_same(last_epoch(new_relic), run.stats())
    assert_consistent(new_relic)
    assert {event["stats_epoch"] for event in new_relic.of_type("LocustRequestStatistics")} == {0, 1}


SHAPE = """
from locust import LoadTestShape

class Stairs(LoadTestShape):
    def tick(self):
        step = int(self.get_run_time() / 1.5)
        return (2 * step + 2, 2) if step < 3 else None
"""


def test_a_custom_shape(new_relic, locusts, target):
    """A shape that changes the users again and again, with a reset each time, is counted exactly."""
    run = locusts.run(
        SIMPLE + SHAPE, "--newrelic-interval", "1", "--reset-stats", "-H", target, environment=new_relic.environment()
    )

    assert_same(last_epoch(new_relic), run.stats())
    assert_consistent(new_relic)
    assert len(new_relic.of_type("LocustTestRun", phase="spawning_complete")) >= 2


RESET_BY_HAND = """
import gevent
from locust import events

def wait_for_requests(environment):
    while environment.stats.total.num_requests < 20:
        gevent.sleep(0.01)

def reset(environment):
    wait_for_requests(environment)
    environment.stats.METHOD()
    wait_for_requests(environment)
    environment.runner.quit()

@events.test_start.add_listener
def reset_in_the_middle(environment, **_):
    gevent.spawn(reset, environment)
"""


@pytest.mark.parametrize("method", ["reset_all", "clear_all"])
def test_a_reset_by_the_locustfile(new_relic, locusts, target, method):
    """A locustfile that calls reset_all() or clear_all() itself raises the epoch as well."""
    locustfile = SIMPLE + RESET_BY_HAND.replace("METHOD", method)
    run = locusts.run(locustfile, "-H", target, environment=new_relic.environment())

    assert {event["stats_epoch"] for event in new_relic.of_type("LocustRequestStatistics")} == {0, 1}
    assert_same(last_epoch(new_relic), run.stats())
    assert_consistent(new_relic)


FORKS = """
import multiprocessing
import os
import time

from locust import events

def help_with_the_test(parent):
    while os.getppid() == parent:
        time.sleep(0.1)

@events.test_start.add_listener
def start_a_helper(**_):
    context = multiprocessing.get_context("fork")
    context.Process(target=help_with_the_test, args=[os.getpid()], daemon=True).start()
"""


def test_a_forked_helper_reports_nothing(new_relic, locusts, target):
    """A process that a locustfile forks has all of Locust's greenlets; only the one that it was forked from reports."""
    run = locusts.run(SIMPLE + FORKS, "-H", target, "-t", "4", "--newrelic-interval", "1",
                      environment=new_relic.environment())  # fmt: skip

    assert_same(new_relic.of_type("LocustRequestStatistics"), run.stats())
    assert_consistent(new_relic)
    assert run.process.returncode == 0, run.log
    numbers = sorted(event["seq"] for event in new_relic.events)
    assert numbers == list(range(1, len(numbers) + 1))
    assert not list(locusts.folder.glob("*.spool.ndjson"))


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM]])
def test_the_last_window_survives_signals(new_relic, locusts, target, signals):
    """Stopped by Ctrl-C or SIGTERM, Locust exits as always, and the last window and the stop event are delivered."""
    run = locusts.start(
        SIMPLE, "--headless", "--newrelic-interval", "300", "-H", target, environment=new_relic.environment()
    )
    new_relic.wait_for(lambda server: server.of_type("LocustTestRun", phase="spawning_complete"), "the users")
    for number in signals:
        run.signal(number)
    run.wait()

    assert run.process.returncode == 0, run.log
    assert_same(new_relic.of_type("LocustRequestStatistics"), run.stats())
    assert_consistent(new_relic)
    assert "/locust_newrelic/" not in run.log  # in a traceback; gevent has some of its own at a double SIGTERM


def test_a_second_interrupt_during_the_flush(new_relic, locusts, target):
    """A second Ctrl-C, while the last events are on their way, ends Locust at once, with Locust's own exit code."""
    run = locusts.start(SIMPLE, "--headless", "-H", target, "--newrelic-flush-timeout", "60",
                        environment=new_relic.environment())  # fmt: skip
    new_relic.wait_for(lambda server: server.of_type("LocustTestRun", phase="spawning_complete"), "the users")
    new_relic.answers.clear()
    new_relic.always = type(new_relic).hanging()
    run.signal(signal.SIGINT)
    run.wait_for_log("Shutting down")
    new_relic.wait_for(lambda server: server.posts[-1]["hung"], "the last events")
    run.signal(signal.SIGINT)

    assert run.wait(20) == 0, run.log
    assert "interrupted" in run.log
    assert "not delivered in time" in run.log


EXITS = {
    "nothing wrong": ("", "/", [], 0),
    "failures": ("", "/missing", [], 1),
    "failures that are fine": ("", "/missing", ["--exit-code-on-error", "0"], 0),
    "set by the locustfile": (
        (
            "from locust import events\n@events.quitting.add_listener\n"
            "def decide(environment, **_): environment.process_exit_code = 7\n"
        ),
        "/",
        [],
        7,
    ),
    "a listener that raises": (
        "from locust import events\n@events.request.add_listener\ndef broken(**_): raise ValueError('theirs')\n",
        "/",
        [],
        2,
    ),
}


@pytest.mark.parametrize("case", EXITS)
def test_the_exit_code_is_locusts(new_relic, locusts, target, case):
    """Locust's exit code is the same with New Relic, with a New Relic that answers 500, and without the package."""
    more, path, options, code = EXITS[case]
    locustfile = SIMPLE.replace('"/"', f'"{path}"') + more + AFTER_SOME_REQUESTS
    options = [*options, "-H", target]

    assert locusts.run(locustfile.replace("import locust_newrelic", ""), *options).process.returncode == code
    assert locusts.run(locustfile, *options, environment=new_relic.environment()).process.returncode == code
    new_relic.always = type(new_relic).answering(500)
    failing = locusts.run(locustfile, *options, "--newrelic-flush-timeout", "1", environment=new_relic.environment())
    assert failing.process.returncode == code, failing.log


def test_the_output_file(new_relic, locusts, target, tmp_path):
    """--newrelic-output holds the very events that New Relic got."""
    output = tmp_path / "events.ndjson"
    locusts.run(SIMPLE, "-H", target, "-t", "2", "--newrelic-output", str(output), environment=new_relic.environment())

    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert written == new_relic.events
    assert output.stat().st_mode & 0o777 == 0o600


def test_the_output_file_alone(locusts, target, tmp_path):
    """Without a license key the output file works all the same, and nothing is sent."""
    output = tmp_path / "events.ndjson"
    run = locusts.run(SIMPLE, "-H", target, "-t", "2", "--newrelic-output", str(output))

    events = [json.loads(line) for line in output.read_text().splitlines()]
    assert_same([event for event in events if event["eventType"] == "LocustRequestStatistics"], run.stats())
    assert "reporting to" not in run.log


COUNT_LISTENERS = """
@events.test_start.add_listener
def count_listeners(environment, **_):
    print("listeners", len(environment.events.request._handlers))
"""


@pytest.mark.parametrize("options", [[], ["--newrelic-disabled"]])
def test_off(locusts, target, options):
    """Without a key reporting is off: one line says so and how to turn it on, and no request listener is there."""
    run = locusts.run(
        SIMPLE + "from locust import events" + COUNT_LISTENERS, *options, "-H", target, "-t", "1",
        environment={"NEW_RELIC_LICENSE_KEY": "0" * 40} if options else {"NEW_RELIC_LICENSE_KEY": ""},
    )  # fmt: skip

    lines = [line for line in run.log.splitlines() if "New Relic" in line]
    assert len(lines) == 1
    assert "reporting is off" in lines[0]
    assert ("--newrelic-disabled" if options else "NEW_RELIC_LICENSE_KEY") in lines[0]
    assert "listeners 1\n" in run.output


def test_a_name_for_each_request(new_relic, locusts, target):
    """Names beyond --newrelic-max-series share one series, with a warning; all requests are counted."""
    locustfile = SIMPLE.replace('"/"', '"/", name=str(next(self.numbers))').replace(
        "    @task", "    numbers = __import__('itertools').count()\n\n    @task"
    )
    run = locusts.run(
        locustfile, "-H", target, "-t", "3", "--newrelic-interval", "1", "--newrelic-max-series", "10",
        environment=new_relic.environment(),
    )  # fmt: skip

    received = sums(new_relic.of_type("LocustRequestStatistics"))
    assert len(received) == 11
    total = sum(entry["num_requests"] for entry in run.stats().values())
    assert received["", "(other)"]["num_requests"] == total - 10
    assert_consistent(new_relic)
    assert "--newrelic-max-series" in run.log


def test_the_key_is_nowhere(new_relic, locusts, target, tmp_path):
    """At debug level, with New Relic failing in every way: the key is in no log line, file or event."""
    key = new_relic.license_key
    new_relic.answers = [type(new_relic).answering(status) for status in (403, 500, 413, 429)]
    run = locusts.run(
        SIMPLE, "-H", target, "-t", "3", "-L", "DEBUG", "--newrelic-interval", "1",
        "--newrelic-output", str(tmp_path / "events.ndjson"), environment=new_relic.environment(),
    )  # fmt: skip

    assert "HTTP 403" in run.log
    assert key[:12] not in run.log + run.output + json.dumps(new_relic.events)
    for path in tmp_path.iterdir():
        assert key[:12].encode() not in path.read_bytes()


def test_a_stall_is_a_zero(new_relic, locusts, target):
    """While a test runs, a window without requests sends its summary: no requests, no response times."""
    locusts.run(
        SIMPLE.replace("constant_throughput(50)", "constant_throughput(0.1)"), "-H", target, "-t", "4",
        "--newrelic-interval", "1", environment=new_relic.environment(),
    )  # fmt: skip

    empty = new_relic.of_type("LocustSummary", num_requests=0)
    assert len(empty) >= 2
    assert all(event["rps"] == 0 and "latency_p95" not in event for event in empty)
    timestamps = [event["timestamp"] for event in new_relic.of_type("LocustSummary")]
    assert timestamps == list(range(timestamps[0], timestamps[-1] + 1, 1000))


def test_a_second_interrupt_during_locusts_own_exit(new_relic, locusts, target):
    """A second Ctrl-C, while Locust itself still shuts down, costs nothing either: the events are delivered."""
    waiting = """
from locust import events
import gevent

@events.quitting.add_listener
def take_time(**_):
    print("waiting", flush=True)
    gevent.sleep(60)
"""
    run = locusts.start(SIMPLE + waiting, "--headless", "-H", target, environment=new_relic.environment())
    new_relic.wait_for(lambda server: server.of_type("LocustTestRun", phase="spawning_complete"), "the users")
    run.signal(signal.SIGINT)
    run.wait_for_output("waiting")
    run.signal(signal.SIGINT)
    run.wait()

    assert new_relic.of_type("LocustTestRun", phase="stop")
    assert_consistent(new_relic)
