"""What a soak makes of what it saw."""

import pytest

from bench.soak_report import CALM, Answer, Judgement, Sample, judge, quarters, table, verdict, windows

SECONDS = 400.0


def samples(**last: int) -> list[Sample]:
    """One every ten seconds; in the last quarter the receiver needs what is given."""
    flat = {"memory": 50_000_000, "descriptors": 10, "threads": 4}
    return [
        Sample(at, CALM, {"receiver": {**flat, **(last if at >= SECONDS * 3 / 4 else {})}, "uploader": flat}, 7)
        for at in range(0, int(SECONDS), 10)
    ]


def answers(last: float = 0.005, fault: str = CALM) -> list[Answer]:
    """One a second; in the last quarter as slow as is given."""
    return [Answer(at, last if at >= SECONDS * 3 / 4 else 0.005, fault) for at in range(int(SECONDS))]


def grew(judgements: list[Judgement]) -> list[str]:
    return [one.name for one in judgements if not one.flat]


def test_what_stays_the_same_is_flat() -> None:
    """Each figure of each process, and latency, is judged; none grew."""
    judgements = judge(samples(), answers(), SECONDS)
    assert [one.name for one in judgements] == [
        *(
            f"{process} {figure}"
            for process in ("receiver", "uploader")
            for figure in ("memory", "descriptors", "threads")
        ),
        "C-STORE p50",
        "C-STORE p99",
    ]
    assert not grew(judgements)


@pytest.mark.parametrize(
    ("figure", "within", "beyond"),
    [("memory", 62_900_000, 63_100_000), ("descriptors", 14, 15), ("threads", 5, 6)],
)
def test_what_grows_beyond_its_bound_is_told(figure: str, within: int, beyond: int) -> None:
    """10 % and 8 MB of memory, four descriptors, one thread: so much more is still flat."""
    assert not grew(judge(samples(**{figure: within}), answers(), SECONDS))
    judgements = judge(samples(**{figure: beyond}), answers(), SECONDS)
    assert grew(judgements) == [f"receiver {figure}"]
    assert [line.startswith("GREW") for line in verdict(judgements)].count(True) == 1


def test_latency_counts_while_nothing_is_wrong() -> None:
    """Slow answers in the last quarter are growth, but not those during a fault."""
    assert grew(judge(samples(), answers(0.040), SECONDS)) == ["C-STORE p50", "C-STORE p99"]
    assert not grew(judge(samples(), [*answers(), *answers(1.0, "archive slow")], SECONDS))


def test_a_quarter_without_anything_is_an_error() -> None:
    """What was not looked at is not flat."""
    with pytest.raises(ValueError, match="expected samples"):
        judge(samples()[:10], answers(), SECONDS)
    with pytest.raises(ValueError, match="expected answers"):
        judge(samples(), answers()[:100], SECONDS)


def test_the_table_has_a_column_for_each_quarter() -> None:
    """And a line for each figure, the backlog and the latencies; nothing is left out of the windows."""
    lines = table(samples(), answers(), SECONDS)
    assert all(len(line) == 26 + 4 * 30 for line in lines)
    assert quarters(SECONDS) == [(0, 100), (100, 200), (200, 300), (300, 400)]
    assert sum(window["count"] for window in windows(answers(), SECONDS)) == len(answers())
