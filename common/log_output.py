"""Where log lines go: standard error, without ever being in anybody's way.

A line that cannot be written is lost, and counted: logging never raises into its caller, and waits for the reader of
standard error no longer than a moment.
"""

import logging
import os
import select
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from common.log_lines import FIELDS

_PATIENCE_SECONDS = 0.2
_of_thread = threading.local()


@contextmanager
def together() -> Iterator[None]:
    """For the length of a with block, the lines of this thread are gathered, and written some at a time.

    For fifty lines in a row: each write is two calls to the kernel, between which other threads get their turn. A line
    waits for the end of the block at most; a process that is killed in it may lose a dozen.
    """
    outer = getattr(_of_thread, "gathered", None)
    _of_thread.gathered = outer or _Gathered()
    try:
        yield
    finally:
        if outer is None:
            gathered, _of_thread.gathered = _of_thread.gathered, None
            gathered.write()


class _Gathered:
    """Lines of one thread that wait to be written together, at most as many as one write takes."""

    def __init__(self) -> None:
        self._output: StandardError | None = None
        self._lines: list[bytes] = []
        self._size_bytes = 0

    def add(self, output: "StandardError", line: bytes) -> None:
        """Take a line; first write what is there, if both do not fit."""
        if output is not self._output or self._size_bytes + len(line) > select.PIPE_BUF:
            self.write()
        self._output = output
        self._lines.append(line)
        self._size_bytes += len(line)

    def write(self) -> None:
        """Write what is there."""
        lines, self._lines, self._size_bytes = self._lines, [], 0
        if self._output is not None and lines:
            with self._output.lock or nullcontext():
                self._output.write(lines)


class StandardError(logging.Handler):
    """Writes lines to whatever standard error is at that time, if it takes them.

    A full pipe whose reader sleeps would stop every thread that logs, and with it the reception of
    instances. So no write is begun that may not end at once: a descriptor that poll calls writable takes
    PIPE_BUF bytes (POSIX, write), if no other process fills the same pipe between the two calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0
        self._stalled = False
        self._torn = False
        self._polled: tuple[int, select.poll] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or have it wait for others of its thread; count it as lost if that fails."""
        try:
            line = self._bytes_of(record)
        except Exception:  # noqa: BLE001 -- nothing that logging does may reach its caller
            self._lost += 1
            return
        gathered: _Gathered | None = getattr(_of_thread, "gathered", None)
        if gathered is not None:
            gathered.add(self, line)
        else:
            self.write([line])

    def write(self, lines: Sequence[bytes]) -> None:
        """Write lines, which are no more than one write takes, or one; count them as lost if that fails."""
        try:
            if self._lost:
                self._write(self._bytes_of(self._about_lost_lines()))
                self._lost = 0
            self._write(b"".join(lines))
        except Exception:  # noqa: BLE001 -- nothing that logging does may reach its caller
            self._lost += len(lines)

    def _bytes_of(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _about_lost_lines(self) -> logging.LogRecord:
        return logging.makeLogRecord(
            {
                "name": __name__,
                "levelname": "WARNING",
                "msg": "log lines lost: standard error did not take them",
                FIELDS: {"lines": self._lost},
            }
        )

    def _write(self, data: bytes) -> None:
        """Write whole lines, or raise."""
        stream = sys.stderr
        try:
            descriptor = stream.fileno()
        except (AttributeError, OSError, ValueError):
            # No file behind it: a stream of a test, or closed, which its write will tell.
            stream.write(data.decode())
            stream.flush()
            return
        # A line cut short by a stall must not run into the next one.
        data = (b"\n" if self._torn else b"") + data
        while data:
            self._await_room(descriptor)
            data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]
            self._torn = bool(data)

    def _await_room(self, descriptor: int) -> None:
        """Return once the descriptor takes PIPE_BUF bytes, or raise BlockingIOError after a moment.

        After one such moment of waiting there is no other until the reader is back.
        """
        if self._polled is None or self._polled[0] != descriptor:
            self._polled = descriptor, select.poll()
            self._polled[1].register(descriptor, select.POLLOUT)
        self._stalled = not self._polled[1].poll(0 if self._stalled else _PATIENCE_SECONDS * 1000)
        if self._stalled:
            raise BlockingIOError
