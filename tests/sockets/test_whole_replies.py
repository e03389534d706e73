"""Replies without frames that are larger than any buffer on their way: none is cut short."""

from __future__ import annotations

import threading
from array import array
from functools import cache, partial
from itertools import count
from typing import Any

import pytest
from anyio import create_task_group, to_thread

from anyconnpool import PackageFormat

from .checks import eventually, expect_closed
from .conftest import Serve
from .servers import Peer, Server

pytestmark = pytest.mark.usefixtures("no_socket_left")

BURST = 1 << 20
SIZES = (900_000, 5_000_000)


@cache
def reply_of(size: int) -> bytes:
    """Return bytes that show where they stand."""
    return b"".join(b"%07d\n" % number for number in range(size // 8 + 1))[:size]


class Sender:
    """A script that answers a number with so many bytes, and says when all are on their way."""

    def __init__(self) -> None:
        self.sent = threading.Event()

    def __call__(self, peer: Peer) -> None:
        while True:
            peer.send(reply_of(int(peer.receive_line())))
            self.sent.set()


@pytest.mark.parametrize("kind", ["tcp", "tls13"])
async def test_a_large_burst_is_received_whole(serve: Serve) -> None:
    """Whatever chunks the loop makes of it: the line has to be silent for the burst to end."""
    server = serve(Sender())
    async with server.pool(max_size=1) as pool:
        for size in SIZES:
            expected = reply_of(size)
            async with pool.acquire() as connection:
                await connection.send_line(b"%d" % size)
                received = await connection.receive_available(quiet=1, max_bytes=1 << 24)
                assert received == expected
            async with pool.acquire() as connection:
                await connection.send_line(b"%d" % size)
                assert await connection.drain(quiet=1, max_bytes=1 << 24) == expected
        assert pool.statistics().opened == 1


async def test_what_has_arrived_is_never_cut_short(serve: Serve) -> None:
    """All of it is with this process or its kernel, so that nothing is missing after a moment."""
    sender = Sender()
    server = serve(sender)
    size = 150_000  # which any kernel holds, beside what the stream has read ahead
    async with server.pool(max_size=1) as pool:
        for way in ("available", "drain"):
            async with pool.acquire() as connection:
                sender.sent.clear()
                await connection.send_line(b"%d" % size)
                await to_thread.run_sync(sender.sent.wait, 20)
                receive = connection.receive_available if way == "available" else connection.drain
                assert await receive(quiet=0.001) == reply_of(size)
        assert pool.statistics().opened == 1


async def test_an_exchange_without_a_length_gets_whole_replies(serve: Serve) -> None:
    """Up to 1 MiB, at which it stops; what is left then ends the connection.

    A server that pauses for a millisecond, on a machine that is busy, has ended its reply: such
    tries don't count.
    """
    server = serve(Sender())
    async with server.pool(max_size=1) as pool:
        for size in SIZES:
            expected = reply_of(size)[:BURST]
            for attempt in count():
                async with pool.acquire() as connection:
                    received = await connection.send_receive(b"%d\n" % size)
                    assert expected.startswith(received)
                    if received == expected:
                        break
                    # Nobody can know of the rest.
                    connection.discard()
                assert attempt < 50, "every reply was cut short"
        await eventually(lambda: not pool.statistics().closing)
        # Nobody gets the rest of one.
        for number in (10, 20, 30):
            assert await pool.send_receive(b"%d\n" % number, number) == reply_of(number)


async def received_by(peer: Peer, count: int) -> bytes:
    """Return so many bytes that a peer gets."""
    data = bytearray()
    while len(data) < count and (chunk := await to_thread.run_sync(peer.socket.recv, 65_536)):
        data += chunk
    return bytes(data)


async def test_what_has_larger_items_than_bytes_is_sent_whole(serve: Serve) -> None:
    """Its length is counted in bytes: in the header of a package, and on the way to the kernel."""
    server: Server = serve(None)
    form = PackageFormat(4)
    async with server.pool(max_size=1) as pool, pool.acquire() as connection:
        peer = await server.peer(0)
        for items in (3, 5_000, 200_000):
            data: Any = memoryview(array("I", range(items)))
            header = data.nbytes.to_bytes(4, "big")
            for head, send in (
                (b"", partial(connection.send, data)),
                (header, partial(connection.send_package, data, form)),
            ):
                async with create_task_group() as group:
                    group.start_soon(send)
                    assert await received_by(peer, len(head) + data.nbytes) == head + bytes(data)
        connection.discard()
    await expect_closed(pool, discarded=1)
