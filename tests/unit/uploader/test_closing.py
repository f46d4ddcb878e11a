"""Letting go of deleted files: soon, not by whoever deleted them, and never too many at once."""

import os
import threading
import time
from collections.abc import Iterator
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


def claims(spool: Spool, count: int, *, deleted: bool) -> list[Claim]:
    """Claims on new files, which are deleted already or not."""
    made = []
    for number in range(count):
        (spool.incoming / f"{number}.dcm").write_bytes(b"x")
        claim = spool.claim(f"{number}.dcm")
        if deleted:
            claim.delete()
        made.append(claim)
    return made


class Stopped:
    """os.close that waits until it is let go, for the descriptors of claims."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.threads: list[str] = []
        self._close = os.close

    def __call__(self, descriptor: int) -> None:
        """Close it, later if that is asked for."""
        name = threading.current_thread().name
        if name.startswith("closing"):
            self.go.wait(30)
        self.threads.append(name)
        self._close(descriptor)


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stopped]:
    stopped = Stopped()
    monkeypatch.setattr(os, "close", stopped)
    yield stopped
    stopped.go.set()


def test_nobody_waits_for_a_deleted_file_to_be_closed(spool: Spool, stopped: Stopped) -> None:
    """They are closed by another thread, every one of them."""
    deleted = claims(spool, 10, deleted=True)
    descriptors = [claim.fd for claim in deleted]
    stopped.threads.clear()
    Closing().close(deleted)
    assert stopped.threads == []
    stopped.go.set()
    deadline = time.monotonic() + 30
    while len(stopped.threads) < len(deleted) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {name.partition("_")[0] for name in stopped.threads} == {"closing"}
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_a_file_that_is_still_there_can_be_claimed_at_once(spool: Spool, stopped: Stopped) -> None:
    """Its claim is dropped before `close` returns: it may be due again."""
    Closing().close(claims(spool, 3, deleted=False))
    for number in range(3):
        spool.claim(f"{number}.dcm").close()


def test_descriptors_do_not_pile_up(spool: Spool, stopped: Stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past a bound, whoever brings more closes them; when those before are closed, there is room again."""
    monkeypatch.setattr(closing, "_MAX_OPEN", 5)
    closer = Closing()
    first, more, again = (claims(spool, 4, deleted=True) for _ in range(3))
    stopped.threads.clear()
    closer.close(first)
    assert stopped.threads == []
    closer.close(more)
    assert stopped.threads == ["MainThread"] * 4
    stopped.go.set()
    deadline = time.monotonic() + 30
    while closer._open and time.monotonic() < deadline:
        time.sleep(0.01)
    stopped.go.clear()
    stopped.threads.clear()
    closer.close(again)
    assert stopped.threads == []
