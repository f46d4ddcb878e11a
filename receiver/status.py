"""Which status a C-STORE is answered with when an instance is not taken (PS3.4 Table B.2-1, PS3.7 Annex C). Pure.

    Refusal                          status, ErrorComment, OffendingElement: all that the answer needs

A status outside 0x0000 tells the sender that the instance is still its own. 0xA7xx asks it to try again later;
0xA9xx, 0xCxxx and 0x01xx say that the same bytes will be refused again.
"""

import errno

from common.errors import InstanceError, LedgerError

SUCCESS = 0x0000
INVALID_INSTANCE = 0x0117  # Invalid SOP Instance (PS3.7 C.5.15)
SOP_CLASS_NOT_SUPPORTED = 0x0122
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

_COMMENT_MAX = 64  # ErrorComment (0000,0902) is LO
_DISK_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


class Refusal(Exception):  # noqa: N818 - an answer, not a failure of ours
    """An instance is not taken.

    Attributes:
        status: for the C-STORE response.
        comment: ErrorComment (0000,0902): at most 64 characters, no patient data.
        offending_element: the tag for OffendingElement (0000,0901), or None.
    """

    def __init__(self, status: int, comment: str, offending_element: int | None = None) -> None:
        super().__init__(comment)
        self.status = status
        self.comment = comment[:_COMMENT_MAX]
        self.offending_element = offending_element


def refusal(error: Exception) -> Refusal:
    """The answer for whatever went wrong while an instance was taken."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InstanceError):
        return Refusal(CANNOT_UNDERSTAND, str(error))
    if isinstance(error, LedgerError):
        return Refusal(OUT_OF_RESOURCES, "the instance cannot be recorded now")
    if isinstance(error, OSError):
        comment = "no space left" if error.errno in _DISK_FULL else "the instance cannot be written now"
        return Refusal(OUT_OF_RESOURCES, comment)
    # Unforeseen, so it may be ours: the sender is asked to try again rather than to give up.
    return Refusal(OUT_OF_RESOURCES, "the instance cannot be processed now")
