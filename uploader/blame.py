"""Whom a trouble is blamed on: the destination, or one instance that brings it about.

A 5xx, a broken connection or a timeout can be either's. `Destination` says what may be sent to find out; here is the
evidence against each instance. A request that failed while others passed right after it counts against its
instances, the less the more they were: to the innocent companions of one culprit, which go in halves, it adds up to
less than 1 however long it takes (1/50 + 1/25 + … + 1/2), while whoever fails alone has 1 at once.

An instance with enough against it is *convicted*, and charged when it fails alone again, without asking another one
first: so several culprits do not look like an outage to each other. But an outage may begin at any moment. So a
conviction is used only while the destination is known to be well: it is not paused, and another instance has passed
a short time ago, too short for all the attempts of one instance. It errs on the side of waiting.
"""

from uploader.backlog import Backlog
from uploader.destination import Accused, Destination
from uploader.verdict import Trouble

_CONVICTED = 0.5  # a pair of which one must be the culprit, or failing alone
_SOON_SECONDS = 5.0  # who failed no longer ago than this when another passes did not fail in an outage
_WELL_SECONDS = 60.0  # so long after another instance passed, the destination is believed to be well


class Blame:
    """Keeps the evidence in the entries of the backlog, and tells who is to be charged.

    Args:
        backlog: the entries.
        destination: whether it can be sent to.
    """

    def __init__(self, backlog: Backlog, destination: Destination) -> None:
        self._backlog = backlog
        self._destination = destination
        self._passed_at = float("-inf")
        self._failed: list[tuple[float, tuple[str, ...]]] = []  # requests that failed a moment ago, and when

    def answered(self, names: frozenset[str], now: float, *, probe: bool) -> Accused | None:
        """Take note of an answer.

        Args:
            names: of the files that did not meet trouble in that delivery.
            now: monotonic, in seconds.
            probe: the delivery was the probe.

        Returns:
            The one instance to charge with the trouble before, if there is one.
        """
        accused = self._destination.answered(names, probe=probe)
        if names and self._destination.may_send():
            self._passed_at = now
        if self._destination.may_send():
            for at, failed in self._failed:
                left = [name for name in failed if name not in names]
                for name in left if now - at < _SOON_SECONDS else []:
                    self._suspect(name, 1.0 / len(left))
            self._failed.clear()
        if accused is None or len(accused.names) > 1:
            return None
        if (entry := self._backlog.get(accused.names[0])) is not None:
            entry.limit = 1  # nobody else is to meet its trouble again
        return accused

    def troubled(self, trouble: Trouble, names: tuple[str, ...], begun: float, now: float, *, probe: bool) -> bool:
        """Take note of a trouble.

        Args:
            trouble: the verdict.
            names: of the files in the request that met it.
            begun: when its delivery began, monotonic, in seconds.
            now: likewise.
            probe: the delivery was the probe.

        Returns:
            True if the one instance in the request is to be charged with it.
        """
        for name in names:
            if (entry := self._backlog.get(name)) is not None:
                entry.troubles += 1
        if trouble.suspect:
            self.corner(names)
        convicted = trouble.suspect and len(names) == 1 and self._is_convicted(names[0], begun, now)
        others = self._backlog.others_ready(names)
        charged = self._destination.troubled(trouble, names, now, others=others, convicted=convicted, probe=probe)
        self._failed = [(at, failed) for at, failed in self._failed if now - at < _SOON_SECONDS]
        if trouble.suspect and not charged:
            self._failed.append((now, names))
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
            self._suspect(name, 1.0)  # it failed, others passed, it fails again
        return entry.suspicion >= _CONVICTED and begun - self._passed_at < _WELL_SECONDS

    def _suspect(self, name: str, weight: float) -> None:
        if (entry := self._backlog.get(name)) is not None:
            entry.suspicion += weight
