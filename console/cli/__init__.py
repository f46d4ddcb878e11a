"""The command line: one module for each command, imported when that command is run.

A command is a module of this package with an attribute `command` (a click.Command) and an entry in COMMANDS. It gets
the `Seat` by `@pass_seat`, and the configuration by `seat.config`, which is loaded at the first use.

Exit status: 0 all is well, 1 something is not well or failed, 2 wrong usage or a broken configuration.
"""

import importlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import click
from click.shell_completion import CompletionItem

from common.config import Config, load
from common.errors import ConfigError, StowgateError

PROGRAM_VARIABLE = "_STOWGATE_PROGRAM"
"""The environment variable by which deploy/stowgate says by what name it was started."""

COMPLETE_VARIABLE = "_STOWGATE_COMPLETE"
"""The environment variable by which a shell asks for completions."""

# Name, module of this package, what it does: here, so that no module is imported to list them.
COMMANDS: dict[str, tuple[str, str]] = {
    "status": ("status", "Whether all is well, on one screen."),
    "watch": ("watch", "The same, live."),
    "list": ("listing", "What was received, newest first."),
    "show": ("show", "One instance: its row, its history, its header."),
    "release": ("release", "Have quarantined files tried again."),
    "discard": ("discard", "Delete quarantined files for good."),
    "probe": ("probe", "Have the destination tried now."),
    "send": ("send", "Send files to the own receiver, as a check."),
    "check": ("check", "Look for what is wrong; mend the ledger."),
    "export": ("export", "Rows of the ledger as CSV."),
    "serve": ("serve", "The web page, metrics and notices."),
    "notify-test": ("notify_test", "Send a test by every way of [notify]."),
    "sign-in": ("sign_in", "A link to sign in to the page once."),
    "user": ("user", "Who may sign in to the page."),
    "housekeeping": ("housekeeping", "Remove what [retention] says is old."),
    "completion": ("completion", "A script that completes in a shell."),
}


class BrokenConfigurationError(click.ClickException):
    """The configuration is broken: every problem of it, and exit status 2."""

    exit_code: ClassVar[int] = 2

    def __init__(self, path: Path, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        super().__init__(
            "\n".join([f"the configuration {path} is broken, {count}:", *(f"  {p}" for p in self.problems)])
        )


@dataclass(frozen=True)
class Seat:
    """What every command is given.

    Attributes:
        path: the ini file.
    """

    path: Path

    @cached_property
    def config(self) -> Config:
        """The configuration, loaded at the first use."""
        return self.load()

    def load(self, files_of: Collection[str] = ()) -> Config:
        """Load the configuration.

        Args:
            files_of: as for `common.config.load`; credentials must be there for these sections alone, so that whoever
                may not read them can look.

        Raises:
            BrokenConfigurationError: it is broken.
        """
        try:
            return load(self.path, files_of=files_of, secrets_of=files_of)
        except ConfigError as error:
            raise BrokenConfigurationError(self.path, error.problems) from None


pass_seat = click.make_pass_decorator(Seat)


class LazyGroup(click.Group):
    """A group whose commands are imported one by one, when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of COMMANDS."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command.

        Raises:
            click.ClickException: it is not there, or a library that it needs is not.
        """
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = f"{__name__}.{COMMANDS[cmd_name][0]}"
        try:
            found = importlib.import_module(module).command
        except ModuleNotFoundError as error:
            if error.name == module:
                raise click.ClickException(f"{cmd_name}: expected the module {module}, found none") from None
            raise click.ClickException(
                f"{cmd_name} needs the library {error.name}, found none: python -m pip install -r requirements.txt"
            ) from None
        if not isinstance(found, click.Command):
            raise TypeError(f"{module}.command: expected a click.Command, found {type(found).__name__}")
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what Stowgate raises on purpose is said in one line, with exit status 1."""
        try:
            return super().invoke(ctx)
        except StowgateError as error:
            raise click.ClickException(str(error)) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing one."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands without importing one, and options."""
        names = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 all is well, 1 something is not well or failed, 2 wrong usage or a broken configuration.",
)
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=Path("pipeline.ini"),
    envvar="STOWGATE_CONFIG",
    show_default=True,
    metavar="FILE",
    help="The settings; STOWGATE_CONFIG names another default.",
)
@click.pass_context
def main(ctx: click.Context, path: Path) -> None:
    """See whether all is well with Stowgate, what is stuck, why, and act."""
    ctx.obj = Seat(path)
