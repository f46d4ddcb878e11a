from collections.abc import Callable

import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, MRImageStorage
from sandbox_posts import SERIES, STUDY, dataset, instance, part10

from sandbox.part10 import HEAD_BYTES, Identity, check_part10, is_uid

UID = "1.2.3.4"
CT = "1.2.840.10008.5.1.4.1.1.2"


def test_a_good_instance_gives_its_identity() -> None:
    """A complete Part 10 file passes, and its four UIDs are known."""
    checked = check_part10(instance(UID))
    assert checked.error is None
    assert checked.identity == Identity(CT, UID, STUDY, SERIES)


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "image_dfl.dcm",
        "JPEG2000.dcm",
        "reportsi.dcm",
    ],
)
def test_files_of_every_encoding_pass(name: str) -> None:
    """Little and big endian, implicit and explicit, deflated and compressed files of pydicom pass."""
    path = get_testdata_file(name)
    assert path is not None
    with open(path, "rb") as file:
        checked = check_part10(file.read(HEAD_BYTES))
    assert checked.error is None
    assert checked.identity.sop_instance_uid


def test_a_long_sequence_before_the_study_is_no_obstacle() -> None:
    """The Study Instance UID is found behind a referenced series sequence of a megabyte."""
    made = dataset(UID)
    reference = Dataset()
    reference.ReferencedSOPInstanceUID = "1.2.3." + "4" * 50
    made.ReferencedInstanceSequence = Sequence([reference] * 15000)
    file = part10(made)
    assert len(file) > 1_000_000
    checked = check_part10(file)
    assert checked.error is None
    assert checked.identity.study_instance_uid == STUDY


def change(edit: Callable[[Dataset], None]) -> bytes:
    made = dataset(UID)
    edit(made)
    return part10(made)


def _forget(keyword: str) -> Callable[[Dataset], None]:
    return lambda made: delattr(made, keyword)


def _set(keyword: str, value: str) -> Callable[[Dataset], None]:
    return lambda made: setattr(made, keyword, value)


def cut_meta(file: bytes, tag: bytes) -> bytes:
    """Take one element with a two-byte length out of the file meta and set the group length right."""
    at = file.index(tag)
    length = 8 + int.from_bytes(file[at + 6 : at + 8], "little")
    group_length = int.from_bytes(file[140:144], "little") - length
    file = file[:at] + file[at + length :]
    return file[:140] + group_length.to_bytes(4, "little") + file[144:]


GOOD = instance(UID)
FAULTS = {
    "nothing": (b"", 0xC000, "expected DICM", None),
    "no preamble": (GOOD[128:], 0xC000, "expected DICM", None),
    "text": (b"hello" * 100, 0xC000, "expected DICM", None),
    "meta cut off": (GOOD[:150], 0xC000, "(PS3.10 Table 7.1-1), found none", None),
    "value cut off": (GOOD[: GOOD.rindex(STUDY.encode()) + 3], 0xC000, "value of StudyInstanceUID", UID),
    "group length wrong": (GOOD[:140] + b"\1" + GOOD[141:], 0xC000, "expected 1 bytes of file meta", UID),
    "no transfer syntax": (cut_meta(GOOD, b"\2\0\x10\0UI"), 0xC000, "expected TransferSyntaxUID (0002,0010)", UID),
    "no implementation": (cut_meta(GOOD, b"\2\0\x12\0UI"), 0xC000, "expected ImplementationClassUID", UID),
    "no study": (change(_forget("StudyInstanceUID")), 0xC000, "expected StudyInstanceUID (0020,000D), found none", UID),
    "empty study": (change(_set("StudyInstanceUID", "")), 0xC000, "expected a UID in StudyInstanceUID", UID),
    "no SOP class": (change(_forget("SOPClassUID")), 0xC000, "expected SOPClassUID (0008,0016), found none", UID),
    "no SOP instance": (change(_forget("SOPInstanceUID")), 0xC000, "expected SOPInstanceUID (0008,0018)", UID),
    "other SOP class": (change(_set("SOPClassUID", MRImageStorage)), 0xA900, "expected SOPClassUID (0008,0016)", UID),
    "other instance": (change(_set("SOPInstanceUID", "1.2.9")), 0xA900, "to be MediaStorageSOPInstanceUID", "1.2.9"),
    "deflated rubbish": (
        GOOD.replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.1.99").replace(
            GOOD[140:144], (int.from_bytes(GOOD[140:144], "little") + 2).to_bytes(4, "little"), 1
        ),
        0xC000,
        "found what raises error",
        UID,
    ),
}


@pytest.mark.parametrize(("file", "reason", "text", "uid"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_gives_its_failure_reason(file: bytes, reason: int, text: str, uid: str | None) -> None:
    """0xC000 for what cannot be understood, 0xA900 for UIDs that disagree, with the UID where it is known."""
    checked = check_part10(file)
    assert checked.error is not None
    assert text in str(checked.error)
    assert checked.error.failure_reason == reason
    assert checked.identity.sop_instance_uid == uid
    assert "Secret" not in str(checked.error)


@pytest.mark.parametrize(
    "transfer_syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_a_mismatch_is_seen_in_every_encoding(transfer_syntax: str) -> None:
    """The dataset is read in the transfer syntax that its file meta names."""
    made = dataset(UID)
    made.file_meta.TransferSyntaxUID = transfer_syntax
    assert check_part10(part10(made)).error is None
    made.SOPInstanceUID = "1.2.9"
    checked = check_part10(part10(made))
    assert checked.error is not None
    assert checked.error.failure_reason == 0xA900


def test_no_cut_of_a_file_raises() -> None:
    """Wherever a file ends, the check gives an answer, and never a success before the study is known."""
    passed = [cut for cut in range(len(GOOD)) if check_part10(GOOD[:cut]).error is None]
    end_of_study = GOOD.rindex(STUDY.encode()) + len(STUDY) + 1
    assert passed
    assert min(passed) == end_of_study


@pytest.mark.parametrize("text", ["1.2.3", "0.0", "1." + "2" * 62, "2.25.1"])
def test_a_valid_uid_is_one(text: str) -> None:
    """Digits and dots, up to 64 characters (PS3.5 9.1)."""
    assert is_uid(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "1", "1.", ".1", "1..2", "01.2", "1.02", "1.2\n", "1.2 ", "1." + "2" * 63, "../../etc/x", "1.2/3", "1.²"],
)
def test_what_could_be_a_path_is_no_uid(text: str) -> None:
    """Nothing but a UID is one, so that a UID may name a file."""
    assert not is_uid(text)
