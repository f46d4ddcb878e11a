"""Reading PDUs from a connection, with nothing believed that was not negotiated (PS3.8 9.3).

The request by itself, since what follows it is for whom it was accepted; then all others into one buffer.
"""

import socket
import struct
import time
from collections.abc import Callable

A_ASSOCIATE_RQ = 0x01
A_ASSOCIATE_AC = 0x02
A_ASSOCIATE_RJ = 0x03
P_DATA_TF = 0x04
A_RELEASE_RQ = 0x05
A_ABORT = 0x07
RELEASE_RP = b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"
# Reasons of an A-ABORT by the service provider (PS3.8 Table 9-26).
UNRECOGNIZED_PDU = 1
UNEXPECTED_PDU = 2
INVALID_PARAMETER = 6

_EXPECTED = frozenset((P_DATA_TF, A_RELEASE_RQ, A_ABORT))
# Known, but not in an association that is established: A-ASSOCIATE and A-RELEASE-RP.
_OUT_OF_PLACE = frozenset((0x01, 0x02, 0x03, 0x06))
# Known, but not before an association.
_TOO_EARLY = frozenset(range(0x02, 0x07))
_MAX_CONTROL_PDU = 64  # bytes; A-RELEASE and A-ABORT have 4
_CHUNK = 64 * 1024
_TICK_SECONDS = 0.5
_FOREVER = float("inf")
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class ProtocolError(Exception):
    """The peer breaks the protocol; `reason` is that of the A-ABORT."""

    def __init__(self, text: str, reason: int = INVALID_PARAMETER) -> None:
        super().__init__(text)
        self.reason = reason


def encode_abort(reason: int) -> bytes:
    """An A-ABORT (PS3.8 9.3.8): by the service provider with a reason, by the service user without one (0)."""
    return struct.pack(">BxIxxBB", A_ABORT, 4, 2 if reason else 0, reason)


def read_request(connection: socket.socket, longest: int, deadline: float) -> bytearray | None:
    """Read the PDU that begins a connection, and not a byte more.

    Memory grows by what came, not by what was announced.

    Args:
        connection: its timeout is changed.
        longest: the longest request that is read, in bytes without its header.
        deadline: when it must be there whole, however it trickles in; of `time.monotonic`.

    Returns:
        The body of the A-ASSOCIATE-RQ; None if the peer closed or aborted instead.

    Raises:
        ProtocolError: it is another PDU, or longer than it may be.
        TimeoutError: it was not there in time.
        OSError: the connection broke.
    """
    header = _read_exactly(connection, 6, deadline)
    if len(header) < 6 or header[0] == A_ABORT:
        return None
    kind, length = struct.unpack(">BxI", header)
    if kind != A_ASSOCIATE_RQ:
        reason = UNEXPECTED_PDU if kind in _TOO_EARLY else UNRECOGNIZED_PDU
        raise ProtocolError(f"expected A-ASSOCIATE-RQ, found {kind:02X}", reason)
    if length > longest:
        raise ProtocolError(f"expected an A-ASSOCIATE-RQ of at most {longest} bytes, found a length of {length}")
    body = _read_exactly(connection, length, deadline)
    return body if len(body) == length else None


def _read_exactly(connection: socket.socket, count: int, deadline: float) -> bytearray:
    """So many bytes, fewer if the peer closes before."""
    quickack = _quickack(connection)
    received = bytearray()
    while len(received) < count:
        if quickack is not None:
            connection.setsockopt(socket.IPPROTO_TCP, quickack, 1)
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(min(count - len(received), _CHUNK))
        if not piece:
            break
        received += piece
    return received


def _quickack(connection: socket.socket) -> int | None:
    """The option to set before each read; None where there is none.

    A sender with Nagle's algorithm holds the rest back until we acknowledge, and the kernel forgets the option.
    """
    return _QUICKACK if connection.family in {socket.AF_INET, socket.AF_INET6} else None


class PduReader:
    """Reads PDUs into one buffer, and sends what answers them.

    Args:
        connection: its timeout is how long a peer may be silent, or leave an answer unread, in seconds.
        max_pdu: the longest P-DATA-TF that was negotiated, in bytes without its header.
        is_over: asked while nothing comes or goes; when it says yes, reading and sending end.
    """

    def __init__(self, connection: socket.socket, max_pdu: int, is_over: Callable[[], bool] = lambda: False) -> None:
        self._connection = connection
        self._max_pdu = max_pdu
        self._is_over = is_over
        self._idle_seconds = connection.gettimeout() or _FOREVER
        self._tick_seconds = min(self._idle_seconds, _TICK_SECONDS)
        connection.settimeout(self._tick_seconds)
        self._buffer = memoryview(bytearray(2 * (max_pdu + 6)))
        self._start = 0
        self._end = 0
        self._quickack = _quickack(connection)

    def next(self) -> tuple[int, memoryview] | None:
        """The type and body of the next PDU, valid until the next call; None if the peer has closed.

        Raises:
            ProtocolError: it is none of those that may come now, or longer than it may be.
            OSError: the connection broke; TimeoutError: the peer was silent for too long.
        """
        if not self._have(6):
            return None
        kind, length = struct.unpack_from(">BxI", self._buffer, self._start)
        if kind not in _EXPECTED:
            reason = UNEXPECTED_PDU if kind in _OUT_OF_PLACE else UNRECOGNIZED_PDU
            raise ProtocolError(f"expected P-DATA-TF, A-RELEASE-RQ or A-ABORT, found {kind:02X}", reason)
        limit = self._max_pdu if kind == P_DATA_TF else _MAX_CONTROL_PDU
        if length > limit:
            raise ProtocolError(f"expected a PDU of at most {limit} bytes, found a length of {length}")
        if not self._have(6 + length):
            return None
        body = self._buffer[self._start + 6 : self._start + 6 + length]
        self._start += 6 + length
        return kind, body

    def send(self, data: bytes) -> None:
        """Send bytes of whole PDUs, as slowly as the peer takes them.

        Raises:
            OSError: the connection broke; TimeoutError: the peer took nothing for too long.
        """
        rest = memoryview(data)
        idle = 0.0
        while rest:
            try:
                rest = rest[self._connection.send(rest) :]
                idle = 0.0
            except TimeoutError:
                idle += self._tick_seconds
                if self._is_over() or idle >= self._idle_seconds:
                    raise

    def _have(self, count: int) -> bool:
        while self._end - self._start < count:
            if self._start and (self._start == self._end or self._start + count > len(self._buffer)):
                rest = self._end - self._start
                self._buffer[:rest] = self._buffer[self._start : self._end]
                self._start, self._end = 0, rest
            if self._quickack is not None:
                self._connection.setsockopt(socket.IPPROTO_TCP, self._quickack, 1)
            received = self._receive()
            if not received:
                return False
            self._end += received
        return True

    def _receive(self) -> int:
        silent = 0.0
        while True:
            try:
                return self._connection.recv_into(self._buffer[self._end :])
            except TimeoutError:
                silent += self._tick_seconds
                if self._is_over() or silent >= self._idle_seconds:
                    raise
