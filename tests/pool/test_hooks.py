"""The hooks: ``on_connect`` logs each new connection in, ``check`` asks one that has rested."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from anyconnpool import AcquireTimeout, ConnectionPool, PooledConnection, Retry
from tests.cases import table

from .network import MemoryNetwork, check_books, delayed, fill, number_of, peer_of, settle

Hook = Callable[[PooledConnection], Awaitable[object]]


async def log_in(connection: PooledConnection) -> None:
    """Say who we are and wait for the answer."""
    assert await connection.send_receive_line(b"user") == b"user"


async def hang(connection: PooledConnection) -> None:
    await anyio.sleep_forever()


def raising(error: Exception) -> Hook:
    """Make a hook that fails after an exchange."""

    async def hook(connection: PooledConnection) -> None:
        await log_in(connection)
        raise error

    return hook


async def test_hooks_are_no_use() -> None:
    """What ``max_uses`` counts are borrows, neither logging in nor checking."""
    network = MemoryNetwork()
    async with ConnectionPool(
        network, on_connect=log_in, check=log_in, check_after=0, max_uses=2
    ) as pool:
        for reused in (False, True, False):
            async with pool.acquire() as connection:
                assert connection.reused is reused
                await log_in(connection)
        assert bytes(network.peers[0].received) == b"user\n" * 4
        assert pool.statistics().closed == {"max_uses": 1}


async def test_it_runs_once_on_each_new_connection_before_anybody_borrows_it() -> None:
    """With all the framed methods, and not again when the connection is reused."""
    network, seen = MemoryNetwork(), list[int]()

    async def hook(connection: PooledConnection) -> None:
        seen.append(number_of(connection))
        assert (connection.reused, connection.age) == (False, 0)
        await log_in(connection)
        assert await connection.send_receive_package(b"secret") == b"secret"
        assert await connection.send_receive(b"ok", 2) == b"ok"

    async with ConnectionPool(network, on_connect=hook) as pool:
        for _ in range(2):
            async with pool.acquire() as first, pool.acquire() as second:
                assert sorted(seen) == [1, 2]
                assert bytes(peer_of(first).received) == b"user\n\0\6secretok"
                assert (first.reused, first.has_sent, first.bytes_received) == (
                    second.reused,
                    second.has_sent,
                    second.bytes_received,
                )
            assert pool.statistics().idle == 2
        assert sum(peer.received.count(b"user") for peer in network.peers) == 2
        await check_books(pool, network)


async def test_a_connection_logged_in_is_new_to_its_first_borrower() -> None:
    """The hook's use is none of the borrower's: neither a reuse nor anything sent."""
    async with ConnectionPool(MemoryNetwork(), on_connect=log_in) as pool:
        async with pool.acquire() as connection:
            assert not connection.reused
            assert not connection.has_sent
            assert connection.bytes_received == 0
        assert (pool.statistics().idle, pool.statistics().acquired) == (1, 1)


async def test_what_is_opened_in_advance_is_logged_in_too() -> None:
    """``min_idle`` connections are ready once their hook is done."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_connect=log_in, min_idle=2) as pool:
        await pool.wait_ready()
        assert [bytes(peer.received) for peer in network.peers] == [b"user\n"] * 2
        assert pool.statistics().idle == 2


@table(
    "error",
    [
        ValueError("wrong password"),
        OSError("reset"),
        anyio.EndOfStream("hung up"),
        TimeoutError("the hook's own"),
        anyio.ConnectionFailed("go away"),
    ],
)
async def test_its_error_reaches_the_caller_unchanged(error: Exception) -> None:
    """It is the same object, and the connection is closed."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_connect=raising(error)) as pool:
        for count in (1, 2):
            with pytest.raises(type(error)) as caught:
                await pool.acquire()
            assert caught.value is error
            assert network.open_now == pool.statistics().size == 0
            assert pool.statistics().open_failed == count
        with pytest.raises(type(error)) as caught:
            await pool.send_receive_line(b"a")
        assert caught.value is error


async def test_its_error_reaches_who_waits_for_the_pool_to_be_ready() -> None:
    """The refill tells why it can't be done."""
    error = ValueError("wrong password")
    async with ConnectionPool(MemoryNetwork(), on_connect=raising(error), min_idle=2) as pool:
        with pytest.raises(ValueError, match="wrong password") as caught:
            await pool.wait_ready()
        assert caught.value is error


async def test_connecting_and_logging_in_share_one_limit() -> None:
    """``connect_timeout`` ends both together, and the connection is closed."""
    network = MemoryNetwork(delayed(20))
    async with ConnectionPool(network, on_connect=hang) as pool:
        late = "connect_timeout, 30 s: it was open by then, but on_connect had not ended$"
        with pytest.raises(anyio.ConnectionFailed, match=late):
            await pool.acquire()
        assert anyio.current_time() == pytest.approx(30)
        assert network.opened == 1
        assert network.open_now == pool.statistics().size == 0


async def test_what_it_leaves_unread_belongs_to_the_first_borrower() -> None:
    """A greeting that came with the answer to the login is not lost, nor seen twice."""
    network = MemoryNetwork(answer=lambda data: data + b"welcome\n")
    async with ConnectionPool(network, on_connect=log_in) as pool:
        async with pool.acquire() as connection:
            assert connection.buffer == b"welcome\n"
            assert await connection.receive_line() == b"welcome"
        async with pool.acquire() as connection:
            assert connection.reused
            assert connection.buffer == b""
        await check_books(pool, network)


async def test_a_first_borrower_who_leaves_the_greeting_unread_ends_the_connection() -> None:
    """It is not for the second one."""
    network = MemoryNetwork(answer=lambda data: data + b"welcome\n")
    async with ConnectionPool(network, on_connect=log_in) as pool:
        async with pool.acquire():
            pass
        await settle()
        assert pool.statistics().closed == {"unread_data": 1}


async def test_it_may_send_without_waiting_for_an_answer() -> None:
    """A preamble has none, and what is sent back is for the first borrower."""

    async def introduce(connection: PooledConnection) -> None:
        await connection.send_line(b"PROXY UNKNOWN")

    network = MemoryNetwork(answer=lambda data: b"")
    async with ConnectionPool(network, on_connect=introduce) as pool:
        async with pool.acquire() as connection:
            assert bytes(peer_of(connection).received) == b"PROXY UNKNOWN\n"
        assert pool.statistics().idle == 1


async def give_back(connection: PooledConnection) -> None:
    await connection.aclose()


async def give_back_by_block(connection: PooledConnection) -> None:
    async with connection:
        await log_in(connection)


async def discard(connection: PooledConnection) -> None:
    connection.discard()


async def detach(connection: PooledConnection) -> None:
    connection.detach()


async def refuse_by_false(connection: PooledConnection) -> bool:
    await log_in(connection)
    return False


async def time_out(connection: PooledConnection) -> None:
    with anyio.move_on_after(1):
        await connection.receive_line()


async def half_close(connection: PooledConnection) -> None:
    await connection.send_eof()


async def fail(connection: PooledConnection) -> None:
    peer_of(connection).hang_up()
    with suppress(anyio.EndOfStream):
        await connection.receive_line()


async def meet_hang_up(connection: PooledConnection) -> None:
    peer_of(connection).hang_up()
    await connection.receive_line()


async def send_to_the_dead(connection: PooledConnection) -> None:
    peer_of(connection).hang_up()
    await connection.send(b"user")


@table(
    "hook, text",
    [
        (refuse_by_false, "on_connect returned False"),
        (meet_hang_up, "mem ended in on_connect: the peer has closed"),
        (send_to_the_dead, "mem ended in on_connect: the connection is lost"),
        (give_back, "gave the connection away"),
        (give_back_by_block, "gave the connection away"),
        (discard, "gave the connection away"),
        (detach, "gave the connection away"),
        (time_out, "left the connection unfit: unclean"),
        (half_close, "left the connection unfit: unclean"),
        (fail, "left the connection unfit: unclean"),
    ],
)
async def test_a_hook_that_spoils_the_connection_is_told_so(hook: Hook, text: str) -> None:
    """Nobody borrows a connection that it refused, gave away, or on which something had failed.

    It is a failure to connect, which a retry may mend; what ended the connection is its cause.
    """
    network = MemoryNetwork()
    async with ConnectionPool(network, on_connect=hook, name="mem") as pool:
        with pytest.raises(anyio.ConnectionFailed, match=text) as caught:
            await pool.acquire()
        assert (caught.value.__cause__ is None) is (" ended in " not in text)
        assert network.opened == pool.statistics().open_failed == 1
        assert network.open_now == pool.statistics().size == 0
        with pytest.raises(anyio.ConnectionFailed, match=text):
            await pool.send_receive_line(b"x", retry=Retry(2, interval=1))
        assert network.opened == 4


@table("session", [0, "", [], None, True])
async def test_what_else_a_hook_returns_is_no_refusal(session: object) -> None:
    """Only what is ``False`` is."""

    async def hook(connection: PooledConnection) -> object:
        await log_in(connection)
        return session

    async with ConnectionPool(MemoryNetwork(), on_connect=hook, check=hook, check_after=0) as pool:
        await fill(pool, 1)
        async with pool.acquire() as connection:
            assert connection.reused
            assert connection.session is session


async def test_a_hook_that_is_not_async_is_told_so_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody else gets to know what is wrong with a ``check``."""
    check: Any = bool
    async with ConnectionPool(MemoryNetwork(), check=check, check_after=0, name="mem") as pool:
        await fill(pool, 1)
        await fill(pool, 1)
        assert pool.statistics().reused == 0
    assert [record.getMessage() for record in caplog.records] == [
        "pool mem: the check hook failed: TypeError: check must be an async function, but bool "
        "returned bool, which can't be awaited"
    ]


@table("settings", [{"on_connect": None}, {"check": None, "check_after": 0}])
async def test_its_connection_cannot_be_used_afterwards(settings: dict[str, Any]) -> None:
    """What a hook kept is no way around the pool."""
    kept: list[PooledConnection] = []

    async def keep(connection: PooledConnection) -> None:
        kept.append(connection)

    settings = {name: keep if value is None else value for name, value in settings.items()}
    async with ConnectionPool(MemoryNetwork(), **settings) as pool:
        await fill(pool, 1)
        async with pool.acquire() as connection:
            for use in (lambda: kept[0].send(b"foreign"), kept[0].receive):
                with pytest.raises(anyio.ClosedResourceError):
                    await use()
            for end in (kept[0].discard, kept[0].detach):
                with pytest.raises(anyio.ClosedResourceError):
                    end()
            await kept[0].aclose()
            await log_in(connection)
            assert pool.statistics().in_use == 1
        assert pool.statistics().idle == 1


async def test_a_login_goes_on_when_its_caller_has_gone() -> None:
    """The connection serves the next one."""
    network = MemoryNetwork()

    async def slow(connection: PooledConnection) -> None:
        await anyio.sleep(2)
        await log_in(connection)

    async with ConnectionPool(network, on_connect=slow, max_size=1) as pool:
        with anyio.move_on_after(1):
            await pool.acquire()
        async with pool.acquire():
            assert anyio.current_time() == pytest.approx(2)
        assert network.attempts == 1
        await check_books(pool, network)


async def test_leaving_the_block_interrupts_a_login() -> None:
    """Nothing waits for it, and its connection is closed."""
    network = MemoryNetwork()
    async with ConnectionPool(network, on_connect=hang, min_idle=2):
        await settle()
        assert network.opened == 2
    assert anyio.current_time() == 0
    assert network.open_now == 0


@pytest.mark.parametrize("by", ["connect_retry", "exchange"])
async def test_a_login_that_meets_a_hang_up_can_be_repeated(by: str) -> None:
    """On a new connection, by the schedule of ``connect_retry`` or of the exchange."""
    network, logins = MemoryNetwork(), list[float]()
    retry = Retry(2, interval=1, jitter=0)

    async def flaky(connection: PooledConnection) -> None:
        logins.append(anyio.current_time())
        if len(logins) < 3:
            peer_of(connection).hang_up()
        await connection.receive_available() if len(logins) < 3 else await log_in(connection)

    settings: dict[str, Any] = {"connect_retry": retry} if by == "connect_retry" else {}
    async with ConnectionPool(network, on_connect=flaky, **settings) as pool:
        if by == "connect_retry":
            await fill(pool, 1)
        else:
            assert await pool.send_receive_line(b"a", retry=retry) == b"a"
        assert logins == pytest.approx([0, 1, 3])
        assert network.open_now == pool.statistics().idle == 1


async def ping(connection: PooledConnection) -> None:
    """Ask whether the peer still answers."""
    assert await connection.send_receive_line(b"PING") == b"PING"


def pings(network: MemoryNetwork) -> int:
    return sum(peer.received.count(b"PING") for peer in network.peers)


async def test_only_what_rested_long_enough_is_checked() -> None:
    """``check_after`` seconds of idleness are long enough, less are not; new ones are not."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=ping, check_after=10) as pool:
        for rest, expected in ((0, 0), (9.9, 0), (10.1, 1), (5, 1), (60, 2), (0, 2)):
            await anyio.sleep(rest)
            async with pool.acquire() as connection:
                assert number_of(connection) == 1
                assert not connection.has_sent
            assert pings(network) == expected
        assert (pool.statistics().acquired, pool.statistics().reused) == (6, 5)
        await check_books(pool, network)


async def test_the_default_is_half_a_minute() -> None:
    """And without a check, nothing is ever asked."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=ping) as pool:
        await fill(pool, 1)
        await anyio.sleep(29.9)
        await fill(pool, 1)
        assert pings(network) == 0
        await anyio.sleep(30)
        await fill(pool, 1)
        assert pings(network) == 1
    async with ConnectionPool(network, check_after=0) as pool:
        await fill(pool, 1)
        async with pool.acquire() as connection:
            assert connection.reused


async def test_with_no_rest_at_all_every_reuse_is_checked() -> None:
    """``check_after=0`` is the careful choice."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=ping, check_after=0) as pool:
        for _ in range(4):
            await pool.send_receive_line(b"a")
        assert pings(network) == 3


async def test_a_connection_that_was_never_borrowed_is_not_asked() -> None:
    """A greeting may be on its way, which is for the first borrower and answers no check."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=ping, min_idle=1, max_size=1) as pool:
        await anyio.sleep(31)
        async with pool.acquire() as connection:
            assert number_of(connection) == 1
            assert not connection.reused
        assert pings(network) == 0


async def refuse(connection: PooledConnection) -> None:
    raise RuntimeError("no PONG")


async def leave_reply_unread(connection: PooledConnection) -> None:
    await connection.send(b"PING")
    await connection.receive(2)


async def leave_reply_to_come(connection: PooledConnection) -> None:
    await connection.send(b"PING")


async def meet_the_end(connection: PooledConnection) -> None:
    peer_of(connection).hang_up()
    await connection.receive_line()


async def end_afterwards(connection: PooledConnection) -> None:
    await ping(connection)
    peer_of(connection).hang_up()


async def send_more_afterwards(connection: PooledConnection) -> None:
    await ping(connection)
    peer_of(connection).push(b"more")


SPOILERS: list[Hook] = [
    refuse,
    hang,
    leave_reply_unread,
    leave_reply_to_come,
    time_out,
    give_back,
    discard,
    detach,
    refuse_by_false,
    meet_the_end,
    end_afterwards,
    send_more_afterwards,
]


@pytest.mark.parametrize("spoil", SPOILERS)
async def test_what_fails_its_check_is_closed_and_another_one_lent(spoil: Hook) -> None:
    """By an error, by taking longer than ``check_timeout``, or by being left unclean.

    Whoever asked waits a tenth of a second for it, not longer.
    """
    network = MemoryNetwork()
    async with ConnectionPool(network, check=spoil, check_timeout=4) as pool:
        await fill(pool, 1)
        await anyio.sleep(40)
        async with pool.acquire() as connection:
            assert number_of(connection) == 2
            assert anyio.current_time() <= 40.101
            assert connection.buffer == b""
            assert await connection.send_receive_line(b"a") == b"a"
        await anyio.sleep(4)
        await settle()
        assert sum(pool.statistics().closed.values()) == network.closed == 1
        assert network.forced == 1
        assert pool.statistics().open_failed == 0
        await check_books(pool, network)


async def test_a_check_has_a_limit_of_its_own() -> None:
    """``check_timeout``, 5 s: connecting may take longer, or shorter."""
    network, ended = MemoryNetwork(), list[float]()

    async def wait(connection: PooledConnection) -> None:
        began = anyio.current_time()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(anyio.current_time() - began)

    settings: list[dict[str, Any]] = [{}, {"check_timeout": 9, "connect_timeout": 1}]
    for each in settings:
        async with ConnectionPool(network, check=wait, check_after=0, **each) as pool:
            await fill(pool, 1)
            await fill(pool, 1)
            await anyio.sleep(20)
            assert pool.statistics().closed == {"check_failed": 1}
    assert ended == pytest.approx([5, 9])


async def test_the_statistics_tell_of_failed_checks() -> None:
    """They have a reason of their own."""
    async with ConnectionPool(MemoryNetwork(), check=refuse) as pool:
        await fill(pool, 2)
        await anyio.sleep(31)
        await fill(pool, 1)
        await anyio.sleep(1)
        assert pool.statistics().closed == {"check_failed": 1}, "one request, one check"


async def test_a_dead_connection_is_not_even_asked() -> None:
    """What the probe knows needs no check."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=ping) as pool:
        await fill(pool, 1)
        network.peers[0].hang_up()
        network.on_look = bool
        await anyio.sleep(31)
        await fill(pool, 1)
        assert pings(network) == 0
        assert pool.statistics().closed == {"peer_closed": 1}


async def test_a_hanging_check_uses_up_the_time_of_the_acquire() -> None:
    """One deadline covers it; and what passes later is not lost."""
    network, gate = MemoryNetwork(), anyio.Event()

    async def wait(connection: PooledConnection) -> None:
        await gate.wait()

    async with ConnectionPool(network, check=wait, max_size=1) as pool:
        await fill(pool, 1)
        await anyio.sleep(40)
        with pytest.raises(AcquireTimeout, match="1 connecting, of which 1 in check, 0 closing"):
            await pool.acquire(timeout=2)
        assert anyio.current_time() == pytest.approx(42)
        with pytest.raises(AcquireTimeout):
            await pool.send_receive_line(b"a", timeout=2)
        assert anyio.current_time() == pytest.approx(44)
        gate.set()
        await settle()
        assert pool.statistics().idle == network.attempts == 1
        await check_books(pool, network)


@table("passes", [True, False])
async def test_the_order_of_those_who_wait_is_kept(passes: bool) -> None:
    """Whoever comes while the first one's check goes on is served after it."""
    network, served = MemoryNetwork(), list[int]()

    async def slow(connection: PooledConnection) -> None:
        await anyio.sleep(2)
        if not passes:
            raise RuntimeError("no PONG")

    async def ask(number: int) -> None:
        async with pool.acquire():
            served.append(number)
            await anyio.sleep(0.1)

    async with ConnectionPool(network, check=slow, max_size=1) as pool:
        await fill(pool, 1)
        await anyio.sleep(31)
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(ask, number)
                await anyio.sleep(0.01)
        assert served == [0, 1, 2, 3, 4]
        assert network.attempts == (1 if passes else 2)


async def test_a_connection_that_comes_back_is_lent_before_the_check_is_done() -> None:
    """Nobody waits for a check longer than needed, and what passes it serves the next."""
    network = MemoryNetwork()

    async def slow(connection: PooledConnection) -> None:
        await anyio.sleep(2)

    async with ConnectionPool(network, check=slow, max_size=2) as pool:
        await fill(pool, 2)
        async with pool.acquire():
            await anyio.sleep(31)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.send_receive_line, b"a")
                await anyio.sleep(2.5)
        assert network.attempts == 2
        await check_books(pool, network)


async def test_leaving_the_block_interrupts_a_check() -> None:
    """Nothing waits for it, and its connection is closed."""
    network = MemoryNetwork()
    async with ConnectionPool(network, check=hang) as pool:
        await fill(pool, 1)
        await anyio.sleep(31)
        with anyio.move_on_after(0.05):
            await pool.acquire()
    assert anyio.current_time() == pytest.approx(31.05)
    assert network.open_now == 0
