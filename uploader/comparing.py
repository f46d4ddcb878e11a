"""Whether two DICOM files hold the same dataset: what the archive gives back, against the file that was sent.

Compared is every data element: its tag, and the bytes of its value. Left out is what says nothing about the instance,
and what an archive may therefore write anew: the preamble and the File Meta Information (PS3.10 7.1), group lengths
(PS3.5 7.2), the Data Set Trailing Padding, zeros at the end, VRs, and whether the length of a sequence or an item is
defined. Nothing else: an element that was added, dropped or changed makes another dataset of it.

Both are read forward only, and memory does not grow with them. Values of another byte order or compression cannot be
compared. Where elements cannot be parsed, what is left is compared as bytes.
"""

from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from common.instance import is_uid
from uploader.element_digests import Read, Source, elements, transfer_syntax

_LITTLE = frozenset((ImplicitVRLittleEndian, ExplicitVRLittleEndian))


class Likeness(Enum):
    """What a comparison comes to."""

    SAME = "same"
    DIFFERENT = "different"
    INCOMPARABLE = "incomparable"
    """They are encoded so differently that it cannot be told."""
    NOT_DICOM = "not DICOM"
    """The archive's is no DICOM file."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result, with a reason that quotes no value: safe for a log."""

    likeness: Likeness
    detail: str


def compare(ours: Read, theirs: Read) -> Comparison:
    """Compare two DICOM files (PS3.10 7.1) by their datasets.

    Args:
        ours: the file that was sent.
        theirs: what the archive has under its UID.
    """
    sent, kept = Source(ours), Source(theirs)
    syntaxes = transfer_syntax(sent), transfer_syntax(kept)
    if syntaxes[1] is None:
        return Comparison(Likeness.NOT_DICOM, "expected a DICOM file (PS3.10 7.1) from the archive, found none")
    if syntaxes[0] != syntaxes[1] and not _LITTLE.issuperset(syntaxes):
        found = syntaxes[1] if is_uid(syntaxes[1]) else "one that is no UID"  # else anything could stand there
        return Comparison(
            Likeness.INCOMPARABLE,
            f"expected the transfer syntax {syntaxes[0]}, found {found}: their values cannot be compared",
        )
    for one, other in zip_longest(elements(sent, syntaxes[0]), elements(kept, syntaxes[1])):
        if one != other:
            where = min(found.tag for found in (one, other) if found is not None)
            return Comparison(
                Likeness.DIFFERENT, f"it differs from the archive's at ({where >> 16:04X},{where & 0xFFFF:04X})"
            )
    return Comparison(Likeness.SAME, "the archive has the same dataset")
