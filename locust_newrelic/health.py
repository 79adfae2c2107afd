"""How a process is doing: CPU, memory, users, and how late its event loop is.

CPU time and lags are given as sums, so that what several reports say of one window can be added up.
"""

from __future__ import annotations

import time
from itertools import count
from typing import NamedTuple

import gevent
import psutil

PROBE_INTERVAL_S = 0.1
"""How often the lag of the event loop is measured: it costs some 20 µs."""

PROBES_PER_READING = 10
"""How many of these there are for one reading of the memory, which costs as much as a small report."""


class Health(NamedTuple):
    """A process during some time. What is not known is 0, as is ``wall_s`` if the CPU time is not known."""

    cpu_s: float = 0.0
    """CPU time spent, user and system, of all cores."""
    wall_s: float = 0.0
    """How long that took."""
    memory_bytes: int = 0
    """Resident memory, at most a second before the end."""
    user_count: int = 0
    """Users at the end."""
    num_lags: int = 0
    """How often the lag was measured: by how much a sleeping greenlet wakes up too late."""
    lag_total_s: float = 0.0
    lag_max_s: float = 0.0

    def then(self, later: Health) -> Health:
        """Both together: this time, and a later one."""
        return Health(
            cpu_s=self.cpu_s + later.cpu_s,
            wall_s=self.wall_s + later.wall_s,
            memory_bytes=later.memory_bytes,
            user_count=later.user_count,
            num_lags=self.num_lags + later.num_lags,
            lag_total_s=self.lag_total_s + later.lag_total_s,
            lag_max_s=max(self.lag_max_s, later.lag_max_s),
        )

    @property
    def cpu_percent(self) -> float | None:
        """CPU time per time, 100 being one core; None if it is not known."""
        return 100 * self.cpu_s / self.wall_s if self.wall_s > 0 else None


class Gauge:
    """Watches this process, from a greenlet of its own."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._since_cpu_s = self._since_s = self._lag_total_s = self._lag_max_s = 0.0
        self._num_lags = 0
        self._memory_bytes = self._process.memory_info().rss
        self._restart(time.process_time(), time.monotonic())
        self.greenlet = gevent.spawn(self._probe)

    def take(self, user_count: int) -> Health:
        """What was seen since the last call."""
        cpu_s, now_s = time.process_time(), time.monotonic()
        health = Health(
            cpu_s - self._since_cpu_s,
            now_s - self._since_s,
            self._memory_bytes,
            user_count,
            self._num_lags,
            self._lag_total_s,
            self._lag_max_s,
        )
        self._restart(cpu_s, now_s)
        return health

    def close(self) -> None:
        """Watch no more."""
        self.greenlet.kill(block=False)

    def _probe(self) -> None:
        for number in count(1):
            if number % PROBES_PER_READING == 0:
                self._memory_bytes = self._process.memory_info().rss
            begun_s = time.perf_counter()
            gevent.sleep(PROBE_INTERVAL_S)
            lag_s = max(time.perf_counter() - begun_s - PROBE_INTERVAL_S, 0.0)
            self._num_lags += 1
            self._lag_total_s += lag_s
            self._lag_max_s = max(self._lag_max_s, lag_s)

    def _restart(self, cpu_s: float, now_s: float) -> None:
        self._since_cpu_s, self._since_s = cpu_s, now_s
        self._num_lags, self._lag_total_s, self._lag_max_s = 0, 0.0, 0.0
