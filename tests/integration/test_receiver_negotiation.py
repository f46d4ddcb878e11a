"""Association requests of all kinds to a real receiver: what it answers, logs, and is left with."""

import socket
import struct
from collections.abc import Callable

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
    STATUS,
    RawSender,
    associate_request,
    encoded,
    identity,
    pdu,
    pdv,
    serves,
    store_command,
)

from support.pipeline import Pipeline, wait_for

MakePipeline = Callable[..., Pipeline]
APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """A receiver, listening; nothing delivers."""
    made = make_pipeline("http://127.0.0.1:9/")
    made.start("receiver")
    return made


def said(pipeline: Pipeline, stream: bytes) -> list[tuple[int, bytes]]:
    """All that is answered to a stream, until the connection is closed by the receiver."""
    answers = []
    with RawSender(pipeline.port) as sender:
        sender.send(stream)
        while (answer := sender.receive())[0] != CLOSED:
            answers.append(answer)
    return answers


def conversation(uid: str) -> bytes:
    """A C-STORE and a release, for context 1."""
    command, dataset = store_command(CTImageStorage, uid), encoded(identity(CTImageStorage, uid))
    stored = pdu(DATA, pdv(1, COMMAND_LAST, command) + pdv(1, DATASET_LAST, dataset))
    return stored + pdu(RELEASE_RQ, bytes(4))


def test_a_sender_need_not_wait_for_its_acceptance(pipeline: Pipeline) -> None:
    """Request, C-STORE and release in one piece: stored, answered and released."""
    for _ in range(20):
        answers = said(pipeline, associate_request([CT_EXPLICIT]) + conversation(generate_uid()))
        assert [kind for kind, _ in answers] == [ASSOCIATE_AC, DATA, RELEASE_RP]
    assert len(pipeline.rows()) == len(pipeline.incoming()) == 20


@pytest.mark.parametrize(
    ("stream", "reason", "log"),
    [
        (pdu(DATA, pdv(1, COMMAND_LAST, b"")), 2, "the peer broke the protocol"),
        (pdu(RELEASE_RQ, bytes(4)), 2, "the peer broke the protocol"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1, "the peer broke the protocol"),
        (struct.pack(">BxL", ASSOCIATE_RQ, 0x7FFFFFFF), 6, "the peer broke the protocol"),
        (pdu(ASSOCIATE_RQ, bytes(68)), 6, "its request cannot be understood"),
        (associate_request([(2, CTImageStorage, [ExplicitVRLittleEndian])]), 6, "its request cannot be understood"),
        (pdu(ASSOCIATE_RQ, associate_request([CT_EXPLICIT])[6:] + b"\0"), 6, "its request cannot be understood"),
    ],
    ids=["data", "release", "HTTP", "2 GB", "zeros", "even context", "a byte too many"],
)
def test_what_is_no_proper_request_is_aborted_with_its_reason(
    pipeline: Pipeline, stream: bytes, reason: int, log: str
) -> None:
    """By the service provider (PS3.8 Table 9-26), said once a minute in the log; others are served meanwhile."""
    for _ in range(3):
        assert said(pipeline, stream) == [(ABORT, bytes((0, 0, 2, reason)))]
    assert serves(pipeline.port)
    assert pipeline.logs().count(log) == 1


def test_another_protocol_version_is_rejected(pipeline: Pipeline) -> None:
    """(1, 2, 2), whatever follows; a version that is ours as well is accepted (PS3.8 Table 9-11)."""
    request = associate_request([CT_EXPLICIT])
    assert said(pipeline, request[:6] + b"\0\2" + request[8:]) == [(ASSOCIATE_RJ, b"\0\1\2\2")]
    assert "the protocol version is not supported" in pipeline.logs()
    answers = said(pipeline, request[:6] + b"\0\3" + request[8:] + pdu(RELEASE_RQ, bytes(4)))
    assert [kind for kind, _ in answers] == [ASSOCIATE_AC, RELEASE_RP]


def test_another_application_context_is_rejected(pipeline: Pipeline) -> None:
    """(1, 1, 2), said in the log."""
    request = associate_request([CT_EXPLICIT]).replace(APPLICATION_CONTEXT, APPLICATION_CONTEXT[:-1] + b"2")
    assert said(pipeline, request) == [(ASSOCIATE_RJ, b"\0\1\1\2")]
    assert "the application context is not supported" in pipeline.logs()


def test_a_rejection_reaches_a_peer_that_is_still_sending(pipeline: Pipeline) -> None:
    """Unread bytes of the peer do not turn it into a reset of the connection."""
    request = associate_request([CT_EXPLICIT])
    with RawSender(pipeline.port) as sender:
        sender.send(request[:6] + b"\0\2" + request[8:] + bytes(1 << 20))
        sender.socket.shutdown(socket.SHUT_WR)
        assert sender.receive() == (ASSOCIATE_RJ, b"\0\1\2\2")


def test_what_a_request_has_beside_it_is_passed_over(pipeline: Pipeline) -> None:
    """Items that nobody knows, a user identity, extended negotiation: accepted, and an instance is stored."""
    request = associate_request([CT_EXPLICIT])
    unknown = struct.pack(">BxH", 0x77, 5) + b"hello"
    identity_item = struct.pack(">BxH", 0x58, 11) + b"\1\1\0\5admin\0\0"
    user = struct.pack(">BxH", 0x50, len(identity_item + unknown)) + identity_item + unknown
    body = request[6:] + unknown + user
    answers = said(pipeline, pdu(ASSOCIATE_RQ, body) + conversation(generate_uid()))
    assert [kind for kind, _ in answers] == [ASSOCIATE_AC, DATA, RELEASE_RP]
    assert len(pipeline.rows()) == 1


def test_the_largest_proposals_are_answered(pipeline: Pipeline) -> None:
    """128 contexts with dozens of transfer syntaxes each, 1 MB in all; one byte more than may be is not read."""
    syntaxes = [f"1.2.840.113619.5.{number:040}" for number in range(130)]
    contexts = [(2 * number + 1, CTImageStorage, syntaxes) for number in range(128)]
    contexts[0] = CT_EXPLICIT
    request = associate_request(contexts)
    assert 950_000 < len(request) < 1 << 20
    uid = generate_uid()
    with RawSender(pipeline.port) as sender:
        assert sender.associate(*contexts) == {
            1: ExplicitVRLittleEndian,
            **{number: syntaxes[0] for number, _, _ in contexts[1:]},
        }
        response = sender.store_response(CTImageStorage, uid, encoded(identity(CTImageStorage, uid)))
        assert response[STATUS] == b"\0\0"
        assert sender.release() == RELEASE_RP


def test_many_short_associations_leave_nothing(pipeline: Pipeline) -> None:
    """One instance each, one after another: all stored, each association over before long."""
    uids = [generate_uid() for _ in range(60)]
    for uid in uids:
        with RawSender(pipeline.port) as sender:
            sender.associate()
            assert sender.store(CTImageStorage, uid, encoded(identity(CTImageStorage, uid))) == 0
            assert sender.release() == RELEASE_RP
    assert {row.sop_instance_uid for row in pipeline.rows()} == set(uids)
    process = pipeline.processes[0]
    wait_for(lambda: _threads(process.popen.pid) <= 3, 5, "only the threads that a receiver always has")


def _threads(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("Threads:"))
