"""One association from connection to close, against a scripted peer and an SCP that counts."""

import contextlib
import gc
import itertools
import socket
import struct
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.pdu import A_ASSOCIATE_AC
from transfer_peer import (
    ABORT_PDU,
    COMMAND_LAST,
    CT,
    DATASET_LAST,
    RELEASE_RP,
    RELEASE_RQ_PDU,
    Recorder,
    command,
    drain,
    echo_command,
    elements_of,
    pdu,
    pdus,
    pdv,
    store,
)

from common.config import ReceiverConfig
from receiver import association as association_module
from receiver import foreign, transfer
from receiver.admission import DISK_FULL, Rejection
from receiver.association import Association, Foreign
from receiver.negotiation import Proposal
from receiver.transfer import Transfer

transfer._CLOSE_SECONDS = 0.02  # the scripted peers do not close by themselves

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
VERIFICATION = "1.2.840.10008.1.1"
ACCEPT, REJECT, DATA, ABORT = 2, 3, 4, 7
BY_PROVIDER = b"\0\0\2"


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def request(*more: bytes, max_pdu: int = 16384) -> bytes:
    """An A-ASSOCIATE-RQ for a CT in context 1 and Verification in context 3; `more`: items that it has as well."""
    body = struct.pack(">H2x16s16s32x", 1, b"STOWGATE".ljust(16), b"PEER".ljust(16))
    body += item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, abstract, syntax in ((1, CT, EXPLICIT), (3, VERIFICATION, IMPLICIT)):
        body += item(0x20, bytes((number, 0, 0, 0)) + item(0x30, abstract.encode()) + item(0x40, syntax.encode()))
    body += item(0x50, item(0x51, struct.pack(">I", max_pdu)) + item(0x52, b"1.2.3"))
    return pdu(body, *more, kind=1)


@dataclass
class CountingScp:
    """Admits or rejects as it is told, and counts."""

    rejection: Rejection | None = None
    broken: Exception | None = None
    recorder: Recorder = field(default_factory=Recorder)
    admitted: list[tuple[str, str, str]] = field(default_factory=list)
    left: int = 0
    services: bool = False

    def admit(self, proposal: Proposal, peer: str) -> Rejection | None:
        """Remember who asked."""
        if self.rejection is None:
            self.admitted.append((proposal.calling_ae_title, proposal.called_ae_title, peer))
        return self.rejection

    def leave(self) -> None:
        """Count."""
        self.left += 1

    def store_for(self, _proposal: Proposal, _peer: str, serve: Foreign) -> Recorder:
        """The recorder; with `services` it passes foreign requests on to pynetdicom."""
        if self.broken is not None:
            raise self.broken
        if self.services:
            self.recorder.foreign = serve  # type: ignore[method-assign]
        return self.recorder


@contextlib.contextmanager
def served(scp: CountingScp, **settings: float) -> Iterator[tuple[socket.socket, Association]]:
    """The peer's end of a connection that is being served; at the end it must be closed, and its thread gone."""
    ours, peer = socket.socketpair()
    config = ReceiverConfig(
        acse_timeout_seconds=settings.get("acse", 5), network_timeout_seconds=settings.get("network", 5)
    )
    association = Association(ours, "192.0.2.7", config, scp)
    thread = threading.Thread(target=association.serve)
    thread.start()
    with peer:
        peer.settimeout(5)
        yield peer, association
    thread.join(10)
    assert not thread.is_alive()
    assert ours.fileno() == -1
    assert scp.left == len(scp.admitted)


def say(scp: CountingScp, stream: bytes) -> list[tuple[int, bytes]]:
    """Say all at once, close our half, and read the answers."""
    with served(scp) as (peer, _):
        peer.sendall(stream)
        peer.shutdown(socket.SHUT_WR)
        return list(pdus(drain(peer)))


def test_what_comes_right_behind_the_request_is_served() -> None:
    """A sender that does not wait for its acceptance loses nothing: all of it comes in one piece."""
    scp = CountingScp()
    echo = pdu(pdv(3, COMMAND_LAST, echo_command(9)))
    answers = say(scp, request() + store(b"dataset") + echo + RELEASE_RQ_PDU)
    assert [kind for kind, _ in answers] == [ACCEPT, DATA, DATA, RELEASE_RP]
    assert scp.recorder.committed == [(CT, "1.2.3", EXPLICIT, b"dataset")]
    assert scp.admitted == [("PEER", "STOWGATE", "192.0.2.7")]


def test_the_whole_conversation_may_come_byte_by_byte() -> None:
    """The request in pieces of one byte, and the rest of it too."""
    scp = CountingScp()
    with served(scp) as (peer, _):
        for byte in request() + store(b"dataset") + RELEASE_RQ_PDU:
            peer.sendall(bytes([byte]))
        assert [kind for kind, _ in pdus(drain(peer))] == [ACCEPT, DATA, RELEASE_RP]
    assert scp.recorder.datasets() == [b"dataset"]


def test_a_rejection_is_the_last_word() -> None:
    """It is sent, the connection is closed though the peer stays, and what it says meanwhile costs nothing."""
    scp = CountingScp(DISK_FULL)
    with served(scp) as (peer, association):
        peer.sendall(request() + store(b"dataset"))
        assert list(pdus(drain(peer))) == [(REJECT, b"\0\2\3\1")]
        assert not association.admitted
    assert not scp.recorder.begun


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (request(item(0x20, b"\2")), 6),
        (pdu(bytes(68), kind=1), 6),
        (struct.pack(">BxI", 1, 0x7FFFFFFF), 6),
        (pdu(pdv(1, COMMAND_LAST, echo_command())), 2),
        (RELEASE_RQ_PDU, 2),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 1),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1),
    ],
    ids=["malformed", "no AE titles", "of 2 GB", "data first", "release first", "TLS", "HTTP"],
)
def test_what_is_no_request_is_aborted(stream: bytes, reason: int) -> None:
    """An A-ABORT by the service provider with its reason (PS3.8 9.3.8), and nobody is admitted."""
    scp = CountingScp()
    assert say(scp, stream + bytes(100)) == [(ABORT, BY_PROVIDER + bytes([reason]))]
    assert not scp.admitted


@pytest.mark.parametrize("stream", [b"", request()[:40], ABORT_PDU, b"\1"], ids=["nothing", "half", "abort", "a byte"])
def test_a_peer_that_goes_gets_no_answer(stream: bytes) -> None:
    """Closed or aborted before the request was there."""
    scp = CountingScp()
    assert say(scp, stream) == []
    assert not scp.admitted


@pytest.mark.parametrize("stream", [b"", request()[:40]], ids=["nothing", "half"])
def test_a_peer_that_takes_too_long_is_closed_without_a_word(stream: bytes) -> None:
    """The ACSE timeout counts (PS3.8 9.2.3, AA-2)."""
    scp = CountingScp()
    with served(scp, acse=0.2) as (peer, _):
        began = time.monotonic()
        peer.sendall(stream)
        assert drain(peer) == b""
        assert 0.15 < time.monotonic() - began < 3


def test_a_place_is_given_back_whatever_goes_wrong() -> None:
    """An unforeseen error after the admission closes the connection and leaves."""
    scp = CountingScp(broken=RuntimeError("unforeseen"))
    assert say(scp, request()) == []
    assert (len(scp.admitted), scp.left) == (1, 1)


def test_a_peer_that_is_gone_when_it_is_accepted_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """The acceptance cannot be sent: the place is given back, and nothing unforeseen is logged."""
    scp = CountingScp()
    for _ in range(20):
        with served(scp) as (peer, _):
            peer.sendall(request())
    assert scp.left == len(scp.admitted)
    assert "unforeseen" not in caplog.text


def test_an_idle_association_has_the_network_timeout() -> None:
    """Not the ACSE timeout, which is over."""
    with served(CountingScp(), acse=0.1, network=0.5) as (peer, _):
        peer.sendall(request())
        began = time.monotonic()
        assert [kind for kind, _ in pdus(drain(peer))] == [ACCEPT, ABORT]
        assert 0.4 < time.monotonic() - began < 3


def test_another_thread_can_abort_and_disconnect() -> None:
    """An association gets an A-ABORT, a connection without one just ends; neither is admitted twice or too early."""
    with served(CountingScp()) as (peer, association):
        association.abort()
        assert not association.admitted
        association.disconnect()
        assert drain(peer) == b""
    with served(CountingScp()) as (peer, association):
        peer.sendall(request())
        assert peer.recv(1) == bytes([ACCEPT])
        assert association.admitted
        association.abort()
        assert drain(peer).endswith(bytes((ABORT, 0, 0, 0, 0, 4, 0, 0, 0, 0)))


# What pynetdicom serves


@pytest.fixture
def services() -> CountingScp:
    """An SCP that gives foreign requests to pynetdicom's services."""
    return CountingScp(services=True)


# An echo that announces a dataset is none of ours.
FOREIGN_ECHO = pdu(
    pdv(3, COMMAND_LAST, command(0x30, 77, has_dataset=True, sop_class=VERIFICATION)), pdv(3, DATASET_LAST, b"")
)


def test_pynetdicom_is_asked_only_when_it_is_needed(services: CountingScp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its association is made once, with the first request that is not ours; then C-STORE goes on as before."""
    made = itertools.count()
    init = foreign.ForeignServices.__init__

    def count(self: foreign.ForeignServices, *arguments: object) -> None:
        next(made)
        init(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(foreign.ForeignServices, "__init__", count)
    threads = threading.active_count()
    say(services, request() + store(b"first") + RELEASE_RQ_PDU)
    assert next(made) == 0
    answers = say(services, request() + FOREIGN_ECHO * 3 + store(b"second") + FOREIGN_ECHO + RELEASE_RQ_PDU)
    assert next(made) == 2
    assert [kind for kind, _ in answers] == [ACCEPT, *[DATA] * 5, RELEASE_RP]
    assert services.recorder.datasets() == [b"first", b"second"]
    assert threading.active_count() == threads


def test_items_that_pynetdicom_cannot_read_do_not_stop_its_services(services: CountingScp) -> None:
    """What it serves does not depend on how the request was written."""
    unknown = item(0x77, b"x"), item(0x50, item(0x5F, b"y"))
    answers = say(services, request(*unknown) + FOREIGN_ECHO + RELEASE_RQ_PDU)
    assert [kind for kind, _ in answers] == [ACCEPT, DATA, RELEASE_RP]


def test_its_answers_keep_to_the_length_that_the_peer_takes(services: CountingScp) -> None:
    """A response longer than the peer's maximum goes out in several PDUs."""
    answers = say(services, request(max_pdu=30) + FOREIGN_ECHO + RELEASE_RQ_PDU)
    fragments = [content for kind, content in answers if kind == DATA]
    assert len(fragments) > 1
    assert all(len(content) <= 30 for content in fragments)
    response = elements_of(b"".join(content[6:] for content in fragments))
    assert int.from_bytes(response[0x0120], "little") == 77


def test_what_it_knows_of_the_association(services: CountingScp, monkeypatch: pytest.MonkeyPatch) -> None:
    """AE titles, address and accepted contexts are those that we negotiated."""
    seen = []

    def look(self: foreign.ForeignServices, request_: C_ECHO, number: int) -> None:
        context = self._accepted_cx[number]
        seen.append((self.requestor.ae_title, self.requestor.address, self.acceptor.ae_title, self.is_established))
        seen.append((request_.MessageID, context.abstract_syntax, context.transfer_syntax, context.as_scp))

    monkeypatch.setattr(foreign.ForeignServices, "_serve_request", look)
    say(services, request() + FOREIGN_ECHO + RELEASE_RQ_PDU)
    assert seen == [("PEER", "192.0.2.7", "STOWGATE", True), (77, VERIFICATION, [IMPLICIT], True)]


@pytest.mark.parametrize("field", [0x0000, 0x0020, 0x0FFF, 0x7777, 0xFFFF], ids="{:04X}".format)
def test_what_it_does_not_serve_is_aborted(services: CountingScp, field: int, caplog: pytest.LogCaptureFixture) -> None:
    """A C-FIND, a C-CANCEL and fields that do not exist end the association, without a word in the log."""
    stream = pdu(pdv(1, COMMAND_LAST, command(field, 1, has_dataset=False, sop_class=CT)))
    answers = say(services, request() + stream + RELEASE_RQ_PDU)
    assert [kind for kind, _ in answers] == [ACCEPT, ABORT]
    assert not [record for record in caplog.records if record.name.startswith("receiver")]


@pytest.mark.parametrize(
    "elements", [b"\0\0\x03\x10\x02\0\0\0\xff\xff", b"\0\0\0\x09\x04\0\0\0Doe^"], ids=["action", "status"]
)
def test_a_request_that_it_stumbles_over_is_aborted(
    services: CountingScp, elements: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Values of a kind or length that an element cannot have: an A-ABORT, and nothing quoted in the log."""
    content = command(0x0130, 1, has_dataset=False, sop_class=CT) + elements
    answers = say(services, request() + pdu(pdv(1, COMMAND_LAST, content)) + RELEASE_RQ_PDU)
    assert [kind for kind, _ in answers] in ([ACCEPT, ABORT], [ACCEPT, RELEASE_RP], [ACCEPT, DATA, RELEASE_RP])
    assert not [record for record in caplog.records if record.name.startswith("receiver")]


def test_an_event_report_is_served_in_our_thread(services: CountingScp, monkeypatch: pytest.MonkeyPatch) -> None:
    """pynetdicom would start a thread for each; it is refused (0110), and what follows it is served."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def count(self: threading.Thread) -> None:
        started.append(self)
        start(self)

    push_model = "1.2.840.10008.1.20.1"
    event = even_command(0x0100, push_model, (0x1000, b"1.2.3\0"), (0x1002, b"\1\0"))
    with served(services) as (peer, _):
        monkeypatch.setattr(threading.Thread, "start", count)
        peer.sendall(request() + pdu(pdv(1, COMMAND_LAST, event)) * 3 + store(b"after") + RELEASE_RQ_PDU)
        peer.shutdown(socket.SHUT_WR)
        answers = list(pdus(drain(peer)))
    assert [kind for kind, _ in answers] == [ACCEPT, *[DATA] * 4, RELEASE_RP]
    assert elements_of(answers[1][1][6:])[0x0900] == b"\x10\x01"
    assert services.recorder.datasets() == [b"after"]
    assert not started


def even_command(field: int, sop_class: str, *more: tuple[int, bytes]) -> bytes:
    return command(field, 1, has_dataset=False, sop_class=sop_class) + b"".join(
        struct.pack("<HHI", 0, number, len(value)) + value for number, value in more
    )


def test_what_an_association_needed_is_gone_with_it(services: CountingScp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its buffers do not wait for the garbage collector, though pynetdicom served it as well."""
    made: list[weakref.ref[Transfer]] = []

    def make(*arguments: object) -> Transfer:
        made_now = Transfer(*arguments)  # type: ignore[arg-type]
        made.append(weakref.ref(made_now))
        return made_now

    monkeypatch.setattr(association_module, "Transfer", make)
    gc.disable()
    try:
        say(services, request() + FOREIGN_ECHO + store(b"one") + RELEASE_RQ_PDU)
        # As the receiver's stores, which are of one association.
        del services.recorder.foreign
        assert [transfer() for transfer in made] == [None]
    finally:
        gc.enable()


def test_an_acceptance_is_what_pynetdicom_expects() -> None:
    """Its decoder reads the answer to a request."""
    (kind, content), *_ = say(CountingScp(), request() + RELEASE_RQ_PDU)
    accept = A_ASSOCIATE_AC()
    accept.decode(pdu(content, kind=kind))
    assert [(one.context_id, one.result) for one in accept.presentation_context] == [(1, 0), (3, 0)]
