import http.client
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
import trustme
from sandbox_posts import CONTENT_TYPE, connect, head, instance, multipart, post

from sandbox.running import RunningSandbox, running_sandbox

A = instance("1.2.3.1")
PROJECT = Path(__file__).parents[3]


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run python -m sandbox where it is expected to end by itself."""
    command = [sys.executable, "-m", "sandbox", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=20, check=False)


def test_a_broken_command_line_is_reported_whole() -> None:
    """Every problem is on standard error, with exit status 2, before anything is opened."""
    ended = start(
        "--rule", "status=99", "--rule", "drop=never", "--port", "70000", "--root", "/sandbox/x",
        "--username", "u", "--tls-certificate", "/nowhere", "--directory", "/dev/null/x",
    )  # fmt: skip
    assert ended.returncode == 2
    for text in (
        "--rule status=99: expected an HTTP status",
        "--rule drop=never: expected one of before",
        "--port: expected 0 to 65535, found 70000",
        "--root: expected a path like /dicom-web outside /sandbox, found '/sandbox/x'",
        "--username, --password: expected both",
        "--tls-certificate, --tls-key: expected both",
    ):
        assert text in ended.stderr
    assert ended.stdout == ""


def test_what_it_cannot_use_ends_it_with_status_1(sandbox: RunningSandbox, tmp_path: Path) -> None:
    """A port that is taken or a directory that cannot be made is said on one line."""
    taken = start("--port", str(sandbox.port), "--directory", str(tmp_path))
    assert taken.returncode == 1
    assert "in use" in taken.stderr
    impossible = start("--port", "0", "--directory", "/dev/null/x")
    assert impossible.returncode == 1
    assert "/dev/null" in impossible.stderr
    assert "Traceback" not in taken.stderr + impossible.stderr


def test_the_helper_says_why_a_sandbox_does_not_start(tmp_path: Path) -> None:
    """running_sandbox raises at once, with what the process wrote."""
    with pytest.raises(RuntimeError, match="expected an HTTP status"), running_sandbox(tmp_path, "--rule", "status=1"):
        pass


def test_a_restart_on_the_same_port_finds_the_instances(tmp_path: Path) -> None:
    """After SIGKILL a new sandbox takes over port and folder; what was stored is there, also for duplicates."""
    with running_sandbox(tmp_path, "--rule", "first=1,status=503") as first:
        assert [post(first.url, [A]).status_code for _ in range(2)] == [503, 200]
        assert first.kill() == -signal.SIGKILL
    with running_sandbox(tmp_path, port=first.port) as second:
        assert second.url == first.url
        assert [entry["sop_instance_uid"] for entry in second.instances()] == ["1.2.3.1"]
        assert post(second.url, [instance("1.2.3.1", study="1.9.9")]).status_code == 409
        assert second.instance("1.2.3.1") == A


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_even_while_it_hangs(tmp_path: Path, number: signal.Signals) -> None:
    """Exit status 0 within a few seconds, whatever is under way, and no half file is left."""
    with running_sandbox(tmp_path, "--rule", "delay=600") as sandbox, connect(sandbox.url) as waiting:
        body = multipart([A])
        waiting.sendall(head(len(body)) + body)
        with connect(sandbox.url) as half:
            half.sendall(head(len(body)) + body[:-20])
            while len(list((tmp_path / ".partial").iterdir())) != 1 or not (tmp_path / "1.2.3.1.dcm").exists():
                time.sleep(0.01)
            started = time.monotonic()
            sandbox.process.send_signal(number)
            assert sandbox.process.wait(10) == 0
            assert time.monotonic() - started < 5
    assert not list((tmp_path / ".partial").iterdir())
    assert "Traceback" not in "\n".join(sandbox.lines)


def test_a_root_of_ones_own(tmp_path: Path) -> None:
    """--root moves the DICOMweb service, up to the top of the server; the control resources stay."""
    with running_sandbox(tmp_path, "--root", "/a/b.c/") as sandbox:
        assert sandbox.url.endswith("/a/b.c")
        assert post(sandbox.url, [A]).status_code == 200
        sandbox.stop()
    with running_sandbox(tmp_path, "--root", "/", "--quiet") as sandbox:
        assert post(sandbox.url, [A]).status_code == 200
        assert sandbox.summary()["requests"] == 1
        sandbox.stop()
        assert not any("stored" in line for line in sandbox.lines)


def test_credentials_are_asked_for_everywhere_but_on_the_first_page(tmp_path: Path) -> None:
    """401 with a WWW-Authenticate for each scheme; Basic and bearer both open the door, nothing else does."""
    arguments = ("--username", "ann", "--password", "pÄss:word", "--token", "t0ken")
    with running_sandbox(tmp_path, *arguments, auth=(b"ann", "pÄss:word".encode())) as sandbox:
        refused = [
            post(sandbox.url, [A]),
            post(sandbox.url, [A], headers={"Authorization": "Bearer wrong"}),
            post(sandbox.url, [A], headers={"Authorization": "Basic YW5uOndyb25n"}),
            requests.get(sandbox.control, timeout=10),
            requests.delete(f"{sandbox.control}/instances", timeout=10),
        ]
        for response in refused:
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == 'Basic realm="sandbox", Bearer realm="sandbox"'
        assert requests.get(sandbox.control.removesuffix("sandbox"), timeout=10).status_code == 200
        assert sandbox.instances() == []
        assert post(sandbox.url, [A], headers={"Authorization": "Bearer t0ken"}).status_code == 200
        assert [record["status"] for record in sandbox.requests()] == [401, 401, 401, 200]
        assert not any("t0ken" in line or "wrong" in line for line in sandbox.lines)


def test_tokens_in_a_file_are_read_for_each_request(tmp_path: Path) -> None:
    """Tokens may come and go in the file; without the file nobody gets in."""
    tokens = tmp_path / "tokens"

    def with_token(token: str) -> int:
        return post(sandbox.url, [A], headers={"Authorization": f"Bearer {token}"}).status_code

    with running_sandbox(tmp_path / "kept", "--tokens", str(tokens)) as sandbox:
        assert with_token("one") == 401
        tokens.write_text("one\n\ntwo\n")
        assert [with_token(token) for token in ("one", "two", "three", "")] == [200, 200, 401, 401]
        tokens.write_text("three\n")
        assert [with_token(token) for token in ("one", "three")] == [401, 200]


def test_it_serves_tls_and_can_ask_for_a_client_certificate(tmp_path: Path) -> None:
    """TLS with the given certificate; without a client certificate of the CA nobody gets in."""
    ca = trustme.CA()
    paths = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "certificate", "key", "client")}
    ca.cert_pem.write_to_path(paths["ca"])
    server = ca.issue_cert("127.0.0.1")
    server.cert_chain_pems[0].write_to_path(paths["certificate"])
    server.private_key_pem.write_to_path(paths["key"])
    ca.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(paths["client"])
    arguments = (
        "--tls-certificate", paths["certificate"], "--tls-key", paths["key"], "--tls-client-ca", paths["ca"],
        "--rule", "first=1,drop=after",
    )  # fmt: skip
    with running_sandbox(tmp_path / "kept", *arguments, verify=paths["ca"], cert=paths["client"]) as sandbox:
        assert sandbox.url.startswith("https://127.0.0.1:")
        request = {"data": multipart([A]), "headers": {"Content-Type": CONTENT_TYPE}, "verify": paths["ca"]}
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{sandbox.url}/studies", timeout=10, **request)
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{sandbox.url}/studies", timeout=10, cert=paths["client"], **request)
        answer = requests.post(f"{sandbox.url}/studies", timeout=10, cert=paths["client"], **request)
        assert answer.status_code == 200
        assert answer.json()["00081190"]["Value"][0].startswith(sandbox.url)
        assert [record["dropped"] for record in sandbox.requests()] == ["after", None]


def test_null_checks_and_keeps_nothing(tmp_path: Path) -> None:
    """--null answers for each instance and counts it, and writes no file; bad framing is refused as ever."""
    with running_sandbox(tmp_path / "kept", "--null") as sandbox:
        assert post(sandbox.url, [A, b"rubbish"]).status_code == 202
        assert post(sandbox.url, body=multipart([A])[:-1]).status_code == 400
        assert sandbox.instances() == [{"sop_instance_uid": "1.2.3.1", "size_bytes": len(A), "posts": 2}]
        assert sandbox.summary()["keeps_instances"] is False
        assert requests.get(f"{sandbox.control}/instances/1.2.3.1", timeout=10).status_code == 404
        assert not (tmp_path / "kept").exists()


def test_memory_does_not_grow_with_the_instance(sandbox: RunningSandbox) -> None:
    """An instance of 200 MB goes through to the disk in a few megabytes of memory."""

    def peak_bytes() -> int:
        status = Path(f"/proc/{sandbox.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    before = peak_bytes()
    start_of_body, end_of_body = multipart([A]).split(A)
    start_of_body += A
    chunk, chunks = bytes(1 << 20), 200
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=30)
    connection.putrequest("POST", "/dicom-web/studies")
    connection.putheader("Content-Type", CONTENT_TYPE)
    connection.putheader("Content-Length", str(len(start_of_body) + len(end_of_body) + chunks * len(chunk)))
    connection.endheaders(start_of_body)
    for _ in range(chunks):
        connection.send(chunk)
    connection.send(end_of_body)
    assert connection.getresponse().status == 200
    connection.close()
    assert sandbox.instances()[0]["size_bytes"] == len(A) + chunks * len(chunk)
    assert peak_bytes() - before < 40_000_000
    sandbox.forget()


def test_it_listens_on_one_address_only(sandbox: RunningSandbox) -> None:
    """By default nobody outside this machine can reach it."""
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.2", sandbox.port)) != 0
