"""How long an answer may take, from the last byte of the request to the last byte of the answer's head and framing.

The timeouts of requests and urllib3 are for one read of the socket. Who sends a byte now and then, `100 Continue` for
ever, or a header that does not end, meets none of them, and would hold a thread for as long as it likes. So the
connections here read an answer against a deadline: what has not come within read_timeout_seconds times two has not come
in time, however busy the line is. The body of a retrieve is left out: it is as long as the instance, and bounded by its
reader.
"""

import http.client
import io
import socket
import time
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPSConnection

from uploader.straight import StraightConnection

_TIMES = 2  # the read timeout; one silence is that long, and there may be some before the last byte


class _Bounded(io.RawIOBase):
    """What a socket gives, until a deadline."""

    def __init__(self, raw: Any, deadline: float) -> None:
        super().__init__()
        self._raw = raw
        self.deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self.deadline:
            raise TimeoutError("timed out")  # as a socket says it
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer whose reading has an end."""

    def __init__(self, sock: socket.socket, *arguments: Any, **settings: Any) -> None:
        super().__init__(sock, *arguments, **settings)
        timeout = sock.gettimeout()
        self._bounded = _Bounded(
            self.fp.detach(), float("inf") if timeout is None else time.monotonic() + _TIMES * timeout
        )
        self.fp = io.BufferedReader(self._bounded)
        self._method_asked = settings.get("method")

    def begin(self) -> None:
        """Read the head."""
        super().begin()
        if self._method_asked == "GET":
            self._bounded.deadline = float("inf")


class _Connection(StraightConnection):
    response_class = _Response


class _TlsConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


POOLS: dict[str, type[HTTPConnectionPool]] = {"http": _Pool, "https": _TlsPool}
"""For the `pool_classes_by_scheme` of a PoolManager."""
