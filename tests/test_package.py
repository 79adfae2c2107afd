"""What is installed, and what an import does."""

import importlib.metadata
import re
import subprocess
import sys
from importlib.resources import files

from locusts import clean_environment
from test_end_to_end import SIMPLE

IMPORT = """
import locust, gc, greenlet, logging, threading, socket
def state():
    gc.collect()
    return (
        threading.active_count(),
        sum(isinstance(o, greenlet.greenlet) for o in gc.get_objects()),
        sum(isinstance(o, socket.socket) for o in gc.get_objects()),
        logging.getLogger().handlers + logging.getLogger("locust_newrelic").handlers,
        len(locust.events.request._handlers),
    )
before = state()
import locust_newrelic
assert state() == before, (before, state())
hooks = len(locust.events.init._handlers), len(locust.events.init_command_line_parser._handlers)
import importlib
importlib.reload(locust_newrelic)
assert hooks == (len(locust.events.init._handlers), len(locust.events.init_command_line_parser._handlers)), hooks
print(sorted(locust_newrelic.__all__))
"""


def run_python(code):
    """The output of a new Python process."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=clean_environment(), timeout=60
    ).stdout.strip()


def test_an_import_only_registers():
    """The import starts nothing and listens to no request; a second one registers nothing twice."""
    assert run_python(IMPORT) == (
        "['Config', 'ConfigError', 'Reporter', '__version__', 'attach', 'before_send', 'record', 'set_attributes']"
    )


LOADED = """
import importlib, sys
import locust_newrelic
from locust.env import Environment
from locust.event import Events
def loaded():
    return [name for name in ("sender", "worker", "transport") if f"locust_newrelic.{name}" in sys.modules]
print(loaded(), "newrelic_telemetry_sdk" in sys.modules)
locust_newrelic.attach(Environment(events=Events()))
print(loaded(), "newrelic_telemetry_sdk" in sys.modules)
importlib.import_module("locust_newrelic.worker")
print(loaded(), "newrelic_telemetry_sdk" in sys.modules)
environment = Environment(events=Events())
locust_newrelic.attach(environment, output=sys.argv[1]).close()
print(loaded(), "newrelic_telemetry_sdk" in sys.modules)
"""


def test_what_is_loaded_when(tmp_path):
    """Neither the import, nor reporting that is off, nor a worker loads what sends; a reporter that sends does."""
    command = [sys.executable, "-c", LOADED, str(tmp_path / "events")]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=clean_environment(), timeout=60)
    assert output.stdout.splitlines() == [
        "[] False",
        "[] False",
        "['worker'] False",
        "['sender', 'worker', 'transport'] True",
    ]


def test_without_the_sdk(locusts, tmp_path):
    """Where the SDK cannot be imported, a run that should report ends at its start and says what is missing."""
    code = "import sys\nsys.modules['newrelic_telemetry_sdk'] = None\n" + SIMPLE
    run = locusts.run(code, "-u", "1", "-t", "1", environment={"LOCUST_NEWRELIC_OUTPUT": str(tmp_path / "events")})

    assert run.wait() == 2
    assert "locust: error: New Relic: cannot report, an import failed: " in run.log
    assert "newrelic_telemetry_sdk" in run.log
    assert "Traceback" not in run.log


def test_the_first_import_of_a_program():
    """Imported before Locust, the package still lets Locust make the standard library cooperative first."""
    code = "import warnings; warnings.simplefilter('error'); import locust_newrelic, socket; print(socket.socket)"
    assert "gevent" in run_python(code)


def test_what_is_installed():
    """The distribution depends on Locust, gevent and the SDK alone, is typed, and has the license."""
    distribution = importlib.metadata.distribution("locust-newrelic")
    needed = {
        re.match(r"[\w-]+", requirement)[0] for requirement in distribution.requires if "extra ==" not in requirement
    }
    assert needed == {"gevent", "locust", "newrelic-telemetry-sdk"}
    assert files("locust_newrelic").joinpath("py.typed").is_file()
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
    assert distribution.metadata["Requires-Python"] == ">=3.10"


def test_two_locustfiles_that_both_import_it(new_relic, locusts, target, tmp_path):
    """With two locustfiles, and the import in both, each request is counted once."""
    (tmp_path / "second.py").write_text(SIMPLE.replace("Visitor", "Other"))
    run = locusts.run(
        SIMPLE, "-H", target, "-u", "2", "-t", "2", "-f", f"{tmp_path}/locustfile.py,{tmp_path}/second.py",
        environment=new_relic.environment(),
    )  # fmt: skip

    (stop,) = new_relic.of_type("LocustTestRun", phase="stop")
    assert stop["num_requests"] == sum(entry["num_requests"] for entry in run.stats().values())
    assert stop["user_classes"] == "Other, Visitor"
