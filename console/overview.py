"""One look at all of it: what is received, waiting, sent, in quarantine; who lives; the destination; the disk; trouble.

The command line, the page, the metrics and the notices are made of this, so that they never disagree.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from common.config import Config
from common.errors import LedgerError
from common.ledger_reader import Heap, LedgerReader
from common.presence import Process, processes
from common.records import Cause, State, Transfer

_SILENT_SECONDS = 20.0
_OLD_SECONDS = 900.0


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Something does not work."""
    WARNING = "warning"
    """Somebody should look at it."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is not well.

    Attributes:
        key: a fixed word for it.
        severity: how bad it is.
        text: what it is, in a sentence without patient data.
        advice: what can be done about it.
    """

    key: str
    severity: Severity
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class DestinationView:
    """The state of the destination, as the uploaders tell it.

    Attributes:
        url: its root.
        mode: open, doubted, paused; unknown if no uploader lives.
        reason: of the last trouble, in words; empty if there is none.
        http_status: of the last trouble.
        since: when this mode began.
        next_probe_at: when it is tried again.
    """

    url: str
    mode: str = "unknown"
    reason: str = ""
    http_status: int | None = None
    since: datetime | None = None
    next_probe_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """The spool's filesystem: its size, what an ordinary user can still write, and what must stay free; bytes."""

    size_bytes: int
    free_bytes: int
    min_free: int


@dataclass(frozen=True, slots=True)
class Overview:
    """How all of it is at one moment.

    Attributes:
        at: the moment.
        heaps: by state; empty if the ledger cannot be read.
        causes: what is in quarantine, by cause.
        oldest_waiting: when the oldest instance that is owed was received.
        transfers: requests under way for long, by the name of their first file.
        processes: those that live.
        destination: its state.
        disk: None if it cannot be asked.
        ledger_error: why the ledger cannot be read; empty if it can.
        troubles: what is not well, the worst first; empty: all is well.
    """

    at: datetime
    destination: DestinationView
    heaps: Mapping[State, Heap] = field(default_factory=dict)
    causes: Mapping[Cause, Heap] = field(default_factory=dict)
    oldest_waiting: datetime | None = None
    transfers: Mapping[str, Transfer] = field(default_factory=dict)
    processes: tuple[Process, ...] = ()
    disk: Disk | None = None
    ledger_error: str = ""
    troubles: tuple[Trouble, ...] = ()

    def of_role(self, role: str) -> tuple[Process, ...]:
        """The living processes of a role."""
        return tuple(process for process in self.processes if process.role == role)


def look(config: Config, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Overview:
    """Look at all of it. Never raises: what cannot be read is trouble, and told."""
    at = now()
    directory = config.spool.directory
    reader = LedgerReader(directory / "ledger.db")
    heaps: Mapping[State, Heap] = {}
    causes: Mapping[Cause, Heap] = {}
    transfers: Mapping[str, Transfer] = {}
    ledger_error = ""
    try:
        heaps, causes, transfers = reader.heaps(), reader.quarantine_causes(), reader.transfers()
    except LedgerError as error:
        ledger_error = str(error)
    try:
        living = tuple(processes(directory))
    except OSError:
        living = ()
    oldest = heaps[State.INCOMING].oldest if heaps else ""
    overview = Overview(
        at=at,
        destination=_destination(config, living),
        heaps=heaps,
        causes=causes,
        oldest_waiting=datetime.fromisoformat(oldest) if oldest else None,
        transfers=transfers,
        processes=living,
        disk=_disk(config),
        ledger_error=ledger_error,
    )
    return _with_troubles(overview)


def _destination(config: Config, living: tuple[Process, ...]) -> DestinationView:
    """What the uploaders say; the worst of it if they disagree."""
    uploaders = [process.facts for process in living if process.role == "uploader"]
    # One that has nothing to probe with stays paused until something comes; what another found out counts more.
    asked = [facts for facts in uploaders if facts.get("waiting")] if len(uploaders) > 1 else uploaders
    views = [_view(config.destination.url, facts) for facts in asked or uploaders]
    if not asked and any(view.mode == "open" for view in views):
        views = [view for view in views if view.mode == "open"]
    order = ["paused", "doubted", "open", "unknown"]
    return min(views, key=lambda view: order.index(view.mode), default=DestinationView(config.destination.url))


def _view(url: str, facts: Mapping[str, Any]) -> DestinationView:
    said = facts.get("destination")
    if not isinstance(said, dict) or said.get("mode") not in {"open", "doubted", "paused"}:
        return DestinationView(url)
    return DestinationView(
        url=url,
        mode=str(said["mode"]),
        reason=str(said.get("reason") or ""),
        http_status=said.get("http_status"),
        since=_moment(said.get("since")),
        next_probe_at=_moment(said.get("next_probe_at")),
    )


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _disk(config: Config) -> Disk | None:
    try:
        status = os.statvfs(config.spool.directory)
    except OSError:
        return None
    return Disk(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize, config.spool.min_free)


def _with_troubles(overview: Overview) -> Overview:
    troubles = sorted(_troubles(overview), key=lambda trouble: list(Severity).index(trouble.severity))
    return Overview(
        **{name: getattr(overview, name) for name in Overview.__dataclass_fields__ if name != "troubles"},
        troubles=tuple(troubles),
    )


def _troubles(overview: Overview) -> list[Trouble]:
    troubles: list[Trouble] = []

    def add(key: str, severity: Severity, text: str, advice: str) -> None:
        troubles.append(Trouble(key, severity, text, advice))

    if overview.disk is None:
        add("spool", Severity.ERROR, "The spool directory cannot be read.", "Look at [spool] directory and its disk.")
    elif overview.disk.free_bytes < overview.disk.min_free:
        add(
            "disk-full",
            Severity.ERROR,
            "The disk is fuller than min_free allows: senders are answered 0xA700 and keep their instances.",
            "Make room, or wait until the archive has taken what is waiting.",
        )
    if overview.ledger_error:
        add(
            "ledger",
            Severity.ERROR,
            f"{overview.ledger_error[:1].upper()}{overview.ledger_error[1:]}.",
            "See docs/operating.md.",
        )
    for role, loss in (("receiver", "nothing is received"), ("uploader", "nothing is delivered")):
        living = overview.of_role(role)
        if not living:
            add(f"no-{role}", Severity.ERROR, f"No {role} is running: {loss}.", "Start it, and read its log.")
        silent = [one for one in living if (overview.at - one.seen_at).total_seconds() > _SILENT_SECONDS]
        if silent:
            pids = ", ".join(str(one.pid) for one in silent)
            add(
                f"silent-{role}",
                Severity.ERROR,
                f"A {role} lives but says nothing (pid {pids}).",
                "Read its log; restart it.",
            )
    destination = overview.destination
    if destination.mode == "paused":
        said = f"HTTP {destination.http_status}"
        status = f" ({said})" if destination.http_status and said not in destination.reason else ""
        add(
            "paused",
            Severity.ERROR,
            f"The destination is paused{status}: {destination.reason or 'no reason is known'}.",
            "Nothing is lost; delivery resumes by itself. Probe now once the cause is mended.",
        )
    waiting = overview.oldest_waiting
    late = waiting is not None and (overview.at - waiting).total_seconds() > _OLD_SECONDS
    if late and destination.mode != "paused" and overview.of_role("uploader"):
        add("old", Severity.WARNING, "Instances wait for longer than a quarter of an hour.", "See what is waiting.")
    quarantined = overview.heaps.get(State.QUARANTINE, Heap()).instances
    if quarantined:
        what = "1 instance is" if quarantined == 1 else f"{quarantined:,} instances are"
        add("quarantine", Severity.WARNING, f"{what} in quarantine.", "See why; release or discard.")
    return troubles
