"""`console user`: who may sign in to the page by name and password."""

import json
import sys

import click

from console.cli import Seat, pass_seat
from console.users import LEAST_CHARACTERS, MOST_CHARACTERS, Users, UsersError, is_name


@click.command("user")
@click.argument("name", required=False)
@click.option("--delete", is_flag=True, help="Take the user out, and sign him out.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input, its first line.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@pass_seat
def command(seat: Seat, name: str | None, *, delete: bool, password_stdin: bool, as_json: bool) -> None:
    """Add the user NAME to users_file, or change the password; without NAME, list the users."""
    path = seat.config.console.users_file
    if path is None:
        raise click.UsageError("expected users_file in [console] to name a file for the users, found nothing")
    users = Users(path)
    try:
        if name is None:
            if delete:
                raise click.UsageError("expected the NAME of the user to delete, found none")
            names = sorted(users.read()) if path.exists() else []
            said = {"users": names, "file": str(path)}
            text = "\n".join(names) or f"No users in {path}."
        elif not is_name(name):
            raise click.UsageError(
                "expected a name of 1 to 64 letters, digits and . _ - @ or spaces inside, found another form"
            )
        elif delete:
            if not users.remove(name):
                raise click.ClickException(f"expected a user {name} in {path}, found none")
            said, text = {"deleted": name, "file": str(path)}, f"{name} is taken out of {path}."
        else:
            users.put(name, _password(from_stdin=password_stdin))
            said, text = {"put": name, "file": str(path)}, f"{name} can sign in."
    except UsersError as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps(said, indent=2) if as_json else text)


def _password(*, from_stdin: bool) -> str:
    if from_stdin:
        password = sys.stdin.readline(MOST_CHARACTERS + 2).rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt="The same again")
    if not LEAST_CHARACTERS <= len(password) <= MOST_CHARACTERS:
        raise click.UsageError(
            f"expected a password of {LEAST_CHARACTERS} to {MOST_CHARACTERS} characters, found {len(password)}"
        )
    return str(password)
