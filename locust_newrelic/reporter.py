"""What every process does, whatever its role: it listens to Locust.

Everything that Locust calls here takes note, wakes the reporter's greenlet and returns; what takes time is done there.
No listener ever raises into Locust, which would change its exit code.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event as Flag
from locust.runners import STATE_RUNNING, STATE_SPAWNING

from .faults import safe
from .own import own_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from locust.env import Environment
    from locust.event import EventHook, Events

    from .own import BeforeSend
    from .recorder import Recorder

logger = logging.getLogger(__name__)

_ATTRIBUTE = "locust_newrelic_reporter"


def reporter_on(events: Events) -> Reporter | None:
    """The reporter of the environment with these events, None if there is none."""
    return getattr(events, _ATTRIBUTE, None)


def set_reporter(events: Events, reporter: Reporter) -> None:
    """Have *reporter* be the one with these events, until it is closed."""
    setattr(events, _ATTRIBUTE, reporter)


class Reporter:
    """Reports the runs of one environment, or on a worker its part of them, until :meth:`close`."""

    is_on: bool
    """Whether there is anything to do."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._listening: list[tuple[EventHook, Callable[..., None]]] = []
        self._interrupt_handler: Callable[[int, FrameType | None], None] | None = None
        self._closing, self._wake = Flag(), Flag()
        self._own = own_of(environment.events)

    def record(self, event_type: str, attributes: Mapping[str, object] | None = None) -> None:
        """As :func:`locust_newrelic.record`, in this environment."""
        self._own.record(event_type, attributes)

    def set_attributes(self, attributes: Mapping[str, object] | None = None, /, **more: object) -> None:
        """As :func:`locust_newrelic.set_attributes`, in this environment."""
        self._own.set_attributes({**(attributes or {}), **more})

    def before_send(self, function: BeforeSend) -> BeforeSend:
        """As :func:`locust_newrelic.before_send`, in this environment."""
        return self._own.before_send(function)

    def close(self) -> None:
        """Stop listening. May be called any number of times, from any greenlet."""
        for hook, listener in self._listening.copy():
            self._unlisten(hook, listener)
        self._unshield()
        self._own.hand_over(None)
        for method in ("reset_all", "clear_all"):
            vars(self.environment.stats).pop(method, None)
        if reporter_on(self.environment.events) is self:
            delattr(self.environment.events, _ATTRIBUTE)

    @property
    def is_reporting(self) -> bool:
        """Whether reporting is on and neither ``close`` nor Locust's ``quit`` has ended it."""
        return self.is_on and not self._closing.is_set()

    # -- listening ---------------------------------------------------------------------------------------------------

    def _listen(self, hook: EventHook, listener: Callable[..., None]) -> None:
        hook.add_listener(listener)  # type: ignore[no-untyped-call]
        self._listening.append((hook, listener))

    def _unlisten(self, hook: EventHook, listener: Callable[..., None]) -> None:
        self._listening.remove((hook, listener))
        with contextlib.suppress(ValueError):  # somebody else has removed it
            hook.remove_listener(listener)  # type: ignore[no-untyped-call]

    def _listen_first(self, hook: EventHook, listener: Callable[..., None]) -> None:
        """Listen before anyone else: what their listeners request belongs to what begins, not the time they take."""
        self._listen(hook, listener)
        hook._handlers.insert(0, hook._handlers.pop())

    def _listen_beside_locust(
        self, hook: EventHook, listener: Callable[..., None], module: str = "locust.runners"
    ) -> None:
        """Listen right after what Locust's own *module* does, so that nothing can come between its count and ours.

        A listener in between might raise StopUser, or wait and be killed with its user: Locust has counted the request
        by then, and so must we.
        """
        self._listen(hook, listener)
        handlers = hook._handlers
        own = [getattr(handler, "__module__", "") == module for handler in handlers]
        if any(own):
            handlers.insert(own.index(True) + 1, handlers.pop())

    def _listen_to_requests(self, recorder: Recorder) -> None:
        for listener in recorder.listeners:
            self._listen_beside_locust(self.environment.events.request, listener)

    def _watch_resets(self, on_reset: Callable[[], None]) -> None:
        """Be told of each reset of Locust's statistics at the very moment, whoever asks for it.

        Of its own resets Locust fires an event, but not always at the moment, and a locustfile may call ``reset_all()``
        or ``clear_all()`` itself. So this environment's statistics get methods that tell us first. Locust clears them
        before a test starts, too, which is no reset of that test.
        """
        stats = self.environment.stats
        reset_all, clear_all = stats.reset_all, stats.clear_all

        def reset_all_and_tell() -> None:
            safe(on_reset)()
            reset_all()

        def clear_all_and_tell() -> None:
            if self._is_running:
                safe(on_reset)()
            clear_all()

        stats.reset_all = reset_all_and_tell  # type: ignore[method-assign]
        stats.clear_all = clear_all_and_tell  # type: ignore[method-assign]

    @property
    def _is_running(self) -> bool:
        """Whether a test runs, which Locust's own clearing never meets."""
        runner = self.environment.runner
        return getattr(runner, "worker_state", getattr(runner, "state", None)) in (STATE_SPAWNING, STATE_RUNNING)

    def _user_count(self) -> int:
        return getattr(self.environment.runner, "user_count", 0)

    def _note_exception(self, recorder: Recorder, user: object, exception: BaseException, trace: Any) -> None:
        """Count what Locust's ``user_error`` tells. It calls the task set, if there is one, a user."""
        user_class = type(getattr(user, "user", user)).__name__
        recorder.record_exception(user_class, exception, trace)

    # -- interrupts --------------------------------------------------------------------------------------------------

    def _greenlets(self) -> list[gevent.Greenlet]:
        """Those of ours in which a Ctrl-C must not be raised."""
        return []

    def _shield_from_interrupts(self) -> None:
        """Pass a Ctrl-C that arrives while our code runs on to Locust's main greenlet.

        Python raises KeyboardInterrupt in whatever runs at that moment. In the middle of our work it would cost a
        window, or have a batch sent again whose answer was on its way; in a listener, thousands of requests that it
        just counts. Elsewhere all stays as it is.
        """
        default = signal.default_int_handler
        if not _may_set_signals() or signal.getsignal(signal.SIGINT) is not default:
            return

        hub = gevent.get_hub()

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            # the hub would pass it on as well, with a traceback
            if gevent.getcurrent() in (hub, *self._greenlets()) or _is_ours(frame):
                hub.loop.run_callback(hub.handle_system_error, KeyboardInterrupt, KeyboardInterrupt())
            else:
                default(number, frame)

        signal.signal(signal.SIGINT, on_interrupt)
        self._interrupt_handler = on_interrupt

    def _unshield(self) -> None:
        ours = self._interrupt_handler
        if ours is not None and _may_set_signals() and signal.getsignal(signal.SIGINT) is ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class Off(Reporter):
    """Reports nothing, since the settings say so or say nowhere to report to."""

    is_on = False

    def __init__(self, environment: Environment, *, disabled: bool) -> None:
        super().__init__(environment)
        self._own.hand_over(lambda _: None)
        if disabled:
            logger.info("New Relic: reporting is off (--newrelic-disabled)")
        else:
            logger.info(
                "New Relic: reporting is off. To turn it on, set NEW_RELIC_LICENSE_KEY; or write the events to a file"
                " with --newrelic-output FILE."
            )


def _is_ours(frame: FrameType | None) -> bool:
    """Whether that runs in this package, or is called by it."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith(f"{__package__}."):
            return True
        frame = frame.f_back
    return False


def _may_set_signals() -> bool:
    return threading.current_thread() is threading.main_thread()
