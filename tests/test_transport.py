"""Sending to a real server over TLS: what becomes of a batch, whatever the other side or the way to it does."""

import contextlib
import gzip
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import traceback
from base64 import b64encode
from email.utils import formatdate

import gevent
import gevent.event
import pytest
import urllib3
from gevent.pool import Pool
from gevent.server import StreamServer
from hypothesis import given, settings
from hypothesis import strategies as st
from locusts import clean_environment, free_port
from new_relic import Answer, NewRelic, make_certificate

from locust_newrelic import ConfigError
from locust_newrelic.transport import Outcome, Transport, Verdict, _encoded, outcome_of, proxy_for, retry_after_s

NOW = 1_700_000_000
PATIENCE_S = 30.0
SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def _nothing_hangs():
    """What never ends fails."""
    with gevent.Timeout(4 * PATIENCE_S):
        yield


@pytest.fixture
def connect(new_relic):
    """Makes a transport to the server of the test, and closes it."""
    with contextlib.ExitStack() as opened:

        def connect(url=new_relic.url, key=new_relic.license_key, ca_bundle=str(new_relic.certificate)):
            made = Transport(key, url, ca_bundle=ca_bundle, version="1.2.3", clock=lambda: NOW)
            opened.callback(made.close)
            return made

        yield connect


@pytest.fixture
def serve():
    """Serves connections to 127.0.0.1 with a function; returns the port."""
    with contextlib.ExitStack() as started:

        def serve(handle):
            def handle_one(connection, _):
                with contextlib.suppress(OSError):  # the other side has gone
                    handle(connection)

            server = StreamServer(("127.0.0.1", 0), handle_one, spawn=Pool())
            server.start()
            started.callback(server.stop, timeout=0)
            return server.server_port

        yield serve


@pytest.fixture
def proxy(new_relic, serve, monkeypatch):
    """An HTTP proxy, named in the environment, that opens each tunnel to New Relic whatever host it is asked for."""

    class Proxy:
        def __init__(self):
            self.requests = []
            self.answer = "200 OK"
            self.port = serve(self.handle)
            self.set(f"http://127.0.0.1:{self.port}")

        def set(self, url):
            monkeypatch.setenv("HTTPS_PROXY", url)

        def handle(self, connection):
            self.requests.append(read_head(connection))
            connection.sendall(f"HTTP/1.1 {self.answer}\r\nContent-Length: 0\r\n\r\n".encode())
            if self.answer != "200 OK":
                return
            with socket.create_connection(("127.0.0.1", new_relic.port)) as server:
                ways = gevent.spawn(pump, connection, server), gevent.spawn(pump, server, connection)
                gevent.joinall(ways, count=1)
                gevent.killall(ways)

    return Proxy()


def read_head(connection):
    """The request line and the headers that a client sends."""
    head = b""
    while b"\r\n\r\n" not in head:
        received = connection.recv(65536)
        if not received:
            raise ConnectionError
        head += received
    return head.decode("latin-1")


def pump(source, destination):
    with contextlib.suppress(OSError):
        while received := source.recv(65536):
            destination.sendall(received)


def events(*numbers):
    """Events as New Relic takes them, with those numbers."""
    now_ms = int(time.time() * 1000)
    return [{"eventType": "LocustSummary", "timestamp": now_ms, "number": number} for number in numbers]


def sent(transport, *, timeout_s=PATIENCE_S):
    return transport.send(events(1), timeout_s)


# -- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "verdict"), [
    *[(status, Verdict.ACCEPTED) for status in (200, 202, 299)],
    *[(status, Verdict.RETRY) for status in (408, 429, 500, 502, 503, 504, 599)],
    (413, Verdict.SPLIT),
    *[(status, Verdict.REFUSED) for status in (302, 400, 401, 403, 404, 405, 409, 410, 411, 414, 415, 499)],
])  # fmt: skip
def test_a_status_is_a_verdict(status, verdict):
    """Each HTTP status has the verdict that New Relic asks its SDKs for; only a retry has a time to wait."""
    outcome = outcome_of(status, 7.0)

    assert outcome.verdict is verdict
    assert outcome.reason == ("" if verdict is Verdict.ACCEPTED else f"HTTP {status}")
    assert outcome.retry_after_s == (7.0 if verdict is Verdict.RETRY else None)
    assert outcome_of(status).retry_after_s is None


@pytest.mark.parametrize(("header", "seconds"), [
    ("7", 7.0),
    (" 120 ", 120.0),
    ("0", 0.0),
    (formatdate(NOW + 90, usegmt=True), 90.0),
    (formatdate(NOW - 90, usegmt=True), 0.0),
    *[(unreadable, None) for unreadable in (None, "", " ", "soon", "-5", "1.5", "1e3", "inf", "Mon, 99 Nov 2023")],
])  # fmt: skip
def test_retry_after(header, seconds):
    """Retry-After is seconds or a date, one in the past is now, and what is neither says nothing."""
    assert retry_after_s(header, NOW) == seconds


@pytest.mark.parametrize("header", ["Tue Nov 14 22:13:50 2023", "Tue, 14 Nov 2023 22:13:50 -0000"])
def test_a_retry_after_without_a_zone(monkeypatch, header):
    """A date without a zone is in UTC, wherever Locust runs."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert retry_after_s(header, NOW) == 30.0
    finally:
        monkeypatch.undo()
        time.tzset()


@settings(deadline=None)
@given(
    st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{2,5} \d\d:\d\d:\d\d( [A-Z+-]\w*)?"),
    st.floats(0, 1e10),
)
def test_no_retry_after_is_too_strange(header, now):
    """Whatever the header is, the wait is unknown or not negative."""
    seconds = retry_after_s(header, now)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(("status", "headers", "outcome"), [
    (400, {}, Outcome(Verdict.REFUSED, "HTTP 400")),
    (403, {"Retry-After": "5"}, Outcome(Verdict.REFUSED, "HTTP 403")),
    (408, {}, Outcome(Verdict.RETRY, "HTTP 408")),
    (413, {}, Outcome(Verdict.SPLIT, "HTTP 413")),
    (429, {"Retry-After": "5"}, Outcome(Verdict.RETRY, "HTTP 429", 5.0)),
    (429, {"Retry-After": formatdate(NOW + 60, usegmt=True)}, Outcome(Verdict.RETRY, "HTTP 429", 60.0)),
    (429, {"Retry-After": "later"}, Outcome(Verdict.RETRY, "HTTP 429")),
    (500, {}, Outcome(Verdict.RETRY, "HTTP 500")),
    (503, {"Retry-After": "0"}, Outcome(Verdict.RETRY, "HTTP 503", 0.0)),
])  # fmt: skip
def test_an_answer_is_an_outcome(new_relic, connect, status, headers, outcome):
    """An answer becomes an outcome after one POST, and the next batch goes through."""
    new_relic.answers = [Answer(status, headers)]
    transport = connect()

    assert sent(transport) == outcome
    assert len(new_relic.posts) == 1
    assert sent(transport) == Outcome(Verdict.ACCEPTED)


def test_a_batch_is_accepted(new_relic, connect):
    """A batch arrives as it is, over TLS that was verified, from a client that says who it is."""
    batch = events(1, 2, 3)
    transport = connect()

    assert transport.send(batch, PATIENCE_S) == Outcome(Verdict.ACCEPTED)
    assert new_relic.events == batch
    agent = {name.lower(): value for name, value in new_relic.posts[0]["headers"].items()}["user-agent"]
    assert agent.startswith("NewRelic-Python-TelemetrySDK/")
    assert agent.endswith(" locust-newrelic/1.2.3")
    assert transport.host == "127.0.0.1"


def test_what_cannot_be_json_is_refused(new_relic, connect):
    """An event that cannot be encoded is refused, not tried again and again."""
    outcome = connect().send([{"eventType": "X", "value": object()}], PATIENCE_S)

    assert outcome == Outcome(Verdict.REFUSED, "it could not be sent (TypeError)")
    assert new_relic.posts == []


def test_a_path_in_the_endpoint_is_used(new_relic, connect):
    """The endpoint's own path is posted to, the Event API's otherwise."""
    assert sent(connect(f"{new_relic.url}/v1/accounts/1234567/events")).verdict is Verdict.ACCEPTED
    assert sent(connect(f"{new_relic.url}/")).verdict is Verdict.ACCEPTED
    assert sent(connect(f"{new_relic.url}/elsewhere")) == Outcome(Verdict.REFUSED, "HTTP 404")


def test_plain_http_to_the_machine_itself(tmp_path, connect):
    """A relay on this machine may speak plain http; a proxy has no part in it."""
    relay = NewRelic(tmp_path, tls=False)
    with pytest.MonkeyPatch.context() as patch, contextlib.closing(relay):
        patch.setenv("HTTP_PROXY", "https://proxy.example")

        assert sent(connect(relay.url, ca_bundle=None)).verdict is Verdict.ACCEPTED
        assert sent(connect(relay.url.replace("127.0.0.1", "localhost"))).verdict is Verdict.ACCEPTED
    assert len(relay.events) == 2


# -- the network ---------------------------------------------------------------------------------------------------


def test_a_certificate_of_someone_else_is_not_trusted(tmp_path, new_relic, connect):
    """With a certificate that the bundle does not vouch for, nothing is sent."""
    for bundle in (str(make_certificate(tmp_path, "other")), None):
        outcome = sent(connect(ca_bundle=bundle))

        assert outcome.verdict is Verdict.RETRY
        assert outcome.reason.startswith("certificate not trusted: ")
    assert new_relic.posts == []


def test_a_bundle_counts_instead_of_the_systems_certificates(monkeypatch, tmp_path, new_relic, connect):
    """With a bundle, what the system trusts is not trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(new_relic.certificate))
    assert sent(connect(ca_bundle=str(make_certificate(tmp_path, "other")))).verdict is Verdict.RETRY


def test_the_systems_certificates_are_the_default(monkeypatch, new_relic, connect):
    """Without a bundle the system's certificates count, those of SSL_CERT_FILE for example."""
    monkeypatch.setenv("SSL_CERT_FILE", str(new_relic.certificate))
    assert sent(connect(ca_bundle=None)).verdict is Verdict.ACCEPTED


def test_a_python_without_certificates_has_those_of_requests(monkeypatch, tmp_path):
    """A Python that knows none of the system's certificates does not fail at each and every server."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "missing"))
    transport = Transport("key", "https://collector.example", ca_bundle=None, version="1", clock=time.time)

    assert transport._client._pool.conn_kw["ssl_context"].cert_store_stats()["x509_ca"] > 0


@pytest.mark.parametrize(
    "content", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_a_bundle_without_certificates_is_a_usage_error(tmp_path, connect, content):
    """A file that holds no certificates is refused at once, by the name of its flag."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(content)
    with pytest.raises(ConfigError, match=r"--newrelic-ca-bundle: .*bundle\.pem"):
        connect(ca_bundle=str(bundle))


def test_an_endpoint_that_can_be_no_host(connect):
    """It is a usage error, by the name of its flag; older versions of urllib3 see that only when something is sent."""
    host = f"{'ä' * 64}.example"
    try:
        said = sent(connect(f"https://{host}")).verdict
    except ConfigError as refusal:
        said = str(refusal)

    assert said in (f"--newrelic-endpoint: no host is called {host!r}", Verdict.RETRY, Verdict.REFUSED)


def test_nobody_listens(connect):
    """A closed port is a retry that says so."""
    assert sent(connect(f"https://127.0.0.1:{free_port()}")) == Outcome(Verdict.RETRY, "Connection refused")


def test_a_host_that_does_not_exist(monkeypatch, connect):
    """A name that nobody knows is a retry that says so: the name service may be what is down."""

    def getaddrinfo(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert sent(connect("https://collector.invalid")) == Outcome(Verdict.RETRY, "host name not found")


def test_a_name_service_that_hangs(monkeypatch, connect):
    """Looking up the host's name is part of what the timeout covers."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: gevent.event.Event().wait())

    assert sent(connect("https://collector.invalid"), timeout_s=0.1) == Outcome(Verdict.RETRY, "no answer within 0.1 s")


def test_an_answer_that_breaks_off(new_relic, connect):
    """A connection that closes in the middle of an answer is a retry, on a new connection."""
    new_relic.answers = [Answer(close=True)]
    transport = connect()
    outcome = sent(transport)

    assert outcome.verdict is Verdict.RETRY
    assert outcome.reason
    assert sent(transport).verdict is Verdict.ACCEPTED


def test_no_answer_at_all(new_relic, connect):
    """A server that never answers costs the timeout, and the next batch goes through."""
    new_relic.answers = [NewRelic.hanging()]
    transport = connect()
    outcome = sent(transport, timeout_s=0.2)

    assert outcome.verdict is Verdict.RETRY
    assert outcome.reason.startswith("no answer ")
    assert sent(transport).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(("start", "end"), [
    (b"HTTP/1.1 200 OK\r\nX-Drip: ", b"\r\nContent-Length: 0\r\n\r\n"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", b""),
])  # fmt: skip
def test_an_answer_that_drips(serve, connect, start, end):
    """An answer of one byte now and then does not begin the timeout anew with each."""

    def drip(connection):
        read_head(connection)
        connection.sendall(start)
        for _ in range(500):
            gevent.sleep(0.01)
            connection.sendall(b"x")
        connection.sendall(end)

    outcome = sent(connect(f"http://127.0.0.1:{serve(drip)}"), timeout_s=0.2)

    assert outcome.verdict is Verdict.RETRY
    assert outcome.reason.startswith("no answer ")


def test_what_is_no_http_at_all(serve, connect):
    """Any other kind of server is a retry as well."""
    port = serve(lambda connection: connection.sendall(b"220 mail.example ESMTP\r\n"))

    assert sent(connect(f"http://127.0.0.1:{port}")).verdict is Verdict.RETRY
    outcome = sent(connect(f"https://127.0.0.1:{port}"))
    assert outcome.verdict is Verdict.RETRY
    assert outcome.reason.startswith("TLS failed (")


def test_a_timeout_of_someone_else_is_not_ours(new_relic, connect):
    """Who sends with a timeout of their own gets it."""
    new_relic.answers = [NewRelic.hanging()]
    with pytest.raises(gevent.Timeout) as raised, gevent.Timeout(0.2) as theirs:
        sent(connect())
    assert raised.value is theirs


# -- proxies -------------------------------------------------------------------------------------------------------


def test_a_proxy_of_the_environment(new_relic, connect, proxy):
    """HTTPS_PROXY is used, and sees nothing but the host's name."""
    assert sent(connect()).verdict is Verdict.ACCEPTED

    (request,) = proxy.requests
    assert request.startswith(f"CONNECT 127.0.0.1:{new_relic.port} HTTP/1.")
    assert "authorization" not in request.lower()
    assert new_relic.license_key not in request


@pytest.mark.parametrize("password", [SECRET, "p@ss: wörd%20"])
def test_a_proxys_password(connect, proxy, password):
    """A user and password in the proxy's URL, percent-encoded where needed, are what the proxy gets."""
    encoded = "".join(f"%{byte:02X}" if byte in b"@: %" or byte > 127 else chr(byte) for byte in password.encode())
    proxy.set(f"http://user:{encoded}@127.0.0.1:{proxy.port}")

    assert sent(connect()).verdict is Verdict.ACCEPTED
    credentials = b64encode(f"user:{password}".encode()).decode()
    assert f"Basic {credentials}" in proxy.requests[0]


def test_a_proxy_without_a_scheme(connect, proxy):
    """HTTPS_PROXY=host:port is an http proxy."""
    proxy.set(f"127.0.0.1:{proxy.port}")

    assert sent(connect()).verdict is Verdict.ACCEPTED
    assert len(proxy.requests) == 1


@pytest.mark.parametrize(("variables", "port"), [
    ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://p:2", "ALL_PROXY": "http://p:3"}, 1),
    ({"https_proxy": "", "HTTPS_PROXY": "http://p:2", "all_proxy": "http://p:3"}, 2),
    ({"HTTPS_PROXY": " ", "all_proxy": "http://p:3", "ALL_PROXY": "http://p:4"}, 3),
    ({"ALL_PROXY": "http://p:4"}, 4),
    ({"HTTP_PROXY": "http://p:5", "http_proxy": "http://p:5"}, None),
    ({"HTTPS_PROXY": "http://p:2", "no_proxy": "a.example", "NO_PROXY": "*"}, 2),
    ({"HTTPS_PROXY": "http://p:2", "no_proxy": "", "NO_PROXY": "*"}, None),
])  # fmt: skip
def test_the_spellings_of_curl(variables, port):
    """Small letters go before capital ones, https before all, and what is empty is not there."""
    found = proxy_for("https://collector.example", variables)
    assert (found and found.port) == port


@pytest.mark.parametrize(("no_proxy", "host", "is_direct"), [
    ("collector.example", "collector.example", True),
    (".collector.example", "collector.example", True),
    ("COLLECTOR.Example.", "collector.example", True),
    ("example", "collector.example", True),
    (".example", "collector.example", True),
    ("other.example collector.example", "collector.example", True),
    ("other.example,\tcollector.example", "collector.example", True),
    ("ctor.example", "collector.example", False),
    ("collector.example", "example", False),
    ("*.example", "collector.example", False),
    ("*", "collector.example", True),
    ("*,other.example", "collector.example", False),
    (",", "collector.example", False),
    ("127.0.0.0/8", "127.0.0.1", True),
    ("10.0.0.0/8 127.0.0.1", "127.0.0.1", True),
    ("127.0.0", "127.0.0.1", False),
    ("127.0.0.1/99", "127.0.0.1", False),
    ("::1", "[::1]", True),
    ("[::1]", "[::1]", False),
    ("fe80::/10", "[::1]", False),
])  # fmt: skip
def test_no_proxy_is_read_as_curl_reads_it(no_proxy, host, is_direct):
    """Names count with their subdomains, and at dots only; addresses as they are or as networks."""
    variables = {"HTTPS_PROXY": "http://127.0.0.2:1", "NO_PROXY": no_proxy}
    assert (proxy_for(f"https://{host}", variables) is None) == is_direct


def test_an_https_proxy(new_relic, connect, proxy, serve, tmp_path, monkeypatch):
    """TLS to the proxy itself, and through it to New Relic; the proxy's certificate is verified as well."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(new_relic.certificate)

    def handle(connection):
        with context.wrap_socket(connection, server_side=True) as secure:
            proxy.handle(secure)

    proxy.set(f"https://user:{SECRET}@localhost:{serve(handle)}")
    transport = connect()
    assert sent(transport) == Outcome(Verdict.ACCEPTED)
    assert sent(transport) == Outcome(Verdict.ACCEPTED)
    assert len(new_relic.events) == 2
    assert len(proxy.requests) == 1
    assert f"Basic {b64encode(f'user:{SECRET}'.encode()).decode()}" in proxy.requests[0]
    assert SECRET not in transport.proxy

    proxy.set(os.environ["HTTPS_PROXY"].replace("localhost", "127.1"))
    assert "certificate not trusted" in sent(connect()).reason  # it is for another host
    proxy.set(os.environ["HTTPS_PROXY"].replace("127.1", "localhost"))
    context.load_cert_chain(make_certificate(tmp_path, "other"))
    outcome = sent(connect())
    assert outcome.verdict is Verdict.RETRY
    assert "certificate not trusted" in outcome.reason
    new_relic.answers = [NewRelic.hanging()]
    context.load_cert_chain(new_relic.certificate)
    assert sent(connect(), timeout_s=0.5).reason.startswith("no answer")


def test_an_https_proxy_at_an_address(connect, proxy):
    """With urllib3 1 the certificate of an address cannot be verified: that is a usage error, and said."""
    proxy.set(f"https://user:{SECRET}@127.0.0.1:{free_port()}")
    if urllib3.__version__.startswith("1."):
        with pytest.raises(ConfigError, match="host name") as refusal:
            connect()
        assert SECRET not in str(refusal.value)
    else:
        assert sent(connect()) == Outcome(Verdict.RETRY, "proxy: Connection refused")


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "collector.example,127.0.0.0/8", "*"])
def test_no_proxy(monkeypatch, connect, proxy, no_proxy):
    """Hosts of NO_PROXY are reached without the proxy."""
    monkeypatch.setenv("NO_PROXY", no_proxy)

    assert sent(connect()).verdict is Verdict.ACCEPTED
    assert proxy.requests == []


def test_a_proxy_cannot_pose_as_new_relic(new_relic, connect, proxy):
    """Behind a proxy the certificate must be for New Relic's host: a tunnel to elsewhere gets no key."""
    outcome = sent(connect("https://insights-collector.newrelic.com"))

    assert outcome == Outcome(Verdict.RETRY, "certificate not trusted: it is for another host")
    assert len(proxy.requests) == 1
    assert new_relic.posts == []


@pytest.mark.parametrize("url", [
    f"socks5://user:{SECRET}@proxy.example:3128",
    f"http://user:{SECRET}@proxy.example:99999",
    f"http://user:{SECRET}@proxy:exa:mple",
    f"user:{SECRET}@proxy.example:port",
    f"{SECRET}://proxy.example",
    f"http://user:{SECRET}@",
    f"http://user:2024/{SECRET}@proxy.example:3128",
    f"http://user:2024?{SECRET}@proxy.example:3128",
    f"http://user:2024#{SECRET}@proxy.example:3128",
    "http://:3128",
    "http://",
])  # fmt: skip
def test_a_proxy_that_cannot_be_used_is_a_usage_error(connect, proxy, url):
    """A proxy of another kind is refused, rather than silently passed by, and not printed."""
    proxy.set(url)
    with pytest.raises(ConfigError, match="HTTPS_PROXY: only http:// and https:// proxies") as refusal:
        connect()
    assert SECRET not in "".join(traceback.format_exception(refusal.type, refusal.value, refusal.tb))


@pytest.mark.parametrize(("url", "host", "port"), [
    ("http://proxy.example:3128", "proxy.example", 3128),
    ("HTTP://proxy.example", "proxy.example", 1080),
    ("proxy.example", "proxy.example", 1080),
    ("https://proxy.example", "proxy.example", 443),
    ("http://[::1]:8080/", "[::1]", 8080),
])  # fmt: skip
def test_where_a_proxy_is(proxy, url, host, port):
    """A proxy is http unless it says otherwise, and its port is 1080, as with curl; that of an https proxy is 443."""
    proxy.set(url)
    found = proxy_for("https://collector.example")
    assert (found.host, found.port) == (host, port)


# -- secrets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["{}\n", "{}\r\nX: y", "{}ö€"])
def test_a_key_that_no_header_can_hold(connect, new_relic, key):
    """Even when the HTTP client's error shows the key, the outcome does not."""
    outcome = sent(connect(key=key.format(new_relic.license_key)))

    assert outcome.verdict is Verdict.REFUSED
    assert outcome.reason.startswith("it could not be sent (")
    assert new_relic.license_key not in repr(outcome)
    assert new_relic.posts == []


@pytest.mark.parametrize("answer", ["407 Proxy Authentication Required", "503 Down", None])
def test_a_proxy_that_fails(connect, new_relic, proxy, answer):
    """A proxy that refuses or is not there is a retry, and its password stays secret."""
    proxy.answer = answer
    port = proxy.port if answer else free_port()
    proxy.set(f"http://user:{SECRET}@127.0.0.1:{port}")
    outcome = sent(connect())

    assert outcome.verdict is Verdict.RETRY
    assert outcome.reason == (f"proxy: it answered HTTP {answer[:3]}" if answer else "proxy: Connection refused")
    for secret in (SECRET, b64encode(f"user:{SECRET}".encode()).decode(), new_relic.license_key):
        assert secret not in repr(outcome)


@pytest.mark.parametrize("answer", [Answer(403), Answer(close=True), NewRelic.hanging()])
def test_the_key_is_in_no_outcome(new_relic, connect, answer):
    """However sending fails, the outcome does not hold the key."""
    new_relic.answers = [answer]
    transport = connect()

    assert new_relic.license_key not in repr(sent(transport, timeout_s=0.2))


def test_others_run_while_a_batch_is_encoded():
    """A batch becomes a compressed list in JSON, and other greenlets run before that is done."""
    batch = [{"seq": seq, "text": 'a "word", ä, 😀\n\x00\ud800', "number": 1e-7} for seq in range(20_000)]
    encoding = gevent.spawn(_encoded, batch)
    gevent.sleep(0)

    assert not encoding.ready()
    assert json.loads(gzip.decompress(encoding.get())) == batch
    assert json.loads(gzip.decompress(_encoded(batch[:1]))) == batch[:1]


UNPATCHED = """
import sys
import time
import gevent
from locust_newrelic.transport import Transport

url, ca_bundle, license_key = sys.argv[1:]
transport = Transport(license_key, url, ca_bundle=ca_bundle, version="1.2.3", clock=time.time)
event = {"eventType": "LocustCheck", "timestamp": int(time.time() * 1000)}
sending = gevent.spawn(transport.send, [event], 10.0)
gevent.sleep(0.001)
print(sending.ready(), flush=True)
print(sending.get().verdict.name, flush=True)
"""


def test_where_gevent_has_not_patched_sockets(new_relic, tmp_path):
    """Other greenlets run while New Relic does not answer, also where Locust is told not to patch the sockets."""
    (tmp_path / "send.py").write_text(UNPATCHED)
    new_relic.answers = [Answer(late=True)]
    arguments = [sys.executable, str(tmp_path / "send.py"), new_relic.url, str(new_relic.certificate)]
    process = subprocess.Popen(
        [*arguments, new_relic.license_key],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment() | {"LOCUST_SKIP_MONKEY_PATCH": "1"},
    )
    with process:
        was_sent_meanwhile = process.stdout.readline().strip()
        new_relic.release()
        verdict = process.stdout.readline().strip()

    assert (was_sent_meanwhile, verdict) == ("False", "ACCEPTED")
