"""The main job, without an account: load a small server with Locust and show what New Relic would have received.

``make run`` calls it. It starts ``server.py``, runs ``locustfile.py`` against it with ``--newrelic-output``, and prints
the sums of the events beside Locust's own figures. Exits with 1 if they differ.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).parent


def main():
    """Run the demo; returns the exit code."""
    options = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder, target() as host:
        output = Path(folder) / "events.ndjson"
        print(f"Locust runs {options.users} users for {options.seconds} s against {host} ...", flush=True)
        ended = subprocess.run(headless(host, options, output), capture_output=True, text=True, check=False)
        return result(ended, output)


def arguments(description):
    """The parser of what Locust shall do."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=positive, default=20, help="how long Locust runs (default: 20)")
    parser.add_argument("--users", type=positive, default=20, help="how many users (default: 20)")
    return parser


def positive(text):
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        msg = "at least 1 is needed"
        raise argparse.ArgumentTypeError(msg)
    return number


@contextlib.contextmanager
def target():
    """Start the small server, and end it at last; its address."""
    with subprocess.Popen([sys.executable, str(HERE / "server.py")], stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def locust(*options):
    """The command of Locust with ``locustfile.py``."""
    return [sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py"), *options]


def headless(host, options, output):
    """The command of a run without web UI that writes its events to *output* and ends with Locust's own figures."""
    users, seconds = str(options.users), str(options.seconds)
    load = ("-H", host, "-u", users, "-r", users, "-t", seconds)
    report = ("--newrelic-output", str(output), "--newrelic-interval", "5")
    return locust("--headless", "--only-summary", "--json", *load, *report)


def result(ended, output):
    """Show what a run that has *ended* wrote to *output*; returns the exit code."""
    if not output.exists():
        sys.stderr.write(ended.stderr)
        return 1
    events = [json.loads(line) for line in output.read_text().splitlines()]
    return show(events, json.loads(ended.stdout))


def show(events, stats):
    """Print the tables; returns 1 if the events and Locust's *stats* differ."""
    print("\nWhat New Relic would have received:\n")
    for event_type, number in Counter(event["eventType"] for event in events).items():
        print(f"  {number:5} {event_type}")

    received = defaultdict(Counter)
    for event in events:
        if event["eventType"] == "LocustRequestStatistics":
            entry = received[event["method"], event["name"]]
            entry["windows"] += 1
            entry["requests"] += event["num_requests"]
            entry["failures"] += event["num_failures"]
            entry["p95"] = max(entry["p95"], event.get("response_time_p95", 0))

    print(f"\n  {'':24}{'':10}{'requests':>18}{'failures':>18}{'highest p95':>14}")
    print(f"  {'endpoint':24}{'windows':>10}{'sum':>9}{'Locust':>9}{'sum':>9}{'Locust':>9}{'of a window':>14}")
    same = len(received) == len(stats)
    for own in sorted(stats, key=lambda entry: entry["name"]):
        entry = received[own["method"], own["name"]]
        pairs = ((entry["requests"], own["num_requests"]), (entry["failures"], own["num_failures"]))
        same = same and all(ours == locusts for ours, locusts in pairs)
        figures = "".join(f"{number:9}" for pair in pairs for number in pair)
        print(f"  {own['method'] + ' ' + own['name']:24}{entry['windows']:10}{figures}{entry['p95']:11.1f} ms")

    (stop,) = (event for event in events if event.get("phase") == "stop")
    print(
        f"\n  The whole run: {stop['num_requests']} requests, {stop['num_failures']} failures, {stop['rps']:.1f}/s,"
        f" p50 {stop['latency_p50']:.1f} ms, p95 {stop['latency_p95']:.1f} ms, p99 {stop['latency_p99']:.1f} ms"
    )
    print(f"\n  {'The counts are equal to the last request.' if same else 'THE COUNTS DIFFER.'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
