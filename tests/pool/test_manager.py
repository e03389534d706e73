"""One pool per remote: how remotes are told apart, and how their pools come and go."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import TCPConnectable, UNIXConnectable
from anyio.abc import ByteStream, ByteStreamConnectable
from anyio.streams.tls import TLSConnectable

from anyconnpool import (
    ConnectionPool,
    LineFormat,
    PackageFormat,
    PoolClosed,
    PooledConnection,
    PoolManager,
    Retry,
)
from tests.cases import table

from .network import MemoryNetwork, failing, fill, settle

PACKAGE = b"\0\4ping"


class Equal(ByteStreamConnectable):
    """A connectable that equals those of the same number, and cannot be hashed."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]

    async def connect(self) -> ByteStream:
        raise ConnectionRefusedError


NETWORK = MemoryNetwork()
CONTEXT = ssl.create_default_context()
SAME: list[list[Any]] = [
    [("127.0.0.1", 8999), (IPv4Address("127.0.0.1"), 8999), TCPConnectable("127.0.0.1", 8999)],
    [("::1", 8999), (IPv6Address("::1"), 8999), TCPConnectable(IPv6Address("::1"), 8999)],
    [("localhost", 8999)],
    [("localhost", 9000)],
    ["/a", b"/a", Path("/a"), UNIXConnectable("/a"), UNIXConnectable(Path("/a"))],
    ["/b"],
    [Equal(1), Equal(1)],
    [Equal(2)],
    [NETWORK, NETWORK],
    [MemoryNetwork()],
    [TLSConnectable(TCPConnectable("h", 1), ssl_context=CONTEXT) for _ in range(2)],
    [TLSConnectable(TCPConnectable("h", 1), ssl_context=CONTEXT, hostname="other")],
    [TLSConnectable(TCPConnectable("h", 2), ssl_context=CONTEXT)],
    [TCPConnectable("h", 1), ("h", 1)],
]  # fmt: skip


async def test_every_remote_has_one_pool_however_it_is_written() -> None:
    """Equal remotes share a pool and different ones don't; looking it up is synchronous."""
    async with PoolManager() as manager:
        pools = [[manager.pool(remote) for remote in remotes] for remotes in SAME]
        for same in pools:
            assert len(set(same)) == 1
        assert len({same[0] for same in pools}) == len(SAME)
        assert {type(same[0]).__mro__[1] for same in pools} == {ConnectionPool}


async def echo(connection: PooledConnection, data: bytes) -> bytes:
    await connection.send(data)
    return await connection.receive()


EXCHANGES: dict[str, Callable[[PoolManager, MemoryNetwork], Any]] = {
    "run": lambda manager, remote: manager.run(remote, echo, b"ping", timeout=1),
    "send": lambda manager, remote: manager.send(remote, b"ping", timeout=1),
    "send_line": lambda manager, remote: manager.send_line(remote, b"ping", newline=b"!"),
    "send_package": lambda manager, remote: manager.send_package(remote, b"ping"),
    "send_receive": lambda manager, remote: manager.send_receive(remote, b"ping", 4),
    "send_receive_line": lambda manager, remote: manager.send_receive_line(
        remote, b"ping", newline=b"!", max_bytes=10
    ),
    "send_receive_package": lambda manager, remote: manager.send_receive_package(
        remote, b"ping", PackageFormat(header_size=1)
    ),
    "send_frame": lambda manager, remote: manager.send_frame(remote, b"ping", LineFormat(b"!")),
    "send_receive_frame": lambda manager, remote: manager.send_receive_frame(
        remote, b"ping", LineFormat(b"!")
    ),
}
SENT = [b"ping", b"ping", b"ping!", PACKAGE, b"ping", b"ping!", b"\4ping", b"ping!", b"ping!"]


async def test_the_newline_of_the_manager_holds_for_the_lines_of_its_pools() -> None:
    """Unless it is overridden in the call."""
    network = MemoryNetwork()
    async with PoolManager(newline=b"!") as manager:
        assert await manager.send_receive_line(network, b"a") == b"a"
        async with manager.acquire(network) as connection:
            assert await connection.send_receive_line(b"b") == b"b"
        await manager.send_line(network, b"c")
    assert bytes(network.peers[0].received) == b"a!b!c!"


@table("name, sent", [*zip(EXCHANGES, SENT, strict=True)])
async def test_the_exchanges_take_the_remote_first(name: str, sent: bytes) -> None:
    """Each goes over the remote's pool, with its arguments, and returns what the pool's does."""
    network, other = MemoryNetwork(), MemoryNetwork()
    async with PoolManager() as manager:
        reply = await EXCHANGES[name](manager, network)
        assert reply == (b"ping" if "receive" in name or name == "run" else None)
        assert bytes(network.peers[0].received) == sent
        async with manager.acquire(network, timeout=1) as connection:
            assert connection.reused is (reply is not None)
    assert not other.attempts


@table("name", EXCHANGES)
async def test_the_exchanges_pass_on_timeout_and_retry(name: str) -> None:
    """A failure to connect is repeated as told; wrong timeouts open nothing."""
    refused = failing(ConnectionRefusedError("no"), only=lambda number: number == 1)
    network = MemoryNetwork(on_connect=refused, answer=lambda data: b"\0\4ping\n")
    arguments: list[object] = [echo, b"ping"] if name == "run" else [b"ping"]
    arguments += [LineFormat()] if "frame" in name else []
    method: Any = getattr(PoolManager(), name)
    with pytest.raises(PoolClosed, match="has not been entered"):
        await method(network, *arguments)
    async with PoolManager() as manager:
        method = getattr(manager, name)
        with pytest.raises(ValueError, match="timeout"):
            await method(network, *arguments, timeout=-1)
        assert not network.attempts
        await method(network, *arguments, retry=Retry(1))
        assert (network.attempts, network.opened) == (2, 1)


async def test_the_limit_of_a_line_reaches_the_exchange() -> None:
    """A longer reply is an error."""
    async with PoolManager() as manager:
        with pytest.raises(anyio.DelimiterNotFound):
            await manager.send_receive_line(MemoryNetwork(), b"0123456789", max_bytes=3)


async def test_statistics_are_told_by_remote_however_it_is_written() -> None:
    """Remotes that can't be hashed are found as well; any thread may ask."""
    networks = [MemoryNetwork() for _ in range(3)]
    async with PoolManager(max_size=4) as manager:
        for network in networks:
            await fill(manager.pool(network), 1 + networks.index(network))
        manager.pool(TCPConnectable("localhost", 1))
        # Waiting for it in the event loop would let the virtual clock jump.
        with ThreadPoolExecutor() as threads:
            statistics = threads.submit(manager.statistics).result()
        assert [statistics[network].size for network in networks] == [1, 2, 3]
        assert statistics["localhost", 1].max_size == 4
        assert statistics[TCPConnectable("localhost", 1)].name == "tcp://localhost:1"
        assert list(statistics) == [*networks, TCPConnectable("localhost", 1)]
        assert ("localhost", 2) not in statistics
        assert len(statistics) == 4
    assert not manager.statistics()


@table(
    "settings, error, text",
    [
        ({"max_total": 0}, ValueError, "max_total must be 1 or more"),
        ({"max_total": 2.5}, TypeError, "max_total must be an int"),
        ({"max_total": math.nan}, TypeError, "max_total must be an int"),
        ({"max_total": True}, TypeError, "max_total must be an int"),
        ({"name": "mine"}, TypeError, "leave name out"),
        ({"min_idle": 3, "max_total": 2}, ValueError, "min_idle must not exceed max_total, 2"),
        ({"min_idle": 3, "max_size": 2}, ValueError, "min_idle must not exceed max_size"),
        ({"max_size": 0}, ValueError, "max_size"),
        ({"nonsense": 1}, TypeError, "nonsense"),
        ({"ssl_context": CONTEXT}, ValueError, "no effect without tls=True"),
        ({"tls_standard_compatible": False}, ValueError, "no effect without tls=True"),
    ],
)
def test_wrong_settings_are_refused_when_the_manager_is_made(
    settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    """Not only when the first pool is needed."""
    with pytest.raises(error, match=text):
        PoolManager(**settings)


@table(
    "remote, error",
    [
        ((), ValueError),
        (("localhost", [1]), TypeError),
        (("localhost", True), TypeError),
        (("localhost", 1.0), TypeError),
        ("", ValueError),
        ("tcp://localhost:1", ValueError),
        (None, TypeError),
    ],
)
async def test_a_wrong_remote_is_refused_by_pool(remote: Any, error: type[Exception]) -> None:
    """Also one that equals a right one by the rules of Python."""
    async with PoolManager() as manager:
        manager.pool(("localhost", 1))
        with pytest.raises(error):
            manager.pool(remote)
        assert list(manager.statistics()) == [("localhost", 1)]


async def test_tls_is_for_addresses_only() -> None:
    """A ready-made connectable is refused, also if the same address has a pool already."""
    async with PoolManager(tls=True, ssl_context=CONTEXT) as manager:
        assert manager.pool(("localhost", 1)).name == "tls://localhost:1"
        with pytest.raises(ValueError, match="no effect on a ready-made connectable"):
            manager.pool(TCPConnectable("localhost", 1))


async def test_outside_its_block_a_manager_refuses_to_work() -> None:
    """The error says whether it is too early or too late, also for pools that were kept."""
    network = MemoryNetwork()
    manager = PoolManager()
    for use in (lambda: manager.pool(network), lambda: manager.acquire(network), manager.retire):
        with pytest.raises(PoolClosed, match="has not been entered"):
            use()
    async with manager:
        pool = manager.pool(network)
        await fill(pool, 1)
    for use in (lambda: manager.pool(network), lambda: manager.acquire(network), manager.retire):
        with pytest.raises(PoolClosed, match="has been left"):
            use()
    with pytest.raises(PoolClosed, match="has been left"):
        pool.acquire()
    async with manager:
        assert await pool.send_receive(b"ping", 4) == b"ping"
        assert manager.pool(network) is pool
    assert network.open_now == 0


async def test_a_managed_pool_cannot_be_entered() -> None:
    """It lives in the manager's block; nothing happens to it."""
    async with PoolManager() as manager:
        pool = manager.pool(MemoryNetwork())
        with pytest.raises(RuntimeError, match="lives in its manager's block"):
            async with pool:
                raise AssertionError("never entered")
        assert await pool.send_receive(b"ping", 4) == b"ping"


async def test_retiring_a_manager_replaces_the_connections_of_all_pools() -> None:
    """Idle ones are closed at once."""
    networks = [MemoryNetwork() for _ in range(3)]
    async with PoolManager() as manager:
        for network in networks:
            await fill(manager.pool(network), 2)
        manager.retire()
        await settle()
        assert [network.open_now for network in networks] == [0, 0, 0]


async def test_the_size_of_one_pool_can_be_changed() -> None:
    """The others keep theirs; it lasts as long as the pool."""
    async with PoolManager(max_size=2) as manager:
        pool = manager.pool(("localhost", 1))
        pool.max_size = 5
        assert manager.pool(("localhost", 1)).max_size == 5
        assert manager.pool(("localhost", 2)).max_size == 2
        assert anyio.current_time() == 0
