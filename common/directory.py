"""Directories and names, as every folder of the spool sees them.

People drop whole folders into incoming/, move them about, and put links in their place. A path would be followed
through such a link, out of the spool. So an entry of a folder below is reached by descriptors of the folders on the
way, none of which is a link; that also reaches folders whose path is longer than the kernel takes.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

_FULL_BYTES = 1024 * 1024
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

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


def open_folder(root: str | int, folder: str) -> int:
    """Open a folder by its path relative to `root`, for reading; whoever gets the descriptor closes it.

    Args:
        root: a path, or the descriptor of a folder.
        folder: not empty.

    Raises:
        NotADirectoryError: something on the way is no folder, but a link, say.
        OSError: it is not there, or cannot be read.
    """
    *way, last = folder.split("/")
    fd = os.dup(root) if isinstance(root, int) else os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in way:
            below = os.open(part, os.O_PATH | _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
        return os.open(last, os.O_RDONLY | _FOLDER, dir_fd=fd)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        raise
    finally:
        os.close(fd)


class Walk:
    """The way through a tree of folders, entered one after the other; no link is followed.

    Who enters one below the last one goes on from there: the way to a folder is not gone from the beginning for each.

    Args:
        root: the path of the folder on top.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._folder = ""
        self._fd = -1

    def enter(self, folder: str) -> int:
        """A descriptor of a folder, by its path relative to the root; good until the next call.

        Raises:
            OSError: as open_folder does.
        """
        below = folder[len(self._folder) + 1 :] if self._folder and folder.startswith(f"{self._folder}/") else ""
        if not folder:
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        elif below:
            fd = open_folder(self._fd, below)
        else:
            fd = open_folder(self._root, folder)
        self.close()
        self._folder, self._fd = folder, fd
        return fd

    def close(self) -> None:
        """Leave."""
        fd, self._fd, self._folder = self._fd, -1, ""
        if fd >= 0:
            os.close(fd)


@contextlib.contextmanager
def parent_of(root: str, name: str) -> Iterator[tuple[int | None, str]]:
    """Where an entry below `root` lies: the descriptor of its folder, and its name there, for calls with a `dir_fd`.

    For an entry of `root` itself: no descriptor, and its path.

    Raises:
        NotADirectoryError: something on the way is no folder, but a link, say.
        OSError: its folder is not there, or cannot be read.
    """
    folder, _, last = name.rpartition("/")
    if not folder:
        yield None, f"{root}/{name}"
        return
    fd = open_folder(root, folder)
    try:
        yield fd, last
    finally:
        os.close(fd)


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
