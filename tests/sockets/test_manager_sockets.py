"""The manager on real sockets: one maximum over several servers."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import create_task_group, to_thread

from anyconnpool import PoolError, PoolManager
from tests.certificates import client_context

from .checks import client_sockets, eventually
from .conftest import Serve
from .servers import Peer, Server

if TYPE_CHECKING:
    from typing_extensions import Self

pytestmark = pytest.mark.usefixtures("no_socket_left")

SERVERS = 4
TASKS = 40
ROUNDS = 4
MAX_TOTAL = 3


class Tellers:
    """Servers that say which of them answers, and count the clients of all of them.

    :param kind: the kind of their sockets
    :param place: for the sockets of UNIX
    """

    def __init__(self, kind: str, place: Path) -> None:
        self.most = 0
        self._lock = threading.Lock()
        self._done: set[Peer] = set()
        self.servers = [self._make(kind, place / str(name)) for name in range(SERVERS)]

    def _make(self, kind: str, place: Path) -> Server:
        place.mkdir()
        return Server(kind, place, lambda peer: self._answer(place.name.encode(), peer))

    def open(self) -> int:
        """Count the connections whose client has not ended them.

        TLS says goodbye before: then the socket is not counted although it is still open.
        """
        peers = [peer for server in self.servers for peer in server.peers.copy()]
        # In this order: who is done closes its socket, whose state can't be seen then.
        return sum(not peer.hung_up and peer not in self._done for peer in peers)

    def _answer(self, name: bytes, peer: Peer) -> None:
        with self._lock:
            self.most = max(self.most, self.open())
        try:
            while True:
                peer.send(b"%b> %b\n" % (name, peer.receive_line()))
        finally:
            self._done.add(peer)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in self.servers:
                stack.enter_context(server)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


async def test_forty_tasks_over_four_servers_never_open_more_than_three_sockets(
    kind: str, tmp_path: Path
) -> None:
    """Every task is served by the server it asked, in turn with all others, and nothing leaks."""
    with Tellers(kind, tmp_path) as tellers:
        await ask_all(tellers)


async def ask_all(tellers: Tellers) -> None:
    """Run the tasks; each asks some server or other, several times."""
    servers = tellers.servers
    tls = servers[0].tls
    replies = [0] * SERVERS

    async def work(number: int) -> None:
        chance = random.Random(number)
        for turn in range(ROUNDS):
            name = chance.randrange(SERVERS)
            text = b"%d, %d" % (number, turn)
            reply = await manager.send_receive_line(servers[name].remote, text, timeout=30)
            assert reply == b"%d> %b" % (name, text)
            replies[name] += 1

    manager = PoolManager(
        max_total=MAX_TOTAL,
        max_size=2,
        tls=tls,
        ssl_context=client_context() if tls else None,
    )
    async with manager:
        async with create_task_group() as tasks:
            for number in range(TASKS):
                tasks.start_soon(work, number)
        assert sum(replies) == TASKS * ROUNDS
        assert sum(client_sockets(server) for server in servers) <= MAX_TOTAL
        assert sum(one.size for one in manager.statistics().values()) <= MAX_TOTAL
        assert sum(one.closed.get("gave_way", 0) for one in manager.statistics().values())
    await eventually(lambda: not tellers.open())
    assert tellers.most <= MAX_TOTAL
    assert sum(client_sockets(server) for server in servers) == 0


@pytest.mark.parametrize("elsewhere", ["asyncio", "trio"])
async def test_a_new_remote_in_another_event_loop_is_refused(serve: Serve, elsewhere: str) -> None:
    """No pool is made there, and the manager goes on working where its block runs."""
    pytest.importorskip(elsewhere)
    server = serve()
    async with PoolManager() as manager:

        async def ask() -> bytes:
            return await manager.send_receive_line(server.remote, b"hello")

        def run_elsewhere() -> None:
            anyio.run(ask, backend=elsewhere)

        with pytest.raises(PoolError, match="another event loop or thread"):
            await to_thread.run_sync(run_elsewhere)
        assert not manager.statistics()
        assert await ask() == b"> hello"
