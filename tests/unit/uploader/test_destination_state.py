"""Whether the destination may be sent to: histories of answers and troubles, and what may go after each."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploader.destination import Accused, Destination, Mode
from uploader.verdict import Trouble

FAILS = Trouble("HTTP 500", 500, suspect=True)  # of the kind that one instance can bring about
AWAY = Trouble("cannot connect")
REFUSED = Trouble("HTTP 401", 401, setup=True)
BUSY = Trouble("HTTP 429", 429, retry_after=60.0)
FAILS_AND_SAYS_WHEN = Trouble("HTTP 503", 503, retry_after=60.0, suspect=True)


def destination(**settings: Any) -> Destination:
    """Pauses of 1, 2, 4, 8 and then 10 seconds, without jitter."""
    return Destination(1.0, 10.0, **{"jitter": lambda: 1.0, **settings})


@dataclass(frozen=True)
class Step:
    """One thing that happens at a time, and what holds after it.

    Attributes:
        what: answered, troubled, probe (one is sent) or nothing (the probe told nothing).
        charged: the names that `answered` returns, or the name that `troubled` has charged at once.
        mode: expected afterwards.
        pause_ends: expected afterwards, while PAUSED and no probe is out.
    """

    at: float
    what: str
    mode: Mode
    names: tuple[str, ...] = ()
    trouble: Trouble = FAILS
    probe: bool = False
    others: bool = True
    convicted: bool = False
    charged: tuple[str, ...] = ()
    pause_ends: float | None = None


def troubled(at: float, names: str, mode: Mode, **more: Any) -> Step:
    return Step(at, "troubled", mode, tuple(names), **more)


def answered(at: float, names: str, mode: Mode = Mode.OPEN, **more: Any) -> Step:
    return Step(at, "answered", mode, tuple(names), **more)


def probe(at: float, mode: Mode) -> Step:
    return Step(at, "probe", mode)


OPEN, DOUBTED, PAUSED = Mode.OPEN, Mode.DOUBTED, Mode.PAUSED

HISTORIES: dict[str, list[Step]] = {
    "all is well": [answered(0, "ab"), answered(1, "c")],
    "a poisonous instance alone in its request is charged when another passes": [
        troubled(0, "p", DOUBTED),
        probe(0, DOUBTED),
        answered(1, "x", probe=True, charged=("p",)),
        answered(2, "y"),
    ],
    "a poisonous instance in a batch is accused with its batch": [
        troubled(0, "abp", DOUBTED),
        probe(0, DOUBTED),
        answered(1, "x", probe=True, charged=("a", "b", "p")),
    ],
    "who passed in the probe is not accused": [
        troubled(0, "bp", DOUBTED, others=False),
        probe(0, DOUBTED),
        answered(1, "b", probe=True, charged=("p",)),
    ],
    "the probe that meets the same trouble narrows it down": [
        troubled(0, "bp", DOUBTED, others=False),
        probe(0, DOUBTED),
        troubled(1, "p", DOUBTED, probe=True),
        probe(1, DOUBTED),
        answered(2, "b", probe=True, charged=("p",)),
    ],
    "two that fail one after the other are an outage": [
        troubled(0, "bp", DOUBTED, others=False),
        probe(0, DOUBTED),
        troubled(1, "p", DOUBTED, probe=True),
        probe(1, DOUBTED),
        troubled(2, "b", PAUSED, probe=True, pause_ends=3.0),
        probe(3, PAUSED),
        answered(4, "b", probe=True),
    ],
    "an outage charges nobody, however long it lasts": [
        troubled(0, "a", DOUBTED),
        probe(0, DOUBTED),
        troubled(1, "x", PAUSED, probe=True, pause_ends=2.0),
        probe(2, PAUSED),
        troubled(3, "a", PAUSED, probe=True, pause_ends=5.0),
        probe(5, PAUSED),
        troubled(6, "y", PAUSED, probe=True, pause_ends=10.0),
        probe(10, PAUSED),
        troubled(11, "a", PAUSED, probe=True, pause_ends=19.0),
        probe(19, PAUSED),
        troubled(20, "a", PAUSED, probe=True, pause_ends=30.0),
        probe(30, PAUSED),
        troubled(31, "a", PAUSED, probe=True, pause_ends=41.0),
        probe(41, PAUSED),
        answered(42, "a", probe=True),
        troubled(50, "a", PAUSED, trouble=AWAY, pause_ends=51.0),
    ],
    "an instance that is all there is and fails is not charged": [
        troubled(0, "p", PAUSED, others=False, pause_ends=1.0),
        probe(1, PAUSED),
        troubled(2, "p", PAUSED, probe=True, others=False, pause_ends=4.0),
        probe(4, PAUSED),
        answered(5, "x", probe=True),
    ],
    "an instance that is all there is and convicted is charged at once": [
        troubled(0, "p", OPEN, others=False, convicted=True, charged=("p",)),
    ],
    "a convicted instance is charged at once though others are there": [
        troubled(0, "p", OPEN, convicted=True, charged=("p",)),
    ],
    "a convicted instance as probe of a doubt is charged, and another one is tried": [
        troubled(0, "q", DOUBTED),
        probe(0, DOUBTED),
        troubled(1, "p", DOUBTED, probe=True, convicted=True, charged=("p",)),
        probe(1, DOUBTED),
        answered(2, "x", probe=True, charged=("q",)),
    ],
    "in a pause nobody is charged, convicted or not": [
        troubled(0, "a", PAUSED, trouble=AWAY, pause_ends=1.0),
        troubled(0, "p", PAUSED, convicted=True, pause_ends=1.0),
        probe(1, PAUSED),
        troubled(1, "p", PAUSED, probe=True, convicted=True, pause_ends=3.0),
    ],
    "in a doubt no straggler is charged, convicted or not": [
        troubled(0, "q", DOUBTED),
        troubled(0, "p", DOUBTED, convicted=True),
    ],
    "who says when to come again is obeyed, whoever was convicted": [
        troubled(0, "p", PAUSED, trouble=FAILS_AND_SAYS_WHEN, convicted=True, pause_ends=60.0),
    ],
    "what cannot come from an instance pauses at once": [
        troubled(0, "a", PAUSED, trouble=AWAY, pause_ends=1.0),
        probe(1, PAUSED),
        answered(2, "a", probe=True),
        troubled(3, "a", PAUSED, trouble=REFUSED, pause_ends=4.0),
    ],
    "a conviction counts for nothing in a trouble that cannot come from an instance": [
        troubled(0, "a", PAUSED, trouble=AWAY, others=False, convicted=True, pause_ends=1.0),
    ],
    "Retry-After is honoured": [
        troubled(0, "a", PAUSED, trouble=BUSY, pause_ends=60.0),
    ],
    "a long Retry-After is cut to ten times the longest pause": [
        troubled(0, "a", PAUSED, trouble=Trouble("HTTP 503", 503, retry_after=1e9), pause_ends=100.0),
    ],
    "an infinite Retry-After is cut as well": [
        troubled(0, "a", PAUSED, trouble=Trouble("HTTP 503", 503, retry_after=float("inf")), pause_ends=100.0),
    ],
    "a short Retry-After does not shorten the pause": [
        troubled(0, "a", PAUSED, trouble=Trouble("HTTP 503", 503, retry_after=0.0), pause_ends=1.0),
    ],
    "who says when to come again is not doubted but obeyed": [
        troubled(0, "a", PAUSED, trouble=FAILS_AND_SAYS_WHEN, others=True, pause_ends=60.0),
    ],
    "an answer to a request of before the pause does not end it": [
        troubled(0, "a", PAUSED, trouble=BUSY, pause_ends=60.0),
        answered(1, "b", PAUSED, pause_ends=60.0),
        probe(60, PAUSED),
        answered(61, "c", PAUSED),
        answered(62, "d", probe=True),
    ],
    "an answer to a request of before the doubt proves nothing": [
        troubled(0, "p", DOUBTED),
        answered(0, "b", DOUBTED),
        probe(0, DOUBTED),
        answered(1, "c", DOUBTED),
        troubled(2, "x", PAUSED, probe=True, pause_ends=3.0),
    ],
    "a trouble of a request of before the doubt leaves it to the probe": [
        troubled(0, "p", DOUBTED),
        probe(0, DOUBTED),
        troubled(1, "abc", DOUBTED),
        troubled(1, "d", DOUBTED),
        answered(2, "x", probe=True, charged=("p",)),
    ],
    "a trouble of a request of before the pause does not lengthen it": [
        troubled(0, "a", PAUSED, trouble=AWAY, pause_ends=1.0),
        troubled(0.5, "bcd", PAUSED, trouble=AWAY, pause_ends=1.0),
        troubled(0.9, "e", PAUSED, trouble=AWAY, pause_ends=1.0),
        probe(1, PAUSED),
        troubled(1.1, "f", PAUSED, trouble=AWAY),
        troubled(2, "a", PAUSED, trouble=AWAY, probe=True, pause_ends=4.0),
    ],
    "a Retry-After of a request of before the pause is honoured too": [
        troubled(0, "a", PAUSED, trouble=AWAY, pause_ends=1.0),
        troubled(0.5, "b", PAUSED, trouble=BUSY, pause_ends=60.5),
    ],
    "a doubt ends when another request shows that it is the destination": [
        troubled(0, "p", DOUBTED),
        troubled(0, "b", PAUSED, trouble=REFUSED, pause_ends=1.0),
        probe(1, PAUSED),
        answered(2, "x", probe=True),
    ],
    "a probe that came to nothing is followed by another": [
        troubled(0, "p", DOUBTED),
        probe(0, DOUBTED),
        Step(1, "nothing", DOUBTED),
        probe(1, DOUBTED),
        answered(2, "x", probe=True, charged=("p",)),
    ],
    "pauses begin anew after an answer": [
        troubled(0, "a", PAUSED, trouble=AWAY, pause_ends=1.0),
        probe(1, PAUSED),
        troubled(1, "a", PAUSED, trouble=AWAY, probe=True, pause_ends=3.0),
        probe(3, PAUSED),
        answered(3, "a", probe=True),
        troubled(4, "a", PAUSED, trouble=AWAY, pause_ends=5.0),
    ],
}


@pytest.mark.parametrize("name", HISTORIES)
def test_histories(name: str) -> None:
    """After each step of a history the mode, the end of the pause and the charges are as told."""
    it = destination()
    for number, step in enumerate(HISTORIES[name]):
        charged: tuple[str, ...] = ()
        if step.what == "answered":
            accused = it.answered(frozenset(step.names), probe=step.probe)
            charged = accused.names if accused else ()
        elif step.what == "troubled":
            at_once = it.troubled(
                step.trouble, step.names, step.at, others=step.others, convicted=step.convicted, probe=step.probe
            )
            charged = step.names if at_once else ()
        elif step.what == "probe":
            assert it.may_probe(step.at), f"step {number}"
            it.probe_sent()
            assert not it.may_probe(step.at)
            assert it.next_probe_at is None
        else:
            it.probe_came_to_nothing()
        assert (it.mode, charged) == (step.mode, step.charged), f"step {number}"
        assert it.may_send() == (step.mode is OPEN)
        if step.pause_ends is not None:
            assert it.next_probe_at == pytest.approx(step.pause_ends), f"step {number}"
            assert not it.may_probe(step.pause_ends - 0.01)
            assert it.may_probe(step.pause_ends)


def test_an_accusation_carries_its_trouble() -> None:
    """Who is charged is charged with the trouble that its own request met."""
    it = destination()
    it.troubled(FAILS, ("p",), 0.0, others=True)
    it.probe_sent()
    assert it.answered(frozenset("x"), probe=True) == Accused(("p",), FAILS)


def test_the_accused_are_known_while_there_is_doubt() -> None:
    """Only while DOUBTED there is somebody whom the probe should not be."""
    it = destination()
    assert it.doubted == frozenset()
    it.troubled(FAILS, ("a", "p"), 0.0, others=True)
    assert it.doubted == {"a", "p"}
    it.probe_sent()
    it.troubled(FAILS, ("x",), 1.0, others=True, probe=True)
    assert it.doubted == frozenset()


FRESH: dict[str, tuple[list[tuple[str, Trouble, bool]], bool]] = {
    "one instance, alone": ([("p", FAILS, False)], True),
    "one instance, pause after pause": ([("p", FAILS, False), ("p", FAILS, True), ("p", FAILS, True)], True),
    "a batch, then one of it": ([("abp", FAILS, False), ("p", FAILS, True)], True),
    "two that have nothing in common": ([("p", FAILS, False), ("x", FAILS, True)], False),
    "another request at the same time": ([("p", FAILS, False), ("bc", FAILS, False)], False),
    "nobody there": ([("p", AWAY, False)], False),
    "the wrong password": ([("p", REFUSED, False)], False),
    "one instance, then nobody there": ([("p", FAILS, False), ("p", AWAY, True)], False),
    "told when to come again": ([("p", FAILS_AND_SAYS_WHEN, False)], False),
}


@pytest.mark.parametrize("name", FRESH)
def test_an_instance_that_met_no_trouble_may_go_before_the_pause_ends(name: str) -> None:
    """As long as one instance can be behind all the trouble, another one need not wait for the end of the pause."""
    troubles, expected = FRESH[name]
    it = destination()
    for names, trouble, probing in troubles:
        if probing:
            it.probe_sent()
        it.troubled(trouble, tuple(names), 0.0, others=False, probe=probing)
    if it.mode is DOUBTED:
        it.probe_sent()
        it.troubled(FAILS, tuple(it.doubted)[:1], 0.0, others=False, probe=True)
    assert it.mode is PAUSED
    assert it.may_probe_fresh() is expected


def test_a_fresh_instance_that_fails_too_ends_that() -> None:
    """When the fresh one meets the trouble too, the next waits for the end of the pause; an answer ends all that."""
    it = destination()
    it.troubled(FAILS, ("p",), 0.0, others=False)
    assert it.may_probe_fresh()
    it.probe_sent()
    assert not it.may_probe_fresh()
    it.probe_came_to_nothing()
    assert it.may_probe_fresh()
    it.probe_sent()
    it.troubled(FAILS, ("x",), 1.0, others=True, probe=True)
    assert not it.may_probe_fresh()
    it.probe_sent()
    it.answered(frozenset("p"), probe=True)
    assert not it.may_probe_fresh()
    it.troubled(FAILS, ("p",), 2.0, others=False)
    assert it.may_probe_fresh()


def test_pauses_have_jitter() -> None:
    """A pause is multiplied by the jitter, Retry-After is not."""
    it = destination(jitter=lambda: 0.5)
    it.troubled(AWAY, ("a",), 0.0, others=True)
    assert it.next_probe_at == 0.5
    it.probe_sent()
    it.troubled(BUSY, ("a",), 10.0, others=True, probe=True)
    assert it.next_probe_at == 70.0


@given(st.integers(1, 200))
def test_the_jitter_of_its_own_is_within_bounds(pauses: int) -> None:
    """However many pauses there were, the next one is between half and all of what is due, and not above the limit."""
    it = Destination(1.0, 300.0)
    now = 0.0
    it.troubled(AWAY, ("a",), now, others=True)
    for _ in range(pauses):
        it.probe_sent()
        it.troubled(AWAY, ("a",), now, others=True, probe=True)
    assert it.next_probe_at is not None
    due = min(300.0, 2.0**pauses)
    assert due / 2 <= it.next_probe_at - now <= due


@dataclass
class Life:
    """A history made at random, with the rules that must hold in each."""

    it: Destination = field(default_factory=destination)
    now: float = 0.0


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["answered", "troubled", "probe", "probe answered", "probe troubled", "nothing", "time"]),
        st.sampled_from(["a", "b", "ab", "abc"]),
        st.sampled_from([FAILS, AWAY, BUSY, FAILS_AND_SAYS_WHEN]),
        st.booleans(),
    ),
    max_size=40,
)


@given(EVENTS)
def test_in_every_history_something_can_go_sooner_or_later(events: list[tuple[str, str, Trouble, bool]]) -> None:
    """Whatever happens, the destination is open, or a probe may go at a known time; one probe at a time at most."""
    life = Life()
    out = False
    for what, names, trouble, others in events:
        it = life.it
        if what == "time":
            life.now += 7.0
        elif what == "answered":
            before = it.mode
            accused = it.answered(frozenset(names), probe=False)
            assert accused is None
            assert it.mode is before
        elif what == "troubled":
            it.troubled(trouble, tuple(names), life.now, others=others)
        elif what == "probe" and it.may_probe(life.now):
            assert not out
            it.probe_sent()
            out = True
        elif out and what == "nothing":
            it.probe_came_to_nothing()
            out = False
        elif out and what == "probe answered":
            it.answered(frozenset(names[:1]), probe=True)
            out = False
            assert it.mode is OPEN
        elif out and what == "probe troubled":
            it.troubled(trouble, (names[0],), life.now, others=others, probe=True)
            out = False
            assert it.mode is not OPEN
        assert it.probing == out
        if it.mode is DOUBTED:
            assert it.doubted
            assert out or it.may_probe(life.now)
        if it.mode is PAUSED and not out:
            assert it.next_probe_at is not None
            assert it.may_probe(it.next_probe_at)
            assert it.next_probe_at <= life.now + 100.0
