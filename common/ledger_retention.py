"""What becomes of old history: rows of what was sent or removed, with their events, and events alone, are deleted.

In transactions of some milliseconds with pauses between them, so that no receiver waits measurably, and the log is
emptied into the database by whoever tidies up, not by them. What is to be deleted is looked for before the lock is
taken, and looked at once more under it. What a crash interrupts is whole: the next run goes on.

Never deleted: rows in state incoming or quarantine and their events; the last event of a row; the newest row and
the newest event, since their ids must not be given again to others.

Space: a ledger begun since version 1.0 gives free pages back in small steps (auto_vacuum, common.ledger_schema). Of
older ones the free pages are used again, and the file stays as large as it was.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from common.ledger_database import Database
from common.records import State

_SETTLED = f"state IN ('{State.SENT}', '{State.REMOVED}')"
_GOAL_SECONDS = 0.002  # that a transaction should take
_REST = 20  # times as long as it took is waited before the next one
_LEAST_REST_SECONDS = 0.02
_EMPTY_SECONDS = 1.0  # so often the log is emptied, so that receivers need not do it
_ANY_TIME = "~"  # later than every time
_LOOKED_AT = 2_000  # rows, or ids of events, in one question
_MOST = 500  # rows or events in one transaction
_KEPT_FREE = 2_000  # pages that are not given back: they are used again at once
_KEPT_FREE_PART = 10  # nor is this part of those that are used


@dataclass(frozen=True, slots=True)
class Tidied:
    """What was deleted, or would be.

    Attributes:
        rows: of what was sent or removed.
        events: of those rows, and alone.
        bytes_freed: that the file became shorter by.
        longest_seconds: for which others were kept out at a time.
    """

    rows: int = 0
    events: int = 0
    bytes_freed: int = 0
    longest_seconds: float = 0.0


class LedgerRetention:
    """Deletes what is old from a ledger that others write to meanwhile.

    Args:
        path: the ledger.
        stopped: whether to end early; asked between two transactions.
        sleep: waits for so many seconds.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        stopped: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = Database(path, 10.0)
        self._stopped = stopped
        self._sleep = sleep
        self._clock = clock
        self._amount = 20.0
        self._done = Tidied()
        self._events_upto = 0
        self._emptied_at = 0.0

    def close(self) -> None:
        """Close the ledger."""
        self._database.close()

    def rows(self, before: str, most: int | None, *, dry: bool = False) -> Tidied:
        """Delete rows of what was sent or removed, and their events.

        Args:
            before: those settled before that time, in the ledger's form; empty: none for that reason.
            most: so many rows of that kind are kept at most, the newest; None: all.
            dry: only count them.

        Raises:
            LedgerError: the ledger cannot be used now; what was deleted until then is.
        """
        self._done = Tidied()
        counted: set[int] = set()
        for until, most_of_them in self._reasons(before, most):
            left = most_of_them
            for found in self._settled(until):
                numbers = found if left is None else found[:left]
                if dry:
                    self._count([number for number in numbers if number not in counted])
                    counted.update(numbers)
                else:
                    self._in_pieces(numbers, self._delete_rows)
                if left is not None and (left := left - len(numbers)) <= 0:
                    break
        return self._done

    def _reasons(self, before: str, most: int | None) -> Iterator[tuple[str, int | None]]:
        """Before when those were settled that go, and how many of them go at most, the oldest first."""
        if before:
            yield before, None
        if most is not None:
            with self._database.reading() as connection:
                (there,) = connection.execute(f"SELECT count(*) FROM instances WHERE {_SETTLED}").fetchone()  # noqa: S608
            if there > most:
                yield _ANY_TIME, there - most

    def _settled(self, until: str) -> Iterator[list[int]]:
        """The ids of rows that were settled before a time, oldest first; neither the newest row nor the newest event's.

        Nothing is settled before it was received: so the index on received_at leads to little else.
        """
        after: tuple[str, int] = "", 0
        while not self._stopped():
            with self._database.reading() as connection:
                found = connection.execute(
                    f"SELECT received_at, id, {_SETTLED} AND settled_at < ? FROM instances"  # noqa: S608
                    " WHERE (received_at, id) > (?, ?) AND received_at < ? ORDER BY received_at, id LIMIT ?",
                    (until, *after, until, _LOOKED_AT),
                ).fetchall()
                kept = (
                    {
                        connection.execute(question).fetchone()[0]
                        for question in (
                            "SELECT max(id) FROM instances",
                            "SELECT instance_id FROM events WHERE id = (SELECT max(id) FROM events)",
                        )
                    }
                    if found
                    else set()
                )
            if not found:
                return
            after = found[-1][:2]
            if numbers := [number for _, number, settled in found if settled and number not in kept]:
                yield numbers

    def events(self, before: str, *, dry: bool = False) -> Tidied:
        """Delete events that happened before a time, of rows that are settled; the last one of each row stays.

        Looks only at those that it has not looked at before.

        Raises:
            LedgerError: as for `rows`.
        """
        self._done = Tidied()
        after = self._events_upto
        while not self._stopped():
            with self._database.reading() as connection:
                found = connection.execute(
                    "SELECT id, at, instance_id FROM events WHERE id > ? ORDER BY id LIMIT ?", (after, _LOOKED_AT)
                ).fetchall()
                numbers = [
                    number
                    for number, at, row in found
                    if at < before
                    and connection.execute(
                        f"SELECT 1 FROM instances WHERE id = ? AND {_SETTLED}"  # noqa: S608
                        " AND EXISTS (SELECT 1 FROM events WHERE instance_id = ? AND id > ?)",
                        (row, row, number),
                    ).fetchone()
                ]
            if dry:
                self._done = replace(self._done, events=self._done.events + len(numbers))
            else:
                self._in_pieces(numbers, self._delete_events)
            # Ids grow with time, give or take the clock.
            if not found or all(at >= before for _, at, _ in found):
                return self._done
            after = found[-1][0]
            if not dry:
                self._events_upto = after
            self._sleep(_LEAST_REST_SECONDS)
        return self._done

    def give_back(self) -> Tidied:
        """Make the file shorter by the free pages that will not be used again soon.

        Raises:
            LedgerError: as for `rows`.
        """
        self._done = Tidied()
        self._amount = 20.0
        with self._database.reading() as connection:
            (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
            (kind,) = connection.execute("PRAGMA auto_vacuum").fetchone()
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        left = free - max(_KEPT_FREE, (pages - free) // _KEPT_FREE_PART)
        if not kind:
            return self._done
        while left > 0 and not self._stopped():
            count = min(left, max(1, int(self._amount)))
            with self._briefly() as connection:
                for _ in range(count):
                    # One page each: sqlite3 takes one step of a statement without columns, whatever it asks for.
                    connection.execute("PRAGMA incremental_vacuum(1)")
            left -= count
            self._done = replace(self._done, bytes_freed=self._done.bytes_freed + count * page_bytes)
        if self._done.bytes_freed:
            self._empty_log()
        return self._done

    def _in_pieces(self, numbers: Sequence[int], delete: Callable[[Sequence[int]], None]) -> None:
        start = 0
        while start < len(numbers) and not self._stopped():
            some = numbers[start : start + max(1, int(self._amount))]
            delete(some)
            start += len(some)

    def _delete_rows(self, numbers: Sequence[int]) -> None:
        rows = events = 0
        with self._briefly() as connection:
            for number in numbers:
                # It may have come back meanwhile.
                if connection.execute(f"SELECT 1 FROM instances WHERE id = ? AND {_SETTLED}", (number,)).fetchone():  # noqa: S608
                    events += connection.execute("DELETE FROM events WHERE instance_id = ?", (number,)).rowcount
                    connection.execute("DELETE FROM transfers WHERE instance_id = ?", (number,))
                    rows += connection.execute("DELETE FROM instances WHERE id = ?", (number,)).rowcount
        self._done = replace(self._done, rows=self._done.rows + rows, events=self._done.events + events)

    def _delete_events(self, numbers: Sequence[int]) -> None:
        events = 0
        with self._briefly() as connection:
            for number in numbers:
                events += connection.execute(
                    "DELETE FROM events WHERE id = ? AND"  # noqa: S608
                    f" (SELECT {_SETTLED} FROM instances WHERE instances.id = events.instance_id)",
                    (number,),
                ).rowcount
        self._done = replace(self._done, events=self._done.events + events)

    def _count(self, numbers: Sequence[int]) -> None:
        events = 0
        with self._database.reading() as connection:
            for number in numbers:
                (found,) = connection.execute("SELECT count(*) FROM events WHERE instance_id = ?", (number,)).fetchone()
                events += found
        self._done = replace(self._done, rows=self._done.rows + len(numbers), events=self._done.events + events)

    @contextmanager
    def _briefly(self) -> Iterator[sqlite3.Connection]:
        """A transaction; then the log goes into the database, and others have their time before the next one."""
        with self._database.transaction() as connection:
            locked = self._clock()
            yield connection
        took = self._clock() - locked
        self._amount = max(1.0, min(_MOST, self._amount * min(2.0, max(0.25, _GOAL_SECONDS / max(took, 1e-6)))))
        self._done = replace(self._done, longest_seconds=max(self._done.longest_seconds, took))
        self._sleep(max(_LEAST_REST_SECONDS, took * _REST))
        if self._clock() - self._emptied_at >= _EMPTY_SECONDS:
            self._empty_log()

    def _empty_log(self) -> None:
        """Move what is in the log into the database; nobody waits for it, and what others are reading stays."""
        self._emptied_at = self._clock()
        with self._database.reading() as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
