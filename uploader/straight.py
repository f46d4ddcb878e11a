"""Files that go from the disk to the socket without a way through this process (sendfile).

Half a megabyte that is read and written costs two copies, and a turn of the interpreter for each block. Over TLS there
is no other way. What is small goes together with its delimiters, in blocks: a call for each would cost more.
"""

import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from urllib3.connection import HTTPConnection

from uploader.multipart import Body

BLOCK = 128 * 1024
"""Bytes that are written to the socket at a time, or that must go out within connect_timeout_seconds."""

_LEAST = 64 * 1024  # bytes
_MOST = 1024 * 1024  # bytes in one call: in between it is seen whether to go on


@dataclass(frozen=True, slots=True)
class _Straight:
    """Bytes of a body of which the last `length` are those that are on disk next."""

    before: bytes
    body: Body
    length: int

    def __len__(self) -> int:
        return len(self.before) + self.length


class _Blocks:
    """A body as urllib3 reads it: blocks, which it hands to `send` one after the other."""

    def __init__(self, body: Body) -> None:
        self._body = body

    def read(self, size: int) -> bytes | _Straight:
        """The next block; an empty one at the end."""
        block = self._body.read(size, leave=_LEAST)
        if (length := self._body.on_disk()) >= _LEAST:
            return _Straight(block, self._body, length)
        return block


class StraightConnection(HTTPConnection):
    """A connection without TLS."""

    def request(self, method: str, url: str, body: Any = None, *arguments: Any, **settings: Any) -> None:
        """Send a request; a `Body` straight from disk."""
        blocks: Any = _Blocks(body) if isinstance(body, Body) else body
        super().request(method, url, blocks, *arguments, **settings)

    def send(self, data: Any) -> None:
        """Send some of a request."""
        if isinstance(data, _Straight):
            _send(self.sock, data)
        else:
            super().send(data)


def _send(sock: socket.socket, straight: _Straight) -> None:
    """Send what comes next of a body.

    Raises:
        TimeoutError: a block did not go out within the timeout of the socket.
        PartError, Aborted: as `Body.read` does.
        OSError: of the socket.
    """
    if straight.before:
        sock.sendall(straight.before, socket.MSG_MORE)
    body, left = straight.body, straight.length
    waits = _Waits(sock)
    while left:
        try:
            count = body.send_to(sock.fileno(), min(left, _MOST))
        except BlockingIOError:
            waits.until_writable()
            continue
        except OSError:
            count = 0
        if not count:
            # The file ends early, or its filesystem cannot do this, or one of both fails: which one, this tells.
            block = body.read(min(left, BLOCK))
            sock.sendall(block)
            count = len(block)
        left -= count
        waits.sent(count)


class _Waits:
    """Waits for a socket, so long that each block has the socket's timeout to go out."""

    def __init__(self, sock: socket.socket) -> None:
        self._poll = select.poll()
        self._poll.register(sock, select.POLLOUT)
        self._timeout = sock.gettimeout()
        self._sent = 0
        self._deadline = self._new_deadline()

    def until_writable(self) -> None:
        """Wait.

        Raises:
            TimeoutError: the time is over.
        """
        left = self._deadline - time.monotonic()
        if left <= 0 or not self._poll.poll(None if left == float("inf") else left * 1000):
            raise TimeoutError("timed out")  # as a socket says it

    def sent(self, count: int) -> None:
        """Note that bytes went out."""
        self._sent += count
        if self._sent >= BLOCK:
            self._sent = 0
            self._deadline = self._new_deadline()

    def _new_deadline(self) -> float:
        return float("inf") if self._timeout is None else time.monotonic() + self._timeout
