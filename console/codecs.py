"""Which decoder takes which transfer syntax, and the two that pydicom does not bring along.

One decoder for each, so that a picture is the same everywhere: what is not decoded by it is not decoded. See
docs/decisions/0023-pictures-are-drawn-by-a-child.md for why these. Imported by the worker alone.
"""

from typing import Any

import gdcm
from openjpeg.utils import decode_pixel_data
from pydicom import uid
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder

_OURS = "stowgate"
_JPEG_2000 = (
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
)

DECODERS: dict[str, str] = {
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.DeflatedExplicitVRLittleEndian: "",
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: _OURS,
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "gdcm",
    uid.JPEGLSNearLossless: "gdcm",
    **dict.fromkeys(_JPEG_2000, _OURS),
}
"""The name of the decoder by transfer syntax; none is needed where it is empty."""

# What pydicom asks of a module with decoders.
DECODER_DEPENDENCIES = {
    uid.JPEGExtended12Bit: ("gdcm>=3.0",),
    **dict.fromkeys(_JPEG_2000, ("pylibjpeg-openjpeg>=2.0",)),
}


def is_available(transfer_syntax: str) -> bool:
    """Tell whether a transfer syntax is decoded here, as pydicom asks it."""
    return transfer_syntax in DECODER_DEPENDENCIES


def register() -> None:
    """Make these decoders known to pydicom."""
    for transfer_syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(transfer_syntax)
        if _OURS not in decoder.available_plugins:
            name = "extended" if transfer_syntax == uid.JPEGExtended12Bit else "jpeg_2000"
            decoder.add_plugin(_OURS, (__name__, name))


def jpeg_2000(encoded: bytes, runner: DecodeRunner) -> bytes:
    """One frame of JPEG 2000 or High-Throughput JPEG 2000 (PS3.5 A.4.4)."""
    frame = decode_pixel_data(encoded, version=2)
    # The colour transform of the code stream is undone by it, and the samples are as wide as the code stream has them.
    if runner.photometric_interpretation in (PhotometricInterpretation.YBR_ICT, PhotometricInterpretation.YBR_RCT):
        runner.set_option("photometric_interpretation", PhotometricInterpretation.RGB)
    precision = runner.get_option("j2k_precision", runner.bits_stored)
    runner.set_option("bits_allocated", 8 if precision <= 8 else 16 if precision <= 16 else 32)
    return bytes(frame)


def extended(encoded: bytes, runner: DecodeRunner) -> bytes:
    """One frame of JPEG Extended, with 8 or 12 bits (PS3.5 A.4.1); pydicom refuses 12 bits, which GDCM can do."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(encoded)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    interpretation = gdcm.PhotometricInterpretation.GetPIType(str(runner.photometric_interpretation))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(interpretation))
    if runner.samples_per_pixel > 1:
        image.SetPlanarConfiguration(runner.planar_configuration)
    syntax = gdcm.TransferSyntax.GetTSType(str.__str__(runner.transfer_syntax))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    runner.set_option("bits_allocated", 8 if runner.bits_stored <= 8 else 16)
    image.SetPixelFormat(
        gdcm.PixelFormat(
            runner.samples_per_pixel,
            runner.bits_allocated,
            runner.bits_stored,
            runner.bits_stored - 1,
            runner.pixel_representation,
        )
    )
    # GDCM hands out char* as str.
    frame: Any = image.GetBuffer()
    return bytes(frame.encode("utf-8", "surrogateescape"))
