"""A C-STORE SCU on a bare socket, so that the sender is never the limit; the same for every peer.

It proposes so many presentation contexts (the first is the one that it uses), sends command and dataset in as few
writes as it can with TCP_NODELAY set, and believes nothing but status 0000. It knows no more of DICOM than that.
"""

import socket
import struct
import time
from types import TracebackType
from typing import Self

from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context

from bench.peers import BenchError
from bench.samples import Sample, uid

_TIMEOUT_SECONDS = 120.0
_ASSOCIATE_AC, _P_DATA, _RELEASE_RP = 2, 4, 6
_RELEASE_RQ = bytes((5, 0, 0, 0, 0, 4, 0, 0, 0, 0))
_COMMAND, _LAST = 1, 2
_LONGEST_PDU = 131072
_AC_ITEMS_AT = 68


def proposal(sop_class_uid: str, contexts: int) -> bytes:
    """An A-ASSOCIATE-RQ: one context for the SOP class in Explicit VR Little Endian, and others in four syntaxes."""
    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title = "BENCH"
    request.called_ae_title = "ANY-SCP"
    length = MaximumLengthNotification()
    length.maximum_length_received = 16384
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = uid(0)
    request.user_information = [length, implementation]
    others = [context for context in AllStoragePresentationContexts if context.abstract_syntax != sop_class_uid]
    proposed = [build_context(sop_class_uid, ExplicitVRLittleEndian)]
    proposed += [build_context(str(context.abstract_syntax)) for context in others[: contexts - 1]]
    for number, context in enumerate(proposed):
        context.context_id = 2 * number + 1
    request.presentation_context_definition_list = proposed
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)
    return bytes(pdu.encode())


class Association:
    """One association, requested when it is made.

    Args:
        port: of the peer, on loopback.
        request: what `proposal` gave.

    Raises:
        BenchError: the peer does not accept the association or its first context.
    """

    def __init__(self, port: int, request: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        self.max_pdu = _accepted(self._read(_ASSOCIATE_AC))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def store(self, message: bytes) -> None:
        """Send what `message` made and wait for its success."""
        self._socket.sendall(message)
        self.wait_for_success()

    def store_large(self, sample: Sample, number: int) -> None:
        """Send an instance of any size from constant memory; its pixels are zero."""
        self._socket.sendall(message(sample, number, self.max_pdu, pixels=False))
        block = bytes(self.max_pdu - 6)
        header = _pdv_header(len(block), 0)
        left = sample.pixel_bytes
        while left > len(block):
            self._socket.sendall(header + block)
            left -= len(block)
        self._socket.sendall(_pdv_header(left, _LAST) + block[:left])
        self.wait_for_success()

    def wait_for_success(self) -> None:
        """Read a C-STORE-RSP; raise BenchError if it is no success."""
        response = self._read(_P_DATA)
        at = 6  # after the header of the PDV
        while at < len(response):
            element, length = struct.unpack_from("<2xHI", response, at)
            if element == 0x0900:
                (status,) = struct.unpack_from("<H", response, at + 8)
                if status == 0x0000:
                    return
                raise BenchError(f"expected a C-STORE-RSP with status 0000, found {status:04X}")
            at += 8 + length
        raise BenchError("expected a C-STORE-RSP with Status (0000,0900), found none")

    def release(self) -> None:
        """Release it and wait for the answer."""
        self._socket.sendall(_RELEASE_RQ)
        self._read(_RELEASE_RP)

    def _read(self, kind: int) -> bytes:
        header = self._exactly(6)
        if header[0] != kind:
            raise BenchError(f"expected a PDU of type {kind}, found {header[0]}")
        return self._exactly(int.from_bytes(header[2:], "big"))

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = self._socket.recv(count)
            if not part:
                raise BenchError("the peer closed the connection")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _accepted(body: bytes) -> int:
    """The longest PDU that may be sent, from the body of an A-ASSOCIATE-AC whose first context is accepted."""
    at, longest, accepted = _AC_ITEMS_AT, 0, False
    while at < len(body):
        kind, length = body[at], int.from_bytes(body[at + 2 : at + 4], "big")
        if kind == 0x21 and body[at + 4] == 1:
            accepted = body[at + 6] == 0
        if kind == 0x51:
            longest = int.from_bytes(body[at + 4 : at + 8], "big")
        at += 4 if kind == 0x50 else 4 + length  # the items of the user information are read one by one
    if not accepted:
        raise BenchError("the peer did not accept the presentation context")
    return min(longest or _LONGEST_PDU, _LONGEST_PDU)


def message(sample: Sample, number: int, max_pdu: int, *, pixels: bool = True) -> bytes:
    """The PDUs of a C-STORE-RQ and its dataset; without the pixels the last fragment is still to come."""
    dataset = sample.dataset_head(number)
    if pixels:
        dataset += bytes(sample.pixel_bytes)
    elements = b"".join(
        (
            _element(0x0002, sample.sop_class_uid.encode()),
            struct.pack("<HHIH", 0, 0x0100, 2, 0x0001),
            struct.pack("<HHIH", 0, 0x0110, 2, number % 0xFFFF + 1),
            struct.pack("<HHIH", 0, 0x0700, 2, 0x0000),
            struct.pack("<HHIH", 0, 0x0800, 2, 0x0001),
            _element(0x1000, uid(number).encode()),
        )
    )
    command = struct.pack("<HHII", 0, 0, 4, len(elements)) + elements
    room = max_pdu - 6
    pdus = [_pdv_header(len(command), _COMMAND | _LAST), command]
    for at in range(0, len(dataset), room):
        fragment = dataset[at : at + room]
        pdus += (_pdv_header(len(fragment), _LAST if pixels and at + room >= len(dataset) else 0), fragment)
    return b"".join(pdus)


def _pdv_header(length: int, control: int) -> bytes:
    return struct.pack(">BxIIBB", _P_DATA, length + 6, length + 2, 1, control)


def _element(element: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, element, len(value)) + value


def short_associations(port: int, sample: Sample, numbers: range, contexts: int) -> float:
    """One instance for each association, one association after another; the seconds from first to last byte."""
    request = proposal(sample.sop_class_uid, contexts)
    with Association(port, request) as probe:
        max_pdu = probe.max_pdu
        probe.release()
    messages = [message(sample, number, max_pdu) for number in numbers]
    begun = time.perf_counter()
    for each in messages:
        with Association(port, request) as association:
            association.store(each)
            association.release()
    return time.perf_counter() - begun


def stream(port: int, sample: Sample, numbers: range) -> float:
    """Instances one after another in one association; the seconds from the first command to the last response."""
    with Association(port, proposal(sample.sop_class_uid, 1)) as association:
        begun = time.perf_counter()
        for number in numbers:
            association.store(message(sample, number, association.max_pdu))
        seconds = time.perf_counter() - begun
        association.release()
    return seconds


def large(port: int, sample: Sample, number: int) -> None:
    """One instance of any size."""
    with Association(port, proposal(sample.sop_class_uid, 1)) as association:
        association.store_large(sample, number)
        association.release()
