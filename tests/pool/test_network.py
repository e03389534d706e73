"""The network in memory that the tests of this directory rely on."""

from __future__ import annotations

import anyio
import pytest

from .network import MemoryNetwork, delayed, failing, gated, hang


async def test_a_closed_socket_counts_once() -> None:
    """Closing is idempotent, and no socket is counted as closed twice."""
    network = MemoryNetwork()
    first, second = await network.connect(), await network.connect()
    assert (network.open_now, network.most_open, network.opened) == (2, 2, 2)
    await first.aclose()
    await first.aclose()
    await anyio.aclose_forcefully(first)
    assert (network.open_now, network.most_open, network.closed) == (1, 2, 1)
    assert not first.forced
    await anyio.aclose_forcefully(second)
    assert (network.open_now, network.forced) == (0, 1)


async def test_connecting_counts_as_open_and_ends_counted() -> None:
    """An attempt that fails or is cancelled leaves nothing open; while it lasts it counts."""
    network = MemoryNetwork(failing(OSError("no")))
    with pytest.raises(OSError, match="no"):
        await network.connect()
    network.on_connect = hang
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(network.connect)
        await anyio.sleep(1)
        assert network.open_now == 1
        task_group.cancel_scope.cancel()
    assert (network.open_now, network.most_open, network.opened, network.attempts) == (0, 1, 0, 2)


async def test_an_interrupted_close_leaves_the_socket_open() -> None:
    """Only an orderly close that went to its end, or force, closes."""
    network = MemoryNetwork(on_close=hang)
    stream = await network.connect()
    with anyio.move_on_after(3):
        await stream.aclose()
    assert network.open_now == 1
    await anyio.aclose_forcefully(stream)
    assert network.open_now == 0


async def test_the_hooks_wait_and_fail_by_number() -> None:
    """A gate holds its own attempt only, a delay is in virtual time."""
    gate = anyio.Event()
    network = MemoryNetwork(gated(gate))
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(network.connect)
        await anyio.sleep(1)
        await network.connect()
        assert network.opened == 1
        gate.set()
    assert network.opened == 2
    network.on_connect = delayed(0, 0, 5)
    await network.connect()
    assert anyio.current_time() == pytest.approx(6)
    for peer in network.peers:
        await peer.client.aclose()


async def test_the_server_answers_pushes_and_hangs_up() -> None:
    """What the server sends comes first, then its end."""
    network = MemoryNetwork(answer=bytes.upper)
    stream = await network.connect()
    await stream.send(b"abc")
    assert await stream.receive(2) == b"AB"
    network.peers[0].push(b"d")
    network.peers[0].hang_up()
    assert await stream.receive() == b"Cd"
    with pytest.raises(anyio.EndOfStream):
        await stream.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await stream.send(b"x")
    await stream.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await stream.receive()
    with pytest.raises(anyio.ClosedResourceError):
        await stream.send(b"x")
