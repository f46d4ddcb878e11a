"""SIGKILL of a receiver at each step of docs/design.md, and inside the steps: what it leaves, and what comes of it."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from gateway import Gateway, Gateways, long_but_for
from resending_sender import ResendingSender, instances

from support import crash_points
from support.agreement import unclaimed
from support.pipeline import Process, wait_for

PIXELS = 100_000


@dataclass(frozen=True)
class Leaves:
    """What a crash leaves: files in staging/ and incoming/, their state in the ledger, and whether an answer is out."""

    staging: int
    incoming: int
    state: str = ""
    acknowledged: bool = False


IN_STAGING = Leaves(staging=1, incoming=0)
RENAMED = Leaves(staging=0, incoming=1)
RECORDED = Leaves(staging=0, incoming=1, state="incoming")
ACKNOWLEDGED = Leaves(staging=0, incoming=1, state="incoming", acknowledged=True)
LEAVES = {
    "R1 the file is there, unclaimed": IN_STAGING,
    "R1 the file is claimed": IN_STAGING,
    "R1 half the dataset is written": IN_STAGING,
    "R1 the dataset is written": IN_STAGING,
    "R2 the file is flushed": IN_STAGING,
    "R3 the file is renamed": RENAMED,
    "R4 incoming/ is flushed": RENAMED,
    "R5 the row is not committed": RENAMED,
    "R5 the row is committed": RECORDED,
    "R5 the row was refused, the file is not withdrawn": RENAMED,
    "R6 the claim is dropped": RECORDED,
    "R6 half the answer is out": RECORDED,
    "R6 the answer is out": ACKNOWLEDGED,
    "R6 the next file is made ready": Leaves(staging=1, incoming=1, state="incoming", acknowledged=True),
}


SHARED = ("R3 the file is renamed", "R4 incoming/ is flushed", "R5 the row is not committed")
STARTING = (*crash_points.START, "start: staging/ is swept in part")
BRIEF = (
    "R1 half the dataset is written",
    "R2 the file is flushed",
    "R3 the file is renamed",
    "R4 incoming/ is flushed",
    "R5 the row is committed",
    "R6 the claim is dropped",
)


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    """One gateway for all tests of this module, as long as it is whole."""
    made = Gateways(tmp_path_factory.mktemp("crash-receiver"))
    yield made
    made.close()


@pytest.fixture
def gateway(gateways: Gateways) -> Iterator[Gateway]:
    """A gateway whose uploader runs, and no receiver."""
    with gateways.one() as one:
        yield one


def uploader(gateway: Gateway) -> Process:
    """The uploader that is there, or a new one."""
    for process in gateway.pipeline.processes:
        if process.module == "uploader" and process.popen.poll() is None:
            return process
    return gateway.pipeline.start("uploader")


def test_each_point_is_tried() -> None:
    """The tables of this module hold every point that there is."""
    assert {*LEAVES, *STARTING} == {*crash_points.START, *crash_points.RECEIVER}


@pytest.mark.parametrize("point", long_but_for(BRIEF, LEAVES))
def test_a_receiver_dies_at_a_step(gateway: Gateway, point: str) -> None:
    """What it leaves is what docs/design.md says; after a restart and a second try of the sender all is delivered."""
    delivering = uploader(gateway)
    receiver = gateway.start("receiver")
    (one,) = instances(1, PIXELS)
    with gateway.held(delivering):
        gateway.arm(point)
        acknowledged = gateway.try_once(one)
        assert gateway.died(receiver)
        files = [path.name for path in gateway.pipeline.incoming()]
        state = gateway.state_of(files[0]) if files else ""
        staged = len(unclaimed(gateway.pipeline.spool.staging.path))
        assert Leaves(staged, len(files), state, acknowledged) == LEAVES[point]
        gateway.nothing_is_lost()
    receiver = gateway.pipeline.start("receiver")
    assert unclaimed(gateway.pipeline.spool.staging.path) == []
    gateway.send([] if acknowledged else [one])
    gateway.settles()
    assert one.uid in {stored["sop_instance_uid"] for stored in gateway.sandbox.instances()}
    receiver.kill()
    # What that one had ready for a next instance is swept by the receiver of the next test.


def test_what_a_receiver_left_without_a_row_is_found_by_an_uploader_that_starts_later(gateway: Gateway) -> None:
    """Nobody saw it come: the scan at the start adopts and delivers it, though its sender does not send again."""
    for process in gateway.pipeline.processes:
        process.kill()
    receiver = gateway.start("receiver")
    (one,) = instances(1)
    gateway.arm("R3 the file is renamed")
    assert not gateway.try_once(one)
    assert gateway.died(receiver)
    uploader(gateway)
    wait_for((gateway.archive / f"{one.uid}.dcm").exists)
    gateway.settles()


@pytest.mark.parametrize("point", long_but_for(crash_points.START[:1], STARTING))
def test_a_receiver_dies_while_it_starts(
    gateways: Gateways, tmp_path_factory: pytest.TempPathFactory, point: str
) -> None:
    """Before it listens, on a spool that is new; the next one starts, takes an instance, and nothing is left over."""
    with gateways.one() as shared:
        gateway = Gateway(tmp_path_factory.mktemp("start"), shared.sandbox, shared.archive)
        shared.whole = True
        try:
            gateway.pipeline.spool.staging.path.mkdir(parents=True)
            for number in range(2):
                (gateway.pipeline.spool.staging.path / f"{number:032x}.dcm").write_bytes(b"left by a dead receiver")
            gateway.arm(point)
            assert gateway.died(gateway.launch("receiver"))
            gateway.pipeline.start("receiver")
            gateway.send(instances(1))
            gateway.pipeline.start("uploader")
            gateway.settles()
        finally:
            gateway.pipeline.stop()


@pytest.mark.parametrize("point", long_but_for(SHARED[1:2], SHARED))
def test_a_receiver_dies_in_a_commit_that_several_share(gateway: Gateway, point: str) -> None:
    """The leader of a group commit dies with those that wait for it: none of them has an answer, each sends again."""
    uploader(gateway)
    receiver = gateway.start("receiver")
    senders = [ResendingSender(gateway.pipeline.port, instances(30), f"SENDER{number}") for number in range(6)]
    threads = [threading.Thread(target=sender.run) for sender in senders]
    for thread in threads:
        thread.start()
    wait_for(lambda: sum(len(sender.acknowledged) for sender in senders) > 20)
    gateway.arm(point)
    assert gateway.died(receiver)
    receiver = gateway.pipeline.start("receiver")
    for sender, thread in zip(senders, threads, strict=True):
        thread.join(60)
        assert len(sender.acknowledged) == 30
        gateway.acknowledged.update(sender.acknowledged)
    gateway.settles()
    receiver.kill()
