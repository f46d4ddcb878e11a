"""Releasing and discarding: by a thread, one undertaking after the other, since ten thousand files take a while.

They are done by console.actions, some at a time; what a crash leaves is said there. What is not done is not done.
"""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from common import logs
from common.errors import LedgerError
from common.ledger import Ledger
from common.records import file_names
from common.spool import Spool
from console.actions import AT_A_TIME, Actions

log = logs.get(__name__)

_KEPT = 50
_MOST_FAILURES = 100


class Verb(StrEnum):
    """What is done."""

    RELEASE = "release"
    """Tried again."""
    DISCARD = "discard"
    """Deleted for good."""


@dataclass(slots=True)
class Undertaking:
    """One act on several files.

    Attributes:
        id: of it.
        verb: what is done.
        person: who wants it.
        total: how many files.
        done: with how many it succeeded so far.
        failed: with how many it did not.
        failures: the first of those: names in the ledger's form, and why not.
        finished: set at the end.
    """

    id: int
    verb: Verb
    person: str
    total: int
    done: int = 0
    failed: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def is_finished(self) -> bool:
        """Whether all of it is done or has failed."""
        return self.finished.is_set()


class Undertakings:
    """Those of one spool.

    Args:
        spool: the folders.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._kept: OrderedDict[int, Undertaking] = OrderedDict()

    def start(self, verb: Verb, labels: Sequence[str], person: str) -> Undertaking:
        """Begin to do it to files, named in the ledger's form."""
        with self._lock:
            one = Undertaking(next(self._ids), verb, person, len(labels))
            self._kept[one.id] = one
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        threading.Thread(target=self._run, args=(one, list(labels)), name=f"{verb}-{one.id}", daemon=True).start()
        return one

    def find(self, number: int) -> Undertaking | None:
        """One of the last undertakings."""
        with self._lock:
            return self._kept.get(number)

    def _run(self, one: Undertaking, labels: Sequence[str]) -> None:
        try:
            with self._turn:
                self._do(one, labels)
        except Exception:
            log.exception("undertaking broken off", verb=one.verb)
            self._fail(one, "", "it was broken off; see the log")
        finally:
            one.failed = one.total - one.done
            one.finished.set()

    def _do(self, one: Undertaking, labels: Sequence[str]) -> None:
        try:
            ledger = Ledger(self._spool.ledger, durable=True)
        except LedgerError as error:
            self._fail(one, "", str(error))
            return
        try:
            actions = Actions(self._spool, ledger, one.person)
            act = actions.release if one.verb is Verb.RELEASE else actions.discard
            for start in range(0, len(labels), AT_A_TIME):
                by_name = {self._name(label): label for label in labels[start : start + AT_A_TIME]}
                result = act(by_name)
                one.done += len(result.done)
                for name, reason in result.failed.items():
                    self._fail(one, by_name[name], reason)
        finally:
            ledger.close()

    def _name(self, label: str) -> str:
        """The name in quarantine/ of what the ledger calls so."""
        return next((name for name in file_names(label) if self._spool.quarantine.holds(name)), label)

    def _fail(self, one: Undertaking, label: str, reason: str) -> None:
        one.failed += 1
        if len(one.failures) < _MOST_FAILURES:
            one.failures[label] = reason
