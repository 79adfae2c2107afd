"""An Event API on 127.0.0.1, over TLS with a certificate of its own, as strict as New Relic's limits are.

New Relic answers 200 and drops what it cannot store afterwards; this server records such a thing in ``refused``, with
the reason, and the fixture fails the test.
"""

import contextlib
import datetime
import gzip
import http.server
import ipaddress
import json
import math
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LICENSE_KEY = "0123456789abcdef0123456789abcdefFFFFNRAL"
PATH = re.compile(r"/v1/accounts/(\d+/)?events")

MOST_BYTES = 1_000_000
MOST_EVENTS = 1_000
MOST_ATTRIBUTES = 254
NRQL_WORDS = set(
    "ago and as auto begin begintime compare day days end endtime explain facet from hour hours in is like limit minute"
    " minutes month months not null offset or raw second seconds select since timeseries until week weeks where"
    " with".split()
)
DAY_MS = 24 * 3600 * 1000


def why_refused(event: object) -> str | None:
    """What New Relic would not store about an event, or None."""
    if not isinstance(event, dict):
        return f"an event is an object, not {event!r}"
    event_type = event.get("eventType")
    if not isinstance(event_type, str) or not re.fullmatch(r"[A-Za-z0-9_:]{1,255}", event_type):
        return f"bad eventType {event_type!r}"
    if re.match(r"Metric$|MetricRaw$|Metric[0-9]|Public_|Entity$|EntityRelationship$", event_type):
        return f"eventType {event_type} is New Relic's own"
    if len(event) > MOST_ATTRIBUTES:
        return f"{len(event)} attributes"
    timestamp = event.get("timestamp")
    if type(timestamp) is not int or abs(timestamp - time.time() * 1000) > DAY_MS:
        return f"bad timestamp {timestamp!r}"
    for name, value in event.items():
        reason = _why_name_refused(name) or _why_value_refused(value)
        if reason:
            return f"{event_type}.{name[:300]}: {reason}"
    return None


def _why_name_refused(name: str) -> str | None:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_:.]{0,254}", name):
        return "bad name"
    if name.lower() in NRQL_WORDS:
        return "a word of NRQL"
    if name in ("accountId", "appId") or name.startswith(("entity.", "nr.")):
        return "reserved"
    return None


def _why_value_refused(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return f"neither text nor number: {value!r}"
    if isinstance(value, str):
        if len(value) > 4096:
            return f"{len(value)} characters"
        try:
            value.encode()
        except UnicodeEncodeError:
            return "not Unicode"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"beyond 64 bit: {value}"
    elif isinstance(value, float) and not math.isfinite(value):
        return f"not finite: {value}"
    return None


def make_certificate(folder: Path, name: str = "new-relic") -> Path:
    """A self-signed certificate for 127.0.0.1 and localhost, with its key, as one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=10))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / f"{name}.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem


@dataclass
class Answer:
    """How the server treats one POST: a status (with headers), or silence, or a connection closed in mid-answer."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    close: bool = False
    late: bool = False
    """Answer only when ``release`` is called."""
    keep: bool = False
    """Store the events whatever the status is: an answer that got lost after acceptance."""


class NewRelic:
    """The server; ``events`` is what it stored, in the order of arrival."""

    def __init__(self, folder: Path, *, license_key: str = LICENSE_KEY, tls: bool = True) -> None:
        self.license_key = license_key
        self.events: list[dict] = []
        self.batches: list[list[dict]] = []
        self.refused: list[str] = []
        self.posts: list[dict] = []
        """Of each POST: its status, headers, and bytes on the wire."""
        self.answers: list[Answer] = []
        """What the next POSTs get, the first first; with none left it is 200."""
        self.always: Answer | None = None
        """What each POST gets instead, until it is None again."""
        self._changed = threading.Condition()
        self._released = threading.Event()
        self._scheme = "https" if tls else "http"
        self.certificate = make_certificate(folder) if tls else None
        self._context = None
        if tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(self.certificate)
        self._serve(0)

    @staticmethod
    def answering(status: int, **headers: str) -> Answer:
        """An answer with that status."""
        return Answer(status, headers)

    @staticmethod
    def hanging() -> Answer:
        """No answer at all; the events are not stored."""
        return Answer(503, hang=True)

    @property
    def url(self) -> str:
        """What --newrelic-endpoint is set to."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """The environment variables that let Locust report here."""
        variables = {"NEW_RELIC_LICENSE_KEY": self.license_key, "LOCUST_NEWRELIC_ENDPOINT": self.url}
        if self.certificate:
            variables["NEW_RELIC_CA_BUNDLE_PATH"] = str(self.certificate)
        return variables

    def of_type(self, event_type: str, **attributes: object) -> list[dict]:
        """The stored events of that type with those attributes."""
        return [
            event
            for event in list(self.events)
            if event["eventType"] == event_type and all(event.get(name) == value for name, value in attributes.items())
        ]

    def wait_for(self, condition, what: str, timeout_s: float = 30.0):
        """Wait until ``condition(self)`` is truthy after a POST, and return it; fails with *what* was waited for."""
        with self._changed:
            found = self._changed.wait_for(lambda: condition(self), timeout_s)
        assert found, f"waited {timeout_s} s for {what}"
        return found

    def release(self) -> None:
        """Give the late answers."""
        self._released.set()

    def go_down(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()

    def come_back(self) -> None:
        """Accept them again, on the same port."""
        self._serve(self.port)

    def close(self) -> None:
        """Let those go that wait, and end."""
        self.release()
        self.go_down()

    def _serve(self, port: int) -> None:
        new_relic = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_POST(self) -> None:
                new_relic._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            block_on_close = False

            def get_request(self):
                connection, address = self.socket.accept()
                if new_relic._context:
                    connection = new_relic._context.wrap_socket(
                        connection, server_side=True, do_handshake_on_connect=False
                    )
                return connection, address

            def handle_error(self, *_: object) -> None:
                pass  # a client that does not trust us, or that was killed

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        with self._changed:
            answer = self.always or (self.answers.pop(0) if self.answers else Answer())
        status, batch = self._judge(request, body)
        if status == 200:
            status = answer.status
        with self._changed:
            if status == 200 or answer.keep:
                self.batches.append(batch)
                self.events.extend(batch)
            self.posts.append(
                {"status": status, "headers": dict(request.headers), "bytes": len(body), "hung": answer.hang}
            )
            self._changed.notify_all()

        if answer.hang or answer.late:
            self._released.wait()
        if answer.hang or answer.close:
            with contextlib.suppress(OSError):
                request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
                request.wfile.flush()
                request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
            return

        content = json.dumps({"success": status == 200, "uuid": "0"}).encode()
        request.send_response(status)
        for name, value in answer.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _judge(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[dict]]:
        """The status that New Relic would answer with, and the events it would store."""
        headers = request.headers
        if not PATH.fullmatch(request.path):
            return 404, []
        if headers.get("Api-Key") != self.license_key:
            return 403, []
        if "Content-Length" not in headers:
            return 400, []
        if len(body) > MOST_BYTES:
            return 413, []
        if headers.get("Content-Type") != "application/json" or headers.get("Content-Encoding") != "gzip":
            return 415, []
        agent = headers.get("User-Agent", "")
        if "NewRelic-Python-TelemetrySDK/" not in agent or "locust-newrelic/" not in agent:
            self.refused.append(f"User-Agent {agent}")
        try:
            events = json.loads(gzip.decompress(body), parse_constant=_not_json)
        except ValueError as error:
            self.refused.append(f"the whole payload: {error}")
            return 200, []

        events = events if isinstance(events, list) else [events]
        if len(events) > MOST_EVENTS:
            self.refused.append(f"{len(events)} events at once")
        stored = []
        for event in events:
            reason = why_refused(event)
            if reason:
                self.refused.append(reason)
            else:
                stored.append(event)
        return 200, stored


def _not_json(constant: str) -> None:
    msg = f"{constant} is not JSON"
    raise ValueError(msg)
