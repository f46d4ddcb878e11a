"""Walking a dataset from data element to data element by their headers alone (PS3.5 7.1).

pydicom parses what it can and passes over the rest; this walk is for what it does not promise: a cut anywhere, at
any depth, is noticed, and neither large values nor deep nesting nor absurd lengths cost memory. It is as lenient
as pydicom about what devices in the field write: implicit VR where explicit is declared and the reverse, VRs that
the standard does not know, a missing group length, undefined-length values that are no sequence, zeros at the end.

Fatal for the dataset: `TruncatedError` where the bytes end inside a data element, `UnreadableError` where they are
no data elements.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from common.errors import TruncatedError, UnreadableError

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_DELIMITATION = 0xFFFEE00D
SEQUENCE_DELIMITATION = 0xFFFEE0DD
FLOAT_PIXEL_DATA = 0x7FE00008
PIXEL_DATA = 0x7FE00010

# VRs with a 32-bit length after two reserved bytes, and those with a 16-bit length (PS3.5 7.1.2).
LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_MAX_DEPTH = 256  # levels of items and sequences; the deepest of the standard's IODs have a dozen
_CHUNK = 64 * 1024
_ZEROS = bytes(8)


class Element(NamedTuple):
    """The header of one data element, or of an item of a sequence.

    `vr` is empty where it is implicit. `at` and `value_at` are offsets into the file, `length` is in bytes or
    UNDEFINED_LENGTH. `depth` counts the sequences around it, 0 for the dataset's own elements.
    """

    tag: int
    vr: str
    at: int
    value_at: int
    length: int
    depth: int


@dataclass(slots=True)
class _Level:
    """A dataset or a sequence that the walk is inside of."""

    is_sequence: bool
    end: int | None
    """Where its length ends it; None if its delimitation item does, or the end of the bytes."""
    implicit: bool
    fresh: bool = True
    """Nothing of it was read yet."""


def walk(
    fp: BinaryIO, *, implicit: bool, little_endian: bool = True, end: int | None = None, deep: bool = False
) -> Iterator[Element]:
    """Yield the data elements from the position of `fp` on; it may be moved between two of them.

    An element is yielded before its value is looked at: whoever stops there does not care whether it is whole.

    Args:
        fp: seekable.
        implicit: the VR is implicit, as the transfer syntax has it.
        little_endian: the byte order.
        end: the offset where the bytes end, for a dataset that must be whole. None for the first part of one: the
            walk then ends where the bytes do.
        deep: go into sequences of defined length too, and yield the elements and items in all of them.

    Raises:
        TruncatedError: the bytes end inside a data element, or before a delimitation item.
        UnreadableError: they are no data elements.
    """
    return _Walk(fp, implicit=implicit, little_endian=little_endian, end=end, deep=deep).elements()


class _Ended(Exception):  # noqa: N818 - the first part of a dataset ends where it ends
    """The bytes are used up, and nobody said that they must be whole."""


class _Walk:
    def __init__(self, fp: BinaryIO, *, implicit: bool, little_endian: bool, end: int | None, deep: bool) -> None:
        self._fp = fp
        self._end = end
        self._deep = deep
        order = "<" if little_endian else ">"
        self._explicit = struct.Struct(order + "HH2sH").unpack
        self._implicit = struct.Struct(order + "HHL").unpack
        self._length = struct.Struct(order + "L").unpack
        self._delimiter = struct.pack(order + "HH", SEQUENCE_DELIMITATION >> 16, SEQUENCE_DELIMITATION & 0xFFFF)
        self._at = fp.tell()
        self._levels = [_Level(is_sequence=False, end=end, implicit=implicit)]

    def elements(self) -> Iterator[Element]:
        try:
            while self._levels:
                level = self._levels[-1]
                if level.end is not None and self._at >= level.end:
                    self._levels.pop()
                    continue
                header = self._header()
                if header == _ZEROS:
                    self._skip_zeros()
                    continue
                element = self._item(level, header) if level.is_sequence else self._element(level, header)
                if element is None:
                    continue
                if self._deep or element.depth == 0:
                    yield element
                self._pass(level, element)
        except _Ended:
            return

    def _header(self) -> bytes:
        header = self._read(self._at, 8)
        if self._end is not None and self._at + 8 > self._end:
            header = header[: max(self._end - self._at, 0)]
        if len(header) == 8:
            return header
        if len(self._levels) > 1:
            self._cut("a delimitation item")
        if header.strip(b"\0"):
            self._cut("a data element")
        raise _Ended

    def _skip_zeros(self) -> None:
        """Pass over a run of zeros, in steps of an empty element's eight bytes."""
        self._at += 8
        while chunk := self._read(self._at, _CHUNK):
            zeros = len(chunk) - len(chunk.lstrip(b"\0"))
            self._at += zeros
            if zeros < len(chunk):
                self._at -= zeros % 8
                return

    def _item(self, level: _Level, header: bytes) -> Element | None:
        """Read the header of an item, or the delimiter, in a sequence."""
        tag, length = self._item_header(header)
        at, self._at = self._at, self._at + 8
        if tag == ITEM:
            level.fresh = False
            return Element(ITEM, "", at, at + 8, length, len(self._levels) // 2)
        if tag == SEQUENCE_DELIMITATION:
            self._levels.pop()
        elif tag == ITEM_DELIMITATION:
            pass  # behind an item of defined length: superfluous, and harmless
        elif level.fresh and level.end is None:
            self._levels.pop()
            self._at = self._behind_delimiter(at)
        else:
            raise UnreadableError(f"expected an item at offset {at} (PS3.5 7.5), found the tag {tag:08X}")
        return None

    def _element(self, level: _Level, header: bytes) -> Element | None:
        group, number, vr, length = self._explicit(header)
        tag = group << 16 | number
        at, self._at = self._at, self._at + 8
        if tag == ITEM_DELIMITATION and len(self._levels) > 1:
            if level.end is None:
                self._levels.pop()
            return None
        if level.fresh and group != 0xFFFE:
            level.fresh = False
            level.implicit = self._looks_implicit(level, vr, header)
        if not level.implicit and vr in LONG_VRS:
            raw = self._fp.read(4)
            if len(raw) < 4:
                self._cut(f"a length for {tag:08X}")
            length = self._length(raw)[0]
            self._at += 4
        elif level.implicit or not (vr.isalpha() and vr.isupper()):
            vr, length = b"", self._implicit(header)[2]
        # Else a VR with a 16-bit length; one that we do not know is taken for such a one, as pydicom does.
        return Element(tag, vr.decode("ascii"), at, self._at, length, len(self._levels) // 2)

    def _looks_implicit(self, level: _Level, vr: bytes, header: bytes) -> bool:
        """Whether a dataset is in implicit VR, by its first element, which is short enough to tell.

        Items in explicit VR may hold elements in implicit VR (PS3.5 6.2.2).
        """
        if not level.implicit:
            return not (vr.isalpha() and vr.isupper()) and header[6:8] == b"\0\0"
        # A dataset may turn out to be explicit; the items in an implicit one never do.
        return not (len(self._levels) == 1 and (vr in SHORT_VRS or vr in LONG_VRS))

    def _pass(self, level: _Level, element: Element) -> None:
        """Go to what follows the header of an element: into it, or behind its value."""
        if element.length == UNDEFINED_LENGTH:
            if element.tag == ITEM:
                self._enter(is_sequence=False, end=None, implicit=level.implicit)
            elif element.vr in {"SQ", "UN"} or (element.vr == "" and not FLOAT_PIXEL_DATA <= element.tag <= PIXEL_DATA):
                self._enter(is_sequence=True, end=None, implicit=level.implicit)
            else:
                self._at = self._behind_fragments(element.value_at)
            return
        end = element.value_at + element.length
        if self._end is not None and end > self._end:
            raise TruncatedError(
                f"expected {element.length} bytes of value for {element.tag:08X} at offset {element.value_at}, "
                f"found the end of the file at {self._end}"
            )
        if not self._deep:
            self._at = end
        elif element.tag == ITEM:
            self._enter(is_sequence=False, end=end, implicit=level.implicit)
        elif self._is_sequence(element):
            self._enter(is_sequence=True, end=end, implicit=level.implicit)
        else:
            self._at = end

    def _enter(self, *, is_sequence: bool, end: int | None, implicit: bool) -> None:
        if len(self._levels) >= _MAX_DEPTH:
            raise UnreadableError(f"expected sequences nested less than {_MAX_DEPTH // 2} deep, found deeper ones")
        self._levels.append(_Level(is_sequence, end, implicit))

    def _is_sequence(self, element: Element) -> bool:
        """Tell whether a value of defined length is a sequence, where the VR does not say, by its first bytes."""
        if element.vr not in {"", "UN"} or element.length < 8:
            return element.vr == "SQ"
        head = self._read(element.value_at, 8)
        if len(head) < 8:
            return False
        tag, length = self._item_header(head)
        return tag == ITEM and (length == UNDEFINED_LENGTH or length <= element.length - 8)

    def _behind_fragments(self, at: int) -> int:
        """The offset behind an undefined-length value: fragments in items, as in PS3.5 A.4, or anything else."""
        position = at
        while True:
            header = self._read(position, 8)
            if len(header) < 8:
                self._cut("a sequence delimitation item")
            tag, length = self._item_header(header)
            position += 8
            if tag == SEQUENCE_DELIMITATION:
                return position
            if tag != ITEM or length == UNDEFINED_LENGTH:
                return self._behind_delimiter(at)
            position += length
            if self._end is not None and position > self._end:
                raise TruncatedError(
                    f"expected {length} bytes in a fragment at offset {position - length}, "
                    f"found the end of the file at {self._end}"
                )

    def _behind_delimiter(self, at: int) -> int:
        """The offset behind the first sequence delimitation item from `at` on, wherever it stands."""
        while True:
            chunk = self._read(at, _CHUNK)
            found = chunk.find(self._delimiter)
            if found >= 0 and (len(chunk) >= found + 8 or len(self._read(at + found, 8)) == 8):
                return at + found + 8
            if found >= 0 or len(chunk) < 4:
                self._cut("a sequence delimitation item")
            at += len(chunk) - 3

    def _item_header(self, header: bytes) -> tuple[int, int]:
        group, number, length = self._implicit(header)
        return group << 16 | number, length

    def _read(self, at: int, length: int) -> bytes:
        self._fp.seek(at)
        return self._fp.read(length)

    def _cut(self, expected: str) -> None:
        if self._end is None:
            raise _Ended
        raise TruncatedError(f"expected {expected} before offset {self._end}, found the end of the file")
