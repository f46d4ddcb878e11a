"""Waiting for other processes that write to the ledger, in steps as short as what they do.

SQLite's own waiting begins with a millisecond, in which a commit could be made six times, and there is none where the
journal mode is changed.
"""

import sqlite3
import time

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.00005, 0.01


def begin_writing(connection: sqlite3.Connection, seconds: float) -> None:
    """Begin a transaction that writes, as soon as nobody else is at it.

    Args:
        connection: outside a transaction.
        seconds: how long to wait; SQLite waits so long for everything else afterwards.

    Raises:
        sqlite3.Error: others were in the way for longer, or something else is wrong.
    """
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        _patiently(connection, "BEGIN IMMEDIATE", seconds)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(1000 * seconds)}")


def set_wal(connection: sqlite3.Connection, seconds: float) -> None:
    """Change the journal mode: that ignores the busy timeout when two processes open a new ledger together.

    Raises:
        sqlite3.Error: as above.
    """
    _patiently(connection, "PRAGMA journal_mode = WAL", seconds)


def _patiently(connection: sqlite3.Connection, statement: str, seconds: float) -> None:
    deadline = 0.0
    pause = _SHORTEST_PAUSE_SECONDS
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            now = time.monotonic()
            deadline = deadline or now + seconds
            # Extended codes: others write, or recover the log.
            if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED} or now > deadline:
                raise
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
        else:
            return
