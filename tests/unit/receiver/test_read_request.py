"""Reading the PDU that begins a connection (PS3.8 9.3.1)."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.pdu import INVALID_PARAMETER, UNEXPECTED_PDU, UNRECOGNIZED_PDU, ProtocolError, encode_abort, read_request

LONGEST = 1000


@contextlib.contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, peer = socket.socketpair()
    with ours, peer:
        peer.settimeout(5)
        yield ours, peer


def read(stream: bytes, seconds: float = 5) -> tuple[bytearray | None, bytes]:
    """What is read from a stream that then closes, and what is left of it."""
    with pair() as (ours, peer):
        peer.sendall(stream)
        peer.shutdown(socket.SHUT_WR)
        request = read_request(ours, LONGEST, time.monotonic() + seconds)
        left = b""
        while piece := ours.recv(1 << 16):
            left += piece
        return request, left


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=LONGEST), st.binary(max_size=100))
def test_a_request_is_read_and_not_a_byte_more(body: bytes, more: bytes) -> None:
    """What the peer said right behind its request is left for whom it is accepted."""
    assert read(struct.pack(">BxI", 1, len(body)) + body + more) == (body, more)


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        *((struct.pack(">BxI", kind, 4), UNEXPECTED_PDU) for kind in (2, 3, 4, 5, 6)),
        *((struct.pack(">BxI", kind, 4), UNRECOGNIZED_PDU) for kind in (0, 8, 0x16, 0xFF)),
        (b"GET / HTTP/1.1\r\n", UNRECOGNIZED_PDU),
        (struct.pack(">BxI", 1, LONGEST + 1), INVALID_PARAMETER),
        (struct.pack(">BxI", 1, 0xFFFFFFFF), INVALID_PARAMETER),
    ],
)
def test_what_is_no_request_is_told_by_its_header(stream: bytes, reason: int) -> None:
    """Another PDU, and a request that is longer than may be; nothing of their bodies is waited for."""
    with pair() as (ours, peer):
        peer.sendall(stream)
        with pytest.raises(ProtocolError) as caught:
            read_request(ours, LONGEST, time.monotonic() + 5)
        assert caught.value.reason == reason


@pytest.mark.parametrize("stream", [b"", b"\1", b"\1\0\0\0\0", b"\1\0\0\0\0\4abc", b"\7\0\0\0\0\4\0\0\0\0", b"\7"])
def test_a_peer_that_goes_before_its_request_is_none(stream: bytes) -> None:
    """Closed, in the middle too, or aborted."""
    assert read(stream)[0] is None


@pytest.mark.parametrize("said", [b"", b"\1\0\0", struct.pack(">BxI", 1, 50) + bytes(49)])
def test_a_silent_peer_has_until_the_deadline(said: bytes) -> None:
    """Wherever it stops."""
    with pair() as (ours, peer):
        peer.sendall(said)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            read_request(ours, LONGEST, began + 0.2)
        assert 0.15 < time.monotonic() - began < 2


def speak(peer: socket.socket, data: bytes, pause: float) -> None:
    with contextlib.suppress(OSError):
        for at in range(len(data)):
            peer.sendall(data[at : at + 1])
            time.sleep(pause)


@pytest.mark.parametrize(("seconds", "whole"), [(5, True), (0.2, False)])
def test_the_time_counts_as_a_whole(seconds: float, *, whole: bool) -> None:
    """A request that trickles in is read if it is there in time, and is not waited for from byte to byte."""
    with pair() as (ours, peer):
        speaker = threading.Thread(target=speak, args=(peer, struct.pack(">BxI", 1, 100) + bytes(100), 0.01))
        speaker.start()
        began = time.monotonic()
        if whole:
            assert read_request(ours, LONGEST, began + seconds) == bytes(100)
        else:
            with pytest.raises(TimeoutError):
                read_request(ours, LONGEST, began + seconds)
            assert time.monotonic() - began < 1
        ours.close()
        speaker.join(5)


def test_a_connection_that_breaks_is_an_oserror() -> None:
    """A reset is none of ours to judge."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        with ours:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            with pytest.raises(ConnectionResetError):
                read_request(ours, LONGEST, time.monotonic() + 5)


@pytest.mark.parametrize(("reason", "source"), [(INVALID_PARAMETER, 2), (0, 0)], ids=["by the provider", "by the user"])
def test_an_abort_names_its_source(reason: int, source: int) -> None:
    """Source 2 with a reason, source 0 without one (PS3.8 9.3.8)."""
    assert encode_abort(reason) == bytes((7, 0, 0, 0, 0, 4, 0, 0, source, reason))
