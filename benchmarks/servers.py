"""What stands on the other side, each a process of its own on 127.0.0.1.

:class:`Target` is the system under test: as small and fast an HTTP server as Python can be. :class:`Sink` takes what
is reported, by whatever candidate, throws it away and counts it: New Relic's Event API over TLS, and OpenTelemetry's
OTLP over gRPC.
"""

import contextlib
import gzip
import http.server
import json
import os
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from concurrent import futures
from pathlib import Path

import psutil

LICENSE_KEY = "0123456789abcdef0123456789abcdefFFFFNRAL"
BODY = b"Hello, world\n" * 48
REST = b"""Server: target
Date: Tue, 24 Nov 2026 12:00:00 GMT
Content-Type: text/plain
Content-Length: %d
Last-Modified: Mon, 23 Nov 2026 12:00:00 GMT
Connection: keep-alive
ETag: "6740a1f0-270"
Accept-Ranges: bytes

""".replace(b"\n", b"\r\n") % len(BODY) + BODY  # fmt: skip
GOOD, BAD = b"HTTP/1.1 200 OK\r\n" + REST, b"HTTP/1.1 500 Internal Server Error\r\n" + REST
"""As nginx answers with a small file: what Locust does with an answer depends on how many headers it has."""


class Process:
    """This file, run as a server; its first line tells where it listens."""

    kind = ""

    def __init__(self, *arguments, core=None):
        self._process = subprocess.Popen(
            [sys.executable, __file__, self.kind, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if core is not None:
            pin(core, self._process.pid)
        self.facts = json.loads(self._process.stdout.readline())

    @property
    def cpu_s(self):
        """Seconds of CPU that it has used."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def ask(self, question):
        """What it answers to a line of text."""
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        """End it."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Target(Process):
    """Answers every GET with 200, and those whose path begins with /500 with 500."""

    kind = "target"

    @property
    def url(self):
        """Where it is."""
        return self.facts["url"]


class Sink(Process):
    """Takes what is reported; ``otlp`` is None where gRPC is not installed."""

    kind = "sink"

    def __init__(self, core=None):
        self._folder = tempfile.TemporaryDirectory()
        super().__init__(self._folder.name, core=core)
        self.events_url, self.certificate = self.facts["events"], self.facts["certificate"]
        self.otlp = self.facts["otlp"]

    def counts(self):
        """What has arrived: ``posts events event_bytes`` (JSON), ``exports export_bytes`` (Protobuf)."""
        return self.ask("counts")

    def histograms(self):
        """The histograms of the last export of metrics."""
        return self.ask("histograms")

    def close(self):
        """End it."""
        super().close()
        self._folder.cleanup()


def pin(core, pid=0):
    """Let a process run on that core only, where the system can; returns whether it does."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    allowed = sorted(os.sched_getaffinity(pid))
    if len(allowed) < 2:
        return False
    os.sched_setaffinity(pid, {allowed[core]})
    return True


def serve_target():
    """One loop around epoll (or what the system has); a request fits in a packet."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    poll, connections = select.epoll(), {}
    for source in (listener, sys.stdin):
        poll.register(source, select.EPOLLIN)
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
            elif number == sys.stdin.fileno():
                return
            elif not _answer(connections[number]):
                poll.unregister(number)
                connections.pop(number).close()


def _answer(connection):
    try:
        request = connection.recv(65536)
        if request:
            connection.send(BAD if request.startswith(b"GET /500") else GOOD)
    except OSError:
        return False
    return bool(request)


class Counts:
    """What has arrived at the sink."""

    def __init__(self):
        self._lock = threading.Lock()
        self.numbers = dict.fromkeys(("posts", "events", "event_bytes", "exports", "export_bytes"), 0)
        self.last_export = b""

    def add(self, **numbers):
        """Count those."""
        with self._lock:
            for name, number in numbers.items():
                self.numbers[name] += number

    def answer(self, question):
        """What the parent wants to know."""
        if question == "counts":
            return self.numbers
        return histograms_of(self.last_export)


def histograms_of(export):
    """The histograms in an OTLP export of metrics, as plain values."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    request = ExportMetricsServiceRequest.FromString(export)
    metrics = [
        metric
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]  # fmt: skip
    return [
        {
            "metric": metric.name,
            "unit": metric.unit,
            "attributes": {pair.key: pair.value.string_value for pair in point.attributes},
            "bounds": list(point.explicit_bounds),
            "counts": list(point.bucket_counts),
            "min": point.min,
            "max": point.max,
        }
        for metric in metrics
        for point in metric.histogram.data_points
    ]


def serve_events(folder, counts):
    """The Event API; returns its URL and certificate."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from new_relic import make_certificate

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self):
            body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
            counts.add(posts=1, events=body.count(b'"eventType"'), event_bytes=len(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass  # a client that has gone

    certificate = make_certificate(Path(folder))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"https://127.0.0.1:{server.server_port}", str(certificate)


def serve_otlp(counts):
    """OTLP over gRPC: any export is taken; returns its address, None if gRPC is not installed."""
    try:
        import grpc
    except ImportError:
        return None

    def take(name):
        def export(request, _):
            counts.add(exports=1, export_bytes=len(request))
            if "MetricsService" in name:
                counts.last_export = request
            return b""  # an empty response, in Protobuf

        return export

    class Exports(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(take(details.method))

    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers([Exports()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    counts.server = server  # which otherwise is collected
    return f"127.0.0.1:{port}"


def serve_sink(folder):
    """Both of them, until stdin is closed."""
    counts = Counts()
    url, certificate = serve_events(folder, counts)
    print(json.dumps({"events": url, "certificate": certificate, "otlp": serve_otlp(counts)}), flush=True)
    for line in sys.stdin:
        print(json.dumps(counts.answer(line.strip())), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        if sys.argv[1] == "target":
            serve_target()
        else:
            serve_sink(sys.argv[2])
