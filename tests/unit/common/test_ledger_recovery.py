"""A damaged ledger: set aside as it is, and a new one begun with what can be read of it."""

import contextlib
import errno
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import ledger_database, ledger_recovery, ledger_schema
from common.errors import LedgerError, LedgerVersionError
from common.instance import Instance
from common.ledger import Ledger
from common.ledger_schema import SCHEMA_VERSION
from common.records import Event, Outcome, Receipt, Sender, State
from support.pipeline import wait_for

PROJECT = Path(__file__).resolve().parents[3]
CT = Instance("1.2", "1.3", "1.4")
SENDER = Sender("CT-1", "STOWGATE", "192.0.2.7")
COUNT = 2000


def receipt(name: str) -> Receipt:
    return Receipt(name, CT, SENDER, 10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def filled(path: Path) -> Path:
    """A ledger of some hundred pages, closed: rows received, half of them sent."""
    with contextlib.closing(Ledger(path)) as ledger:
        ledger.received(*(receipt(f"{number}.dcm") for number in range(COUNT)))
        ledger.sent([Outcome(f"{number}.dcm", 200) for number in range(0, COUNT, 2)])
    return path


def set_aside(path: Path) -> list[Path]:
    """The damaged ledgers beside a ledger, without their logs."""
    found = path.parent.glob("ledger.db.damaged-*")
    return sorted(one for one in found if not one.name.endswith(("-wal", "-shm")))


def check_sound(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def rubbish(path: Path) -> None:
    path.write_bytes(b"no database at all " * 100)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite(start: float, end: float) -> Callable[[Path], None]:
    """Write over a part of the file, given as fractions of it."""

    def damage(path: Path) -> None:
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(max(4096, int(size * start)))
            file.write(b"\xa5" * int(size * (end - start)))

    return damage


def use_all(ledger: Ledger) -> None:
    """Read and write all that there is, as often as it takes."""
    for _ in range(2):
        with contextlib.suppress(LedgerError):
            ledger.latest(COUNT * 2)
            ledger.owed()
            ledger.counts()
            for number in range(0, COUNT, 10):
                ledger.events(f"{number}.dcm")
            ledger.received(receipt("new.dcm"))


@pytest.mark.parametrize(
    ("damage", "least"),
    [
        (rubbish, 0),
        (overwrite(0, 1), 0),
        (cut_in_half, COUNT // 3),
        (overwrite(0.45, 0.55), COUNT * 2 // 5),
        (overwrite(0.9, 1), COUNT // 2),
    ],
    ids=["another file", "all pages overwritten", "cut in half", "pages in the middle", "pages at the end"],
)
def test_what_can_be_read_of_a_damaged_ledger_is_kept(filled: Path, damage: Callable[[Path], None], least: int) -> None:
    """Whatever happened to the file: it is set aside byte by byte, the new one is sound, used at once, and private."""
    damage(filled)
    before = filled.read_bytes()
    with contextlib.closing(Ledger(filled)) as ledger:
        use_all(ledger)
        rows = {row.file_name: row for row in ledger.latest(COUNT * 2)}
        assert rows.pop("new.dcm").state is State.INCOMING
        assert least <= len(rows) < COUNT
        for name, row in rows.items():
            assert row.state is (State.INCOMING if int(name[:-4]) % 2 else State.SENT)
            assert row.calling_ae_title == "CT-1"
    (aside,) = set_aside(filled)
    assert aside.read_bytes() == before
    assert stat.S_IMODE(filled.stat().st_mode) == 0o600
    assert not list(filled.parent.glob("*.new*"))
    check_sound(filled)


def test_events_are_kept_with_their_rows(filled: Path) -> None:
    """The history of a row that is kept is kept, in its order."""
    overwrite(0.48, 0.52)(filled)
    with contextlib.closing(Ledger(filled)) as ledger:
        use_all(ledger)
        assert [event.event for event in ledger.events("0.dcm")] == [Event.RECEIVED, Event.SENT]
        whole = sum(len(ledger.events(row.file_name)) > 0 for row in ledger.latest(COUNT * 2))
        assert whole > COUNT // 2


def test_the_log_says_in_one_line_what_was_done(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the name that it has now, the reason, and how many rows and events were read."""
    said: list[dict[str, object]] = []

    class Said:
        def warning(self, text: str, **fields: object) -> None:
            said.append({"text": text, **fields})

    monkeypatch.setattr(ledger_database, "log", Said())
    cut_in_half(filled)
    with contextlib.closing(Ledger(filled)) as ledger:
        use_all(ledger)
        count = len(ledger.latest(COUNT * 2)) - 1
    (line,) = said
    assert str(line["text"]).startswith("the ledger was damaged: set aside")
    (aside,) = set_aside(filled)
    assert (line["aside"], line["rows"]) == (aside.name, count)
    assert str(line["reason"]).startswith("SQLITE_")
    assert line["events"]
    assert line["complete"] is False


def test_a_newer_ledger_is_not_touched_however_damaged(filled: Path) -> None:
    """Refused in clear words; nothing is set aside, and its bytes stay."""
    with contextlib.closing(sqlite3.connect(filled)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    cut_in_half(filled)
    before = filled.read_bytes()
    with pytest.raises(LedgerVersionError, match=f"version {SCHEMA_VERSION + 1}.*newer Stowgate"):
        Ledger(filled)
    assert set_aside(filled) == []
    assert filled.read_bytes() == before


def test_damage_that_shows_while_it_is_used_costs_one_operation(filled: Path) -> None:
    """A running process sets it aside by itself: one error, then it goes on; another process follows."""
    ledger, other = Ledger(filled), Ledger(filled)
    other.counts()
    overwrite(0.2, 1)(filled)
    errors = 0
    for number in range(5):
        try:
            ledger.latest(COUNT)
            ledger.received(receipt(f"new-{number}.dcm"))
        except LedgerError:
            errors += 1
    assert errors == 1
    other.received(receipt("of the other.dcm"))
    assert "of the other.dcm" in ledger.owed()
    assert len(set_aside(filled)) == 1
    ledger.close()
    other.close()
    check_sound(filled)


OPEN_AND_RECORD = """
import sys
import threading
from pathlib import Path
from common.instance import Instance
from common.ledger import Ledger
from common.records import Receipt, Sender
sys.stdin.readline()
ledger = Ledger(Path(sys.argv[1]))
ledger.received(Receipt(sys.argv[2], Instance("1.2", "1.3", "1.4"), Sender("A", "B", "C"), 1))
ledger.close()
"""


def test_of_processes_that_start_at_once_one_sets_it_aside(filled: Path) -> None:
    """All of them end up in the same new ledger, with what was read of the old one."""
    cut_in_half(filled)
    names = [f"by-{number}.dcm" for number in range(4)]
    processes = [
        subprocess.Popen([sys.executable, "-c", OPEN_AND_RECORD, filled, name], cwd=PROJECT, stdin=subprocess.PIPE)
        for name in names
    ]
    for process in processes:
        process.communicate(b"go\n")
    assert [process.returncode for process in processes] == [0] * 4
    assert len(set_aside(filled)) == 1
    with contextlib.closing(Ledger(filled)) as ledger:
        assert ledger.rows(names).keys() == set(names)
        assert len(ledger.latest(COUNT * 2)) > COUNT // 3
    check_sound(filled)


def test_a_ledger_that_cannot_be_set_aside_says_what_to_do(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written: the file is as it was, the error names the way out, and it is tried again."""
    cut_in_half(filled)
    before = filled.read_bytes()
    real = os.open

    def fail(path: object, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *rest, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(LedgerError, match=r"damaged.*Read-only file system.*move ledger\.db, ledger\.db-wal"):
            Ledger(filled)
    assert filled.read_bytes() == before
    with contextlib.closing(Ledger(filled)) as ledger:
        ledger.received(receipt("new.dcm"))
    assert len(set_aside(filled)) == 1


def test_without_room_for_its_rows_the_ledger_begins_empty(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Being usable comes first; what could be read stays in the one set aside."""
    cut_in_half(filled)

    def full(*_: object) -> int:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname = "SQLITE_FULL"  # type: ignore[misc]
        raise error

    monkeypatch.setattr(ledger_recovery._Salvage, "copy", full)
    with contextlib.closing(Ledger(filled)) as ledger:
        assert ledger.latest(10) == []
        ledger.received(receipt("new.dcm"))
    assert len(set_aside(filled)) == 1


def test_names_of_what_is_set_aside_do_not_collide(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three within one second have three names, and each its own bytes."""
    for number in range(3):
        path.write_bytes(b"no database at all, number %d " % number * 50)
        Ledger(path).close()
    assert sorted(one.read_bytes()[27:28] for one in set_aside(path)) == [b"0", b"1", b"2"]


def test_a_filesystem_without_hard_links_is_enough(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is renamed then."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    cut_in_half(filled)
    before = filled.read_bytes()
    with contextlib.closing(Ledger(filled)) as ledger:
        assert ledger.latest(COUNT)
    (aside,) = set_aside(filled)
    assert aside.read_bytes() == before


# The log, while the ledger is open


@pytest.fixture
def two(path: Path) -> Iterator[tuple[Ledger, Ledger]]:
    """Two open ledgers on one file, in one process, with rows that are in the log alone."""
    one, other = Ledger(path), Ledger(path)
    one.received(*(receipt(f"{number}.dcm") for number in range(50)))
    other.received(receipt("of the other.dcm"))
    yield one, other
    one.close()
    other.close()


@pytest.mark.parametrize("taken", [("-wal",), ("-shm",), ("-wal", "-shm")], ids="+".join)
def test_a_log_that_is_taken_away_is_noticed(
    two: tuple[Ledger, Ledger], path: Path, taken: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has it open still sees all: that goes into a new ledger, in which both go on."""
    monkeypatch.setattr(ledger_database, "_LOOK_SECONDS", 0.0)
    one, other = two
    for suffix in taken:
        os.unlink(f"{path}{suffix}")
    one.received(receipt("after.dcm"))
    other.received(receipt("after that.dcm"))
    names = {f"{number}.dcm" for number in range(50)} | {"of the other.dcm", "after.dcm", "after that.dcm"}
    assert one.owed().keys() == other.owed().keys() == names
    with contextlib.closing(Ledger(path)) as new:
        assert new.owed().keys() == names
    check_sound(path)


@pytest.mark.parametrize("what", ["cut", "rubbish"])
def test_a_log_that_is_ruined_costs_what_was_in_it(path: Path, what: str) -> None:
    """A log that is cut or overwritten while it is used: an error, then a new ledger; what the database had is kept."""
    with contextlib.closing(Ledger(path)) as ledger:
        ledger.received(*(receipt(f"{number}.dcm") for number in range(50)))
    ledger = Ledger(path)
    ledger.received(*(receipt(f"late-{number}.dcm") for number in range(500)))
    log = Path(f"{path}-wal")
    if what == "cut":
        os.truncate(log, 0)
    else:
        log.write_bytes(os.urandom(log.stat().st_size))
    reader = Ledger(path)  # with no page in memory
    for one in (reader, ledger):
        with contextlib.suppress(LedgerError):
            one.latest(1000)
            one.owed()
    reader.received(receipt("by the reader.dcm"))
    ledger.received(receipt("by the writer.dcm"))
    assert {"by the reader.dcm", "by the writer.dcm", "0.dcm", "49.dcm"} <= reader.owed().keys()
    ledger.close()
    reader.close()
    check_sound(path)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_rubbish_beside_a_ledger_that_is_not_open_is_no_damage(filled: Path, suffix: str) -> None:
    """SQLite reads no frame that is not its own; the ledger is whole."""
    Path(f"{filled}{suffix}").write_bytes(os.urandom(100_000))
    with contextlib.closing(Ledger(filled)) as ledger:
        ledger.received(receipt("new.dcm"))
        assert len(ledger.latest(COUNT * 2)) == COUNT + 1
    assert set_aside(filled) == []


def test_a_recovery_of_another_process_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At start for long, since it may take minutes; later as for any writer. There is no second recovery."""
    monkeypatch.setattr(ledger_database, "_START_SECONDS", 0.2)
    script = (
        "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    rubbish(path)
    with subprocess.Popen(
        [sys.executable, "-c", script, path.parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        started = time.monotonic()
        with pytest.raises(LedgerError, match="recovered by another process"):
            Ledger(path, busy_seconds=0.1)
        assert time.monotonic() - started >= 0.2
        holder.kill()
    assert set_aside(path) == []
    Ledger(path).close()
    assert len(set_aside(path)) == 1


def test_who_waited_for_the_lock_of_a_ledger_that_was_replaced_writes_into_the_new_one(path: Path) -> None:
    """A row that was promised as committed is not in a file that nobody reads any more."""
    ledger = Ledger(path)
    new = path.with_name("prepared")
    Ledger(new).close()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    waiting = threading.Thread(target=ledger.received, args=(receipt("a.dcm"),))
    waiting.start()
    wait_for(ledger._database._lock.locked)
    time.sleep(0.05)  # it is in SQLite's wait by then, or the test shows nothing; it never fails for it
    for suffix in ("-wal", "-shm"):
        os.unlink(f"{path}{suffix}")
    new.rename(path)
    holder.execute("ROLLBACK")
    waiting.join()
    holder.close()
    with contextlib.closing(Ledger(path)) as again:
        assert list(again.owed()) == ["a.dcm"]
    ledger.close()


RECORD_AND_DIE = """
import os, sys
from pathlib import Path
from common.instance import Instance
from common.ledger import Ledger
from common.records import Receipt, Sender
ledger = Ledger(Path(sys.argv[1]))
for number in range(50):
    ledger.received(Receipt(f"late-{number}.dcm", Instance("1.2", "1.3", "1.4"), Sender("A", "B", "C"), 1))
os._exit(0)
"""


def test_the_log_is_read_and_set_aside_with_its_ledger(filled: Path) -> None:
    """Rows that are in the log alone are kept; beside the new ledger it would be taken for that one's."""
    subprocess.run([sys.executable, "-c", RECORD_AND_DIE, filled], cwd=PROJECT, check=True)
    log = Path(f"{filled}-wal")
    before = log.read_bytes()
    assert before
    done = ledger_recovery.replace(filled, lambda connection: ledger_schema.migrate(connection, filled))
    assert (done.rows, done.complete) == (COUNT + 50, True)
    assert not log.exists()
    assert filled.with_name(f"{done.aside}-wal").read_bytes() == before
    with contextlib.closing(Ledger(filled)) as ledger:
        assert {f"late-{number}.dcm" for number in range(50)} <= ledger.owed().keys()
    check_sound(filled)


def test_who_comes_second_to_a_damaged_ledger_takes_the_new_one(filled: Path) -> None:
    """It found the damage too, and had to wait: what the first has made is not set aside again."""
    first, second = Ledger(filled), Ledger(filled)
    with first._database._lock:
        first._database._begin_anew("SQLITE_CORRUPT")
    first.received(receipt("first.dcm"))
    with second._database._lock:
        second._database._begin_anew("SQLITE_CORRUPT")
    assert len(set_aside(filled)) == 1
    assert "first.dcm" in second.owed()
    first.close()
    second.close()
