"""Letting go of deleted files: soon, not by whoever deleted them, and never too many at once."""

import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.spool import Claim, Spool
from uploader import closing
from uploader.closing import Closing


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


@dataclass
class Claims:
    """Claims on new files, and descriptors of our own on the same files, which tell whether they are held."""

    made: list[Claim] = field(default_factory=list)
    ours: list[int] = field(default_factory=list)

    def held(self) -> int:
        """How many files somebody still has claimed."""
        return sum(1 for descriptor in self.ours if not self._is_free(descriptor))

    @staticmethod
    def _is_free(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return True


MakeClaims = Callable[..., Claims]


@pytest.fixture
def claims(spool: Spool) -> Iterator[MakeClaims]:
    """Makes claims on new files, which are deleted already or not."""
    opened: list[int] = []

    def make(count: int, *, deleted: bool = True) -> Claims:
        new = Claims()
        for number in range(len(opened), len(opened) + count):
            path = spool.incoming / f"{number}.dcm"
            path.write_bytes(b"x")
            new.ours.append(os.open(path, os.O_RDONLY))
            claim = spool.claim(path.name)
            if deleted:
                claim.delete()
            new.made.append(claim)
        opened.extend(new.ours)
        return new

    yield make
    for descriptor in opened:
        os.close(descriptor)


@dataclass
class Stopped:
    """The last close, which waits until it is let go."""

    go: threading.Event = field(default_factory=threading.Event)
    threads: list[str] = field(default_factory=list)
    real: Callable[[socket.socket], None] = closing._last_close

    def __call__(self, out: socket.socket) -> None:
        """Make it, later if that is asked for."""
        self.go.wait(30)
        self.threads.append(threading.current_thread().name)
        self.real(out)


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stopped]:
    stopped = Stopped()
    monkeypatch.setattr(closing, "_last_close", stopped)
    yield stopped
    stopped.go.set()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert true()


def test_nobody_waits_for_a_deleted_file_to_be_closed(claims: MakeClaims, stopped: Stopped) -> None:
    """The last close of each is made by another thread; whoever brought them has no descriptor of them any more."""
    deleted = claims(10)
    descriptors = [claim.fd for claim in deleted.made]
    Closing().close(deleted.made)
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    assert deleted.held() == 10
    assert stopped.threads == []
    stopped.go.set()
    until(lambda: deleted.held() == 0)
    assert [name.partition("_")[0] for name in stopped.threads] == ["closing"]


def test_the_last_close_is_not_that_of_who_brought_them(claims: MakeClaims, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the other thread lets go, whoever brought them has closed them, however long that took."""
    deleted = claims(10)
    descriptors = {claim.fd for claim in deleted.made}
    closed: set[int] = set()
    found: list[bool] = []
    real_close, real_last = os.close, closing._last_close

    def close(descriptor: int) -> None:
        time.sleep(0.01)
        real_close(descriptor)
        closed.add(descriptor)

    def last_close(out: socket.socket) -> None:
        found.append(descriptors <= closed)
        real_last(out)

    monkeypatch.setattr(os, "close", close)
    monkeypatch.setattr(closing, "_last_close", last_close)
    Closing().close(deleted.made)
    until(lambda: deleted.held() == 0)
    assert found == [True]


def test_more_than_fit_in_a_message_are_closed(claims: MakeClaims, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, at once if they are too many to wait, and in several messages if they are not."""
    many, more = claims(300), claims(300)
    Closing().close(many.made)
    until(lambda: many.held() == 0)
    monkeypatch.setattr(closing, "_MAX_OPEN", 300)
    closer = Closing()
    closer.close(more.made)
    until(lambda: more.held() == 0)
    until(lambda: closer._open == 0)


def test_a_file_that_is_still_there_can_be_claimed_at_once(claims: MakeClaims, stopped: Stopped) -> None:
    """Its claim is dropped before `close` returns: it may be due again."""
    there, deleted = claims(3, deleted=False), claims(2)
    Closing().close([*there.made, *deleted.made])
    assert (there.held(), deleted.held()) == (0, 2)


def test_a_claim_that_is_closed_already_stays_so(claims: MakeClaims) -> None:
    """As those of files that were let go on the way."""
    some = claims(3)
    some.made[1].close()
    Closing().close(some.made)
    until(lambda: some.held() == 0)


def test_descriptors_do_not_pile_up(claims: MakeClaims, stopped: Stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past a bound, whoever brings more closes them; when those before are closed, there is room again."""
    monkeypatch.setattr(closing, "_MAX_OPEN", 5)
    closer = Closing()
    first, more, again = (claims(4) for _ in range(3))
    closer.close(first.made)
    closer.close(more.made)
    assert (first.held(), more.held()) == (4, 0)
    stopped.go.set()
    until(lambda: closer._open == 0)
    stopped.go.clear()
    closer.close(again.made)
    assert (first.held(), again.held()) == (0, 4)


def test_where_the_kernel_takes_none_they_are_closed(claims: MakeClaims, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has a limit of descriptors on their way: then whoever brings them closes them."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ETOOMANYREFS, "Too many references: cannot splice")

    monkeypatch.setattr(socket, "send_fds", refuse)
    closer = Closing()
    deleted = claims(4)
    closer.close(deleted.made)
    assert (deleted.held(), closer._open) == (0, 0)
