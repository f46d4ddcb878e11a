"""The data elements of a file, for people to read."""

import os
import random
import struct
import time
import tracemalloc
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from console.header import MAX_ELEMENTS, Element, read, visible
from support.samples import bundled_folder, make_instance


def bundled(name: str) -> Path:
    found = get_testdata_file(name)
    assert found is not None
    return Path(str(found))


def named(path: Path) -> dict[str, Element]:
    return {element.keyword: element for element in read(path)}


def test_file_meta_and_dataset_are_shown_with_their_names() -> None:
    """Tag, VR, keyword and value; the names of UIDs; private elements by their creator; pixel data by their length."""
    found = named(bundled("CT_small.dcm"))
    assert found["TransferSyntaxUID"] == Element(
        "(0002,0010)", "UI", "TransferSyntaxUID", "1.2.840.10008.1.2.1 (Explicit VR Little Endian)", 0
    )
    assert found["ImageType"].value == "ORIGINAL\\PRIMARY\\AXIAL"
    assert found["Rows"].value == "128"
    assert found["[Duration of X-ray on]"].tag == "(0043,104E)"
    assert found["PrivateCreator"].value == "GEMS_PARM_01"
    assert found["PixelData"].value == "32768 bytes, not shown"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_encoding_reads_the_same(tmp_path: Path, syntax: str) -> None:
    """Numbers, signed ones, attribute tags, sequences: whatever the byte order, and with or without a VR."""
    dataset = pydicom.dcmread(bundled("CT_small.dcm"))
    item = Dataset()
    item.PatientID = "inside"
    item.SelectorAttribute = 0x00100020
    dataset.OtherPatientIDsSequence = [item]
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = bytes(32768)
    pydicom.dcmwrite(
        tmp_path / "x",
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    elements = read(tmp_path / "x")
    found = {element.keyword: element for element in elements}
    assert (found["PixelPaddingValue"].vr, found["PixelPaddingValue"].value) == ("SS", "-2000")
    assert found["SelectorAttribute"].value == "(0010,0020)"
    assert found["OtherPatientIDsSequence"].vr == "SQ"
    inside = elements.index(found["OtherPatientIDsSequence"])
    assert [(one.keyword, one.value, one.depth) for one in elements[inside : inside + 3]] == [
        ("OtherPatientIDsSequence", "", 0),
        ("Item", "", 1),
        ("PatientID", "inside", 1),
    ]
    assert all(element.tag for element in elements)


def test_a_deflated_dataset_is_inflated(tmp_path: Path) -> None:
    """As far as its first megabyte."""
    assert named(bundled("image_dfl.dcm"))["Rows"].value == "512"
    dataset = pydicom.dcmread(bundled("image_dfl.dcm"))
    dataset.PixelData = bytes(3_000_000)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pydicom.dcmwrite(tmp_path / "x", dataset)
    assert "first megabyte" in read(tmp_path / "x")[-1].value


def test_text_is_in_its_character_set_and_shows_no_control_characters(tmp_path: Path) -> None:
    """Items may have a character set of their own; what moves the cursor or turns text round is made visible."""
    item = Dataset()
    item.SpecificCharacterSet = "ISO_IR 126"
    item.PatientName = "Διονυσιος"
    other = Dataset()
    other.PatientName = "Ärger"
    make_instance(
        tmp_path / "x",
        patient_name="Müller^Jörg",
        SpecificCharacterSet="ISO_IR 192",
        PatientComments="a\x1b[2Jb\r\nc\u202ed",
        OtherPatientIDsSequence=[item, other],
        PatientAddress="Ö",
    )
    elements = read(tmp_path / "x")
    values = [(element.keyword, element.value) for element in elements]
    assert ("PatientName", "Müller^Jörg") in values
    assert ("PatientName", "Διονυσιος") in values
    assert ("PatientName", "Ärger") in values
    assert ("PatientAddress", "Ö") in values
    assert ("PatientComments", "a␛[2Jb␍␊c<U+202E>d") in values
    assert all(element.value.isprintable() for element in elements)


def test_long_values_are_cut_and_their_length_told(tmp_path: Path) -> None:
    """Text, numbers and bytes."""
    make_instance(
        tmp_path / "x",
        TextValue="x" * 50_000,
        RedPaletteColorLookupTableData=bytes(512),
        SelectorULValue=[7] * 5000,
    )
    found = named(tmp_path / "x")
    assert found["TextValue"].value == "x" * 200 + " … (50000 bytes)"
    assert found["RedPaletteColorLookupTableData"].value.endswith("00 … (512 bytes)")
    assert found["SelectorULValue"].value.startswith("7\\7\\7")
    assert found["SelectorULValue"].value.endswith("7 … (5000 values)")
    assert max(len(element.value) for element in read(tmp_path / "x")) < 300


def test_a_damaged_file_shows_what_could_be_read_and_where_it_stopped(tmp_path: Path) -> None:
    """The last entry has no tag."""
    whole = bundled("MR_small.dcm").read_bytes()
    cut = whole.index(b"\x10\x00\x10\x00PN") + 10
    (tmp_path / "x").write_bytes(whole[:cut])
    elements = read(tmp_path / "x")
    assert elements[0].tag == "(0002,0000)"
    assert len(elements) > 20
    assert elements[-1].tag == ""
    assert f"found the end of the file at {cut}" in elements[-1].value
    (tmp_path / "x").write_bytes(b"PK\x03\x04" + bytes(500))
    assert [element.tag for element in read(tmp_path / "x")] == [""]
    assert "50 4b 03 04" in read(tmp_path / "x")[0].value


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A link is not followed, a FIFO is not waited for."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(bundled("CT_small.dcm"))
    for name in ("fifo", "link", "missing", "."):
        with pytest.raises(OSError, match=r"."):
            read(tmp_path / name)


def hostile(path: Path, tail: bytes, size: int = 0) -> Path:
    """A file of a good header and whatever tail, made longer by a hole."""
    make_instance(path)
    whole = path.read_bytes()
    with open(path, "wb") as file:
        file.write(whole[: whole.index(b"\x28\x00\x02\x00US")] + tail)
        if size:
            file.truncate(size)
    return path


HOSTILE = {
    "no delimiter in three gigabytes": (
        struct.pack("<HH2sHL", 0x29, 0x1010, b"UN", 0, 0xFFFFFFFF) + b"x" * 8,
        3 * 10**9,
    ),
    "a gigabyte of zeros": (b"", 10**9),
    "an absurd length": (struct.pack("<HH2sHL", 0x29, 0x1010, b"OB", 0, 0xFFFFFFFE), 0),
    "a hundred thousand elements": (struct.pack("<HH2sH", 0x29, 0x1010, b"LO", 0) * 100_000, 0),
    "a hundred thousand fragments": (
        struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 300_000,
        0,
    ),
    "deep nesting": (
        (struct.pack("<HH2sHL", 0x29, 0x1010, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF))
        * 100_000,
        0,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_file_takes_long_or_much(tmp_path: Path, name: str) -> None:
    """It is told that there is more, after a second or so and with little memory."""
    path = hostile(tmp_path / "x", *HOSTILE[name])
    tracemalloc.start()
    begun = time.process_time()
    elements = read(path)
    took = time.process_time() - begun
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert elements[0].tag == "(0002,0000)"
    assert elements[-1].tag == ""
    assert len(elements) <= MAX_ELEMENTS + 1
    assert took < 2.5, "with tracemalloc, which is slow"
    assert peak < 20e6


def test_damage_of_any_kind_is_told_and_never_raised(tmp_path: Path) -> None:
    """Bytes changed, cut and doubled, by fixed seeds."""
    files = [path.read_bytes() for path in sorted(bundled_folder().glob("*.dcm")) if path.stat().st_size < 20_000]
    for seed in range(600):
        dice = random.Random(seed)  # noqa: S311 - repeatable
        content = bytearray(dice.choice(files))
        for _ in range(dice.randint(1, 12)):
            at = dice.randrange(len(content))
            content[at : at + dice.choice((0, 1, 1, 4))] = dice.randbytes(dice.choice((1, 1, 2, 4)))
        (tmp_path / "x").write_bytes(content[: dice.randrange(1, len(content))] if seed % 3 == 0 else content)
        for element in read(tmp_path / "x"):
            assert element.value.isprintable()
            assert element.keyword.isprintable()


def test_what_is_not_printable_has_a_picture() -> None:
    """Control pictures of Unicode for ASCII, code points for the rest."""
    assert visible("\x00\x1b\x7f\x9b\u200bä") == "␀␛␡<U+009B><U+200B>ä"
