"""What the uploader says of the destination, and what a person's wish for a probe does."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from simulated_time import SimulatedGateway

from common.config import SpoolConfig, UploaderConfig
from uploader.destination import Destination, Mode
from uploader.notices import ProbeNow, Rescan
from uploader.standing import Standing
from uploader.verdict import Answer, Failure, Trouble

AWAY = Trouble("cannot connect\x1b[31m")
FAILS = Trouble("HTTP 500", 500, suspect=True)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clocks:
    """Both clocks, moved by hand; the wall clock's seconds are not whole."""

    monotonic = 100.0

    def now(self) -> datetime:
        """What the wall clock shows."""
        return NOON + timedelta(seconds=self.monotonic - 100, milliseconds=400)


@pytest.fixture
def clocks() -> Clocks:
    """At noon."""
    return Clocks()


def noted(standing: Standing, it: Destination, clocks: Clocks) -> dict[str, Any]:
    standing.note(it, clocks.monotonic)
    return dict(standing.destination)


def test_it_tells_mode_reason_and_the_time_of_the_next_probe(clocks: Clocks) -> None:
    """From open to paused and back: times are of the wall clock, in whole seconds; the last trouble stays known."""
    it, standing = Destination(10.0, 300.0, jitter=lambda: 1.0), Standing(clocks.now)
    start = "2026-03-01T12:00:00.000000Z"
    well = {"mode": "open", "reason": "", "http_status": None, "since": start, "next_probe_at": None}
    assert noted(standing, it, clocks) == {**well, "last_trouble": None}
    clocks.monotonic += 60
    it.troubled(AWAY, ("a",), clocks.monotonic, others=False)
    last = {"at": "2026-03-01T12:01:00.000000Z", "reason": "cannot connect\\x1b[31m", "http_status": None}
    assert noted(standing, it, clocks) == {
        "mode": "paused",
        "reason": "cannot connect\\x1b[31m",
        "http_status": None,
        "since": "2026-03-01T12:01:00.000000Z",
        "next_probe_at": "2026-03-01T12:01:10.000000Z",
        "last_trouble": last,
    }
    it.probe_sent()
    assert noted(standing, it, clocks)["next_probe_at"] is None
    clocks.monotonic += 20
    it.answered(frozenset("a"), probe=True)
    assert noted(standing, it, clocks) == {**well, "since": "2026-03-01T12:01:20.000000Z", "last_trouble": last}


def test_a_doubt_and_a_longer_pause_are_told(clocks: Clocks) -> None:
    """Doubted has its reason and status; a pause that a probe prolongs keeps its beginning and tells what is new."""
    it, standing = Destination(10.0, 300.0, jitter=lambda: 1.0), Standing(clocks.now)
    it.troubled(FAILS, ("a",), clocks.monotonic, others=True)
    said = noted(standing, it, clocks)
    assert (said["mode"], said["reason"], said["http_status"]) == ("doubted", "HTTP 500", 500)
    it.probe_sent()
    it.troubled(AWAY, ("b",), clocks.monotonic, others=True, probe=True)
    began = noted(standing, it, clocks)["since"]
    clocks.monotonic += 30
    it.probe_sent()
    it.troubled(FAILS, ("b",), clocks.monotonic, others=True, probe=True)
    said = noted(standing, it, clocks)
    assert (said["mode"], said["since"], said["reason"]) == ("paused", began, "HTTP 500")
    assert said["next_probe_at"] == "2026-03-01T12:00:50.000000Z"


def test_what_has_not_changed_is_not_made_anew(clocks: Clocks) -> None:
    """Two looks at an unchanged state find the same object, whatever time has gone by: nothing is written for it."""
    it, standing = Destination(10.0, 300.0), Standing(clocks.now)
    first = standing.destination
    clocks.monotonic += 0.7
    standing.note(it, clocks.monotonic)
    assert standing.destination is first
    it.troubled(AWAY, ("a",), clocks.monotonic, others=False)
    standing.note(it, clocks.monotonic)
    first = standing.destination
    for _ in range(10):
        clocks.monotonic += 0.7
        standing.note(it, clocks.monotonic)
        assert standing.destination is first


def test_a_long_reason_is_cut(clocks: Clocks) -> None:
    """The whole of it must fit into the file of the process."""
    it, standing = Destination(10.0, 300.0), Standing(clocks.now)
    it.troubled(Trouble("\U0001f600" * 5000), ("a",), 0.0, others=False)
    assert len(noted(standing, it, clocks)["reason"]) == 400


# A person's wish


@pytest.fixture
def gateway(tmp_path: Path) -> SimulatedGateway:
    """In simulated time, with pauses of minutes."""
    return SimulatedGateway(tmp_path, config=UploaderConfig(), spool_config=SpoolConfig(rescan_seconds=600))


def wish(gateway: SimulatedGateway, after: float) -> float:
    """Let a person wish for a probe in so many seconds; the time of it."""
    moment = gateway.clock.monotonic + after
    gateway.clock.at(moment, lambda: gateway.scheduler.notice(ProbeNow()))
    return moment


def outage(gateway: SimulatedGateway, answer: Answer) -> float:
    """Let the destination be away until the pauses are long; when the one that has just begun ends."""
    gateway.archive.down = answer
    gateway.receive(3)
    while gateway.destination.mode is not Mode.PAUSED or gateway.destination.next_probe_at is None:
        gateway.run_until(gateway.clock.monotonic + 1)
    for _ in range(8):
        gateway.run_until(gateway.destination.next_probe_at + 0.01)
    return gateway.destination.next_probe_at


def test_a_wish_ends_the_pause_at_once(gateway: SimulatedGateway) -> None:
    """The probe goes when it is wished for, long before the pause ends; answered, all the others follow."""
    ends = outage(gateway, Answer(failure=Failure.CONNECT, detail="cannot connect"))
    assert gateway.scheduler.facts()["destination"]["mode"] == "paused"
    gateway.archive.down = None
    gateway.asked.clear()
    wished = wish(gateway, 5.0)
    assert wished < ends - 60
    gateway.run_until(wished + 1)
    assert gateway.asked[0] == pytest.approx(wished, abs=0.1)
    assert gateway.incoming() == set()
    assert gateway.scheduler.facts()["destination"]["mode"] == "open"


def test_a_probe_that_was_wished_for_and_fails_prolongs_the_pause_as_any_other(gateway: SimulatedGateway) -> None:
    """One request for each wish, no attempt is charged, and the pause after it is as long as it would be anyway."""
    ends = outage(gateway, Answer(failure=Failure.CONNECT, detail="cannot connect"))
    gateway.asked.clear()
    wished = wish(gateway, 5.0)
    assert wished < ends
    gateway.run_until(wished + 1)
    assert len(gateway.asked) == 1
    assert gateway.destination.next_probe_at is not None
    assert gateway.destination.next_probe_at - wished >= 150  # 300 seconds, with jitter
    assert {row.attempts for row in gateway.rows().values()} == {0}


def test_a_wish_counts_though_the_destination_said_when_to_come_again(gateway: SimulatedGateway) -> None:
    """A person knows more than a Retry-After of an hour ago."""
    outage(gateway, Answer(status=429, retry_after=2900.0, detail="HTTP 429"))
    gateway.archive.down = None
    wished = wish(gateway, 5.0)
    gateway.run_until(wished + 1)
    assert gateway.incoming() == set()


def test_wishes_while_a_probe_is_out_send_no_second_one() -> None:
    """The one that is out is the answer to all of them; it fails, and the pause is as long as it was to be."""
    it = Destination(10.0, 300.0, jitter=lambda: 1.0)
    it.troubled(AWAY, ("a",), 0.0, others=False)
    assert it.end_pause(3.0)
    assert it.may_probe(3.0)
    it.probe_sent()
    assert not it.end_pause(4.0)
    assert not it.end_pause(4.5)
    assert not it.may_probe(5.0)
    it.troubled(AWAY, ("a",), 5.0, others=False, probe=True)
    assert it.next_probe_at == 25.0


def test_a_wish_while_the_destination_is_open_or_doubted_is_none(gateway: SimulatedGateway) -> None:
    """Nothing is sent twice, and nothing waits."""
    it = Destination(10.0, 300.0)
    assert not it.end_pause(1.0)
    assert it.may_send()
    it.troubled(FAILS, ("a",), 2.0, others=True)
    assert not it.end_pause(3.0)
    assert it.mode is Mode.DOUBTED
    gateway.receive(3)
    gateway.run_until(wish(gateway, 1.0) + 1)
    assert len(gateway.asked) == 1


def test_a_wish_with_nothing_to_send_is_kept_for_what_comes(gateway: SimulatedGateway) -> None:
    """A probe is a real instance: where all were taken away, the next one that comes is it."""
    outage(gateway, Answer(failure=Failure.CONNECT, detail="cannot connect"))
    for name in gateway.incoming():
        (gateway.spool.incoming / name).unlink()
    gateway.scheduler.notice(Rescan())
    gateway.run_until(wish(gateway, 1.0) + 1)
    assert gateway.scheduler.facts()["waiting"] == 0
    gateway.archive.down = None
    gateway.receive(1)
    gateway.scheduler.notice(Rescan())
    gateway.run_until(gateway.clock.monotonic + 1)
    assert gateway.incoming() == set()
