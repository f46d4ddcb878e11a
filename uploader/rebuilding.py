"""Entering what a receiver stored and the ledger does not know: after the ledger was lost, while nothing is delivered.

Delivering enters a file too, but during an outage nothing is delivered, and the account would be silent about what
is owed. A thread of its own reads the files, one at a time, each claimed meanwhile; a delivery that comes for one finds
it busy, and comes again. Nothing here is fatal: what is left is found by the next scan.
"""

import threading

from common import logs
from common.errors import LedgerError
from common.ledger import Ledger
from common.repair import adopt_received
from common.spool import Spool

log = logs.get(__name__)


class Rebuilding:
    """Enters files into the ledger.

    Args:
        spool: where they are.
        ledger: their account.
        stopped: set when the process ends.
    """

    def __init__(self, spool: Spool, ledger: Ledger, stopped: threading.Event) -> None:
        self._spool = spool
        self._ledger = ledger
        self._stopped = stopped
        self._thread: threading.Thread | None = None

    def enter(self, names: set[str]) -> None:
        """Begin to enter files of incoming/, unless others are being entered still. Returns at once."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, args=(sorted(names),), name="rebuilding", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until what was begun is done."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, names: list[str]) -> None:
        try:
            adopted = adopt_received(self._spool, self._ledger, names, stopped=self._stopped.is_set)
        except LedgerError as error:
            log.warning("not all files are entered into the ledger yet", reason=str(error))
        else:
            if adopted:
                log.warning("the ledger did not know these files, and has them now", files=adopted)
