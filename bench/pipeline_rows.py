"""The rows of the table of the whole pipeline: what is measured, of whom, and what is aimed for."""

import time
from collections.abc import Callable, Mapping

from bench import posting, samples, scu, senders
from bench.archives import (
    DicomWebOrthanc,
    ForwardingOrthanc,
    NullArchive,
    OrthancPerInstance,
    OrthancStableStudies,
    OrthancToPeer,
    StoreScpExec,
)
from bench.deliver_rows import BATCH, CURL, FLOOR
from bench.measuring import OURS, Bench, Measure, Row, Shared, Target, even_out, percentile
from bench.peers import BenchError, Floor, Stowgate
from bench.uploading import LeastUploader, Uploader, fill

PER_INSTANCE = "orthanc-instances"
STABLE = "orthanc-studies"
EXEC = "storescp-exec"
TO_PEER = "orthanc-peer"
_FORWARDERS: Mapping[str, type[ForwardingOrthanc | StoreScpExec]] = {
    PER_INSTANCE: OrthancPerInstance,
    TO_PEER: OrthancToPeer,
    STABLE: OrthancStableStudies,
    EXEC: StoreScpExec,
}
PEERS = (CURL, FLOOR, *_FORWARDERS)
_SAMPLES = {"ct": samples.CT, "small": samples.SMALL}
_WARMING = range(800_000_000, 800_000_010)
_LOOK_SECONDS = 0.1
_STUCK_SECONDS = 60.0
_GAP_SECONDS = 0.1
_IDLE_FIRST = 10  # the first ones, which find caches cold and connections closed, are not counted


def absence(peer: str, row: Row) -> str | None:
    """Why a peer cannot take part in a row; None if it can."""
    if row.name.startswith("idle"):
        return None
    if reason := DicomWebOrthanc.missing():
        return reason
    if peer == CURL or row.name.endswith("waiting"):
        return posting.curl_missing() if peer == CURL else None
    if reason := senders.missing():
        return reason
    if peer == EXEC and (reason := posting.curl_missing()):
        return reason
    return _FORWARDERS[peer].missing() if peer in _FORWARDERS else None


def _stored_at(archive: DicomWebOrthanc, count: int) -> float:
    """Wait until so many instances are in its index; when that was, seconds of the system's clock.

    Raises:
        BenchError: nothing has been added for a minute.
    """
    last, changed = -1, time.time()
    while True:
        found, now = archive.stored(), time.time()
        if found >= count:
            return now
        if found != last:
            last, changed = found, now
        if now - changed > _STUCK_SECONDS:
            raise BenchError(f"expected {count} instances at Orthanc, found {found}, and none came for a minute")
        time.sleep(_LOOK_SECONDS)


def _check(archive: DicomWebOrthanc, expected: int) -> None:
    found = archive.stored() - len(_WARMING)
    if found != expected:
        raise BenchError(f"expected {expected} instances at Orthanc, found {found}")


def _ready(archive: DicomWebOrthanc, port: int, size_bytes: int) -> None:
    """Warm up who forwards, and Orthanc, by a few short associations; then let the disk come to rest."""
    scu.short_associations(port, samples.SMALL, _WARMING, contexts=1)
    _stored_at(archive, len(_WARMING))
    even_out(size_bytes)


def _by_curl(bench: Bench, archive: DicomWebOrthanc, kind: str, count: int) -> float:
    """Seconds in which curl posts ready-made bodies."""
    bodies = bench.library.bodies(kind, _SAMPLES[kind], count, BATCH)
    _ready(archive, archive.port, count * _SAMPLES[kind].file_bytes)
    posted = posting.curl(archive.url, bodies, bench.scratch)
    _check(archive, count)
    return posted.ended - posted.begun


def _waiting(kind: str) -> Measure:
    """Instances a second into Orthanc, of files that wait in incoming/."""
    sample = _SAMPLES[kind]

    def measure(bench: Bench, peer: str, count: int) -> float:
        with DicomWebOrthanc(bench.folder(), nodelay=True) as archive:
            if peer == CURL:
                return count / _by_curl(bench, archive, kind, count)
            uploader = (LeastUploader if peer == FLOOR else Uploader)(bench.folder(), archive.url)
            fill(bench, uploader.spool, sample, count)
            _ready(archive, archive.port, count * sample.file_bytes)
            with uploader:
                seconds = uploader.wait_until_empty() - uploader.begun()
            _check(archive, count)
            return count / seconds

    return measure


def _arriving(kind: str) -> Measure:
    """Instances a second from dcmsend into Orthanc, from the first that is sent to the last that is there."""

    def measure(bench: Bench, peer: str, count: int) -> float:
        with DicomWebOrthanc(bench.folder(), nodelay=True) as archive:
            if peer == CURL:
                return count / _by_curl(bench, archive, kind, count)
            forward = _by_pipeline(peer) if peer in {OURS, FLOOR} else _by_forwarder(peer)
            return count / forward(bench, archive, kind, count)

    return measure


def _by_pipeline(peer: str) -> Callable[[Bench, DicomWebOrthanc, str, int], float]:
    """Seconds from the first instance that dcmsend sends to the last deletion, receiver and uploader at work.

    They are ours, or those that do the least that they must.
    """

    def forward(bench: Bench, archive: DicomWebOrthanc, kind: str, count: int) -> float:
        files = bench.library.files(kind, _SAMPLES[kind], count)
        with (Floor if peer == FLOOR else Stowgate)(bench.folder(), nodelay=True) as receiver:
            uploader = (
                LeastUploader(bench.folder(), archive.url, incoming=receiver.folder / "store")
                if peer == FLOOR
                else Uploader(bench.folder(), archive.url, spool=receiver.folder / "spool")
            )
            with uploader:
                _ready(archive, receiver.port, 2 * count * _SAMPLES[kind].file_bytes)
                sending = senders.send(receiver.port, files, bench.scratch, nodelay=True)
                ended = uploader.wait_until_empty()
        _check(archive, count)
        return ended - sending.begun

    return forward


def _by_forwarder(peer: str) -> Callable[[Bench, DicomWebOrthanc, str, int], float]:
    """The same for a peer, to the moment at which Orthanc's index has all."""

    def forward(bench: Bench, archive: DicomWebOrthanc, kind: str, count: int) -> float:
        files = bench.library.files(kind, _SAMPLES[kind], count)
        with _FORWARDERS[peer](bench.folder(), archive.url, max_pdu=bench.peer_pdu) as forwarder:
            _ready(archive, forwarder.port, count * _SAMPLES[kind].file_bytes)
            sending = senders.send(forwarder.port, files, bench.scratch, nodelay=True)
            ended = _stored_at(archive, count + len(_WARMING))
            _check(archive, count)
        return ended - sending.begun

    return forward


def _idle(bench: Bench, count: int) -> Mapping[str, float]:
    """Milliseconds from a C-STORE response to the last byte of its instance at the archive, one at a time."""
    sample = samples.CT
    with (
        NullArchive(bench.folder()) as archive,  # the receiver's file meta information has a length of its own
        Stowgate(bench.folder(), nodelay=True) as receiver,
        Uploader(bench.folder(), archive.url, spool=receiver.folder / "spool") as uploader,
    ):
        even_out(2 * count * sample.file_bytes)
        answered = {}
        with scu.Association(receiver.port, scu.proposal(sample.sop_class_uid, 1)) as association:
            for number in range(count + _IDLE_FIRST):
                association.store(scu.message(sample, number, association.max_pdu))
                answered[samples.uid(number)] = time.monotonic()
                time.sleep(_GAP_SECONDS)
            association.release()
        uploader.wait_until_empty()
        requests = archive.check(count + _IDLE_FIRST)
    arrived = {uid: request.ended for request in requests for uid in request.uids}
    delays = [1000 * (arrived[uid] - moment) for uid, moment in list(answered.items())[_IDLE_FIRST:]]
    return {"p50": percentile(delays, 50), "p99": percentile(delays, 99)}


_IDLE = Shared(_idle)
_PER_SECOND = "instances/s"
_ALL = (OURS, *PEERS)
_TARGETS = (Target(CURL, 0.6), Target(PER_INSTANCE, 10), Target(STABLE, 2), Target(EXEC, 1.5))
_SHARE = {PER_INSTANCE: 0.04, TO_PEER: 0.5, STABLE: 0.5, EXEC: 0.5}

ROWS = (
    Row(
        "ct-waiting", "CT waiting in incoming/, to Orthanc", _PER_SECOND,
        _waiting("ct"), 800, (OURS, CURL, FLOOR), (Target(CURL, 0.9),),
    ),
    Row(
        "small-waiting", "15 kB waiting in incoming/, to Orthanc", _PER_SECOND,
        _waiting("small"), 3000, (OURS, CURL, FLOOR), (Target(CURL, 0.9),),
    ),
    Row(
        "ct", "CT, dcmsend to Orthanc", _PER_SECOND,
        _arriving("ct"), 800, _ALL, _TARGETS, _SHARE,
    ),
    Row(
        "small", "15 kB, dcmsend to Orthanc", _PER_SECOND,
        _arriving("small"), 3000, _ALL, _TARGETS, {PER_INSTANCE: 0.01, TO_PEER: 0.25, STABLE: 0.25, EXEC: 0.25},
    ),
    Row(
        "idle-p50", "idle: C-STORE response to archive, p50", "ms",
        _IDLE.row({OURS: "p50"}), 200, (OURS,), (Target(None, 50),),
    ),
    Row(
        "idle-p99", "idle: C-STORE response to archive, p99", "ms",
        _IDLE.row({OURS: "p99"}), 200, (OURS,), (Target(None, 250),),
    ),
)  # fmt: skip
