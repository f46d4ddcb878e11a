"""Where notices go in tests: a real HTTP server for the web hook, a real mail server."""

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from support.programs import free_port


class HookServer:
    """Takes what is posted, and answers with `status`.

    Attributes:
        port: on loopback.
        posted: the documents, with the path of each.
        status: the answer.
        location: of a redirect.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.posted: list[tuple[str, Any]] = []
        self.status = 200
        self.location = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.posted.append((self.path, json.loads(body)))
                self.send_response(outer.status)
                if outer.location:
                    self.send_header("Location", outer.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                outer.posted.append((self.path, None))
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])

    @contextlib.contextmanager
    def running(self) -> Iterator["HookServer"]:
        """Serve for the length of a with block."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class MailServer:
    """Takes mail by STARTTLS or TLS, from a user or anybody.

    Attributes:
        port: on loopback.
        messages: as received, with the addresses of the envelope.
        plain_logins: passwords that came before TLS.
    """

    def __init__(
        self, context: ssl.SSLContext | None = None, *, starttls: bool = True, user: tuple[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.messages: list[tuple[list[str], EmailMessage]] = []
        self.refuse = ""
        self._user = user
        options: dict[str, Any] = {}
        if context is not None and starttls:
            options = {"tls_context": context, "require_starttls": True}
        if user is not None:
            options |= {"authenticator": self._check, "auth_required": True}
        if context is None or not starttls:
            options |= {"auth_require_tls": False}
        self._controller = Controller(
            self,
            "127.0.0.1",
            self.port,
            ssl_context=None if starttls else context,
            **options,
        )

    @contextlib.contextmanager
    def running(self) -> Iterator["MailServer"]:
        """Serve for the length of a with block."""
        self._controller.start()
        try:
            yield self
        finally:
            self._controller.stop()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take a message."""
        del server, session
        if self.refuse:
            return self.refuse
        content = envelope.content
        assert isinstance(content, bytes)
        message = BytesParser(policy=default).parsebytes(content)
        assert isinstance(message, EmailMessage)
        self.messages.append((list(envelope.rcpt_tos), message))
        return "250 OK"

    def _check(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        del server, session, envelope, mechanism
        assert isinstance(data, LoginPassword)
        given = (data.login.decode(), data.password.decode())
        return AuthResult(success=given == self._user, handled=False)
