"""What instances are delivered to: the null archive, a long line before it, and an Orthanc with its DICOMweb plugin."""

import json
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from bench.null_archive import Stored
from bench.peers import BenchError, Orthanc, Peer, find_program

DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
LINK_MEGABITS = 100.0
LINK_ROUND_TRIP_SECONDS = 0.08
_CHECK_BYTES = 12_500_000
_CHECK_BLOCK = 65536


class NullArchive(Peer):
    """The STOW-RS origin server that keeps nothing.

    Args:
        folder: for its log.
        instance_bytes: the size of every part that it will get; 0 if it is to find out.
        status: what it answers to everything; 0: it accepts.
    """

    def __init__(self, folder: Path, *, instance_bytes: int = 0, status: int = 0) -> None:
        super().__init__(folder, nodelay=True)
        self._options = ("--instance-bytes", str(instance_bytes), "--status", str(status))

    @property
    def url(self) -> str:
        """The root of its DICOMweb service."""
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def command(self) -> list[str]:
        """How it is started."""
        return [sys.executable, "-m", "bench.null_archive", str(self.port), *self._options]

    def stored(self) -> int:
        """How many different instances came."""
        return len({uid for request in self.received() for uid in request.uids})

    def received(self) -> list[Stored]:
        """All requests so far, in the order in which they ended."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/received", timeout=60) as answer:
            found = [Stored(**{**one, "uids": tuple(one["uids"])}) for one in json.load(answer)]
        return sorted(found, key=lambda one: one.ended)

    def check(self, count: int) -> list[Stored]:
        """The requests.

        Raises:
            BenchError: not every instance came, or not each once.
        """
        requests = self.received()
        uids = [uid for request in requests for uid in request.uids]
        if not len(uids) == len(set(uids)) == count:
            raise BenchError(f"expected {count} instances, each once; found {len(uids)}, {len(set(uids))} different")
        return requests


class Link(Peer):
    """The long line, as a proxy before another server on loopback.

    Args:
        folder: for its log.
        target_port: where it leads.
    """

    def __init__(self, folder: Path, target_port: int) -> None:
        super().__init__(folder, nodelay=True)
        self._target_port = target_port

    @property
    def url(self) -> str:
        """The root of the DICOMweb service behind it."""
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def command(self) -> list[str]:
        """How it is started."""
        line = ("--megabits", str(LINK_MEGABITS), "--round-trip-ms", str(LINK_ROUND_TRIP_SECONDS * 1000))
        return [sys.executable, "-m", "bench.link", str(self.port), str(self._target_port), *line]

    def stored(self) -> None:
        """Nothing."""


def link_rate(folder: Path) -> float:
    """What the line itself carries, in million bytes a second: the reference, and a check of the proxy.

    Raises:
        BenchError: its round trip or its bandwidth is not what it is said to be.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_echo_marks, args=(server,), daemon=True).start()
        with (
            Link(folder, server.getsockname()[1]) as link,
            socket.create_connection(("127.0.0.1", link.port), 60) as connection,
        ):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            round_trips = [_mark(connection) for _ in range(6)][1:]  # the first has the handshake in it
            begun = time.perf_counter()
            for _ in range(_CHECK_BYTES // _CHECK_BLOCK):
                connection.sendall(bytes(_CHECK_BLOCK))
            _mark(connection)
            seconds = time.perf_counter() - begun - min(round_trips)
    rate = _CHECK_BYTES // _CHECK_BLOCK * _CHECK_BLOCK / seconds / 1e6
    nominal = LINK_MEGABITS / 8
    if not 0.97 * nominal <= rate <= 1.03 * nominal:
        raise BenchError(f"expected a line of {nominal} MB/s, found {rate:.2f}")
    if not LINK_ROUND_TRIP_SECONDS <= min(round_trips) <= LINK_ROUND_TRIP_SECONDS + 0.01:
        raise BenchError(f"expected a round trip of {LINK_ROUND_TRIP_SECONDS} s, found {min(round_trips):.4f}")
    return rate


def _mark(connection: socket.socket) -> float:
    """Send a mark and wait until it comes back; the seconds."""
    begun = time.perf_counter()
    connection.sendall(b"\1")
    if connection.recv(1) != b"\1":
        raise BenchError("the line is broken")
    return time.perf_counter() - begun


def _echo_marks(server: socket.socket) -> None:
    """Swallow zero bytes and send every other byte back, of one connection after another."""
    buffer = bytearray(1 << 18)
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while got := connection.recv_into(buffer):
                if buffer[got - 1]:
                    connection.sendall(b"\1")


class DicomWebOrthanc(Orthanc):
    """An Orthanc with its DICOMweb plugin, otherwise as it is by default."""

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot take part; None if it can."""
        return super().missing() or (None if DICOMWEB_PLUGIN.exists() else "orthanc-dicomweb is not installed")

    @property
    def url(self) -> str:
        """The root of its DICOMweb service."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def configuration(self) -> dict[str, Any]:
        """What its configuration file says."""
        return {
            **super().configuration(),
            "Plugins": [str(DICOMWEB_PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }

    def is_ready(self) -> bool:
        """Tell whether it accepts associations and requests."""
        try:
            self.stored()
        except OSError:
            return False
        return super().is_ready()


class ForwardingOrthanc(DicomWebOrthanc):
    """An Orthanc that forwards by itself to another, by a Lua script.

    Args:
        folder: for all that it writes.
        destination_url: root of the DICOMweb service of the other.
        max_pdu: the longest PDU that it accepts, bytes.
    """

    script = ""

    def __init__(self, folder: Path, destination_url: str, *, max_pdu: int) -> None:
        super().__init__(folder, nodelay=True, max_pdu=max_pdu)
        self._destination_url = destination_url

    def configuration(self) -> dict[str, Any]:
        """What its configuration file says."""
        path = self.folder / "forward.lua"
        path.write_text(self.script)
        configuration = super().configuration()
        configuration["DicomWeb"]["Servers"] = {"destination": [f"{self._destination_url}/"]}
        peers = {"destination": [self._destination_url.removesuffix("dicom-web")]}
        return {**configuration, "LuaScripts": [str(path)], "StableAge": 1, "OrthancPeers": peers}


_STOW = "RestApiPost('/dicom-web/servers/destination/stow', '{\"Resources\":[\"' .. id .. '\"],\"Synchronous\":false}')"


class OrthancPerInstance(ForwardingOrthanc):
    """It has its DICOMweb plugin store each instance when it is there."""

    script = f"function OnStoredInstance(id, tags, metadata, origin)\n  {_STOW}\nend\n"


class OrthancToPeer(ForwardingOrthanc):
    """It sends each instance by the protocol that only Orthancs speak among themselves, without DICOMweb."""

    script = "function OnStoredInstance(id, tags, metadata, origin)\n  SendToPeer(id, 'destination')\nend\n"


class OrthancStableStudies(ForwardingOrthanc):
    """It has its DICOMweb plugin store a study when nothing came for a second, the shortest time that it knows."""

    script = f"function OnStableStudy(id, tags, metadata)\n  {_STOW}\nend\n"


class StoreScpExec(Peer):
    """DCMTK's storescp, which starts a script for each instance that has curl post it.

    Args:
        folder: for all that it writes.
        destination_url: root of the DICOMweb service that it forwards to.
        max_pdu: the longest PDU that it accepts, bytes.
    """

    program = "storescp"

    def __init__(self, folder: Path, destination_url: str, *, max_pdu: int) -> None:
        super().__init__(folder, nodelay=True, max_pdu=max_pdu)
        self._destination_url = destination_url

    def command(self) -> list[str]:
        """How it is started."""
        script = self.folder / "forward.sh"
        script.write_text(
            "#!/bin/sh\n"
            "{\n"
            "printf -- '--b\\r\\nContent-Type: application/dicom\\r\\n\\r\\n'; cat \"$1\"; printf '\\r\\n--b--'\n"
            "} |\n"
            " curl -sS -f -o /dev/null -H 'Expect:'"
            " -H 'Content-Type: multipart/related; type=\"application/dicom\"; boundary=b'"
            f' --data-binary @- {self._destination_url}/studies && rm "$1"\n'
        )
        script.chmod(0o700)
        store = str(self.folder / "store")
        execute = f"{script} #p/#f"
        return [
            find_program("storescp") or "",
            "-q",
            "--max-pdu",
            str(self.max_pdu),
            "-od",
            store,
            "-xcr",
            execute,
            str(self.port),
        ]
