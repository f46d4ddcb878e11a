"""How the page says things: sizes, times, states and causes."""

from datetime import UTC, datetime

from common.records import Cause, Event, State

CAUSES = {
    Cause.NONE: ("no cause is known", "Look at its time line."),
    Cause.NOT_DICOM: ("no DICOM file", "Discard it; it is nothing that an archive takes."),
    Cause.TRUNCATED: ("ends in the middle", "Copy or send it again, then discard this one."),
    Cause.NOT_STORABLE: ("no storable instance", "Discard it; of a DICOMDIR, drop the files that it lists."),
    Cause.UNREADABLE: ("cannot be read", "Look at the detail; copy or send it again."),
    Cause.NOT_A_FILE: ("no file, but a link or device", "Discard it and drop the file itself."),
    Cause.REFUSED: ("refused by the archive", "Read its answer; mend the archive or the device, then release."),
    Cause.TOO_LARGE: ("too large for the archive", "Raise the limit of the archive or the proxy, then release."),
    Cause.CONFLICT: ("in conflict with another instance", "Look in the archive for another instance of that UID."),
    Cause.UNCONFIRMED: ("never confirmed by the archive", "Look whether the archive has it, then release or discard."),
    Cause.GAVE_UP: ("given up after many attempts", "Read the time line; mend the cause, then release."),
    Cause.DUPLICATE: ("was in the archive already", ""),
    Cause.WARNING: ("stored with a warning", ""),
}
"""What a cause means, and what to do."""

STATES = {
    State.INCOMING: "waiting",
    State.SENT: "sent",
    State.QUARANTINE: "in quarantine",
    State.REMOVED: "removed",
}
EVENTS = {
    Event.RECEIVED: "Received",
    Event.ADOPTED: "Found without a row, and entered",
    Event.ATTEMPT: "Attempt failed",
    Event.SENT: "Sent: the archive named it as stored",
    Event.QUARANTINED: "Put into quarantine",
    Event.RELEASED: "Released, to be tried again",
    Event.REMOVED: "Removed",
}
_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")


def size(count: float) -> str:
    """Bytes, in the unit that fits: 1.2 MB."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 or count >= 99.5 else f"{count:.1f} {_UNITS[unit]}"


def number(count: int) -> str:
    """A count with its thousands apart."""
    return f"{count:,}"


def duration(seconds: float) -> str:
    """A while, in its two largest units: 3 min 20 s."""
    if seconds < 1:
        return "less than a second" if seconds > 0 else "no time"
    parts: list[str] = []
    for name, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(int(seconds), length)
        if count or parts:
            parts.append(f"{count} {name}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))


def moment(when: str | datetime | None) -> str:
    """A time, as the clock of this machine shows it: 2026-11-24 14:03:12."""
    found = _datetime(when)
    return found.astimezone().strftime("%Y-%m-%d %H:%M:%S") if found else ""


def clock(when: str | datetime | None) -> str:
    """The time of the day: 14:03."""
    found = _datetime(when)
    return found.astimezone().strftime("%H:%M") if found else ""


def zone() -> str:
    """The time zone of this machine, and its distance from UTC: CET, UTC+01:00."""
    now = datetime.now().astimezone()
    name, distance = now.strftime("%Z"), now.strftime("%z")
    return "UTC" if name == "UTC" else f"{name}, UTC{distance[:3]}:{distance[3:]}"


def stamp(when: str | datetime | None) -> str:
    """A time for machines, UTC."""
    found = _datetime(when)
    return found.astimezone(UTC).isoformat(timespec="seconds") if found else ""


def _datetime(when: str | datetime | None) -> datetime | None:
    if not when:
        return None
    try:
        return datetime.fromisoformat(when) if isinstance(when, str) else when
    except ValueError:
        return None


def sentence(text: str) -> str:
    """A text beginning with a capital letter."""
    return text[:1].upper() + text[1:]


def cause(word: Cause | str) -> str:
    """What a cause means."""
    return CAUSES[Cause(word)][0]


def advice(word: Cause | str) -> str:
    """What to do about a cause."""
    return CAUSES[Cause(word)][1]


def state(word: State | str) -> str:
    """What a state is called."""
    return STATES[State(word)]


def event(word: Event | str) -> str:
    """What happened, in words."""
    return EVENTS[Event(word)]


FILTERS = {
    "size": size,
    "number": number,
    "duration": duration,
    "moment": moment,
    "clock": clock,
    "stamp": stamp,
    "sentence": sentence,
    "cause": cause,
    "advice": advice,
    "state": state,
    "event": event,
}
