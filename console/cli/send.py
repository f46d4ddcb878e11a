"""`send`: C-STORE of files to the own receiver, as a check."""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from common.config import ReceiverConfig
from common.errors import InstanceError, NotDicomError, NotStorableError
from common.redaction import escape
from console.cli import Seat, pass_seat
from console.cli.printing import as_json, json_option, terminal
from console.dimse import MOST_CONTEXTS, Caller, Instance, PeerError, associated, contexts_of, identify, store
from console.words import count_of

_MOST_FILES = 500  # of one association


@dataclass(frozen=True, slots=True)
class _Sent:
    """What came of one file; `status` is that of the C-STORE, None if there was none."""

    path: Path
    status: int | None
    text: str
    skipped: bool = False

    @property
    def stored(self) -> bool:
        return self.status is not None and (self.status == 0 or self.status & 0xF000 == 0xB000)

    @property
    def failed(self) -> bool:
        return not self.stored and not self.skipped


@click.command("send")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="FILE...")
@click.option("--calling", default="", metavar="AE", help="The calling AE title; by default one that is allowed.")
@click.option(
    "--certificate", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="To show the receiver."
)
@click.option("--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Of that certificate.")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 3600), default=30.0, show_default=True, help="Seconds for a step."
)
@json_option
@pass_seat
@click.pass_context
def command(
    ctx: click.Context,
    seat: Seat,
    *,
    files: tuple[Path, ...],
    calling: str,
    certificate: Path | None,
    key: Path | None,
    timeout: float,
    as_document: bool,
) -> None:
    """Send files, and those in folders, to the own receiver by C-STORE, and show each status.

    They are received like any others: what is stored goes on to the destination. Exit status 1 if one is not stored.
    """
    if calling and (len(calling) > 16 or not calling.isascii() or not calling.isprintable() or "\\" in calling):
        raise click.BadParameter("expected an AE title of at most 16 ASCII characters", param_hint="--calling")
    config = seat.config.receiver
    caller = Caller(calling, certificate, key)
    paths = list(_expand(files))
    named = frozenset(files)
    results: list[_Sent] = []
    console = terminal()
    with Progress(console=console, disable=not console.is_terminal or as_document, transient=True) as progress:
        bar = progress.add_task("sending", total=len(paths))
        for sent in _send(config, caller, paths, named, timeout):
            results.append(sent)
            progress.advance(bar)
            if not as_document and not sent.skipped:
                progress.console.print(_line(sent), soft_wrap=True)
    if as_document:
        as_json(_document(results))
    else:
        click.echo(_summary(results))
    ctx.exit(1 if any(sent.failed for sent in results) or not any(sent.stored for sent in results) else 0)


def _expand(files: Iterable[Path]) -> Iterator[Path]:
    """The files, and those in folders in their order; links in folders are left."""
    for path in files:
        if not path.is_dir():
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                found = Path(folder) / name
                if stat.S_ISREG(os.lstat(found).st_mode):
                    yield found


def _send(
    config: ReceiverConfig, caller: Caller, paths: list[Path], named: frozenset[Path], seconds: float
) -> Iterator[_Sent]:
    batch: list[Instance] = []
    contexts: set[tuple[str, str]] = set()
    for path in paths:
        try:
            instance = identify(path)
        except InstanceError as error:
            other = isinstance(error, NotDicomError | NotStorableError) and path not in named
            yield _Sent(path, None, f"not sent: {error}", skipped=other)
            continue
        except OSError as error:
            yield _Sent(path, None, f"cannot be read: {error.strerror}")
            continue
        context = instance.sop_class_uid, instance.transfer_syntax_uid
        if len(batch) == _MOST_FILES or (context not in contexts and len(contexts) == MOST_CONTEXTS):
            yield from _associate(config, caller, batch, seconds)
            batch, contexts = [], set()
        batch.append(instance)
        contexts.add(context)
    if batch:
        yield from _associate(config, caller, batch, seconds)


def _associate(config: ReceiverConfig, caller: Caller, batch: list[Instance], seconds: float) -> Iterator[_Sent]:
    """Send some files on one association; when that breaks, the others are not sent."""
    left = list(batch)
    try:
        with associated(config, caller, contexts_of(batch), seconds) as association:
            while left and association.is_established:
                instance = left.pop(0)
                answer = store(association, instance)
                yield _Sent(instance.path, answer.status, answer.text)
        why = "not sent: the connection broke"
    except PeerError as error:
        why = f"not sent: {error}"
    for instance in left:
        yield _Sent(instance.path, None, why)


def _line(sent: _Sent) -> str:
    status = "------" if sent.status is None else f"0x{sent.status:04X}"
    return f"{status}  {escape(os.fspath(sent.path))}  {escape(sent.text)}"


def _summary(results: list[_Sent]) -> str:
    stored = sum(sent.stored for sent in results)
    failed = sum(sent.failed for sent in results)
    skipped = sum(sent.skipped for sent in results)
    text = f"{count_of(stored, 'instance')} stored"
    text += f", {failed:,} not stored" if failed else ""
    text += f", {count_of(skipped, 'other file')} passed over" if skipped else ""
    return f"{text}."


def _document(results: list[_Sent]) -> dict[str, Any]:
    return {
        "stored": sum(sent.stored for sent in results),
        "failed": sum(sent.failed for sent in results),
        "skipped": sum(sent.skipped for sent in results),
        "files": [
            {"path": os.fspath(sent.path), "status": sent.status, "text": sent.text, "stored": sent.stored}
            for sent in results
        ],
    }
