"""What a person can do about quarantined files. The command line and the web page do it through these functions alone.

A release is a move back to incoming/, recorded while the file is still claimed; a crash in between leaves what `mv` by
hand leaves, and the uploader records it. A discard is recorded first, and durable, before the file is deleted: a crash
in between leaves a file that the next scan enters into the ledger again, still in quarantine. A hundred files at a
time share each flush.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from common import logs
from common.errors import LedgerError
from common.ledger import Ledger
from common.presence import wish_probe
from common.spool import Spool

log = logs.get(__name__)

_NO_NAME = "expected the name of a file in quarantine/, found something else"

AT_A_TIME = 100
"""So many files are done together; whoever wants to end early can between two such lots."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of an action on several files.

    Attributes:
        done: the names of those with which it succeeded.
        failed: why not, by name, for the others.
    """

    done: tuple[str, ...]
    failed: dict[str, str]


def probe(directory: Path, person: str) -> None:
    """Have the destination probed now; no ledger is needed for it.

    Args:
        directory: of the spool.
        person: who acts, for the log.

    Raises:
        OSError: the wish cannot be written.
    """
    wish_probe(directory)
    log.info("probe asked for", by=person)


class Actions:
    """Acts on the quarantine of one spool.

    Args:
        spool: the folders.
        ledger: their account, durable.
        person: who acts, for the history and the log.
    """

    def __init__(self, spool: Spool, ledger: Ledger, person: str) -> None:
        self._spool = spool
        self._ledger = ledger
        self._person = person

    def release(self, names: Iterable[str]) -> Done:
        """Have quarantined files tried again, from a clean slate."""
        return self._each(names, self._release, "released")

    def discard(self, names: Iterable[str]) -> Done:
        """Delete quarantined files for good."""
        return self._each(names, self._discard, "discarded")

    def _release(self, names: Sequence[str]) -> Mapping[str, OSError]:
        with self._spool.quarantine.release(names) as failed:
            moved = [name for name in names if name not in failed]
            try:
                self._ledger.released(moved, f"by {self._person}")
            except LedgerError as error:
                # They are owed by now; the uploader records it when the ledger can be written again.
                log.warning("release not recorded yet", files=len(moved), error=str(error))
        return failed

    def _discard(self, names: Sequence[str]) -> Mapping[str, OSError]:
        quarantine = self._spool.quarantine
        gone = {name: FileNotFoundError() for name in names if not quarantine.holds(name)}
        recorded = [name for name in names if name not in gone]
        self._ledger.discarded(recorded, f"discarded by {self._person}")
        return {**gone, **quarantine.discard(recorded)}

    def _each(self, names: Iterable[str], act: Callable[[Sequence[str]], Mapping[str, OSError]], verb: str) -> Done:
        done: list[str] = []
        failed: dict[str, str] = {}
        coming = iter(names)
        while some := list(dict.fromkeys(islice(coming, AT_A_TIME))):
            lot = [name for name in some if _is_plain(name)]
            failed |= {name: _NO_NAME for name in some if not _is_plain(name)}
            try:
                undone = {name: _in_words(error) for name, error in act(lot).items()}
            except (OSError, LedgerError) as error:
                undone = dict.fromkeys(lot, _in_words(error))
            failed |= undone
            for name in lot:
                if name not in undone:
                    done.append(name)
                    log.info(verb, file=logs.file_label(name), by=self._person)
        return Done(tuple(done), failed)


def _is_plain(name: str) -> bool:
    """Whether it leads nowhere but to an entry of a folder."""
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name


def _in_words(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is not in quarantine/ any more"
    if isinstance(error, FileExistsError):
        return "incoming/ has an entry of that name; it stays in quarantine/"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)
