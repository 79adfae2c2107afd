"""A master and workers on this machine, and what New Relic would have received of them.

``python examples/distributed/run.py`` starts ``server.py``, a Locust master and two workers on free ports, and prints
the sums of the events beside Locust's own figures. Only the master is told where the events go; with a key in
NEW_RELIC_LICENSE_KEY it sends them to New Relic as well. The exit code is the master's, or 1 if the counts differ.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import demo  # noqa: E402  (the folder of the examples must be known first)

PATIENCE_S = 15


def main():
    """Run master and workers; returns the exit code."""
    parser = demo.arguments(__doc__)
    parser.add_argument("--workers", type=demo.positive, default=2, help="how many workers (default: 2)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, end)

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        host, port = stack.enter_context(demo.target()), str(free_port())
        logs = [folder / f"worker-{number}.log" for number in range(1, options.workers + 1)]
        for log in logs:
            stack.enter_context(worker(port, log))
        print(
            f"A master and {options.workers} workers run {options.users} users for {options.seconds} s"
            f" against {host} ...",
            flush=True,
        )
        output = folder / "events.ndjson"
        ended = run(master(host, port, options, output))
        if ended.returncode:
            sys.stderr.writelines([ended.stderr, *(log.read_text() for log in logs)])
            return ended.returncode
        return demo.result(ended, output)


def master(host, port, options, output):
    """The command of the master."""
    bind = ("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port)
    workers = ("--expect-workers", str(options.workers), "--expect-workers-max-wait", "60")
    # The server fails now and then on purpose, which is no reason to exit with 1.
    return [*demo.headless(host, options, output), *bind, *workers, "--exit-code-on-error", "0"]


def run(command):
    """Run a command to its end."""
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        output, log = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, output, log)


@contextlib.contextmanager
def worker(port, log):
    """Start a worker that knows of New Relic no more than its locustfile does, and end it at last."""
    settings = ("NEW_RELIC_", "LOCUST_NEWRELIC_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    command = demo.locust("--worker", "--master-host", "127.0.0.1", "--master-port", port)
    with log.open("w") as file, started(command, stdout=file, stderr=file, env=environment) as process:
        yield
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)  # the master has told it to quit


@contextlib.contextmanager
def started(command, **streams):
    """A process that is ended at last, should it not have ended by itself."""
    arrived = []
    signal.signal(signal.SIGTERM, lambda *_: arrived.append(True))  # not while nobody knows the process yet
    with subprocess.Popen(command, text=True, **streams) as process:
        try:
            signal.signal(signal.SIGTERM, end)
            if arrived:
                end()
            yield process
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def end(*_):
    """Exit, through all that ends processes."""
    sys.exit(128 + signal.SIGTERM)


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
