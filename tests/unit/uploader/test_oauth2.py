"""Client credentials against a real token endpoint: what is asked, and what every answer becomes."""

import base64
import json
import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from common.config import Auth, DestinationConfig
from support.forward_proxy import forward_proxy
from support.token_server import CLIENT, SECRET, Reply, TokenServer, error, token_server
from uploader.oauth2 import ClientCredentials, basic
from uploader.tokens import CredentialsError, Token
from uploader.verdict import Failure


@pytest.fixture
def endpoint() -> Iterator[TokenServer]:
    with token_server() as server:
        yield server


def source_of(server: TokenServer, **settings: Any) -> ClientCredentials:
    usual = {
        "auth": Auth.OAUTH2,
        "oauth2_token_url": server.url,
        "oauth2_client_id": CLIENT,
        "oauth2_client_secret": SECRET,
        "connect_timeout_seconds": 2.0,
        "read_timeout_seconds": 2.0,
    }
    return ClientCredentials(DestinationConfig(**{**usual, **settings}))


def failure_of(server: TokenServer, **settings: Any) -> CredentialsError:
    with pytest.raises(CredentialsError) as caught:
        source_of(server, **settings).fetch()
    return caught.value


def test_a_token_is_asked_for_as_the_standard_says(endpoint: TokenServer) -> None:
    """A form with the grant type, the credentials in the Authorization header, written as in a form."""
    token = source_of(endpoint).fetch()
    assert token == Token(endpoint.issued[0], 3600.0)
    (asked,) = endpoint.asked
    assert asked.form == {"grant_type": "client_credentials"}
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")) == (
        b"gateway+one:s3cret%3A%2B%2F%3D%25%26%C3%A9"
    )


def test_plain_credentials_stand_in_the_header_as_they_are() -> None:
    """Letters, digits and what needs no escape in a form look the same to servers that do not undo it."""
    assert basic("4f1c-aa", "Q8~x.y_z-1") == "Basic " + base64.b64encode(b"4f1c-aa:Q8~x.y_z-1").decode()


def test_scopes_are_asked_for(endpoint: TokenServer) -> None:
    """oauth2_scope goes into the form."""
    endpoint.scope = "dicom.write https://archive.example/.default"
    source_of(endpoint, oauth2_scope=endpoint.scope).fetch()
    assert endpoint.asked[0].form["scope"] == endpoint.scope


def test_a_server_that_wants_the_credentials_in_the_form_gets_them_there(endpoint: TokenServer) -> None:
    """Refused in the header, they go into the form once, and from then on at once."""
    endpoint.ways = {"form"}
    source = source_of(endpoint)
    assert source.fetch().value == endpoint.issued[0]
    assert source.fetch().value == endpoint.issued[1]
    assert ["authorization" in asked.headers for asked in endpoint.asked] == [True, False, False]
    assert endpoint.asked[1].form["client_secret"] == SECRET


def test_a_query_of_the_token_url_is_kept(endpoint: TokenServer) -> None:
    """The token URL goes out as it was written (RFC 6749 3.2)."""
    source_of(endpoint, oauth2_token_url=f"{endpoint.url}/?p=policy").fetch()
    assert endpoint.asked[0].path == "/oauth2/token/?p=policy"


@pytest.mark.parametrize(
    ("said", "lifetime"),
    [
        ({"expires_in": 60}, 60.0),
        ({"expires_in": "3599"}, 3599.0),
        ({}, None),
        ({"expires_in": 60, "scope": "something else"}, 60.0),
        ({"token_type": "bearer", "expires_in": 1}, 1.0),
        ({"token_type": "BEARER", "refresh_token": "unused"}, None),
    ],
    ids=str,
)
def test_good_answers(endpoint: TokenServer, said: dict[str, Any], lifetime: float | None) -> None:
    """A lifetime may be a number, a number in quotes or missing, the scope another one than asked for."""
    endpoint.reply = Reply(200, json.dumps({"access_token": "abc", **said}).encode())
    assert source_of(endpoint, oauth2_scope="x").fetch() == Token("abc", lifetime)


NO_TOKENS: dict[str, tuple[Reply, Failure, str]] = {
    "wrong secret": (
        error("invalid_client", 401),
        Failure.SETUP,
        "HTTP 401 invalid_client: check oauth2_client_id and",
    ),
    "invalid_client as 400": (
        error("invalid_client"),
        Failure.SETUP,
        "HTTP 400 invalid_client: check oauth2_client_id",
    ),
    "not for this client": (error("unauthorized_client"), Failure.SETUP, "must allow this client"),
    "no such grant": (error("unsupported_grant_type"), Failure.SETUP, "must support the client credentials grant"),
    "wrong scope": (error("invalid_scope"), Failure.SETUP, "invalid_scope: check oauth2_scope in [destination]"),
    "wrong request": (error("invalid_request"), Failure.SETUP, "invalid_request: check oauth2_token_url"),
    "no access": (error("access_denied", 403), Failure.SETUP, "must give this client access"),
    "a code of its own": (error("s3cret_code"), Failure.SETUP, "HTTP 400: check oauth2_client_id and"),
    "an error with 200": (error("invalid_scope", 200), Failure.SETUP, "HTTP 200 invalid_scope: check oauth2_scope"),
    "401 and a page": (Reply(401, b"<html>no</html>"), Failure.SETUP, "HTTP 401: check oauth2_client_id and"),
    "wrong path": (Reply(404), Failure.SETUP, "HTTP 404 and no token: check oauth2_token_url in [destination]"),
    "wrong method": (Reply(405), Failure.SETUP, "HTTP 405 and no token: check oauth2_token_url in [destination]"),
    "a redirect": (
        Reply(302, headers=(("Location", "/"),)),
        Failure.SETUP,
        "HTTP 302 and no token: check oauth2_token_url",
    ),
    "a login page": (Reply(200, b"<html>access_token=s3cret</html>"), Failure.SETUP, "HTTP 200 and no token"),
    "a form": (Reply(200, b"access_token=s3cret&token_type=bearer"), Failure.SETUP, "HTTP 200 and no token"),
    "a list": (Reply(200, b'["access_token"]'), Failure.SETUP, "HTTP 200 and no token"),
    "no token": (Reply(200, b'{"token_type": "Bearer"}'), Failure.SETUP, "HTTP 200 and no token"),
    "nothing": (Reply(200), Failure.SETUP, "HTTP 200 and no token"),
    "bytes": (Reply(200, b"\xff\xfe"), Failure.SETUP, "HTTP 200 and no token"),
    "a lifetime in words": (
        Reply(200, b'{"access_token": "s3cret", "expires_in": "soon"}'),
        Failure.SETUP,
        "HTTP 200 and no token",
    ),
    "a token of another type": (
        Reply(200, b'{"access_token": "s3cret", "token_type": "mac"}'),
        Failure.SETUP,
        "gives no bearer token",
    ),
    "a token with a line end": (
        Reply(200, b'{"access_token": "s3cret\\r\\nX: y"}'),
        Failure.SETUP,
        "a token that fits no header",
    ),
    "a token that is no text": (Reply(200, b'{"access_token": 7}'), Failure.SETUP, "a token that fits no header"),
    "a token with 201": (Reply(201, b'{"access_token": "s3cret"}'), Failure.SETUP, "HTTP 201 and no token"),
    "busy": (Reply(429), Failure.TOKEN, "HTTP 429"),
    "slow down": (error("slow_down"), Failure.TOKEN, "HTTP 400 slow_down"),
    "down": (Reply(503, b"<html>"), Failure.TOKEN, "HTTP 503"),
    "down in the standard's words": (error("temporarily_unavailable"), Failure.TOKEN, "temporarily_unavailable"),
    "broken": (error("server_error", 500), Failure.TOKEN, "HTTP 500 server_error"),
    "invalid_client with 500": (error("invalid_client", 500), Failure.TOKEN, "HTTP 500"),
}


@pytest.mark.parametrize("name", NO_TOKENS)
def test_no_token(endpoint: TokenServer, name: str) -> None:
    """Each refusal says what a person must put right, or that it may pass; and quotes nothing."""
    endpoint.reply, failure, said = NO_TOKENS[name]
    found = failure_of(endpoint)
    assert found.failure is failure
    assert said in str(found)
    for secret in ("s3cret", SECRET, CLIENT):
        assert secret not in str(found)
    assert len(endpoint.asked) <= 2


def test_of_two_refusals_the_one_that_tells_more_is_said(endpoint: TokenServer) -> None:
    """A wrong secret at a server that reads forms only is a wrong secret, not a malformed request."""
    endpoint.ways = {"form"}
    assert "invalid_client" in str(failure_of(endpoint, oauth2_client_secret="wrong"))
    endpoint.ways = {"form", "header"}
    assert "invalid_client" in str(failure_of(endpoint, oauth2_client_secret="wrong"))


def test_retry_after_of_the_token_endpoint_is_kept(endpoint: TokenServer) -> None:
    """A token endpoint that is busy says when to come again."""
    endpoint.reply = Reply(503, headers=(("Retry-After", "17"),))
    assert failure_of(endpoint).retry_after == 17.0


def test_a_token_endpoint_that_is_away(endpoint: TokenServer) -> None:
    """Nobody listening is temporary, and says where."""
    endpoint.close()
    found = failure_of(endpoint)
    assert (found.failure, str(found)) == (Failure.TOKEN, "the token endpoint: cannot connect (Connection refused)")


def test_a_token_endpoint_that_does_not_answer() -> None:
    """Silence is temporary, and ends within read_timeout_seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent, token_server() as server:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        found = failure_of(server, oauth2_token_url=url, read_timeout_seconds=0.2)
    assert (found.failure, str(found).partition(" (")[0]) == (Failure.TOKEN, "the token endpoint: no answer in time")


def test_an_endless_answer_is_no_token(endpoint: TokenServer) -> None:
    """An answer is read up to a megabyte."""
    endpoint.reply = Reply(200, b" " * 5_000_000 + b'{"access_token": "abc"}')
    assert failure_of(endpoint).failure is Failure.SETUP


# The way there


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def tls_of(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_the_token_endpoint_is_held_to_the_ca_bundle(authority: trustme.CA, ca_bundle: Path) -> None:
    """With ca_bundle its certificate is good; without, it is a matter for a person, and no secret went out."""
    with token_server(tls=tls_of(authority)) as server:
        assert source_of(server, ca_bundle=ca_bundle).fetch().value == server.issued[0]
        found = failure_of(server)
        assert len(server.asked) == 1
    assert found.failure is Failure.CERTIFICATE
    assert "unable to get local issuer certificate" in str(found)


def test_the_token_endpoint_sees_the_client_certificate(authority: trustme.CA, ca_bundle: Path, tmp_path: Path) -> None:
    """A token endpoint that demands a client certificate gets that of the settings."""
    context = tls_of(authority)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ours = tmp_path / "ours.pem"
    authority.issue_cert("gateway@hospital.example").private_key_and_cert_chain_pem.write_to_path(str(ours))
    with token_server(tls=context) as server:
        assert source_of(server, ca_bundle=ca_bundle, client_certificate=ours).fetch().value == server.issued[0]
        failure_of(server, ca_bundle=ca_bundle)
        assert len(server.asked) == 1


@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
def test_the_token_endpoint_is_reached_through_the_proxy(
    authority: trustme.CA, ca_bundle: Path, *, encrypted: bool
) -> None:
    """The proxy of the settings, with its credentials, is the way to the token endpoint too."""
    with token_server(tls=tls_of(authority) if encrypted else None) as server, forward_proxy("u", "p4ss") as proxy:
        settings = {"ca_bundle": ca_bundle, "proxy": f"http://u:p4ss@127.0.0.1:{proxy.port}"}
        assert source_of(server, **settings).fetch().value == server.issued[0]
        assert proxy.targets == [f"127.0.0.1:{server.port}"]
        found = failure_of(server, **{**settings, "proxy": f"http://u:wr0ng@127.0.0.1:{proxy.port}"})
    assert found.failure in {Failure.PROXY, Failure.SETUP}
    assert "proxy" in str(found)
    assert "wr0ng" not in str(found)


def test_a_file_of_the_settings_that_is_gone(authority: trustme.CA) -> None:
    """A CA bundle that disappears is a matter for a person, not a crash."""
    with token_server(tls=tls_of(authority)) as server:
        found = failure_of(server, ca_bundle=Path("/nonexistent/ca.pem"))
    assert found.failure is Failure.SETUP
    assert "[destination]" in str(found)


def test_nothing_secret_is_logged(endpoint: TokenServer, caplog: pytest.LogCaptureFixture) -> None:
    """At the lowest level, with every library speaking, neither secret nor token is in a line."""
    caplog.set_level(logging.DEBUG)
    source_of(endpoint).fetch()
    endpoint.reply = error("invalid_client", 401)
    failure_of(endpoint)
    said = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    for secret in (SECRET, *endpoint.issued, "s3cret"):
        assert secret not in said
