"""What the benchmarks have in common: figures as a spread, tables, budgets, and the command line.

Each benchmark has a function ``measure(quick)`` that returns tables, and hands it to :func:`main`, which prints them
(``--json FILE`` keeps them for ``benchmarks/all.py``).
"""

import argparse
import json
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

PACKAGES = ("locust", "gevent", "newrelic-telemetry-sdk", "locust-newrelic", "locust-telemetry", "opentelemetry-sdk",
            "grpcio", "numpy")  # fmt: skip


@dataclass
class Budget:
    """What one of our figures must not exceed (or, if *at_least*, not fall below), and the goal beyond it."""

    what: str
    value: float
    limit: float
    goal: float
    unit: str = ""
    at_least: bool = False

    def _holds(self, bound):
        return self.value >= bound if self.at_least else self.value <= bound

    @property
    def verdict(self):
        """``kept`` or ``missed``."""
        return "kept" if self._holds(self.limit) else "missed"

    def row(self):
        """As a row of the table of budgets."""
        word = "at least" if self.at_least else "at most"
        reached = "reached" if self._holds(self.goal) else "not reached"
        value = f"{self.value:.3g}" if abs(self.value) < 0.9 or self.value > 1.1 else f"{self.value:.3f}"
        return [self.what, f"{value}{self.unit}", f"{word} {self.limit:g}{self.unit}", self.verdict,
                f"{self.goal:g}{self.unit} {reached}"]  # fmt: skip


BUDGET_COLUMNS = ["budget", "measured", "limit", "verdict", "goal"]


@dataclass
class Table:
    """Rows of text under columns of text, with notes below."""

    title: str
    columns: list
    rows: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    budgets: list = field(default_factory=list)

    def failed(self, label, reason):
        """A row for what could not be measured, and a note that says why."""
        self.rows.append([label, "not measured", *[""] * (len(self.columns) - 2)])
        self.notes.append(f"Not measured: {label}. {reason}")

    def text(self, heading="##"):
        """As Markdown that reads well as it is."""
        parts = [f"{heading} {self.title}", "", *aligned(self.columns, self.rows)]
        if self.budgets:
            parts += ["", *aligned(BUDGET_COLUMNS, [budget.row() for budget in self.budgets])]
        for note in self.notes:
            parts += ["", note]
        return "\n".join(parts) + "\n"

    def note(self, text):
        """Add a paragraph below the table."""
        self.notes.append(text)

    def plain(self):
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain):
        """The table that :meth:`plain` was made of."""
        return cls(**{**plain, "budgets": [Budget(**budget) for budget in plain["budgets"]]})


def aligned(columns, rows):
    """The lines of a Markdown table: the first column to the left, figures to the right."""
    lines = [columns, *rows]
    widths = [max(3, *(len(line[index]) for line in lines)) for index in range(len(columns))]

    def line(cells):
        first, *others = (
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return [line(columns), f"|{rule}|", *map(line, rows)]


def spread(figures, digits=2):
    """``median (least to most)``, or the figure alone if there is but one."""
    figures = list(figures)
    if len(figures) == 1:
        return f"{figures[0]:,.{digits}f}"
    middle = statistics.median(figures)
    return f"{middle:,.{digits}f} ({min(figures):,.{digits}f} to {max(figures):,.{digits}f})"


def ratios(ones, others):
    """Pair by pair, how many times the other the one is."""
    return [one / other for one, other in zip(ones, others, strict=True)]


def progress(text):
    """Say on stderr how far it is."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def versions():
    """The versions of all that is compared, as one line."""
    installed = {distribution.name.lower(): distribution.version for distribution in metadata.distributions()}
    found = [f"{package} {installed.get(package, '(not installed)')}" for package in PACKAGES]
    return f"{platform.python_implementation()} {platform.python_version()}, {', '.join(found)}"


def main(doc, measure):
    """The command line of a benchmark."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a first look: few repetitions, figures not to be quoted")
    parser.add_argument("--json", metavar="FILE", help="write the tables there as well")
    options = parser.parse_args()

    tables = measure(options.quick)
    print(versions(), end="\n\n")
    for table in tables:
        print(table.text())
    if options.json:
        Path(options.json).write_text(json.dumps([table.plain() for table in tables]))
