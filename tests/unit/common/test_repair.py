"""Ledger and folders brought together, in both directions."""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.directory import HeldDirectory
from common.instance import Instance
from common.ledger import Ledger
from common.records import Cause, Event, Outcome, Receipt, Sender, State
from common.repair import Repaired, adopt_received, repair
from common.spool import Spool
from support.samples import make_instance

KNOWN = Instance("1.2", "1.3", "1.4")
SENDER = Sender("CT-1", "STOWGATE", "192.0.2.7")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.prepare()
    return made


@pytest.fixture
def ledger(spool: Spool) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(spool.ledger)) as opened:
        yield opened


def ours() -> str:
    return f"{uuid.uuid4().hex}.dcm"


def test_all_that_disagrees_is_brought_together_once(spool: Spool, ledger: Ledger) -> None:
    """What a receiver stored is adopted as what it is, what has no file is removed; done again, nothing happens."""
    names = [ours() for _ in range(4)]
    uids = [make_instance(spool.incoming / name) for name in names[:2]]
    (spool.incoming / names[2]).write_bytes(b"no DICOM file")
    make_instance(spool.incoming / "by hand.dcm")
    make_instance(spool.quarantine.path / "kept.dcm")
    (spool.quarantine.path / "kept.dcm.json").write_text(json.dumps({"cause": "refused"}))
    ledger.received(*(Receipt(name, KNOWN, SENDER, 10) for name in ("gone.dcm", "gone too.dcm", "taken.dcm")))
    ledger.quarantined(Outcome("taken.dcm", 409, Cause.REFUSED), "taken.dcm", attempts=1)
    with spool.claim(names[1]):
        assert repair(spool, ledger) == Repaired(2, 2, 2, 1, 1)
    rows = ledger.rows([*names, "by hand.dcm", "kept.dcm", "gone.dcm", "gone too.dcm", "taken.dcm"])
    assert {name: row.state.value for name, row in rows.items()} == {
        names[0]: "incoming",
        names[2]: "incoming",
        "kept.dcm": "quarantine",
        "gone.dcm": "removed",
        "gone too.dcm": "removed",
        "taken.dcm": "removed",
    }
    assert rows[names[0]].sop_instance_uid == uids[0]
    assert rows["kept.dcm"].cause is Cause.REFUSED
    assert repair(spool, ledger) == Repaired(adopted=1, left=1)  # the one that was in somebody's hand
    assert ledger.rows([names[1]])[names[1]].sop_instance_uid == uids[1]
    assert repair(spool, ledger) == Repaired(left=1)


def test_a_file_that_came_back_from_quarantine_is_released(spool: Spool, ledger: Ledger) -> None:
    """Its row goes back to incoming with its sender, and its sidecar goes."""
    name = ours()
    make_instance(spool.incoming / name)
    ledger.received(Receipt(name, KNOWN, SENDER, 10))
    ledger.quarantined(Outcome(name, 409, Cause.REFUSED), name, attempts=1)
    sidecar = spool.quarantine.path / f"{name}.json"
    sidecar.write_text(json.dumps({"cause": "refused"}))
    assert repair(spool, ledger).adopted == 1
    assert ledger.rows([name])[name].state is State.INCOMING
    assert ledger.rows([name])[name].calling_ae_title == "CT-1"
    assert [event.event for event in ledger.events(name)][-1] is Event.RELEASED
    assert not sidecar.exists()


def test_a_file_that_was_sent_and_is_still_there_is_owed_again(spool: Spool, ledger: Ledger) -> None:
    """The directory is the truth, whatever the row says."""
    name = ours()
    make_instance(spool.incoming / name)
    ledger.received(Receipt(name, KNOWN, SENDER, 10))
    ledger.sent([Outcome(name, 200)])
    assert repair(spool, ledger).adopted == 1
    assert ledger.rows([name])[name].state is State.INCOMING


@pytest.mark.parametrize("folder", ["incoming", "quarantine"])
def test_a_folder_that_cannot_be_read_says_nothing_about_its_files(spool: Spool, ledger: Ledger, folder: str) -> None:
    """It is an error, and no row is called removed."""
    ledger.received(Receipt("a.dcm", KNOWN, SENDER, 10), Receipt("b.dcm", KNOWN, SENDER, 10))
    ledger.quarantined(Outcome("b.dcm", 409, Cause.REFUSED), "b.dcm", attempts=1)
    if folder == "quarantine":
        make_instance(spool.incoming / "a.dcm")
    (spool.directory / folder).rename(spool.directory / "elsewhere")
    with pytest.raises(FileNotFoundError):
        repair(spool, ledger)
    assert ledger.counts()[State.REMOVED] == 0


def test_it_can_be_stopped(spool: Spool, ledger: Ledger) -> None:
    """A process that ends does not read a hundred thousand files first."""
    names = [ours() for _ in range(3)]
    for name in names:
        make_instance(spool.incoming / name)
    asked: list[None] = []

    def stopped() -> bool:
        asked.append(None)
        return len(asked) > 1

    assert adopt_received(spool, ledger, names, stopped=stopped) == 1


# A directory that is kept open


def test_a_directory_that_is_moved_away_and_put_back_is_the_one_that_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Always the one that has the name; it is not opened again while it is the same."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(os.fstat(fd).st_ino))
    opened: list[object] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda *arguments, **more: (opened.append(arguments), real(*arguments, **more))[1])
    held = HeldDirectory(folder)
    held.hold()
    held.sync()
    held.sync()
    assert len(opened) == 1
    first = folder.stat().st_ino
    folder.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        held.sync()
    folder.mkdir()
    held.sync()
    assert flushed == [first, first, folder.stat().st_ino]
    folder.rmdir()
    (tmp_path / "away").rename(folder)
    held.sync()
    assert flushed[-1] == first
    held.release()


def test_after_a_failed_flush_the_descriptor_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel says on it later proves nothing."""
    held = HeldDirectory(tmp_path)
    held.hold()
    before = len(os.listdir("/proc/self/fd"))

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            held.sync()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    held.sync()
    held.release()
