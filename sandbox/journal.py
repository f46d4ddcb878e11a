"""What was posted: the last requests, and counts since the start. No patient data: UIDs and sizes only."""

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from sandbox.answer import Outcome

KEPT = 1000
_NAMED_FAILURES = 5


@dataclass
class Record:
    """One POST.

    Attributes:
        path: the resource posted to.
        time: when its head had been read, UTC, ISO 8601 with microseconds.
        bytes: bytes of the body that were read.
        sop_instance_uids: of its parts in their order, as far as they could be read.
        status: the HTTP status answered; None if the connection went away unanswered.
        dropped: before, during or after by a rule; peer, if the peer went away; None if it was answered.
        rule: the number of the rule that it fell under, or None.
        refused: why it was refused whole, or None.
        failures: the instances not stored, with FailureReason and explanation.
    """

    path: str
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))
    instances: int = 0
    bytes: int = 0
    sop_instance_uids: list[str | None] = field(default_factory=list)
    stored: int = 0
    status: int | None = None
    dropped: str | None = None
    rule: int | None = None
    refused: str | None = None
    failures: list[dict[str, str | None]] = field(default_factory=list)

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Enter what became of the instances."""
        self.stored = sum(1 for outcome in outcomes if not outcome.failure_reason)
        self.failures = [
            {
                "sop_instance_uid": outcome.identity.sop_instance_uid,
                "reason": f"0x{outcome.failure_reason:04X}",
                "explanation": outcome.explanation,
            }
            for outcome in outcomes
            if outcome.failure_reason
        ]

    def line(self) -> str:
        """Say it on one line, for a person."""
        if self.refused is not None:
            text = f"refused: {self.refused}"
        elif self.stored or self.failures:
            text = f"stored {self.stored}"
            if self.failures:
                text += f", failed {len(self.failures)} ({self._failures()})"
        else:
            text = f"read {self.instances}, stored none"
        end = {None: str(self.status), "peer": "the peer closed the connection"}.get(
            self.dropped, f"connection dropped {self.dropped}"
        )
        return f"sandbox: {text} → {end}{f' (rule {self.rule})' if self.rule else ''}"

    def _failures(self) -> str:
        first = [
            f"{failure['sop_instance_uid'] or 'unnamed'}: {str(failure['reason']).removeprefix('0x')}"
            for failure in self.failures[:_NAMED_FAILURES]
        ]
        return ", ".join(first) + (", …" if len(self.failures) > _NAMED_FAILURES else "")


class Journal:
    """The last KEPT POSTs, and the totals since the start or the last clear().

    Args:
        quiet: write no line for a POST.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._records: deque[Record] = deque(maxlen=KEPT)
        self._quiet = quiet
        self.requests = 0
        self.bytes = 0

    def add(self, record: Record) -> None:
        """Enter a POST, complete with its status, before it is answered."""
        self._records.append(record)
        self.requests += 1
        self.bytes += record.bytes
        if not self._quiet:
            print(record.line(), flush=True)

    def clear(self) -> None:
        """Forget everything."""
        self._records.clear()
        self.requests = self.bytes = 0

    def as_list(self) -> list[dict[str, object]]:
        """Give the last POSTs, oldest first."""
        return [asdict(record) for record in self._records]
