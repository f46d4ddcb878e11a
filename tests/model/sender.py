"""A sender of the model: what it sends on an association that has been accepted, and the answer that it gets."""

import contextlib
import socket
import struct
from collections.abc import Callable

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from common.part10 import part10_header
from receiver.transfer import Context, Store, Transfer

_CONTEXTS = {1: Context(CTImageStorage, ExplicitVRLittleEndian)}
_MAX_PDU = 16 * 1024  # bytes
_RELEASE = bytes.fromhex("05000000000400000000")
_STATUS = struct.pack("<HHI", 0, 0x0900, 2)
_COMMAND, _LAST = 1, 2


def dataset(uid: str, filler: int = 8) -> bytes:
    """A dataset in Explicit VR Little Endian that holds its identity, and twice so many bytes of pixels."""

    def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
        padded = value + (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
        head = struct.pack("<HH", group, number) + vr
        length = struct.pack("<xxI" if vr == b"OW" else "<H", len(padded))
        return head + length + padded

    return (
        element(0x0008, 0x0016, b"UI", CTImageStorage.encode())
        + element(0x0008, 0x0018, b"UI", uid.encode())
        + element(0x0010, 0x0020, b"LO", b"T1")
        + element(0x0020, 0x000D, b"UI", b"1.2.3.4")
        + element(0x7FE0, 0x0010, b"OW", bytes(filler * 2))
    )


def whole_file(uid: str, filler: int = 8) -> bytes:
    """A DICOM file with that dataset."""
    return part10_header(CTImageStorage, uid, ExplicitVRLittleEndian) + dataset(uid, filler)


def _pdu(flags: int, data: bytes) -> bytes:
    return struct.pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, 1, flags) + data


def _command(uid: str) -> bytes:
    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, number, len(value)) + value

    return (
        element(0x0002, CTImageStorage.encode())
        + element(0x0100, b"\x01\0")  # C-STORE-RQ
        + element(0x0110, b"\x01\0")
        + element(0x0800, b"\x01\0")  # with a dataset
        + element(0x1000, uid.encode())
    )


class _Watched(Transfer):
    """A data transfer whose answers are steps: one that died answers nothing."""

    def __init__(self, connection: socket.socket, store: Store, step: Callable[[str], None]) -> None:
        super().__init__(connection, _CONTEXTS, _MAX_PDU, store)
        self._step = step

    def send(self, data: bytes) -> None:
        """Send it, unless that process has died."""
        self._step("acknowledge")
        super().send(data)


class Association:
    """An accepted association, on which one instance is sent.

    Args:
        store: the receiver's, of this association.
        step: told before each answer; raises if the receiver died.
    """

    def __init__(self, store: Store, step: Callable[[str], None]) -> None:
        self._store = store
        self._step = step
        self._answer = b""

    @property
    def acknowledged(self) -> bool:
        """Whether the answer 0x0000 came."""
        at = self._answer.find(_STATUS)
        return at >= 0 and self._answer[at + len(_STATUS) :][:2] == b"\0\0"

    def send(self, uid: str, content: bytes, *, gone: bool = False) -> None:
        """Send it, and have the receiver serve the association to its end, in this thread.

        Args:
            uid: SOP Instance UID of the command.
            content: the dataset.
            gone: the sender is gone in the middle of it.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(_pdu(_COMMAND | _LAST, _command(uid)) + _pdu(0, content[:40]))
            if not gone:
                ours.sendall(_pdu(_LAST, content[40:]) + _RELEASE)
            ours.shutdown(socket.SHUT_WR)
            try:
                _Watched(theirs, self._store, self._step).run()
            finally:
                theirs.close()
                with contextlib.suppress(OSError):
                    self._answer = ours.recv(65536)
