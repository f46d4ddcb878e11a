"""What a process needs, as the kernel counts it: for tests that ask whether it is the same afterwards."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Needs:
    """Threads, sockets and other descriptors of a process.

    A receiver keeps empty files ready in staging/, as many as instances ever came at a time: they are not counted.
    """

    threads: int
    sockets: int
    others: int


def needs(pid: int) -> Needs:
    """What a process has open and running now."""
    sockets = others = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            sockets += target.startswith("socket:")
            others += not target.startswith("socket:") and "/staging/" not in target
    return Needs(len(os.listdir(f"/proc/{pid}/task")), sockets, others)


def megabytes(pid: int, *, most: bool = False) -> float:
    """Its resident memory, or the most that it ever had."""
    key = "VmHWM:" if most else "VmRSS:"
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024
