"""The command ``locust-newrelic``."""

import contextlib
import errno
import importlib.metadata
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import gevent.os
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from locusts import clean_environment, free_port, heed_interrupts
from new_relic import Answer, NewRelic, make_certificate

from locust_newrelic import __version__, cli
from locust_newrelic import spool as spool_module
from locust_newrelic.cli import main
from locust_newrelic.config import SETTINGS
from locust_newrelic.dictionary import EVENT_TYPES
from locust_newrelic.spool import Output, Spool

BUSY = Answer(503, {"Retry-After": "0"})
DAY_S = 24 * 3600


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """A working directory and a home without config files."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def connected(new_relic, monkeypatch):
    """The variables that name the server of the test are set."""
    for name, value in new_relic.environment().items():
        monkeypatch.setenv(name, value)


def events(*numbers, age_s=0):
    now_ms = int((time.time() - age_s) * 1000)
    return [{"eventType": "LocustSummary", "timestamp": now_ms, "run_id": "r", "seq": number} for number in numbers]


def spooled(*numbers, delivered=()):
    """A spool in the working directory with those events, as a killed process leaves it; its path."""
    spool = Spool(".")
    places = spool.keep(events(*numbers))
    spool.settle([places[numbers.index(number)] for number in delivered])
    os.close(spool._file)
    return spool.path


def written(path, put, *, delivered=False):
    """A file of --newrelic-output with those events."""
    output = Output(path, delivered=delivered)
    output.put(put)
    output.close()


def numbers_in(path):
    """The events in a file, by their numbers."""
    with open(path) as lines:
        return [json.loads(line)["seq"] for line in lines]


def received(new_relic):
    """What New Relic got, by the numbers of the events."""
    return [event["seq"] for event in new_relic.events]


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
    assert argument in capsys.readouterr().err


def test_the_data_dictionary(capsys):
    """The page of the documentation is what the command prints; of one type it is a part of that."""
    assert main(["events"]) == 0
    page = capsys.readouterr().out
    assert page == (Path(__file__).parent.parent / "docs" / "events.md").read_text()
    for event_type in EVENT_TYPES:
        assert main(["events", event_type.name]) == 0
        part = capsys.readouterr().out
        assert part in page
        assert part.startswith(f"## `{event_type.name}`\n")


def test_an_unknown_event_type(capsys):
    """The types that there are, are named."""
    with pytest.raises(SystemExit) as end:
        main(["events", "LocustSumary"])

    assert end.value.code == 2
    assert "LocustSummary" in capsys.readouterr().err


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


# -- check ---------------------------------------------------------------------------------------------------------


def test_check(new_relic, connected, capsys):
    """check sends one event, says what it goes through, and that all is well."""
    assert main(["check", "--newrelic-app-name", "Shop"]) == 0

    (event,) = new_relic.events
    assert (event["eventType"], event["appName"], event["locust_newrelic_version"]) == (
        "LocustCheck",
        "Shop",
        __version__,
    )
    said = capsys.readouterr()
    for words in ("Host:    127.0.0.1", "Proxy:   none", "accepted", "All is well", "FROM LocustCheck SELECT *"):
        assert words in said.out
    assert new_relic.license_key not in said.out + said.err


@pytest.mark.parametrize(("wrong", "said"), [
    ({"NEW_RELIC_LICENSE_KEY": "NRAK-0123"}, "user key|HTTP 403. Check the license key"),
    ({"LOCUST_NEWRELIC_ENDPOINT": "https://127.0.0.1:{port}"}, "Connection refused. Check for a firewall"),
    ({"NEW_RELIC_CA_BUNDLE_PATH": "{other}"}, "certificate not trusted|--newrelic-ca-bundle"),
    ({"HTTPS_PROXY": "http://user:s3cr3t@127.0.0.1:{port}"}, "http://127.0.0.1:{port}|proxy: Connection refused"),
    ({"LOCUST_NEWRELIC_ENDPOINT": "{url}/elsewhere"}, "HTTP 404. Check --newrelic-endpoint"),
    ({"LOCUST_NEWRELIC_DISABLED": "true", "NEW_RELIC_LICENSE_KEY": "x"}, "switched off|HTTP 403"),
])  # fmt: skip
def test_check_says_what_is_wrong(new_relic, connected, capsys, monkeypatch, tmp_path, wrong, said):
    """Each fault has its words, what to do about it, and exit code 1; no secret is shown."""
    facts = {"port": free_port(), "other": make_certificate(tmp_path, "other"), "url": new_relic.url}
    for name, value in wrong.items():
        monkeypatch.setenv(name, value.format(**facts))

    assert main(["check"]) == 1
    shown = capsys.readouterr()
    for words in said.format(**facts).split("|"):
        assert words in shown.out
    assert new_relic.events == []
    for secret in (new_relic.license_key, "NRAK-0123", "s3cr3t"):
        assert secret not in shown.out + shown.err


@pytest.mark.parametrize("command", [["check"], ["replay", "x"]])
@pytest.mark.parametrize(("wrong", "said"), [
    ({}, "there is no license key: set NEW_RELIC_LICENSE_KEY"),
    ({"NEW_RELIC_REGION": "mars"}, "us, eu, jp, gov"),
    ({"NEW_RELIC_LICENSE_KEY": "k", "HTTPS_PROXY": "socks5://u:s3cr3t@p"}, "HTTPS_PROXY: only http:// and https://"),
])  # fmt: skip
def test_a_setting_that_cannot_be_used(capsys, monkeypatch, command, wrong, said):
    """A missing key or a bad setting is a usage error."""
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    try:
        code = main(command)
    except SystemExit as end:
        code = end.code

    assert code == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "s3cr3t" not in shown


def test_locusts_config_files_count(new_relic, connected, monkeypatch, capsys):
    """What Locust would read from locust.conf counts; other settings there do not disturb, and a flag wins."""
    monkeypatch.delenv("NEW_RELIC_LICENSE_KEY")
    with open("locust.conf", "w") as conf:
        conf.write(f"host = http://shop.example\nusers = 5\nnewrelic-license-key = {new_relic.license_key}\n")
    assert main(["check"]) == 0
    assert main(["check", "--newrelic-license-key", "another"]) == 1
    assert "HTTP 403" in capsys.readouterr().out


# -- replay --------------------------------------------------------------------------------------------------------


def test_replay_sends_a_spool_and_removes_it(new_relic, connected, capsys):
    """All of a spool is sent once, and the file is gone; a second call says that there is none, and sends nothing."""
    path = spooled(*range(2500))
    assert main(["replay", path]) == 0
    assert received(new_relic) == list(range(2500))
    assert [len(batch) for batch in new_relic.batches] == [1000, 1000, 500]
    assert os.listdir() == []
    assert capsys.readouterr().out == f"{path}: 2500 events sent\n"

    assert main(["replay", path]) == 1
    assert "No such file" in capsys.readouterr().err
    assert len(new_relic.events) == 2500


@pytest.mark.parametrize("name", ["x.spool.ndjson", "events"])
def test_a_large_file_is_not_written_anew_for_each_part(new_relic, connected, monkeypatch, capsys, name):
    """What was sent of a large file is marked in place, so that the work grows with its size only."""
    monkeypatch.setattr(spool_module, "LARGE_BYTES", 1000)
    monkeypatch.setattr(cli, "EVENTS_AT_ONCE", 10)
    bytes_copied = []
    rewritten = spool_module.rewritten

    def counted(file, path, pieces):
        new = rewritten(file, path, pieces)
        bytes_copied.append(os.fstat(new).st_size)
        return new

    monkeypatch.setattr(spool_module, "rewritten", counted)
    written(name, events(*range(1000)))
    size = os.path.getsize(name)
    assert main(["replay", name]) == 0

    assert received(new_relic) == list(range(1000))
    assert len(new_relic.batches) == 100
    assert sum(bytes_copied) < 3 * size
    assert capsys.readouterr() == (f"{name}: 1000 events sent\n", "")
    assert os.path.exists(name) == (name == "events")


def test_what_was_delivered_before_a_crash_is_not_sent_again(new_relic, connected):
    """A killed process leaves delivered events among the others: they are not sent."""
    assert main(["replay", spooled(1, 2, 3, 4, delivered=[2, 3])]) == 0
    assert main(["replay", spooled(5, 6, delivered=[5])]) == 0
    assert received(new_relic) == [1, 4, 6]
    assert os.listdir() == []


def test_replay_sends_an_output_file_once(new_relic, connected, capsys):
    """A file of a run without a key is sent, stays as it is to a reader, and is refused a second time."""
    written("events", events(*range(1500)))
    os.chmod("events", 0o640)
    assert main(["replay", "events"]) == 0
    assert received(new_relic) == numbers_in("events") == list(range(1500))
    assert os.stat("events").st_mode & 0o777 == 0o640
    capsys.readouterr()
    assert main(["replay", "events"]) == 1
    assert "refused: its 1500 events were delivered already" in capsys.readouterr().err
    assert len(new_relic.events) == 1500

    written("events", events(1500))
    assert main(["replay", "events"]) == 0
    assert received(new_relic) == list(range(1501))
    assert os.listdir() == ["events"]


def test_an_output_file_of_a_run_with_a_key_is_refused(new_relic, connected, capsys):
    """Its events were delivered: only with --force they are sent again, and the file does not change."""
    written("events", events(1, 2), delivered=True)
    before = Path("events").read_text()
    assert main(["replay", "events"]) == 1
    assert "--force" in capsys.readouterr().err
    assert new_relic.events == []
    assert main(["replay", "--force", "events"]) == 0
    assert received(new_relic) == [1, 2]
    assert Path("events").read_text() == before


@pytest.mark.parametrize("large_bytes", [0, 10**6])
@pytest.mark.parametrize("name", ["x.spool.ndjson", "events"])
def test_what_cannot_be_sent_stays(new_relic, connected, capsys, monkeypatch, name, large_bytes):
    """Unreadable lines, named by number, and events older than 24 h are left in the file, as they are."""
    monkeypatch.setattr(spool_module, "LARGE_BYTES", large_bytes)
    bad = ["not JSON", '{"seq": 1}', '["eventType"]', '{"eventType":"A","x":NaN}', '{"eventType":"a b"}', "[" * 10**5]
    old = json.dumps(events(0, age_s=DAY_S + 60)[0])
    good = [json.dumps(event) for event in events(1, 2, 3)]
    half = good[0][:20]
    with open(name, "w") as file:
        file.write("\n".join([good[0], *bad, old, "", good[1], half]))
    assert main(["replay", name]) == 1

    assert received(new_relic) == [1, 2]
    assert capsys.readouterr().out == (
        f"{name}: 2 events sent, 1 are more than 24 h from now and left,"
        " lines 2, 3, 4, 5, 6, 7, 11 unreadable and left\n"
    )
    left = [line for line in Path(name).read_text().split("\n") if not line.endswith(" ")]
    assert left == [*bad, old, *([""] if name == "events" else []), half]
    assert main(["replay", name]) == 1
    assert received(new_relic) == [1, 2]


def test_a_dry_run_changes_nothing(new_relic, capsys):
    """--dry-run says what would be sent, without a license key."""
    path = spooled(1, 2, 3, delivered=[1])
    before = Path(path).read_bytes()
    assert main(["replay", "--dry-run", path]) == 0
    assert capsys.readouterr().out == f"{path}: 2 events would be sent, 1 were delivered already\n"
    assert Path(path).read_bytes() == before
    assert new_relic.posts == []


def test_replay_retries(new_relic, connected, capsys):
    """503, a broken connection and a lost answer are retried by the same rules; 413 splits, down to one event."""
    new_relic.answers = [BUSY, Answer(413), BUSY, Answer(200), Answer(413), Answer(413)]
    path = spooled(1, 2, 3)
    assert main(["replay", path]) == 1
    assert received(new_relic) == [1, 3]
    assert numbers_in(path) == [2]
    shown = capsys.readouterr()
    assert shown.out == f"{path}: 2 events sent, 1 refused and left\n"
    assert "HTTP 413. This event alone is larger" in shown.err


@pytest.mark.parametrize(("status", "advice"), [
    (302, "Check --newrelic-endpoint"),
    (401, "Check the license key"),
    (403, "Check the license key"),
    (404, "Check --newrelic-endpoint"),
    (405, "Check --newrelic-endpoint"),
])  # fmt: skip
def test_a_refusal_of_all_ends_the_replay(new_relic, connected, capsys, status, advice):
    """A wrong key or address is about all events: no further POST is made, the reason is said, and the files stay."""
    new_relic.always = Answer(status)
    paths = [spooled(1, 2), spooled(3)]
    assert main(["replay", *paths]) == 1
    assert len(new_relic.posts) == 1
    shown = capsys.readouterr().err
    assert f"127.0.0.1: HTTP {status}. {advice}" in shown
    assert "What is not sent is still in the file." in shown
    assert [numbers_in(path) for path in paths] == [[1, 2], [3]]


def test_replay_gives_up_after_its_timeout(new_relic, connected, capsys):
    """When New Relic takes nothing for so long, replay ends, and keeps what is left."""
    new_relic.answers = [Answer(200)]
    path = spooled(*range(1001))
    new_relic.answers += [Answer(429, {"Retry-After": "60"})]
    assert main(["replay", "--timeout", "30", path]) == 1
    assert "asks to wait 60 s, beyond the 30 s of --timeout: HTTP 429" in capsys.readouterr().err
    assert numbers_in(path) == [1000]
    new_relic.always = BUSY
    assert main(["replay", "--timeout", "0", path]) == 1
    assert "took nothing for the 0 s of --timeout: HTTP 503" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.spool.ndjson", "events"])
def test_a_file_that_cannot_be_written_anew(new_relic, connected, capsys, monkeypatch, name):
    """On a full disk, or in a folder of somebody else, nothing is sent of which that could not be noted."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool_module, "rewritten", full)
    monkeypatch.setattr(cli, "EVENTS_AT_ONCE", 10)
    old = json.dumps(events(99, age_s=DAY_S + 60)[0])
    written(name, events(*range(25)))
    with open(name, "a") as file:
        file.write(f"{old}\n")
    Path(name).write_text(Path(name).read_text().replace("}\n", "}\t\n"))
    for _ in range(3):
        assert main(["replay", name]) == 1
    assert received(new_relic) == list(range(25))
    said = "what was sent is marked in it, but cannot be removed: No space left"
    assert (said in capsys.readouterr().err) == name.startswith("x.")

    written("without room", events(1, 2))
    assert main(["replay", "without room"]) == 1
    assert "without room: No space left on device" in capsys.readouterr().err
    assert received(new_relic) == list(range(25))


def test_a_spool_that_cannot_be_removed(new_relic, connected, capsys, monkeypatch):
    """All of it is sent, once, and marked; that the file stays is said."""
    path = spooled(1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda _: os.open("/", os.O_RDWR))
        assert main(["replay", path]) == 0
        assert main(["replay", path]) == 0
    assert received(new_relic) == [1, 2]
    assert "cannot be removed: Is a directory" in capsys.readouterr().err
    assert main(["replay", path]) == 0
    assert (os.listdir(), received(new_relic)) == ([], [1, 2])


def test_an_interrupt_while_a_spool_is_written_anew(new_relic, connected, monkeypatch):
    """Right after it, the spool holds whole lines, and stays as it is."""
    monkeypatch.setattr(spool_module, "LARGE_BYTES", 0)
    monkeypatch.setattr(cli, "EVENTS_AT_ONCE", 1)
    path = "x.spool.ndjson"
    old = events(*range(38), age_s=DAY_S + 60)
    written(path, [*old[:19], *events(10**9), *old[19:]])
    rewrite = spool_module.Stored._rewrite

    def interrupted(it, pieces):
        rewrite(it, pieces)
        if len(numbers_in(path)) < 39:
            raise KeyboardInterrupt

    monkeypatch.setattr(spool_module.Stored, "_rewrite", interrupted)
    assert main(["replay", path]) == 130
    assert received(new_relic) == [10**9]
    assert numbers_in(path) == list(range(38))


def test_a_large_spool_of_which_nothing_can_be_sent(new_relic, connected, monkeypatch):
    """What is done of it is not looked through again with each part."""
    monkeypatch.setattr(spool_module, "LARGE_BYTES", 0)
    monkeypatch.setattr(cli, "EVENTS_AT_ONCE", 1)
    monkeypatch.setattr(cli, "BYTES_AT_ONCE", 1)
    written("old.spool.ndjson", events(*range(100), age_s=DAY_S + 60))
    looked, remove_marked = [], spool_module.Stored._remove_marked
    monkeypatch.setattr(spool_module.Stored, "_remove_marked", lambda it: looked.append(it) or remove_marked(it))
    assert main(["replay", "old.spool.ndjson"]) == 1
    assert numbers_in("old.spool.ndjson") == list(range(100))
    assert len(looked) < 10


def test_a_link_to_an_output_file(new_relic, connected):
    """What a link is called does not make a spool, which is removed, of what it leads to."""
    written("events", events(1, 2))
    os.symlink("events", "link.spool.ndjson")
    assert main(["replay", "link.spool.ndjson"]) == 0
    assert received(new_relic) == numbers_in("events") == [1, 2]


def test_an_interrupted_force_goes_on_without_it(new_relic, connected):
    """What --force has not sent yet is to be sent from then on, and nothing is sent a third time."""
    written("events", events(*range(1500)), delivered=True)
    new_relic.answers = [Answer(200), Answer(403)]
    assert main(["replay", "--force", "events"]) == 1
    assert received(new_relic) == list(range(1000))
    assert main(["replay", "events"]) == 0
    assert received(new_relic) == list(range(1500))
    assert main(["replay", "events"]) == 1
    assert len(new_relic.events) == 1500


def test_a_name_that_cannot_be_shown(new_relic, connected):
    """Whatever a file is called, it is sent, and so are those behind it."""
    for name in (b"b\xe4.spool.ndjson", "ä.spool.ndjson".encode()):
        os.rename(spooled(1), name)
    command = [sys.executable, "-m", "locust_newrelic.cli", "replay", *sorted(map(os.fsdecode, os.listdir(b".")))]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    shown = subprocess.run(command, env=environment, capture_output=True, check=False)

    assert shown.returncode == 0
    assert b"UnicodeEncodeError" not in shown.stderr  # gevent may say something of its own on Python 3.10
    assert shown.stdout.count(b"1 events sent") == 2
    assert len(new_relic.events) == 2


def test_a_file_that_is_being_written(new_relic, connected, capsys):
    """The spool of a running Locust is left alone; other files are still sent."""
    spool = Spool(".")
    spool.keep(events(1))
    other = spooled(2)
    assert main(["replay", spool.path, other, "missing", "."]) == 1
    shown = capsys.readouterr().err
    assert f"{spool.path}: a running Locust or another replay has it open" in shown
    assert "missing: No such file" in shown
    assert ".: Is a directory" in shown
    assert received(new_relic) == [2]
    spool.close()
    assert main(["replay", spool.path]) == 0
    assert received(new_relic) == [2, 1]


class InterruptError(Exception):
    """Stands for the end of the process."""


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), is_spool=st.booleans(), large_bytes=st.sampled_from([0, 500, 10**6]))
def test_an_interrupted_replay_goes_on_where_it_was(tmp_path_factory, monkeypatch, data, is_spool, large_bytes):
    """Interrupted as often as you like, and with any answers, replays together send each event once."""
    arrived = []
    answers = st.sampled_from(
        ["accepted", "accepted", "retry", "split", "refused", "interrupt before", "interrupt after"]
    )

    class Unreliable:
        host = "new-relic.example"

        def __init__(self, *_, **__):
            pass

        def send(self, batch, timeout_s):
            answer = data.draw(answers)
            if answer == "interrupt before":
                raise InterruptError
            if answer == "accepted":
                arrived.extend(event["seq"] for event in batch)
                return cli.Outcome(cli.Verdict.ACCEPTED)
            if answer == "retry":
                return cli.Outcome(cli.Verdict.RETRY, "HTTP 503", 0.0)
            if answer == "split":
                return cli.Outcome(cli.Verdict.SPLIT, "HTTP 413")
            return cli.Outcome(cli.Verdict.REFUSED, "HTTP 400" if answer == "refused" else "HTTP 403")

        def close(self):
            pass

    monkeypatch.setattr(cli, "Transport", Unreliable)
    monkeypatch.setattr(cli, "EVENTS_AT_ONCE", 3)
    monkeypatch.setattr(spool_module, "LARGE_BYTES", large_bytes)
    monkeypatch.setenv("NEW_RELIC_LICENSE_KEY", "key")
    path = str(tmp_path_factory.mktemp("replay") / ("x.spool.ndjson" if is_spool else "x"))
    written(path, events(*range(10)))
    with open(path, "a") as file:
        file.write("not JSON\n\n")
    written(path, events(*range(10, 20)))
    for _ in range(3):
        with contextlib.suppress(InterruptError):
            main(["replay", path])
        left = []
        if os.path.exists(path):
            with open(path) as lines:
                left = [line for line in lines if not line.endswith(" \n")]
            assert "not JSON\n" in left
        seqs = [json.loads(line)["seq"] for line in left if line.startswith("{")]
        assert sorted([*arrived, *seqs]) == list(range(20))


class Terminal:
    """A replay in a terminal."""

    def __init__(self, path):
        self._terminal, its_end = pty.openpty()
        command = [sys.executable, "-m", "locust_newrelic.cli", "replay", path]
        self.process = subprocess.Popen(command, stderr=its_end, stdout=subprocess.DEVNULL, preexec_fn=heed_interrupts)
        os.close(its_end)
        self.shown = b""

    def read_until(self, words):
        """Wait until it shows that, or until its end."""
        with contextlib.suppress(OSError):  # its other end is closed
            while words not in self.shown:
                self.shown += gevent.os.tp_read(self._terminal, 1000)  # the server runs meanwhile

    def wait(self):
        """Wait for its end; the exit code."""
        self.read_until(b"never")
        os.close(self._terminal)
        return self.process.wait(60)


def test_progress_on_a_terminal(new_relic, connected):
    """On a terminal replay shows how far it is; a second Ctrl-C ends it at once, and the rest is still there."""
    path = spooled(*range(2500))
    new_relic.answers = [Answer(200), NewRelic.hanging()]
    terminal = Terminal(path)
    new_relic.wait_for(lambda server: len(server.posts) == 2, "the second part")
    terminal.process.send_signal(2)
    terminal.read_until(b"Ctrl-C again")
    terminal.process.send_signal(2)

    assert terminal.wait() == 130
    assert b"1000 of 2500 events (40%)" in terminal.shown
    assert b"the same command sends the rest" in terminal.shown
    assert numbers_in(path) == list(range(1000, 2500))


def test_an_interrupt_waits_for_the_answer(new_relic, connected):
    """After one Ctrl-C what is on its way is still noted, so that nothing is sent twice."""
    path = spooled(*range(2500))
    new_relic.answers = [Answer(200), Answer(200, late=True)]
    terminal = Terminal(path)
    new_relic.wait_for(lambda server: len(server.posts) == 2, "the second part, which is accepted")
    terminal.process.send_signal(2)
    terminal.read_until(b"Ctrl-C again")
    new_relic.release()

    assert terminal.wait() == 130
    assert received(new_relic) == list(range(2000))
    assert numbers_in(path) == list(range(2000, 2500))


def test_an_interrupt_in_the_middle_of_a_line(connected, new_relic, monkeypatch):
    """A Ctrl-C that comes while a line is written is one like any other."""

    class Interrupting(io.RawIOBase):
        """A terminal at which somebody presses Ctrl-C as soon as they see why it waits."""

        def writable(self):
            return True

        def write(self, text):
            if b"trying again" in bytes(text):
                signal.raise_signal(signal.SIGINT)
            return len(text)

    path = spooled(1)
    new_relic.always = Answer(429, {"Retry-After": "200"})
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(Interrupting()), line_buffering=True))

    assert main(["replay", path]) == 130
    assert numbers_in(path) == [1]


@pytest.mark.parametrize(("flags", "said"), [
    (["--dry-run", "--force"], ""),
    ([], " What was sent is noted; the same command sends the rest."),
    (["--force"], " What was sent is noted; the same command without --force sends the rest."),
])  # fmt: skip
def test_what_an_interrupt_leaves(connected, monkeypatch, capsys, flags, said):
    """It is said how to send the rest: --force would send all of it once more."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "Stored", interrupt)
    assert main(["replay", *flags, "events"]) == 130
    assert capsys.readouterr().err == f"\nInterrupted.{said}\n"


def test_an_interrupt_ends_a_pause(new_relic, connected):
    """While replay waits before it tries again, Ctrl-C ends it at once."""
    path = spooled(1)
    new_relic.always = Answer(429, {"Retry-After": "200"})
    terminal = Terminal(path)
    terminal.read_until(b"trying again in 200 s")
    terminal.process.send_signal(2)

    assert terminal.wait() == 130
    assert numbers_in(path) == [1]
