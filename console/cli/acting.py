"""What `release` and `discard` share: which files, by whom, with what result."""

import contextlib
import os
import pwd
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import click
from click.shell_completion import CompletionItem
from rich.progress import Progress

from common import logs
from common.config import Config, Level
from common.errors import ConfigError, LedgerError
from common.ledger import Ledger
from common.ledger_reader import LedgerReader, Query
from common.records import Cause, Row, State, file_names, ledger_name
from common.redaction import escape
from common.spool import Spool
from console.actions import Actions, Done
from console.cli import Seat
from console.cli.filters import QUARANTINE_CAUSES
from console.cli.printing import as_json, terminal
from console.words import count_of

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._~-")
_QUARANTINED = Query(state=State.QUARANTINE)
_FEW = 50  # names, that are asked for one by one
_MOST_NAMES = 200  # offered to a shell


@dataclass(frozen=True, slots=True)
class Selected:
    """Files of quarantine/ that were asked for.

    Attributes:
        names: as they are on disk, or as they were asked for if they are not there.
        rows: what the ledger knows of them, by name.
    """

    names: tuple[str, ...]
    rows: dict[str, Row]


def selection(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments that say which files: names, a cause, a study, or all."""
    for option in (
        click.option("--all", "everything", is_flag=True, help="All that is in quarantine."),
        click.option("--study", metavar="UID", help="Those of this Study Instance UID."),
        click.option("--cause", type=click.Choice(QUARANTINE_CAUSES), help="Those with this cause."),
        click.argument("names", nargs=-1, shell_complete=complete_names),
    ):
        command = option(command)
    return command


def select(seat: Seat, names: tuple[str, ...], cause: str | None, study: str | None, *, everything: bool) -> Selected:
    """The files that are meant; exactly one way of saying which must be used, but a cause and a study go together.

    Raises:
        click.UsageError: none, or several.
        click.ClickException: quarantine/ or the ledger cannot be read.
    """
    if (bool(names) + bool(cause or study) + everything) != 1:
        raise click.UsageError("Say which: by NAME…, by --cause or --study, or --all.")
    spool = spool_of(seat.config)
    reader = LedgerReader(spool.ledger)
    try:
        if everything:
            found = tuple(sorted(spool.quarantine.names()))
            return Selected(found, _rows(reader, found))
        if names:
            wanted = dict.fromkeys(_on_disk(spool, name) for name in names)
            return Selected(tuple(wanted), _rows(reader, tuple(wanted)))
        query = Query(state=State.QUARANTINE, cause=Cause(cause) if cause else None, uid=study or "")
        rows = {
            _on_disk(spool, row.file_name): row for row in reader.each(query) if study in {None, row.study_instance_uid}
        }
    except OSError as error:
        raise click.ClickException(f"expected to read {spool.quarantine.path}, found: {error.strerror}") from None
    return Selected(tuple(rows), rows)


def _on_disk(spool: Spool, label: str) -> str:
    """The name on disk of what the ledger calls so."""
    return next((name for name in file_names(label) if "/" not in name and spool.quarantine.holds(name)), label)


def _rows(reader: LedgerReader, names: tuple[str, ...]) -> dict[str, Row]:
    """What the ledger knows of them; nothing, if it cannot be read: that is mended, or told, when it is written."""
    labels = {ledger_name(name): name for name in names}
    try:
        if len(labels) > _FEW:
            return {labels[row.file_name]: row for row in reader.each(_QUARANTINED) if row.file_name in labels}
        found = [reader.search(replace(_QUARANTINED, file_name=label), limit=1) for label in labels]
    except LedgerError:
        return {}
    return {labels[row.file_name]: row for rows in found for row in rows}


def spool_of(config: Config) -> Spool:
    """The configured spool."""
    return Spool(config.spool.directory, config.spool.min_free)


@contextlib.contextmanager
def ledger_of(config: Config) -> Iterator[Ledger]:
    """The ledger, for writing. What is to be said of it goes to standard error.

    Raises:
        LedgerError: it cannot be used.
    """
    logs.setup(replace(config.logging, level=max(config.logging.level, Level.WARNING)), "console")
    with (
        as_owner(config.spool.directory),
        contextlib.closing(Ledger(config.spool.directory / "ledger.db", durable=True)) as ledger,
    ):
        yield ledger


@contextlib.contextmanager
def as_owner(directory: Path) -> Iterator[None]:
    """As root, be the owner of the spool for a while: what root creates there, the processes could not write to."""
    if os.geteuid() != 0:
        yield
        return
    group = os.getegid()
    with contextlib.suppress(OSError):
        owner = os.stat(directory)
        os.setegid(owner.st_gid)  # first: the owner may not change it
        os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


def person() -> str:
    """Who acts, for the history: the user of this process, and who became root by sudo for it."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"user {os.getuid()}"
    before = os.environ.get("SUDO_USER", "") if os.getuid() == 0 else ""
    return escape(f"{before} as {name}" if before and before != name else name, 64)


def act(
    config: Config,
    names: Iterable[str],
    how: Callable[[Actions], Callable[[Iterable[str]], Done]],
    words: tuple[str, str],
) -> tuple[Done, bool]:
    """Act on files one by one, with progress; Ctrl-C ends it between two of them.

    Args:
        config: the configuration.
        names: of the files.
        how: which of the actions.
        words: what is being done, and what was.

    Returns:
        What came of it, and whether it was ended before the last.
    """
    names = list(names)
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        del number, frame
        interrupted = True

    console = terminal()
    with (
        ledger_of(config) as ledger,
        Progress(console=console, disable=not console.is_terminal, transient=True) as progress,
    ):
        bar = progress.add_task(words[0], total=len(names))

        def each() -> Iterator[str]:
            for name in names:
                if interrupted:
                    return
                yield name
                progress.advance(bar)

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            return how(Actions(spool_of(config), ledger, person()))(each()), interrupted
        finally:
            signal.signal(signal.SIGINT, before)


def report(ctx: click.Context, done: Done, words: tuple[str, str], *, as_document: bool, interrupted: bool) -> None:
    """Say what came of it; exit status 1 if something failed or was left."""
    if as_document:
        as_json(
            {words[1]: [ledger_name(name) for name in done.done], "failed": _failures(done), "interrupted": interrupted}
        )
    else:
        click.echo(f"{count_of(len(done.done), 'file')} {words[1]}.")
        for name, why in _failures(done).items():
            click.echo(f"not {words[1]}: {escape(name)}: {escape(why)}", err=True)
        if interrupted:
            click.echo("Interrupted: the others are as they were.", err=True)
    ctx.exit(1 if done.failed or interrupted else 0)


def _failures(done: Done) -> dict[str, str]:
    return {ledger_name(name): why for name, why in done.failed.items()}


def complete_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names in quarantine/ for a shell.

    Those alone that are plain: a shell puts them on the command line as they are, and whoever drops a file names it.
    """
    del param
    with contextlib.suppress(OSError, ConfigError, LedgerError, click.ClickException, KeyError):
        folder = Seat(ctx.find_root().params["path"]).config.spool.directory / "quarantine"
        names = sorted(
            name
            for name in os.listdir(folder)
            if name.startswith(incomplete) and not name.startswith((".", "-")) and _SAFE.issuperset(name)
        )
        there = set(names)
        return [CompletionItem(name) for name in names if name.removesuffix(".json") not in there - {name}][
            :_MOST_NAMES
        ]
    return []


def preview(selected: Selected) -> list[dict[str, Any]]:
    """What is known of the files."""
    known = []
    for name in selected.names:
        row = selected.rows.get(name)
        known.append(
            {
                "file_name": ledger_name(name),
                "cause": row.cause.value if row else "",
                "patient_id": row.patient_id if row else "",
                "size_bytes": row.size_bytes if row else None,
            }
        )
    return known
