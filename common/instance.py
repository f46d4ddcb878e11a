"""What Stowgate knows of an instance, and how it is read.

Two readers share one parser. `read_dataset` takes a dataset without file meta, as it arrives in
C-STORE, and stops once the identity is known. `read_part10` takes a file that somebody dropped into
incoming/ and walks it to its end, so that a file cut short is noticed before it is sent. A cut between two
data elements leaves a shorter dataset that is whole by itself: that cannot be noticed. Neither decodes
pixel data nor holds large values in memory.

Fatal for the instance: what `common.errors.InstanceError` lists. Everything else about a dataset is
the archive's to judge: we forward bytes, we do not correct them.
"""

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pydicom.config
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from common.character_sets import DEFAULT, character_sets, decode
from common.elements import UNDEFINED_LENGTH, Element, walk
from common.errors import NotDicomError, NotStorableError, TruncatedError, UnreadableError

# A value that breaks its VR's rules is the archive's to judge; pydicom's warning would quote it.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

IMPLEMENTATION_CLASS_UID = "2.25.271782391205669475302415948276877030226"
# A constant without a version: an archive that compares whole files must see the same bytes when a
# newer Stowgate sends an instance again (PS3.10 7.1).
IMPLEMENTATION_VERSION_NAME = "STOWGATE"

SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
MODALITY = 0x00080060
PATIENT_ID = 0x00100020
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
MEDIA_STORAGE_SOP_CLASS_UID = 0x00020002
MEDIA_STORAGE_SOP_INSTANCE_UID = 0x00020003
TRANSFER_SYNTAX_UID = 0x00020010

_META_TAGS = (MEDIA_STORAGE_SOP_CLASS_UID, MEDIA_STORAGE_SOP_INSTANCE_UID, TRANSFER_SYNTAX_UID)
_DATASET_TAGS = (
    SPECIFIC_CHARACTER_SET,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    MODALITY,
    PATIENT_ID,
    STUDY_INSTANCE_UID,
    SERIES_INSTANCE_UID,
)
_PREAMBLE = bytes(128)
_PREFIX = b"DICM"
_MAX_VALUE = 64 * 1024  # of an identifying element; anything longer is rubbish and must not fill memory
_MAX_TEXT = 1024
_CHUNK = 64 * 1024
_INFLATED_HEAD = 1024 * 1024
_UID = re.compile(r"[0-9]+(\.[0-9]+)*\Z")


@dataclass(frozen=True, slots=True)
class Instance:
    """The identity of one SOP instance, as the ledger keeps it.

    UIDs are text without padding. `patient_id`, `study_instance_uid`, `series_instance_uid` and
    `modality` are empty where the dataset has none (PS3.3 C.7, C.12.1).
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    patient_id: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    modality: str = ""


def is_uid(text: str) -> bool:
    """Tell whether `text` is a UID: at most 64 characters, digits in components (PS3.5 9.1).

    Leading zeros in a component are let pass: devices in the field write them, and refusing an
    instance for it would lose it.
    """
    return len(text) <= 64 and _UID.match(text) is not None


def part10_header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and File Meta Information for a received dataset (PS3.10 7.1).

    The same arguments give the same bytes, always: nothing of the time, the sender or our version.
    """
    elements = b"".join(
        (
            struct.pack("<HH2sHL2s", 0x0002, 0x0001, b"OB", 0, 2, b"\x00\x01"),
            _ui(0x0002, sop_class_uid),
            _ui(0x0003, sop_instance_uid),
            _ui(0x0010, transfer_syntax_uid),
            _ui(0x0012, IMPLEMENTATION_CLASS_UID),
            _short(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii"), b" "),
        )
    )
    group_length = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(elements))
    return _PREAMBLE + _PREFIX + group_length + elements


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
        values = _identity(fp, transfer_syntax_uid, end, whole=False)
    except TruncatedError as error:
        raise UnreadableError(str(error)) from error
    for tag, name in (
        (SOP_CLASS_UID, "SOP Class UID (0008,0016)"),
        (SOP_INSTANCE_UID, "SOP Instance UID (0008,0018)"),
    ):
        if not values.get(tag):
            raise UnreadableError(f"expected {name} in the dataset, found none")
    return _instance(values, transfer_syntax_uid)


def read_part10(fp: BinaryIO, size_bytes: int) -> Instance:
    """Read the identity of a DICOM file and make sure that it is whole.

    Args:
        fp: seekable, positioned at 0.
        size_bytes: the size that the file had when it was claimed.

    Raises:
        NotDicomError: no preamble and prefix.
        TruncatedError: it ends inside a data element.
        UnreadableError: it cannot be parsed, or has no usable transfer syntax.
        NotStorableError: a DICOMDIR, or no valid SOP Class or SOP Instance UID.
    """
    transfer_syntax_uid = read_file_meta(fp, size_bytes)
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        start = fp.tell()
        _check_deflated(fp)
        fp.seek(start)
    values = _identity(fp, transfer_syntax_uid, size_bytes, whole=True)
    instance = _instance(values, transfer_syntax_uid)
    for text, name in (
        (instance.sop_class_uid, "SOP Class UID (0008,0016)"),
        (instance.sop_instance_uid, "SOP Instance UID (0008,0018)"),
    ):
        if not is_uid(text):
            raise NotStorableError(f"expected a valid {name} in the dataset, found none")
    return instance


def read_file_meta(fp: BinaryIO, size_bytes: int) -> str:
    """Read the file meta of a DICOM file, and leave `fp` at the first byte of its dataset.

    Args:
        fp: seekable, positioned at 0.
        size_bytes: of the file.

    Returns:
        The Transfer Syntax UID.

    Raises:
        NotDicomError: no preamble and prefix.
        TruncatedError: it ends inside the file meta.
        UnreadableError: the file meta cannot be parsed, or has no usable transfer syntax.
        NotStorableError: a DICOMDIR.
    """
    head = fp.read(132)
    if len(head) < 132 or head[128:] != _PREFIX:
        raise NotDicomError("expected the prefix DICM at offset 128 (PS3.10 7.1), found none")
    meta: dict[int, str] = {}
    for element in dataset_elements(fp, ExplicitVRLittleEndian, end=size_bytes):
        if element.tag >> 16 != 0x0002:
            fp.seek(element.at)
            break
        if element.tag in _META_TAGS:
            meta[element.tag] = decode(_value(fp, element), DEFAULT)
    else:
        fp.seek(size_bytes)
    if meta.get(MEDIA_STORAGE_SOP_CLASS_UID) == MediaStorageDirectoryStorage:
        raise NotStorableError("expected a storable instance, found a DICOMDIR (PS3.10 8.6)")
    transfer_syntax_uid = meta.get(TRANSFER_SYNTAX_UID, "")
    if not is_uid(transfer_syntax_uid):
        raise UnreadableError("expected a Transfer Syntax UID (0002,0010) in the file meta, found none that is valid")
    return transfer_syntax_uid


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
        return io.BytesIO(inflate.decompress(fp.read(_INFLATED_HEAD), _INFLATED_HEAD))
    except zlib.error as error:
        raise UnreadableError("expected a deflated dataset (PS3.5 A.5), found bytes that do not inflate") from error


def _identity(fp: BinaryIO, transfer_syntax_uid: str, end: int, *, whole: bool) -> dict[int, str]:
    """The text of the elements of the identity, by tag. `whole`: walk to the end, and make sure of it."""
    limit: int | None = end
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        fp, limit, whole = inflated_head(fp), None, False
    raw: dict[int, bytes] = {}
    for element in dataset_elements(fp, transfer_syntax_uid, end=limit):
        if element.tag > SERIES_INSTANCE_UID and not whole:
            break
        if element.tag in _DATASET_TAGS:
            raw[element.tag] = _value(fp, element)
    encodings = character_sets(raw.pop(SPECIFIC_CHARACTER_SET, b""))
    return {
        # Of these only the Patient ID may leave the default character repertoire (PS3.5 6.1.2.2).
        tag: decode(value, encodings if tag == PATIENT_ID else DEFAULT)[:_MAX_TEXT]
        for tag, value in raw.items()
    }


def _value(fp: BinaryIO, element: Element) -> bytes:
    if element.length == UNDEFINED_LENGTH:
        return b""
    if element.length > _MAX_VALUE:
        raise UnreadableError(
            f"expected at most {_MAX_VALUE} bytes in {element.tag:08X}, found a length of {element.length}"
        )
    fp.seek(element.value_at)
    return fp.read(element.length)


def _instance(values: dict[int, str], transfer_syntax_uid: str) -> Instance:
    return Instance(
        sop_class_uid=values.get(SOP_CLASS_UID, ""),
        sop_instance_uid=values.get(SOP_INSTANCE_UID, ""),
        transfer_syntax_uid=transfer_syntax_uid,
        patient_id=values.get(PATIENT_ID, ""),
        study_instance_uid=values.get(STUDY_INSTANCE_UID, ""),
        series_instance_uid=values.get(SERIES_INSTANCE_UID, ""),
        modality=values.get(MODALITY, ""),
    )


def _check_deflated(fp: BinaryIO) -> None:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        while not inflate.eof:
            pending = inflate.unconsumed_tail or fp.read(_CHUNK)
            # zlib may have taken in the last byte and still hold back output: the end shows when it is called again.
            if not inflate.decompress(pending, _INFLATED_HEAD) and not pending and not inflate.eof:
                raise TruncatedError("expected the end of the deflated dataset, found the end of the file")
    except zlib.error as error:
        raise UnreadableError("expected a deflated dataset (PS3.5 A.5), found bytes that do not inflate") from error


def _ui(element: int, uid: str) -> bytes:
    return _short(element, b"UI", uid.encode("ascii"), b"\0")


def _short(element: int, vr: bytes, value: bytes, padding: bytes) -> bytes:
    if len(value) % 2:
        value += padding
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value
