"""The uploader as a process against archives that demand credentials, and token endpoints that come and go."""

import contextlib
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import trustme
from requests.auth import AuthBase

from common.records import State
from sandbox.running import RunningSandbox, running_sandbox
from support.forward_proxy import forward_proxy
from support.pipeline import Pipeline, wait_for
from support.samples import make_instance
from support.token_server import CLIENT, SECRET, TokenServer, token_server

MakePipeline = Callable[..., Pipeline]

CONTROL = "control-token"


class _Control(AuthBase):
    """How a test asks a sandbox that demands tokens."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {CONTROL}"
        return request


@contextlib.contextmanager
def demanding_sandbox(tmp_path: Path, tokens: Path, *arguments: str, **options: object) -> Iterator[RunningSandbox]:
    """A sandbox that takes the tokens in a file."""
    demand = ("--token", CONTROL, "--tokens", str(tokens), *arguments)
    with running_sandbox(tmp_path / "sandbox", *demand, auth=_Control(), **options) as sandbox:  # type: ignore[arg-type]
        yield sandbox


def drop(pipeline: Pipeline, tmp_path: Path, count: int) -> set[str]:
    """Drop instances; their UIDs."""
    folder = tmp_path / "prepared"
    shutil.rmtree(folder, ignore_errors=True)
    uids = [make_instance(folder / f"{number}.dcm") for number in range(count)]
    pipeline.spool.prepare()
    for number in range(count):
        shutil.copy(folder / f"{number}.dcm", pipeline.spool.incoming / f"{uids[number]}.dcm")
    return set(uids)


def sent(sandbox: RunningSandbox) -> set[str]:
    return {one["sop_instance_uid"] for one in sandbox.instances()}


def oauth2(endpoint: TokenServer, **settings: object) -> dict[str, object]:
    return {
        "auth": "oauth2",
        "oauth2_token_url": endpoint.url,
        "oauth2_client_id": CLIENT,
        "oauth2_client_secret": SECRET,
        **settings,
    }


def harmless(pipeline: Pipeline) -> bool:
    """Whether nothing was given up, and no attempt was spent on what is still owed."""
    waiting = [row for row in pipeline.rows() if row.state is State.INCOMING]
    return not pipeline.quarantined() and all(row.attempts == 0 for row in waiting)


def test_tokens_that_expire_and_are_revoked(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """With tokens of one second, and every token revoked in between, all is delivered without a pause."""
    with token_server(seconds=1) as endpoint, demanding_sandbox(tmp_path, tmp_path / "tokens") as sandbox:
        endpoint.publish(tmp_path / "tokens")
        pipeline = make_pipeline(sandbox.url, destination=oauth2(endpoint), uploader={"batch_instances": 2})
        pipeline.start("uploader")
        uids: set[str] = set()
        for number in range(6):
            uids |= drop(pipeline, tmp_path, 10)
            pipeline.wait_empty()
            if number % 2:
                endpoint.revoke()
            else:
                time.sleep(1.1)
        assert sent(sandbox) == uids
        assert len(endpoint.issued) >= 6
        assert "destination paused" not in pipeline.logs()
        for secret in (SECRET, *endpoint.issued):
            assert secret not in pipeline.logs()


def test_a_token_endpoint_that_is_down_is_an_outage(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """Without a token everything waits, loudly and unharmed; when the endpoint is back, it goes, without a restart."""
    with token_server() as first:
        port = first.port
    with demanding_sandbox(tmp_path, tmp_path / "tokens") as sandbox:
        pipeline = make_pipeline(sandbox.url, destination=oauth2(first), uploader={"max_attempts": 1})
        uids = drop(pipeline, tmp_path, 10)
        uploader = pipeline.start("uploader")
        uploader.wait_for_line("destination paused")
        assert "the token endpoint: cannot connect (Connection refused)" in uploader.log()
        wait_for(lambda: pipeline.counts()[State.INCOMING] > 0)
        assert harmless(pipeline)
        with token_server(port=port) as second:
            second.publish(tmp_path / "tokens")
            pipeline.wait_empty()
            assert sent(sandbox) == uids
            assert len(second.asked) == 1
    assert harmless(pipeline)


def test_a_wrong_client_secret_is_said_in_words_and_cured_by_a_restart(
    make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """invalid_client pauses the destination with what to check; corrected, everything is delivered."""
    with token_server() as endpoint, demanding_sandbox(tmp_path, tmp_path / "tokens") as sandbox:
        endpoint.publish(tmp_path / "tokens")
        wrong = oauth2(endpoint, oauth2_client_secret="wr0ng-secret")
        pipeline = make_pipeline(sandbox.url, destination=wrong, uploader={"max_attempts": 1})
        uids = drop(pipeline, tmp_path, 5)
        uploader = pipeline.start("uploader")
        uploader.wait_for_line("invalid_client: check oauth2_client_id and oauth2_client_secret in [destination]")
        wait_for(lambda: len(endpoint.asked) >= 8, what="several probes")
        assert uploader.log().count("destination paused") == 1
        assert "wr0ng" not in uploader.log()
        assert harmless(pipeline)
        assert sandbox.summary()["requests"] == 0
        uploader.stop()
        pipeline.configure(destination={"oauth2_client_secret": SECRET})
        pipeline.start("uploader")
        pipeline.wait_empty()
        assert sent(sandbox) == uids


def test_an_archive_that_takes_none_of_our_tokens(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """Two requests a probe, one of them with a new token, and a pause with the cause: never a loop."""
    with token_server() as endpoint, demanding_sandbox(tmp_path, tmp_path / "tokens") as sandbox:
        slow = {"threads": 1, "backoff_initial_seconds": 60, "backoff_max_seconds": 60}
        pipeline = make_pipeline(sandbox.url, destination=oauth2(endpoint), uploader=slow)
        drop(pipeline, tmp_path, 1)
        uploader = pipeline.start("uploader")
        uploader.wait_for_line("HTTP 401: the destination does not accept our credentials")
        assert (len(sandbox.requests()), len(endpoint.asked)) == (2, 2)
        assert harmless(pipeline)


def test_a_token_file_that_is_renewed(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """The token in a file may change while the uploader runs: the archive's next request has the new one."""
    token, tokens = tmp_path / "mounted", tmp_path / "tokens"
    token.write_text("old-token\n")
    tokens.write_text("new-token\n")
    with demanding_sandbox(tmp_path, tokens) as sandbox:
        destination = {"auth": "bearer", "token_file": token}
        pipeline = make_pipeline(sandbox.url, destination=destination, uploader={"max_attempts": 1})
        uids = drop(pipeline, tmp_path, 3)
        uploader = pipeline.start("uploader")
        uploader.wait_for_line("does not accept our credentials")
        assert harmless(pipeline)
        token.write_text("new-token\n")
        pipeline.wait_empty()
        assert sent(sandbox) == uids
        assert "-token" not in pipeline.logs()


def test_all_of_it_behind_a_proxy_with_private_certificates(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """Tokens, a private authority, client certificates, a proxy with a password and an API key, from a process."""
    authority = trustme.CA()
    paths = {name: tmp_path / f"{name}.pem" for name in ("ca", "server", "key", "ours")}
    theirs, ours = authority.issue_cert("127.0.0.1"), authority.issue_cert("gateway@hospital.example")
    authority.cert_pem.write_to_path(str(paths["ca"]))
    theirs.cert_chain_pems[0].write_to_path(str(paths["server"]))
    theirs.private_key_pem.write_to_path(str(paths["key"]))
    ours.private_key_and_cert_chain_pem.write_to_path(str(paths["ours"]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    tls = ("--tls-certificate", paths["server"], "--tls-key", paths["key"], "--tls-client-ca", paths["ca"])
    secure = {"verify": str(paths["ca"]), "cert": str(paths["ours"])}
    with (
        token_server(tls=context) as endpoint,
        demanding_sandbox(tmp_path, tmp_path / "tokens", *map(str, tls), **secure) as sandbox,
        forward_proxy("u", "pr0xy-secret") as proxy,
    ):
        endpoint.publish(tmp_path / "tokens")
        certificates = {"ca_bundle": paths["ca"], "client_certificate": paths["ours"]}
        pipeline = make_pipeline(sandbox.url, destination=oauth2(endpoint, **certificates))
        uids = drop(pipeline, tmp_path, 5)
        pipeline.start(
            "uploader",
            STOWGATE_DESTINATION_PROXY=f"http://u:pr0xy-secret@127.0.0.1:{proxy.port}",
            STOWGATE_DESTINATION_HEADERS="X-Api-Key: k3y-k3y\nX-Tenant: 7",
            STOWGATE_LOGGING_LEVEL="DEBUG",
            STOWGATE_LOGGING_PATIENT_IDENTIFIERS="yes",
        )
        pipeline.wait_empty()
        assert sent(sandbox) == uids
        assert set(proxy.targets) == {f"127.0.0.1:{endpoint.port}", f"127.0.0.1:{sandbox.port}"}
    for secret in (SECRET, *endpoint.issued, "pr0xy-secret", "k3y-k3y"):
        assert secret not in pipeline.logs()


def test_a_region_that_nobody_names_ends_the_uploader_at_once(make_pipeline: MakePipeline) -> None:
    """auth = aws without a region says so at the start, and nothing is begun."""
    pytest.importorskip("botocore", reason="auth = aws needs: pip install -r requirements-aws.txt")
    pipeline = make_pipeline("https://archive.invalid", destination={"auth": "aws"})
    nowhere = {"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_CONFIG_FILE": "/nonexistent"}
    with pytest.raises(AssertionError, match="ended"):
        pipeline.start("uploader", **nowhere)
    assert pipeline.processes[0].popen.wait(10) == 1
    assert "expected a region in the host of url or in AWS_REGION, found none" in pipeline.logs()


@pytest.mark.parametrize("auth", ["google", "aws"])
def test_a_library_that_is_missing_is_named_with_its_command(
    make_pipeline: MakePipeline, tmp_path: Path, auth: str
) -> None:
    """Configured without its library, the uploader ends with status 2 and the command that installs it."""
    pipeline = make_pipeline("https://archive.invalid", destination={"auth": auth})
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.abc, sys\n"
        "class Missing(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('google', 'google.auth', 'botocore'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    with pytest.raises(AssertionError, match="ended"):
        pipeline.start("uploader", PYTHONPATH=str(hidden))
    assert pipeline.processes[0].popen.wait(10) == 2
    library = {"google": "google.auth", "aws": "botocore"}[auth]
    assert f"[destination] auth: {library} must be installed for {auth}; found none" in pipeline.logs()
    assert f"-m pip install -r requirements-{auth}.txt" in pipeline.logs()
