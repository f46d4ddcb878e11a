"""`python -m bench.receive` (`make bench-receive`): Stowgate's receiver beside its peers, on one machine, in one run.

A measurement counts only if every instance was answered with success and is found in the store. The targets are those
of issue 3.
"""

import sys

from bench.command import Benchmark, run
from bench.measuring import OURS
from bench.rows import PEERS, ROWS, absence, add_limit

BENCHMARK = Benchmark(
    prog="bench.receive",
    description="Stowgate's receiver beside its peers, on one machine, in one run.",
    rows=ROWS,
    peers=tuple(name for name in PEERS if name != OURS),
    absence=absence,
    derive=add_limit,
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK, sys.argv[1:]))
