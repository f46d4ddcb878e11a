"""Whom a trouble is blamed on: the destination, or one instance that brings it about.

A 5xx, a broken connection or a timeout can be either's. `Destination` says what may be sent to find out; here is what
is known of the instances. A request that failed, while another one passed right after it, did not fail in an outage:
one of its instances is the culprit. They go in smaller requests from then on; whoever passes is innocent, and the last
one that is left is *convicted*. So is whoever fails alone, sees others pass, and fails alone again.

A convicted instance is charged whenever it fails alone, without asking another one first: so several culprits do not
look like an outage to each other when nothing else is left. But an outage may begin at any moment, and must not use
up anybody's attempts. So a conviction counts only while the destination is known to be well: it is not paused, and
another instance has passed a short time ago, too short for all the attempts of one. It errs on the side of waiting.
"""

from uploader.backlog import Backlog
from uploader.destination import Accused, Destination
from uploader.verdict import Trouble

_SOON_SECONDS = 5.0  # who failed no longer ago than this when another passes did not fail in an outage
_WELL_SECONDS = 60.0  # so long after another instance passed, the destination is believed to be well
_KEPT_SECONDS = 900.0  # so long it is remembered which requests failed


class Blame:
    """Keeps the evidence, and tells who is to be charged.

    Args:
        backlog: the entries; those of requests that failed get a limit.
        destination: whether it can be sent to.
    """

    def __init__(self, backlog: Backlog, destination: Destination) -> None:
        self._backlog = backlog
        self._destination = destination
        self._passed_at = float("-inf")
        # Each with its time: requests that failed just now, and who is left of those that others passed after.
        self._failed: list[tuple[float, frozenset[str]]] = []
        self._suspects: list[tuple[float, frozenset[str]]] = []

    def answered(self, names: frozenset[str], now: float, *, probe: bool) -> Accused | None:
        """Take note of an answer.

        Args:
            names: of the files that were judged.
            now: monotonic, in seconds.
            probe: the delivery was the probe.

        Returns:
            The one instance to charge with the trouble before, if there is one.
        """
        self._backlog.passed(names)
        accused = self._destination.answered(names, probe=probe)
        if names and self._destination.may_send():
            self._passed_at = now
            self._suspects += [(now, failed) for at, failed in self._failed if now - at < _SOON_SECONDS]
            self._failed.clear()
        self._suspects = [
            (at, left) for at, suspects in self._suspects if (left := suspects - names) and now - at < _KEPT_SECONDS
        ]
        if accused is None or len(accused.names) > 1:
            return None
        if (entry := self._backlog.get(accused.names[0])) is not None:
            entry.limit = 1  # nobody else is to meet its trouble again
        return accused

    def troubled(
        self, trouble: Trouble, names: tuple[str, ...], begun: float, now: float, *, probe: bool, under_way: bool
    ) -> bool:
        """Take note of a trouble.

        Args:
            trouble: the verdict.
            names: of the files in the request that met it.
            begun: when its delivery began, monotonic, in seconds.
            now: likewise.
            probe: the delivery was the probe.
            under_way: other deliveries have not ended yet, which may tell more.

        Returns:
            True if the one instance in the request is to be charged with it.
        """
        self._backlog.met_trouble(names)
        convicted = False
        if trouble.suspect:
            self.corner(names)
            convicted = len(names) == 1 and self._is_convicted(names[0], begun, now)
        others = under_way or self._backlog.others_ready(names)
        charged = self._destination.troubled(trouble, names, now, others=others, convicted=convicted, probe=probe)
        self._failed = [(at, failed) for at, failed in self._failed if now - at < _SOON_SECONDS]
        if trouble.suspect and not charged:
            self._failed.append((now, frozenset(names)))
        return charged

    def corner(self, names: tuple[str, ...]) -> None:
        """Let the files of a request that failed go in smaller ones from now on: the others pass, the culprit stays."""
        for name in names:
            if len(names) > 1 and (entry := self._backlog.get(name)) is not None:
                entry.limit = max(1, len(names) // 2)

    def _is_convicted(self, name: str, begun: float, now: float) -> bool:
        """Tell whether an instance that failed alone is to be charged, if the destination is not paused."""
        entry = self._backlog.get(name)
        if entry is None:
            return False
        before, entry.failed_alone_at = entry.failed_alone_at, now
        if self._destination.may_send() and before is not None and self._passed_at > before:
            self._suspects.append((now, frozenset((name,))))
        convicted = any(suspects == {name} for _, suspects in self._suspects)
        return convicted and begun - self._passed_at < _WELL_SECONDS
