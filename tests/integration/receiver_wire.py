"""A DICOM sender made of bytes, for what a well-behaved library does not send (PS3.7, PS3.8)."""

import contextlib
import io
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
CLOSED = 0

COMMAND_LAST, DATASET_LAST = 3, 2
STATUS, OFFENDING_ELEMENT, ERROR_COMMENT = 0x0900, 0x0901, 0x0902

_FRAGMENT = 100_000  # bytes

Context = tuple[int, str, Sequence[str]]
CT_EXPLICIT: Context = (1, CTImageStorage, [ExplicitVRLittleEndian])


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def pdv(context_id: int, flags: int, data: bytes) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context_id, flags) + data


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def associate_request(contexts: Sequence[Context], called: str = "STOWGATE", calling: str = "RAW") -> bytes:
    body = struct.pack(">HH16s16s32x", 1, 0, called.encode().ljust(16), calling.encode().ljust(16))
    body += _item(0x10, b"1.2.840.10008.3.1.1.1")
    for context_id, abstract, transfer in contexts:
        syntaxes = b"".join(_item(0x40, one.encode()) for one in transfer)
        body += _item(0x20, bytes((context_id, 0, 0, 0)) + _item(0x30, abstract.encode()) + syntaxes)
    return pdu(ASSOCIATE_RQ, body + _item(0x50, _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"1.2.3.4")))


def _element(number: int, value: bytes, padding: bytes = b"\0") -> bytes:
    value += padding * (len(value) % 2)
    return struct.pack("<HHL", 0, number, len(value)) + value


def store_command(
    sop_class: str | None, sop_instance: str | None, *, number: int = 1, has_dataset: bool = True, field: int = 1
) -> bytes:
    """A C-STORE-RQ command set; a UID that is None is left out."""
    body = _element(0x0002, sop_class.encode("latin-1")) if sop_class is not None else b""
    body += _element(0x0100, struct.pack("<H", field)) + _element(0x0110, struct.pack("<H", number))
    body += _element(0x0700, b"\0\0") + _element(0x0800, b"\1\0" if has_dataset else b"\1\1")
    body += _element(0x1000, sop_instance.encode("latin-1")) if sop_instance is not None else b""
    return _element(0, struct.pack("<L", len(body))) + body


def encoded(dataset: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    """A dataset without file meta."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(
        buffer,
        dataset,
        implicit_vr=transfer_syntax == ImplicitVRLittleEndian,
        little_endian=transfer_syntax != ExplicitVRBigEndian,
        enforce_file_format=False,
    )
    return buffer.getvalue()


def identity(sop_class: str, sop_instance: str, **values: object) -> Dataset:
    """A dataset that holds little more than its identity."""
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = sop_instance
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


class RawSender:
    """A connection and what is said on it."""

    def __init__(self, port: int, timeout: float = 10, *, host: str = "127.0.0.1") -> None:
        self.socket: socket.socket = socket.create_connection((host, port), timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close with a TCP reset, as a peer that crashes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def shake_hands(self, context: ssl.SSLContext) -> None:
        """Turn the connection into a TLS one."""
        self.socket = context.wrap_socket(self.socket, server_hostname="127.0.0.1")

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """The next PDU: its type and its body; CLOSED when there is none any more."""
        head = self._read(6)
        if len(head) < 6:
            return CLOSED, b""
        kind, _, length = struct.unpack(">BBL", head)
        return kind, self._read(length)

    def _read(self, length: int) -> bytes:
        data = b""
        with contextlib.suppress(ConnectionError):
            while len(data) < length and (piece := self.socket.recv(length - len(data))):
                data += piece
        return data

    def associate(self, *contexts: Context, called: str = "STOWGATE", calling: str = "RAW") -> dict[int, str | int]:
        """Open an association; for each context its transfer syntax, or the reason why it is not accepted."""
        self.send(associate_request(contexts or (CT_EXPLICIT,), called, calling))
        kind, body = self.receive()
        assert kind == ASSOCIATE_AC, f"expected A-ASSOCIATE-AC, found PDU type {kind}: {body!r}"
        return dict(_results(body))

    def store(self, sop_class: str | None, sop_instance: str | None, dataset: bytes | None, context_id: int = 1) -> int:
        """C-STORE; the status."""
        return int.from_bytes(self.store_response(sop_class, sop_instance, dataset, context_id)[STATUS], "little")

    def store_response(
        self, sop_class: str | None, sop_instance: str | None, dataset: bytes | None, context_id: int = 1
    ) -> dict[int, bytes]:
        """C-STORE; the elements of the response's command set."""
        command = store_command(sop_class, sop_instance, has_dataset=dataset is not None)
        data = pdu(DATA, pdv(context_id, COMMAND_LAST, command))
        for at in range(0, max(1, len(dataset)), _FRAGMENT) if dataset is not None else ():
            fragment = dataset[at : at + _FRAGMENT]
            flags = DATASET_LAST if at + _FRAGMENT >= len(dataset) else 0
            data += pdu(DATA, pdv(context_id, flags, fragment))
        self.send(data)
        return self.response()

    def response(self) -> dict[int, bytes]:
        """The elements of the next command set that comes."""
        kind, body = self.receive()
        assert kind == DATA, f"expected P-DATA-TF, found PDU type {kind}"
        elements, at = {}, 6
        while at < len(body):
            _, number, length = struct.unpack_from("<HHL", body, at)
            elements[number] = body[at + 8 : at + 8 + length]
            at += 8 + length
        return elements

    def release(self) -> int:
        """A-RELEASE; the type of the PDU that answers."""
        self.send(pdu(RELEASE_RQ, bytes(4)))
        return self.receive()[0]


def _results(accept: bytes) -> Iterator[tuple[int, str | int]]:
    at = 68
    while at < len(accept):
        kind, _, length = struct.unpack_from(">BBH", accept, at)
        body = accept[at + 4 : at + 4 + length]
        if kind == 0x21:
            yield body[0], body[8:].decode() if body[2] == 0 else body[2]
        at += 4 + length


def rejection(port: int, *, called: str = "STOWGATE", calling: str = "RAW") -> tuple[int, int, int] | None:
    """How an association is rejected; None if it is accepted."""
    with RawSender(port) as sender:
        sender.send(associate_request([CT_EXPLICIT], called, calling))
        kind, body = sender.receive()
        if kind == ASSOCIATE_AC:
            assert sender.release() == RELEASE_RP
            return None
        assert kind == ASSOCIATE_RJ, f"expected A-ASSOCIATE-RJ, found PDU type {kind}"
        return body[1], body[2], body[3]


def serves(port: int, seconds: float = 5) -> bool:
    """Tell whether somebody new is served within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, AssertionError), RawSender(port, 2) as sender:
            sender.associate()
            return sender.release() == RELEASE_RP
        time.sleep(0.05)
    return False
