"""The body of a Store request: its bytes, its length, and what happens to files while it is read."""

import errno
import re
import tracemalloc
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.multipart import MultipartParser, PartContent, PartEnded, PartStarted
from uploader.multipart import Aborted, Body, PartError


@dataclass
class Bytes:
    """A part in memory that remembers what was asked of it.

    Attributes:
        at_most: it gives no more than so many bytes at a time, as a disk may.
        announced: the size that it claims to have.
    """

    content: bytes
    name: str = "a.dcm"
    at_most: int = 1 << 30
    announced: int | None = None
    asked: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """What it claims."""
        return len(self.content) if self.announced is None else self.announced

    def read_at(self, offset: int, length: int, /) -> bytes:
        """Some of the content."""
        self.asked.append((offset, length))
        return self.content[offset : offset + min(length, self.at_most)]


@dataclass
class Broken:
    """A part that the disk cannot give."""

    name: str = "broken.dcm"
    size_bytes: int = 10

    def read_at(self, _offset: int, _length: int, /) -> bytes:
        """No content."""
        raise OSError(errno.EIO, "Input/output error")


class Zeros:
    """A part of any size that takes no memory of its own."""

    name = "zeros.dcm"

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def read_at(self, offset: int, length: int, /) -> bytes:
        """Some of the zeros."""
        return bytes(min(length, self.size_bytes - offset))


def drain(body: Body, size: int) -> list[bytes]:
    chunks = []
    while chunk := body.read(size):
        chunks.append(chunk)
    return chunks


def parts_of(body: bytes, boundary: str) -> list[bytes]:
    """What a strict parser, written by others, finds in a body."""
    parser = MultipartParser(boundary)
    parts: list[bytes] = []
    content = b""
    for event in parser.feed(body):
        if isinstance(event, PartStarted):
            content = b""
        elif isinstance(event, PartContent):
            content += bytes(event.data)
        elif isinstance(event, PartEnded):
            parts.append(content)
    parser.close()
    return parts


CONTENTS = st.lists(st.binary(max_size=300), min_size=1, max_size=4)


def test_the_bytes_are_those_of_rfc_2046() -> None:
    """Delimiter, exactly one header, an empty line, the content; then the closing delimiter."""
    body = Body([Bytes(b"one"), Bytes(b"two\r\n")])
    boundary = body.boundary.encode()
    header = b"Content-Type: application/dicom\r\n\r\n"
    assert body.read() == (
        b"--" + boundary + b"\r\n" + header + b"one\r\n"
        b"--" + boundary + b"\r\n" + header + b"two\r\n\r\n"
        b"--" + boundary + b"--\r\n"
    )
    assert body.read() == b""


def test_the_content_type_names_type_and_boundary() -> None:
    """The header is multipart/related with type and boundary, the boundary one that needs no quotes."""
    body = Body([Bytes(b"x")])
    assert body.content_type == f'multipart/related; type="application/dicom"; boundary={body.boundary}'
    assert re.fullmatch(r"[0-9a-f]{32}", body.boundary)


@given(CONTENTS)
def test_a_strict_parser_finds_the_parts(contents: list[bytes]) -> None:
    """Whatever the instances hold, delimiters' look-alikes too, the parser finds the very same bytes."""
    tricky = [content + b"\r\n--" for content in contents]
    body = Body([Bytes(content) for content in tricky])
    assert parts_of(body.read(), body.boundary) == tricky


@given(CONTENTS, st.lists(st.integers(1, 400), min_size=1), st.integers(1, 50))
def test_the_length_is_what_comes_out_whatever_is_asked(contents: list[bytes], sizes: list[int], at_most: int) -> None:
    """len() equals the bytes that read() gives for any sizes, and none is longer than asked."""
    body = Body([Bytes(content, at_most=at_most) for content in contents])
    found = b""
    turn = 0
    while chunk := body.read(sizes[turn % len(sizes)]):
        assert len(chunk) <= sizes[turn % len(sizes)]
        found += chunk
        turn += 1
    assert len(found) == len(body)
    assert parts_of(found, body.boundary) == contents
    assert body.read(10) == b""


@pytest.mark.parametrize("size", [-1, None])
def test_reading_without_a_size_gives_all(size: int | None) -> None:
    """read() and read(-1) give everything that is left."""
    body = Body([Bytes(b"x" * 1000), Bytes(b"y")])
    start = body.read(7)
    rest = body.read() if size is None else body.read(size)
    assert len(start) + len(rest) == len(body)


def test_reading_nothing_gives_nothing() -> None:
    """read(0) is empty and moves nothing on."""
    body = Body([Bytes(b"x")])
    assert body.read(0) == b""
    assert len(body.read()) == len(body)


def test_an_empty_file_is_an_empty_part() -> None:
    """A part of no bytes is there all the same."""
    body = Body([Bytes(b""), Bytes(b"x"), Bytes(b"")])
    assert parts_of(body.read(), body.boundary) == [b"", b"x", b""]


def test_two_bodies_have_two_boundaries() -> None:
    """A body that is built afresh for the next try has a boundary of its own."""
    part = Bytes(b"x")
    assert len({Body([part]).boundary for _ in range(100)}) == 100


def test_a_part_that_became_shorter_is_named() -> None:
    """A file with fewer bytes than announced raises PartError, which names it and has no cause."""
    short = Bytes(b"x" * 10, "short.dcm", announced=11)
    body = Body([Bytes(b"fine"), short])
    with pytest.raises(PartError) as caught:
        drain(body, 64)
    assert caught.value.part is short
    assert caught.value.__cause__ is None
    assert not isinstance(caught.value, OSError)


def test_a_part_that_grew_is_sent_as_announced() -> None:
    """Of a file that has become longer, the announced bytes go out."""
    body = Body([Bytes(b"0123456789", announced=4)])
    assert parts_of(body.read(), body.boundary) == [b"0123"]


def test_a_part_that_the_disk_cannot_give_is_named() -> None:
    """An OSError of a part becomes a PartError with it as cause, for an HTTP client would take it for the network's."""
    body = Body([Broken()])
    with pytest.raises(PartError) as caught:
        drain(body, 1000)
    assert caught.value.part.name == "broken.dcm"
    assert isinstance(caught.value.__cause__, OSError)


def test_a_body_that_is_aborted_stops() -> None:
    """Once somebody asks for it, the next read raises Aborted instead of giving bytes."""
    stop: list[bool] = []
    body = Body([Bytes(b"x" * 100)], lambda: bool(stop))
    assert len(body.read(50)) == 50
    stop.append(True)
    with pytest.raises(Aborted):
        body.read(50)


def test_memory_does_not_grow_with_the_instance() -> None:
    """A gigabyte is read through with no more memory than a few of the pieces that were asked for."""
    size = 64 * 1024
    body = Body([Zeros(500_000_000), Zeros(500_000_000)])
    tracemalloc.start()
    try:
        for _ in range(2000):
            assert len(body.read(size)) == size
        assert tracemalloc.get_traced_memory()[1] < 8 * size
    finally:
        tracemalloc.stop()


def test_no_more_is_read_than_is_asked() -> None:
    """A part is asked for no more bytes than fit into what the reader asked for."""
    part = Bytes(b"x" * 100_000)
    drain(Body([part]), 1000)
    assert max(length for _, length in part.asked) <= 1000
