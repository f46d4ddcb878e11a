"""Bringing the backlog, the folders and the ledger together: the scan that decides.

Events only wake; what is owed is what a scan of incoming/ finds. The ledger follows the folders: rows of files
that a person took away become `removed`, files in quarantine/ without a row get one. The ledger is written before
a file leaves incoming/, so a row that says `incoming` without a file has only that one meaning.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from common import logs
from common.directory import is_ours
from common.ledger import Ledger
from common.records import Owed, State, ledger_name
from common.repair import follow_quarantine, remove_missing
from common.spool import Spool, Survey
from uploader.backlog import Backlog
from uploader.entry import origin_of

log = logs.get(__name__)

_LOG_SECONDS = 60.0  # folders that cannot be read are spoken of at most once in so long


class Reconciling:
    """Scans the spool.

    Args:
        spool: the folders.
        ledger: the account.
        backlog: takes what the scan finds.
        backoff_max: seconds; a due time further off than this is taken for a clock that was wrong.
        empty_folder_seconds: how long a folder dropped by hand must be empty before it is removed.
        now: the wall clock, an aware datetime.
        enter: has files of incoming/ that a receiver stored entered into the ledger, by and by.
    """

    def __init__(
        self,
        spool: Spool,
        ledger: Ledger,
        backlog: Backlog,
        *,
        backoff_max: float,
        empty_folder_seconds: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        enter: Callable[[set[str]], None] = lambda _: None,
    ) -> None:
        self._spool = spool
        self._ledger = ledger
        self._backlog = backlog
        self._backoff_max = backoff_max
        self._empty_folder_seconds = empty_folder_seconds
        self._now = now
        self._enter = enter
        self._unknown: set[str] | None = None
        self._empty_since: dict[str, tuple[int, float]] = {}
        self._complaints = logs.OncePer(_LOG_SECONDS)

    def scan(self, monotonic: float) -> None:
        """Look at everything once.

        Raises:
            OSError: incoming/ or quarantine/ cannot be read; nothing was concluded from that.
            LedgerError: the ledger cannot be used now; the backlog has what incoming/ holds all the same.
        """
        # The rows first: a row listed here had its file before the folder is read, unless somebody took it away.
        try:
            owed = self._ledger.owed_names()
        except Exception:
            self._see(self._survey(), {}, monotonic)
            raise
        survey = self._survey()
        details = self._details(survey, monotonic)
        self._see(survey, details, monotonic)
        labels = {ledger_name(name): name for name in survey.names if not name.isascii()}
        present = survey.names | labels.keys()
        self._say_removed(State.INCOMING, remove_missing(self._spool, self._ledger, owed - present, present))
        self._enter_unknown({name for name in survey.names - owed if is_ours(name)})
        adopted, removed = follow_quarantine(self._spool, self._ledger)
        if adopted:
            log.warning("found in quarantine without a row, and entered", files=adopted)
        self._say_removed(State.QUARANTINE, removed)
        if survey.has_folders or self._empty_since:
            self._remove_empty_folders(monotonic)

    def _survey(self) -> Survey:
        return self._spool.survey(self._backlog.known(), self._complain)

    def _details(self, survey: Survey, monotonic: float) -> dict[str, Owed]:
        """What the ledger knows of the files that are new to the backlog."""
        if not survey.found:
            return {}
        try:
            return self._ledger.owed()
        except Exception:
            self._see(survey, {}, monotonic)
            raise

    def _enter_unknown(self, unknown: set[str]) -> None:
        """Have the files that a receiver stored, and that have no row, entered into the ledger: it was lost.

        At first all of them; later those that had none at the last scan either, since a receiver writes the row last.
        """
        lost = unknown if self._unknown is None else unknown & self._unknown
        self._unknown = unknown
        if lost:
            self._enter(lost)

    def _say_removed(self, state: State, count: int) -> None:
        if count:
            log.warning("taken away by somebody else", folder=state.value, files=count)

    def scan_folder(self, name: str, monotonic: float) -> None:
        """Take note of the files in a folder that appeared in incoming/."""
        for found in self._spool.scan(name):
            self._backlog.see(found, monotonic)

    def _complain(self, name: str, error: OSError) -> None:
        if self._complaints.ready("folder"):
            log.error("a folder in incoming cannot be read, its files wait", folder=logs.file_label(name), error=error)

    def _see(self, survey: Survey, owed: dict[str, Owed], monotonic: float) -> None:
        """Tell the backlog, in the order in which they came: so they go, and lie together on disk and in the ledger."""
        self._backlog.keep_only(survey.names)
        came = {name: number for number, name in enumerate(owed)}
        for one in sorted(survey.found, key=lambda one: came.get(ledger_name(one.name), len(came))):
            known = owed.get(ledger_name(one.name))
            due = known.next_attempt_at if known else None
            self._backlog.see(
                one,
                monotonic,
                scanned=True,
                due=monotonic + self._wait(due) if due else 0.0,
                origin=origin_of(one.name, known),
            )

    def _wait(self, due: str) -> float:
        """Seconds until a due time of the ledger; 0 if it cannot be right."""
        try:
            seconds = (datetime.fromisoformat(due) - self._now()).total_seconds()
        except (ValueError, TypeError):
            return 0.0
        return seconds if 0 < seconds <= self._backoff_max else 0.0

    def _remove_empty_folders(self, monotonic: float) -> None:
        empty = dict(self._spool.empty_folders())
        since: dict[str, tuple[int, float]] = {}
        for name, mtime_ns in empty.items():
            known = self._empty_since.get(name)
            if known is None or known[0] != mtime_ns:
                since[name] = (mtime_ns, monotonic)
            elif monotonic - known[1] >= self._empty_folder_seconds:
                self._spool.remove_folder(name)
            else:
                since[name] = known
        self._empty_since = since
