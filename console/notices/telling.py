"""What is told of what is seen, and when. Pure: the time is passed in, nothing is sent from here.

    unseen ──there──▶ WAITING ──there for its hold──▶ TOLD ──gone for its calm──▶ over, and told so
                        │                              │ ▲
                        └──gone for a while──▶ unseen  └─┘ repeated every repeat_seconds

Several things that come together are one notice: the first that is due waits a moment for others, and between two
notices there is a minute at least. Trouble that comes back within an hour has to be gone for twice as long as the last
time before it is called over: what flaps becomes one long trouble. A moment that is still to come, since the clock was
set back, counts as now.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from console.notices.signs import Level, Sign
from console.overview import Severity

_GATHER_SECONDS = 10.0
_BETWEEN_SECONDS = 60.0  # from one notice to the next
_CALM_SECONDS = 60.0  # gone for so long, trouble is over
_LONGEST_CALM_SECONDS = 1800.0
_FLAP_SECONDS = 3600.0  # what comes back within this time flaps


class Change(StrEnum):
    """What is said of one trouble."""

    NEW = "new"
    """It has come up."""
    LASTING = "lasting"
    """It is still there."""
    OVER = "over"
    """It is over."""


@dataclass(frozen=True, slots=True)
class Line:
    """What a notice says of one trouble.

    Attributes:
        key: the word for it.
        change: what is said.
        severity: how bad it is, or was.
        title: what it is, in a few constant words.
        text: what it is, in a sentence.
        advice: what can be done; empty when it is over.
        since: when it was seen first.
    """

    key: str
    change: Change
    severity: Severity
    title: str
    text: str
    advice: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Notice:
    """One message to people.

    Attributes:
        id: of this notice, for whoever gets it twice.
        at: when it was made.
        lines: what it says, the new before the lasting before what is over.
    """

    id: str
    at: datetime
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What is remembered of one trouble.

    Attributes:
        since: when it was seen first.
        sign: how it was when it was there last.
        told_at: when it was told last; None: it was not yet.
        gone_at: since when it is gone; None: it is there, or between.
        calm: seconds for which it has to be gone before it is over.
        over_at: when it was called over; remembered for an hour.
    """

    since: datetime
    sign: Sign
    told_at: datetime | None = None
    gone_at: datetime | None = None
    calm: float = _CALM_SECONDS
    over_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """All that is remembered: each trouble by its word, and when something was said last."""

    seen: Mapping[str, Seen] = field(default_factory=dict)
    last_at: datetime | None = None


def step(told: Told, signs: Mapping[str, Sign], now: datetime, repeat_seconds: float) -> tuple[Told, Notice | None]:
    """Take in what is seen now.

    Args:
        told: what is remembered.
        signs: what is seen, by the word for each trouble; what is missing is gone.
        now: the moment.
        repeat_seconds: how often trouble that lasts is said again.

    Returns:
        What is to be remembered, and what is to be said now, if anything is.
    """
    last_at = min(told.last_at, now) if told.last_at else None
    seen: dict[str, Seen] = {}
    for key in told.seen.keys() | signs.keys():
        before = told.seen.get(key)
        kept = _look(_not_to_come(before, now) if before else None, signs.get(key), now)
        if kept is not None:
            seen[key] = kept
    due = {key: moment for key, one in seen.items() if (moment := _due(one, repeat_seconds)) and moment[1] <= now}
    if not due or not _may_tell(last_at, min(moment for _, moment in due.values()), now):
        return Told(seen, last_at), None
    if any(change is Change.LASTING for change, _ in due.values()):
        # One reminder is for all that lasts: from now on they are due together.
        due |= {key: (Change.LASTING, now) for key, one in seen.items() if key not in due and _lasts(one)}
    lines = [_line(key, change, seen[key]) for key, (change, _) in due.items()]
    for key, (change, _) in due.items():
        if change is Change.OVER:
            seen[key] = replace(seen[key], told_at=None, gone_at=None, over_at=now)
        else:
            seen[key] = replace(seen[key], told_at=now)
    lines.sort(key=lambda line: (list(Change).index(line.change), list(Severity).index(line.severity), line.key))
    return Told(seen, now), Notice(uuid.uuid4().hex, now, tuple(lines))


def _look(one: Seen | None, sign: Sign | None, now: datetime) -> Seen | None:
    """What is remembered of one trouble after it was looked at."""
    if sign is not None and sign.level is Level.THERE:
        return _there(one, sign, now)
    if one is None:
        return None
    if one.over_at is not None:
        return None if _passed(one.over_at, now, _FLAP_SECONDS) else one
    if sign is not None and sign.level is Level.BETWEEN:
        return replace(one, gone_at=None)
    gone_at = one.gone_at or now
    if one.told_at is None and _passed(gone_at, now, min(one.sign.hold, _CALM_SECONDS)):
        return None  # gone before it was told
    return replace(one, gone_at=gone_at)


def _there(one: Seen | None, sign: Sign, now: datetime) -> Seen:
    if one is None:
        return Seen(now, sign)
    if one.over_at is None:
        return replace(one, sign=sign, gone_at=None)
    flaps = not _passed(one.over_at, now, _FLAP_SECONDS)
    return Seen(now, sign, calm=min(one.calm * 2, _LONGEST_CALM_SECONDS) if flaps else _CALM_SECONDS)


def _due(one: Seen, repeat_seconds: float) -> tuple[Change, datetime] | None:
    """What is to be said of a trouble next, and when."""
    if one.over_at is not None:
        return None
    if one.told_at is None:
        return None if one.gone_at is not None else (Change.NEW, _after(one.since, one.sign.hold))
    if one.gone_at is not None:
        return Change.OVER, _after(one.gone_at, one.calm)
    return Change.LASTING, _after(one.told_at, repeat_seconds)


def _lasts(one: Seen) -> bool:
    return one.told_at is not None and one.gone_at is None


def _may_tell(last_at: datetime | None, first: datetime, now: datetime) -> bool:
    return _passed(first, now, _GATHER_SECONDS) and (last_at is None or _passed(last_at, now, _BETWEEN_SECONDS))


def _not_to_come(one: Seen, now: datetime) -> Seen:
    """The same without a moment that is still to come."""
    return replace(
        one,
        since=min(one.since, now),
        told_at=min(one.told_at, now) if one.told_at else None,
        gone_at=min(one.gone_at, now) if one.gone_at else None,
        over_at=min(one.over_at, now) if one.over_at else None,
    )


def _after(moment: datetime, seconds: float) -> datetime:
    return datetime.fromtimestamp(moment.timestamp() + seconds, moment.tzinfo)


def _passed(moment: datetime, now: datetime, seconds: float) -> bool:
    return (now - moment).total_seconds() >= seconds


def _line(key: str, change: Change, one: Seen) -> Line:
    sign = one.sign
    advice = "" if change is Change.OVER else sign.advice
    return Line(key, change, sign.severity, sign.title, sign.text, advice, one.since)
