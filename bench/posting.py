"""What the uploader is compared with: curl and the kernel's sendfile with ready-made bodies, and dicomweb-client.

Each posts everything to `<url>/studies` and counts only if every answer is 200; that all arrived is the archive's to
say.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.peers import ROOT, BenchError, environment
from bench.samples import CONTENT_TYPE

CONNECTIONS = 4
"""As many as the uploader has by default."""


@dataclass(frozen=True, slots=True)
class Posting:
    """When something posted, monotonic seconds."""

    begun: float
    ended: float


def curl_missing() -> str | None:
    """Why curl cannot be used; None if it can."""
    return None if shutil.which("curl") else "curl is not installed"


def dicomweb_client_missing() -> str | None:
    """Why dicomweb-client cannot be used; None if it can."""
    if importlib.util.find_spec("dicomweb_client"):
        return None
    return "dicomweb-client is not installed (requirements-bench.txt)"


def curl(url: str, bodies: Sequence[Path], scratch: Path) -> Posting:
    """Post bodies, spread over so many processes of curl, each with one connection that it keeps.

    Raises:
        BenchError: an answer was not 200.
    """
    shares = [share for number in range(CONNECTIONS) if (share := bodies[number::CONNECTIONS])]
    begun = time.monotonic()
    processes = [_curl(url, share, scratch / f"curl-{number}.cfg") for number, share in enumerate(shares)]
    said = [process.communicate() for process in processes]
    ended = time.monotonic()
    statuses = "".join(output for output, _ in said).split()
    if statuses != ["200"] * len(bodies):
        errors = "".join(error for _, error in said)
        raise BenchError(f"curl: expected {len(bodies)} answers 200, found {sorted(set(statuses))} {errors[-500:]}")
    return Posting(begun, ended)


def _curl(url: str, bodies: Sequence[Path], config: Path) -> subprocess.Popen[str]:
    lines = [
        "silent",
        "show-error",
        "request = POST",
        'header = "Expect:"',
        f'header = "Content-Type: {CONTENT_TYPE}"'.replace('type="application/dicom"', r"type=\"application/dicom\""),
        r'write-out = "%{http_code}\n"',
    ]
    for body in bodies:
        lines += [f'url = "{url}/studies"', f'upload-file = "{body}"', 'output = "/dev/null"']
    config.write_text("\n".join(lines) + "\n")
    return subprocess.Popen(
        ["curl", "--disable", "--config", str(config)],
        env=environment(nodelay=False),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sendfile(url: str, bodies: Sequence[Path]) -> Posting:
    """Post bodies by the kernel's sendfile on as many connections: the quickest sender that there can be.

    Raises:
        BenchError: an answer was not 200.
    """
    shares = [share for number in range(CONNECTIONS) if (share := bodies[number::CONNECTIONS])]
    begun = time.monotonic()
    with ThreadPoolExecutor(len(shares)) as pool:
        list(pool.map(lambda share: _sendfile(url, share), shares))
    return Posting(begun, time.monotonic())


def _sendfile(url: str, bodies: Sequence[Path]) -> None:
    target = urllib.parse.urlsplit(url)
    with socket.create_connection((str(target.hostname), target.port or 80), 60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for body in bodies:
            with open(body, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                head = f"POST {target.path}/studies HTTP/1.1\r\nHost: bench\r\n"
                head += f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {size}\r\n\r\n"
                connection.sendall(head.encode())
                connection.sendfile(file)
            read_answer(connection)


def read_answer(connection: socket.socket) -> None:
    """Read an answer with a Content-Length.

    Raises:
        BenchError: it is none, or not 200.
    """
    answer = b""
    while b"\r\n\r\n" not in answer:
        if not (part := connection.recv(65536)):
            raise BenchError("the server closed the connection")
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise BenchError(f"expected 200, found {head[:40]!r}")
    left = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]) - len(body)
    while left > 0:
        left -= len(connection.recv(left))


def dicomweb_client(url: str, files: Sequence[Path], batch: int) -> float:
    """Have dicomweb-client read the files and store them, so many in a request; the seconds of that.

    Raises:
        BenchError: it ended with an error.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.dicomweb_sender", url, str(batch)],
        input="\n".join(map(str, files)),
        cwd=ROOT,
        env=environment(nodelay=False),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"dicomweb-client: {done.stderr[-1000:]}")
    return float(done.stdout)
