"""Real Locust processes, and the HTTP server that they load."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"
PATIENCE_S = 90


def clean_environment() -> dict[str, str]:
    """This process's environment without what configures Locust, New Relic or a proxy."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NEW_RELIC_", "LOCUST_")) and not name.lower().endswith("_proxy")
    }


def free_port() -> int:
    """A port that nobody listens on, and that no connection gets meanwhile: systems take theirs from higher ones."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = random.SystemRandom().randrange(10_000, 30_000)
            probe.bind(("127.0.0.1", port))
            return port


class Target:
    """The server of the examples, as a process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "server.py")], stdout=subprocess.PIPE, text=True, env=clean_environment()
        )
        self.url = self._process.stdout.readline().strip()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._process.stdout.close()


@dataclass
class Locust:
    """A Locust process."""

    process: subprocess.Popen
    output: str = ""
    """What it printed so far, standard output."""
    log: str = ""
    """Likewise, standard error."""
    readers: list[threading.Thread] = field(default_factory=list)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; its exit code."""
        code = self.process.wait(timeout_s)
        for reader in self.readers:
            reader.join()
        return code

    def wait_for_log(self, pattern: str) -> None:
        """Wait until its log has that pattern."""
        self._wait_for(pattern, "log")

    def wait_for_output(self, pattern: str) -> None:
        """Wait until its output has that pattern."""
        self._wait_for(pattern, "output")

    def _wait_for(self, pattern: str, name: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, getattr(self, name)):
            ended = self.process.poll() is not None and not any(reader.is_alive() for reader in self.readers)
            assert not ended, f"{pattern!r} is not in the {name}\n{self.log}"
            assert time.monotonic() < deadline, f"waited for {pattern!r} in the {name}\n{self.log}"
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stats(self) -> dict[tuple[str, str], dict]:
        """Locust's own figures, as ``--json`` printed them, by method and name.

        Each process of ``--processes`` prints some; those of a worker that has reported all are empty.
        """
        found = re.findall(r"^\[\n.*?^\]$|^\[\]$", self.output, re.MULTILINE | re.DOTALL)
        assert found, f"no --json in {self.output!r}, log:\n{self.log}"
        printed = [json.loads(text) for text in found]
        assert sum(map(bool, printed)) <= 1, printed
        return {(entry["method"], entry["name"]): entry for entry in max(printed, key=len)}


class Locusts:
    """Starts Locust processes in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Locust] = []

    def start(
        self, locustfile: str, *options: str, environment: dict[str, str] | None = None, name: str = "locustfile.py"
    ) -> Locust:
        """Start Locust on the text of a locustfile."""
        path = self.folder / name
        path.write_text(locustfile)
        command = [sys.executable, "-m", "locust", "-f", str(path), "--json", *options]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=self.folder,
            env=clean_environment() | (environment or {}),
            preexec_fn=heed_interrupts,
        )
        started = Locust(process)
        started.readers = [
            threading.Thread(target=_read, args=(process.stdout, started, "output"), daemon=True),
            threading.Thread(target=_read, args=(process.stderr, started, "log"), daemon=True),
        ]
        for reader in started.readers:
            reader.start()
        self._started.append(started)
        return started

    def run(self, locustfile: str, *options: str, environment: dict[str, str] | None = None) -> Locust:
        """Run Locust headless to its end."""
        started = self.start(locustfile, "--headless", *options, environment=environment)
        started.wait()
        return started

    def close(self) -> None:
        """End those that are left, and tell of all, for a test that has failed."""
        for started in self._started:
            print(f"-- {started.process.args}\n{started.log[-20_000:]}")
            if started.process.poll() is None:
                started.process.send_signal(signal.SIGKILL)
            started.wait()
            for stream in (started.process.stdout, started.process.stderr):
                with contextlib.suppress(OSError):
                    stream.close()


def heed_interrupts() -> None:
    """Let Ctrl-C work as in a terminal, also where the tests run in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _read(stream, started: Locust, name: str) -> None:
    for line in stream:
        setattr(started, name, getattr(started, name) + line)


def sums(events: list[dict]) -> dict[tuple[str, str], dict]:
    """The sums of endpoint events, by method and name, in the words of Locust's ``--json``."""
    total = defaultdict(lambda: defaultdict(float))
    for event in events:
        entry = total[event["method"], event["name"]]
        for name in ("num_requests", "num_failures", "total_response_time", "total_content_length"):
            entry[name] += event[name]
    return total
