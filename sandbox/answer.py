"""The Store Instances Response: which instances were stored, which were not, and why (PS3.18 10.5.3, Annex I).

One dataset, written as DICOM JSON Model (PS3.18 Annex F) or Native DICOM Model XML (PS3.19 A.1).
"""

import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from sandbox.media import Media
from sandbox.part10 import Identity

_NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"


@dataclass(frozen=True)
class Outcome:
    """What became of one instance.

    Attributes:
        identity: the UIDs as far as they are known.
        failure_reason: 0 if it is stored, else the value for FailureReason (0008,1197).
        warning_reason: 0, or the value for WarningReason (0008,1196) of a stored instance.
        explanation: why it failed, for a person.
        named: False to report a failure without saying whose.
    """

    identity: Identity
    failure_reason: int = 0
    warning_reason: int = 0
    explanation: str = ""
    named: bool = True

    @property
    def label(self) -> str:
        """The SOP Instance UID, for a line of text."""
        return self.identity.sop_instance_uid or "unnamed"


def status_of(outcomes: Sequence[Outcome]) -> int:
    """Choose the HTTP status (PS3.18 Table 10.5.3-1): 200 all stored, 202 some or with warnings, 409 none."""
    failed = sum(1 for outcome in outcomes if outcome.failure_reason)
    if failed == len(outcomes):
        return 409
    return 202 if failed or any(outcome.warning_reason for outcome in outcomes) else 200


def build_response(outcomes: Sequence[Outcome], studies_url: str) -> Dataset:
    """Build the response (PS3.18 Table I.2-1).

    Args:
        outcomes: one for each part of the request, in its order.
        studies_url: the URL of the studies resource, for the RetrieveURLs.
    """
    response = Dataset()
    stored = [outcome for outcome in outcomes if not outcome.failure_reason]
    failed = [outcome for outcome in outcomes if outcome.failure_reason]
    studies = {outcome.identity.study_instance_uid for outcome in stored}
    response.RetrieveURL = f"{studies_url}/{studies.pop()}" if len(studies) == 1 else None
    if stored:
        response.ReferencedSOPSequence = [_referenced(outcome, studies_url) for outcome in stored]
    named = [outcome for outcome in failed if outcome.named and outcome.identity.sop_instance_uid]
    if named:
        response.FailedSOPSequence = [_failed(outcome) for outcome in named]
    others = [outcome for outcome in failed if not (outcome.named and outcome.identity.sop_instance_uid)]
    if others:
        response.OtherFailuresSequence = [_unnamed(outcome) for outcome in others]
    return response


def encode(response: Dataset, media: Media) -> bytes:
    """Write a response as JSON or XML, in UTF-8."""
    if media is Media.JSON:
        return json.dumps(response.to_json_dict()).encode()
    root = ET.Element("NativeDicomModel", {"xmlns": _NAMESPACE, "xml:space": "preserve"})
    _append(root, response)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _referenced(outcome: Outcome, studies_url: str) -> Dataset:
    identity = outcome.identity
    entry = _reference(identity)
    if identity.series_instance_uid:
        entry.RetrieveURL = (
            f"{studies_url}/{identity.study_instance_uid}/series/{identity.series_instance_uid}"
            f"/instances/{identity.sop_instance_uid}"
        )
    if outcome.warning_reason:
        entry.WarningReason = outcome.warning_reason
    return entry


def _failed(outcome: Outcome) -> Dataset:
    entry = _reference(outcome.identity)
    entry.FailureReason = outcome.failure_reason
    return entry


def _unnamed(outcome: Outcome) -> Dataset:
    entry = Dataset()
    entry.FailureReason = outcome.failure_reason
    return entry


def _reference(identity: Identity) -> Dataset:
    entry = Dataset()
    if identity.sop_class_uid:
        entry.ReferencedSOPClassUID = identity.sop_class_uid
    entry.ReferencedSOPInstanceUID = identity.sop_instance_uid
    return entry


def _append(parent: ET.Element, dataset: Dataset) -> None:
    for element in dataset:
        attribute = ET.SubElement(
            parent,
            "DicomAttribute",
            {"tag": f"{int(element.tag):08X}", "vr": element.VR, "keyword": element.keyword},
        )
        if element.VR == "SQ":
            for number, entry in enumerate(element.value, 1):
                _append(ET.SubElement(attribute, "Item", {"number": str(number)}), entry)
        elif not element.is_empty:
            values = element.value if isinstance(element.value, MultiValue) else [element.value]
            for number, value in enumerate(values, 1):
                ET.SubElement(attribute, "Value", {"number": str(number)}).text = str(value)
