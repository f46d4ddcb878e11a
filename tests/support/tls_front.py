"""TLS in front of a server that speaks plain HTTP, as a reverse proxy does it.

Orthanc can speak TLS itself (SslEnabled), but that of Debian 12 (1.10.1 with civetweb 1.15 and OpenSSL 3) ends with a
segmentation fault at the first request.
"""

import contextlib
import select
import socket
import ssl
from collections.abc import Iterator

from support.fronts import front


@contextlib.contextmanager
def tls_front(port: int, context: ssl.SSLContext) -> Iterator[str]:
    """Relay TLS connections to a port on loopback, for the length of a with block; gives its origin."""
    with front(lambda client: _relay(client, port, context)) as own_port:
        yield f"https://127.0.0.1:{own_port}"


def _relay(client: socket.socket, port: int, context: ssl.SSLContext) -> None:
    with (
        contextlib.suppress(OSError),
        client,
        socket.create_connection(("127.0.0.1", port)) as server,
        context.wrap_socket(client, server_side=True) as front,
    ):
        while True:
            # What TLS has decrypted already does not make the socket readable.
            ready = [front] if front.pending() else select.select([front, server], [], [])[0]
            for source in ready:
                chunk = source.recv(64 * 1024)
                if not chunk:
                    return
                (server if source is front else front).sendall(chunk)
