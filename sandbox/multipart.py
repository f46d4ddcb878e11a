"""A strict parser of multipart/related bodies, fed with chunks as they arrive (RFC 2046 5.1, PS3.18 8.6).

It does no I/O and keeps no more than a chunk and a part header, so memory does not grow with the instances.
Everything here that is not as it should be is fatal for the request: FramingError. Stricter than RFC 2046 in
what no sender of DICOM has a use for: a preamble, padding after the boundary, an epilogue, and any part header
but Content-Type: application/dicom (an Orthanc refused one with a transfer-syntax parameter), Content-Length,
Content-Location and Content-ID.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from sandbox.errors import FramingError
from sandbox.media import shown

CRLF = b"\r\n"
MAX_HEADER_BYTES = 8192

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ALLOWED = {"content-type", "content-length", "content-location", "content-id"}


@dataclass(frozen=True)
class PartStarted:
    """A part's header was read and is as it should be; its content follows."""


@dataclass(frozen=True)
class PartContent:
    """Some bytes of the current part, valid until the next chunk is fed."""

    data: memoryview


@dataclass(frozen=True)
class PartEnded:
    """The current part is complete: the delimiter after it was read."""


Event = PartStarted | PartContent | PartEnded


class _State(Enum):
    START = auto()
    AFTER_DELIMITER = auto()
    HEADER = auto()
    CONTENT = auto()
    PART_END = auto()
    EPILOGUE = auto()


class MultipartParser:
    """Parses one body: feed() every chunk, then close().

    Args:
        boundary: the boundary parameter of the Content-Type, without dashes, ASCII.
    """

    def __init__(self, boundary: str) -> None:
        self._shown_boundary = f"--{boundary}"
        self._dash_boundary = self._shown_boundary.encode("ascii")
        self._delimiter = CRLF + self._dash_boundary
        self._state = _State.START
        self._buffer = b""
        self._at = 0  # what is before it in the buffer has been parsed
        self._parts = 0
        self._part_bytes = 0
        self._declared_bytes: int | None = None
        self._steps: dict[_State, Callable[[], Event | None]] = {
            _State.START: self._start,
            _State.AFTER_DELIMITER: self._after_delimiter,
            _State.HEADER: self._header,
            _State.CONTENT: self._content,
            _State.PART_END: self._part_end,
            _State.EPILOGUE: self._epilogue,
        }

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Parse one chunk; the iterator must be exhausted before the next call.

        Raises:
            FramingError: saying what was expected and what was found.
        """
        self._buffer = self._buffer[self._at :] + chunk
        self._at = 0
        before = None
        # A step that leaves the state as it is has taken all that it could from this chunk.
        while before is not self._state:
            before = self._state
            event = self._steps[before]()
            if event is not None:
                yield event

    def close(self) -> None:
        """Say that the body is over.

        Raises:
            FramingError: if the closing delimiter is missing.
        """
        if self._state is not _State.EPILOGUE:
            raise FramingError(
                f"expected the closing delimiter {self._shown_boundary}-- at the end of the body "
                f"(RFC 2046 5.1.1), found the end {_WHERE[self._state]} (part {self._parts})"
            )

    def _start(self) -> None:
        # dicomweb-client sends an empty preamble, which brings its CRLF along.
        crlf = len(CRLF) if self._buffer.startswith(CRLF) else 0
        body = self._buffer[crlf : crlf + len(self._dash_boundary)]
        if self._buffer == CRLF[:1] or (len(body) < len(self._dash_boundary) and self._dash_boundary.startswith(body)):
            return
        if body != self._dash_boundary:
            raise FramingError(
                f"expected the body to start with {self._shown_boundary} (RFC 2046 5.1.1), found other bytes"
            )
        self._at = crlf + len(body)
        self._state = _State.AFTER_DELIMITER

    def _after_delimiter(self) -> None:
        found = self._buffer[self._at : self._at + 2]
        if len(found) < 2:
            return
        self._at += 2
        if found == CRLF:
            self._parts += 1
            self._state = _State.HEADER
        elif found == b"--":
            if self._parts == 0:
                raise FramingError("expected at least one part, found the closing delimiter first")
            self._state = _State.EPILOGUE
        else:
            raise FramingError(
                f"expected CRLF or -- right after {self._shown_boundary} (RFC 2046 5.1.1), "
                f"found bytes {found.hex(' ')} (after part {self._parts})"
            )

    def _header(self) -> PartStarted | None:
        at = self._at
        end = at if self._buffer.startswith(CRLF, at) else self._buffer.find(CRLF + CRLF, at)
        if (len(self._buffer) if end < 0 else end) - at > MAX_HEADER_BYTES:
            raise FramingError(
                f"expected a part header of at most {MAX_HEADER_BYTES} bytes that ends in an empty line, "
                f"found none in part {self._parts}"
            )
        if end < 0:
            return None
        self._declared_bytes = _check_part_header(self._buffer[at:end], self._parts)
        self._part_bytes = 0
        self._at = end + (len(CRLF) if end == at else 2 * len(CRLF))
        self._state = _State.CONTENT
        return PartStarted()

    def _content(self) -> PartContent | None:
        at = self._at
        end = self._buffer.find(self._delimiter, at)
        if end >= 0:
            self._at = end + len(self._delimiter)
            self._state = _State.PART_END
        else:
            # The tail may be the beginning of the delimiter.
            self._at = end = max(at, len(self._buffer) - len(self._delimiter) + 1)
        self._part_bytes += end - at
        return PartContent(memoryview(self._buffer)[at:end]) if end > at else None

    def _part_end(self) -> PartEnded:
        if self._declared_bytes not in (None, self._part_bytes):
            raise FramingError(
                f"expected {self._declared_bytes} bytes in part {self._parts} as its Content-Length says, "
                f"found {self._part_bytes}"
            )
        self._state = _State.AFTER_DELIMITER
        return PartEnded()

    def _epilogue(self) -> None:
        if self._buffer[self._at :].strip(b" \t\r\n"):
            raise FramingError("expected nothing but whitespace after the closing delimiter, found other bytes")
        self._at = len(self._buffer)


_WHERE = {
    _State.START: "before the first delimiter",
    _State.AFTER_DELIMITER: "right after a delimiter",
    _State.HEADER: "inside a part header",
    _State.CONTENT: "inside the content of a part",
}


def _check_part_header(block: bytes, part: int) -> int | None:
    """Check one part header, given without its empty line; return its Content-Length if it has one."""
    fields: dict[str, str] = {}
    for line in block.split(CRLF) if block else []:
        try:
            name, colon, value = line.decode("ascii").partition(":")
        except UnicodeDecodeError:
            raise FramingError(f"expected ASCII in the header of part {part}, found other bytes") from None
        if not colon or not _HEADER_NAME.fullmatch(name) or "\r" in value or "\n" in value:
            raise FramingError(
                f"expected header lines 'Name: value' that end in CRLF in part {part}, found a line that is not"
            )
        name = name.lower()
        if name not in _ALLOWED:
            raise FramingError(
                f"expected no part header but Content-Type, Content-Length, Content-Location and Content-ID, "
                f"found {shown(name)} in part {part}"
            )
        if name in fields:
            raise FramingError(f"expected {name} once in the header of part {part}, found it twice")
        fields[name] = value.strip(" \t")
    content_type = fields.get("content-type")
    if content_type is None or content_type.lower() != "application/dicom":
        found = "none" if content_type is None else shown(content_type)
        raise FramingError(
            f"expected exactly Content-Type: application/dicom in the header of part {part}, found {found}"
        )
    length = fields.get("content-length")
    if length is not None and not re.fullmatch(r"[0-9]{1,18}", length):
        raise FramingError(f"expected a number as Content-Length of part {part}, found {shown(length)}")
    return None if length is None else int(length)
