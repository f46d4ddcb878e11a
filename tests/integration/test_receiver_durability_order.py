"""The order that the guarantee demands, seen from the outside: the system calls of a real receiver (R1 to R6)."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread

from support.pipeline import ROOT, Pipeline, wait_for
from support.programs import needs_dcmtk
from support.samples import make_instance

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs the Debian package strace")

WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
SYNCS = ("fsync", "fdatasync")
RENAMES = ("rename", "renameat", "renameat2")
SENDS = ("sendto", "sendmsg", *WRITES)
TRACED = ",".join(sorted({*WRITES, *SYNCS, *RENAMES, *SENDS}))

_WHOLE = re.compile(r"^(?P<pid>\d+) +(?P<name>\w+)\((?P<rest>.*)$")
_RESUMED = re.compile(r"^(?P<pid>\d+) +<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)$")
_UNFINISHED = "<unfinished ...>"
_RESULT = re.compile(r"= (-?\d+)[^=]*$")


@dataclass(frozen=True)
class Call:
    """A system call: the lines of the trace at which it began and ended, and what stands between its brackets."""

    name: str
    began: int
    ended: int
    arguments: str

    @property
    def file(self) -> str:
        """What its descriptor is open on, as `-y` says it: a path, or `socket:[...]`."""
        found = re.match(r"\d+<([^>]*)>", self.arguments)
        return found[1] if found is not None else ""


def calls_of(trace: str) -> list[Call]:
    """The calls that succeeded, in the order in which they began; those of other threads may overlap."""
    calls = []
    open_calls: dict[tuple[str, str], tuple[int, str]] = {}
    for number, line in enumerate(trace.splitlines()):
        if (resumed := _RESUMED.match(line)) is not None:
            began, start = open_calls.pop((resumed["pid"], resumed["name"]))
            name, arguments = resumed["name"], start + resumed["rest"]
        elif (whole := _WHOLE.match(line)) is not None:
            name, arguments, began = whole["name"], whole["rest"], number
            if arguments.endswith(_UNFINISHED):
                open_calls[whole["pid"], name] = number, arguments.removesuffix(_UNFINISHED)
                continue
        else:
            continue
        result = _RESULT.search(arguments)
        if result is not None and int(result[1]) >= 0:
            calls.append(Call(name, began, number, arguments))
    return sorted(calls, key=lambda call: call.began)


@pytest.fixture
def traced(make_pipeline: Callable[..., Pipeline], tmp_path: Path) -> Iterator[tuple[Pipeline, Callable[[], str]]]:
    """A receiver under strace, and a function that stops it and gives the trace."""
    pipeline = make_pipeline("http://127.0.0.1:9")
    trace, log = tmp_path / "trace", tmp_path / "receiver.log"
    receiver = [sys.executable, "-m", "receiver", "--config", str(pipeline.ini)]
    with open(log, "wb") as output:
        strace = subprocess.Popen(
            ["strace", "-f", "-y", "-s", "300", "-o", trace, "-e", f"trace={TRACED}", *receiver],
            cwd=ROOT,
            stderr=output,
        )

    def stop() -> str:
        # strace ends with the process that it started, which is its only child.
        if strace.poll() is None:
            for pid in Path(f"/proc/{strace.pid}/task/{strace.pid}/children").read_text().split():
                os.kill(int(pid), signal.SIGTERM)
            strace.wait(30)
        return trace.read_text(errors="replace")

    try:
        wait_for(lambda: "listening" in log.read_text() or strace.poll() is not None)
        if "listening" not in log.read_text():
            pytest.fail(f"the receiver did not start under strace:\n{log.read_text()}")
        yield pipeline, stop
    finally:
        if strace.poll() is None:
            stop()


def one(calls: list[Call], condition: Callable[[Call], bool], after: Call, before: Call, what: str) -> Call:
    """The first call that fulfils a condition, began after another one ended, and ended before a third began."""
    for call in calls:
        if condition(call) and call.began > after.ended and call.ended < before.began:
            return call
    raise AssertionError(f"no {what} between {after} and {before}")


def is_send(call: Call) -> bool:
    return call.name in SENDS and call.file.startswith(("socket:", "TCP"))


def send(pipeline: Pipeline, folder: Path) -> None:
    subprocess.run(["dcmsend", "--scan-directories", "127.0.0.1", str(pipeline.port), folder], check=True, timeout=120)


def check_order(pipeline: Pipeline, calls: list[Call]) -> None:
    """For each file of incoming/: write, fsync, rename, fsync(incoming/), ledger commit, response, one by one."""
    incoming, staging = str(pipeline.spool.incoming), str(pipeline.spool.staging.path)
    wal = f"{pipeline.spool.ledger}-wal"
    uids = {path.name: dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in pipeline.incoming()}
    renames = {
        name: call for name in uids for call in calls if call.name in RENAMES and call.arguments.count(name) == 2
    }
    assert set(renames) == set(uids)
    responses = [call for call in calls if is_send(call)]
    for name, renamed in renames.items():
        assert f"{staging}/{name}" in renamed.arguments or f"<{staging}>" in renamed.arguments
        assert f"{incoming}/{name}" in renamed.arguments or f"<{incoming}>" in renamed.arguments
        writes = [call for call in calls if call.name in WRITES and call.file.endswith(f"/{name}")]
        assert len(writes) > 1
        assert {call.file for call in writes} == {f"{staging}/{name}"}
        synced = [call for call in calls if call.name in SYNCS and call.file == f"{staging}/{name}"]
        file_synced = one(synced, lambda _: True, writes[-1], renamed, "fsync of the file")
        assert all(call.ended < file_synced.began for call in writes)
        # It names the instance, and there is no other: nothing was said about it before.
        (response,) = [call for call in responses if f"{uids[name]}" in call.arguments]
        directory_synced = one(
            calls, lambda call: call.name == "fsync" and call.file == incoming, renamed, response, "fsync of incoming/"
        )
        one(calls, lambda call: call.name in WRITES and call.file == wal, directory_synced, response, "ledger commit")


@needs_dcmtk
@needs_strace
def test_each_instance_is_durable_before_it_is_acknowledged(
    traced: tuple[Pipeline, Callable[[], str]], tmp_path: Path
) -> None:
    """One association: nothing is sent but the acceptance, five responses and the answer to the release."""
    pipeline, stop = traced
    for number in range(5):
        make_instance(tmp_path / "to-send" / f"{number}.dcm", PixelData=bytes(256 * 1024))
    send(pipeline, tmp_path / "to-send")
    assert len(pipeline.incoming()) == 5
    calls = calls_of(stop())
    check_order(pipeline, calls)
    assert len([call for call in calls if is_send(call)]) == 7


@needs_dcmtk
@needs_strace
def test_associations_share_a_flush_of_the_directory_and_each_keeps_the_order(
    traced: tuple[Pipeline, Callable[[], str]], tmp_path: Path
) -> None:
    """Six at once: fewer flushes of incoming/ than instances, and for each one between its rename and its row."""
    pipeline, stop = traced
    for sender in range(6):
        for number in range(10):
            make_instance(tmp_path / str(sender) / f"{number}.dcm")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda sender: send(pipeline, tmp_path / str(sender)), range(6)))
    assert len(pipeline.incoming()) == 60
    calls = calls_of(stop())
    check_order(pipeline, calls)
    flushes = [call for call in calls if call.name == "fsync" and call.file == str(pipeline.spool.incoming)]
    assert len(flushes) < 60


def test_a_trace_of_several_threads_is_read_as_it_was() -> None:
    """Calls that strace shows in two halves are put together, and a failed one does not count."""
    trace = (
        '10 write(5</s/a.dcm>, "x", 1) = 1\n'
        "10 fsync(5</s/a.dcm> <unfinished ...>\n"
        '11 sendto(7<socket:[1]>, "\\4", 1, 0, NULL, 0) = 1\n'
        "10 <... fsync resumed>)        = 0\n"
        "11 fsync(9</i>) = -1 EIO (Input/output error)\n"
        "11 --- SIGTERM {si_signo=SIGTERM} ---\n"
    )
    assert [(call.name, call.file, call.began, call.ended) for call in calls_of(trace)] == [
        ("write", "/s/a.dcm", 0, 0),
        ("fsync", "/s/a.dcm", 1, 3),
        ("sendto", "socket:[1]", 2, 2),
    ]
