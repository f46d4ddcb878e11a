"""The Storage and Verification SCP: associations, what is accepted on them, and what is answered.

pynetdicom does the upper layer and the command sets. This module knows no disk: an instance goes to the intake.

Nothing that a peer does is fatal. A refused instance and a rejected association are warnings.
"""

import ssl
import threading
import time
from typing import Any, Protocol

from pynetdicom import AE, evt

from common import logs
from common.config import ReceiverConfig
from common.errors import StowgateError
from common.instance import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, is_uid
from common.records import Sender
from receiver import status
from receiver.admission import Admission, Rejection, plain_address
from receiver.contexts import choose
from receiver.intake import Stored
from receiver.server import Server, configure
from receiver.transfer import Reception
from receiver.upper_layer import StorageAssociation

log = logs.get(__name__)

_REJECTION_LOG_SECONDS = 60.0
_LAST_WORD_SECONDS = 3.0


class Intake(Protocol):
    """Where instances go."""

    def has_room(self) -> bool:
        """Tell whether it can take more."""

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, /) -> Reception:
        """Begin to take an instance."""


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
        self._admission = Admission(config, intake.has_room)
        self._complaints = logs.OncePer(_REJECTION_LOG_SECONDS)
        ae = AE(ae_title=config.ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.maximum_pdu_size = config.max_pdu
        ae.maximum_associations = 1_000_000  # counted by the admission, which says why
        ae.acse_timeout = config.acse_timeout_seconds
        ae.network_timeout = config.network_timeout_seconds
        ae.dimse_timeout = None  # is for answers to our own requests, and we make none
        self._server = Server(
            ae,
            (config.host, config.port),
            max_associations=config.max_associations,
            tls=tls,
            handlers=[(evt.EVT_REQUESTED, self._on_requested)],
            on_leave=self._admission.leave,
            store_for=lambda association: _Store(intake, association),
        )
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

    def abort(self) -> int:
        """Abort the associations that are left (A-ABORT), and count them."""
        left = self._server.admitted()
        for association in left:
            association.abort(block=False)
        deadline = time.monotonic() + _LAST_WORD_SECONDS
        while self._server.admitted() and time.monotonic() < deadline:
            time.sleep(0.02)
        return len(left)

    def _on_requested(self, event: evt.Event) -> None:
        association = event.assoc
        try:
            rejection = self._judge(association)
        except Exception as error:  # noqa: BLE001 - what pynetdicom would swallow, and go on without our judgement
            peer = plain_address(association.requestor.address)
            if self._complaints.ready(("request", peer)):
                log.warning("association aborted: its request cannot be understood", peer=peer, reason=error)
            association.acse.send_ap_abort(0x06)  # invalid PDU parameter value (PS3.8 9.3.8)
            association.kill()
            return
        if rejection is not None:
            association.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
            # Waits until it is sent: pynetdicom closes the connection when we return.
            association.kill()

    def _judge(self, association: Any) -> Rejection | None:
        """Admit an association and choose what is accepted on it, or say how it is rejected."""
        request = association.requestor.primitive
        supported = choose(request.presentation_context_definition_list)
        peer = plain_address(association.requestor.address)
        calling, called = request.calling_ae_title, request.called_ae_title
        rejection = self._admission.admit(called=called, calling=calling, address=peer)
        if rejection is None:
            association.admitted = True
            association.acceptor.supported_contexts = supported
            association.hold()
        elif self._complaints.ready((rejection.reason, peer)):
            log.warning(
                "association rejected",
                reason=rejection.reason,
                peer=peer,
                calling_ae_title=calling,
                called_ae_title=called,
            )
        return rejection


class _Store:
    """What one association brings: instances to the intake, refusals to the log."""

    def __init__(self, intake: Intake, association: StorageAssociation) -> None:
        self._intake = intake
        self._association = association
        request: Any = association.requestor.primitive
        self._sender = Sender(
            calling_ae_title=request.calling_ae_title.strip(),
            called_ae_title=request.called_ae_title.strip(),
            peer_address=plain_address(association.requestor.address),
        )

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Reception:
        return self._intake.begin(sop_class_uid, sop_instance_uid, transfer_syntax_uid)

    def commit(self, reception: Any) -> None:
        stored: Stored = reception.commit(self._sender)
        log.info(
            "stored",
            file=stored.file_name,
            sop_instance_uid=stored.instance.sop_instance_uid,
            sop_class_uid=stored.instance.sop_class_uid,
            size_bytes=stored.size_bytes,
            calling_ae_title=self._sender.calling_ae_title,
            peer=self._sender.peer_address,
        )

    def refused(self, error: Exception, sop_instance_uid: str) -> status.Refusal:
        if not isinstance(error, StowgateError | OSError):
            # Whatever it is, the sender gets a status that it understands, and the association goes on.
            log.exception("an instance could not be taken")  # noqa: LOG004 - called while it is dealt with
        answer = status.refusal(error)
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
        self._association.serve_foreign(context_id, fragments)
