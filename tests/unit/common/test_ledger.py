import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from common.errors import LedgerError, LedgerVersionError
from common.instance import Instance
from common.ledger import Ledger
from common.ledger_schema import MIGRATIONS, SCHEMA_VERSION
from common.ledger_waiting import begin_writing
from common.records import (
    Cause,
    Event,
    Known,
    Outcome,
    Owed,
    Receipt,
    Row,
    Sender,
    State,
    Transfer,
    ledger_name,
    utc_text,
)

PROJECT = Path(__file__).parents[3]
START = datetime(2026, 11, 24, 9, 0, 0, 123456, tzinfo=UTC)

CT = Instance(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    sop_instance_uid="1.2.3.4",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    patient_id="P1",
    study_instance_uid="1.2.3",
    series_instance_uid="1.2.3.1",
    modality="CT",
)
OTHER_CT = Instance("1.2.840.10008.5.1.4.1.1.2", "1.2.3.5", "1.2.840.10008.1.2.1")
SCANNER = Sender("SCANNER", "STOWGATE", "10.0.0.7")


WRITE_TOGETHER = """
import sys, time
from pathlib import Path
from common.instance import Instance
from common.ledger import Ledger
from common.records import Receipt, Sender
print("ready", flush=True)
sys.stdin.readline()
ledger = Ledger(Path(sys.argv[1]))
for n in range(20):
    ledger.received(Receipt(f"{sys.argv[2]}-{n}", Instance("1.2", "1.3", "1.4"), Sender("A", "B", "C"), n))
ledger.close()
"""

WRITE_BY_NAME = """
import sys
from pathlib import Path
from common.instance import Instance
from common.ledger import Ledger
from common.records import Receipt, Sender
ledger = Ledger(Path(sys.argv[1]))
for line in sys.stdin:
    ledger.received(Receipt(line.strip(), Instance("1.2", "1.3", "1.4"), Sender("A", "B", "C"), 10))
    print(line, end="", flush=True)
"""

HOLD_THE_LEDGER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """The time, as the ledger asks for it."""
        return self.now

    def advance(self, seconds: float) -> str:
        """Let so much time go by; returns the new time as the ledger writes it."""
        self.now += timedelta(seconds=seconds)
        return utc_text(self.now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path, clock: Clock) -> Iterator[Ledger]:
    ledger = Ledger(path, now=clock)
    yield ledger
    ledger.close()


def row(ledger: Ledger, name: str = "a.dcm") -> Row:
    return ledger.rows([name])[name]


def history(ledger: Ledger, name: str = "a.dcm") -> list[Event]:
    return [event.event for event in ledger.events(name)]


def sql(path: Path, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, parameters).fetchall()


# The words


def test_the_words_of_the_schema_are_those_of_the_code(path: Path, ledger: Ledger) -> None:
    """Every state, event and cause that the code knows is allowed by the schema, and no other."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    for column, words in (("state", State), ("cause", Cause)):
        for word in words:
            sql(path, f"UPDATE instances SET {column} = ?", word)  # noqa: S608
        for word in ("unheard-of", "Sent", " "):
            with pytest.raises(sqlite3.IntegrityError):
                sql(path, f"UPDATE instances SET {column} = ?", word)  # noqa: S608
    for event in Event:
        sql(path, "UPDATE events SET event = ?", event)
    with pytest.raises(sqlite3.IntegrityError):
        sql(path, "UPDATE events SET event = 'unheard-of'")


@pytest.mark.parametrize("column", ["state", "cause"])
def test_an_unknown_word_in_a_row_raises(path: Path, ledger: Ledger, column: str) -> None:
    """A row that holds a state or cause that we do not know is not passed on as if it were one."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(f"UPDATE instances SET {column} = 'unheard-of'")  # noqa: S608
    with pytest.raises(ValueError, match="unheard-of"):
        ledger.rows(["a.dcm"])


def test_an_unknown_event_raises(path: Path, ledger: Ledger) -> None:
    """An event that we do not know is not passed on as if it were one."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE events SET event = 'unheard-of'")
    with pytest.raises(ValueError, match="unheard-of"):
        ledger.events("a.dcm")


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 11, 24, 9, 0, tzinfo=UTC), "2026-11-24T09:00:00.000000Z"),
        (datetime(2026, 11, 24, 9, 0, 0, 7, tzinfo=UTC), "2026-11-24T09:00:00.000007Z"),
        (datetime(2026, 11, 24, 9, 0, tzinfo=timezone(timedelta(hours=-5))), "2026-11-24T14:00:00.000000Z"),
        (datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))), "2025-12-31T23:30:00.000000Z"),
    ],
    ids=["whole second", "microseconds", "behind UTC", "ahead of UTC"],
)
def test_times_are_written_in_utc(moment: datetime, text: str) -> None:
    """A time of any zone becomes UTC, ISO 8601 with six digits of microseconds and Z, and sorts as text."""
    assert utc_text(moment) == text
    assert datetime.fromisoformat(text) == moment


@pytest.mark.parametrize(
    ("name", "label"),
    [("a.dcm", "a.dcm"), ("ü/山", "ü/山"), (os.fsdecode(b"caf\xe9"), "caf\\xe9"), ("two\nlines", "two\nlines")],
    ids=["ascii", "UTF-8", "no UTF-8", "newline"],
)
def test_a_name_as_the_ledger_keeps_it(name: str, label: str) -> None:
    r"""Bytes that are no UTF-8 become \xNN, and what the ledger gave back names the same row again."""
    assert ledger_name(name) == label
    assert ledger_name(label) == label


# Receiving


def test_a_received_instance_is_owed(ledger: Ledger) -> None:
    """A receiver's row holds all that is known, in state incoming, with the event received."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    assert row(ledger) == Row(
        id=1,
        file_name="a.dcm",
        sop_instance_uid="1.2.3.4",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        patient_id="P1",
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.1",
        modality="CT",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="SCANNER",
        called_ae_title="STOWGATE",
        peer_address="10.0.0.7",
        size_bytes=10,
        received_at="2026-11-24T09:00:00.123456Z",
        state=State.INCOMING,
        attempts=0,
        next_attempt_at=None,
        cause=Cause.NONE,
        http_status=None,
        settled_at=None,
    )
    (event,) = ledger.events("a.dcm")
    assert (event.event, event.at, event.file_name) == (Event.RECEIVED, "2026-11-24T09:00:00.123456Z", "a.dcm")


def test_what_is_recorded_is_there_for_others_at_once(path: Path, ledger: Ledger) -> None:
    """When `received` returns, the row is committed: another connection sees it."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    assert sql(path, "SELECT file_name FROM instances") == [("a.dcm",)]


def test_text_that_is_no_unicode_is_recorded_escaped(ledger: Ledger) -> None:
    """Lone surrogates, which SQLite does not take, keep no instance out of the ledger."""
    odd = Instance("1.2", "1.3", "1.4", patient_id="P\udce9\0\ud800")
    ledger.received(Receipt("a.dcm", odd, Sender("A\udcff", "B", "C"), 10))
    ledger.retried([Outcome("a.dcm", detail="caf\udce9")])
    assert row(ledger).patient_id == "P\\udce9\0\\ud800"
    assert ledger.events("a.dcm")[-1].detail == "caf\\udce9"


# Attempts


def test_a_retried_file_stays_owed_until_its_time(ledger: Ledger, clock: Clock) -> None:
    """Every attempt that settles nothing is counted, with its status, its cause and the time of the next."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    clock.advance(1)
    due = clock.now + timedelta(seconds=30)
    ledger.retried([Outcome("a.dcm", 500, Cause.GAVE_UP, "it said no", due)])
    at = clock.advance(31)
    ledger.retried([Outcome("a.dcm", None, Cause.UNCONFIRMED)])
    now = row(ledger)
    assert (now.state, now.attempts, now.next_attempt_at, now.http_status) == (State.INCOMING, 2, None, None)
    _, first, second = ledger.events("a.dcm")
    assert (first.event, first.http_status, first.cause, first.detail) == (Event.ATTEMPT, 500, "gave-up", "it said no")
    assert (second.event, second.at, second.cause) == (Event.ATTEMPT, at, "unconfirmed")


def test_due_times_are_those_of_the_rows_in_a_state(ledger: Ledger, clock: Clock) -> None:
    """All rows of a state are listed, oldest first, each with the time of its next attempt or none."""
    for name in ("b.dcm", "a.dcm", "c.dcm", "d.dcm"):
        ledger.received(Receipt(name, CT, SCANNER, 10))
    ledger.retried([Outcome("a.dcm", 500, next_attempt_at=clock.now + timedelta(seconds=5))])
    ledger.sent([Outcome("c.dcm", 200)])
    ledger.quarantined(Outcome("d.dcm", 409, Cause.REFUSED), "d.dcm", attempts=1)
    assert list(ledger.due_times(State.INCOMING).items()) == [("b.dcm", None), ("a.dcm", "2026-11-24T09:00:05.123456Z")]
    assert ledger.due_times(State.SENT) == {"c.dcm": None}
    assert ledger.due_times(State.QUARANTINE) == {"d.dcm": None}
    assert ledger.due_times(State.REMOVED) == {}


def test_what_is_owed_is_known_with_its_study_and_sender(ledger: Ledger, clock: Clock) -> None:
    """Each row in state incoming, oldest first; what is the same for many is there once."""
    for name in ("b.dcm", "a.dcm", "sent.dcm"):
        ledger.received(Receipt(name, CT, SCANNER, 10))
    ledger.received(Receipt("c.dcm", OTHER_CT, SCANNER, 10))
    ledger.adopt("dropped.dcm", CT, 10)
    ledger.retried([Outcome("c.dcm", 500, next_attempt_at=clock.now + timedelta(seconds=5))])
    ledger.sent([Outcome("sent.dcm", 200)])
    owed = ledger.owed()
    assert list(owed.items()) == [
        ("b.dcm", Owed(None, "SCANNER", "1.2.3")),
        ("a.dcm", Owed(None, "SCANNER", "1.2.3")),
        ("c.dcm", Owed("2026-11-24T09:00:05.123456Z", "SCANNER", "")),
        ("dropped.dcm", Owed(None, "", "1.2.3")),
    ]
    assert owed["a.dcm"] is owed["b.dcm"]


def transfer(ledger: Ledger, name: str, sent_bytes: int = 0) -> Transfer:
    """How far a request is, as the uploader records it, of a file that is owed."""
    if name not in ledger.rows([name]):
        ledger.received(Receipt(name, CT, SCANNER, 10))
    return Transfer(name, 3, 1000, sent_bytes, START, START + timedelta(seconds=4))


def test_requests_that_take_long_are_seen_until_they_end(ledger: Ledger) -> None:
    """Each is there with how far it is, is renewed, and is gone when it has ended."""
    ledger.transferring([transfer(ledger, "a.dcm", 10), transfer(ledger, "b.dcm")], [])
    assert ledger.transfers() == {"a.dcm": transfer(ledger, "a.dcm", 10), "b.dcm": transfer(ledger, "b.dcm")}
    ledger.transferring([transfer(ledger, "a.dcm", 900)], ["b.dcm"])
    assert ledger.transfers() == {"a.dcm": transfer(ledger, "a.dcm", 900)}
    ledger.transferring([], ["a.dcm"])
    assert ledger.transfers() == {}


def test_requests_of_a_process_that_died_are_forgotten(path: Path, ledger: Ledger, clock: Clock) -> None:
    """What nobody has renewed for a minute is not told, and goes with the next that is written."""
    ledger.transferring([transfer(ledger, "dead.dcm")], [])
    clock.advance(59)
    assert ledger.transfers().keys() == {"dead.dcm"}
    clock.advance(2)
    assert ledger.transfers() == {}
    ledger.transferring([transfer(ledger, "a.dcm")], [])
    assert sql(path, "SELECT count(*) FROM transfers") == [(1,)]


def test_a_request_whose_file_is_settled_is_forgotten(path: Path, ledger: Ledger) -> None:
    """A file that went to quarantine/ under another name leaves nothing behind."""
    ledger.transferring([transfer(ledger, "a.dcm")], [])
    ledger.quarantined(Outcome("a.dcm", 413, Cause.TOO_LARGE), "a.dcm~2", attempts=1)
    ledger.transferring([], ["a.dcm"])
    assert sql(path, "SELECT count(*) FROM transfers") == [(0,)]


def test_a_file_without_a_row_has_no_progress(ledger: Ledger) -> None:
    """Without a row there is nothing to say it of, and it is no error."""
    ledger.transferring([Transfer("unknown.dcm", 1, 10, 0, START, START)], ["unknown too.dcm"])
    assert ledger.transfers() == {}


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT file_name, next_attempt_at, study_instance_uid FROM instances WHERE state = ? ORDER BY id",
        "SELECT file_name, next_attempt_at FROM instances WHERE state = ? ORDER BY id",
        "SELECT state, count(*) FROM instances WHERE state <> ? GROUP BY state",
    ],
    ids=["owed", "due_times", "counts"],
)
def test_a_scan_does_not_read_the_rows_of_all_that_was_ever_sent(path: Path, ledger: Ledger, statement: str) -> None:
    """What every scan asks for is found by an index, since what was sent grows for years."""
    assert isinstance(ledger, Ledger)
    plan = " ".join(str(step[-1]) for step in sql(path, f"EXPLAIN QUERY PLAN {statement}", "incoming"))
    assert "INDEX instances_state" in plan
    assert "TEMP B-TREE" not in plan


# Sent


def test_a_sent_file_is_settled(ledger: Ledger, clock: Clock) -> None:
    """The last attempt counts, the time is kept, and what was special about it."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    ledger.received(Receipt("b.dcm", OTHER_CT, SCANNER, 10))
    ledger.retried([Outcome("a.dcm", 503, next_attempt_at=clock.now)])
    at = clock.advance(60)
    ledger.sent([Outcome("a.dcm", 200, Cause.DUPLICATE, "45070"), Outcome("b.dcm", 200)])
    now = row(ledger)
    assert (now.state, now.attempts, now.next_attempt_at, now.settled_at) == (State.SENT, 2, None, at)
    assert (now.cause, now.http_status) == (Cause.DUPLICATE, 200)
    assert history(ledger) == [Event.RECEIVED, Event.ATTEMPT, Event.SENT]
    assert history(ledger, "b.dcm") == [Event.RECEIVED, Event.SENT]
    assert ledger.counts() == {State.INCOMING: 0, State.SENT: 2, State.QUARANTINE: 0, State.REMOVED: 0}


def test_many_that_were_sent_each_get_what_was_said_of_them(ledger: Ledger) -> None:
    """More than fit in a statement, of several outcomes: each row and event has its own, and each is recorded once."""
    names = [f"{number}.dcm" for number in range(1200)]
    ledger.received(*(Receipt(name, CT, SCANNER, 10) for name in names))
    causes = [Cause.NONE, Cause.DUPLICATE, Cause.WARNING]
    ledger.sent([Outcome(name, 200, causes[number % 3], f"said {number % 2}") for number, name in enumerate(names)])
    rows = ledger.rows(names)
    assert [(rows[name].state, rows[name].attempts, rows[name].cause) for name in names] == [
        (State.SENT, 1, causes[number % 3]) for number in range(1200)
    ]
    for number in (0, 1, 2, 1199):
        _, sent = ledger.events(names[number])
        assert (sent.event, sent.http_status, sent.cause) == (Event.SENT, 200, causes[number % 3])
        assert sent.detail == f"said {number % 2}"


def test_a_name_that_was_sent_twice_is_recorded_twice(ledger: Ledger) -> None:
    """Two files that bore one name one after the other, while the ledger could not be written."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    ledger.sent([Outcome("a.dcm", 200), Outcome("a.dcm", 200), Outcome("a.dcm", 202)])
    assert row(ledger).attempts == 3
    assert [event.http_status for event in ledger.events("a.dcm")] == [None, 200, 200, 202]


def test_recording_about_a_file_without_a_row_records_nothing(ledger: Ledger) -> None:
    """If the ledger was lost meanwhile, an outcome makes neither a row nor an event, and no error."""
    ledger.sent([Outcome("a.dcm", 200)])
    ledger.retried([Outcome("a.dcm", 500)])
    ledger.quarantined(Outcome("a.dcm", 409, Cause.REFUSED), "a.dcm", attempts=1)
    assert ledger.removed(["a.dcm"], State.INCOMING) == 0
    assert (ledger.rows(["a.dcm"]), ledger.events("a.dcm")) == ({}, [])


# Quarantined


def test_a_quarantined_file_has_its_cause(ledger: Ledger, clock: Clock) -> None:
    """The row says why and when; attempts count only where there were any."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    ledger.adopt("b.dcm", None, 5)
    at = clock.advance(1)
    ledger.quarantined(Outcome("a.dcm", 409, Cause.REFUSED, "A9xx"), "a.dcm", attempts=1)
    ledger.quarantined(Outcome("b.dcm", None, Cause.NOT_DICOM), "b.dcm", attempts=0)
    now = row(ledger)
    assert (now.state, now.cause, now.http_status, now.attempts, now.settled_at) == (
        State.QUARANTINE,
        Cause.REFUSED,
        409,
        1,
        at,
    )
    assert (row(ledger, "b.dcm").cause, row(ledger, "b.dcm").attempts) == (Cause.NOT_DICOM, 0)
    assert history(ledger) == [Event.RECEIVED, Event.QUARANTINED]


def test_a_file_quarantined_under_another_name_takes_its_history_with_it(ledger: Ledger) -> None:
    """The row bears the name in quarantine/ from then on, and its events are found under it."""
    ledger.adopt("folder/a.dcm", CT, 10)
    ledger.quarantined(Outcome("folder/a.dcm", 409, Cause.REFUSED), "a~2.dcm", attempts=1)
    assert ledger.rows(["folder/a.dcm"]) == {}
    assert row(ledger, "a~2.dcm").state is State.QUARANTINE
    assert history(ledger, "a~2.dcm") == [Event.ADOPTED, Event.QUARANTINED]


def test_the_settled_row_of_an_older_file_makes_way(ledger: Ledger) -> None:
    """If the name in quarantine/ is free but an older row bears it, that row keeps its history as name#id."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    ledger.quarantined(Outcome("a.dcm", 409, Cause.REFUSED), "a.dcm", attempts=1)
    ledger.adopt("folder/a.dcm", OTHER_CT, 20)
    ledger.quarantined(Outcome("folder/a.dcm", 400, Cause.REFUSED), "a.dcm", attempts=1)
    assert row(ledger).sop_instance_uid == "1.2.3.5"
    assert row(ledger, "a.dcm#1").sop_instance_uid == "1.2.3.4"
    assert history(ledger, "a.dcm#1") == [Event.RECEIVED, Event.QUARANTINED]


# Adopting


def test_a_file_without_a_row_is_adopted(ledger: Ledger) -> None:
    """A file that somebody dropped has no sender, and all that was read of it."""
    assert ledger.adopt("a.dcm", CT, 10) is Event.ADOPTED
    now = row(ledger)
    assert (now.state, now.sop_instance_uid, now.patient_id, now.size_bytes) == (State.INCOMING, "1.2.3.4", "P1", 10)
    assert (now.calling_ae_title, now.called_ae_title, now.peer_address) == ("", "", "")
    assert history(ledger) == [Event.ADOPTED]


def test_a_file_that_could_not_be_read_is_adopted_without_an_identity(ledger: Ledger) -> None:
    """What is no DICOM file gets a row too, so that its quarantine is accounted for."""
    assert ledger.adopt("a.dcm", None, 10) is Event.ADOPTED
    assert (row(ledger).sop_instance_uid, row(ledger).size_bytes) == ("", 10)


def test_a_file_that_is_known_as_owed_is_not_adopted_again(ledger: Ledger, clock: Clock) -> None:
    """A row in state incoming stays as it is, with its attempts and its sender."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    ledger.retried([Outcome("a.dcm", 500, next_attempt_at=clock.now)])
    before = row(ledger)
    assert ledger.adopt("a.dcm", CT, 10) is None
    assert ledger.adopt("a.dcm", None, 10) is None
    assert row(ledger) == before
    assert history(ledger) == [Event.RECEIVED, Event.ATTEMPT]


@pytest.mark.parametrize(
    ("instance", "size_bytes"), [(CT, 11), (None, 11), (OTHER_CT, 10)], ids=["size", "size, unreadable", "identity"]
)
def test_a_file_whose_content_changed_starts_anew(
    ledger: Ledger, clock: Clock, instance: Instance | None, size_bytes: int
) -> None:
    """If something else lies under the name, it is adopted with a clean slate and its own identity."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    ledger.retried([Outcome("a.dcm", 500, next_attempt_at=clock.now)])
    at = clock.advance(5)
    assert ledger.adopt("a.dcm", instance, size_bytes) is Event.ADOPTED
    now = row(ledger)
    assert (now.size_bytes, now.sop_instance_uid) == (size_bytes, instance.sop_instance_uid if instance else "")
    assert (now.attempts, now.next_attempt_at, now.http_status, now.received_at) == (0, None, None, at)
    assert (now.calling_ae_title, now.peer_address) == ("", "")


def test_a_file_that_becomes_readable_gets_its_identity(ledger: Ledger) -> None:
    """A row that was made when the file could not be read is filled in once it can."""
    ledger.adopt("a.dcm", None, 10)
    assert ledger.adopt("a.dcm", CT, 10) is Event.ADOPTED
    assert row(ledger).sop_instance_uid == "1.2.3.4"


def test_a_file_that_comes_back_from_quarantine_is_released_with_a_clean_slate(ledger: Ledger, clock: Clock) -> None:
    """Attempts, cause and status are gone; who sent it and when is kept."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    ledger.retried([Outcome("a.dcm", 500, next_attempt_at=clock.now)])
    ledger.quarantined(Outcome("a.dcm", 409, Cause.REFUSED), "a.dcm", attempts=1)
    received_at = row(ledger).received_at
    clock.advance(3600)
    assert ledger.adopt("a.dcm", OTHER_CT, 20) is Event.RELEASED
    now = row(ledger)
    assert (now.state, now.attempts, now.next_attempt_at) == (State.INCOMING, 0, None)
    assert (now.cause, now.http_status, now.settled_at) == (Cause.NONE, None, None)
    assert (now.calling_ae_title, now.called_ae_title, now.peer_address) == ("SCANNER", "STOWGATE", "10.0.0.7")
    assert (now.received_at, now.size_bytes, now.sop_instance_uid) == (received_at, 20, "1.2.3.5")
    assert history(ledger) == [Event.RECEIVED, Event.ATTEMPT, Event.QUARANTINED, Event.RELEASED]


@pytest.mark.parametrize("state", [State.SENT, State.REMOVED])
def test_the_same_file_that_is_there_again_is_owed_again(ledger: Ledger, state: State) -> None:
    """After a crash between the ledger and the deletion the directory is the truth: the row says incoming again."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    if state is State.SENT:
        ledger.sent([Outcome("a.dcm", 200)])
    else:
        ledger.removed(["a.dcm"], State.INCOMING)
    assert ledger.adopt("a.dcm", CT, 10) is Event.ADOPTED
    now = row(ledger)
    assert (now.id, now.state, now.attempts, now.settled_at) == (1, State.INCOMING, 0, None)
    assert history(ledger)[-1] is Event.ADOPTED


@pytest.mark.parametrize("instance", [OTHER_CT, None], ids=["another instance", "unreadable"])
@pytest.mark.parametrize("state", [State.SENT, State.REMOVED])
def test_another_file_of_an_old_name_gets_a_row_of_its_own(
    ledger: Ledger, state: State, instance: Instance | None
) -> None:
    """Every CD brings its IM000001: the account of the one before stays, as IM000001#id."""
    ledger.adopt("IM000001", CT, 10)
    if state is State.SENT:
        ledger.sent([Outcome("IM000001", 200)])
    else:
        ledger.removed(["IM000001"], State.INCOMING)
    assert ledger.adopt("IM000001", instance, 20) is Event.ADOPTED
    assert (row(ledger, "IM000001").state, row(ledger, "IM000001").size_bytes) == (State.INCOMING, 20)
    assert history(ledger, "IM000001") == [Event.ADOPTED]
    old = row(ledger, "IM000001#1")
    assert (old.state, old.sop_instance_uid, old.size_bytes) == (state, "1.2.3.4", 10)
    assert len(history(ledger, "IM000001#1")) == 2


# Files found in quarantine/


def test_a_file_found_in_quarantine_gets_its_row_from_its_reason(ledger: Ledger, clock: Clock) -> None:
    """If the ledger was lost, cause, status and UIDs come back from the sidecar."""
    reason = {
        "cause": "refused",
        "http_status": 409,
        "sop_instance_uid": "1.2.3.4",
        "study_instance_uid": "1.2.3",
        "patient_id": None,
    }
    ledger.adopt_quarantined("a.dcm", 10, reason)
    now = row(ledger)
    assert (now.state, now.cause, now.http_status, now.size_bytes) == (State.QUARANTINE, Cause.REFUSED, 409, 10)
    assert (now.sop_instance_uid, now.study_instance_uid, now.patient_id) == ("1.2.3.4", "1.2.3", "")
    assert (now.attempts, now.settled_at) == (0, utc_text(clock.now))
    assert history(ledger) == [Event.ADOPTED, Event.QUARANTINED]


@pytest.mark.parametrize(
    "reason",
    [
        {},
        {"cause": "unheard-of", "http_status": "409", "sop_instance_uid": None, "sop_class_uid": 5},
        {"cause": None, "http_status": 10**30, "transfer_syntax_uid": ["1"], "modality": {"a": 1}},
        {"cause": ["refused"], "http_status": True, "sop_instance_uid": "\udce9"},
    ],
    ids=["none", "other words", "other types", "odd values"],
)
def test_a_reason_that_a_person_edited_is_not_relied_on(ledger: Ledger, reason: dict[str, object]) -> None:
    """Whatever the sidecar says, the file in quarantine/ gets a row; what makes no sense is left out."""
    ledger.adopt_quarantined("a.dcm", 10, reason)
    now = row(ledger)
    assert (now.state, now.cause, now.http_status, now.modality) == (State.QUARANTINE, Cause.NONE, None, "")


def test_a_file_that_is_known_as_quarantined_is_left_alone(ledger: Ledger) -> None:
    """A row in state quarantine stays as it is, whatever the sidecar says."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    ledger.quarantined(Outcome("a.dcm", 409, Cause.REFUSED), "a.dcm", attempts=1)
    before = row(ledger)
    ledger.adopt_quarantined("a.dcm", 99, {"cause": "gave-up"})
    assert row(ledger) == before
    assert history(ledger) == [Event.RECEIVED, Event.QUARANTINED]


def test_a_file_that_a_person_put_into_quarantine_follows_the_folder(ledger: Ledger) -> None:
    """A row that says incoming becomes quarantine with its sender and identity, if that is where the file is."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    ledger.adopt_quarantined("a.dcm", 10, {})
    now = row(ledger)
    assert (now.state, now.calling_ae_title, now.sop_instance_uid) == (State.QUARANTINE, "SCANNER", "1.2.3.4")
    assert history(ledger) == [Event.RECEIVED, Event.QUARANTINED]


def test_what_was_sent_stays_sent_when_a_file_of_its_name_is_in_quarantine(ledger: Ledger) -> None:
    """The sent file is deleted, so the one in quarantine/ is another, with a row of its own."""
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    ledger.sent([Outcome("a.dcm", 200)])
    ledger.adopt_quarantined("a.dcm", 20, {"cause": "refused", "sop_instance_uid": "1.2.3.5"})
    assert (row(ledger).state, row(ledger).sop_instance_uid) == (State.QUARANTINE, "1.2.3.5")
    assert history(ledger, "a.dcm#1") == [Event.RECEIVED, Event.SENT]


# Removed


def test_removed_files_are_those_still_in_that_state(ledger: Ledger, clock: Clock) -> None:
    """Rows that moved on meanwhile are left; the others are settled, and their event says from where."""
    for name in ("a.dcm", "b.dcm", "c.dcm"):
        ledger.received(Receipt(name, CT, SCANNER, 10))
    ledger.sent([Outcome("b.dcm", 200)])
    ledger.quarantined(Outcome("c.dcm", 409, Cause.REFUSED), "c.dcm", attempts=1)
    at = clock.advance(9)
    assert ledger.removed(["a.dcm", "b.dcm", "c.dcm", "unknown"], State.INCOMING) == 1
    assert ledger.removed(["a.dcm"], State.INCOMING) == 0
    assert [row(ledger, name).state for name in ("a.dcm", "b.dcm", "c.dcm")] == [
        State.REMOVED,
        State.SENT,
        State.QUARANTINE,
    ]
    assert row(ledger).settled_at == at
    assert ledger.events("a.dcm")[-1].detail == "disappeared from incoming/"
    assert ledger.removed(["c.dcm"], State.QUARANTINE) == 1
    gone = row(ledger, "c.dcm")
    assert (gone.state, gone.cause, gone.http_status) == (State.REMOVED, Cause.REFUSED, 409)
    assert ledger.events("c.dcm")[-1].detail == "disappeared from quarantine/"


# Names


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9.dcm"), "two\nlines", "O'Hara; DROP TABLE", "ü" * 127, "a#1"])
def test_any_file_name_can_be_a_row(ledger: Ledger, name: str) -> None:
    """Names of any bytes go through every operation, and rows come back under the name asked for."""
    ledger.adopt(name, CT, 10)
    ledger.retried([Outcome(name, 500)])
    ledger.quarantined(Outcome(name, 409, Cause.REFUSED), name, attempts=1)
    assert ledger.adopt(name, CT, 10) is Event.RELEASED
    assert list(ledger.due_times(State.INCOMING)) == [ledger_name(name)]
    assert list(ledger.rows([name, "another"])) == [name]
    assert ledger.removed(ledger.due_times(State.INCOMING), State.INCOMING) == 1
    assert [event.file_name for event in ledger.events(name)] == [name] * 5


def test_rows_of_many_names_at_once(ledger: Ledger) -> None:
    """More names than SQLite takes variables are asked for in pieces."""
    names = [f"{n}.dcm" for n in range(1200)]
    for name in names[::100]:
        ledger.received(Receipt(name, CT, SCANNER, 10))
    assert sorted(ledger.rows(names)) == sorted(names[::100])
    assert ledger.rows([]) == {}


def test_what_a_delivery_asks_is_known_of_what_is_owed_alone(ledger: Ledger) -> None:
    """Of more names than fit in a statement: those that are owed, under the name that was asked for."""
    odd = os.fsdecode(b"\xff.dcm")
    names = [*(f"{number}.dcm" for number in range(1200)), odd]
    for name in ("0.dcm", "600.dcm", "1199.dcm", odd):
        ledger.received(Receipt(name, CT, SCANNER, 10))
    ledger.retried([Outcome("600.dcm", 500)])
    ledger.sent([Outcome("0.dcm", 200)])
    at = row(ledger, "600.dcm").received_at
    assert ledger.known(names) == {
        "600.dcm": Known(CT.sop_instance_uid, 10, 1, at),
        "1199.dcm": Known(CT.sop_instance_uid, 10, 0, at),
        odd: Known(CT.sop_instance_uid, 10, 0, at),
    }
    assert ledger.known([]) == {}


def test_a_delivery_does_not_read_the_rows_of_all_that_is_owed(path: Path, ledger: Ledger) -> None:
    """Its files are found by their names, however many wait."""
    asked: list[str] = []
    connection = ledger._database._connection
    assert connection is not None
    connection.set_trace_callback(asked.append)
    ledger.known([f"{number}.dcm" for number in range(50)])
    connection.set_trace_callback(None)
    (statement,) = [one for one in asked if one.startswith("SELECT")]
    plan = " ".join(str(step[-1]) for step in sql(path, f"EXPLAIN QUERY PLAN {statement}"))
    assert "sqlite_autoindex_instances_1 (file_name=?)" in plan


def test_latest_rows_come_newest_first(ledger: Ledger) -> None:
    """The rows that were entered last are shown first, as many as were asked for."""
    for name in ("a", "b", "c"):
        ledger.received(Receipt(name, CT, SCANNER, 10))
    assert [one.file_name for one in ledger.latest(2)] == ["c", "b"]


# One transaction


def _do_received(ledger: Ledger) -> None:
    ledger.received(Receipt("new", CT, SCANNER, 10))


def _do_removed(ledger: Ledger) -> None:
    ledger.removed(["owed", "owed too"], State.INCOMING)


OPERATIONS: dict[str, Callable[[Ledger], object]] = {
    "received": _do_received,
    "adopt, no row": lambda ledger: ledger.adopt("new", CT, 10),
    "adopt, released": lambda ledger: ledger.adopt("quarantined", CT, 10),
    "adopt, another file": lambda ledger: ledger.adopt("sent", OTHER_CT, 10),
    "retried": lambda ledger: ledger.retried([Outcome("owed", 500), Outcome("owed too", 500)]),
    "sent": lambda ledger: ledger.sent([Outcome("owed", 200), Outcome("owed too", 200)]),
    "quarantined": lambda ledger: ledger.quarantined(Outcome("owed", 409, Cause.REFUSED), "owed", attempts=1),
    "quarantined, renamed": lambda ledger: ledger.quarantined(
        Outcome("owed", 409, Cause.REFUSED), "quarantined", attempts=1
    ),
    "removed": _do_removed,
    "adopt_quarantined, no row": lambda ledger: ledger.adopt_quarantined("new", 10, {"cause": "refused"}),
    "adopt_quarantined, owed": lambda ledger: ledger.adopt_quarantined("owed", 10, {"cause": "refused"}),
}


class _FailingConnection:
    """A connection that fails at its nth statement that writes."""

    def __init__(self, connection: sqlite3.Connection, fail_at: int) -> None:
        self._connection = connection
        self._fail_at = fail_at
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
        if statement.startswith(("INSERT", "UPDATE", "COMMIT")):
            self.writes += 1
            if self.writes == self._fail_at:
                raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement, parameters)

    def executemany(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        for parameters in rows:
            self.execute(statement, parameters)


@pytest.mark.parametrize("operate", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_a_row_and_its_event_are_written_together_or_not_at_all(
    path: Path, ledger: Ledger, operate: Callable[[Ledger], object]
) -> None:
    """Whichever statement of an operation fails, the commit among them, nothing of it remains; then it succeeds."""
    for name in ("owed", "owed too", "sent", "quarantined"):
        ledger.received(Receipt(name, CT, SCANNER, 10))
    ledger.sent([Outcome("sent", 200)])
    ledger.quarantined(Outcome("quarantined", 409, Cause.REFUSED), "quarantined", attempts=1)

    def everything() -> list[list[tuple[Any, ...]]]:
        return [sql(path, "SELECT * FROM instances"), sql(path, "SELECT * FROM events")]

    before = everything()
    real = ledger._database._connection
    fail_at = 0
    while True:
        fail_at += 1
        failing = _FailingConnection(real, fail_at)
        ledger._database._connection = failing  # type: ignore[assignment]
        try:
            operate(ledger)
        except LedgerError:
            assert everything() == before
        else:
            break
    ledger._database._connection = real
    assert fail_at == failing.writes + 1 > 3
    assert [len(new) > len(old) or new != old for new, old in zip(everything(), before, strict=True)] == [True, True]


def test_an_exception_of_ours_in_a_transaction_is_not_a_ledger_error(path: Path, ledger: Ledger) -> None:
    """What is not SQLite's failure is raised as it is, and the transaction is undone."""

    def outcomes() -> Iterator[Outcome]:
        yield Outcome("a.dcm", 200)
        raise KeyboardInterrupt

    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    with pytest.raises(KeyboardInterrupt):
        ledger.sent(outcomes())
    assert row(ledger).state is State.INCOMING
    assert len(sql(path, "SELECT * FROM events")) == 1
    ledger.sent([Outcome("a.dcm", 200)])


# The file


def test_the_ledger_is_for_its_owner_alone(path: Path) -> None:
    """Patient IDs are in it: ledger.db and what SQLite puts beside it have mode 0600, whatever the umask."""
    before = os.umask(0)
    try:
        ledger = Ledger(path)
        ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        ledger.close()
    finally:
        os.umask(before)
    assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}


def test_a_new_ledger_has_the_schema_and_its_version(path: Path, ledger: Ledger) -> None:
    """An empty file is brought from version 0 to the present one, in WAL mode."""
    ledger.counts()
    assert sql(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert sql(path, "PRAGMA journal_mode") == [("wal",)]
    columns = {name for _, name, *_ in sql(path, "PRAGMA table_info(instances)")}
    assert columns == set(Row.__dataclass_fields__)


def test_a_ledger_of_version_0_with_tables_of_others_is_migrated(path: Path) -> None:
    """A SQLite file without our tables gets them; what else is in it stays."""
    sql(path, "CREATE TABLE notes (text)")
    ledger = Ledger(path)
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    ledger.close()
    assert sql(path, "SELECT * FROM notes") == []
    assert sql(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


def test_a_ledger_of_version_1_is_brought_to_the_present_one(path: Path) -> None:
    """Rows and events that an older Stowgate wrote stay, and what is new works."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(resources.files("common").joinpath("schema.sql").read_text("utf-8"))
        connection.execute(
            "INSERT INTO instances (file_name, size_bytes, received_at, state) VALUES ('a.dcm', 7, '', 'incoming')"
        )
        connection.execute("INSERT INTO events (instance_id, at, event) VALUES (1, '', 'received')")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    with contextlib.closing(Ledger(path)) as ledger:
        assert (row(ledger).size_bytes, len(ledger.events("a.dcm"))) == (7, 1)
        ledger.transferring([Transfer("a.dcm", 1, 7, 3, START, START)], [])
    assert sql(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert sql(path, "SELECT sent_bytes FROM transfers") == [(3,)]


def test_a_migration_that_fails_leaves_the_old_version(path: Path) -> None:
    """All of a migration happens, or nothing."""
    sql(path, "CREATE TABLE events (mine)")  # the second of our tables
    for _ in range(2):
        with pytest.raises(LedgerError):
            Ledger(path)
        assert sql(path, "PRAGMA user_version") == [(0,)]
        assert sql(path, "SELECT name FROM sqlite_schema") == [("events",)]


def test_every_statement_of_the_schema_is_executed(path: Path, ledger: Ledger) -> None:
    """Nothing in the scripts is lost when they are taken apart into statements."""
    ledger.counts()
    script = "".join(resources.files("common").joinpath(name).read_text("utf-8") for name in MIGRATIONS)
    made = {name for (name,) in sql(path, "SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")}
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(script)
        query = "SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
        assert made == {name for (name,) in connection.execute(query)}


def test_the_ledger_of_a_newer_stowgate_is_refused(path: Path) -> None:
    """A version that we do not know is left as it is, and the error says what it means."""
    Ledger(path).close()
    sql(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(LedgerVersionError, match=f"version {SCHEMA_VERSION + 1}.*newer Stowgate"):
        Ledger(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("obstacle", ["folder", "no folder above"])
def test_a_ledger_that_cannot_be_opened_says_so_at_once(tmp_path: Path, obstacle: str) -> None:
    """What waiting cannot mend is not waited for."""
    path = tmp_path / "somewhere" / "ledger.db"
    if obstacle == "folder":
        path.mkdir(parents=True)
    with pytest.raises(LedgerError):
        Ledger(path, busy_seconds=60)


def test_an_error_names_no_value_of_a_row(ledger: Ledger) -> None:
    """The text of a LedgerError is safe for a log, whatever SQLite complains about."""
    with pytest.raises(LedgerError) as raised:
        ledger.received(Receipt("a.dcm", CT, SCANNER, None))  # type: ignore[arg-type]
    assert str(raised.value) == "the ledger refuses the row (SQLITE_CONSTRAINT_NOTNULL)"


def test_a_closed_ledger_raises_its_own_error(ledger: Ledger) -> None:
    """Whoever uses a ledger after it was closed gets a LedgerError."""
    ledger.close()
    with pytest.raises(LedgerError):
        ledger.counts()


# Deleted while it is open


@pytest.mark.parametrize(
    "deleted", [("",), ("", "-wal"), ("", "-wal", "-shm")], ids=["ledger.db", "and -wal", "and -shm"]
)
def test_a_ledger_that_is_deleted_while_it_is_open_is_made_anew(path: Path, deleted: tuple[str, ...]) -> None:
    """Two processes go on with a new one, together, whichever of its files a person deleted."""
    command = [sys.executable, "-c", WRITE_BY_NAME, path]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as theirs:

        def let_them_record(name: str) -> None:
            assert theirs.stdin is not None
            assert theirs.stdout is not None
            theirs.stdin.write(f"{name}\n")
            theirs.stdin.flush()
            assert theirs.stdout.readline() == f"{name}\n"

        ours = Ledger(path, busy_seconds=1)
        for n in range(3):
            let_them_record(f"old{n}")
        for suffix in deleted:
            os.unlink(f"{path}{suffix}")
        ours.received(Receipt("a", CT, SCANNER, 10))
        let_them_record("b")
        ours.received(Receipt("c", CT, SCANNER, 10))
        assert list(ours.due_times(State.INCOMING)) == ["a", "b", "c"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ours.close()
    again = Ledger(path)
    assert list(again.due_times(State.INCOMING)) == ["a", "b", "c"]
    again.close()


def test_a_ledger_that_cannot_be_made_anew_is_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a full disk lets the new file be made but not filled, it is opened again next time, whatever its inode."""
    ledger = Ledger(path)
    for file in path.parent.iterdir():
        file.unlink()

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("common.ledger_database.migrate", full)
        with pytest.raises(LedgerError):
            ledger.counts()
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    assert history(ledger) == [Event.RECEIVED]
    ledger.close()


def test_a_second_ledger_in_a_process_costs_the_first_no_lock(path: Path) -> None:
    """Opening the file again does not make the kernel drop the locks that SQLite holds on it in this process."""
    first = Ledger(path)
    first.received(Receipt("a.dcm", CT, SCANNER, 10))
    Ledger(path).close()
    # The last connection of another process to close would now take away the log of the first.
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version')",
            path,
        ],
        check=True,
    )
    assert Path(f"{path}-wal").exists()
    first.received(Receipt("b.dcm", CT, SCANNER, 10))
    first.close()
    again = Ledger(path)
    assert list(again.due_times(State.INCOMING)) == ["a.dcm", "b.dcm"]
    again.close()


# Several at once


def test_processes_that_create_the_ledger_together_share_it(path: Path) -> None:
    """Processes that start at the same moment on a new spool all end up in one ledger, and lose no row."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE_TOGETHER, path, str(n)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sql(path, "SELECT count(*) FROM instances") == [(60,)]
    assert sql(path, "SELECT count(*) FROM events") == [(60,)]


def test_many_threads_write_at_once(ledger: Ledger, path: Path) -> None:
    """Threads of one process share the connection, and every row has its events."""
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for n in range(25):
                name = f"{thread}-{n}"
                ledger.received(Receipt(name, CT, SCANNER, n))
                ledger.retried([Outcome(name, 500)])
                ledger.sent([Outcome(name, 200)])
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert ledger.counts()[State.SENT] == 200
    assert sql(path, "SELECT event, count(*) FROM events GROUP BY event ORDER BY event") == [
        ("attempt", 200),
        ("received", 200),
        ("sent", 200),
    ]


def test_a_ledger_locked_by_another_process_is_waited_for_and_then_given_up(path: Path) -> None:
    """A writer elsewhere is waited for up to busy_seconds; reading goes on; when it is killed, so does writing."""
    ledger = Ledger(path, busy_seconds=0.1)
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    command = [sys.executable, "-c", HOLD_THE_LEDGER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        started = time.monotonic()
        with pytest.raises(LedgerError, match="SQLITE_BUSY"):
            ledger.received(Receipt("b.dcm", CT, SCANNER, 10))
        assert 0.1 <= time.monotonic() - started < 5
        assert ledger.counts()[State.INCOMING] == 1
        other.send_signal(signal.SIGKILL)
        other.wait()
    ledger.received(Receipt("b.dcm", CT, SCANNER, 10))
    assert ledger.counts()[State.INCOMING] == 2
    ledger.close()


class InTheWay:
    """A connection on which writing cannot begin so many times, for a reason that SQLite gives by its extended code."""

    def __init__(self, times: int, code: int) -> None:
        self.said: list[str] = []
        self._times, self._code = times, code

    def execute(self, statement: str) -> None:
        """Refuse to begin, or take note."""
        if statement == "BEGIN IMMEDIATE" and self._times:
            self._times -= 1
            error = sqlite3.OperationalError("somebody is in the way")
            error.sqlite_errorcode = self._code
            raise error
        self.said.append(statement)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY, sqlite3.SQLITE_BUSY_SNAPSHOT])
def test_whoever_is_in_the_way_is_waited_for(code: int) -> None:
    """A process that recovers the log after another was killed, too; SQLite's own patience is as it was afterwards."""
    connection = InTheWay(5, code)
    begin_writing(connection, 10.0)  # type: ignore[arg-type]
    assert connection.said == ["PRAGMA busy_timeout = 0", "BEGIN IMMEDIATE", "PRAGMA busy_timeout = 10000"]


def test_what_is_no_matter_of_waiting_is_not_waited_for() -> None:
    """An error of the disk is raised at once."""
    connection = InTheWay(1, sqlite3.SQLITE_IOERR_READ)
    with pytest.raises(sqlite3.OperationalError):
        begin_writing(connection, 10.0)  # type: ignore[arg-type]
    assert connection.said == ["PRAGMA busy_timeout = 0", "PRAGMA busy_timeout = 10000"]


def test_a_writer_that_is_done_in_time_is_not_noticed(path: Path) -> None:
    """A short transaction elsewhere delays ours and nothing more."""
    ledger = Ledger(path, busy_seconds=10)
    command = [sys.executable, "-c", HOLD_THE_LEDGER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        threading.Timer(0.2, other.kill).start()
        ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    assert history(ledger) == [Event.RECEIVED]
    ledger.close()


def test_a_process_that_is_killed_leaves_whole_transactions(path: Path) -> None:
    """After SIGKILL in the middle of writing, every row has its event, and the ledger opens."""
    command = [sys.executable, "-c", WRITE_TOGETHER.replace("range(20)", "range(10**6)"), str(path), "x"]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        other.stdin.write("go\n")
        other.stdin.flush()
        ledger = Ledger(path)
        while ledger.counts()[State.INCOMING] < 50:
            pass
        other.kill()
        other.wait()
    orphans = "SELECT count(*) FROM instances WHERE id NOT IN (SELECT instance_id FROM events)"
    assert sql(path, orphans) == [(0,)]
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    ledger.close()


# What is flushed


def test_a_durable_ledger_flushes_its_log_after_each_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is committed by then, and nobody returns before; its log's name is flushed too, once."""
    ledger, other = Ledger(path, durable=True), Ledger(path)
    flushed: list[str] = []
    fdatasync, fsync = os.fdatasync, os.fsync

    def note(flush: Callable[[int], None], fd: int) -> None:
        target = Path(os.readlink(f"/proc/self/fd/{fd}"))
        flushed.append(f"{target.name} with {len(other.latest(10))}")
        flush(fd)

    monkeypatch.setattr(os, "fdatasync", lambda fd: note(fdatasync, fd))
    monkeypatch.setattr(os, "fsync", lambda fd: note(fsync, fd))
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    assert flushed == [f"{path.name}-wal with 1", f"{path.parent.name} with 1"]
    ledger.received(Receipt("b.dcm", CT, SCANNER, 10))
    assert flushed[2:] == [f"{path.name}-wal with 2"]
    ledger.counts()
    other.received(Receipt("c.dcm", CT, SCANNER, 10))
    assert len(flushed) == 3
    ledger.close()
    other.close()


def test_while_a_log_is_flushed_others_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither another process nor another thread of this one waits for the disk."""
    ledger, other = Ledger(path, durable=True), Ledger(path, busy_seconds=0.1)
    inside: list[str] = []

    def flush(_: int) -> None:
        if not inside:
            inside.append("flushing")
            other.received(Receipt("b.dcm", CT, SCANNER, 10))
            ledger.received(Receipt("c.dcm", CT, SCANNER, 10))

    monkeypatch.setattr(os, "fdatasync", flush)
    ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    assert list(other.due_times(State.INCOMING)) == ["a.dcm", "b.dcm", "c.dcm"]
    ledger.close()
    other.close()


def test_a_log_that_cannot_be_flushed_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever would delete a file on the strength of the row is told that a power cut may take it."""
    ledger = Ledger(path, durable=True)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(LedgerError, match="flushed"):
            ledger.received(Receipt("a.dcm", CT, SCANNER, 10))
    ledger.received(Receipt("b.dcm", CT, SCANNER, 10))
    ledger.close()


def test_opening_waits_for_no_writer(tmp_path: Path) -> None:
    """Nor does it write: on a full disk a ledger that is there is read all the same."""
    path = tmp_path / "ledger.db"
    Ledger(path).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with contextlib.closing(Ledger(path, busy_seconds=0.1)) as ledger:
            assert ledger.latest(1) == []
