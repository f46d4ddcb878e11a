"""Which values of an instance identify a person: what redaction takes out of an archive's answer."""

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

from pydicom.datadict import dictionary_VR
from pydicom.uid import DeflatedExplicitVRLittleEndian

from common.character_sets import DEFAULT, character_sets, decode
from common.elements import FLOAT_PIXEL_DATA, ITEM, UNDEFINED_LENGTH, Element
from common.errors import InstanceError
from common.instance import SPECIFIC_CHARACTER_SET, dataset_elements, inflated_head
from common.part10 import read_file_meta

_SKIP_ABOVE = 4096  # bytes; longer values are passed over, not read


def identifying_values(fp: BinaryIO) -> tuple[str, ...]:
    """Collect the values of a DICOM file that identify a person, for redaction. Never raises for content.

    Takes every person name, the patient group (0010,xxxx), accession number, institution and study ID,
    in sequences too (after PS3.15 E.1). What cannot be parsed is left out; so is what follows it.

    Args:
        fp: seekable; read from its start.
    """
    found: dict[str, None] = {}
    # What was found before the bytes failed is still worth redacting.
    with contextlib.suppress(InstanceError, OSError):
        for text in _texts(fp):
            found.update(dict.fromkeys(value for part in text.split("\\") if (value := part.strip("\0 "))))
    return tuple(found)


def _texts(fp: BinaryIO) -> Iterator[str]:
    end: int | None = fp.seek(0, os.SEEK_END)
    fp.seek(0)
    transfer_syntax_uid = read_file_meta(fp, end or 0)
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        fp, end = inflated_head(fp), None
    # By depth: an item that has no character set of its own has that of the dataset around it (PS3.3 C.12.1.1.2).
    encodings: list[tuple[str, ...]] = [DEFAULT]
    for element in dataset_elements(fp, transfer_syntax_uid, end=end, deep=True):
        if element.depth == 0 and element.tag >= FLOAT_PIXEL_DATA:
            return
        if element.tag == ITEM:
            del encodings[element.depth :]
            encodings.append(encodings[-1])
        elif element.length != UNDEFINED_LENGTH and element.length <= _SKIP_ABOVE:
            if element.tag == SPECIFIC_CHARACTER_SET:
                encodings[element.depth] = character_sets(_value(fp, element))
            elif _identifies(element.tag, _vr(element)):
                yield decode(_value(fp, element), encodings[element.depth])


def _value(fp: BinaryIO, element: Element) -> bytes:
    fp.seek(element.value_at)
    return fp.read(element.length)


def _vr(element: Element) -> str:
    if element.vr not in {"", "UN"}:
        return element.vr
    try:
        return dictionary_VR(element.tag)
    except KeyError:
        return "UN"


_IDENTIFYING = frozenset(
    (
        0x00080050,  # Accession Number
        0x00080080,  # Institution Name
        0x00080081,  # Institution Address
        0x00200010,  # Study ID
    )
)
# Words of every report rather than of one person: sex, age, size, weight, flags and type codes.
_NOT_IDENTIFYING = frozenset((0x00100022, 0x00100040, 0x00101010, 0x00101020, 0x00101030, 0x001021C0))
_TEXT_VRS = frozenset(("AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UT"))


def _identifies(tag: int, vr: str) -> bool:
    if vr == "PN" or tag in _IDENTIFYING:
        return True
    return tag >> 16 == 0x0010 and vr in _TEXT_VRS and tag not in _NOT_IDENTIFYING
