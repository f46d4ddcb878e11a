import io
import os
import struct
import tracemalloc
import zlib
from itertools import accumulate
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from part10_bytes import BIG_ENDIAN, CT, DEFLATED, EXPLICIT, IMPLICIT, JPEG, TRANSFER_SYNTAXES, Writer, deflate, part10

from common.elements import ITEM, SEQUENCE_DELIMITATION, UNDEFINED_LENGTH
from common.errors import InstanceError, NotDicomError, NotStorableError, TruncatedError, UnreadableError
from common.instance import Instance, is_uid, read_dataset, read_head
from common.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, part10_header, read_part10
from common.records import Cause

DATA = Path(pydicom.__file__).parent / "data"
FAST = settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

E = Writer(EXPLICIT)


def read(data: bytes) -> Instance:
    return read_part10(io.BytesIO(data), len(data))


def ours(transfer_syntax_uid: str) -> Instance:
    return Instance(CT, "1.2.3.4", transfer_syntax_uid, "P1", "1.2.3", "1.2.3.1", "CT")


# File meta


def test_the_header_is_the_same_bytes_for_the_same_instance() -> None:
    """Preamble, prefix and file meta of a received dataset, byte for byte (PS3.10 7.1)."""
    header = part10_header("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2.1")
    assert header[:128] == bytes(128)
    assert header[128:] == (
        b"DICM"
        b"\x02\x00\x00\x00UL\x04\x00\x9e\x00\x00\x00"
        b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01"
        b"\x02\x00\x02\x00UI\x1a\x001.2.840.10008.5.1.4.1.1.2\0"
        b"\x02\x00\x03\x00UI\x06\x001.2.3\0"
        b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0"
        b"\x02\x00\x12\x00UI\x2c\x002.25.271782391205669475302415948276877030226"
        b"\x02\x00\x13\x00SH\x08\x00STOWGATE"
    )
    assert header == part10_header("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2.1")


@pytest.mark.parametrize("uid", ["1.2", "1.2.3", "1." + "2" * 62], ids=["odd", "even", "64 characters"])
def test_pydicom_reads_the_header_as_it_was_meant(uid: str) -> None:
    """Every element comes back equal, the group length is right and every value has even length."""
    dataset = Writer().element(0x00080018, "UI", uid)
    file = pydicom.dcmread(io.BytesIO(part10_header(CT, uid, EXPLICIT) + dataset))
    meta = file.file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT, uid)
    assert (meta.TransferSyntaxUID, meta.FileMetaInformationVersion) == (EXPLICIT, b"\0\1")
    assert (meta.ImplementationClassUID, meta.ImplementationVersionName) == (
        IMPLEMENTATION_CLASS_UID,
        IMPLEMENTATION_VERSION_NAME,
    )
    assert file.SOPInstanceUID == uid
    assert meta.FileMetaInformationGroupLength == len(part10_header(CT, uid, EXPLICIT)) - 132 - 12
    assert meta.FileMetaInformationGroupLength % 2 == 0


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("1.2.840.10008.1.2", True),
        ("1", True),
        ("0.0", True),
        ("1.02", True),
        ("1." + "2" * 62, True),
        ("1." + "2" * 63, False),
        ("", False),
        ("1..2", False),
        (".1", False),
        ("1.", False),
        ("1.2\n", False),
        ("1.2\0", False),
        ("1.2 ", False),
        ("1.a", False),
        ("\u0661.\u0662", False),
        ("../../etc/x", False),
    ],
)
def test_a_uid_is_digits_in_components(text: str, *, valid: bool) -> None:
    """At most 64 characters, ASCII digits between dots; leading zeros are let pass (PS3.5 9.1)."""
    assert is_uid(text) is valid


# Files of others


NOT_ACCEPTED = {
    "charset_files/chrSQEncoding.dcm": NotStorableError,  # no SOP Instance UID
    "charset_files/chrSQEncoding1.dcm": NotStorableError,
    "test_files/MR_truncated.dcm": TruncatedError,
    "test_files/UN_sequence.dcm": NotStorableError,
    "test_files/empty_charset_LEI.dcm": NotStorableError,
    "test_files/meta_missing_tsyntax.dcm": UnreadableError,
    "test_files/nested_priv_SQ.dcm": NotStorableError,
    "test_files/no_meta_group_length.dcm": NotStorableError,
    "test_files/priv_SQ.dcm": NotStorableError,
    "test_files/rtplan_truncated.dcm": TruncatedError,
}
FILES = sorted(
    path for folder in ("test_files", "charset_files") for path in (DATA / folder).rglob("*") if path.is_file()
)


def test_pydicom_brings_its_files() -> None:
    """The comparison below is with something."""
    assert len(FILES) > 100


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(DATA)) for path in FILES])
def test_every_file_of_pydicom_is_read_as_pydicom_reads_it(path: Path) -> None:
    """Each file gives the identity that dcmread gives, or the error that says what is wrong with it."""
    data = path.read_bytes()
    name = str(path.relative_to(DATA))
    if data[128:132] != b"DICM":
        expected: type[InstanceError] | None = NotDicomError
    elif "DICOMDIR" in name:
        expected = NotStorableError
    else:
        expected = NOT_ACCEPTED.get(name)
    if expected is not None:
        with pytest.raises(expected):
            read(data)
        return
    theirs = pydicom.dcmread(path)
    assert read(data) == Instance(
        sop_class_uid=theirs.SOPClassUID,
        sop_instance_uid=theirs.SOPInstanceUID,
        transfer_syntax_uid=theirs.file_meta.TransferSyntaxUID,
        patient_id=theirs.get("PatientID") or "",
        study_instance_uid=theirs.get("StudyInstanceUID") or "",
        series_instance_uid=theirs.get("SeriesInstanceUID") or "",
        modality=theirs.get("Modality") or "",
    )


@pytest.mark.parametrize("folder", ["", "TINY_ALPHA"], ids=["explicit", "implicit"])
def test_a_dicomdir_is_not_storable(folder: str) -> None:
    """A directory of files is no instance, and the error says so."""
    data = (DATA / "test_files" / "dicomdirtests" / folder / "DICOMDIR").read_bytes()
    with pytest.raises(NotStorableError, match="DICOMDIR") as raised:
        read(data)
    assert Cause(raised.value.cause) is Cause.NOT_STORABLE


# Whole files


def _kinds() -> dict[str, tuple[str, list[bytes]]]:
    """Small files of every build: their transfer syntax and their top-level elements."""
    explicit, implicit, big, jpeg = (Writer(uid) for uid in (EXPLICIT, IMPLICIT, BIG_ENDIAN, JPEG))
    delimiter = jpeg.header(SEQUENCE_DELIMITATION, "", 0)
    looks_like_an_end = b"\xff\xd8" + delimiter + jpeg.header(ITEM, "", 4) + b"\xff\xd9"

    def nested(writer: Writer, *, undefined: bool) -> list[bytes]:
        inner = writer.sequence(0x00081140, writer.element(0x00081155, "UI", "1.2"), undefined=undefined)
        outer = writer.sequence(0x00082112, inner + writer.element(0x00081155, "UI", "1.3"), b"", undefined=undefined)
        identity = writer.identity()
        return [*identity[:3], outer, *identity[3:], writer.element(0x7FE00010, "OW", b"\1\2\3\4")]

    return {
        "explicit": (EXPLICIT, [*explicit.identity(), explicit.element(0x7FE00010, "OW", b"\1\2\3\4")]),
        "implicit": (IMPLICIT, [*implicit.identity(), implicit.element(0x7FE00010, "OW", b"\1\2\3\4")]),
        "big endian": (BIG_ENDIAN, [*big.identity(), big.element(0x7FE00010, "OW", b"\1\2\3\4")]),
        "encapsulated": (JPEG, [*jpeg.identity(), jpeg.fragments(looks_like_an_end, b"\3\4" * 9)]),
        "undefined-length sequences": (EXPLICIT, nested(explicit, undefined=True)),
        "defined-length sequences": (EXPLICIT, nested(explicit, undefined=False)),
        "undefined-length sequences, implicit": (IMPLICIT, nested(implicit, undefined=True)),
        "undefined-length sequences, big endian": (BIG_ENDIAN, nested(big, undefined=True)),
        "unknown with undefined length": (
            EXPLICIT,
            [
                *explicit.identity(),
                explicit.header(0x00411010, "UN", UNDEFINED_LENGTH)
                + implicit.sequence(0x00411010, implicit.element(0x00081155, "UI", "1.2"))[8:],
            ],
        ),
        "padded": (EXPLICIT, [*explicit.identity(), explicit.element(0x7FE00010, "OW", b"\1\2\3\4"), bytes(20)]),
    }


KINDS = _kinds()


@pytest.mark.parametrize(("transfer_syntax_uid", "elements"), KINDS.values(), ids=KINDS.keys())
def test_a_whole_file_is_accepted(transfer_syntax_uid: str, elements: list[bytes]) -> None:
    """Every build of file is read to its end, and gives its identity."""
    assert read(part10(transfer_syntax_uid, elements)) == ours(transfer_syntax_uid)


@pytest.mark.parametrize(("transfer_syntax_uid", "elements"), KINDS.values(), ids=KINDS.keys())
def test_a_cut_at_any_byte_is_noticed_unless_it_is_between_elements(
    transfer_syntax_uid: str, elements: list[bytes]
) -> None:
    """A file cut inside an element is truncated. Cut between two elements it is a shorter file, whole by itself.

    That, or with zeros behind it, is accepted if the UIDs are in what is left, and gives just what is left.
    """
    data = part10(transfer_syntax_uid, elements)
    start = len(data) - sum(map(len, elements))
    boundaries = list(accumulate(map(len, elements), initial=start))
    after_uids = boundaries[2]
    accepted = []
    for size in range(len(data)):
        boundary = max((boundary for boundary in boundaries if boundary <= size), default=0)
        between = size >= start and not data[boundary:size].strip(b"\0")
        try:
            instance = read(data[:size])
        except TruncatedError:
            assert size >= 132
            assert not between or size < start
        except InstanceError as error:
            # The file meta, or the UIDs, are not all there.
            assert size < start or (between and size < after_uids)
            assert isinstance(error, NotDicomError) is (size < 132)  # noqa: PT017
        else:
            assert between
            assert size >= after_uids
            accepted.append(size)
            assert (instance.patient_id == "P1") is (b"P1" in data[start:boundary])
            assert (instance.series_instance_uid == "1.2.3.1") is (b"1.2.3.1" in data[start:boundary])
    assert set(accepted) >= set(boundaries[2:-1])


def test_a_deflated_file_is_accepted_only_whole() -> None:
    """A deflate stream has an end of its own: every cut is noticed (PS3.5 A.5)."""
    data = part10(DEFLATED, KINDS["explicit"][1])
    assert read(data) == ours(DEFLATED)
    assert read(data + b"\0") == ours(DEFLATED)
    start = len(part10_header(CT, "1.2.3.4", DEFLATED))
    for size in range(start, len(data)):
        with pytest.raises(TruncatedError):
            read(data[:size])


@pytest.mark.parametrize("more", range(0, 64, 2))
def test_a_deflated_file_that_ends_with_a_full_buffer_is_whole(more: int) -> None:
    """zlib can take in the last byte and still hold output back, some bytes over a megabyte: that is no cut."""
    identity = b"".join(Writer(DEFLATED).identity())
    pixels = bytes(2**20 + more - len(identity) - 12)
    # The zeros in a block of their own: with so few different codes in it, its last byte holds several.
    deflating = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    stream = deflating.compress(identity + E.header(0x7FE00010, "OW", len(pixels)))
    stream += deflating.flush(zlib.Z_FULL_FLUSH) + deflating.compress(pixels) + deflating.flush()
    assert read(part10_header(CT, "1.2.3.4", DEFLATED) + stream) == ours(DEFLATED)


@pytest.mark.parametrize("name", ["rtplan.dcm", "JPEGLSNearLossless_08.dcm", "SC_rgb_jls_lossy_sample.dcm"])
@pytest.mark.filterwarnings("ignore")
def test_what_is_left_of_a_real_file_is_a_beginning_of_it(name: str) -> None:
    """Of a real file cut at any byte, what is accepted holds whole elements of the original and none else."""
    data = (DATA / "test_files" / name).read_bytes()
    whole = pydicom.dcmread(io.BytesIO(data))
    accepted = 0
    for size in range(len(data)):
        try:
            read(data[:size])
        except InstanceError:
            continue
        accepted += 1
        left = pydicom.dcmread(io.BytesIO(data[:size]))
        assert list(left) == list(whole)[: len(left)]
    assert 0 < accepted < len(whole)


def test_a_file_that_grew_is_read_to_the_size_it_had() -> None:
    """What was appended after the claim is not looked at: the signature shows it later."""
    data = part10(EXPLICIT, KINDS["explicit"][1])
    assert read_part10(io.BytesIO(data + b"\x08"), len(data)) == ours(EXPLICIT)


def test_a_file_that_shrank_is_truncated() -> None:
    """If fewer bytes are there than when it was claimed, the file is not whole."""
    data = part10(EXPLICIT, KINDS["explicit"][1])
    with pytest.raises(TruncatedError):
        read_part10(io.BytesIO(data[:-30]), len(data))


# What is wrong with a file


WRONG = {
    "empty": (b"", NotDicomError, Cause.NOT_DICOM),
    "text": (b"Dear colleague, " * 20, NotDicomError, Cause.NOT_DICOM),
    "only a preamble": (bytes(128) + b"DICM", UnreadableError, Cause.UNREADABLE),
    "no transfer syntax": (bytes(128) + b"DICM" + b"".join(E.identity()), UnreadableError, Cause.UNREADABLE),
    "a transfer syntax that is no UID": (part10("1.2.x", E.identity()), UnreadableError, Cause.UNREADABLE),
    "no dataset": (part10(EXPLICIT, []), NotStorableError, Cause.NOT_STORABLE),
    "no SOP Class UID": (part10(EXPLICIT, E.identity()[1:]), NotStorableError, Cause.NOT_STORABLE),
    "no SOP Instance UID": (
        part10(EXPLICIT, [E.identity()[0], *E.identity()[2:]]),
        NotStorableError,
        Cause.NOT_STORABLE,
    ),
    "an empty SOP Instance UID": (
        part10(EXPLICIT, [E.identity()[0], E.element(0x00080018, "UI", "")]),
        NotStorableError,
        Cause.NOT_STORABLE,
    ),
    "a SOP Instance UID that is none": (
        part10(EXPLICIT, [E.identity()[0], E.element(0x00080018, "UI", "../../etc/x")]),
        NotStorableError,
        Cause.NOT_STORABLE,
    ),
    "bytes that do not inflate": (part10(DEFLATED, [])[:-2] + b"\xff" * 40, UnreadableError, Cause.UNREADABLE),
    "a meta value that is absurd": (
        bytes(128) + b"DICM" + E.header(0x00020010, "UN", 10**6) + bytes(10**6),
        UnreadableError,
        Cause.UNREADABLE,
    ),
}


@pytest.mark.parametrize(("data", "error", "cause"), WRONG.values(), ids=WRONG.keys())
def test_a_file_that_is_no_instance_says_why(data: bytes, error: type[InstanceError], cause: Cause) -> None:
    """Each error is of its kind, and its cause is one of the ledger's words."""
    with pytest.raises(error) as raised:
        read(data)
    assert type(raised.value) is error
    assert Cause(raised.value.cause) is cause


def test_no_error_quotes_a_value() -> None:
    """The text of an error can be logged: no Patient ID and no name is in it."""
    data = part10(EXPLICIT, E.identity())
    for size in range(len(data)):
        try:
            read(data[:size])
        except InstanceError as error:
            assert "P1" not in str(error)  # noqa: PT017
            assert "Doe" not in str(error)  # noqa: PT017


# Datasets without file meta


@pytest.mark.parametrize("transfer_syntax_uid", TRANSFER_SYNTAXES.values(), ids=TRANSFER_SYNTAXES.keys())
def test_a_received_dataset_gives_its_identity(transfer_syntax_uid: str) -> None:
    """A dataset is read in every transfer syntax, from wherever it begins in the file."""
    dataset = b"".join(Writer(transfer_syntax_uid).identity())
    if transfer_syntax_uid == DEFLATED:
        dataset = deflate(dataset)
    file = io.BytesIO(b"header" + dataset)
    file.seek(6)
    assert read_dataset(file, transfer_syntax_uid) == ours(transfer_syntax_uid)


class _Guarded(io.BytesIO):
    """A file that must not be read beyond an offset."""

    limit = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        assert self.tell() <= self.limit
        return data


@pytest.mark.parametrize("transfer_syntax_uid", [IMPLICIT, EXPLICIT, BIG_ENDIAN], ids=["implicit", "explicit", "big"])
def test_a_received_dataset_is_read_no_further_than_its_identity(transfer_syntax_uid: str) -> None:
    """Reading ends at the first element behind the Series Instance UID, whatever comes after."""
    writer = Writer(transfer_syntax_uid)
    identity = b"".join(writer.identity())
    file = _Guarded(identity + writer.header(0x7FE00010, "OW", 10**9) + b"\1" * 1000)
    file.limit = len(identity) + len(writer.header(0x7FE00010, "OW", 0))
    assert read_dataset(file, transfer_syntax_uid) == ours(transfer_syntax_uid)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "rtplan.dcm"])
def test_a_real_dataset_gives_the_identity_that_its_file_gives(name: str) -> None:
    """Both readers see the same instance, so that an adopted file is known as the one received."""
    data = (DATA / "test_files" / name).read_bytes()
    instance = read(data)
    meta_length = struct.unpack_from("<L", data, 140)[0]
    file = io.BytesIO(data[144 + meta_length :])
    assert read_dataset(file, instance.transfer_syntax_uid) == instance


def test_a_dataset_may_lack_all_but_its_uids() -> None:
    """Patient ID, study, series and modality are empty where the dataset has none."""
    dataset = b"".join(E.identity()[:2])
    assert read_dataset(io.BytesIO(dataset), EXPLICIT) == Instance(CT, "1.2.3.4", EXPLICIT)


@pytest.mark.parametrize("declared", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
def test_a_dataset_in_the_other_vr_encoding_is_read(declared: str) -> None:
    """Devices that send implicit VR in an explicit context, or the reverse, lose no instance for it."""
    other = Writer(IMPLICIT if declared == EXPLICIT else EXPLICIT)
    assert read_dataset(io.BytesIO(b"".join(other.identity())), declared) == ours(declared)


def test_identity_elements_in_sequences_are_not_the_datasets_own() -> None:
    """UIDs and IDs in a sequence, of other instances and other patients, are passed over."""
    other = E.element(0x00080018, "UI", "9.9") + E.element(0x00100020, "LO", "P9")
    identity = E.identity()
    for undefined in (True, False):
        dataset = [*identity[:3], E.sequence(0x00081140, other, undefined=undefined), *identity[3:]]
        assert read_dataset(io.BytesIO(b"".join(dataset)), EXPLICIT) == ours(EXPLICIT)


UNREADABLE = {
    "empty": b"",
    "zeros": bytes(1000),
    "no SOP Class UID": b"".join(E.identity()[1:]),
    "an empty SOP Instance UID": E.identity()[0] + E.element(0x00080018, "UI", ""),
    "cut in a UID": b"".join(E.identity()[:2])[:-1],
    "cut in the Patient ID": b"".join(E.identity()[:5])[:-1],
    "cut in a sequence": E.identity()[0] + E.sequence(0x00081140, b"")[:-1],
    "an absurd Patient ID": b"".join(E.identity()[:3]) + E.header(0x00100020, "UT", 0xFFFFFFF0),
    "text": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("data", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_dataset_without_its_identity_is_unreadable(data: bytes) -> None:
    """What cannot be parsed as far as its identity raises UnreadableError and nothing else."""
    with pytest.raises(UnreadableError):
        read_dataset(io.BytesIO(data), EXPLICIT)


def test_a_deflated_dataset_that_does_not_inflate_is_unreadable() -> None:
    """Bytes that are no deflate stream are said to be that."""
    with pytest.raises(UnreadableError, match="inflate"):
        read_dataset(io.BytesIO(b"\xff" * 100), DEFLATED)


# Text


IDS = {
    "Latin-1": (b"ISO_IR 100", b"M\xfcller-1", "Müller-1"),
    "UTF-8": (b"ISO_IR 192", "王-1".encode(), "王-1"),
    "Japanese": (b"\\ISO 2022 IR 87", b"\x1b$B;3ED\x1b(B-1", "山田-1"),
    "GB18030": (b"GB18030", "王小东".encode("gb18030"), "王小东"),
    "default": (b"", b"P-1", "P-1"),
}


@pytest.mark.parametrize(("character_set", "value", "text"), IDS.values(), ids=IDS.keys())
@pytest.mark.parametrize("transfer_syntax_uid", [EXPLICIT, IMPLICIT, BIG_ENDIAN], ids=["explicit", "implicit", "big"])
def test_the_patient_id_is_text_in_the_datasets_character_set(
    transfer_syntax_uid: str, character_set: bytes, value: bytes, text: str
) -> None:
    """The ledger has the Patient ID as a person would write it, and UIDs as they are."""
    writer = Writer(transfer_syntax_uid)
    identity = writer.identity()
    dataset = [
        writer.element(0x00080005, "CS", character_set),
        *identity[:4],
        writer.element(0x00100020, "LO", value),
        *identity[5:],
    ]
    instance = read_dataset(io.BytesIO(b"".join(dataset)), transfer_syntax_uid)
    assert instance == Instance(CT, "1.2.3.4", transfer_syntax_uid, text, "1.2.3", "1.2.3.1", "CT")
    assert read(part10(transfer_syntax_uid, dataset)) == instance


def test_a_long_patient_id_is_cut() -> None:
    """A value far beyond what the standard allows is kept in part, for the ledger."""
    dataset = b"".join(E.identity()[:3]) + E.element(0x00100020, "LO", "P" * 5000)
    assert read_dataset(io.BytesIO(dataset), EXPLICIT).patient_id == "P" * 1024


# Rubbish


def _must_not_fail(data: bytes, transfer_syntax_uid: str) -> None:
    for attempt in (
        lambda: read(data),
        lambda: read_dataset(io.BytesIO(data), transfer_syntax_uid),
        lambda: read(part10_header(CT, "1.2", transfer_syntax_uid) + data),
    ):
        try:
            instance = attempt()
        except InstanceError as error:
            assert Cause(error.cause)  # noqa: PT017
        else:
            assert instance.sop_instance_uid
            for text in (instance.patient_id, instance.modality, instance.study_instance_uid):
                text.encode("utf-8")


@FAST
@given(st.binary(max_size=400), st.sampled_from(list(TRANSFER_SYNTAXES.values())))
def test_no_bytes_raise_anything_else(data: bytes, transfer_syntax_uid: str) -> None:
    """Whatever bytes arrive, they are an instance or an InstanceError."""
    _must_not_fail(data, transfer_syntax_uid)


SEEDS = [b"".join(elements) for _, elements in KINDS.values()]


@FAST
@given(
    st.sampled_from(SEEDS),
    st.sampled_from(list(TRANSFER_SYNTAXES.values())),
    st.lists(st.tuples(st.integers(0, 10**4), st.binary(min_size=1, max_size=4)), max_size=6),
)
def test_no_damaged_dataset_raises_anything_else(
    data: bytes, transfer_syntax_uid: str, damage: list[tuple[int, bytes]]
) -> None:
    """Whatever happens to a dataset's bytes, it is an instance or an InstanceError."""
    damaged = bytearray(data)
    for offset, patch in damage:
        at = offset % len(damaged)
        damaged[at : at + len(patch)] = patch
    _must_not_fail(bytes(damaged), transfer_syntax_uid)
    _must_not_fail(deflate(bytes(damaged)), DEFLATED)


@FAST
@given(
    st.sampled_from(SEEDS),
    st.sampled_from(list(TRANSFER_SYNTAXES.values())),
    st.lists(st.tuples(st.integers(0, 10**4), st.binary(min_size=1, max_size=4)), max_size=3),
    st.integers(0, 2000),
)
def test_the_first_bytes_say_what_all_of_them_say_or_nothing(
    data: bytes, transfer_syntax_uid: str, damage: list[tuple[int, bytes]], reach: int
) -> None:
    """Whatever the bytes are and wherever they are cut, `read_head` agrees with `read_dataset` or leaves it to it."""
    damaged = bytearray(data)
    for offset, patch in damage:
        at = offset % len(damaged)
        damaged[at : at + len(patch)] = patch
    found = read_head(damaged[:reach], len(damaged), transfer_syntax_uid)
    if found is not None:
        assert found == read_dataset(io.BytesIO(damaged), transfer_syntax_uid)


@pytest.mark.parametrize("transfer_syntax_uid", [IMPLICIT, EXPLICIT, BIG_ENDIAN], ids=["implicit", "explicit", "big"])
def test_the_first_bytes_tell_the_identity_once_it_is_in_them(transfer_syntax_uid: str) -> None:
    """Not a byte before: a Patient ID that goes on behind them is another one. Then whatever comes after it."""
    writer = Writer(transfer_syntax_uid)
    identity = b"".join(writer.identity())
    header = writer.header(0x7FE00010, "OW", 10**6)
    data = identity + header + bytes(10**6)
    enough = len(identity) + len(header)
    assert read_head(data[:enough], len(data), transfer_syntax_uid) == ours(transfer_syntax_uid)
    for reach in range(len(identity) + 1):
        assert read_head(data[:reach], len(data), transfer_syntax_uid) is None
    assert read_head(identity, len(identity), transfer_syntax_uid) == ours(transfer_syntax_uid)
    for reach in range(len(identity)):
        assert read_head(identity[:reach], len(identity), transfer_syntax_uid) is None


def test_the_first_bytes_of_a_dataset_in_another_vr_encoding_are_not_guessed_at() -> None:
    """An empty element with a VR, read as implicit VR, has a length that leads into the middle of the pixels."""
    first = E.element(0x00080005, "CS", "")
    pixels = bytearray(40_000)
    elsewhere = 8 + int.from_bytes(first[4:8], "little") - len(first) - len(b"".join(E.identity())) - 12
    other = Writer(IMPLICIT)
    guess = other.element(0x00080016, "UI", "9.9") + other.element(0x00080018, "UI", "9.9.9")
    guess += other.header(0x7FE00010, "OW", 10)
    pixels[elsewhere : elsewhere + len(guess)] = guess
    data = first + b"".join(E.identity()) + E.header(0x7FE00010, "OW", len(pixels)) + pixels
    assert read_dataset(io.BytesIO(data), IMPLICIT) == ours(IMPLICIT)
    assert read_head(data[:32768], len(data), IMPLICIT) is None


def _huge(*parts: bytes | int) -> list[bytes | int]:
    return list(parts)


HUGE = {
    "a Patient ID of 4 GB": _huge(b"".join(E.identity()[:3]) + E.header(0x00100020, "UT", 0xFFFFFFF0), 2**16),
    "a character set of 4 GB": _huge(E.header(0x00080005, "UT", 0xFFFFFFF0), 2**16),
    "Pixel Data of 4 GB": _huge(b"".join(E.identity()) + E.header(0x7FE00010, "OW", 0xFFFFFFF0), 2**16),
    "4 GB in a sequence": _huge(
        b"".join(E.identity()[:2])
        + E.header(0x00081140, "SQ", UNDEFINED_LENGTH)
        + E.header(ITEM, "", UNDEFINED_LENGTH)
        + E.header(0x00091010, "OB", 0xFFFFFFF0),
        2**16,
    ),
    "64 MB in a sequence, all there": _huge(
        b"".join(E.identity()[:2])
        + E.header(0x00081140, "SQ", UNDEFINED_LENGTH)
        + E.header(ITEM, "", UNDEFINED_LENGTH)
        + E.header(0x00091010, "OB", 2**26),
        2**26,
        E.header(0xFFFEE00D, "", 0) + E.header(SEQUENCE_DELIMITATION, "", 0) + b"".join(E.identity()[2:]),
    ),
    "64 MB of zeros behind the dataset": _huge(b"".join(E.identity()), 2**26),
}


@pytest.mark.parametrize("parts", HUGE.values(), ids=HUGE.keys())
def test_absurd_lengths_cost_no_memory(tmp_path: Path, parts: list[bytes | int]) -> None:
    """What a header claims is not believed: neither reader takes more than a megabyte for it."""
    path = tmp_path / "huge.dcm"
    header = part10_header(CT, "1.2.3.4", EXPLICIT)
    with path.open("wb") as file:
        file.write(header)
        for part in parts:
            if isinstance(part, int):
                file.truncate(file.seek(part, os.SEEK_CUR))
            else:
                file.write(part)
    tracemalloc.start()
    for start in (0, len(header)):
        with path.open("rb") as file:
            file.seek(start)
            try:
                instance = read_dataset(file, EXPLICIT) if start else read_part10(file, path.stat().st_size)
            except InstanceError:
                assert struct.pack("<L", 0xFFFFFFF0) in b"".join(part for part in parts if isinstance(part, bytes))
            else:
                assert instance == ours(EXPLICIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_deflated_dataset_that_inflates_without_end_costs_little_memory() -> None:
    """A hundred kilobytes that become a hundred megabytes are checked piece by piece."""
    deflating = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    identity = b"".join(E.identity()) + E.header(0x7FE00010, "OW", 100 * 2**20)
    stream = deflating.compress(identity)
    for _ in range(100):
        stream += deflating.compress(bytes(2**20))
    stream += deflating.flush()
    data = part10_header(CT, "1.2.3.4", DEFLATED) + stream
    tracemalloc.start()
    assert read(data) == ours(DEFLATED)
    assert read_dataset(io.BytesIO(stream), DEFLATED) == ours(DEFLATED)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) < 2**18
    assert peak < 6 * 2**20
