"""Flags, environment variables and config files to one frozen, checked :class:`Config`."""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .dictionary import MOST_USER_ATTRIBUTES, why_not_an_attribute

if TYPE_CHECKING:
    from typing import Protocol

    class Parser(Protocol):
        """What is needed of Locust's argument parser."""

        def add_argument_group(self, title: str, description: str) -> Any:
            """A group of flags, which Locust keeps out of its web UI."""

        def error(self, message: str) -> Any:
            """End the program for a usage error."""


PREFIX = "newrelic_"
"""How the names of our options begin in Locust's ``parsed_options``."""

REGIONS = {
    "us": "insights-collector.newrelic.com",
    "eu": "insights-collector.eu01.nr-data.net",
    "jp": "insights-collector.jp.nr-data.net",
    "gov": "gov-insights-collector.newrelic.com",
}
"""The Event API's host of each region (New Relic's own Go client: newrelic-client-go, pkg/region)."""

LONGEST_SHOWN = 256
"""Characters of a path that is shown in a message."""

USER_KEY = "The license key is a user key (NRAK-...), which New Relic refuses: take one of type ingest."

MOST_BUCKETS, MOST_DIMENSIONS = 20, 5


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the setting, and never a secret."""


def _key(value: object) -> str:
    key = str(value).strip()
    if not re.fullmatch(r"[!-~]+", key):
        msg = "must be printable ASCII without blanks (it is not shown here)"
        raise ConfigError(msg)
    return key


def _region(value: object) -> str:
    region = str(value).strip().lower()
    if region not in REGIONS:
        msg = f"must be one of {', '.join(REGIONS)}, got {value!r}"
        raise ConfigError(msg)
    return region


def _endpoint(value: object) -> str:
    try:
        url = urlsplit(str(value).strip())
        host, _ = url.hostname, url.port
    except ValueError:
        url, host = urlsplit(""), None
    if url.username is not None or url.password is not None:
        msg = "must not contain a user name or password (it is not shown here)"
        raise ConfigError(msg)
    if url.scheme not in ("https", "http") or not _HOST.fullmatch(host or "") or url.query or url.fragment:
        msg = "must be a URL like https://insights-collector.newrelic.com, without query or fragment"
        raise ConfigError(msg)
    if url.scheme == "http" and not _is_loopback(str(host)):
        msg = f"must be https: over plain http the license key could be read on its way to {host}"
        raise ConfigError(msg)
    return url.geturl()


_HOST = re.compile(r"[\w.:%-]+")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _file(value: object) -> str:
    path = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    path = os.fsdecode(path)
    if not path.strip():
        msg = "must be a path"
        raise ConfigError(msg)
    return path


def _text(value: object) -> str:
    text = str(value).strip()
    if not text:
        msg = "must not be empty"
        raise ConfigError(msg)
    return text


def _run_id(value: object) -> str:
    text = _text(value)
    if len(text) > 200:
        msg = f"must have at most 200 characters, got {len(text)}"
        raise ConfigError(msg)
    try:
        text.encode()
    except UnicodeEncodeError:  # Locust could not send it to the workers
        msg = "must be text in UTF-8"
        raise ConfigError(msg) from None
    return text


def number(lowest: float, highest: float, unit: str, kind: type = float) -> Callable[[object], Any]:
    """A check that a value is a number from *lowest* to *highest*, as a *kind*; *unit* is for the message."""

    def check(value: object) -> Any:
        try:
            number = kind(str(value))
        except ValueError:
            number = math.nan
        if not lowest <= number <= highest:
            msg = f"must be {lowest} to {highest}{unit}, got {value!r}"
            raise ConfigError(msg)
        return number

    return check


_bucket = number(1, 3_600_000, " ms", int)


def _buckets(value: object) -> tuple[int, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, Iterable):
        msg = f"must be response times in ms like 100,250,500, got {value!r}"
        raise ConfigError(msg)
    buckets = tuple(sorted({_bucket(str(item).strip()) for item in items}))
    if not 1 <= len(buckets) <= MOST_BUCKETS:
        msg = f"must be 1 to {MOST_BUCKETS} response times in ms, got {value!r}"
        raise ConfigError(msg)
    return buckets


def _attribute(item: object) -> tuple[str, str]:
    pair = item.split("=", 1) if isinstance(item, str) else item
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        msg = f"must be KEY=VALUE, got {item!r}"
        raise ConfigError(msg)
    name, text = (str(part).strip() for part in pair)
    reason = why_not_an_attribute(name)
    if reason:
        msg = f"{name!r} cannot be an attribute: {reason}"
        raise ConfigError(msg)
    return name, text


def _attributes(value: object) -> dict[str, str]:
    if isinstance(value, str):
        value = [item for item in value.split(",") if item.strip()]
    if isinstance(value, Mapping):
        value = value.items()
    if not isinstance(value, Iterable):
        msg = f"must be KEY=VALUE, got {value!r}"
        raise ConfigError(msg)
    attributes = dict(_attribute(item) for item in value if item is not None)  # None: an empty flag
    if len(attributes) > MOST_USER_ATTRIBUTES:
        msg = f"must be at most {MOST_USER_ATTRIBUTES} attributes, got {len(attributes)}"
        raise ConfigError(msg)
    return attributes


def _dimension(item: object) -> str:
    name = str(item).strip()
    reason = why_not_an_attribute(name)
    if reason:
        msg = f"{name!r} cannot be a dimension: {reason}"
        raise ConfigError(msg)
    return name


def _dimensions(value: object) -> tuple[str, ...]:
    items = [item for item in value.split(",") if item.strip()] if isinstance(value, str) else value
    if not isinstance(items, Iterable):
        msg = f"must be keys of a request's context, got {value!r}"
        raise ConfigError(msg)
    dimensions = tuple(dict.fromkeys(_dimension(item) for item in items if item is not None))
    if len(dimensions) > MOST_DIMENSIONS:
        msg = f"must be at most {MOST_DIMENSIONS} keys, got {len(dimensions)}"
        raise ConfigError(msg)
    return dimensions


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    switches = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if str(value).strip().lower() not in switches:
        msg = f"must be true or false, got {value!r}"
        raise ConfigError(msg)
    return switches[str(value).strip().lower()]


@dataclass(frozen=True)
class Setting:
    """One thing that can be set: as a flag, as environment variables, as a field of :class:`Config`."""

    name: str
    """Of the flag, behind ``--newrelic-``."""
    field: str
    check: Callable[[object], Any]
    metavar: str | None
    help: str
    own_variable: str | None = None
    """The environment variable that New Relic's tools use for it; it wins."""
    repeatable: bool = False
    is_secret: bool = False

    @property
    def flag(self) -> str:
        """The flag."""
        return f"--newrelic-{self.name}"

    @property
    def option(self) -> str:
        """Its name in Locust's ``parsed_options``."""
        return PREFIX + self.name.replace("-", "_")

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables, the one that wins first."""
        variable = f"LOCUST_NEWRELIC_{self.name.replace('-', '_').upper()}"
        return (self.own_variable, variable) if self.own_variable else (variable,)

    def variable_in(self, environ: Mapping[str, str]) -> str | None:
        """The variable that sets it there; one that is empty sets nothing."""
        return next((variable for variable in self.variables if environ.get(variable, "").strip()), None)


SETTINGS = (
    Setting(
        "license-key",
        "license_key",
        _key,
        "<key>",
        "New Relic license key (ingest). Without it, and without --newrelic-output, reporting is off. Rather use the"
        " variable: other users of the machine can read a command line.",
        "NEW_RELIC_LICENSE_KEY",
        is_secret=True,
    ),
    Setting(
        "region",
        "region",
        _region,
        "|".join(REGIONS),
        "Region of the New Relic account. Default: what the license key says.",
        "NEW_RELIC_REGION",
    ),
    Setting(
        "endpoint",
        "endpoint",
        _endpoint,
        "<url>",
        "Event API to send to instead of the region's. Plain http only to the machine itself.",
    ),
    Setting(
        "ca-bundle",
        "ca_bundle",
        _file,
        "<file>",
        "Certificates (PEM) to trust instead of the system's.",
        "NEW_RELIC_CA_BUNDLE_PATH",
    ),
    Setting(
        "app-name",
        "app_name",
        _text,
        "<name>",
        "Attribute appName of each event. Default: Locust.",
        "NEW_RELIC_APP_NAME",
    ),
    Setting(
        "test-name",
        "test_name",
        _text,
        "<name>",
        "Attribute test_name of each event. Default: Locust's --profile, else the name of the locustfile.",
    ),
    Setting(
        "run-id",
        "run_id",
        _run_id,
        "<id>",
        "Attribute run_id of the first run's events; further runs of the same process get -2, -3, ... behind it."
        " Default: made at each test start.",
    ),
    Setting(
        "attribute",
        "attributes",
        _attributes,
        "<key>=<value>",
        "Attribute of your own for each event. May be given several times; the variable takes several, separated by"
        " commas, and the flags add to it.",
        repeatable=True,
    ),
    Setting(
        "dimension",
        "dimensions",
        _dimensions,
        "<key>",
        "Key of the requests' context (context={...}) by which they are counted as well. May be given several times;"
        " the variable takes several, separated by commas, and the flags add to it.",
        repeatable=True,
    ),
    Setting(
        "no-ci-attributes",
        "no_ci_attributes",
        _switch,
        None,
        "Leave out ci, ci_build, ci_commit and ci_branch, which each event of a run in a job of GitHub Actions, GitLab"
        " or Jenkins has.",
    ),
    Setting(
        "interval",
        "interval_s",
        number(1, 300, " seconds"),
        "<seconds>",
        "How long a window is: one set of events is sent for each. 1 to 300, default 10.",
    ),
    Setting(
        "buckets",
        "buckets_ms",
        _buckets,
        "<ms>,...",
        "Response times up to which requests are counted in attributes le_<ms>. Default:"
        " 100,250,500,1000,2500,5000,10000.",
    ),
    Setting(
        "max-series",
        "max_series",
        number(1, 100_000, "", int),
        "<number>",
        "Endpoints (method and name) reported by themselves in a run; further ones share the name (other)."
        " Default: 1000.",
    ),
    Setting(
        "sample-rate",
        "sample_rate",
        number(0, 1, ""),
        "<0 to 1>",
        "Share of the requests that are reported one by one as well, at most 1,000 in a window, drawn at random."
        " Default: 0.",
    ),
    Setting(
        "output",
        "output",
        _file,
        "<file>",
        "Also append each event to this file, as one line of JSON. Works without a license key.",
    ),
    Setting(
        "spool-dir",
        "spool_dir",
        _file,
        "<folder>",
        "Where events that New Relic does not take are kept, in a file that is made only then; locust-newrelic replay"
        " sends it. Default: the working directory.",
    ),
    Setting(
        "flush-timeout",
        "flush_timeout_s",
        number(0, 3600, " seconds"),
        "<seconds>",
        "How long Locust's exit may wait for the last events to be delivered; what is left then is kept in"
        " --newrelic-spool-dir. Default: 10.",
    ),
    Setting(
        "disabled",
        "disabled",
        _switch,
        None,
        "Report nothing, whatever else is set.",
    ),
)


@dataclass(frozen=True)
class Config:
    """All settings, checked. Raises :class:`ConfigError`, which names the flag, for one that cannot be used.

    A value may be given as text, as on the command line, or as what it stands for.
    """

    license_key: str | None = field(default=None, repr=False)
    region: str | None = None
    """``us``, ``eu``, ``jp`` or ``gov``; None: from the license key."""
    endpoint: str | None = None
    ca_bundle: str | None = None
    app_name: str = "Locust"
    test_name: str | None = None
    run_id: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    dimensions: tuple[str, ...] = ()
    no_ci_attributes: bool = False
    interval_s: float = 10.0
    buckets_ms: tuple[int, ...] = (100, 250, 500, 1000, 2500, 5000, 10000)
    max_series: int = 1000
    sample_rate: float = 0.0
    output: str | None = None
    spool_dir: str = os.curdir
    flush_timeout_s: float = 10.0
    disabled: bool = False

    def __post_init__(self) -> None:
        for setting in SETTINGS:
            value = getattr(self, setting.field)
            if value is not None:
                object.__setattr__(self, setting.field, _checked(setting.flag, setting.check, value))
        both = sorted(set(self.dimensions) & set(self.attributes))
        if both:
            msg = f"--newrelic-dimension: {both[0]!r} is an attribute of all events (--newrelic-attribute)"
            raise ConfigError(msg)
        if self.ca_bundle is not None and not os.path.isfile(self.ca_bundle):  # Path.is_file() may raise
            msg = f"--newrelic-ca-bundle: no such file: {_shown(self.ca_bundle)}"
            raise ConfigError(msg)
        if not os.path.isdir(self.spool_dir):
            msg = f"--newrelic-spool-dir: no such folder: {_shown(self.spool_dir)}"
            raise ConfigError(msg)

    @property
    def is_on(self) -> bool:
        """Whether there is anything to report to."""
        return not self.disabled and (self.license_key is not None or self.output is not None)

    @property
    def url(self) -> str:
        """Where events are sent to."""
        return self.endpoint or f"https://{self._host}"

    @property
    def region_name(self) -> str | None:
        """The region, as said in the log; None for that of an endpoint that is set, which is not known."""
        return None if self.endpoint else self._region_in_use

    @property
    def has_user_key(self) -> bool:
        """Whether the license key is none, but a key of the kind that is taken for one most often."""
        return (self.license_key or "").startswith("NRAK-")

    @property
    def _region_in_use(self) -> str:
        return self.region or _region_of(self.license_key or "")

    @property
    def _host(self) -> str:
        region = self._region_in_use
        return REGIONS.get(region, f"insights-collector.{region}.nr-data.net")

    @classmethod
    def from_options(
        cls, options: Mapping[str, Any], environ: Mapping[str, str] = os.environ, **settings: Any
    ) -> Config:
        """The settings of Locust's parsed *options*; what they lack comes from *environ*; *settings* go before both.

        None among *settings* means none, or the default.
        """
        unknown = settings.keys() - {known.name for known in fields(cls)}
        if unknown:
            msg = f"no such setting: {', '.join(sorted(unknown))}"
            raise ConfigError(msg)

        values: dict[str, Any] = {}
        for setting in SETTINGS:
            variable = setting.variable_in(environ)
            if setting.field in settings:
                values[setting.field] = settings[setting.field]
            elif options.get(setting.option) is not None:
                values[setting.field] = options[setting.option]
            elif setting.option not in options and variable is not None:
                values[setting.field] = _checked(variable, setting.check, environ[variable])

        return cls(**{name: value for name, value in values.items() if value is not None})


def misspelt_variables(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """What to say of each variable in *environ* that looks like a setting of this package, and is none."""
    known = [variable for setting in SETTINGS for variable in setting.variables]
    for variable in environ:
        if variable.startswith("LOCUST_NEWRELIC_") and variable not in known:
            meant = difflib.get_close_matches(variable, known, 1)
            yield f"{variable} is no setting{f'; did you mean {meant[0]}?' if meant else ''}"


def _shown(path: str) -> str:
    """A path in a message, unless it is none: somebody may give what is in the file, a private key with it."""
    is_path = path.isprintable() and len(path) < LONGEST_SHOWN and "-----BEGIN" not in path
    return path if is_path else "(what is given is no path)"


_CI_VARIABLES = {
    "GitHub Actions": ("GITHUB_ACTIONS", "GITHUB_RUN_NUMBER", "GITHUB_SHA", ("GITHUB_HEAD_REF", "GITHUB_REF_NAME")),
    "GitLab": ("GITLAB_CI", "CI_PIPELINE_ID", "CI_COMMIT_SHA", ("CI_COMMIT_REF_NAME",)),
    "Jenkins": ("JENKINS_URL", "BUILD_NUMBER", "GIT_COMMIT", ("GIT_BRANCH", "BRANCH_NAME")),
}
"""By system: the variable that tells of it, then those of build, commit and branch (each system's documentation)."""


def ci_attributes(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the environment of a CI job says of build, commit and branch; nothing elsewhere."""
    for system, (mark, build, commit, branches) in _CI_VARIABLES.items():
        if environ.get(mark, "").strip():
            branch = next((environ[name] for name in branches if environ.get(name)), "")
            found = {"ci_build": environ.get(build), "ci_commit": environ.get(commit), "ci_branch": branch}
            return {"ci": system, **{name: value for name, value in found.items() if value}}
    return {}


def _checked(source: str, check: Callable[[object], Any], value: object) -> Any:
    try:
        return check(value)
    except ConfigError as error:
        msg = f"{source}: {error}"
        raise ConfigError(msg) from None


def _region_of(license_key: str) -> str:
    """The region that a license key says: what stands before its first x (New Relic's agents do the same)."""
    match = re.match(r"([a-z]{2,}?[0-9]*)x", license_key)
    if not match:
        return "us"
    prefix = match[1].rstrip("0123456789")
    return prefix if prefix in REGIONS else match[1]


def add_arguments(parser: Parser, environ: Mapping[str, str] = os.environ) -> None:
    """Add our flags to Locust's *parser*.

    The web UI parses the command line again for every page: so nothing is logged here, and a value's check looks at
    nothing but the value.
    """
    group = parser.add_argument_group(
        "New Relic options",
        "Reports each run to New Relic. Each flag is also a variable LOCUST_NEWRELIC_<FLAG> and a key newrelic-<flag>"
        " of Locust's config files.",
    )
    for setting in SETTINGS:
        variable = setting.variable_in(environ)
        common: dict[str, Any] = {"dest": setting.option, "default": None}
        common["help"] = f"{setting.help} Variable: {', '.join(setting.variables)}."
        if setting.metavar is None:
            group.add_argument(setting.flag, action="store_true", env_var=variable, **{**common, "default": False})
        elif setting.repeatable:
            if variable:
                try:
                    common["default"] = _items(_checked(variable, setting.check, environ[variable]))
                except ConfigError as error:
                    parser.error(str(error))
            group.add_argument(
                setting.flag, action="append", type=_item_type(setting), metavar=setting.metavar, **common
            )
        else:
            group.add_argument(
                setting.flag,
                action=_StoreSecret if setting.is_secret else "store",
                type=argument_type(setting.check),
                metavar=setting.metavar,
                env_var=variable,
                **common,
            )


class _StoreSecret(argparse._AppendAction):
    """Stores the value. For ConfigArgParse it appends: else it would print the value if a file has it as a list."""

    def __call__(self, _: object, namespace: argparse.Namespace, values: object, __: object = None) -> None:
        setattr(namespace, self.dest, values)


def argument_type(check: Callable[[object], Any]) -> Callable[[str], Any]:
    """*check* for argparse, which would print a value that any other error is raised for: the license key, say."""

    def parse(text: str) -> Any:
        try:
            return check(text) if text.strip() else None
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _items(checked: Mapping[str, str] | tuple[str, ...]) -> list[Any]:
    """What a repeatable setting was checked to, one by one."""
    return list(checked.items()) if isinstance(checked, Mapping) else list(checked)


def _item_type(setting: Setting) -> Callable[[str], Any]:
    def check(text: object) -> Any:
        (item,) = _items(setting.check([text]))
        return item

    return argument_type(check)
