"""Who may open an association, what a peer that misbehaves costs, and that it costs others nothing."""

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from receiver_peer import ABORT, CT, EXPLICIT, Aborted, Closed, Peer, Rejected, drain, instance, request

from support.pipeline import Pipeline, Process, wait_for

MakePipeline = Callable[..., Pipeline]


def start(make_pipeline: MakePipeline, *, spool: dict[str, object] | None = None, **receiver: object) -> Pipeline:
    pipeline = make_pipeline("http://127.0.0.1:9/", receiver=receiver, spool=spool or {})
    pipeline.start("receiver")
    return pipeline


def rejection(pipeline: Pipeline, **options: str) -> tuple[int, ...]:
    with Peer(pipeline.port) as peer, pytest.raises(Rejected) as caught:
        peer.associate(**options)  # type: ignore[arg-type]
    return caught.value.args


def process_of(pipeline: Pipeline) -> Process:
    return pipeline.processes[0]


def threads(pipeline: Pipeline) -> int:
    return len(list(Path(f"/proc/{process_of(pipeline).popen.pid}/task").iterdir()))


def sockets(pipeline: Pipeline) -> int:
    count = 0
    for path in Path(f"/proc/{process_of(pipeline).popen.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(path.readlink()).startswith("socket:")
    return count


# Rejections (PS3.8 Table 9-21)


def test_another_called_ae_title_is_rejected_if_ours_is_required(make_pipeline: MakePipeline) -> None:
    """(1, 1, 7), and padding does not count."""
    pipeline = start(make_pipeline, require_called_ae_title="yes")
    assert rejection(pipeline, called="OTHER") == (1, 1, 7)
    with Peer(pipeline.port) as peer:
        peer.associate(called=" STOWGATE")
    assert "association rejected" in pipeline.logs()


def test_a_calling_ae_title_that_is_not_allowed_is_rejected(make_pipeline: MakePipeline) -> None:
    """(1, 1, 3) for whoever is not in the list."""
    pipeline = start(make_pipeline, allowed_calling_ae_titles="CT-1, MR 2")
    assert rejection(pipeline, calling="CT-2") == (1, 1, 3)
    with Peer(pipeline.port) as peer:
        peer.associate(calling="MR 2")


def test_a_peer_that_is_not_allowed_is_rejected(make_pipeline: MakePipeline) -> None:
    """(1, 1, 1), no reason given."""
    assert rejection(start(make_pipeline, allowed_peers="192.0.2.0/24")) == (1, 1, 1)


def test_an_ipv4_peer_on_an_ipv6_socket_is_known_by_its_ipv4_address(make_pipeline: MakePipeline) -> None:
    """On ::, 127.0.0.1 is a member of 127.0.0.0/8, and recorded as such."""
    pipeline = start(make_pipeline, host="::", allowed_peers="127.0.0.0/8")
    with Peer(pipeline.port) as peer:
        peer.associate()
        assert peer.store(instance()).Status == 0x0000
    assert pipeline.rows()[0].peer_address == "127.0.0.1"
    with Peer(pipeline.port, host="::1") as peer, pytest.raises(Rejected):
        peer.associate()


def test_a_host_may_be_a_name(make_pipeline: MakePipeline) -> None:
    """`localhost` is listened on."""
    pipeline = start(make_pipeline, host="localhost")
    with Peer(pipeline.port, host="localhost") as peer:
        peer.associate()


def test_the_association_limit_is_transient(make_pipeline: MakePipeline) -> None:
    """(2, 3, 2) while as many are open as may be; when one ends, the next is admitted."""
    pipeline = start(make_pipeline, max_associations=2)
    with Peer(pipeline.port) as first, Peer(pipeline.port) as second:
        first.associate()
        second.associate()
        assert rejection(pipeline) == (2, 3, 2)
        assert first.store(instance()).Status == 0x0000
        first.release()
        first.socket.close()

        def admitted() -> bool:
            with Peer(pipeline.port) as third, contextlib.suppress(Rejected):
                third.associate()
                return True
            return False

        wait_for(admitted)


def test_a_full_disk_is_transient(make_pipeline: MakePipeline) -> None:
    """(2, 3, 1) when less than min_free is left."""
    assert rejection(start(make_pipeline, spool={"min_free": "1000 TB"})) == (2, 3, 1)


def test_rejections_are_logged_once_a_minute(make_pipeline: MakePipeline) -> None:
    """Who tries again and again does not fill the log."""
    pipeline = start(make_pipeline, allowed_calling_ae_titles="CT-1")
    for _ in range(5):
        rejection(pipeline)
    assert pipeline.logs().count("association rejected") == 1


# Peers that misbehave


def test_a_silent_connection_ends_and_leaves_nothing(make_pipeline: MakePipeline) -> None:
    """Who connects and says nothing is cut off after the ACSE timeout; its threads and its socket are gone."""
    pipeline = start(make_pipeline, acse_timeout_seconds=1)
    before = (threads(pipeline), sockets(pipeline))
    with Peer(pipeline.port) as peer:
        assert drain(peer.socket) == b""
    wait_for(lambda: (threads(pipeline), sockets(pipeline)) == before)


def test_a_connection_that_closes_at_once_leaves_nothing(make_pipeline: MakePipeline) -> None:
    """A port scan or a health check costs no thread for longer than it lasts."""
    pipeline = start(make_pipeline, acse_timeout_seconds=600)
    before = (threads(pipeline), sockets(pipeline))
    for _ in range(20):
        socket.create_connection(("127.0.0.1", pipeline.port)).close()
    wait_for(lambda: (threads(pipeline), sockets(pipeline)) == before)


def test_a_request_that_trickles_in_is_bounded(make_pipeline: MakePipeline) -> None:
    """The time for a request counts as a whole, not from byte to byte."""
    pipeline = start(make_pipeline, acse_timeout_seconds=1)
    content = request({1: (CT, [EXPLICIT])})
    with Peer(pipeline.port) as peer, contextlib.suppress(ConnectionError):
        for at in range(len(content)):
            peer.socket.sendall(content[at : at + 1])
            time.sleep(0.05)
            if "took too long to request" in pipeline.logs():
                break
    assert "took too long to request" in pipeline.logs()


def test_half_a_pdu_and_silence_ends_the_association(make_pipeline: MakePipeline) -> None:
    """After the network timeout it is aborted; threads and socket are gone."""
    pipeline = start(make_pipeline, network_timeout_seconds=1)
    before = (threads(pipeline), sockets(pipeline))
    with Peer(pipeline.port) as peer:
        peer.associate()
        first, second, *_ = peer.store_pdus(instance(pixels=100_000))
        peer.socket.sendall(first + second[: len(second) // 2])
        with pytest.raises(Aborted):
            peer.pdu()
    wait_for(lambda: (threads(pipeline), sockets(pipeline)) == before)


def test_an_idle_association_is_aborted(make_pipeline: MakePipeline) -> None:
    """Between two PDUs the network timeout counts too."""
    pipeline = start(make_pipeline, network_timeout_seconds=1)
    with Peer(pipeline.port) as peer:
        peer.associate()
        with pytest.raises(Aborted):
            peer.pdu()


def test_a_slow_pdu_is_served(make_pipeline: MakePipeline) -> None:
    """A sender that makes progress is served, though its one PDU takes several times the network timeout."""
    pipeline = start(make_pipeline, network_timeout_seconds=1)
    with Peer(pipeline.port) as peer:
        peer.associate()
        first, second = peer.store_pdus(instance(pixels=100_000), fragment=200_000)
        peer.socket.sendall(first)
        step = len(second) // 10 + 1
        for at in range(0, len(second), step):
            time.sleep(0.35)
            peer.socket.sendall(second[at : at + step])
        assert peer.answer().Status == 0x0000


def test_an_absurd_length_is_not_believed(make_pipeline: MakePipeline) -> None:
    """A PDU that claims 4 GiB ends the connection at once, before and after the association."""
    pipeline = start(make_pipeline)
    for associated in (False, True):
        with Peer(pipeline.port) as peer:
            if associated:
                peer.associate()
            peer.socket.sendall(struct.pack(">BxL", 4 if associated else 1, 0xFFFFFFFF))
            assert drain(peer.socket)[:1] in (bytes((ABORT,)), b"")
    with Peer(pipeline.port) as peer:
        peer.associate()
        assert peer.store(instance()).Status == 0x0000


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        struct.pack(">BxL", 1, 10) + bytes(10),
        struct.pack(">BxL", 1, 100) + b"\xff" * 100,
        request({1: (CT, [])}),
        request({1: ("", [EXPLICIT])}),
        request({1: ("1." + "2" * 200, [EXPLICIT])}),
        request({1: (CT, ["1." + "2" * 200])}),
        request({2: (CT, [EXPLICIT])}),
        request({1: (CT, [EXPLICIT])}, calling=""),
        request({1: (CT, [EXPLICIT])}).replace(b"PEER", b"P\xffER"),
        struct.pack(">BxL", 4, 6) + struct.pack(">LBB", 2, 1, 3),
    ],
    ids=[
        "http",
        "tls",
        "short request",
        "request of 0xff",
        "no transfer syntax",
        "no abstract syntax",
        "long abstract syntax",
        "long transfer syntax",
        "even context",
        "no calling AE title",
        "AE title not ASCII",
        "data first",
    ],
)
def test_rubbish_ends_its_own_connection_only(make_pipeline: MakePipeline, rubbish: bytes) -> None:
    """Whatever is no proper request is answered or cut off, and leaves neither thread nor socket behind."""
    pipeline = start(make_pipeline, acse_timeout_seconds=5)
    before = (threads(pipeline), sockets(pipeline))
    with Peer(pipeline.port) as peer:
        peer.socket.sendall(rubbish)
        peer.socket.shutdown(socket.SHUT_WR)
        drain(peer.socket)
    wait_for(lambda: (threads(pipeline), sockets(pipeline)) == before)
    with Peer(pipeline.port) as peer:
        peer.associate()
        assert peer.store(instance()).Status == 0x0000


@pytest.mark.parametrize(
    "rubbish", [b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x02\x01\x03", b"\x99" * 50, b"\x04" + bytes(5)]
)
def test_rubbish_inside_an_association_ends_it_only(make_pipeline: MakePipeline, rubbish: bytes) -> None:
    """An association that turns to nonsense is aborted or cut off; the receiver goes on."""
    pipeline = start(make_pipeline, acse_timeout_seconds=5, network_timeout_seconds=5)
    before = (threads(pipeline), sockets(pipeline))
    with Peer(pipeline.port) as peer:
        peer.associate()
        peer.socket.sendall(rubbish)
        peer.socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(Aborted, Closed):
            peer.pdu()
    wait_for(lambda: (threads(pipeline), sockets(pipeline)) == before)
    with Peer(pipeline.port) as peer:
        peer.associate()
        assert peer.store(instance()).Status == 0x0000


def test_a_crowd_of_silent_peers_is_bounded_and_blocks_nobody(make_pipeline: MakePipeline) -> None:
    """Hundreds of connections that ask nothing keep few threads, and who asks for an association gets it."""
    pipeline = start(make_pipeline, max_associations=4, acse_timeout_seconds=600)
    silent: list[socket.socket] = []
    try:
        silent += [socket.create_connection(("127.0.0.1", pipeline.port)) for _ in range(300)]
        with Peer(pipeline.port) as peer:
            peer.associate()
            assert peer.store(instance()).Status == 0x0000
            peer.release()
        wait_for(lambda: threads(pipeline) < 100)
        assert sockets(pipeline) < 100
        assert pipeline.logs().count("too many connections") == 1
    finally:
        for connection in silent:
            connection.close()


def test_a_peer_that_never_reads_its_answers_ends(make_pipeline: MakePipeline) -> None:
    """Requests without end whose answers are never taken do not keep an association for ever."""
    pipeline = start(make_pipeline, network_timeout_seconds=1)
    before = (threads(pipeline), sockets(pipeline))
    with Peer(pipeline.port) as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.associate({1: ("1.2.840.10008.1.1", [EXPLICIT])})
        peer.socket.settimeout(0.5)
        with contextlib.suppress(OSError):
            for _ in range(200):
                peer.socket.sendall(b"".join(peer.store_pdus(None)))
    wait_for(lambda: (threads(pipeline), sockets(pipeline)) == before)
