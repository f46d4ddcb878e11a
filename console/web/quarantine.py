"""The quarantine as a table: sorted, filtered, by pages, and acted on.

Who is not signed in sees causes and senders, and nothing of a patient: neither IDs nor names of dropped files, and he
cannot filter by them either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from flask import Blueprint, abort, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from common.ledger_pages import Filter, Found, Sort
from common.records import Cause, Row, State, file_names
from console.web.guard import current, needs_person, person
from console.web.services import services
from console.web.undertakings import Undertaking, Verb

blueprint = Blueprint("quarantine", __name__)

PAGE = 100
_WAIT_SECONDS = 0.7
_PATIENT_SORTS = frozenset((Sort.PATIENT,))
_EXAMPLES = 10
DROPPED = "-"
"""Stands for the sender of files dropped by hand, in an address."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for: a filter, an order and a page (from 1)."""

    which: Filter
    text_word: str
    sort: Sort
    descending: bool
    page: int

    @property
    def is_filtered(self) -> bool:
        """Whether anything is left out."""
        return self.which != Filter()

    def args(self, **changes: object) -> dict[str, object]:
        """It as arguments of an address, with some changed; what is empty or as by itself is left out."""
        sender = self.which.sender
        args: dict[str, object] = {
            "cause": self.which.cause.value if self.which.cause is not None else None,
            "sender": DROPPED if sender == "" else sender,
            "study": self.which.study or None,
            "text": self.text_word or None,
            "sort": self.sort.value if self.sort is not Sort.QUARANTINED else None,
            "order": None if self.descending else "up",
            "page": self.page if self.page > 1 else None,
        }
        args.update(changes)
        return {key: value for key, value in args.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table: the ledger's, and what its sidecar says."""

    row: Row
    detail: str
    answer: str


@blueprint.get("/quarantine")
def show() -> str:
    """The page."""
    asked = _asked(request.args)
    return render_template(
        "quarantine.html",
        **_region(asked),
        senders=services().pages.senders(),
        causes=[cause for cause in Cause if cause not in {Cause.NONE, Cause.DUPLICATE, Cause.WARNING}],
        sorts=[sort for sort in Sort if person() or sort not in _PATIENT_SORTS],
        undertaking=_undertaking(request.args.get("done", "")),
    )


@blueprint.get("/live/quarantine")
def live() -> Response:
    """The table, if it is another than the one that the browser shows."""
    if request.args.get("signed") and not person():
        answer = make_response("", 401)
        answer.headers["HX-Redirect"] = url_for("signing_in.sign_in", next=url_for("quarantine.show"))
        return answer
    values = _region(_asked(request.args))
    if values["stamp"] == request.args.get("was"):
        return make_response("", 204)
    return make_response(render_template("quarantine_rows.html", **values))


@blueprint.get("/live/undertakings/<int:number>")
@needs_person
def live_undertaking(number: int) -> str:
    """How far an undertaking is."""
    one = services().undertakings.find(number)
    if one is None:
        abort(404)
    return render_template("undertaking.html", undertaking=one)


@blueprint.post("/quarantine/filter")
def filtered() -> Response:
    """Take the filter, and show the page of it: what was typed stays out of the address."""
    form = request.form
    args = {
        "cause": form.get("cause") or None,
        "sender": form.get("sender") or None,
        "study": form.get("study", "").strip() or None,
        "sort": form.get("sort") or None,
        "order": form.get("order") or None,
    }
    session, text = current(), form.get("text", "").strip()[:200]
    if session is not None and text:
        args["text"] = services().sessions.remember(session, {"text": text})
    asked = _asked({key: value for key, value in args.items() if value})
    return redirect(url_for("quarantine.show", **asked.args()), 303)  # type: ignore[arg-type]


@blueprint.post("/quarantine/act")
@needs_person
def act() -> Response:
    """Release or discard what was ticked, or all that the filter finds; what cannot be undone is asked for first."""
    form = request.form
    verb_text, _, scope = form.get("act", "").partition("-")
    if verb_text not in set(Verb) or scope not in {"", "all"}:
        abort(400, "Expected to be told to release or to discard.")
    verb = Verb(verb_text)
    asked = _asked(form)
    if scope == "all":
        upto = form.get("upto", "")
        which = replace(asked.which, upto=int(upto) if upto.isdecimal() else 0)
        labels = services().pages.names(which)
        ids: list[int] = []
    else:
        ids = [int(one) for one in form.getlist("id") if one.isdecimal() and len(one) < 19][:1000]
        rows = services().pages.by_ids(ids).values()
        labels = [row.file_name for row in rows if row.state is State.QUARANTINE]
        which = asked.which
    back = form.get("instance", "")
    target = int(back) if back.isdecimal() and len(back) < 19 else None
    if not labels:
        abort(409, "Nothing of what was chosen is in quarantine any more, or nothing was chosen. Go back and choose.")
    needs_asking = verb is Verb.DISCARD or (scope == "all" and len(labels) > 1)
    if needs_asking and form.get("sure") != "yes":
        examples = list(services().pages.by_ids(ids[:_EXAMPLES]).values()) if ids else []
        return make_response(
            render_template(
                "confirm.html",
                verb=verb,
                count=len(labels),
                ids=ids,
                act=form["act"],
                asked=asked,
                upto=which.upto,
                examples=examples,
                instance=back if target is not None else "",
            )
        )
    one = services().undertakings.start(verb, labels, person())
    one.finished.wait(_WAIT_SECONDS)
    if target is not None:
        return redirect(url_for("instance.show", number=target, done=one.id), 303)
    return redirect(url_for("quarantine.show", **asked.args(page=None, done=one.id)), 303)  # type: ignore[arg-type]


def line_of(row: Row, *, with_answer: bool) -> Line:
    """A row with what its sidecar says."""
    if not with_answer:
        return Line(row, "", "")
    quarantine = services().spool.quarantine
    reason: Mapping[str, Any] = {}
    for name in file_names(row.file_name):
        reason = reason or quarantine.read_reason(name)
    detail, answer = reason.get("detail"), reason.get("answer")
    return Line(row, detail if isinstance(detail, str) else "", answer if isinstance(answer, str) else "")


def _asked(args: Mapping[str, str]) -> Asked:
    """What a request asks for. What is no cause, no sort and so on counts as not given."""
    cause, sort = args.get("cause", ""), args.get("sort", "")
    sender = args.get("sender", "")[:64]
    word, text = args.get("text", ""), ""
    session = current()
    if session is not None and word:
        text = (services().sessions.recall(session, word) or {}).get("text", "")
    order = Sort(sort) if sort in set(Sort) else Sort.QUARANTINED
    if order in _PATIENT_SORTS and session is None:
        order = Sort.QUARANTINED
    page = args.get("page", "")
    return Asked(
        Filter(
            cause=Cause(cause) if cause in set(Cause) and cause else None,
            sender=None if not sender else "" if sender == DROPPED else sender,
            study=args.get("study", "")[:64],
            text=text,
        ),
        word if text else "",
        order,
        args.get("order") != "up",
        min(int(page), 1_000_000) if page.isdecimal() and len(page) < 8 and int(page) > 0 else 1,
    )


def _region(asked: Asked) -> dict[str, Any]:
    """What the table shows."""
    pages = services().pages
    found = pages.found(asked.which)
    last = max((found.instances + PAGE - 1) // PAGE, 1)
    asked = replace(asked, page=min(asked.page, last))
    rows = pages.quarantine(
        asked.which, asked.sort, descending=asked.descending, offset=(asked.page - 1) * PAGE, limit=PAGE
    )
    signed = bool(person())
    return {
        "asked": asked,
        "found": found,
        "last_page": last,
        "lines": [line_of(row, with_answer=signed) for row in rows],
        "stamp": _stamp(found, rows, signed=signed),
        "dropped": DROPPED,
    }


def _stamp(found: Found, rows: Sequence[Row], *, signed: bool) -> str:
    shown = (found, [(row.id, row.settled_at) for row in rows], signed)
    return blake2b(repr(shown).encode(), digest_size=8).hexdigest()


def _undertaking(number: str) -> Undertaking | None:
    if not person() or not number.isdecimal() or len(number) > 9:
        return None
    return services().undertakings.find(int(number))
