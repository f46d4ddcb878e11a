"""`list`: rows of the ledger, newest first."""

import click

from common.ledger_reader import Query
from console.cli import Seat, pass_seat
from console.cli.filters import filters, reader_of, row_document
from console.cli.printing import as_json, json_option, local, say, shown, table, zone
from console.words import size

_COLUMNS = ["state", "cause", "patient ID", "modality", "sender", "size", "attempts", "file"]


@click.command("list")
@filters
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="At most so many.")
@json_option
@pass_seat
def command(seat: Seat, *, query: Query, limit: int, as_document: bool) -> None:
    """List what was received, newest first. All that is asked for must be true of an instance."""
    rows = reader_of(seat).search(query, limit=limit + 1)
    more, rows = len(rows) > limit, rows[:limit]
    if as_document:
        as_json({"instances": [row_document(row) for row in rows], "more": more})
        return
    say(
        table(
            [f"received ({zone()})", *_COLUMNS],
            [
                (
                    local(row.received_at),
                    row.state.value,
                    row.cause.value,
                    row.patient_id,
                    row.modality,
                    row.calling_ae_title or shown("by hand", "dim"),
                    size(row.size_bytes),
                    row.attempts or "",
                    row.file_name,
                )
                for row in rows
            ],
            right=("size", "attempts"),
        )
    )
    if more:
        click.echo(f"There are more: these are the newest {limit}; --limit shows more of them.", err=True)
    elif not rows:
        click.echo("Nothing is found.", err=True)
