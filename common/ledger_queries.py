"""What a process asks its own ledger, on the connection that it writes with: it sees what it has written.

People ask through common.ledger_reader, which is in nobody's way.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

from common.ledger_database import Database
from common.ledger_rows import MAX_NAMES, SELECT, marks, typed
from common.ledger_transfers import transfers_under_way
from common.records import Event, EventRow, Known, Owed, Row, State, Transfer, ledger_name


class LedgerQueries:
    """The questions. Each may raise LedgerError: it cannot be read now.

    Args:
        database: the open file.
        now: the clock, an aware datetime.
    """

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    def rows(self, file_names: Iterable[str]) -> dict[str, Row]:
        """The rows of the named files, by the name asked for; names without a row are left out."""
        wanted = {ledger_name(name): name for name in file_names}
        rows = map(typed, self._of_names(list(wanted), SELECT))
        return {wanted[row.file_name]: row for row in rows}

    def known(self, file_names: Iterable[str]) -> dict[str, Known]:
        """What is known of those of the named files whose rows say that they are owed, by the name asked for."""
        wanted = {ledger_name(name): name for name in file_names}
        select = "SELECT file_name, sop_instance_uid, size_bytes, attempts, received_at FROM instances"
        # The plus: by their names. SQLite expects fewer rows in a state than there are names.
        found = self._of_names(list(wanted), select, "AND +state = ?", State.INCOMING)
        return {wanted[name]: Known._make(values) for name, *values in found}

    def _of_names(self, names: Sequence[str], select: str, condition: str = "", *values: str) -> list[tuple[Any, ...]]:
        """What a statement selects of the rows of these files; names in the ledger's form."""
        found: list[tuple[Any, ...]] = []
        with self._database.reading() as connection:
            for start in range(0, len(names), MAX_NAMES):
                some = names[start : start + MAX_NAMES]
                statement = f"{select} WHERE file_name IN ({marks(some)}) {condition}"
                found += connection.execute(statement, (*some, *values)).fetchall()
        return found

    def due_times(self, state: State) -> dict[str, str | None]:
        """The file names (in the ledger's form) of all rows in a state, each with its `next_attempt_at`."""
        with self._database.reading() as connection:
            return dict(
                connection.execute(
                    "SELECT file_name, next_attempt_at FROM instances WHERE state = ? ORDER BY id", (state,)
                )
            )

    def owed_names(self) -> set[str]:
        """The names, in the ledger's form, of all rows in state incoming."""
        with self._database.reading() as connection:
            found = connection.execute("SELECT file_name FROM instances WHERE state = ?", (State.INCOMING,))
            return set(chain.from_iterable(found))

    def owed(self) -> dict[str, Owed]:
        """What is known of the files of all rows in state incoming, by name in the ledger's form.

        Equal values are one object: there may be a hundred thousand names, of a few studies.
        """
        shared: dict[tuple[str, ...], Owed] = {}
        owed: dict[str, Owed] = {}
        with self._database.reading() as connection:
            for row in connection.execute(
                "SELECT file_name, next_attempt_at, calling_ae_title, study_instance_uid FROM instances"
                " WHERE state = ? ORDER BY id",
                (State.INCOMING,),
            ):
                values = row[1:]
                one = shared.get(values)
                if one is None:
                    one = shared[values] = Owed(*values)
                owed[row[0]] = one
        return owed

    def transfers(self) -> dict[str, Transfer]:
        """The requests that are under way for long, by the name of their first file.

        One that its process has not renewed for a minute is left out: that process has died.
        """
        with self._database.reading() as connection:
            return transfers_under_way(connection, self._now())

    def latest(self, limit: int) -> list[Row]:
        """The rows that were entered last, newest first."""
        with self._database.reading() as connection:
            return [typed(values) for values in connection.execute(f"{SELECT} ORDER BY id DESC LIMIT ?", (limit,))]

    def counts(self) -> dict[State, int]:
        """How many rows are in each state."""
        with self._database.reading() as connection:
            counted = dict(connection.execute("SELECT state, count(*) FROM instances GROUP BY state"))
        return {state: counted.get(state, 0) for state in State}

    def events(self, file_name: str) -> list[EventRow]:
        """The history of one file, oldest first."""
        with self._database.reading() as connection:
            return [
                EventRow(file_name, at, Event(event), http_status, cause, detail)
                for at, event, http_status, cause, detail in connection.execute(
                    "SELECT at, event, events.http_status, events.cause, detail"
                    " FROM events JOIN instances ON instances.id = instance_id WHERE file_name = ? ORDER BY events.id",
                    (ledger_name(file_name),),
                )
            ]
