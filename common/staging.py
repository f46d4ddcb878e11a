"""Files being received: from the first byte in staging/ to the final name in incoming/.

The step numbers (R1 to R6) are those of docs/design.md. An OSError from any step reaches the caller, who
withdraws the file: after a failed write or fsync nothing may be trusted on that descriptor again.
"""

import contextlib
import fcntl
import os
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from common.directory import HeldDirectory
from common.writeback import start_writing

# Filesystems keep a file in pieces of memory as large as the aligned writes that made it: 500 kB in writes of 16 kB,
# behind a header that aligns with nothing, cost twice the processor time of writes that end at these blocks.
_BLOCK = 128 * 1024  # bytes
_WRITE_AT_ONCE = 4 * 1024 * 1024  # bytes; the disk begins with less when the file is whole


class Staging:
    """The folder staging/, whose files move on to incoming/.

    Args:
        path: the folder staging/.
        incoming: the folder incoming/, on the same filesystem.
    """

    def __init__(self, path: Path, incoming: Path) -> None:
        self.path = path
        self.incoming = incoming
        self._names = HeldDirectory(incoming)
        self._left: deque[str] = deque()  # files that could not be removed when they were withdrawn

    def open(self) -> "Staged":
        """Open a new file in staging/ under a random name (R1), claimed from its first byte.

        Raises:
            OSError: staging/ cannot be written (ENOSPC, EROFS, …).
        """
        self._names.hold()
        if self._left:
            self._remove_left()
        while True:
            name = uuid.uuid4().hex + ".dcm"
            path = f"{self.path}/{name}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                staged = Staged(path, f"{self.incoming}/{name}", fd, self._left.append)
                # A sweep may have claimed and unlinked it between the two calls.
                if staged.is_there():
                    return staged
            except BlockingIOError:
                pass
            except OSError:
                os.close(fd)
                with contextlib.suppress(OSError):
                    os.unlink(path)
                raise
            os.close(fd)

    def _remove_left(self) -> None:
        with contextlib.suppress(IndexError, OSError):
            while True:
                path = self._left.popleft()
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    pass
                except OSError:
                    self._left.append(path)
                    raise

    def sweep(self) -> int:
        """Remove what a dead receiver left in staging/, and count it. Files of a living one are claimed and stay."""
        removed = 0
        with os.scandir(self.path) as entries:
            for entry in entries:
                if not entry.is_file(follow_symlinks=False):
                    continue
                with contextlib.suppress(OSError):
                    fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.unlink(entry.path)
                        removed += 1
                    finally:
                        os.close(fd)
        return removed

    def sync_incoming(self) -> None:
        """Flush the directory incoming/ itself (R4): every rename into it before this call is then durable.

        By one thread at a time. When it fails, the renames before it may never become durable, whatever is said later.

        Raises:
            OSError: incoming/ cannot be flushed.
        """
        self._names.sync()


class Staged:
    """A file being received. It is claimed, and so invisible to an uploader, until it is closed.

    The order that the guarantee demands: write, `sync` (R2), `rename` (R3), `Staging.sync_incoming` (R4), the
    ledger row (R5), then `close`, then the answer to the sender (R6). After an OSError from any of them
    nothing may be trusted on this descriptor: `withdraw`.
    """

    def __init__(self, path: str, target: str, fd: int, left: Callable[[str], None] = lambda _: None) -> None:
        self._fd = fd
        self._left = left
        self._path = path
        self._target = target
        self._rest = bytearray()  # what was appended and does not fill a block yet
        self._started = 0  # bytes whose way to the disk has begun
        self.name = os.path.basename(target)
        self.size_bytes = 0

    def is_there(self) -> bool:
        """Tell whether it still has a name."""
        return os.fstat(self._fd).st_nlink > 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`. The file gets it by the block; what does not fill one is kept until more comes, or `sync`."""
        room = _BLOCK - self.size_bytes % _BLOCK
        if len(data) < room:
            self._rest += data
        else:
            view = memoryview(data)
            end = len(data) - (len(data) - room) % _BLOCK
            self._put(view[:end])
            self._rest += view[end:]
        self.size_bytes += len(data)
        if self.size_bytes - self._started >= _WRITE_AT_ONCE:
            self._start()

    def _put(self, data: bytes | memoryview = b"") -> None:
        """Write what was kept, and `data`."""
        left = len(self._rest) + len(data) - os.writev(self._fd, (self._rest, data))
        if left:
            view = memoryview(b"".join((self._rest, data)))[-left:]
            while view:
                view = view[os.write(self._fd, view) :]
        self._rest.clear()

    def _start(self) -> None:
        end = self.size_bytes - len(self._rest)
        start_writing(self._fd, self._started, end - self._started)
        self._started = end

    def begin_flush(self) -> None:
        """Let the disk begin with all of it, so that `sync` has less to wait for. Promises nothing."""
        if self._rest:
            self._put()
        self._start()

    def reader(self, offset: int) -> BinaryIO:
        """What was appended so far, from `offset` on. It shares the descriptor's position: write no more after it."""
        if self._rest:
            self._put()
        reader = os.fdopen(os.dup(self._fd), "rb")
        reader.seek(offset)
        return reader

    def sync(self) -> None:
        """Flush the file's bytes and size to disk (R2)."""
        if self._rest:
            self._put()
        os.fsync(self._fd)

    def rename(self) -> None:
        """Give the file its final name in incoming/ (R3), with all that was appended in it."""
        if self._rest:
            raise AssertionError("expected a file that is flushed (R2) before it is renamed (R3)")
        os.rename(self._path, self._target)
        self._path = self._target

    def withdraw(self) -> None:
        """Remove the file, wherever it is by now: it was not acknowledged, the sender still has it."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError:
            # Such as on a disk that has become read-only. In incoming/ it stays and is delivered unasked; in staging/
            # it would be in the way until the next start.
            if self._path != self._target:
                self._left(self._path)
        self.close()

    def close(self) -> None:
        """Drop the claim. For an uploader, the close of a written file is the sign to look."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # Forgotten first: a close that fails must not be tried again, when the number may be another file's.
            os.close(fd)
