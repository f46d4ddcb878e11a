"""The real processes of a pipeline, in a folder of their own: started, waited for, stopped, killed."""

import configparser
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common.ledger import Ledger
from common.records import Row, State
from common.spool import Spool
from support.canaries import quotations
from support.programs import free_port

ROOT = Path(__file__).resolve().parents[2]


def wait_for(condition: Callable[[], object], seconds: float = 30, what: str = "") -> None:
    """Wait until a condition holds; it fails the test if it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.05)


class Process:
    """`python -m <module> --config <ini>` with its standard error in a file; `through` a command that starts it."""

    def __init__(
        self, module: str, ini: Path, log: Path, environ: dict[str, str] | None = None, through: Sequence[str] = ()
    ) -> None:
        self.module = module
        self.log_path = log
        command = [*through, module] if through else [sys.executable, "-m", module]
        with open(log, "ab") as output:
            self.popen = subprocess.Popen(
                [*command, "--config", str(ini)],
                cwd=ROOT,
                stderr=output,
                env={**os.environ, **(environ or {})},
            )

    def log(self) -> str:
        """What it has said so far, and those before it with the same file."""
        return self.log_path.read_text()

    def wait_for_line(self, text: str, count: int = 1) -> None:
        """Wait until its log contains a text so many times."""
        wait_for(
            lambda: self.log().count(text) >= count or self.popen.poll() is not None,
            what=f"{text!r} from {self.module}",
        )
        assert self.log().count(text) >= count, f"{self.module} ended:\n{self.log()}"

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM; the exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(seconds)

    def kill(self) -> None:
        """SIGKILL."""
        self.popen.kill()
        self.popen.wait(10)


class Pipeline:
    """A spool, a pipeline.ini and the processes on it.

    Args:
        folder: for all of it.
        url: of the destination.
        settings: `section.key` to value, beside the ones that tests need to be quick.
    """

    def __init__(self, folder: Path, url: str, **settings: dict[str, object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.ini = folder / "pipeline.ini"
        self.spool = Spool(folder / "spool")
        self.processes: list[Process] = []
        self._settings: dict[str, dict[str, object]] = {
            "spool": {"settle_seconds": 0.5, "rescan_seconds": 2, "min_free": "1 MB"},
            "receiver": {"host": "127.0.0.1", "port": self.port, "shutdown_seconds": 5},
            "destination": {"url": url, "connect_timeout_seconds": 5},
            "console": {"port": free_port()},
            "uploader": {"backoff_initial_seconds": 0.2, "backoff_max_seconds": 2, "shutdown_seconds": 5},
        }
        self.configure(**settings)

    def configure(self, **settings: dict[str, object]) -> None:
        """Change settings, for processes that are started from now on."""
        for section, values in settings.items():
            self._settings.setdefault(section, {}).update(values)
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_dict({name: {key: str(v) for key, v in keys.items()} for name, keys in self._settings.items()})
        with open(self.ini, "w") as file:
            parser.write(file)

    def start(self, module: str, **environ: str) -> Process:
        """Start a process and wait until it is ready."""
        process = self.launch(module, **environ)
        process.wait_for_line({"receiver": "listening", "uploader": "delivering"}[module])
        return process

    def launch(self, module: str, through: Sequence[str] = (), **environ: str) -> Process:
        """Start a process and wait for nothing."""
        number = sum(1 for process in self.processes if process.module == module)
        process = Process(module, self.ini, self.folder / f"{module}-{number}.log", environ, through)
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """Stop what still runs."""
        for process in self.processes:
            if process.popen.poll() is None:
                try:
                    process.stop()
                except subprocess.TimeoutExpired:
                    process.kill()
        if self._settings.get("logging", {}).get("patient_identifiers", "no") == "no":
            assert quotations(self.folder) == []

    def logs(self) -> str:
        """All that all processes have said."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    # What lies where

    def incoming(self) -> list[Path]:
        """The files in incoming/."""
        return [path for path in self.spool.incoming.rglob("*") if not path.is_dir() or path.is_symlink()]

    def half_received(self) -> list[Path]:
        """The files in staging/ that hold something: a receiver keeps empty ones ready."""
        return [path for path in self.spool.staging.path.iterdir() if path.stat().st_size]

    def quarantined(self) -> set[str]:
        """The names of what is in quarantine/, without the sidecars."""
        return set(self.spool.quarantine.names())

    def wait_empty(self, seconds: float = 60) -> None:
        """Wait until incoming/ holds no file."""
        wait_for(lambda: not self.incoming(), seconds, f"incoming/ empty in {self.folder}")

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger, opened for a look."""
        ledger = Ledger(self.spool.ledger)
        try:
            yield ledger
        finally:
            ledger.close()

    def rows(self) -> list[Row]:
        """All rows, newest first."""
        with self.ledger() as ledger:
            return ledger.latest(1_000_000)

    def counts(self) -> dict[State, int]:
        """How many rows are in each state."""
        with self.ledger() as ledger:
            return ledger.counts()
