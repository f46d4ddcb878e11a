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
from typing import Any

from uploader_fakes import Gateway

from common.ledger import Ledger
from uploader.backlog import Backlog
from uploader.delivery import Backoff, Delivery
from uploader.destination import Destination
from uploader.multipart import Part
from uploader.reconciling import Reconciling
from uploader.scheduler import Scheduler

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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.archive.before = self._ask

    def _ask(self, parts: Sequence[Part]) -> None:
        del parts
        self.asked.append(self.clock.monotonic)

    def assemble(self) -> None:
        """Make the parts anew, as a restart does."""
        options, clock = self.config, self.clock
        self.ledger.close()
        self.ledger = Ledger(self.spool.ledger, now=clock.now)
        self.backlog = Backlog(self.spool_config.settle_seconds, large_bytes=options.batch_size)
        backoff = Backoff(options.backoff_initial_seconds, options.backoff_max_seconds, options.max_attempts)
        self.delivery = Delivery(self.spool, self.ledger, self.archive, backoff, now=clock.now)
        self.destination = Destination(options.backoff_initial_seconds, options.backoff_max_seconds)
        self.reconciling = Reconciling(
            self.spool,
            self.ledger,
            self.backlog,
            backoff_max=options.backoff_max_seconds,
            empty_folder_seconds=self.spool_config.rescan_seconds,
            now=clock.now,
        )
        self.scheduler = Scheduler(
            spool=self.spool,
            delivery=self.delivery,
            backlog=self.backlog,
            destination=self.destination,
            reconciling=self.reconciling,
            spool_config=self.spool_config,
            config=options,
            monotonic=lambda: clock.monotonic,
        )
        sleeping = _SleepingQueue()
        sleeping.clock = clock
        sleeping.under_way = lambda: self.scheduler.under_way
        self.scheduler._queue = sleeping

    def run_until(self, moment: float) -> None:
        """Let the uploader run until a time, from where it was, and stop it then."""
        self.scheduler._stopping = False
        self.clock.at(moment, self.scheduler.stop)
        self.scheduler.run()
        assert self.scheduler.drain(0)

    def restart(self) -> None:
        """What a new process begins with."""
        self.assemble()
