"""SIGINT, SIGTERM and SIGHUP as an exception, but only where that does no harm.

While honcho is being started or ended they are only counted, so that no process is forgotten.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asks for the end."""


class Signals:
    """Takes the signals of this process from when it is made.

    Attributes:
        count: how many came.
        first: the number of the first one, or None.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first: int | None = None
        self._interrupts = False
        for number in _SIGNALS:
            signal.signal(number, self._note)

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal interrupt what is inside; at once if one came before."""
        self._interrupts = True
        try:
            self.check()
            yield
        finally:
            self._interrupts = False

    def check(self) -> None:
        """Interrupt, if a signal came. Python drops an exception that is raised in a finalizer: so ask, too."""
        if self.count:
            raise Interrupted

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.count += 1
        self.first = self.first or number
        if self._interrupts:
            self._interrupts = False
            raise Interrupted
