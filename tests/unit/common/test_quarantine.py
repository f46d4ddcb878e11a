import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from common.spool import Spool

PROJECT = Path(__file__).parents[3]

RESERVE = """
import sys
from pathlib import Path
from typing import Any
from common.spool import Spool
with Spool(Path(sys.argv[1])).quarantine.reserve("a.dcm") as slot:
    print(slot.name, flush=True)
    sys.stdin.readline()
    slot.write_reason({"cause": "refused"})
    slot.move()
"""

REASON = {"cause": "refused", "detail": "the archive said no", "http_status": 409, "attempts": 1}


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


def drop(spool: Spool, name: str, data: bytes = b"bytes") -> Path:
    path = spool.incoming / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def quarantine(spool: Spool, name: str, data: bytes = b"bytes") -> str:
    """Bring a file to quarantine/ in the three steps; returns its name there."""
    drop(spool, name, data)
    with spool.quarantine.reserve(name) as slot:
        slot.write_reason({**REASON, "of": data.decode("latin-1")})
        slot.move()
    return slot.name


def lying_in(spool: Spool) -> list[str]:
    return sorted(os.listdir(spool.quarantine.path))


# Names


def test_a_quarantined_file_keeps_its_name_and_its_bytes(spool: Spool) -> None:
    """The file goes to quarantine/ under its own name, mode 0600, and its reason is beside it."""
    path = drop(spool, "a.dcm")
    path.chmod(0o644)
    assert quarantine(spool, "a.dcm", b"bad") == "a.dcm"
    moved = spool.quarantine.path / "a.dcm"
    assert moved.read_bytes() == b"bad"
    assert stat.S_IMODE(moved.stat().st_mode) == 0o600
    assert lying_in(spool) == ["a.dcm", "a.dcm.json"]
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "second", "third"),
    [
        ("a.dcm", "a~2.dcm", "a~3.dcm"),
        ("IM000001", "IM000001~2", "IM000001~3"),
        ("a.b.c", "a.b~2.c", "a.b~3.c"),
        ("a~2.dcm", "a~2~2.dcm", "a~2~3.dcm"),
        ("a.json", "a~2.json", "a~3.json"),
        ("ends.", "ends~2.", "ends~3."),
        ("two\nlines.dcm", "two\nlines~2.dcm", "two\nlines~3.dcm"),
        (os.fsdecode(b"\xe9.dcm"), os.fsdecode(b"\xe9~2.dcm"), os.fsdecode(b"\xe9~3.dcm")),
    ],
    ids=["extension", "no extension", "two dots", "tilde", "json", "dot at the end", "newline", "not UTF-8"],
)
def test_files_of_one_name_are_told_apart_by_a_number(spool: Spool, name: str, second: str, third: str) -> None:
    """The second file of a name becomes ~2, the third ~3, and each has its own bytes and its own reason."""
    names = [quarantine(spool, name, data) for data in (b"1", b"2", b"3")]
    assert names == [name, second, third]
    for given, data in zip(names, ("1", "2", "3"), strict=True):
        assert (spool.quarantine.path / given).read_text() == data
        assert spool.quarantine.read_reason(given)["of"] == data
    assert sorted(spool.quarantine.names()) == sorted(names)


def test_a_quarantined_file_without_its_reason_is_not_overwritten(spool: Spool) -> None:
    """Whoever tidies sidecars away does not give up the files beside them."""
    quarantine(spool, "a.dcm", b"first")
    (spool.quarantine.path / "a.dcm.json").unlink()
    assert quarantine(spool, "a.dcm", b"second") == "a~2.dcm"
    assert (spool.quarantine.path / "a.dcm").read_bytes() == b"first"


def test_a_file_from_a_folder_is_quarantined_under_its_last_name(spool: Spool) -> None:
    """quarantine/ has no folders: files of one name from two folders are told apart by a number."""
    assert [quarantine(spool, name) for name in ("one/IM1", "two/IM1")] == ["IM1", "IM1~2"]


def test_the_name_of_a_file_that_is_still_owed_is_not_taken(spool: Spool) -> None:
    """The ledger knows files by name, so a file from a folder does not take the name of one in incoming/."""
    drop(spool, "IM1", b"still owed")
    assert quarantine(spool, "folder/IM1", b"refused") == "IM1~2"
    drop(spool, "a~2.dcm", b"still owed")
    assert [quarantine(spool, "a.dcm") for _ in range(2)] == ["a.dcm", "a~3.dcm"]


@pytest.mark.parametrize(
    "name",
    [
        "x" * 255,
        "x" * 251 + ".dcm",
        "ü" * 127,
        os.fsdecode(b"\xe9" * 255),
        "x." + "e" * 253,
        "ü" * 100 + "." + "y" * 54,
    ],
    ids=["no extension", "extension", "two-byte characters", "not UTF-8", "all extension", "long extension"],
)
def test_the_longest_names_leave_room_for_the_sidecar(spool: Spool, name: str) -> None:
    """A name of 255 bytes is cut, between characters, so that <name>.json is a name too; so is that of its twin."""
    assert len(os.fsencode(name)) >= 254
    first, second = quarantine(spool, name, b"1"), quarantine(spool, name, b"2")
    assert first != second
    for given, data in ((first, "1"), (second, "2")):
        assert len(os.fsencode(given + ".json")) <= 255
        assert given[:1] == name[:1]
        assert (spool.quarantine.path / given).read_text() == data
        assert spool.quarantine.read_reason(given)["of"] == data
    if "ü" in name:
        assert set(first) <= {"ü", "y", "."}


# A file whose name looks like a sidecar


def test_a_sidecar_does_not_overwrite_a_quarantined_file(spool: Spool) -> None:
    """With `a.json` in quarantine/, a refused `a` takes another name, since its sidecar would be `a.json`."""
    assert quarantine(spool, "a.json", b"an image") == "a.json"
    assert quarantine(spool, "a", b"another") == "a~2"
    assert (spool.quarantine.path / "a.json").read_bytes() == b"an image"
    assert sorted(spool.quarantine.names()) == ["a.json", "a~2"]


def test_a_sidecar_that_was_dropped_into_incoming_is_a_file_like_any(spool: Spool) -> None:
    """A quarantined copy of a sidecar reads like one, and is neither overwritten nor swept nor dropped."""
    copy = json.dumps(REASON).encode()
    assert quarantine(spool, "a.json", copy) == "a.json"
    spool.quarantine.drop_reason("a")
    assert spool.quarantine.sweep() == 0
    assert quarantine(spool, "a") == "a~2"
    assert (spool.quarantine.path / "a.json").read_bytes() == copy


def test_a_file_does_not_pass_for_the_sidecar_of_another(spool: Spool) -> None:
    """With `a` in quarantine/, a refused `a.json` takes another name."""
    assert [quarantine(spool, name) for name in ("a", "a.json")] == ["a", "a~2.json"]
    assert sorted(spool.quarantine.names()) == ["a", "a~2.json"]


def test_a_json_file_of_a_persons_own_is_not_overwritten(spool: Spool) -> None:
    """What somebody put into quarantine/ as `a.json` is no sidecar of ours, so `a` takes another name."""
    (spool.quarantine.path / "a.json").write_text('{"patients": "list"}')
    assert quarantine(spool, "a") == "a~2"
    assert list(spool.quarantine.names()) != []
    assert (spool.quarantine.path / "a.json").read_text() == '{"patients": "list"}'


# The reason


def test_the_reason_is_read_back_as_it_was_written(spool: Spool) -> None:
    """The sidecar is JSON that a person can read, in UTF-8, mode 0600."""
    drop(spool, "a.dcm")
    reason = {**REASON, "detail": "geht nicht: ü, 山田", "answer": 'a "quoted"\nline'}
    with spool.quarantine.reserve("a.dcm") as slot:
        slot.write_reason(reason)
        slot.move()
    sidecar = spool.quarantine.path / "a.dcm.json"
    assert json.loads(sidecar.read_bytes()) == spool.quarantine.read_reason("a.dcm") == reason
    assert "山田" in sidecar.read_text("utf-8")
    assert stat.S_IMODE(sidecar.stat().st_mode) == 0o600


def test_a_reason_with_a_name_that_is_no_utf8_is_written_as_json(spool: Spool) -> None:
    """Bytes of a file name that are no UTF-8 are escaped, and do not keep the file from being quarantined."""
    name = os.fsdecode(b"caf\xe9.dcm")
    drop(spool, name)
    with spool.quarantine.reserve(name) as slot:
        slot.write_reason({**REASON, "detail": name})
        slot.move()
    assert spool.quarantine.read_reason(name)["detail"] == name
    assert b"caf\\udce9.dcm" in (spool.quarantine.path / (name + ".json")).read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b'{"cause": '),
        lambda path: path.write_bytes(b"[1, 2]"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_bytes(b"[" * 100_000),
        lambda path: path.write_bytes(b" " * 2**20 + b"{}"),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.rename(path.with_name(".moved")), path.symlink_to(path.with_name(".moved"))),
    ],
    ids=["gone", "empty", "cut", "no object", "no UTF-8", "nested without end", "long", "fifo", "folder", "link"],
)
def test_a_reason_that_cannot_be_read_is_empty(spool: Spool, damage: Callable[[Path], object]) -> None:
    """A person may have edited or deleted the sidecar: then nothing is known, and nothing fails."""
    quarantine(spool, "a.dcm")
    damage(spool.quarantine.path / "a.dcm.json")
    descriptors = len(os.listdir("/proc/self/fd"))
    assert spool.quarantine.read_reason("a.dcm") == {}
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert list(spool.quarantine.names()) == ["a.dcm"]


def test_the_reason_is_durable_before_it_has_its_name_and_the_file_follows(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U6 flushes the sidecar, names it and flushes quarantine/; U8 moves the file and flushes both directories."""
    drop(spool, "folder/a.dcm")
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(fd: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        calls.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{fd}')).name if is_folder else 'sidecar'}")
        fsync(fd)

    def note_rename(source: Path, target: Path, **where: Any) -> None:
        calls.append(f"rename to {target.name}")
        rename(source, target, **where)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    with spool.quarantine.reserve("folder/a.dcm") as slot:
        slot.write_reason(REASON)
        slot.move()
    assert calls == [
        "fsync sidecar",
        "rename to a.dcm.json",
        "fsync quarantine",
        "rename to a.dcm",
        "fsync quarantine",
        "fsync folder",
    ]


@pytest.mark.parametrize("call", ["open", "fsync", "rename"])
def test_a_reason_that_cannot_be_written_leaves_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A full disk at any step of U6 is raised, and neither a sidecar nor a half-written one stays."""
    drop(spool, "a.dcm")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with spool.quarantine.reserve("a.dcm") as slot:
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(OSError, match="No space left"):
                slot.write_reason(REASON)
        assert lying_in(spool) == []
    assert (spool.incoming / "a.dcm").exists()


def test_a_reason_that_is_no_json_leaves_nothing(spool: Spool) -> None:
    """A value that JSON cannot hold is an error of ours; the half-written sidecar goes."""
    with spool.quarantine.reserve("a.dcm") as slot, pytest.raises(TypeError):
        slot.write_reason({"cause": "refused", "detail": object()})
    assert lying_in(spool) == []


# Moving


def test_a_file_that_is_gone_is_not_moved_and_its_reason_is_forgotten(spool: Spool) -> None:
    """If a person takes the file away first, the move says so and the sidecar can be taken back."""
    with spool.quarantine.reserve("a.dcm") as slot:
        slot.write_reason(REASON)
        with pytest.raises(FileNotFoundError):
            slot.move()
        slot.forget()
        slot.forget()
    assert lying_in(spool) == []


def test_a_link_is_moved_itself(spool: Spool, tmp_path: Path) -> None:
    """A symbolic link goes to quarantine/ as a link; what it points to keeps its place and its mode."""
    target = tmp_path / "target"
    target.write_bytes(b"target")
    target.chmod(0o644)
    (spool.incoming / "link").symlink_to(target)
    with spool.quarantine.reserve("link") as slot:
        slot.write_reason(REASON)
        slot.move()
    assert (spool.quarantine.path / "link").readlink() == target
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_a_fifo_is_moved_without_being_opened(spool: Spool) -> None:
    """A FIFO goes to quarantine/ too, and nobody waits for its other end."""
    os.mkfifo(spool.incoming / "fifo")
    with spool.quarantine.reserve("fifo") as slot:
        slot.write_reason(REASON)
        slot.move()
    assert stat.S_ISFIFO((spool.quarantine.path / "fifo").lstat().st_mode)


def test_a_file_that_left_with_its_folder_is_not_moved_through_a_link(spool: Spool, tmp_path: Path) -> None:
    """If the folder was moved out of the spool, with a link in its place, what is in it is not ours any more."""
    drop(spool, "folder/a.dcm")
    with spool.quarantine.reserve("folder/a.dcm") as slot:
        slot.write_reason(REASON)
        os.rename(spool.incoming / "folder", tmp_path / "outside")
        (spool.incoming / "folder").symlink_to(tmp_path / "outside")
        with pytest.raises(NotADirectoryError):
            slot.move()
        slot.forget()
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["a.dcm"]
    assert lying_in(spool) == []


def test_the_mode_of_a_file_with_another_name_elsewhere_is_left(spool: Spool, tmp_path: Path) -> None:
    """A quarantined file gets mode 0600, unless it has another name elsewhere, whose mode would change too."""
    for name in ("a.dcm", "linked.dcm"):
        drop(spool, name)
        (spool.incoming / name).chmod(0o644)
    os.link(spool.incoming / "linked.dcm", tmp_path / "mine.dcm")
    for name in ("a.dcm", "linked.dcm"):
        with spool.quarantine.reserve(name) as slot:
            slot.write_reason(REASON)
            slot.move()
    assert stat.S_IMODE((spool.quarantine.path / "a.dcm").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "mine.dcm").stat().st_mode) == 0o644


def test_a_quarantine_that_somebody_removed_is_made_again(spool: Spool) -> None:
    """`rm -r quarantine` costs what was in it, not the next file that is refused."""
    spool.quarantine.path.rmdir()
    drop(spool, "a.dcm")
    with spool.quarantine.reserve("a.dcm") as slot:
        slot.write_reason(REASON)
        slot.move()
    assert lying_in(spool) == ["a.dcm", "a.dcm.json"]
    assert stat.S_IMODE(spool.quarantine.path.stat().st_mode) == 0o700


def test_a_folder_that_goes_with_its_last_file_does_not_undo_the_move(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the folder that the file came from is removed at that moment, the file was moved all the same."""
    drop(spool, "folder/a.dcm")
    rename = os.rename

    def rename_and_remove(source: Path, target: Path, **where: Any) -> None:
        rename(source, target, **where)
        if target.name == "a.dcm":
            spool.remove_folder("folder")

    monkeypatch.setattr(os, "rename", rename_and_remove)
    with spool.quarantine.reserve("folder/a.dcm") as slot:
        slot.write_reason(REASON)
        slot.move()
    assert not (spool.incoming / "folder").exists()
    assert lying_in(spool) == ["a.dcm", "a.dcm.json"]


# Looking


def test_names_are_those_of_files_not_of_sidecars(spool: Spool) -> None:
    """Sidecars, hidden names and a sidecar whose file is gone are left out; a file without a sidecar is not."""
    quarantine(spool, "a.dcm")
    quarantine(spool, "released.dcm")
    os.rename(spool.quarantine.path / "released.dcm", spool.incoming / "released.dcm")
    (spool.quarantine.path / "moved by hand").write_bytes(b"x")
    (spool.quarantine.path / "list.json").write_text('{"not": "ours"}')
    (spool.quarantine.path / ".hidden").write_bytes(b"x")
    assert sorted(spool.quarantine.names()) == ["a.dcm", "list.json", "moved by hand"]


def test_holds_tells_what_is_there(spool: Spool, tmp_path: Path) -> None:
    """An entry is held whatever it is, a link to nothing too."""
    (spool.quarantine.path / "link").symlink_to(tmp_path / "nothing")
    assert spool.quarantine.holds("link")
    assert not spool.quarantine.holds("a.dcm")


# Releasing and sweeping


def test_the_reason_of_a_released_file_is_dropped(spool: Spool) -> None:
    """After `mv quarantine/a.dcm incoming/` its sidecar can go."""
    quarantine(spool, "a.dcm")
    os.rename(spool.quarantine.path / "a.dcm", spool.incoming / "a.dcm")
    spool.quarantine.drop_reason("a.dcm")
    spool.quarantine.drop_reason("a.dcm")
    assert lying_in(spool) == []


def test_the_reason_of_a_file_that_is_still_there_stays(spool: Spool) -> None:
    """A file of the same name that was dropped into incoming/ takes no reason away."""
    quarantine(spool, "a.dcm")
    drop(spool, "a.dcm")
    spool.quarantine.drop_reason("a.dcm")
    assert lying_in(spool) == ["a.dcm", "a.dcm.json"]


def test_what_is_no_reason_of_ours_is_not_dropped(spool: Spool) -> None:
    """A person's own `a.json` is not the sidecar of a released `a`."""
    (spool.quarantine.path / "a.json").write_text('{"patients": "list"}')
    spool.quarantine.drop_reason("a")
    assert lying_in(spool) == ["a.json"]


def test_a_released_file_that_is_refused_again_keeps_its_name(spool: Spool) -> None:
    """The sidecar of the first time is overwritten by that of the second."""
    quarantine(spool, "a.dcm", b"1")
    os.rename(spool.quarantine.path / "a.dcm", spool.incoming / "a.dcm")
    assert quarantine(spool, "a.dcm", b"2") == "a.dcm"
    assert spool.quarantine.read_reason("a.dcm")["of"] == "2"
    assert lying_in(spool) == ["a.dcm", "a.dcm.json"]


def test_sweep_removes_what_a_crash_left(spool: Spool) -> None:
    """A sidecar whose file never came, and one that was being written, are removed; files and their reasons stay."""
    quarantine(spool, "a.dcm")
    with spool.quarantine.reserve("b.dcm") as slot:
        slot.write_reason(REASON)
    (spool.quarantine.path / ("." + "0" * 32 + ".part")).write_bytes(b'{"cau')
    for name in (".hidden", "x.part", "list.json"):
        (spool.quarantine.path / name).write_text("a person's")
    assert spool.quarantine.sweep() == 2
    assert lying_in(spool) == [".hidden", "a.dcm", "a.dcm.json", "list.json", "x.part"]


@pytest.mark.parametrize("act", ["sweep", "drop_reason"])
def test_the_reason_of_a_file_on_its_way_is_not_removed(spool: Spool, act: str) -> None:
    """Between U6 and U8 the sidecar stands alone, and nobody else removes it: they wait until the file is there."""
    drop(spool, "a.dcm")
    arguments = [] if act == "sweep" else ["a.dcm"]
    other = threading.Thread(target=getattr(spool.quarantine, act), args=arguments)
    with spool.quarantine.reserve("a.dcm") as slot:
        slot.write_reason(REASON)
        other.start()
        other.join(0.1)
        slot.move()
    other.join()
    assert lying_in(spool) == ["a.dcm", "a.dcm.json"]


# Reserving


def test_a_name_is_reserved_against_other_processes(spool: Spool) -> None:
    """While one process fills a name, another waits; then it finds the name taken."""
    drop(spool, "a.dcm", b"theirs")
    command = [sys.executable, "-c", RESERVE, str(spool.directory)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "a.dcm\n"
        names: list[str] = []
        waiting = threading.Thread(target=lambda: names.append(quarantine(spool, "folder/a.dcm", b"ours")))
        waiting.start()
        waiting.join(0.1)
        assert names == []
        other.stdin.write("go on\n")
        other.stdin.flush()
        other.wait()
        waiting.join()
    assert names == ["a~2.dcm"]
    assert (spool.quarantine.path / "a.dcm").read_bytes() == b"theirs"
    assert (spool.quarantine.path / "a~2.dcm").read_bytes() == b"ours"


def test_a_reservation_dies_with_its_process(spool: Spool) -> None:
    """A process that is killed in the middle holds nobody up."""
    drop(spool, "a.dcm")
    command = [sys.executable, "-c", RESERVE, str(spool.directory)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        other.kill()
        other.wait()
    assert quarantine(spool, "a.dcm") == "a.dcm"


def test_many_threads_get_many_names(spool: Spool) -> None:
    """Files of one name that are refused at once all arrive, each with its bytes and its own reason."""
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: names.append(quarantine(spool, f"{n}/IM1", str(n).encode())))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == ["IM1", *(f"IM1~{n}" for n in range(2, 9))]
    for name in names:
        assert spool.quarantine.read_reason(name)["of"] == (spool.quarantine.path / name).read_text()


def test_a_file_on_its_way_is_waited_for(spool: Spool) -> None:
    """Between U6 and U8 a sidecar without its file is neither listed for a file nor left out with the file to come."""
    drop(spool, "a.dcm")
    with ThreadPoolExecutor(1) as pool, spool.quarantine.reserve("a.dcm") as slot:
        slot.write_reason(REASON)
        listed = pool.submit(lambda: list(spool.quarantine.names()))
        wait([listed], 0.5)
        slot.move()
    assert listed.result(10) == ["a.dcm"]
