"""Promise 9: a request is sent twice only when that is safe, or asked for."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from anyconnpool import ConnectionPool, PackageFormat, PackageTooLarge, PooledConnection, Retry
from tests.cases import table

from .flaky import Server, calling
from .network import MemoryNetwork, check_books, failing, fill, number_of, peer_of, settle


async def ask(connection: PooledConnection) -> bytes:
    """Do an exchange of the user's own."""
    await connection.send(b"\0\2a\n")
    return await connection.receive_exactly(4)


SCHEDULE: dict[str, Any] = {"interval": 1, "jitter": 0}
EXCHANGES: dict[str, Callable[..., Awaitable[bytes]]] = {
    "until silence": calling("send_receive", b"\0\2a\n"),
    "exactly": calling("send_receive", b"\0\2a\n", 4),
    "line": calling("send_receive_line", b"\0\2a"),
    "package": calling("send_receive_package", b"a\n"),
    "run": calling("run", ask),
}
FRAMED = {name: exchange for name, exchange in EXCHANGES.items() if name != "until silence"}
with_each_exchange = pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=list(EXCHANGES))
LOST = (anyio.EndOfStream, anyio.IncompleteRead)


@with_each_exchange
@table("reused", [True, False])
async def test_a_request_that_was_sent_is_not_repeated_unasked(
    exchange: Callable[..., Awaitable[bytes]], reused: bool
) -> None:
    """The server gets it once, and the caller is told that the connection is gone."""
    server = Server("hang up")
    async with server.pool() as pool:
        if reused:
            await fill(pool, 3)
        with pytest.raises(LOST):
            await exchange(pool)
        assert server.requests == 1
        assert pool.statistics().replayed == 0
        await check_books(pool, server.network)


@with_each_exchange
@pytest.mark.parametrize("count", [0, 2, math.inf])
async def test_dead_connections_are_replaced_at_once_and_for_free(
    exchange: Callable[..., Awaitable[bytes]], count: float
) -> None:
    """With any Retry, also one of 0, as many as there are cost neither a try nor a pause."""
    server = Server()
    async with server.pool() as pool:
        await server.fill_with_dying(pool, 5)
        assert b"a" in await exchange(pool, retry=Retry(count, **SCHEDULE))
        assert server.asked_at == pytest.approx([0] * 6)
        assert pool.statistics().replayed == 5
        assert pool.statistics().closed == {"unclean": 5}
        await check_books(pool, server.network)


@with_each_exchange
async def test_other_failures_count_and_wait_by_the_schedule(
    exchange: Callable[..., Awaitable[bytes]],
) -> None:
    """After as many repeats the last error reaches the caller."""
    server = Server("hang up")
    async with server.pool() as pool:
        with pytest.raises(LOST):
            await exchange(pool, retry=Retry(3, **SCHEDULE))
        assert server.asked_at == pytest.approx([0, 1, 3, 7])
        assert pool.statistics().replayed == 3
        with pytest.raises(LOST):
            await exchange(pool, retry=Retry(0))
        assert server.requests == 5


async def test_free_replacements_use_up_no_tries() -> None:
    """Five dead connections and two failures are within ``Retry(2)``, and pause only twice."""
    server = Server(*["echo"] * 5, "hang up", "hang up", "echo")
    async with server.pool() as pool:
        await server.fill_with_dying(pool, 5)
        assert await pool.send_receive_line(b"a", retry=Retry(2, **SCHEDULE)) == b"a"
        assert server.asked_at == pytest.approx([0] * 6 + [1, 3])
        assert pool.statistics().replayed == 7


@pytest.mark.parametrize("exchange", FRAMED.values(), ids=list(FRAMED))
async def test_half_a_reply_counts_as_a_try(exchange: Callable[..., Awaitable[bytes]]) -> None:
    """A reused connection that had begun to answer was not dead."""
    server = Server("half", "half", "echo")
    async with server.pool() as pool:
        await fill(pool, 1)
        with pytest.raises(LOST):
            await exchange(pool, retry=Retry(0))
        assert server.requests == 1
        await fill(pool, 1)
        assert b"a" in await exchange(pool, retry=Retry(1, **SCHEDULE))
        assert server.asked_at == pytest.approx([0, 0, 1])


async def test_replacing_for_free_has_an_end() -> None:
    """After a hundred dead ones, each further one counts as a try."""
    for count, requests in ((0, 101), (1, 102)):
        server = Server()
        async with server.pool(max_size=150) as pool:
            await server.fill_with_dying(pool, 120)
            with pytest.raises(anyio.EndOfStream):
                await pool.send_receive_line(b"a", retry=Retry(count))
            assert server.requests == requests
            assert pool.statistics().replayed == requests - 1


@table("retry", [None, Retry(0), Retry(2)])
async def test_what_failed_before_anything_was_sent_is_repeated_for_free(
    retry: Retry | None,
) -> None:
    """A function that reads first and finds its reused connections dead is called again at once."""
    server, used = Server(), list[int]()

    async def greet(connection: PooledConnection) -> bytes:
        used.append(number_of(connection))
        if connection.reused:
            peer_of(connection).hang_up()
        else:
            peer_of(connection).push(b"hello\n")
        return await connection.receive_line()

    async with server.pool() as pool:
        await fill(pool, 3)
        assert await pool.run(greet, retry=retry) == b"hello"
        assert sorted(used) == [1, 2, 3, 4]
        assert pool.statistics().replayed == 3
        assert anyio.current_time() == 0


async def test_only_a_connection_dead_from_the_start_is_replaced_unasked() -> None:
    """A new one, one that sent or tried to, and one that received something are not."""
    calls: list[str] = []

    async def read(connection: PooledConnection, what: str) -> None:
        calls.append(what)
        peer = peer_of(connection)
        if what == "received":
            peer.push(b"hel")
        elif what == "sent":
            await connection.send(b"a")
        peer.hang_up()
        if what == "tried to send":
            await connection.send(b"a")
        await connection.receive_line()
        await connection.receive_line()

    async with Server("silence").pool() as pool:
        for what in ("new", "received", "sent", "tried to send"):
            if what != "new":
                await fill(pool, 2)
            with pytest.raises((*LOST, anyio.BrokenResourceError)):
                await pool.run(read, what)
            pool.retire()
        assert calls == ["new", "received", "sent", "tried to send"]
        assert pool.statistics().replayed == 0


@table(
    "error",
    [
        FileNotFoundError("its own"),
        anyio.EndOfStream("of another stream"),
        ConnectionResetError("of another stream"),
        anyio.BrokenResourceError("of another stream"),
    ],
)
async def test_an_error_of_the_functions_own_is_no_dead_connection(error: Exception) -> None:
    """What has nothing to do with this connection is not repeated unasked, whatever it is."""
    calls: list[int] = []

    async def fail(connection: PooledConnection) -> None:
        calls.append(1)
        raise error

    async with Server().pool() as pool:
        await fill(pool, 3)
        with pytest.raises(type(error)) as caught:
            await pool.run(fail)
        assert caught.value is error
        assert calls == [1]
        assert pool.statistics().idle == 2


async def test_a_failure_to_connect_counts_as_a_try() -> None:
    """It is waited out by the schedule of the exchange, and nothing is sent before."""
    server = Server()
    server.network.on_connect = failing(OSError("down"), only=lambda number: number < 4)
    async with server.pool() as pool:
        with pytest.raises(anyio.ConnectionFailed):
            await pool.send_receive_line(b"a", retry=Retry(0))
        assert await pool.send_receive_line(b"a", retry=Retry(2, **SCHEDULE)) == b"a"
        assert server.asked_at == pytest.approx([3])
        assert pool.statistics().replayed == 2


@table("reply", [b"\1\0", b"\0\3\0\0\0"])
async def test_a_reply_that_is_wrong_is_not_asked_for_again(reply: bytes) -> None:
    """A package or a line over the limit says nothing of the connection, the next would too."""
    network = MemoryNetwork(answer=lambda data: reply)
    async with ConnectionPool(network, max_line_bytes=1) as pool:
        await fill(pool, 1)
        with pytest.raises(PackageTooLarge):
            await pool.send_receive_package(b"a", PackageFormat(max_size=2), retry=Retry(5))
        with pytest.raises(anyio.DelimiterNotFound):
            await pool.send_receive_line(b"a", retry=Retry(5))
        assert sum(len(peer.received) for peer in network.peers) == 5
        assert pool.statistics().replayed == 0


async def test_a_timeout_is_not_repeated() -> None:
    """Neither the limit of the exchange nor one of the function's own: the request was sent."""
    server = Server("silence")

    async def impatient(connection: PooledConnection) -> None:
        await connection.send_receive_line(b"a", timeout=1)

    async with server.pool() as pool:
        for reused in (False, True):
            await fill(pool, int(reused))
            with pytest.raises(TimeoutError):
                await pool.send_receive_line(b"a", timeout=1, retry=Retry(5))
            with pytest.raises(TimeoutError):
                await pool.run(impatient, retry=Retry(5))
        assert server.requests == 4
        assert pool.statistics().replayed == 0


@pytest.mark.parametrize(("timeout", "requests"), [(3.5, 4), (0.5, 1), (0, 0)])
async def test_one_time_limit_covers_all_tries(timeout: float, requests: int) -> None:
    """It ends in the middle of a pause, too, and nothing is sent afterwards."""
    server = Server("hang up")
    async with server.pool() as pool:
        await anyio.sleep(1)
        with pytest.raises(TimeoutError):
            retry = Retry(math.inf, interval=1, backoff=1, jitter=0)
            await pool.send_receive_line(b"a", timeout=timeout, retry=retry)
        assert anyio.current_time() == pytest.approx(1 + timeout)
        await anyio.sleep(60)
        assert server.requests == requests
        await check_books(pool, server.network)


async def test_each_try_gets_a_clean_connection_of_its_own() -> None:
    """None is used again after a failure, and none has bytes of the try before."""
    server, used = Server("half"), list[int]()

    async def look_and_ask(connection: PooledConnection) -> None:
        used.append(number_of(connection))
        assert connection.buffer == b""
        assert not connection.has_sent
        await ask(connection)

    async with server.pool(max_size=1) as pool:
        with pytest.raises(anyio.IncompleteRead):
            await pool.run(look_and_ask, retry=Retry(3))
        assert used == [1, 2, 3, 4]
        assert server.network.most_open == 1


async def test_nothing_is_borrowed_during_a_pause() -> None:
    """Others can use the pool, and a cancellation then leaves nothing behind."""
    server = Server("hang up", "echo")
    async with server.pool(max_size=1) as pool, anyio.create_task_group() as tasks:

        async def repeat() -> None:
            await pool.send_receive_line(b"a", retry=Retry(1, **SCHEDULE))

        tasks.start_soon(repeat)
        await settle()
        assert pool.statistics().size == 0
        assert await pool.send_receive_line(b"b") == b"b"
        tasks.cancel_scope.cancel()
    assert server.requests == 2


@table("every", [2, 3, 7])
async def test_fifty_tasks_lose_nothing_to_a_server_that_hangs_up(every: int) -> None:
    """Each gets the replies to its own requests."""
    server = Server(*[("hang up" if number % every == 0 else "echo") for number in range(5000)])

    async def talk(name: int) -> None:
        for number in range(10):
            line = b"%d %d" % (name, number)
            assert await pool.send_receive_line(line, retry=Retry(10, jitter=0.5)) == line

    async with server.pool(max_size=5) as pool:
        async with anyio.create_task_group() as tasks:
            for name in range(50):
                tasks.start_soon(talk, name)
        assert server.requests == 500 + pool.statistics().replayed
        assert pool.statistics().replayed >= 500 // every
        await check_books(pool, server.network)
