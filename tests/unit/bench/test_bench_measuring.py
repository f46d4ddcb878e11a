"""What is computed from measurements."""

import pytest

from bench.deliver_rows import first_and_last, most_within
from bench.measuring import OURS, Bench, Shared, percentile
from bench.null_archive import Stored
from bench.peers import BenchError
from bench.uploading import moment_of


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (1, 1), (0.5, 1)])
def test_percentile_is_one_of_the_values(percent: float, expected: float) -> None:
    """Nearest rank: the smallest value that so many percent do not exceed, in whatever order they come."""
    assert percentile([float(number) for number in range(100, 0, -1)], percent) == expected


def test_percentile_lies_never_below_its_share() -> None:
    """Half of three values are one and a half: the second is the first that half of them do not exceed."""
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0


def test_percentile_of_one_value_is_that() -> None:
    """A single measurement is its own median and its own worst."""
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7.0


def _requests(*ends_and_counts: tuple[float, int]) -> list[Stored]:
    return [
        Stored(end - 1, end, 0, tuple(f"{end}.{number}" for number in range(count))) for end, count in ends_and_counts
    ]


def test_first_and_last_are_counted_by_whole_requests() -> None:
    """Ten a second at first, five a second at last; what lies between does not count."""
    requests = _requests((1, 10), (2, 10), (50, 10), (52, 10), (54, 10))
    assert first_and_last(requests, 15) == (10.0, 5.0)


def test_too_few_instances_have_no_first_ones() -> None:
    """Fewer instances than the window are said to be too few."""
    with pytest.raises(BenchError, match="expected 30 instances, found 20"):
        first_and_last(_requests((1, 10), (2, 10)), 30)


@pytest.mark.parametrize(
    ("moments", "expected"),
    [([0.0, 2.5, 5.0], 1), ([0.0, 2.4, 5.0], 2), ([1.0], 1), ([0.0, 0.1, 0.2, 9.0], 3)],
)
def test_most_probes_within_a_pause(moments: list[float], expected: int) -> None:
    """Probes a whole pause apart are one each; what comes sooner is counted together."""
    assert most_within(moments, 2.5) == expected


def test_a_shared_measurement_is_made_once_for_each_repetition(tmp_path: object) -> None:
    """Two rows of one measurement see the same values, repetition by repetition, and none is measured twice."""
    made: list[int] = []

    def measure(bench: Bench, count: int) -> dict[str, float]:
        made.append(count)
        return {"rate": float(len(made)), "memory": 10.0 * len(made)}

    shared = Shared(measure)
    rate, memory = shared.row({OURS: "rate"}), shared.row({OURS: "memory", "peer": "rate"})
    bench: Bench = None  # type: ignore[assignment]  # handed through, never looked at
    assert [rate(bench, OURS, 7), rate(bench, OURS, 7)] == [1.0, 2.0]
    assert [memory(bench, OURS, 7), memory(bench, "peer", 7), memory(bench, OURS, 7)] == [10.0, 1.0, 20.0]
    assert made == [7, 7]


def test_the_moment_of_a_log_line() -> None:
    """Times of our logs are UTC with microseconds."""
    assert moment_of("1970-01-01T00:01:00.250000Z uploader INFO delivering url=x") == 60.25
