"""Faults of the kernel, injected into a running process by strace for the length of a with block."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pipeline import wait_for

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs the Debian package strace")


@contextlib.contextmanager
def injected(pid: int, fault: str, path: Path | None = None) -> Iterator[Path]:
    """Attach strace to all threads of a process, with a fault as `--inject` takes it; gives the file of its trace.

    Args:
        pid: of the process.
        fault: such as `fsync:error=EIO:when=1`.
        path: only calls on this file.
    """
    calls = fault.partition(":")[0]
    with tempfile.TemporaryDirectory() as folder:
        trace, said = Path(folder) / "trace", Path(folder) / "said"
        command = ["strace", "-f", "-y", "-o", trace, "-e", f"trace={calls}", "-e", f"inject={fault}"]
        if path is not None:
            command += ["-P", path]
        with open(said, "wb") as output:
            strace = subprocess.Popen([*command, "-p", str(pid)], stderr=output)
        try:
            wait_for(lambda: "attached" in said.read_text() or strace.poll() is not None, what="strace attached")
            assert strace.poll() is None, said.read_text()
            yield trace
        finally:
            strace.terminate()
            strace.wait(30)
