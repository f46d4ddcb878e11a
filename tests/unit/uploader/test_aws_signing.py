"""AWS Signature Version 4: signed requests on the wire, checked by arithmetic of our own."""

import hashlib
import hmac
import json
import logging
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from uploader_wire import Connection, Received, answer, serving, stored_json

from common.config import Auth, DestinationConfig
from support.token_server import Asked, Reply, TokenServer
from uploader.multipart import Aborted, Body, PartError
from uploader.stow import StowClient
from uploader.tokens import CredentialsError
from uploader.verdict import Failure

pytest.importorskip("botocore", reason="auth = aws needs: pip install -r requirements-aws.txt")
from uploader.aws_signing import SignatureV4, _digest

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
OK = stored_json(["1.2.3"]), "Content-Type: application/dicom+json"
EMPTY = hashlib.sha256(b"").hexdigest()


def signature(scope: str, moment: str, request: tuple[str, str, str], signed: dict[str, str], digest: str) -> str:
    """The signature that a request must have: date/region/service/aws4_request, (method, path, query), headers."""
    headers = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in sorted(signed.items()))
    canonical = "\n".join([*request, headers, ";".join(sorted(signed)), digest])
    text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def check(request: Received) -> str:
    """The credential of a request, after its signature was found to be right."""
    scheme, _, rest = request.headers["authorization"].partition(" ")
    fields = dict(part.strip().split("=", 1) for part in rest.split(","))
    _, _, scope = fields["Credential"].partition("/")
    names = fields["SignedHeaders"].split(";")
    assert scheme == "AWS4-HMAC-SHA256"
    assert {"host", "x-amz-date", "x-amz-content-sha256", "content-type"} <= set(names)
    digest = request.headers["x-amz-content-sha256"]
    assert digest == hashlib.sha256(request.body).hexdigest()
    method, target, _ = request.line.split(" ")
    wanted = signature(
        scope,
        request.headers["x-amz-date"],
        (method, target, ""),
        {name: request.headers[name] for name in names},
        digest,
    )
    assert fields["Signature"] == wanted
    return fields["Credential"]


@dataclass
class Part:
    """An instance of so many zeros."""

    size_bytes: int = 1000
    name: str = "a.dcm"
    read: int = 0

    def read_at(self, offset: int, length: int, /) -> bytes:
        """Some of the content."""
        self.read += length
        return bytes(min(length, self.size_bytes - offset))


@pytest.fixture(autouse=True)
def _nothing_from_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_ROLE_ARN",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-test-1")


@pytest.fixture
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def client_of(url: str, **settings: Any) -> StowClient:
    return StowClient(DestinationConfig(url=url, auth=Auth.AWS, **settings), backoff_initial=0.001)


def test_the_arithmetic_of_these_tests_is_that_of_the_documentation() -> None:
    """The example of AWS's documentation, ListUsers of IAM, comes out as it stands there."""
    signed = {
        "content-type": "application/x-www-form-urlencoded; charset=utf-8",
        "host": "iam.amazonaws.com",
        "x-amz-date": "20150830T123600Z",
    }
    found = signature(
        "20150830/us-east-1/iam/aws4_request",
        "20150830T123600Z",
        ("GET", "/", "Action=ListUsers&Version=2010-05-08"),
        signed,
        EMPTY,
    )
    assert found == "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"


@pytest.mark.usefixtures("_keys")
def test_a_request_is_signed_with_its_body() -> None:
    """Host, type, time and the SHA-256 of the streamed body are signed; each try anew."""
    with serving(answer(503), answer(200, *OK)) as server:
        assert client_of(server.url).store([Part(), Part(3_000_000)]).status == 200
    first, second = server.requests
    today = datetime.now(UTC).strftime("%Y%m%d")
    for request in (first, second):
        assert check(request) in {
            f"{KEY}/{day}/eu-test-1/medical-imaging/aws4_request"
            for day in (today, datetime.now(UTC).strftime("%Y%m%d"))
        }
    assert first.headers["x-amz-content-sha256"] != second.headers["x-amz-content-sha256"]
    assert "user-agent" not in first.headers["authorization"]


@pytest.mark.usefixtures("_keys")
def test_a_request_without_a_body_is_signed_with_its_query() -> None:
    """A search is signed too: its query in the canonical order, and the digest of nothing."""
    url = "http://127.0.0.1:8042/dicom-web/instances?includefield=00080018&SOPInstanceUID=1.2.3"
    request = SignatureV4(DestinationConfig())(requests.Request("GET", url).prepare())
    credential, signed, given = (part.partition("=")[2] for part in request.headers["Authorization"].split(", "))
    assert signed == "host;x-amz-content-sha256;x-amz-date"
    headers = {**{name.lower(): value for name, value in request.headers.items()}, "host": "127.0.0.1:8042"}
    assert given == signature(
        credential.partition("/")[2],
        request.headers["X-Amz-Date"],
        ("GET", "/dicom-web/instances", "SOPInstanceUID=1.2.3&includefield=00080018"),
        {name: headers[name] for name in signed.split(";")},
        EMPTY,
    )


@pytest.mark.usefixtures("_keys")
def test_a_session_token_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token of temporary credentials is sent, and signed."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session-t0ken")
    with serving(answer(200, *OK)) as server:
        client_of(server.url).store([Part()])
    (request,) = server.requests
    assert request.headers["x-amz-security-token"] == "session-t0ken"
    assert "x-amz-security-token" in request.headers["authorization"]
    check(request)


@pytest.mark.usefixtures("_keys")
def test_a_large_body_is_never_in_memory() -> None:
    """200 MB are signed and sent with a few MB of memory, each byte read twice."""
    part = Part(200_000_000)

    def count_and_answer(connection: Connection) -> None:
        left = connection.length - len(connection.rest)
        connection.rest = b""
        while left:
            left -= len(connection.socket.recv(min(left, 1 << 20)))
        connection.send(200, *OK)

    with serving(count_and_answer) as server:
        tracemalloc.start()
        try:
            assert client_of(server.url).store([part], tries=1).status == 200
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 16_000_000
    assert part.read == 2 * part.size_bytes


def test_the_digest_leaves_a_body_where_it_is() -> None:
    """The digest is that of the whole body, wherever reading stands, and the reading goes on there."""
    body = Body([Part(5000)])
    begin = body.read(100)
    digest = body.sha256()
    assert hashlib.sha256(begin + body.read()).hexdigest() == digest
    assert (_digest(None), _digest(b""), _digest("")) == (EMPTY, EMPTY, EMPTY)


@pytest.mark.usefixtures("_keys")
def test_a_file_that_shrinks_and_a_stop_are_told_as_ever() -> None:
    """Reading for the signature raises what reading for the request does."""

    class Shorter(Part):
        def read_at(self, _offset: int, _length: int, /) -> bytes:
            return b""

    with serving(answer(200, *OK)) as server:
        client = client_of(server.url)
        with pytest.raises(PartError):
            client.store([Shorter()])
        client.cut()
        with pytest.raises(Aborted):
            client.store([Part()])
        assert not server.requests


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://dicom-medical-imaging.us-east-1.amazonaws.com/datastore/d9a2/", "us-east-1"),
        ("https://dicom-medical-imaging.us-gov-west-1.amazonaws.com:443/datastore/d9a2", "us-gov-west-1"),
        ("https://dicom-medical-imaging.cn-north-1.amazonaws.com.cn/datastore/d9a2", "cn-north-1"),
        ("https://dicom-medical-imaging.ap-southeast-2.api.aws/datastore/d9a2", "ap-southeast-2"),
        ("https://archive.example/dicom-web", "eu-test-1"),
    ],
)
def test_the_region_is_that_of_the_host(url: str, region: str) -> None:
    """A host of AWS names its region; for another one the environment does."""
    assert SignatureV4(DestinationConfig(url=url))._region == region


def test_the_region_of_a_container_comes_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_REGION, which ECS and EKS set, is read, and wins over AWS_DEFAULT_REGION."""
    monkeypatch.setenv("AWS_REGION", "eu-container-1")
    assert SignatureV4(DestinationConfig(url="https://archive.example"))._region == "eu-container-1"


def test_no_region_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a region anywhere, there is no client."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(CredentialsError, match="expected a region in the host of url or in AWS_REGION, found none"):
        client_of("https://archive.example/")


def test_no_credentials_are_a_matter_for_a_person() -> None:
    """Without credentials nothing is sent, and what to set is said."""
    with serving(answer(200, *OK)) as server:
        answered = client_of(server.url).store([Part()])
        assert not server.requests
    assert answered.failure is Failure.SETUP
    assert "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in answered.detail


class Container(TokenServer):
    """The credentials endpoint of a container."""

    def answer(self, asked: Asked) -> Reply:
        """Credentials that expire, numbered."""
        self.asked.append(asked)
        if self.reply is not None:
            return self.reply
        until = datetime.now(UTC) + timedelta(seconds=self.seconds or 0)
        said = {"AccessKeyId": f"KEY{len(self.asked)}", "SecretAccessKey": SECRET, "Token": "t0ken"}
        return Reply(200, json.dumps({**said, "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode())


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> Iterator[Container]:
    server = Container()
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.port}/credentials")
    yield server
    server.close()


def test_credentials_that_expire_are_renewed(container: Container) -> None:
    """Credentials of a role are fetched once, and again when their end is near."""
    with serving(answer(200, *OK)) as server:
        client = client_of(server.url)
        for _ in range(3):
            client.store([Part()])
        assert len(container.asked) == 1
        container.seconds = 60
        nearly = client_of(server.url)
        for _ in range(2):
            nearly.store([Part()])
    used = [check(request).partition("/")[0] for request in server.requests]
    assert used[:3] == ["KEY1"] * 3
    assert len({"KEY1", *used[3:]}) == 3


def test_a_credentials_endpoint_that_is_down_may_come_back(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No credentials now is temporary; nothing is sent."""
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    container.reply = Reply(500)
    with serving(answer(200, *OK)) as server:
        answered = client_of(server.url).store([Part()], tries=1)
        assert not server.requests
        assert answered.failure is Failure.TOKEN
        container.reply = None
        assert client_of(server.url).store([Part()], tries=1).status == 200


def test_nothing_secret_is_logged(container: Container, caplog: pytest.LogCaptureFixture) -> None:
    """botocore's lines for debugging, which quote what is signed, stay out."""
    caplog.set_level(logging.DEBUG)
    with serving(answer(200, *OK)) as server:
        client_of(server.url).store([Part()])
    said = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    for secret in (SECRET, "t0ken", "Signature", "AWS4-HMAC"):
        assert secret not in said
