"""Links by which whoever can read the spool signs in to the page, once and within minutes.

`serve` writes a random key into processes/ of the spool, 0600, anew at each start; `python -m console sign-in` signs a
token with it. So nothing is kept in the configuration, nothing is said in a log, and no link outlives a restart.

The token stands behind the # of the link: a browser sends that part to no server, and the page takes it out of its
address and history before it posts it.
"""

import contextlib
import os
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from itsdangerous import BadData, URLSafeTimedSerializer

from common.presence import FOLDER

VALID_SECONDS = 300
_FILE = "sign-in.key"
_SALT = "stowgate-sign-in"
_KEY_BYTES = 64
_MOST_USED = 10_000


class NoKeyError(Exception):
    """There is no key: the page does not run, or this user may not read it. Its text says which."""


class Links:
    """The side of the page: makes the key, and takes each token once.

    Args:
        spool: the spool directory.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, spool: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = spool / FOLDER / _FILE
        self._key = secrets.token_hex(_KEY_BYTES // 2)
        self._clock = clock
        self._lock = threading.Lock()
        self._used: dict[str, float] = {}

    def publish(self) -> None:
        """Put the key where `make_token` finds it, in the place of any other.

        Raises:
            OSError: it cannot be written: nobody can sign in by a link.
        """
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        temporary = self._path.with_name(f".{uuid.uuid4().hex}.part")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(fd, 0o600)
            os.write(fd, self._key.encode())
            os.rename(temporary, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(fd)

    def withdraw(self) -> None:
        """Take the key away, if it is still ours."""
        with contextlib.suppress(OSError):
            if self._path.read_text("ascii", "replace") == self._key:
                os.unlink(self._path)

    def redeem(self, token: str) -> str | None:
        """Who made this token; None if it is none of ours, too old, or was used already."""
        try:
            said = _serializer(self._key).loads(token, max_age=VALID_SECONDS)
            person, nonce = str(said["by"]), str(said["nonce"])
        except (BadData, KeyError, TypeError):
            return None
        with self._lock:
            now = self._clock()
            self._used = {one: until for one, until in self._used.items() if until > now}
            if nonce in self._used or len(self._used) >= _MOST_USED:
                return None
            # Longer than the token is valid: its time is of the wall clock, in whole seconds.
            self._used[nonce] = now + VALID_SECONDS + 60
        return person


def make_token(spool: Path, person: str) -> str:
    """A token for a person, who can read the spool.

    Raises:
        NoKeyError: there is no key to sign it with.
    """
    path = spool / FOLDER / _FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NoKeyError(f"expected the key of a running page in {path}, found none: start `console serve`") from None
    except OSError as error:
        raise NoKeyError(f"expected to read {path}, found: {error.strerror}") from None
    with open(fd, encoding="ascii", errors="replace") as file:
        key = file.read(2 * _KEY_BYTES)
    if len(key) != _KEY_BYTES:
        raise NoKeyError(f"expected {path} to hold a key of {_KEY_BYTES} characters, found {len(key)}")
    return str(_serializer(key).dumps({"by": person, "nonce": secrets.token_hex(12)}))


def _serializer(key: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(key, salt=_SALT)
