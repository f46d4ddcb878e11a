"""The data-transfer phase of an association: from the socket straight to the staging file (PS3.8 9.3, PS3.7 6.3, 9.3).

One thread, one buffer. PDUs are read with `recv_into`, the fragments of a dataset go to the reception as views of
that buffer, and responses are built by hand. C-STORE and C-ECHO are served here; every other request is collected
and passed on whole.

What a peer sends is bounded before it is believed: PDU lengths by what was negotiated, fragments by their PDU,
command sets and foreign requests by limits of ours. What breaks the protocol ends the association with an A-ABORT
(PS3.8 9.3.8). A peer is silent when no byte comes for the socket's timeout, however long one PDU takes.
"""

import socket
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from common.instance import is_uid
from receiver import status
from receiver.command import C_ECHO_RQ, C_STORE_RQ, NO_DATASET, Command, echoed, encode_response, uid_text
from receiver.contexts import is_storage
from receiver.pdu import A_RELEASE_RQ, P_DATA_TF, RELEASE_RP, PduReader, ProtocolError, encode_abort
from receiver.status import Refusal

_MAX_COMMAND = 64 * 1024  # bytes
_MAX_FOREIGN = 64 * 1024  # bytes; a request with a dataset that is no C-STORE is refused in any case
_CLOSE_SECONDS = 1.0


class End(Enum):
    """How the data-transfer phase ended."""

    RELEASED = "released"
    """The peer asked for the release, and was answered."""
    ABORTED = "aborted"
    """The peer aborted."""
    BROKEN = "broken"
    """The connection ended, was silent for too long, or was aborted by us."""


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


class Reception(Protocol):
    """An instance on its way in."""

    def write(self, fragment: memoryview, /) -> None:
        """Append a fragment of the dataset."""

    def discard(self) -> None:
        """Forget it."""


class Store(Protocol):
    """Who takes instances."""

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Reception:
        """Begin to take an instance, or raise."""

    def commit(self, reception: Reception) -> None:
        """Make it durable, or raise; then it is acknowledged."""

    def answered(self) -> None:
        """The sender has its answer, or cannot be reached any more: time for what it need not wait for."""

    def refused(self, error: Exception, sop_instance_uid: str) -> Refusal:
        """What to answer for an exception of the others; `sop_instance_uid` is of the command, and may be none."""

    def foreign(self, context_id: int, fragments: list[bytes]) -> None:
        """Serve a request that is none of ours; `fragments`: command set and dataset, each with its control header."""


class Transfer:
    """The data-transfer phase of one association; `run` it in the association's thread.

    Args:
        connection: established, with the association accepted on it.
        contexts: the accepted presentation contexts by their ID.
        max_pdu: the longest P-DATA-TF that we have offered to take.
        store: takes the instances.
    """

    def __init__(self, connection: socket.socket, contexts: Mapping[int, Context], max_pdu: int, store: Store) -> None:
        self._connection = connection
        self._contexts = contexts
        self._store = store
        self._over = threading.Event()
        self._reader = PduReader(connection, max_pdu, self._over.is_set)
        self._sending = threading.Lock()
        self._context_id = 0  # of the message that is coming in; 0 between messages
        self._command_set = bytearray()
        self._command: Command | None = None  # whose dataset is coming in
        self._reception: Reception | None = None
        self._refusal: Refusal | None = None
        self._foreign: bytearray | None = None  # the dataset of a request that is none of ours

    def run(self) -> End:
        """Serve the peer until the association ends.

        Raises:
            Exception: whatever `Store.foreign` raised; the peer got an A-ABORT.
        """
        try:
            end = self._serve()
        except ProtocolError as error:
            self._send_abort(error.reason)
            end = End.BROKEN
        except OSError:
            self._send_abort(0)
            end = End.BROKEN
        except BaseException:
            self._send_abort(0)
            raise
        finally:
            if self._reception is not None:
                self._reception.discard()
                self._reception = None
        wait_for_close(self._connection)
        return end

    def abort(self) -> None:
        """Abort from another thread: `run` ends with BROKEN."""
        self._send_abort(0)

    def send(self, data: bytes) -> None:
        """Send bytes of whole PDUs."""
        with self._sending:
            self._reader.send(data)

    def _serve(self) -> End:
        while (pdu := self._reader.next()) is not None and not self._over.is_set():
            kind, body = pdu
            if kind == P_DATA_TF:
                self._take_pdu(body)
            elif kind == A_RELEASE_RQ:
                self.send(RELEASE_RP)
                return End.RELEASED
            else:
                return End.ABORTED
        return End.BROKEN

    def _take_pdu(self, body: memoryview) -> None:
        at, end = 0, len(body)
        while at < end:
            if at + 6 > end:
                raise ProtocolError("expected a presentation data value, found the end of the PDU")
            length, context_id, header = struct.unpack_from(">IBB", body, at)
            at += 4
            if length < 2 or at + length > end:
                raise ProtocolError(f"expected a presentation data value within its PDU, found a length of {length}")
            self._take_fragment(context_id, header, body[at + 2 : at + length])
            at += length

    def _take_fragment(self, context_id: int, header: int, fragment: memoryview) -> None:
        if self._context_id and context_id != self._context_id:
            raise ProtocolError("expected the rest of a message, found a fragment of another context")
        if context_id not in self._contexts:
            raise ProtocolError("expected a presentation context that was accepted")
        if self._foreign is not None:
            self._take_foreign(self._foreign, header, fragment)
        elif header & 1:
            self._take_command(context_id, header, fragment)
        elif self._command is None:
            raise ProtocolError("expected a command, found a fragment of a dataset")
        else:
            self._take_dataset(fragment, last=bool(header & 2))

    def _take_command(self, context_id: int, header: int, fragment: memoryview) -> None:
        if self._command is not None:
            raise ProtocolError("expected a dataset, found a command")
        if len(self._command_set) + len(fragment) > _MAX_COMMAND:
            raise ProtocolError(f"expected a command set of at most {_MAX_COMMAND} bytes")
        self._context_id = context_id
        self._command_set += fragment
        if header & 2:
            self._begin(Command.parse(self._command_set))

    def _begin(self, command: Command) -> None:
        has_dataset = command.dataset_type != NO_DATASET
        if command.field == C_ECHO_RQ and not has_dataset:
            self._answer(command, Refusal(status.SUCCESS, ""))
        elif command.field == C_STORE_RQ:
            self._command = command
            self._begin_store(command, self._contexts[self._context_id], has_dataset=has_dataset)
        elif has_dataset:
            self._foreign = bytearray()
        else:
            self._pass_on([])

    def _begin_store(self, command: Command, context: Context, *, has_dataset: bool) -> None:
        sop_class_uid, sop_instance_uid = uid_text(command.sop_class_uid), uid_text(command.sop_instance_uid)
        try:
            # A class that is another one than the context's is let pass, as long as the dataset agrees with it.
            if not is_storage(context.abstract_syntax) or (is_uid(sop_class_uid) and not is_storage(sop_class_uid)):
                raise status.not_negotiated()  # noqa: TRY301 - answered like any other refusal
            self._reception = self._store.begin(sop_class_uid, sop_instance_uid, context.transfer_syntax)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sender gets a status it understands
            self._refuse(error)
        if not has_dataset:
            self._take_dataset(memoryview(b""), last=True)

    def _take_dataset(self, fragment: memoryview, *, last: bool) -> None:
        if self._reception is not None:
            try:
                self._reception.write(fragment)
                if last:
                    reception, self._reception = self._reception, None
                    self._store.commit(reception)
            except Exception as error:  # noqa: BLE001 - as above
                # What was written is withdrawn by whoever raised; the rest of the dataset is read and dropped.
                self._reception = None
                self._refuse(error)
        if last:
            self._finish()

    def _refuse(self, error: Exception) -> None:
        command = self._command
        self._refusal = self._store.refused(error, uid_text(command.sop_instance_uid) if command is not None else "")

    def _finish(self) -> None:
        command = self._command
        refusal, self._refusal = self._refusal, None
        self._command = None
        if command is not None:
            try:
                self._answer(command, refusal or Refusal(status.SUCCESS, ""))
            finally:
                self._store.answered()

    def _answer(self, command: Command, refusal: Refusal) -> None:
        context_id, self._context_id = self._context_id, 0
        self._command_set.clear()
        response = encode_response(
            command.field | 0x8000,
            command.id,
            refusal,
            sop_class_uid=echoed(command.sop_class_uid),
            sop_instance_uid=echoed(command.sop_instance_uid),
        )
        self.send(struct.pack(">BxIIBB", P_DATA_TF, len(response) + 6, len(response) + 2, context_id, 0x03) + response)

    def _take_foreign(self, dataset: bytearray, header: int, fragment: memoryview) -> None:
        if header & 1:
            raise ProtocolError("expected a dataset, found a command")
        if len(dataset) + len(fragment) > _MAX_FOREIGN:
            raise ProtocolError(f"expected a dataset of at most {_MAX_FOREIGN} bytes")
        dataset += fragment
        if header & 2:
            self._foreign = None
            self._pass_on([b"\x02" + dataset])

    def _pass_on(self, dataset: list[bytes]) -> None:
        context_id, self._context_id = self._context_id, 0
        command_set = b"\x03" + self._command_set
        self._command_set.clear()
        self._store.foreign(context_id, [command_set, *dataset])

    def _send_abort(self, reason: int) -> None:
        if not self._over.is_set():
            self._over.set()
            with suppress(OSError):
                self.send(encode_abort(reason))


def wait_for_close(connection: socket.socket) -> None:
    """Give the peer a moment to close first: with bytes left unread, our last word would be lost in a reset."""
    deadline = time.monotonic() + _CLOSE_SECONDS
    scratch = bytearray(64 * 1024)
    with suppress(OSError):
        # The plain socket's: SSLSocket.shutdown would take the TLS layer away.
        socket.socket.shutdown(connection, socket.SHUT_WR)
        connection.settimeout(_CLOSE_SECONDS)
        while time.monotonic() < deadline and connection.recv_into(scratch):
            pass
