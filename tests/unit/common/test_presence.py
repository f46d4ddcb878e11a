"""What living processes say of themselves."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common import presence
from common.presence import FOLDER, Presence, processes, wish_probe


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process with a presence of its own."""
    script = (
        "import sys, time; from pathlib import Path; from common.presence import Presence\n"
        "Presence(Path(sys.argv[1]), 'receiver', lambda: {'associations': 3}).start()\n"
        "print('there', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        yield process
        process.kill()


def test_a_living_process_is_seen_with_what_it_says(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    """Role, pid and facts of another process are read."""
    (found,) = processes(tmp_path)
    assert (found.role, found.pid, found.facts) == ("receiver", other.pid, {"associations": 3})
    assert found.started_at <= found.seen_at


def test_a_killed_process_is_gone_at_once_and_swept_by_the_next(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    """SIGKILL leaves a file that nobody claims: it is not shown, and the next process removes it."""
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert processes(tmp_path) == []
    assert len(os.listdir(tmp_path / FOLDER)) == 1
    mine = Presence(tmp_path, "uploader")
    mine.start()
    assert [found.role for found in processes(tmp_path)] == ["uploader"]
    assert len(os.listdir(tmp_path / FOLDER)) == 1
    mine.close()
    assert os.listdir(tmp_path / FOLDER) == []


def test_a_stopped_process_is_alive_but_was_not_seen_lately(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    """What it said last stays, with the time of it."""
    other.send_signal(signal.SIGSTOP)
    first, second = processes(tmp_path), processes(tmp_path)
    assert first == second != []


def test_what_is_new_is_said_at_once_and_nothing_else_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written when the facts change, else every few seconds only."""
    facts: dict[str, Any] = {"mode": "open"}
    mine = Presence(tmp_path, "uploader", lambda: facts)
    written: list[int] = []
    write = os.pwrite
    monkeypatch.setattr(presence.os, "pwrite", lambda fd, data, at: written.append(len(data)) or write(fd, data, at))
    mine.say()
    mine.say()
    assert written == [4096, 4096]  # allocated, said
    facts["mode"] = "paused"
    mine.say()
    assert len(written) == 3
    assert processes(tmp_path)[0].facts == {"mode": "paused"}
    mine.close()


def test_what_is_too_long_is_left_out_and_the_process_is_seen_all_the_same(tmp_path: Path) -> None:
    """The file never grows."""
    mine = Presence(tmp_path, "uploader", lambda: {"reason": "x" * 5000})
    mine.say()
    assert processes(tmp_path)[0].facts == {}
    (name,) = os.listdir(tmp_path / FOLDER)
    assert (tmp_path / FOLDER / name).stat().st_size == 4096
    mine.close()


def test_facts_that_fail_harm_nobody(tmp_path: Path) -> None:
    """Whatever they raise, the process goes on."""

    def facts() -> dict[str, Any]:
        raise RuntimeError

    mine = Presence(tmp_path, "uploader", facts)
    mine.start()
    mine.close()
    assert processes(tmp_path) == []


def test_a_folder_that_was_taken_away_is_made_again(tmp_path: Path) -> None:
    """A person may tidy up."""
    facts = {"n": 1}
    mine = Presence(tmp_path, "uploader", lambda: dict(facts))
    mine.say()
    facts["n"] = 2
    for path in (tmp_path / FOLDER).iterdir():
        path.unlink()
    (tmp_path / FOLDER).rmdir()
    mine.say()
    assert [found.role for found in processes(tmp_path)] == ["uploader"]
    mine.close()


def test_a_folder_that_was_moved_away_is_made_again(tmp_path: Path) -> None:
    """What is said in a spool that was renamed is seen by nobody who looks for it here."""
    mine = Presence(tmp_path, "uploader", lambda: {"at": os.urandom(4).hex()})
    mine.say()
    (tmp_path / FOLDER).rename(tmp_path / "away")
    mine.say()
    assert [found.role for found in processes(tmp_path)] == ["uploader"]
    mine.close()


def test_a_text_of_any_letters_is_said(tmp_path: Path) -> None:
    """As itself, so that it takes little room; lone surrogates too."""
    reason = "\U0001f600" * 400 + '\udc80"\\'
    mine = Presence(tmp_path, "uploader", lambda: {"reason": reason, "again": reason})
    mine.say()
    assert processes(tmp_path)[0].facts == {"reason": reason, "again": reason}
    mine.close()


def test_a_disk_that_hangs_holds_up_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stops waits a moment for what it is saying, then goes without."""
    monkeypatch.setattr(presence, "_CLOSE_SECONDS", 0.05)
    hangs, begun = threading.Event(), threading.Event()

    def facts() -> dict[str, Any]:
        if threading.current_thread().name == "presence":
            begun.set()
            hangs.wait(30)
        return {}

    mine = Presence(tmp_path, "uploader", facts)
    mine.start()
    assert begun.wait(10)
    mine.close()
    assert not hangs.is_set()
    hangs.set()


def test_strange_entries_are_passed_over(tmp_path: Path) -> None:
    """Neither a link nor a FIFO nor rubbish is taken for a process, or waited for."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    os.mkfifo(folder / "receiver-1.json")
    (folder / "receiver-2.json").symlink_to("/etc/passwd")
    (folder / "receiver-3.json").write_text("[]")
    assert processes(tmp_path) == []


def test_a_wish_to_probe_is_heard_once(tmp_path: Path) -> None:
    """An old wish is none; each new one is heard by every process that listens, once."""
    wish_probe(tmp_path)
    heard = threading.Semaphore(0)
    mine = Presence(tmp_path, "uploader", probe=heard.release)
    mine.start()
    assert not heard.acquire(timeout=1.2)
    wish_probe(tmp_path)
    assert heard.acquire(timeout=10)
    assert not heard.acquire(timeout=1.2)
    mine.close()
