"""How long delivery holds Locust's event loop: the longest gap of a greenlet that wants to run every millisecond.

``python benchmarks/backlog.py`` runs the tests' Event API as a process of its own. It answers 503 while 10,000 events
are put, as many at once as the reporter puts (so each of them goes to the spool as well), then takes them: the backlog
is worked off in full batches over TLS. The gap with nothing to do is measured before, in between and afterwards; only
what is beyond it is ours.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gevent
import locust

import locust_newrelic
from locust_newrelic.delivery import BREATH_S, Delivery
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


class Ticker:
    """Wants to run every millisecond, and notes by how much it was late."""

    def __init__(self):
        self._late_s = []
        self._greenlet = gevent.spawn(self._run)

    def _run(self):
        last = time.perf_counter()
        while True:
            gevent.sleep(0.001)
            now = time.perf_counter()
            self._late_s.append(now - last - 0.001)
            last = now

    def longest_ms(self, wait):
        """The longest gap while *wait* runs, and the 99.9th percentile."""
        gevent.sleep(0.01)
        self._late_s.clear()
        wait()
        late = sorted(self._late_s)
        return 1000 * late[-1], 1000 * late[int(0.999 * len(late))]


def endpoint_event(number):
    """An event with as many attributes, and as long, as that of an endpoint is."""
    event = {"eventType": "LocustRequestStatistics", "timestamp": int(time.time() * 1000), "appName": "Locust",
             "run_id": "20260101T000000Z-01234567", "test_name": "locustfile.py", "stats_epoch": 0, "seq": number,
             "method": "GET", "name": f"/endpoint/{number % 50}", "safe_name": f"/endpoint/{number % 50}",
             "interval_ms": 10_000}  # fmt: skip
    event |= {f"le_{limit}": number % limit for limit in (100, 250, 500, 1000, 2500, 5000, 10000)}
    event |= {f"attribute_number_{index}": number * 1.2345 / (index + 1) for index in range(18)}
    return event


def measure(num_events, ticker):
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


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000, help="in the backlog (default: 10000)")
    parser.add_argument("--rounds", type=int, default=5, help="of the whole (default: 5)")
    options = parser.parse_args()

    python = f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores"
    print(f"{python}, Locust {locust.__version__}, locust-newrelic {locust_newrelic.__version__}")
    print(f"{options.events} events of {len(endpoint_event(0))} attributes, {options.rounds} rounds\n")
    ticker = Ticker()
    rounds = [measure(options.events, ticker) for _ in range(options.rounds)]
    print(f"{'longest gap':24}{'median':>10}{'least':>10}{'most':>10}{'p99.9':>10}   in ms")
    for name in rounds[0]:
        longest = [gaps[name][0] for gaps in rounds]
        p999 = statistics.median(gaps[name][1] for gaps in rounds)
        print(f"{name:24}{statistics.median(longest):10.1f}{min(longest):10.1f}{max(longest):10.1f}{p999:10.1f}")


if __name__ == "__main__":
    main()
