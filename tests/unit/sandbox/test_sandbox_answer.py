import json
from xml.etree.ElementTree import Element

import pytest
from defusedxml import ElementTree
from pydicom.dataset import Dataset

from sandbox.answer import Outcome, build_response, encode, status_of
from sandbox.media import Media
from sandbox.part10 import Identity

STUDIES = "http://archive/dicom-web/studies"
CT = "1.2.840.10008.5.1.4.1.1.2"


def outcome(uid: str | None, *, study: str = "1.9", **more: int | bool) -> Outcome:
    return Outcome(Identity(CT, uid, study, "1.9.1"), **more)  # type: ignore[arg-type]


STORED, WARNED, FAILED = outcome("1.2.1"), outcome("1.2.2", warning_reason=0xB000), outcome("1.2.3", failure_reason=1)


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([STORED], 200),
        ([STORED, STORED], 200),
        ([STORED, FAILED], 202),
        ([WARNED], 202),
        ([WARNED, FAILED], 202),
        ([FAILED], 409),
        ([FAILED, FAILED], 409),
    ],
)
def test_the_status_follows_the_standard(outcomes: list[Outcome], status: int) -> None:
    """200 all stored, 202 some or with warnings, 409 none (PS3.18 Table 10.5.3-1)."""
    assert status_of(outcomes) == status


def everything() -> Dataset:
    return build_response(
        [
            STORED,
            WARNED,
            outcome("1.2.3", failure_reason=0xA900),
            outcome(None, failure_reason=0xC000),
            outcome("1.2.5", failure_reason=0x0110, named=False),
        ],
        STUDIES,
    )


def test_every_outcome_is_in_its_sequence() -> None:
    """Stored instances are referenced, failed ones are named or, without identity, among the other failures."""
    response = Dataset.from_json(json.loads(encode(everything(), Media.JSON)))
    assert response.RetrieveURL == f"{STUDIES}/1.9"
    stored, warned = response.ReferencedSOPSequence
    assert (stored.ReferencedSOPClassUID, stored.ReferencedSOPInstanceUID) == (CT, "1.2.1")
    assert stored.RetrieveURL == f"{STUDIES}/1.9/series/1.9.1/instances/1.2.1"
    assert "WarningReason" not in stored
    assert (warned.ReferencedSOPInstanceUID, warned.WarningReason) == ("1.2.2", 0xB000)
    (failed,) = response.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.2.3", 0xA900)
    assert [entry.FailureReason for entry in response.OtherFailuresSequence] == [0xC000, 0x0110]
    assert "1.2.5" not in encode(response, Media.JSON).decode()


def test_xml_says_the_same_as_json() -> None:
    """The XML is a Native DICOM Model with the elements of the JSON, in their order (PS3.19 A.1)."""
    space = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
    root = ElementTree.fromstring(encode(everything(), Media.XML))
    assert root.tag == f"{space}NativeDicomModel"
    assert root.attrib == {"{http://www.w3.org/XML/1998/namespace}space": "preserve"}

    def read(parent: Element) -> dict[str, object]:
        found: dict[str, object] = {}
        for attribute in parent:
            assert attribute.tag == f"{space}DicomAttribute"
            assert attribute.get("keyword")
            numbers = [child.get("number") for child in attribute]
            assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
            read_child = {f"{space}Item": read, f"{space}Value": lambda child: child.text}
            values = [read_child[child.tag](child) for child in attribute]
            found[attribute.get("tag")] = {"vr": attribute.get("vr"), "Value": values}
        return found

    as_json = json.loads(encode(everything(), Media.JSON), parse_int=str)
    assert read(root) == as_json
    assert list(read(root)) == ["00081190", "00081198", "00081199", "0008119A"]


def test_the_retrieve_url_is_empty_where_there_is_no_one_study() -> None:
    """Instances of two studies, or none at all, have no common RetrieveURL."""
    for outcomes in ([STORED, outcome("1.2.9", study="1.8")], [FAILED]):
        response = json.loads(encode(build_response(outcomes, STUDIES), Media.JSON))
        assert response["00081190"] == {"vr": "UR"}
    empty = ElementTree.fromstring(encode(build_response([FAILED], STUDIES), Media.XML))
    assert len(empty[0]) == 0
