"""A connection during negotiation: its peer may be slow, but neither silent for long nor absurd.

Once the association is established, `receiver.transfer` reads and writes it instead.
"""

import contextlib
import select
import socket
import ssl
import time

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from common import logs
from receiver.admission import plain_address

log = logs.get(__name__)

TICK_SECONDS = 0.25
_LAST_WORD_SECONDS = 2.0
_CHUNK = 64 * 1024
_A_ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x00"  # by the service provider, reason not specified (PS3.8 9.3.8)

_complaints = logs.OncePer(60)


class PeerSocket(AssociationSocket):
    """A connection whose peer may be slow, but neither silent for long nor absurd.

    Before the association is established its time counts from the beginning, afterwards from the last byte.

    Args:
        association: whose connection it is.
        connection: the accepted socket.
        acse_seconds: how long a request may take.
        idle_seconds: how long an association may pass without a byte.
        longest_pdu: in bytes; a peer that announces a longer one is cut off.
    """

    def __init__(
        self,
        association: Association,
        connection: socket.socket,
        *,
        acse_seconds: float,
        idle_seconds: float,
        longest_pdu: int,
    ) -> None:
        super().__init__(association, client_socket=connection)
        self._acse_deadline = time.monotonic() + acse_seconds
        self._idle_seconds = idle_seconds
        self._longest_pdu = longest_pdu
        self._heard = time.monotonic()
        self._chunk = memoryview(bytearray(_CHUNK))
        self.hold = False  # pynetdicom's thread reads nothing any more: what comes is for the transfer

    def heard(self) -> None:
        """The association is not idle: a byte came, or we kept the peer waiting."""
        self._heard = time.monotonic()

    @property
    def ready(self) -> bool:
        """Whether there is something to read, the end of the connection included."""
        connection = self.socket
        if connection is None or not self._is_connected or self.hold:
            return False
        try:
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            readable = bool(poll.poll(0))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
            return False
        return readable or (isinstance(connection, ssl.SSLSocket) and connection.pending() > 0)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes, fewer if the connection ends before.

        Raises:
            OSError: the peer took too long or announced too much, or the association is being aborted.
        """
        connection = self.socket
        if connection is None:
            return bytearray()
        if nr_bytes > self._longest_pdu:
            self._give_up(connection, "announced too long a PDU")
        # It grows by what came, not by what was announced.
        received = bytearray()
        # A sender with Nagle's algorithm waits for our ACK between command and dataset, which we would delay by
        # 40 ms. Linux forgets the option after a while, so it is set each time.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        while len(received) < nr_bytes:
            self._check_time(connection)
            try:
                count = connection.recv_into(self._chunk[: nr_bytes - len(received)])
            except TimeoutError:
                continue
            if not count:
                break
            received += self._chunk[:count]
            self.heard()
        return received

    def send(self, bytestream: bytes) -> None:
        """Send; a peer that takes nothing for `idle_seconds` loses the connection."""
        connection = self.socket
        if connection is None:
            return
        connection.settimeout(self._idle_seconds)
        super().send(bytestream)
        with contextlib.suppress(OSError):
            connection.settimeout(TICK_SECONDS)

    def _check_time(self, connection: socket.socket) -> None:
        now = time.monotonic()
        if self.assoc.is_aborted:
            self._give_up(connection, "")
        if now - self._heard > self._idle_seconds:
            self._give_up(connection, "was silent inside a PDU")
        if not self.assoc.is_established and not self.assoc.is_released and now > self._acse_deadline:
            self._give_up(connection, "took too long to request an association")

    def _give_up(self, connection: socket.socket, reason: str) -> None:
        """Abort from inside a PDU, which the state machine cannot."""
        peer = plain_address(self.assoc.requestor.address)
        if reason and _complaints.ready((reason, peer)):
            log.warning("connection given up", reason=f"the peer {reason}", peer=peer)
        if self.assoc.dul.state_machine.current_state != "Sta13":
            with contextlib.suppress(OSError):
                connection.settimeout(_LAST_WORD_SECONDS)
                connection.sendall(_A_ABORT)
        raise ConnectionAbortedError(reason)
