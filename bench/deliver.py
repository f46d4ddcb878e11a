"""`python -m bench.deliver` (`make bench-deliver`): Stowgate's uploader beside curl and dicomweb-client.

A measurement counts only if the archive got every instance, each once. The targets are those of issue 4.
"""

import sys

from bench.command import Benchmark, run
from bench.deliver_rows import ABSENCES, ROWS, absence

BENCHMARK = Benchmark(
    prog="bench.deliver",
    description="Stowgate's uploader beside curl and dicomweb-client, on one machine, in one run.",
    rows=ROWS,
    peers=tuple(ABSENCES),
    absence=absence,
    repetitions=3,
)

if __name__ == "__main__":
    sys.exit(run(BENCHMARK, sys.argv[1:]))
