"""An archive that says everything back to you: headers, credentials in clear, the beginning of the body."""

import base64
import binascii
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_QUOTED = 20_000  # bytes of a body


class Mirror:
    """Serves until it is closed; everything it is told stands in its answer.

    Attributes:
        status: of each answer to a request for anything but /token.
        token_status: of each answer to a request for /token.
        token: the access token that it gives there, if that is 200.
        requests: how many requests it has answered with each status.
    """

    def __init__(self) -> None:
        self.status = 401
        self.token_status = 200
        self.token = "no-token"
        self.requests: dict[int, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.mirror = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        mirror: Mirror = self.server.mirror  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        token = self.path.endswith("/token")
        status = mirror.token_status if token else mirror.status
        mirror.requests[status] = mirror.requests.get(status, 0) + 1
        said = "\n".join(f"{name}: {value}" for name, value in self.headers.items())
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            with contextlib.suppress(binascii.Error):
                said += "\n" + base64.b64decode(credentials).decode()
        content = said.encode() + b"\n" + body[:_QUOTED]
        if token and status == 200:
            content = f'{{"access_token": "{mirror.token}", "token_type": "Bearer", "expires_in": 3600}}'.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if token else "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def mirror() -> Iterator[Mirror]:
    """A mirror, for the length of the block."""
    made = Mirror()
    try:
        yield made
    finally:
        made.close()
