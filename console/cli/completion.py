"""`completion`: the script by which a shell completes commands, options and names in quarantine."""

import click
from click.shell_completion import get_completion_class

from console.cli import COMPLETE_VARIABLE, main

PROGRAM = "stowgate"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a script that makes a shell complete `stowgate`, which is deploy/stowgate in the PATH.

    \b
    bash:  stowgate completion bash > /etc/bash_completion.d/stowgate
    zsh:   stowgate completion zsh > "${fpath[1]}/_stowgate"
    fish:  stowgate completion fish > ~/.config/fish/completions/stowgate.fish
    """  # noqa: D301 -- click looks for this very character
    kind = get_completion_class(shell)
    if kind is None:
        raise AssertionError(shell)
    click.echo(kind(main, {}, PROGRAM, COMPLETE_VARIABLE).source(), nl=False)
