"""What every table shares: rows and targets, and the ground that measurements stand on."""

import contextlib
import fcntl
import itertools
import math
import os
import struct
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import samples

OURS = "stowgate"
FEWEST = 5
_GET_FLAGS, _SET_FLAGS, _TOP_DIRECTORY = 0x80086601, 0x40086602, 0x20000  # linux/fs.h


@dataclass
class Bench:
    """What the measurements of a run share.

    Attributes:
        scratch: folder for everything.
        peer_pdu: the longest PDU that Orthanc and storescp accept, bytes.
        library: the sample files.
    """

    scratch: Path
    peer_pdu: int = 16384
    library: samples.Library = field(init=False)
    _numbers: Iterator[int] = field(default_factory=itertools.count, init=False)

    def __post_init__(self) -> None:
        self.library = samples.Library(self.scratch / "samples")
        spread(self.scratch)

    def folder(self) -> Path:
        """The name of a fresh folder, which no run before had: ext4 chooses its place by its name."""
        return self.scratch / f"run-{next(self._numbers)}-{uuid.uuid4().hex}"


def spread(folder: Path) -> None:
    """Have ext4 place each folder that is made in this one in a block group of its own, if it is ext4.

    Without a journal it steps over recently deleted inodes of a group when it creates one there. So what was deleted
    in one measurement, or by anybody in the minutes before, is not paid for by the next.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(struct.calcsize("l"))))
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", flags | _TOP_DIRECTORY))
    finally:
        os.close(descriptor)


def even_out(size_bytes: int) -> None:
    """Let the disk write what is left to write, and have memory for a page cache of so many bytes at hand.

    The memory of a virtual machine is given to it page by page, when it is first used and after it was free for some
    seconds again: files written to such pages cost three times as much, whoever writes them.
    """
    os.sync()
    memory = b"\1" * (size_bytes + size_bytes // 2)
    del memory


@dataclass(frozen=True, slots=True)
class Target:
    """What is aimed for: at least so many times a peer, or, without a peer, at most so much."""

    against: str | None
    bound: float


Measure = Callable[[Bench, str, int], float]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        name: for the command line.
        title: for people.
        unit: of each value.
        measure: one value of a peer, for a count.
        count: instances, associations, megabytes or seconds of one measurement.
        peers: in the order in which they take turns.
        targets: what is aimed for.
        share: the part of the count that a slow peer gets; 1 where it is not named.
        by_default: whether it runs when no rows are named.
        close: called when the row is done.
    """

    name: str
    title: str
    unit: str
    measure: Measure
    count: int
    peers: tuple[str, ...]
    targets: tuple[Target, ...]
    share: Mapping[str, float] = field(default_factory=dict)
    by_default: bool = True
    close: Callable[[], None] = _nothing


class Shared:
    """One measurement that gives the values of several rows, or of several peers of one.

    Args:
        measure: gives values by name.
    """

    def __init__(self, measure: Callable[[Bench, int], Mapping[str, float]]) -> None:
        self._measure = measure
        self._measured: list[Mapping[str, float]] = []

    def row(self, names: Mapping[str, str]) -> Measure:
        """The measure of a row.

        Args:
            names: of the value that each peer stands for.
        """
        taken = dict.fromkeys(names, 0)

        def measure(bench: Bench, peer: str, count: int) -> float:
            if taken[peer] == len(self._measured):
                self._measured.append(self._measure(bench, count))
            taken[peer] += 1
            return self._measured[taken[peer] - 1][names[peer]]

        return measure


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that so many percent of them do not exceed (nearest rank)."""
    return sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
