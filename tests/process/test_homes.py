"""Places where a pool can live: a web application's lifespan, and the fixtures of test frameworks.

The fixtures are those of a test suite of a user's, which runs in a process of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import anyio
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
import pytest

{_RECIPE}

@pytest.mark.asyncio
async def test_an_exchange(pool):
    await exchange(pool)

@pytest.mark.asyncio
async def test_another_with_a_pool_of_its_own(pool):
    assert pool.statistics().opened == 0
    await exchange(pool)
"""

# A fixture that forgets to close its pool, for a loop that ends with the test.
_FORGETFUL = _PYTEST_ASYNCIO.replace("await pool.aclose()", "")

_NO_OTHER_THAN_ASYNCIO = ["-p", "no:trio", "-p", "no:anyio"]
_OTHERS = ["-p", "no:xdist", "-p", "no:cacheprovider", "-p", "no:randomly"]


def _run_suite(
    suite: str, plugins: list[str], server: Server, directory: Path
) -> subprocess.CompletedProcess[str]:
    program = directory / "test_of_a_user.py"
    program.write_text(_COMMON + suite.replace("PORT", str(server.remote[1])))
    loop_scope = ["-o", "asyncio_default_fixture_loop_scope=function"]
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", *plugins, *_OTHERS, program.name]
        + (loop_scope if plugins is _NO_OTHER_THAN_ASYNCIO else []),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.newest
@pytest.mark.parametrize(
    ("suite", "plugins"),
    [
        pytest.param(_ANYIO, ["-p", "no:asyncio", "-p", "no:trio"], id="anyio"),
        pytest.param(_PYTEST_TRIO, ["-p", "no:asyncio", "-p", "no:anyio"], id="pytest-trio"),
        pytest.param(_PYTEST_ASYNCIO, _NO_OTHER_THAN_ASYNCIO, id="pytest-asyncio"),
    ],
)
def test_a_pool_lives_in_a_fixture(
    server: Server, tmp_path: Path, suite: str, plugins: list[str]
) -> None:
    """An async fixture yields the pool, and after the test every socket is closed.

    pytest-asyncio begins and ends a fixture in different tasks, so that the pool needs a task of
    its own; AnyIO's plugin and pytest-trio need nothing.
    """
    run = _run_suite(suite, plugins, server, tmp_path)
    assert not run.returncode, run.stdout + run.stderr
    assert "1 passed" in run.stdout or "2 passed" in run.stdout
    assert server.peers
    assert server.open == 0


@pytest.mark.newest
def test_a_fixture_that_forgets_to_close_is_told(server: Server, tmp_path: Path) -> None:
    """The pool is closed when the test's event loop ends, and pytest shows the ResourceWarning."""
    run = _run_suite(_FORGETFUL, _NO_OTHER_THAN_ASYNCIO, server, tmp_path)
    assert "was never closed: await its aclose()" in run.stdout
    assert "never retrieved" not in run.stdout + run.stderr
    assert "destroyed" not in run.stdout + run.stderr
    assert server.peers
    assert server.open == 0


_OPENED = """
import asyncio, sys
from anyconnpool import ConnectionPool, PoolManager

class Client:
    def __init__(self, port):
        self.pool = ConnectionPool(("127.0.0.1", port), min_idle=2, on_connect=self.log_in)

    async def log_in(self, connection):
        await connection.send_receive_line(b"me")

    async def connect(self):
        await self.pool.open()
        await self.pool.wait_ready()

async def main(kept):
    port = int(sys.argv[1])
    if kept == "pool":
        kept = await ConnectionPool(("127.0.0.1", port), min_idle=2).open()
        await kept.send_receive_line(b"hello")
    elif kept == "manager":
        kept = await PoolManager().open()
        await kept.send_receive_line(("127.0.0.1", port), b"hello")
    else:
        kept = Client(port)
        await kept.connect()
    print("open", flush=True)
    return kept

kept = asyncio.run(main(sys.argv[2]))
print("ended", flush=True)
"""


_CLOSED_LOOP = _OPENED.replace(
    "kept = asyncio.run(main(sys.argv[2]))",
    """
loop = asyncio.new_event_loop()
kept = loop.run_until_complete(main(sys.argv[2]))
loop.close()
del kept
import gc
gc.collect()
""",
)


def _run_program(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_a_loop_that_is_closed_under_a_pool_is_no_worse(server: Server) -> None:
    """Nothing can be closed before the process ends; the ResourceWarning says whose fault it is."""
    run = _run_program(_CLOSED_LOOP, server.remote[1], "pool")
    assert run.stdout.split() == ["open", "ended"]
    assert "Error" not in run.stderr
    assert "was never closed: await its aclose()" in run.stderr
    assert server.peers
    assert server.open == 0


@pytest.mark.parametrize("kept", ["pool", "manager", "client"])
def test_a_pool_that_is_left_open_at_the_end_of_the_loop_is_warned_of(
    server: Server, kept: str
) -> None:
    """asyncio.run() cancels its task: the sockets are closed, and a ResourceWarning is all.

    Whether a global variable keeps the pool, or an object whose method is its hook.
    """
    run = _run_program(_OPENED, server.remote[1], kept)
    assert run.stdout.split() == ["open", "ended"]
    errors = [line for line in run.stderr.splitlines() if "Warning: " in line or "Error" in line]
    errors = [line for line in errors if "tracemalloc" not in line]
    assert len(errors) == 1, run.stderr
    assert re.search(
        r"ResourceWarning: <(ConnectionPool 'tcp://127.0.0.1:\d+'|PoolManager of 0 pools)> "
        r"was never closed: await its aclose\(\)$",
        errors[0],
    )
    assert server.peers
    assert server.open == 0


_NOTEBOOK = [
    "from anyconnpool import ConnectionPool",
    "pool = await ConnectionPool(('127.0.0.1', PORT), max_size=2).open()",
    "first = await pool.send_receive_line(b'one')",
    "import anyio\nwith anyio.fail_after(0.01): await anyio.sleep_forever()",
    "pool = await pool.open()",
    "second = await pool.send_receive_line(b'two')",
    "await pool.aclose()",
    "third = await pool.send_receive_line(b'three')",
    "await pool.open(); third = await pool.send_receive_line(b'three'); await pool.aclose()",
]

_RUN_NOTEBOOK = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.loads(sys.argv[1]):
    outcome = shell.run_cell(cell, silent=True)
    error = outcome.error_before_exec or outcome.error_in_exec
    sys.stdout.write(f"@{type(error).__name__}\\n")
shell.run_cell("print('@', first, second, third, pool.statistics().opened)")
"""


@pytest.mark.newest
def test_a_pool_lives_in_a_notebook(server: Server) -> None:
    """One cell opens it, others use it, whatever goes wrong in between, and one closes it."""
    pytest.importorskip("IPython")
    cells = [cell.replace("PORT", str(server.remote[1])) for cell in _NOTEBOOK]
    run = subprocess.run(
        [
            *(sys.executable, "-W", "error::ResourceWarning", "-c", _RUN_NOTEBOOK),
            json.dumps(cells),
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    outcomes = re.findall(r"^@(.*)$", run.stdout, re.MULTILINE)
    expected = ["NoneType"] * len(cells)
    expected[3], expected[4], expected[7] = "TimeoutError", "RuntimeError", "PoolClosed"
    assert outcomes == [*expected, " b'> one' b'> two' b'> three' 1"], run.stdout + run.stderr
    assert not run.stderr
    assert server.open == 0


_Hook: TypeAlias = Callable[[], Coroutine[Any, Any, object]]


class _Application:
    """A framework like Quart: each of its hooks runs in a task of its own."""

    def __init__(self) -> None:
        self.before_serving: list[_Hook] = []
        self.after_serving: list[_Hook] = []

    async def live(self, *handlers: _Hook) -> None:
        for hook in (*self.before_serving, *handlers, *self.after_serving):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_call, hook)


async def _call(hook: _Hook) -> None:
    await hook()


@pytest.mark.parametrize("anyio_backend", ["asyncio", "asyncio+uvloop"])
def test_a_pool_lives_between_the_hooks_of_a_framework(server: Server, anyio_backend: str) -> None:
    """One hook opens it and another closes it; requests share it."""
    pool = server.pool()
    application = _Application()
    application.before_serving.append(pool.open)
    application.after_serving.append(pool.aclose)
    replies: list[bytes] = []

    async def answer() -> None:
        replies.append(await pool.send_receive_line(b"hello", timeout=5))

    backend, options = BACKENDS[anyio_backend]
    for lives in (1, 2):
        anyio.run(application.live, answer, answer, backend=backend, backend_options=options)
        assert replies == [b"> hello"] * 2 * lives
        assert len(server.peers) == lives
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
