"""`console sign-in`: a link to sign in to the page once, for who can read the spool."""

import getpass
import json
import os
import time
from pathlib import Path

import click

from common.presence import Process, processes
from console.cli import Seat, pass_seat
from console.links import VALID_SECONDS, NoKeyError, make_token

_PATIENCE_SECONDS = 2.0


@click.command("sign-in")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@pass_seat
def command(seat: Seat, *, as_json: bool) -> None:
    """Print a link that signs you in to the web page, once, within five minutes."""
    config = seat.config
    if config.console.users_file is not None:
        raise click.ClickException("expected no users_file in [console]: with one, people sign in by name and password")
    spool = config.spool.directory
    try:
        token = make_token(spool, _name())
        living = _pages(spool)
    except NoKeyError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"expected to read the spool {spool}, found: {error.strerror}") from None
    if not living:
        raise click.ClickException("expected the page to be served, found no process that does: start `console serve`")
    url = f"{living[-1].facts.get('url')}/sign-in"
    if as_json:
        click.echo(json.dumps({"url": f"{url}#{token}", "token": token, "valid_seconds": VALID_SECONDS}, indent=2))
    else:
        click.echo(f"{url}#{token}")
        click.echo(f"It works once, for {VALID_SECONDS // 60} minutes.", err=True)


def _pages(spool: Path) -> list[Process]:
    """The pages that are served; one that has just begun to be says so within a second."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        found = [one for one in processes(spool) if one.role == "console" and one.facts.get("serving")]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _name() -> str:
    try:
        return getpass.getuser()[:64]
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
