"""renameat2(2): a rename that never replaces what has the name by now. Linux only; elsewhere it looks first."""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

_AT_FDCWD = -100
_NOREPLACE = 1
_NOT_THERE = frozenset((errno.ENOSYS, errno.EINVAL))  # the kernel, or the filesystem, does not know it


def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None  # not Linux, or an older C library
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    found: Callable[[int, bytes, int, bytes, int], int] = function
    return found


_RENAME = _renameat2()


def rename_to_free(source: Path, target: Path) -> None:
    """Rename `source` to `target`, which must not exist.

    Raises:
        FileNotFoundError: there is no `source`.
        FileExistsError: there is a `target`; both are as they were.
        OSError: it could not be renamed.
    """
    code = errno.ENOSYS
    if _RENAME is not None:
        if _RENAME(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
    if code not in _NOT_THERE:
        raise OSError(code, os.strerror(code), os.fspath(source), None, os.fspath(target))
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target))
    os.rename(source, target)
