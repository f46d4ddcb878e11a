"""Long outages and clocks that jump, in simulated time, with the real scheduler, ledger and spool."""

import os
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from simulated_time import SimulatedGateway
from uploader_fakes import failed

from common.config import SpoolConfig, UploaderConfig
from common.records import State
from uploader.scheduler import Seen
from uploader.verdict import Answer, Failure

HOUR = 3600.0
DAY = 24 * HOUR
WEEK = 7 * DAY
PAUSE = 300.0  # backoff_max_seconds as it comes
# As it comes it is 30: then the week takes a minute.
RESCAN_SECONDS = int(os.environ.get("STOWGATE_WEEK_RESCAN_SECONDS", "600"))

OUTAGES: dict[str, Answer] = {
    "nobody listens": Answer(failure=Failure.CONNECT, detail="cannot connect"),
    "the connection breaks": Answer(failure=Failure.BROKEN, detail="the connection broke"),
    "no answer": Answer(failure=Failure.TIMEOUT, detail="no answer in time"),
    "an expired certificate": Answer(failure=Failure.CERTIFICATE, detail="cannot agree on TLS"),
    "a proxy that refuses": Answer(failure=Failure.PROXY, detail="the proxy does not let us through"),
    "no token": Answer(failure=Failure.TOKEN, detail="no token"),
    "a file of the settings is gone": Answer(failure=Failure.SETUP, detail="a file is gone"),
    **{
        f"HTTP {status}": Answer(status=status, detail=f"HTTP {status}")
        for status in (301, 302, 401, 402, 403, 404, 405, 406, 407, 408, 424, 425, 429, 500, 502, 503, 504, 507)
    },
    "HTTP 503 with a Retry-After of a year": Answer(status=503, retry_after=365 * DAY, detail="HTTP 503"),
}


@pytest.fixture
def gateway(tmp_path: Path) -> SimulatedGateway:
    """With the settings as they come, but for max_attempts: a single attempt that is charged would be the last."""
    return SimulatedGateway(
        tmp_path,
        config=UploaderConfig(max_attempts=1),
        spool_config=replace(SpoolConfig(), rescan_seconds=RESCAN_SECONDS),
    )


def arrive(gateway: SimulatedGateway, every: float, until: float) -> None:
    """Let a file come now and then, by a receiver and by hand in turns; a watcher sees each."""
    before = gateway.incoming()

    def come() -> None:
        nonlocal before
        gateway.receive(1) if len(before) % 2 else gateway.drop(1)
        after = gateway.incoming()
        for name in after - before:
            gateway.scheduler.notice(Seen(name, closed=True, folder=False))
        before = after
        again()

    def again() -> None:
        if gateway.clock.monotonic + every < until:
            gateway.clock.at(gateway.clock.monotonic + every, come)

    again()


def test_a_week_of_outage(gateway: SimulatedGateway) -> None:
    """Seven days in which everything that can be wrong with a destination is, one after the other, and files arrive.

    The uploader is restarted and the wall clock set every day. No file is quarantined or charged, few requests are
    sent, and when the destination is back, everything is delivered once, within one probe interval.
    """
    clock = gateway.clock
    outages = list(OUTAGES.values())
    spell = WEEK / len(outages)
    for number, outage in enumerate(outages):
        clock.at(number * spell, lambda outage=outage: setattr(gateway.archive, "down", outage))
    gateway.archive.down = outages[0]
    gateway.receive(30)
    arrive(gateway, HOUR, WEEK)
    for day in range(1, 8):
        gateway.run_until(day * DAY)
        rows = gateway.rows()
        assert gateway.counts() == {State.INCOMING: len(rows)}
        assert {(row.attempts, row.next_attempt_at) for row in rows.values()} == {(0, None)}
        assert not gateway.quarantined()
        clock.wall_offset = timedelta(days=(-1) ** day * 3650)
        gateway.restart()
    count = len(gateway.incoming())
    assert count >= 30 + 160

    probes = len(gateway.asked)
    # Each pause is at least half of PAUSE; the first ones after each restart, and what is tried beside, are shorter.
    assert WEEK / PAUSE / 2 < probes < WEEK / (PAUSE / 2) + 25 * (len(outages) + 7) + count
    ordinary = [at for at in gateway.asked if at < WEEK - spell]
    assert max(after - before for before, after in pairwise(ordinary)) <= PAUSE + 1
    asked_to_wait = [at for at in gateway.asked if at >= WEEK - spell]
    assert len(asked_to_wait) < spell / PAUSE

    gateway.archive.down = outages[0]
    gateway.run_until(WEEK + 2 * HOUR)
    back = clock.monotonic
    gateway.archive.down = None
    gateway.run_until(back + PAUSE + 10)
    assert gateway.counts() == {State.SENT: count}
    assert set(gateway.archive.stored.values()) == {1}
    assert {row.attempts for row in gateway.rows().values()} == {1}
    assert gateway.incoming() == set()


@pytest.mark.parametrize("name", OUTAGES)
def test_delivery_resumes_within_one_probe_interval(gateway: SimulatedGateway, name: str) -> None:
    """Whatever the outage was, and in whatever moment it ends, all is delivered after one pause at most."""
    gateway.archive.down = OUTAGES[name]
    pause = PAUSE * (10 if OUTAGES[name].retry_after else 1)
    gateway.receive(5)
    for _ in range(2):
        gateway.run_until(gateway.clock.monotonic + 7 * HOUR + 1234.5)
        assert gateway.counts()[State.INCOMING] == 5
        back = gateway.clock.monotonic
        gateway.archive.down = None
        gateway.run_until(back + pause + 1)
        assert gateway.incoming() == set()
        gateway.archive.down = OUTAGES[name]
        gateway.receive(5)
    assert State.QUARANTINE not in gateway.counts()


def test_a_destination_that_is_there_and_away_in_turns(gateway: SimulatedGateway) -> None:
    """Minutes up and minutes down for two days, with a 500, costs no file anything that arrives meanwhile."""
    gateway.configure(max_attempts=8)
    clock = gateway.clock
    periods = (7.0, 45.0, 130.0, 600.0, 61.0)
    moment, up = 0.0, True
    for number in range(2000):
        moment += periods[number % len(periods)]
        if moment > 2 * DAY:
            break
        up = not up
        clock.at(moment, lambda up=up: setattr(gateway.archive, "down", None if up else OUTAGES["HTTP 500"]))
    arrive(gateway, 400.0, 2 * DAY)
    gateway.run_until(2 * DAY)
    gateway.archive.down = None
    gateway.restart()
    gateway.run_until(2 * DAY + HOUR)
    counts = gateway.counts()
    assert counts[State.SENT] > 400
    assert set(counts) == {State.SENT}


CLOCK_JUMPS: dict[str, timedelta] = {
    "an hour back": timedelta(hours=-1),
    "ten years back": timedelta(days=-3650),
    "an hour on": timedelta(hours=1),
    "ten years on": timedelta(days=3650),
    "five minutes back, the longest wait": timedelta(seconds=-300),
    "a second back": timedelta(seconds=-1),
}


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("jump", CLOCK_JUMPS.values(), ids=CLOCK_JUMPS.keys())
def test_a_clock_that_is_set_delays_no_attempt_for_long(
    gateway: SimulatedGateway,
    jump: timedelta,
    restarted: bool,  # noqa: FBT001 - a parameter
) -> None:
    """An instance that waits for its next attempt gets it in time or early, wherever the wall clock is set."""
    gateway.configure(max_attempts=50)
    (uid,) = gateway.receive(1)
    gateway.archive.poison[uid] = failed({uid: 0xA700})
    gateway.run_until(2 * HOUR)
    waits = [after - before for before, after in pairwise(gateway.asked)]
    assert max(waits) <= PAUSE
    assert gateway.rows()[uid].attempts > 8
    gateway.clock.wall_offset = jump
    if restarted:
        gateway.restart()
    set_at = gateway.clock.monotonic
    gateway.asked.clear()
    del gateway.archive.poison[uid]
    gateway.run_until(set_at + PAUSE + 1)
    assert gateway.rows()[uid].state is State.SENT
    assert gateway.asked[0] - set_at <= PAUSE


def test_a_clock_that_is_set_back_and_forth_all_day(gateway: SimulatedGateway) -> None:
    """With the wall clock somewhere else every ten minutes, files are delivered as they come; none is given up."""
    clock = gateway.clock
    for number, moment in enumerate(range(0, int(DAY), 600)):
        offset = timedelta(days=(number % 7 - 3) * 500, seconds=-number)
        clock.at(float(moment), lambda offset=offset: setattr(clock, "wall_offset", offset))
    arrive(gateway, 500.0, DAY)
    gateway.run_until(DAY + HOUR)
    counts = gateway.counts()
    assert set(counts) == {State.SENT}
    assert counts[State.SENT] > 160
    assert gateway.incoming() == set()
