"""Negotiation (PS3.8 9.3.2 to 9.3.4, PS3.7 D.3.3): the parser, the decisions, and pynetdicom's beside ours."""

import struct
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import build_context, negotiate_as_acceptor

from common.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from receiver import negotiation
from receiver.admission import DISK_FULL, LIMIT, Rejection
from receiver.contexts import VERIFICATION, is_storage, preferred
from receiver.negotiation import (
    APPLICATION_CONTEXT,
    APPLICATION_CONTEXT_NOT_SUPPORTED,
    VERSION_NOT_SUPPORTED,
    Proposal,
    ProposedContext,
    Result,
    decide,
    encode_accept,
    encode_reject,
    unsupported,
)
from receiver.pdu import INVALID_PARAMETER, ProtocolError

EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4.50"
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PRIVATE = "1.2.826.0.1.3680043.10.1"
MAX_PDU = 131072

Contexts = Iterable[tuple[int, str, Iterable[str]]]


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def context_item(number: int, *sub_items: bytes) -> bytes:
    return item(0x20, bytes((number, 0, 0, 0)) + b"".join(sub_items))


def proposed(number: int, abstract: str, syntaxes: Iterable[str]) -> bytes:
    return context_item(number, item(0x30, abstract.encode()), *(item(0x40, uid.encode()) for uid in syntaxes))


def role_item(uid: str, scu: int, scp: int) -> bytes:
    return item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))


def fixed(
    called: bytes = b"STOWGATE", calling: bytes = b"PEER", version: int = 1, reserved: bytes = bytes(32)
) -> bytes:
    return struct.pack(">H2x", version) + called.ljust(16) + calling.ljust(16) + reserved


APPLICATION_ITEM = item(0x10, APPLICATION_CONTEXT.encode())
USER_ITEM = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4"))
CT_ITEM = proposed(1, CT, [EXPLICIT])


def body(contexts: Contexts = ((1, CT, (EXPLICIT,)),), roles: Mapping[str, tuple[bool, bool]] | None = None) -> bytes:
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4")
    user += b"".join(role_item(uid, *each) for uid, each in (roles or {}).items())
    return fixed() + APPLICATION_ITEM + b"".join(proposed(*each) for each in contexts) + item(0x50, user)


# The parser

uids = st.builds(lambda tail: "1.2." + tail, st.text("0123456789", min_size=1, max_size=60))
ae_titles = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\"), min_size=1, max_size=16
).filter(str.strip)
odd = st.integers(0, 127).map(lambda number: 2 * number + 1)
# Item types that are neither of PS3.8 nor of PS3.7.
unknown_items = st.builds(item, st.integers(0x60, 0xFF), st.binary(max_size=20))


@st.composite
def proposals(draw: st.DrawFn) -> tuple[bytes, Proposal]:
    """The body of a request, with unknown items and sub-items anywhere, and what it says."""

    def strewn(parts: Iterable[bytes]) -> bytes:
        return b"".join(part + b"".join(draw(st.lists(unknown_items, max_size=1))) for part in parts)

    called, calling = draw(ae_titles), draw(ae_titles)
    reserved = draw(st.binary(min_size=32, max_size=32))
    numbers = draw(st.lists(odd, min_size=1, max_size=8, unique=True))
    contexts = tuple(
        ProposedContext(number, draw(uids), tuple(draw(st.lists(uids, min_size=1, max_size=5)))) for number in numbers
    )
    roles = draw(st.dictionaries(uids, st.tuples(st.booleans(), st.booleans()), max_size=3))
    max_pdu = draw(st.integers(0, 0xFFFFFFFF))
    version = draw(st.sampled_from([1, 3, 0xFFFF]))
    user = strewn([item(0x51, struct.pack(">I", max_pdu)), *(role_item(uid, *each) for uid, each in roles.items())])
    items = [
        item(0x10, APPLICATION_CONTEXT.encode()),
        *(
            context_item(
                one.id,
                strewn([item(0x30, one.abstract_syntax.encode())]),
                strewn(item(0x40, uid.encode()) for uid in one.transfer_syntaxes),
            )
            for one in contexts
        ),
        item(0x50, user),
    ]
    content = fixed(called.encode(), calling.encode(), version, reserved)
    expected = Proposal(
        version,
        content[4:],
        called.strip(),
        calling.strip(),
        APPLICATION_CONTEXT,
        contexts,
        roles,
        max_pdu,
    )
    return content + strewn(items), expected


@settings(max_examples=200, deadline=None)
@given(proposals())
def test_a_request_is_read_as_it_was_written(case: tuple[bytes, Proposal]) -> None:
    """Everything that is negotiated comes out again, whatever unknown items stand between (PS3.8 9.3.1)."""
    content, expected = case
    assert Proposal.parse(content) == expected


def test_ae_titles_padded_with_zeros_are_read() -> None:
    """Some devices fill with zeros instead of spaces (PS3.8 Table 9-11); the answer repeats what they wrote."""
    content = (
        fixed(b"STOWGATE\0\0\0\0\0\0\0\0", b"CT 1\0\0\0\0 \0\0\0\0\0\0\0") + APPLICATION_ITEM + CT_ITEM + USER_ITEM
    )
    parsed = Proposal.parse(content)
    assert (parsed.called_ae_title, parsed.calling_ae_title) == ("STOWGATE", "CT 1")
    assert content[4:68] in encode_accept(parsed, decide(parsed), 16384)


@pytest.mark.parametrize("title", [b"CT-1\0EVIL", b"\0CT-1", b"\0 CT-1", b"CT-1 \0 X"])
def test_a_zero_before_or_inside_an_ae_title_is_no_padding(title: bytes) -> None:
    """Where one program ends the title there and another reads on, an allow-list means two things."""
    with pytest.raises(ProtocolError):
        Proposal.parse(fixed(b"STOWGATE", title) + APPLICATION_ITEM + CT_ITEM + USER_ITEM)


@settings(max_examples=30, deadline=None)
@given(proposals())
def test_a_request_that_is_cut_is_malformed_or_shorter(case: tuple[bytes, Proposal]) -> None:
    """Cut after any byte: ProtocolError, or, between two items, a request with fewer of them; nothing else."""
    content, whole = case
    for end in range(len(content)):
        try:
            parsed = Proposal.parse(content[:end])
        except ProtocolError:
            continue
        assert parsed.contexts == whole.contexts[: len(parsed.contexts)]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_proposal_or_a_protocol_error(content: bytes, headed: bool) -> None:  # noqa: FBT001
    """Whatever comes, nothing but ProtocolError is raised; also behind a fixed part that is well-formed."""
    try:
        parsed = Proposal.parse(fixed() + content if headed else content)
    except ProtocolError:
        return
    assert encode_accept(parsed, decide(parsed), MAX_PDU)


@settings(max_examples=300, deadline=None)
@given(proposals(), st.data())
def test_a_damaged_request_is_a_proposal_or_a_protocol_error(case: tuple[bytes, Proposal], data: st.DataObject) -> None:
    """Any bytes of it changed, lengths and types among them."""
    content = bytearray(case[0])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = Proposal.parse(content)
    except ProtocolError:
        return
    accept = A_ASSOCIATE_AC()
    accept.decode(encode_accept(parsed, decide(parsed), MAX_PDU))
    assert [each.context_id for each in accept.presentation_context] == [each.id for each in parsed.contexts]


def lying(kind: int, content: bytes, by: int) -> bytes:
    return struct.pack(">BxH", kind, len(content) + by) + content


@pytest.mark.parametrize("by", [1, 4, 0x4000])
@pytest.mark.parametrize(
    "make",
    [
        lambda by: lying(0x20, CT_ITEM[4:], by),
        lambda by: CT_ITEM + lying(0x10, b"1.2", by),
        lambda by: CT_ITEM + lying(0x77, b"unknown", by),
        lambda by: context_item(1, lying(0x30, CT.encode(), by)) + USER_ITEM * 1000,
        lambda by: context_item(1, item(0x30, CT.encode()), lying(0x40, EXPLICIT.encode(), by)) + USER_ITEM * 1000,
        lambda by: context_item(1, CT_ITEM[8:], lying(0x77, b"unknown", by)) + USER_ITEM * 1000,
        lambda by: CT_ITEM + item(0x50, lying(0x51, bytes(4), by)) + USER_ITEM * 1000,
        lambda by: CT_ITEM + item(0x50, lying(0x52, b"1.2", by)) + USER_ITEM * 1000,
        lambda by: CT_ITEM + item(0x50, lying(0x54, role_item(CT, 1, 0)[4:], by)) + USER_ITEM * 1000,
        lambda by: CT_ITEM + item(0x50, item(0x54, struct.pack(">H", 3 + by) + b"1.2\1\0")) + USER_ITEM * 1000,
        lambda by: CT_ITEM + item(0x50, item(0x54, struct.pack(">H", 3) + b"1.2\1\0" + bytes(by))),
    ],
    ids=[
        "context",
        "application context",
        "unknown item",
        "abstract syntax",
        "transfer syntax",
        "unknown sub-item of a context",
        "maximum length",
        "implementation class",
        "role",
        "UID of a role",
        "more than a role",
    ],
)
def test_an_item_must_end_within_what_contains_it(make: object, by: int) -> None:
    """A length that reaches beyond its container is malformed, though the request goes on behind it."""
    with pytest.raises(ProtocolError) as caught:
        Proposal.parse(fixed() + make(by))  # type: ignore[operator]
    assert caught.value.reason == INVALID_PARAMETER


@pytest.mark.parametrize(
    "content",
    [
        b"",
        fixed()[:-1],
        fixed(),
        fixed() + APPLICATION_ITEM + USER_ITEM,
        fixed() + proposed(2, CT, [EXPLICIT]),
        fixed() + proposed(0, CT, [EXPLICIT]),
        fixed() + CT_ITEM + CT_ITEM,
        fixed() + CT_ITEM + proposed(1, MR, [EXPLICIT]),
        fixed() + proposed(1, CT, []),
        fixed() + proposed(1, CT, [""]),
        fixed() + proposed(1, CT, ["\0 "]),
        fixed() + proposed(1, "", [EXPLICIT]),
        fixed() + context_item(1, item(0x40, EXPLICIT.encode())),
        fixed() + context_item(1, item(0x30, CT.encode()), item(0x30, MR.encode()), item(0x40, EXPLICIT.encode())),
        fixed() + context_item(1, item(0x30, b"1.2.\xff"), item(0x40, EXPLICIT.encode())),
        fixed() + context_item(1, item(0x30, CT.encode()), item(0x40, b"\x80")),
        fixed() + item(0x20, b"\1\0\0"),
        fixed() + CT_ITEM + item(0x50, item(0x51, bytes(3))),
        fixed() + CT_ITEM + item(0x50, item(0x54, b"")),
        fixed() + CT_ITEM + item(0x50, item(0x54, b"\0")),
        fixed() + CT_ITEM + item(0x50, role_item(CT, 2, 0)),
        fixed() + CT_ITEM + item(0x50, role_item(CT, 0, 0xFF)),
        fixed() + CT_ITEM + b"\0\0\0",
        fixed(called=b" ") + CT_ITEM,
        fixed(calling=b" ") + CT_ITEM,
        fixed(calling=bytes(16)) + CT_ITEM,
        fixed(calling=b"A\\B") + CT_ITEM,
        fixed(called=b"A\x1bB") + CT_ITEM,
        fixed(called=b"\xc4") + CT_ITEM,
    ],
    ids=[
        "nothing",
        "fixed part cut",
        "fixed part only",
        "no context",
        "even context ID",
        "context ID 0",
        "context twice",
        "context ID twice",
        "no transfer syntax",
        "empty transfer syntax",
        "padding for a transfer syntax",
        "empty abstract syntax",
        "no abstract syntax",
        "two abstract syntaxes",
        "abstract syntax not ASCII",
        "transfer syntax not ASCII",
        "context of three bytes",
        "maximum length of three bytes",
        "empty role",
        "role of one byte",
        "SCU role 2",
        "SCP role 255",
        "half an item header",
        "no called AE title",
        "no calling AE title",
        "zeros for an AE title",
        "backslash in an AE title",
        "control character in an AE title",
        "AE title not ASCII",
    ],
)
def test_a_malformed_request_is_told(content: bytes) -> None:
    """It is malformed as a whole, and the A-ABORT has the reason invalid PDU parameter value (PS3.8 Table 9-26)."""
    with pytest.raises(ProtocolError) as caught:
        Proposal.parse(content)
    assert caught.value.reason == INVALID_PARAMETER


@pytest.mark.parametrize("padding", ["\0", " ", "\0\0", " \0"])
def test_padding_of_uids_does_not_count(padding: str) -> None:
    """Some pad UIDs to an even length here too, though they should not (PS3.8 Annex F)."""
    parsed = Proposal.parse(fixed() + proposed(1, CT + padding, [IMPLICIT + padding]))
    assert parsed.contexts == (ProposedContext(1, CT, (IMPLICIT,)),)


def test_a_request_may_leave_out_what_has_a_default() -> None:
    """Without user information there is no limit to a PDU, and no role."""
    parsed = Proposal.parse(fixed() + CT_ITEM)
    assert (parsed.max_pdu, parsed.roles, parsed.application_context) == (0, {}, "")


def test_the_most_contexts_that_there_can_be() -> None:
    """128 contexts with a hundred transfer syntaxes each, and one of nearly 64 KB."""
    many = [(2 * number + 1, f"1.2.3.{number}", [f"1.2.4.{each}" for each in range(100)]) for number in range(127)]
    long = (255, CT, ["9" * 65_000])
    parsed = Proposal.parse(body([*many, long]))
    decisions = decide(parsed)
    assert [decision.result for decision in decisions] == [Result.ACCEPTANCE] * 127 + [
        Result.TRANSFER_SYNTAXES_NOT_SUPPORTED
    ]
    accept = A_ASSOCIATE_AC()
    accept.decode(encode_accept(parsed, decisions[:127], MAX_PDU))
    assert len(accept.presentation_context) == 127
    assert len(encode_accept(parsed, decisions, MAX_PDU)) < 10_000


def test_what_is_read_once_is_bounded() -> None:
    """Contexts that peers propose do not grow memory without bound, however many or long they are."""
    known = negotiation._read_syntaxes_once
    for number in range(3000):
        Proposal.parse(body([(1, f"1.2.{number}", [EXPLICIT])]))
    assert known.cache_info().currsize == known.cache_info().maxsize
    known.cache_clear()
    Proposal.parse(body([(1, CT, ["1.2"] * 500)]))
    assert known.cache_info().currsize == 0


def test_two_associations_do_not_share_what_was_read_once() -> None:
    """The same syntaxes under another ID are another context."""
    first, second = (Proposal.parse(body([(number, CT, [JPEG, EXPLICIT])])) for number in (1, 3))
    assert [one.contexts[0].id for one in (first, second)] == [1, 3]
    assert first.contexts[0].transfer_syntaxes == second.contexts[0].transfer_syntaxes == (JPEG, EXPLICIT)


# Rejection


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (fixed() + APPLICATION_ITEM + CT_ITEM, None),
        (fixed(version=3) + APPLICATION_ITEM + CT_ITEM, None),
        (fixed(version=0) + APPLICATION_ITEM + CT_ITEM, VERSION_NOT_SUPPORTED),
        (fixed(version=2) + b"laid out in another way", VERSION_NOT_SUPPORTED),
        (fixed() + item(0x10, b"1.2.840.10008.3.1.1.1\0") + CT_ITEM, None),
        (fixed() + item(0x10, b"1.2.840.10008.3.1.1.2") + CT_ITEM, APPLICATION_CONTEXT_NOT_SUPPORTED),
        (fixed() + CT_ITEM, APPLICATION_CONTEXT_NOT_SUPPORTED),
    ],
    ids=[
        "ours",
        "a newer version that is also ours",
        "no version",
        "another version",
        "padded",
        "another application",
        "none",
    ],
)
def test_another_protocol_or_application_is_rejected(content: bytes, expected: Rejection | None) -> None:
    """Of the version only bit 0 is looked at, and nothing else of a request without it (PS3.8 Table 9-11)."""
    assert unsupported(Proposal.parse(content)) == expected


@pytest.mark.parametrize(
    ("rejection", "numbers"),
    [
        (VERSION_NOT_SUPPORTED, (1, 2, 2)),
        (APPLICATION_CONTEXT_NOT_SUPPORTED, (1, 1, 2)),
        (DISK_FULL, (2, 3, 1)),
        (LIMIT, (2, 3, 2)),
    ],
)
def test_a_rejection_is_read_by_pynetdicom(rejection: Rejection, numbers: tuple[int, int, int]) -> None:
    """PS3.8 9.3.4 and Table 9-21."""
    pdu = A_ASSOCIATE_RJ()
    pdu.decode(encode_reject(rejection))
    assert (pdu.result, pdu.source, pdu.reason_diagnostic) == numbers
    assert pdu.encode() == encode_reject(rejection)


# Decisions


def results(contexts: Contexts, roles: Mapping[str, tuple[bool, bool]] | None = None) -> dict[int, tuple[Result, str]]:
    parsed = Proposal.parse(body(contexts, roles))
    return {decision.id: (decision.result, decision.transfer_syntax) for decision in decide(parsed)}


def test_each_context_is_decided_by_itself() -> None:
    """One abstract syntax in several contexts has as many choices; what is refused echoes the first proposal."""
    assert results(
        [
            (1, CT, [JPEG, EXPLICIT]),
            (3, CT, [EXPLICIT, JPEG]),
            (5, CT, [IMPLICIT, EXPLICIT]),
            (7, CT, ["no.syntax"]),
            (9, MR, [IMPLICIT]),
            (11, VERIFICATION, [IMPLICIT]),
            (13, FIND, [IMPLICIT, EXPLICIT]),
            (15, PRIVATE, [BIG_ENDIAN]),
            (17, "no.uid", [EXPLICIT]),
        ]
    ) == {
        1: (Result.ACCEPTANCE, JPEG),
        3: (Result.ACCEPTANCE, EXPLICIT),
        5: (Result.ACCEPTANCE, EXPLICIT),
        7: (Result.TRANSFER_SYNTAXES_NOT_SUPPORTED, "no.syntax"),
        9: (Result.ACCEPTANCE, IMPLICIT),
        11: (Result.ACCEPTANCE, IMPLICIT),
        13: (Result.ABSTRACT_SYNTAX_NOT_SUPPORTED, IMPLICIT),
        15: (Result.ACCEPTANCE, BIG_ENDIAN),
        17: (Result.ABSTRACT_SYNTAX_NOT_SUPPORTED, EXPLICIT),
    }


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (None, Result.ACCEPTANCE),
        ((True, False), Result.ACCEPTANCE),
        ((True, True), Result.ACCEPTANCE),
        ((False, True), Result.USER_REJECTION),
        ((False, False), Result.USER_REJECTION),
    ],
)
def test_a_peer_must_be_scu(roles: tuple[bool, bool] | None, expected: Result) -> None:
    """We send nothing, so a class of which the peer would not be SCU is refused, and only that (PS3.7 D.3.3.4)."""
    found = results([(1, CT, [EXPLICIT]), (3, MR, [EXPLICIT])], {CT: roles} if roles else {})
    assert [result for result, _ in found.values()] == [expected, Result.ACCEPTANCE]


def test_an_acceptance_byte_for_byte() -> None:
    """PS3.8 9.3.3: reserved fields come back as they came, one result for each context, roles where proposed."""
    content = fixed(b"  CALLED", b"CALLING ", 1, bytes(range(32)))
    content += APPLICATION_ITEM + proposed(1, CT, [IMPLICIT, EXPLICIT]) + proposed(3, FIND, [IMPLICIT])
    content += item(0x50, item(0x51, bytes(4)) + role_item(CT, 1, 1) + role_item(FIND, 1, 0) + role_item(MR, 1, 0))
    parsed = Proposal.parse(content)
    expected = struct.pack(">H2x", 1) + b"  CALLED        " + b"CALLING         " + bytes(range(32))
    expected += APPLICATION_ITEM
    expected += item(0x21, b"\1\0\0\0" + item(0x40, EXPLICIT.encode()))
    expected += item(0x21, b"\3\0\3\0" + item(0x40, IMPLICIT.encode()))
    user = item(0x51, struct.pack(">I", MAX_PDU)) + item(0x52, IMPLEMENTATION_CLASS_UID.encode())
    user += role_item(CT, 1, 0) + item(0x55, IMPLEMENTATION_VERSION_NAME.encode())
    expected += item(0x50, user)
    assert encode_accept(parsed, decide(parsed), MAX_PDU) == struct.pack(">BxI", 2, len(expected)) + expected


# Beside pynetdicom

ABSTRACT = [CT, MR, VERIFICATION, FIND, PRIVATE, "2.25.1", "1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.5"]
TRANSFER = [IMPLICIT, EXPLICIT, BIG_ENDIAN, JPEG, "1.2.840.10008.1.2.1.99", "1.2.826.0.1.3680043.10.2", CT]


@st.composite
def requests(draw: st.DrawFn) -> A_ASSOCIATE:
    """A request as pynetdicom makes it: contexts, roles, and what we do not negotiate."""
    request = A_ASSOCIATE()
    request.application_context_name = APPLICATION_CONTEXT
    request.calling_ae_title = draw(st.sampled_from(["PEER", "CT 1", "X" * 16]))
    request.called_ae_title = draw(st.sampled_from(["STOWGATE", "ANY-SCP"]))
    contexts = []
    for number in draw(st.lists(odd, min_size=1, max_size=128, unique=True)):
        syntaxes = draw(st.lists(st.sampled_from(TRANSFER), min_size=1, max_size=5, unique=True))
        contexts.append(build_context(draw(st.sampled_from(ABSTRACT)), syntaxes))
        contexts[-1].context_id = number
    request.presentation_context_definition_list = contexts
    length = MaximumLengthNotification()
    length.maximum_length_received = draw(st.sampled_from([0, 16384, 0xFFFFFFFF]))
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = "1.2.3.4"
    request.user_information = [length, implementation]
    for uid in draw(st.lists(st.sampled_from(ABSTRACT), max_size=4, unique=True)):
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid = uid
        role.scu_role, role.scp_role = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
        request.user_information.append(role)
    request.user_information += draw(st.lists(st.sampled_from(extras()), max_size=5, unique_by=type))
    return request


def extras() -> list[object]:
    """Items of the user information that we neither use nor answer (PS3.7 D.3.3)."""
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = "PEER 1.0"
    operations = AsynchronousOperationsWindowNegotiation()
    operations.maximum_number_operations_invoked = operations.maximum_number_operations_performed = 5
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = CT, b"\2\0\3\0\1\0"
    common = SOPClassCommonExtendedNegotiation()
    common.sop_class_uid, common.service_class_uid = PRIVATE, "1.2.840.10008.4.2"
    common.related_general_sop_class_identification = [CT]
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field, identity.secondary_field = 2, b"user", b"passcode"
    identity.positive_response_requested = True
    return [version, operations, extended, common, identity]


@settings(max_examples=150, deadline=None)
@given(requests())
def test_pynetdicom_decides_alike_and_reads_our_answer(request_: A_ASSOCIATE) -> None:
    """The same result, transfer syntax and roles for each context, and an A-ASSOCIATE-AC that says so."""
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request_)
    parsed = Proposal.parse(pdu.encode()[6:])
    assert unsupported(parsed) is None
    assert (parsed.calling_ae_title, parsed.called_ae_title) == (request_.calling_ae_title, request_.called_ae_title)
    assert parsed.max_pdu == request_.user_information[0].maximum_length_received

    roles = {
        one.sop_class_uid: (one.scu_role, one.scp_role)
        for one in request_.user_information
        if isinstance(one, SCP_SCU_RoleSelectionNegotiation)
    }
    expected, expected_roles = {}, {}
    for context in request_.presentation_context_definition_list:
        uid, choice = str(context.abstract_syntax), preferred([str(each) for each in context.transfer_syntax])
        supported = build_context(uid, [choice] if choice else [])
        if choice is None:
            supported.transfer_syntax = []
        supported.scu_role, supported.scp_role = True, False
        # Each by itself: pynetdicom knows one order of transfer syntaxes for all contexts of a SOP class.
        (theirs,), replied = negotiate_as_acceptor(
            [context], [supported] if uid == VERIFICATION or is_storage(uid) else [], roles
        )
        expected[theirs.context_id] = theirs.result, str(theirs.transfer_syntax[0])
        expected_roles.update({str(one.sop_class_uid): (one.scu_role, one.scp_role) for one in replied})

    decisions = decide(parsed)
    assert {one.id: (one.result, one.transfer_syntax) for one in decisions} == expected
    accept = A_ASSOCIATE_AC()
    accept.decode(encode_accept(parsed, decisions, MAX_PDU))
    answer = accept.to_primitive()
    assert {
        one.context_id: (one.result, str(one.transfer_syntax[0]))
        for one in answer.presentation_context_definition_results_list
    } == expected
    user = answer.user_information
    assert {
        str(one.sop_class_uid): (one.scu_role, one.scp_role)
        for one in user
        if isinstance(one, SCP_SCU_RoleSelectionNegotiation)
    } == expected_roles
    assert [one.maximum_length_received for one in user if isinstance(one, MaximumLengthNotification)] == [MAX_PDU]
    assert len(user) == 3 + len(expected_roles)
    assert (answer.calling_ae_title, answer.called_ae_title) == (request_.calling_ae_title, request_.called_ae_title)
    assert answer.application_context_name == APPLICATION_CONTEXT


def test_the_differential_meets_every_result() -> None:
    """What is compared above can come out in each way."""
    cases = {
        Result.ACCEPTANCE: results([(1, CT, [EXPLICIT])]),
        Result.USER_REJECTION: results([(1, CT, [EXPLICIT])], {CT: (False, True)}),
        Result.ABSTRACT_SYNTAX_NOT_SUPPORTED: results([(1, FIND, [EXPLICIT])]),
        Result.TRANSFER_SYNTAXES_NOT_SUPPORTED: results([(1, CT, [CT])]),
    }
    assert {expected: found[1][0] for expected, found in cases.items()} == {each: each for each in Result}
