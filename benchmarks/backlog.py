"""How long delivery holds Locust's event loop: the longest gap of a greenlet that wants to run every millisecond.

``python benchmarks/backlog.py`` runs the tests' Event API as a process of its own. It answers 503 while 10,000 events
are put, as many at once as the reporter puts (so each of them goes to the spool as well), then takes them: the backlog
is worked off in full batches over TLS. The gap with nothing to do is measured before, in between and afterwards; only
what is beyond it is ours.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gevent
from flush import BUDGET_MS, GOAL_MS, Ticker
from results import Budget, Table, main, progress, spread

from locust_newrelic.delivery import Delivery
from locust_newrelic.pauses import BREATH_S
from locust_newrelic.sender import EVENTS_AT_ONCE
from locust_newrelic.spool import Spool
from locust_newrelic.transport import Transport

SERVER = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
from new_relic import Answer, NewRelic
server = NewRelic(pathlib.Path(sys.argv[2]))
print(server.url, server.certificate, flush=True)
for line in sys.stdin:
    server.always = Answer(503, {"Retry-After": "1"}) if line.strip() == "busy" else None
    print(len(server.events), flush=True)
"""


class Server:
    """The tests' Event API, as a process."""

    def __init__(self, folder):
        tests = Path(__file__).parent.parent / "tests"
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(tests), folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url, self.certificate = self._process.stdout.readline().split()

    def tell(self, what):
        """Let it be "busy" or "well"; returns how many events it has."""
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self):
        """End it."""
        self._process.stdin.close()
        self._process.wait()


def endpoint_event(number):
    """An event with as many attributes, and as long, as that of an endpoint is."""
    event = {"eventType": "LocustRequestStatistics", "timestamp": int(time.time() * 1000), "appName": "Locust",
             "run_id": "20260101T000000Z-01234567", "test_name": "locustfile.py", "stats_epoch": 0, "seq": number,
             "method": "GET", "name": f"/endpoint/{number % 50}", "safe_name": f"/endpoint/{number % 50}",
             "interval_ms": 10_000}  # fmt: skip
    event |= {f"le_{limit}": number % limit for limit in (100, 250, 500, 1000, 2500, 5000, 10000)}
    event |= {f"attribute_number_{index}": number * 1.2345 / (index + 1) for index in range(18)}
    return event


def play(num_events, ticker):
    """The longest gaps of one round, in ms, by what went on."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        transport = Transport(
            "0123456789abcdef0123456789abcdefFFFFNRAL", server.url, ca_bundle=server.certificate, version="1",
            clock=time.time,
        )  # fmt: skip
        delivery = Delivery(transport, spool=Spool(folder))
        events = [endpoint_event(number) for number in range(num_events)]
        gaps = {"idle before": ticker.longest_ms(lambda: gevent.sleep(2))}

        def put():
            for start in range(0, num_events, EVENTS_AT_ONCE):
                delivery.put(events[start : start + EVENTS_AT_ONCE])
                gevent.sleep(BREATH_S)

        def work_off():
            while delivery.num_queued:
                gevent.sleep(0.01)

        server.tell("busy")
        gaps["queued and spooled"] = ticker.longest_ms(put)
        server.tell("well")
        gaps["worked off"] = ticker.longest_ms(work_off)
        gaps["idle after"] = ticker.longest_ms(lambda: gevent.sleep(2))
        assert server.tell("well") == delivery.num_sent == num_events
        assert not list(Path(folder).glob("*.ndjson"))
        delivery.close(1)
        server.close()
    return gaps


def measure(quick):
    """The table."""
    num_events, num_rounds = (2_000, 1) if quick else (10_000, 5)
    ticker, rounds = Ticker(), []
    for number in range(num_rounds):
        progress(f"backlog: {number + 1} of {num_rounds}")
        rounds.append(play(num_events, ticker))
    ticker.close()

    result = Table(f"A backlog of {num_events:,} events: the longest gap, in ms", ["while they are", "gap", "p99.9"])
    for name in rounds[0]:
        longest, p999 = ([gaps[name][index] for gaps in rounds] for index in (0, 1))
        result.rows.append([name, spread(longest, 1), spread(p999, 1)])
    for name in ("queued and spooled", "worked off"):
        beyond = [gaps[name][0] - min(gaps["idle before"][0], gaps["idle after"][0]) for gaps in rounds]
        what = f"longest stall while a backlog of {num_events:,} events is {name}, beyond the idle gap"
        result.budgets.append(Budget(what, statistics.median(beyond), BUDGET_MS, GOAL_MS, " ms"))
    result.note(f"Events of {len(endpoint_event(0))} attributes; all of them arrived.")
    return [result]


if __name__ == "__main__":
    main(__doc__, measure)
