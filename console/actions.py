"""What a person can do about quarantined files. The command line and the web page do it through these functions alone.

A release is a move back to incoming/, recorded while the file is still claimed; a crash in between leaves what `mv` by
hand leaves, and the uploader records it. A discard is recorded first, and durable, before the file is deleted: a crash
in between leaves a file that the next scan enters into the ledger again, still in quarantine.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from common import logs
from common.errors import LedgerError
from common.ledger import Ledger
from common.presence import wish_probe
from common.spool import Spool

log = logs.get(__name__)


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

    def _release(self, name: str) -> None:
        with self._spool.quarantine.release(name):
            try:
                self._ledger.released(name, f"by {self._person}")
            except LedgerError as error:
                # It is owed by now; the uploader records it when the ledger can be written again.
                log.warning("release not recorded yet", file=logs.file_label(name), error=str(error))

    def _discard(self, name: str) -> None:
        if not self._spool.quarantine.holds(name):
            raise FileNotFoundError
        self._ledger.discarded(name, f"discarded by {self._person}")
        self._spool.quarantine.discard(name)

    def _each(self, names: Iterable[str], act: Callable[[str], None], verb: str) -> Done:
        done: list[str] = []
        failed: dict[str, str] = {}
        for name in names:
            if "/" in name or name in {"", ".", ".."} or "\0" in name:
                failed[name] = "expected the name of a file in quarantine/, found something else"
                continue
            try:
                act(name)
            except FileNotFoundError:
                failed[name] = "it is not in quarantine/ any more"
            except FileExistsError:
                failed[name] = "incoming/ has an entry of that name; it stays in quarantine/"
            except OSError as error:
                failed[name] = error.strerror or type(error).__name__
            except LedgerError as error:
                failed[name] = str(error)
            else:
                done.append(name)
                log.info(verb, file=logs.file_label(name), by=self._person)
        return Done(tuple(done), failed)
