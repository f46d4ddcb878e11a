"""Looking every few seconds, and telling people by the ways of section [notify]. Started by `python -m console serve`.

Nothing here is fatal: a look that fails is logged and the next one comes; what cannot be delivered waits in its outbox.
"""

import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from common import logs
from common.config import Config, NotifyConfig
from console.activity import History
from console.notices.channels import Channel
from console.notices.mail import Mail
from console.notices.memory import Memory
from console.notices.outbox import Outbox
from console.notices.signs import signs
from console.notices.telling import Told, step
from console.notices.webhook import Webhook
from console.overview import Overview, look

log = logs.get(__name__)

_EVERY_SECONDS = 5.0
_LAST_SECONDS = 2.0  # for what is under way at the end


def channels(settings: NotifyConfig) -> list[Channel]:
    """The ways to people that are configured."""
    host = socket.gethostname()
    found: list[Channel] = []
    if settings.webhook_url:
        found.append(Webhook(settings, host))
    if settings.mail_server:
        found.append(Mail(settings, host))
    return found


class Notices:
    """Tells people of trouble.

    Args:
        config: the configuration.
        history: what happened over time; whoever made it runs it.
        look: how all of it is now.
        clock: the time.
        every: seconds between two looks.
    """

    def __init__(
        self,
        config: Config,
        history: History,
        *,
        look: Callable[[Config], Overview] = look,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        every: float = _EVERY_SECONDS,
    ) -> None:
        self._config = config
        self._history = history
        self._look = look
        self._clock = clock
        self._every = every
        self._memory = Memory(config.spool.directory)
        self._outboxes: list[Outbox] = []

    def run(self, stopped: threading.Event) -> None:
        """Tell until stopped. Returns at once if nobody is to be told."""
        ways = channels(self._config.notify)
        if not ways or not self._claimed(stopped):
            return
        told, waiting = self._memory.load()
        self._outboxes = [Outbox(way, waiting.get(way.name, ())) for way in ways]
        for outbox in self._outboxes:
            outbox.start()
        log.info("telling people of trouble", by=",".join(way.name for way in ways))
        while True:
            try:
                told = self.once(told)
            except Exception:
                log.exception("look for notices failed")
            self._keep(told)
            if stopped.wait(self._every):
                break
        for outbox in self._outboxes:
            outbox.close(_LAST_SECONDS)
        self._keep(told)
        self._memory.release()

    def once(self, told: Told) -> Told:
        """Look once, and have said what is to be said; gives what is to be remembered."""
        overview = self._look(self._config)
        quarantined = None
        if not overview.ledger_error:
            quarantined = sum(minute.quarantined for minute in self._history.minutes(60))
        settings = self._config.notify
        told, notice = step(told, signs(overview, quarantined, settings), self._clock(), settings.repeat_seconds)
        if notice is not None:
            log.warning("telling people", troubles=",".join(f"{line.change}:{line.key}" for line in notice.lines))
            for outbox in self._outboxes:
                outbox.put(notice)
        return told

    def _claimed(self, stopped: threading.Event) -> bool:
        """Wait until no other console tells; False if stopped before."""
        said = False
        while True:
            try:
                if self._memory.claim():
                    return True
                reason = "another console tells"
            except OSError as error:
                reason = error.strerror or type(error).__name__
            if not said:
                log.info("notices wait", reason=reason)
                said = True
            if stopped.wait(self._every):
                return False

    def _keep(self, told: Told) -> None:
        self._memory.save(told, {outbox.name: outbox.waiting() for outbox in self._outboxes})
