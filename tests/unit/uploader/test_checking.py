"""`python -m uploader --check`: what an archive is found to be by one or two harmless requests."""

import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from common.config import Auth, DestinationConfig
from support.programs import free_port
from uploader.checking import Check, check, print_check

Answers = Mapping[str, tuple[int, dict[str, str], bytes]]
_JSON = {"Content-Type": "application/dicom+json"}
_HTML = {"Content-Type": "text/html"}
_POST = {"Allow": "OPTIONS, POST"}


class _Archive(ThreadingHTTPServer):
    """Answers as it is told, by method; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: Answers = {}
        self.asked: list[tuple[str, str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/dicom-web"


class _Handler(BaseHTTPRequestHandler):
    server: _Archive

    def _answer(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
        status, fields, body = self.server.answers.get(self.command, (404, {}, b""))
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_OPTIONS = do_POST = _answer  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def archive() -> Iterator[_Archive]:
    """One that knows nothing."""
    server = _Archive()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def found(archive: _Archive, **answers: tuple[int, dict[str, str], bytes]) -> Check:
    archive.answers = answers
    return check(DestinationConfig(url=archive.url, read_timeout_seconds=0.5))


@pytest.mark.parametrize(
    ("answers", "severity", "words"),
    [
        ({"GET": (200, _JSON, b'[{"00100010": "Doe^Jane"}]')}, "ok", "is not proven"),
        ({"GET": (204, {}, b"")}, "ok", "HTTP 204"),
        ({"GET": (200, _HTML, b"<html>Welcome</html>")}, "warning", "not with the result of a search"),
        ({"GET": (302, {"Location": "/login"}, b"")}, "error", "redirects"),
        ({"GET": (401, {}, b"")}, "error", "does not accept our credentials"),
        ({"GET": (403, {}, b"")}, "error", "whether it may store is not known"),
        ({"GET": (407, {}, b"")}, "error", "proxy"),
        ({"GET": (503, {}, b"Doe^Jane")}, "error", "HTTP 503: it is in trouble"),
        ({"GET": (404, {}, b"")}, "error", "most likely the address is wrong"),
        ({"GET": (404, {}, b""), "OPTIONS": (204, _POST, b"")}, "ok", "takes a POST"),
        ({"GET": (405, _POST, b""), "OPTIONS": (405, {}, b"")}, "ok", "takes a POST"),
        ({"GET": (501, {}, b""), "OPTIONS": (200, {}, b"")}, "warning", "cannot be told"),
        ({"GET": (404, {}, b""), "OPTIONS": (200, {}, b"")}, "warning", "cannot be told"),
    ],
    ids=lambda value: str({name: one[0] for name, one in value.items()}) if isinstance(value, dict) else None,
)
def test_what_an_answer_means(
    archive: _Archive, answers: dict[str, tuple[int, dict[str, str], bytes]], severity: str, words: str
) -> None:
    """In words, without a word of the body; never by a POST."""
    got = found(archive, **answers)
    assert (got.severity, words in got.text) == (severity, True), got
    assert "Doe" not in got.text + got.advice
    assert archive.asked[0][:2] == ("GET", "/dicom-web/studies?limit=1")
    assert {asked[0] for asked in archive.asked} <= {"GET", "OPTIONS"}


def test_no_answer_is_told_by_its_reason(archive: _Archive) -> None:
    """Nobody there; somebody there who says nothing."""
    away = check(DestinationConfig(url=f"http://127.0.0.1:{free_port()}"))
    assert (away.severity, "cannot connect" in away.text) == ("error", True)


def test_it_asks_with_the_credentials_of_a_delivery(archive: _Archive, capsys: pytest.CaptureFixture[str]) -> None:
    """By the same session; what it prints is one JSON object without them."""
    archive.answers = {"GET": (200, _JSON, b"[]")}
    status = print_check(DestinationConfig(url=archive.url, auth=Auth.BEARER, token="s3cret"))
    assert archive.asked == [("GET", "/dicom-web/studies?limit=1", "Bearer s3cret")]
    output = capsys.readouterr().out
    assert (status, json.loads(output)["severity"]) == (0, "ok")
    assert "s3cret" not in output
