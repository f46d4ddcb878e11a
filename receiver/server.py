"""The listening socket: shared with other receivers, and bounded in what it lets in."""

import errno
import logging
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from pynetdicom import AE, _config
from pynetdicom.presentation import build_context
from pynetdicom.transport import AssociationServer

from common import logs
from receiver.admission import plain_address
from receiver.contexts import VERIFICATION
from receiver.transfer import Store
from receiver.upper_layer import ConnectionHandler, StorageAssociation

log = logs.get(__name__)

_MAX_WAITING = 32  # connections without an admitted association: of peers that shake hands, ask, or say nothing
_NO_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


def configure() -> None:
    """Set pynetdicom's process-wide options: nothing logged of what passes, no UID judged before we see it."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    # A UID of the command that is too long would end the association; it is answered 0x0117 instead.
    _config.VALIDATORS["UI"] = lambda _: (True, "")
    # Its records can quote what was sent, and a text withheld says nothing; what an operator needs is logged by us.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


class Server(AssociationServer):
    """Accepts connections, on a port that other receiver processes may share. Binds it when made.

    It lets in `max_associations` and a few that have not asked yet. A silent peer keeps its place as long as nobody
    else needs it: when places run out, who has been waiting for longest makes room.

    Args:
        ae: its timeouts and PDU length are those of each association.
        address: host and port.
        max_associations: how many associations are admitted at most; it is the handlers that admit.
        tls: None for plain connections.
        handlers: pynetdicom's event handlers.
        on_leave: called at the end of each admitted association.
        store_for: gives an association what takes its instances.

    Raises:
        OSError: the address cannot be bound.
    """

    request_queue_size = 256

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        *,
        max_associations: int,
        tls: ssl.SSLContext | None,
        handlers: list[Any],
        on_leave: Callable[[], None],
        store_for: Callable[[StorageAssociation], Store],
    ) -> None:
        self._max_connections = max_associations + 2 * _MAX_WAITING
        self._on_leave = on_leave
        self.store_for = store_for
        self._lock = threading.Lock()
        self._open: dict[StorageAssociation, None] = {}  # in the order of their beginning
        self._complaints = logs.OncePer(60)
        contexts = [build_context(VERIFICATION)]  # unused: each association gets its own from its proposal
        super().__init__(
            ae, address, ae.ae_title, contexts, tls, evt_handlers=handlers, request_handler=ConnectionHandler
        )

    def server_bind(self) -> None:
        """Bind, shared with other receivers; an IPv6 wildcard takes IPv4 too."""
        listener: socket.socket = self.socket  # type: ignore[assignment]
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if self.address_family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
        # A connection may be gone again before it is accepted; waiting for the next one would stop a shutdown.
        listener.setblocking(False)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, which is never waited for here: the handshake is the association's."""
        listener: socket.socket = self.socket  # type: ignore[assignment]
        try:
            connection, address = listener.accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                if self._complaints.ready("descriptors"):
                    log.error("connections cannot be accepted", reason=error)
                time.sleep(0.1)  # the listener stays readable: without a pause this would be a busy loop
            raise
        try:
            connection.settimeout(self.ae.acse_timeout)
            # Our answers are small and waited for; Nagle would hold them back (RFC 896).
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.ssl_context is not None:
                connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            connection.close()
            raise OSError(errno.ECONNABORTED, "gone before it was accepted") from error
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Let a connection in, if need be in the place of one that has been waiting for longest."""
        del request
        with self._lock:
            total = len(self._open)
            waiting = [association for association in self._open if not association.admitted]
            oldest = next((association for association in waiting if not association.dropped), None)
            crowded = len(waiting) >= _MAX_WAITING
            if crowded and oldest is not None:
                oldest.dropped = True
        if crowded and oldest is not None:
            oldest.disconnect()
        fits = total < self._max_connections
        if (crowded or not fits) and self._complaints.ready("crowded"):
            log.warning(
                "too many connections that request no association; the oldest is closed",
                open=total,
                waiting=len(waiting),
                newest_peer=plain_address(str(client_address[0])),
            )
        return fits

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection could not become an association; socketserver closes it."""
        del request
        if self._complaints.ready("failed"):
            log.exception(  # noqa: LOG004 - socketserver calls this while it deals with the exception
                "connection failed", peer=plain_address(str(client_address[0]))
            )

    def began(self, association: StorageAssociation) -> None:
        """A connection is open."""
        with self._lock:
            self._open[association] = None

    def ended(self, association: StorageAssociation) -> None:
        """Its connection is closed."""
        with self._lock:
            self._open.pop(association, None)
        if association.admitted:
            self._on_leave()

    def admitted(self) -> list[StorageAssociation]:
        """The associations under way."""
        with self._lock:
            return [association for association in self._open if association.admitted]

    def stop_accepting(self) -> None:
        """Close the listening socket and the connections without an association; associations under way go on."""
        # AssociationServer.shutdown would also drop it from a list of its AE that it is not in.
        socketserver.BaseServer.shutdown(self)
        self.server_close()
        with self._lock:
            waiting = [association for association in self._open if not association.admitted]
        for association in waiting:
            association.dropped = True
            association.disconnect()
