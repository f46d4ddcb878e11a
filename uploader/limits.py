"""How much the destination takes at a time: bytes in a request, and requests at a time. Pure; kept in memory only.

Both are learnt from refusals, stay below what was refused, and grow back in small steps: an archive is restarted with
another limit, a proxy is replaced, a neighbour goes home. What is known is gone with the process; learning it again
costs a request or two.

Neither decides whether anything may be sent at all: that is `uploader.destination`'s. They say how much, while it is
open. Nor do they decide about an instance: one that is refused alone has its verdict whatever is known here.
"""

from dataclasses import dataclass

_BELIEVED_SECONDS = 3600.0  # so long a size that was refused, or went, is believed to be so again
_PASSES_TO_GROW = 20  # requests near the limit that go before larger ones are tried
_DOUBTS = 8  # refusals in a row of what has passed before it is believed no more; one bad instance makes fewer


@dataclass(frozen=True, slots=True)
class Sized:
    """A request of so many bytes, and whether it was refused as too large (413) or taken."""

    size_bytes: int
    refused: bool


class RequestSize:
    """How large requests may be.

    A refused request halves what is sent together, at once; as long as requests near that pass, it grows by a quarter
    of itself, but only half of the way to what was refused within the last hour. A refusal of no more bytes than have
    passed is not taken for a matter of size, since an instance may be refused by itself; unless it comes again and
    again.

    Args:
        maximum: bytes; more is never sent together.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self.limit = maximum
        self._refused: int | None = None
        self._refused_at = 0.0
        self._passed = 0
        self._passed_at = 0.0
        self._passes = 0
        self._doubts = 0

    def note(self, request: Sized, now: float) -> bool:
        """Take note of what became of a request. `now` is monotonic, in seconds.

        Returns:
            True if smaller ones are sent from now on.
        """
        if self._refused is not None and now - self._refused_at > _BELIEVED_SECONDS:
            self._refused = None
        if now - self._passed_at > _BELIEVED_SECONDS:
            self._passed = 0
        return self._shrink(request.size_bytes, now) if request.refused else self._grow(request.size_bytes, now)

    def _shrink(self, size_bytes: int, now: float) -> bool:
        if size_bytes <= self._passed:
            self._doubts += 1
            if self._doubts < _DOUBTS:
                return False
            self._passed = 0
        self._doubts = 0
        if self._refused is None or size_bytes <= self._refused:
            self._refused = size_bytes
            self._refused_at = now
        self._passes = 0
        before = self.limit
        # More than has passed is tried, less is not: halving a request that hardly is too large must not go on.
        self.limit = min(before, max(1, size_bytes // 2, self._passed))
        return self.limit < before

    def _grow(self, size_bytes: int, now: float) -> bool:
        if size_bytes * 2 >= self._passed:
            self._doubts = 0
        if size_bytes >= self._passed:
            self._passed = size_bytes
            self._passed_at = now
        if self._refused is not None and size_bytes >= self._refused:
            self._refused = None  # it goes after all
        self.limit = max(self.limit, min(size_bytes, self._maximum))
        if self.limit < self._maximum and size_bytes * 2 > self.limit:
            self._passes += 1
            if self._passes >= _PASSES_TO_GROW:
                self._passes = 0
                self.limit += self._step()
        return False

    def _step(self) -> int:
        """How much larger requests may become now, in bytes."""
        step = min(max(1, self.limit // 4), self._maximum - self.limit)
        if self._refused is None:
            return step
        # Half of the way to what was refused, unless that is hardly worth a refusal.
        halfway = (self._refused - self.limit) // 2
        return min(step, halfway) if halfway * 10 > self.limit else 0


_GROW_SECONDS = 20.0  # between two steps up, at first
_GROW_SECONDS_MAX = 640.0  # when steps up keep being refused


class Concurrency:
    """How many requests may be under way at a time: additive increase, multiplicative decrease.

    An answer that says "too busy" (429, 503) halves the number, once for all requests that were under way then. As long
    as requests pass, it grows by one every 20 seconds; each time that the destination is too busy again before all of
    it is back, twice as slowly, since each step too far costs a pause.

    Args:
        maximum: never more.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self.limit = maximum
        self._decreased_at = float("-inf")
        self._stepped_at = float("-inf")
        self._grow_seconds = _GROW_SECONDS

    def busy(self, begun: float, now: float, under_way: int) -> bool:
        """A request was answered with "too busy".

        Args:
            begun: when it began, monotonic, in seconds.
            now: likewise.
            under_way: how many were under way with it, itself among them. One alone says nothing about how many may
                be: that is an outage, or one that is over soon.

        Returns:
            True if there are fewer at a time from now on.
        """
        if under_way < 2 or begun < self._decreased_at:
            return False
        if self.limit < self._maximum:
            self._grow_seconds = min(_GROW_SECONDS_MAX, self._grow_seconds * 2)
        before, self.limit = self.limit, (min(self.limit, under_way) + 1) // 2
        self._decreased_at = self._stepped_at = now
        return self.limit < before

    def passed(self, begun: float, now: float) -> None:
        """A request that began at `begun` was answered otherwise."""
        if self.limit == self._maximum or begun < self._decreased_at or now - self._stepped_at < self._grow_seconds:
            return
        self.limit += 1
        self._stepped_at = now
        if self.limit == self._maximum:
            self._grow_seconds = _GROW_SECONDS
