"""The Storage and Verification SCP: associations, what is accepted on them, and what is answered.

pynetdicom does the upper layer and the command sets. This module knows no disk: an instance goes to the intake.
"""

import ssl
import threading
import time
from typing import Any, Protocol

from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from common import logs
from common.config import ReceiverConfig
from common.errors import ConfigError, InstanceError, LedgerError
from common.instance import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from common.records import Sender
from receiver.admission import Admission, plain_address
from receiver.contexts import choose
from receiver.intake import Stored
from receiver.status import SUCCESS, Refusal, refusal
from receiver.upper_layer import Server, configure, make_server

log = logs.get(__name__)

_REJECTION_LOG_SECONDS = 60.0


class Reception(Protocol):
    """An instance on its way in."""

    def write(self, fragment: bytes | memoryview, /) -> None:
        """Append a fragment of the dataset."""

    def commit(self, sender: Sender) -> Stored:
        """Make it durable; then it may be acknowledged."""


class Intake(Protocol):
    """Where instances go."""

    def has_room(self) -> bool:
        """Tell whether it can take more."""

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Reception:
        """Begin to take an instance."""


class StorageScp:
    """Listens, and passes instances to the intake.

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
        ae = AE(ae_title=config.ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.maximum_pdu_size = config.max_pdu
        ae.maximum_associations = 1_000_000  # counted by us, with the reason for the log
        ae.acse_timeout = config.acse_timeout_seconds
        ae.dimse_timeout = config.network_timeout_seconds
        ae.network_timeout = config.network_timeout_seconds
        self._ae = ae
        Server.max_connections = config.max_associations
        Server.handshake_seconds = config.acse_timeout_seconds
        self._server = make_server(
            ae,
            (config.host, config.port),
            ssl_context=tls,
            evt_handlers=[
                (evt.EVT_REQUESTED, self._on_requested),
                (evt.EVT_C_ECHO, self._on_echo),
                (evt.EVT_C_STORE, self._on_store),
            ],
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="accept", daemon=True)

    def start(self) -> None:
        """Begin to accept connections."""
        self._thread.start()
        log.info("listening", host=self._config.host, port=self._config.port, ae_title=self._config.ae_title)

    def stop(self, seconds: float) -> int:
        """Accept nothing more, let associations end by themselves, and abort what is left after so many seconds.

        Returns:
            How many had to be aborted.
        """
        self._server.stop_accepting()
        deadline = time.monotonic() + seconds
        while (left := self._server.associations()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for association in left:
            association.abort()
        return len(left)

    def _on_requested(self, event: evt.Event) -> None:
        association = event.assoc
        request: Any = association.requestor.primitive
        others = sum(1 for other in self._server.associations() if other is not association and other.is_established)
        address = association.requestor.address
        rejection = self._admission.decide(
            called=request.called_ae_title, calling=request.calling_ae_title, address=address, others=others
        )
        if rejection is None:
            association.acceptor.supported_contexts = choose(request.presentation_context_definition_list)
            return
        association.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
        association.kill()
        peer = plain_address(address)
        if self._complaints.ready((rejection.reason, peer)):
            log.warning(
                "association rejected",
                reason=rejection.reason,
                peer=peer,
                calling_ae_title=request.calling_ae_title,
                called_ae_title=request.called_ae_title,
            )

    def _on_echo(self, event: evt.Event) -> int:
        log.debug("echo", calling_ae_title=event.assoc.requestor.ae_title)
        return SUCCESS

    def _on_store(self, event: evt.Event) -> Dataset | int:
        sender = _sender(event)
        try:
            stored = self._take(event, sender)
        except (Refusal, InstanceError, LedgerError, OSError) as error:
            return self._refuse(refusal(error), sender)
        except Exception as error:
            log.exception("an instance could not be taken")
            return self._refuse(refusal(error), sender)
        log.info(
            "stored",
            file=stored.file_name,
            sop_instance_uid=stored.instance.sop_instance_uid,
            sop_class_uid=stored.instance.sop_class_uid,
            size_bytes=stored.size_bytes,
            calling_ae_title=sender.calling_ae_title,
            peer=sender.peer_address,
        )
        return SUCCESS

    def _take(self, event: evt.Event, sender: Sender) -> Stored:
        request: Any = event.request
        reception = self._intake.begin(
            str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), str(event.context.transfer_syntax)
        )
        with request.DataSet.getbuffer() as dataset:
            reception.write(dataset)
        return reception.commit(sender)

    def _refuse(self, answer: Refusal, sender: Sender) -> Dataset:
        log.warning(
            "refused",
            status=f"{answer.status:04X}",
            reason=answer.comment,
            calling_ae_title=sender.calling_ae_title,
            peer=sender.peer_address,
        )
        response = Dataset()
        response.Status = answer.status
        response.ErrorComment = answer.comment
        if answer.offending_element is not None:
            response.OffendingElement = answer.offending_element
        return response


def _sender(event: evt.Event) -> Sender:
    requestor: Any = event.assoc.requestor
    return Sender(
        calling_ae_title=requestor.ae_title.strip(),
        called_ae_title=requestor.primitive.called_ae_title.strip(),
        peer_address=plain_address(requestor.address),
    )


def tls_context(config: ReceiverConfig) -> ssl.SSLContext | None:
    """The TLS context that the section [receiver] asks for; None if it asks for none.

    TLS 1.2 and newer (PS3.15 B.9, BCP 195). With tls_client_ca, a client must show a certificate.

    Raises:
        ConfigError: a file is no usable certificate or key.
    """
    if config.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        problem = (
            "[receiver] tls_certificate, tls_key: expected a certificate and the key that belongs to it, in PEM and "
            f"without a passphrase; found that they cannot be used ({_reason(error)})"
        )
        raise ConfigError((problem,)) from error
    if config.tls_client_ca is not None:
        try:
            context.load_verify_locations(config.tls_client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                (f"[receiver] tls_client_ca: expected certificates in PEM, found none ({_reason(error)})",)
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
