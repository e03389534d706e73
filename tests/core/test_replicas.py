"""What may be given as several servers of a service, and how they are used without a pool."""

from __future__ import annotations

import asyncio
import gc
import math
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import ConnectionFailed, TCPConnectable, create_task_group
from anyio.abc import ByteStreamConnectable
from anyio.lowlevel import checkpoint

from anyconnpool import ConnectionPool, Replicas, ReplicaState, Retry
from tests.pool.network import MemoryNetwork
from tests.pool.service import Server

A, B, C = ("a", 1), ("b", 2), ("c", 3)


async def find() -> list[Any]:
    return [A]


def test_wrong_replicas_are_refused_when_made() -> None:
    """Each error says what is wrong."""
    network = MemoryNetwork()
    pool = ConnectionPool(A)
    wrong: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        ([], {}, ValueError, "one remote at least"),
        ([A, B, A], {}, ValueError, "tcp://a:1 is there twice"),
        ([A, TCPConnectable("a", 1)], {}, ValueError, "tcp://a:1 is there twice"),
        ([network, network], {}, ValueError, "MemoryNetwork is there twice"),
        (A, {}, TypeError, r"write \[\('a', 1\)\]"),
        (["a", 1], {}, TypeError, r"write \[\('a', 1\)\]"),
        ("/socket", {}, TypeError, r"write \['/socket'\]"),
        (Path("/socket"), {}, TypeError, "must be a collection of remotes"),
        (network, {}, TypeError, "must be a collection of remotes"),
        (5, {}, TypeError, "must be a collection of remotes, or an async function"),
        (None, {}, TypeError, "must be a collection of remotes, or an async function"),
        ([A, 5], {}, TypeError, "a remote is a"),
        ([("a", 0)], {}, ValueError, "a port must be"),
        ([A, Replicas([B])], {}, TypeError, "a Replicas can't be one of several replicas"),
        ([A, pool], {}, TypeError, "a ConnectionPool can't be one of several replicas"),
        ([A], {"order": "random"}, ValueError, 'order must be "balanced" or "in_order"'),
        ([A], {"rest": 5}, TypeError, r"rest must be a Retry, not int: write Retry\(5\)"),
        ([A], {"rest": Retry(0, interval=0)}, ValueError, "of rest must be more than 0 seconds"),
        ([A], {"rest": Retry(0, max_interval=0)}, ValueError, "must be more than 0 seconds"),
        ([A], {"refresh": 5}, ValueError, "refresh has no effect"),
        (find, {"refresh": 0}, ValueError, "refresh must be more than 0"),
        (find, {"refresh": "5"}, TypeError, "refresh must be a number"),
    ]
    for remotes, options, error, text in wrong:
        with pytest.raises(error, match=text):
            Replicas(remotes, **options)
    for host, port, error in (("", 1, ValueError), ("a", "1", TypeError), (5, 1, TypeError)):
        with pytest.raises(error):
            Replicas.from_dns(host, port)  # type: ignore[arg-type]


def test_tls_options_hold_for_each_address() -> None:
    """A ready-made connectable with TLS options is refused when the pool is made."""
    with pytest.raises(ValueError, match="TLS options have no effect on a ready-made connectable"):
        ConnectionPool(Replicas([A, MemoryNetwork()]), tls=True)
    with pytest.raises(ValueError, match="needs tls_hostname"):
        ConnectionPool(["/socket", A], tls=True)
    with pytest.raises(ValueError, match="without tls=True"):
        ConnectionPool([A, B], tls_hostname="a")
    with pytest.raises(TypeError, match="ssl_context"):
        ConnectionPool(Replicas(find), ssl_context=5)  # type: ignore[call-overload]
    assert ConnectionPool([A, "/s"], tls=True, tls_hostname="a").name == "tls://a:1,tls+unix:///s"


def test_set_replaces_what_was_given() -> None:
    """What stays may be written in another way; with a function, there is nothing to set."""
    replicas = Replicas([A, B])
    replicas.set([TCPConnectable("b", 2), C])
    assert list(replicas.states()) == [B, C]
    for wrong, error in (([], ValueError), ([A, A], ValueError), (A, TypeError)):
        with pytest.raises(error):
            replicas.set(wrong)  # type: ignore[arg-type]
    assert list(replicas.states()) == [B, C]
    with pytest.raises(RuntimeError, match="no use where an async function"):
        Replicas(find).set([A])
    assert ConnectionPool(replicas).name == "tcp://b:2,tcp://c:3"


def test_states_are_found_by_any_form_of_the_remote() -> None:
    """They show nothing bad before anything happened; what is no replica has none."""
    replicas = Replicas([A, MemoryNetwork()])
    states = replicas.states()
    assert states[TCPConnectable("a", 1)] == ReplicaState(False, 0, None, 0, 0)
    assert len(states) == 2
    assert B not in states
    with pytest.raises(KeyError) as caught:
        states[B]
    assert caught.value.args == (B,)
    assert dict(Replicas(find).states()) == {}


def test_states_can_be_printed() -> None:
    """As what a user looks at first, they show all that they have."""
    assert (
        repr(Replicas([A]).states())
        == f"ByRemote({{{A!r}: {ReplicaState(False, 0, None, 0, 0)!r}}})"
    )


async def test_without_a_pool_it_is_a_connectable_with_failover() -> None:
    """Each connect takes the next replica, and goes on where one fails; those rest."""
    servers = [Server() for _ in range(3)]
    replicas = Replicas([server.network for server in servers])
    assert isinstance(replicas, ByteStreamConnectable)
    streams = [await replicas.connect() for _ in range(3)]
    assert [server.open_now for server in servers] == [1, 1, 1]
    servers[0].mood = "refusing"
    streams += [await replicas.connect() for _ in range(4)]
    assert [len(server.asked_at) for server in servers] == [2, 3, 3]
    assert replicas.states()[servers[0].network].resting
    for stream in streams:
        await stream.aclose()
    assert [state.connections for state in replicas.states().values()] == [0, 0, 0]


@pytest.mark.parametrize("pause", [0.0, -1.0, math.nan, LookupError])
async def test_a_rest_that_is_no_time_is_replaced(pause: Any) -> None:
    """A class of the user's may say anything: without a rest, attempts would never end."""

    class Odd(Retry):
        def pause(self, repeat: int, draw: Any = None) -> float:
            if pause is LookupError:
                raise pause
            return float(pause)

    servers = [Server() for _ in range(2)]
    servers[0].mood = "refusing"
    replicas = Replicas([server.network for server in servers], rest=Odd(0))
    async with ConnectionPool(replicas) as pool:
        await pool.send_receive(b"a", 1)
        for _ in range(100):
            await checkpoint()
        assert replicas.states()[servers[0].network].resting
    assert len(servers[0].asked_at) == 1


async def test_without_a_pool_all_are_tried_even_if_all_rest() -> None:
    """Then the error has one of each; a single one raises its own."""
    servers = [Server() for _ in range(2)]
    replicas = Replicas([server.network for server in servers])
    for server in servers:
        server.mood = "refusing"
    for _ in range(2):
        with pytest.raises(ConnectionFailed) as caught:
            await replicas.connect()
        cause: Any = caught.value.__cause__
        assert [type(error) for error in cause.exceptions] == [ConnectionRefusedError] * 2
    servers[1].mood = "well"
    await (await replicas.connect()).aclose()
    single = Server()
    single.mood = "refusing"
    with pytest.raises(ConnectionRefusedError):
        await Replicas([single.network]).connect()


async def test_without_a_pool_a_cancelled_connect_leaves_nothing() -> None:
    """Nothing open, and nothing against the replica."""
    server = Server()
    server.mood = "swallowing"
    replicas = Replicas([server.network])
    with anyio.move_on_after(0.01):
        await replicas.connect()
    assert server.open_now == 0
    assert replicas.states()[server.network] == ReplicaState(False, 0, None, 0, 0)


async def test_without_a_pool_they_are_found_when_they_are_due() -> None:
    """A failure is one of connecting while none is known; then the last ones stay."""
    server = Server()
    calls = 0
    error: Exception | None = LookupError("none")

    async def look_up() -> list[Any]:
        nonlocal calls
        calls += 1
        if error is not None:
            raise error
        return [server.network, server.network]

    replicas = Replicas(look_up, refresh=0.05)
    with pytest.raises(ConnectionFailed, match="no replica is known"):
        await replicas.connect()
    error = None
    await anyio.sleep(0.06)
    await (await replicas.connect()).aclose()
    error = LookupError("gone")
    await anyio.sleep(0.06)
    await (await replicas.connect()).aclose()
    assert calls == 3


async def test_without_a_pool_those_who_come_meanwhile_wait_for_what_is_found() -> None:
    """One call serves them all; one that was cancelled counts for nobody."""
    server = Server()
    calls: list[anyio.Event] = []

    async def look_up() -> list[Any]:
        calls.append(anyio.Event())
        await calls[-1].wait()
        return [server.network]

    replicas = Replicas(look_up)
    async with create_task_group() as tasks:
        tasks.start_soon(replicas.connect)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    async with create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(replicas.connect)
        await anyio.wait_all_tasks_blocked()
        assert len(calls) == 2
        calls[-1].set()
    assert server.open_now == 3
    # Once something is known, nobody waits for one that hangs but who has called it.
    replicas = Replicas(look_up, refresh=0.01)
    async with create_task_group() as tasks:
        tasks.start_soon(replicas.connect)
        await anyio.wait_all_tasks_blocked()
        calls[-1].set()
    await anyio.sleep(0.02)
    async with create_task_group() as tasks:
        tasks.start_soon(replicas.connect)
        await anyio.wait_all_tasks_blocked()
        await replicas.connect()
        tasks.cancel_scope.cancel()
    assert len(calls) == 4


def forget(kept: list[Any]) -> None:
    kept.clear()
    gc.collect()


def test_a_pool_that_was_left_in_a_closed_loop_uses_them_no_more() -> None:
    """Nobody can end it there, and another pool can have its replicas."""
    server = Server()
    replicas = Replicas([server.network])

    async def use(pool: ConnectionPool) -> int:
        await pool.send_receive(b"a", 1)
        return replicas.states()[server.network].connections

    loop = asyncio.new_event_loop()
    lost = loop.run_until_complete(ConnectionPool(replicas).open())
    assert loop.run_until_complete(use(lost)) == 1
    loop.stop()
    loop.run_forever()
    loop.close()
    assert replicas.states()[server.network].connections == 0
    replicas.set([server.network])

    async def begin_anew() -> None:
        async with ConnectionPool(replicas) as pool:
            assert await use(pool) == 1

    anyio.run(begin_anew)
    kept = [lost]
    del lost
    with pytest.warns(ResourceWarning, match="was never closed"):
        forget(kept)


def test_without_a_pool_another_event_loop_begins_anew() -> None:
    """The clock of each loop of trio's begins at a time of its own."""
    pytest.importorskip("trio")
    server = Server()
    calls = 0

    async def look_up() -> list[Any]:
        nonlocal calls
        calls += 1
        return [server.network]

    replicas = Replicas(look_up)
    for number in range(1, 4):
        anyio.run(replicas.connect, backend="trio")
        assert calls == number
