"""`housekeeping`: carry out [retention] now."""

import dataclasses
import json

import click

from common import logs
from common.redaction import escape
from common.settings import Level
from console.cli import Seat, pass_seat
from console.housekeeping import Housekeeping, Kept


@click.command("housekeeping")
@click.option("--dry-run", "dry", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--json", "as_document", is_flag=True, help="One JSON document instead.")
@pass_seat
@click.pass_context
def command(ctx: click.Context, seat: Seat, *, dry: bool, as_document: bool) -> None:
    """Delete from the ledger, and from quarantine if that is set, what [retention] says is old.

    What is owed is never touched, and receiving goes on meanwhile. `serve` does the same once an hour.

    Exit status 1 if another process is at it, or something could not be deleted.
    """
    config = seat.config
    # What was done is told below; on standard error only what went wrong.
    logs.setup(dataclasses.replace(config.logging, level=max(config.logging.level, Level.WARNING)), "console")
    try:
        kept = Housekeeping(config).once(dry=dry)
    except OSError as error:
        raise click.ClickException(f"expected to use the spool, found: {error.strerror}") from None
    if as_document:
        # In ASCII: a file name that somebody else gave cannot drive a terminal.
        click.echo(json.dumps({"dry_run": dry, **dataclasses.asdict(kept)}, indent=2))
    else:
        _say(kept, dry=dry)
    if kept.failed:
        ctx.exit(1)


def _say(kept: Kept, *, dry: bool) -> None:
    verb = "would be deleted" if dry else "deleted"
    click.echo(f"{kept.rows:,} rows of the ledger and {kept.events:,} events {verb}")
    click.echo(f"{len(kept.discarded):,} files of quarantine/ {verb} ({kept.discarded_bytes:,} bytes)")
    if kept.bytes_freed:
        click.echo(f"the ledger is {kept.bytes_freed:,} bytes shorter")
    if dry:
        for name in kept.discarded:
            click.echo(f"  {escape(name)}")
    for name, reason in kept.failed.items():
        click.echo(f"{escape(name)}: {reason}", err=True)
