"""Which presentation contexts are accepted: every storage SOP class, in every transfer syntax that is proposed.

A private or brand-new SOP class needs no list of ours: what is storage is told from the UID (PS3.4 B.3, PS3.6 A).
What was found out about a UID is kept for the next association, since senders propose the same ones again and again.
"""

from collections.abc import Sequence
from functools import lru_cache

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage
from pynetdicom.presentation import PresentationContext, build_context

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


def choose(proposed: Sequence[PresentationContext]) -> list[PresentationContext]:
    """Choose a transfer syntax in each proposed context, and give the supported contexts that accept just these.

    Each context is decided by itself: one abstract syntax may stand in several, in different orders, and pynetdicom
    knows one order for each abstract syntax. So the choice is left as the only transfer syntax of the proposal.

    Args:
        proposed: the presentation contexts of an A-ASSOCIATE-RQ; their transfer syntaxes are reduced.

    Raises:
        ValueError: a context has no abstract syntax or no transfer syntax (PS3.8 9.3.2.2).
    """
    chosen: dict[str, dict[str, None]] = {}
    for context in proposed:
        if not context.abstract_syntax or not context.transfer_syntax:
            raise ValueError("expected an abstract syntax and transfer syntaxes in each presentation context")
        uid = str(context.abstract_syntax)
        if uid != VERIFICATION and not is_storage(uid):
            continue
        transfer_syntax = preferred([str(syntax) for syntax in context.transfer_syntax])
        # An abstract syntax of which no context has a usable transfer syntax stays supported, in none: result 4.
        accepted = chosen.setdefault(uid, {})
        if transfer_syntax is not None:
            context.transfer_syntax = [UID(transfer_syntax)]
            accepted[transfer_syntax] = None
    return [_supported(uid, list(transfer_syntaxes)) for uid, transfer_syntaxes in chosen.items()]


def _supported(uid: str, transfer_syntaxes: list[str]) -> PresentationContext:
    context = build_context(uid, transfer_syntaxes)
    # We are SCP only. Where no role is proposed these give the default roles, without a reply (PS3.7 D.3.3.4).
    context.scu_role = True
    context.scp_role = False
    return context
