"""pynetdicom's service classes for the requests that the transfer does not serve itself. Nobody else knows pynetdicom.

An association is negotiated and served without pynetdicom. When the first request comes that is neither C-STORE nor
C-ECHO, an association of pynetdicom's is made that believes it was established. Its threads are never started: a
request is handed in by `serve`, in the thread of our association, and what it sends goes out through the transfer.

Contexts are accepted for Verification and storage only, so whoever sends such a request breaks what was negotiated, or
announces a C-ECHO with a dataset. It must cost neither a thread nor a line in the log: pynetdicom's own way in would
start a thread for each N-EVENT-REPORT, which answers when our association may be over, and what it cannot read it
quotes in its exceptions.

That reaches beyond pynetdicom's public interface. It is pinned, and tests/unit/receiver/test_pynetdicom_contract.py
says what changed if it moves. What is reached for:

- `Association._accepted_cx`: the presentation contexts, as a negotiation of pynetdicom's own would leave them.
- `DIMSEMessage.decode_msg`, `message_to_primitive`: put a request together from its fragments.
- `Association._serve_request`: finds the service class of a request and runs it.
- `Association._abort_blocking`: sends the A-ABORT; pynetdicom replaces `abort` by it in its instances.
- `DULServiceProvider.send_pdu`: where all that is sent leaves.
- `_config`: options of the whole process.
"""

import logging
from collections.abc import Mapping
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, _config
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import AddressInformation

from receiver.negotiation import Proposal
from receiver.pdu import ProtocolError
from receiver.transfer import Context, Transfer


def configure() -> None:
    """Set pynetdicom's process-wide options: nothing logged of what passes, no UID judged before we see it."""
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    # A UID that is too long would make the request one that cannot be read, rather than one that is refused.
    _config.VALIDATORS["UI"] = lambda _: (True, "")
    # Its records can quote what was sent, and a text withheld says nothing; what an operator needs is logged by us.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


class ForeignServices(Association):
    """What pynetdicom's service classes need of an association that we negotiated.

    Args:
        proposal: the request of the association.
        peer: the address it came from.
        ae_title: ours.
        contexts: the accepted presentation contexts by their ID.
        transfer: sends what they answer; a weak reference, since an association of pynetdicom is a cycle.
    """

    def __init__(
        self, proposal: Proposal, peer: str, ae_title: str, contexts: Mapping[int, Context], transfer: Transfer
    ) -> None:
        super().__init__(AE(ae_title), MODE_ACCEPTOR)
        self._transfer = transfer
        self._accepted_cx = {number: _accepted(number, context) for number, context in contexts.items()}
        self.acceptor.ae_title = ae_title
        self.requestor.ae_title = proposal.calling_ae_title
        self.requestor.address_info = AddressInformation(peer, 0)
        self.requestor.maximum_length = proposal.max_pdu
        self.is_established = True
        self.dul.send_pdu = self._send_primitive  # type: ignore[method-assign]

    def serve(self, context_id: int, fragments: list[bytes]) -> None:
        """Serve a request; what was not negotiated is aborted for, a response is passed over.

        Args:
            context_id: of the presentation context on which it came.
            fragments: command set and dataset, each with its message control header (PS3.8 E.2).

        Raises:
            ProtocolError: it is no request that pynetdicom can read, or it stumbles over it.
            OSError: the connection broke.
        """
        primitive: Any = P_DATA()  # whose annotation asks for tuples, and its code for lists
        primitive.presentation_data_value_list = [[context_id, fragment] for fragment in fragments]
        message = DIMSEMessage()
        try:
            if message.decode_msg(primitive, self):
                request: Any = message.message_to_primitive()
                self._serve_request(request, context_id)
                return
        except OSError:
            raise
        except Exception as error:
            raise ProtocolError("expected a request that can be served") from error
        raise ProtocolError("expected a whole request")

    def _abort_blocking(self, block: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002 - pynetdicom's signature
        """Abort the association (PS3.8 9.3.8). Not `abort`, which pynetdicom replaces by this one in its instances."""
        self._transfer.abort()

    def _send_primitive(self, primitive: Any) -> None:
        if isinstance(primitive, P_DATA):
            pdu = P_DATA_TF()
            pdu.from_primitive(primitive)
            self._transfer.send(pdu.encode())


def _accepted(number: int, context: Context) -> PresentationContext:
    accepted = build_context(UID(context.abstract_syntax), UID(context.transfer_syntax))
    accepted.context_id = number
    accepted.result = 0x00
    accepted._as_scu, accepted._as_scp = False, True
    return accepted
