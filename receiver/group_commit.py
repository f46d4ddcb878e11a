"""R4 and R5 for everybody who waits: one fsync of incoming/ and one transaction for all renames before it.

Whoever comes while nobody is at it leads: it waits a moment for those who are about to come, commits itself and all
who wait by then, then hands on to the first who came meanwhile. So an association alone never waits for another
thread, and nobody waits longer than for the group under way, a moment, and its own.

A flush that fails fails for every rename before it, those that were not waiting for it among them: the kernel takes the
directory for written from then on, and the next flush finds nothing to do.
"""

import errno
import os
import threading
from collections.abc import Sequence

from common.errors import LedgerError, LedgerRowError
from common.ledger import Ledger
from common.records import Receipt
from common.staging import Staging

# The flush of a file of average size. A group of two costs half of what two groups cost.
_MOMENT_SECONDS = 0.001


class _Waiting:
    """One instance that is renamed: what became of it, and the lock that its thread sleeps on."""

    __slots__ = ("error", "failed_flushes", "leads", "receipt", "wake")

    def __init__(self, receipt: Receipt, failed_flushes: int) -> None:
        self.receipt = receipt
        self.failed_flushes = failed_flushes
        self.error: BaseException | None = None
        self.leads = False
        self.wake = threading.Lock()
        self.wake.acquire()


class GroupCommit:
    """Commits renamed files, those of several associations together. Safe to use from all of their threads.

    Args:
        staging: whose renames are made durable (R4).
        ledger: where they are recorded (R5).
    """

    def __init__(self, staging: Staging, ledger: Ledger) -> None:
        self._staging = staging
        self._ledger = ledger
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._led = False
        self._expected = 0  # who are about to come
        self._leader: _Waiting | None = None  # while it waits for them
        self._failed_flushes = 0

    @property
    def failed_flushes(self) -> int:
        """How many flushes of incoming/ have failed so far; to be asked for before the rename."""
        return self._failed_flushes

    def expect(self) -> None:
        """Say that an instance is about to be committed. Then it is, or `expect_no_more` takes it back."""
        with self._lock:
            self._expected += 1

    def expect_no_more(self) -> None:
        """Say that one that was expected will not be committed."""
        with self._lock:
            self._came_or_not()

    def commit(self, receipt: Receipt, failed_flushes: int, *, expected: bool = False) -> None:
        """Make the rename durable and record it. When this returns, the instance may be acknowledged.

        Args:
            receipt: of the instance.
            failed_flushes: what the property of that name was before the rename.
            expected: `expect` has said so.

        Raises:
            OSError: incoming/ cannot be flushed, or could not since the rename.
            LedgerError: it cannot be recorded.
        """
        mine = _Waiting(receipt, failed_flushes)
        with self._lock:
            self._waiting.append(mine)
            if expected:
                self._came_or_not()
            mine.leads = not self._led
            self._led = True
        if not mine.leads:
            mine.wake.acquire()
        if mine.leads:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error

    def _came_or_not(self) -> None:
        """Count one less; `_lock` is held."""
        self._expected -= 1
        if not self._expected and self._leader is not None:
            self._leader.wake.release()
            self._leader = None

    def _lead(self, mine: _Waiting) -> None:
        with self._lock:
            waits = self._expected > 0
            self._leader = mine if waits else None
        if waits:
            mine.wake.acquire(timeout=_MOMENT_SECONDS)
        with self._lock:
            self._leader = None
            group, self._waiting = self._waiting, []
        try:
            self._commit_group(group)
        except BaseException as error:  # noqa: BLE001 - raised again by each of them
            for each in group:
                each.error = error
        with self._lock:
            self._led = bool(self._waiting)
            if self._led:
                self._waiting[0].leads = True
                self._waiting[0].wake.release()
        for each in group:
            if not each.leads:
                each.wake.release()

    def _commit_group(self, group: Sequence[_Waiting]) -> None:
        try:
            self._staging.sync_incoming()
        except BaseException:
            self._failed_flushes += 1
            raise
        durable = [each for each in group if each.failed_flushes == self._failed_flushes]
        for each in group:
            if each.failed_flushes != self._failed_flushes:
                each.error = OSError(errno.EIO, os.strerror(errno.EIO))
        try:
            if durable:
                self._ledger.received(*(each.receipt for each in durable))
        except LedgerError as error:
            # What one of them brings must not harm the others. A ledger that nobody can write is not asked again
            # for each: with one that is locked, everybody would wait for everybody's time to run out.
            alone = len(durable) == 1 or not isinstance(error, LedgerRowError)
            for each in durable:
                each.error = error if alone else self._record(each.receipt)

    def _record(self, receipt: Receipt) -> LedgerError | None:
        try:
            self._ledger.received(receipt)
        except LedgerError as error:
            return error
        return None
