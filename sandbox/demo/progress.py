"""How far each sample has come: received, sent, confirmed. Nothing is believed that can be looked up.

*received*: the C-STORE was answered 0x0000, and the ledger has a row. *sent*: the row says so. *confirmed*: the
sandbox gives back the very bytes, and the file is gone from incoming/.
"""

import enum
import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime

import requests

from common.errors import LedgerError
from common.ledger import Ledger
from common.records import Row, State
from sandbox.demo.folder import Folder
from sandbox.demo.modality import Answer
from sandbox.demo.samples import Sample

_LATEST = 1000  # rows of the ledger among which a new one is looked for
_SANDBOX_SECONDS = 10


class Step(enum.Enum):
    """What a sample goes through, in this order."""

    RECEIVED = "received"
    """Acknowledged by the receiver, and in the ledger."""
    SENT = "sent"
    """Named as stored by the sandbox, says the ledger."""
    CONFIRMED = "confirmed"
    """The sandbox holds the same bytes, and incoming/ does not hold the file."""


class Progress:
    """One sample on its way.

    Attributes:
        steps: the steps it has come through, each with the seconds since its C-STORE began.
        answer: to its C-STORE, once there is one.
        row: of the ledger, as last seen.
    """

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.steps: dict[Step, float] = {}
        self.answer: Answer | None = None
        self.row: Row | None = None
        self.found = ""  # by the sandbox: what it holds instead of the sample

    @property
    def confirmed(self) -> bool:
        """Whether it has arrived."""
        return Step.CONFIRMED in self.steps

    @property
    def over(self) -> bool:
        """Whether nothing more will come by itself."""
        settled = self.row is not None and self.row.state in (State.QUARANTINE, State.REMOVED)
        return self.confirmed or settled or (self.answer is not None and not self.answer.success)

    def missing(self, folder: Folder) -> str:
        """Say why it has not arrived; empty if it has."""
        if self.confirmed:
            return ""
        if self.answer is None or not self.answer.success:
            return f"not received: {self.answer.text if self.answer else 'nobody sent it to the receiver'}"
        if self.row is None:
            return "acknowledged, but the ledger has no row for it"
        name = self.row.file_name
        there = os.path.lexists(folder.spool.incoming / name)
        return {
            State.INCOMING: f"received, not sent: {name} is {'still in' if there else 'missing from'} incoming/",
            State.QUARANTINE: f"received, not sent: {name} is in quarantine/, cause {self.row.cause}",
            State.REMOVED: f"received, not sent: {name} was taken away from incoming/",
            State.SENT: f"sent, not confirmed: {self.found or f'{name} is still in incoming/'}",
        }[self.row.state]


class Follower:
    """Watches all samples of a run.

    Args:
        folder: of the demo; the receiver must have made its ledger.
        samples: those to follow.

    Raises:
        LedgerError: the ledger cannot be opened.
    """

    def __init__(self, folder: Folder, samples: tuple[Sample, ...]) -> None:
        self._folder = folder
        self._ledger = Ledger(folder.spool.ledger)
        self._session = requests.Session()
        self._session.trust_env = False
        self.progress = {sample.sop_instance_uid: Progress(sample) for sample in samples}

    def close(self) -> None:
        """Close ledger and connection."""
        self._ledger.close()
        self._session.close()

    def answered(self, sample: Sample, answer: Answer) -> None:
        """Note the answer to a C-STORE."""
        self.progress[sample.sop_instance_uid].answer = answer

    def look(self) -> Iterator[tuple[Step, Progress]]:
        """Look into the ledger, the sandbox and incoming/; gives the steps made since the last time."""
        try:
            rows = {row.sop_instance_uid: row for row in reversed(self._ledger.latest(_LATEST))}
        except LedgerError:
            return  # busy: the next look finds the same
        for uid, progress in self.progress.items():
            progress.row = rows.get(uid, progress.row)
            for step in Step:
                if step not in progress.steps:
                    if not self._made(step, progress):
                        break
                    progress.steps[step] = _seconds(step, progress)
                    yield step, progress

    @property
    def over(self) -> bool:
        """Whether nothing more will come by itself."""
        return all(progress.over for progress in self.progress.values())

    def missing(self) -> list[tuple[Sample, str]]:
        """Say of each sample that has not arrived what is missing."""
        return [
            (progress.sample, text) for progress in self.progress.values() if (text := progress.missing(self._folder))
        ]

    def slowest(self) -> float:
        """The longest that a sample took to be confirmed, in seconds."""
        return max((progress.steps.get(Step.CONFIRMED, 0.0) for progress in self.progress.values()), default=0.0)

    def rows(self) -> list[Row]:
        """The rows of the samples, as last seen, in the order of sending."""
        return [progress.row for progress in self.progress.values() if progress.row is not None]

    def counts(self) -> dict[State, int]:
        """How many rows of the whole ledger are in each state."""
        return self._ledger.counts()

    def _made(self, step: Step, progress: Progress) -> bool:
        row = progress.row
        if row is None:
            return False
        if step is Step.RECEIVED:
            return progress.answer is not None and progress.answer.success
        if step is Step.SENT:
            return row.state is State.SENT
        if os.path.lexists(self._folder.spool.incoming / row.file_name):
            return False
        progress.found = self._difference(progress.sample)
        return not progress.found

    def _difference(self, sample: Sample) -> str:
        """Say what the sandbox holds instead of the sample; empty if it holds the same bytes."""
        url = f"{self._folder.origin}/sandbox/instances/{sample.sop_instance_uid}"
        try:
            answer = self._session.get(url, timeout=_SANDBOX_SECONDS)
        except requests.RequestException as error:
            return f"the sandbox does not answer ({type(error).__name__})"
        if answer.status_code != requests.codes.ok:
            return f"the sandbox has it not (status {answer.status_code})"
        if hashlib.sha256(answer.content).hexdigest() != sample.sha256:
            return f"the sandbox holds {len(answer.content)} other bytes than the {len(sample.part10)} that were sent"
        return ""


def _seconds(step: Step, progress: Progress) -> float:
    """The time from the beginning of the C-STORE: to its answer, to what the ledger says, or until now."""
    row, answer = progress.row, progress.answer
    if row is None or answer is None:
        return 0.0
    at = answer.ended_at
    if step is Step.SENT and row.settled_at is not None:
        at = datetime.fromisoformat(row.settled_at)
    if step is Step.CONFIRMED:
        at = datetime.now(UTC)
    return (at - answer.began_at).total_seconds()
