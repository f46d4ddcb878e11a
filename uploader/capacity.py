"""What the destination has shown that it takes: fed by what deliveries come to, asked before the next is begun."""

from common import logs
from uploader.limits import Concurrency, RequestSize
from uploader.settling import Report

log = logs.get(__name__)

_TOO_BUSY = frozenset((429, 503))
_LOG_SECONDS = 60.0  # the same is said at most once in so long


class Capacity:
    """How much may be sent together, and how much at a time.

    Args:
        batch_size: bytes; more is never sent together.
        threads: requests; more are never under way.
    """

    def __init__(self, batch_size: int, threads: int) -> None:
        self._size = RequestSize(batch_size)
        self._concurrency = Concurrency(threads)
        self._said = logs.OncePer(_LOG_SECONDS)

    @property
    def request_bytes(self) -> int:
        """Bytes that may go in one request."""
        return self._size.limit

    @property
    def requests(self) -> int:
        """Requests that may be under way at a time."""
        return self._concurrency.limit

    def learn(self, report: Report, begun: float, now: float, under_way: int) -> None:
        """Take note of what a delivery came to.

        Args:
            report: of that delivery.
            begun: when it began, monotonic, in seconds.
            now: likewise.
            under_way: how many were under way with it, itself among them.
        """
        smaller = [self._size.note(request, now) for request in report.sizes]
        if any(smaller) and self._said.ready("smaller"):
            log.info(
                "the destination refuses requests of this size, sending smaller ones",
                refused_bytes=max(request.size_bytes for request in report.sizes if request.refused),
                limit_bytes=self._size.limit,
            )
        if report.trouble is not None and report.trouble.http_status in _TOO_BUSY:
            if self._concurrency.busy(begun, now, under_way) and self._said.ready("fewer"):
                log.info("the destination is too busy, sending fewer requests at a time", requests=self.requests)
        elif report.answered:
            self._concurrency.passed(begun, now)
