import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common import staging, writeback
from common.spool import Busy, Spool
from common.staging import Staged

PROJECT = Path(__file__).parents[3]

RECEIVE = """
import sys
from pathlib import Path
from common.spool import Spool
staged = Spool(Path(sys.argv[1])).staging.open()
staged.write(b"first half")
staged.begin_flush()
print(staged.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


def contents(spool: Spool) -> dict[str, list[str]]:
    return {folder.name: sorted(os.listdir(folder)) for folder in (spool.staging.path, spool.incoming)}


# Receiving


def test_a_received_file_ends_in_incoming_with_its_bytes(spool: Spool) -> None:
    """Write, sync, rename, sync the directory, close: the file lies in incoming/ under a name of ours, mode 0600."""
    staged = spool.staging.open()
    staged.write(b"")
    staged.write(b"one ")
    staged.write(bytearray(b"two "))
    staged.write(memoryview(b"_three_")[1:-1])
    staged.sync()
    staged.rename()
    spool.staging.sync_incoming()
    staged.close()
    path = spool.incoming / staged.name
    assert path.read_bytes() == b"one two three"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert contents(spool) == {"staging": [], "incoming": [staged.name]}
    assert staged.size_bytes == 13


def test_the_bytes_are_flushed_before_the_name_and_the_name_before_the_directory(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2, R3 and R4 each reach the disk by the call that says so, on the descriptor that counts."""
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(fd: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        calls.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{fd}')).name if is_folder else 'the file'}")
        fsync(fd)

    def note_rename(source: str, target: str) -> None:
        calls.append(f"rename {Path(source).parent.name} {Path(target).parent.name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    staged = spool.staging.open()
    staged.write(b"bytes")
    staged.sync()
    staged.rename()
    spool.staging.sync_incoming()
    staged.close()
    assert calls == ["fsync the file", "rename staging incoming", "fsync incoming"]


def test_the_way_to_the_disk_begins_while_a_file_is_written(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte once, in pieces of at least 4 MB, and the rest when asked for: before `sync`, which does it all."""
    started: list[tuple[int, int]] = []
    monkeypatch.setattr(staging, "start_writing", lambda _, offset, length: started.append((offset, length)))
    staged = spool.staging.open()
    mebibyte = 1024 * 1024
    for _ in range(4):
        staged.write(bytes(3 * mebibyte // 2))
    assert started == [(0, 9 * mebibyte // 2)]
    staged.begin_flush()
    staged.sync()
    assert started == [(0, 9 * mebibyte // 2), (9 * mebibyte // 2, 3 * mebibyte // 2)]
    staged.withdraw()


@pytest.mark.skipif(sys.platform != "linux", reason="needs sync_file_range(2), of Linux")
def test_begun_writing_puts_dirty_pages_on_their_way(tmp_path: Path) -> None:
    """The real call, on a filesystem that has a disk: no error, whatever it is given, and the file is what it was."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000_000)
    fd = os.open(path, os.O_RDWR)
    assert writeback.start_writing is not writeback._none
    writeback.start_writing(fd, 0, 1_000_000)
    writeback.start_writing(fd, 10**12, 1)
    os.close(fd)
    writeback.start_writing(fd, 0, 1)
    assert path.read_bytes() == b"x" * 1_000_000


def test_no_uploader_can_have_a_file_before_it_is_closed(spool: Spool) -> None:
    """From the rename until the close, when its ledger row is committed, the file is in sight and busy."""
    staged = spool.staging.open()
    staged.write(b"bytes")
    staged.sync()
    staged.rename()
    assert [found.name for found in spool.scan()] == [staged.name]
    with pytest.raises(Busy):
        spool.claim(staged.name)
    staged.close()
    with spool.claim(staged.name) as claim:
        assert claim.size_bytes == 5


def test_a_reader_sees_what_was_written_so_far(spool: Spool) -> None:
    """The dataset can be read back from behind the file meta, before anything else is done with the file."""
    staged = spool.staging.open()
    staged.write(b"metadataset")
    with staged.reader(4) as reader:
        assert reader.read() == b"dataset"
    staged.withdraw()


def test_a_file_gets_no_name_without_its_last_bytes(spool: Spool) -> None:
    """What was not written yet would be missing under the final name."""
    staged = spool.staging.open()
    staged.write(b"bytes")
    with pytest.raises(AssertionError, match="flushed"):
        staged.rename()
    staged.withdraw()
    assert contents(spool) == {"staging": [], "incoming": []}


def test_two_files_have_two_names(spool: Spool) -> None:
    """Names come from chance, and both files are there at once."""
    first, second = spool.staging.open(), spool.staging.open()
    assert first.name != second.name
    assert contents(spool)["staging"] == sorted([first.name, second.name])
    first.withdraw()
    second.withdraw()


def test_a_partial_write_is_continued(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel takes fewer bytes than it was given, the rest follows."""
    write = os.write
    monkeypatch.setattr(staging, "_BLOCK", 16)
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    for taken in (1, 4, 7, 16):
        monkeypatch.setattr(os, "writev", lambda fd, pieces, taken=taken: write(fd, b"".join(pieces)[:taken]))
        staged = spool.staging.open()
        staged.write(b"0123")
        staged.write(b"456789abcdefghij")
        with staged.reader(0) as reader:
            assert reader.read() == b"0123456789abcdefghij"
        assert staged.size_bytes == 20
        staged.withdraw()


@pytest.mark.parametrize("fragment", [1, 7, 16, 31, 100, 1000])
def test_a_file_is_written_in_whole_blocks(spool: Spool, monkeypatch: pytest.MonkeyPatch, fragment: int) -> None:
    """Whatever it comes in: each write but the last ends at a block, and the last is made before the flush."""
    monkeypatch.setattr(staging, "_BLOCK", 64)
    content = bytes(range(256)) * 4
    writev = os.writev
    lengths: list[int] = []

    def note(fd: int, pieces: tuple[bytes, bytes]) -> int:
        lengths.append(sum(map(len, pieces)))
        return writev(fd, pieces)

    monkeypatch.setattr(os, "writev", note)
    staged = spool.staging.open()
    staged.write(b"header")
    for at in range(0, len(content), fragment):
        staged.write(memoryview(content)[at : at + fragment])
    *whole, last = lengths
    assert not any(length % 64 for length in [*whole, last])
    staged.sync()
    staged.rename()
    assert staged.size_bytes == len(content) + 6 == sum(lengths)
    assert len(lengths) == len(whole) + 2
    assert (spool.incoming / staged.name).read_bytes() == b"header" + content
    staged.close()


def test_a_full_disk_reaches_the_caller(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC from a write is raised as it is, and the file can then be withdrawn."""
    staged = spool.staging.open()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(OSError, match="No space left"):
        staged.write(bytes(1_000_000))
    staged.withdraw()
    assert contents(spool) == {"staging": [], "incoming": []}


def test_a_file_that_cannot_be_claimed_is_not_left_behind(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the kernel has no locks to give, the open fails and leaves neither a file nor a descriptor."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    spool.staging.open().withdraw()  # the first one opens incoming/ too
    monkeypatch.setattr(fcntl, "flock", refuse)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No locks"):
        spool.staging.open()
    assert contents(spool)["staging"] == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


# Withdrawing


def _fail_to_write(staged: Staged, spool: Spool) -> None:
    del spool
    staged.write(b"some")


def _fail_to_sync(staged: Staged, spool: Spool) -> None:
    _fail_to_write(staged, spool)
    staged.sync()


def _fail_to_sync_the_directory(staged: Staged, spool: Spool) -> None:
    _fail_to_sync(staged, spool)
    staged.rename()


def _fail_to_record(staged: Staged, spool: Spool) -> None:
    _fail_to_sync_the_directory(staged, spool)
    spool.staging.sync_incoming()


@pytest.mark.parametrize(
    "steps",
    [lambda *_: None, _fail_to_write, _fail_to_sync, _fail_to_sync_the_directory, _fail_to_record],
    ids=["opened", "R1 written", "R2 synced", "R3 renamed", "R4 directory synced"],
)
def test_a_withdrawn_file_is_gone_after_any_step(spool: Spool, steps: Callable[[Staged, Spool], None]) -> None:
    """What was not acknowledged is removed wherever it is by then, and its claim is dropped."""
    spool.staging.open().withdraw()  # the first one opens incoming/ too
    descriptors = len(os.listdir("/proc/self/fd"))
    staged = spool.staging.open()
    steps(staged, spool)
    staged.withdraw()
    assert contents(spool) == {"staging": [], "incoming": []}
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_withdrawing_what_is_gone_is_no_error(spool: Spool) -> None:
    """A person may have taken the file away before we do."""
    staged = spool.staging.open()
    (spool.staging.path / staged.name).unlink()
    staged.withdraw()
    staged.withdraw()


def test_a_file_that_cannot_be_renamed_can_be_withdrawn(spool: Spool) -> None:
    """If incoming/ is gone the rename fails, and the file is still withdrawn from staging/."""
    staged = spool.staging.open()
    spool.incoming.rmdir()
    with pytest.raises(FileNotFoundError):
        staged.rename()
    staged.withdraw()
    assert os.listdir(spool.staging.path) == []


# Sweeping


def test_sweep_leaves_the_files_of_a_living_receiver_and_removes_those_of_a_dead_one(spool: Spool) -> None:
    """Another receiver's file stays while its process lives, and goes once it was killed."""
    command = [sys.executable, "-c", RECEIVE, str(spool.directory)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        name = receiver.stdout.readline().strip()
        assert spool.staging.sweep() == 0
        assert (spool.staging.path / name).read_bytes() == b"first half"
        receiver.send_signal(signal.SIGKILL)
        receiver.wait()
        assert spool.staging.sweep() == 1
    assert contents(spool) == {"staging": [], "incoming": []}


def test_sweep_leaves_our_own_files(spool: Spool) -> None:
    """Files that this process is receiving are claimed as well."""
    staged = spool.staging.open()
    assert spool.staging.sweep() == 0
    staged.write(b"bytes")
    staged.sync()
    staged.rename()
    staged.close()
    assert contents(spool) == {"staging": [], "incoming": [staged.name]}


def test_sweep_touches_neither_links_nor_folders(spool: Spool, tmp_path: Path) -> None:
    """Only regular files in staging/ itself can be a receiver's; nothing behind a link is removed."""
    target = tmp_path / "target"
    target.write_bytes(b"target")
    (spool.staging.path / "link").symlink_to(target)
    (spool.staging.path / "folder").mkdir()
    os.mkfifo(spool.staging.path / "fifo")
    (spool.staging.path / "left.dcm").write_bytes(b"left")
    assert spool.staging.sweep() == 1
    assert contents(spool)["staging"] == ["fifo", "folder", "link"]
    assert target.exists()


@pytest.mark.parametrize("moment", ["before the claim", "after the sweep's claim"])
def test_a_sweep_between_open_and_claim_costs_no_instance(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A new file that another receiver's sweep gets hold of first is given up for another name."""
    flock = fcntl.flock
    sweeper: list[int] = []

    def sweep_first(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        if moment == "before the claim":
            assert spool.staging.sweep() == 1
        else:
            (name,) = os.listdir(spool.staging.path)
            sweeper.append(os.open(spool.staging.path / name, os.O_RDONLY))
            flock(sweeper[0], fcntl.LOCK_EX)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    staged = spool.staging.open()
    for fd in sweeper:
        os.close(fd)
    staged.write(b"bytes")
    staged.sync()
    staged.rename()
    staged.close()
    assert (spool.incoming / staged.name).read_bytes() == b"bytes"


def test_a_sweep_that_is_late_removes_nothing_from_incoming(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that its receiver finishes while the sweep has it open is safe: the sweep knows it by its old name."""
    staged = spool.staging.open()
    staged.write(b"bytes")
    staged.sync()
    flock = fcntl.flock

    def finish_first(fd: int, operation: int) -> None:
        staged.rename()
        staged.close()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", finish_first)
    assert spool.staging.sweep() == 0
    assert contents(spool) == {"staging": [], "incoming": [staged.name]}
