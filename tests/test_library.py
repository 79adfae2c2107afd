"""Locust as a library, in this very process: attach, close, and listeners that survive everything."""

import contextlib
import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import gevent
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from locust import User, constant, task
from locust import log as locust_log
from locust.env import Environment
from locust.exception import StopUser
from locust.stats import RequestStats
from locusts import EXAMPLES, clean_environment, free_port
from test_end_to_end import assert_same

import locust_newrelic
from locust_newrelic import Config, ConfigError, relay, sender
from locust_newrelic import worker as worker_module
from locust_newrelic.health import Health
from locust_newrelic.histogram import Scale
from locust_newrelic.recorder import Recorder
from locust_newrelic.recording import now_ms
from locust_newrelic.relay import Part, Report


class Caller(User):
    """Fires a request every 10 ms."""

    wait_time = constant(0.01)

    @task
    def call(self):
        self.environment.events.request.fire(
            request_type="rpc", name=self.environment.host, response_time=1.5, response_length=10, exception=None
        )


def make_environment(host="here"):
    """An environment with a local runner."""
    environment = Environment(user_classes=[Caller], host=host)
    environment.create_local_runner()
    return environment


def run_users(environment, requests=20):
    """Let two users make some requests, and stop."""
    environment.runner.start(2, spawn_rate=2)
    with gevent.Timeout(30):
        while environment.runner.state != "running" or environment.stats.total.num_requests < requests:
            gevent.sleep(0.01)
    environment.runner.quit()


def written(path):
    """The events in an output file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def endpoints(events):
    """The endpoint events among them."""
    return [event for event in events if event["eventType"] == "LocustRequestStatistics"]


def own_figures(environment):
    """Locust's figures, as --json has them."""
    return {(entry["method"], entry["name"]): entry for entry in environment.stats.serialize_stats()}


def test_attach_reports_until_close(tmp_path):
    """What the environment does between attach and close is reported, and nothing after."""
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), interval_s=1)
    run_users(environment)
    own = own_figures(environment)
    reporter.close()
    run_users_again = written(tmp_path / "events")
    environment.events.request.fire(request_type="rpc", name="late", response_time=1, response_length=1)
    reporter.close()

    assert_same(endpoints(written(tmp_path / "events")), own)
    assert written(tmp_path / "events") == run_users_again


def attach_to(new_relic, environment, **settings):
    """Have the environment report to the server of the test."""
    server = {"license_key": new_relic.license_key, "endpoint": new_relic.url, "ca_bundle": new_relic.certificate}
    return locust_newrelic.attach(environment, **server, **settings)


def test_attach_delivers_to_new_relic(new_relic):
    """With a key the events go to New Relic; the settings may be given as text or as what they stand for."""
    environment = make_environment()
    reporter = attach_to(new_relic, environment, interval_s="1", attributes={"build": "17"})
    run_users(environment)
    own = own_figures(environment)
    reporter.close()

    assert_same(new_relic.of_type("LocustRequestStatistics"), own)
    assert {event["build"] for event in new_relic.events} == {"17"}
    assert new_relic.license_key not in repr(reporter) + repr(vars(reporter))


def test_two_environments_do_not_meet(tmp_path):
    """Two environments in one process, each with events of its own, are reported apart."""
    here, there = make_environment("here"), make_environment("there")
    reporters = [
        locust_newrelic.attach(here, output=str(tmp_path / "here"), app_name="one"),
        locust_newrelic.attach(there, output=str(tmp_path / "there"), app_name="two"),
    ]
    gevent.joinall([gevent.spawn(run_users, here), gevent.spawn(run_users, there, 40)], raise_error=True)
    own = own_figures(here), own_figures(there)
    for reporter in reporters:
        reporter.close()

    for name, app_name, figures in (("here", "one", own[0]), ("there", "two", own[1])):
        events = written(tmp_path / name)
        assert_same(endpoints(events), figures)
        assert {event["appName"] for event in events} == {app_name}


def test_attaching_twice(tmp_path):
    """A second attach gives the same reporter; after close, the next attach gives a new one."""
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))

    assert locust_newrelic.attach(environment) is reporter
    reporter.close()
    second = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    assert second is not reporter
    second.close()


def test_shared_events_are_refused(tmp_path, caplog):
    """Another environment with the same events would be counted twice: attach says so, and init goes on without."""
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    other = Environment(events=environment.events)

    with pytest.raises(ConfigError, match="same events"):
        locust_newrelic.attach(other)
    locust_newrelic.hooks._on_init(other)
    assert "same events" in caplog.text
    reporter.close()


def test_close_leaves_no_trace(tmp_path):
    """After close, the environment's hooks, statistics and the process's signals are as they were before attach."""
    environment = make_environment()

    def state():
        hooks = {name: list(hook._handlers) for name, hook in vars(environment.events).items() if hasattr(hook, "fire")}
        return hooks, dict(vars(environment.stats)), signal.getsignal(signal.SIGINT), vars(environment.events).keys()

    before = state()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    assert state() != before
    reporter.close()
    assert state() == before


def test_attaching_while_users_run(tmp_path):
    """Attached in the middle of a test, everything from then on is reported."""
    environment = make_environment()
    environment.runner.start(2, spawn_rate=2)
    with gevent.Timeout(30):
        while environment.stats.total.num_requests < 5:
            gevent.sleep(0.01)
    environment.stats.clear_all()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    run_users(environment)
    own = own_figures(environment)
    reporter.close()

    assert_same(endpoints(written(tmp_path / "events")), own)


def test_off_without_a_key(monkeypatch, caplog):
    """Without a key attach gives a reporter that does nothing, and says how to turn it on."""
    caplog.set_level(logging.INFO)
    environment = make_environment()
    before = len(environment.events.request._handlers)
    reporter = locust_newrelic.attach(environment)

    assert not reporter.is_on
    assert len(environment.events.request._handlers) == before
    assert "NEW_RELIC_LICENSE_KEY" in caplog.text
    reporter.close()


def test_an_output_with_the_name_of_a_spool(tmp_path):
    """It would be removed once it is replayed: refused at once."""
    with pytest.raises(ConfigError, match=r"run\.spool\.ndjson is named like a spool, which a replay removes"):
        locust_newrelic.attach(make_environment(), output=str(tmp_path / "run.spool.ndjson"))
    assert not list(tmp_path.iterdir())


def test_a_variable_that_is_no_setting(tmp_path, monkeypatch, caplog):
    """It is warned of, as nothing else would say why it has no effect."""
    monkeypatch.setenv("LOCUST_NEWRELIC_APPNAME", "Shop")
    locust_newrelic.attach(make_environment(), output=str(tmp_path / "events")).close()

    assert caplog.messages == [
        "New Relic: LOCUST_NEWRELIC_APPNAME is no setting; did you mean LOCUST_NEWRELIC_APP_NAME?"
    ]


def test_settings_from_the_environment(tmp_path, monkeypatch):
    """What attach is not told comes from the environment variables."""
    monkeypatch.setenv("LOCUST_NEWRELIC_OUTPUT", str(tmp_path / "events"))
    monkeypatch.setenv("NEW_RELIC_APP_NAME", "from the environment")
    environment = make_environment()
    reporter = locust_newrelic.attach(environment)
    run_users(environment)
    reporter.close()

    assert {event["appName"] for event in written(tmp_path / "events")} == {"from the environment"}


def test_requests_of_other_listeners_count_in_their_run(tmp_path):
    """What listeners of test_start and test_stop request belongs to the run that starts or has stopped."""
    environment = make_environment()

    def request(name):
        environment.events.request.fire(request_type="rpc", name=name, response_time=1, response_length=1)

    environment.events.test_start.add_listener(lambda **_: request("set up"))
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), run_id="r")
    environment.events.test_stop.add_listener(lambda **_: request("tear down"))
    figures = {}
    for run_id in ("r", "r-2"):
        run_users(environment)
        figures[run_id] = own_figures(environment)
        environment.runner.greenlet = type(environment.runner.greenlet)()
    reporter.close()

    for run_id, own in figures.items():
        events = [event for event in endpoints(written(tmp_path / "events")) if event["run_id"] == run_id]
        assert {name for _, name in own} == {"here", "set up", "tear down"}
        assert_same(events, own)


def test_a_run_id_that_is_given_to_several_reporters(tmp_path):
    """Each run of an environment has an id of its own, also where reporting was closed in between."""
    environment = make_environment()
    for _ in range(3):
        reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), run_id="nightly")
        run_users(environment)
        environment.runner.greenlet = type(environment.runner.greenlet)()
        reporter.close()

    assert run_ids(written(tmp_path / "events")) == ["nightly", "nightly-2", "nightly-3"]


def test_others_run_while_events_are_made(tmp_path):
    """The events of a window with many names are made, and handed on, a few at a time."""
    environment, turns, puts = make_environment(), [0], []
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), interval_s=300)

    def take_turns():
        while True:
            turns[0] += 1
            gevent.sleep()

    class Sink:
        def put(self, events):
            puts.append((len(events), turns[0]))

    reporter._sinks.append(Sink())
    environment.events.test_start.fire(environment=environment)
    for name in range(500):
        environment.events.request.fire(request_type="rpc", name=str(name), response_time=1, response_length=1)
    other = gevent.spawn(take_turns)
    reporter.close()
    other.kill()

    assert sum(number for number, _ in puts) > 1_000
    assert max(number for number, _ in puts) <= 25
    assert all(before < after for (_, before), (_, after) in pairwise(puts))


def test_the_end_has_as_much_time_as_the_settings_say(tmp_path, monkeypatch):
    """What the last events take to be made is not added to it."""
    environment, timeouts_s = make_environment(), []
    reporter = locust_newrelic.attach(
        environment, license_key="0" * 40, endpoint="https://127.0.0.1:9", flush_timeout_s=3.0, spool_dir=str(tmp_path)
    )
    close = reporter._delivery.close
    monkeypatch.setattr(reporter._delivery, "close", lambda timeout_s: (timeouts_s.append(timeout_s), close(0)))
    clock = SimpleNamespace(now_s=0.0)

    @reporter.before_send
    def takes_long(event):
        clock.now_s += 1.0
        return event

    monkeypatch.setattr(sender, "time", SimpleNamespace(**vars(time) | {"monotonic": lambda: clock.now_s}))
    environment.events.test_start.fire(environment=environment)
    begun_s = clock.now_s
    reporter.close()

    assert timeouts_s == [begun_s + 3.0 - clock.now_s]
    assert 0.0 < timeouts_s[0] < 3.0


@pytest.mark.parametrize("method", ["reset_all", "clear_all"])
def test_a_reset_as_a_test_starts(tmp_path, method):
    """What a listener of test_start forgets again, after warming up, say, is an epoch of its own."""
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), interval_s=1)

    @environment.events.test_start.add_listener
    def warm_up(**_):
        environment.events.request.fire(request_type="rpc", name="warm", response_time=1, response_length=1)
        getattr(environment.stats, method)()

    for _ in range(2):
        run_users(environment)
        own = own_figures(environment)
        environment.runner.greenlet = type(environment.runner.greenlet)()
    reporter.close()

    events = endpoints(written(tmp_path / "events"))
    last = [event for event in events if event["run_id"] == run_ids(events)[1]]
    assert {event["name"] for event in last if event["stats_epoch"] == 0} == {"warm"}
    assert_same([event for event in last if event["stats_epoch"] == 1], own)


def test_an_interrupt_in_the_middle_of_counting(tmp_path):
    """Whenever Ctrl-C is pressed while a listener counts, no request is lost or counted twice, and Locust ends."""
    environment = make_environment()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    recorder, left = reporter._recorder, 1

    def press(frame, event, _):
        nonlocal left
        if frame.f_globals["__name__"] not in {"locust_newrelic.recorder", "locust_newrelic.window"}:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                signal.raise_signal(signal.SIGINT)
        return press

    def fire(number):
        for _ in range(number):
            environment.events.request.fire(request_type="rpc", name="n", response_time=1, response_length=1)

    instruction, tracing = 0, sys.gettrace()
    try:
        fire(1)
        recorder._set_longest(5)
        while left <= 0 or not instruction:
            left = instruction = instruction + 1
            fire(4)
            sys._getframe().f_trace_opcodes = True
            sys.settrace(press)
            try:
                fire(1)
            except KeyboardInterrupt:
                pytest.fail(f"it was raised in the listener, at instruction {instruction}")
            finally:
                sys.settrace(tracing)
            if left <= 0:
                with pytest.raises(KeyboardInterrupt):
                    gevent.sleep(30)
            assert recorder.take().num_requests == 5 + (instruction == 1)
    finally:
        reporter.close()
        signal.signal(signal.SIGINT, before)
    assert instruction > 200


@pytest.mark.parametrize("step", ["_finish_run", "_end_window", "_join", "_make_events", "_own.end"])
def test_a_fault_at_the_end(tmp_path, monkeypatch, caplog, step):
    """Whatever goes wrong at the end, the rest of it is done: what there is is written, and close returns."""
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), interval_s=300)
    run_users(environment)
    caplog.set_level(logging.INFO)

    def fail():
        msg = "key=secret"
        raise RuntimeError(msg)

    monkeypatch.setattr(*(reporter._own, "end") if step == "_own.end" else (reporter, step), fail)
    reporter.close()

    assert "unexpected RuntimeError at test_library.py" in caplog.text
    assert "secret" not in caplog.text
    assert f"events written to {tmp_path / 'events'}" in caplog.text
    phases = [event.get("phase") for event in written(tmp_path / "events")]
    assert (phases[-1] == "stop") == (step in ("_join", "_own.end"))


def test_an_output_that_cannot_be_written(caplog):
    """What could not be written is said, and how many events that were, at the end."""
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output="/dev/full")
    run_users(environment)
    reporter.close()

    assert re.fullmatch(r"New Relic: 0 events written to /dev/full, [1-9]\d* lost", caplog.messages[-1])
    assert caplog.records[-1].levelno == logging.WARNING


def test_listeners_of_test_stop_that_take_their_time(tmp_path, monkeypatch):
    """The stop event tells of all their requests, as long as one comes after the other."""
    monkeypatch.setattr(sender, "LATE_REQUESTS_S", 0.3)
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), interval_s=1)

    @environment.events.test_stop.add_listener
    def clean_up(**_):
        for _ in range(25):
            gevent.sleep(0.1)
            environment.events.request.fire(request_type="rpc", name="clean up", response_time=1, response_length=1)

    run_users(environment)
    own = own_figures(environment)
    reporter.close()

    events = written(tmp_path / "events")
    assert_same(endpoints(events), own)
    (stop,) = [event for event in events if event.get("phase") == "stop"]
    assert stop["num_requests"] == sum(entry["num_requests"] for entry in own.values())


def test_a_listener_that_ends_its_user(tmp_path):
    """What Locust counts before another listener raises StopUser, or waits and is killed, counts here as well."""
    environment = make_environment()

    @environment.events.request.add_listener
    def end(name, **_):
        if name == "waits":
            gevent.sleep(60)
        raise StopUser

    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    environment.events.test_start.fire(environment=environment)

    def fire(name):
        environment.events.request.fire(request_type="rpc", name=name, response_time=1, response_length=1)

    for _ in range(3):
        with pytest.raises(StopUser):
            fire("raises")
    waiting = [gevent.spawn(fire, "waits") for _ in range(2)]
    gevent.idle()
    gevent.killall(waiting)
    reporter.close()

    own = own_figures(environment)
    assert {name: entry["num_requests"] for (_, name), entry in own.items()} == {"raises": 3, "waits": 2}
    assert_same(endpoints(written(tmp_path / "events")), own)


def test_a_close_that_is_killed(tmp_path):
    """A greenlet that is killed while it closes leaves nothing half done: the rest is written, another close waits."""
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    run_users(environment)
    own = own_figures(environment)
    closing = gevent.spawn(reporter.close)
    gevent.sleep(0)
    closing.kill()
    reporter.close()

    events = written(tmp_path / "events")
    assert_same(endpoints(events), own)
    assert events[-1]["phase"] == "stop"


def test_a_start_that_comes_too_late(tmp_path, caplog):
    """A test that starts while or after the reporter ends is not begun, and not announced."""
    caplog.set_level(logging.INFO)
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    environment.events.quit.fire(exit_code=0)
    environment.events.test_start.fire(environment=environment)

    assert written(tmp_path / "events") == []
    assert "started" not in caplog.text
    second = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    assert second is not reporter
    second.close()


def test_attaching_again_with_other_settings(tmp_path, caplog):
    """Settings that come too late are named; where reporting was off, they turn it on."""
    environment = make_environment()
    off = locust_newrelic.attach(environment)
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    assert reporter is not off
    assert reporter.is_reporting

    assert locust_newrelic.attach(environment, app_name="Shop") is reporter
    assert "app_name" in caplog.text
    reporter.close()


@contextlib.contextmanager
def master_and_worker(attached, user_class=Caller):
    """Environments of a master and a worker in this process, connected; *attached* is called with the master's."""
    port = free_port()
    environments = [Environment(user_classes=[user_class], host="here") for _ in range(2)]
    master, worker = environments
    master.create_master_runner("127.0.0.1", port)
    attached(master)
    worker.create_worker_runner("127.0.0.1", port)
    with gevent.Timeout(30):
        while not master.runner.clients.ready:
            gevent.sleep(0.01)
    yield master, worker
    for environment in environments:
        environment.runner.quit()


def run_on_workers(master, requests=20):
    """Start a user, wait for some requests to be reported, and quit."""
    master.runner.start(1, spawn_rate=1)
    with gevent.Timeout(30):
        while master.stats.total.num_requests < requests:
            gevent.sleep(0.01)
    master.runner.quit()


def test_a_master_and_a_worker(tmp_path):
    """Attached to a master and to a worker, each reports its part: counts are the master's, status codes are known."""
    with master_and_worker(lambda it: locust_newrelic.attach(it, output=str(tmp_path / "events"))) as (master, worker):
        on_worker = locust_newrelic.attach(worker)
        assert locust_newrelic.attach(worker) is on_worker
        run_on_workers(master)
        own = own_figures(master)
        on_worker.close()
        locust_newrelic.attach(master).close()

    events = written(tmp_path / "events")
    assert_same(endpoints(events), own)
    assert events[-1]["approximate_workers"] == 0
    assert {event["role"] for event in events if event["eventType"] == "LocustNode"} == {"master", "worker"}


def test_a_worker_that_is_not_attached(tmp_path):
    """Of a worker without the package, or one that was closed, Locust's own statistics count."""
    with master_and_worker(lambda it: locust_newrelic.attach(it, output=str(tmp_path / "events"))) as (master, worker):
        locust_newrelic.attach(worker).close()
        run_on_workers(master)
        own = own_figures(master)
        locust_newrelic.attach(master).close()

    events = written(tmp_path / "events")
    assert_same(endpoints(events), own)
    assert events[-1]["approximate_workers"] == 1


def test_a_worker_attached_in_the_middle(tmp_path):
    """What a worker did before it was attached, or its master's reporter was, counts by Locust's own statistics."""
    with master_and_worker(lambda _: None) as (master, worker):
        locust_newrelic.attach(worker)
        master.runner.start(1, spawn_rate=1)
        master.stats.clear_all()
        reporter = locust_newrelic.attach(master, output=str(tmp_path / "events"))
        master.runner.start(2, spawn_rate=2)  # more users: the workers are told of the run
        run_on_workers(master, requests=500)
        own = own_figures(master)
        reporter.close()

    events = written(tmp_path / "events")
    assert_same(endpoints(events), own)
    codes = {event["stats_epoch"] for event in events}
    assert codes == {0}


class Raising(Caller):
    """Each of its tasks makes a request and raises."""

    @task
    def call(self):
        super().call()
        raise KeyError(self.environment.host)


def test_a_workers_first_report_after_the_beginning(tmp_path):
    """Its requests are Locust's own where some were made before, all else is the worker's: even if it is the last."""
    num_exceptions = 0

    def count(**_):
        nonlocal num_exceptions
        num_exceptions += 1

    with master_and_worker(
        lambda it: locust_newrelic.attach(it, output=str(tmp_path / "events"), sample_rate=1), Raising
    ) as (master, worker):
        master.runner.start(1, spawn_rate=1)
        with gevent.Timeout(30):
            while not worker.stats.total.num_requests:
                gevent.sleep(0.01)
            before = worker.stats.total.num_requests
            worker.events.user_error.add_listener(count)
            on_worker = locust_newrelic.attach(worker)
            for number in range(5):
                on_worker.record("Order", {"number": number})
            while num_exceptions < 5:
                gevent.sleep(0.01)
        master.runner.quit()
        own, num_requests = own_figures(master), master.stats.total.num_requests
        on_worker.close()
        locust_newrelic.attach(master).close()

    events = written(tmp_path / "events")
    assert before
    assert_same(endpoints(events), own)
    assert [event["number"] for event in of_type(events, "Order")] == list(range(5))
    assert sum(event["num_exceptions"] for event in of_type(events, "LocustException")) == num_exceptions
    assert len(of_type(events, "LocustRequest")) == num_requests - before
    assert events[-1]["approximate_workers"] == 1


def test_requests_without_end(tmp_path, monkeypatch):
    """Something that goes on to request after the test does not keep its stop event from being sent."""
    monkeypatch.setattr(sender, "LONGEST_LATE_S", 2 * sender.LATE_REQUESTS_S)
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    run_users(environment)

    def request_for_ever():
        while True:
            environment.events.request.fire(
                request_type="rpc", name="late", response_time=1, response_length=1, exception=None
            )
            gevent.sleep(0.1)

    requesting = gevent.spawn(request_for_ever)
    with gevent.Timeout(30):
        while not any(event["phase"] == "stop" for event in of_type(written(tmp_path / "events"), "LocustTestRun")):
            gevent.sleep(0.1)
    requesting.kill()
    own = own_figures(environment)
    reporter.close()

    assert_same(endpoints(written(tmp_path / "events")), own)


def test_a_master_that_comes_after_attach(tmp_path):
    """Attached before the runner of a master is made, it reports what the workers do all the same."""
    environment = Environment(user_classes=[Caller])
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    environment.create_master_runner("127.0.0.1", free_port())
    environment.events.test_start.fire(environment=environment)
    assert environment.parsed_options.newrelic_run["run_id"]
    entry = RequestStats()
    entry.log_request("rpc", "far away", 5, 10)
    data = {"stats": entry.serialize_stats(), "stats_total": entry.total.get_stripped_report(), "errors": {}}
    environment.events.worker_report.fire(client_id="w_1", data=data | {"user_classes_count": {}, "user_count": 0})
    own = own_figures(environment)
    environment.runner.quit()
    reporter.close()

    assert_same(endpoints(written(tmp_path / "events")), own)
    assert own


def test_a_worker_that_comes_after_attach(tmp_path, caplog):
    """Attached before the runner of a worker is made, it says that this is too early, and records nothing."""
    with master_and_worker(lambda _: None) as (_, worker):
        del worker.events.test_start._handlers[:]
        runner, worker.runner = worker.runner, None
        reporter = locust_newrelic.attach(worker, output=str(tmp_path / "events"))
        worker.runner = runner
        worker.events.test_start.fire(environment=worker)
        reporter.close()

    assert "attach after its runner is created" in caplog.text
    assert written(tmp_path / "events") == []


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("https://user:secret@shop.example:8443/path?token=secret#secret", "https://shop.example:8443/path"),
        ("user:secret@db.example:5432", "db.example:5432"),
        ("amqp:user:secret@queue", "queue"),
        ("jdbc:postgresql://user:secret@db/shop?password=secret", "jdbc:postgresql://db/shop"),
        ("http://user:se/cret@shop.example/;token=secret", "http://shop.example/"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        (17, "17"),
        (["kafka1", "kafka2"], "['kafka1', 'kafka2']"),
    ],
)
def test_the_host_is_sent_without_secrets(tmp_path, host, sent):
    """What may be a user, a password or a token in the host is not sent, whatever the host's form is."""
    environment = make_environment(host)
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    environment.events.test_start.fire(environment=environment)
    reporter.close()

    assert {event["target_host"] for event in written(tmp_path / "events") if "phase" in event} == {sent}


class Odd:
    """Raises at whatever is asked of it."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __bool__(self):
        raise RuntimeError

    def __str__(self):
        raise RuntimeError

    __repr__ = __float__ = __int__ = __hash__ = __str__

    def __eq__(self, other):
        raise RuntimeError


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.builds(Odd),
    st.lists(st.integers()),
    st.dictionaries(st.text(), st.integers()),
)
fired = st.dictionaries(
    st.sampled_from(
        "request_type name response_time response_length response exception context start_time url environment"
        " user_count exit_code user_instance tb client_id data else".split()
    ),
    anything,
)


@given(fires=st.lists(st.tuples(st.sampled_from(["request", "test_start", "test_stop", "test_stopping",
                                                 "spawning_complete", "worker_report", "report_to_master", "reset"]),
                                fired), max_size=30))  # fmt: skip
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_our_listeners_never_raise(tmp_path, fires):
    """Whatever is fired, in whatever order, Locust sees no exception of ours: its exit code does not change."""
    environment = make_environment()
    for name in ("request", "spawning_complete", "worker_report"):
        getattr(environment.events, name)._handlers.clear()  # Locust's own, which do raise
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    locust_log.unhandled_greenlet_exception = False
    for name, arguments in fires:
        if name == "reset":
            environment.stats.reset_all()
        else:
            getattr(environment.events, name).fire(**arguments)
    reporter.close()

    assert locust_log.unhandled_greenlet_exception is False


@pytest.mark.parametrize("missing", ["request_type", "name", "response_time", "response_length"])
def test_a_request_that_locust_cannot_count(tmp_path, missing):
    """A fired request without an argument that Locust requires is counted by neither."""
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    environment.events.test_start.fire(environment=environment)
    complete = {"request_type": "rpc", "name": "n", "response_time": 1, "response_length": 1}
    environment.events.request.fire(**{name: value for name, value in complete.items() if name != missing})
    reporter.close()

    assert environment.stats.total.num_requests == 0
    assert endpoints(written(tmp_path / "events")) == []


def test_the_example(target, tmp_path):
    """examples/use_as_library.py runs, and writes what it did."""
    output = tmp_path / "events"
    subprocess.run(
        [sys.executable, str(EXAMPLES / "use_as_library.py"), target, "2"],
        env=clean_environment() | {"LOCUST_NEWRELIC_OUTPUT": str(output)},
        check=True,
        timeout=60,
    )

    (stop,) = [event for event in written(output) if event.get("phase") == "stop"]
    assert stop["num_requests"] == sum(event["num_requests"] for event in endpoints(written(output))) > 0
    assert stop["appName"] == "Library"


def test_the_demo():
    """examples/demo.py, which `make run` calls, finds the counts equal."""
    demo = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py"), "--seconds", "3", "--users", "5"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert demo.returncode == 0, demo.stderr
    assert "The counts are equal to the last request." in demo.stdout


# -- what a user's code adds ---------------------------------------------------------------------------------------


def of_type(events, event_type):
    """Those of a type."""
    return [event for event in events if event["eventType"] == event_type]


def test_events_of_a_users_own(tmp_path):
    """What is recorded before a run belongs to the first, what comes in and after one to that; each comes once."""
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), run_id="r")
    reporter.record("Order", {"when": "before"})
    environment.events.test_start.add_listener(lambda **_: reporter.record("Order", {"when": "at the start"}))
    for _ in range(2):
        run_users(environment)
        reporter.record("Order", {"when": "after"})
        environment.runner.greenlet = type(environment.runner.greenlet)()
    reporter.close()
    reporter.record("Order", {"when": "too late"})

    orders = of_type(written(tmp_path / "events"), "Order")
    assert [(event["run_id"], event["when"]) for event in orders] == [
        ("r", "before"), ("r", "at the start"), ("r", "after"), ("r-2", "at the start"), ("r-2", "after"),
    ]  # fmt: skip


def test_more_events_than_a_window_takes(tmp_path, caplog):
    """Of more than 1,000 events in a window the rest is counted as lost, and said once."""
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), interval_s=300)
    environment.events.test_start.fire(environment=environment)
    for number in range(1_007):
        reporter.record("Order", {"number": number})
    reporter.close()

    events = written(tmp_path / "events")
    assert [event["number"] for event in of_type(events, "Order")] == list(range(1_000))
    assert (events[-1]["events_lost"], events[-1]["events_lost_too_many_recorded"]) == (7, 7)
    assert caplog.text.count("too many events were recorded in a window: 7 are lost") == 1


def test_the_last_line_counts_events_that_had_no_room(new_relic, caplog):
    """Events that were recorded beyond what windows take are lost in all that tells of losses."""
    caplog.set_level(logging.INFO)
    environment = make_environment()
    reporter = attach_to(new_relic, environment, interval_s=300)
    for lost in (7, 9):
        environment.events.test_start.fire(environment=environment)
        for _ in range(1_000 + lost):
            reporter.record("Order")
    reporter.close()

    assert [event["events_lost"] for event in new_relic.of_type("LocustTestRun", phase="stop")] == [7, 9]
    assert caplog.records[-1].levelname == "WARNING"
    assert "16 lost (16 too many recorded)" in caplog.records[-1].message


def test_a_user_key(caplog):
    """A key of the kind that is taken for a license key most often is told of before New Relic refuses it."""
    reporter = locust_newrelic.attach(make_environment(), license_key="NRAK-0123")
    reporter.close()

    assert "user key (NRAK-...)" in caplog.text
    assert "0123" not in caplog.text


def test_more_events_than_wait_for_a_run(tmp_path):
    """Those for which there was no room before the first run are counted as lost in it."""
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), interval_s=300)
    for _ in range(1_007):
        reporter.record("Order")
    environment.events.test_start.fire(environment=environment)
    reporter.close()

    events = written(tmp_path / "events")
    assert len(of_type(events, "Order")) == 1_000
    assert events[-1]["events_lost"] == 7


def test_functions_see_every_event(tmp_path, caplog):
    """Functions see each event before it goes out; what they drop is counted, what fails in them goes out as it was."""
    caplog.set_level(logging.INFO)
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"))
    seen = []

    @reporter.before_send
    def first(event):
        seen.append(dict(event))
        event["by"] = "first"
        return None if event["eventType"] == "LocustNode" else event

    @reporter.before_send
    def second(event):
        event["by"] = "second"
        raise ValueError

    run_users(environment)
    reporter.close()

    events, dropped = written(tmp_path / "events"), len(of_type(seen, "LocustNode"))
    assert {event["by"] for event in events} == {"first"}
    assert len(seen) == len(events) + dropped
    assert of_type(events, "LocustNode") == []
    assert dropped == events[-1]["events_dropped"] > 0
    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert f"{len(events)} events, {dropped} more dropped by before_send" in caplog.text


def test_attributes_that_are_set(tmp_path):
    """What is set is on all events from then on, of later runs too, and goes before what the settings say."""
    environment = make_environment()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), attributes={"a": "x", "b": "x"})
    environment.events.test_start.add_listener(lambda **_: reporter.set_attributes({"b": "y"}, c=7))
    run_users(environment)
    environment.runner.greenlet = type(environment.runner.greenlet)()
    environment.events.test_start.add_listener(lambda **_: reporter.set_attributes(c=None))
    run_users(environment)
    reporter.close()

    events = written(tmp_path / "events")
    first, second = ([event for event in events if event["run_id"] == run_id] for run_id in run_ids(events))
    (start,) = [event for event in second if event.get("phase") == "start"]
    assert [start[name] for name in "abc"] == ["x", "y", 7]
    assert {tuple(event[name] for name in "ab") for event in first if event.get("phase") != "start"} == {("x", "y")}
    assert {tuple(event.get(name) for name in "abc") for event in second if event is not start} == {("x", "y", None)}


def run_ids(events):
    """The ids of the runs, in their order."""
    return list(dict.fromkeys(event["run_id"] for event in events))


@pytest.mark.parametrize("no_ci_attributes", [False, True])
def test_a_run_in_a_ci_job(tmp_path, monkeypatch, no_ci_attributes):
    """In a CI job each event tells of it, unless it is not to; what a user sets goes before."""
    for name, value in {"GITLAB_CI": "true", "CI_PIPELINE_ID": "17", "CI_COMMIT_SHA": "f00d"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    environment = make_environment()
    reporter = locust_newrelic.attach(
        environment, output=str(tmp_path / "events"), no_ci_attributes=no_ci_attributes, attributes={"ci_commit": "own"}
    )
    run_users(environment)
    reporter.close()

    told = {
        tuple(event.get(f"ci{name}") for name in ("", "_build", "_commit")) for event in written(tmp_path / "events")
    }
    assert told == {(None, None, "own") if no_ci_attributes else ("GitLab", "17", "own")}


class Failing(User):
    """Fires a request that fails every 10 ms, and raises."""

    wait_time = constant(0.01)

    @task
    def call(self):
        self.environment.events.request.fire(
            request_type="rpc", name="n", response_time=1.5, response_length=10, exception=ValueError("no"),
            context={"tenant": "ab"[self.environment.stats.total.num_requests % 2]}, start_time=time.time(), url="/n?x",
        )  # fmt: skip
        if self.environment.stats.total.num_requests % 3 == 0:
            msg = "no more"
            raise KeyError(msg)


def details_add_up(events, environment):
    """Failures, samples and values of dimensions are as many as Locust counted requests; exceptions are told."""
    own = environment.stats.total.num_requests
    assert own > 0
    stop = events[-1]
    failures, samples = of_type(events, "LocustFailure"), of_type(events, "LocustRequest")
    assert sum(event["num_failures"] for event in failures) == stop["num_failures"] == own
    assert {event["error"] for event in failures} == {"ValueError('no')"}
    assert len(samples) == own
    assert {event["tenant"] for event in [*failures, *samples, *endpoints(events)]} == {"a", "b"}
    exceptions = of_type(events, "LocustException")
    assert sum(event["num_exceptions"] for event in exceptions) == stop["num_exceptions"] > 0
    told = {(event["user_class"], event["error_type"], event["error"]) for event in exceptions}
    assert told == {("Failing", "KeyError", "'no more'")}
    assert all("raise KeyError(msg)" in event["traceback"] for event in exceptions)


DETAILED = {"dimensions": ["tenant"], "sample_rate": 1.0}


def test_details_of_a_local_run(tmp_path):
    """Failures, samples, dimensions and exceptions of a local run are those of all its requests."""
    environment = Environment(user_classes=[Failing])
    environment.create_local_runner()
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), **DETAILED)
    run_users(environment)
    reporter.close()

    details_add_up(written(tmp_path / "events"), environment)


def test_details_of_a_worker(tmp_path, caplog):
    """A worker's are, too; its own events come with them, and it says once what has no effect there."""
    caplog.set_level(logging.INFO)
    with master_and_worker(
        lambda it: locust_newrelic.attach(it, output=str(tmp_path / "events"), **DETAILED), Failing
    ) as (master, worker):
        on_worker = locust_newrelic.attach(worker)
        for number in range(3):
            on_worker.record("Order", {"number": number})
            on_worker.set_attributes(a=number)
            on_worker.before_send(lambda _: None)
        run_on_workers(master)
        on_worker.close()
        locust_newrelic.attach(master).close()
        events = written(tmp_path / "events")
        details_add_up(events, master)

    assert [event["number"] for event in of_type(events, "Order")] == [0, 1, 2]
    assert {event.get("a") for event in events} == {None}
    for name in ("before_send", "set_attributes"):
        assert caplog.text.count(f"{name} has no effect on a worker") == 1


def test_attaching_to_a_worker_in_the_middle(tmp_path):
    """What it made before that counts by Locust's own statistics, all after it in detail; its own events arrive."""
    with master_and_worker(lambda it: locust_newrelic.attach(it, output=str(tmp_path / "events"))) as (master, worker):
        master.runner.start(1, spawn_rate=1)
        with gevent.Timeout(30):
            while worker.stats.total.num_requests < 20:
                gevent.sleep(0.01)
            on_worker = locust_newrelic.attach(worker)
            on_worker.record("Order", {"number": 1})
            before = master.stats.total.num_requests
            while master.stats.total.num_requests < before + 400:
                gevent.sleep(0.01)
        master.runner.quit()
        on_worker.close()
        locust_newrelic.attach(master).close()
        events = written(tmp_path / "events")

        assert_same(endpoints(events), own_figures(master))
        assert events[-1]["approximate_workers"] == 1
        assert [event["number"] for event in of_type(events, "Order")] == [1]


def test_a_run_of_which_only_its_option_tells(tmp_path):
    """A worker that missed the stop of a run, and the start of the next, records for that after its next report."""
    with master_and_worker(lambda it: locust_newrelic.attach(it, output=str(tmp_path / "events"))) as (master, worker):
        on_worker = locust_newrelic.attach(worker)
        run_on_workers(master)
        options = worker.parsed_options.newrelic_run
        worker.parsed_options.newrelic_run = {**options, "run_id": "next"}
        reports = []
        for number in (1, 2):
            for _ in range(number):
                worker.events.request.fire(request_type="rpc", name="n", response_time=1, response_length=1)
            worker.events.report_to_master.fire(client_id="w", data=(data := {}))
            reports.append(relay.unpack(data[relay.KEY], Scale(options["buckets"])).parts)
        on_worker.close()
        locust_newrelic.attach(master).close()

    told = [[(part.run_id, part.window.num_requests) for part in parts if part.window] for parts in reports]
    assert told == [[(options["run_id"], 1)], [("next", 2)]]


def test_a_worker_that_cannot_tell_how_it_does(tmp_path, monkeypatch):
    """Where its process cannot be looked at, Locust's own statistics of it count."""

    def gauge():
        raise psutil.AccessDenied

    monkeypatch.setattr(worker_module, "Gauge", gauge)
    with master_and_worker(lambda it: locust_newrelic.attach(it, output=str(tmp_path / "events"))) as (master, worker):
        on_worker = locust_newrelic.attach(worker)
        run_on_workers(master)
        on_worker.close()
        locust_newrelic.attach(master).close()

        assert_same(endpoints(written(tmp_path / "events")), own_figures(master))


@pytest.mark.parametrize(("run", "told_of"), [(1, 9), (2, 2), (8, 8), (9, 9)])
def test_what_workers_report_of_former_runs(tmp_path, run, told_of):
    """What a worker reports late counts in its run, or where that is too long ago in the present one: never nowhere."""
    environment = Environment(user_classes=[Caller])
    environment.create_master_runner("127.0.0.1", free_port())
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), run_id="r")
    ids = []
    for _ in range(9):
        environment.events.test_start.fire(environment=environment)
        ids.append(environment.parsed_options.newrelic_run["run_id"])
    data = report_of(ids[run - 1], reporter._cadence.start_ms, 7)
    environment.events.worker_report.fire(client_id="w0_x", data=data)
    environment.runner.quit()
    reporter.close()

    told = [(event["run_id"], event["num_requests"]) for event in endpoints(written(tmp_path / "events"))]
    assert told == [(ids[told_of - 1], 7)]


# -- many workers --------------------------------------------------------------------------------------------------


def report_of(run_id, start_ms, num_requests):
    """A report of a worker that made so many requests in a window."""
    recorder = Recorder(Scale(Config().buckets_ms), 10)
    for _ in range(num_requests):
        recorder.on_request("rpc", "n", 1.5, 10)
    part = Part(run_id, start_ms, Config().buckets_ms, recorder.take(), Health(1.0, 10.0, 10**8, 1))
    entry = RequestStats()
    data = {"stats": entry.serialize_stats(), "stats_total": entry.total.get_stripped_report(), "errors": {}}
    return data | {"user_classes_count": {}, "user_count": 1, relay.KEY: relay.pack(Report(now_ms(), [part]))}


@pytest.mark.parametrize(("num_workers", "most"), [(1, 1), (19, 19), (30, 20), (100, 20)])
def test_many_workers_take_turns(tmp_path, num_workers, most):
    """However many workers there are, 20 of them are told of in a window; their requests are all told by the end."""
    environment, num_windows = Environment(user_classes=[Caller]), 8
    environment.create_master_runner("127.0.0.1", free_port())
    environment.runner.worker_indexes = {f"w{index}_x": index for index in range(num_workers)}
    reporter = locust_newrelic.attach(environment, output=str(tmp_path / "events"), interval_s=300)
    environment.events.test_start.fire(environment=environment)
    run_id, first_ms = environment.parsed_options.newrelic_run["run_id"], reporter._cadence.start_ms
    expected = Counter()
    for window in range(num_windows):
        reporter._cadence.start_ms = start_ms = first_ms + window * 300_000  # as if so much time had passed
        for index in range(num_workers):
            expected[f"w{index}:worker-{index}"] += (number := (window + index) % 4)
            report = report_of(run_id, start_ms, number)
            environment.events.worker_report.fire(client_id=f"w{index}_x", data=report)
        reporter._end_window()
    environment.runner.quit()
    reporter.close()

    windows, nodes = [], []
    for event in written(tmp_path / "events"):
        if event["eventType"] == "LocustSummary":
            windows.append([])
        elif event["eventType"] == "LocustNode" and event["role"] == "worker":
            windows[-1].append(event["node"])
            nodes.append(event)
    *full, last = [len(window) for window in windows if window]
    assert len(full) + 1 == num_windows
    assert max(full) <= most
    assert min(full) >= most / 2
    assert all(len(set(window)) == len(window) for window in windows)
    told = Counter()
    for event in nodes:
        told[event["node"]] += event["num_requests"]
    assert told == expected
    assert sum(event["interval_ms"] for event in nodes) == num_workers * num_windows * 10_000
    assert {event["cpu_percent"] for event in nodes} == {10.0}
    by_node = [sorted(event["timestamp"] for event in nodes if event["node"] == name) for name in expected]
    assert all(times[0] == first_ms and len(set(times)) == len(times) for times in by_node)
    assert last <= num_workers
