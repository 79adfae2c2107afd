"""What importing a candidate adds to the start of Locust.

``python benchmarks/start_up.py`` starts Python again and again, one candidate after the other, and times what it adds
to ``import locust``: the import, and the set-up that comes with the candidate's flag. The ratio is to ``import locust``
in the same process.

Ours imports what sends only when Locust is set up and a license key is there: so it has a second row, with that, and a
third, with what a worker imports then. All modules are compiled before, as those that pip installs are. The garbage
collector is off: a full collection takes longer than a small candidate, and which import it falls into is chance.
"""

import os
import statistics
import subprocess
import sys

import peers
from results import Budget, Table, main, progress, ratios, spread

CODE = """
import gc, os, time
gc.disable()
begun = time.perf_counter()
import locust
imported = time.perf_counter()
{}
print(imported - begun, time.perf_counter() - imported, flush=True)
os._exit(0)  # OpenTelemetry would wait for a server
"""
SET_UP = """
import locust_newrelic
from locust.env import Environment
locust_newrelic.attach(Environment(), license_key="key", endpoint="https://127.0.0.1:9")
"""
STATEMENTS = {
    peers.Ours.label: "import locust_newrelic",
    f"{peers.Ours.label}, set up to send": SET_UP,
    f"{peers.Ours.label}, with a worker's modules": "import locust_newrelic.worker",
    peers.Naive.label: "import newrelic_telemetry_sdk",
    peers.Otel.label: "from locust.opentelemetry import setup_opentelemetry as set_up; assert set_up('f.py', None)",
    peers.LocustTelemetry.label: "from locust_telemetry import entrypoint; entrypoint.initialize()",
}
ENVIRONMENT = os.environ | {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    "PYTHONDONTWRITEBYTECODE": "",  # else our modules would be compiled in each process: they are not installed by pip
}
BUDGET_MS, GOAL_MS = 60, 30


def times_ms(statement):
    """How long ``import locust`` takes in a fresh process, and what comes after it."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(statement)], capture_output=True, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it failed"])[-1])
    return [float(seconds) * 1000 for seconds in done.stdout.split()]


def measure(quick):
    """The table."""
    repetitions = 3 if quick else 15
    result = Table("Start: what an import adds to Locust's own", ["", "import locust, ms", "added, ms", "ratio"])
    pairs, failed = {label: [] for label in STATEMENTS}, {}
    for number in range(repetitions + 1):
        progress(f"start: {number} of {repetitions}")
        for label, statement in STATEMENTS.items():
            try:
                pairs[label].append(times_ms(statement))
            except RuntimeError as error:  # noqa: PERF203
                failed[label] = str(error)
    for label, all_pairs in pairs.items():
        if label in failed:
            result.failed(label, failed[label])
            continue
        own, added = zip(*all_pairs[1:], strict=True)  # the first one compiles, or reads from the disk
        result.rows.append([label, spread(own, 0), spread(added, 0), spread(ratios(added, own))])
        if label == peers.Ours.label:
            what = "import locust_newrelic beyond import locust"
            result.budgets.append(Budget(what, statistics.median(added), BUDGET_MS, GOAL_MS, " ms"))
    return [result]


if __name__ == "__main__":
    main(__doc__, measure)
