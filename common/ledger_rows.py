"""How the records of the ledger become rows of `instances`, and rows become records again."""

from collections.abc import Callable, Sized
from dataclasses import fields
from operator import attrgetter

from common.records import Cause, Row, Sender, State
from common.sop_instance import Instance

INSTANCE_COLUMNS = tuple(field.name for field in fields(Instance))
_INSTANCE_VALUES: Callable[[Instance], tuple[str, ...]] = attrgetter(*INSTANCE_COLUMNS)
_SENDER_COLUMNS = tuple(field.name for field in fields(Sender))
_SENDER_VALUES: Callable[[Sender], tuple[str, ...]] = attrgetter(*_SENDER_COLUMNS)
_ENTERED_COLUMNS = ("file_name", *INSTANCE_COLUMNS, *_SENDER_COLUMNS, "size_bytes", "received_at", "state")

_ROW_COLUMNS = tuple(field.name for field in fields(Row))
_STATE, _CAUSE = _ROW_COLUMNS.index("state"), _ROW_COLUMNS.index("cause")

SELECT = f"SELECT {', '.join(_ROW_COLUMNS)} FROM instances"  # noqa: S608 - names of our own
"""All columns of `typed`."""


MAX_NAMES = 500
"""In one statement: SQLite takes 999 values in the oldest builds."""


def marks(values: Sized) -> str:
    """The marks of a statement for so many values."""
    return ",".join("?" * len(values))


def _enter_statement(*kept: str) -> str:
    updates = ", ".join(f"{name} = excluded.{name}" for name in _ENTERED_COLUMNS[1:] if name not in kept)
    return (
        f"INSERT INTO instances ({', '.join(_ENTERED_COLUMNS)}) VALUES ({marks(_ENTERED_COLUMNS)})"  # noqa: S608 - names of our own
        f" ON CONFLICT (file_name) DO UPDATE SET {updates},"
        " attempts = 0, next_attempt_at = NULL, cause = '', http_status = NULL, settled_at = NULL RETURNING id"
    )


ENTER = _enter_statement()
"""Insert the `entered_values`, or bring the row of that name to them, from a clean slate; gives its id."""
RELEASE = _enter_statement(*_SENDER_COLUMNS, "received_at")
"""The same, but who sent it and when stays as it is known."""


def entered_values(
    file_name: str, instance: Instance, sender: Sender, *, size_bytes: int, received_at: str
) -> tuple[str | int, ...]:
    """The values of ENTER and RELEASE; `file_name` in the ledger's form."""
    return (
        file_name,
        *map(writable, _INSTANCE_VALUES(instance)),
        *map(writable, _SENDER_VALUES(sender)),
        size_bytes,
        received_at,
        State.INCOMING,
    )


def describes(row: Row, instance: Instance | None, size_bytes: int) -> bool:
    """Tell whether a row is that of this content; of a file that could not be read only the size tells."""
    if row.size_bytes != size_bytes:
        return False
    return instance is None or all(getattr(row, name) == getattr(instance, name) for name in INSTANCE_COLUMNS)


def writable(text: str) -> str:
    """`text` with lone surrogates as escapes: SQLite takes none."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def typed(values: tuple[object, ...]) -> Row:
    """A row as SELECT gave it."""
    row = list(values)
    row[_STATE] = State(str(row[_STATE]))
    row[_CAUSE] = Cause(str(row[_CAUSE]))
    return Row(*row)  # type: ignore[arg-type]
