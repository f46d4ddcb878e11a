"""Somebody who stands in front of a server on loopback: a listener with a thread for each connection."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def front(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Have each connection served in a thread of its own, for the length of a with block; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, serve), daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        # A thread in accept() holds the port until it is woken.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _accept(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client,), daemon=True).start()
