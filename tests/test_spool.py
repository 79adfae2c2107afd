"""Events as lines of JSON in a file, also when the disk is full or the file is a pipe."""

import contextlib
import json
import os
import resource
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locust_newrelic.spool import Output

values = st.text() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
some_events = st.lists(st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=3), max_size=3)


@pytest.fixture
def written(tmp_path):
    """Puts lists of events into one file, opened once, and returns its lines."""

    def written(*puts, name="events.ndjson"):
        output = Output(str(tmp_path / name))
        for events in puts:
            output.put(events)
        output.close()
        return (tmp_path / name).read_bytes().split(b"\n")

    return written


@contextlib.contextmanager
def largest_file(size):
    """Nothing can be written beyond that size, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@settings(deadline=None)
@given(some_events)
def test_what_is_put_can_be_read(tmp_path_factory, puts):
    """Each event is one line of JSON, in order, whatever text it holds."""
    path = tmp_path_factory.mktemp("output") / "events.ndjson"
    output = Output(str(path))
    for events in puts:
        output.put(events)
    output.close()
    *lines, end = path.read_bytes().split(b"\n")

    assert [json.loads(line) for line in lines] == [event for events in puts for event in events]
    assert end == b""
    assert (output.num_written, output.num_lost) == (len(lines), 0)


def test_events_are_in_the_file_at_once(tmp_path):
    """What was put is there for others to read, and safe if the process is killed."""
    path = tmp_path / "events.ndjson"
    output = Output(str(path))
    output.put([{"a": 1}])

    assert path.read_text() == '{"a":1}\n'
    output.close()


def test_only_the_owner_may_read_it(tmp_path, written):
    """A new file has mode 0600 whatever the umask is."""
    before = os.umask(0)
    try:
        written([{"a": 1}])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "events.ndjson").stat().st_mode) == 0o600


def test_a_second_run_appends(written):
    """A file that is there is continued."""
    written([{"a": 1}])
    assert written([{"a": 2}]) == [b'{"a":1}', b'{"a":2}', b""]


@pytest.mark.parametrize(("there", "lines"), [
    (b"", [b'{"a":2}', b""]),
    (b'{"a":1}\n', [b'{"a":1}', b'{"a":2}', b""]),
    (b'{"a":1}\n{"a"', [b'{"a":1}', b'{"a"', b'{"a":2}', b""]),
])  # fmt: skip
def test_half_a_line(tmp_path, written, there, lines):
    """After half a line, which a crash has left, a new line begins; after a whole one no empty line."""
    (tmp_path / "events.ndjson").write_bytes(there)
    assert written([{"a": 2}]) == lines


def test_a_full_disk(caplog):
    """A full disk is said once, and what it costs is counted; nothing is raised."""
    output = Output("/dev/full")
    for _ in range(3):
        output.put([{"a": 1}, {"a": 2}])
    output.close()

    assert (output.num_written, output.num_lost) == (0, 6)
    assert [record.message for record in caplog.records] == [
        "New Relic: --newrelic-output cannot be written: No space left on device"
    ]


@pytest.mark.parametrize(("room", "lines"), [
    (16, [b'{"a":1}', b'{"a":2}', b'{"a":4}', b""]),
    (12, [b'{"a":1}', b'{"a"', b'{"a":4}', b""]),
    (8, [b'{"a":1}', b'{"a":4}', b""]),
])  # fmt: skip
def test_a_disk_that_is_full_for_a_while(tmp_path, room, lines):
    """When there is room again, it goes on with a new line, wherever it had to stop."""
    path = tmp_path / "events.ndjson"
    output = Output(str(path))
    output.put([{"a": 1}])
    with largest_file(room):
        output.put([{"a": 2}, {"a": 3}])
    output.put([{"a": 4}])
    output.close()

    assert path.read_bytes().split(b"\n") == lines
    assert output.num_written + output.num_lost == 4


def test_writing_in_pieces(monkeypatch, written):
    """When the system takes only a part at a time, all of it is written."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data[:3])))

    assert written([{"a": 1}, {"a": 2}]) == [b'{"a":1}', b'{"a":2}', b""]


def test_a_pipe(tmp_path, caplog):
    """A pipe can be written to, as with /dev/stdout; when its reader has gone, that is a full disk."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as reader:
        output = Output(str(path))
        output.put([{"a": 1}, {"a": 2}])
        assert reader.readline() + reader.readline() == b'{"a":1}\n{"a":2}\n'

    output.put([{"a": 3}])
    output.close()
    assert (output.num_written, output.num_lost) == (2, 1)
    assert "Broken pipe" in caplog.text


def test_a_device(tmp_path):
    """A device can be written to: it is no file with a last line."""
    output = Output("/dev/null")
    output.put([{"a": 1}])
    output.close()
    assert output.num_written == 1


@pytest.mark.parametrize("path", ["missing/events.ndjson", "."])
def test_a_file_that_cannot_be_opened(tmp_path, path):
    """A missing folder, or a folder in place of the file, is an OSError at once."""
    with pytest.raises(OSError, match=r"No such file|Is a directory"):
        Output(str(tmp_path / path))


def test_what_is_put_after_close(tmp_path):
    """A closed output writes nothing more, even where its file descriptor is another file's by now."""
    output = Output(str(tmp_path / "events"))
    output.close()
    output.close()
    with open(tmp_path / "another", "w") as another:
        output.put([{"a": 1}])
        another.write("theirs")

    assert (tmp_path / "another").read_text() == "theirs"
    assert (output.num_written, output.num_lost) == (0, 1)


def test_a_pipe_that_nobody_reads(tmp_path):
    """To open it fails at once, instead of waiting for a reader while Locust stands still."""
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match="No such device"):
        Output(str(tmp_path / "pipe"))
