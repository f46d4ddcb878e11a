"""Searching all that ever came: by patient ID, UID, sender, time and state.

What is searched for stays out of the address: a random word stands for it there, known to this session alone.
"""

from collections.abc import Mapping
from datetime import datetime

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from common.ledger_reader import Query
from common.records import Row, State, utc_text
from console.web.guard import current, needs_person
from console.web.services import services

blueprint = Blueprint("search", __name__)

PAGE = 100
_FIELDS = ("patient_id", "uid", "calling_ae_title", "state", "since", "until")


@blueprint.get("/search")
@needs_person
def show() -> str:
    """The form, and what was found."""
    session = current()
    word = request.args.get("q", "")
    asked = services().sessions.recall(session, word) if session and word else None
    before = request.args.get("before", "")
    rows: list[Row] | None = None
    problems: list[str] = []
    if asked is not None:
        query, problems = query_of(asked)
        if not problems:
            rows = services().pages.search(
                query, limit=PAGE + 1, before=int(before) if before.isdecimal() and len(before) < 19 else None
            )
    return render_template(
        "search.html",
        asked=asked or {},
        rows=rows[:PAGE] if rows is not None else None,
        older=rows[PAGE - 1].id if rows is not None and len(rows) > PAGE else None,
        first=not before,
        word=word,
        forgotten=bool(word) and asked is None,
        problems=problems,
        states=list(State),
    )


@blueprint.post("/search")
@needs_person
def search() -> Response:
    """Take what is searched for, and show what is found."""
    session = current()
    asked = {name: value for name in _FIELDS if (value := request.form.get(name, "").strip()[:200])}
    if session is None or not asked:
        return redirect(url_for("search.show"), 303)
    return redirect(url_for("search.show", q=services().sessions.remember(session, asked)), 303)


def query_of(asked: Mapping[str, str]) -> tuple[Query, list[str]]:
    """The query of what was typed, and what is wrong with it."""
    problems: list[str] = []
    times = {}
    for name, label in (("since", "From"), ("until", "To")):
        times[name] = ""
        if text := asked.get(name, ""):
            try:
                # As the clock of this machine shows it, which is what the page shows too.
                times[name] = utc_text(datetime.fromisoformat(text).astimezone())
            except (ValueError, OverflowError, OSError):
                problems.append(f"{label}: expected a date, or a date and a time, such as 2026-11-24T14:00.")
    state = asked.get("state", "")
    patient_id = asked.get("patient_id", "")
    if patient_id == "*":
        problems.append("Patient ID: expected at least one character before the *.")
    query = Query(
        state=State(state) if state in set(State) else None,
        uid=asked.get("uid", ""),
        patient_id=patient_id,
        calling_ae_title=asked.get("calling_ae_title", ""),
        since=times["since"],
        until=times["until"],
    )
    return query, problems
