"""Runs that are started and stopped from Locust's web UI."""

import re

import pytest
import requests
from locusts import free_port, sums
from test_end_to_end import SIMPLE, assert_consistent, assert_same

PRINT_OPTIONS = """
from locust import events

@events.test_start.add_listener
def print_options(environment, **_):
    print("options", sorted(name for name in vars(environment.parsed_options) if "newrelic" in name))
"""


class WebUI:
    """The web UI of a Locust process, by HTTP as a browser would."""

    def __init__(self, locusts, *options, locustfile=SIMPLE, environment=None):
        self.url = f"http://127.0.0.1:{free_port()}"
        port = self.url.rpartition(":")[2]
        self.locust = locusts.start(
            locustfile, "--web-host", "127.0.0.1", "--web-port", port, *options, environment=environment
        )
        self.locust.wait_for_log("Starting web interface")
        self._session = requests.Session()
        self._session.trust_env = False
        until_it_listens = requests.adapters.Retry(10, backoff_factor=0.01)
        self._session.mount("http://", requests.adapters.HTTPAdapter(max_retries=until_it_listens))
        self.get("/")

    def start(self, **form):
        answer = self._session.post(f"{self.url}/swarm", data={"user_count": 2, "spawn_rate": 2, **form}, timeout=30)
        assert answer.json()["success"], answer.text

    def stop(self):
        assert self._press("/stop").json()["success"]

    def reset(self):
        assert self._press("/stats/reset").text == "ok"

    def _press(self, path):
        """Press a button: a POST, but a GET before Locust 2.40."""
        answer = self._session.post(f"{self.url}{path}", timeout=90)
        return self.get(path) if answer.status_code == 405 else answer

    def get(self, path):
        return self._session.get(f"{self.url}{path}", timeout=30)

    def stats(self):
        """Locust's figures of the last run, as its page shows them: (requests, failures, bytes) by method and name."""
        return {
            (row["method"], row["name"]): (
                row["num_requests"],
                row["num_failures"],
                round(row["avg_content_length"] * row["num_requests"]),
            )
            for row in self.get("/stats/requests").json()["stats"]
            if row["name"] != "Aggregated"
        }


def received(new_relic, run_id):
    """The same of what New Relic got of a run."""
    return {
        key: (entry["num_requests"], entry["num_failures"], entry["total_content_length"])
        for key, entry in sums(new_relic.of_type("LocustRequestStatistics", run_id=run_id)).items()
    }


def of_phase(new_relic, phase):
    return new_relic.of_type("LocustTestRun", phase=phase)


def test_two_runs_one_right_after_the_other(new_relic, locusts, target):
    """A run that starts at once after the one before is a run of its own; no request counts in the wrong one."""
    web = WebUI(locusts, "-H", target, "--newrelic-run-id", "ci", environment=new_relic.environment())
    web.start()
    new_relic.wait_for(lambda server: of_phase(server, "spawning_complete"), "the first run")
    web.stop()
    first = web.stats()
    web.start()
    new_relic.wait_for(lambda server: len(of_phase(server, "spawning_complete")) == 2, "the second run")
    web.stop()
    new_relic.wait_for(lambda server: len(of_phase(server, "stop")) == 2, "the second stop, without Locust's end")
    web.locust.signal(2)
    web.locust.wait()

    assert [event["run_id"] for event in of_phase(new_relic, "stop")] == ["ci", "ci-2"]
    assert received(new_relic, "ci") == first
    assert_same(new_relic.of_type("LocustRequestStatistics", run_id="ci-2"), web.locust.stats())
    assert_consistent(new_relic)


def test_the_reset_button(new_relic, locusts, target):
    """Reset in the web UI raises the epoch: Locust's figures are those since then, the run is the sum."""
    web = WebUI(locusts, "-H", target, "--newrelic-interval", "1", environment=new_relic.environment())
    web.start()
    new_relic.wait_for(lambda server: len(server.of_type("LocustSummary")) >= 2, "two windows")
    web.reset()
    new_relic.wait_for(lambda server: len(server.of_type("LocustSummary", stats_epoch=1)) >= 2, "two more")
    web.stop()
    web.locust.signal(2)
    web.locust.wait()

    assert_same(new_relic.of_type("LocustRequestStatistics", stats_epoch=1), web.locust.stats())
    assert_consistent(new_relic)


def test_changing_the_users_of_a_running_test(new_relic, locusts, target):
    """Another number of users while the test runs is no new run."""
    web = WebUI(locusts, "-H", target, environment=new_relic.environment())
    web.start()
    new_relic.wait_for(lambda server: of_phase(server, "spawning_complete"), "two users")
    web.start(user_count=5, spawn_rate=5)
    new_relic.wait_for(lambda server: len(of_phase(server, "spawning_complete")) == 2, "five users")
    web.locust.signal(2)
    web.locust.wait()

    assert [event["user_count"] for event in of_phase(new_relic, "spawning_complete")] == [2, 5]
    assert_same(new_relic.of_type("LocustRequestStatistics"), web.locust.stats())
    assert_consistent(new_relic)


def test_the_web_ui_neither_shows_nor_sets_our_options(new_relic, locusts, target):
    """The pages hold neither our options nor the key, and a form that names them changes nothing."""
    web = WebUI(
        locusts, "-H", target, "--newrelic-app-name", "mine", locustfile=SIMPLE + PRINT_OPTIONS,
        environment=new_relic.environment(),
    )  # fmt: skip
    pages = "".join(web.get(path).text for path in ("/", "/stats/report", "/logs", "/stats/requests"))
    web.start(newrelic_app_name="theirs", newrelic_license_key="theirs", newrelic_interval="1", newrelic_output="x")
    new_relic.wait_for(lambda server: of_phase(server, "spawning_complete"), "the run")
    web.locust.signal(2)
    web.locust.wait()

    assert "newrelic_" not in pages
    assert "--newrelic" not in pages
    assert new_relic.license_key not in pages
    assert {event["appName"] for event in new_relic.events} == {"mine"}
    assert "options []\n" in web.locust.output
    assert not re.search(new_relic.license_key, web.locust.log)


@pytest.mark.parametrize("number", [2, 15])
def test_ending_locust_while_nothing_runs(new_relic, locusts, target, number):
    """Locust ends as always, and at once, when its web UI was never used."""
    web = WebUI(locusts, "-H", target, environment=new_relic.environment())
    web.locust.signal(number)

    assert web.locust.wait() == 0, web.locust.log
    assert new_relic.events == []
