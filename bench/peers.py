"""The receivers that are compared: each started in a folder of its own, waited for, measured and always stopped."""

import configparser
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
_START_SECONDS = 30.0
_STOP_SECONDS = 30.0
_MANY_FILES = 50


class BenchError(Exception):
    """A measurement that means nothing: a peer did not start, or did not store what was sent."""


def environment(*, nodelay: bool) -> dict[str, str]:
    """The environment of a sender or a receiver: TCP_NODELAY as DCMTK reads it, none of our settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STOWGATE_", "TCP_NODELAY"))}
    return {**kept, "TCP_NODELAY": "1"} if nodelay else kept


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_program(name: str) -> str | None:
    """The path of a program, and not of a Python script by its name: pynetdicom brings along a storescp of its own."""
    for folder in os.get_exec_path():
        found = shutil.which(name, path=folder)
        if found is not None and Path(found).read_bytes()[:2] != b"#!":
            return found
    return None


class Peer:
    """A receiver on a port of loopback, as a context manager.

    Args:
        folder: for all that it writes; made here.
        nodelay: whether TCP_NODELAY=1 is in its environment.
        max_pdu: the longest PDU that it accepts, bytes.
        processes: how many share the port, where it can.
    """

    program: str | None = None
    """What must be installed; None for what is here anyway."""

    def __init__(self, folder: Path, *, nodelay: bool, max_pdu: int = 131072, processes: int = 1) -> None:
        self.folder = folder
        self.port = free_port()
        self.max_pdu = max_pdu
        self._count = processes
        self._environment = environment(nodelay=nodelay)
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "store").mkdir(parents=True)

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot take part; None if it can."""
        if cls.program is not None and find_program(cls.program) is None:
            return f"{cls.program} is not installed"
        return None

    def __enter__(self) -> Self:
        try:
            for number in range(self._count):
                with open(self.folder / f"{number}.log", "wb") as output:
                    self._processes.append(
                        subprocess.Popen(
                            self.command(),
                            cwd=ROOT,
                            env=self._environment,
                            stdout=output,
                            stderr=subprocess.STDOUT,
                            start_new_session=True,
                        )
                    )
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is None:
            tidy(self.folder)

    def stop(self) -> None:
        """End its processes and their children."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._processes.clear()

    @property
    def pid(self) -> int:
        """Of its first process."""
        return self._processes[0].pid

    def cpu_seconds(self) -> float:
        """Processor time that its first process has had, in user and in system mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log(self) -> str:
        """What its processes have said so far."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def peak_megabytes(self) -> float:
        """The most resident memory that one of its processes has had (VmHWM), in million bytes."""
        return max(_peak_bytes(process.pid) for process in self._processes) / 1e6

    def command(self) -> list[str]:
        """How it is started."""
        raise NotImplementedError

    def stored(self) -> int | None:
        """How many instances it holds; None if it holds none on principle."""
        return sum(1 for _ in _files(self.folder / "store"))

    def is_ready(self) -> bool:
        """Tell whether all its processes accept connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_ready():
            ended = [process.returncode for process in self._processes if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise BenchError(f"{type(self).__name__} did not start: {self.log()[-2000:]}")
            time.sleep(0.02)


def tidy(folder: Path) -> None:
    """Remove a folder of a few large files. Many small ones stay until the run is over.

    ext4 steps over each inode that was deleted within the last minutes before it takes a free one (0.1 µs each, up to
    a whole group of them): a deletion between two measurements would be paid by whichever receiver comes next.
    """
    if sum(1 for _ in _files(folder)) < _MANY_FILES:
        shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> Iterator[str]:
    for _, _, names in os.walk(folder):
        yield from names


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"process {pid} has ended")


class Stowgate(Peer):
    """Our receiver, with its defaults, on a fresh spool."""

    def command(self) -> list[str]:
        """How it is started; two of them share port and spool."""
        parser = configparser.ConfigParser(interpolation=None)
        parser["spool"] = {"directory": str(self.folder / "spool"), "min_free": "1 MB"}
        parser["receiver"] = {"host": "127.0.0.1", "port": str(self.port)}
        with open(self.folder / "pipeline.ini", "w") as file:
            parser.write(file)
        return [sys.executable, "-m", "receiver", "--config", str(self.folder / "pipeline.ini")]

    def is_ready(self) -> bool:
        """Tell whether each process has said that it listens."""
        return all("listening" in path.read_text() for path in self.folder.glob("*.log"))

    def stored(self) -> int:
        """Files in incoming/."""
        return sum(1 for _ in _files(self.folder / "spool" / "incoming"))


class StoreScp(Peer):
    """DCMTK's storescp, a process for each association. Promises nothing: no fsync, no database."""

    program = "storescp"
    options: tuple[str, ...] = ("--fork",)

    def command(self) -> list[str]:
        """How it is started."""
        store = str(self.folder / "store")
        return [
            find_program("storescp") or "",
            "-q",
            *self.options,
            "--max-pdu",
            str(self.max_pdu),
            "-od",
            store,
            str(self.port),
        ]


class StoreScpLongPdu(StoreScp):
    """The same at its best for large instances: the longest PDU that it has, instead of its default."""

    def __init__(self, folder: Path, *, nodelay: bool, max_pdu: int = 131072, processes: int = 1) -> None:
        del max_pdu
        super().__init__(folder, nodelay=nodelay, max_pdu=131072, processes=processes)


class StoreScpAlone(StoreScp):
    """The same in one process, so that its peak memory is still there when the association is over."""

    options = ()


class Orthanc(Peer):
    """Orthanc with its default durability (fsync, SQLite), without plugins."""

    program = "Orthanc"

    def __init__(self, folder: Path, *, nodelay: bool, max_pdu: int = 131072, processes: int = 1) -> None:
        super().__init__(folder, nodelay=nodelay, max_pdu=max_pdu, processes=processes)
        self.http_port = free_port()

    def configuration(self) -> dict[str, Any]:
        """What its configuration file says."""
        return {
            "Name": "Bench",
            "StorageDirectory": str(self.folder / "store"),
            "IndexDirectory": str(self.folder / "store"),
            "HttpPort": self.http_port,
            "DicomPort": self.port,
            "DicomServerEnabled": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "MaximumPduLength": self.max_pdu,
            "Plugins": [],
        }

    def command(self) -> list[str]:
        """How it is started."""
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(self.configuration()))
        return ["Orthanc", str(path)]

    def stored(self) -> int:
        """Instances in its index."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/statistics", timeout=60) as answer:
            return int(json.load(answer)["CountInstances"])


class StockPynetdicom(Peer):
    """A plain pynetdicom Storage SCP."""

    def command(self) -> list[str]:
        """How it is started."""
        return [sys.executable, "-m", "bench.stock_scp", str(self.port), str(self.folder / "store")]


class Discard(Peer):
    """A receiver that throws everything away."""

    def command(self) -> list[str]:
        """How it is started."""
        return [sys.executable, "-m", "bench.discard", str(self.port)]

    def stored(self) -> int | None:
        """Nothing, on principle."""
        return None


class Floor(Discard):
    """A receiver that keeps each instance durably, and does nothing else."""

    def command(self) -> list[str]:
        """How it is started."""
        (self.folder / "staging").mkdir(exist_ok=True)
        return [*super().command(), str(self.folder)]

    def stored(self) -> int:
        """What it has renamed."""
        return sum(1 for _ in _files(self.folder / "store"))

    def is_ready(self) -> bool:
        """Tell whether all its processes accept connections."""
        return self.log().count("listening") == self._count
