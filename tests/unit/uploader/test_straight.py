"""Files that the kernel sends by itself, over real sockets: the same bytes as ever, and every way to end."""

import errno
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uploader_wire import Act, Connection, answer, serving, stored_json

from common.claim import Claim, Signature
from common.config import DestinationConfig
from sandbox.multipart import MultipartParser, PartContent, PartEnded, PartStarted
from uploader.multipart import Aborted, PartError
from uploader.progress import Progress
from uploader.stow import StowClient
from uploader.verdict import Failure

OK = answer(200, stored_json(["1.2.3"]), "Content-Type: application/dicom+json")
KB, MB = 1024, 1024 * 1024


@dataclass
class File:
    """A claimed file.

    Attributes:
        fails: instead of the kernel's sending, and of reading.
        most: the kernel sends no more at a time.
        sent: what the kernel sent, each time.
        read: what was read, each time.
    """

    claim: Claim
    fails: Callable[[str], None] = lambda _: None
    most: int = 1 << 30
    sent: list[int] = field(default_factory=list)
    read: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name in incoming/."""
        return self.claim.name

    @property
    def size_bytes(self) -> int:
        """Its size when it was claimed."""
        return self.claim.size_bytes

    def read_at(self, offset: int, length: int, /) -> bytes:
        """Some of its bytes."""
        self.fails("read")
        self.read.append(length)
        return self.claim.read_at(offset, length)

    def send_at(self, out: int, offset: int, length: int, /) -> int:
        """Have the kernel send some of them."""
        self.fails("send")
        count = self.claim.send_at(out, offset, min(length, self.most))
        self.sent.append(count)
        return count


@pytest.fixture
def claimed(tmp_path: Path) -> Iterator[Callable[..., File]]:
    """Makes files with so many random bytes, or with these."""
    files: list[File] = []

    def make(content: int | bytes, **settings: Any) -> File:
        path = tmp_path / f"{len(files)}.dcm"
        path.write_bytes(os.urandom(content) if isinstance(content, int) else content)
        fd = os.open(path, os.O_RDONLY)
        files.append(File(Claim(str(tmp_path), path.name, fd, Signature.of(os.fstat(fd))), **settings))
        return files[-1]

    yield make
    for file in files:
        file.claim.close()


def client_of(url: str, **settings: Any) -> StowClient:
    quick = {"connect_timeout_seconds": 2.0, "read_timeout_seconds": 2.0}
    progress = settings.pop("progress", None)
    return StowClient(DestinationConfig(url=url, **{**quick, **settings}), backoff_initial=0.001, progress=progress)


def parts_of(body: bytes, content_type: str) -> list[bytes]:
    """What a strict parser, written by others, finds in a body."""
    parser = MultipartParser(content_type.rpartition("boundary=")[2])
    parts: list[bytes] = []
    for event in parser.feed(body):
        if isinstance(event, PartStarted):
            parts.append(b"")
        elif isinstance(event, PartContent):
            parts[-1] += bytes(event.data)
        else:
            assert isinstance(event, PartEnded)
    parser.close()
    return parts


EDGES = [0, 1, 700, 64 * KB - 1, 64 * KB, 64 * KB + 1, 128 * KB, 1_100_000]
SIZES = st.lists(st.sampled_from(EDGES), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SIZES, st.sampled_from([1 << 30, 100_000, 7777]))
def test_what_arrives_is_what_is_on_disk(claimed: Callable[..., File], sizes: list[int], most: int) -> None:
    """Large and small, in any order, however little the kernel takes at a time: each file is a part, whole."""
    files = [claimed(size, most=most) for size in sizes]
    with serving(OK) as server:
        assert client_of(server.url).store(files).status == 200
    (request,) = server.requests
    assert request.headers["content-length"] == str(len(request.body))
    assert "transfer-encoding" not in request.headers
    found = parts_of(request.body, request.headers["content-type"])
    assert found == [file.claim.read_at(0, file.size_bytes) for file in files]


def test_large_files_are_not_read_and_small_ones_go_together(claimed: Callable[..., File]) -> None:
    """From 64 KB on the kernel sends the whole of a file; below that it is read."""
    large, small = claimed(64 * KB), claimed(64 * KB - 1)
    with serving(OK) as server:
        assert client_of(server.url).store([large, small]).status == 200
    assert (sum(large.sent), large.read) == (64 * KB, [])
    assert (small.sent, sum(small.read)) == ([], 64 * KB - 1)


def test_over_tls_everything_is_read(claimed: Callable[..., File], tmp_path: Path) -> None:
    """The kernel cannot encrypt: the same bytes, through this process."""
    authority = trustme.CA()
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = claimed(3 * MB)
    with serving(OK, tls=context) as server:
        assert client_of(server.url, ca_bundle=bundle).store([file]).status == 200
    (request,) = server.requests
    assert parts_of(request.body, request.headers["content-type"]) == [file.claim.read_at(0, 3 * MB)]
    assert file.sent == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOVERFLOW])
def test_a_filesystem_that_cannot_do_it_is_read(claimed: Callable[..., File], code: int) -> None:
    """The same bytes arrive."""

    def fails(what: str) -> None:
        if what == "send":
            raise OSError(code, os.strerror(code))

    file = claimed(MB, fails=fails)
    with serving(OK) as server:
        assert client_of(server.url).store([file]).status == 200
    (request,) = server.requests
    assert parts_of(request.body, request.headers["content-type"]) == [file.claim.read_at(0, MB)]


def test_a_file_that_became_shorter_is_named(claimed: Callable[..., File]) -> None:
    """It ends before the bytes that were announced: PartError, which names it and has no cause."""
    whole, short = claimed(MB), claimed(MB)
    os.truncate(Path(short.claim._incoming) / short.name, 500_000)
    with serving(OK) as server, pytest.raises(PartError) as caught:
        client_of(server.url).store([whole, short])
    assert caught.value.part is short
    assert caught.value.__cause__ is None


def test_a_disk_that_fails_is_the_files_trouble(claimed: Callable[..., File]) -> None:
    """An error of the disk in the middle of a file is told from one of the network, though one call meets both."""
    asked: list[str] = []

    def fails(what: str) -> None:
        asked.append(what)
        if len(asked) > 2:
            raise OSError(errno.EIO, "Input/output error")

    file = claimed(3 * MB, fails=fails, most=MB)
    with serving(OK) as server, pytest.raises(PartError) as caught:
        client_of(server.url).store([file])
    assert caught.value.part is file
    assert isinstance(caught.value.__cause__, OSError)
    assert asked == ["send", "send", "send", "read"]


def resets_in_the_middle(connection: Connection) -> None:
    connection.read_body(200_000)
    connection.reset()


def test_a_network_that_fails_is_not_the_files_trouble(claimed: Callable[..., File]) -> None:
    """A reset while the kernel sends is a broken connection."""
    with serving(resets_in_the_middle) as server:
        answered = client_of(server.url).store([claimed(30 * MB)], tries=1)
    assert (answered.status, answered.failure) == (None, Failure.BROKEN)


def test_an_unknown_error_of_the_socket_is_not_the_files_trouble(claimed: Callable[..., File]) -> None:
    """Where only the reading tells whose error it was, what comes after it is the socket's."""

    def fails(what: str) -> None:
        if what == "send":
            os.dup2(broken, out)
            raise OSError(errno.EHOSTUNREACH, "No route to host")

    out = broken = -1

    class Sent(File):
        def send_at(self, out_: int, offset: int, length: int, /) -> int:
            nonlocal out
            out = out_
            return super().send_at(out_, offset, length)

    file = Sent(claimed(MB).claim, fails=fails)
    reader, broken = os.pipe()
    os.close(reader)
    try:
        with serving(OK) as server:
            answered = client_of(server.url).store([file], tries=1)
    finally:
        os.close(broken)
    assert (answered.status, answered.failure) == (None, Failure.BROKEN)


def silent(connection: Connection) -> None:
    connection.read_body(1000)
    time.sleep(5)


def test_who_takes_nothing_is_cut(claimed: Callable[..., File]) -> None:
    """A peer that stops reading meets connect_timeout_seconds, and no other end."""
    with serving(silent) as server:
        begun = time.monotonic()
        answered = client_of(server.url, connect_timeout_seconds=0.5).store([claimed(30 * MB)], tries=1)
        assert answered.failure is Failure.TIMEOUT
        assert 0.4 < time.monotonic() - begun < 4


def slow(pause: float, at_a_time: int) -> Act:
    def act(connection: Connection) -> None:
        while len(connection.rest) < connection.length:
            chunk = connection.socket.recv(at_a_time)
            if not chunk:
                return
            connection.rest += chunk
            time.sleep(pause)
        connection.read_body()
        connection.send(200, stored_json(["1.2.3"]), "Content-Type: application/dicom+json")

    return act


def test_who_is_slow_but_takes_some_is_served(claimed: Callable[..., File]) -> None:
    """All of it takes longer than the timeout; each block is in time."""
    with serving(slow(0.01, 64 * KB)) as server:
        begun = time.monotonic()
        answered = client_of(server.url, connect_timeout_seconds=1.0, read_timeout_seconds=20).store(
            [claimed(20 * MB)], tries=1
        )
        assert answered.status == 200
        assert time.monotonic() - begun > 2.0


def test_a_cut_ends_it(claimed: Callable[..., File]) -> None:
    """Once the process stops, nothing more is sent."""
    file = claimed(60 * MB)
    with serving(slow(0.05, MB)) as server:
        client = client_of(server.url)
        timer = threading.Timer(0.3, client.cut)
        timer.start()
        with pytest.raises(Aborted):
            client.store([file], tries=1)
        timer.join()
    assert sum(file.sent) < 60 * MB


def test_how_far_it_is_can_be_seen(claimed: Callable[..., File]) -> None:
    """The bytes that the kernel took are counted as they go."""
    progress = Progress()
    seen: list[tuple[int, int]] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            seen.extend((motion.sent_bytes, motion.size_bytes) for motion in progress.under_way())

    watching = threading.Thread(target=look)
    watching.start()
    with serving(slow(0.02, MB)) as server:
        assert client_of(server.url, progress=progress).store([claimed(30 * MB)]).status == 200
    done.set()
    watching.join()
    assert len({sent for sent, _ in seen if 0 < sent < 30 * MB}) > 3


def refuses_early(connection: Connection) -> None:
    connection.read_body(1000)
    connection.send(413)
    connection.reset()


def test_an_early_refusal_is_read_or_broken(claimed: Callable[..., File]) -> None:
    """Who answers 413 without reading is heard, unless the reset came first."""
    with serving(refuses_early) as server:
        answered = client_of(server.url).store([claimed(30 * MB)], tries=1)
    assert answered.status == 413 or answered.failure is Failure.BROKEN
