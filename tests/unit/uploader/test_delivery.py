"""One delivery after the other, on a real spool and ledger: the fate of every file, and what survives what."""

import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from uploader_fakes import ERROR, FAILURE, UNAVAILABLE, Gateway, failed, stored, until

from common.errors import LedgerError
from common.ledger import Ledger
from common.quarantine import QuarantineSlot
from common.records import Cause, Event, Outcome, State
from common.spool import Claim
from support.samples import bundled_folder, make_instance
from uploader.delivery import Fate, Report, Request
from uploader.multipart import Aborted, Part, PartError
from uploader.verdict import Answer, StoreResponse, Trouble

NAME = "0.dcm"


def deliver(gateway: Gateway, *names: str, settled: bool = True) -> Report:
    """Deliver these, or everything that is in incoming/."""
    found = names or sorted(gateway.incoming(), key=lambda name: (len(name), name))
    return gateway.delivery.deliver([Request(name, settled) for name in found])


def sidecar(gateway: Gateway, name: str = NAME) -> dict[str, Any]:
    return dict(json.loads((gateway.spool.quarantine.path / f"{name}.json").read_text()))


def events(gateway: Gateway, name: str = NAME) -> list[Event]:
    return [event.event for event in gateway.ledger.events(name)]


def is_unclaimed(gateway: Gateway) -> bool:
    """Tell whether nobody holds any file of incoming/ any more."""
    for name in gateway.incoming():
        gateway.spool.claim(name).close()
    return True


# Fates


def test_what_is_sent_is_deleted_and_recorded(gateway: Gateway, lines: Any) -> None:
    """Confirmed files are gone, their rows say sent with one attempt, and a line names each with its UID."""
    uids = gateway.drop(3)
    report = deliver(gateway)
    assert report.fates == dict.fromkeys(("0.dcm", "1.dcm", "2.dcm"), Fate.SETTLED)
    assert (report.sent, report.answered, report.trouble) == (3, True, None)
    assert not gateway.incoming()
    assert set(gateway.archive.stored) == set(uids)
    assert {(row.state, row.attempts, row.http_status) for row in gateway.rows().values()} == {(State.SENT, 1, 200)}
    assert events(gateway) == [Event.ADOPTED, Event.SENT]
    assert [fields["sop_instance_uid"] for fields in lines("sent")] == uids
    assert all(None not in fields.values() and "cause" not in fields for fields in lines("sent"))


def test_a_receivers_file_is_sent_without_being_read_first(gateway: Gateway) -> None:
    """What a receiver recorded goes out as it is, and its row becomes sent."""
    (uid,) = gateway.receive(1)
    deliver(gateway, settled=False)
    row = gateway.rows()[uid]
    assert (row.state, row.calling_ae_title) == (State.SENT, "MODALITY")


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (lambda uids: Answer(status=202, response=StoreResponse(stored=dict.fromkeys(uids, 0xB000))), Cause.WARNING),
        (lambda uids: failed(dict.fromkeys(uids, 0x0111)), Cause.DUPLICATE),
    ],
    ids=["warning", "duplicate"],
)
def test_what_was_special_about_sending_is_recorded(
    gateway: Gateway, lines: Any, reply: Callable[[list[str]], Answer], cause: Cause
) -> None:
    """A warning or a duplicate is sent all the same, with that cause in row, event and log."""
    (uid,) = gateway.drop(1)
    gateway.archive.script = [reply]
    assert deliver(gateway).fates == {NAME: Fate.SETTLED}
    assert (gateway.rows()[uid].state, gateway.rows()[uid].cause) == (State.SENT, cause)
    (fields,) = lines("sent")
    assert fields["cause"] == cause
    assert gateway.ledger.events(NAME)[-1].detail == fields["outcome"]


def test_a_file_that_fails_for_the_time_being_is_due_later(gateway: Gateway, lines: Any) -> None:
    """A temporary failure is an attempt: counted, with the time of the next one in row and report."""
    (uid,) = gateway.drop(1)
    gateway.archive.script = [lambda uids: failed(dict.fromkeys(uids, 0xA700))]
    report = deliver(gateway)
    assert report.fates == {NAME: Fate.LATER}
    assert 0.01 <= report.delays[NAME] <= 0.02
    row = gateway.rows()[uid]
    assert (row.state, row.attempts, row.http_status) == (State.INCOMING, 1, 409)
    assert row.next_attempt_at is not None
    assert events(gateway) == [Event.ADOPTED, Event.ATTEMPT]
    assert [fields["attempts"] for fields in lines("not accepted, to be tried again")] == [1]


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (lambda uids: failed(dict.fromkeys(uids, 0xA700)), Cause.GAVE_UP),
        (lambda _uids: Answer(status=200), Cause.UNCONFIRMED),
        (lambda _uids: stored(["9.9.9"]), Cause.UNCONFIRMED),
        (lambda _uids: Answer(status=418), Cause.GAVE_UP),
    ],
    ids=["out of resources", "200 without a body", "200 for another", "418"],
)
def test_at_the_limit_of_attempts_a_file_is_quarantined(
    gateway: Gateway, reply: Callable[[list[str]], Answer], cause: Cause
) -> None:
    """After max_attempts, and not before, the file goes to quarantine with the cause of its last attempt."""
    (uid,) = gateway.drop(1)
    gateway.archive.poison = {uid: reply}
    for attempts in (1, 2):
        assert deliver(gateway).fates == {NAME: Fate.LATER}
        assert gateway.rows()[uid].attempts == attempts
    assert deliver(gateway).fates == {NAME: Fate.SETTLED}
    row = gateway.rows()[uid]
    assert (row.state, row.cause, row.attempts) == (State.QUARANTINE, cause, 3)
    assert (sidecar(gateway)["cause"], sidecar(gateway)["attempts"]) == (cause, 3)
    assert events(gateway) == [Event.ADOPTED, Event.ATTEMPT, Event.ATTEMPT, Event.QUARANTINED]


def test_attempts_survive_a_restart(gateway: Gateway) -> None:
    """The limit counts attempts of former processes too."""
    (uid,) = gateway.drop(1)
    gateway.archive.poison = {uid: Answer(status=200)}
    for _ in range(3):
        gateway.assemble()
        deliver(gateway)
    assert gateway.rows()[uid].state is State.QUARANTINE


def test_a_file_is_refused_for_good(gateway: Gateway) -> None:
    """A permanent failure is one attempt and quarantine, with FailureReason and answer in the sidecar."""
    (uid,) = gateway.drop(1)
    gateway.archive.script = [
        Answer(status=409, response=StoreResponse(failed={uid: 0xA900}), excerpt='{"00081198": "no"}')
    ]
    assert deliver(gateway).fates == {NAME: Fate.SETTLED}
    reason = sidecar(gateway)
    assert (reason["cause"], reason["failure_reason"], reason["http_status"]) == ("refused", 0xA900, 409)
    assert reason["answer"] == '{"00081198": "no"}'
    assert gateway.rows()[uid].attempts == 1


@pytest.mark.parametrize("answer", [UNAVAILABLE, ERROR, FAILURE, Answer(status=401)], ids=str)
def test_a_trouble_of_the_destination_costs_no_file_anything(gateway: Gateway, answer: Answer) -> None:
    """In a trouble every file is owed as before: no attempts, no time to wait, no claim, and all of them are named."""
    gateway.drop(3)
    gateway.archive.down = answer
    report = deliver(gateway)
    assert report.fates == dict.fromkeys(("0.dcm", "1.dcm", "2.dcm"), Fate.LATER)
    assert report.delays == {}
    assert isinstance(report.trouble, Trouble)
    assert report.accused == ("0.dcm", "1.dcm", "2.dcm")
    assert not report.answered
    assert not report.judged
    assert {(row.state, row.attempts, row.next_attempt_at) for row in gateway.rows().values()} == {
        (State.INCOMING, 0, None)
    }
    assert events(gateway) == [Event.ADOPTED]
    assert is_unclaimed(gateway)


def test_what_cannot_be_sent_does_not_hold_up_the_others(gateway: Gateway) -> None:
    """Bad files of a batch are quarantined, the others are sent in the same delivery."""
    (uid,) = gateway.drop(1)
    (gateway.spool.incoming / "notes.txt").write_text("call me back")
    (gateway.spool.incoming / "link").symlink_to("/etc/passwd")
    report = deliver(gateway, "notes.txt", "link", NAME)
    assert set(report.fates.values()) == {Fate.SETTLED}
    assert gateway.quarantined() == {"notes.txt", "link"}
    assert gateway.archive.requests == [[uid]]


def test_a_busy_file_and_a_file_that_is_gone(gateway: Gateway) -> None:
    """Who is held by another process is BUSY, who is gone is SETTLED; without anybody else nothing is sent."""
    gateway.drop(1)
    with gateway.spool.claim(NAME):
        report = deliver(gateway, NAME, "gone.dcm")
    assert report.fates == {NAME: Fate.BUSY, "gone.dcm": Fate.SETTLED}
    assert not report.answered
    assert not gateway.archive.requests


def test_a_file_still_open_for_writing_is_left_alone(gateway: Gateway) -> None:
    """A file that its writer has not finished is neither sent nor quarantined; when it is whole, it is sent."""
    content = (bundled_folder() / "CT_small.dcm").read_bytes()
    with open(gateway.spool.incoming / NAME, "wb") as file:
        file.write(content[:20_000])
        file.flush()
        assert deliver(gateway).fates == {NAME: Fate.UNSETTLED}
        assert not gateway.archive.requests
        assert not gateway.quarantined()
        file.write(content[20_000:])
    assert deliver(gateway).fates == {NAME: Fate.SETTLED}
    assert len(gateway.archive.stored) == 1


def test_a_file_without_a_row_is_not_sent_before_it_is_settled(gateway: Gateway) -> None:
    """A file of which the ledger does not say that it is owed is looked at anew when it is quiet."""
    gateway.drop(1)
    assert deliver(gateway, settled=False).fates == {NAME: Fate.UNSETTLED}
    assert not gateway.archive.requests


def test_two_files_of_one_instance_go_one_after_the_other(gateway: Gateway) -> None:
    """An answer names instances by UID: of two files with one UID, the second waits for the next request."""
    (uid,) = gateway.drop(1)
    make_instance(gateway.spool.incoming / "1.dcm", SOPInstanceUID=uid, PatientComments="the other one")
    report = deliver(gateway)
    assert report.fates == {"0.dcm": Fate.SETTLED, "1.dcm": Fate.LATER}
    assert "1.dcm" not in report.delays
    assert is_unclaimed(gateway)
    assert deliver(gateway).fates == {"1.dcm": Fate.SETTLED}
    assert gateway.archive.requests == [[uid], [uid]]


# Batches that are refused


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422])
@pytest.mark.parametrize("place", [0, 7, 19])
def test_one_poisonous_instance_is_found_in_few_requests(gateway: Gateway, status: int, place: int) -> None:
    """A batch refused without a word goes in halves: nineteen are sent, one is quarantined, in 2 log2(n) requests."""
    uids = gateway.drop(20)
    poison = uids[place]
    gateway.archive.poison = {poison: Answer(status=status, excerpt="cannot parse it")}
    report = deliver(gateway)
    assert set(report.fates.values()) == {Fate.SETTLED}
    assert set(gateway.archive.stored) == set(uids) - {poison}
    assert set(gateway.archive.stored.values()) == {1}
    assert gateway.quarantined() == {f"{place}.dcm"}
    reason = sidecar(gateway, f"{place}.dcm")
    cause = {409: "conflict", 413: "too-large"}.get(status, "refused")
    assert (reason["cause"], reason["http_status"], reason["answer"]) == (cause, status, "cannot parse it")
    assert len(gateway.archive.requests) <= 1 + 2 * math.ceil(math.log2(20))
    assert {row.attempts for row in gateway.rows().values()} == {1}


def test_a_refusal_that_names_its_culprit_takes_two_requests(gateway: Gateway) -> None:
    """If the archive names who is to blame, that one is quarantined with the archive's words, the others go at once."""
    uids = gateway.drop(20)
    poison = uids[7]
    said = json.dumps({"00081155": {"vr": "UI", "Value": [poison]}}, separators=(",", ":"))
    gateway.archive.poison = {
        poison: Answer(
            status=400, response=StoreResponse(failed={poison: 0xC000}, entries={poison: said}), excerpt="[…]"
        )
    }
    deliver(gateway)
    assert set(gateway.archive.stored) == set(uids) - {poison}
    assert len(gateway.archive.requests) == 2
    assert sidecar(gateway, "7.dcm")["answer"] == said
    assert {row.attempts for row in gateway.rows().values()} == {1}


def test_a_batch_with_every_kind_of_verdict(gateway: Gateway) -> None:
    """One answer settles each of its instances by its own verdict."""
    uids = gateway.drop(4)
    response = StoreResponse(stored={uids[0]: None}, failed={uids[1]: 0xC000, uids[2]: 0xA700})
    gateway.archive.script = [Answer(status=202, response=response)]
    report = deliver(gateway)
    assert [report.fates[f"{n}.dcm"] for n in range(4)] == [Fate.SETTLED, Fate.SETTLED, Fate.LATER, Fate.LATER]
    assert report.sent == 1
    assert [gateway.rows()[uid].state for uid in uids] == [
        State.SENT,
        State.QUARANTINE,
        State.INCOMING,
        State.INCOMING,
    ]


def test_a_trouble_in_the_middle_keeps_what_was_settled(gateway: Gateway) -> None:
    """When a later request of a split batch meets trouble, only the files of that one are accused; the rest is owed."""
    uids = gateway.drop(8)
    gateway.archive.script = [Answer(status=400), stored(uids[:4]), Answer(status=400), UNAVAILABLE]
    report = deliver(gateway)
    assert report.answered
    assert report.judged == {"0.dcm", "1.dcm", "2.dcm", "3.dcm"}, "who was not sent yet has not passed"
    assert report.accused == ("4.dcm", "5.dcm")
    assert [report.fates[f"{n}.dcm"] for n in range(8)] == [Fate.SETTLED] * 4 + [Fate.LATER] * 4
    assert gateway.counts() == {State.SENT: 4, State.INCOMING: 4}
    assert {gateway.rows()[uid].attempts for uid in uids[4:]} == {0}


# Files that change


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"\0" * 8)


def replace(path: Path) -> None:
    make_instance(path.parent / ".new.dcm")
    os.replace(path.parent / ".new.dcm", path)


def touch(path: Path) -> None:
    path.touch()


def truncate(path: Path) -> None:
    os.truncate(path, 500)


ANSWERS: dict[str, Callable[[list[str]], Answer]] = {
    "sent": stored,
    "refused": lambda uids: failed(dict.fromkeys(uids, 0xC000)),
    "temporary": lambda uids: failed(dict.fromkeys(uids, 0xA700)),
}


@pytest.mark.parametrize("change", [append, replace, touch, truncate], ids=lambda change: change.__name__)
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_verdict_is_about_the_bytes_that_were_claimed(
    gateway: Gateway, change: Callable[[Path], None], answer: str
) -> None:
    """A file that changes while it is sent is not deleted, quarantined or charged: it is looked at anew."""
    (uid,) = gateway.drop(1)
    gateway.archive.script = [ANSWERS[answer]]
    gateway.archive.before = lambda _parts: change(gateway.spool.incoming / NAME)
    report = deliver(gateway)
    assert report.fates == {NAME: Fate.UNSETTLED}
    assert gateway.incoming() == {NAME}
    assert not gateway.quarantined()
    assert (gateway.rows()[uid].state, gateway.rows()[uid].attempts) == (State.INCOMING, 0)
    assert report.sent == 0


def test_a_file_replaced_between_row_and_deletion_stays(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even after its row says sent, a name that leads to other bytes is not deleted; they are sent in their turn."""
    (old,) = gateway.drop(1)
    real = Ledger.sent

    def sent_and_replaced(ledger: Ledger, outcomes: Sequence[Outcome]) -> None:
        real(ledger, outcomes)
        replace(gateway.spool.incoming / NAME)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "sent", sent_and_replaced)
        assert deliver(gateway).fates == {NAME: Fate.UNSETTLED}
    assert deliver(gateway).fates == {NAME: Fate.SETTLED}
    assert len(gateway.archive.stored) == 2
    assert gateway.rows()[old].state is State.SENT


def test_a_file_taken_away_while_it_was_sent(gateway: Gateway) -> None:
    """A file that is gone when its answer comes is nobody's any more; the scan calls it removed."""
    (uid,) = gateway.drop(1)
    gateway.archive.before = lambda _parts: (gateway.spool.incoming / NAME).unlink()
    assert deliver(gateway).fates == {NAME: Fate.UNSETTLED}
    gateway.reconciling.scan(0.0)
    assert gateway.rows()[uid].state is State.REMOVED


def test_a_file_that_shrinks_is_left_out_and_the_others_go(gateway: Gateway) -> None:
    """A part that cannot be read as it was claimed is looked at anew; the rest goes in another request."""
    uids = gateway.drop(3)
    shrink = itertools.chain([True], itertools.repeat(False))

    def before(parts: Sequence[Part]) -> None:
        if next(shrink):
            raise PartError(parts[1])

    gateway.archive.before = before
    report = deliver(gateway)
    assert report.fates == {"0.dcm": Fate.SETTLED, "1.dcm": Fate.UNSETTLED, "2.dcm": Fate.SETTLED}
    assert [len(request) for request in gateway.archive.requests] == [3, 2]
    assert set(gateway.archive.stored) == {uids[0], uids[2]}


@pytest.mark.parametrize("ledger_fails", [False, True])
def test_a_file_on_a_bad_sector_is_quarantined(
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
    ledger_fails: bool,  # noqa: FBT001
) -> None:
    """A part that the disk cannot give is unreadable; with the ledger away it waits, and the others go all the same."""
    gateway.drop(2)
    broken = itertools.chain([True], itertools.repeat(False))

    def fail(*_arguments: Any) -> None:
        raise LedgerError("the ledger cannot be used now")

    def before(parts: Sequence[Part]) -> None:
        if next(broken):
            if ledger_fails:
                monkeypatch.setattr(gateway.ledger, "adopt", fail)
            raise PartError(parts[0]) from OSError(5, "Input/output error")

    gateway.archive.before = before
    report = deliver(gateway)
    assert report.fates == {"0.dcm": Fate.LATER if ledger_fails else Fate.SETTLED, "1.dcm": Fate.SETTLED}
    assert len(gateway.archive.stored) == 1
    if not ledger_fails:
        assert sidecar(gateway)["cause"] == "unreadable"
        assert sidecar(gateway)["detail"] == "expected a readable file, found: Input/output error"


def test_an_abort_leaves_everything_owed_and_unclaimed(gateway: Gateway) -> None:
    """A delivery that is cut raises, and lets go of its files."""
    gateway.drop(2)

    def cut(_parts: Sequence[Part]) -> None:
        raise Aborted

    gateway.archive.before = cut
    with pytest.raises(Aborted):
        deliver(gateway)
    assert len(gateway.incoming()) == 2
    assert is_unclaimed(gateway)
    assert {row.attempts for row in gateway.rows().values()} == {0}


def test_a_file_that_cannot_be_deleted_is_sent_again_later(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, lines: Any
) -> None:
    """A confirmed file that the disk does not let go is due again after the longest wait; then it is sent again."""
    (uid,) = gateway.drop(1)

    def fail(_claim: Claim) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Claim, "delete", fail)
        report = deliver(gateway)
    assert report.fates == {NAME: Fate.LATER}
    assert report.delays == {NAME: 0.05}
    assert lines("sent, but it cannot be deleted")
    deliver(gateway)
    assert not gateway.incoming()
    assert gateway.archive.stored == {uid: 2}
    assert gateway.rows()[uid].state is State.SENT


# Charges


def test_a_charge_counts_an_attempt(gateway: Gateway) -> None:
    """Who is charged has an attempt with the status of the trouble, and waits for the next one."""
    (uid,) = gateway.drop(1)
    report = gateway.delivery.charge(Request(NAME, settled=True), Trouble("HTTP 500", 500, suspect=True))
    assert report.fates == {NAME: Fate.LATER}
    assert NAME in report.delays
    assert not report.answered
    row = gateway.rows()[uid]
    assert (row.state, row.attempts, row.http_status) == (State.INCOMING, 1, 500)
    assert gateway.ledger.events(NAME)[-1].detail == "HTTP 500, for this instance only: others pass"
    assert is_unclaimed(gateway)
    assert not gateway.archive.requests


def test_a_charge_at_the_limit_gives_up(gateway: Gateway) -> None:
    """At max_attempts a charge is quarantine: gave-up, with the trouble in words."""
    (uid,) = gateway.drop(1)
    for _ in range(3):
        report = gateway.delivery.charge(Request(NAME, settled=True), Trouble("the connection broke", suspect=True))
    assert report.fates == {NAME: Fate.SETTLED}
    reason = sidecar(gateway)
    assert (reason["cause"], reason["attempts"], reason["http_status"]) == ("gave-up", 3, None)
    assert reason["detail"] == "the connection broke, for this instance only: others pass"
    assert gateway.rows()[uid].state is State.QUARANTINE


def test_a_charge_does_not_judge_what_a_receiver_has_taken_in(gateway: Gateway) -> None:
    """A received instance that ends inside its pixel data is the archive's to judge: charged, not called truncated."""
    (uid,) = gateway.receive(1)
    (name,) = gateway.incoming()
    size = os.stat(gateway.spool.incoming / name).st_size - 10
    os.truncate(gateway.spool.incoming / name, size)
    with gateway.ledger._database.transaction() as connection:
        connection.execute("UPDATE instances SET size_bytes = ?", (size,))
    for attempts in (1, 2):
        report = gateway.delivery.charge(Request(name, settled=False), Trouble("HTTP 500", 500, suspect=True))
        assert report.fates == {name: Fate.LATER}
        assert gateway.rows()[uid].attempts == attempts


def test_who_is_gone_or_busy_is_not_charged(gateway: Gateway) -> None:
    """A charge against a file that is not to be had changes nothing."""
    gateway.drop(1)
    trouble = Trouble("HTTP 500", 500, suspect=True)
    with gateway.spool.claim(NAME):
        assert gateway.delivery.charge(Request(NAME, settled=True), trouble).fates == {NAME: Fate.BUSY}
    assert gateway.delivery.charge(Request("gone", settled=True), trouble).fates == {"gone": Fate.SETTLED}
    assert not gateway.ledger.latest(10)


# A ledger that fails


def broken_ledger(patch: pytest.MonkeyPatch, gateway: Gateway, *methods: str) -> None:
    def fail(*_arguments: Any, **_settings: Any) -> None:
        raise LedgerError("the ledger cannot be used now")

    for method in methods:
        patch.setattr(gateway.ledger, method, fail)


@pytest.mark.parametrize("method", ["known", "adopt"])
def test_no_file_is_begun_without_the_ledger(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """If the ledger fails while files are taken in hand, nothing is sent and everything is let go."""
    gateway.drop(3)
    with monkeypatch.context() as patch:
        broken_ledger(patch, gateway, method)
        with pytest.raises(LedgerError):
            deliver(gateway)
    assert len(gateway.incoming()) == 3
    assert is_unclaimed(gateway)
    assert not gateway.archive.requests
    deliver(gateway)
    assert gateway.counts() == {State.SENT: 3}


def test_what_is_confirmed_is_deleted_though_it_cannot_be_recorded(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, lines: Any
) -> None:
    """A ledger that fails at U4 keeps no file: the destination has it; the row is written as soon as it can be."""
    uids = gateway.drop(3)
    with monkeypatch.context() as patch:
        broken_ledger(patch, gateway, "sent")
        report = deliver(gateway)
        assert set(report.fates.values()) == {Fate.SETTLED}
        assert not gateway.incoming()
        gateway.delivery.record_late()
        assert gateway.counts() == {State.INCOMING: 3}
    assert lines("sent, but not recorded yet")
    gateway.delivery.record_late()
    assert gateway.counts() == {State.SENT: 3}
    gateway.delivery.record_late()
    assert [fields["instances"] for fields in lines("ledger caught up")] == [3]
    assert {row.attempts for row in gateway.rows().values()} == {1}
    assert set(gateway.archive.stored) == set(uids)


def test_the_next_delivery_records_what_is_late(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that could not be written are written before anything else is begun."""
    gateway.drop(1)
    with monkeypatch.context() as patch:
        broken_ledger(patch, gateway, "sent")
        deliver(gateway)
    gateway.drop(1)
    deliver(gateway)
    assert gateway.counts() == {State.SENT: 2}


def test_an_unrecorded_row_ends_as_removed_after_a_crash(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the process dies before it can record what it sent, the account suffers, not the instance."""
    (uid,) = gateway.drop(1)
    with monkeypatch.context() as patch:
        broken_ledger(patch, gateway, "sent")
        deliver(gateway)
    gateway.assemble()
    gateway.reconciling.scan(0.0)
    assert gateway.archive.stored == {uid: 1}
    assert gateway.rows()[uid].state is State.REMOVED


def test_attempts_that_cannot_be_recorded_wait_all_the_same(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that fails after a temporary failure costs the count, not the file and not the wait."""
    (uid,) = gateway.drop(1)
    gateway.archive.poison = {uid: Answer(status=200)}
    with monkeypatch.context() as patch:
        broken_ledger(patch, gateway, "retried")
        report = deliver(gateway)
    assert report.fates == {NAME: Fate.LATER}
    assert report.delays[NAME] > 0
    assert gateway.rows()[uid].attempts == 0


def test_a_refused_file_waits_for_the_ledger(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that fails at U7 leaves a refused file in incoming/; it is refused again, and quarantined then."""
    (uid,) = gateway.drop(1)
    gateway.archive.poison = {uid: Answer(status=400)}
    with monkeypatch.context() as patch:
        broken_ledger(patch, gateway, "quarantined")
        report = deliver(gateway)
    assert (report.fates, report.delays) == ({NAME: Fate.LATER}, {NAME: 0.05})
    assert gateway.incoming() == {NAME}
    deliver(gateway)
    assert gateway.quarantined() == {NAME}
    assert gateway.rows()[uid].attempts == 1


def test_a_ledger_that_fails_in_the_middle_of_a_batch_forgets_nobody(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the ledger fails after one file of a batch was rejected, the next delivery settles all of them."""
    uids = gateway.drop(2)
    (gateway.spool.incoming / "notes.txt").write_text("call me back")
    real = gateway.ledger.adopt

    def fail_for_the_last(name: str, *arguments: Any) -> Event | None:
        if name == "1.dcm":
            raise LedgerError("the ledger cannot be used now")
        return real(name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(gateway.ledger, "adopt", fail_for_the_last)
        with pytest.raises(LedgerError):
            deliver(gateway, "notes.txt", "0.dcm", "1.dcm")
    report = deliver(gateway, "notes.txt", "0.dcm", "1.dcm")
    assert set(report.fates.values()) == {Fate.SETTLED}
    assert set(gateway.archive.stored) == set(uids)
    assert gateway.quarantined() == {"notes.txt"}


# Crashes


class CrashError(BaseException):
    """The process dies here."""


def crash_after(patch: pytest.MonkeyPatch, owner: type, method: str) -> None:
    """Let a step happen, and then the process die."""
    real = getattr(owner, method)

    def call(*arguments: Any, **settings: Any) -> None:
        real(*arguments, **settings)
        raise CrashError

    patch.setattr(owner, method, call)


STEPS: dict[str, tuple[type, str, bool]] = {
    "U1 the file is adopted": (Ledger, "adopt", False),
    "U4 the row says sent": (Ledger, "sent", False),
    "U5 the file is deleted": (Claim, "delete", False),
    "U6 the sidecar is written": (QuarantineSlot, "write_reason", True),
    "U7 the row says quarantine": (Ledger, "quarantined", True),
    "U8 the file is moved": (QuarantineSlot, "move", True),
    "an attempt is recorded": (Ledger, "retried", False),
}


@pytest.mark.parametrize(
    ("step", "origin"),
    [
        (step, origin)
        for step in STEPS
        for origin in ("dropped", "received")
        if STEPS[step][1] != "adopt" or origin == "dropped"  # what was received has its row
    ],
)
def test_a_crash_after_each_step_is_cleaned_up(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, step: str, origin: str
) -> None:
    """Whichever step is the last before a crash, a restart with a scan brings everything to its end."""
    owner, method, poisonous = STEPS[step]
    (uid,) = gateway.drop(1) if origin == "dropped" else gateway.receive(1)
    (name,) = gateway.incoming()
    if poisonous:
        gateway.archive.poison = {uid: Answer(status=400)}
    if method == "retried":
        gateway.archive.script = [Answer(status=200)]
    with monkeypatch.context() as patch:
        crash_after(patch, owner, method)
        with pytest.raises(CrashError):
            deliver(gateway, settled=origin == "dropped")
    if method not in {"delete", "move"}:
        assert gateway.incoming() == {name}, "the file is still owed"
    gateway.spool.quarantine.sweep()  # as the uploader does at its start
    gateway.assemble()
    with gateway.running():
        until(lambda: not gateway.incoming() and State.INCOMING not in gateway.counts())
    row = gateway.rows()[uid]
    if poisonous:
        assert (row.state, row.cause, row.file_name) == (State.QUARANTINE, Cause.REFUSED, name)
        assert gateway.quarantined() == {name}
        assert sorted(path.name for path in gateway.spool.quarantine.path.iterdir()) == [name, f"{name}.json"]
        assert sidecar(gateway, name)["cause"] == "refused"
    else:
        assert row.state is State.SENT
        assert gateway.archive.stored[uid] == (2 if method == "sent" else 1)
        assert not list(gateway.spool.quarantine.path.iterdir())
    assert gateway.counts() == {row.state: 1}


def test_the_row_is_written_before_the_file_is_deleted(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """U4 before U5: when a file is deleted, its row says sent already."""
    (uid,) = gateway.drop(1)
    states: list[State] = []
    real = Claim.delete

    def delete(claim: Claim) -> None:
        states.append(gateway.rows()[uid].state)
        real(claim)

    monkeypatch.setattr(Claim, "delete", delete)
    deliver(gateway)
    assert states == [State.SENT]
