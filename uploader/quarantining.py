"""Putting a file into quarantine/ (U6 to U8): the reason, the ledger, then the file."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from common import logs
from common.errors import LedgerError
from common.identifying import identifying_values
from common.ledger import Ledger
from common.records import Cause, Outcome, Row, utc_text
from common.spool import Claim, Spool
from uploader.taking import Rejection, Taken
from uploader.verdict import Answer

log = logs.get(__name__)


class Quotation:
    """What an answer says of one instance, redacted of what identifies any patient of the request.

    Args:
        answer: to a request.
        batch: the files of that request, still claimed.
    """

    def __init__(self, answer: Answer, batch: Sequence[Claim]) -> None:
        self._answer = answer
        self._batch = batch

    def about(self, sop_instance_uid: str) -> str:
        """The archive's entry about an instance; the head of the answer if it was alone, or there are no entries."""
        response = self._answer.response
        if response is not None and len(self._batch) > 1:
            said = response.entries.get(sop_instance_uid, "")
        else:
            said = self._answer.excerpt
        if not said or self._values is None:
            return ""
        return logs.redact(said, self._values)

    @cached_property
    def _values(self) -> list[str] | None:
        """What must not be quoted; None if that is not known, since a file cannot be read: then nothing may be."""
        values: list[str] = []
        for claim in self._batch:
            try:
                with claim.reader() as reader:
                    values += identifying_values(reader)
            except OSError:
                return None
        return values


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
        outcome = Outcome(name, None, rejection.cause, rejection.detail)
        return self._put(outcome, {"attempts": 0, "failure_reason": None, "answer": ""}, rejected=rejection.size_bytes)

    def refuse(self, taken: Taken, outcome: Outcome, failure_reason: int | None, quotation: Quotation) -> bool:
        """Quarantine a file that the destination refused, or that has used up its attempts.

        Args:
            taken: the file, still claimed.
            outcome: why.
            failure_reason: (0008,1197), if the destination gave one.
            quotation: what the answer says of the file goes into its sidecar.

        Returns:
            False if it could not be moved: it stays owed.
        """
        answer = quotation.about(taken.sop_instance_uid)
        reason = {"attempts": taken.attempts + 1, "failure_reason": failure_reason, "answer": answer}
        try:
            return self._put(outcome, reason)
        except LedgerError as error:
            log.error("not quarantined yet", file=logs.file_label(taken.claim.name), error=str(error))
            return False

    def _put(self, outcome: Outcome, reason: Mapping[str, Any], *, rejected: int | None = None) -> bool:
        """Carry out U6 to U8. `rejected`: the size in bytes of a file that could not be read, and may have no row."""
        name = outcome.file_name
        try:
            with self._spool.quarantine.reserve(name) as slot:
                # What is no file cannot be claimed: another uploader may have been quicker, or a person.
                found = self._spool.look(name)
                if found is None or found.is_file == (outcome.cause is Cause.NOT_A_FILE):
                    return found is None
                if rejected is not None:
                    self._ledger.adopt(name, None, rejected)
                row = self._ledger.rows([name]).get(name)
                slot.write_reason({**self._known(outcome, row), **reason})
                try:
                    self._ledger.quarantined(outcome, slot.name, attempts=1 if rejected is None else 0)
                except LedgerError:
                    slot.forget()
                    raise
                try:
                    slot.move()
                except (FileNotFoundError, NotADirectoryError):
                    slot.forget()
                    raise
        except OSError as error:
            log.error("not quarantined", file=logs.file_label(name), cause=outcome.cause, error=error)
            return False
        fields: dict[str, object] = {"sop_instance_uid": row.sop_instance_uid} if row and row.sop_instance_uid else {}
        if outcome.http_status is not None:
            fields["http_status"] = outcome.http_status
        log.warning("quarantined", file=logs.file_label(name), cause=outcome.cause, detail=outcome.detail, **fields)
        return True

    def _known(self, outcome: Outcome, row: Row | None) -> dict[str, Any]:
        return {
            "cause": outcome.cause.value,
            "detail": outcome.detail,
            "http_status": outcome.http_status,
            "received_at": row.received_at if row else None,
            "quarantined_at": utc_text(self._now()),
            "sop_instance_uid": row.sop_instance_uid if row else "",
            "sop_class_uid": row.sop_class_uid if row else "",
            "study_instance_uid": row.study_instance_uid if row else "",
            "series_instance_uid": row.series_instance_uid if row else "",
            "transfer_syntax_uid": row.transfer_syntax_uid if row else "",
        }
