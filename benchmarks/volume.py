"""What New Relic stores of a run: bytes of each type of event, and MB in an hour, by endpoints, workers and failures.

``python benchmarks/volume.py`` makes the events of some windows of 10 s and weighs them as JSON, which is what New
Relic's accounts are charged by. Each endpoint has 200 requests in a window (lognormal times); "some fail" means 2 % of
the requests of every tenth endpoint, "all fail" 2 % of those of each.
"""

import json
import random
from collections import Counter
from types import SimpleNamespace

import stored
from locust.stats import StatsError
from results import Budget, Table, main, progress

from locust_newrelic.gathering import NodesInTurn, Slot
from locust_newrelic.health import Health
from locust_newrelic.histogram import Scale
from locust_newrelic.payload import Interval, Node, Payload, Totals
from locust_newrelic.recorder import Recorder

BUCKETS_MS = (100, 250, 500, 1000, 2500, 5000, 10000)
INTERVAL_S, NUM_WINDOWS, REQUESTS_PER_ENDPOINT, FAILED = 10, 12, 200, 0.02
ENDPOINTS, WORKERS = (20, 50, 200), (0, 1, 10, 100, 1000)
FAILING = {"none fails": 0, "some fail": 10, "all fail": 1}
"""Every how many-th endpoint has failures."""
BUDGET_MB, GOAL_MB, BUDGET_ENDPOINTS = 24, 16, 50
BEGUN_MS = 1_795_000_000_000


def window(chance, endpoints, every):
    """The window of a run with so many endpoints."""
    recorder = Recorder(Scale(BUCKETS_MS), 1000, error_text=StatsError.parse_error)
    passed, failed = SimpleNamespace(status_code=200), SimpleNamespace(status_code=503)
    kinds = ("items", "carts", "search", "orders")
    for index in range(endpoints):
        may_fail = every and index % every == 0
        for _ in range(REQUESTS_PER_ENDPOINT):
            fails = may_fail and chance.random() < FAILED
            recorder.on_request(
                "GET",
                f"/{kinds[index % len(kinds)]}/{index}",
                chance.lognormvariate(4, 1),
                chance.randrange(100, 2000),
                failed if fails else passed,
                "LocustBadStatusCode(code=503)" if fails else None,
            )
    return recorder.take()


def nodes(chance, workers):
    """How the processes do."""
    healths = (
        Health(
            chance.uniform(1, 9), 10.0, chance.randrange(50, 90) << 20, 10, 98, chance.random() / 10, chance.random()
        )
        for _ in range(workers + 1)
    )
    found = [
        Node(f"load-generator-{index}", "worker" if index else "master", index, health, 1000, -3.0 if index else None)
        for index, health in enumerate(healths)
    ]
    return {node.name: node for node in found}


def weigh(endpoints, workers, every):
    """Events and bytes by type of event, of all windows."""
    chance = random.Random(17)
    payload = Payload(
        Scale(BUCKETS_MS), app_name="Locust", run_id="20261124T120000Z-01234567", test_name="locustfile.py",
        attributes={},
    )  # fmt: skip
    totals, turns, numbers, sizes = Totals(), NodesInTurn(), Counter(), Counter()
    for number in range(NUM_WINDOWS):
        start_ms = BEGUN_MS + number * INTERVAL_S * 1000
        interval = Interval(start_ms, float(INTERVAL_S), 0, 1000, 1000, workers, "running")
        slot = Slot(start_ms, 0, window(chance, endpoints, every), nodes(chance, workers))
        for event in [
            *payload.window_events(slot.window, interval, totals),
            *(payload.node_event(*told, 0, {}) for told in told_of(slot, turns)),
        ]:
            numbers[event["eventType"]] += 1
            sizes[event["eventType"]] += len(json.dumps(event, separators=(",", ":")))
    return numbers, sizes


def told_of(slot, turns):
    """The processes of which this window tells."""
    for node in slot.nodes.values():
        told = (node, slot.start_ms) if node.is_own else turns.take(node, slot, INTERVAL_S * 1000)
        if told is not None:
            yield told


def measure(quick):
    """The tables."""
    hour = 3600 / INTERVAL_S / NUM_WINDOWS
    events = Table(
        "An event, as New Relic stores it",
        ["50 endpoints, 10 workers, each endpoint fails", "bytes", "an hour", "MB an hour"],
    )
    numbers, sizes = weigh(BUDGET_ENDPOINTS, 10, 1)
    for event_type, number in numbers.items():
        size = sizes[event_type]
        events.rows.append([event_type, f"{size / number:.0f}", f"{number * hour:,.0f}", f"{size * hour / 1e6:.2f}"])
    return [events, hour_table(WORKERS[:3] if quick else WORKERS, hour)]


def hour_table(workers, hour):
    """MB in an hour."""
    columns = ("local run" if not number else f"{number:,} worker{'s' * (number > 1)}" for number in workers)
    result = Table(
        f"Stored in an hour, in MB of JSON, at the default interval of {INTERVAL_S} s",
        ["", "endpoints", *columns],
    )
    for endpoints in ENDPOINTS:
        for label, every in FAILING.items():
            progress(f"volume: {endpoints} endpoints, {label}")
            amounts = [sum(weigh(endpoints, number, every)[1].values()) * hour / 1e6 for number in workers]
            result.rows.append([f"locust-newrelic, {label}", str(endpoints), *(f"{amount:.1f}" for amount in amounts)])
            if endpoints == BUDGET_ENDPOINTS:
                what = f"stored in an hour, {endpoints} endpoints, {label}, at the most of all numbers of workers"
                result.budgets.append(Budget(what, max(amounts), BUDGET_MB, GOAL_MB, " MB"))
    rate = BUDGET_ENDPOINTS * REQUESTS_PER_ENDPOINT // INTERVAL_S
    for label, found in stored.per_hour(rate, BUDGET_ENDPOINTS).items():
        if isinstance(found, str):
            result.failed(label, found)
        else:
            each = (f"{found[1] * max(number, 1):,.1f}" for number in workers)
            result.rows.append([label, str(BUDGET_ENDPOINTS), *each])
    result.note(
        f"“some fail”: {FAILED:.0%} of the requests of every tenth endpoint, “all fail”: of each, in nearly each"
        " window. Of more than 20 workers LocustNode events take turns."
    )
    result.note(
        f"Peers with {rate:,} requests a second on each worker; of OpenTelemetry MB of Protobuf as sent, at their"
        " default intervals (60 s and 3 s), each worker for itself. Locust's `--otel` keeps 20 of the names apart, and"
        " neither sends traces here."
    )
    return result


if __name__ == "__main__":
    main(__doc__, measure)
