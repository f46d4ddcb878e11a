"""The rows of the table of deliveries: what is measured, of whom, and what is aimed for."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import posting, samples
from bench.archives import Link, NullArchive, link_rate
from bench.measuring import OURS, Bench, Measure, Row, Shared, Target, even_out
from bench.null_archive import Stored
from bench.peers import BenchError
from bench.uploading import LeastUploader, Uploader, fill

CURL = "curl"
SENDFILE = "sendfile"
DICOMWEB = "dicomweb-client"
FLOOR = "floor"
LINK = "link"
FIRST = "stowgate, first ones"
ABSENCES: Mapping[str, Callable[[], str | None]] = {
    CURL: posting.curl_missing,
    DICOMWEB: posting.dicomweb_client_missing,
    SENDFILE: lambda: None,
    FLOOR: lambda: None,
}
BATCH = 50
"""Instances in a request: the uploader's default."""
_BATCHES = (1, 10, 50)
_WINDOW = 5000
_UNDER_WAY_SECONDS = 12.0
_DOWN_SECONDS = 60.0
_PAUSE_MAX_SECONDS = 5.0
_SAMPLES = {"ct": samples.CT, "small": samples.SMALL}


def absence(peer: str, row: Row) -> str | None:
    """Why a peer cannot take part in a row; None if it can."""
    del row
    return ABSENCES[peer]() if peer in ABSENCES else None


def uploaded(
    bench: Bench,
    sample: samples.Sample,
    count: int,
    url: str,
    kind: type[Uploader] = Uploader,
    *,
    processes: int = 1,
) -> tuple[float, float]:
    """Have our uploader deliver; seconds from the start of its work to the last deletion, and its peak memory in MB.

    Several processes share its connections.
    """
    settings = {"threads": posting.CONNECTIONS // processes} if processes > 1 else {}
    uploader = kind(bench.folder(), url, settings=settings, processes=processes)
    fill(bench, uploader.spool, sample, count)
    even_out(0)
    with uploader:
        ended = uploader.wait_until_empty()
        return ended - uploader.begun(), uploader.peak_megabytes()


def _span(requests: Sequence[Stored]) -> float:
    """Seconds from the first byte of the first request to the last byte of the last."""
    return max(one.ended for one in requests) - min(one.begun for one in requests)


class _DicomwebClient:
    """dicomweb-client at the batch that is its best, which it finds out at its first turn."""

    def __init__(self) -> None:
        self._best: dict[str, int] = {}

    def rate(self, bench: Bench, kind: str, count: int) -> float:
        """Instances a second."""
        if kind not in self._best:
            rates = {batch: self.rate_of(bench, kind, max(2 * batch, count // 4), batch) for batch in _BATCHES}
            self._best[kind] = max(rates, key=rates.__getitem__)
        return self.rate_of(bench, kind, count, self._best[kind])

    @staticmethod
    def rate_of(bench: Bench, kind: str, count: int, batch: int) -> float:
        """Instances a second, so many in a request."""
        files = bench.library.files(kind, _SAMPLES[kind], count)
        even_out(0)
        with NullArchive(bench.folder()) as archive:
            seconds = posting.dicomweb_client(archive.url, files, batch)
            archive.check(count)
        return count / seconds


_CLIENT = _DicomwebClient()


def _post(bench: Bench, peer: str, bodies: list[Path], sample: samples.Sample, count: int) -> float:
    """Have curl, or sendfile, post ready-made bodies; the seconds, by the archive's clock."""
    even_out(0)
    with NullArchive(bench.folder(), instance_bytes=sample.file_bytes) as archive:
        cpu = archive.cpu_seconds()
        if peer == CURL:
            posting.curl(archive.url, bodies, bench.scratch)
        else:
            posting.sendfile(archive.url, bodies)
        used = archive.cpu_seconds() - cpu
        seconds = _span(archive.check(count))
    print(f"the null archive had {used / seconds:.0%} of a core", file=sys.stderr)
    return seconds


def _delivered(kind: str, *, processes: int = 1) -> Measure:
    """Instances a second into the null archive."""
    sample = _SAMPLES[kind]

    def measure(bench: Bench, peer: str, count: int) -> float:
        if peer == DICOMWEB:
            return _CLIENT.rate(bench, kind, count)
        if peer in {OURS, FLOOR}:
            with NullArchive(bench.folder(), instance_bytes=sample.file_bytes) as archive:
                who = LeastUploader if peer == FLOOR else Uploader
                seconds, _ = uploaded(bench, sample, count, archive.url, who, processes=processes)
                archive.check(count)
            return count / seconds
        return count / _post(bench, peer, bench.library.bodies(kind, sample, count, BATCH), sample, count)

    return measure


def _large(bench: Bench, count: int) -> Mapping[str, float]:
    """One instance of so many megabytes, by our uploader."""
    sample = samples.of_megabytes(count)
    with NullArchive(bench.folder(), instance_bytes=sample.file_bytes) as archive:
        seconds, memory = uploaded(bench, sample, 1, archive.url)
        archive.check(1)
    return {"rate": sample.file_bytes / 1e6 / seconds, "memory": memory}


_LARGE = Shared(_large)
_OUR_LARGE = _LARGE.row({OURS: "rate"})


def _large_rate(bench: Bench, peer: str, count: int) -> float:
    """MB/s of one instance of so many megabytes."""
    if peer == OURS:
        return _OUR_LARGE(bench, peer, count)
    sample = samples.of_megabytes(count)
    bodies = bench.library.bodies(f"large-{count}", sample, 1, 1)
    return sample.file_bytes / 1e6 / _post(bench, peer, bodies, sample, 1)


def _over_link(kind: str) -> Measure:
    """MB/s over the long line."""
    sample = _SAMPLES[kind]

    def measure(bench: Bench, peer: str, count: int) -> float:
        if peer == LINK:
            return link_rate(bench.folder())
        part_bytes = 0 if peer == DICOMWEB else sample.file_bytes
        with (
            NullArchive(bench.folder(), instance_bytes=part_bytes) as archive,
            Link(bench.folder(), archive.port) as link,
        ):
            if peer == OURS:
                seconds, _ = uploaded(bench, sample, count, link.url)
            else:
                seconds = posting.dicomweb_client(link.url, bench.library.files(kind, sample, count), 1)
            archive.check(count)
        return count * sample.file_bytes / 1e6 / seconds

    return measure


def _waiting(bench: Bench, count: int) -> Mapping[str, float]:
    """Very many files that wait when the uploader starts."""
    sample = samples.TINY
    with NullArchive(bench.folder(), instance_bytes=sample.file_bytes) as archive:
        uploader = Uploader(bench.folder(), archive.url)
        fill(bench, uploader.spool, sample, count)
        even_out(0)
        started = time.monotonic()
        with uploader:
            uploader.wait_until_empty()
            memory = uploader.peak_megabytes()
        requests = archive.check(count)
    first, last = first_and_last(requests, min(_WINDOW, count // 4))
    return {"first POST": requests[0].begun - started, "memory": memory, "first": first, "last": last}


def first_and_last(requests: Sequence[Stored], window: int) -> tuple[float, float]:
    """Instances a second of about the first so many instances and of about the last so many.

    Args:
        requests: in the order in which they ended.
        window: how many instances; as many requests are taken as hold them.
    """
    counted = 0
    begin = min(one.begun for one in requests)
    for request in requests:
        counted += len(request.uids)
        if counted >= window:
            first = counted / (request.ended - begin)
            break
    else:
        raise BenchError(f"expected {window} instances, found {counted}")
    counted = 0
    for request in reversed(requests):
        if counted >= window:
            break
        counted += len(request.uids)
    # Those that ended after this one had ended.
    return first, counted / (requests[-1].ended - request.ended)


_WAITING = Shared(_waiting)


def _down(bench: Bench, count: int) -> Mapping[str, float]:
    """Very many files that wait while the archive answers 503, once the pauses are at their longest."""
    sample = samples.TINY
    with NullArchive(bench.folder(), status=503) as archive:
        uploader = Uploader(bench.folder(), archive.url, settings={"backoff_max_seconds": _PAUSE_MAX_SECONDS})
        fill(bench, uploader.spool, sample, count)
        even_out(0)
        with uploader:
            time.sleep(_UNDER_WAY_SECONDS)
            begun, cpu = time.monotonic(), uploader.cpu_seconds()
            time.sleep(_DOWN_SECONDS)
            ended, used = time.monotonic(), uploader.cpu_seconds() - cpu
            left = uploader.stored()
        probes = [one.begun for one in archive.received() if one.begun >= begun]
    if left != count:
        raise BenchError(f"expected {count} files to wait, found {left}")
    if not probes:
        raise BenchError("expected probes, found none")
    # A pause is at least half of the longest: in so long there may be one probe.
    return {"cpu": 100 * used / (ended - begun), "probes": most_within(probes, _PAUSE_MAX_SECONDS / 2)}


def most_within(moments: Sequence[float], seconds: float) -> int:
    """The most moments that are less than so many seconds apart from the first of them; they are in order."""
    return max(sum(1 for one in moments if begin <= one < begin + seconds) for begin in moments)


_DOWN = Shared(_down)

_PER_SECOND = "instances/s"

ROWS = (
    Row(
        "ct", "CT from incoming/ into a null archive", _PER_SECOND,
        _delivered("ct"), 3000, (OURS, CURL, DICOMWEB, SENDFILE, FLOOR), (Target(CURL, 0.35), Target(DICOMWEB, 5)),
        {DICOMWEB: 0.15},
    ),
    Row(
        "small", "15 kB from incoming/ into a null archive", _PER_SECOND,
        _delivered("small"), 20_000, (OURS, CURL, DICOMWEB, SENDFILE, FLOOR), (Target(CURL, 0.15), Target(DICOMWEB, 5)),
        {DICOMWEB: 0.05},
    ),
    Row(
        "ct-2", "CT from incoming/ into a null archive, 2 uploader processes", _PER_SECOND,
        _delivered("ct", processes=2), 6000, (OURS, CURL, DICOMWEB), (Target(CURL, 0.35), Target(DICOMWEB, 5)),
        {DICOMWEB: 0.1},
    ),
    Row(
        "small-2", "15 kB from incoming/ into a null archive, 2 uploader processes", _PER_SECOND,
        _delivered("small", processes=2), 40_000, (OURS, CURL, DICOMWEB), (Target(CURL, 0.15), Target(DICOMWEB, 5)),
        {DICOMWEB: 0.03},
    ),
    Row(
        "large", "one 1 GB instance", "MB/s",
        _large_rate, 1000, (OURS, CURL, SENDFILE), (Target(CURL, 0.6),),
    ),
    Row(
        "large-memory", "peak memory, one 1 GB instance", "MB",
        _LARGE.row({OURS: "memory"}), 1000, (OURS,), (Target(None, 96),),
    ),
    Row(
        "link-ct", "CT over 100 Mbit/s with 80 ms round trip", "MB/s",
        _over_link("ct"), 600, (OURS, LINK, DICOMWEB), (Target(LINK, 0.9), Target(DICOMWEB, 10)), {DICOMWEB: 0.05},
    ),
    Row(
        "link-small", "15 kB over 100 Mbit/s with 80 ms round trip", "MB/s",
        _over_link("small"), 15_000, (OURS, LINK, DICOMWEB), (Target(LINK, 0.8), Target(DICOMWEB, 10)),
        {DICOMWEB: 0.005},
    ),
    Row(
        "start", "100,000 files waiting: start to first POST", "s",
        _WAITING.row({OURS: "first POST"}), 100_000, (OURS,), (Target(None, 5),), by_default=False,
    ),
    Row(
        "start-memory", "100,000 files waiting: peak memory", "MB",
        _WAITING.row({OURS: "memory"}), 100_000, (OURS,), (Target(None, 200),), by_default=False,
    ),
    Row(
        "start-last", "100,000 files waiting: the last 5,000 against the first", _PER_SECOND,
        _WAITING.row({OURS: "last", FIRST: "first"}), 100_000, (OURS, FIRST), (Target(FIRST, 0.9),), by_default=False,
    ),
    Row(
        "down", "archive down, 100,000 files waiting: CPU", "%",
        _DOWN.row({OURS: "cpu"}), 100_000, (OURS,), (Target(None, 2),), by_default=False,
    ),
    Row(
        "down-probes", "archive down: most probes in one shortest pause", "probes",
        _DOWN.row({OURS: "probes"}), 100_000, (OURS,), (Target(None, 1),), by_default=False,
    ),
)  # fmt: skip
