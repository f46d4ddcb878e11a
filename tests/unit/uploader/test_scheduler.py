"""The uploader's loop on a real spool and ledger, with an archive in memory and short times."""

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from uploader_fakes import ERROR, FAILURE, UNAVAILABLE, Gateway, stored, uid_of, until

import uploader.scheduler
from common.config import SpoolConfig
from common.errors import LedgerError
from common.records import Cause, Event, State
from support.samples import make_instance
from uploader.backlog import Backlog
from uploader.delivery import Delivery, Fate, Report, Request
from uploader.destination import Mode
from uploader.multipart import Part
from uploader.scheduler import Rescan, Seen
from uploader.verdict import Answer, Failure, Trouble

AWAY = Answer(failure=Failure.CONNECT, detail="cannot connect (Connection refused)")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is busy, or waits for the ledger, is looked at again soon."""
    monkeypatch.setattr(uploader.scheduler, "_BUSY_SECONDS", 0.05)
    monkeypatch.setattr(uploader.scheduler, "_LEDGER_SECONDS", 0.05)


def all_sent(gateway: Gateway) -> Callable[[], bool]:
    return lambda: not gateway.incoming() and set(gateway.counts()) == {State.SENT}


def attempts(gateway: Gateway) -> Counter[int]:
    """How many rows have how many attempts."""
    return Counter(row.attempts for row in gateway.rows().values())


# Batches


@pytest.mark.parametrize("threads", [1, 4])
def test_everything_is_sent_once_in_batches(gateway: Gateway, threads: int) -> None:
    """What is owed goes in batches of at most batch_instances, in as many requests at a time as there are threads."""
    gateway.configure(threads=threads, batch_instances=5)
    gateway.archive.seconds = 0.03
    uids = gateway.receive(33)
    with gateway.running():
        until(all_sent(gateway))
    assert gateway.archive.stored == dict.fromkeys(uids, 1)
    assert sorted(len(request) for request in gateway.archive.requests) == [3] + [5] * 6
    assert gateway.archive.busiest == threads
    assert attempts(gateway) == {1: 33}


def test_a_batch_is_no_larger_than_batch_size(gateway: Gateway) -> None:
    """A request holds no more bytes than batch_size, unless one instance alone is larger."""
    gateway.receive(6)
    size = max(os.stat(gateway.spool.incoming / name).st_size for name in gateway.incoming())
    gateway.configure(batch_size=2 * size + 10)
    with gateway.running():
        until(all_sent(gateway))
    assert [len(request) for request in gateway.archive.requests] == [2, 2, 2]
    gateway.configure(batch_size=1000)
    gateway.receive(2)
    with gateway.running():
        until(all_sent(gateway))
    assert [len(request) for request in gateway.archive.requests[3:]] == [1, 1]


# What wakes it


@pytest.fixture
def patient(gateway: Gateway) -> Gateway:
    """A gateway that scans only at its start: later it knows what it is told."""
    gateway.spool_config = SpoolConfig(settle_seconds=0.3, rescan_seconds=600)
    gateway.assemble()
    return gateway


def drop_after_start(gateway: Gateway, name: str = "0.dcm") -> str:
    until(lambda: gateway.scheduler._next_scan > 0)
    time.sleep(0.05)
    return make_instance(gateway.spool.incoming / name)


def test_what_comes_right_after_a_request_gathers_until_it_fills_the_next(
    patient: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first goes at once and alone; after it, in a moment as long as a minute, nothing but a full request does."""
    monkeypatch.setattr(uploader.scheduler, "_GATHER_SECONDS", 60.0)
    patient.configure(batch_instances=3)
    patient.receive(1)
    with patient.running():
        until(lambda: len(patient.archive.requests) == 1)
        for count in (2, 1):
            assert len(patient.archive.requests) == 1
            patient.receive(count)
            patient.scheduler.notice(Rescan())
            until(lambda: patient.backlog.ready == 2 or len(patient.archive.requests) > 1)
        until(all_sent(patient))
    assert [len(request) for request in patient.archive.requests] == [1, 3]


def test_who_gathers_waits_no_longer_than_a_moment(patient: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody needs to come for it: the loop wakes by itself, and what has come by then goes together."""
    monkeypatch.setattr(uploader.scheduler, "_GATHER_SECONDS", 1.0)
    patient.receive(1)
    with patient.running():
        until(lambda: len(patient.archive.requests) == 1)
        patient.receive(2)
        patient.scheduler.notice(Rescan())
        until(all_sent(patient))
    assert [len(request) for request in patient.archive.requests] == [1, 2]


def test_who_fills_a_request_that_is_small_by_experience_does_not_wait(
    patient: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the archive takes less in a request than it may hold, those who are due may fill several."""
    monkeypatch.setattr(uploader.scheduler, "_GATHER_SECONDS", 60.0)
    patient.scheduler._capacity._size.limit = 1
    with patient.running():
        patient.receive(4)
        patient.scheduler.notice(Rescan())
        until(all_sent(patient))


def test_a_file_that_is_seen_closed_goes_at_once(patient: Gateway) -> None:
    """The event of a close is enough, and nothing is waited for."""
    with patient.running():
        uid = drop_after_start(patient)
        begun = time.monotonic()
        patient.scheduler.notice(Seen("0.dcm", closed=True))
        until(lambda: uid in patient.archive.stored)
        assert time.monotonic() - begun < 0.25


def test_a_file_that_is_seen_goes_when_it_is_quiet(patient: Gateway) -> None:
    """Without a close the file goes after settle_seconds, without another event."""
    with patient.running():
        uid = drop_after_start(patient)
        begun = time.monotonic()
        patient.scheduler.notice(Seen("0.dcm"))
        until(lambda: uid in patient.archive.stored)
        assert 0.25 < time.monotonic() - begun < 1.5


def test_whether_they_gather_is_asked_of_the_moment_at_which_the_loop_wakes(
    patient: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have slept since the last request: who comes then waits for no company."""
    ages: list[float] = []
    gathers = patient.scheduler._gathers

    def asked(now: float) -> bool:
        ages.append(time.monotonic() - now)
        return gathers(now)

    monkeypatch.setattr(patient.scheduler, "_gathers", asked)
    with patient.running():
        until(lambda: patient.scheduler._next_scan > 0)
        time.sleep(2)
        drop_after_start(patient)
        patient.scheduler.notice(Seen("0.dcm", closed=True))
        until(all_sent(patient))
    assert max(ages) < 1.5


def test_many_events_about_one_file_are_one_look(patient: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes together is taken in together: the file is looked at as it is now."""
    looks: Counter[str] = Counter()
    look = patient.spool.look

    def counted(name: str) -> Any:
        looks[name] += 1
        return look(name)

    monkeypatch.setattr(patient.spool, "look", counted)
    for _ in range(100):
        patient.scheduler.notice(Seen("gone.dcm"))
    with patient.running():
        until(lambda: looks["gone.dcm"] > 0 and patient.scheduler._queue.empty())
    assert looks == {"gone.dcm": 1}


def test_of_events_that_come_together_the_last_tells(gateway: Gateway) -> None:
    """Closed, and then replaced by another of its name that may still be written: it is waited for."""
    gateway.spool_config = SpoolConfig(settle_seconds=600, rescan_seconds=600)
    gateway.assemble()
    make_instance(gateway.spool.incoming / "0.dcm")
    gateway.scheduler.notice(Seen("0.dcm", closed=True))
    gateway.scheduler.notice(Seen("0.dcm"))
    uid = make_instance(gateway.spool.incoming / "2.dcm")
    gateway.scheduler.notice(Seen("2.dcm"))
    gateway.scheduler.notice(Seen("2.dcm", closed=True))
    with gateway.running():
        until(lambda: len(gateway.archive.stored) > 0)
    assert gateway.archive.stored == {uid: 1}
    assert gateway.incoming() == {"0.dcm"}


def test_a_folder_that_is_seen_is_looked_into(patient: Gateway) -> None:
    """The event of a folder brings in the files in it."""
    with patient.running():
        uid = drop_after_start(patient, "study/0.dcm")
        patient.scheduler.notice(Seen("study", folder=True))
        until(lambda: uid in patient.archive.stored)


def test_a_rescan_finds_what_no_event_told(patient: Gateway) -> None:
    """When events may be lost, a rescan is asked for, and is soon."""
    with patient.running():
        uid = drop_after_start(patient)
        patient.scheduler.notice(Rescan())
        until(lambda: uid in patient.archive.stored)


def test_the_regular_scan_finds_what_no_event_told(gateway: Gateway) -> None:
    """Every rescan_seconds decides, with no event at all."""
    with gateway.running():
        uid = drop_after_start(gateway)
        until(lambda: uid in gateway.archive.stored)


def test_events_about_nothing_are_harmless(gateway: Gateway) -> None:
    """Events of files that are gone, hidden or no files change nothing."""
    with gateway.running():
        for name in ("gone.dcm", ".hidden", "copying.part", ".", "a/../b", "x" * 300):
            gateway.scheduler.notice(Seen(name))
            gateway.scheduler.notice(Seen(name, folder=True))
            gateway.scheduler.notice(Seen(name, closed=True))
        uid = drop_after_start(gateway)
        until(lambda: uid in gateway.archive.stored)


def test_a_file_dropped_under_the_name_of_one_in_hand_is_sent_too(patient: Gateway) -> None:
    """A new file of that name that comes while the old one is sent is noticed when the old one is done."""
    replaced: list[str] = []

    def replace(_parts: Sequence[Part]) -> None:
        if not replaced:
            replaced.append(make_instance(patient.spool.incoming / ".new"))
            os.replace(patient.spool.incoming / ".new", patient.spool.incoming / "0.dcm")
            patient.scheduler.notice(Seen("0.dcm", closed=True))

    patient.archive.before = replace
    with patient.running():
        old = drop_after_start(patient)
        patient.scheduler.notice(Seen("0.dcm", closed=True))
        until(lambda: len(patient.archive.stored) == 2 and not patient.incoming())
    assert set(patient.archive.stored) == {old, *replaced}


# Outages


@pytest.mark.parametrize("answer", [UNAVAILABLE, ERROR, FAILURE, AWAY, Answer(status=401), Answer(status=429)], ids=str)
@pytest.mark.parametrize(("threads", "count"), [(1, 1), (4, 12)])
def test_an_outage_costs_nothing_and_ends_by_itself(gateway: Gateway, answer: Answer, threads: int, count: int) -> None:
    """However the destination fails, no attempt is spent and nothing is quarantined; when it is back, all are sent."""
    gateway.configure(threads=threads, batch_instances=3, max_attempts=1)
    gateway.archive.down = answer
    uids = gateway.receive(count)
    with gateway.running():
        until(lambda: len(gateway.archive.requests) > 9)
        assert attempts(gateway) == {0: count}
        assert not gateway.quarantined()
        assert len(gateway.incoming()) == count
        probes = gateway.archive.requests[threads + 2 :]
        assert all(len(request) == 1 for request in probes), "in an outage only probes go"
        gateway.archive.down = None
        until(all_sent(gateway), 2.0)
    assert set(gateway.archive.stored) == set(uids)
    assert attempts(gateway) == {1: count}


def test_during_a_pause_little_is_sent(gateway: Gateway) -> None:
    """In an outage one probe goes at the end of each pause, and the pauses grow to the longest."""
    gateway.configure(threads=4, backoff_initial_seconds=0.05, backoff_max_seconds=0.4)
    gateway.archive.down = AWAY
    gateway.receive(30)
    with gateway.running():
        until(lambda: gateway.archive.requests)
        time.sleep(0.8)
        assert 3 <= len(gateway.archive.requests) <= 12


def test_an_outage_is_said_once_and_its_end_too(gateway: Gateway, lines: Any) -> None:
    """One line for the same reason, with how much waits and when the next probe is; one line when it is over."""
    gateway.archive.down = AWAY
    gateway.receive(3)
    with gateway.running():
        until(lambda: len(gateway.archive.requests) >= 5)
        gateway.archive.down = None
        until(all_sent(gateway))
    (fields,) = lines("destination paused, nothing is lost")
    assert fields["reason"] == "cannot connect (Connection refused)"
    assert fields["waiting"] == 3
    assert fields["next_probe_seconds"] >= 0
    assert len(lines("destination answers again")) == 1


def test_a_restart_in_an_outage_changes_nothing(gateway: Gateway) -> None:
    """Stopped and started in an outage, the uploader probes, waits and sends everything in the end."""
    gateway.archive.down = UNAVAILABLE
    uids = gateway.receive(5)
    for _ in range(3):
        with gateway.running():
            seen = len(gateway.archive.requests)
            until(lambda seen=seen: len(gateway.archive.requests) > seen + 2)
        gateway.assemble()
    assert attempts(gateway) == {0: 5}
    gateway.archive.down = None
    with gateway.running():
        until(all_sent(gateway))
    assert set(gateway.archive.stored) == set(uids)


def test_retry_after_holds_though_requests_before_it_are_answered(gateway: Gateway) -> None:
    """An answer to a request that was under way does not make the wait void that another answer asked for."""
    gateway.configure(threads=2, batch_instances=1)
    gateway.receive(6)
    times: list[float] = []
    first_out = threading.Event()

    def before(_parts: Sequence[Part]) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            first_out.set()
            time.sleep(0.1)
        elif len(times) == 2:
            first_out.wait(5)

    gateway.archive.before = before
    gateway.archive.script = [Answer(status=429, retry_after=0.45), stored]  # the second request is answered first
    with gateway.running():
        until(all_sent(gateway))
    begun = times[1]
    assert all(at - begun >= 0.4 for at in times[2:]), "nothing before Retry-After is over"


def test_the_loop_sleeps_while_a_probe_is_out(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that takes long does not make the loop spin, though others are due and the pause is over."""
    turns = itertools.count()
    real = Backlog.ripe
    monkeypatch.setattr(Backlog, "ripe", lambda self, now: (next(turns), real(self, now))[1])
    gateway.archive.down = AWAY
    gateway.receive(5)
    with gateway.running():
        until(lambda: gateway.destination.mode is Mode.PAUSED)
        gateway.archive.seconds = 0.5
        until(lambda: gateway.destination.probing)
        before = next(turns)
        time.sleep(0.4)
        assert next(turns) - before < 20
        gateway.archive.seconds = 0.0


# Poisonous instances


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("answer", [ERROR, UNAVAILABLE, FAILURE, Answer(failure=Failure.TIMEOUT, detail="…")], ids=str)
def test_a_poisonous_instance_is_given_up_and_the_others_are_sent(
    gateway: Gateway, answer: Answer, threads: int
) -> None:
    """A 5xx, a broken connection or a timeout that comes with one of twenty: nineteen are sent, it ends as gave-up."""
    gateway.configure(threads=threads)
    uids = gateway.receive(20)
    poison = uids[7]
    gateway.archive.poison = {poison: answer}
    with gateway.running():
        until(lambda: gateway.counts() == {State.SENT: 19, State.QUARANTINE: 1})
    assert set(gateway.archive.stored) == set(uids) - {poison}
    rows = gateway.rows()
    assert (rows[poison].state, rows[poison].cause, rows[poison].attempts) == (State.QUARANTINE, Cause.GAVE_UP, 3)
    assert {rows[uid].attempts for uid in uids if uid != poison} == {1}
    events = [event.event for event in gateway.ledger.events(rows[poison].file_name)]
    assert events == [Event.RECEIVED, Event.ATTEMPT, Event.ATTEMPT, Event.QUARANTINED]


def test_several_poisonous_instances_harm_no_other(gateway: Gateway) -> None:
    """With three of forty that break the connection, thirty-seven are sent, once each, without an attempt too many."""
    gateway.configure(threads=2, batch_instances=10)
    uids = gateway.receive(40)
    poison = set(uids[3::15])
    gateway.archive.poison = dict.fromkeys(poison, FAILURE)
    with gateway.running():
        until(lambda: gateway.counts().get(State.SENT) == 37)
    assert gateway.archive.stored == dict.fromkeys(set(uids) - poison, 1)
    assert {gateway.rows()[uid].attempts for uid in set(uids) - poison} == {1}


@pytest.mark.parametrize("answer", [ERROR, FAILURE], ids=str)
def test_an_instance_alone_with_its_trouble_is_never_given_up(gateway: Gateway, answer: Answer) -> None:
    """Who is all there is and fails may be in an outage: it is neither charged nor quarantined, and sent in the end."""
    (uid,) = gateway.receive(1)
    gateway.configure(max_attempts=1)
    gateway.archive.down = answer
    with gateway.running():
        until(lambda: len(gateway.archive.requests) > 9)
        assert gateway.counts() == {State.INCOMING: 1}
        assert attempts(gateway) == {0: 1}
        gateway.archive.down = None
        until(all_sent(gateway))
    assert gateway.archive.stored == {uid: 1}


def test_before_the_accused_is_asked_again_what_is_under_way_may_tell(gateway: Gateway) -> None:
    """Who fails while another request is under way, with nobody else ready, is asked again when that one has ended."""
    gateway.configure(threads=2, batch_instances=1)
    gateway.receive(2)
    both_out = threading.Barrier(2, timeout=5)
    ended: list[float] = []
    asked: list[float] = []

    def before(_parts: Sequence[Part]) -> None:
        asked.append(time.monotonic())
        if len(asked) <= 2:
            both_out.wait()

    gateway.archive.before = before
    turns = itertools.count()
    real = gateway.archive._answer

    def answer(uids: list[str]) -> Answer:
        turn = next(turns)
        if turn == 0:
            return ERROR
        if turn == 1:
            time.sleep(0.3)
            ended.append(time.monotonic())
        return real(uids)

    gateway.archive._answer = answer  # type: ignore[method-assign]
    with gateway.running():
        until(all_sent(gateway))
    assert len(asked) == 3
    assert asked[2] >= ended[0]


def test_a_lone_poisonous_instance_does_not_hold_up_the_next(gateway: Gateway) -> None:
    """While it waits for the end of a long pause, an instance that arrives is sent at once, however often that is."""
    gateway.configure(backoff_initial_seconds=0.3, backoff_max_seconds=60.0)
    (poison,) = gateway.receive(1)
    gateway.archive.poison = {poison: ERROR}
    with gateway.running():
        until(lambda: len(gateway.archive.requests) >= 2)
        until(lambda: gateway.destination.mode is Mode.PAUSED and not gateway.destination.probing)
        (uid,) = gateway.receive(1)
        begun = time.monotonic()
        gateway.scheduler.notice(Rescan())
        until(lambda: uid in gateway.archive.stored)
        assert time.monotonic() - begun < 0.25
    assert gateway.rows()[poison].state is State.INCOMING


def test_an_outage_right_after_a_poisonous_batch_quarantines_no_good_file(gateway: Gateway) -> None:
    """Companions of a poisonous instance are not charged for an outage that begins before they are sent."""
    uids = gateway.receive(20)
    poison = uids[7]
    gateway.archive.poison = {poison: UNAVAILABLE}
    real = gateway.archive._answer

    def answer(wanted: list[str]) -> Answer:
        return UNAVAILABLE if gateway.archive.stored else real(wanted)

    gateway.archive._answer = answer  # type: ignore[method-assign]
    with gateway.running():
        until(lambda: len(gateway.archive.requests) > 20)
    rows = gateway.rows()
    good = set(uids) - {poison} - set(gateway.archive.stored)
    assert len(good) == 18
    assert {(rows[uid].state, rows[uid].attempts) for uid in good} == {(State.INCOMING, 0)}
    assert rows[poison].state is State.INCOMING


def test_a_temporary_failure_waits_while_others_go(gateway: Gateway) -> None:
    """An instance that the archive cannot take yet waits for its time, and the others do not wait for it."""
    gateway.configure(backoff_initial_seconds=0.4, backoff_max_seconds=0.4)
    uids = gateway.receive(3)
    gateway.archive.script = [lambda wanted: stored(wanted[1:])]
    with gateway.running():
        until(lambda: gateway.counts() == {State.SENT: 2, State.INCOMING: 1})
        begun = time.monotonic()
        until(all_sent(gateway))
        assert time.monotonic() - begun > 0.1
    assert gateway.archive.requests == [uids, [uids[0]]] or len(gateway.archive.requests) == 2


def test_a_scan_does_not_cut_the_wait_of_a_file_short(gateway: Gateway) -> None:
    """Scans that run while a file is in hand leave the wait for its next attempt as it is."""
    gateway.spool_config = SpoolConfig(settle_seconds=0.1, rescan_seconds=0.1)
    gateway.configure(backoff_initial_seconds=2.0, backoff_max_seconds=2.0)
    gateway.receive(1)
    gateway.archive.seconds = 0.35
    gateway.archive.script = [Answer(status=200)]
    with gateway.running():
        until(lambda: gateway.rows() and attempts(gateway) == {1: 1})
        time.sleep(0.4)
        assert len(gateway.archive.requests) == 1


# What else can go wrong


def test_a_file_that_another_process_holds_is_tried_again(gateway: Gateway) -> None:
    """A busy file is looked at again until it can be had; the others go meanwhile."""
    uids = gateway.receive(2)
    name = gateway.rows()[uids[0]].file_name
    claim = gateway.spool.claim(name)
    with gateway.running():
        until(lambda: uids[1] in gateway.archive.stored)
        time.sleep(0.2)
        assert gateway.incoming() == {name}
        claim.close()
        until(all_sent(gateway))
    assert gateway.archive.stored == dict.fromkeys(uids, 1)


@pytest.mark.parametrize("method", ["known", "adopt", "due_times"])
def test_a_ledger_that_fails_for_a_while_delays_only(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, lines: Any, method: str
) -> None:
    """While the ledger cannot be used nothing is lost, it is said once, and afterwards everything is sent."""
    uids = gateway.drop(3)
    fails = threading.Event()
    fails.set()
    real = getattr(gateway.ledger, method)

    def call(*arguments: Any) -> Any:
        if fails.is_set():
            raise LedgerError("the ledger cannot be used now (SQLITE_IOERR)")
        return real(*arguments)

    monkeypatch.setattr(gateway.ledger, method, call)
    complaint = "the scan is incomplete" if method == "due_times" else "cannot deliver"
    with gateway.running():
        until(lambda: lines(complaint))
        time.sleep(0.3)
        if method != "due_times":
            assert len(gateway.incoming()) == 3
            assert not gateway.archive.requests
        fails.clear()
        until(all_sent(gateway))
    assert gateway.archive.stored == dict.fromkeys(uids, 1)
    assert lines(complaint) == [{"reason": "the ledger cannot be used now (SQLITE_IOERR)"}]


def test_rows_that_could_not_be_written_are_written_by_the_next_scan(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that were sent while the ledger was away are recorded as soon as it is back, and not called removed."""
    gateway.receive(3)
    fails = threading.Event()
    fails.set()
    real = gateway.ledger.sent

    def sent(outcomes: Any) -> None:
        if fails.is_set():
            raise LedgerError("the ledger cannot be used now")
        real(outcomes)

    monkeypatch.setattr(gateway.ledger, "sent", sent)
    monkeypatch.setattr(gateway.reconciling, "scan", lambda _now, scan=gateway.reconciling.scan: scan(_now))
    with gateway.running():
        until(lambda: not gateway.incoming())
        fails.clear()
        until(lambda: gateway.counts() == {State.SENT: 3})


def test_an_error_of_ours_with_one_file_does_not_keep_the_others(gateway: Gateway, lines: Any) -> None:
    """A file that brings about an error nobody thought of is cornered, the others of its batches are sent."""
    uids = gateway.receive(12)

    def before(parts: Sequence[Part]) -> None:
        if uids[5] in [uid_of(part) for part in parts]:
            raise RuntimeError("a bug")

    gateway.archive.before = before
    with gateway.running():
        until(lambda: gateway.counts() == {State.SENT: 11, State.INCOMING: 1})
    assert gateway.rows()[uids[5]].attempts == 0
    assert lines("delivery failed")


def test_a_spool_that_is_away_is_said_and_waited_for(gateway: Gateway, lines: Any) -> None:
    """Without incoming/ nothing is concluded; when it is back, what is in it is sent."""
    gateway.receive(1)
    away = gateway.spool.directory / "away"
    os.rename(gateway.spool.incoming, away)
    with gateway.running():
        until(lambda: lines("the spool cannot be read"))
        assert gateway.counts() == {State.INCOMING: 1}
        os.rename(away, gateway.spool.incoming)
        until(all_sent(gateway))


# Stopping


def test_a_stop_lets_requests_end_and_begins_no_other(gateway: Gateway) -> None:
    """After stop, what is under way is finished and settled, the rest stays in incoming/, untouched."""
    gateway.configure(threads=2, batch_instances=2)
    gateway.receive(10)
    gateway.archive.seconds = 0.3
    with gateway.running():
        until(lambda: len(gateway.archive.requests) == 2)
    assert gateway.scheduler.under_way == 0
    assert len(gateway.archive.requests) == 2
    assert gateway.counts() == {State.SENT: 4, State.INCOMING: 6}
    assert len(gateway.incoming()) == 6


def test_a_drain_that_is_too_short_says_so(gateway: Gateway) -> None:
    """drain waits no longer than it is told; what is not finished then is still under way."""
    gateway.receive(1)
    gateway.archive.seconds = 0.5
    thread = threading.Thread(target=gateway.scheduler.run)
    thread.start()
    until(lambda: gateway.archive.requests)
    gateway.scheduler.stop()
    thread.join(5)
    begun = time.monotonic()
    assert not gateway.scheduler.drain(0.1)
    assert time.monotonic() - begun < 0.3
    assert gateway.scheduler.under_way == 1
    assert gateway.scheduler.drain(5.0)
    assert gateway.counts() == {State.SENT: 1}


def test_a_stop_is_heard_behind_many_events(gateway: Gateway) -> None:
    """A stop behind thousands of events ends the loop all the same, and soon."""
    for number in range(20_000):
        gateway.scheduler.notice(Seen(f"{number}.dcm"))
    gateway.scheduler.stop()
    gateway.scheduler.notice(Rescan())
    thread = threading.Thread(target=gateway.scheduler.run)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert gateway.scheduler.drain(1.0)


def test_a_charge_is_not_begun_while_stopping(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict on another one that comes after the stop begins nothing new."""
    gateway.receive(2)
    gateway.configure(batch_instances=1)
    charged: list[Request] = []

    def charge(_delivery: Delivery, request: Request, _trouble: Trouble) -> Report:
        charged.append(request)
        return Report()

    def before(_parts: Sequence[Part]) -> None:
        if len(gateway.archive.requests) == 2:
            gateway.scheduler.stop()
            time.sleep(0.1)

    monkeypatch.setattr(Delivery, "charge", charge)
    gateway.archive.script = [ERROR]
    gateway.archive.before = before
    with gateway.running():
        until(lambda: gateway.archive.stored)
    assert len(gateway.archive.requests) == 2
    assert not charged


# Every end that a probe can come to


class Scripted:
    """A delivery whose reports a test makes: every name is sent, but for what `ends` says of the next deliveries."""

    def __init__(self, ends: list[Callable[[list[str]], Report]]) -> None:
        self.ends = ends
        self.delivered: list[list[str]] = []
        self.sent: set[str] = set()
        self.charged: list[str] = []
        self.tries: list[int] = []

    def deliver(self, requests: Sequence[Request], *, tries: int = 3) -> Report:
        """Come to the next end."""
        names = [request.name for request in requests]
        self.delivered.append(names)
        self.tries.append(tries)
        if self.ends:
            return self.ends.pop(0)(names)
        self.sent |= set(names)
        return Report(dict.fromkeys(names, Fate.SETTLED), answered=True, judged=set(names))

    def charge(self, request: Request, _trouble: Trouble) -> Report:
        """Charge, and be done with it."""
        self.charged.append(request.name)
        return Report({request.name: Fate.SETTLED})

    def record_late(self) -> None:
        """Nothing is late."""


def trouble(*, suspect: bool) -> Callable[[list[str]], Report]:
    def end(names: list[str]) -> Report:
        return Report(
            dict.fromkeys(names, Fate.LATER), trouble=Trouble("HTTP 500", 500, suspect=suspect), accused=tuple(names)
        )

    return end


def fate(what: Fate) -> Callable[[list[str]], Report]:
    return lambda names: Report(dict.fromkeys(names, what))


def raising(error: BaseException) -> Callable[[list[str]], Report]:
    def end(_names: list[str]) -> Report:
        raise error

    return end


PROBE_ENDS: dict[str, Callable[[list[str]], Report]] = {
    "busy": fate(Fate.BUSY),
    "unsettled": fate(Fate.UNSETTLED),
    "gone": fate(Fate.SETTLED),
    "later": fate(Fate.LATER),
    "no fate at all": lambda _names: Report(),
    "the ledger fails": raising(LedgerError("the ledger cannot be used now")),
    "a bug": raising(RuntimeError("a bug")),
    "trouble again": trouble(suspect=True),
    "another trouble": trouble(suspect=False),
}


@pytest.mark.parametrize("first", [True, False], ids=["in doubt", "in a pause"])
@pytest.mark.parametrize("end", PROBE_ENDS)
def test_no_end_of_a_probe_stops_the_line(gateway: Gateway, end: str, first: bool) -> None:  # noqa: FBT001
    """Whatever a probe comes to, another one follows until one is answered, and everybody is sent or charged."""
    gateway.configure(batch_instances=1)
    gateway.receive(6)
    names = gateway.incoming()
    scripted = Scripted([trouble(suspect=first), PROBE_ENDS[end], PROBE_ENDS[end]])
    gateway.scheduler._delivery = scripted  # type: ignore[assignment]
    with gateway.running():
        until(lambda: len(scripted.sent | set(scripted.charged)) >= (4 if end == "gone" else 6))
        until(lambda: gateway.destination.mode is Mode.OPEN)
    assert not gateway.destination.probing
    assert scripted.delivered[0] != scripted.delivered[1] or not first
    assert scripted.tries[1] == 1, "a probe is one try"
    assert scripted.sent <= names


def test_while_a_probe_is_out_nobody_else_goes(gateway: Gateway) -> None:
    """In doubt and in a pause there is one request at a time, however many threads there are."""
    gateway.configure(threads=4, batch_instances=1)
    gateway.archive.seconds = 0.05
    gateway.archive.down = ERROR
    gateway.receive(20)
    with gateway.running():
        until(lambda: gateway.destination.mode is not Mode.OPEN)
        until(lambda: gateway.scheduler.under_way <= 1)
        gateway.archive.busiest = 0
        seen = len(gateway.archive.requests)
        until(lambda: len(gateway.archive.requests) > seen + 4)
        assert gateway.archive.busiest == 1


def test_files_that_are_given_back_are_delivered_once_more_not_twice(gateway: Gateway) -> None:
    """Each name is in hand of one delivery at a time, whatever deliveries come to."""
    gateway.configure(threads=4, batch_instances=2)
    gateway.receive(12)
    now: Counter[str] = Counter()
    twice: list[str] = []
    ends = itertools.cycle(
        [trouble(suspect=True), fate(Fate.BUSY), fate(Fate.LATER), fate(Fate.UNSETTLED), trouble(suspect=False)]
    )
    lock = threading.Lock()
    stop = time.monotonic() + 0.5

    class Watching(Scripted):
        def deliver(self, requests: Sequence[Request], *, tries: int = 3) -> Report:
            """Note who is in hand."""
            names = [request.name for request in requests]
            with lock:
                now.update(names)
                twice.extend(name for name in names if now[name] > 1)
                end = next(ends)
            time.sleep(0.005)
            with lock:
                now.subtract(names)
            return super().deliver(requests, tries=tries) if time.monotonic() > stop else end(names)

    scripted = Watching([])
    gateway.scheduler._delivery = scripted  # type: ignore[assignment]
    with gateway.running():
        until(lambda: len(scripted.sent | set(scripted.charged)) == 12)
    assert not twice
    assert gateway.backlog.in_hand == 0


def test_a_name_that_cannot_be_looked_at_does_not_end_the_loop(gateway: Gateway, tmp_path: Path) -> None:
    """Odd names, in any encoding, are delivered like others."""
    make_instance(tmp_path / "x.dcm")
    os.rename(tmp_path / "x.dcm", os.fsencode(gateway.spool.incoming) + b"/M\xfcller \xff.dcm")
    with gateway.running():
        until(all_sent(gateway))
