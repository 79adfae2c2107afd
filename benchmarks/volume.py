"""What New Relic stores of a run: bytes of each type of event, and MB in an hour, by endpoints, workers and failures.

``python benchmarks/volume.py`` makes the events of some windows of 10 s and weighs them as JSON, which is what New
Relic's accounts are charged by. Each endpoint has 200 requests in a window (lognormal times); "some fail" means 2 % of
the requests of every tenth endpoint, "all fail" 2 % of those of each.
"""

import argparse
import json
import platform
import random
from collections import Counter
from types import SimpleNamespace

import locust

import locust_newrelic
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
    recorder = Recorder(Scale(BUCKETS_MS), 1000)
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


def main():
    """Weigh and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    hour = 3600 / INTERVAL_S / NUM_WINDOWS
    print(
        f"{platform.python_implementation()} {platform.python_version()}, Locust {locust.__version__},"
        f" locust-newrelic {locust_newrelic.__version__}\n\nBytes per event, 50 endpoints, 10 workers, all fail:\n"
    )
    numbers, sizes = weigh(50, 10, 1)
    print(f"  {'':26}{'bytes':>8}{'an hour':>12}{'MB an hour':>12}")
    for event_type, number in numbers.items():
        size = sizes[event_type]
        print(f"  {event_type:26}{size / number:8.0f}{number * hour:12,.0f}{size * hour / 1e6:12.2f}")

    print("\nMB an hour, by endpoints and workers (0: a local run):\n")
    print(f"  {'':22}" + "".join(f"{workers:>9,}" for workers in WORKERS))
    for endpoints in ENDPOINTS:
        for label, every in FAILING.items():
            stored = [sum(weigh(endpoints, workers, every)[1].values()) * hour / 1e6 for workers in WORKERS]
            verdict = verdict_on(endpoints, max(stored))
            print(f"  {endpoints:>4} {label:17}" + "".join(f"{megabytes:9.1f}" for megabytes in stored) + verdict)


def verdict_on(endpoints, megabytes):
    """Whether the budget is kept, where there is one."""
    if endpoints != BUDGET_ENDPOINTS:
        return ""
    verdict = "kept" if megabytes <= BUDGET_MB else "NOT kept"
    reached = "reached" if megabytes <= GOAL_MB else "not reached"
    return f"   budget {BUDGET_MB} {verdict}, goal {GOAL_MB} {reached}"


if __name__ == "__main__":
    main()
