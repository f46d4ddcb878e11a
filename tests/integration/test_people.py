"""What people do with the files of a running uploader: nothing is lost, and nothing outside the spool is touched."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.records import Cause, Event, State, ledger_name
from sandbox.running import RunningSandbox
from support.pipeline import Pipeline, wait_for
from support.samples import make_instance

MakePipeline = Callable[..., Pipeline]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make devices and to drop capabilities")
needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs the Debian package util-linux")


@pytest.fixture
def pipeline(make_pipeline: MakePipeline, sandbox: RunningSandbox) -> Pipeline:
    """An uploader that is delivering to a sandbox."""
    made = make_pipeline(sandbox.url, spool={"rescan_seconds": 1})
    made.start("uploader")
    return made


def uids(sandbox: RunningSandbox) -> set[str]:
    return {one["sop_instance_uid"] for one in sandbox.instances()}


def still_delivers(pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path) -> None:
    """The uploader lives, and the next file goes."""
    uid = make_instance(tmp_path / "still" / "next.dcm")
    shutil.copy(tmp_path / "still" / "next.dcm", pipeline.spool.incoming / f"next-{uid[-20:]}.dcm")
    wait_for(lambda: uid in uids(sandbox), what="the next file delivered")
    assert [process.popen.poll() for process in pipeline.processes] == [None] * len(pipeline.processes)


def history(pipeline: Pipeline, name: str) -> list[Event]:
    with pipeline.ledger() as ledger:
        return [event.event for event in ledger.events(name)]


def tree(folder: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    """Everything below a folder: mode, size, mtime and ctime, content."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        # A folder's own times change when something moves into it or out of it.
        times = (status.st_mtime_ns, status.st_ctime_ns) if not stat.S_ISDIR(status.st_mode) else (0, 0)
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_size, *times, content)
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder outside of the spool with instances in it; at the end nothing of it has been changed or sent."""
    folder = tmp_path / "outside"
    for number in range(3):
        make_instance(folder / "study" / f"{number}.dcm", patient_id=f"private{number}")
    (folder / "empty").mkdir()
    before = tree(folder)
    yield folder
    assert tree(folder) == before


# What is no file of ours


@needs_root
def test_links_fifos_and_devices_are_never_opened(
    pipeline: Pipeline, sandbox: RunningSandbox, outside: Path, tmp_path: Path
) -> None:
    """Links out of the spool, a FIFO, a socket, devices, at the top and in folders: moved themselves, not opened."""
    incoming = pipeline.spool.incoming
    links = {
        "file.dcm": outside / "study" / "0.dcm",
        "folder": outside / "study",
        "empty": outside / "empty",
        "nothing.dcm": outside / "nothing",
        "itself.dcm": incoming / "itself.dcm",
        "up": Path(".."),
        "disk": Path("/dev/zero"),
        "memory": Path("/proc/self/mem"),
    }
    for name, target in links.items():
        (incoming / name).symlink_to(target)
    (incoming / "dropped").mkdir()
    for name, target in links.items():
        (incoming / "dropped" / f"in {name}").symlink_to(target)
    for folder in (incoming, incoming / "dropped"):
        os.mkfifo(folder / f"fifo of {folder.name}")
        os.mknod(folder / f"zero of {folder.name}", stat.S_IFCHR | 0o600, os.makedev(1, 5))
        os.mknod(folder / f"loop of {folder.name}", stat.S_IFBLK | 0o600, os.makedev(7, 0))
        os.mknod(folder / f"socket of {folder.name}", stat.S_IFSOCK | 0o600)
    count = 2 * len(links) + 8
    wait_for(lambda: len(pipeline.quarantined()) == count)
    for name in pipeline.quarantined():
        assert not stat.S_ISREG((pipeline.spool.quarantine.path / name).lstat().st_mode)
        assert json.loads((pipeline.spool.quarantine.path / f"{name}.json").read_text())["cause"] == Cause.NOT_A_FILE
    wait_for(lambda: pipeline.counts()[State.QUARANTINE] == count)
    assert sandbox.instances() == []
    still_delivers(pipeline, sandbox, tmp_path)


# One name, used again


def test_a_name_that_is_used_again_at_once_loses_nothing(
    pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """IM000001 of one CD after the other: each file that was moved in whole under the name of one is delivered.

    A file goes in when the one before it has been posted, which is when it is about to be deleted.
    """
    incoming = pipeline.spool.incoming
    seen: set[str] = set()
    for number in range(40):
        uid = make_instance(tmp_path / "next.dcm")
        if number % 8 == 7:
            os.replace(tmp_path / "next.dcm", incoming / "IM000001")
        else:
            subprocess.run(["cp", tmp_path / "next.dcm", incoming / "IM000001"], check=True)
        wait_for(lambda uid=uid: uid in (seen.update(uids(sandbox)) or seen), what=f"file {number} posted")
    pipeline.wait_empty()
    assert len(seen) == 40
    assert not pipeline.quarantined()


# While it is sent


def test_what_people_do_with_files_that_are_being_sent(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """Deleted, renamed, cut short, linked elsewhere, moved out with its folder: the proof is for none of these."""
    sandbox.add_rule("first=1,delay=2")
    # One thread, so that the link below is still there when the answer comes.
    pipeline = make_pipeline(sandbox.url, spool={"rescan_seconds": 1}, uploader={"threads": 1})
    incoming = pipeline.spool.incoming
    pipeline.spool.prepare()
    for name in ("deleted", "renamed", "cut", "linked", "study/scan"):
        make_instance(tmp_path / "made" / f"{name}.dcm", study="1.2.3")
    shutil.copytree(tmp_path / "made", incoming, dirs_exist_ok=True)
    pipeline.start("uploader")
    wait_for(lambda: sandbox.rules()[0]["hits"])

    (incoming / "deleted.dcm").unlink()
    os.rename(incoming / "renamed.dcm", incoming / "other.dcm")
    os.truncate(incoming / "cut.dcm", 500)
    os.link(incoming / "linked.dcm", tmp_path / "kept.dcm")
    os.rename(incoming / "study", tmp_path / "away")
    (incoming / "study").symlink_to(tmp_path / "away")

    wait_for(lambda: pipeline.quarantined() == {"cut.dcm", "study"} and not pipeline.incoming())
    expected = {
        "deleted.dcm": (State.REMOVED, Cause.NONE),
        "renamed.dcm": (State.REMOVED, Cause.NONE),
        "other.dcm": (State.SENT, Cause.NONE),
        "cut.dcm": (State.QUARANTINE, Cause.TRUNCATED),
        "linked.dcm": (State.SENT, Cause.NONE),
        "study/scan.dcm": (State.REMOVED, Cause.NONE),
        "study": (State.QUARANTINE, Cause.NOT_A_FILE),
    }
    wait_for(lambda: {row.file_name: (row.state, row.cause) for row in pipeline.rows()} == expected)
    assert (pipeline.spool.quarantine.path / "cut.dcm").stat().st_size == 500
    assert (tmp_path / "kept.dcm").read_bytes() == (tmp_path / "made" / "linked.dcm").read_bytes()
    assert (tmp_path / "away" / "scan.dcm").read_bytes() == (tmp_path / "made" / "study" / "scan.dcm").read_bytes()
    still_delivers(pipeline, sandbox, tmp_path)


# Names


NAMES = [
    b"with\nnewlines\r\n.dcm",
    b"x" * 251 + b".dcm",
    b"x" * 255,
    "ü".encode() * 127 + b"x",
    b"x" * 250 + b".json",
    b"M\xfcller\xff.dcm",
    b"M\xfc" + b"x" * 253,
    b"\x1b[31mred\x07.dcm",
    b"'; DROP TABLE instances; --",
    b'$(touch pwned) `id` * ? \\ "',
    b"~",
    b"-rf",
    b"CON",
    "".join(map(chr, (0x202E, 0x6D, 0x63, 0x64))).encode(),
]


def test_good_files_of_every_name_are_sent(pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path) -> None:
    """Newlines, 255 bytes, no UTF-8, escape sequences, what a shell or SQL would take for its own: all are sent."""
    incoming = os.fsencode(pipeline.spool.incoming)
    expected = set()
    for name in NAMES:
        expected.add(make_instance(tmp_path / "x.dcm"))
        os.rename(tmp_path / "x.dcm", incoming + b"/" + name)
    pipeline.wait_empty()
    assert uids(sandbox) == expected
    for name in NAMES:
        assert history(pipeline, os.fsdecode(name)) == [Event.ADOPTED, Event.SENT]
    assert not pipeline.quarantined()


def test_bad_files_of_every_name_are_quarantined_and_come_back(
    pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """Each is in quarantine under its own name, cut if there is no room for .json; mended and moved back, it goes."""
    incoming, quarantine = os.fsencode(pipeline.spool.incoming), os.fsencode(pipeline.spool.quarantine.path)
    for number, name in enumerate(NAMES):
        Path(os.fsdecode(incoming + b"/" + name)).write_text(f"rubbish {number}")
    pipeline.wait_empty()
    wait_for(lambda: pipeline.counts()[State.QUARANTINE] == len(NAMES))
    names = [os.fsencode(name) for name in pipeline.quarantined()]
    assert {name for name in names if len(name) <= 250} >= {name for name in NAMES if len(name) <= 250}
    assert len(names) == len(NAMES)
    expected = set()
    for name in names:
        path = Path(os.fsdecode(quarantine + b"/" + name))
        number = int(path.read_text().removeprefix("rubbish "))
        assert NAMES[number] == name or (len(NAMES[number]) > 250 and name[:240] == NAMES[number][:240])
        assert json.loads(path.with_name(path.name + ".json").read_text())["cause"] == Cause.NOT_DICOM
        expected.add(make_instance(tmp_path / "x.dcm"))
        path.write_bytes((tmp_path / "x.dcm").read_bytes())  # mended
        os.rename(quarantine + b"/" + name, incoming + b"/" + name)
    pipeline.wait_empty()
    assert uids(sandbox) == expected
    wait_for(lambda: not os.listdir(quarantine))
    for name in names:
        assert history(pipeline, os.fsdecode(name))[-2:] == [Event.RELEASED, Event.SENT]


def test_names_that_collide_in_quarantine(pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path) -> None:
    """Bad files of one name from many folders, their would-be sidecars, names that differ behind the cut: all kept."""
    long = "x" * 248
    contents = set()
    for number, name in enumerate(
        ["a", "a.json", "a.json.json", "a~2", "a~2.json", f"{long}one.dcm", f"{long}two.dcm", f"{long}a.json"]
    ):
        for folder in range(3):
            content = f"rubbish {number} {folder}"
            contents.add(content)
            path = tmp_path / f"folder{folder}" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
    for folder in range(3):
        shutil.move(tmp_path / f"folder{folder}", pipeline.spool.incoming)
    pipeline.wait_empty()
    names = pipeline.quarantined()
    quarantine = pipeline.spool.quarantine.path
    assert {(quarantine / name).read_text() for name in names} == contents
    assert len(names) == len(contents)
    for name in names:
        assert json.loads((quarantine / f"{name}.json").read_text())["cause"] == Cause.NOT_DICOM
    wait_for(lambda: pipeline.counts()[State.QUARANTINE] == len(names))
    assert {row.file_name for row in pipeline.rows()} == {ledger_name(name) for name in names}
    still_delivers(pipeline, sandbox, tmp_path)


# Folders


def test_a_folder_that_is_delivered_while_it_is_being_copied(
    pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """Files of a folder leave while others of it come, slowly and in pieces; each is sent once, and whole."""
    expected = {make_instance(tmp_path / "cd" / f"S{n % 5}" / f"IM{n}", ImageComments="x" * 3000) for n in range(40)}
    contents = {path.read_bytes() for path in (tmp_path / "cd").rglob("IM*")}
    for path in sorted((tmp_path / "cd").rglob("IM*")):
        target = pipeline.spool.incoming / path.relative_to(tmp_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        with open(target, "wb", buffering=0) as file:
            for start in range(0, len(content), 1500):
                file.write(content[start : start + 1500])
                time.sleep(0.02)
    pipeline.wait_empty()
    assert uids(sandbox) == expected
    assert all(one["posts"] == 1 for one in sandbox.instances())
    assert {sandbox.instance(uid) for uid in expected} == contents
    assert not pipeline.quarantined()


def test_folders_deeper_than_a_path_may_be(pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path) -> None:
    """A file below two thousand and more folders is delivered, and the uploader lives on."""
    uid = make_instance(tmp_path / "deep.dcm")
    fd = os.open(pipeline.spool.incoming, os.O_RDONLY)
    try:
        for _ in range(2100):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.rename(tmp_path / "deep.dcm", "deep.dcm", dst_dir_fd=fd)
        wait_for(lambda: uid in uids(sandbox), 60)
        wait_for(lambda: os.listdir(fd) == [])
    finally:
        os.close(fd)
        subprocess.run(["rm", "-rf", pipeline.spool.incoming / "d"], check=True)
    still_delivers(pipeline, sandbox, tmp_path)
    uploader = pipeline.processes[0]
    uploader.stop()
    pipeline.start("uploader")


# Modes: as root nothing is unreadable, so the uploader is started without that right


@pytest.fixture
def obeys_modes(make_pipeline: MakePipeline, sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """An uploader that modes hold for, as they do for any user but root."""
    made = make_pipeline(sandbox.url, spool={"rescan_seconds": 1}, uploader={"backoff_max_seconds": 1})
    real = subprocess.Popen

    def without_rights(command: list[str], **settings: object) -> object:
        rights = "-dac_override,-dac_read_search,-fowner"
        # Without these in the bounding set, root's execve does not get them.
        return real(["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *command], **settings)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", without_rights)
        made.start("uploader")
    return made


@needs_root
@needs_setpriv
def test_an_incoming_that_lets_nobody_in_for_a_while(
    obeys_modes: Pipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """While incoming/ cannot be read, searched or written, nothing is concluded from it; then its files go."""
    pipeline, incoming = obeys_modes, obeys_modes.spool.incoming
    expected = set()
    sandbox.add_rule("status=503")
    for number, mode in enumerate((0o000, 0o600, 0o300, 0o100)):
        expected.add(make_instance(tmp_path / f"{number}.dcm"))
        shutil.copy(tmp_path / f"{number}.dcm", incoming)
        wait_for(lambda count=number + 1: pipeline.counts()[State.INCOMING] >= 1 or count < 1)
        incoming.chmod(mode)
        complaints = pipeline.logs().count("the spool cannot be read")
        wait_for(lambda: sandbox.summary()["requests"])
        if number == 0:
            wait_for(lambda before=complaints: pipeline.logs().count("the spool cannot be read") > before)
        time.sleep(1.2)  # longer than a rescan
        assert not pipeline.counts()[State.REMOVED]
        incoming.chmod(0o700)
    assert not pipeline.quarantined()
    sandbox.clear_rules()
    pipeline.wait_empty()
    assert uids(sandbox) == expected
    still_delivers(pipeline, sandbox, tmp_path)


@needs_root
@needs_setpriv
def test_a_folder_and_a_file_that_let_nobody_in(obeys_modes: Pipeline, sandbox: RunningSandbox, tmp_path: Path) -> None:
    """A folder without rights is complained of, its files wait and go later; a file without them is in quarantine."""
    pipeline, incoming = obeys_modes, obeys_modes.spool.incoming
    inside = make_instance(tmp_path / "study" / "a.dcm")
    alone = make_instance(tmp_path / "alone.dcm")
    (tmp_path / "study").chmod(0o000)
    (tmp_path / "alone.dcm").chmod(0o000)
    os.rename(tmp_path / "study", incoming / "study")
    os.rename(tmp_path / "alone.dcm", incoming / "alone.dcm")
    wait_for(lambda: "a folder in incoming cannot be read, its files wait" in pipeline.logs())
    wait_for(lambda: pipeline.quarantined() == {"alone.dcm"})
    assert [row.cause for row in pipeline.rows() if row.file_name == "alone.dcm"] == [Cause.UNREADABLE]
    still_delivers(pipeline, sandbox, tmp_path)
    (incoming / "study").chmod(0o700)
    wait_for(lambda: inside in uids(sandbox))
    (pipeline.spool.quarantine.path / "alone.dcm").chmod(0o600)
    os.rename(pipeline.spool.quarantine.path / "alone.dcm", incoming / "alone.dcm")
    wait_for(lambda: alone in uids(sandbox))


# Quarantine


def test_quarantine_emptied_and_sidecars_edited_by_hand(
    pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """Files removed, moved and renamed there, sidecars edited, removed and replaced, the folder itself removed."""
    quarantine = pipeline.spool.quarantine.path
    for number in range(6):
        (tmp_path / f"{number}").write_text(f"rubbish {number}")
        os.rename(tmp_path / f"{number}", pipeline.spool.incoming / f"{number}")
    wait_for(lambda: pipeline.counts()[State.QUARANTINE] == 6 and not pipeline.incoming())
    (quarantine / "0").unlink()
    (quarantine / "1.json").unlink()
    (quarantine / "2.json").write_text('{"cause": 7, "http_status": "yes", "sop_instance_uid": [[]]}')
    (quarantine / "3.json").unlink()
    (quarantine / "3.json").symlink_to("/dev/zero")
    (quarantine / "4.json").unlink()
    os.mkfifo(quarantine / "4.json")
    os.rename(quarantine / "5", quarantine / "renamed")
    wait_for(lambda: pipeline.counts()[State.QUARANTINE] == 5)
    still_delivers(pipeline, sandbox, tmp_path)
    for name in ("1", "2", "3", "4", "renamed"):
        (quarantine / name).write_text("more rubbish")
        os.rename(quarantine / name, pipeline.spool.incoming / name)
    wait_for(lambda: {"1", "2"} <= pipeline.quarantined() and not pipeline.incoming())
    assert {(quarantine / name).read_text() for name in pipeline.quarantined() if (quarantine / name).is_file()} == {
        "more rubbish"
    }
    shutil.rmtree(quarantine)
    wait_for(lambda: not pipeline.counts()[State.QUARANTINE] or "the spool cannot be read" in pipeline.logs())
    (tmp_path / "last").write_text("rubbish")
    os.rename(tmp_path / "last", pipeline.spool.incoming / "last")
    wait_for(lambda: quarantine.exists() and pipeline.quarantined() == {"last"})
    wait_for(lambda: pipeline.counts()[State.QUARANTINE] == 1)
    still_delivers(pipeline, sandbox, tmp_path)


def test_files_that_come_and_go_all_the_time(pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path) -> None:
    """Two people who touch, rename, chmod, link and take away files at random end nothing; what they leave is sent."""
    incoming = pipeline.spool.incoming
    stop = threading.Event()

    def meddle(seed: int) -> None:
        number = seed
        while not stop.is_set():
            number = (number * 1103515245 + 12345) % 2**31
            with contextlib.suppress(OSError, IndexError):
                path = sorted(incoming.rglob("*.dcm"))[number % 7]
                act = number // 7 % 6
                if act == 0:
                    os.utime(path)
                elif act == 1:
                    os.rename(path, path.with_name(f"renamed-{number}.dcm"))
                elif act == 2:
                    path.chmod(0o640)
                elif act == 3:
                    os.rename(path, tmp_path / "taken" / f"{number}.dcm")
                elif act == 4:
                    (incoming / "sub").mkdir(exist_ok=True)
                    os.rename(path, incoming / "sub" / f"{number}.dcm")
                else:
                    os.link(path, incoming / f"linked-{number}.dcm")
            time.sleep(0.005)

    (tmp_path / "taken").mkdir()
    people = [threading.Thread(target=meddle, args=(seed,)) for seed in (1, 2)]
    for person in people:
        person.start()
    expected = set()
    try:
        for number in range(150):
            expected.add(make_instance(tmp_path / f"{number}.dcm"))
            os.rename(tmp_path / f"{number}.dcm", incoming / f"{number}.dcm")
    finally:
        time.sleep(1)
        stop.set()
        for person in people:
            person.join()
    pipeline.wait_empty()
    taken = {path.read_bytes() for path in (tmp_path / "taken").iterdir()}
    at_the_archive = {sandbox.instance(uid) for uid in uids(sandbox)}
    assert len(taken | at_the_archive) == len(expected)
    assert uids(sandbox) <= expected
    assert not pipeline.quarantined()
    wait_for(lambda: not pipeline.counts()[State.INCOMING])
