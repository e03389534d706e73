"""Great numbers of real sockets, and a long run on them: descriptors, memory and tasks."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from anyconnpool import AcquireTimeout, ConnectionPool, PooledConnection
from anyconnpool._engine import housekeeper
from tests.sockets.checks import eventually
from tests.sockets.conftest import no_unix_noise

from .soak import Figures

__all__ = ["no_unix_noise"]

pytestmark = pytest.mark.usefixtures("no_unix_noise")

SPARE_DESCRIPTORS = 500
BORROWERS = 30


class EchoProcess:
    """The server, seen from the test.

    :param path: of its socket
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("soak_server.py")), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def count(self) -> int:
        """Return how many connections the server has open."""
        return self.drop(0)

    def drop(self, number: int) -> int:
        """Have the server hang up on so many; return how many it had open before."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def kind() -> str:
    """Return the kind of socket to serve on."""
    return "unix"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EchoProcess]:
    """Return a running server."""
    process = EchoProcess(tmp_path / "socket")
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture
def room(long_form: bool) -> Iterator[int]:
    """Return how many sockets to open: 10 000 in the long form, or what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = 10_000 if long_form else 300
    try:
        yield wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - SPARE_DESCRIPTORS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(600)
async def test_many_idle_sockets_are_counted_swept_and_closed(
    server: EchoProcess, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pool, server and kernel agree on thousands of idle connections, to the last one's end."""
    monkeypatch.setattr(housekeeper, "_SWEEP_INTERVAL", 0.5)
    # libuv keeps a descriptor of its own in reserve from its first stream on.
    async with ConnectionPool(str(server.path)) as pool, pool.acquire():
        pass
    before = Figures.now().descriptors
    async with ConnectionPool(str(server.path), max_size=room, max_idle_time=3600) as pool:
        await fill_together(pool, room)
        assert pool.statistics().idle == pool.statistics().opened == room
        assert Figures.now().descriptors - before == room
        await eventually(lambda: server.count() == room)
        await anyio.to_thread.run_sync(server.drop, room // 3)
        await eventually(lambda: pool.statistics().size == room - room // 3, tries=15_000)
        assert pool.statistics().closed == {"peer_closed": room // 3}
        assert Figures.now().descriptors - before == room - room // 3
        assert pool.statistics().idle == room - room // 3
    assert pool.statistics().size == 0
    assert Figures.now().descriptors == before
    await eventually(lambda: not server.count())


async def fill_together(pool: ConnectionPool, count: int) -> None:
    """Have so many connections opened, some hundred at a time, and give them back."""
    connections: list[PooledConnection] = []
    while len(connections) < count:
        async with anyio.create_task_group() as tasks:

            async def borrow() -> None:
                connections.append(await pool.acquire())

            for _ in range(min(200, count - len(connections))):
                tasks.start_soon(borrow)
    for connection in connections:
        await connection.aclose()


class Traffic:
    """Borrowers on real sockets, and a server that now and then hangs up on them.

    :param server: the server
    :param seed: what chance starts from
    """

    def __init__(self, server: EchoProcess, seed: int) -> None:
        self.chance = random.Random(seed)
        self.exchanges = 0
        self._server = server
        self.pool = ConnectionPool(
            str(server.path), max_size=10, max_idle_time=0.5, max_lifetime=1, close_timeout=1
        )

    async def run(self, seconds: float) -> None:
        """Let it flow for so long, then come to rest."""
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                for _ in range(BORROWERS):
                    tasks.start_soon(self._borrow_again_and_again)
                while True:
                    await anyio.sleep(0.2)
                    await anyio.to_thread.run_sync(self._server.drop, 5)
        await eventually(lambda: not self.pool.statistics().size)

    async def _borrow_again_and_again(self) -> None:
        while True:
            await anyio.sleep(self.chance.expovariate(200))
            with suppress(AcquireTimeout, anyio.EndOfStream, anyio.BrokenResourceError):
                await self._borrow()

    async def _borrow(self) -> None:
        line = b"%d" % self.chance.getrandbits(64)
        async with self.pool.acquire(timeout=self.chance.choice((0, 0.01, 5))) as connection:
            with anyio.move_on_after(self.chance.choice((0.0005, 5))):
                await connection.send_line(line)
                assert await connection.receive_line() == line
                self.exchanges += 1


def resident_kib() -> int:
    """Return how much memory the process occupies."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.timeout(600)
async def test_a_long_run_on_sockets_leaves_descriptors_memory_and_tasks_flat(
    server: EchoProcess, seed: int, long_form: bool
) -> None:
    """After a warm-up, hangs-up, cancellations and expiries make nothing grow any more."""
    seconds = 60 if long_form else 0.5
    traffic = Traffic(server, seed)
    async with traffic.pool as pool:
        await traffic.run(max(seconds / 6, 0.5))
        early, resident = Figures.now(), resident_kib()
        await traffic.run(seconds)
        Figures.now().assert_no_more_than(early, f"seed {seed}, {traffic.exchanges} exchanges")
        assert resident_kib() <= resident * 1.1, f"seed {seed}, {resident} KiB at first"
        statistics = pool.statistics()
        assert statistics.opened == sum(statistics.closed.values()) > 10
    assert traffic.exchanges > 100 * seconds
