"""What a person can do about quarantined files."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.instance import Instance
from common.ledger import Ledger
from common.records import Cause, Event, Outcome, State
from common.spool import Spool
from console.actions import AT_A_TIME, Actions

NAME = f"{'a' * 32}.dcm"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty one."""
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


@pytest.fixture
def ledger(spool: Spool) -> Iterator[Ledger]:
    """Its ledger."""
    ledger = Ledger(spool.ledger, durable=True)
    yield ledger
    ledger.close()


def quarantine(spool: Spool, ledger: Ledger, name: str = NAME) -> None:
    (spool.incoming / name).write_bytes(b"bytes")
    ledger.adopt(name, Instance("1.2", "1.2.3", "1.2.840.10008.1.2.1"), 5)
    with spool.quarantine.reserve(name) as slot:
        slot.write_reason({"cause": "refused"})
        ledger.quarantined(Outcome(name, 409, Cause.REFUSED, "no"), slot.name, attempts=3)
        slot.move()


def test_a_release_brings_the_file_back_from_a_clean_slate(spool: Spool, ledger: Ledger) -> None:
    """The file is in incoming/, its sidecar is gone, its row starts again, and its history says by whom."""
    quarantine(spool, ledger)
    done = Actions(spool, ledger, "anna").release([NAME])
    assert (done.done, done.failed) == ((NAME,), {})
    assert (spool.incoming / NAME).read_bytes() == b"bytes"
    assert os.listdir(spool.quarantine.path) == []
    row = ledger.rows([NAME])[NAME]
    assert (row.state, row.attempts, row.cause, row.http_status) == (State.INCOMING, 0, Cause.NONE, None)
    last = ledger.events(NAME)[-1]
    assert (last.event, last.detail) == (Event.RELEASED, "by anna")


def test_nobody_takes_a_file_before_its_release_is_recorded(spool: Spool, ledger: Ledger) -> None:
    """The file is claimed from before the rename until the block ends."""
    quarantine(spool, ledger)
    with spool.quarantine.release([NAME]):
        fd = os.open(spool.incoming / NAME, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_a_release_replaces_nothing(spool: Spool, ledger: Ledger) -> None:
    """What bears the name in incoming/ stays, and so does the file in quarantine/."""
    quarantine(spool, ledger)
    (spool.incoming / NAME).write_bytes(b"another")
    done = Actions(spool, ledger, "anna").release([NAME])
    assert done.done == ()
    assert "incoming/ has an entry of that name" in done.failed[NAME]
    assert (spool.incoming / NAME).read_bytes() == b"another"
    assert (spool.quarantine.path / NAME).read_bytes() == b"bytes"
    assert ledger.rows([NAME])[NAME].state is State.QUARANTINE


def test_links_and_fifos_can_be_released_too(spool: Spool, ledger: Ledger) -> None:
    """They are moved as they are, never opened."""
    os.mkfifo(spool.quarantine.path / "fifo")
    (spool.quarantine.path / "link").symlink_to("/etc/passwd")
    assert Actions(spool, ledger, "anna").release(["fifo", "link"]).failed == {}
    assert sorted(os.listdir(spool.incoming)) == ["fifo", "link"]


def test_a_discard_is_recorded_and_then_done(spool: Spool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row says removed, by whom, before the file goes; a crash in between leaves the file."""
    quarantine(spool, ledger)
    seen: list[State] = []
    delete = spool.quarantine.discard
    monkeypatch.setattr(
        spool.quarantine, "discard", lambda names: seen.append(ledger.rows([NAME])[NAME].state) or delete(names)
    )
    assert Actions(spool, ledger, "anna").discard([NAME]).done == (NAME,)
    assert seen == [State.REMOVED]
    assert os.listdir(spool.quarantine.path) == []
    last = ledger.events(NAME)[-1]
    assert (last.event, last.detail) == (Event.REMOVED, "discarded by anna")


def test_nothing_is_discarded_that_cannot_be_recorded(spool: Spool, ledger: Ledger) -> None:
    """With the ledger locked by somebody else the file stays."""
    quarantine(spool, ledger)
    impatient = Ledger(spool.ledger, busy_seconds=0.1)
    other = sqlite3.connect(spool.ledger, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    done = Actions(spool, impatient, "anna").discard([NAME])
    other.close()
    assert "SQLITE_BUSY" in done.failed[NAME]
    assert (spool.quarantine.path / NAME).exists()


@pytest.mark.parametrize("name", ["../incoming/x", "/etc/passwd", "..", "", "a/b", "x\0y"])
def test_names_never_lead_out_of_quarantine(spool: Spool, ledger: Ledger, name: str) -> None:
    """What is no plain name is refused."""
    actions = Actions(spool, ledger, "anna")
    for done in (actions.release([name]), actions.discard([name])):
        assert "expected the name of a file" in done.failed[name]


def test_what_is_gone_is_said_and_the_others_go_on(spool: Spool, ledger: Ledger) -> None:
    """One that a person moved away meanwhile fails alone."""
    quarantine(spool, ledger)
    done = Actions(spool, ledger, "anna").release(["gone.dcm", NAME])
    assert done.done == (NAME,)
    assert done.failed == {"gone.dcm": "it is not in quarantine/ any more"}


def test_many_share_their_flushes(spool: Spool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred files cost as many flushes of the folders as one, and each of them is done and told."""
    names = [f"{number:032x}.dcm" for number in range(2 * AT_A_TIME + 1)]
    for name in names:
        quarantine(spool, ledger, name)
    flushed: list[Path] = []
    monkeypatch.setattr("common.quarantine.sync_directory", flushed.append)
    actions = Actions(spool, ledger, "anna")
    assert actions.release(names).done == tuple(names)
    assert flushed == 3 * [spool.incoming, spool.quarantine.path]
    assert sorted(os.listdir(spool.incoming)) == names
    assert not os.listdir(spool.quarantine.path)
    assert {row.state for row in ledger.rows(names).values()} == {State.INCOMING}
    assert {ledger.events(name)[-1].event for name in names} == {Event.RELEASED}


def test_one_that_fails_keeps_none_of_its_lot_back(spool: Spool, ledger: Ledger) -> None:
    """A name that is taken, a folder, one that is gone: each says why, the others are done."""
    names = [f"{number:032x}.dcm" for number in range(5)]
    for name in names:
        quarantine(spool, ledger, name)
    (spool.incoming / names[1]).write_bytes(b"another")
    done = Actions(spool, ledger, "anna").release(names[:3])
    assert done.done == (names[0], names[2])
    assert list(done.failed) == [names[1]]
    (spool.quarantine.path / names[4]).unlink()
    (spool.quarantine.path / "folder").mkdir()
    done = Actions(spool, ledger, "anna").discard([names[3], names[4], "folder", names[3]])
    assert done.done == (names[3],)
    assert done.failed[names[4]] == "it is not in quarantine/ any more"
    assert "folder" in done.failed
    assert ledger.rows([names[4]])[names[4]].state is State.QUARANTINE
    assert sorted(os.listdir(spool.quarantine.path)) == sorted(
        [names[1], f"{names[1]}.json", f"{names[4]}.json", "folder"]
    )


def test_nothing_is_deleted_that_came_after_the_record(
    spool: Spool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives in quarantine/ under a name that was not there when it was looked for stays."""
    quarantine(spool, ledger)
    record = ledger.discarded

    def late(names: list[str], detail: str) -> None:
        record(names, detail)
        (spool.quarantine.path / "late").write_bytes(b"late")

    monkeypatch.setattr(ledger, "discarded", late)
    done = Actions(spool, ledger, "anna").discard(["late", NAME])
    assert (done.done, list(done.failed)) == ((NAME,), ["late"])
    assert (spool.quarantine.path / "late").read_bytes() == b"late"
