"""Putting a file into quarantine/: what its sidecar says, what it does not say, and the order of the steps."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from uploader_fakes import Gateway

from common.errors import LedgerError
from common.ledger import Ledger
from common.quarantine import QuarantineSlot
from common.records import Cause, Event, Outcome, State
from common.redaction import permit_patient_identifiers
from common.spool import Claim
from support.samples import make_instance
from uploader.quarantining import Quarantining, Quotation
from uploader.taking import Rejection, Request, Taken, Taking
from uploader.verdict import Answer, StoreResponse

NAME = "0.dcm"
NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
LINK = Rejection(Cause.NOT_A_FILE, "expected a regular file, found a symbolic link", 0)
BAD = Rejection(Cause.NOT_DICOM, "expected the prefix DICM at offset 128 (PS3.10 7.1), found none", 12)


@pytest.fixture
def quarantining(gateway: Gateway) -> Quarantining:
    return Quarantining(gateway.spool, gateway.ledger, lambda: NOW)


@pytest.fixture
def take(gateway: Gateway) -> Iterator[Callable[[str], Taken]]:
    """Takes a file in hand; it is let go at the end."""
    taking = Taking(gateway.spool, gateway.ledger, threading.Lock())
    claims: list[Claim] = []

    def take(name: str = NAME) -> Taken:
        found = taking.take([Request(name, settled=True)])[0]
        assert isinstance(found, Taken)
        claims.append(found.claim)
        return found

    yield take
    for claim in claims:
        claim.close()


Take = Callable[..., Taken]


def sidecar(gateway: Gateway, name: str = NAME) -> dict[str, Any]:
    path = gateway.spool.quarantine.path / f"{name}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    return dict(json.loads(path.read_text()))


def sidecars(gateway: Gateway) -> list[str]:
    return sorted(path.name for path in gateway.spool.quarantine.path.glob("*.json"))


def refuse(
    quarantining: Quarantining, taken: Taken, answer: Answer, batch: Sequence[Taken] = (), reason: int | None = None
) -> bool:
    outcome = Outcome(taken.claim.name, answer.status, Cause.REFUSED, "HTTP 409, FailureReason C000")
    return quarantining.refuse(taken, outcome, reason, Quotation(answer, [one.claim for one in batch or [taken]]))


# What the sidecar says


def test_a_refused_file_is_moved_with_its_reason(
    gateway: Gateway, quarantining: Quarantining, take: Take, lines: Any
) -> None:
    """File, sidecar, row and log line all say the same of a refusal."""
    (uid,) = gateway.drop(1)
    taken = take()
    content = (gateway.spool.incoming / NAME).read_bytes()
    assert refuse(quarantining, taken, Answer(status=409, excerpt="no space for it"), reason=0xC000)
    row = gateway.rows()[uid]
    assert (gateway.spool.quarantine.path / NAME).read_bytes() == content
    assert not gateway.incoming()
    assert sidecar(gateway) == {
        "cause": "refused",
        "detail": "HTTP 409, FailureReason C000",
        "attempts": 1,
        "http_status": 409,
        "failure_reason": 0xC000,
        "received_at": row.received_at,
        "quarantined_at": "2026-11-24T09:30:00.000000Z",
        "sop_instance_uid": uid,
        "sop_class_uid": row.sop_class_uid,
        "study_instance_uid": row.study_instance_uid,
        "series_instance_uid": row.series_instance_uid,
        "transfer_syntax_uid": row.transfer_syntax_uid,
        "answer": "no space for it",
    }
    assert (row.state, row.cause, row.http_status, row.attempts) == (State.QUARANTINE, Cause.REFUSED, 409, 1)
    (fields,) = lines("quarantined")
    assert fields["sop_instance_uid"] == uid
    assert fields["http_status"] == 409


def test_the_attempts_before_count(gateway: Gateway, quarantining: Quarantining, take: Take) -> None:
    """The sidecar and the row have all attempts, the last one among them."""
    (uid,) = gateway.drop(1)
    take().claim.close()
    gateway.ledger.retried([Outcome(NAME)] * 2)
    refuse(quarantining, take(), Answer(status=409))
    assert sidecar(gateway)["attempts"] == gateway.rows()[uid].attempts == 3


def test_a_rejected_file_is_moved_with_its_cause(gateway: Gateway, quarantining: Quarantining, lines: Any) -> None:
    """A file that cannot be sent has no attempts, no status and no answer; nothing that is not known is logged."""
    (gateway.spool.incoming / "notes.txt").write_text("call me back")
    assert quarantining.reject("notes.txt", BAD)
    reason = sidecar(gateway, "notes.txt")
    assert (reason["cause"], reason["attempts"], reason["http_status"]) == ("not-dicom", 0, None)
    assert (reason["failure_reason"], reason["answer"], reason["sop_instance_uid"]) == (None, "", "")
    assert reason["received_at"]
    (row,) = gateway.ledger.latest(10)
    assert (row.file_name, row.state, row.cause, row.attempts) == ("notes.txt", State.QUARANTINE, Cause.NOT_DICOM, 0)
    (fields,) = lines("quarantined")
    assert None not in fields.values()
    assert set(fields) == {"file", "cause", "detail"}
    assert "notes" not in fields["file"]


def test_a_link_is_moved_itself(gateway: Gateway, quarantining: Quarantining, tmp_path: Path) -> None:
    """A symbolic link goes to quarantine, and what it points to stays where it is."""
    target = tmp_path / "elsewhere.dcm"
    make_instance(target)
    (gateway.spool.incoming / "link.dcm").symlink_to(target)
    assert quarantining.reject("link.dcm", LINK)
    assert (gateway.spool.quarantine.path / "link.dcm").is_symlink()
    assert target.exists()


def test_a_taken_name_gets_a_number(gateway: Gateway, quarantining: Quarantining, take: Take) -> None:
    """A second file of that name, from a folder, is kept beside the first one, with a row and a sidecar of its own."""
    for name in (NAME, "sub/" + NAME):
        make_instance(gateway.spool.incoming / name)
        assert refuse(quarantining, take(name), Answer(status=409))
    assert gateway.quarantined() == {"0.dcm", "0~2.dcm"}
    assert sidecars(gateway) == ["0.dcm.json", "0~2.dcm.json"]
    assert {row.file_name for row in gateway.ledger.latest(10)} == {"0.dcm", "0~2.dcm"}


# What the answer in it says

ECHO = "Patient CANARY, Zephyrine (PID-88417) conflicts with Canary^Zephyrine"


@pytest.fixture
def marked(gateway: Gateway, take: Take) -> list[Taken]:
    """Two instances in hand, the second one of a patient whom we would recognise."""
    make_instance(gateway.spool.incoming / "0.dcm", patient_name="Miller^Ann", patient_id="PID-10001")
    make_instance(gateway.spool.incoming / "1.dcm", patient_name="Canary^Zephyrine", patient_id="PID-88417")
    return [take("0.dcm"), take("1.dcm")]


def entries(**quoted: str) -> StoreResponse:
    return StoreResponse(failed=dict.fromkeys(quoted, 0xC000), entries=quoted)


@pytest.mark.parametrize("which", [0, 1])
def test_an_answer_is_redacted_of_every_patient_of_the_request(
    gateway: Gateway, quarantining: Quarantining, marked: list[Taken], which: int
) -> None:
    """What the archive says of one instance of a batch may quote the patient of another: that is redacted too."""
    assert refuse(quarantining, marked[which], Answer(status=409, excerpt=ECHO), marked)
    answer = sidecar(gateway, f"{which}.dcm")["answer"]
    for mark in ("canary", "zephyrine", "88417"):
        assert mark not in answer.lower()
    assert answer.endswith("conflicts with [redacted]")


def test_permitted_identifiers_are_quoted(gateway: Gateway, quarantining: Quarantining, marked: list[Taken]) -> None:
    """With patient_identifiers the answer stays as it is."""
    permit_patient_identifiers(permitted=True)
    try:
        refuse(quarantining, marked[1], Answer(status=409, excerpt=ECHO))
    finally:
        permit_patient_identifiers(permitted=False)
    assert sidecar(gateway, "1.dcm")["answer"] == ECHO


def test_nothing_is_quoted_if_a_file_cannot_be_asked(
    gateway: Gateway, quarantining: Quarantining, marked: list[Taken], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it is not known what identifies a patient of the request, nothing of the answer is kept."""

    def fail(_claim: Claim) -> None:
        raise OSError

    monkeypatch.setattr(Claim, "reader", fail)
    assert refuse(quarantining, marked[0], Answer(status=409, excerpt=ECHO), marked)
    assert sidecar(gateway, "0.dcm")["answer"] == ""


def test_of_several_only_the_entry_about_the_instance_is_quoted(marked: list[Taken]) -> None:
    """For a batch, the archive's entry about the instance is quoted, redacted, and nothing that is about others."""
    first, second = (one.sop_instance_uid for one in marked)
    response = entries(**{first: '{"00081155":"mine, not of Canary^Zephyrine"}', second: '{"00081155":"another"}'})
    quotation = Quotation(Answer(status=409, response=response, excerpt="all"), [one.claim for one in marked])
    assert quotation.about(first) == '{"00081155":"mine, not of [redacted]"}'
    assert quotation.about(second) == '{"00081155":"another"}'
    assert quotation.about("9.9.9") == ""


def test_of_one_the_head_of_the_answer_is_quoted(marked: list[Taken]) -> None:
    """For a single instance, the head of the answer is quoted, cut after it is redacted."""
    (uid, claim) = (marked[0].sop_instance_uid, marked[0].claim)
    answer = Answer(status=409, response=entries(**{uid: "{}"}), excerpt="Miller^Ann " + "x" * 50_000)
    said = Quotation(answer, [claim]).about(uid)
    assert said.startswith("[redacted] xxx")
    assert len(said) == 2000


def test_an_answer_without_entries_is_quoted_for_several_too(marked: list[Taken]) -> None:
    """An answer that is no Store Instances Response, such as a proxy's page, is about nobody else: its head is kept."""
    quotation = Quotation(Answer(status=200, excerpt="<html>Please log in"), [one.claim for one in marked])
    assert quotation.about(marked[0].sop_instance_uid) == "<html>Please log in"


def test_the_files_are_asked_once_for_a_whole_answer(marked: list[Taken], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many instances an answer refuses, each file is read once for what identifies its patient."""
    asked: list[str] = []
    real = Claim.reader
    monkeypatch.setattr(Claim, "reader", lambda claim: asked.append(claim.name) or real(claim))
    quotation = Quotation(Answer(status=409, excerpt=ECHO), [one.claim for one in marked])
    for one in marked * 10:
        assert quotation.about(one.sop_instance_uid)
    assert asked == ["0.dcm", "1.dcm"]


def test_without_an_answer_no_file_is_asked(marked: list[Taken], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is nothing to quote, the files are not read."""
    monkeypatch.setattr(Claim, "reader", lambda _claim: pytest.fail("read"))
    assert Quotation(Answer(status=500), [one.claim for one in marked]).about("1.2") == ""


# Order and failures


def test_the_sidecar_comes_first_then_the_row_then_the_file(
    gateway: Gateway, quarantining: Quarantining, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U6 before U7 before U8: at each step the one before is done and the one after is not."""
    (uid,) = gateway.drop(1)
    taken = take()
    seen: list[tuple[str, bool, State, bool]] = []

    def look(step: str) -> None:
        there = (gateway.spool.quarantine.path / f"{NAME}.json").exists()
        seen.append((step, there, gateway.rows()[uid].state, NAME in gateway.incoming()))

    def watched(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **settings: Any) -> Any:
            look(name)
            return real(*arguments, **settings)

        monkeypatch.setattr(owner, name, call)

    watched(QuarantineSlot, "write_reason")
    watched(Ledger, "quarantined")
    watched(QuarantineSlot, "move")
    assert refuse(quarantining, taken, Answer(status=409))
    look("end")
    assert seen == [
        ("write_reason", False, State.INCOMING, True),
        ("quarantined", True, State.INCOMING, True),
        ("move", True, State.QUARANTINE, True),
        ("end", True, State.QUARANTINE, False),
    ]


@pytest.mark.parametrize("step", ["rows", "quarantined"])
def test_a_refused_file_stays_owed_without_the_ledger(
    gateway: Gateway, quarantining: Quarantining, take: Take, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A ledger that fails leaves the file where it is, without a sidecar that would lie."""
    (uid,) = gateway.drop(1)
    taken = take()

    def fail(*_arguments: Any, **_settings: Any) -> None:
        raise LedgerError("the ledger cannot be used now")

    with monkeypatch.context() as patch:
        patch.setattr(gateway.ledger, step, fail)
        assert not refuse(quarantining, taken, Answer(status=409))
    assert gateway.incoming() == {NAME}
    assert sidecars(gateway) == []
    assert gateway.rows()[uid].state is State.INCOMING


def test_a_rejected_file_stays_owed_without_the_ledger(
    gateway: Gateway, quarantining: Quarantining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger that fails while nothing was sent yet is raised: the whole delivery waits for it."""
    (gateway.spool.incoming / "notes.txt").write_text("call me back")

    def fail(*_arguments: Any) -> None:
        raise LedgerError("the ledger cannot be used now")

    monkeypatch.setattr(gateway.ledger, "adopt", fail)
    with pytest.raises(LedgerError):
        quarantining.reject("notes.txt", BAD)
    assert gateway.incoming() == {"notes.txt"}
    assert sidecars(gateway) == []


@pytest.mark.parametrize("step", ["write_reason", "move"])
def test_a_disk_that_fails_leaves_the_file_owed(
    gateway: Gateway, quarantining: Quarantining, take: Take, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """An OSError at U6 or U8 is said, and the file stays in incoming/."""
    gateway.drop(1)
    taken = take()

    def fail(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(QuarantineSlot, step, fail)
    assert not refuse(quarantining, taken, Answer(status=409))
    assert gateway.incoming() == {NAME}
    assert not gateway.quarantined()


def test_a_refused_file_that_a_person_took_away(gateway: Gateway, quarantining: Quarantining, take: Take) -> None:
    """A file that is gone when it is to be quarantined leaves no sidecar, and no row that says quarantine."""
    (uid,) = gateway.drop(1)
    taken = take()
    (gateway.spool.incoming / NAME).unlink()
    assert refuse(quarantining, taken, Answer(status=409))
    assert sidecars(gateway) == []
    assert gateway.rows()[uid].state is State.INCOMING  # which the next scan makes `removed`


def test_a_file_that_goes_at_the_last_moment(
    gateway: Gateway, quarantining: Quarantining, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file taken away between row and move leaves no sidecar."""
    gateway.drop(1)
    taken = take()
    real = QuarantineSlot.move

    def vanish(slot: QuarantineSlot) -> None:
        (gateway.spool.incoming / NAME).unlink()
        real(slot)

    monkeypatch.setattr(QuarantineSlot, "move", vanish)
    assert not refuse(quarantining, taken, Answer(status=409))
    assert sidecars(gateway) == []


def test_two_uploaders_that_reject_the_same_link_do_it_once(gateway: Gateway) -> None:
    """What cannot be claimed can be rejected by two at the same time: one row, one sidecar, one event."""
    (gateway.spool.incoming / "link.dcm").symlink_to("/nonexistent")
    first, second = (Quarantining(gateway.spool, gateway.ledger, lambda: NOW) for _ in range(2))
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda one=one: results.append(one.reject("link.dcm", LINK))) for one in (first, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [True, True]
    assert gateway.quarantined() == {"link.dcm"}
    assert sidecars(gateway) == ["link.dcm.json"]
    assert [row.file_name for row in gateway.ledger.latest(10)] == ["link.dcm"]
    assert [event.event for event in gateway.ledger.events("link.dcm")] == [Event.ADOPTED, Event.QUARANTINED]


def test_a_late_rejection_touches_neither_file_nor_row(gateway: Gateway, quarantining: Quarantining) -> None:
    """Who rejects a link that another uploader has quarantined already changes nothing."""
    (gateway.spool.incoming / "link.dcm").symlink_to("/nonexistent")
    assert quarantining.reject("link.dcm", LINK)
    before = gateway.ledger.latest(10), gateway.ledger.events("link.dcm")
    assert quarantining.reject("link.dcm", LINK)
    assert (gateway.ledger.latest(10), gateway.ledger.events("link.dcm")) == before


def test_a_file_that_took_the_place_of_a_link_is_not_quarantined_for_it(
    gateway: Gateway, quarantining: Quarantining
) -> None:
    """What was replaced by a real file meanwhile is looked at anew."""
    make_instance(gateway.spool.incoming / NAME)
    assert not quarantining.reject(NAME, LINK)
    assert gateway.incoming() == {NAME}
    assert not gateway.ledger.latest(10)
