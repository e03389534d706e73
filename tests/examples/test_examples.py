"""The examples do what they say, on every backend and as programs of their own.

Those that need a Redis or a memcached are in tests/servers; the echo server and client have a
session of their own, `nox -s demo`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.conftest import BACKENDS
from tests.sockets.checks import open_sockets

from .programs import EXAMPLES, load, run

Lines = list[str]


def check_gtcp(lines: Lines) -> None:
    assert sorted(lines[:3]) == ["one -> ONE", "three -> THREE", "two -> TWO"]
    assert lines[3] == "b'FOUR' b'FIVE'"
    assert lines[4:] in (["connections opened: 1"], ["connections opened: 2"])


def check_login(lines: Lines) -> None:
    assert lines == [
        "server: LOGIN sesame",
        "server: one",
        "b'you said one'",
        "server: PING",
        "server: two",
        "b'you said two'",
        "server: LOGIN open up",
        "refused: go away",
    ]


def check_remotes(lines: Lines) -> None:
    said = [f"{name} has read line {n}" for name in ("amber", "beryl", "coral") for n in range(3)]
    assert sorted(lines[:9]) == said
    assert lines[9] == "exchanges: [3, 3, 3]"
    assert lines[10] in [f"sockets: {count} of 4" for count in range(5)]


def check_trio(lines: Lines) -> None:
    assert sorted(lines[:4]) == ["eleven -> 6", "one -> 3", "sleep -> no answer", "three -> 5"]
    assert lines[4:] == ["again -> 5", "closed, a reply was owed: 1"]


ON_ANY_BACKEND = [
    pytest.param("gtcp_packages", check_gtcp, id="gtcp"),
    pytest.param("login_on_connect", check_login, id="login"),
    pytest.param("many_remotes", check_remotes, id="remotes"),
]


@pytest.mark.parametrize(("name", "check"), ON_ANY_BACKEND)
async def test_an_example_runs_on_every_backend(
    name: str, check: Callable[[Lines], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The program prints what it should on every backend, and leaves no socket open."""
    before = open_sockets()
    await load(name).main()
    check(capsys.readouterr().out.splitlines())
    assert open_sockets() == before


@pytest.mark.parametrize(
    ("name", "check"), [*ON_ANY_BACKEND, pytest.param("trio_program", check_trio, id="trio")]
)
def test_an_example_runs_as_a_program(
    name: str, check: Callable[[Lines], None], tmp_path: Path
) -> None:
    """The command of its docstring runs it to its end, without a warning."""
    check(run(name, directory=tmp_path))


@pytest.mark.parametrize("anyio_backend", list(BACKENDS))
def test_the_application_shares_one_pool(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its requests get the echo server's replies over one connection of the lifespan's pool."""
    example = load("starlette_app")
    client = _client(example, anyio_backend)
    with load("demo").echo_server("asyncio") as port:
        monkeypatch.setattr(example, "ADDRESS", ("127.0.0.1", int(port)))
        with client:
            for _ in range(3):
                assert client.get("/ask/hello").text == "> hello"
            assert client.get("/health").json() == {"size": 1, "in_use": 0, "waiting": 0}


@pytest.mark.parametrize("anyio_backend", list(BACKENDS))
def test_the_application_outlives_its_server(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the echo server is down, a request is told to try again later."""
    example = load("starlette_app")
    client = _client(example, anyio_backend)
    with load("demo").echo_server("asyncio") as port:
        monkeypatch.setattr(example, "ADDRESS", ("127.0.0.1", int(port)))
    with client:
        reply = client.get("/ask/hello")
    assert (reply.status_code, reply.text) == (503, "try again later")


def _client(example: Any, backend: str) -> Any:
    options: dict[str, Any] = {}
    options["backend"], options["backend_options"] = BACKENDS[backend]
    return TestClient(example.app, **options)


def test_every_example_is_run_by_a_test() -> None:
    """No example goes without a test that names it."""
    others = [EXAMPLES / "demo.py", *EXAMPLES.parent.glob("tests/**/*.py")]
    tested = "".join(path.read_text("utf-8") for path in others)
    assert not [path.stem for path in EXAMPLES.glob("*.py") if path.stem not in tested]
