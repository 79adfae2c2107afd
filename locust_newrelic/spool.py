"""Events as NDJSON on disk, one JSON object a line: what could not be sent, and the file output.

A line that ends with a blank holds an event that New Relic has taken, or that was handed to a delivery which answers
for it; for a reader of JSON the blank means nothing. Such a line is not sent again.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import logging
import os
import re
import stat
import sys
import time
from dataclasses import dataclass, field
from itertools import chain, count
from typing import TYPE_CHECKING

from gevent.socket import wait_write

from .acceptable import acceptable, is_event_type

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .payload import NewRelicEvent

logger = logging.getLogger(__name__)

DELIVERED, PENDING = b" ", b"\t"
"""The last byte of a line: of an event that needs no more sending, and of one that does (which may have none)."""

LONGEST_FULL_S, LONGEST_SLOW_S = 1.0, 3.0
"""How long the file output waits for the reader of a full pipe: one that reads nothing, and one that is slow."""

SPOOL_SUFFIX = ".spool.ndjson"
MOST_BYTES = 256 * 1024 * 1024
COPIED_AT_ONCE = 1024 * 1024

LARGE_BYTES = 4 * 1024 * 1024
"""A spool beyond this size is written anew when half of it is delivered; others at the end only."""

MOST_AGE_MS = 24 * 3600 * 1000
"""How far from now an event may be for New Relic to take it."""
EARLIEST_MS = 100_000_000_000
"""A timestamp below it, in 1973, is in seconds; New Relic takes either."""


def encoded(event: NewRelicEvent) -> bytes:
    """The event as JSON. Raises TypeError or ValueError for what is none."""
    return json.dumps(event, separators=(",", ":")).encode()


class Output:
    """Appends events to a file that nobody but its owner may read, or to a pipe.

    Raises OSError if the file cannot be opened. When writing fails later, or nobody reads a pipe, that is said once,
    and what could not be written is counted; a line that was begun is completed as soon as something can be written
    again. With *delivered*, the lines say that the events go to New Relic as well.
    """

    def __init__(self, path: str, *, delivered: bool = False) -> None:
        self.path = path
        self.num_written = 0
        self.num_lost = 0
        self._end = (DELIVERED if delivered else b"") + b"\n"
        # Read as well: to see whether the last line is whole. A terminal or a pipe cannot be; and one that nobody reads
        # would stop Locust: to open it waits for a reader, and so does to write when it is full.
        mode = os.O_WRONLY | os.O_NONBLOCK if _is_stream(path) else os.O_RDWR
        self._file = os.open(path, mode | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not lock(self._file, shared=True):
            os.close(self._file)
            raise OSError(errno.EBUSY, "locust-newrelic replay has it open")
        self._rest = b"" if _ends_with_newline(self._file) else b"\n"
        """What is still to be written of a line that was begun."""
        self._patience_s = LONGEST_SLOW_S
        """For how long it still waits for the pipe's reader, until something can be written without that."""
        self._has_said = False

    def put(self, events: Sequence[NewRelicEvent]) -> None:
        """Append *events*; while a pipe is full, wait for its reader, but not again and again."""
        data = self._rest + b"".join(encoded(event) + self._end for event in events)
        done = self._write(data)
        left = data[done:]
        is_begun = data[done - 1 : done] != b"\n" if done else bool(self._rest)
        self._rest = left[: left.find(b"\n") + 1] if is_begun else b""
        num_lost = left.count(b"\n", len(self._rest))
        self.num_lost += num_lost
        self.num_written += len(events) - num_lost

    def close(self) -> None:
        """Close the file; what was put is in it, and what comes later is lost."""
        if self._file < 0:
            return
        if self._rest.strip():  # half an event
            self.num_written -= 1
            self.num_lost += 1
        try:
            os.close(self._file)
        except OSError as error:  # of a network, or a quota, which may tell as late as now
            self._fail(error)
        self._file, self._rest = -1, b""  # the number may be another file's from now on

    def _write(self, data: bytes) -> int:
        """Write as much as can be; returns how many bytes that were."""
        done, patience_s = 0, self._patience_s
        try:
            while done < len(data):
                done += self._write_some(data[done:])
        except OSError as error:
            self._fail(error)
        if done == len(data) and self._patience_s == patience_s:
            self._patience_s = LONGEST_SLOW_S
        return done

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self._file, data)
        except BlockingIOError:
            if self._patience_s <= 0:
                raise
            self._wait_for_reader()
            return 0

    def _wait_for_reader(self) -> None:
        """Wait until something can be written. Raises TimeoutError if that takes too long."""
        begun_s = time.monotonic()
        try:
            wait_write(self._file, timeout=min(self._patience_s, LONGEST_FULL_S))
        except TimeoutError:
            self._patience_s = 0.0
            raise
        self._patience_s -= time.monotonic() - begun_s

    def _fail(self, error: OSError) -> None:
        if not self._has_said:
            self._has_said = True
            is_full = isinstance(error, (BlockingIOError, TimeoutError))
            reason = "it is full, and not read, or too slowly" if is_full else error.strerror
            logger.warning("New Relic: --newrelic-output cannot be written: %s", reason)


class Spool:
    """Keeps events in a file until they are delivered.

    The file is made with the first event, named after its run, readable by its owner only, and removed when all its
    events are delivered. It is written in whole lines at once, so that a process that is killed leaves what it kept.
    Nothing is raised: when the disk is full or read-only, or the file has reached *most_bytes*, that is said once.
    """

    def __init__(self, folder: str, *, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most_bytes = os.path.abspath(folder), most_bytes  # a locustfile may change the directory
        self.path: str | None = None
        """The file, while there is one."""
        self.num_pending = 0
        """Events in it that are not delivered."""
        self.why_not = "spool full"
        """Why the last event that could not be kept could not: ``spool full`` or ``spool not writable``."""
        self._file = -1
        self._size = self._num_delivered = 0
        self._said: set[str] = set()

    def keep(self, events: Sequence[NewRelicEvent]) -> list[int | None]:
        """Append *events*; returns the place of each in the file, None for one that could not be kept."""
        if sys.platform == "win32":
            self._fail("spool not writable", "not on Windows")
            return [None] * len(events)
        places: list[int | None] = []
        lines: list[bytes] = []
        end = self._size
        for event in events:
            line = _line_of(event)
            if not line or end + len(line) > self._most_bytes:
                if line:
                    self._fail("spool full", f"there is room for {self._most_bytes:,} bytes")
                else:
                    self._fail("not JSON", "an event is no JSON")
                places.append(None)
                continue
            end += len(line)
            places.append(end - 2)
            lines.append(line)

        if lines and not self._append(b"".join(lines), events[0]):
            return [None] * len(events)
        self.num_pending += len(lines)
        return places

    def settle(self, places: Sequence[int]) -> None:
        """Note that the events at these places are delivered."""
        if not places:
            return
        with contextlib.suppress(OSError):  # then a replay sends them again
            self._mark(places)
        self.num_pending -= len(places)
        self._num_delivered += len(places)
        if self._file >= 0 and not self.num_pending:
            self._remove()

    def close(self) -> None:
        """Leave only what is not delivered in the file; if somebody has removed that, make it again."""
        if self._file < 0:
            return
        path = self.path or ""
        is_there = os.path.exists(path)
        try:
            if self._num_delivered or not is_there:
                self._file = rewritten(self._file, path, _pending_lines(self._file))
        except OSError as error:
            what = "delivered events are still in" if is_there else "what was kept is lost with"
            logger.warning("New Relic: %s %s: %s", what, path, error.strerror)
        try:
            os.close(self._file)
        except OSError as error:  # of a network, or a quota, which may tell as late as now
            self._fail("spool not writable", error.strerror or type(error).__name__)
        self._file = -1

    def _mark(self, places: Sequence[int]) -> None:
        """Mark what is near each other at once: a call for each takes far longer."""
        first = min(places)
        near = [place for place in places if place - first < COPIED_AT_ONCE]
        lines = bytearray(os.pread(self._file, max(near) - first + 1, first))
        for place in near:
            lines[place - first : place - first + 1] = DELIVERED
        _write_at(self._file, bytes(lines), first)
        far = [place for place in places if place - first >= COPIED_AT_ONCE]
        if far:
            self._mark(far)

    def _append(self, data: bytes, first: NewRelicEvent) -> bool:
        try:
            if self._file < 0:
                self._make(str(first.get("run_id", "no run") if isinstance(first, dict) else ""))
            _write_at(self._file, data, self._size)
        except OSError as error:
            self._fail("spool not writable", error.strerror or type(error).__name__)
            self._cut()
            return False
        self._size += len(data)
        return True

    def _make(self, run_id: str) -> None:
        name = f"locust-newrelic-{re.sub(r'[^A-Za-z0-9._-]', '_', run_id)[:100]}-{os.getpid()}"
        for number in count(1):  # in a container each process has the same id as its predecessor
            path = os.path.join(self._folder, name + (f"-{number}" if number > 1 else "") + SPOOL_SUFFIX)
            with contextlib.suppress(FileExistsError):
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                break
        self.path = path
        lock(self._file, shared=True)

    def _cut(self) -> None:
        """Take half a line away again."""
        if self._file >= 0 and not self._size:
            self._remove()
        elif self._file >= 0:
            with contextlib.suppress(OSError):  # the next line begins there in any case
                os.ftruncate(self._file, self._size)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):  # also if it cannot be closed: all that was in it is delivered
            os.unlink(self.path or "")
        with contextlib.suppress(OSError):
            os.close(self._file)
        self._file, self.path = -1, None
        self._size = self._num_delivered = 0

    def _fail(self, reason: str, detail: str) -> None:
        self.why_not = reason
        if reason not in self._said:
            self._said.add(reason)
            logger.warning("New Relic: what cannot be sent cannot be kept in %s either: %s", self._folder, detail)


class Kind(enum.Enum):
    """What a line of a file is to a replay."""

    EVENT = "to be sent"
    DELIVERED = "delivered already"
    TOO_OLD = "more than 24 h from now"
    """New Relic takes no such event."""
    UNREADABLE = "unreadable"
    EMPTY = "empty"


@dataclass
class Part:
    """Some lines of a file, with the events to be sent in them."""

    start: int
    """Where it begins in the file, in bytes."""
    lines: list[tuple[bytes, Kind]] = field(default_factory=list)
    events: list[NewRelicEvent] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Where it ends in the file, in bytes."""
        return self.start + sum(len(line) for line, _ in self.lines)


class Busy(Exception):  # noqa: N818  (a state, no fault)
    """The file is being written, or replayed, by another process."""


class Stored:
    """A spool or an output file, opened to be sent, and locked for this process alone.

    Lines that are sent are marked as delivered, in place: that needs no room on the disk, and cannot fail where the
    rest could be done. Of a spool they are removed in the end, and the file with the last of them. Lines that are no
    events, too old or refused stay. With *force*, what was delivered is to be sent again. Raises OSError, or Busy.
    """

    def __init__(self, path: str, *, now_ms: int, force: bool = False) -> None:
        self.path = os.path.realpath(path)
        self.is_spool = self.path.endswith(SPOOL_SUFFIX)  # its own name: that of a link says nothing
        self._now_ms, self._force = now_ms, force and not self.is_spool
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        self._offset = self._num_marked = 0
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise OSError(errno.EINVAL, "Not a file")
            if not lock(self._file, shared=False) or not os.path.samestat(os.fstat(self._file), os.stat(self.path)):
                raise Busy
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others have it."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def kinds(self) -> Iterator[tuple[int, Kind]]:
        """Of each line its number, from 1, and its kind."""
        for number, line in enumerate(lines_of(self._file), 1):
            yield number, self._read(line)[0]

    def next_part(self, most_events: int, most_bytes: int) -> Part | None:
        """The next lines, with at most so many events and bytes, but one line at least; None at the end."""
        part = Part(self._offset)
        num_bytes = 0
        for line in lines_of(self._file, self._offset):
            num_bytes += len(line)
            if part.lines and (num_bytes > most_bytes or len(part.events) == most_events):
                break
            kind, event = self._read(line)
            part.lines.append((line, kind))
            if event is not None:
                part.events.append(event)
        return part if part.lines else None

    def leave(self, part: Part) -> None:
        """Leave the part as it is, and go on behind it."""
        self._offset = part.end

    def prepare(self) -> None:
        """Have room for a mark in each line that is to be sent, and none marked: whatever happens then, it is noted."""
        without_room = (line for line in lines_of(self._file) if not _is_pending(line))
        if any(map(self._is_to_send, without_room)):
            self._rewrite(_pending(line) if self._is_to_send(line) else line for line in lines_of(self._file))
        self._force = False

    def settle(self, part: Part) -> None:
        """Note that the events of the part are delivered, and go on behind it."""
        marked = b"".join(_marked(line) if kind is Kind.EVENT else line for line, kind in part.lines)
        _write_at(self._file, marked, part.start)
        self._offset, self._num_marked = part.end, self._num_marked + part.end - part.start
        size = os.fstat(self._file).st_size
        if self.is_spool and size > LARGE_BYTES and self._offset < size < 2 * self._num_marked:
            with contextlib.suppress(OSError):  # it is marked, and tried again at the end
                self._remove_marked()

    def finish(self) -> None:
        """Leave nothing of a spool that is delivered, and without anything else no file."""
        if self.is_spool:
            self._remove_marked()

    def _is_to_send(self, line: bytes) -> bool:
        return self._read(line)[0] is Kind.EVENT

    def _rewrite(self, pieces: Iterable[bytes]) -> None:
        self._file = rewritten(self._file, self.path, pieces)

    def _remove_marked(self) -> None:
        """Take the delivered lines out of what is done of a spool."""
        kept = [line for line in self._done_lines() if line.strip() and not is_delivered(line)]
        num_bytes, size = sum(map(len, kept)), os.fstat(self._file).st_size
        self._num_marked = 0
        if not kept and self._offset == size:
            os.unlink(self.path)
        elif num_bytes != self._offset:
            rest = bytes_of(self._file, self._offset)
            done, self._offset = self._offset, 0  # should a Ctrl-C come now, nothing of the file is taken for done
            try:
                self._rewrite(chain(kept, rest))
            except OSError:
                self._offset = done
                raise
            self._offset = num_bytes

    def _done_lines(self) -> Iterator[bytes]:
        position = 0
        for line in lines_of(self._file):
            if position >= self._offset:
                return
            position += len(line)
            yield line

    def _read(self, line: bytes) -> tuple[Kind, NewRelicEvent | None]:
        if not line.strip():
            return Kind.EMPTY, None
        if is_delivered(line) and not self._force:
            return Kind.DELIVERED, None
        event = _event_in(line)
        if event is None:
            return Kind.UNREADABLE, None
        return (Kind.EVENT, event) if self._is_in_time(event) else (Kind.TOO_OLD, None)

    def _is_in_time(self, event: NewRelicEvent) -> bool:
        timestamp = event.get("timestamp")
        if not isinstance(timestamp, (int, float)):
            return True
        timestamp_ms = timestamp if timestamp > EARLIEST_MS else timestamp * 1000
        return abs(self._now_ms - timestamp_ms) < MOST_AGE_MS


def lock(file: int, *, shared: bool) -> bool:
    """Have the file for this process, or share it with others that write; False if it is taken.

    Who writes shares it, who replays has it alone. The lock ends with the process. Where there are no such locks (on
    Windows, on some network file systems) it is had at once.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def rewritten(file: int, path: str, pieces: Iterable[bytes]) -> int:
    """Replace the file at *path*, which is open as *file*, by *pieces*, at once or not at all.

    Returns the new file, open, with the owner, mode and lock of the old one, which is closed. Raises OSError, and then
    leaves all as it was.
    """
    beside = f"{path}.tmp"
    with contextlib.suppress(FileNotFoundError):  # what a crash has left
        os.unlink(beside)
    new = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        before = os.fstat(file)
        with contextlib.suppress(OSError):  # only root can give a file to somebody else
            os.fchown(new, before.st_uid, before.st_gid)
        os.fchmod(new, stat.S_IMODE(before.st_mode))
        lock(new, shared=False)
        end = 0
        for piece in pieces:
            _write_at(new, piece, end)
            end += len(piece)
        os.fsync(new)
        os.replace(beside, path)
    except BaseException:
        os.close(new)
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    os.close(file)
    return new


def lines_of(file: int, start: int = 0) -> Iterator[bytes]:
    """The lines of a file from *start* on, each with its newline; the last may lack it."""
    with os.fdopen(os.dup(file), "rb") as stream:
        stream.seek(start)
        yield from stream


def bytes_of(file: int, start: int, end: int | None = None) -> Iterator[bytes]:
    """What a file holds between *start* and *end*, in pieces."""
    end = os.fstat(file).st_size if end is None else end
    while start < end:
        piece = os.pread(file, min(COPIED_AT_ONCE, end - start), start)
        if not piece:
            return
        yield piece
        start += len(piece)


def is_delivered(line: bytes) -> bool:
    """Whether a line says that its event needs no more sending."""
    return line.rstrip(b"\r\n").endswith(DELIVERED)


def _pending_lines(file: int) -> Iterator[bytes]:
    return (line for line in lines_of(file) if not is_delivered(line))


def _is_pending(line: bytes) -> bool:
    """Whether the line ends with a byte that can become a mark, and is none."""
    return line.endswith(PENDING + b"\n")


def _pending(line: bytes) -> bytes:
    return line.rstrip() + PENDING + b"\n"


def _marked(line: bytes) -> bytes:
    return line[:-2] + DELIVERED + b"\n"


def _event_in(line: bytes) -> NewRelicEvent | None:
    """The event that a line holds, with what New Relic would not take made acceptable; None if it holds none."""
    try:
        event = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return acceptable(event) if isinstance(event, dict) and is_event_type(event.get("eventType")) else None


def _refuse_constant(constant: str) -> None:
    """NaN and Infinity are no JSON: New Relic would drop all that is sent with them."""
    raise ValueError(constant)


def _line_of(event: NewRelicEvent) -> bytes:
    try:
        return encoded(event) + PENDING + b"\n"
    except (TypeError, ValueError):
        return b""


def _write_at(file: int, data: bytes, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], offset + done)


def _is_stream(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _ends_with_newline(file: int) -> bool:
    """Whether a line can begin at the end of the file: False if a crash has left half a line there."""
    try:
        size = os.lseek(file, 0, os.SEEK_END)
        return size == 0 or os.pread(file, 1, size - 1) == b"\n"
    except OSError:  # a pipe has no end
        return True
