"""`export`: rows of the ledger as CSV (RFC 4180), or as JSON lines."""

import contextlib
import csv
import json
import os
import sys
import uuid
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import click

from common.ledger_reader import Query
from common.records import Row
from common.redaction import escape
from console.cli import Seat, pass_seat
from console.cli.filters import filters, reader_of, row_document

COLUMNS = [name for name in Row.__slots__ if name != "id"]
# What a spreadsheet takes for a formula, in ASCII and as full-width forms.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


@click.command("export")
@filters
@click.option("--limit", type=click.IntRange(1), help="At most so many rows, the newest; without it, all.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A file instead of standard output."
)
@click.option("--json", "as_document", is_flag=True, help="A JSON object for each row instead, one on a line.")
@pass_seat
def command(seat: Seat, *, query: Query, limit: int | None, output: Path | None, as_document: bool) -> None:
    """Write rows as CSV, newest first: every column of the ledger.

    A value that a spreadsheet would take for a formula gets an apostrophe in front; control characters are escaped.
    With --json values are as they are in the ledger.
    """
    rows = islice(reader_of(seat).each(query), limit)
    write = _write_json if as_document else _write
    if output is None:
        write(sys.stdout, rows)
        return
    with _replacing(output) as file:
        count = write(file, rows)
    click.echo(f"{count:,} rows written to {click.format_filename(output)}", err=True)


def guarded(value: str) -> str:
    """A text that no spreadsheet takes for a formula, and that drives no terminal."""
    text = escape(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def _write(file: TextIO, rows: Iterable[Row]) -> int:
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    count = 0
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in COLUMNS])
        count += 1
    file.flush()
    return count


def _write_json(file: TextIO, rows: Iterable[Row]) -> int:
    count = 0
    for row in rows:
        file.write(json.dumps(row_document(row), separators=(",", ":")) + "\n")
        count += 1
    file.flush()
    return count


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if value is None else guarded(str(value))


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A file that takes its name when it is whole; nobody else may read it."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise click.ClickException(f"expected to write {path}, found: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
