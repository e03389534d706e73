"""Places where a pool can live: a web application's lifespan, and the fixtures of test frameworks.

The fixtures are those of a test suite of a user's, which runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from anyconnpool import ConnectionPool
from tests.conftest import BACKENDS
from tests.sockets.servers import Server

_COMMON = """\
from anyconnpool import ConnectionPool

async def exchange(pool):
    assert await pool.send_receive_line(b"ping") == b"> ping"
"""

_FIXTURE = """\
import pytest

@pytest.fixture
async def pool():
    async with ConnectionPool(("127.0.0.1", PORT), min_idle=1) as pool:
        yield pool

@pytest.mark.PLUGIN
async def test_an_exchange(pool):
    await exchange(pool)
"""
_ANYIO = _FIXTURE.replace("PLUGIN", "anyio")
_PYTEST_TRIO = _FIXTURE.replace("PLUGIN", "trio")

# Its fixture is the recipe of the page.
_PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_RECIPE = textwrap.dedent(
    _PAGE.read_text("utf-8").partition("```python\n")[2].partition("  ```")[0]
).replace("8999", "PORT")
_PYTEST_ASYNCIO = f"""\
import asyncio
import pytest
import pytest_asyncio

{_RECIPE}

@pytest.mark.asyncio
async def test_an_exchange(pool):
    await exchange(pool)
"""

_OTHERS = ["-p", "no:xdist", "-p", "no:cacheprovider", "-p", "no:randomly"]


@pytest.mark.newest
@pytest.mark.parametrize(
    ("suite", "plugins"),
    [
        pytest.param(_ANYIO, ["-p", "no:asyncio", "-p", "no:trio"], id="anyio"),
        pytest.param(_PYTEST_TRIO, ["-p", "no:asyncio", "-p", "no:anyio"], id="pytest-trio"),
        pytest.param(_PYTEST_ASYNCIO, ["-p", "no:trio", "-p", "no:anyio"], id="pytest-asyncio"),
    ],
)
def test_a_pool_lives_in_a_fixture(
    server: Server, tmp_path: Path, suite: str, plugins: list[str]
) -> None:
    """An async fixture yields the pool, and after the test every socket is closed.

    pytest-asyncio begins and ends a fixture in different tasks, so that the pool needs a task of
    its own; AnyIO's plugin and pytest-trio need nothing.
    """
    program = tmp_path / "test_of_a_user.py"
    program.write_text(_COMMON + suite.replace("PORT", str(server.remote[1])))
    loop_scope = ["-o", "asyncio_default_fixture_loop_scope=function"]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", *plugins, *_OTHERS, program.name]
        + (loop_scope if suite is _PYTEST_ASYNCIO else []),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert not run.returncode, run.stdout + run.stderr
    assert "1 passed" in run.stdout or "2 passed" in run.stdout
    assert server.peers
    assert server.open == 0


@pytest.mark.parametrize("anyio_backend", list(BACKENDS))
def test_a_pool_lives_as_long_as_a_starlette_application(
    server: Server, anyio_backend: str
) -> None:
    """Requests share the pool of the lifespan, which ends with the application."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, ConnectionPool]]:
        async with server.pool() as pool:
            yield {"pool": pool}

    async def ask(request: Request) -> PlainTextResponse:
        reply = await request.state.pool.send_receive_line(b"hello", timeout=5)
        return PlainTextResponse(reply)

    options: dict[str, Any] = {}
    options["backend"], options["backend_options"] = BACKENDS[anyio_backend]
    app = Starlette(routes=[Route("/", ask)], lifespan=lifespan)
    client: Any = TestClient(app, **options)
    with client:
        for _ in range(3):
            assert client.get("/").text == "> hello"
        assert server.open == 1
    assert len(server.peers) == 1
    assert server.open == 0
