"""A disk that processes of the model die on: at any step of theirs, alone or by a power cut.

The real calls are made, on a real folder; what is added is the account of what a power cut would leave. A *step* is a
call that changes what is on the disk: create, write, fsync, rename, unlink, a commit, and the request to the archive
and its answer. Before each step a fault that is armed can come true. A process that died does nothing any more: each
later call of its code, clean-up included, dies again without effect.

What a power cut leaves, at its worst:
- of a file, the bytes of its last fsync, or all of them;
- of the names in a folder, what was in it at its last fsync, and of the later acts on names as many of the first as are
  told. A rename of which only the new folder was flushed leaves both names; one of which only the old folder was
  flushed leaves the new name, since journals take a rename whole;
- of the ledger, what the last flush of its log covered, once the log's own name is flushed too, and as many of the
  first commits after it as are told.

Files are known by inode, so it does not matter by which name or descriptor a call reaches them.
"""

import contextlib
import fcntl
import gc
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

_REAL = {
    name: getattr(os, name)
    for name in ("open", "close", "dup", "write", "writev", "fsync", "fdatasync", "rename", "unlink", "link")
}
_REAL_FLOCK, _REAL_CONNECT = fcntl.flock, sqlite3.connect
_LedgerBytes = tuple[bytes, bytes]  # of the database and of its log
_NONE = None, (b"", b"")
_UNTOLD = ("mkdir", "rmdir", "chmod")  # nothing can happen at them, but who died does not do them either

# In place of each file that a process held open when it died: what its code writes there later is lost, and the number
# is no other file's until that code, or a finaliser of it, closes it.
_NOWHERE = os.memfd_create("nowhere")
_abandoned: set[int] = set()  # numbers that processes of former disks have left, if nobody has closed them since
_MANY = 200  # of them


class Died(BaseException):
    """The process that this is raised in is no more. No Exception, so that nothing survives it."""


@dataclass(eq=False)
class Process:
    """A process of the model: what the kernel takes back when it dies.

    Attributes:
        descriptors: by number, the device and inode that it led to: some are closed without our being told.
        locks: those of its descriptors that lock a folder.
    """

    name: str
    dead: bool = False
    descriptors: dict[int, tuple[int, int]] = field(default_factory=dict)
    locks: set[int] = field(default_factory=set)
    connections: list["_Connection"] = field(default_factory=list)


@dataclass(frozen=True)
class _Name:
    """A name in a folder, which from now on leads to a file; None: to nothing."""

    folder: str
    name: str
    inode: int | None


@dataclass
class Fault:
    """What happens before the step of that number among those called `what`; where that is empty, among all.

    kind: `crash`, `power`, `error` (an OSError or sqlite3.Error instead of the step), or `meanwhile`.
    meanwhile: what another process or a person does right before the step.
    """

    kind: str
    steps: int
    what: str = ""
    meanwhile: Callable[[], None] = lambda: None


class CrashDisk:
    """The disk below one folder.

    Args:
        folder: empty; each spool that survives a power cut gets a folder of its own in it.

    Attributes:
        fault: what is armed.
        powerless: the power is gone, and nobody has made of it what is left.
        errors: how many calls have failed by a fault.
        interrupted: the name of the process that a `meanwhile` came in between of.
        interrupted_at: before which step.
    """

    def __init__(self, folder: Path) -> None:
        if len(_abandoned) > _MANY:
            _close_abandoned()
        self._folder = folder
        self._generation = 0
        self._files: dict[int, int] = {}  # by inode, a descriptor that keeps its number from being used again
        self._flushed_bytes: dict[int, bytes] = {}
        self._acts: list[tuple[_Name, ...]] = []
        self._flushed: dict[str, int] = {}  # by folder, how many acts its last fsync came after
        # The ledger as it was flushed last, and as it was after each commit since then: database and log.
        self._ledgers: list[_LedgerBytes | None] = [None]
        self._unnamed: tuple[int | None, _LedgerBytes] = _NONE  # the log that was flushed, while its name is not
        self._named_log: int | None = None  # whose name is flushed
        self._current = threading.local()
        self._owners: dict[int, Process] = {}
        self._companions: tuple[int, Callable[[], None]] | None = None
        self._steps = 0
        self.processes: list[Process] = []
        self.fault: Fault | None = None
        self.powerless = False
        self.errors = 0
        self.interrupted = ""
        self.interrupted_at = ""

    @property
    def spool(self) -> Path:
        """The spool directory, of now."""
        return self._folder / f"spool-{self._generation}"

    # Processes

    @contextlib.contextmanager
    def running(self, process: Process | None) -> Iterator[None]:
        """What is called in this block is called by that process; None: by none of the model."""
        before = self.process
        self._current.process = process
        try:
            yield
        finally:
            self._current.process = before

    @property
    def process(self) -> Process | None:
        """Whose code runs in this thread."""
        return getattr(self._current, "process", None)

    def start(self, name: str) -> Process:
        """A new process."""
        process = Process(name)
        self.processes.append(process)
        return process

    def kill(self, process: Process) -> None:
        """Do what the kernel does for a process that is gone: close its files, which drops its claims and locks."""
        process.dead = True
        if process in self.processes:
            self.processes.remove(process)
        for number, identity in process.descriptors.items():
            with contextlib.suppress(OSError):
                if _identity(os.fstat(number)) == identity:
                    os.dup2(_NOWHERE, number, inheritable=False)
        process.descriptors.clear()
        process.locks.clear()
        for connection in process.connections:
            sqlite3.Connection.close(connection)  # without a commit
        process.connections.clear()

    def close(self) -> None:
        """End it all; nobody may use any of it afterwards."""
        for process in list(self.processes):
            self.kill(process)
        for number in self._files.values():
            _REAL["close"](number)
        _abandoned.update(self._owners)

    # Steps

    @contextlib.contextmanager
    def companions(self, when: int, come: Callable[[], None]) -> Iterator[None]:
        """At a step of the receiver in this block, that number, `come` is called first, whatever fault is armed."""
        self._companions = (self._steps + when, come)
        try:
            yield
        finally:
            self._companions = None

    def step(self, what: str, *, error: Exception | None = None, mild: bool = False) -> None:
        """A step is about to be made.

        Args:
            what: in a word.
            error: what this step raises where an error is armed; None: this one cannot fail by itself.
            mild: nobody can come in between.
        """
        process = self._alive()
        if process is None:
            return
        self._steps += 1
        # Who waits for a lock on a folder would wait for ever: all of it is one thread.
        mild = mild or bool(process.locks)
        if self._companions is not None and self._steps >= self._companions[0] and process.name == "receiver":
            (_, come), self._companions = self._companions, None
            come()
            self._alive()
        fault = self.fault
        if fault is None or fault.what not in {"", what}:
            return
        fault.steps -= 1
        if fault.steps > 0 or (fault.kind == "error" and error is None) or (fault.kind == "meanwhile" and mild):
            return
        self.fault = None
        if fault.kind == "meanwhile":
            self.interrupted, self.interrupted_at = process.name, what
            with self.running(None):
                fault.meanwhile()
            self._alive()
        elif fault.kind == "error":
            assert error is not None
            self.errors += 1
            raise error
        else:
            self.powerless = fault.kind == "power"
            self.kill(process)
            raise Died

    def _alive(self) -> Process | None:
        process = self.process
        if process is not None and (process.dead or self.powerless):
            raise Died
        return process

    # What a person does, who waits until it is on the disk

    def person_writes(self, path: Path, content: bytes) -> None:
        """Put a file in place whole, over another one if need be."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._folder / "aside"
        aside.write_bytes(content)
        _REAL["rename"](aside, path)
        self._flushed_bytes[self._note(path)] = content
        self._sync(path)

    def person_changes(self, path: Path, content: bytes) -> None:
        """Write other content into a file that is there."""
        path.write_bytes(content)
        self._flushed_bytes[path.stat().st_ino] = content
        self._sync(path)

    def person_moves(self, path: Path, target: Path) -> None:
        """Rename a file, over another one if need be."""
        inode = path.stat().st_ino
        _REAL["rename"](path, target)
        self._acts.append((_name(target, inode), _name(path, None)))
        self._sync(path, target)

    def person_removes(self, path: Path) -> None:
        """Unlink a file."""
        _REAL["unlink"](path)
        self._acts.append((_name(path, None),))
        self._sync(path)

    def person_deletes_ledger(self) -> None:
        """Unlink the ledger, with its log."""
        self._ledgers = [None]
        for suffix in ("", "-wal", "-shm"):
            (self.spool / f"ledger.db{suffix}").unlink(missing_ok=True)

    # The power cut

    def cut(self, *, names_kept: float, bytes_kept: bool, commits_kept: float) -> None:
        """Leave what a power cut leaves, in a folder of its own: from now on that is the spool.

        Args:
            names_kept: how much of what was not flushed of the names is there all the same, from 0 to 1.
            bytes_kept: the bytes that were not flushed are there all the same.
            commits_kept: how much of the commits that were not flushed is there all the same, from 0 to 1.
        """
        for process in list(self.processes):
            self.kill(process)
        old, left = self.spool, self._left(names_kept)
        content = {inode: self._content(inode, whole=bytes_kept) for inode in left.values()}
        ledger = self._ledgers[round((len(self._ledgers) - 1) * commits_kept)]
        self._generation += 1
        for folder in ("incoming", "quarantine", "staging"):
            (self.spool / folder).mkdir(parents=True)
        self._acts, self._flushed = [], {}
        for (folder, name), inode in left.items():
            path = self.spool / Path(folder).relative_to(old) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[inode])
            self._flushed_bytes[self._note(path)] = content[inode]
            self._sync(path)
        self._ledgers = [ledger]
        for suffix, part in zip(("", "-wal"), ledger or (), strict=False):
            (self.spool / f"ledger.db{suffix}").write_bytes(part)
        self._named_log = self._log_inode()
        self.powerless = False

    def is_flushed(self, path: Path, content: bytes) -> bool:
        """Tell whether a power cut could take neither the name nor the bytes."""
        inode = self._left(0.0).get((os.path.dirname(path), path.name))
        return inode is not None and self._content(inode, whole=False) == content

    def _left(self, names_kept: float) -> dict[tuple[str, str], int]:
        """The names that a power cut leaves, by folder, and the inodes that they lead to."""
        flushed = [min(self._flushed.get(name.folder, 0) for name in act) for act in self._acts]
        first = next((at for at, count in enumerate(flushed) if count <= at), len(self._acts))
        kept = first + round((len(self._acts) - first) * names_kept)
        left: dict[tuple[str, str], int] = {}
        for at, act in enumerate(self._acts):
            for name in act:
                if at < max(kept, *(self._flushed.get(folder, 0) for folder in (name.folder, act[-1].folder))):
                    left.pop((name.folder, name.name), None)
                    if name.inode is not None:
                        left[name.folder, name.name] = name.inode
        return left

    def _content(self, inode: int, *, whole: bool) -> bytes:
        if not whole:
            return self._flushed_bytes.get(inode, b"")
        return Path(f"/proc/self/fd/{self._files[inode]}").read_bytes()

    def _note(self, path: Path) -> int:
        """A file has this name from now on; its inode."""
        inode = path.stat().st_ino
        self._keep(inode, path)
        self._acts.append((_name(path, inode),))
        return inode

    def _keep(self, inode: int, path: Path) -> None:
        if inode not in self._files:
            self._files[inode] = _REAL["open"](path, os.O_PATH | os.O_CLOEXEC)

    def _sync(self, *paths: Path) -> None:
        """The folders of these files are flushed."""
        for path in paths:
            self._flushed[os.path.dirname(path)] = len(self._acts)

    # The ledger

    def _ledger_bytes(self) -> _LedgerBytes | None:
        """The database and its log as they are; None, if there is none."""
        parts = []
        for suffix in ("", "-wal"):
            try:
                parts.append((self.spool / f"ledger.db{suffix}").read_bytes())
            except FileNotFoundError:
                if not suffix:
                    return None
                parts.append(b"")
        return parts[0], parts[1]

    def _log_inode(self) -> int | None:
        try:
            return os.stat(self.spool / "ledger.db-wal").st_ino
        except FileNotFoundError:
            return None

    def committed(self) -> None:
        """A commit is in the ledger's log, and not flushed yet."""
        ledger = self._ledger_bytes()
        self._ledgers += [ledger] if ledger else []

    # The calls

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """The calls of the product go through this disk, for the length of the block."""
        with contextlib.ExitStack() as stack:
            for name in _REAL:
                stack.enter_context(mock.patch.object(os, name, getattr(self, f"_{name}")))
            for name in _UNTOLD:
                stack.enter_context(mock.patch.object(os, name, self._if_alive(getattr(os, name))))
            stack.enter_context(mock.patch.object(sqlite3, "connect", self._connect))
            stack.enter_context(mock.patch.object(fcntl, "flock", self._flock))
            yield

    def _if_alive(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            self._alive()
            return call(*arguments, **options)

        return called

    def _own(self, number: int) -> None:
        process = self.process
        if process is not None:
            process.descriptors[number] = _identity(os.fstat(number))
            self._owners[number] = process

    def _path(self, path: Any, folder: int | None = None) -> Path:
        """Where a name lies, relative to a folder that is open or not."""
        text = os.fspath(path)
        return Path(text if folder is None else f"{os.readlink(f'/proc/self/fd/{folder}')}/{text}")

    def _is_accounted_for(self, path: Path) -> bool:
        return path.is_relative_to(self.spool) and not path.name.startswith("ledger.db")

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        process = self._alive()
        creates = bool(flags & os.O_CREAT) and process is not None
        there = self._path(path, dir_fd) if creates else Path()
        if creates:
            full = OSError(28, "No space left on device")
            self.step("create", error=full, mild=not self._is_accounted_for(there))
        number: int = _REAL["open"](path, flags, mode, dir_fd=dir_fd)
        self._own(number)
        if creates and self._is_accounted_for(there):
            self._note(there)
        return number

    def _dup(self, number: int) -> int:
        self._alive()
        other: int = _REAL["dup"](number)
        self._own(other)
        return other

    def _close(self, number: int) -> None:
        owner = self._owners.pop(number, None)
        if owner is not None:
            owner.descriptors.pop(number, None)
            owner.locks.discard(number)
        _REAL["close"](number)

    def _flock(self, number: int, how: int) -> None:
        process = self._alive()
        _REAL_FLOCK(number, how)
        if process is not None and stat.S_ISDIR(os.fstat(number).st_mode):
            process.locks.add(number)

    def _write(self, number: int, data: Any) -> int:
        try:
            self.step("write", error=OSError(28, "No space left on device"))
        except OSError:
            _REAL["write"](number, data[: len(data) // 2])
            raise
        written: int = _REAL["write"](number, data)
        return written

    def _writev(self, number: int, pieces: Any) -> int:
        return self._write(number, b"".join(pieces))

    def _fsync(self, number: int) -> None:
        if self.process is None:
            return
        status = os.fstat(number)
        error = OSError(5, "Input/output error")
        if not stat.S_ISDIR(status.st_mode):
            self.step("fsync", error=error)
            if status.st_ino in self._files:
                self._flushed_bytes[status.st_ino] = self._content(status.st_ino, whole=True)
            return
        folder = os.readlink(f"/proc/self/fd/{number}")
        self.step(f"fsync {os.path.basename(folder)}/", error=error)
        if folder == os.fspath(self.spool):
            self._named_log = self._log_inode()
            if self._unnamed[0] == self._named_log is not None:
                self._ledgers, self._unnamed = [self._unnamed[1]], _NONE
        else:
            self._flushed[folder] = len(self._acts)

    def _fdatasync(self, number: int) -> None:
        self.step("flush of the ledger", error=OSError(5, "Input/output error"))
        ledger, log = self._ledger_bytes(), os.fstat(number).st_ino
        if ledger is None or log != self._log_inode():
            return
        if log == self._named_log:
            self._ledgers, self._unnamed = [ledger], _NONE
        else:
            self._unnamed = log, ledger

    def _rename(
        self, source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        acting = self.process is not None
        if acting:
            self.step("rename", error=OSError(5, "Input/output error"))
            old, new = self._path(source, src_dir_fd), self._path(target, dst_dir_fd)
            inode = os.lstat(self._path(source, src_dir_fd)).st_ino
        _REAL["rename"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        if acting and inode in self._files:
            self._acts.append((_name(new, inode), _name(old, None)))

    def _link(
        self,
        source: Any,
        target: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        self.step("link", error=OSError(5, "Input/output error"))
        _REAL["link"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)
        if self.process is not None:
            self._note(self._path(target, dst_dir_fd))

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        there = self._path(path, dir_fd)
        self.step("unlink", error=OSError(30, "Read-only file system"), mild=there.name.startswith("ledger.db"))
        _REAL["unlink"](path, dir_fd=dir_fd)
        if self.process is not None and self._is_accounted_for(there):
            self._acts.append((_name(there, None),))

    def _connect(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        process = self._alive()
        if process is None:
            return _REAL_CONNECT(*arguments, **options)
        connection: _Connection = _REAL_CONNECT(*arguments, factory=_Connection, **options)
        connection.disk, connection.process = self, process
        process.connections.append(connection)
        return connection


class _Connection(sqlite3.Connection):
    """A connection whose commits are steps, and which is of no use to a process that died."""

    disk: CrashDisk
    process: Process

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Run a statement."""
        if self.process.dead:
            raise Died
        if sql == "COMMIT":
            self.disk.step("commit", error=sqlite3.OperationalError("disk I/O error"))
        done = super().execute(sql, *values)
        if sql == "COMMIT":
            self.disk.committed()
        return done

    def executemany(self, sql: str, values: Any) -> sqlite3.Cursor:
        """Run a statement several times."""
        if self.process.dead:
            raise Died
        return super().executemany(sql, values)

    def close(self) -> None:
        """Close it, unless the kernel has to."""
        if not self.process.dead:
            super().close()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _close_abandoned() -> None:
    gc.collect()  # whoever closes some of them when it is collected does so now
    for number in _abandoned:
        with contextlib.suppress(OSError):
            if _identity(os.fstat(number)) == _identity(os.fstat(_NOWHERE)):
                os.close(number)
    _abandoned.clear()


def _name(path: Path, inode: int | None) -> _Name:
    return _Name(os.path.dirname(path), path.name, inode)
