"""What a receiver process needs while it takes a large instance."""

import re
import struct
from collections.abc import Callable
from pathlib import Path

from pydicom.uid import CTImageStorage, generate_uid
from receiver_wire import (
    COMMAND_LAST,
    DATA,
    DATASET_LAST,
    STATUS,
    RawSender,
    encoded,
    identity,
    pdu,
    pdv,
    store_command,
)

from support.pipeline import Pipeline

SIZE = 300 * 1024 * 1024


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def test_a_large_instance_needs_no_more_memory_than_a_small_one(make_pipeline: Callable[..., Pipeline]) -> None:
    """An instance of 300 MB is stored whole; the process never had 96 MB."""
    pipeline = make_pipeline("http://127.0.0.1:9")
    receiver = pipeline.start("receiver")
    uid = generate_uid()
    head = encoded(identity(CTImageStorage, uid, PatientID="T1"))
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, SIZE)
    fragment = 128_000 - 6  # the default of [receiver] max_pdu
    body = bytes(fragment)
    with RawSender(pipeline.port, 60) as sender:
        sender.associate()
        sender.send(pdu(DATA, pdv(1, COMMAND_LAST, store_command(CTImageStorage, uid))))
        sender.send(pdu(DATA, pdv(1, 0, head + pixels)))
        whole, rest = divmod(SIZE, fragment)
        full = pdu(DATA, pdv(1, 0, body))
        for _ in range(whole):
            sender.send(full)
        sender.send(pdu(DATA, pdv(1, DATASET_LAST, body[:rest])))
        assert int.from_bytes(sender.response()[STATUS], "little") == 0
        sender.release()
    [path] = pipeline.incoming()
    assert path.stat().st_size > SIZE + len(head)
    assert peak_mb(receiver.popen.pid) < 96
