"""Allow-lists against those who would slip through: titles and addresses in every spelling, on a real receiver."""

from collections.abc import Callable

import pytest
from receiver_wire import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    CT_EXPLICIT,
    RELEASE_RQ,
    RawSender,
    associate_request,
    pdu,
)

from support.pipeline import Pipeline

MakePipeline = Callable[..., Pipeline]

ADMITTED = (ASSOCIATE_AC, b"")
NOT_CALLED = (ASSOCIATE_RJ, b"\0\1\1\7")
NOT_CALLING = (ASSOCIATE_RJ, b"\0\1\1\3")
NO_TITLE = (ABORT, b"\0\0\2\6")

# What a peer writes into the 16 bytes of its title, where CT-1 and MR 2 may come in.
CALLING = {
    b"CT-1            ": ADMITTED,
    b"CT-1\0\0\0\0\0\0\0\0\0\0\0\0": ADMITTED,
    b"CT-1   \0\0\0\0\0\0\0\0\0": ADMITTED,
    b"            CT-1": ADMITTED,
    b"MR 2            ": ADMITTED,
    b"MR  2           ": NOT_CALLING,
    b"MR2             ": NOT_CALLING,
    b"ct-1            ": NOT_CALLING,
    b"CT-1,MR 2       ": NOT_CALLING,
    b"CT-12           ": NOT_CALLING,
    b"CT-             ": NOT_CALLING,
    b"*               ": NOT_CALLING,
    b"EVIL            ": NOT_CALLING,
    b"CT-1\0EVIL       ": NO_TITLE,
    b"EVIL\0CT-1       ": NO_TITLE,
    b"\0\0\0\0CT-1        ": NO_TITLE,
    b"CT-1\n           ": NO_TITLE,
    b"CT-1\t           ": NO_TITLE,
    b"CT-1\x1b[2K        ": NO_TITLE,
    b"CT-1\x7f           ": NO_TITLE,
    b"CT-1\\MR 2       ": NO_TITLE,
    b"\xc3\x87T-1           ": NO_TITLE,
    b"CT\xad-1           ": NO_TITLE,
    b"                ": NO_TITLE,
    bytes(16): NO_TITLE,
}
CALLED = {
    b"STOWGATE        ": ADMITTED,
    b"STOWGATE\0\0\0\0\0\0\0\0": ADMITTED,
    b"        STOWGATE": ADMITTED,
    b"stowgate        ": NOT_CALLED,
    b"STOWGATE2       ": NOT_CALLED,
    b"STOW GATE       ": NOT_CALLED,
    b"STOWGATE\0EVIL\0\0\0": NO_TITLE,
    b"\0STOWGATE       ": NO_TITLE,
}


def answer_to(
    port: int, *, called: bytes = b"STOWGATE        ", calling: bytes = b"CT-1            "
) -> tuple[int, bytes]:
    """What the receiver says to a request with these two fields; of an acceptance only that it is one."""
    assert len(called) == len(calling) == 16
    request = associate_request([CT_EXPLICIT])
    with RawSender(port) as sender:
        sender.send(request[:10] + called + calling + request[42:] + pdu(RELEASE_RQ, bytes(4)))
        kind, body = sender.receive()
        return (kind, b"") if kind == ASSOCIATE_AC else (kind, body)


def test_a_title_gets_in_only_as_it_is_written_in_the_list(make_pipeline: MakePipeline) -> None:
    """Padding does not count; case, inner spaces, and whatever hides behind a NUL or a control character do."""
    pipeline = make_pipeline(
        "http://127.0.0.1:9/", receiver={"allowed_calling_ae_titles": "CT-1, MR 2", "require_called_ae_title": "yes"}
    )
    pipeline.start("receiver")
    assert {title: answer_to(pipeline.port, calling=title) for title in CALLING} == CALLING
    assert {title: answer_to(pipeline.port, called=title) for title in CALLED} == CALLED
    log = pipeline.logs()
    assert "\x1b" not in log
    assert "\x7f" not in log
    assert pipeline.rows() == []


@pytest.mark.parametrize(
    ("allowed", "host", "comes_in"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.0/8", "127.0.0.1", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("::ffff:127.0.0.0/104", "127.0.0.1", True),
        ("::/0", "127.0.0.1", False),
        ("::1", "127.0.0.1", False),
        ("127.0.0.2", "127.0.0.1", False),
        ("::1", "::1", True),
        ("0.0.0.0/0", "::1", False),
        ("::ffff:0.0.0.0/96", "::1", False),
    ],
)
def test_an_address_is_the_same_in_each_spelling(
    make_pipeline: MakePipeline, allowed: str, host: str, *, comes_in: bool
) -> None:
    """On a socket for IPv4 and IPv6, an IPv4 peer is what its IPv4 address is, however the list spells that."""
    pipeline = make_pipeline("http://127.0.0.1:9/", receiver={"host": "::", "allowed_peers": allowed})
    pipeline.start("receiver")
    with RawSender(pipeline.port, host=host) as sender:
        sender.send(associate_request([CT_EXPLICIT]))
        assert sender.receive()[0] == (ASSOCIATE_AC if comes_in else ASSOCIATE_RJ)
