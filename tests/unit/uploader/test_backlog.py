"""What is owed: when a file becomes due, which files go together, and that none is lost or there twice."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.spool import Found, Signature
from uploader.backlog import Backlog, Origin, Place, Room

SETTLE = 2.0
PUBLISH = 0.1
OURS = "0123456789abcdef0123456789abcdef.dcm"
DROPPED = "scan.dcm"


def found(name: str = DROPPED, *, version: int = 0, size: int = 1000, is_file: bool = True) -> Found:
    return Found(name, Signature(1, size, version, version), is_file)


def backlog(large_bytes: int = 10**6) -> Backlog:
    return Backlog(SETTLE, PUBLISH, large_bytes=large_bytes)


def taken(it: Backlog, max_instances: int = 100, max_bytes: int = 1_000_000) -> list[str]:
    return [entry.name for entry in it.take(max_instances, max_bytes)]


def ripened(it: Backlog, now: float, there: dict[str, Found | None] | None = None) -> list[str]:
    """Let the loop's step happen for all whose time has come; their names."""
    names = it.ripe(now)
    for name in names:
        it.ripen(name, (there or {}).get(name, found(name)), now)
    return names


def in_hand(name: str = DROPPED, **seen: Any) -> Backlog:
    """A backlog with one file, which a delivery has in hand."""
    it = backlog()
    it.see(found(name), 0.0, closed=True, **seen)
    assert taken(it) == [name]
    return it


# A receiver's file


def test_a_receivers_file_of_a_scan_is_due_at_once() -> None:
    """A name that a receiver gave was renamed into place whole: a scan makes it due at once."""
    it = backlog()
    it.see(found(OURS), 5.0, scanned=True)
    (entry,) = it.take(10, 10**6)
    assert (entry.name, entry.trusted, entry.settled) == (OURS, True, False)


def test_a_receivers_file_of_an_event_gets_a_moment() -> None:
    """After the event of its rename it gets a moment, in which its receiver ends its claim."""
    it = backlog()
    it.see(found(OURS), 5.0)
    assert taken(it) == []
    assert it.next_due() == 5.0 + PUBLISH
    assert ripened(it, 5.0 + PUBLISH) == [OURS]
    assert taken(it) == [OURS]


def test_a_receivers_file_is_due_when_it_is_closed() -> None:
    """The close at the end of the receiver's claim makes it due at once."""
    it = backlog()
    it.see(found(OURS), 5.0)
    it.see(found(OURS), 5.01, closed=True)
    assert taken(it) == [OURS]


# A dropped file


def test_a_dropped_file_is_due_when_it_is_closed() -> None:
    """Whoever wrote it has closed it: it is due at once, and settled."""
    it = backlog()
    it.see(found(), 5.0)
    it.see(found(version=1), 5.5, closed=True)
    (entry,) = it.take(10, 10**6)
    assert (entry.settled, entry.trusted) == (True, False)


def test_a_dropped_file_is_due_when_it_is_quiet() -> None:
    """Unchanged for settle_seconds, it is due without being closed."""
    it = backlog()
    it.see(found(), 5.0)
    assert ripened(it, 5.0 + SETTLE - 0.01) == []
    assert ripened(it, 5.0 + SETTLE) == [DROPPED]
    (entry,) = it.take(10, 10**6)
    assert entry.settled


def test_a_dropped_file_that_changes_is_waited_for() -> None:
    """Each change starts settle_seconds again."""
    it = backlog()
    it.see(found(version=0), 0.0)
    for turn in range(1, 5):
        assert ripened(it, turn * SETTLE, {DROPPED: found(version=turn)}) == [DROPPED]
        assert taken(it) == []
    assert ripened(it, 5 * SETTLE, {DROPPED: found(version=4)}) == [DROPPED]
    assert taken(it) == [DROPPED]


def test_one_look_is_not_enough_to_call_a_file_quiet() -> None:
    """A file that was seen twice in the same moment and then changed must still be unchanged for settle_seconds."""
    it = backlog()
    it.see(found(version=0), 0.0)
    it.see(found(version=1), 0.0)
    for name in it.ripe(SETTLE):
        it.ripen(name, found(version=2), SETTLE)
    assert taken(it) == []


def test_what_is_no_file_is_due_at_once() -> None:
    """A link or FIFO does not change by being written to: it is due at once, for its quarantine."""
    it = backlog()
    it.see(found("link.dcm", is_file=False), 0.0, scanned=True)
    assert taken(it) == ["link.dcm"]


def test_a_file_that_is_gone_when_its_time_comes_is_dropped() -> None:
    """An entry whose file has gone leaves the backlog."""
    it = backlog()
    it.see(found(), 0.0)
    assert ripened(it, SETTLE, {DROPPED: None}) == [DROPPED]
    assert len(it) == 0


def test_a_new_file_under_an_old_name_is_waited_for() -> None:
    """A file that is replaced by one still being written is settled no longer, whether it was due or waiting."""
    for due in (0.0, 300.0):
        it = backlog()
        it.see(found(version=0), 0.0, closed=True, due=due)
        it.see(found(version=1), 10.0)
        assert taken(it) == []
        assert ripened(it, 10.0 + SETTLE, {DROPPED: found(version=1)}) == [DROPPED]
        assert taken(it) == [DROPPED]


@pytest.mark.parametrize("name", [OURS, DROPPED])
def test_an_event_about_the_same_bytes_changes_nothing(name: str) -> None:
    """A late or doubled event about a file as it is known ends no wait and no backoff."""
    it = in_hand(name)
    it.give_back(name, 1.0, 300.0)
    it.see(found(name), 2.0)
    it.see(found(name), 2.0, scanned=True)
    assert taken(it) == []
    assert it.next_due() == 301.0


# Due times


def test_a_due_time_of_the_ledger_is_kept() -> None:
    """A file that is new to us waits for the time that the ledger has for it."""
    it = backlog()
    it.see(found(OURS), 0.0, scanned=True, due=50.0)
    assert taken(it) == []
    assert ripened(it, 49.0) == []
    assert ripened(it, 50.0) == [OURS]
    assert taken(it) == [OURS]


def test_a_scan_does_not_touch_what_is_known() -> None:
    """A scan brings in only what is new: who waits goes on waiting."""
    it = in_hand()
    it.give_back(DROPPED, 0.0, 100.0)
    it.see(found(version=9), 10.0, scanned=True)
    assert taken(it) == []
    assert it.next_due() == 100.0


def test_a_scan_does_not_end_a_wait_that_is_decided_meanwhile() -> None:
    """A scan during a delivery is no event: the delay that the delivery asks for counts."""
    it = in_hand()
    it.see(found(), 0.5, scanned=True)
    it.give_back(DROPPED, 1.0, 100.0)
    assert taken(it) == []
    assert it.next_due() == 101.0


# Coming back from a delivery


def test_what_comes_back_is_due_after_its_delay() -> None:
    """give_back without a delay makes it due at once, behind those that were waiting."""
    it = backlog()
    for name in ("a", "b", "c"):
        it.see(found(name), 0.0, closed=True)
    (first,) = it.take(1, 10**6)
    it.give_back(first.name, 0.0)
    assert taken(it) == ["b", "c", "a"]


def test_a_receivers_file_closed_while_it_was_busy_comes_back_at_once() -> None:
    """The receiver's close while we failed to claim the file makes the delay void."""
    it = backlog()
    it.see(found(OURS), 0.0, scanned=True)
    assert taken(it) == [OURS]
    it.see(found(OURS), 0.01, closed=True)
    it.give_back(OURS, 0.02, 1.0)
    assert taken(it) == [OURS]


@pytest.mark.parametrize("closed", [False, True])
def test_a_file_replaced_while_in_hand_is_settled_only_if_closed(closed: bool) -> None:  # noqa: FBT001
    """What replaced the file while it was in hand is due at once if it was closed, else when it is quiet."""
    it = in_hand()
    it.see(found(version=1), 1.0, closed=closed)
    it.give_back(DROPPED, 1.5, 300.0)
    assert taken(it) == ([DROPPED] if closed else [])
    if not closed:
        assert ripened(it, 1.5 + SETTLE, {DROPPED: found(version=1)}) == [DROPPED]
        assert taken(it) == [DROPPED]


def test_what_was_settled_too_early_is_looked_at_anew() -> None:
    """unsettle makes a file wait until it is quiet, even one with a receiver's name."""
    it = in_hand(OURS)
    it.unsettle(OURS, found(OURS, version=1), 10.0)
    assert ripened(it, 10.0 + SETTLE, {OURS: found(OURS, version=1)}) == [OURS]
    (entry,) = it.take(10, 10**6)
    assert (entry.settled, entry.trusted) == (True, False)


def test_what_is_gone_cannot_be_unsettled() -> None:
    """unsettle of a file that is gone drops it."""
    it = in_hand()
    it.unsettle(DROPPED, None, 10.0)
    assert (len(it), it.in_hand) == (0, 0)


@pytest.mark.parametrize("happened", [False, True])
def test_what_is_done_leaves(happened: bool) -> None:  # noqa: FBT001
    """done drops the entry, and tells whether another file of that name has appeared meanwhile."""
    it = in_hand()
    if happened:
        it.see(found(version=1), 1.0)
    assert it.done(DROPPED, 1.0) is happened
    assert (len(it), it.in_hand) == (0, 0)


def test_nothing_comes_back_twice() -> None:
    """Returning what is not in hand does nothing."""
    it = in_hand()
    it.give_back(DROPPED, 0.0)
    it.give_back(DROPPED, 0.0, 99.0)
    it.unsettle(DROPPED, None, 0.0)
    assert it.done(DROPPED, 1.0) is False
    assert (len(it), it.in_hand, it.ready) == (1, 0, 1)


def test_a_scan_drops_what_is_gone_but_not_what_is_in_hand() -> None:
    """keep_only leaves what a delivery has in hand to that delivery."""
    it = backlog()
    for name in ("held", "gone", "there"):
        it.see(found(name), 0.0, closed=True)
    it.see(found("waiting"), 0.0)
    it.hold("held")
    it.keep_only({"there"})
    assert set(it.names()) == {"held", "there"}
    assert taken(it) == ["there"]
    assert ripened(it, 100.0) == []


# Batches


def sized(*sizes: int) -> Backlog:
    it = backlog(large_bytes=100)
    for number, size in enumerate(sizes):
        it.see(found(str(number), size=size), 0.0, closed=True)
    return it


@pytest.mark.parametrize(
    ("sizes", "instances", "size", "batches"),
    [
        ((1, 1, 1, 1, 1), 2, 100, ["01", "23", "4"]),
        ((40, 40, 40), 10, 100, ["01", "2"]),
        ((40, 60, 40), 10, 100, ["01", "2"]),
        ((500, 1, 1), 10, 100, ["12", "0"]),
        ((1, 500, 1), 10, 100, ["02", "1"]),
        ((100, 100), 10, 100, ["0", "1"]),
        ((0, 0, 0), 10, 100, ["012"]),
    ],
    ids=[
        "by number",
        "by size",
        "full to the byte",
        "one too large",
        "one too large later",
        "each full",
        "empty files",
    ],
)
def test_batches_keep_their_limits(sizes: tuple[int, ...], instances: int, size: int, batches: list[str]) -> None:
    """Neither number nor size is exceeded, but one too large goes alone, and holds up nobody."""
    it = sized(*sizes)
    assert ["".join(taken(it, instances, size)) for _ in batches] == batches
    assert taken(it, instances, size) == []


def test_who_was_in_a_request_that_failed_goes_with_its_like() -> None:
    """No batch is larger than the limit of those in it, and nobody else is in it; nobody waits for ever."""
    it = sized(*[1] * 9)
    for name, limit in (("1", 2), ("2", 2), ("3", 2), ("4", 1), ("5", 1)):
        entry = it.get(name)
        assert entry is not None
        entry.limit = limit
    assert ["".join(taken(it, 10, 100)) for _ in range(7)] == ["0", "12", "3", "4", "5", "678", ""]


def test_one_larger_than_a_request_may_be_now_goes_alone() -> None:
    """When the destination takes less than it used to, who is larger than that is tried by itself, in its turn."""
    it = sized(10, 60, 10, 10)
    assert ["".join(taken(it, 10, 50)) for _ in range(4)] == ["0", "1", "23", ""]


# Probes


def test_a_probe_is_who_met_the_least_trouble() -> None:
    """Among those that are due, the one with the fewest troubles, the longest waiting of them."""
    it = sized(1, 1, 1, 1)
    for name, troubles in zip("0123", (2, 1, 3, 1), strict=True):
        entry = it.get(name)
        assert entry is not None
        entry.troubles = troubles
    assert [entry.name for entry in iter(it.take_probe, None)] == ["1", "3", "0", "2"]


def test_a_fresh_probe_has_met_none() -> None:
    """With fresh, nobody goes who met trouble before."""
    it = sized(1, 1)
    for name in "01":
        entry = it.get(name)
        assert entry is not None
        entry.troubles = 1
    assert it.take_probe(fresh=True) is None
    it.see(found("new"), 0.0, closed=True)
    probe = it.take_probe(fresh=True)
    assert probe is not None
    assert probe.name == "new"


def test_a_probe_avoids_the_accused_while_there_is_another() -> None:
    """Who is accused is a probe only if nobody else is there, however little trouble it met."""
    it = sized(1, 1)
    entry = it.get("1")
    assert entry is not None
    entry.troubles = 5
    probes = [it.take_probe(avoid=frozenset("0")), it.take_probe(avoid=frozenset("0"))]
    assert [probe.name if probe else None for probe in probes] == ["1", "0"]
    assert it.take_probe() is None


def test_a_probe_among_many_is_found_in_little_time() -> None:
    """Only the first hundred are looked at; those behind them are as good as any."""
    it = sized(*[1] * 300)
    for number in range(200):
        entry = it.get(str(number))
        assert entry is not None
        entry.troubles = 1
    probe = it.take_probe()
    assert probe is not None
    assert int(probe.name) < 110


def test_others_are_those_that_are_not_named() -> None:
    """others_ready tells whether anybody else is due."""
    it = sized(1, 1)
    assert it.others_ready(["0"])
    assert not it.others_ready(["0", "1"])
    it.take_probe()
    assert not it.others_ready(["1"])


def test_hold_takes_one_wherever_it_waits() -> None:
    """hold takes an entry that is due or waiting, and none that is in hand or unknown."""
    it = backlog()
    it.see(found("due"), 0.0, closed=True)
    it.see(found("waiting"), 0.0)
    assert [it.hold(name) is not None for name in ("due", "waiting", "due", "unknown")] == [True, True, False, False]
    assert (it.in_hand, it.ready) == (2, 0)
    it.give_back("waiting", 1.0, 50.0)
    assert ripened(it, SETTLE) == []
    assert it.next_due() == 51.0


# All of it, at random


NAMES = [OURS, "f" * 32 + ".dcm", "a.dcm", "b.dcm", "sub/c.dcm"]


class BacklogMachine(RuleBasedStateMachine):
    """Every operation in any order: nothing is lost, nothing is in two places, nothing is taken out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.it = backlog(large_bytes=150)
        self.now = 0.0
        self.held: set[str] = set()
        self.known: set[str] = set()

    def _found(self, name: str, version: int) -> Found:
        return dataclasses.replace(found(name, version=version, size=100 * version))

    @rule(seconds=st.sampled_from([0.01, 0.5, SETTLE, 60.0]))
    def time_passes(self, seconds: float) -> None:
        """The clock goes on."""
        self.now += seconds

    @rule(
        name=st.sampled_from(NAMES),
        version=st.integers(0, 3),
        closed=st.booleans(),
        scanned=st.booleans(),
        due=st.sampled_from([0.0, 30.0]),
        origin=st.sampled_from([None, Origin("A", "s"), Origin("B", "t")]),
    )
    def see(  # noqa: PLR0917
        self,
        name: str,
        version: int,
        closed: bool,  # noqa: FBT001
        scanned: bool,  # noqa: FBT001
        due: float,
        origin: Origin | None,
    ) -> None:
        """A file is noticed."""
        self.it.see(
            self._found(name, version),
            self.now,
            closed=closed and not scanned,
            scanned=scanned,
            due=self.now + due if scanned and due else 0.0,
            origin=origin,
        )
        self.known.add(name)

    @rule(version=st.integers(0, 3), gone=st.booleans())
    def ripen(self, version: int, gone: bool) -> None:  # noqa: FBT001
        """Times come."""
        names = self.it.ripe(self.now)
        assert len(names) == len(set(names))
        for name in names:
            assert name not in self.held
            self.it.ripen(name, None if gone else self._found(name, version), self.now)
            if gone:
                self.known.discard(name)

    @rule(
        instances=st.integers(1, 4),
        size=st.sampled_from([50, 150]),
        requests=st.integers(1, 4),
        under_way=st.integers(0, 3),
        large=st.integers(0, 2),
    )
    def take(self, instances: int, size: int, requests: int, under_way: int, large: int) -> None:
        """A batch goes; somebody always does while nothing is under way."""
        before = self.it.ready
        batch = self.it.take(instances, size, room=Room(requests, under_way, large), now=self.now)
        if not under_way and not large:
            assert bool(batch) == bool(before)
        names = [entry.name for entry in batch]
        assert len(names) == len(set(names))
        assert len(batch) <= instances
        assert all(entry.limit is None or len(batch) <= entry.limit for entry in batch)
        assert len(batch) == 1 or sum(entry.signature.size_bytes for entry in batch) <= size
        assert not any(entry.large for entry in batch) or large < max(1, requests // 2)
        self._holds(names)

    @rule(fresh=st.booleans(), avoid=st.sets(st.sampled_from(NAMES)))
    def probe(self, fresh: bool, avoid: set[str]) -> None:  # noqa: FBT001
        """A probe goes."""
        before = self.it.ready
        entry = self.it.take_probe(fresh=fresh, avoid=frozenset(avoid))
        if not fresh:
            assert (entry is not None) == bool(before)
        if entry is not None:
            self._holds([entry.name])

    @rule(name=st.sampled_from(NAMES))
    def hold(self, name: str) -> None:
        """One is taken in hand to be charged."""
        expected = name in self.known and name not in self.held
        assert (self.it.hold(name) is not None) == expected
        if expected:
            self.held.add(name)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), delay=st.sampled_from([0.0, 1.0, 300.0]))
    def give_back(self, data: st.DataObject, delay: float) -> None:
        """A delivery hands one back."""
        name = self._one(data)
        self.it.give_back(name, self.now, delay)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), version=st.integers(0, 3), gone=st.booleans())
    def unsettle(self, data: st.DataObject, version: int, gone: bool) -> None:  # noqa: FBT001
        """A delivery found one still being written."""
        name = self._one(data)
        self.it.unsettle(name, None if gone else self._found(name, version), self.now)
        if gone:
            self.known.discard(name)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        """A delivery settled one."""
        name = self._one(data)
        self.it.done(name, self.now)
        self.known.discard(name)

    @rule(kept=st.sets(st.sampled_from(NAMES)))
    def scan(self, kept: set[str]) -> None:
        """A scan finds only some of them."""
        self.it.keep_only(kept)
        self.known &= kept | self.held

    @rule(name=st.sampled_from(NAMES), limit=st.sampled_from([None, 1, 2]), troubles=st.integers(0, 3))
    def blame(self, name: str, limit: int | None, troubles: int) -> None:
        """Somebody is blamed."""
        entry = self.it.get(name)
        if entry is not None:
            entry.limit, entry.troubles = limit, troubles

    @invariant()
    def none_is_lost_or_twice_there(self) -> None:
        """Every known file is in exactly one place, and the counts say so."""
        assert set(self.it.names()) == self.known
        assert len(self.it) == len(self.known)
        places: dict[Place, set[str]] = {place: set() for place in Place}
        for name in self.known:
            entry = self.it.get(name)
            assert entry is not None
            places[entry.place].add(name)
        assert places[Place.IN_HAND] == self.held
        assert self.it.in_hand == len(self.held)
        assert self.it.ready == len(places[Place.READY])

    @invariant()
    def who_waits_has_a_time(self) -> None:
        """The loop wakes no later than the first one that waits."""
        waiting = [entry.due for entry in self._entries() if entry.place is Place.WAITING]
        if waiting:
            due = self.it.next_due()
            assert due is not None
            assert due <= min(waiting)

    def teardown(self) -> None:
        """In the end everything that is still owed can be taken: nothing is stuck."""
        for name in list(self.held):
            self.it.give_back(name, self.now, 5.0)
        self.held.clear()
        for _ in range(4):
            self.now += 1000.0
            for name in self.it.ripe(self.now):
                self.it.ripen(name, self._found(name, 1), self.now)
        left = set(self.known)
        while batch := self.it.take(2, 100):
            left -= {entry.name for entry in batch}
        assert not left

    def _entries(self) -> Iterable[Any]:
        return [entry for name in self.known if (entry := self.it.get(name)) is not None]

    def _holds(self, names: list[str]) -> None:
        assert not self.held & set(names)
        assert set(names) <= self.known
        self.held |= set(names)

    def _one(self, data: st.DataObject) -> str:
        name = data.draw(st.sampled_from(sorted(self.held)))
        self.held.discard(name)
        return name


BacklogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBacklogAtRandom = BacklogMachine.TestCase
