"""Whole exchanges: one call borrows, sends, receives and gives back, within one time limit.

Arguments that make no sense are refused before anything is opened or sent.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import pytest

from anyconnpool import (
    AcquireTimeout,
    ConnectionPool,
    LineFormat,
    PackageFormat,
    PackageTooLarge,
    PoolClosed,
    PooledConnection,
    PoolFull,
    Retry,
)
from anyconnpool._util.errors import is_hang_up
from tests.cases import table

from .flaky import calling
from .network import MemoryNetwork, check_books, delayed, failing, fill, hang, peer_of

FORMAT = PackageFormat(4, max_size=70_000)

#: every exchange with a reply of a pool and of a connection, and what is sent and returned
EXCHANGES: dict[str, tuple[Callable[..., Awaitable[bytes]], bytes, bytes]] = {
    "until silence": (calling("send_receive", b"ping"), b"ping", b"ping"),
    "exactly": (calling("send_receive", b"ping", 4), b"ping", b"ping"),
    "line": (calling("send_receive_line", b"ping"), b"ping\n", b"ping"),
    "line, options": (
        calling("send_receive_line", b"ping", newline=b"\r\n", max_bytes=4),
        b"ping\r\n",
        b"ping",
    ),
    "package": (calling("send_receive_package", b"ping"), b"\0\4ping", b"ping"),
    "package, format": (
        calling("send_receive_package", b"ping", FORMAT),
        b"\0\0\0\4ping",
        b"ping",
    ),
    "frame": (calling("send_receive_frame", b"ping", LineFormat(b"!")), b"ping!", b"ping"),
}
with_each_exchange = pytest.mark.parametrize(
    ("exchange", "request_", "reply"), EXCHANGES.values(), ids=list(EXCHANGES)
)

#: every exchange without a reply, and what is sent
SENDS: dict[str, tuple[Callable[..., Awaitable[None]], bytes]] = {
    "bytes": (calling("send", b"ping"), b"ping"),
    "line": (calling("send_line", b"ping"), b"ping\n"),
    "line, options": (calling("send_line", b"a\n", newline=b"\0"), b"a\n\0"),
    "package": (calling("send_package", b"ping"), b"\0\4ping"),
    "package, format": (
        calling("send_package", b"ping", FORMAT),
        b"\0\0\0\4ping",
    ),
    "frame": (calling("send_frame", b"ping", LineFormat(b"!")), b"ping!"),
}
with_each_send = pytest.mark.parametrize(("send", "request_"), SENDS.values(), ids=list(SENDS))


def silence(data: bytes) -> bytes:
    """Answer nothing."""
    return b""


async def ping(connection: PooledConnection, data: bytes = b"ping") -> bytes:
    """Do an exchange of the user's own."""
    await connection.send(data)
    return await connection.receive_exactly(len(data))


@with_each_exchange
async def test_an_exchange_of_the_pool_is_one_borrow(
    exchange: Callable[..., Awaitable[bytes]], request_: bytes, reply: bytes
) -> None:
    """It sends the request, returns the reply, and the next one uses the same connection."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        for _ in range(3):
            assert await exchange(pool) == reply
            # What silence has ended is looked at before it is idle again.
            await anyio.sleep(0.1)
            assert pool.statistics().idle == 1
        assert network.peers[0].received == request_ * 3
        assert (pool.statistics().opened, pool.statistics().acquired) == (1, 3)
        await check_books(pool, network)


@with_each_exchange
async def test_an_exchange_of_a_connection_leaves_it_clean(
    exchange: Callable[..., Awaitable[bytes]], request_: bytes, reply: bytes
) -> None:
    """A borrower can make several, and the connection goes back into the pool."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        async with pool.acquire() as connection:
            assert await exchange(connection) == reply
            assert await exchange(connection, timeout=1) == reply
            assert peer_of(connection).received == request_ * 2
        await anyio.sleep(0.1)
        assert pool.statistics().idle == 1


@with_each_send
@table("one_way", [True, False])
async def test_what_only_sends_is_reused_in_one_way_pools_only(
    send: Callable[..., Awaitable[None]], request_: bytes, one_way: bool
) -> None:
    """Elsewhere a reply may follow, which nobody would read."""
    network = MemoryNetwork(answer=silence)
    async with ConnectionPool(network, one_way=one_way) as pool:
        await send(pool)
        await send(pool, timeout=1)
        assert b"".join(bytes(peer.received) for peer in network.peers) == request_ * 2
        assert pool.statistics().opened == (1 if one_way else 2)


async def test_a_function_of_the_users_own_is_run_with_a_connection_and_arguments() -> None:
    """Its result is returned, and the connection given back."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        assert await pool.run(ping) == b"ping"
        assert await pool.run(ping, b"pong") == b"pong"
        assert pool.statistics().idle == pool.statistics().opened == 1


async def test_what_the_function_raises_comes_out_as_it_is() -> None:
    """It is the same object, the function ran once, and its connection is closed."""
    network, error, calls = MemoryNetwork(), RuntimeError("the user's"), list[int]()

    async def fail(connection: PooledConnection) -> None:
        calls.append(1)
        raise error

    async with ConnectionPool(network) as pool:
        with pytest.raises(RuntimeError) as caught:
            await pool.run(fail, retry=Retry(5))
        assert caught.value is error
        assert calls == [1]
        await anyio.sleep(1)
        assert pool.statistics().closed == {"unclean": 1}


async def test_the_settings_of_the_pool_hold_for_its_exchanges() -> None:
    """Package format and longest line are those of the pool, unless a call is told others."""
    network = MemoryNetwork()
    async with ConnectionPool(network, package_format=FORMAT, max_line_bytes=8) as pool:
        assert await pool.send_receive_package(b"x" * 66_000) == b"x" * 66_000
        with pytest.raises(anyio.DelimiterNotFound):
            await pool.send_receive_line(b"123456789")
        assert await pool.send_receive_line(b"123456789", max_bytes=9) == b"123456789"
        assert pool.statistics().opened == 2


async def talk_in_lines(speaker: Any, **options: Any) -> None:
    """Make each call about lines that a connection or a stream has."""
    assert await speaker.send_receive_line(b"a\n", **options) == b"a\n"
    await speaker.send_line(b"b", **options)
    assert await speaker.receive_line(**options) == b"b"


async def test_the_newline_of_the_pool_holds_for_its_lines() -> None:
    """For each call about lines, on pool and connection, also in hooks and on what was detached.

    It is overridden in the call, for that call alone.
    """
    network = MemoryNetwork()
    async with ConnectionPool(network, newline=b"\r\n", on_connect=talk_in_lines) as pool:
        assert await pool.send_receive_line(b"c\n") == b"c\n"
        async with pool.acquire() as connection:
            await talk_in_lines(connection)
            await talk_in_lines(connection, newline=b"!")
            with pytest.raises(ValueError, match="before its end"):
                await connection.send_line(b"d\r\ne")
            async with connection.detach() as stream:
                await talk_in_lines(stream)
        await pool.send_line(b"d\n")
        assert await pool.send_receive_line(b"e\r\n", newline=b"!") == b"e\r\n"
    lines = b"a\n\r\nb\r\n"
    sent = [bytes(peer.received) for peer in network.peers]
    assert sent[0] == lines + b"c\n\r\n" + lines + b"a\n!b!" + lines
    assert sent[1:] == [lines + b"d\n\r\n", lines + b"e\r\n!"]


@with_each_exchange
async def test_a_reply_that_never_comes_ends_in_time(
    exchange: Callable[..., Awaitable[bytes]], request_: bytes, reply: bytes
) -> None:
    """The receive is covered: a plain TimeoutError, and the connection is closed."""
    network = MemoryNetwork(answer=silence)
    async with ConnectionPool(network) as pool:
        with pytest.raises(TimeoutError) as caught:
            await exchange(pool, timeout=2, retry=Retry(5))
        assert type(caught.value) is TimeoutError
        assert anyio.current_time() == pytest.approx(2)
        await check_books(pool, network)
        assert pool.statistics().closed == {"unclean": 1}
        assert network.peers[0].received == request_


@pytest.mark.parametrize("name", [*EXCHANGES, *(f"send {name}" for name in SENDS), "run"])
async def test_a_send_that_is_stuck_ends_in_time(name: str) -> None:
    """The send is covered: gtcp's timeout was not, it hung."""
    exchanges: dict[str, Callable[..., Awaitable[object]]] = {
        **{name: exchange for name, (exchange, _, _) in EXCHANGES.items()},
        **{f"send {name}": send for name, (send, _) in SENDS.items()},
        "run": calling("run", ping),
    }
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        await fill(pool, 1)
        network.peers[0].stalled = True
        with pytest.raises(TimeoutError) as caught:
            await exchanges[name](pool, timeout=2, retry=Retry(5))
        assert type(caught.value) is TimeoutError
        assert anyio.current_time() == pytest.approx(2)
        await check_books(pool, network)
        assert pool.statistics().closed == {"unclean": 1}


@with_each_exchange
async def test_a_connection_has_the_same_limits(
    exchange: Callable[..., Awaitable[bytes]], request_: bytes, reply: bytes
) -> None:
    """Send and receive share one, and a borrower that catches its end does not give back dirt."""
    network = MemoryNetwork(answer=silence)
    async with ConnectionPool(network, max_size=1) as pool:
        for stalled in (False, True):
            began = anyio.current_time()
            async with pool.acquire() as connection:
                peer_of(connection).stalled = stalled
                with pytest.raises(TimeoutError):
                    await exchange(connection, timeout=2)
                assert anyio.current_time() - began == pytest.approx(2)
        await check_books(pool, network)
        assert pool.statistics().closed == {"unclean": 2}


@table("cause", ["connect", "full pool"])
async def test_running_out_of_time_before_a_connection_is_had_says_so(cause: str) -> None:
    """The acquire is covered: its TimeoutError is an AcquireTimeout, and nothing was sent."""
    network = MemoryNetwork(hang if cause == "connect" else None)
    async with ConnectionPool(network, max_size=1) as pool:
        if cause == "full pool":
            await pool.acquire()
        for exchange, _, _ in EXCHANGES.values():
            began = anyio.current_time()
            with pytest.raises(AcquireTimeout, match="within 2 s"):
                await exchange(pool, timeout=2, retry=Retry(5))
            assert anyio.current_time() - began == pytest.approx(2)
        assert not any(peer.received for peer in network.peers)
        assert pool.statistics().replayed == 0


async def test_one_limit_covers_all_phases_together() -> None:
    """Each takes less than the limit alone, but what one took the next has not."""
    network = MemoryNetwork(delayed(0.6))

    async def slow(connection: PooledConnection) -> None:
        await anyio.sleep(0.6)
        await ping(connection)

    async with ConnectionPool(network) as pool:
        with pytest.raises(TimeoutError):
            await pool.run(slow, timeout=1)
        assert anyio.current_time() == pytest.approx(1)
        await pool.run(slow, timeout=1.3)


async def test_the_default_limit_of_acquire_holds_for_exchanges_too() -> None:
    """The shorter of ``timeout`` and ``acquire_timeout`` limits the wait for a connection."""
    network = MemoryNetwork(hang)
    async with ConnectionPool(network, acquire_timeout=3) as pool:
        for timeout, expected in ((None, 3), (5, 3), (2, 2), (math.inf, 3)):
            with pytest.raises(AcquireTimeout, match=f"within {expected} s"):
                await pool.send_receive_line(b"ping", timeout=timeout)


async def test_no_limit_is_the_default() -> None:
    """A reply may take hours."""
    network = MemoryNetwork(answer=silence)
    async with ConnectionPool(network) as pool, anyio.create_task_group() as tasks:

        async def answer_late() -> None:
            await anyio.sleep(9_999)
            network.peers[0].push(b"late\n")

        tasks.start_soon(answer_late)
        assert await pool.send_receive_line(b"ping") == b"late"


async def test_errors_of_the_pool_are_not_repeated() -> None:
    """Outside the block, or with too many waiting, the exchange fails at once."""
    network = MemoryNetwork()
    pool = ConnectionPool(network, max_size=1, max_waiting=0)
    with pytest.raises(PoolClosed):
        await pool.send_receive_line(b"ping", retry=Retry(5))
    async with pool, pool.acquire():
        with pytest.raises(PoolFull):
            await pool.send_receive_line(b"ping", retry=Retry(5))
    with pytest.raises(PoolClosed):
        await pool.send_receive_line(b"ping", retry=Retry(5))
    assert anyio.current_time() == 0
    assert pool.statistics().replayed == 0


async def test_an_error_that_a_repeat_cannot_mend_is_not_repeated() -> None:
    """A connectable with a bug is asked once."""
    network = MemoryNetwork(failing(RuntimeError("a bug")))
    async with ConnectionPool(network) as pool:
        with pytest.raises(RuntimeError):
            await pool.send_receive_line(b"ping", retry=Retry(5))
        assert network.attempts == 1


async def test_an_error_that_is_not_the_connections_own_is_never_repeated() -> None:
    """A function that fails by another stream's end is called once, and costs one connection."""
    calls = 0

    async def fail_elsewhere(connection: PooledConnection) -> bytes:
        nonlocal calls
        calls += 1
        raise anyio.EndOfStream

    async with ConnectionPool(MemoryNetwork()) as pool:
        await fill(pool, 3)
        with pytest.raises(anyio.EndOfStream):
            await pool.run(fail_elsewhere)
        assert calls == 1
        assert pool.statistics().replayed == 0
        assert pool.statistics().idle == 2


def test_an_alert_of_tls_is_a_hang_up_too() -> None:
    """A connection on which it comes was dead."""
    assert is_hang_up(ssl.SSLError("alert"))


#: the error, and a call of a pool or connection that raises it
Case: TypeAlias = "tuple[type[Exception], Callable[[Any], Awaitable[object]]]"

TINY = PackageFormat(max_size=1)

#: refused by pools and by connections
COMMON: dict[str, Case] = {
    "no bytes": (ValueError, calling("send_receive", b"ping", 0)),
    "fewer bytes": (ValueError, calling("send_receive", b"ping", -4)),
    "no line": (ValueError, calling("send_receive_line", b"ping", max_bytes=0)),
    "no newline": (ValueError, calling("send_receive_line", b"ping", newline=b"")),
    "two lines": (ValueError, calling("send_receive_line", b"pi\nng")),
    "two lines, newline": (ValueError, calling("send_receive_line", b"pi\0ng", newline=b"\0")),
    "line without newline": (ValueError, calling("send_line", b"ping", newline=b"")),
    "lines": (ValueError, calling("send_line", b"pi\nng")),
    "large package": (PackageTooLarge, calling("send_receive_package", b"x" * 65_536)),
    "large for its format": (PackageTooLarge, calling("send_receive_package", b"xx", TINY)),
    "large package sent": (PackageTooLarge, calling("send_package", b"x" * 65_536)),
    "large sent": (PackageTooLarge, calling("send_package", b"xx", TINY)),
}
#: refused by pools: what else they take
OF_POOLS: dict[str, Case] = {"nothing to run": (TypeError, calling("run", None))}


for exchange in ("send_receive", "send_receive_line", "send_receive_package"):
    for value, error in ((-1, ValueError), (math.nan, ValueError), ("1", TypeError)):
        COMMON[f"{exchange} timeout={value}"] = (
            error,
            calling(exchange, b"ping", timeout=value),
        )
for exchange in ("send", "send_line", "send_package", "send_receive", "run"):
    for value, error in ((-1, ValueError), (math.nan, ValueError), ("1", TypeError)):
        OF_POOLS[f"{exchange} timeout={value}"] = (
            error,
            calling(exchange, len if exchange == "run" else b"ping", timeout=value),
        )
    for retry in (3, math.inf):
        OF_POOLS[f"{exchange} retry={retry}"] = (
            TypeError,
            calling(exchange, len if exchange == "run" else b"ping", retry=retry),
        )


@table("error, attempt", [*(COMMON | OF_POOLS).values()])
async def test_a_pool_opens_nothing_for_bad_arguments(
    error: type[Exception], attempt: Callable[[Any], Awaitable[object]]
) -> None:
    """The error says what is wrong, and an idle connection stays as good as it was."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        with pytest.raises(error) as caught:
            await attempt(pool)
        assert str(caught.value)
        assert network.attempts == 0
        await fill(pool, 1)
        with pytest.raises(error):
            await attempt(pool)
        assert (pool.statistics().idle, pool.statistics().acquired) == (1, 1)
        assert not network.peers[0].received


@table("error, attempt", COMMON.values())
async def test_a_connection_sends_nothing_for_bad_arguments(
    error: type[Exception], attempt: Callable[[Any], Awaitable[object]]
) -> None:
    """It stays usable, and goes back into the pool."""
    network = MemoryNetwork()
    async with ConnectionPool(network) as pool:
        async with pool.acquire() as connection:
            with pytest.raises(error):
                await attempt(connection)
            assert not peer_of(connection).received
            assert await connection.send_receive_line(b"ping") == b"ping"
        assert pool.statistics().idle == 1


async def test_the_error_names_what_retry_should_be() -> None:
    """A bare number is a likely mistake."""
    count: Any = 3
    async with ConnectionPool(MemoryNetwork()) as pool:
        with pytest.raises(TypeError, match="retry must be a Retry, not int"):
            await pool.send_receive_line(b"ping", retry=count)
