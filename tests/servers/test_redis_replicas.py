"""Several Redis behind one pool: killed in turn, as primary and stand-by, behind two HAProxy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from anyconnpool import ConnectionPool, PooledConnection, Replicas, Retry

from .checks import PERSISTENT
from .programs import Program, haproxy, redis_server
from .redis_side import admin, greet
from .resp import command
from .work import TASKS, at_work, until_alone, until_even

SIZE = 8
REST = Retry(0, interval=0.2, max_interval=1)
ROUNDS, LONG_ROUNDS = 2, 50

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Return what ends programs with the test."""
    with ExitStack() as stack:
        yield stack


def two_redis(stack: ExitStack, directory: Path) -> list[Program]:
    """Run two Redis that know nothing of each other."""
    servers: list[Program] = []
    for name in ("first", "second"):
        (directory / name).mkdir()
        servers.append(stack.enter_context(redis_server(directory / name)))
    return servers


def primary_and_stand_by(stack: ExitStack, directory: Path) -> tuple[Program, Program]:
    """Run two Redis, of which the second copies what the first one is told."""
    for name in ("primary", "stand-by"):
        (directory / name).mkdir()
    no_delay = ("--repl-diskless-sync-delay", "0")
    primary = stack.enter_context(redis_server(directory / "primary", *no_delay))
    host, port = primary.remote
    copies = ("--replicaof", host, str(port))
    stand_by = stack.enter_context(redis_server(directory / "stand-by", *copies))
    return primary, stand_by


def set_and_get(pool: ConnectionPool, retry: Retry) -> Callable[[int, int], Awaitable[None]]:
    """Return what stores a value and looks it up, on whichever Redis has a connection for it."""

    async def ask(task: int, turn: int) -> None:
        key, value = f"key {task}", b"%d %d" % (task, turn)
        assert await pool.run(command, "SET", key, value, retry=retry, timeout=60) == "OK"
        found = await pool.run(command, "GET", key, retry=retry, timeout=60)
        # The other one may have an older value, or none.
        assert found is None or (isinstance(found, bytes) and found.split()[0] == b"%d" % task)

    return ask


async def test_two_redis_killed_in_turn_fail_no_exchange(
    stack: ExitStack, tmp_path: Path, long_form: bool
) -> None:
    """Each has half of the connections again after it was killed and started; or for a minute."""
    servers = two_redis(stack, tmp_path)
    replicas = Replicas([server.remote for server in servers], rest=REST)
    async with (
        ConnectionPool(replicas, max_size=SIZE, on_connect=greet) as pool,
        at_work(set_and_get(pool, Retry(2))) as work,
    ):
        for server in servers * (LONG_ROUNDS if long_form else ROUNDS):
            await until_even(replicas, SIZE)
            await work.go_on()
            await to_thread.run_sync(server.kill)
            await work.go_on()
            await to_thread.run_sync(server.start)
        await until_even(replicas, SIZE)


async def test_a_stand_by_serves_reads_while_the_primary_is_away(
    stack: ExitStack, tmp_path: Path
) -> None:
    """Everything goes to the primary, or to the stand-by as long as the primary is dead."""
    primary, stand_by = primary_and_stand_by(stack, tmp_path)
    async with admin(primary) as writer:
        for task in range(TASKS):
            await writer.command("SET", f"key {task}", f"value {task}")
        assert await writer.command("WAIT", "1", "60000") == 1
    served = Counter[object]()

    async def read(connection: PooledConnection, task: int) -> None:
        assert await command(connection, "GET", f"key {task}") == b"value %d" % task
        served[connection.remote] += 1

    async def ask(task: int, turn: int) -> None:
        await pool.run(read, task, retry=Retry(2), timeout=60)

    replicas = Replicas([primary.remote, stand_by.remote], order="in_order", rest=REST)
    async with (
        ConnectionPool(replicas, max_size=SIZE, on_connect=greet) as pool,
        at_work(ask) as work,
    ):
        for _ in range(ROUNDS):
            await until_alone(replicas, primary)
            served.clear()
            await work.go_on()
            assert {*served} == {primary.remote}
            await to_thread.run_sync(primary.kill)
            await until_alone(replicas, stand_by)
            served.clear()
            await work.go_on()
            assert {*served} == {stand_by.remote}
            await to_thread.run_sync(primary.start)
        await until_alone(replicas, primary)


async def test_writes_wait_until_the_stand_by_is_the_primary(
    stack: ExitStack, tmp_path: Path
) -> None:
    """Who is no primary is refused by ``on_connect``; with ``retry=`` no write fails for it."""
    primary, stand_by = primary_and_stand_by(stack, tmp_path)
    stored: dict[str, bytes] = {}

    async def is_primary(connection: PooledConnection[Any]) -> bool:
        await greet(connection)
        role = await command(connection, "ROLE")
        return isinstance(role, list) and role[0] == b"master"

    async def write(task: int, turn: int) -> None:
        key, value = f"key {task}", b"%d" % turn
        assert await pool.run(command, "SET", key, value, retry=PERSISTENT, timeout=60) == "OK"
        stored[key] = value

    replicas = Replicas([primary.remote, stand_by.remote], order="in_order", rest=REST)
    async with ConnectionPool(replicas, max_size=SIZE, on_connect=is_primary) as pool:
        async with at_work(write) as work:
            await work.go_on()
            assert not replicas.states()[stand_by.remote].connections
            await to_thread.run_sync(primary.kill)
            async with admin(stand_by) as operator:
                await operator.command("REPLICAOF", "NO", "ONE")
            await work.go_on(4 * TASKS)
        for key, value in stored.items():
            assert await pool.run(command, "GET", key, retry=PERSISTENT, timeout=60) == value


async def test_two_haproxy_reloaded_and_killed_in_turn_fail_no_exchange(
    stack: ExitStack, tmp_path: Path, long_form: bool
) -> None:
    """Connections that a reload cuts, and a balancer that dies, cost a repeat at most."""
    servers = two_redis(stack, tmp_path)
    balancers = two_haproxy(stack, tmp_path, servers, checks=False)
    replicas = Replicas([balancer.remote for balancer in balancers], rest=REST)
    async with (
        ConnectionPool(replicas, max_size=SIZE, on_connect=greet) as pool,
        at_work(set_and_get(pool, Retry(2))) as work,
    ):
        for balancer in balancers * (LONG_ROUNDS // 2 if long_form else 1):
            await until_even(replicas, SIZE)
            await work.go_on()
            await to_thread.run_sync(balancer.reload)
            await work.go_on()
            await until_even(replicas, SIZE)
            await to_thread.run_sync(balancer.kill)
            await work.go_on()
            await to_thread.run_sync(balancer.start)
        await until_even(replicas, SIZE)


async def test_a_redis_that_dies_behind_both_haproxy_fails_no_exchange(
    stack: ExitStack, tmp_path: Path
) -> None:
    """Both hang up until they know of it, so that both rest; a retry that persists outlasts it."""
    servers = two_redis(stack, tmp_path)
    balancers = two_haproxy(stack, tmp_path, servers, checks=True)
    replicas = Replicas([balancer.remote for balancer in balancers], rest=REST)
    async with (
        ConnectionPool(replicas, max_size=SIZE, on_connect=greet) as pool,
        at_work(set_and_get(pool, PERSISTENT)) as work,
    ):
        for server in servers:
            await work.go_on()
            await to_thread.run_sync(server.kill)
            await work.go_on()
            await to_thread.run_sync(server.start)
        await until_even(replicas, SIZE)
        await work.go_on()
        assert pool.statistics().opened > SIZE


def two_haproxy(
    stack: ExitStack, directory: Path, servers: list[Program], *, checks: bool
) -> list[Program]:
    """Run two HAProxy in front of the same servers."""
    backends = {f"redis-{number}": server.remote for number, server in enumerate(servers)}
    balancers: list[Program] = []
    for name in ("left", "right"):
        (directory / name).mkdir()
        run = haproxy(directory / name, backends, checks=checks)
        balancers.append(stack.enter_context(run))
    return balancers
