"""What is recorded in a process, whatever its role, and when its windows begin and end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from locust.stats import StatsError

from .recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .histogram import Scale

LONGEST_PAUSE_S = 1.0
"""How often the greenlet looks at the clock, which may be set."""


def make_recorder(scale: Scale, max_series: int, *, dimensions: Sequence[str], sample_rate: float) -> Recorder:
    """A recorder that groups failures as Locust does."""
    return Recorder(
        scale, max_series, dimensions=dimensions, sample_rate=sample_rate, error_text=StatsError.parse_error
    )


def now_ms() -> int:
    """The wall clock, in ms since the epoch."""
    return int(time.time() * 1000)


class Cadence:
    """When windows begin and end: at multiples of the interval on the wall clock, which may be set at any time."""

    def __init__(self, interval_s: float) -> None:
        self.interval_ms = round(interval_s * 1000)
        self.restart()

    def restart(self) -> None:
        """A window begins."""
        self.opened_s = time.monotonic()
        self.start_ms = self.start_of(now_ms())

    def start_of(self, time_ms: int) -> int:
        """The start of the window to which that moment belongs."""
        return time_ms // self.interval_ms * self.interval_ms

    @property
    def is_over(self) -> bool:
        """Whether the window has to end."""
        return not self.start_ms <= now_ms() < self.start_ms + self.interval_ms

    @property
    def pause_s(self) -> float:
        """How long to wait before asking again."""
        to_boundary_s = (self.start_ms + self.interval_ms) / 1000 - time.time()
        return min(max(to_boundary_s, 0.001), LONGEST_PAUSE_S)
