"""The parts that the web page is made of: pages of the ledger, charts, words, undertakings, what is looked at."""

import hashlib
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.config import Config
from common.instance import Instance
from common.ledger import Ledger
from common.ledger_pages import Filter, LedgerPages, Sort
from common.ledger_reader import LATENCIES
from common.records import Cause, Event, Outcome, State
from common.spool import Spool
from console.activity import Minute
from console.links import NoKeyError, make_token
from console.looking import Depth, Looking
from console.overview import DestinationView, Overview, Severity, Trouble
from console.users import Users, UsersError, is_name
from console.web import charts, words
from console.web.overview import verdict
from console.web.undertakings import Undertakings, Verb
from support.pipeline import ROOT, wait_for

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty one."""
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


def quarantine(spool: Spool, number: int, cause: Cause = Cause.REFUSED, patient_id: str = "P") -> str:
    """Put a file into quarantine; its name."""
    ledger = Ledger(spool.ledger)
    name = f"{number:032x}.dcm"
    (spool.incoming / name).write_bytes(b"bytes")
    ledger.adopt(name, Instance("1.2", f"1.2.{number}", "1.2.840.10008.1.2.1", patient_id, "1.9", "1.9.1", "CT"), 5)
    with spool.quarantine.reserve(name) as slot:
        slot.write_reason({"cause": cause.value})
        ledger.quarantined(Outcome(name, 409, cause, "no"), slot.name, attempts=1)
        slot.move()
    ledger.close()
    return name


# The ledger by pages


def test_pages_are_sorted_and_cut_and_leave_nothing_out(spool: Spool) -> None:
    """Rows that are equal in what is sorted by keep one order, so that each is on one page."""
    for number in range(7):
        quarantine(spool, number, patient_id=f"P{number % 2}")
    pages = LedgerPages(spool.ledger)
    seen = [
        [row.id for row in pages.quarantine(Filter(), Sort.PATIENT, descending=True, offset=offset, limit=3)]
        for offset in (0, 3, 6)
    ]
    assert seen == [[6, 4, 2], [7, 5, 3], [1]]


@pytest.mark.parametrize(
    ("which", "found"),
    [
        (Filter(), {1, 2, 3}),
        (Filter(cause=Cause.CONFLICT), {3}),
        (Filter(sender=""), {1, 2, 3}),
        (Filter(sender="OCT"), set()),
        (Filter(study="1.9"), {1, 2, 3}),
        (Filter(text="pa_2"), {2}),
        (Filter(text="1.2.1"), {1}),
        (Filter(text="%"), set()),
        (Filter(text="a!"), {3}),
        (Filter(upto=2), {1, 2}),
    ],
)
def test_a_filter_finds_what_it_says(spool: Spool, which: Filter, found: set[int]) -> None:
    """In any case, and with no sign of SQL in a text."""
    quarantine(spool, 1, patient_id="PAx1")
    quarantine(spool, 2, patient_id="PA_2")
    quarantine(spool, 3, Cause.CONFLICT, patient_id="PA!3")
    pages = LedgerPages(spool.ledger)
    rows = pages.quarantine(which, Sort.QUARANTINED, descending=False, offset=0, limit=10)
    assert {row.id for row in rows} == found
    assert pages.found(which).instances == len(found) == len(pages.names(which))


# Undertakings


def test_an_undertaking_does_what_it_can_and_says_why_not(spool: Spool) -> None:
    """What a person took away meanwhile is told, and the others are done."""
    names = [quarantine(spool, number) for number in range(5)]
    (spool.quarantine.path / names[2]).unlink()
    one = Undertakings(spool).start(Verb.RELEASE, names, "anna")
    assert one.finished.wait(20)
    assert (one.done, one.failed) == (4, 1)
    assert one.failures == {names[2]: "it is not in quarantine/ any more"}
    ledger = Ledger(spool.ledger)
    assert ledger.events(names[0])[-1].event is Event.RELEASED
    assert ledger.events(names[0])[-1].detail == "by anna"
    ledger.close()


def test_an_undertaking_without_a_ledger_does_nothing(spool: Spool) -> None:
    """It ends, and says so."""
    name = quarantine(spool, 1)
    for path in spool.directory.glob("ledger.db*"):
        path.unlink()
    spool.ledger.mkdir()
    one = Undertakings(spool).start(Verb.DISCARD, [name], "anna")
    assert one.finished.wait(20)
    assert (one.done, one.failed) == (0, 1)
    assert (spool.quarantine.path / name).exists()


# What is looked at


def make_looking(seconds: list[float], cost: float = 0.0) -> tuple[Looking, list[int]]:
    looks: list[int] = []

    def look(_config: Config) -> Overview:
        looks.append(1)
        seconds[0] += cost
        return Overview(NOW, DestinationView("http://x"), ledger_error="away")

    return Looking(Config(Path("x")), look, lambda: seconds[0]), looks


def test_many_look_once() -> None:
    """Within a second all get the same; afterwards it is looked again."""
    clock = [0.0]
    looking, looks = make_looking(clock)
    for _ in range(5):
        looking.overview()
    assert len(looks) == 1
    clock[0] = 1.1
    looking.overview()
    assert len(looks) == 2


def test_looking_takes_a_fifth_of_the_time_at_most() -> None:
    """Where one look takes two seconds, the next is not before ten have passed."""
    clock = [0.0]
    looking, looks = make_looking(clock, cost=2.0)
    looking.overview()
    clock[0] = 11.0
    looking.overview()
    assert len(looks) == 1
    clock[0] = 12.1
    looking.overview()
    assert len(looks) == 2


# Charts


def minutes(count: int = 60, **of_each: int) -> list[Minute]:
    within = (0, of_each.get("sent", 0) // 2) + (of_each.get("sent", 0),) * (len(LATENCIES) - 2)
    return [Minute(NOW + timedelta(minutes=at), within=within, **of_each) for at in range(count)]


def test_a_chart_says_in_words_and_in_a_table_what_it_draws() -> None:
    """Who cannot see it loses nothing."""
    chart = charts.throughput(minutes(received=3, sent=2), 5, lambda at: at.strftime("%H:%M"))
    assert chart.summary == "180 instances received and 120 sent in this time."
    assert chart.top == "5 instances"
    assert len(chart.rows) == 12
    assert chart.rows[0] == ("12:55", "15", "10", "0")
    assert all(re.fullmatch(r"[MLHZ0-9. ]*", one.path) for one in chart.series)


def test_latencies_are_estimated_from_what_was_counted() -> None:
    """Half within the bound that half of them took at most."""
    chart = charts.latency(minutes(sent=10), 5, lambda at: at.strftime("%H:%M"))
    assert chart.summary == "Half were sent within 0.5 s, 95 % within 0.9 s."
    assert charts.quantile(0.5, 0, (0,) * len(LATENCIES)) is None


def test_times_without_anything_are_gaps_and_not_zeros() -> None:
    """Nothing is drawn where nothing is known."""
    times = [NOW + timedelta(minutes=at) for at in range(60)]
    notes = [Depth(NOW + timedelta(minutes=30, seconds=at), at, 2.0 * at) for at in range(30)]
    chart = charts.depth(notes, times, 5, lambda at: at.strftime("%H:%M"))
    assert chart.summary == "At most 29 waited, the oldest for up to 58 s."
    assert ("12:30", "29", "58 s") in chart.rows
    assert ("12:00", "not noted", "not noted") in chart.rows


# Words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "no time"), (0.4, "less than a second"), (61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h")],
)
def test_a_while_is_said_in_its_largest_units(seconds: float, said: str) -> None:
    """Two of them at most."""
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (999_999, "1.0 MB"), (5e9, "5.0 GB")]
)
def test_a_size_is_said_in_the_unit_that_fits(count: float, said: str) -> None:
    """Of a thousand, like the settings."""
    assert words.size(count) == said


def test_there_are_words_for_every_state_event_and_cause() -> None:
    """A new one cannot be forgotten."""
    assert {*words.CAUSES} == {*Cause}
    assert {*words.STATES} == {*State}
    assert {*words.EVENTS} == {*Event}


def test_the_verdict_names_the_worst_and_counts_the_rest() -> None:
    """One sentence."""
    paused = Trouble("paused", Severity.ERROR, "The destination is paused (HTTP 503): down.", "Wait.")
    some = Trouble("quarantine", Severity.WARNING, "5 instances are in quarantine.", "Look.")
    assert verdict(()) == "All is well."
    assert verdict((some,)) == "It works, but look: 5 instances are in quarantine."
    assert verdict((paused, some)) == "Not all is well: the destination is paused, and 1 more thing to see."


# Users and links


@pytest.mark.parametrize(
    "text", ["anna", "anna:", "anna:plain", ":scrypt:1:2:3$a$ff", "anna:pbkdf2:sha256:1$a$ff", "\udcff"]
)
def test_a_broken_file_of_users_is_refused_and_not_quoted(tmp_path: Path, text: str) -> None:
    """It says which line; nobody gets in by a line that means nothing."""
    path = tmp_path / "users"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsersError) as raised:
        Users(path).read()
    assert "plain" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("anna", True),
        ("a.b@c", True),
        ("Jörg B", True),
        ("a:b", False),
        ("", False),
        ("a\n", False),
        (" a", False),
        ("x" * 65, False),
    ],
)
def test_names_fit_into_a_line(name: str, fits: bool) -> None:  # noqa: FBT001
    """Nothing that would end the line or the name."""
    assert is_name(name) is fits


def test_without_a_page_there_is_no_link(spool: Spool) -> None:
    """It says what to start."""
    with pytest.raises(NoKeyError, match="console serve"):
        make_token(spool.directory, "anna")


def test_htmx_is_the_file_that_its_readme_names() -> None:
    """Byte for byte."""
    folder = ROOT / "console" / "web" / "static"
    digest = hashlib.sha256((folder / "htmx.min.js").read_bytes()).hexdigest()
    assert digest in (folder / "README.md").read_text()


def test_the_pictures_of_the_documentation_are_there_and_small() -> None:
    """Each that docs/web-page.md shows, and 200 KB of each at most."""
    shown = re.findall(r"\((images/[^)]+)\)", (ROOT / "docs" / "web-page.md").read_text())
    assert shown
    assert all((ROOT / "docs" / path).stat().st_size <= 200_000 for path in shown)


def test_a_worker_that_fails_is_begun_anew_and_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens to one, the page is there."""
    from console import serving  # noqa: PLC0415

    monkeypatch.setattr(serving, "_AGAIN_SECONDS", 0.01)
    runs: list[int] = []

    class Failing:
        def run(self, stopped: threading.Event) -> None:
            runs.append(1)
            if len(runs) < 3:
                raise ValueError
            stopped.wait()

    stopped = threading.Event()
    work: Callable[..., None] = serving._work
    thread = threading.Thread(target=work, args=("failing", Failing(), stopped), daemon=True)
    thread.start()
    wait_for(lambda: len(runs) == 3)
    stopped.set()
    thread.join(5)
    assert not thread.is_alive()
