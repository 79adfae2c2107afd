"""Run the tests, each file by a pytest of its own, some at a time: most of them wait for Locust, which takes seconds.

``python tests/in_parallel.py [--at-once N] [pytest's options]``. pytest-xdist does not work beside gevent's patches.
Prints what each pytest has to say when it ends; exits with 1 if any failed, or if there was no test at all.
"""

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

TESTS = Path(__file__).parent


def run(path, options):
    """Run the tests of a file; returns its name, how long it took, the exit code and what was printed."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, str(path)],
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return path.name, time.monotonic() - begun, done.returncode, done.stdout


def starts_locust(path):
    """Whether tests of the file wait for Locust processes: these begin first."""
    return "locusts" in path.read_text()


def main():
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, default=4, help="how many files at a time (default: 4)")
    arguments, options = parser.parse_known_args()

    files = sorted(TESTS.glob("test_*.py"), key=lambda path: (not starts_locust(path), -path.stat().st_size))
    totals, codes = Counter(), []
    with ThreadPoolExecutor(arguments.at_once) as pool:
        for future in as_completed([pool.submit(run, path, options) for path in files]):
            name, seconds, code, output = future.result()
            print(f"-- {name} ({seconds:.0f} s)\n{output}", flush=True)
            for number, what in re.findall(r"(\d+) (passed|failed|skipped|error)", output.rstrip().rpartition("\n")[2]):
                totals[what] += int(number)
            codes.append(code)

    failed = totals["failed"] + totals["error"]
    print(f"{totals['passed']} passed, {failed} failed, {totals['skipped']} skipped")
    return 1 if failed or not totals["passed"] or any(code not in (0, 5) for code in codes) else 0


if __name__ == "__main__":
    sys.exit(main())
