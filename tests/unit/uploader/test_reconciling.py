"""The scan that brings folders, backlog and ledger together: what it brings in, what it calls removed, and what not."""

import errno
import io
import os
import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from uploader_fakes import Gateway

from common.errors import LedgerError
from common.ledger import Ledger
from common.part10 import read_part10
from common.records import Cause, Event, Outcome, State
from common.spool import Spool, Survey
from support.samples import make_instance
from uploader.delivery import Request
from uploader.entry import Origin
from uploader.reconciling import Reconciling
from uploader.verdict import Answer

NAME = "0.dcm"
NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
QUIET = 30.0
LONGEST = 300.0


@pytest.fixture
def scanning(gateway: Gateway) -> Reconciling:
    """A scan by a clock that stands still, with long times."""
    return Reconciling(
        gateway.spool,
        gateway.ledger,
        gateway.backlog,
        backoff_max=LONGEST,
        empty_folder_seconds=QUIET,
        now=lambda: NOW,
    )


def quarantine(gateway: Gateway, count: int = 1) -> list[str]:
    """Drop instances and have them refused; their UIDs."""
    uids = gateway.drop(count)
    gateway.archive.poison.update({uid: Answer(status=400, excerpt="no") for uid in uids})
    gateway.delivery.deliver([Request(name, settled=True) for name in sorted(gateway.incoming())])
    assert len(gateway.quarantined()) == count
    return uids


def places(gateway: Gateway) -> set[str]:
    return set(gateway.backlog.names())


# What the backlog gets


def test_what_a_receiver_stored_and_the_ledger_lost_is_entered(gateway: Gateway) -> None:
    """All of it at the first scan; later what had no row at the scan before either: a receiver writes it last."""
    entered: list[set[str]] = []
    scanning = Reconciling(
        gateway.spool,
        gateway.ledger,
        gateway.backlog,
        backoff_max=LONGEST,
        empty_folder_seconds=QUIET,
        now=lambda: NOW,
        enter=entered.append,
    )
    names = [f"{number:032x}.dcm" for number in range(3)]
    gateway.drop(1)
    gateway.receive(1)
    make_instance(gateway.spool.incoming / names[0])
    scanning.scan(0.0)
    assert entered == [{names[0]}]
    make_instance(gateway.spool.incoming / names[1])
    gateway.ledger.adopt(names[0], None, 10)
    scanning.scan(1.0)
    assert len(entered) == 1
    make_instance(gateway.spool.incoming / names[2])
    scanning.scan(2.0)
    assert entered[1:] == [{names[1]}]


def test_a_scan_brings_in_every_file(gateway: Gateway, scanning: Reconciling) -> None:
    """Everything in incoming/ is in the backlog after a scan, whatever its row says or whether it has one."""
    gateway.receive(2)
    gateway.drop(2)
    make_instance(gateway.spool.incoming / "folder" / "deep" / "x.dcm")
    gateway.ledger.adopt("1.dcm", None, 5)
    gateway.ledger.sent([Outcome("1.dcm", 200)])
    scanning.scan(0.0)
    assert places(gateway) == gateway.incoming()
    assert len(places(gateway)) == 5
    assert gateway.backlog.ready == 2, "what receivers put there is due at once"


def test_a_scan_brings_in_what_a_receiver_left_without_a_row(gateway: Gateway, scanning: Reconciling) -> None:
    """It is due at once, and waits for nobody to enter it into the ledger first."""
    name = f"{1:032x}.dcm"
    make_instance(gateway.spool.incoming / name)
    scanning.scan(0.0)
    assert places(gateway) == {name}
    assert gateway.backlog.ready == 1


def test_a_scan_drops_what_is_gone(gateway: Gateway, scanning: Reconciling) -> None:
    """A file that is gone at the next scan leaves the backlog."""
    gateway.drop(2)
    scanning.scan(0.0)
    (gateway.spool.incoming / NAME).unlink()
    scanning.scan(1.0)
    assert places(gateway) == {"1.dcm"}


def test_names_that_are_not_ours_are_left_out(gateway: Gateway, scanning: Reconciling) -> None:
    """Hidden names and *.part are not in the backlog."""
    for name in (".hidden.dcm", "copying.part", ".folder/x.dcm"):
        make_instance(gateway.spool.incoming / name)
    scanning.scan(0.0)
    assert not places(gateway)


def test_a_folder_that_appears_is_looked_into(gateway: Gateway, scanning: Reconciling) -> None:
    """scan_folder takes note of the files in one folder, at every depth, and of no other."""
    gateway.drop(1)
    make_instance(gateway.spool.incoming / "study" / "a.dcm")
    make_instance(gateway.spool.incoming / "study" / "series" / "b.dcm")
    scanning.scan_folder("study", 0.0)
    assert places(gateway) == {"study/a.dcm", "study/series/b.dcm"}


@pytest.mark.parametrize("name", ["nothing", NAME, ".hidden", "link"])
def test_what_is_no_folder_of_ours_is_not_looked_into(gateway: Gateway, scanning: Reconciling, name: str) -> None:
    """A folder that is gone again, a file, a hidden folder or a link to a folder gives nothing and raises nothing."""
    gateway.drop(1)
    make_instance(gateway.spool.incoming / ".hidden" / "x.dcm")
    make_instance(gateway.folder / "elsewhere" / "x.dcm")
    (gateway.spool.incoming / "link").symlink_to(gateway.folder / "elsewhere")
    scanning.scan_folder(name, 0.0)
    assert not places(gateway)


# Due times


@pytest.mark.parametrize(
    ("due", "waits"),
    [
        (NOW + timedelta(seconds=100), 100.0),
        (NOW + timedelta(seconds=LONGEST), LONGEST),
        (NOW + timedelta(seconds=LONGEST + 1), None),
        (NOW + timedelta(days=3650), None),
        (NOW - timedelta(seconds=1), None),
        (NOW, None),
        (None, None),
    ],
    ids=["soon", "at most", "too far", "in ten years", "past", "now", "none"],
)
def test_due_times_of_the_ledger(
    gateway: Gateway, scanning: Reconciling, due: datetime | None, waits: float | None
) -> None:
    """A due time is kept, but one further off than backoff_max_seconds is of a wrong clock and counts as now."""
    gateway.receive(1)
    (name,) = gateway.incoming()
    gateway.ledger.retried([Outcome(name, next_attempt_at=due)])
    scanning.scan(1000.0)
    if waits is None:
        assert gateway.backlog.ready == 1
    else:
        assert gateway.backlog.ready == 0
        assert gateway.backlog.next_due() == 1000.0 + waits


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-11-24T09:01:00", "99999-01-01T00:00:00Z"])
def test_a_due_time_that_cannot_be_read_counts_as_now(gateway: Gateway, scanning: Reconciling, text: str) -> None:
    """Whatever a person wrote into the ledger holds up no file."""
    gateway.receive(1)
    with gateway.ledger._database.transaction() as connection:
        connection.execute("UPDATE instances SET next_attempt_at = ?", (text,))
    scanning.scan(0.0)
    assert gateway.backlog.ready == 1


# Where files belong


def test_the_scan_tells_where_files_belong(gateway: Gateway, scanning: Reconciling) -> None:
    """By the row its sender and study, else the folder that it was dropped in; a loose file belongs nowhere yet."""
    (uid,) = gateway.receive(1)
    name = gateway.rows()[uid].file_name
    gateway.drop(1)
    make_instance(gateway.spool.incoming / "cd" / "im" / "1.dcm")
    scanning.scan(0.0)
    origins = {known: entry.origin for known in gateway.backlog.names() if (entry := gateway.backlog.get(known))}
    assert origins == {
        name: Origin("MODALITY", gateway.rows()[uid].study_instance_uid),
        "0.dcm": None,
        "cd/im/1.dcm": Origin("cd", "cd/im"),
    }


def test_what_waited_stands_in_the_order_in_which_it_came(gateway: Gateway, scanning: Reconciling) -> None:
    """By the ledger, since a folder is listed in no order; what has no row comes last."""
    gateway.drop(1)
    uids = gateway.receive(40)
    scanning.scan(0.0)
    came = [gateway.rows()[uid].file_name for uid in uids]
    assert list(gateway.backlog.names()) == [*came, "0.dcm"]
    assert [entry.name for entry in gateway.backlog.take(100, 1 << 30)] == came


def test_a_file_that_was_adopted_belongs_to_its_study(gateway: Gateway, scanning: Reconciling) -> None:
    """When the ledger knows a dropped file, what it says counts; the folder still tells the source."""
    uid = make_instance(gateway.spool.incoming / "cd" / "1.dcm")
    content = (gateway.spool.incoming / "cd" / "1.dcm").read_bytes()
    gateway.ledger.adopt("cd/1.dcm", read_part10(io.BytesIO(content), len(content)), len(content))
    scanning.scan(0.0)
    entry = gateway.backlog.get("cd/1.dcm")
    assert entry is not None
    assert entry.origin == Origin("cd", gateway.rows()[uid].study_instance_uid)


# Rows whose files are gone


def test_a_file_that_a_person_took_is_removed(gateway: Gateway, scanning: Reconciling, lines: Any) -> None:
    """A row that says incoming without a file becomes removed, once, and is said."""
    (uid,) = gateway.receive(1)
    (name,) = gateway.incoming()
    (gateway.spool.incoming / name).unlink()
    for _ in range(2):
        scanning.scan(0.0)
    assert gateway.rows()[uid].state is State.REMOVED
    assert [event.event for event in gateway.ledger.events(name)] == [Event.RECEIVED, Event.REMOVED]
    assert lines("taken away by somebody else") == [{"folder": "incoming", "files": 1}]


def test_a_quarantined_file_that_a_person_took_is_removed(gateway: Gateway, scanning: Reconciling, lines: Any) -> None:
    """A row that says quarantine without a file anywhere becomes removed; its cause stays."""
    (uid,) = quarantine(gateway)
    (gateway.spool.quarantine.path / NAME).unlink()
    scanning.scan(0.0)
    assert (gateway.rows()[uid].state, gateway.rows()[uid].cause) == (State.REMOVED, Cause.REFUSED)
    assert lines("taken away by somebody else") == [{"folder": "quarantine", "files": 1}]


def test_a_released_file_is_not_removed(gateway: Gateway, scanning: Reconciling) -> None:
    """A file that was moved back to incoming/ keeps its row until it is adopted again."""
    (uid,) = quarantine(gateway)
    os.rename(gateway.spool.quarantine.path / NAME, gateway.spool.incoming / NAME)
    scanning.scan(0.0)
    assert gateway.rows()[uid].state is State.QUARANTINE
    assert places(gateway) == {NAME}


@pytest.mark.parametrize("name", [b"M\xfcller.dcm", b"M\\xfcller.dcm", b"\\x"], ids=repr)
def test_a_released_file_whose_name_is_no_utf8_is_not_removed(
    gateway: Gateway, scanning: Reconciling, name: bytes
) -> None:
    """A scan between a release and the next delivery knows the file by its name, whatever the ledger makes of that."""
    incoming, file_name = gateway.spool.incoming, os.fsdecode(name)
    (incoming / file_name).write_text("rubbish")
    gateway.delivery.deliver([Request(file_name, settled=True)])
    assert gateway.quarantined() == {file_name}
    scanning.scan(0.0)
    os.rename(gateway.spool.quarantine.path / file_name, incoming / file_name)
    scanning.scan(1.0)
    assert gateway.counts() == {State.QUARANTINE: 1}
    gateway.delivery.deliver([Request(file_name, settled=True)])
    assert [event.event for event in gateway.ledger.events(file_name)].count(Event.RELEASED) == 1


def test_a_row_that_moves_on_during_the_scan_is_left(
    gateway: Gateway, scanning: Reconciling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is sent and deleted between the look at the rows and the look at the folder is sent, not removed."""
    (uid,) = gateway.receive(1)
    (name,) = gateway.incoming()
    real = Spool.survey

    def survey(spool: Spool, *arguments: Any) -> Survey:
        gateway.ledger.sent([Outcome(name, 200)])
        (gateway.spool.incoming / name).unlink(missing_ok=True)
        return real(spool, *arguments)

    monkeypatch.setattr(Spool, "survey", survey)
    scanning.scan(0.0)
    assert gateway.rows()[uid].state is State.SENT


def test_a_scan_looks_at_no_file_that_is_known(
    gateway: Gateway, scanning: Reconciling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred thousand files that wait are looked at once, not every half minute; new ones and folders are found."""
    gateway.receive(3)
    scanning.scan(0.0)
    known = gateway.incoming()
    surveys: list[Survey] = []
    real = Spool.survey
    monkeypatch.setattr(Spool, "survey", lambda *arguments: surveys.append(real(*arguments)) or surveys[-1])
    scanning.scan(1.0)
    assert (surveys[-1].names, surveys[-1].found, surveys[-1].has_folders) == (known, [], False)
    gateway.receive(1)
    (gateway.spool.incoming / "folder").mkdir()
    scanning.scan(2.0)
    assert surveys[-1].names == gateway.incoming()
    assert {one.name for one in surveys[-1].found} == gateway.incoming() - known
    assert surveys[-1].has_folders
    (gateway.spool.incoming / min(known)).unlink()
    scanning.scan(3.0)
    assert set(gateway.backlog.names()) == gateway.incoming()


def test_a_file_that_the_listing_missed_is_not_removed(
    gateway: Gateway, scanning: Reconciling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that a listing does not show, though it is there, keeps its row."""
    (uid,) = gateway.receive(1)
    monkeypatch.setattr(Spool, "survey", lambda *_: Survey())
    scanning.scan(0.0)
    assert gateway.rows()[uid].state is State.INCOMING


def test_a_disk_that_fails_says_nothing_about_a_file(
    gateway: Gateway, scanning: Reconciling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose name cannot be looked up for an I/O error is not called removed."""
    (uid,) = gateway.receive(1)
    (name,) = gateway.incoming()
    real = os.lstat

    def lstat(path: Any, **settings: Any) -> os.stat_result:
        if str(path).endswith(name):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, **settings)

    monkeypatch.setattr(Spool, "survey", lambda *_: Survey())
    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", lstat)
        scanning.scan(0.0)
    assert gateway.rows()[uid].state is State.INCOMING


def test_a_name_that_is_no_utf8_is_found_again(gateway: Gateway, scanning: Reconciling) -> None:
    """A file whose name is no UTF-8 is neither lost nor called removed."""
    make_instance(gateway.folder / "x.dcm")
    name = os.fsdecode(b"M\xfcller.dcm")
    os.rename(gateway.folder / "x.dcm", gateway.spool.incoming / name)
    gateway.ledger.adopt(name, None, 5)
    for _ in range(2):
        scanning.scan(0.0)
    assert places(gateway) == {name}
    assert [row.state for row in gateway.ledger.latest(10)] == [State.INCOMING]


@pytest.mark.parametrize("folder", ["incoming", "quarantine"])
def test_a_folder_that_is_missing_proves_nothing(gateway: Gateway, scanning: Reconciling, folder: str) -> None:
    """Without incoming/ or quarantine/ the scan raises OSError, and no row is called removed."""
    quarantine(gateway)
    gateway.receive(2)
    before = gateway.counts()
    os.rename(gateway.spool.directory / folder, gateway.spool.directory / "away")
    with pytest.raises(OSError, match="No such file"):
        scanning.scan(0.0)
    assert gateway.counts() == before
    os.rename(gateway.spool.directory / "away", gateway.spool.directory / folder)
    scanning.scan(1.0)
    assert gateway.counts() == before


def test_a_folder_that_is_missing_drops_nothing_from_the_backlog(gateway: Gateway, scanning: Reconciling) -> None:
    """What is known to be owed stays known while incoming/ cannot be read."""
    gateway.receive(2)
    scanning.scan(0.0)
    os.rename(gateway.spool.incoming, gateway.spool.directory / "away")
    with pytest.raises(OSError, match="No such file"):
        scanning.scan(1.0)
    assert len(places(gateway)) == 2


# Files without rows


def test_a_lost_ledger_is_rebuilt_from_quarantine(gateway: Gateway, scanning: Reconciling) -> None:
    """Files in quarantine/ get their rows again, with what their sidecars know."""
    uids = quarantine(gateway, 2)
    before = {uid: gateway.rows()[uid] for uid in uids}
    for path in gateway.spool.directory.glob("ledger.db*"):
        path.unlink()
    scanning.scan(0.0)
    rows = gateway.rows()
    for uid in uids:
        assert (rows[uid].state, rows[uid].cause, rows[uid].http_status) == (State.QUARANTINE, Cause.REFUSED, 400)
        assert rows[uid].study_instance_uid == before[uid].study_instance_uid
        assert rows[uid].size_bytes == before[uid].size_bytes
    assert gateway.counts() == {State.QUARANTINE: 2}


def test_a_file_that_a_person_put_into_quarantine_gets_a_row(gateway: Gateway, scanning: Reconciling) -> None:
    """A file without a sidecar gets a row too; a second scan adds nothing."""
    make_instance(gateway.spool.quarantine.path / "odd.dcm")
    for _ in range(2):
        scanning.scan(0.0)
    (row,) = gateway.ledger.latest(10)
    assert (row.file_name, row.state, row.cause) == ("odd.dcm", State.QUARANTINE, Cause.NONE)
    assert len(gateway.ledger.events("odd.dcm")) == 2


def test_a_file_in_both_folders_is_owed(gateway: Gateway, scanning: Reconciling) -> None:
    """A copy in quarantine/ does not make the row of the file in incoming/ say quarantine."""
    (uid,) = gateway.receive(1)
    (name,) = gateway.incoming()
    shutil.copy(gateway.spool.incoming / name, gateway.spool.quarantine.path / name)
    scanning.scan(0.0)
    assert gateway.rows()[uid].state is State.INCOMING


# A ledger that fails


def test_without_the_ledger_the_backlog_gets_what_is_there(
    gateway: Gateway, scanning: Reconciling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger that cannot be read is raised, and the files are known all the same."""
    gateway.receive(2)

    def fail(*_arguments: Any) -> None:
        raise LedgerError("the ledger cannot be used now")

    monkeypatch.setattr(Ledger, "due_times", fail)
    with pytest.raises(LedgerError):
        scanning.scan(0.0)
    assert len(places(gateway)) == 2


# Empty folders


def folders(gateway: Gateway) -> set[str]:
    return {str(path.relative_to(gateway.spool.incoming)) for path in gateway.spool.incoming.rglob("*")}


def test_an_empty_folder_is_removed_after_a_quiet_time(gateway: Gateway, scanning: Reconciling) -> None:
    """A folder that has been empty for empty_folder_seconds goes; its parent, empty only then, waits as long again."""
    (gateway.spool.incoming / "study" / "series").mkdir(parents=True)
    seen = []
    for seconds in (0.0, QUIET - 1, QUIET, QUIET + 1, 2 * QUIET, 2 * QUIET + 1):
        scanning.scan(seconds)
        seen.append(folders(gateway))
    both, outer = {"study", "study/series"}, {"study"}
    assert seen == [both, both, outer, outer, outer, set()]


def test_a_folder_that_was_used_meanwhile_waits_again(gateway: Gateway, scanning: Reconciling) -> None:
    """A folder in which something came and went between two scans is not yet quiet."""
    folder = gateway.spool.incoming / "study"
    folder.mkdir()
    scanning.scan(0.0)
    (folder / "x").touch()
    (folder / "x").unlink()
    os.utime(folder, ns=(1, 1))  # coarse clocks would not show it
    scanning.scan(QUIET)
    assert folders(gateway) == {"study"}
    scanning.scan(2 * QUIET)
    assert folders(gateway) == set()


@pytest.mark.parametrize("content", ["x.dcm", ".hidden", "copying.part"])
def test_a_folder_with_anything_in_it_stays(gateway: Gateway, scanning: Reconciling, content: str) -> None:
    """A folder is empty when nothing at all is in it, hidden files included."""
    folder = gateway.spool.incoming / "study"
    folder.mkdir()
    (folder / content).touch()
    scanning.scan(0.0)
    scanning.scan(QUIET)
    assert "study" in folders(gateway)


def test_a_hidden_folder_and_incoming_itself_stay(gateway: Gateway, scanning: Reconciling) -> None:
    """incoming/ is never removed, and what is in a hidden folder is not ours."""
    (gateway.spool.incoming / ".hidden" / "empty").mkdir(parents=True)
    scanning.scan(0.0)
    scanning.scan(QUIET)
    assert folders(gateway) == {".hidden", ".hidden/empty"}
    assert Path(gateway.spool.incoming).is_dir()


def test_a_file_on_its_way_to_quarantine_is_not_called_removed(gateway: Gateway, scanning: Reconciling) -> None:
    """Between U7 and U8 the row of a file from a folder bears the name that it will have in quarantine/."""
    make_instance(gateway.spool.incoming / "folder" / "IM1")
    gateway.ledger.adopt("folder/IM1", None, 1)
    with ThreadPoolExecutor(1) as pool, gateway.spool.quarantine.reserve("folder/IM1") as slot:
        slot.write_reason({"cause": "refused"})
        gateway.ledger.quarantined(Outcome("folder/IM1", 409, Cause.REFUSED), slot.name, attempts=1)
        scan = pool.submit(lambda: scanning.scan(0.0))
        wait([scan], 0.5)
        slot.move()
    scan.result(10)
    assert [event.event for event in gateway.ledger.events("IM1")] == [Event.ADOPTED, Event.QUARANTINED]
