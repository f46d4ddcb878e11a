"""A gateway for tests that kill it: receivers, uploaders and a sandbox on one spool, and what must hold after all."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from resending_sender import ResendingSender, ToSend

from sandbox.running import RunningSandbox, running_sandbox
from support.agreement import disagreements, lost
from support.pipeline import ROOT, Pipeline, Process

THROUGH = (sys.executable, "-m", "support.crashing")
QUICK = {"spool": {"settle_seconds": 0.1, "rescan_seconds": 0.5, "min_free": "1 MB"}}


def long_but_for(brief: Collection[str], points: Iterable[str]) -> list[Any]:
    """The points as parameters: those that are not brief run only when they are asked for."""
    points = list(points)
    assert set(brief) <= set(points)
    return [point if point in brief else pytest.param(point, marks=pytest.mark.long) for point in points]


class Gateway:
    """A pipeline whose processes can be killed at named points (`support.crash_points`).

    Attributes:
        pipeline: spool and settings.
        sandbox: the archive.
        archive: its folder.
        acknowledged: SOP Instance UID to SHA-256 of the dataset of all that any sender was answered 0x0000 for.
        point: the file that arms a point.
        whole: all has settled since a test began with it.
    """

    def __init__(self, folder: Path, sandbox: RunningSandbox, archive: Path) -> None:
        self.sandbox = sandbox
        self.archive = archive
        self.pipeline = Pipeline(
            folder,
            sandbox.url,
            **QUICK,
            uploader={"backoff_initial_seconds": 0.05, "backoff_max_seconds": 0.2, "shutdown_seconds": 5},
        )
        self.acknowledged: dict[str, str] = {}
        self.point = folder / "point"
        self.whole = False

    @property
    def spool(self) -> Path:
        """The spool directory."""
        return self.pipeline.spool.directory

    def arm(self, point: str) -> None:
        """Let the next process that comes to this point die there."""
        scratch = self.point.with_suffix(".new")
        scratch.write_text(point)
        scratch.rename(self.point)

    def launch(self, module: str) -> Process:
        """Start a process with points in it, and wait for nothing."""
        path = os.pathsep.join((str(ROOT / "tests"), str(ROOT)))
        return self.pipeline.launch(module, (*THROUGH, str(self.point)), PYTHONPATH=path)

    def start(self, module: str) -> Process:
        """Start a process with points in it, and wait until it is ready."""
        process = self.launch(module)
        process.wait_for_line({"receiver": "listening", "uploader": "delivering"}[module])
        return process

    def died(self, process: Process) -> bool:
        """Wait until a process is dead; True if it died of the armed point."""
        process.popen.wait(60)
        return process.popen.returncode == -signal.SIGKILL and not self.point.exists()

    def send(self, to_send: Iterable[ToSend]) -> ResendingSender:
        """Send until all is acknowledged."""
        sender = ResendingSender(self.pipeline.port, to_send)
        sender.run()
        self.acknowledged.update(sender.acknowledged)
        return sender

    def try_once(self, one: ToSend) -> bool:
        """Send one instance once; True if it was acknowledged."""
        sender = ResendingSender(self.pipeline.port, [one])
        acknowledged = sender.try_once(one)
        self.acknowledged.update(sender.acknowledged)
        return acknowledged

    def state_of(self, name: str) -> str:
        """What the ledger says of a file: its state, or nothing."""
        with self.pipeline.ledger() as ledger:
            row = ledger.rows([name]).get(name)
        return str(row.state) if row is not None else ""

    @contextlib.contextmanager
    def held(self, process: Process) -> Iterator[None]:
        """Stop a process for the length of the block, so that what lies there stays as it is."""
        process.popen.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.popen.send_signal(signal.SIGCONT)

    def nothing_is_lost(self) -> None:
        """Whatever was acknowledged is at the archive, in incoming/ or in quarantine/, byte for byte."""
        missing = lost(self.acknowledged, self.pipeline.spool, self.archive)
        assert not missing, missing

    def settles(self, seconds: float = 30) -> None:
        """All is delivered or quarantined, nothing is left over anywhere, and the ledger says the same."""
        deadline = time.monotonic() + seconds
        self.nothing_is_lost()
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, left
        self.nothing_is_lost()
        # Each of them has come to its end: it is at the archive, or its file is in quarantine/.
        waiting = [uid for uid in self.acknowledged if not (self.archive / f"{uid}.dcm").exists()]
        assert len(waiting) <= len(self.pipeline.quarantined()), waiting
        self.whole = True

    def _left(self) -> list[str]:
        incoming = [f"{path.name} is left in incoming/" for path in self.pipeline.incoming()]
        return incoming or disagreements(self.pipeline.spool)


class Gateways:
    """Gives a gateway to each test: the one that the test before left whole, or a new one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = 0
        self._current: tuple[Gateway, contextlib.ExitStack] | None = None

    @contextlib.contextmanager
    def one(self) -> Iterator[Gateway]:
        """A gateway; if it is not whole at the end, since the test failed, it is thrown away."""
        if self._current is None:
            self._current = self._make()
        gateway, stack = self._current
        self._current = None
        gateway.whole = False
        try:
            yield gateway
        finally:
            if gateway.whole:
                self._current = gateway, stack
            else:
                stack.close()

    def close(self) -> None:
        """Stop what runs."""
        if self._current is not None:
            self._current[1].close()
            self._current = None

    def _make(self) -> tuple[Gateway, contextlib.ExitStack]:
        self._made += 1
        folder = self._folder / str(self._made)
        archive = folder / "archive"
        stack = contextlib.ExitStack()
        sandbox = stack.enter_context(running_sandbox(archive, "--quiet"))
        gateway = Gateway(folder / "gateway", sandbox, archive)
        stack.callback(gateway.pipeline.stop)
        return gateway, stack
