"""`discard`: delete quarantined files for good."""

import sys

import click

from common.redaction import escape
from console.actions import Done
from console.cli import Seat, pass_seat
from console.cli.acting import Selected, act, preview, report, select, selection
from console.cli.printing import json_option
from console.words import count_of, size

_WORDS = "discarding", "discarded"
_SHOWN = 10


@click.command("discard")
@selection
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_seat
@click.pass_context
def command(
    ctx: click.Context,
    seat: Seat,
    *,
    names: tuple[str, ...],
    cause: str | None,
    study: str | None,
    everything: bool,
    yes: bool,
    as_document: bool,
) -> None:
    """Delete files of quarantine for good, after asking. Nobody has them any more, unless their sender has.

    Exit status 1 if one of them could not be deleted, or the answer is no.
    """
    selected = select(seat, names, cause, study, everything=everything)
    if not selected.names:
        report(ctx, Done((), {}), _WORDS, as_document=as_document, interrupted=False)
    if not yes:
        _show(selected)
        click.confirm(f"Delete {count_of(len(selected.names), 'file')} for good?", abort=True, err=True)
    done, interrupted = act(seat.config, selected.names, lambda actions: actions.discard, _WORDS)
    report(ctx, done, _WORDS, as_document=as_document, interrupted=interrupted)


def _show(selected: Selected) -> None:
    """Say on standard error what would be deleted."""
    known = preview(selected)
    for one in known[:_SHOWN]:
        facts = [
            one["cause"] or "unknown to the ledger",
            f"Patient ID {one['patient_id']}" if one["patient_id"] else "",
            size(one["size_bytes"]) if one["size_bytes"] is not None else "",
        ]
        click.echo(f"  {escape(one['file_name'])}  {escape(', '.join(filter(None, facts)))}", file=sys.stderr)
    if len(known) > _SHOWN:
        click.echo(f"  and {len(known) - _SHOWN:,} more", file=sys.stderr)
    total = sum(one["size_bytes"] or 0 for one in known)
    click.echo(f"{count_of(len(known), 'file')}, {size(total)}", file=sys.stderr)
