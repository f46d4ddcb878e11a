"""One look at all of it: each trouble, and none when all is well."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from common.config import Config, load
from common.instance import Instance
from common.ledger import Ledger
from common.presence import Presence
from common.records import Cause, Outcome, Receipt, Sender, State, Transfer
from console.overview import Disk, Overview, Severity, look

RECEIVER = {"associations": 0, "ae_title": "STOWGATE", "port": 11112, "refused": {}, "rejected": {}}
OPEN = {"mode": "open", "reason": "", "http_status": None, "since": "2026-03-01T12:00:00Z", "next_probe_at": None}
PAUSED = {
    "mode": "paused",
    "reason": "cannot connect",
    "http_status": None,
    "since": "2026-03-01T12:00:00Z",
    "next_probe_at": "2026-03-01T12:05:00Z",
}


def uploader(destination: dict[str, Any], waiting: int = 0) -> dict[str, Any]:
    return {"destination": destination, "waiting": waiting, "under_way": 0, "threads": 4}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A spool with an empty ledger, and more free than must be."""
    (tmp_path / "pipeline.ini").write_text("[spool]\ndirectory = spool\nmin_free = 1 MB\n")
    (tmp_path / "spool").mkdir()
    Ledger(tmp_path / "spool" / "ledger.db").close()
    return load(tmp_path / "pipeline.ini")


Live = Callable[..., Presence]


@pytest.fixture
def live(config: Config) -> Iterator[Live]:
    """Lets a process of a role be seen, with what it says."""
    with contextlib.ExitStack() as stack:

        def be(role: str, facts: dict[str, Any]) -> Presence:
            presence = Presence(config.spool.directory, role, lambda: facts)
            presence.say()
            stack.callback(presence.close)
            return presence

        yield be


@pytest.fixture
def well(live: Live) -> None:
    """A receiver and an uploader live, and the destination is open."""
    live("receiver", RECEIVER)
    live("uploader", uploader(OPEN))


@pytest.fixture
def ledger(config: Config) -> Iterator[Ledger]:
    ledger = Ledger(config.spool.directory / "ledger.db")
    yield ledger
    ledger.close()


def receive(ledger: Ledger, name: str = f"{'a' * 32}.dcm") -> str:
    ledger.received(Receipt(name, Instance("1.2", "1.3", "1.4"), Sender("CT", "STOWGATE", "192.0.2.1"), 100))
    return name


def keys(overview: Overview) -> list[str]:
    return [trouble.key for trouble in overview.troubles]


@pytest.mark.usefixtures("well")
def test_all_is_well(config: Config) -> None:
    """Nothing is said, and everything is known."""
    overview = look(config)
    assert overview.troubles == ()
    assert [process.role for process in overview.processes] == ["receiver", "uploader"]
    assert len(overview.of_role("receiver")) == 1
    assert (overview.destination.mode, overview.destination.url) == ("open", config.destination.url)
    assert {state: heap.instances for state, heap in overview.heaps.items()} == dict.fromkeys(State, 0)
    assert overview.disk is not None
    assert overview.disk.size_bytes >= overview.disk.free_bytes > overview.disk.min_free == 1_000_000


def test_nothing_runs(config: Config) -> None:
    """Both are missed, and of the destination nothing is known."""
    overview = look(config)
    assert keys(overview) == ["no-receiver", "no-uploader"]
    assert overview.destination.mode == "unknown"
    assert {trouble.severity for trouble in overview.troubles} == {Severity.ERROR}


@pytest.mark.usefixtures("well")
def test_a_process_that_says_nothing(config: Config) -> None:
    """It lives, and was not heard for longer than it is silent when all is well; its pid is told."""
    assert keys(look(config, now=lambda: datetime.now(UTC) + timedelta(seconds=10))) == []
    overview = look(config, now=lambda: datetime.now(UTC) + timedelta(seconds=30))
    assert keys(overview) == ["silent-receiver", "silent-uploader"]
    assert str(os.getpid()) in overview.troubles[0].text


def test_a_status_is_said_once(config: Config, live: Live) -> None:
    """The reason is often no more than it."""
    live("receiver", RECEIVER)
    live("uploader", uploader({**PAUSED, "reason": "HTTP 503", "http_status": 503}, waiting=3))
    assert look(config).troubles[0].text == "The destination is paused: HTTP 503."


def test_the_destination_is_paused(config: Config, live: Live) -> None:
    """With its reason in words, when it began, when it is tried again."""
    live("receiver", RECEIVER)
    live("uploader", uploader({**PAUSED, "http_status": 503}, waiting=3))
    overview = look(config)
    assert keys(overview) == ["paused"]
    assert overview.troubles[0].text == "The destination is paused (HTTP 503): cannot connect."
    view = overview.destination
    assert (view.mode, view.reason, view.http_status) == ("paused", "cannot connect", 503)
    assert view.next_probe_at == datetime(2026, 3, 1, 12, 5, tzinfo=UTC)
    assert view.since == datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (uploader(OPEN, 3), uploader(PAUSED, 3), "paused"),
        (uploader(OPEN, 3), uploader({**OPEN, "mode": "doubted"}, 3), "doubted"),
        (uploader(OPEN, 3), uploader(PAUSED, 0), "open"),
        (uploader(OPEN, 0), uploader(PAUSED, 3), "paused"),
        (uploader(OPEN, 0), uploader(PAUSED, 0), "open"),
        (uploader(PAUSED, 0), uploader(PAUSED, 0), "paused"),
    ],
)
def test_uploaders_that_disagree(
    config: Config, live: Live, one: dict[str, Any], other: dict[str, Any], expected: str
) -> None:
    """The worst counts; but one with nothing to probe with cannot know that the destination is back."""
    live("uploader", one)
    live("uploader", other)
    assert look(config).destination.mode == expected


@pytest.mark.parametrize("said", [{}, {"destination": 5}, {"destination": {"mode": "rubbish"}}, {"destination": {}}])
def test_an_uploader_that_says_what_is_not_understood(config: Config, live: Live, said: dict[str, Any]) -> None:
    """Of a newer version, say: the state is unknown, and nothing fails."""
    live("uploader", said)
    assert look(config).destination.mode == "unknown"


def test_times_that_are_none(config: Config, live: Live) -> None:
    """Rubbish for a time is no time."""
    live("uploader", uploader({**PAUSED, "since": "yesterday", "next_probe_at": 7}))
    view = look(config).destination
    assert (view.mode, view.since, view.next_probe_at) == ("paused", None, None)


@pytest.mark.usefixtures("well")
def test_what_waits_for_long(config: Config, ledger: Ledger) -> None:
    """A warning after a quarter of an hour, while nothing else explains it."""
    receive(ledger)
    assert keys(look(config, now=lambda: datetime.now(UTC) + timedelta(seconds=5))) == []
    late = look(config, now=lambda: datetime.now(UTC) + timedelta(seconds=1000))
    assert "old" in keys(late)
    assert late.oldest_waiting is not None
    assert (late.heaps[State.INCOMING].instances, late.heaps[State.INCOMING].size_bytes) == (1, 100)


def test_what_waits_for_long_is_explained_by_a_pause(config: Config, ledger: Ledger, live: Live) -> None:
    """The pause is said, not what follows from it."""
    live("receiver", RECEIVER)
    live("uploader", uploader(PAUSED, waiting=1))
    receive(ledger)
    assert "old" not in keys(look(config, now=lambda: datetime.now(UTC) + timedelta(seconds=1000)))


@pytest.mark.usefixtures("well")
def test_what_is_in_quarantine(config: Config, ledger: Ledger) -> None:
    """A warning, with how many and why."""
    ledger.quarantined(Outcome(receive(ledger), 409, Cause.CONFLICT), f"{'a' * 32}.dcm", attempts=1)
    overview = look(config)
    assert [(trouble.key, trouble.severity) for trouble in overview.troubles] == [("quarantine", Severity.WARNING)]
    assert overview.troubles[0].text == "1 instance is in quarantine."
    assert overview.causes[Cause.CONFLICT].instances == 1


@pytest.mark.usefixtures("well")
def test_requests_under_way_for_long(config: Config, ledger: Ledger) -> None:
    """As the ledger tells of them."""
    name, now = receive(ledger), datetime.now(UTC)
    ledger.transferring([Transfer(name, 1, 100, 40, now, now)], [])
    assert look(config).transfers[name].sent_bytes == 40


@pytest.mark.usefixtures("well")
def test_the_disk_is_fuller_than_allowed(config: Config) -> None:
    """Senders are refused then: it is said what they get."""
    greedy = replace(config, spool=replace(config.spool, min_free=10**18))
    overview = look(greedy)
    assert keys(overview) == ["disk-full"]
    assert "0xA700" in overview.troubles[0].text
    assert isinstance(overview.disk, Disk)


@pytest.mark.usefixtures("well")
def test_the_ledger_cannot_be_read(config: Config) -> None:
    """It is said, and everything that does not need it is known all the same."""
    (config.spool.directory / "ledger.db").write_bytes(b"rubbish, no database" * 100)
    overview = look(config)
    assert keys(overview) == ["ledger"]
    assert overview.heaps == {}
    assert overview.destination.mode == "open"
    assert overview.ledger_error


def test_a_newer_ledger_is_trouble_too(config: Config) -> None:
    """It is not read, and that is said."""
    with contextlib.closing(sqlite3.connect(config.spool.directory / "ledger.db")) as connection:
        connection.execute("PRAGMA user_version = 999")
    overview = look(config)
    assert "ledger" in keys(overview)
    assert "newer Stowgate" in overview.ledger_error


def test_there_is_no_spool(config: Config) -> None:
    """Nothing is raised, nothing is made; the errors come before the warnings."""
    gone = replace(config, spool=replace(config.spool, directory=config.spool.directory / "gone"))
    overview = look(gone)
    assert {"spool", "ledger", "no-receiver", "no-uploader"} <= set(keys(overview))
    assert overview.disk is None
    assert not gone.spool.directory.exists()
