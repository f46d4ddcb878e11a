"""From stored values to grey or colours: every transfer syntax, and what PS3.3 C.11 and C.7.6.3 say of values."""

import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from console import codecs, frames
from console.drawing import draw
from support import htj2k
from support.programs import dcmtk, needs_dcmtk

Values = npt.NDArray[np.generic]


def image(values: Values, bits: int = 0, **attributes: object) -> Dataset:
    """An uncompressed image: [rows, columns], or [frames, rows, columns], each with three samples at the end or not."""
    colours = values.shape[-1] == 3 and values.ndim > 2
    rows, columns = values.shape[-3:-1] if colours else values.shape[-2:]
    count = values.size // (rows * columns * (3 if colours else 1))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = rows, columns, count
    dataset.SamplesPerPixel = 3 if colours else 1
    if colours:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "RGB" if colours else "MONOCHROME2"
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    content = values.tobytes()
    dataset.add_new(0x7FE00010, "OB" if values.dtype.itemsize == 1 else "OW", content + bytes(len(content) % 2))
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def written(dataset: Dataset) -> io.BytesIO:
    syntax = dataset.file_meta.TransferSyntaxUID
    file = io.BytesIO()
    if syntax == ExplicitVRBigEndian:
        dataset["PixelData"].value = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
    pydicom.dcmwrite(
        file,
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    file.seek(0)
    return file


def drawn(dataset: Dataset, number: int = 1) -> Values:
    """The picture of one frame, by the way that the worker goes."""
    found = frames.look(written(dataset), number)
    return np.asarray(draw(found.decode(), found.dataset, found.index))


def compressed(dataset: Dataset, syntax: UID, streams: list[bytes]) -> io.BytesIO:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset["PixelData"].VR = "OB"
    dataset.PixelData = encapsulate(streams)
    dataset["PixelData"].is_undefined_length = True
    return written(dataset)


# What is encoded: two frames that differ, with 8 and with 12 bits, and colours.

Y, X = np.mgrid[0:48, 0:64]
GREY = np.stack([(X * 3 + Y) % 251, (X + Y * 5) // 2 % 251]).astype(np.uint8)
DEEP = np.stack([X * 60 + Y, 4095 - X * 50 - Y * 3]).astype(np.uint16)
RGB = np.stack([np.stack([X * 4, Y * 5, X + Y], -1), np.stack([Y * 4, X * 3, 255 - X], -1)]).astype(np.uint8)


def by_pydicom(dataset: Dataset, syntax: UID, folder: Path) -> io.BytesIO:
    if syntax == RLELossless:
        dataset.compress(RLELossless, encoding_plugin="pydicom")
    dataset.file_meta.TransferSyntaxUID = syntax
    return written(dataset)


def by_openjpeg(dataset: Dataset, syntax: UID, folder: Path) -> io.BytesIO:
    array = dataset.pixel_array
    ratios = [4.0] if syntax == JPEG2000 else None
    options = {"bits_stored": dataset.BitsStored, "compression_ratios": ratios}
    if dataset.SamplesPerPixel == 3:
        dataset.PhotometricInterpretation = "YBR_RCT" if syntax == JPEG2000Lossless else "YBR_ICT"
        options["photometric_interpretation"] = 1
    return compressed(dataset, syntax, [bytes(encode_array(frame, **options)) for frame in array])


def by_dcmtk(*command: str) -> Callable[[Dataset, UID, Path], io.BytesIO]:
    def encode(dataset: Dataset, syntax: UID, folder: Path) -> io.BytesIO:
        (folder / "in").write_bytes(written(dataset).getvalue())
        subprocess.run([dcmtk(command[0]), *command[1:], folder / "in", folder / "out"], check=True, timeout=30)
        return io.BytesIO((folder / "out").read_bytes())

    return encode


# Transfer syntax, who encodes, what, and by how much a value may differ.
CASES = {
    "implicit": (ImplicitVRLittleEndian, by_pydicom, (GREY, DEEP, RGB), 0),
    "explicit": (ExplicitVRLittleEndian, by_pydicom, (GREY, DEEP, RGB), 0),
    "big endian": (ExplicitVRBigEndian, by_pydicom, (DEEP,), 0),
    "deflated": (DeflatedExplicitVRLittleEndian, by_pydicom, (GREY, DEEP, RGB), 0),
    "RLE": (RLELossless, by_pydicom, (GREY, DEEP, RGB), 0),
    "JPEG 2000 lossless": (JPEG2000Lossless, by_openjpeg, (GREY, DEEP, RGB), 0),
    "JPEG 2000": (JPEG2000, by_openjpeg, (GREY, DEEP, RGB), 90),
}
BY_DCMTK = {
    "JPEG baseline": (JPEGBaseline8Bit, by_dcmtk("dcmcjpeg", "+eb", "+q", "98"), (GREY, RGB), 12),
    "JPEG extended": (JPEGExtended12Bit, by_dcmtk("dcmcjpeg", "+ee", "+q", "98"), (DEEP,), 12),
    "JPEG lossless": (JPEGLossless, by_dcmtk("dcmcjpeg", "+el"), (GREY, DEEP, RGB), 0),
    "JPEG lossless SV1": (JPEGLosslessSV1, by_dcmtk("dcmcjpeg", "+e1"), (GREY, DEEP, RGB), 0),
    "JPEG-LS lossless": (JPEGLSLossless, by_dcmtk("dcmcjpls"), (GREY, DEEP, RGB), 0),
    "JPEG-LS near": (JPEGLSNearLossless, by_dcmtk("dcmcjpls", "+en", "+md", "2"), (GREY, DEEP, RGB), 2),
}


def check(case: tuple[UID, Callable[[Dataset, UID, Path], io.BytesIO], tuple[Values, ...], int], folder: Path) -> None:
    syntax, encode, all_values, most = case
    for values in all_values:
        file = encode(image(values, 12 if values is DEEP else 0), syntax, folder)
        for number in (1, 2):
            file.seek(0)
            found = frames.look(file, number)
            assert (found.dataset.file_meta.TransferSyntaxUID, found.count) == (syntax, 2)
            decoded = found.decode()
            assert decoded.shape == values[number - 1].shape
            assert np.abs(decoded.astype(int) - values[number - 1].astype(int)).max() <= most


@pytest.mark.parametrize("name", CASES)
def test_frames_are_what_was_encoded(name: str, tmp_path: Path) -> None:
    """Each frame by itself, lossless to the bit, lossy as near as it was encoded."""
    check(CASES[name], tmp_path)


@needs_dcmtk
@pytest.mark.parametrize("name", BY_DCMTK)
def test_frames_are_what_dcmtk_encoded(name: str, tmp_path: Path) -> None:
    """The JPEG family, which another toolkit encodes."""
    check(BY_DCMTK[name], tmp_path)


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K])
def test_high_throughput_jpeg_2000_is_decoded(syntax: UID) -> None:
    """Lossless to the bit, lossy as near as it was encoded."""
    lossy = syntax == HTJ2K
    dataset = image(htj2k.original(), 10)
    found = frames.look(compressed(dataset, syntax, [htj2k.LOSSY if lossy else htj2k.LOSSLESS]), 1)
    assert np.abs(found.decode().astype(int) - htj2k.original().astype(int)).max() <= (4 if lossy else 0)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2KLossless])
def test_a_stream_may_be_narrower_than_what_is_allocated(syntax: UID) -> None:
    """Its own precision counts: 8 bits in 16, 10 bits in 32."""
    lossless = syntax == HTJ2KLossless
    values = htj2k.original() if lossless else GREY[0]
    stream = htj2k.LOSSLESS if lossless else bytes(encode_array(GREY[0], bits_stored=8))
    dataset = image(values, 10 if lossless else 8, BitsAllocated=32 if lossless else 16)
    assert (frames.look(compressed(dataset, syntax, [stream]), 1).decode() == values).all()


def test_every_decoder_has_a_case() -> None:
    """No transfer syntax is promised that is not tried here."""
    tried = {case[0] for case in (*CASES.values(), *BY_DCMTK.values())}
    assert set(codecs.DECODERS) == tried | {HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K}


# Grey

RAMP = np.arange(-1000, 1000, 2, dtype=np.int16).reshape(20, 50)


def scaled(values: Values, low: float, high: float) -> Values:
    return np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255


def near(found: Values, expected: Values, by: float = 1) -> bool:
    return found.shape == expected.shape and bool(np.abs(found.astype(float) - expected).max() <= by)


def test_without_a_window_the_smallest_value_is_black_and_the_largest_white() -> None:
    """Signed or not, whatever the bits; padding does not count."""
    assert near(drawn(image(RAMP)), scaled(RAMP, -1000, 998))
    padded = RAMP.copy()
    padded[0, :5] = -30000
    found = drawn(image(padded, PixelPaddingValue=-30000))
    assert near(found, scaled(padded, -990, 998))
    padded[0, 5:9] = -29000
    found = drawn(image(padded, PixelPaddingValue=-30000, PixelPaddingRangeLimit=-29000))
    assert near(found, scaled(padded, -982, 998))
    deep = (np.arange(600, dtype=np.uint32) * 5_000_000).reshape(20, 30)
    assert near(drawn(image(deep)), scaled(deep, 0, 599 * 5_000_000))
    assert drawn(image(np.full((4, 4), 7, np.uint8))).shape == (4, 4)


WINDOWS = {
    "LINEAR": lambda x: np.where(x <= 40 - 0.5 - 99 / 2, 0, np.where(x > 40 - 0.5 + 99 / 2, 1, (x - 39.5) / 99 + 0.5)),
    "LINEAR_EXACT": lambda x: np.where(x <= -10, 0, np.where(x > 90, 1, (x - 40) / 100 + 0.5)),
    "SIGMOID": lambda x: 1 / (1 + np.exp(-4 * (x - 40) / 100)),
}


@pytest.mark.parametrize("function", WINDOWS)
def test_a_window_is_applied_after_the_rescale(function: str) -> None:
    """As PS3.3 C.11.2.1.2 and C.11.2.1.3 have it."""
    dataset = image(RAMP, RescaleSlope="0.5", RescaleIntercept="20", WindowCenter=["40", "1"], WindowWidth=["100", "2"])
    dataset.VOILUTFunction = function
    assert near(drawn(dataset), WINDOWS[function](RAMP * 0.5 + 20) * 255)
    dataset.PhotometricInterpretation = "MONOCHROME1"
    assert near(drawn(dataset), 255 - WINDOWS[function](RAMP * 0.5 + 20) * 255)


@pytest.mark.parametrize(("center", "width"), [("40", "0"), ("40", "-5"), ("", "100"), ("40", "0.5")])
def test_a_window_that_is_not_valid_counts_as_none(center: str, width: str) -> None:
    """Something is shown, and the values that are there."""
    assert near(drawn(image(RAMP, WindowCenter=center, WindowWidth=width)), scaled(RAMP, -1000, 998))


def test_tables_are_applied() -> None:
    """Modality LUT, then VOI LUT; what lies outside gets the first or last entry."""
    values = np.arange(16, dtype=np.uint8).reshape(4, 4)
    modality, voi = Dataset(), Dataset()
    modality.LUTDescriptor = [10, 2, 16]
    modality.LUTData = (np.arange(10) * 100).astype("<u2").tobytes()
    modality.ModalityLUTType = "US"
    voi.LUTDescriptor = [901, 0, 12]
    voi.LUTData = (np.arange(901) * 4).astype("<u2").tobytes()
    dataset = image(values, ModalityLUTSequence=[modality])
    expected = np.clip(values.astype(int) - 2, 0, 9) * 100
    assert near(drawn(dataset), scaled(expected, 0, 900))
    dataset.VOILUTSequence = [voi]
    assert near(drawn(dataset), scaled(expected * 4, 0, 3600))
    del dataset.VOILUTSequence[0].LUTData
    assert near(drawn(dataset), scaled(expected, 0, 900))


def test_an_enhanced_object_has_its_window_in_the_functional_groups() -> None:
    """Those of the frame, else those of all frames."""

    def groups(center: str) -> Dataset:
        window, rescale, outer = Dataset(), Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center, "101"
        rescale.RescaleSlope, rescale.RescaleIntercept = "1", "-1024"
        outer.FrameVOILUTSequence, outer.PixelValueTransformationSequence = [window], [rescale]
        return outer

    values = np.stack([RAMP + 1000, RAMP + 1000]).astype(np.uint16)
    dataset = image(values, SharedFunctionalGroupsSequence=[groups("0")])
    dataset.PerFrameFunctionalGroupsSequence = [Dataset(), groups("300")]
    assert near(drawn(dataset, 1), scaled(values[0] - 1024.0, -50.5, 49.5))
    assert near(drawn(dataset, 2), scaled(values[1] - 1024.0, 249.5, 349.5))


@pytest.mark.parametrize(("keyword", "kind"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_floating_point_values_are_drawn(keyword: str, kind: str) -> None:
    """What is no number is black, and does not count."""
    values = np.linspace(-1e-3, 1e-3, 600).reshape(20, 30).astype(kind)
    values[3, 3], values[4, 4] = np.nan, np.inf
    dataset = image(values)
    del dataset.PixelData, dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit
    setattr(dataset, keyword, values.tobytes())
    found = drawn(dataset)
    assert (found[0, 0], found[-1, -1], found[3, 3], found[4, 4]) == (0, 255, 0, 255)
    assert found[10, 0] == pytest.approx(128, abs=2)


def test_single_bits_are_black_and_white() -> None:
    """Packed; a frame may begin inside a byte. One that is all black is black."""
    bits = np.stack([np.zeros((3, 5)), (np.indices((3, 5)).sum(0) % 2)]).astype(np.uint8)
    dataset = image(bits)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    dataset.PixelData = packed + bytes(len(packed) % 2)
    assert (drawn(dataset, 1) == 0).all()
    assert (drawn(dataset, 2) == bits[1] * 255).all()


# Colours


def test_colours_are_drawn_as_they_are() -> None:
    """By pixel or by plane, with 8 or 16 bits, as YBR, or by a palette."""
    assert (drawn(image(RGB), 2) == RGB[1]).all()
    planes = image(RGB)
    planes.PlanarConfiguration = 1
    planes.PixelData = np.ascontiguousarray(RGB.transpose(0, 3, 1, 2)).tobytes()
    assert (drawn(planes, 2) == RGB[1]).all()
    assert (drawn(image(RGB.astype(np.uint16) * 257)) == RGB[0]).all()
    ybr = image(RGB[0])
    ybr.PhotometricInterpretation = "YBR_FULL"
    ybr.PixelData = bytes([76, 85, 255] * (48 * 64))
    assert near(drawn(ybr), np.broadcast_to([254, 0, 0], RGB[0].shape), 2)
    palette = image((X % 4).astype(np.uint8))
    palette.PhotometricInterpretation = "PALETTE COLOR"
    tables = {"Red": [0, 255, 0, 9], "Green": [0, 0, 255, 9], "Blue": [7, 0, 0, 9]}
    for colour, table in tables.items():
        setattr(palette, f"{colour}PaletteColorLookupTableDescriptor", [4, 0, 16])
        setattr(palette, f"{colour}PaletteColorLookupTableData", np.array(table, "<u2").tobytes())
    for table in tables.values():
        table[:] = [value * 257 for value in table]
    for colour, table in tables.items():
        setattr(palette, f"{colour}PaletteColorLookupTableData", np.array(table, "<u2").tobytes())
    assert drawn(palette)[0, :4].tolist() == [[0, 0, 7], [255, 0, 0], [0, 255, 0], [9, 9, 9]]


# Shape


@pytest.mark.parametrize(
    ("shape", "attributes", "expected"),
    [
        ((100, 200), {}, (100, 200)),
        ((2000, 3000), {}, (683, 1024)),
        ((100, 200), {"PixelSpacing": ["2", "1"]}, (200, 200)),
        ((100, 200), {"PixelSpacing": ["1", "2"]}, (100, 400)),
        ((100, 200), {"PixelAspectRatio": ["1", "2"]}, (100, 400)),
        ((100, 200), {"ImagerPixelSpacing": ["0.2", "0.1"], "PixelAspectRatio": ["1", "1"]}, (200, 200)),
        ((100, 200), {"PixelSpacing": ["0", "1"]}, (100, 200)),
        ((100, 200), {"PixelSpacing": ["1000", "1"]}, (100, 200)),
        ((1000, 1000), {"PixelSpacing": ["2", "1"]}, (1024, 512)),
        ((1, 5000), {}, (1, 1024)),
    ],
)
def test_pixels_are_square_and_no_side_is_too_long(
    shape: tuple[int, int], attributes: dict[str, object], expected: tuple[int, int]
) -> None:
    """Stretched, never shrunk, to the aspect ratio; then scaled down to 1024 pixels."""
    assert drawn(image(np.zeros(shape, np.uint8), **attributes)).shape == expected


# What has no picture


def test_what_has_no_picture_is_told_in_words() -> None:
    """A sentence that says what it is instead."""

    def why(dataset: Dataset, number: int = 1) -> str:
        with pytest.raises(frames.NoFrameError) as raised:
            frames.look(written(dataset), number)
        return str(raised.value)

    def other(**attributes: object) -> Dataset:
        dataset = image(GREY[0])
        del dataset.PixelData, dataset.Rows, dataset.Columns
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        return dataset

    assert why(image(GREY), 3) == "it has 2 frames, and none of number 3"
    assert "none of number 0" in why(image(GREY), 0)
    assert why(other()) == "it has no pixel data (Secondary Capture Image Storage)"
    assert "holds a document" in why(other(MIMETypeOfEncapsulatedDocument="application/pdf"))
    assert "waveforms" in why(other(WaveformSequence=[Dataset()]))
    assert "structured report" in why(other(ContentSequence=[Dataset()]))
    assert "65535 by 65535 pixels" in why(image(GREY[0], Rows=65535, Columns=65535))
    assert "how large" in why(image(GREY[0], Rows=0))
    for syntax, words in (
        ("1.2.840.10008.1.2.4.102", "it is a video"),
        ("1.2.840.10008.1.2.4.55", "is not decoded here"),
        ("1.2.3.4", "transfer syntax 1.2.3.4 is not decoded here"),
        ("1.2.840.10008.1.2.4.94", "on another server"),
    ):
        dataset = image(GREY[0])
        file = written(dataset).getvalue()
        padded = syntax.encode() + b"\0" * (len(syntax) % 2)
        old = b"UI\x14\x001.2.840.10008.1.2.1\x00"
        assert old in file
        file = file.replace(old, b"UI" + len(padded).to_bytes(2, "little") + padded, 1)
        with pytest.raises(frames.NoFrameError, match=words):
            frames.look(io.BytesIO(file), 1)
    with pytest.raises(frames.NoFrameError, match="no DICOM file"):
        frames.look(io.BytesIO(b"GIF89a" + bytes(500)), 1)
