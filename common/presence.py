"""What a living process says of itself, for people to read: one small file in processes/, claimed while it lives.

Not in the ledger, since it is wanted most when the ledger, the disk or the database lock is the trouble. The file is
written in place, at a bounded rate, and never flushed: it is worth nothing after a crash, and a reader that meets half
of a change reads again. The kernel drops the claim (`flock`) with the process: what nobody claims is of a dead one, and
the next process that starts removes it.

A wish of a person for the uploader (to probe the destination now) goes the other way: a file whose time changes.

Errors: none reach the caller. A process that cannot say how it is goes on with its work.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common import logs
from common.directory import is_hidden
from common.records import utc_text

log = logs.get(__name__)

FOLDER = "processes"
_PROBE_WISH = "probe-now"
_SUFFIX = ".json"
_SIZE = 4096  # bytes of the file, allocated once: a full disk does not silence who tells of it
_LOOK_SECONDS = 0.5  # so often it is looked whether there is something new to say
_SAY_SECONDS = 5.0  # so often it is said again, as a sign of life
_CLOSE_SECONDS = 1.0  # a disk that hangs holds up no end


@dataclass(frozen=True, slots=True)
class Process:
    """A living process.

    Attributes:
        role: receiver, uploader or console.
        pid: on its host.
        host: its name.
        started_at: an aware datetime.
        seen_at: when it said this: some seconds ago at most, unless it is stopped or stuck.
        facts: what it says, by its role.
    """

    role: str
    pid: int
    host: str
    started_at: datetime
    seen_at: datetime
    facts: Mapping[str, Any] = field(default_factory=dict)


class Presence:
    """Says how this process is, from a thread of its own.

    Args:
        spool: the spool directory.
        role: receiver, uploader or console.
        facts: asked for what to say, twice a second: small, of JSON types, without patient data.
        probe: called when a person wishes that the destination be probed now.
    """

    def __init__(
        self,
        spool: Path,
        role: str,
        facts: Callable[[], Mapping[str, Any]] = dict,
        *,
        probe: Callable[[], None] | None = None,
    ) -> None:
        self._folder = spool / FOLDER
        self._role = role
        self._facts = facts
        self._probe = probe
        self._path = self._folder / f"{role}-{uuid.uuid4().hex}{_SUFFIX}"
        self._started_at = datetime.now(UTC)
        self._fd = -1
        self._said: Mapping[str, Any] | None = None
        self._said_at = 0.0
        self._wished_at = _wish_time(self._folder)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Begin to say it, now and from now on."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            _sweep(self._folder)
        except OSError as error:
            log.debug("presence not shown", reason=error.strerror)
        self.say()
        self._thread.start()

    def close(self) -> None:
        """Say no more, and take the file away."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_SECONDS)
            if self._thread.is_alive():
                return
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            os.close(self._fd)
            self._fd = -1

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            self.say()
            if self._probe is not None and (wished_at := _wish_time(self._folder)) != self._wished_at:
                self._wished_at = wished_at
                if wished_at:
                    self._probe()

    def say(self) -> None:
        """Say how this process is, if that is new or was not said for some seconds."""
        try:
            facts = dict(self._facts())
            now = time.monotonic()
            if facts == self._said and now - self._said_at < _SAY_SECONDS:
                return
            self._write(facts)
        except Exception as error:  # noqa: BLE001 - whatever it is, the work goes on
            log.debug("presence not shown", reason=error)
        else:
            self._said, self._said_at = facts, now

    def _write(self, facts: Mapping[str, Any]) -> None:
        if self._fd >= 0 and not self._is_seen():
            os.close(self._fd)
            self._fd = -1
        if self._fd < 0:
            self._fd = self._create()
        said = {
            "role": self._role,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started_at": utc_text(self._started_at),
            "seen_at": utc_text(datetime.now(UTC)),
            "facts": facts,
        }
        text = _encoded(said)
        if len(text) > _SIZE:
            text = _encoded({**said, "facts": {}})
        os.pwrite(self._fd, text.ljust(_SIZE), 0)

    def _is_seen(self) -> bool:
        """Tell whether the name still leads to the file that is open: a person may take it, or the folder, away."""
        try:
            return os.path.samestat(os.lstat(self._path), os.fstat(self._fd))
        except OSError:
            return False

    def _create(self) -> int:
        """Create the file, claimed before anybody sees its name."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        hidden = self._path.with_name(f".{self._path.name}.part")
        fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(fd, b" " * _SIZE, 0)
            os.rename(hidden, self._path)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(hidden)
            raise
        return fd


def processes(spool: Path) -> list[Process]:
    """The living processes of a spool, by role and start.

    Raises:
        OSError: the folder cannot be read. One that is not there is no error: nothing is running.
    """
    folder = spool / FOLDER
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    said = (_read(folder / name) for name in names if name.endswith(_SUFFIX) and not is_hidden(name))
    return sorted(filter(None, said), key=lambda process: (process.role, process.started_at, process.pid))


def wish_probe(spool: Path) -> None:
    """Wish that every uploader probe the destination now instead of at the end of its pause.

    Raises:
        OSError: it cannot be written.
    """
    folder = spool / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(folder / _PROBE_WISH, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.utime(fd)
    finally:
        os.close(fd)


def _encoded(said: Mapping[str, Any]) -> bytes:
    # As escapes, lone surrogates are JSON; all others are shorter as they are.
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")


def _wish_time(folder: Path) -> int:
    try:
        return os.lstat(folder / _PROBE_WISH).st_mtime_ns
    except OSError:
        return 0


def _read(path: Path) -> Process | None:
    """What a file says, if a living process claims it."""
    for _ in range(3):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if _is_free(fd, fcntl.LOCK_SH):
                return None
            said = json.loads(os.pread(fd, _SIZE, 0))
            return Process(
                role=str(said["role"]),
                pid=int(said["pid"]),
                host=str(said["host"]),
                started_at=datetime.fromisoformat(said["started_at"]),
                seen_at=datetime.fromisoformat(said["seen_at"]),
                facts=dict(said["facts"]),
            )
        except (ValueError, KeyError, TypeError, OSError):
            time.sleep(0.001)  # it is being written
        finally:
            os.close(fd)
    return None


def _is_free(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sweep(folder: Path) -> None:
    """Remove what dead processes left."""
    for path in _left(folder):
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if _is_free(fd, fcntl.LOCK_EX):
                    os.unlink(path)
            finally:
                os.close(fd)


def _left(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if entry.is_file(follow_symlinks=False) and (name.endswith((_SUFFIX, f"{_SUFFIX}.part"))):
                yield Path(entry.path)
