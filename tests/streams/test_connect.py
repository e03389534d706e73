"""Connecting: all addresses of a host in turn, errors that say why, and no socket left behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import (
    ConnectionFailed,
    create_task_group,
    fail_after,
    get_running_tasks,
    wait_all_tasks_blocked,
)
from anyio.abc import SocketAttribute

from anyconnpool._streams import connect
from anyconnpool._streams.connect import on_trio, open_stream, open_tcp_socket
from anyconnpool._streams.tls import client_codec
from anyconnpool._streams.tls_connect import open_tls_stream
from tests.sockets.checks import open_sockets

from .opening import connect_to
from .wires import turns


class Resolver:
    """Answers for every host with the same addresses, or with an error."""

    def __init__(self, *answers: str, error: OSError | None = None) -> None:
        self.answers = answers
        self.error = error
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int, *, type: int) -> list[Any]:
        self.asked.append(host)
        if self.error is not None:
            raise self.error
        return [
            (socket.AF_INET6 if ":" in answer else socket.AF_INET, type, 6, "", (answer, port))
            for answer in self.answers
        ]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Resolver]:
    """Return a function that makes host names stand for addresses."""

    def install(*answers: str, error: OSError | None = None) -> Resolver:
        resolver = Resolver(*answers, error=error)
        monkeypatch.setattr(connect, "getaddrinfo", resolver)
        return resolver

    return install


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    """Keep what a test opens, and see that it leaves no other socket open."""
    before = open_sockets()
    with ExitStack() as stack:
        yield stack
    assert open_sockets() <= before


def listen(sockets: ExitStack, host: str = "127.0.0.1", port: int = 0) -> int:
    """Listen, without ever accepting, and return the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = sockets.enter_context(socket.create_server((host, port), family=family))
    return int(listener.getsockname()[1])


def stall(sockets: ExitStack, host: str) -> int:
    """Listen where nobody can connect, since the backlog is full, and return the port."""
    listener = sockets.enter_context(socket.create_server((host, 0), backlog=0))
    port = int(listener.getsockname()[1])
    sockets.enter_context(socket.create_connection((host, port)))
    return port


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def connected(host: Any, port: int) -> AsyncGenerator[Any, None]:
    """Connect, and close at once afterwards."""
    stream = await connect_to((host, port))
    try:
        yield stream
    finally:
        await anyio.aclose_forcefully(stream)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("kind", [str, ip_address])
async def test_an_address_is_connected_to(
    host: str, kind: Callable[[str], object], sockets: ExitStack, resolve: Callable[..., Resolver]
) -> None:
    """Nobody has to resolve it, and small segments leave at once."""
    resolver = resolve(error=OSError("nobody should ask"))
    port = listen(sockets, host)
    async with connected(kind(host), port) as stream:
        assert stream.extra(SocketAttribute.remote_address) == (host, port)
        raw_socket = stream.extra(SocketAttribute.raw_socket)
        assert raw_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not raw_socket.getblocking()
    assert not resolver.asked


async def test_a_name_is_resolved(sockets: ExitStack) -> None:
    """By the system, as AnyIO does it."""
    port = listen(sockets)
    async with connected("localhost", port) as stream:
        assert stream.extra(SocketAttribute.remote_port) == port


async def test_a_name_that_does_not_resolve_is_an_error(
    resolve: Callable[..., Resolver], sockets: ExitStack
) -> None:
    """The resolver's own, as with AnyIO."""
    error = socket.gaierror(socket.EAI_NONAME, "no such name")
    resolve(error=error)
    with pytest.raises(socket.gaierror) as caught:
        await connect_to(("nowhere.invalid", 80))
    assert caught.value is error


async def test_addresses_are_tried_alternately(resolve: Callable[..., Resolver]) -> None:
    """An IPv6 address first, then IPv4 and IPv6 in turn, each once."""
    resolve("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3", "2001:db8::1", "2001:db8::2")
    addresses = await connect._resolve("name", 80)  # pyright: ignore[reportPrivateUsage]
    assert [address[0] for _, address in addresses] == [
        "2001:db8::1",
        "192.0.2.1",
        "2001:db8::2",
        "192.0.2.2",
        "192.0.2.3",
    ]


async def test_a_zone_is_kept(resolve: Callable[..., Resolver]) -> None:
    """A link-local address needs it, written and resolved."""
    index = socket.if_nametoindex("lo")
    resolve("fe80::1%lo")
    for host in ("fe80::2%lo", "name"):
        ((_, address),) = await connect._resolve(host, 80)  # pyright: ignore[reportPrivateUsage]
        assert address[3] == index


async def test_the_next_address_follows_a_failure_at_once(
    resolve: Callable[..., Resolver], sockets: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the delay."""
    monkeypatch.setattr(connect, "ATTEMPT_DELAY", 1000)
    port = listen(sockets)
    resolve("127.0.0.2", "127.0.0.1", "::1")
    with fail_after(10):
        async with connected("name", port) as stream:
            assert stream.extra(SocketAttribute.remote_address) == ("127.0.0.1", port)


async def test_the_next_address_does_not_wait_for_a_slow_one(
    resolve: Callable[..., Resolver], sockets: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the delay it starts beside it; the slow one's socket is closed when it has won."""
    monkeypatch.setattr(connect, "ATTEMPT_DELAY", 0.01)
    port = stall(sockets, "127.0.0.1")
    listen(sockets, "127.0.0.2", port)
    resolve("127.0.0.1", "127.0.0.2")
    before = open_sockets()
    with fail_after(10):
        async with connected("name", port) as stream:
            assert stream.extra(SocketAttribute.remote_address) == ("127.0.0.2", port)
            assert len(open_sockets() - before) == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio", "asyncio+uvloop"], indirect=True)
async def test_an_attempt_that_is_cancelled_natively_has_failed(
    resolve: Callable[..., Resolver], sockets: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on, and if all of them are, connecting has failed like any other."""
    monkeypatch.setattr(connect, "ATTEMPT_DELAY", 0)
    port = stall(sockets, "127.0.0.1")
    resolve("127.0.0.1", "127.0.0.2")
    stalled = sockets.enter_context(socket.create_server(("127.0.0.2", port), backlog=0))
    sockets.enter_context(socket.create_connection(stalled.getsockname()))
    others = asyncio.all_tasks()

    async def strike() -> None:
        await wait_all_tasks_blocked()
        for task in asyncio.all_tasks() - others - {asyncio.current_task()}:
            task.cancel()

    async with create_task_group() as tasks:
        tasks.start_soon(strike)
        with fail_after(10), pytest.raises(ConnectionFailed, match="at each of 2 addresses: Op"):
            await connect_to(("name", port))


@pytest.mark.parametrize("anyio_backend", ["asyncio", "asyncio+uvloop"], indirect=True)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_an_attempt_that_is_cancelled_before_its_first_step_has_failed(
    resolve: Callable[..., Resolver], sockets: ExitStack
) -> None:
    """AnyIO has no others begin then, and connecting has failed like any other."""
    port = listen(sockets)
    listen(sockets, "127.0.0.2", port)
    resolve("127.0.0.1", "127.0.0.2")
    loop = asyncio.get_running_loop()

    def make_cancelled(
        loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        task.cancel()
        return task

    loop.set_task_factory(make_cancelled)
    try:
        with pytest.raises(ConnectionFailed, match="Operation canceled"):
            await connect_to(("name", port))
    finally:
        loop.set_task_factory(None)
    gc.collect()


async def test_attempts_beside_each_other_say_what_they_try(
    resolve: Callable[..., Resolver], sockets: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their tasks are named after the addresses."""
    monkeypatch.setattr(connect, "ATTEMPT_DELAY", 0)
    port = stall(sockets, "127.0.0.1")
    stalled = sockets.enter_context(socket.create_server(("127.0.0.2", port), backlog=0))
    sockets.enter_context(socket.create_connection(stalled.getsockname()))
    resolve("127.0.0.1", "127.0.0.2")
    async with create_task_group() as tasks:
        tasks.start_soon(connect_to, ("name", port))
        await wait_all_tasks_blocked()
        names = {task.name for task in get_running_tasks()}
        assert {f"connecting to 127.0.0.{n}, port {port}" for n in (1, 2)} <= names
        tasks.cancel_scope.cancel()


async def test_the_second_to_connect_is_closed(
    resolve: Callable[..., Resolver], sockets: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that connect in the same turn, one is left."""
    monkeypatch.setattr(connect, "ATTEMPT_DELAY", 0)
    port = listen(sockets)
    listen(sockets, "127.0.0.2", port)
    resolve("127.0.0.1", "127.0.0.2")
    both = anyio.Event()
    waiting: list[socket.socket] = []

    async def wait_writable(sock: socket.socket) -> None:
        waiting.append(sock)
        if len(waiting) == 2:
            both.set()
        await both.wait()

    monkeypatch.setattr(connect, "wait_writable", wait_writable)
    async with connected("name", port):
        assert sorted(sock.fileno() >= 0 for sock in waiting) == [False, True]


async def test_one_failure_is_the_cause(sockets: ExitStack) -> None:
    """A single address has a single error, with the words of asyncio."""
    port = unused_port()
    with pytest.raises(ConnectionFailed, match=r"failed: Connection refused$") as caught:
        await connect_to(("127.0.0.1", port))
    cause = caught.value.__cause__
    assert isinstance(cause, ConnectionRefusedError)
    assert cause.errno == errno.ECONNREFUSED
    assert cause.strerror == "Connection refused"


async def test_several_failures_are_a_group(
    resolve: Callable[..., Resolver], sockets: ExitStack
) -> None:
    """The group has one error for each address, in the order of the attempts."""
    port = unused_port()
    resolve("127.0.0.1", "127.0.0.2", "::1")
    with pytest.raises(ConnectionFailed, match="at each of 3 addresses: Connection ref") as caught:
        await connect_to(("name", port))
    errors = getattr(caught.value.__cause__, "exceptions", ())
    assert ["'::1:" in str(error) for error in errors] == [True, False, False]
    assert all(isinstance(error, ConnectionRefusedError) for error in errors)


async def test_an_address_of_a_family_that_is_missing_is_skipped(
    resolve: Callable[..., Resolver], sockets: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even making a socket for it may fail the connect."""
    port = listen(sockets)
    resolve("::1", "127.0.0.1")

    class NoIPv6(socket.socket):
        def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "no IPv6 here")
            super().__init__(family, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", NoIPv6)
        sock = await open_tcp_socket("name", port)
    with sock:
        assert sock.getpeername() == ("127.0.0.1", port)


@pytest.fixture
def unix_listener(tmp_path: Path, sockets: ExitStack) -> socket.socket:
    """Listen on a UNIX socket with room for two that nobody accepts."""
    listener = sockets.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(str(tmp_path / "socket"))
    listener.listen(1)
    return listener


@pytest.fixture
def path(unix_listener: socket.socket) -> Path:
    """Return the path of the UNIX socket that listens."""
    return Path(unix_listener.getsockname())


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
async def test_a_path_is_connected_to(kind: Callable[[Path], Any], path: Path) -> None:
    """However it is written."""
    stream = await connect_to(kind(path))
    assert stream.extra(SocketAttribute.remote_address) == str(path)
    await stream.aclose()


async def test_a_missing_path_is_an_error_that_names_it(tmp_path: Path, sockets: ExitStack) -> None:
    """The kernel's own error, as with AnyIO."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        await connect_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="too long"):
        await connect_to("x" * 1000)


async def test_a_system_without_unix_sockets_says_so() -> None:
    """Windows has none."""
    with pytest.MonkeyPatch.context() as patch:
        # Not any longer, since event loops need them, too.
        patch.delattr(socket, "AF_UNIX")
        with pytest.raises(OSError, match="no UNIX sockets") as caught:
            await connect_to("path")
    assert caught.value.errno == errno.EAFNOSUPPORT


async def test_a_full_backlog_is_tried_again(
    unix_listener: socket.socket, sockets: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 10 ms until there is room, without keeping the processor busy in between."""
    path = unix_listener.getsockname()
    for _ in range(2):
        sockets.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
    slept: list[float] = []

    async def sleep(delay: float) -> None:
        slept.append(delay)
        await anyio.sleep(delay)
        if len(slept) == 3:
            sockets.enter_context(unix_listener.accept()[0])

    monkeypatch.setattr(connect, "sleep", sleep)
    with fail_after(10):
        stream = await connect_to(path)
    assert slept == [0.01] * 3
    await stream.send(b"x")
    await stream.aclose()


async def _target(
    name: str, sockets: ExitStack, listener: socket.socket, resolve: Callable[..., Resolver]
) -> Callable[[], Awaitable[Any]]:
    path = listener.getsockname()
    if name == "unix":
        listener.listen(100)
        return partial(connect_to, path)
    if name == "full":
        for _ in range(2):
            sockets.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        return partial(connect_to, path)
    if name == "address":
        return partial(connect_to, ("127.0.0.1", listen(sockets)))
    if name == "stalled":
        return partial(connect_to, ("127.0.0.1", stall(sockets, "127.0.0.1")))
    port = listen(sockets)
    resolve("127.0.0.1", "127.0.0.2", "::1")
    return partial(connect_to, ("name", port))


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("name", ["address", "name", "stalled", "unix", "full"])
async def test_a_cancelled_connect_leaves_no_socket(
    name: str,
    native: bool,
    sockets: ExitStack,
    unix_listener: socket.socket,
    resolve: Callable[..., Resolver],
) -> None:
    """Wherever it is cancelled, by a scope or natively, nothing is open when it has ended."""
    if native and on_trio():
        pytest.skip("trio has scopes only")
    call = await _target(name, sockets, unix_listener, resolve)
    before = open_sockets()
    completed = 0

    async def watched() -> Any:
        try:
            return await call()
        except BaseException:
            assert open_sockets() == before
            raise

    for at in range(40):
        stream = await (_cancel_natively if native else _cancel_scope)(watched, at)
        if stream is not None:
            completed += 1
            await anyio.aclose_forcefully(stream)
        assert open_sockets() == before, at
    assert (completed == 0) == (name in ("stalled", "full"))


async def _cancel_scope(call: Callable[[], Awaitable[Any]], at: int) -> Any:
    got: list[Any] = []

    async def run(scope: anyio.CancelScope) -> None:
        with scope:
            got.append(await call())

    scope = anyio.CancelScope()
    async with create_task_group() as group:
        group.start_soon(run, scope)
        await turns(at)
        scope.cancel()
    return got[0] if got else None


async def _cancel_natively(call: Callable[[], Awaitable[Any]], at: int) -> Any:
    async def run() -> Any:
        return await call()

    task = asyncio.get_running_loop().create_task(run())
    await turns(at)
    task.cancel()
    await asyncio.wait([task])
    return None if task.cancelled() else task.result()


async def test_a_failed_connect_leaves_no_cycle(sockets: ExitStack) -> None:
    """Its error is freed with the last reference, and so is all that its frames hold."""
    import gc

    port = unused_port()
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(ConnectionFailed):
            await connect_to(("127.0.0.1", port))
        assert not [one for one in gc.get_objects() if isinstance(one, ConnectionRefusedError)]
    finally:
        gc.enable()


def test_only_the_running_loop_is_imported() -> None:
    """Who connects on asyncio needs neither trio nor uvloop."""
    program = """if True:
        import sys, socket, anyio
        from anyconnpool._streams.connect import open_stream, open_tcp_socket
        async def main():
            with socket.create_server(("127.0.0.1", 0)) as listener:
                sock = await open_tcp_socket(*listener.getsockname())
                await (await open_stream(sock)).aclose()
        anyio.run(main)
        print(sorted({"trio", "uvloop"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


@pytest.mark.parametrize("tls", [False, True])
async def test_no_socket_is_left_when_a_stream_cannot_be_imported(
    tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module is imported when it is needed first, and no descriptor may be left for it then."""
    for name in ("trio_socket", "asyncio_socket", "tls_trio", "tls_asyncio"):
        monkeypatch.setitem(sys.modules, f"anyconnpool._streams.{name}", None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = await open_tcp_socket(*listener.getsockname())
        with pytest.raises(ImportError):
            if tls:
                context = ssl.create_default_context()
                await open_tls_stream(sock, await client_codec(context, "localhost"))
            else:
                await open_stream(sock)
        assert sock.fileno() == -1
