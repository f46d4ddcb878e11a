"""The command line that all benchmarks share, and the turns that peers take.

The peers take turns, A B C A B C, each with a fresh process and an empty store, so that a machine that slows down
slows all of them. A ratio is made within a repetition; its median is held against the target.

A peer that is not installed is skipped and named; one that fails is named with its reason, and the others go on.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import report
from bench.measuring import FEWEST, OURS, Bench, Row
from bench.peers import ROOT, BenchError
from bench.report import FAILED, Result


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A table that can be measured.

    Attributes:
        prog: for the usage text.
        description: one line.
        rows: of the table.
        peers: whom --peers chooses among; whoever is not named here takes part always.
        absence: why a peer cannot take part in a row; None if it can.
        derive: adds what follows from the values of a row.
        repetitions: turns of each row, if nobody says otherwise.
    """

    prog: str
    description: str
    rows: tuple[Row, ...]
    peers: tuple[str, ...]
    absence: Callable[[str, Row], str | None]
    derive: Callable[[Result], None] = lambda _: None
    repetitions: int = 5


def arguments(benchmark: Benchmark, argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    left_out = [row.name for row in benchmark.rows if not row.by_default]
    but = f"; default: all but {', '.join(left_out)}" if left_out else ""
    parser = argparse.ArgumentParser(prog=benchmark.prog, description=benchmark.description)
    parser.add_argument("--list", action="store_true", help="list the rows and end")
    parser.add_argument("--rows", default="", help=f"names with commas between; all{but}")
    parser.add_argument("--peers", default="", help="names with commas between, beside stowgate; default: all")
    parser.add_argument(
        "--repetitions",
        type=int,
        default=benchmark.repetitions,
        help=f"turns of each row (default: {benchmark.repetitions})",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every count; 0.05 for a quick look")
    parser.add_argument(
        "--count", action="append", default=[], metavar="ROW=N", help="the count of a row; megabytes for memory"
    )
    parser.add_argument(
        "--peer-pdu",
        type=int,
        default=16384,
        help="longest PDU of Orthanc and storescp, bytes (default: theirs, 16384)",
    )
    parser.add_argument("--scratch", type=Path, default=ROOT, help="a temporary folder is made, and removed, in here")
    parser.add_argument("--output", type=Path, help="write JSON here")
    return parser.parse_args(argv)


def chosen(benchmark: Benchmark, options: argparse.Namespace) -> list[tuple[Row, int]]:
    """The rows that are asked for, each with its count.

    Raises:
        ValueError: a row or a peer is unknown.
    """
    known = {row.name: row for row in benchmark.rows}
    names = [name for name in options.rows.split(",") if name]
    if names == ["all"]:
        names = list(known)
    counts = dict(text.split("=", 1) for text in options.count)
    if unknown := ({*names, *counts} - set(known)):
        raise ValueError(f"expected rows among {', '.join(known)}, found {', '.join(sorted(unknown))}")
    if unknown := (_asked(options) - {OURS, *benchmark.peers}):
        raise ValueError(f"expected peers among {', '.join(benchmark.peers)}, found {', '.join(sorted(unknown))}")
    rows = [known[name] for name in names] or [row for row in benchmark.rows if row.by_default]
    return [(row, int(counts.get(row.name) or max(FEWEST, row.count * options.scale))) for row in rows]


def _asked(options: argparse.Namespace) -> set[str]:
    return set(filter(None, options.peers.split(",")))


def measured(bench: Bench, row: Row, count: int, repetitions: int, absence: Callable[[str, Row], str | None]) -> Result:
    """All repetitions of a row.

    Args:
        bench: the ground.
        row: what is measured.
        count: how much of it.
        repetitions: how often each peer has its turn.
        absence: why a peer takes no part; None if it does.
    """
    result = Result(row)
    for peer in row.peers:
        if reason := absence(peer, row):
            result.skipped[peer] = reason
            print(f"{row.name}: {peer} skipped: {reason}", file=sys.stderr)
    try:
        for repetition in range(repetitions):
            for peer in row.peers:
                if peer in result.skipped:
                    continue
                try:
                    value = row.measure(bench, peer, max(FEWEST, int(count * row.share.get(peer, 1))))
                except (BenchError, OSError) as error:
                    result.skipped[peer] = FAILED
                    print(f"{row.name}: {peer} failed: {error}", file=sys.stderr)
                    continue
                result.values.setdefault(peer, []).append(value)
                print(f"{row.name} {repetition + 1}/{repetitions} {peer}: {value:.4g} {row.unit}", file=sys.stderr)
    finally:
        row.close()
    return result


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder that is removed in any case, a SIGTERM among them."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix=".bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def run(benchmark: Benchmark, argv: Sequence[str]) -> int:
    """Run what is asked for; 0 whatever the results are, 2 for a wrong command line."""
    options = arguments(benchmark, argv)
    if options.list:
        for row in benchmark.rows:
            print(f"{row.name:14} {row.title}; count {row.count}{'' if row.by_default else '; only when named'}")
        return 0
    try:
        rows = chosen(benchmark, options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    asked = _asked(options)

    def absence(peer: str, row: Row) -> str | None:
        if reason := benchmark.absence(peer, row):
            return reason
        return "not asked for" if asked and peer in benchmark.peers and peer not in asked else None

    results = []
    with scratch_folder(options.scratch) as folder:
        bench = Bench(folder, options.peer_pdu)
        for row, count in rows:
            result = measured(bench, row, count, options.repetitions, absence)
            benchmark.derive(result)
            results.append(result)
        settings = {
            "repetitions": options.repetitions,
            "counts": {row.name: count for row, count in rows},
            "peer_pdu": options.peer_pdu,
        }
        written = report.document(results, folder, settings)
    print(report.table(results))
    if options.output:
        options.output.write_text(json.dumps(written, indent=1) + "\n")
    return 0
