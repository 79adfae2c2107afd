"""Runs of a master and workers that are started and stopped from Locust's web UI."""

import re

import gevent
from crew import STEADY, Crew, Wiretap, counts, no_log_of_a_fault, reported_counts, truth
from test_end_to_end import assert_same
from test_web_ui import WebUI, of_phase

from locust_newrelic.config import SETTINGS


def test_runs_from_the_web_ui(new_relic, locusts, target, tmp_path):
    """Stop and start again, also while the stop still waits: each request counts in the run in which it was made.

    The key does not travel to the workers, and whatever is posted for our options changes nothing.
    """
    crew = Crew(locusts, new_relic)
    tap = Wiretap(crew.port)
    master_options = ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", str(crew.port)]
    web = WebUI(locusts, *master_options, "-H", target, "--newrelic-run-id", "web", "--newrelic-interval", "3",
                locustfile=STEADY, environment=new_relic.environment())  # fmt: skip
    workers = [crew.worker(STEADY, port=tap.port) for _ in range(2)]
    web.locust.wait_for_log("2 workers connected")
    posted = {setting.option: "1" for setting in SETTINGS} | {"newrelic_run": ""}
    web.start(user_count=4, spawn_rate=4, **posted)
    new_relic.wait_for(lambda server: len(server.of_type("LocustSummary")) >= 2, "two windows")
    web.start(user_count=5, spawn_rate=5, **posted, host=target)
    new_relic.wait_for(lambda server: len(of_phase(server, "spawning_complete")) == 2, "one more user")
    stopping = gevent.spawn(web.stop)
    web.locust.wait_for_log(r"(?s)stopped.*(reported as ready.*){2}")  # the stop looks for that once a second only
    web.start(user_count=3, spawn_rate=3, **posted)
    new_relic.wait_for(lambda server: of_phase(server, "stop"), "the end of the first run")
    new_relic.wait_for(lambda server: len(server.of_type("LocustSummary", run_id="web-2")) >= 1, "a window")
    web.stop()
    stopping.join()  # of the first run, after the second has begun
    new_relic.wait_for(lambda server: len(of_phase(server, "stop")) == 2, "the second stop, without Locust's end")
    web.start(user_count=2, spawn_rate=2)
    new_relic.wait_for(
        lambda server: server.of_type("LocustTestRun", run_id="web-3", phase="spawning_complete"), "users"
    )
    web.stop()
    web.locust.signal(2)
    for process in (web.locust, *workers):
        process.wait()
    tap.close()

    requests = truth(tmp_path)
    assert_same(new_relic.of_type("LocustRequestStatistics", run_id="web-3"), web.locust.stats())
    for run_id in ("web", "web-2", "web-3"):
        events = new_relic.of_type("LocustRequestStatistics", run_id=run_id)
        assert reported_counts(events) == counts([request for request in requests if request[0] == run_id])
    assert {event["interval_ms"] for event in of_phase(new_relic, "start")} == {3000}
    assert {event["appName"] for event in new_relic.events} == {"Locust"}
    assert new_relic.license_key.encode() not in tap.passed
    assert set(re.findall(rb"newrelic_\w+", tap.passed)) == {b"newrelic_run"}
    assert no_log_of_a_fault(web.locust.log)
