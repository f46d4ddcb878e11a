"""What the uploader does with its process before it begins."""

import os
import subprocess
import sys

SCRIPT = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 500))
from uploader.__main__ import raise_descriptor_limit
raise_descriptor_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    """threads x batch_instances can be more than the usual limit of descriptors: the soft one is raised to the hard."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=20, env=environment, check=True
    )
    assert done.stdout.strip() == "(500, 500)"
