"""The examples do what they say, on every backend and as programs of their own.

Those that need a program of others, such as Redis, are in tests/servers; the echo server and client
have a session of their own, `nox -s demo`.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from anyio import to_thread
from anyio.abc import SocketAttribute, SocketStream
from starlette.testclient import TestClient

from anyconnpool import PackageFormat
from tests.conftest import BACKENDS
from tests.sockets.checks import open_sockets, reset

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
        "visitor 1, question 1: you said one",
        "server: PING",
        "server: two",
        "visitor 1, question 2: you said two",
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


def check_netstrings(lines: Lines) -> None:
    assert lines == [
        "stressed -> desserts",
        " -> ",
        "1:2, -> ,2:1",
        "b'eno'",
        "b'owt'",
        "server: hanging up: b'hello\\n' is not the length of a netstring",
        "the server takes netstrings only",
        "connections opened: 1",
    ]


def check_mqtt(lines: Lines) -> None:
    assert lines == [
        "server: door: 4 bytes",
        "door is published",
        "server: picture: 10000 bytes",
        "picture is published",
        "server: film: 40000 bytes",
        "film is published",
        "connections opened: 1",
    ]


def check_several(lines: Lines) -> None:
    assert lines == [
        "answers: 600 from amber, beryl, coral",
        "answers without amber: True",
        "unanswered: 0",
    ]


ON_ANY_BACKEND = [
    pytest.param("gtcp_packages", check_gtcp, id="gtcp"),
    pytest.param("login_on_connect", check_login, id="login"),
    pytest.param("many_remotes", check_remotes, id="remotes"),
    pytest.param("mqtt_packets", check_mqtt, id="mqtt"),
    pytest.param("netstrings", check_netstrings, id="netstrings"),
    pytest.param("several_servers", check_several, id="several"),
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


Handler = Callable[[Any], Awaitable[None]]


def package(body: bytes) -> bytes:
    return PackageFormat(4).encode(body)


#: the function that serves a client of an example's server, a request and its reply
HANDLERS: dict[str, tuple[Callable[[Any], Handler], bytes, bytes]] = {
    "echo_server": (lambda example: partial(example.echo, False), b"hello\n", b"> hello\n"),
    "gtcp_packages": (lambda example: example.answer, b"\0\5hello", b"\0\5HELLO"),
    "login_on_connect": (lambda example: example.answer, b"PING\n", b"PONG\n"),
    "many_remotes": (
        lambda example: partial(example.answer, "amber"),
        b"hello\n",
        b"amber has read hello\n",
    ),
    "metrics_endpoint": (lambda example: example.echo, b"hello\n", b"> hello\n"),
    "mqtt_packets": (lambda example: example.answer, b"\x10\0", b"\x20\2\0\0"),
    "netstrings": (lambda example: example.answer, b"3:abc,", b"3:cba,"),
    "several_servers": (lambda example: partial(example.answer, "amber"), b"hello\n", b"amber\n"),
    "shelf_server": (
        lambda example: example.Shelves().answer,
        package(b'{"do": "login", "user": "alice", "password": "secret"}'),
        package(b'{"hello": "shelves"}') + package(b'{"ok": "alice"}'),
    ),
}

# With the closing of a socket, by FIN or RST, comes what the client sent last.
LAST_WORDS = {
    "reset": (reset, b""),
    "reset in mid frame": (reset, b"\0\x7fhalf"),
    "end in mid frame": (socket.socket.close, b"\0\x7fhalf"),
    "endless line": (socket.socket.close, bytes(70_000)),
}


async def ask_raw(client: socket.socket, request: bytes, reply: bytes) -> None:
    """See that a request gets its reply, over a socket that knows nothing of event loops."""
    client.settimeout(20)
    client.sendall(request)
    received = b""
    while len(received) < len(reply):
        # MSG_WAITALL waits for nothing where a time limit is set.
        chunk = await to_thread.run_sync(client.recv, len(reply), abandon_on_cancel=True)
        assert chunk, received
        received += chunk
    assert received == reply


@pytest.mark.parametrize("name", HANDLERS)
@pytest.mark.parametrize("last_words", LAST_WORDS)
async def test_a_server_outlives_its_rudest_clients(name: str, last_words: str) -> None:
    """One client resets its connection, or leaves in mid frame; the server serves the next one."""
    pick, request, reply = HANDLERS[name]
    close, last = LAST_WORDS[last_words]
    handler, ended = pick(load(name)), anyio.Event()

    async def serve(accepted: SocketStream) -> None:
        try:
            await handler(accepted)
        finally:
            ended.set()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as server,
    ):
        server.start_soon(listener.serve, serve)
        address = ("127.0.0.1", listener.extra(SocketAttribute.local_port))
        with closing(socket.create_connection(address)) as rude:
            await ask_raw(rude, request, reply)
            rude.sendall(last)
            close(rude)
        with anyio.fail_after(20):
            await ended.wait()
        with closing(socket.create_connection(address)) as polite:
            await ask_raw(polite, request, reply)
        server.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_trio_server_outlives_a_reset() -> None:
    """The same for the example that uses trio's own streams."""
    example, ended = load("trio_program"), trio.Event()

    async def serve(accepted: trio.SocketStream) -> None:
        try:
            await example.answer(accepted)
        finally:
            ended.set()

    async with trio.open_nursery() as server:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.start_soon(trio.serve_listeners, serve, listeners)
        address = listeners[0].socket.getsockname()
        with closing(socket.create_connection(address)) as rude:
            await ask_raw(rude, b"hello\n", b"5\n")
            reset(rude)
        with trio.fail_after(20):
            await ended.wait()
        with closing(socket.create_connection(address)) as polite:
            await ask_raw(polite, b"hello\n", b"5\n")
        server.cancel_scope.cancel()


FORMATS = [
    pytest.param(load("netstrings").NETSTRINGS, [b"", b"one", b"2:ab,"], id="netstrings"),
    pytest.param(
        load("mqtt_packets").PACKETS,
        [(0x10, b""), (0x30, bytes(127)), (0x32, bytes(128)), (0x40, bytes(20_000))],
        id="mqtt",
    ),
]


@pytest.mark.parametrize(("format", "data"), FORMATS)
def test_a_format_finds_its_frames_wherever_the_bytes_are_cut(format: Any, data: Any) -> None:
    """A format asks for more until the frame is whole, and leaves what follows it."""
    packet = load("mqtt_packets").Packet
    for each in data:
        frame = format.encode(packet(*each) if isinstance(each, tuple) else each)
        for end in range(len(frame)):
            assert format.decode(b"earlier" + frame[:end], 7, False) is None
        assert format.decode(b"earlier" + frame + b"later", 7, False) == (each, 7 + len(frame))


@pytest.mark.parametrize(
    ("name", "rubbish"),
    [
        *(("netstrings", text) for text in (b":", b"01:a,", b"-1:", b"123456", b"1:ab", b"x")),
        ("mqtt_packets", b"\x30\xff\xff\xff\xff\x01"),
    ],
)
def test_a_format_refuses_what_is_none_of_its_frames(name: str, rubbish: bytes) -> None:
    """What can't become a frame is an error, not a wait for more."""
    example = load(name)
    format = example.NETSTRINGS if name == "netstrings" else example.PACKETS
    with pytest.raises(ValueError, match=r"length|comma"):
        format.decode(rubbish, 0, False)


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


@pytest.mark.parametrize(("name", "option"), [("echo_server", "--port="), ("shelf_server", "")])
def test_a_server_says_in_a_line_that_its_port_is_in_use(name: str, option: str) -> None:
    """It ends with code 1, and without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), f"{option}{port}"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(f"port {port}: .*in use.*\n", ended.stderr)


def test_every_example_is_run_by_a_test() -> None:
    """No example goes without a test that names it."""
    others = [EXAMPLES / "demo.py", *EXAMPLES.parent.glob("tests/**/*.py")]
    tested = "".join(path.read_text("utf-8") for path in others)
    assert not [path.stem for path in EXAMPLES.glob("*.py") if path.stem not in tested]
