import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from common import staging
from common.errors import LedgerError, UnreadableError
from common.ledger import Ledger
from common.part10 import part10_header
from common.records import Event, Receipt, Sender, State
from common.spool import Busy, Spool
from receiver import intake as intake_module
from receiver.intake import Intake, Stored
from receiver.status import Refusal

CT, UID, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4", "1.2.840.10008.1.2.1"
SENDER = Sender("CT-1", "STOWGATE", "192.0.2.7")


def encoded(**values: object) -> bytes:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.PatientID = CT, UID, "P1"
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, dataset)
    return buffer.getvalue()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


@pytest.fixture
def ledger(spool: Spool) -> Ledger:
    return Ledger(spool.ledger, busy_seconds=0.1)


@pytest.fixture
def intake(spool: Spool, ledger: Ledger) -> Intake:
    return Intake(spool, ledger)


def take(intake: Intake, *fragments: bytes | bytearray | memoryview) -> Stored:
    with intake.begin(CT, UID, EXPLICIT) as reception:
        for fragment in fragments:
            reception.write(fragment)
        return reception.commit(SENDER)


def nothing_is_left(spool: Spool, ledger: Ledger) -> bool:
    return not os.listdir(spool.staging.path) and not os.listdir(spool.incoming) and not ledger.latest(1)


def open_files_of(spool: Spool) -> list[str]:
    """What this process holds open below staging/ and incoming/, deleted files among them."""
    paths = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            paths.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in paths if path.startswith((f"{spool.staging.path}/", f"{spool.incoming}/"))]


def test_an_instance_is_stored_as_it_came(intake: Intake, spool: Spool, ledger: Ledger) -> None:
    """Fragments behind a header, under a name of ours, with the row and its event."""
    content = encoded()
    stored = take(intake, content[:5], bytearray(content[5:20]), memoryview(content)[20:])
    path = spool.incoming / stored.file_name
    assert path.read_bytes() == part10_header(CT, UID, EXPLICIT) + content
    assert stored.size_bytes == path.stat().st_size
    row = ledger.rows([stored.file_name])[stored.file_name]
    assert (row.state, row.sop_instance_uid, row.patient_id, row.size_bytes) == (
        State.INCOMING,
        UID,
        "P1",
        stored.size_bytes,
    )
    assert [event.event for event in ledger.events(stored.file_name)] == [Event.RECEIVED]
    assert os.listdir(spool.staging.path) == []


def test_the_order_is_the_guarantee(
    intake: Intake, spool: Spool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes flushed, renamed, directory flushed, row committed, claim dropped; each once, in this order."""
    steps: list[str] = []

    def record(owner: type, name: str) -> None:
        original: Callable[..., object] = getattr(owner, name)

        def step(*arguments: object) -> object:
            steps.append(name)
            return original(*arguments)

        monkeypatch.setattr(owner, name, step)

    for owner, name in (
        (staging.Staged, "sync"),
        (staging.Staged, "rename"),
        (staging.Staging, "sync_incoming"),
        (Ledger, "received"),
        (staging.Staged, "close"),
    ):
        record(owner, name)
    take(intake, encoded())
    assert steps == ["sync", "rename", "sync_incoming", "received", "close"]


@pytest.mark.parametrize("soon_flushed", [10, 10_000])
def test_others_wait_for_what_is_soon_flushed_only(
    intake: Intake, monkeypatch: pytest.MonkeyPatch, soon_flushed: int
) -> None:
    """A large one is not announced to who commits meanwhile; what is, comes, or is taken back."""
    monkeypatch.setattr(intake_module, "_SOON_FLUSHED", soon_flushed)
    announced = []
    sync = staging.Staged.sync

    def look(staged: staging.Staged) -> None:
        announced.append(intake._commits._expected)
        sync(staged)

    monkeypatch.setattr(staging.Staged, "sync", look)
    take(intake, encoded())
    assert announced == [int(soon_flushed > 10)]
    assert intake._commits._expected == 0
    with pytest.raises(Refusal):
        take(intake, encoded(SOPInstanceUID="1.2.3.5"))
    assert intake._commits._expected == 0


def test_no_uploader_can_have_it_before_its_row(intake: Intake, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the rename and the row the file is claimed."""
    seen = []
    original = Ledger.received

    def received(self: Ledger, *receipts: Receipt) -> None:
        for one in receipts:
            with pytest.raises(Busy):
                spool.claim(one.file_name)
            seen.append(one.file_name)
        original(self, *receipts)

    monkeypatch.setattr(Ledger, "received", received)
    stored = take(intake, encoded())
    assert seen == [stored.file_name]
    spool.claim(stored.file_name).close()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (staging.Staged, "write"),
        (staging.Staged, "sync"),
        (staging.Staged, "rename"),
        (staging.Staging, "sync_incoming"),
        (Ledger, "received"),
    ],
    ids=["R1", "R2", "R3", "R4", "R5"],
)
def test_a_failure_in_any_step_leaves_nothing(  # noqa: PLR0917 - fixtures and a table
    intake: Intake, spool: Spool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    """The file is withdrawn, wherever it was by then; when the trouble is over, the next one is stored."""
    error = LedgerError("locked") if owner is Ledger else OSError(errno.ENOSPC, "No space left on device")

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(type(error)) as caught:
            take(intake, encoded())
        assert caught.value is error
    assert intake._commits._expected == 0
    assert nothing_is_left(spool, ledger)
    assert open_files_of(spool) == []
    take(intake, encoded())
    assert len(os.listdir(spool.incoming)) == 1


def test_a_failing_write_leaves_nothing(
    intake: Intake, spool: Spool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at the very first byte, which is written with the last one of a small instance."""
    monkeypatch.setattr(os, "writev", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        take(intake, encoded())
    with intake.begin(CT, UID, EXPLICIT) as reception, pytest.raises(OSError, match="full"):
        reception.write(bytes(1_000_000))
    monkeypatch.undo()
    assert nothing_is_left(spool, ledger)


def test_a_close_that_fails_takes_nothing_back(
    intake: Intake, spool: Spool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is durable and recorded, the instance is stored."""

    def fail(_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, intake.begin(CT, UID, EXPLICIT) as reception:
        reception.write(encoded())
        patch.setattr(staging.Staged, "close", fail)
        stored = reception.commit(SENDER)
    assert (spool.incoming / stored.file_name).exists()
    assert stored.file_name in ledger.rows([stored.file_name])


def test_a_locked_ledger_refuses_the_instance(intake: Intake, spool: Spool, ledger: Ledger) -> None:
    """A real lock of another process: LedgerError, and nothing is kept."""
    other = sqlite3.connect(spool.ledger, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError):
        take(intake, encoded())
    other.close()
    assert nothing_is_left(spool, ledger)


@pytest.mark.parametrize(
    ("sop_class_uid", "sop_instance_uid"),
    [("../../etc/x", UID), (CT, "../../etc/x"), (CT, "1." + "2" * 63), ("", UID), (CT, ""), (CT, "1.2\n")],
)
def test_a_malformed_uid_is_refused_before_anything_is_written(
    intake: Intake, spool: Spool, sop_class_uid: str, sop_instance_uid: str
) -> None:
    """0x0117, and no file was made."""
    spool.staging.path.rmdir()
    with pytest.raises(Refusal) as caught:
        intake.begin(sop_class_uid, sop_instance_uid, EXPLICIT)
    assert caught.value.status == 0x0117


@pytest.mark.parametrize(
    ("values", "tag"),
    [({"SOPClassUID": "1.2.3"}, 0x00080016), ({"SOPInstanceUID": "1.2.3"}, 0x00080018)],
)
def test_a_dataset_that_is_another_is_refused(
    intake: Intake, spool: Spool, ledger: Ledger, values: dict[str, str], tag: int
) -> None:
    """0xA900, naming the element."""
    with pytest.raises(Refusal) as caught:
        take(intake, encoded(**values))
    assert (caught.value.status, caught.value.offending_element) == (0xA900, tag)
    assert nothing_is_left(spool, ledger)


def test_no_dataset_is_refused(intake: Intake, spool: Spool, ledger: Ledger) -> None:
    """0xC000."""
    with pytest.raises(Refusal) as caught:
        take(intake)
    assert caught.value.status == 0xC000
    assert nothing_is_left(spool, ledger)


def test_an_unreadable_dataset_is_withdrawn(intake: Intake, spool: Spool, ledger: Ledger) -> None:
    """What has no identity is not kept."""
    with pytest.raises(UnreadableError):
        take(intake, b"\xff" * 100)
    assert nothing_is_left(spool, ledger)


def test_below_min_free_nothing_is_begun(spool: Spool, ledger: Ledger) -> None:
    """0xA700, until there is room again."""
    spool.min_free = 2**62
    intake = Intake(spool, ledger)
    assert not intake.has_room()
    with pytest.raises(Refusal) as caught:
        intake.begin(CT, UID, EXPLICIT)
    assert caught.value.status == 0xA700
    spool.min_free = 0
    assert intake.has_room()
    intake.begin(CT, UID, EXPLICIT).discard()
    assert nothing_is_left(spool, ledger)


def test_a_disk_that_fills_during_a_long_instance_ends_it(
    intake: Intake, spool: Spool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """min_free is looked at again on the way: one instance can be larger than what was free."""
    monkeypatch.setattr(intake_module, "_CHECK_ROOM_EVERY", 1000)
    reception = intake.begin(CT, UID, EXPLICIT)
    reception.write(bytes(500))
    spool.min_free = 2**62
    with pytest.raises(Refusal) as caught:
        reception.write(bytes(1900))
    assert caught.value.status == 0xA700
    assert nothing_is_left(spool, ledger)


def test_a_spool_that_is_gone_has_no_room(intake: Intake, spool: Spool) -> None:
    """Who asks before an association gets no; it is no exception there."""
    spool.directory = spool.directory / "gone"
    assert not intake.has_room()


def test_what_is_discarded_leaves_nothing(intake: Intake, spool: Spool, ledger: Ledger) -> None:
    """By name, or by leaving the block."""
    with intake.begin(CT, UID, EXPLICIT) as reception:
        reception.write(encoded())
    other = intake.begin(CT, UID, EXPLICIT)
    other.discard()
    other.discard()
    assert nothing_is_left(spool, ledger)


def test_what_is_stored_cannot_be_discarded(intake: Intake, spool: Spool) -> None:
    """After the commit the file belongs to the uploader."""
    with intake.begin(CT, UID, EXPLICIT) as reception:
        reception.write(encoded())
        stored = reception.commit(SENDER)
        reception.discard()
    assert (spool.incoming / stored.file_name).exists()
