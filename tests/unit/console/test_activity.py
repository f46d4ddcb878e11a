"""What happened over time, followed in a real ledger while it is written."""

import itertools
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.instance import Instance
from common.ledger import Ledger
from common.ledger_reader import LATENCIES, LedgerReader
from common.records import Cause, Event, Outcome, Receipt, Sender, utc_text
from console import activity
from console.activity import History, Total

NOBODY = Sender("CT", "STOWGATE", "192.0.2.1")


class Gateway:
    """A ledger, and a clock that is set by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = datetime.now(UTC)
        self._numbers = itertools.count()
        self.ledger = Ledger(path, now=lambda: self.at)

    def receive(self, count: int, ago: float = 0.0) -> list[str]:
        """So many instances of 10 bytes come, so many seconds ago."""
        self.at = datetime.now(UTC) - timedelta(seconds=ago)
        names = [f"{next(self._numbers):032x}.dcm" for _ in range(count)]
        self.ledger.received(*(Receipt(name, Instance("1.2", name, "1.4"), NOBODY, 10) for name in names))
        return names

    def send(self, names: list[str], after: float) -> None:
        """They are sent, so many seconds after what happened last."""
        self.at += timedelta(seconds=after)
        self.ledger.sent([Outcome(name, 200) for name in names])


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path / "ledger.db")
    yield made
    made.ledger.close()


@pytest.fixture
def history(gateway: Gateway) -> History:
    return History(LedgerReader(gateway.path))


def follow(history: History) -> None:
    history.follow()
    while history.look_back():
        pass


def test_the_past_day_is_in_the_minutes_and_not_in_the_totals(gateway: Gateway, history: History) -> None:
    """Minutes tell of what happened before the start; totals begin with it, as a counter does."""
    gateway.receive(1, ago=30 * 3600)
    gateway.send(gateway.receive(5, ago=600), after=2.0)
    follow(history)
    minutes = history.minutes(1440)
    assert (sum(one.received for one in minutes), sum(one.sent for one in minutes)) == (5, 5)
    assert history.totals() == {}
    assert sum(one.received_bytes for one in minutes) == sum(one.sent_bytes for one in minutes) == 50
    assert sum(one.seconds for one in minutes) == pytest.approx(10.0, abs=0.01)


def test_what_is_new_is_counted_once(gateway: Gateway, history: History) -> None:
    """However often it is asked, and in whatever pieces it comes."""
    gateway.receive(2)
    follow(history)
    names = gateway.receive(3)
    follow(history)
    follow(history)
    gateway.send(names[:2], after=0.3)
    gateway.ledger.quarantined(Outcome(names[2], 409, Cause.CONFLICT), names[2], attempts=1)
    follow(history)
    follow(history)
    totals = history.totals()
    assert {key: total.count for key, total in totals.items()} == {
        (Event.RECEIVED, ""): 3,
        (Event.SENT, ""): 2,
        (Event.QUARANTINED, "conflict"): 1,
    }
    sent = totals[Event.SENT, ""]
    assert (sent.size_bytes, dict(zip(LATENCIES, sent.within, strict=True))[0.5]) == (20, 2)
    assert sent.seconds == pytest.approx(0.6, abs=0.01)
    minutes = history.minutes(5)
    assert sum(one.received for one in minutes) == 5
    assert sum(one.quarantined for one in minutes) == 1


def test_minutes_in_which_nothing_happened_are_there(gateway: Gateway, history: History) -> None:
    """So many as are asked for, one after the other, the last one of now."""
    gateway.receive(1, ago=180)
    follow(history)
    minutes = history.minutes(10)
    assert len(minutes) == 10
    assert {later.at - earlier.at for earlier, later in itertools.pairwise(minutes)} == {timedelta(minutes=1)}
    assert minutes[-1].at <= datetime.now(UTC) < minutes[-1].at + timedelta(minutes=2)
    assert [one.received for one in minutes if one.received] == [1]
    assert history.minutes(1, datetime(2020, 1, 1, tzinfo=UTC))[0].received == 0


def test_a_lost_ledger_is_begun_anew_and_nothing_counts_twice(gateway: Gateway, history: History) -> None:
    """Its ids begin again with 1; what the new one had before it was seen belongs to the past."""
    gateway.receive(20)
    follow(history)
    gateway.receive(2)
    follow(history)
    gateway.ledger.close()
    for path in gateway.path.parent.glob("ledger.db*"):
        path.unlink()
    gateway.ledger = Ledger(gateway.path, now=lambda: gateway.at)
    gateway.receive(3)
    follow(history)
    gateway.receive(4)
    follow(history)
    assert history.totals()[Event.RECEIVED, ""].count == 2 + 4


def test_many_events_are_taken_in_pieces(gateway: Gateway, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """No question is about more events than one piece, neither of the past nor of what is new."""
    monkeypatch.setattr(activity, "_PIECE", 10)
    asked: list[int] = []
    ask = history._reader.activity
    monkeypatch.setattr(history._reader, "activity", lambda after, upto: asked.append(upto - after) or ask(after, upto))
    gateway.receive(37, ago=60)
    history.follow()
    assert not asked
    assert history.look_back()
    assert history.minutes(5)[-2].received + history.minutes(5)[-1].received + history.minutes(5)[-3].received == 10
    follow(history)
    gateway.receive(25)
    follow(history)
    assert max(asked) == 10
    assert sum(one.received for one in history.minutes(5)) == 62
    assert history.totals()[Event.RECEIVED, ""].count == 25


def test_of_the_past_no_more_is_read_than_the_limit(
    gateway: Gateway, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest of it."""
    monkeypatch.setattr(activity, "_MOST_EVENTS", 15)
    gateway.receive(20, ago=300)
    gateway.receive(10, ago=60)
    follow(history)
    assert sum(one.received for one in history.minutes(10)) == 15


def test_what_is_older_than_a_day_is_forgotten(gateway: Gateway, history: History) -> None:
    """And a minute in which something happened each second is one entry for each kind, not sixty."""
    follow(history)
    for _ in range(70):
        gateway.receive(1)
        history.follow()
    assert max(len(parts) for parts in history._minutes.values()) <= 61
    assert sum(one.received for one in history.minutes(5)) == 70
    history._minutes[utc_text(datetime.now(UTC) - timedelta(hours=25))[:16]] = []
    gateway.receive(1)
    history.follow()
    assert min(history._minutes) >= utc_text(datetime.now(UTC) - timedelta(hours=24))[:16]


def test_it_follows_a_ledger_that_is_being_written(gateway: Gateway, history: History) -> None:
    """In a thread of its own, while another writes: in the end every event is counted, in minutes and in totals."""
    history.follow()
    stopped = threading.Event()
    follower = threading.Thread(target=history.run, args=(stopped,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activity, "_EVERY_SECONDS", 0.01)
        follower.start()
        for _ in range(40):
            gateway.send(gateway.receive(5), after=0.1)
        stopped.set()
        follower.join()
    history.follow()
    assert {key: total.count for key, total in history.totals().items()} == {
        (Event.RECEIVED, ""): 200,
        (Event.SENT, ""): 200,
    }
    assert sum(one.sent for one in history.minutes(10)) == 200


def test_a_ledger_that_cannot_be_read_for_a_while_costs_no_event(gateway: Gateway, history: History) -> None:
    """It is asked again, and what happened meanwhile is counted then."""
    history.follow()
    away = gateway.path.with_name("away")
    with closing(sqlite3.connect(gateway.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    gateway.path.rename(away)
    stopped = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activity, "_EVERY_SECONDS", 0.01)
        follower = threading.Thread(target=history.run, args=(stopped,))
        follower.start()
        away.rename(gateway.path)
        gateway.receive(3)
        stopped.set()
        follower.join()
    history.follow()
    assert history.totals() == {(Event.RECEIVED, ""): Total(3, 30)}
