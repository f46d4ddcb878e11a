"""Where the instances go: a folder of <SOP Instance UID>.dcm, or nowhere (--null).

Parts are written to .partial/ inside the folder and renamed when they are complete, so that a file under a final
name is always whole. Nothing is flushed to the disk: this is no archive. Callers give valid UIDs only
(sandbox.part10.is_uid); that is what keeps a peer from naming paths.
"""

import contextlib
import filecmp
import os
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from typing import BinaryIO

from sandbox.part10 import HEAD_BYTES, is_uid
from sandbox.rules import Exists

_SUFFIX = ".dcm"


class Placed(Enum):
    """What became of a complete part."""

    STORED = "stored"
    """It is there now, or was there already with the same bytes."""
    DIFFERENT = "different"
    """Another instance of the same UID is there, or one that counts as another, and stays."""
    UNWRITABLE = "unwritable"
    """The disk did not take it."""


class Partial:
    """One part on its way in.

    Attributes:
        head: its first HEAD_BYTES bytes at most, for the check.
        size_bytes: the bytes written so far.
        broken: the disk did not take it; the rest is read and thrown away.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.head = bytearray()
        self.size_bytes = 0
        self.broken = False
        self._file: BinaryIO | None = None
        if path is not None:
            with self._breaking():
                self._file = open(path, "xb", opener=_private)  # noqa: SIM115  closed by finish()

    def write(self, data: memoryview) -> None:
        """Take some bytes; a disk that is full makes the part broken, not the request."""
        self.size_bytes += len(data)
        missing = HEAD_BYTES - len(self.head)
        if missing > 0:
            self.head += data[:missing]
        if self._file is not None and not self.broken:
            with self._breaking():
                self._file.write(data)

    def finish(self) -> None:
        """Close the file: the part is complete."""
        if self._file is not None:
            with self._breaking():
                self._file.close()
            self._file = None

    def take_head(self) -> bytes:
        """Give the head away: it is needed once, and a request may bring many parts."""
        head = bytes(self.head)
        self.head = bytearray()
        return head

    def discard(self) -> None:
        """Forget the part; allowed at any time, and twice."""
        self.finish()
        if self.path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.broken = True


class Store:
    """The instances kept, and how often each was posted.

    Args:
        directory: the folder, made if it is missing; None keeps nothing but the counts.
    """

    def __init__(self, directory: str | None) -> None:
        self.directory = directory
        self.posts: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._partials = ""
        if directory is not None:
            self._partials = os.path.join(directory, ".partial")
            os.makedirs(self._partials, mode=0o700, exist_ok=True)
            for name in os.listdir(self._partials):
                os.unlink(os.path.join(self._partials, name))
            self._sizes = {
                entry.name.removesuffix(_SUFFIX): entry.stat().st_size
                for entry in os.scandir(directory)
                if entry.name.endswith(_SUFFIX) and is_uid(entry.name.removesuffix(_SUFFIX))
            }

    def start(self) -> Partial:
        """Open a new part."""
        return Partial(None if self.directory is None else os.path.join(self._partials, uuid.uuid4().hex))

    def place(self, partial: Partial, sop_instance_uid: str, exists: Exists | None = None) -> Placed:
        """Give a finished part its final name, unless there is one already. Safe to call from any thread.

        Args:
            partial: the part.
            sop_instance_uid: of its instance.
            exists: what to do if there is one already, other than to compare them.
        """
        final = self.path_of(sop_instance_uid)
        with self._lock:
            if final is None or partial.path is None:
                self._sizes[sop_instance_uid] = partial.size_bytes
                return Placed.STORED
            try:
                if partial.broken:
                    return Placed.UNWRITABLE
                if os.path.lexists(final) and exists is not Exists.REPLACE:
                    if exists is not None:
                        return Placed.STORED if exists is Exists.KEEP else Placed.DIFFERENT
                    same = filecmp.cmp(partial.path, final, shallow=False)
                    return Placed.STORED if same else Placed.DIFFERENT
                os.rename(partial.path, final)
            except OSError:
                return Placed.UNWRITABLE
            self._sizes[sop_instance_uid] = partial.size_bytes
            return Placed.STORED

    def path_of(self, sop_instance_uid: str) -> str | None:
        """Say where an instance is or would be; None where nothing is kept."""
        return None if self.directory is None else os.path.join(self.directory, sop_instance_uid + _SUFFIX)

    def sizes(self) -> dict[str, int]:
        """Give the size in bytes of each instance, by SOP Instance UID."""
        with self._lock:
            return dict(self._sizes)

    def forget(self) -> int:
        """Delete every instance and every count; return how many instances there were."""
        with self._lock:
            for uid in self._sizes:
                path = self.path_of(uid)
                if path is not None:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
            forgotten = len(self._sizes)
            self._sizes.clear()
            self.posts.clear()
            return forgotten


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
