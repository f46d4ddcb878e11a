"""Small disks of their own for tests: a tmpfs, filled to the last byte or made read-only. Needs root."""

import contextlib
import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest


@cache
def _may_mount() -> bool:
    """Whether this process may mount a tmpfs, in a namespace of its own so that nothing stays."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
    try:
        return os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


needs_mount = pytest.mark.skipif(not _may_mount(), reason="needs to mount a tmpfs: run it as root")


class SmallDisk:
    """A mounted tmpfs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / ".ballast"

    def fill(self, keep: int = 0) -> None:
        """Fill it to the last byte, then free so many bytes, in whole pages."""
        fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        os.write(fd, bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
            if keep:
                os.ftruncate(fd, max(0, os.fstat(fd).st_size - keep))
        finally:
            os.close(fd)

    def free(self) -> None:
        """Take away what it was filled with."""
        self._ballast.unlink(missing_ok=True)

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """For the length of a with block, whoever comes by a path finds it read-only (EROFS).

        A filesystem with files open for writing is not remounted read-only (EBUSY), but by its own decision. So a
        read-only mount of the same files lies over it meanwhile; what is open stays as it is. It is made read-only
        beside it first: where it lies already, somebody may open a file for writing before it is (EBUSY again).
        """
        with tempfile.TemporaryDirectory() as beside:
            subprocess.run(["mount", "--bind", self.path, beside], check=True)
            try:
                subprocess.run(["mount", "-o", "remount,bind,ro", beside], check=True)
                subprocess.run(["mount", "--bind", beside, self.path], check=True)
            finally:
                subprocess.run(["umount", beside], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", self.path], check=True)


@contextlib.contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """Mount a tmpfs of that size at a path for the length of a with block."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", path], check=True, timeout=30
    )
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True, timeout=30)
