"""One association, from the accepted connection to its end, in a thread of its own (PS3.8 9.2, 9.3).

TLS handshake, request, decision, data transfer, close. A peer has the ACSE timeout for all that comes before the
decision, then the network timeout between two bytes. Whatever it does, the connection is closed at the end and the
place among max_associations given back.
"""

import contextlib
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Protocol

from common import logs
from common.config import ReceiverConfig
from receiver.admission import Rejection
from receiver.foreign import ForeignServices
from receiver.negotiation import Proposal, Result, decide, encode_accept, encode_reject
from receiver.pdu import ProtocolError, encode_abort, read_request
from receiver.transfer import Context, Store, Transfer, wait_for_close

log = logs.get(__name__)

_LAST_WORD_SECONDS = 2.0
# An A-ASSOCIATE-RQ of 128 contexts with dozens of transfer syntaxes is far below.
_LONGEST_REQUEST = 1024 * 1024
# A request becomes ten times as much memory while it is read, so that of large ones one is read at a time. What real
# senders propose is smaller, and never waits.
_LARGE_REQUEST = 64 * 1024

_one_large_request = threading.Lock()
_complaints = logs.OncePer(60)

Foreign = Callable[[int, list[bytes]], None]


class Scp(Protocol):
    """Who decides about associations."""

    def admit(self, proposal: Proposal, peer: str, /) -> Rejection | None:
        """Admit an association (None), which then must `leave`, or say how it is rejected."""

    def leave(self) -> None:
        """An association that was admitted is over."""

    def store_for(self, proposal: Proposal, peer: str, foreign: Foreign, /) -> Store:
        """Who takes its instances; `foreign` serves its other requests."""


class Association:
    """A connection that may become an association; `serve` it in a thread of its own.

    Args:
        connection: accepted; with TLS, its handshake is still to come.
        peer: its address, as `plain_address` gives it.
        config: the section [receiver].
        scp: decides about it.

    Attributes:
        dropped: its connection was ended by us to make room.
    """

    def __init__(self, connection: socket.socket, peer: str, config: ReceiverConfig, scp: Scp) -> None:
        self._connection = connection
        self._peer = peer
        self._config = config
        self._scp = scp
        self._transfer: Transfer | None = None
        self.dropped = False

    @property
    def admitted(self) -> bool:
        """Whether it has a place among max_associations."""
        return self._transfer is not None

    def disconnect(self) -> None:
        """End the connection; its thread notices by itself."""
        # The method of the plain socket: SSLSocket.shutdown would forget its TLS state while others use it.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def abort(self) -> None:
        """Abort the association if there is one (A-ABORT)."""
        if self._transfer is not None:
            self._transfer.abort()

    def serve(self) -> None:
        """Serve the connection to its end, and close it."""
        deadline = time.monotonic() + self._config.acse_timeout_seconds
        try:
            if self._shake_hands():
                self._associate(deadline)
        except Exception:
            log.exception("association ended: unforeseen error", peer=self._peer)
        finally:
            self.disconnect()
            with contextlib.suppress(OSError):
                self._connection.close()

    def _associate(self, deadline: float) -> None:
        negotiated = self._negotiate(deadline)
        if negotiated is None:
            return
        proposal, contexts, acceptance = negotiated
        rejection = self._scp.admit(proposal, self._peer)
        if rejection is not None:
            self._say_last(encode_reject(rejection))
            return
        try:
            self._transfer_data(proposal, contexts, acceptance)
        finally:
            self._scp.leave()

    def _negotiate(self, deadline: float) -> tuple[Proposal, dict[int, Context], bytes] | None:
        """What is still needed of the request, the accepted contexts, and what is said if it is admitted.

        None if there is no request that can be understood, and the peer got its answer to that. An association may
        last for long: neither the request nor what is refused of it is kept.
        """
        request = self._read_request(deadline)
        if request is None:
            return None
        try:
            with _one_large_request if len(request) > _LARGE_REQUEST else contextlib.nullcontext():
                proposal = Proposal.parse(request)
                decisions = decide(proposal)
                contexts = {
                    decision.id: Context(decision.abstract_syntax, decision.transfer_syntax)
                    for decision in decisions
                    if decision.result is Result.ACCEPTANCE
                }
                return proposal.settled(), contexts, encode_accept(proposal, decisions, self._config.max_pdu)
        except ProtocolError as error:
            self._complain("association aborted: its request cannot be understood", error)
            self._say_last(encode_abort(error.reason))
            return None

    def _shake_hands(self) -> bool:
        """The TLS handshake, if there is to be one, within the ACSE timeout."""
        if isinstance(self._connection, ssl.SSLSocket):
            try:
                self._connection.settimeout(self._config.acse_timeout_seconds)
                self._connection.do_handshake()
            except (OSError, ValueError) as error:
                self._complain("TLS handshake failed", error)
                return False
        return True

    def _read_request(self, deadline: float) -> bytearray | None:
        """The body of the request; None if there is none, and the peer got its answer to that."""
        longest = max(_LONGEST_REQUEST, 2 * self._config.max_pdu)
        try:
            return read_request(self._connection, longest, deadline)
        except ProtocolError as error:
            self._complain("connection ended: the peer broke the protocol", error)
            self._say_last(encode_abort(error.reason))
        except TimeoutError:
            # Closed without a word (PS3.8 9.2.3, AA-2).
            self._complain("connection given up", "the peer took too long to request an association")
        except OSError:
            pass  # the peer is gone, or was dropped
        return None

    def _transfer_data(self, proposal: Proposal, contexts: Mapping[int, Context], acceptance: bytes) -> None:
        """Accept the association and serve it to its end."""
        config, peer = self._config, self._peer
        services: ForeignServices | None = None

        def serve_foreign(context_id: int, fragments: list[bytes]) -> None:
            nonlocal services
            if services is None:
                services = ForeignServices(proposal, peer, config.ae_title, contexts, weak)
            services.serve(context_id, fragments)

        self._connection.settimeout(config.network_timeout_seconds)
        store = self._scp.store_for(proposal, peer, serve_foreign)
        transfer = Transfer(self._connection, contexts, config.max_pdu, store)
        # The transfer knows its store, and that serve_foreign: in a cycle its buffers would outlive the association
        # until the garbage collector comes.
        weak = weakref.proxy(transfer)
        # From here on it can be aborted, so that a stop never finds an association without a word for its peer.
        self._transfer = transfer
        try:
            transfer.send(acceptance)
        except OSError:
            return
        transfer.run()

    def _say_last(self, pdu: bytes) -> None:
        with contextlib.suppress(OSError):
            self._connection.settimeout(_LAST_WORD_SECONDS)
            self._connection.sendall(pdu)
            wait_for_close(self._connection)

    def _complain(self, text: str, reason: object) -> None:
        """Say once a minute for each peer what it does wrong; not of a connection that we ended ourselves."""
        if not self.dropped and _complaints.ready((text, self._peer)):
            log.warning(text, peer=self._peer, reason=reason)
