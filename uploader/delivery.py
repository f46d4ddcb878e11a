"""One delivery: claim the files, send them, settle each by its verdict.

It knows nothing of the pool and of when it is called. What it returns is a `Report`: the fate of every file it
was given, and the trouble of the destination if there was one. The step numbers (U1 to U8) are those of
docs/design.md; the ledger is always written before a file leaves incoming/.

Nothing about one file is fatal. A `LedgerError` while files are taken in hand is raised: without the ledger no
file is begun; one that is already proven stored is deleted all the same, and its row is written later.
"""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Protocol

from common import logs
from common.errors import LedgerError
from common.ledger import Ledger
from common.records import Cause, Outcome
from common.spool import Claim, Spool
from uploader.multipart import Aborted, Part, PartError
from uploader.quarantining import Quarantining
from uploader.taking import Rejection, Taken, Taking
from uploader.verdict import Answer, Kind, Split, Trouble, Verdict, judge

__all__ = ["Aborted", "Backoff", "Client", "Delivery", "Fate", "Report", "Request"]

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


class Client(Protocol):
    """What a delivery needs of the network."""

    def store(self, parts: Sequence[Part], *, tries: int = ...) -> Answer:
        """Send the parts in one request."""


@dataclass(frozen=True, slots=True)
class Request:
    """A file to deliver, as the scheduler knows it. `settled`: nobody is writing to it any more."""

    name: str
    settled: bool


@dataclass(slots=True)
class Report:
    """What a delivery came to.

    Attributes:
        fates: one for each file that was given.
        delays: seconds until a file is due again, for those that are not due at once.
        answered: the destination judged at least one instance, so it is there.
        sent: how many instances it confirmed.
        trouble: of the destination; the files of that request and those after it are `LATER`.
        accused: the files of the request that met the trouble.
    """

    fates: dict[str, Fate] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    answered: bool = False
    sent: int = 0
    trouble: Trouble | None = None
    accused: tuple[str, ...] = ()


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


class Delivery:
    """Delivers batches of files; safe to call from several threads at once.

    Args:
        spool: where the files are.
        ledger: their account.
        client: the way to the destination.
        backoff: for instances that fail on their own account.
        now: the clock, an aware datetime.
    """

    def __init__(
        self,
        spool: Spool,
        ledger: Ledger,
        client: Client,
        backoff: Backoff,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ledger = ledger
        self._client = client
        self._backoff = backoff
        self._now = now
        self._quarantining = Quarantining(spool, ledger, now)
        self._taking = Taking(spool, ledger)
        self._unrecorded: list[Outcome] = []
        self._unrecorded_lock = threading.Lock()

    def deliver(self, requests: Sequence[Request], *, tries: int = 3) -> Report:
        """Claim, send and settle the files that can be had.

        Raises:
            LedgerError: the ledger cannot be used now; no file was begun.
        """
        self.record_late()
        report = Report()
        taken: list[Taken] = []
        try:
            for request in requests:
                self._take(request, taken, report)
            if taken:
                self._send(taken, report, tries)
        finally:
            for one in taken:
                one.claim.close()
        return report

    def charge(self, request: Request, trouble: Trouble) -> Report:
        """Count a trouble against the one file that brings it about while others pass.

        It is taken as for sending: what a receiver has recorded is not read again, since it is the archive's to judge.

        Raises:
            LedgerError: the ledger cannot be used now; nothing was counted.
        """
        report = Report()
        taken: list[Taken] = []
        self._take(request, taken, report)
        for one in taken:
            with one.claim:
                verdict = Verdict(
                    Kind.TEMPORARY, Cause.GAVE_UP, f"{trouble.detail}, for this instance only: others pass"
                )
                self._settle([(one, verdict)], Answer(status=trouble.http_status), taken, report)
        return report

    def record_late(self) -> None:
        """Write the rows of files that were deleted while the ledger could not be written."""
        with self._unrecorded_lock:
            if not self._unrecorded:
                return
            try:
                self._ledger.sent(self._unrecorded)
            except LedgerError:
                return
            log.info("ledger caught up", instances=len(self._unrecorded))
            self._unrecorded.clear()

    # U1

    def _take(self, request: Request, taken: list[Taken], report: Report) -> None:
        found = self._taking.take(request.name, settled=request.settled)
        if isinstance(found, Taken):
            # An answer names instances by UID: two files of one UID cannot go in one request.
            if any(one.sop_instance_uid == found.sop_instance_uid for one in taken):
                found.claim.close()
                report.fates[request.name] = Fate.LATER
                return
            taken.append(found)
            return
        if found.rejection is not None:
            try:
                self._reject(request.name, found.rejection, report)
            finally:
                if found.claim is not None:
                    found.claim.close()
            return
        report.fates[request.name] = Fate.BUSY if found.busy else Fate.SETTLED if found.gone else Fate.UNSETTLED

    def _reject(self, name: str, rejection: Rejection, report: Report) -> None:
        done = self._quarantining.reject(name, rejection)
        report.fates[name] = Fate.SETTLED if done else Fate.LATER
        if not done:
            report.delays[name] = self._backoff.maximum

    # U2, U3

    def _send(self, taken: list[Taken], report: Report, tries: int) -> None:
        """Send a batch; a batch that is refused without a word about each instance goes in halves."""
        pending = [taken]
        while pending:
            batch = pending.pop()
            try:
                answer = self._client.store([one.claim for one in batch], tries=tries)
            except PartError as error:
                rest = self._without(batch, error, report)
                pending += [rest] if rest else []
                continue
            judgement = judge(answer, [one.sop_instance_uid for one in batch])
            if isinstance(judgement, Split):
                report.answered = True
                middle = len(batch) // 2
                pending += [batch[middle:], batch[:middle]]
            elif isinstance(judgement, Trouble):
                report.trouble = judgement
                report.accused = tuple(one.claim.name for one in batch)
                for one in [*batch, *(one for rest in pending for one in rest)]:
                    report.fates[one.claim.name] = Fate.LATER
                return
            else:
                report.answered = True
                judged = [one for one in batch if one.sop_instance_uid in judgement]
                unjudged = [one for one in batch if one.sop_instance_uid not in judgement]
                self._settle([(one, judgement[one.sop_instance_uid]) for one in judged], answer, batch, report)
                pending += [unjudged] if unjudged else []

    def _without(self, batch: list[Taken], error: PartError, report: Report) -> list[Taken]:
        """The batch without a file that could not be sent as it was claimed."""
        name = error.part.name
        report.fates[name] = Fate.UNSETTLED  # it changed: to be looked at anew
        if isinstance(error.__cause__, OSError):
            detail = f"expected a readable file, found: {error.__cause__.strerror}"
            self._reject(name, Rejection(Cause.UNREADABLE, detail, error.part.size_bytes), report)
        return [one for one in batch if one.claim.name != name]

    # U4 to U8

    def _settle(
        self, verdicts: list[tuple[Taken, Verdict]], answer: Answer, batch: Sequence[Taken], report: Report
    ) -> None:
        sent = [(one, verdict) for one, verdict in verdicts if verdict.kind is Kind.SENT]
        self._settle_sent(sent, answer, report)
        retried: list[tuple[Taken, Outcome, float]] = []
        for one, verdict in verdicts:
            if verdict.kind is Kind.SENT:
                continue
            attempts = one.attempts + 1
            if verdict.kind is Kind.PERMANENT or attempts >= self._backoff.max_attempts:
                done = self._quarantining.refuse(one, verdict, answer, [other.claim for other in batch])
                report.fates[one.claim.name] = Fate.SETTLED if done else Fate.LATER
                if not done:
                    report.delays[one.claim.name] = self._backoff.maximum
                continue
            delay = self._backoff.delay(attempts)
            due = self._now() + timedelta(seconds=delay)
            retried.append((one, Outcome(one.claim.name, answer.status, verdict.cause, verdict.detail, due), delay))
        self._settle_retried(retried, report)

    def _settle_sent(self, sent: list[tuple[Taken, Verdict]], answer: Answer, report: Report) -> None:
        intact: list[tuple[Claim, Outcome]] = []
        for one, verdict in sent:
            # What was confirmed is not what lies there now: it is owed, and sent again.
            if not one.claim.unchanged():
                report.fates[one.claim.name] = Fate.UNSETTLED
                log.info("changed while it was sent, to be sent again", file=logs.file_label(one.claim.name))
                continue
            intact.append((one.claim, Outcome(one.claim.name, answer.status, verdict.cause, verdict.detail)))
        if not intact:
            return
        outcomes = [outcome for _, outcome in intact]
        uids = {one.claim.name: one.sop_instance_uid for one, _ in sent}
        try:
            self._ledger.sent(outcomes)
        except LedgerError as error:
            # The destination has them, and deleting may be what frees the disk that the ledger needs.
            log.error("sent, but not recorded yet", instances=len(outcomes), error=str(error))
            with self._unrecorded_lock:
                self._unrecorded += outcomes
        for claim, outcome in intact:
            report.sent += 1
            self._delete(claim, report)
            fields = {"cause": outcome.cause.value} if outcome.cause else {}
            log.info(
                "sent",
                file=logs.file_label(claim.name),
                sop_instance_uid=uids[claim.name],
                size_bytes=claim.size_bytes,
                outcome=outcome.detail,
                **fields,
            )

    def _delete(self, claim: Claim, report: Report) -> None:
        """Delete a file that is recorded as sent, unless it was changed in the meantime (U5)."""
        if not claim.unchanged():
            report.fates[claim.name] = Fate.UNSETTLED
            return
        try:
            claim.delete()
        except OSError as error:
            log.error("sent, but it cannot be deleted", file=logs.file_label(claim.name), error=error.strerror)
            report.fates[claim.name] = Fate.LATER
            report.delays[claim.name] = self._backoff.maximum
        else:
            report.fates[claim.name] = Fate.SETTLED

    def _settle_retried(self, retried: list[tuple[Taken, Outcome, float]], report: Report) -> None:
        if not retried:
            return
        try:
            self._ledger.retried([outcome for _, outcome, _ in retried])
        except LedgerError as error:
            log.error("attempts not recorded", instances=len(retried), error=str(error))
        for one, outcome, delay in retried:
            report.fates[one.claim.name] = Fate.LATER
            report.delays[one.claim.name] = delay
            log.warning(
                "not accepted, to be tried again",
                file=logs.file_label(one.claim.name),
                sop_instance_uid=one.sop_instance_uid,
                outcome=outcome.detail,
                attempts=one.attempts + 1,
                next_seconds=round(delay, 1),
            )
