"""`check`: look for what is wrong, and mend the ledger if asked to."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from common.config import Config
from common.errors import StowgateError
from common.repair import Repaired, repair
from console import checks
from console.checks import Finding, Level
from console.cli import BrokenConfigurationError, Seat, pass_seat
from console.cli.acting import ledger_of, spool_of
from console.cli.printing import as_json, json_option, say, shown, terminal
from console.overview import look
from console.words import count_of

_FILES_OF = ("receiver", "destination", "console")
_ECHO_SECONDS = 5.0
_PROJECT = Path(__file__).resolve().parents[2]
_STYLES = {Level.OK: "green", Level.WARNING: "bold yellow", Level.ERROR: "bold red"}
_REPAIRED = {
    "adopted": "files of incoming/ have a row now",
    "left": "files of incoming/ without a row are left to the uploader",
    "removed": "rows were without their file in incoming/, and say removed now",
    "quarantine_adopted": "files of quarantine/ have a row now",
    "quarantine_removed": "rows were without their file in quarantine/, and say removed now",
}


@click.command("check")
@click.option("--repair", "mend", is_flag=True, help="Bring the ledger together with the files first.")
@click.option("--archive/--no-archive", default=True, help="Ask the archive, by a harmless request.")
@click.option(
    "--timeout", type=click.FloatRange(1, 600), default=45.0, show_default=True, help="Seconds for the archive."
)
@click.option("--thorough", is_flag=True, help="Check the ledger whole, however large it is.")
@json_option
@pass_seat
@click.pass_context
def command(
    ctx: click.Context,
    seat: Seat,
    *,
    mend: bool,
    archive: bool,
    timeout: float,
    thorough: bool,
    as_document: bool,
) -> None:
    """Print the effective configuration, and try what it names: folders, disk, ports, ledger, files, archive.

    Nothing is changed without --repair, which is safe while everything runs. Exit status 1 if something cannot work, 2
    for a broken configuration.
    """
    try:
        config = seat.load(_FILES_OF)
    except BrokenConfigurationError as error:
        if not as_document:
            raise
        problems = [Finding("configuration", Level.ERROR, problem) for problem in error.problems]
        _print_document("", problems, None)
        ctx.exit(BrokenConfigurationError.exit_code)
    repaired: Repaired | None = None
    unmended: list[Finding] = []
    findings: list[Finding] = []
    if not as_document:
        say(shown("The effective configuration", "bold"), Text(config.describe()))
    if mend:
        repaired, unmended = _mend(config)
        if not as_document:
            say(*_repaired(repaired))
    for finding in itertools.chain(unmended, _findings(config, archive=archive, seconds=timeout, thorough=thorough)):
        findings.append(finding)
        if not as_document:
            say(_line(finding))
    if as_document:
        _print_document(config.describe(), findings, repaired)
    ctx.exit(1 if any(finding.level is Level.ERROR for finding in findings) else 0)


def _findings(config: Config, *, archive: bool, seconds: float, thorough: bool) -> Iterator[Finding]:
    with ThreadPoolExecutor(max_workers=1) as asking:
        asked = asking.submit(_archive, config, seconds) if archive else None
        yield from checks.folders(config)
        yield from checks.disk(config)
        yield from _receiver(config)
        yield from checks.page(config)
        yield from _processes(config)
        yield from checks.ledger(config, thorough=thorough)
        yield from checks.files(config)
        if asked is not None:
            yield asked.result()


def _receiver(config: Config) -> Iterator[Finding]:
    """Whether the receiver answers, or could listen."""
    from console import dimse  # noqa: PLC0415 -- takes long to import

    receiver = config.receiver
    where = f"{receiver.host} port {receiver.port}"
    if not checks.is_listening(dimse.address(receiver), receiver.port):
        if why := checks.can_bind(receiver.host, receiver.port):
            yield Finding("port", Level.ERROR, f"The receiver cannot listen on {where}: {why}.", "Look at [receiver].")
        else:
            yield Finding("port", Level.OK, f"Nobody listens on {where}, and it is free for the receiver.")
        return
    try:
        dimse.echo(receiver, _ECHO_SECONDS)
    except dimse.PeerError as error:
        # Who answers with a rejection is a receiver; one that wants another certificate cannot be told from a stranger.
        known = error.answered or receiver.tls_client_ca is not None
        text = f"Something listens on {where}, and the C-ECHO failed: {error}."
        advice = "Look at what listens there, and at the receiver's log."
        yield Finding("port", Level.WARNING if known else Level.ERROR, text, advice)
    else:
        yield Finding("port", Level.OK, f"The receiver answers a C-ECHO on {where}.")


def _processes(config: Config) -> Iterator[Finding]:
    overview = look(config)
    for role in ("receiver", "uploader"):
        living = overview.of_role(role)
        if living:
            pids = ", ".join(str(one.pid) for one in living)
            count = count_of(len(living), role)
            yield Finding(f"{role}s", Level.OK, f"{count} {'is' if len(living) == 1 else 'are'} running (pid {pids}).")
        else:
            yield Finding(f"{role}s", Level.WARNING, f"No {role} is running.", "Start it, if it should run.")
    for trouble in overview.troubles:
        if trouble.key.startswith("silent-") or trouble.key == "paused":
            yield Finding(trouble.key, Level(trouble.severity), trouble.text, trouble.advice)


def _archive(config: Config, seconds: float) -> Finding:
    """Have the uploader ask the archive: with its client, in a process of its own, which takes its time to start."""
    command = [sys.executable, "-P", "-m", "uploader", "--check", "--config", os.fspath(config.path)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH")]))}
    try:
        asked = subprocess.run(  # noqa: S603 -- our own
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
        found = json.loads(asked.stdout)
        return Finding("archive", Level(found["severity"]), str(found["text"]), str(found["advice"]))
    except subprocess.TimeoutExpired:
        text = f"The archive was asked, and nothing was heard for {seconds:g} s."
        return Finding("archive", Level.ERROR, text, "Look at url in [destination], and at the archive.")
    except (OSError, ValueError, KeyError, TypeError):
        text = "expected one JSON object from `python -m uploader --check`, found something else"
        return Finding("archive", Level.ERROR, f"The archive cannot be asked: {text}.", "Run that command by itself.")


def _mend(config: Config) -> tuple[Repaired | None, list[Finding]]:
    try:
        with ledger_of(config) as ledger:
            return repair(spool_of(config), ledger), []
    except OSError as error:
        why = error.strerror or type(error).__name__
    except StowgateError as error:
        why = str(error)
    return None, [Finding("repair", Level.ERROR, f"The ledger cannot be repaired: {why}.", "See docs/operating.md.")]


def _repaired(repaired: Repaired | None) -> Iterator[Text]:
    if repaired is None:
        return
    done = {name: count for name, count in dataclasses.asdict(repaired).items() if count}
    yield Text("Repaired" if done else "Repaired: there was nothing to mend", style="bold")
    for name, count in done.items():
        yield Text(f"  {count:,} {_REPAIRED[name]}")
    yield Text()


def _line(finding: Finding) -> Text:
    width = terminal().is_terminal
    line = Text(f"{finding.level.value:8}", style=_STYLES[finding.level] if width else "")
    line.append_text(shown(finding.text))
    if finding.advice:
        line.append("\n        ").append_text(shown(finding.advice, "dim"))
    return line


def _print_document(settings: str, findings: list[Finding], repaired: Repaired | None) -> None:
    document: dict[str, Any] = {
        "configuration": settings.splitlines(),
        "well": all(finding.level is not Level.ERROR for finding in findings),
        "repaired": dataclasses.asdict(repaired) if repaired else None,
        "findings": [
            {"key": one.key, "level": one.level.value, "text": one.text, "advice": one.advice} for one in findings
        ],
    }
    as_json(document)
