"""What is to become of faults of our own: a line in the log, and nothing else. The load test goes on."""

from __future__ import annotations

import functools
import logging
import os
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

Listener = TypeVar("Listener", bound="Callable[..., None]")


def log_unexpected(error: BaseException, result: str = "the test goes on") -> None:
    """Log a fault of our own: where, but not what its text says, which may hold a secret."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = f"{os.path.basename(at.tb_frame.f_code.co_filename)}:{at.tb_lineno}" if at else "unknown place"
    logger.error("New Relic: unexpected %s at %s; %s", type(error).__name__, where, result)


def safe(listener: Listener) -> Listener:
    """*listener*, which logs instead of raising into Locust."""

    @functools.wraps(listener)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            listener(*args, **kwargs)
        except Exception as error:
            log_unexpected(error)

    return wrapper  # type: ignore[return-value]
