"""DICOM over TLS (PS3.15 B): who gets through, who does not, and that a bad client blocks nobody."""

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from receiver_peer import Closed, Peer, drain, instance

from common.config import ReceiverConfig
from receiver.tls import server_context
from support.pipeline import ROOT, Pipeline, wait_for
from support.programs import needs_openssl

MakePipeline = Callable[..., Pipeline]


class Files:
    """A server certificate and a client CA, as files."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.client_ca = trustme.CA()
        server = self.ca.issue_cert("localhost", "127.0.0.1")
        self.certificate, self.key, self.client_ca_file = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
        server.private_key_pem.write_to_path(self.key)
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in server.cert_chain_pems))
        self.client_ca.cert_pem.write_to_path(self.client_ca_file)

    def settings(self, *, client_ca: bool = False) -> dict[str, object]:
        """Of the section [receiver]."""
        settings: dict[str, object] = {"tls_certificate": self.certificate, "tls_key": self.key}
        return settings | ({"tls_client_ca": self.client_ca_file} if client_ca else {})

    def client(self, *, issued_by: trustme.CA | None = None, not_after: datetime | None = None) -> ssl.SSLContext:
        """The context of a client that trusts the server, with a certificate if somebody is to issue one."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if issued_by is not None:
            issued_by.issue_cert("client@example.org", not_after=not_after).configure_cert(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def start(make_pipeline: MakePipeline, **receiver: object) -> Pipeline:
    pipeline = make_pipeline("http://127.0.0.1:9/", receiver=receiver)
    pipeline.start("receiver")
    return pipeline


def stores(pipeline: Pipeline, tls: ssl.SSLContext) -> None:
    with Peer(pipeline.port, tls=tls) as peer:
        peer.associate()
        assert peer.store(instance(pixels=300_000)).Status == 0x0000
        peer.release()


def gets_in(pipeline: Pipeline, tls: ssl.SSLContext) -> bool:
    """Whether a client gets an association."""
    try:
        with Peer(pipeline.port, tls=tls) as peer:
            peer.associate()
    except (OSError, Closed):
        return False
    return True


def test_instances_come_over_tls(make_pipeline: MakePipeline, files: Files) -> None:
    """A client that trusts the certificate sends as usual."""
    pipeline = start(make_pipeline, **files.settings())
    stores(pipeline, files.client())
    assert len(pipeline.rows()) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=["1.0", "1.1"])
def test_old_tls_is_refused(make_pipeline: MakePipeline, files: Files, version: ssl.TLSVersion) -> None:
    """TLS 1.0 and 1.1 are no longer spoken, by whoever still offers them with every cipher (PS3.15 B.12, RFC 8996)."""
    pipeline = start(make_pipeline, **files.settings())
    context = files.client()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = context.maximum_version = version
    with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        Peer(pipeline.port, tls=context)
    wait_for(lambda: "TLS handshake failed" in pipeline.logs())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_new_tls_is_spoken(make_pipeline: MakePipeline, files: Files, version: ssl.TLSVersion) -> None:
    """TLS 1.2 and 1.3, each by itself."""
    pipeline = start(make_pipeline, **files.settings())
    context = files.client()
    context.minimum_version = context.maximum_version = version
    stores(pipeline, context)


def test_weak_ciphers_are_refused(make_pipeline: MakePipeline, files: Files) -> None:
    """A client that has nothing but anonymous key exchange and no encryption is turned away."""
    pipeline = start(make_pipeline, **files.settings())
    context = files.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aNULL:eNULL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        Peer(pipeline.port, tls=context)


def test_a_client_certificate_is_asked_for(make_pipeline: MakePipeline, files: Files) -> None:
    """With tls_client_ca only a certificate of that CA gets through, and only while it is valid.

    In TLS 1.3 a client learns that it is refused only after its own handshake, so what counts is the association.
    """
    pipeline = start(make_pipeline, **files.settings(client_ca=True))
    stores(pipeline, files.client(issued_by=files.client_ca))
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert gets_in(pipeline, files.client(issued_by=files.client_ca))
    contexts = {
        "none": files.client(),
        "of another CA": files.client(issued_by=files.ca),
        "expired": files.client(issued_by=files.client_ca, not_after=yesterday),
    }
    for what, context in contexts.items():
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.maximum_version = version
            assert not gets_in(pipeline, context), f"a client got in whose certificate is {what}"
    wait_for(lambda: "TLS handshake failed" in pipeline.logs())
    stores(pipeline, files.client(issued_by=files.client_ca))
    assert len(pipeline.rows()) == 2


def test_a_plain_client_is_cut_off(make_pipeline: MakePipeline, files: Files) -> None:
    """A sender that forgot TLS gets no association, and a line in the log says why."""
    pipeline = start(make_pipeline, **files.settings())
    with Peer(pipeline.port) as peer, pytest.raises((Closed, AssertionError)):
        peer.associate()
    wait_for(lambda: "TLS handshake failed" in pipeline.logs())
    stores(pipeline, files.client())


def test_half_open_handshakes_block_nobody(make_pipeline: MakePipeline, files: Files) -> None:
    """Clients that begin a handshake and stop are cut off in time, and others are served meanwhile."""
    pipeline = start(make_pipeline, **files.settings(), acse_timeout_seconds=2)
    silent = [socket.create_connection(("127.0.0.1", pipeline.port), timeout=20) for _ in range(20)]
    try:
        for connection in silent[::2]:
            connection.sendall(b"\x16\x03\x01")
        stores(pipeline, files.client())
        for connection in silent:
            drain(connection)
    finally:
        for connection in silent:
            connection.close()
    stores(pipeline, files.client())


def test_handshake_and_request_share_their_time(make_pipeline: MakePipeline, files: Files) -> None:
    """Who takes long for the handshake has so much less for the request."""
    pipeline = start(make_pipeline, **files.settings(), acse_timeout_seconds=2)
    with socket.create_connection(("127.0.0.1", pipeline.port), timeout=20) as raw:
        began = time.monotonic()
        time.sleep(1.2)
        with files.client().wrap_socket(raw, server_hostname="localhost") as connection:
            drain(connection)
            assert 1.5 < time.monotonic() - began < 2.9


def test_a_peer_that_falls_silent_inside_a_record_ends(make_pipeline: MakePipeline, files: Files) -> None:
    """The network timeout counts inside a TLS record too."""
    pipeline = start(make_pipeline, **files.settings(), network_timeout_seconds=1)
    with Peer(pipeline.port, tls=files.client()) as peer:
        peer.associate()
        raw = socket.socket(fileno=peer.socket.detach())
        with raw:
            raw.settimeout(20)
            raw.sendall(b"\x17\x03\x03\x10\x00" + bytes(10))
            drain(raw)
    stores(pipeline, files.client())


@needs_openssl
def test_a_peer_cannot_renegotiate(make_pipeline: MakePipeline, files: Files, tmp_path: Path) -> None:
    """A second handshake in a TLS 1.2 connection is refused, whatever OpenSSL's default is; others are served."""
    context = server_context(ReceiverConfig(tls_certificate=files.certificate, tls_key=files.key))
    assert context is not None
    assert context.options & ssl.OP_NO_RENEGOTIATION
    pipeline = start(make_pipeline, **files.settings())
    said = tmp_path / "said"
    with open(said, "wb") as output:
        client = subprocess.Popen(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{pipeline.port}", "-tls1_2"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    with client:
        wait_for(lambda: b"Verify return code" in said.read_bytes())
        assert client.stdin is not None
        client.stdin.write(b"R\n")  # its command for a renegotiation
        client.stdin.flush()
        wait_for(lambda: b"no renegotiation" in said.read_bytes())
        client.kill()
    stores(pipeline, files.client())


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("tls_certificate", b"no certificate"),
        ("tls_key", b"no key"),
        ("tls_key", trustme.CA().issue_cert("x").private_key_pem.bytes()),
        ("tls_client_ca", b"no certificates"),
    ],
    ids=["certificate", "key", "key of another", "client CA"],
)
def test_a_broken_file_is_a_problem_of_the_configuration(
    make_pipeline: MakePipeline, files: Files, key: str, content: bytes
) -> None:
    """It is reported with section and key, exit status 2, before anything is opened."""
    path = Path(str(files.settings(client_ca=True)[key]))
    path.write_bytes(content)
    pipeline = make_pipeline("http://127.0.0.1:9/", receiver=files.settings(client_ca=True))
    ended = subprocess.run(
        [sys.executable, "-m", "receiver", "--config", str(pipeline.ini)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert ended.returncode == 2
    assert f"[receiver] {key}:" in ended.stderr
    assert not pipeline.spool.directory.exists()
