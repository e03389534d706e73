"""The proxy itself: its door, its commands, its address."""

from __future__ import annotations

import socket
from pathlib import Path

import anyio
import pytest

from anyconnpool import ConnectionPool
from anyconnpool.testing import FaultProxy, Faults, Flow
from tests.sockets.checks import eventually
from tests.sockets.servers import Server

from .wire import client_of


async def test_a_script_says_what_befalls_one_connection_after_the_other(server: Server) -> None:
    """In the order in which they are accepted; then the proxy's own faults hold again."""
    cut, reset = (Faults(replies=Flow(cut_after=0)), Faults(replies=Flow(reset_after=0)))
    async with FaultProxy(server.remote, faults=Faults(replies=Flow(cut_after=2))) as proxy:
        proxy.script(reset, reset, reset)
        proxy.script(cut, reset)
        async with client_of(proxy.remote) as client:
            assert await client.receive(1) == b""
        async with client_of(proxy.remote) as client:
            with pytest.raises(ConnectionResetError):
                await client.receive(1)
        assert not server.peers, "what ends at once needs no remote"
        async with client_of(proxy.remote) as client:
            await client.send(b"hello")
            assert await client.receive(5) == b"he"


async def test_a_refusing_proxy_keeps_its_port_and_its_connections(server: Server) -> None:
    """Who comes is refused; later the same address works again. Saying so twice does no harm."""
    async with FaultProxy(server.remote) as proxy, client_of(proxy.remote) as old:
        await eventually(lambda: proxy.connections)
        for _ in range(2):
            proxy.refuse()
            proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                async with client_of(proxy.remote):
                    pass
            with pytest.raises(OSError, match="in use"), socket.socket() as other:
                other.bind(proxy.remote)
            await old.send(b"still here")
            assert await old.receive(10) == b"still here"
            proxy.admit()
            proxy.admit()
            async with client_of(proxy.remote) as client:
                await client.send(b"hello")
                assert await client.receive(5) == b"hello"


async def test_commands_meet_one_connection_or_all(server: Server) -> None:
    """What they do is on the wire when they return."""
    async with (
        FaultProxy(server.remote) as proxy,
        client_of(proxy.remote) as first,
        client_of(proxy.remote) as second,
        client_of(proxy.remote) as third,
    ):
        await eventually(lambda: len(proxy.connections) == 3)
        proxy.connections[1].reset()
        with pytest.raises(ConnectionResetError):
            second.socket.recv(1)
        assert first.silent
        assert third.silent
        proxy.cut()
        assert [first.socket.recv(1), third.socket.recv(1)] == [b"", b""]
        assert proxy.connections == ()


async def test_a_reset_of_all_is_on_the_wire_at_once(server: Server) -> None:
    """Before the event loop has another turn."""
    async with FaultProxy(server.remote) as proxy, client_of(proxy.remote) as client:
        await eventually(lambda: proxy.connections)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.socket.recv(1)


async def test_what_is_frozen_goes_on_when_it_thaws(server: Server) -> None:
    """Neither bytes nor ends pass meanwhile, and none is lost; other connections go on."""
    async with (
        FaultProxy(server.remote) as proxy,
        client_of(proxy.remote) as frozen,
    ):
        await eventually(lambda: proxy.connections)
        proxy.freeze()
        await frozen.send(b"hello")
        frozen.socket.shutdown(socket.SHUT_WR)
        async with client_of(proxy.remote) as other:
            await other.send(b"me too")
            assert await other.receive(6) == b"me too"
        assert frozen.silent
        proxy.thaw()
        assert await frozen.receive(6) == b"hello"


async def test_a_unix_socket_is_listened_on_if_asked(server: Server, tmp_path: Path) -> None:
    """It can be refused and opened again, and is gone at the end."""
    path = tmp_path / "proxy"
    async with FaultProxy(server.remote, path=path) as proxy:
        assert proxy.remote == str(path)
        async with ConnectionPool(proxy.remote) as pool:
            assert await pool.send_receive_line(b"hello") == b"hello"
            proxy.refuse()
            proxy.reset()
            with pytest.raises(anyio.ConnectionFailed):
                await pool.send_receive_line(b"hello")
            proxy.admit()
            assert await pool.send_receive_line(b"hello") == b"hello"
    assert not path.exists()


async def test_a_path_that_exists_is_left_alone(tmp_path: Path) -> None:
    """The error is the kernel's own, and nothing is left open."""
    path = tmp_path / "proxy"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        async with FaultProxy(("127.0.0.1", 1), path=path):
            pass
    assert path.read_text() == "precious"


async def test_the_port_is_free_afterwards_and_the_proxy_can_be_entered_again(
    server: Server,
) -> None:
    """Outside its block it has no address and does nothing."""
    proxy = FaultProxy(server.remote)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="async with"):
            assert proxy.remote
        with pytest.raises(RuntimeError, match="async with"):
            proxy.admit()
        async with proxy, client_of(proxy.remote) as client:
            await client.send(b"hello")
            assert await client.receive(5) == b"hello"
            address = proxy.remote
        assert proxy.connections == ()
        socket.create_server(address).close()
