"""Exchanges that share connections to several servers: for which one they count, what leaves."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio import BrokenResourceError, EndOfStream, create_task_group

from anyconnpool import ConnectionPool, PoolManager, Replicas, Retry
from anyconnpool.events import PoolEvent, ReplicaResting

from .network import settle
from .service import Server, Service

RETRY = Retry(1, interval=0.001)


class Callers:
    """Tasks that do exchanges, and what has become of each."""

    def __init__(self, pool: ConnectionPool[Any], tasks: anyio.abc.TaskGroup) -> None:
        self.pool, self.tasks = pool, tasks
        self.outcomes: list[object] = []

    async def _one(self, options: dict[str, Any]) -> None:
        try:
            self.outcomes.append(await self.pool.send_receive_line(b"ping", **options))
        except Exception as error:
            self.outcomes.append(type(error))

    async def ask(self, count: int, **options: Any) -> None:
        """Have requests made, and sent as far as they can be."""
        for _ in range(count):
            self.tasks.start_soon(self._one, options)
            await settle(5)
        await settle()


def answer_all(server: Server) -> None:
    """Have a server answer what it was asked on each of its connections."""
    for peer in server.network.peers:
        owed, peer.received = bytes(peer.received), bytearray()
        peer.push(owed)


async def answer_late(servers: list[Server], until: float) -> None:
    """Have servers answer all but the last request, so that something is always in flight."""
    while anyio.current_time() < until:
        await anyio.sleep(0.02)
        for peer in [peer for server in servers for peer in server.network.peers]:
            first, _, _ = peer.received.rpartition(b"ping\n")
            owed, peer.received = first, peer.received[len(first) :]
            peer.push(bytes(owed or peer.received))
            if not owed:
                peer.received.clear()


async def load(pool: ConnectionPool[Any], until: float, tasks: int, **options: Any) -> None:
    async def one() -> None:
        while anyio.current_time() < until:
            await pool.send_receive_line(b"ping", **options)

    async with create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(one)


async def test_a_shared_connection_is_in_use_at_its_replica() -> None:
    """However many share it, it is one; it is idle again when nothing is in flight."""
    service = Service(2)
    service.servers[0].mood = service.servers[1].mood = "silent"
    async with service.pool(max_size=2, pipeline=4) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(6)
        assert (service.in_use(), service.sizes()) == ([1, 1], [1, 1])
        assert [server.requests for server in service.servers] == [3, 3]
        answer_all(service.servers[0])
        await settle()
        assert service.in_use() == [0, 1]
        # What is idle again is lent first.
        await callers.ask(1)
        assert [server.requests for server in service.servers] == [4, 3]
        answer_all(service.servers[0])
        answer_all(service.servers[1])
        await settle()
        assert callers.outcomes == [b"ping"] * 7


async def test_a_new_shared_connection_that_breaks_counts_once_for_its_replica() -> None:
    """All who share it get an error of their own, and the replica rests for one failure."""
    events: list[PoolEvent] = []
    service = Service(2)
    service.servers[0].mood = service.servers[1].mood = "silent"
    settings: dict[str, Any] = {"max_size": 2, "pipeline": 4, "observers": [events.append]}
    async with service.pool(**settings) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(6)
        service.servers[0].hang_up()
        await settle()
        assert callers.outcomes == [EndOfStream] * 3
        assert (service.failures(), service.resting()) == ([1, 0], [True, False])
        answer_all(service.servers[1])
        await settle()
        # One on which a reply has come says nothing when it ends.
        await callers.ask(1)
        service.servers[1].hang_up()
        await settle()
        assert service.failures() == [1, 0]
    assert len([event for event in events if isinstance(event, ReplicaResting)]) == 1


async def test_a_shared_connection_that_was_borrowed_before_says_nothing() -> None:
    """It is not new, although nothing has come on it since exchanges share it."""
    service = Service(1)
    async with service.pool(max_size=1, pipeline=4) as pool, create_task_group() as tasks:
        async with pool.acquire() as connection:
            await connection.send(b"ping\n")
            await connection.receive_line()
        callers = Callers(pool, tasks)
        service.servers[0].mood = "silent"
        await callers.ask(2)
        service.servers[0].hang_up()
        await settle()
        assert callers.outcomes == [EndOfStream] * 2
        assert service.failures() == [0]


async def test_a_new_shared_connection_that_stalls_counts_for_its_replica() -> None:
    """Whoever shares it has no limit of his own, and no patience is endless."""
    service = Service(2)
    service.servers[0].mood = "silent"
    settings: dict[str, Any] = {"max_size": 2, "pipeline": 4, "stall_timeout": 2}
    async with service.pool(**settings) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(2)
        await anyio.sleep(2.01)
        assert callers.outcomes == [b"ping", BrokenResourceError]
        assert (service.failures(), service.resting()) == ([1, 0], [True, False])


async def test_what_a_read_function_raises_says_nothing_of_a_replica() -> None:
    """The connection is closed, but the server did nothing wrong."""

    async def stumble(connection: Any) -> None:
        raise ValueError("mine")

    service = Service(2)
    async with service.pool(max_size=2, pipeline=4) as pool:
        with pytest.raises(ValueError, match="mine"):
            await pool.exchange(b"ping\n", stumble)
        await settle()
        assert service.failures() == [0, 0]


async def test_a_read_function_that_hangs_says_nothing_of_a_replica() -> None:
    """Also before it has received anything; its connection is closed, as where a peer stalls."""

    async def wait_for_something_else(connection: Any) -> None:
        await anyio.sleep_forever()

    async def wait_for_a_reply(connection: Any) -> None:
        await connection.receive_line()

    service = Service(1)
    service.servers[0].mood = "silent"
    async with service.pool(max_size=1, pipeline=4, stall_timeout=10) as pool:
        with pytest.raises(anyio.BrokenResourceError, match="not one byte of the replies"):
            await pool.exchange(b"ping\n", wait_for_a_reply)
        assert service.failures() == [1]
    service = Service(2)
    async with service.pool(max_size=2, pipeline=4, stall_timeout=10) as pool:
        with pytest.raises(anyio.BrokenResourceError, match=r"the read function .*something_else"):
            await pool.exchange(b"ping\n", wait_for_something_else)
        await settle()
        assert service.failures() == [0, 0]
        assert pool.statistics().closed["unclean"] == 1


async def test_repeats_share_connections_elsewhere() -> None:
    """Not the other connection to the replica that failed, although that has fewer in flight."""
    service = Service(2)
    service.servers[0].mood = service.servers[1].mood = "silent"
    async with service.pool(max_size=4, pipeline=8) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(7, retry=RETRY)
        assert service.sizes() == [2, 2]
        service.servers[0].mood = "refusing"
        service.servers[0].network.peers[0].hang_up()
        await anyio.sleep(0.5)
        assert service.failures()[0] == 1
        assert not callers.outcomes
        assert service.servers[0].requests == 4, "that many at first, and no repeat"
        assert service.servers[1].requests == 3 + 2
        for server in service.servers:
            answer_all(server)
        await settle()
        assert callers.outcomes == [b"ping"] * 7


async def test_a_repeat_passes_by_the_idle_connections_of_the_replica_that_failed() -> None:
    """In a pool that is full it shares a connection to another one."""
    service = Service(2)
    async with service.pool(max_size=3, pipeline=8) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        held = [await pool.acquire() for _ in range(3)]
        for connection in held:
            await connection.send(b"x")
            await connection.receive_exactly(1)
        numbers = [service.number_of(connection) for connection in held]
        service.servers[0].mood = service.servers[1].mood = "silent"
        other = numbers.index(1)
        # One exchange on the only connection to the second server; then one to the first breaks.
        await held.pop(other).aclose()
        await callers.ask(1, retry=RETRY)
        await held.pop().aclose()
        await callers.ask(1, retry=RETRY)
        assert [server.requests - 1 for server in service.servers] == [2, 1]
        service.servers[0].slowness = 9
        for peer in service.servers[0].network.peers:
            if peer.received.endswith(b"ping\n"):
                peer.hang_up()
        await held.pop().aclose()
        await anyio.sleep(0.5)
        assert [server.requests - 1 for server in service.servers] == [2, 2]
        answer_all(service.servers[1])


async def test_a_black_hole_rests_when_the_first_exchange_is_out_of_time() -> None:
    """Its shared connections take no new requests, and are closed when all have given up."""
    service = Service(2)
    hole, well = service.servers
    hole.mood = "silent"
    async with service.pool(max_size=4, pipeline=8) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        well.mood = "silent"
        await callers.ask(4, timeout=2)
        await anyio.sleep(1)
        await callers.ask(4, timeout=2)
        answer_all(well)
        well.mood = "well"
        await anyio.sleep(1.01)
        assert service.resting() == [True, False]
        assert service.failures() == [1, 0]
        assert callers.outcomes == [b"ping"] * 4 + [TimeoutError] * 2
        assert hole.open_now == 2, "others still hope on them"
        asked = hole.requests
        await callers.ask(20, timeout=2)
        assert hole.requests == asked
        # At the end of its rest it is tried again.
        hole.mood = "refusing"
        await anyio.sleep(1)
        assert hole.open_now == 0
        assert callers.outcomes.count(TimeoutError) == 4


async def test_a_connection_that_may_hang_takes_no_new_requests() -> None:
    """Also one that has served others: all that a black hole gets is what was in flight then."""
    service = Service(2)
    hole, well = service.servers
    async with service.pool(max_size=2, pipeline=8) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        hole.mood = well.mood = "silent"
        await callers.ask(2)
        answer_all(hole)
        answer_all(well)
        await settle()
        await callers.ask(2, timeout=2)
        await anyio.sleep(1)
        await callers.ask(6, timeout=9)
        answer_all(well)
        well.mood = "well"
        await anyio.sleep(1.1)
        assert callers.outcomes[-1] is TimeoutError
        assert service.failures() == [0, 0], "a reused connection says nothing"
        assert hole.open_now == 1
        asked = hole.requests
        well.mood = "silent"
        await callers.ask(6)
        assert hole.requests == asked, "although it has fewer in flight"
        well.mood = "well"
        answer_all(well)
        await callers.ask(9)
        assert hole.requests == asked
        await anyio.sleep(8)
        # All have given up: it is closed at once.
        assert hole.open_now == 0
        assert callers.outcomes.count(TimeoutError) == 4


async def test_a_black_hole_costs_one_exchange_at_each_return() -> None:
    """While a reply would show whether it is well again, its connection carries one request."""
    service = Service(2)
    hole, well = service.servers
    hole.mood = "silent"
    failed = 0
    until = 30.0

    async with service.pool(max_size=4, pipeline=16) as pool, create_task_group() as tasks:

        async def one() -> None:
            nonlocal failed
            while anyio.current_time() < until:
                try:
                    await pool.send_receive_line(b"ping", timeout=0.5)
                except TimeoutError:
                    failed += 1
                await anyio.sleep(0.01)

        for _ in range(30):
            tasks.start_soon(one)
        await anyio.sleep(2)
        first, failures = failed, service.failures()[0]
        await anyio.sleep(until - 2)
        returns = service.failures()[0] - failures
        assert returns > 3
        assert failed - first <= returns
        hole.mood = "well"
    assert well.requests > 500


async def test_a_reply_on_a_shared_connection_shows_that_a_replica_is_back() -> None:
    """Its first bytes are enough; from then on others share that connection, too."""
    service = Service(2)
    first, second = service.servers
    first.mood = "refusing"
    async with service.pool(max_size=2, pipeline=4) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        held = [await pool.acquire() for _ in range(2)]
        assert service.sizes() == [0, 2]
        first.mood = second.mood = "silent"
        for connection in held:
            await connection.aclose()
        await anyio.sleep(1.5)
        assert service.sizes() == [1, 1]
        await callers.ask(4)
        assert [server.requests for server in service.servers] == [1, 3]
        assert service.failures() == [1, 0]
        first.network.peers[0].push(b"pi")
        await settle()
        assert service.failures() == [0, 0]
        first.network.peers[0].push(b"ng\n")
        await settle()
        await callers.ask(3)
        assert [server.requests for server in service.servers] == [4, 3]
        first.network.peers[0].push(b"ping\n" * 3)
        answer_all(second)
        await settle()
        assert callers.outcomes == [b"ping"] * 7


async def test_a_borrower_does_not_wait_for_a_shared_connection_that_may_hang() -> None:
    """Another one leaves for him, although the trial of a replica takes no requests, either."""
    service = Service(2)
    first, second = service.servers
    first.mood = "refusing"
    async with service.pool(max_size=2, pipeline=4) as pool, create_task_group() as tasks:
        held = [await pool.acquire() for _ in range(2)]
        first.mood = second.mood = "silent"
        for connection in held:
            await connection.aclose()
        await anyio.sleep(1.5)
        callers = Callers(pool, tasks)
        await callers.ask(4)
        got: list[int] = []

        async def borrow() -> None:
            async with pool.acquire() as connection:
                got.append(service.number_of(connection))

        tasks.start_soon(borrow)
        await settle()
        await callers.ask(2)
        assert second.requests == 3, "it takes no new ones"
        answer_all(second)
        await settle()
        assert service.failures() == [1, 0]
        assert got == [1]
        answer_all(first)
        await settle()
        answer_all(second)
        answer_all(first)
        await settle()
        answer_all(second)


async def test_shared_connections_to_replicas_that_leave_finish_and_are_closed() -> None:
    """What is in flight is answered; nothing new goes there."""
    service = Service(3)
    for server in service.servers:
        server.mood = "silent"
    async with service.pool(max_size=3, pipeline=4) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(6)
        service.replicas.set([server.network for server in service.servers[:2]])
        await callers.ask(4)
        assert [server.requests for server in service.servers] == [4, 4, 2]
        answer_all(service.servers[2])
        await settle()
        assert service.servers[2].open_now == 0
        assert pool.statistics().closed == {"retired": 1}
        for server in service.servers:
            answer_all(server)
        await settle()
        assert callers.outcomes == [b"ping"] * 10


async def test_a_replica_that_returns_gets_its_share_of_shared_connections() -> None:
    """Also where something is always in flight on all of them."""
    service = Service(3)
    lost = service.servers[0]
    for server in service.servers:
        server.mood = "silent"
    lost.mood = "refusing"
    async with service.pool(max_size=9, pipeline=8) as pool, create_task_group() as tasks:
        tasks.start_soon(answer_late, service.servers, 13.0)
        tasks.start_soon(load, pool, 12.0, 60)
        await anyio.sleep(3.5)
        assert sorted(service.sizes())[1:] == [4, 5]
        lost.mood = "silent"
        # It was tried again at 1 and 3 s, and is at 7 s.
        await anyio.sleep(3.7)
        assert lost.requests
        await anyio.sleep(2)
        assert service.sizes() == [3, 3, 3]


async def test_in_order_shared_connections_return_to_the_first() -> None:
    """Half of those to the stand-by an interval, also where something is always in flight."""
    service = Service(2, order="in_order")
    for server in service.servers:
        server.mood = "silent"
    service.servers[0].mood = "refusing"
    async with service.pool(max_size=4, pipeline=8) as pool, create_task_group() as tasks:
        tasks.start_soon(answer_late, service.servers, 13.0)
        tasks.start_soon(load, pool, 12.0, 40)
        await anyio.sleep(1)
        assert service.sizes() == [0, 4]
        service.servers[0].mood = "silent"
        await anyio.sleep(10)
        assert service.sizes() == [4, 0]


async def test_who_can_share_is_told_of_no_failure_of_all_replicas() -> None:
    """Nor is anybody before the attempt has failed at each of them."""
    service = Service(2)
    service.servers[0].mood = service.servers[1].mood = "silent"
    async with service.pool(max_size=3, pipeline=4) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(1)
        for server in service.servers:
            server.mood = "refusing"
        await callers.ask(3)
        assert service.resting() == [True, True]
        assert not callers.outcomes
        assert pool.statistics().in_flight == 4
        for server in service.servers:
            answer_all(server)
        await settle()
        assert callers.outcomes == [b"ping"] * 4


async def test_pools_of_a_manager_share_connections_to_replicas() -> None:
    """Room that all its replicas rest for is promised to nobody; other remotes get theirs."""
    service = Service(2)
    single = Server()
    async with PoolManager(max_total=2, pipeline=4) as manager, create_task_group() as tasks:
        replicas = Replicas([server.network for server in service.servers])
        for server in service.servers:
            server.mood = "silent"

        async def one(remote: Any) -> None:
            assert await manager.send_receive_line(remote, b"ping") == b"ping"

        for _ in range(6):
            tasks.start_soon(one, replicas)
            await settle(5)
        assert [server.requests for server in service.servers] == [3, 3]
        tasks.start_soon(one, single.network)
        await settle()
        assert single.network.opened == 0
        tasks.start_soon(one, replicas)
        await settle()
        for server in service.servers:
            answer_all(server)
        await settle()
        assert single.requests == 1
        for server in service.servers:
            server.mood = "well"
            answer_all(server)


async def test_a_connection_on_which_replies_come_goes_on_although_one_is_late() -> None:
    """Only if nothing has come since a request was sent may it hang with its replica."""
    service = Service(2)
    for server in service.servers:
        server.mood = "silent"
    async with service.pool(max_size=1, pipeline=4) as pool, create_task_group() as tasks:
        callers = Callers(pool, tasks)
        await callers.ask(1)
        await callers.ask(1, timeout=1)
        (peer,) = [peer for server in service.servers for peer in server.network.peers]
        peer.push(b"ping\n")
        await anyio.sleep(2)
        assert callers.outcomes == [b"ping", TimeoutError]
        await callers.ask(1)
        peer.push(b"ping\nping\n")
        await settle()
        assert callers.outcomes == [b"ping", TimeoutError, b"ping"]
        assert pool.statistics().opened == 1
