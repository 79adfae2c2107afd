"""Flags, variables and config files: what becomes of them, and how a bad one is refused."""

import dataclasses
import os
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from locust.argument_parser import get_parser
from new_relic import LICENSE_KEY

from locust_newrelic import Config, ConfigError
from locust_newrelic.config import PREFIX, SETTINGS, ci_attributes, misspelt_variables

SETTING = {setting.name: setting for setting in SETTINGS}

GOOD = {
    "license-key": (LICENSE_KEY, LICENSE_KEY),
    "region": ("EU", "eu"),
    "endpoint": ("https://relay.example:8443/events", "https://relay.example:8443/events"),
    "ca-bundle": ("ca.pem", "ca.pem"),
    "app-name": ("My shop", "My shop"),
    "test-name": ("checkout", "checkout"),
    "run-id": ("build-7", "build-7"),
    "attribute": ("team=web", {"team": "web"}),
    "dimension": ("tenant", ("tenant",)),
    "no-ci-attributes": ("true", True),
    "interval": ("2.5", 2.5),
    "buckets": ("500,100", (100, 500)),
    "max-series": ("50", 50),
    "sample-rate": ("0.25", 0.25),
    "output": ("events.ndjson", "events.ndjson"),
    "spool-dir": ("spools", "spools"),
    "flush-timeout": ("0", 0.0),
    "disabled": ("true", True),
}
"""Of each setting a text, and what it stands for."""

BAD = [
    ("license-key", "two words", "printable ASCII"),
    ("region", "mars", "us, eu, jp, gov"),
    ("endpoint", "collector.example", "must be a URL"),
    ("endpoint", "ftp://collector.example", "must be a URL"),
    ("endpoint", "https://", "must be a URL"),
    ("endpoint", "https://collector.example:port", "must be a URL"),
    ("endpoint", "https://[::1", "must be a URL"),
    ("endpoint", "https://a b", "must be a URL"),
    ("endpoint", "https://a<b.example", "must be a URL"),
    ("endpoint", "http://collector.example", "must be https"),
    ("run-id", "x" * 201, "at most 200 characters, got 201"),
    ("attribute", "team", "must be KEY=VALUE, got 'team'"),
    ("attribute", "end=1", "'end' cannot be an attribute: it is a word of New Relic's query language"),
    ("attribute", "Since=1", "query language"),
    ("attribute", "appId=1", "New Relic reserves it"),
    ("attribute", "nr.x=1", "New Relic reserves it"),
    ("attribute", "two words=1", "letters, digits"),
    ("attribute", "=1", "letters, digits"),
    ("attribute", "run_id=1", "own events use it"),
    ("attribute", "le_100=1", "own events use it"),
    ("attribute", "url=1", "own events use it"),
    ("dimension", "two words", "'two words' cannot be a dimension: a name begins with a letter"),
    ("dimension", "end", "'end' cannot be a dimension: it is a word of New Relic's query language"),
    ("dimension", "nr.x", "New Relic reserves it"),
    ("dimension", "method", "'method' cannot be a dimension: locust-newrelic's own events use it"),
    ("dimension", "le_100", "own events use it"),
    ("dimension", "ä", "letters, digits"),
    ("interval", "0.9", "must be 1 to 300 seconds, got '0.9'"),
    ("interval", "301", "must be 1 to 300 seconds"),
    ("interval", "nan", "must be 1 to 300 seconds"),
    ("interval", "ten", "must be 1 to 300 seconds"),
    ("buckets", "100,fast", "must be 1 to 3600000 ms, got 'fast'"),
    ("buckets", "100,,250", "got ''"),
    ("buckets", "0", "must be 1 to 3600000 ms"),
    ("buckets", ",".join(map(str, range(1, 22))), "must be 1 to 20 response times"),
    ("max-series", "0", "must be 1 to 100000, got '0'"),
    ("max-series", "1.5", "must be 1 to 100000"),
    ("sample-rate", "1.1", "must be 0 to 1, got '1.1'"),
    ("sample-rate", "-0.1", "must be 0 to 1"),
    ("sample-rate", "nan", "must be 0 to 1"),
    ("sample-rate", "10%", "must be 0 to 1, got '10%'"),
    ("flush-timeout", "-1", "must be 0 to 3600 seconds"),
    ("flush-timeout", "inf", "must be 0 to 3600 seconds"),
]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """A working directory and a home without config files, but with a file of certificates and a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "ca.pem").touch()
    (tmp_path / "spools").mkdir()


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Of each place where a setting can come from: sets it there, and returns the arguments that are needed."""

    def flag(setting, text):
        return [setting.flag] if setting.metavar is None else [f"{setting.flag}={text}"]

    def variable(setting, text):
        monkeypatch.setenv(setting.variables[-1], text)
        return []

    def own_variable(setting, text):
        monkeypatch.setenv(setting.variables[0], text)
        return []

    def locust_conf(setting, text):
        # Locust 2.32 takes a file that could be TOML for a pyproject.toml; with this host it could not be.
        lines = f"host = http://shop.example\nnewrelic-{setting.name} = {text}\n"
        (tmp_path / "locust.conf").write_text(lines, "utf-8")
        return []

    def pyproject(setting, text):
        (tmp_path / "pyproject.toml").write_text(f'[tool.locust]\nnewrelic-{setting.name} = "{text}"\n', "utf-8")
        return []

    return {
        "flag": flag,
        "variable": variable,
        "own variable": own_variable,
        "locust.conf": locust_conf,
        "pyproject.toml": pyproject,
    }


def parse(*arguments):
    """What Locust's command line, the variables and the config files say together."""
    return Config.from_options(vars(get_parser().parse_args(arguments)))


def usage_error(capsys, arguments):
    """What Locust prints about arguments that it refuses, in one line; its exit code is 2."""
    with pytest.raises(SystemExit) as refusal:
        parse(*arguments)
    assert refusal.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def with_default_but(**settings):
    return dataclasses.replace(Config(), **settings)


# -- where settings come from --------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["flag", "variable", "own variable", "locust.conf", "pyproject.toml"])
@pytest.mark.parametrize("name", SETTING)
def test_each_setting_from_each_source(sources, source, name):
    """Each setting can be a flag, a variable, or a line of either config file, and changes nothing else."""
    text, value = GOOD[name]

    assert parse(*sources[source](SETTING[name], text)) == with_default_but(**{SETTING[name].field: value})


@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS if setting.own_variable])
def test_new_relics_own_variable_wins(sources, name):
    """Where New Relic's tools have a variable too, that one counts; ours is not even looked at."""
    setting, (text, value) = SETTING[name], GOOD[name]
    sources["variable"](setting, "no such value")
    sources["own variable"](setting, text)

    assert getattr(parse(), setting.field) == value


def test_which_variables_are_new_relics_own():
    """The variables that are read are those of the documentation."""
    own = {setting.name: setting.own_variable for setting in SETTINGS if setting.own_variable}
    assert own == {
        "license-key": "NEW_RELIC_LICENSE_KEY",
        "region": "NEW_RELIC_REGION",
        "ca-bundle": "NEW_RELIC_CA_BUNDLE_PATH",
        "app-name": "NEW_RELIC_APP_NAME",
    }
    assert SETTING["flush-timeout"].variables == ("LOCUST_NEWRELIC_FLUSH_TIMEOUT",)
    assert SETTING["region"].variables == ("NEW_RELIC_REGION", "LOCUST_NEWRELIC_REGION")


def test_a_flag_beats_a_variable_beats_a_config_file(sources, monkeypatch):
    """The nearer to the command line, the stronger."""
    setting = SETTING["run-id"]
    for source in ("locust.conf", "variable"):
        sources[source](setting, source)

    assert parse("--newrelic-run-id", "flag").run_id == "flag"
    assert parse().run_id == "variable"
    monkeypatch.delenv("LOCUST_NEWRELIC_RUN_ID")
    assert parse().run_id == "locust.conf"


@pytest.mark.parametrize("empty", ["", " "])
@pytest.mark.parametrize("name", SETTING)
def test_an_empty_variable_is_unset(sources, name, empty):
    """An empty variable sets nothing: the config file's value applies."""
    setting, (text, value) = SETTING[name], GOOD[name]
    for source in ("variable", "own variable"):
        sources[source](setting, empty)
    sources["locust.conf"](setting, text)

    assert getattr(parse(), setting.field) == value


@pytest.mark.parametrize("name", SETTING)
def test_an_empty_new_relic_variable_leaves_ours(name):
    """If New Relic's own variable is empty, ours applies, with a parser or without."""
    setting, (text, value) = SETTING[name], GOOD[name]
    environ = dict.fromkeys(setting.variables, "") | {setting.variables[-1]: text}

    assert Config.from_options({}, environ) == with_default_but(**{setting.field: value})


@pytest.mark.parametrize("source", ["flag", "locust.conf"])
@pytest.mark.parametrize("name", [setting.name for setting in SETTINGS if setting.metavar])
def test_an_empty_flag_is_unset(sources, source, name):
    """A flag or a line without a value, as a CI job's variable may leave it, is the default."""
    assert parse(*sources[source](SETTING[name], "")) == Config()


def test_attributes_add_up(monkeypatch):
    """Attribute flags add to the variable's, and change those of the same name."""
    monkeypatch.setenv("LOCUST_NEWRELIC_ATTRIBUTE", "team=web, build=7,, link=a=b ")
    config = parse("--newrelic-attribute", "build=8", "--newrelic-attribute", "stage=")

    assert config.attributes == {"team": "web", "build": "8", "link": "a=b", "stage": ""}


def test_attributes_of_a_config_file(tmp_path):
    """Several attributes are a list in either config file."""
    (tmp_path / "locust.conf").write_text("newrelic-attribute = [team=web, build=7]\n")
    assert parse().attributes == {"team": "web", "build": "7"}
    (tmp_path / "locust.conf").unlink()
    (tmp_path / "pyproject.toml").write_text('[tool.locust]\nnewrelic-attribute = ["team=web", "build=7"]\n')
    assert parse().attributes == {"team": "web", "build": "7"}


def test_dimensions_add_up(monkeypatch, tmp_path):
    """Dimension flags add to the variable's, each counts once; in a config file several are a list."""
    (tmp_path / "locust.conf").write_text("newrelic-dimension = [tenant, plan]\n")
    assert parse().dimensions == ("tenant", "plan")
    monkeypatch.setenv("LOCUST_NEWRELIC_DIMENSION", "tenant,, shop ")
    config = parse("--newrelic-dimension", "plan", "--newrelic-dimension", "tenant")

    assert config.dimensions == ("tenant", "shop", "plan")


@pytest.mark.parametrize("region", ["us", "EU", "Jp", " GOV "])
def test_a_region_in_any_case(monkeypatch, region):
    """us, US and Us are one region."""
    monkeypatch.setenv("NEW_RELIC_REGION", region)
    assert parse().region == region.strip().lower()
    assert Config(region=region).region == region.strip().lower()


def test_a_file_can_be_a_path(tmp_path):
    """In code, a file is a path as well as a text."""
    assert Config(output=tmp_path / "events").output == str(tmp_path / "events")


# -- Locust's parser -----------------------------------------------------------------------------------------------


def test_the_options_are_ours_by_name():
    """All options begin with newrelic_, so that they can be told from Locust's own and a user's."""
    ours = {action.dest for action in get_parser()._actions if "newrelic" in "".join(action.option_strings)}
    assert ours == {setting.option for setting in SETTINGS}
    assert all(option.startswith(PREFIX) for option in ours)


def test_the_web_ui_has_none_of_the_options():
    """None of our options is in the forms of Locust's web UI."""
    shown = get_parser().args_included_in_web_ui
    assert "host" in shown
    assert [name for name in shown if "newrelic" in name] == []


def test_parsing_again_changes_and_says_nothing(monkeypatch, caplog, capsys):
    """The web UI parses the command line for every page: the result stays, and nothing is logged or printed."""
    caplog.set_level(0)
    monkeypatch.setenv("LOCUST_NEWRELIC_ATTRIBUTE", "team=web")
    monkeypatch.setenv("NEW_RELIC_LICENSE_KEY", LICENSE_KEY)
    arguments = ["--newrelic-attribute", "build=7", "--newrelic-ca-bundle", "missing.pem"]
    parser = get_parser()
    parsed = [vars(one.parse_args(arguments)) for one in (parser, parser, get_parser())]

    assert parsed[0] == parsed[1] == parsed[2]
    assert parsed[0]["newrelic_attribute"] == [("team", "web"), ("build", "7")]
    assert caplog.records == []
    assert capsys.readouterr() == ("", "")


# -- bad values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["flag", "variable", "own variable", "locust.conf", "pyproject.toml"])
@pytest.mark.parametrize(("name", "text", "reason"), BAD)
def test_a_bad_value_is_a_usage_error(sources, capsys, source, name, text, reason):
    """A bad value ends Locust with code 2 and a line that names the flag or the variable, and the reason."""
    setting = SETTING[name]
    said = usage_error(capsys, sources[source](setting, text))

    assert setting.flag in said or any(variable in said for variable in setting.variables)
    assert reason in said


@pytest.mark.parametrize("source", ["flag", "variable"])
def test_a_run_id_in_another_encoding_is_a_usage_error(sources, capsys, source):
    """Locust could not tell the workers of a run id that is not UTF-8."""
    said = usage_error(capsys, sources[source](SETTING["run-id"], os.fsdecode(b"caf\xe9")))

    assert "must be text in UTF-8" in said


@pytest.mark.parametrize("name", ["disabled", "no-ci-attributes"])
@pytest.mark.parametrize(("source", "prefix"), [("variable", "LOCUST_NEWRELIC_"), ("locust.conf", "newrelic-")])
def test_a_bad_switch_is_a_usage_error(sources, capsys, name, source, prefix):
    """What is neither true nor false does not turn anything off or on."""
    said = usage_error(capsys, sources[source](SETTING[name], "perhaps"))

    assert (prefix + (name if prefix.islower() else name.replace("-", "_").upper())) in said
    assert "true" in said


@pytest.mark.parametrize(("name", "text", "reason"), [*BAD, ("disabled", "perhaps", "must be true or false")])
def test_a_bad_value_in_code(name, text, reason):
    """In code, a bad value is a ConfigError that names the flag, or the variable that it came from."""
    setting = SETTING[name]
    with pytest.raises(ConfigError) as refusal:
        Config(**{setting.field: text})
    assert str(refusal.value).startswith(f"{setting.flag}: ")
    assert reason in str(refusal.value)

    variable = setting.variables[0]
    with pytest.raises(ConfigError) as refusal:
        Config.from_options({}, {variable: text})
    assert str(refusal.value).startswith(f"{variable}: ")


def test_attributes_that_are_no_text():
    """Attributes in code are a mapping with names that New Relic takes."""
    assert Config(attributes={"build": 7}).attributes == {"build": "7"}
    too_many = {f"a{number}": 1 for number in range(101)}
    for attributes in ({"a=b": 1}, {7: 1}, {"end": 1}, [("end", "1")], [7], 7, too_many):
        with pytest.raises(ConfigError, match="--newrelic-attribute: "):
            Config(attributes=attributes)


def test_dimensions_in_code():
    """In code, dimensions are a list of at most five names that New Relic takes, or text."""
    assert Config(dimensions=["a", "b", "a"]).dimensions == Config(dimensions=" a,b ").dimensions == ("a", "b")
    assert len(Config(dimensions="abcde").dimensions) == 1
    assert len(Config(dimensions=list("abcde")).dimensions) == 5
    for dimensions in (list("abcdef"), 7, [7], ["end"], {"a b": 1}):
        with pytest.raises(ConfigError, match="--newrelic-dimension: "):
            Config(dimensions=dimensions)


def test_a_ca_bundle_that_is_missing():
    """Whether the certificates are there is checked where Config is made."""
    with pytest.raises(ConfigError, match=r"--newrelic-ca-bundle: no such file: missing\.pem"):
        Config(ca_bundle="missing.pem")


def test_misspelt_variables():
    """A variable that looks like a setting and is none is told of, with the one that may be meant."""
    environ = {"LOCUST_NEWRELIC_INTERVALL": "5", "LOCUST_NEWRELIC_": "", "LOCUST_NEWRELIC_INTERVAL": "5", "HOME": "/"}
    assert list(misspelt_variables(environ)) == [
        "LOCUST_NEWRELIC_INTERVALL is no setting; did you mean LOCUST_NEWRELIC_INTERVAL?",
        "LOCUST_NEWRELIC_ is no setting; did you mean LOCUST_NEWRELIC_RUN_ID?",
    ]
    assert list(misspelt_variables({variable: "" for setting in SETTINGS for variable in setting.variables})) == []


@pytest.mark.parametrize("name", ["ca_bundle", "spool_dir"])
@pytest.mark.parametrize(
    "value",
    ["x" * 5_000, "a\0b", "-----BEGIN PRIVATE KEY-----\nsecret\n", "-----BEGIN PRIVATE KEY-----\\nsecret", "\ud800"],
)
def test_what_is_no_path(name, value):
    """What can be no path, as the text of a certificate, is refused like a missing one, and not shown."""
    with pytest.raises(ConfigError, match=f"--newrelic-{name.replace('_', '-')}: no such .* no path") as refusal:
        Config(**{name: value})
    assert value.strip() not in str(refusal.value)


def test_a_setting_that_does_not_exist():
    """A misspelt setting in code is refused by name."""
    with pytest.raises(ConfigError, match="no such setting: appname, licence_key"):
        Config.from_options({}, {}, licence_key="x", appname="x", region="us")


@settings(deadline=None)
@given(st.sampled_from(SETTINGS), st.text() | st.from_regex(r"https?://\S*@?\S+") | st.none() | st.integers())
def test_a_check_accepts_or_says_why(setting, value):
    """A check returns what it accepts again unchanged, or raises ConfigError: with others argparse shows the value."""
    try:
        checked = setting.check(value)
    except ConfigError:
        return
    assert setting.check(checked) == checked


@settings(deadline=None)
@given(st.dictionaries(st.from_regex("my_[a-z]{1,9}", fullmatch=True), st.text()))
def test_any_text_can_be_an_attribute(attributes):
    """An attribute's value is any text, blanks around it aside; a checked one is left as it is."""
    config = Config(attributes=attributes)

    assert config.attributes == {name: text.strip() for name, text in attributes.items()}
    assert Config(attributes=config.attributes) == config


@pytest.mark.parametrize("name", GOOD)
def test_checked_once_checked_for_good(name):
    """A value that was checked can be checked again."""
    text, value = GOOD[name]
    assert SETTING[name].check(text) == SETTING[name].check(value) == value


# -- secrets -------------------------------------------------------------------------------------------------------

SECRET = "s3cr3t"


@pytest.mark.parametrize("source", ["flag", "variable", "own variable"])
def test_blanks_around_the_key_are_dropped(sources, source):
    """A key from a file, with its newline, is the key."""
    assert parse(*sources[source](SETTING["license-key"], f" \t{LICENSE_KEY}\r\n")).license_key == LICENSE_KEY


@pytest.mark.parametrize("key", ["{} {}", "{}\t{}", "{}\x7f{}", "{}é{}", "{}\u00a0{}", "{}\u2028{}", "{}😀"])
@pytest.mark.parametrize("source", ["flag", "variable", "own variable", "locust.conf", "pyproject.toml"])
def test_a_bad_key_is_not_shown(sources, capsys, source, key):
    """A key that cannot be sent in a header is refused before anything could print it, the refusal included."""
    if source == "pyproject.toml" and "\x7f" in key:
        key = "{}\\u007f{}"
    said = usage_error(capsys, sources[source](SETTING["license-key"], key.format(SECRET, SECRET)))

    assert "--newrelic-license-key: must be printable ASCII without blanks" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("locust.conf", "newrelic-license-key = [{key}]\n"),
        ("pyproject.toml", '[tool.locust]\nnewrelic-license-key = ["{key}"]\n'),
    ],
)
def test_a_key_in_a_list_is_not_shown(tmp_path, capsys, name, text):
    """A key that a config file has as a list is taken, and not printed as one that cannot be."""
    (tmp_path / name).write_text(text.format(key=LICENSE_KEY))

    assert parse().license_key == LICENSE_KEY
    assert LICENSE_KEY not in "".join(capsys.readouterr())


@pytest.mark.parametrize("make", [
    lambda key: Config(license_key=key),
    lambda key: Config.from_options({}, {}, license_key=key),
    lambda key: Config.from_options({"newrelic_license_key": key}, {}),
    lambda key: Config.from_options({}, {"NEW_RELIC_LICENSE_KEY": key}),
    lambda key: Config.from_options({}, {"LOCUST_NEWRELIC_LICENSE_KEY": key}),
])  # fmt: skip
@pytest.mark.parametrize("key", ["{} {}", "{}\n{}", "{}\0{}", "{}ü"])
def test_a_bad_key_in_code_is_not_shown(make, key):
    """Nor does the exception, or what it came from, hold the key."""
    with pytest.raises(ConfigError, match=r"LICENSE_KEY|license-key") as refusal:
        make(key.format(SECRET, SECRET))

    shown = "".join(traceback.format_exception(refusal.type, refusal.value, refusal.tb))
    assert SECRET not in shown + repr(refusal.value)


def test_the_key_is_not_in_a_configs_text():
    """A Config that somebody prints or logs does not show the key."""
    config = Config(license_key=LICENSE_KEY, app_name="shop")

    for text in (str(config), repr(config), f"{config}"):
        assert "shop" in text
        assert LICENSE_KEY not in text


@pytest.mark.parametrize("source", ["flag", "variable", "locust.conf"])
@pytest.mark.parametrize("url", [
    f"https://user:{SECRET}@collector.example",
    f"https://{SECRET}@collector.example",
    f"https://{SECRET}:@collector.example",
    f"http://user:{SECRET}@collector.example",
    f"http://user:{SECRET}@127.0.0.1",
    f"https://user:{SECRET}@collector.example:99999",
    f"https://user:{SECRET}@[::1",
    f"https://user:{SECRET}@",
    f"https://collector.example?key={SECRET}",
    f"https://collector.example#{SECRET}",
])  # fmt: skip
def test_an_endpoint_with_credentials_is_not_shown(sources, capsys, source, url):
    """A URL with a password, or with what may be one, is refused and not printed."""
    said = usage_error(capsys, sources[source](SETTING["endpoint"], url))

    assert "--newrelic-endpoint: must" in said
    assert SECRET not in said


# -- where events go -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9:80", "localhost:8080", "LOCALHOST", "[::1]:8080"])
def test_plain_http_to_the_machine_itself(host):
    """Plain http is fine where nobody is on the way."""
    assert Config(endpoint=f"http://{host}").url == f"http://{host}"


@pytest.mark.parametrize(
    "host", ["collector.example", "10.0.0.1", "0.0.0.0", "127.0.0.1.example", "localhost.example", "[::2]"]
)
def test_plain_http_to_anywhere_else(host):
    """Over plain http the key could be read on its way, and is not sent."""
    with pytest.raises(ConfigError, match="--newrelic-endpoint: must be https"):
        Config(endpoint=f"http://{host}")


@pytest.mark.parametrize(("key", "region", "host"), [
    ("0123456789abcdef0123456789abcdef01234567", "us", "insights-collector.newrelic.com"),
    ("0123456789abcdef0123456789abcdefFFFFNRAL", "us", "insights-collector.newrelic.com"),
    ("eu01xx0123456789abcdef01234567FFFFNRAL", "eu", "insights-collector.eu01.nr-data.net"),
    ("jpx0123456789abcdef0123456789abFFFFNRAL", "jp", "insights-collector.jp.nr-data.net"),
    ("jpxxxx0123456789abcdef01234567FFFFNRAL", "jp", "insights-collector.jp.nr-data.net"),
    ("gov01x0123456789abcdef0123456789abcdef01", "gov", "gov-insights-collector.newrelic.com"),
    ("foo1234x0123456789abcdef0123456789abcdef", "foo1234", "insights-collector.foo1234.nr-data.net"),
    ("NRAK-X0123456789x", "us", "insights-collector.newrelic.com"),
])  # fmt: skip
def test_the_region_that_a_key_says(key, region, host):
    """Without a region, events go where the key's prefix says, as with New Relic's agents."""
    config = Config(license_key=key)

    assert config.region_name == region
    assert config.url == f"https://{host}"


def test_a_given_region_and_endpoint_win():
    """A region wins over the key's, an endpoint over both."""
    key = "eu01xx0123456789abcdef01234567FFFFNRAL"
    assert Config(license_key=key, region="us").url == "https://insights-collector.newrelic.com"
    assert Config(license_key=key, region="jp").region_name == "jp"
    relayed = Config(license_key=key, region="us", endpoint="https://relay.example")
    assert (relayed.url, relayed.region_name) == ("https://relay.example", None)


# -- CI jobs -------------------------------------------------------------------------------------------------------

JOBS = {
    "GitHub Actions": (
        {"GITHUB_ACTIONS": "true", "GITHUB_RUN_NUMBER": "17", "GITHUB_SHA": "f00d", "GITHUB_REF_NAME": "main"},
        {"ci": "GitHub Actions", "ci_build": "17", "ci_commit": "f00d", "ci_branch": "main"},
    ),
    "a pull request": (
        {"GITHUB_ACTIONS": "true", "GITHUB_REF_NAME": "7/merge", "GITHUB_HEAD_REF": "fix"},
        {"ci": "GitHub Actions", "ci_branch": "fix"},
    ),
    "no pull request": (
        {"GITHUB_ACTIONS": "true", "GITHUB_REF_NAME": "main", "GITHUB_HEAD_REF": ""},
        {"ci": "GitHub Actions", "ci_branch": "main"},
    ),
    "GitLab": (
        {"GITLAB_CI": "true", "CI_PIPELINE_ID": "17", "CI_COMMIT_SHA": "f00d", "CI_COMMIT_REF_NAME": "main"},
        {"ci": "GitLab", "ci_build": "17", "ci_commit": "f00d", "ci_branch": "main"},
    ),
    "Jenkins": (
        {"JENKINS_URL": "http://ci", "BUILD_NUMBER": "17", "GIT_COMMIT": "f00d", "GIT_BRANCH": "origin/main"},
        {"ci": "Jenkins", "ci_build": "17", "ci_commit": "f00d", "ci_branch": "origin/main"},
    ),
    "a multibranch pipeline": (
        {"JENKINS_URL": "http://ci", "BRANCH_NAME": "main", "BUILD_NUMBER": ""},
        {"ci": "Jenkins", "ci_branch": "main"},
    ),
    "no job": ({"CI": "true", "BUILD_NUMBER": "17", "GITHUB_ACTIONS": " ", "GITHUB_SHA": "f00d"}, {}),
}


@pytest.mark.parametrize(("environ", "attributes"), JOBS.values(), ids=JOBS)
def test_ci_attributes(environ, attributes):
    """What a CI system says of build, commit and branch is known; what it does not say is missing."""
    assert ci_attributes(environ) == attributes


# -- all together --------------------------------------------------------------------------------------------------


def test_a_dimension_that_is_an_attribute():
    """One name cannot be both, since the one would hide the other."""
    with pytest.raises(ConfigError, match="--newrelic-dimension: 'tenant' is an attribute"):
        Config(dimensions=("region_of", "tenant"), attributes={"tenant": "a"})


def test_the_defaults():
    """The defaults are those of the documentation; a parser without arguments leaves them."""
    assert Config() == Config(
        license_key=None, region=None, endpoint=None, ca_bundle=None, app_name="Locust", test_name=None, run_id=None,
        attributes={}, dimensions=(), no_ci_attributes=False, interval_s=10.0,
        buckets_ms=(100, 250, 500, 1000, 2500, 5000, 10000), max_series=1000, sample_rate=0.0, output=None,
        flush_timeout_s=10.0, disabled=False,
    )  # fmt: skip
    assert parse() == Config.from_options({}, {}) == Config()
    assert {setting.field for setting in SETTINGS} == {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize(("settings", "is_on"), [
    ({}, False),
    ({"license_key": "x"}, True),
    ({"output": "x"}, True),
    ({"license_key": "x", "output": "x", "disabled": True}, False),
])  # fmt: skip
def test_when_reporting_is_on(settings, is_on):
    """Reporting is on with a key or a file to write to, unless it is disabled."""
    assert Config(**settings).is_on is is_on


def test_code_beats_options_beat_the_environment():
    """What code says goes before parsed options, and those before variables, which count only where no parser was."""
    environ = {"LOCUST_NEWRELIC_RUN_ID": "environ"}

    assert Config.from_options({"newrelic_run_id": "option"}, environ, run_id="code").run_id == "code"
    assert Config.from_options({"newrelic_run_id": "option"}, environ).run_id == "option"
    assert Config.from_options({"newrelic_run_id": None}, environ).run_id is None
    assert Config.from_options({}, environ).run_id == "environ"


@pytest.mark.parametrize("name", GOOD)
def test_none_in_code_is_no_value(name):
    """None in code means none, or the default, whatever options and variables say."""
    setting, (text, _) = SETTING[name], GOOD[name]
    options, environ = {setting.option: text}, {setting.variables[0]: text}

    assert Config.from_options(options, environ, **{setting.field: None}) == Config()
