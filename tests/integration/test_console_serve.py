"""`console serve` as a process: how it starts, what it refuses, how it stops; and the commands that go with it."""

import json
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import trustme

from common.presence import FOLDER, processes
from support.console_page import ConsolePage
from support.pipeline import Pipeline, wait_for
from support.programs import free_port


@pytest.fixture
def make_page(make_pipeline: Callable[..., Pipeline]) -> Iterator[Callable[..., ConsolePage]]:
    """Makes pages that are not started yet; what was started is stopped at the end."""
    made: list[ConsolePage] = []

    def make(**settings: object) -> ConsolePage:
        made.append(ConsolePage(make_pipeline("http://127.0.0.1:9/dicom-web"), **settings))
        return made[-1]

    yield make
    for page in made:
        if page.popen is not None:
            page.stop(signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_says_so_and_stops_gracefully(make_page: Callable[..., ConsolePage], number: signal.Signals) -> None:
    """With presence and key while it lives, and neither afterwards; exit status 0."""
    page = make_page().start()
    assert requests.get(page.url, timeout=10).status_code == 200
    spool = page.pipeline.spool.directory
    wait_for(lambda: [one.facts.get("serving") for one in processes(spool) if one.role == "console"] == [True])
    assert page.stop(number) == 0
    assert [one for one in processes(spool) if one.role == "console"] == []
    assert not (spool / FOLDER / "sign-in.key").exists()


def test_a_taken_port_is_waited_for(make_page: Callable[..., ConsolePage]) -> None:
    """It says so once, and serves as soon as the port is free; the key is not overwritten before."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        page = make_page(port=other.getsockname()[1])
        page.launch()
        page.wait_for_line("cannot listen yet")
        assert not (page.pipeline.spool.directory / FOLDER / "sign-in.key").exists()
        assert page.popen is not None
        assert page.popen.poll() is None
    page.wait_for_line("serving")
    assert page.log().count("cannot listen yet") == 1
    assert requests.get(page.url, timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        ({"host": "0.0.0.0"}, ["users_file", "tls_certificate"]),  # noqa: S104
        ({"users_file": "missing"}, ["users_file"]),
        ({"tls_certificate": "pipeline.ini", "tls_key": "pipeline.ini"}, ["tls_certificate"]),
    ],
)
def test_what_would_be_unsafe_is_refused(
    make_page: Callable[..., ConsolePage], settings: dict[str, object], problems: list[str]
) -> None:
    """A broken configuration: every problem, exit status 2."""
    ended = make_page(**settings).run("serve")
    assert ended.returncode == 2
    for problem in problems:
        assert f"[console] {problem}" in ended.stderr


def test_beyond_this_machine_it_serves_with_users_and_tls(
    make_page: Callable[..., ConsolePage], tmp_path: Path
) -> None:
    """A user signs in by password over TLS 1.2 or newer, with a Secure cookie; older TLS is refused."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    page = make_page(
        host="0.0.0.0",  # noqa: S104
        users_file=tmp_path / "users",
        tls_certificate=tmp_path / "cert.pem",
        tls_key=tmp_path / "key.pem",
    )
    added = page.run("user", "anna", "--password-stdin", input="correct horse battery\n")
    assert added.returncode == 0, added.stderr
    assert json.loads(page.run("user", "--json").stdout)["users"] == ["anna"]
    page.start()
    session = requests.Session()
    session.trust_env = False
    session.verify = str(tmp_path / "ca.pem")
    form = session.get(f"{page.url}/", timeout=10)
    assert form.url.startswith(f"{page.url}/sign-in")
    token = form.text.partition('csrf_token" value="')[2].partition('"')[0]
    answer = session.post(
        f"{page.url}/sign-in",
        data={"csrf_token": token, "name": "anna", "password": "correct horse battery"},
        headers={"Referer": form.url},
        timeout=10,
    )
    assert "Sign out" in answer.text
    assert "; Secure;" in answer.history[0].headers["Set-Cookie"]
    assert answer.history[0].headers["Set-Cookie"].startswith("__Host-")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", page.port)) as plain, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(plain)
    assert "correct horse" not in page.log()


def test_the_command_prints_a_link_that_signs_in(make_page: Callable[..., ConsolePage]) -> None:
    """Its token is in no log; without a page that is served there is none."""
    page = make_page(port=free_port())
    missing = page.run("sign-in")
    assert missing.returncode == 1
    assert "start `console serve`" in missing.stderr
    page.start()
    printed = json.loads(page.run("sign-in", "--json").stdout)
    assert printed["url"] == f"{page.url}/sign-in#{printed['token']}"
    session = requests.Session()
    form = session.get(f"{page.url}/sign-in", timeout=10).text
    token = form.partition('csrf_token" value="')[2].partition('"')[0]
    answer = session.post(f"{page.url}/sign-in", data={"csrf_token": token, "token": printed["token"]}, timeout=10)
    assert "Sign out" in answer.text
    assert printed["token"] not in page.log()


def test_a_second_signal_stops_it_at_once(make_page: Callable[..., ConsolePage]) -> None:
    """Somebody who is still sending a request holds it up no longer."""
    page = make_page().start()
    with socket.create_connection(("127.0.0.1", page.port)) as slow:
        slow.sendall(b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx")
        wait_for(lambda: requests.get(page.url, timeout=10).status_code == 200)
        assert page.popen is not None
        page.popen.send_signal(signal.SIGTERM)
        page.wait_for_line("stopping")
        page.popen.send_signal(signal.SIGTERM)
        assert page.popen.wait(3) in {0, 1}


def test_nothing_of_a_patient_is_in_its_log(make_page: Callable[..., ConsolePage]) -> None:
    """Whatever is asked for, at the most talkative level."""
    page = make_page()
    page.pipeline.configure(logging={"level": "DEBUG"})
    page.start()
    for path in ("/search?patient_id=PAT-4711", "/PAT-4711", "/quarantine?text=PAT-4711", "/instances/PAT-4711"):
        requests.get(f"{page.url}{path}", timeout=10)
    page.wait_for_line("answered")
    assert "PAT-4711" not in page.log()
    assert "path=/quarantine" in page.log()


def test_nobody_else_reads_what_it_writes(make_page: Callable[..., ConsolePage]) -> None:
    """Its files in the spool are 0600."""
    page = make_page().start()
    folder = page.pipeline.spool.directory / FOLDER
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
