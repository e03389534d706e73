"""Get a value of a Redis from 64 tasks: by the example's client of forty lines, and by others."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anyio import connect_tcp, sleep

from benchmarks.bench import Bench
from benchmarks.cases.exchanges import repeating_together
from benchmarks.goals import COREDIS, REDIS_PY
from benchmarks.results import Figure
from benchmarks.rounds import Contestant, timed

# So many that the beginning of the tasks, which is no client's work, doesn't show.
_TASKS, _EACH = 64, 25
_HOST = "127.0.0.1"
_EXAMPLES = Path(__file__).parents[2] / "examples"

_Get = Callable[[], Awaitable[object]]


async def redis(bench: Bench) -> list[Figure]:
    """Compare clients; nothing, where there is no Redis to ask."""
    if shutil.which("redis-server") is None:
        return []
    async with AsyncExitStack() as stack:
        port = stack.enter_context(_redis_server())
        await _wait_for(port)
        ways: dict[str, _Get] = {
            "ours: exchange, shared": await stack.enter_async_context(_ours(port))
        }
        if bench.on_asyncio and find_spec("redis") is not None:
            for size in (1, 16, _TASKS):
                name = f"{REDIS_PY}, {size} connections" if size > 1 else REDIS_PY
                ways[name] = await stack.enter_async_context(_redis_py(port, size))
        if find_spec("coredis") is not None:
            ways[COREDIS] = await stack.enter_async_context(_coredis(port))
        contestants = [
            Contestant(name, timed(repeating_together([get] * _TASKS)), _TASKS * _EACH)
            for name, get in ways.items()
        ]
        return await bench.keeper.compare("redis-64", "GET", contestants, seconds=10)


@contextmanager
def _redis_server() -> Generator[int]:
    with socket.create_server((_HOST, 0)) as free:
        port: int = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        command = ["redis-server", "--port", str(port), "--bind", _HOST, "--dir", directory]
        command += ["--save", "", "--appendonly", "no"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                yield port
            finally:
                server.terminate()


async def _wait_for(port: int) -> None:
    for _ in range(500):
        try:
            stream = await connect_tcp(_HOST, port)
        except OSError:
            await sleep(0.02)
        else:
            await stream.aclose()
            return


@asynccontextmanager
async def _ours(port: int) -> AsyncGenerator[_Get]:
    if str(_EXAMPLES) not in sys.path:
        sys.path.insert(0, str(_EXAMPLES))
    example: Any = import_module("redis_client")
    async with example.make_pool(_HOST, port) as pool:
        client = example.Redis(pool)
        await client.execute("SET", "key", "hello")
        yield lambda: client.execute("GET", "key")


@asynccontextmanager
async def _redis_py(port: int, size: int) -> AsyncGenerator[_Get]:
    module: Any = import_module("redis.asyncio")
    pool = module.BlockingConnectionPool(host=_HOST, port=port, max_connections=size, timeout=None)
    client = module.Redis(connection_pool=pool)
    try:
        yield lambda: client.get("key")
    finally:
        await client.aclose()
        await pool.disconnect()


@asynccontextmanager
async def _coredis(port: int) -> AsyncGenerator[_Get]:
    module: Any = import_module("coredis")
    async with module.Redis(host=_HOST, port=port) as client:
        yield lambda: client.get("key")
