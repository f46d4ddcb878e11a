"""What is seen: for each kind of trouble, whether it is there, is not, or lies between. Pure.

Between the two nothing changes: what was told stays told, what was not is not begun. That is where a value lies between
the limit that raises trouble and the one that clears it, and where nothing can be known at the moment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from common.config import NotifyConfig
from console.overview import Overview, Severity

_RELIEF = 1.1  # times the limit must be free before a disk counts as relieved


class Level(Enum):
    """What is seen of one kind of trouble."""

    THERE = "there"
    """It is there."""
    BETWEEN = "between"
    """Not to be told, or not clearly gone."""
    GONE = "gone"
    """It is not there."""


@dataclass(frozen=True, slots=True)
class Sign:
    """One kind of trouble, as it is now.

    Attributes:
        level: whether it is there.
        hold: seconds for which it must be there before it is told.
        severity: how bad it is.
        title: what it is, in a few constant words.
        text: what it is, in a sentence without patient data; empty unless it is there.
        advice: what can be done about it; likewise.
    """

    level: Level
    hold: float
    severity: Severity
    title: str
    text: str = ""
    advice: str = ""


# Troubles of the overview that are told as they are: how long they must last, and their title. A restart of everything,
# or a moment in which the database is locked, is nothing to be woken for.
_FROM_OVERVIEW: Mapping[str, tuple[float, Severity, str]] = {
    "spool": (30.0, Severity.ERROR, "the spool cannot be read"),
    "ledger": (30.0, Severity.ERROR, "the ledger cannot be read"),
    "no-receiver": (60.0, Severity.ERROR, "no receiver is running"),
    "no-uploader": (60.0, Severity.ERROR, "no uploader is running"),
    "silent-receiver": (60.0, Severity.ERROR, "a receiver says nothing"),
    "silent-uploader": (60.0, Severity.ERROR, "an uploader says nothing"),
    "old": (900.0, Severity.WARNING, "instances wait for long"),
}

KEYS = frozenset((*_FROM_OVERVIEW, "disk-full", "disk-low", "paused", "quarantine-growing"))
"""The words for all kinds of trouble that are told."""


def signs(overview: Overview, quarantined: int | None, settings: NotifyConfig) -> Mapping[str, Sign]:
    """What is seen, by the word for each kind of trouble.

    Args:
        overview: how all of it is.
        quarantined: how many instances went to quarantine within the last hour; None: it is not known.
        settings: section [notify].
    """
    troubles = {trouble.key: trouble for trouble in overview.troubles}
    found: dict[str, Sign] = {}
    for key, (hold, severity, title) in _FROM_OVERVIEW.items():
        trouble = troubles.get(key)
        if trouble is not None:
            found[key] = Sign(Level.THERE, hold, trouble.severity, title, trouble.text, trouble.advice)
        else:
            found[key] = Sign(Level.GONE, hold, severity, title)
    if overview.ledger_error:
        found["old"] = Sign(Level.BETWEEN, 900.0, Severity.WARNING, "instances wait for long")
    return {
        **found,
        "paused": _paused(overview, settings.paused_seconds),
        "disk-full": _disk_full(overview),
        "disk-low": _disk_low(overview, settings.low_disk),
        "quarantine-growing": _quarantine(quarantined, settings.quarantine_per_hour),
    }


def _paused(overview: Overview, paused_seconds: float) -> Sign:
    destination = overview.destination
    title = "the destination is paused"
    if destination.mode == "open":
        return Sign(Level.GONE, 0.0, Severity.ERROR, title)
    since = destination.since
    if destination.mode != "paused" or (since and (overview.at - since).total_seconds() < paused_seconds):
        return Sign(Level.BETWEEN, 0.0, Severity.ERROR, title)
    # One that does not say since when it is paused has to be seen so for all of that time.
    hold = 0.0 if since else paused_seconds
    trouble = next(trouble for trouble in overview.troubles if trouble.key == "paused")
    return Sign(Level.THERE, hold, Severity.ERROR, title, trouble.text, trouble.advice)


def _disk_full(overview: Overview) -> Sign:
    disk, title = overview.disk, "the disk is full"
    if disk is None:
        return Sign(Level.BETWEEN, 0.0, Severity.ERROR, title)
    if disk.free_bytes >= disk.min_free:
        relieved = disk.free_bytes >= disk.min_free * _RELIEF
        return Sign(Level.GONE if relieved else Level.BETWEEN, 0.0, Severity.ERROR, title)
    text = (
        f"The disk is full: {_gb(disk.free_bytes)} are free, min_free is {_gb(disk.min_free)}. Senders are answered"
        " 0xA700 and keep their instances."
    )
    return Sign(
        Level.THERE, 0.0, Severity.ERROR, title, text, "Make room, or wait until the archive has taken what is waiting."
    )


def _disk_low(overview: Overview, low_disk: int) -> Sign:
    disk, title = overview.disk, "the disk is filling"
    if disk is None:
        return Sign(Level.BETWEEN, 0.0, Severity.WARNING, title)
    if disk.free_bytes >= low_disk:
        relieved = disk.free_bytes >= low_disk * _RELIEF
        return Sign(Level.GONE if relieved else Level.BETWEEN, 0.0, Severity.WARNING, title)
    if disk.free_bytes < disk.min_free:
        return Sign(Level.BETWEEN, 0.0, Severity.WARNING, title)  # `disk-full` says more
    text = f"The disk is filling: {_gb(disk.free_bytes)} are free for the spool, low_disk is {_gb(low_disk)}."
    return Sign(
        Level.THERE, 0.0, Severity.WARNING, title, text, "See whether the archive takes what is waiting, and make room."
    )


def _quarantine(quarantined: int | None, limit: int) -> Sign:
    title = "the quarantine is growing"
    if limit == 0:
        return Sign(Level.GONE, 0.0, Severity.WARNING, title)
    if quarantined is not None and quarantined >= limit:
        what = "1 instance" if quarantined == 1 else f"{quarantined:,} instances"
        return Sign(
            Level.THERE,
            0.0,
            Severity.WARNING,
            title,
            f"{what} went to quarantine within an hour.",
            "See by what cause.",
        )
    gone = quarantined is not None and quarantined <= limit // 2
    return Sign(Level.GONE if gone else Level.BETWEEN, 0.0, Severity.WARNING, title)


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
