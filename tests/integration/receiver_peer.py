"""A DICOM sender that says what a test wants, sense or nonsense: PDUs and command sets by hand (PS3.7, PS3.8)."""

import contextlib
import io
import socket
import ssl
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from support import canaries

VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT = str(ExplicitVRLittleEndian)
CT = str(CTImageStorage)

ASSOCIATE_AC, ASSOCIATE_RJ, DATA, RELEASE_RP, ABORT = 2, 3, 4, 6, 7
_NO_DATASET = 0x0101


class Rejected(Exception):  # noqa: N818 - what a test may expect
    """A-ASSOCIATE-RJ: (result, source, reason)."""


class Aborted(Exception):  # noqa: N818 - what a test may expect
    """A-ABORT: (source, reason)."""


class Closed(Exception):  # noqa: N818 - what a test may expect
    """The connection ended without a word."""


@dataclass
class Accepted:
    """A-ASSOCIATE-AC: result and transfer syntax of each context, and the roles (SCU, SCP) of each SOP class."""

    contexts: dict[int, tuple[int, str]] = field(default_factory=dict)
    roles: dict[str, tuple[int, int]] = field(default_factory=dict)
    max_pdu: int = 0


class Peer:
    """One connection to a receiver."""

    def __init__(self, port: int, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection((host, port), timeout=20)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.accepted = Accepted()
        self.message_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    # Association

    def associate(
        self,
        contexts: Mapping[int, tuple[str, Iterable[str]]] | None = None,
        *,
        called: str = "STOWGATE",
        calling: str = "PEER",
        roles: Mapping[str, tuple[int, int]] | None = None,
    ) -> Accepted:
        """Request an association; `contexts` is id: (abstract syntax, transfer syntaxes)."""
        self.socket.sendall(request(contexts or {1: (CT, [EXPLICIT])}, called=called, calling=calling, roles=roles))
        kind, body = self.pdu()
        assert kind == ASSOCIATE_AC, kind
        self.accepted = _read_accept(body)
        return self.accepted

    def release(self) -> None:
        """Release the association, and see it confirmed."""
        self.socket.sendall(struct.pack(">BBL4x", 5, 0, 4))
        kind, _ = self.pdu()
        assert kind == RELEASE_RP, kind

    def pdu(self) -> tuple[int, bytes]:
        """The next PDU: its type and what follows its header."""
        head = self._read(6)
        kind, length = struct.unpack(">BxL", head)
        body = self._read(length)
        if kind == ASSOCIATE_RJ:
            raise Rejected(*struct.unpack(">xBBB", body))
        if kind == ABORT:
            raise Aborted(*struct.unpack(">xxBB", body))
        return kind, body

    def _read(self, length: int) -> bytes:
        received = b""
        while len(received) < length:
            try:
                more = self.socket.recv(length - len(received))
            except ConnectionError:
                more = b""
            if not more:
                raise Closed
            received += more
        return received

    # C-STORE

    def store(self, dataset: bytes | Dataset, **options: object) -> Dataset:
        """Send a C-STORE-RQ and return the command set of its answer."""
        for part in self.store_pdus(dataset, **options):  # type: ignore[arg-type]
            self.socket.sendall(part)
        return self.answer()

    def store_pdus(
        self,
        dataset: bytes | Dataset | None,
        *,
        context_id: int = 1,
        sop_class_uid: str | None = None,
        sop_instance_uid: str | None = None,
        fragment: int = 16000,
    ) -> Iterator[bytes]:
        """The PDUs of a C-STORE-RQ. UIDs that are not given are those of the dataset; "" leaves one out."""
        known = dataset if isinstance(dataset, Dataset) else Dataset()
        if isinstance(dataset, Dataset):
            dataset = encoded(dataset)
        self.message_id += 1
        elements = [
            (0x0002, (sop_class_uid if sop_class_uid is not None else str(known.get("SOPClassUID", CT))).encode()),
            (0x0100, struct.pack("<H", 0x0001)),
            (0x0110, struct.pack("<H", self.message_id)),
            (0x0700, struct.pack("<H", 0)),
            (0x0800, struct.pack("<H", _NO_DATASET if dataset is None else 0)),
            (
                0x1000,
                (
                    sop_instance_uid if sop_instance_uid is not None else str(known.get("SOPInstanceUID", "1.2.3"))
                ).encode(),
            ),
        ]
        yield data_pdu(context_id, 3, command(elements))
        if dataset is not None:
            pieces = [dataset[at : at + fragment] for at in range(0, len(dataset), fragment)] or [b""]
            for number, piece in enumerate(pieces):
                yield data_pdu(context_id, 2 if number == len(pieces) - 1 else 0, piece)

    def echo(self, context_id: int = 1) -> Dataset:
        """Send a C-ECHO-RQ and return the command set of its answer."""
        self.message_id += 1
        elements = [
            (0x0002, VERIFICATION.encode()),
            (0x0100, struct.pack("<H", 0x0030)),
            (0x0110, struct.pack("<H", self.message_id)),
            (0x0800, struct.pack("<H", _NO_DATASET)),
        ]
        self.socket.sendall(data_pdu(context_id, 3, command(elements)))
        return self.answer()

    def answer(self) -> Dataset:
        """The command set of the next response, which must be to our last request."""
        received = b""
        while True:
            kind, body = self.pdu()
            assert kind == DATA, kind
            at = 0
            while at < len(body):
                length, _, control = struct.unpack_from(">LBB", body, at)
                received += body[at + 6 : at + 4 + length]
                at += 4 + length
                if control & 3 == 3:
                    response = _read_command(received)
                    assert response.MessageIDBeingRespondedTo == self.message_id
                    return response


def request(
    contexts: Mapping[int, tuple[str, Iterable[str]]],
    *,
    called: str = "STOWGATE",
    calling: str = "PEER",
    roles: Mapping[str, tuple[int, int]] | None = None,
) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    items = _item(0x10, b"1.2.840.10008.3.1.1.1")
    for context_id, (abstract_syntax, transfer_syntaxes) in contexts.items():
        content = struct.pack(">B3x", context_id) + _item(0x30, abstract_syntax.encode())
        content += b"".join(_item(0x40, uid.encode()) for uid in transfer_syntaxes)
        items += _item(0x20, content)
    user = _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"1.2.3.4")
    for uid, (scu, scp) in (roles or {}).items():
        user += _item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))
    items += _item(0x50, user)
    fixed = struct.pack(">H2x16s16s32x", 1, called.ljust(16).encode(), calling.ljust(16).encode())
    return struct.pack(">BxL", 1, len(fixed) + len(items)) + fixed + items


def command(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """A command set (PS3.7 6.3.1) of elements of group 0000; empty values are left out."""
    body = b""
    for element, value in elements:
        if value:
            padded = value + b"\0" * (len(value) % 2)
            body += struct.pack("<HHL", 0, element, len(padded)) + padded
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def data_pdu(context_id: int, control: int, content: bytes) -> bytes:
    """A P-DATA-TF with one PDV (PS3.8 9.3.5). Control: 1 command, 2 last fragment."""
    return struct.pack(">BxLLBB", 4, len(content) + 6, len(content) + 2, context_id, control) + content


def encoded(dataset: Dataset, transfer_syntax: str = EXPLICIT) -> bytes:
    """The bytes of a dataset, without file meta."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = UID(transfer_syntax).is_implicit_VR
    buffer.is_little_endian = UID(transfer_syntax).is_little_endian
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def instance(sop_class_uid: str = CT, pixels: int = 256, **values: object) -> Dataset:
    """A small dataset with an identity of its own."""
    dataset = Dataset()
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = generate_uid()
    dataset.Modality = "CT"
    dataset.PatientName = canaries.NAME
    dataset.PatientID = canaries.ID
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.add_new(0x7FE00010, "OB", bytes(pixels))
    return dataset


def drain(connection: socket.socket) -> bytes:
    """All that still comes until the connection ends; a reset counts as an end."""
    received = io.BytesIO()
    with contextlib.suppress(ConnectionError):
        while more := connection.recv(65536):
            received.write(more)
    return received.getvalue()


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _read_accept(body: bytes) -> Accepted:
    accepted = Accepted()
    for kind, content in _items(body[68:]):
        if kind == 0x21:
            ((_, transfer_syntax),) = _items(content[4:])
            accepted.contexts[content[0]] = (content[2], transfer_syntax.decode())
        elif kind == 0x50:
            for user_kind, value in _items(content):
                if user_kind == 0x51:
                    (accepted.max_pdu,) = struct.unpack(">L", value)
                elif user_kind == 0x54:
                    length = struct.unpack_from(">H", value)[0]
                    accepted.roles[value[2 : 2 + length].decode()] = (value[2 + length], value[3 + length])
    return accepted


def _items(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(content):
        kind, length = struct.unpack_from(">BxH", content, at)
        yield kind, content[at + 4 : at + 4 + length]
        at += 4 + length


def _read_command(content: bytes) -> Dataset:
    return read_dataset(io.BytesIO(content), is_implicit_VR=True, is_little_endian=True)
