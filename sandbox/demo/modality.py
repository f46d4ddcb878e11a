"""The device of the demo: a Storage SCU that sends the samples, and asks by C-ECHO whether the receiver is there."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from sandbox.demo.samples import Sample

AE_TITLE = "DEMO-MODALITY"
_CONNECT_SECONDS = 5
_ANSWER_SECONDS = 20


def configure() -> None:
    """Set pynetdicom's options, which are those of the whole process."""
    # The bytes of the file go out as they are; otherwise pynetdicom would read and write every data element anew.
    _config.STORE_SEND_CHUNKED_DATASET = True
    # What goes wrong is told by what we return.
    logging.getLogger("pynetdicom").addHandler(logging.NullHandler())
    logging.getLogger("pynetdicom").propagate = False


@dataclass(frozen=True)
class Answer:
    """What became of one C-STORE.

    Attributes:
        status: of the response; None if there was none.
        text: what there is to say about it.
        began_at: when the request was begun, UTC.
        ended_at: when the answer was there, or was not to be expected any more.
    """

    status: int | None
    text: str
    began_at: datetime
    ended_at: datetime

    @property
    def success(self) -> bool:
        """Whether the receiver has taken the instance over."""
        return self.status == 0x0000


def echo(receiver: tuple[str, int], called_ae_title: str) -> bool:
    """Tell whether a C-ECHO is answered 0x0000."""
    entity = _entity()
    entity.add_requested_context(Verification)
    with _associated(entity, receiver, called_ae_title) as association:
        if not association.is_established:
            return False
        return getattr(association.send_c_echo(), "Status", None) == 0x0000


def store(
    samples: Iterable[tuple[Sample, Path]], receiver: tuple[str, int], called_ae_title: str
) -> Iterator[tuple[Sample, Answer]]:
    """Send instances, one after the other, over one association.

    Args:
        samples: each with the file that holds it.
        receiver: address and port.
        called_ae_title: of the receiver.

    Yields:
        Each sample with the answer to it, as soon as it is there.
    """
    samples = list(samples)
    entity = _entity()
    for sop_class, transfer_syntax in dict.fromkeys((s.sop_class_uid, s.transfer_syntax_uid) for s, _ in samples):
        entity.add_requested_context(sop_class, transfer_syntax)
    with _associated(entity, receiver, called_ae_title) as association:
        for sample, path in samples:
            yield sample, _sent(association, path)


def _entity() -> AE:
    entity = AE(AE_TITLE)
    entity.connection_timeout = _CONNECT_SECONDS
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _ANSWER_SECONDS
    return entity


@contextlib.contextmanager
def _associated(entity: AE, receiver: tuple[str, int], called_ae_title: str) -> Iterator[Association]:
    association = entity.associate(*receiver, ae_title=called_ae_title)
    try:
        yield association
        if association.is_established:
            association.release()
    finally:
        if association.is_established:
            association.abort()


def _sent(association: Association, path: Path) -> Answer:
    began_at = datetime.now(UTC)
    status = None
    if not association.is_established:
        text = "the receiver did not accept the association, or broke it off"
    else:
        try:
            response = association.send_c_store(path)
        except (RuntimeError, ValueError) as error:
            text = str(error)
        else:
            status = getattr(response, "Status", None)
            comment = getattr(response, "ErrorComment", "")
            text = "the receiver gave no answer" if status is None else f"the receiver answered 0x{status:04X}"
            text += f" ({comment})" if comment else ""
    return Answer(status, text, began_at, datetime.now(UTC))
