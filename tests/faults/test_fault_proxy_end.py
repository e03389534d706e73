"""However a proxy's block ends, nothing is left of it: no socket, no task, no waiting."""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest
from anyio import CancelScope, create_task_group, fail_after, sleep, sleep_forever, to_thread
from anyio.lowlevel import checkpoint

from anyconnpool.testing import FaultProxy
from tests.cases import table
from tests.sockets.checks import LIMIT, eventually
from tests.sockets.servers import Peer, Script, Server

from .conftest import echo
from .wire import Client, Recorder

# How many turns of the event loop a proxy lives, from its block's first to its last, and some more.
_TURNS = 40


def flood(peer: Peer) -> None:
    """Send without end, whoever reads it."""
    while True:
        peer.send(bytes(65_536))


async def freeze(proxy: FaultProxy, client: Client) -> None:
    await eventually(lambda: proxy.connections)
    proxy.freeze()
    await client.send(b"hello")


async def jam(proxy: FaultProxy, client: Client) -> None:
    await to_thread.run_sync(client.jam)


async def do_not_read(proxy: FaultProxy, client: Client) -> None:
    await eventually(lambda: not client.silent)


async def test_what_the_body_raises_leaves_as_it_is(server: Server) -> None:
    """No group is put around it."""
    error = LookupError("the body's own")
    with pytest.raises(LookupError) as caught:
        async with FaultProxy(server.remote):
            raise error
    assert caught.value is error


@table("way_out", ["leave", "cancel", "raise"])
@table("script, stick", [(echo, freeze), (None, jam), (flood, do_not_read)])
async def test_leaving_waits_for_nobody(
    serve: Callable[..., Server],
    script: Script | None,
    stick: Callable[[FaultProxy, Client], Any],
    way_out: str,
) -> None:
    """Neither for a frozen connection nor for a peer that doesn't read, at either end."""
    server = serve(script=script)
    proxy = FaultProxy(server.remote)
    with (
        ExitStack() as clients,
        fail_after(LIMIT),
        CancelScope() as scope,
        suppress(LookupError),
    ):
        async with proxy:
            client = Client(proxy.remote)
            clients.enter_context(closing(client.socket))
            await stick(proxy, client)
            if way_out == "cancel":
                scope.cancel()
                await sleep_forever()
            if way_out == "raise":
                raise LookupError
    assert proxy.connections == ()
    assert scope.cancelled_caught is (way_out == "cancel")


async def live(server: Server, clients: ExitStack) -> None:
    """Enter a proxy, have a client's bytes on their way, and leave."""
    async with FaultProxy(server.remote) as proxy:
        client = Client(proxy.remote)
        clients.enter_context(closing(client.socket))
        client.socket.sendall(b"hello")
        for _ in range(_TURNS // 2):
            await checkpoint()


async def test_a_cancellation_at_any_turn_leaves_nothing(server: Server) -> None:
    """While entering, accepting, connecting, passing on and leaving."""
    for turns in range(_TURNS):
        with ExitStack() as clients:
            async with create_task_group() as tasks:
                tasks.start_soon(live, server, clients)
                for _ in range(turns):
                    await checkpoint()
                tasks.cancel_scope.cancel()
    await eventually(lambda: not server.open)


# A task that asyncio cancels before its first step leaves a coroutine that was never awaited.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("blow", ["the block's task", "every task"])
async def test_a_native_cancellation_at_any_turn_leaves_nothing(
    server: Server, anyio_backend_name: str, blow: str
) -> None:
    """Also one that meets every task at once, as when asyncio ends."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no other cancellation")
    others = asyncio.all_tasks()
    # Coroutines are to be collected where it is known of their warnings, not anywhere.
    gc.disable()
    try:
        for turns in range(_TURNS):
            with ExitStack() as clients:
                task = asyncio.create_task(live(server, clients))
                for _ in range(turns):
                    await checkpoint()
                for struck in asyncio.all_tasks() - others if blow == "every task" else {task}:
                    struck.cancel()
                await asyncio.wait({task})
                assert asyncio.all_tasks() == others
        await eventually(lambda: not server.open)
    finally:
        gc.collect()
        gc.enable()


@contextmanager
def no_descriptor_left() -> Generator[None]:
    """Let this process open nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_who_comes_when_there_is_no_descriptor_left_waits_for_one() -> None:
    """The proxy neither breaks nor spins; it accepts as soon as it can."""
    # No server: its thread would miss the descriptor too.
    recorder = Recorder()
    async with FaultProxy(recorder) as proxy:
        client = Client(proxy.remote)
        with closing(client.socket):
            with no_descriptor_left():
                await sleep(0.05)
                assert not proxy.connections
            client.socket.sendall(b"hello")
            await eventually(lambda: recorder.pieces == [b"hello"])
