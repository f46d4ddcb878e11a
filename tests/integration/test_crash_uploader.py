"""SIGKILL of an uploader at each step of docs/design.md, and inside the steps: what it leaves, and what comes of it."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gateway import Gateway, Gateways, long_but_for
from receiver_peer import CT, EXPLICIT
from resending_sender import ToSend, instances

from common.part10 import part10_header
from common.records import Event
from support import crash_points
from support.pipeline import Process, wait_for

PIXELS = 300_000  # more than one block of a request


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    """One gateway for all tests of this module, as long as it is whole."""
    made = Gateways(tmp_path_factory.mktemp("crash-uploader"))
    yield made
    made.close()


@pytest.fixture
def gateway(gateways: Gateways) -> Iterator[Gateway]:
    """A gateway whose receiver runs, with an archive that behaves, and no uploader."""
    with gateways.one() as one:
        one.sandbox.clear_rules()
        receivers = [process for process in one.pipeline.processes if process.module == "receiver"]
        if not any(process.popen.poll() is None for process in receivers):
            one.pipeline.start("receiver")
        yield one


@dataclass(frozen=True)
class Leaves:
    """What a crash leaves of a file: its name in incoming/ and quarantine/, its sidecar, its state in the ledger."""

    incoming: bool
    state: str
    sidecar: bool = False
    quarantine: bool = False


OWED = Leaves(incoming=True, state="incoming")
NO_ROW = Leaves(incoming=True, state="")
SENT = Leaves(incoming=True, state="sent")
GONE = Leaves(incoming=False, state="sent")
REASON = Leaves(incoming=True, state="incoming", sidecar=True)
TO_QUARANTINE = Leaves(incoming=True, state="quarantine", sidecar=True)
QUARANTINED = Leaves(incoming=False, state="quarantine", sidecar=True, quarantine=True)

RECEIVED = {
    "U1 the file is claimed": OWED,
    "U2 the request is begun": OWED,
    "U2 half the request is out": OWED,
    "U2 the request is out": OWED,
    "U3 the answer has come": OWED,
    "U3 the answer is read": OWED,
    "U3 the verdict is made": OWED,
    "U4 the row is not committed": OWED,
    "U4 the row is committed, not flushed": SENT,
    "U4 the row is flushed": SENT,
    "U5 the files are deleted": GONE,
}
DROPPED = {
    "U1 the adoption is not committed": NO_ROW,
    "U1 the adoption is committed, not flushed": OWED,
    "U1 the adoption is flushed": OWED,
}
REFUSED = {
    "U6 the sidecar is not flushed": OWED,
    "U6 the sidecar has another name": OWED,
    "U6 the sidecar is renamed": REASON,
    "U6 the sidecar is durable": REASON,
    "U7 the row is not committed": REASON,
    "U7 the row is committed, not flushed": TO_QUARANTINE,
    "U7 the row is flushed": TO_QUARANTINE,
    "U8 the file is moved": QUARANTINED,
    "U8 quarantine/ is flushed": QUARANTINED,
    "U8 both folders are flushed": QUARANTINED,
}
RETRIED = {"U3 the attempt is not committed": 0, "U3 the attempt is committed": 1}
REMOVED = {"removed: the row is not committed": "incoming", "removed: the row is committed": "removed"}
BRIEF_RECEIVED = ("U1 the file is claimed", "U2 the request is out", "U3 the verdict is made", "U4 the row is flushed")
BRIEF_DROPPED = ("U1 the adoption is flushed",)
BRIEF_REFUSED = ("U6 the sidecar is durable", "U7 the row is flushed", "U8 the file is moved")
TWO = ("U1 the file is claimed", "U2 the request is out", "U4 the row is flushed")
ALONE = (
    "start: quarantine/ is swept in part",
    "U1 the release is recorded, the sidecar is there",
    "U5 one of several files is deleted",
)


def left(gateway: Gateway, name: str) -> Leaves:
    """What lies there of a file that was in incoming/ under this name."""
    incoming, quarantine = gateway.pipeline.spool.incoming, gateway.pipeline.spool.quarantine.path
    return Leaves(
        (incoming / name).exists(),
        gateway.state_of(name),
        (quarantine / f"{name}.json").exists(),
        (quarantine / name).exists(),
    )


def received(gateway: Gateway) -> tuple[ToSend, str]:
    """An instance that is acknowledged, and its name in incoming/."""
    (one,) = instances(1, PIXELS)
    gateway.send([one])
    (path,) = gateway.pipeline.incoming()
    return one, path.name


def dies(gateway: Gateway, point: str) -> None:
    """Start an uploader and see it die at the point."""
    gateway.arm(point)
    assert gateway.died(gateway.launch("uploader"))
    gateway.nothing_is_lost()


def ends(gateway: Gateway, uploader: Process) -> None:
    """All is settled and in agreement; the next test gets no uploader, and an empty quarantine/."""
    gateway.settles()
    uploader.kill()


def is_stored(gateway: Gateway, one: ToSend) -> bool:
    return (gateway.archive / f"{one.uid}.dcm").exists()


def test_each_point_is_tried() -> None:
    """The tables of this module hold every point that there is."""
    assert {*RECEIVED, *DROPPED, *REFUSED, *RETRIED, *REMOVED, *ALONE} == set(crash_points.UPLOADER)


@pytest.mark.parametrize("point", long_but_for(BRIEF_RECEIVED, RECEIVED))
def test_an_uploader_dies_at_a_step(gateway: Gateway, point: str) -> None:
    """A received instance: what is left is what docs/design.md says, and the next uploader delivers it."""
    one, name = received(gateway)
    dies(gateway, point)
    assert left(gateway, name) == RECEIVED[point]
    assert is_stored(gateway, one) or point.startswith(("U1", "U2"))
    ends(gateway, gateway.pipeline.start("uploader"))
    assert is_stored(gateway, one)


@pytest.mark.parametrize("point", long_but_for(BRIEF_DROPPED, DROPPED))
def test_an_uploader_dies_while_it_adopts(gateway: Gateway, tmp_path: Path, point: str) -> None:
    """A dropped file: it has its row or it has none; the next uploader delivers it either way."""
    (one,) = instances(1)
    drop(gateway, tmp_path, one, "dropped.dcm")
    dies(gateway, point)
    assert left(gateway, "dropped.dcm") == DROPPED[point]
    ends(gateway, gateway.pipeline.start("uploader"))
    assert is_stored(gateway, one)


@pytest.mark.parametrize(
    "then", long_but_for(["it is refused again"], ["it is refused again", "the archive takes it now"])
)
@pytest.mark.parametrize("point", long_but_for(BRIEF_REFUSED, REFUSED))
def test_an_uploader_dies_on_the_way_to_quarantine(gateway: Gateway, point: str, then: str) -> None:
    """A refused instance ends in quarantine/ with its sidecar, or, if the archive has changed its mind, there."""
    one, name = received(gateway)
    gateway.sandbox.add_rule(f"uid={one.uid},fail=0xA900")
    dies(gateway, point)
    assert left(gateway, name) == REFUSED[point]
    if then == "the archive takes it now":
        gateway.sandbox.clear_rules()
    uploader = gateway.pipeline.start("uploader")
    ends(gateway, uploader)
    there = left(gateway, name)
    if then == "it is refused again" or REFUSED[point] is QUARANTINED:
        assert there == QUARANTINED
        assert not is_stored(gateway, one)
    else:
        assert there == GONE
        assert is_stored(gateway, one)


@pytest.mark.long
@pytest.mark.parametrize("point", [point for point in REFUSED if point.startswith(("U7", "U8"))])
def test_an_uploader_dies_on_the_way_to_another_name(gateway: Gateway, tmp_path: Path, point: str) -> None:
    """A file from a folder, whose name is taken in quarantine/, gets another one there, whatever happens on its way."""
    both = list(instances(2))
    names = {path.name for path in gateway.pipeline.spool.quarantine.path.iterdir()}
    for number, one in enumerate(both):
        gateway.sandbox.add_rule(f"uid={one.uid},fail=0xA900")
        drop(gateway, tmp_path, one, f"{point[:2]}/IM1")
        if number == 0:
            uploader = gateway.pipeline.start("uploader")
            ends(gateway, uploader)
    dies(gateway, point)
    uploader = gateway.pipeline.start("uploader")
    ends(gateway, uploader)
    added = {path.name for path in gateway.pipeline.spool.quarantine.path.iterdir()} - names
    assert len(added) == 4


@pytest.mark.long
@pytest.mark.parametrize("point", RETRIED)
def test_an_uploader_dies_while_it_records_an_attempt(gateway: Gateway, point: str) -> None:
    """An instance that the archive does not name: the attempt counts if it was committed, and it is delivered."""
    one, name = received(gateway)
    gateway.sandbox.add_rule(f"uid={one.uid},answer=omit")
    dies(gateway, point)
    assert left(gateway, name) == OWED
    with gateway.pipeline.ledger() as ledger:
        assert ledger.rows([name])[name].attempts == RETRIED[point]
        assert [event.event for event in ledger.events(name)].count(Event.ATTEMPT) == RETRIED[point]
    gateway.sandbox.clear_rules()
    ends(gateway, gateway.pipeline.start("uploader"))
    assert is_stored(gateway, one)


@pytest.mark.long
@pytest.mark.parametrize("point", REMOVED)
def test_an_uploader_dies_while_it_records_what_a_person_took(gateway: Gateway, tmp_path: Path, point: str) -> None:
    """A file that a person took out of incoming/ is removed in the ledger, then or after the restart."""
    one, name = received(gateway)
    (gateway.pipeline.spool.incoming / name).rename(tmp_path / name)
    del gateway.acknowledged[one.uid]
    dies(gateway, point)
    assert gateway.state_of(name) == REMOVED[point]
    uploader = gateway.pipeline.start("uploader")
    wait_for(lambda: gateway.state_of(name) == "removed")
    ends(gateway, uploader)


def test_an_uploader_dies_with_some_of_a_batch_deleted(gateway: Gateway) -> None:
    """All rows of the batch are sent, one file is gone: the others are adopted and sent again."""
    several = list(instances(3))
    gateway.send(several)
    dies(gateway, "U5 one of several files is deleted")
    assert len(gateway.pipeline.incoming()) == 2
    assert {gateway.state_of(path.name) for path in gateway.pipeline.incoming()} == {"sent"}
    ends(gateway, gateway.pipeline.start("uploader"))
    assert all(is_stored(gateway, one) for one in several)


@pytest.mark.long
def test_an_uploader_dies_while_it_sweeps_quarantine(gateway: Gateway) -> None:
    """What is left of a half sweep is swept by the next one; a person's file stays."""
    quarantine = gateway.pipeline.spool.quarantine.path
    for number in range(3):
        (quarantine / f"{number:032x}.dcm.json").write_text('{"cause": "refused"}')
        (quarantine / f".{number:032x}.part").write_text('{"cause"')
    dies(gateway, "start: quarantine/ is swept in part")
    assert len([path for path in quarantine.iterdir() if path.name.startswith((".", "0"))]) >= 5
    ends(gateway, gateway.pipeline.start("uploader"))


@pytest.mark.long
def test_an_uploader_dies_while_it_takes_a_release(gateway: Gateway) -> None:
    """Its sidecar is still there when it is in incoming/ again; it is delivered, and the sidecar goes."""
    one, name = received(gateway)
    gateway.sandbox.add_rule(f"uid={one.uid},fail=0xA900")
    uploader = gateway.start("uploader")
    wait_for(lambda: left(gateway, name) == QUARANTINED)
    gateway.sandbox.clear_rules()
    gateway.arm("U1 the release is recorded, the sidecar is there")
    subprocess.run(["mv", gateway.pipeline.spool.quarantine.path / name, gateway.pipeline.spool.incoming], check=True)
    assert gateway.died(uploader)
    assert left(gateway, name) == REASON
    ends(gateway, gateway.pipeline.start("uploader"))
    assert is_stored(gateway, one)


@pytest.mark.long
@pytest.mark.parametrize("point", crash_points.START)
def test_an_uploader_dies_while_it_starts(
    gateways: Gateways, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, point: str
) -> None:
    """On a spool that is new but for a file in it; the next one starts and delivers it, and nothing is left over."""
    with gateways.one() as shared:
        gateway = Gateway(tmp_path_factory.mktemp("start"), shared.sandbox, shared.archive)
        shared.whole = True
        try:
            (one,) = instances(1)
            drop(gateway, tmp_path, one, "dropped.dcm")
            dies(gateway, point)
            gateway.pipeline.start("uploader")
            gateway.settles()
            assert is_stored(gateway, one)
        finally:
            gateway.pipeline.stop()


@pytest.mark.parametrize("point", long_but_for(TWO[1:2], TWO))
def test_one_of_two_uploaders_dies(gateway: Gateway, point: str) -> None:
    """The other one takes what it had claimed, and needs no restart for it."""
    many = list(instances(60))
    gateway.pipeline.configure(uploader={"batch_instances": 4})
    try:
        gateway.send(many)
        gateway.arm(point)
        both = [gateway.launch("uploader") for _ in range(2)]
        wait_for(lambda: any(process.popen.poll() is not None for process in both))
        (survivor,) = (process for process in both if process.popen.poll() is None)
        ends(gateway, survivor)
    finally:
        gateway.pipeline.configure(uploader={"batch_instances": 50})
    assert all(is_stored(gateway, one) for one in many)


def drop(gateway: Gateway, folder: Path, one: ToSend, name: str) -> None:
    """Copy an instance into incoming/ as a file that a person made."""
    prepared = folder / one.uid
    prepared.write_bytes(part10_header(CT, one.uid, EXPLICIT) + one.dataset)
    target = gateway.pipeline.spool.incoming / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(prepared, target)
    gateway.acknowledged[one.uid] = one.digest
