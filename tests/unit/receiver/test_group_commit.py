"""R4 and R5 of several associations together, with a staging and a ledger that can be held up."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import LedgerError, LedgerRowError
from common.instance import Instance
from common.ledger import Ledger
from common.records import Receipt, Sender
from common.staging import Staging
from receiver import group_commit
from receiver.group_commit import GroupCommit
from support.pipeline import wait_for

SENDER = Sender("CT-1", "STOWGATE", "192.0.2.7")


def receipt(name: str) -> Receipt:
    return Receipt(name, Instance("1.2", "1.3", "1.4"), SENDER, 10)


class HeldStaging(Staging):
    """Counts its flushes, and keeps each until it is let go."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"), Path("/nowhere"))
        self.begun = 0
        self.go = threading.Semaphore(0)
        self.error: OSError | None = None
        self.errors: list[OSError] = []  # of the next flushes

    def sync_incoming(self) -> None:
        """Flush when it is let go."""
        self.begun += 1
        assert self.go.acquire(timeout=10)
        if self.error is not None:
            raise self.error
        if self.errors:
            raise self.errors.pop(0)


class Book(Ledger):
    """Remembers the transactions that it was asked for, and refuses those with a row that it does not like."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.recorded: list[str] = []
        self.refused: set[str] = set()
        self.locked = False

    def received(self, *receipts: Receipt) -> None:
        """Record all or none."""
        names = [one.file_name for one in receipts]
        self.asked.append(names)
        if self.refused & set(names):
            raise LedgerRowError("the ledger refuses the row")
        if self.locked:
            raise LedgerError("the ledger cannot be used now")
        self.recorded += names


class Crowd:
    """Associations that commit at the same time: the first holds the flush until the others wait for the next."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.staging = HeldStaging()
        self.book = Book()
        self.commits = GroupCommit(self.staging, self.book)

    def run(self, before_last: Callable[[], None] = lambda: None) -> dict[str, BaseException | None]:
        """What became of each."""
        with ThreadPoolExecutor(len(self.names)) as pool:
            outcomes: dict[str, Future[None]] = {}
            for number, name in enumerate(self.names):
                outcomes[name] = pool.submit(self.commits.commit, receipt(name), 0)
                # The first has begun to flush; each of the others is in the queue.
                wait_for(lambda number=number: len(self.commits._waiting) == number and self.staging.begun == 1)
            before_last()
            self.staging.go.release(2)
            return {name: outcome.exception(10) for name, outcome in outcomes.items()}


def test_one_alone_is_committed_by_its_own_thread() -> None:
    """A flush, a transaction, and no other thread."""
    crowd = Crowd(["a"])
    crowd.staging.go.release()
    threads = threading.active_count()
    crowd.commits.commit(receipt("a"), 0)
    assert (crowd.staging.begun, crowd.book.asked) == (1, [["a"]])
    assert threading.active_count() == threads


def test_all_who_wait_share_one_flush_and_one_transaction() -> None:
    """Those who came during a flush were renamed after it began: they get the next one, together."""
    crowd = Crowd(["a", "b", "c", "d"])
    assert set(crowd.run().values()) == {None}
    assert crowd.staging.begun == 2
    assert crowd.book.asked == [["a"], ["b", "c", "d"]]


def test_nobody_returns_before_the_row_is_recorded() -> None:
    """While the flush is under way, no one has an answer, nor a row."""
    crowd = Crowd(["a", "b", "c"])
    seen = []
    crowd.run(lambda: seen.append(list(crowd.book.recorded)))
    assert seen == [[]]
    assert crowd.book.recorded == ["a", "b", "c"]


class Expecting:
    """One association that leads, and another that is expected meanwhile; their moment lasts as long as it must."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, moment_seconds: float = 60) -> None:
        monkeypatch.setattr(group_commit, "_MOMENT_SECONDS", moment_seconds)
        self.crowd = Crowd([])
        self.commits = self.crowd.commits
        self.crowd.staging.go.release(10)
        self.pool = ThreadPoolExecutor(2)
        self.commits.expect()
        self.first = self.pool.submit(self.commits.commit, receipt("a"), 0)

    def leader_waits(self) -> bool:
        """Tell whether it does."""
        return self.commits._leader is not None


def test_a_leader_waits_for_who_is_about_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """And commits both together as soon as it is there."""
    expecting = Expecting(monkeypatch)
    wait_for(expecting.leader_waits)
    assert expecting.crowd.staging.begun == 0
    expecting.pool.submit(expecting.commits.commit, receipt("b"), 0, expected=True).result(10)
    expecting.first.result(10)
    assert (expecting.crowd.staging.begun, expecting.crowd.book.asked) == (1, [["a", "b"]])


def test_a_leader_does_not_wait_for_who_will_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that turned out to be refused is taken back."""
    expecting = Expecting(monkeypatch)
    wait_for(expecting.leader_waits)
    expecting.commits.expect_no_more()
    expecting.first.result(10)
    assert expecting.crowd.book.asked == [["a"]]


def test_a_leader_waits_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes later has a group of its own."""
    expecting = Expecting(monkeypatch, moment_seconds=0.01)
    expecting.first.result(10)
    expecting.commits.commit(receipt("b"), 0, expected=True)
    assert expecting.crowd.book.asked == [["a"], ["b"]]


def test_who_is_expected_does_not_wait_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor for anybody who was expected and has come."""
    monkeypatch.setattr(group_commit, "_MOMENT_SECONDS", 60)
    crowd = Crowd([])
    crowd.staging.go.release(2)
    with ThreadPoolExecutor(1) as pool:
        for name in "ab":
            crowd.commits.expect()
            pool.submit(crowd.commits.commit, receipt(name), 0, expected=True).result(10)
    assert crowd.book.asked == [["a"], ["b"]]


def test_a_flush_that_fails_fails_for_all_who_shared_it() -> None:
    """No second try: the kernel reports a failed flush once. Nothing is recorded, and the next ones are served."""
    crowd = Crowd(["a", "b", "c"])
    crowd.staging.error = OSError(5, "Input/output error")
    outcomes = crowd.run()
    assert {str(error) for error in outcomes.values()} == {"[Errno 5] Input/output error"}
    assert (crowd.staging.begun, crowd.book.asked) == (2, [])
    crowd.staging.error = None
    crowd.staging.go.release()
    crowd.commits.commit(receipt("d"), crowd.commits.failed_flushes)
    assert crowd.book.recorded == ["d"]


def test_what_was_renamed_before_a_flush_that_failed_is_never_acknowledged() -> None:
    """The kernel says once that it failed, then yes: whoever waits for the next flush is refused all the same."""
    crowd = Crowd(["a", "b", "c"])
    crowd.staging.errors = [OSError(5, "Input/output error")]
    outcomes = crowd.run()
    assert {str(error) for error in outcomes.values()} == {"[Errno 5] Input/output error"}
    assert (crowd.staging.begun, crowd.book.asked) == (2, [])
    crowd.staging.go.release(2)
    with pytest.raises(OSError, match="Input/output"):
        crowd.commits.commit(receipt("renamed before"), 0)
    crowd.commits.commit(receipt("renamed after"), crowd.commits.failed_flushes)
    assert crowd.book.recorded == ["renamed after"]


def test_a_ledger_that_nobody_can_write_is_asked_once_for_all() -> None:
    """One that is locked takes its time to say so: not that time for each of those who wait."""
    crowd = Crowd(["a", "b", "c", "d"])
    crowd.book.locked = True
    outcomes = crowd.run()
    assert {type(error) for error in outcomes.values()} == {LedgerError}
    assert crowd.book.asked == [["a"], ["b", "c", "d"]]


def test_a_row_that_the_ledger_refuses_harms_no_other() -> None:
    """The transaction of all is given up, and each gets its own."""
    crowd = Crowd(["a", "b", "c", "d"])
    crowd.book.refused = {"c"}
    outcomes = crowd.run()
    assert isinstance(outcomes["c"], LedgerError)
    assert [name for name, error in outcomes.items() if error is None] == ["a", "b", "d"]
    assert crowd.book.recorded == ["a", "b", "d"]
    assert crowd.staging.begun == 2


def test_an_error_that_nobody_foresaw_reaches_everybody_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is woken, and the next one finds nobody at work."""
    crowd = Crowd(["a", "b", "c"])

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(crowd.book, "received", fail)
        outcomes = crowd.run()
    assert {type(error) for error in outcomes.values()} == {ZeroDivisionError}
    crowd.staging.go.release()
    crowd.commits.commit(receipt("d"), crowd.commits.failed_flushes)
    assert crowd.book.recorded == ["d"]


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    """Hundreds of commits from eight threads, into a real folder and a real ledger: each has its row, in few groups."""
    for folder in ("incoming", "staging"):
        (tmp_path / folder).mkdir()
    ledger = Ledger(tmp_path / "ledger.db")
    commits = GroupCommit(Staging(tmp_path / "staging", tmp_path / "incoming"), ledger)
    names = [f"{number}.dcm" for number in range(400)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: commits.commit(receipt(name), 0), names))
    assert ledger.rows(names).keys() == set(names)
    ledger.close()
