"""How a real receiver ends the data-transfer phase: connections are closed, however it came to its end."""

import os
import socket
import struct
import time
from collections.abc import Callable

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from receiver_wire import (
    ABORT,
    CLOSED,
    COMMAND_LAST,
    CT_EXPLICIT,
    DATA,
    DATASET_LAST,
    RELEASE_RP,
    Context,
    RawSender,
    encoded,
    identity,
    pdu,
    pdv,
    serves,
    store_command,
)

from support.pipeline import Pipeline, Process, wait_for


@pytest.fixture
def receiver(make_pipeline: Callable[..., Pipeline]) -> tuple[Pipeline, Process]:
    """A receiver and its process."""
    pipeline = make_pipeline("http://127.0.0.1:9", receiver={"max_associations": 8, "network_timeout_seconds": 5})
    return pipeline, pipeline.start("receiver")


def sockets(process: Process) -> int:
    folder = f"/proc/{process.popen.pid}/fd"
    count = 0
    for name in os.listdir(folder):
        try:
            count += os.readlink(f"{folder}/{name}").startswith("socket:")
        except FileNotFoundError:
            continue
    return count


def foreign(command_field: int) -> bytes:
    command = store_command(CTImageStorage, generate_uid(), has_dataset=False, field=command_field)
    return pdu(DATA, pdv(1, COMMAND_LAST, command))


def test_connections_are_closed_when_associations_end(receiver: tuple[Pipeline, Process]) -> None:
    """Released, aborted, cut off and broken associations, more than are allowed at once: none leaves a socket open."""
    pipeline, process = receiver
    before = sockets(process)
    for number in range(60):
        with RawSender(pipeline.port) as sender:
            sender.associate()
            if number % 4 == 0:
                assert sender.release() == RELEASE_RP
            elif number % 4 == 1:
                sender.send(pdu(ABORT, bytes(4)))
            elif number % 4 == 2:
                sender.send(pdu(0x99, bytes(4)))
                assert sender.receive()[0] == ABORT
    wait_for(lambda: sockets(process) == before, 10, "as many sockets as before")
    assert serves(pipeline.port)


def test_we_close_when_the_peer_does_not(receiver: tuple[Pipeline, Process]) -> None:
    """After A-RELEASE-RP and after our A-ABORT the connection is closed soon, though the peer keeps it open."""
    pipeline, _ = receiver
    for farewell, answer in ((pdu(0x05, bytes(4)), RELEASE_RP), (pdu(0x99, bytes(4)), ABORT)):
        with RawSender(pipeline.port) as sender:
            sender.associate()
            sender.send(farewell)
            began = time.monotonic()
            assert sender.receive()[0] == answer
            assert sender.receive()[0] == CLOSED
            assert time.monotonic() - began < 4


def test_an_abort_reaches_a_peer_that_is_still_sending(receiver: tuple[Pipeline, Process]) -> None:
    """Unread bytes of the peer do not turn our A-ABORT into a reset of the connection."""
    pipeline, _ = receiver
    with RawSender(pipeline.port) as sender:
        sender.associate()
        sender.send(pdu(0x99, bytes(4)) + bytes(1 << 20))
        sender.socket.shutdown(socket.SHUT_WR)
        assert sender.receive() == (ABORT, bytes((0, 0, 2, 1)))


@pytest.mark.parametrize("field", [0x0000, 0x0020, 0x7777, 0xFFFF], ids="{:04X}".format)
def test_a_request_that_nobody_serves_ends_the_association(receiver: tuple[Pipeline, Process], field: int) -> None:
    """C-FIND and fields that do not exist get an A-ABORT, not silence; others are served."""
    pipeline, _ = receiver
    with RawSender(pipeline.port) as sender:
        sender.associate()
        sender.send(foreign(field))
        began = time.monotonic()
        assert sender.receive()[0] == ABORT
        assert time.monotonic() - began < 3
    assert serves(pipeline.port)


def test_a_request_that_cannot_be_read_ends_the_association(receiver: tuple[Pipeline, Process]) -> None:
    """A C-FIND with a priority that does not exist gets an A-ABORT, not silence."""
    pipeline, _ = receiver
    command = store_command(CTImageStorage, generate_uid(), has_dataset=False, field=0x0020)
    priority = struct.pack("<HHI", 0, 0x0700, 2)
    assert priority + b"\0\0" in command
    with RawSender(pipeline.port) as sender:
        sender.associate()
        sender.send(pdu(DATA, pdv(1, COMMAND_LAST, command.replace(priority + b"\0\0", priority + b"\x09\0"))))
        began = time.monotonic()
        assert sender.receive()[0] == ABORT
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("dataset", [b"", b"x" * 5000], ids=len)
def test_what_pynetdicom_serves_is_answered_on_the_same_association(
    receiver: tuple[Pipeline, Process], dataset: bytes
) -> None:
    """A C-ECHO that announces a dataset is none of ours: pynetdicom answers it, then a C-STORE is taken."""
    pipeline, _ = receiver
    verification: Context = (3, "1.2.840.10008.1.1", [ExplicitVRLittleEndian])
    echo = store_command("1.2.840.10008.1.1", None, number=77, field=0x0030)
    uid = generate_uid()
    with RawSender(pipeline.port) as sender:
        sender.associate(CT_EXPLICIT, verification)
        for _ in range(3):
            sender.send(pdu(DATA, pdv(3, COMMAND_LAST, echo)) + pdu(DATA, pdv(3, DATASET_LAST, dataset)))
            response = sender.response()
            assert [int.from_bytes(response[number], "little") for number in (0x0100, 0x0120, 0x0900)] == [
                0x8030,
                77,
                0,
            ]
        assert sender.store(CTImageStorage, uid, encoded(identity(CTImageStorage, uid))) == 0
        assert sender.release() == RELEASE_RP


def test_what_arrives_with_the_acceptance_is_served(receiver: tuple[Pipeline, Process]) -> None:
    """A C-STORE sent the moment the acceptance is there, many times: none is lost between the two readers."""
    pipeline, _ = receiver
    for _ in range(40):
        uid = generate_uid()
        with RawSender(pipeline.port) as sender:
            sender.associate()
            command, dataset = store_command(CTImageStorage, uid), encoded(identity(CTImageStorage, uid))
            sender.send(pdu(DATA, pdv(1, COMMAND_LAST, command) + pdv(1, DATASET_LAST, dataset)))
            assert struct.unpack("<H", sender.response()[0x0900]) == (0,)
            assert sender.release() == RELEASE_RP
    assert len(pipeline.incoming()) == 40
