"""A flush of the ledger's log that fails: what it covered is not durable, whatever the next flush says."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import LedgerFlushError
from common.instance import Instance
from common.ledger import Ledger
from common.records import Receipt, Sender, State

Fail = Callable[[], contextlib.AbstractContextManager[None]]


def receipt(name: str) -> Receipt:
    return Receipt(name, Instance("1.2", "1.3", "1.4"), Sender("CT-1", "STOWGATE", "192.0.2.7"), 10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(path)) as earlier:
        earlier.received(receipt("before.dcm"))
    with contextlib.closing(Ledger(path, busy_seconds=0.1, durable=True)) as opened:
        yield opened


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors that were flushed by fdatasync, in order."""
    calls: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (calls.append(fd), real(fd))[1])
    return calls


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """For a block, fdatasync fails as it does once the kernel could not write a page."""

    @contextlib.contextmanager
    def failing() -> Iterator[None]:
        def refuse(_: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", refuse)
            yield

    return failing


def log_bytes(path: Path) -> int:
    return os.stat(f"{path}-wal").st_size


def in_database(path: Path) -> set[str]:
    """What a power cut leaves at least: the rows of the database file alone."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
        return {name for (name,) in connection.execute("SELECT file_name FROM instances")}


def test_after_a_flush_that_failed_the_log_is_emptied_into_the_database(ledger: Ledger, path: Path, fail: Fail) -> None:
    """The row is committed all the same; before the next is called durable, both are in the database, flushed."""
    with fail(), pytest.raises(LedgerFlushError):
        ledger.received(receipt("a.dcm"))
    assert ledger.owed().keys() == {"before.dcm", "a.dcm"}
    assert "a.dcm" not in in_database(path)
    ledger.received(receipt("b.dcm"))
    assert in_database(path) == {"before.dcm", "a.dcm", "b.dcm"}
    assert log_bytes(path) == 0
    ledger.received(receipt("c.dcm"))
    assert log_bytes(path) > 0  # trusted again


def test_while_the_log_cannot_be_emptied_nothing_is_called_durable(ledger: Ledger, path: Path, fail: Fail) -> None:
    """A reader that holds on to the log is in the way; when it has gone, it is done."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM instances").fetchone()
        with fail(), pytest.raises(LedgerFlushError):
            ledger.received(receipt("a.dcm"))
        for name in ("b.dcm", "c.dcm"):
            with pytest.raises(LedgerFlushError, match="failed before"):
                ledger.received(receipt(name))
        reader.execute("ROLLBACK")
    ledger.received(receipt("d.dcm"))
    assert in_database(path) == {"before.dcm", "a.dcm", "b.dcm", "c.dcm", "d.dcm"}
    assert ledger.counts()[State.INCOMING] == 5


def test_the_descriptor_of_a_failed_flush_is_not_used_again(ledger: Ledger, flushed: list[int], fail: Fail) -> None:
    """Else the same one is kept: a new one would not be told of an error that somebody else was told of."""
    ledger.received(receipt("a.dcm"))
    ledger.received(receipt("b.dcm"))
    assert len(set(flushed)) == 1
    kept = os.readlink(f"/proc/self/fd/{flushed[0]}")
    assert kept.endswith("-wal")
    before = os.fstat(flushed[0])
    with fail(), pytest.raises(LedgerFlushError):
        ledger.received(receipt("c.dcm"))
    with contextlib.suppress(OSError):
        assert os.fstat(flushed[0]).st_ino != before.st_ino
    ledger.received(receipt("d.dcm"))


def test_each_thread_has_its_own_descriptor(ledger: Ledger, flushed: list[int]) -> None:
    """An error is told once to each descriptor: of two threads with one, the second would be told that all is well."""
    ledger.received(receipt("a.dcm"))
    thread = threading.Thread(target=ledger.received, args=(receipt("b.dcm"),))
    thread.start()
    thread.join()
    assert len(set(flushed)) == 2
