"""Bringing the ledger together with the folders, in both directions. The directory is the truth; the ledger follows.

What is in a folder without a row that says so gets one; a row whose file is gone becomes `removed`. No file is moved,
changed or deleted but the sidecar of one that was released. A file in somebody's hand is left, and so is one that was
dropped by hand: whether it is whole yet, only the uploader can tell, who watches it for a while.

Safe while receiver and uploader run, and after whatever interruption: nothing is concluded from a disk that fails.
"""

import errno
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from common.directory import is_ours
from common.errors import InstanceError
from common.instance import Instance
from common.ledger import Ledger
from common.part10 import read_part10
from common.records import Event, State, file_names, ledger_name
from common.spool import Busy, Claim, Gone, NotAFile, Spool


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done.

    Attributes:
        adopted: files of incoming/ that have a row now.
        left: files of incoming/ without a row, in somebody's hand or dropped by hand: the uploader enters them.
        removed: rows whose file was gone from incoming/.
        quarantine_adopted: files of quarantine/ that have a row now.
        quarantine_removed: rows whose file was gone from quarantine/.
    """

    adopted: int = 0
    left: int = 0
    removed: int = 0
    quarantine_adopted: int = 0
    quarantine_removed: int = 0


def repair(spool: Spool, ledger: Ledger) -> Repaired:
    """Bring all of it together once.

    Raises:
        OSError: incoming/ or quarantine/ cannot be read.
        LedgerError: the ledger cannot be used now; what was done until then is whole.
    """
    # The rows first: a row listed here had its file before the folder is read, unless somebody took it away.
    owed = ledger.owed()
    names = [found.name for found in spool.scan()]
    removed = remove_missing(spool, ledger, owed, {ledger_name(name) for name in names})
    unknown = [name for name in names if ledger_name(name) not in owed]
    adopted = adopt_received(spool, ledger, unknown)
    quarantine_adopted, quarantine_removed = follow_quarantine(spool, ledger)
    return Repaired(adopted, len(unknown) - adopted, removed, quarantine_adopted, quarantine_removed)


def remove_missing(spool: Spool, ledger: Ledger, owed: Iterable[str], present: Collection[str]) -> int:
    """Record as removed the rows whose file is not in incoming/; how many there were.

    Args:
        spool: the folders.
        ledger: their account.
        owed: the names of its rows in state incoming, asked for before the folder was read.
        present: the names that were found there, in the ledger's form.
    """
    missing = [label for label in owed if label not in present and not is_there(spool, label)]
    return ledger.removed(missing, State.INCOMING) if missing else 0


def adopt_received(
    spool: Spool, ledger: Ledger, names: Iterable[str], *, stopped: Callable[[], bool] = lambda: False
) -> int:
    """Enter files of incoming/ that a receiver stored, and whose row was lost, into the ledger; how many those were.

    Args:
        spool: the folders.
        ledger: their account.
        names: of files without a row in state incoming; those that no receiver named are passed over.
        stopped: asked before each file.
    """
    adopted = 0
    for name in names:
        if stopped():
            break
        if not is_ours(name):
            continue
        try:
            claim = spool.claim(name)
        except (Busy, Gone, NotAFile, OSError):
            continue
        with claim:
            event = ledger.adopt(name, _identity(claim), claim.size_bytes)
            if event is Event.RELEASED:
                spool.quarantine.drop_reason(name)
            adopted += event is not None
    return adopted


def follow_quarantine(spool: Spool, ledger: Ledger) -> tuple[int, int]:
    """Bring the rows in state quarantine together with the folder.

    Returns:
        How many files were given a row, and how many rows had no file.

    Raises:
        OSError: quarantine/ cannot be read.
        LedgerError: the ledger cannot be used now.
    """
    quarantine = spool.quarantine
    rows = ledger.due_times(State.QUARANTINE)
    there = {ledger_name(name): name for name in quarantine.names()}
    adopted = 0
    for label, name in there.items():
        # One that is in incoming/ too is owed, and its row says so.
        if label not in rows and not is_there(spool, label):
            try:
                size_bytes = os.lstat(quarantine.path / name).st_size
            except OSError:
                continue
            ledger.adopt_quarantined(name, size_bytes, quarantine.read_reason(name))
            adopted += 1
    # What is on its way to quarantine/ has its row already, and was waited for. What is not there is gone, unless a
    # process died on the way, or a person brings it back: look in incoming/ first, then there again.
    gone = [label for label in rows if label not in there and not is_there(spool, label)]
    gone = [label for label in gone if not any(quarantine.holds(name) for name in file_names(label))]
    return adopted, ledger.removed(gone, State.QUARANTINE) if gone else 0


def is_there(spool: Spool, label: str) -> bool:
    """Tell whether a file is in incoming/, by its name in the ledger, or may be: a failing disk tells nothing."""
    return any(_has(spool, name) for name in file_names(label))


def _has(spool: Spool, name: str) -> bool:
    try:
        spool.status(name)
    except OSError as error:
        return error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
    return True


def _identity(claim: Claim) -> Instance | None:
    try:
        with claim.reader() as reader:
            return read_part10(reader, claim.size_bytes)
    except (InstanceError, OSError):
        return None
