"""What this package adds to the reports of workers, as a ratio to Locust's own cost for the same requests.

``python benchmarks/distributed.py`` fires requests (lognormal times, 2 % of them failed) at Locust's own statistics and
at this package's recorder, and makes the reports that a worker would send of them, one every 3 s. Locust's part is made
by its own handlers, packed and read by its own ``Message``, and so is ours. A repetition is 30 s of a test: ten reports
of each worker, of which three tell of two windows, and three windows at the master. Ours and Locust's take turns, and
ratios are taken within a repetition: what else the machine does hits both alike.

A second table simulates a master with up to 1,000 workers: how its load grows, and where it ends.
"""

import gc
import random
import statistics
import time
from collections import defaultdict
from itertools import islice

import gevent
import locust
import requests
from locust.env import Environment
from locust.rpc.protocol import Message
from locust.stats import RequestStats, StatsError, setup_distributed_stats_event_listeners
from results import Budget, Table, main, progress, ratios, spread

from locust_newrelic import relay
from locust_newrelic.gathering import Gathering, NodesInTurn
from locust_newrelic.health import Gauge
from locust_newrelic.histogram import Scale
from locust_newrelic.pauses import in_steps
from locust_newrelic.payload import Interval, Node, Payload, Totals
from locust_newrelic.recorder import Recorder
from locust_newrelic.relay import Part, Report
from locust_newrelic.sender import EVENTS_AT_ONCE, REPORTS_TO_WAIT
from locust_newrelic.window import Names

WORKERS = (1, 10, 100)
CROWDS = (100, 300, 1000)
REQUESTS_PER_ENDPOINT = {20: 75, 50: 60, 200: 45}
"""In a report, by the number of endpoints."""
MEASURED = (20, 200)
FAILED = 0.02
BUCKETS_MS = (100, 250, 500, 1000, 2500, 5000, 10000)
MAX_SERIES = 1000
INTERVAL_S, REPORT_INTERVAL_S, REPETITION_S = 10, 3, 30
NUM_REPORTS, NUM_WINDOWS = REPETITION_S // REPORT_INTERVAL_S, REPETITION_S // INTERVAL_S
BEGUN_S = 1_700_000_010
NUM_RECORDED = 10
"""So many workers' reports are recorded; of more workers, several send the same."""

BUDGETS = {"bytes": (0.6, 0.2), "worker": (0.8, 0.5), "master": (0.8, 0.5)}
"""What must be kept, and the goal beyond."""

SCALE = Scale(BUCKETS_MS)


class Clock:
    """The time by which Locust's statistics count: here a report's requests are fired at once, but made in 3 s."""

    now_s = float(BEGUN_S)

    def time(self):
        """Stands for ``time.time``."""
        return self.now_s


class Stopwatch:
    """Seconds by what they were spent on."""

    def __init__(self):
        self.seconds = defaultdict(float)

    def time(self, what, function, *args):
        """Call *function*, count the seconds, hand on what it returns."""
        begun = time.perf_counter()
        result = function(*args)
        self.seconds[what] += time.perf_counter() - begun
        return result


def in_turns(number, *functions):
    """Call the functions, in the order of that number's turn."""
    for function in functions if number % 2 else reversed(functions):
        function()


class Worker:
    """Locust's statistics of a worker and ours, on the same requests."""

    def __init__(self, number, endpoints, clock):
        self.client_id = f"load-generator-{number}_0123456789abcdef0123456789abcdef"
        self.environment = Environment()
        self.environment.stats = RequestStats(use_response_times_cache=False)  # as Locust does for a worker
        self.environment.create_local_runner().greenlet.kill()  # its listeners only: nothing watches the CPU here
        setup_distributed_stats_event_listeners(self.environment.events, self.environment.stats)
        self.recorder = Recorder(SCALE, MAX_SERIES, error_text=StatsError.parse_error)
        self.environment.events.request.add_listener(self.recorder.on_request)
        self.watch = Stopwatch()
        self._gauge = Gauge()
        self._clock = clock
        self._chance = random.Random(number)
        kinds = ("items", "carts", "search", "orders")
        self._names = [f"/{kinds[index % len(kinds)]}/{index}" for index in range(endpoints)]
        self._per_report = endpoints * REQUESTS_PER_ENDPOINT[endpoints]
        self._responses = requests.Response(), requests.Response()
        self._responses[False].status_code, self._responses[True].status_code = 200, 500
        self._closed = []

    def fire(self, seconds):
        """The requests of so many seconds."""
        chance, fire = self._chance, self.environment.events.request.fire
        number = round(self._per_report * seconds / REPORT_INTERVAL_S)
        begun_s = self._clock.now_s
        for index in range(number):
            self._clock.now_s = begun_s + seconds * index / number
            fails = chance.random() < FAILED
            fire(
                request_type="GET",
                name=chance.choice(self._names),
                response_time=chance.lognormvariate(4, 1),
                response_length=chance.randrange(100, 2000),
                response=self._responses[fails],
                exception=ValueError("failed") if fails else None,
                context={},
            )
        self._clock.now_s = begun_s + seconds

    def reports(self):
        """The requests and the reports of a repetition: pairs of bytes, Locust's and ours."""
        self._clock.now_s = float(BEGUN_S)
        pairs = [self._report(number) for number in range(NUM_REPORTS)]
        self._gauge.close()
        return pairs

    def _report(self, number):
        begun_s = number * REPORT_INTERVAL_S
        boundary_s = (begun_s // INTERVAL_S + 1) * INTERVAL_S
        to_boundary_s = boundary_s - begun_s
        if to_boundary_s < REPORT_INTERVAL_S:
            self.fire(to_boundary_s)
            self._end_window(boundary_s - INTERVAL_S)
        self.fire(min(REPORT_INTERVAL_S - to_boundary_s, REPORT_INTERVAL_S) if self._closed else REPORT_INTERVAL_S)
        start_s = boundary_s if self._closed else boundary_s - INTERVAL_S
        sent = {}

        def theirs():
            sent["theirs"] = self.watch.time("theirs", self._make_theirs)

        def ours():
            self._end_window(start_s)
            sent["ours"] = self.watch.time("ours", self._make_ours)

        in_turns(number, theirs, ours)
        return sent["theirs"], sent["ours"]

    def _end_window(self, start_s):
        """As the reporter does, but that the requests put aside are counted apart."""
        window, health = self.watch.time("ours", lambda: (self.recorder.take(), self._gauge.take(10)))
        self.watch.time("counting", in_steps, window.count())
        self._closed.append(Part("20250101T000000Z-01234567", (BEGUN_S + start_s) * 1000, BUCKETS_MS, window, health))

    def _make_theirs(self):
        data = {"user_classes_count": {"Visitor": 10}, "user_count": 10}
        self.environment.events.report_to_master.fire(client_id=self.client_id, data=data)
        return Message("stats", data, self.client_id).serialize()

    def _make_ours(self):
        parts, self._closed = self._closed, []
        packed = relay.pack(Report(int(time.time() * 1000), parts))
        return Message("stats", {relay.KEY: packed}, self.client_id).serialize()


class Master:
    """Locust's statistics of a master and ours, for the same reports."""

    def __init__(self):
        self.environment = Environment()
        setup_distributed_stats_event_listeners(self.environment.events, self.environment.stats)
        self.watch = Stopwatch()
        self.gathering = Gathering(Names(MAX_SERIES), MAX_SERIES)
        self._turns = NodesInTurn()
        self._totals = Totals()
        self._gauge = Gauge()
        self._payload = Payload(
            SCALE, app_name="Locust", run_id="20250101T000000Z-01234567", test_name="locustfile.py", attributes={}
        )

    def run(self, recorded, workers):
        """Take the reports of so many workers, and end the windows; returns the stopwatch's seconds."""
        windows = iter(range(NUM_WINDOWS))
        for number in range(NUM_REPORTS):
            at_s = (number + 1) * REPORT_INTERVAL_S
            for index in range(workers):
                theirs, ours = recorded[index % len(recorded)][number]
                in_turns(
                    number + index,
                    lambda theirs=theirs: self.watch.time("theirs", self.take_theirs, theirs),
                    lambda ours=ours, index=index: self.watch.time("ours", self.take_ours, ours, index),
                )
            if at_s >= INTERVAL_S and at_s % INTERVAL_S < REPORT_INTERVAL_S:
                self._cut(next(windows))
            self._close(at_s)
        self._close(float("inf"))
        self._gauge.close()
        return self.watch.seconds

    def take_theirs(self, sent):
        """What Locust does with its part of a report."""
        message = Message.unserialize(sent)
        self.environment.events.worker_report.fire(client_id=message.node_id, data=message.data)

    def take_ours(self, sent, index):
        """What we do with ours."""
        report = relay.unpack(Message.unserialize(sent).data[relay.KEY], SCALE)
        for part in report.parts:
            node = Node(f"load-generator-{index}", "worker", index, part.health, clock_skew_ms=-3)
            in_steps(self.gathering.add(part.window, node, part.start_ms, 0, due_s=float("inf")))

    def _cut(self, index):
        """A window's end at the master, which itself makes no requests."""
        start_ms, due_s = (BEGUN_S + index * INTERVAL_S) * 1000, (index + 1) * INTERVAL_S
        interval = Interval(start_ms, float(INTERVAL_S), 0, 1000, 1000, 100, "running")
        self.gathering.cut(interval, due_s + REPORTS_TO_WAIT * REPORT_INTERVAL_S, is_needed=True)
        node = Node("load-generator-0", "master", 0, self._gauge.take(0))
        in_steps(self.gathering.add(Recorder(SCALE, MAX_SERIES).take(), node, start_ms, 0, due_s=0.0))

    def _close(self, at_s):
        for slot in self.gathering.take_due(at_s, 0):
            self.watch.time("events", self.make_events, slot)

    def make_events(self, slot):
        """The events of a window, with pauses for others."""
        in_steps(slot.window.settle())
        made, events = self._payload.window_events(slot.window, slot.interval, self._totals), []
        while some := list(islice(made, EVENTS_AT_ONCE)):
            events += some
            gevent.sleep(0)
        told = (self._turns.take(node, slot, INTERVAL_S * 1000) for node in slot.nodes.values())
        return events + [self._payload.node_event(*turn, 0, {}) for turn in told if turn is not None]


class Onlooker:
    """A greenlet that would always like to run: for how long does nobody let it?"""

    def __init__(self):
        self.longest_s, self._last_s = 0.0, time.perf_counter()
        self._greenlet = gevent.spawn(self._look)

    def _look(self):
        while True:
            now_s = time.perf_counter()
            self.longest_s = max(self.longest_s, now_s - self._last_s)
            self._last_s = now_s
            gevent.sleep(0)

    def during(self, function, *args):
        """Call *function*; returns the longest time in s for which it held the loop."""
        gevent.sleep(0)
        self.longest_s = 0.0
        function(*args)
        gevent.sleep(0)
        return self.longest_s

    def close(self):
        """Look no more."""
        self._greenlet.kill()


def longest_holds(recorded, workers):
    """For how long the master's loop is held at the most: by Locust's part of a report, by ours, by a window's events.

    Medians over the reports and windows of a repetition, in s: the most would tell of the machine.
    """
    master, onlooker, holds = Master(), Onlooker(), defaultdict(list)
    take_theirs, take_ours, make_events = master.take_theirs, master.take_ours, master.make_events
    master.take_theirs = lambda *args: holds["theirs"].append(onlooker.during(take_theirs, *args))
    master.take_ours = lambda *args: holds["ours"].append(onlooker.during(take_ours, *args))

    def watched_events(slot):
        events = []
        holds["events"].append(onlooker.during(lambda: events.extend(make_events(slot))))
        return events

    master.make_events = watched_events
    master.run(recorded, workers)
    onlooker.close()
    return {what: statistics.median(seconds) for what, seconds in holds.items()}


def record(endpoints, clock, watches, repetitions):
    """The reports of as many workers as there are repetitions; their stopwatches go to *watches*."""
    worker = Worker(len(watches[endpoints]), endpoints, clock)
    repetitions[endpoints].append(worker.reports())
    watches[endpoints].append(worker.watch.seconds)
    gc.collect()


def run_all(num_repetitions):
    """The reports recorded by number of endpoints; seconds of the workers, by it; of the master, by it and workers."""
    clock = locust.stats.time = Clock()
    recorded, of_workers, of_masters, holds = (defaultdict(list) for _ in range(4))
    gc.collect()
    gc.disable()
    for number in range(max(num_repetitions, NUM_RECORDED)):
        progress(f"distributed: reports of worker {number + 1} of {max(num_repetitions, NUM_RECORDED)}")
        for endpoints in REQUESTS_PER_ENDPOINT:
            record(endpoints, clock, of_workers, recorded)
    for number in range(num_repetitions):
        progress(f"distributed: the master, {number + 1} of {num_repetitions}")
        for endpoints in MEASURED:
            turned = [recorded[endpoints][(number + index) % NUM_RECORDED] for index in range(NUM_RECORDED)]
            for workers in WORKERS:
                of_masters[endpoints, workers].append(Master().run(turned, workers))
                gc.collect()
            holds[endpoints].append(longest_holds(turned, WORKERS[1]))
            gc.collect()
    gc.enable()
    return recorded, of_workers, of_masters, holds


def run_crowds(recorded, crowds, num_repetitions):
    """The seconds of masters with many workers, by endpoints and workers."""
    of_masters = defaultdict(list)
    gc.collect()
    gc.disable()
    for number in range(num_repetitions):
        for endpoints in MEASURED:
            for workers in crowds:
                progress(f"distributed: {workers} workers, {endpoints} endpoints, {number + 1} of {num_repetitions}")
                of_masters[endpoints, workers].append(Master().run(recorded[endpoints], workers))
                gc.collect()
    gc.enable()
    return of_masters


def measure(quick):
    """The tables."""
    repetitions, crowds = (1, (20, 60)) if quick else (9, CROWDS)
    results = run_all(repetitions)
    tables = [cost_table(endpoints, *results) for endpoints in MEASURED]
    tables.append(crowd_table(run_crowds(results[0], crowds, 1 if quick else 2), crowds))
    return tables


def cost_table(endpoints, recorded, of_workers, of_masters, holds):
    """What one report of so many endpoints costs."""
    per_report = endpoints * REQUESTS_PER_ENDPOINT[endpoints]
    result = Table(
        f"A worker's report every {REPORT_INTERVAL_S} s, with {endpoints} endpoints and {per_report:,} requests",
        ["", "Locust", "ours", "ratio"],
    )
    of_parts = [zip(*pairs, strict=True) for pairs in recorded[endpoints]]
    sizes = [[sum(map(len, part)) / NUM_REPORTS for part in parts] for parts in of_parts]
    row(result, "bytes of a report", sizes, "bytes", digits=0)

    ms = 1000 / NUM_REPORTS
    row(result, "ms on the worker", [(ms * one["theirs"], ms * one["ours"]) for one in of_workers[endpoints]], "worker")
    for workers in WORKERS:
        seconds, each = of_masters[endpoints, workers], ms / workers
        label = f"ms on the master, {workers} worker{'s' * (workers > 1)}"
        row(result, label, [(each * one["theirs"], each * one["ours"]) for one in seconds], "master")
        both = [(each * one["theirs"], each * (one["ours"] + one["events"])) for one in seconds]
        row(result, f"{label}, with its share of a window's events", both)

    counting_s = statistics.median(one["counting"] for one in of_workers[endpoints]) / NUM_REPORTS
    theirs, ours, events = (
        f"{1000 * statistics.median(one[what] for one in holds[endpoints]):.1f} ms"
        for what in ("theirs", "ours", "events")
    )
    result.note(
        f"To count the requests put aside, the worker takes {counting_s * 1000:.2f} ms more,"
        f" {counting_s / per_report * 1e9:.0f} ns a request: that is in the request hook's budget."
    )
    result.note(
        f"Longest hold of the master's loop: {ours} for a report, {events} for a window; Locust's report {theirs}."
    )
    return result


def row(result, label, pairs, budget=None, digits=2):
    """Locust's figure and ours, and their ratio; beside a budget if there is one."""
    theirs, ours = zip(*pairs, strict=True)
    ratio = ratios(ours, theirs)
    middles = (f"{statistics.median(figures):,.{digits}f}" for figures in (theirs, ours))
    result.rows.append([label, *middles, spread(ratio)])
    if budget is not None:
        what = f"{label}, {result.title.split(', ')[1]}, of Locust's own"
        result.budgets.append(Budget(what, statistics.median(ratio), *BUDGETS[budget]))


def crowd_table(of_masters, crowds):
    """How the load of a master grows."""
    result = Table(
        "A simulated master with many workers: load of its core, in %",
        ["", "workers", "Locust's part of reports", "ours", "windows' events", "all"],
    )
    percent = 100 / REPETITION_S
    for endpoints in MEASURED:
        for workers in crowds:
            runs = of_masters[endpoints, workers]
            parts = [[percent * one[what] for one in runs] for what in ("theirs", "ours", "events")]
            parts.append([sum(load) for load in zip(*parts, strict=True)])
            result.rows.append([f"{endpoints} endpoints", f"{workers:,}", *(spread(loads, 1) for loads in parts)])
        without, with_ours = (statistics.median(loads) for loads in (parts[0], parts[-1]))
        result.note(
            f"With {endpoints} endpoints a master's core is full at some {workers * 100 / without:,.0f} workers by"
            f" Locust's part alone, at {workers * 100 / with_ours:,.0f} with ours (by the load at {workers:,})."
        )
    result.note(
        f"Each worker reports every {REPORT_INTERVAL_S} s, what one of {NUM_RECORDED} recorded workers did; reading"
        " from the network is not in it. Above 100 % a master falls behind. Peers do not use the master: each of their"
        " workers exports by itself."
    )
    return result


if __name__ == "__main__":
    main(__doc__, measure)
