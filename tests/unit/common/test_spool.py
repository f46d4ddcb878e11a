import contextlib
import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.directory import is_hidden, is_ours, open_folder
from common.errors import SpoolError
from common.spool import Busy, Found, Gone, NotAFile, Spool

OURS = "0123456789abcdef0123456789abcdef.dcm"
HOLD_A_LOCK = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


@contextlib.contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-S", "-E", "-c", HOLD_A_LOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def put(spool: Spool, name: str, data: bytes = b"bytes") -> Path:
    path = spool.incoming / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(spool: Spool, below: str = "") -> set[str]:
    return {found.name for found in spool.scan(below)}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Preparing


def test_prepare_creates_its_folders_for_the_owner_alone(tmp_path: Path) -> None:
    """The spool and its three folders are created with mode 0700, whatever else the umask would give."""
    spool = Spool(tmp_path / "deep" / "er" / "spool")
    before = os.umask(0)
    try:
        spool.prepare()
    finally:
        os.umask(before)
    folders = [spool.directory, spool.incoming, spool.quarantine.path, spool.staging.path]
    assert [mode(folder) for folder in folders] == [0o700] * 4


def test_prepare_leaves_nothing_behind_and_can_be_repeated(spool: Spool) -> None:
    """The file that is renamed for a trial is gone afterwards, and what lies in the folders stays."""
    put(spool, "a.dcm")
    spool.prepare()
    assert sorted(path.name for path in spool.directory.rglob("*")) == ["a.dcm", "incoming", "quarantine", "staging"]


def test_prepare_refuses_folders_on_separate_filesystems(tmp_path: Path) -> None:
    """A staging/ on another filesystem, where a rename into incoming/ cannot work, is found at once."""
    shared_memory = Path("/dev/shm")  # noqa: S108 - wanted for being another filesystem
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs /dev/shm as a second filesystem")
    elsewhere = shared_memory / f"stowgate-{os.getpid()}"
    elsewhere.mkdir()
    try:
        (tmp_path / "staging").symlink_to(elsewhere)
        with pytest.raises(SpoolError, match="on one filesystem"):
            Spool(tmp_path).prepare()
        assert list(elsewhere.iterdir()) == []
    finally:
        elsewhere.rmdir()
    assert list((tmp_path / "incoming").iterdir()) == []


@pytest.mark.parametrize("folder", ["staging", "quarantine"])
def test_prepare_refuses_a_rename_that_the_kernel_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Two bind mounts of one filesystem share a device number: only the rename itself shows that it cannot be."""
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if (folder in target.parts) != (folder in self.parts):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(SpoolError, match="cannot be renamed"):
        Spool(tmp_path).prepare()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_prepare_starts_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A full disk is no reason not to start, since delivering is what empties it."""
    Spool(tmp_path).prepare()

    def full(path: Path, flags: int, *_: int, **__: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code))
        return real_open(path, flags)

    real_open = os.open
    monkeypatch.setattr(os, "open", full)
    Spool(tmp_path).prepare()


@pytest.mark.parametrize(
    ("blocked", "expected"),
    [("spool", "spool"), ("spool/incoming", "incoming"), ("spool/staging", "staging")],
    ids=["the spool itself", "incoming", "staging"],
)
def test_prepare_names_the_folder_that_it_cannot_have(tmp_path: Path, blocked: str, expected: str) -> None:
    """Where a folder should be and something else is, the error names the path."""
    path = tmp_path / blocked
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no folder")
    with pytest.raises(SpoolError, match=rf"{expected}\b.*File exists"):
        Spool(tmp_path / "spool").prepare()


def test_prepare_flushes_the_names_of_new_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new folder is flushed into its parent: else a power cut takes it away with all that was flushed in it."""
    flushed: list[Path] = []
    monkeypatch.setattr("common.spool.sync_directory", flushed.append)
    Spool(tmp_path / "new" / "spool").prepare()
    assert set(flushed) >= {tmp_path, tmp_path / "new", tmp_path / "new" / "spool"}


def test_prepare_stands_a_receiver_that_sweeps_at_the_same_moment(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial file is claimed while it is in staging/, so that another receiver's start does not sweep it away."""
    rename = Path.rename

    def sweep_before(self: Path, target: Path) -> Path:
        spool.staging.sweep()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", sweep_before)
    spool.prepare()


def test_room_is_what_stays_above_min_free(spool: Spool) -> None:
    """There is room for so many bytes as leave `min_free` on the filesystem."""
    free = spool.free_bytes()
    roomy = Spool(spool.directory, min_free=free // 2)
    assert (roomy.has_room(), roomy.has_room(free)) == (True, False)
    assert not Spool(spool.directory, min_free=free * 2).has_room()


# Names


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("a.dcm", False),
        ("folder/a.dcm", False),
        ("a.partial", False),
        ("part", False),
        (".a.dcm", True),
        ("a.part", True),
        (".folder/a.dcm", True),
        ("folder/.a.dcm", True),
        ("folder.part/a.dcm", True),
        ("folder/../a.dcm", True),
    ],
)
def test_hidden_names_are_not_ours_to_touch(name: str, *, hidden: bool) -> None:
    """A name is hidden if any component of it starts with a dot or ends with .part."""
    assert is_hidden(name) is hidden


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("0123456789abcdef0123456789abcdef.dcm", True),
        ("0123456789ABCDEF0123456789ABCDEF.dcm", False),
        ("0123456789abcdef0123456789abcdef.dcm\n", False),
        ("folder/0123456789abcdef0123456789abcdef.dcm", False),
        ("0123456789abcdef0123456789abcde.dcm", False),
    ],
    ids=["ours", "upper case", "newline", "in a folder", "31 digits"],
)
def test_our_names_are_32_hex_digits(name: str, *, ours: bool) -> None:
    """Only a name of 32 lower-case hex digits and .dcm is one that a receiver gave."""
    assert is_ours(name) is ours


# Scanning


@pytest.mark.parametrize(
    "name",
    [
        "a.dcm",
        "no extension",
        "study/series/a.dcm",
        "two\nlines",
        os.fsdecode(b"caf\xe9.dcm"),
        "ü" * 127 + "x",
        os.fsdecode(b"\xff" * 255),
        "-rf",
        "a.PART",
    ],
    ids=["plain", "space", "nested", "newline", "not UTF-8", "255 bytes", "255 bytes, not UTF-8", "dash", "PART"],
)
def test_scan_finds_files_of_any_name(spool: Spool, name: str) -> None:
    """A file is found under its name relative to incoming/, whatever bytes are in it, and can be claimed by it."""
    path = put(spool, name, b"12345")
    (found,) = spool.scan()
    assert (found.name, found.is_file, found.signature.size_bytes) == (name, True, 5)
    assert found.signature.inode == path.stat().st_ino
    assert spool.look(name) == found
    with spool.claim(name) as claim:
        assert claim.signature == found.signature


@pytest.mark.parametrize(
    "name", [".hidden", "a.part", ".folder/a.dcm", "folder.part/a.dcm", "folder/.b", "folder/.d/e/f", "folder/c.part"]
)
def test_scan_passes_over_hidden_names(spool: Spool, name: str) -> None:
    """Names that start with a dot, *.part and all that is below such folders are not there for us."""
    put(spool, name)
    assert names(spool) == set()
    assert names(spool, os.path.dirname(name)) == set()
    assert spool.look(name) is None


def test_scan_of_one_folder_stays_in_it(spool: Spool) -> None:
    """A scan of a folder finds what is below it, by names relative to incoming/."""
    put(spool, "a.dcm")
    put(spool, "one/b.dcm")
    put(spool, "one/deep/c.dcm")
    put(spool, "two/d.dcm")
    assert names(spool, "one") == {"one/b.dcm", "one/deep/c.dcm"}
    assert names(spool, "three") == set()


def test_scan_follows_no_link(spool: Spool, tmp_path: Path) -> None:
    """Links to files and to folders are entries of their own, and nothing behind them is looked at."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.dcm").write_bytes(b"secret")
    (spool.incoming / "to_file").symlink_to(outside / "secret.dcm")
    (spool.incoming / "to_folder").symlink_to(outside)
    (spool.incoming / "to_nothing").symlink_to(outside / "nothing")
    (spool.incoming / "loop").symlink_to(spool.incoming)
    found = {found.name: found.is_file for found in spool.scan()}
    assert found == {"to_file": False, "to_folder": False, "to_nothing": False, "loop": False}
    for name in ("to_folder", "loop"):
        assert names(spool, name) == set()
        assert spool.look(f"{name}/secret.dcm") is None


def test_scan_tells_what_is_no_file(spool: Spool) -> None:
    """FIFOs and sockets are found, and said to be no files."""
    os.mkfifo(spool.incoming / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(spool.incoming)  # the path of a socket may have 107 bytes
        server.bind("socket")
        os.chdir(before)
        assert {found.name: found.is_file for found in spool.scan()} == {"fifo": False, "socket": False}
    assert spool.look("fifo") is not None


def test_scan_raises_if_incoming_cannot_be_read(spool: Spool) -> None:
    """An incoming/ that cannot be read says nothing about its files: it does not look empty."""
    spool.incoming.rmdir()
    with pytest.raises(FileNotFoundError):
        list(spool.scan())


def test_scan_passes_over_what_vanishes_meanwhile(spool: Spool) -> None:
    """A folder that goes away during the scan takes nothing else with it."""
    put(spool, "one/a.dcm")
    put(spool, "two/b.dcm")
    scan = spool.scan()
    first = next(scan)
    for folder, file in (("one", "a.dcm"), ("two", "b.dcm")):
        if not first.name.startswith(folder):
            (spool.incoming / folder / file).unlink()
            (spool.incoming / folder).rmdir()
    assert list(scan) == []


def test_look_sees_no_folder_and_nothing_that_is_gone(spool: Spool) -> None:
    """A folder is no entry, and neither is what is not there."""
    put(spool, "folder/a.dcm")
    assert spool.look("folder") is None
    assert spool.look("nothing") is None
    assert spool.look("folder/a.dcm/b") is None


# Claiming


def test_a_claim_reads_the_file_from_its_start_each_time(spool: Spool) -> None:
    """Every reader of a claim begins at the first byte, and read_at takes any piece."""
    put(spool, "a.dcm", b"0123456789")
    with spool.claim("a.dcm") as claim:
        for _ in range(2):
            with claim.reader() as reader:
                assert reader.read() == b"0123456789"
        assert (claim.size_bytes, claim.read_at(8, 10), claim.read_at(0, 2)) == (10, b"89", b"01")


def test_a_file_claimed_by_another_process_is_busy(spool: Spool) -> None:
    """While another process holds the claim, ours fails; when that process is killed, ours succeeds at once."""
    path = put(spool, "a.dcm")
    with held_by_another_process(path) as other:
        with pytest.raises(Busy):
            spool.claim("a.dcm")
        other.send_signal(signal.SIGKILL)
        other.wait()
        spool.claim("a.dcm").close()


def test_a_file_claimed_in_this_process_is_busy(spool: Spool) -> None:
    """Two threads do not get the same file; once the first has dropped it, the second does."""
    put(spool, "a.dcm")
    with spool.claim("a.dcm"), pytest.raises(Busy):
        spool.claim("a.dcm")
    spool.claim("a.dcm").close()


def test_a_claim_is_not_inherited(spool: Spool) -> None:
    """A program that we start does not keep the claim alive."""
    put(spool, "a.dcm")
    claim = spool.claim("a.dcm")
    with subprocess.Popen(["sleep", "60"], close_fds=False) as process:
        claim.close()
        spool.claim("a.dcm").close()
        process.kill()


def test_hard_links_of_one_file_are_claimed_one_after_the_other(spool: Spool) -> None:
    """Two names of one inode share the claim, and deleting one leaves the other, changed by that."""
    path = put(spool, "a.dcm", b"same")
    os.link(path, spool.incoming / "b.dcm")
    with spool.claim("a.dcm") as first:
        with pytest.raises(Busy):
            spool.claim("b.dcm")
        assert first.unchanged()
        first.delete()
    assert names(spool) == {"b.dcm"}
    with spool.claim("b.dcm") as second:
        assert second.unchanged()
        assert second.signature != first.signature


def test_a_claim_on_nothing_is_gone(spool: Spool) -> None:
    """What was deleted since the scan is gone, and so is what was in a deleted folder."""
    put(spool, "file")
    for name in ("a.dcm", "folder/a.dcm", "file/a.dcm"):
        with pytest.raises(Gone):
            spool.claim(name)


@pytest.mark.parametrize("change", ["deleted", "replaced", "folder"])
def test_a_claim_on_what_changed_at_the_last_moment_is_gone(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A file that its holder deleted or moved before we got the lock is not taken for the one under its name now."""
    path = put(spool, "a.dcm")
    flock = fcntl.flock

    def act_first(fd: int, operation: int) -> None:
        path.unlink()
        if change == "replaced":
            path.write_bytes(b"another")
        if change == "folder":
            path.mkdir()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", act_first)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Gone):
        spool.claim("a.dcm")
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert path.exists() is (change != "deleted")


def test_a_folder_is_no_file_to_be_quarantined(spool: Spool) -> None:
    """A folder under the name of what was a file is not taken for a link or device: its files are still owed."""
    put(spool, "a.dcm/b.dcm")
    with pytest.raises(Gone):
        spool.claim("a.dcm")


NO_FILES = ["link to a file", "link to nothing", "link to a folder", "fifo", "socket"]
if os.geteuid() == 0:  # only root makes devices
    NO_FILES.append("device")


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_not_opened(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A link, FIFO, socket or device is told apart before anything is opened."""
    path = spool.incoming / "x"
    (tmp_path / "target").write_bytes(b"target")
    if kind == "link to a file":
        path.symlink_to(tmp_path / "target")
    elif kind == "link to nothing":
        path.symlink_to(tmp_path / "nothing")
    elif kind == "link to a folder":
        path.symlink_to(tmp_path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(spool.incoming)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x")
    else:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))

    def refuse(*_: object) -> int:
        raise AssertionError("opened")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NotAFile):
        spool.claim("x")


def test_a_file_that_becomes_a_link_is_not_followed(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that replaces the file between the look and the open is refused by the open itself."""
    path = put(spool, "a.dcm")
    (tmp_path / "secret").write_bytes(b"secret")
    real_open = os.open

    def replace_first(name: Path, flags: int, dir_fd: int | None = None) -> int:
        path.unlink()
        path.symlink_to(tmp_path / "secret")
        return real_open(name, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", replace_first)
    with pytest.raises(NotAFile):
        spool.claim("a.dcm")


def test_a_folder_that_became_a_link_is_not_followed(spool: Spool, tmp_path: Path) -> None:
    """A file that was found in a folder is gone if a link stands in the folder's place."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.dcm").write_bytes(b"secret")
    (spool.incoming / "folder").symlink_to(outside)
    with pytest.raises(Gone):
        spool.claim("folder/a.dcm")


def move_out_and_link(spool: Spool, outside: Path) -> None:
    """What a person does who wants the space elsewhere: the folder goes out of the spool, a link takes its place."""
    os.rename(spool.incoming / "folder", outside)
    (spool.incoming / "folder").symlink_to(outside)


def test_a_folder_that_becomes_a_link_in_the_middle_of_a_claim_is_not_followed(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that replaces the folder right before the file is opened leads nowhere."""
    put(spool, "folder/a.dcm", b"ours")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.dcm").write_bytes(b"secret")
    real_open = os.open

    def replace_first(name: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if str(name).endswith("a.dcm"):
            os.rename(spool.incoming / "folder", tmp_path / "away")
            (spool.incoming / "folder").symlink_to(tmp_path / "outside")
        return real_open(name, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", replace_first)
    with spool.claim("folder/a.dcm") as claim:
        assert claim.read_at(0, 10) == b"ours"
        assert not claim.unchanged()


def test_a_file_that_left_with_its_folder_is_not_deleted_through_a_link(spool: Spool, tmp_path: Path) -> None:
    """A claimed file whose folder was moved out of the spool, with a link in its place, is not ours any more."""
    put(spool, "folder/a.dcm", b"ours")
    with spool.claim("folder/a.dcm") as claim:
        move_out_and_link(spool, tmp_path / "outside")
        assert not claim.unchanged()
        assert claim.delete()
    assert (tmp_path / "outside" / "a.dcm").read_bytes() == b"ours"


def test_no_folder_is_removed_through_a_link(spool: Spool, tmp_path: Path) -> None:
    """An empty folder that was moved out with the one around it stays."""
    (spool.incoming / "folder" / "empty").mkdir(parents=True)
    assert [name for name, _ in spool.empty_folders()] == ["folder/empty"]
    move_out_and_link(spool, tmp_path / "outside")
    spool.remove_folder("folder/empty")
    assert (tmp_path / "outside" / "empty").is_dir()
    assert list(spool.empty_folders()) == []


@pytest.mark.parametrize("depth", [1500, 3000], ids=["deeper than Python recurses", "longer than a path may be"])
def test_a_file_in_a_very_deep_folder_is_found_claimed_and_deleted(spool: Spool, depth: int) -> None:
    """However deep somebody copies a tree into incoming/, nothing breaks, and its files are reached."""
    fd = os.open(spool.incoming, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(os.open("a.dcm", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd))
        (found,) = spool.scan()
        assert found.name == "d/" * depth + "a.dcm"
        assert spool.look(found.name) == found
        assert list(spool.empty_folders()) == []
        with spool.claim(found.name) as claim:
            assert claim.unchanged()
            assert claim.delete()
        assert list(spool.scan()) == []
    finally:
        os.close(fd)
        # rm, since shutil.rmtree, by which pytest clears its folders, recurses.
        subprocess.run(["rm", "-rf", spool.incoming / "d"], check=True)


def test_a_folder_that_cannot_be_read_is_told(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a folder that lets nobody in are passed over, not in silence."""
    put(spool, "closed/a.dcm")
    put(spool, "open/a.dcm")

    def refuse(root: str | int, folder: str) -> int:
        if folder == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_folder(root, folder)

    monkeypatch.setattr("common.directory.open_folder", refuse)
    told: list[tuple[str, int | None]] = []
    found = list(spool.scan(passed_over=lambda name, error: told.append((name, error.errno))))
    assert [one.name for one in found] == ["open/a.dcm"]
    assert told == [("closed", errno.EACCES)]


def test_a_file_that_cannot_be_opened_raises_what_the_system_says(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EACCES and EIO are not mistaken for a file that is gone or busy."""
    put(spool, "a.dcm")

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        spool.claim("a.dcm")


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _rewrite_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"BYTES")


def _rewrite_and_hide_it(path: Path) -> None:
    times = path.stat()
    _rewrite_in_place(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def _replace_by_a_link(path: Path) -> None:
    moved = path.rename(path.with_name("moved"))
    path.symlink_to(moved)


@pytest.mark.parametrize(
    ("change", "unchanged"),
    [
        (lambda _: None, True),
        (lambda path: path.read_bytes(), True),
        (_append, False),
        (_rewrite_in_place, False),
        (_rewrite_and_hide_it, False),
        (lambda path: os.truncate(path, 2), False),
        (Path.touch, False),
        (_replace, False),
        (_replace_by_a_link, False),
        (Path.unlink, False),
        (lambda path: path.rename(path.with_name("elsewhere")), False),
    ],
    ids=[
        "nothing",
        "read",
        "append",
        "rewrite in place",
        "rewrite, times set back",
        "truncate",
        "touch",
        "replace",
        "link to it",
        "delete",
        "move",
    ],
)
def test_a_claim_knows_whether_its_file_changed(
    spool: Spool, change: Callable[[Path], object], *, unchanged: bool
) -> None:
    """After any change to the bytes or the name, the claimed file counts as another."""
    path = put(spool, "a.dcm")
    os.utime(path, ns=(1, 1))
    with spool.claim("a.dcm") as claim:
        _wait_for_the_next_tick(spool.directory)
        change(path)
        assert claim.unchanged() is unchanged


def _wait_for_the_next_tick(folder: Path) -> None:
    """Wait until the filesystem gives times later than those so far, in its steps of some milliseconds."""
    probe = folder / "tick"
    probe.touch()
    start = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == start:
        probe.touch()


def test_delete_removes_the_file_and_forgives_its_absence(spool: Spool) -> None:
    """A file that a person deleted a moment before is no error."""
    for name in ("a.dcm", OURS):
        path = put(spool, name)
        with spool.claim(name) as claim:
            assert claim.delete()
            assert not path.exists()
            assert claim.delete()
    assert list(spool.incoming.iterdir()) == []


def test_a_file_that_cannot_be_deleted_raises_what_the_system_says(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EACCES and EIO are not mistaken for a file that is gone."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("a.dcm", OURS):
        put(spool, name)
        with spool.claim(name) as claim, monkeypatch.context() as patch:
            patch.setattr(os, "unlink", refuse)
            patch.setattr(os, "rename", refuse)
            with pytest.raises(PermissionError):
                claim.delete()


def _drop_another(path: Path) -> None:
    path.with_name("another").write_bytes(b"another")
    os.replace(path.with_name("another"), path)


def _copy_another_over_it(path: Path) -> None:
    path.write_bytes(b"another")


def _make_a_folder_of_it(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"another")


def _make_a_link_of_it(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere")


@pytest.mark.parametrize("name", ["a.dcm", "folder/a.dcm"])
@pytest.mark.parametrize(
    "use_again",
    [_drop_another, _copy_another_over_it, _make_a_folder_of_it, _make_a_link_of_it],
    ids=lambda one: one.__name__,
)
def test_what_comes_under_the_name_right_before_the_deletion_stays(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, name: str, use_again: Callable[[Path], None]
) -> None:
    """A second file of a name, moved or copied to it after the last look at the first one, is not deleted for it."""
    path = put(spool, name)
    os.utime(path, ns=(1, 1))
    rename, unlink = os.rename, os.unlink
    done = False

    def before(act: Callable[..., None], *arguments: Any, **where: Any) -> None:
        nonlocal done
        if not done:
            done = True
            use_again(path)
        act(*arguments, **where)

    with spool.claim(name) as claim, monkeypatch.context() as patch:
        assert claim.unchanged()
        patch.setattr(os, "rename", lambda *arguments, **where: before(rename, *arguments, **where))
        patch.setattr(os, "unlink", lambda *arguments, **where: before(unlink, *arguments, **where))
        assert not claim.delete()
    assert [entry.name for entry in path.parent.iterdir()] == ["a.dcm"]
    if path.is_dir():
        path = path / "inside"
    assert os.readlink(path) == "/nowhere" if path.is_symlink() else path.read_bytes() == b"another"


def test_a_third_file_of_a_name_leaves_the_second_one_to_be_delivered(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the name is taken once more before the second file is put back, that one keeps the name that it has."""
    path = put(spool, "a.dcm")
    os.utime(path, ns=(1, 1))
    rename = os.rename

    def use_twice(*arguments: Any, **where: Any) -> None:
        _drop_another(path)
        rename(*arguments, **where)
        path.write_bytes(b"third")

    with spool.claim("a.dcm") as claim, monkeypatch.context() as patch:
        patch.setattr(os, "rename", use_twice)
        assert not claim.delete()
    assert {(spool.incoming / found.name).read_bytes() for found in spool.scan()} == {b"another", b"third"}


def test_a_crash_in_the_middle_of_a_deletion_leaves_a_file_that_is_owed(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies under the other name for a moment is a file of incoming/ like any other."""
    put(spool, "a.dcm")

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with spool.claim("a.dcm") as claim, monkeypatch.context() as patch:
        patch.setattr(os, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            claim.delete()
    (found,) = spool.scan()
    assert found.is_file
    assert not is_hidden(found.name)
    assert not is_ours(found.name)
    with spool.claim(found.name) as claim:
        assert claim.read_at(0, 10) == b"bytes"


def test_a_claim_can_be_closed_twice(spool: Spool) -> None:
    """A second close does not close a descriptor that is somebody else's by now."""
    put(spool, "a.dcm")
    claim = spool.claim("a.dcm")
    claim.close()
    other = os.open(spool.directory, os.O_RDONLY)
    claim.close()
    os.close(other)
    assert claim.fd == -1


# Folders dropped by hand


def test_empty_folders_are_those_that_hold_nothing(spool: Spool) -> None:
    """Folders with a file, a folder or a link in them are not empty, and hidden ones are not ours."""
    put(spool, "full/a.dcm")
    for folder in ("empty", "outer/inner", ".hidden/inner", "holds hidden/.inner", "copying.part", "links"):
        (spool.incoming / folder).mkdir(parents=True)
    (spool.incoming / "links" / "link").symlink_to(spool.incoming / "empty")
    assert {name for name, _ in spool.empty_folders()} == {"empty", "outer/inner"}


def test_remove_folder_takes_no_file_with_it(spool: Spool) -> None:
    """Only a folder that is still empty is removed."""
    put(spool, "full/a.dcm")
    (spool.incoming / "empty").mkdir()
    for name in ("full", "empty", "nothing"):
        spool.remove_folder(name)
    assert sorted(path.name for path in spool.incoming.iterdir()) == ["full"]


def test_found_entries_compare_by_what_was_seen(spool: Spool) -> None:
    """Two looks at an unchanged file are equal, so that its quiet can be told."""
    path = put(spool, "a.dcm")
    first = spool.look("a.dcm")
    assert isinstance(first, Found)
    assert spool.look("a.dcm") == first
    _append(path)
    assert spool.look("a.dcm") != first
