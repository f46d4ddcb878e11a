"""The overview for many who look at once, and how long the queue was over time.

A look costs the same whoever asks for it, so that it is shared for a second, or longer where it takes long; and every
few seconds the depth and age of the queue are noted, since no ledger tells how long it was an hour ago.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from common.config import Config
from common.records import State
from console.overview import Overview, look

_FRESH_SECONDS = 1.0
_AT_MOST = 0.2  # of the time is spent on looking
_NOTE_SECONDS = 10.0
_KEPT = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Depth:
    """How long the queue was at a moment: instances that waited, and for how many seconds the oldest of them had."""

    at: datetime
    waiting: int
    oldest_seconds: float


class Looking:
    """Looks for everybody. Safe to use from several threads.

    Args:
        config: what is looked at.
        look: how.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        config: Config,
        look: Callable[[Config], Overview] = look,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Overview | None = None
        self._until = 0.0
        self._depths: deque[Depth] = deque(maxlen=int(_KEPT.total_seconds() / _NOTE_SECONDS) + 1)

    def overview(self, *, fresh: bool = False) -> Overview:
        """How all of it is, as of a second ago or of now."""
        with self._lock:
            begun = self._clock()
            if fresh or self._last is None or begun >= self._until:
                self._last = self._look(self._config)
                ended = self._clock()
                self._until = ended + max(_FRESH_SECONDS, (ended - begun) / _AT_MOST)
            return self._last

    def run(self, stopped: threading.Event) -> None:
        """Note the depth of the queue until stopped."""
        while True:
            self.note()
            if stopped.wait(_NOTE_SECONDS):
                return

    def note(self) -> None:
        """Note the depth of the queue now, if it can be told."""
        overview = self.overview()
        if overview.ledger_error:
            return
        oldest = overview.oldest_waiting
        age = max((overview.at - oldest).total_seconds(), 0.0) if oldest else 0.0
        self._depths.append(Depth(overview.at, overview.heaps[State.INCOMING].instances, age))

    def depths(self, span: timedelta, now: datetime | None = None) -> list[Depth]:
        """The notes of the last while, oldest first."""
        since = (now or datetime.now(UTC)) - span
        return [one for one in tuple(self._depths) if one.at >= since]
