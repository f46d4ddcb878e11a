"""SIGKILL at the n-th system call of a kind, by strace: a second way to every step, which knows nothing of the code.

For each kind it begins with the first call of the work and goes on to the next, until the process survives the work.
"""

import contextlib
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway import Gateway, Gateways
from receiver_peer import CT, EXPLICIT
from resending_sender import ToSend, instances

from common.part10 import part10_header
from support.agreement import unclaimed
from support.pipeline import Process, wait_for
from support.system_calls import needs_strace

MOST = 60  # calls of one kind, after which the work should have been done

pytestmark = [pytest.mark.long, needs_strace, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    """One gateway for all tests of this module, as long as it is whole."""
    made = Gateways(tmp_path_factory.mktemp("crash-calls"))
    yield made
    made.close()


@pytest.fixture
def gateway(gateways: Gateways) -> Iterator[Gateway]:
    """A gateway, of which nothing runs but the archive."""
    with gateways.one() as one:
        for process in one.pipeline.processes:
            process.kill()
        one.sandbox.clear_rules()
        yield one


@contextlib.contextmanager
def killing(process: Process, call: str, number: int, log: Path) -> Iterator[None]:
    """Have a process killed when one of its threads begins its n-th call of a kind, from now on; or at the end."""
    inject = ("-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}")
    with open(log, "wb") as errors:
        strace = subprocess.Popen(
            ["strace", "-f", "-o", "/dev/null", *inject, "-p", str(process.popen.pid)], stderr=errors
        )
    try:
        wait_for(lambda: "attached" in log.read_text() or strace.poll() is not None)
        if "attached" not in log.read_text():
            pytest.fail(f"strace cannot attach to a process:\n{log.read_text()}")
        yield
    finally:
        # The process first, whatever became of it: strace may never come back from letting go of one that runs.
        process.kill()
        strace.kill()
        strace.wait(10)


@pytest.mark.parametrize("call", ["fsync", "rename", "pwrite64", "writev", "flock", "close", "openat", "sendto"])
def test_a_receiver_dies_at_a_system_call(gateway: Gateway, tmp_path: Path, call: str) -> None:
    """While it takes two instances; after each death the next receiver sweeps, and all is delivered."""
    gateway.pipeline.start("uploader")
    left: list[ToSend] = []
    for number in itertools.count(1):
        assert number < MOST
        receiver = gateway.pipeline.start("receiver")
        assert unclaimed(gateway.pipeline.spool.staging.path) == []
        gateway.send(left)
        left = []
        with killing(receiver, call, number, tmp_path / "strace"):
            left = [one for one in instances(2, 300_000) if not gateway.try_once(one)]
            gateway.nothing_is_lost()
            survived = receiver.popen.poll() is None and not left
        if survived:
            break
    print(f"killed at {number - 1} calls of {call}")  # noqa: T201 - a number for docs/reliability.md
    assert number > 1, f"no {call} was met"
    gateway.pipeline.start("receiver")
    gateway.settles()


@pytest.mark.parametrize("call", ["fsync", "fdatasync", "rename", "unlink", "pwrite64", "flock", "close", "sendto"])
def test_an_uploader_dies_at_a_system_call(gateway: Gateway, tmp_path: Path, call: str) -> None:
    """While it delivers a received file and a dropped one, and has one refused; the next one settles what is left."""
    gateway.pipeline.start("receiver")
    for number in itertools.count(1):
        assert number < MOST
        uploader = gateway.pipeline.start("uploader")
        wait_for(lambda: not gateway.pipeline.incoming())
        one, dropped, refused = instances(3)
        gateway.sandbox.clear_rules()
        gateway.sandbox.add_rule(f"uid={refused.uid},fail=0xA900")
        with killing(uploader, call, number, tmp_path / "strace"):
            prepared = tmp_path / "prepared.dcm"
            prepared.write_bytes(part10_header(CT, dropped.uid, EXPLICIT) + dropped.dataset)
            prepared.rename(gateway.pipeline.spool.incoming / f"{call}{number}.dcm")
            gateway.acknowledged[dropped.uid] = dropped.digest
            gateway.send([one, refused])
            wait_for(lambda it=uploader: it.popen.poll() is not None or not gateway.pipeline.incoming())
            gateway.nothing_is_lost()
            survived = uploader.popen.poll() is None
        if survived:
            break
    print(f"killed at {number - 1} calls of {call}")  # noqa: T201 - a number for docs/reliability.md
    assert number > 1, f"no {call} was met"
    gateway.pipeline.start("uploader")
    gateway.settles()
