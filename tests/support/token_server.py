"""An OAuth2 token endpoint on a real socket: it checks the client, issues tokens that expire, and can misbehave."""

import base64
import contextlib
import json
import os
import secrets
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote_plus

CLIENT = "gateway one"
SECRET = "s3cret:+/=%&é"


@dataclass(frozen=True)
class Asked:
    """One request: its path, headers by lower-case name, and form."""

    path: str
    headers: dict[str, str]
    form: dict[str, str]


@dataclass(frozen=True)
class Reply:
    """An answer of the endpoint."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def error(code: str, status: int = 400) -> Reply:
    """An error of RFC 6749 5.2, with a description that quotes a secret, as a careless server may."""
    return Reply(status, json.dumps({"error": code, "error_description": f"bad {CLIENT} {SECRET}"}).encode())


class TokenServer:
    """Serves until it is closed.

    Attributes:
        asked: every request so far.
        issued: every token so far.
        seconds: what new tokens live, None to say nothing of it.
        ways: in which the client may show its credentials: `header`, `form`.
        reply: said instead of anything else, None for the truth.
        delay: seconds before each answer.
    """

    def __init__(self, *, seconds: float | None = 3600, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.asked: list[Asked] = []
        self.issued: list[str] = []
        self.seconds = seconds
        self.ways = {"header", "form"}
        self.scope = ""
        self.reply: Reply | None = None
        self.delay = 0.0
        self._good: dict[str, float] = {}
        self._file: Path | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"owner": self}))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/oauth2/token"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def good(self, token: str) -> bool:
        """Whether a resource server should take this token now."""
        return self._good.get(token, 0.0) > time.monotonic()

    def revoke(self) -> None:
        """Take back every token."""
        with self._lock:
            self._good.clear()
            self._publish()

    def publish(self, path: Path) -> None:
        """Keep the tokens that are good in a file, one a line; those that expire leave it."""
        with self._lock:
            self._file = path
            self._publish()
        threading.Thread(target=self._expire, daemon=True).start()

    def _expire(self) -> None:
        while not self._closed.wait(0.1):
            with self._lock:
                self._publish()

    def _publish(self) -> None:
        if self._file is not None:
            aside = self._file.with_name(self._file.name + ".new")
            aside.write_text("".join(f"{token}\n" for token in self._good if self.good(token)))
            os.replace(aside, self._file)

    def answer(self, asked: Asked) -> Reply:
        """What a request comes to."""
        with self._lock:
            self.asked.append(asked)
            time.sleep(self.delay)
            if self.reply is not None:
                return self.reply
            if asked.form.get("grant_type") != "client_credentials":
                return error("unsupported_grant_type")
            if self._client(asked) != (CLIENT, SECRET):
                return error("invalid_client", 401)
            if asked.form.get("scope", "") != self.scope:
                return error("invalid_scope")
            token = f"token-{secrets.token_urlsafe(16)}"
            self.issued.append(token)
            self._good[token] = time.monotonic() + (3600 if self.seconds is None else self.seconds)
            self._publish()
            said = {"access_token": token, "token_type": "Bearer"}
            lifetime = {} if self.seconds is None else {"expires_in": self.seconds}
            return Reply(200, json.dumps({**said, **lifetime}).encode())

    def _client(self, asked: Asked) -> tuple[str, str] | None:
        scheme, _, value = asked.headers.get("authorization", "").partition(" ")
        if scheme == "Basic" and "header" in self.ways:
            user, _, password = base64.b64decode(value).decode().partition(":")
            return unquote_plus(user), unquote_plus(password)
        if not scheme and "form" in self.ways:
            return asked.form.get("client_id", ""), asked.form.get("client_secret", "")
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that do not agree on TLS."""


class _Handler(BaseHTTPRequestHandler):
    owner: TokenServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._reply({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body, strict_parsing=True).items()}
        self._reply(form)

    def _reply(self, form: dict[str, str]) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.owner.answer(Asked(self.path, headers, form))
        self.send_response(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def token_server(**options: object) -> Iterator[TokenServer]:
    """A token endpoint for the length of a with block."""
    server = TokenServer(**options)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.close()
