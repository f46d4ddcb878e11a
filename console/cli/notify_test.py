"""`notify-test`: send a test by every way of [notify], and say what came of each."""

import json
import sys
import uuid
from datetime import UTC, datetime

import click

from console.cli import Seat, pass_seat
from console.notices.channels import Channel, UndeliveredError
from console.notices.telling import Notice
from console.notices.worker import channels


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@pass_seat
def command(seat: Seat, as_json: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Send a test message by every way that [notify] names.

    Exit status 0: every one of them was taken; 1: one was not, or none is set.
    """
    ways = channels(seat.load(files_of=("notify",)).notify)
    notice = Notice(uuid.uuid4().hex, datetime.now(UTC), ())
    if not as_json and not ways:
        click.echo("nobody is told: expected webhook_url or mail_server in [notify], found neither")
    results = []
    for way in ways:
        failure = _try(way, notice)
        results.append({"channel": way.name, "taken": not failure, "reason": failure})
        if not as_json:
            click.echo(f"{way.name}: {f'not taken: {failure}' if failure else 'taken'}")
    if as_json:
        click.echo(json.dumps({"channels": results}, indent=2))
    sys.exit(0 if results and all(result["taken"] for result in results) else 1)


def _try(way: Channel, notice: Notice) -> str:
    try:
        way.send(notice)
    except UndeliveredError as error:
        return str(error)
    return ""
