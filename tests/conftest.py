"""What the tests share: New Relic's Event API, an HTTP server to load, and real Locust processes."""

import locust  # noqa: F401, I001  (first of all: it makes the standard library cooperative)

import os
import sys
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from locusts import Locusts, Target
from new_relic import NewRelic

examples = int(os.environ.get("TEST_EXAMPLES", "100"))
hypothesis.settings.register_profile("any machine", deadline=None, max_examples=examples)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch):
    """No variable of the machine that runs the tests reaches the code under test."""
    for name in list(os.environ):
        if name.startswith(("NEW_RELIC_", "LOCUST_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def new_relic(tmp_path):
    """A strict Event API; the test fails if it was sent anything that New Relic would not store."""
    server = NewRelic(tmp_path)
    yield server
    server.close()
    assert server.refused == []


@pytest.fixture(scope="session")
def target():
    """The address of an HTTP server to load: the one of the examples."""
    server = Target()
    yield server.url
    server.close()


@pytest.fixture
def locusts(tmp_path):
    """Starts Locust processes, and ends those that are left."""
    processes = Locusts(tmp_path)
    yield processes
    processes.close()
