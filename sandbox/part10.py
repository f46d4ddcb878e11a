"""Checks one part of a request: is it a DICOM Part 10 file, and whose (PS3.10 7.1)?

It reads the file meta and the dataset as far as the Series Instance UID, out of the first HEAD_BYTES of the
part, which are all that need be in memory. What comes after is not looked at: the sandbox checks how instances
are sent, not how they were made.
"""

import io
import re
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.filereader import data_element_generator
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPIPHTJ2KReferencedDeflate,
)

from sandbox.errors import Part10Error

CANNOT_UNDERSTAND = 0xC000
DOES_NOT_MATCH = 0xA900

HEAD_BYTES = 4 * 1024 * 1024

_PREFIX_END = 132
_GROUP_LENGTH_ELEMENT_BYTES = 12
_FILE_META_GROUP = 0x0002
_FILE_META_INFORMATION_GROUP_LENGTH = 0x00020000
_MEDIA_STORAGE_SOP_CLASS_UID = 0x00020002
_MEDIA_STORAGE_SOP_INSTANCE_UID = 0x00020003
_TRANSFER_SYNTAX_UID = 0x00020010
_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018
_STUDY_INSTANCE_UID = 0x0020000D
_SERIES_INSTANCE_UID = 0x0020000E

_NAMES = {
    _FILE_META_INFORMATION_GROUP_LENGTH: "FileMetaInformationGroupLength (0002,0000)",
    0x00020001: "FileMetaInformationVersion (0002,0001)",
    _MEDIA_STORAGE_SOP_CLASS_UID: "MediaStorageSOPClassUID (0002,0002)",
    _MEDIA_STORAGE_SOP_INSTANCE_UID: "MediaStorageSOPInstanceUID (0002,0003)",
    _TRANSFER_SYNTAX_UID: "TransferSyntaxUID (0002,0010)",
    0x00020012: "ImplementationClassUID (0002,0012)",
    _SOP_CLASS_UID: "SOPClassUID (0008,0016)",
    _SOP_INSTANCE_UID: "SOPInstanceUID (0008,0018)",
    _STUDY_INSTANCE_UID: "StudyInstanceUID (0020,000D)",
    _SERIES_INSTANCE_UID: "SeriesInstanceUID (0020,000E)",
}
_REQUIRED_META = [tag for tag in _NAMES if tag >> 16 == _FILE_META_GROUP]  # Type 1 in PS3.10 Table 7.1-1
_DATASET_TAGS = [tag for tag in _NAMES if tag >> 16 != _FILE_META_GROUP]

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_UID_MAX = 64

# GE's private syntax is Implicit VR Little Endian but for its pixel data, which is not read here.
_IMPLICIT = {ImplicitVRLittleEndian, "1.2.840.113619.5.2"}
# The last one is JPIP Referenced Deflate, which pydicom has no name for.
_DEFLATED = {DeflatedExplicitVRLittleEndian, JPIPHTJ2KReferencedDeflate, "1.2.840.10008.1.2.4.95"}


@dataclass(frozen=True)
class Identity:
    """What a part says it is. Every UID in it is valid, so that a UID may name a file."""

    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None


@dataclass(frozen=True)
class Checked:
    """The result of a check: an identity as far as it is known, and what is wrong, if anything."""

    identity: Identity
    error: Part10Error | None = None


def is_uid(text: str) -> bool:
    """Say whether a text is a valid UID of at most 64 characters (PS3.5 9.1)."""
    return len(text) <= _UID_MAX and _UID.fullmatch(text) is not None


def check_part10(head: bytes) -> Checked:
    """Check the beginning of a Part 10 file.

    Args:
        head: the first HEAD_BYTES bytes of the file, or all of it.

    Returns:
        The identity that the dataset claims (where it has none, the one of the file meta), with the first
        thing that is wrong: FailureReason 0xC000 for what cannot be understood, 0xA900 where file meta and
        dataset name different SOP Class or Instance UIDs.
    """
    values: dict[int, bytes] = {}
    error = None
    try:
        _read(io.BytesIO(head), values)
        _compare(values)
    except Part10Error as problem:
        error = problem
    except Exception as problem:  # noqa: BLE001  pydicom raises a dozen types at rubbish; none may end a request
        error = Part10Error(
            CANNOT_UNDERSTAND, f"expected data elements (PS3.5 7.1), found what raises {type(problem).__name__}"
        )
    return Checked(_identity(values), error)


def _read(file: BinaryIO, values: dict[int, bytes]) -> None:
    file.seek(_PREFIX_END - 4)
    if file.read(4) != b"DICM":
        raise Part10Error(CANNOT_UNDERSTAND, "expected DICM after a preamble of 128 bytes (PS3.10 7.1), found none")
    for element in data_element_generator(
        file,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag.group != _FILE_META_GROUP,
        specific_tags=_REQUIRED_META,
    ):
        _keep(values, element.tag, element.value, getattr(element, "length", 0))
    _check_meta(values, file.tell())
    transfer_syntax = _uid(values, _TRANSFER_SYNTAX_UID)
    if transfer_syntax in _DEFLATED:
        file = io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), HEAD_BYTES))
    for element in data_element_generator(
        file,
        is_implicit_VR=transfer_syntax in _IMPLICIT,
        is_little_endian=transfer_syntax != ExplicitVRBigEndian,
        stop_when=lambda tag, _vr, _length: int(tag) > _SERIES_INSTANCE_UID,
        specific_tags=_DATASET_TAGS,
    ):
        _keep(values, element.tag, element.value, getattr(element, "length", 0))


def _keep(values: dict[int, bytes], tag: int, value: object, length: int) -> None:
    if tag not in _NAMES:
        return
    value = value or b""
    if not isinstance(value, bytes) or len(value) != length:
        raise Part10Error(CANNOT_UNDERSTAND, f"expected {length} bytes as value of {_NAMES[tag]}, found another number")
    values[tag] = value


def _check_meta(values: dict[int, bytes], end: int) -> None:
    for tag in _REQUIRED_META:
        if not values.get(tag):
            raise Part10Error(CANNOT_UNDERSTAND, f"expected {_NAMES[tag]} (PS3.10 Table 7.1-1), found none")
    length = int.from_bytes(values[_FILE_META_INFORMATION_GROUP_LENGTH], "little")
    found = end - _PREFIX_END - _GROUP_LENGTH_ELEMENT_BYTES
    if length != found:
        raise Part10Error(
            CANNOT_UNDERSTAND,
            f"expected {length} bytes of file meta as (0002,0000) says, found {found}",
        )


def _compare(values: dict[int, bytes]) -> None:
    for in_meta, in_dataset in (
        (_MEDIA_STORAGE_SOP_CLASS_UID, _SOP_CLASS_UID),
        (_MEDIA_STORAGE_SOP_INSTANCE_UID, _SOP_INSTANCE_UID),
    ):
        if _uid(values, in_meta) != _uid(values, in_dataset):
            raise Part10Error(
                DOES_NOT_MATCH, f"expected {_NAMES[in_dataset]} to be {_NAMES[in_meta]}, found different ones"
            )
    _uid(values, _STUDY_INSTANCE_UID)


def _uid(values: dict[int, bytes], tag: int) -> str:
    value = values.get(tag)
    if value is None:
        raise Part10Error(CANNOT_UNDERSTAND, f"expected {_NAMES[tag]}, found none")
    # Decoded like this every byte is a character, and those outside ASCII fail the test.
    text = value.removesuffix(b"\0").decode("latin-1")
    if not is_uid(text):
        raise Part10Error(CANNOT_UNDERSTAND, f"expected a UID in {_NAMES[tag]} (PS3.5 9.1), found none that is valid")
    return text


def _identity(values: dict[int, bytes]) -> Identity:
    def first_valid(*tags: int) -> str | None:
        for tag in tags:
            text = values.get(tag, b"").removesuffix(b"\0").decode("latin-1")
            if is_uid(text):
                return text
        return None

    return Identity(
        sop_class_uid=first_valid(_SOP_CLASS_UID, _MEDIA_STORAGE_SOP_CLASS_UID),
        sop_instance_uid=first_valid(_SOP_INSTANCE_UID, _MEDIA_STORAGE_SOP_INSTANCE_UID),
        study_instance_uid=first_valid(_STUDY_INSTANCE_UID),
        series_instance_uid=first_valid(_SERIES_INSTANCE_UID),
    )
