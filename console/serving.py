"""Serving the page: the HTTP server, its threads, and when all of it stops.

Not fatal: a port that is taken (it is said once a minute, and tried again), a spool or ledger that is not there or
cannot be read (the page says so). Fatal, exit status 2: a page beyond this machine without users and TLS, a certificate
that cannot be used, a users_file that cannot be read.
"""

import contextlib
import os
import queue
import signal
import ssl
import threading
import time
from typing import Any, Protocol

from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server
from flask import Flask

from common import logs
from common.config import Config
from common.errors import SpoolError
from common.ledger_pages import LedgerPages
from common.presence import Presence
from common.spool import Spool
from console.activity import History
from console.housekeeping import Housekeeping
from console.links import Links
from console.looking import Looking
from console.notices.worker import Notices
from console.users import Users, UsersError
from console.web import create_app
from console.web.guard import is_loopback

log = logs.get(__name__)

_STOP = frozenset((signal.SIGTERM, signal.SIGINT))
_THREADS = 12
_MOST_HEADER = 32 * 1024
_MOST_BODY = 512 * 1024
_SLOW_CLIENT_SECONDS = 10
_NICE = 10  # who looks gives way to who receives and delivers, where they share a core
_SHUTDOWN_SECONDS = 5
_AGAIN_SECONDS = 2.0
_SAY_SECONDS = 60.0


class Worker(Protocol):
    """What goes on in the background while the page is served."""

    def run(self, stopped: threading.Event) -> None:
        """Work until stopped. Must not raise for what mends itself."""


def background(history: History, looking: Looking, config: Config) -> dict[str, Worker]:
    """Everything that runs beside the page, by name, each in a thread of its own: this is the place to add another."""
    return {
        "history": history,
        "looking": looking,
        "notices": Notices(config, history),
        "housekeeping": Housekeeping(config),
    }


def problems(config: Config) -> list[str]:
    """Why the page cannot be served as the settings say, beside what `common.config` finds."""
    console, found = config.console, []
    for key, other in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
        if getattr(console, other) and not getattr(console, key):
            found.append(f"[console] {key}: expected a file, because {other} is set; found nothing")
    if not is_loopback(console.host):
        why = f"because {console.host} is reached from other machines; found nothing"
        if console.users_file is None:
            found.append(f"[console] users_file: expected a file made by `python -m console user NAME`, {why}")
        if console.tls_certificate is None:
            found.append(f"[console] tls_certificate: expected a file, {why}")
    if console.users_file is not None:
        try:
            if not Users(console.users_file).read():
                found.append("[console] users_file: expected at least one user, found none")
        except UsersError as error:
            found.append(f"[console] users_file: {error}")
    if not found and console.tls_certificate is not None:
        try:
            _tls(config)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
            found.append(
                "[console] tls_certificate, tls_key: expected a PEM file with a certificate and one with its key, "
                f"without a passphrase; found what OpenSSL cannot use ({reason})"
            )
    return found


def url_of(config: Config) -> str:
    """Where a browser on this machine, or one that knows it by its first name, finds the page."""
    console = config.console
    scheme = "https" if console.tls_certificate else "http"
    host = console.host_names[0] if console.host_names else console.host
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - not listened to here
        host = "localhost"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{console.port}"


def serve(config: Config) -> int:
    """Serve until told to stop; the exit status."""
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in _STOP:
        signal.signal(number, lambda number, _frame: signals.put(number))
    try:
        Spool(config.spool.directory, config.spool.min_free).prepare()
    except SpoolError as error:
        log.error("the spool cannot be used", reason=str(error))  # the page says so too
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    ledger = LedgerPages(config.spool.directory / "ledger.db")
    history, looking, links = History(ledger), Looking(config), Links(config.spool.directory)
    stopped = threading.Event()
    for name, worker in background(history, looking, config).items():
        threading.Thread(target=_work, args=(name, worker, stopped), name=name, daemon=True).start()
    facts: dict[str, Any] = {"url": url_of(config), "serving": False}
    presence = Presence(config.spool.directory, "console", lambda: dict(facts))
    presence.start()
    app = create_app(config, history, looking=looking, links=links)
    server = threading.Thread(target=_keep_serving, args=(config, app, links, facts, stopped), name="http", daemon=True)
    server.start()
    signals.get()
    log.info("stopping")
    stopped.set()
    deadline = time.monotonic() + _SHUTDOWN_SECONDS + 2
    while server.is_alive() and time.monotonic() < deadline:
        server.join(0.05)
        with contextlib.suppress(queue.Empty):
            signals.get_nowait()
            log.warning("stopped at once by a second signal")
            os._exit(1)
    presence.close()
    links.withdraw()
    log.info("stopped")
    return 0


class _Server(Server):
    """cheroot's server, which says what goes wrong in our log."""

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:  # noqa: FBT001, FBT002
        """Say that something went wrong with a connection; cheroot's text can quote a request."""
        del msg
        if traceback:
            log.exception("a connection failed")  # noqa: LOG004 - cheroot calls it in its handlers
        else:
            log.debug("a connection failed", level=level)


def _make_server(config: Config, app: Flask) -> _Server:
    console = config.console
    server = _Server(
        (console.host, console.port),
        app,
        numthreads=_THREADS,
        server_name="stowgate",
        request_queue_size=64,
        timeout=_SLOW_CLIENT_SECONDS,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    server.max_request_header_size = _MOST_HEADER
    server.max_request_body_size = _MOST_BODY
    server.software = "Stowgate"
    if console.tls_certificate is not None:
        server.ssl_adapter = _tls(config)
    return server


def _tls(config: Config) -> BuiltinSSLAdapter:
    console = config.console
    # Tried first by ourselves: a key with a passphrase would be asked for on the terminal.
    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trial.load_cert_chain(str(console.tls_certificate), str(console.tls_key), password="")
    adapter = BuiltinSSLAdapter(str(console.tls_certificate), str(console.tls_key))
    adapter.context.minimum_version = ssl.TLSVersion.TLSv1_2
    adapter.context.options |= ssl.OP_NO_RENEGOTIATION
    return adapter


def _keep_serving(config: Config, app: Flask, links: Links, facts: dict[str, Any], stopped: threading.Event) -> None:
    """Listen, again and again if need be, until stopped."""
    said = logs.OncePer(_SAY_SECONDS)
    while not stopped.is_set():
        server = _make_server(config, app)
        try:
            server.prepare()
        except OSError as error:
            if said.ready("port"):
                log.error("cannot listen yet", host=config.console.host, port=config.console.port, reason=_why(error))
            stopped.wait(_AGAIN_SECONDS)
            continue
        try:
            links.publish()
        except OSError as error:
            log.error("nobody can sign in by a link", reason=error.strerror)
        log.info("serving", url=url_of(config))
        facts["serving"] = True
        stopping = threading.Thread(target=_stop_with, args=(server, stopped), name="stop", daemon=True)
        stopping.start()
        try:
            server.serve()
        except Exception:
            log.exception("the page is served again")
            with contextlib.suppress(Exception):
                server.stop()
            stopped.wait(_AGAIN_SECONDS)
        facts["serving"] = False
        if stopped.is_set():
            stopping.join()  # serve() ends when stop() begins: what is being answered is waited for


def _stop_with(server: _Server, stopped: threading.Event) -> None:
    stopped.wait()
    with contextlib.suppress(Exception):
        server.stop()


def _why(error: OSError) -> str:
    cause = error.__cause__
    found = cause if isinstance(cause, OSError) else error
    return found.strerror or "no address of that name, or it is taken"


def _work(name: str, worker: Worker, stopped: threading.Event) -> None:
    """Run one of those in the background; whatever happens to it, the page is there."""
    while not stopped.is_set():
        try:
            worker.run(stopped)
        except Exception:
            log.exception("a worker failed, and is begun anew", worker=name)
            stopped.wait(_AGAIN_SECONDS)
        else:
            return
