"""Files of staging/ that are there before the instances that will fill them.

A file is created while nobody waits for it: after the answer to an instance, when its sender prepares the next one.
There are as many as instances ever came at the same time, for each of them leaves one behind.
"""

import contextlib
from collections import deque
from collections.abc import Callable

from common.staging import Staged


class FilesAhead:
    """Some files that are ready to be taken. Safe to use from several threads.

    Args:
        create: creates a file in staging/, or raises OSError.
    """

    _MOST = 64

    def __init__(self, create: Callable[[], Staged]) -> None:
        self._create = create
        self._files: deque[Staged] = deque()

    def take(self) -> Staged:
        """A file that nobody has written to.

        Raises:
            OSError: there is none ready, and it cannot be created.
        """
        with contextlib.suppress(IndexError):
            while True:
                staged = self._files.popleft()
                # Whoever empties staging/ while we are idle has taken its name.
                if staged.is_there():
                    return staged
                staged.close()
        return self._create()

    def restock(self) -> None:
        """Create the next one, in place of the one that was taken for an instance. Never raises."""
        if len(self._files) < self._MOST:
            # Who needs a file will be told why there is none.
            with contextlib.suppress(OSError):
                self._files.append(self._create())

    def close(self) -> None:
        """Remove the files that were not taken. No thread may use it any more."""
        with contextlib.suppress(IndexError):
            while True:
                self._files.popleft().withdraw()
