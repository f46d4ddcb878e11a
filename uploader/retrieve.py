"""Asking the archive what it has: Search (QIDO-RS, PS3.18 10.6) and Retrieve (WADO-RS, PS3.18 10.4) of one instance.

Where to ask follows from the file and the URL in [destination]; a RetrieveURL that an answer gives is not used, since
it would be asked with our credentials wherever it leads. What comes back is untrusted input.
"""

import json
import re
from collections.abc import Callable
from email.message import Message
from http import HTTPStatus
from typing import BinaryIO, Protocol, TypeVar

import requests

from common.config import Verify
from common.errors import InstanceError
from common.instance import Instance, identity, instance_of, is_uid
from common.part10 import read_file_meta
from uploader.comparing import Likeness, compare
from uploader.multipart import Part, PartError
from uploader.stow import Read
from uploader.verdict import Answer, Trouble, Verdict
from uploader.verifying import Finding, Found, Question, verified

T = TypeVar("T")

_JSON = "application/dicom+json"
# As it is stored: without the parameter, archives convert to Explicit VR Little Endian (PS3.18 8.7.3.5.2).
_DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_SOP_INSTANCE_UID = "00080018"
_MAX_ANSWER = 4 * 1024 * 1024  # bytes; of a search for one instance
_MAX_PART_HEADER = 16 * 1024
_BLOCK = 128 * 1024
_SLACK = 1024 * 1024  # bytes; what a small file may grow by in another encoding, with the file meta and part headers
_FINDINGS = {
    Likeness.SAME: Finding.SAME,
    Likeness.DIFFERENT: Finding.DIFFERENT,
    Likeness.INCOMPARABLE: Finding.UNCLEAR,
}


class Claimed(Part, Protocol):
    """A file that was sent."""

    def reader(self) -> BinaryIO:
        """The file from its start."""


class Getter(Protocol):
    """What is needed of the network."""

    def get(
        self,
        path: str,
        accept: str,
        read: Callable[[requests.Response, Read], T],
        *,
        again: Callable[[T | Answer], bool],
    ) -> T | Answer:
        """Ask for what is at a path below the service."""


class Archive:
    """Asks one destination about instances; safe to call from several threads.

    Args:
        client: the way to it.
        verify: what to ask, and when.
    """

    def __init__(self, client: Getter, verify: Verify) -> None:
        self._client = client
        self._verify = verify

    def confirm(self, verdict: Verdict, http_status: int | None, part: Claimed) -> Verdict | Trouble:
        """The verdict on a file as it stands after the archive was asked, as far as the setting wants that.

        Raises:
            PartError: the file became unreadable meanwhile.
            Aborted: the process stops.
        """
        return verified(verdict, http_status, self._verify, lambda wanted: self.ask(wanted, part))

    def ask(self, wanted: Question, part: Claimed) -> Found | Answer:
        """Ask about the instance in a file; once more within seconds if it is not there, since an index may lag.

        Raises:
            PartError: the file became unreadable meanwhile.
            Aborted: the process stops.
        """
        try:
            instance = _identity(part)
        except InstanceError as error:
            return Found(Finding.UNCLEAR, f"it cannot be asked for: {error}")
        uid, study, series = instance.sop_instance_uid, instance.study_instance_uid, instance.series_instance_uid
        if not is_uid(uid):
            return Found(Finding.UNCLEAR, "it cannot be asked for: expected a valid SOP Instance UID, found none")
        known = is_uid(study) and is_uid(series)
        below = f"/studies/{study}/series/{series}/instances" if known else "/instances"
        if wanted is Question.SEARCH:
            path = f"{below}?SOPInstanceUID={uid}"
            return self._client.get(path, _JSON, lambda _response, read: _search(read, uid), again=_missing)
        if not known:
            detail = "it cannot be retrieved: expected a valid Study and Series Instance UID, found none"
            return Found(Finding.UNCLEAR, detail)
        return self._client.get(
            f"{below}/{uid}", _DICOM, lambda response, read: _retrieve(response, read, part), again=_missing
        )


def _missing(got: Found | Answer) -> bool:
    if isinstance(got, Answer):
        return got.status in {204, 404, 410}
    return got.finding is Finding.MISSING


def _identity(part: Claimed) -> Instance:
    try:
        with part.reader() as reader:
            transfer_syntax_uid = read_file_meta(reader, part.size_bytes)
            return instance_of(identity(reader, transfer_syntax_uid, part.size_bytes, whole=False), transfer_syntax_uid)
    except OSError as error:
        raise PartError(part) from error


def _search(read: Read, uid: str) -> Found | Answer:
    content = bytearray()
    while chunk := read(_BLOCK):
        content += chunk
        if len(content) > _MAX_ANSWER:
            return _unexpected(f"expected at most {_MAX_ANSWER} bytes for a search, found more")
    if not content.strip():
        return Found(Finding.MISSING, "the archive does not find it")
    try:
        decoded = json.loads(bytes(content))
    except (ValueError, RecursionError):
        decoded = None
    if not isinstance(decoded, list):
        return _unexpected("expected a list of DICOM JSON (PS3.18 F) for a search, found something else")
    # An archive that does not know the key may answer with the whole series.
    if any(_uid_of(dataset) == uid for dataset in decoded):
        return Found(Finding.THERE, "the archive finds it")
    return Found(Finding.MISSING, "the archive does not find it")


def _uid_of(dataset: object) -> str | None:
    element = dataset.get(_SOP_INSTANCE_UID) if isinstance(dataset, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    first = values[0] if isinstance(values, list) and values else None
    return first.strip("\0 ") if isinstance(first, str) else None


def _retrieve(response: requests.Response, read: Read, part: Claimed) -> Found | Answer:
    media = Message()
    media["Content-Type"] = response.headers.get("Content-Type", "")
    theirs = _bounded(read, 2 * part.size_bytes + _SLACK)
    if media.get_content_type() == "multipart/related":
        boundary = media.get_boundary()
        if not boundary:
            return _unexpected("expected a boundary in the multipart answer, found none")
        first = _FirstPart(theirs, boundary.encode("latin-1", "replace"))
        if not first.begin():
            return _unexpected("expected a DICOM file in the multipart answer, found none")
        theirs = first.read
    try:
        compared = compare(_Local(part).read, theirs)
    except _TooLongError:
        return _unexpected(
            f"expected a file of about {part.size_bytes} bytes from the archive, found more than twice that"
        )
    finding = _FINDINGS.get(compared.likeness)
    return _unexpected(compared.detail) if finding is None else Found(finding, compared.detail)


class _TooLongError(Exception):
    """More came than any encoding of the same dataset takes: it may never end."""


def _bounded(read: Read, left: int) -> Read:
    def bounded(length: int) -> bytes:
        nonlocal left
        chunk = read(length)
        left -= len(chunk)
        if left < 0:
            raise _TooLongError
        return chunk

    return bounded


def _unexpected(detail: str) -> Answer:
    """The answer that stands for a 200 with something else in it."""
    return Answer(status=HTTPStatus.OK, detail=f"HTTP 200, {detail}")


class _Local:
    """The file, read forward by offset."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._at = 0

    def read(self, length: int) -> bytes:
        wanted = min(length, self._part.size_bytes - self._at)
        if wanted <= 0:
            return b""
        try:
            chunk = self._part.read_at(self._at, wanted)
        except OSError as error:
            raise PartError(self._part) from error
        if not chunk:
            raise PartError(self._part)
        self._at += len(chunk)
        return chunk


class _FirstPart:
    """The content of the first part of a multipart body (RFC 2046 5.1), as it comes in."""

    def __init__(self, read: Read, boundary: bytes) -> None:
        self._read = read
        self._delimiter = b"\r\n--" + boundary
        self._buffer = b"\r\n"  # so that a delimiter at the very start is one
        self._ended = False

    def begin(self) -> bool:
        """Go to the first byte of the content; False if there is no part."""
        while (start := self._buffer.find(self._delimiter)) < 0:
            if not self._more():
                return False
            if len(self._buffer) > _MAX_PART_HEADER:
                return False
        self._buffer = self._buffer[start + len(self._delimiter) :]
        while (header := re.search(rb"\A[ \t]*\r\n(?:.*?\r\n)??\r\n", self._buffer, re.DOTALL)) is None:
            if self._buffer.startswith(b"--") or len(self._buffer) > _MAX_PART_HEADER or not self._more():
                return False
        self._buffer = self._buffer[header.end() :]
        return True

    def read(self, length: int) -> bytes:
        """At most so many bytes of the content, at least one; none only at its end."""
        while not self._ended:
            end = self._buffer.find(self._delimiter)
            # The last bytes may be the first ones of a delimiter.
            safe = end if end >= 0 else len(self._buffer) - len(self._delimiter) + 1
            if safe > 0:
                taken = self._buffer[: min(safe, length)]
                self._buffer = self._buffer[len(taken) :]
                return taken
            if end == 0:
                self._ended = True
            elif not self._more():
                raise requests.exceptions.ChunkedEncodingError
        return b""

    def _more(self) -> bool:
        chunk = self._read(_BLOCK)
        self._buffer += chunk
        return bool(chunk)
