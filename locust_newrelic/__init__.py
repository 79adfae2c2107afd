"""Every Locust run in New Relic: live, kept, per endpoint and per status code.

``import locust_newrelic`` in a locustfile is all that is needed; see :func:`attach` for Locust as a library.
"""

from locust import events as _locust_events

from ._version import __version__
from .config import Config, ConfigError
from .hooks import attach, before_send, record, register, set_attributes
from .reporter import Reporter

__all__ = (
    "Config",
    "ConfigError",
    "Reporter",
    "__version__",
    "attach",
    "before_send",
    "record",
    "set_attributes",
)

register(_locust_events)
