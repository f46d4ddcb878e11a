"""Negotiating an association: A-ASSOCIATE-RQ in, A-ASSOCIATE-AC or -RJ out (PS3.8 9.3.2 to 9.3.4, PS3.7 D.3.3).

Pure: bytes in, bytes out. Every length is checked against what contains it, and a request that is malformed as a
whole raises ProtocolError. Items and sub-items that are not known are skipped (PS3.8 9.3.1); of the user information,
the peer's maximum length and its roles are read. Nothing else is negotiated, so nothing else is answered.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

from common.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from receiver.admission import Rejection
from receiver.contexts import VERIFICATION, is_storage, preferred
from receiver.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, ProtocolError

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

# By the service provider (ACSE), and by the service user (PS3.8 Table 9-21).
VERSION_NOT_SUPPORTED = Rejection(1, 2, 2, "the protocol version is not supported", "protocol-version")
APPLICATION_CONTEXT_NOT_SUPPORTED = Rejection(
    1, 1, 2, "the application context is not supported", "application-context"
)

_VERSION_1 = 1  # bit 0; the others are for versions to come (PS3.8 Table 9-11)
_FIXED_BYTES = 68
_APPLICATION_CONTEXT, _CONTEXT_RQ, _CONTEXT_AC, _USER_INFORMATION = 0x10, 0x20, 0x21, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_MAXIMUM_LENGTH, _IMPLEMENTATION_CLASS, _ROLES, _IMPLEMENTATION_VERSION = 0x51, 0x52, 0x54, 0x55
_ITEM_HEADER = struct.Struct(">BxH")
_KEPT = 1024  # contents of presentation contexts that are read once, of at most so many bytes
_KEPT_BYTES = 1024
_UID_CHARACTERS = 64


class Result(IntEnum):
    """What became of a proposed presentation context (PS3.8 Table 9-18)."""

    ACCEPTANCE = 0
    """It may be used."""
    USER_REJECTION = 1
    """The peer would be SCP only, and we send nothing."""
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    """It is neither Verification nor storage."""
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4
    """No transfer syntax that is proposed is one."""


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context of a request: its ID, and at least one transfer syntax in the order of the peer."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a proposed presentation context is answered; the transfer syntax counts only if it is accepted."""

    id: int
    result: Result
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an A-ASSOCIATE-RQ says (PS3.8 9.3.2, PS3.7 D.3.3).

    Attributes:
        version: the field Protocol-version.
        echoed: the 64 bytes that the answer repeats as they came: both AE titles, and a reserved field.
        called_ae_title: without padding.
        calling_ae_title: without padding.
        application_context: empty if the request has none.
        contexts: the proposed presentation contexts in their order.
        roles: for SOP classes with a role selection, whether the peer would be (SCU, SCP).
        max_pdu: the longest P-DATA-TF that the peer takes, in bytes without its header; 0 for any.
    """

    version: int
    echoed: bytes
    called_ae_title: str
    calling_ae_title: str
    application_context: str
    contexts: tuple[ProposedContext, ...]
    roles: Mapping[str, tuple[bool, bool]]
    max_pdu: int

    @classmethod
    def parse(cls, body: bytes | bytearray) -> "Proposal":
        """Read the body of an A-ASSOCIATE-RQ: what follows its length.

        Of another protocol version only the fixed part is read, since its items may be laid out differently.

        Raises:
            ProtocolError: it is malformed.
        """
        if len(body) < _FIXED_BYTES:
            raise ProtocolError(f"expected an A-ASSOCIATE-RQ of at least {_FIXED_BYTES} bytes, found {len(body)}")
        (version,) = struct.unpack_from(">H", body)
        application_context = ""
        contexts: dict[int, ProposedContext] = {}
        user = _UserInformation()
        for kind, value in _items(bytes(body[_FIXED_BYTES:])) if version & _VERSION_1 else ():
            if kind == _CONTEXT_RQ:
                context = _read_context(value)
                if context.id in contexts:
                    raise ProtocolError(f"expected presentation context IDs of their own, found {context.id} twice")
                contexts[context.id] = context
            elif kind == _APPLICATION_CONTEXT:
                application_context = _uid(value)
            elif kind == _USER_INFORMATION:
                user.read(value)
        if version & _VERSION_1 and not contexts:
            raise ProtocolError("expected at least one presentation context, found none")
        return cls(
            version,
            bytes(body[4:_FIXED_BYTES]),
            _ae_title(body[4:20], "called"),
            _ae_title(body[20:36], "calling"),
            application_context,
            tuple(contexts.values()),
            user.roles,
            user.max_pdu,
        )

    def settled(self) -> "Proposal":
        """The same without contexts and roles, which may be a megabyte and are not needed once they are answered."""
        return replace(self, contexts=(), roles={})


class _UserInformation:
    """What we read of the user information item (PS3.8 9.3.2.3, D.1, PS3.7 D.3.3.4)."""

    def __init__(self) -> None:
        self.max_pdu = 0
        self.roles: dict[str, tuple[bool, bool]] = {}

    def read(self, data: bytes) -> None:
        for kind, value in _items(data):
            if kind == _MAXIMUM_LENGTH:
                if len(value) != 4:
                    raise ProtocolError(f"expected a maximum length of 4 bytes, found {len(value)}")
                (self.max_pdu,) = struct.unpack(">I", value)
            elif kind == _ROLES:
                self._read_roles(value)

    def _read_roles(self, value: bytes) -> None:
        length = int.from_bytes(value[:2], "big")
        if len(value) != 2 + length + 2 or max(value[-2:]) > 1:
            raise ProtocolError("expected a role selection of a SOP class and two roles of 0 or 1")
        self.roles[_uid(value[2:-2])] = bool(value[-2]), bool(value[-1])


def unsupported(proposal: Proposal) -> Rejection | None:
    """The rejection of a request that is for another protocol or application than ours (PS3.8 Table 9-21)."""
    if not proposal.version & _VERSION_1:
        return VERSION_NOT_SUPPORTED
    if proposal.application_context != APPLICATION_CONTEXT:
        return APPLICATION_CONTEXT_NOT_SUPPORTED
    return None


def decide(proposal: Proposal) -> list[Decision]:
    """Decide on each proposed presentation context by itself, in their order."""
    return [_decide(context, proposal.roles.get(context.abstract_syntax)) for context in proposal.contexts]


def _decide(context: ProposedContext, roles: tuple[bool, bool] | None) -> Decision:
    # With a refusal the transfer syntax says nothing (PS3.8 9.3.3.2): so much of it that an answer stays small.
    uid, first = context.abstract_syntax, context.transfer_syntaxes[0][:_UID_CHARACTERS]
    if uid != VERIFICATION and not is_storage(uid):
        return Decision(context.id, Result.ABSTRACT_SYNTAX_NOT_SUPPORTED, uid, first)
    transfer_syntax = preferred(context.transfer_syntaxes)
    if transfer_syntax is None:
        return Decision(context.id, Result.TRANSFER_SYNTAXES_NOT_SUPPORTED, uid, first)
    # Without a role selection the peer is SCU (PS3.7 D.3.3.4).
    if roles is not None and not roles[0]:
        return Decision(context.id, Result.USER_REJECTION, uid, transfer_syntax)
    return Decision(context.id, Result.ACCEPTANCE, uid, transfer_syntax)


def encode_accept(proposal: Proposal, decisions: Iterable[Decision], max_pdu: int) -> bytes:
    """The A-ASSOCIATE-AC that answers a request (PS3.8 9.3.3).

    Args:
        proposal: the request.
        decisions: on its presentation contexts.
        max_pdu: the longest P-DATA-TF that we take, in bytes without its header.
    """
    items = [_item(_APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode())]
    accepted = set()
    for decision in decisions:
        syntax = _item(_TRANSFER_SYNTAX, decision.transfer_syntax.encode())
        items.append(_item(_CONTEXT_AC, struct.pack("BxBx", decision.id, decision.result) + syntax))
        if decision.result is Result.ACCEPTANCE:
            accepted.add(decision.abstract_syntax)
    user = [
        _item(_MAXIMUM_LENGTH, struct.pack(">I", max_pdu)),
        _item(_IMPLEMENTATION_CLASS, IMPLEMENTATION_CLASS_UID.encode()),
        # A role is answered where it was proposed: the peer is SCU, and not SCP as well.
        *(
            _item(_ROLES, struct.pack(">H", len(uid)) + uid.encode() + b"\1\0")
            for uid in sorted(accepted & proposal.roles.keys())
        ),
        _item(_IMPLEMENTATION_VERSION, IMPLEMENTATION_VERSION_NAME.encode()),
    ]
    items.append(_item(_USER_INFORMATION, b"".join(user)))
    body = struct.pack(">Hxx", _VERSION_1) + proposal.echoed + b"".join(items)
    return struct.pack(">BxI", A_ASSOCIATE_AC, len(body)) + body


def encode_reject(rejection: Rejection) -> bytes:
    """An A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return struct.pack(">BxIxBBB", A_ASSOCIATE_RJ, 4, rejection.result, rejection.source, rejection.diagnostic)


def _read_context(data: bytes) -> ProposedContext:
    """Read the content of a presentation context item (PS3.8 9.3.2.2)."""
    if len(data) < 4 or data[0] % 2 == 0:
        raise ProtocolError("expected a presentation context with an odd ID")
    syntaxes = data[4:]
    read = _read_syntaxes_once if len(syntaxes) <= _KEPT_BYTES else _read_syntaxes
    return ProposedContext(data[0], *read(syntaxes))


def _read_syntaxes(data: bytes) -> tuple[str, tuple[str, ...]]:
    """The abstract syntax and the transfer syntaxes of a proposed context."""
    abstract_syntaxes = []
    transfer_syntaxes = []
    for kind, value in _items(data):
        if kind == _TRANSFER_SYNTAX:
            transfer_syntaxes.append(_uid(value))
        elif kind == _ABSTRACT_SYNTAX:
            abstract_syntaxes.append(_uid(value))
    proposed = tuple(filter(None, transfer_syntaxes))
    if len(abstract_syntaxes) != 1 or not abstract_syntaxes[0] or not proposed:
        raise ProtocolError("expected an abstract syntax and transfer syntaxes in each presentation context")
    return abstract_syntaxes[0], proposed


# Senders propose the same contexts in each of their associations.
_read_syntaxes_once = lru_cache(_KEPT)(_read_syntaxes)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and the content of each item or sub-item."""
    at, end = 0, len(data)
    while at < end:
        if at + 4 > end:
            raise ProtocolError("expected an item, found the end of what contains it")
        kind, length = _ITEM_HEADER.unpack_from(data, at)
        at += 4
        if at + length > end:
            raise ProtocolError(f"expected an item within what contains it, found a length of {length}")
        yield kind, data[at : at + length]
        at += length


def _item(kind: int, content: bytes) -> bytes:
    return _ITEM_HEADER.pack(kind, len(content)) + content


def _uid(value: bytes) -> str:
    """A UID without the padding that some write though there should be none (PS3.8 Annex F)."""
    try:
        return value.strip(b"\0 ").decode("ascii")
    except UnicodeDecodeError as error:
        raise ProtocolError("expected a UID of ASCII characters") from error


def _ae_title(field: bytes | bytearray, name: str) -> str:
    """The title without its padding: spaces, and behind it also NULs, which some devices fill with.

    A NUL before or inside a title ends the association: one program would read on there, another would not.
    """
    try:
        title = field.decode("ascii").rstrip("\0 ").lstrip(" ")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"expected a {name} AE title of ASCII characters") from error
    if not title or not title.isprintable() or "\\" in title:
        raise ProtocolError(f"expected a {name} AE title of printable characters without a backslash (PS3.5 6.2)")
    return title
