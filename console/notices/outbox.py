"""What is on its way to people by one channel: sent in order, tried again for a day, or until it gets there.

A thread of its own for each channel, so that a mail server that hangs holds up neither the web hook nor the looking.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from common import logs
from console.notices.channels import Channel, UndeliveredError
from console.notices.telling import Notice

log = logs.get(__name__)

_MOST = 20  # notices; of more, the oldest are dropped: what lasts is said again
_KEPT_SECONDS = 86400.0
_FIRST_WAIT_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 600.0
_SAID_SECONDS = 600.0  # so often a failure is logged


class Outbox:
    """The notices for one channel.

    Args:
        channel: the way to people.
        waiting: what was left from before a restart, oldest first.
        first_wait: seconds before the second try; doubled each time.
        clock: a monotonic clock in seconds: whoever sets the other one makes no notice old.
    """

    def __init__(
        self,
        channel: Channel,
        waiting: Iterable[Notice] = (),
        *,
        first_wait: float = _FIRST_WAIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = channel.name
        self._channel = channel
        self._first_wait = first_wait
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting = deque(((clock(), notice) for notice in waiting), maxlen=_MOST)
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._say = logs.OncePer(_SAID_SECONDS)
        self._thread = threading.Thread(target=self._run, name=f"notices-{channel.name}", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._wake.set()
        self._thread.start()

    def put(self, notice: Notice) -> None:
        """Have a notice sent."""
        with self._lock:
            if len(self._waiting) == _MOST:
                log.warning("notice dropped, others wait", channel=self.name)
            self._waiting.append((self._clock(), notice))
        self._wake.set()

    def waiting(self) -> tuple[Notice, ...]:
        """What is not known to have been delivered, oldest first."""
        with self._lock:
            return tuple(notice for _, notice in self._waiting)

    def close(self, seconds: float) -> None:
        """Send no more; wait so long for what is under way."""
        self._stopped.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        tries = 0
        while not self._stopped.is_set():
            notice = self._next()
            if notice is None:
                tries = 0
                self._wake.wait()
                self._wake.clear()
            elif self._send(notice):
                tries = 0
                self._drop(notice)
            else:
                wait = min(self._first_wait * 2**tries, _LONGEST_WAIT_SECONDS)
                tries = min(tries + 1, 16)
                self._stopped.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries

    def _next(self) -> Notice | None:
        with self._lock:
            while self._waiting and self._clock() - self._waiting[0][0] > _KEPT_SECONDS:
                self._waiting.popleft()
                log.error("notice given up after a day", channel=self.name)
            return self._waiting[0][1] if self._waiting else None

    def _drop(self, notice: Notice) -> None:
        with self._lock:
            if self._waiting and self._waiting[0][1] is notice:
                self._waiting.popleft()

    def _send(self, notice: Notice) -> bool:
        try:
            self._channel.send(notice)
        except UndeliveredError as error:
            if self._say.ready(str(error)):
                log.warning("notice not delivered yet", channel=self.name, reason=str(error))
            return False
        except Exception:
            if self._say.ready("exception"):
                log.exception("notice not delivered yet", channel=self.name)
            return False
        log.info("notice delivered", channel=self.name, troubles=",".join(line.key for line in notice.lines) or "test")
        return True
