"""Every question to the ledger, against a small real one."""

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from common import ledger_reader, ledger_search
from common.errors import LedgerError, LedgerVersionError
from common.instance import Instance
from common.ledger import Ledger
from common.ledger_reader import LATENCIES, Heap, LedgerReader, Query
from common.records import Cause, Event, Outcome, Receipt, Sender, State, Transfer, utc_text

BEGIN = datetime(2026, 3, 1, 8, tzinfo=UTC)


class Small:
    """A ledger whose clock goes on by a minute with each thing that is done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._minutes = itertools.count()
        self.at = BEGIN
        self.ledger = Ledger(path, now=self._now)
        self.reader = LedgerReader(path)

    def _now(self) -> datetime:
        return self.at

    def tick(self) -> None:
        """A minute later."""
        self.at = BEGIN + timedelta(minutes=next(self._minutes))

    def receive(self, number: int, patient: str = "P1", study: str = "1.9", sender: str = "CT", size: int = 100) -> str:
        """One instance comes by C-STORE; its file's name."""
        self.tick()
        name = f"{number:032x}.dcm"
        instance = Instance(
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            sop_instance_uid=f"1.2.{number}",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            patient_id=patient,
            study_instance_uid=study,
            series_instance_uid=f"{study}.1",
        )
        self.ledger.received(Receipt(name, instance, Sender(sender, "STOWGATE", "192.0.2.1"), size))
        return name

    def send(self, name: str, cause: Cause = Cause.NONE) -> None:
        """It is sent."""
        self.tick()
        self.ledger.sent([Outcome(name, 200, cause)])

    def quarantine(self, name: str, cause: Cause = Cause.REFUSED) -> None:
        """It goes to quarantine, after one attempt."""
        self.tick()
        self.ledger.retried([Outcome(name, 409, cause, "HTTP 409")])
        self.tick()
        self.ledger.quarantined(Outcome(name, 409, cause, "no more"), name, attempts=1)

    def numbers(self, **query: Any) -> list[int]:
        """The numbers of the instances that a query finds, in its order."""
        found = self.reader.search(Query(**query), limit=1000)
        assert self.reader.count(Query(**query)) == len(found)
        assert [row.id for row in found] == sorted((row.id for row in found), reverse=True)
        return [int(row.sop_instance_uid.rpartition(".")[2]) for row in found]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    """Nine instances: 1 to 4 sent, 5 and 6 in quarantine, 7 discarded, 8 and 9 owed."""
    made = Small(tmp_path / "ledger.db")
    for number in range(1, 10):
        made.receive(
            number,
            patient=f"P{number % 3}%_",
            study=f"1.9.{number % 2}",
            sender="MR" if number > 6 else "CT",
            size=100 * number,
        )
    for number in range(1, 5):
        made.send(f"{number:032x}.dcm", Cause.DUPLICATE if number == 4 else Cause.NONE)
    made.quarantine(f"{5:032x}.dcm")
    made.quarantine(f"{6:032x}.dcm", Cause.GAVE_UP)
    made.quarantine(f"{7:032x}.dcm", Cause.GAVE_UP)
    made.tick()
    made.ledger.discarded([f"{7:032x}.dcm"], "by a person")
    yield made
    made.ledger.close()


@pytest.fixture(params=["few", "many"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches are led by an index, or look through the table in pieces of two rows and more."""
    if request.param == "many":
        monkeypatch.setattr(ledger_search, "_FEW", 1)
        monkeypatch.setattr(ledger_search, "_FIRST_PIECE", 2)


def test_heaps_and_causes(small: Small) -> None:
    """How many are in each state; sizes and the oldest of what is here."""
    heaps = small.reader.heaps()
    assert {state: heap.instances for state, heap in heaps.items()} == {
        State.INCOMING: 2,
        State.SENT: 4,
        State.QUARANTINE: 2,
        State.REMOVED: 1,
    }
    assert heaps[State.INCOMING] == Heap(2, 1700, utc_text(BEGIN + timedelta(minutes=7)))
    assert heaps[State.QUARANTINE].size_bytes == 1100
    assert {cause: heap.instances for cause, heap in small.reader.quarantine_causes().items()} == {
        Cause.REFUSED: 1,
        Cause.GAVE_UP: 1,
    }


def test_an_empty_ledger_answers_all(tmp_path: Path) -> None:
    """With nothing in it there is nothing to fail."""
    Ledger(tmp_path / "ledger.db").close()
    reader = LedgerReader(tmp_path / "ledger.db")
    assert set(reader.heaps().values()) == {Heap()}
    assert reader.quarantine_causes() == {}
    assert reader.search(Query(), limit=5) == []
    assert reader.count(Query()) == reader.count(Query(since="2026")) == reader.last_event() == 0
    assert (reader.row("x"), reader.first_event_since("2026")) == (None, 1)
    assert reader.activity(0, 100) == []


SEARCHES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "all": ({}, [9, 8, 7, 6, 5, 4, 3, 2, 1]),
    "sent": ({"state": State.SENT}, [4, 3, 2, 1]),
    "owed": ({"state": State.INCOMING}, [9, 8]),
    "by cause": ({"cause": Cause.GAVE_UP}, [7, 6]),
    "by state and cause": ({"state": State.QUARANTINE, "cause": Cause.GAVE_UP}, [6]),
    "duplicates": ({"cause": Cause.DUPLICATE}, [4]),
    "plainly sent or not settled": ({"cause": Cause.NONE}, [9, 8, 3, 2, 1]),
    "by SOP Instance UID": ({"uid": "1.2.3"}, [3]),
    "by Study Instance UID": ({"uid": "1.9.1"}, [9, 7, 5, 3, 1]),
    "a series is not searched for": ({"uid": "1.9.1.1"}, []),
    "by patient": ({"patient_id": "P1%_"}, [7, 4, 1]),
    "a patient is whole": ({"patient_id": "P1"}, []),
    "by the beginning of a patient": ({"patient_id": "P1*"}, [7, 4, 1]),
    "all who have a patient": ({"patient_id": "*"}, [9, 8, 7, 6, 5, 4, 3, 2, 1]),
    "the wildcards of SQL are letters": ({"patient_id": "P%*"}, []),
    "a beginning and a state": ({"patient_id": "P*", "state": State.SENT}, [4, 3, 2, 1]),
    "by sender": ({"calling_ae_title": "MR"}, [9, 8, 7]),
    "by sender and state": ({"calling_ae_title": "CT", "state": State.QUARANTINE}, [6, 5]),
    "by name": ({"file_name": f"{2:032x}.dcm"}, [2]),
    "since": ({"since": utc_text(BEGIN + timedelta(minutes=6))}, [9, 8, 7]),
    "until": ({"until": utc_text(BEGIN + timedelta(minutes=2))}, [2, 1]),
    "within": ({"since": utc_text(BEGIN + timedelta(minutes=2)), "until": "2026-03-01T08:05"}, [5, 4, 3]),
    "within and more": ({"since": "2026-03-01T08:02", "calling_ae_title": "CT", "state": State.SENT}, [4, 3]),
}


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_what_is_asked_for_newest_first(small: Small, name: str) -> None:
    """All that is given must be true; what leads the search makes no difference. It counts what it finds."""
    query, expected = SEARCHES[name]
    assert small.numbers(**query) == expected


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("query", [Query(), Query(patient_id="P*"), Query(calling_ae_title="CT"), Query(since="2026")])
def test_pages_follow_each_other(small: Small, query: Query) -> None:
    """The next page is asked for by the last id of the one before; together they are all there is."""
    pages = []
    before: int | None = None
    while page := small.reader.search(query, limit=2, before=before):
        pages.append(page)
        before = page[-1].id
    assert max(len(page) for page in pages) == 2
    assert [row for page in pages for row in page] == list(small.reader.each(query))


INJECTIONS = (
    "' OR 1=1 --",
    '"; DROP TABLE instances; --',
    "x' UNION SELECT * FROM events --",
    "%",
    "_",
    "*",
    "{}",
    "\0",
    "\udc80",
    "{0}",
)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize("field", ["uid", "calling_ae_title", "file_name", "patient_id", "since", "until"])
def test_nothing_that_is_searched_for_becomes_sql(small: Small, field: str, text: str) -> None:
    """Whatever is given is a value: it finds nothing that it does not name, and harms nothing."""
    found = small.reader.search(Query(**{field: text}), limit=100)
    if field not in {"since", "until"} and (field, text) != ("patient_id", "*"):
        assert found == []
    assert small.reader.row(text) is None
    with closing(sqlite3.connect(small.path)) as connection:
        assert connection.execute("SELECT count(*) FROM instances").fetchone() == (9,)


def test_a_row_is_found_by_its_name_or_uid(small: Small) -> None:
    """The file's name first; of a UID that came several times the last."""
    name = f"{3:032x}.dcm"
    row = small.reader.row(name)
    assert row is not None
    assert row == small.reader.row("1.2.3")
    assert small.reader.row("1.2.33") is None
    later = small.receive(33)
    with closing(sqlite3.connect(small.path)) as connection, connection:
        connection.execute("UPDATE instances SET sop_instance_uid = '1.2.3' WHERE file_name = ?", (later,))
    found = small.reader.row("1.2.3")
    assert found is not None
    assert found.file_name == later


def test_the_history_of_a_row(small: Small) -> None:
    """Oldest first, with what each event says."""
    row = small.reader.row("1.2.5")
    assert row is not None
    events = small.reader.events(row)
    assert [event.event for event in events] == [Event.RECEIVED, Event.ATTEMPT, Event.QUARANTINED]
    assert (events[-1].http_status, events[-1].cause, events[-1].detail) == (409, "refused", "no more")
    assert events == small.ledger.events(row.file_name)


def test_the_last_event(small: Small) -> None:
    """Its id, by which what is new is followed."""
    assert small.reader.last_event() == 9 + 4 + 3 * 2 + 1


def test_transfers_under_way(small: Small) -> None:
    """By the name of their first file."""
    name, now = f"{8:032x}.dcm", datetime.now(UTC)
    Ledger(small.path).transferring([Transfer(name, 1, 900, 10, now, now)], [])
    assert small.reader.transfers()[name].sent_bytes == 10


@pytest.mark.parametrize("minutes", [0, 1, 8, 9, 19, 20, 500])
def test_the_first_event_since_a_moment(small: Small, minutes: int) -> None:
    """One event a minute, numbered from 1: found by halving, also past the last one."""
    assert small.reader.first_event_since(utc_text(BEGIN + timedelta(minutes=minutes))) == min(minutes, 20) + 1


def test_the_first_event_where_ids_are_missing(small: Small) -> None:
    """Old events are deleted in time."""
    with closing(sqlite3.connect(small.path)) as connection, connection:
        connection.execute("DELETE FROM events WHERE id < 5 OR id BETWEEN 9 AND 12")
    assert small.reader.first_event_since(utc_text(BEGIN)) == 5
    # Halving ends at an id that is not there; the first that is there, and not before the moment, is the 13th.
    assert 9 <= small.reader.first_event_since(utc_text(BEGIN + timedelta(minutes=9))) <= 13


def test_activity_by_minute_event_and_cause(tmp_path: Path) -> None:
    """Counts, bytes and latencies; each event is in the range after which it is asked for once."""
    made = Small(tmp_path / "ledger.db")
    names = [made.receive(number, size=1000) for number in range(3)]
    for seconds, name in zip((0.4, 3.0, 600.0), names, strict=True):
        row = made.reader.row(name)
        assert row is not None
        made.at = datetime.fromisoformat(row.received_at) + timedelta(seconds=seconds)
        made.ledger.sent([Outcome(name, 200)])
    made.at = BEGIN + timedelta(hours=1)
    made.quarantine(made.receive(9), Cause.CONFLICT)
    activity = made.reader.activity(0, made.reader.last_event())
    received = [one for one in activity if one.event is Event.RECEIVED]
    assert next((one.minute, one.count, one.size_bytes) for one in received) == ("2026-03-01T08:00", 1, 1000)
    assert all((one.seconds, one.within) == (0.0, (0,) * len(LATENCIES)) for one in received)
    sent = [one for one in activity if one.event is Event.SENT]
    assert sum(one.count for one in sent) == 3
    assert sum(one.seconds for one in sent) == pytest.approx(603.4, abs=0.01)
    within = [sum(counts) for counts in zip(*(one.within for one in sent), strict=True)]
    assert dict(zip(LATENCIES, within, strict=True)) == {0.1: 0, 0.5: 1, 1: 1, 5: 2, 30: 2, 60: 2, 300: 2, 3600: 3}
    assert [(one.event, one.cause) for one in activity if one.cause] == [
        (Event.ATTEMPT, "conflict"),
        (Event.QUARANTINED, "conflict"),
    ]
    pieces = [one for after in range(made.reader.last_event()) for one in made.reader.activity(after, after + 1)]
    assert sum(one.count for one in pieces) == sum(one.count for one in activity) == made.reader.last_event()
    made.ledger.close()


def test_a_question_that_takes_too_long_is_given_up(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no page holds a snapshot for ever."""
    monkeypatch.setattr(ledger_reader, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(ledger_reader, "_STEPS", 1)
    with pytest.raises(LedgerError, match="longer than 0 s"):
        small.reader.search(Query(calling_ae_title="NOBODY"), limit=10)


def test_it_never_writes_or_waits_for_a_writer(small: Small) -> None:
    """While somebody holds the write lock, everything can be asked; nothing can be changed."""
    with closing(sqlite3.connect(small.path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert small.reader.count(Query()) == 9
        writer.execute("ROLLBACK")
    with pytest.raises(LedgerError), small.reader._asking() as connection:
        connection.execute("DELETE FROM events")
    assert small.reader.last_event() == 20


@pytest.mark.parametrize("content", [None, b"no database", b""])
def test_a_ledger_that_cannot_be_read_is_a_ledger_error(tmp_path: Path, content: bytes | None) -> None:
    """Missing, rubbish or empty: never another exception, and nothing is created."""
    path = tmp_path / "ledger.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LedgerError):
        LedgerReader(path).heaps()
    assert path.exists() == (content is not None)


def test_a_newer_ledger_is_not_read(small: Small) -> None:
    """What its columns mean is not known."""
    with closing(sqlite3.connect(small.path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(LedgerVersionError):
        small.reader.heaps()
