"""The data elements of a DICOM file for people to read: its file meta and its dataset, of which no large value is read.

No foreign code reads it, only the walk of `common.elements`, whose memory does not grow with what a file claims. It
reads a bounded number of bytes, for a bounded time, and gives a bounded number of elements; so it needs no process of
its own.

Nothing of a file is fatal: what could be read is shown, and a last element without a tag says where it stopped and why.
"""

import io
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.datadict import (
    dictionary_VR,
    keyword_for_tag,
    private_dictionary_description,
    private_dictionary_VR,
)
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from common import elements
from common.character_sets import DEFAULT, character_sets, decode
from common.elements import ITEM, LONG_VRS, SHORT_VRS, UNDEFINED_LENGTH
from common.errors import InstanceError
from common.instance import INFLATED_HEAD, SPECIFIC_CHARACTER_SET, dataset_elements, inflated_head, is_uid
from common.part10 import TRANSFER_SYNTAX_UID
from console.files import open_regular

MAX_ELEMENTS = 2000
MAX_VALUE = 200  # characters of a value that are shown
_MAX_READ = 16 * 1024 * 1024
_SECONDS = 1.0
_VALUE_BYTES = 1024  # of a value that are read
_BULK_BYTES = 16  # of a binary value that are shown
_PIXEL_REPRESENTATION = 0x00280103
_BULK = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_NUMBERS = {
    "US": "H", "SS": "h", "UL": "L", "SL": "l", "UV": "Q", "SV": "q", "FL": "f", "FD": "d", "AT": "HH",
}  # fmt: skip
_IN_CHARACTER_SET = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_VRS = frozenset(vr.decode() for vr in LONG_VRS | SHORT_VRS)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Element:
    """One data element, or one item of a sequence, or, without a tag, a remark on where the reading stopped.

    Attributes:
        tag: as (gggg,eeee).
        vr: two letters; empty for an item.
        keyword: of the dictionary; of a private element its name in brackets, if it is known; empty if not.
        value: for people to read, without control characters.
        depth: how many sequences are around it.
    """

    tag: str
    vr: str
    keyword: str
    value: str
    depth: int


def read(path: Path) -> list[Element]:
    """Read the data elements of a file, never its pixel data.

    Raises:
        OSError: it is not there, is no regular file, or cannot be read.
    """
    with _Bounded(io.FileIO(open_regular(path))) as file:
        return list(_elements(file, os.fstat(file.fileno()).st_size))


class _TooMuchError(Exception):
    """It takes longer than anybody should wait, or more than anybody reads; the text says what."""


class _Bounded(io.BufferedReader):
    """A file of which no more than so much is read, and not for longer than so."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self._left = _MAX_READ
        self._until = time.monotonic() + _SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self._left -= len(found)
        if self._left < 0 or time.monotonic() > self._until:
            raise _TooMuchError("it takes too long to read further")
        return found


def _elements(file: _Bounded, size: int) -> Iterator[Element]:
    end = f"only the first {MAX_ELEMENTS} elements are shown"
    try:
        for number, element in enumerate(_whole(file, size)):
            if number == MAX_ELEMENTS:
                break
            yield element
        else:
            return
    except (InstanceError, _TooMuchError) as error:
        end = str(error)
    yield Element("", "", "", end, 0)


def _whole(file: _Bounded, size: int) -> Iterator[Element]:
    """The file meta and the dataset."""
    head = file.read(132)
    if head[128:] != b"DICM":
        begins = f" (it begins with {head[:_BULK_BYTES].hex(' ')})" if head else " (it is empty)"
        raise _TooMuchError(f"expected the prefix DICM at offset 128 (PS3.10 7.1), found none{begins}")
    syntax = ""
    meta = _Reader(file, little_endian=True)
    for element in dataset_elements(file, ExplicitVRLittleEndian, end=size):
        if element.tag >> 16 != 0x0002:
            file.seek(element.at)
            break
        if element.tag == TRANSFER_SYNTAX_UID:
            syntax = decode(meta.raw(element), DEFAULT)
        yield meta.shown(element)
    else:
        return
    if not is_uid(syntax):
        raise _TooMuchError("expected a Transfer Syntax UID (0002,0010) in the file meta, found none that is valid")
    source: io.BufferedIOBase = file
    end: int | None = size
    if syntax == DeflatedExplicitVRLittleEndian:
        source, end = io.BytesIO(inflated_head(file).read()), None
    dataset = _Reader(source, little_endian=syntax != ExplicitVRBigEndian)
    for element in dataset_elements(source, syntax, end=end, deep=True):  # type: ignore[arg-type]
        yield dataset.shown(element)
    if end is None and source.seek(0, os.SEEK_END) == INFLATED_HEAD:
        raise _TooMuchError("only the first megabyte of a deflated dataset is read")


class _Reader:
    """Makes values readable. Elements are given to it in their order, since some say how others are to be read."""

    def __init__(self, file: io.BufferedIOBase, *, little_endian: bool) -> None:
        self._file = file
        self._order = "<" if little_endian else ">"
        self._signed = False
        self._character_sets: list[tuple[str, ...]] = [DEFAULT]  # by depth
        self._creators: dict[tuple[int, int], str] = {}  # by depth and the block that they reserve

    def raw(self, element: elements.Element) -> bytes:
        """The first bytes of a value."""
        if element.length == UNDEFINED_LENGTH:
            return b""
        self._file.seek(element.value_at)
        return self._file.read(min(element.length, _VALUE_BYTES))

    def shown(self, element: elements.Element) -> Element:
        """An element as people read it."""
        tag = f"({element.tag >> 16:04X},{element.tag & 0xFFFF:04X})"
        del self._character_sets[element.depth + 1 :]
        while len(self._character_sets) <= element.depth:
            self._character_sets.append(self._character_sets[-1])
        if element.tag == ITEM:
            self._character_sets[element.depth] = self._character_sets[element.depth - 1]
            self._creators = {key: value for key, value in self._creators.items() if key[0] < element.depth}
            return Element(tag, "", "Item", "", element.depth)
        vr, keyword = self._known(element)
        if element.vr in _VRS and element.vr != "UN":
            vr = element.vr
        elif element.length == UNDEFINED_LENGTH and not _is_pixels(element.tag):
            vr = "SQ"
        else:
            vr = vr or element.vr or "UN"
        return Element(tag, vr, keyword, self._value(element, vr), element.depth)

    def _known(self, element: elements.Element) -> tuple[str, str]:
        """VR and keyword by the dictionary; empty where it has none."""
        group, number = element.tag >> 16, element.tag & 0xFFFF
        try:
            if number == 0:
                return "UL", "GroupLength"
            if group % 2 == 0:
                return self._plain(dictionary_VR(element.tag)), keyword_for_tag(element.tag)
            if 0x0010 <= number <= 0x00FF:
                creator = decode(self.raw(element), self._character_sets[element.depth])
                self._creators[element.depth, group << 16 | number << 8] = creator
                return "LO", "PrivateCreator"
            creator = self._creators.get((element.depth, group << 16 | (number & 0xFF00)), "")
            name = visible(private_dictionary_description(element.tag, creator))
            return self._plain(private_dictionary_VR(element.tag, creator)), f"[{name}]"
        except KeyError:
            return "", ""

    def _plain(self, vr: str) -> str:
        """One VR of those that the dictionary leaves open."""
        if vr.startswith("US or SS"):
            return "SS" if self._signed else "US"
        return "OW" if " or " in vr else vr

    def _value(self, element: elements.Element, vr: str) -> str:
        if vr == "SQ":
            return ""
        if _is_pixels(element.tag) or element.length == UNDEFINED_LENGTH:
            length = "encapsulated" if element.length == UNDEFINED_LENGTH else f"{element.length} bytes"
            return f"{length}, not shown"
        raw = self.raw(element)
        if element.tag == SPECIFIC_CHARACTER_SET:
            self._character_sets[element.depth] = character_sets(raw)
        if element.tag == _PIXEL_REPRESENTATION:
            self._signed = raw[:1] == b"\1" or raw[1:2] == b"\1"
        if vr in _NUMBERS:
            return self._numbers(raw, element.length, vr)
        if vr in _BULK:
            more = f" … ({element.length} bytes)" if element.length > _BULK_BYTES else ""
            return raw[:_BULK_BYTES].hex(" ") + more
        text = decode(raw, self._character_sets[element.depth] if vr in _IN_CHARACTER_SET else DEFAULT)
        if vr == "UI" and UID(text).name != text:
            text = f"{text} ({UID(text).name})"
        shown = visible(text[:MAX_VALUE])
        cut = len(text) > MAX_VALUE or element.length > len(raw)
        return f"{shown} … ({element.length} bytes)" if cut else shown

    def _numbers(self, raw: bytes, length: int, vr: str) -> str:
        form = struct.Struct(self._order + _NUMBERS[vr])
        written: Callable[..., str] = (lambda group, number: f"({group:04X},{number:04X})") if vr == "AT" else _number
        values: list[str] = []
        for value in form.iter_unpack(raw[: len(raw) // form.size * form.size]):
            values.append(written(*value))
            if sum(map(len, values)) + len(values) > MAX_VALUE:
                break
        count = length // form.size
        return "\\".join(values) + (f" … ({count} values)" if count > len(values) else "")


def _is_pixels(tag: int) -> bool:
    return elements.FLOAT_PIXEL_DATA <= tag <= elements.PIXEL_DATA


def _number(value: float) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def visible(text: str) -> str:
    """The text with what is no printable character made visible: control pictures, and U+XXXX for others."""
    text = _CONTROL.sub(lambda found: "\u2421" if found[0] == "\x7f" else chr(0x2400 + ord(found[0])), text)
    return "".join(one if one.isprintable() else f"<U+{ord(one):04X}>" for one in text)
