"""Whom a trouble is blamed on: evidence, conviction, and the care that an outage is held against nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.spool import Found, Signature
from uploader.backlog import Backlog, Entry
from uploader.blame import Blame
from uploader.destination import Destination, Mode
from uploader.verdict import Trouble

FAILS = Trouble("HTTP 500", 500, suspect=True)
AWAY = Trouble("cannot connect")


class Court:
    """A backlog in which everything is due, the destination, and the blame between them; the clock is `now`."""

    def __init__(self, names: str | list[str]) -> None:
        self.backlog = Backlog(2.0)
        for name in names:
            self.backlog.see(Found(name, Signature(1, 1, 0, 0), is_file=True), 0.0, closed=True)
        self.destination = Destination(1.0, 300.0, jitter=lambda: 1.0)
        self.blame = Blame(self.backlog, self.destination)
        self.now = 0.0

    def entry(self, name: str) -> Entry:
        """The entry of that name, which is there."""
        entry = self.backlog.get(name)
        assert entry is not None
        return entry

    def fails(
        self,
        *names: str,
        trouble: Trouble = FAILS,
        begun: float | None = None,
        probe: bool = False,
        under_way: bool = False,
    ) -> bool:
        """A request with these meets trouble; True if the one in it is charged."""
        if probe:
            self.destination.probe_sent()
        held = [name for name in names if self.backlog.hold(name) is not None]
        begun = self.now if begun is None else begun
        charged = self.blame.troubled(trouble, names, begun, self.now, probe=probe, under_way=under_way)
        for name in held:
            self.backlog.give_back(name, self.now)
        return charged

    def passes(self, *names: str, probe: bool = False) -> str | None:
        """A delivery of these is answered; the name of who is charged."""
        if probe:
            self.destination.probe_sent()
        for name in names:
            if self.backlog.hold(name) is not None:
                self.backlog.done(name, self.now)
        accused = self.blame.answered(frozenset(names), self.now, probe=probe)
        return accused.names[0] if accused else None


def test_who_fails_alone_while_another_passes_is_charged_and_goes_alone() -> None:
    """The base of it all: it fails alone, another one passes right after it."""
    court = Court("pxy")
    assert not court.fails("p")
    assert court.destination.mode is Mode.DOUBTED
    assert court.passes("x", probe=True) == "p"
    assert court.entry("p").limit == 1


def test_who_was_charged_is_charged_again_without_asking_another() -> None:
    """A convicted instance that fails alone again is charged at once, and the destination stays open."""
    court = Court("pxy")
    court.fails("p")
    court.passes("x", probe=True)
    assert court.fails("p")
    assert court.destination.mode is Mode.OPEN


def test_a_batch_that_fails_is_halved() -> None:
    """Files of a request that failed go in requests of half its size, down to one; nobody is charged for the others."""
    names = [str(number) for number in range(9)]
    court = Court([*names, "x"])
    court.fails(*names)
    assert {court.entry(name).limit for name in names} == {4}
    assert court.passes("x", probe=True) is None
    assert {court.entry(name).troubles for name in names} == {1}
    court.fails(*names[:3])
    assert [court.entry(name).limit for name in names[:4]] == [1, 1, 1, 4]


def test_a_trouble_of_the_destination_halves_nothing() -> None:
    """What cannot come from an instance leaves batches as they are."""
    court = Court("abx")
    court.fails("a", "b", trouble=AWAY)
    assert court.entry("a").limit is None


def test_the_last_that_is_left_of_a_request_that_failed_is_charged() -> None:
    """When all the others of a request have passed right after it failed, the one that is left is the culprit."""
    court = Court("bp")
    court.fails("b", "p")
    assert court.passes("b", probe=True) == "p"


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 20, 50, 64, 1000])
@pytest.mark.parametrize("last", [False, True])
def test_the_culprit_is_found_by_halving_and_no_companion_is_charged(size: int, last: bool) -> None:  # noqa: FBT001
    """In halves, the innocent pass, the culprit is left; failing alone then, it is charged with nobody else to ask."""
    innocent = [f"{number}" for number in range(size - 1)]
    court = Court([*innocent, "p", "x"])
    group = [*innocent, "p"]
    assert not court.fails(*group)
    assert court.passes("x", probe=True) is None
    while len(group) > 1:
        half = max(1, len(group) // 2)
        group, passing = (group[half:], group[:half]) if last else (group[-half:], group[:-half])
        assert court.passes(*passing) is None
    assert group == ["p"]
    assert court.fails("p")
    assert court.destination.mode is Mode.OPEN


def test_whoever_is_not_the_last_of_its_request_is_asked_for() -> None:
    """As long as two are left of a request that failed, neither is charged for failing alone: it may be an outage."""
    court = Court("abpx")
    court.fails(*"abp")
    court.passes("x", probe=True)
    court.passes("b")
    assert not court.fails("a")
    assert court.destination.mode is Mode.DOUBTED


def test_a_companion_of_a_large_batch_is_not_convicted() -> None:
    """Having been in a large request that failed is not enough to be charged for failing alone."""
    court = Court("abcdepx")
    court.fails(*"abcdep")
    court.passes("x", probe=True)
    assert not court.fails("a")
    assert court.destination.mode is Mode.DOUBTED


def test_who_fails_alone_again_after_another_passed_is_convicted() -> None:
    """Without anybody to ask at the time: it failed alone, later another one passed, and it fails alone again."""
    court = Court("p")
    assert not court.fails("p")
    assert court.destination.mode is Mode.PAUSED
    court.now = 20.0
    court.passes("x", probe=True)
    court.now = 20.1
    assert court.fails("p")


def test_a_pass_long_before_proves_nothing_now() -> None:
    """A conviction is used only for a minute after another one passed: an outage can begin at any time."""
    court = Court("pxy")
    court.fails("p")
    court.passes("x", probe=True)
    court.now = 59.0
    assert court.fails("p")
    court.now = 61.0
    assert not court.fails("p")
    assert court.destination.mode is Mode.DOUBTED


def test_a_request_that_takes_long_counts_from_its_beginning() -> None:
    """A timeout of minutes does not make the pass before it old: what counts is when the request went out."""
    court = Court("pxy")
    court.fails("p")
    court.passes("x", probe=True)
    court.now = 400.0
    assert court.fails("p", begun=30.0)


@pytest.mark.parametrize(("seconds", "charged"), [(4.9, True), (5.1, False)])
def test_evidence_is_what_passes_soon_after(seconds: float, charged: bool) -> None:  # noqa: FBT001
    """Who failed longer ago than a moment, when another one passes, may have failed in an outage."""
    court = Court("pbxy")
    court.fails("p", "b")
    court.fails("y", probe=True)
    assert court.destination.mode is Mode.PAUSED
    court.now = seconds
    court.passes("x", probe=True)
    court.passes("b")
    assert court.fails("p") is charged


def test_a_straggler_that_fails_is_evidence_too() -> None:
    """Requests that fail while there is doubt count as the one that raised it, when another one passes."""
    court = Court("qpabx")
    court.fails("q")
    court.fails("p", "b")
    assert court.passes("x", probe=True) == "q"
    court.passes("b")
    assert court.fails("p")


def test_a_straggler_that_passes_is_innocent() -> None:
    """Whoever passes is no suspect any more, though its answer is no proof that the destination is well."""
    court = Court("pbqx")
    court.fails("p", "b")
    court.passes("x", probe=True)
    court.fails("q")
    court.passes("b")
    assert court.destination.mode is Mode.DOUBTED
    court.passes("y", probe=True)
    assert court.fails("p")


def test_evidence_is_forgotten_after_a_quarter_of_an_hour() -> None:
    """What failed long ago is held against nobody."""
    court = Court("pbx")
    court.fails("p", "b")
    court.passes("x", probe=True)
    court.now = 901.0
    court.passes("b")
    assert not court.fails("p")


def test_who_is_still_under_way_may_tell() -> None:
    """With nobody ready but others under way, it is too early for a pause: their answers may show who is innocent."""
    court = Court("p")
    assert not court.fails("p", under_way=True)
    assert court.destination.mode is Mode.DOUBTED
    assert not court.fails("p", probe=True)
    assert court.destination.mode is Mode.PAUSED


def test_in_an_outage_nobody_is_charged_however_guilty_before() -> None:
    """While the destination is paused, a convicted instance that fails as a probe is not charged."""
    court = Court("pxyz")
    court.fails("p")
    court.passes("x", probe=True)
    court.fails("y", trouble=AWAY)
    assert court.destination.mode is Mode.PAUSED
    for _ in range(20):
        court.now += 1.0
        assert not court.fails("p", probe=True)
    assert court.destination.mode is Mode.PAUSED


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=60), st.booleans())
def test_an_outage_charges_nobody(probes: list[str], batch: bool) -> None:  # noqa: FBT001
    """Beginning out of the blue and lasting for any number of probes, an outage costs nobody an attempt."""
    court = Court("abcde")
    court.passes("x")
    court.now = 1.0
    assert not court.fails(*("abc" if batch else "a"))
    for name in probes:
        if court.destination.mode is Mode.PAUSED:
            court.now = court.destination.next_probe_at or court.now
        assert not court.fails(name, probe=True)


def test_whoever_is_gone_is_blamed_without_harm() -> None:
    """A file that has left the backlog can be in a request that fails or passes."""
    court = Court("x")
    assert not court.fails("gone", "away")
    assert not court.fails("gone", probe=True)
    court.passes("x", probe=True)
    court.blame.corner(("gone", "away"))
