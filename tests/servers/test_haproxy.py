"""HAProxy in tcp mode before three backends: one dies and returns, and idle clients are cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeAlias

import pytest
from anyio import connect_tcp, create_task_group, to_thread

from anyconnpool import ConnectionPool, FramedStream, PooledConnection
from tests.sockets.checks import eventually
from tests.sockets.servers import Peer, Server

from .checks import HANG_UPS, PERSISTENT, all_ended, fill, until_at_rest
from .programs import haproxy, reserved_port

NAMES = ("anna", "bert", "cleo")

MakeSite: TypeAlias = "Callable[..., Site]"


class Backend(Server):
    """A server that answers each line with its own name and the line.

    :param name: its name
    :param directory: not used by servers of this kind
    :param port: where to listen, also when it returns
    """

    def __init__(self, name: str, directory: Path, port: int) -> None:
        self.name = name.encode()
        self._reserved = port
        super().__init__("tcp", directory, self._answer)

    def start(self) -> None:
        self._port = self._reserved
        super().start()

    def _answer(self, peer: Peer) -> None:
        while True:
            peer.send(self.name + b" " + peer.receive_line() + b"\n")


class Site:
    """Three backends behind an HAProxy.

    :param stack: ends all of them
    :param directory: for HAProxy's files
    :param client_timeout: how long a client may be silent, in HAProxy's notation
    """

    def __init__(self, stack: ExitStack, directory: Path, client_timeout: str) -> None:
        ports = {name: stack.enter_context(reserved_port()) for name in NAMES}
        self.backends = {
            name: stack.enter_context(Backend(name, directory, port))
            for name, port in ports.items()
        }
        remotes = {name: backend.remote for name, backend in self.backends.items()}
        self.balancer = stack.enter_context(
            haproxy(directory, remotes, client_timeout=client_timeout)
        )

    async def stop(self, name: str) -> None:
        """Let a backend die, and wait until HAProxy uses the others only."""
        await to_thread.run_sync(self.backends[name].stop)
        await self._until_used({*NAMES} - {name})

    async def start(self, name: str) -> None:
        """Let the one that died return, and wait until HAProxy uses all of them."""
        await to_thread.run_sync(self.backends[name].start)
        await self._until_used({*NAMES})

    async def _until_used(self, names: set[str]) -> None:
        used: set[str] = set()
        while used != names:
            used = {await self._serving() for _ in range(2 * len(NAMES))}

    async def _serving(self) -> str:
        """Return which backend a new connection leads to, if any."""
        async with FramedStream(await connect_tcp(*self.balancer.remote)) as stream:
            with suppress(*HANG_UPS):
                return name_in(await stream.send_receive_line(b"who?"))
        return "nobody"


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    """Return a function that starts a site, which ends with the test."""
    with ExitStack() as stack:

        def make(client_timeout: str = "60s") -> Site:
            return Site(stack, tmp_path, client_timeout)

        yield make


def name_in(answer: bytes) -> str:
    return answer.partition(b" ")[0].decode()


async def get_through(connection: PooledConnection) -> None:
    """Make an exchange: HAProxy accepts a connection before it chooses a backend for it."""
    await connection.send_receive_line(b"hello")


async def names_of(pool: ConnectionPool, count: int = 12) -> Counter[str]:
    """Make exchanges one after the other; return how many of them each backend answered."""
    return Counter([name_in(await pool.send_receive_line(b"who?")) for _ in range(count)])


async def test_the_longest_idle_first_spreads_the_load(make_site: MakeSite) -> None:
    """And the last used first leaves all of it to one backend."""
    remote = make_site().balancer.remote
    async with ConnectionPool(remote, max_size=6, idle_order="fifo") as pool:
        await fill(pool)
        assert {*await names_of(pool)} == {*NAMES}
    async with ConnectionPool(remote, max_size=6) as pool:
        await fill(pool)
        assert len(await names_of(pool)) == 1


async def test_a_backend_that_dies_and_returns_loses_no_request(make_site: MakeSite) -> None:
    """With a retry every request gets its own reply, from whichever backend is left."""
    site = make_site()
    right: Counter[str] = Counter()
    over = False

    async def ask(pool: ConnectionPool, task: int) -> None:
        number = 0
        while not over:
            number += 1
            line = b"%d %d" % (task, number)
            answer = await pool.send_receive_line(line, retry=PERSISTENT)
            assert answer.partition(b" ")[2] == line
            right[name_in(answer)] += 1

    async def make_progress() -> None:
        enough = right.total() + 200
        await eventually(lambda: right.total() >= enough, tries=5000)

    async with ConnectionPool(site.balancer.remote, max_size=6, idle_order="fifo") as pool:
        async with create_task_group() as tasks:
            for task in range(20):
                tasks.start_soon(ask, pool, task)
            await make_progress()
            for name in NAMES:
                await site.stop(name)
                await make_progress()
                await site.start(name)
                await make_progress()
            over = True
        assert {*right} == {*NAMES}
        assert pool.statistics().opened > 6


async def test_retire_brings_the_load_back(make_site: MakeSite) -> None:
    """A pool's connections stay where they are until they are replaced, all of them at once."""
    site = make_site()
    await site.stop("bert")
    async with ConnectionPool(
        site.balancer.remote, max_size=6, idle_order="fifo", on_connect=get_through
    ) as pool:
        await fill(pool)
        await site.start("bert")
        assert {*await names_of(pool)} == {"anna", "cleo"}
        pool.retire()
        await fill(pool)
        assert {*await names_of(pool)} == {*NAMES}
        assert pool.statistics().closed == {"retired": 6}


async def test_a_lifetime_brings_the_load_back(make_site: MakeSite) -> None:
    """The connections are replaced in time, without anybody's doing."""
    site = make_site()
    await site.stop("bert")
    async with ConnectionPool(
        site.balancer.remote,
        max_size=6,
        idle_order="fifo",
        max_lifetime=0.5,
        on_connect=get_through,
    ) as pool:
        await fill(pool)
        assert {*await names_of(pool)} == {"anna", "cleo"}
        await site.start("bert")
        while "bert" not in await names_of(pool):
            pass
        assert {*pool.statistics().closed} == {"max_lifetime"}


async def test_connections_that_haproxy_cuts_for_silence_fail_no_request(
    make_site: MakeSite,
) -> None:
    """Its ``timeout client`` ends idle ones; that is noticed before anything is sent on them.

    On a machine that is too busy for its checks, HAProxy takes all backends for dead, and hangs up
    on new connections. That says nothing of the idle ones.
    """
    site = make_site("1500ms")
    async with ConnectionPool(site.balancer.remote, max_size=6) as pool:
        await fill(pool)
        await eventually(lambda: all_ended(pool, site.balancer))
        reused = pool.statistics().reused
        names = Counter[str]()
        while not names:
            with suppress(*HANG_UPS):
                names = await names_of(pool, 1)
        await until_at_rest(pool)
        assert pool.statistics().closed["peer_closed"]
        assert (pool.statistics().reused, pool.statistics().replayed) == (reused, 0)


async def test_requests_wait_while_all_backends_are_dead(make_site: MakeSite) -> None:
    """HAProxy accepts connections and hangs up on them; a retry outlasts that, too."""
    site = make_site()
    async with ConnectionPool(site.balancer.remote, max_size=6) as pool:
        for backend in site.backends.values():
            await to_thread.run_sync(backend.stop)
        with pytest.raises(HANG_UPS):
            await pool.send_receive_line(b"in vain")
        answers: list[bytes] = []

        async def ask(number: int) -> None:
            answers.append(await pool.send_receive_line(b"%d" % number, retry=PERSISTENT))

        async with create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(ask, number)
            await eventually(lambda: pool.statistics().replayed >= 20)
            assert not answers
            await to_thread.run_sync(site.backends["cleo"].start)
        assert {*answers} == {b"cleo %d" % number for number in range(20)}
