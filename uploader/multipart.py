"""The body of a Store request: multipart/related parts of application/dicom (PS3.18 10.5.1.3, RFC 2387).

It is streamed from disk and knows its length beforehand, so that it goes out with a Content-Length: some
archives take a chunked body and store nothing. It is built afresh for every try.
"""

import hashlib
import math
import uuid
from collections.abc import Callable, Sequence
from typing import Protocol, cast

_HASH_BLOCK = 1024 * 1024  # bytes read at a time
# Exactly this header: an archive is known that refuses a transfer-syntax parameter in it.
_PART_HEADER = b"Content-Type: application/dicom\r\n\r\n"


class Part(Protocol):
    """One instance of a request: a claimed file."""

    @property
    def name(self) -> str:
        """Its name in incoming/."""

    @property
    def size_bytes(self) -> int:
        """Its size when it was claimed."""

    def read_at(self, offset: int, length: int, /) -> bytes:
        """At most `length` bytes from `offset`."""


class OnDisk(Part, Protocol):
    """A part that the kernel can send by itself."""

    def send_at(self, out: int, offset: int, length: int, /) -> int:
        """Have at most `length` bytes from `offset` sent to a socket; how many were, none only at the end.

        Raises:
            BlockingIOError: the socket takes none now.
            OSError: of the file or of the socket.
        """


class PartError(Exception):
    """A part cannot be read as it was claimed: it became shorter, or the disk fails.

    No OSError, since the HTTP client would take that for one of the connection.
    """

    def __init__(self, part: Part) -> None:
        super().__init__("a file became unreadable or shorter while it was sent")
        self.part = part


class Aborted(Exception):  # noqa: N818 - not a failure: somebody asked for it
    """The request was cut because the process stops."""


class Body:
    """A readable body of known length.

    Args:
        parts: the instances, at least one.
        aborted: asked before every read; when it says yes, `Aborted` is raised.
        moved: told before every read how many bytes came out before, and how many there are in all. Who asks for
            more has sent what was read.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        aborted: Callable[[], bool] = lambda: False,
        moved: Callable[[int, int], None] = lambda _sent, _size: None,
    ) -> None:
        self.boundary = uuid.uuid4().hex
        self._aborted = aborted
        self._moved = moved
        self._sent = 0
        self._pieces: list[bytes | Part] = []
        delimiter = b"--" + self.boundary.encode("ascii") + b"\r\n"
        for number, part in enumerate(parts):
            self._pieces += [(b"\r\n" if number else b"") + delimiter + _PART_HEADER, part]
        self._pieces.append(b"\r\n--" + self.boundary.encode("ascii") + b"--\r\n")
        self._length = sum(len(piece) if isinstance(piece, bytes) else piece.size_bytes for piece in self._pieces)
        self._index = 0
        self._offset = 0

    @property
    def content_type(self) -> str:
        """The value of the Content-Type header that goes with this body."""
        return f'multipart/related; type="application/dicom"; boundary={self.boundary}'

    def __len__(self) -> int:
        return self._length

    def sha256(self) -> str:
        """The SHA-256 of the whole body, in hex; every file is read once, and nothing of what `read` gives changes.

        Raises:
            PartError, Aborted: as `read` does.
        """
        digest = hashlib.sha256()
        for piece in self._pieces:
            if isinstance(piece, bytes):
                digest.update(piece)
                continue
            offset = 0
            while offset < piece.size_bytes:
                if self._aborted():
                    raise Aborted
                chunk = _read_part(piece, offset, min(_HASH_BLOCK, piece.size_bytes - offset))
                digest.update(chunk)
                offset += len(chunk)
        return digest.hexdigest()

    def read(self, size: int = -1, *, leave: float = math.inf) -> bytes:
        """At most `size` bytes; none only at the end, or before what is to be left.

        Args:
            size: all, if negative.
            leave: stop where so many bytes, or more, are `on_disk`.

        Raises:
            PartError: a file gives fewer bytes than were announced.
            Aborted: the process stops.
        """
        self._go_on()
        wanted = self._length if size is None or size < 0 else size
        chunks: list[bytes] = []
        while wanted > 0 and self._index < len(self._pieces) and self.on_disk() < leave:
            piece = self._pieces[self._index]
            if isinstance(piece, bytes):
                chunk = piece[self._offset : self._offset + wanted]
            else:
                chunk = _read_part(piece, self._offset, min(wanted, piece.size_bytes - self._offset))
            chunks.append(chunk)
            wanted -= len(chunk)
            self._advance(len(chunk))
        return b"".join(chunks)

    def on_disk(self) -> int:
        """How many bytes come next that `send_to` can send: what is left of a file. 0 if something else comes next."""
        if self._index == len(self._pieces):
            return 0
        piece = self._pieces[self._index]
        return piece.size_bytes - self._offset if not isinstance(piece, bytes) and hasattr(piece, "send_at") else 0

    def send_to(self, out: int, size: int) -> int:
        """Have the kernel send at most `size` of the bytes that are `on_disk`; how many were sent, 0 if it gives none.

        Raises:
            BlockingIOError: the socket takes none now.
            OSError: of the file or of the socket.
            Aborted: the process stops.
        """
        self._go_on()
        piece = cast(OnDisk, self._pieces[self._index])
        count = piece.send_at(out, self._offset, min(size, self.on_disk()))
        self._advance(count)
        return count

    def _go_on(self) -> None:
        if self._aborted():
            raise Aborted
        self._moved(self._sent, self._length)

    def _advance(self, count: int) -> None:
        piece = self._pieces[self._index]
        self._sent += count
        self._offset += count
        if self._offset >= (len(piece) if isinstance(piece, bytes) else piece.size_bytes):
            self._index += 1
            self._offset = 0


def _read_part(part: Part, offset: int, length: int) -> bytes:
    if length == 0:
        return b""
    try:
        chunk = part.read_at(offset, length)
    except OSError as error:
        raise PartError(part) from error
    if not chunk:
        raise PartError(part)
    return chunk
