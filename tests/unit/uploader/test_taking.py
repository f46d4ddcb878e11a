"""Taking a file of incoming/ in hand: claimed, known, whole, and in the ledger as owed; or why not."""

import errno
import fcntl
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from uploader_fakes import Gateway, until

from common.errors import LedgerError
from common.records import Cause, Event, Outcome, State
from common.spool import Claim
from support import canaries
from support.samples import bundled_folder, make_instance
from uploader.taking import NotTaken, Rejection, Request, Taken, Taking

NAME = "0.dcm"


@pytest.fixture
def taking(gateway: Gateway) -> Taking:
    return Taking(gateway.spool, gateway.ledger, threading.Lock())


@pytest.fixture
def take(taking: Taking) -> Iterator[Callable[..., Taken | NotTaken]]:
    """Takes a file; what it claimed is let go at the end."""
    claims: list[Claim] = []

    def take(name: str = NAME, *, settled: bool = True) -> Taken | NotTaken:
        found = taking.take([Request(name, settled=settled)])[0]
        if found.claim is not None:
            claims.append(found.claim)
        return found

    yield take
    for claim in claims:
        claim.close()


def is_claimable(gateway: Gateway, name: str = NAME) -> bool:
    """Tell whether nobody holds the file."""
    gateway.spool.claim(name).close()
    return True


Take = Callable[..., Taken | NotTaken]


def test_a_dropped_file_is_read_and_adopted(gateway: Gateway, take: Take) -> None:
    """A settled file without a row gets one, from what is in it, and is claimed."""
    (uid,) = gateway.drop(1)
    found = take()
    assert isinstance(found, Taken)
    assert (found.claim.name, found.sop_instance_uid, found.attempts) == (NAME, uid, 0)
    row = gateway.rows()[uid]
    assert (row.state, row.file_name, row.size_bytes) == (State.INCOMING, NAME, found.claim.size_bytes)
    assert (row.patient_id, row.modality, row.sop_class_uid) == (canaries.ID, "CT", CTImageStorage)
    assert found.received_at == row.received_at
    assert [event.event for event in gateway.ledger.events(NAME)] == [Event.ADOPTED]


def test_a_received_file_is_taken_as_it_was_recorded(gateway: Gateway, take: Take, lines: Any) -> None:
    """A receiver's file is not read again: its row says what it is."""
    (uid,) = gateway.receive(1)
    (name,) = gateway.incoming()
    before = gateway.rows()[uid]
    found = take(name, settled=False)
    assert isinstance(found, Taken)
    assert found.sop_instance_uid == uid
    assert gateway.rows()[uid] == before
    assert not lines("adopted")


def test_a_file_with_a_receivers_name_but_no_row_is_looked_at_anew(gateway: Gateway, take: Take) -> None:
    """Before it is settled, such a file is neither taken nor adopted: its receiver may be about to record it."""
    (uid,) = gateway.receive(1)
    (name,) = gateway.incoming()
    gateway.ledger.removed([name], State.INCOMING)
    assert take(name, settled=False) == NotTaken(name)
    assert is_claimable(gateway, name)
    found = take(name, settled=True)
    assert isinstance(found, Taken)
    assert gateway.rows()[uid].state is State.INCOMING


def test_a_receivers_row_of_another_size_is_not_believed(gateway: Gateway, take: Take) -> None:
    """A file that is not as long as its row says is not sent as it."""
    gateway.receive(1)
    (name,) = gateway.incoming()
    with open(gateway.spool.incoming / name, "ab") as file:
        file.write(b"\0" * 8)
    assert take(name, settled=False) == NotTaken(name)


def test_attempts_so_far_are_known(gateway: Gateway, take: Take) -> None:
    """A file that failed before comes with the number of its attempts, whether it is read again or not."""
    gateway.drop(1)
    first = take()
    assert isinstance(first, Taken)
    first.claim.close()
    gateway.ledger.retried([Outcome(NAME)] * 2)
    found = take()
    assert isinstance(found, Taken)
    assert found.attempts == 2


def test_a_release_starts_from_a_clean_slate(gateway: Gateway, take: Take, lines: Any) -> None:
    """A file that came back from quarantine is owed with no attempts, and its sidecar goes."""
    (uid,) = gateway.drop(1)
    found = take()
    assert isinstance(found, Taken)
    found.claim.close()
    gateway.ledger.quarantined(Outcome(NAME, 400, Cause.REFUSED), NAME, attempts=3)
    sidecar = gateway.spool.quarantine.path / f"{NAME}.json"
    sidecar.write_text('{"cause": "refused"}')
    again = take()
    assert isinstance(again, Taken)
    assert (again.attempts, again.sop_instance_uid) == (0, uid)
    assert not sidecar.exists()
    assert [fields["sop_instance_uid"] for fields in lines("released")] == [uid]


def test_another_file_of_an_old_name_is_another_instance(gateway: Gateway, take: Take) -> None:
    """A new file under the name of one that was sent gets a row of its own; the old one's history stays."""
    (old,) = gateway.drop(1)
    found = take()
    assert isinstance(found, Taken)
    found.claim.close()
    gateway.ledger.sent([Outcome(NAME, 200)])
    new = make_instance(gateway.spool.incoming / NAME)
    found = take()
    assert isinstance(found, Taken)
    assert found.sop_instance_uid == new
    assert {uid: row.state for uid, row in gateway.rows().items()} == {old: State.SENT, new: State.INCOMING}


def test_a_busy_file_is_left_alone(gateway: Gateway, take: Take) -> None:
    """A file that another process has claimed is BUSY."""
    gateway.drop(1)
    with gateway.spool.claim(NAME):
        assert take() == NotTaken(NAME, busy=True)


def test_a_file_that_is_gone(take: Take) -> None:
    """A file that is no longer there is gone, and nothing is recorded of it."""
    assert take() == NotTaken(NAME, gone=True)


def symlink(path: Path) -> None:
    path.symlink_to(bundled_folder() / "CT_small.dcm")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def text(path: Path) -> None:
    path.write_text("call me back")


def empty(path: Path) -> None:
    path.touch()


def cut(path: Path) -> None:
    path.write_bytes((bundled_folder() / "CT_small.dcm").read_bytes()[:30000])


def dicomdir(path: Path) -> None:
    shutil.copy(bundled_folder() / "dicomdirtests" / "DICOMDIR", path)


def without_instance_uid(path: Path) -> None:
    dataset = Dataset()
    dataset.PatientID = "T1"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def without_transfer_syntax(path: Path) -> None:
    path.write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01" + b"\x08\x00" * 20)


@pytest.mark.parametrize(
    ("put", "cause"),
    [
        (symlink, Cause.NOT_A_FILE),
        (fifo, Cause.NOT_A_FILE),
        (text, Cause.NOT_DICOM),
        (empty, Cause.NOT_DICOM),
        (cut, Cause.TRUNCATED),
        (dicomdir, Cause.NOT_STORABLE),
        (without_instance_uid, Cause.NOT_STORABLE),
        (without_transfer_syntax, Cause.UNREADABLE),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_sent_is_rejected(
    gateway: Gateway, take: Take, put: Callable[[Path], None], cause: Cause
) -> None:
    """What is no storable instance is rejected with its cause and in words, and claimed if it is a file."""
    put(gateway.spool.incoming / NAME)
    found = take()
    assert isinstance(found, NotTaken)
    assert found.rejection is not None
    assert found.rejection.cause is cause
    assert found.rejection.detail.startswith("expected")
    assert (found.claim is None) == (cause is Cause.NOT_A_FILE)
    assert not gateway.ledger.latest(1)


@pytest.mark.parametrize("put", [text, empty, cut, without_instance_uid, dicomdir], ids=lambda put: put.__name__)
def test_a_file_open_for_writing_is_not_rejected(gateway: Gateway, take: Take, put: Callable[[Path], None]) -> None:
    """What is not storable yet, while somebody has it open for writing, is left alone; once closed, it is rejected."""
    path = gateway.spool.incoming / NAME
    put(path)
    with open(path, "r+b"):
        assert take() == NotTaken(NAME)
        assert is_claimable(gateway)
    found = take()
    assert isinstance(found, NotTaken)
    assert found.rejection is not None


def test_a_whole_file_that_stays_open_is_taken(gateway: Gateway, take: Take) -> None:
    """A complete instance is taken though its writer never closes it."""
    gateway.drop(1)
    with open(gateway.spool.incoming / NAME, "r+b"):
        assert isinstance(take(), Taken)


def test_readers_do_not_count_as_writers(gateway: Gateway, take: Take) -> None:
    """A bad file that somebody only reads is rejected."""
    text(gateway.spool.incoming / NAME)
    with open(gateway.spool.incoming / NAME, "rb"):
        found = take()
    assert isinstance(found, NotTaken)
    assert found.rejection is not None


def test_a_writer_who_comes_at_the_wrong_moment_kills_nobody(tmp_path: Path) -> None:
    """Somebody who opens a bad file for writing while we ask for writers breaks our lease: its signal is harmless."""
    script = """
        import fcntl, os, sys, threading
        from pathlib import Path
        from common.ledger import Ledger
        from common.spool import Spool
        from uploader.taking import Request, Taking
        spool = Spool(Path(sys.argv[1]))
        spool.prepare()
        path = spool.incoming / "bad.dcm"
        path.write_text("no DICOM")
        real = fcntl.fcntl
        def meddling(fd, command, argument=0):
            result = real(fd, command, argument)
            if command == fcntl.F_SETLEASE and argument == fcntl.F_RDLCK:
                try:
                    os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                except BlockingIOError:
                    print("lease broken")
            return result
        fcntl.fcntl = meddling
        taking = Taking(spool, Ledger(spool.ledger), threading.Lock())
        print(taking.take([Request("bad.dcm", settled=True)])[0].rejection.cause)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "spool")],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert (done.returncode, done.stdout.split("\n")[:2]) == (0, ["lease broken", "not-dicom"]), done.stderr


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize("where", ["claim", "read"])
def test_running_out_of_descriptors_is_no_fault_of_a_file(
    gateway: Gateway, take: Take, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    """When this process has no descriptor or memory left, a good file is tried again later, and not rejected."""
    gateway.drop(1)

    def fail(*_arguments: object, **_settings: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open" if where == "claim" else "dup", fail)
        assert take() == NotTaken(NAME, busy=True)
    assert is_claimable(gateway)


def test_the_limit_of_descriptors_quarantines_nothing(gateway: Gateway, taking: Taking) -> None:
    """With the real limit reached in the middle of a batch, files are taken or busy, none is rejected."""
    gateway.drop(40)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    claims: list[Claim] = []
    rejections: list[Rejection] = []
    busy = 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        for number in range(40):
            found = taking.take([Request(f"{number}.dcm", settled=True)])[0]
            if found.claim is not None:
                claims.append(found.claim)
            if isinstance(found, NotTaken):
                busy += found.busy
                rejections += [found.rejection] if found.rejection else []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for claim in claims:
            claim.close()
    assert not rejections
    assert busy
    assert claims


def test_a_file_that_may_not_be_opened_is_rejected(
    gateway: Gateway, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that we have no permission to read is rejected as unreadable, with the reason in words."""
    gateway.drop(1)
    real = os.open

    def fail(path: Any, *arguments: Any, **settings: Any) -> int:
        if str(path).endswith(NAME):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *arguments, **settings)

    monkeypatch.setattr(os, "open", fail)
    found = take()
    assert found == NotTaken(
        NAME, rejection=Rejection(Cause.UNREADABLE, "expected a readable file, found: Permission denied", 0)
    )


def test_a_file_that_the_disk_cannot_give_is_rejected(
    gateway: Gateway, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose bytes cannot be read is rejected as unreadable, and stays claimed for its quarantine."""
    gateway.drop(1)

    def fail(_claim: Claim) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Claim, "reader", fail)
    found = take()
    assert isinstance(found, NotTaken)
    assert found.rejection is not None
    assert (found.rejection.cause, found.rejection.detail) == (
        Cause.UNREADABLE,
        "expected a readable file, found: Input/output error",
    )
    assert found.claim is not None


@pytest.mark.parametrize("settled", [True, False])
def test_without_the_ledger_nothing_is_taken(
    gateway: Gateway,
    taking: Taking,
    monkeypatch: pytest.MonkeyPatch,
    settled: bool,  # noqa: FBT001
) -> None:
    """A ledger that cannot be used is raised, and the claim is let go."""
    gateway.drop(1)

    def fail(*_arguments: object) -> None:
        raise LedgerError("the ledger cannot be used now")

    monkeypatch.setattr(gateway.ledger, "adopt", fail)
    monkeypatch.setattr(gateway.ledger, "known", fail)
    with pytest.raises(LedgerError):
        taking.take([Request(NAME, settled=settled)])
    assert is_claimable(gateway)


def test_a_ledger_that_is_deleted_meanwhile_costs_no_file(
    gateway: Gateway, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is gone right after it was made does not keep the file from being taken."""
    (uid,) = gateway.drop(1)
    monkeypatch.setattr(gateway.ledger, "known", lambda _names: {})
    found = take()
    assert isinstance(found, Taken)
    assert (found.sop_instance_uid, found.attempts) == (uid, 0)


def test_a_claim_keeps_others_away(gateway: Gateway, take: Take) -> None:
    """While a file is taken, nobody else can claim it, in this process or another."""
    gateway.drop(1)
    found = take()
    assert isinstance(found, Taken)
    with open(gateway.spool.incoming / NAME, "rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    found.claim.close()
    until(lambda: is_claimable(gateway))
