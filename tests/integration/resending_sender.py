"""A sender as a modality is one: it keeps a list, ticks off what was acknowledged, and sends the rest again."""

import hashlib
import itertools
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from receiver_peer import CT, EXPLICIT, Aborted, Closed, Peer, Rejected, encoded, instance

from common.part10 import part10_header

_WAIT_SECONDS = 0.05  # before it connects again
_SUCCESS = 0x0000
_PLACE = "1.2.826.0.1.3680043.10.999.000000000000"
_numbers = itertools.count(time.time_ns() // 1_000_000 % 10**8 * 10_000)  # after those of a run before


@dataclass(frozen=True)
class ToSend:
    """An instance: its SOP Instance UID and its dataset in Explicit VR Little Endian."""

    uid: str
    dataset: bytes

    @property
    def digest(self) -> str:
        """The SHA-256 of the dataset."""
        return hashlib.sha256(self.dataset).hexdigest()


def instances(count: int | None, pixels: int = 256) -> Iterator[ToSend]:
    """So many instances, or without end, each with a UID of its own."""
    template = encoded(instance(pixels=pixels, SOPInstanceUID=_PLACE))
    for number in itertools.islice(_numbers, count):
        uid = f"{_PLACE[:-12]}{number:012d}"
        yield ToSend(uid, template.replace(_PLACE.encode(), uid.encode()))


class ResendingSender:
    """Sends a list of instances until each is acknowledged, whatever becomes of its connections.

    Args:
        port: of the receivers.
        to_send: the list; it may be endless, and end when somebody else says so.
        calling: its AE title.

    Attributes:
        acknowledged: SOP Instance UID to SHA-256 of the dataset, of each that was answered 0x0000.
        sent: how many C-STORE requests it began.
        refused: how many answers had another status.
    """

    def __init__(self, port: int, to_send: Iterable[ToSend], calling: str = "PEER") -> None:
        self._port = port
        self._to_send = to_send
        self._calling = calling
        self._peer: Peer | None = None
        self.acknowledged: dict[str, str] = {}
        self.sent = 0
        self.refused = 0

    def run(self) -> None:
        """Send until all is acknowledged."""
        for one in self._to_send:
            while not self.try_once(one):
                time.sleep(_WAIT_SECONDS)
        self._hang_up()

    def try_once(self, one: ToSend) -> bool:
        """Send one instance, over a new association if there is none; True if it was acknowledged."""
        try:
            if self._peer is None:
                self._peer = Peer(self._port)
                self._peer.associate(calling=self._calling)
            self.sent += 1
            answer = self._peer.store(one.dataset, sop_class_uid=CT, sop_instance_uid=one.uid, fragment=16000)
        except (OSError, Closed, Aborted, Rejected):
            self._hang_up()
            return False
        if answer.Status != _SUCCESS:
            self.refused += 1
            return False
        self.acknowledged[one.uid] = one.digest
        return True

    def _hang_up(self) -> None:
        if self._peer is not None:
            self._peer.socket.close()
            self._peer = None


class DcmtkSender(ResendingSender):
    """The same with DCMTK's dcmsend, which is started for each instance.

    Args:
        folder: for the files that it sends.
    """

    def __init__(self, port: int, to_send: Iterable[ToSend], folder: Path, calling: str = "DCMTK") -> None:
        super().__init__(port, to_send, calling)
        self._folder = folder
        folder.mkdir(parents=True)

    def try_once(self, one: ToSend) -> bool:
        """Send one instance; acknowledged is what dcmsend says was answered with success."""
        path = self._folder / "instance.dcm"
        path.write_bytes(part10_header(CT, one.uid, EXPLICIT) + one.dataset)
        self.sent += 1
        address = ("-aet", self._calling, "-aec", "STOWGATE", "127.0.0.1", str(self._port))
        # Its exit status does not tell a refusal from a success; what it says does.
        dcmsend = subprocess.run(["dcmsend", "-v", *address, path], capture_output=True, check=False, timeout=60)
        if b"Received C-STORE Response (Success)" not in dcmsend.stderr + dcmsend.stdout:
            return False
        self.acknowledged[one.uid] = one.digest
        return True
