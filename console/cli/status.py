"""`status`: whether all is well, on one screen."""

import click

from console.cli import Seat, pass_seat
from console.cli.printing import as_json, json_option, say
from console.cli.screen import Screen


@click.command("status")
@json_option
@pass_seat
@click.pass_context
def command(ctx: click.Context, seat: Seat, *, as_document: bool) -> None:
    """Show whether all is well: what was received, sent, waits, is in quarantine, and why.

    Exit status 1 if something does not work.
    """
    screen = Screen(seat.config)
    if as_document:
        as_json(screen.document())
    else:
        say(screen.render(bars=False))
    ctx.exit(screen.exit_status)
