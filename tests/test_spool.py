"""Events as lines of JSON in a file, also when the disk is full or the file is a pipe."""

import contextlib
import errno
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from types import SimpleNamespace

import gevent
import pytest
from gevent.socket import wait_read, wait_write
from hypothesis import given, settings
from hypothesis import strategies as st

from locust_newrelic import spool
from locust_newrelic.spool import Output, Spool, lines_of, lock, rewritten

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


def cannot_close(file, close=os.close):
    """What a file on a network may do: it is closed, but not all that was written has arrived."""
    close(file)
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


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
    (8, [b'{"a":1}', b'{"a":4}', b""]),
    (12, [b'{"a":1}', b'{"a":2}', b'{"a":4}', b""]),
    (16, [b'{"a":1}', b'{"a":2}', b'{"a":4}', b""]),
    (23, [b'{"a":1}', b'{"a":2}', b'{"a":3}', b'{"a":4}', b""]),
])  # fmt: skip
def test_a_disk_that_is_full_for_a_while(tmp_path, room, lines):
    """When there is room again, it completes the line that it has begun, and goes on with a new one."""
    path = tmp_path / "events.ndjson"
    output = Output(str(path))
    output.put([{"a": 1}])
    with largest_file(room):
        output.put([{"a": 2}, {"a": 3}])
    output.put([{"a": 4}])
    output.close()

    assert path.read_bytes().split(b"\n") == lines
    assert (output.num_written, output.num_lost) == (len(lines) - 1, 5 - len(lines))


@pytest.mark.parametrize(("room", "num_written", "lines"), [
    (8, 1, [b'{"a":1}', b""]),
    (9, 1, [b'{"a":1}', b"{"]),
    (14, 1, [b'{"a":1}', b'{"a":2']),
    (15, 2, [b'{"a":1}', b'{"a":2}']),
])  # fmt: skip
def test_a_disk_that_is_full_until_the_end(tmp_path, room, num_written, lines):
    """An event counts as written only if all of it is in the file."""
    path = tmp_path / "events.ndjson"
    output = Output(str(path))
    with largest_file(room):
        for number in (1, 2, 3):
            output.put([{"a": number}])
        output.close()

    assert path.read_bytes().split(b"\n") == lines
    assert (output.num_written, output.num_lost) == (num_written, 3 - num_written)


def test_writing_in_pieces(monkeypatch, written):
    """When the system takes only a part at a time, all of it is written."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data[:3])))

    assert written([{"a": 1}, {"a": 2}]) == [b'{"a":1}', b'{"a":2}', b""]


def test_a_pipe(tmp_path, caplog):
    """A pipe can be written to, as with /dev/stdout; when its reader has gone, that is a full disk."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with open_unblocking(path) as reader:
        output = Output(str(path))
        output.put([{"a": 1}, {"a": 2}])
        assert reader.read() == b'{"a":1}\n{"a":2}\n'

    output.put([{"a": 3}])
    output.close()
    assert (output.num_written, output.num_lost) == (2, 1)
    assert "Broken pipe" in caplog.text


def open_unblocking(path):
    """A pipe to be read, whether somebody writes to it or not."""
    return open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def test_a_pipe_whose_reader_pauses(tmp_path, monkeypatch, caplog):
    """A full pipe is waited for once, while Locust goes on; what it has no room for is lost, but never half a line."""
    path, waited_s = tmp_path / "pipe", []

    def wait(file, timeout):
        waited_s.append(timeout)
        wait_write(file, timeout=0.1)

    monkeypatch.setattr(spool, "wait_write", wait)
    os.mkfifo(path)
    events = [{"number": number, "text": "x" * 1_000} for number in range(200)]
    with open_unblocking(path) as reader:
        output = Output(str(path))
        other = gevent.spawn(gevent.sleep)
        output.put(events)
        output.put(events)
        goes_on, num_waited = other.ready(), len(waited_s)
        read = reader.read()
        output.put(events[:10])
        read += reader.read()
        output.put(events)
        output.close()
        lines = [json.loads(line) for line in read.splitlines()]

    num_before = len(lines) - 10
    assert goes_on
    assert (num_waited, waited_s) == (1, [spool.LONGEST_FULL_S] * 2)
    assert 0 < num_before < 200
    assert lines == events[:num_before] + events[:10]
    assert output.num_written + output.num_lost == 610
    assert len(lines) < output.num_written < len(lines) + 200
    assert [record.message for record in caplog.records] == [
        "New Relic: --newrelic-output cannot be written: it is full, and not read, or too slowly"
    ]


def test_a_pipe_that_is_read_slowly(tmp_path):
    """Nothing is lost as long as its reader goes on, however little it takes at a time."""
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    events = [{"number": number, "text": "x" * 1_000} for number in range(300)]
    with open_unblocking(path) as reader:

        def read_all():
            while not read or read[-1]:
                wait_read(reader.fileno())
                read.append(reader.read(5_000))

        output, reading = Output(str(path)), gevent.spawn(read_all)
        output.put(events)
        output.close()
        reading.join()

    assert [json.loads(line) for line in b"".join(read).splitlines()] == events
    assert (output.num_written, output.num_lost) == (300, 0)


def test_a_pipe_whose_reader_is_too_slow(tmp_path, monkeypatch):
    """However slowly it is read, no more is waited than ``LONGEST_SLOW_S`` in all, until it has room again."""
    path, now_s = tmp_path / "pipe", [0.0]
    monkeypatch.setattr(spool, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    os.mkfifo(path)
    events = [{"number": number, "text": "x" * 1_000} for number in range(100)]
    with open_unblocking(path) as reader:
        read = []

        def wait(file, timeout):
            now_s[0] += 0.5
            read.append(reader.read(4_096))
            wait_write(file, timeout=timeout)

        monkeypatch.setattr(spool, "wait_write", wait)
        output = Output(str(path))
        for _ in range(10):
            output.put(events)
        after_s = now_s[0]
        while some := reader.read(100_000):
            read.append(some)
        output.put(events[:10])
        lines = b"".join([*read, reader.read(100_000)]).splitlines()
        output.put(events)
        output.close()

    assert after_s == spool.LONGEST_SLOW_S
    assert now_s[0] == 2 * after_s
    assert output.num_written + output.num_lost == 1_110
    assert [json.loads(line) for line in lines][-10:] == events[:10]


def test_an_output_that_cannot_be_closed(tmp_path, monkeypatch, caplog):
    """What a network or a quota has against the file, it may tell as late as at the end; nothing is raised."""
    output = Output(str(tmp_path / "events"))
    output.put([{"a": 1}])
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", cannot_close)
        output.close()

    assert "--newrelic-output cannot be written: Disk quota exceeded" in caplog.text


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


# -- the spool -----------------------------------------------------------------------------------------------------


def events(*numbers, run_id="nightly"):
    return [{"eventType": "LocustSummary", "run_id": run_id, "seq": number} for number in numbers]


def files(folder):
    """What is in the files of a folder: by name, their lines."""
    return {path.name: path.read_bytes().splitlines(keepends=True) for path in folder.iterdir()}


def numbers(path):
    """The events in a spool, by their numbers."""
    with open(path, "rb") as lines:
        return [json.loads(line)["seq"] for line in lines]


def test_a_spool_is_made_only_when_needed(tmp_path):
    """There is no file before an event must be kept, and none once all are delivered; in between it is the owner's."""
    before = os.umask(0)
    try:
        spool = Spool(str(tmp_path))
        assert files(tmp_path) == {}
        places = spool.keep(events(1, 2))
    finally:
        os.umask(before)
    (name,) = files(tmp_path)
    assert name == f"locust-newrelic-nightly-{os.getpid()}.spool.ndjson"
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert numbers(spool.path) == [1, 2]
    spool.settle(places[:1])
    assert (spool.num_pending, list(files(tmp_path))) == (1, [name])
    spool.settle(places[1:])
    assert (spool.num_pending, spool.path, files(tmp_path)) == (0, None, {})
    spool.keep(events(3))
    assert numbers(spool.path) == [3]
    spool.close()


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "a/b c:d", "x" * 200, "ünï"])
def test_any_run_id_names_a_file_in_the_folder(tmp_path, run_id):
    """A run id is the user's: whatever is in it, the file is in the folder."""
    spool = Spool(str(tmp_path))
    spool.keep(events(1, run_id=run_id))
    spool.close()

    (path,) = tmp_path.iterdir()
    assert path.name.startswith("locust-newrelic-")
    assert len(path.name) < 255
    assert json.loads(path.read_text())["run_id"] == run_id


def test_two_processes_in_one_folder_do_not_meet(tmp_path):
    """A second spool of the same run and the same process id, as in containers, has a file of its own."""
    here, there = Spool(str(tmp_path)), Spool(str(tmp_path))
    here.keep(events(1))
    there.keep(events(2))
    here.keep(events(3))
    here.close()
    there.close()

    assert [numbers(path) for path in sorted(tmp_path.iterdir(), key=lambda path: len(path.name))] == [[1, 3], [2]]


def test_what_is_delivered_leaves_the_spool(tmp_path):
    """A closed spool holds what was not delivered, and that alone."""
    spool = Spool(str(tmp_path))
    places = spool.keep(events(*range(10)))
    spool.settle([place for number, place in enumerate(places) if number % 2])
    spool.close()
    spool.close()

    assert numbers(spool.path) == [0, 2, 4, 6, 8]
    assert len(files(tmp_path)) == 1


def test_a_killed_process_leaves_what_it_kept(tmp_path):
    """What was kept survives SIGKILL, and what was delivered of it says so."""
    code = (
        "import os, sys; from locust_newrelic.spool import Spool; spool = Spool(sys.argv[1])\n"
        "places = spool.keep([{'run_id': 'r', 'seq': seq} for seq in range(3)]); spool.settle(places[1:2])\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)

    (lines,) = files(tmp_path).values()
    assert [json.loads(line)["seq"] for line in lines] == [0, 1, 2]
    assert [line[-2:] for line in lines] == [b"\t\n", b" \n", b"\t\n"]


def test_a_spool_is_capped(tmp_path, caplog):
    """Beyond its size a spool takes no more, and says so once; what is in it stays."""
    spool = Spool(str(tmp_path), most_bytes=150)
    assert [place is not None for place in spool.keep(events(1, 2, 3, 4))] == [True, True, False, False]
    assert spool.keep(events(5)) == [None]
    spool.close()

    assert spool.why_not == "spool full"
    assert numbers(spool.path) == [1, 2]
    assert [record.message for record in caplog.records] == [
        f"New Relic: what cannot be sent cannot be kept in {tmp_path} either: there is room for 150 bytes"
    ]


def test_a_spool_that_cannot_be_closed(tmp_path, monkeypatch, caplog):
    """Delivered, it leaves no file all the same; with something left that is said. Nothing is raised."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", cannot_close)
        delivered, left = Spool(str(tmp_path)), Spool(str(tmp_path))
        delivered.settle(delivered.keep(events(1)))
        assert not caplog.messages
        assert files(tmp_path) == {}
        left.keep(events(2))
        left.close()

    assert len(files(tmp_path)) == 1
    assert "Disk quota exceeded" in caplog.text


def test_a_full_disk_and_a_spool(tmp_path, caplog):
    """On a full disk nothing is kept by halves; when there is room again it goes on."""
    spool = Spool(str(tmp_path))
    with largest_file(20):
        assert spool.keep(events(1)) == [None]
    assert files(tmp_path) == {}
    spool.keep(events(2))
    with largest_file(80):
        assert spool.keep(events(3, 4)) == [None, None]
    assert numbers(spool.path) == [2]
    spool.keep(events(5))
    spool.close()

    assert spool.why_not == "spool not writable"
    assert numbers(spool.path) == [2, 5]
    assert len(caplog.records) == 1
    assert "File too large" in caplog.text


def test_a_folder_that_is_gone(tmp_path, caplog):
    """Without its folder a spool keeps nothing, says so once, and raises nothing."""
    spool = Spool(str(tmp_path / "gone"))
    assert spool.keep(events(1)) + spool.keep(events(2)) == [None, None]
    spool.close()

    assert [record.message for record in caplog.records] == [
        f"New Relic: what cannot be sent cannot be kept in {tmp_path}/gone either: No such file or directory"
    ]


def test_a_file_that_somebody_removes(tmp_path, caplog):
    """What is pending is in a file at the end, also if the first was removed; without a folder that is said."""
    spool = Spool(str(tmp_path))
    spool.settle(spool.keep(events(1, 2))[:1])
    os.unlink(spool.path)
    spool.keep(events(3))
    spool.close()
    assert numbers(spool.path) == [2, 3]
    assert not caplog.records

    (tmp_path / "folder").mkdir()
    spool = Spool(str(tmp_path / "folder"))
    spool.keep(events(1))
    shutil.rmtree(tmp_path / "folder")
    spool.close()
    assert [record.message for record in caplog.records] == [
        f"New Relic: what was kept is lost with {spool.path}: No such file or directory"
    ]


def test_what_is_no_json_is_not_kept(tmp_path):
    """An event that cannot be written costs that event."""
    spool = Spool(str(tmp_path))
    places = spool.keep([*events(1), {"run_id": "r", "value": object()}, *events(2)])
    spool.close()

    assert [place is None for place in places] == [False, True, False]
    assert numbers(spool.path) == [1, 2]


@settings(deadline=None)
@given(st.data())
def test_a_spool_holds_exactly_what_is_not_delivered(tmp_path_factory, data):
    """In whatever order events are kept and delivered, the file has those that were not, once each and in order."""
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(str(folder), most_bytes=2000)
    pending, number = {}, 0
    for size in data.draw(st.lists(st.integers(1, 8), max_size=12)):
        places = spool.keep(events(*range(number, number + size)))
        pending |= {place: number + at for at, place in enumerate(places) if place is not None}
        number += size
        done = data.draw(st.lists(st.sampled_from(sorted(pending)), unique=True)) if pending else []
        spool.settle(done)
        for place in done:
            del pending[place]
        assert spool.num_pending == len(pending)
    spool.close()

    left = [number for path in folder.iterdir() for number in numbers(path)]
    assert left == sorted(pending.values())


def test_a_file_is_locked_while_it_is_written(tmp_path):
    """Two may append to a file at once; nobody can have it alone meanwhile, but afterwards."""
    outputs = [Output(str(tmp_path / "events")), Output(str(tmp_path / "events"))]
    with open(tmp_path / "events") as other:
        assert not lock(other.fileno(), shared=False)
        for output in outputs:
            output.close()
        assert lock(other.fileno(), shared=False)
        with pytest.raises(OSError, match="replay has it open"):
            Output(str(tmp_path / "events"))


def test_a_rewriting_that_fails_changes_nothing(tmp_path):
    """When there is no room for the new file, the old one stays as it was, and nothing lies beside it."""
    path = tmp_path / "events"
    path.write_bytes(b"one\ntwo\n")
    file = os.open(path, os.O_RDWR)
    with largest_file(2), pytest.raises(OSError, match="File too large"):
        rewritten(file, str(path), iter([b"three\n"]))

    assert list(lines_of(file)) == [b"one\n", b"two\n"]
    os.close(file)
    assert files(tmp_path) == {"events": [b"one\n", b"two\n"]}


def test_an_output_says_what_is_delivered_elsewhere(tmp_path):
    """With a delivery beside it, each line ends with a blank, which is nothing to a reader of JSON."""
    for delivered in (False, True):
        output = Output(str(tmp_path / "events"), delivered=delivered)
        output.put([{"a": 1}])
        output.close()

    assert (tmp_path / "events").read_bytes() == b'{"a":1}\n{"a":1} \n'
