"""Several servers behind one pool, on real sockets: killed, frozen, refusing, returning."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import ConnectionFailed, create_task_group

import anyconnpool._replicas
from anyconnpool import ConnectionPool, ExchangeError, Replicas, Retry
from tests.certificates import authority, client_context

from .checks import client_sockets, eventually
from .servers import Peer, Script, Server, every_kind

# Short ones: a test waits for a server to be tried again.
REST = Retry(0, interval=0.2, max_interval=0.4)
RETRY = Retry(2, interval=0.01)


class Frozen:
    """A script that echoes lines, except while it is frozen."""

    def __init__(self) -> None:
        self.well = threading.Event()
        self.well.set()

    def __call__(self, peer: Peer) -> None:
        while True:
            line = peer.receive_line()
            while not (self.well.wait(0.02) or peer.hung_up):
                pass
            peer.send(b"> " + line + b"\n")


class Several:
    """Some servers of one kind, each with a script of its own that can be frozen."""

    def __init__(self, servers: list[Server], scripts: list[Frozen]) -> None:
        self.servers = servers
        self.scripts = scripts
        self.replicas = Replicas([server.remote for server in servers], rest=REST)

    def pool(self, replicas: Replicas | None = None, **settings: Any) -> ConnectionPool:
        tls = self.servers[0].tls
        context = client_context() if tls else None
        return ConnectionPool(
            self.replicas if replicas is None else replicas,
            tls=tls,
            ssl_context=context,
            **settings,
        )

    def sizes(self) -> list[int]:
        return [state.connections for state in self.replicas.states().values()]

    def has(self, *sizes: int) -> Callable[[], bool]:
        """Return what tells whether the servers have so many connections, in whatever order."""
        return lambda: sorted(self.sizes()) == sorted(sizes)

    def resting(self) -> list[bool]:
        return [state.resting for state in self.replicas.states().values()]


@pytest.fixture
def several(kind: str, tmp_path: Path) -> Iterator[Several]:
    """Return three servers, which end with the test."""
    with ExitStack() as stack:
        scripts = [Frozen() for _ in range(3)]
        servers: list[Server] = []
        for number, script in enumerate(scripts):
            directory = tmp_path / str(number)
            directory.mkdir()
            servers.append(stack.enter_context(Server(kind, directory, script)))
        yield Several(servers, scripts)
        for script in scripts:
            script.well.set()


class Load:
    """Tasks that do exchanges until they are told to stop; errors are noted."""

    def __init__(self, tasks: int = 20, **options: Any) -> None:
        self.tasks = tasks
        self.options: dict[str, Any] = options
        self.errors: list[BaseException] = []
        self.done = 0
        self.stopped = False

    async def run(self, pool: ConnectionPool) -> None:
        async with create_task_group() as group:
            for number in range(self.tasks):
                group.start_soon(self._work, pool, b"%d" % number)

    async def _work(self, pool: ConnectionPool, line: bytes) -> None:
        while not self.stopped:
            try:
                assert await pool.send_receive_line(line, **self.options) == b"> " + line
                self.done += 1
            except ExchangeError as error:
                self.errors.append(error)
            await anyio.sleep(0.005)

    async def go_on(self, exchanges: int = 100) -> None:
        """Wait until so many more have succeeded."""
        until = self.done + exchanges
        await eventually(lambda: self.done >= until, tries=10_000)


pytestmark = pytest.mark.usefixtures("no_socket_left")


@pytest.mark.parametrize(
    ("pool_settings", "tasks_at_once", "share"),
    [({"max_size": 9}, 20, 3), ({"max_size": 6, "pipeline": 16}, 40, 2)],
    ids=["borrowed", "shared"],
)
async def test_a_killed_server_costs_no_exchange_that_may_be_repeated(
    several: Several, pool_settings: dict[str, Any], tasks_at_once: int, share: int
) -> None:
    """It is repeated elsewhere, and the server gets its share again when it is back, under load."""
    load = Load(tasks=tasks_at_once, retry=RETRY)
    even = several.has(share, share, share)
    async with several.pool(**pool_settings) as pool, create_task_group() as tasks:
        tasks.start_soon(load.run, pool)
        await eventually(even, tries=10_000)
        for server in several.servers[:2]:
            await load.go_on()
            server.stop(reset=True)
            await load.go_on(300)
            assert client_sockets(server) == 0
            server.start()
            await eventually(even, tries=10_000)
        load.stopped = True
    assert load.errors == []


async def test_a_killed_server_costs_what_was_in_flight_on_it_without_retry(
    several: Several,
) -> None:
    """Everything else goes on."""
    load = Load()
    async with several.pool(max_size=9) as pool, create_task_group() as tasks:
        tasks.start_soon(load.run, pool)
        await eventually(several.has(3, 3, 3))
        several.scripts[0].well.clear()
        await load.go_on()
        several.servers[0].stop(reset=True)
        await load.go_on(300)
        load.stopped = True
    assert len(load.errors) <= 3


async def test_an_outage_of_all_ends_with_it(several: Several) -> None:
    """Whatever failed meanwhile, the next exchanges succeed."""
    async with several.pool(max_size=9) as pool:
        for _ in range(2):
            async with create_task_group() as tasks:
                load = Load()
                tasks.start_soon(load.run, pool)
                await load.go_on()
                for server in several.servers:
                    server.stop(reset=True)
                await eventually(lambda: all(several.resting()))
                with pytest.raises(ConnectionFailed, match="none of the replicas"):
                    await pool.send_receive_line(b"x")
                for server in several.servers:
                    server.start()
                await load.go_on()
                load.stopped = True
        await eventually(lambda: not any(several.resting()))


@every_kind
async def test_a_black_hole_rests_after_its_first_timeouts(several: Several) -> None:
    """At most one timeout for each connection, and one for each time it is tried again."""
    load, timeouts = Load(tasks=12, timeout=3), 0
    async with several.pool(max_size=6, close_timeout=0.1) as pool, create_task_group() as tasks:
        tasks.start_soon(load.run, pool)
        await eventually(several.has(2, 2, 2))
        several.scripts[1].well.clear()
        await eventually(lambda: several.resting()[1], tries=10_000)
        timeouts = len(load.errors)
        await load.go_on()
        several.scripts[1].well.set()
        await eventually(several.has(2, 2, 2), tries=10_000)
        load.stopped = True
    assert {type(error) for error in load.errors} == {TimeoutError}
    # Reused ones say nothing: the first new one that is silent sends it to rest.
    assert timeouts <= 6 + 8
    assert len(load.errors) <= 6 + 8


async def test_a_black_hole_rests_although_connections_are_shared(several: Several) -> None:
    """What was in flight on it is all it costs, and one exchange each time it is tried again."""
    load = Load(tasks=24, timeout=3)
    settings: dict[str, Any] = {"max_size": 6, "pipeline": 8, "close_timeout": 0.1}
    async with several.pool(**settings) as pool, create_task_group() as tasks:
        tasks.start_soon(load.run, pool)
        await eventually(several.has(2, 2, 2), tries=10_000)
        several.scripts[1].well.clear()
        await eventually(lambda: several.resting()[1], tries=10_000)
        await load.go_on(300)
        several.scripts[1].well.set()
        await eventually(several.has(2, 2, 2), tries=10_000)
        load.stopped = True
    assert {type(error) for error in load.errors} == {TimeoutError}


@every_kind
async def test_a_stand_by_takes_over_from_the_primary_and_gives_back(several: Several) -> None:
    """In order, on every kind of socket."""
    replicas = Replicas([server.remote for server in several.servers], order="in_order", rest=REST)
    several.replicas = replicas
    load = Load(tasks=8, retry=RETRY)
    async with several.pool(max_size=4) as pool, create_task_group() as tasks:
        tasks.start_soon(load.run, pool)
        await eventually(lambda: several.sizes() == [4, 0, 0])
        several.servers[0].stop()
        await eventually(lambda: several.sizes()[1:] == [4, 0])
        several.servers[0].start()
        await eventually(lambda: several.sizes() == [4, 0, 0], tries=10_000)
        load.stopped = True
    assert load.errors == []
    assert several.servers[2].peers == []


async def test_connections_know_their_remotes(several: Several) -> None:
    """As they were given, beside the address of the peer."""
    async with several.pool() as pool:
        held = [await pool.acquire() for _ in range(3)]
        remotes = [server.remote for server in several.servers]
        assert sorted(connection.remote for connection in held) == sorted(remotes)
        assert all(connection.remote == connection.remote_address for connection in held)
        for connection in held:
            await connection.aclose()
    assert pool.name == ",".join(f"tcp://127.0.0.1:{port}" for _, port in remotes)


async def test_cancellations_in_the_middle_of_it_leave_nothing(
    several: Several, anyio_backend_name: str
) -> None:
    """By scopes and natively, while servers are killed and come back: the books are right."""
    load = Load(tasks=6, retry=RETRY)
    async with several.pool(max_size=6) as pool, create_task_group() as tasks:
        tasks.start_soon(load.run, pool)

        async def give_up(seconds: float) -> None:
            while not load.stopped:
                with anyio.move_on_after(seconds):
                    await pool.send_receive_line(b"x", retry=RETRY)
                await anyio.lowlevel.checkpoint()

        async def cancel_natively() -> None:
            while not load.stopped:
                task = asyncio.ensure_future(pool.send_receive_line(b"y", retry=RETRY))
                await asyncio.sleep(0.001)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    task.exception()

        for seconds in (0, 0.0005, 0.001, 0.002):
            tasks.start_soon(give_up, seconds)
        if anyio_backend_name == "asyncio":
            tasks.start_soon(cancel_natively)
        for server in several.servers:
            await load.go_on(50)
            server.stop(reset=True)
            await load.go_on(50)
            server.start()
        load.stopped = True
    assert load.errors == []
    assert pool.statistics().size == 0
    assert [(state.connections, state.in_use) for state in several.replicas.states().values()] == [
        (0, 0)
    ] * 3


async def test_without_a_pool_they_are_a_connectable(several: Several) -> None:
    """With failover within one connect."""
    several.servers[0].stop()
    for _ in range(3):
        async with await several.replicas.connect() as stream:
            await stream.send(b"a\n")
            assert await stream.receive() == b"> a\n"
    assert several.resting() == [True, False, False]


@cache
def named_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("service.test").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    return context


class Addressed(Server):
    """A server of TLS at an address of the loopback network, whose certificate is for a name."""

    def __init__(self, directory: Path, script: Script, host: str, port: int = 0) -> None:
        self.host = host
        self.given_port = port
        super().__init__("tls13", directory, script)

    @property
    def remote(self) -> Any:
        return self.host, self._port

    def start(self) -> None:
        self._listener = socket.create_server((self.host, self.given_port), backlog=128)
        self._port = self.given_port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,))
        self._acceptor.start()

    def _wrap(self, accepted: socket.socket) -> socket.socket:
        return named_context().wrap_socket(
            accepted, server_side=True, do_handshake_on_connect=False
        )


@pytest.fixture
def addressed(tmp_path: Path) -> Iterator[list[Addressed]]:
    """Return two servers at two addresses, with one port."""
    with ExitStack() as stack:
        first = stack.enter_context(Addressed(tmp_path, Frozen(), "127.0.0.1"))
        port: int = first.remote[1]
        yield [first, stack.enter_context(Addressed(tmp_path, Frozen(), "127.0.0.2", port))]


def resolve_to(monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> list[tuple[str, int]]:
    """Let every name stand for some addresses, and return what is asked for."""
    asked: list[tuple[str, int]] = []

    async def look_up(host: str, port: int, **options: Any) -> list[Any]:
        asked.append((host, port))
        await anyio.lowlevel.checkpoint()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in hosts]

    monkeypatch.setattr(anyconnpool._replicas, "getaddrinfo", look_up)
    return asked


async def test_a_name_with_several_addresses_is_checked_for_that_name(
    addressed: list[Addressed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each address is a replica; the certificate is for the name, whatever the address."""
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
    asked = resolve_to(monkeypatch, hosts)
    port = addressed[0].remote[1]
    replicas = Replicas.from_dns("service.test", port, rest=REST, refresh=0.05)
    async with ConnectionPool(replicas, tls=True, ssl_context=client_context()) as pool:
        held = [await pool.acquire() for _ in range(4)]
        assert sorted(connection.remote[0] for connection in held) == sorted(
            ["127.0.0.1", "127.0.0.2"] * 2
        )
        for connection in held:
            await connection.aclose()
        assert pool.name == "service.test"
        assert asked[0] == ("service.test", port)
        # One address goes: what is connected to it is retired.
        hosts[:] = ["127.0.0.2"]
        await eventually(lambda: pool.statistics().size == 2)
        assert client_sockets(addressed[0]) == 0
        for _ in range(3):
            assert await pool.send_receive_line(b"a") == b"> a"


async def test_a_certificate_for_another_name_is_refused(
    addressed: list[Addressed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of from_dns counts, unless tls_hostname is given."""
    resolve_to(monkeypatch, ["127.0.0.1", "127.0.0.2"])
    port = addressed[0].remote[1]
    context = client_context()
    async with ConnectionPool(
        Replicas.from_dns("other.test", port), tls=True, ssl_context=context
    ) as pool:
        with pytest.raises(ConnectionFailed, match="none of the replicas") as caught:
            await pool.send_receive_line(b"a")
        cause: Any = caught.value.__cause__
        assert all("Hostname mismatch" in str(error) for error in cause.exceptions)
    async with ConnectionPool(
        Replicas.from_dns("other.test", port),
        tls=True,
        ssl_context=context,
        tls_hostname="service.test",
    ) as pool:
        assert await pool.send_receive_line(b"a") == b"> a"


@pytest.mark.parametrize("kind", ["tls13"])
async def test_a_handshake_that_hangs_goes_on_with_the_next(several: Several) -> None:
    """After connect_timeout, for each."""
    several.servers[0].hold = True
    async with several.pool(connect_timeout=0.5, max_size=1) as pool:
        for _ in range(2):
            assert await pool.send_receive_line(b"a") == b"> a"
        assert several.resting()[0]
