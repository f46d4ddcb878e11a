"""The ledger as people ask it: read-only, on a connection of its own for each question.

Nothing here waits for a writer, and no writer waits for it (WAL). A question has at most seconds: then it is given up,
so that no page and no metric can hold a snapshot that keeps the log from being emptied.

Errors: every failure of SQLite becomes a `LedgerError`, whose text names no value of a row.
"""

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from common.errors import LedgerError
from common.ledger_rows import SELECT, typed, writable
from common.ledger_schema import check_version, version_of
from common.ledger_search import Query, how_many, newest_ids
from common.ledger_transfers import transfers_under_way
from common.records import Cause, Event, EventRow, Row, State, Transfer, ledger_name

__all__ = ["LATENCIES", "Activity", "Heap", "LedgerReader", "Query"]

_PATIENCE_SECONDS = 5.0
_STEPS = 100_000  # of SQLite's machine, between two looks at the clock
LATENCIES = (0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3600.0)
"""Seconds from being received to being sent, the upper bounds by which `Activity.within` counts."""


@dataclass(frozen=True, slots=True)
class Heap:
    """How many instances, of how many bytes, and when the first was received (empty if there are none)."""

    instances: int = 0
    size_bytes: int = 0
    oldest: str = ""


@dataclass(frozen=True, slots=True)
class Activity:
    """Events of one kind within one minute.

    Attributes:
        minute: as YYYY-MM-DDTHH:MM, UTC.
        event: of which kind.
        cause: of them.
        count: how many.
        size_bytes: of their instances.
        seconds: from being received to this event, summed up; 0 but for `sent`.
        within: for each of LATENCIES, how many took no longer; zeros but for `sent`.
    """

    minute: str
    event: Event
    cause: str
    count: int
    size_bytes: int
    seconds: float
    within: tuple[int, ...]


class LedgerReader:
    """Questions to a ledger.

    Args:
        path: the SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self._uri = f"file:{quote(os.fspath(path))}?mode=ro"
        self._path = path

    @contextmanager
    def _asking(self, seconds: float | None = None) -> Iterator[sqlite3.Connection]:
        seconds = _PATIENCE_SECONDS if seconds is None else seconds
        deadline = time.monotonic() + seconds
        try:
            with closing(sqlite3.connect(self._uri, uri=True, timeout=1.0, isolation_level=None)) as connection:
                connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
                connection.execute("PRAGMA query_only = ON")
                check_version(version_of(connection), self._path)
                connection.execute("BEGIN")
                yield connection
        except sqlite3.Error as error:
            name = str(getattr(error, "sqlite_errorname", type(error).__name__))
            if name == "SQLITE_INTERRUPT":
                raise LedgerError(f"the ledger took longer than {seconds:g} s to answer") from error
            raise LedgerError(f"the ledger cannot be read now ({name})") from error

    def heaps(self) -> Mapping[State, Heap]:
        """What is in each state; of sent and removed only how many."""
        with self._asking() as connection:
            # Nearly all are sent: they are what is left of all, which is counted five times as fast as by state.
            counts: dict[str, int] = dict(
                connection.execute(
                    "SELECT state, count(*) FROM instances WHERE state IN (?, ?, ?) GROUP BY state",
                    (State.INCOMING, State.QUARANTINE, State.REMOVED),
                )
            )
            (total,) = connection.execute("SELECT count(*) FROM instances").fetchone()
            counts[State.SENT] = total - sum(counts.values())
            heaps = {state: Heap(counts.get(state, 0)) for state in State}
            for state in (State.INCOMING, State.QUARANTINE):
                count, size, oldest = connection.execute(
                    "SELECT count(*), coalesce(sum(size_bytes), 0), coalesce(min(received_at), '')"
                    " FROM instances WHERE state = ?",
                    (state,),
                ).fetchone()
                heaps[state] = Heap(count, size, oldest)
            return heaps

    def quarantine_causes(self) -> Mapping[Cause, Heap]:
        """What is in quarantine by cause, the most first."""
        with self._asking() as connection:
            return {
                Cause(cause): Heap(count, size, oldest)
                for cause, count, size, oldest in connection.execute(
                    "SELECT cause, count(*), sum(size_bytes), min(received_at) FROM instances WHERE state = ?"
                    " GROUP BY cause ORDER BY count(*) DESC, cause",
                    (State.QUARANTINE,),
                )
            }

    def search(self, query: Query, *, limit: int, before: int | None = None) -> list[Row]:
        """The rows that a query finds, newest first.

        Args:
            query: what is searched for.
            limit: at most so many.
            before: only rows with a smaller id: the next page.
        """
        with self._asking() as connection:
            ids = newest_ids(connection, query, limit, before)
            return [typed(connection.execute(f"{SELECT} WHERE id = ?", (number,)).fetchone()) for number in ids]

    def each(self, query: Query) -> Iterator[Row]:
        """All the rows that a query finds, newest first, by a thousand at a time."""
        before: int | None = None
        while rows := self.search(query, limit=1000, before=before):
            yield from rows
            before = rows[-1].id

    def count(self, query: Query) -> int:
        """How many rows a query finds."""
        with self._asking() as connection:
            return how_many(connection, query)

    def row(self, name: str) -> Row | None:
        """The row of a file by its name; else of the instance of this SOP Instance UID that came last."""
        with self._asking() as connection:
            for column in ("file_name", "sop_instance_uid"):
                found = connection.execute(
                    f"{SELECT} WHERE {column} = ? ORDER BY id DESC LIMIT 1", (writable(ledger_name(name)),)
                ).fetchone()
                if found is not None:
                    return typed(found)
        return None

    def events(self, row: Row) -> list[EventRow]:
        """The history of a row, oldest first."""
        with self._asking() as connection:
            return [
                EventRow(row.file_name, at, Event(event), http_status, cause, detail)
                for at, event, http_status, cause, detail in connection.execute(
                    "SELECT at, event, http_status, cause, detail FROM events WHERE instance_id = ? ORDER BY id",
                    (row.id,),
                )
            ]

    def transfers(self) -> Mapping[str, Transfer]:
        """The requests that have been under way for long, by the name of their first file."""
        with self._asking() as connection:
            return transfers_under_way(connection, datetime.now(UTC))

    def last_event(self) -> int:
        """The id of the last event; 0 if there is none."""
        with self._asking() as connection:
            return int(connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0])

    def first_event_since(self, moment: str) -> int:
        """The id of the first event at a moment (in the ledger's form) or later, or one past the last.

        Ids grow with time, give or take the clock, so that it is found by halving.
        """
        with self._asking() as connection:
            # Two questions: in one, SQLite would read every event.
            (low,) = connection.execute("SELECT coalesce(min(id), 1) FROM events").fetchone()
            (high,) = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM events").fetchone()
            while low < high:
                middle = (low + high) // 2
                found = connection.execute(
                    "SELECT id, at FROM events WHERE id >= ? ORDER BY id LIMIT 1", (middle,)
                ).fetchone()
                if found is None or found[1] >= moment:
                    high = middle
                else:
                    low = found[0] + 1
            return int(low)

    def activity(self, after: int, upto: int) -> Sequence[Activity]:
        """What happened in the events with ids above `after` up to `upto`, by minute, event and cause."""
        with self._asking() as connection:
            return [
                Activity(minute, Event(event), cause, count, size, seconds, tuple(counted))
                for minute, event, cause, count, size, seconds, *counted in connection.execute(
                    "WITH happened AS MATERIALIZED ("  # noqa: S608
                    " SELECT substr(e.at, 1, 16) AS minute, event, e.cause AS cause, size_bytes,"
                    " CASE event WHEN 'sent' THEN (julianday(e.at) - julianday(received_at)) * 86400.0 END AS seconds"
                    " FROM events AS e JOIN instances AS i ON i.id = e.instance_id WHERE e.id > ? AND e.id <= ?)"
                    " SELECT minute, event, cause, count(*), sum(size_bytes), total(max(seconds, 0)),"
                    f" {', '.join(f'coalesce(sum(seconds <= {bound}), 0)' for bound in LATENCIES)}"
                    " FROM happened GROUP BY 1, 2, 3 ORDER BY 1",
                    (after, upto),
                )
            ]
