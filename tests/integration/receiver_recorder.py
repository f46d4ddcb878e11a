"""A proxy in front of a receiver that keeps what a real sender says."""

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable


class Recorder:
    """A TCP proxy that keeps what the client says, in pieces: up to the next answer."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._said = bytearray()
        self._answered: list[int] = []
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def _pass_on(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            back = threading.Thread(target=self._copy, args=(server, client, self._answer), daemon=True)
            back.start()
            self._copy(client, server, self._said.extend)
            back.join(10)

    def _answer(self, _: bytes) -> None:
        self._answered.append(len(self._said))

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket, keep: Callable[[bytes], None]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                keep(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def recording(self) -> list[bytes]:
        """What the client has said, when it has closed: what comes before each answer."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._listener.close()
        marks = [0, *sorted(set(self._answered))]
        return [bytes(self._said[start:end]) for start, end in itertools.pairwise(marks)]
