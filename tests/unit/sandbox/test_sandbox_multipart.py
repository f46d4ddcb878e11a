import re

import pytest
from sandbox_posts import multipart

from sandbox.errors import FramingError
from sandbox.multipart import MAX_HEADER_BYTES, MultipartParser, PartContent, PartEnded, PartStarted

HEAD = b"Content-Type: application/dicom\r\n\r\n"


def parse(body: bytes, chunk_bytes: int = 1 << 20, *, boundary: str = "b") -> list[bytes]:
    parser = MultipartParser(boundary)
    parts: list[bytes] = []
    open_part = False
    for at in range(0, len(body), chunk_bytes):
        for event in parser.feed(body[at : at + chunk_bytes]):
            if isinstance(event, PartStarted):
                assert not open_part
                parts.append(b"")
                open_part = True
            elif isinstance(event, PartContent):
                assert open_part
                parts[-1] += bytes(event.data)
            elif isinstance(event, PartEnded):
                open_part = False
    parser.close()
    assert not open_part
    return parts


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 64, 100_000])
def test_parts_are_the_same_however_the_body_is_cut_into_chunks(chunk_bytes: int) -> None:
    """The parser finds the same parts in chunks of any size, also where content looks like a delimiter."""
    parts = [b"", b"\r\n", b"--b", b"\r\n--", b"\r\n-\r\n--\r\n", b"\r\r\n--a" * 50, bytes(range(256)) * 4]
    assert parse(multipart(parts, boundary="b"), chunk_bytes) == parts


ACCEPTED = {
    "an empty preamble": b"\r\n--b\r\n" + HEAD + b"x\r\n--b--",
    "a line end after the closing delimiter": b"--b\r\n" + HEAD + b"x\r\n--b--\r\n",
    "blanks after the closing delimiter": b"--b\r\n" + HEAD + b"x\r\n--b-- \t\r\n\r\n",
    "another case in the part header": b"--b\r\ncontent-TYPE:Application/DICOM \r\n\r\nx\r\n--b--",
    "every part header that is allowed": (
        b"--b\r\nContent-Length: 1\r\nContent-ID: <a>\r\nContent-Location: urn:x\r\n" + HEAD + b"x\r\n--b--"
    ),
}


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_the_standard_allows_is_accepted(body: bytes) -> None:
    """What RFC 2046 and PS3.18 8.6 allow a sender to write is no error."""
    assert parse(body) == [b"x"]
    assert parse(body, 1) == [b"x"]


REFUSED = {
    "an empty body": (b"", "expected the closing delimiter --b--"),
    "a preamble": (b"hello\r\n--b\r\n" + HEAD + b"x\r\n--b--", "expected the body to start with --b"),
    "two empty lines first": (b"\r\n\r\n--b\r\n" + HEAD + b"x\r\n--b--", "expected the body to start with --b"),
    "another boundary": (b"--c\r\n" + HEAD + b"x\r\n--c--", "expected the body to start with --b"),
    "a longer boundary": (b"--bb\r\n" + HEAD + b"x\r\n--bb--", "expected CRLF or -- right after --b"),
    "no part": (b"--b--", "expected at least one part"),
    "a bare LF after the boundary": (b"--b\n" + HEAD + b"x\r\n--b--", "found bytes 0a 43"),
    "padding after the boundary": (b"--b \r\n" + HEAD + b"x\r\n--b--", "found bytes 20 0d"),
    "a boundary in the content": (
        b"--b\r\n" + HEAD + b"x\r\n--bulk\r\n--b--",
        "expected CRLF or -- right after --b",
    ),
    "no closing delimiter": (b"--b\r\n" + HEAD + b"x", "found the end inside the content of a part (part 1)"),
    "an open delimiter at the end": (b"--b\r\n" + HEAD + b"x\r\n--b\r\n", "found the end inside a part header"),
    "one dash at the end": (b"--b\r\n" + HEAD + b"x\r\n--b-", "found the end right after a delimiter"),
    "a closing delimiter on no line of its own": (b"--b\r\n" + HEAD + b"x--b--", "found the end inside the content"),
    "an epilogue": (b"--b\r\n" + HEAD + b"x\r\n--b--\r\nbye", "expected nothing but whitespace after the closing"),
    "no part header": (b"--b\r\n\r\nx\r\n--b--", "expected exactly Content-Type: application/dicom"),
    "a part of JSON": (
        b"--b\r\nContent-Type: application/dicom+json\r\n\r\nx\r\n--b--",
        "found 'application/dicom+json'",
    ),
    "a transfer-syntax parameter": (
        b"--b\r\nContent-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1\r\n\r\nx\r\n--b--",
        "expected exactly Content-Type: application/dicom",
    ),
    "an unknown part header": (
        b"--b\r\nContent-Disposition: attachment\r\n" + HEAD + b"x\r\n--b--",
        "found 'content-disposition' in part 1",
    ),
    "a part header twice": (b"--b\r\nContent-Type: application/dicom\r\n" + HEAD + b"x\r\n--b--", "found it twice"),
    "a folded part header": (
        b"--b\r\nContent-Type:\r\n application/dicom\r\n\r\nx\r\n--b--",
        "expected header lines",
    ),
    "a blank before the colon": (b"--b\r\nContent-Type : application/dicom\r\n\r\nx\r\n--b--", "expected header lines"),
    "a bare LF in the part header": (
        b"--b\r\nContent-ID: 1\nContent-Type: application/dicom\r\n\r\nx\r\n--b--",
        "expected header lines",
    ),
    "a header line without a colon": (b"--b\r\nhello\r\n" + HEAD + b"x\r\n--b--", "expected header lines"),
    "letters beyond ASCII": ("--b\r\nContent-ID: ä\r\n".encode() + HEAD + b"x\r\n--b--", "expected ASCII"),
    "a Content-Length that is no number": (b"--b\r\nContent-Length: -1\r\n" + HEAD + b"x\r\n--b--", "found '-1'"),
    "a Content-Length too small": (
        b"--b\r\nContent-Length: 1\r\n" + HEAD + b"xx\r\n--b--",
        "expected 1 bytes in part 1 as its Content-Length says, found 2",
    ),
    "a Content-Length too large": (b"--b\r\nContent-Length: 3\r\n" + HEAD + b"xx\r\n--b--", "found 2"),
    "a part header without end": (
        b"--b\r\nContent-ID: " + b"x" * MAX_HEADER_BYTES + b"\r\n" + HEAD + b"x\r\n--b--",
        "expected a part header of at most 8192 bytes",
    ),
}


@pytest.mark.parametrize(("body", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_framing_is_refused_with_what_was_expected(body: bytes, text: str) -> None:
    """A malformed body is refused with 400 and words that name the fault, in whatever chunks it comes."""
    for chunk_bytes in (1 << 20, 1):
        with pytest.raises(FramingError, match=re.escape(text)) as refused:
            parse(body, chunk_bytes)
        assert refused.value.status == 400


def test_an_explanation_never_quotes_content() -> None:
    """What stands in a part may be a patient's: it is in no explanation."""
    for body in (b"SECRET", b"--b\r\n" + HEAD + b"x\r\n--b--SECRET", b"--b\r\nSECRET\r\n\r\nx\r\n--b--"):
        with pytest.raises(FramingError) as refused:
            parse(body)
        assert "SECRET" not in str(refused.value)


def test_no_more_than_a_chunk_is_kept_of_a_large_part() -> None:
    """The content of a part is handed on with each chunk, all but what may be the start of a delimiter."""
    parser = MultipartParser("b")
    list(parser.feed(b"--b\r\n" + HEAD))
    for _ in range(50):
        handed_on = sum(len(event.data) for event in parser.feed(b"\0" * 1000) if isinstance(event, PartContent))
        assert handed_on >= 1000 - len("\r\n--b")
