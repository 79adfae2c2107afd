"""Registering with Locust, and which side of reporting a process has: the only place that knows all of them.

The modules of a side, the SDK among them, are imported when Locust says what the process is (``init``), which is before
any test: a worker loads nothing of a sender, and where reporting is off neither is loaded.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import locust
from locust.runners import WorkerRunner

from . import config as settings
from .config import Config, ConfigError
from .faults import log_unexpected
from .own import own_of
from .reporter import Off, reporter_on, set_reporter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from locust.env import Environment
    from locust.event import Events

    from .own import BeforeSend
    from .reporter import Reporter

logger = logging.getLogger(__name__)

_SHARED_EVENTS = (
    "another environment with the same events is reported already: close its reporter first, or give each environment"
    " its own locust.event.Events()"
)


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
    On a worker, attach after its runner is created; it needs no settings, the master's are used. Raises
    :class:`locust_newrelic.ConfigError` for a setting that cannot be used, and if another environment with the same
    ``events`` is reported already.
    """
    present = reporter_on(environment.events)
    if present is not None and present.is_reporting:
        if present.environment is not environment:
            raise ConfigError(_SHARED_EVENTS)
        if config:
            logger.warning("New Relic: already reporting; not used any more: %s", ", ".join(sorted(config)))
        return present
    if present is not None:
        present.close()

    reporter = _reporter(environment, _take_options(environment.parsed_options), config)
    set_reporter(environment.events, reporter)
    return reporter


def _reporter(environment: Environment, options: Mapping[str, Any], config: Mapping[str, Any]) -> Reporter:
    """The one for the role of this process, which alone is imported: most of what an import would cost is a sender."""
    if isinstance(environment.runner, WorkerRunner):
        from .worker import Worker  # noqa: PLC0415  (only here, before a test: later it would hold the event loop)

        return Worker(environment)

    checked = Config.from_options(options, **config)
    for message in settings.misspelt_variables():
        logger.warning("New Relic: %s", message)
    if not checked.is_on:
        return Off(environment, disabled=checked.disabled)

    from .sender import Sender  # noqa: PLC0415  (likewise)

    return Sender(environment, checked)


def record(event_type: str, attributes: Mapping[str, object] | None = None) -> None:
    """Send an event of your own to New Relic, by the way of all others: from any process, also a worker, and greenlet.

    It carries ``run_id`` and all that every event carries, and *attributes*, the first 128 of them, made acceptable:
    booleans become ``"true"`` and ``"false"``, None, NaN and infinity are left out, dictionaries and lists become JSON,
    text is cut at 4,096 bytes, in names what New Relic does not take becomes ``_``. Its moment is now, or
    ``attributes["timestamp"]`` (ms since 1970). It goes out with its window; a process may record 1,000 in a
    window, a worker in each report, and all together 10,000: what is beyond is counted as lost. What is recorded before
    the first run belongs to that. Raises ValueError for an *event_type* that New Relic does not take, or that is one of
    this package, TypeError for attributes that are no mapping.
    """
    own_of(locust.events).record(event_type, attributes)


def set_attributes(attributes: Mapping[str, object] | None = None, /, **more: object) -> None:
    """Have each event that is made from now on carry these attributes; None as a value removes one.

    Values are made acceptable as those of :func:`record`. On a worker it has no effect: the master sends. Raises
    ConfigError, a ValueError, for a name that cannot be an attribute, and for more than 100 of them.
    """
    own_of(locust.events).set_attributes({**(attributes or {}), **more})


def before_send(function: BeforeSend) -> BeforeSend:
    """Have *function* see each event before it goes out, with ``eventType`` and ``timestamp`` among its attributes.

    It returns the event, changed or not, or None to drop it, which is counted (``events_dropped``). If it raises, the
    event goes out as it was. It must not wait for anything: one that takes more than 10 ms an event, or 1 s at once, is
    not called again. Several functions are called in their order. Returns *function*: it may be a decorator. On a
    worker it has no effect: the master sends.
    """
    return own_of(locust.events).before_send(function)


def _on_command_line_parser(parser: Any, **_: object) -> None:
    settings.add_arguments(parser)


def _on_init(environment: Environment, **_: object) -> None:
    present = reporter_on(environment.events)
    if present is not None and present.is_reporting and present.environment is not environment:
        logger.warning("New Relic: %s", _SHARED_EVENTS)
        return

    try:
        attach(environment)
    except ConfigError as error:
        _end_locust(str(error))
    except ImportError as error:  # a missing SDK, say: nothing would be reported
        _end_locust(f"New Relic: cannot report, an import failed: {error}")
    except Exception as error:
        log_unexpected(error, "reporting is off")


def _end_locust(message: str) -> NoReturn:
    """Say why, as Locust does for a bad option, and end with its exit code."""
    sys.stderr.write(f"locust: error: {message}\n")
    sys.exit(2)


def _take_options(parsed_options: Any) -> dict[str, Any]:
    """Our options, which thereby leave Locust's: it sends those to every worker, and its web UI can set them."""
    if parsed_options is None:
        return {}
    options = vars(parsed_options)
    ours = [setting.option for setting in settings.SETTINGS if setting.option in options]
    return {name: options.pop(name) for name in ours}
