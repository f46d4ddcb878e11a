"""A scripted peer for the data-transfer phase, and a store that remembers."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from common.instance import is_uid
from receiver import status
from receiver.status import Refusal
from receiver.transfer import Context, End, Transfer

MAX_PDU = 4096
CT, MR = str(CTImageStorage), str(MRImageStorage)
CONTEXTS = {1: Context(CT, str(ExplicitVRLittleEndian)), 3: Context(MR, str(ImplicitVRLittleEndian))}
DATA, RELEASE_RP, ABORT = 0x04, 0x06, 0x07
_FITS = 100_000
COMMAND, COMMAND_LAST, DATASET, DATASET_LAST = 1, 3, 0, 2
RELEASE_RQ_PDU = struct.pack(">BxI4x", 0x05, 4)
RELEASE_RP_PDU = struct.pack(">BxI4x", 0x06, 4)
ABORT_PDU = struct.pack(">BxI4x", 0x07, 4)

Fragment = tuple[int, int, bytes]
Instance = tuple[str, str, str, bytes]


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def us(number: int, value: int) -> bytes:
    return element(number, struct.pack("<H", value))


def even(text: str) -> bytes:
    return text.encode() + b"\0" * (len(text) % 2)


def command(command_field: int, message_id: int, *, has_dataset: bool, **uids: str | None) -> bytes:
    """A command set; `sop_class` and `sop_instance` are left out if they are None."""
    sop_class, sop_instance = uids.get("sop_class"), uids.get("sop_instance")
    body = element(0x0002, even(sop_class)) if sop_class is not None else b""
    body += us(0x0100, command_field) + us(0x0110, message_id)
    body += us(0x0700, 0) if command_field == 1 else b""
    body += us(0x0800, 0x0001 if has_dataset else 0x0101)
    body += element(0x1000, even(sop_instance)) if sop_instance is not None else b""
    return element(0, struct.pack("<I", len(body))) + body


def store_command(
    sop_instance: str | None = "1.2.3", message_id: int = 1, sop_class: str | None = CT, *, has_dataset: bool = True
) -> bytes:
    return command(1, message_id, has_dataset=has_dataset, sop_class=sop_class, sop_instance=sop_instance)


def echo_command(message_id: int = 1) -> bytes:
    return command(0x30, message_id, has_dataset=False, sop_class="1.2.840.10008.1.1")


def pdv(context_id: int, header: int, data: bytes) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context_id, header) + data


def pdu(*values: bytes, kind: int = DATA) -> bytes:
    body = b"".join(values)
    return struct.pack(">BxI", kind, len(body)) + body


def store(dataset: bytes, sop_instance: str = "1.2.3", message_id: int = 1, context_id: int = 1) -> bytes:
    """A C-STORE in as many PDUs as it takes."""
    request = store_command(sop_instance, message_id, CONTEXTS[context_id].abstract_syntax)
    size = MAX_PDU - 6
    pieces = [dataset[at : at + size] for at in range(0, len(dataset), size)] or [b""]
    return pdu(pdv(context_id, COMMAND_LAST, request)) + b"".join(
        pdu(pdv(context_id, DATASET_LAST if number == len(pieces) else DATASET, piece))
        for number, piece in enumerate(pieces, 1)
    )


@dataclass
class Recording:
    """A reception of the store below."""

    owner: "Recorder"
    uids: tuple[str, str, str]
    content: bytearray = field(default_factory=bytearray)
    writes: int = 0
    discarded: int = 0

    def write(self, fragment: memoryview) -> None:
        """Keep a copy: the view is valid for this call only."""
        self.writes += 1
        self.owner.fail("write", self.writes)
        self.content += fragment

    def discard(self) -> None:
        """Count."""
        self.discarded += 1


class Recorder:
    """A store that remembers what it was given, and fails when it is told to.

    Args:
        error: raised once.
        where: "begin", "write" or "commit".
        at: at which write of a reception.
    """

    def __init__(self, error: Exception | None = None, where: str = "", at: int = 1) -> None:
        self.begun: list[Recording] = []
        self.committed: list[Instance] = []
        self.passed_on: list[tuple[int, list[bytes]]] = []
        self.answers = 0
        self._error, self._where, self._at = error, where, at

    def fail(self, where: str, at: int = 1) -> None:
        """Raise, if this is the place."""
        if self._error is not None and where == self._where and at == self._at:
            error, self._error = self._error, None
            raise error

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Recording:
        """Begin a recording."""
        self.fail("begin")
        for uid, name in ((sop_class_uid, "SOP Class UID"), (sop_instance_uid, "SOP Instance UID")):
            if not is_uid(uid):
                raise status.malformed_uid(name)
        self.begun.append(Recording(self, (sop_class_uid, sop_instance_uid, transfer_syntax_uid)))
        return self.begun[-1]

    def commit(self, reception: Recording) -> None:
        """Keep the instance."""
        self.fail("commit")
        assert not reception.discarded
        self.committed.append((*reception.uids, bytes(reception.content)))

    def answered(self) -> None:
        """Count the answers to C-STORE requests."""
        self.answers += 1

    def refused(self, error: Exception, sop_instance_uid: str) -> Refusal:  # noqa: ARG002 - as the receiver calls it
        """As the receiver's own."""
        return status.refusal(error)

    def foreign(self, context_id: int, fragments: list[bytes]) -> None:
        """Keep the request."""
        self.fail("foreign")
        self.passed_on.append((context_id, fragments))

    def datasets(self) -> list[bytes]:
        """The datasets that were committed."""
        return [content for *_, content in self.committed]

    @property
    def discarded(self) -> int:
        """How many times a reception was discarded."""
        return sum(reception.discarded for reception in self.begun)


class Segmented(socket.socket):
    """A socket that gives what it has in pieces of the sizes that a test wants."""

    sizes: Iterator[int] = iter(())

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0) -> int:  # type: ignore[override]
        """Receive no more than the next size."""
        return super().recv_into(buffer, min(nbytes or len(buffer), next(self.sizes, len(buffer))), flags)


@dataclass
class Outcome:
    """What a peer got: the responses' elements by context, then what ended the association."""

    end: End
    responses: list[tuple[int, dict[int, bytes]]]
    last: tuple[int, bytes] | None

    @property
    def statuses(self) -> list[int]:
        """The status of each response."""
        return [int.from_bytes(elements[0x0900], "little") for _, elements in self.responses]

    @property
    def abort(self) -> tuple[int, int] | None:
        """Source and reason of the A-ABORT that came."""
        return (self.last[1][2], self.last[1][3]) if self.last is not None and self.last[0] == ABORT else None


def pdus(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from(">BxI", data, at)
        assert at + 6 + length <= len(data)
        yield kind, data[at + 6 : at + 6 + length]
        at += 6 + length


def elements_of(command_set: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(command_set):
        group, number, length = struct.unpack_from("<HHI", command_set, at)
        assert group == 0
        assert number not in found
        assert length % 2 == 0
        found[number] = command_set[at + 8 : at + 8 + length]
        at += 8 + length
    assert list(found) == sorted(found)
    assert int.from_bytes(found[0], "little") == len(command_set) - 12
    return found


def outcome(end: End, received: bytes) -> Outcome:
    responses: list[tuple[int, dict[int, bytes]]] = []
    last = None
    for kind, body in pdus(received):
        assert last is None, "nothing may follow the end of an association"
        if kind == DATA:
            length, context_id, header = struct.unpack_from(">IBB", body)
            assert (length, header) == (len(body) - 4, COMMAND_LAST)
            responses.append((context_id, elements_of(body[6:])))
        else:
            last = kind, body
    return Outcome(end, responses, last)


def drain(peer: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := peer.recv(1 << 20):
            received += piece
    return received


def play(
    stream: bytes, store: Recorder, *, sizes: Iterable[int] = (), closes: bool = True, max_pdu: int = MAX_PDU
) -> Outcome:
    """Say a stream, be served, then read the answers."""
    ours, peer = socket.socketpair()
    with peer, Segmented(fileno=ours.detach()) as connection:
        connection.sizes = iter(sizes)
        connection.settimeout(5)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        peer.settimeout(5)
        # What fits the socket's buffer is said at once, so that a short script needs no thread.
        speaker = threading.Thread(target=_say, args=(peer, stream, closes))
        if len(stream) > _FITS:
            speaker.start()
        else:
            _say(peer, stream, closes)
        end = Transfer(connection, CONTEXTS, max_pdu, store).run()
        connection.shutdown(socket.SHUT_RDWR)
        if len(stream) > _FITS:
            speaker.join(5)
        return outcome(end, drain(peer))


def _say(peer: socket.socket, stream: bytes, closes: bool) -> None:  # noqa: FBT001
    with contextlib.suppress(OSError):
        peer.sendall(stream)
        if closes:
            peer.shutdown(socket.SHUT_WR)
