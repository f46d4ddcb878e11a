"""watchdog on a real folder: what the watcher tells of each way in which a file can appear, and that it comes back."""

import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from uploader_fakes import until
from watchdog.events import FileClosedEvent, FileCreatedEvent
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify_c import InotifyFD
from watchdog.observers.polling import PollingObserver

import uploader.watcher
from uploader.watcher import Watcher


class Ears:
    """A watcher, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.told: list[tuple[str, bool, bool]] = []
        self.missed = 0
        self.fails = False
        self.watcher = Watcher(folder, self._seen, self._missed)

    def _seen(self, name: str, closed: bool, folder: bool) -> None:  # noqa: FBT001 - as the watcher calls it
        if self.fails:
            raise RuntimeError("a bug")
        self.told.append((name, closed, folder))

    def _missed(self) -> None:
        self.missed += 1

    def seen(self, name: str) -> bool:
        """Tell whether a file of that name was seen."""
        return any(told == name and not folder for told, _, folder in self.told)

    def closed(self, name: str) -> bool:
        """Tell whether a file of that name was seen closed."""
        return (name, True, False) in self.told

    def folder(self, name: str) -> bool:
        """Tell whether a folder of that name was seen."""
        return (name, False, True) in self.told


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    path = tmp_path / "incoming"
    path.mkdir()
    return path


@pytest.fixture
def ears(incoming: Path) -> Iterator[Ears]:
    made = Ears(incoming)
    made.watcher.start()
    yield made
    made.watcher.stop()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "scan.dcm"
    path.write_bytes(b"x" * 1000)
    return path


def test_a_copied_file_is_seen_closed(ears: Ears, incoming: Path, source: Path) -> None:
    """cp: the end of writing is told."""
    subprocess.run(["cp", source, incoming], check=True)
    until(lambda: ears.closed("scan.dcm"))


def test_a_renamed_file_is_seen(ears: Ears, incoming: Path, source: Path) -> None:
    """mv on one filesystem: the file is told, with no close to come."""
    subprocess.run(["mv", source, incoming], check=True)
    until(lambda: ears.seen("scan.dcm"))
    time.sleep(0.05)
    assert not ears.closed("scan.dcm")


def test_a_hard_link_is_seen(ears: Ears, incoming: Path, source: Path) -> None:
    """ln: the file is told."""
    os.link(source, incoming / "linked.dcm")
    until(lambda: ears.seen("linked.dcm"))


def test_a_file_renamed_inside_is_seen_by_its_new_name(ears: Ears, incoming: Path, source: Path) -> None:
    """rsync and browsers: what was .part until now is told by the name it has now."""
    shutil.copy(source, incoming / "scan.part")
    os.rename(incoming / "scan.part", incoming / "scan.dcm")
    until(lambda: ears.seen("scan.dcm"))


def test_a_replaced_file_is_seen(ears: Ears, incoming: Path, source: Path) -> None:
    """A file renamed over another one is told."""
    shutil.copy(source, incoming / "scan.dcm")
    until(lambda: ears.closed("scan.dcm"))
    ears.told.clear()
    os.replace(source, incoming / "scan.dcm")
    until(lambda: ears.seen("scan.dcm"))


def test_a_file_that_is_closed_late_is_seen_then(ears: Ears, incoming: Path) -> None:
    """A close is told when it happens, not before."""
    with open(incoming / "slow.dcm", "wb") as file:
        file.write(b"x")
        file.flush()
        until(lambda: ears.seen("slow.dcm"))
        time.sleep(0.05)
        assert not ears.closed("slow.dcm")
    until(lambda: ears.closed("slow.dcm"))


def test_a_folder_moved_in_is_told(ears: Ears, incoming: Path, tmp_path: Path) -> None:
    """mv of a folder: the folder is told, so that it can be looked into."""
    (tmp_path / "study" / "series").mkdir(parents=True)
    (tmp_path / "study" / "series" / "a.dcm").touch()
    os.rename(tmp_path / "study", incoming / "study")
    until(lambda: ears.folder("study"))


def test_a_folder_renamed_inside_is_told_by_its_new_name(ears: Ears, incoming: Path) -> None:
    """A folder that gets another name is told by it."""
    (incoming / "old").mkdir()
    until(lambda: ears.folder("old"))
    os.rename(incoming / "old", incoming / "new")
    until(lambda: ears.folder("new"))


def test_files_in_new_folders_are_seen(ears: Ears, incoming: Path, source: Path) -> None:
    """A file that comes later into a folder below is told with its path."""
    (incoming / "study" / "series").mkdir(parents=True)
    until(lambda: ears.folder("study") and ears.folder("study/series"))
    shutil.copy(source, incoming / "study" / "series" / "a.dcm")
    until(lambda: ears.closed("study/series/a.dcm"))


def test_reading_and_deleting_are_not_told(ears: Ears, incoming: Path, source: Path) -> None:
    """What deliveries do, open, read, lock and delete, gives no event."""
    shutil.copy(source, incoming / "scan.dcm")
    until(lambda: ears.closed("scan.dcm"))
    ears.told.clear()
    for _ in range(5):
        (incoming / "scan.dcm").read_bytes()
    os.chmod(incoming / "scan.dcm", 0o600)
    (incoming / "scan.dcm").unlink()
    (incoming / "last").touch()
    until(lambda: ears.seen("last"))
    assert not ears.seen("scan.dcm")


def test_a_name_that_is_no_utf8_is_told_as_the_system_has_it(ears: Ears, incoming: Path) -> None:
    """Names are those of os.listdir, with undecodable bytes as surrogates."""
    name = os.fsdecode(b"M\xfcller.dcm")
    (incoming / name).touch()
    until(lambda: ears.seen(name))


def test_what_moves_out_is_not_told(ears: Ears, incoming: Path, tmp_path: Path, source: Path) -> None:
    """A file that leaves the folder gives no name outside of it."""
    shutil.copy(source, incoming / "scan.dcm")
    until(lambda: ears.closed("scan.dcm"))
    os.rename(incoming / "scan.dcm", tmp_path / "away.dcm")
    (incoming / "last").touch()
    until(lambda: ears.seen("last"))
    assert not any(name.startswith("..") for name, _, _ in ears.told)


@pytest.mark.parametrize("path", ["", "/elsewhere/x.dcm"])
def test_events_of_other_places_are_left_out(ears: Ears, incoming: Path, path: str) -> None:
    """The folder itself, and what lies outside of it, is not told."""
    ears.watcher.on_any_event(FileCreatedEvent(path or str(incoming)))
    assert ears.told == []


def test_a_bug_behind_an_event_does_not_end_the_watch(ears: Ears, incoming: Path) -> None:
    """An exception while an event is told counts as a missed event; the next one is told."""
    ears.fails = True
    (incoming / "a").touch()
    until(lambda: ears.missed)
    ears.fails = False
    (incoming / "b").touch()
    until(lambda: ears.seen("b"))


# Coming back


def observer_of(ears: Ears) -> BaseObserver:
    observer = ears.watcher._observer
    assert observer is not None
    return observer


def test_a_living_watch_is_left_alone(ears: Ears) -> None:
    """As long as everything lives, revive does nothing."""
    before = observer_of(ears)
    ears.watcher.revive()
    assert observer_of(ears) is before
    assert ears.missed == 0


def kill_observer(ears: Ears) -> None:
    observer_of(ears).stop()
    observer_of(ears).join(5)


def kill_emitter(ears: Ears) -> None:
    for emitter in observer_of(ears).emitters:
        emitter.stop()
        emitter.join(5)


def kill_reader(ears: Ears) -> None:
    """The thread that reads inotify's descriptor, which neither the observer nor an emitter is."""
    (reader,) = [thread for thread in threading.enumerate() if isinstance(thread, InotifyFD)]
    reader.stop()
    reader.join(5)


@pytest.mark.parametrize("kill", [kill_observer, kill_emitter, kill_reader], ids=lambda kill: kill.__name__)
def test_a_dead_watch_is_begun_anew(ears: Ears, incoming: Path, source: Path, kill: Callable[[Ears], None]) -> None:
    """When a thread of watchdog has died, revive watches anew and says that events were missed."""
    kill(ears)
    shutil.copy(source, incoming / "lost.dcm")
    ears.watcher.revive()
    assert ears.missed == 1
    shutil.copy(source, incoming / "seen.dcm")
    until(lambda: ears.closed("seen.dcm"))


def test_a_watch_that_was_begun_anew_still_says_what_went_wrong(ears: Ears, caplog: pytest.LogCaptureFixture) -> None:
    """Its end is no trouble and not said; what watchdog says later is."""
    kill_observer(ears)
    ears.watcher.revive()
    assert not [record for record in caplog.records if record.name.startswith("watchdog")]
    for name in ("inotify", "inotify_c"):
        assert logging.getLogger(f"watchdog.observers.{name}").isEnabledFor(logging.WARNING)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_folder_that_people_move_about_does_not_end_the_watch(ears: Ears, incoming: Path, tmp_path: Path) -> None:
    """A folder moved out, another of its name that comes and goes, and the end of the first one: watched anew.

    watchdog's reading thread dies of it (KeyError in 7.1.0), and the two that wait for it live on.
    """
    (incoming / "study").mkdir()
    until(lambda: ears.folder("study"))
    os.rename(incoming / "study", tmp_path / "away")
    ears.told.clear()
    (incoming / "study").mkdir()
    until(lambda: ears.folder("study"))
    (incoming / "study").rmdir()
    (tmp_path / "away").rmdir()

    def told_again() -> bool:
        ears.watcher.revive()
        (incoming / "x.dcm").write_bytes(b"x")
        return ears.closed("x.dcm")

    until(told_again)


def test_a_replaced_folder_is_watched_anew(ears: Ears, incoming: Path, tmp_path: Path, source: Path) -> None:
    """When another folder takes the place of incoming/, that one is watched."""
    os.rename(incoming, tmp_path / "old")
    incoming.mkdir()
    ears.watcher.revive()
    assert ears.missed == 1
    shutil.copy(source, incoming / "scan.dcm")
    until(lambda: ears.closed("scan.dcm"))


def test_a_folder_that_is_away_is_waited_for(ears: Ears, incoming: Path, tmp_path: Path, source: Path) -> None:
    """While the folder is missing revive waits; when it is back, it is watched, and events were missed."""
    os.rename(incoming, tmp_path / "old")
    ears.watcher.revive()
    assert ears.missed == 0
    incoming.mkdir()
    ears.watcher.revive()
    assert ears.missed == 1
    shutil.copy(source, incoming / "scan.dcm")
    until(lambda: ears.closed("scan.dcm"))


def test_without_events_of_the_kernel_it_polls(
    incoming: Path, source: Path, monkeypatch: pytest.MonkeyPatch, lines: Any
) -> None:
    """Where inotify cannot be had, polling finds the file, and it is said."""

    def fail() -> BaseObserver:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(uploader.watcher, "Observer", fail)
    monkeypatch.setattr(uploader.watcher, "PollingObserver", lambda: PollingObserver(timeout=0.05))
    ears = Ears(incoming)
    ears.watcher.start()
    try:
        assert lines("no events from the kernel, polling instead") == [{"reason": "inotify instance limit reached"}]
        os.rename(source, incoming / "scan.dcm")
        until(lambda: ears.seen("scan.dcm"))
    finally:
        ears.watcher.stop()


def test_a_folder_that_cannot_be_watched_at_all(tmp_path: Path, lines: Any) -> None:
    """Without the folder there is no watch and no exception; rescans find the files, and revive tries again."""
    ears = Ears(tmp_path / "missing")
    ears.watcher.start()
    assert lines("incoming cannot be watched, rescans alone find files")
    ears.watcher.revive()
    assert ears.missed == 0
    (tmp_path / "missing").mkdir()
    ears.watcher.revive()
    assert ears.missed == 1
    (tmp_path / "missing" / "x").touch()
    until(lambda: ears.seen("x"))
    ears.watcher.stop()


def test_folders_deeper_than_watchdog_goes(tmp_path: Path, lines: Any) -> None:
    """A tree too deep for watchdog's recursion ends nothing and leaks nothing; when it is gone, it is watched again."""
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    fd = os.open(incoming, os.O_RDONLY)
    for _ in range(1050):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before = set(threading.enumerate())
    descriptors = len(os.listdir("/proc/self/fd"))
    ears = Ears(incoming)
    try:
        ears.watcher.start()
        ears.watcher.revive()
        assert lines("incoming cannot be watched, rescans alone find files") == [{"reason": "RecursionError"}]
        until(lambda: set(threading.enumerate()) <= before)
        assert len(os.listdir("/proc/self/fd")) <= descriptors  # those of tests before may end meanwhile
        assert ears.missed == 0
    finally:
        subprocess.run(["rm", "-rf", incoming / "d"], check=True)  # shutil.rmtree recurses, too
    ears.watcher.revive()
    assert ears.missed == 1
    (incoming / "x").touch()
    until(lambda: ears.seen("x"))
    ears.watcher.stop()


def test_a_watch_that_was_stopped_tells_nothing_more(ears: Ears, incoming: Path) -> None:
    """After stop nothing is told, and its threads end."""
    observer = observer_of(ears)
    ears.watcher.stop()
    ears.watcher.stop()
    observer.join(5)
    assert not observer.is_alive()
    (incoming / "late").touch()
    time.sleep(0.05)
    assert ears.told == []


def test_the_threads_end_with_the_process(ears: Ears) -> None:
    """All threads of watchdog are daemons: none keeps the process from ending."""
    assert observer_of(ears).daemon
    names = {thread.name for thread in threading.enumerate() if not thread.daemon}
    assert not any("watchdog" in name.lower() or "inotify" in name.lower() for name in names)


def test_closed_events_are_told_as_closed(ears: Ears, incoming: Path) -> None:
    """Only the close after writing counts as closed."""
    ears.watcher.on_any_event(FileClosedEvent(str(incoming / "a")))
    ears.watcher.on_any_event(FileCreatedEvent(str(incoming / "b")))
    assert ears.told == [("a", True, False), ("b", False, False)]
