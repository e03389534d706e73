"""Show what a borrow consists of, on asyncio: `python -m benchmarks.parts`.

What the primitives cost that the promises ask for, and what our own steps cost that use them. The
fastest of many short turns is shown: what is slower was disturbed.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable
from operator import attrgetter
from time import perf_counter

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from anyconnpool import ConnectionPool

TURNS = 60
REPEATS = 2000


def fastest(step: Callable[[], object]) -> float:
    """Return how long a step takes, in nanoseconds."""
    best = float("inf")
    for _ in range(TURNS):
        begun = perf_counter()
        for _ in range(REPEATS):
            step()
        best = min(best, perf_counter() - begun)
    return best / REPEATS * 1e9


async def fastest_awaited(step: Callable[[], Awaitable[object]]) -> float:
    """Return how long a step that is awaited takes, in nanoseconds."""
    best = float("inf")
    for _ in range(TURNS):
        begun = perf_counter()
        for _ in range(REPEATS):
            await step()
        best = min(best, perf_counter() - begun)
    return best / REPEATS * 1e9


async def nothing() -> None:
    """Be a coroutine."""


async def measure(pool: ConnectionPool) -> dict[str, float]:
    """Measure the parts of a borrow, one by one."""
    leasing, machine = attrgetter("_leasing", "_machine")(pool)
    ask_backend = attrgetter("_checkpoint_if_cancelled")(leasing)
    entry = machine.acquire(leasing.now())
    machine.release(entry, leasing.now(), None)
    slots = anyio.CapacityLimiter(10)
    lock = threading.Lock()

    def locked() -> None:
        with lock:
            pass

    def take_and_free() -> None:
        slots.acquire_on_behalf_of_nowait(entry)
        slots.release_on_behalf_of(entry)

    def acquire_and_release() -> None:
        machine.release(machine.acquire(leasing.now()), leasing.now(), None)

    async def borrow() -> None:
        async with pool.acquire():
            pass

    return {
        "a call of an empty function": fastest(lambda: None),
        "a coroutine": await fastest_awaited(nothing),
        "is it cancelled? (AnyIO)": await fastest_awaited(checkpoint_if_cancelled),
        "the same, asked of the backend": await fastest_awaited(ask_backend),
        "in the right event loop?": fastest(leasing.check),
        "the time, once": fastest(leasing.now),
        "the lock, once": fastest(locked),
        "a slot, taken and freed": fastest(take_and_free),
        "the probe (one poll)": fastest(entry.transport.probe),
        "the state machine, all of these": fastest(acquire_and_release),
        "a borrow, all of it": await fastest_awaited(borrow),
    }


async def main() -> None:
    """Measure on a connection to nobody in particular, and print a table."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with ConnectionPool(server.getsockname()) as pool:
            await (await pool.acquire()).aclose()
            for name, nanoseconds in (await measure(pool)).items():
                print(f"{name:34}{nanoseconds:6.0f} ns")


if __name__ == "__main__":
    anyio.run(main)
