"""Whether memory stays flat: an outage of New Relic for 30 minutes, and 10 million requests with ever new names.

``python benchmarks/soak.py`` plays 180 windows of 10 s on a clock of its own, some 1,000 events a minute. New Relic
answers no call; then it does, until the queue is empty; then the spool is replayed. Every request has a name that no
request had before, but for one of each of 80 endpoints in a window. Prints the memory of the process as it goes, and
compares what was made with what arrived.
"""

import argparse
import contextlib
import logging
import platform
import tempfile
import time
from itertools import count
from pathlib import Path

import gevent
import locust
import psutil

import locust_newrelic
from locust_newrelic.delivery import Delivery
from locust_newrelic.histogram import Scale
from locust_newrelic.payload import Interval, Payload, Totals
from locust_newrelic.recorder import Recorder
from locust_newrelic.spool import Spool, Stored
from locust_newrelic.transport import Outcome, Verdict

WINDOW_S = 10
ENDPOINTS = 80
"""With what further names share, and one status code each: 163 events in a window, 978 in a minute."""


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self):
        self.now_s = 1_700_000_000.0

    def __call__(self):
        return self.now_s


class NewRelic:
    """Fails every call until it is well."""

    host = "new-relic.example"

    def __init__(self):
        self.is_well = False
        self.arrived = set()
        self.num_arrived = 0

    def send(self, batch, timeout_s):
        gevent.sleep(0.001)
        if not self.is_well:
            return Outcome(Verdict.RETRY, "HTTP 503", 0.05)
        self.arrived.update(event["seq"] for event in batch)
        self.num_arrived += len(batch)
        return Outcome(Verdict.ACCEPTED)

    def close(self):
        pass


def main():
    """Play it and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000_000, help="in all (default: 10 million)")
    parser.add_argument("--minutes", type=int, default=30, help="how long the outage is (default: 30)")
    options = parser.parse_args()
    logging.disable(logging.WARNING)

    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"{python}, Locust {locust.__version__}, locust-newrelic {locust_newrelic.__version__}")
    print(f"{options.requests:,} requests with almost as many names, {options.minutes} minutes without New Relic\n")
    with tempfile.TemporaryDirectory() as folder:
        play(options.requests, options.minutes * 60 // WINDOW_S, folder)


def play(num_requests, num_windows, folder):
    """All windows, the recovery, and the replay."""
    clock, new_relic = Clock(), NewRelic()
    scale, totals = Scale((100, 250, 500, 1000, 2500, 5000, 10000)), Totals()
    recorder = Recorder(scale, ENDPOINTS)
    payload = Payload(scale, app_name="Locust", run_id="soak", test_name="soak", attributes={})
    delivery = Delivery(new_relic, spool=Spool(folder), clock=clock)
    new_names = count()
    process, begun_s = psutil.Process(), time.perf_counter()
    before = process.memory_info().rss
    num_made = 0

    def show(label):
        spooled = sum(path.stat().st_size for path in Path(folder).iterdir())
        print(
            f"{label:12}{time.perf_counter() - begun_s:8.0f} s{num_made:10,} made{delivery.num_queued:8,} queued"
            f"{delivery.num_spooled:8,} left to the spool of {spooled / 1e6:5.1f} MB{new_relic.num_arrived:8,} arrived"
            f"   memory {(process.memory_info().rss - before) / 1e6:+6.1f} MB"
        )

    for number in range(num_windows):
        for index in range(num_requests // num_windows):
            name = f"/endpoint/{index}" if index < ENDPOINTS else f"/item/{next(new_names)}"
            recorder.on_request(request_type="GET", name=name, response_time=index % 700, response_length=100)
        clock.now_s += WINDOW_S
        window = recorder.take()
        for _ in window.settle():
            pass
        interval = Interval(int(clock.now_s * 1000), WINDOW_S, 0, 100, 100, 0, "running")
        events = list(payload.window_events(window, interval, totals))
        num_made += len(events)
        delivery.put(events)
        gevent.sleep(0.01)
        if number % max(num_windows // 10, 1) == 0 or number == num_windows - 1:
            show(f"{(number + 1) * WINDOW_S / 60:.1f} min")

    new_relic.is_well = True
    while delivery.num_queued:
        gevent.sleep(0.05)
    delivery.close(10)
    show("recovered")
    replayed = replay(folder, new_relic, int(clock.now_s * 1000))
    show("replayed")
    assert new_relic.arrived == set(range(1, num_made + 1))
    assert new_relic.num_arrived == num_made
    assert totals.numbers.num_requests == num_requests // num_windows * num_windows
    print(f"\nAll {num_made:,} events arrived, each once: {replayed:,} of them by the replay.")


def replay(folder, new_relic, now_ms):
    """Send what is in the spools; returns how many events."""
    num_events = 0
    for path in Path(folder).glob("*.spool.ndjson"):
        with contextlib.closing(Stored(str(path), now_ms=now_ms)) as stored:
            stored.prepare()
            while part := stored.next_part(1000, 900_000):
                new_relic.send(part.events, 10)
                stored.settle(part)
                num_events += len(part.events)
            stored.finish()
    return num_events


if __name__ == "__main__":
    main()
