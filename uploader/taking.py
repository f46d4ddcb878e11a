"""Taking files of incoming/ in hand (U1): claim them, know them, make sure that the ledger has them as owed.

Without the ledger no file is taken, unless the disk is full: then delivering is what empties it, and makes the ledger
usable again. A file that could not be entered is entered when it is settled.
"""

import errno
import fcntl
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from common import logs
from common.errors import InstanceError, LedgerError
from common.instance import Instance
from common.ledger import Ledger
from common.part10 import read_part10
from common.records import Cause, Event, Known
from common.spool import Busy, Claim, Gone, NotAFile, Spool

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """A file to deliver, as the scheduler knows it.

    Attributes:
        name: relative to incoming/.
        settled: nobody is writing to it any more, as far as the scheduler can tell: it is read, and the ledger
            corrected by what is in it. If not, only a file that a receiver has recorded is taken.
    """

    name: str
    settled: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """A claimed file that is ready to be sent.

    Attributes:
        claim: on the file.
        sop_instance_uid: of the instance.
        attempts: how many it has had.
        received_at: when it came, as the ledger says.
        unentered: what it is, if it could not be entered into the ledger, since the disk is full.
    """

    claim: Claim
    sop_instance_uid: str
    attempts: int
    received_at: str
    unentered: Instance | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a file cannot be sent at all, with its size in bytes."""

    cause: Cause
    detail: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class NotTaken:
    """A file that is not to be sent now: busy, gone, rejected, or else still being written."""

    name: str
    busy: bool = False
    gone: bool = False
    rejection: Rejection | None = None
    claim: Claim | None = None


class Taking:
    """Takes files in hand; safe to call from several threads.

    Args:
        spool: where the files are.
        ledger: their account.
        turn: held while files are claimed.
    """

    def __init__(self, spool: Spool, ledger: Ledger, turn: Lock) -> None:
        self._spool = spool
        self._ledger = ledger
        self._turn = turn

    def take(self, requests: Sequence[Request]) -> list[Taken | NotTaken]:
        """Claim files and make sure that each is whole, storable and in the ledger.

        Returns:
            One for each request, in their order. Whoever gets them closes the claims.

        Raises:
            LedgerError: the ledger cannot be used now; the files stay as they are.
        """
        claims: dict[str, Claim] = {}
        try:
            with self._turn:
                found: dict[str, Taken | NotTaken] = {
                    request.name: self._claim(request.name, claims) for request in requests
                }
            recorded = [request.name for request in requests if not request.settled and request.name in claims]
            known = self._known(recorded) if recorded else {}
            for request in requests:
                if (claim := claims.get(request.name)) is not None:
                    found[request.name] = (
                        self._adopt(claim) if request.settled else _as_recorded(claim, known.get(request.name))
                    )
            return [found[request.name] for request in requests]
        except BaseException:
            for claim in claims.values():
                claim.close()
            raise

    def _claim(self, name: str, claims: dict[str, Claim]) -> NotTaken:
        """Put the claim on a file to the others; if there is none, say why."""
        try:
            claims[name] = self._spool.claim(name)
        except Busy:
            return NotTaken(name, busy=True)
        except Gone:
            return NotTaken(name, gone=True)
        except NotAFile:
            detail = "expected a regular file, found a symbolic link, FIFO, socket or device"
            return NotTaken(name, rejection=Rejection(Cause.NOT_A_FILE, detail, 0))
        except OSError as error:
            return _unreadable(name, error)
        return NotTaken(name)

    def _adopt(self, claim: Claim) -> Taken | NotTaken:
        """Read a file and make sure that the ledger has as owed what is in it."""
        try:
            instance = self._read(claim)
        except InstanceError as error:
            # Quiet for long, and yet somebody has it open for writing: a slow writer, not a bad file.
            if _open_for_writing(claim):
                return _not_yet(claim)
            return NotTaken(
                claim.name, rejection=Rejection(Cause(error.cause), str(error), claim.size_bytes), claim=claim
            )
        except OSError as error:
            return _unreadable(claim.name, error, claim)
        try:
            event = self._ledger.adopt(claim.name, instance, claim.size_bytes)
        except LedgerError:
            if not self._spool.is_full():
                raise
            known = self._known([claim.name]).get(claim.name)
            attempts = known.attempts if known is not None else 0
            return Taken(claim, instance.sop_instance_uid, attempts, "", unentered=instance)
        if event is not None:
            log.info(
                event.value,
                file=logs.file_label(claim.name),
                sop_instance_uid=instance.sop_instance_uid,
                size_bytes=claim.size_bytes,
            )
        if event is Event.RELEASED:
            self._spool.quarantine.drop_reason(claim.name)
        known = self._ledger.known([claim.name]).get(claim.name)
        if known is None:  # the ledger was lost this very moment; the file is owed all the same
            return Taken(claim, instance.sop_instance_uid, 0, "")
        return Taken(claim, instance.sop_instance_uid, known.attempts, known.received_at)

    def _known(self, names: Sequence[str]) -> dict[str, Known]:
        """What the ledger knows of the named files; nothing, if it cannot be read since the disk is full."""
        try:
            return self._ledger.known(names)
        except LedgerError:
            if not self._spool.is_full():
                raise
            return {}

    def _read(self, claim: Claim) -> Instance:
        with claim.reader() as reader:
            return read_part10(reader, claim.size_bytes)


def _as_recorded(claim: Claim, known: Known | None) -> Taken | NotTaken:
    """The file if its row is that of a receiver that has done with it; it is not read."""
    if known is None or known.size_bytes != claim.size_bytes or not known.sop_instance_uid:
        return _not_yet(claim)
    return Taken(claim, known.sop_instance_uid, known.attempts, known.received_at)


def _not_yet(claim: Claim) -> NotTaken:
    """Let go of a file that somebody is writing to."""
    claim.close()
    return NotTaken(claim.name)


def _unreadable(name: str, error: OSError, claim: Claim | None = None) -> NotTaken:
    if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
        # This process is short of something: no fault of the file.
        if claim is not None:
            claim.close()
        return NotTaken(name, busy=True)
    detail = f"expected a readable file, found: {error.strerror}"
    size_bytes = claim.size_bytes if claim else 0
    return NotTaken(name, rejection=Rejection(Cause.UNREADABLE, detail, size_bytes), claim=claim)


def _open_for_writing(claim: Claim) -> bool:
    """Tell whether anybody has the file open for writing: the kernel grants no read lease on such a file."""
    try:
        # Whoever opens it for writing before the lease is given back breaks it, and the kernel tells us by a signal:
        # not by SIGIO, which would end the process, but by one that is ignored by default.
        fcntl.fcntl(claim.fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(claim.fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(claim.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        # EACCES: not our file, or a filesystem without leases. Then quiet time alone decides.
        return error.errno == errno.EAGAIN
    return False
