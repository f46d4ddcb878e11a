"""Reading a Store Instances Response (PS3.18 10.5.3.2): DICOM JSON (Annex F) or Native DICOM Model XML (PS3.19 A.1).

What comes back is untrusted input. Anything that is not such a response gives None, never an exception.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from email.message import Message
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeElementTree

from uploader.verdict import StoreResponse

_REFERENCED_SOP_INSTANCE_UID = "00081155"
_WARNING_REASON = "00081196"
_FAILURE_REASON = "00081197"
_FAILED_SOP_SEQUENCE = "00081198"
_REFERENCED_SOP_SEQUENCE = "00081199"
_OTHER_FAILURES_SEQUENCE = "0008119A"

_REASONS = range(0x10000)  # VR US

# Of text as people write it; Python knows others, some of which are slow to read.
_CHARSETS = re.compile(
    r"(iso-?8859|windows|cp|shift|euc|gb|big5|koi8|iso-?2022|latin|us-ascii|utf)[a-z0-9_-]*", re.IGNORECASE
)

# A dataset, or an item of a sequence, in the DICOM JSON Model: upper-case tag to element. XML is brought to it too.
_Dataset = Mapping[str, Any]


def parse(body: bytes, content_type: str) -> StoreResponse | None:
    """Read the body of an answer.

    Args:
        body: decoded of any Content-Encoding.
        content_type: as the header says; where it says neither JSON nor XML, the first byte decides.
    """
    text = body.lstrip(b"\xef\xbb\xbf \t\r\n")
    is_xml = "xml" in content_type.lower() or ("json" not in content_type.lower() and text.startswith(b"<"))
    try:
        datasets = list(_xml_datasets(text) if is_xml else _json_datasets(text, content_type))
        return _response(datasets)
    except (ValueError, TypeError, AttributeError, RecursionError, LookupError, ParseError, DefusedXmlException):
        return None


def _response(datasets: list[_Dataset]) -> StoreResponse | None:
    sequences = (_REFERENCED_SOP_SEQUENCE, _FAILED_SOP_SEQUENCE, _OTHER_FAILURES_SEQUENCE)
    if not any(sequence in dataset for dataset in datasets for sequence in sequences):
        return None
    stored = _by_uid(datasets, _REFERENCED_SOP_SEQUENCE)
    failed = _by_uid(datasets, _FAILED_SOP_SEQUENCE)
    return StoreResponse(
        stored={uid: _reason(entry, _WARNING_REASON) for uid, entry in stored.items()},
        failed={uid: _reason(entry, _FAILURE_REASON) for uid, entry in failed.items()},
        unnamed=tuple(_reason(entry, _FAILURE_REASON) for entry in _entries(datasets, _OTHER_FAILURES_SEQUENCE)),
        entries={uid: json.dumps(entry, ensure_ascii=False, separators=(",", ":")) for uid, entry in failed.items()},
    )


def _by_uid(datasets: Iterable[_Dataset], sequence: str) -> dict[str, _Dataset]:
    named = {}
    for entry in _entries(datasets, sequence):
        values = _values(entry, _REFERENCED_SOP_INSTANCE_UID)
        if values and isinstance(values[0], str):
            named[values[0].strip("\0 ")] = entry
    return named


def _entries(datasets: Iterable[_Dataset], sequence: str) -> Iterator[_Dataset]:
    for dataset in datasets:
        for entry in _values(dataset, sequence):
            if isinstance(entry, Mapping):
                yield _upper(entry)


def _values(dataset: _Dataset, tag: str) -> list[Any]:
    element = dataset.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return values if isinstance(values, list) else []


def _reason(entry: _Dataset, tag: str) -> int | None:
    """A FailureReason or WarningReason; None if there is none that can be read."""
    try:
        number = int(_values(entry, tag)[0])
    except (LookupError, TypeError, ValueError, OverflowError):
        return None
    return number if number in _REASONS else None


def _json_datasets(text: bytes, content_type: str) -> Iterator[_Dataset]:
    decoded = json.loads(_decoded(text, content_type))
    for dataset in decoded if isinstance(decoded, list) else [decoded]:
        yield _upper(dataset)


def _decoded(text: bytes, content_type: str) -> str:
    """JSON as text. DICOM JSON is UTF-8 (PS3.18 F.2); what is not is read by its charset, or as far as it can be.

    What decides, tags, UIDs and numbers, is ASCII; an archive that says in its own way that it stored an instance has
    stored it all the same.
    """
    try:
        return text.decode(json.detect_encoding(text), "surrogatepass")
    except UnicodeDecodeError:
        header = Message()
        header["Content-Type"] = content_type
        charset = str(header.get_content_charset("utf-8"))
        try:
            return text.decode(charset if _CHARSETS.fullmatch(charset) else "utf-8", "replace")
        except LookupError:
            return text.decode("utf-8", "replace")


def _upper(dataset: _Dataset) -> _Dataset:
    return {tag.upper(): element for tag, element in dataset.items()}


def _xml_datasets(text: bytes) -> Iterator[_Dataset]:
    root: Element = SafeElementTree.fromstring(text, forbid_dtd=True)
    models = [root] if _local(root) == "NativeDicomModel" else [e for e in root if _local(e) == "NativeDicomModel"]
    for model in models:
        yield _xml_dataset(model)


def _xml_dataset(parent: Element) -> _Dataset:
    return {
        attribute.get("tag", "").upper(): {
            "vr": attribute.get("vr", ""),
            "Value": [
                _xml_dataset(value) if _local(value) == "Item" else (value.text or "").strip()
                for value in attribute
                if _local(value) in {"Item", "Value"}
            ],
        }
        for attribute in parent
        if _local(attribute) == "DicomAttribute"
    }


def _local(element: Element) -> str:
    """The element's name without its namespace, which servers spell differently."""
    return str(element.tag).rsplit("}", 1)[-1]
