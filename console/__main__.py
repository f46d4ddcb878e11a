"""`python -m console [--config FILE] COMMAND`: the operator's seat.

Exit status: 0 all is well, 1 something is not well or failed, 2 wrong usage or a broken configuration.
"""

import os
import sys

import common.without_decoders  # noqa: F401 - first
from console.cli import COMPLETE_VARIABLE, PROGRAM_VARIABLE, main

if __name__ == "__main__":
    # What it writes (an export, a wish for a probe) may hold patient data, and is for whoever may read the spool.
    os.umask(0o077)
    sys.exit(main(prog_name=os.environ.get(PROGRAM_VARIABLE) or "python -m console", complete_var=COMPLETE_VARIABLE))
