"""Peers that stop at any point or send without end: others are served, and nothing stays behind."""

import contextlib
import errno
import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from receiver_wire import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    ASSOCIATE_RQ,
    CLOSED,
    COMMAND_LAST,
    CT_EXPLICIT,
    DATA,
    DATASET_LAST,
    RELEASE_RP,
    RELEASE_RQ,
    RawSender,
    associate_request,
    encoded,
    identity,
    pdu,
    pdv,
    store_command,
)

from support.looked_at import megabytes, needs
from support.pipeline import Pipeline, wait_for

MakePipeline = Callable[..., Pipeline]
VERIFICATION = "1.2.840.10008.1.1"
REQUEST = associate_request([CT_EXPLICIT, (3, VERIFICATION, [ExplicitVRLittleEndian])])
_TCP_REPAIR = 19  # linux/tcp.h
_COMMAND = 1


def start(make_pipeline: MakePipeline, **receiver: object) -> tuple[Pipeline, int]:
    """A receiver that has served one association, and its process ID."""
    pipeline = make_pipeline("http://127.0.0.1:9/", receiver=receiver)
    pid = pipeline.start("receiver").popen.pid
    store(pipeline)
    wait_for(lambda: needs(pid).sockets == 1)
    return pipeline, pid


def store(pipeline: Pipeline) -> str:
    """What a normal sender does; its instance."""
    uid = generate_uid()
    with RawSender(pipeline.port, 20) as sender:
        sender.associate()
        assert sender.store(CTImageStorage, uid, encoded(identity(CTImageStorage, uid))) == 0
        assert sender.release() == RELEASE_RP
    return str(uid)


# Silence


def stages(uid: str) -> dict[str, tuple[bytes, list[int]]]:
    """What a peer has said before it stops, and what it has been answered by then."""
    command, dataset = store_command(CTImageStorage, uid), encoded(identity(CTImageStorage, uid))
    first = pdu(DATA, pdv(1, COMMAND_LAST, command))
    whole = first + pdu(DATA, pdv(1, DATASET_LAST, dataset))
    accepted = [ASSOCIATE_AC]
    return {
        "before the request": (b"", []),
        "inside the header of the request": (REQUEST[:4], []),
        "inside the request": (REQUEST[:100], []),
        "after the acceptance": (REQUEST, accepted),
        "inside the header of a PDU": (REQUEST + first[:4], accepted),
        "inside a PDU": (REQUEST + first[:-5], accepted),
        "inside a command": (REQUEST + pdu(DATA, pdv(1, _COMMAND, command[:20])), accepted),
        "between command and dataset": (REQUEST + first, accepted),
        "inside a dataset": (REQUEST + first + pdu(DATA, pdv(1, 0, dataset[:50])), accepted),
        "inside the last PDU of a dataset": (REQUEST + whole[:-1], accepted),
        "before the release": (REQUEST + whole, [*accepted, DATA]),
        "inside the release": (REQUEST + whole + pdu(RELEASE_RQ, bytes(4))[:-1], [*accepted, DATA]),
        "after the release": (REQUEST + whole + pdu(RELEASE_RQ, bytes(4)), [*accepted, DATA, RELEASE_RP]),
    }


def received(sender: RawSender) -> list[int]:
    """The types of the PDUs that come, to the end that the receiver makes of it."""
    kinds = []
    while (kind := sender.receive()[0]) != CLOSED:
        kinds.append(kind)
    return kinds


@pytest.mark.parametrize("manner", ["silent", "half closed", "vanished"])
def test_a_peer_may_stop_anywhere(make_pipeline: MakePipeline, manner: str) -> None:
    """Silent, with its half closed, or gone without a FIN: cut off in time, an instance is there if it was answered."""
    pipeline, pid = start(make_pipeline, acse_timeout_seconds=2, network_timeout_seconds=2)
    before, memory = needs(pid), megabytes(pid)
    stored = {row.sop_instance_uid for row in pipeline.rows()}
    peers: list[tuple[str, RawSender, list[int]]] = []
    with contextlib.ExitStack() as stack:
        for stage in stages(""):
            uid = str(generate_uid())
            said, answers = stages(uid)[stage]
            sender = stack.enter_context(RawSender(pipeline.port, 20))
            sender.send(said)
            if DATA in answers:
                stored.add(uid)
            peers.append((stage, sender, answers))
            if manner == "half closed":
                sender.socket.shutdown(socket.SHUT_WR)
            elif manner == "vanished":
                # What came is read first: else the close is a reset.
                for expected in answers:
                    assert sender.receive()[0] == expected
                vanish(sender.socket)
        stored.add(store(pipeline))
        for stage, sender, answers in [] if manner == "vanished" else peers:
            aborted = manner == "silent" and ASSOCIATE_AC in answers and RELEASE_RP not in answers
            assert received(sender) == answers + [ABORT] * aborted, stage
        stored.add(store(pipeline))
        wait_for(lambda: needs(pid) == before, what=f"{needs(pid)} to be {before} again")
    assert {row.sop_instance_uid for row in pipeline.rows()} == stored
    assert len(pipeline.incoming()) == len(stored)
    assert not pipeline.half_received()
    assert megabytes(pid) < memory + 24


def vanish(connection: socket.socket) -> None:
    """Close so that the other side hears nothing, as if the machine had lost its power."""
    try:
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOPROTOOPT}:
            raise
        pytest.skip(f"needs CAP_NET_ADMIN and a kernel with CONFIG_CHECKPOINT_RESTORE: {error}")
    connection.close()


def test_one_byte_now_and_then_is_no_request(make_pipeline: MakePipeline) -> None:
    """A request that trickles in is cut off when the ACSE timeout is over, and others are served meanwhile."""
    pipeline, pid = start(make_pipeline, acse_timeout_seconds=2)
    before = needs(pid)
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(RawSender(pipeline.port, 20)) for _ in range(20)]
        begun = time.monotonic()
        left = set(senders)
        for byte in REQUEST:
            readable, _, _ = select.select([sender.socket for sender in left], [], [], 0.2)
            for sender in [sender for sender in left if sender.socket in readable]:
                assert sender.receive() == (CLOSED, b"")
                left.remove(sender)
            if not left or time.monotonic() > begun + 20:
                break
            for sender in left:
                with contextlib.suppress(ConnectionError):
                    sender.send(bytes((byte,)))
            store(pipeline)
        assert not left
    wait_for(lambda: needs(pid) == before)


# Floods


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _short_uids(count: int) -> list[bytes]:
    return [bytes(one) for one in itertools.islice(itertools.product(range(0x30, 0x7F), repeat=3), count)]


def many_syntaxes() -> bytes:
    """A request of 1 MB: 144,000 transfer syntaxes of three characters, and one context that can be used."""
    abstract = _item(0x30, CTImageStorage.encode())
    syntaxes = b"".join(_item(0x40, uid) for uid in _short_uids(9000))
    contexts = b"".join(_item(0x20, bytes((5 + 2 * number, 0, 0, 0)) + abstract + syntaxes) for number in range(16))
    return pdu(ASSOCIATE_RQ, REQUEST[6:] + contexts)


def many_roles() -> bytes:
    """A request of 1 MB: 78,000 role selections for classes of five characters."""
    numbers = iter(range(100_000))
    roles = (
        b"".join(_item(0x54, b"\0\5%05d\1\0" % number) for number in itertools.islice(numbers, 4900)) for _ in "x" * 16
    )
    return pdu(ASSOCIATE_RQ, REQUEST[6:] + b"".join(_item(0x50, each) for each in roles))


def elements(*values: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<HHI", 0, number, len(value)) + value for number, value in values)


CREATE = elements((0x0002, b"1.2.840.10008.5.1.1.1\0"), (0x0100, b"\x40\1"), (0x0110, b"\1\0"), (0x0800, b"\1\0"))
ECHO = elements((0x0002, VERIFICATION.encode() + b"\0"), (0x0100, b"\x30\0"), (0x0110, b"\1\0"), (0x0800, b"\1\1"))
FRAGMENT = pdu(DATA, pdv(1, 0, bytes(120_000)))

FLOODS: dict[str, tuple[Callable[[], bytes], bytes]] = {
    "transfer syntaxes": (many_syntaxes, b""),
    "roles": (many_roles, b""),
    "a command set without end": (lambda: REQUEST, pdu(DATA, pdv(1, _COMMAND, bytes(60_000))) * 100),
    "a dataset of a request that nobody serves": (
        lambda: REQUEST,
        pdu(DATA, pdv(1, COMMAND_LAST, CREATE)) + FRAGMENT * 130,
    ),
    "empty fragments": (lambda: REQUEST, pdu(DATA, pdv(1, _COMMAND, b"") * 20_000) * 8),
    "tiny fragments of a dataset": (
        lambda: REQUEST,
        pdu(DATA, pdv(1, COMMAND_LAST, store_command(CTImageStorage, "1.2.3"))) + pdu(DATA, pdv(1, 0, b"x") * 2000) * 8,
    ),
    "C-ECHO": (lambda: REQUEST, pdu(DATA, pdv(3, COMMAND_LAST, ECHO)) * 4000),
    "4 GB in a PDU": (lambda: REQUEST, struct.pack(">BxI", DATA, 0xFFFFFFFF) + bytes(1 << 20)),
    "4 GB in a fragment": (lambda: REQUEST, pdu(DATA, struct.pack(">IBB", 0xFFFFFFFF, 1, 3) + bytes(100_000)) * 8),
    "4 GB in an element": (
        lambda: REQUEST,
        pdu(DATA, pdv(1, COMMAND_LAST, struct.pack("<HHI", 0, 2, 0xFFFFFFFF) + bytes(60_000))) * 8,
    ),
}
FLOODERS = 8
MORE_MEMORY = 40  # MB


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_costs_little_and_harms_nobody(make_pipeline: MakePipeline, flood: str) -> None:
    """Eight peers send as much as they can of what is dear: memory stays bounded, and others store meanwhile."""
    pipeline, pid = start(make_pipeline, max_associations=FLOODERS + 2)
    before, memory = needs(pid), megabytes(pid)
    request, then = FLOODS[flood][0](), FLOODS[flood][1]
    normal = RawSender(pipeline.port, 60)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(FLOODERS) as pool:
        stack.enter_context(normal)
        normal.associate()
        peers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", pipeline.port), 60)) for _ in range(FLOODERS)
        ]
        together = threading.Barrier(FLOODERS, timeout=60)
        flooding = [pool.submit(say_and_listen, peer, request + then, together) for peer in peers]
        for _ in range(5):
            uid = generate_uid()
            assert normal.store(CTImageStorage, uid, encoded(identity(CTImageStorage, uid))) == 0
        for one in flooding:
            one.result(60)
        assert megabytes(pid, most=True) < memory + MORE_MEMORY
        assert normal.release() == RELEASE_RP
    store(pipeline)
    wait_for(lambda: needs(pid) == before, what=f"{needs(pid)} to be {before} again")
    assert not pipeline.half_received()
    assert len(pipeline.rows()) == len(pipeline.incoming()) == 7
    assert "Traceback" not in pipeline.logs()


def say_and_listen(peer: socket.socket, stream: bytes, together: threading.Barrier) -> None:
    """Say it all, reading meanwhile, and stay until all have; a receiver that ends it is no failure."""
    answered = threading.Event()
    reader = threading.Thread(target=listen, args=(peer, answered), daemon=True)
    reader.start()
    with contextlib.suppress(OSError):
        peer.sendall(stream)
        assert answered.wait(60)
        reader.join(0.2)
    together.wait()
    # A close alone would not end the connection while the reader waits in it.
    with contextlib.suppress(OSError):
        peer.shutdown(socket.SHUT_RDWR)
    reader.join(60)


def listen(peer: socket.socket, answered: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while peer.recv(1 << 16):
            answered.set()
    answered.set()


def test_more_associations_than_allowed_are_rejected_and_forgotten(make_pipeline: MakePipeline) -> None:
    """Eight are served, whoever comes beyond is told to come back (2, 3, 2), and later gets what it asks for."""
    pipeline, pid = start(make_pipeline, max_associations=8)
    before = needs(pid)
    with contextlib.ExitStack() as stack:
        answers = [ask(stack.enter_context(RawSender(pipeline.port, 20))) for _ in range(60)]
        assert answers.count((ASSOCIATE_AC, b"")) == 8
        assert answers.count((ASSOCIATE_RJ, bytes((0, 2, 3, 2)))) == 52
    wait_for(lambda: needs(pid) == before)
    for _ in range(3):
        store(pipeline)
    wait_for(lambda: needs(pid) == before)


def ask(sender: RawSender) -> tuple[int, bytes]:
    sender.send(REQUEST)
    kind, body = sender.receive()
    return kind, b"" if kind == ASSOCIATE_AC else body
