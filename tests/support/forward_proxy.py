"""A forward proxy on a real socket: CONNECT and absolute-form requests, with Basic authentication if asked for."""

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class ForwardProxy:
    """Serves until it is closed.

    Attributes:
        targets: `host:port` of every request that it let through, in order.
        refused: how many it did not.
    """

    def __init__(self, username: str = "", password: str = "", tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.targets: list[str] = []
        self.refused = 0
        encoded = base64.b64encode(f"{username}:{password}".encode()).decode()
        self._wanted = f"Basic {encoded}" if username else ""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            stack.enter_context(client)
            if self._tls is not None:
                client = stack.enter_context(self._tls.wrap_socket(client, server_side=True))
            received = b""
            while b"\r\n\r\n" not in received:
                chunk = client.recv(65536)
                if not chunk:
                    return
                received += chunk
            head, _, rest = received.partition(b"\r\n\r\n")
            line, *fields = head.decode("latin-1").split("\r\n")
            method, target, _ = line.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in fields)}
            if self._wanted and headers.get("proxy-authorization") != self._wanted:
                self.refused += 1
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            place = target if method == "CONNECT" else urlsplit(target).netloc
            host, _, port = place.partition(":")
            self.targets.append(place)
            with socket.create_connection((host, int(port or 80)), 10) as upstream:
                if method == "CONNECT":
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    # One request a connection: the next one may be for another host.
                    kept = [one for one in fields if not one.lower().startswith(("proxy-", "connection:"))]
                    path = target.partition(place)[2] or "/"
                    lines = [f"{method} {path} HTTP/1.1", *kept, "Connection: close"]
                    upstream.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
                upstream.sendall(rest)
                back = threading.Thread(target=_pass, args=(upstream, client), daemon=True)
                back.start()
                _pass(client, upstream)
                back.join(10)


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def forward_proxy(username: str = "", password: str = "", tls: ssl.SSLContext | None = None) -> Iterator[ForwardProxy]:
    """A proxy for the length of a with block."""
    proxy = ForwardProxy(username, password, tls)
    try:
        yield proxy
    finally:
        proxy.close()
