"""The ledger damaged, lost, locked or of another version, under the processes that use it: no instance is lost."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from receiver_peer import Peer, instance

from common.ledger_schema import SCHEMA_VERSION
from common.records import Event, State
from sandbox.running import RunningSandbox
from support.pipeline import Pipeline, Process, wait_for

MakePipeline = Callable[..., Pipeline]

# With 30, the receiver gives up waiting and refuses meanwhile (docs/reliability.md has what came of that).
LOCK_SECONDS = float(os.environ.get("STOWGATE_LOCK_SECONDS", "1"))

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN " + sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


class Sender:
    """A device: it sends one instance after the other, and keeps in mind what was acknowledged."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._peer = Peer(pipeline.port)
        self._peer.socket.settimeout(60)
        self._peer.associate()
        self.acknowledged: set[str] = set()
        self.refused = 0

    def send(self, count: int = 1) -> None:
        """Send instances; one that is refused must be refused with 0xA700 and a comment."""
        for _ in range(count):
            dataset = instance()
            answer = self._peer.store(dataset)
            if answer.Status == 0x0000:
                self.acknowledged.add(str(dataset.SOPInstanceUID))
            else:
                assert answer.Status == 0xA700
                assert answer.ErrorComment
                self.refused += 1

    def release(self) -> None:
        """End the association, so that a receiver that stops need not wait for it."""
        self._peer.release()

    def send_until(self, acknowledged: int) -> None:
        """Go on until so many more are acknowledged, however many are refused meanwhile."""
        wanted = len(self.acknowledged) + acknowledged
        for _ in range(1000):
            self.send()
            if len(self.acknowledged) >= wanted:
                return
        raise AssertionError(f"refused again and again; {self.refused} in all")


@pytest.fixture
def pipeline(make_pipeline: MakePipeline, sandbox: RunningSandbox) -> Pipeline:
    return make_pipeline(sandbox.url)


def held(sandbox: RunningSandbox) -> set[str]:
    return {one["sop_instance_uid"] for one in sandbox.instances()}


def set_aside(pipeline: Pipeline) -> list[Path]:
    found = pipeline.spool.directory.glob("ledger.db.damaged-*")
    return [path for path in found if not path.name.endswith(("-wal", "-shm"))]


def check_ledger(pipeline: Pipeline) -> None:
    """It is sound, and agrees with the folders in both directions."""
    with contextlib.closing(sqlite3.connect(pipeline.spool.ledger)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = {row.file_name: row.state for row in pipeline.rows()}
    assert {name for name, state in rows.items() if state is State.INCOMING} == {p.name for p in pipeline.incoming()}
    assert {name for name, state in rows.items() if state is State.QUARANTINE} == pipeline.quarantined()


def overwrite_pages(ledger: Path) -> None:
    size = ledger.stat().st_size
    with ledger.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


def put_rubbish(ledger: Path) -> None:
    """As by an editor: another file under the name."""
    other = ledger.with_name("other")
    other.write_bytes(b"no database at all " * 500)
    other.rename(ledger)


def cut(ledger: Path) -> None:
    os.truncate(ledger, ledger.stat().st_size // 2)


def delete_all(ledger: Path) -> None:
    for path in ledger.parent.glob("ledger.db*"):
        path.unlink()


def log_of(ledger: Path) -> Path:
    """The log; while a damaged ledger is replaced there is none for a moment."""
    log = Path(f"{ledger}-wal")
    wait_for(log.exists)
    return log


def take_log(ledger: Path) -> None:
    log_of(ledger).unlink()


def take_index(ledger: Path) -> None:
    Path(f"{ledger}-shm").unlink()


def cut_log(ledger: Path) -> None:
    os.truncate(log_of(ledger), 0)


def spoil_log(ledger: Path) -> None:
    log = log_of(ledger)
    log.write_bytes(os.urandom(log.stat().st_size))


def spoil_index(ledger: Path) -> None:
    with open(f"{ledger}-shm", "r+b") as index:
        index.write(os.urandom(32 * 1024))


DAMAGES = [overwrite_pages, put_rubbish, cut, delete_all, take_log, take_index, cut_log, spoil_log, spoil_index]


def test_whatever_happens_to_the_ledger_while_it_is_used_no_instance_is_lost(
    pipeline: Pipeline, sandbox: RunningSandbox
) -> None:
    """Damage after damage, one association and no restart: what is refused is refused with 0xA700, then all goes on."""
    pipeline.start("receiver")
    pipeline.start("uploader")
    sender = Sender(pipeline)
    for damage in DAMAGES:
        sender.send_until(acknowledged=20)
        damage(pipeline.spool.ledger)
        sender.send_until(acknowledged=20)
        pipeline.wait_empty()
        assert held(sandbox) >= sender.acknowledged, damage.__name__
    assert [process.popen.poll() for process in pipeline.processes] == [None, None]
    sender.send(5)
    pipeline.wait_empty()
    wait_for(lambda: pipeline.counts()[State.INCOMING] == 0)
    assert held(sandbox) >= sender.acknowledged
    check_ledger(pipeline)


def test_both_start_on_a_damaged_ledger_and_say_what_they_did(pipeline: Pipeline, sandbox: RunningSandbox) -> None:
    """One of them sets it aside, with what could be read in the new one; what is owed has its rows, from the files."""
    rule = sandbox.add_rule("status=503")
    receiver = pipeline.start("receiver")
    sender = Sender(pipeline)
    sender.send(120)
    sender.release()
    receiver.stop()
    cut(pipeline.spool.ledger)
    before = pipeline.spool.ledger.read_bytes()
    for module in ("receiver", "uploader", "receiver"):
        log = pipeline.folder / f"{module}-{len(pipeline.processes)}.log"
        pipeline.processes.append(Process(module, pipeline.ini, log))
    for process in pipeline.processes[1:]:
        process.wait_for_line({"receiver": "listening", "uploader": "delivering"}[process.module])
    (aside,) = set_aside(pipeline)
    assert aside.read_bytes() == before
    (line,) = [line for line in pipeline.logs().splitlines() if "the ledger was damaged: set aside" in line]
    assert f"aside={aside.name}" in line
    assert " rows=" in line
    assert " events=" in line
    # The destination is away: nothing is delivered, and still the account is whole.
    wait_for(lambda: pipeline.counts()[State.INCOMING] == 120)
    check_ledger(pipeline)
    sandbox.remove_rule(rule)
    pipeline.wait_empty()
    assert held(sandbox) == sender.acknowledged
    wait_for(lambda: pipeline.counts()[State.SENT] == 120)


def test_a_ledger_lost_in_an_outage_is_rebuilt_before_anything_is_delivered(
    pipeline: Pipeline, sandbox: RunningSandbox
) -> None:
    """Rows without files become removed, files without rows are adopted, in incoming/ and in quarantine/."""
    sandbox.add_rule("status=503")
    receiver = pipeline.start("receiver")
    sender = Sender(pipeline)
    sender.send(30)
    sender.release()
    receiver.stop()
    owed = sorted(path.name for path in pipeline.incoming())
    for name in owed[:5]:
        (pipeline.spool.incoming / name).rename(pipeline.spool.quarantine.path / name)
    with contextlib.closing(sqlite3.connect(pipeline.spool.ledger)) as connection:
        connection.execute("DELETE FROM events")
        connection.execute("DELETE FROM instances")
        connection.execute(
            "INSERT INTO instances (file_name, size_bytes, received_at, state) VALUES"
            " ('lost-1.dcm', 1, '', 'incoming'), ('lost-2.dcm', 1, '', 'incoming'), ('lost-3.dcm', 1, '', 'quarantine')"
        )
        connection.commit()
    uploader = pipeline.start("uploader")
    uploader.wait_for_line("the ledger did not know these files, and has them now")
    wait_for(lambda: pipeline.counts() == {State.INCOMING: 25, State.SENT: 0, State.QUARANTINE: 5, State.REMOVED: 3})
    check_ledger(pipeline)
    rows = pipeline.rows()
    assert {row.sop_instance_uid for row in rows if row.state is State.INCOMING} <= sender.acknowledged
    with pipeline.ledger() as ledger:
        assert [event.event for event in ledger.events(owed[5])] == [Event.ADOPTED]
    log = uploader.log()
    for text in ("folder=incoming files=2", "folder=quarantine files=1", "and entered files=5"):
        assert text in log


@contextlib.contextmanager
def locked(ledger: Path, how: str) -> Iterator[None]:
    """Another process holds the ledger for the length of the block."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, ledger, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield
        other.kill()


def test_a_ledger_that_is_locked_is_waited_for_or_refused(pipeline: Pipeline, sandbox: RunningSandbox) -> None:
    """Short of ten seconds nobody notices; for longer it is 0xA700, for all who wait together. Then all goes on."""
    pipeline.start("receiver")
    pipeline.start("uploader")
    senders = [Sender(pipeline) for _ in range(4)]
    for how in ("IMMEDIATE", "EXCLUSIVE"):
        with locked(pipeline.spool.ledger, how):
            threads = [threading.Thread(target=sender.send, args=(2,)) for sender in senders]
            for thread in threads:
                thread.start()
            threads[0].join(LOCK_SECONDS)
        for thread in threads:
            thread.join()
        for sender in senders:
            assert bool(sender.refused) == (LOCK_SECONDS > 10)
            sender.refused = 0
            sender.send(2)
            assert not sender.refused
    pipeline.wait_empty()
    acknowledged = set().union(*(sender.acknowledged for sender in senders))
    assert held(sandbox) >= acknowledged
    wait_for(lambda: pipeline.counts()[State.SENT] >= len(acknowledged))
    check_ledger(pipeline)


@pytest.mark.parametrize("module", ["receiver", "uploader"])
def test_a_ledger_of_a_newer_version_is_refused_and_not_touched(pipeline: Pipeline, module: str) -> None:
    """Exit status 1, and what it means; not even a damaged one is set aside."""
    pipeline.spool.prepare()
    with pipeline.ledger():
        pass
    with contextlib.closing(sqlite3.connect(pipeline.spool.ledger)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    for damage in (lambda _: None, cut):
        damage(pipeline.spool.ledger)
        before = pipeline.spool.ledger.read_bytes()
        process = Process(module, pipeline.ini, pipeline.folder / "refused.log")
        assert process.popen.wait(30) == 1
        assert "written by a newer Stowgate" in process.log()
        assert pipeline.spool.ledger.read_bytes() == before
        assert set_aside(pipeline) == []
