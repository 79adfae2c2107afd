"""How long our greenlets work before Locust's may run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import gevent

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_HOLD_S = 0.001
"""How long our greenlet works on a window before other greenlets may run."""

BREATH_S = 1e-6
"""A pause in which all others may run. After one of 0 s gevent goes on with what is ready, up to 50 such pauses, before
it looks at timers and sockets again."""


def in_steps(steps: Iterator[None]) -> None:
    """Do *steps*, with pauses for Locust's greenlets."""
    since_s = time.perf_counter()
    for _ in steps:
        if time.perf_counter() - since_s > LONGEST_HOLD_S:
            gevent.sleep(BREATH_S)
            since_s = time.perf_counter()
