"""Putting a file into quarantine/ (U6 to U8): the reason, the ledger, then the file."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from common import logs
from common.errors import LedgerError
from common.identifying import identifying_values
from common.ledger import Ledger
from common.records import Outcome, Row, utc_text
from common.spool import Claim, Spool
from uploader.taking import Rejection, Taken
from uploader.verdict import Answer, Verdict

log = logs.get(__name__)


class Quarantining:
    """Moves files to quarantine/, each with its reason beside it."""

    def __init__(self, spool: Spool, ledger: Ledger, now: Callable[[], datetime]) -> None:
        self._spool = spool
        self._ledger = ledger
        self._now = now

    def reject(self, name: str, rejection: Rejection) -> bool:
        """Quarantine a file that was never sent, since it cannot be.

        Returns:
            False if it could not be moved: it stays owed.

        Raises:
            LedgerError: the ledger cannot be used now; the file stays.
        """
        self._ledger.adopt(name, None, rejection.size_bytes)
        outcome = Outcome(name, None, rejection.cause, rejection.detail)
        return self._put(outcome, attempts=0, attempts_now=0, extra={"failure_reason": None, "answer": ""})

    def refuse(self, taken: Taken, verdict: Verdict, answer: Answer, batch: Sequence[Claim]) -> bool:
        """Quarantine a file that the destination refused, or that has used up its attempts.

        Args:
            taken: the file, still claimed.
            verdict: why.
            answer: its excerpt goes into the sidecar, redacted of what identifies any patient of the request.
            batch: the files of the request.

        Returns:
            False if it could not be moved: it stays owed.
        """
        outcome = Outcome(taken.claim.name, answer.status, verdict.cause, verdict.detail)
        extra = {"failure_reason": verdict.failure_reason, "answer": _redacted(answer.excerpt, batch)}
        try:
            return self._put(outcome, attempts=taken.attempts + 1, attempts_now=1, extra=extra)
        except LedgerError as error:
            log.error("not quarantined yet", file=logs.file_label(taken.claim.name), error=str(error))
            return False

    def _put(self, outcome: Outcome, *, attempts: int, attempts_now: int, extra: Mapping[str, Any]) -> bool:
        name = outcome.file_name
        row = self._ledger.rows([name]).get(name)
        try:
            with self._spool.quarantine.reserve(name) as slot:
                slot.write_reason({**self._reason(outcome, attempts, row), **extra})
                try:
                    self._ledger.quarantined(outcome, slot.name, attempts=attempts_now)
                except LedgerError:
                    slot.forget()
                    raise
                try:
                    slot.move()
                except FileNotFoundError:
                    slot.forget()
                    raise
        except OSError as error:
            log.error("not quarantined", file=logs.file_label(name), cause=outcome.cause, error=error.strerror)
            return False
        log.warning(
            "quarantined",
            file=logs.file_label(name),
            cause=outcome.cause,
            detail=outcome.detail,
            sop_instance_uid=row.sop_instance_uid if row else None,
            http_status=outcome.http_status,
        )
        return True

    def _reason(self, outcome: Outcome, attempts: int, row: Row | None) -> dict[str, Any]:
        return {
            "cause": outcome.cause.value,
            "detail": outcome.detail,
            "attempts": attempts,
            "http_status": outcome.http_status,
            "received_at": row.received_at if row else None,
            "quarantined_at": utc_text(self._now()),
            "sop_instance_uid": row.sop_instance_uid if row else "",
            "sop_class_uid": row.sop_class_uid if row else "",
            "study_instance_uid": row.study_instance_uid if row else "",
            "series_instance_uid": row.series_instance_uid if row else "",
            "transfer_syntax_uid": row.transfer_syntax_uid if row else "",
        }


def _redacted(excerpt: str, batch: Sequence[Claim]) -> str:
    if not excerpt:
        return ""
    values: list[str] = []
    for claim in batch:
        with contextlib.suppress(OSError), claim.reader() as reader:
            values += identifying_values(reader)
    return logs.redact(excerpt, values)
