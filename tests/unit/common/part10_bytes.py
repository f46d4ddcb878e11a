"""DICOM files made byte by byte, so that a test knows where each data element begins."""

import struct
import zlib

from common.elements import ITEM, ITEM_DELIMITATION, SEQUENCE_DELIMITATION, UNDEFINED_LENGTH
from common.part10 import part10_header

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.50"
TRANSFER_SYNTAXES = {
    "implicit": IMPLICIT,
    "explicit": EXPLICIT,
    "deflated": DEFLATED,
    "big endian": BIG_ENDIAN,
    "encapsulated": JPEG,
}

CT = "1.2.840.10008.5.1.4.1.1.2"
_LONG_VRS = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}


class Writer:
    """Writes data elements in one transfer syntax; deflating is left to `part10`."""

    def __init__(self, transfer_syntax_uid: str = EXPLICIT) -> None:
        self.transfer_syntax_uid = transfer_syntax_uid
        self.implicit = transfer_syntax_uid == IMPLICIT
        self.order = ">" if transfer_syntax_uid == BIG_ENDIAN else "<"

    def element(self, tag: int, vr: str, value: bytes | str = b"", *, length: int | None = None) -> bytes:
        """One element, its value padded to even length; `length` may claim another."""
        data = value.encode("ascii") if isinstance(value, str) else value
        if len(data) % 2:
            data += b"\0" if vr in {"UI", "OB", "UN"} else b" "
        return self.header(tag, vr, len(data) if length is None else length) + data

    def header(self, tag: int, vr: str, length: int) -> bytes:
        """Tag, VR and length."""
        group, number = tag >> 16, tag & 0xFFFF
        if self.implicit or not vr:
            return struct.pack(self.order + "HHL", group, number, length)
        if vr in _LONG_VRS:
            return struct.pack(self.order + "HH2sHL", group, number, vr.encode(), 0, length)
        return struct.pack(self.order + "HH2sH", group, number, vr.encode(), length)

    def sequence(self, tag: int, *items: bytes, vr: str = "SQ", undefined: bool = True) -> bytes:
        """A sequence of items of the same kind of length as itself."""
        if undefined:
            content = b"".join(
                self.header(ITEM, "", UNDEFINED_LENGTH) + item + self.header(ITEM_DELIMITATION, "", 0) for item in items
            )
            return self.header(tag, vr, UNDEFINED_LENGTH) + content + self.header(SEQUENCE_DELIMITATION, "", 0)
        content = b"".join(self.header(ITEM, "", len(item)) + item for item in items)
        return self.header(tag, vr, len(content)) + content

    def fragments(self, *fragments: bytes) -> bytes:
        """Encapsulated Pixel Data (PS3.5 A.4), the fragments as they are."""
        content = b"".join(self.header(ITEM, "", len(fragment)) + fragment for fragment in (b"", *fragments))
        return self.header(0x7FE00010, "OB", UNDEFINED_LENGTH) + content + self.header(SEQUENCE_DELIMITATION, "", 0)

    def identity(self) -> list[bytes]:
        """The elements of an identity, in order of their tags."""
        return [
            self.element(0x00080016, "UI", CT),
            self.element(0x00080018, "UI", "1.2.3.4"),
            self.element(0x00080060, "CS", "CT"),
            self.element(0x00100010, "PN", "Doe^Jane"),
            self.element(0x00100020, "LO", "P1"),
            self.element(0x0020000D, "UI", "1.2.3"),
            self.element(0x0020000E, "UI", "1.2.3.1"),
        ]


def part10(transfer_syntax_uid: str, elements: list[bytes]) -> bytes:
    """A DICOM file of these elements, deflated if the transfer syntax says so."""
    dataset = b"".join(elements)
    if transfer_syntax_uid == DEFLATED:
        dataset = deflate(dataset)
    return part10_header(CT, "1.2.3.4", transfer_syntax_uid) + dataset


def deflate(data: bytes) -> bytes:
    """A raw deflate stream (PS3.5 A.5)."""
    deflating = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return deflating.compress(data) + deflating.flush()
