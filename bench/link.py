"""`python -m bench.link PORT TARGET_PORT`: a TCP proxy on loopback that is as slow as a long line.

Each direction has a bandwidth, which all connections share, and a delay. What is sent waits for its turn on the line
(a token bucket without burst: a byte is a token, and none is saved up), and then travels for the delay. A new
connection waits one round trip more, as its handshake would. The senders' windows are never the limit: a connection
has room for `_WINDOW_BYTES` on the way, several times what the line holds. Slow start and loss are not modelled.
"""

import argparse
import asyncio
import contextlib
import socket
import sys
from dataclasses import dataclass, field

_CHUNK_BYTES = 16 * 1024
_WINDOW_BYTES = 4 * 1024 * 1024
# How far ahead of the line its queue is filled: timers come late by a millisecond, and the line must not wait for them.
_QUEUE_SECONDS = 0.02


@dataclass
class Line:
    """One direction of a link.

    Attributes:
        bytes_per_second: its bandwidth.
        delay: from one end to the other, seconds.
    """

    bytes_per_second: float
    delay: float
    _free_at: float = field(default=0.0, init=False)

    def carry(self, size_bytes: int, now: float) -> float:
        """Put bytes on the line, after all that was put there before.

        Args:
            size_bytes: how many.
            now: when they are there to be sent, seconds.

        Returns:
            When the last of them arrives at the other end.
        """
        self._free_at = max(now, self._free_at) + size_bytes / self.bytes_per_second
        return self._free_at + self.delay


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line, opened: float) -> None:
    """One direction of one connection, to its end."""
    clock = asyncio.get_running_loop().time
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WINDOW_BYTES // _CHUNK_BYTES)

    async def put() -> None:
        data = b"-"
        while data:
            data = await reader.read(_CHUNK_BYTES)
            arrival = line.carry(len(data), max(clock(), opened))
            await on_the_way.put((arrival, data))
            await _sleep(arrival - line.delay - _QUEUE_SECONDS - clock())

    async def take() -> None:
        while True:
            arrival, data = await on_the_way.get()
            await _sleep(arrival - clock())
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    await asyncio.gather(put(), take())


async def _sleep(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


async def serve(port: int, target_port: int, there: Line, back: Line) -> None:
    """Accept for ever."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened = asyncio.get_running_loop().time() + there.delay + back.delay
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target_port)
            try:
                for one in (writer, far_writer):
                    one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await asyncio.gather(
                    _carry(reader, far_writer, there, opened), _carry(far_reader, writer, back, opened)
                )
            finally:
                far_writer.close()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port, limit=_CHUNK_BYTES)
    async with server:
        await server.serve_forever()


def main(argv: list[str]) -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="bench.link")
    parser.add_argument("port", type=int)
    parser.add_argument("target_port", type=int)
    parser.add_argument("--megabits", type=float, default=100.0, help="bandwidth of each direction, million bit/s")
    parser.add_argument("--round-trip-ms", type=float, default=80.0)
    options = parser.parse_args(argv)
    lines = [Line(options.megabits * 1e6 / 8, options.round_trip_ms / 2000) for _ in range(2)]
    asyncio.run(serve(options.port, options.target_port, *lines))


if __name__ == "__main__":
    main(sys.argv[1:])
