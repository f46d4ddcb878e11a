"""`python -m bench.console` (`make bench-console`): does the operator's seat answer at once, and slow receiving?

On a spool as it is after months (`bench.spool_scale`): every question to the ledger, every command, every page, each so
many times; then receiving, in turns without a console and with one whose page somebody looks at.
"""

import argparse
import contextlib
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import samples, scu
from bench.command import scratch_folder
from bench.peers import ROOT, BenchError, free_port
from bench.seat import START_SECONDS, console, looked_at, page, process
from bench.spool_scale import Scale, make, name_of
from common.config import load
from common.ledger_reader import LedgerReader, Query
from common.records import Cause, State
from console.activity import History
from console.overview import look

_TARGET_SECONDS = 1.0
_MIDDLE = 4_321  # a row that is looked for, counted in hundredths of a percent of all


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds that something took: the first time, then the best, the median and the worst of the times after it."""

    what: str
    first: float
    best: float
    median: float
    worst: float


def timed(what: str, act: Callable[[], object], times: int) -> Timed:
    """Do something once, and so many times again."""
    took = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        act()
        took.append(time.perf_counter() - begun)
    again = took[1:] or took
    return Timed(what, took[0], min(again), statistics.median(again), max(again))


def questions(folder: Path, scale: Scale) -> dict[str, Callable[[], object]]:
    """Every question to the ledger, those among them that find nothing or much."""
    config = load(folder / "pipeline.ini")
    reader = LedgerReader(config.spool.directory / "ledger.db")
    number = max(1, scale.rows * _MIDDLE // 10_000)
    row = reader.row(name_of(number))
    if row is None:
        raise BenchError(f"expected row {number} in the ledger, found none")

    def search(**query: Any) -> Callable[[], object]:
        return lambda: reader.search(Query(**query), limit=100)

    def history() -> None:
        past = History(reader)
        past.follow()
        while past.look_back():
            pass

    month: dict[str, Any] = {"since": "2000", "until": row.received_at}
    return {
        "look": lambda: look(config),
        "heaps": reader.heaps,
        "quarantine by cause": reader.quarantine_causes,
        "transfers": reader.transfers,
        "row by name": lambda: reader.row(row.file_name),
        "row by UID": lambda: reader.row(row.sop_instance_uid),
        "events of a row": lambda: reader.events(row),
        "first event since": lambda: reader.first_event_since(row.received_at),
        "activity of 20,000 events": lambda: reader.activity(reader.last_event() - 20_000, reader.last_event()),
        "history of a day": history,
        "search: all": search(),
        "search: quarantine": search(state=State.QUARANTINE),
        "search: quarantine, cause": search(state=State.QUARANTINE, cause=Cause.REFUSED),
        "search: cause that nothing has": search(cause=Cause.WARNING),
        "search: UID": search(uid=row.study_instance_uid),
        "search: patient": search(patient_id=row.patient_id),
        "search: patient PID*": search(patient_id="PID*"),
        "search: sender": search(calling_ae_title=row.calling_ae_title),
        "search: sender that there is not": search(calling_ae_title="NOBODY"),
        "search: time": search(**month),
        "search: time, sender that there is not": search(**month, calling_ae_title="NOBODY"),
        "count: all": lambda: reader.count(Query()),
        "count: quarantine": lambda: reader.count(Query(state=State.QUARANTINE)),
        "count: sender": lambda: reader.count(Query(calling_ae_title=row.calling_ae_title)),
        "count: time": lambda: reader.count(Query(**month)),
    }


def command_lines(scale: Scale) -> list[list[str]]:
    """What people type, but for what changes something."""
    name = name_of(scale.rows // scale.quarantined * (scale.quarantined // 2)) if scale.quarantined else name_of(1)
    return [
        ["--help"],
        ["status"],
        ["status", "--json"],
        ["list"],
        ["list", "--state", "quarantine"],
        ["list", "--patient", "PID00012*"],
        ["list", "--sender", "NOBODY"],
        ["export", "--state", "quarantine"],
        ["show", name],
        ["check", "--no-archive"],
        ["check"],
        ["housekeeping", "--dry-run"],
    ]


def measure_acting(folder: Path) -> Iterator[Timed]:
    """What changes something, once each: some of the quarantine discarded, all the rest released."""
    for arguments in (["discard", "--cause", "conflict", "--yes"], ["release", "--all"]):
        begun = time.perf_counter()
        done = console(folder, arguments)
        took = time.perf_counter() - begun
        if done.returncode:
            raise BenchError(f"expected {arguments[0]} to succeed, found {done.stderr.strip()[-200:]}")
        yield Timed(f"console {' '.join(arguments)}: {done.stdout.strip()}", took, took, took, took)


def pages(folder: Path) -> list[str]:
    """What a browser asks for."""
    reader = LedgerReader(load(folder / "pipeline.ini").spool.directory / "ledger.db")
    found = reader.search(Query(state=State.QUARANTINE), limit=1)
    one = [f"/instances/{found[0].id}", f"/instances/{found[0].id}/frames/1.png"] if found else []
    return [
        "/",
        "/live/overview",
        "/quarantine",
        "/live/quarantine",
        "/quarantine?cause=refused",
        "/search?patient=PID00012*",
        "/search?q=PID00012*",
        *one,
        "/metrics",
        "/healthz",
        "/readyz",
    ]


def measure_commands(folder: Path, scale: Scale, times: int) -> Iterator[Timed]:
    """Every command that is there: whole processes, the start of Python among them."""
    for arguments in command_lines(scale):
        what = " ".join(["console", *(part if len(part) < 30 else "NAME" for part in arguments)])
        done = console(folder, arguments)
        # 1 says that something is not well, as it is where nothing runs.
        if done.returncode not in {0, 1} or "expected the module" in done.stderr or "No module named" in done.stderr:
            last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            print(f"{what} skipped: {last[0]}", file=sys.stderr)
            continue
        yield timed(what, lambda arguments=arguments: console(folder, arguments), times)  # type: ignore[misc]


def measure_pages(folder: Path, port: int, times: int) -> Iterator[Timed]:
    """Every page, by a browser that is signed in."""
    with page(folder, port) as get:
        for path in pages(folder):
            try:
                get(path)
            except OSError as error:
                print(f"GET {path} skipped: {error}", file=sys.stderr)
                continue
            yield timed(f"GET {path}", lambda path=path: get(path), times)  # type: ignore[misc]


def receive(port: int, count: int, first: int) -> float:
    """Instances of 15 kB a second, by two associations at a time."""
    sample = samples.make(88, 86)
    request = scu.proposal(sample.sop_class_uid, 1)
    failed: list[BaseException] = []

    def send(numbers: range) -> None:
        try:
            with scu.Association(port, request) as association:
                for number in numbers:
                    association.store(scu.message(sample, number, association.max_pdu))
                association.release()
        except (BenchError, OSError) as error:
            failed.append(error)

    half = count // 2
    senders = [threading.Thread(target=send, args=(range(first + start, first + start + half),)) for start in (0, half)]
    begun = time.perf_counter()
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    took = time.perf_counter() - begun
    if failed:
        raise failed[0]
    return 2 * half / took


def measure_receiving(
    folder: Path, ports: tuple[int, int], first: int, count: int, turns: int
) -> list[tuple[float, float]]:
    """Instances a second, without a console and with one that is looked at; ports: the receiver's, the page's."""
    rates = []
    with process(folder, "receiver") as receiver:
        deadline = time.monotonic() + START_SECONDS
        while "listening" not in (folder / "receiver.log").read_text():
            if receiver.poll() is not None or time.monotonic() > deadline:
                raise BenchError("expected the receiver to listen, see receiver.log")
            time.sleep(0.1)
        receive(ports[0], count, first)
        for turn in range(turns):
            rate: dict[bool, float] = {}
            for is_looked_at in (False, True) if turn % 2 else (True, False):
                first += count
                with looked_at(folder, ports[1]) if is_looked_at else contextlib.nullcontext():
                    rate[is_looked_at] = receive(ports[0], count, first)
            rates.append((rate[False], rate[True]))
            print(f"receiving {turn + 1}/{turns}: {rate[False]:.0f} without, {rate[True]:.0f} with", file=sys.stderr)
    return rates


def main(argv: list[str]) -> int:
    """Measure; 0 whatever the results are."""
    parser = argparse.ArgumentParser(prog="bench.console", description="Does the operator's seat answer at once?")
    parser.add_argument("--rows", type=int, default=Scale.rows)
    parser.add_argument("--quarantined", type=int, default=Scale.quarantined)
    parser.add_argument("--times", type=int, default=5, help="of each (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=7, help="of receiving; 0: none (default: %(default)s)")
    parser.add_argument("--count", type=int, default=2000, help="instances of a turn (default: %(default)s)")
    parser.add_argument("--scratch", type=Path, default=ROOT, help="a temporary folder is made, and removed, in here")
    parser.add_argument("--spool", type=Path, help="one that bench.spool_scale made; what is received stays in it")
    parser.add_argument("--output", type=Path, help="write JSON here")
    options = parser.parse_args(argv)
    scale = Scale(options.rows, options.quarantined)
    with scratch_folder(options.scratch) as folder:
        port, page_port = free_port(), free_port()
        spool = options.spool.resolve() if options.spool else folder / "spool"
        (folder / "pipeline.ini").write_text(
            f"[spool]\ndirectory = {spool}\nmin_free = 1 MB\n[receiver]\nhost = 127.0.0.1\nport = {port}\n"
            f"[console]\nport = {page_port}\n"
        )
        if not options.spool:
            print(f"making {scale.rows:,} rows", file=sys.stderr)
            make(spool, scale)
        results = [timed(what, act, options.times) for what, act in questions(folder, scale).items()]
        results += measure_commands(folder, scale, options.times)
        results += measure_pages(folder, page_port, options.times)
        rates = (
            measure_receiving(folder, (port, page_port), scale.rows + 1, options.count, options.turns)
            if options.turns
            else []
        )
        if not options.spool:
            results += measure_acting(folder)
    say(results, rates)
    if options.output:
        document = {"scale": asdict(scale), "seconds": [asdict(one) for one in results], "instances_per_second": rates}
        options.output.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def say(results: Sequence[Timed], rates: Sequence[tuple[float, float]]) -> None:
    """The tables, as Markdown."""
    print("| what | first | best | median | worst | |\n|---|---|---|---|---|---|")
    for one in results:
        late = "" if one.worst < _TARGET_SECONDS else "late"
        print(f"| {one.what} | {one.first:.3f} | {one.best:.3f} | {one.median:.3f} | {one.worst:.3f} | {late} |")
    if rates:
        ratios = sorted(with_ / without for without, with_ in rates)
        print(
            f"\nreceiving: {statistics.median(one for one, _ in rates):.0f} instances a second without a console, "
            f"{statistics.median(other for _, other in rates):.0f} with one; ratio {statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
