"""What the ledger knows of one SOP instance; apart from how it is read, so that asking the ledger needs no pydicom."""

import re
from dataclasses import dataclass

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
