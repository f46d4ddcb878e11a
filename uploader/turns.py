"""Whose turn it is: lines of those that are due, and who is taken from them together. Pure.

A line holds the due instances of one study, first come, first served. The lines of one source (a calling AE title)
share that source's turns. At both levels who has had least goes next, counted in bytes, with something for each
instance and each request. Whoever comes new, or comes back, begins where the others are now: waiting earns nothing, and
nobody pays for what went while there was nobody else. This is start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM
1996), twice.

Who has the turn is taken from as long as it fits; only when that line is empty the next one is gone on with. So a study
with many instances fills whole requests, and many small studies share one.

Every operation costs O(log lines), and each place of a line is passed over once.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

# What an instance, and what a request, costs beside its bytes, in bytes: an archive works for each, however small, and
# a line is idle for a moment between two. Who is sent in small requests, since it fails, gets no more of them so.
INSTANCE_COST = 64 * 1024
REQUEST_COST = 1024 * 1024
_COMPACT = 64  # places already passed that a line keeps before it is cut

E = TypeVar("E")


@dataclass(slots=True, eq=False)
class Line(Generic[E]):
    """The due entries of one study.

    Attributes:
        source: whose turns it shares.
        study: which study.
        clock: what it has had, in bytes.
        waiting: how many stand in it.
        in_hand: how many that were taken from it have not come back.
        troubles: how many requests with some of them met trouble since one of them was answered.
        quick_at: when one of those came back last within a short time, monotonic, in seconds.
    """

    source: "_Source[E]"
    study: str
    clock: int
    waiting: int = 0
    in_hand: int = 0
    troubles: int = 0
    quick_at: float = float("-inf")
    listed: bool = False  # it is in its source's heap, by its number behind others of the same clock
    number: int = 0
    _places: list[E | None] = field(default_factory=list)
    _head: int = 0  # of _places; those before it have been passed
    _base: int = 0  # the slot of _places[0]

    def first(self) -> E | None:
        """Who is first; None if it is empty."""
        places = self._places
        while self._head < len(places):
            if (entry := places[self._head]) is not None:
                return entry
            self._head += 1
        return None

    @property
    def first_slot(self) -> int:
        """The slot of who is first."""
        return self._base + self._head

    def entries(self) -> Iterator[E]:
        """All that stand in it, the first first."""
        places = self._places
        return (entry for number in range(self._head, len(places)) if (entry := places[number]) is not None)

    def append(self, entry: E) -> int:
        """Put one behind the others; its slot."""
        self._places.append(entry)
        self.waiting += 1
        return self._base + len(self._places) - 1

    def remove(self, slot: int) -> None:
        """Let one leave, wherever it stands."""
        self._places[slot - self._base] = None
        self.waiting -= 1
        if self.first() is None or (self._head > _COMPACT and self._head * 2 > len(self._places)):
            del self._places[: self._head]
            self._base += self._head
            self._head = 0


@dataclass(slots=True, eq=False)
class _Source(Generic[E]):
    name: str
    clock: int
    now: int = 0  # the clock of the line that had the last turn
    waiting: int = 0
    listed: bool = False
    number: int = 0
    lines: dict[str, Line[E]] = field(default_factory=dict)
    heap: list[tuple[int, int, Line[E]]] = field(default_factory=list)


class Turns(Generic[E]):
    """Lines of entries.

    Args:
        size_of: the bytes of an entry.
        stand: writes down at an entry in which line it stands, and its slot there.
    """

    def __init__(self, size_of: Callable[[E], int], stand: Callable[[E, Line[E], int], None]) -> None:
        self._size_of = size_of
        self._stand = stand
        self._sources: dict[str, _Source[E]] = {}
        self._heap: list[tuple[int, int, _Source[E]]] = []
        self._now = 0
        self._numbers = count()
        self.waiting = 0

    def put(self, entry: E, source_name: str, study: str) -> None:
        """Let an entry stand at the end of its line."""
        source = self._sources.get(source_name)
        if source is None:
            source = self._sources[source_name] = _Source(source_name, self._now)
        line = source.lines.get(study)
        if line is None:
            line = source.lines[study] = Line(source, study, source.now)
        self._stand(entry, line, line.append(entry))
        source.waiting += 1
        self.waiting += 1
        if not line.listed:
            self._list_line(line, behind=True)
        if not source.listed:
            self._list_source(source, behind=True)

    def leave(self, line: Line[E], slot: int) -> None:
        """Let an entry leave its line."""
        line.remove(slot)
        line.source.waiting -= 1
        self.waiting -= 1

    def take(self, line: Line[E], slot: int) -> None:
        """Let an entry leave its line for a delivery; it is to come back."""
        # Counted before the line is looked at again, or it would be forgotten while it is heard from.
        line.in_hand += 1
        self.leave(line, slot)

    def come_back(self, line: Line[E]) -> None:
        """An entry that was taken from a line is with no delivery any more."""
        line.in_hand -= 1
        self._settle(line)

    def fill(self, fits: Callable[[E], bool], may: Callable[[Line[E]], bool]) -> list[E]:
        """Take who goes next, in the order of their turns, until somebody does not fit. They have left their lines.

        Args:
            fits: whether the next one goes with those that it was asked for before.
            may: whether a line may have a turn now.
        """
        taken: list[E] = []
        while (line := self._next(may)) is not None:
            in_hand, had = line.in_hand, 0 if taken else REQUEST_COST
            while (entry := line.first()) is not None and fits(entry):
                taken.append(entry)
                self.take(line, line.first_slot)
                had += self._size_of(entry) + INSTANCE_COST
            goes = line.in_hand > in_hand
            if goes:
                line.clock += had
                line.source.clock += had
            self._list_line(line, behind=goes)
            self._list_source(line.source, behind=goes)
            if line.waiting:
                break
        return taken

    def peek(self, may: Callable[[Line[E]], bool]) -> E | None:
        """Who would go first."""
        line = self._next(may)
        if line is None:
            return None
        self._list_line(line)
        self._list_source(line.source)
        return line.first()

    def heads(self) -> Iterator[E]:
        """The first of each line."""
        for source in self._sources.values():
            for line in source.lines.values():
                if (entry := line.first()) is not None:
                    yield entry

    def everyone(self) -> Iterator[E]:
        """All that stand in lines, line by line."""
        for source in self._sources.values():
            for line in source.lines.values():
                yield from line.entries()

    def _settle(self, line: Line[E]) -> None:
        """Forget a line that nobody stands in and nobody was taken from, once its turn has come to nothing."""
        if not line.listed and not line.waiting and not line.in_hand and line.source.lines.get(line.study) is line:
            del line.source.lines[line.study]
            self._settle_source(line.source)

    def _settle_source(self, source: _Source[E]) -> None:
        if not source.listed and not source.lines:
            self._sources.pop(source.name, None)

    def _next(self, may: Callable[[Line[E]], bool]) -> Line[E] | None:
        """The line whose turn it is; it is off the lists then, and so is its source."""
        passed_over: list[_Source[E]] = []
        found: Line[E] | None = None
        while self._heap and found is None:
            source = heapq.heappop(self._heap)[-1]
            source.listed = False
            found = self._next_of(source, may)
            if found is not None:
                # Who was away or passed over before does not catch up.
                source.clock = self._now = max(source.clock, self._now)
            elif source.waiting:
                passed_over.append(source)
            else:
                self._settle_source(source)
        for source in passed_over:
            self._list_source(source)
        return found

    def _next_of(self, source: _Source[E], may: Callable[[Line[E]], bool]) -> Line[E] | None:
        passed_over: list[Line[E]] = []
        found: Line[E] | None = None
        while source.heap and found is None:
            line = heapq.heappop(source.heap)[-1]
            line.listed = False
            if not line.waiting:
                self._settle(line)
            elif may(line):
                found = line
                line.clock = source.now = max(line.clock, source.now)
            else:
                passed_over.append(line)
        for line in passed_over:
            self._list_line(line)
        return found

    def _list_line(self, line: Line[E], *, behind: bool = False) -> None:
        """Put a line on its source's list; `behind` all others of the same clock, or where it was."""
        if behind:
            line.number = next(self._numbers)
        line.listed = True
        heapq.heappush(line.source.heap, (line.clock, line.number, line))

    def _list_source(self, source: _Source[E], *, behind: bool = False) -> None:
        if behind:
            source.number = next(self._numbers)
        source.listed = True
        heapq.heappush(self._heap, (source.clock, source.number, source))
