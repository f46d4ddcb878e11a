"""What is owed, as far as this process knows: which files are due, and which go together.

Pure: no disk, no clock of its own; times are monotonic seconds. A file is READY (uploader.ready decides who goes
first), WAITING (for its time, or to be quiet for long enough), or IN_HAND of a delivery. Nothing here is ever the
truth: a scan brings in what is missing and drops what is gone.
"""

import heapq
from collections.abc import Iterable

from common.directory import is_ours
from common.spool import Found
from uploader.entry import Entry, Origin, Place
from uploader.ready import ALONE, Ready, Room

__all__ = ["ALONE", "Backlog", "Entry", "Origin", "Place", "Room"]

_LARGE_BYTES = 64 * 1000 * 1000


class Backlog:
    """The entries, and the rules by which they become due.

    Args:
        settle_seconds: how long a dropped file must not change before it is taken, unless it is seen closed.
        publish_seconds: how long a receiver's file may take from its rename to the end of its claim.
        large_bytes: an instance of more bytes goes alone, and holds up no other.
    """

    def __init__(self, settle_seconds: float, publish_seconds: float = 0.1, *, large_bytes: int = _LARGE_BYTES) -> None:
        self._settle_seconds = settle_seconds
        self._publish_seconds = publish_seconds
        self._entries: dict[str, Entry] = {}
        self._ready = Ready(large_bytes)
        self._waiting: list[tuple[float, str]] = []
        self.in_hand = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def ready(self) -> int:
        """How many entries are due."""
        return len(self._ready)

    def get(self, name: str) -> Entry | None:
        """The entry of that name, if there is one."""
        return self._entries.get(name)

    def names(self) -> Iterable[str]:
        """The names of all entries."""
        return self._entries.keys()

    def known(self) -> set[str]:
        """The names of the entries of which a scan has nothing new to tell."""
        return {name for name, entry in self._entries.items() if entry.origin is not None}

    def see(
        self,
        found: Found,
        now: float,
        *,
        closed: bool = False,
        scanned: bool = False,
        due: float = 0.0,
        origin: Origin | None = None,
    ) -> None:
        """Take note of a file.

        Args:
            found: what is there now.
            now: the time.
            closed: somebody who could write to it has just closed it.
            scanned: it was found by a scan, not by an event.
            due: not before this time, for a file that is new to us.
            origin: where it belongs, if that is known.
        """
        entry = self._entries.get(found.name)
        if origin is not None and entry is not None and entry.origin is None:
            entry.origin = origin
            if entry.place is Place.READY:
                self._ready.leave(entry)
                self._ready.put(entry)
        if entry is None:
            entry = self._entries[found.name] = Entry(
                found.name, found.signature, trusted=is_ours(found.name), origin=origin
            )
        elif scanned or (found.signature == entry.signature and (entry.settled or not closed)):
            return  # nothing new; a scan brings in only what is, and changes are noticed when the entry is due
        entry.signature = found.signature
        if not entry.trusted:
            # Even one that was settled: this may be another file of its name, still being written.
            entry.settled = closed or not found.is_file
        if entry.place is Place.IN_HAND:
            entry.again = True
        elif entry.settled or (entry.trusted and closed):
            self._put(entry, max(due, now), now)
        elif entry.trusted:
            # While its receiver still records it the claim fails, and it comes back.
            self._put(entry, max(due, now if scanned else now + self._publish_seconds), now)
        else:
            self._put(entry, now + self._settle_seconds, now)

    def ripe(self, now: float) -> list[str]:
        """The names of entries whose time has come; each must be told to `ripen`, which may be after a look."""
        names: dict[
            str, None
        ] = {}  # each once, though two equal times may be there: the second look would be too early
        while self._waiting and self._waiting[0][0] <= now:
            due, name = heapq.heappop(self._waiting)
            entry = self._entries.get(name)
            if entry is not None and entry.place is Place.WAITING and entry.due == due:
                names[name] = None
        return list(names)

    def ripen(self, name: str, found: Found | None, now: float) -> None:
        """Decide about an entry whose time has come, by what is there now; None: it is gone."""
        entry = self._entries.get(name)
        if entry is None or entry.place is not Place.WAITING:
            return
        if found is None:
            del self._entries[name]
        elif entry.trusted or entry.settled or not found.is_file:
            self._put(entry, now, now)
        elif found.signature == entry.signature:
            entry.settled = True
            self._put(entry, now, now)
        else:
            entry.signature = found.signature
            self._put(entry, now + self._settle_seconds, now)

    def next_due(self) -> float | None:
        """When the next waiting entry is due; None if none waits."""
        return self._waiting[0][0] if self._waiting else None

    def take(self, max_instances: int, max_bytes: int, *, room: Room = ALONE, now: float = 0.0) -> list[Entry]:
        """The next batch, by the rule of docs/design.md: as many as may go together; they are then in hand.

        Args:
            max_instances: at most so many.
            max_bytes: together at most so large; one that is larger goes alone.
            room: what is under way already.
            now: monotonic, in seconds.

        Returns:
            Nobody if nobody is due, or those who are have as much under way as they may have.
        """
        batch = self._ready.take(max_instances, max_bytes, room, now)
        for entry in batch:
            self._take(entry, now)
        return batch

    def take_probe(self, *, fresh: bool = False, avoid: frozenset[str] = frozenset()) -> Entry | None:
        """The ready entry that, and whose study, met the least trouble; with `fresh`, one that met none.

        One of those to `avoid` only if there is no other.
        """
        probe = self._ready.take_probe(fresh=fresh, avoid=avoid)
        if probe is not None:
            self._take(probe)
        return probe

    def hold(self, name: str) -> Entry | None:
        """Take one entry in hand, due or not; None if there is none or it is in hand already."""
        entry = self._entries.get(name)
        if entry is None or entry.place is Place.IN_HAND:
            return None
        if entry.place is Place.READY:
            self._ready.pick(entry)
        self._take(entry)
        return entry

    def others_ready(self, names: Iterable[str]) -> bool:
        """Tell whether any entry but the named ones is due."""
        named = [entry for name in set(names) if (entry := self._entries.get(name)) is not None]
        return self.ready > sum(1 for entry in named if entry.place is Place.READY)

    def met_trouble(self, names: Iterable[str]) -> None:
        """A request with these, which are still in hand, met trouble of the destination."""
        lines = set()
        for name in names:
            if (entry := self._entries.get(name)) is not None:
                entry.troubles += 1
                lines.add(entry.line)
        for line in lines:
            if line is not None:
                line.troubles += 1

    def passed(self, names: Iterable[str]) -> None:
        """These, which are still in hand, were answered."""
        for name in names:
            if (entry := self._entries.get(name)) is not None and entry.line is not None:
                entry.line.troubles = 0

    def give_back(self, name: str, now: float, delay: float = 0.0) -> None:
        """Return an entry from hand: it is due again after `delay` seconds, or by what happened to it meanwhile."""
        entry = self._leave_hand(name, now)
        if entry is None:
            return
        if entry.again:
            delay = 0.0 if entry.trusted or entry.settled else self._settle_seconds
        self._put(entry, now + delay, now)
        entry.again = False

    def unsettle(self, name: str, found: Found | None, now: float) -> None:
        """Return an entry from hand that may still be written to."""
        entry = self._leave_hand(name, now)
        if entry is None:
            return
        if found is None:
            del self._entries[name]
            return
        entry.signature = found.signature
        entry.trusted = False
        entry.settled = False
        self._put(entry, now + self._settle_seconds, now)
        entry.again = False

    def done(self, name: str, now: float) -> bool:
        """Drop an entry from hand that is settled; True if something closed a file of its name meanwhile."""
        entry = self._leave_hand(name, now)
        if entry is None:
            return False
        del self._entries[name]
        return entry.again

    def keep_only(self, names: set[str]) -> None:
        """Drop the entries that a scan did not find, unless they are in hand."""
        for name in [name for name in self._entries if name not in names]:
            entry = self._entries[name]
            if entry.place is Place.READY:
                self._ready.leave(entry)
            if entry.place is not Place.IN_HAND:
                del self._entries[name]

    def _take(self, entry: Entry, now: float = float("-inf")) -> None:
        entry.place = Place.IN_HAND
        entry.taken_at = now
        self.in_hand += 1

    def _leave_hand(self, name: str, now: float) -> Entry | None:
        entry = self._entries.get(name)
        if entry is None or entry.place is not Place.IN_HAND:
            return None
        self.in_hand -= 1
        self._ready.came_back(entry, now)
        return entry

    def _put(self, entry: Entry, due: float, now: float) -> None:
        """Put an entry that is not in hand any more where it belongs by its time."""
        if entry.place is Place.READY:
            if due <= now and self._ready.is_large(entry) == entry.large:
                return
            self._ready.leave(entry)
        if due <= now:
            entry.place = Place.READY
            self._ready.put(entry)
            return
        entry.place = Place.WAITING
        entry.line = None
        entry.due = due
        heapq.heappush(self._waiting, (due, entry.name))
