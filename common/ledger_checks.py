"""Questions to a ledger whether it is whole, and which files it names. Read-only and bounded like LedgerReader's."""

from common.errors import LedgerError
from common.ledger_reader import LedgerReader
from common.records import State

_MOST_FINDINGS = 10


class LedgerChecks(LedgerReader):
    """Questions to a ledger, from whoever looks for what is wrong with it."""

    def damage(self, seconds: float) -> tuple[str, ...] | None:
        """What SQLite's quick check finds, ten at most; nothing if it is whole; None if that takes too long to say.

        Args:
            seconds: for which it may look; the whole file is read.

        Raises:
            LedgerError: it cannot be read.
        """
        try:
            with self._asking(seconds) as connection:
                found = [str(line) for (line,) in connection.execute(f"PRAGMA quick_check({_MOST_FINDINGS})")]
        except LedgerError as error:
            if getattr(error.__cause__, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
                return None
            raise
        return () if found == ["ok"] else tuple(found)

    def names(self, state: State) -> set[str]:
        """The file names, in the ledger's form, of all rows in a state.

        Raises:
            LedgerError: it cannot be read.
        """
        with self._asking() as connection:
            return {name for (name,) in connection.execute("SELECT file_name FROM instances WHERE state = ?", (state,))}
