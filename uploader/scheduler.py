"""When what is sent: the loop that feeds a pool of threads from the backlog.

One thread owns the backlog and the state of the destination; everything reaches it through one queue: what the
watcher saw, what deliveries came to, the wish to stop. It never blocks on disk for long and never on the network.

Nothing is fatal here. A ledger or a spool that cannot be used is said once a minute, and tried again.
"""

import queue
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from common import logs
from common.config import SpoolConfig, UploaderConfig
from common.errors import LedgerError, StowgateError
from common.spool import Spool
from uploader.backlog import Backlog, Entry, Room
from uploader.blame import Blame
from uploader.capacity import Capacity
from uploader.delivery import Aborted, Delivery, Fate, Report, Request
from uploader.destination import Accused, Destination, Mode
from uploader.notices import Finished, ProbeNow, Rescan, Seen, Stop
from uploader.reconciling import Reconciling
from uploader.standing import Standing
from uploader.verdict import Trouble

__all__ = ["Rescan", "Scheduler", "Seen"]

log = logs.get(__name__)

# Instances that come one by one would else go one by one, each with a request, a commit and a flush of its own.
_GATHER_SECONDS = 0.05
# While they gather, what is seen of them is taken in together: each waking costs more than all that it finds.
_LULL_SECONDS = 0.025
_BUSY_SECONDS = 1.0  # another process has the file: look again
_LEDGER_SECONDS = 2.0  # the ledger cannot be used: try again
_LOG_SECONDS = 60.0  # the same complaint at most once in so long


class Scheduler:
    """The uploader's loop.

    Args:
        spool: the folders.
        delivery: sends and settles.
        backlog: what is owed.
        destination: whether it can be sent to.
        reconciling: the scan.
        spool_config: settle and rescan times.
        config: threads and batch limits.
        monotonic: the clock, in seconds.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        delivery: Delivery,
        backlog: Backlog,
        destination: Destination,
        reconciling: Reconciling,
        spool_config: SpoolConfig,
        config: UploaderConfig,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._delivery = delivery
        self._backlog = backlog
        self._destination = destination
        self._standing = Standing()
        self._blame = Blame(backlog, destination)
        self._reconciling = reconciling
        self._rescan_seconds = spool_config.rescan_seconds
        self._config = config
        self._monotonic = monotonic
        # SimpleQueue, since a signal's function puts into it while the loop may be inside it.
        self._queue: queue.SimpleQueue[Seen | Rescan | ProbeNow | Finished | Stop] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="delivery")
        self._under_way = 0
        self._large_under_way = 0
        self._capacity = Capacity(config.batch_size, config.threads)
        self._next_scan = 0.0
        self._gather_until = 0.0
        self._stopping = False
        self._complaints = logs.OncePer(_LOG_SECONDS)

    def notice(self, what: Seen | Rescan | ProbeNow) -> None:
        """Tell the loop what was seen, or is wished for. Callable from any thread."""
        self._queue.put(what)

    def stop(self) -> None:
        """Let the loop end: nothing new is begun. Callable from a signal's function."""
        self._queue.put(Stop())

    def run(self) -> None:
        """Deliver until `stop`; returns at once then, with deliveries still under way."""
        while not self._stopping:
            now = self._monotonic()
            if now >= self._next_scan:
                self._scan(now)
            for name in self._backlog.ripe(now):
                self._backlog.ripen(name, self._spool.look(name), now)
            self._dispatch(now)
            self._standing.note(self._destination, now)
            self._wait(now)

    def drain(self, seconds: float) -> bool:
        """Wait for the deliveries under way, at most so long; True if all have ended."""
        deadline = self._monotonic() + seconds
        while self._under_way:
            try:
                self._take_in(self._queue.get(timeout=max(0.0, deadline - self._monotonic())), {})
            except queue.Empty:
                return False
        return True

    @property
    def under_way(self) -> int:
        """How many deliveries have not ended."""
        return self._under_way

    def facts(self) -> dict[str, Any]:
        """How it is, for people to read; of JSON types. Callable from any thread, at no cost to the loop."""
        return {
            "destination": self._standing.destination,
            "waiting": len(self._backlog),
            "under_way": self._under_way,
            "threads": self._config.threads,
        }

    def _wait(self, now: float) -> None:
        """Sleep until something is due or put into the queue, and take in all that is there."""
        due = [self._next_scan]
        if (ripe := self._backlog.next_due()) is not None:
            due.append(ripe)
        if (probe := self._destination.next_probe_at) is not None and self._backlog.ready and self._has_thread:
            due.append(probe)
        if self._backlog.ready and self._has_thread and self._gathers(now):
            due.append(self._gather_until)
        seen: dict[str, Seen] = {}
        with suppress(queue.Empty):
            self._take_in(self._queue.get(timeout=max(0.0, min(due) - now)), seen)
            if self._gathers(self._monotonic()):
                time.sleep(_LULL_SECONDS)
            for _ in range(10_000):
                self._take_in(self._queue.get_nowait(), seen)
        self._look_at(seen)

    def _look_at(self, seen: Mapping[str, Seen]) -> None:
        """Look once at each file of which there was something to see, as the last of its events tells it."""
        now = self._monotonic()
        for what in seen.values():
            if what.folder:
                self._reconciling.scan_folder(what.name, now)
            elif (found := self._spool.look(what.name)) is not None:
                self._backlog.see(found, now, closed=what.closed)

    def _take_in(self, what: Seen | Rescan | ProbeNow | Finished | Stop, seen: dict[str, Seen]) -> None:
        now = self._monotonic()
        if isinstance(what, Seen):
            seen[what.name] = what
        elif isinstance(what, Finished):
            if what.report is not None:
                self._capacity.learn(what.report, what.begun, now, max(what.beside, self._under_way))
            self._under_way -= 1
            self._large_under_way -= what.large
            self._conclude(what, now)
        elif isinstance(what, Rescan):
            self._next_scan = now
        elif isinstance(what, ProbeNow):
            if self._destination.end_pause(now):
                log.info("probing the destination before the pause ends, as a person wishes")
        else:
            self._stopping = True

    def _scan(self, now: float) -> None:
        self._next_scan = now + self._rescan_seconds
        try:
            self._delivery.record_late()
            self._reconciling.scan(now)
        except StowgateError as error:
            self._complain("the scan is incomplete", str(error))
        except OSError as error:
            self._complain("the spool cannot be read", error.strerror or type(error).__name__)

    # Sending

    def _dispatch(self, now: float) -> None:
        destination = self._destination
        if self._gathers(now):
            return
        while destination.may_send() and self._has_thread:
            room = Room(self._capacity.requests, self._under_way, self._large_under_way)
            batch = self._backlog.take(self._config.batch_instances, self._capacity.request_bytes, room=room, now=now)
            if not batch:
                return
            self._submit(batch, tries=3)
            self._gather_until = now + _GATHER_SECONDS
        if destination.may_send() or not self._has_thread:
            return
        probe: Entry | None = None
        if destination.may_probe(now):
            # Before one of the accused is asked again, what is still under way may tell of the others.
            if not self._under_way or self._backlog.others_ready(destination.doubted):
                probe = self._backlog.take_probe(avoid=destination.doubted)
        elif destination.may_probe_fresh():
            probe = self._backlog.take_probe(fresh=True)
        if probe is not None:
            destination.probe_sent()
            self._submit([probe], tries=1, probe=True)

    def _gathers(self, now: float) -> bool:
        """Whether those who are due wait a moment for company: right after a request, if they do not fill the next."""
        return (
            now < self._gather_until
            and self._destination.may_send()
            and self._backlog.ready < self._config.batch_instances
            and self._capacity.request_bytes >= self._config.batch_size  # or a request is filled by fewer
        )

    @property
    def _has_thread(self) -> bool:
        return self._under_way < self._capacity.requests

    def _submit(self, batch: list[Entry], *, tries: int, probe: bool = False) -> None:
        requests = [Request(entry.name, entry.settled) for entry in batch]
        names = tuple(entry.name for entry in batch)
        large = any(entry.large for entry in batch)
        self._begin(names, lambda: self._delivery.deliver(requests, tries=tries), probe=probe, large=large)

    def _begin(
        self, names: tuple[str, ...], work: Callable[[], Report], *, probe: bool = False, large: bool = False
    ) -> None:
        self._under_way += 1
        self._large_under_way += large
        finished = partial(Finished, names, self._monotonic(), probe, self._under_way, large)

        def finish() -> None:
            try:
                self._queue.put(finished(work()))
            except BaseException as error:
                if not isinstance(error, StowgateError | Aborted):
                    log.exception("delivery failed")
                self._queue.put(finished(None, error))

        self._pool.submit(finish)

    # What came of it

    def _conclude(self, finished: Finished, now: float) -> None:
        report = finished.report
        if report is None:
            self._failed(finished, now)
            return
        charged: list[Accused] = []
        if report.answered:
            was_open = self._destination.may_send()
            accused = self._blame.answered(frozenset(report.judged), now, probe=finished.probe)
            if accused is not None:
                charged.append(accused)
            if not was_open and self._destination.may_send():
                log.info("destination answers again", waiting=len(self._backlog))
        if report.trouble is not None:
            under_way = self._under_way > 0
            if self._blame.troubled(
                report.trouble, report.accused, finished.begun, now, probe=finished.probe, under_way=under_way
            ):
                charged.append(Accused(report.accused, report.trouble))
            self._complain_of_pause(report.trouble, now)
        elif finished.probe and not report.answered:
            self._destination.probe_came_to_nothing()
        for name in finished.names:
            self._return(name, report, now)
        # Only now are the accused back in the backlog, from where they are taken in hand again.
        for accused in charged:
            self._charge(accused.names[0], accused.trouble)

    def _return(self, name: str, report: Report, now: float) -> None:
        fate = report.fates.get(name, Fate.LATER)
        if fate is Fate.SETTLED:
            if self._backlog.done(name, now) and (found := self._spool.look(name)) is not None:
                self._backlog.see(found, now)
        elif fate is Fate.UNSETTLED:
            self._backlog.unsettle(name, self._spool.look(name), now)
        elif fate is Fate.BUSY:
            self._backlog.give_back(name, now, _BUSY_SECONDS)
        else:
            self._backlog.give_back(name, now, report.delays.get(name, 0.0))

    def _failed(self, finished: Finished, now: float) -> None:
        delay = _LEDGER_SECONDS
        if isinstance(finished.error, LedgerError):
            self._complain("cannot deliver", str(finished.error))
        elif not isinstance(finished.error, Aborted):
            # An error of ours that one file brings about must not keep the others of its batch for ever.
            self._blame.corner(finished.names)
            delay = self._config.backoff_max_seconds if len(finished.names) == 1 else 0.0
        if finished.probe:
            self._destination.probe_came_to_nothing()
        for name in finished.names:
            self._backlog.give_back(name, now, delay)

    def _charge(self, name: str, trouble: Trouble) -> None:
        entry = None if self._stopping else self._backlog.hold(name)
        if entry is not None:
            request = Request(name, entry.settled)
            self._begin((name,), lambda: self._delivery.charge(request, trouble))

    def _complain_of_pause(self, trouble: Trouble, now: float) -> None:
        if not self._stopping and self._destination.mode is Mode.PAUSED and self._complaints.ready(trouble.detail):
            log.error(
                "destination paused, nothing is lost",
                reason=trouble.detail,
                waiting=len(self._backlog),
                next_probe_seconds=round(max(0.0, (self._destination.next_probe_at or now) - now), 1),
            )

    def _complain(self, text: str, reason: str) -> None:
        if self._complaints.ready(text + reason):
            log.error(text, reason=reason)
