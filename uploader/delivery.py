"""One delivery: claim the files, send them, settle each by its verdict.

It knows nothing of the pool and of when it is called. What it returns is a `Report`: the fate of every file it
was given, and the trouble of the destination if there was one. The step numbers (U1 to U3, those after them in
uploader.settling) are those of docs/design.md.

Nothing about one file is fatal. A `LedgerError` while files are taken in hand is raised: without the ledger no
file is begun; one that is already proven stored is deleted all the same, and its row is written later.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol

from common import logs
from common.errors import LedgerError
from common.ledger import Ledger
from common.records import Cause
from common.spool import Claim, Spool
from uploader.closing import Closing
from uploader.limits import Sized
from uploader.multipart import Aborted, Part, PartError
from uploader.settling import Backoff, Fate, Report, Settling
from uploader.taking import NotTaken, Rejection, Request, Taken, Taking
from uploader.verdict import Answer, Kind, Split, Trouble, Verdict, judge

__all__ = ["Aborted", "Backoff", "Client", "Delivery", "Fate", "Report", "Request"]

log = logs.get(__name__)

_TOO_LARGE = 413
_TELLING_STATUSES = frozenset((200, 202, _TOO_LARGE))  # they tell whether a request of that size is taken


class Client(Protocol):
    """What a delivery needs of the network."""

    def store(self, parts: Sequence[Part], *, tries: int = ...) -> Answer:
        """Send the parts in one request."""


Confirm = Callable[[Verdict, int | None, Claim], Verdict | Trouble]
"""The verdict on a file as it stands after the archive was asked; it was made of an answer with that HTTP status."""


def believe(verdict: Verdict, http_status: int | None, claim: Claim) -> Verdict | Trouble:
    """Take the archive at its word."""
    del http_status, claim
    return verdict


class Delivery:
    """Delivers batches of files; safe to call from several threads at once.

    Args:
        spool: where the files are.
        ledger: their account.
        client: the way to the destination.
        backoff: for instances that fail on their own account.
        now: the clock, an aware datetime.
        confirm: asked before a verdict is carried out.
    """

    def __init__(
        self,
        spool: Spool,
        ledger: Ledger,
        client: Client,
        backoff: Backoff,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        confirm: Confirm = believe,
    ) -> None:
        self._client = client
        self._confirm = confirm
        self._backoff = backoff
        # Hundreds of short system calls for each request: at each, threads would take the interpreter from each other.
        turn = threading.Lock()
        self._taking = Taking(spool, ledger, turn)
        self._closing = Closing()
        self._settling = Settling(spool, ledger, backoff, now, turn)

    def deliver(self, requests: Sequence[Request], *, tries: int = 3) -> Report:
        """Claim, send and settle the files that can be had.

        Raises:
            LedgerError: the ledger cannot be used now; no file was begun.
        """
        self.record_late()
        report = Report()
        with self._taken(requests, report) as taken:
            if taken:
                self._send(taken, report, tries)
        return report

    def charge(self, request: Request, trouble: Trouble) -> Report:
        """Count a trouble against the one file that brings it about while others pass.

        It is taken as for sending: what a receiver has recorded is not read again, since it is the archive's to judge.

        Raises:
            LedgerError: the ledger cannot be used now; nothing was counted.
        """
        report = Report()
        verdict = Verdict(Kind.TEMPORARY, Cause.GAVE_UP, f"{trouble.detail}, for this instance only: others pass")
        with self._taken([request], report) as taken:
            self._settling.settle([(one, verdict) for one in taken], Answer(status=trouble.http_status), taken, report)
        return report

    def record_late(self) -> None:
        """Write the rows of files that were deleted while the ledger could not be written."""
        self._settling.record_late()

    # U1

    @contextmanager
    def _taken(self, requests: Sequence[Request], report: Report) -> Iterator[list[Taken]]:
        """Those of the files that can be sent, ours for the length of the block; the fate of the others."""
        found = self._taking.take(requests)
        try:
            yield list(self._to_send(found, report))
        finally:
            self._closing.close([one.claim for one in found if one.claim is not None])

    def _to_send(self, found: Sequence[Taken | NotTaken], report: Report) -> Iterator[Taken]:
        uids: set[str] = set()
        for one in found:
            if isinstance(one, NotTaken):
                if one.rejection is not None:
                    self._reject(one.name, one.rejection, report)
                else:
                    report.fates[one.name] = Fate.BUSY if one.busy else Fate.SETTLED if one.gone else Fate.UNSETTLED
            elif one.sop_instance_uid in uids:
                # An answer names instances by UID: two files of one UID cannot go in one request.
                one.claim.close()
                report.fates[one.claim.name] = Fate.LATER
            else:
                uids.add(one.sop_instance_uid)
                yield one

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
            if answer.status in _TELLING_STATUSES:
                size_bytes = sum(one.claim.size_bytes for one in batch)
                report.sizes.append(Sized(size_bytes, refused=answer.status == _TOO_LARGE))
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
                verdicts, open_ones = self._verified(batch, judgement, answer, report)
                report.answered = report.answered or bool(verdicts)
                report.judged.update(one.claim.name for one, _ in verdicts)
                self._settling.settle(verdicts, answer, batch, report)
                if report.trouble is not None:
                    for one in [*open_ones, *(one for rest in pending for one in rest)]:
                        report.fates[one.claim.name] = Fate.LATER
                    return
                pending += [open_ones] if open_ones else []

    def _verified(
        self, batch: list[Taken], judgement: dict[str, Verdict], answer: Answer, report: Report
    ) -> tuple[list[tuple[Taken, Verdict]], list[Taken]]:
        """The verdicts that stand after the archive was asked, and the files that have none.

        Where it cannot be asked now, that is the trouble of the report, and the rest has no verdict.
        """
        verdicts: list[tuple[Taken, Verdict]] = []
        open_ones: list[Taken] = []
        for one in batch:
            verdict = judgement.get(one.sop_instance_uid)
            if verdict is None or report.trouble is not None:
                open_ones.append(one)
                continue
            try:
                outcome = self._confirm(verdict, answer.status, one.claim)
            except PartError as error:
                self._without([], error, report)
                continue
            if isinstance(outcome, Trouble):
                report.trouble, report.accused = outcome, (one.claim.name,)
                open_ones.append(one)
            else:
                verdicts.append((one, outcome))
        return verdicts, open_ones

    def _without(self, batch: list[Taken], error: PartError, report: Report) -> list[Taken]:
        """The batch without a file that could not be sent as it was claimed."""
        name = error.part.name
        report.fates[name] = Fate.UNSETTLED  # it changed: to be looked at anew
        if isinstance(error.__cause__, OSError):
            detail = f"expected a readable file, found: {error.__cause__.strerror}"
            self._reject(name, Rejection(Cause.UNREADABLE, detail, error.part.size_bytes), report)
        return [one for one in batch if one.claim.name != name]

    def _reject(self, name: str, rejection: Rejection, report: Report) -> None:
        """Quarantine a file that cannot be sent; if the ledger cannot be written, later: it holds up no other."""
        try:
            self._settling.reject(name, rejection, report)
        except LedgerError as error:
            log.error("not quarantined yet", file=logs.file_label(name), error=str(error))
            report.later(name, self._backoff.maximum)
