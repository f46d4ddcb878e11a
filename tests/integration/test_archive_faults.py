"""Archives and networks at their worst, in front of a sandbox: nothing is lost, charged without guilt, or held up."""

import gzip
import os
import shutil
import socket
import ssl
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
import trustme

from common.records import State
from sandbox.running import RunningSandbox
from support.fronts import front
from support.pipeline import Pipeline, wait_for
from support.samples import make_instance
from support.tls_front import tls_front

MakePipeline = Callable[..., Pipeline]
JSON = "application/dicom+json"


@dataclass
class Client:
    """A client of the front whose request was read and passed on, and what the archive answered."""

    socket: socket.socket
    body: bytes

    def send(self, body: bytes, *headers: str, length: int | None = None) -> None:
        """Answer 200."""
        lines = [f"Content-Length: {len(body) if length is None else length}", *headers]
        self.raw("HTTP/1.1 200 OK\r\n" + "\r\n".join(lines) + "\r\n\r\n")
        self.socket.sendall(body)

    def raw(self, text: str) -> None:
        """Send as it is."""
        self.socket.sendall(text.encode("latin-1"))

    def wait(self) -> None:
        """Say nothing more until the client has gone."""
        with suppress(OSError):
            self.socket.recv(1)

    def drip(self, text: str) -> None:
        """Send it for ever, a little within each read timeout."""
        with suppress(OSError):
            while True:
                self.raw(text)
                time.sleep(0.05)

    def reset(self) -> None:
        """Abort the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Fault = Callable[[Client], None]


def truncated(client: Client) -> None:
    client.send(client.body[:-20], f"Content-Type: {JSON}", length=len(client.body))


def in_another_charset(client: Client) -> None:
    text = client.body.decode()[:-1] + ', "00080005": {"vr": "LO", "Value": ["gespeichert für Jürgen"]}}'
    client.send(text.encode("latin-1"), f"Content-Type: {JSON}; charset=iso-8859-1")


# What spoils the answer to a request that the archive has stored; and whether that leaves a proof.
FAULTS: dict[str, tuple[Fault, bool]] = {
    "hangs before the answer": (lambda client: client.wait(), False),
    "hangs in the status line": (lambda client: (client.raw("HTTP/1.1 2"), client.wait())[1], False),
    "hangs in the head": (lambda client: (client.raw("HTTP/1.1 200 OK\r\nContent-"), client.wait())[1], False),
    "hangs in the answer": (lambda client: (client.send(client.body[:9], length=500), client.wait())[1], False),
    "hangs after an answer that does not say where it ends": (
        lambda client: (client.raw(f"HTTP/1.1 200 OK\r\n\r\n{client.body.decode()}"), client.wait())[1],
        False,
    ),
    "sends a header for ever": (lambda client: (client.raw("HTTP/1.1 200 OK\r\nX: "), client.drip("x"))[1], False),
    "says 100 Continue for ever": (lambda client: client.drip("HTTP/1.1 100 Continue\r\n\r\n"), False),
    "resets instead of answering": (lambda client: client.reset(), False),
    "closes instead of answering": (lambda _client: None, False),
    "speaks another protocol": (lambda client: client.raw("220 mail.example.org ESMTP\r\n"), False),
    "closes in the answer": (truncated, False),
    "answers in another charset": (in_another_charset, True),
    "answers by gzip": (
        lambda client: client.send(gzip.compress(client.body), f"Content-Type: {JSON}", "Content-Encoding: gzip"),
        True,
    ),
    "answers by deflate": (
        lambda client: client.send(zlib.compress(client.body), f"Content-Type: {JSON}", "Content-Encoding: deflate"),
        True,
    ),
    "closes after each answer without a word": (
        lambda client: client.send(client.body, f"Content-Type: {JSON}", "Connection: keep-alive"),
        True,
    ),
    "answers by a bomb": (
        lambda client: client.send(gzip.compress(bytes(300_000_000), 1), "Content-Encoding: gzip"),
        False,
    ),
    "answers with 40 MB": (lambda client: client.send(b" " * 40_000_000 + client.body, f"Content-Type: {JSON}"), False),
}


class Front:
    """Passes requests on to a sandbox, and spoils answers while it is told to."""

    def __init__(self, sandbox: RunningSandbox) -> None:
        self._url = f"{sandbox.url}/studies"
        self.fault: Fault | None = None
        self.left = 0

    def serve(self, connection: socket.socket) -> None:
        """Answer one request, and close the connection."""
        with suppress(OSError), connection:
            received = b""
            while b"\r\n\r\n" not in received:
                received += self._some(connection)
            head, _, body = received.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:])
            while len(body) < int(fields["Content-Length"]):
                body += self._some(connection)
            wanted = {name: fields[name] for name in ("Content-Type", "Accept")}
            answer = requests.post(self._url, data=body, headers=wanted, timeout=30)
            client = Client(connection, answer.content)
            if self.left and self.fault is not None:
                self.left -= 1
                self.fault(client)
            else:
                client.send(answer.content, f"Content-Type: {JSON}", "Connection: close")

    def _some(self, connection: socket.socket) -> bytes:
        chunk = connection.recv(1024 * 1024)
        if not chunk:
            raise ConnectionError
        return chunk


def drop(pipeline: Pipeline, tmp_path: Path, count: int) -> set[str]:
    found = set()
    for number in range(count):
        found.add(make_instance(tmp_path / "made" / f"{number}.dcm"))
        os.rename(tmp_path / "made" / f"{number}.dcm", pipeline.spool.incoming / f"{len(found)}-{time.time_ns()}.dcm")
    return found


def test_an_answer_that_goes_wrong_costs_time_only(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """One uploader meets one fault after the other: what the archive stored without proof is sent again, and goes.

    Nothing is quarantined, and an answer that proves enough is believed in whatever form it comes.
    """
    spoiling = Front(sandbox)
    with front(spoiling.serve) as port:
        pipeline = make_pipeline(
            f"http://127.0.0.1:{port}/dicom-web",
            destination={"read_timeout_seconds": 0.5, "connect_timeout_seconds": 2},
            uploader={"threads": 2, "backoff_initial_seconds": 0.05, "backoff_max_seconds": 0.2},
            spool={"settle_seconds": 0.1, "rescan_seconds": 1},
        )
        pipeline.start("uploader")
        expected = set()
        for name, (fault, proves) in FAULTS.items():
            before = len(pipeline.rows())
            spoiling.fault, spoiling.left = fault, 2
            expected |= (new := drop(pipeline, tmp_path, 3))
            wait_for(lambda: not spoiling.left or not pipeline.incoming(), what=f"{name}, twice")
            pipeline.wait_empty()
            wait_for(lambda new=new: new <= {one["sop_instance_uid"] for one in sandbox.instances()}, what=name)
            rows = pipeline.rows()[: len(pipeline.rows()) - before]
            assert {row.state for row in rows} == {State.SENT}, name
            assert not pipeline.quarantined(), name
            posts = [one["posts"] for one in sandbox.instances() if one["sop_instance_uid"] in new]
            assert (max(posts) == 1) is proves, name
            # A request that fails while others pass is charged to the one instance in it; two are, at most.
            assert max(row.attempts for row in rows) <= (1 if proves else 3), name
    assert {one["sop_instance_uid"] for one in sandbox.instances()} == expected


def test_an_expired_certificate_is_waited_for(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """While the archive's certificate is expired nothing is sent or charged; renewed there, all goes by itself."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1)).configure_cert(context)
    with tls_front(sandbox.port, context) as origin:
        pipeline = make_pipeline(
            f"{origin}/dicom-web",
            destination={"ca_bundle": tmp_path / "ca.pem"},
            uploader={"max_attempts": 1},
        )
        uploader = pipeline.start("uploader")
        expected = drop(pipeline, tmp_path, 5)
        uploader.wait_for_line("certificate has expired")
        assert "destination paused, nothing is lost" in uploader.log()
        assert {row.attempts for row in pipeline.rows()} <= {0}
        assert not sandbox.instances()
        authority.issue_cert("127.0.0.1").configure_cert(context)
        pipeline.wait_empty()
    assert {one["sop_instance_uid"] for one in sandbox.instances()} == expected
    assert {(row.state, row.attempts) for row in pipeline.rows()} == {(State.SENT, 1)}


def _can_unshare() -> bool:
    command = ["unshare", "--mount", "true"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An /etc/hosts for the processes that a test starts, in a mount namespace of their own, and no name server."""
    path, resolv = tmp_path / "hosts", tmp_path / "resolv.conf"
    path.write_text("127.0.0.1 localhost\n")
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    script = f'mount --bind {path} /etc/hosts && mount --bind {resolv} $(realpath /etc/resolv.conf) && exec "$@"'
    real = subprocess.Popen

    def within(command: list[str], **settings: object) -> object:
        return real(["unshare", "--mount", "sh", "-c", script, "sh", *command], **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", within)
    return path


@pytest.mark.skipif(not _can_unshare(), reason="needs root and mount namespaces, for an /etc/hosts of its own")
def test_a_name_that_does_not_resolve_for_a_while(
    sandbox: RunningSandbox, make_pipeline: MakePipeline, hosts: Path, tmp_path: Path
) -> None:
    """While DNS fails nothing is charged; when the name resolves, all goes without a restart."""
    pipeline = make_pipeline(f"http://archive.stowgate.test:{sandbox.port}/dicom-web", uploader={"max_attempts": 1})
    uploader = pipeline.start("uploader")
    expected = drop(pipeline, tmp_path, 5)
    uploader.wait_for_line("the host name does not resolve")
    assert {row.attempts for row in pipeline.rows()} <= {0}
    with open(hosts, "a") as file:
        file.write("127.0.0.1 archive.stowgate.test\n")
    pipeline.wait_empty()
    with open(hosts, "w") as file:
        file.write("127.0.0.1 localhost\n")
    assert {one["sop_instance_uid"] for one in sandbox.instances()} == expected
    assert {(row.state, row.attempts) for row in pipeline.rows()} == {(State.SENT, 1)}
