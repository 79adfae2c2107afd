"""The only file that knows the SDK: an answer of the Event API becomes accepted, retry, split or refused."""

from __future__ import annotations

import enum
import ipaddress
import json
import math
import os
import re
import socket
import ssl
import zlib
from dataclasses import dataclass, field, replace
from datetime import timezone
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import gevent
import urllib3
from gevent.monkey import is_module_patched
from newrelic_telemetry_sdk import EventClient
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util.ssl_match_hostname import CertificateError

from .config import ConfigError
from .pauses import in_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .payload import NewRelicEvent


class Verdict(enum.Enum):
    """What became of a batch."""

    ACCEPTED = "accepted"
    RETRY = "retry"
    """Not now, but perhaps later: throttled, an error on the other side, no connection."""
    SPLIT = "split"
    """Too large; its halves may not be."""
    REFUSED = "refused"
    """Not now and not later."""


@dataclass(frozen=True)
class Outcome:
    """A verdict, with what a person wants to know of it."""

    verdict: Verdict
    reason: str = ""
    retry_after_s: float | None = None
    num_bytes: int = field(default=0, compare=False)
    """How long what was accepted was, compressed."""


def outcome_of(status: int, retry_after_s: float | None = None) -> Outcome:
    """The verdict on a batch that was answered with that HTTP status, as New Relic asks of its SDKs."""
    if 200 <= status < 300:
        return Outcome(Verdict.ACCEPTED)
    reason = f"HTTP {status}"
    if status == 413:
        return Outcome(Verdict.SPLIT, reason)
    if status in (408, 429) or status >= 500:
        return Outcome(Verdict.RETRY, reason, retry_after_s)
    return Outcome(Verdict.REFUSED, reason)


def retry_after_s(header: str | None, now: float) -> float | None:
    """Seconds to wait by a ``Retry-After`` header, in either of its forms (RFC 9110, 10.2.3); None if unreadable.

    *now* is the wall clock in seconds since the epoch.
    """
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
        seconds = moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp() - now
    except (TypeError, ValueError, OverflowError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


_GZIP = zlib.MAX_WBITS + 16
_json_of = json.JSONEncoder(separators=(",", ":")).encode

WHAT_TO_DO = (
    ("^proxy: .* HTTP 407$", "Check the user and the password in HTTPS_PROXY."),
    ("^proxy: certificate", "Name the certificates that its own are signed with by --newrelic-ca-bundle."),
    ("^proxy: ", "Check HTTPS_PROXY, or name the host in NO_PROXY."),
    ("HTTP 40[13]$", "Check the license key (of type ingest) and --newrelic-region or --newrelic-endpoint."),
    ("HTTP 413$", "This event alone is larger than New Relic takes."),
    ("HTTP (3..|40[45])$", "Check --newrelic-endpoint."),
    ("HTTP 429$", "The account sends more than New Relic takes in a minute."),
    ("certificate", "If TLS is inspected on the way, name the certificates to trust with --newrelic-ca-bundle."),
    ("TLS", "Check --newrelic-endpoint, and what is on the way there."),
    ("host name", "Check the network's name service, --newrelic-region, and whether HTTPS_PROXY is needed."),
    ("no answer|refused|unreachable|timed out", "Check for a firewall, and whether HTTPS_PROXY is needed."),
)
"""What a person can do about a reason that has this in it; the first one counts."""


def what_to_do(reason: str) -> str:
    """Advice on the *reason* of an outcome, as a sentence behind a blank; empty if there is none."""
    return next((f" {advice}" for pattern, advice in WHAT_TO_DO if re.search(pattern, reason)), "")


def proxy_for(url: str, environ: Mapping[str, str] = os.environ) -> urllib3.util.Url | None:
    """The proxy that the variables in *environ* say for the https *url*, by the rules of curl; None for none.

    ``https_proxy`` goes before ``HTTPS_PROXY``, then ``all_proxy`` and ``ALL_PROXY``; ``no_proxy`` before ``NO_PROXY``.
    An empty variable is none. Without a scheme a proxy is http; its port is 1080 by default, that of an https proxy
    443. Raises ConfigError for a proxy that cannot be used.
    """
    variable = _first_set(environ, "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
    without = _first_set(environ, "no_proxy", "NO_PROXY")
    if variable is None or (without and _is_among(urlsplit(url).hostname or "", environ[without])):
        return None

    proxy = environ[variable].strip()
    try:
        parsed = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
    except urllib3.exceptions.LocationParseError:  # its text may hold the proxy's password
        parsed = urllib3.util.Url()
    rest = f"{parsed.path}{parsed.query}{parsed.fragment}"  # with an "@" in it, that of a password with a "/", say
    if parsed.scheme not in ("http", "https") or not parsed.host or "@" in rest:
        msg = f"{variable}: only http:// and https:// proxies can be used, like http://proxy.example:3128"
        raise ConfigError(msg + " (it is not shown here)")
    return parsed._replace(port=parsed.port or (1080 if parsed.scheme == "http" else 443))


def _first_set(environ: Mapping[str, str], *variables: str) -> str | None:
    return next((variable for variable in variables if environ.get(variable, "").strip()), None)


def _is_among(host: str, no_proxy: str) -> bool:
    """Whether ``NO_PROXY`` names that host: itself, a domain that it is in, or a network."""
    if no_proxy.strip() == "*":
        return True
    entries = re.split(r"[,\s]+", no_proxy.lower())
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        names = [entry.strip(".") for entry in entries]
        return any(name and f".{host.lower().rstrip('.')}".endswith(f".{name}") for name in names)
    return any(address in network for network in map(_network, entries) if network is not None)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


class Transport:
    """Sends batches of events to one Event API."""

    def __init__(
        self, license_key: str, url: str, *, ca_bundle: str | None, version: str, clock: Callable[[], float]
    ) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self.host = parts.hostname or ""
        self._clock = clock
        options: dict[str, Any] = {"host": self.host, "port": parts.port or (443 if secure else 80)}
        proxy = proxy_for(url) if secure else None
        self.proxy = f"{proxy.scheme}://{proxy.host}:{proxy.port}" if proxy else None
        """The proxy on the way, without its credentials."""
        if secure:
            options |= {"ssl_context": _ssl_context(ca_bundle), "cert_reqs": "CERT_REQUIRED"}
        if proxy and proxy.scheme == "https":
            options["_proxy_config"] = _proxy_config(self.proxy or "", ca_bundle)
        try:
            self._client = _client_class(proxy, secure=secure)(license_key, **options)
        except urllib3.exceptions.LocationParseError:
            msg = f"--newrelic-endpoint: no host is called {self.host!r}"
            raise ConfigError(msg) from None
        if parts.path.strip("/"):
            self._client.PATH = parts.path
        self._client.add_version_info("locust-newrelic", version)

    def send(self, batch: Sequence[NewRelicEvent], timeout_s: float) -> Outcome:
        """Send *batch*; after *timeout_s* at most there is a verdict, whatever the other side does."""
        out_of_time = gevent.Timeout(timeout_s)
        try:
            with out_of_time:
                payload = _encoded(batch)
                response = self._post(payload, timeout_s)
                after_s = retry_after_s(response.headers.get("Retry-After"), self._clock())
                return replace(outcome_of(response.status, after_s), num_bytes=len(payload))
        except gevent.Timeout as timeout:
            if timeout is not out_of_time:
                raise
            return Outcome(Verdict.RETRY, f"no answer within {timeout_s:.3g} s")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return Outcome(Verdict.RETRY, _reason(error))
        except Exception as error:  # its text may hold what was sent, the license key too
            return Outcome(Verdict.REFUSED, f"it could not be sent ({type(error).__name__})")

    def _post(self, payload: bytes, timeout_s: float) -> Any:
        """The answer. Other greenlets run until it is there, thanks to a thread where gevent has patched no sockets."""
        if is_module_patched("socket"):
            return self._client.send_batch(payload, timeout=timeout_s)
        return gevent.get_hub().threadpool.apply(self._client.send_batch, (payload,), {"timeout": timeout_s})

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _client_class(proxy: urllib3.util.Url | None, *, secure: bool) -> type[EventClient]:
    """The SDK's client, with what it leaves out: plain http (to the machine itself), and proxies by curl's rules."""
    headers = None
    if proxy and proxy.auth:  # latin-1, as in make_headers: the very bytes that are percent-encoded in the URL
        headers = urllib3.make_headers(proxy_basic_auth=unquote(proxy.auth, "latin-1"))

    class Client(EventClient):  # type: ignore[misc]
        POOL_CLS = urllib3.HTTPSConnectionPool if secure else urllib3.HTTPConnectionPool

        def _parse_proxy_settings(self, _: object = None) -> tuple[object, object]:
            return proxy, headers

        def _create_payload(self, items: bytes, _: object) -> bytes:
            return items  # encoded already, as the SDK would hold all other greenlets until it is done

    return Client


def _encoded(batch: Sequence[NewRelicEvent]) -> bytes:
    """The batch as a compressed list in JSON, made with pauses for Locust's greenlets."""
    gzip = zlib.compressobj(wbits=_GZIP)
    parts = []

    def steps() -> Iterator[None]:
        for number, event in enumerate(batch):
            text = _json_of(event)
            parts.append(gzip.compress(f"{',' if number else '['}{text}".encode()))
            yield

    in_steps(steps())
    return b"".join([*parts, gzip.compress(b"]"), gzip.flush()])


def _ssl_context(ca_bundle: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_bundle)
    except OSError:  # an ssl.SSLError too
        msg = f"--newrelic-ca-bundle: no certificates (PEM) can be read from {ca_bundle}"
        raise ConfigError(msg) from None
    paths = ssl.get_default_verify_paths()
    if ca_bundle is None and not (paths.cafile or paths.capath):  # a Python that knows no certificates of its system
        context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    context.check_hostname = False  # urllib3 does, and before version 2 cannot have both for an address without a name
    return context


def _proxy_config(proxy: str, ca_bundle: str | None) -> object:
    """How urllib3 is to speak TLS with the proxy itself; its versions agree on the manager, not on the fields."""
    if version("urllib3").startswith("1.") and _network(urlsplit(proxy).hostname or ""):
        msg = "HTTPS_PROXY: an https:// proxy needs a host name in place of its address, or urllib3 2"
        raise ConfigError(msg)
    context = _ssl_context(ca_bundle)
    context.check_hostname = True
    return urllib3.ProxyManager(proxy, proxy_ssl_context=context).proxy_config


_REFUSED_TUNNEL = r"Tunnel connection failed: (\d{3})\b"
"""How the error begins that Python's own HTTP client raises for the answer of a proxy."""


def _reason(error: BaseException) -> str:
    """What went wrong on the network, in words that can hold no secret: a header, say, or a proxy's password."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        wrapped = (*cause.args[:1], getattr(cause, "reason", None), cause.__cause__, cause.__context__)
        cause = next((inner for inner in wrapped if isinstance(inner, BaseException)), None)

    return ("proxy: " if any(map(_is_of_proxy, seen)) else "") + _words_for(seen)


def _is_of_proxy(cause: BaseException) -> bool:
    return isinstance(cause, urllib3.exceptions.ProxyError) or bool(re.match(_REFUSED_TUNNEL, str(cause)))


def _words_for(seen: Sequence[BaseException]) -> str:
    found = next((words for words in map(_words, reversed(seen)) if words), None)
    return found or f"connection failed ({type(seen[-1]).__name__})"


def _words(cause: BaseException) -> str | None:
    refused_tunnel = re.match(_REFUSED_TUNNEL, str(cause))
    if refused_tunnel:
        return f"it answered HTTP {refused_tunnel[1]}"
    if isinstance(cause, (ssl.SSLCertVerificationError, CertificateError)):
        return f"certificate not trusted: {getattr(cause, 'verify_message', 'it is for another host')}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed ({cause.reason})"
    if isinstance(cause, socket.gaierror):
        return "host name not found"
    if isinstance(cause, (TimeoutError, urllib3.exceptions.TimeoutError)):
        return "no answer in time"
    return cause.strerror if isinstance(cause, OSError) else None
