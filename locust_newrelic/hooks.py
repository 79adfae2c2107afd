"""Locust's hooks in, wiring, roles: the only place that builds objects, and that knows Locust.

Everything that Locust calls here takes note, wakes the reporter's greenlet and returns; what takes time is done there.
No listener ever raises into Locust, which would change its exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import re
import signal
import sys
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import gevent
import locust
from gevent.event import Event as Flag
from locust.runners import MasterRunner, WorkerRunner

from . import config as settings
from ._version import __version__
from .config import Config, ConfigError
from .delivery import Delivery
from .histogram import Scale
from .payload import PHASE_SPAWNING_COMPLETE, PHASE_START, PHASE_STOP, Interval, Payload, Totals
from .spool import Output, Spool
from .transport import Transport
from .window import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from locust.env import Environment
    from locust.event import EventHook, Events

    from .payload import NewRelicEvent
    from .window import Window

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S = 1.0
"""How often the greenlet looks at the clock, which may be set."""

LATE_REQUESTS_S = 1.0
"""How long after a test's stop its stop event waits for requests that listeners of ``test_stop`` still make."""

LONGEST_HOLD_S = 0.001
"""How long our greenlet works on a window before other greenlets may run."""

EVENTS_AT_ONCE = 25
"""Events that are made before other greenlets may run: some 2 ms."""

_ATTRIBUTE = "locust_newrelic_reporter"

_SHARED_EVENTS = (
    "another environment with the same events is reported already: close its reporter first, or give each environment"
    " its own locust.event.Events()"
)

Listener = TypeVar("Listener", bound="Callable[..., None]")


def register(events: Events) -> None:
    """Have the flags added to Locust's, and a reporter attached to its environment once there is one."""
    for hook, listener in (
        (events.init_command_line_parser, _on_command_line_parser),
        (events.init, _on_init),
    ):
        if listener not in hook._handlers:  # a locustfile may be reloaded
            hook.add_listener(listener)  # type: ignore[no-untyped-call]


def attach(environment: Environment, **config: Any) -> Reporter:
    """Report what *environment* does to New Relic, from now on.

    For Locust as a library: a locustfile only needs ``import locust_newrelic``. The keyword arguments are those of
    :class:`locust_newrelic.Config`; what is not given comes from ``environment.parsed_options``, then from the
    environment variables. Returns the reporter, the same one for the same environment; it reports until
    :meth:`Reporter.close`, which delivers what is left; settings given while it reports are not used, with a warning.
    Raises :class:`locust_newrelic.ConfigError` for a setting that
    cannot be used, and if another environment with the same ``events`` is reported already.
    """
    present = _reporter_on(environment.events)
    if present is not None and present.is_reporting:
        if present.environment is not environment:
            raise ConfigError(_SHARED_EVENTS)
        if config:
            logger.warning("New Relic: already reporting; not used any more: %s", ", ".join(sorted(config)))
        return present
    if present is not None:
        present.close()

    options = _take_options(environment.parsed_options)
    reporter = Reporter(environment, Config.from_options(options, **config))
    setattr(environment.events, _ATTRIBUTE, reporter)
    return reporter


def _on_command_line_parser(parser: Any, **_: object) -> None:
    settings.add_arguments(parser)


def _on_init(environment: Environment, **_: object) -> None:
    present = _reporter_on(environment.events)
    if present is not None and present.is_reporting and present.environment is not environment:
        logger.warning("New Relic: %s", _SHARED_EVENTS)
        return

    try:
        attach(environment)
    except ConfigError as error:
        sys.stderr.write(f"locust: error: {error}\n")
        sys.exit(2)
    except Exception as error:
        _log_unexpected(error, "reporting is off")


def _reporter_on(events: Events) -> Reporter | None:
    return getattr(events, _ATTRIBUTE, None)


def _take_options(parsed_options: Any) -> dict[str, Any]:
    """Our options, which thereby leave Locust's: it sends those to every worker, and its web UI can set them."""
    if parsed_options is None:
        return {}
    options = vars(parsed_options)
    return {name: options.pop(name) for name in list(options) if name.startswith(settings.PREFIX)}


def _log_unexpected(error: BaseException, result: str = "the test goes on") -> None:
    """Log a fault of our own: where, but not what its text says, which may hold a secret."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = f"{os.path.basename(at.tb_frame.f_code.co_filename)}:{at.tb_lineno}" if at else "unknown place"
    logger.error("New Relic: unexpected %s at %s; %s", type(error).__name__, where, result)


def _safe(listener: Listener) -> Listener:
    """*listener*, which logs instead of raising into Locust."""

    @functools.wraps(listener)
    def safe(*args: Any, **kwargs: Any) -> None:
        try:
            listener(*args, **kwargs)
        except Exception as error:
            _log_unexpected(error)

    return safe  # type: ignore[return-value]


class Sink(Protocol):
    """Where events go."""

    def put(self, events: Sequence[NewRelicEvent], /) -> None:
        """Take *events*."""


@dataclass
class _Run:
    """One test run: from a test start until its stop event."""

    run_id: str
    payload: Payload
    started_s: float
    totals: Totals = field(default_factory=Totals)
    stats_epoch: int = 0
    stopping: bool = False
    stopped_s: float | None = None
    stopped_ms: int = 0
    finished: bool = False


class Reporter:
    """Reports the runs of one environment.

    One greenlet closes the windows at their boundaries and turns them into events; another, the delivery's, sends them.
    """

    def __init__(self, environment: Environment, config: Config) -> None:
        self.environment = environment
        self.is_on = config.is_on and not self._is_distributed()
        self._config = config
        self._listening: list[tuple[EventHook, Callable[..., None]]] = []
        self._sinks: list[Sink] = []
        self._delivery: Delivery | None = None
        self._output: Output | None = None
        self._finisher: gevent.Greenlet | None = None
        self._interrupt_handler: Callable[[int, FrameType | None], None] | None = None
        self._closing, self._closed, self._wake = Flag(), Flag(), Flag()
        if self.is_on:
            self._start()
        else:
            self._say_why_off()

    def close(self) -> None:
        """End the open run, deliver what is left (for ``flush_timeout_s`` at most) and stop listening.

        May be called any number of times, from any greenlet; each call returns when all is done.
        """
        if self.is_on:
            self._finish()
        for hook, listener in self._listening:
            with contextlib.suppress(ValueError):  # somebody else has removed it
                hook.remove_listener(listener)  # type: ignore[no-untyped-call]
        self._listening.clear()
        self._unshield()
        vars(self.environment.stats).pop("reset_all", None)
        if _reporter_on(self.environment.events) is self:
            delattr(self.environment.events, _ATTRIBUTE)

    @property
    def is_reporting(self) -> bool:
        """Whether reporting is on and neither ``close`` nor Locust's ``quit`` has ended it."""
        return self.is_on and not self._closing.is_set()

    # -- wiring ------------------------------------------------------------------------------------------------------

    def _is_distributed(self) -> bool:
        return isinstance(self.environment.runner, (MasterRunner, WorkerRunner))

    def _say_why_off(self) -> None:
        if isinstance(self.environment.runner, WorkerRunner):
            return
        if self._config.disabled:
            logger.info("New Relic: reporting is off (--newrelic-disabled)")
        elif not self._config.is_on:
            logger.info(
                "New Relic: reporting is off. To turn it on, set NEW_RELIC_LICENSE_KEY; or write the events to a file"
                " with --newrelic-output FILE."
            )
        else:
            logger.warning("New Relic: this version does not report runs with workers; reporting is off")

    def _start(self) -> None:
        config = self._config
        self._scale = Scale(config.buckets_ms)
        self._recorder = Recorder(self._scale, config.max_series)
        self._interval_ms = round(config.interval_s * 1000)
        self._work: deque[Iterator[NewRelicEvent]] = deque()
        self._run: _Run | None = None
        self._num_runs = 0
        self._names_warned = 0
        self._open_window()
        self._open_sinks()

        events = self.environment.events
        self._listen_beside_locust(events.request, self._recorder.on_request)
        self._listen_first(events.test_start, _safe(self._on_test_start))
        self._listen_beside_locust(events.spawning_complete, _safe(self._on_spawning_complete))
        self._listen(events.test_stopping, _safe(self._on_test_stopping))
        self._listen_first(events.test_stop, _safe(self._on_test_stop))
        self._listen(events.quit, _safe(self._on_quit))
        self._watch_resets()
        self._process_id = os.getpid()
        atexit.register(self._at_exit)
        self._greenlet = gevent.spawn(self._loop)
        self._shield_from_interrupts()
        if getattr(self.environment.runner, "state", None) in ("spawning", "running"):
            self._on_test_start()

    def _open_sinks(self) -> None:
        config = self._config
        if config.output is not None:
            try:
                self._output = Output(config.output, delivered=config.license_key is not None)
            except OSError as error:
                msg = f"--newrelic-output: cannot write {config.output}: {error.strerror}"
                raise ConfigError(msg) from None
            self._sinks.append(self._output)
            logger.info("New Relic: events are written to %s", config.output)
        if config.license_key is not None:
            transport = Transport(
                config.license_key, config.url, ca_bundle=config.ca_bundle, version=__version__, clock=time.time
            )
            self._delivery = Delivery(transport, spool=Spool(config.spool_dir), region=config.region_name)
            self._sinks.append(self._delivery)
            logger.info(
                "New Relic: reporting to %s (region %s) every %g s",
                transport.host,
                config.region_name,
                config.interval_s,
            )

    def _listen(self, hook: EventHook, listener: Callable[..., None]) -> None:
        hook.add_listener(listener)  # type: ignore[no-untyped-call]
        self._listening.append((hook, listener))

    def _listen_first(self, hook: EventHook, listener: Callable[..., None]) -> None:
        """Listen before anyone else: what their listeners request belongs to what begins, not the time they take."""
        self._listen(hook, listener)
        hook._handlers.insert(0, hook._handlers.pop())

    def _listen_beside_locust(self, hook: EventHook, listener: Callable[..., None]) -> None:
        """Listen right after Locust itself, so that nothing can come between its count and ours.

        A listener in between might raise StopUser, or wait and be killed with its user: Locust has counted the request
        by then, and so must we.
        """
        self._listen(hook, listener)
        handlers = hook._handlers
        own = [getattr(handler, "__module__", "") == "locust.runners" for handler in handlers]
        if any(own):
            handlers.insert(own.index(True) + 1, handlers.pop())

    def _watch_resets(self) -> None:
        """Be told of each reset of Locust's statistics at the very moment, whoever asks for it.

        Of its own resets Locust fires an event, but not always at the moment, and a locustfile may call ``reset_all()``
        itself. So this environment's statistics get a ``reset_all`` that tells us first.
        """
        reset_all = self.environment.stats.reset_all

        def reset_all_and_tell() -> None:
            _safe(self._on_reset)()
            reset_all()

        self.environment.stats.reset_all = reset_all_and_tell  # type: ignore[method-assign]

    def _shield_from_interrupts(self) -> None:
        """Pass a Ctrl-C that arrives while one of our greenlets runs on to Locust's main greenlet.

        Python raises KeyboardInterrupt in whatever runs at that moment. In the middle of our work it would cost a
        window, or have a batch sent again whose answer was on its way; elsewhere all stays as it is.
        """
        default = signal.default_int_handler
        if not _may_set_signals() or signal.getsignal(signal.SIGINT) is not default:
            return

        hub = gevent.get_hub()

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            if gevent.getcurrent() in (hub, *self._greenlets()):  # the hub would pass it on as well, with a traceback
                hub.loop.run_callback(hub.handle_system_error, KeyboardInterrupt, KeyboardInterrupt())
            else:
                default(number, frame)

        signal.signal(signal.SIGINT, on_interrupt)
        self._interrupt_handler = on_interrupt

    def _unshield(self) -> None:
        ours = self._interrupt_handler
        if ours is not None and _may_set_signals() and signal.getsignal(signal.SIGINT) is ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _greenlets(self) -> list[gevent.Greenlet]:
        delivery = self._delivery.greenlet if self._delivery is not None else None
        return [greenlet for greenlet in (self._greenlet, self._finisher, delivery) if greenlet is not None]

    # -- what Locust tells us ----------------------------------------------------------------------------------------

    def _on_test_start(self, **_: object) -> None:
        if self._closing.is_set():
            return
        if self._is_distributed():  # the runner came after us
            self._say_why_off()
            return

        self._finish_run()  # one whose stop event still waited for late requests
        self._end_window()
        self._recorder.forget_names()
        self._names_warned = 0
        self._num_runs += 1
        run = self._run = self._new_run()
        self._open_window()
        self._say(PHASE_START, self._target() | {"interval_ms": self._interval_ms})
        logger.info("New Relic: run %s started; find it with WHERE run_id = '%s'", run.run_id, run.run_id)

    def _on_spawning_complete(self, user_count: int, **_: object) -> None:
        if self._run is not None and not self._run.finished:
            self._run.totals.see_users(int(user_count))
            self._say(PHASE_SPAWNING_COMPLETE, {"user_count": user_count})

    def _on_test_stopping(self, **_: object) -> None:
        if self._run is not None:
            self._run.stopping = True
            self._run.totals.see_users(self._user_count())

    def _on_test_stop(self, **_: object) -> None:
        """The stop of the open run. That of a former one can arrive after the next has begun, and says nothing."""
        run = self._run
        if run is not None and run.stopping and run.stopped_s is None:
            run.stopped_s, run.stopped_ms = time.monotonic(), _now_ms()
            self._wake.set()

    def _on_reset(self) -> None:
        if self._run is not None:
            self._end_window()
            self._run.stats_epoch += 1

    def _on_quit(self, **_: object) -> None:
        self._finish()

    # -- windows and runs --------------------------------------------------------------------------------------------

    def _open_window(self) -> None:
        self._opened_s = time.monotonic()
        self._window_ms = _now_ms() // self._interval_ms * self._interval_ms

    def _end_window(self) -> None:
        """Close the open window and have its events made; one without a request has some only while a test runs."""
        window, run = self._recorder.take(), self._run
        now_s = time.monotonic()
        if run is not None and (window or not run.finished):
            until_s = now_s if run.stopped_s is None else max(run.stopped_s, self._opened_s)
            interval = self._interval(run, (now_s if run.finished else until_s) - self._opened_s)
            self._work.append(self._window_events(run, window, interval))
            self._warn_of_hidden_names(window.num_hidden_names)
        self._open_window()
        self._wake.set()

    def _interval(self, run: _Run, duration_s: float) -> Interval:
        runner = self.environment.runner
        return Interval(
            start_ms=self._window_ms,
            duration_s=duration_s,
            stats_epoch=run.stats_epoch,
            user_count=self._user_count(),
            target_user_count=getattr(runner, "target_user_count", 0),
            worker_count=getattr(runner, "worker_count", 0),
            state=getattr(runner, "state", "unknown"),
        )

    def _window_events(self, run: _Run, window: Window, interval: Interval) -> Iterator[NewRelicEvent]:
        since_s = time.perf_counter()
        for _ in window.settle():
            if time.perf_counter() - since_s > LONGEST_HOLD_S:
                gevent.sleep(0)
                since_s = time.perf_counter()
        yield from run.payload.window_events(window, interval, run.totals)

    def _finish_run(self) -> None:
        """End the run: its last window, then the stop event, which tells of all its windows."""
        run = self._run
        if run is None or run.finished:
            return
        if run.stopped_s is None:
            run.stopped_s, run.stopped_ms = time.monotonic(), _now_ms()
        self._end_window()
        run.finished = True
        self._work.append(self._stop_event(run, run.stopped_s - run.started_s, self._target()))
        self._wake.set()

    def _stop_event(self, run: _Run, duration_s: float, facts: dict[str, Any]) -> Iterator[NewRelicEvent]:
        facts |= run.payload.whole_run(run.totals, duration_s, self._delivery.lost if self._delivery else {})
        yield run.payload.test_run(PHASE_STOP, run.stopped_ms, run.stats_epoch, facts)

    def _new_run(self) -> _Run:
        config = self._config
        run_id = config.run_id or f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"
        if config.run_id and self._num_runs > 1:
            run_id = f"{run_id}-{self._num_runs}"
        profile = getattr(self.environment, "profile", None)
        made = Payload(
            self._scale,
            app_name=config.app_name,
            run_id=run_id,
            test_name=config.test_name or profile or self.environment.locustfile or "locust",
            attributes=config.attributes,
        )
        return _Run(run_id, made, started_s=time.monotonic())

    def _say(self, phase: str, facts: dict[str, Any]) -> None:
        if self._run is not None:
            event = self._run.payload.test_run(phase, _now_ms(), self._run.stats_epoch, facts)
            self._work.append(iter([event]))
            self._wake.set()

    def _target(self) -> dict[str, Any]:
        """What is tested, with what."""
        runner, classes = self.environment.runner, self.environment.user_classes
        hosts = {self.environment.host} if self.environment.host else {cls.host for cls in classes if cls.host}
        return {
            "target_host": ", ".join(sorted(map(_without_credentials, hosts))) or None,
            "user_classes": ", ".join(sorted(cls.__name__ for cls in classes)),
            "user_count": self._user_count(),
            "target_user_count": getattr(runner, "target_user_count", 0),
            "worker_count": getattr(runner, "worker_count", 0),
            "locust_version": locust.__version__,
            "locust_newrelic_version": __version__,
        }

    def _user_count(self) -> int:
        return getattr(self.environment.runner, "user_count", 0)

    def _warn_of_hidden_names(self, num_hidden: int) -> None:
        """Say so at the first name and at each doubling of their number."""
        if num_hidden >= max(1, 2 * self._names_warned):
            self._names_warned = num_hidden
            logger.warning(
                "New Relic: more than %d endpoints (--newrelic-max-series): %d further names are reported together as"
                " (other). Group requests with name=... in the locustfile.",
                self._config.max_series,
                num_hidden,
            )

    # -- the greenlet ------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self._pause_s())
            self._wake.clear()
            try:
                self._do_what_is_due()
                self._make_events()
            except Exception as error:
                _log_unexpected(error)

    def _do_what_is_due(self) -> None:
        run = self._run
        if run is not None and run.stopped_s is not None and time.monotonic() >= run.stopped_s + LATE_REQUESTS_S:
            self._finish_run()
        if not self._window_ms <= _now_ms() < self._window_ms + self._interval_ms:
            self._end_window()

    def _pause_s(self) -> float:
        to_boundary_s = (self._window_ms + self._interval_ms) / 1000 - time.time()
        return min(max(to_boundary_s, 0.001), LONGEST_PAUSE_S)

    def _make_events(self) -> None:
        """Turn what is noted into events and hand them on, with pauses for Locust's greenlets."""
        while self._work:
            made = self._work.popleft()
            for events in iter(lambda made=made: list(islice(made, EVENTS_AT_ONCE)), []):  # type: ignore[misc]
                for sink in self._sinks:
                    sink.put(events)
                gevent.sleep(0)

    def _finish(self) -> None:
        """Everything that is left goes out, once, from a greenlet of its own; whoever calls waits for it.

        So a caller that is killed, or interrupted, leaves nothing half done. A Ctrl-C ends the wait for New Relic.
        """
        if not self._closing.is_set():
            self._closing.set()
            atexit.unregister(self._at_exit)
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
            if self._delivery is not None:
                self._delivery.interrupt()

    def _finish_all(self) -> None:
        begun_s = time.monotonic()
        try:
            self._finish_run()
            self._end_window()
            self._greenlet.join()
            self._make_events()
            if self._delivery is not None:
                spent_s = time.monotonic() - begun_s
                self._delivery.close(max(self._config.flush_timeout_s - spent_s, 0.0))
        except Exception as error:
            _log_unexpected(error)
        finally:
            if self._output is not None:
                self._output.close()
            self._say_what_was_sent()
            self._closed.set()

    def _at_exit(self) -> None:
        """For an exit without ``quit``: a second Ctrl-C, ``sys.exit()`` in a locustfile. A forked child has no part."""
        if os.getpid() == self._process_id:
            self._finish()

    def _say_what_was_sent(self) -> None:
        if self._delivery is not None:
            level = logging.WARNING if self._delivery.lost or self._delivery.spooled else logging.INFO
            logger.log(level, "New Relic: %s", self._delivery.summary())
        if self._output is not None:
            logger.info("New Relic: %d events written to %s", self._output.num_written, self._output.path)


def _may_set_signals() -> bool:
    return threading.current_thread() is threading.main_thread()


def _now_ms() -> int:
    return int(time.time() * 1000)


def _without_credentials(url: str) -> str:
    """The address without what may be a secret in it: user, password, parameters, query; whatever its form is."""
    scheme, separator, rest = str(url).rpartition("://")
    address = rest.rpartition("@")[2]
    return f"{scheme}{separator}{re.split('[;?#]', address)[0]}"
