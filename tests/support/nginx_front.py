"""What nginx does in front of an archive with a body that is larger than client_max_body_size (1 MB by default).

It answers 413 with its built-in page as soon as it has read the head, and closes lingeringly: what still comes is read
and thrown away for a while, so that the answer is not lost (ngx_http_core_module, lingering_close). Everything else is
passed on.
"""

import contextlib
import re
import socket
from collections.abc import Iterator

from support.fronts import front

_PAGE = (
    b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n"
    b"<center><h1>413 Request Entity Too Large</h1></center>\r\n"
    b"<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n"
)
_LINGERING_SECONDS = 5.0  # lingering_timeout


@contextlib.contextmanager
def nginx_front(port: int, client_max_body_size: int = 1024 * 1024) -> Iterator[str]:
    """Relay requests to a port on loopback, for the length of a with block; gives its origin."""
    with front(lambda client: _serve(client, port, client_max_body_size)) as own_port:
        yield f"http://127.0.0.1:{own_port}"


def _serve(client: socket.socket, port: int, limit: int) -> None:
    with contextlib.suppress(OSError), client:
        while head := _head(client):
            found = re.search(rb"(?i)\r\ncontent-length:\s*(\d+)", head)
            length = int(found[1]) if found else 0
            if length > limit:
                lines = (
                    b"HTTP/1.1 413 Request Entity Too Large",
                    b"Server: nginx/1.22.1",
                    b"Content-Type: text/html",
                    b"Content-Length: %d" % len(_PAGE),
                    b"Connection: close",
                )
                client.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + _PAGE)
                client.shutdown(socket.SHUT_WR)
                client.settimeout(_LINGERING_SECONDS)
                while client.recv(64 * 1024):
                    pass
                return
            _pass_on(client, port, head, length)


def _head(client: socket.socket) -> bytes:
    """The head of a request, byte by byte, so that its body stays in the socket; none when the client has gone."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def _pass_on(client: socket.socket, port: int, head: bytes, length: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.sendall(head[:-2] + b"Connection: close\r\n\r\n")
        left = length
        while left and (chunk := client.recv(min(left, 64 * 1024))):
            server.sendall(chunk)
            left -= len(chunk)
        answer = b""
        while chunk := server.recv(64 * 1024):
            answer += chunk
    client.sendall(answer)
