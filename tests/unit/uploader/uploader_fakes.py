"""Stand-ins for what lies around the uploader's parts: an archive in memory, answers, a pipeline without processes."""

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from common.config import SpoolConfig, UploaderConfig
from common.ledger import Ledger
from common.part10 import read_part10
from common.records import Receipt, Row, Sender, State
from common.spool import Claim, Spool
from support.samples import make_instance
from uploader.backlog import Backlog
from uploader.delivery import Backoff, Confirm, Delivery, believe
from uploader.destination import Destination
from uploader.multipart import Part
from uploader.reconciling import Reconciling
from uploader.scheduler import Scheduler
from uploader.verdict import Answer, Failure, StoreResponse, Trouble, Verdict

FAILURE = Answer(failure=Failure.BROKEN, detail="the connection broke")
UNAVAILABLE = Answer(status=503, detail="HTTP 503")
ERROR = Answer(status=500, detail="HTTP 500")
SENDER = Sender("MODALITY", "STOWGATE", "127.0.0.1")


def uid_of(part: Part) -> str:
    """The SOP Instance UID in the bytes of a part."""
    content = part.read_at(0, part.size_bytes)
    return read_part10(io.BytesIO(content), len(content)).sop_instance_uid


def stored(uids: Sequence[str], *, status: int = 200) -> Answer:
    """An answer that names these as stored."""
    return Answer(status=status, response=StoreResponse(stored=dict.fromkeys(uids)))


def failed(reasons: dict[str, int | None], *, status: int = 409, others: Sequence[str] = ()) -> Answer:
    """An answer that names these as failed, and others as stored."""
    return Answer(status=status, response=StoreResponse(stored=dict.fromkeys(others), failed=reasons))


Reply = Answer | Callable[[list[str]], Answer]


@dataclass
class Archive:
    """A client whose archive is in memory.

    Attributes:
        poison: by UID, the answer to every request with that instance.
        script: answers to the next requests, before anything else.
        down: the answer to everything, while it is set.
        seconds: how long a request takes.
        requests: the UIDs of each request, in the order in which they came.
        stored: the UIDs that it has, and how often it took each.
        before: called with the parts of a request before it is answered.
    """

    poison: dict[str, Reply] = field(default_factory=dict)
    script: list[Reply] = field(default_factory=list)
    down: Answer | None = None
    seconds: float = 0.0
    requests: list[list[str]] = field(default_factory=list)
    stored: dict[str, int] = field(default_factory=dict)
    before: Callable[[Sequence[Part]], None] = lambda _parts: None
    busiest: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0

    def store(self, parts: Sequence[Part], *, tries: int = 3) -> Answer:
        """Answer one request."""
        del tries
        uids = [uid_of(part) for part in parts]
        with self._lock:
            self.requests.append(uids)
            self._now += 1
            self.busiest = max(self.busiest, self._now)
        try:
            self.before(parts)
            if self.seconds:
                time.sleep(self.seconds)
            return self._answer(uids)
        finally:
            with self._lock:
                self._now -= 1

    def _answer(self, uids: list[str]) -> Answer:
        with self._lock:
            if self.script:
                reply = self.script.pop(0)
                return reply if isinstance(reply, Answer) else reply(uids)
            if self.down is not None:
                return self.down
            for uid in uids:
                if uid in self.poison:
                    reply = self.poison[uid]
                    return reply if isinstance(reply, Answer) else reply(uids)
            for uid in uids:
                self.stored[uid] = self.stored.get(uid, 0) + 1
            return stored(uids)


@dataclass
class Gateway:
    """A spool, a ledger and the parts of an uploader on them, in this process, with an archive in memory."""

    folder: Path
    archive: Archive = field(default_factory=Archive)
    config: UploaderConfig = field(
        default_factory=lambda: UploaderConfig(
            threads=1, max_attempts=3, backoff_initial_seconds=0.02, backoff_max_seconds=0.05
        )
    )
    spool_config: SpoolConfig = field(default_factory=lambda: SpoolConfig(settle_seconds=0.1, rescan_seconds=0.3))
    confirm: Confirm = believe
    publish_seconds: ClassVar[float] = 0.01

    def __post_init__(self) -> None:
        self.spool = Spool(self.folder / "spool")
        self.spool.prepare()
        self.ledger = Ledger(self.spool.ledger, busy_seconds=0.2)
        self.drop_count = 0
        self.assemble()

    def assemble(self) -> None:
        """Make the parts anew, as a restart does."""
        options = self.config
        self.backlog = Backlog(
            self.spool_config.settle_seconds, publish_seconds=self.publish_seconds, large_bytes=options.batch_size
        )
        backoff = Backoff(options.backoff_initial_seconds, options.backoff_max_seconds, options.max_attempts)
        self.delivery = Delivery(self.spool, self.ledger, self.archive, backoff, self.now, confirm=self._confirm)
        self.destination = Destination(options.backoff_initial_seconds, options.backoff_max_seconds)
        self.reconciling = Reconciling(
            self.spool,
            self.ledger,
            self.backlog,
            backoff_max=options.backoff_max_seconds,
            empty_folder_seconds=self.spool_config.rescan_seconds,
            now=self.now,
        )
        self.scheduler = Scheduler(
            spool=self.spool,
            delivery=self.delivery,
            backlog=self.backlog,
            destination=self.destination,
            reconciling=self.reconciling,
            spool_config=self.spool_config,
            config=options,
            monotonic=self.monotonic,
        )

    def now(self) -> datetime:
        """The wall clock of its parts."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Their other clock, in seconds."""
        return time.monotonic()

    def _confirm(self, verdict: Verdict, http_status: int | None, claim: Claim) -> Verdict | Trouble:
        return self.confirm(verdict, http_status, claim)

    def configure(self, **settings: object) -> None:
        """Change settings of [uploader], and make the parts anew."""
        self.config = replace(self.config, **settings)  # type: ignore[arg-type]
        self.assemble()

    def drop(self, count: int) -> list[str]:
        """Drop instances by hand, as N.dcm; their UIDs."""
        first, self.drop_count = self.drop_count, self.drop_count + count
        return [make_instance(self.spool.incoming / f"{number}.dcm") for number in range(first, first + count)]

    def receive(self, count: int) -> list[str]:
        """Put instances in as a receiver does, each with its row; their UIDs."""
        uids = []
        for _ in range(count):
            aside = self.folder / "aside.dcm"
            uids.append(make_instance(aside))
            content = aside.read_bytes()
            staged = self.spool.staging.open()
            staged.write(content)
            staged.sync()
            staged.rename()
            instance = read_part10(io.BytesIO(content), len(content))
            self.ledger.received(Receipt(staged.name, instance, SENDER, len(content)))
            staged.close()
        return uids

    def rows(self) -> dict[str, Row]:
        """The rows by SOP Instance UID."""
        return {row.sop_instance_uid: row for row in self.ledger.latest(1_000_000)}

    def counts(self) -> dict[State, int]:
        """How many rows are in each state, without the states that none is in."""
        return {state: count for state, count in self.ledger.counts().items() if count}

    def incoming(self) -> set[str]:
        """The names in incoming/."""
        return {found.name for found in self.spool.scan()}

    def quarantined(self) -> set[str]:
        """The names in quarantine/, without the sidecars."""
        return set(self.spool.quarantine.names())

    @contextmanager
    def running(self) -> Iterator["Gateway"]:
        """The scheduler at work in a thread, for the length of a with block."""
        failures: list[BaseException] = []

        def work() -> None:
            try:
                self.scheduler.run()
            except BaseException as error:  # noqa: BLE001 - a loop that dies must fail the test
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield self
        finally:
            self.scheduler.stop()
            thread.join(10)
        assert not failures, failures
        assert not thread.is_alive()
        assert self.scheduler.drain(5)


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until a condition holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)
