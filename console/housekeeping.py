"""What is kept how long: carries out [retention] on the ledger and, if that is set, on the quarantine.

Nothing that is owed is touched. What is deleted from quarantine/ is discarded as a person discards it, recorded before
it goes, by "retention". One process does it at a time, held together by a lock that dies with its process.
"""

import contextlib
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from common import logs
from common.config import Config
from common.errors import StowgateError
from common.ledger import Ledger
from common.ledger_retention import LedgerRetention, Tidied
from common.presence import FOLDER
from common.records import State, utc_text
from common.spool import Spool
from console.actions import AT_A_TIME, Actions

log = logs.get(__name__)

PERSON = "retention"
_LOCK = "housekeeping.lock"
_EVERY_SECONDS = 3600.0
_FIRST_SECONDS = 60.0


class BusyError(StowgateError):
    """Another process is tidying up."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What was done, or would be.

    Attributes:
        rows: of the ledger that were deleted: of what was sent or removed.
        events: likewise, of those rows or alone.
        discarded: files of quarantine/ that were deleted, oldest first.
        discarded_bytes: of them.
        failed: why files of quarantine/ were not, by name.
        bytes_freed: that the ledger became shorter by.
        longest_seconds: for which writers of the ledger were kept out at a time.
    """

    rows: int = 0
    events: int = 0
    discarded: tuple[str, ...] = ()
    discarded_bytes: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    bytes_freed: int = 0
    longest_seconds: float = 0.0


class Housekeeping:
    """Carries out [retention] for one spool.

    Args:
        config: the settings.
        stopped: whether to end early.
        now: the clock, an aware datetime.
    """

    def __init__(
        self,
        config: Config,
        *,
        stopped: Callable[[], bool] = lambda: False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._retention = config.retention
        self._spool = Spool(config.spool.directory, config.spool.min_free)
        self._stopped = stopped
        self._now = now

    def run(self, stopped: threading.Event) -> None:
        """Do it once an hour until stopped; what goes wrong is said, and tried again an hour later."""
        self._stopped = stopped.is_set
        wait = _FIRST_SECONDS
        while not stopped.wait(wait):
            wait = _EVERY_SECONDS
            try:
                self.once()
            except BusyError:
                log.debug("housekeeping is done by another process")
            except (StowgateError, OSError) as error:
                log.warning("housekeeping not done", reason=error)

    def once(self, *, dry: bool = False) -> Kept:
        """Do it once, or with `dry` only say what would be done.

        Raises:
            BusyError: another process is at it.
            LedgerError: the ledger cannot be used now.
            OSError: the spool cannot be read or written.
        """
        with contextlib.nullcontext() if dry else self._alone():
            if not os.path.lexists(self._spool.ledger):
                return Kept()
            # First: what is discarded now is a settled row, and its history is read for a while.
            tidied = self._ledger(dry=dry)
            discarded, size, failed = self._quarantine(dry=dry)
        kept = Kept(
            rows=sum(one.rows for one in tidied),
            events=sum(one.events for one in tidied),
            discarded=discarded,
            discarded_bytes=size,
            failed=failed,
            bytes_freed=sum(one.bytes_freed for one in tidied),
            longest_seconds=max((one.longest_seconds for one in tidied), default=0.0),
        )
        if not dry and (kept.rows or kept.events or kept.discarded or kept.failed):
            log.info(
                "housekeeping done",
                rows=kept.rows,
                events=kept.events,
                discarded=len(kept.discarded),
                failed=len(failed),
                bytes_freed=kept.bytes_freed,
            )
        return kept

    def _before(self, days: int) -> str:
        return utc_text(self._now() - timedelta(days=days)) if days else ""

    def _ledger(self, *, dry: bool) -> list[Tidied]:
        settings = self._retention
        with contextlib.closing(LedgerRetention(self._spool.ledger, stopped=self._stopped)) as ledger:
            rows_before = self._before(settings.settled_days)
            done = [ledger.rows(rows_before, settings.settled_rows or None, dry=dry)]
            events_before = self._before(settings.event_days)
            if events_before > rows_before:
                done.append(ledger.events(events_before, dry=dry))
            if not dry:
                done.append(ledger.give_back())
        return done

    def _quarantine(self, *, dry: bool) -> tuple[tuple[str, ...], int, dict[str, str]]:
        """Discard what is too old, then the oldest of what is too much; names, bytes, and why others were not."""
        settings = self._retention
        if not settings.quarantine_days and not settings.quarantine_size:
            return (), 0, {}
        with contextlib.closing(Ledger(self._spool.ledger, durable=True)) as ledger:
            there = self._there(ledger)
            before = self._before(settings.quarantine_days)
            total = sum(one.size_bytes for one in there)
            wanted: list[_There] = []
            for one in there:
                too_much = settings.quarantine_size and total > settings.quarantine_size
                if not (one.since < before or too_much):
                    break
                wanted.append(one)
                total -= one.size_bytes
            if dry:
                return tuple(one.name for one in wanted), sum(one.size_bytes for one in wanted), {}
            actions = Actions(self._spool, ledger, PERSON)
            done: set[str] = set()
            failed: dict[str, str] = {}
            for start in range(0, len(wanted), AT_A_TIME):
                if self._stopped():
                    break
                came = actions.discard(one.name for one in wanted[start : start + AT_A_TIME])
                done.update(came.done)
                failed.update(came.failed)
        gone = [one for one in wanted if one.name in done]
        return tuple(one.name for one in gone), sum(one.size_bytes for one in gone), failed

    def _there(self, ledger: Ledger) -> list["_There"]:
        """The files of quarantine/ whose rows say so, oldest first. Others are of nobody's account yet, and stay."""
        names = list(self._spool.quarantine.names())
        rows = ledger.rows(names)
        found = []
        for name in names:
            row = rows.get(name)
            if row is None or row.state is not State.QUARANTINE:
                continue
            with contextlib.suppress(OSError):
                status = os.lstat(self._spool.quarantine.path / name)
                if not stat.S_ISDIR(status.st_mode):
                    found.append(_There(row.settled_at or row.received_at, name, status.st_size))
        return sorted(found, key=lambda one: (one.since, one.name))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        folder: Path = self._spool.directory / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError("another process is tidying up: expected to be alone, try again later") from None
            yield
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class _There:
    """A file in quarantine/: since when, its name, its size."""

    since: str
    name: str
    size_bytes: int
