"""Instances and requests for the tests of the sandbox."""

import io
import socket
from collections.abc import Sequence

import requests
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

BOUNDARY = "stowgate-boundary"
CONTENT_TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
STUDY = "1.2.826.0.1.3680043.8.498.1"
SERIES = "1.2.826.0.1.3680043.8.498.2"


def dataset(sop_instance_uid: str | None = None, *, study: str = STUDY) -> Dataset:
    """A small CT instance, ready to be changed and written by part10()."""
    made = Dataset()
    made.SOPClassUID = CTImageStorage
    made.SOPInstanceUID = sop_instance_uid or generate_uid()
    made.PatientName = "Secret^Patient"
    made.PatientID = "SECRET-ID"
    made.StudyInstanceUID = study
    made.SeriesInstanceUID = SERIES
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def part10(made: Dataset) -> bytes:
    """Write a dataset as a complete Part 10 file, whose file meta may disagree with it."""
    made.preamble = bytes(128)
    made.file_meta.FileMetaInformationGroupLength = 0  # pydicom writes the right one
    made.file_meta.FileMetaInformationVersion = b"\0\1"
    made.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    file = io.BytesIO()
    made.save_as(file)
    return file.getvalue()


def instance(sop_instance_uid: str | None = None, *, study: str = STUDY) -> bytes:
    """A small CT instance as a Part 10 file."""
    return part10(dataset(sop_instance_uid, study=study))


def multipart(parts: Sequence[bytes], *, boundary: str = BOUNDARY) -> bytes:
    """A well-formed body of these parts."""
    dash = f"--{boundary}".encode()
    head = b"\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(dash + head + part + b"\r\n" for part in parts) + dash + b"--"


def post(
    url: str,
    parts: Sequence[bytes] = (),
    *,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    study: str | None = None,
) -> requests.Response:
    """Post instances, or a body as it is, to the Studies resource."""
    return requests.post(
        f"{url}/studies" + (f"/{study}" if study else ""),
        data=multipart(parts) if body is None else body,
        headers={"Content-Type": CONTENT_TYPE} | (headers or {}),
        allow_redirects=False,
        timeout=10,
    )


def connect(url: str) -> socket.socket:
    """Open a bare TCP connection to a sandbox."""
    host, _, port = url.split("/")[2].partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def head(length: int | None, *more: str) -> bytes:
    """The head of a POST to the Studies resource, for bare connections."""
    lines = ["POST /dicom-web/studies HTTP/1.1", "Host: sandbox", f"Content-Type: {CONTENT_TYPE}", *more]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def uids(response: requests.Response, sequence: str) -> list[str]:
    """The ReferencedSOPInstanceUIDs in a sequence of a JSON response, given by its tag."""
    return [entry["00081155"]["Value"][0] for entry in response.json().get(sequence, {}).get("Value", [])]


def reasons(response: requests.Response, sequence: str) -> list[int]:
    """The FailureReasons in a sequence of a JSON response, given by its tag."""
    return [entry["00081197"]["Value"][0] for entry in response.json().get(sequence, {}).get("Value", [])]


REFERENCED, FAILED, OTHER = "00081199", "00081198", "0008119A"
