"""What became of files, as the ledger records it: their rows, and an event for each.

Fifty instances that were sent in one request mostly have one outcome: one statement for all of them costs half of what
fifty cost, and lets go of the interpreter once, not fifty times.
"""

import sqlite3
from collections.abc import Iterator, Sequence

from common.ledger_rows import MAX_NAMES, marks, writable
from common.records import Cause, Event, Outcome, State, ledger_name

_Told = tuple[int | None, Cause, str]
"""HTTP status, cause and detail of an outcome."""


def settle(
    connection: sqlite3.Connection,
    outcomes: Sequence[Outcome],
    state: State,
    event: Event,
    now: str,
    *,
    attempts: int = 0,
) -> None:
    """Bring rows to the state in which their files are settled, and say why.

    Args:
        connection: inside a transaction.
        outcomes: of files with rows; one without a row is passed over.
        state: sent, quarantine or removed.
        event: what happened.
        now: in the ledger's form.
        attempts: how many more each has had.
    """
    for (http_status, cause, detail), names in _alike(outcomes):
        connection.execute(
            "UPDATE instances SET state = ?, attempts = attempts + ?, next_attempt_at = NULL, cause = ?,"  # noqa: S608
            f" http_status = ?, settled_at = ? WHERE file_name IN ({marks(names)})",
            (state, attempts, cause, http_status, now, *names),
        )
        _append(connection, names, (http_status, cause, detail), event, now)


def append(connection: sqlite3.Connection, outcomes: Sequence[Outcome], event: Event, now: str) -> None:
    """Say what happened to files that stay in their state; arguments as for `settle`."""
    for told, names in _alike(outcomes):
        _append(connection, names, told, event, now)


def _append(connection: sqlite3.Connection, names: Sequence[str], told: _Told, event: Event, now: str) -> None:
    connection.execute(
        "INSERT INTO events (instance_id, at, event, http_status, cause, detail)"  # noqa: S608 - marks alone
        f" SELECT id, ?, ?, ?, ?, ? FROM instances WHERE file_name IN ({marks(names)})",
        (now, event, *told, *names),
    )


def _alike(outcomes: Sequence[Outcome]) -> Iterator[tuple[_Told, Sequence[str]]]:
    """The outcomes by what they tell, with the names of their files in the ledger's form, each once."""
    groups: dict[tuple[_Told, int], list[str]] = {}
    met: dict[tuple[_Told, str], int] = {}
    for one in outcomes:
        told = (one.http_status, one.cause, writable(one.detail))
        name = ledger_name(one.file_name)
        # A name that comes again, another file by then, is recorded again.
        turn = met[told, name] = met.get((told, name), -1) + 1
        groups.setdefault((told, turn), []).append(name)
    for (told, _), names in groups.items():
        for start in range(0, len(names), MAX_NAMES):
            yield told, names[start : start + MAX_NAMES]
