"""Directories and names, as every folder of the spool sees them."""

import os
import re
from pathlib import Path

_FULL_BYTES = 1024 * 1024
_OUR_NAME = re.compile(r"[0-9a-f]{32}\.dcm\Z")


def is_ours(name: str) -> bool:
    """Tell whether `name` is one that a receiver gave: 32 hex digits and .dcm."""
    return _OUR_NAME.match(name) is not None


def is_hidden(name: str) -> bool:
    """Tell whether any component of a relative path is not ours to touch: starts with a dot, or is *.part."""
    if "/" not in name:
        return name.startswith(".") or name.endswith(".part")
    return any(is_hidden(part) for part in name.split("/"))


def is_full(path: Path) -> bool:
    """Tell whether the disk of a folder has no room for what a small write may need; no, if it cannot be asked."""
    try:
        status = os.statvfs(path)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < _FULL_BYTES


class HeldDirectory:
    """A directory that is flushed again and again. For one thread at a time.

    It is kept open, since the kernel tells of a failed write once to each descriptor that was open by then: one that is
    opened for the flush would not be told of an error that another process has been told of.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._identity = (0, 0)

    def hold(self) -> None:
        """Open it, unless it is.

        Raises:
            OSError: it cannot be opened.
        """
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._identity = _identity(os.fstat(self._fd))

    def sync(self) -> None:
        """Flush the entries of the directory that has the name now.

        Raises:
            OSError: what changed in it since the last flush may not be durable.
        """
        if self._fd >= 0 and _identity(os.stat(self._path)) != self._identity:
            self.release()  # moved away, and another is in its place
        self.hold()
        try:
            os.fsync(self._fd)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Close it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.release()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to disk.

    Raises:
        OSError: they may not be durable.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
