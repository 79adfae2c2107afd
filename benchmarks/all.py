"""All benchmarks, one after the other, and their results in one file.

``python benchmarks/all.py`` runs each benchmark in a process of its own and writes ``benchmarks/RESULTS.md``: with the
date, the machine, the versions, and which budgets are kept. It takes some 35 minutes; ``--quick`` takes four, and
prints what it found instead of writing it. A benchmark that fails is named there, and the others go on. The exit code
is 0 if all of them ran (whether the budgets are kept or not), 1 if one failed.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from results import BUDGET_COLUMNS, Table, aligned, progress, versions

HERE = Path(__file__).parent
BENCHMARKS = (
    "request_hook",
    "throughput",
    "flush",
    "backlog",
    "accuracy",
    "memory",
    "soak",
    "distributed",
    "volume",
    "start_up",
)
COMMAND = "make benchmark"


def run(name, quick):
    """The tables of a benchmark, or the reason why there are none; and the seconds that it took."""
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "tables.json"
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(output), *["--quick"] * quick]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        took_s = time.monotonic() - begun_s
        if done.returncode:
            return f"it ended with {done.returncode}; what it said is above", took_s
        return [Table.from_plain(plain) for plain in json.loads(output.read_text())], took_s


def machine():
    """Cores, processor, memory and system, as one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory_gb = psutil.virtual_memory().total / 1e9
    return f"{os.cpu_count()} cores ({model}), {memory_gb:.0f} GB of memory, {platform.system()} {platform.release()}"


def report(found, took_s, quick):
    """The whole file."""
    tables = [table for result in found.values() if not isinstance(result, str) for table in result]
    budgets = [budget for table in tables for budget in table.budgets]
    kept = sum(budget.verdict == "kept" for budget in budgets)
    load = "" if not hasattr(os, "getloadavg") else f" Load of the machine at the end: {os.getloadavg()[2]:.1f}."
    how = (
        "A figure is the median of interleaved repetitions, with least and most in brackets; what it is compared with"
        " was measured in turns with it, in the same run. Machines are noisy: ratios count, absolute figures give the"
        " scale. Peers are used by their own code, with their own defaults; all traffic is on one machine."
    )
    parts = [
        "# What the load generator feels of it",
        f"Written by `{COMMAND}` on {datetime.date.today():%d %B %Y}, in {took_s / 60:.0f} minutes."  # noqa: DTZ011
        + " **A quick run: a first look, not to be quoted.**" * quick,
        f"Machine: {machine()}.{load}",
        f"Versions: {versions()}.",
        how,
        f"## Budgets: {kept} of {len(budgets)} kept",
        "\n".join(aligned(BUDGET_COLUMNS, [budget.row() for budget in budgets])) if budgets else "None was measured.",
    ]
    for name, result in found.items():
        if isinstance(result, str):
            parts.append(f"## {name}: not measured\n\n`benchmarks/{name}.py` failed: {result}")
        else:
            parts += [without_budgets(table).text().rstrip() for table in result]
    return "\n\n".join(parts) + "\n"


def without_budgets(table):
    """The table, whose budgets are above."""
    return Table(table.title, table.columns, table.rows, table.notes)


def main():
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a first look: few repetitions, figures not to be quoted")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", default=BENCHMARKS,
                        help=f"some of: {', '.join(BENCHMARKS)}")  # fmt: skip
    parser.add_argument("--output", metavar="FILE", help="write there (default: benchmarks/RESULTS.md; with --quick or"
                        " --only: print)")  # fmt: skip
    options = parser.parse_args()

    begun_s = time.monotonic()
    found = {}
    for number, name in enumerate(options.only, 1):
        progress(f"{number} of {len(options.only)}: {name}")
        found[name], took_s = run(name, options.quick)
        progress(f"{name} took {took_s:.0f} s")
    text = report(found, time.monotonic() - begun_s, options.quick)
    is_whole = not options.quick and options.only is BENCHMARKS
    output = options.output or (str(HERE / "RESULTS.md") if is_whole else None)
    if output is None:
        print(text)
    else:
        Path(output).write_text(text)
        progress(f"written to {output}")
    return any(isinstance(result, str) for result in found.values())


if __name__ == "__main__":
    sys.exit(main())
