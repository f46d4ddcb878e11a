"""The SQLite file of the ledger: opening, waiting, following.

One connection behind a lock serves a whole process. SQLite allows one writer at a time anyway, and waiting for
a Python lock is cheaper and fairer than SQLite's polling; other processes are waited for up to `busy_seconds`.
WAL with synchronous=NORMAL: a commit survives any crash of ours; at a power cut the last rows can be lost, and
the files, which are flushed, bring them back as adopted. That holds while files are there: whoever deletes them
has the log flushed after each commit. Not by synchronous=FULL, which keeps all other writers out while it flushes: what
is committed is in the log that is flushed here, or was checkpointed, and flushed by that, before the log began anew.

Errors: every failure of SQLite becomes a `LedgerError`, whose text names no value of a row. A file that SQLite finds
damaged is set aside and a new one is begun (common.ledger_recovery), at start or whenever it shows. Nothing looks for
damage: a check of a million rows takes 4 s, and 14 s when they are not in memory.
"""

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common import logs
from common.directory import is_full
from common.errors import LedgerError, LedgerRowError, LedgerVersionError
from common.ledger_flush import LogFlush
from common.ledger_recovery import SIBLINGS, is_damage, replace
from common.ledger_schema import before_first_table, check_version, migrate, version_of
from common.ledger_waiting import begin_writing, set_wal

log = logs.get(__name__)

# 16 MB of log. Whoever commits the last page waits for the checkpoint; most pages are written again and again, so that
# a longer log costs less in all (with SQLite's 1000 pages, each hundredth commit took 3 ms, with these 0.2 ms).
_CHECKPOINT_PAGES = 4000
_LOOK_SECONDS = 1.0  # so often it is seen to that the log still has its names
_START_SECONDS = 300.0  # so long a process that starts waits for another that copies a damaged ledger
_PAUSE_SECONDS = 10.0  # after it could not be set aside, before that is tried again
_OF_THE_ROW = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError)


class Database:
    """The open ledger file; created if it is missing, and created anew if it is deleted meanwhile, or damaged.

    On a full disk it may not be possible to open it, and delivering is what empties the disk: then it is opened by
    the first use that succeeds.

    Raises:
        LedgerVersionError: a newer Stowgate wrote it.
        LedgerError: it cannot be opened.
    """

    def __init__(self, path: Path, busy_seconds: float, *, durable: bool = False) -> None:
        self.path = path
        self._file = os.fspath(path)
        self._busy_seconds = busy_seconds
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode: int | None = None
        self._siblings: tuple[int, ...] = ()  # the inodes of -wal and -shm
        self._looked_at = 0.0
        self._not_before = 0.0  # may a damaged ledger be set aside
        self._closed = False
        self._patience = max(busy_seconds, _START_SECONDS)  # with the folder's lock
        self._log = LogFlush(path, self._empty_log) if durable else None
        with self._lock:
            try:
                self._open()
            except LedgerVersionError:
                raise
            except LedgerError as error:
                if not is_full(path.parent):
                    raise
                log.error("the disk is full: starting without the ledger", reason=str(error))
        self._patience = busy_seconds

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._closed = True
            self._disconnect()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One writing transaction: committed at the end of the block, rolled back if it raises.

        Raises:
            LedgerFlushError: it is committed, but not durable where that was asked for.
            LedgerRowError: a row is refused; nothing is committed.
            LedgerError: it is not committed.
        """
        with self.reading() as connection:
            begin_writing(connection, self._busy_seconds)
            if self._is_another():
                # Set aside by another process while we waited for the lock.
                connection.execute("ROLLBACK")
                connection = self._followed()  # noqa: PLW2901 - the one that counts from here on
                begin_writing(connection, self._busy_seconds)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                raise
        if self._log is not None:
            self._log.flush()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, ours alone for the length of the block.

        Raises:
            LedgerError: SQLite cannot read it now.
        """
        with self._lock:
            try:
                yield self._followed()
            except sqlite3.Error as error:
                if is_damage(error) and self._connection is not None:
                    self._begin_anew(_error_name(error))
                raise _ledger_error(error) from error

    def _empty_log(self) -> bool:
        """Move the log into the database, which SQLite flushes, and begin it anew; False if somebody is in the way."""
        with self.reading() as connection:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not busy

    def _followed(self) -> sqlite3.Connection:
        """The connection; to a new file, if another has the name by now: rows written to the old one would be lost."""
        if self._closed:
            raise LedgerError("the ledger is closed")
        if self._connection is None or self._is_another():
            self._disconnect()
            self._open()
        elif (now := time.monotonic()) - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            if self._siblings_of() != self._siblings:
                # Whoever opens the ledger now does not see what we write. All that we see goes into the database first.
                with suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._begin_anew("ledger.db-wal or ledger.db-shm was taken away")
        if self._connection is None:
            raise LedgerError("the ledger cannot be used now")
        return self._connection

    def _is_another(self) -> bool:
        """Tell whether the name leads to another file than the one that is open."""
        try:
            return os.stat(self._file).st_ino != self._inode
        except OSError:
            return True

    def _siblings_of(self) -> tuple[int, ...]:
        """The inodes of -wal and -shm; 0 for one that is not there."""
        inodes = []
        for suffix in SIBLINGS:
            try:
                inodes.append(os.stat(f"{self._file}{suffix}").st_ino)
            except OSError:
                inodes.append(0)
        return tuple(inodes)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        # A file made meanwhile can get the number of the one just closed.
        self._inode = None
        if connection is not None:
            connection.close()

    def _open(self) -> None:
        """Open the file that has the name now; a damaged one is set aside first."""
        for damage_is_mended in (False, True):
            connection: sqlite3.Connection | None = None
            try:
                self._inode = self._create()
                connection = sqlite3.connect(
                    self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
                )
                check_version(version_of(connection), self.path)
                before_first_table(connection)
                set_wal(connection, self._busy_seconds)
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
                connection.execute("PRAGMA foreign_keys = ON")
                migrate(connection, self.path)
            except (sqlite3.Error, OSError) as error:
                self._connection = connection
                if not damage_is_mended and isinstance(error, sqlite3.Error) and is_damage(error):
                    self._begin_anew(_error_name(error), connect=False)
                    continue
                self._disconnect()
                raise _ledger_error(error, self.path) from error
            except LedgerError:
                self._connection = connection
                self._disconnect()
                raise
            self._connection = connection
            self._siblings = self._siblings_of()
            self._looked_at = time.monotonic()
            return

    def _begin_anew(self, reason: str, *, connect: bool = True) -> None:
        """Set the open ledger aside, unless another process has done so by now, and open the one in its place.

        The damaged one stays open until then: SQLite would write its log into it when it is closed under its own name.

        Raises:
            LedgerVersionError: a newer Stowgate wrote it; it is as it was.
            LedgerError: it cannot be set aside now; it is as it was.
        """
        if time.monotonic() < self._not_before:
            raise _damaged(reason)
        try:
            with self._folder_locked():
                if not self._is_another():
                    self._check_it_is_ours()
                    done = replace(self.path, lambda connection: migrate(connection, self.path))
                    log.warning(
                        "the ledger was damaged: set aside, and a new one begun with what could be read",
                        reason=reason,
                        aside=done.aside,
                        rows=done.rows,
                        events=done.events,
                        complete=done.complete,
                    )
        except (sqlite3.Error, OSError) as error:
            self._not_before = time.monotonic() + _PAUSE_SECONDS
            found = _error_name(error) if isinstance(error, sqlite3.Error) else error.strerror
            raise _damaged(reason, f", and cannot be set aside now ({found})") from error
        self._disconnect()
        if connect:
            self._open()

    def _check_it_is_ours(self) -> None:
        """Raise LedgerVersionError if a newer Stowgate wrote the damaged file, as far as that can be read."""
        version = 0
        if self._connection is not None:
            with suppress(sqlite3.Error):
                # Else a file that is shorter than its header says is not read at all.
                self._connection.execute("PRAGMA writable_schema = ON")
                version = version_of(self._connection)
        check_version(version, self.path)

    def _create(self) -> int:
        """Create the file if it is missing, and return its inode.

        One that is there is not opened: its close would drop the locks that SQLite holds on it in this process.
        """
        with self._folder_locked():
            if not os.path.lexists(self.path):
                # A person who deletes ledger.db may leave them, and SQLite would take them for the new one's.
                for suffix in SIBLINGS:
                    with suppress(FileNotFoundError):
                        os.unlink(f"{self.path}{suffix}")
                # SQLite would create it by the umask; patient data is in it.
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            return os.stat(self.path).st_ino

    @contextmanager
    def _folder_locked(self) -> Iterator[None]:
        """One process at a time, or the log of another's new ledger would be cleared away as the old one's.

        Raises:
            LedgerError: another process is copying a damaged ledger, for longer than we wait.
        """
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + self._patience
            while True:
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise LedgerError("the ledger is being recovered by another process") from None
                    time.sleep(0.01)
                else:
                    break
            yield
        finally:
            os.close(folder)


def _ledger_error(error: sqlite3.Error | OSError, path: Path | None = None) -> LedgerError:
    if isinstance(error, OSError):
        return LedgerError(f"expected to open the ledger {path}, found: {error.strerror}")
    name = _error_name(error)
    if is_damage(error):
        return LedgerError(f"the ledger was damaged ({name}); a new one has been begun")
    if isinstance(error, _OF_THE_ROW):
        return LedgerRowError(f"the ledger refuses the row ({name})")
    return LedgerError(f"the ledger cannot be used now ({name})")


def _damaged(reason: str, why: str = "") -> LedgerError:
    return LedgerError(
        f"the ledger is damaged ({reason}){why}: it is tried again; or move ledger.db, ledger.db-wal and ledger.db-shm "
        "away together, and it is rebuilt from the files"
    )


def _error_name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", type(error).__name__))
