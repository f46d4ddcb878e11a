"""Requests under way, for people to watch: which, how many of its bytes are out, and when the last one went.

Whoever sends tells it at every block; that is all the wire has to do with it. Safe to use from several threads. Bytes
count as out once the kernel has taken them: up to a few megabytes of them may still be on their way.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Motion:
    """One request under way.

    Attributes:
        name: of the first of its files.
        instances: how many it holds.
        begun: when it began, monotonic, in seconds.
        moved_at: when it was last known to move, likewise.
        size_bytes: of the request; 0 until it is known.
        sent_bytes: how many are out.
    """

    name: str
    instances: int
    begun: float
    moved_at: float
    size_bytes: int = 0
    sent_bytes: int = 0


class Progress:
    """The requests of this process that are under way.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._motions: dict[int, Motion] = {}

    @contextmanager
    def request(self, name: str, instances: int) -> Iterator[Callable[[int, int], None]]:
        """A request under way for the length of a with block; call what it gives with the bytes out and those in all.

        Args:
            name: of the first of its files.
            instances: how many it holds.
        """
        now = self.clock()
        motion = Motion(name, instances, now, now)

        def moved(sent_bytes: int, size_bytes: int) -> None:
            motion.sent_bytes, motion.size_bytes, motion.moved_at = sent_bytes, size_bytes, self.clock()

        self._motions[id(motion)] = motion
        try:
            yield moved
        finally:
            del self._motions[id(motion)]

    def under_way(self) -> list[Motion]:
        """The requests of this moment, those that began first first."""
        return sorted(self._motions.copy().values(), key=lambda motion: motion.begun)
