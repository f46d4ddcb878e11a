"""What a try shows the destination, and what a 401 comes to: once more, if there are other credentials by now."""

import base64
import logging
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from uploader_wire import Act, Connection, Server, answer, serving, stored_json

from common.config import Auth, DestinationConfig
from support.forward_proxy import forward_proxy
from support.token_server import CLIENT, SECRET, Reply, TokenServer, error, token_server
from uploader.stow import StowClient
from uploader.tokens import CredentialsError
from uploader.verdict import Answer, Failure

UID = "1.2.3"
JSON = "Content-Type: application/dicom+json"
OK = answer(200, stored_json([UID]), JSON)


@dataclass
class Part:
    """An instance in memory."""

    content: bytes = b"instance" * 100
    name: str = "a.dcm"

    @property
    def size_bytes(self) -> int:
        """Its size."""
        return len(self.content)

    def read_at(self, offset: int, length: int, /) -> bytes:
        """Some of the content."""
        return self.content[offset : offset + length]


def client_of(server: Server, **settings: Any) -> StowClient:
    quick = {"connect_timeout_seconds": 2.0, "read_timeout_seconds": 5.0}
    return StowClient(DestinationConfig(url=server.url, **{**quick, **settings}), backoff_initial=0.001)


def shown(server: Server) -> list[str]:
    """The Authorization headers of all requests."""
    return [request.headers.get("authorization", "") for request in server.requests]


def demanding(good: Callable[[str], bool]) -> Act:
    """An archive that wants a bearer token, and reads the whole request before it says so."""

    def act(connection: Connection) -> None:
        connection.read_body()
        token = connection.request.headers.get("authorization", "").removeprefix("Bearer ")
        if good(token):
            connection.send(200, stored_json([UID]), JSON)
        else:
            connection.send(401, f"no: {token}".encode(), 'WWW-Authenticate: Bearer error="invalid_token"')

    return act


@pytest.fixture
def endpoint() -> Iterator[TokenServer]:
    with token_server() as server:
        yield server


def oauth2(endpoint: TokenServer, **settings: Any) -> dict[str, Any]:
    return {
        "auth": Auth.OAUTH2,
        "oauth2_token_url": endpoint.url,
        "oauth2_client_id": CLIENT,
        "oauth2_client_secret": SECRET,
        **settings,
    }


# A 401


def test_credentials_that_cannot_change_are_refused_once() -> None:
    """A 401 to a user, a fixed token or nobody is believed at once."""
    with serving(answer(401)) as server:
        for number, settings in enumerate(
            (
                {"auth": Auth.BASIC, "username": "u", "password": "p"},
                {"auth": Auth.BEARER, "token": "t"},
                {"auth": Auth.NONE},
            ),
            1,
        ):
            assert client_of(server, **settings).store([Part()]).status == 401
            assert len(server.requests) == number


def test_a_revoked_token_is_replaced_within_the_try(endpoint: TokenServer) -> None:
    """A 401 fetches a new token, and the whole request goes out once more with a body of its own."""
    with serving(demanding(endpoint.good)) as server:
        client = client_of(server, **oauth2(endpoint))
        assert client.store([Part()], tries=1).status == 200
        endpoint.revoke()
        assert client.store([Part()], tries=1).status == 200
    first, second = endpoint.issued
    assert shown(server) == [f"Bearer {first}", f"Bearer {first}", f"Bearer {second}"]
    assert [Part().content in request.body for request in server.requests] == [True] * 3
    assert len({request.body for request in server.requests}) == 3


def test_a_new_token_that_is_refused_as_well_ends_the_try(endpoint: TokenServer) -> None:
    """An archive that takes none of our tokens answers 401 twice, and is not asked a third time."""
    with serving(demanding(lambda _: False)) as server:
        client = client_of(server, **oauth2(endpoint))
        answered = client.store([Part()])
        assert (answered.status, len(server.requests), len(endpoint.asked)) == (401, 2, 2)
        client.store([Part()])
        assert (len(server.requests), len(endpoint.asked)) == (4, 3)


def test_nothing_is_sent_again_after_a_401_when_we_stop(endpoint: TokenServer) -> None:
    """A stop during the request leaves the 401 standing."""
    clients: list[StowClient] = []

    def stop_and_refuse(connection: Connection) -> None:
        connection.read_body()
        clients[0].stop_trying()
        connection.send(401)

    with serving(stop_and_refuse) as server:
        clients.append(client_of(server, **oauth2(endpoint)))
        assert clients[0].store([Part()]).status == 401
        assert len(server.requests) == 1


def test_all_threads_share_one_token_and_one_renewal(endpoint: TokenServer) -> None:
    """Eight threads deliver with one token; when it is revoked, one new one is fetched for all of them."""
    endpoint.delay = 0.05
    with serving(demanding(endpoint.good)) as server:
        client = client_of(server, **oauth2(endpoint))
        for _ in range(2):
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: client.store([Part()], tries=1).status, range(8)))
            assert answers == [200] * 8
            endpoint.revoke()
    assert len(endpoint.asked) == 2


def test_a_token_is_renewed_before_the_archive_refuses_it(endpoint: TokenServer) -> None:
    """With tokens that live briefly, the archive never sees one that has expired."""
    endpoint.seconds = 1.0
    with serving(demanding(endpoint.good)) as server:
        client = client_of(server, **oauth2(endpoint))
        for _ in range(12):
            assert client.store([Part()], tries=1).status == 200
            threading.Event().wait(0.2)
    assert len(server.requests) == 12
    assert len(endpoint.issued) >= 3


# No token


def test_no_token_endpoint_is_tried_like_a_destination_that_is_away(endpoint: TokenServer) -> None:
    """Nothing goes to the archive, and the token endpoint gets the tries of a delivery."""
    endpoint.reply = Reply(500)
    with serving(OK) as server:
        answered = client_of(server, **oauth2(endpoint)).store([Part()])
        assert not server.requests
    assert (answered.status, answered.failure) == (None, Failure.TOKEN)
    assert answered.detail == "no token to show the destination (the token endpoint answers HTTP 500)"
    assert len(endpoint.asked) == 3


def test_a_token_endpoint_that_says_when_is_not_asked_before(endpoint: TokenServer) -> None:
    """Retry-After of the token endpoint ends the tries, and is what the destination's pause goes by."""
    endpoint.reply = Reply(503, headers=(("Retry-After", "40"),))
    with serving(OK) as server:
        answered = client_of(server, **oauth2(endpoint)).store([Part()])
    assert (answered.failure, answered.retry_after, len(endpoint.asked)) == (Failure.TOKEN, 40.0, 1)


def test_a_client_that_is_refused_is_a_matter_for_a_person(endpoint: TokenServer) -> None:
    """invalid_client is said with what to check, and not tried again."""
    with serving(OK) as server:
        answered = client_of(server, **oauth2(endpoint, oauth2_client_secret="wrong")).store([Part()])
        assert not server.requests
    assert answered.failure is Failure.SETUP
    assert "invalid_client: check oauth2_client_id and oauth2_client_secret in [destination]" in answered.detail
    assert len(endpoint.asked) == 2  # in the header, and in the form


def test_a_token_that_cannot_be_replaced_after_a_401(endpoint: TokenServer) -> None:
    """A 401 while the token endpoint is down is trouble with the token: it may pass."""
    with serving(demanding(endpoint.good)) as server:
        client = client_of(server, **oauth2(endpoint))
        assert client.store([Part()]).status == 200
        endpoint.revoke()
        endpoint.reply = Reply(503)
        answered = client.store([Part()], tries=1)
    assert (answered.status, answered.failure) == (None, Failure.TOKEN)


# A token in a file


def test_a_token_file_is_read_anew(tmp_path: Path) -> None:
    """What the file holds when a request begins is shown, line end or not."""
    path = tmp_path / "token"
    with serving(OK) as server:
        client = client_of(server, auth=Auth.BEARER, token_file=path)
        for content in ("one", "two\n", " three \r\n"):
            path.write_text(content)
            assert client.store([Part()]).status == 200
    assert shown(server) == ["Bearer one", "Bearer two", "Bearer three"]


def test_a_token_file_that_is_swapped_like_a_mounted_secret(tmp_path: Path) -> None:
    """A symbolic link that is moved to another folder, as Kubernetes does it, is followed."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    link = tmp_path / "..data"
    link.symlink_to("first")
    with serving(OK) as server:
        client = client_of(server, auth=Auth.BEARER, token_file=link / "token")
        client.store([Part()])
        aside = tmp_path / "..data_tmp"
        aside.symlink_to("second")
        aside.rename(link)
        client.store([Part()])
    assert shown(server) == ["Bearer first", "Bearer second"]


def test_a_token_that_was_renewed_while_it_was_refused_is_tried(tmp_path: Path) -> None:
    """After a 401 the file is read again; another token goes out at once, the same one does not."""
    path = tmp_path / "token"
    path.write_text("old")

    def renew_and_refuse(connection: Connection) -> None:
        connection.read_body()
        path.write_text("new")
        connection.send(401)

    with serving(renew_and_refuse, OK) as server:
        assert client_of(server, auth=Auth.BEARER, token_file=path).store([Part()]).status == 200
    assert shown(server) == ["Bearer old", "Bearer new"]
    with serving(answer(401)) as server:
        assert client_of(server, auth=Auth.BEARER, token_file=path).store([Part()]).status == 401
    assert shown(server) == ["Bearer new"]


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"two tokens", b"two\nlines", b"\xff", "ü".encode(), b"x" * 70_000, b"a\x00b"], ids=repr
)
def test_a_token_file_without_a_token(tmp_path: Path, content: bytes) -> None:
    """What is no token is not sent, and is not quoted."""
    path = tmp_path / "token"
    path.write_bytes(content)
    with serving(OK) as server:
        answered = client_of(server, auth=Auth.BEARER, token_file=path).store([Part()])
        assert not server.requests
    assert answered.failure is Failure.SETUP
    assert answered.detail == (
        "the request cannot be made as configured (token_file in [destination]: expected one token of visible ASCII "
        "characters, found something else)"
    )


def test_a_token_file_that_is_gone(tmp_path: Path) -> None:
    """A file that cannot be read is a matter for a person; when it is back, it is read."""
    path = tmp_path / "token"
    with serving(OK) as server:
        client = client_of(server, auth=Auth.BEARER, token_file=path)
        answered = client.store([Part()])
        assert answered.failure is Failure.SETUP
        assert "token_file in [destination] cannot be read: No such file" in answered.detail
        path.write_text("there")
        assert client.store([Part()]).status == 200


# Headers


def test_headers_of_the_settings_go_with_every_request() -> None:
    """Each header of the settings is on the request, beside our own."""
    headers = (("X-Api-Key", "abc=="), ("x-tenant", "7"))
    with serving(answer(503), OK) as server:
        client_of(server, headers=headers, auth=Auth.BEARER, token="t").store([Part()])
    for request in server.requests:
        assert (request.headers["x-api-key"], request.headers["x-tenant"]) == ("abc==", "7")
        assert request.headers["authorization"] == "Bearer t"
        assert request.headers["accept"].startswith("application/dicom+json")


def test_a_scheme_of_its_own_can_be_a_header() -> None:
    """Without an auth of ours, an Authorization header of the settings goes out as it is."""
    with serving(OK) as server:
        client_of(server, headers=(("Authorization", "ApiKey abc"),)).store([Part()])
    assert shown(server) == ["ApiKey abc"]


def test_headers_are_for_the_archive_only(endpoint: TokenServer) -> None:
    """The token endpoint does not see them."""
    with serving(demanding(endpoint.good)) as server:
        client_of(server, **oauth2(endpoint, headers=(("X-Api-Key", "abc"),))).store([Part()])
    assert "x-api-key" not in endpoint.asked[0].headers
    assert "x-api-key" in server.requests[0].headers


# Secrets


def echo(connection: Connection) -> None:
    """Answer with all that was sent, as an archive's page for developers may."""
    connection.read_body()
    lines = "\n".join(f"{name}: {value}" for name, value in connection.request.headers.items())
    connection.send(400, f"bad request\n{lines}\n p4ssword {UID}".encode())


@pytest.mark.parametrize(
    ("settings", "secrets"),
    [
        (
            {"auth": Auth.BASIC, "username": "gate", "password": "p4ssword"},
            ["p4ssword", base64.b64encode(b"gate:p4ss")],
        ),
        ({"auth": Auth.BEARER, "token": "t0ken-t0ken"}, ["t0ken"]),
        ({"headers": (("X-Api-Key", "k3y-k3y"), ("Authorization", "ApiKey 0ther"))}, ["k3y", "0ther"]),
    ],
    ids=["basic", "bearer", "headers"],
)
def test_an_excerpt_quotes_no_secret(settings: dict[str, Any], secrets: Sequence[str | bytes]) -> None:
    """What an archive quotes of our credentials is not in the excerpt that a sidecar is made from."""
    with serving(echo) as server:
        excerpt = client_of(server, **settings).store([Part()]).excerpt
    assert UID in excerpt
    for secret in secrets:
        assert (secret.decode().rstrip("=") if isinstance(secret, bytes) else secret) not in excerpt


def test_nothing_secret_is_logged_or_raised(
    endpoint: TokenServer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Every library speaking at its lowest level, no token, key or password is in a line or an answer."""
    caplog.set_level(logging.DEBUG)
    answers: list[Answer] = []
    with serving(echo) as server, forward_proxy("u", "pr0xy-secret") as proxy:
        settings = {"headers": (("X-Api-Key", "k3y-k3y"),), "proxy": f"http://u:pr0xy-secret@127.0.0.1:{proxy.port}"}
        answers.append(client_of(server, **oauth2(endpoint, **settings)).store([Part()]))
        endpoint.reply = error("invalid_client", 401)
        answers.append(client_of(server, **oauth2(endpoint, **settings)).store([Part()]))
        answers.append(client_of(server, auth=Auth.BASIC, username="gate", password="an0ther").store([Part()]))
    said = caplog.text + "".join(str(vars(record)) for record in caplog.records) + repr(answers)
    for secret in (SECRET, *endpoint.issued, "k3y-k3y", "pr0xy-secret", "an0ther"):
        assert secret not in said


def test_no_secret_is_in_the_text_of_an_error() -> None:
    """CredentialsError carries its own words only."""
    assert str(CredentialsError("words")) == "words"


# TLS and a proxy, all the way


@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
def test_a_proxy_that_is_reached_by_tls(tmp_path: Path, *, encrypted: bool) -> None:
    """A proxy with an https URL is held to the certificate authorities too: its password goes to nobody else."""
    authority = trustme.CA()
    ca_bundle, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    authority.cert_pem.write_to_path(str(ca_bundle))
    trustme.CA().cert_pem.write_to_path(str(other))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serving(OK, tls=context if encrypted else None) as server, forward_proxy("u", "p4ss", context) as proxy:
        settings = {"proxy": f"https://u:p4ss@127.0.0.1:{proxy.port}"}
        assert client_of(server, ca_bundle=ca_bundle, **settings).store([Part()]).status == 200
        assert proxy.targets == [f"127.0.0.1:{server.port}"]
        answered = client_of(server, ca_bundle=other, **settings).store([Part()], tries=1)
        assert len(proxy.targets) == 1
    assert answered.failure is Failure.CERTIFICATE
    assert "p4ss" not in answered.detail


def test_everything_at_once(tmp_path: Path) -> None:
    """OAuth2, a private authority, a client certificate that both ask for, and a proxy with a password."""
    authority = trustme.CA()
    ca_bundle, ours = tmp_path / "ca.pem", tmp_path / "ours.pem"
    authority.cert_pem.write_to_path(str(ca_bundle))
    authority.issue_cert("gateway@hospital.example").private_key_and_cert_chain_pem.write_to_path(str(ours))

    def context() -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(made)
        authority.configure_trust(made)
        made.verify_mode = ssl.CERT_REQUIRED
        return made

    with (
        token_server(tls=context()) as endpoint,
        serving(demanding(endpoint.good), tls=context()) as server,
        forward_proxy("u", "p4ss") as proxy,
    ):
        settings = {
            "ca_bundle": ca_bundle,
            "client_certificate": ours,
            "proxy": f"http://u:p4ss@127.0.0.1:{proxy.port}",
        }
        assert client_of(server, **oauth2(endpoint, **settings)).store([Part(bytes(3_000_000))]).status == 200
        assert proxy.targets == [f"127.0.0.1:{endpoint.port}", f"127.0.0.1:{server.port}"]
        assert server.requests[0].certificate == "gateway@hospital.example"
        wrong = {**settings, "proxy": f"http://u:wr0ng@127.0.0.1:{proxy.port}"}
        answered = client_of(server, **wrong).store([Part()], tries=1)
    assert answered.failure is Failure.PROXY
    assert "wr0ng" not in answered.detail


def test_a_search_is_asked_again_after_a_401(endpoint: TokenServer) -> None:
    """What is asked of the archive beside storing gets a new token in the same way, once."""
    with serving(demanding(endpoint.good)) as server:
        client = client_of(server, **oauth2(endpoint))

        def ask() -> object:
            return client.get("/instances", "application/dicom+json", lambda _, read: read(9), again=lambda _: False)

        assert ask() == stored_json([UID])[:9]
        endpoint.revoke()
        assert ask() == stored_json([UID])[:9]
    assert len(server.requests) == 3
    assert len(endpoint.asked) == 2
