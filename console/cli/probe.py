"""`probe`: have the destination tried now."""

import time

import click

from console.actions import probe
from console.cli import Seat, pass_seat
from console.cli.acting import as_owner, person
from console.cli.printing import as_json, json_option
from console.overview import DestinationView, look
from console.words import duration

_LOOK_SECONDS = 0.5


@click.command("probe")
@click.option(
    "--wait", type=click.FloatRange(0, 3600), default=0.0, metavar="SECONDS", help="Wait so long for it to open."
)
@json_option
@pass_seat
@click.pass_context
def command(ctx: click.Context, seat: Seat, *, wait: float, as_document: bool) -> None:
    """Have the destination tried now instead of at the end of its pause.

    Exit status 1 if no uploader runs, or if it is still not open after --wait.
    """
    config = seat.config
    before = look(config)
    uploaders = len(before.of_role("uploader"))
    try:
        with as_owner(config.spool.directory):
            probe(config.spool.directory, person())
    except OSError as error:
        raise click.ClickException(
            f"expected to write into {config.spool.directory}, found: {error.strerror}"
        ) from None
    deadline = time.monotonic() + wait
    view = before.destination
    while wait and view.mode != "open" and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        view = look(config).destination
    if as_document:
        as_json({"asked": True, "uploaders": uploaders, "mode": view.mode, "reason": view.reason, "url": view.url})
    else:
        click.echo(_words(uploaders, before.destination, view, wait))
    ctx.exit(1 if not uploaders or (wait and view.mode != "open") else 0)


def _words(uploaders: int, before: DestinationView, view: DestinationView, wait: float) -> str:
    if not uploaders:
        return "No uploader is running: nobody can probe."
    if before.mode == "open":
        return "The destination is open; there is nothing to probe."
    if view.mode == "open":
        return "The destination is open again."
    asked = "the uploader" if uploaders == 1 else f"{uploaders} uploaders"
    after = f" after {duration(wait)}" if wait else ""
    return f"Asked {asked} to probe; the destination is {view.mode}{after}."
