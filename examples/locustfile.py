"""A shop's visitors. The import of locust_newrelic is all that reporting needs."""

from locust import FastHttpUser, between, task

import locust_newrelic  # noqa: F401


class Visitor(FastHttpUser):
    """Looks around, and now and then runs into trouble."""

    host = "http://127.0.0.1:8000"  # python examples/server.py 8000
    wait_time = between(0.05, 0.15)

    @task(10)
    def look_at_an_item(self):
        """One endpoint in the reports, whatever the item."""
        self.client.get("/items/17", name="/items/[id]")

    @task(5)
    def start_page(self):
        """At once."""
        self.client.get("/")

    @task(3)
    def search(self):
        """Slow."""
        self.client.get("/slow")

    @task(2)
    def buy(self):
        """Fails now and then."""
        self.client.post("/flaky", json={"item": 17})

    @task(1)
    def old_link(self):
        """A 404, which is all right here."""
        with self.client.get("/missing", catch_response=True) as response:
            if response.status_code == 404:
                response.success()
