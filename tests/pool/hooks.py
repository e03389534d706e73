"""What the tests of the hooks have in common: good ones, and some that spoil a connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from anyconnpool import PooledConnection

from .network import MemoryNetwork, peer_of

Hook = Callable[[PooledConnection], Awaitable[object]]


async def reset(connection: PooledConnection) -> None:
    """Make a connection ready for the next borrower."""
    assert await connection.send_receive_line(b"RESET") == b"RESET"


async def say_bye(connection: PooledConnection) -> None:
    """Say goodbye."""
    assert await connection.send_receive_line(b"QUIT") == b"QUIT"


async def answer_ping(connection: PooledConnection) -> None:
    """Read what the server says, and answer it."""
    assert await connection.receive() == b"PING\n"
    await connection.send_line(b"PONG")


def slow(hook: Hook, seconds: float) -> Hook:
    """Make a hook that takes its time."""

    async def take_time(connection: PooledConnection) -> None:
        await anyio.sleep(seconds)
        await hook(connection)

    return take_time


async def hang(connection: PooledConnection) -> None:
    await anyio.sleep_forever()


async def refuse(connection: PooledConnection) -> None:
    raise RuntimeError("no")


async def refuse_by_false(connection: PooledConnection) -> bool:
    return False


async def await_cancelled(connection: PooledConnection) -> None:
    """Be cancelled by nobody's scope, as by a future that somebody has cancelled."""
    raise anyio.get_cancelled_exc_class()()


async def leave_reply_unread(connection: PooledConnection) -> None:
    await connection.send(b"PING")
    await connection.receive(2)


async def leave_reply_in_buffer(connection: PooledConnection) -> None:
    await connection.send(b"PI\nNG")
    await connection.receive_line()


async def give_back(connection: PooledConnection) -> None:
    await connection.aclose()


async def discard(connection: PooledConnection) -> None:
    connection.discard()


async def detach(connection: PooledConnection) -> None:
    connection.detach()


async def give_up_receiving(connection: PooledConnection) -> None:
    with anyio.move_on_after(1):
        await connection.receive_line()


async def meet_the_end(connection: PooledConnection) -> None:
    peer_of(connection).hang_up()
    with suppress(anyio.EndOfStream):
        await connection.receive()


async def half_close(connection: PooledConnection) -> None:
    await connection.send_eof()


SPOILERS: list[Hook] = [
    hang,
    refuse,
    refuse_by_false,
    leave_reply_unread,
    leave_reply_in_buffer,
    give_back,
    discard,
    detach,
    give_up_receiving,
    meet_the_end,
    half_close,
]


def count(network: MemoryNetwork, word: bytes) -> int:
    """Count how often the server was sent a word."""
    return sum(peer.received.count(word) for peer in network.peers)
