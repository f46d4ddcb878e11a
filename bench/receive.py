"""`python -m bench.receive` (`make bench-receive`): Stowgate's receiver beside its peers, on one machine, in one run.

The peers take turns, A B C A B C, each with a fresh process and an empty store, so that a machine that slows down
slows all of them. A ratio is made within a repetition; its median is held against the target of issue 3.

A measurement counts only if every instance was answered with success and is found in the store. A peer that is not
installed is skipped and named; one that fails is named with its reason, and the others go on.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import report, senders
from bench.peers import ROOT, BenchError
from bench.report import Result
from bench.rows import FRESH, OURS, PEERS, ROWS, Bench, Growth, Row

_FEWEST = 5


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.receive", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--list", action="store_true", help="list the rows and end")
    parser.add_argument("--rows", default="", help="names with commas between; all; default: all but growth")
    parser.add_argument("--peers", default="", help="names with commas between, beside stowgate; default: all")
    parser.add_argument("--repetitions", type=int, default=5, help="turns of each row (default: 5)")
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


def chosen(options: argparse.Namespace) -> list[tuple[Row, int]]:
    """The rows that are asked for, each with its count.

    Raises:
        ValueError: a row is unknown.
    """
    known = {row.name: row for row in ROWS}
    names = [name for name in options.rows.split(",") if name]
    if names == ["all"]:
        names = list(known)
    counts = dict(text.split("=", 1) for text in options.count)
    if unknown := ({*names, *counts} - set(known)):
        raise ValueError(f"expected rows among {', '.join(known)}, found {', '.join(sorted(unknown))}")
    if unknown := (set(filter(None, options.peers.split(","))) - set(PEERS)):
        raise ValueError(f"expected peers among {', '.join(PEERS)}, found {', '.join(sorted(unknown))}")
    rows = [known[name] for name in names] or [row for row in ROWS if row.by_default]
    return [(row, int(counts.get(row.name) or max(_FEWEST, row.count * options.scale))) for row in rows]


def measure(bench: Bench, row: Row, count: int, repetitions: int, peers: set[str]) -> Result:
    """All repetitions of a row."""
    result = Result(row)
    for peer in row.peers:
        if (reason := _absence(peer, row)) or (
            reason := "not asked for" if peers and peer in PEERS and peer not in {OURS, *peers} else None
        ):
            result.skipped[peer] = reason
    for repetition in range(repetitions):
        for peer in row.peers:
            if peer in result.skipped:
                continue
            try:
                value = row.measure(bench, peer, max(_FEWEST, int(count * row.share.get(peer, 1))))
            except (BenchError, OSError) as error:
                result.skipped[peer] = "failed"
                print(f"{row.name}: {peer} failed: {error}", file=sys.stderr)
                continue
            result.values.setdefault(peer, []).append(value)
            print(f"{row.name} {repetition + 1}/{repetitions} {peer}: {value:.4g} {row.unit}", file=sys.stderr)
    if isinstance(row.measure, Growth):
        row.measure.close()
    result.add_limit()
    return result


def _absence(peer: str, row: Row) -> str | None:
    if row.name not in {"memory", "short", "growth"} and peer in PEERS and (reason := senders.missing()):
        return reason
    kind = PEERS.get(OURS if peer == FRESH else peer)
    return kind.missing() if kind else None


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder that is removed in any case."""
    folder = Path(tempfile.mkdtemp(prefix=".bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: list[str]) -> int:
    """Run what is asked for; 0 whatever the results are, 2 for a wrong command line."""
    options = arguments(argv)
    if options.list:
        for row in ROWS:
            print(f"{row.name:14} {row.title}; count {row.count}{'' if row.by_default else '; only when named'}")
        return 0
    try:
        rows = chosen(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    peers = set(filter(None, options.peers.split(",")))
    results = []
    with scratch_folder(options.scratch) as folder:
        bench = Bench(folder, options.peer_pdu)
        try:
            for row, count in rows:
                results.append(measure(bench, row, count, options.repetitions, peers))
        finally:
            for row, _ in rows:
                if isinstance(row.measure, Growth):
                    row.measure.close()
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
