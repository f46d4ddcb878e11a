"""`python -m bench.pipeline` (`make bench-pipeline`): from dcmsend through Stowgate to Orthanc, and other ways there.

A measurement counts only if Orthanc's index holds every instance afterwards. The targets are those of issue 4.
"""

import sys

from bench.command import Benchmark, run
from bench.pipeline_rows import PEERS, ROWS, absence

BENCHMARK = Benchmark(
    prog="bench.pipeline",
    description="From dcmsend through Stowgate to Orthanc, beside other ways there, on one machine, in one run.",
    rows=ROWS,
    peers=PEERS,
    absence=absence,
    repetitions=3,
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK, sys.argv[1:]))
