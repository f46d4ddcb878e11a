"""A disk without room, or read-only: nothing acknowledged is lost, delivering goes on, and all of it ends by itself."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from receiver_peer import CT, EXPLICIT, VERIFICATION, Peer, Rejected, instance

from common.records import State
from sandbox.running import RunningSandbox
from support.disks import SmallDisk, needs_mount, small_disk
from support.pipeline import Pipeline, Process, wait_for
from support.samples import make_instance

MakePipeline = Callable[..., Pipeline]

pytestmark = needs_mount

SIZE = 8 * 1024 * 1024
CONTEXTS = {1: (CT, [EXPLICIT]), 3: (VERIFICATION, ["1.2.840.10008.1.2"])}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """The disk that the first pipeline of a test lies on: spool, ledger, quarantine and logs."""
    with small_disk(tmp_path / "pipeline-0", SIZE) as mounted:
        yield mounted


@pytest.fixture
def pipeline(disk: SmallDisk, make_pipeline: MakePipeline, sandbox: RunningSandbox) -> Iterator[Pipeline]:
    """A pipeline on that disk, whose processes are not started yet; min_free is 0, so that it can be filled."""
    made = make_pipeline(sandbox.url, spool={"min_free": 0})
    yield made
    made.stop()


def start_with_log_elsewhere(pipeline: Pipeline, module: str, log: Path) -> Process:
    """Start a process while the disk is full: what it says goes elsewhere, so that it can be waited for."""
    process = Process(module, pipeline.ini, log)
    pipeline.processes.append(process)
    process.wait_for_line({"receiver": "listening", "uploader": "delivering"}[module])
    return process


def held(sandbox: RunningSandbox) -> set[str]:
    return {one["sop_instance_uid"] for one in sandbox.instances()}


def store(peer: Peer, acknowledged: set[str], **options: int) -> Dataset:
    """Send an instance, and remember it if it is acknowledged; the answer."""
    dataset = instance(**options)  # type: ignore[arg-type]
    answer = peer.store(dataset)
    if answer.Status == 0x0000:
        acknowledged.add(str(dataset.SOPInstanceUID))
    else:
        assert answer.Status == 0xA700
        assert 0 < len(answer.ErrorComment) <= 64
    return answer


def store_until_refused(peer: Peer, acknowledged: set[str], **options: int) -> Dataset:
    for _ in range(1000):
        answer = store(peer, acknowledged, **options)
        if answer.Status:
            return answer
    raise AssertionError("the disk is not full")


def check_account(pipeline: Pipeline, sandbox: RunningSandbox, acknowledged: set[str]) -> None:
    """All that was acknowledged is at the archive and recorded as sent, and nothing is left."""
    wait_for(lambda: pipeline.counts()[State.SENT] >= len(acknowledged), what="the ledger caught up")
    assert acknowledged <= held(sandbox)
    assert acknowledged <= {row.sop_instance_uid for row in pipeline.rows() if row.state is State.SENT}
    assert pipeline.counts()[State.REMOVED] == pipeline.counts()[State.INCOMING] == 0
    assert pipeline.half_received() == []


@pytest.mark.parametrize("pixels", [256, 300_000])
def test_a_disk_that_fills_up_is_a700_and_delivering_empties_it(
    pipeline: Pipeline, sandbox: RunningSandbox, disk: SmallDisk, tmp_path: Path, pixels: int
) -> None:
    """To the last byte, whatever needs it then, file or ledger: the association goes on, and is served again."""
    acknowledged: set[str] = set()
    pipeline.start("receiver")
    with Peer(pipeline.port) as peer:
        peer.associate(CONTEXTS)
        for _ in range(3):
            store(peer, acknowledged, pixels=pixels)
        disk.fill(keep=max(256 * 1024, pixels * 2))
        store_until_refused(peer, acknowledged, pixels=pixels)
        disk.fill()
        for _ in range(5):
            assert store(peer, acknowledged, pixels=pixels).Status == 0xA700
        assert peer.echo(3).Status == 0x0000
        assert {path.name for path in pipeline.incoming()} >= {row.file_name for row in pipeline.rows()}
        assert len(pipeline.incoming()) == len(acknowledged)
        assert pipeline.half_received() == []
        start_with_log_elsewhere(pipeline, "uploader", tmp_path / "uploader.log")
        pipeline.wait_empty()
        wait_for(lambda: store(peer, acknowledged, pixels=pixels).Status == 0x0000)
        peer.release()
    pipeline.wait_empty()
    disk.free()
    check_account(pipeline, sandbox, acknowledged)


def test_both_start_on_a_full_disk_and_empty_it(
    pipeline: Pipeline, sandbox: RunningSandbox, disk: SmallDisk, tmp_path: Path
) -> None:
    """After a stop the ledger has no log beside it, and there is no room for a new one: they start all the same.

    What was dropped by hand, which the ledger does not know and cannot take in, goes too, and is entered afterwards.
    """
    acknowledged: set[str] = set()
    receiver = pipeline.start("receiver")
    with Peer(pipeline.port) as peer:
        peer.associate(CONTEXTS)
        for _ in range(10):
            store(peer, acknowledged)
        peer.release()
    assert receiver.stop() == 0
    dropped = {make_instance(pipeline.spool.incoming / f"{number}.dcm") for number in range(5)}
    disk.fill()
    start_with_log_elsewhere(pipeline, "receiver", tmp_path / "receiver.log")
    with Peer(pipeline.port) as peer:
        peer.associate(CONTEXTS)
        assert store(peer, acknowledged).Status == 0xA700
        start_with_log_elsewhere(pipeline, "uploader", tmp_path / "uploader.log")
        pipeline.wait_empty()
        assert held(sandbox) == acknowledged | dropped
        disk.free()
        wait_for(lambda: store(peer, acknowledged).Status == 0x0000)
        peer.release()
    pipeline.wait_empty()
    check_account(pipeline, sandbox, acknowledged | dropped)


def test_quarantine_on_a_full_disk_keeps_the_file_owed(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """Without room for the reason nothing is moved, and no other file waits for that; then it goes there."""
    with small_disk(tmp_path / "pipeline-0" / "spool", SIZE) as disk:
        pipeline = make_pipeline(sandbox.url, spool={"min_free": 0})
        pipeline.spool.prepare()
        bad = pipeline.spool.incoming / "bad.dcm"
        bad.write_bytes(b"no DICOM file" * 100)
        refused = make_instance(pipeline.spool.incoming / "refused.dcm")
        sandbox.add_rule(f"uid={refused},fail=0xC000")
        good = {make_instance(pipeline.spool.incoming / f"{number}.dcm") for number in range(3)}
        disk.fill()
        uploader = pipeline.start("uploader")
        wait_for(lambda: held(sandbox) == good)
        disk.fill()
        uploader.wait_for_line("not quarantined")
        disk.fill()
        assert bad.exists()
        disk.free()
        pipeline.wait_empty()
        assert pipeline.quarantined() == {"bad.dcm", "refused.dcm"}
        reasons = [json.loads(path.read_text()) for path in pipeline.spool.quarantine.path.glob("*.json")]
        assert sorted(reason["cause"] for reason in reasons) == ["not-dicom", "refused"]
        check_account(pipeline, sandbox, good)
        pipeline.stop()


def test_below_min_free_it_is_a700_until_there_is_room_again(
    pipeline: Pipeline, sandbox: RunningSandbox, disk: SmallDisk
) -> None:
    """An association goes on with 0xA700, a new one is rejected as transient (2, 3, 1); then both are served again."""
    pipeline.configure(spool={"min_free": "2 MB"})
    pipeline.start("receiver")
    acknowledged: set[str] = set()
    with Peer(pipeline.port) as peer:
        peer.associate(CONTEXTS)
        assert store(peer, acknowledged).Status == 0x0000
        disk.fill(keep=1024 * 1024)
        assert "free disk space" in store(peer, acknowledged).ErrorComment
        with Peer(pipeline.port) as other, pytest.raises(Rejected, match=r"2, 3, 1"):
            other.associate(CONTEXTS)
        disk.free()
        assert store(peer, acknowledged).Status == 0x0000
        with Peer(pipeline.port) as other:
            other.associate(CONTEXTS)
            assert store(other, acknowledged).Status == 0x0000
    assert len(pipeline.incoming()) == len(acknowledged) == 3


def test_a_spool_that_becomes_read_only_is_a700_until_it_can_be_written_again(
    pipeline: Pipeline, sandbox: RunningSandbox, disk: SmallDisk
) -> None:
    """What was sent meanwhile is not deleted and stays owed: it goes a second time, never none."""
    pipeline.start("receiver")
    acknowledged: set[str] = set()
    with Peer(pipeline.port) as peer:
        peer.associate(CONTEXTS)
        for _ in range(3):
            store(peer, acknowledged)
        with disk.read_only():
            for _ in range(3):
                assert store(peer, acknowledged).Status == 0xA700
            assert peer.echo(3).Status == 0x0000
        assert len(pipeline.incoming()) == len(acknowledged) == 3
        uploader = pipeline.start("uploader")
        pipeline.wait_empty()
        sandbox.add_rule("status=503")
        for _ in range(2):
            assert store(peer, acknowledged).Status == 0x0000
        uploader.wait_for_line("destination paused")
        with disk.read_only():
            sandbox.clear_rules()
            uploader.wait_for_line("cannot be deleted")
            assert len(pipeline.incoming()) == 2
        pipeline.wait_empty()
        assert store(peer, acknowledged).Status == 0x0000
        peer.release()
    pipeline.wait_empty()
    check_account(pipeline, sandbox, acknowledged)
