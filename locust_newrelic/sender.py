"""The side of the process that sends: a local run, or a master with what its workers report.

Windows of all processes become events here, and go to where the settings say.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import socket
import time
import uuid
from collections import ChainMap, Counter, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakMethod

import gevent
import locust
from gevent.event import Event as Flag
from locust import argument_parser, runners

from . import relay
from ._version import __version__
from .acceptable import acceptable, address_only
from .config import USER_KEY, ConfigError, ci_attributes
from .delivery import Delivery, in_bytes, with_region
from .faults import log_unexpected, safe
from .gathering import Gathering, NodesInTurn
from .health import Gauge
from .histogram import Scale
from .pauses import BREATH_S, in_steps
from .payload import PHASE_SPAWNING_COMPLETE, PHASE_START, PHASE_STOP, Interval, Node, Payload, Totals
from .recording import Cadence, make_recorder, now_ms
from .reporter import Reporter
from .spool import SPOOL_SUFFIX, Output, Spool
from .transport import Transport
from .workers import Workers, report_interval_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from locust.env import Environment

    from .config import Config
    from .gathering import Slot
    from .payload import NewRelicEvent
    from .window import Names, Window

logger = logging.getLogger(__name__)

LATE_REQUESTS_S, LONGEST_LATE_S = 1.0, 10.0
"""How long a test's stop event waits for one more request (listeners of ``test_stop`` make some), and for all."""

REPORTS_TO_WAIT = 2
"""For how many of the workers' reports (one every 3 s) a window, and the end of a run, wait."""

EVENTS_AT_ONCE = 25
"""Events that are made before other greenlets may run: some 2 ms."""

REFUSED = "too many recorded"

LONGEST_JOIN_S = 5.0
"""How long Locust's exit waits for events to be made where the user's functions see them."""

MOST_RUNS = 8
"""Runs for which what workers still report is counted."""


class Sink(Protocol):
    """Where events go."""

    def put(self, events: Sequence[NewRelicEvent], /) -> None:
        """Take *events*."""


@dataclass
class _Run:
    """One test run: from a test start until its stop event, and for what workers report of it afterwards."""

    run_id: str
    payload: Payload
    gathering: Gathering
    started_s: float
    totals: Totals = field(default_factory=Totals)
    stats_epoch: int = 0
    stopping: bool = False
    stopped_s: float | None = None
    """When its users began to stop (with workers), or had stopped."""
    stopped_ms: int = 0
    ended_s: float | None = None
    """When all of its users had stopped."""
    seen_s: float = 0.0
    """When Locust has last counted a request."""
    num_seen: int = 0
    """Requests that Locust had counted by then."""
    awaited: set[str] = field(default_factory=set)
    """The workers that have not reported since it stopped."""
    approximate: set[str] = field(default_factory=set)
    """The workers of which only Locust's own statistics are known."""
    worker_count: int = 0
    lost_before: Counter[str] = field(default_factory=Counter)
    spooled_before: int = 0
    """What was lost and spooled when it began."""
    nodes: NodesInTurn = field(default_factory=NodesInTurn)
    finished: bool = False
    """Whether its stop event is on its way."""
    is_told: bool = False
    """Whether the stop event is made: what comes now is late."""

    @property
    def names(self) -> Names:
        """Which endpoints it has."""
        return self.gathering.names


class Sender(Reporter):
    """Reports the runs of one environment.

    One greenlet closes the windows at their boundaries and turns them into events; another, the delivery's, sends them.
    """

    is_on = True

    def __init__(self, environment: Environment, config: Config) -> None:
        super().__init__(environment)
        self._config = config
        self._sinks: list[Sink] = []
        self._delivery: Delivery | None = None
        self._output: Output | None = None
        self._finisher: gevent.Greenlet | None = None
        self._closed = Flag()
        self._start()

    def close(self) -> None:
        """End the open run, deliver what is left (for ``flush_timeout_s`` at most) and stop listening.

        May be called any number of times, from any greenlet; each call returns when all is done.
        """
        self._finish()
        self._gauge.close()
        vars(self.environment.parsed_options or argparse.Namespace()).pop(relay.RUN_OPTION, None)
        super().close()

    # -- wiring ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        config = self._config
        self._scale = Scale(config.buckets_ms)
        self._recorder = make_recorder(
            self._scale, config.max_series, dimensions=config.dimensions, sample_rate=config.sample_rate
        )
        self._cadence = Cadence(config.interval_s)
        self._gauge = Gauge()
        self._host_name = socket.gethostname()
        ci = {} if config.no_ci_attributes else ci_attributes()
        self._own.defaults = acceptable({**ci, **config.attributes})
        self._work: deque[Iterator[NewRelicEvent]] = deque()
        self._run: _Run | None = None
        self._runs: dict[str, _Run] = {}
        self._workers = Workers(self.environment, self._scale, self._cadence, config.dimensions)
        self._names_warned = self._num_refused = 0
        self._told: dict[str, int] = {}
        self._open_sinks()

        events = self.environment.events
        self._listen_to_requests(self._recorder)
        self._listen(events.user_error, safe(self._on_user_error))
        self._listen_beside_locust(events.worker_report, safe(self._on_worker_report), "locust.stats")
        self._listen_first(events.test_start, safe(self._on_test_start))
        self._listen_beside_locust(events.spawning_complete, safe(self._on_spawning_complete))
        self._listen(events.test_stopping, safe(self._on_test_stopping))
        self._listen_first(events.test_stop, safe(self._on_test_stop))
        self._listen(events.quit, safe(self._on_quit))
        self._watch_resets(self._on_reset)
        atexit.register(self._finish)  # for an exit without "quit": a second Ctrl-C, sys.exit() in a locustfile
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(after_in_child=_if_alive(WeakMethod(self._leave_to_parent)))
        self._greenlet = gevent.spawn(self._loop)
        self._shield_from_interrupts()
        if self._is_running:
            self._on_test_start()

    def _open_sinks(self) -> None:
        config = self._config
        if config.output is not None:
            if config.output.endswith(SPOOL_SUFFIX):
                msg = f"--newrelic-output: {config.output} is named like a spool, which a replay removes"
                raise ConfigError(msg)
            try:
                self._output = Output(config.output, delivered=config.license_key is not None)
            except (OSError, ValueError) as error:  # ValueError for what can be no path
                msg = f"--newrelic-output: cannot write {config.output!r}: {getattr(error, 'strerror', 'no such path')}"
                raise ConfigError(msg) from None
            self._sinks.append(self._output)
            logger.info("New Relic: events are written to %s", config.output)
        if config.license_key is not None:
            transport = Transport(
                config.license_key, config.url, ca_bundle=config.ca_bundle, version=__version__, clock=time.time
            )
            self._delivery = Delivery(transport, spool=Spool(config.spool_dir), region=config.region_name)
            self._sinks.insert(0, self._delivery)  # the output may have to wait for a reader
            where = with_region(transport.host, config.region_name)
            logger.info("New Relic: reporting to %s every %g s", where, config.interval_s)
            if config.has_user_key:
                logger.warning("New Relic: %s", USER_KEY)

    def _greenlets(self) -> list[gevent.Greenlet]:
        delivery = self._delivery.greenlet if self._delivery is not None else None
        ours = (self._greenlet, self._gauge.greenlet, self._finisher, delivery)
        return [greenlet for greenlet in ours if greenlet is not None]

    @property
    def _is_running(self) -> bool:
        return super()._is_running or (self._run is not None and not self._run.stopping)

    @property
    def _is_master(self) -> bool:
        return isinstance(self.environment.runner, runners.MasterRunner)

    @property
    def _grace_s(self) -> float:
        """How long after its end a window waits for what workers report."""
        if not self._is_master:
            return 0.0
        return REPORTS_TO_WAIT * report_interval_s() + self._workers.lag_s

    # -- what Locust tells us ----------------------------------------------------------------------------------------

    def _on_test_start(self, **_: object) -> None:
        if self._closing.is_set():
            return
        if isinstance(self.environment.runner, runners.WorkerRunner):
            logger.warning("New Relic: on a worker, attach after its runner is created; it is not recorded in detail")
            return

        self._finish_run()  # one whose stop event still waited for late requests
        self._end_window()
        self._recorder.forget_names()
        self._names_warned = 0
        self._own.num_runs += 1
        run = self._run = self._new_run()
        self._remember(run)
        self._own.hand_over(self._recorder.record_event, self._recorder.refuse_events)
        self._cadence.restart()
        self._gauge.take(0)
        if self._is_master:
            self._forward(run)
        self._say(PHASE_START, self._target() | {"interval_ms": self._cadence.interval_ms})
        logger.info("New Relic: run %s started; find it with WHERE run_id = '%s'", run.run_id, run.run_id)

    def _on_spawning_complete(self, user_count: int, **_: object) -> None:
        if self._run is not None and not self._run.finished:
            self._run.totals.see_users(int(user_count))
            if self._run.totals.ramp_up_s is None:
                self._run.totals.ramp_up_s = time.monotonic() - self._run.started_s
            self._say(PHASE_SPAWNING_COMPLETE, {"user_count": user_count})

    def _on_test_stopping(self, **_: object) -> None:
        """The users begin to stop. With workers that is the end of the run, since another may start meanwhile."""
        run = self._run
        if run is None or run.stopping:
            return
        run.stopping = True
        run.totals.see_users(self._user_count())
        if self._is_master:
            run.awaited = self._workers.present
            self._stop(run)

    def _on_test_stop(self, **_: object) -> None:
        """All users have stopped. For a former run that can come after the next has begun, and says nothing."""
        run = self._run
        if run is not None and run.stopping and run.ended_s is None:
            run.ended_s = run.seen_s = time.monotonic()
            run.num_seen = self._num_counted
            if run.stopped_s is None:
                self._stop(run)

    def _on_worker_report(self, client_id: str, data: object, **_: object) -> None:
        run = self._run
        if run is not None and not self._closed.is_set():
            self._work.append(self._reported(client_id, data, now_ms(), run, run.stats_epoch))
            self._wake.set()

    def _on_user_error(self, user_instance: object, exception: BaseException, tb: Any, **_: object) -> None:
        self._note_exception(self._recorder, user_instance, exception, tb)

    def _on_reset(self) -> None:
        if self._run is not None:
            self._end_window()
            self._run.stats_epoch += 1

    def _on_quit(self, **_: object) -> None:
        self._finish()

    # -- windows and runs --------------------------------------------------------------------------------------------

    def _end_window(self) -> None:
        """Cut the open window. What is recorded between two runs belongs to the first of them."""
        window, run = self._recorder.take(), self._run
        if run is not None and not run.finished:
            self._cut(run)
        if run is not None and (window or not run.finished):
            self._work.append(self._gathered(run, window, self._own_node(), self._cadence.start_ms, run.stats_epoch))
        self._cadence.restart()
        self._wake.set()

    def _cut(self, run: _Run) -> None:
        """Note when the window was open, and what Locust looks like now; only while a test runs, that alone is told."""
        opened_s, now_s, stopped_s = self._cadence.opened_s, time.monotonic(), run.stopped_s
        is_needed = stopped_s is None or stopped_s > opened_s
        until_s = stopped_s if stopped_s is not None and is_needed else now_s
        run.gathering.cut(self._interval(run, until_s - opened_s), now_s + self._grace_s, is_needed=is_needed)

    def _own_node(self) -> Node:
        role, user_count = ("master", 0) if self._is_master else ("local", self._user_count())
        return Node(self._host_name, role, 0, self._gauge.take(user_count))

    def _interval(self, run: _Run, duration_s: float) -> Interval:
        runner = self.environment.runner
        return Interval(
            start_ms=self._cadence.start_ms,
            duration_s=duration_s,
            stats_epoch=run.stats_epoch,
            user_count=self._user_count(),
            target_user_count=getattr(runner, "target_user_count", 0),
            worker_count=getattr(runner, "worker_count", 0),
            state=getattr(runner, "state", "unknown"),
        )

    def _stop(self, run: _Run) -> None:
        run.stopped_s, run.stopped_ms = time.monotonic(), now_ms()
        run.worker_count = getattr(self.environment.runner, "worker_count", 0)

    @property
    def _num_counted(self) -> int:
        """Requests that Locust has counted."""
        return int(self.environment.stats.total.num_requests)

    def _is_over(self, run: _Run) -> bool:
        """Whether nobody is expected to tell anything more of a run that has ended."""
        if run.finished or run.ended_s is None:
            return False
        now_s = time.monotonic()
        if run.num_seen != self._num_counted:
            run.seen_s, run.num_seen = now_s, self._num_counted
        since_s = now_s - run.ended_s
        if now_s - run.seen_s < LATE_REQUESTS_S and since_s < LONGEST_LATE_S:
            return False
        return since_s >= self._grace_s or not run.awaited & self._workers.present

    def _finish_run(self) -> None:
        """End the run: its last windows, then the stop event, which tells of all of them."""
        run = self._run
        if run is None or run.finished:
            return
        if run.stopped_s is None:
            self._stop(run)
        self._end_window()
        run.finished = True
        self._work.append(self._stop_events(run, self._target() | {"worker_count": run.worker_count}))
        self._wake.set()

    def _new_run(self) -> _Run:
        config = self._config
        run_id = config.run_id or f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"
        if config.run_id and self._own.num_runs > 1:
            run_id = f"{run_id}-{self._own.num_runs}"
        profile = getattr(self.environment, "profile", None)
        made = Payload(
            self._scale,
            app_name=config.app_name,
            run_id=run_id,
            test_name=config.test_name or profile or self.environment.locustfile or "locust",
            attributes=ChainMap(self._own.attributes, self._own.defaults),
            dimensions=config.dimensions,
            sample_rate=config.sample_rate,
        )
        run = _Run(run_id, made, Gathering(self._recorder.names, config.max_series), started_s=time.monotonic())
        if self._delivery is not None:
            run.lost_before, run.spooled_before = self._delivery.lost.copy(), self._delivery.num_spooled
        return run

    def _remember(self, run: _Run) -> None:
        """Know the run by its id, which workers name; forget the oldest one, of which all is told."""
        self._workers.forget_absent()
        self._runs[run.run_id] = run
        if len(self._runs) > MOST_RUNS:
            oldest = self._runs.pop(next(iter(self._runs)))
            self._work.extend(self._slot_events(oldest, slot) for slot in oldest.gathering.take_all())

    def _say(self, phase: str, facts: dict[str, Any]) -> None:
        if self._run is not None:
            event = self._run.payload.test_run(phase, now_ms(), self._run.stats_epoch, facts)
            self._work.append(iter([event]))
            self._wake.set()

    def _target(self) -> dict[str, Any]:
        """What is tested, with what."""
        runner, classes = self.environment.runner, self.environment.user_classes
        hosts = [self.environment.host] if self.environment.host else [cls.host for cls in classes if cls.host]
        return {
            "target_host": ", ".join(sorted(map(address_only, set(map(str, hosts))))) or None,
            "user_classes": ", ".join(sorted(cls.__name__ for cls in classes)),
            "user_count": self._user_count(),
            "target_user_count": getattr(runner, "target_user_count", 0),
            "worker_count": getattr(runner, "worker_count", 0),
            "locust_version": locust.__version__,
            "locust_newrelic_version": __version__,
        }

    def _warn_of_hidden_names(self, num_hidden: int) -> None:
        """Say so at the first name and at each doubling of their number."""
        if num_hidden >= max(1, 2 * self._names_warned):
            self._names_warned = num_hidden
            logger.warning(
                "New Relic: more than %d endpoints%s (--newrelic-max-series): %d further ones are reported together as"
                " (other). Group requests with name=... in the locustfile.",
                self._config.max_series,
                " and values of --newrelic-dimension" if self._config.dimensions else "",
                num_hidden,
            )

    def _warn_of_refused_events(self, run: _Run, num_refused: int) -> None:
        """Say so once in a run."""
        if num_refused and not run.totals.num_refused:
            logger.warning("New Relic: too many events were recorded in a window: %d are lost", num_refused)
        run.totals.num_refused += num_refused
        self._num_refused += num_refused

    # -- workers -----------------------------------------------------------------------------------------------------

    def _forward(self, run: _Run) -> None:
        """Have Locust tell the workers of *run*: it sends them all options with each start of users."""
        config = self._config
        if self.environment.parsed_options is None:
            self.environment.parsed_options = argparse.Namespace(**argument_parser.default_args_dict())
        options = relay.RunOptions(
            run.run_id,
            config.interval_s,
            config.buckets_ms,
            config.max_series,
            config.dimensions,
            config.sample_rate,
        )
        setattr(self.environment.parsed_options, relay.RUN_OPTION, _unchangeable(options.plain()))

    def _reported(
        self, client_id: str, data: object, arrival_ms: int, run: _Run, stats_epoch: int
    ) -> Iterator[NewRelicEvent]:
        """Count in what a worker has reported; run and epoch are those at the arrival."""
        for part in self._workers.read(client_id, data, arrival_ms):
            of_run = self._runs.get(part.run_id or run.run_id, run)
            epoch = stats_epoch if of_run is run else of_run.stats_epoch
            if part.was_reset:  # which may be the worker's first, before the master's, or without one
                epoch = max(epoch - 1, 0)
            if part.is_approximate and part.window.num_requests:
                run.approximate.add(client_id)
            yield from self._gathered(of_run, part.window, part.node, part.start_ms, epoch)
        if isinstance(data, dict) and data.get("user_count") == 0:
            run.awaited.discard(client_id)

    # -- events ------------------------------------------------------------------------------------------------------

    def _gathered(self, run: _Run, window: Window, node: Node, start_ms: int, epoch: int) -> Iterator[NewRelicEvent]:
        """Count *window* in; what becomes of it is an event once it is due."""
        if run.is_told and not window:
            return
        ends_in_s = min(start_ms - now_ms(), self._cadence.interval_ms) / 1000 + self._cadence.interval_ms / 1000
        due_s = time.monotonic() + ends_in_s + self._grace_s
        in_steps(run.gathering.add(window, node, start_ms, epoch, due_s=0.0 if run.is_told else due_s))
        yield from ()

    def _take_due(self) -> bool:
        """Have the events made of all windows that are due; returns whether there are any."""
        for run in self._runs.values():
            for slot in run.gathering.take_due(time.monotonic(), run.stats_epoch):
                self._work.append(self._slot_events(run, slot))
        return bool(self._work)

    def _slot_events(self, run: _Run, slot: Slot) -> Iterator[NewRelicEvent]:
        if not (slot.window or slot.is_needed):
            return
        in_steps(slot.window.settle())
        slot.window.hidden.merge(run.names.hidden)
        is_late = slot.interval is None
        if slot.interval is not None:
            yield from run.payload.window_events(slot.window, slot.interval, run.totals)
        else:
            yield from run.payload.late_events(slot.window, slot.start_ms, slot.stats_epoch, run.totals)
        for node in slot.nodes.values():
            if is_late or node.is_own:
                facts = self._sending() if node.is_own else {}
                yield run.payload.node_event(node, slot.start_ms, slot.stats_epoch, facts, late=is_late)
            elif (turn := run.nodes.take(node, slot, self._cadence.interval_ms)) is not None:
                yield run.payload.node_event(*turn, slot.stats_epoch, {})
        self._warn_of_hidden_names(slot.window.num_hidden_names)
        self._warn_of_refused_events(run, slot.window.details.records.num_refused)
        in_steps(slot.window.clear())

    def _sending(self) -> dict[str, int]:
        """What became of events since this was asked for last, and how many wait."""
        if self._delivery is None:
            return {}
        delivery = self._delivery
        so_far = {
            "events_sent": delivery.num_sent,
            "events_retried": delivery.num_retried,
            "events_spooled": delivery.num_spooled,
            "events_lost": sum(delivery.lost.values()) + self._num_refused,
        }
        since = {name: number - self._told.get(name, 0) for name, number in so_far.items()}
        self._told = so_far
        return {**since, "events_queued": delivery.num_queued}

    def _stop_events(self, run: _Run, facts: dict[str, Any]) -> Iterator[NewRelicEvent]:
        for slot in run.gathering.take_all():
            yield from self._slot_events(run, slot)
        for node, since_ms, epoch in run.nodes.take_all():
            yield run.payload.node_event(node, since_ms, epoch, {})
        run.is_told = True
        if self._is_master:
            facts["approximate_workers"] = len(run.approximate)
        duration_s = (run.stopped_s or run.started_s) - run.started_s
        num_spooled = self._delivery.num_spooled - run.spooled_before if self._delivery else 0
        in_steps(run.payload.find_slowest(run.totals))
        facts |= run.payload.whole_run(run.totals, duration_s, self._lost(run), num_spooled)
        yield run.payload.test_run(PHASE_STOP, run.stopped_ms, run.stats_epoch, facts)
        self._say_how_much(run, duration_s)

    def _lost(self, run: _Run) -> Counter[str]:
        """Events of the run that will not arrive, by reason."""
        lost = Counter({REFUSED: run.totals.num_refused} if run.totals.num_refused else {})
        return lost + self._delivery.lost - run.lost_before if self._delivery is not None else lost

    def _say_how_much(self, run: _Run, duration_s: float) -> None:
        volume = run.totals.volume
        dropped = f", {run.totals.num_dropped} more dropped by before_send" if run.totals.num_dropped else ""
        logger.info(
            "New Relic: run %s: %d events%s, %s as New Relic stores them; an hour like it stores %s",
            run.run_id,
            volume.num_events,
            dropped,
            in_bytes(volume.num_bytes),
            in_bytes(volume.num_bytes * 3600 / max(duration_s, 1.0)),
        )

    # -- the greenlet ------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self._cadence.pause_s)
            self._wake.clear()
            try:
                if self._run is not None and self._is_over(self._run):
                    self._finish_run()
                if self._cadence.is_over:
                    self._end_window()
                self._make_events()
            except Exception as error:
                log_unexpected(error)

    def _make_events(self) -> None:
        """Turn what is noted into events and hand them on, with pauses for Locust's greenlets."""
        while self._work or self._take_due():
            made = self._seen(self._work.popleft())
            for events in iter(lambda made=made: list(islice(made, EVENTS_AT_ONCE)), []):  # type: ignore[misc]
                for sink in self._sinks:
                    sink.put(events)
                gevent.sleep(BREATH_S)

    def _seen(self, made: Iterator[NewRelicEvent]) -> Iterator[NewRelicEvent]:
        """What the user's functions leave of the events: each before the next, which may count them, is made."""
        for event in made:
            run = self._runs.get(str(event["run_id"]))
            left = self._own.seen(event)
            if left is not None:
                if run is not None:
                    run.totals.volume.add(left)
                yield left
            elif run is not None:
                run.totals.num_dropped += 1

    def _finish(self) -> None:
        """Everything that is left goes out, once, from a greenlet of its own; whoever calls waits for it.

        So a caller that is killed, or interrupted, leaves nothing half done. A Ctrl-C ends the wait for New Relic.
        """
        if not self._closing.is_set():
            self._closing.set()
            atexit.unregister(self._finish)
            self._finisher = gevent.spawn(self._finish_all)
        while not self._closed.is_set():
            self._wait_until_closed()

        # At SIGTERM Locust shuts down from several greenlets, and all of them wait here. Let the others exit first: the
        # SystemExit of one that does it after the main greenlet would be printed with a traceback.
        if gevent.getcurrent() is gevent.get_hub().parent:
            gevent.sleep(0)

    def _wait_until_closed(self) -> None:
        try:
            self._closed.wait()
        except KeyboardInterrupt:
            logger.warning("New Relic: interrupted; what is not sent yet is not waited for")
            self._own.skip_functions()
            if self._delivery is not None:
                self._delivery.interrupt()

    def _finish_all(self) -> None:
        begun_s = time.monotonic()
        try:
            for step in (self._finish_run, self._end_window, self._own.end, self._join, self._make_events):
                safe(step)()  # a fault in one must not cost what the others have to say
            if self._delivery is not None:
                spent_s = time.monotonic() - begun_s
                self._delivery.close(max(self._config.flush_timeout_s - spent_s, 0.0))
        except Exception as error:
            log_unexpected(error)
        finally:
            if self._output is not None:
                self._output.close()
            self._say_what_was_sent()
            self._closed.set()

    def _join(self) -> None:
        """Wait for the greenlet; not for a function of the user's that never returns: nothing can end that."""
        timeout_s = min(LONGEST_JOIN_S, max(self._config.flush_timeout_s, 1.0))
        self._greenlet.join(timeout_s if self._own.has_functions else None)
        if not self._greenlet.ready():
            logger.error("New Relic: a before_send does not return: up to %d events are lost", EVENTS_AT_ONCE)
            self._own.skip_functions()

    def _leave_to_parent(self) -> None:
        """Do nothing any more: this process was forked, by a locustfile that starts a helper, and has all greenlets."""
        atexit.unregister(self._finish)
        self._closing.set()
        self._closed.set()
        for greenlet in self._greenlets():
            greenlet.kill(block=False)

    def _say_what_was_sent(self) -> None:
        if self._delivery is not None:
            if self._num_refused:
                self._delivery.lost[REFUSED] = self._num_refused
            level = logging.WARNING if self._delivery.lost or self._delivery.spooled else logging.INFO
            logger.log(level, "New Relic: %s", self._delivery.summary())
        if self._output is not None:
            lost = f", {self._output.num_lost} lost" if self._output.num_lost else ""
            level = logging.WARNING if lost else logging.INFO
            logger.log(level, "New Relic: %d events written to %s%s", self._output.num_written, self._output.path, lost)


def _if_alive(method: WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    """Calls *method*, unless its object is gone."""

    def call() -> None:
        alive = method()
        if alive is not None:
            alive()

    return call


def _unchangeable(options: dict[str, Any]) -> dict[str, Any]:
    """*options*, of which Locust's web UI makes the same again, whatever a form has posted for it.

    The UI would call the type of the present value for the new one.
    """

    class Unchangeable(dict[str, Any]):
        def __init__(self, *_: object) -> None:
            super().__init__(options)

    return Unchangeable()
