"""The Storage and Verification SCP: associations, what is accepted on them, and what is answered.

This module decides; `receiver.association` carries it out. It knows no disk: an instance goes to the intake.

Nothing that a peer does is fatal. A refused instance and a rejected association are warnings.
"""

import ssl
import threading
import time
from typing import Any, Protocol

from common import logs
from common.config import ReceiverConfig
from common.errors import StowgateError
from common.instance import is_uid
from common.records import Sender
from receiver import status
from receiver.admission import Admission, Rejection
from receiver.association import Foreign
from receiver.foreign import configure
from receiver.intake import Stored
from receiver.negotiation import Proposal, unsupported
from receiver.server import Server
from receiver.tally import Tally
from receiver.transfer import Reception, Store

log = logs.get(__name__)

_REJECTION_LOG_SECONDS = 60.0
_LAST_WORD_SECONDS = 3.0


class Intake(Protocol):
    """Where instances go."""

    def has_room(self) -> bool:
        """Tell whether it can take more."""

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, /) -> Reception:
        """Begin to take an instance."""

    def prepare(self) -> None:
        """Make ready for a next instance, while nobody waits."""


class StorageScp:
    """Listens, and passes instances to the intake. The port is bound when it is made.

    Args:
        config: the section [receiver].
        intake: takes the instances.
        tls: the server's TLS context; None for plain connections.

    Raises:
        OSError: the port cannot be bound.
    """

    def __init__(self, config: ReceiverConfig, intake: Intake, tls: ssl.SSLContext | None = None) -> None:
        configure()
        self._config = config
        self._intake = intake
        self._admission = Admission(config, intake.has_room)
        self._complaints = logs.OncePer(_REJECTION_LOG_SECONDS)
        self._rejected = Tally()
        self._refused = Tally()
        self._server = Server(config, self, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="accept", daemon=True)

    @property
    def is_accepting(self) -> bool:
        """Whether connections are being accepted."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to accept connections."""
        self._thread.start()
        log.info("listening", host=self._config.host, port=self._config.port, ae_title=self._config.ae_title)

    def stop_accepting(self) -> None:
        """Accept nothing more; associations under way go on."""
        self._server.stop_accepting()

    @property
    def associations(self) -> int:
        """How many associations are under way."""
        return len(self._server.admitted())

    def facts(self) -> dict[str, Any]:
        """How it is, for people to read; of JSON types.

        `refused` counts instances by the status that they were answered with, `rejected` associations by the reason.
        """
        return {
            "associations": self.associations,
            "ae_title": self._config.ae_title,
            "port": self._config.port,
            "refused": self._refused.counts(),
            "rejected": self._rejected.counts(),
        }

    def abort(self) -> int:
        """Abort the associations that are left (A-ABORT), and count them."""
        left = self._server.admitted()
        for association in left:
            association.abort()
        deadline = time.monotonic() + _LAST_WORD_SECONDS
        while self._server.admitted() and time.monotonic() < deadline:
            time.sleep(0.02)
        return len(left)

    def admit(self, proposal: Proposal, peer: str) -> Rejection | None:
        """Admit an association (None), or say how it is rejected."""
        calling, called = proposal.calling_ae_title, proposal.called_ae_title
        rejection = unsupported(proposal) or self._admission.admit(called=called, calling=calling, address=peer)
        if rejection is not None:
            self._rejected.add(rejection.word)
            if self._complaints.ready((rejection.reason, peer)):
                log.warning(
                    "association rejected",
                    reason=rejection.reason,
                    peer=peer,
                    calling_ae_title=calling,
                    called_ae_title=called,
                )
        return rejection

    def leave(self) -> None:
        """An association that was admitted is over."""
        self._admission.leave()

    def store_for(self, proposal: Proposal, peer: str, foreign: Foreign) -> Store:
        """What takes the instances of one association; `foreign` serves its other requests."""
        sender = Sender(
            calling_ae_title=proposal.calling_ae_title, called_ae_title=proposal.called_ae_title, peer_address=peer
        )
        return _Store(self._intake, sender, foreign, self._refused)


class _Store:
    """What one association brings: instances to the intake, refusals to the log."""

    def __init__(self, intake: Intake, sender: Sender, foreign: Foreign, refusals: Tally) -> None:
        self._intake = intake
        self._sender = sender
        self._foreign = foreign
        self._refusals = refusals
        self._stored: Stored | None = None  # and not yet logged

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Reception:
        return self._intake.begin(sop_class_uid, sop_instance_uid, transfer_syntax_uid)

    def commit(self, reception: Any) -> None:
        self._stored = reception.commit(self._sender)

    def answered(self) -> None:
        stored, self._stored = self._stored, None
        if stored is None:
            return
        log.info(
            "stored",
            file=stored.file_name,
            sop_instance_uid=stored.instance.sop_instance_uid,
            sop_class_uid=stored.instance.sop_class_uid,
            size_bytes=stored.size_bytes,
            calling_ae_title=self._sender.calling_ae_title,
            peer=self._sender.peer_address,
        )
        self._intake.prepare()

    def refused(self, error: Exception, sop_instance_uid: str) -> status.Refusal:
        if not isinstance(error, StowgateError | OSError):
            # Whatever it is, the sender gets a status that it understands, and the association goes on.
            log.exception("an instance could not be taken")  # noqa: LOG004 - called while it is dealt with
        answer = status.refusal(error)
        self._refusals.add(f"{answer.status:04X}")
        log.warning(
            "refused",
            status=f"{answer.status:04X}",
            reason=answer.reason,
            sop_instance_uid=sop_instance_uid if is_uid(sop_instance_uid) else "",
            calling_ae_title=self._sender.calling_ae_title,
            peer=self._sender.peer_address,
        )
        return answer

    def foreign(self, context_id: int, fragments: list[bytes]) -> None:
        self._foreign(context_id, fragments)
