"""What is compared: nobody, an empty listener, this package, and what a user would pick instead, by their own code.

Each candidate says how it is used in a process of the benchmark (its ``listener``, ``fill`` and ``end_interval``) and
in a run of Locust's command (``arguments`` and ``variables``, and ``usage.py``). What the benchmarks use of this
package's insides is in :class:`Ours` and nowhere else, but for ``distributed.py``.
"""

import argparse
import functools
import http.server
import logging
import os
import random
import socket
import statistics
import threading
import time
from itertools import islice

import gevent
import usage
from locust import FastHttpUser
from locust.env import Environment
from locust.event import EventHook, Events
from locust.stats import StatsError
from newrelic_telemetry_sdk import EventBatch
from servers import LICENSE_KEY

BUCKETS_MS = (100, 250, 500, 1000, 2500, 5000, 10000)
REQUESTS_PER_S = 4_000
"""What a saturated process makes: by it, the cost of an interval's end is shared among the requests of the interval."""
FAILED = 0.02


class Candidate:
    """Something that listens to requests."""

    key = ""
    label = ""
    interval_s = 0.0
    """How often it reports by default; 0 if it does not."""
    only_on_workers = False
    """Whether it listens to no request where there is no master."""
    most_names = None
    """How many names of requests it keeps apart; None for any number, or for what its user sets."""

    def __init__(self, sink=None, endpoints=20):
        self.sink, self.endpoints = sink, endpoints
        self.environment = Environment(events=Events())
        self.listener = None

    def hook(self, *, with_locust=True):
        """What fires requests at the listener: beside Locust's own statistics, or alone."""
        if not with_locust:
            hook = EventHook()
        elif self.environment.runner is None:
            self.environment.create_local_runner().greenlet.kill()  # its listeners only: nothing watches the CPU here
            hook = self.environment.events.request
        else:
            hook = self.environment.events.request
        if self.listener is not None and self.listener not in hook._handlers:
            hook.add_listener(self.listener)
        return hook

    def end_interval(self):
        """Do all that is done at the end of an interval, sending included."""

    def close(self):
        """Report no more."""

    def fill(self, number, pause=None):
        """Make it have so many things to send (as many as it can), with pauses; returns how many."""
        fire_many(self.hook(with_locust=False), number, names=number, pause=pause)
        return number

    @classmethod
    def arguments(cls, sink):
        """Of the ``locust`` command."""
        return []

    @classmethod
    def variables(cls, sink):
        """Of its environment."""
        return {}

    @classmethod
    def reporting_every(cls, interval_s):
        """More of them, for another interval."""
        return {}


class Bare(Candidate):
    """Locust alone."""

    key, label = "bare", "Locust alone"


class Empty(Candidate):
    """A listener that does nothing."""

    key, label = "empty", "an empty listener"

    def __init__(self, sink=None, endpoints=20):
        super().__init__(sink, endpoints)
        self.listener = usage.empty


class Ours(Candidate):
    """This package."""

    key, label, interval_s, most_names = "ours", "locust-newrelic", 10.0, 1000

    def __init__(self, sink=None, endpoints=20, max_series=1000):
        from locust_newrelic.delivery import BATCH_SIZE
        from locust_newrelic.gathering import Gathering
        from locust_newrelic.health import Gauge
        from locust_newrelic.histogram import Scale
        from locust_newrelic.payload import Interval, Node, Payload, Totals
        from locust_newrelic.recorder import Recorder
        from locust_newrelic.transport import Transport

        super().__init__(sink, endpoints)
        scale = Scale(BUCKETS_MS)
        self.recorder = Recorder(scale, max_series, error_text=StatsError.parse_error)
        self.listener = self.recorder.on_request
        self.gathering = Gathering(self.recorder.names, max_series)
        gauge = Gauge()
        self.node = Node("load-generator-0", "local", 0, gauge.take(0))
        gauge.close()
        self.payload = Payload(scale, app_name="Locust", run_id="benchmark", test_name="benchmark", attributes={})
        self.totals = Totals()
        self.interval = Interval(int(time.time() * 1000), self.interval_s, 0, 100, 100, 0, "running")
        self.batch_size = BATCH_SIZE
        self.count_s, self.events_s, self.longest_step_s = [], [], 0.0
        self.transport = self.window = None
        if sink is not None:
            self.transport = Transport(
                LICENSE_KEY, sink.events_url, ca_bundle=sink.certificate, version="1", clock=time.time
            )

    def count(self):
        """Count what was recorded since the last call, as the reporter does it: in small steps, to ``window``."""
        yield from self.gathering.add(self.recorder.take(), self.node, self.interval.start_ms, 0, due_s=0.0)
        (slot,) = self.gathering.take_all()
        self.window = slot.window
        yield from self.window.settle()

    def events(self):
        """Those of what was recorded since the last call."""
        begun = last = time.perf_counter()
        for _ in self.count():
            step = time.perf_counter()
            self.longest_step_s = max(self.longest_step_s, step - last)
            last = step
        counted = time.perf_counter()
        events = list(self.payload.window_events(self.window, self.interval, self.totals))
        for _ in self.window.clear():
            pass
        self.count_s.append(counted - begun)
        self.events_s.append(time.perf_counter() - counted)
        return events

    def end_interval(self):
        events = self.events()
        if self.transport is not None:
            for start in range(0, len(events), self.batch_size):
                outcome = self.transport.send(events[start : start + self.batch_size], 10.0)
                assert outcome.verdict.value == "accepted", outcome

    def close(self):
        if self.transport is not None:
            self.transport.close()

    def later_s(self):
        """Seconds of an interval's end without sending, as median: to count, and to make events."""
        return statistics.median(self.count_s), statistics.median(self.events_s)

    def fill(self, number, pause=None):
        """Of each endpoint there are three events, with two status codes, and one in all."""
        endpoints = (number - 1) // 3
        fire_many(self.hook(with_locust=False), 8 * endpoints, names=endpoints, pause=pause)
        return 3 * endpoints + 1

    def deliver(self):
        """As the reporter does it in Locust: with pauses, and by a delivery of its own."""
        from locust_newrelic.delivery import Delivery
        from locust_newrelic.pauses import BREATH_S, in_steps
        from locust_newrelic.sender import EVENTS_AT_ONCE

        delivery = Delivery(self.transport)
        in_steps(self.count())
        made = self.payload.window_events(self.window, self.interval, self.totals)
        num_events = 0
        while events := list(islice(made, EVENTS_AT_ONCE)):
            delivery.put(events)
            num_events += len(events)
            gevent.sleep(BREATH_S)
        in_steps(self.window.clear())
        while delivery.num_queued:
            gevent.sleep(0.001)
        assert delivery.num_sent == num_events
        delivery.greenlet.kill()
        return num_events

    @classmethod
    def variables(cls, sink):
        return {"NEW_RELIC_LICENSE_KEY": LICENSE_KEY, "LOCUST_NEWRELIC_ENDPOINT": sink.events_url,
                "NEW_RELIC_CA_BUNDLE_PATH": sink.certificate}  # fmt: skip

    @classmethod
    def reporting_every(cls, interval_s):
        return {"LOCUST_NEWRELIC_INTERVAL": str(interval_s)}


class Naive(Candidate):
    """A listener that records an SDK event for each request, sent by the SDK's harvester."""

    key, label, interval_s = "naive", "one SDK event per request", 5.0

    def __init__(self, sink=None, endpoints=20):
        super().__init__(sink, endpoints)
        self.batch = EventBatch()
        self.client = None if sink is None else usage.client(LICENSE_KEY, sink.events_url, sink.certificate)
        self.listener = usage.naive(self.batch)

    def end_interval(self):
        (events,) = self.batch.flush()
        if events and self.client is not None:
            self.client.send_batch(events).raise_for_status()

    @classmethod
    def variables(cls, sink):
        return {"BENCHMARK_LICENSE_KEY": LICENSE_KEY, "BENCHMARK_EVENTS_URL": sink.events_url,
                "BENCHMARK_CERTIFICATE": sink.certificate}  # fmt: skip

    @classmethod
    def reporting_every(cls, interval_s):
        return {"BENCHMARK_INTERVAL_S": str(interval_s)}


class Otel(Candidate):
    """Locust's own ``--otel``."""

    key, label, interval_s, most_names = "otel", "Locust --otel", 60.0, 20

    def __init__(self, sink=None, endpoints=20):
        super().__init__(sink, endpoints)
        from locust import events, opentelemetry
        from opentelemetry import _logs, metrics, trace
        from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor

        if sink is None or sink.otlp is None:
            msg = "gRPC is not installed"
            raise RuntimeError(msg)
        before = set(events.request._handlers)
        os.environ |= self.variables(sink)
        if not opentelemetry.setup_opentelemetry("locustfile.py", None):
            msg = "Locust could not set OpenTelemetry up"
            raise RuntimeError(msg)
        (self.listener,) = set(events.request._handlers) - before  # it goes to the global events only
        events.request.remove_listener(self.listener)
        URLLib3Instrumentor().uninstrument()  # FastHttpUser does not use urllib3, but candidates beside it do
        self.provider = metrics.get_meter_provider()
        self.others = trace.get_tracer_provider(), _logs.get_logger_provider()

    def end_interval(self):
        self.provider.force_flush()

    def close(self):
        for provider in (self.provider, *self.others):
            provider.shutdown()

    def fill(self, number, pause=None):
        """Of each name it knows 20 of, those that passed and those that failed."""
        names = min(number // 2, self.most_names)
        fire_many(self.hook(with_locust=False), 8 * names, names=names, pause=pause)
        return 2 * names

    @classmethod
    def arguments(cls, sink):
        return ["--otel"]

    @classmethod
    def variables(cls, sink):
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{sink.otlp}"}

    @classmethod
    def reporting_every(cls, interval_s):
        return {"OTEL_METRIC_EXPORT_INTERVAL": str(round(1000 * interval_s))}


class LocustTelemetry(Candidate):
    """The package locust-telemetry with its recorder ``otel``, which listens to requests on workers only."""

    key, label, interval_s, only_on_workers = "locust-telemetry", "locust-telemetry (otel)", 3.0, True

    def __init__(self, sink=None, endpoints=20):
        super().__init__(sink, endpoints)
        from locust_telemetry.metadata import set_test_metadata
        from locust_telemetry.recorders.otel import otel
        from locust_telemetry.recorders.otel.plugin import LocustOtelRecorderPlugin

        if sink is None or sink.otlp is None:
            msg = "gRPC is not installed"
            raise RuntimeError(msg)
        port = free_port()
        self.master = Environment(events=Events()).create_master_runner("127.0.0.1", port)
        worker = self.environment.create_worker_runner("127.0.0.1", port)
        self.environment.parsed_options = argparse.Namespace(
            testplan="benchmark", lt_stats_recorder_interval=3600, lt_otel_exporter_otlp_insecure=True,
            lt_otel_exporter_otlp_endpoint=f"http://{sink.otlp}",
        )  # fmt: skip
        set_test_metadata(self.environment, {"run_id": "01234567"})  # as the master's message does
        handlers = self.environment.events.request._handlers
        before = set(handlers)
        original = otel.MeterProvider
        otel.MeterProvider = self._keep(original)
        LocustOtelRecorderPlugin().load(environment=self.environment)
        otel.MeterProvider = original
        (self.listener,) = set(handlers) - before
        worker.greenlet.kill()
        self.master.greenlet.kill()

    def _keep(self, make):
        """*make*, which makes its provider of metrics and keeps it nowhere."""

        def kept(*args, **kwargs):
            self.provider = make(*args, **kwargs)
            return self.provider

        return kept

    def end_interval(self):
        self.provider.force_flush()

    def close(self):
        self.provider.shutdown()

    def fill(self, number, pause=None):
        """Of each name, those that passed and those that failed."""
        names = number // 2
        fire_many(self.hook(with_locust=False), 8 * names, names=names, pause=pause)
        return 2 * names

    @classmethod
    def arguments(cls, sink):
        return ["--testplan", "benchmark", "--enable-telemetry-recorder", "otel", "--lt-otel-exporter-otlp-endpoint",
                f"http://{sink.otlp}", "--lt-otel-exporter-otlp-insecure", "1"]  # fmt: skip

    @classmethod
    def reporting_every(cls, interval_s):
        return {"LOCUST_TELEMETRY_STATS_RECORDER_INTERVAL": str(round(interval_s))}


ALL = (Bare, Empty, Ours, Naive, Otel, LocustTelemetry)
BY_KEY = {candidate.key: candidate for candidate in ALL}


def start(sink, *classes, **options):
    """The candidates by key that can be started, and the reasons by key why others cannot."""
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # that two have a provider of metrics is intended
    started, failed = {}, {}
    for candidate in classes:
        try:
            started[candidate.key] = candidate(sink, **options)
        except Exception as error:  # noqa: PERF203  (a peer may fail in any way, and the others go on)
            failed[candidate.key] = f"{type(error).__name__}: {error}"
    return started, failed


def free_port():
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@functools.cache
def responses():
    """A real response of FastHttpUser with status 200, and one with 500."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(int(self.path[1:]))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    user_class = type("Visitor", (FastHttpUser,), {"host": f"http://127.0.0.1:{server.server_port}"})
    user = user_class(Environment(events=Events()))
    try:
        return user.client.get("/200"), user.client.get("/500")
    finally:
        server.shutdown()
        server.server_close()


def make_requests(number, endpoints=20, seed=17):
    """The arguments of that many fired requests."""
    passed, failed = responses()
    chance = random.Random(seed)
    requests = []
    for _ in range(number):
        fails = chance.random() < FAILED
        requests.append(
            {
                "request_type": "GET",
                "name": f"/endpoint/{chance.randrange(endpoints)}",
                "context": {},
                "response": failed if fails else passed,
                "exception": ValueError("failed") if fails else None,
                "start_time": time.time(),
                "url": "http://127.0.0.1/",
                "response_length": chance.randrange(100, 2000),
                "response_time": chance.lognormvariate(4, 1),
            }
        )
    return requests


def fire_many(hook, number, names, pause=None):
    """Fire requests of so many names in turn; the second of each four rounds through the names has failed.

    After each 20 of them *pause* is called.
    """
    passed, failed = responses()
    chance = random.Random(5)
    for index in range(number):
        fails = index // names % 4 == 1
        if pause is not None and index % 20 == 0:
            pause()
        hook.fire(
            request_type="GET",
            name=f"/endpoint/{index % names}",
            response_time=chance.lognormvariate(4, 1),
            response_length=1000,
            response=failed if fails else passed,
            exception=ValueError("failed") if fails else None,
            context={},
            start_time=0.0,
            url="http://127.0.0.1/",
        )
