"""What New Relic takes as an attribute, and how whatever a user has becomes that. No clock, no I/O, no Locust.

The limits are those of New Relic's "Data requirements and limits for custom event data", https://docs.newrelic.com
"""

from __future__ import annotations

import contextlib
import json
import numbers
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any, TypeGuard

Value = str | int | float
Attributes = dict[str, Value]

LONGEST_NAME, LONGEST_VALUE = 255, 4096
"""Characters of an attribute's name, and bytes of its value that are text."""

MOST_ATTRIBUTES = 254
"""Of an event."""

FARTHEST_MS = 12 * 3600 * 1000
"""What claims to be farther from its window has no known moment: New Relic takes a day at most."""

_LARGEST_INTEGER = 2**63 - 1
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_:.]*")
_EVENT_TYPE = re.compile(r"[A-Za-z0-9_:]{1,255}")
_RESERVED_TYPES = re.compile(r"Metric|MetricRaw|Metric[0-9].*|Public_.*|Entity|EntityRelationship")

# Errors may be whole pages, each of which is looked through as its request ends. So none of these patterns looks at a
# character again and again: an "@" is known to come where one is looked for, and what has no query is matched as well.
_UP_TO_AT = re.compile(r"(?<!\S)\S*@")
_CREDENTIALS = re.compile(r"(?<=//)(?:[^\s/?#@]*:(?!\d+[/?#])[^\s@]*@)?(?:[^\s/?#]*@)?")
_ADDRESS = re.compile(r"((?:/|(?<![^\s'\"(\[<=:,]))/[^\s?#'\"<>]*)([?#][^\s'\"<>)]*)?")

_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*)(:[0-9]*)?")

NRQL_WORDS = frozenset(
    "ago and as auto begin begintime compare day days end endtime explain facet from hour hours in is like limit minute"
    " minutes month months not null offset or raw second seconds select since timeseries until week weeks where"
    " with".split()
)
RESERVED_NAMES = frozenset(
    ["accountId", "appId", "eventType", "timestamp", "entity.guid", "entity.name", "entity.type"]
)


def why_not_a_name(name: str) -> str | None:
    """Why New Relic does not take an attribute of that name; None if it does."""
    if not _NAME.fullmatch(name):
        return "a name begins with a letter and has letters, digits, '_', ':' and '.' only"
    if len(name) > LONGEST_NAME:
        return f"a name has at most {LONGEST_NAME} characters"
    if name.lower() in NRQL_WORDS:
        return "it is a word of New Relic's query language"
    if name in RESERVED_NAMES or name.startswith(("nr.", "entity.")):
        return "New Relic reserves it"
    return None


def is_event_type(value: object) -> TypeGuard[str]:
    """Whether New Relic takes events of that type."""
    return isinstance(value, str) and bool(_EVENT_TYPE.fullmatch(value)) and not _RESERVED_TYPES.fullmatch(value)


def acceptable(attributes: Mapping[str, object]) -> Attributes:
    """The attributes with values as New Relic takes them: text and finite numbers within its limits.

    None, NaN and infinity are left out, booleans become ``"true"`` and ``"false"``, integers stay within 64 bit, text
    is cut after 4,096 bytes of UTF-8, dictionaries and lists become JSON, and anything else becomes text.
    """
    accepted: Attributes = {}
    for name, value in attributes.items():
        kind = type(value)
        usual = (
            (kind is float and isfinite(value))  # type: ignore[arg-type]
            or (kind is int and -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER)  # type: ignore[operator]
            or (kind is str and len(value) <= LONGEST_VALUE and value.isascii())  # type: ignore[arg-type, attr-defined]
        )
        if usual:
            accepted[name] = value  # type: ignore[assignment]
        elif value is not None:
            accepted |= _acceptable(name, value)
    return accepted


def _acceptable(name: str, value: object) -> Attributes:
    """The attribute, if there is something in it that New Relic takes."""
    if isinstance(value, str):
        return {name: _acceptable_text(value)}
    if isinstance(value, bool):
        return {name: "true" if value else "false"}
    if isinstance(value, int):
        return {name: max(-_LARGEST_INTEGER, min(int.__int__(value), _LARGEST_INTEGER))}
    if isinstance(value, float):
        return {name: float.__float__(value)} if isfinite(value) else {}
    if isinstance(value, numbers.Number):  # of other libraries
        return _acceptable(name, _plain_number(value))
    return {name: _acceptable_text(_text(value))}


def _plain_number(value: numbers.Number) -> int | float | str:
    """The number as Python's own, or as text if it is none of them."""
    with contextlib.suppress(Exception):  # foreign code may do anything
        return int(value) if isinstance(value, numbers.Integral) else float(value)  # type: ignore[arg-type]
    return _text(value)


def with_acceptable_names(attributes: Mapping[Any, object], prefix: str = "") -> dict[str, object]:
    """The attributes under names that New Relic takes, *prefix* in front of each.

    What a name may not have becomes ``_``; one that New Relic reserves gets a ``_`` behind it. Where two become the
    same, the later one counts.
    """
    return {_acceptable_name(f"{prefix}{_text(name)}"): value for name, value in attributes.items()}


def without_secrets(text: str) -> str:
    """The text with no user, password and query in any address in it, nor a query in an address without a host."""
    if "/" not in text:
        return text
    if "@" in text and "//" in text:
        text = _UP_TO_AT.sub(lambda found: _CREDENTIALS.sub("", found[0]), text)
    return _ADDRESS.sub(lambda found: f"{found[1]}?..." if found[2] else found[0], text)


def address_only(url: str) -> str:
    """The address without what may be a secret in it: user, password, parameters, query; whatever its form is."""
    scheme, separator, rest = url.partition("//") if "//" in url else ("", "", url)
    authority = re.split("[/?#]", rest)[0]
    if "@" in authority:
        rest = authority.rpartition("@")[2] + rest[len(authority) :]
    elif not _HOST_AND_PORT.fullmatch(authority):  # the beginning of a user and password, with a "/" in it
        rest = rest.rpartition("@")[2]
    return f"{scheme}{separator}{re.split('[;?#]', rest)[0]}"


def _acceptable_name(name: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_:.]", "_", name[: LONGEST_NAME - 2])
    if not name[:1].isalpha():
        name = f"a{name}" if name.startswith("_") else f"a_{name}"
    if name.startswith(("nr.", "entity.")):
        name = name.replace(".", "_", 1)
    return name if why_not_a_name(name) is None else f"{name}_"


def _text(value: object) -> str:
    """Any value as text; a dictionary or list as JSON."""
    try:
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        if isinstance(value, (Mapping, list, tuple)):
            with contextlib.suppress(TypeError, ValueError):  # it may have keys that are no text, or itself in it
                return json.dumps(value, default=_for_json, ensure_ascii=False)
        return str(value)
    except Exception:  # foreign code may do anything
        return f"<{type(value).__name__}>"


def _for_json(value: object) -> object:
    """What stands for a value that JSON has no form for."""
    return dict(value) if isinstance(value, Mapping) else _text(value)


def _acceptable_text(text: str) -> str:
    if text.isascii():
        return str.__str__(text)[:LONGEST_VALUE]
    return text.encode("utf-8", "replace")[:LONGEST_VALUE].decode("utf-8", "ignore")
