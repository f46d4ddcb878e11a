"""How fast it goes: what came and went within the last minutes, for one look at it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from common.ledger_reader import LedgerReader
from common.records import Event, utc_text

WINDOW = timedelta(minutes=5)
_MOST_EVENTS = 50_000  # read for one look; at a higher rate the window is shorter


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened within so many seconds.

    Attributes:
        seconds: the window.
        received: instances that came, by C-STORE or by hand.
        received_bytes: of them.
        sent: instances that were sent.
        sent_bytes: of them.
        quarantined: instances that went to quarantine.
        mean_seconds: from being received to being sent; None if nothing was sent.
    """

    seconds: float
    received: int = 0
    received_bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0
    quarantined: int = 0
    mean_seconds: float | None = None


def rates(reader: LedgerReader, now: datetime) -> Rates:
    """The last minutes.

    Raises:
        LedgerError: the ledger cannot be read now.
    """
    last = reader.last_event()
    begun = now - WINDOW
    after = reader.first_event_since(utc_text(begun)) - 1
    if last - after > _MOST_EVENTS:
        after = last - _MOST_EVENTS
    pieces = reader.activity(after, last)
    if pieces and last - after == _MOST_EVENTS:
        begun = datetime.fromisoformat(pieces[0].minute).replace(tzinfo=UTC)
    came = [piece for piece in pieces if piece.event in {Event.RECEIVED, Event.ADOPTED}]
    sent = [piece for piece in pieces if piece.event is Event.SENT]
    count = sum(piece.count for piece in sent)
    return Rates(
        seconds=max((now - begun).total_seconds(), 1.0),
        received=sum(piece.count for piece in came),
        received_bytes=sum(piece.size_bytes for piece in came),
        sent=count,
        sent_bytes=sum(piece.size_bytes for piece in sent),
        quarantined=sum(piece.count for piece in pieces if piece.event is Event.QUARANTINED),
        mean_seconds=sum(piece.seconds for piece in sent) / count if count else None,
    )
