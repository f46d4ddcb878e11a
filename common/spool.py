"""The spool directory: its folders, what lies in incoming/, and claims on it.

Every rename, fsync, unlink and claim under the spool is here, in common.claim, common.staging and common.quarantine.

Layout and guarantee are described in docs/design.md; the step numbers in the comments (R1…, U1…) are
the ones of its tables. A file is claimed with `flock` on its open descriptor: the kernel drops the claim
when the process dies, so there is nothing to clean up.

Fatal: the spool cannot be created, or staging/ and quarantine/ are not on the filesystem of incoming/
(`SpoolError`). An OSError from a single file is that file's and reaches the caller as it is.
"""

import contextlib
import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common.claim import Claim, Signature
from common.directory import Walk, is_full, is_hidden, parent_of, sync_directory
from common.errors import SpoolError
from common.quarantine import Quarantine
from common.staging import Staging

__all__ = ["Busy", "Claim", "Found", "Gone", "NotAFile", "Signature", "Spool", "Survey"]


class Busy(Exception):  # noqa: N818 - an outcome of claim(), not a failure
    """Another process holds the claim on the file."""


class Gone(Exception):  # noqa: N818 - an outcome of claim(), not a failure
    """The file is no longer in incoming/."""


class NotAFile(Exception):  # noqa: N818 - an outcome of claim(), not a failure
    """A symbolic link, FIFO, socket or device: never opened, wherever it points."""


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of incoming/, as a scan saw it. `name` is its path relative to incoming/."""

    name: str
    signature: Signature
    is_file: bool


@dataclass(slots=True)
class Survey:
    """What a walk through incoming/ met.

    Attributes:
        names: of all files, relative to incoming/.
        found: those that were looked at.
        has_folders: there are folders too.
    """

    names: set[str] = field(default_factory=set)
    found: list[Found] = field(default_factory=list)
    has_folders: bool = False


class Spool:
    """The folders incoming/, quarantine/ and staging/ under one directory.

    Args:
        directory: the spool directory.
        min_free: bytes that must stay free on its filesystem for `has_room` to say yes.
    """

    def __init__(self, directory: Path, min_free: int = 0) -> None:
        self.directory = directory
        self.min_free = min_free
        self.incoming = directory / "incoming"
        self._incoming = os.fspath(self.incoming)
        self.quarantine = Quarantine(directory / "quarantine", self.incoming)
        self.staging = Staging(directory / "staging", self.incoming)
        self.ledger = directory / "ledger.db"

    def prepare(self) -> None:
        """Create what is missing (directories 0700) and check that a rename between the folders works.

        Raises:
            SpoolError: a folder cannot be created or written, or they are on different filesystems.
        """
        missing = [folder for folder in (self.directory, *self.directory.parents) if not folder.exists()]
        for folder in (self.directory, self.incoming, self.quarantine.path, self.staging.path):
            try:
                folder.mkdir(mode=0o700, parents=folder is self.directory, exist_ok=True)
            except OSError as error:
                raise SpoolError(
                    f"expected to create the folder {folder} or find it there, found: {error.strerror}"
                ) from error
        try:
            # What is flushed into a folder is lost all the same if the folder's own name is not flushed.
            sync_directory(self.directory)
            for folder in missing:
                sync_directory(folder.parent)
            self._try_renames()
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                return  # a full disk is no reason not to start: delivering is what empties it
            if error.errno == errno.EXDEV:
                raise SpoolError(
                    f"expected staging/, incoming/ and quarantine/ of {self.directory} on one filesystem, "
                    "found that a file cannot be renamed from one to the other"
                ) from error
            raise SpoolError(f"expected to write in {self.directory}, found: {error.strerror}") from error

    def _try_renames(self) -> None:
        """Rename a probe through the folders, since two bind mounts of one filesystem share a device number."""
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # One process at a time: whatever probe is there is of one that died, and would stay for ever.
            fcntl.flock(directory, fcntl.LOCK_EX)
            for folder in (self.incoming, self.staging.path, self.quarantine.path):
                for left in folder.glob(".probe-*.part"):
                    left.unlink(missing_ok=True)
            probe = self.incoming / f".probe-{uuid.uuid4().hex}.part"
            fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                # Claimed: a receiver that starts at the same moment sweeps staging/.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for folder in (self.staging.path, self.quarantine.path):
                    target = folder / probe.name
                    probe.rename(target)
                    probe = target
            finally:
                os.close(fd)
                probe.unlink(missing_ok=True)
        finally:
            os.close(directory)

    def free_bytes(self) -> int:
        """Bytes that an ordinary user can still write on the spool's filesystem."""
        status = os.statvfs(self.directory)
        return status.f_bavail * status.f_frsize

    def has_room(self, size_bytes: int = 0) -> bool:
        """Tell whether `size_bytes` more leave at least `min_free`."""
        return self.free_bytes() - size_bytes >= self.min_free

    def is_full(self) -> bool:
        """Tell whether not even the ledger may find the room that it needs."""
        return is_full(self.directory)

    def scan(
        self, below: str = "", passed_over: Callable[[str, OSError], None] = lambda _name, _error: None
    ) -> Iterator[Found]:
        """Walk incoming/, or the folder `below` in it, without following links. Hidden names are left out.

        A folder or file that vanishes or cannot be read during the walk is passed over: the next scan decides.

        Args:
            below: relative to incoming/.
            passed_over: told of each folder that is there and cannot be read.

        Raises:
            OSError: incoming/ itself cannot be read. That says nothing about the files that were in it.
        """
        yield from self._walk(below, frozenset(), passed_over, Survey())

    def survey(
        self, known: Container[str], passed_over: Callable[[str, OSError], None] = lambda _name, _error: None
    ) -> "Survey":
        """Walk incoming/ as `scan` does, but look at those files only that are not known.

        Looking takes most of the time, and there may be a hundred thousand that wait.

        Raises:
            OSError: incoming/ itself cannot be read.
        """
        survey = Survey()
        survey.found.extend(self._walk("", known, passed_over, survey))
        return survey

    def _walk(
        self, below: str, known: Container[str], passed_over: Callable[[str, OSError], None], survey: "Survey"
    ) -> Iterator[Found]:
        if is_hidden(below) and below:
            return
        folders = [below]
        with contextlib.closing(Walk(self._incoming)) as walk:
            while folders:
                folder = folders.pop()
                try:
                    entries = os.scandir(walk.enter(folder))
                except OSError as error:
                    if not folder:
                        raise
                    if not isinstance(error, FileNotFoundError | NotADirectoryError):
                        passed_over(folder, error)
                    continue
                with entries:
                    for entry in entries:
                        name = f"{folder}/{entry.name}" if folder else entry.name
                        is_known = name in known
                        if not is_known and is_hidden(entry.name):
                            continue
                        try:
                            if entry.is_dir(follow_symlinks=False):
                                folders.append(name)
                                survey.has_folders = True
                                continue
                            status = None if is_known else entry.stat(follow_symlinks=False)
                        except OSError:
                            continue
                        survey.names.add(name)
                        if status is not None:
                            yield Found(name, Signature.of(status), stat.S_ISREG(status.st_mode))

    def look(self, name: str) -> Found | None:
        """One entry of incoming/ as a scan would see it; None if it is gone, hidden or a folder."""
        if is_hidden(name):
            return None
        try:
            status = self.status(name)
        except OSError:
            return None
        if stat.S_ISDIR(status.st_mode):
            return None
        return Found(name, Signature.of(status), stat.S_ISREG(status.st_mode))

    def status(self, name: str) -> os.stat_result:
        """What the system says of an entry of incoming/ itself, without following links.

        Raises:
            OSError: it is not there, or a link stands on the way, or that cannot be told.
        """
        with parent_of(self._incoming, name) as (fd, path):
            return os.lstat(path) if fd is None else os.stat(path, dir_fd=fd, follow_symlinks=False)

    def claim(self, name: str) -> "Claim":
        """Open and lock a file of incoming/ for delivery (U1).

        Raises:
            Gone: it is no longer there.
            Busy: another process holds it, a receiver that is still recording it among them.
            NotAFile: it is a link, FIFO, socket or device. It was not opened.
            OSError: it cannot be opened (EACCES, EIO, …).
        """
        try:
            if "/" not in name:
                return self._claim(name, f"{self._incoming}/{name}", None)
            if is_hidden(name.rpartition("/")[0]):
                raise Gone
            with parent_of(self._incoming, name) as (parent, path):
                return self._claim(name, path, parent)
        except (FileNotFoundError, NotADirectoryError):
            raise Gone from None

    def _claim(self, name: str, path: str, parent: int | None) -> "Claim":
        mode = os.stat(path, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            raise Gone
        # A device is not even opened: opening alone can act on it.
        if not stat.S_ISREG(mode):
            raise NotAFile
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotAFile from None
            raise
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(fd)
            # Whoever held it before us may have deleted or moved it while we waited for the lock.
            there = os.stat(path, dir_fd=parent, follow_symlinks=False).st_ino == status.st_ino
        except BlockingIOError:
            os.close(fd)
            raise Busy from None
        except BaseException:
            os.close(fd)
            raise
        if not there or not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise Gone
        return Claim(self._incoming, name, fd, Signature.of(status))

    def empty_folders(self) -> Iterator[tuple[str, int]]:
        """The folders below incoming/ that hold nothing at all, with their mtime in ns. Hidden ones are left out."""
        folders = [""]
        with contextlib.closing(Walk(self._incoming)) as walk:
            while folders:
                folder = folders.pop()
                with contextlib.suppress(OSError):
                    fd = walk.enter(folder)
                    with os.scandir(fd) as entries:
                        empty = True
                        for entry in entries:
                            empty = False
                            if not is_hidden(entry.name) and entry.is_dir(follow_symlinks=False):
                                folders.append(f"{folder}/{entry.name}" if folder else entry.name)
                    if empty and folder:
                        yield folder, os.fstat(fd).st_mtime_ns

    def remove_folder(self, name: str) -> None:
        """Remove an empty folder below incoming/; one that is not empty any more stays."""
        with contextlib.suppress(OSError), parent_of(self._incoming, name) as (fd, path):
            os.rmdir(path, dir_fd=fd)
