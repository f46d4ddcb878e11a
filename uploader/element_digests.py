"""The elements of a dataset, each as a digest of what is in it: the same for each way in which it may be written.

Not counted are VRs, group lengths (PS3.5 7.2), the Data Set Trailing Padding, zeros at the end, and whether the length
of a sequence or an item is defined. Bytes are read forward only, once, and memory does not grow with them. What cannot
be parsed is one element with all that follows it, as bytes.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from common.elements import (
    FLOAT_PIXEL_DATA,
    ITEM,
    ITEM_DELIMITATION,
    LONG_VRS,
    PIXEL_DATA,
    SEQUENCE_DELIMITATION,
    SHORT_VRS,
    UNDEFINED_LENGTH,
)

_BLOCK = 128 * 1024
_TRANSFER_SYNTAX_UID = 0x00020010
_TRAILING_PADDING = 0xFFFCFFFC
_MAX_UID = 64
_MAX_DEPTH = 64

Read = Callable[[int], bytes]
"""At most so many bytes, at least one; none only at the end."""


class _Odd(Exception):  # noqa: N818 - then the rest is compared as bytes
    """These are no data elements as PS3.5 has them."""


class Source:
    """Bytes that are read once, forward, with a look ahead.

    Attributes:
        at: how many were taken.
        headers: a digest of those that `take` gave since it was last renewed: all but values.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._buffer = b""
        self._position = 0
        self.at = 0
        self.headers = hashlib.sha256()

    def peek(self, length: int) -> bytes:
        """The next bytes, which stay; fewer only at the end."""
        while len(self._buffer) - self._position < length and (chunk := self._read(_BLOCK)):
            self._buffer = self._buffer[self._position :] + chunk
            self._position = 0
        return self._buffer[self._position : self._position + length]

    def take(self, length: int) -> bytes:
        """The next bytes; fewer only at the end."""
        taken = self.peek(length)
        self._advance(taken)
        self.headers.update(taken)
        return taken

    def blocks(self, length: int | None = None) -> Iterator[bytes]:
        """The next so many bytes, or all that are left, in blocks; fewer only at the end."""
        left = length
        while left is None or left > 0:
            wanted = _BLOCK if left is None else min(left, _BLOCK)
            block = self._buffer[self._position : self._position + wanted]
            if block:
                self._advance(block)
            elif block := self._read(wanted):
                self.at += len(block)
            else:
                return
            if left is not None:
                left -= len(block)
            yield block

    def _advance(self, taken: bytes) -> None:
        self._position += len(taken)
        self.at += len(taken)


class Found(NamedTuple):
    """One element of a dataset: its tag, and a digest of what is in it."""

    tag: int
    digest: bytes


class _Header(NamedTuple):
    """The header of an element; `vr` is empty where it is implicit."""

    tag: int
    vr: bytes
    length: int


def transfer_syntax(source: Source) -> str | None:
    """Read preamble and file meta; None if there is none that says how the dataset is encoded."""
    if source.take(132)[128:] != b"DICM":
        return None
    found = ""
    while source.peek(2) == b"\x02\x00":
        try:
            header = _read_header(source, "<", implicit=False)
        except _Odd:
            return None
        if header.tag == _TRANSFER_SYNTAX_UID and header.length <= _MAX_UID:
            found = source.take(header.length).decode("latin-1").rstrip("\0 ")
            continue
        for _ in source.blocks(header.length):
            pass
    return found or None


def elements(source: Source, transfer_syntax_uid: str | None) -> Iterator[Found]:
    """The elements of a dataset, in their order; what cannot be parsed is one element with all that follows."""
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    order = ">" if transfer_syntax_uid == ExplicitVRBigEndian else "<"
    parser = _Parser(source, order)
    digest, tag = hashlib.sha256(), 0
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        yield _rest(source, digest, tag)
        return
    try:
        implicit = parser.looks_implicit(implicit=implicit, may_be_explicit=True)
        while head := source.peek(8):
            if not head.strip(b"\0"):
                source.take(len(head))
                continue
            digest, tag, source.headers = hashlib.sha256(), 0, hashlib.sha256()
            header = _read_header(source, order, implicit=implicit)
            tag = header.tag
            parser.value(header, digest.update, implicit=implicit, depth=0)
            if not _means_nothing(tag):
                yield Found(tag, digest.digest())
    except _Odd:
        yield _rest(source, digest, tag)


def _rest(source: Source, digest: "hashlib._Hash", tag: int) -> Found:
    """What cannot be parsed: an element that was begun, and all that follows."""
    digest.update(b"?" + source.headers.digest())
    for block in source.blocks():
        digest.update(block)
    return Found(tag, digest.digest())


def _means_nothing(tag: int) -> bool:
    return (tag & 0xFFFF == 0 and tag > 0xFFFF) or tag == _TRAILING_PADDING


class _Parser:
    """Takes values in, and gives what is in them to a digest, the same for each encoding of the same."""

    def __init__(self, source: Source, order: str) -> None:
        self._source = source
        self._order = order
        self._item = struct.Struct(order + "HHL")

    def value(self, header: _Header, update: Callable[[bytes], None], *, implicit: bool, depth: int) -> None:
        """Take in a value.

        Raises:
            _Odd: its structure cannot be followed.
        """
        if depth > _MAX_DEPTH:
            raise _Odd
        undefined = header.length == UNDEFINED_LENGTH
        if undefined and not self._holds_items(header):
            self._fragments(update)
        elif undefined or self._is_sequence(header):
            end = None if undefined else self._source.at + header.length
            self._items(end, update, implicit=implicit, depth=depth)
        else:
            self._opaque(header.length, update)

    def looks_implicit(self, *, implicit: bool, may_be_explicit: bool) -> bool:
        """Whether a dataset is in implicit VR, by its first element: devices write one where they declare the other.

        As `common.elements.walk` takes it: an item in explicit VR may hold elements in implicit VR, not the reverse.
        """
        head = self._source.peek(8)
        if len(head) < 8:
            return implicit
        vr = head[4:6]
        if implicit:
            return not (may_be_explicit and (vr in SHORT_VRS or vr in LONG_VRS))
        return not (vr.isalpha() and vr.isupper()) and head[6:8] == b"\0\0"

    def _opaque(self, length: int, update: Callable[[bytes], None]) -> None:
        update(b"V" + length.to_bytes(8, "big"))
        for block in self._source.blocks(length):
            update(block)

    def _holds_items(self, header: _Header) -> bool:
        """Whether a value of undefined length is a sequence, rather than fragments of pixel data."""
        return header.vr in {b"SQ", b"UN"} or (header.vr == b"" and not FLOAT_PIXEL_DATA <= header.tag <= PIXEL_DATA)

    def _is_sequence(self, header: _Header) -> bool:
        """Whether a value of defined length is a sequence; where the VR does not say, by its first bytes."""
        if header.vr not in {b"", b"UN", b"SQ"} or header.length < 8:
            return False
        tag, length = self._item_header(self._source.peek(8))
        return tag == ITEM and (length == UNDEFINED_LENGTH or length <= header.length - 8)

    def _fragments(self, update: Callable[[bytes], None]) -> None:
        update(b"F")
        while True:
            tag, length = self._item_header(self._source.take(8))
            if tag == SEQUENCE_DELIMITATION:
                return
            if tag != ITEM or length == UNDEFINED_LENGTH:
                raise _Odd
            self._opaque(length, update)

    def _items(self, end: int | None, update: Callable[[bytes], None], *, implicit: bool, depth: int) -> None:
        items = 0
        while end is None or self._source.at < end:
            tag, length = self._item_header(self._source.take(8))
            if tag == SEQUENCE_DELIMITATION and end is None:
                break
            if tag != ITEM:
                raise _Odd
            items += 1
            update(b"I")
            item_end = None if length == UNDEFINED_LENGTH else self._source.at + length
            self._item_content(item_end, update, implicit=implicit, depth=depth)
            update(b"E")
        if end is not None and self._source.at != end:
            raise _Odd
        if not items:
            update(b"V" + bytes(8))  # the same as an empty value

    def _item_content(self, end: int | None, update: Callable[[bytes], None], *, implicit: bool, depth: int) -> None:
        implicit = self.looks_implicit(implicit=implicit, may_be_explicit=False)
        while end is None or self._source.at < end:
            head = self._source.peek(8)
            if end is None and self._item_header(head)[0] == ITEM_DELIMITATION:
                self._source.take(8)
                return
            header = _read_header(self._source, self._order, implicit=implicit)
            if _means_nothing(header.tag):
                # A digest cannot take back what it was given.
                self.value(header, lambda _ignored: None, implicit=implicit, depth=depth + 1)
                continue
            update(header.tag.to_bytes(4, "big"))
            self.value(header, update, implicit=implicit, depth=depth + 1)
        if self._source.at != end:
            raise _Odd

    def _item_header(self, header: bytes) -> tuple[int, int]:
        if len(header) < 8:
            raise _Odd
        group, number, length = self._item.unpack(header)
        return group << 16 | number, length


def _read_header(source: Source, order: str, *, implicit: bool) -> _Header:
    """Take in the header of an element (PS3.5 7.1)."""
    head = source.peek(8)
    if len(head) < 8:
        raise _Odd
    group, number, vr, short = struct.unpack(order + "HH2sH", head)
    tag = group << 16 | number
    if not implicit and vr in LONG_VRS:
        head = source.peek(12)
        if len(head) < 12:
            raise _Odd
        source.take(12)
        return _Header(tag, vr, struct.unpack(order + "L", head[8:])[0])
    source.take(8)
    if implicit or not (vr.isalpha() and vr.isupper()):
        return _Header(tag, b"", struct.unpack(order + "L", head[4:8])[0])
    return _Header(tag, vr, short)
