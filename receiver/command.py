"""Command sets of requests and responses, as far as C-STORE and C-ECHO need them (PS3.7 9.3, E.1)."""

import struct
from dataclasses import dataclass

from common.instance import is_uid
from receiver.pdu import ProtocolError
from receiver.status import Refusal

C_STORE_RQ = 0x0001
C_ECHO_RQ = 0x0030
NO_DATASET = 0x0101


@dataclass(slots=True)
class Command:
    """The elements of a command set that decide (PS3.7 9.3, E.1)."""

    field: int = 0
    id: int = 0
    dataset_type: int = NO_DATASET
    sop_class_uid: bytes = b""
    sop_instance_uid: bytes = b""

    @classmethod
    def parse(cls, data: bytes | bytearray) -> "Command":
        """Read a command set, which is always Implicit VR Little Endian (PS3.7 6.3.1)."""
        command = cls()
        at, end = 0, len(data)
        while at < end:
            if at + 8 > end:
                raise ProtocolError("expected an element of the command set, found its end")
            group, element, length = struct.unpack_from("<HHI", data, at)
            at += 8
            if group or at + length > end:
                raise ProtocolError("expected an element of the command set, found one of another group or length")
            if element == 0x0002:
                command.sop_class_uid = bytes(data[at : at + length])
            elif element == 0x1000:
                command.sop_instance_uid = bytes(data[at : at + length])
            elif element in {0x0100, 0x0110, 0x0800}:
                if length != 2:
                    raise ProtocolError("expected two bytes in an element of VR US")
                (value,) = struct.unpack_from("<H", data, at)
                if element == 0x0100:
                    command.field = value
                elif element == 0x0110:
                    command.id = value
                else:
                    command.dataset_type = value
            at += length
        return command


def encode_response(
    field: int, message_id: int, refusal: Refusal, *, sop_class_uid: bytes = b"", sop_instance_uid: bytes = b""
) -> bytes:
    """The command set of a C-STORE or C-ECHO response (PS3.7 9.3.1.2, 9.3.5.2), in Implicit VR Little Endian.

    Elements go in ascending order of their tags; empty UIDs, an empty comment and no offending element are left out.
    """
    elements = [
        _element(0x0002, sop_class_uid),
        struct.pack("<HHIH", 0, 0x0100, 2, field),
        struct.pack("<HHIH", 0, 0x0120, 2, message_id),
        struct.pack("<HHIH", 0, 0x0800, 2, NO_DATASET),
        struct.pack("<HHIH", 0, 0x0900, 2, refusal.status),
    ]
    if refusal.offending_element is not None:
        tag = refusal.offending_element
        elements.append(struct.pack("<HHIHH", 0, 0x0901, 4, tag >> 16, tag & 0xFFFF))
    elements.append(_element(0x0902, refusal.comment.encode("ascii", "replace"), b" "))
    elements.append(_element(0x1000, sop_instance_uid))
    command = b"".join(elements)
    return struct.pack("<HHII", 0, 0, 4, len(command)) + command


def _element(element: int, value: bytes, padding: bytes = b"\0") -> bytes:
    if not value:
        return b""
    value += padding[: len(value) % 2]
    return struct.pack("<HHI", 0, element, len(value)) + value


def uid_text(value: bytes) -> str:
    """A UID of a command set without its padding; whatever else it was filled with stays, to be refused."""
    return value.decode("ascii", "replace").rstrip("\0 ")


def echoed(value: bytes) -> bytes:
    """A UID for our answer (PS3.7 9.3.1.2); not what is none, that would make the answer malformed as well."""
    uid = uid_text(value)
    return uid.encode("ascii") if is_uid(uid) else b""
