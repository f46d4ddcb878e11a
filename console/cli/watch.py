"""`watch`: the screen of `status`, live."""

import contextlib
import threading
from collections.abc import Iterable
from itertools import count as counting

import click
from rich.live import Live

from common.config import Config
from console.cli import Seat, pass_seat
from console.cli.printing import json_line, terminal
from console.cli.screen import Screen


@click.command("watch")
@click.option(
    "--interval", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, help="Seconds between looks."
)
@click.option("--count", type=click.IntRange(1), help="End after so many looks; without it, Ctrl-C ends it.")
@click.option("--json", "as_document", is_flag=True, help="One JSON document a line instead.")
@pass_seat
@click.pass_context
def command(ctx: click.Context, seat: Seat, *, interval: float, count: int | None, as_document: bool) -> None:
    """Show the screen of `status` again and again, with the progress of long transfers.

    Where there is no terminal, each look is one line. The exit status is that of the last look.
    """
    watching = _Watching(seat.config, interval)
    numbers = range(count) if count else counting()
    with contextlib.suppress(KeyboardInterrupt):
        if terminal().is_terminal and not as_document:
            watching.live(numbers)
        else:
            watching.print(numbers, as_document=as_document)
    ctx.exit(watching.last.exit_status)


class _Watching:
    def __init__(self, config: Config, interval: float) -> None:
        self._config = config
        self._interval = interval
        self._pause = threading.Event()
        self.last = Screen(config)

    def live(self, numbers: Iterable[int]) -> None:
        with Live(self.last.render(bars=True), console=terminal(), auto_refresh=False) as live:
            for number in numbers:
                self._look(number)
                live.update(self.last.render(bars=True), refresh=True)

    def print(self, numbers: Iterable[int], *, as_document: bool) -> None:
        for number in numbers:
            self._look(number)
            if as_document:
                json_line(self.last.document())
            else:
                click.echo(self.last.line())

    def _look(self, number: int) -> None:
        if number:  # the first one is there already
            self._pause.wait(self._interval)
            self.last = Screen(self._config)
