"""Locust as a library, reported to New Relic: ``python examples/use_as_library.py HOST [SECONDS]``.

The key comes from NEW_RELIC_LICENSE_KEY, as with the command; with LOCUST_NEWRELIC_OUTPUT=FILE none is needed.
"""

import sys

import gevent
from locust import HttpUser, between, task
from locust.env import Environment

import locust_newrelic


class Visitor(HttpUser):
    """Opens the start page."""

    wait_time = between(0.05, 0.15)

    @task
    def start_page(self):
        """At once."""
        self.client.get("/")


def main(host, seconds):
    """Run ten users for some seconds; returns the number of failures."""
    environment = Environment(user_classes=[Visitor], host=host)
    runner = environment.create_local_runner()
    reporter = locust_newrelic.attach(environment, app_name="Library", interval_s=5)
    try:
        runner.start(10, spawn_rate=10)
        gevent.sleep(seconds)
        runner.quit()
    finally:
        reporter.close()  # delivers what is left
    print(f"{environment.stats.total.num_requests} requests, {environment.stats.total.num_failures} failures")
    return environment.stats.total.num_failures


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/use_as_library.py HOST [SECONDS]")
    sys.exit(min(main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 10), 1))
