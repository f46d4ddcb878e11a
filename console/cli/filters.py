"""The filters that `list` and `export` share, and rows as both show them."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from common.ledger_reader import LedgerReader, Query
from common.records import Cause, Row, State
from console.cli import Seat
from console.cli.times import Moment

CAUSES = [cause.value for cause in Cause if cause]
QUARANTINE_CAUSES = [cause for cause in CAUSES if cause not in {Cause.DUPLICATE, Cause.WARNING}]


def filters(command: Callable[..., None]) -> Callable[..., None]:
    """Options that make a Query, which the command gets as `query`."""

    @click.option("--state", type=click.Choice([state.value for state in State]), help="In this state.")
    @click.option("--cause", type=click.Choice(CAUSES), help="With this cause.")
    @click.option("--patient", default="", metavar="ID", help="Of this Patient ID; ABC* stands for all that begin so.")
    @click.option("--uid", default="", help="With this SOP Instance or Study Instance UID.")
    @click.option("--sender", default="", metavar="AE", help="Sent by this calling AE title.")
    @click.option("--since", type=Moment(), help="Received then or later: 2h, yesterday, 2026-11-24.")
    @click.option("--until", type=Moment(), help="Received before that.")
    @wraps(command)
    def with_query(
        *args: Any,
        state: str | None,
        cause: str | None,
        patient: str,
        uid: str,
        sender: str,
        since: str | None,
        until: str | None,
        **kwargs: Any,
    ) -> None:
        query = Query(
            state=State(state) if state else None,
            cause=Cause(cause) if cause else None,
            uid=uid,
            patient_id=patient,
            calling_ae_title=sender,
            since=since or "",
            until=until or "",
        )
        command(*args, query=query, **kwargs)

    return with_query


def reader_of(seat: Seat) -> LedgerReader:
    """Questions to the ledger of the configured spool."""
    return LedgerReader(seat.config.spool.directory / "ledger.db")


def row_document(row: Row) -> dict[str, Any]:
    """A row for programs: every column, in the words of the ledger."""
    return {name: getattr(row, name) for name in Row.__slots__ if name != "id"}
