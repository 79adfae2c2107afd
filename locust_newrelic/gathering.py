"""The windows of a run, each of all its processes, until they are complete. No clock, no I/O, no Locust.

The process that sends cuts a window at its end, and notes there what Locust looks like. What the workers report of it
comes before and after that; some time after the cut, the window is due.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .window import Window, most_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .payload import Interval, Node
    from .window import Names


@dataclass
class Slot:
    """A window, as far as it is known."""

    start_ms: int
    stats_epoch: int
    window: Window
    nodes: dict[str, Node] = field(default_factory=dict)
    interval: Interval | None = None
    """What was noted at the cut; None if there was none (yet)."""
    is_needed: bool = False
    """Whether it tells something even if nobody made a request: that of a running test does."""
    due_s: float = 0.0


class Gathering:
    """The open windows of a run, by their start and epoch. Moments are those of a monotonic clock, in seconds."""

    def __init__(self, names: Names, max_series: int) -> None:
        self.names = names
        self._max_rows = most_rows(max_series)
        self._slots: dict[tuple[int, int], Slot] = {}

    def cut(self, interval: Interval, due_s: float, *, is_needed: bool) -> None:
        """Note that a window has ended; it is due at *due_s*."""
        slot = self._slot(interval.start_ms, interval.stats_epoch)
        slot.interval, slot.due_s, slot.is_needed = interval, due_s, is_needed

    def add(self, part: Window, node: Node, start_ms: int, stats_epoch: int, *, due_s: float) -> Iterator[None]:
        """Count in, in small steps, what a process recorded in a window, or in a part of it.

        *due_s* is when the window is due unless it is cut first.
        """
        slot = self._slot(start_ms, stats_epoch)
        if slot.interval is None:
            slot.due_s = max(slot.due_s, due_s)
        if slot.window or not node.is_own:
            yield from slot.window.merge(part, self.names)
        else:
            part.hidden.merge(slot.window.hidden)
            slot.window = part  # nobody else has it, and its names are admitted already
            yield from part.collect()
        node = replace(node, num_requests=part.num_requests)  # it may be that of other windows, too
        slot.nodes[node.name] = slot.nodes[node.name].then(node) if node.name in slot.nodes else node

    def take_due(self, now_s: float, stats_epoch: int) -> list[Slot]:
        """The windows that are due, and those of former epochs, to which nothing is added any more."""
        return self._take(lambda slot: slot.due_s <= now_s or slot.stats_epoch < stats_epoch)

    def take_all(self) -> list[Slot]:
        """All windows."""
        return self._take(lambda _: True)

    def _slot(self, start_ms: int, stats_epoch: int) -> Slot:
        place = (start_ms, stats_epoch)
        if place not in self._slots:
            self._slots[place] = Slot(start_ms, stats_epoch, Window(max_rows=self._max_rows))
        return self._slots[place]

    def _take(self, is_due: Callable[[Slot], bool]) -> list[Slot]:
        taken = [place for place, slot in self._slots.items() if is_due(slot)]
        return [self._slots.pop(place) for place in sorted(taken)]
