"""Search and Retrieve on a real socket: what is asked, with what, and every way in which it may be answered."""

import base64
import io
import json
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
import pytest
from uploader_wire import Act, Connection, Server, answer, serving

from common.config import Auth, DestinationConfig, Verify
from support.samples import make_instance
from uploader.multipart import Aborted, PartError
from uploader.retrieve import Archive, _FirstPart
from uploader.stow import StowClient
from uploader.verdict import Answer, Failure
from uploader.verifying import Finding, Found, Question

JSON = "Content-Type: application/dicom+json"


class Claimed:
    """A file in memory."""

    name = "0.dcm"

    def __init__(self, content: bytes, announced: int | None = None) -> None:
        self.content = content
        self.size_bytes = len(content) if announced is None else announced

    def read_at(self, offset: int, length: int, /) -> bytes:
        """At most so many bytes from there."""
        return self.content[offset : offset + length]

    def reader(self) -> BinaryIO:
        """The file from its start."""
        return io.BytesIO(self.content)


@pytest.fixture
def instance(tmp_path: Path) -> bytes:
    make_instance(tmp_path / "one.dcm", study="1.2.3", SeriesInstanceUID="1.2.3.4", SOPInstanceUID="1.2.3.4.5")
    return (tmp_path / "one.dcm").read_bytes()


def changed(content: bytes, **values: object) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(content))
    for keyword, value in values.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    written = io.BytesIO()
    dataset.save_as(written, enforce_file_format=True)
    return written.getvalue()


def ask(server: Server, wanted: Question, part: Any, **settings: Any) -> Found | Answer:
    config = DestinationConfig(url=server.url, read_timeout_seconds=1, **settings)
    return Archive(StowClient(config, backoff_initial=0.01), Verify.RETRIEVE).ask(wanted, part)


def finding(server: Server, wanted: Question, content: bytes) -> Finding:
    found = ask(server, wanted, Claimed(content))
    assert isinstance(found, Found), found
    return found.finding


def multipart(content: bytes, boundary: str = "b1", *, head: bytes = b"Content-Type: application/dicom\r\n") -> Act:
    body = b"--" + boundary.encode() + b"\r\n" + head + b"\r\n" + content + b"\r\n--" + boundary.encode() + b"--\r\n"
    return answer(200, body, f'Content-Type: multipart/related; type="application/dicom"; boundary={boundary}')


def found_json(*uids: str) -> Act:
    return answer(200, json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids]).encode(), JSON)


# What is asked


def test_a_search_is_in_the_series_and_by_the_uid(instance: bytes) -> None:
    """GET on the instances of the series, with the UID as the key, as DICOM JSON."""
    with serving(found_json("1.2.3.4.5")) as server:
        assert finding(server, Question.SEARCH, instance) is Finding.THERE
    (request,) = server.requests
    path = "/dicom-web/studies/1.2.3/series/1.2.3.4/instances?SOPInstanceUID=1.2.3.4.5"
    assert request.line == f"GET {path} HTTP/1.1"
    assert request.headers["accept"] == "application/dicom+json"


def test_a_retrieve_asks_for_what_is_stored(instance: bytes) -> None:
    """GET on the instance, in the transfer syntax in which it is stored, without compression on the way."""
    with serving(multipart(instance)) as server:
        assert finding(server, Question.RETRIEVE, instance) is Finding.SAME
    (request,) = server.requests
    assert request.line == "GET /dicom-web/studies/1.2.3/series/1.2.3.4/instances/1.2.3.4.5 HTTP/1.1"
    assert request.headers["accept"] == 'multipart/related; type="application/dicom"; transfer-syntax=*'
    assert request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("wanted", Question)
def test_it_is_asked_with_the_credentials_of_storing(instance: bytes, wanted: Question) -> None:
    """The session of the Store requests is used: here its Authorization header."""
    with serving(answer(204)) as server:
        ask(server, wanted, Claimed(instance), auth=Auth.BASIC, username="gateway", password="secret")
        expected = "Basic " + base64.b64encode(b"gateway:secret").decode()
        assert {request.headers["authorization"] for request in server.requests} == {expected}


def test_a_redirect_is_not_followed(instance: bytes) -> None:
    """A redirect could lead elsewhere with our credentials: it is an answer."""
    with serving(answer(302, b"", "Location: http://127.0.0.1:9/")) as server:
        found = ask(server, Question.RETRIEVE, Claimed(instance))
    assert isinstance(found, Answer)
    assert found.status == 302


@pytest.mark.parametrize("uid", ["../../admin", "1.2/3", "1.2.3?x=1", "", "1..2%2f"])
def test_what_is_no_uid_never_gets_into_a_path(instance: bytes, uid: str) -> None:
    """UIDs come from the file: one that is none is not asked for; a search then is by the instance's alone."""
    odd = changed(instance, StudyInstanceUID=uid)
    with serving(found_json("1.2.3.4.5")) as server:
        assert finding(server, Question.RETRIEVE, odd) is Finding.UNCLEAR
        assert not server.requests
        assert finding(server, Question.SEARCH, odd) is Finding.THERE
        assert server.requests[0].line == "GET /dicom-web/instances?SOPInstanceUID=1.2.3.4.5 HTTP/1.1"


# Searches

SEARCHES: dict[str, tuple[Act, Finding]] = {
    "found": (found_json("1.2.3.4.5"), Finding.THERE),
    "found with padding": (found_json("1.2.3.4.5\0"), Finding.THERE),
    "found among others": (found_json("1.2.3.4.4", "1.2.3.4.5"), Finding.THERE),
    "others only": (found_json("1.2.3.4.4"), Finding.MISSING),
    "an empty list": (answer(200, b"[]", JSON), Finding.MISSING),
    "nothing": (answer(200), Finding.MISSING),
    "no UIDs": (answer(200, b'[{}, null, 7, {"00080018": {"Value": []}}, {"00080018": 5}]', JSON), Finding.MISSING),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search(instance: bytes, name: str) -> None:
    """The instance is there if the answer holds its UID, whatever else it holds."""
    act, expected = SEARCHES[name]
    with serving(act) as server:
        assert finding(server, Question.SEARCH, instance) is expected


@pytest.mark.parametrize(
    "body",
    [b"<html>Please log in</html>", b'{"status": "ok"}', b"null", b"[" * 100_000, b'{"a":', b"[1]" + b" " * 5_000_000],
    ids=lambda body: str(body[:8]),
)
def test_a_search_answered_by_something_else(instance: bytes, body: bytes) -> None:
    """A page, broken JSON, or more than any search for one instance gives, is no finding."""
    with serving(answer(200, body, JSON)) as server:
        found = ask(server, Question.SEARCH, Claimed(instance))
    assert isinstance(found, Answer)
    assert "expected" in found.detail


# Retrieves


def test_a_single_part_is_read_too(instance: bytes) -> None:
    """An archive that gives the file without a multipart body is understood."""
    with serving(answer(200, instance, "Content-Type: application/dicom")) as server:
        assert finding(server, Question.RETRIEVE, instance) is Finding.SAME


HEADS = {
    "none": b"",
    "several": b"Content-Length: 998\r\nMIME-Version: 1.0\r\nContent-Type: application/dicom\r\n",
    "a location": b"Content-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1\r\nContent-Location: http://x/y\r\n",
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("boundary", ["b1", "0123456789" * 7, "a'()+_,-./:=?b"])
def test_parts_in_their_forms(instance: bytes, name: str, boundary: str) -> None:
    """Any part header and any boundary that RFC 2046 allows."""
    body = b"preface\r\n--" + boundary.encode() + b" \r\n" + HEADS[name] + b"\r\n" + instance
    body += b"\r\n--" + boundary.encode() + b"--\r\nepilogue"
    header = f'Content-Type: multipart/related; boundary="{boundary}"; type="application/dicom"'
    with serving(answer(200, body, header)) as server:
        assert finding(server, Question.RETRIEVE, instance) is Finding.SAME


@pytest.mark.parametrize("pieces", [1, 2, 3, 5, 7, 11, 4096])
def test_a_value_that_looks_like_a_boundary_is_no_end(pieces: int) -> None:
    """Only the whole delimiter ends a part, even where the content holds most of one, in pieces of any size."""
    content = (b"\r\n--b" + b"\r\n--c1" + b"\n--b1") * 20 + b"\r\n--"
    body = io.BytesIO(b"--b1\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b1--\r\nepilogue")
    part = _FirstPart(lambda length: body.read(min(length, pieces)), b"b1")
    assert part.begin()
    found = b""
    while chunk := part.read(100):
        assert len(chunk) <= 100
        found += chunk
    assert found == content
    assert part.read(100) == b""


def test_another_instance_is_different(instance: bytes) -> None:
    """Another value under the same UID is another instance, and its tag is said."""
    with serving(multipart(changed(instance, PatientID="T2"))) as server:
        found = ask(server, Question.RETRIEVE, Claimed(instance))
    assert found == Found(Finding.DIFFERENT, "it differs from the archive's at (0010,0020)")


def test_an_archive_that_converts_cannot_be_compared(instance: bytes) -> None:
    """Another transfer syntax than that of the file is neither the same nor another."""
    converted = instance.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0")
    with serving(multipart(converted)) as server:
        assert finding(server, Question.RETRIEVE, instance) is Finding.UNCLEAR


NO_FILES: dict[str, Act] = {
    "a page": answer(200, b"<html>Please log in</html>", "Content-Type: text/html"),
    "nothing": answer(200),
    "no boundary": answer(200, b"--b\r\n\r\nx\r\n--b--", "Content-Type: multipart/related"),
    "no part": answer(200, b"--b--\r\n", "Content-Type: multipart/related; boundary=b"),
    "another boundary": answer(200, b"--c\r\n\r\nx\r\n--c--", "Content-Type: multipart/related; boundary=b"),
    "a part header without end": answer(200, b"--b\r\n" + b"x" * 40_000, "Content-Type: multipart/related; boundary=b"),
    "a part that is no file": multipart(b'{"00080018": 1}'),
}


@pytest.mark.parametrize("name", NO_FILES)
def test_a_200_without_a_file_is_no_finding(instance: bytes, name: str) -> None:
    """What is no DICOM file says nothing about the instance, least of all that it is another."""
    with serving(NO_FILES[name]) as server:
        found = ask(server, Question.RETRIEVE, Claimed(instance))
    assert isinstance(found, Answer)
    assert found.status == 200
    assert "expected" in found.detail


def test_an_answer_without_end_is_no_finding(instance: bytes) -> None:
    """An archive that goes on sending does not keep us for ever, and says nothing about the instance."""

    def endless(connection: Connection) -> None:
        head = "HTTP/1.1 200 OK\r\nContent-Type: multipart/related; boundary=b1\r\n\r\n--b1\r\n\r\n"
        start = instance[: instance.index(b"\xe0\x7f\x10\x00") + 8] + b"\xff\xff\xff\x7f"
        connection.socket.sendall(head.encode() + start)
        while True:
            connection.socket.sendall(bytes(100_000))

    with serving(endless) as server:
        found = ask(server, Question.RETRIEVE, Claimed(instance))
    assert isinstance(found, Answer)
    assert "twice" in found.detail


def cut_in_the_middle(instance: bytes, *, honest: bool) -> Act:
    def act(connection: Connection) -> None:
        body = b"--b1\r\n\r\n" + instance[:600]
        head = "Content-Type: multipart/related; boundary=b1"
        if honest:
            connection.send(200, body, head)
        else:
            connection.send(200, body, head, length=len(body) + 5000)
            connection.reset()

    return act


@pytest.mark.parametrize("honest", [True, False])
def test_half_an_answer_is_no_finding(instance: bytes, honest: bool) -> None:  # noqa: FBT001
    """A body that ends before its part does is a broken connection, not another instance."""
    with serving(cut_in_the_middle(instance, honest=honest)) as server:
        found = ask(server, Question.RETRIEVE, Claimed(instance))
        assert len(server.requests) == 3
    assert isinstance(found, Answer)
    assert found.failure is Failure.BROKEN


# Tries


@pytest.mark.parametrize("wanted", Question)
def test_what_is_not_there_yet_is_asked_for_again(instance: bytes, wanted: Question) -> None:
    """An index may lag behind: what is not found is asked for three times within seconds."""
    there = found_json("1.2.3.4.5") if wanted is Question.SEARCH else multipart(instance)
    with serving(answer(204), answer(204), there) as server:
        assert finding(server, wanted, instance) in {Finding.THERE, Finding.SAME}
    with serving(answer(204)) as server:
        ask(server, wanted, Claimed(instance))
        assert len(server.requests) == 3


def test_an_outage_is_tried_again_and_then_said(instance: bytes) -> None:
    """A 503 is tried three times, one with a Retry-After once; the answer is given back as it is."""
    with serving(answer(503)) as server:
        found = ask(server, Question.RETRIEVE, Claimed(instance))
        assert len(server.requests) == 3
    assert isinstance(found, Answer)
    assert found.status == 503
    with serving(answer(503, b"", "Retry-After: 9")) as server:
        found = ask(server, Question.RETRIEVE, Claimed(instance))
        assert len(server.requests) == 1
    assert isinstance(found, Answer)
    assert found.retry_after == 9.0


def test_nobody_there(instance: bytes) -> None:
    """An archive that does not answer at all is an outage."""
    with serving(answer(200)) as server:
        pass
    found = ask(server, Question.SEARCH, Claimed(instance))
    assert isinstance(found, Answer)
    assert found.failure is Failure.CONNECT


def test_a_cut_ends_a_retrieve(instance: bytes) -> None:
    """After cut, a retrieve that is under way ends with Aborted, as a store does."""
    clients: list[StowClient] = []

    def act(connection: Connection) -> None:
        connection.send(
            200, b"--b1\r\n\r\n" + instance[:300], "Content-Type: multipart/related; boundary=b1", length=9999
        )
        clients[0].cut()
        connection.socket.sendall(instance[300:])

    with serving(act) as server:
        clients.append(StowClient(DestinationConfig(url=server.url)))
        with pytest.raises(Aborted):
            Archive(clients[0], Verify.RETRIEVE).ask(Question.RETRIEVE, Claimed(instance))


# The file


def test_a_file_that_shrinks_meanwhile(instance: bytes) -> None:
    """A file that gives fewer bytes than it had is not compared: it is to be looked at anew."""
    with serving(multipart(instance)) as server, pytest.raises(PartError):
        ask(server, Question.RETRIEVE, Claimed(instance[:-10], announced=len(instance)))


def test_a_file_that_cannot_be_read_any_more(instance: bytes) -> None:
    """An error of the disk is the file's, not the archive's."""

    class Broken(Claimed):
        def read_at(self, offset: int, length: int, /) -> bytes:  # noqa: ARG002
            raise OSError(5, "Input/output error")

    with serving(multipart(instance)) as server, pytest.raises(PartError):
        ask(server, Question.RETRIEVE, Broken(instance))
