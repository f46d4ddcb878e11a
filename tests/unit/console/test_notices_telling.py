"""What is seen as trouble, and when it is told: the state machine, in simulated time."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from common.config import NotifyConfig
from common.ledger_reader import Heap
from common.presence import Process
from common.records import State
from console.notices.signs import KEYS, Level, Sign, signs
from console.notices.telling import Notice, Told, step
from console.overview import DestinationView, Disk, Overview, Severity, Trouble

START = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)
GB = 1_000_000_000
SETTINGS = NotifyConfig()


class People:
    """Those who are told, and a clock that moves by five seconds for each look."""

    def __init__(self, repeat_seconds: float = 14400.0) -> None:
        self.told = Told()
        self.now = START
        self.notices: list[Notice] = []
        self._repeat = repeat_seconds

    def see(self, found: dict[str, Sign], seconds: float) -> None:
        """Look at the same for so long."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            self.told, notice = step(self.told, found, self.now, self._repeat)
            if notice is not None:
                self.notices.append(notice)
            self.now += timedelta(seconds=5)

    @property
    def said(self) -> list[list[tuple[str, str]]]:
        """What each notice said: words and changes."""
        return [[(line.key, line.change.value) for line in notice.lines] for notice in self.notices]


def there(*keys: str, hold: float = 0.0) -> dict[str, Sign]:
    return {key: Sign(Level.THERE, hold, Severity.ERROR, key, f"{key}.", "do") for key in keys}


def between(key: str) -> dict[str, Sign]:
    return {key: Sign(Level.BETWEEN, 0.0, Severity.ERROR, key)}


def test_trouble_is_told_once_and_so_is_its_end() -> None:
    """One notice when it comes, one when it is over, none between."""
    people = People()
    people.see({}, 600)
    people.see(there("paused"), 1800)
    people.see({}, 600)
    assert people.said == [[("paused", "new")], [("paused", "over")]]
    assert people.notices[0].lines[0].since == START + timedelta(seconds=600)
    assert people.notices[1].lines[0].advice == ""


def test_trouble_that_lasts_is_repeated() -> None:
    """Every repeat_seconds, and not sooner."""
    people = People(repeat_seconds=3600)
    people.see(there("paused"), 3 * 3600 + 60)
    assert people.said == [[("paused", "new")], *[[("paused", "lasting")]] * 3]
    assert people.notices[1].at - people.notices[0].at >= timedelta(seconds=3600)


def test_what_comes_together_is_one_notice() -> None:
    """The first waits a moment for the others."""
    people = People()
    people.see(there("spool"), 5)
    people.see(there("spool", "ledger"), 5)
    people.see(there("spool", "ledger", "no-uploader"), 60)
    assert [sorted(said) for said in people.said] == [[("ledger", "new"), ("no-uploader", "new"), ("spool", "new")]]


def test_between_two_notices_is_a_minute() -> None:
    """What comes up meanwhile is gathered."""
    people = People()
    people.see(there("a"), 20)
    people.see(there("a", "b"), 20)
    people.see(there("a", "b", "c"), 100)
    assert people.said == [[("a", "new")], [("b", "new"), ("c", "new")]]
    assert people.notices[1].at - people.notices[0].at >= timedelta(seconds=60)


def test_reminders_come_together() -> None:
    """One for all that lasts, though they were told at different times."""
    people = People(repeat_seconds=3600)
    people.see(there("a"), 1800)
    people.see(there("a", "b"), 3600)
    assert people.said == [[("a", "new")], [("b", "new")], [("a", "lasting"), ("b", "lasting")]]


def test_what_passes_before_it_has_lasted_is_not_told() -> None:
    """A receiver that is restarted is nothing to be woken for."""
    people = People()
    people.see(there("no-receiver", hold=60), 40)
    people.see({}, 600)
    assert people.said == []
    assert people.told.seen == {}


def test_a_process_that_keeps_dying_is_told() -> None:
    """It is there for a moment after each start, which does not begin the waiting anew."""
    people = People()
    for _ in range(12):
        people.see(there("no-receiver", hold=60), 10)
        people.see({}, 5)
    assert people.said == [[("no-receiver", "new")]]


def test_what_flaps_becomes_one_long_trouble() -> None:
    """Each time it comes back it has to be gone for longer before it is called over."""
    people = People()
    for _ in range(60):
        people.see(there("paused"), 120)
        people.see({}, 120)
    assert len(people.said) == 3, "new, over, new: from then on the calm of 120 s is too short"
    people.see({}, 3600)
    assert people.said[-1] == [("paused", "over")]


def test_after_a_quiet_hour_it_is_forgotten_that_it_flapped() -> None:
    """The next trouble is over after a minute again."""
    people = People()
    for _ in range(2):
        people.see(there("paused"), 60)
        people.see({}, 2 * 3600)
    assert people.told.seen == {}
    people.see(there("paused"), 60)
    people.see({}, 90)
    assert people.said[-1] == [("paused", "over")]


def test_what_lies_between_changes_nothing() -> None:
    """Told trouble stays told, and what was not there does not begin."""
    people = People(repeat_seconds=3600)
    people.see(between("disk-low"), 600)
    assert people.said == []
    people.see(there("disk-low"), 60)
    people.see(between("disk-low"), 3660)
    assert people.said == [[("disk-low", "new")], [("disk-low", "lasting")]]
    people.see(there("disk-low"), 600)
    assert len(people.said) == 2


def test_a_clock_that_is_set_back_silences_nobody() -> None:
    """Moments that are still to come count as now: the next trouble is told, what lasts is repeated."""
    people = People(repeat_seconds=3600)
    people.see(there("a"), 60)
    people.now -= timedelta(days=400)
    people.see(there("a", "b"), 200)
    people.see(there("a", "b"), 3600)
    assert people.said == [[("a", "new")], [("b", "new")], [("a", "lasting"), ("b", "lasting")]]


def test_a_clock_that_is_set_back_while_something_waits_to_be_told() -> None:
    """It is told after its hold."""
    people = People()
    people.see(there("no-receiver", hold=60), 30)
    people.now -= timedelta(days=1)
    people.see(there("no-receiver", hold=60), 90)
    assert people.said == [[("no-receiver", "new")]]


def test_the_worst_is_said_first() -> None:
    """New before lasting before over, errors before warnings."""
    people = People(repeat_seconds=60)
    people.see(there("z"), 15)
    people.see({**there("z", "b"), "a": Sign(Level.THERE, 0.0, Severity.WARNING, "a", "a.", "do")}, 100)
    first, second, *_ = people.said
    assert first == [("z", "new")]
    assert second == [("b", "new"), ("a", "new"), ("z", "lasting")]


# --- What is seen


def overview(
    *,
    mode: str = "open",
    since: float | None = None,
    free: int = 100 * GB,
    troubles: Iterable[str] = (),
    ledger_error: str = "",
) -> Overview:
    return Overview(
        at=START,
        destination=DestinationView(
            "http://x", mode, since=None if since is None else START - timedelta(seconds=since), http_status=503
        ),
        heaps={state: Heap() for state in State},
        processes=tuple(Process(role, 1, "h", START, START) for role in ("receiver", "uploader")),
        disk=Disk(500 * GB, free, GB),
        ledger_error=ledger_error,
        troubles=tuple(Trouble(key, Severity.ERROR, f"{key}.", "do") for key in troubles),
    )


def level(key: str, seen: Overview, quarantined: int | None = 0, settings: NotifyConfig = SETTINGS) -> Level:
    return signs(seen, quarantined, settings)[key].level


@pytest.mark.parametrize(
    ("mode", "since", "expected"),
    [
        ("open", 10, Level.GONE),
        ("paused", 299, Level.BETWEEN),
        ("paused", 301, Level.THERE),
        ("paused", None, Level.THERE),
        ("doubted", 1000, Level.BETWEEN),
        ("unknown", None, Level.BETWEEN),
    ],
)
def test_a_pause_counts_from_its_beginning(mode: str, since: float | None, expected: Level) -> None:
    """Told after paused_seconds; whoever does not know says nothing new."""
    seen = overview(mode=mode, since=since, troubles=["paused"] if mode == "paused" else [])
    assert level("paused", seen) is expected


def test_a_pause_without_a_beginning_has_to_be_seen_for_that_long() -> None:
    """An uploader that does not say since when."""
    assert signs(overview(mode="paused", troubles=["paused"]), 0, SETTINGS)["paused"].hold == SETTINGS.paused_seconds


@pytest.mark.parametrize(
    ("free", "low", "full"),
    [
        (100 * GB, Level.GONE, Level.GONE),
        (5_400_000_000, Level.BETWEEN, Level.GONE),
        (4_999_999_999, Level.THERE, Level.GONE),
        (1_050_000_000, Level.THERE, Level.BETWEEN),
        (999_999_999, Level.BETWEEN, Level.THERE),
    ],
)
def test_a_disk_fills_in_two_steps_and_has_to_be_relieved(free: int, low: Level, full: Level) -> None:
    """Below low_disk, and again below min_free; relieved with a tenth more than the limit."""
    assert (level("disk-low", overview(free=free)), level("disk-full", overview(free=free))) == (low, full)


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [
        (10, 10, Level.THERE),
        (9, 10, Level.BETWEEN),
        (5, 10, Level.GONE),
        (1, 1, Level.THERE),
        (0, 1, Level.GONE),
        (1000, 0, Level.GONE),
        (None, 10, Level.BETWEEN),
    ],
)
def test_a_quarantine_grows_by_so_many_in_an_hour(count: int | None, limit: int, expected: Level) -> None:
    """Half as many are calm again; 0 turns it off."""
    settings = NotifyConfig(quarantine_per_hour=limit)
    assert level("quarantine-growing", overview(), count, settings) is expected


@pytest.mark.parametrize("key", ["spool", "ledger", "no-receiver", "no-uploader", "silent-receiver", "silent-uploader"])
def test_what_does_not_work_is_seen(key: str) -> None:
    """As the overview tells it."""
    sign = signs(overview(troubles=[key]), 0, SETTINGS)[key]
    assert (sign.level, sign.text) == (Level.THERE, f"{key}.")
    assert level(key, overview()) is Level.GONE


def test_nothing_is_concluded_from_a_ledger_that_cannot_be_read() -> None:
    """Instances that wait for long may do so still."""
    assert level("old", overview(ledger_error="x", troubles=["ledger"])) is Level.BETWEEN


def test_all_kinds_are_looked_at_each_time() -> None:
    """What is missing would count as gone."""
    assert signs(overview(), None, SETTINGS).keys() == KEYS
