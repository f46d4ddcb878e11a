"""What a person decides about a quarantined file, as the ledger records it."""

import sqlite3

from common.records import Event, State, ledger_name


def record_release(connection: sqlite3.Connection, file_name: str, detail: str, now: str) -> bool:
    """Bring a row from quarantine back to incoming, from a clean slate, and say who did it.

    Args:
        connection: inside a transaction.
        file_name: the file, which is in incoming/ by now.
        detail: by whom, in words, without patient data.
        now: in the ledger's form.

    Returns:
        False if no row of that name is in quarantine: then the uploader enters the file.
    """
    found = connection.execute(
        "UPDATE instances SET state = ?, attempts = 0, next_attempt_at = NULL, cause = '', http_status = NULL,"
        " settled_at = NULL WHERE file_name = ? AND state = ? RETURNING id",
        (State.INCOMING, ledger_name(file_name), State.QUARANTINE),
    ).fetchone()
    return _append(connection, found, Event.RELEASED, detail, now)


def record_discard(connection: sqlite3.Connection, file_name: str, detail: str, now: str) -> bool:
    """Record that a person has a quarantined file deleted, before it is; arguments as for `record_release`.

    Returns:
        False if no row of that name is in quarantine.
    """
    found = connection.execute(
        "UPDATE instances SET state = ?, settled_at = ? WHERE file_name = ? AND state = ? RETURNING id",
        (State.REMOVED, now, ledger_name(file_name), State.QUARANTINE),
    ).fetchone()
    return _append(connection, found, Event.REMOVED, detail, now)


def _append(connection: sqlite3.Connection, found: tuple[int] | None, event: Event, detail: str, now: str) -> bool:
    if found is None:
        return False
    connection.execute(
        "INSERT INTO events (instance_id, at, event, detail) VALUES (?, ?, ?, ?)", (found[0], now, event, detail)
    )
    return True
