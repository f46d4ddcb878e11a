"""The null archive: whom it finds in a request, and what it answers."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import samples
from bench.null_archive import Reader, Record, RequestError, boundary_of, instances, serve, store_response
from uploader.multipart import Body
from uploader.response import parse


class Part:
    """An instance in memory, as the uploader's body wants it."""

    def __init__(self, content: bytes) -> None:
        self.name = "part"
        self.content = content
        self.size_bytes = len(content)

    def read_at(self, offset: int, length: int, /) -> bytes:
        """A piece of it."""
        return self.content[offset : offset + length]


def instance(number: int, sample: samples.Sample = samples.SMALL) -> bytes:
    return sample.numbered(number) + bytes(sample.pixel_bytes)


def found(content: bytes, boundary: bytes, instance_bytes: int = 0, piece: int = 1 << 16) -> list[tuple[str, str]]:
    """What the null archive finds in a body that comes in pieces of so many bytes."""
    near, far = socket.socketpair()

    def send() -> None:
        with near:
            for at in range(0, len(content), piece):
                near.sendall(content[at : at + piece])

    sender = threading.Thread(target=send)
    sender.start()
    with far:
        try:
            return instances(Reader(far), boundary, instance_bytes)
        finally:
            far.close()
            sender.join()


HEADER = b"\r\nContent-Type: application/dicom\r\n\r\n"
EXPECTED = [(samples.SMALL.sop_class_uid, samples.uid(number)) for number in range(3)]


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("piece", [7919, 1 << 16])
def test_finds_every_instance_of_the_uploaders_body(told: bool, piece: int) -> None:  # noqa: FBT001
    """Each UID is found, whether the size of the parts is told or not, however the bytes are cut."""
    body = Body([Part(instance(number)) for number in range(3)])
    size = samples.SMALL.file_bytes if told else 0
    assert found(body.read(), boundary_of(body.content_type), size, piece) == EXPECTED


def test_finds_instances_larger_than_its_buffer() -> None:
    """A part of several million bytes goes through the same small buffer."""
    sample = samples.of_megabytes(3)
    body = Body([Part(instance(number, sample)) for number in range(2)])
    content, uids = body.read(), [samples.uid(0), samples.uid(1)]
    for size in (0, sample.file_bytes):
        assert [uid for _, uid in found(content, body.boundary.encode(), size)] == uids


def test_takes_a_body_that_begins_with_a_line_break() -> None:
    """dicomweb-client begins its bodies with the line break of the first delimiter."""
    parts = b"".join(b"\r\n--b" + HEADER + instance(number) for number in range(3))
    assert found(parts + b"\r\n--b--", b"b") == EXPECTED


def test_takes_ready_made_bodies(tmp_path: Path) -> None:
    """The bodies that curl posts hold what the uploader's do."""
    first, second = samples.Library(tmp_path).bodies("small", samples.SMALL, 3, 2)
    uids = [samples.uid(number) for number in (1, 2)]
    assert [uid for _, uid in found(first.read_bytes(), samples.BOUNDARY.encode(), samples.SMALL.file_bytes)] == uids
    assert found(second.read_bytes(), samples.BOUNDARY.encode())[0][1] == samples.uid(3)


@pytest.mark.parametrize(
    ("content", "instance_bytes", "reason"),
    [
        (b"--b" + HEADER + instance(0) + b"\r\n--b--", samples.SMALL.file_bytes - 1, "expected the delimiter"),
        (b"--b" + HEADER + instance(0) + b"\r\n--b--", samples.SMALL.file_bytes + 1, "expected the delimiter"),
        (b"--b" + HEADER + instance(0), 0, "expected"),
        (b"--b" + HEADER + bytes(20_000) + b"\r\n--b--", 0, "file meta information"),
        (b"--other" + HEADER + instance(0) + b"\r\n--other--", 0, "expected the delimiter"),
        (b"--b" + HEADER + instance(0) + b"\r\n--c--", samples.SMALL.file_bytes, "expected the delimiter"),
    ],
    ids=["told too little", "told too much", "cut off", "not DICOM", "another boundary", "another at the end"],
)
def test_refuses_what_is_not_as_told(content: bytes, instance_bytes: int, reason: str) -> None:
    """Nothing is counted that was not found where it should be."""
    with pytest.raises(RequestError, match=reason):
        found(content, b"b", instance_bytes)


class Pieces:
    """A connection that gives one piece for each read."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def recv_into(self, buffer: memoryview, _: int = 0, __: int = 0) -> int:
        """The next piece, or the end."""
        piece = self.pieces.pop(0) if self.pieces else b""
        buffer[: len(piece)] = piece
        return len(piece)


def test_finds_a_delimiter_that_comes_in_two_pieces() -> None:
    """What is searched for may lie across the end of what was read so far."""
    reader = Reader(Pieces(b"content\r\n-", b"-b", b"--"))  # type: ignore[arg-type]  # all that it uses of a socket
    reader.skip_to(b"\r\n--b")
    assert reader.passed == len(b"content")
    assert reader.take(7) == b"\r\n--b--"


def test_the_uploader_reads_its_answer() -> None:
    """Every instance is named as stored, and none as failed."""
    answer = parse(store_response(EXPECTED), "application/dicom+json")
    assert answer is not None
    assert set(answer.stored) == {uid for _, uid in EXPECTED}
    assert not answer.failed


@pytest.fixture
def connection() -> Iterator[http.client.HTTPConnection]:
    """A client of a null archive that answers 503 to nothing."""
    yield from _served(0)


@pytest.fixture
def down() -> Iterator[http.client.HTTPConnection]:
    """A client of a null archive that is told to answer 503."""
    yield from _served(503)


def _served(status: int) -> Iterator[http.client.HTTPConnection]:
    near, far = socket.socketpair()
    far_thread = threading.Thread(target=serve, args=(far, Record(), 0, status), daemon=True)
    client = http.client.HTTPConnection("archive")
    client.sock = near
    far_thread.start()
    yield client
    near.close()
    far_thread.join()


def _post(client: http.client.HTTPConnection, numbers: range) -> tuple[int, bytes]:
    body = Body([Part(instance(number)) for number in numbers])
    client.request("POST", "/dicom-web/studies", body.read(), {"Content-Type": body.content_type})
    answer = client.getresponse()
    return answer.status, answer.read()


def test_answers_requests_on_one_connection_and_tells_what_came(connection: http.client.HTTPConnection) -> None:
    """One connection serves request after request; the record has each with its instances and its times."""
    for numbers in (range(2), range(2, 3)):
        status, content = _post(connection, numbers)
        answer = parse(content, "application/dicom+json")
        assert status == 200
        assert answer is not None
        assert set(answer.stored) == {samples.uid(number) for number in numbers}
    connection.request("GET", "/received")
    first, second = json.loads(connection.getresponse().read())
    assert first["uids"] == [samples.uid(0), samples.uid(1)]
    assert second["uids"] == [samples.uid(2)]
    assert first["begun"] <= first["ended"] <= second["begun"] <= second["ended"]
    assert first["size_bytes"] > 2 * samples.SMALL.file_bytes


def test_stores_nothing_when_told_a_status(down: http.client.HTTPConnection) -> None:
    """With a status it reads the request, records it, and names nobody."""
    assert _post(down, range(2)) == (503, b"")
    down.request("GET", "/received")
    assert [one["uids"] for one in json.loads(down.getresponse().read())] == [[]]


def test_refuses_a_request_without_length(connection: http.client.HTTPConnection) -> None:
    """What it cannot measure it does not take."""
    connection.putrequest("POST", "/dicom-web/studies")
    connection.endheaders()
    assert connection.getresponse().status == 400
