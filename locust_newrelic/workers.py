"""What the workers of a master report: read whole or not at all, in the time of the master's clock."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from locust import runners

from . import own_stats, relay
from .health import Health
from .payload import Node
from .plain import MalformedError
from .relay import UnknownVersionError, WorkerClock

if TYPE_CHECKING:
    from locust.env import Environment

    from .histogram import Scale
    from .recording import Cadence
    from .window import Window

logger = logging.getLogger(__name__)


def report_interval_s() -> float:
    """How often workers report, at the least; a locustfile may set it."""
    return float(runners.WORKER_REPORT_INTERVAL)


@dataclass
class Reported:
    """What a worker recorded in one window, or in a part of it."""

    start_ms: int
    window: Window
    node: Node
    run_id: str | None = None
    """None if the worker does not know of runs."""
    was_reset: bool = False
    """Whether the worker's statistics were reset before it reported this to Locust's master."""
    is_approximate: bool = False
    """Whether it is what Locust's own statistics tell."""


@dataclass
class _Known:
    """What is known of a worker."""

    clock: WorkerClock = field(default_factory=WorkerClock)
    said: set[str] = field(default_factory=set)
    """What was logged about it."""


class Workers:
    """The workers of an environment; there are none if its runner is no master."""

    def __init__(
        self, environment: Environment, scale: Scale, cadence: Cadence, dimensions: tuple[str, ...] = ()
    ) -> None:
        self._environment, self._scale, self._cadence = environment, scale, cadence
        self._dimensions = dimensions
        self._known: dict[str, _Known] = {}

    @property
    def present(self) -> set[str]:
        """The ids of those that Locust does not miss."""
        return {client_id for client_id, client in self._clients.items() if client.state != runners.STATE_MISSING}

    @property
    def lag_s(self) -> float:
        """By how much the windows of some worker end later than ours."""
        clocks = [known.clock for known in self._known.values()]
        return max((clock.lag_ms(self._cadence.interval_ms) for clock in clocks), default=0.0) / 1000

    def forget_absent(self) -> None:
        """Forget those that are gone."""
        self._known = {client_id: self._known[client_id] for client_id in self._known.keys() & self._clients.keys()}

    def read(self, client_id: str, data: object, arrival_ms: int) -> list[Reported]:
        """What a report of a worker tells; nothing if it cannot be read, which is logged.

        Where our part is missing, cannot be read, or lacks requests, it is what Locust's own statistics tell.
        """
        fields = data if isinstance(data, dict) else {}
        known = self._known.setdefault(client_id, _Known())
        report = self._report(client_id, fields.get(relay.KEY))
        if report is None:
            offset_ms = self._offset_ms(client_id, fields.get("stats"), arrival_ms)
            return self._told_by_locust(client_id, fields, arrival_ms, offset_ms)

        known.clock.see(report.sent_at_ms, arrival_ms)
        shift_ms = known.clock.shift_ms(self._cadence.interval_ms)
        skew_ms = -round(known.clock.offset_ms)
        for part in report.parts if shift_ms else ():
            part.window.details.shift(shift_ms)
        parts = [
            Reported(
                self._cadence.start_of(part.start_ms + shift_ms),
                part.window,
                self._node(client_id, part.health, skew_ms),
                part.run_id,
                part.was_reset,
            )
            for part in report.parts
        ]
        if not report.is_partial:
            return parts
        own_starts_ms = {part.start_ms for part in parts}
        told = self._told_by_locust(client_id, fields, arrival_ms, round(known.clock.offset_ms))
        for one in told:
            if one.start_ms in own_starts_ms:  # how it does, its own part tells
                one.node = self._node(client_id, Health())
        return told + parts

    def _report(self, client_id: str, data: object) -> relay.Report | None:
        if data is None:
            return None
        try:
            return relay.unpack(data, self._scale, self._dimensions)
        except UnknownVersionError:
            self._warn(client_id, "has another version of locust-newrelic: Locust's own statistics of it are used")
        except MalformedError as error:
            self._warn(client_id, f"sent a report that cannot be read ({error}): Locust's own statistics are used")
        return None

    def _told_by_locust(
        self, client_id: str, fields: dict[str, Any], arrival_ms: int, offset_ms: int
    ) -> list[Reported]:
        try:
            windows = own_stats.windows_of(
                fields.get("stats"),
                self._scale,
                interval_ms=self._cadence.interval_ms,
                shift_ms=offset_ms,
                arrival_ms=arrival_ms,
                errors=fields.get("errors"),
            )
        except MalformedError as error:
            self._warn(client_id, f"sent statistics that cannot be read ({error}): they are not counted")
            return []
        node = self._node(client_id)
        return [Reported(start_ms, window, node, is_approximate=True) for start_ms, window in windows.items()]

    def _offset_ms(self, client_id: str, stats: object, arrival_ms: int) -> int:
        """What to add to a clock of which only the last request in each report is known: less than a report tells."""
        clock, last_ms = self._known[client_id].clock, own_stats.last_request_ms(stats)
        if last_ms is not None:
            is_near = abs(arrival_ms - last_ms) <= 2000 * report_interval_s()
            clock.see(arrival_ms if is_near else last_ms, arrival_ms)
        return round(clock.offset_ms)

    def _node(self, client_id: str, health: Health | None = None, clock_skew_ms: float | None = None) -> Node:
        client, index = self._clients.get(client_id), self._indexes.get(client_id)
        if health is None:
            health = _health_by_locust(client) if client is not None else Health()
        host_name = client_id if index is None else client_id.rpartition("_")[0]  # the rest is random
        return Node(host_name, "worker", -1 if index is None else index, health, clock_skew_ms=clock_skew_ms)

    @property
    def _clients(self) -> dict[str, Any]:
        return getattr(self._environment.runner, "clients", {})

    @property
    def _indexes(self) -> dict[str, int]:
        return getattr(self._environment.runner, "worker_indexes", {})

    def _warn(self, client_id: str, what: str) -> None:
        """Say it, once for each worker."""
        said = self._known[client_id].said
        logger.log(logging.DEBUG if what in said else logging.WARNING, "New Relic: worker %s %s", client_id, what)
        said.add(what)


def _health_by_locust(client: Any) -> Health:
    """What a worker has told Locust of itself. Its CPU usage is 0 until it has been measured, after some seconds."""
    wall_s = report_interval_s() if client.cpu_usage else 0.0
    return Health(client.cpu_usage / 100 * wall_s, wall_s, int(client.memory_usage), int(client.user_count))
