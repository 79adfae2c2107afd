"""The queue on the way out: each event arrives once and in order, or is counted with the reason why not."""

import json
import logging
import random
import time
from base64 import b64encode
from collections import Counter, deque
from itertools import pairwise

import gevent
import pytest
from gevent.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st
from new_relic import Answer, NewRelic

from locust_newrelic import delivery as module
from locust_newrelic.delivery import CALL_TIMEOUT_S, LONGEST_BACKOFF_S, Delivery, Patience, backoff_s
from locust_newrelic.spool import Spool
from locust_newrelic.transport import Outcome, Transport, Verdict

BATCH_SIZE = 100
PATIENCE_S = 60.0
ACCEPTED = Outcome(Verdict.ACCEPTED)
BUSY = Outcome(Verdict.RETRY, "HTTP 503", 0.0)
TOO_LARGE = Outcome(Verdict.SPLIT, "HTTP 413")
FORBIDDEN, INVALID = Outcome(Verdict.REFUSED, "HTTP 403"), Outcome(Verdict.REFUSED, "HTTP 400")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    """A tenth of what is sent at once otherwise, so that some hundred events are several batches."""
    monkeypatch.setattr(module, "BATCH_SIZE", BATCH_SIZE)


class Fake:
    """A way to New Relic that gives the answers it is told and accepts all after them."""

    host = "new-relic.example"

    def __init__(self, *answers):
        self.answers = deque(answers)
        self.stored, self.refused, self.sizes, self.timeouts_s = [], [], [], []
        self.num_closed = 0
        self.called = Event()

    def send(self, batch, timeout_s):
        self.sizes.append(len(batch))
        self.timeouts_s.append(timeout_s)
        self.called.set()
        outcome = self.answer(batch, timeout_s)
        if outcome.verdict is Verdict.ACCEPTED:
            self.stored += batch
        elif outcome.verdict is Verdict.REFUSED or (outcome.verdict is Verdict.SPLIT and len(batch) == 1):
            self.refused += batch
        return outcome

    def answer(self, batch, timeout_s):
        return self.answers.popleft() if self.answers else ACCEPTED

    def close(self):
        self.num_closed += 1


class Hanging(Fake):
    """Gives no answer until it is released."""

    def __init__(self, *answers):
        super().__init__(*answers)
        self.released = Event()

    def answer(self, batch, timeout_s):
        self.released.wait()
        return super().answer(batch, timeout_s)


@pytest.fixture(autouse=True)
def _numbers_stand_for_events(monkeypatch):
    """Most of these tests do not look into an event: a number is enough of one."""
    characters = module._characters
    monkeypatch.setattr(module, "_characters", lambda event: 400 if isinstance(event, int) else characters(event))


@pytest.fixture(autouse=True)
def _nothing_hangs():
    """What never ends fails."""
    with gevent.Timeout(2 * PATIENCE_S):
        yield


@pytest.fixture
def log(caplog):
    """The messages that a user sees, by level, so far."""
    caplog.set_level(logging.DEBUG, "locust_newrelic")

    def log(level=None):
        shown = [record for record in caplog.records if record.levelno in ([level] if level else range(20, 60))]
        return [record.getMessage() for record in shown]

    return log


@pytest.fixture
def spool(tmp_path):
    """A spool in a folder of its own."""
    (tmp_path / "spool").mkdir()
    return Spool(str(tmp_path / "spool"))


def kept(folder):
    """The events in the spools of a folder that are still to be sent, and those that only await their removal."""
    lines = [line for path in sorted(folder.iterdir()) for line in path.read_bytes().splitlines()]
    pending = [json.loads(line) for line in lines if not line.endswith(b" ")]
    return pending, [json.loads(line) for line in lines if line.endswith(b" ")]


@pytest.fixture
def connected(new_relic):
    """A delivery to the server of the test."""
    made = Delivery(
        Transport(
            new_relic.license_key, new_relic.url, ca_bundle=str(new_relic.certificate), version="1", clock=time.time
        )
    )
    yield made
    made.close(0)


def events(start, stop):
    """Events with the numbers from *start* on."""
    now_ms = int(time.time() * 1000)
    return [{"eventType": "LocustSummary", "timestamp": now_ms, "number": number} for number in range(start, stop)]


def total(delivery):
    return delivery.num_sent + sum(delivery.lost.values()) + delivery.num_queued


def closed(fake, put, timeout_s=PATIENCE_S, **options):
    """A delivery that was given those events, and then closed."""
    made = Delivery(fake, **options)
    made.put(put)
    made.close(timeout_s)
    return made


# -- with a real server --------------------------------------------------------------------------------------------


def test_all_arrive_once_and_in_order(new_relic, connected):
    """What is put, by and by or at once, arrives once and in order, in batches of limited size."""
    put = events(0, 3 * BATCH_SIZE + 50)
    connected.put(put[:1])
    new_relic.wait_for(lambda server: server.events, "an event, without any further put")
    connected.put(put[1:7])
    connected.put(iter(put[7:200]))
    connected.put([])
    gevent.sleep(0)
    connected.put(put[200:])
    connected.close(PATIENCE_S)

    assert new_relic.events == put
    assert max(map(len, new_relic.batches)) == BATCH_SIZE
    assert (connected.num_sent, connected.lost, connected.num_queued) == (len(put), Counter(), 0)


def test_a_server_that_is_busy_for_a_while(new_relic, connected, log):
    """After 503 for a while all arrive; a user reads one warning, and once that it works again."""
    new_relic.answers = [Answer(503, {"Retry-After": "0"})] * 5
    put = events(0, 250)
    connected.put(put)
    new_relic.wait_for(lambda server: len(server.events) == 250, "all events")
    connected.close(PATIENCE_S)

    assert new_relic.events == put
    warning, relief = log()
    assert warning.startswith("New Relic: events cannot be sent to 127.0.0.1 now: HTTP 503. They are kept (250) and")
    assert relief == "New Relic: 127.0.0.1 takes events again"
    assert len(log(logging.DEBUG)) == 4 + 3  # the other failures, and the accepted batches


def test_a_server_that_is_down_for_a_while(monkeypatch, new_relic, connected, log):
    """What is put while nobody listens arrives when somebody does, without a Retry-After to go by."""
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.01)
    new_relic.go_down()
    put = events(0, 10)
    connected.put(put)
    while not log():
        gevent.sleep(0.01)
    assert "Connection refused" in log()[0]
    new_relic.come_back()
    new_relic.wait_for(lambda server: len(server.events) == 10, "all events")
    connected.close(PATIENCE_S)

    assert new_relic.events == put
    assert len(log()) == 2


def test_a_batch_that_is_too_large(monkeypatch, new_relic, connected):
    """A batch of more than a million bytes is sent in parts, in order."""
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 10**9)
    noise = random.Random(0)
    texts = [[b64encode(noise.randbytes(3000)).decode() for _ in range(4)] for _ in range(100)]
    put = [event | dict(zip("abcd", text, strict=True)) for event, text in zip(events(0, 100), texts, strict=True)]
    connected.put(put)
    connected.close(PATIENCE_S)

    assert new_relic.events == put
    assert [post["status"] for post in new_relic.posts] == [413, 200, 200]


def test_an_answer_that_was_lost(new_relic, connected):
    """When New Relic took a batch and its answer was lost, the batch is sent again: better twice than never."""
    new_relic.answers = [Answer(503, {"Retry-After": "0"}, keep=True)]
    put = events(0, 2)
    connected.put(put)
    connected.close(PATIENCE_S)

    assert new_relic.events == put + put
    assert (connected.num_sent, connected.lost) == (2, Counter())


def test_closing_while_the_server_hangs(new_relic, connected):
    """close() returns within its time, far below that of a call, and counts what did not arrive."""
    new_relic.always = NewRelic.hanging()
    connected.put(events(0, 150))
    new_relic.wait_for(lambda server: server.posts, "the POST that gets no answer")
    begun_s = time.monotonic()
    connected.close(0.2)

    assert 0.1 < time.monotonic() - begun_s < CALL_TIMEOUT_S
    assert connected.lost == {"not delivered in time": 150}
    assert (connected.num_sent, connected.num_queued) == (0, 0)


# -- refused, too large, too many ----------------------------------------------------------------------------------


def test_long_events_go_in_small_batches():
    """What holds Locust's event loop is the text that is encoded at once: long events go fewer at a time."""
    fake = Fake()
    closed(fake, [{"eventType": "Long", "name": "x" * 4000, "seq": seq} for seq in range(100)])

    assert [event["seq"] for event in fake.stored] == list(range(100))
    assert max(fake.sizes) * 4000 < module.BATCH_CHARACTERS
    closed(fake := Fake(), [{"eventType": "Longest", "name": "x" * 2 * module.BATCH_CHARACTERS}] * 2)
    assert fake.sizes == [1, 1]


def test_text_that_compresses_badly(new_relic, connected, monkeypatch):
    """No POST is larger than New Relic takes, in whatever language the text is."""
    monkeypatch.setattr(module, "BATCH_SIZE", 1_000)
    chance = random.Random(1)
    long = [{**event, "text": "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(1_365))}
            for event in events(0, 700)]  # fmt: skip
    connected.put(long)
    connected.close(PATIENCE_S)

    assert len(new_relic.events) == connected.num_sent == 700
    assert {post["status"] for post in new_relic.posts} == {200}


def test_an_interrupt_ends_close_at_once():
    """After interrupt nothing more is sent: close returns, and counts what was queued."""
    fake = Hanging()
    delivery = Delivery(fake)
    delivery.put(range(3))
    fake.called.wait()
    closing = gevent.spawn(delivery.close, PATIENCE_S)
    gevent.idle()
    delivery.interrupt()
    closing.get()

    assert (delivery.num_sent, delivery.lost) == (0, {"not delivered in time": 3})


def test_one_event_that_is_too_large():
    """413 splits down to the one event that is too large; it alone is lost, and the order stays."""

    class Strict(Fake):
        def answer(self, batch, timeout_s):
            return TOO_LARGE if 37 in batch else ACCEPTED

    fake = Strict()
    delivery = closed(fake, range(250))

    assert fake.stored == [number for number in range(250) if number != 37]
    assert delivery.lost == {"refused HTTP 413": 1}
    assert len(fake.sizes) < 20


def test_what_is_refused_is_said_once(log):
    """A refusal is said once for each reason, with what to check, and counted by reason."""
    fake = Fake(FORBIDDEN, INVALID, FORBIDDEN, FORBIDDEN)
    delivery = closed(fake, range(450))

    assert log() == [
        (
            "New Relic: new-relic.example refused events: HTTP 403. Check the license key (of type ingest) and"
            " --newrelic-region or --newrelic-endpoint."
        ),
        "New Relic: new-relic.example refused events: HTTP 400.",
        "New Relic: new-relic.example takes events again",
    ]
    assert delivery.lost == {"refused HTTP 403": 300, "refused HTTP 400": 100}
    assert fake.stored == list(range(400, 450))


def test_the_queue_is_bounded():
    """Of more events than the queue holds the oldest go, and are counted; what is being sent is safe."""
    fake = Hanging()
    delivery = Delivery(fake, most_queued=10)
    delivery.put(range(5))
    fake.called.wait()
    delivery.put(range(5, 12))
    assert delivery.lost == {}
    delivery.put(range(12, 30))
    assert delivery.lost == {"queue full": 15}
    assert delivery.num_queued == 15
    fake.released.set()
    delivery.close(PATIENCE_S)

    assert fake.stored == [0, 1, 2, 3, 4, *range(20, 30)]
    assert delivery.num_sent == 15


# -- waiting -------------------------------------------------------------------------------------------------------


def test_backoff():
    """The pauses double up to a limit, however long it goes on."""
    assert [backoff_s(attempt) for attempt in range(1, 7)] == [1, 2, 4, 8, 16, 16]
    assert backoff_s(10_000) == LONGEST_BACKOFF_S


@pytest.mark.parametrize("answer", [
    Outcome(Verdict.RETRY, "HTTP 429", 3600.0),
    Outcome(Verdict.RETRY, "HTTP 429", float("inf")),
    Outcome(Verdict.RETRY, "no answer in time"),
])  # fmt: skip
def test_a_pause_lasts_until_the_end_begins(monkeypatch, answer):
    """After a failure nothing is sent until the pause is over; closing does not wait for that, but tries once more."""
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 3600.0)
    monkeypatch.setattr(module, "LONGEST_BACKOFF_S", 3600.0)
    fake = Fake(answer)
    delivery = Delivery(fake)
    delivery.put(range(10))
    fake.called.wait()
    delivery.put(range(10, 20))
    for _ in range(20):
        gevent.idle()
    assert fake.sizes == [10]
    delivery.close(PATIENCE_S)

    assert fake.sizes == [10, 10, 10]
    assert fake.stored == list(range(20))


def test_a_call_gets_the_time_that_is_left():
    """While Locust runs each call has its full time; at the end, what is left of the deadline, and then no more."""
    clock = Clock(1000.0)

    class Slow(Fake):
        def answer(self, batch, timeout_s):
            if self.answers:
                return self.answers.popleft()
            clock.now_s += min(4.0, timeout_s)
            return Outcome(Verdict.RETRY, "no answer in time", 0.0)

    fake = Slow(Outcome(Verdict.RETRY, "HTTP 429", 3600.0))
    delivery = Delivery(fake, clock=clock)
    delivery.put(range(10))
    fake.called.wait()
    delivery.close(9.0)

    assert fake.timeouts_s == [CALL_TIMEOUT_S, 9.0, 5.0, 1.0]
    assert delivery.lost == {"not delivered in time": 10}


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, now_s):
        self.now_s = now_s

    def __call__(self):
        return self.now_s


# -- the end -------------------------------------------------------------------------------------------------------


def test_closing_an_idle_delivery():
    """With nothing to send close() ends at once, and nothing was ever sent."""
    fake = Fake()
    delivery = Delivery(fake)
    delivery.close(PATIENCE_S)

    assert fake.sizes == []
    assert fake.num_closed == 1
    assert delivery.greenlet.dead


def test_closing_twice():
    """A second close() changes nothing."""
    fake = Fake(BUSY, FORBIDDEN)
    delivery = closed(fake, range(150))
    before = delivery.num_sent, dict(delivery.lost)
    delivery.close(PATIENCE_S)

    assert (delivery.num_sent, delivery.lost) == before == (50, {"refused HTTP 403": 100})
    assert fake.num_closed == 1


def test_closing_with_no_time_at_all():
    """With no time at all close() gives up what is left, and counts it."""
    fake = Hanging()
    delivery = closed(fake, range(150), timeout_s=0)

    assert delivery.lost == {"not delivered in time": 150}
    assert delivery.num_queued == 0


def test_whoever_closes_second_waits_for_the_first():
    """At SIGTERM Locust closes twice at once: neither returns before all is done."""
    fake = Hanging()
    delivery = Delivery(fake)
    delivery.put(range(10))
    closers = [gevent.spawn(delivery.close, PATIENCE_S) for _ in range(2)]
    fake.called.wait()
    gevent.sleep(0)
    assert not any(closer.dead for closer in closers)
    fake.released.set()
    gevent.joinall(closers, raise_error=True)

    assert fake.stored == list(range(10))
    assert fake.num_closed == 1


def test_an_interrupt_while_closing(log):
    """A Ctrl-C ends close() at once: it returns, and what was left is counted."""
    fake = Hanging()
    delivery = Delivery(fake)
    delivery.put(range(150))
    closers = [gevent.spawn(delivery.close, PATIENCE_S) for _ in range(2)]
    fake.called.wait()
    closers[0].kill(KeyboardInterrupt)
    gevent.joinall(closers, raise_error=True)

    assert delivery.lost == {"not delivered in time": 150}
    assert log() == ["New Relic: interrupted while 150 events were still to be sent"]
    delivery.greenlet.join()
    assert fake.stored == []


@pytest.mark.parametrize("at_once", [True, False])
def test_an_interrupt_that_hits_the_sender(at_once):
    """Python raises a Ctrl-C in whatever runs: if that is our greenlet, close() still delivers what is queued."""

    class Interrupted(Fake):
        def answer(self, batch, timeout_s):
            if len(self.sizes) == 2:
                raise KeyboardInterrupt
            return super().answer(batch, timeout_s)

    fake = Interrupted()
    delivery = Delivery(fake)
    delivery.put(range(250))
    with pytest.raises(KeyboardInterrupt):  # gevent passes it on
        delivery.greenlet.join()
    if not at_once:
        gevent.sleep(0)
        assert delivery.greenlet.dead
    delivery.close(PATIENCE_S)

    assert fake.stored == list(range(250))
    assert total(delivery) == delivery.num_sent == 250


# -- the spool -----------------------------------------------------------------------------------------------------


def test_what_the_queue_cannot_hold_is_kept(spool, tmp_path):
    """Of more events than the queue holds the oldest go to the spool; none is lost."""
    fake = Hanging()
    delivery = Delivery(fake, spool=spool, most_queued=10)
    delivery.put(range(5))
    fake.called.wait()
    delivery.put(range(5, 30))
    fake.released.set()
    delivery.close(PATIENCE_S)

    assert kept(tmp_path / "spool") == (list(range(5, 20)), [])
    assert fake.stored == [*range(5), *range(20, 30)]
    assert (delivery.spooled, delivery.lost) == ({"queue full": 15}, {})
    assert delivery.summary() == (
        f"15 events sent, 15 kept in {spool.path} (15 queue full), none lost."
        f" Send what was kept: locust-newrelic replay {spool.path}"
    )


def test_the_queue_is_bounded_by_its_size(spool, tmp_path):
    """Long events fill the queue as many short ones do."""
    fake = Hanging()
    delivery = Delivery(fake, spool=spool, most_characters=10_000)
    delivery.put([{"seq": 0}])
    fake.called.wait()
    delivery.put({"seq": seq, "text": "x" * 4000} for seq in range(1, 6))
    assert delivery.num_queued == 3
    fake.released.set()
    delivery.close(PATIENCE_S)

    assert [event["seq"] for event in fake.stored] == [0, 4, 5]
    assert [event["seq"] for event in kept(tmp_path / "spool")[0]] == [1, 2, 3]


def test_what_is_refused_is_kept(spool, tmp_path, log):
    """Refused events are in the spool, and the one message about them says where."""
    delivery = closed(Fake(FORBIDDEN, FORBIDDEN), range(250), spool=spool, region="eu")

    assert kept(tmp_path / "spool") == (list(range(200)), [])
    error, relief = log()
    assert error == (
        "New Relic: new-relic.example (region eu) refused events: HTTP 403. Check the license key (of type ingest) and"
        f" --newrelic-region or --newrelic-endpoint. They are kept in {spool.path}."
    )
    assert relief == "New Relic: new-relic.example takes events again"
    assert (delivery.num_sent, delivery.spooled, delivery.lost) == (50, {"refused HTTP 403": 200}, {})


def test_while_new_relic_is_away_the_queue_is_on_disk(spool, tmp_path):
    """From the first failure on, what is queued would survive SIGKILL; delivered after all, it leaves no file."""
    fake = Fake(*[Outcome(Verdict.RETRY, "HTTP 503", 3600.0)] * 2)
    delivery = Delivery(fake, spool=spool)
    delivery.put(range(150))
    fake.called.wait()
    delivery.put(range(150, 170))
    gevent.idle()
    assert sorted(kept(tmp_path / "spool")[0]) == list(range(170))
    assert delivery.num_queued == 170
    delivery.close(PATIENCE_S)  # which tries once more
    assert sorted(kept(tmp_path / "spool")[0]) == list(range(170))
    assert delivery.spooled == {"not delivered in time": 170}

    again = Delivery(fake := Fake(BUSY), spool=Spool(str(tmp_path)))
    again.put(range(250))
    again.close(PATIENCE_S)
    assert fake.stored == list(range(250))
    assert (again.num_sent, again.num_retried, again.num_spooled, again.lost) == (250, 100, 0, {})
    assert not list(tmp_path.glob("*.ndjson"))


def test_others_run_while_the_queue_is_written(spool):
    """After the first failure thousands of events may have to be kept: not in one go, which would hold Locust up."""
    delivery, turns, sizes = Delivery(Fake(BUSY), spool=spool), [0], []

    def take_turns():
        while True:
            turns[0] += 1
            gevent.sleep()

    def keep(events):
        sizes.append((len(events), turns[0]))
        return Spool.keep(spool, events)

    spool.keep = keep
    other = gevent.spawn(take_turns)
    delivery.put(range(1_000))
    delivery.close(PATIENCE_S)
    other.kill()

    assert sum(size for size, _ in sizes) == delivery.num_sent == 1_000
    assert max(size for size, _ in sizes) <= 50
    assert all(before < after for (_, before), (_, after) in pairwise(sizes))


def test_a_disk_that_cannot_keep_it(tmp_path, log):
    """When the spool cannot be written either, events are lost: counted with that reason, and said once."""
    delivery = closed(Fake(*[FORBIDDEN] * 3), range(250), spool=Spool(str(tmp_path / "gone")))

    assert delivery.lost == {"spool not writable": 250}
    assert log()[1] == (
        "New Relic: new-relic.example refused events: HTTP 403. Check the license key (of type ingest) and"
        " --newrelic-region or --newrelic-endpoint."
    )
    assert delivery.summary() == "0 events sent, 250 lost (250 spool not writable)"


def test_a_fault_of_our_own(monkeypatch, log):
    """What goes wrong unexpectedly is said, without what it says itself, and the next events are delivered."""
    monkeypatch.setattr(module, "LONGEST_BACKOFF_S", 0.001)

    class Faulty(Spool):
        def settle(self, places):
            msg = "key=secret"
            raise RuntimeError(msg)

    delivery = closed(fake := Fake(), range(250), spool=Faulty("nowhere"))

    assert fake.stored == list(range(250))
    assert (delivery.num_sent, delivery.num_queued, dict(delivery.lost)) == (250, 0, {})
    assert len(log(logging.ERROR)) == 3
    assert log(logging.ERROR)[0].startswith("New Relic: unexpected RuntimeError at test_delivery.py:")
    assert "secret" not in str(log())


def test_a_full_spool(tmp_path):
    """What fits is kept, the rest is lost as the spool was full."""
    delivery = closed(Hanging(), range(1000), timeout_s=0, spool=Spool(str(tmp_path), most_bytes=1000))

    assert kept(tmp_path)[0] == list(range(delivery.num_spooled))
    assert 0 < delivery.num_spooled < 1000
    assert delivery.lost == {"spool full": 1000 - delivery.num_spooled}


def test_a_warning_is_not_said_again_and_again(log):
    """Where every third connection fails, a user reads of it once a minute at the most, and that it works once."""
    clock = Clock(1000.0)
    fake = Fake(*[ACCEPTED, ACCEPTED, BUSY] * 10)
    closed(fake, range(2000), clock=clock)
    assert len(log()) == 2

    class Slow(Fake):
        def answer(self, batch, timeout_s):
            clock.now_s += 40
            return super().answer(batch, timeout_s)

    closed(Slow(*[ACCEPTED, BUSY] * 3), range(400), clock=clock, timeout_s=10_000.0)
    assert len(log()) == 2 + 2 * 3


def test_the_jitter_is_full():
    """Pauses are spread over the whole time from nothing to the backoff, and as New Relic asks where it asks."""
    patience = Patience()
    pauses = [(attempt, patience.after(Outcome(Verdict.RETRY))) for attempt in range(1, 501)]
    assert all(0 <= pause <= backoff_s(attempt) for attempt, pause in pauses)
    shares = sorted(pause / backoff_s(attempt) for attempt, pause in pauses)
    assert shares[50] < 0.2 < 0.3 < shares[250] < 0.7 < 0.8 < shares[450]
    assert patience.after(Outcome(Verdict.RETRY, retry_after_s=7.0)) == 7.0
    assert patience.after(Outcome(Verdict.RETRY, retry_after_s=3600.0)) == 300.0
    patience.reset()
    assert patience.after(Outcome(Verdict.RETRY)) <= backoff_s(1)


# -- whatever happens ----------------------------------------------------------------------------------------------

answers = st.lists(st.sampled_from([ACCEPTED, BUSY, TOO_LARGE, FORBIDDEN, INVALID]), max_size=12)
puts = st.lists(st.integers(0, 250), max_size=5)


@settings(deadline=None)
@given(answers, puts)
def test_each_event_has_one_fate(answers, puts):
    """Whatever the answers are, each event is stored once and in order, or refused and counted."""
    fake = Fake(*answers)
    delivery = Delivery(fake)
    num_put = 0
    for size in puts:
        delivery.put(range(num_put, num_put + size))
        num_put += size
        assert total(delivery) == num_put
        gevent.sleep(0)
        assert total(delivery) == num_put
    delivery.close(PATIENCE_S)

    refused = set(fake.refused)
    assert fake.stored == [number for number in range(num_put) if number not in refused]
    assert sum(delivery.lost.values()) == len(fake.refused) == len(refused)
    assert all(size <= BATCH_SIZE for size in fake.sizes)
    assert total(delivery) == num_put
    assert delivery.num_queued == 0


@settings(deadline=None)
@given(answers, puts, st.integers(1, 300), st.sampled_from([0.0, PATIENCE_S]))
def test_each_event_is_counted_once(answers, puts, most_queued, timeout_s):
    """With a queue that overflows, and with no time at the end, sent and lost still add up to what was put."""
    fake = Fake(*answers)
    delivery = Delivery(fake, most_queued=most_queued)
    for size in puts:
        delivery.put(range(size))
        assert delivery.num_queued <= most_queued + BATCH_SIZE
    delivery.close(timeout_s)

    assert total(delivery) == sum(puts)
    assert delivery.num_queued == 0
    assert delivery.num_sent == len(fake.stored)


LOST_ANSWER = Outcome(Verdict.RETRY, "no answer in time", 0.0)


class Unreliable(Fake):
    """Takes what it is told to, and sometimes its answer is lost after it has."""

    def __init__(self, *answers):
        super().__init__(*answers)
        self.arrived, self.unanswered = Counter(), Counter()

    def send(self, batch, timeout_s):
        outcome = super().send(batch, timeout_s)
        if outcome in (ACCEPTED, LOST_ANSWER):
            self.arrived.update(batch)
        if outcome is LOST_ANSWER:
            self.unanswered.update(batch)
        return outcome


@settings(deadline=None)
@given(
    answers=st.lists(st.sampled_from([ACCEPTED, BUSY, TOO_LARGE, FORBIDDEN, INVALID, LOST_ANSWER]), max_size=12),
    puts=st.lists(st.integers(0, 250), max_size=5),
    most_queued=st.sampled_from([20, 150, 20_000]),
    most_bytes=st.sampled_from([0, 500, 10**6]),
    end=st.sampled_from(["close", "no time", "crash", "interrupt"]),
    num_switches=st.integers(0, 8),
)
def test_each_event_arrives_or_is_kept_or_lost(
    tmp_path_factory, answers, puts, most_queued, most_bytes, end, num_switches
):
    """In any order of answers and crashes each event is delivered, spooled or lost: once, unless an answer was lost."""
    folder = tmp_path_factory.mktemp("spool")
    fake = Unreliable(*answers)
    delivery = Delivery(fake, spool=Spool(str(folder), most_bytes=most_bytes), most_queued=most_queued)
    num_put = 0
    for size in puts:
        delivery.put(range(num_put, num_put + size))
        num_put += size
        for _ in range(num_switches):
            gevent.sleep(0)
        assert total(delivery) + delivery.num_spooled == num_put

    if end == "interrupt":
        delivery.interrupt()
    if end != "crash":
        delivery.close(PATIENCE_S if end == "close" else 0)
    pending, done = kept(folder)  # for a crash: as SIGKILL leaves it
    num_in_memory, num_lost = delivery.num_queued, sum(delivery.lost.values())
    both = fake.arrived + Counter(pending)
    delivery.close(0)

    assert all(number <= 1 + fake.unanswered[event] for event, number in both.items())
    assert num_put - num_in_memory - num_lost <= len(both) <= num_put
    assert set(done) <= set(fake.arrived)
    if end != "crash":
        assert (num_in_memory, done, len(pending)) == (0, [], delivery.num_spooled)
        assert delivery.num_sent + delivery.num_spooled + num_lost == num_put
        assert len(both) == num_put - num_lost or fake.unanswered
    if most_bytes == 10**6:
        assert num_lost == 0
