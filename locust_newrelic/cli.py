"""The command ``locust-newrelic``."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import signal
import sys
import textwrap
import time
from collections import Counter
from typing import TYPE_CHECKING

from gevent.event import Event
from locust.argument_parser import get_empty_argument_parser

from . import config as settings
from ._version import __version__
from .config import SETTINGS, USER_KEY, Config, ConfigError
from .delivery import CALL_TIMEOUT_S, Patience, with_region
from .dictionary import CHECK, EVENT_TYPES, as_markdown
from .payload import check_event
from .spool import Busy, Kind, Stored
from .transport import Outcome, Transport, Verdict, what_to_do

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from .spool import Part

INTRODUCTION = """\
Reporting itself needs no command: write "import locust_newrelic" at the top of the locustfile, set
NEW_RELIC_LICENSE_KEY, and run locust as always. With that import, locust takes these options (its own --help is printed
before it reads the locustfile, and so cannot show them):
"""

CHECK_HELP = """\
Send one event, LocustCheck, the way Locust would, and say whether the license key, the region, the network and the
proxy work, and what is wrong if not.

Exit code: 0 if New Relic took it, 1 if not, 2 for a setting that cannot be used.
"""

EVENTS_HELP = """\
Print the data dictionary as Markdown: each event type with its attributes, their units, what they mean, and how to
select them in NRQL for any range of time.
"""

REPLAY_HELP = """\
Send what spools and output files hold to New Relic.

Lines that are sent are marked by a blank at their end. So an interrupted replay can be repeated: nothing is sent twice.
A spool (its name ends with .spool.ndjson) loses the marked lines in the end, and is removed with the last one; in any
other file nothing else changes. A file of --newrelic-output that was written while there was a license key is
marked from the start, as its events were delivered or are in a spool; --force sends them all the same. If that is
interrupted, the same command without --force sends the rest. Lines that are not readable, and events that New Relic
does not take any more as they are older than 24 h, are counted and left.

Exit code: 0 if all is sent, 1 if something is left, 2 for a setting that cannot be used, 130 after a Ctrl-C.
"""

EVENTS_AT_ONCE, BYTES_AT_ONCE = 1_000, 900_000
"""In a POST. No event loop waits for us here, and New Relic takes 10^6 bytes of compressed text."""

TIMEOUT_S = 300.0
MOST_NUMBERS = 10
"""Lines that are named by their numbers."""

REFUSAL_OF_ALL = "HTTP (3..|40[1345])$"
"""The reason of a refusal that is not about what was sent."""

STDERR = 2
"""Its file descriptor."""

CONNECTION_SETTINGS = ("license-key", "region", "endpoint", "ca-bundle")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 for a failure, 2 for a usage error, 130 for an interrupt."""
    options = _parser().parse_args(arguments)
    if options.command is None:
        _parser().print_help()
        return 0

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be what a terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        if options.command == "events":
            return _events(options.event_type)
        config = Config.from_options(_settings_in_files() | {k: v for k, v in vars(options).items() if v is not None})
        return _check(config) if options.command == "check" else Replay(config, options).run()
    except ConfigError as error:
        sys.stderr.write(f"locust-newrelic: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        is_noted = options.command == "replay" and not options.dry_run
        without = " without --force" if is_noted and options.force else ""
        rest = f" What was sent is noted; the same command{without} sends the rest." if is_noted else ""
        sys.stderr.write(f"\nInterrupted.{rest}\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "locust-newrelic",
        description="Every Locust run in New Relic.",
        epilog=f"{INTRODUCTION}\n{_settings()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"locust-newrelic {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="<command>")

    check = _command(commands, "check", "see whether events arrive at New Relic", CHECK_HELP)
    _add_settings(check, (*CONNECTION_SETTINGS, "app-name"))

    events = _command(commands, "events", "what is sent: each event type and attribute", EVENTS_HELP)
    known = [event_type.name for event_type in EVENT_TYPES]
    events.add_argument("event_type", nargs="?", choices=known, metavar="TYPE", help=f"only one: {', '.join(known)}")

    replay = _command(commands, "replay", "send spools and output files to New Relic", REPLAY_HELP)
    replay.add_argument("files", nargs="+", metavar="FILE", help="spool, or file of --newrelic-output")
    replay.add_argument("--dry-run", action="store_true", help="only say what would be sent; needs no license key")
    replay.add_argument("--force", action="store_true", help="send what was delivered already once more")
    replay.add_argument(
        "--timeout",
        type=settings.argument_type(settings.number(0, 86_400, " seconds")),
        default=TIMEOUT_S,
        metavar="<seconds>",
        help="give up when New Relic has taken nothing for so long (default: %(default)g)",
    )
    _add_settings(replay, CONNECTION_SETTINGS)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, short: str, text: str
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=short, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    group = parser.add_argument_group("New Relic options", "As with Locust; variables and its config files count too.")
    for setting in SETTINGS:
        if setting.name in names:
            group.add_argument(
                setting.flag,
                dest=setting.option,
                metavar=setting.metavar,
                type=settings.argument_type(setting.check),
                help=f"{setting.help} Variable: {', '.join(setting.variables)}.",
            )


def _settings_in_files() -> dict[str, object]:
    """Our settings in the variables and in Locust's config files, as it would read them here."""
    parser = get_empty_argument_parser(add_help=False)
    parser.prog = "locust-newrelic"
    settings.add_arguments(parser)
    known, _ = parser.parse_known_args([])
    return {name: value for name, value in vars(known).items() if name.startswith(settings.PREFIX)}


def _settings() -> str:
    """The options of Locust that this package adds, each with what it does."""
    lines = []
    for setting in SETTINGS:
        lines.append(f"  {setting.flag} {setting.metavar or ''}".rstrip())
        explanation = f"{setting.help} Variable: {', '.join(setting.variables)}."
        lines += textwrap.wrap(explanation, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _transport(config: Config) -> Transport:
    if config.license_key is None:
        msg = "there is no license key: set NEW_RELIC_LICENSE_KEY"
        raise ConfigError(msg)
    return Transport(config.license_key, config.url, ca_bundle=config.ca_bundle, version=__version__, clock=time.time)


# -- check ---------------------------------------------------------------------------------------------------------


def _check(config: Config) -> int:
    transport = _transport(config)
    region = f"{config.region_name} ({'as set' if config.region else 'from the license key'})"
    print(f"Region:  {'of the endpoint that is set' if config.endpoint else region}")
    print(f"Host:    {transport.host}")
    print(f"Proxy:   {transport.proxy or 'none'}")
    if config.has_user_key:
        print(USER_KEY)
    if config.disabled:
        print("Reporting is switched off (--newrelic-disabled): Locust sends nothing.")

    event = check_event(int(time.time() * 1000), app_name=config.app_name, version=__version__)
    begun_s = time.monotonic()
    outcome = transport.send([event], CALL_TIMEOUT_S)
    transport.close()
    if outcome.verdict is Verdict.ACCEPTED:
        print(f"Sent one {CHECK} event: accepted after {time.monotonic() - begun_s:.1f} s. All is well.")
        print("See it in the query builder: FROM", CHECK, "SELECT * SINCE 1 hour ago")
        return 0
    print(f"Sent one {CHECK} event: {_failure(outcome)}")
    return 1


def _failure(outcome: Outcome) -> str:
    """What is wrong, in a sentence, and what to do."""
    if outcome.verdict is Verdict.RETRY and outcome.reason.startswith("HTTP "):
        return f"New Relic can be reached, but does not take events now: {outcome.reason}.{what_to_do(outcome.reason)}"
    kind = "refused" if outcome.verdict is not Verdict.RETRY else "New Relic cannot be reached"
    return f"{kind}: {outcome.reason}.{what_to_do(outcome.reason)}"


# -- events --------------------------------------------------------------------------------------------------------


def _events(event_type: str | None) -> int:
    print(as_markdown(event_type), end="")
    return 0


# -- replay --------------------------------------------------------------------------------------------------------


class GaveUp(Exception):  # noqa: N818  (an end, no fault)
    """No file can be sent now; the text says why."""


class Replay:
    """Sends files, one after the other."""

    def __init__(self, config: Config, options: argparse.Namespace) -> None:
        self._files: list[str] = options.files
        self._force = options.force
        self._timeout_s = TIMEOUT_S if options.timeout is None else options.timeout
        self._transport = None if options.dry_run else _transport(config)
        self._region = config.region_name
        self._most_events = EVENTS_AT_ONCE
        self._stopping = Event()

    def run(self) -> int:
        """Send them, or say what would be sent; returns the exit code."""
        if self._transport is None:
            return self._try_all()
        before = signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            return self._try_all()
        finally:
            signal.signal(signal.SIGINT, before)
            self._transport.close()

    def _try_all(self) -> int:
        is_all_sent = True
        try:
            for path in self._files:
                is_all_sent &= self._try_file(path)
        except GaveUp as end:
            is_all_sent = _complain(str(end))
        return 0 if is_all_sent else 1

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """End after the answer that is on its way: without it, what it is about would be sent again. Or at once."""
        if self._stopping.is_set():
            signal.default_int_handler(number, frame)
        self._stopping.set()
        with contextlib.suppress(OSError):  # sys.stderr may be in the middle of a line, and cannot be entered twice
            os.write(STDERR, b"\nEnding after the answer to what was sent last; Ctrl-C again to end at once.\n")

    def _try_file(self, path: str) -> bool:
        try:
            return self._send_file(path)
        except Busy:
            return _complain(f"{path}: a running Locust or another replay has it open; try again after its end")
        except OSError as error:
            return _complain(f"{path}: {error.strerror or type(error).__name__}")

    def _send_file(self, path: str) -> bool:
        """Whether nothing is left to be sent of the file."""
        stored = Stored(path, now_ms=int(time.time() * 1000), force=self._force)
        with contextlib.closing(stored):
            progress = _Progress(path)
            progress.show("reading")
            counts, unreadable = _counts(stored)
            progress.end()
            num_events = counts[Kind.EVENT]
            if not num_events and counts[Kind.DELIVERED] and not stored.is_spool:
                return _complain(
                    f"{path}: refused: its {counts[Kind.DELIVERED]} events were delivered already, or are in a spool"
                    " (it was written while there was a license key, or replayed). --force sends them again."
                )
            is_all = not (counts[Kind.TOO_OLD] or unreadable)
            if self._transport is None:
                print(f"{path}: {num_events} events would be sent{_what_else(counts, unreadable)}")
                return is_all
            num_refused = self._send_parts(stored, num_events, progress)
            sent = f"{num_events - num_refused} events sent"
            refused = f", {num_refused} refused and left" if num_refused else ""
            print(f"{path}: {sent}{refused}{_what_else(counts, unreadable)}")
            return is_all and not num_refused

    def _send_parts(self, stored: Stored, num_events: int, progress: _Progress) -> int:
        """Send all parts of a file; returns how many events were refused."""
        num_done = num_refused = 0
        try:
            stored.prepare()
            while part := stored.next_part(self._most_events, BYTES_AT_ONCE):
                outcome = self._send(part, progress) if part.events else Outcome(Verdict.ACCEPTED)
                if outcome.verdict is Verdict.SPLIT and len(part.events) > 1:
                    self._most_events = len(part.events) // 2
                    continue
                if outcome.verdict is Verdict.ACCEPTED:
                    stored.settle(part)
                    self._most_events = min(2 * self._most_events, EVENTS_AT_ONCE)
                else:
                    stored.leave(part)
                    num_refused += len(part.events)
                    progress.say(f"{len(part.events)} events refused: {outcome.reason}.{what_to_do(outcome.reason)}")
                num_done += len(part.events)
                progress.show(f"{num_done} of {num_events} events ({num_done / max(num_events, 1):.0%})")
        except (GaveUp, KeyboardInterrupt):
            _tidy(stored, progress)
            raise
        finally:
            progress.end()
        _tidy(stored, progress)
        return num_refused

    def _send(self, part: Part, progress: _Progress) -> Outcome:
        """Send the events of a part until there is a verdict. Raises GaveUp if New Relic takes nothing at all."""
        assert self._transport is not None  # noqa: S101  (for the type checker)
        patience, since_s = Patience(), time.monotonic()
        while True:
            if self._stopping.is_set():
                raise KeyboardInterrupt
            outcome = self._transport.send(part.events, CALL_TIMEOUT_S)
            if outcome.verdict is Verdict.REFUSED and re.search(REFUSAL_OF_ALL, outcome.reason):
                msg = f"{self._where}: {outcome.reason}.{what_to_do(outcome.reason)} {_KEPT}"
                raise GaveUp(msg)
            if outcome.verdict is not Verdict.RETRY:
                return outcome

            pause_s = patience.after(outcome)
            if time.monotonic() + pause_s - since_s > self._timeout_s:
                asked_s = outcome.retry_after_s or 0.0
                why = f"asks to wait {asked_s:g} s, beyond" if asked_s > self._timeout_s else "took nothing for"
                reason = f"{outcome.reason}.{what_to_do(outcome.reason)}"
                msg = f"{self._where} {why} the {self._timeout_s:g} s of --timeout: {reason} {_KEPT}"
                raise GaveUp(msg)
            progress.say(f"{outcome.reason}; trying again in {pause_s:.0f} s", once=outcome.reason)
            self._stopping.wait(pause_s)

    @property
    def _where(self) -> str:
        return with_region(self._transport.host if self._transport else "", self._region)


_KEPT = "What is not sent is still in the file."


class _Progress:
    """How far a file is, in one line on a terminal; elsewhere nothing."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._is_shown = sys.stderr.isatty()
        self._said: set[str] = set()

    def show(self, state: str) -> None:
        """Show how far it is."""
        if self._is_shown:
            sys.stderr.write(f"\r\033[K{self._path}: {state}")
            sys.stderr.flush()

    def say(self, message: str, *, once: str | None = None) -> None:
        """Say something in a line of its own; *once*: not again for the same."""
        if once in self._said:
            return
        if once is not None:
            self._said.add(once)
        self.end()
        sys.stderr.write(f"{self._path}: {message}\n")

    def end(self) -> None:
        """Clear the line."""
        if self._is_shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def _tidy(stored: Stored, progress: _Progress) -> None:
    """Remove what is delivered of a spool; if that cannot be, it is no fault: it is marked, and not sent again."""
    try:
        stored.finish()
    except OSError as error:
        progress.say(f"what was sent is marked in it, but cannot be removed: {error.strerror}")


def _counts(stored: Stored) -> tuple[Counter[Kind], list[int]]:
    """How many lines of a file are of each kind, and the numbers of those that cannot be read."""
    counts: Counter[Kind] = Counter()
    unreadable = []
    for number, kind in stored.kinds():
        counts[kind] += 1
        if kind is Kind.UNREADABLE:
            unreadable.append(number)
    return counts, unreadable


def _what_else(counts: Counter[Kind], unreadable: Sequence[int]) -> str:
    said = ""
    if counts[Kind.DELIVERED]:
        said += f", {counts[Kind.DELIVERED]} were delivered already"
    if counts[Kind.TOO_OLD]:
        said += f", {counts[Kind.TOO_OLD]} are more than 24 h from now and left"
    if unreadable:
        numbers = ", ".join(map(str, unreadable[:MOST_NUMBERS]))
        more = f" and {len(unreadable) - MOST_NUMBERS} more" if len(unreadable) > MOST_NUMBERS else ""
        said += f", {'line' if len(unreadable) == 1 else 'lines'} {numbers}{more} unreadable and left"
    return said


def _complain(message: str) -> bool:
    sys.stderr.write(f"locust-newrelic: {message}\n")
    return False


if __name__ == "__main__":
    sys.exit(main())
