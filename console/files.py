"""Opening a file of the spool to look at it: whatever a person put in its place is not followed, and not waited for."""

import errno
import os
import stat
from pathlib import Path


def open_regular(path: Path) -> int:
    """A descriptor of a regular file, for reading; it is the caller's to close.

    Raises:
        OSError: it is not there, or is no regular file (a link, a FIFO, a device, a folder), or cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "it is no regular file")


def why_not(error: OSError) -> str:
    """Why a file could not be opened, in words and without its path."""
    if error.errno == errno.ELOOP:
        return "it is a symbolic link, which is not followed"
    if error.errno == errno.ENOENT:
        return "it is not there any more"
    return error.strerror or type(error).__name__
