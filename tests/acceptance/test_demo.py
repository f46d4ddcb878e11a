"""`python -m sandbox.demo`, as `make demo` starts it, in a folder of its own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pipeline import ROOT, wait_for

SAMPLES = 8


def start(folder: Path, output: Path, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
    with output.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "sandbox.demo", "--directory", str(folder), *arguments],
            cwd=ROOT,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUTF8": "1", **environ},
        )


def once(folder: Path, *arguments: str, **environ: str) -> tuple[int, str]:
    output = folder.parent / "output.txt"
    status = start(folder, output, "--once", *arguments, **environ).wait(90)
    return status, output.read_text()


@contextlib.contextmanager
def staying_up(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    output = folder.parent / "output.txt"
    demo = start(folder, output)
    try:
        wait_for(lambda: "Ctrl-C ends the demo" in output.read_text() or demo.poll() is not None, 60)
        yield demo, output
    finally:
        demo.terminate()
        demo.wait(30)


def processes_of(folder: Path) -> dict[int, str]:
    """The processes that name the folder on their command lines: honcho, receiver, uploader, console and sandbox."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in command:
                found[int(path.parent.name)] = command
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "demo folder"
    yield folder
    assert processes_of(folder) == {}


def test_it_ends_with_0_when_every_sample_has_arrived(folder: Path) -> None:
    """Each one is seen received, sent and confirmed; the table says sent; the sandbox has the very bytes.

    Settings of the person's own pipeline in the environment do not lead it astray.
    """
    status, output = once(folder, STOWGATE_DESTINATION_URL="http://127.0.0.1:9/archive", STOWGATE_RECEIVER_PORT="9")
    assert status == 0, output
    for word in ("received", "sent", "confirmed"):
        assert len(re.findall(rf"^{word} ", output, re.MULTILINE)) == SAMPLES
    assert re.search(r"^received +fundus, right eye +1\.8 MB", output, re.MULTILINE)
    assert len(re.findall(r"^  DEMO-\S+ +(OP|CT) .* sent .*\.dcm$", output, re.MULTILINE)) == SAMPLES
    assert "Healthy Retina - adult" in output
    assert "\033[" not in output
    assert list((folder / "spool" / "incoming").iterdir()) == []
    arrived = {path.read_bytes() for path in (folder / "sandbox").glob("*.dcm")}
    assert arrived == {path.read_bytes() for path in (folder / "samples").glob("*.dcm") if "red-free" not in path.name}


def test_it_ends_with_1_and_names_what_is_missing(folder: Path) -> None:
    """With a sandbox that is broken, nothing arrives; nothing is lost, and a later run still owes it."""
    status, output = once(folder, "--deadline", "3", "--sandbox-rule", "status=503")
    assert status == 1
    assert f"{SAMPLES} of {SAMPLES} instances did not arrive" in output
    assert re.search(r"fundus, right eye: received, not sent: [0-9a-f]{32}\.dcm is still in incoming/", output)
    assert "destination paused" in output
    assert len(list((folder / "spool" / "incoming").iterdir())) == SAMPLES

    status, output = once(folder)
    assert status == 0, output
    assert f"earlier run is kept: {SAMPLES} in incoming/" in output
    sandbox, incoming = ({path.name for path in folder.glob(f"{name}/*.dcm")} for name in ("sandbox", "spool/incoming"))
    assert len(sandbox) + len(incoming) == 2 * SAMPLES


def test_one_refused_for_good_is_waited_for_no_longer(folder: Path) -> None:
    """It ends long before the deadline, and says that the instances are in quarantine."""
    began = time.monotonic()
    status, output = once(folder, "--deadline", "80", "--sandbox-rule", "fail=0xA900")
    assert status == 1
    assert time.monotonic() - began < 60
    assert output.count("is in quarantine/, cause refused") == SAMPLES


def test_it_stays_up_until_ctrl_c_and_what_it_advises_works(folder: Path) -> None:
    """A file is dropped and the ledger asked with the very commands that it prints; Ctrl-C ends it with 0."""
    with staying_up(folder) as (demo, output):
        shown = output.read_text()
        drop = next(line for line in shown.splitlines() if line.startswith("     cp "))
        ask = next(line for line in shown.splitlines() if line.strip().endswith(" list"))
        subprocess.run(["sh", "-c", drop], cwd=ROOT, check=True)
        wait_for(lambda: len(list((folder / "sandbox").glob("*.dcm"))) == SAMPLES + 1, what="the dropped file")
        ledger = subprocess.run(["sh", "-c", ask], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        assert "fundus-red-free.dcm" in ledger
        second = start(folder, folder.parent / "second.txt", "--once")
        assert second.wait(30) == 1
        assert "another demo is at work" in (folder.parent / "second.txt").read_text()
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0, output.read_text()


@pytest.mark.parametrize("victim", ["-m receiver", "-m uploader", "-m console ", "-m sandbox ", "-m honcho"])
def test_a_process_that_dies_ends_the_demo_with_1(folder: Path, victim: str) -> None:
    """It says which one died, and leaves none of the others behind."""
    with staying_up(folder) as (demo, output):
        os.kill(min(pid for pid, command in processes_of(folder).items() if victim in command), signal.SIGKILL)
        assert demo.wait(30) == 1
        assert re.search(rf"{victim.split()[1]}(\.1)? ended with status -9", output.read_text())


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Sample instances", signal.SIGTERM),
        ("honcho starts", signal.SIGINT),
        ("started", signal.SIGHUP),
        ("DEMO-MODALITY sends", signal.SIGINT),
    ],
)
def test_a_signal_at_any_time_leaves_nothing_behind(folder: Path, text: str, number: signal.Signals) -> None:
    """Before, while and after the processes start."""
    output = folder.parent / "output.txt"
    demo = start(folder, output)
    wait_for(lambda: text in output.read_text() or demo.poll() is not None)
    demo.send_signal(number)
    assert demo.wait(30) == 128 + number
    assert "Traceback" not in output.read_text()


def test_what_a_person_left_in_its_folder_stays_theirs(folder: Path) -> None:
    """A file in quarantine/ is not touched by the next run."""
    quarantine = folder / "spool" / "quarantine"
    quarantine.mkdir(parents=True)
    (quarantine / "mine.txt").write_text("mine")
    status, output = once(folder)
    assert status == 0, output
    assert (quarantine / "mine.txt").read_text() == "mine"
    assert "and 1 in quarantine/" in output
