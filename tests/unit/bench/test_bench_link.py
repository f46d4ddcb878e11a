"""The long line: bandwidth and delay by a clock of our own, and the proxy with real connections, without a clock."""

import asyncio
import contextlib
import os

import pytest

from bench.link import Line, serve
from bench.peers import free_port


def test_bytes_take_their_time_and_the_delay() -> None:
    """A thousand bytes on a line of a thousand a second arrive after a second and the delay."""
    assert Line(1000, 0.25).carry(1000, now=10) == pytest.approx(11.25)


def test_bytes_wait_for_those_before_them() -> None:
    """What is sent at once goes one after the other; the delay counts once for each."""
    line = Line(1000, 0.25)
    assert [line.carry(500, now=0) for _ in range(3)] == pytest.approx([0.75, 1.25, 1.75])


def test_an_idle_line_saves_nothing_up() -> None:
    """After a pause there is no burst: bytes take as long as ever."""
    line = Line(1000, 0)
    line.carry(1000, now=0)
    assert line.carry(1000, now=100) == pytest.approx(101)


def test_a_late_sender_loses_nothing_while_the_line_is_busy() -> None:
    """Timers that come late do not slow the line: what counts is when it is free."""
    line = Line(1000, 0)
    arrivals = [line.carry(100, now=0.09 * number) for number in range(10)]
    assert arrivals[-1] == pytest.approx(1.0)


async def _through(content: bytes, answer: bytes, connections: int) -> list[tuple[bytes, bytes]]:
    """Send content through a quick line, and an answer back; what came out at either end of each connection."""
    arrived: list[bytes] = []

    async def target(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(await reader.read())
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def client(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(content)
        writer.write_eof()
        got = await reader.read()
        writer.close()
        return got

    port, server = free_port(), await asyncio.start_server(target, "127.0.0.1", 0)
    proxy = asyncio.create_task(serve(port, server.sockets[0].getsockname()[1], Line(1e9, 0.001), Line(1e9, 0.001)))
    async with server:
        while True:
            with contextlib.suppress(OSError):
                answers = await asyncio.gather(*(client(port) for _ in range(connections)))
                break
            await asyncio.sleep(0.01)
    proxy.cancel()
    return list(zip(arrived, answers, strict=True))


def test_every_byte_arrives_in_order_both_ways() -> None:
    """Several connections at once, each with more than its window, and the ends of the streams travel too."""
    content, answer = os.urandom(5_000_000), os.urandom(100_000)
    assert asyncio.run(_through(content, answer, 3)) == [(content, answer)] * 3
