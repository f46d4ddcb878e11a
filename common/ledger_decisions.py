"""What a person decides about quarantined files, as the ledger records it. A row that is not in quarantine is left."""

import sqlite3
from collections.abc import Iterable

from common.records import Event, State, ledger_name


def record_release(connection: sqlite3.Connection, file_names: Iterable[str], detail: str, now: str) -> None:
    """Bring rows from quarantine back to incoming, from a clean slate, and say who did it.

    Args:
        connection: inside a transaction.
        file_names: the files, which are in incoming/ by now; the uploader enters one that has no row in quarantine.
        detail: by whom, in words, without patient data.
        now: in the ledger's form.
    """
    for file_name in file_names:
        found = connection.execute(
            "UPDATE instances SET state = ?, attempts = 0, next_attempt_at = NULL, cause = '', http_status = NULL,"
            " settled_at = NULL WHERE file_name = ? AND state = ? RETURNING id",
            (State.INCOMING, ledger_name(file_name), State.QUARANTINE),
        ).fetchone()
        _append(connection, found, Event.RELEASED, detail, now)


def record_discard(connection: sqlite3.Connection, file_names: Iterable[str], detail: str, now: str) -> None:
    """Record that a person has quarantined files deleted, before they are; arguments as for `record_release`."""
    for file_name in file_names:
        found = connection.execute(
            "UPDATE instances SET state = ?, settled_at = ? WHERE file_name = ? AND state = ? RETURNING id",
            (State.REMOVED, now, ledger_name(file_name), State.QUARANTINE),
        ).fetchone()
        _append(connection, found, Event.REMOVED, detail, now)


def _append(connection: sqlite3.Connection, found: tuple[int] | None, event: Event, detail: str, now: str) -> None:
    if found is not None:
        connection.execute(
            "INSERT INTO events (instance_id, at, event, detail) VALUES (?, ?, ?, ?)", (found[0], now, event, detail)
        )
