"""`show`: one instance, with its history, the archive's answer and its header."""

import logging
import os
import stat
import warnings
from pathlib import Path
from typing import Any

import click
from rich.console import RenderableType
from rich.text import Text

from common.errors import StowgateError
from common.ledger_reader import Query
from common.records import Cause, EventRow, Row, State, file_names
from common.spool import Spool
from console.cli import Seat, pass_seat
from console.cli.acting import complete_names, spool_of
from console.cli.filters import reader_of, row_document
from console.cli.printing import Cell, as_json, json_option, local, pairs, say, shown, table, zone
from console.words import count_of, size

_OTHERS = 20  # rows of the same instance that are named


@click.command("show")
@click.argument("name", metavar="NAME-or-UID", shell_complete=complete_names)
@click.option("--header/--no-header", default=True, help="The data elements of the file, if it is still there.")
@json_option
@pass_seat
def command(seat: Seat, *, name: str, header: bool, as_document: bool) -> None:
    """Show one instance: its row, its history, what the archive said, and the header of its file.

    By the name of its file, or by its SOP Instance UID; of several, the one that came last.
    """
    reader = reader_of(seat)
    row = reader.row(name)
    if row is None:
        raise click.ClickException(
            f"expected the name of a file or a SOP Instance UID that the ledger knows, found {name!r}"
        )
    events = reader.events(row)
    others = [
        other.file_name
        for other in (reader.search(Query(uid=row.sop_instance_uid), limit=_OTHERS) if row.sop_instance_uid else [])
        if other.id != row.id and other.sop_instance_uid == row.sop_instance_uid
    ]
    spool = spool_of(seat.config)
    path = _path(spool, row)
    reason = spool.quarantine.read_reason(path.name) if path and row.state is State.QUARANTINE else {}
    elements, trouble = _header(path) if header else ([], "")
    if as_document:
        as_json(
            {
                "instance": row_document(row),
                "events": [_event_document(event) for event in events],
                "reason": reason,
                "others": others,
                "path": str(path) if path else None,
                "header": elements,
                "header_error": trouble,
            }
        )
        return
    parts: list[RenderableType] = [pairs(_facts(row, path)), Text(), _history(events)]
    if answer := _answer(reason):
        parts += [Text(), Text("What the archive said", style="bold"), pairs(answer)]
    if others:
        parts += [Text(), shown(f"The same instance came as: {', '.join(others)}")]
    if elements:
        parts += [Text(), _elements(elements)]
    if trouble:
        parts += [Text(), shown(trouble, "yellow")]
    say(*parts)


def _path(spool: Spool, row: Row) -> Path | None:
    """Where the file is, if it still is."""
    folder = {State.INCOMING: spool.incoming, State.QUARANTINE: spool.quarantine.path}.get(row.state)
    if folder is None:
        return None
    return next((folder / name for name in file_names(row.file_name) if os.path.lexists(folder / name)), None)


def _header(path: Path | None) -> tuple[list[dict[str, Any]], str]:
    """The data elements, and why there are none."""
    if path is None:
        return [], ""
    from console import header  # noqa: PLC0415 -- pydicom takes longer to import than all else here

    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return [], "The header is not shown: it is no file."
        # It warns of values that break the rules of their VR; whoever looks at them sees that.
        logging.getLogger("pydicom").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = header.read(path)
    except StowgateError as error:
        return [], f"The header cannot be read: {error}."
    except OSError as error:
        return [], f"The header cannot be read: {error.strerror or type(error).__name__}."
    fields = ("tag", "vr", "keyword", "value", "depth")
    return [{name: getattr(element, name) for name in fields} for element in found], ""


def _facts(row: Row, path: Path | None) -> dict[str, Cell]:
    return {
        "file": row.file_name,
        "state": Text(row.state.value, style="bold"),
        "cause": row.cause.value,
        "HTTP status": row.http_status,
        "attempts": row.attempts,
        "next attempt": local(row.next_attempt_at),
        "received": local(row.received_at),
        "settled": local(row.settled_at),
        "sender": row.calling_ae_title or "by hand",
        "called": row.called_ae_title,
        "from": row.peer_address,
        "size": f"{size(row.size_bytes)} ({count_of(row.size_bytes, 'byte')})",
        "patient ID": row.patient_id,
        "modality": row.modality,
        "SOP instance": row.sop_instance_uid,
        "SOP class": row.sop_class_uid,
        "study": row.study_instance_uid,
        "series": row.series_instance_uid,
        "transfer syntax": row.transfer_syntax_uid,
        "path": str(path) if path else "",
    }


def _history(events: list[EventRow]) -> RenderableType:
    return table(
        [f"when ({zone()})", "event", "cause", "HTTP", "detail"],
        [(local(one.at), one.event.value, one.cause, one.http_status, one.detail) for one in events],
        right=("HTTP",),
    )


def _event_document(event: EventRow) -> dict[str, Any]:
    return {name: getattr(event, name) for name in EventRow.__slots__ if name != "file_name"}


def _answer(reason: dict[str, Any]) -> dict[str, Cell]:
    """What the sidecar adds to the row; a person may have edited it."""
    failure = reason.get("failure_reason")
    known = {
        "detail": reason.get("detail") if reason.get("cause") != Cause.NONE else "",
        "FailureReason": f"{failure:04X}" if isinstance(failure, int) else failure,
        "answer": reason.get("answer"),
    }
    return {name: str(value) for name, value in known.items() if value}


def _elements(elements: list[dict[str, Any]]) -> RenderableType:
    return table(
        ["tag", "VR", "keyword", "value"],
        [(f"{'  ' * one['depth']}{one['tag']}", one["vr"], one["keyword"], one["value"]) for one in elements],
    )
