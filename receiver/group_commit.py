"""R4 and R5 for everybody who waits: one fsync of incoming/ and one transaction for all renames before it.

Whoever comes while nobody is at it leads: it commits itself and all who wait by then, then hands on to the first who
came meanwhile. So an association alone never waits for another thread, and nobody waits longer than for the
group under way and its own.
"""

import threading
from collections.abc import Sequence

from common.errors import LedgerError
from common.ledger import Ledger
from common.records import Receipt
from common.staging import Staging


class _Waiting:
    """One instance that is renamed: what became of it, and the lock that its thread sleeps on."""

    __slots__ = ("error", "leads", "receipt", "wake")

    def __init__(self, receipt: Receipt) -> None:
        self.receipt = receipt
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

    def commit(self, receipt: Receipt) -> None:
        """Make the rename durable and record it. When this returns, the instance may be acknowledged.

        Raises:
            OSError: incoming/ cannot be flushed.
            LedgerError: it cannot be recorded.
        """
        mine = _Waiting(receipt)
        with self._lock:
            self._waiting.append(mine)
            mine.leads = not self._led
            self._led = True
        if not mine.leads:
            mine.wake.acquire()
        if mine.leads:
            self._lead()
        if mine.error is not None:
            raise mine.error

    def _lead(self) -> None:
        with self._lock:
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
        # Not tried again: the kernel reports a failed flush once, and says yes the next time.
        self._staging.sync_incoming()
        try:
            self._ledger.received(*(each.receipt for each in group))
        except LedgerError:
            if len(group) == 1:
                raise
            # What one of them brings must not harm the others.
            for each in group:
                try:
                    self._ledger.received(each.receipt)
                except LedgerError as error:
                    each.error = error
