"""watchdog on incoming/: it only wakes. A lost, doubled or late event costs time, never a file."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver
from watchdog.utils import BaseThread

from common import logs

log = logs.get(__name__)

# Opening and reading, which is what deliveries do, must not flood the queue.
_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileMovedEvent,
    FileClosedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]


_LOG_SECONDS = 60.0  # what keeps failing is said at most once in so long


class Watcher(FileSystemEventHandler):
    """Watches a folder and tells of what appears in it.

    Args:
        folder: incoming/.
        seen: called with a path relative to the folder, whether it was closed after writing, and whether it is a
            folder. Called in a thread of watchdog.
        missed: called when events may have been lost.
    """

    def __init__(self, folder: Path, seen: Callable[[str, bool, bool], None], missed: Callable[[], None]) -> None:
        self._folder = folder
        self._seen = seen
        self._missed = missed
        self._observer: BaseObserver | None = None
        self._threads: list[threading.Thread] = []
        self._complaints = logs.OncePer(_LOG_SECONDS)
        self._watched = (0, 0)

    def start(self) -> None:
        """Begin to watch; by polling where the kernel gives no events."""
        try:
            self._watched = self._identity()
            self._observer = self._started(Observer)
        except (OSError, RecursionError) as error:
            # No inotify instance or watch left, a filesystem without events, or folders deeper than watchdog goes.
            self._say("no events from the kernel, polling instead", error)
            try:
                self._observer = self._started(PollingObserver)
            except (OSError, RecursionError) as again:
                self._observer = None
                self._say("incoming cannot be watched, rescans alone find files", again)

    def stop(self) -> None:
        """End watching."""
        if self._observer is not None:
            # Its emitters complain of being stopped; whether they live is looked after in `revive`.
            complaints = logging.getLogger("watchdog.observers.inotify")
            complaints.setLevel(logging.CRITICAL)
            self._observer.stop()
            complaints.setLevel(logging.NOTSET)
            self._observer = None

    def revive(self) -> None:
        """Begin anew if a thread of watchdog died or the folder was replaced; then say that events were missed."""
        try:
            replaced = self._identity() != self._watched
        except OSError:
            return  # the folder is away: the scan complains, and there is nothing to watch
        alive = self._observer is not None and all(thread.is_alive() for thread in self._threads)
        if alive and not replaced:
            return
        reason = "incoming was replaced" if replaced else "a thread that watches has died"
        if self._observer is not None and self._complaints.ready(reason):
            log.warning("watching anew", reason=reason)
        self.stop()
        self.start()
        if self._observer is not None:
            self._missed()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Pass an event on. Called by watchdog, whose thread an exception would end."""
        try:
            path = os.fsdecode(event.dest_path if isinstance(event, FileMovedEvent | DirMovedEvent) else event.src_path)
            name = os.path.relpath(path, self._folder)
            if name == "." or name.startswith(".."):
                return
            self._seen(name, isinstance(event, FileClosedEvent), event.is_directory)
        except Exception:
            log.exception("an event was lost")
            self._missed()

    def _say(self, text: str, error: Exception) -> None:
        if self._complaints.ready(text):
            log.warning(text, reason=getattr(error, "strerror", None) or type(error).__name__)

    def _started(self, make: Callable[[], BaseObserver]) -> BaseObserver:
        before = set(threading.enumerate())
        observer = make()
        observer.daemon = True
        try:
            observer.schedule(self, str(self._folder), recursive=True, event_filter=_EVENTS)
            observer.start()
        except BaseException:
            observer.stop()  # of the threads and descriptors that it has already
            raise
        # Not only the observer and its emitters: the one that reads inotify's descriptor is in neither, and can die
        # of what people do with folders while those two wait for it.
        self._threads = [one for one in threading.enumerate() if isinstance(one, BaseThread) and one not in before]
        return observer

    def _identity(self) -> tuple[int, int]:
        status = os.stat(self._folder)
        return status.st_dev, status.st_ino
