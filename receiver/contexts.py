"""Which presentation contexts are accepted: every storage SOP class, in every transfer syntax that is proposed.

The supported contexts are made from the proposal, so that a private or brand-new SOP class needs no list of ours
and an association costs as much as it proposes (PS3.8 9.3.2, PS3.4 B).
"""

from collections.abc import Iterable

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage
from pynetdicom.presentation import PresentationContext, build_context

VERIFICATION = "1.2.840.10008.1.1"

_DICOM_ROOT = "1.2.840.10008."
_COMPOSITE_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."


def is_storage(uid: str) -> bool:
    """Tell whether an abstract syntax is a storage SOP class, standard, retired or private.

    What is not known to be something else counts as storage: outside the DICOM root everything, inside it what
    the standard calls a storage SOP class and what it has not defined yet under the root of those (PS3.6 A).
    """
    if not uid.startswith(_DICOM_ROOT):
        return True
    if uid == MediaStorageDirectoryStorage:
        return False  # of a DICOMDIR, which is a file on a medium, never sent (PS3.10 8.6)
    known = UID(uid)
    if known.name == uid:
        return uid.startswith(_COMPOSITE_STORAGE_ROOT)
    return known.type == "SOP Class" and "Storage" in known.name and not known.name.startswith("Storage ")


def choose(proposed: Iterable[PresentationContext]) -> list[PresentationContext]:
    """Choose a transfer syntax in each proposed context, and give the supported contexts that accept just these.

    The sender's order counts, except that Explicit VR Little Endian goes before Implicit VR Little Endian, which
    loses the VRs of private elements and which some archives do not take. Each context is decided by itself: the
    same abstract syntax may stand in several, in different orders, and pynetdicom has one order for each abstract
    syntax. So the choice is left as the only transfer syntax of the proposal.

    Args:
        proposed: the presentation contexts of an A-ASSOCIATE-RQ; their transfer syntaxes are reduced.
    """
    chosen: dict[str, dict[str, None]] = {}
    for context in proposed:
        uid = str(context.abstract_syntax)
        if uid == VERIFICATION or is_storage(uid):
            transfer_syntax = _preferred([str(syntax) for syntax in context.transfer_syntax])
            context.transfer_syntax = [UID(transfer_syntax)]
            chosen.setdefault(uid, {})[transfer_syntax] = None
    supported = []
    for uid, transfer_syntaxes in chosen.items():
        context = build_context(uid, list(transfer_syntaxes))
        # We are SCP only; without a role proposal these are the default roles (PS3.7 D.3.3.4).
        context.scu_role = True
        context.scp_role = False
        supported.append(context)
    return supported


def _preferred(transfer_syntaxes: list[str]) -> str:
    first = transfer_syntaxes[0]
    if first == ImplicitVRLittleEndian and ExplicitVRLittleEndian in transfer_syntaxes:
        return str(ExplicitVRLittleEndian)
    return first
