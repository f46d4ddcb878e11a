"""Deliveries that ask the archive before a file is deleted: what is settled, what waits, and who is charged."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from uploader_fakes import ERROR, FAILURE, UNAVAILABLE, Gateway, failed, stored, uid_of, until

from common.config import Verify
from common.records import Cause, Event, State
from common.spool import Claim
from uploader.delivery import Confirm, Fate, Report, Request
from uploader.multipart import PartError
from uploader.verdict import Answer, Trouble, Verdict
from uploader.verifying import Finding, Found, verified

SAME = Found(Finding.SAME, "the archive has the same dataset")
OTHER = Found(Finding.DIFFERENT, "it differs from the archive's at (0010,0010)")
MISSING = Found(Finding.MISSING, "HTTP 404 to the retrieve")


def retrieving(ask: Callable[[Claim], Found | Answer]) -> Confirm:
    """`verify = retrieve`, with an archive that answers so."""
    return lambda verdict, status, claim: verified(verdict, status, Verify.RETRIEVE, lambda _question: ask(claim))


def deliver(gateway: Gateway) -> Report:
    names = sorted(gateway.incoming(), key=lambda name: (len(name), name))
    return gateway.delivery.deliver([Request(name, settled=True) for name in names])


def test_what_the_archive_has_is_sent(gateway: Gateway) -> None:
    """Stored, and the same when it is asked for: the file goes."""
    (uid,) = gateway.drop(1)
    gateway.confirm = retrieving(lambda _claim: SAME)
    assert deliver(gateway).fates == {"0.dcm": Fate.SETTLED}
    assert gateway.rows()[uid].state is State.SENT
    assert gateway.ledger.events("0.dcm")[-1].detail == "HTTP 200; the archive has the same dataset"


@pytest.mark.parametrize(
    "reply",
    [stored, lambda uids: failed(dict.fromkeys(uids, 0xB00E)), lambda _uids: Answer(status=409)],
    ids=["stored", "duplicate", "409 alone"],
)
def test_another_one_under_the_same_uid_is_a_conflict(gateway: Gateway, reply: Callable[[list[str]], Answer]) -> None:
    """Whatever the archive answers to the Store request, a different instance there quarantines this one."""
    (uid,) = gateway.drop(1)
    gateway.archive.script = [reply]
    gateway.confirm = retrieving(lambda _claim: OTHER)
    assert deliver(gateway).fates == {"0.dcm": Fate.SETTLED}
    assert (gateway.rows()[uid].state, gateway.rows()[uid].cause) == (State.QUARANTINE, Cause.CONFLICT)
    reason = json.loads((gateway.spool.quarantine.path / "0.dcm.json").read_text())
    assert reason["cause"] == "conflict"
    assert "(0010,0010)" in reason["detail"]


def test_a_conflict_that_is_none_is_a_duplicate(gateway: Gateway) -> None:
    """409 to an instance that is there already, the same, is success, recorded as what it is."""
    (uid,) = gateway.drop(1)
    gateway.archive.script = [Answer(status=409)]
    gateway.confirm = retrieving(lambda _claim: SAME)
    deliver(gateway)
    assert (gateway.rows()[uid].state, gateway.rows()[uid].cause) == (State.SENT, Cause.DUPLICATE)


def test_what_is_not_there_after_a_success_is_unconfirmed(gateway: Gateway) -> None:
    """Stored, but not to be found: an attempt, and at the limit quarantine as unconfirmed."""
    (uid,) = gateway.drop(1)
    gateway.confirm = retrieving(lambda _claim: MISSING)
    for attempts in (1, 2):
        assert deliver(gateway).fates == {"0.dcm": Fate.LATER}
        assert gateway.rows()[uid].attempts == attempts
    deliver(gateway)
    assert (gateway.rows()[uid].state, gateway.rows()[uid].cause) == (State.QUARANTINE, Cause.UNCONFIRMED)


@pytest.mark.parametrize("answer", [UNAVAILABLE, ERROR, FAILURE, Answer(status=403)], ids=str)
def test_what_cannot_be_asked_now_costs_no_file_anything(gateway: Gateway, answer: Answer) -> None:
    """In an outage of asking every file is owed as before: nothing is deleted, charged, quarantined or claimed."""
    gateway.drop(3)
    gateway.confirm = retrieving(lambda _claim: answer)
    report = deliver(gateway)
    assert report.fates == dict.fromkeys(("0.dcm", "1.dcm", "2.dcm"), Fate.LATER)
    assert isinstance(report.trouble, Trouble)
    assert report.accused == ("0.dcm",)
    assert (report.answered, report.judged, report.delays, report.sent) == (False, set(), {}, 0)
    assert {(row.state, row.attempts) for row in gateway.rows().values()} == {(State.INCOMING, 0)}
    for name in gateway.incoming():
        gateway.spool.claim(name).close()


def test_an_outage_in_the_middle_keeps_what_was_confirmed(gateway: Gateway) -> None:
    """Those that were asked about before are settled; the one that met it and those after it wait."""
    uids = gateway.drop(4)
    gateway.confirm = retrieving(lambda claim: UNAVAILABLE if uid_of(claim) == uids[2] else SAME)
    report = deliver(gateway)
    assert [report.fates[f"{n}.dcm"] for n in range(4)] == [Fate.SETTLED, Fate.SETTLED, Fate.LATER, Fate.LATER]
    assert (report.answered, report.judged, report.accused) == (True, {"0.dcm", "1.dcm"}, ("2.dcm",))
    assert gateway.counts() == {State.SENT: 2, State.INCOMING: 2}
    assert {gateway.rows()[uid].attempts for uid in uids[2:]} == {0}


def test_a_file_that_changes_while_it_is_asked_about_stays(gateway: Gateway) -> None:
    """A finding is about the bytes that were sent: a file that is another by now is looked at anew."""

    def touch(claim: Claim) -> Found:
        (gateway.spool.incoming / claim.name).touch()
        return OTHER

    gateway.drop(1)
    gateway.confirm = retrieving(touch)
    assert deliver(gateway).fates == {"0.dcm": Fate.UNSETTLED}
    assert gateway.incoming() == {"0.dcm"}
    assert not gateway.quarantined()


def test_a_file_that_cannot_be_compared_any_more_does_not_hold_up_the_others(gateway: Gateway) -> None:
    """A file that becomes shorter meanwhile is looked at anew, the others are settled."""
    uids = gateway.drop(3)

    def ask(claim: Claim) -> Found:
        if uid_of(claim) == uids[1]:
            raise PartError(claim)
        return SAME

    gateway.confirm = retrieving(ask)
    report = deliver(gateway)
    assert [report.fates[f"{n}.dcm"] for n in range(3)] == [Fate.SETTLED, Fate.UNSETTLED, Fate.SETTLED]
    assert gateway.incoming() == {"1.dcm"}


def test_nothing_is_asked_by_default(gateway: Gateway) -> None:
    """Without the setting the archive's answer counts, and nothing is sent but Store requests."""
    gateway.drop(3)
    report = deliver(gateway)
    assert report.sent == 3
    assert len(gateway.archive.requests) == 1


# With the scheduler


def test_after_an_outage_of_asking_everything_is_delivered(gateway: Gateway) -> None:
    """As long as the archive cannot be asked, files wait; then all are sent, with no attempt spent on the outage."""
    gateway.drop(10)
    answers: list[Found | Answer] = [UNAVAILABLE]
    asked: list[str] = []

    def ask(claim: Claim) -> Found | Answer:
        asked.append(claim.name)
        return answers[0]

    gateway.confirm = retrieving(ask)
    with gateway.running():
        until(lambda: len(asked) > 5)
        assert gateway.counts() == {State.INCOMING: 10}
        answers[0] = SAME
        until(lambda: not gateway.incoming())
    assert {(row.state, row.attempts) for row in gateway.rows().values()} == {(State.SENT, 1)}


def test_one_instance_that_the_archive_cannot_give_back_is_found_out(gateway: Gateway) -> None:
    """A 500 to the retrieve of one instance, while others are given back, is that instance's: it alone is charged."""
    uids = gateway.drop(6)
    gateway.confirm = retrieving(lambda claim: replace(ERROR) if uid_of(claim) == uids[2] else SAME)
    with gateway.running():
        until(lambda: not gateway.incoming())
    assert gateway.counts() == {State.SENT: 5, State.QUARANTINE: 1}
    assert gateway.quarantined() == {"2.dcm"}
    assert gateway.rows()[uids[2]].cause is Cause.GAVE_UP
    assert {gateway.rows()[uid].attempts for uid in uids if uid != uids[2]} == {1}


def test_what_is_settled_by_asking_is_in_the_history(gateway: Gateway) -> None:
    """The ledger says what the archive was asked, and what it had."""
    (uid,) = gateway.drop(1)
    verdicts: list[Verdict] = []

    def confirm(verdict: Verdict, status: int | None, claim: Claim) -> Verdict | Trouble:
        assert (status, claim.name) == (200, "0.dcm")
        verdicts.append(verdict)
        return replace(verdict, cause=Cause.WARNING, detail="asked")

    gateway.confirm = confirm
    deliver(gateway)
    assert len(verdicts) == 1
    last = gateway.ledger.events("0.dcm")[-1]
    assert (last.event, last.cause, last.detail) == (Event.SENT, "warning", "asked")
    assert gateway.rows()[uid].cause is Cause.WARNING
