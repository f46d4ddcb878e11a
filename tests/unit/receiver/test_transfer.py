"""The data-transfer phase (PS3.8 9.3, PS3.7 9.3.1) against a scripted peer."""

import contextlib
import errno
import socket
import struct
import threading
import time
from collections.abc import Callable
from io import BytesIO

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_ECHO_RSP, C_STORE_RSP
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.dsutils import decode
from transfer_peer import (
    ABORT_PDU,
    COMMAND,
    COMMAND_LAST,
    CONTEXTS,
    CT,
    DATASET,
    DATASET_LAST,
    MAX_PDU,
    RELEASE_RP,
    RELEASE_RP_PDU,
    RELEASE_RQ_PDU,
    Recorder,
    Recording,
    drain,
    echo_command,
    element,
    outcome,
    pdu,
    pdus,
    pdv,
    play,
    store,
    store_command,
    us,
)

from common.errors import InstanceError, LedgerError
from receiver import transfer
from receiver.command import encode_response
from receiver.status import (
    CANNOT_UNDERSTAND,
    DATASET_MISMATCH,
    INVALID_SOP_INSTANCE,
    OUT_OF_RESOURCES,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    Refusal,
    no_dataset,
)
from receiver.transfer import End, Transfer

transfer._CLOSE_SECONDS = 0.02  # the scripted peers do not close by themselves

UNRECOGNIZED_PDU, UNEXPECTED_PDU, INVALID_PARAMETER = (2, 1), (2, 2), (2, 6)
BY_USER = (0, 0)

# After the answer


class Waiting(Recorder):
    """Looks, whenever it is told that an answer went out, whether the peer has it."""

    def __init__(self, peer: socket.socket, error: Exception | None = None) -> None:
        super().__init__(error, "commit")
        self.peer = peer
        self.received: list[bytes] = []

    def answered(self) -> None:
        """Look."""
        self.received.append(self.peer.recv(1000, socket.MSG_DONTWAIT))


@pytest.mark.parametrize("error", [None, LedgerError("locked")], ids=["stored", "refused"])
def test_what_the_sender_need_not_wait_for_is_done_after_its_answer(error: Exception | None) -> None:
    """Once for each C-STORE, with its response at the peer; a C-ECHO is none."""
    ours, peer = socket.socketpair()
    with ours, peer:
        recorder = Waiting(peer, error)
        peer.sendall(store(b"one", "1.2.1") + store(b"two", "1.2.2"))
        peer.shutdown(socket.SHUT_WR)
        ours.settimeout(5)
        Transfer(ours, CONTEXTS, MAX_PDU, recorder).run()
    assert [(b"1.2.1" in response, b"1.2.2" in response) for response in recorder.received] == [
        (True, False),
        (False, True),
    ]
    recorder = Recorder()
    play(pdu(pdv(1, COMMAND_LAST, echo_command(1))), recorder)
    assert recorder.answers == 0


def test_what_is_done_after_an_answer_is_done_if_there_is_nobody_to_answer() -> None:
    """A sender that is gone when its instance is stored."""
    ours, peer = socket.socketpair()
    with ours, peer:

        class Gone(Recorder):
            def commit(self, reception: Recording) -> None:
                super().commit(reception)
                ours.shutdown(socket.SHUT_WR)

        recorder = Gone()
        peer.sendall(store(b"one", "1.2.1"))
        ours.settimeout(5)
        assert Transfer(ours, CONTEXTS, MAX_PDU, recorder).run() is End.BROKEN
    assert (len(recorder.committed), recorder.answers) == (1, 1)


# Fragments: any bytes, any split


@st.composite
def split(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """`data` in pieces of any size, empty ones among them."""
    if draw(st.booleans()) and len(data) <= 200:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    most = MAX_PDU - 6
    return [piece[at : at + most] for piece in pieces for at in range(0, max(len(piece), 1), most)]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, bytes | None]]]:
    """A byte stream of C-STOREs and C-ECHOs, and what it says: context and dataset, or None for a C-ECHO."""
    said = draw(st.lists(st.tuples(st.sampled_from([1, 3]), st.none() | st.binary(max_size=9000)), max_size=5))
    stream = bytearray()
    for number, (context_id, dataset) in enumerate(said):
        if dataset is None:
            request = echo_command(number)
        else:
            request = store_command(f"1.2.{number}", number, CONTEXTS[context_id].abstract_syntax)
        fragments = [(COMMAND, piece) for piece in draw(split(request))]
        fragments[-1] = (COMMAND_LAST, fragments[-1][1])
        if dataset is not None:
            fragments += [(DATASET, piece) for piece in draw(split(dataset))] or [(DATASET, b"")]
            fragments[-1] = (DATASET_LAST, fragments[-1][1])
        values: list[bytes] = []
        for header, data in fragments:
            value = pdv(context_id, header, data)
            if values and (sum(map(len, values)) + len(value) > MAX_PDU or draw(st.booleans())):
                stream += pdu(*values)
                values = []
            values.append(value)
        stream += pdu(*values)
    return bytes(stream), said


@settings(max_examples=150, deadline=None)
@given(conversations(), st.lists(st.integers(1, 700), max_size=60))
def test_the_bytes_and_the_responses_do_not_depend_on_how_they_are_cut(
    conversation: tuple[bytes, list[tuple[int, bytes | None]]], sizes: list[int]
) -> None:
    """However a conversation is cut into fragments, PDUs and TCP segments: the same instances and responses."""
    stream, said = conversation
    recorder = Recorder()
    result = play(stream + RELEASE_RQ_PDU, recorder, sizes=sizes)
    assert result.end is End.RELEASED
    assert result.last == (RELEASE_RP, bytes(4))
    assert recorder.committed == [
        (CONTEXTS[context_id].abstract_syntax, f"1.2.{number}", CONTEXTS[context_id].transfer_syntax, dataset)
        for number, (context_id, dataset) in enumerate(said)
        if dataset is not None
    ]
    assert [
        (context_id, *(int.from_bytes(elements[number], "little") for number in (0x0100, 0x0120, 0x0800, 0x0900)))
        for context_id, elements in result.responses
    ] == [
        (context_id, 0x8030 if dataset is None else 0x8001, number, 0x0101, SUCCESS)
        for number, (context_id, dataset) in enumerate(said)
    ]
    assert recorder.discarded == 0


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 13, 4095, 4096, 4097])
def test_a_stream_that_comes_in_pieces_of_one_size_is_read_alike(size: int) -> None:
    """Pieces of one byte and pieces around the length of a PDU end up in the same instances."""
    datasets = [bytes(range(256)) * 40, b"", b"\1", b"odd"]
    recorder = Recorder()
    stream = b"".join(store(dataset, f"1.{number}", number) for number, dataset in enumerate(datasets))
    result = play(stream + RELEASE_RQ_PDU, recorder, sizes=iter(lambda: size, None))
    assert recorder.datasets() == datasets
    assert result.statuses == [SUCCESS] * 4


@pytest.mark.parametrize("dataset_size", [MAX_PDU - 6 - 1, MAX_PDU - 6, MAX_PDU - 6 + 1, 3 * MAX_PDU])
def test_the_longest_pdu_that_was_negotiated_is_taken(dataset_size: int) -> None:
    """A P-DATA-TF of exactly the negotiated length is no error, wherever it lies in the buffer."""
    recorder = Recorder()
    datasets = [bytes([number]) * dataset_size for number in range(5)]
    result = play(b"".join(map(store, datasets)), recorder)
    assert recorder.datasets() == datasets
    assert result.abort is None


def test_pdus_of_every_length_meet_the_end_of_the_buffer() -> None:
    """PDUs of one length, for each length: the buffer ends inside a header, a body, and just between two."""
    for size in range(900):
        pieces = [bytes([number % 256]) * size for number in range(20_000 // (12 + size))]
        recorder = Recorder()
        stream = pdu(pdv(1, COMMAND_LAST, store_command())) + b"".join(pdu(pdv(1, DATASET, piece)) for piece in pieces)
        result = play(stream + pdu(pdv(1, DATASET_LAST, b"")) + RELEASE_RQ_PDU, recorder)
        assert recorder.datasets() == [b"".join(pieces)]
        assert result.end is End.RELEASED


def test_a_fragment_goes_to_the_reception_as_it_comes() -> None:
    """Nothing waits for the end of a dataset: fragments are written one by one, so memory does not grow with it."""
    recorder = Recorder()
    play(store(bytes(10 * MAX_PDU)), recorder)
    assert recorder.begun[0].writes == 11


# The end, wherever it comes


def one_byte_each(dataset: bytes, sop_instance: str) -> list[bytes]:
    """The PDUs of a C-STORE with a fragment of one byte in each."""
    request = store_command(sop_instance)
    last_command, last = len(request) - 1, len(dataset) - 1
    return [
        *(
            pdu(pdv(1, COMMAND_LAST if at == last_command else COMMAND, request[at : at + 1]))
            for at in range(len(request))
        ),
        *(pdu(pdv(1, DATASET_LAST if at == last else DATASET, dataset[at : at + 1])) for at in range(len(dataset))),
    ]


FIRST, SECOND = b"first dataset", b"the second"
PDUS = [*one_byte_each(FIRST, "1.1"), *one_byte_each(SECOND, "1.2")]
WHOLE = [len(one_byte_each(FIRST, "1.1")), len(PDUS)]  # after how many PDUs an instance is complete


@pytest.mark.parametrize(
    ("end_of_peer", "end", "last"),
    [
        (b"", End.BROKEN, None),
        (ABORT_PDU, End.ABORTED, None),
        (RELEASE_RQ_PDU, End.RELEASED, (RELEASE_RP, bytes(4))),
    ],
    ids=["closed", "abort", "release"],
)
def test_an_association_that_ends_between_any_two_bytes_of_an_instance_keeps_whole_ones_only(
    end_of_peer: bytes, end: End, last: tuple[int, bytes] | None
) -> None:
    """End of stream, A-ABORT and A-RELEASE-RQ after any fragment of one byte: what is not complete is discarded."""
    for count in range(len(PDUS) + 1):
        recorder = Recorder()
        result = play(b"".join(PDUS[:count]) + end_of_peer, recorder)
        complete = sum(count >= whole for whole in WHOLE)
        assert recorder.datasets() == [FIRST, SECOND][:complete]
        assert result.statuses == [SUCCESS] * complete
        assert recorder.discarded == len(recorder.begun) - complete
        assert (result.end, result.last) == (end, last)


def test_a_stream_that_ends_at_any_byte_keeps_whole_instances_only() -> None:
    """End of stream after every byte, inside the headers of PDU and fragment too."""
    first, second = store(FIRST, "1.1"), store(SECOND, "1.2")
    stream = first + second
    for count in range(len(stream) + 1):
        recorder = Recorder()
        result = play(stream[:count], recorder)
        complete = (count >= len(first)) + (count == len(stream))
        assert recorder.datasets() == [FIRST, SECOND][:complete]
        assert recorder.discarded == len(recorder.begun) - complete
        assert result.end is End.BROKEN
        assert result.abort is None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(store(FIRST) + store(SECOND)) - 1), st.integers(1, 255), st.binary(max_size=30))
def test_a_damaged_stream_neither_hangs_nor_escapes(at: int, flip: int, more: bytes) -> None:
    """Any byte changed, and any bytes at the end: an end, and each reception is either committed or discarded once."""
    stream = bytearray(store(FIRST) + store(SECOND))
    stream[at] ^= flip
    recorder = Recorder()
    result = play(bytes(stream) + more, recorder)
    assert result.end in End
    assert recorder.discarded + len(recorder.committed) == len(recorder.begun)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
@example(b"\4\0\0\0\0\0")
def test_arbitrary_bytes_end_the_association(stream: bytes) -> None:
    """Bytes that are no DICOM keep nothing and end the association."""
    recorder = Recorder()
    result = play(stream, recorder)
    assert result.end in End
    assert not recorder.committed


# Bounds


DOUBLE_COMMAND = store_command() + store_command()


@pytest.mark.parametrize(
    ("stream", "abort"),
    [
        pytest.param(struct.pack(">BxI", 4, MAX_PDU + 1), INVALID_PARAMETER, id="one byte more than was negotiated"),
        pytest.param(struct.pack(">BxI", 4, 0xFFFFFFFF), INVALID_PARAMETER, id="P-DATA-TF of 4 GB"),
        pytest.param(struct.pack(">BxI", 5, 0xFFFFFFFF), INVALID_PARAMETER, id="A-RELEASE-RQ of 4 GB"),
        pytest.param(struct.pack(">BxI", 7, 0x7FFFFFFF), INVALID_PARAMETER, id="A-ABORT of 2 GB"),
        pytest.param(pdu(b"\0\0\0\x09\1\3abcdef"), INVALID_PARAMETER, id="fragment longer than its PDU by one"),
        pytest.param(
            pdu(pdv(1, COMMAND_LAST, store_command()), b"\0\0\0\x09\1\2abcdef"),
            INVALID_PARAMETER,
            id="fragment of a dataset longer than its PDU by one",
        ),
        pytest.param(pdu(b"\xff\xff\xff\xff\1\3abcdef"), INVALID_PARAMETER, id="fragment of 4 GB"),
        pytest.param(pdu(b"\0\0\0\0\1\3"), INVALID_PARAMETER, id="fragment of length 0"),
        pytest.param(pdu(b"\0\0\0\1\1\3"), INVALID_PARAMETER, id="fragment of length 1"),
        pytest.param(pdu(b"\0\0\0\2\1"), INVALID_PARAMETER, id="header of a fragment cut short"),
        pytest.param(pdu(pdv(1, COMMAND, b"x"), b"\0\0"), INVALID_PARAMETER, id="rest of a PDU that is no fragment"),
        pytest.param(pdu(pdv(1, DATASET, b"x")), INVALID_PARAMETER, id="dataset without a command"),
        pytest.param(
            pdu(pdv(1, COMMAND_LAST, store_command())) + pdu(pdv(1, COMMAND, b"x")),
            INVALID_PARAMETER,
            id="command instead of a dataset",
        ),
        pytest.param(
            pdu(pdv(1, COMMAND_LAST, store_command())) + pdu(pdv(3, DATASET_LAST, b"x")),
            INVALID_PARAMETER,
            id="dataset on another context",
        ),
        pytest.param(
            pdu(pdv(1, COMMAND, store_command()[:20]), pdv(3, COMMAND_LAST, store_command()[20:])),
            INVALID_PARAMETER,
            id="rest of a command on another context",
        ),
        pytest.param(
            pdu(pdv(1, COMMAND_LAST, store_command())) + pdu(pdv(3, COMMAND_LAST, echo_command())),
            INVALID_PARAMETER,
            id="C-ECHO on another context in the middle",
        ),
        pytest.param(pdu(pdv(5, COMMAND_LAST, store_command())), INVALID_PARAMETER, id="context never accepted"),
        pytest.param(pdu(pdv(5, COMMAND_LAST, echo_command())), INVALID_PARAMETER, id="C-ECHO on such a context"),
        pytest.param(pdu(pdv(5, COMMAND, b"")), INVALID_PARAMETER, id="first fragment on such a context"),
        pytest.param(
            pdu(pdv(0, COMMAND, store_command()[:20]), pdv(1, COMMAND_LAST, store_command()[20:])),
            INVALID_PARAMETER,
            id="context 0, then one that was accepted",
        ),
        pytest.param(pdu(pdv(1, COMMAND_LAST, b"\0\0\0\1")), INVALID_PARAMETER, id="command that ends in an element"),
        pytest.param(pdu(pdv(1, COMMAND_LAST, element(0x0002, b"1")[:-1])), INVALID_PARAMETER, id="and in a value"),
        pytest.param(
            pdu(pdv(1, COMMAND_LAST, struct.pack("<HHI", 0, 0x0002, 0xFFFFFFFF))), INVALID_PARAMETER, id="value of 4 GB"
        ),
        pytest.param(
            pdu(pdv(1, COMMAND_LAST, struct.pack("<HHI", 8, 0x0016, 0))), INVALID_PARAMETER, id="element of a dataset"
        ),
        pytest.param(
            pdu(pdv(1, COMMAND_LAST, element(0x0100, b"\1\0\0\0"))), INVALID_PARAMETER, id="command field of 4 bytes"
        ),
        *(
            pytest.param(struct.pack(">BxI", kind, 4) + bytes(4), UNEXPECTED_PDU, id=f"PDU type {kind:02X}")
            for kind in (0x01, 0x02, 0x03, 0x06)
        ),
        *(
            pytest.param(struct.pack(">BxI", kind, 4) + bytes(4), UNRECOGNIZED_PDU, id=f"PDU type {kind:02X}")
            for kind in (0x00, 0x08, 0x16, 0xFF)
        ),
        pytest.param(struct.pack(">BxI", 0x01, 200), UNEXPECTED_PDU, id="A-ASSOCIATE-RQ again"),
        pytest.param(struct.pack(">BxI", 0x16, 0x03010200), UNRECOGNIZED_PDU, id="TLS ClientHello"),
    ],
)
def test_what_breaks_the_protocol_is_answered_with_an_abort(stream: bytes, abort: tuple[int, int]) -> None:
    """It is found before more is read: A-ABORT with source and reason of PS3.8 9.3.8; what was complete stays."""
    recorder = Recorder()
    result = play(store(FIRST) + stream, recorder, closes=False)
    assert result.end is End.BROKEN
    assert result.abort == abort
    assert recorder.datasets() == [FIRST]
    assert recorder.discarded == len(recorder.begun) - 1
    assert not recorder.passed_on


def test_a_command_set_is_bounded() -> None:
    """A command set of more than 64 KB ends the association, in whatever fragments it comes."""
    piece = pdv(1, COMMAND, bytes(MAX_PDU - 6))
    assert play(pdu(piece) * 17, Recorder(), closes=False).abort == INVALID_PARAMETER
    assert play(pdu(piece) * 15, Recorder()).abort is None


def test_what_follows_an_abort_is_not_read() -> None:
    """After a PDU that breaks the protocol, a good C-STORE is not taken."""
    recorder = Recorder()
    assert play(pdu(pdv(1, DATASET, b"x")) + store(FIRST), recorder).statuses == []
    assert not recorder.begun


# Requests of others


def action_command(*, has_dataset: bool = True) -> bytes:
    body = element(0x0003, b"1.2.840.10008.1.20.1") + us(0x0100, 0x0130) + us(0x0110, 5)
    body += us(0x0800, 0x0000 if has_dataset else 0x0101)
    return element(0, struct.pack("<I", len(body))) + body


@settings(max_examples=50, deadline=None)
@given(st.data(), st.binary(max_size=300))
def test_a_request_that_is_none_of_ours_is_passed_on_whole(data: st.DataObject, dataset: bytes) -> None:
    """Its command set and its dataset arrive as they were, with C-STOREs before and after it on the association."""
    fragments = [pdv(3, COMMAND, piece) for piece in data.draw(split(action_command()))] + [pdv(3, COMMAND_LAST, b"")]
    fragments += [pdv(3, DATASET, piece) for piece in data.draw(split(dataset))] + [pdv(3, DATASET_LAST, b"")]
    recorder = Recorder()
    result = play(store(FIRST) + b"".join(map(pdu, fragments)) + store(SECOND), recorder)
    [(context_id, passed)] = recorder.passed_on
    assert context_id == 3
    assert b"".join(one[1:] for one in passed if one[0] & 1) == action_command()
    assert b"".join(one[1:] for one in passed if not one[0] & 1) == dataset
    assert [one[0] for one in passed if one[0] & 2] == [COMMAND_LAST, DATASET_LAST]
    assert recorder.datasets() == [FIRST, SECOND]
    assert result.abort is None


def test_a_foreign_request_without_a_dataset_is_passed_on_at_once() -> None:
    """A command that announces no dataset is complete with its last fragment."""
    recorder = Recorder()
    request = action_command(has_dataset=False)
    result = play(pdu(pdv(3, COMMAND_LAST, request)) + store(FIRST), recorder)
    assert recorder.passed_on == [(3, [bytes([COMMAND_LAST]) + request])]
    assert result.statuses == [SUCCESS]


@pytest.mark.parametrize("size", [0, 1, MAX_PDU - 6])
def test_a_foreign_request_is_bounded(size: int) -> None:
    """No more than 64 KB are kept of it, and fragments of no bytes at all cost nothing."""
    recorder = Recorder()
    fragment = pdv(3, DATASET, bytes(size))
    many = pdu(*[fragment] * (MAX_PDU // len(fragment))) * (8 if size < 2 else 17)
    before = pdu(pdv(3, COMMAND_LAST, action_command()))
    result = play(before + many + pdu(pdv(3, DATASET_LAST, b"")), recorder)
    if size < 2:
        [(_, passed)] = recorder.passed_on
        assert len(passed) < 10
    else:
        assert result.abort == INVALID_PARAMETER
        assert not recorder.passed_on


def test_a_command_inside_a_foreign_dataset_is_answered_with_an_abort() -> None:
    """As inside a C-STORE: a message is complete before the next begins."""
    stream = pdu(pdv(3, COMMAND_LAST, action_command())) + pdu(pdv(3, COMMAND_LAST, echo_command()))
    recorder = Recorder()
    assert play(stream, recorder, closes=False).abort == INVALID_PARAMETER
    assert not recorder.passed_on


def test_a_foreign_request_that_cannot_be_served_ends_the_association() -> None:
    """An exception of the one who serves it is an A-ABORT for the peer, not a thread that dies in silence."""
    recorder = Recorder(ValueError("unforeseen"), "foreign")
    ours, peer = socket.socketpair()
    with peer:
        peer.sendall(pdu(pdv(3, COMMAND_LAST, action_command(has_dataset=False))))
        with ours, pytest.raises(ValueError, match="unforeseen"):
            Transfer(ours, CONTEXTS, MAX_PDU, recorder).run()
        assert outcome(End.BROKEN, drain(peer)).abort == BY_USER


# Statuses


def uids_of(elements: dict[int, bytes]) -> tuple[bytes, bytes]:
    return elements.get(0x0002, b"").rstrip(b"\0"), elements.get(0x1000, b"").rstrip(b"\0")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Refusal(DATASET_MISMATCH, "differ", comment="differ", offending_element=0x00080016), DATASET_MISMATCH),
        (Refusal(INVALID_SOP_INSTANCE, "no UID", comment="no UID"), INVALID_SOP_INSTANCE),
        (OSError(errno.ENOSPC, "no space"), OUT_OF_RESOURCES),
        (TimeoutError(errno.ETIMEDOUT, "a network filesystem"), OUT_OF_RESOURCES),
        (InstanceError("ends inside an element"), CANNOT_UNDERSTAND),
        (LedgerError("locked"), OUT_OF_RESOURCES),
        (ValueError("unforeseen"), OUT_OF_RESOURCES),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else f"{value:04X}",
)
@pytest.mark.parametrize(
    ("where", "at"), [("begin", 1), ("write", 1), ("write", 3), ("write", 4), ("commit", 1)], ids=str
)
def test_a_store_that_fails_is_answered_and_the_next_one_works(
    error: Exception, status: int, where: str, at: int
) -> None:
    """The rest of the dataset is read and dropped, the status says why, and the association goes on."""
    recorder = Recorder(error, where, at)
    result = play(store(bytes(4 * (MAX_PDU - 6)), "1.7", 7) + store(SECOND, "1.8", 8) + RELEASE_RQ_PDU, recorder)
    assert result.end is End.RELEASED
    assert result.statuses == [status, SUCCESS]
    assert recorder.datasets() == [SECOND]
    assert [int.from_bytes(elements[0x0120], "little") for _, elements in result.responses] == [7, 8]
    assert [uids_of(elements) for _, elements in result.responses] == [(CT.encode(), b"1.7"), (CT.encode(), b"1.8")]
    refused, taken = (elements for _, elements in result.responses)
    assert 0x0902 in refused
    assert 0x0902 not in taken
    assert (0x0901 in refused) == (getattr(error, "offending_element", None) is not None)


@pytest.mark.parametrize("dataset_size", [0, 1, 3 * MAX_PDU])
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (store_command(None), INVALID_SOP_INSTANCE),
        (store_command(sop_class=None), INVALID_SOP_INSTANCE),
        (store_command(""), INVALID_SOP_INSTANCE),
        (store_command("\0\0"), INVALID_SOP_INSTANCE),
        (store_command(None, sop_class=None), INVALID_SOP_INSTANCE),
        (store_command(sop_class="1.2.840.10008.5.1.4.1.2.1.1"), SOP_CLASS_NOT_SUPPORTED),
        (store_command(sop_class="1.2.840.10008.1.1"), SOP_CLASS_NOT_SUPPORTED),
    ],
    ids=["no instance", "no class", "empty instance", "only padding", "neither", "a query", "verification"],
)
def test_a_command_that_cannot_be_served_is_refused_and_its_dataset_dropped(
    request_: bytes, status: int, dataset_size: int
) -> None:
    """Missing UIDs and a SOP class that is no storage class; what follows works."""
    pieces = [bytes(MAX_PDU - 6)] * (dataset_size // (MAX_PDU - 6)) + [bytes(dataset_size % (MAX_PDU - 6))]
    stream = pdu(pdv(1, COMMAND_LAST, request_)) + b"".join(pdu(pdv(1, DATASET, piece)) for piece in pieces)
    recorder = Recorder()
    result = play(stream + pdu(pdv(1, DATASET_LAST, b"")) + store(FIRST), recorder)
    assert result.statuses == [status, SUCCESS]
    assert recorder.datasets() == [FIRST]
    assert len(recorder.begun) == 1


def test_a_store_without_a_dataset_is_refused_at_once() -> None:
    """A C-STORE that announces no dataset gets its status, and the next message is read as such."""
    recorder = Recorder(no_dataset(), "commit")
    stream = pdu(pdv(1, COMMAND_LAST, store_command(has_dataset=False)), pdv(1, COMMAND_LAST, echo_command()))
    result = play(stream + store(FIRST), recorder)
    assert result.statuses == [CANNOT_UNDERSTAND, SUCCESS, SUCCESS]
    assert recorder.datasets() == [FIRST]


@pytest.mark.parametrize("dataset_type", [0x0000, 0x0001, 0x0100, 0xFFFF])
def test_any_dataset_type_but_0101_announces_a_dataset(dataset_type: int) -> None:
    """PS3.7 9.3.1.1: only 0101H says that there is none."""
    request = store_command().replace(us(0x0800, 1), us(0x0800, dataset_type))
    recorder = Recorder()
    result = play(pdu(pdv(1, COMMAND_LAST, request), pdv(1, DATASET_LAST, FIRST)), recorder)
    assert result.statuses == [SUCCESS]
    assert recorder.datasets() == [FIRST]


def test_elements_that_decide_nothing_are_passed_over() -> None:
    """Move originator, priority, retired and unknown elements, in any order, change nothing."""
    request = (
        element(0x1030, b"MOVER ") + us(0x1031, 9) + element(0x5010, b"x") + store_command() + element(0x0001, b"")
    )
    recorder = Recorder()
    assert play(pdu(pdv(1, COMMAND_LAST, request), pdv(1, DATASET_LAST, FIRST)), recorder).statuses == [SUCCESS]
    assert recorder.datasets() == [FIRST]


@pytest.mark.parametrize("length", [65, 5000, 40_000])
def test_a_uid_that_is_too_long_does_not_come_back(length: int) -> None:
    """It is no UID, and a response that repeats it could be longer than a PDU that the peer takes."""
    recorder = Recorder(Refusal(INVALID_SOP_INSTANCE, "no UID"), "begin")
    request = store_command("1" * length)
    pieces = [request[at : at + MAX_PDU - 6] for at in range(0, len(request), MAX_PDU - 6)]
    stream = b"".join(pdu(pdv(1, COMMAND, piece)) for piece in pieces) + pdu(pdv(1, COMMAND_LAST, b""))
    result = play(stream + pdu(pdv(1, DATASET_LAST, FIRST)), recorder)
    assert result.statuses == [INVALID_SOP_INSTANCE]
    assert 0x1000 not in result.responses[0][1]


# Time


def serve_with(store_: Recorder, script: Callable[[socket.socket], None], timeout: float) -> tuple[End, float, bytes]:
    """Serve a peer that runs a script; how it ended, after how long, and what the peer got."""
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.settimeout(timeout)
        speaker = threading.Thread(target=script, args=(peer,))
        speaker.start()
        began = time.monotonic()
        end = Transfer(ours, CONTEXTS, MAX_PDU, store_).run()
        lasted = time.monotonic() - began
        ours.shutdown(socket.SHUT_RDWR)
        speaker.join(10)
        return end, lasted, drain(peer)


@pytest.mark.parametrize("before", [0, 3, 6, 40, len(store(FIRST)) - 1], ids=lambda count: f"after {count} bytes")
def test_a_silent_peer_is_ended(before: int) -> None:
    """No byte for the socket's timeout, wherever the peer stops: an A-ABORT, and nothing is kept."""
    recorder = Recorder()
    end, lasted, received = serve_with(recorder, lambda peer: peer.sendall(store(FIRST)[:before]), 0.3)
    assert end is End.BROKEN
    assert 0.25 < lasted < 3
    assert outcome(end, received).abort == BY_USER
    assert not recorder.committed
    assert recorder.discarded == len(recorder.begun)


def test_a_slow_peer_is_served() -> None:
    """A byte now and then is progress, though one PDU takes much longer than the timeout."""

    def slowly(peer: socket.socket) -> None:
        for byte in store(FIRST) + RELEASE_RQ_PDU:
            peer.send(bytes([byte]))
            time.sleep(0.01)

    recorder = Recorder()
    end, lasted, received = serve_with(recorder, slowly, 0.3)
    assert end is End.RELEASED
    assert lasted > 0.6
    assert outcome(end, received).statuses == [SUCCESS]
    assert recorder.datasets() == [FIRST]


def test_a_peer_that_reads_no_answer_is_ended() -> None:
    """A peer that only sends fills the buffers of its answers; after the timeout it is ended."""

    def never_reads(peer: socket.socket) -> None:
        peer.settimeout(5)
        with contextlib.suppress(OSError):
            while True:
                peer.sendall(pdu(pdv(1, COMMAND_LAST, echo_command())) * 50)

    end, lasted = serve_with_unread(never_reads)
    assert end is End.BROKEN
    assert lasted < 5


def test_a_peer_that_reads_its_answers_late_gets_them_all() -> None:
    """It has as long as it may be silent, though the buffers of its answers are full meanwhile."""
    count = 20_000
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.settimeout(30)
        ends: list[End] = []
        serving = threading.Thread(target=lambda: ends.append(Transfer(ours, CONTEXTS, MAX_PDU, Recorder()).run()))
        speaking = threading.Thread(
            target=peer.sendall, args=(pdu(pdv(1, COMMAND_LAST, echo_command())) * count + RELEASE_RQ_PDU,)
        )
        serving.start()
        speaking.start()
        speaking.join(1.5)  # several ticks of the reader
        assert speaking.is_alive(), "expected full buffers in both directions"
        received = b""
        while not received.endswith(RELEASE_RP_PDU):
            received += (piece := peer.recv(1 << 20))
            assert piece, f"cut off after {len(received)} bytes"
        peer.close()
        serving.join(10)
        speaking.join(10)
    assert ends == [End.RELEASED]
    assert sum(1 for _ in pdus(received)) == count + 1


def test_an_abort_does_not_wait_for_a_peer_that_reads_nothing() -> None:
    """Another thread's abort ends an association that is in the middle of an answer."""
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.settimeout(600)
        transfer = Transfer(ours, CONTEXTS, MAX_PDU, Recorder())
        ends: list[End] = []
        serving = threading.Thread(target=lambda: ends.append(transfer.run()))
        serving.start()
        peer.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while True:
                peer.sendall(pdu(pdv(1, COMMAND_LAST, echo_command())) * 50)
        transfer.abort()
        serving.join(10)
        assert ends == [End.BROKEN]


def serve_with_unread(script: Callable[[socket.socket], None]) -> tuple[End, float]:
    ours, peer = socket.socketpair()
    with peer:
        ours.settimeout(0.3)
        speaker = threading.Thread(target=script, args=(peer,))
        speaker.start()
        began = time.monotonic()
        end = Transfer(ours, CONTEXTS, MAX_PDU, Recorder()).run()
        lasted = time.monotonic() - began
        ours.close()
        speaker.join(10)
        return end, lasted


def test_another_thread_can_abort() -> None:
    """`abort` ends `run` at once: the peer gets an A-ABORT, and the reception is discarded."""
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.settimeout(30)
        recorder = Recorder()
        transfer = Transfer(ours, CONTEXTS, MAX_PDU, recorder)
        ends: list[End] = []
        serving = threading.Thread(target=lambda: ends.append(transfer.run()))
        serving.start()
        peer.sendall(store(FIRST)[:-1])
        deadline = time.monotonic() + 5
        while not recorder.begun and time.monotonic() < deadline:
            time.sleep(0.01)
        transfer.abort()
        serving.join(5)
        assert ends == [End.BROKEN]
        assert outcome(ends[0], drain(peer)).abort == BY_USER
        assert recorder.discarded == 1
        assert not recorder.committed


def test_an_exception_in_a_write_leaves_the_reception_to_whoever_raised() -> None:
    """A reception whose write failed has withdrawn itself, and is not asked to again."""
    recorder = Recorder(OSError(errno.EIO, "broken"), "write", 2)
    play(store(bytes(3 * MAX_PDU)), recorder)
    assert [reception.discarded for reception in recorder.begun] == [0]
    assert isinstance(recorder.begun[0], Recording)


# Responses


def theirs(response: C_STORE | C_ECHO, container: C_STORE_RSP | C_ECHO_RSP) -> bytes:
    """The command set as pynetdicom encodes it."""
    container.primitive_to_message(response)
    values = [value for one in container.encode_msg(1, 0) for value in one.presentation_data_value_list]
    assert all(value[1][0] & 1 for value in values)
    return b"".join(value[1][1:] for value in values)


uids = st.builds(lambda digits: "1.2." + digits, st.text("123456789", min_size=1, max_size=60))
# ErrorComment is LO (PS3.5 6.2): no backslash; pydicom strips nothing, DICOM ignores spaces at the ends.
comments = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="\\"), max_size=64)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([0x0000, 0x0117, 0x0122, 0xA700, 0xA900, 0xC000, 0xB000]),
    st.integers(0, 0xFFFF),
    comments,
    st.none() | st.sampled_from([0x00080016, 0x00080018, 0x00000002, 0x7FE00010, 0xFFFFFFFF]),
    uids,
    uids,
)
def test_a_store_response_is_what_pynetdicom_would_send(  # noqa: PLR0917 - hypothesis gives them by position
    status: int, message_id: int, comment: str, offending: int | None, sop_class: str, sop_instance: str
) -> None:
    """Byte for byte, with odd and even lengths, with and without the elements that explain."""
    response = C_STORE()
    response.MessageIDBeingRespondedTo = message_id
    response.AffectedSOPClassUID = sop_class
    response.AffectedSOPInstanceUID = sop_instance
    response.Status = status
    if comment:
        response.ErrorComment = comment
    if offending is not None:
        response.OffendingElement = offending
    ours = encode_response(
        0x8001,
        message_id,
        Refusal(status, comment, comment=comment, offending_element=offending),
        sop_class_uid=sop_class.encode(),
        sop_instance_uid=sop_instance.encode(),
    )
    assert ours == theirs(response, C_STORE_RSP())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 0xFFFF))
def test_an_echo_response_is_what_pynetdicom_would_send(message_id: int) -> None:
    """Byte for byte."""
    response = C_ECHO()
    response.MessageIDBeingRespondedTo = message_id
    response.AffectedSOPClassUID = "1.2.840.10008.1.1"
    response.Status = SUCCESS
    ours = encode_response(0x8030, message_id, Refusal(SUCCESS, ""), sop_class_uid=b"1.2.840.10008.1.1\0")
    assert ours == theirs(response, C_ECHO_RSP())


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc"]), max_size=80))
def test_any_comment_makes_a_command_set_that_can_be_read(comment: str) -> None:
    """Characters that ErrorComment cannot hold are replaced; the elements around it are read as they are."""
    encoded = encode_response(
        0x8001, 1, Refusal(0xC000, comment, comment=comment, offending_element=0x00080018), sop_instance_uid=b"1.2.3"
    )
    found = decode(BytesIO(encoded), is_implicit_vr=True, is_little_endian=True)
    assert found.Status == 0xC000
    assert found.AffectedSOPInstanceUID == "1.2.3"
    assert found.OffendingElement == 0x00080018
    assert found.CommandGroupLength == len(encoded) - 12
    assert len(found.get("ErrorComment") or "") <= 64
