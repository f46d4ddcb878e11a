"""The ledger: one row for each file that ever entered incoming/, and the events that explain it.

With the other modules common.ledger_* the only code that speaks SQL; the schema is beside it in schema.sql. The
directory is the truth and the ledger its account: nothing here decides whether a file is owed.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from common.ledger_database import Database
from common.ledger_decisions import record_discard, record_release
from common.ledger_queries import LedgerQueries
from common.ledger_rows import ENTER, INSTANCE_COLUMNS, RELEASE, SELECT, describes, entered_values, typed, writable
from common.ledger_settling import append, settle
from common.ledger_transfers import renew_transfers
from common.records import (
    Cause,
    Event,
    Outcome,
    Receipt,
    Row,
    Sender,
    State,
    Transfer,
    ledger_name,
    utc_text,
)
from common.sop_instance import Instance

_NOBODY = Sender("", "", "")
_NOTHING_KNOWN = Instance("", "", "")


class Ledger(LedgerQueries):
    """An open ledger.

    Args:
        path: the SQLite file; created if it is missing, and created anew if it is deleted meanwhile.
        busy_seconds: how long to wait for a writer in another process.
        durable: every commit survives a power cut too.
        now: the clock, an aware datetime.

    Raises:
        LedgerVersionError: a newer Stowgate wrote it.
        LedgerError: it cannot be opened, or is no SQLite database.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_seconds: float = 10.0,
        durable: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(Database(path, busy_seconds, durable=durable), now)

    def close(self) -> None:
        """Close the connection; the ledger is not usable afterwards."""
        self._database.close()

    # Receiver

    def received(self, *receipts: Receipt) -> None:
        """Record instances that a receiver has stored (R5). When this returns, their rows are committed, in one.

        Raises:
            LedgerError: none of them is recorded.
        """
        with self._database.transaction() as connection:
            for one in receipts:
                self._enter(
                    connection,
                    one.file_name,
                    one.instance,
                    one.sender,
                    size_bytes=one.size_bytes,
                    event=Event.RECEIVED,
                )

    # Uploader

    def adopt(self, file_name: str, instance: Instance | None, size_bytes: int) -> Event | None:
        """Make sure that a file found in incoming/ has a row that says so, from a clean slate.

        Args:
            file_name: as the scan found it.
            instance: None for a file that could not be read.
            size_bytes: of the file.

        Returns:
            What was recorded: released for a file that came back from quarantine, adopted for one that had no
            row, whose row was settled, or whose content is another by now; None for one that is known as owed.
        """
        with self._database.transaction() as connection:
            row = self._row(connection, file_name)
            if row is not None:
                same = describes(row, instance, size_bytes)
                if same and row.state is State.INCOMING:
                    return None
                if not same and row.state in {State.SENT, State.REMOVED}:
                    # Another file of the same name, as every CD brings its IM000001: the old one keeps its row.
                    self._make_way(connection, file_name)
            event = Event.RELEASED if row is not None and row.state is State.QUARANTINE else Event.ADOPTED
            self._enter(connection, file_name, instance or _NOTHING_KNOWN, _NOBODY, size_bytes=size_bytes, event=event)
            return event

    def retried(self, outcomes: Iterable[Outcome]) -> None:
        """Record attempts that did not settle their files: they stay owed, and are due at `next_attempt_at`."""
        with self._database.transaction() as connection:
            for outcome in outcomes:
                due = None if outcome.next_attempt_at is None else utc_text(outcome.next_attempt_at)
                connection.execute(
                    "UPDATE instances SET attempts = attempts + 1, next_attempt_at = ?, http_status = ?"
                    " WHERE file_name = ?",
                    (due, outcome.http_status, ledger_name(outcome.file_name)),
                )
                append(connection, [outcome], Event.ATTEMPT, utc_text(self._now()))

    def sent(self, outcomes: Sequence[Outcome]) -> None:
        """Record files that the destination named as stored (U4). The files may be deleted afterwards."""
        with self._database.transaction() as connection:
            settle(connection, outcomes, State.SENT, Event.SENT, utc_text(self._now()), attempts=1)

    def quarantined(self, outcome: Outcome, quarantine_name: str, *, attempts: int) -> None:
        """Record that a file goes to quarantine/ under `quarantine_name` (U7), after `attempts` more attempts."""
        with self._database.transaction() as connection:
            name, new_name = ledger_name(outcome.file_name), ledger_name(quarantine_name)
            now = utc_text(self._now())
            settle(connection, [outcome], State.QUARANTINE, Event.QUARANTINED, now, attempts=attempts)
            if new_name != name:
                # The name in quarantine/ is free on disk; a settled row of an older file may still bear it.
                self._make_way(connection, quarantine_name)
                connection.execute("UPDATE instances SET file_name = ? WHERE file_name = ?", (new_name, name))

    def transferring(self, transfers: Iterable[Transfer], ended: Iterable[str]) -> None:
        """Record how far requests are, and forget those that have ended, by the names of their first files.

        What no process has renewed for a minute is forgotten too, since its process has died, and what is settled.
        """
        with self._database.transaction() as connection:
            renew_transfers(connection, transfers, ended, self._now())

    def removed(self, file_names: Iterable[str], state: State) -> int:
        """Record files that disappeared while their rows were in `state`; rows that moved on meanwhile are left."""
        count = 0
        with self._database.transaction() as connection:
            for file_name in file_names:
                row = self._row(connection, file_name)
                if row is not None and row.state is state:
                    outcome = Outcome(file_name, row.http_status, row.cause, f"disappeared from {state}/")
                    settle(connection, [outcome], State.REMOVED, Event.REMOVED, utc_text(self._now()))
                    count += 1
        return count

    def adopt_quarantined(self, file_name: str, size_bytes: int, reason: Mapping[str, object]) -> None:
        """Give a file found in quarantine/ without a row, or with one that says otherwise, its row again."""
        with self._database.transaction() as connection:
            row = self._row(connection, file_name)
            if row is not None and row.state is State.QUARANTINE:
                return
            if row is not None and row.state is State.SENT:
                self._make_way(connection, file_name)  # what was sent is deleted: this is another file
                row = None
            try:
                cause = Cause(str(reason.get("cause", "")))
            except ValueError:
                cause = Cause.NONE
            if row is None:
                # A person may have edited the sidecar: nothing in it is relied on.
                known = Instance(
                    **{name: value if isinstance(value := reason.get(name), str) else "" for name in INSTANCE_COLUMNS}
                )
                self._enter(connection, file_name, known, _NOBODY, size_bytes=size_bytes, event=Event.ADOPTED)
            status = reason.get("http_status")
            http_status = status if isinstance(status, int) and 100 <= status <= 599 else None
            outcome = Outcome(file_name, http_status, cause, "found in quarantine/")
            settle(connection, [outcome], State.QUARANTINE, Event.QUARANTINED, utc_text(self._now()))

    # A person

    def released(self, file_names: Iterable[str], detail: str) -> None:
        """Record that a person moved files back to incoming/."""
        with self._database.transaction() as connection:
            record_release(connection, file_names, writable(detail), utc_text(self._now()))

    def discarded(self, file_names: Iterable[str], detail: str) -> None:
        """Record that a person has quarantined files deleted, before they are."""
        with self._database.transaction() as connection:
            record_discard(connection, file_names, writable(detail), utc_text(self._now()))

    # Inside one transaction

    def _enter(
        self,
        connection: sqlite3.Connection,
        file_name: str,
        instance: Instance,
        sender: Sender,
        *,
        size_bytes: int,
        event: Event,
    ) -> None:
        """Insert a row in state incoming, or bring an existing one of that name back to it, and say why."""
        now = utc_text(self._now())
        values = entered_values(ledger_name(file_name), instance, sender, size_bytes=size_bytes, received_at=now)
        statement = RELEASE if event is Event.RELEASED else ENTER
        (number,) = connection.execute(statement, values).fetchone()
        connection.execute("INSERT INTO events (instance_id, at, event) VALUES (?, ?, ?)", (number, now, event))

    def _make_way(self, connection: sqlite3.Connection, file_name: str) -> None:
        """Free a name for another file: the row that bears it, if any, keeps its history as `name#id`."""
        connection.execute(
            "UPDATE instances SET file_name = file_name || '#' || id WHERE file_name = ?", (ledger_name(file_name),)
        )

    def _row(self, connection: sqlite3.Connection, file_name: str) -> Row | None:
        values = connection.execute(f"{SELECT} WHERE file_name = ?", (ledger_name(file_name),)).fetchone()
        return None if values is None else typed(values)
