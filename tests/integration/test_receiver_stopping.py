"""Starting, stopping, being killed, and sharing the port."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from receiver_peer import Aborted, Peer, instance

from support.pipeline import ROOT, Pipeline, Process, wait_for

MakePipeline = Callable[..., Pipeline]


def start(make_pipeline: MakePipeline, **receiver: object) -> tuple[Pipeline, Process]:
    pipeline = make_pipeline("http://127.0.0.1:9/", receiver=receiver)
    return pipeline, pipeline.start("receiver")


def run(pipeline: Pipeline) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "receiver", "--config", str(pipeline.ini)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_an_idle_receiver(make_pipeline: MakePipeline, number: signal.Signals) -> None:
    """It ends with status 0, and its port is closed."""
    pipeline, process = start(make_pipeline, shutdown_seconds=600)
    process.popen.send_signal(number)
    assert process.popen.wait(10) == 0
    with pytest.raises(ConnectionRefusedError):
        Peer(pipeline.port)


def test_a_receiver_that_was_suspended_goes_on(make_pipeline: MakePipeline) -> None:
    """SIGSTOP and SIGCONT, as a debugger, a shell or a freezer uses them, are no wish to stop."""
    pipeline, process = start(make_pipeline)
    process.popen.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    process.popen.send_signal(signal.SIGCONT)
    for _ in range(2):
        time.sleep(0.5)
        with Peer(pipeline.port) as peer:
            peer.associate()
            assert peer.store(instance()).Status == 0x0000
            peer.release()
    assert process.stop(10) == 0


def test_a_thread_that_a_library_started_takes_no_signal(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """numpy's threads, say, are there before a receiver can tell them to leave its signals alone."""
    starter = tmp_path / "with_a_thread.py"
    starter.write_text(
        "import runpy, sys, threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
    )
    pipeline = make_pipeline("http://127.0.0.1:9/")
    process = pipeline.launch("receiver", through=(sys.executable, str(starter)), PYTHONPATH=str(ROOT))
    process.wait_for_line("listening")
    assert process.stop(10) == 0


def test_a_silent_connection_does_not_delay_a_stop(make_pipeline: MakePipeline) -> None:
    """Who has not asked for an association is not waited for."""
    pipeline, process = start(make_pipeline, shutdown_seconds=600, acse_timeout_seconds=600)
    with Peer(pipeline.port):
        time.sleep(0.2)
        assert process.stop(10) == 0


def test_a_stop_lets_a_slow_sender_finish(make_pipeline: MakePipeline) -> None:
    """In the middle of a dataset a stop waits: the instance is stored and answered, nobody new is let in."""
    pipeline, process = start(make_pipeline, shutdown_seconds=60)
    with Peer(pipeline.port) as peer:
        peer.associate()
        parts = list(peer.store_pdus(instance(pixels=100_000)))
        for part in parts[:3]:
            peer.socket.sendall(part)
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for_line("stopping")

        def closed() -> bool:
            try:
                socket.create_connection(("127.0.0.1", pipeline.port)).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_for(closed)
        for part in parts[3:]:
            peer.socket.sendall(part)
        assert peer.answer().Status == 0x0000
        assert peer.store(instance()).Status == 0x0000
        peer.release()
    assert process.popen.wait(20) == 0
    assert len(pipeline.rows()) == len(pipeline.incoming()) == 2


@pytest.mark.parametrize("half", [False, True], ids=["between two PDUs", "inside a PDU"])
def test_what_lasts_too_long_is_aborted(make_pipeline: MakePipeline, *, half: bool) -> None:
    """After shutdown_seconds the rest gets an A-ABORT; the end is still status 0, and leaves nothing behind."""
    pipeline, process = start(make_pipeline, shutdown_seconds=1)
    with Peer(pipeline.port) as peer:
        peer.associate()
        first, second, *_ = peer.store_pdus(instance(pixels=100_000))
        peer.socket.sendall(first + (second[:1000] if half else second))
        process.popen.send_signal(signal.SIGTERM)
        with pytest.raises(Aborted):
            peer.pdu()
    assert process.popen.wait(20) == 0
    assert pipeline.incoming() == []
    assert list(pipeline.spool.staging.path.iterdir()) == []


def test_a_second_signal_ends_at_once(make_pipeline: MakePipeline) -> None:
    """With an association under way the first signal waits, the second does not."""
    pipeline, process = start(make_pipeline, shutdown_seconds=600)
    with Peer(pipeline.port) as peer:
        peer.associate()
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for_line("stopping")
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(10) == 1


def test_two_receivers_share_the_port(make_pipeline: MakePipeline) -> None:
    """Both get associations; when one stops, the other serves them all."""
    pipeline, first = start(make_pipeline)
    second = pipeline.start("receiver")

    def send() -> None:
        with Peer(pipeline.port) as peer:
            peer.associate()
            assert peer.store(instance()).Status == 0x0000
            peer.release()

    def both() -> bool:
        send()
        return all(" stored " in process.log() for process in (first, second))

    wait_for(both)
    assert first.stop() == 0
    before = second.log().count(" stored ")
    for _ in range(5):
        send()
    assert second.log().count(" stored ") == before + 5
    assert len(pipeline.rows()) == len(pipeline.incoming())


def test_a_second_receiver_does_not_sweep_what_the_first_receives(make_pipeline: MakePipeline) -> None:
    """Staging is swept of what the dead left, not of what the living write."""
    pipeline, _ = start(make_pipeline)
    (pipeline.spool.staging.path / ("0" * 32 + ".dcm")).write_bytes(b"left by a dead one")
    with Peer(pipeline.port) as peer:
        peer.associate()
        first, second, *rest = peer.store_pdus(instance(pixels=100_000))
        peer.socket.sendall(first + second)
        pipeline.start("receiver")
        assert not (pipeline.spool.staging.path / ("0" * 32 + ".dcm")).exists()
        for part in rest:
            peer.socket.sendall(part)
        assert peer.answer().Status == 0x0000


def test_a_kill_keeps_what_was_acknowledged(make_pipeline: MakePipeline) -> None:
    """After SIGKILL in the middle of it all, every acknowledged instance is there, and staging is swept at start."""
    pipeline, process = start(make_pipeline)
    acknowledged = []
    with Peer(pipeline.port) as peer:
        peer.associate()
        for _ in range(5):
            dataset = instance()
            assert peer.store(dataset).Status == 0x0000
            acknowledged.append(dataset.SOPInstanceUID)
        first, second, *_ = peer.store_pdus(instance(pixels=100_000))
        peer.socket.sendall(first + second)
        process.kill()
    pipeline.start("receiver")
    assert {row.sop_instance_uid for row in pipeline.rows()} == set(acknowledged)
    assert len(pipeline.incoming()) == 5
    assert list(pipeline.spool.staging.path.iterdir()) == []


def test_a_port_of_another_program_is_said_plainly(make_pipeline: MakePipeline) -> None:
    """Exit status 1, naming host and port."""
    pipeline = make_pipeline("http://127.0.0.1:9/")
    with socket.socket() as other:
        other.bind(("127.0.0.1", pipeline.port))
        other.listen()
        ended = run(pipeline)
    assert ended.returncode == 1
    assert f"127.0.0.1 port {pipeline.port}" in ended.stderr
    assert "in use" in ended.stderr


def test_a_host_that_does_not_exist_is_said_plainly(make_pipeline: MakePipeline) -> None:
    """Exit status 1, naming it."""
    ended = run(make_pipeline("http://127.0.0.1:9/", receiver={"host": "no-such-host.invalid"}))
    assert ended.returncode == 1
    assert "no-such-host.invalid" in ended.stderr


def test_a_spool_that_cannot_be_made_is_said_plainly(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """Exit status 1, naming it."""
    (tmp_path / "file").write_text("in the way")
    ended = run(make_pipeline("http://127.0.0.1:9/", spool={"directory": tmp_path / "file"}))
    assert ended.returncode == 1
    assert str(tmp_path / "file") in ended.stderr


def test_a_broken_configuration_is_status_2(make_pipeline: MakePipeline) -> None:
    """Before anything is opened."""
    pipeline = make_pipeline("http://127.0.0.1:9/", receiver={"max_pdu": "lots"})
    ended = run(pipeline)
    assert ended.returncode == 2
    assert "[receiver] max_pdu" in ended.stderr
    assert not pipeline.spool.directory.exists()


def test_what_it_creates_is_private(make_pipeline: MakePipeline) -> None:
    """Folders are 0700 and files 0600, whatever the umask was."""
    before = os.umask(0)
    try:
        pipeline, _ = start(make_pipeline)
    finally:
        os.umask(before)
    with Peer(pipeline.port) as peer:
        peer.associate()
        peer.store(instance())
    spool = pipeline.spool.directory
    assert {path.stat().st_mode & 0o777 for path in (spool, *spool.iterdir()) if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in spool.rglob("*") if path.is_file()} == {0o600}
