"""The order that the guarantee demands, seen from the outside: the system calls of a real receiver (R1 to R6)."""

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom import dcmread

from support.pipeline import Pipeline
from support.programs import needs_dcmtk
from support.samples import make_instance
from support.system_calls import RENAMES, SYNCS, WRITES, Call, calls_of, is_send, needs_strace, one, tracing


@pytest.fixture
def traced(make_pipeline: Callable[..., Pipeline], tmp_path: Path) -> Iterator[tuple[Pipeline, Callable[[], str]]]:
    """A receiver under strace, and a function that stops it and gives the trace."""
    pipeline = make_pipeline("http://127.0.0.1:9")
    with tracing("receiver", pipeline, tmp_path, "listening") as stop:
        yield pipeline, stop


def send(pipeline: Pipeline, folder: Path) -> None:
    subprocess.run(["dcmsend", "--scan-directories", "127.0.0.1", str(pipeline.port), folder], check=True, timeout=120)


def check_order(pipeline: Pipeline, calls: list[Call], least_writes: int = 1) -> None:
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
        assert len(writes) >= least_writes
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
    check_order(pipeline, calls, least_writes=2)
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
