"""Which presentation contexts are accepted: every storage SOP class, in every transfer syntax that is proposed.

A private or brand-new SOP class needs no list of ours: what is storage is told from the UID (PS3.4 B.3, PS3.6 A).
What was found out about a UID is kept for the next association, since senders propose the same ones again and again.
"""

from collections.abc import Sequence
from functools import lru_cache

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from common.instance import is_uid

VERIFICATION = "1.2.840.10008.1.1"

_DICOM_ROOT = "1.2.840.10008."
_COMPOSITE_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."
_UID_CHARACTERS = 64
_KEPT = 1024  # UIDs; a peer that makes up new ones costs the others their place, and no memory


def is_storage(uid: str) -> bool:
    """Tell whether an abstract syntax is a storage SOP class: standard, retired or private.

    What is not known to be something else counts as storage: outside the DICOM root every UID; inside it what
    PS3.6 Table A-1 calls a storage SOP class, and what it has not named (yet, or any more) under the root of those.
    """
    return len(uid) <= _UID_CHARACTERS and _is_storage(uid)


@lru_cache(_KEPT)
def _is_storage(uid: str) -> bool:
    if not is_uid(uid):
        return False
    if not uid.startswith(_DICOM_ROOT):
        return True
    if uid == MediaStorageDirectoryStorage:
        return False  # of a DICOMDIR, which is a file on a medium and never sent (PS3.10 8.6)
    known = UID(uid)
    # pydicom gives the UID itself as the name of one that it does not know; a few retired ones have an empty name.
    if known.name in (uid, ""):
        return uid.startswith(_COMPOSITE_STORAGE_ROOT)
    return known.type == "SOP Class" and "Storage" in known.name and not known.name.startswith("Storage Commitment")


def preferred(transfer_syntaxes: Sequence[str]) -> str | None:
    """The transfer syntax to accept in one presentation context, None if no UID of a transfer syntax is proposed.

    The first proposed, but Explicit VR Little Endian rather than Implicit VR Little Endian, which loses the VRs of
    private elements and which some archives do not take.
    """
    usable = [uid for uid in transfer_syntaxes if len(uid) <= _UID_CHARACTERS and _may_be_transfer_syntax(uid)]
    if not usable:
        return None
    if usable[0] == ImplicitVRLittleEndian and ExplicitVRLittleEndian in usable:
        return str(ExplicitVRLittleEndian)
    return usable[0]


@lru_cache(_KEPT)
def _may_be_transfer_syntax(uid: str) -> bool:
    return is_uid(uid) and UID(uid).type in ("", "Transfer Syntax")
