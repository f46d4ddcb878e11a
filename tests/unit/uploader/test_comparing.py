"""Whether two files hold the same dataset: every encoding of the same is the same, and nothing else is."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from common.part10 import part10_header
from support.samples import bundled_folder, storable_files
from uploader.comparing import Comparison, Likeness, compare

CT = "1.2.840.10008.5.1.4.1.1.2"


def compared(ours: bytes, theirs: bytes, *, pieces: int = 1 << 20) -> Comparison:
    """Compare two files that come in pieces of so many bytes."""

    def reading(content: bytes) -> Callable[[int], bytes]:
        file = io.BytesIO(content)
        return lambda length: file.read(min(length, pieces))

    return compare(reading(ours), reading(theirs))


def likeness(ours: bytes, theirs: bytes) -> Likeness:
    return compared(ours, theirs).likeness


def element(tag: int, vr: str, value: bytes, *, length: int | None = None) -> bytes:
    """One element in Explicit VR Little Endian."""
    stated = len(value) if length is None else length
    group, number = tag >> 16, tag & 0xFFFF
    if vr in {"OB", "OW", "SQ", "UN", "UT"}:
        return struct.pack("<HH2sHL", group, number, vr.encode(), 0, stated) + value
    return struct.pack("<HH2sH", group, number, vr.encode(), stated) + value


def implicit(tag: int, value: bytes, *, length: int | None = None) -> bytes:
    stated = len(value) if length is None else length
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, stated) + value


def item(content: bytes, *, defined: bool = True) -> bytes:
    if defined:
        return struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content
    return struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + content + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)


def sequence(tag: int, items: bytes, *, defined: bool = True, vr: str = "SQ") -> bytes:
    if defined:
        return element(tag, vr, items)
    return element(tag, vr, items + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0), length=0xFFFFFFFF)


def file(dataset: bytes, syntax: str = ExplicitVRLittleEndian) -> bytes:
    return part10_header(CT, "1.2.3", syntax) + dataset


UID = element(0x00080018, "UI", b"1.2.3\0")
NAME = element(0x00100010, "PN", b"Test^Patient")
INNER = element(0x00080100, "SH", b"CODE") + element(0x00080104, "LO", b"meaning ")
PIXELS = element(0x7FE00010, "OW", bytes(range(256)) * 4)
BASE = file(UID + sequence(0x00081032, item(INNER)) + NAME + PIXELS)
IMPLICIT_INNER = implicit(0x00080100, b"CODE") + implicit(0x00080104, b"meaning ")

SAME = {
    "the same bytes": BASE,
    "another preamble": b"II*\0" + BASE[4:],
    "another file meta": part10_header(CT, "1.2.3", ExplicitVRLittleEndian).replace(b"STOWGATE", b"ARCHIVE ")
    + BASE[len(part10_header(CT, "1.2.3", ExplicitVRLittleEndian)) :],
    "an undefined length of the sequence": file(UID + sequence(0x00081032, item(INNER), defined=False) + NAME + PIXELS),
    "an undefined length of the item": file(UID + sequence(0x00081032, item(INNER, defined=False)) + NAME + PIXELS),
    "undefined lengths of both": file(
        UID + sequence(0x00081032, item(INNER, defined=False), defined=False) + NAME + PIXELS
    ),
    "a group length": file(
        element(0x00080000, "UL", b"\x20\0\0\0") + UID + sequence(0x00081032, item(INNER)) + NAME + PIXELS
    ),
    "a group length in an item": file(
        UID + sequence(0x00081032, item(element(0x00080000, "UL", b"\x20\0\0\0") + INNER)) + NAME + PIXELS
    ),
    "trailing padding": BASE + element(0xFFFCFFFC, "OB", bytes(100)),
    "zeros at the end": BASE + bytes(13),
    "implicit VR": file(
        implicit(0x00080018, b"1.2.3\0")
        + implicit(0x00081032, item(IMPLICIT_INNER))
        + implicit(0x00100010, b"Test^Patient")
        + implicit(0x7FE00010, bytes(range(256)) * 4),
        ImplicitVRLittleEndian,
    ),
    "a sequence as UN": file(UID + sequence(0x00081032, item(IMPLICIT_INNER), vr="UN") + NAME + PIXELS),
    "implicit VR where explicit is declared": file(
        implicit(0x00080018, b"1.2.3\0")
        + implicit(0x00081032, item(IMPLICIT_INNER))
        + implicit(0x00100010, b"Test^Patient")
        + implicit(0x7FE00010, bytes(range(256)) * 4)
    ),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("pieces", [1, 7, 1 << 20])
def test_the_same_dataset_in_another_encoding_is_the_same(name: str, pieces: int) -> None:
    """What says nothing about the instance may be another, whichever side it is on and however it comes in."""
    assert compared(BASE, SAME[name], pieces=pieces).likeness is Likeness.SAME
    assert compared(SAME[name], BASE, pieces=pieces).likeness is Likeness.SAME


DIFFERENT = {
    "another value": (
        file(UID + sequence(0x00081032, item(INNER)) + NAME.replace(b"Test", b"Best") + PIXELS),
        "0010,0010",
    ),
    "an element more": (
        file(UID + sequence(0x00081032, item(INNER)) + NAME + element(0x00100020, "LO", b"4711") + PIXELS),
        "0010,0020",
    ),
    "an element less": (file(UID + sequence(0x00081032, item(INNER)) + PIXELS), "0010,0010"),
    "an empty value": (
        file(UID + sequence(0x00081032, item(INNER)) + element(0x00100010, "PN", b"") + PIXELS),
        "0010,0010",
    ),
    "another value in an item": (
        file(UID + sequence(0x00081032, item(INNER.replace(b"CODE", b"MODE"))) + NAME + PIXELS),
        "0008,1032",
    ),
    "an item more": (file(UID + sequence(0x00081032, item(INNER) + item(INNER)) + NAME + PIXELS), "0008,1032"),
    "an empty item more": (file(UID + sequence(0x00081032, item(INNER) + item(b"")) + NAME + PIXELS), "0008,1032"),
    "an item less": (file(UID + sequence(0x00081032, b"") + NAME + PIXELS), "0008,1032"),
    "its elements in two items": (
        file(UID + sequence(0x00081032, item(INNER[:12]) + item(INNER[12:])) + NAME + PIXELS),
        "0008,1032",
    ),
    "the last pixel": (BASE[:-1] + b"\0", "7FE0,0010"),
    "pixels missing": (file(UID + sequence(0x00081032, item(INNER)) + NAME), "7FE0,0010"),
    "a cut in the pixels": (BASE[:-100], "7FE0,0010"),
    "an element behind the pixels": (BASE + element(0xFFFAFFFA, "SQ", b""), "FFFA,FFFA"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_dataset_is_different_and_the_place_is_named(name: str) -> None:
    """One element added, dropped or changed makes another dataset; its tag is said, and no value."""
    theirs, tag = DIFFERENT[name]
    for found in (compared(BASE, theirs), compared(theirs, BASE)):
        assert found.likeness is Likeness.DIFFERENT
        assert f"({tag})" in found.detail
        assert "Test" not in found.detail


def test_an_element_that_moves_into_an_inner_item_is_seen() -> None:
    """The same elements in the same order, but at another level, are another dataset."""
    inner, outer = element(0x00080100, "SH", b"CODE"), element(0x00081120, "LO", b"B ")
    beside = sequence(0x00081032, item(sequence(0x00081110, item(inner)) + outer))
    within = sequence(0x00081032, item(sequence(0x00081110, item(inner + outer))))
    assert likeness(file(UID + beside), file(UID + within)) is Likeness.DIFFERENT


def fragments(*parts: bytes) -> bytes:
    content = b"".join(item(part) for part in parts) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return file(UID + element(0x7FE00010, "OB", content, length=0xFFFFFFFF), JPEGBaseline8Bit)


def test_compressed_frames_are_compared_fragment_by_fragment() -> None:
    """The same fragments are the same; another byte, or the same bytes in other fragments, are not."""
    frames = fragments(b"", b"\xff\xd8ab", b"\xff\xd8cd")
    assert likeness(frames, frames) is Likeness.SAME
    assert likeness(frames, fragments(b"", b"\xff\xd8ab", b"\xff\xd8ce")) is Likeness.DIFFERENT
    assert likeness(frames, fragments(b"", b"\xff\xd8ab\xff\xd8cd")) is Likeness.DIFFERENT


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ExplicitVRLittleEndian, JPEG2000Lossless),
        (ExplicitVRLittleEndian, ExplicitVRBigEndian),
        (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian),
        (JPEGBaseline8Bit, JPEG2000Lossless),
    ],
)
def test_other_byte_orders_and_compressions_cannot_be_compared(ours: str, theirs: str) -> None:
    """An archive that converts gives something that is neither the same nor another: the syntaxes are said."""
    found = compared(file(UID, ours), file(UID, theirs))
    assert found.likeness is Likeness.INCOMPARABLE
    assert ours in found.detail
    assert theirs in found.detail


def test_what_an_archive_writes_for_a_transfer_syntax_is_not_quoted() -> None:
    """What is no UID could be anything, a name among it, and does not get into a log."""
    theirs = part10_header(CT, "1.2.3", "Doe^John\n") + UID
    found = compared(BASE, theirs)
    assert found.likeness is Likeness.INCOMPARABLE
    assert "Doe" not in found.detail


@pytest.mark.parametrize(
    "theirs",
    [b"", b"<html>", bytes(200), bytes(128) + b"DICM", file(b"")[:150]],
    ids=["nothing", "a page", "zeros", "no meta", "cut meta"],
)
def test_what_is_no_dicom_file_is_no_answer(theirs: bytes) -> None:
    """A page, nothing, or a file without a transfer syntax says nothing about the instance."""
    assert likeness(BASE, theirs) is Likeness.NOT_DICOM


def test_a_deflated_dataset_is_compared_as_bytes() -> None:
    """Deflated datasets are the same if their bytes are."""

    def deflated(dataset: bytes) -> bytes:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return file(packer.compress(dataset) + packer.flush(), DeflatedExplicitVRLittleEndian)

    assert likeness(deflated(UID + NAME), deflated(UID + NAME)) is Likeness.SAME
    assert likeness(deflated(UID + NAME), deflated(UID + NAME.replace(b"Test", b"Best"))) is Likeness.DIFFERENT


ODD = {
    "no item in a sequence": sequence(0x00081032, b"ABCDEFGHIJ", defined=False),
    "an element longer than its item": sequence(
        0x00081032, item(element(0x00100010, "PN", b"A^B ", length=90)), defined=False
    ),
    "a cut header": b"\x10\x00\x10",
    "text": b"this is no data element at all, is it?",
    "an endless fragment": element(0x7FE00010, "OB", item(b"", defined=False), length=0xFFFFFFFF),
    "deep nesting": struct.pack("<HH2sHLHHL", 0x8, 0x1032, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) * 300,
}


@pytest.mark.parametrize("name", ODD)
def test_what_cannot_be_parsed_is_compared_as_bytes(name: str) -> None:
    """Rubbish is the same as the same rubbish only: any byte of it that is another is seen."""
    rubbish = file(UID + ODD[name] + bytes(range(1, 100)))
    assert likeness(rubbish, rubbish) is Likeness.SAME
    start = len(file(UID))
    for at in range(start, len(rubbish), 7):
        changed = rubbish[:at] + bytes([rubbish[at] ^ 0x20]) + rubbish[at + 1 :]
        assert likeness(rubbish, changed) is Likeness.DIFFERENT, at


@pytest.mark.parametrize("path", storable_files(), ids=lambda path: path.name)
def test_every_bundled_file_is_the_same_as_itself_and_as_what_pydicom_writes_of_it(path: Path) -> None:
    """Real files, whatever is in them, are the same as themselves; one changed byte of a value is seen."""
    content = path.read_bytes()
    assert likeness(content, content) is Likeness.SAME
    changed = content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]
    assert likeness(content, changed) is not Likeness.SAME or content.endswith(bytes(4))


@pytest.mark.parametrize("name", ["CT_small.dcm", "rtplan.dcm", "test-SR.dcm", "JPEG2000.dcm"])
def test_what_pydicom_writes_of_a_file_is_the_same(name: str) -> None:
    """A program that reads a file and writes it anew, with other lengths and without group lengths, keeps it."""
    path = bundled_folder() / name
    dataset = pydicom.dcmread(path)
    for inner in dataset.iterall():
        if inner.VR == "SQ":
            inner.is_undefined_length = not inner.is_undefined_length
    written = io.BytesIO()
    dataset.save_as(written, enforce_file_format=True)
    assert written.getvalue() != path.read_bytes()
    assert likeness(path.read_bytes(), written.getvalue()) is Likeness.SAME


VALUES = st.recursive(
    st.binary(max_size=6).map(lambda value: value + bytes(len(value) % 2)),
    lambda inner: st.lists(st.dictionaries(st.integers(0, 5), inner, max_size=3), max_size=3),
    max_leaves=12,
)


def made(tree: dict[int, object], syntax: str, *, undefined: bool) -> bytes:
    """A file with these values: bytes, or items of a sequence."""

    def dataset(values: dict[int, object]) -> Dataset:
        found = Dataset()
        for number, value in sorted(values.items()):
            if isinstance(value, bytes):
                found.add_new(0x00091000 + number, "OB", value)
            else:
                found.add_new(0x00091010 + number, "SQ", Sequence([dataset(one) for one in value]))  # type: ignore[attr-defined]
                found[0x00091010 + number].is_undefined_length = undefined
        found.is_undefined_length_sequence_item = undefined
        return found

    top = dataset(tree)
    top.SOPClassUID, top.SOPInstanceUID = CT, "1.2.3"
    top.file_meta = FileMetaDataset()
    top.file_meta.TransferSyntaxUID = syntax
    written = io.BytesIO()
    pydicom.dcmwrite(written, top, enforce_file_format=True)
    return written.getvalue()


TREES = st.dictionaries(st.integers(0, 5), VALUES, max_size=4)


@given(TREES, st.booleans(), st.booleans(), st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian]))
def test_any_dataset_is_the_same_in_any_encoding(tree: dict[int, object], one: bool, other: bool, syntax: str) -> None:  # noqa: FBT001
    """Property: lengths of sequences and items, and the VR, do not count."""
    ours = made(tree, ExplicitVRLittleEndian, undefined=one)
    assert likeness(ours, made(tree, syntax, undefined=other)) is Likeness.SAME


@given(TREES, TREES)
def test_any_two_datasets_are_the_same_only_if_they_are(one: dict[int, object], other: dict[int, object]) -> None:
    """Property: other values are never taken for the same."""
    found = likeness(
        made(one, ExplicitVRLittleEndian, undefined=False), made(other, ImplicitVRLittleEndian, undefined=True)
    )
    assert (found is Likeness.SAME) == (one == other)


def test_memory_does_not_grow_with_the_instance() -> None:
    """200 MB of pixels, in one value and in fragments, are compared in a few blocks."""
    size = 200 * 1024 * 1024

    def big() -> Callable[[int], bytes]:
        head = io.BytesIO(file(UID + element(0x7FE00010, "OW", b"", length=size)))
        pieces: Iterator[bytes] = iter(lambda: bytes(100_000), None)
        left = size

        def read(length: int) -> bytes:
            nonlocal left
            if found := head.read(length):
                return found
            taken = min(length, left, 100_000)
            left -= taken
            return next(pieces)[:taken]

        return read

    tracemalloc.start()
    try:
        assert compare(big(), big()).likeness is Likeness.SAME
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()
