"""How rows are searched for: newest first, without an index that every received instance would pay for.

What narrows a search to few rows leads it, by its index: a UID, a name, a patient, a state other than sent, a short
time. Everything else is looked through, from the newest rows on, in pieces that are read forwards: read backwards, as
the order asks for, a table that is not in memory comes page by page, seven times as slowly.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from common.ledger_rows import writable
from common.records import Cause, State

_FEW = 20_000  # rows that may be looked up one by one
_FIRST_PIECE, _LARGEST_PIECE = 2_000, 64_000  # ids
_OF_SENT = frozenset((Cause.DUPLICATE, Cause.WARNING))


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for; what is empty does not count. All that is given must be true of a row.

    Attributes:
        state: of the row.
        cause: of the row.
        uid: SOP Instance or Study Instance UID, whole.
        patient_id: whole, or its beginning followed by `*`.
        calling_ae_title: of who sent it, whole.
        file_name: whole, in the ledger's form.
        since: received at that time or later, in the ledger's form.
        until: received before that time.
    """

    state: State | None = None
    cause: Cause | None = None
    uid: str = ""
    patient_id: str = ""
    calling_ae_title: str = ""
    file_name: str = ""
    since: str = ""
    until: str = ""


def newest_ids(connection: sqlite3.Connection, query: Query, limit: int, before: int | None) -> list[int]:
    """The ids of the rows that a query finds, highest first.

    Args:
        connection: of the ledger.
        query: what is searched for.
        limit: at most so many.
        before: only ids below that one.
    """
    search = _Search(connection, query)
    search.bound_by_time()
    if before is not None:
        search.bound(1, before - 1)
    found: list[int] = []
    for low, high in search.pieces():
        found += search.ids(low, high, limit - len(found))
        if len(found) >= limit:
            break
    return found


def how_many(connection: sqlite3.Connection, query: Query) -> int:
    """How many rows a query finds."""
    return _Search(connection, query).count()


@dataclass(frozen=True, slots=True)
class _Condition:
    """A part of a query: SQL with `{}` where a `+` keeps its index from being used. Nothing of a query becomes SQL."""

    kind: str
    text: str
    values: tuple[str, ...]


class _Search:
    """A query, and what leads it."""

    def __init__(self, connection: sqlite3.Connection, query: Query) -> None:
        self._connection = connection
        self._conditions = _conditions(query)
        self._low, self._high = 1, _one(connection, "SELECT coalesce(max(id), 0) FROM instances")
        self._leads = next((one.kind for one in self._conditions if self._is_narrow(one)), "")

    def bound(self, low: int, high: int) -> None:
        """Keep to ids between these."""
        self._low, self._high = max(self._low, low), min(self._high, high)

    def bound_by_time(self) -> None:
        """Keep to the ids of the time that is asked for, unless few rows will be looked at anyway."""
        if not self._leads:
            for one in self._conditions:
                if one.kind == "time":
                    self._bound_by(one)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Ranges of ids, highest first; all of them in one if few rows will be looked at."""
        if self._leading:
            yield self._low, self._high
            return
        size, high = _FIRST_PIECE, self._high
        while high >= self._low:
            yield max(self._low, high - size + 1), high
            high -= size
            size = min(size * 4, _LARGEST_PIECE)

    def ids(self, low: int, high: int, limit: int) -> list[int]:
        """The highest ids between two that are found."""
        where, values = self._where(self._leading)
        # +id where no index gives their order: by itself SQLite would read the table backwards.
        order = "id" if self._leading in {"state", "patient", "file", "uid"} else "+id"
        return [
            number
            for (number,) in self._connection.execute(
                f"SELECT id FROM instances WHERE {where} ORDER BY {order} DESC LIMIT ?",  # noqa: S608
                (*values, low, high, limit),
            )
        ]

    def count(self) -> int:
        """How many are found."""
        if not self._conditions:
            return _one(self._connection, "SELECT count(*) FROM instances")
        covered = self._is_covered
        if not covered:
            self.bound_by_time()
        where, values = self._where(self._conditions[0].kind if covered else self._leads)
        statement = f"SELECT count(*) FROM instances WHERE {where}"  # noqa: S608
        return _one(self._connection, statement, *values, self._low, self._high)

    @property
    def _is_covered(self) -> bool:
        """Whether the index of the only condition tells all."""
        return len(self._conditions) == 1 and self._conditions[0].kind in {"state", "time", "patient-prefix"}

    @property
    def _leading(self) -> str:
        """The kind of the condition whose index leads; empty: the table is read by ids."""
        return "state" if self._is_covered and self._conditions[0].kind == "state" else self._leads

    def _where(self, leading: str) -> tuple[str, list[str]]:
        texts = [one.text.format("" if one.kind == leading else "+") for one in self._conditions]
        texts.append("+id BETWEEN ? AND ?" if leading else "id BETWEEN ? AND ?")
        return " AND ".join(texts), [value for one in self._conditions for value in one.values]

    def _is_narrow(self, one: _Condition) -> bool:
        if one.kind in {"uid", "file", "patient"}:
            return True
        if one.kind not in {"state", "time", "patient-prefix"}:
            return False
        counted = _one(
            self._connection,
            f"SELECT count(*) FROM (SELECT 1 FROM instances WHERE {one.text.format('')} LIMIT ?)",  # noqa: S608
            *one.values,
            _FEW,
        )
        return counted < _FEW

    def _bound_by(self, one: _Condition) -> None:
        low, high = self._connection.execute(
            f"SELECT min(id), max(id) FROM instances WHERE {one.text.format('')}",  # noqa: S608
            one.values,
        ).fetchone()
        self.bound(low or 1, high or 0)


def _one(connection: sqlite3.Connection, statement: str, *values: str | int) -> int:
    return int(connection.execute(statement, values).fetchone()[0])


def _conditions(query: Query) -> list[_Condition]:
    """The parts of a query, those that narrow it most first."""
    conditions: list[_Condition] = []

    def add(kind: str, text: str, *values: str) -> None:
        conditions.append(_Condition(kind, text, tuple(map(writable, values))))

    if query.file_name:
        add("file", "{}file_name = ?", query.file_name)
    if query.uid:
        # Series are not searched for: an index of theirs would cost every instance that is received.
        add("uid", "({0}sop_instance_uid = ? OR {0}study_instance_uid = ?)", query.uid, query.uid)
    if query.patient_id.endswith("*"):
        start = query.patient_id[:-1]
        add(
            "patient-prefix",
            "patient_id <> '' AND {0}patient_id >= ? AND {0}patient_id < ?",
            start,
            f"{start}\U0010ffff",
        )
    elif query.patient_id:
        add("patient", "patient_id <> '' AND {}patient_id = ?", query.patient_id)
    if query.state is not None:
        add("state", "{}state = ?", query.state)
    elif query.cause is not None and query.cause is not Cause.NONE:
        # Only these rows have causes; removed ones keep theirs.
        states = (State.SENT,) if query.cause in _OF_SENT else (State.QUARANTINE, State.REMOVED)
        add("state", f"{{}}state IN ({', '.join('?' * len(states))})", *states)
    if query.cause is not None:
        add("cause", "cause = ?", query.cause)
    if query.since or query.until:
        until = query.until or "~"  # later than every time
        add("time", "{0}received_at >= ? AND {0}received_at < ?", query.since, until)
    if query.calling_ae_title:
        add("sender", "calling_ae_title = ?", query.calling_ae_title)
    return conditions
