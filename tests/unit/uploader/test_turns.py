"""Whose turn it is: that nobody starves and nobody is favoured, that requests are full, and what a turn costs."""

import heapq
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.spool import Found, Signature
from uploader.backlog import ALONE, Backlog, Entry, Origin, Room
from uploader.turns import INSTANCE_COST, REQUEST_COST, Line, Turns

MB = 1_000_000
BATCH, BATCH_BYTES = 50, 64 * MB


def backlog() -> Backlog:
    return Backlog(2.0, large_bytes=BATCH_BYTES)


def add(it: Backlog, study: str, count: int, size: int = 500_000, source: str = "CT") -> list[str]:
    """Let so many instances of a study be due; their names."""
    names = [f"{source}.{study}.{len(it)}.{number}" for number in range(count)]
    for name in names:
        it.see(Found(name, Signature(1, size, 0, 0), is_file=True), 0.0, closed=True, origin=Origin(source, study))
    return names


def take(it: Backlog, room: Room = ALONE, now: float = 0.0) -> list[Entry]:
    return it.take(BATCH, BATCH_BYTES, room=room, now=now)


def send(it: Backlog, room: Room = ALONE) -> Counter[str]:
    """Take a batch and have it sent at once; how many it held of each study."""
    batch = take(it, room)
    for entry in batch:
        it.done(entry.name, 0.0)
    return studies(batch)


def studies(batch: Iterable[Entry]) -> Counter[str]:
    return Counter(entry.name.split(".")[1] for entry in batch)


# Studies


def test_a_small_study_does_not_wait_for_a_large_one() -> None:
    """Five instances that come behind ten thousand of another study are in the next request, and it is full."""
    it = backlog()
    add(it, "large", 10_000, 1000)
    assert send(it) == {"large": 50}
    add(it, "small", 5, 1000)
    assert send(it) == {"small": 5, "large": 45}


def test_two_large_studies_take_turns() -> None:
    """Each fills whole requests, one after the other."""
    it = backlog()
    add(it, "a", 200)
    add(it, "b", 200)
    assert [send(it) for _ in range(5)] == [{"a": 50}, {"b": 50}, {"a": 50}, {"b": 50}, {"a": 50}]


def test_many_small_studies_share_requests() -> None:
    """Requests are full though no study is large enough to fill one."""
    it = backlog()
    for number in range(100):
        add(it, f"s{number}", 2)
    sent = [send(it) for _ in range(4)]
    assert [request.total() for request in sent] == [50] * 4
    assert sum(sent, Counter()) == {f"s{number}": 2 for number in range(100)}


@pytest.mark.parametrize("source", ["CT", "OTHER"], ids=["of one source", "of two sources"])
def test_turns_are_counted_in_bytes(source: str) -> None:
    """Large slices of one study and small reports of another get the same bytes, not the same requests."""
    it = backlog()
    add(it, "slices", 100, 60 * MB, source)
    add(it, "reports", 10_000, 15_000)
    sent: Counter[str] = Counter()
    while sent["slices"] < 10:
        sent += send(it)
    ours = sent["reports"] * (15_000 + INSTANCE_COST + REQUEST_COST // BATCH)
    assert 8 * 60 * MB < ours < 11 * 60 * MB


def test_a_source_with_a_thousand_studies_does_not_hold_up_another() -> None:
    """A migration that sends a thousand studies and a scanner with one get turns alike."""
    it = backlog()
    for number in range(1000):
        add(it, f"old{number}", 50, source="MIGRATION")
    add(it, "acute", 200, source="CT")
    requests = 0
    left = 200
    while left:
        left -= send(it)["acute"]
        requests += 1
    assert requests <= 9


def test_waiting_earns_nothing() -> None:
    """Who comes after another had a million bytes for itself does not get a million before it."""
    it = backlog()
    add(it, "early", 2000)
    for _ in range(20):
        send(it)
    add(it, "late", 2000)
    assert sum((send(it) for _ in range(10)), Counter()) == {"late": 250, "early": 250}


@pytest.mark.parametrize("same_source", [True, False], ids=["in one source", "of another source"])
def test_who_comes_back_after_a_long_time_begins_where_the_others_are(same_source: bool) -> None:  # noqa: FBT001
    """A study that had a little long ago, and is still being answered, has no claim on what went since then."""
    it = backlog()
    back = "A" if same_source else "B"
    add(it, "back", 1, source=back)
    (kept,) = take(it)
    add(it, "steady", 5000, source="A")
    for _ in range(40):
        send(it)
    add(it, "back", 2000, source=back)
    assert sum((send(it) for _ in range(20)), Counter())["back"] <= 550
    it.done(kept.name, 1.0)


def test_a_large_one_after_another_waits_for_its_own_size() -> None:
    """What passed the first large one does not count for the second."""
    it = backlog()
    add(it, "video", 2, 1000 * MB)
    order = []
    for _ in range(60):
        add(it, "slices", 50, 1 * MB)
        order.append(send(it)["video"])
    assert [number for number, large in enumerate(order) if large] == [20, 41]


def test_who_is_empty_for_a_moment_begins_where_the_others_are() -> None:
    """A study whose instances arrive one by one gets no more than its share by being empty in between."""
    it = backlog()
    add(it, "steady", 2000)
    sent: Counter[str] = Counter()
    for _ in range(20):
        add(it, "drip", 50)
        sent += send(it)
    assert abs(sent["drip"] - sent["steady"]) <= 100


def test_new_files_get_turns_before_the_ledger_is_asked_and_join_their_study_later() -> None:
    """What has just come stands in a line of its own; the next scan tells where it belongs."""
    it = backlog()
    add(it, "known", 200)
    names = [f"{number:032x}.dcm" for number in range(100)]
    for name in names:
        it.see(Found(name, Signature(1, 500_000, 0, 0), is_file=True), 0.0, closed=True)
    assert {entry.name for entry in take(it)} <= {*names, *it.names()} - set(names)
    assert {entry.name for entry in take(it)} < set(names)
    for name in names:
        found = Found(name, Signature(1, 500_000, 0, 0), is_file=True)
        it.see(found, 0.0, scanned=True, origin=Origin("CT", "known"))
    assert studies(take(it))["known"] == 50
    assert it.ready == 150


def test_files_of_one_dropped_folder_belong_together() -> None:
    """A folder dropped with a thousand files does not hold up the folder dropped after it."""
    it = backlog()
    for name in [f"first/{number}" for number in range(1000)] + [f"second/{number}" for number in range(5)]:
        it.see(Found(name, Signature(1, 1000, 0, 0), is_file=True), 0.0, closed=True)
    take(it)
    assert Counter(entry.name.partition("/")[0] for entry in take(it)) == {"second": 5, "first": 45}


# Large instances


def test_with_one_request_at_a_time_small_ones_pass_a_large_one() -> None:
    """A gigabyte in front of many small ones goes when they have gone."""
    it = backlog()
    add(it, "video", 1, 1000 * MB)
    add(it, "slices", 200)
    assert [studies(take(it)) for _ in range(5)] == [{"slices": 50}] * 4 + [{"video": 1}]


def test_a_large_one_is_passed_by_no_more_than_its_own_size() -> None:
    """Small ones that never end do not keep it for ever."""
    it = backlog()
    add(it, "video", 1, 1000 * MB)
    passed = 0
    while True:
        add(it, "slices", 50, 1 * MB)
        batch = send(it)
        if batch["video"]:
            break
        passed += batch.total() * MB
    assert 1000 * MB <= passed <= 1064 * MB


@pytest.mark.parametrize(("requests", "most"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (64, 32)])
def test_large_ones_have_at_most_half_of_the_requests(requests: int, most: int) -> None:
    """However many wait, there is room for others; and one always may be under way."""
    it = backlog()
    add(it, "video", 100, 1000 * MB)
    large = 0
    while batch := take(it, Room(requests, large, large)):
        assert [entry.large for entry in batch] == [True]
        large += 1
        if requests == 1:
            break
    assert large == most
    add(it, "slices", 1)
    assert (studies(take(it, Room(requests, large, large))) == {"slices": 1}) == (requests > 1) or requests == 1


def test_a_large_one_goes_at_once_where_there_is_room_beside_it() -> None:
    """With several requests at a time it need not wait for those before it, nor they for it."""
    it = backlog()
    add(it, "slices", 200)
    add(it, "video", 1, 1000 * MB)
    assert studies(take(it, Room(4, 0, 0))) == {"video": 1}
    assert studies(take(it, Room(4, 1, 1))) == {"slices": 50}


# The last request


def test_the_last_request_is_not_for_who_waits_for_its_answers() -> None:
    """A study whose requests are all still under way leaves one to others, and gets it when it was answered soon."""
    it = backlog()
    study = add(it, "slow", 1000)
    for under_way in range(3):
        assert studies(take(it, Room(4, under_way))) == {"slow": 50}
    assert take(it, Room(4, 3)) == []
    add(it, "other", 1)
    assert studies(take(it, Room(4, 3))) == {"other": 1}
    it.done(study[0], 9.9)
    assert studies(take(it, Room(4, 3), now=19.8)) == {"slow": 50}
    assert take(it, Room(4, 3), now=20.0) == []


def test_a_study_that_comes_in_drips_is_known_to_be_waiting() -> None:
    """Though nobody of it is due in between, those under way count."""
    it = backlog()
    for under_way in range(3):
        add(it, "slow", 1)
        assert studies(take(it, Room(4, under_way))) == {"slow": 1}
    add(it, "slow", 1)
    assert take(it, Room(4, 3)) == []


def test_an_answer_after_a_long_time_is_none_of_a_quick_study() -> None:
    """Who was answered, but late, does not get the last request either."""
    it = backlog()
    study = add(it, "slow", 1000)
    take(it, Room(4, 0))
    take(it, Room(4, 1))
    it.done(study[0], 60.0)
    assert take(it, Room(4, 3), now=60.0) == []


def test_who_is_alone_and_quick_gets_every_request() -> None:
    """The last request is withheld from nobody who is answered."""
    it = backlog()
    work = Work(it, 4, lambda _batch: 9.0)
    add(it, "quick", 1000)
    work.run(until=10.0)
    assert len(work.out) == 4
    work.run(until=40.0)
    assert len(work.out) == 4


# Probes


def test_a_probe_is_of_the_study_that_met_the_least_trouble() -> None:
    """After the trouble of one study another one is asked, though many of the first have met none themselves."""
    it = backlog()
    add(it, "failing", 500)
    add(it, "other", 5)
    batch = take(it)
    it.met_trouble([entry.name for entry in batch])
    probe = it.take_probe(fresh=True)
    assert probe is not None
    assert studies([probe]) == {"other": 1}
    it.met_trouble([probe.name])
    it.met_trouble([probe.name])
    probe = it.take_probe()
    assert probe is not None
    assert studies([probe]) == {"failing": 1}
    assert probe.troubles == 0
    it.passed([probe.name])
    probe = it.take_probe()
    assert probe is not None
    assert studies([probe]) == {"failing": 1}


def test_a_fresh_probe_is_found_in_a_study_that_met_trouble() -> None:
    """With fresh, nobody is asked who met trouble, even if the study met less."""
    it = backlog()
    add(it, "failing", 2)
    (old,) = add(it, "other", 1)
    entry = it.get(old)
    assert entry is not None
    entry.troubles = 1
    probe = it.take_probe(fresh=True)
    assert probe is not None
    assert studies([probe]) == {"failing": 1}


# Everything together


@dataclass
class Work:
    """A backlog sent by a number of requests at a time over time: what a request takes is told by its batch."""

    it: Backlog
    requests: int
    seconds: Callable[[list[Entry]], float]
    now: float = 0.0
    done: dict[str, float] = field(default_factory=dict)
    out: list[tuple[float, int, list[Entry]]] = field(default_factory=list)
    number: int = 0

    def run(self, until: float = float("inf")) -> None:
        """Send until nothing is due, or so long."""
        while True:
            while len(self.out) < self.requests:
                large = sum(batch[0].large for _, _, batch in self.out)
                batch = take(self.it, Room(self.requests, len(self.out), large), self.now)
                if not batch:
                    break
                self.number += 1
                heapq.heappush(self.out, (self.now + self.seconds(batch), self.number, batch))
            if not self.out or self.out[0][0] > until:
                self.now = until if self.out else self.now
                return
            self.now, _, batch = heapq.heappop(self.out)
            for entry in batch:
                self.it.done(entry.name, self.now)
                self.done[entry.name] = self.now


def test_a_slow_study_does_not_starve_another() -> None:
    """One study takes a minute a request, another arrives in the middle: it is sent at its own pace."""
    it = backlog()
    add(it, "slow", 5000)
    work = Work(it, 4, lambda batch: 60.0 if studies(batch)["slow"] else 0.1)
    work.run(until=90.0)
    names = add(it, "quick", 500)
    work.run(until=100.0)
    assert set(names) <= work.done.keys()
    assert max(work.done[name] for name in names) < 93.0


def test_large_instances_on_a_slow_line_do_not_hold_up_small_ones() -> None:
    """Ten gigabytes in front, over a line of 1 MB/s: small ones that come later are sent within seconds."""
    it = backlog()
    videos = add(it, "video", 10, 1000 * MB)
    work = Work(it, 2, lambda batch: sum(entry.signature.size_bytes for entry in batch) / MB)
    work.run(until=100.0)
    names = add(it, "slices", 10)
    work.run(until=120.0)
    assert set(names) <= work.done.keys()
    work.run()
    assert set(videos) <= work.done.keys()


SIZES = st.sampled_from([0, 1000, 15_000, 500_000, 10 * MB, 70 * MB, 1000 * MB])
CROWD = st.lists(
    st.tuples(st.sampled_from("ABC"), st.sampled_from("stuv"), st.integers(1, 200), SIZES), min_size=1, max_size=12
)


@given(CROWD, st.integers(1, 5), st.sampled_from(["", "s", "st"]))
def test_whoever_is_due_is_sent(crowd: list[tuple[str, str, int, int]], requests: int, slow: str) -> None:
    """Whatever waits, however slow some of it is: all of it is sent, and no request is larger than allowed."""
    it = backlog()
    names = [name for source, study, count, size in crowd for name in add(it, study, count, size, source)]

    def seconds(batch: list[Entry]) -> float:
        size = sum(entry.signature.size_bytes for entry in batch)
        assert len(batch) == 1 or (len(batch) <= BATCH and size <= BATCH_BYTES)
        return 60.0 if studies(batch).keys() & set(slow) else 0.01 + size / (10 * MB)

    work = Work(it, requests, seconds)
    work.run()
    assert sorted(work.done) == sorted(names)
    assert (len(it), it.ready) == (0, 0)


@dataclass(eq=False)
class One:
    """An entry of a size, as `Turns` sees it."""

    size: int
    line: "Line[One] | None" = None
    slot: int = 0


def turns() -> Turns[One]:
    def stand(entry: One, line: Line[One], slot: int) -> None:
        entry.line, entry.slot = line, slot

    return Turns(lambda entry: entry.size, stand)


def count_up_to(limit: int) -> Callable[[One], bool]:
    numbers = iter(range(limit))
    return lambda _entry: next(numbers, None) is not None


@given(st.lists(st.sampled_from([1, 1000, 15_000, 500_000, 10 * MB]), min_size=2, max_size=5), st.integers(1, 50))
def test_who_always_waits_gets_the_same_bytes(sizes: list[int], instances: int) -> None:
    """Studies that are never empty are apart by no more than two requests of the costliest kind, at any time."""
    it = turns()
    for study, size in enumerate(sizes):
        for _ in range(2000):
            it.put(One(size), "CT", str(study))
    had = [0] * len(sizes)
    costliest = instances * (max(sizes) + INSTANCE_COST) + REQUEST_COST
    for _ in range(2000 // instances):
        batch = it.fill(count_up_to(instances), lambda _line: True)
        for entry in batch:
            assert entry.line is not None
            had[int(entry.line.study)] += entry.size + INSTANCE_COST
        assert batch[0].line is not None
        had[int(batch[0].line.study)] += REQUEST_COST
        assert max(had) - min(had) <= 2 * costliest


@pytest.mark.parametrize("spread", [1, 1000, 10**6], ids=["one study", "many studies", "each its own"])
def test_a_turn_costs_the_same_however_many_wait(spread: int) -> None:
    """The steps for each instance, from being put to being taken or leaving, do not grow with how many there are."""
    few, many = (steps_for_each(number, spread) for number in (1000, 30_000))
    assert many < few * 1.2 + 1


def steps_for_each(number: int, spread: int) -> float:
    calls = 0

    def count_calls(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    it = turns()
    entries = [One(1000) for _ in range(number)]
    sys.setprofile(count_calls)
    try:
        for place, entry in enumerate(entries):
            it.put(entry, "CT", str(place % spread))
        for entry in entries[::3]:
            assert entry.line is not None
            it.leave(entry.line, entry.slot)
        while it.fill(count_up_to(50), lambda _line: True):
            pass
    finally:
        sys.setprofile(None)
    assert it.waiting == 0
    return calls / number


def test_nothing_is_kept_of_studies_that_are_gone() -> None:
    """Lines and sources are forgotten once nobody stands in them, though millions come by."""
    it = backlog()
    for number in range(300):
        add(it, f"s{number}", 1, source=f"source {number}")
        while batch := take(it):
            for entry in batch:
                it.done(entry.name, 0.0)
    assert take(it) == []
    assert len(it._ready._small._sources) <= 1
