"""What Stowgate knows of an instance, and how it is read from a dataset without file meta, as it arrives in C-STORE.

Reading stops once the identity is known; files with file meta, which are walked to their end, are
common.part10's. Neither decodes pixel data nor holds large values in memory.

Fatal for the instance: what `common.errors.InstanceError` lists. Everything else about a dataset is
the archive's to judge: we forward bytes, we do not correct them.
"""

import io
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import pydicom.config
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from common.character_sets import DEFAULT, character_sets, decode
from common.elements import UNDEFINED_LENGTH, Element, walk
from common.errors import TruncatedError, UnreadableError
from common.plain_values import plain_values
from common.sop_instance import Instance, is_uid

__all__ = [
    "INFLATED_HEAD",
    "MODALITY",
    "PATIENT_ID",
    "SERIES_INSTANCE_UID",
    "SOP_CLASS_UID",
    "SOP_INSTANCE_UID",
    "SPECIFIC_CHARACTER_SET",
    "STUDY_INSTANCE_UID",
    "Instance",
    "dataset_elements",
    "element_value",
    "identity",
    "inflated_head",
    "instance_of",
    "is_uid",
    "read_dataset",
    "read_head",
]

# A value that breaks its VR's rules is the archive's to judge; pydicom's warning would quote it.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
MODALITY = 0x00080060
PATIENT_ID = 0x00100020
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
_DATASET_TAGS = frozenset(
    (
        SPECIFIC_CHARACTER_SET,
        SOP_CLASS_UID,
        SOP_INSTANCE_UID,
        MODALITY,
        PATIENT_ID,
        STUDY_INSTANCE_UID,
        SERIES_INSTANCE_UID,
    )
)
_MAX_VALUE = 64 * 1024  # of an identifying element; anything longer is rubbish and must not fill memory
_MAX_TEXT = 1024
INFLATED_HEAD = 1024 * 1024


def read_dataset(fp: BinaryIO, transfer_syntax_uid: str) -> Instance:
    """Read the identity of a dataset that came without file meta.

    Args:
        fp: seekable, positioned at the first byte of the dataset; its position afterwards is undefined.
        transfer_syntax_uid: of the presentation context.

    Raises:
        UnreadableError: the dataset cannot be parsed as far as its identity, or lacks a UID of it.
    """
    start = fp.tell()
    end = fp.seek(0, os.SEEK_END)
    fp.seek(start)
    try:
        values = identity(fp, transfer_syntax_uid, end, whole=False)
    except TruncatedError as error:
        raise UnreadableError(str(error)) from error
    for tag, name in (
        (SOP_CLASS_UID, "SOP Class UID (0008,0016)"),
        (SOP_INSTANCE_UID, "SOP Instance UID (0008,0018)"),
    ):
        if not values.get(tag):
            raise UnreadableError(f"expected {name} in the dataset, found none")
    return instance_of(values, transfer_syntax_uid)


def read_head(head: bytes | bytearray, size_bytes: int, transfer_syntax_uid: str) -> Instance | None:
    """Read the identity from the first bytes of a dataset, as `read_dataset` would from all of them.

    Args:
        head: the first bytes.
        size_bytes: of the whole dataset.
        transfer_syntax_uid: of the presentation context.

    Returns:
        None if these bytes are too few to tell, or not as plain as `plain_values` wants them; `read_dataset` tells.
    """
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return None
    raw = plain_values(
        head,
        size_bytes,
        _DATASET_TAGS,
        implicit=transfer_syntax_uid == ImplicitVRLittleEndian,
        little_endian=transfer_syntax_uid != ExplicitVRBigEndian,
    )
    if raw is None:
        return None
    values = _decoded(raw)
    if not (values.get(SOP_CLASS_UID) and values.get(SOP_INSTANCE_UID)):
        return None
    return instance_of(values, transfer_syntax_uid)


def dataset_elements(
    fp: BinaryIO, transfer_syntax_uid: str, *, end: int | None, deep: bool = False
) -> Iterator[Element]:
    """Walk the elements of a dataset that is not deflated; see `common.elements.walk`."""
    return walk(
        fp,
        implicit=transfer_syntax_uid == ImplicitVRLittleEndian,
        little_endian=transfer_syntax_uid != ExplicitVRBigEndian,
        end=end,
        deep=deep,
    )


def inflated_head(fp: BinaryIO) -> BinaryIO:
    """The first megabyte of a deflated dataset, inflated (PS3.5 A.5).

    Args:
        fp: positioned at the first byte of the dataset.

    Raises:
        UnreadableError: it does not inflate.
    """
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return io.BytesIO(inflate.decompress(fp.read(INFLATED_HEAD), INFLATED_HEAD))
    except zlib.error as error:
        raise UnreadableError("expected a deflated dataset (PS3.5 A.5), found bytes that do not inflate") from error


def identity(fp: BinaryIO, transfer_syntax_uid: str, end: int, *, whole: bool) -> dict[int, str]:
    """The text of the elements that identify an instance, by tag.

    Args:
        fp: seekable, at the first byte of the dataset.
        transfer_syntax_uid: in which it is encoded.
        end: the offset where it ends.
        whole: walk to the end, and make sure of it.

    Raises:
        InstanceError: what `walk` raises.
    """
    limit: int | None = end
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        fp, limit, whole = inflated_head(fp), None, False
    raw: dict[int, bytes] = {}
    for element in dataset_elements(fp, transfer_syntax_uid, end=limit):
        if element.tag > SERIES_INSTANCE_UID and not whole:
            break
        if element.tag in _DATASET_TAGS:
            raw[element.tag] = element_value(fp, element)
    return _decoded(raw)


def _decoded(raw: dict[int, bytes]) -> dict[int, str]:
    """The values as text, in the character set that is among them."""
    encodings = character_sets(raw.pop(SPECIFIC_CHARACTER_SET, b""))
    return {
        # Of these only the Patient ID may leave the default character repertoire (PS3.5 6.1.2.2).
        tag: decode(value, encodings if tag == PATIENT_ID else DEFAULT)[:_MAX_TEXT]
        for tag, value in raw.items()
    }


def element_value(fp: BinaryIO, element: Element) -> bytes:
    """The bytes of a value, as far as they are there; none of one of undefined length.

    Raises:
        UnreadableError: it is longer than any value of an identity.
    """
    if element.length == UNDEFINED_LENGTH:
        return b""
    if element.length > _MAX_VALUE:
        raise UnreadableError(
            f"expected at most {_MAX_VALUE} bytes in {element.tag:08X}, found a length of {element.length}"
        )
    fp.seek(element.value_at)
    return fp.read(element.length)


def instance_of(values: dict[int, str], transfer_syntax_uid: str) -> Instance:
    """The instance of an `identity`; what it lacks is empty."""
    return Instance(
        sop_class_uid=values.get(SOP_CLASS_UID, ""),
        sop_instance_uid=values.get(SOP_INSTANCE_UID, ""),
        transfer_syntax_uid=transfer_syntax_uid,
        patient_id=values.get(PATIENT_ID, ""),
        study_instance_uid=values.get(STUDY_INSTANCE_UID, ""),
        series_instance_uid=values.get(SERIES_INSTANCE_UID, ""),
        modality=values.get(MODALITY, ""),
    )
