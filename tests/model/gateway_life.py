"""The gateway of the model: a receiver and two uploaders, each the product's own code, and what is known of each file.

No sockets, no threads of their own, no clock: the receiver is its intake, an uploader its scheduler with a pool that
works at once. Everything else is real: spool, claims, ledger, group commit, taking, settling, quarantine, scan.
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from crash_disk import CrashDisk, Died, Process
from scripted_archive import ScriptedArchive, digest
from sender import Association, dataset, whole_file

from common.config import SpoolConfig, UploaderConfig
from common.directory import is_ours
from common.errors import StowgateError
from common.ledger import Ledger
from common.records import Event, EventRow, Row, Sender, State
from common.spool import Spool
from receiver.intake import Intake
from receiver.scp import _Store
from receiver.tally import Tally
from uploader.backlog import Backlog
from uploader.delivery import Aborted, Backoff, Delivery
from uploader.destination import Destination
from uploader.notices import Finished, Seen
from uploader.rebuilding import Rebuilding
from uploader.reconciling import Reconciling
from uploader.scheduler import Scheduler
from uploader.taking import NotTaken, Request, Taken, Taking

SENDER = Sender("MODALITY", "STOWGATE", "127.0.0.1")
_BEGINNING = datetime(2026, 11, 24, 9, tzinfo=UTC)
_SPOOL = SpoolConfig(settle_seconds=2, rescan_seconds=30)
_UPLOADER = UploaderConfig(
    threads=2, batch_instances=3, max_attempts=2, backoff_initial_seconds=1, backoff_max_seconds=60
)


class _AtOnce(Executor):
    """A pool that works in the thread that asks for it."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*arguments, **options))
        return done


@dataclass
class Uploader:
    """A running uploader."""

    process: Process
    ledger: Ledger
    spool: Spool
    scheduler: Scheduler
    reconciling: Reconciling


@dataclass
class Receiver:
    """A running receiver."""

    process: Process
    ledger: Ledger
    intake: Intake


@dataclass
class Gateway:
    """All processes, all files.

    Attributes:
        owed: by digest, the SOP Instance UID of what was acknowledged to a sender, or dropped by a person and left.
        uids: the same of all that ever came.
        since: when it came that is owed, by digest, as a count of such events.
        given_up: when a person took one away, or overwrote it.
        touched: SOP Instance UIDs of these.
        untold: names of files that were sent and deleted by a process that died before it could record that.
    """

    folder: Path
    owed: dict[str, str] = field(default_factory=dict)
    uids: dict[str, str] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    given_up: dict[str, int] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    untold: set[str] = field(default_factory=set)
    seconds: float = 0.0
    count: int = 0
    uid_count: int = 0
    ledger_was_deleted: bool = False
    receiver: Receiver | None = None
    uploaders: list[Uploader | None] = field(default_factory=lambda: [None, None])

    def __post_init__(self) -> None:
        self.disk = CrashDisk(self.folder)
        self.archive = ScriptedArchive(self.disk.step)
        self._names = Random(4)  # noqa: S311 - names that are the same in each run

    def next_name(self) -> uuid.UUID:
        """In place of uuid4."""
        return uuid.UUID(int=self._names.getrandbits(128))

    def next_uid(self) -> str:
        """The UID of a new instance."""
        self.uid_count += 1
        return f"1.2.826.0.1.{self.uid_count:04}"

    @property
    def incoming(self) -> Path:
        """The folder incoming/ of now."""
        return self.disk.spool / "incoming"

    @property
    def quarantine(self) -> Path:
        """The folder quarantine/ of now."""
        return self.disk.spool / "quarantine"

    # Processes

    def start_receiver(self) -> Receiver | None:
        """A receiver as `receiver.__main__` makes it; None if it died, or gave up, at its start."""
        process = self.disk.start("receiver")
        with self.disk.running(process):
            try:
                spool = Spool(self.disk.spool)
                spool.prepare()
                errors = self.disk.errors
                spool.staging.sweep()
                with self.disk.running(None):
                    # But for what an uploader that starts at the same moment tries the folders with.
                    left = [path for path in (self.disk.spool / "staging").iterdir() if path.suffix != ".part"]
                assert not left or self.disk.errors > errors, "staging/ is clean after the start of the only receiver"
                ledger = Ledger(spool.ledger, busy_seconds=0)
                self.receiver = Receiver(process, ledger, Intake(spool, ledger))
            except (Died, StowgateError, OSError):
                self.disk.kill(process)
                return None
        return self.receiver

    def start_uploader(self, number: int) -> Uploader | None:
        """An uploader as `uploader.__main__` makes it; None if it died, or gave up, at its start."""
        process = self.disk.start(f"uploader {number}")
        with self.disk.running(process):
            try:
                spool = Spool(self.disk.spool)
                spool.prepare()
                spool.quarantine.sweep()
                ledger = Ledger(spool.ledger, busy_seconds=0, durable=True)
                self.uploaders[number] = uploader = self._assemble(process, spool, ledger)
            except (Died, StowgateError, OSError):
                self.disk.kill(process)
                return None
        return uploader

    def _assemble(self, process: Process, spool: Spool, ledger: Ledger) -> Uploader:
        options = _UPLOADER
        backlog = Backlog(_SPOOL.settle_seconds, large_bytes=options.batch_size)
        backoff = Backoff(options.backoff_initial_seconds, options.backoff_max_seconds, options.max_attempts)
        reconciling = Reconciling(
            spool,
            ledger,
            backlog,
            backoff_max=60,
            empty_folder_seconds=_SPOOL.rescan_seconds,
            now=self._now,
            enter=lambda names: Rebuilding(spool, ledger, threading.Event())._run(sorted(names)),
        )
        scheduler = Scheduler(
            spool=spool,
            delivery=Delivery(spool, ledger, self.archive, backoff, self._now),
            backlog=backlog,
            destination=Destination(options.backoff_initial_seconds, options.backoff_max_seconds),
            reconciling=reconciling,
            spool_config=_SPOOL,
            config=options,
            monotonic=lambda: self.seconds,
        )
        scheduler._pool = _AtOnce()  # type: ignore[assignment]
        scheduler._delivery._closing._threads = _AtOnce()  # type: ignore[assignment]
        return Uploader(process, ledger, spool, scheduler, reconciling)

    def _now(self) -> datetime:
        return _BEGINNING + timedelta(seconds=self.seconds)

    def start(self) -> None:
        """Whoever does not run."""
        if self.receiver is None:
            self.start_receiver()
        for number, uploader in enumerate(self.uploaders):
            if uploader is None:
                self.start_uploader(number)

    def kill_receiver(self) -> None:
        """SIGKILL, or it died by itself."""
        if self.receiver is not None:
            self.disk.kill(self.receiver.process)
            self.receiver = None

    def kill_uploader(self, number: int) -> None:
        """SIGKILL, or it died by itself."""
        uploader = self.uploaders[number]
        if uploader is not None:
            self._note_untold(uploader)
            self.disk.kill(uploader.process)
            self.uploaders[number] = None

    def _note_untold(self, uploader: Uploader) -> None:
        """It is about to take with it what it has deleted and could not record."""
        self.untold |= {one.outcome.file_name for one in uploader.scheduler._delivery._settling._unrecorded}

    def bury(self, cut: dict[str, Any]) -> None:
        """Clear away who died; after a power cut, all of them, and what it took with it."""
        if self.disk.powerless:
            for process in self.disk.processes:
                process.dead = True
            for uploader in filter(None, self.uploaders):
                self._note_untold(uploader)
            self.disk.cut(**cut)
            self.receiver, self.uploaders = None, [None, None]
            return
        if self.receiver is not None and self.receiver.process.dead:
            self.kill_receiver()
        for number, uploader in enumerate(self.uploaders):
            if uploader is not None and uploader.process.dead:
                self.kill_uploader(number)

    # The receiver's work

    def receive(self, uid: str, filler: int = 8, *, claimed_uid: str = "", gone: bool = False) -> bool:
        """Take one instance on an association of its own; whether it was acknowledged.

        Args:
            uid: in the dataset.
            filler: how long it is.
            claimed_uid: in the command, if another one.
            gone: the sender is gone in the middle of it.
        """
        receiver = self.receiver or self.start_receiver()
        if receiver is None:
            return False
        since = self.comes(whole_file(uid, filler), uid)
        acknowledged = self._serve(receiver, claimed_uid or uid, dataset(uid, filler), gone=gone)
        if acknowledged:
            self._acknowledged(uid, filler, since)
        return acknowledged

    def receive_together(self, uids: list[str], when: int) -> None:
        """Take several instances at once: the others come while the first one is at its step `when`."""
        receiver = self.receiver or self.start_receiver()
        if receiver is None:
            return
        first, *others = uids
        since = {uid: self.comes(whole_file(uid), uid) for uid in uids}
        threads: list[threading.Thread] = []
        acknowledged: set[str] = set()

        def serve(uid: str) -> None:
            if self._serve(receiver, uid, dataset(uid)):
                acknowledged.add(uid)

        def others_come() -> None:
            def led() -> int:
                return sum(not each.leads for each in receiver.intake._commits._waiting)

            for uid in others:
                before = led()
                thread = threading.Thread(target=serve, args=(uid,))
                thread.start()
                threads.append(thread)
                deadline = time.monotonic() + 10
                # One that leads goes through with it, since the first one, which it waits a moment for, stands still.
                while thread.is_alive() and led() == before:
                    assert time.monotonic() < deadline
                    time.sleep(0.0001)

        with self.disk.companions(when, others_come):
            serve(first)
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        for uid in sorted(acknowledged):
            self._acknowledged(uid, 8, since[uid])

    def _serve(self, receiver: Receiver, uid: str, content: bytes, *, gone: bool = False) -> bool:
        """Serve an association on which one instance is sent; whether that was acknowledged."""
        store = _Store(receiver.intake, SENDER, lambda _id, _fragments: None, Tally())
        association = Association(store, self.disk.step)
        with self.disk.running(receiver.process), contextlib.suppress(Died):
            association.send(uid, content, gone=gone)
        return association.acknowledged

    def _acknowledged(self, uid: str, filler: int, since: int) -> None:
        """The answer 0x0000 went out: what the guarantee says about this moment must be true."""
        content = whole_file(uid, filler)
        self.is_owed(content, since)
        if self.given_up.get(digest(content), 0) > since or digest(content) in self.archive.named:
            return  # somebody got in between
        if any(path.read_bytes() == content for path in self.files(self.quarantine)):
            return  # an uploader did
        flushed = [path.name for path in self.files(self.incoming) if self.disk.is_flushed(path, content)]
        assert flushed, f"acknowledged before it is flushed: {uid}"
        assert self.rows().keys() & set(flushed) or self.ledger_was_deleted, f"acknowledged without a row: {uid}"

    # The uploader's work

    def turn(self, number: int) -> None:
        """One uploader does all that is due now."""
        uploader = self.uploaders[number] or self.start_uploader(number)
        if uploader is None:
            return
        scheduler = uploader.scheduler
        with self.disk.running(uploader.process):
            try:
                scheduler._scan(self.seconds)
                for _ in range(20):
                    for name in scheduler._backlog.ripe(self.seconds):
                        scheduler._backlog.ripen(name, uploader.spool.look(name), self.seconds)
                    scheduler._gather_until = 0.0
                    scheduler._dispatch(self.seconds)
                    if scheduler._queue.empty():
                        return
                    while not scheduler._queue.empty():
                        self._take_in(scheduler)
            except Died:
                pass

    def _take_in(self, scheduler: Scheduler) -> None:
        what = scheduler._queue.get_nowait()
        error = what.error if isinstance(what, Finished) else None
        if isinstance(error, Died):
            raise error
        if error is not None and not isinstance(error, StowgateError | Aborted | OSError):
            raise AssertionError("a delivery failed as none may") from error
        seen: dict[str, Seen] = {}
        scheduler._take_in(what, seen)
        scheduler._look_at(seen)

    def see(self, name: str) -> None:
        """The watcher of each uploader saw a file being closed."""
        for uploader in self.uploaders:
            if uploader is not None and not uploader.process.dead:
                with self.disk.running(uploader.process):
                    uploader.scheduler._look_at({name: Seen(name, closed=True)})

    # People

    def files(self, folder: Path) -> list[Path]:
        """The files that a person sees, in the same order in each run; no sidecars, nothing hidden."""
        with self.disk.running(None):
            found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        return sorted(path for path in found if path.suffix != ".json")

    def gives_up(self, path: Path) -> None:
        """What is at this path is about to be taken away by a person."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        self.count += 1
        self.given_up[digest(content)] = self.count
        self.touched.add(self.uids.get(digest(content), ""))

    def comes(self, content: bytes, uid: str) -> int:
        """A file of this content is about to come; when, for `is_owed`."""
        self.uids[digest(content)] = uid
        self.count += 1
        return self.count

    def is_owed(self, content: bytes, since: int) -> None:
        """A file of this content was acknowledged, or dropped, that came then."""
        known = digest(content)
        self.owed[known] = self.uids[known]
        self.since[known] = max(since, self.since.get(known, 0))

    # What must be true

    def rows(self) -> dict[str, Row]:
        """All rows, by file name; none if there is no ledger."""
        return {row.file_name: row for row, _ in self.history()}

    def history(self) -> list[tuple[Row, list[EventRow]]]:
        """All rows, each with its events; none if there is no ledger."""
        with self.disk.running(None):
            if not (self.disk.spool / "ledger.db").exists():
                return []
            with contextlib.closing(Ledger(self.disk.spool / "ledger.db")) as ledger:
                return [(row, ledger.events(row.file_name)) for row in ledger.latest(100_000)]

    def nothing_is_lost(self) -> None:
        """Acknowledged or dropped: at the archive, or in a folder with its bytes, or taken away by a person."""
        with self.disk.running(None):
            there = {digest(path.read_bytes()) for path in self.files(self.incoming) + self.files(self.quarantine)}
        excused = {known for known, when in self.given_up.items() if when > self.since.get(known, 0)}
        lost = self.owed.keys() - there - self.archive.named - excused
        assert not lost, f"lost: {sorted(self.owed[one] for one in lost)}"

    def names_of_ours_are_whole(self) -> None:
        """What has a receiver's name in incoming/ got it when all of its bytes were on the disk (R2 before R3)."""
        with self.disk.running(None):
            for path in self.files(self.incoming):
                assert not is_ours(path.name) or digest(path.read_bytes()) in self.uids, f"half a file: {path.name}"

    def reasons_are_there(self) -> None:
        """Each file in quarantine/ has its reason beside it."""
        with self.disk.running(None):
            quarantine = Spool(self.disk.spool).quarantine
            for path in self.files(self.quarantine):
                assert "cause" in quarantine.read_reason(path.name), f"no reason beside {path.name}"

    def books_are_true(self) -> None:
        """What the ledger says for good of an instance, or ever said of its end, is what happened to it."""
        history = self.history()
        for row, events in history:
            uid = row.sop_instance_uid
            if row.state is State.SENT:
                assert uid in self.archive.named_uids, f"the ledger calls {uid} sent, the archive never named it"
            gone = [event.detail for event in events if event.event is Event.REMOVED]
            if not gone or not uid or uid in self.touched:
                continue
            # What the ledger could not be told of at once is told later, and by a process that dies never.
            untold = row.file_name.partition("#")[0] in self.untold and uid in self.archive.named_uids
            # U7 before a crash, where the file gets another name in quarantine/: it is adopted anew under its own.
            renamed = gone == [f"disappeared from {State.QUARANTINE}/"] and any(
                other.sop_instance_uid == uid for other, _ in history if other is not row
            )
            assert untold or renamed, f"the ledger says that somebody took {uid} away, but nobody did"

    def nothing_is_left_over(self) -> None:
        """Of those that died, once others have started: neither half-written files nor reasons that stand alone."""
        with self.disk.running(None):
            left = [path.name for path in self.disk.spool.rglob("*.part")]
            left += [path.name for path in self.quarantine.glob("*.json") if not path.with_suffix("").exists()]
        assert not left, f"left over: {left}"

    def books_agree(self) -> None:
        """After a restart and a scan that nothing disturbs, ledger and folders say the same."""
        self.disk.fault = None
        for number in (0, 1):
            self.kill_uploader(number)
        self.kill_receiver()
        assert self.start_receiver() is not None
        uploader = self.start_uploader(0)
        assert uploader is not None
        self.nothing_is_left_over()
        with self.disk.running(uploader.process):
            uploader.reconciling.scan(self.seconds)
            found = list(uploader.spool.scan())
            taken = Taking(uploader.spool, uploader.ledger, threading.Lock()).take(
                [Request(one.name, settled=True) for one in found]
            )
            for one in taken:
                if one.claim is not None:
                    one.claim.close()
            uploader.reconciling.scan(self.seconds)
        good = {one.claim.name: one for one in taken if isinstance(one, Taken)}
        bad = {one.name for one in taken if isinstance(one, NotTaken)}
        rows = self.rows()
        for name, one in good.items():
            row = rows[name]
            assert (row.state, row.sop_instance_uid) == (State.INCOMING, one.sop_instance_uid), name
            assert row.size_bytes == (self.incoming / name).stat().st_size
        owed = {name for name, row in rows.items() if row.state is State.INCOMING}
        assert owed - bad == good.keys()
        quarantined = {name for name, row in rows.items() if row.state is State.QUARANTINE}
        # Where a file of the same name was dropped meanwhile, the row is that one's until it is gone.
        both = bad | good.keys()
        assert quarantined - both == {path.name for path in self.files(self.quarantine)} - both
