"""The uploader beside a destination that takes only so much: what it learns from that, on a real spool and ledger."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from uploader_fakes import ERROR, Archive, Gateway, uid_of, until

import uploader.limits
from common.config import SpoolConfig
from common.records import Cause, State
from support.samples import make_instance
from uploader.multipart import Part
from uploader.verdict import Answer


@dataclass
class Picky(Archive):
    """An archive in memory that takes only so many bytes in a request, and so many requests at a time.

    Attributes:
        max_bytes: a request with more is answered by 413.
        max_requests: when there are more, the last one is answered by 429.
        sizes: the bytes of each request, and the status it was answered by, in their order.
    """

    max_bytes: int = 10**9
    max_requests: int = 1000
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._count = threading.Lock()
        self._at_a_time = 0

    def store(self, parts: Sequence[Part], *, tries: int = 3) -> Answer:
        """Refuse, or take."""
        size = sum(part.size_bytes for part in parts)
        with self._count:
            self._at_a_time += 1
            status = 413 if size > self.max_bytes else 429 if self._at_a_time > self.max_requests else 200
            self.sizes.append((size, status))
        try:
            if status == 200:
                return super().store(parts, tries=tries)
            return Answer(status=status, detail=f"HTTP {status}")
        finally:
            with self._count:
                self._at_a_time -= 1

    def statuses(self) -> list[int]:
        """What the requests were answered by, in their order."""
        return [status for _, status in self.sizes]


@pytest.fixture
def picky(gateway: Gateway) -> Picky:
    archive = Picky()
    gateway.archive = archive
    gateway.assemble()
    return archive


def size_of_one(gateway: Gateway) -> int:
    return max(found.signature.size_bytes for found in gateway.spool.scan())


def test_a_size_that_was_refused_is_not_tried_again(gateway: Gateway, picky: Picky, lines: Any) -> None:
    """Of ten requests of twenty only the first is refused; the others are as large as the halves that went."""
    gateway.configure(batch_instances=20)
    gateway.receive(200)
    picky.max_bytes = 12 * size_of_one(gateway)
    with gateway.running():
        until(lambda: gateway.counts() == {State.SENT: 200})
    assert picky.statuses().count(413) == 1
    # They are not of exactly the same size.
    assert {len(request) for request in picky.requests[:10]} <= {9, 10}
    (said,) = lines("the destination refuses requests of this size, sending smaller ones")
    assert said["limit_bytes"] <= picky.max_bytes < said["refused_bytes"]


def test_one_that_is_too_large_alone_is_quarantined_and_the_others_go(gateway: Gateway, picky: Picky) -> None:
    """What is learnt from a 413 changes no verdict: too-large is for an instance alone."""
    gateway.configure(batch_instances=20)
    gateway.receive(30)
    picky.max_bytes = 5 * size_of_one(gateway)
    large = make_instance(gateway.spool.incoming / "large.dcm", PixelData=bytes(picky.max_bytes))
    with gateway.running():
        until(lambda: gateway.counts() == {State.SENT: 30, State.QUARANTINE: 1})
    row = gateway.rows()[large]
    assert (row.cause, row.http_status, row.attempts) == (Cause.TOO_LARGE, 413, 1)


def test_a_destination_that_is_too_busy_gets_fewer_requests(gateway: Gateway, picky: Picky, lines: Any) -> None:
    """Eight at a time are too many for it: after the first refusals no more than four go, and nothing is charged."""
    gateway.configure(threads=8, batch_instances=2)
    uids = gateway.receive(160)
    picky.seconds, picky.max_requests = 0.02, 4
    with gateway.running():
        until(lambda: gateway.counts() == {State.SENT: 160}, 20)
    assert picky.stored == dict.fromkeys(uids, 1)
    assert {row.attempts for row in gateway.rows().values()} == {1}
    assert 1 <= picky.statuses().count(429) <= 4
    assert picky.busiest == 4
    assert lines("the destination is too busy, sending fewer requests at a time") == [{"requests": 4}]


def test_when_it_is_well_again_it_gets_more(gateway: Gateway, picky: Picky, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as requests pass, there is one more at a time, up to threads."""
    monkeypatch.setattr(uploader.limits, "_GROW_SECONDS", 0.05)
    gateway.configure(threads=4, batch_instances=1)
    picky.seconds, picky.max_requests = 0.02, 2
    gateway.receive(60)
    with gateway.running():
        until(lambda: 429 in picky.statuses())
        picky.max_requests = 1000
        until(lambda: gateway.counts() == {State.SENT: 60}, 20)
    assert picky.busiest == 4


def test_after_an_outage_as_many_go_as_before(gateway: Gateway, picky: Picky) -> None:
    """Probes that are answered by 503 are alone: they take nothing away from how many may go."""
    gateway.configure(threads=4, batch_instances=1)
    picky.down = Answer(status=503, detail="HTTP 503")
    picky.seconds = 0.03
    (first,) = gateway.receive(1)
    with gateway.running():
        until(lambda: len(picky.requests) > 8)
        gateway.receive(40)
        picky.down = None
        until(lambda: gateway.counts() == {State.SENT: 41})
    assert first in picky.stored
    assert picky.busiest == 4


# Turns, as the loop takes them


def test_small_instances_pass_a_large_one(gateway: Gateway) -> None:
    """With one thread, what is larger than batch_size goes after those that wait behind it."""
    gateway.configure(threads=1, batch_instances=4, batch_size=20_000)
    large = make_instance(gateway.spool.incoming / "0.dcm", PixelData=bytes(50_000))
    small = [make_instance(gateway.spool.incoming / f"{number}.dcm") for number in range(1, 9)]
    with gateway.running():
        until(lambda: gateway.counts() == {State.SENT: 9})
    assert [len(request) for request in gateway.archive.requests] == [4, 4, 1]
    assert gateway.archive.requests[2] == [large]
    assert {uid for request in gateway.archive.requests[:2] for uid in request} == set(small)


def test_while_large_ones_are_under_way_small_ones_go(gateway: Gateway) -> None:
    """With two threads one is for small instances, however long the large ones take and however many there are."""
    gateway.configure(threads=2, batch_instances=4, batch_size=20_000)
    large = [make_instance(gateway.spool.incoming / f"{number}.dcm", PixelData=bytes(50_000)) for number in range(3)]
    small_sent = threading.Event()
    at_once: list[str] = []

    def before(parts: Sequence[Part]) -> None:
        if uid_of(parts[0]) in large:
            at_once.append(uid_of(parts[0]))
            assert small_sent.wait(5)

    gateway.archive.before = before
    with gateway.running():
        until(lambda: at_once)
        for uids in (gateway.receive(3), gateway.receive(3)):
            until(lambda uids=uids: set(uids) <= gateway.archive.stored.keys())
        assert len(at_once) == 1
        small_sent.set()
        until(lambda: gateway.counts() == {State.SENT: 9})


def test_a_study_joins_its_line_by_the_next_scan(gateway: Gateway) -> None:
    """A thousand instances of one study that came while running do not hold up another study for longer than a scan."""
    gateway.spool_config = SpoolConfig(settle_seconds=0.1, rescan_seconds=0.1)
    gateway.configure(threads=1, batch_instances=5)
    gateway.archive.seconds = 0.05
    for number in range(100):
        make_instance(gateway.spool.incoming / f"{number:03}.dcm", study="1.2.3")
    with gateway.running():
        until(lambda: len(gateway.archive.requests) >= 3)
        (uid,) = gateway.receive(1)
        until(lambda: uid in gateway.archive.stored)
        assert len(gateway.archive.stored) < 80


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_failing_study_does_not_starve_another(gateway: Gateway, threads: int) -> None:
    """Every instance of a study in front breaks the archive: those of another study are sent all the same, soon."""
    gateway.configure(threads=threads, batch_instances=10, max_attempts=3)
    bad = [make_instance(gateway.spool.incoming / "bad" / f"{number}.dcm", study="1.2.3") for number in range(60)]
    good = [make_instance(gateway.spool.incoming / "good" / f"{number}.dcm", study="1.2.4") for number in range(60)]
    gateway.archive.poison = dict.fromkeys(bad, ERROR)
    with gateway.running():
        until(lambda: set(good) <= gateway.archive.stored.keys())
    requests = len(gateway.archive.requests)
    assert requests <= 40, "about as many for the one as for the other, and probes"
    assert {gateway.rows()[uid].attempts for uid in good} == {1}
