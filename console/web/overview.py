"""The overview: whether all is well, what is not, and what to do about it.

The page is made of panels. What is live asks every two seconds, saying which panel it shows in which version, and gets
those that have changed: so nothing moves under a cursor, and a screen reader hears what is new alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

from flask import Blueprint, abort, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from common import logs
from common.presence import wish_probe
from common.records import State
from console.overview import Overview, Severity, Trouble
from console.web import charts, words
from console.web.guard import needs_person, person
from console.web.services import services

log = logs.get(__name__)

blueprint = Blueprint("overview", __name__)

PANELS = (
    "verdict",
    "troubles",
    "numbers",
    "destination",
    "activity",
    "quarantined",
    "transfers",
    "machine",
)


@dataclass(frozen=True, slots=True)
class Span:
    """A while that charts show: minutes, so many of them in one point, so many points in one row of the table."""

    minutes: int
    step: int
    table_step: int


SPANS = {"hour": Span(60, 1, 5), "day": Span(1440, 15, 4)}


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel as it is now."""

    name: str
    html: str
    version: str


@blueprint.get("/")
def show() -> str:
    """The page."""
    span = _span()
    live = request.args.get("live") != "no"
    return render_template(
        "overview.html",
        panels={panel.name: panel for panel in _panels(span)},
        span=span,
        live=live,
        probed=request.args.get("probed") == "yes",
    )


@blueprint.get("/live/overview")
def live() -> Response:
    """The panels that have changed since those that the browser shows."""
    shown = set(request.args.getlist("was"))
    changed = [panel for panel in _panels(_span()) if f"{panel.name}:{panel.version}" not in shown]
    if not changed:
        return make_response("", 204)
    return make_response(render_template("live.html", panels=changed))


@blueprint.post("/probe")
@needs_person
def probe() -> Response:
    """Have the destination probed now."""
    try:
        wish_probe(services().spool.directory)
    except OSError as error:
        abort(503, f"The wish cannot be written: {error.strerror}.")
    log.info("probe asked for", by=person())
    return redirect(url_for("overview.show", probed="yes"), 303)


def verdict(troubles: tuple[Trouble, ...]) -> str:
    """Whether all is well, in one sentence."""
    if not troubles:
        return "All is well."
    first = troubles[0].text
    for end in (": ", " ("):
        first = first.partition(end)[0]
    first = first.rstrip(".")
    count = len(troubles) - 1
    more = "" if not count else f", and {count} more thing{'s' if count > 1 else ''} to see"
    begin = "Not all is well" if troubles[0].severity is Severity.ERROR else "It works, but look"
    return f"{begin}: {first[:1].lower()}{first[1:]}{more}."


def _span() -> str:
    span = request.args.get("span", "hour")
    return span if span in SPANS else "hour"


def _panels(span: str) -> list[Panel]:
    values = _values(services().looking.overview(), span)
    panels = []
    for name in PANELS:
        html = render_template(f"panels/{name}.html", **values)
        panels.append(Panel(name, html, blake2b(html.encode(), digest_size=6).hexdigest()))
    return panels


def _values(overview: Overview, span: str) -> Mapping[str, Any]:
    """What the panels show."""
    now = datetime.now(UTC)
    width = SPANS[span]
    history = services().history
    hour = charts.merged(history.minutes(60), 60)[0]
    # Without the minute that has only begun: a line that always falls at its end says nothing.
    minutes = charts.merged(history.minutes(width.minutes + 1)[:-1], width.step)
    waiting = overview.heaps.get(State.INCOMING)
    return {
        "overview": overview,
        "verdict": verdict(overview.troubles),
        "worst": overview.troubles[0].severity.value if overview.troubles else "well",
        "now": now,
        "span": span,
        "hour": hour,
        "waiting": waiting,
        "oldest_seconds": _age(overview.at, overview.oldest_waiting),
        "charts": (
            charts.throughput(minutes, width.table_step, words.clock),
            charts.latency(minutes, width.table_step, words.clock),
            charts.depth(
                services().looking.depths(timedelta(minutes=width.minutes)),
                [one.at for one in minutes],
                width.table_step,
                words.clock,
            ),
        ),
        "box": (charts.WIDTH, charts.HEIGHT),
        "transfers": [
            (
                name if person() else logs.file_label(name),
                one,
                round(100 * one.sent_bytes / one.size_bytes) if one.size_bytes else 100,
                int((overview.at - one.moved_at).total_seconds()),
            )
            for name, one in overview.transfers.items()
        ],
        "probe_seconds": _age(overview.destination.next_probe_at, overview.at),
        "since_seconds": _age(overview.at, overview.destination.since),
        "disk_percent": _used(overview),
        "person": person(),
    }


def _age(later: datetime | None, earlier: datetime | None) -> int | None:
    if later is None or earlier is None:
        return None
    return max(int((later - earlier).total_seconds()), 0)


def _used(overview: Overview) -> int:
    disk = overview.disk
    return round(100 * (1 - disk.free_bytes / disk.size_bytes)) if disk and disk.size_bytes else 0
