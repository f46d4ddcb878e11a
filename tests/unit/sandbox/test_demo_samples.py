import hashlib
import io
import itertools
from collections.abc import Iterator

import pytest
from PIL import Image, ImageChops, ImageStat
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    OphthalmicPhotography8BitImageStorage,
)

from common.instance import is_uid
from common.part10 import read_part10
from sandbox.demo import fundus, phantom, samples
from sandbox.demo.samples import Sample, Samples

# PS3.3 A.41, by module: attributes of Type 1 and 1C, which must have a value.
FUNDUS_TYPE_1 = {
    "SOP Common": ["SOPClassUID", "SOPInstanceUID"],
    "General Study": ["StudyInstanceUID"],
    "General Series": ["Modality", "SeriesInstanceUID"],
    "Synchronization": ["SynchronizationFrameOfReferenceUID", "SynchronizationTrigger", "AcquisitionTimeSynchronized"],
    "Image Pixel": ["Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelData"],
    "Multi-frame": ["NumberOfFrames", "FrameIncrementPointer"],
    "Ophthalmic Photography Image": [
        "ImageType", "InstanceNumber", "SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation",
        "PixelSpacing", "ContentTime", "ContentDate", "AcquisitionDateTime", "LossyImageCompression",
        "BurnedInAnnotation",
    ],
    "Ocular Region Imaged": ["ImageLaterality", "AnatomicRegionSequence"],
    "Ophthalmic Photographic Parameters": ["AcquisitionDeviceTypeCodeSequence"],
}  # fmt: skip
# The same for Type 2, which may be empty.
FUNDUS_TYPE_2 = {
    "Patient": ["PatientName", "PatientID", "PatientBirthDate", "PatientSex"],
    "General Study": ["StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"],
    "General Series": ["SeriesNumber"],
    "General Equipment": ["Manufacturer"],
    "Acquisition Context": ["AcquisitionContextSequence"],
    "Ophthalmic Photography Acquisition Parameters": [
        "PatientEyeMovementCommanded", "HorizontalFieldOfView", "RefractiveStateSequence", "EmmetropicMagnification",
        "IntraOcularPressure", "PupilDilated",
    ],
    "Ophthalmic Photographic Parameters": [
        "IlluminationTypeCodeSequence", "LightPathFilterTypeStackCodeSequence", "ImagePathFilterTypeStackCodeSequence",
        "LensesCodeSequence", "DetectorType",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> Samples:
    return samples.make()


def everyone(made: Samples) -> Iterator[Sample]:
    yield from made.to_send
    yield made.to_drop


def dataset(sample: Sample) -> Dataset:
    return dcmread(io.BytesIO(sample.part10))


def test_a_colour_fundus_photograph_of_the_healthy_retina_is_among_them(made: Samples) -> None:
    """The first one is Ophthalmic Photography 8 Bit, RGB, of the patient "Healthy Retina - adult"."""
    first = dataset(made.to_send[0])
    assert first.SOPClassUID == OphthalmicPhotography8BitImageStorage
    assert first.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert str(first.PatientName) == "Healthy Retina - adult"
    assert (first.Modality, first.ImageLaterality) == ("OP", "R")
    assert (first.SamplesPerPixel, first.PhotometricInterpretation, first.PlanarConfiguration) == (3, "RGB", 0)
    assert (first.BitsAllocated, first.BitsStored, first.HighBit, first.PixelRepresentation) == (8, 8, 7, 0)
    assert Image.frombytes("RGB", (first.Columns, first.Rows), first.PixelData).tobytes() == made.picture.tobytes()


def test_the_fundus_photographs_have_the_attributes_of_their_iod(made: Samples) -> None:
    """Type 1 attributes have a value, Type 2 attributes are there."""
    for sample in (made.to_send[0], made.to_send[1], made.to_drop):
        found = dataset(sample)
        for module, keywords in FUNDUS_TYPE_1.items():
            for keyword in keywords:
                assert keyword in found, (module, keyword)
                assert found[keyword].value not in (None, "", []), (module, keyword)
        for module, keywords in FUNDUS_TYPE_2.items():
            for keyword in keywords:
                assert keyword in found, (module, keyword)


def test_the_compressed_one_decodes_to_the_other_eye(made: Samples) -> None:
    """It is JPEG Baseline, says so, and what it shows is the left eye, but for the loss of compression."""
    found = dataset(made.to_send[1])
    assert found.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert (found.PhotometricInterpretation, found.ImageLaterality) == ("YBR_FULL_422", "L")
    assert (found.LossyImageCompression, found.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    with Image.open(io.BytesIO(get_frame(found.PixelData, 0, number_of_frames=1))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (found.Columns, found.Rows))
        loss = ImageStat.Stat(ImageChops.difference(picture.convert("RGB"), fundus.draw(left=True))).mean
    assert max(loss) < 4


def test_the_ct_series_is_one_series(made: Samples) -> None:
    """Its slices share study, series and frame of reference; their positions differ by the slice distance."""
    slices = [dataset(sample) for sample in made.to_send if sample.sop_class_uid == CTImageStorage]
    assert len(slices) == phantom.SLICES
    assert {found.file_meta.TransferSyntaxUID for found in slices} == {ImplicitVRLittleEndian}
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert len({found[keyword].value for found in slices}) == 1
    heights = [float(found.ImagePositionPatient[2]) for found in slices]
    assert [upper - lower for lower, upper in itertools.pairwise(heights)] == [phantom.SLICE_MM] * 5
    assert [found.InstanceNumber for found in slices] == [1, 2, 3, 4, 5, 6]
    for found in slices:
        values = memoryview(found.PixelData).cast("H")
        assert len(values) == found.Rows * found.Columns
        assert 0 <= min(values) < 100
        assert 1024 + 900 < max(values) < 4096


def test_stowgate_itself_takes_each_of_them_for_a_whole_instance(made: Samples) -> None:
    """The reader that checks dropped files finds what the sample says of itself."""
    for sample in everyone(made):
        instance = read_part10(io.BytesIO(sample.part10), len(sample.part10))
        assert instance.sop_instance_uid == sample.sop_instance_uid
        assert instance.sop_class_uid == sample.sop_class_uid
        assert instance.transfer_syntax_uid == sample.transfer_syntax_uid
        assert sample.sha256 == hashlib.sha256(sample.part10).hexdigest()


def test_two_runs_differ_in_nothing_but_uids(made: Samples) -> None:
    """Each run is news for the sandbox, but its pictures and all other values are the same."""
    for one, other in zip(everyone(made), everyone(samples.make()), strict=True):
        assert one.sop_instance_uid != other.sop_instance_uid
        assert one.sop_instance_uid.startswith("2.25.")
        assert is_uid(one.sop_instance_uid)
        ours, theirs = dataset(one), dataset(other)
        new = {element.tag for element in ours if element.VR == "UI" and element.keyword != "SOPClassUID"}
        assert {element.keyword for element in ours if theirs[element.tag] != element} == {
            ours[tag].keyword for tag in new
        }
