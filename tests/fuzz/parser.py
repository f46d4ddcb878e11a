"""Coverage-guided fuzzing of what reads a peer's bytes, by atheris (`make fuzz-parser`): negotiation, PDUs, commands.

The first byte says what the others are: a request to negotiate, a connection that begins with one, or what is said in
an association. Nothing but what is documented may be raised; an answer must be well-formed; and what is understood must
not depend on the pieces in which it comes.
"""

import itertools
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["receiver"]):
    from receiver import status
    from receiver.negotiation import Proposal, decide, encode_accept, unsupported
    from receiver.pdu import ProtocolError, read_request
    from receiver.status import Refusal
    from receiver.transfer import Context, Transfer

from receiver_wire import (
    COMMAND_LAST,
    CT_EXPLICIT,
    DATA,
    DATASET_LAST,
    RELEASE_RQ,
    associate_request,
    pdu,
    pdv,
    store_command,
)

from common.instance import is_uid

CT, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1"
CONTEXTS = {1: Context(CT, "1.2.840.10008.1.2.1"), 3: Context(VERIFICATION, "1.2.840.10008.1.2")}
MAX_PDU = 4096
PIECES = (1, 2, 3, 5, 7, 64, 1000)


class Said(socket.socket):
    """A connection on which all has been said already: in pieces, then the end."""

    def __init__(self, content: bytes, pieces: Iterator[int]) -> None:
        super().__init__(socket.AF_UNIX)
        self._rest = memoryview(content)
        self._pieces = pieces
        self.sent = bytearray()

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:  # type: ignore[override]
        """The next piece."""
        count = min(len(buffer), next(self._pieces), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """The same."""
        piece = bytearray(min(bufsize, len(self._rest)))
        return bytes(piece[: self.recv_into(piece)])

    def send(self, data: Any, flags: int = 0) -> int:
        """Keep it; a little at a time."""
        taken = min(len(data), max(1, next(self._pieces)))
        self.sent += data[:taken]
        return taken


class Reception:
    """An instance that comes."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.over = False

    def write(self, fragment: memoryview) -> None:
        """Keep it."""
        assert not self.over
        self.content += fragment

    def discard(self) -> None:
        """Once at most."""
        assert not self.over
        self.over = True


class Store:
    """Takes what is well-formed, and counts."""

    def __init__(self) -> None:
        self.receptions: list[Reception] = []
        self.taken: list[tuple[str, str, bytes]] = []
        self.passed_on: list[tuple[int, list[bytes]]] = []
        self.answers = 0
        self._now = ("", "")

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Reception:
        """As the intake judges UIDs."""
        for uid in (sop_class_uid, sop_instance_uid):
            if not is_uid(uid):
                raise status.malformed_uid("UID")
        self._now = sop_class_uid, sop_instance_uid
        self.receptions.append(Reception())
        return self.receptions[-1]

    def commit(self, reception: Reception) -> None:
        """Every third one fails."""
        if len(self.receptions) % 3 == 0:
            reception.discard()
            raise OSError(5, "broken")
        reception.over = True
        self.taken.append((*self._now, bytes(reception.content)))

    def answered(self) -> None:
        """Count."""
        self.answers += 1

    def refused(self, error: Exception, sop_instance_uid: str) -> Refusal:
        """As the receiver's own."""
        return status.refusal(error)

    def foreign(self, context_id: int, fragments: list[bytes]) -> None:
        """Keep it."""
        self.passed_on.append((context_id, fragments))


def negotiate(content: bytes) -> None:
    """A body of an A-ASSOCIATE-RQ: ProtocolError, or a decision on each context and an answer that can be read."""
    try:
        proposal = Proposal.parse(content)
    except ProtocolError:
        return
    unsupported(proposal)
    decisions = decide(proposal)
    assert [one.id for one in decisions] == [one.id for one in proposal.contexts]
    answer = encode_accept(proposal, decisions, MAX_PDU)
    assert struct.unpack_from(">BxI", answer) == (2, len(answer) - 6)
    at = 74
    while at < len(answer):
        at += 4 + struct.unpack_from(">H", answer, at + 2)[0]
    assert at == len(answer)
    assert len(answer) < 128 * 200 + 74 + 200 + 128 * 80


def connect(content: bytes) -> None:
    """What comes on a new connection: a request, whole and not a byte more, or ProtocolError, or nothing."""
    for size in (1, 3, 1 << 20):
        with Said(content, itertools.repeat(size)) as connection:
            try:
                body = read_request(connection, 1 << 16, time.monotonic() + 60)
            except ProtocolError:
                continue
            assert body is None or body == content[6 : 6 + len(body)]
            if body is not None:
                assert len(body) == int.from_bytes(content[2:6], "big") <= 1 << 16


def transfer(content: bytes) -> None:
    """What is said in an association: the same is understood and answered in whatever pieces it comes."""
    outcomes = []
    for pieces in (itertools.repeat(1 << 20), itertools.cycle(PIECES)):
        store = Store()
        with Said(content, pieces) as connection:
            end = Transfer(connection, CONTEXTS, MAX_PDU, store).run()
            assert all(reception.over for reception in store.receptions)
            outcomes.append((end, store.taken, store.passed_on, store.answers, bytes(connection.sent)))
    assert outcomes[0] == outcomes[1]
    answers, at = outcomes[0][4], 0
    while at < len(answers):
        at += 6 + int.from_bytes(answers[at + 2 : at + 6], "big")
    assert at == len(answers)


TARGETS = (negotiate, connect, transfer)


def one_input(content: bytes) -> None:
    """What atheris calls."""
    if content:
        TARGETS[content[0] % len(TARGETS)](content[1:])


def seeds(folder: Path) -> None:
    """Good streams to begin with."""
    request = associate_request([CT_EXPLICIT, (3, VERIFICATION, ["1.2.840.10008.1.2"])])
    store = store_command(CT, "1.2.3")
    association = pdu(DATA, pdv(1, COMMAND_LAST, store)) + pdu(DATA, pdv(1, 0, b"abc") + pdv(1, DATASET_LAST, b"def"))
    echo = store_command(VERIFICATION, None, has_dataset=False, field=0x0030)
    association += pdu(DATA, pdv(3, COMMAND_LAST, echo)) + pdu(RELEASE_RQ, bytes(4))
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate((request[6:], request, association)):
        (folder / f"seed-{number}").write_bytes(bytes((number,)) + content)


if __name__ == "__main__":
    seeds(Path(sys.argv[-1]))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
