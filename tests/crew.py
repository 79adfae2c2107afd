"""A master with workers: real Locust processes, workers in another language, and what travels between them."""

import contextlib
import json
import re
import signal
from collections import Counter

import gevent
import msgpack
import zmq.green as zmq
from gevent import socket
from gevent.server import StreamServer
from locusts import Locust, Locusts, free_port

TRUTH = """
import json as _json, os as _os, time as _time
from locust import events as _events

_truth = {"file": open(f"truth-{_os.getpid()}", "a", buffering=1), "run": None}

@_events.test_start.add_listener
def _note_run(environment, **_):
    _truth["run"] = environment.parsed_options.newrelic_run["run_id"]

@_events.request.add_listener
def _write_truth(request_type, name, exception=None, **_):
    _truth["file"].write(_json.dumps([_truth["run"], _time.time(), request_type, name, bool(exception)]) + "\\n")
"""
"""To append to a locustfile: each process writes what it requests, when, and in which run it was started last."""

STEADY = f"""
import locust_newrelic
from locust import FastHttpUser, constant_throughput, task

class Steady(FastHttpUser):
    wait_time = constant_throughput(20)

    @task
    def index(self):
        self.client.get("/")

{TRUTH}
"""
"""A locustfile whose users make 20 requests a second each."""


def truth(folder) -> list[list]:
    """What all processes with ``TRUTH`` have written: id of the run, time in s, method, name, whether it failed."""
    return [json.loads(line) for path in folder.glob("truth-*") for line in path.read_text().splitlines()]


def counts(requests: list[list]) -> Counter:
    """How many there are by method and name, and how many of them failed."""
    found = Counter()
    for _, _, method, name, failed in requests:
        found[method, name, "num_requests"] += 1
        found[method, name, "num_failures"] += failed
    return +found


def reported_counts(events: list[dict]) -> Counter:
    """The same of endpoint events."""
    found = Counter()
    for event in events:
        for what in ("num_requests", "num_failures"):
            found[event["method"], event["name"], what] += event[what]
    return +found


class Crew:
    """A master and its workers, which are told its port only: no key, no endpoint."""

    def __init__(self, locusts: Locusts, new_relic) -> None:
        self._locusts, self._new_relic = locusts, new_relic
        self.port = free_port()

    def master(self, locustfile: str, *options: str, name: str = "master.py") -> Locust:
        """Start the master."""
        bind = ("--master-bind-host", "127.0.0.1", "--master-bind-port", str(self.port))
        return self._locusts.start(
            locustfile, "--master", *bind, *options, environment=self._new_relic.environment(), name=name
        )

    def worker(self, locustfile: str, *options: str, port: int | None = None, name: str = "worker.py") -> Locust:
        """Start a worker."""
        return self._locusts.start(
            locustfile, "--worker", "--master-host", "127.0.0.1", "--master-port", str(port or self.port), *options,
            name=name,
        )  # fmt: skip


class Wiretap:
    """A TCP proxy in front of a port that keeps what passes in both directions."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.passed = bytearray()
        self._server = StreamServer(("127.0.0.1", 0), self._connected)
        self._server.start()
        self.port = self._server.server_port

    def _connected(self, near, _):
        far = socket.create_connection(("127.0.0.1", self._target))
        gevent.joinall([gevent.spawn(self._pass_on, near, far), gevent.spawn(self._pass_on, far, near)])

    def _pass_on(self, source, sink):
        with contextlib.suppress(OSError):  # one of the two is gone
            while data := source.recv(65536):
                self.passed += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Accept nothing more."""
        self._server.stop()


class ForeignWorker:
    """A worker that is no Python, on the wire as Locust's Go and Java workers are: msgpack over ZeroMQ.

    For each report it makes ``requests_per_report`` requests, of which a tenth fails. *extra* are further keys of its
    reports, of one after the other.
    """

    requests_per_report = 50

    def __init__(self, port: int, client_id: str = "goland_0123", extra: tuple[dict, ...] = ()) -> None:
        self.client_id = client_id
        self._extra = list(extra)
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, client_id.encode())
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        self.num_requests = 0
        self._users: dict[str, int] = {}
        self._state = "ready"
        self._send("client_ready", -1)
        self._greenlets = [gevent.spawn(self._beat), gevent.spawn(self._listen)]

    def report(self) -> None:
        """Make the requests of a report, and send it."""
        now, number, failed = gevent.time.time(), self.requests_per_report, self.requests_per_report // 10
        self.num_requests += number
        entry = {
            "name": "/go", "method": "GET", "last_request_timestamp": now, "start_time": now - 1,
            "num_requests": number, "num_none_requests": 0, "num_failures": failed, "total_response_time": 10 * number,
            "max_response_time": 10, "min_response_time": 10, "total_content_length": 3 * number,
            "response_times": {10: number}, "num_reqs_per_sec": {int(now): number},
            "num_fail_per_sec": {int(now): failed},
        }  # fmt: skip
        total = {**entry, "name": "Aggregated", "method": ""}
        extra = self._extra.pop(0) if self._extra else {}
        self._send(
            "stats",
            {"stats": [entry], "stats_total": total, "errors": {}, "user_classes_count": self._users,
             "user_count": sum(self._users.values()), **extra},
        )  # fmt: skip

    def close(self) -> None:
        """Be gone, without a word."""
        gevent.killall(self._greenlets)
        self._socket.close()

    def _send(self, message_type, data):
        self._socket.send(msgpack.dumps((message_type, data, self.client_id)))

    def _beat(self):
        while True:
            self._send(
                "heartbeat", {"state": self._state, "current_cpu_usage": 12.5, "current_memory_usage": 1_000_000}
            )
            gevent.sleep(0.5)

    def _listen(self):
        while True:
            message_type, data, _ = msgpack.loads(self._socket.recv(), strict_map_key=False)
            if message_type == "spawn":
                self._users, self._state = data["user_classes_count"], "running"
                self._send("spawning", None)
                self._send("spawning_complete", {"user_classes_count": self._users, "user_count": 1})
            elif message_type in ("stop", "quit"):
                self._users, self._state = {}, "ready"
                if message_type == "stop":
                    self._send("client_stopped", None)
                    self._send("client_ready", -1)


def pause(process: Locust) -> None:
    """Have a process do nothing until :func:`resume`."""
    process.signal(signal.SIGSTOP)


def resume(process: Locust) -> None:
    """Let it go on."""
    process.signal(signal.SIGCONT)


def no_log_of_a_fault(log):
    """Whether nothing of ours went wrong."""
    ours = re.sub(r"/locust_newrelic/reporter.py., line \d+, in on_interrupt", "", log)  # it passes a Ctrl-C on
    return "unexpected" not in log and "Uncaught exception" not in log and "/locust_newrelic/" not in ours
