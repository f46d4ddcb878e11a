"""Errors of the disk, one system call at a time, in real processes: never an acknowledgement without the bytes."""

import os
import resource
from collections.abc import Callable
from pathlib import Path

from pydicom.dataset import Dataset
from receiver_peer import CT, EXPLICIT, Peer, instance

from common.records import Event, State
from sandbox.running import RunningSandbox
from support.injecting import injected, needs_strace
from support.pipeline import Pipeline, wait_for
from support.samples import make_instance

MakePipeline = Callable[..., Pipeline]


def staged_file(pipeline: Pipeline) -> Path:
    """The file that the receiver has ready for the next instance."""
    wait_for(lambda: any(pipeline.spool.staging.path.iterdir()))
    (path,) = pipeline.spool.staging.path.iterdir()
    return path


def log_of_ledger(pipeline: Pipeline) -> Path:
    return Path(f"{pipeline.spool.ledger}-wal")


FAULTS: dict[str, tuple[str, Callable[[Pipeline], Path]]] = {
    "write, no space": ("writev:error=ENOSPC:when=1", staged_file),
    "write, over quota": ("writev:error=EDQUOT:when=2", staged_file),
    "write, I/O": ("writev:error=EIO:when=3", staged_file),
    "begun write-back, I/O": ("sync_file_range:error=EIO:when=1", staged_file),
    "fsync of the file, I/O": ("fsync:error=EIO:when=1", staged_file),
    "fsync of the file, no space": ("fsync:error=ENOSPC:when=1", staged_file),
    "rename, read-only": ("rename:error=EROFS:when=1", staged_file),
    "rename, no space": ("rename:error=ENOSPC:when=1", staged_file),
    "fsync of incoming/, I/O": ("fsync:error=EIO:when=1", lambda pipeline: pipeline.spool.incoming),
    "ledger, no space": ("pwrite64:error=ENOSPC:when=1", log_of_ledger),
    "ledger, I/O": ("pwrite64:error=EIO:when=1", log_of_ledger),
}


@needs_strace
def test_one_error_of_the_disk_is_one_a700(make_pipeline: MakePipeline) -> None:
    """Each call that can fail fails once, and would succeed if it were tried again: it is not. The next is stored."""
    pipeline = make_pipeline("http://127.0.0.1:9/")
    receiver = pipeline.start("receiver")
    acknowledged: list[Dataset] = []
    with Peer(pipeline.port) as peer:
        peer.associate({1: (CT, [EXPLICIT])})
        # The log of the ledger is there, and the file for the next instance.
        acknowledged.append(first := instance(pixels=600_000))
        assert peer.store(first).Status == 0x0000
        for name, (fault, path) in FAULTS.items():
            with injected(receiver.popen.pid, fault, path(pipeline)) as trace:
                answer = peer.store(instance(pixels=600_000))
                assert "(INJECTED)" in trace.read_text(), name
            assert answer.Status == 0xA700, name
            assert 0 < len(answer.ErrorComment) <= 64
            acknowledged.append(next_one := instance(pixels=600_000))
            assert peer.store(next_one).Status == 0x0000, name
            assert len(pipeline.incoming()) == len(acknowledged), name
        peer.release()
    wait_for(lambda: pipeline.half_received() == [])
    uids = {str(one.SOPInstanceUID) for one in acknowledged}
    assert {row.sop_instance_uid for row in pipeline.rows()} == uids
    assert {row.file_name for row in pipeline.rows()} == {path.name for path in pipeline.incoming()}


def test_no_descriptor_left_is_a700_until_there_is_one(make_pipeline: MakePipeline) -> None:
    """With the real limit reached, the association goes on, and stores again when there is room under the limit."""
    pipeline = make_pipeline("http://127.0.0.1:9/")
    pid = pipeline.start("receiver").popen.pid
    with Peer(pipeline.port) as peer:
        peer.associate({1: (CT, [EXPLICIT])})
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        # The first one or two have a file that was made ahead.
        answers = [peer.store(instance()) for _ in range(4)]
        assert answers[-1].Status == 0xA700
        assert answers[-1].ErrorComment
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert peer.store(instance()).Status == 0x0000
        peer.release()
    stored = sum(answer.Status == 0x0000 for answer in answers) + 1
    assert len(pipeline.incoming()) == len(pipeline.rows()) == stored


@needs_strace
def test_a_ledger_that_cannot_be_flushed_costs_no_file_and_records_no_event_twice(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """The row is written, and only a power cut could take it: said so, recorded once, and the log is begun anew."""
    pipeline = make_pipeline(sandbox.url)
    rule = sandbox.add_rule("hang=2")
    uploader = pipeline.start("uploader")
    uid = make_instance(tmp_path / "one.dcm")
    with pipeline.ledger():  # so that the log has its name throughout
        os.rename(tmp_path / "one.dcm", pipeline.spool.incoming / "one.dcm")
        wait_for(lambda: pipeline.counts()[State.INCOMING] == 1)
        with injected(uploader.popen.pid, "fdatasync:error=EIO:when=1", log_of_ledger(pipeline)):
            uploader.wait_for_line("a power cut may take the record of it")
        pipeline.wait_empty()
        sandbox.remove_rule(rule)
        second = make_instance(pipeline.spool.incoming / "two.dcm")
        pipeline.wait_empty()
    assert {one["sop_instance_uid"] for one in sandbox.instances()} == {uid, second}
    with pipeline.ledger() as ledger:
        for name in ("one.dcm", "two.dcm"):
            assert [event.event for event in ledger.events(name)] == [Event.ADOPTED, Event.SENT]
            assert ledger.rows([name])[name].attempts == 1
