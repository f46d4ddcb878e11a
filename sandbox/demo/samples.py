"""The instances that the demo sends: two fundus photographs and a CT series. Every name in them is invented.

Their pictures are the same every time; their UIDs are new, so that each run is news for the sandbox.
"""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    OphthalmicPhotography8BitImageStorage,
    generate_uid,
)
from pynetdicom.dsutils import encode

from common.part10 import part10_header
from sandbox.demo import fundus, phantom

HEALTHY_RETINA = "Healthy Retina - adult"
PHANTOM = "Phantom^CT"
_MADE_AT = datetime(2026, 1, 15, 10, 30, 0)  # noqa: DTZ001  DICOM's dates and times are local
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class Sample:
    """One instance, ready to be sent.

    Attributes:
        label: what it is, for the person.
        file_name: what to call its file; empty for a file that is not kept.
        part10: the whole DICOM file, with the very file meta that the receiver writes.
    """

    label: str
    file_name: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    part10: bytes

    @property
    def sha256(self) -> str:
        """Of the whole file, in hexadecimal."""
        return hashlib.sha256(self.part10).hexdigest()

    @property
    def sop_class(self) -> str:
        """The name of the SOP Class, short."""
        return UID(self.sop_class_uid).name.removesuffix(" Storage").removesuffix(" Image")

    @property
    def transfer_syntax(self) -> str:
        """The name of the transfer syntax, short."""
        return UID(self.transfer_syntax_uid).name.partition(":")[0].partition(" (")[0]


@dataclass(frozen=True)
class Samples:
    """What a run works with.

    Attributes:
        to_send: sent by C-STORE.
        to_drop: left for the person to drop into incoming/.
        picture: the first fundus photograph, for those who have no DICOM viewer.
    """

    to_send: tuple[Sample, ...]
    to_drop: Sample
    picture: Image.Image


def make() -> Samples:
    """Draw the pictures and make instances of them."""
    study, series = _new_uid(), _new_uid()
    right, left = fundus.draw(), fundus.draw(left=True)
    colour = _fundus(study, series, number=1, laterality="R", colour=True)
    colour.PhotometricInterpretation = "RGB"
    colour.PixelData = right.tobytes()

    compressed = _fundus(study, series, number=2, laterality="L", colour=True)
    _compress(compressed, left)

    red_free = _fundus(study, series, number=3, laterality="R", colour=False)
    red_free.PhotometricInterpretation = "MONOCHROME2"
    red_free.PresentationLUTShape = "IDENTITY"
    red_free.PixelData = right.getchannel("G").tobytes()

    return Samples(
        to_send=(
            _sample(colour, "fundus, right eye", "fundus-right.dcm", ExplicitVRLittleEndian),
            _sample(compressed, "fundus, left eye", "fundus-left-jpeg.dcm", JPEGBaseline8Bit),
            *_ct_series(),
        ),
        to_drop=_sample(red_free, "fundus, red-free", "fundus-red-free.dcm", ExplicitVRLittleEndian),
        picture=right,
    )


def _new_uid() -> UID:
    return generate_uid(prefix=None)


def _sample(dataset: Dataset, label: str, file_name: str, transfer_syntax: UID) -> Sample:
    encoded = encode(dataset, transfer_syntax.is_implicit_VR, transfer_syntax.is_little_endian)
    if encoded is None:
        raise RuntimeError(f"expected a dataset that can be encoded, found another for {label}")
    header = part10_header(dataset.SOPClassUID, dataset.SOPInstanceUID, transfer_syntax)
    return Sample(
        label, file_name, dataset.SOPClassUID, dataset.SOPInstanceUID, transfer_syntax, part10=header + encoded
    )


def _common(
    sop_class: UID, study: UID, series: UID, *, modality: str, number: int, patient: tuple[str, str, str, str]
) -> Dataset:
    """The modules that all of them have: Patient, General Study, General Series, General Equipment, SOP Common."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = _new_uid()
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = series
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = patient
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = dataset.AcquisitionDate = f"{_MADE_AT:%Y%m%d}"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = dataset.AcquisitionTime = f"{_MADE_AT:%H%M%S}"
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = "DEMO"
    dataset.Modality = modality
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = number
    dataset.Manufacturer = "Stowgate demo"
    dataset.ManufacturerModelName = "Drawing by program"
    dataset.DeviceSerialNumber = "0"
    dataset.SoftwareVersions = "1.0"
    dataset.PatientOrientation = ""
    dataset.BurnedInAnnotation = "NO"
    return dataset


def _fundus(study: UID, series: UID, *, number: int, laterality: str, colour: bool) -> Dataset:
    """An Ophthalmic Photography 8 Bit Image (PS3.3 A.41) without its pixels."""
    dataset = _common(
        OphthalmicPhotography8BitImageStorage,
        study,
        series,
        modality="OP",
        number=number,
        patient=(HEALTHY_RETINA, "DEMO-RETINA", "19800101", "O"),
    )
    dataset.StudyDescription = "Fundus photography"
    dataset.SeriesDescription = "Fundus, 45 degrees, both eyes"
    # Synchronization (C.7.4.2)
    dataset.SynchronizationFrameOfReferenceUID = _new_uid()
    dataset.SynchronizationTrigger = "NO TRIGGER"
    dataset.AcquisitionTimeSynchronized = "N"
    # Image Pixel (C.7.6.3) and Multi-frame (C.7.6.6)
    dataset.SamplesPerPixel = 3 if colour else 1
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.Rows = dataset.Columns = fundus.SIZE
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.NumberOfFrames = 1
    dataset.FrameIncrementPointer = 0x00181063  # wanted for a single frame too, with what it points to
    dataset.FrameTime = "0"
    dataset.AcquisitionContextSequence = []
    # Ophthalmic Photography Image (C.8.17.2)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "", "COLOR" if colour else "REDFREE"]
    dataset.PixelSpacing = ["0.01818", "0.01818"]
    dataset.AcquisitionDateTime = f"{_MADE_AT:%Y%m%d%H%M%S}"
    dataset.LossyImageCompression = "00"
    # Ocular Region Imaged (C.8.17.5)
    dataset.ImageLaterality = laterality
    dataset.AnatomicRegionSequence = [_code("5665001", "SCT", "Retina")]
    # Ophthalmic Photography Acquisition Parameters (C.8.17.4)
    dataset.PatientEyeMovementCommanded = "NO"
    dataset.HorizontalFieldOfView = 45.0
    dataset.RefractiveStateSequence = []
    dataset.EmmetropicMagnification = None
    dataset.IntraOcularPressure = None
    dataset.PupilDilated = "NO"
    # Ophthalmic Photographic Parameters (C.8.17.3)
    dataset.AcquisitionDeviceTypeCodeSequence = [_code("409898007", "SCT", "Fundus Camera")]
    dataset.IlluminationTypeCodeSequence = []
    dataset.LightPathFilterTypeStackCodeSequence = []
    dataset.ImagePathFilterTypeStackCodeSequence = []
    dataset.LensesCodeSequence = []
    dataset.DetectorType = "CMOS"
    return dataset


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _compress(dataset: Dataset, picture: Image.Image) -> None:
    """Put the picture in as JPEG Baseline, with what PS3.3 C.7.6.1.1.5 wants to be said about it."""
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=_JPEG_QUALITY, subsampling="4:2:2")
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.PixelData = encapsulate([jpeg.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionRatio = f"{len(picture.tobytes()) / len(jpeg.getvalue()):.2f}"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"


def _ct_series() -> Iterable[Sample]:
    """A series of CT Images (PS3.3 A.3) of the phantom."""
    study, series, frame_of_reference = _new_uid(), _new_uid(), _new_uid()
    corner = -phantom.PIXEL_MM * (phantom.SIZE - 1) / 2
    for number, z in enumerate(phantom.positions(), 1):
        dataset = _common(
            CTImageStorage, study, series, modality="CT", number=number, patient=(PHANTOM, "DEMO-CT", "", "O")
        )
        dataset.StudyDescription = dataset.SeriesDescription = "Head phantom"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.AcquisitionNumber = 1
        dataset.BodyPartExamined = "HEAD"
        dataset.PatientPosition = "HFS"
        dataset.FrameOfReferenceUID = frame_of_reference
        dataset.PositionReferenceIndicator = ""
        dataset.PixelSpacing = [f"{phantom.PIXEL_MM}"] * 2
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [f"{corner:.3f}", f"{corner:.3f}", f"{z:.1f}"]
        dataset.SliceThickness = f"{phantom.SLICE_MM:.1f}"
        dataset.KVP = "120"
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.Rows = dataset.Columns = phantom.SIZE
        dataset.BitsAllocated = 16
        dataset.BitsStored = 12
        dataset.HighBit = 11
        dataset.PixelRepresentation = 0
        dataset.RescaleIntercept = str(phantom.RESCALE_INTERCEPT)
        dataset.RescaleSlope = "1"
        dataset.RescaleType = "HU"
        dataset.WindowCenter, dataset.WindowWidth = "40", "120"
        dataset.PixelData = phantom.draw(z)
        dataset["PixelData"].VR = "OW"
        yield _sample(dataset, f"CT slice {number} of {phantom.SLICES}", f"ct-{number}.dcm", ImplicitVRLittleEndian)
