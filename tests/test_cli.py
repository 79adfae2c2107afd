"""The command ``locust-newrelic``."""

import importlib.metadata
import subprocess
import sys

import pytest
from locusts import clean_environment

from locust_newrelic import __version__
from locust_newrelic.cli import main
from locust_newrelic.config import SETTINGS


def assert_lists_all_options(text):
    words = text.replace(",", " ").replace(".\n", " ").split()
    for setting in SETTINGS:
        assert {setting.flag, *setting.variables} <= set(words), setting.name
    assert "import locust_newrelic" in text


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_options_are_listed(capsys, arguments):
    """Without arguments, and with --help, all options of Locust and their variables are listed."""
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()

    assert code == 0
    assert_lists_all_options(said.out)
    assert max(map(len, said.out.splitlines())) <= 120
    assert said.err == ""


def test_the_version(capsys):
    """--version prints the version that is installed."""
    with pytest.raises(SystemExit) as end:
        main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out == f"locust-newrelic {__version__}\n"
    assert importlib.metadata.version("locust-newrelic") == __version__


@pytest.mark.parametrize("argument", ["chekc", "--newrelic-region"])
def test_an_unknown_argument(capsys, argument):
    """What the command does not know is a usage error."""
    with pytest.raises(SystemExit) as end:
        main([argument])

    assert end.value.code == 2
    assert f"unrecognized arguments: {argument}" in capsys.readouterr().err


def test_as_a_process():
    """The command runs by itself, with the options listed and no fault of ours."""
    command = [sys.executable, "-m", "locust_newrelic.cli"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment(), timeout=60)

    assert_lists_all_options(run.stdout)
    assert "/locust_newrelic/" not in run.stderr  # in a traceback; gevent has some of its own on Python 3.10


def test_the_command_is_installed():
    """Installing the package installs the command."""
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="locust-newrelic")
    assert command.load() is main
