"""`console serve`: the web page, and what goes on beside it."""

import sys

import click

from common import logs
from console.cli import BrokenConfigurationError, Seat, pass_seat


@click.command("serve")
@pass_seat
def command(seat: Seat) -> None:
    """Serve the web page until told to stop (SIGTERM, Ctrl-C).

    A port that is taken is tried again until it is free. Beyond this machine it needs users_file and TLS.
    """
    # Flask and cheroot are imported here, so that no other command pays for them.
    from console.serving import problems, serve  # noqa: PLC0415

    config = seat.load(files_of=("console", "notify"))
    if found := problems(config):
        raise BrokenConfigurationError(seat.path, found)
    logs.setup(config.logging, "console")
    sys.exit(serve(config))
