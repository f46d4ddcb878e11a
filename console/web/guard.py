"""What stands before and behind every answer: whose name it was asked by, who asks, and the headers that bind browsers.

A request by a foreign host name is refused, also for a page that shows little: a name that an attacker points at
127.0.0.1 would let his page read ours (DNS rebinding). Every answer has the headers, errors too.
"""

import ipaddress
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec
from urllib.parse import urlsplit

from flask import (
    Flask,
    Response,
    abort,
    current_app,
    g,
    make_response,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException, MisdirectedRequest
from werkzeug.routing import RequestRedirect
from werkzeug.wrappers import Response as AnyResponse

from common import logs
from common.config import Config
from common.errors import LedgerError
from console.web.services import services
from console.web.sessions import Session

log = logs.get(__name__)

_P = ParamSpec("_P")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: under TLS a form must show that it comes from this site (Flask-WTF).
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_MONITORING = "monitoring"
_ASKED_BY_MACHINES = frozenset(("/healthz", "/readyz"))
_OPEN = frozenset(("static", "signing_in.sign_in", "signing_in.sign_in_post"))


def guard(app: Flask, config: Config) -> None:
    """Put all of it round an app."""
    known = _known_hosts(config)

    def begin() -> None:
        g.begun = time.monotonic()
        g.session = None
        # A load balancer asks by whatever address it has, and is told nothing that others must not know.
        if request.path not in _ASKED_BY_MACHINES and not _is_known(request.headers.get("Host", ""), known):
            raise MisdirectedRequest("This page is not called by that name. See host_names in [console].")
        g.session = _session()

    def ask_for_name() -> AnyResponse | None:
        if is_loopback(config.console.host) or g.session is not None:
            return None
        if request.endpoint in _OPEN or request.blueprint == _MONITORING:
            return None
        return ask_to_sign_in()

    app.before_request(begin)
    app.before_request(ask_for_name)
    app.after_request(_finish)
    app.register_error_handler(Exception, _failed)


def is_loopback(host: str) -> bool:
    """Tell whether a host stands for this machine alone."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _known_hosts(config: Config) -> frozenset[str]:
    names = {config.console.host.lower().rstrip("."), *(name.rstrip(".") for name in config.console.host_names)}
    return frozenset(names - {"0.0.0.0", "::", ""})  # noqa: S104 - not listened to here


def _is_known(host: str, known: frozenset[str]) -> bool:
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not name or parts.path or parts.query or parts.fragment or "@" in host:
        return False
    name = name.rstrip(".")
    return is_loopback(name) or name in known


def _session() -> Session | None:
    """The session of this request. What the page asks by itself keeps nobody signed in."""
    key = session.get("id")
    found = services().sessions.find(key, touch=not request.path.startswith("/live/"))
    if found is not None and found.mark:
        users = services().users
        if users is None or not users.still(found.person, found.mark):
            services().sessions.close(key)
            return None
    return found


def person() -> str:
    """Who is signed in; empty if nobody is."""
    found = current()
    return found.person if found else ""


def current() -> Session | None:
    """The session of this request."""
    found = g.get("session")
    return found if isinstance(found, Session) else None


def needs_person(view: Callable[_P, Any]) -> Callable[_P, Any]:
    """Let only who is signed in have this view."""

    @wraps(view)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> Any:
        return ask_to_sign_in() if current() is None else view(*args, **kwargs)

    return guarded


def ask_to_sign_in() -> AnyResponse:
    """Lead to the page for signing in, and from there back to what was asked for if that was a page."""
    target = url_for("signing_in.sign_in")
    if request.method == "GET" and not request.path.startswith("/live/"):
        target = url_for("signing_in.sign_in", next=request.full_path.rstrip("?"))
    if request.headers.get("HX-Request") == "true":
        answer = make_response("", 401)
        answer.headers["HX-Redirect"] = target
        return answer
    if request.path.endswith(".png"):
        abort(401)
    return redirect(target, 303)


def safe_next(target: str) -> str:
    """The path of one of our own pages that `target` is, else that of the overview: never another site."""
    overview = url_for("overview.show")
    if not target.startswith("/") or target.startswith("//") or any(one in target for one in "\\\r\n\t\0"):
        return overview
    parts = urlsplit(target)
    try:
        endpoint, _ = current_app.url_map.bind("localhost").match(parts.path, method="GET")
    except (HTTPException, RequestRedirect):
        return overview
    if endpoint == "static" or endpoint.startswith("signing_in."):
        return overview
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _finish(answer: Response) -> Response:
    for name, value in HEADERS.items():
        answer.headers[name] = value
    if request.endpoint == "static" and answer.status_code in {200, 304}:
        answer.headers["Cache-Control"] = "private, max-age=3600"
    else:
        answer.headers["Cache-Control"] = "no-store"
    log.debug(
        "answered",
        method=request.method if request.method in {"GET", "HEAD", "POST"} else "other",
        # Not the path itself: one that is none of ours can be anything.
        path=request.url_rule.rule if request.url_rule else None,
        status=answer.status_code,
        peer=request.remote_addr,
        milliseconds=round((time.monotonic() - g.get("begun", time.monotonic())) * 1000),
    )
    return answer


def _failed(error: Exception) -> AnyResponse:
    """Say what went wrong, in a page that needs neither ledger nor spool."""
    if isinstance(error, CSRFError):
        status, title = 400, "This page is too old"
        text = (
            "What it sent is not of this session: the console was started anew, or you signed in or out elsewhere. "
            "Nothing was done. Go back, load the page again, and repeat it."
        )
    elif isinstance(error, HTTPException):
        if error.code is None or error.code < 400:
            return make_response(error.get_response())
        status, title, text = error.code, error.name, error.description or ""
    elif isinstance(error, LedgerError):
        status, title, text = 503, "The ledger cannot be read", f"{error}. Nothing is lost by that. Try again."
    else:
        log.exception(  # noqa: LOG004 - Flask calls it with the error at hand
            "a page failed", path=request.url_rule.rule if request.url_rule else None
        )
        status, title, text = 500, "This page failed", "The log of the console says why. The pipeline goes on."
    answer = make_response(render_template("error.html", title=title, text=text, status=status), status)
    if isinstance(error, HTTPException):
        for name, value in error.get_headers():
            if name.lower() in {"allow", "retry-after"}:
                answer.headers[name] = value
    return answer
