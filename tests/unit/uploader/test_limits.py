"""How much the destination takes at a time: learnt from refusals, never below what goes, and growing back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.limits import Concurrency, RequestSize, Sized

MB = 1_000_000
HOUR = 3600.0


# Bytes in a request


class Proxy:
    """A proxy that refuses what is larger than so many bytes, and how requests fare there; the clock is `now`."""

    def __init__(self, allows: int, size: RequestSize) -> None:
        self.allows = allows
        self.size = size
        self.now = 0.0
        self.refusals = 0

    def deliver(self, size_bytes: int) -> None:
        """One delivery: what is refused goes in halves, down to a kilobyte."""
        self.now += 0.1
        refused = size_bytes > self.allows
        self.refusals += refused
        self.size.note(Sized(size_bytes, refused), self.now)
        if refused and size_bytes > 1000:
            self.deliver(size_bytes - size_bytes // 2)
            self.deliver(size_bytes // 2)


def test_nothing_is_learnt_before_a_refusal() -> None:
    """Requests may be as large as configured."""
    size = RequestSize(64 * MB)
    size.note(Sized(1000, refused=False), 0.0)
    assert size.limit == 64 * MB


def test_a_refusal_halves_what_goes_together() -> None:
    """A request of 64 MB is refused: no more than 32 go together from now on, and it is told once."""
    size = RequestSize(64 * MB)
    assert size.note(Sized(64 * MB, refused=True), 0.0)
    assert size.limit == 32 * MB
    assert not size.note(Sized(64 * MB, refused=True), 0.0)


def test_an_instance_alone_that_is_refused_says_that_less_must_go_together() -> None:
    """What is too large alone is too large for several as well."""
    size = RequestSize(64 * MB)
    size.note(Sized(10 * MB, refused=True), 0.0)
    assert size.limit == 5 * MB


def test_one_larger_than_is_ever_sent_together_changes_nothing() -> None:
    """A gigabyte that is refused says nothing about 64 MB."""
    size = RequestSize(64 * MB)
    assert not size.note(Sized(1000 * MB, refused=True), 0.0)
    assert size.limit == 64 * MB


@pytest.mark.parametrize("allows", [30_000, MB, 5 * MB, 33 * MB, 63 * MB])
def test_the_limit_of_a_proxy_is_found_and_kept(allows: int) -> None:
    """After the first delivery almost nothing is refused for an hour, and requests come close to what is allowed."""
    proxy = Proxy(allows, RequestSize(64 * MB))
    proxy.deliver(64 * MB)
    first = proxy.refusals
    while proxy.now < HOUR - 100:
        proxy.deliver(proxy.size.limit)
    assert proxy.refusals - first <= 12
    assert allows * 0.75 < proxy.size.limit <= allows


def test_what_was_refused_is_not_tried_within_an_hour() -> None:
    """However many smaller ones go, the size grows to less than what was refused; after an hour it is tried."""
    size = RequestSize(64 * MB)
    size.note(Sized(10 * MB, refused=True), 0.0)
    for turn in range(500):
        size.note(Sized(size.limit, refused=False), float(turn))
        assert size.limit < 10 * MB
    assert size.limit > 8 * MB
    for turn in range(500):
        size.note(Sized(size.limit, refused=False), HOUR + turn)
    assert size.limit == 64 * MB


def test_small_requests_make_nothing_grow() -> None:
    """Only what is near the limit shows that there may be room above it."""
    size = RequestSize(64 * MB)
    size.note(Sized(64 * MB, refused=True), 0.0)
    for _ in range(1000):
        size.note(Sized(MB, refused=False), 1.0)
    assert size.limit == 32 * MB


def test_what_goes_is_allowed() -> None:
    """An instance alone above the limit that goes raises it, even if that size was refused before."""
    size = RequestSize(64 * MB)
    size.note(Sized(10 * MB, refused=True), 0.0)
    size.note(Sized(20 * MB, refused=False), 1.0)
    assert size.limit == 20 * MB


def test_one_instance_that_is_refused_by_itself_is_no_matter_of_size() -> None:
    """A 413 for one of fifty, whatever is beside it: when it is found, the others go in requests as large as before."""
    size = RequestSize(64 * MB)
    each = MB

    def deliver(first: int, last: int) -> None:
        refused = first <= 17 < last
        size.note(Sized((last - first) * each, refused), 1.0)
        if refused and last - first > 1:
            middle = (first + last) // 2
            deliver(first, middle)
            deliver(middle, last)

    for _ in range(10):
        size.note(Sized(50 * MB, refused=False), 0.5)
    deliver(0, 50)
    assert size.limit == 64 * MB


def test_a_limit_that_is_lowered_is_believed_in_the_end() -> None:
    """What went for long is refused now, again and again: then it is a matter of size."""
    proxy = Proxy(64 * MB, RequestSize(64 * MB))
    for _ in range(10):
        proxy.deliver(64 * MB)
    proxy.allows = 2 * MB
    for _ in range(3):
        proxy.deliver(proxy.size.limit)
    assert proxy.size.limit <= 2 * MB


NOTES = st.lists(st.tuples(st.integers(0, 200 * MB), st.booleans(), st.sampled_from([0.0, 1.0, 4000.0])), max_size=60)


@given(NOTES)
def test_the_limit_is_always_one_that_can_be_used(notes: list[tuple[int, bool, float]]) -> None:
    """Whatever happens: at least a byte, at most what is configured, told when it shrinks, and all back in the end."""
    size, now = RequestSize(64 * MB), 0.0
    for size_bytes, refused, seconds in notes:
        now += seconds
        before = size.limit
        told = size.note(Sized(size_bytes, refused), now)
        assert 1 <= size.limit <= 64 * MB
        assert told == (size.limit < before)
        assert refused or size.limit >= before
    now += 2 * HOUR
    for _ in range(200 * 20):
        size.note(Sized(size.limit, refused=False), now)
    assert size.limit == 64 * MB


# Requests at a time


def test_too_busy_halves_and_good_answers_bring_back_one_by_one() -> None:
    """Eight, four, then one more every twenty seconds as long as requests pass."""
    it = Concurrency(8)
    assert it.busy(begun=0.0, now=1.0, under_way=8)
    assert it.limit == 4
    limits = []
    for second in range(2, 90):
        it.passed(begun=second - 0.5, now=float(second))
        limits.append(it.limit)
    assert limits[0] == 4
    assert [limits.count(limit) for limit in (4, 5, 6, 7)] == [19, 20, 20, 20]
    assert limits[-1] == 8


def test_requests_that_were_under_way_together_halve_it_once() -> None:
    """Four answers of the same moment are one piece of news."""
    it = Concurrency(8)
    for _ in range(4):
        it.busy(begun=0.0, now=1.0, under_way=8)
    assert it.limit == 4
    it.busy(begun=1.5, now=2.0, under_way=4)
    assert it.limit == 2


@pytest.mark.parametrize(("under_way", "limit"), [(8, 4), (5, 3), (3, 2), (2, 1)])
def test_what_was_under_way_is_halved(under_way: int, limit: int) -> None:
    """Not what might have been: three under way were too many, so two go, though eight may."""
    it = Concurrency(8)
    it.busy(begun=0.0, now=1.0, under_way=under_way)
    assert it.limit == limit


def test_it_never_ends_below_one() -> None:
    """However busy it is, one request at a time goes."""
    it = Concurrency(8)
    for turn in range(20):
        it.busy(begun=turn, now=turn + 0.5, under_way=8)
        assert it.limit >= 1
    assert it.limit == 1


def test_one_request_by_itself_says_nothing_about_how_many_may_be() -> None:
    """A probe in an outage is alone: when the outage is over, as many go as before."""
    it = Concurrency(8)
    for turn in range(20):
        assert not it.busy(begun=turn, now=turn + 0.5, under_way=1)
    assert it.limit == 8


def test_answers_to_what_went_out_before_bring_nothing_back() -> None:
    """What was under way when it became too busy tells nothing of afterwards."""
    it = Concurrency(8)
    it.busy(begun=10.0, now=11.0, under_way=8)
    it.passed(begun=9.0, now=100.0)
    assert it.limit == 4


def test_steps_that_go_too_far_become_rare() -> None:
    """A destination that takes three at a time: the step to four is tried less and less often."""
    it = Concurrency(4)
    refusals = []
    for second in range(1, 3600):
        if it.limit > 3:
            if it.busy(begun=second - 0.1, now=float(second), under_way=it.limit):
                refusals.append(second)
        else:
            it.passed(begun=second - 0.1, now=float(second))
    assert len(refusals) <= 3600 / 40


def test_two_allowed_of_four_is_seldom_exceeded() -> None:
    """Each step too far is answered by a longer wait before the next, up to about ten minutes."""
    it = Concurrency(4)
    refusals = []
    for second in range(1, 7200):
        if it.limit > 2:
            it.busy(begun=second - 0.1, now=float(second), under_way=it.limit)
            refusals.append(second)
        else:
            it.passed(begun=second - 0.1, now=float(second))
    assert len(refusals) <= 16
    assert refusals[-1] - refusals[-2] >= 600


@given(
    st.integers(1, 64),
    st.lists(st.tuples(st.booleans(), st.floats(0, 100), st.floats(0, 10), st.integers(1, 64)), max_size=60),
)
def test_the_number_is_always_one_that_can_be_used(maximum: int, answers: list[tuple[bool, float, float, int]]) -> None:
    """Whatever happens: from one to what is configured, and all of it back in the end."""
    it, now = Concurrency(maximum), 0.0
    for busy, seconds, took, under_way in answers:
        now += seconds
        before = it.limit
        if busy:
            assert it.busy(now - took, now, under_way) == (it.limit < before)
            assert before // 2 <= it.limit or under_way <= before
        else:
            it.passed(now - took, now)
            assert before <= it.limit <= before + 1
        assert 1 <= it.limit <= maximum
    for _ in range(maximum):
        now += 700.0
        it.passed(now, now)
    assert it.limit == maximum
