"""DICOM files: the header that a received dataset gets, and reading what somebody dropped into incoming/ (PS3.10 7.1).

A dropped file is walked to its end, so that one cut short is noticed before it is sent. A cut between two
data elements leaves a shorter dataset that is whole by itself: that cannot be noticed.
"""

import struct
import zlib
from typing import BinaryIO

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from common.character_sets import DEFAULT, decode
from common.errors import NotDicomError, NotStorableError, TruncatedError, UnreadableError
from common.instance import INFLATED_HEAD, Instance, dataset_elements, element_value, identity, instance_of, is_uid

IMPLEMENTATION_CLASS_UID = "2.25.271782391205669475302415948276877030226"
# A constant without a version: an archive that compares whole files must see the same bytes when a
# newer Stowgate sends an instance again (PS3.10 7.1).
IMPLEMENTATION_VERSION_NAME = "STOWGATE"

MEDIA_STORAGE_SOP_CLASS_UID = 0x00020002
MEDIA_STORAGE_SOP_INSTANCE_UID = 0x00020003
TRANSFER_SYNTAX_UID = 0x00020010

_META_TAGS = (MEDIA_STORAGE_SOP_CLASS_UID, MEDIA_STORAGE_SOP_INSTANCE_UID, TRANSFER_SYNTAX_UID)
_PREAMBLE = bytes(128)
_PREFIX = b"DICM"
_CHUNK = 64 * 1024


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
    values = identity(fp, transfer_syntax_uid, size_bytes, whole=True)
    instance = instance_of(values, transfer_syntax_uid)
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
            meta[element.tag] = decode(element_value(fp, element), DEFAULT)
    else:
        fp.seek(size_bytes)
    if meta.get(MEDIA_STORAGE_SOP_CLASS_UID) == MediaStorageDirectoryStorage:
        raise NotStorableError("expected a storable instance, found a DICOMDIR (PS3.10 8.6)")
    transfer_syntax_uid = meta.get(TRANSFER_SYNTAX_UID, "")
    if not is_uid(transfer_syntax_uid):
        raise UnreadableError("expected a Transfer Syntax UID (0002,0010) in the file meta, found none that is valid")
    return transfer_syntax_uid


def _check_deflated(fp: BinaryIO) -> None:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        while not inflate.eof:
            pending = inflate.unconsumed_tail or fp.read(_CHUNK)
            # zlib may have taken in the last byte and still hold back output: the end shows when it is called again.
            if not inflate.decompress(pending, INFLATED_HEAD) and not pending and not inflate.eof:
                raise TruncatedError("expected the end of the deflated dataset, found the end of the file")
    except zlib.error as error:
        raise UnreadableError("expected a deflated dataset (PS3.5 A.5), found bytes that do not inflate") from error


def _ui(element: int, uid: str) -> bytes:
    return _short(element, b"UI", uid.encode("ascii"), b"\0")


def _short(element: int, vr: bytes, value: bytes, padding: bytes) -> bytes:
    if len(value) % 2:
        value += padding
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value
