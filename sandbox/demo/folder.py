"""The demo's folder: what lies where, its settings, its free ports, and that only one demo uses it.

    demo/pipeline.ini   written anew at every start, as are Procfile, honcho.log and samples/
    demo/spool/         kept from run to run: what is in incoming/ is owed, and quarantine/ is the person's
    demo/sandbox/       what the sandbox received; kept too
    demo/samples/       the instances, as files to look at and to drop

Nothing is ever deleted. Fatal (DemoError): the folder cannot be written, or another demo is at work in it.
"""

import contextlib
import fcntl
import os
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.spool import Spool

ROOT = Path(__file__).resolve().parents[2]
RECEIVER_AE_TITLE = "STOWGATE"
_RECEIVER_PORT = 11112
_SANDBOX_PORT = 8080
_CONSOLE_PORT = 11180
_PORTS_TRIED = 100
_HOST = "127.0.0.1"

_SETTINGS = """\
# Written by `make demo` at every start; what is changed here is lost. A setting that is not here has its default:
# see pipeline.ini in the folder above. Short waits, so that a person sees something happen.

[spool]
directory = spool
min_free = 100 MB
rescan_seconds = 10

[receiver]
ae_title = {ae_title}
host = {host}
port = {receiver_port}
shutdown_seconds = 3

[destination]
url = {url}

[uploader]
backoff_max_seconds = 5
shutdown_seconds = 3

[console]
port = {console_port}
"""


class DemoError(Exception):
    """The demo cannot go on; its text says why, to a person."""


class Folder:
    """The demo's folder with everything in it, and the ports of this run.

    Args:
        path: where it is or shall be.

    Raises:
        DemoError: no port is free.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.spool = Spool(self.path / "spool")
        self.samples = self.path / "samples"
        self.sandbox = self.path / "sandbox"
        self.settings = self.path / "pipeline.ini"
        self.procfile = self.path / "Procfile"
        self.log = self.path / "honcho.log"
        self._port_claims: list[socket.socket] = []
        self.receiver_port = self._free_port(_RECEIVER_PORT)
        self.sandbox_port = self._free_port(_SANDBOX_PORT)
        self.console_port = self._free_port(_CONSOLE_PORT)

    @property
    def receiver(self) -> tuple[str, int]:
        """Address and port of the receiver."""
        return _HOST, self.receiver_port

    @property
    def origin(self) -> str:
        """URL of the sandbox, without a path."""
        return f"http://{_HOST}:{self.sandbox_port}"

    @property
    def page(self) -> str:
        """URL of the console's page."""
        return f"http://{_HOST}:{self.console_port}/"

    def moved_ports(self) -> list[str]:
        """Say of each usual port that was taken which one stands in for it."""
        chosen = {
            "receiver": (_RECEIVER_PORT, self.receiver_port),
            "sandbox": (_SANDBOX_PORT, self.sandbox_port),
            "console": (_CONSOLE_PORT, self.console_port),
        }
        return [
            f"port {usual} is taken; the {name} listens on {port}"
            for name, (usual, port) in chosen.items()
            if port != usual
        ]

    def left_over(self) -> tuple[int, int]:
        """Count what an earlier run left in incoming/ and in quarantine/."""
        incoming = quarantine = 0
        with contextlib.suppress(OSError):
            incoming = sum(1 for _ in self.spool.scan())
        with contextlib.suppress(OSError):
            quarantine = sum(1 for _ in self.spool.quarantine.names())
        return incoming, quarantine

    @contextlib.contextmanager
    def taken(self) -> Iterator[int]:
        """Make the folder and keep other demos out of it; gives the descriptor that does.

        Whoever inherits the descriptor keeps them out as well: honcho, should it outlive us.

        Raises:
            DemoError: it cannot be made, or another demo is at work in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DemoError(f"expected to write in {self.path}, found: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise DemoError(f"another demo is at work in {self.path}; end it first, or name another folder") from None
        try:
            yield lock
        finally:
            os.close(lock)

    def write_settings(self, rules: Sequence[str]) -> None:
        """Write pipeline.ini, and a Procfile: the project's own with the sandbox added.

        Args:
            rules: misbehaviour of the sandbox from its start.

        Raises:
            DemoError: they cannot be written, or the project's Procfile cannot be read.
        """
        sandbox = ["python", "-m", "sandbox", "--port", str(self.sandbox_port), "--directory", str(self.sandbox)]
        sandbox += [word for rule in rules for word in ("--rule", rule)]
        settings = _SETTINGS.format(
            ae_title=RECEIVER_AE_TITLE,
            host=_HOST,
            receiver_port=self.receiver_port,
            url=f"{self.origin}/dicom-web",
            console_port=self.console_port,
        )
        try:
            self.samples.mkdir(exist_ok=True)
            self.settings.write_text(settings, encoding="utf-8")
            production = (ROOT / "Procfile").read_text(encoding="utf-8").rstrip("\n")
            self.procfile.write_text(f"{production}\nsandbox: exec {shlex.join(sandbox)}\n", encoding="utf-8")
        except OSError as error:
            raise DemoError(f"expected to write in {self.path}, found: {error.strerror}") from error

    def _free_port(self, wanted: int) -> int:
        """Claim `wanted` if nobody has it, else the next one that is free."""
        # Not a port of the kernel's choice: those are taken by anybody's next connection.
        for port in range(wanted, wanted + _PORTS_TRIED):
            with socket.socket() as probe:
                # As a server sets it: connections of an earlier run, not quite over, are no obstacle.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError):
                    probe.bind((_HOST, port))
                    if self._claim_port(port):
                        return port
        raise DemoError(f"expected a free TCP port on {_HOST} from {wanted}, found {_PORTS_TRIED} taken")

    def _claim_port(self, port: int) -> bool:
        """Keep other demos off a port on which nobody listens yet.

        Receivers share a port willingly (SO_REUSEPORT), so two demos that start together would mix their instances.
        The claim is a name in Linux's abstract namespace, which is gone with our process.
        """
        if sys.platform != "linux":
            return True
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0stowgate-demo-{port}")
        except OSError:
            claim.close()
            return False
        self._port_claims.append(claim)
        return True


def shown(path: Path) -> str:
    """A path as a person reads it and a shell takes it: relative to where we are if it is below that."""
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith(os.pardir) else relative)
