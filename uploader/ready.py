"""Who of those that are due goes next, and with whom. Pure; the rule is that of docs/design.md, "Whose turn it is".

Large instances stand apart, so that nobody stands behind them. Everybody else goes by the turns of uploader.turns.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from uploader.entry import NEW, Entry, origin_of
from uploader.turns import Line, Turns

_QUICK_SECONDS = 10.0  # a study that was answered within this time, no longer ago than this, is quick
_LOOKS = 100  # entries, and lines, that are looked at for a probe


@dataclass(frozen=True, slots=True)
class Room:
    """What a batch is taken for.

    Attributes:
        requests: how many may be under way at a time, at least 1.
        under_way: how many are.
        large: how many of those hold a large instance.
    """

    requests: int = 1
    under_way: int = 0
    large: int = 0

    @property
    def for_large(self) -> bool:
        """Whether another large one may go: at most half of the requests are such, but one always may be."""
        return self.large < max(1, self.requests // 2)

    @property
    def is_last(self) -> bool:
        """Whether nothing else could be sent while this batch and the others are under way."""
        return self.requests > 1 and self.under_way >= self.requests - 1


ALONE = Room()
"""One request at a time, and none under way."""


class Ready:
    """The entries that are due.

    Args:
        large_bytes: an instance of more bytes goes alone, and holds up no other.
    """

    def __init__(self, large_bytes: int) -> None:
        self._large_bytes = large_bytes
        self._small: Turns[Entry] = Turns(_size_of, _stand)
        self._large: Turns[Entry] = Turns(_size_of, _stand)
        self._passed_bytes = 0  # that went while a large one was due, since the last large one went

    def __len__(self) -> int:
        return self._small.waiting + self._large.waiting

    def put(self, entry: Entry) -> None:
        """Let an entry stand where it belongs."""
        entry.large = self.is_large(entry)
        origin = entry.origin or origin_of(entry.name) or NEW
        self._turns(entry).put(entry, origin.source, origin.study)

    def is_large(self, entry: Entry) -> bool:
        """Tell whether an entry goes alone for its size."""
        return entry.signature.size_bytes > self._large_bytes

    def leave(self, entry: Entry) -> None:
        """Let an entry leave, wherever it stands."""
        if entry.line is None:
            raise AssertionError("an entry that is due stands in a line")
        self._turns(entry).leave(entry.line, entry.slot)

    def pick(self, entry: Entry) -> None:
        """Let an entry leave for a delivery, out of its turn."""
        if entry.line is None:
            raise AssertionError("an entry that is due stands in a line")
        self._turns(entry).take(entry.line, entry.slot)

    def came_back(self, entry: Entry, now: float) -> None:
        """An entry is in no delivery's hand any more: its line has heard of it, and how soon."""
        if (line := entry.line) is not None:
            entry.line = None
            if now - entry.taken_at < _QUICK_SECONDS:
                line.quick_at = now
            self._turns(entry).come_back(line)

    def take(self, max_instances: int, max_bytes: int, room: Room, now: float) -> list[Entry]:
        """The next batch; nobody if nobody is due, or may go while so much is under way."""
        batch = self._take_large(room)
        if batch:
            self._passed_bytes = 0
            return batch
        batch = self._small.fill(_fitting(max_instances, max_bytes), _last_for_the_quick(room, now))
        if self._large.waiting:
            self._passed_bytes += sum(entry.signature.size_bytes for entry in batch)
        return batch

    def _take_large(self, room: Room) -> list[Entry]:
        """A large instance, if one may go now."""
        if not self._large.waiting or not room.for_large:
            return []
        if room.requests == 1 and self._small.waiting:
            # Nothing could pass it while it is under way: as much as it is goes before it.
            first = self._large.peek(_anybody)
            if first is not None and self._passed_bytes < first.signature.size_bytes:
                return []
        return self._large.fill(_fitting(1, 0), _anybody)

    def take_probe(self, *, fresh: bool = False, avoid: frozenset[str] = frozenset()) -> Entry | None:
        """Who tells most when it is sent by itself: who met the least trouble; with `fresh`, one that met none.

        One of a study that met less trouble comes first, since a study may be at the bottom of it; one of those to
        `avoid` last. The first of each line are asked, then those behind them, large ones last; a hundred of each.
        """
        best: Entry | None = None
        least: tuple[object, ...] = ()
        for entry in self._candidates():
            troubles = entry.line.troubles if entry.line is not None else 0
            key = (entry.name in avoid, fresh and entry.troubles > 0, troubles, entry.troubles)
            if best is None or key < least:
                best, least = entry, key
            if not any(least):
                break
        if best is None or (fresh and best.troubles):
            return None
        self.pick(best)
        return best

    def _candidates(self) -> Iterator[Entry]:
        groups = (self._small.heads(), self._small.everyone(), self._large.heads(), self._large.everyone())
        return chain.from_iterable(islice(group, _LOOKS) for group in groups)

    def _turns(self, entry: Entry) -> Turns[Entry]:
        return self._large if entry.large else self._small


def _size_of(entry: Entry) -> int:
    return entry.signature.size_bytes


def _stand(entry: Entry, line: Line[Entry], slot: int) -> None:
    entry.line, entry.slot = line, slot


def _anybody(line: Line[Entry]) -> bool:
    del line
    return True


def _last_for_the_quick(room: Room, now: float) -> Callable[[Line[Entry]], bool]:
    """Who may have the last request: not a study that waits for answers and has not been quick to get them."""
    if not room.is_last:
        return _anybody
    return lambda line: not line.in_hand or now - line.quick_at < _QUICK_SECONDS


def _fitting(max_instances: int, max_bytes: int) -> Callable[[Entry], bool]:
    """Whether the next one goes with those that it was asked for before.

    Only those of one limit go together: who was in a request that failed stays among its like.
    """
    count, size, limit = 0, 0, None

    def fits(entry: Entry) -> bool:
        nonlocal count, size, limit
        if count == 0:
            limit = entry.limit
        elif (
            entry.limit != limit
            or count >= min(max_instances, limit or max_instances)
            or size + entry.signature.size_bytes > max_bytes
        ):
            return False
        count += 1
        size += entry.signature.size_bytes
        return True

    return fits
