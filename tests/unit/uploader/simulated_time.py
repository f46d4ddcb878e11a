"""The uploader's parts with a clock that jumps to the next thing that happens, so that a week takes seconds.

Scheduler, backlog, destination, delivery, ledger, spool and scan are the real ones; the scheduler's queue is where it
sleeps, and there the time goes by. Requests take no time.
"""

import heapq
import itertools
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from uploader_fakes import Gateway

from common.ledger import Ledger
from uploader.multipart import Part

_BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass
class Clock:
    """The time, and what will happen at which time.

    Attributes:
        monotonic: in seconds.
        wall_offset: what the wall clock is wrong by.
    """

    monotonic: float = 0.0
    wall_offset: timedelta = timedelta()
    _agenda: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _number: "itertools.count[int]" = field(default_factory=itertools.count)

    def now(self) -> datetime:
        """What the wall clock shows."""
        return _BEGIN + timedelta(seconds=self.monotonic) + self.wall_offset

    def at(self, moment: float, act: Callable[[], None]) -> None:
        """Let something happen at a time."""
        heapq.heappush(self._agenda, (moment, next(self._number), act))

    def advance(self, seconds: float) -> None:
        """Let so much time go by, or as much as it takes until the next thing happens."""
        until = self.monotonic + max(seconds, 0.001)
        if self._agenda and self._agenda[0][0] <= until:
            moment, _, act = heapq.heappop(self._agenda)
            self.monotonic = max(self.monotonic, moment)
            act()
        else:
            self.monotonic = until


class _SleepingQueue(queue.SimpleQueue[Any]):
    """A queue at which time goes by while nothing is in it and no delivery is under way."""

    clock: Clock
    under_way: Callable[[], int]

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002 - as it is called
        try:
            return super().get_nowait()
        except queue.Empty:
            if self.under_way():
                return super().get(block, 30.0)
            self.clock.advance(timeout or 0.0)
            raise


@dataclass
class SimulatedGateway(Gateway):
    """A gateway in simulated time.

    Attributes:
        clock: of all its parts.
        asked: when requests came.
    """

    clock: Clock = field(default_factory=Clock)
    asked: list[float] = field(default_factory=list)
    publish_seconds: ClassVar[float] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.archive.before = self._ask

    def _ask(self, parts: Sequence[Part]) -> None:
        del parts
        self.asked.append(self.clock.monotonic)

    def assemble(self) -> None:
        """Make the parts anew, as a restart does."""
        self.ledger.close()
        self.ledger = Ledger(self.spool.ledger, now=self.now)
        super().assemble()
        sleeping = _SleepingQueue()
        sleeping.clock = self.clock
        sleeping.under_way = lambda: self.scheduler.under_way
        self.scheduler._queue = sleeping

    def now(self) -> datetime:
        """What the wall clock shows."""
        return self.clock.now()

    def monotonic(self) -> float:
        """Seconds since the beginning."""
        return self.clock.monotonic

    def run_until(self, moment: float) -> None:
        """Let the uploader run until a time, from where it was, and stop it then."""
        self.scheduler._stopping = False
        self.clock.at(moment, self.scheduler.stop)
        self.scheduler.run()
        assert self.scheduler.drain(0)

    def restart(self) -> None:
        """What a new process begins with."""
        self.assemble()
