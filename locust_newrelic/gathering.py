"""The windows of a run, each of all its processes, until they are complete. No clock, no I/O, no Locust.

The process that sends cuts a window at its end, and notes there what Locust looks like. What the workers report of it
comes before and after that; some time after the cut, the window is due.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .details import Details
from .window import Window, most_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .payload import Interval, Node
    from .window import Names


PROCESSES = 10
"""A window has room for the user's own events of so many processes."""

MOST_NODES = 20
"""Workers of which a window tells how they do."""


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


class NodesInTurn:
    """How the workers do: when they are many, each is told of in every few windows, for the time since the last one.

    So New Relic stores the same of a hundred workers as of twenty, and nothing is left out.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, int], tuple[Node, int]] = {}

    def take(self, node: Node, slot: Slot, interval_ms: int) -> tuple[Node, int] | None:
        """What to tell with this window, and since the start of which one; None if it is not the worker's turn."""
        place = (node.name, slot.stats_epoch)
        before, since_ms = self._waiting.pop(place, (None, slot.start_ms))
        known = node if before is None else before.then(node)
        num_turns = -(-len(slot.nodes) // MOST_NODES)
        if (slot.start_ms // interval_ms + node.index) % num_turns == 0:
            return known, since_ms
        self._waiting[place] = (known, since_ms)
        return None

    def take_all(self) -> list[tuple[Node, int, int]]:
        """All that is not told yet, each with the start of its first window and its epoch."""
        waiting, self._waiting = self._waiting, {}
        return [(node, since_ms, epoch) for (_, epoch), (node, since_ms) in waiting.items()]


class Gathering:
    """The open windows of a run, by their start and epoch. Moments are those of a monotonic clock, in seconds."""

    def __init__(self, names: Names, max_series: int) -> None:
        self.names = names
        self._max_rows = most_rows(max_series)
        self._slots: dict[tuple[int, int], Slot] = {}

    def cut(self, interval: Interval, due_s: float, *, is_needed: bool) -> None:
        """Note that a window has ended; it is due at *due_s*.

        It ends once more if the clock was set back into it meanwhile, and was open for as long as both times together.
        """
        slot = self._slot(interval.start_ms, interval.stats_epoch)
        if slot.interval is not None:
            before_s = slot.interval.duration_s
            interval = replace(interval, duration_s=before_s + interval.duration_s) if is_needed else slot.interval
        slot.interval, slot.due_s, slot.is_needed = interval, due_s, is_needed or slot.is_needed

    def add(self, part: Window, node: Node, start_ms: int, stats_epoch: int, *, due_s: float) -> Iterator[None]:
        """Count in, in small steps, what a process recorded in a window, or in a part of it; *part* is used up.

        *due_s* is when the window is due unless it is cut first.
        """
        slot = self._slot(start_ms, stats_epoch)
        if slot.interval is None:
            slot.due_s = max(slot.due_s, due_s)
        num_requests = yield from slot.window.merge(part, self.names)
        node = replace(node, num_requests=num_requests)  # it may be that of other windows, too
        name = node.name
        slot.nodes[name] = slot.nodes[name].then(node) if name in slot.nodes else node
        yield from part.clear()

    def take_due(self, now_s: float, stats_epoch: int) -> list[Slot]:
        """The windows that are due, and those of former epochs: few workers report anything more of these."""
        return self._take(lambda slot: slot.due_s <= now_s or slot.stats_epoch < stats_epoch)

    def take_all(self) -> list[Slot]:
        """All windows."""
        return self._take(lambda _: True)

    def _slot(self, start_ms: int, stats_epoch: int) -> Slot:
        place = (start_ms, stats_epoch)
        if place not in self._slots:
            details = Details(PROCESSES)
            self._slots[place] = Slot(start_ms, stats_epoch, Window(details=details, max_rows=self._max_rows))
        return self._slots[place]

    def _take(self, is_due: Callable[[Slot], bool]) -> list[Slot]:
        taken = [place for place, slot in self._slots.items() if is_due(slot)]
        return [self._slots.pop(place) for place in sorted(taken)]
