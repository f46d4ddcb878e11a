import io
import os
import tracemalloc
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from part10_bytes import BIG_ENDIAN, CT, DEFLATED, EXPLICIT, IMPLICIT, TRANSFER_SYNTAXES, Writer, deflate, part10

from common.elements import ITEM, UNDEFINED_LENGTH
from common.identifying import identifying_values
from common.part10 import part10_header

DATA = Path(pydicom.__file__).parent / "data"
E = Writer(EXPLICIT)


def is_sent(path: Path) -> bool:
    """Whether a file of pydicom's is a Part 10 file with a transfer syntax."""
    head = path.read_bytes()[:500]
    return head[128:132] == b"DICM" and b"1.2.840.10008.1.2" in head


def values(*elements: bytes, transfer_syntax_uid: str = EXPLICIT) -> set[str]:
    return set(identifying_values(io.BytesIO(part10(transfer_syntax_uid, list(elements)))))


@pytest.mark.parametrize("transfer_syntax_uid", TRANSFER_SYNTAXES.values(), ids=TRANSFER_SYNTAXES.keys())
def test_what_identifies_a_person_is_found_in_every_transfer_syntax(transfer_syntax_uid: str) -> None:
    """Names, the patient group, accession number, institution and study ID are taken; the rest is not."""
    writer = Writer(transfer_syntax_uid)
    assert values(
        writer.element(0x00080018, "UI", "1.2.3"),
        writer.element(0x00080050, "SH", "ACC1"),
        writer.element(0x00080060, "CS", "CT"),
        writer.element(0x00080080, "LO", "St. Mary"),
        writer.element(0x00080090, "PN", "Ray^X"),
        writer.element(0x00100010, "PN", "Doe^Jane"),
        writer.element(0x00100020, "LO", "P1"),
        writer.element(0x00100030, "DA", "19700101"),
        writer.element(0x00102154, "SH", "555-1234"),
        writer.element(0x00104000, "LT", "the mayor's wife"),
        writer.element(0x0020000D, "UI", "1.2.4"),
        writer.element(0x00200010, "SH", "STUDY1"),
        writer.element(0x00400006, "PN", "Roe^Richard"),
        transfer_syntax_uid=transfer_syntax_uid,
    ) == {
        "ACC1",
        "St. Mary",
        "Ray^X",
        "Doe^Jane",
        "P1",
        "19700101",
        "555-1234",
        "the mayor's wife",
        "STUDY1",
        "Roe^Richard",
    }


def test_words_of_every_report_are_not_taken() -> None:
    """Sex, age, size, weight and flags would redact half of any answer, and identify nobody."""
    assert (
        values(
            E.element(0x00100022, "CS", "TEXT"),
            E.element(0x00100040, "CS", "M"),
            E.element(0x00101010, "AS", "050Y"),
            E.element(0x00101020, "DS", "1.80"),
            E.element(0x00101030, "DS", "80"),
            E.element(0x001021C0, "US", b"\1\0"),
            E.element(0x00100000, "UL", b"\1\0\0\0"),
        )
        == set()
    )


@pytest.mark.parametrize("undefined", [True, False], ids=["undefined length", "defined length"])
@pytest.mark.parametrize("transfer_syntax_uid", [EXPLICIT, IMPLICIT, BIG_ENDIAN], ids=["explicit", "implicit", "big"])
def test_names_are_found_in_nested_sequences(transfer_syntax_uid: str, *, undefined: bool) -> None:
    """Other Patient IDs, requests and the like are looked into, however deep they are."""
    writer = Writer(transfer_syntax_uid)
    inner = writer.sequence(0x00401101, writer.element(0x00100010, "PN", "Inner^Name"), b"", undefined=undefined)
    outer = writer.sequence(
        0x00400275,
        inner + writer.element(0x00401001, "SH", "R1"),
        writer.element(0x00100020, "LO", "P2"),
        undefined=undefined,
    )
    found = values(outer, writer.element(0x0040A123, "PN", "Outer^Name"), transfer_syntax_uid=transfer_syntax_uid)
    assert found == {"Inner^Name", "P2", "Outer^Name"}


def test_names_are_found_in_what_is_declared_unknown() -> None:
    """A sender that did not know a sequence or an element wrote UN: it is looked into all the same."""
    implicit = Writer(IMPLICIT)
    items = implicit.sequence(0x00101002, implicit.element(0x00100020, "LO", "P2"))[8:]
    known_length = implicit.sequence(0x00400275, implicit.element(0x00080050, "SH", "A2"), undefined=False)[8:]
    assert values(
        E.header(0x00101002, "UN", UNDEFINED_LENGTH) + items,
        E.element(0x00102160, "UN", "group"),
        E.element(0x00400275, "UN", known_length),
    ) == {"P2", "group", "A2"}


def test_names_in_private_elements_are_found_where_the_vr_says_so() -> None:
    """An element that nobody knows is taken if its VR is PN."""
    private = (
        E.element(0x00410010, "LO", "ACME"),
        E.element(0x00411001, "PN", "Doe^J"),
        E.element(0x00411002, "LO", "x"),
    )
    assert values(*private) == {"Doe^J"}


def test_each_value_of_an_element_is_taken_by_itself() -> None:
    """Multi-valued names and IDs become several values, without padding and without empty ones."""
    assert values(
        E.element(0x00081070, "PN", "One^A\\Two^B \\\\"),
        E.element(0x00101000, "LO", " P1\\P2"),
        E.element(0x00100020, "LO", "  "),
    ) == {"One^A", "Two^B", "P1", "P2"}


NAMES = {
    "Latin-1": (b"ISO_IR 100", b"M\xfcller^J", "Müller^J"),
    "UTF-8": (b"ISO_IR 192", "Wang=王^小东".encode(), "Wang=王^小东"),
    "GB18030": (b"GB18030", "王^小东".encode("gb18030"), "王^小东"),
    "Japanese": (b"\\ISO 2022 IR 87", b"Y^T=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Y^T=山田^太郎"),
    "Korean": (b"\\ISO 2022 IR 149", b"\x1b$)C\xb1\xe8^\x1b$)C\xc8\xf1", "김^희"),
}


@pytest.mark.parametrize(("character_set", "value", "text"), NAMES.values(), ids=NAMES.keys())
def test_names_are_text_in_the_character_set_of_their_dataset(character_set: bytes, value: bytes, text: str) -> None:
    """What an archive would write in its answer is what is looked for."""
    assert values(E.element(0x00080005, "CS", character_set), E.element(0x00100010, "PN", value)) == {text}


def test_an_item_has_the_character_set_of_its_dataset_or_its_own() -> None:
    """The character set of one item is not that of the next, nor of what follows the sequence (PS3.3 C.12.1.1.2)."""
    utf8 = E.element(0x00080005, "CS", "ISO_IR 192")

    def name(text: str, encoding: str) -> bytes:
        return E.element(0x00100010, "PN", text.encode(encoding))

    for undefined in (True, False):
        nested = E.sequence(0x00081140, name("drei^ü", "utf-8"), undefined=undefined)
        found = values(
            E.element(0x00080005, "CS", "ISO_IR 100"),
            E.sequence(
                0x00082112,
                utf8 + nested + name("eins^ü", "utf-8"),
                name("zwei^ü", "latin-1"),
                utf8,
                undefined=undefined,
            ),
            E.element(0x00100010, "PN", "vier^ü".encode("latin-1")),
        )
        assert found == {"eins^ü", "zwei^ü", "drei^ü", "vier^ü"}


def test_large_values_before_a_name_do_not_hide_it(tmp_path: Path) -> None:
    """A private blob ahead of the patient's name is passed over, not stumbled on."""
    path = tmp_path / "a.dcm"
    path.write_bytes(
        part10(EXPLICIT, [E.element(0x00091010, "OB", bytes(100_000)), E.element(0x00100010, "PN", "Doe^Jane")])
    )
    # As a claim opens it: the reader knows no path to open anew.
    with os.fdopen(os.open(path, os.O_RDONLY), "rb") as reader:
        path.unlink()
        assert identifying_values(reader) == ("Doe^Jane",)


def test_what_can_be_parsed_is_taken() -> None:
    """Of a file that ends or breaks in the middle, the values before that are found."""
    identity = E.identity()
    data = part10(EXPLICIT, identity)
    for size in range(len(data)):
        found = set(identifying_values(io.BytesIO(data[:size])))
        whole = {text for text, element in (("Doe^Jane", identity[3]), ("P1", identity[4])) if element in data[:size]}
        assert whole <= found
        assert all(value in {"Doe^Jane"[: len(value)], "P1"[: len(value)]} for value in found)
    broken = E.sequence(0x00321064, b"")[:-8] + E.element(0x00321032, "PN", "After^It")
    assert values(*E.identity(), broken) == {"Doe^Jane", "P1"}


def test_reading_ends_at_the_pixels() -> None:
    """What stands behind Pixel Data identifies nobody, and a large object is not walked for it."""
    assert values(
        E.element(0x00100020, "LO", "P1"), E.element(0x7FE00010, "OW", b"xx"), E.element(0xFFFBFFFB, "PN", "x")
    ) == {"P1"}


class _Failing(io.BytesIO):
    """A file on a disk that fails from some offset on."""

    bad_from = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self.bad_from:
            raise OSError(5, "Input/output error")
        return super().read(size)


def test_a_disk_that_fails_takes_no_found_value_away() -> None:
    """What was read before an error of the disk is still redacted."""
    identity = E.identity()
    data = part10(EXPLICIT, identity)
    file = _Failing(data)
    file.bad_from = len(data) - len(identity[-1])
    assert set(identifying_values(file)) == {"Doe^Jane", "P1"}


@pytest.mark.parametrize(
    "data", [b"", b"text", bytes(132), bytes(128) + b"DICM"], ids=["empty", "text", "zeros", "meta"]
)
def test_what_is_no_dicom_file_has_none(data: bytes) -> None:
    """A file that was never sent needs no redaction."""
    assert identifying_values(io.BytesIO(data)) == ()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "path",
    [path for path in sorted((DATA / "test_files").glob("*.dcm")) if path.stat().st_size < 20_000 and is_sent(path)],
    ids=lambda path: path.name,
)
def test_every_name_that_pydicom_finds_is_found(path: Path) -> None:
    """In the files of other makers, no person name and no Patient ID escapes, wherever it is."""
    theirs: set[str] = set()
    for element in pydicom.dcmread(path).iterall():
        if element.VR == "PN" or element.tag == 0x00100020:
            several = element.value if element.VM > 1 else [element.value]
            theirs |= {str(value).strip() for value in several if value}
    assert theirs <= set(identifying_values(io.BytesIO(path.read_bytes())))


def test_a_dataset_that_inflates_without_end_costs_little_memory() -> None:
    """Of a deflated dataset the first megabyte is looked at."""
    deflating = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    stream = deflating.compress(b"".join(E.identity()) + E.header(0x60003000, "OW", 2**26))
    stream += deflating.compress(bytes(2**26)) + deflating.flush()
    file = io.BytesIO(part10_header(CT, "1.2.3.4", DEFLATED) + stream)
    tracemalloc.start()
    found = identifying_values(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(found) == {"Doe^Jane", "P1"}
    assert peak < 4 * 2**20


@settings(max_examples=200, deadline=None, database=None)
@given(
    st.sampled_from(list(TRANSFER_SYNTAXES.values())),
    st.lists(st.tuples(st.integers(0, 10**4), st.binary(min_size=1, max_size=4)), max_size=6),
    st.binary(max_size=60),
)
def test_no_bytes_raise_anything(transfer_syntax_uid: str, damage: list[tuple[int, bytes]], tail: bytes) -> None:
    """Whatever a file holds, there is an answer, and every value in it is text that can be written."""
    writer = Writer(transfer_syntax_uid)
    sequence = writer.sequence(0x00400275, writer.element(0x00100010, "PN", "Inner^Name"))
    character_set = writer.element(0x00080005, "CS", "\\ISO 2022 IR 87")
    data = bytearray(b"".join([character_set, *writer.identity(), sequence]) + tail)
    for offset, patch in damage:
        at = offset % len(data)
        data[at : at + len(patch)] = patch
    dataset = deflate(bytes(data)) if transfer_syntax_uid == DEFLATED else bytes(data)
    for file in (
        part10_header(CT, "1.2", transfer_syntax_uid) + dataset,
        bytes(128) + b"DICM" + bytes(data),
        bytes(data),
    ):
        for value in identifying_values(io.BytesIO(file)):
            assert value.encode("utf-8")


def test_sequences_without_end_raise_nothing() -> None:
    """A file nested beyond all measure gives what stands before."""
    nested = (E.header(0x00400275, "SQ", UNDEFINED_LENGTH) + E.header(ITEM, "", UNDEFINED_LENGTH)) * 50_000
    assert values(*E.identity(), nested) == {"Doe^Jane", "P1"}
