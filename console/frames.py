"""Finds one frame of a DICOM file and decodes it; what has no picture is told in words. For the worker alone.

Of the file only the attributes of its image are read and, of the pixel data, the one frame: of a multi-frame object of
2 GB that is as little as of any other. A deflated one is the exception, since it can be read from its start only.
"""

import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pydicom.config
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options, pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from console import codecs

MAX_FRAME_BYTES = 128 * 1024 * 1024
MAX_FRAMES = 1_000_000

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

_IMAGE_GROUP = 0x0028
_TAGS = (
    "SOPClassUID",
    "Modality",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "WaveformSequence",
    "ContentSequence",
    "MIMETypeOfEncapsulatedDocument",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    *(entry for entry in pydicom.datadict.keyword_dict if pydicom.datadict.keyword_dict[entry] >> 16 == _IMAGE_GROUP),
)
_VIDEOS = "1.2.840.10008.1.2.4.10"
_ELSEWHERE = frozenset(("1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.204"))


class NoFrameError(Exception):
    """There is no picture; the text says why, in words that begin with `it`."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that can be decoded.

    Attributes:
        dataset: the attributes of its image.
        index: counted from 0.
        count: how many there are.
    """

    dataset: Dataset
    index: int
    count: int
    _file: BinaryIO

    def decode(self) -> npt.NDArray[Any]:
        """[rows, columns] or [rows, columns, samples]; colours are RGB, except for those of a palette."""
        syntax = self.dataset.file_meta.TransferSyntaxUID
        plugin = codecs.DECODERS[syntax]
        if syntax == DeflatedExplicitVRLittleEndian:
            options = as_pixel_options(self.dataset)
            return get_decoder(syntax).as_array(self.dataset, index=self.index, **options)[0]
        self._file.seek(0)
        if self.dataset.get("BitsAllocated") == 1 and self.dataset.Rows * self.dataset.Columns % 8 and self.count > 1:
            # pydicom 3.0 reads a byte too few of a frame that begins inside a byte and ends inside another.
            if self.count * self.dataset.Rows * self.dataset.Columns > MAX_FRAME_BYTES:
                raise NoFrameError(
                    "its frames of single bits begin inside bytes, and they are too many to be taken apart"
                )
            every: npt.NDArray[Any] = pixel_array(self._file)
            return np.asarray(every[self.index])
        return pixel_array(self._file, index=self.index, decoding_plugin=plugin)


def look(file: BinaryIO, number: int) -> Frame:
    """Find a frame.

    Args:
        file: seekable, at its start.
        number: of the frame, counted from 1.

    Raises:
        NoFrameError: there is none that can be drawn.
    """
    try:
        dataset = dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
    except InvalidDicomError:
        raise NoFrameError("it is no DICOM file") from None
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID") or "")
    if not syntax:
        raise NoFrameError("it does not say in which transfer syntax it is")
    if syntax == DeflatedExplicitVRLittleEndian:
        file.seek(0)
        dataset = dcmread(file)
    _refuse_what_is_no_picture(dataset, syntax)
    if syntax not in codecs.DECODERS:
        raise NoFrameError(f"transfer syntax {syntax.name} is not decoded here")
    codecs.register()
    count = _frames(dataset)
    if not 1 <= number <= count:
        raise NoFrameError(f"it has {count} frames, and none of number {number}")
    _refuse_what_is_too_large(dataset)
    return Frame(dataset, number - 1, count, file)


def _refuse_what_is_no_picture(dataset: Dataset, syntax: UID) -> None:
    if syntax.startswith(_VIDEOS):
        raise NoFrameError(f"it is a video ({syntax.name}), which is not shown here")
    if syntax in _ELSEWHERE:
        raise NoFrameError("its pixel data are on another server")
    if "Rows" in dataset and "Columns" in dataset:
        return
    kind = UID(dataset.get("SOPClassUID") or "").name
    if "MIMETypeOfEncapsulatedDocument" in dataset:
        raise NoFrameError(f"it holds a document ({kind}), which is not shown here")
    if "WaveformSequence" in dataset:
        raise NoFrameError(f"it holds waveforms ({kind}), which are not drawn here")
    if "ContentSequence" in dataset:
        raise NoFrameError(f"it is a structured report ({kind}), which has no picture")
    raise NoFrameError(f"it has no pixel data ({kind})" if kind else "it has no pixel data")


def _frames(dataset: Dataset) -> int:
    try:
        count = int(str(dataset.get("NumberOfFrames") or 1))
    except ValueError:
        count = 1
    return min(max(count, 1), MAX_FRAMES)


def _refuse_what_is_too_large(dataset: Dataset) -> None:
    sizes = [dataset.get(keyword) or 0 for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise NoFrameError("it does not say how large its frames are")
    size_bytes = math.prod(sizes) // 8
    if size_bytes > MAX_FRAME_BYTES:
        raise NoFrameError(
            f"its frames are too large to draw: {sizes[1]} by {sizes[0]} pixels are {size_bytes / 1e6:.0f} MB,"
            f" and at most {MAX_FRAME_BYTES / 1e6:.0f} MB are drawn"
        )
