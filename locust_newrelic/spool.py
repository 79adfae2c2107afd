"""Events as NDJSON on disk: one JSON object a line."""

from __future__ import annotations

import json
import logging
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .payload import NewRelicEvent

logger = logging.getLogger(__name__)


class Output:
    """Appends events to a file that nobody but its owner may read.

    Raises OSError if the file cannot be opened. When writing fails later, that is said once, and what could not be
    written is counted.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.num_written = 0
        self.num_lost = 0
        # Read as well: to see whether the last line is whole. A terminal or a pipe cannot be; and to open a pipe that
        # nobody reads would wait for somebody.
        mode = os.O_WRONLY | os.O_NONBLOCK if _is_stream(path) else os.O_RDWR
        self._file = os.open(path, mode | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.set_blocking(self._file, True)
        self._between_lines = _ends_with_newline(self._file)

    def put(self, events: Sequence[NewRelicEvent]) -> None:
        """Append *events*."""
        lines = "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in events).encode()
        try:
            self._write(lines if self._between_lines else b"\n" + lines)
        except OSError as error:
            if not self.num_lost:
                logger.warning("New Relic: --newrelic-output cannot be written: %s", error.strerror)
            self.num_lost += len(events)
        else:
            self.num_written += len(events)

    def close(self) -> None:
        """Close the file; what was put is in it, and what comes later is lost."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1  # the number may be another file's from now on

    def _write(self, data: bytes) -> None:
        done = 0
        while done < len(data):
            done += os.write(self._file, data[done:])
            self._between_lines = data[done - 1 : done] == b"\n"


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
