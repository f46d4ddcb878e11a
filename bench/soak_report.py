"""What a soak saw: samples over time, their quarters side by side, and whether anything grew. Pure.

The first and the last quarter are compared, each by its median. The bounds say how much more the last may be before
it counts as growth; what is constant by design (threads, descriptors) may hardly move, what caches and the allocator
round up (memory) a little more, and latency as much as a shared machine makes of it.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.measuring import percentile

CALM = ""
_QUARTERS = 4
_WINDOW_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at everything.

    Attributes:
        at: seconds since the load began.
        fault: what was switched on; CALM for nothing.
        processes: memory in bytes, descriptors and threads of each process that is never killed.
        waiting: files in incoming/.
    """

    at: float
    fault: str
    processes: Mapping[str, Mapping[str, int]]
    waiting: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One C-STORE: when it was answered, in how many seconds, and what was switched on."""

    at: float
    seconds: float
    fault: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """A figure of the first and of the last quarter, and how much the last may be."""

    name: str
    first: float
    last: float
    bound: float

    @property
    def flat(self) -> bool:
        """Whether it did not grow beyond its bound."""
        return self.last <= self.bound


# A figure's name, how much of the first quarter the last may be, and how much beside that.
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "memory": (1.10, 8e6),
    "descriptors": (1.0, 4),
    "threads": (1.0, 1),
    "p50": (1.5, 0.002),
    "p99": (2.0, 0.020),
}


def quarters(seconds: float) -> list[tuple[float, float]]:
    """The begin and the end of each quarter."""
    length = seconds / _QUARTERS
    return [(number * length, (number + 1) * length) for number in range(_QUARTERS)]


def judge(samples: Sequence[Sample], answers: Sequence[Answer], seconds: float) -> list[Judgement]:
    """Each figure of the last quarter against the first; latency of what was answered while nothing was wrong.

    Raises:
        ValueError: a quarter has no sample, or no answer in a calm moment.
    """
    first, *_, last = quarters(seconds)
    judgements = []
    for process in samples[0].processes:
        for figure in samples[0].processes[process]:
            values = [statistics.median(_of(samples, process, figure, quarter)) for quarter in (first, last)]
            judgements.append(_judgement(f"{process} {figure}", figure, *values))
    for figure, percent in (("p50", 50), ("p99", 99)):
        values = [_latency(answers, percent, quarter) for quarter in (first, last)]
        judgements.append(_judgement(f"C-STORE {figure}", figure, *values))
    return judgements


def _judgement(name: str, figure: str, first: float, last: float) -> Judgement:
    times, beside = _BOUNDS[figure]
    return Judgement(name, first, last, first * times + beside)


def _of(samples: Sequence[Sample], process: str, figure: str, quarter: tuple[float, float]) -> list[int]:
    begin, end = quarter
    found = [sample.processes[process][figure] for sample in samples if begin <= sample.at < end]
    if not found:
        raise ValueError(f"expected samples between {begin:.0f} and {end:.0f} s, found none")
    return found


def _latency(answers: Sequence[Answer], percent: float, quarter: tuple[float, float], *, calm: bool = True) -> float:
    begin, end = quarter
    found = [one.seconds for one in answers if begin <= one.at < end and (not calm or one.fault == CALM)]
    if not found:
        raise ValueError(f"expected answers between {begin:.0f} and {end:.0f} s, found none")
    return percentile(found, percent)


def table(samples: Sequence[Sample], answers: Sequence[Answer], seconds: float) -> list[str]:
    """Lines of a table with a column for each quarter."""
    columns = quarters(seconds)
    lines = [_line("", [f"{begin / 60:.1f}-{end / 60:.1f} min" for begin, end in columns])]
    for process in samples[0].processes:
        for figure in samples[0].processes[process]:
            cells = [_spread(_of(samples, process, figure, quarter), figure) for quarter in columns]
            lines.append(_line(f"{process} {figure}", cells))
    waiting = [[sample.waiting for sample in samples if begin <= sample.at < end] for begin, end in columns]
    lines.append(_line("files waiting, most", [str(max(values, default=0)) for values in waiting]))
    counts = [sum(1 for one in answers if begin <= one.at < end) for begin, end in columns]
    lines.append(_line("instances/s", [f"{count / (seconds / _QUARTERS):.0f}" for count in counts]))
    for calm, when in ((True, "calm"), (False, "all")):
        for percent in (50, 95, 99, 100):
            cells = [f"{1000 * _latency(answers, percent, quarter, calm=calm):.1f} ms" for quarter in columns]
            name = "most" if percent == 100 else f"p{percent}"
            lines.append(_line(f"C-STORE {name}, {when}", cells))
    return lines


def windows(answers: Sequence[Answer], seconds: float) -> list[dict[str, float]]:
    """Latency in seconds over time: of so many seconds each, the count, percentiles and the most; none is left out."""
    gathered: dict[int, list[float]] = {}
    for one in answers:
        gathered.setdefault(int(min(one.at, seconds) // _WINDOW_SECONDS), []).append(one.seconds)
    return [
        {
            "at": number * _WINDOW_SECONDS,
            "count": len(values),
            **{f"p{percent}": round(percentile(values, percent), 5) for percent in (50, 95, 99)},
            "most": round(max(values), 5),
        }
        for number, values in sorted(gathered.items())
    ]


def verdict(judgements: Sequence[Judgement]) -> list[str]:
    """A line for each figure, and whether it stayed flat."""
    lines = []
    for one in judgements:
        show: Callable[[float], str] = _shown(one.name.rpartition(" ")[2])
        lines.append(
            f"{'flat ' if one.flat else 'GREW '} {one.name:<26} first quarter {show(one.first):>9}, "
            f"last {show(one.last):>9}, at most {show(one.bound):>9}"
        )
    return lines


def _shown(figure: str) -> Callable[[float], str]:
    if figure == "memory":
        return lambda value: f"{value / 1e6:.1f} MB"
    if figure in {"p50", "p99"}:
        return lambda value: f"{1000 * value:.1f} ms"
    return lambda value: f"{value:.0f}"


def _spread(values: Sequence[int], figure: str) -> str:
    show = _shown(figure)
    return f"{show(statistics.median(values))} ({show(min(values))}..{show(max(values))})"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<26}" + "".join(f"{cell:>30}" for cell in cells)
