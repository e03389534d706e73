"""Arguments of exchanges that make no sense are refused before anything is opened or sent."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from anyconnpool import ConnectionPool, PackageFormat, PackageTooLarge
from tests.cases import table

from .flaky import calling
from .network import MemoryNetwork, fill, peer_of

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
