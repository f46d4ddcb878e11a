"""Reading PDUs from a connection into one buffer (PS3.8 9.3), with nothing believed that was not negotiated."""

import socket
import struct
from collections.abc import Callable

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
_MAX_CONTROL_PDU = 64  # bytes; A-RELEASE and A-ABORT have 4
_TICK_SECONDS = 0.5
_FOREVER = float("inf")
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class ProtocolError(Exception):
    """The peer breaks the protocol; `reason` is that of the A-ABORT."""

    def __init__(self, text: str, reason: int = INVALID_PARAMETER) -> None:
        super().__init__(text)
        self.reason = reason


class PduReader:
    """Reads PDUs into one buffer.

    Args:
        connection: its timeout is how long a peer may be silent, in seconds.
        max_pdu: the longest P-DATA-TF that was negotiated, in bytes without its header.
        is_over: asked while nothing comes; when it says yes, reading ends.
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
        self._quickack = _QUICKACK if connection.family in {socket.AF_INET, socket.AF_INET6} else None

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

    def _have(self, count: int) -> bool:
        while self._end - self._start < count:
            if self._start and (self._start == self._end or self._start + count > len(self._buffer)):
                rest = self._end - self._start
                self._buffer[:rest] = self._buffer[self._start : self._end]
                self._start, self._end = 0, rest
            if self._quickack is not None:
                # A sender with Nagle's algorithm holds the rest back until we acknowledge; the kernel forgets this.
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
