"""Charts as SVG shapes made here, without scripts or styles in them, and the numbers of each as a table beside it.

A shape is drawn in a box of WIDTH by HEIGHT that the browser stretches; words and numbers stay outside of it, so that
they have the size of the page's text on every screen.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from common.ledger_reader import LATENCIES
from console.activity import Minute
from console.looking import Depth

WIDTH, HEIGHT = 600, 120
_SHORTEST, _LONGEST = 0.05, 3600.0  # seconds, on the axis of latencies


@dataclass(frozen=True, slots=True)
class Series:
    """One line or area of a chart: its name, its class in the style sheet, and its path in SVG."""

    name: str
    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        key: a word for it, for ids.
        title: what it shows.
        summary: it in a sentence, for who cannot see it.
        top: what the upper edge stands for.
        series: what is drawn.
        ticks: times along the lower edge.
        columns: heads of the table.
        rows: of the table.
    """

    key: str
    title: str
    summary: str
    top: str
    series: tuple[Series, ...]
    ticks: tuple[datetime, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def quantile(share: float, sent: int, within: Sequence[int]) -> float | None:
    """The seconds within which a share of the instances were sent, as far as LATENCIES tell; None if none was."""
    if not sent:
        return None
    wanted, below, lower = share * sent, 0, 0.0
    for bound, count in zip(LATENCIES, within, strict=True):
        if count >= wanted and count > below:
            return lower + (bound - lower) * (wanted - below) / (count - below)
        below, lower = count, bound
    return _LONGEST


def merged(minutes: Sequence[Minute], step: int) -> list[Minute]:
    """The same in pieces of `step` minutes, the last of which ends with the last minute."""
    start = len(minutes) % step
    pieces = [minutes[at : at + step] for at in range(start, len(minutes), step)]
    return [
        Minute(
            at=piece[0].at,
            received=sum(one.received for one in piece),
            received_bytes=sum(one.received_bytes for one in piece),
            sent=sum(one.sent for one in piece),
            sent_bytes=sum(one.sent_bytes for one in piece),
            quarantined=sum(one.quarantined for one in piece),
            seconds=sum(one.seconds for one in piece),
            within=tuple(map(sum, zip(*(one.within for one in piece), strict=True))),
        )
        for piece in pieces
    ]


def throughput(minutes: Sequence[Minute], table_step: int, clock: Callable[[datetime], str]) -> Chart:
    """Instances received and sent.

    Args:
        minutes: pieces of equal length, oldest first.
        table_step: so many of them are one row of the table.
        clock: how a time is said.
    """
    most = max((max(one.received, one.sent) for one in minutes), default=0)
    top = _nice(most)
    received = [one.received / top for one in minutes]
    sent = [one.sent / top for one in minutes]
    rows = tuple(
        (clock(one.at), f"{one.received:,}", f"{one.sent:,}", f"{one.quarantined:,}")
        for one in reversed(merged(minutes, table_step))
    )
    came, went = sum(one.received for one in minutes), sum(one.sent for one in minutes)
    return Chart(
        "throughput",
        "Throughput",
        f"{came:,} instances received and {went:,} sent in this time.",
        f"{top:,} instances",
        (Series("sent", "area", _area(sent)), Series("received", "line", _line(received))),
        _ticks([one.at for one in minutes]),
        ("From", "Received", "Sent", "Quarantined"),
        rows,
    )


def latency(minutes: Sequence[Minute], table_step: int, clock: Callable[[datetime], str]) -> Chart:
    """Seconds from being received to being sent, on a logarithmic axis; arguments as for `throughput`."""
    half = [quantile(0.5, one.sent, one.within) for one in minutes]
    most = [quantile(0.95, one.sent, one.within) for one in minutes]
    rows = []
    for one in reversed(merged(minutes, table_step)):
        middle, high = quantile(0.5, one.sent, one.within), quantile(0.95, one.sent, one.within)
        rows.append((clock(one.at), _seconds(middle), _seconds(high)))
    total = merged(minutes, len(minutes)) if minutes else []
    said = "Nothing was sent in this time."
    if total and total[0].sent:
        middle = quantile(0.5, total[0].sent, total[0].within)
        high = quantile(0.95, total[0].sent, total[0].within)
        said = f"Half were sent within {_seconds(middle)}, 95 % within {_seconds(high)}."
    return Chart(
        "latency",
        "From received to sent",
        said,
        "1 h",
        (
            Series("95 % within", "dash", _line([_high(one) for one in most])),
            Series("half within", "line", _line([_high(one) for one in half])),
        ),
        _ticks([one.at for one in minutes]),
        ("From", "Half within", "95 % within"),
        tuple(rows),
    )


def depth(
    depths: Sequence[Depth], minutes: Sequence[datetime], table_step: int, clock: Callable[[datetime], str]
) -> Chart:
    """How many instances waited, and how long the oldest had, at most in each piece of time.

    Args:
        depths: what was noted, oldest first.
        minutes: when each piece begins.
        table_step: as for `throughput`.
        clock: as for `throughput`.
    """
    length = minutes[1] - minutes[0] if len(minutes) > 1 else timedelta(minutes=1)
    most: list[Depth | None] = [None] * len(minutes)
    for one in depths:
        at = (one.at - minutes[0]) // length if minutes else -1
        if 0 <= at < len(most):
            known = most[at]
            most[at] = (
                one
                if known is None
                else Depth(known.at, max(known.waiting, one.waiting), max(known.oldest_seconds, one.oldest_seconds))
            )
    top = _nice(max((one.waiting for one in most if one), default=0))
    rows = []
    for start in range(len(minutes) - table_step, -1, -table_step):
        some = [one for one in most[start : start + table_step] if one]
        waiting = f"{max(one.waiting for one in some):,}" if some else "not noted"
        age = _seconds(max(one.oldest_seconds for one in some)) if some else "not noted"
        rows.append((clock(minutes[start]), waiting, age))
    noted = [one for one in most if one]
    said = "Not noted yet: the console has just begun to look."
    if noted:
        waited, longest = max(one.waiting for one in noted), max(one.oldest_seconds for one in noted)
        said = f"At most {waited:,} waited, the oldest for up to {_seconds(longest)}."
    return Chart(
        "depth",
        "Waiting",
        said,
        f"{top:,} instances",
        (
            Series("waiting", "area", _area([one.waiting / top if one else None for one in most])),
            Series(
                "age of the oldest (to 1 h)",
                "dash",
                _line([_high(one.oldest_seconds) if one else None for one in most]),
            ),
        ),
        _ticks(minutes),
        ("From", "Waiting, at most", "Oldest, at most"),
        tuple(rows),
    )


def _high(seconds: float | None) -> float | None:
    """How high a time is on the logarithmic axis."""
    if seconds is None:
        return None
    share = math.log(max(seconds, _SHORTEST) / _SHORTEST) / math.log(_LONGEST / _SHORTEST)
    return min(share, 1.0)


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "nothing sent"
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _nice(most: int) -> int:
    """The least of 1, 2, 5, 10, 20, 50 … that is no less."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= most:
                return factor * power
        power *= 10


def _ticks(times: Sequence[datetime]) -> tuple[datetime, ...]:
    if not times:
        return ()
    return tuple(times[round(share * (len(times) - 1))] for share in (0, 0.25, 0.5, 0.75, 1))


def _points(values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """The points of each stretch without gaps."""
    step = WIDTH / max(len(values) - 1, 1)
    stretches: list[list[tuple[float, float]]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            stretches.append([])
        else:
            stretches[-1].append((round(index * step, 1), round(HEIGHT - value * (HEIGHT - 4) - 1, 1)))
    return [one for one in stretches if one]


def _line(values: Sequence[float | None]) -> str:
    # A single point is drawn as a short line, or nobody would see it.
    return "".join(
        "M"
        + "L".join(
            f"{x} {y}" for x, y in (points if len(points) > 1 else [points[0], (points[0][0] + 3, points[0][1])])
        )
        for points in _points(values)
    )


def _area(values: Sequence[float | None]) -> str:
    return "".join(
        f"M{points[0][0]} {HEIGHT}L" + "L".join(f"{x} {y}" for x, y in points) + f"L{points[-1][0]} {HEIGHT}Z"
        for points in _points(values)
        if len(points) > 1
    )
