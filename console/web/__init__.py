"""The web page: a Flask app, rendered here, live by fragments that htmx asks for. Works without scripts too."""

import secrets
from pathlib import Path

from flask import Flask
from flask_wtf.csrf import CSRFProtect

from common.config import Config
from common.ledger_pages import LedgerPages
from common.spool import Spool
from console.activity import History
from console.links import Links
from console.looking import Looking
from console.users import Users
from console.web import instance, monitoring, overview, quarantine, search, signing_in
from console.web.attempts import Attempts
from console.web.guard import guard, person
from console.web.services import KEY, Services
from console.web.sessions import Sessions
from console.web.undertakings import Undertakings
from console.web.words import FILTERS, zone

_MOST_BODY = 256 * 1024  # a page of the quarantine with all its boxes ticked is a tenth of it


def create_app(
    config: Config, history: History, *, looking: Looking | None = None, links: Links | None = None
) -> Flask:
    """Make the app.

    Args:
        config: the configuration.
        history: throughput and latency, followed by somebody.
        looking: the overview, shared with others; None makes one.
        links: one-time links, published by somebody; None makes ones that nobody can get.
    """
    app = Flask(__name__, static_url_path="/static")
    console = config.console
    tls = console.tls_certificate is not None
    app.config.update(
        # Made anew each time: no cookie outlives the process.
        SECRET_KEY=secrets.token_bytes(32),
        MAX_CONTENT_LENGTH=_MOST_BODY,
        MAX_FORM_MEMORY_SIZE=_MOST_BODY,
        MAX_FORM_PARTS=1000,
        # Cookies know no ports: two pages on one host must not overwrite each other's.
        SESSION_COOKIE_NAME=f"{'__Host-' if tls else ''}stowgate-{console.port}",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_SECURE=tls,
        SESSION_COOKIE_PATH="/",
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session
        TEMPLATES_AUTO_RELOAD=False,
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(FILTERS)
    spool = Spool(config.spool.directory, config.spool.min_free)
    app.extensions[KEY] = Services(
        config=config,
        spool=spool,
        pages=LedgerPages(spool.ledger),
        history=history,
        looking=looking or Looking(config),
        sessions=Sessions(console.session_minutes * 60.0),
        attempts=Attempts(),
        undertakings=Undertakings(spool),
        links=links or Links(config.spool.directory),
        users=Users(console.users_file) if console.users_file else None,
    )
    guard(app, config)
    CSRFProtect(app)
    versions = {name: _version(name) for name in ("page.css", "page.js", "htmx.min.js")}
    app.context_processor(lambda: {"person": person(), "version_of": versions.__getitem__, "zone": zone})
    for module in (overview, quarantine, search, instance, signing_in):
        app.register_blueprint(module.blueprint)
    app.register_blueprint(monitoring.blueprint(config, history))
    return app


def _version(name: str) -> str:
    """Changes with the file, so that browsers do not go on with an old one."""
    status = (Path(__file__).parent / "static" / name).stat()
    return f"{status.st_mtime_ns:x}"[-8:]
