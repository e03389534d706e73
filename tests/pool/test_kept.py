"""What is over is not kept: exceptions, frames, tasks, contexts, and closed connections."""

from __future__ import annotations

import gc
import math
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from operator import attrgetter
from typing import Any
from weakref import ref

import anyio
import pytest
from anyio import ConnectionFailed

from anyconnpool import ConnectionPool, PooledConnection, PoolManager, Replicas, Retry
from anyconnpool._engine.spawning import PoolTasks
from anyconnpool.events import ConnectionOpened, PoolEvent

from .network import MemoryNetwork, delayed, fill, peer_of, settle
from .service import Server, Service

_variable: ContextVar[object] = ContextVar("variable", default=None)


class Token:
    """Stand in the frames and contexts of what is to be forgotten."""


class Tokens:
    """Make tokens, and tell how many of them are still there."""

    def __init__(self) -> None:
        self._refs: list[ref[Token]] = []

    def make(self) -> Token:
        token = Token()
        self._refs.append(ref(token))
        return token

    def check(self, at_least: int = 1, *, collect: bool = True) -> None:
        """Assert that some were made, and that nobody keeps any of them.

        :param collect: whether to leave cycles to the garbage collector
        """
        assert len(self._refs) >= at_least
        if collect:
            gc.collect()
        kept = [token for token in (reference() for reference in self._refs) if token is not None]
        assert not kept, gc.get_referrers(kept[0])


Path = Callable[[ConnectionPool, MemoryNetwork, Tokens], Awaitable[None]]


async def fail_to_connect(pool: ConnectionPool, network: MemoryNetwork, tokens: Tokens) -> None:
    async def refuse(_: int) -> None:
        token = tokens.make()
        raise ConnectionFailed(f"refused {token}")

    network.on_connect = refuse
    with pytest.raises(ConnectionFailed):
        await pool.acquire()
    network.on_connect = delayed(5)
    with pytest.raises(TimeoutError):
        await pool.acquire(timeout=1)
    network.on_connect = None
    await fill(pool, 1)


def refuse_login(request: bytes) -> bytes:
    return b"no\n"


async def fail_to_log_in(pool: ConnectionPool, network: MemoryNetwork, tokens: Tokens) -> None:
    network.answer = refuse_login
    with pytest.raises(ConnectionFailed):
        await pool.acquire()
    network.answer = bytes
    await fill(pool, 1)


async def fail_a_check(pool: ConnectionPool, network: MemoryNetwork, tokens: Tokens) -> None:
    await fill(pool, 1)
    await anyio.sleep(100)
    network.answer = refuse_login
    async with pool.acquire():
        pass
    network.answer = bytes


async def run_out_of_time(pool: ConnectionPool, network: MemoryNetwork, tokens: Tokens) -> None:
    held = [await pool.acquire() for _ in range(2)]

    async def wait() -> None:
        token = tokens.make()
        with suppress(TimeoutError):
            await pool.acquire(timeout=1)
        del token

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
    for connection in held:
        await connection.aclose()


async def be_cancelled(pool: ConnectionPool, network: MemoryNetwork, tokens: Tokens) -> None:
    held = [await pool.acquire() for _ in range(2)]

    async def wait() -> None:
        token = tokens.make()
        await pool.acquire()
        del token

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        await settle()
        tasks.cancel_scope.cancel()
    for connection in held:
        await connection.aclose()


async def fail_in_the_body(pool: ConnectionPool, network: MemoryNetwork, tokens: Tokens) -> None:
    async def borrow() -> None:
        token = tokens.make()
        async with pool.acquire():
            raise KeyError(token)

    for _ in range(3):
        with pytest.raises(KeyError):
            await borrow()


async def borrow_in_a_task(pool: ConnectionPool, network: MemoryNetwork, tokens: Tokens) -> None:
    async def borrow() -> None:
        token = tokens.make()
        _variable.set(token)
        async with pool.acquire() as connection:
            await connection.send_line(b"hello")
            await connection.receive_line()
        await pool.send_receive_line(b"hello", timeout=9)
        await (await pool.acquire()).aclose()
        pool.acquire_nowait().discard()
        (await pool.acquire()).detach()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(borrow)
    await fill(pool, 2)


async def borrow_and_end(pool: ConnectionPool, network: MemoryNetwork, tokens: Tokens) -> None:
    """Nobody else has the connection afterwards, who would take the place of the first one."""

    async def borrow() -> None:
        _variable.set(tokens.make())
        async with pool.acquire():
            await settle()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(borrow)


async def repeat(pool: ConnectionPool, network: MemoryNetwork, tokens: Tokens) -> None:
    async def fail(connection: PooledConnection) -> bytes:
        token = tokens.make()
        if len(network.peers) < 5:
            peer_of(connection).hang_up()
        await connection.send_line(b"hello")
        del token
        return await connection.receive_line()

    await pool.run(fail, retry=Retry(9))


async def reconnect_on_errors(pool: ConnectionPool, network: MemoryNetwork, tokens: Tokens) -> None:
    """Acquire the next connection while the error of the last one is handled."""

    async def use(connection: PooledConnection, token: Token) -> None:
        peer_of(connection).hang_up()
        await connection.receive_line()

    connection = await pool.acquire()
    for _ in range(60):
        try:
            await use(connection, tokens.make())
        except anyio.EndOfStream:
            await connection.aclose()
            connection = await pool.acquire()
    # It is borrowed still.
    tokens.check(at_least=60)
    await connection.aclose()


async def _log_in(tokens: Tokens, connection: PooledConnection) -> None:
    token = tokens.make()
    await connection.send_line(b"user")
    if await connection.receive_line() != b"user":
        raise ConnectionFailed(f"refused {token}")


_PATHS: tuple[Path, ...] = (
    *(fail_to_connect, fail_to_log_in, fail_a_check, run_out_of_time, be_cancelled),
    *(fail_in_the_body, borrow_in_a_task, borrow_and_end, repeat, reconnect_on_errors),
)


@pytest.mark.parametrize("path", _PATHS, ids=lambda path: path.__name__)
async def test_what_is_over_is_not_kept(path: Path) -> None:
    """The pool goes on; nothing leads from it to a frame, a context or a task that has ended."""
    network, tokens = MemoryNetwork(), Tokens()
    hooks: dict[str, Any] = {}
    if path in (fail_to_log_in, fail_a_check):
        hook = "on_connect" if path is fail_to_log_in else "check"
        hooks = {hook: partial(_log_in, tokens), "check_after": 50}
    settings: dict[str, Any] = {"max_size": 2, "max_idle_time": math.inf, **hooks}
    async with ConnectionPool(network, **settings) as pool:
        await path(pool, network, tokens)
        # asyncio keeps the contexts of timers, also of those that were cancelled, until their time.
        await anyio.sleep(60)
        tokens.check()


async def test_the_last_failure_to_connect_is_not_kept_after_the_end() -> None:
    """A pool whose block has ended, and which can be asked what it has done, keeps no error."""
    network, tokens = MemoryNetwork(), Tokens()

    async def refuse(_: int) -> None:
        token = tokens.make()
        raise ConnectionFailed(f"refused {token}")

    network.on_connect = refuse
    async with ConnectionPool(network) as pool:
        with pytest.raises(ConnectionFailed):
            await pool.acquire()
    tokens.check()
    assert pool.statistics().open_failed == 1


async def test_the_caller_of_acquire_in_an_except_block_is_still_known_to_be_good() -> None:
    """An exception that was handled before the borrow doesn't make the connection unfit."""
    async with ConnectionPool(MemoryNetwork()) as pool:
        try:
            raise KeyError
        except KeyError:
            connection = await pool.acquire()
            await connection.aclose()
            assert pool.statistics().idle == 1
            connection = await pool.acquire()
            try:
                raise ValueError
            except ValueError:
                await connection.aclose()
    assert pool.statistics().closed == {"unclean": 1}


async def _note(seen: list[object], _: object) -> None:
    seen.append(_variable.get())
    _variable.set("what a hook has set")


@pytest.mark.parametrize("managed", [False, True], ids=["pool", "manager"])
async def test_hooks_run_in_the_context_of_the_pool(managed: bool) -> None:
    """Whoever asks, ``connect()`` and hooks see the variables of the block, each its own copy."""
    seen: list[object] = []
    observed: list[object] = []

    def observe(event: PoolEvent) -> None:
        if isinstance(event, ConnectionOpened):
            observed.append(_variable.get())

    network = MemoryNetwork(on_connect=partial(_note, seen))
    settings: dict[str, Any] = {
        "on_connect": partial(_note, []),
        "check": partial(_note, seen),
        "check_after": 1,
        "max_idle_time": math.inf,
        "observers": [observe],
    }

    async def ask(pool: ConnectionPool, name: str) -> None:
        _variable.set(name)
        async with pool.acquire():
            await anyio.sleep(2)
        assert _variable.get() == name

    async def ask_all(pool: ConnectionPool) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, pool, "first")
            tasks.start_soon(ask, pool, "second")
        await anyio.sleep(9)
        await ask(pool, "third")

    _variable.set("of the pool")
    if managed:
        async with PoolManager(**settings) as manager:
            _variable.set("of whoever asks first")
            await ask_all(manager.pool(network))
    else:
        async with ConnectionPool(network, **settings) as pool:
            await ask_all(pool)
    # Two connects, and a check at least.
    assert len(seen) >= 3
    assert {*seen} == {"of the pool"}
    assert observed == ["what a hook has set"] * 2


def test_a_task_may_start_another_one_as_it_begins() -> None:
    """Where tasks begin at once, each has its own copy of the pool's context to run in."""
    seen: list[object] = []

    class Group:
        def start_soon(self, run: object, work: Callable[[], object], *, name: str) -> None:
            work()

    def begin() -> None:
        seen.append(_variable.get())
        _variable.set("what the first has set")
        if len(seen) < 2:
            tasks.start_soon("second", any_begin)

    group: Any = Group()
    any_begin: Any = begin
    context = copy_context()
    context.run(_variable.set, "of the pool")
    tasks = PoolTasks(group, context)
    tasks.start_soon("first", any_begin)
    assert seen == ["of the pool"] * 2


@pytest.mark.parametrize("wait", ["acquire", "wait_ready"])
async def test_an_error_that_was_handled_is_gone_without_the_garbage_collector(wait: str) -> None:
    """No frame of the pool that its traceback leads to holds it in turn."""
    network, tokens = MemoryNetwork(), Tokens()

    class Refused(ConnectionFailed):
        """Hold a token."""

    async def refuse(_: int) -> None:
        error = Refused("refused")
        error.token = tokens.make()  # type: ignore[attr-defined]
        try:
            raise error
        finally:
            del error

    network.on_connect = refuse
    async with ConnectionPool(network, min_idle=1) as pool:
        await settle()
        network.on_connect = delayed(1)
        await fill(pool, 1)
        pool.retire()
        network.on_connect = refuse
        await settle()
        gc.collect()
        gc.disable()
        try:
            with suppress(Refused):
                await (pool.acquire() if wait == "acquire" else pool.wait_ready())
            network.on_connect = None
            await fill(pool, 1)
            await settle()
            tokens.check(2, collect=False)
        finally:
            gc.enable()


async def test_a_reply_is_not_kept_while_the_next_one_is_waited_for() -> None:
    """Nor is it when its connection is shared."""
    network, tokens = MemoryNetwork(answer=lambda _: b""), Tokens()

    async def read(connection: PooledConnection[Any]) -> Token:
        await connection.receive_line()
        return tokens.make()

    async def ask() -> None:
        await pool.exchange(b"?\n", read)

    async with (
        ConnectionPool(network, max_size=1, pipeline=2) as pool,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(ask)
        tasks.start_soon(ask)
        await settle()
        network.peers[0].push(b"!\n")
        await settle()
        tokens.check()
        network.peers[0].push(b"!\n")


@pytest.mark.parametrize("bytes_before", [b"", b"!"])
async def test_an_error_on_a_shared_connection_is_gone_without_the_garbage_collector(
    bytes_before: bytes,
) -> None:
    """None of the frames that have read the reply holds it in turn."""
    network, tokens = MemoryNetwork(answer=lambda _: b""), Tokens()

    async def read(connection: PooledConnection[Any]) -> bytes:
        token = tokens.make()
        line = await connection.receive_line()
        del token
        return line

    async def ask() -> None:
        with suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            await pool.exchange(b"?\n", read)

    async with ConnectionPool(network, max_size=1, pipeline=2) as pool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
            await settle()
            gc.collect()
            gc.disable()
            network.peers[0].push(bytes_before)
            network.peers[0].hang_up()
        try:
            await settle()
            tokens.check(collect=False)
        finally:
            gc.enable()


async def refuse(number: int) -> None:
    raise ConnectionFailed("refused")


async def find_nothing() -> list[Any]:
    raise LookupError("nothing is there")


async def acquire(pool: ConnectionPool[Any]) -> None:
    await pool.acquire()


#: remotes that can't be connected to
_DOWN: dict[str, Callable[[], Any]] = {
    "one": lambda: MemoryNetwork(refuse),
    "one of one": lambda: Replicas([MemoryNetwork(refuse)]),
    "one of two": lambda: Replicas([MemoryNetwork(refuse), MemoryNetwork(refuse)]),
    "none": lambda: Replicas(find_nothing),
}


@pytest.mark.parametrize("remote", _DOWN)
@pytest.mark.parametrize("way", ["acquire", "share", "wait_ready", "fail fast", "without a pool"])
async def test_who_could_not_connect_is_not_kept_by_the_error(way: str, remote: str) -> None:
    """The pool knows the last one, and nothing leads from it to whoever has got it."""
    tokens, target = Tokens(), _DOWN[remote]()
    settings: dict[str, Any] = {"min_idle": 1, "pipeline": 2 if way == "share" else 1}
    if way == "fail fast":
        settings["fail_fast_after"] = 1
    pool = ConnectionPool(target, **settings)
    uses: dict[str, Callable[[], Awaitable[object]]] = {
        "share": partial(pool.send_receive_line, b"hello"),
        "wait_ready": pool.wait_ready,
        "without a pool": target.connect,
    }
    use = uses.get(way, partial(acquire, pool))

    async def ask() -> None:
        token = tokens.make()
        await use()
        del token

    async with pool:
        for _ in range(3):
            with pytest.raises(ConnectionFailed):
                await ask()
            await anyio.sleep(1.5)
        tokens.check(3)


async def test_who_waited_for_readiness_in_vain_is_not_kept_by_the_error() -> None:
    """Of a connection that its server ends before anybody has used it."""
    tokens, network, texts = Tokens(), MemoryNetwork(delayed(0, 1e9)), list[str]()

    async def ask() -> None:
        # Whatever leads to this frame keeps it.
        token = tokens.make()
        try:
            await pool.wait_ready()
        except ConnectionFailed as error:
            texts.append(f"{error}, {token}")

    async with ConnectionPool(Replicas([network]), min_idle=2, connect_timeout=60) as pool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.sleep(1)
            network.peers[0].hang_up()
        assert "hung up before the new connection was used" in texts[0]
        tokens.check()


@pytest.mark.parametrize("finds", [False, True], ids=["given", "found"])
async def test_no_failure_of_replicas_is_kept_after_the_end(finds: bool) -> None:
    """Pool and replicas can be asked what was, and keep no error."""
    tokens = Tokens()

    async def fail(number: int = 0) -> Any:
        token = tokens.make()
        raise ConnectionFailed(f"refused {token}")

    replicas = Replicas(fail) if finds else Replicas([MemoryNetwork(fail), MemoryNetwork(fail)])
    pool = ConnectionPool(replicas)
    for _ in range(2):
        async with pool:
            with pytest.raises(ConnectionFailed):
                await pool.acquire()
            await anyio.sleep(9)
        tokens.check()
    assert pool.statistics().open_failed
    assert all(state.last_error is None for state in replicas.states().values())


async def test_a_connection_that_was_shared_keeps_no_chunk_while_it_is_idle() -> None:
    """What has come for several in one chunk is dropped when the last of them has his reply."""
    burst = b"x" * 99_999 + b"\n"
    network = MemoryNetwork(answer=lambda _: b"")

    async def use() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(partial(pool.send_receive_line, max_bytes=100_000), b"?")
            await settle()
            network.peers[0].push(burst * 2)
        await settle()

    async with ConnectionPool(network, max_size=1, pipeline=2) as pool:
        await use()
        gc.collect()
        tracemalloc.start()
        try:
            await use()
            gc.collect()
            used = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert pool.statistics().idle == 1
    assert used < len(burst)


async def test_whoever_shared_a_connection_is_forgotten() -> None:
    """His task, his variables and what he has read are gone, though the connection stays shared."""
    tokens = Tokens()

    async def read(connection: PooledConnection[Any]) -> object:
        _variable.set(tokens.make())
        await connection.receive_line()
        return tokens.make()

    async def ask(pool: ConnectionPool[Any]) -> None:
        _variable.set(tokens.make())
        await pool.exchange(b"?\n", read, timeout=9)
        with anyio.move_on_after(0):
            await pool.exchange(b"?\n", read, timeout=9)

    async with ConnectionPool(MemoryNetwork(), max_size=2, pipeline=8) as pool:
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask, pool)
        await settle()
        await anyio.sleep(60)
        tokens.check(150)


async def test_sessions_go_with_their_connections() -> None:
    """Whatever ends these: a hang-up, a retirement, a replica that leaves."""
    tokens, service = Tokens(), Service(2)

    async def log_in(connection: PooledConnection[Any]) -> Token:
        return tokens.make()

    async with service.pool(max_size=4, on_connect=log_in) as pool:
        for end in ("hang up", "retire", "leave", "fail"):
            await fill(pool, 4)
            if end == "hang up":
                service.servers[0].hang_up()
                service.servers[1].hang_up()
            elif end == "retire":
                pool.retire()
            elif end == "leave":
                service.servers = [Server(), Server()]
                service.replicas.set([server.network for server in service.servers])
            else:
                service.servers[0].die()
                service.servers[1].die()
            await anyio.sleep(20)
            tokens.check(4)
            for server in service.servers:
                server.mood = "well"


@pytest.mark.parametrize("pipeline", [1, 4])
async def test_a_pool_that_its_manager_has_dropped_is_not_kept(pipeline: int) -> None:
    """Neither by the time limits of its exchanges nor by what might have been due later."""
    machines: list[ref[Any]] = []
    retry = Retry(math.inf, interval=1e6, max_interval=1e6)
    async with PoolManager(
        max_total=3, max_idle_time=10, pipeline=pipeline, stall_timeout=1e6, connect_retry=retry
    ) as manager:
        for number in range(100):
            network = MemoryNetwork(refuse if number % 2 else None)
            pool = manager.pool(network)
            with suppress(TimeoutError):
                await pool.send_receive_line(b"hello", timeout=1 if number % 2 else 1e6)
            machines.append(ref(attrgetter("_machine")(pool)))
            del pool, network
        await anyio.sleep(100)
        gc.collect()
        assert not manager.statistics()
        assert [machine() for machine in machines] == [None] * 100
        assert len(attrgetter("_lifecycle._alarms._heap")(manager)) < 100
