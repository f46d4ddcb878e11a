"""What `check` looks at on this machine: folders, the filesystem, ports, the ledger against the files.

Nothing is changed, nothing is raised: each look ends in a Finding.
"""

import errno
import math
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from common.config import Config
from common.errors import LedgerError
from common.ledger_checks import LedgerChecks
from common.records import State, ledger_name
from common.repair import is_there
from common.spool import Spool
from console.words import size

_AGAIN_SECONDS = 0.3  # after which what did not agree is looked at again: it may have been on its way
_GLANCE_SECONDS = 0.3  # for the ledger, some 100,000 instances
_LOCAL = "Put the spool on a local disk: claims (flock) and the ledger (WAL) need one."
_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(("9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"))
_PASSING = {
    "overlay": "The spool is in a container's own layer, and gone with the container.",
    "ramfs": "The spool is in memory, and gone after a restart.",
    "tmpfs": "The spool is in memory, and gone after a restart.",
}


class Level(StrEnum):
    """How a look ended."""

    OK = "ok"
    """As it should be."""
    WARNING = "warning"
    """Somebody should look at it."""
    ERROR = "error"
    """Something cannot work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found.

    Attributes:
        key: a fixed word for what was looked at.
        level: how it ended.
        text: what was found, in a sentence without patient data.
        advice: what can be done about it.
    """

    key: str
    level: Level
    text: str
    advice: str = ""


def folders(config: Config) -> Iterator[Finding]:
    """The folders of the spool: there, ours, of nobody else, on one filesystem."""
    directory = config.spool.directory
    if (found := _folder("spool", directory, needed=True)).level is Level.ERROR:
        yield found
        return
    below = [directory / name for name in ("incoming", "quarantine", "staging")]
    findings = [found, *(_folder(path.name, path, needed=False) for path in below)]
    bad = [finding for finding in findings if finding.level is not Level.OK]
    yield from bad
    devices = {os.stat(path).st_dev for path in (directory, *below) if path.exists()}
    if len(devices) > 1:
        text = "incoming, quarantine and staging are not on one filesystem."
        yield Finding("folders", Level.ERROR, text, "A rename between them must work: put them on one disk.")
    elif not bad:
        yield Finding("folders", Level.OK, f"The spool {directory} and its folders are there, writable, and private.")
    yield from _ledger_file(directory / "ledger.db")


def _folder(key: str, path: Path, *, needed: bool) -> Finding:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        text = f"There is no folder {path}."
        advice = "The receiver and the uploader create it at their start."
        return Finding(key, Level.ERROR if needed else Level.WARNING, text, advice)
    except OSError as error:
        return Finding(key, Level.ERROR, f"{path} cannot be looked at: {error.strerror}.", "Look at its disk.")
    if not stat.S_ISDIR(status.st_mode):
        return Finding(key, Level.ERROR, f"{path} is no folder.", "Move what is there away.")
    return _rights(key, path, status)


def _rights(key: str, path: Path, status: os.stat_result) -> Finding:
    """Who may do what in a folder."""
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        text = f"{path} cannot be read and written by this user (uid {os.geteuid()}; its owner is {status.st_uid})."
        return Finding(key, Level.ERROR, text, "Run this as the user of the receiver and the uploader.")
    if status.st_mode & 0o077:
        text = f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others may see patient data."
        return Finding(key, Level.WARNING, text, f"chmod 0700 {path}")
    if os.geteuid() not in {0, status.st_uid}:
        return Finding(
            key, Level.WARNING, f"{path} is of another user (uid {status.st_uid}).", "Run this as that user."
        )
    return Finding(key, Level.OK, f"{path} is well.")


def _ledger_file(path: Path) -> Iterator[Finding]:
    try:
        status = os.lstat(path)
    except OSError:
        return  # the ledger's own finding tells
    if status.st_mode & 0o077:
        text = f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others may see patient data."
        yield Finding("ledger-mode", Level.WARNING, text, f"chmod 0600 {path}")


def disk(config: Config) -> Iterator[Finding]:
    """The filesystem: of a kind that locks, with room, and with names to give."""
    directory = config.spool.directory
    try:
        status = os.statvfs(directory)
    except OSError:
        return  # there is no folder, and that is told
    kind = filesystem(directory)
    if kind in _NETWORK or kind.startswith("fuse.sshfs"):
        yield Finding("filesystem", Level.WARNING, f"The spool is on a network filesystem ({kind}).", _LOCAL)
    elif kind in _PASSING:
        yield Finding("filesystem", Level.WARNING, f"{_PASSING[kind]} ({kind})", "Put it on a disk that stays.")
    free = status.f_bavail * status.f_frsize
    if free < config.spool.min_free:
        text = f"{size(free)} is free, and {size(config.spool.min_free)} must be: senders are answered 0xA700."
        yield Finding("disk", Level.ERROR, text, "Make room, or lower [spool] min_free.")
    else:
        on = f" on {kind}" if kind else ""
        yield Finding("disk", Level.OK, f"{size(free)} is free{on}, {size(config.spool.min_free)} must be.")
    if status.f_files and status.f_favail < 10_000:
        text = f"Only {status.f_favail:,} more files can be created (inodes)."
        yield Finding("inodes", Level.WARNING, text, "Remove files, or make a filesystem with more inodes.")


def filesystem(path: Path, mounts: Path = _MOUNTS) -> str:
    """The kind of filesystem that a path is on; empty if the system does not tell."""
    wanted = os.path.realpath(path)
    best, kind = "", ""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].encode("latin-1", "replace").decode("unicode_escape", "replace")
        if (wanted + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, after.split(" ")[0]
    return kind


def can_bind(host: str, port: int) -> str:
    """Why a port cannot be listened on; empty if it can."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except socket.gaierror:
        return "no such host"
    except OSError as error:
        return "another program has it" if error.errno == errno.EADDRINUSE else error.strerror or type(error).__name__
    return ""


def is_listening(host: str, port: int, seconds: float = 2.0) -> bool:
    """Whether something takes connections there."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError:
        return False
    return True


def page(config: Config) -> Iterator[Finding]:
    """The port of the web page."""
    host, port = config.console.host, config.console.port
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    if is_listening(reached, port):
        yield Finding("page", Level.OK, f"Something listens on {host} port {port}, the web page's.")
    elif why := can_bind(host, port):
        text = f"The web page cannot listen on {host} port {port}: {why}."
        yield Finding("page", Level.WARNING, text, "Look at host and port in [console].")
    else:
        yield Finding("page", Level.OK, f"Port {port} of the web page is free; the page is not running.")


def ledger(config: Config, *, thorough: bool = False) -> Iterator[Finding]:
    """The ledger: whether it is whole, as far as a moment tells, or however long it takes."""
    path = config.spool.directory / "ledger.db"
    if not path.exists():
        yield Finding("ledger", Level.WARNING, "There is no ledger yet.", "A process creates it at its start.")
        return
    try:
        damage = LedgerChecks(path).damage(math.inf if thorough else _GLANCE_SECONDS)
    except LedgerError as error:
        yield Finding("ledger", Level.ERROR, f"{str(error)[:1].upper()}{str(error)[1:]}.", "See docs/operating.md.")
        return
    if damage is None:
        text = "The ledger can be read; it is too large to be checked whole in a moment."
        yield Finding("ledger", Level.OK, text, "--thorough does that.")
    elif damage:
        text = f"The ledger is damaged: {damage[0]}."
        yield Finding("ledger", Level.ERROR, text, "See docs/operating.md; --repair sets it aside and begins anew.")
    else:
        yield Finding("ledger", Level.OK, "The ledger is whole.")


@dataclass(frozen=True, slots=True)
class Differences:
    """By how many files ledger and folders differ.

    Attributes:
        incoming: files in incoming/.
        quarantine: files in quarantine/.
        without_row: in incoming/, without a row that says so.
        without_file: rows in state incoming whose file is gone.
        quarantine_without_row: likewise.
        quarantine_without_file: likewise.
    """

    incoming: int = 0
    quarantine: int = 0
    without_row: int = 0
    without_file: int = 0
    quarantine_without_row: int = 0
    quarantine_without_file: int = 0


def compare(config: Config, pause: Callable[[float], None] = time.sleep) -> Differences:
    """Count the files against the ledger. What does not agree is looked at twice, since it may be on its way.

    Raises:
        OSError: a folder cannot be read.
        LedgerError: the ledger cannot be read.
    """
    spool = Spool(config.spool.directory)
    reader = LedgerChecks(spool.ledger)
    owed, held = reader.names(State.INCOMING), reader.names(State.QUARANTINE)
    incoming = {ledger_name(found.name) for found in spool.scan()}
    quarantine = {ledger_name(name) for name in spool.quarantine.names()}
    new, gone = incoming - owed, owed - incoming
    new_held, gone_held = quarantine - held, held - quarantine
    if new | gone | new_held | gone_held:
        pause(_AGAIN_SECONDS)
        owed, held = reader.names(State.INCOMING), reader.names(State.QUARANTINE)
        there = {ledger_name(name) for name in spool.quarantine.names()}
        new = {name for name in new - owed if is_there(spool, name)}
        gone = {name for name in gone & owed if not is_there(spool, name)}
        new_held = (new_held & there) - held
        gone_held = (gone_held & held) - there
    return Differences(len(incoming), len(quarantine), len(new), len(gone), len(new_held), len(gone_held))


def files(config: Config) -> Iterator[Finding]:
    """The ledger against the files."""
    try:
        found = compare(config)
    except OSError as error:
        yield Finding("files", Level.ERROR, f"The folders cannot be read: {error.strerror}.", "Look at their disk.")
        return
    except LedgerError:
        return  # told already
    told = [
        (found.without_row, "in incoming/ without a row"),
        (found.without_file, "a row that says incoming and no file"),
        (found.quarantine_without_row, "in quarantine/ without a row"),
        (found.quarantine_without_file, "a row that says quarantine and no file"),
    ]
    differ = [f"{count:,} {what}" for count, what in told if count]
    if differ:
        advice = "A running uploader mends that by itself within rescan_seconds; or --repair."
        yield Finding("files", Level.WARNING, f"Ledger and files differ: {', '.join(differ)}.", advice)
    else:
        text = f"Ledger and files agree: {found.incoming:,} in incoming/, {found.quarantine:,} in quarantine/."
        yield Finding("files", Level.OK, text)
