"""The least that an uploader must do: files are sent and deleted, also by a connection that was idle for long."""

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


class Archive(http.server.ThreadingHTTPServer):
    """Takes everything, and closes connections on which nothing comes."""

    daemon_threads = True

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = status
        self.bodies: list[bytes] = []
        self.closed = 0


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 0.2
    server: Archive

    def do_POST(self) -> None:
        """Take a request."""
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def finish(self) -> None:
        """Count a connection that ends."""
        super().finish()
        self.server.closed += 1

    def log_message(self, *_: object) -> None:  # noqa: D102 - as in its base
        pass


@pytest.fixture
def archive() -> Iterator[Archive]:
    """An archive on loopback."""
    with Archive() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def sender(archive: Archive, folder: Path) -> subprocess.Popen[str]:
    url = f"http://127.0.0.1:{archive.server_address[1]}/dicom-web"
    command = [sys.executable, "-m", "bench.least_sender", url, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def put(folder: Path, name: str) -> None:
    (folder.parent / name).write_bytes(name.encode())
    (folder.parent / name).rename(folder / name)


def test_a_connection_that_the_archive_closed_is_opened_anew(archive: Archive, tmp_path: Path) -> None:
    """All four have been idle for too long: each file is sent once, and deleted."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    process = sender(archive, folder)
    try:
        deadline = time.monotonic() + 20
        while archive.closed < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert archive.closed == 4
        for number in range(8):
            put(folder, f"file-{number}")
            time.sleep(0.05)
        while any(folder.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(folder.iterdir())
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    sent = b"".join(archive.bodies)
    assert [sent.count(f"file-{number}".encode()) for number in range(8)] == [1] * 8


def test_who_is_refused_ends_and_says_why(archive: Archive, tmp_path: Path) -> None:
    """Nobody waits for the files of a thread that is dead."""
    archive.status = 503
    folder = tmp_path / "incoming"
    folder.mkdir()
    put(folder, "file")
    process = sender(archive, folder)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "expected 200, found b'HTTP/1.1 503" in said
    assert (folder / "file").exists()
