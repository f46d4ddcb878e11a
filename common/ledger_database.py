"""The SQLite file of the ledger: opening, waiting, migrating.

One connection behind a lock serves a whole process. SQLite allows one writer at a time anyway, and waiting for
a Python lock is cheaper and fairer than SQLite's polling; other processes are waited for up to `busy_seconds`.
WAL with synchronous=NORMAL: a commit survives any crash of ours; at a power cut the last rows can be lost, and
the files, which are flushed, bring them back as adopted. That holds while files are there: whoever deletes them
has the log flushed after each commit. Not by synchronous=FULL, which keeps all other writers out while it flushes: what
is committed is in the log that is flushed here, or was checkpointed, and flushed by that, before the log began anew.

Errors: every failure of SQLite becomes a `LedgerError`, whose text names no value of a row.
"""

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path

from common.directory import sync_directory
from common.errors import LedgerError, LedgerVersionError

# The script at index N brings version N to N + 1.
_MIGRATIONS = ("schema.sql", "schema-2.sql")
SCHEMA_VERSION = len(_MIGRATIONS)
# 16 MB of log. Whoever commits the last page waits for the checkpoint; most pages are written again and again, so that
# a longer log costs less in all (with SQLite's 1000 pages, each hundredth commit took 3 ms, with these 0.2 ms).
_CHECKPOINT_PAGES = 4000


class Database:
    """The open ledger file; created if it is missing, and created anew if it is deleted meanwhile.

    Raises:
        LedgerVersionError: a newer Stowgate wrote it.
        LedgerError: it cannot be opened, or is no SQLite database.
    """

    def __init__(self, path: Path, busy_seconds: float, *, durable: bool = False) -> None:
        self.path = path
        self._file = os.fspath(path)
        self._busy_seconds = busy_seconds
        self._durable = durable
        self._lock = threading.Lock()
        self._inode: int | None = None
        self._named: int | None = None  # the log whose name is known to be on disk
        with self._lock:
            self._connection, self._inode = self._open()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One writing transaction: committed at the end of the block, rolled back if it raises.

        Raises:
            LedgerError: it is not committed, or not durable where that was asked for.
        """
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                raise
        if self._durable:
            self._flush()

    def _flush(self) -> None:
        """Flush the log, with nobody waiting for it but the caller."""
        try:
            log = os.open(f"{self._file}-wal", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(log)
                inode = os.fstat(log).st_ino
            finally:
                os.close(log)  # of the log, on which SQLite holds no locks
            if inode != self._named:
                sync_directory(self.path.parent)
                self._named = inode
        except FileNotFoundError:
            pass  # the ledger was deleted meanwhile, its rows with it
        except OSError as error:
            raise LedgerError(f"the ledger cannot be flushed to disk ({error.strerror})") from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, ours alone for the length of the block.

        Raises:
            LedgerError: SQLite cannot read it now.
        """
        with self._lock:
            try:
                self._follow_file()
                yield self._connection
            except sqlite3.Error as error:
                raise _ledger_error(error) from error

    def _follow_file(self) -> None:
        """Open the ledger anew if its file was deleted or replaced: rows written to the old one would be lost."""
        try:
            inode = os.stat(self._file).st_ino
        except OSError:
            inode = -1
        if inode != self._inode:
            self._connection.close()
            # A file made meanwhile can get the number of the one just closed: if this fails, it must be tried again.
            self._inode = None
            self._connection, self._inode = self._open()

    def _open(self) -> tuple[sqlite3.Connection, int]:
        connection: sqlite3.Connection | None = None
        try:
            inode = self._create()
            connection = sqlite3.connect(
                self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
            )
            _set_wal(connection, self._busy_seconds)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.execute("PRAGMA foreign_keys = ON")
            _migrate(connection, self.path)
        except (sqlite3.Error, OSError) as error:
            if connection is not None:
                connection.close()
            raise _ledger_error(error, self.path) from error
        except LedgerError:
            if connection is not None:
                connection.close()
            raise
        return connection, inode

    def _create(self) -> int:
        """Create the file if it is missing, and return its inode.

        One that is there is not opened: its close would drop the locks that SQLite holds on it in this process.
        """
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # One process at a time, or the log of another's new ledger would be cleared away as the old one's.
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not os.path.lexists(self.path):
                # A person who deletes ledger.db may leave them, and SQLite would take them for the new one's.
                for suffix in ("-wal", "-shm"):
                    with suppress(FileNotFoundError):
                        os.unlink(f"{self.path}{suffix}")
                # SQLite would create it by the umask; patient data is in it.
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            return os.stat(self.path).st_ino
        finally:
            os.close(folder)


def _set_wal(connection: sqlite3.Connection, busy_seconds: float) -> None:
    # Changing the journal mode ignores the busy timeout when two processes open a new ledger together.
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema to SCHEMA_VERSION, in one transaction that other processes wait for."""
    if _version(connection) == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)
        _check_version(version, path)
        for script in _MIGRATIONS[version:]:
            for statement in _statements(resources.files("common").joinpath(script).read_text("utf-8")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _check_version(version: int, path: Path) -> None:
    if version > SCHEMA_VERSION:
        raise LedgerVersionError(
            f"expected {path.name} of version {SCHEMA_VERSION} or older, found version {version}: "
            "it was written by a newer Stowgate"
        )


def _ledger_error(error: sqlite3.Error | OSError, path: Path | None = None) -> LedgerError:
    if isinstance(error, OSError):
        return LedgerError(f"expected to open the ledger {path}, found: {error.strerror}")
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return LedgerError(
            f"the ledger is damaged ({name}): stop Stowgate, move ledger.db and ledger.db-* away and start it again; "
            "the ledger is rebuilt from the files"
        )
    return LedgerError(f"the ledger cannot be used now ({name})")
