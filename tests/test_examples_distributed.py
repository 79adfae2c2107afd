"""The examples of a master with workers: plain processes, and Docker Compose."""

import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from locusts import EXAMPLES, PATIENCE_S, clean_environment

RUN = EXAMPLES / "distributed" / "run.py"
COMPOSE_FILE = EXAMPLES / "distributed" / "compose.yaml"
KEY = "0123456789abcdef0123456789abcdefFFFFNRAL"


def start_run(*options):
    """Start the script."""
    return subprocess.Popen(
        [sys.executable, str(RUN), *options],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_plain_processes():
    """A master with two workers: its exit code, and counts that are Locust's own."""
    with start_run("--seconds", "4", "--users", "5", "--workers", "2") as run:
        output, log = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 0, log
    assert "A master and 2 workers run 5 users for 4 s" in output
    assert "The counts are equal to the last request." in output
    rows = re.findall(r"^  (?:GET|POST) \S+ +\d+ +(\d+) +(\d+) +(\d+) +(\d+)", output, re.MULTILINE)
    assert len(rows) >= 3
    assert all(requests == own and failures == own_failures for requests, own, failures, own_failures in rows)
    assert int(re.search(r"(\d+) LocustNode", output)[1]) >= 3  # one of each process in each window
    assert log == ""


def wait_for_processes(parent, number):
    """The processes that *parent* has started, once there are so many, the master among them."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        started = psutil.Process(parent).children(recursive=True)
        if len(started) == number and any("--master" in process.cmdline() for process in started):
            return started
        time.sleep(0.02)
    raise AssertionError(started)


def test_everything_is_ended():
    """Ended in the middle, the script ends what it has started."""
    with start_run("--seconds", "60") as run:
        assert run.stdout.readline().startswith("A master and 2 workers")
        started = wait_for_processes(run.pid, 4)
        run.send_signal(signal.SIGTERM)
        assert run.wait(PATIENCE_S) == 128 + signal.SIGTERM

    assert [(process, process.cmdline()) for process in started if process.is_running()] == []


@pytest.mark.parametrize("option", ["--seconds", "--users", "--workers"])
def test_bad_input(option):
    """A number that makes no run is a usage error that names the option."""
    with start_run(option, "0") as run:
        _, log = run.communicate(timeout=PATIENCE_S)

    assert run.returncode == 2
    assert f"argument {option}: at least 1 is needed" in log


@pytest.fixture(scope="module")
def compose():
    """The command of Docker Compose."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        if subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
            return command
    return pytest.skip("NOT CHECKED: there is neither `docker compose` nor `docker-compose` to read compose.yaml")


def config(compose, **variables):
    """What Docker Compose makes of the file."""
    command = [*compose, "-f", str(COMPOSE_FILE), "config"]
    return subprocess.run(
        command, env=clean_environment() | variables, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_compose_file(compose):
    """Docker Compose takes the file: three services, and the key is the master's only."""
    made = config(compose, NEW_RELIC_LICENSE_KEY=KEY)

    assert made.returncode == 0, made.stderr
    services = dict(re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", made.stdout, re.MULTILINE))
    assert services.keys() == {"master", "worker", "target"}
    assert [name for name, text in services.items() if KEY in text] == ["master"]
    assert made.stdout.count(KEY) == 1
    assert "8089" in services["master"]
    assert "replicas: 2" in services["worker"]
    assert all("locust-newrelic" in services[name] for name in ("master", "worker"))


def test_compose_file_without_a_key(compose):
    """Without the key nothing starts, and the message says what to set."""
    made = config(compose)

    assert made.returncode != 0
    assert "NEW_RELIC_LICENSE_KEY" in made.stderr
    assert "export it first: the license key" in made.stderr
