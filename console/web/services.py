"""What the views of the page work with, kept in the extensions of the Flask app."""

from dataclasses import dataclass

from flask import current_app

from common.config import Config
from common.ledger_pages import LedgerPages
from common.spool import Spool
from console.activity import History
from console.links import Links
from console.looking import Looking
from console.users import Users
from console.web.attempts import Attempts
from console.web.sessions import Sessions
from console.web.undertakings import Undertakings

KEY = "stowgate"


@dataclass(frozen=True, slots=True)
class Services:
    """All of it.

    Attributes:
        config: the configuration.
        spool: the folders.
        pages: the ledger as the page asks it.
        history: throughput and latency.
        looking: the overview, shared.
        sessions: who is signed in.
        attempts: how often signing in was tried.
        undertakings: what is being done to the quarantine.
        links: one-time links.
        users: who may sign in by password; None: links are the way.
    """

    config: Config
    spool: Spool
    pages: LedgerPages
    history: History
    looking: Looking
    sessions: Sessions
    attempts: Attempts
    undertakings: Undertakings
    links: Links
    users: Users | None


def services() -> Services:
    """Those of the app that answers this request."""
    found = current_app.extensions[KEY]
    assert isinstance(found, Services)  # noqa: S101 - for the type checker
    return found
