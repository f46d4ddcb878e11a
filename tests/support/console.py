"""The command line of the console as a person runs it, and a quarantine to act on."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from common.instance import Instance
from common.ledger import Ledger
from common.records import Cause, Outcome, Receipt, Sender
from common.spool import Spool
from console.cli import main
from support.pipeline import ROOT, Pipeline


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)


def _arguments(pipeline: Pipeline | Path, arguments: tuple[str | Path, ...]) -> list[str]:
    ini = pipeline.ini if isinstance(pipeline, Pipeline) else pipeline
    return ["--config", os.fspath(ini), *map(os.fspath, arguments)]


def run(pipeline: Pipeline | Path, *arguments: str | Path, answer: str = "") -> Ran:
    """`python -m console --config … <arguments>`, in this process, with `answer` as its standard input."""
    ended = CliRunner().invoke(main, _arguments(pipeline, arguments), input=answer, prog_name="python -m console")
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return Ran(ended.exit_code, ended.stdout, ended.stderr)


def run_process(pipeline: Pipeline | Path, *arguments: str | Path, **environ: str) -> Ran:
    """The same in a process of its own, as a person starts it."""
    command = [sys.executable, "-m", "console", *_arguments(pipeline, arguments)]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
        env=os.environ | environ,
    )
    return Ran(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def quarantine(
    spool: Spool,
    name: str,
    content: bytes = b"bytes",
    *,
    cause: Cause = Cause.REFUSED,
    sender: str = "CT1",
    reason: Mapping[str, object] | None = None,
    **values: str,
) -> None:
    """Put a file into quarantine/ as receiver and uploader do it, with its row and its history."""
    spool.prepare()
    known = {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.2", "transfer_syntax_uid": "1.2.840.10008.1.2.1"} | values
    known.setdefault("sop_instance_uid", f"1.2.3.{len(os.listdir(spool.quarantine.path)) + 1}")
    (spool.incoming / name).write_bytes(content)
    ledger = Ledger(spool.ledger)
    try:
        ledger.received(Receipt(name, Instance(**known), Sender(sender, "STOWGATE", "192.0.2.7"), len(content)))
        detail = "HTTP 409, FailureReason A900"
        with spool.quarantine.reserve(name) as slot:
            slot.write_reason({"cause": cause.value, "detail": detail, **(reason or {})})
            ledger.quarantined(Outcome(name, 409, cause, detail), slot.name, attempts=1)
            slot.move()
    finally:
        ledger.close()
