"""The processes of a soak: two receivers on one port, two uploaders on one spool. One of each is never killed.

What is never killed is what is looked at: memory that leaks is forgotten by a process that starts anew.
"""

import configparser
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bench.peers import ROOT, BenchError, environment, free_port

STEADY = ("receiver", "uploader")
_START_SECONDS = 30.0
_STOP_SECONDS = 40.0
_READY = {"receiver": " INFO listening ", "uploader": " INFO delivering "}
_SETTINGS: Mapping[str, Mapping[str, object]] = {
    "spool": {"min_free": "1 MB", "rescan_seconds": 5, "settle_seconds": 0.5},
    # Shorter than a fault lasts, so that silent peers are seen off while it does.
    "receiver": {"host": "127.0.0.1", "acse_timeout_seconds": 4, "network_timeout_seconds": 6},
    "uploader": {"backoff_initial_seconds": 0.2, "backoff_max_seconds": 3},
}


class Child:
    """`python -m <module>` on an ini file, that can be killed and started again.

    Args:
        module: "receiver" or "uploader".
        ini: its configuration.
        log: where its standard error goes, of all its lives.
    """

    def __init__(self, module: str, ini: Path, log: Path) -> None:
        self._module, self._ini, self._log = module, ini, log
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            BenchError: it is not.
        """
        begins_at = self._log.stat().st_size if self._log.exists() else 0
        with open(self._log, "ab") as output:
            command = [sys.executable, "-m", self._module, "--config", str(self._ini)]
            self._popen = subprocess.Popen(command, cwd=ROOT, env=environment(nodelay=False), stderr=output)
        deadline = time.monotonic() + _START_SECONDS
        while _READY[self._module] not in self._log.read_text(errors="replace")[begins_at:]:
            if self._popen.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{self._module} did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
            self._popen = None

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough.

        Raises:
            BenchError: it ended otherwise than by the signal.
        """
        if self._popen is None:
            return
        self._popen.send_signal(signal.SIGTERM)
        try:
            status = self._popen.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise BenchError(f"{self._module} did not stop within {_STOP_SECONDS:.0f} s") from None
        if status:
            raise BenchError(f"{self._module} ended with status {status}")

    def figures(self) -> Mapping[str, int]:
        """Resident memory in bytes, descriptors, threads.

        Raises:
            BenchError: it has ended.
        """
        if self._popen is None or self._popen.poll() is not None:
            raise BenchError(f"the {self._module} that nobody kills has ended")
        proc = Path(f"/proc/{self._popen.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return {
            "memory": int(status["VmRSS"].split()[0]) * 1024,
            "descriptors": len(os.listdir(proc / "fd")),
            "threads": int(status["Threads"]),
        }

    def log(self) -> str:
        """What it has said in all its lives."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


class Processes:
    """All of them, on a fresh spool.

    Args:
        folder: for all that they write.
        url: root of the DICOMweb service.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.port = free_port()
        self.spool = folder / "spool"
        ini = folder / "pipeline.ini"
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_dict({name: {key: str(value) for key, value in keys.items()} for name, keys in _SETTINGS.items()})
        parser["spool"]["directory"] = str(self.spool)
        parser["receiver"]["port"] = str(self.port)
        parser["destination"] = {"url": url, "connect_timeout_seconds": "5", "read_timeout_seconds": "10"}
        with open(ini, "w") as file:
            parser.write(file)
        self.steady = {module: Child(module, ini, folder / f"{module}-steady.log") for module in STEADY}
        self.victims = {module: Child(module, ini, folder / f"{module}-victim.log") for module in STEADY}

    def start(self) -> None:
        """Start all four."""
        for child in (*self.steady.values(), *self.victims.values()):
            child.start()

    def stop(self) -> None:
        """Stop all four, receivers first."""
        for module in STEADY:
            for child in (self.victims[module], self.steady[module]):
                child.stop()

    def kill(self) -> None:
        """End what is left of them, whatever happened."""
        for child in (*self.steady.values(), *self.victims.values()):
            with contextlib.suppress(OSError):
                child.kill()

    def waiting(self) -> int:
        """Files in incoming/."""
        with os.scandir(self.spool / "incoming") as entries:
            return sum(1 for entry in entries if not entry.name.startswith("."))

    def tracebacks(self) -> int:
        """How many unforeseen errors their logs have."""
        return sum(child.log().count("Traceback") for child in (*self.steady.values(), *self.victims.values()))
