"""An uploader whose watch fails: events that are lost, and an incoming/ that goes away. Files are late, never lost."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.records import State
from sandbox.running import RunningSandbox
from support.pipeline import Pipeline, Process, wait_for
from support.samples import make_instance

MakePipeline = Callable[..., Pipeline]


def uids(sandbox: RunningSandbox) -> set[str]:
    return {one["sop_instance_uid"] for one in sandbox.instances()}


@contextmanager
def stopped(process: Process) -> Iterator[None]:
    """SIGSTOP, and SIGCONT at the end."""
    process.popen.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: Path(f"/proc/{process.popen.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        yield
    finally:
        process.popen.send_signal(signal.SIGCONT)


def queue_length() -> int:
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


def test_a_queue_that_overflowed_costs_a_rescan(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """More events than the kernel keeps while the uploader is stopped: those after them are lost, their files are not.

    The queue is filled with names that are not ours to touch, so that no event is left for the files.
    """
    pipeline = make_pipeline(sandbox.url, spool={"rescan_seconds": 3})
    uploader = pipeline.start("uploader")
    incoming = pipeline.spool.incoming
    expected = set()
    with stopped(uploader):
        for number in range(queue_length() // 2 + 1):
            os.close(os.open(incoming / f"{number}.part", os.O_WRONLY | os.O_CREAT, 0o600))
        for number in range(100):
            expected.add(make_instance(tmp_path / f"{number}.dcm"))
            os.rename(tmp_path / f"{number}.dcm", incoming / f"{number}.dcm")
    wait_for(lambda: uids(sandbox) == expected)
    uploader.wait_for_line("logger=watchdog.observers.inotify_c")  # the text of another library is withheld
    # Watching goes on as before.
    again = make_instance(tmp_path / "again" / "again.dcm")
    shutil.copytree(tmp_path / "again", incoming / "again")
    wait_for(lambda: again in uids(sandbox))
    wait_for(lambda: pipeline.counts()[State.SENT] == len(expected) + 1)
    assert uploader.popen.poll() is None


def watches(process: Process, folder: Path) -> bool:
    """Tell whether the kernel watches a folder for a process, which may close its descriptors meanwhile."""
    wanted = f"ino:{folder.stat().st_ino:x} "
    proc = Path(f"/proc/{process.popen.pid}")
    for name in os.listdir(proc / "fd"):
        with suppress(FileNotFoundError):
            if "inotify" in os.readlink(proc / "fd" / name) and wanted in (proc / "fdinfo" / name).read_text():
                return True
    return False


def test_a_watching_thread_that_dies_is_replaced(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """A folder that people move about ends watchdog's thread; meanwhile a scan delivers, and the watch is mended.

    With a scan every ten minutes, a file that comes later is there within seconds by its event alone. Whether the
    thread ends depends on how it finds the events: if it lives on, the folder is moved about again.
    """
    pipeline = make_pipeline(sandbox.url, spool={"rescan_seconds": 600})
    uploader = pipeline.start("uploader")
    incoming = pipeline.spool.incoming
    for number in range(10):
        study, away = incoming / f"study{number}", tmp_path / f"away{number}"
        study.mkdir()
        wait_for(lambda it=study: watches(uploader, it))
        os.rename(study, away)
        study.mkdir()
        wait_for(lambda it=study: watches(uploader, it))
        study.rmdir()
        away.rmdir()
        lost = make_instance(tmp_path / "lost.dcm")
        os.rename(tmp_path / "lost.dcm", incoming / "lost.dcm")
        with suppress(AssertionError):  # it lives on
            wait_for(lambda: "watching anew" in uploader.log(), seconds=8)
            break
    uploader.wait_for_line("watching anew")
    wait_for(lambda: lost in uids(sandbox), what="the scan after watching anew")
    wait_for(lambda: watches(uploader, incoming))
    seen = make_instance(tmp_path / "seen.dcm")
    subprocess.run(["cp", tmp_path / "seen.dcm", incoming], check=True)
    wait_for(lambda: seen in uids(sandbox), what="an event")


def test_an_incoming_that_is_moved_away_and_put_back(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """While it is away nothing is concluded; another one in its place is served; what is put back is owed again."""
    pipeline = make_pipeline(sandbox.url, spool={"rescan_seconds": 1})
    uploader = pipeline.start("uploader")
    incoming, away = pipeline.spool.incoming, pipeline.spool.directory / "incoming.away"
    sandbox.add_rule("status=503")
    first = [make_instance(tmp_path / "a" / f"{number}.dcm") for number in range(5)]
    for number in range(5):
        shutil.copy(tmp_path / "a" / f"{number}.dcm", incoming)
    uploader.wait_for_line("destination paused")
    wait_for(lambda: pipeline.counts()[State.INCOMING] == 5)

    os.rename(incoming, away)
    uploader.wait_for_line("the spool cannot be read")
    scans = time.monotonic() + 2.5
    second = make_instance(away / "put in while away.dcm")
    wait_for(lambda: time.monotonic() > scans, what="two more scans")
    assert pipeline.counts() == {State.INCOMING: 5, State.SENT: 0, State.QUARANTINE: 0, State.REMOVED: 0}
    os.rename(away, incoming)
    sandbox.clear_rules()
    wait_for(lambda: uids(sandbox) == {*first, second})
    pipeline.wait_empty()

    sandbox.add_rule("status=503")
    third = make_instance(incoming / "third.dcm")
    wait_for(lambda: pipeline.counts()[State.INCOMING] == 1)
    os.rename(incoming, away)
    incoming.mkdir(mode=0o700)
    uploader.wait_for_line("watching anew")
    wait_for(lambda: pipeline.counts()[State.REMOVED] == 1)
    sandbox.clear_rules()
    fourth = make_instance(incoming / "fourth.dcm")
    wait_for(lambda: fourth in uids(sandbox), what="the other folder served")
    pipeline.wait_empty()
    incoming.rmdir()
    os.rename(away, incoming)
    wait_for(lambda: uids(sandbox) == {*first, second, third, fourth})
    wait_for(lambda: not pipeline.incoming())
    assert uploader.popen.poll() is None
    assert not pipeline.quarantined()
    assert not re.search("Traceback", uploader.log())
