"""Starting to write a file's pages to disk without waiting for them: sync_file_range(2), where there is one.

It promises nothing. fsync does, and it finds less to do, and reports the error of a write that was begun here too.
"""

import ctypes
from collections.abc import Callable

_WRITE = 2  # SYNC_FILE_RANGE_WRITE


def _none(descriptor: int, offset: int, length: int) -> None:
    del descriptor, offset, length


def _start_writing() -> Callable[[int, int, int], object]:
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):
        return _none  # not Linux

    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

    def start(descriptor: int, offset: int, length: int) -> None:
        function(descriptor, offset, length, _WRITE)

    return start


start_writing = _start_writing()
"""Begin to write `length` bytes at `offset` of an open file to disk, and return. Never raises."""
