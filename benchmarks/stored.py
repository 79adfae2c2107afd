"""What peers would have New Relic store of the test for which ``volume.py`` says what ours does: see there."""

import json

import peers
from servers import Sink


def per_hour(requests_per_s, endpoints):
    """For one process with that load: things (events, or series of an export) and MB of JSON or Protobuf in an hour.

    By the candidate's label; a text says why there are none.
    """
    requests = peers.make_requests(20_000, endpoints)
    found = {}
    with Sink() as sink:
        started, failed = peers.start(sink, peers.Naive, peers.Otel, peers.LocustTelemetry)
        for candidate in (peers.Naive, peers.Otel, peers.LocustTelemetry):
            if candidate.key in failed:
                found[candidate.label] = failed[candidate.key]
                continue
            one = started[candidate.key]
            fire = one.hook(with_locust=False).fire
            for request in requests:
                fire(**request)
            found[candidate.label] = (of_events if candidate is peers.Naive else of_exports)(one, sink, requests_per_s)
        for one in started.values():
            one.close()
    return found


def of_events(naive, _sink, requests_per_s):
    """Of one event for each request."""
    (events,) = naive.batch.flush()
    bytes_each = len(json.dumps(events, separators=(",", ":"))) / len(events)
    number = requests_per_s * 3600
    return number, number * bytes_each / 1e6


def of_exports(candidate, sink, _requests_per_s):
    """Of an export after each interval: it has all series, whether they have changed or not."""
    before = sink.counts()["export_bytes"]
    candidate.end_interval()
    exports = 3600 / candidate.interval_s
    series = len(sink.histograms())
    return series * exports, (sink.counts()["export_bytes"] - before) * exports / 1e6
