"""Starting to write a file's pages to disk without waiting for them: sync_file_range(2), where there is one.

It promises nothing. fsync does, and it finds less to do, and reports the error of a write that was begun here too: only
the flags that wait (SYNC_FILE_RANGE_WAIT_BEFORE, _AFTER) take the error of the file off the descriptor. What the
call itself finds is an error of the file like that of a write: pages may be dropped by then, and fsync need not know.
"""

import ctypes
import errno
import os
from collections.abc import Callable

_WRITE = 2  # SYNC_FILE_RANGE_WRITE
_OF_THE_DISK = frozenset((errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS))  # others: it cannot be begun here


def _none(descriptor: int, offset: int, length: int) -> None:
    del descriptor, offset, length


def _start_writing() -> Callable[[int, int, int], object]:
    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (AttributeError, OSError):
        return _none  # not Linux

    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

    def start(descriptor: int, offset: int, length: int) -> None:
        if function(descriptor, offset, length, _WRITE) and (code := ctypes.get_errno()) in _OF_THE_DISK:
            raise OSError(code, os.strerror(code))

    return start


start_writing = _start_writing()
"""Begin to write `length` bytes at `offset` of an open file to disk, and return.

Raises:
    OSError: the disk refused some of it: nothing of this file may be trusted any more.
"""
