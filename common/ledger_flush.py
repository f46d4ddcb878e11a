"""Flushing the log of the ledger after a commit, so that it survives a power cut.

The kernel reports a write that failed once to each descriptor that was open by then, and takes the pages for written
from then on: a flush that succeeds after one that failed proves nothing. So each thread keeps a descriptor of its own,
from which no other flush can take the error. After an error the log is not trusted any more: all of it is moved into
the database, and flushed there by SQLite, before any later commit is called durable; what follows a frame that was
lost would be lost with it.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from common.directory import sync_directory
from common.errors import LedgerFlushError


class _Log:
    """The log, open. Closed with the last reference, so that no thread closes it while another is inside a flush."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.inode = os.fstat(self.fd).st_ino

    def __del__(self) -> None:
        fd = getattr(self, "fd", -1)
        if fd >= 0:
            os.close(fd)  # of the log, on which SQLite holds no locks


class LogFlush:
    """Flushes the log of a database. Safe to use from several threads, which do not wait for each other.

    Args:
        database: the path of the database file.
        empty_log: moves all of the log into the database and flushes that; False if somebody keeps it from doing so.
    """

    def __init__(self, database: Path, empty_log: Callable[[], bool]) -> None:
        self._database = database
        self._path = f"{os.fspath(database)}-wal"
        self._empty_log = empty_log
        self._of_thread = threading.local()
        self._named: int | None = None  # the log whose name is known to be on disk
        self._distrusted = False

    def flush(self) -> None:
        """Flush what is committed.

        Raises:
            LedgerFlushError: it may be lost in a power cut.
            LedgerError: likewise, and SQLite says why.
        """
        try:
            if self._distrusted:
                if not self._empty_log():
                    raise LedgerFlushError(
                        "the ledger cannot be flushed to disk (it failed before, and the log is in use)"
                    )
                self._distrusted = False
            log = self._log()
            os.fdatasync(log.fd)
            if log.inode != self._named:
                sync_directory(self._database.parent)
                self._named = log.inode
        except FileNotFoundError:
            pass  # the ledger was deleted meanwhile, its rows with it
        except OSError as error:
            self._distrusted = True
            self._of_thread.log = None
            raise LedgerFlushError(f"the ledger cannot be flushed to disk ({error.strerror})") from error

    def _log(self) -> _Log:
        log: _Log | None = getattr(self._of_thread, "log", None)
        if log is None or os.stat(self._path).st_ino != log.inode:
            log = self._of_thread.log = _Log(self._path)
        return log
