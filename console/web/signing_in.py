"""Signing in, by name and password or by a one-time link, and signing out."""

import math

from flask import Blueprint, abort, make_response, redirect, render_template, request, session, url_for
from werkzeug.exceptions import TooManyRequests
from werkzeug.wrappers import Response

from common import logs
from console.users import MOST_CHARACTERS, UsersError
from console.web.guard import current, safe_next
from console.web.services import services

log = logs.get(__name__)

blueprint = Blueprint("signing_in", __name__)

_MOST_TOKEN = 1000


@blueprint.get("/sign-in")
def sign_in() -> Response:
    """The form."""
    return _form()


@blueprint.post("/sign-in", endpoint="sign_in_post")
def sign_in_post() -> Response:
    """Sign in, and go where one wanted to."""
    address = request.remote_addr or ""
    attempts = services().attempts
    if (seconds := attempts.wait_seconds(address)) > 0:
        log.warning("too many attempts to sign in", peer=address)
        raise TooManyRequests(
            f"Too many attempts to sign in failed. Try again in {math.ceil(seconds / 60)} minutes.",
            retry_after=math.ceil(seconds),
        )
    attempts.begin(address)
    found = _by_password() if services().users else _by_link()
    if found is None:
        log.warning("signing in failed", peer=address)
        return _form(failed=True)
    attempts.succeeded(address)
    services().sessions.close(session.get("id"))
    session.clear()  # another session, another token against CSRF
    session["id"] = services().sessions.open(*found)
    log.info("signed in", by=found[0], peer=address)
    return redirect(safe_next(request.form.get("next", "")), 303)


@blueprint.post("/sign-out")
def sign_out() -> Response:
    """Sign out for good."""
    if (found := current()) is not None:
        log.info("signed out", by=found.person)
    services().sessions.close(session.get("id"))
    session.clear()
    return redirect(url_for("signing_in.sign_in"), 303)


def _by_password() -> tuple[str, str] | None:
    users = services().users
    name, password = request.form.get("name", "")[:100], request.form.get("password", "")
    if users is None or not name or len(password) > MOST_CHARACTERS:
        return None
    try:
        mark = users.check(name, password)
    except UsersError as error:
        log.error("nobody can sign in", reason=str(error))
        abort(503, "Nobody can sign in now: the log of the console says why.")
    return None if mark is None else (name, mark)


def _by_link() -> tuple[str, str] | None:
    token = request.form.get("token", "").strip()
    # The whole link may have been pasted.
    token = token.rpartition("#")[2]
    person = services().links.redeem(token) if 0 < len(token) <= _MOST_TOKEN else None
    return None if person is None else (person, "")


def _form(*, failed: bool = False) -> Response:
    target = request.values.get("next", "")
    page = render_template(
        "sign_in.html", by_password=services().users is not None, failed=failed, next=target and safe_next(target)
    )
    return make_response(page, 403 if failed else 200)
