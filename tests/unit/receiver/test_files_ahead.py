import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.spool import Spool
from common.staging import Staged
from receiver.files_ahead import FilesAhead


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


def names(spool: Spool) -> list[str]:
    return sorted(os.listdir(spool.staging.path))


def test_a_receiver_that_nobody_sends_to_leaves_staging_as_it_is(spool: Spool) -> None:
    """The first file is created when it is needed."""
    ahead = FilesAhead(spool.staging.open)
    assert names(spool) == []
    staged = ahead.take()
    assert names(spool) == [staged.name]
    staged.withdraw()


def test_a_file_that_is_ready_is_taken_once(spool: Spool) -> None:
    """It is the one that was created, empty, and nobody else gets it."""
    ahead = FilesAhead(spool.staging.open)
    ahead.restock()
    (name,) = names(spool)
    first, second = ahead.take(), ahead.take()
    assert (first.name, first.size_bytes) == (name, 0)
    assert second.name != name
    first.withdraw()
    second.withdraw()


def test_there_are_as_many_as_were_taken_at_the_same_time(spool: Spool) -> None:
    """One association keeps one, however many instances it brings; eight at once keep eight."""
    ahead = FilesAhead(spool.staging.open)

    def instance(_: int) -> None:
        ahead.take().withdraw()
        ahead.restock()

    for number in range(20):
        instance(number)
    assert len(names(spool)) == 1
    taken = [ahead.take() for _ in range(8)]
    for staged in taken:
        staged.withdraw()
        ahead.restock()
    assert len(names(spool)) == 8
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(instance, range(200)))
    assert len(names(spool)) == 8
    ahead.close()


def test_there_are_never_more_than_a_bound(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds a descriptor open."""
    monkeypatch.setattr(FilesAhead, "_MOST", 3)
    ahead = FilesAhead(spool.staging.open)
    for _ in range(5):
        ahead.restock()
    assert len(names(spool)) == 3
    ahead.close()


def test_what_was_not_taken_is_removed_at_the_end(spool: Spool) -> None:
    """A stop leaves no empty files behind."""
    ahead = FilesAhead(spool.staging.open)
    ahead.restock()
    ahead.close()
    assert names(spool) == []


def test_a_file_that_somebody_removed_is_passed_over(spool: Spool) -> None:
    """What would be written to it could not be renamed."""
    ahead = FilesAhead(spool.staging.open)
    ahead.restock()
    (name,) = names(spool)
    (spool.staging.path / name).unlink()
    staged = ahead.take()
    assert names(spool) == [staged.name]
    staged.withdraw()


def test_a_folder_that_cannot_be_written_is_left_to_who_needs_it(spool: Spool) -> None:
    """No exception after an instance that was stored; whoever needs a file gets it, or the reason."""
    full = True

    def create() -> Staged:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return spool.staging.open()

    ahead = FilesAhead(create)
    ahead.restock()
    with pytest.raises(OSError, match="No space"):
        ahead.take()
    full = False
    ahead.take().withdraw()
