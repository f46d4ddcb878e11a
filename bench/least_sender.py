"""`python -m bench.least_sender URL FOLDER`: the least that an uploader must do. Files are read, sent and deleted.

Nothing is claimed, looked at, recorded or logged, and an answer 200 is believed. Four connections and 50 instances in a
request, as our uploader has by default; the folder is listed fifty times a second. It runs until it is ended.
"""

import os
import queue
import socket
import sys
import threading
import time
import urllib.parse
from pathlib import Path

from bench.peers import BenchError
from bench.posting import CONNECTIONS, read_answer
from bench.samples import BOUNDARY, CONTENT_TYPE

_BATCH = 50
_LOOK_SECONDS = 0.02
_PART = f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
_END = f"\r\n--{BOUNDARY}--".encode()


def _deliver(connection: socket.socket, target: urllib.parse.SplitResult, paths: list[str]) -> None:
    """Send files in one request, whole in memory one after the other, and delete them."""
    descriptors = [os.open(path, os.O_RDONLY) for path in paths]  # a failure leaves them open: there are few
    sizes = [os.fstat(descriptor).st_size for descriptor in descriptors]
    length = sum(sizes) + len(paths) * len(_PART) - len(b"\r\n") + len(_END)
    head = f"POST {target.path}/studies HTTP/1.1\r\nHost: {target.netloc}\r\n"
    head += f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {length}\r\n\r\n"
    before = head.encode() + _PART[len(b"\r\n") :]
    for descriptor, size in zip(descriptors, sizes, strict=True):
        connection.sendall(before + os.read(descriptor, size))
        before = _PART
    connection.sendall(_END)
    read_answer(connection)
    for path, descriptor in zip(paths, descriptors, strict=True):
        os.unlink(path)
        os.close(descriptor)


def _connect(target: urllib.parse.SplitResult) -> socket.socket:
    connection = socket.create_connection((str(target.hostname), target.port or 80), 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _work(target: urllib.parse.SplitResult, batches: "queue.SimpleQueue[list[str]]") -> None:
    """Deliver for ever; a trouble ends the process, so that nobody waits for the files of a thread that is dead."""
    try:
        connection = _connect(target)
        while True:
            paths = batches.get()
            try:
                _deliver(connection, target, paths)
            except (OSError, BenchError):
                # Archives close a connection that is idle for a second.
                connection.close()
                connection = _connect(target)
                _deliver(connection, target, paths)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is said, and ends the measurement
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def main(url: str, folder: Path) -> None:
    """Deliver for ever; prints when it begins, in seconds of the system's clock."""
    batches: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    for _ in range(CONNECTIONS):
        threading.Thread(target=_work, args=(urllib.parse.urlsplit(url), batches), daemon=True).start()
    print(time.time(), flush=True)
    seen: set[str] = set()
    while True:
        new = [name for name in os.listdir(folder) if name not in seen]
        seen.update(new)
        for begin in range(0, len(new), _BATCH):
            batches.put([f"{folder}/{name}" for name in new[begin : begin + _BATCH]])
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
