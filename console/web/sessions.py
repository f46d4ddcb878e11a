"""Who is signed in: kept in memory, so that signing out is final and no session outlives the process.

The cookie holds a random id and nothing else of it. What a person searches for is kept here too, under a random word
that stands in the address instead: patient IDs belong neither in the browser's history nor in a log.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_MOST_SESSIONS = 1000
_MOST_NOTES = 100


@dataclass(slots=True)
class Session:
    """One person at one browser.

    Attributes:
        person: the name, for the history and the log.
        mark: what the password file held for him at signing in; empty for a link.
        seen: when he did something last, on the monotonic clock.
        notes: what he searched for, by the word in the address.
    """

    person: str
    mark: str
    seen: float
    notes: OrderedDict[str, Mapping[str, str]] = field(default_factory=OrderedDict)


class Sessions:
    """The open sessions. Safe to use from several threads.

    Args:
        idle_seconds: how long a session stays open without anything being done.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, idle_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle = idle_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Session] = OrderedDict()

    def open(self, person: str, mark: str = "") -> str:
        """Open a session; its id, which nobody can guess."""
        key = secrets.token_urlsafe(32)
        with self._lock:
            self._sweep()
            self._open[key] = Session(person, mark, self._clock())
            while len(self._open) > _MOST_SESSIONS:
                self._open.popitem(last=False)
        return key

    def find(self, key: object, *, touch: bool) -> Session | None:
        """The session of an id, if it is still open.

        Args:
            key: from the cookie.
            touch: whether a person did something; what the page asks by itself is no sign of anybody.
        """
        if not isinstance(key, str):
            return None
        with self._lock:
            self._sweep()
            session = self._open.get(key)
            if session is not None and touch:
                session.seen = self._clock()
                self._open.move_to_end(key)
            return session

    def close(self, key: object) -> None:
        """Close a session."""
        if isinstance(key, str):
            with self._lock:
                self._open.pop(key, None)

    def _sweep(self) -> None:
        now = self._clock()
        for key, session in list(self._open.items()):
            if now - session.seen < self._idle:
                break  # in the order in which they were seen
            del self._open[key]

    def remember(self, session: Session, note: Mapping[str, str]) -> str:
        """Keep what a person searches for; the word for it."""
        with self._lock:
            for word, kept in session.notes.items():
                if kept == note:
                    session.notes.move_to_end(word)
                    return word
            word = secrets.token_urlsafe(9)
            session.notes[word] = dict(note)
            while len(session.notes) > _MOST_NOTES:
                session.notes.popitem(last=False)
            return word

    def recall(self, session: Session, word: str) -> Mapping[str, str] | None:
        """What was kept under a word of this very session."""
        with self._lock:
            return session.notes.get(word)
