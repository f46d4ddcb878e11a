"""The console as a DICOM peer of our own receiver: C-ECHO and C-STORE, over TLS where the receiver has it.

Of TLS: the receiver's certificate itself is what is trusted, since it is its own file that we compare with; where the
receiver asks for one, its own is shown, or another that was named.
"""

import contextlib
import logging
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, build_context

from common.config import ReceiverConfig
from common.errors import InstanceError, StowgateError
from common.instance import is_uid
from common.part10 import read_part10

VERIFICATION = "1.2.840.10008.1.1"
MOST_CONTEXTS = 128  # presentation contexts of an association (PS3.8 9.3.2.2: odd IDs up to 255)

_REJECTED = frozenset((1, 2))  # for good, for now (PS3.8 Table 9-21)
_WORDS = {
    0x0000: "stored",
    0x0117: "refused: invalid SOP Instance UID",
    0x0122: "refused: SOP Class not supported",
    0xA700: "refused: out of resources",
    0xA900: "refused: the dataset does not match its SOP Class or Instance UID",
    0xC000: "refused: the dataset cannot be understood",
}

# What is sent are the bytes of the file, not what pydicom makes of them.
_config.STORE_SEND_CHUNKED_DATASET = True


class PeerError(StowgateError):
    """The receiver cannot be spoken to.

    Attributes:
        answered: something accepted the connection.
    """

    def __init__(self, text: str, *, answered: bool) -> None:
        super().__init__(text)
        self.answered = answered


@dataclass(frozen=True, slots=True)
class Caller:
    """Who we say we are.

    Attributes:
        ae_title: the calling AE title; empty: one that the receiver accepts.
        certificate: of ours, PEM; None: the receiver's own.
        key: of that certificate.
    """

    ae_title: str = ""
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """A file to be sent, and the presentation context that it needs."""

    path: Path
    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Stored:
    """How the receiver answered to a C-STORE; `status` is None if it did not."""

    status: int | None
    text: str


def address(config: ReceiverConfig) -> str:
    """Where a process of this machine reaches the receiver."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(config.host, config.host)  # noqa: S104


def identify(path: Path) -> Instance:
    """What a file needs.

    Raises:
        InstanceError: it is no storable instance.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        instance = read_part10(file, path.stat().st_size)
    return Instance(path, instance.sop_class_uid, instance.transfer_syntax_uid)


def echo(config: ReceiverConfig, seconds: float) -> None:
    """C-ECHO (PS3.7 9.1.5).

    Raises:
        PeerError: it was not answered, or not with success.
    """
    with associated(config, Caller(), [build_context(VERIFICATION)], seconds) as association:
        status = association.send_c_echo()
        if status.get("Status") != 0:
            raise PeerError("the C-ECHO was not answered with success", answered=True)


def store(association: Association, instance: Instance) -> Stored:
    """C-STORE (PS3.7 9.1.1) of one file. Nothing is raised for one file."""
    try:
        answer = association.send_c_store(instance.path)
    except (ValueError, AttributeError, RuntimeError, OSError, InstanceError) as error:
        # pynetdicom's words on contexts that were not accepted, and on file meta that it misses.
        reason = "the presentation context was not accepted" if isinstance(error, ValueError) else type(error).__name__
        return Stored(None, f"not sent: {reason}")
    if "Status" not in answer:
        return Stored(None, "not answered: the connection broke")
    status = int(answer.Status)
    text = _WORDS.get(status, "refused" if status & 0xF000 != 0xB000 else "stored with a warning")
    comment = str(answer.get("ErrorComment", ""))
    return Stored(status, f"{text} ({comment})" if comment else text)


@contextlib.contextmanager
def associated(
    config: ReceiverConfig, caller: Caller, contexts: Sequence[PresentationContext], seconds: float
) -> Iterator[Association]:
    """An association with the receiver, released at the end.

    Args:
        config: section [receiver].
        caller: who we say we are.
        contexts: what is proposed.
        seconds: how long each step of it may take.

    Raises:
        PeerError: it is not established.
    """
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it says it all again, with a peer's values
    entity = AE(ae_title=caller.ae_title or _accepted_title(config))
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = seconds
    association = entity.associate(
        address(config),
        config.port,
        contexts=list(contexts),
        ae_title=config.ae_title,
        tls_args=_tls(config, caller),
    )
    if not association.is_established:
        raise _failure(config, association)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def contexts_of(instances: Sequence[Instance]) -> list[PresentationContext]:
    """One presentation context for each SOP class in each transfer syntax, so that nothing is converted."""
    pairs = dict.fromkeys((one.sop_class_uid, one.transfer_syntax_uid) for one in instances)
    return [build_context(sop_class, syntax) for sop_class, syntax in pairs if is_uid(sop_class)]


def _accepted_title(config: ReceiverConfig) -> str:
    return next(iter(config.allowed_calling_ae_titles), "STOWGATE-CHECK")


def _failure(config: ReceiverConfig, association: Association) -> PeerError:
    where = f"{address(config)} port {config.port}"
    # pynetdicom takes a rejection that comes at once for a connection that is refused, and leaves it where it was.
    answer = association.acceptor.primitive or association.dul.receive_pdu()
    if isinstance(answer, A_ASSOCIATE) and answer.result in _REJECTED:
        return PeerError(
            f"the receiver at {where} rejected the association: {answer.reason_str} ({answer.result},"
            f" {answer.result_source}, {answer.diagnostic})",
            answered=True,
        )
    return PeerError(f"expected a receiver at {where} that accepts an association, found none", answered=False)


def _tls(config: ReceiverConfig, caller: Caller) -> tuple[ssl.SSLContext, str] | None:
    if config.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # By address, not by name; and the very certificate, whoever issued it.
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(config.tls_certificate)
        if caller.certificate is not None:
            context.load_cert_chain(caller.certificate, caller.key, password="")
        elif config.tls_client_ca is not None:
            context.load_cert_chain(config.tls_certificate, config.tls_key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise PeerError(f"expected certificates and keys that can be used, found: {reason}", answered=False) from error
    return context, address(config)
