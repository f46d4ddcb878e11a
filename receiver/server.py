"""The listening socket: shared with other receivers, and bounded in what it lets in."""

import errno
import socket
import socketserver
import ssl
import threading
import time
from typing import Any

from common import logs
from common.config import ReceiverConfig
from receiver.admission import plain_address
from receiver.association import Association, Scp

log = logs.get(__name__)

_MAX_WAITING = 32  # connections without an admitted association: of peers that shake hands, ask, or say nothing
_NO_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Server(socketserver.TCPServer):
    """Accepts connections, on a port that other receiver processes may share. Binds it when made.

    It lets in `max_associations` and a few that have not asked yet. A silent peer keeps its place as long as nobody
    else needs it: when places run out, who has been waiting for longest makes room.

    Args:
        config: the section [receiver].
        scp: decides about associations.
        tls: None for plain connections.

    Raises:
        OSError: the address cannot be bound.
    """

    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self, config: ReceiverConfig, scp: Scp, tls: ssl.SSLContext | None) -> None:
        self._config = config
        self._scp = scp
        self._tls = tls
        self._max_connections = config.max_associations + 2 * _MAX_WAITING
        self._lock = threading.Lock()
        self._open: dict[Association, None] = {}  # in the order of their beginning
        self._complaints = logs.OncePer(60)
        self.address_family, address = _resolve(config.host, config.port)
        # The handler class is never used: a connection goes to an Association instead.
        super().__init__(address, socketserver.BaseRequestHandler)

    def server_bind(self) -> None:
        """Bind, shared with other receivers; an IPv6 wildcard takes IPv4 too."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()
        # A connection may be gone again before it is accepted; waiting for the next one would stop a shutdown.
        self.socket.setblocking(False)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, which is never waited for here: the handshake is the association's."""
        try:
            connection, address = self.socket.accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                if self._complaints.ready("descriptors"):
                    log.error("connections cannot be accepted", reason=error)
                time.sleep(0.1)  # the listener stays readable: without a pause this would be a busy loop
            raise
        try:
            connection.settimeout(self._config.acse_timeout_seconds)
            # Our answers are small and waited for; Nagle would hold them back (RFC 896).
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
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

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection that was let in a thread of its own."""
        association = Association(request, plain_address(str(client_address[0])), self._config, self._scp)
        with self._lock:
            self._open[association] = None
        try:
            threading.Thread(target=self._serve, args=(association,), name="association", daemon=True).start()
        except BaseException:
            self._ended(association)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection could not become an association; socketserver closes it."""
        del request
        if self._complaints.ready("failed"):
            log.exception(  # noqa: LOG004 - socketserver calls this while it deals with the exception
                "connection failed", peer=plain_address(str(client_address[0]))
            )

    def admitted(self) -> list[Association]:
        """The associations under way."""
        with self._lock:
            return [association for association in self._open if association.admitted]

    def stop_accepting(self) -> None:
        """Close the listening socket and the connections without an association; associations under way go on."""
        self.shutdown()
        self.server_close()
        with self._lock:
            waiting = [association for association in self._open if not association.admitted]
        for association in waiting:
            association.dropped = True
            association.disconnect()

    def _serve(self, association: Association) -> None:
        try:
            association.serve()
        finally:
            self._ended(association)

    def _ended(self, association: Association) -> None:
        with self._lock:
            self._open.pop(association, None)


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """The family and the address to bind; of a name that stands for both, the IPv4 one."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address
