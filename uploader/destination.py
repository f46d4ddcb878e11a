"""Whether the destination can be sent to now. Pure: the clock and the jitter are passed in.

    OPEN ──trouble that one instance may bring about──▶ DOUBTED ──an answer──▶ OPEN
     │                                                     │
     └──any other trouble──▶ PAUSED ◀──trouble────────────┘
                              │  ▲
              the pause ends: one probe; trouble: a longer pause; an answer: OPEN

While DOUBTED, one probe with another instance goes out at once: if it is answered, the destination is well, and
the files of the request are accused; one that was alone in it is charged. If not, nobody is, unless the probe was one
of the accused: then it alone is, and another one is tried. While PAUSED one probe goes out at the end of each pause,
with a real instance: there is no request that is harmless and still proves that storing works. An outage is as long as
it is: no attempts are spent and nothing is given up.

Only a probe ends a doubt or a pause; a person may have it sent before the pause ends. Deliveries that were under way
when it came, stragglers, tell of a time before: their answers are no proof that the destination is well now, nor do
they make a Retry-After void.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from uploader.verdict import Trouble

_RETRY_AFTER_LIMIT = 10  # times the maximal backoff


class Mode(Enum):
    """What may be sent."""

    OPEN = "open"
    """Anything."""
    DOUBTED = "doubted"
    """One probe, now, preferably with an instance that met no trouble yet."""
    PAUSED = "paused"
    """One probe, when the pause ends."""


@dataclass(frozen=True, slots=True)
class Accused:
    """The files of a request that met trouble while others passed right after it, and the trouble."""

    names: tuple[str, ...]
    trouble: Trouble


class Destination:
    """The state of the destination.

    Args:
        backoff_initial: seconds of the first pause.
        backoff_max: seconds of the longest pause of our own choice.
        jitter: a number from 0.5 to 1 by which a pause is multiplied.

    Attributes:
        mode: what may be sent.
        probing: a probe is out.
        trouble: what brought about the last doubt or pause, or was met by its last probe; None: there was none.
    """

    def __init__(
        self,
        backoff_initial: float,
        backoff_max: float,
        jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0),  # noqa: S311 - spreads retries
    ) -> None:
        self._initial = backoff_initial
        self._maximum = backoff_max
        self._jitter = jitter
        self.mode = Mode.OPEN
        self.probing = False
        self.trouble: Trouble | None = None
        self._pauses = 0
        self._until = 0.0
        self._accused: Accused | None = None
        # Whose presence would explain every trouble since the last answer; None: there was none.
        self._common: frozenset[str] | None = None

    def may_send(self) -> bool:
        """Tell whether batches may go."""
        return self.mode is Mode.OPEN

    def may_probe(self, now: float) -> bool:
        """Tell whether one probe may go now. `now` is monotonic, in seconds."""
        return not self.probing and (self.mode is Mode.DOUBTED or (self.mode is Mode.PAUSED and now >= self._until))

    def may_probe_fresh(self) -> bool:
        """Tell whether an instance that met no trouble yet may be tried before the pause ends.

        As long as one instance can be behind all of the trouble, so that a lone poisonous instance does not hold
        up the next one that arrives. If that one meets the trouble too, those after it wait.
        """
        return self.mode is Mode.PAUSED and not self.probing and bool(self._common)

    @property
    def doubted(self) -> frozenset[str]:
        """The accused, while DOUBTED: a probe with another instance tells more."""
        return frozenset(self._accused.names) if self._accused is not None else frozenset()

    def probe_sent(self) -> None:
        """A probe is on its way."""
        self.probing = True

    def probe_came_to_nothing(self) -> None:
        """The probe's instance was gone or busy: it told nothing."""
        self.probing = False

    def end_pause(self, now: float) -> bool:
        """Let the pause end now, since a person wishes for its probe, whatever a Retry-After asked for.

        Args:
            now: monotonic, in seconds.

        Returns:
            False if there is no pause, or its probe is out already.
        """
        if self.mode is not Mode.PAUSED or self.probing:
            return False
        self._until = min(self._until, now)
        return True

    @property
    def next_probe_at(self) -> float | None:
        """When the pause ends, monotonic, in seconds; None if there is no pause, or its probe is out already."""
        return self._until if self.mode is Mode.PAUSED and not self.probing else None

    def answered(self, names: frozenset[str], *, probe: bool = False) -> Accused | None:
        """The destination judged instances.

        Args:
            names: of the files in the delivery that was answered.
            probe: it was the probe.

        Returns:
            Those that met trouble just before, if it was not the destination's: now others passed.
        """
        if probe:
            self.probing = False
        elif self.mode is not Mode.OPEN:
            return None
        accused = self._accused
        self.mode = Mode.OPEN
        self._pauses = 0
        self._accused = None
        self._common = None
        if accused is None:
            return None
        left = tuple(name for name in accused.names if name not in names)
        return Accused(left, accused.trouble) if left else None

    def troubled(
        self,
        trouble: Trouble,
        names: tuple[str, ...],
        now: float,
        *,
        others: bool,
        convicted: bool = False,
        probe: bool = False,
    ) -> bool:
        """A request met trouble.

        Args:
            trouble: the verdict.
            names: of the files in that request.
            now: monotonic, in seconds.
            others: there is another instance to try at once.
            convicted: the request held one instance, which met trouble before while others passed.
            probe: it was the probe.

        Returns:
            True if this is taken for that convicted instance's own trouble, to be charged to it.
        """
        if probe:
            self.probing = False
        # Who says when to come again is away, and is not asked before.
        suspect = trouble.suspect and trouble.retry_after is None
        if not probe and (self.mode is Mode.PAUSED or (self.mode is Mode.DOUBTED and suspect)):
            self._narrow(names, suspect=suspect)
            self._until = max(self._until, now + self._asked(trouble))
            return False
        if suspect and convicted and self.mode is not Mode.PAUSED:
            return True  # it says nothing about the destination; if that is away, other instances will tell
        self._narrow(names, suspect=suspect)
        accused = self._accusation(trouble, names, others=others) if suspect else None
        self._accused = accused
        self.trouble = trouble
        if accused is not None:
            self.mode = Mode.DOUBTED
        else:
            self._pause(trouble, now)
        return False

    def _accusation(self, trouble: Trouble, names: tuple[str, ...], *, others: bool) -> Accused | None:
        """Who is accused after this trouble; None if there is nobody to try beside them, or that was tried."""
        if self.mode is Mode.OPEN and (others or len(names) > 1):
            return Accused(names, trouble)
        left = tuple(name for name in names if name in self.doubted)
        return Accused(left, trouble) if left and others else None

    def _narrow(self, names: tuple[str, ...], *, suspect: bool) -> None:
        behind_it = frozenset(names) if suspect else frozenset()
        self._common = behind_it if self._common is None else self._common & behind_it

    def _asked(self, trouble: Trouble) -> float:
        """The seconds of Retry-After that are granted."""
        return min(trouble.retry_after or 0.0, _RETRY_AFTER_LIMIT * self._maximum)

    def _pause(self, trouble: Trouble, now: float) -> None:
        self.mode = Mode.PAUSED
        pause = min(self._maximum, self._initial * 2.0 ** min(self._pauses, 60)) * self._jitter()
        self._pauses += 1
        self._until = now + max(pause, self._asked(trouble))
