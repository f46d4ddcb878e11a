import io
import tracemalloc
from pathlib import Path

import pytest
from part10_bytes import BIG_ENDIAN, EXPLICIT, IMPLICIT, Writer

from common.elements import ITEM, UNDEFINED_LENGTH, Element, walk
from common.errors import TruncatedError, UnreadableError

WRITERS = {"explicit": Writer(EXPLICIT), "implicit": Writer(IMPLICIT), "big endian": Writer(BIG_ENDIAN)}


def elements(data: bytes, writer: Writer, *, deep: bool = False, whole: bool = True) -> list[Element]:
    return list(
        walk(
            io.BytesIO(data),
            implicit=writer.implicit,
            little_endian=writer.order == "<",
            end=len(data) if whole else None,
            deep=deep,
        )
    )


def tags(data: bytes, writer: Writer, *, deep: bool = False, whole: bool = True) -> list[int]:
    return [element.tag for element in elements(data, writer, deep=deep, whole=whole)]


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
def test_elements_are_told_with_their_offsets(writer: Writer) -> None:
    """Each element comes with its tag, VR, length and the offsets of its header and its value."""
    data = writer.element(0x00100010, "PN", "Doe^Jane") + writer.element(0x7FE00010, "OW", b"\0" * 6)
    first, second = elements(data, writer)
    explicit = not writer.implicit
    assert first == (0x00100010, "PN" if explicit else "", 0, 8, 8, 0)
    assert second == (0x7FE00010, "OW" if explicit else "", 16, 28 if explicit else 24, 6, 0)


@pytest.mark.parametrize("undefined", [True, False], ids=["undefined length", "defined length"])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
def test_a_sequence_is_one_element_unless_the_walk_goes_deep(writer: Writer, *, undefined: bool) -> None:
    """Sequences in sequences are passed over whole, or told item by item with their depth."""
    inner = writer.sequence(0x00081140, writer.element(0x00081155, "UI", "1.2"), b"", undefined=undefined)
    outer = writer.sequence(0x00082112, inner, writer.element(0x00100010, "PN", "Doe"), undefined=undefined)
    data = outer + writer.element(0x00200010, "SH", "S1")
    assert tags(data, writer) == [0x00082112, 0x00200010]
    assert [(element.tag, element.depth) for element in elements(data, writer, deep=True)] == [
        (0x00082112, 0),
        (ITEM, 1),
        (0x00081140, 1),
        (ITEM, 2),
        (0x00081155, 2),
        (ITEM, 2),
        (ITEM, 1),
        (0x00100010, 1),
        (0x00200010, 0),
    ]


LENIENCY = {
    "implicit VR where explicit is declared": (
        EXPLICIT,
        WRITERS["implicit"].element(0x00080018, "UI", "1.2") + WRITERS["implicit"].element(0x00100020, "LO", "P1"),
        [0x00080018, 0x00100020],
    ),
    "explicit VR where implicit is declared": (
        IMPLICIT,
        WRITERS["explicit"].element(0x00080018, "UI", "1.2") + WRITERS["explicit"].element(0x00100020, "LO", "P1"),
        [0x00080018, 0x00100020],
    ),
    "one element in implicit VR": (
        EXPLICIT,
        WRITERS["explicit"].element(0x00080018, "UI", "1.2") + WRITERS["implicit"].element(0x00100020, "LO", "P1"),
        [0x00080018, 0x00100020],
    ),
    # The second one's length reads like a VR: 0x4F42 is BO.
    "items in implicit VR": (
        EXPLICIT,
        WRITERS["explicit"].header(0x00091010, "UN", UNDEFINED_LENGTH)
        + WRITERS["implicit"].sequence(
            0x00091010,
            WRITERS["implicit"].element(0x00100010, "PN", "Doe")
            + WRITERS["implicit"].element(0x00104000, "LT", "x" * 0x4F42),
        )[8:]
        + WRITERS["explicit"].element(0x00100020, "LO", "P1"),
        [0x00091010, 0x00100020],
    ),
    "a VR that the standard does not know": (
        EXPLICIT,
        WRITERS["explicit"].element(0x00080018, "ZZ", "1.2") + WRITERS["explicit"].element(0x00100020, "LO", "P1"),
        [0x00080018, 0x00100020],
    ),
    "an undefined length without items": (
        EXPLICIT,
        WRITERS["explicit"].header(0x00091010, "UN", UNDEFINED_LENGTH)
        + b"x" * 70_000
        + WRITERS["explicit"].header(0xFFFEE0DD, "", 0)
        + WRITERS["explicit"].element(0x00100020, "LO", "P1"),
        [0x00091010, 0x00100020],
    ),
    "fragments with something between them": (
        EXPLICIT,
        WRITERS["explicit"].header(0x7FE00010, "OB", UNDEFINED_LENGTH)
        + WRITERS["explicit"].header(ITEM, "", 2)
        + b"xxjunk"
        + WRITERS["explicit"].header(0xFFFEE0DD, "", 0)
        + WRITERS["explicit"].element(0xFFFCFFFC, "OB", b"P1"),
        [0x7FE00010, 0xFFFCFFFC],
    ),
    "a delimiter behind an item of defined length": (
        EXPLICIT,
        WRITERS["explicit"].header(0x00081140, "SQ", UNDEFINED_LENGTH)
        + WRITERS["explicit"].header(ITEM, "", 0)
        + WRITERS["explicit"].header(0xFFFEE00D, "", 0)
        + WRITERS["explicit"].header(0xFFFEE0DD, "", 0)
        + WRITERS["explicit"].element(0x00100020, "LO", "P1"),
        [0x00081140, 0x00100020],
    ),
    "a delimiter of no item": (
        EXPLICIT,
        WRITERS["explicit"].header(0xFFFEE00D, "", 0) + WRITERS["explicit"].element(0x00100020, "LO", "P1"),
        [0xFFFEE00D, 0x00100020],
    ),
    "zeros between elements": (
        EXPLICIT,
        WRITERS["explicit"].element(0x00080018, "UI", "1.2")
        + bytes(8 * 9000)
        + WRITERS["explicit"].element(0x00100020, "LO", "P1"),
        [0x00080018, 0x00100020],
    ),
    "zeros at the end": (
        EXPLICIT,
        WRITERS["explicit"].element(0x00100020, "LO", "P1") + bytes(70_003),
        [0x00100020],
    ),
    "nothing": (EXPLICIT, b"", []),
}


@pytest.mark.parametrize(("transfer_syntax_uid", "data", "expected"), LENIENCY.values(), ids=LENIENCY.keys())
def test_what_devices_write_is_walked_all_the_same(transfer_syntax_uid: str, data: bytes, expected: list[int]) -> None:
    """Where a dataset breaks the rules and can still be told apart into elements, it is."""
    assert tags(data, Writer(transfer_syntax_uid)) == expected


E = WRITERS["explicit"]
CUTS = {
    "a header": E.element(0x00100020, "LO", "P1")[:5],
    "the length of a long VR": E.element(0x7FE00010, "OW", b"xx")[:10],
    "a value": E.element(0x00100020, "LO", "P123")[:-1],
    "a sequence without an item": E.header(0x00081140, "SQ", UNDEFINED_LENGTH),
    "a sequence behind an item": E.sequence(0x00081140, b"")[:-8],
    "the delimiter of a sequence": E.sequence(0x00081140, b"")[:-1],
    "an item": E.sequence(0x00081140, E.element(0x00100020, "LO", "P1"))[:-16],
    "the delimiter of an item": E.sequence(0x00081140, E.element(0x00100020, "LO", "P1"))[:-10],
    "an item of defined length": E.header(0x00081140, "SQ", UNDEFINED_LENGTH) + E.header(ITEM, "", 10) + b"short",
    "a sequence of defined length": E.sequence(0x00081140, b"12345678", undefined=False)[:-1],
    "fragments": E.fragments(b"1234")[:-8],
    "a fragment": E.fragments(b"1234")[:-10],
    "a fragment that holds a delimiter": E.fragments(E.header(0xFFFEE0DD, "", 0) + b"1234")[:-10],
    "the delimiter of fragments": E.fragments(b"1234")[:-1],
    "an undefined length without items": E.header(0x00091010, "UN", UNDEFINED_LENGTH) + b"anything at all",
    "its delimiter": E.header(0x00091010, "UN", UNDEFINED_LENGTH) + b"anything" + E.header(0xFFFEE0DD, "", 0)[:-1],
    "zeros in a sequence": E.header(0x00081140, "SQ", UNDEFINED_LENGTH) + bytes(80),
}


@pytest.mark.parametrize("data", CUTS.values(), ids=CUTS.keys())
def test_a_cut_is_noticed_wherever_it_is(data: bytes) -> None:
    """Bytes that end inside an element, at any depth, raise TruncatedError, in either kind of walk."""
    for deep in (False, True):
        with pytest.raises(TruncatedError):
            elements(data, E, deep=deep)


@pytest.mark.parametrize("data", CUTS.values(), ids=CUTS.keys())
def test_the_first_part_of_a_dataset_ends_where_it_ends(data: bytes) -> None:
    """Where nobody said that the bytes are whole, a cut ends the walk without an error."""
    start = E.element(0x00080018, "UI", "1.2")
    assert tags(start + data, E, whole=False)[0] == 0x00080018


def test_an_element_is_told_before_its_value_is_looked_at() -> None:
    """Whoever stops at an element does not learn that it is cut."""
    data = E.element(0x00080018, "UI", "1.2") + E.element(0x7FE00010, "OW", b"", length=1000)
    for element in walk(io.BytesIO(data), implicit=False, end=len(data)):
        if element.tag == 0x7FE00010:
            break
    else:
        pytest.fail("Pixel Data was not told")


def test_what_is_no_item_in_a_sequence_is_unreadable() -> None:
    """Behind an item only another one, or the delimiter, can follow."""
    data = (
        E.header(0x00081140, "SQ", UNDEFINED_LENGTH)
        + E.header(ITEM, "", 0)
        + E.element(0x00100020, "LO", "P1")
        + E.header(0xFFFEE0DD, "", 0)
    )
    with pytest.raises(UnreadableError, match="expected an item at offset 20"):
        elements(data, E)


def test_sequences_without_end_cost_neither_stack_nor_memory() -> None:
    """A hundred thousand sequences inside each other are refused after some, without a RecursionError."""
    data = (E.header(0x00081140, "SQ", UNDEFINED_LENGTH) + E.header(ITEM, "", UNDEFINED_LENGTH)) * 100_000
    for deep in (False, True):
        with pytest.raises(UnreadableError, match="nested"):
            elements(data, E, deep=deep)


def test_large_values_are_never_read(tmp_path: Path) -> None:
    """Neither a large value deep in a sequence nor a length of 4 GB nor a long run of zeros costs memory."""
    path = tmp_path / "large.dcm"
    size = 64 * 1024 * 1024
    for head, tail in (
        (E.header(0x7FE00010, "OW", size), b""),
        (
            E.header(0x00081140, "SQ", UNDEFINED_LENGTH)
            + E.header(ITEM, "", UNDEFINED_LENGTH)
            + E.header(0x54001010, "OW", size),
            E.header(0xFFFEE00D, "", 0) + E.header(0xFFFEE0DD, "", 0),
        ),
        (E.header(0x00081140, "SQ", UNDEFINED_LENGTH) + E.header(0x54001010, "OW", size), E.header(0xFFFEE0DD, "", 0)),
        (E.element(0x00080018, "UI", "1.2"), b""),
        (E.header(0x00081140, "SQ", UNDEFINED_LENGTH) + E.header(0x54001010, "OW", 0xFFFFFFF0), b""),
    ):
        with path.open("wb") as file:
            file.write(head)
            file.seek(size, 1)
            file.write(tail or b"\0")
        tracemalloc.start()
        with path.open("rb") as file:
            try:
                list(walk(file, implicit=False, end=path.stat().st_size))
            except TruncatedError:
                assert b"\xf0\xff\xff\xff" in head
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
        tracemalloc.stop()
