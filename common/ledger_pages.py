"""The ledger as the web page asks it: the quarantine sorted, filtered and by pages, and rows by their ids.

Only rows in state quarantine are sorted or looked through, which an index finds; how many were sent does not matter.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from common.ledger_reader import LedgerReader
from common.ledger_rows import SELECT, typed
from common.records import Cause, Event, Row, State

_MAX_VARIABLES = 500
# What is sorted by; nothing of a request becomes SQL.
_COLUMNS = {
    "quarantined": "settled_at",
    "received": "received_at",
    "cause": "cause",
    "sender": "calling_ae_title",
    "patient": "patient_id",
    "study": "study_instance_uid",
    "modality": "modality",
    "size": "size_bytes",
    "attempts": "attempts",
}
_TEXT_COLUMNS = (
    "patient_id",
    "sop_instance_uid",
    "study_instance_uid",
    "series_instance_uid",
    "calling_ae_title",
    "modality",
    "file_name",
)


class Sort(StrEnum):
    """By what the quarantine is sorted."""

    QUARANTINED = "quarantined"
    """When it was quarantined."""
    RECEIVED = "received"
    """When it was received."""
    CAUSE = "cause"
    """Why."""
    SENDER = "sender"
    """The calling AE title."""
    PATIENT = "patient"
    """The patient ID."""
    STUDY = "study"
    """The Study Instance UID."""
    MODALITY = "modality"
    """The modality."""
    SIZE = "size"
    """Bytes."""
    ATTEMPTS = "attempts"
    """Deliveries whose outcome was about the instance."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows of the quarantine; what is None or empty does not count. All that is given must be true of a row.

    Attributes:
        cause: of the row.
        sender: the calling AE title, whole; an empty text is that of files dropped by hand, None any.
        study: the Study Instance UID, whole.
        text: is in the patient ID, a UID, the sender, the modality or the file name, in any case.
        upto: rows with a larger id are left out: what came after a person looked.
    """

    cause: Cause | None = None
    sender: str | None = None
    study: str = ""
    text: str = ""
    upto: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a filter finds in all: how many, their bytes, the largest id (0: none), when the last was quarantined."""

    instances: int
    size_bytes: int
    last_id: int
    last_at: str


class LedgerPages(LedgerReader):
    """Questions of the web page to a ledger."""

    def found(self, which: Filter) -> Found:
        """What a filter finds in all."""
        where, values = _where(which)
        with self._asking() as connection:
            return Found(
                *connection.execute(
                    "SELECT count(*), coalesce(sum(size_bytes), 0), coalesce(max(id), 0), coalesce(max(settled_at), '')"  # noqa: S608
                    f" FROM instances WHERE {where}",
                    values,
                ).fetchone()
            )

    def quarantine(self, which: Filter, sort: Sort, *, descending: bool, offset: int, limit: int) -> list[Row]:
        """A page of what a filter finds; rows that are equal in what is sorted by are in the order of their ids."""
        where, values = _where(which)
        order = "DESC" if descending else "ASC"
        with self._asking() as connection:
            found = connection.execute(
                f"{SELECT} WHERE {where} ORDER BY {_COLUMNS[sort]} {order}, id {order} LIMIT ? OFFSET ?",
                (*values, limit, offset),
            )
            return [typed(values) for values in found]

    def names(self, which: Filter) -> list[str]:
        """The file names of all that a filter finds, in the ledger's form, oldest first."""
        where, values = _where(which)
        with self._asking() as connection:
            found = connection.execute(f"SELECT file_name FROM instances WHERE {where} ORDER BY id", values)  # noqa: S608
            return [name for (name,) in found]

    def senders(self) -> list[tuple[str, int]]:
        """The calling AE titles of what is in quarantine, each with how many instances, by name."""
        with self._asking() as connection:
            return list(
                connection.execute(
                    "SELECT calling_ae_title, count(*) FROM instances WHERE state = ? GROUP BY 1 ORDER BY 1",
                    (State.QUARANTINE,),
                )
            )

    def by_ids(self, ids: Iterable[int]) -> dict[int, Row]:
        """The rows of these ids, in their order; ids without a row are left out."""
        wanted = list(dict.fromkeys(ids))
        found: dict[int, Row] = {}
        with self._asking() as connection:
            for start in range(0, len(wanted), _MAX_VARIABLES):
                some = wanted[start : start + _MAX_VARIABLES]
                marks = ",".join("?" * len(some))
                rows = map(typed, connection.execute(f"{SELECT} WHERE id IN ({marks})", some))
                found.update((row.id, row) for row in rows)
        return {one: found[one] for one in wanted if one in found}

    def last_details(self, ids: Sequence[int], event: Event) -> Mapping[int, str]:
        """What the last event of a kind says, by the id of its row."""
        details: dict[int, str] = {}
        with self._asking() as connection:
            for start in range(0, len(ids), _MAX_VARIABLES):
                some = ids[start : start + _MAX_VARIABLES]
                details.update(_details(connection, some, event))
        return details


def _details(connection: sqlite3.Connection, ids: Sequence[int], event: Event) -> list[tuple[int, str]]:
    marks = ",".join("?" * len(ids))
    return connection.execute(
        f"SELECT instance_id, detail FROM events WHERE instance_id IN ({marks}) AND event = ? ORDER BY id",  # noqa: S608
        (*ids, event),
    ).fetchall()


def _where(which: Filter) -> tuple[str, list[str | int]]:
    conditions = ["state = ?"]
    values: list[str | int] = [State.QUARANTINE]
    if which.cause is not None:
        conditions.append("cause = ?")
        values.append(which.cause)
    if which.sender is not None:
        conditions.append("calling_ae_title = ?")
        values.append(which.sender)
    if which.study:
        conditions.append("study_instance_uid = ?")
        values.append(which.study)
    if which.text:
        conditions.append("(" + " OR ".join(f"{column} LIKE ? ESCAPE '!'" for column in _TEXT_COLUMNS) + ")")
        text = "".join(f"!{one}" if one in "!%_" else one for one in which.text)
        values += [f"%{text}%"] * len(_TEXT_COLUMNS)
    if which.upto is not None:
        conditions.append("id <= ?")
        values.append(which.upto)
    return " AND ".join(conditions), values
