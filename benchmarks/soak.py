"""Whether memory stays flat: an outage of New Relic for 30 minutes, and 10 million requests with ever new names.

``python benchmarks/soak.py`` plays 180 windows of 10 s on a clock of its own, some 1,000 events a minute. New Relic
answers no call; then it does, until the queue is empty; then the spool is replayed. Every request has a name that no
request had before, but for one of each of 80 endpoints in a window. Prints the memory of the process as it goes, and
compares what was made with what arrived.
"""

import contextlib
import logging
import tempfile
from itertools import count
from pathlib import Path

import gevent
import psutil
from memory import BUDGET_MB, GOAL_MB
from results import Budget, Table, main, progress

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


def measure(quick):
    """The table."""
    num_requests, minutes = (300_000, 3) if quick else (10_000_000, 30)
    logging.disable(logging.WARNING)
    result = Table(
        f"An outage of New Relic for {minutes} minutes",
        ["at", "events made", "queued", "left to the spool", "arrived", "spool, MB", "memory added, MB"],
    )
    with tempfile.TemporaryDirectory() as folder:
        play(num_requests, minutes * 60 // WINDOW_S, folder, result)
    logging.disable(logging.NOTSET)
    return [result]


class Story:
    """How it goes, row by row."""

    def __init__(self, result, folder):
        self._result, self._folder = result, Path(folder)
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self.added_mb = []

    def tell(self, label, num_made, delivery, new_relic):
        """Add a row."""
        progress(f"soak: {label}")
        spooled = sum(path.stat().st_size for path in self._folder.iterdir())
        self.added_mb.append((self._process.memory_info().rss - self._before) / 1e6)
        numbers = num_made, delivery.num_queued, delivery.num_spooled, new_relic.num_arrived
        self._result.rows.append(
            [label, *(f"{number:,}" for number in numbers), f"{spooled / 1e6:.1f}", f"{self.added_mb[-1]:+.1f}"]
        )


def play(num_requests, num_windows, folder, result):
    """All windows, the recovery, and the replay."""
    clock, new_relic = Clock(), NewRelic()
    scale, totals = Scale((100, 250, 500, 1000, 2500, 5000, 10000)), Totals()
    recorder = Recorder(scale, ENDPOINTS)
    payload = Payload(scale, app_name="Locust", run_id="soak", test_name="soak", attributes={})
    delivery = Delivery(new_relic, spool=Spool(folder), clock=clock)
    new_names = count()
    story = Story(result, folder)
    num_made = 0

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
            story.tell(f"{(number + 1) * WINDOW_S / 60:.1f} min", num_made, delivery, new_relic)

    new_relic.is_well = True
    while delivery.num_queued:
        gevent.sleep(0.05)
    delivery.close(10)
    story.tell("recovered", num_made, delivery, new_relic)
    replayed = replay(folder, new_relic, int(clock.now_s * 1000))
    story.tell("replayed", num_made, delivery, new_relic)
    assert new_relic.arrived == set(range(1, num_made + 1))
    assert new_relic.num_arrived == num_made
    assert totals.numbers.num_requests == num_requests // num_windows * num_windows
    what = f"memory added by {num_requests:,} requests with ever new names, and an outage"
    result.budgets.append(Budget(what, max(story.added_mb), BUDGET_MB, GOAL_MB, " MB"))
    result.note(
        f"{num_requests:,} requests with almost as many names, on a clock of its own. All {num_made:,} events arrived,"
        f" each once: {replayed:,} of them by the replay."
    )


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
    main(__doc__, measure)
