"""What a candidate's user writes into the locustfile, by the candidate's key.

Each function imports what that user would, and the module no more than Locust has: a process with a candidate is not
to differ from a bare Locust by anything else.
"""

import os


def empty(request_type, name, response_time, response_length, response=None, exception=None, context=None,
          start_time=None, url=None, **_):  # fmt: skip
    """The least that a listener costs."""


def naive(batch):
    """The listener that records an SDK event for each request in *batch*, as the examples on the web do."""
    from newrelic_telemetry_sdk import Event

    def on_request(request_type, name, response_time, response_length, response=None, exception=None, **_):
        tags = {"method": request_type, "name": name, "response_time": response_time,
                "response_length": response_length, "success": exception is None,
                "status_code": getattr(response, "status_code", None) or 0}  # fmt: skip
        if exception is not None:
            tags["error"] = str(exception)
        batch.record(Event("LocustRequest", tags))

    return on_request


def client(license_key, url, certificate):
    """The SDK's client for a server at that address."""
    from newrelic_telemetry_sdk import EventClient

    host, port = url.removeprefix("https://").split(":")
    return EventClient(license_key, host=host, port=int(port), ca_certs=certificate)


def nothing():
    """Locust alone, or with no more than a flag."""


def use_empty():
    """A listener of one's own."""
    from locust import events

    events.request.add_listener(empty)


def use_ours():
    """As the README says."""
    import locust_newrelic  # noqa: F401


def use_naive():
    """The listener, and the SDK's harvester."""
    from locust import events
    from newrelic_telemetry_sdk import EventBatch, Harvester

    batch = EventBatch()
    key, url, certificate = (os.environ[f"BENCHMARK_{what}"] for what in ("LICENSE_KEY", "EVENTS_URL", "CERTIFICATE"))
    harvester = Harvester(client(key, url, certificate), batch, float(os.environ["BENCHMARK_INTERVAL_S"]))
    events.request.add_listener(naive(batch))
    events.test_start.add_listener(lambda **_: harvester.start())
    events.quitting.add_listener(lambda **_: harvester.stop())


def use_locust_telemetry():
    """As its documentation says."""
    from locust_telemetry import entrypoint

    entrypoint.initialize()


USE = {
    "bare": nothing,
    "empty": use_empty,
    "ours": use_ours,
    "naive": use_naive,
    "otel": nothing,
    "locust-telemetry": use_locust_telemetry,
}
