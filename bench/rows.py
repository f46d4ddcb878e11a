"""The rows of the table of receivers: what is measured, of whom, and what is aimed for."""

import contextlib
import os
from collections.abc import Iterator, Mapping

from bench import samples, scu, senders
from bench.measuring import OURS, Bench, Measure, Row, Target, even_out
from bench.peers import (
    BenchError,
    Discard,
    Floor,
    Orthanc,
    Peer,
    StockPynetdicom,
    StoreScp,
    StoreScpAlone,
    StoreScpLongPdu,
    Stowgate,
)
from bench.report import Result

DISK = "disk"
FLOOR = "floor"
LIMIT = "limit"
FRESH = "stowgate, 1,000th"
LONG_PDU = "storescp-128k"
PEERS: Mapping[str, type[Peer]] = {
    OURS: Stowgate,
    "orthanc": Orthanc,
    "storescp": StoreScp,
    LONG_PDU: StoreScpLongPdu,
    "pynetdicom": StockPynetdicom,
    "discard": Discard,
    FLOOR: Floor,
}
_WARMING = range(800_000_000, 800_000_010)


@contextlib.contextmanager
def receiver(
    bench: Bench, kind: type[Peer], *, nodelay: bool, processes: int = 1, size_bytes: int = 0
) -> Iterator[Peer]:
    """A fresh receiver, warmed up by a few associations, with what others wrote before it on the disk.

    Args:
        bench: the ground.
        kind: what is started.
        nodelay: whether TCP_NODELAY is set for it.
        processes: how many share the port.
        size_bytes: how much it is going to store.
    """
    with kind(bench.folder(), nodelay=nodelay, max_pdu=bench.peer_pdu, processes=processes) as peer:
        scu.short_associations(peer.port, samples.SMALL, _WARMING, contexts=1)
        even_out(size_bytes)
        yield peer


def add_limit(result: Result) -> None:
    """Derive the physical limit of each repetition: taking and throwing away, then writing durably."""
    takes, writes = result.values.get("discard", []), result.values.get(DISK, [])
    if takes and writes:
        result.values[LIMIT] = [1 / (1 / take + 1 / write) for take, write in zip(takes, writes, strict=False)]


def absence(peer: str, row: Row) -> str | None:
    """Why a peer cannot take part in a row; None if it can."""
    if row.name not in {"memory", "short", "growth"} and peer in PEERS and (reason := senders.missing()):
        return reason
    kind = PEERS.get(OURS if peer == FRESH else peer)
    return kind.missing() if kind else None


def _check(peer: Peer, expected: int) -> None:
    found = peer.stored()
    if found is not None and found != expected + len(_WARMING):
        raise BenchError(f"expected {expected} stored instances, found {found - len(_WARMING)}")


def _sent(kind: str, *, nodelay: bool, associations: int = 1, megabytes: bool = False) -> Measure:
    """Instances (or megabytes) a second from dcmsend."""
    sample = {"small": samples.SMALL, "ct": samples.CT, "large": samples.of_megabytes(100)}[kind]

    def measure(bench: Bench, peer: str, count: int) -> float:
        count = max(count, associations)
        files = bench.library.files(kind, sample, count)
        size_bytes = count * sample.file_bytes
        per_second = count * (sample.file_bytes / 1e6 if megabytes else 1)
        if peer == DISK:
            even_out(size_bytes)
            return per_second / senders.write_durably(bench.folder(), files)
        processes = 2 if associations > 1 and peer in {OURS, FLOOR} else 1
        with receiver(bench, PEERS[peer], nodelay=nodelay, processes=processes, size_bytes=size_bytes) as scp:
            seconds = senders.dcmsend(scp.port, files, bench.scratch, nodelay=nodelay, associations=associations)
            _check(scp, count)
        return per_second / seconds

    return measure


def _short(bench: Bench, peer: str, count: int) -> float:
    """Associations a second, 128 proposed contexts and one small instance each."""
    with receiver(bench, PEERS[peer], nodelay=True) as scp:
        seconds = scu.short_associations(scp.port, samples.SMALL, range(1, count + 1), contexts=128)
        _check(scp, count)
    return count / seconds


def _memory(bench: Bench, peer: str, count: int) -> float:
    """Peak memory while one instance of so many megabytes is taken."""
    kind = StoreScpAlone if peer == "storescp" else PEERS[peer]
    with receiver(bench, kind, nodelay=True) as scp:
        scu.large(scp.port, samples.of_megabytes(count), 1)
        _check(scp, 1)
        return scp.peak_megabytes()


class Growth:
    """Receivers that have taken much and little, kept for all repetitions; they take windows by turns.

    Args:
        window: instances of one measurement.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._stack = contextlib.ExitStack()
        self._receivers: dict[str, Peer] = {}
        self._next: dict[str, int] = {}

    def __call__(self, bench: Bench, peer: str, count: int) -> float:
        """Instances a second of a receiver that has taken `count` (FRESH: a hundredth of it) before the first."""
        if peer not in self._receivers:
            held = count // 100 if peer == FRESH else count
            self._receivers[peer] = self._stack.enter_context(receiver(bench, Stowgate, nodelay=True))
            scu.stream(self._receivers[peer].port, samples.SMALL, range(held))
            self._next[peer] = held
        first = self._next[peer]
        self._next[peer] = first + self._window
        os.sync()
        seconds = scu.stream(self._receivers[peer].port, samples.SMALL, range(first, first + self._window))
        return self._window / seconds

    def close(self) -> None:
        """Stop the receivers."""
        self._stack.close()
        self._receivers.clear()


BOTH = (OURS, "orthanc", "storescp")
WITH_LONG_PDU = (*BOTH, LONG_PDU)
"""For large instances: what storescp could do is shown; the target is for what it does by default."""
LIMITED = (*WITH_LONG_PDU, FLOOR, "discard", DISK)


def _targets(orthanc: float, storescp: float, *more: Target) -> tuple[Target, ...]:
    return (Target("orthanc", orthanc), Target("storescp", storescp), *more)


_TENTH = {"orthanc": 0.1, "storescp": 0.1}
_REACH = Target(LIMIT, 0.75)
_PER_SECOND = "instances/s"
_GROWTH = Growth(500)

ROWS = (
    Row(
        "small-nagle", "15 kB, ordinary sender", _PER_SECOND,
        _sent("small", nodelay=False), 500, BOTH, _targets(30, 30), _TENTH,
    ),
    Row(
        "ct-nagle", "CT, ordinary sender", _PER_SECOND,
        _sent("ct", nodelay=False), 400, BOTH, _targets(10, 10), _TENTH,
    ),
    Row(
        "ct-nodelay", "CT, TCP_NODELAY", _PER_SECOND,
        _sent("ct", nodelay=True), 600, LIMITED, _targets(2, 0.6, _REACH),
    ),
    Row(
        "small-nodelay", "15 kB, TCP_NODELAY", _PER_SECOND,
        _sent("small", nodelay=True), 1500, LIMITED, _targets(1.2, 0.6, _REACH),
    ),
    Row(
        "ct-4", "CT, 4 associations, 2 receiver processes", _PER_SECOND,
        _sent("ct", nodelay=True, associations=4), 800, (*WITH_LONG_PDU, FLOOR), _targets(2, 0.65),
    ),
    Row(
        "large", "100 MB instances", "MB/s",
        _sent("large", nodelay=True, megabytes=True), 10, LIMITED, _targets(3, 2),
    ),
    Row(
        "memory", "peak memory, one 2 GB instance (peers: 1 GB)", "MB",
        _memory, 2000, BOTH, (Target(None, 96),), {"orthanc": 0.5, "storescp": 0.5},
    ),
    Row(
        "short", "short associations, 128 contexts", "associations/s",
        _short, 500, (*BOTH, "pynetdicom"), _targets(0.3, 0.3, Target("pynetdicom", 10)), {"pynetdicom": 0.1},
    ),
    Row(
        "growth", "the 100,000th instance against the 1,000th", _PER_SECOND,
        _GROWTH, 100_000, (OURS, FRESH), (Target(FRESH, 0.9),), by_default=False, close=_GROWTH.close,
    ),
)  # fmt: skip
