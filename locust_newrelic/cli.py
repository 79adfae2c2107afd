"""The command ``locust-newrelic``."""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import TYPE_CHECKING

from ._version import __version__
from .config import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

INTRODUCTION = """\
Reporting itself needs no command: write "import locust_newrelic" at the top of the locustfile, set
NEW_RELIC_LICENSE_KEY, and run locust as always. With that import, locust takes these options (its own --help is printed
before it reads the locustfile, and so cannot show them):
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 2 for a usage error."""
    parser = argparse.ArgumentParser(
        "locust-newrelic",
        description="Every Locust run in New Relic.",
        epilog=f"{INTRODUCTION}\n{_settings()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"locust-newrelic {__version__}")
    parser.parse_args(arguments)
    parser.print_help()
    return 0


def _settings() -> str:
    """The options of Locust that this package adds, each with what it does."""
    lines = []
    for setting in SETTINGS:
        lines.append(f"  {setting.flag} {setting.metavar or ''}".rstrip())
        explanation = f"{setting.help} Variable: {', '.join(setting.variables)}."
        lines += textwrap.wrap(explanation, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
