"""Where we reach into pynetdicom beyond its public interface; nowhere else, but for the socket in receiver.peer_socket.

pynetdicom is pinned, and tests/unit/receiver/test_pynetdicom_contract.py says what changed if it moves. What is
reached for, and why:

- `Association._run_reactor`: once the association is established, its connection is taken over from pynetdicom's
  thread and served by `receiver.transfer`; a request that is none of ours is passed back to pynetdicom's services.
- `Association.run_reactor`: the TLS handshake, and an end that always closes the connection.
- `DULServiceProvider.run_reactor`: a connection that ends before its request is noticed at once, not after the
  ACSE timeout.
- `AssociationSocket.recv`, `send`, `ready`: during negotiation, pynetdicom believes any PDU length; a half PDU stops
  its thread; select knows 1024 descriptors; and what follows the request must be left for the transfer.
- `RequestHandler._create_association`: makes these classes, without a deep copy of all supported contexts.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from pynetdicom import AE, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import RequestHandler

from common import logs
from receiver.admission import plain_address
from receiver.peer_socket import TICK_SECONDS, PeerSocket
from receiver.transfer import Context, End, Transfer

if TYPE_CHECKING:
    from receiver.server import Server

log = logs.get(__name__)

_LAST_WORD_SECONDS = 2.0
_TAKE_OVER_SECONDS = 5.0
# An A-ASSOCIATE-RQ of 128 contexts with dozens of transfer syntaxes is far below; some devices exceed max_pdu.
_LONGEST_PDU = 1024 * 1024

_complaints = logs.OncePer(60)


class _Provider(DULServiceProvider):
    """An upper layer that tells its association at once when it has ended, whatever ended it."""

    def __init__(self, association: Association) -> None:
        super().__init__(association)
        self.daemon = True  # one that waits for a silent peer must not keep the process

    def run_reactor(self) -> None:
        """Run until the connection ends."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 - rubbish from the peer surfaces as whatever it leads pynetdicom into
            peer = plain_address(self.assoc.requestor.address)
            if _complaints.ready(("protocol", peer)):
                log.warning("connection ended: the peer broke the protocol", peer=peer, reason=error)
        finally:
            association: Any = self.assoc
            if not association.taken_over:
                association.disconnect()
                # For whoever waits in receive_pdu: it reads this as its timeout.
                self.to_user_queue.put(cast(Any, None))


class StorageAssociation(Association):
    """An association on which a C-STORE is storage, whatever its SOP class.

    Attributes:
        admitted: it has a place among max_associations, which it gives back at its end.
        dropped: its connection was ended by us to make room.
        taken_over: its connection is served by the transfer, not by pynetdicom's thread.
    """

    def __init__(self, ae: AE, connection: socket.socket, on_end: Callable[["StorageAssociation"], None]) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self.connection = connection
        self.admitted = False
        self.dropped = False
        self.taken_over = False
        self._transfer: Transfer | None = None
        self._on_end = on_end
        self.dul = _Provider(self)
        # Association.__init__ set these for the provider that was replaced.
        self.acse_timeout = ae.acse_timeout
        self.network_timeout = ae.network_timeout

    def disconnect(self) -> None:
        """End the connection; its threads notice by themselves."""
        # The method of the plain socket: SSLSocket.shutdown would forget its TLS state while others use it.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.connection, socket.SHUT_RDWR)

    def run_reactor(self) -> None:
        """Serve the association from the handshake to its end."""
        try:
            if self._shake_hands():
                super().run_reactor()
        except Exception:
            log.exception("association ended: unforeseen error", peer=plain_address(self.requestor.address))
        finally:
            self.disconnect()
            self.dul.kill_dul()
            if self.dul.is_alive():
                self.dul.join(_LAST_WORD_SECONDS)
            with contextlib.suppress(OSError):
                self.connection.close()
            self._on_end(self)

    def _shake_hands(self) -> bool:
        """The TLS handshake, if there is to be one, within the ACSE timeout."""
        if isinstance(self.connection, ssl.SSLSocket):
            try:
                self.connection.settimeout(self.acse_timeout)
                self.connection.do_handshake()
            except (OSError, ValueError) as error:
                peer = plain_address(self.requestor.address)
                if not self.dropped and _complaints.ready(("TLS", peer)):
                    log.warning("TLS handshake failed", peer=peer, reason=error)
                return False
        self.connection.settimeout(TICK_SECONDS)
        return True

    def hold(self) -> None:
        """Let pynetdicom's thread read nothing any more: what the peer sends after its request is for the transfer."""
        cast(PeerSocket, self.dul.socket).hold = True

    def _run_reactor(self) -> None:
        """Take the connection over from pynetdicom's thread, and serve it to its end."""
        end = End.BROKEN
        if self._take_over():
            contexts = {
                number: Context(str(context.abstract_syntax), str(context.transfer_syntax[0]))
                for number, context in self._accepted_cx.items()
            }
            store = cast("Server", self._server).store_for(self)
            self.connection.settimeout(self.network_timeout)
            self._transfer = Transfer(self.connection, contexts, self.ae.maximum_pdu_size, store)
            end = self._transfer.run()
        self.is_released = end is End.RELEASED
        self.is_aborted = not self.is_released
        self.is_established = False

    def _take_over(self) -> bool:
        """End pynetdicom's thread once it has sent the A-ASSOCIATE-AC; False if that never goes out."""
        dul = self.dul
        deadline = time.monotonic() + _TAKE_OVER_SECONDS
        while dul.state_machine.current_state != "Sta6":
            if not dul.is_alive() or time.monotonic() > deadline:
                return False
            time.sleep(0.0002)
        self.taken_over = True
        dul.kill_dul()
        dul.join()
        # What pynetdicom's services send goes the same way as our answers.
        dul.send_pdu = self._send_primitive  # type: ignore[method-assign]
        return True

    def serve_foreign(self, context_id: int, fragments: list[bytes]) -> None:
        """Let pynetdicom serve a request that is no C-STORE or C-ECHO; it aborts for what was not negotiated."""
        primitive: Any = P_DATA()  # whose annotation asks for tuples, and its code for lists
        primitive.presentation_data_value_list = [[context_id, fragment] for fragment in fragments]
        self.dimse.receive_primitive(primitive)
        number, request = self.dimse.get_msg(block=False)
        if request is None or number is None:
            self.abort()
        else:
            self._serve_request(request, number)

    def _abort_blocking(self, block: bool = True) -> None:  # noqa: FBT001, FBT002 - pynetdicom's signature
        """Abort the association (PS3.8 9.3.8). Not `abort`, which pynetdicom replaces by this one in its instances."""
        if self._transfer is not None:
            self._transfer.abort()
        else:
            super()._abort_blocking(block)

    def _send_primitive(self, primitive: Any) -> None:
        if self._transfer is not None and isinstance(primitive, P_DATA):
            pdu = P_DATA_TF()
            pdu.from_primitive(primitive)
            self._transfer.send(pdu.encode())


class ConnectionHandler(RequestHandler):
    """Turns an accepted connection into an association with a thread of its own."""

    server: "Server"

    def handle(self) -> None:
        """Start the association."""
        association = self._create_association()
        self.server.began(association)
        try:
            association.start()
        except BaseException:
            self.server.ended(association)
            raise

    def _create_association(self) -> StorageAssociation:
        ae = self.ae
        association = StorageAssociation(ae, self.request, self.server.ended)
        association._server = self.server
        association.name = f"AcceptorThread@{datetime.now(UTC):%Y%m%d%H%M%S%f}"
        association.set_socket(
            PeerSocket(
                association,
                self.request,
                acse_seconds=ae.acse_timeout or 0,
                idle_seconds=ae.network_timeout or 0,
                longest_pdu=max(_LONGEST_PDU, 2 * ae.maximum_pdu_size),
            )
        )
        acceptor = association.acceptor
        acceptor.maximum_length = ae.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = ae.implementation_class_uid
        acceptor.implementation_version_name = ae.implementation_version_name
        acceptor.supported_contexts = []  # made from the proposal when it is there
        association.requestor.address_info = self.remote
        handlers: dict[Any, Any] = self.server._handlers
        for event, bound in handlers.items():
            # One (function, arguments) of an intervention event, a list of them of a notification event.
            for function, arguments in [bound] if isinstance(event, evt.InterventionEvent) else bound:
                if function is not None:
                    association.bind(event, function, arguments)
        return association
