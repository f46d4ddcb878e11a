"""How often signing in may be tried: few times from one address, and not without end from all of them together."""

import threading
import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 300.0
_FROM_ONE = 10
_FROM_ALL = 200
_MOST_ADDRESSES = 10_000


class Attempts:
    """Counts failed attempts to sign in. Safe to use from several threads.

    Args:
        clock: a monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: dict[str, deque[float]] = {}
        self._all: deque[float] = deque()

    def wait_seconds(self, address: str) -> float:
        """How long an address must wait before it may try again; 0 if it need not."""
        with self._lock:
            now = self._forget()
            waits = [0.0]
            mine = self._failed.get(address) or deque[float]()
            if len(mine) >= _FROM_ONE:
                waits.append(mine[0] + WINDOW_SECONDS - now)
            if len(self._all) >= _FROM_ALL or (address not in self._failed and len(self._failed) >= _MOST_ADDRESSES):
                waits.append(self._all[0] + WINDOW_SECONDS - now)
            return max(waits)

    def begin(self, address: str) -> None:
        """Count an attempt before its outcome is known, so that many at once are not let through."""
        with self._lock:
            now = self._forget()
            self._failed.setdefault(address, deque()).append(now)
            self._all.append(now)

    def succeeded(self, address: str) -> None:
        """Forget the attempts of an address that signed in."""
        with self._lock:
            mine = self._failed.pop(address, deque())
            for one in mine:
                self._all.remove(one)

    def _forget(self) -> float:
        now = self._clock()
        while self._all and self._all[0] <= now - WINDOW_SECONDS:
            self._all.popleft()
        for address, times in list(self._failed.items()):
            while times and times[0] <= now - WINDOW_SECONDS:
                times.popleft()
            if not times:
                del self._failed[address]
        return now
