"""What this package adds to a request, as a ratio to Locust's own statistics on the same requests.

``python benchmarks/request_hook.py`` fires Locust's ``events.request`` for requests of 20 endpoints, 2 % of them
failed, with a real ``FastHttpUser`` response. The candidates take turns in short rounds, in random order, and ratios
are taken within a block of rounds: what else the machine does hits them all alike. Counted as ours is everything that
a request costs: the listener, the counting of what it puts aside, and making the events at the window's end.
"""

import argparse
import gc
import http.server
import platform
import random
import statistics
import threading
import time

import locust
from locust import FastHttpUser
from locust.env import Environment
from locust.event import EventHook

import locust_newrelic
from locust_newrelic.histogram import Scale
from locust_newrelic.payload import Interval, Payload, Totals
from locust_newrelic.recorder import Recorder

ENDPOINTS = 20
FAILED = 0.02
BUCKETS_MS = (100, 250, 500, 1000, 2500, 5000, 10000)
REQUESTS_PER_ROUND = 500
ROUNDS_PER_BLOCK = 40
"""Ratios are those of blocks: what happens for every thousandth request of a kind only must be in each of them."""
REQUESTS_PER_WINDOW = 40_000
"""What a saturated process makes in a window of 10 s."""


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
    user = user_class(Environment())
    try:
        return user.client.get("/200"), user.client.get("/500")
    finally:
        server.shutdown()


def make_requests(number):
    """The arguments of that many fired requests."""
    passed, failed = responses()
    chance = random.Random(17)
    requests = []
    for _ in range(number):
        fails = chance.random() < FAILED
        requests.append(
            {
                "request_type": "GET",
                "name": f"/endpoint/{chance.randrange(ENDPOINTS)}",
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


class Candidate:
    """Something that listens to requests, and what it has to do later."""

    def __init__(self, *listeners, with_locust=True):
        if with_locust:
            environment = Environment()
            environment.create_local_runner()
            self.hook = environment.events.request
        else:
            self.hook = EventHook()
        for listener in listeners:
            self.hook.add_listener(listener)

    def fire(self, requests):
        """Fire the requests; returns the seconds."""
        fire = self.hook.fire
        begun = time.perf_counter()
        for request in requests:
            fire(**request)
        return time.perf_counter() - begun


class Ours:
    """This package's share: listener, fold, and the events of a window."""

    def __init__(self):
        scale = Scale(BUCKETS_MS)
        self.recorder = Recorder(scale, max_series=1000)
        self.payload = Payload(scale, app_name="Locust", run_id="benchmark", test_name="benchmark", attributes={})
        self.interval = Interval(0, 10.0, 0, 100, 100, 1, "running")
        self.totals = Totals()
        self.take_s, self.events_s, self.longest_step_s = [], [], 0.0

    def end_of_round(self, number):
        """What the reporter's greenlet does now and then; *number* requests were fired so far."""
        if number % REQUESTS_PER_WINDOW == 0:
            begun = last = time.perf_counter()
            window = self.recorder.take()
            for _ in window.settle():
                step = time.perf_counter()
                self.longest_step_s = max(self.longest_step_s, step - last)
                last = step
            taken = time.perf_counter()
            events = list(self.payload.window_events(window, self.interval, self.totals))
            self.take_s.append(taken - begun)
            self.events_s.append(time.perf_counter() - taken)
            assert len(events) == 1 + ENDPOINTS * 4


def empty(request_type, name, response_time, response_length, response=None, exception=None, context=None,
          start_time=None, url=None, **_):  # fmt: skip
    """The least that a listener costs."""


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1600, help="of 500 requests for each candidate (default: 1600)")
    options = parser.parse_args()

    ours = Ours()
    candidates = {
        "nobody": Candidate(with_locust=False),
        "Locust": Candidate(),
        "Locust + empty listener": Candidate(empty),
        "Locust + locust-newrelic": Candidate(ours.recorder.on_request),
    }
    requests = make_requests(20_000)
    seconds = {name: [] for name in candidates}
    order = list(candidates)
    gc.collect()
    gc.disable()
    for number in range(1, options.rounds + 1):
        start = number * REQUESTS_PER_ROUND % len(requests)
        part = requests[start : start + REQUESTS_PER_ROUND]
        random.shuffle(order)
        for name in order:
            seconds[name].append(candidates[name].fire(part))
        ours.end_of_round(number * REQUESTS_PER_ROUND)
        if number % 20 == 0:
            gc.collect()

    report(seconds, ours)


def blocks(rounds_s):
    """The nanoseconds per request of each block of rounds."""
    starts = range(0, len(rounds_s) - ROUNDS_PER_BLOCK + 1, ROUNDS_PER_BLOCK)
    requests = ROUNDS_PER_BLOCK * REQUESTS_PER_ROUND
    return [sum(rounds_s[start : start + ROUNDS_PER_BLOCK]) / requests * 1e9 for start in starts]


def report(seconds, ours):
    """Print nanoseconds and ratios: medians over the blocks, with minimum and maximum."""
    times = {name: blocks(rounds_s) for name, rounds_s in seconds.items()}
    own = [locust_ns - nobody_ns for locust_ns, nobody_ns in zip(times["Locust"], times["nobody"], strict=True)]
    own_ns = statistics.median(own)
    take_ns = statistics.median(ours.take_s) / REQUESTS_PER_WINDOW * 1e9
    events_ns = statistics.median(ours.events_s) / REQUESTS_PER_WINDOW * 1e9
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"{python}, Locust {locust.__version__}, locust-newrelic {locust_newrelic.__version__}\n")
    print(f"{'':34}{'ns a request':>14}{'ratio':>8}   least and most")
    print(f"{'Locust: its own statistics':34}{own_ns:14.0f}{1:8.2f}")

    def row(label, name, later_ns=0.0):
        added = [
            with_ns - locust_ns + later_ns for with_ns, locust_ns in zip(times[name], times["Locust"], strict=True)
        ]
        ratios = [one / whole for one, whole in zip(added, own, strict=True)]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        print(f"{label:34}{statistics.median(added):14.0f}{middle:8.2f}   {low:.2f} to {high:.2f}")

    row("an empty listener", "Locust + empty listener")
    row("locust-newrelic: the listener", "Locust + locust-newrelic")
    row("locust-newrelic: with all later", "Locust + locust-newrelic", take_ns + events_ns)
    print(
        f"\nLater, per request: {take_ns:.0f} ns to count what is left at a window's end (in steps of"
        f" {ours.longest_step_s * 1000:.1f} ms at the most), {events_ns:.0f} ns for its events."
    )


if __name__ == "__main__":
    main()
