"""A master and workers, as real processes: New Relic gets one picture of the test, whose counts are Locust's own."""

import json
import signal
import statistics
from collections import Counter

import pytest
from crew import STEADY, Crew, ForeignWorker, counts, no_log_of_a_fault, pause, reported_counts, resume, truth
from locusts import free_port
from test_end_to_end import EVERYTHING, SIMPLE, assert_consistent, assert_same
from test_web_ui import of_phase


def processes(new_relic, number=2):
    """The options and the environment of Locust with worker processes."""
    port = str(free_port())
    return ["--processes", str(number)], new_relic.environment() | {
        "LOCUST_MASTER_BIND_PORT": port, "LOCUST_MASTER_NODE_PORT": port,
    }  # fmt: skip


def test_everything_with_processes(new_relic, locusts, target):
    """All kinds of requests of two worker processes: New Relic has Locust's own figures, endpoint by endpoint."""
    options, environment = processes(new_relic)
    run = locusts.run(EVERYTHING, *options, "-H", target, "-u", "6", "-r", "6", "-t", "5", "--newrelic-interval", "2",
                      environment=environment)  # fmt: skip

    assert run.process.returncode == 1  # there were failures
    assert_same(new_relic.of_type("LocustRequestStatistics"), run.stats())
    assert_consistent(new_relic)
    (start, complete, stop) = new_relic.of_type("LocustTestRun")
    assert (start["worker_count"], complete["user_count"], stop["worker_count"]) == (2, 6, 2)
    assert (stop["approximate_workers"], stop["peak_user_count"]) == (0, 6)
    assert {event["status_code"] for event in new_relic.of_type("LocustStatusCode")} == {0, 200, 404, 500}
    assert no_log_of_a_fault(run.log)
    assert run.log.count("reporting to") == 1
    assert "reporting is off" not in run.log


def test_no_ripple(new_relic, locusts, target, tmp_path):
    """Windows of 2 s hold what was requested in them, though workers report every 3 s; one event for all of them."""
    options, environment = processes(new_relic)
    run = locusts.run(STEADY, *options, "-H", target, "-u", "10", "-r", "10", "-t", "17", "--newrelic-interval", "2",
                      environment=environment)  # fmt: skip

    made = Counter(int(time_s) // 2 * 2000 for _, time_s, *_ in truth(tmp_path))
    summaries = new_relic.of_type("LocustSummary")
    told = Counter({event["timestamp"]: event["num_requests"] for event in summaries})
    assert len(told) == len(summaries)
    assert sum(told.values()) == sum(entry["num_requests"] for entry in run.stats().values())
    differences = [told[start] - made[start] for start in sorted(made)[1:-3]]  # a last report may be lost in Locust
    assert statistics.pstdev(differences) < 0.05 * statistics.mean(made.values())
    assert_nodes(new_relic, {"master-0", "worker-0", "worker-1"})


def assert_nodes(new_relic, names):
    """Each process told how it did in each window, and their requests are all requests."""
    nodes = new_relic.of_type("LocustNode")
    assert {event["node"].rpartition(":")[2] for event in nodes} == names
    requests = sum(event["num_requests"] for event in nodes)
    assert requests == sum(event["num_requests"] for event in new_relic.of_type("LocustSummary"))
    assert all(event["num_requests"] == 0 for event in nodes if event["role"] == "master")
    in_time = [event for event in nodes if "late" not in event and event["role"] == "worker"]
    assert in_time
    for event in in_time:
        assert event["memory_bytes"] > 1_000_000
        assert 0 <= event["cpu_percent"] < 400
        assert abs(event["clock_skew_ms"]) < 60_000


def test_a_mixed_crew(new_relic, locusts, target):
    """Workers without key, without the package, in another language, and one that is killed: all are in the counts."""
    crew = Crew(locusts, new_relic)
    master = crew.master(SIMPLE, "--headless", "--expect-workers", "4", "-H", target, "-u", "4", "-r", "4", "-t", "12",
                         "--newrelic-interval", "2")  # fmt: skip
    crew.worker(SIMPLE)
    crew.worker(SIMPLE.replace("import locust_newrelic\n", ""), name="without.py")
    killed = crew.worker(SIMPLE, name="killed.py")
    broken = {"newrelic": {"version": 1, "sent_at": "yesterday", "windows": []}}
    newer = {"newrelic": {"version": 2, "everything": "better"}}
    foreign = ForeignWorker(crew.port, extra=({}, broken, broken, newer, newer))
    new_relic.wait_for(lambda server: of_phase(server, "spawning_complete"), "all users")
    for _ in range(6):
        foreign.report()
    new_relic.wait_for(lambda server: server.of_type("LocustSummary"), "the first window")
    killed.signal(signal.SIGKILL)
    master.wait()
    foreign.close()

    assert_same(new_relic.of_type("LocustRequestStatistics"), master.stats())
    assert_consistent(new_relic)
    (stop,) = of_phase(new_relic, "stop")
    assert stop["approximate_workers"] == 2
    assert sum(event["num_requests"] for event in new_relic.of_type("LocustRequestStatistics", name="/go")) == 300
    assert {event["status_code"] for event in new_relic.of_type("LocustStatusCode", name="/go")} == {0}
    assert {event["status_code"] for event in new_relic.of_type("LocustStatusCode", name="/")} == {0, 200}
    said = [line for line in master.log.splitlines() if foreign.client_id in line and "New Relic" in line]
    assert ["cannot be read (sent_at)" in line or "another version" in line for line in said] == [True, True]
    assert "goland:worker-" in json.dumps(new_relic.of_type("LocustNode"))
    assert no_log_of_a_fault(master.log)


EARLIER = "import time as _t\n_real = _t.time\n_t.time = lambda: _real() - 3600\n"


def busy_workers(new_relic):
    """The workers that made requests."""
    return {event["node"] for event in new_relic.of_type("LocustNode", role="worker") if event["num_requests"]}


def test_clocks_and_absences(new_relic, locusts, target, tmp_path):
    """A worker whose clock is an hour off, a late one, one that is away for a while: all count in the right windows."""
    crew = Crew(locusts, new_relic)
    master = crew.master(STEADY, "--headless", "--expect-workers", "2", "-H", target, "-u", "6", "-r", "6",
                         "--newrelic-interval", "2")  # fmt: skip
    crew.worker(EARLIER + STEADY, name="earlier.py")
    away = crew.worker(STEADY)
    new_relic.wait_for(lambda server: of_phase(server, "spawning_complete"), "all users")
    pause(away)
    crew.worker(STEADY, name="late.py")
    master.wait_for_log("failed to send heartbeat")
    resume(away)
    new_relic.wait_for(lambda server: len(busy_workers(server)) >= 2, "requests of the others")
    new_relic.wait_for(lambda server: len(server.of_type("LocustSummary")) >= 6, "some windows")
    is_back = "self-healed" in master.log  # now and then Locust does not hear of a worker any more
    master.signal(signal.SIGINT)
    master.wait()

    assert_same(new_relic.of_type("LocustRequestStatistics"), master.stats())
    assert_consistent(new_relic)
    (start,), (stop,) = of_phase(new_relic, "start"), of_phase(new_relic, "stop")
    for event in new_relic.of_type("LocustSummary"):
        assert start["timestamp"] - 2000 < event["timestamp"] <= stop["timestamp"] + 2000
    skews = {round(event["clock_skew_ms"], -6) for event in new_relic.of_type("LocustNode", role="worker")
             if "clock_skew_ms" in event}  # fmt: skip
    assert skews == {0, -4_000_000}
    made = Counter(int(time_s + (3600 if time_s < start["timestamp"] / 1000 - 1800 else 0)) // 2 * 2000
                   for _, time_s, *_ in truth(tmp_path))  # fmt: skip
    told = Counter()
    for event in new_relic.of_type("LocustSummary"):
        told[event["timestamp"]] += event["num_requests"]
    if is_back:
        assert sum(abs(told[at] - made[at]) for at in made) < 0.1 * sum(made.values())
    assert stop["approximate_workers"] == 0


SHAPE = """
from locust import LoadTestShape

class Steps(LoadTestShape):
    def tick(self):
        second = self.get_run_time()
        return None if second > 5 else (2 + int(second), 10)
"""


LATE_RECORD = """
from locust import events

@events.quitting.add_listener
def record_too_late(**_):
    locust_newrelic.record("TooLate")
"""


def test_an_event_recorded_after_the_last_report(new_relic, locusts, target):
    """What a worker records when it has sent its last report is lost; its log says so."""
    crew = Crew(locusts, new_relic)
    master = crew.master(STEADY, "--headless", "-H", target, "-u", "1", "-t", "2", "--expect-workers", "1")
    worker = crew.worker(STEADY + LATE_RECORD)
    assert (worker.wait(), master.wait()) == (0, 0), worker.log + master.log

    assert new_relic.of_type("TooLate") == []
    assert worker.log.count("1 events were recorded after the last report to the master: lost") == 1


def test_workers_that_reset_without_the_master(new_relic, locusts, target):
    """What such workers had not reported is gone for Locust; for New Relic it is in the first epoch, as all else is."""
    crew = Crew(locusts, new_relic)
    master = crew.master(STEADY, "--headless", "-H", target, "-u", "4", "-r", "1", "-t", "8", "--expect-workers", "2",
                         "--newrelic-interval", "2")  # fmt: skip
    for worker in [crew.worker(STEADY, "--reset-stats") for _ in range(2)]:
        assert worker.wait() == 0, worker.log
    assert master.wait() == 0, master.log

    assert {event["stats_epoch"] for event in new_relic.events} == {0}
    assert reported_counts(new_relic.of_type("LocustRequestStatistics")) == counts(truth(locusts.folder))
    assert no_log_of_a_fault(master.log)


@pytest.mark.parametrize("more", ["", "--reset-stats"])
def test_a_shape(new_relic, locusts, target, more):
    """A custom shape; with --reset-stats, Locust's figures are those of the last epoch, and nothing is lost."""
    options, environment = processes(new_relic)
    locustfile = STEADY + SHAPE if not more else STEADY
    limits = ["-t", "9", "-u", "4", "-r", "2", more] if more else []
    run = locusts.run(locustfile, *options, "-H", target, *limits, environment=environment)

    epochs = {event["stats_epoch"] for event in new_relic.of_type("LocustRequestStatistics")}
    assert epochs == ({0, 1} if more else {0})
    assert_same(new_relic.of_type("LocustRequestStatistics", stats_epoch=max(epochs)), run.stats())
    made = counts(truth(locusts.folder))
    assert reported_counts(new_relic.of_type("LocustRequestStatistics")) == made
    assert no_log_of_a_fault(run.log)
