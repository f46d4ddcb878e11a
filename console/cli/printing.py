"""How the command line shows things: tables for people, one JSON document for programs.

What a peer sent goes through `shown` before a terminal gets it: no control character reaches one. On a terminal tables
are as wide as it is and fold what is longer; elsewhere nothing is cut and nothing is coloured, one row is one line.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from common.redaction import escape

Cell = str | int | Text | None

_PLAIN_WIDTH = 100_000  # where there is no terminal, no line is folded


def terminal() -> Console:
    """Standard output."""
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=_PLAIN_WIDTH)


def say(*parts: RenderableType) -> None:
    """Print, each part below the other."""
    console = terminal()
    if console.is_terminal:
        console.print(Group(*parts))
        return
    with console.capture() as captured:
        console.print(Group(*parts))
    # A table pads its last column, and a narrow file is easier to read than a wide one.
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def as_json(document: Any) -> None:
    """Print one JSON document. In ASCII: what a peer sent cannot drive a terminal."""
    click.echo(json.dumps(document, indent=2, default=_plain))


def json_line(document: Any) -> None:
    """Print one JSON document on one line."""
    click.echo(json.dumps(document, separators=(",", ":"), default=_plain))


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    raise TypeError(f"expected a JSON type or a time, found {type(value).__name__}")


def json_option(command: Any) -> Any:
    """The option --json."""
    return click.option("--json", "as_document", is_flag=True, help="One JSON document instead.")(command)


def shown(value: object, style: str = "") -> Text:
    r"""A value as text for a terminal: what is unprintable in it as \x1b and the like."""
    return Text("" if value is None else escape(str(value)), style=style)


def table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, right: Sequence[str] = ()) -> Table:
    """A table with headings; those in `right` are of numbers."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        made.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else shown(cell) for cell in row))
    return made


def pairs(values: Mapping[str, Cell]) -> Table:
    """Names and values, below each other; empty values are left out."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in values.items():
        if value is not None and value != "":
            made.add_row(name, value if isinstance(value, Text) else shown(value))
    return made


def zone() -> str:
    """What this machine calls the time zone of `local`."""
    return datetime.now().astimezone().strftime("%Z")


def local(moment: datetime | str | None) -> str:
    """A moment on the clock of this machine, to the second; a text is one in the ledger's form."""
    if not moment:
        return ""
    try:
        known = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    except ValueError:
        return str(moment)
    return known.astimezone().strftime("%Y-%m-%d %H:%M:%S")
