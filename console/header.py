"""The data elements of a DICOM file, for people to read: bounded, without bulk data.

Raises what reading a file raises: `OSError`, and `InstanceError` for one that is no DICOM file, or breaks off; what was
readable before that is returned.
"""

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from common.character_sets import DEFAULT, character_sets, decode
from common.elements import ITEM, UNDEFINED_LENGTH
from common.elements import Element as Found
from common.errors import InstanceError
from common.instance import SPECIFIC_CHARACTER_SET, dataset_elements, inflated_head
from common.part10 import read_file_meta

_MOST = 2000  # elements
_LONGEST = 256  # bytes of a value
_NUMBERS = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_CHOSEN = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))  # in the character set that the dataset names
_TEXTS = _CHOSEN | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}


@dataclass(frozen=True)
class Element:
    """One data element; `depth` counts the sequences around it."""

    tag: str
    vr: str
    keyword: str
    value: str
    depth: int


def read(path: Path) -> list[Element]:
    """The elements of a file, as far as it can be read. No link is followed.

    Raises:
        OSError: it cannot be opened, or is no file.
        InstanceError: it is no DICOM file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"expected a file at {path}, found something else")
        transfer_syntax_uid = read_file_meta(file, status.st_size)
        start = file.tell()
        file.seek(132)
        found = _elements(file, ExplicitVRLittleEndian, start)
        file.seek(start)
        if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
            return found + _elements(inflated_head(file), transfer_syntax_uid, None)
        return found + _elements(file, transfer_syntax_uid, status.st_size)


def _elements(file: BinaryIO, transfer_syntax_uid: str, end: int | None) -> list[Element]:
    order = ">" if transfer_syntax_uid == ExplicitVRBigEndian else "<"
    encodings: tuple[str, ...] = DEFAULT
    elements: list[Element] = []
    try:
        for one in dataset_elements(file, transfer_syntax_uid, end=end, deep=True):
            if len(elements) >= _MOST:
                break
            if one.tag == ITEM:
                continue
            vr = one.vr or _known_vr(one.tag)
            raw = b""
            if one.length != UNDEFINED_LENGTH:
                file.seek(one.value_at)
                raw = file.read(min(one.length, _LONGEST))
            if one.tag == SPECIFIC_CHARACTER_SET:
                encodings = character_sets(raw)
            tag = f"({one.tag >> 16:04X},{one.tag & 0xFFFF:04X})"
            value = _value(one, vr, raw, encodings, order)
            elements.append(Element(tag, vr, keyword_for_tag(one.tag), value, one.depth))
    except InstanceError:
        pass
    return elements


def _known_vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "UN"


def _value(one: Found, vr: str, raw: bytes, encodings: tuple[str, ...], order: str) -> str:
    more = "" if one.length <= len(raw) else "…"
    if vr == "SQ":
        return ""
    if vr in _TEXTS:
        return decode(raw, encodings if vr in _CHOSEN else DEFAULT) + more
    if vr in _NUMBERS and one.length != UNDEFINED_LENGTH:
        code = _NUMBERS[vr]
        whole = len(raw) // struct.calcsize(code) * struct.calcsize(f"={code}")
        return "\\".join(f"{number:g}" for (number,) in struct.iter_unpack(order + code, raw[:whole])) + more
    return "" if not one.length else "encapsulated" if one.length == UNDEFINED_LENGTH else f"{one.length} bytes"
