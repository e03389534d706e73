"""Fork while a pool is in use, use the pool in the child, and go on in the parent.

A program of its own, because a child of the process that runs the tests would inherit its threads.
It prints what the child was told, then what the parent was answered.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from threading import Thread

import anyio

from anyconnpool import ConnectionPool, PoolError, PoolManager, Replicas
from tests.conftest import BACKENDS


async def acquire(pool: ConnectionPool, _: PoolManager) -> None:
    async with pool.acquire():
        print("borrowed")


async def acquire_nowait(pool: ConnectionPool, _: PoolManager) -> None:
    pool.acquire_nowait().discard()


async def exchange(pool: ConnectionPool, _: PoolManager) -> None:
    print(await pool.send_receive_line(b"child"))


async def retire(pool: ConnectionPool, _: PoolManager) -> None:
    pool.retire()


async def ask_manager(_: ConnectionPool, manager: PoolManager) -> None:
    print(await manager.send_receive_line(("127.0.0.1", 1), b"child"))


USES: tuple[Callable[[ConnectionPool, PoolManager], Awaitable[None]], ...] = (
    acquire,
    acquire_nowait,
    exchange,
    retire,
    ask_manager,
)


async def enter_a_pool_of_its_own(replicas: Replicas) -> None:
    async with ConnectionPool(replicas) as pool:
        reply = await pool.send_receive_line(b"child")
        connections = sum(state.connections for state in replicas.states().values())
        print(f"own: {reply.decode()}, {connections} connection")


async def try_all(pool: ConnectionPool, manager: PoolManager) -> None:
    for use in USES:
        try:
            await use(pool, manager)
        except PoolError as error:
            print(f"{use.__name__}: {error}")


def fork_within_the_loop(pool: ConnectionPool, manager: PoolManager) -> None:
    """Go on in the child as if nothing had happened."""
    child = os.fork()
    if not child:
        steps = try_all(pool, manager)
        try:
            steps.send(None)
        except StopIteration:
            sys.stdout.flush()
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert not status


def run_on(backend: str, function: Callable[..., Awaitable[None]], *args: object) -> None:
    name, options = BACKENDS[backend]
    anyio.run(function, *args, backend=name, backend_options=options)


def fork_a_worker(
    pool: ConnectionPool, manager: PoolManager, backend: str, replicas: Replicas
) -> None:
    """Start a worker as multiprocessing does, with an event loop of its own."""

    def work() -> None:
        for function, *args in ((try_all, pool, manager), (enter_a_pool_of_its_own, replicas)):
            # AnyIO takes the child's main thread to be in the parent's event loop.
            thread = Thread(target=partial(run_on, backend, function, *args))
            thread.start()
            thread.join()

    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join()
    assert not worker.exitcode


async def main(port: int, place: str, backend: str) -> None:
    replicas = Replicas([("127.0.0.1", port)])
    async with PoolManager() as manager, ConnectionPool(replicas) as pool:
        await pool.send_receive_line(b"before")
        sys.stdout.flush()
        if place == "loop":
            fork_within_the_loop(pool, manager)
        else:
            fork_a_worker(pool, manager, backend, replicas)
        reply = await pool.send_receive_line(b"after")
        print(f"parent: {reply.decode()}, {pool.statistics().opened} opened")


if __name__ == "__main__":
    run_on(sys.argv[3], main, int(sys.argv[1]), *sys.argv[2:])
