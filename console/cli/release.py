"""`release`: have quarantined files tried again."""

import click

from console.cli import Seat, pass_seat
from console.cli.acting import act, report, select, selection
from console.cli.printing import json_option

_WORDS = "releasing", "released"


@click.command("release")
@selection
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
    as_document: bool,
) -> None:
    """Move files from quarantine back to incoming, to be tried again from a clean slate.

    Exit status 1 if one of them could not be released.
    """
    selected = select(seat, names, cause, study, everything=everything)
    done, interrupted = act(seat.config, selected.names, lambda actions: actions.release, _WORDS)
    report(ctx, done, _WORDS, as_document=as_document, interrupted=interrupted)
