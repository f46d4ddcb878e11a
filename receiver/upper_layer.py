"""Where we reach into pynetdicom beyond its public interface; nowhere else.

pynetdicom is pinned, and tests/unit/receiver/test_pynetdicom_contract.py says what changed if it moves. What is
reached for, and why:

- `Association._serve_request`: pynetdicom finds the service by SOP class and aborts for one that it does not know. A
  C-STORE is storage whatever its class.
- `AssociationSocket.recv`: pynetdicom's idle timer restarts after a whole PDU, which aborts a sender that is slow but
  makes progress; and it believes any PDU length.
- `RequestHandler._create_association`: makes the two classes above, without a deep copy of the contexts.
- `AssociationServer`: SO_REUSEPORT, a bound on connections, TLS handshakes out of the accepting thread.
"""

import contextlib
import logging
import socket
import socketserver
import ssl
import threading
from datetime import UTC, datetime
from typing import Any, cast

from pynetdicom import AE, _config, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from common import logs
from receiver.contexts import VERIFICATION
from receiver.status import CANNOT_UNDERSTAND, INVALID_INSTANCE, SOP_CLASS_NOT_SUPPORTED

log = logs.get(__name__)

_PENDING_CONNECTIONS = 32  # beside max_associations: those that have not proposed anything yet
_MAX_OTHER_PDU = 1024 * 1024  # bytes; an A-ASSOCIATE-RQ of 128 full contexts is well below


def configure() -> None:
    """Set pynetdicom's process-wide options: nothing logged of what passes, no UID judged before we see it."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    # A UID of the command that is too long would end the association; it is answered 0x0117 instead.
    _config.VALIDATORS["UI"] = lambda _: (True, "")
    # Its records can quote what was sent; what an operator needs is logged by us.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


class _Socket(AssociationSocket):
    """A connection that is idle only when no byte comes, and that believes no absurd length."""

    max_pdu = _MAX_OTHER_PDU

    def recv(self, nr_bytes: int) -> bytearray:
        if nr_bytes > self.max_pdu:
            raise ConnectionError(f"expected a PDU of at most {self.max_pdu} bytes")
        connection = self.socket
        received = bytearray(nr_bytes)
        view = memoryview(received)
        at = 0
        while at < nr_bytes:
            count = connection.recv_into(view[at:]) if connection is not None else 0
            if not count:
                view.release()
                del received[at:]
                return received
            at += count
            self.assoc.dul._idle_timer.restart()
        return received


class StorageAssociation(Association):
    """An association on which a C-STORE is storage, whatever its SOP class."""

    def _serve_request(self, msg: Any, context_id: int) -> None:
        context = self._accepted_cx.get(context_id)
        is_store = isinstance(msg, C_STORE) and msg.MessageIDBeingRespondedTo is None
        if not is_store or self._sent_release or context is None or context.abstract_syntax == VERIFICATION:
            super()._serve_request(msg, context_id)
            return
        status = self._status_of_command(msg, context)
        if status is not None:
            self._answer(msg, context_id, status)
            return
        self.dimse.cancel_req = {}
        self._is_paused = True
        try:
            StorageServiceClass(self).SCP(msg, context)
        finally:
            self._is_paused = False
        self.dimse.cancel_req = {}

    def _status_of_command(self, request: C_STORE, context: PresentationContext) -> int | None:
        """The status for a command that pynetdicom would pass over in silence, or that fits no context."""
        if not request.AffectedSOPClassUID or not request.AffectedSOPInstanceUID:
            return INVALID_INSTANCE
        if request.AffectedSOPClassUID != context.abstract_syntax:
            return SOP_CLASS_NOT_SUPPORTED  # on this context (PS3.7 C.5.23)
        if request.DataSet is None:
            return CANNOT_UNDERSTAND
        return None

    def _answer(self, request: C_STORE, context_id: int, status: int) -> None:
        response = C_STORE()
        response.MessageIDBeingRespondedTo = request.MessageID or 0
        response.AffectedSOPClassUID = request.AffectedSOPClassUID
        response.AffectedSOPInstanceUID = request.AffectedSOPInstanceUID
        response.Status = status
        self.dimse.send_msg(response, context_id)
        log.warning("refused", status=f"{status:04X}", calling_ae_title=self.requestor.ae_title)


class _RequestHandler(RequestHandler):
    server: "Server"

    def _create_association(self) -> Association:
        association = StorageAssociation(self.ae, MODE_ACCEPTOR)
        association._server = self.server
        association.name = f"AcceptorThread@{datetime.now(UTC):%Y%m%d%H%M%S%f}"
        connection = _Socket(association, client_socket=self.request)
        connection.max_pdu = max(_MAX_OTHER_PDU, 2 * self.ae.maximum_pdu_size)
        association.set_socket(connection)
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        acceptor.supported_contexts = []  # made from the proposal when it is there
        association.requestor.address_info = self.remote
        handlers: dict[Any, Any] = self.server._handlers
        for event, bound in handlers.items():
            # One (function, arguments) of an intervention event, a list of them of a notification event.
            for function, arguments in [bound] if isinstance(event, evt.InterventionEvent) else bound:
                if function is not None:
                    association.bind(event, function, arguments)
        return association


class Server(ThreadedAssociationServer):
    """Accepts connections, on a port that other receiver processes may share."""

    daemon_threads = True
    request_queue_size = 256
    # Set before the server is made, since making it binds the port.
    max_connections = 64
    handshake_seconds = 30.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        self._complaints = logs.OncePer(60)
        options["request_handler"] = _RequestHandler
        super().__init__(*arguments, **options)

    def server_bind(self) -> None:
        """Bind, shared with other receivers."""
        assert self.socket is not None  # noqa: S101 - TCPServer makes it before
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; it is bounded in time from here on."""
        assert self.socket is not None  # noqa: S101 - TCPServer makes it before
        connection, address = self.socket.accept()
        connection.settimeout(self.handshake_seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse a connection when too many are open."""
        with self._open_lock:
            self._open = {connection for connection in self._open if connection.fileno() >= 0}
            if len(self._open) < self.max_connections + _PENDING_CONNECTIONS:
                self._open.add(request)
                return True
        if self._complaints.ready("connections"):
            log.warning("connection refused: too many are open", peer=client_address[0], open=len(self._open))
        return False

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own: shake hands, then begin the association."""
        if self.ssl_context is not None:
            plain = request
            try:
                request = self.ssl_context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
                with self._open_lock:
                    self._open.discard(plain)
                    self._open.add(request)
                request.do_handshake()
            except (OSError, ssl.SSLError) as error:
                if self._complaints.ready(("tls", client_address[0])):
                    log.warning("TLS handshake failed", peer=client_address[0], reason=type(error).__name__)
                with contextlib.suppress(OSError):
                    request.close()
                return
        request.settimeout(self.ae.network_timeout)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        """Say that a connection failed before it became an association."""
        log.exception("connection failed", peer=client_address[0])  # noqa: LOG004 - called while it is raised

    def stop_accepting(self) -> None:
        """Close the listening socket; associations under way go on."""
        # AssociationServer.shutdown would also drop it from a list of its AE that it is not in.
        socketserver.BaseServer.shutdown(self)
        self.server_close()

    def associations(self) -> list[Association]:
        """The associations under way, those still negotiating among them."""
        return [association for association in self.active_associations if association.is_alive()]


def make_server(ae: AE, address: tuple[str, int], **options: Any) -> Server:
    """A server for an AE; binds the port.

    Raises:
        OSError: the port cannot be bound.
    """
    # pynetdicom refuses to make a server without contexts; those of an association come from its proposal.
    contexts = [build_context(VERIFICATION)]
    server = ae.make_server(address, server_class=Server, contexts=contexts, **options)
    return cast(Server, server)
