"""`python -m bench.null_archive PORT`: a STOW-RS origin server that keeps nothing, so that it is never the limit.

It reads a Store request (PS3.18 10.5) that comes with a Content-Length into one buffer that is used again and again,
and answers with a Store Instances Response in DICOM JSON that names every SOP Instance UID it was sent. The UID is
read from the file meta information of each part. Where a part ends is told by `--instance-bytes`, if all have one
size, and checked against the delimiter that must follow; without it the delimiter is searched for, which takes longer.

`GET /received` tells what has come: for each request when it began and ended (monotonic seconds of this machine, which
all its processes share), its bytes and its UIDs. With `--status` it stores nothing and answers only that.
"""

import argparse
import json
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

_BUFFER_BYTES = 1 << 20
_HEAD_BYTES = 1024  # the UID is within the first so many bytes of a part, or it is not found
# (0002,0002) and (0002,0003), which file meta information has in Explicit VR Little Endian (PS3.10 7.1).
_SOP_CLASS_UID = b"\x02\x00\x02\x00UI"
_SOP_INSTANCE_UID = b"\x02\x00\x03\x00UI"
_END_OF_HEADER = b"\r\n\r\n"
_MIN_FILL = 64 * 1024


class RequestError(Exception):
    """What came is no request that this server understands."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One request: monotonic seconds of its first byte and of its last, length of its body, and who was in it."""

    begun: float
    ended: float
    size_bytes: int
    uids: tuple[str, ...]


@dataclass
class Record:
    """What all connections have received."""

    requests: list[Stored] = field(default_factory=list)

    def document(self) -> bytes:
        """For `GET /received`."""
        return json.dumps([asdict(one) for one in self.requests]).encode()


class Reader:
    """Bytes of a connection, through one buffer.

    Args:
        connection: where they come from.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self.passed = 0
        """How many bytes were taken or skipped."""

    def ready(self) -> bool:
        """Wait for a byte; False at the end of the connection."""
        return self._start < self._end or self._fill(1, exact=False)

    def peek(self, count: int) -> bytes:
        """The next bytes, which stay; fewer only at the end of the connection."""
        if self._end - self._start < count:
            self._fill(count)
        return bytes(self._view[self._start : min(self._start + count, self._end)])

    def take(self, count: int) -> bytes:
        """The next bytes, at most as many as the buffer holds.

        Raises:
            RequestError: the connection ends before.
        """
        taken = self.peek(count)
        if len(taken) < count:
            raise RequestError("the connection ended within a request")
        self._start += count
        self.passed += count
        return taken

    def take_past(self, marker: bytes, longest: int = 1 << 16) -> bytes:
        """Everything up to a marker and the marker itself.

        Raises:
            RequestError: it is not among the `longest` bytes that come next.
        """
        looked = 0
        while True:
            at = self._buffer.find(marker, self._start + looked, self._end)
            if at >= 0:
                return self.take(at + len(marker) - self._start)
            looked = max(0, self._end - self._start - len(marker) + 1)
            if self._end - self._start >= longest or not self._fill(self._end - self._start + 1, exact=False):
                raise RequestError(f"expected {marker!r}")

    def skip(self, count: int) -> None:
        """Pass over bytes, as fast as they come.

        Raises:
            RequestError: the connection ends before.
        """
        self.passed += count
        buffered = min(count, self._end - self._start)
        self._start += buffered
        left = count - buffered
        while left > 0:
            got = self._connection.recv_into(self._view[: min(left, _BUFFER_BYTES)], 0, socket.MSG_WAITALL)
            if got == 0:
                raise RequestError("the connection ended within a request")
            left -= got
            self._start = self._end = 0

    def skip_to(self, marker: bytes) -> None:
        """Pass over everything before a marker.

        Raises:
            RequestError: the connection ends before it.
        """
        skipped = 0
        while True:
            at = self._buffer.find(marker, self._start, self._end)
            if at >= 0:
                self.passed += skipped + at - self._start
                self._start = at
                return
            keep = min(len(marker) - 1, self._end - self._start)
            skipped += self._end - keep - self._start
            self._start = self._end - keep
            if not self._fill(keep + 1, exact=False):
                raise RequestError(f"expected {marker!r}")

    def _fill(self, count: int, *, exact: bool = True) -> bool:
        """Have at least so many bytes in the buffer; False if the connection ends before."""
        if self._start + count > _BUFFER_BYTES or self._start == self._end or _BUFFER_BYTES - self._end < _MIN_FILL:
            left = self._end - self._start
            self._view[:left] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, left
        while self._end - self._start < count:
            got = self._connection.recv_into(self._view[self._end :])
            if got == 0:
                return False
            self._end += got
            if not exact:
                break
        return self._end - self._start >= count


def boundary_of(content_type: str) -> bytes:
    """The boundary parameter of a Content-Type.

    Raises:
        RequestError: there is none.
    """
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "boundary" and value:
            return value.strip('"').encode()
    raise RequestError(f"expected multipart/related with a boundary, found {content_type!r}")


def instances(reader: Reader, boundary: bytes, instance_bytes: int = 0) -> list[tuple[str, str]]:
    """SOP Class and Instance UID of each part of a multipart body, which is read to its closing delimiter.

    Args:
        reader: at the begin of the body.
        boundary: of the parts.
        instance_bytes: size of each part's content; 0 if it is to be found out.

    Raises:
        RequestError: the body is not what was told, or a part has no SOP Instance UID.
    """
    delimiter = b"\r\n--" + boundary
    found: list[tuple[str, str]] = []
    # The first delimiter may stand without the line break that belongs to the others (RFC 2046 5.1.1).
    if reader.peek(2) == b"\r\n":
        reader.take(2)
    mark = delimiter[2:]
    while True:
        if (line := reader.take(len(mark))) != mark:
            raise RequestError(f"expected the delimiter {mark!r}, found {line!r}")
        if reader.take(2) == b"--":
            return found
        reader.take_past(_END_OF_HEADER)
        head = reader.peek(min(_HEAD_BYTES, instance_bytes or _HEAD_BYTES))
        found.append((_value(head, _SOP_CLASS_UID), _value(head, _SOP_INSTANCE_UID)))
        if instance_bytes:
            reader.skip(instance_bytes)
        else:
            reader.skip_to(delimiter)
        mark = delimiter


def _value(head: bytes, element: bytes) -> str:
    at = head.find(element)
    if at < 0:
        raise RequestError("expected file meta information with SOP Class and Instance UID at the begin of a part")
    begin = at + len(element) + 2
    return head[begin : begin + int.from_bytes(head[begin - 2 : begin], "little")].rstrip(b"\0").decode("ascii")


def store_response(stored: Iterable[tuple[str, str]]) -> bytes:
    """A Store Instances Response in DICOM JSON (PS3.18 10.5.3.2) that names each of these as stored."""
    items = ",".join(
        f'{{"00081150":{{"vr":"UI","Value":["{class_uid}"]}},"00081155":{{"vr":"UI","Value":["{instance_uid}"]}}}}'
        for class_uid, instance_uid in stored
    )
    return f'{{"00081199":{{"vr":"SQ","Value":[{items}]}}}}'.encode()


def _answer(status: str, content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def serve(connection: socket.socket, record: Record, instance_bytes: int, status: int) -> None:
    """Serve one connection to its end."""
    reader = Reader(connection)
    with connection:
        try:
            while reader.ready():
                connection.sendall(_answer_to(reader, connection, record, instance_bytes, status))
        except RequestError as error:
            print(f"refused: {error}", file=sys.stderr, flush=True)
            connection.sendall(_answer("400 Bad Request", "text/plain", str(error).encode()))
        except OSError as error:
            print(f"connection lost: {error}", file=sys.stderr, flush=True)


def _answer_to(reader: Reader, connection: socket.socket, record: Record, instance_bytes: int, status: int) -> bytes:
    """Read one request; the answer to it."""
    begun = time.monotonic()
    request, headers = _head(reader)
    if request.startswith("GET /received "):
        return _answer("200 OK", "application/json", record.document())
    if "content-length" not in headers:
        raise RequestError("expected a Content-Length")
    size = int(headers["content-length"])
    if headers.get("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if status:
        reader.skip(size)
        record.requests.append(Stored(begun, time.monotonic(), size, ()))
        return _answer(f"{status} As asked for", "text/plain", b"")
    stored = instances(reader, boundary_of(headers.get("content-type", "")), instance_bytes)
    reader.skip(size - reader.passed)  # a line break may follow the closing delimiter
    record.requests.append(Stored(begun, time.monotonic(), size, tuple(uid for _, uid in stored)))
    return _answer("200 OK", "application/dicom+json", store_response(stored))


def _head(reader: Reader) -> tuple[str, Mapping[str, str]]:
    """The request line, and the header fields by lower-case name."""
    lines = reader.take_past(_END_OF_HEADER).decode("latin-1").split("\r\n")
    reader.passed = 0
    fields = (line.partition(":") for line in lines[1:] if line)
    return lines[0], {name.strip().lower(): value.strip() for name, _, value in fields}


def main(argv: list[str]) -> None:
    """Accept for ever."""
    parser = argparse.ArgumentParser(prog="bench.null_archive")
    parser.add_argument("port", type=int)
    parser.add_argument("--instance-bytes", type=int, default=0, help="size of every part, if all have one")
    parser.add_argument("--status", type=int, default=0, help="answer this to every request")
    options = parser.parse_args(argv)
    record = Record()
    with socket.create_server(("127.0.0.1", options.port), backlog=64) as server:
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            arguments = (connection, record, options.instance_bytes, options.status)
            threading.Thread(target=serve, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1:])
