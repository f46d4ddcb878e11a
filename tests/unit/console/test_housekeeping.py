"""What is kept how long: on a spool as it is after months, with others at work on it meanwhile."""

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import common.ledger_retention
import console.housekeeping
from bench.spool_scale import Scale, make
from common.config import Config, load
from common.errors import LedgerError
from common.instance import Instance
from common.ledger import Ledger
from common.ledger_reader import LedgerReader
from common.ledger_recovery import replace as set_aside
from common.ledger_retention import LedgerRetention
from common.ledger_schema import migrate
from common.presence import FOLDER
from common.quarantine import Quarantine
from common.records import Event, Receipt, Sender, State
from common.spool import Spool
from console.activity import History
from console.cli import main
from console.housekeeping import BusyError, Housekeeping, Kept
from console.looking import Looking
from console.serving import background
from support.pipeline import wait_for

SCALE = Scale(rows=2000, quarantined=20, waiting=10, days=400)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is at work, but where a test says so: no rest between two transactions."""
    monkeypatch.setattr(common.ledger_retention, "_REST", 0)
    monkeypatch.setattr(common.ledger_retention, "_LEAST_REST_SECONDS", 0.0)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Two thousand rows of the last 400 days, twenty in quarantine, ten waiting."""
    return make(tmp_path / "spool", SCALE)


@pytest.fixture
def config(tmp_path: Path, spool: Spool) -> Config:
    """Its settings: nothing is old."""
    (tmp_path / "pipeline.ini").write_text(f"[spool]\ndirectory = {spool.directory}\n")
    return keep(load(tmp_path / "pipeline.ini"), settled_days=0, settled_rows=0, event_days=0)


def keep(config: Config, **retention: Any) -> Config:
    return replace(config, retention=replace(config.retention, **retention))


@pytest.fixture
def sql(spool: Spool) -> Iterator[sqlite3.Connection]:
    """A look at the ledger."""
    with closing(sqlite3.connect(spool.ledger)) as connection:
        yield connection


def states(sql: sqlite3.Connection) -> dict[str, int]:
    return dict(sql.execute("SELECT state, count(*) FROM instances GROUP BY state").fetchall())


def is_whole(sql: sqlite3.Connection) -> bool:
    """SQLite finds no fault, each row has an event, and each event a row."""
    orphans = "SELECT count(*) FROM events WHERE instance_id NOT IN (SELECT id FROM instances)"
    unexplained = "SELECT count(*) FROM instances WHERE id NOT IN (SELECT instance_id FROM events)"
    found = [sql.execute(question).fetchone()[0] for question in ("PRAGMA integrity_check", orphans, unexplained)]
    return found == ["ok", 0, 0]


OWED = {"incoming": 10, "quarantine": 19}  # the last of the twenty is waiting


def test_by_default_little_goes_and_no_file(config: Config, sql: sqlite3.Connection, spool: Spool) -> None:
    """What is younger than 400 days is kept, and quarantine is never touched."""
    before = states(sql)
    config = keep(config, settled_days=401, event_days=401, settled_rows=5_000_000)
    assert Housekeeping(config).once() == Kept()
    assert states(sql) == before
    assert len(list(spool.quarantine.names())) == 19


def test_old_rows_go_with_their_events_and_what_is_owed_stays(config: Config, sql: sqlite3.Connection) -> None:
    """Of 400 days the last hundred stay; rows in incoming and quarantine do, however old they are."""
    kept = Housekeeping(keep(config, settled_days=100)).once()
    assert kept.rows == pytest.approx(1485, abs=10)
    assert kept.events == 2 * kept.rows
    left = states(sql)
    assert {state: left[state] for state in OWED} == OWED
    assert left["sent"] + left["removed"] == 2000 - 29 - kept.rows
    (oldest,) = sql.execute("SELECT min(id) FROM instances WHERE state = 'sent'").fetchone()
    assert oldest == pytest.approx(1500, abs=10)
    assert is_whole(sql)
    assert Housekeeping(keep(config, settled_days=100)).once().rows <= 1


def test_of_too_many_rows_the_newest_stay(config: Config, sql: sqlite3.Connection) -> None:
    """Beyond settled_rows the oldest settled ones go."""
    kept = Housekeeping(keep(config, settled_rows=300)).once()
    left = states(sql)
    assert left["sent"] + left["removed"] == 300
    assert {state: left[state] for state in OWED} == OWED
    assert kept.rows == 2000 - 29 - 300
    assert sql.execute("SELECT min(id) FROM instances WHERE state IN ('sent', 'removed')").fetchone()[0] > 1600
    assert is_whole(sql)


def test_events_alone_go_but_the_last_of_each_row(config: Config, sql: sqlite3.Connection) -> None:
    """The rows stay, each with the event that explains its state; what is not settled keeps all of its history."""
    before = states(sql)
    events_of_owed = sql.execute(
        "SELECT count(*) FROM events JOIN instances AS i ON i.id = instance_id WHERE state IN"
        " ('incoming', 'quarantine')"
    ).fetchone()
    kept = Housekeeping(keep(config, event_days=100)).once()
    assert kept.rows == 0
    assert kept.events == pytest.approx(1485, abs=10)
    assert states(sql) == before
    assert is_whole(sql)
    assert (
        sql.execute(
            "SELECT count(*) FROM events JOIN instances AS i ON i.id = instance_id WHERE state IN"
            " ('incoming', 'quarantine')"
        ).fetchone()
        == events_of_owed
    )
    of_state = dict(
        sql.execute(
            "SELECT i.state, e.event FROM events AS e JOIN instances AS i ON i.id = instance_id"
            " WHERE i.id < 1400 GROUP BY i.id HAVING e.id = max(e.id)"
        ).fetchall()
    )
    assert (of_state["sent"], of_state["removed"]) == ("sent", "removed")


def test_a_dry_run_tells_what_would_go_and_does_nothing(config: Config, sql: sqlite3.Connection, spool: Spool) -> None:
    """The same numbers and names as the run that follows it."""
    config = keep(config, settled_days=100, settled_rows=300, quarantine_days=200)
    before, files = states(sql), sorted(spool.quarantine.names())
    would = Housekeeping(config).once(dry=True)
    assert states(sql) == before
    assert sorted(spool.quarantine.names()) == files
    done = Housekeeping(config).once()
    assert (would.rows, would.discarded, would.discarded_bytes) == (done.rows, done.discarded, done.discarded_bytes)
    assert would.rows > 1600
    assert would.events == done.events
    assert len(would.discarded) == 9


def test_quarantine_by_age_is_discarded_oldest_first_and_recorded(config: Config, spool: Spool) -> None:
    """As a person discards: file and sidecar go, the row says removed, and by whom."""
    reader = LedgerReader(spool.ledger)
    names = sorted(spool.quarantine.names(), key=lambda name: getattr(reader.row(name), "id", 0))
    (spool.quarantine.path / "nobody's.dcm").write_bytes(b"not in the ledger")
    (spool.quarantine.path / "folder").mkdir()
    kept = Housekeeping(keep(config, quarantine_days=100)).once()
    assert list(kept.discarded) == names[: len(kept.discarded)]
    assert len(kept.discarded) == 14
    assert set(spool.quarantine.names()) == {*names[14:], "nobody's.dcm", "folder"}
    row = reader.row(names[0])
    assert row is not None
    assert row.state is State.REMOVED
    last = reader.events(row)[-1]
    assert (last.event, last.detail) == (Event.REMOVED, "discarded by retention")
    assert not (spool.quarantine.path / f"{names[0]}.json").exists()


def test_quarantine_by_size_keeps_the_newest(config: Config, spool: Spool) -> None:
    """Until what is left is no more than the limit."""
    size = next(spool.quarantine.path.glob("*.dcm")).stat().st_size
    kept = Housekeeping(keep(config, quarantine_size=7 * size + 5)).once()
    assert len(kept.discarded) == 12
    assert kept.discarded_bytes == 12 * size
    assert len(list(spool.quarantine.names())) == 7


def test_what_cannot_be_discarded_is_said_and_stays(
    config: Config, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go all the same."""
    stubborn = min(spool.quarantine.names())
    delete = Quarantine._delete

    def refuse(self: Quarantine, name: str) -> None:
        if name == stubborn:
            raise PermissionError(13, "Permission denied")
        delete(self, name)

    monkeypatch.setattr(Quarantine, "_delete", refuse)
    kept = Housekeeping(keep(config, quarantine_size=1)).once()
    assert kept.failed == {stubborn: "Permission denied"}
    assert list(spool.quarantine.names()) == [stubborn]


def test_what_came_back_meanwhile_is_not_deleted(spool: Spool, sql: sqlite3.Connection) -> None:
    """Between the look and the lock a file of that name may have come into incoming/ again."""
    name, number = sql.execute("SELECT file_name, id FROM instances WHERE state = 'sent' LIMIT 1").fetchone()
    with closing(Ledger(spool.ledger)) as ledger, closing(LedgerRetention(spool.ledger)) as retention:
        ledger.received(Receipt(name, Instance("1.2", "1.3", "1.4"), Sender("A", "B", "C"), 5))
        retention._delete_rows([number])
        retention._delete_events(
            [found for (found,) in sql.execute("SELECT id FROM events WHERE instance_id = ?", (number,))]
        )
        assert [event.event for event in ledger.events(name)] == [Event.RECEIVED, Event.SENT, Event.RECEIVED]


def test_ids_are_never_given_again(spool: Spool, sql: sqlite3.Connection) -> None:
    """The newest row and the newest event stay, whatever the settings: who follows events by their ids counts on it."""
    with closing(Ledger(spool.ledger)) as ledger:
        ledger.removed(list(ledger.due_times(State.INCOMING)), State.INCOMING)
    newest = sql.execute("SELECT (SELECT max(id) FROM instances), (SELECT max(id) FROM events)").fetchone()
    with closing(LedgerRetention(spool.ledger)) as retention:
        retention.rows("~", None)
    assert 1 <= states(sql)["removed"] <= 2
    assert sql.execute("SELECT (SELECT max(id) FROM instances), (SELECT max(id) FROM events)").fetchone() == newest


# Others at work meanwhile


def test_writers_go_on_while_rows_are_deleted(
    config: Config, spool: Spool, sql: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each commit of another connection is there afterwards, and none waits for longer than a moment."""
    monkeypatch.setattr(common.ledger_retention, "_REST", 5)
    monkeypatch.setattr(common.ledger_retention, "_LEAST_REST_SECONDS", 0.005)
    stopped = threading.Event()
    waits: list[float] = []

    def write() -> None:
        with closing(Ledger(spool.ledger)) as ledger:
            while not stopped.is_set():
                begun = time.monotonic()
                name = f"{uuid.uuid4().hex}.dcm"
                ledger.received(Receipt(name, Instance("1.2", "1.3", "1.4"), Sender("A", "B", "C"), 5))
                waits.append(time.monotonic() - begun)
                stopped.wait(0.005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        kept = Housekeeping(keep(config, settled_rows=300)).once()
    finally:
        stopped.set()
        writer.join()
    assert kept.rows == 2000 - 29 - 300
    assert len(waits) > 20
    assert states(sql)["incoming"] == 10 + len(waits)
    assert kept.longest_seconds < 0.5
    assert max(waits) < 1.0
    assert is_whole(sql)


def test_killed_in_the_middle_it_leaves_a_whole_ledger_and_goes_on_later(
    config: Config, spool: Spool, sql: sqlite3.Connection
) -> None:
    """SIGKILL between two transactions or inside one: what went took its events along, and the next run ends it."""
    before = states(sql)["sent"]
    script = (
        "import sys; from pathlib import Path; from common.config import load\n"
        "from console.housekeeping import Housekeeping\n"
        "Housekeeping(load(Path(sys.argv[1]))).once()"
    )
    ini = config.path.with_name("killed.ini")
    ini.write_text(f"[spool]\ndirectory = {spool.directory}\n[retention]\nsettled_rows = 300\nquarantine_days = 100\n")
    with subprocess.Popen([sys.executable, "-c", script, str(ini)]) as process:
        wait_for(lambda: states(sql)["sent"] < before - 50 or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    left = states(sql)
    assert 300 < left["sent"] < before
    assert is_whole(sql)
    assert left["incoming"] == 10
    assert len(list(spool.quarantine.names())) == left["quarantine"] == 19
    kept = Housekeeping(load(ini)).once()
    assert len(kept.discarded) == 14
    assert sum(states(sql)[state] for state in ("sent", "removed")) == 300 + 14
    assert is_whole(sql)


def test_one_at_a_time(config: Config, spool: Spool) -> None:
    """Another one is told so at once; a dry run needs no lock."""
    (spool.directory / FOLDER).mkdir(exist_ok=True)
    fd = os.open(spool.directory / FOLDER / "housekeeping.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(BusyError):
        Housekeeping(config).once()
    assert Housekeeping(config).once(dry=True) == Kept()
    os.close(fd)
    assert Housekeeping(config).once() == Kept()


def test_without_a_ledger_nothing_is_made(tmp_path: Path) -> None:
    """A spool that no process has used yet stays so."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "pipeline.ini").write_text("[spool]\ndirectory = spool\n")
    assert Housekeeping(load(tmp_path / "pipeline.ini")).once() == Kept()
    assert not (tmp_path / "spool" / "ledger.db").exists()


# Space


def test_free_pages_are_given_back(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small steps, but for those that are used again soon; then the file is shorter."""
    monkeypatch.setattr("common.ledger_retention._KEPT_FREE", 10)
    with closing(LedgerRetention(spool.ledger)) as retention:
        size = spool.ledger.stat().st_size
        retention.rows("~", None)
        kept = retention.give_back()
        assert kept.bytes_freed > size // 2
        assert spool.ledger.stat().st_size == size - kept.bytes_freed
        assert retention.give_back().bytes_freed == 0


def test_a_ledger_made_before_stays_as_large_and_is_used_again(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without auto_vacuum nothing can be given back in steps; rewriting a gigabyte is nobody's surprise."""
    monkeypatch.setattr("common.ledger_retention._KEPT_FREE", 10)
    with closing(sqlite3.connect(spool.ledger, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    size = spool.ledger.stat().st_size
    with closing(LedgerRetention(spool.ledger)) as retention:
        retention.rows("~", None)
        assert retention.give_back().bytes_freed == 0
    assert spool.ledger.stat().st_size == size


def test_new_ledgers_can_give_back_whoever_makes_them(tmp_path: Path) -> None:
    """Made at the first start, or in the place of a damaged one."""
    path = tmp_path / "ledger.db"

    def auto_vacuum() -> int:
        with closing(sqlite3.connect(path)) as connection:
            return int(connection.execute("PRAGMA auto_vacuum").fetchone()[0])

    Ledger(path).close()
    assert auto_vacuum() == 2
    set_aside(path, lambda connection: migrate(connection, path))
    assert auto_vacuum() == 2


# By command, and by itself


def test_the_command_says_what_it_did(config: Config, spool: Spool) -> None:
    """In words, or as one JSON document; what was deleted once is not deleted twice."""
    config.path.write_text(
        f"[spool]\ndirectory = {spool.directory}\n[retention]\nsettled_rows = 300\nquarantine_days = 100\n"
    )
    command = ["--config", str(config.path), "housekeeping"]
    dry = CliRunner().invoke(main, [*command, "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.output
    document = json.loads(dry.output)
    assert (document["dry_run"], document["rows"], len(document["discarded"])) == (True, 2000 - 29 - 300, 14)
    assert set(document) >= {"events", "discarded_bytes", "failed", "bytes_freed", "longest_seconds"}
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0
    assert "1,671 rows of the ledger" in done.output
    assert "14 files of quarantine/ deleted" in done.output
    # What was discarded is a settled row from now on.
    assert json.loads(CliRunner().invoke(main, [*command, "--json"]).output)["rows"] == 14


def test_once_an_hour_and_on_after_trouble(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that cannot be used this time is tried again the next."""
    monkeypatch.setattr(console.housekeeping, "_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(console.housekeeping, "_EVERY_SECONDS", 0.01)
    stopped, calls = threading.Event(), []
    it = Housekeeping(config)

    def once(*, dry: bool = False) -> Kept:
        calls.append(dry)
        if len(calls) < 3:
            raise LedgerError("not now") if len(calls) == 1 else BusyError("not now")
        stopped.set()
        return Kept()

    monkeypatch.setattr(it, "once", once)
    it.run(stopped)
    assert calls == [False] * 3


def test_the_page_does_it_beside_itself(config: Config) -> None:
    """`serve` has it among what runs in the background."""
    history, looking = History(LedgerReader(config.spool.directory / "ledger.db")), Looking(config)
    assert isinstance(background(history, looking, config)["housekeeping"], Housekeeping)
