"""The sandbox as a process: settings, HTTP application, listening socket, and the end."""

import asyncio
import base64
import contextlib
import hmac
import logging
import signal
import socket
import ssl
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from sandbox.control import NO_ARCHIVE, Control
from sandbox.journal import Journal, Record
from sandbox.retrieval import Retrieval
from sandbox.rulebook import RuleBook
from sandbox.rules import Rule
from sandbox.store import Store
from sandbox.studies import Studies, leave_expectation

# Long enough for an answer under way, short enough for whoever waits; a rule that hangs is cut off.
# aiohttp takes up to twice as long.
_SHUTDOWN_SECONDS = 0.5


@dataclass(frozen=True)
class Settings:
    """How one sandbox runs.

    Attributes:
        directory: where the instances are kept; None to keep none.
        root: path of the DICOMweb service, empty or with a slash in front and none behind.
        credentials: acceptable values of the Authorization header; empty to ask for none.
        tokens: a file of bearer tokens to accept as well, one a line, read for each request; None for none.
    """

    host: str
    port: int
    directory: str | None
    root: str
    rules: tuple[Rule, ...] = ()
    credentials: tuple[str, ...] = ()
    tokens: str | None = None
    quiet: bool = False
    tls: ssl.SSLContext | None = None


def basic(username: str, password: str) -> str:
    """Give the Authorization header of Basic authentication (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def bearer(token: str) -> str:
    """Give the Authorization header of a bearer token (RFC 6750)."""
    return f"Bearer {token}"


def build_application(settings: Settings) -> web.Application:
    """Put the application together.

    Raises:
        OSError: the directory cannot be used.
    """
    store = Store(settings.directory)
    rules = RuleBook()
    for rule in settings.rules:
        rules.add(rule)
    journal = Journal(quiet=settings.quiet)
    studies = Studies(store, rules, journal, settings.root)
    application = web.Application(middlewares=[_authentication(settings, journal)])
    application.add_routes(Control(store, rules, journal, settings.root).routes())
    for path in (f"{settings.root}/studies", f"{settings.root}/studies/{{study}}"):
        application.router.add_post(path, studies.post, expect_handler=leave_expectation)
    application.add_routes(Retrieval(store, rules, settings.root).routes())
    application.on_response_prepare.append(_sign)
    return application


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once.

    Raises:
        OSError: the address or the directory cannot be used.
    """
    logging.getLogger("aiohttp.server").addFilter(_without_request)
    runner = web.AppRunner(build_application(settings), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        listener = _listen(settings.host, settings.port)
        await web.SockSite(runner, listener, ssl_context=settings.tls).start()
        stopped = _stop_on_signals()
        print(f"sandbox: {NO_ARCHIVE}", flush=True)
        print(f"sandbox: listening on {_url(settings, listener.getsockname()[1])}", flush=True)
        await stopped.wait()
    finally:
        await runner.cleanup()


def _listen(host: str, port: int) -> socket.socket:
    # One socket, so that port 0 is one port: a name may stand for several addresses.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


def _url(settings: Settings, port: int) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.tls else 'http'}://{host}:{port}{settings.root}"


def _stop_on_signals() -> asyncio.Event:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return stopped


def _authentication(settings: Settings, journal: Journal) -> Middleware:
    schemes = sorted({known.partition(" ")[0] for known in settings.credentials})
    if settings.tokens is not None and "Bearer" not in schemes:
        schemes.append("Bearer")
    expected = f"expected Authorization: {' or '.join(schemes)} …"

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get(hdrs.AUTHORIZATION, "").encode()
        accepted = [hmac.compare_digest(given, known.encode()) for known in _acceptable(settings)]
        if not schemes or any(accepted) or request.path == "/":
            return await handler(request)
        if request.path.startswith(f"{settings.root}/studies"):
            refused = f"{expected}, found {'another' if given else 'none'}"
            journal.add(Record(request.path, status=HTTPStatus.UNAUTHORIZED, refused=refused))
        refusal = web.Response(status=HTTPStatus.UNAUTHORIZED, text=f"{expected}\n")
        for scheme in schemes:
            refusal.headers.add(hdrs.WWW_AUTHENTICATE, f'{scheme} realm="sandbox"')
        return refusal

    return authenticate


def _acceptable(settings: Settings) -> list[str]:
    """The values of the Authorization header that are good now."""
    known = list(settings.credentials)
    if settings.tokens is not None:
        with contextlib.suppress(FileNotFoundError), open(settings.tokens, encoding="ascii") as file:
            known += [bearer(line.strip()) for line in file if line.strip()]
    return known


def _without_request(record: logging.LogRecord) -> bool:
    """Keep the bytes of what is no HTTP off the terminal: behind a wrong Content-Length they are a body's."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.msg, record.args, record.exc_info = "sandbox: refused: expected HTTP/1.1 → 400", (), None
    return True


async def _sign(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = "Stowgate sandbox (no archive)"
