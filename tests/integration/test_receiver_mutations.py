"""Recordings of real senders, damaged, into a real receiver: what it stores is what it acknowledges, and it goes on.

STOWGATE_FUZZ_STREAMS says how many (`make fuzz`: ten thousand), STOWGATE_FUZZ_SEED with which they begin.
"""

import hashlib
import logging
import os
import select
import socket
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from pydicom.data import get_testdata_file
from receiver_peer import Peer, instance
from receiver_recorder import Recorder

from support.dimse_mutations import Mutator, acknowledged, pdu_bounds, said
from support.looked_at import megabytes, needs
from support.pipeline import Pipeline, wait_for
from support.programs import dcmtk, needs_dcmtk

MakePipeline = Callable[..., Pipeline]

STREAMS = int(os.environ.get("STOWGATE_FUZZ_STREAMS", "300"))
FIRST_SEED = int(os.environ.get("STOWGATE_FUZZ_SEED", "1"))
MORE_MEMORY = 32  # MB; the receiver keeps what it found out about UIDs and presentation contexts
OTHERS_EVERY = 50
FILES = ["CT_small.dcm", "rtplan.dcm", "test-SR.dcm", "MR_small.dcm"]
PATIENTS = ("CompressedSamples", "Last^First", "Anon^Liver")


def recorded(pipeline: Pipeline, command: Sequence[str]) -> bytes:
    """What a program says to the receiver, in one stream."""
    recorder = Recorder(pipeline.port)
    subprocess.run([part.replace("PORT", str(recorder.port)) for part in command], check=True, timeout=60)
    return b"".join(recorder.recording())


def recordings(pipeline: Pipeline) -> list[bytes]:
    """dcmsend with several contexts, storescu in small PDUs, and a few C-ECHOs."""
    paths = [str(get_testdata_file(name, download=False)) for name in FILES]
    made = [
        recorded(pipeline, ["dcmsend", "127.0.0.1", "PORT", *paths]),
        recorded(pipeline, [dcmtk("storescu"), "-R", "--max-send-pdu", "4096", "127.0.0.1", "PORT", *paths[:2]]),
        recorded(pipeline, [dcmtk("echoscu"), "--repeat", "3", "127.0.0.1", "PORT"]),
    ]
    for path in pipeline.incoming():
        path.unlink()
    return made


def talk(port: int, stream: bytes, seconds: float = 30) -> bytes:
    """Say a stream whatever is answered, and give all answers; the receiver has to end it, once it is said."""
    answers = bytearray()
    deadline = time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.setblocking(False)
        rest: memoryview | None = memoryview(stream)
        while True:
            readable, writable, _ = select.select([connection], [connection] if rest is not None else [], [], 1)
            assert time.monotonic() < deadline, "the receiver did not end it"
            if readable:
                try:
                    piece = connection.recv(1 << 16)
                except ConnectionError:
                    return bytes(answers)
                if not piece:
                    return bytes(answers)
                answers += piece
            if writable and rest is not None:
                try:
                    rest = rest[connection.send(rest) :] if rest else None
                    if rest is None:
                        connection.shutdown(socket.SHUT_WR)
                except OSError:
                    rest = None


class Spool:
    """What a receiver stores, taken away as it comes, and held against its ledger at the end."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._known = {row.file_name for row in pipeline.rows()}
        self._taken: dict[str, tuple[str, int]] = {}

    def take(self) -> list[tuple[bytes, bytes]]:
        """SOP Instance UID and dataset of each file that has come."""
        taken = []
        for path in self._pipeline.incoming():
            content = path.read_bytes()
            assert content[128:132] == b"DICM"
            at = 144 + struct.unpack_from("<I", content, 140)[0]
            uid_at = content.index(b"\x02\0\x03\0UI", 0, at)
            (length,) = struct.unpack_from("<H", content, uid_at + 6)
            uid = content[uid_at + 8 : uid_at + 8 + length].rstrip(b"\0")
            self._taken[path.name] = uid.decode(), len(content)
            taken.append((uid, content[at:]))
            path.unlink()
        return taken

    def assert_agrees(self) -> None:
        """Each file had its row, and each row its file."""
        rows = {
            row.file_name: (row.sop_instance_uid, row.size_bytes)
            for row in self._pipeline.rows()
            if row.file_name not in self._known
        }
        assert rows == self._taken


def assert_truthful(stream: bytes, answers: bytes, stored: list[tuple[bytes, bytes]]) -> None:
    """What was stored is what was acknowledged, and what the stream said, byte for byte."""
    assert Counter(uid for uid, _ in stored) == Counter(acknowledged(answers))
    assert set(stored) <= said(stream)


@needs_dcmtk
@pytest.mark.timeout(120 + STREAMS // 5)
def test_what_a_damaged_stream_stores_is_what_it_is_told(
    make_pipeline: MakePipeline, record_property: Callable[[str, object], None]
) -> None:
    """Files, ledger and acknowledgements agree after each; others are served throughout, and nothing is left behind."""
    pipeline = make_pipeline("http://127.0.0.1:9/")
    pid = pipeline.start("receiver").popen.pid
    sources = recordings(pipeline)
    mutator = Mutator(sources)
    spool = Spool(pipeline)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with Peer(pipeline.port) as other:
        other.associate()
        # The sources as they are: three associations at least, and all that is in them.
        for source in sources:
            answers = talk(pipeline.port, source)
            assert_truthful(source, answers, spool.take())
            outcomes.update(acknowledged(answers) and ["stored whole"])
        wait_for(lambda: needs(pid).sockets == 2, what="the associations of the recordings to be over")
        before, memory = needs(pid), megabytes(pid)
        for seed in range(FIRST_SEED, FIRST_SEED + STREAMS):
            stream, how = mutator.mutated(seed)
            try:
                answers = talk(pipeline.port, stream)
                assert_truthful(stream, answers, spool.take())
            except AssertionError as error:
                digests = [hashlib.sha256(source).hexdigest()[:8] for source in sources]
                raise AssertionError(f"{how} (of {digests})") from error
            bounds = pdu_bounds(answers)
            outcomes["stored"] += len(acknowledged(answers))
            outcomes[f"ended by {answers[bounds[-1][0]]}" if bounds else "closed"] += 1
            if seed % OTHERS_EVERY == 0:
                begun = time.monotonic()
                dataset = instance()
                assert other.store(dataset).Status == 0x0000
                slowest = max(slowest, time.monotonic() - begun)
                assert [uid.decode() for uid, _ in spool.take()] == [dataset.SOPInstanceUID]
        wait_for(lambda: needs(pid) == before, what=f"{needs(pid)} to be {before} again")
        after = megabytes(pid)
        assert after < memory + MORE_MEMORY
        other.release()
    spool.assert_agrees()
    assert not pipeline.half_received()
    log = pipeline.logs()
    for word in ("Traceback", "unforeseen", "could not be taken", *PATIENTS):
        assert word not in log
    # That it was no exercise in being refused.
    assert outcomes["stored"] > STREAMS / 4
    assert outcomes["ended by 6"] > STREAMS / 20
    assert outcomes["ended by 7"] > STREAMS / 4
    summary = f"{dict(outcomes)}, memory {memory:.1f} to {after:.1f} MB, slowest C-STORE of another {slowest:.3f} s"
    record_property("found", summary)
    logging.getLogger(__name__).info("%s streams: %s", STREAMS, summary)
