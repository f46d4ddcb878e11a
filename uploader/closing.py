"""Letting go of files that are deleted, in threads of their own.

The last close of a deleted file frees its blocks. That takes as long as sending it where the kernel tells the disk of
each freed block at once (ext4 without a journal, mounted with `discard`: 0.1 ms for 15 kB, 0.3 ms for half a megabyte),
and for a large file everywhere. Nobody waits for it: the name is gone, and the kernel does it itself for a process that
dies.

The descriptors of a request go into a socket of our own, as to another process (SCM_RIGHTS), and a thread that takes
the message out without them makes the last close of them all, in one call to the kernel. Were it to close them one by
one, it would want the interpreter back after each, from the threads that deliver.
"""

import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from common.spool import Claim

_THREADS = 4  # disks take the news of several files at once
_MAX_OPEN = 256  # files that may wait to be closed; then whoever brings more closes them
_MAX_SENT = 253  # descriptors in a message (SCM_MAX_FD)


class Closing:
    """Closes claims; safe to call from several threads at once."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="closing")
        self._lock = threading.Lock()
        self._open = 0
        self._in, self._out = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._in.setblocking(False)

    def close(self, claims: Sequence[Claim]) -> None:
        """Close the claims soon, those of files that are still there at once: they may be wanted again."""
        deleted = [claim for claim in claims if claim.deleted]
        parts = [deleted[begin : begin + _MAX_SENT] for begin in range(0, len(deleted), _MAX_SENT)]
        sent = [len(part) for part in parts if self._send(part)]
        for claim in claims:
            claim.close()
        # Only now, or those above would be the last closes.
        for count in sent:
            self._threads.submit(self._drop, count)

    def _send(self, claims: Sequence[Claim]) -> bool:
        """Put the descriptors of these into the socket, if few enough wait; tell whether they are there."""
        with self._lock:
            if len(claims) > _MAX_OPEN - self._open:
                return False
            self._open += len(claims)
        try:
            socket.send_fds(self._in, [b"x"], [claim.fd for claim in claims])
        except OSError:  # too many descriptors on their way
            with self._lock:
                self._open -= len(claims)
            return False
        return True

    def _drop(self, count: int) -> None:
        """Let go of what is in one message. Which one, is the same: each is taken out once."""
        _last_close(self._out)
        with self._lock:
            self._open -= count


def _last_close(out: socket.socket) -> None:
    out.recv(1)  # without room for descriptors: the kernel closes them
