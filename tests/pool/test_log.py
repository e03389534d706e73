"""What the pool tells the standard library's loggers, and what it keeps to itself."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import anyio
import pytest
from anyio.lowlevel import checkpoint

from anyconnpool import AcquireTimeout, ConnectionPool, PooledConnection, Retry
from anyconnpool._util.log import GuardedLogger, OutageLog, describe_error

from .network import MemoryNetwork, failing, fill, settle

SECRET = b"a recognisable secret"


@pytest.fixture(autouse=True)
def everything_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Have every level of the package's loggers captured."""
    caplog.set_level(logging.DEBUG, "anyconnpool")


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return the messages of one level, without what they say of addresses."""
    return [
        record.getMessage().replace("None -> None", "it")
        for record in caplog.records
        if record.levelno == level
    ]


def refused() -> anyio.ConnectionFailed:
    return anyio.ConnectionFailed("refused")


async def not_found() -> None:
    raise LookupError(SECRET)


async def fail_to_acquire(pool: ConnectionPool[Any], times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(anyio.ConnectionFailed):
            await pool.acquire()


async def test_opening_and_closing_are_told_at_debug_with_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each line names the pool, and that of a close says why."""
    network = MemoryNetwork()
    async with ConnectionPool(network, name="shelf", max_idle_time=600) as pool:
        async with pool.acquire() as connection:
            connection.discard()
        await fill(pool, 1)
        network.peers[1].hang_up()
        await fill(pool, 1)
        await anyio.sleep(601)
        await fill(pool, 1)
    assert lines(caplog, logging.DEBUG) == [
        "pool shelf: opened it",
        "pool shelf: closing it: discarded",
        "pool shelf: opened it",
        "pool shelf: closing it: peer_closed",
        "pool shelf: opened it",
        "pool shelf: closing it: max_idle_time",
        "pool shelf: opened it",
        "pool shelf: closing it: pool_closed",
    ]
    assert {record.name for record in caplog.records} == {"anyconnpool.pool"}


async def test_normal_life_has_nothing_to_warn_of(caplog: pytest.LogCaptureFixture) -> None:
    """Exchanges, idle times, servers that hang up, timeouts and cancellations are no failures."""
    network = MemoryNetwork()
    async with ConnectionPool(network, min_idle=1, max_size=2, max_lifetime=50) as pool:
        for _ in range(5):
            assert await pool.send_receive_line(b"hello") == b"hello"
            await anyio.sleep(20)
            network.peers[-1].hang_up()
        async with pool.acquire(), pool.acquire():
            with pytest.raises(TimeoutError):
                await pool.acquire(timeout=1)
        with anyio.move_on_after(1):
            async with pool.acquire() as connection:
                await connection.receive()
        with pytest.raises(RuntimeError):
            async with pool.acquire():
                raise RuntimeError("the caller's own trouble")
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


async def test_the_first_failure_to_connect_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """It names the pool and the error."""
    async with ConnectionPool(MemoryNetwork(failing(refused())), name="shelf") as pool:
        await fail_to_acquire(pool)
    assert lines(caplog, logging.WARNING) == [
        "pool shelf: connecting failed: ConnectionFailed: refused"
    ]


async def test_what_a_hook_quotes_of_a_server_is_escaped(caplog: pytest.LogCaptureFixture) -> None:
    """In the log, and in the text of a timeout; the hook's own error stays as it is."""

    async def log_in(connection: PooledConnection) -> None:
        raise anyio.ConnectionFailed("refused: \x1b]0;title\x07\0\udcff\n")

    escaped = r"ConnectionFailed: refused: \x1b]0;title\x07\x00\udcff\n"
    retry = Retry(9, interval=5)
    async with ConnectionPool(
        MemoryNetwork(), name="shelf", on_connect=log_in, connect_retry=retry
    ) as pool:
        with pytest.raises(AcquireTimeout) as caught:
            await pool.acquire(timeout=1)
    assert str(caught.value).endswith(f"last connect error: {escaped}")
    assert lines(caplog, logging.WARNING) == [f"pool shelf: connecting failed: {escaped}"]


async def test_an_outage_costs_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """An attempt a second for ten minutes is eleven lines, which count the attempts."""
    async with ConnectionPool(MemoryNetwork(failing(refused())), name="shelf") as pool:
        for _ in range(601):
            await fail_to_acquire(pool)
            await anyio.sleep(1)
        told = lines(caplog, logging.WARNING)
        assert pool.statistics().open_failed == 601
    assert len(told) == pytest.approx(11, abs=1)
    assert told[0] == "pool shelf: connecting failed: ConnectionFailed: refused"
    for line in told[1:]:
        start, times, end = line.partition("failed ")[2].partition(" times")
        assert int(start) == pytest.approx(60, abs=1)
        assert times + end == " times since the last warning: ConnectionFailed: refused"


async def test_the_end_of_an_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """It says after how many failures and how long the remote was reached again."""
    network = MemoryNetwork(failing(refused(), only=lambda number: number <= 4))
    retry = Retry(10, interval=1, backoff=2, jitter=0)
    async with ConnectionPool(network, name="shelf", connect_retry=retry) as pool:
        await fill(pool, 2)
    assert lines(caplog, logging.INFO) == [
        "pool shelf: connecting works again after 15.0 s (failures: 4)"
    ]
    assert len(lines(caplog, logging.WARNING)) == 1


async def test_a_remote_that_comes_and_goes_floods_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Outages that follow each other within a minute are counted, not told one by one."""
    network = MemoryNetwork(failing(refused(), only=lambda number: number % 2 == 1))
    async with ConnectionPool(network, name="shelf") as pool:
        for _ in range(120):
            await fail_to_acquire(pool)
            async with pool.acquire() as connection:
                connection.discard()
            await anyio.sleep(1)
    assert 2 <= len(lines(caplog, logging.WARNING)) <= 3
    assert len(lines(caplog, logging.INFO)) == len(lines(caplog, logging.WARNING))


async def test_two_pools_tell_of_their_own_outages(caplog: pytest.LogCaptureFixture) -> None:
    """The silence of one pool's log doesn't swallow the other's first failure."""
    for name in ("one", "two"):
        async with ConnectionPool(MemoryNetwork(failing(refused())), name=name) as pool:
            await fail_to_acquire(pool, 3)
    assert [line.partition(":")[0] for line in lines(caplog, logging.WARNING)] == [
        "pool one",
        "pool two",
    ]


async def test_a_connect_that_was_cancelled_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """Leaving the pool while it connects is nothing to warn of."""
    network = MemoryNetwork(lambda number: anyio.sleep(10))
    async with ConnectionPool(network) as pool:
        with anyio.move_on_after(1):
            await pool.acquire()
    assert not caplog.records


async def test_a_check_that_fails_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """So is one that takes too long; both close the connection, which the log says too."""
    found: Callable[[], Awaitable[object]] = not_found

    async def check(connection: PooledConnection) -> None:
        await found()

    network = MemoryNetwork()
    async with ConnectionPool(network, name="shelf", check=check, check_after=10) as pool:
        for _ in range(2):
            await fill(pool, 1)
            await anyio.sleep(70)
        found = anyio.sleep_forever
        await fill(pool, 1)
        await anyio.sleep(31)
    assert lines(caplog, logging.WARNING) == [
        "pool shelf: the check hook failed: LookupError",
        "pool shelf: the check hook failed: TimeoutError",
    ]
    assert lines(caplog, logging.DEBUG).count("pool shelf: closing it: check_failed") == 2


async def test_a_check_that_passes_again_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The end of the trouble is told as that of an outage is."""
    found: Callable[[], Awaitable[object]] = not_found

    async def check(connection: PooledConnection) -> None:
        await found()

    async with ConnectionPool(MemoryNetwork(), name="shelf", check=check, check_after=10) as pool:
        for _ in range(3):
            await fill(pool, 1)
            await anyio.sleep(20)
        found = checkpoint
        await fill(pool, 1)
    assert lines(caplog, logging.WARNING) == ["pool shelf: the check hook failed: LookupError"]
    assert lines(caplog, logging.INFO) == [
        "pool shelf: the check hook works again after 40.0 s (failures: 2)"
    ]


async def test_payload_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Not at any level, neither what was sent nor what was received, nor what a hook quotes."""

    async def log_in(connection: PooledConnection) -> None:
        reply = await connection.send_receive_line(SECRET)
        if len(network.peers) == 1:
            raise PermissionError(f"the server said {reply!r}")

    async def check(connection: PooledConnection) -> NoReturn:
        raise ValueError(await connection.send_receive_line(SECRET))

    network = MemoryNetwork()
    async with ConnectionPool(network, on_connect=log_in, check=check, check_after=10) as pool:
        with pytest.raises(PermissionError):
            await pool.acquire()
        assert await pool.send_receive_line(SECRET) == SECRET
        async with pool.acquire() as connection:
            await connection.send_line(SECRET)
            await connection.receive_exactly(3)
        async with pool.acquire() as connection:
            await connection.send_line(SECRET)
        async with pool.acquire() as connection:
            await connection.send_line(SECRET)
            with pytest.raises(anyio.DelimiterNotFound):
                await connection.receive_line(max_bytes=3)
        await fill(pool, 1)
        network.peers[-1].push(SECRET)
        await anyio.sleep(20)
        await fill(pool, 1)
        await anyio.sleep(20)
        await fill(pool, 1)
        await settle()
    assert {record.levelno for record in caplog.records} == {
        logging.DEBUG,
        logging.INFO,
        logging.WARNING,
    }
    assert SECRET.decode() not in caplog.text
    for record in caplog.records:
        assert SECRET.decode() not in f"{record.args} {record.exc_info}"


async def test_a_handler_may_ask_the_pool() -> None:
    """Whatever it is told of, it can read the figures, and nothing stands still."""
    network = MemoryNetwork()
    seen: list[int] = []

    class Asking(logging.Handler):
        """Look at the pool with each record, as an exporter of logs may."""

        def emit(self, record: logging.LogRecord) -> None:
            assert pool.describe()
            seen.append(pool.statistics().size)

    async def refuse(connection: PooledConnection) -> None:
        if len(network.peers) == 2:
            raise refused()

    handler, logger = Asking(), logging.getLogger("anyconnpool")
    logger.addHandler(handler)
    try:
        async with ConnectionPool(network, on_connect=refuse, leak_after=1) as pool:
            with anyio.fail_after(60):
                async with pool.acquire() as connection:
                    await anyio.sleep(9)
                    await fail_to_acquire(pool)
                    connection.discard()
                await fill(pool, 2)
                pool.retire()
    finally:
        logger.removeHandler(handler)
    # Opened, and closed, three times; a leak, a failure and its end.
    assert len(seen) >= 9


def test_only_failures_to_connect_are_quoted_and_the_system() -> None:
    """The text of an error that a hook may have made stays out of the log."""
    assert describe_error(refused()) == "ConnectionFailed: refused"
    assert describe_error(OSError(SECRET)) == "OSError"
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known", SECRET)
    assert describe_error(unknown) == "gaierror: Name or service not known"
    assert describe_error(OSError(5, "\x1b[2J")) == "OSError: \\x1b[2J"


def test_a_success_without_a_failure_is_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    """An outage log that has nothing to report says nothing."""
    log = OutageLog(GuardedLogger("anyconnpool.pool"), "shelf", "connecting")
    log.succeeded(0)
    assert not caplog.records


def test_every_outage_is_counted_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    """The end of a later outage tells its own failures and length, not those of all before."""
    log = OutageLog(GuardedLogger("anyconnpool.pool"), "shelf", "connecting")
    for start in (0, 100):
        for second in range(3):
            log.failed(refused(), start + second)
        log.succeeded(start + 4)
    assert (
        lines(caplog, logging.INFO)
        == ["pool shelf: connecting works again after 4.0 s (failures: 3)"] * 2
    )
    assert lines(caplog, logging.WARNING)[1] == (
        "pool shelf: connecting failed 3 times since the last warning: ConnectionFailed: refused"
    )
