"""What becomes of a damaged ledger: it is set aside, never deleted, and a new one takes its place.

What can be read of it goes into the new one: rows and events are copied by ranges of their ids, and a range that
cannot be read is halved until only what lies on damaged pages is left out. The files bring back the rest, as adopted,
and history is all that can be gone. The whole of it is done under the lock on the spool's folder, so by one process
only; the others find another file under the name, and open that.

Fatal: the folder cannot be written (OSError, sqlite3.Error): everything is then as it was.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from common.directory import sync_directory
from common.ledger_schema import before_first_table

SIBLINGS = ("-wal", "-shm")
_TABLES = {"instances": "1", "events": "instance_id IN (SELECT id FROM main.instances)"}  # which of its rows are copied
_CHUNK = 4000  # ids
_LEAST = 4  # ids; a range so small that cannot be read is not halved any more
_CACHE_KILOBYTES = 64 * 1024  # the indexes are written at random
_GONE = 3  # chunks, one after the other, of which nothing can be read
_LONGEST_SECONDS = 120.0  # for all copying: nothing is recorded by anybody meanwhile
_SMALLEST_ROW = 40  # bytes, about
_HIGHEST_ID = 2**40  # what is higher is no id that a ledger has come to
_SHORT_READ = "SQLITE_IOERR_SHORT_READ"  # the log is shorter than its index says


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was done.

    Attributes:
        aside: the damaged ledger's name now.
        rows: how many of it are in the new one.
        events: likewise.
        complete: nothing was met that could not be read or for which there was no room or time.
    """

    aside: str
    rows: int
    events: int
    complete: bool


def is_damage(error: BaseException) -> bool:
    """Tell whether an error of SQLite says that the file is damaged, or is no database at all."""
    name = _error_name(error)
    return name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")) or name == _SHORT_READ


def replace(path: Path, make: Callable[[sqlite3.Connection], None]) -> Recovery:
    """Set a damaged ledger aside and put a new one in its place. The caller holds the lock on its folder.

    Args:
        path: the damaged ledger.
        make: brings the schema into a new one.

    Raises:
        OSError: the folder cannot be written.
        sqlite3.Error: not even an empty ledger can be made.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        try:
            rows, events, complete = _build(new, make, path)
        except (sqlite3.Error, OSError):
            # No room for it, most likely. The account begins anew, and what can be read stays in the one set aside.
            rows, events, complete = _build(new, make, None)
        _flush(new)
        aside = _set_aside(path)
        os.rename(new, path)
    except BaseException:
        _remove(new)
        raise
    sync_directory(path.parent)
    return Recovery(aside, rows, events, complete)


def _build(new: Path, make: Callable[[sqlite3.Connection], None], old: Path | None) -> tuple[int, int, bool]:
    """Make a new ledger, with what can be read of an old one; how many rows and events that is, and whether all."""
    _remove(new)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(_uri(new, "mode=rw"), uri=True, isolation_level=None)) as connection:
        before_first_table(connection)
        # Nobody sees it before it is whole and flushed; after a crash it is made again.
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KILOBYTES}")
        make(connection)
        if old is None:
            return 0, 0, False
        salvage = _Salvage(connection, sum(_size(Path(f"{old}{suffix}")) for suffix in ("", *SIBLINGS)))
        # Read-only, so that closing it changes nothing in what is set aside. Where pages of its log are ruined, there
        # may be older ones in the database, which is read without its log then.
        salvage.copy(_uri(old, "mode=ro"))
        if not salvage.complete:
            salvage.copy(_uri(old, "immutable=1"))
        return salvage.copied["instances"], salvage.copied["events"], salvage.complete


class _Salvage:
    """Copies what can be read of an old ledger into a new one.

    Attributes:
        copied: how many rows of each table.
        complete: nothing was met so far that could not be read.
    """

    def __init__(self, connection: sqlite3.Connection, size_bytes: int) -> None:
        self._connection = connection
        self._size_bytes = size_bytes
        self._until = time.monotonic() + _LONGEST_SECONDS
        self.copied = dict.fromkeys(_TABLES, 0)
        self.complete = True
        # Else a file that is shorter than its header says is not read at all.
        connection.execute("PRAGMA writable_schema = ON")

    def copy(self, uri: str) -> None:
        """Copy what can be read of a ledger, of what is not there yet."""
        try:
            self._connection.execute("ATTACH ? AS old", (uri,))
        except sqlite3.Error:
            self.complete = False
            return
        try:
            for table, where in _TABLES.items():
                self._copy_table(table, where)
        finally:
            self._connection.execute("DETACH old")

    def _copy_table(self, table: str, where: str) -> None:
        known = self._columns("old", table)
        columns = ", ".join(name for name in self._columns("main", table) if name in known)
        if "id" not in known:
            return
        # OR IGNORE: a row that a damaged page made up breaks the rules of the table, most likely.
        statement = (
            f"INSERT OR IGNORE INTO main.{table} ({columns})"  # noqa: S608 - names of our own
            f" SELECT {columns} FROM old.{table} NOT INDEXED WHERE id BETWEEN ? AND ? AND {where}"
        )
        last, first, lost = self._last_id(table), 1, 0
        while first <= last:
            if time.monotonic() > self._until:
                self.complete = False
                return
            first = self._next_id(table, first)
            # Where chunk after chunk is gone, each is tried once.
            least = _LEAST if lost < _GONE else _CHUNK
            found = self._copy_range(statement, first, first + _CHUNK - 1, least)
            lost = 0 if found else lost + 1
            self.copied[table] += found
            first += _CHUNK

    def _copy_range(self, statement: str, low: int, high: int, least: int) -> int:
        """Copy what can be read of a range of ids; how many rows that is."""
        copied = 0
        ranges = [(low, high)]
        while ranges:
            low, high = ranges.pop()
            try:
                copied += max(0, self._connection.execute(statement, (low, high)).rowcount)
            except sqlite3.Error as error:
                self._note(error)
                if high - low >= least:
                    middle = (low + high) // 2
                    ranges += [(middle + 1, high), (low, middle)]
        return copied

    def _columns(self, schema: str, table: str) -> list[str]:
        try:
            return [name for _, name, *_ in self._connection.execute(f"PRAGMA {schema}.table_info({table})")]
        except sqlite3.Error as error:
            self._note(error)
            return []

    def _last_id(self, table: str) -> int:
        """The highest id that there can be."""
        highest = self._size_bytes // _SMALLEST_ROW
        try:
            found = self._connection.execute(f"SELECT max(id) FROM old.{table}").fetchone()[0]  # noqa: S608 - as above
        except sqlite3.Error as error:
            self._note(error)
            return highest
        return max(found, highest) if isinstance(found, int) and found <= _HIGHEST_ID else highest

    def _next_id(self, table: str, first: int) -> int:
        """The lowest id from `first` on; past all ids if there is none, and `first` if that cannot be read."""
        try:
            found = self._connection.execute(
                f"SELECT min(id) FROM old.{table} WHERE id >= ?",  # noqa: S608 - as above
                (first,),
            ).fetchone()[0]
        except sqlite3.Error as error:
            self._note(error)
            return first
        return found if isinstance(found, int) else _HIGHEST_ID

    def _note(self, error: sqlite3.Error) -> None:
        """Take note that the old ledger cannot be read somewhere; an error of the new one is raised."""
        if not is_damage(error) and not _error_name(error).startswith("SQLITE_IOERR_READ"):
            raise error
        self.complete = False


def _set_aside(path: Path) -> str:
    """Give the damaged ledger another name as well, and its log that name alone; returns it.

    Its own name goes to the new one, in one step. The log goes before that: SQLite would read it into the new one.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    number = 1
    while True:
        aside = f"{path.name}.damaged-{stamp}" + (f"~{number}" if number > 1 else "")
        try:
            _link(path, path.with_name(aside))
        except FileExistsError:
            number += 1
        else:
            break
    for suffix in SIBLINGS:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", path.with_name(f"{aside}{suffix}"))
    return aside


def _link(path: Path, aside: Path) -> None:
    try:
        os.link(path, aside)
    except FileExistsError:
        raise
    except OSError:
        # A filesystem without hard links: for a moment there is no ledger, and a crash then leaves an empty one.
        os.rename(path, aside)


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    for suffix in ("", *SIBLINGS, "-journal"):
        with contextlib.suppress(OSError):
            os.unlink(f"{path}{suffix}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _uri(path: Path, options: str) -> str:
    return f"file:{quote(os.fsencode(path))}?{options}"


def _error_name(error: BaseException) -> str:
    return str(getattr(error, "sqlite_errorname", ""))
