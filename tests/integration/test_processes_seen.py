"""What running receivers and uploaders say of themselves, and a person's wish for a probe, in the real processes."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from receiver_peer import CT, EXPLICIT, VERIFICATION, Peer, Rejected, instance

from common.presence import FOLDER, Process, processes, wish_probe
from common.records import State
from sandbox.running import RunningSandbox, running_sandbox
from support.disks import needs_mount, small_disk
from support.pipeline import Pipeline, wait_for
from support.pipeline import Process as Started
from support.programs import free_port
from support.samples import make_instance

MakePipeline = Callable[..., Pipeline]

CONTEXTS = {1: (CT, [EXPLICIT]), 3: (VERIFICATION, ["1.2.840.10008.1.2"])}
LONG_PAUSES = {"backoff_initial_seconds": 300, "backoff_max_seconds": 300}


def of_role(pipeline: Pipeline, role: str) -> list[Process]:
    return [process for process in processes(pipeline.spool.directory) if process.role == role]


def facts(pipeline: Pipeline, role: str) -> dict[str, Any]:
    """What the only process of a role says."""
    (process,) = of_role(pipeline, role)
    return dict(process.facts)


def drop(pipeline: Pipeline, count: int) -> None:
    for number in range(count):
        aside = pipeline.folder / f"aside-{number}.dcm"
        make_instance(aside)
        shutil.move(aside, pipeline.spool.incoming)


def test_the_processes_show_themselves_until_they_stop(make_pipeline: MakePipeline, sandbox: RunningSandbox) -> None:
    """Started, each says what it is; stopped, it takes its file away."""
    pipeline = make_pipeline(sandbox.url)
    receiver, uploader = pipeline.start("receiver"), pipeline.start("uploader")
    wait_for(lambda: [found.role for found in processes(pipeline.spool.directory)] == ["receiver", "uploader"])
    assert [found.pid for found in processes(pipeline.spool.directory)] == [receiver.popen.pid, uploader.popen.pid]
    assert facts(pipeline, "receiver") == {
        "associations": 0,
        "ae_title": "STOWGATE",
        "port": pipeline.port,
        "refused": {},
        "rejected": {},
    }
    said = facts(pipeline, "uploader")
    assert (said["destination"]["mode"], said["waiting"], said["under_way"], said["threads"]) == ("open", 0, 0, 4)
    assert receiver.stop() == 0
    assert uploader.stop() == 0
    assert os.listdir(pipeline.spool.directory / FOLDER) == []


def test_killed_it_is_gone_at_once_and_stopped_it_lives_and_says_nothing(
    make_pipeline: MakePipeline, sandbox: RunningSandbox
) -> None:
    """After SIGKILL nobody claims its file; under SIGSTOP what it said last stays, with the time of it."""
    pipeline = make_pipeline(sandbox.url)
    receiver = pipeline.start("receiver")
    wait_for(lambda: of_role(pipeline, "receiver"))
    with Peer(pipeline.port) as peer:
        peer.associate(CONTEXTS)
        wait_for(lambda: facts(pipeline, "receiver")["associations"] == 1)
        receiver.popen.send_signal(signal.SIGSTOP)
    try:
        before = processes(pipeline.spool.directory)
        wait_for(lambda: Path(f"/proc/{receiver.popen.pid}/stat").read_text().split(") ")[1][0] == "T")
        assert processes(pipeline.spool.directory) == before != []
    finally:
        receiver.popen.send_signal(signal.SIGCONT)
    wait_for(lambda: facts(pipeline, "receiver")["associations"] == 0)
    receiver.kill()
    assert processes(pipeline.spool.directory) == []
    pipeline.start("receiver")
    wait_for(lambda: of_role(pipeline, "receiver"))
    assert len(os.listdir(pipeline.spool.directory / FOLDER)) == 1


def test_a_receiver_counts_what_it_refuses_and_rejects(make_pipeline: MakePipeline, sandbox: RunningSandbox) -> None:
    """Instances by the status that they got, associations by the reason; what is stored is not counted."""
    pipeline = make_pipeline(sandbox.url, receiver={"require_called_ae_title": "yes", "max_associations": 1})
    pipeline.start("receiver")
    for _ in range(2):
        with Peer(pipeline.port) as stranger, pytest.raises(Rejected):
            stranger.associate(CONTEXTS, called="NOBODY")
    with Peer(pipeline.port) as peer:
        peer.associate(CONTEXTS)
        with Peer(pipeline.port) as second, pytest.raises(Rejected):
            second.associate(CONTEXTS)
        assert peer.store(instance()).Status == 0x0000
        assert peer.store(b"no dataset at all").Status == 0xC000
        peer.release()
    wait_for(lambda: facts(pipeline, "receiver")["refused"] == {"C000": 1})
    assert facts(pipeline, "receiver")["rejected"] == {"called-ae-title": 2, "limit": 1}


def test_two_paused_uploaders_hear_the_wish_to_probe(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """Minutes before their pauses end, both probe at once when a person wishes so, and everything is delivered."""
    port = free_port()
    pipeline = make_pipeline(f"http://127.0.0.1:{port}/dicom-web", uploader={**LONG_PAUSES, "batch_instances": 1})
    pipeline.spool.prepare()
    drop(pipeline, 4)
    pipeline.start("uploader")
    pipeline.start("uploader")

    def modes() -> list[str]:
        return [found.facts["destination"]["mode"] for found in of_role(pipeline, "uploader")]

    wait_for(lambda: modes() == ["paused", "paused"])
    for found in of_role(pipeline, "uploader"):
        said = found.facts["destination"]
        assert "cannot connect" in said["reason"]
        assert said["http_status"] is None
        assert said["since"] < said["next_probe_at"]
    with running_sandbox(tmp_path / "archive", "--port", str(port)) as sandbox:
        wish_probe(pipeline.spool.directory)
        pipeline.wait_empty(20)
        assert len(sandbox.instances()) == 4
        wait_for(lambda: "open" in modes())
        assert pipeline.logs().count("as a person wishes") == 2
        pipeline.stop()
    assert pipeline.counts()[State.SENT] == 4


@needs_mount
def test_a_full_disk_does_not_silence_who_tells_of_it(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """The room for what is said was taken at the start; who starts on a full disk is seen when there is room."""
    with small_disk(tmp_path / "pipeline-0", 8 * 1024 * 1024) as disk:
        pipeline = make_pipeline("http://127.0.0.1:9/dicom-web", spool={"min_free": 0})
        pipeline.start("receiver")
        wait_for(lambda: of_role(pipeline, "receiver"))
        disk.fill()
        with Peer(pipeline.port) as peer:
            peer.associate(CONTEXTS)
            assert peer.store(instance(pixels=512)).Status == 0xA700
            wait_for(lambda: facts(pipeline, "receiver")["refused"] == {"A700": 1})
            peer.release()
        uploader = Started("uploader", pipeline.ini, tmp_path / "uploader.log")
        pipeline.processes.append(uploader)
        uploader.wait_for_line("delivering")
        assert of_role(pipeline, "uploader") == []
        disk.free()
        wait_for(lambda: of_role(pipeline, "uploader") or uploader.popen.poll() is not None)
        assert uploader.popen.poll() is None
        pipeline.stop()


def test_a_spool_that_is_taken_away_stops_nobody(make_pipeline: MakePipeline, sandbox: RunningSandbox) -> None:
    """A process goes on when nobody can see it, and is seen again when the folder is back."""
    pipeline = make_pipeline(sandbox.url)
    receiver = pipeline.start("receiver")
    wait_for(lambda: of_role(pipeline, "receiver"))
    pipeline.spool.directory.rename(pipeline.folder / "away")
    with Peer(pipeline.port) as peer, pytest.raises(Rejected):
        peer.associate(CONTEXTS)
    pipeline.spool.prepare()
    wait_for(lambda: of_role(pipeline, "receiver"))
    assert receiver.popen.poll() is None
    assert facts(pipeline, "receiver")["rejected"] == {"disk-full": 1}
