"""What happened over time: throughput and latency by minute, and totals since the console began to look.

Follows the ledger's events by their ids, so that each is counted once and nothing is asked twice. The last day is read
backwards at the start, in pieces, the newest first; totals count only what came after the start, as a counter that
begins anew with its process does.
"""

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from common import logs
from common.errors import LedgerError
from common.ledger_reader import LATENCIES, Activity, LedgerReader
from common.records import Event, utc_text

log = logs.get(__name__)

KEPT = timedelta(hours=24)
_PIECE = 20_000  # events in one question
_MOST_EVENTS = 2_000_000  # of the past that are read at the start
_EVERY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute.

    Attributes:
        at: its beginning, an aware datetime.
        received: instances that came, by C-STORE or by hand.
        received_bytes: of them.
        sent: instances that were sent.
        sent_bytes: of them.
        quarantined: instances that went to quarantine.
        seconds: from being received to being sent, summed up over those that were sent.
        within: how many of those took no longer than each of LATENCIES.
    """

    at: datetime
    received: int = 0
    received_bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    within: tuple[int, ...] = (0,) * len(LATENCIES)


@dataclass(frozen=True, slots=True)
class Total:
    """All events of one kind and cause since the console began to look."""

    count: int = 0
    size_bytes: int = 0
    seconds: float = 0.0
    within: tuple[int, ...] = (0,) * len(LATENCIES)


class History:
    """Follows one ledger. Safe to use from several threads.

    Args:
        reader: the ledger.
    """

    def __init__(self, reader: LedgerReader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._minutes: dict[str, list[Activity]] = defaultdict(list)
        self._totals: dict[tuple[Event, str], Total] = {}
        self._last: int | None = None
        self._before: int | None = None  # events up to this id are of the past, and still to be read
        self._oldest = 0

    def run(self, stopped: threading.Event) -> None:
        """Follow until stopped."""
        while True:
            try:
                self.follow()
                while self.look_back() and not stopped.is_set():
                    self.follow()
            except LedgerError as error:
                log.debug("activity not read", reason=str(error))
            if stopped.wait(_EVERY_SECONDS):
                return

    def follow(self) -> None:
        """Take in the events since the last time.

        Raises:
            LedgerError: the ledger cannot be read now; nothing is missed by that.
        """
        last = self._reader.last_event()
        if self._last is None or last < self._last:
            # The first time; or the ledger was lost, and begins anew.
            since = utc_text(datetime.now(UTC) - KEPT)
            self._oldest = max(self._reader.first_event_since(since) - 1, last - _MOST_EVENTS, 0)
            self._before = self._last = last
            return
        while self._last < last:
            upto = min(last, self._last + _PIECE)
            self._take(self._reader.activity(self._last, upto), new=True)
            self._last = upto

    def look_back(self) -> bool:
        """Take in one piece of the past; False if there is none left.

        Raises:
            LedgerError: the ledger cannot be read now.
        """
        if self._before is None or self._before <= self._oldest:
            return False
        after = max(self._before - _PIECE, self._oldest)
        self._take(self._reader.activity(after, self._before), new=False)
        self._before = after
        return True

    def _take(self, pieces: Sequence[Activity], *, new: bool) -> None:
        with self._lock:
            for piece in pieces:
                self._minutes[piece.minute].append(piece)
                if new:
                    key = piece.event, piece.cause
                    self._totals[key] = _added(self._totals.get(key, Total()), piece)
            oldest = utc_text(datetime.now(UTC) - KEPT)[:16]
            for minute in [minute for minute in self._minutes if minute < oldest]:
                del self._minutes[minute]
            for minute, parts in self._minutes.items():
                if len(parts) > 60:
                    self._minutes[minute] = _merged(parts)

    def totals(self) -> dict[tuple[Event, str], Total]:
        """What happened since the start, by event and cause."""
        with self._lock:
            return dict(self._totals)

    def minutes(self, count: int, now: datetime | None = None) -> list[Minute]:
        """The last `count` minutes, oldest first, with those in which nothing happened; the last one has only begun."""
        end = (now or datetime.now(UTC)).replace(second=0, microsecond=0)
        found = []
        with self._lock:
            for back in range(count - 1, -1, -1):
                at = end - timedelta(minutes=back)
                found.append(_minute(at, self._minutes.get(utc_text(at)[:16], ())))
        return found


def _minute(at: datetime, parts: Sequence[Activity]) -> Minute:
    came = [part for part in parts if part.event in {Event.RECEIVED, Event.ADOPTED}]
    sent = [part for part in parts if part.event is Event.SENT]
    return Minute(
        at=at,
        received=sum(part.count for part in came),
        received_bytes=sum(part.size_bytes for part in came),
        sent=sum(part.count for part in sent),
        sent_bytes=sum(part.size_bytes for part in sent),
        quarantined=sum(part.count for part in parts if part.event is Event.QUARANTINED),
        seconds=sum(part.seconds for part in sent),
        within=_summed([part.within for part in sent]),
    )


def _summed(counts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*counts, strict=True))) if counts else (0,) * len(LATENCIES)


def _added(total: Total, piece: Activity) -> Total:
    return Total(
        total.count + piece.count,
        total.size_bytes + piece.size_bytes,
        total.seconds + piece.seconds,
        _summed([total.within, piece.within]),
    )


def _merged(parts: Sequence[Activity]) -> list[Activity]:
    """The same with one entry for each event and cause."""
    totals: dict[tuple[Event, str], Total] = {}
    for part in parts:
        key = part.event, part.cause
        totals[key] = _added(totals.get(key, Total()), part)
    return [
        Activity(parts[0].minute, event, cause, total.count, total.size_bytes, total.seconds, total.within)
        for (event, cause), total in totals.items()
    ]
