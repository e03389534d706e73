"""Bytes that nobody has asked for, greetings, notices, half records, are nobody's reply."""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from anyio import BrokenResourceError, create_task_group, fail_after
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, PooledConnection
from tests.certificates import client_context
from tests.streams.tls_peers import Wire, listening, server_context

from .checks import LIMIT, ask, eventually, expect_closed, hog
from .conftest import Serve
from .servers import Peer, Server, every_kind

pytestmark = pytest.mark.usefixtures("no_socket_left")


# How many turns the event loop has between the arrival and what comes next. After none, only the
# kernel knows of it; asyncio hears of it after two.
TURNS = (0, 1, 2, 3, 10)


async def turns(count: int) -> None:
    for _ in range(count):
        await checkpoint()


class Talker:
    """A script that answers lines with themselves, and says what a test wants when it wants it.

    One thread does both: no TLS socket is good for two.

    :param prelude: what it does first
    """

    def __init__(self, prelude: Callable[[Peer], object] | None = None) -> None:
        self._prelude = prelude
        self._orders: dict[Peer, tuple[socket.socket, deque[bytes], threading.Event]] = {}

    def __call__(self, peer: Peer) -> None:
        """Serve one connection."""
        if self._prelude is not None:
            self._prelude(peer)
        near, far = socket.socketpair()
        said = threading.Event()
        orders = deque[bytes]()
        with near, far:
            self._orders[peer] = far, orders, said
            while True:
                ready = [] if peer.has_line else select.select([near, peer.socket], [], [])[0]
                if near in ready:
                    near.recv(1)
                    peer.send(orders.popleft())
                    said.set()
                else:
                    peer.send(b"> " + peer.receive_line() + b"\n")

    async def push(self, server: Server, data: bytes, *, to: int = -1) -> None:
        """Say something on a connection, the newest by default; it is in the client's kernel then.

        The event loop has no turn meanwhile.
        """
        await eventually(lambda: server.peers and server.peers[to] in self._orders)
        far, orders, said = self._orders[server.peers[to]]
        said.clear()
        orders.append(data)
        far.send(b".")
        assert said.wait(LIMIT)


def say_welcome(peer: Peer) -> None:
    peer.send(b"welcome\n")


def say_two_lines(peer: Peer) -> None:
    """Greet in one segment."""
    peer.send(b"welcome\nmessage of the day\n")


async def log_in(connection: PooledConnection) -> None:
    await ask(connection, b"login")


# Greetings


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_greeting_that_its_borrower_has_left_reaches_nobody(
    serve: Serve, busy: bool
) -> None:
    """Whoever borrows without reading has used the connection up, whenever the greeting comes."""
    server = serve(None)
    async with server.pool(max_size=1) as pool, create_task_group() as group:
        if busy:
            group.start_soon(hog)
        for number, count in enumerate(TURNS):
            async with pool.acquire() as connection:
                assert not connection.reused
                peer = await server.peer(number)
                peer.send(b"welcome\n")
                await turns(count)
        async with pool.acquire() as connection:
            (await server.peer(len(TURNS))).send(b"fresh\n")
            assert await connection.receive_line() == b"fresh"
        await expect_closed(pool, unread_data=len(TURNS))
        group.cancel_scope.cancel()


async def test_a_greeting_that_comes_when_its_borrower_has_gone_reaches_nobody(
    serve: Serve,
) -> None:
    """It is late, but the server can't know that there was somebody to greet."""
    server = serve(None)
    async with server.pool(max_size=1) as pool:
        for number, count in enumerate(TURNS):
            async with pool.acquire() as connection:
                assert not connection.reused
                peer = await server.peer(number)
            peer.send(b"welcome\n")
            await turns(count)
        async with pool.acquire() as connection:
            assert not connection.reused
        await expect_closed(pool, unread_data=len(TURNS))


async def test_a_greeting_that_was_left_is_not_handed_to_who_waits(serve: Serve) -> None:
    """The direct way from one borrower to the next is watched as well."""
    server = serve(None)
    async with server.pool(max_size=1) as pool:

        async def wait_in_line(number: int) -> None:
            async with pool.acquire() as connection:
                assert not connection.reused
                (await server.peer(number)).send(b"for %d\n" % number)
                assert await connection.receive_line() == b"for %d" % number
                connection.discard()

        for number, count in enumerate(TURNS):
            async with create_task_group() as group, pool.acquire() as connection:
                assert not connection.reused
                peer = await server.peer(2 * number)
                group.start_soon(wait_in_line, 2 * number + 1)
                await eventually(lambda: pool.statistics().tasks_waiting == 1)
                peer.send(b"welcome\n")
                await turns(count)
        await expect_closed(pool, unread_data=len(TURNS), discarded=len(TURNS))


async def test_a_greeting_on_a_connection_that_nobody_has_used_is_its_first_borrowers(
    serve: Serve,
) -> None:
    """It comes early, or late, or with the first reply: the connection waits for it unharmed."""
    for count in TURNS:
        server = serve(None)
        async with server.pool(min_idle=1, max_size=1) as pool:
            await pool.wait_ready()
            peer = await server.peer(0)
            peer.send(b"welcome\n")
            await turns(count)
            async with pool.acquire() as connection:
                assert await connection.receive_line() == b"welcome"
            async with pool.acquire() as connection:
                assert connection.reused
            assert pool.statistics().opened == 1


@every_kind
async def test_a_greeting_is_no_reply_to_who_shares_a_connection(serve: Serve) -> None:
    """It had come when nobody had used the connection: the first request is not even sent."""
    for count in TURNS:
        server = serve(None)
        async with server.pool(min_idle=1, max_size=1, pipeline=8) as pool:
            await pool.wait_ready()
            peer = await server.peer(0)
            peer.send(b"welcome\n")
            await turns(count)
            with pytest.raises(BrokenResourceError, match="if it greets, receive that in on_conn"):
                await pool.send_receive_line(b"hello", timeout=LIMIT)
            await expect_closed(pool, unread_data=1)


# Notices after a login


async def see_a_push_after(
    hook: Callable[[PooledConnection], Awaitable[None]],
    serve: Serve,
    prelude: Callable[[Peer], object] | None = None,
    *,
    one_way: bool = False,
) -> None:
    """See that what is pushed to a connection that only a hook has used reaches nobody."""
    for count in TURNS:
        talker = Talker(prelude)
        server = serve(talker)
        async with server.pool(min_idle=1, max_size=1, on_connect=hook, one_way=one_way) as pool:
            await pool.wait_ready()
            await talker.push(server, b"notice\n", to=0)
            await turns(count)
            for number in range(3):
                line = b"%d" % number
                assert await pool.send_receive_line(line) == b"> " + line
            await expect_closed(pool, unread_data=1)
            assert pool.statistics().reused == 2


async def test_what_comes_after_a_login_ends_the_connection(serve: Serve) -> None:
    """Never lent is not never used: the greeting is over when the hook has spoken."""
    await see_a_push_after(log_in, serve)


async def test_what_comes_after_a_hook_that_only_reads_ends_the_connection(serve: Serve) -> None:
    """The hook has received the greeting: what follows is none."""

    async def read_greeting(connection: PooledConnection) -> None:
        assert await connection.receive_line() == b"welcome"

    await see_a_push_after(read_greeting, serve, say_welcome)


# With TLS 1.3 the tickets may come then, too: a reason to close it in itself on asyncio.
@pytest.mark.parametrize("kind", ["tcp", "tls12", "unix"])
async def test_what_comes_after_a_hook_that_only_sends_ends_the_connection(serve: Serve) -> None:
    """One-way protocols have logins without a reply."""

    async def send_login(connection: PooledConnection) -> None:
        await connection.send_line(b"login")

    await see_a_push_after(send_login, serve, Peer.receive_line, one_way=True)


async def test_what_a_hook_has_left_is_handed_on_once(serve: Serve) -> None:
    """It is the rest of a greeting; what comes after it is not, and takes it along."""

    async def read_first_line(connection: PooledConnection) -> None:
        assert await connection.receive_line() == b"welcome"
        # Both came in one segment.
        assert connection.buffer == b"message of the day\n"

    for pushes in (False, True):
        talker = Talker(say_two_lines)
        server = serve(talker)
        async with server.pool(min_idle=1, max_size=1, on_connect=read_first_line) as pool:
            await pool.wait_ready()
            if pushes:
                await talker.push(server, b"notice\n", to=0)
            async with pool.acquire() as connection:
                assert await connection.receive_line() == b"message of the day"
                await ask(connection)
            async with pool.acquire() as connection:
                assert connection.reused
                assert connection.buffer == b""
                await ask(connection)
            assert pool.statistics().opened == (2 if pushes else 1)


async def test_a_check_does_not_ask_a_connection_that_nobody_has_used(serve: Serve) -> None:
    """Its question would be answered by the greeting, and the borrower would read its answer."""
    asked: list[PooledConnection] = []

    async def ping(connection: PooledConnection) -> None:
        asked.append(connection)
        await ask(connection, b"ping")

    async def read_first_line(connection: PooledConnection) -> None:
        assert await connection.receive_line() == b"welcome"

    cases = [
        (say_welcome, None, [b"welcome"]),
        (say_two_lines, None, [b"welcome", b"message of the day"]),
        (say_two_lines, read_first_line, [b"message of the day"]),
    ]
    for prelude, hook, expected in cases:
        asked.clear()
        async with serve(Talker(prelude)).pool(
            min_idle=1, max_size=1, check=ping, check_after=0, on_connect=hook
        ) as pool:
            await pool.wait_ready()
            async with pool.acquire() as connection:
                assert not asked
                for line in expected:
                    assert await connection.receive_line() == line
                await ask(connection)
            async with pool.acquire() as connection:
                assert len(asked) == 1
                await ask(connection)


async def test_what_comes_after_the_answer_to_a_check_ends_the_connection(serve: Serve) -> None:
    """The hook has its answer, and the server says more."""
    talker = Talker()
    server = serve(talker)
    pushed = 0

    async def ping(connection: PooledConnection) -> None:
        nonlocal pushed
        await ask(connection, b"ping")
        if pushed < len(TURNS):
            await talker.push(server, b"by the way\n")
            await turns(TURNS[pushed])
            pushed += 1

    async with server.pool(max_size=1, check=ping, check_after=0) as pool:
        for number in range(len(TURNS) + 2):
            line = b"%d" % number
            assert await pool.send_receive_line(line) == b"> " + line
        assert pushed == len(TURNS)
        await expect_closed(pool, unread_data=len(TURNS))


# Notices in other places


async def test_a_notice_reaches_nobody_whenever_it_comes(serve: Serve) -> None:
    """During a borrow, after its last read; and while the connection is idle."""
    for during in (True, False):
        talker = Talker()
        server = serve(talker)
        async with server.pool(max_size=1) as pool:
            for count in TURNS:
                async with pool.acquire() as connection:
                    assert not connection.reused
                    await ask(connection)
                    if during:
                        await talker.push(server, b"notice\n")
                        await turns(count)
                if not during:
                    await talker.push(server, b"notice\n")
                    await turns(count)
            async with pool.acquire() as connection:
                assert not connection.reused
                await ask(connection)
            await expect_closed(pool, unread_data=len(TURNS))


async def test_a_notice_before_an_exchange_of_the_pools_own_is_seen(serve: Serve) -> None:
    """The short way of an exchange looks as carefully as the long one."""
    talker = Talker()
    server = serve(talker)
    async with server.pool(max_size=1) as pool:
        assert await pool.send_receive_line(b"one") == b"> one"
        for count in TURNS:
            await talker.push(server, b"> notice\n")
            await turns(count)
            assert await pool.send_receive_line(b"two") == b"> two"
            await talker.push(server, b"> notice\n")
            await turns(count)
            assert await pool.send_receive(b"four\n", 7) == b"> four\n"
        await expect_closed(pool, unread_data=2 * len(TURNS))
        assert pool.statistics().reused == 0


# Half records of TLS


@asynccontextmanager
async def half_record_pool(
    version: str,
) -> AsyncGenerator[tuple[ConnectionPool, list[Wire]], None]:
    """Make a pool of one TLS connection, to a server that a test speaks for."""
    wires: list[Wire] = []

    async def script(wire: Wire) -> None:
        await wire.shake_hands()
        wires.append(wire)

    async with listening(script, server_context(version)) as address:
        with fail_after(LIMIT):
            async with ConnectionPool(
                address,
                tls=True,
                ssl_context=client_context(),
                tls_hostname="localhost",
                max_size=1,
                close_timeout=0.01,
            ) as pool:
                yield pool, wires


async def ask_wire(connection: PooledConnection, wires: list[Wire], number: int) -> Wire:
    """Ask what a test has to answer, and return the wire."""
    # Not before the handshake is over, or its last message would bring the question with it.
    await eventually(lambda: len(wires) > number)
    await connection.send_line(b"question")
    assert await wires[number].hear(9) == b"question\n"
    return wires[number]


async def exchange(connection: PooledConnection, wires: list[Wire], number: int) -> Wire:
    """Make one exchange, and return the wire."""
    wire = await ask_wire(connection, wires, number)
    wire.say(b"answer\n")
    assert await connection.receive_line() == b"answer"
    return wire


CUTS = (1, 4, 5, 6, 200, -1)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_half_a_record_on_an_idle_connection_is_a_reason_to_close_it(version: str) -> None:
    """One byte of its header is enough, and all except its last byte is no better."""
    async with half_record_pool(version) as (pool, wires):
        number = 0
        for cut in CUTS:
            for count in (0, 10):
                async with pool.acquire() as connection:
                    assert not connection.reused
                    wire = await exchange(connection, wires, number)
                wire.send(wire.server.say(b"stale reply\n" * 40)[:cut])
                await turns(count)
                number += 1
        async with pool.acquire() as connection:
            assert not connection.reused
            await exchange(connection, wires, number)
        await expect_closed(pool, unread_data=number)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_half_a_record_after_a_reply_is_a_reason_to_close_it(version: str) -> None:
    """It comes with the reply, or later in the borrow; nor is it handed to who waits."""
    async with half_record_pool(version) as (pool, wires):

        async def wait_in_line(number: int) -> None:
            async with pool.acquire() as connection:
                assert not connection.reused
                await exchange(connection, wires, number)
                connection.discard()

        number = 0
        for cut in CUTS:
            for together, contested in ((True, False), (False, False), (False, True)):
                async with create_task_group() as group, pool.acquire() as connection:
                    assert not connection.reused
                    wire = await ask_wire(connection, wires, number)
                    number += 1
                    reply = wire.server.say(b"answer\n")
                    stale = wire.server.say(b"stale reply\n" * 40)[:cut]
                    wire.send(reply + stale if together else reply)
                    assert await connection.receive_line() == b"answer"
                    if contested:
                        group.start_soon(wait_in_line, number)
                        await eventually(lambda: pool.statistics().tasks_waiting == 1)
                        number += 1
                    if not together:
                        wire.send(stale)
        await eventually(lambda: not pool.statistics().closing)
        async with pool.acquire() as connection:
            assert not connection.reused
        assert pool.statistics().reused == 0


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_half_a_record_does_not_hold_up_a_read_until_silence(version: str) -> None:
    """Nobody can receive it: what has come whole is returned, and the connection is closed."""
    async with half_record_pool(version) as (pool, wires):
        async with pool.acquire() as connection:
            wire = await ask_wire(connection, wires, 0)
            reply, rest = wire.server.say(b"answer\n"), wire.server.say(b"stale reply\n" * 40)
            wire.send(reply + rest[:50])
            assert await connection.receive_available(quiet=0.1) == b"answer\n"
            assert await connection.drain(quiet=0) == b""
        async with pool.acquire() as connection:
            assert not connection.reused
        await expect_closed(pool, unread_data=1)
