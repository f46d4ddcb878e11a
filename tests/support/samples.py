"""Instances for tests: pydicom's bundled files, and small ones of our own."""

from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from common.errors import InstanceError
from common.part10 import read_part10
from support import canaries


def bundled_folder() -> Path:
    """The folder of pydicom's bundled test files."""
    found = get_testdata_file("CT_small.dcm")
    assert found is not None
    return Path(str(found)).parent


def storable_files() -> list[Path]:
    """pydicom's bundled files that are whole DICOM files of storable instances."""
    files = []
    for path in sorted(bundled_folder().rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                try:
                    read_part10(file, path.stat().st_size)
                except InstanceError:
                    continue
            files.append(path)
    return files


def make_instance(
    path: Path,
    *,
    patient_name: str = canaries.NAME,
    patient_id: str = canaries.ID,
    study: str | None = None,
    **values: object,
) -> str:
    """Write a small CT-like instance; its SOP Instance UID."""
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName = patient_name
    dataset.PatientID = patient_id
    dataset.PatientBirthDate = canaries.BIRTH_DATE
    dataset.StudyInstanceUID = study or generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.Modality = "CT"
    dataset.Rows = dataset.Columns = 16
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = bytes(256)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return str(dataset.SOPInstanceUID)
