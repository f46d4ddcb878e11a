"""The folder quarantine/: a file under its own name, and beside it <name>.json that says why.

The step numbers (U6 to U8) are those of docs/design.md.
"""

import contextlib
import fcntl
import itertools
import json
import os
import re
import stat
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from common.directory import is_hidden, parent_of, sync_directory
from common.rename import rename_to_free

_NAME_MAX = 255  # bytes of a file name on Linux filesystems
_EXTENSION_MAX = 32  # bytes; what is longer is no extension
_REASON_MAX = 1024 * 1024  # bytes
_SIDECAR = ".json"
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.part\Z")


class Quarantine:
    """The folder quarantine/.

    Args:
        path: the folder quarantine/.
        incoming: the folder incoming/, on the same filesystem.
    """

    def __init__(self, path: Path, incoming: Path) -> None:
        self.path = path
        self.incoming = incoming

    @contextlib.contextmanager
    def reserve(self, name: str) -> Iterator["QuarantineSlot"]:
        """Reserve a name in quarantine/ for the entry `name` of incoming/, against all other processes.

        The caller writes the reason, records it in the ledger and then moves the file, in this order (U6 to U8).
        """
        with self._locked():
            yield QuarantineSlot(self.path, self.incoming, name, self._free_name(self.incoming / name))

    @contextlib.contextmanager
    def _locked(self, *, create: bool = True) -> Iterator[None]:
        fd = self._open(create=create)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _open(self, *, create: bool) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            return os.open(self.path, flags)
        except FileNotFoundError:
            if not create:
                raise
            # A person removed it with what was in it; what is refused next needs a place all the same.
            self.path.mkdir(mode=0o700, exist_ok=True)
            sync_directory(self.path.parent)
            return os.open(self.path, flags)

    def _free_name(self, source: Path) -> str:
        """The name of `source`, or the first of `stem~2.ext`, `stem~3.ext` … that is free."""
        stem, dot, extension = source.name.rpartition(".")
        if not stem or len(os.fsencode(extension)) > _EXTENSION_MAX:
            stem, dot, extension = source.name, "", ""
        suffixes = ((f"~{number}" if number > 1 else "") + dot + extension for number in itertools.count(1))
        names = (_cut(stem, _NAME_MAX - len(_SIDECAR) - len(os.fsencode(suffix))) + suffix for suffix in suffixes)
        return next(name for name in names if self._is_free(name, source))

    def _is_free(self, name: str, source: Path) -> bool:
        """Tell whether neither a file nor a sidecar of the name is in the way of another."""
        if os.path.lexists(self.path / name):
            return False
        # A quarantined `x.json` would be overwritten by the sidecar of `x`; a sidecar that stands alone may be.
        if os.path.lexists(self.path / (name + _SIDECAR)) and not self._stands_alone(name):
            return False
        # `x.json` would pass for the sidecar of a quarantined `x`.
        if name.endswith(_SIDECAR) and os.path.lexists(self.path / name[: -len(_SIDECAR)]):
            return False
        # The ledger knows files by name: a file that is still owed keeps its own.
        return self.incoming / name == source or not os.path.lexists(self.incoming / name)

    def _stands_alone(self, name: str) -> bool:
        """Tell whether `name`.json is a sidecar that a crash or a release left behind, and no quarantined file."""
        return (
            not os.path.lexists(self.path / name)
            and not os.path.lexists(self.path / (name + _SIDECAR + _SIDECAR))
            and "cause" in self.read_reason(name)
        )

    def names(self) -> Iterator[str]:
        """The names of the entries in quarantine/ that are not sidecars.

        A file that is on its way (U6 to U8) is waited for: its sidecar, without it, would pass for a file of its own.

        Raises:
            OSError: the folder is away, or cannot be read; that says nothing about what was in it.
        """
        with self._locked(create=False):
            with os.scandir(self.path) as entries:
                names = {entry.name for entry in entries if not is_hidden(entry.name)}
            stems = ((name, name.removesuffix(_SIDECAR)) for name in names)
            found = [name for name, stem in stems if stem == name or not (stem in names or self._stands_alone(stem))]
        yield from found

    def holds(self, name: str) -> bool:
        """Tell whether an entry of this name is in quarantine/."""
        return os.path.lexists(self.path / name)

    def read_reason(self, name: str) -> dict[str, Any]:
        """The sidecar of a quarantined file; empty if there is none that can be read."""
        try:
            # It may be anything that a person put there: a link, a FIFO that nobody writes to, a file of gigabytes.
            with open(self.path / (name + _SIDECAR), "rb", opener=_open_carefully) as sidecar:
                reason = json.loads(sidecar.read(_REASON_MAX) or b"")
        except (OSError, ValueError, RecursionError):
            return {}
        return reason if isinstance(reason, dict) else {}

    def drop_reason(self, name: str) -> None:
        """Remove the sidecar that a released file left behind, unless a file of that name is still quarantined."""
        with self._locked():
            if self._stands_alone(name):
                with contextlib.suppress(OSError):
                    os.unlink(self.path / (name + _SIDECAR))

    @contextlib.contextmanager
    def release(self, names: Collection[str]) -> Iterator[Mapping[str, OSError]]:
        """Move files back to incoming/, claimed for the length of the block, so that no uploader takes them before.

        The caller records them meanwhile. A crash leaves what a person's `mv` leaves: the uploader enters them then.

        Args:
            names: of files; each holds a descriptor for the length of the block.

        Yields:
            Those that are still in quarantine/, each with what was in its way: FileNotFoundError if it is not there,
            FileExistsError if incoming/ has an entry of that name.

        Raises:
            OSError: what was moved could not be flushed, and may be back after a power cut; or there is no folder.
        """
        with contextlib.ExitStack() as claims:
            with self._locked(create=False):
                failed = _those_that_fail(lambda name: self._move_back(name, claims), names)
                sync_directory(self.incoming)
                sync_directory(self.path)
            yield failed

    def _move_back(self, name: str, claims: contextlib.ExitStack) -> None:
        if (fd := self._claimed(name)) >= 0:
            claims.callback(os.close, fd)
        rename_to_free(self.path / name, self.incoming / name)
        with contextlib.suppress(OSError):
            os.unlink(self.path / (name + _SIDECAR))

    def _claimed(self, name: str) -> int:
        """A descriptor that claims a file, open for writing: its close is what tells the uploader. -1 if it is none."""
        try:
            if not stat.S_ISREG(os.lstat(self.path / name).st_mode):
                return -1
            fd = os.open(self.path / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError:
            return -1  # a person's file: it can be moved all the same
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def discard(self, names: Collection[str]) -> Mapping[str, OSError]:
        """Delete files and their sidecars. The caller has recorded that a person wants it.

        Returns:
            Those that are still there, each with what was in its way: IsADirectoryError for a folder, which a person
            put there, FileNotFoundError if it was gone before.

        Raises:
            OSError: what was deleted may be back after a power cut; or there is no folder.
        """
        with self._locked(create=False):
            failed = _those_that_fail(self._delete, names)
            sync_directory(self.path)
        return failed

    def _delete(self, name: str) -> None:
        os.unlink(self.path / name)
        with contextlib.suppress(OSError):
            os.unlink(self.path / (name + _SIDECAR))

    def sweep(self) -> int:
        """Remove what a crash between U6 and U8 left, and count it: sidecars that stand alone, half-written ones."""
        removed = 0
        with self._locked(), os.scandir(self.path) as entries:
            for entry in entries:
                stem = entry.name.removesuffix(_SIDECAR)
                if _TEMPORARY.match(entry.name) or (stem != entry.name and self._stands_alone(stem)):
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)
                        removed += 1
        return removed


class QuarantineSlot:
    """A reserved name in quarantine/, and the three steps that fill it."""

    def __init__(self, folder: Path, incoming: Path, entry: str, name: str) -> None:
        self._folder = folder
        self._incoming = incoming
        self._entry = entry
        self.name = name

    def write_reason(self, reason: Mapping[str, Any]) -> None:
        """Write the sidecar durably (U6).

        Raises:
            OSError: quarantine/ cannot be written; the file stays in incoming/.
        """
        path = self._folder / (self.name + _SIDECAR)
        temporary = self._folder / f".{uuid.uuid4().hex}.part"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            # A file name that is no UTF-8 holds surrogates; as escapes they are JSON.
            with open(fd, "w", encoding="utf-8", errors="backslashreplace") as sidecar:
                json.dump(reason, sidecar, indent=2, ensure_ascii=False)
                sidecar.write("\n")
                sidecar.flush()
                os.fsync(fd)
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_directory(self._folder)

    def move(self) -> None:
        """Move the file, or the link itself, out of incoming/ (U8), and flush both directories.

        Raises:
            FileNotFoundError, NotADirectoryError: it is gone from incoming/.
            OSError: it could not be moved, and stays owed; or it was, and may be back after a power cut.
        """
        target = self._folder / self.name
        with parent_of(os.fspath(self._incoming), self._entry) as (parent, path):
            os.rename(path, target, src_dir_fd=parent)
            with contextlib.suppress(OSError, NotImplementedError):
                status = os.lstat(target)
                # The mode is that of all its links, and the others are not ours.
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                    os.chmod(target, 0o600)
            sync_directory(self._folder)
            # A folder dropped by hand may be gone with its last file.
            if parent is not None:
                os.fsync(parent)
            else:
                sync_directory(self._incoming)

    def forget(self) -> None:
        """Remove the sidecar again: the file was not moved after all."""
        with contextlib.suppress(OSError):
            os.unlink(self._folder / (self.name + _SIDECAR))


def _those_that_fail(act: Callable[[str], None], names: Collection[str]) -> dict[str, OSError]:
    failed: dict[str, OSError] = {}
    for name in names:
        try:
            act(name)
        except OSError as error:
            failed[name] = error
    return failed


def _open_carefully(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _cut(name: str, length: int) -> str:
    """The start of a name, at most `length` bytes of it, without half a character."""
    while len(os.fsencode(name)) > length:
        name = name[:-1]
    return name
