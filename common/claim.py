"""A claimed file of incoming/: reading it, telling whether it is still what was claimed, deleting it (U5).

A claim is a `flock` on an open descriptor: the kernel drops it when the process dies.
"""

import contextlib
import os
import stat
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

from common.directory import is_ours, parent_of


@dataclass(frozen=True, slots=True)
class Signature:
    """What changes when a file is written to or replaced: inode, size in bytes, mtime and ctime in ns."""

    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """The signature in a stat result."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_of(self, status: os.stat_result) -> bool:
        """Whether a stat result has this signature."""
        return (
            self.inode == status.st_ino
            and self.size_bytes == status.st_size
            and self.mtime_ns == status.st_mtime_ns
            and self.ctime_ns == status.st_ctime_ns
        )

    def is_renamed(self, status: os.stat_result) -> bool:
        """Whether a stat result is of the same bytes under another name: a rename changes the ctime."""
        return self.inode == status.st_ino and self.size_bytes == status.st_size and self.mtime_ns == status.st_mtime_ns


class Claim:
    """A file of incoming/ that is ours to deliver until `close`."""

    def __init__(self, incoming: str, name: str, fd: int, signature: Signature) -> None:
        self._incoming = incoming
        self.fd = fd
        self.name = name
        self.signature = signature
        self.deleted = False

    @property
    def size_bytes(self) -> int:
        """The size when it was claimed, in bytes."""
        return self.signature.size_bytes

    def reader(self) -> BinaryIO:
        """The file from its start. Readers of one claim share a position: use one at a time."""
        reader = os.fdopen(os.dup(self.fd), "rb")
        reader.seek(0)
        return reader

    def read_at(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; fewer only at the end of the file."""
        return os.pread(self.fd, length, offset)

    def send_at(self, out: int, offset: int, length: int) -> int:
        """Have the kernel send at most `length` bytes from `offset` to a socket; how many it took, 0 only at the end.

        Raises:
            BlockingIOError: the socket takes none now.
            OSError: of the file or of the socket.
        """
        return os.sendfile(out, self.fd, offset, length)

    def unchanged(self) -> bool:
        """Tell whether the name still leads to the very bytes that were claimed."""
        try:
            if "/" not in self.name:
                return self.signature.is_of(os.lstat(f"{self._incoming}/{self.name}"))
            with parent_of(self._incoming, self.name) as (parent, path):
                return self.signature.is_of(os.stat(path, dir_fd=parent, follow_symlinks=False))
        except OSError:
            return False

    def delete(self) -> bool:
        """Remove the file (U5). The caller has the proof that the destination stored it.

        Returns:
            False if other bytes are there by now: they stay, and are owed.

        Raises:
            OSError: it could not be removed; it stays owed.
        """
        self.deleted = self._remove()
        return self.deleted

    def _remove(self) -> bool:
        try:
            if is_ours(self.name):
                os.unlink(f"{self._incoming}/{self.name}")  # no receiver gives a name twice
                return True
            with parent_of(self._incoming, self.name) as (parent, path):
                return self._delete_dropped(path, parent)
        except (FileNotFoundError, NotADirectoryError):
            return True

    def _delete_dropped(self, path: str, parent: int | None) -> bool:
        """Remove a file whose name a person may use again at this very moment.

        It gets another name first, at which nobody puts another file, and is looked at there. A crash right after that
        leaves it as a file like any other.
        """
        folder = f"{self._incoming}/" if parent is None else ""
        aside = f"{folder}leaving-{uuid.uuid4().hex}.dcm"
        os.rename(path, aside, src_dir_fd=parent, dst_dir_fd=parent)
        status = os.stat(aside, dir_fd=parent, follow_symlinks=False)
        if self.signature.is_renamed(status):
            os.unlink(aside, dir_fd=parent)
            return True
        # Back again; if a third one has the name by now, this one is delivered under the name that it has.
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(status.st_mode):
                os.rename(aside, path, src_dir_fd=parent, dst_dir_fd=parent)
            else:
                os.link(aside, path, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
                os.unlink(aside, dir_fd=parent)
        return False

    def close(self) -> None:
        """Drop the claim."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
