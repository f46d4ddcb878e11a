"""Transfers that take long: seen while they happen, told slow from stuck, and cut when nothing moves."""

import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from uploader_fakes import Gateway, until
from uploader_wire import Act, Connection, answer, serving, stored_json

from common.config import DestinationConfig
from common.errors import LedgerError
from common.records import State, Transfer
from support.samples import make_instance
from uploader.progress import Motion, Progress
from uploader.stow import StowClient
from uploader.verdict import Answer, Failure
from uploader.watching import Watching

NOW = datetime(2026, 11, 24, 9, 0, 0, tzinfo=UTC)
JSON = "Content-Type: application/dicom+json"
SIZE = 20_000_000  # more than the kernel keeps for a peer that does not read


@dataclass
class Part:
    """An instance of zeros."""

    size_bytes: int = SIZE
    name: str = "a.dcm"

    def read_at(self, offset: int, length: int, /) -> bytes:
        """Some zeros."""
        return bytes(min(length, self.size_bytes - offset))


@dataclass
class Watched:
    """A process whose requests are watched; the clock is `now`."""

    now: float = 1000.0
    recorded: list[tuple[list[Transfer], list[str]]] = field(default_factory=list)
    fails: bool = False

    def __post_init__(self) -> None:
        self.progress = Progress(lambda: self.now)
        self.watching = Watching(self.progress, self._record, every=10.0, now=lambda: NOW)

    def _record(self, transfers: Sequence[Transfer], ended: Sequence[str]) -> None:
        if self.fails:
            raise LedgerError("the ledger cannot be used now")
        self.recorded.append((list(transfers), list(ended)))


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


# What is under way


def test_a_request_is_under_way_until_it_ends() -> None:
    """It is there with what is out of it, for as long as it lasts, however it ends."""
    watched = Watched()
    with watched.progress.request("a.dcm", 3) as moved:
        watched.now += 5
        moved(10, 100)
        watched.now += 5
        (one,) = watched.progress.under_way()
        assert (one.name, one.instances, one.begun, one.moved_at) == ("a.dcm", 3, 1000.0, 1005.0)
        assert (one.sent_bytes, one.size_bytes) == (10, 100)
    assert watched.progress.under_way() == []
    with pytest.raises(KeyError), watched.progress.request("b.dcm", 1):
        raise KeyError
    assert watched.progress.under_way() == []


def test_what_is_out_is_counted_over_a_real_socket() -> None:
    """Each block counts when it has been taken; in the end all of them."""
    seen: list[Motion] = []
    progress = Progress()

    def look_and_answer(connection: Connection) -> None:
        connection.read_body(SIZE // 2)
        seen.extend(progress.under_way())
        connection.length -= SIZE // 2
        connection.read_body()
        until(lambda: seen[0].sent_bytes == seen[0].size_bytes)
        connection.send(200, stored_json(["1.2.3"]), JSON)

    with serving(look_and_answer) as server:
        config = DestinationConfig(url=server.url, connect_timeout_seconds=10, read_timeout_seconds=10)
        StowClient(config, progress=progress).store([Part()])
    (one,) = seen
    assert SIZE < one.sent_bytes == one.size_bytes < SIZE + 1000
    assert progress.under_way() == []


# What is said of it


def test_short_requests_are_not_mentioned(lines: Any) -> None:
    """What ends within one interval costs neither a line nor a row."""
    watched = Watched()
    with watched.progress.request("a.dcm", 1):
        watched.now += 9.9
        watched.watching.report()
    watched.watching.report()
    watched.watching.close()
    assert watched.recorded == []
    assert not lines("sending")


def test_a_long_request_is_told_at_each_interval(lines: Any) -> None:
    """A row and a line for each report: how far it is, how fast, and forgotten when it has ended."""
    watched = Watched()
    with watched.progress.request("a.dcm", 2) as moved:
        for sent in (1000, 5000):
            watched.now += 10
            moved(sent, 9000)
            watched.now += 1
            watched.watching.report()
    watched.watching.report()
    watched.watching.report()
    assert watched.recorded == [
        ([Transfer("a.dcm", 2, 9000, 1000, at(-11), at(-1))], []),
        ([Transfer("a.dcm", 2, 9000, 5000, at(-22), at(-1))], []),
        ([], ["a.dcm"]),
    ]
    first, second = lines("sending")
    assert (first["sent_bytes"], first["size_bytes"], first["seconds"], first["instances"]) == (1000, 9000, 11, 2)
    assert (first["bytes_per_second"], second["bytes_per_second"]) == (round(1000 / 11), round(4000 / 11))
    assert second["sent_bytes"] == 5000


def test_slow_is_told_from_stuck(lines: Any) -> None:
    """Nothing moved for an interval: that is a warning, with for how long."""
    watched = Watched()
    with watched.progress.request("a.dcm", 1) as moved:
        moved(1000, 9000)
        watched.now += 25
        watched.watching.report()
    (said,) = lines("sending stands still")
    assert (said["still_seconds"], said["sent_bytes"]) == (25, 1000)
    assert not lines("sending")


def test_waiting_for_the_answer_is_not_standing_still(lines: Any) -> None:
    """When all of it is out, it is the archive that works."""
    watched = Watched()
    with watched.progress.request("a.dcm", 1) as moved:
        moved(9000, 9000)
        watched.now += 25
        watched.watching.report()
    (said,) = lines("sent, the answer is waited for")
    assert said["waiting_seconds"] == 25
    assert not lines("sending stands still")


def test_a_name_that_may_be_a_patients_is_not_in_the_log(lines: Any) -> None:
    """A file dropped by hand is called by its label, as everywhere."""
    watched = Watched()
    with watched.progress.request("DOE^JOHN.dcm", 1):
        watched.now += 25
        watched.watching.report()
    assert "DOE" not in str(lines("sending stands still"))


def test_a_ledger_that_fails_is_asked_again(lines: Any) -> None:
    """Progress that cannot be recorded harms nothing; what has ended is forgotten as soon as it can be."""
    watched = Watched()
    with watched.progress.request("a.dcm", 1):
        watched.now += 25
        watched.watching.report()
    watched.fails = True
    watched.watching.report()
    watched.fails = False
    watched.watching.report()
    assert watched.recorded[1:] == [([], ["a.dcm"])]
    assert lines("progress not recorded")


def test_the_end_of_the_process_leaves_nothing_behind() -> None:
    """What was recorded is forgotten at the end, though it is still under way."""
    watched = Watched()
    with watched.progress.request("a.dcm", 1):
        watched.now += 25
        watched.watching.report()
        watched.watching.close()
    assert watched.recorded[-1] == ([], ["a.dcm"])


def test_the_ledger_tells_of_a_long_request_while_it_lasts(gateway: Gateway) -> None:
    """A console that reads the ledger sees the file, how much is out and when it moved, and no trace afterwards."""
    uid = make_instance(gateway.spool.incoming / "0.dcm", PixelData=bytes(SIZE))
    progress = Progress()
    watching = Watching(progress, gateway.ledger.transferring, every=0.0)
    seen: list[dict[str, Transfer]] = []

    def look_and_answer(connection: Connection) -> None:
        connection.read_body(1000)
        watching.report()
        seen.append(gateway.ledger.transfers())
        connection.length -= 1000
        answer(200, stored_json([uid]), JSON)(connection)

    with serving(look_and_answer) as server:
        config = DestinationConfig(url=server.url, connect_timeout_seconds=10, read_timeout_seconds=10)
        gateway.archive = StowClient(config, progress=progress)  # type: ignore[assignment]
        gateway.assemble()
        with gateway.running():
            until(lambda: gateway.counts() == {State.SENT: 1}, 10)
    ((name, transfer),) = seen[0].items()
    assert (name, transfer.instances) == ("0.dcm", 1)
    assert 0 <= transfer.sent_bytes < SIZE < transfer.size_bytes
    assert transfer.begun_at <= transfer.moved_at
    watching.report()
    assert gateway.ledger.transfers() == {}


def test_it_reports_by_itself_until_it_is_stopped() -> None:
    """The thread of the process looks at every interval, and ends at once."""
    looks: list[float] = []
    progress = Progress(lambda: (looks.append(0.0), time.monotonic())[1])
    stopped = threading.Event()
    watching = Watching(progress, lambda _transfers, _ended: None, every=0.02)
    thread = threading.Thread(target=watching.run, args=(stopped,))
    thread.start()
    until(lambda: len(looks) > 3)
    stopped.set()
    thread.join(5)
    assert not thread.is_alive()


# Requests that stand still


def stop_reading(connection: Connection) -> None:
    """Take a little of the body and then nothing, with the connection open."""
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.read_body(50_000)
    connection.alive = False
    time.sleep(8)


def store_at(
    act: Act, *, tries: int = 3, tls: ssl.SSLContext | None = None, ca_bundle: Path | None = None
) -> tuple[Answer, int, float]:
    """Send an instance to a server; what became of it, how often it was tried, and how long it took."""
    begun = time.monotonic()
    with serving(act, tls=tls) as server:
        config = DestinationConfig(
            url=server.url, connect_timeout_seconds=0.5, read_timeout_seconds=60, ca_bundle=ca_bundle
        )
        answered = StowClient(config, backoff_initial=0.001).store([Part()], tries=tries)
        return answered, len(server.requests), time.monotonic() - begun


def test_a_peer_that_stops_reading_is_a_timeout_and_is_not_tried_again_at_once() -> None:
    """After connect_timeout_seconds without a byte it is cut; a second try would only hold the thread as long again."""
    answered, requests, seconds = store_at(stop_reading)
    assert (answered.status, answered.failure) == (None, Failure.TIMEOUT)
    assert answered.detail == "no answer in time (sending stood still)"
    assert requests == 1
    assert seconds < 7


def test_a_peer_that_stops_reading_behind_tls_is_the_same(tmp_path: Path) -> None:
    """The timeout of a write through TLS is one of sending too, and no trouble with a certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    answered, requests, _ = store_at(stop_reading, tls=context, ca_bundle=tmp_path / "ca.pem")
    assert (answered.failure, answered.detail, requests) == (
        Failure.TIMEOUT,
        "no answer in time (sending stood still)",
        1,
    )


def test_a_peer_that_reads_slowly_is_served() -> None:
    """However long the whole takes: as long as bytes move, it is not cut."""

    def trickle(connection: Connection) -> None:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        while len(connection.rest) < connection.length:
            connection.rest += connection.socket.recv(1_000_000)
            time.sleep(0.005)
        connection.send(200, stored_json(["1.2.3"]), JSON)

    answered, _, seconds = store_at(trickle)
    assert answered.status == 200
    assert seconds > 0.5


def test_an_instance_that_was_cut_is_sent_later_and_not_charged(gateway: Gateway) -> None:
    """The destination stood still and recovers: the instance is sent, with the one attempt that it took."""
    uids = [make_instance(gateway.spool.incoming / f"{number}.dcm", PixelData=bytes(SIZE)) for number in range(2)]
    with serving(stop_reading, stop_reading, answer(200, stored_json(uids), JSON)) as server:
        config = DestinationConfig(url=server.url, connect_timeout_seconds=0.3, read_timeout_seconds=10)
        gateway.archive = StowClient(config, backoff_initial=0.001)  # type: ignore[assignment]
        gateway.configure(max_attempts=1, batch_instances=1)
        with gateway.running():
            until(lambda: gateway.counts() == {State.SENT: 2}, 20)
    assert {row.attempts for row in gateway.rows().values()} == {1}
