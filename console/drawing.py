"""From the stored values of a frame to what a person sees: 8-bit grey or RGB, in the right shape, and not too large.

Grey values go through the modality LUT or rescale (PS3.3 C.11.1), then the VOI LUT or window (C.11.2), or, where there
is none, from the smallest to the largest value that is no padding (C.7.5.1.1.2). MONOCHROME1 is inverted at the end.
What is not valid of these counts as missing: a picture that shows something is worth more here than an error.

Large frames are drawn in bands of rows, so that floating point values of a whole frame never exist.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

MAX_SIDE = 1024
_BAND_VALUES = 1_000_000
_MOST_STRETCHED = 20.0

Values = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Transform = Callable[[Floats], Floats]


def draw(values: Values, dataset: Dataset, frame: int) -> Image.Image:
    """The picture of a frame.

    Args:
        values: [rows, columns] or [rows, columns, 3], as pydicom decodes them: RGB, grey, or indices of a palette.
        dataset: with group 0028, and the functional groups of an enhanced object.
        frame: which one it is, counted from 0.

    Raises:
        ValueError: it is of a kind that is not drawn.
    """
    about = _Attributes(dataset, frame)
    interpretation = str(dataset.get("PhotometricInterpretation") or "")
    if interpretation == "PALETTE COLOR":
        # Three channels, and a fourth one for opacity, which is not drawn.
        values = apply_color_lut(values, dataset)[..., :3]
        picture = _colours(values, 8 * values.dtype.itemsize)
    elif values.ndim == 3 and values.shape[2] == 3:
        picture = _colours(values, int(dataset.get("BitsStored") or 8))
    elif values.ndim == 2:
        picture = _greys(values, about, inverted=interpretation == "MONOCHROME1")
    else:
        raise ValueError(f"expected 1 or 3 samples per pixel, found {values.shape[2:]}")
    return _shaped(Image.fromarray(picture), about.aspect())


class _Attributes:
    """Attributes of a frame: from its functional groups, from those of all frames, or from the dataset itself."""

    def __init__(self, dataset: Dataset, frame: int) -> None:
        self._dataset = dataset
        self._places = [dataset]
        for keyword, index in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame)):
            groups = dataset.get(keyword)
            if groups and index < len(groups):
                self._places.insert(0, groups[index])

    def _all(self, group: str) -> Iterator[Dataset]:
        """Where an attribute may be, the nearest first."""
        for place in self._places:
            if place is self._dataset:
                yield place
            elif items := place.get(group):
                yield items[0]

    def numbers(self, group: str, keyword: str) -> list[float]:
        """The values of an attribute that are numbers; empty if it is missing."""
        for place in self._all(group):
            value = place.get(keyword)
            if value is None or value == "":
                continue
            found = value if not isinstance(value, str | bytes) and hasattr(value, "__iter__") else [value]
            try:
                return [float(one) for one in found]
            except (TypeError, ValueError):
                continue
        return []

    def first(self, group: str, keyword: str) -> float | None:
        numbers = self.numbers(group, keyword)
        return numbers[0] if numbers and np.isfinite(numbers[0]) else None

    def text(self, group: str, keyword: str, default: str) -> str:
        return next((str(place.get(keyword)) for place in self._all(group) if place.get(keyword)), default)

    def table(self, keyword: str) -> "_Table | None":
        """The first item of a LUT sequence, if it is whole."""
        items = self._dataset.get(keyword)
        return _Table.of(items[0]) if items else None

    def stored(self, keyword: str) -> float | None:
        """A value in stored values, such as the padding."""
        return self.first("", keyword)

    def aspect(self) -> float:
        """Height by width of a pixel (PS3.3 C.7.6.3.1.7); 1 where nothing valid says so."""
        for group, keyword in (
            ("PixelMeasuresSequence", "PixelSpacing"),
            ("", "ImagerPixelSpacing"),
            ("", "NominalScannedPixelSpacing"),
            ("", "PixelAspectRatio"),
        ):
            pair = self.numbers(group, keyword)
            if len(pair) == 2 and min(pair) > 0:
                aspect = pair[0] / pair[1]
                if 1 / _MOST_STRETCHED <= aspect <= _MOST_STRETCHED:
                    return aspect
        return 1.0


class _Table:
    """A modality or VOI LUT (PS3.3 C.11.1.1, C.11.2.1.1)."""

    def __init__(self, first: float, entries: Floats) -> None:
        self._first = first
        self._entries = entries

    @classmethod
    def of(cls, item: Dataset) -> "_Table | None":
        try:
            count, first, bits = (int(value) for value in item.LUTDescriptor)
            data = item.LUTData
            count = count or 65536
            if isinstance(data, bytes):
                order = ">" if item.original_encoding[1] is False else "<"
                wide = len(data) >= 2 * count
                entries = np.frombuffer(data, f"{order}u2" if wide else "u1")
            else:
                entries = np.asarray(data)
            entries = entries[:count].astype(np.float64)
        except (AttributeError, TypeError, ValueError):
            return None
        return cls(first, entries) if len(entries) and 1 <= bits <= 16 else None

    def __call__(self, values: Floats) -> Floats:
        found: Floats = self._entries[np.clip(values - self._first, 0, len(self._entries) - 1).astype(np.intp)]
        return found

    def range(self) -> tuple[float, float]:
        return float(self._entries.min()), float(self._entries.max())


def _greys(values: Values, about: _Attributes, *, inverted: bool) -> npt.NDArray[np.uint8]:
    modality = _modality(about)
    scale = _voi(about) or _whole_range(values, about, modality)
    picture = np.empty(values.shape, np.uint8)
    band = max(_BAND_VALUES // max(values.shape[1], 1), 1)
    for top in range(0, len(values), band):
        with np.errstate(all="ignore"):
            shades = np.nan_to_num(scale(modality(values[top : top + band].astype(np.float64))), posinf=1.0, neginf=0.0)
        picture[top : top + band] = np.clip(shades, 0, 1) * 255 + 0.5
    return 255 - picture if inverted else picture


def _modality(about: _Attributes) -> Transform:
    table = about.table("ModalityLUTSequence")
    if table is not None:
        return table
    slope = about.first("PixelValueTransformationSequence", "RescaleSlope")
    intercept = about.first("PixelValueTransformationSequence", "RescaleIntercept")
    if slope in {None, 0.0} or intercept is None:
        return lambda values: values
    return lambda values: values * slope + intercept


def _voi(about: _Attributes) -> Transform | None:
    """What the dataset says of the values of interest, as a function to 0…1; None if it says nothing that is valid."""
    table = about.table("VOILUTSequence")
    if table is not None:
        return lambda values: _between(table(values), *table.range())
    center = about.first("FrameVOILUTSequence", "WindowCenter")
    width = about.first("FrameVOILUTSequence", "WindowWidth")
    function = about.text("FrameVOILUTSequence", "VOILUTFunction", "LINEAR").upper()
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    if function == "SIGMOID":
        return lambda values: 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR":
        return lambda values: _between(values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)
    return lambda values: _between(values, center - width / 2, center + width / 2)


def _whole_range(values: Values, about: _Attributes, modality: Transform) -> Transform:
    """From the smallest to the largest value that is no padding."""
    if about.stored("BitsAllocated") == 1:
        return lambda shades: shades
    seen = values
    padding, limit = about.stored("PixelPaddingValue"), about.stored("PixelPaddingRangeLimit")
    if padding is not None:
        low, high = sorted((padding, padding if limit is None else limit))
        real = seen[(seen < low) | (seen > high)]
        seen = real if real.size else seen
    if seen.dtype.kind == "f":
        real = seen[np.isfinite(seen)]
        seen = real if real.size else np.zeros(1)
    ends = modality(np.array([seen.min(), seen.max()], np.float64))
    return lambda shades: _between(shades, float(ends.min()), float(ends.max()))


def _between(values: Floats, low: float, high: float) -> Floats:
    """Values from `low` to `high` as 0 to 1; a range of nothing is a threshold."""
    if high <= low:
        return (values > low).astype(np.float64)
    return (values - low) / (high - low)


def _colours(values: Values, bits: int) -> npt.NDArray[np.uint8]:
    """Red, green and blue, with their upper eight bits."""
    if values.dtype.itemsize == 1:
        return np.ascontiguousarray(values, np.uint8)
    return (values >> max(bits - 8, 0)).clip(0, 255).astype(np.uint8)


def _shaped(picture: Image.Image, aspect: float) -> Image.Image:
    """Stretched to square pixels, and no side longer than MAX_SIDE."""
    width, height = float(picture.width), float(picture.height)
    if aspect >= 1:
        height *= aspect
    else:
        width /= aspect
    scale = min(1.0, MAX_SIDE / max(width, height))
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    if size == picture.size:
        return picture
    return picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
