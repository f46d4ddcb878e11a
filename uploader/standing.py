"""How the destination stands, for people to see: what the loop knows, as a value that other threads may read.

The loop replaces it at a turn of its own when something has changed; while all is well that is one comparison. Whoever
shows it takes what is there: nothing is locked, and nothing is asked of the loop.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from common.logs import escape
from common.records import utc_text
from uploader.destination import Destination, Mode
from uploader.verdict import Trouble

_REASON_CHARACTERS = 400


class Standing:
    """The state of the destination as it was at the loop's last turn.

    Args:
        now: the wall clock, an aware datetime.

    Attributes:
        destination: mode, reason, http_status, since and next_probe_at; and last_trouble (at, reason, http_status),
            which stays when the destination is open again. Of JSON types; replaced, never changed.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._mode = Mode.OPEN
        self._probe_at: float | None = None
        self._trouble: Trouble | None = None
        self.destination: Mapping[str, Any] = {
            "mode": Mode.OPEN.value,
            "reason": "",
            "http_status": None,
            "since": _seconds(now()),
            "next_probe_at": None,
            "last_trouble": None,
        }

    def note(self, destination: Destination, monotonic: float) -> None:
        """Take over what has changed. For the loop alone.

        Args:
            destination: its state.
            monotonic: the time, in seconds.
        """
        mode, probe_at, trouble = destination.mode, destination.next_probe_at, destination.trouble
        if mode is self._mode and (mode is Mode.OPEN or (probe_at == self._probe_at and trouble is self._trouble)):
            return
        now = self._now()
        said = dict(self.destination)
        if mode is not self._mode:
            said.update(mode=mode.value, since=_seconds(now))
        # Made into a time of day once: made anew at each look it would change with each.
        if probe_at != self._probe_at:
            left = None if probe_at is None else timedelta(seconds=probe_at - monotonic)
            said["next_probe_at"] = None if left is None else _seconds(now + left)
        if mode is Mode.OPEN or trouble is None:
            said.update(reason="", http_status=None)
        else:
            what = {"reason": escape(trouble.detail, _REASON_CHARACTERS), "http_status": trouble.http_status}
            if trouble is not self._trouble:
                said["last_trouble"] = {"at": _seconds(now), **what}
            said.update(what)
        self.destination = said
        self._mode, self._probe_at, self._trouble = mode, probe_at, trouble


def _seconds(moment: datetime) -> str:
    return utc_text(moment.replace(microsecond=0))
