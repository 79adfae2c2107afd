"""Whatever New Relic, the network or the disk do: no event is lost or doubled, and Locust exits in time.

All runs go on at once, each with a New Relic of its own that has one fault; each test then looks at one of them.
"""

import contextlib
import datetime
import json
import re
import signal
import socket
import threading
import time
from base64 import b64encode
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

import pytest
from locusts import PATIENCE_S, Locusts, free_port
from new_relic import Answer, NewRelic, make_certificate
from test_end_to_end import assert_same
from test_web_ui import WebUI

from locust_newrelic.cli import main

LOCUSTFILE = """
import locust_newrelic
from locust import FastHttpUser, constant_throughput, task

class Visitor(FastHttpUser):
    wait_time = constant_throughput(20)

    @task
    def index(self):
        self.client.get("/")

    @task
    def broken(self):
        self.client.post("/broken", json={})
"""

NAME_SERVICE = """
import _socket, gevent.monkey
sleep, getaddrinfo = gevent.monkey.get_original("time", "sleep"), _socket.getaddrinfo

def faulty(host, *arguments, **options):
    if "collector.invalid" in str(host):
        {fault}
    return getaddrinfo(host, *arguments, **options)

_socket.getaddrinfo = faulty
"""
NAME_SERVICE_FAILS = NAME_SERVICE.format(fault='raise _socket.gaierror(_socket.EAI_NONAME, "Name not known")')
NAME_SERVICE_HANGS = NAME_SERVICE.format(fault="sleep(3600)")

FLUSH_TIMEOUT_S = 2
EXIT_MARGIN_S = 20
"""How much later than that a slow and busy machine may see the exit: far less than what hangs would take."""

BUSY = Answer(503, {"Retry-After": "0"})
LOST_ANSWER = Answer(503, {"Retry-After": "0"}, keep=True)

KEY = "0123456789abcdefRECOGNISABLEKEYffffFFNRAL"
PASSWORD = "recognisable-p4ssword"
SECRETS = (KEY, KEY[10:30], PASSWORD, b64encode(f"user:{PASSWORD}".encode()).decode())


@dataclass
class Fault:
    """A way to fail."""

    said: str
    """A pattern of what the log must say."""
    answers: list = field(default_factory=list)
    """What New Relic answers, before 200."""
    always: Answer | None = None
    variables: dict = field(default_factory=dict)
    locustfile: str = ""
    is_sent: bool | None = None
    """Whether all must arrive, or nothing; None: some may."""


FAULTS = {
    "healthy": Fault("none lost", is_sent=True),
    "throttled": Fault("HTTP 429", [Answer(429, {"Retry-After": seconds}) for seconds in "1010"], is_sent=True),
    "throttled till a date": Fault("HTTP 429", [Answer(429, {"Retry-After": formatdate(usegmt=True)})], is_sent=True),
    "throttled for longer than it runs": Fault("HTTP 429", always=Answer(429, {"Retry-After": "120"}), is_sent=False),
    "503 for a while": Fault("HTTP 503.*takes events again", [BUSY] * 6, is_sent=True),
    "every third connection broken": Fault("cannot be sent", [Answer(), Answer(), Answer(503, close=True)] * 20),
    "answers lost after acceptance": Fault("HTTP 503", [LOST_ANSWER, Answer(), Answer(close=True, keep=True)] * 4),
    "413 below any batch": Fault("HTTP 413", always=Answer(413), is_sent=False),
    "hanging after a while": Fault("not delivered in time", [Answer(), *[NewRelic.hanging()] * 9]),
    "certificate wrong": Fault(
        "certificate not trusted.*--newrelic-ca-bundle",
        variables={"NEW_RELIC_CA_BUNDLE_PATH": "{other}"},
        is_sent=False,
    ),
    "port closed": Fault(
        "Connection refused", variables={"LOCUST_NEWRELIC_ENDPOINT": "https://127.0.0.1:{port}"}, is_sent=False
    ),
    "name service failing": Fault(
        "host name not found",
        variables={"LOCUST_NEWRELIC_ENDPOINT": "https://collector.invalid"},
        locustfile=NAME_SERVICE_FAILS,
        is_sent=False,
    ),
    "name service hanging": Fault(
        "not delivered in time",
        variables={"LOCUST_NEWRELIC_ENDPOINT": "https://collector.invalid"},
        locustfile=NAME_SERVICE_HANGS,
        is_sent=False,
    ),
    "proxy that refuses": Fault(
        "proxy: it answered HTTP 407", variables={"HTTPS_PROXY": "{refusing}", "NO_PROXY": ""}, is_sent=False
    ),
    "proxy that swallows": Fault(
        "not delivered in time", variables={"HTTPS_PROXY": "{swallowing}", "NO_PROXY": ""}, is_sent=False
    ),
    "wrong key": Fault(
        r"127\.0\.0\.1 refused events: HTTP 403\. Check the license key .* They are kept in",
        variables={"NEW_RELIC_LICENSE_KEY": KEY[:-1] + "X"},
        is_sent=False,
    ),
    "disk read-only": Fault(
        "cannot be kept in /proc either", always=BUSY, variables={"LOCUST_NEWRELIC_SPOOL_DIR": "/proc"}, is_sent=False
    ),
}
LOSES_ANSWERS = "answers lost after acceptance"


class Proxies:
    """A proxy that wants other credentials, and one that accepts connections and says nothing."""

    def __init__(self):
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.refusing, self.swallowing = (
            f"http://user:{PASSWORD}@127.0.0.1:{listener.getsockname()[1]}" for listener in self._sockets
        )
        threading.Thread(target=self._refuse, daemon=True).start()

    def _refuse(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._sockets[0].accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 407 Who are you?\r\nContent-Length: 0\r\n\r\n")

    def close(self):
        for listener in self._sockets:
            listener.close()


class Run:
    """A Locust process against a New Relic with one fault."""

    def __init__(self, folder, fault, target, proxies):
        self.folder, self.fault = folder, fault
        self.new_relic = NewRelic(folder, license_key=KEY)
        self.new_relic.answers, self.new_relic.always = list(fault.answers), fault.always
        facts = {"other": make_certificate(folder, "other"), "port": free_port()}
        facts |= {"refusing": proxies.refusing, "swallowing": proxies.swallowing}
        unused = {"HTTPS_PROXY": proxies.refusing, "NO_PROXY": "127.0.0.1,collector.invalid"}
        variables = {name: value.format(**facts) for name, value in fault.variables.items()}
        self.working = folder / "work"
        self.working.mkdir()
        self._locusts = Locusts(self.working)
        self.locust = self._locusts.start(
            LOCUSTFILE + fault.locustfile, "--headless", "-H", target, "-L", "DEBUG", "-u", "2",
            "--newrelic-interval", "1", "--newrelic-flush-timeout", str(FLUSH_TIMEOUT_S),
            "--newrelic-output", "made.ndjson", environment=self.new_relic.environment() | unused | variables,
        )  # fmt: skip
        wait_until(self._commands, "its command line, which is empty while the system starts it")
        self.commands = self._commands()
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def _commands(self):
        paths = Path("/proc").glob(f"{self.locust.process.pid}/**/cmdline")
        return list(filter(None, [path.read_text() for path in paths if path.exists()]))

    def _wait(self):
        self.code = self.locust.wait()
        self.ended_s = time.time()

    def end(self):
        """Stop it once it has reported some windows."""
        wait_until(lambda: self._num_made() >= 5, "some windows")
        self.locust.signal(signal.SIGTERM)

    def _num_made(self):
        path = self.working / "made.ndjson"
        return path.read_text().count('"LocustRequestStatistics"') if path.exists() else 0

    def wait(self):
        """Wait for its end."""
        self._waiting.join()

    def close(self):
        """End it."""
        self._locusts.close()
        self.new_relic.close()

    def made(self):
        """All events that were made, by their numbers."""
        return read(self.working / "made.ndjson")

    def kept(self):
        """The events in its spool."""
        return [event for path in self.working.glob("*.spool.ndjson") for event in read(path)]

    @property
    def exit_s(self):
        """How long it took from Locust's shutdown to its end."""
        said = re.search(r"^\[([\d :,-]+)\].*Shutting down", self.locust.log, re.MULTILINE)[1]
        return self.ended_s - datetime.datetime.strptime(said, "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)


def read(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def by_seq(events):
    return {(event["run_id"], event["seq"]): event for event in events}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, target):
    """One run for each fault, at its end."""
    proxies = Proxies()
    started = {}
    try:
        for name, fault in FAULTS.items():
            started[name] = Run(tmp_path_factory.mktemp("fault"), fault, target, proxies)
        for run in started.values():
            run.end()
        for run in started.values():
            run.wait()
        yield started
    finally:
        for run in started.values():
            run.close()
        proxies.close()


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost_and_nothing_is_doubled(runs, name, monkeypatch):
    """Received and spooled are Locust's own counts exactly, Locust ends in time, and a replay delivers the rest."""
    run, fault = runs[name], FAULTS[name]
    new_relic, log = run.new_relic, run.locust.log
    made, kept = by_seq(run.made()), run.kept()
    received = list(new_relic.events)

    assert run.code == 1, log  # as of its failed requests
    assert run.exit_s < FLUSH_TIMEOUT_S + EXIT_MARGIN_S
    assert re.search(fault.said, log, re.DOTALL), log
    assert "/locust_newrelic/" not in log  # in a traceback
    if name == "disk read-only":
        assert f"{len(made)} lost ({len(made)} spool not writable)" in log
        return

    assert by_seq(received + kept) == made
    statistics = [
        event for event in by_seq(received + kept).values() if event["eventType"] == "LocustRequestStatistics"
    ]
    assert_same(statistics, run.locust.stats())
    if name != LOSES_ANSWERS:
        assert len(received) + len(kept) == len(made)
    if fault.is_sent is not None:
        assert kept == [] if fault.is_sent else received == []

    new_relic.answers, new_relic.always = [], None
    replay(run.working, new_relic, monkeypatch)
    num_received = len(new_relic.events)
    assert by_seq(new_relic.events) == made
    if name != LOSES_ANSWERS:
        assert len(new_relic.events) == len(made)
    assert run.kept() == []
    assert main(["replay", "made.ndjson"]) == 1
    assert len(new_relic.events) == num_received
    assert new_relic.refused == []


@pytest.mark.parametrize(
    ("name", "telling"),
    [("healthy", "events_sent"), ("503 for a while", "events_retried"), ("wrong key", "events_spooled"),
     ("port closed", "events_queued"), ("disk read-only", "events_lost")],
)  # fmt: skip
def test_what_became_of_events_is_told(runs, name, telling):
    """LocustNode says what was sent, sent again, spooled, lost and is queued; it adds up to no more than was made."""
    made = runs[name].made()
    nodes = [event for event in made if event["eventType"] == "LocustNode"]
    told = {
        what: sum(event[f"events_{what}"] for event in nodes)
        for what in ("sent", "retried", "spooled", "lost", "queued")
    }

    if telling != "events_lost":  # which is known when the queue is full, or at the end
        assert told[telling.removeprefix("events_")] > 0
    assert told["sent"] + told["spooled"] + told["lost"] <= len(made)
    assert all(told[what] >= 0 for what in told)


def replay(folder, new_relic, monkeypatch):
    """Send the spools of a folder."""
    for name, value in new_relic.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    spools = [str(path) for path in folder.glob("*.spool.ndjson")]
    assert not spools or main(["replay", *spools]) == 0


@pytest.mark.parametrize("name", FAULTS)
def test_no_secret_leaks(runs, name):
    """At debug level neither the key nor the proxy's password is in a log, an output, a file, an event or a command."""
    run = runs[name]
    places = {
        "log": run.locust.log,
        "output": run.locust.output,
        "commands": "".join(run.commands),
        "events": json.dumps(run.new_relic.events),
        **{path.name: path.read_text() for path in run.working.iterdir() if path.is_file()},
    }

    assert "DEBUG" in places["log"]
    assert "locust" in places["commands"]
    assert "made.ndjson" in places
    leaks = [(place, secret) for place, text in places.items() for secret in SECRETS if secret in text]
    assert leaks == []


def test_no_secret_is_in_the_web_ui(tmp_path, locusts, target):
    """No page of Locust's web UI, that with its log among them, shows the key or the password while sending fails."""
    new_relic = NewRelic(tmp_path, license_key=KEY)
    new_relic.answers = [Answer(403), BUSY, Answer(400), Answer(close=True), Answer(413), Answer(413)]
    secret = {"HTTPS_PROXY": f"http://user:{PASSWORD}@127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    web = WebUI(
        locusts, "-H", target, "-L", "DEBUG", "--newrelic-interval", "1", environment=new_relic.environment() | secret
    )
    web.start()
    new_relic.wait_for(lambda server: len(server.posts) >= 6, "six answers")
    pages = [web.get(path).text for path in ("/", "/logs", "/stats/requests", "/stats/report", "/exceptions", "/tasks")]
    web.locust.signal(signal.SIGTERM)
    web.locust.wait()
    new_relic.close()

    assert "refused events: HTTP 403" in pages[1]
    assert [secret for secret in SECRETS if secret in "".join(pages)] == []


def test_a_killed_locust(tmp_path, new_relic, locusts, target, monkeypatch):
    """After SIGKILL during an outage only the open window is missing, and the next run there is not disturbed."""
    options = ("--headless", "-H", target, "--newrelic-interval", "1")
    killed = locusts.start(LOCUSTFILE, *options, environment=new_relic.environment())
    new_relic.wait_for(lambda server: len(server.of_type("LocustSummary")) >= 2, "two windows")
    new_relic.always = Answer(503)
    killed.wait_for_log("events cannot be sent")

    def num_windows_kept():
        spools = list(tmp_path.glob("*.spool.ndjson"))
        return sum(path.read_text().count('"LocustSummary"') for path in spools)

    wait_until(lambda: num_windows_kept() >= 2, "two windows in the spool")
    killed.signal(signal.SIGKILL)
    killed.wait()
    (spool,) = tmp_path.glob("*.spool.ndjson")
    before = spool.read_bytes()
    new_relic.always = None

    second = locusts.run(LOCUSTFILE, *options, "-t", "1", environment=new_relic.environment())
    assert spool.read_bytes() == before
    assert "none lost" in second.log
    run_id = json.loads(before.splitlines()[0])["run_id"]
    (stop,) = new_relic.of_type("LocustTestRun", phase="stop")
    assert_same(new_relic.of_type("LocustRequestStatistics", run_id=stop["run_id"]), second.stats())

    replay(tmp_path, new_relic, monkeypatch)
    seqs = [event["seq"] for event in new_relic.events if event["run_id"] == run_id]
    assert sorted(seqs) == list(range(1, len(seqs) + 1))
    assert not spool.exists()
