"""Store requests over real sockets: what goes out, and what every way to end becomes."""

import base64
import gzip
import inspect
import random
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
import urllib3
from hypothesis import example, given
from hypothesis import strategies as st
from uploader_wire import Act, Connection, Server, answer, serving, stored_json

from common.config import Auth, DestinationConfig
from common.redaction import redact
from sandbox.multipart import MultipartParser, PartContent
from uploader.failures import classify, retry_after
from uploader.multipart import Aborted, PartError
from uploader.stow import StowClient
from uploader.verdict import Answer, Failure

UID = "1.2.3"
JSON = "Content-Type: application/dicom+json"
OK = answer(200, stored_json([UID]), JSON)


@dataclass
class Part:
    """An instance in memory. `announced`: the size that it claims to have."""

    content: bytes = b"instance" * 100
    name: str = "a.dcm"
    announced: int | None = None

    def __post_init__(self) -> None:
        self.asked: list[int] = []

    @property
    def size_bytes(self) -> int:
        """What it claims."""
        return len(self.content) if self.announced is None else self.announced

    def read_at(self, offset: int, length: int, /) -> bytes:
        """Some of the content."""
        self.asked.append(length)
        return self.content[offset : offset + length]


def client_of(url: str, **settings: Any) -> StowClient:
    """A client whose tries follow at once."""
    quick = {"connect_timeout_seconds": 2.0, "read_timeout_seconds": 2.0}
    return StowClient(DestinationConfig(url=url, **{**quick, **settings}), backoff_initial=0.001)


def store(server: Server, *, tries: int = 1, **settings: Any) -> Answer:
    return client_of(server.url, **settings).store([Part()], tries=tries)


def contents_of(body: bytes, content_type: str) -> bytes:
    """The bytes of all parts, as a strict parser finds them."""
    parser = MultipartParser(content_type.rpartition("boundary=")[2])
    found = b"".join(bytes(event.data) for event in parser.feed(body) if isinstance(event, PartContent))
    parser.close()
    return found


# What goes out


def test_a_request_is_a_plain_post_of_known_length() -> None:
    """POST <url>/studies with Content-Length, no chunking, our Accept, and a body that a strict parser takes."""
    with serving(OK) as server:
        answered = client_of(server.url).store([Part(b"one"), Part(b"two")])
    (request,) = server.requests
    assert request.line == "POST /dicom-web/studies HTTP/1.1"
    assert request.headers["content-length"] == str(len(request.body))
    assert "transfer-encoding" not in request.headers
    assert request.headers["content-type"].startswith('multipart/related; type="application/dicom"; boundary=')
    assert request.headers["accept"] == "application/dicom+json, application/dicom+xml;q=0.8"
    assert "authorization" not in request.headers
    assert "expect" not in request.headers
    assert contents_of(request.body, request.headers["content-type"]) == b"onetwo"
    assert answered.status == 200
    assert answered.response is not None
    assert answered.response.stored == {UID: None}


def test_a_connection_serves_more_than_one_request() -> None:
    """Once an answer is read to its end, the next request of that thread goes over the same connection."""
    with serving(OK) as server:
        client = client_of(server.url)
        for _ in range(3):
            assert client.store([Part()]).status == 200
        assert server.connections == 1


class ResetsTheSecond:
    """What a firewall or a machine that was switched off leaves: a connection that looks alive, and is not."""

    def __init__(self) -> None:
        self.served: list[Connection] = []

    def __call__(self, connection: Connection) -> None:
        """Serve the first request of each connection."""
        if any(one is connection for one in self.served):
            connection.reset()
            return
        self.served.append(connection)
        connection.read_body()
        connection.send(200, stored_json([UID]), JSON)


def test_a_connection_that_died_between_two_requests_costs_a_try() -> None:
    """A request over a dead connection is sent again over a new one, within the same delivery."""
    with serving(ResetsTheSecond()) as server:
        client = client_of(server.url)
        for _ in range(3):
            assert client.store([Part()]).response is not None
        assert server.connections == 3


def test_a_probe_has_a_connection_of_its_own() -> None:
    """A single try does not go over a connection that may have died with an outage, and be the last one for minutes."""
    with serving(ResetsTheSecond()) as server:
        client = client_of(server.url)
        for _ in range(3):
            assert client.store([Part()], tries=1).response is not None
        assert server.connections == 3


def test_a_large_instance_goes_out_in_small_blocks() -> None:
    """An instance is read in blocks that even a slow line takes within connect_timeout_seconds, which governs each."""
    part = Part(bytes(3_000_000))
    with serving(OK) as server:
        assert client_of(server.url).store([part]).status == 200
    assert max(part.asked) <= 128 * 1024
    assert server.requests[0].headers["content-length"] == str(len(server.requests[0].body))


def test_basic_credentials_are_utf8() -> None:
    """User and password go out as RFC 7617 has it for UTF-8."""
    with serving(OK) as server:
        store(server, auth=Auth.BASIC, username="jürgen", password="geheim:ß€")
    scheme, _, value = server.requests[0].headers["authorization"].partition(" ")
    assert (scheme, base64.b64decode(value).decode("utf-8")) == ("Basic", "jürgen:geheim:ß€")


def test_a_bearer_token_is_sent() -> None:
    """auth = bearer puts the token into the Authorization header."""
    with serving(OK) as server:
        store(server, auth=Auth.BEARER, token="abc.def-123")
    assert server.requests[0].headers["authorization"] == "Bearer abc.def-123"


def test_the_environment_and_netrc_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Proxies, netrc credentials and CA bundles that the environment names have no part in a request."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login sneaky password pw\ndefault login sneaky password pw\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, "/nonexistent")
    with serving(OK) as server:
        # What they would do, if they were asked.
        with pytest.raises(requests.exceptions.ProxyError):
            requests.post(server.url, data=b"", timeout=5)
        assert store(server).status == 200
    assert "authorization" not in server.requests[0].headers


def test_a_configured_proxy_is_used() -> None:
    """With `proxy`, the request goes there, by its absolute form, with the proxy's credentials."""
    with serving(OK) as proxy:
        url = f"http://user:secret@127.0.0.1:{proxy.port}"
        answered = client_of("http://archive.invalid/dicom-web", proxy=url).store([Part()])
    assert answered.status == 200
    assert proxy.requests[0].line == "POST http://archive.invalid/dicom-web/studies HTTP/1.1"
    assert "proxy-authorization" in proxy.requests[0].headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    """A redirect is the answer: nothing is sent to where it points."""
    with serving(OK) as elsewhere, serving(answer(status, b"", f"Location: {elsewhere.url}")) as server:
        assert store(server).status == status
        assert not elsewhere.requests


# Answers


def test_a_compressed_answer_is_read() -> None:
    """gzip, which we offer, is undone."""
    with serving(answer(200, gzip.compress(stored_json([UID])), JSON, "Content-Encoding: gzip")) as server:
        answered = store(server)
    assert answered.response is not None
    assert answered.response.stored == {UID: None}


def chunked(connection: Connection) -> None:
    connection.read_body()
    head = f"HTTP/1.1 200 OK\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = stored_json([UID])
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[n : n + 7]), body[n : n + 7]) for n in range(0, len(body), 7))
    connection.socket.sendall(head.encode() + chunks + b"0\r\n\r\n")


@pytest.mark.parametrize("form", ["zlib", "raw"])
def test_a_deflated_answer_is_read(form: str) -> None:
    """Deflate, which we offer too, is undone in both of its forms."""
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS if form == "zlib" else -zlib.MAX_WBITS)
    packed = packer.compress(stored_json([UID])) + packer.flush()
    with serving(answer(200, packed, JSON, "Content-Encoding: deflate")) as server:
        answered = store(server)
    assert answered.response is not None
    assert answered.response.stored == {UID: None}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", ", ".join(["gzip"] * 5), ", ".join(["gzip"] * 50)])
def test_a_compression_bomb_of_any_kind_proves_nothing(encoding: str) -> None:
    """Gigabytes in a few kilobytes, packed once or again and again, end as an answer without a response, soon."""
    packed = bytes(50_000_000)
    for _ in range(min(encoding.count("gzip"), 5)):
        packed = gzip.compress(packed, 9)
    if encoding == "deflate":
        packed = zlib.compress(packed, 9)
    with serving(answer(200, packed, JSON, f"Content-Encoding: {encoding}")) as server:
        begun = time.monotonic()
        answered = store(server)
        assert time.monotonic() - begun < 2
    assert (answered.status, answered.response) == (200, None)


def test_a_chunked_answer_is_read() -> None:
    """An answer may come in chunks, over a connection that stays usable."""
    with serving(chunked) as server:
        client = client_of(server.url)
        for _ in range(2):
            answered = client.store([Part()])
            assert answered.response is not None
            assert answered.response.stored == {UID: None}
        assert server.connections == 1


def test_a_compression_bomb_is_bounded() -> None:
    """An answer that unpacks to 400 MB costs no more memory than the limit, and is no response."""
    packer = gzip.io.BytesIO()  # type: ignore[attr-defined]
    with gzip.GzipFile(fileobj=packer, mode="wb", compresslevel=9) as file:
        for _ in range(400):
            file.write(bytes(1_000_000))
    with serving(answer(200, packer.getvalue(), JSON, "Content-Encoding: gzip")) as server:
        tracemalloc.start()
        try:
            answered = store(server)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (answered.status, answered.response) == (200, None)
    assert peak < 64 * 1024 * 1024


def test_an_answer_that_does_not_unpack_is_no_response() -> None:
    """A body that is not what its Content-Encoding says leaves the status, and no response."""
    with serving(answer(200, stored_json([UID]), JSON, "Content-Encoding: gzip")) as server:
        answered = store(server)
    assert (answered.status, answered.response, answered.failure) == (200, None, None)


def test_the_excerpt_can_be_redacted_before_it_is_cut() -> None:
    """The excerpt reaches further than what is shown of it, so no half of a patient's name stands at its end."""
    text = "x" * 1996 + " Canary^Zephyrine and so on " + "y" * 60_000
    with serving(answer(409, text.encode())) as server:
        shown = redact(store(server).excerpt, ["Canary^Zephyrine"])
    assert shown == "x" * 1996 + " [r…"


def cut(connection: Connection) -> None:
    """Answer with less than announced, and close."""
    connection.read_body()
    connection.send(200, stored_json([UID])[:20], JSON, length=500)
    connection.alive = False


def refuse_early(connection: Connection) -> None:
    """Answer before the body has been read, and close."""
    connection.send(413, b"too large", "Connection: close")
    connection.alive = False


def reset_before(connection: Connection) -> None:
    connection.reset()


def reset_during(connection: Connection) -> None:
    connection.read_body(20)
    connection.reset()


def reset_after(connection: Connection) -> None:
    connection.read_body()
    connection.reset()


def close_after(connection: Connection) -> None:
    connection.read_body()
    connection.alive = False


def say_rubbish(connection: Connection) -> None:
    connection.read_body()
    connection.socket.sendall(b"\x00\x01 this is no HTTP\r\n\r\n")
    connection.alive = False


def silence(connection: Connection) -> None:
    connection.read_body()
    time.sleep(1.5)


def half_and_silence(connection: Connection) -> None:
    connection.read_body()
    connection.send(200, b"{", JSON, length=500)
    time.sleep(1.5)


def trickle(connection: Connection) -> None:
    """Answer a byte at a time, each within the read timeout."""
    connection.read_body()
    connection.send(200, b"", JSON, length=100_000)
    for _ in range(200):
        connection.socket.sendall(b" ")
        time.sleep(0.05)


def drip(connection: Connection, head: bytes, piece: bytes) -> None:
    """After the head one piece after the other, each within the read timeout."""
    connection.read_body()
    connection.socket.sendall(head)
    for _ in range(100):
        connection.socket.sendall(piece)
        time.sleep(0.05)


def continue_for_ever(connection: Connection) -> None:
    drip(connection, b"", b"HTTP/1.1 100 Continue\r\n\r\n")


def trickle_a_header(connection: Connection) -> None:
    drip(connection, b"HTTP/1.1 200 OK\r\nX-Endless: ", b"a")


def trickle_the_size_of_a_chunk(connection: Connection) -> None:
    drip(connection, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0")


def trailers_for_ever(connection: Connection) -> None:
    drip(connection, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n")


def headers_for_ever(connection: Connection) -> None:
    connection.read_body()
    connection.socket.sendall(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000)


def a_header_of_megabytes(connection: Connection) -> None:
    connection.read_body()
    connection.socket.sendall(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 10_000_000)


def a_body_without_an_end(connection: Connection) -> None:
    """The whole response, but nothing that says that it ends here."""
    connection.read_body()
    connection.socket.sendall(b"HTTP/1.1 200 OK\r\n" + JSON.encode() + b"\r\n\r\n" + stored_json([UID]))
    time.sleep(1.5)


def loud_503(connection: Connection) -> None:
    connection.read_body()
    connection.send(503, b"busy")


NO_ANSWERS: dict[str, tuple[Act, Failure]] = {
    "reset before the body is read": (reset_before, Failure.BROKEN),
    "reset in the middle of the body": (reset_during, Failure.BROKEN),
    "reset after the body": (reset_after, Failure.BROKEN),
    "closed without an answer": (close_after, Failure.BROKEN),
    "an answer cut short": (cut, Failure.BROKEN),
    "an answer that is no HTTP": (say_rubbish, Failure.BROKEN),
    "no answer in time": (silence, Failure.TIMEOUT),
    "half an answer in time": (half_and_silence, Failure.TIMEOUT),
    "an answer that trickles": (trickle, Failure.TIMEOUT),
    "interim answers for ever": (continue_for_ever, Failure.TIMEOUT),
    "a header that trickles": (trickle_a_header, Failure.TIMEOUT),
    "the size of a chunk that trickles": (trickle_the_size_of_a_chunk, Failure.TIMEOUT),
    "trailers for ever": (trailers_for_ever, Failure.TIMEOUT),
    "headers for ever": (headers_for_ever, Failure.BROKEN),
    "a header of megabytes": (a_header_of_megabytes, Failure.BROKEN),
    "a body without an end": (a_body_without_an_end, Failure.TIMEOUT),
}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_no_whole_answer_is_a_failure(name: str) -> None:
    """Whatever breaks off or stays away becomes an Answer with the failure and without a status, within its time."""
    act, failure = NO_ANSWERS[name]
    with serving(act) as server:
        begun = time.monotonic()
        answered = store(server, read_timeout_seconds=0.3)
        assert time.monotonic() - begun < 1.4
    assert (answered.status, answered.response, answered.failure) == (None, None, failure)
    assert answered.detail.startswith(failure.value)


def test_a_retrieve_may_take_as_long_as_it_moves() -> None:
    """What is retrieved is as long as its instance: only silence ends it."""

    def drip(connection: Connection) -> None:
        connection.send(200, b"", length=10)
        for _ in range(10):
            connection.socket.sendall(b"x")
            time.sleep(0.1)

    def whole(_response: requests.Response, read: Callable[[int], bytes]) -> bytes:
        return b"".join(iter(lambda: read(100), b""))

    with serving(drip) as server:
        client = client_of(server.url, read_timeout_seconds=0.3)
        assert client.get("/instances/1", "*/*", whole, again=lambda _got: False) == b"x" * 10


def test_an_early_refusal_is_read_or_broken() -> None:
    """An answer while the body still goes out is read; at worst the connection counts as broken."""
    with serving(refuse_early) as server:
        answered = client_of(server.url).store([Part(bytes(8_000_000))], tries=1)
    assert answered.status == 413 or answered.failure is Failure.BROKEN


def test_nobody_listens() -> None:
    """A refused connection is CONNECT, and says so."""
    with serving(OK) as server:
        pass
    answered = store(server)
    assert (answered.status, answered.failure) == (None, Failure.CONNECT)
    assert answered.detail == "cannot connect (Connection refused)"


def test_an_unknown_host() -> None:
    """A name that does not resolve is CONNECT, and says so."""
    answered = client_of("http://archive.invalid/dicom-web").store([Part()], tries=1)
    assert answered.failure is Failure.CONNECT
    assert answered.detail == "cannot connect (the host name does not resolve)"


def test_a_proxy_that_is_away() -> None:
    """Nobody listening at the proxy is CONNECT."""
    answered = client_of("http://archive.invalid", proxy="http://u:secret@127.0.0.1:1").store([Part()], tries=1)
    assert answered.failure is Failure.CONNECT
    assert "secret" not in answered.detail


def test_a_proxy_that_lets_nobody_through() -> None:
    """A proxy that refuses to connect to an https destination is PROXY."""
    with serving(answer(407)) as proxy:
        settings = {"proxy": f"http://u:secret@127.0.0.1:{proxy.port}"}
        answered = client_of("https://archive.invalid", **settings).store([Part()], tries=1)
    assert (answered.status, answered.failure) == (None, Failure.PROXY)
    assert "secret" not in answered.detail


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_an_unknown_authority_is_refused_and_named(tls: ssl.SSLContext) -> None:
    """A certificate of an authority that we do not know ends the request, and the reason is said."""
    with serving(OK, tls=tls) as server:
        answered = store(server)
        assert not server.requests
    assert answered.failure is Failure.CERTIFICATE
    assert "unable to get local issuer certificate" in answered.detail


def test_a_configured_authority_is_trusted(tls: ssl.SSLContext, ca_bundle: Path) -> None:
    """With ca_bundle, certificates of that authority are good."""
    with serving(OK, tls=tls) as server:
        assert store(server, ca_bundle=ca_bundle).status == 200


def test_a_certificate_for_another_host_is_refused(authority: trustme.CA, ca_bundle: Path) -> None:
    """A good certificate of another host is none for this one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("archive.example").configure_cert(context)
    with serving(OK, tls=context) as server:
        answered = store(server, ca_bundle=ca_bundle)
    assert answered.failure is Failure.CERTIFICATE
    assert "certificate is not valid for '127.0.0.1'" in answered.detail


@pytest.mark.parametrize("form", ["one file", "two files"])
def test_the_client_certificate_is_shown(authority: trustme.CA, ca_bundle: Path, tmp_path: Path, form: str) -> None:
    """client_certificate, with its key in it or in client_key, is what the destination sees."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ours = authority.issue_cert("gateway@hospital.example")
    both, certificate, key = tmp_path / "both.pem", tmp_path / "certificate.pem", tmp_path / "key.pem"
    ours.private_key_and_cert_chain_pem.write_to_path(str(both))
    ours.cert_chain_pems[0].write_to_path(str(certificate))
    ours.private_key_pem.write_to_path(str(key))
    shown = (
        {"client_certificate": both} if form == "one file" else {"client_certificate": certificate, "client_key": key}
    )
    with serving(OK, tls=context) as server:
        assert store(server, ca_bundle=ca_bundle, **shown).status == 200
    assert server.requests[0].certificate == "gateway@hospital.example"


def test_a_server_that_speaks_no_tls() -> None:
    """An https URL of a plain HTTP server is a matter for a person."""

    def greet(connection: Connection) -> None:
        connection.socket.recv(100)
        connection.socket.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with serving(greet=greet) as server:
        answered = client_of(server.url.replace("http:", "https:")).store([Part()], tries=1)
    assert answered.failure is Failure.CERTIFICATE


@pytest.mark.parametrize("act", [reset_before, reset_during, reset_after], ids=lambda act: act.__name__)
def test_a_tls_connection_that_breaks_is_no_certificate_trouble(tls: ssl.SSLContext, ca_bundle: Path, act: Act) -> None:
    """A connection that breaks after its handshake is broken, as without TLS: one instance may be behind it."""
    with serving(act, tls=tls) as server:
        answered = store(server, ca_bundle=ca_bundle)
    assert answered.failure is Failure.BROKEN


@pytest.mark.parametrize(
    "settings",
    [
        {"ca_bundle": Path("/nonexistent/ca.pem")},
        {"client_certificate": Path("/nonexistent/c.pem")},
        {"client_certificate": Path(__file__), "client_key": Path("/nonexistent/k.pem")},
    ],
    ids=["ca_bundle", "client_certificate", "client_key"],
)
def test_a_file_of_the_settings_that_is_gone(tls: ssl.SSLContext, settings: dict[str, Path]) -> None:
    """A certificate file that disappears while the uploader runs is a matter for a person, not a crash."""
    with serving(OK, tls=tls) as server:
        answered = store(server, **settings)
    assert (answered.status, answered.failure) == (None, Failure.SETUP)
    assert "[destination]" in answered.detail


# Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9" * 400, float("inf")),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 99999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999999999", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after_in_its_forms(value: str, seconds: float | None) -> None:
    """Seconds and dates are read, a date that is past counts as now, anything else as not there."""
    assert retry_after(value) == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
def test_retry_after_as_a_date(zone: str) -> None:
    """A date in the future is as many seconds as it is away."""
    text = format_datetime(datetime.now(UTC) + timedelta(seconds=100)).rpartition(" ")[0] + f" {zone}"
    assert retry_after(text) == pytest.approx(100, abs=3)


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]+ [0-9:]+ (GMT|[+-][0-9]+)"))
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
def test_no_retry_after_raises(value: str) -> None:
    """Whatever stands in the header is a number of seconds or nothing."""
    seconds = retry_after(value)
    assert seconds is None or seconds >= 0


def test_retry_after_reaches_the_answer() -> None:
    """The header of the answer is in the Answer, and there is no further try within it."""
    with serving(answer(503, b"", "Retry-After: 30")) as server:
        answered = store(server, tries=3)
    assert answered.retry_after == 30.0
    assert len(server.requests) == 1


# Every exception of requests

EXPECTED_FAILURES = {
    "RequestException": Failure.BROKEN,
    "InvalidJSONError": Failure.BROKEN,
    "JSONDecodeError": Failure.BROKEN,
    "HTTPError": Failure.BROKEN,
    "ConnectionError": Failure.BROKEN,
    "ProxyError": Failure.PROXY,
    "SSLError": Failure.CERTIFICATE,
    "Timeout": Failure.TIMEOUT,
    "ConnectTimeout": Failure.CONNECT,
    "ReadTimeout": Failure.TIMEOUT,
    "URLRequired": Failure.SETUP,
    "TooManyRedirects": Failure.SETUP,
    "MissingSchema": Failure.SETUP,
    "InvalidSchema": Failure.SETUP,
    "InvalidURL": Failure.SETUP,
    "InvalidHeader": Failure.SETUP,
    "InvalidProxyURL": Failure.SETUP,
    "ChunkedEncodingError": Failure.BROKEN,
    "ContentDecodingError": Failure.BROKEN,
    "StreamConsumedError": Failure.BROKEN,
    "RetryError": Failure.BROKEN,
    "UnrewindableBodyError": Failure.BROKEN,
}


def exceptions_of_requests() -> Iterator[type[requests.RequestException]]:
    for _, found in inspect.getmembers(requests.exceptions, inspect.isclass):
        if issubclass(found, requests.RequestException):
            yield found


@pytest.mark.parametrize("kind", list(exceptions_of_requests()), ids=lambda kind: kind.__name__)
def test_every_exception_of_requests_is_classified(kind: type[requests.RequestException]) -> None:
    """Each exception class of requests has its failure; one that a new version brings fails here until it has."""
    made = kind("text", "document", 0) if kind is requests.exceptions.JSONDecodeError else kind("text")
    assert classify(made) is EXPECTED_FAILURES[kind.__name__]


def test_no_exception_is_expected_that_is_not_there() -> None:
    """The table above has no row for a class that requests has dropped."""
    assert {kind.__name__ for kind in exceptions_of_requests()} == set(EXPECTED_FAILURES)


@pytest.mark.parametrize("kind", list(exceptions_of_requests()), ids=lambda kind: kind.__name__)
def test_no_exception_of_requests_gets_out(
    monkeypatch: pytest.MonkeyPatch, kind: type[requests.RequestException]
) -> None:
    """Whichever exception a request ends with becomes an Answer, without its text, which may quote a secret."""
    made = (
        kind("s3cret", "s3cret", 0) if kind is requests.exceptions.JSONDecodeError else kind("http://u:s3cret@proxy/")
    )

    def fail(*_arguments: Any, **_settings: Any) -> None:
        raise made

    monkeypatch.setattr(requests.Session, "send", fail)
    answered = client_of("http://127.0.0.1:1").store([Part()], tries=1)
    assert answered.status is None
    assert answered.failure is EXPECTED_FAILURES[kind.__name__]
    assert "s3cret" not in answered.detail


@pytest.mark.parametrize(
    "error",
    [urllib3.exceptions.ProtocolError("s3cret"), urllib3.exceptions.LocationParseError("s3cret")],
    ids=lambda error: type(error).__name__,
)
def test_no_exception_of_urllib3_gets_out(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """What requests does not wrap becomes an Answer all the same."""

    def fail(*_arguments: Any, **_settings: Any) -> None:
        raise error

    monkeypatch.setattr(requests.Session, "send", fail)
    answered = client_of("http://127.0.0.1:1").store([Part()], tries=1)
    assert (answered.status, answered.failure) == (None, Failure.BROKEN)
    assert "s3cret" not in answered.detail


# Tries

TRIES: dict[str, tuple[Act, int]] = {
    "200": (OK, 1),
    "200 without proof": (answer(200), 1),
    "202": (answer(202), 1),
    "302": (answer(302), 1),
    "400": (answer(400), 1),
    "401": (answer(401), 1),
    "404": (answer(404), 1),
    "408": (answer(408), 3),
    "409": (answer(409), 1),
    "413": (answer(413), 1),
    "425": (answer(425), 3),
    "429": (answer(429), 1),
    "500": (answer(500), 3),
    "501": (answer(501), 1),
    "502": (answer(502), 3),
    "503": (answer(503), 3),
    "504": (answer(504), 3),
    "503 with Retry-After": (answer(503, b"", "Retry-After: 1"), 1),
    "reset after the body": (reset_after, 3),
    "an answer cut short": (cut, 3),
    "no answer in time": (silence, 1),
}


@pytest.mark.parametrize("name", TRIES)
def test_how_many_tries_an_outcome_gets(name: str) -> None:
    """What may pass within seconds is tried three times, anything else once; each try has a body of its own."""
    act, expected = TRIES[name]
    with serving(act) as server:
        client_of(server.url, read_timeout_seconds=0.2).store([Part()])
        assert len(server.requests) == expected
    bodies = [request.body for request in server.requests]
    assert len(set(bodies)) == expected
    assert {contents_of(one.body, one.headers["content-type"]) for one in server.requests} == {Part().content}


def test_a_try_that_helps_is_the_last() -> None:
    """The answer is that of the first try that needs no other."""
    with serving(answer(503), reset_after, OK) as server:
        answered = client_of(server.url).store([Part()])
    assert answered.status == 200
    assert len(server.requests) == 3


@pytest.mark.parametrize("tries", [1, 2, 3])
def test_the_number_of_tries_can_be_less(tries: int) -> None:
    """`tries` limits them; the last answer counts."""
    with serving(answer(500), answer(502), answer(503)) as server:
        answered = client_of(server.url).store([Part()], tries=tries)
    assert answered.status == (500, 502, 503)[tries - 1]
    assert len(server.requests) == tries


def test_nothing_is_tried_again_after_stop_trying() -> None:
    """A stop during a request lets it end and begins no other."""
    clients: list[StowClient] = []

    def stop_and_fail(connection: Connection) -> None:
        connection.read_body()
        clients[0].stop_trying()
        connection.send(503)

    with serving(stop_and_fail) as server:
        clients.append(client_of(server.url))
        assert clients[0].store([Part()]).status == 503
        assert len(server.requests) == 1


def test_a_stop_ends_the_wait_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop while waiting for the next try gives the last answer at once, and there is no next try."""
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)
    with serving(loud_503) as server:
        client = StowClient(DestinationConfig(url=server.url), backoff_initial=4.0)
        threading.Timer(0.2, client.stop_trying).start()
        begun = time.monotonic()
        answered = client.store([Part()])
        assert 0.1 < time.monotonic() - begun < 2.0
        assert (answered.status, answered.excerpt) == (503, "busy")
        time.sleep(0.05)
        assert len(server.requests) == 1


def test_a_cut_ends_a_request_that_is_sending() -> None:
    """After cut, a request whose body is still going out ends with Aborted."""
    clients: list[StowClient] = []

    def read_some_and_cut(connection: Connection) -> None:
        connection.read_body(100)
        clients[0].cut()
        connection.read_body()

    with serving(read_some_and_cut) as server:
        clients.append(client_of(server.url))
        with pytest.raises(Aborted):
            clients[0].store([Part(bytes(50_000_000))])


def test_a_file_that_shrinks_is_not_sent_again() -> None:
    """PartError is raised through requests and tenacity, after one try, and the connection is given up."""
    part = Part(b"x" * 10, "short.dcm", announced=200_000)
    with serving(OK) as server:
        client = client_of(server.url)
        with pytest.raises(PartError) as caught:
            client.store([part])
        assert caught.value.part is part
        assert client.store([Part()]).status == 200
        assert server.connections == 2
        assert len([request for request in server.requests if request.body]) == 1


# Secrets


@pytest.mark.parametrize("act", [OK, answer(401), answer(503), cut, reset_after], ids=lambda act: act.__name__)
def test_no_credential_is_in_a_detail(act: Act) -> None:
    """However a request ends, neither password nor token, nor the header made of them, is in the Answer's detail."""
    encoded = base64.b64encode(b"gateway:s3cret").decode()
    with serving(act) as server:
        for settings in (
            {"auth": Auth.BASIC, "username": "gateway", "password": "s3cret"},
            {"auth": Auth.BEARER, "token": "s3cret"},
            {"proxy": f"http://gateway:s3cret@127.0.0.1:{server.port}"},
        ):
            detail = store(server, **settings).detail
            assert detail
            assert "s3cret" not in detail
            assert encoded not in detail


def test_an_archive_that_echoes_credentials_does_not_get_them_into_a_detail() -> None:
    """What an answer quotes, in its reason phrase or body, is not in its detail."""

    def echo(connection: Connection) -> None:
        connection.read_body()
        secret = connection.request.headers["authorization"]
        connection.socket.sendall(f"HTTP/1.1 500 {secret}\r\nContent-Length: {len(secret)}\r\n\r\n{secret}".encode())

    with serving(echo) as server:
        assert store(server, auth=Auth.BEARER, token="s3cret").detail == "HTTP 500"


def test_threads_have_connections_of_their_own() -> None:
    """Requests at the same time do not wait for each other's connection."""
    both_there = threading.Barrier(2, timeout=5)

    def wait_for_the_other(connection: Connection) -> None:
        connection.read_body()
        both_there.wait()
        connection.send(200, stored_json([UID]), JSON)

    with serving(wait_for_the_other) as server:
        client = client_of(server.url)
        answers: list[Answer] = []
        threads = [threading.Thread(target=lambda: answers.append(client.store([Part()]))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert [one.status for one in answers] == [200, 200]
        assert server.connections == 2
