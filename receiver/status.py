"""Which status a C-STORE is answered with when an instance is not taken (PS3.4 Table B.2-1, PS3.7 Annex C). Pure.

    Refusal                          status, ErrorComment, OffendingElement: all that the answer needs

Every status but 0x0000 tells the sender that the instance is still its own. 0xA7xx asks it to try again later;
0xA9xx, 0xCxxx and 0x01xx say that the same bytes will be refused again. An error that is not about the instance
is never answered with one of those: the sender could give up on a good instance.
"""

import errno

from common.errors import InstanceError, LedgerError, StowgateError

SUCCESS = 0x0000
INVALID_SOP_INSTANCE = 0x0117
SOP_CLASS_NOT_SUPPORTED = 0x0122
OUT_OF_RESOURCES = 0xA700
DATASET_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

_COMMENT_CHARACTERS = 64  # Error Comment (0000,0902) is LO
_DISK_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


class Refusal(StowgateError):  # noqa: N818 - an answer, not a failure of ours
    """An instance is not taken.

    Attributes:
        status: of the C-STORE response.
        reason: in words, for the log; without patient data.
        comment: Error Comment (0000,0902), at most 64 characters; empty where the status has no such field.
        offending_element: the tag for Offending Element (0000,0901), or None.
    """

    def __init__(self, status: int, reason: str, *, comment: str = "", offending_element: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.comment = comment[:_COMMENT_CHARACTERS]
        self.offending_element = offending_element


def malformed_uid(name: str) -> Refusal:
    """The Affected SOP Class or SOP Instance UID of the command is missing or no UID (PS3.5 9.1).

    It has no Error Comment: the only field that goes with 0x0117 is the Affected SOP Instance UID (PS3.7 C.5).
    """
    return Refusal(INVALID_SOP_INSTANCE, f"{name} of the command is no UID")


def not_negotiated() -> Refusal:
    """The SOP class of the command, or of its presentation context, is no storage SOP class.

    0x0122 and not 0xA900, which is about command and dataset (PS3.4 B.2.3).
    """
    reason = "SOP Class is no storage SOP class"
    return Refusal(SOP_CLASS_NOT_SUPPORTED, reason, comment=reason)


def no_dataset() -> Refusal:
    """The command came without a dataset."""
    return Refusal(CANNOT_UNDERSTAND, "no dataset", comment="no dataset")


def no_room() -> Refusal:
    """Less than `min_free` is left on the spool's disk."""
    return Refusal(OUT_OF_RESOURCES, "free space is below min_free", comment="not enough free disk space")


def mismatch(name: str, tag: int) -> Refusal:
    """A UID of the dataset is not that of the command.

    Args:
        name: of the data element.
        tag: of the data element.
    """
    reason = f"{name} of command and dataset differ"
    return Refusal(DATASET_MISMATCH, reason, comment=reason, offending_element=tag)


def refusal(error: Exception) -> Refusal:
    """The answer to whatever went wrong while an instance was taken."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InstanceError):
        return Refusal(CANNOT_UNDERSTAND, str(error), comment="dataset cannot be parsed as far as its identity")
    if isinstance(error, LedgerError):
        return Refusal(OUT_OF_RESOURCES, str(error), comment="the instance cannot be recorded now")
    if isinstance(error, OSError):
        comment = "no space left" if error.errno in _DISK_FULL else "the instance cannot be written now"
        return Refusal(OUT_OF_RESOURCES, error.strerror or type(error).__name__, comment=comment)
    # Unforeseen, so it may be ours: the sender is asked to try again rather than told to give up.
    return Refusal(OUT_OF_RESOURCES, type(error).__name__, comment="the instance cannot be taken now")
