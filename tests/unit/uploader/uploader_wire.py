"""A small HTTP server on a real socket, each connection in a thread, that does with a request what a test says."""

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass
class Received:
    """One request: its first line, its headers by lower-case name, its body, and the client's certificate."""

    line: str
    headers: dict[str, str]
    body: bytes = b""
    certificate: str = ""


Act = Callable[["Connection"], None]


@dataclass
class Connection:
    """One connection of a client, and the request on it that is being served."""

    socket: socket.socket
    server: "Server"
    alive: bool = True
    request: Received = field(default_factory=lambda: Received("", {}))
    length: int = 0
    rest: bytes = b""

    def read_head(self) -> bool:
        """Read up to the empty line; False if the client has gone."""
        while b"\r\n\r\n" not in self.rest:
            chunk = self.socket.recv(65536)
            if not chunk:
                return False
            self.rest += chunk
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
        shown = self.socket.getpeercert() if isinstance(self.socket, ssl.SSLSocket) else None
        names = [value for group in (shown or {}).get("subjectAltName", ()) for value in group[1:]]
        self.request = Received(line, headers, certificate=",".join(names))
        self.server.requests.append(self.request)
        self.length = int(headers.get("content-length", 0))
        return True

    def read_body(self, at_most: int | None = None) -> None:
        """Read the body, or the first part of it."""
        wanted = self.length if at_most is None else min(at_most, self.length)
        while len(self.rest) < wanted:
            chunk = self.socket.recv(65536)
            if not chunk:
                raise ConnectionError
            self.rest += chunk
        self.request.body, self.rest = self.rest[:wanted], self.rest[wanted:]

    def send(self, status: int, body: bytes = b"", *headers: str, length: int | None = None) -> None:
        """Send an answer whose Content-Length may lie."""
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body) if length is None else length}", *headers]
        self.socket.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def reset(self) -> None:
        """Abort the TCP connection, as a machine that fails does."""
        self.alive = False
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # A TLS socket would say goodbye first.
        plain = socket.socket(fileno=self.socket.detach())
        plain.close()


def answer(status: int, body: bytes = b"", *headers: str) -> Act:
    """Read all of it, and answer."""

    def act(connection: Connection) -> None:
        connection.read_body()
        connection.send(status, body, *headers)

    return act


class Server:
    """Serves each request by the next of the given acts, the last one for all that follow."""

    def __init__(self, *acts: Act, tls: ssl.SSLContext | None = None, greet: Act | None = None) -> None:
        self.acts = list(acts)
        self.requests: list[Received] = []
        self.connections = 0
        self._greet = greet
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """What goes into [destination]."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/dicom-web"

    def close(self) -> None:
        """Listen no more, and drop every connection."""
        # A thread in accept() holds the port until it is woken.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                self._sockets.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._greet is not None:
                self._greet(Connection(client, self))
                return
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
                self._sockets.append(client)
            connection = Connection(client, self)
            while connection.alive and connection.read_head():
                act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
                act(connection)
        with contextlib.suppress(OSError):
            client.close()


@contextlib.contextmanager
def serving(*acts: Act, tls: ssl.SSLContext | None = None, greet: Act | None = None) -> Iterator[Server]:
    """A server for the length of a with block."""
    server = Server(*acts, tls=tls, greet=greet)
    try:
        yield server
    finally:
        server.close()


def stored_json(uids: Sequence[str]) -> bytes:
    """A Store Instances Response that calls these stored."""
    items = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in uids]
    return json.dumps({"00081199": {"vr": "SQ", "Value": items}}).encode()
