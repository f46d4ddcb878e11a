"""Google's Application Default Credentials: a key file against a token endpoint that checks signatures."""

import base64
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from uploader_wire import Connection, serving, stored_json

from common.config import Auth, DestinationConfig
from support.forward_proxy import forward_proxy
from support.token_server import Asked, Reply, TokenServer, error
from uploader.stow import StowClient
from uploader.tokens import CredentialsError
from uploader.verdict import Failure

pytest.importorskip("google.auth", reason="auth = google needs: pip install -r requirements-google.txt")
from uploader.google_credentials import ApplicationDefault

ACCOUNT = "gateway@project.iam.gserviceaccount.com"
CLOUD = "https://www.googleapis.com/auth/cloud-platform"
OK = stored_json(["1.2.3"]), "Content-Type: application/dicom+json"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Google(TokenServer):
    """The token endpoint for service accounts (RFC 7523): it checks who signed the assertion, for whom, and when."""

    def answer(self, asked: Asked) -> Reply:
        """A token for an assertion that the account signed."""
        self.asked.append(asked)
        if self.reply is not None:
            return self.reply
        if asked.form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return error("unsupported_grant_type")
        head, claims, signature = (_decoded(part) for part in asked.form["assertion"].split("."))
        signed = asked.form["assertion"].rpartition(".")[0].encode()
        try:
            KEY.public_key().verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return error("invalid_grant")
        said = json.loads(claims)
        good = (
            said["iss"] == ACCOUNT
            and said["aud"] == "https://oauth2.googleapis.com/token"
            and said["scope"] == CLOUD
            and said["exp"] > time.time()
        )
        if json.loads(head)["alg"] != "RS256" or not good:
            return error("invalid_grant")
        token = f"ya29.token-{len(self.issued)}"
        self.issued.append(token)
        self._good[token] = time.monotonic() + (self.seconds or 0)
        body = {"access_token": token, "expires_in": self.seconds, "token_type": "Bearer"}
        return Reply(200, json.dumps(body).encode(), (("Content-Type", "application/json"),))


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Google]:
    server = Google()
    write_key_file(tmp_path / "key.json", server.url)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    yield server
    server.close()


def write_key_file(path: Path, token_url: str, key: rsa.RSAPrivateKey = KEY) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {"type": "service_account", "client_email": ACCOUNT, "private_key_id": "1", "project_id": "project"}
    path.write_text(json.dumps({**account, "private_key": pem, "token_uri": token_url}))


def source_of(**settings: Any) -> ApplicationDefault:
    return ApplicationDefault(DestinationConfig(auth=Auth.GOOGLE, connect_timeout_seconds=2.0, **settings))


def failure_of(**settings: Any) -> CredentialsError:
    with pytest.raises(CredentialsError) as caught:
        source_of(**settings).fetch()
    return caught.value


def test_a_key_file_gives_tokens(google: Google) -> None:
    """The key file that the environment names is used, and the lifetime is that of the answer."""
    google.seconds = 1800
    source = source_of()
    token = source.fetch()
    assert token.value == google.issued[0]
    assert token.lifetime == pytest.approx(1800, abs=10)
    assert source.fetch().value == google.issued[1]


def test_deliveries_share_and_renew_the_token(google: Google) -> None:
    """The archive sees the token; one that it refuses is replaced once."""

    def demand(connection: Connection) -> None:
        connection.read_body()
        token = connection.request.headers.get("authorization", "").removeprefix("Bearer ")
        connection.send(*((200, *OK) if google.good(token) else (401,)))

    with serving(demand) as server:
        client = StowClient(DestinationConfig(url=server.url, auth=Auth.GOOGLE), backoff_initial=0.001)
        assert [client.store([Part()]).status for _ in range(3)] == [200] * 3
        assert len(google.asked) == 1
        google.revoke()
        assert client.store([Part()]).status == 200
    assert len(google.asked) == 2


class Part:
    """An instance in memory."""

    name = "a.dcm"
    size_bytes = 100

    def read_at(self, offset: int, length: int, /) -> bytes:
        """Zeros."""
        return bytes(min(length, self.size_bytes - offset))


def test_the_proxy_is_used(google: Google) -> None:
    """The proxy of the settings is the way to Google's token endpoint."""
    with forward_proxy("u", "p4ss") as proxy:
        source_of(proxy=f"http://u:p4ss@127.0.0.1:{proxy.port}").fetch()
        assert proxy.targets == [f"127.0.0.1:{google.port}"]


def test_the_metadata_server_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The metadata server of the machine gives tokens too, and never through the proxy."""

    class Metadata(TokenServer):
        def answer(self, asked: Asked) -> Reply:
            self.asked.append(asked)
            if asked.headers.get("metadata-flavor") != "Google":
                return Reply(403)
            said: dict[str, object] = {"email": ACCOUNT, "scopes": [CLOUD], "aliases": ["default"]}
            if asked.path.partition("?")[0].endswith("/token"):
                said = {"access_token": "from-metadata", "expires_in": 299, "token_type": "Bearer"}
            headers = (("Metadata-Flavor", "Google"), ("Content-Type", "application/json"))
            return Reply(200, json.dumps(said).encode(), headers)

    server = Metadata()
    host = f"127.0.0.1:{server.port}"
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/nonexistent")
    monkeypatch.setenv("GCE_METADATA_HOST", host)
    monkeypatch.setenv("GCE_METADATA_IP", host)
    # The library reads that one when it is imported.
    monkeypatch.setattr("google.auth.compute_engine._metadata._GCE_METADATA_HOST", host)
    try:
        token = source_of(proxy="http://127.0.0.1:1").fetch()
    finally:
        server.close()
    assert token.value == "from-metadata"
    assert token.lifetime == pytest.approx(299, abs=10)


def test_no_credentials_are_a_matter_for_a_person(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key file that is not there, or none, says what to set."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    found = failure_of()
    assert found.failure is Failure.SETUP
    assert "set GOOGLE_APPLICATION_CREDENTIALS" in str(found)


def test_a_key_that_google_does_not_know(google: Google, tmp_path: Path) -> None:
    """A refused assertion is a matter for a person, in our words."""
    write_key_file(tmp_path / "key.json", google.url, rsa.generate_private_key(65537, 2048))
    found = failure_of()
    assert found.failure is Failure.SETUP
    assert str(found) == (
        "Google refuses a token for our credentials: check the key file, and whether the account is still there"
    )


@pytest.mark.parametrize("content", ["", "[]", "{", '{"type": "service_account"}', '{"type": "else"}'])
def test_a_key_file_that_is_none(google: Google, tmp_path: Path, content: str) -> None:
    """Whatever stands in the key file ends in words, not in a crash."""
    (tmp_path / "key.json").write_text(content)
    assert failure_of().failure is Failure.SETUP


def test_a_token_endpoint_that_is_away(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody there, or 503, is temporary."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    google.reply = Reply(503, b'{"error": "internal_failure"}')
    source = source_of()
    with pytest.raises(CredentialsError) as caught:
        source.fetch()
    assert caught.value.failure is Failure.TOKEN
    google.close()
    with pytest.raises(CredentialsError) as caught:
        source.fetch()
    assert caught.value.failure is Failure.TOKEN


def test_nothing_secret_is_logged(google: Google, caplog: pytest.LogCaptureFixture) -> None:
    """google-auth's lines for debugging stay out, and its texts too."""
    caplog.set_level(logging.DEBUG)
    source_of().fetch()
    google.reply = error("invalid_grant")
    found = failure_of()
    said = caplog.text + "".join(str(vars(record)) for record in caplog.records) + str(found)
    for secret in (*google.issued, "s3cret", google.asked[0].form["assertion"]):
        assert secret not in said
