"""Sample instances of any size and number, each with a SOP Instance UID of its own, without random cost.

An instance is a head (everything up to the value of Pixel Data) and so many bytes of pixels. Its UIDs have one
length, so the head of the n-th instance is the first head with one UID replaced.
"""

import io
import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

_ROOT = "1.2.826.0.1.3680043.10.1499."
_META_LENGTH_AT = 140  # value of (0002,0000), after preamble, prefix and the element's own header (PS3.10 7.1)
_BLOCK = 1024 * 1024
BOUNDARY = "0123456789abcdef0123456789abcdef"
CONTENT_TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
_PART_HEADER = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()


def uid(number: int) -> str:
    """A UID for each number from 0 to 899,999,999, all of one length."""
    return f"{_ROOT}{100_000_000 + number}"


@dataclass(frozen=True, slots=True)
class Sample:
    """A kind of instance.

    Attributes:
        sop_class_uid: of each instance.
        head: of the instance with uid(0): a Part 10 file up to the value of Pixel Data.
        pixel_bytes: length of that value.
    """

    sop_class_uid: str
    head: bytes
    pixel_bytes: int

    @property
    def file_bytes(self) -> int:
        """Size of the Part 10 file."""
        return len(self.head) + self.pixel_bytes

    def numbered(self, number: int) -> bytes:
        """The head of an instance with a UID of its own."""
        return self.head.replace(uid(0).encode(), uid(number).encode())

    def dataset_head(self, number: int) -> bytes:
        """The same without preamble and file meta information: what is sent in a C-STORE before the pixels."""
        head = self.numbered(number)
        return head[_META_LENGTH_AT + 4 + struct.unpack_from("<I", head, _META_LENGTH_AT)[0] :]


def make(rows: int, columns: int, frames: int = 1) -> Sample:
    """A grey image of 16 bits a pixel, Explicit VR Little Endian; CT, or Enhanced CT of several frames."""
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage if frames == 1 else EnhancedCTImageStorage
    dataset.SOPInstanceUID = uid(0)
    dataset.StudyDate = dataset.SeriesDate = "20240101"
    dataset.Modality = "CT"
    dataset.PatientName = "Bench^Mark"
    dataset.PatientID = "BENCH"
    dataset.StudyInstanceUID = _ROOT + "2"
    dataset.SeriesInstanceUID = _ROOT + "3"
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.Rows = rows
    dataset.Columns = columns
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    written = io.BytesIO()
    pydicom.dcmwrite(written, dataset, enforce_file_format=True)
    pixel_bytes = 2 * rows * columns * frames
    pixel_data = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, pixel_bytes)
    return Sample(str(dataset.SOPClassUID), written.getvalue() + pixel_data, pixel_bytes)


def of_megabytes(megabytes: int) -> Sample:
    """An Enhanced CT of about so many million bytes."""
    return make(512, 512, max(2, megabytes * 1_000_000 // (2 * 512 * 512)))


TINY = make(8, 8)
"""About 900 bytes: for very many."""
SMALL = make(86, 86)
"""About 15 kB."""
CT = make(512, 512)
"""About 525 kB."""


class Library:
    """Files of samples, written once for a run.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pixels = os.urandom(_BLOCK)

    def files(self, name: str, sample: Sample, count: int) -> list[Path]:
        """So many files of a sample; those that are there already are taken again."""
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number:06}.dcm" for number in range(1, count + 1)]
        for number, path in enumerate(paths, 1):
            if not path.exists():
                self.write(path, sample, number)
        return paths

    def write(self, path: Path, sample: Sample, number: int) -> None:
        """Write the n-th instance of a sample as a Part 10 file."""
        with open(path, "wb") as file:
            file.write(sample.numbered(number))
            blocks, rest = divmod(sample.pixel_bytes, _BLOCK)
            file.writelines([self._pixels] * blocks + [self._pixels[:rest]])

    def bodies(self, name: str, sample: Sample, count: int, instances: int) -> list[Path]:
        """The same files as ready-made bodies of Store requests, `instances` in each, with `BOUNDARY` between."""
        files = self.files(name, sample, count)
        folder = self._folder / f"{name}-{instances}-of-{count}"
        folder.mkdir(exist_ok=True)
        bodies = []
        for begin in range(0, count, instances):
            path = folder / f"{begin:06}.body"
            bodies.append(path)
            if not path.exists():
                with open(path, "wb") as body:
                    for file in files[begin : begin + instances]:
                        body.write(_PART_HEADER if file is files[begin] else b"\r\n" + _PART_HEADER)
                        with open(file, "rb") as part:
                            shutil.copyfileobj(part, body, _BLOCK)
                    body.write(f"\r\n--{BOUNDARY}--".encode())
        return bodies
