"""Who may sign in to the page by name and password: lines of `name:hash` in users_file, made by `console user`.

The hashes are scrypt's (werkzeug.security), so that the file alone opens nothing. The file is read at each use: who is
taken out of it is signed out, and a password that was changed signs out whoever came with the old one.
"""

import contextlib
import os
import re
import threading
import uuid
from pathlib import Path

from werkzeug.security import check_password_hash, generate_password_hash

LEAST_CHARACTERS = 12
MOST_CHARACTERS = 1000
_NAME = re.compile(r"[^\W:](?:[\w.@ -]{0,62}[\w.@-])?\Z")
_HASH = re.compile(r"scrypt:[0-9]+:[0-9]+:[0-9]+\$[^$\s]+\$[0-9a-f]+\Z")
_MOST_BYTES = 1024 * 1024
_NOBODY = generate_password_hash("nobody has this password")


class UsersError(Exception):
    """The file cannot be read or written, or a line of it is wrong. Its text holds no hash."""


def is_name(name: str) -> bool:
    """Tell whether a name may stand in the file: letters, digits, and . _ - @ or a space inside; 64 at most."""
    return _NAME.match(name) is not None


class Users:
    """The users of one file.

    Args:
        path: the file.
    """

    # scrypt takes 32 MB and tens of milliseconds: a flood of attempts must not take all of the machine.
    _checking = threading.Semaphore(2)

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, str]:
        """The hashes by name.

        Raises:
            UsersError: the file cannot be read, or a line of it is wrong.
        """
        try:
            with open(self.path, encoding="utf-8") as file:
                text = file.read(_MOST_BYTES)
        except (OSError, ValueError) as error:
            found = getattr(error, "strerror", None) or "no UTF-8"
            raise UsersError(f"expected to read the users in {self.path}, found: {found}") from None
        users: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, colon, hashed = line.strip().partition(":")
            if not colon or not is_name(name) or not _HASH.match(hashed):
                raise UsersError(
                    f"{self.path}, line {number}: expected name:hash by `console user`, found another form"
                )
            users[name] = hashed
        return users

    def check(self, name: str, password: str) -> str | None:
        """The mark of a user if the password is right, else None; it takes as long for a name that is unknown.

        Raises:
            UsersError: the file cannot be read.
        """
        hashed = self.read().get(name)
        with self._checking:
            right = check_password_hash(hashed or _NOBODY, password[:MOST_CHARACTERS])
        return hashed if right and hashed is not None else None

    def still(self, name: str, mark: str) -> bool:
        """Tell whether a user is still there with the password that he came with."""
        try:
            return self.read().get(name) == mark
        except UsersError:
            return False

    def put(self, name: str, password: str) -> None:
        """Add a user, or give him another password.

        Raises:
            UsersError: the file cannot be read or written.
        """
        users = self.read() if self.path.exists() else {}
        self._write({**users, name: generate_password_hash(password)})

    def remove(self, name: str) -> bool:
        """Take a user out; False if there is none of that name.

        Raises:
            UsersError: the file cannot be read or written.
        """
        users = self.read()
        if users.pop(name, None) is None:
            return False
        self._write(users)
        return True

    def _write(self, users: dict[str, str]) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}.part")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                file.writelines(f"{name}:{hashed}\n" for name, hashed in users.items())
                file.flush()
                os.fsync(fd)
            os.rename(temporary, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise UsersError(f"expected to write {self.path}, found: {error.strerror}") from None
