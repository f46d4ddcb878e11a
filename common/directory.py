"""Directories and names, as every folder of the spool sees them."""

import os
import re
from pathlib import Path

_OUR_NAME = re.compile(r"[0-9a-f]{32}\.dcm\Z")


def is_ours(name: str) -> bool:
    """Tell whether `name` is one that a receiver gave: 32 hex digits and .dcm."""
    return _OUR_NAME.match(name) is not None


def is_hidden(name: str) -> bool:
    """Tell whether any component of a relative path is not ours to touch: starts with a dot, or is *.part."""
    if "/" not in name:
        return name.startswith(".") or name.endswith(".part")
    return any(is_hidden(part) for part in name.split("/"))


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to disk.

    Raises:
        OSError: they may not be durable.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
