"""Carrying out verdicts (U4 to U8): the ledger, then the file; and what became of each, for whoever asked.

The ledger is always written before a file leaves incoming/. A verdict is about the bytes that were claimed: a file
that is another by now is left where it is, to be looked at anew. Nothing here is fatal: what cannot be carried out
leaves the file owed, and what cannot be recorded is recorded later.
"""

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from common import logs
from common.errors import LedgerError, LedgerFlushError
from common.instance import Instance
from common.ledger import Ledger
from common.records import Outcome
from common.spool import Spool
from uploader.limits import Sized
from uploader.quarantining import Quarantining, Quotation
from uploader.taking import Rejection, Taken
from uploader.verdict import Answer, Kind, Trouble, Verdict

log = logs.get(__name__)


class Fate(Enum):
    """What became of a file in one delivery."""

    SETTLED = "settled"
    """Sent and deleted, quarantined, or gone: nothing is left to do."""
    LATER = "later"
    """It is owed, and due again after `Report.delays`."""
    UNSETTLED = "unsettled"
    """It may still be written to: look again when it is closed or has not changed for a while."""
    BUSY = "busy"
    """Another process holds it."""


@dataclass(slots=True)
class Report:
    """What a delivery came to.

    Attributes:
        fates: one for each file that was given.
        delays: seconds until a file is due again, for those that are not due at once.
        answered: the destination gave an answer that is not about itself, so it is there.
        judged: the files that it judged.
        sent: how many instances it confirmed.
        trouble: of the destination; the files of that request and those after it are `LATER`.
        accused: the files of the request that met the trouble.
        sizes: of its requests that were taken, or refused as too large, in their order.
    """

    fates: dict[str, Fate] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    answered: bool = False
    judged: set[str] = field(default_factory=set)
    sent: int = 0
    trouble: Trouble | None = None
    accused: tuple[str, ...] = ()
    sizes: list[Sized] = field(default_factory=list)

    def later(self, name: str, delay: float) -> None:
        """Note that a file is owed, and due again after so many seconds."""
        self.fates[name] = Fate.LATER
        self.delays[name] = delay


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long an instance waits for its next attempt, and how many it gets. Seconds."""

    initial: float
    maximum: float
    max_attempts: int

    def delay(self, attempts: int) -> float:
        """The wait after so many attempts: exponential, with jitter between half and all of it."""
        whole = min(self.maximum, self.initial * 2.0 ** min(attempts - 1, 60))
        return whole * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, guards nothing


@dataclass(frozen=True, slots=True)
class _Sent:
    """That a file was sent. `unentered`: what it was, if it has no row yet; with its size in bytes."""

    outcome: Outcome
    unentered: Instance | None
    size_bytes: int


class Settling:
    """Carries out verdicts; safe to call from several threads at once.

    Args:
        spool: where the files are.
        ledger: their account.
        backoff: for instances that fail on their own account.
        now: the clock, an aware datetime.
        turn: held while files are deleted.
    """

    def __init__(
        self, spool: Spool, ledger: Ledger, backoff: Backoff, now: Callable[[], datetime], turn: threading.Lock
    ) -> None:
        self._ledger = ledger
        self._turn = turn
        self._backoff = backoff
        self._now = now
        self._quarantining = Quarantining(spool, ledger, now)
        self._unrecorded: list[_Sent] = []
        self._unrecorded_lock = threading.Lock()

    def settle(
        self, verdicts: Sequence[tuple[Taken, Verdict]], answer: Answer, batch: Sequence[Taken], report: Report
    ) -> None:
        """Carry out the verdicts of one answer.

        Args:
            verdicts: each with its file, which is still claimed.
            answer: what they were made of.
            batch: all files of the request.
            report: gets a fate for each file.
        """
        quotation = Quotation(answer, [one.claim for one in batch])
        sent: list[tuple[Taken, Outcome]] = []
        retried: list[tuple[Taken, Outcome, float]] = []
        for one, verdict in verdicts:
            name, attempts = one.claim.name, one.attempts + 1
            outcome = Outcome(name, answer.status, verdict.cause, verdict.detail)
            if not one.claim.unchanged():
                report.fates[name] = Fate.UNSETTLED
                log.info("changed while it was sent, to be sent again", file=logs.file_label(name))
            elif verdict.kind is Kind.SENT:
                sent.append((one, outcome))
            elif verdict.kind is Kind.PERMANENT or attempts >= self._backoff.max_attempts:
                if self._quarantining.refuse(one, outcome, verdict.failure_reason, quotation):
                    report.fates[name] = Fate.SETTLED
                else:
                    report.later(name, self._backoff.maximum)
            else:
                delay = self._backoff.delay(attempts)
                due = self._now() + timedelta(seconds=delay)
                retried.append((one, Outcome(name, answer.status, verdict.cause, verdict.detail, due), delay))
        if sent:
            self._settle_sent(sent, report)
        if retried:
            self._settle_retried(retried, report)

    def reject(self, name: str, rejection: Rejection, report: Report) -> None:
        """Quarantine a file that cannot be sent at all.

        Raises:
            LedgerError: the ledger cannot be used now; the file stays.
        """
        if self._quarantining.reject(name, rejection):
            report.fates[name] = Fate.SETTLED
        else:
            report.later(name, self._backoff.maximum)

    def record_late(self) -> None:
        """Write the rows of files that were deleted while the ledger could not be written."""
        with self._unrecorded_lock:
            if not self._unrecorded:
                return
            try:
                self._record(self._unrecorded)
            except LedgerFlushError:
                pass  # it is written; a power cut may take it
            except LedgerError:
                return
            log.info("ledger caught up", instances=len(self._unrecorded))
            self._unrecorded.clear()

    def _record(self, sent: Sequence[_Sent]) -> None:
        """Write the rows of what was sent (U4), and first those of files that have none."""
        for one in sent:
            if one.unentered is not None:
                with suppress(LedgerFlushError):
                    self._ledger.adopt(one.outcome.file_name, one.unentered, one.size_bytes)
        self._ledger.sent([one.outcome for one in sent])

    def _settle_sent(self, sent: Sequence[tuple[Taken, Outcome]], report: Report) -> None:
        records = [_Sent(outcome, one.unentered, one.claim.size_bytes) for one, outcome in sent]
        try:
            self._record(records)
        except LedgerFlushError as error:
            log.error("sent, but a power cut may take the record of it", instances=len(records), error=str(error))
        except LedgerError as error:
            # The destination has them, and deleting may be what frees the disk that the ledger needs.
            log.error("sent, but not recorded yet", instances=len(records), error=str(error))
            with self._unrecorded_lock:
                self._unrecorded += records
        with self._turn, logs.together():
            for one, outcome in sent:
                self._delete(one, report)
                report.sent += 1
                fields = {"cause": outcome.cause} if outcome.cause else {}
                log.info(
                    "sent",
                    file=logs.file_label(one.claim.name),
                    sop_instance_uid=one.sop_instance_uid,
                    size_bytes=one.claim.size_bytes,
                    outcome=outcome.detail,
                    **fields,
                )

    def _delete(self, one: Taken, report: Report) -> None:
        """U5, unless the name leads to other bytes by now: those are owed."""
        name = one.claim.name
        if not one.claim.unchanged():
            report.fates[name] = Fate.UNSETTLED
            return
        try:
            deleted = one.claim.delete()
        except OSError as error:
            log.error("sent, but it cannot be deleted", file=logs.file_label(name), error=error)
            report.later(name, self._backoff.maximum)
        else:
            report.fates[name] = Fate.SETTLED if deleted else Fate.UNSETTLED

    def _settle_retried(self, retried: Sequence[tuple[Taken, Outcome, float]], report: Report) -> None:
        try:
            self._ledger.retried([outcome for _, outcome, _ in retried])
        except LedgerError as error:
            log.error("attempts not recorded", instances=len(retried), error=str(error))
        for one, outcome, delay in retried:
            report.later(one.claim.name, delay)
            log.warning(
                "not accepted, to be tried again",
                file=logs.file_label(one.claim.name),
                sop_instance_uid=one.sop_instance_uid,
                outcome=outcome.detail,
                attempts=one.attempts + 1,
                next_seconds=round(delay, 1),
            )
