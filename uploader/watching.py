"""Tells an operator slow from stuck: a line in the log and a row in the ledger for each request that takes long.

Both at a bounded rate, and nothing at all for requests that end within one interval. Nothing here is fatal, and nothing
decides: a request that stands still is cut by its own timeouts.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from common import logs
from common.errors import LedgerError
from common.records import Transfer
from uploader.progress import Motion, Progress

log = logs.get(__name__)

_EVERY_SECONDS = 10.0

Record = Callable[[Sequence[Transfer], Sequence[str]], None]


class Watching:
    """Watches the requests of a process.

    Args:
        progress: the requests.
        record: writes how far some are into the ledger, and forgets others by name; may raise LedgerError.
        every: seconds from one report to the next; a request younger than that is not reported.
        now: the wall clock, an aware datetime.
    """

    def __init__(
        self,
        progress: Progress,
        record: Record,
        *,
        every: float = _EVERY_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._progress = progress
        self._record = record
        self._every = every
        self._now = now
        self._recorded: set[str] = set()
        self._before: dict[Motion, tuple[int, float]] = {}  # bytes out, and when: at the last report

    def run(self, stopped: threading.Event) -> None:
        """Report until stopped."""
        while not stopped.wait(self._every):
            self.report()

    def report(self) -> None:
        """Say how far the requests are that have been under way for long."""
        moment = self._progress.clock()
        long = [one for one in self._progress.under_way() if moment - one.begun >= self._every]
        self._write(long, moment)
        for one in long:
            self._say(one, moment)
        self._before = {one: (one.sent_bytes, moment) for one in long}

    def close(self) -> None:
        """Forget the requests that were recorded: this process ends."""
        self._write([], 0.0)

    def _write(self, long: Sequence[Motion], moment: float) -> None:
        names = {one.name for one in long}
        ended = sorted(self._recorded - names)
        if not long and not ended:
            return
        now = self._now()

        def wall(monotonic: float) -> datetime:
            return now - timedelta(seconds=moment - monotonic)

        transfers = [
            Transfer(one.name, one.instances, one.size_bytes, one.sent_bytes, wall(one.begun), wall(one.moved_at))
            for one in long
        ]
        try:
            self._record(transfers, ended)
        except LedgerError as error:
            log.debug("progress not recorded", error=str(error))
        else:
            self._recorded = names

    def _say(self, one: Motion, moment: float) -> None:
        fields = {
            "file": logs.file_label(one.name),
            "instances": one.instances,
            "size_bytes": one.size_bytes,
            "sent_bytes": one.sent_bytes,
            "seconds": round(moment - one.begun),
        }
        still = round(moment - one.moved_at)
        if one.size_bytes and one.sent_bytes >= one.size_bytes:
            log.info("sent, the answer is waited for", waiting_seconds=still, **fields)
        elif moment - one.moved_at >= self._every:
            log.warning("sending stands still", still_seconds=still, **fields)
        else:
            sent_before, since = self._before.get(one, (0, one.begun))
            rate = (one.sent_bytes - sent_before) / max(moment - since, 0.001)
            log.info("sending", bytes_per_second=round(rate), **fields)
