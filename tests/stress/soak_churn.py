"""A pool's hard life, drawn by chance: borrowers of every kind, and a world that changes."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio

from anyconnpool import AcquireTimeout, ConnectionPool, PooledConnection, PoolFull, Retry
from tests.pool.network import MemoryNetwork, check_books

MIN_IDLE = 3
MAX_SIZE = 10
BORROWERS = 24
UNASKED = b"unasked"


class BodyError(Exception):
    """What a borrower's body raises."""


class SoakNetwork(MemoryNetwork):
    """A network whose server can be down, and that forgets the connections that are closed.

    :param chance: how long connecting and closing take
    :param audit: called whenever a connection is opened or closed
    """

    def __init__(self, chance: random.Random, audit: Callable[[], None]) -> None:
        super().__init__(self._accept, self._part)
        self.up = True
        self._chance = chance
        self._audit = audit
        self._forgotten = 0

    @property
    def opened(self) -> int:
        return super().opened + self._forgotten

    @property
    def closed(self) -> int:
        return super().closed + self._forgotten

    def forget_closed(self) -> None:
        still_open = [peer for peer in self.peers if not peer.client.closed]
        self._forgotten += len(self.peers) - len(still_open)
        self.peers[:] = still_open

    def go_down(self) -> None:
        """Hang up on everybody, and refuse whoever connects."""
        self.up = False
        for peer in self.peers:
            peer.hang_up()

    async def _accept(self, number: int) -> None:
        self._audit()
        # One in twenty outlasts connect_timeout.
        await anyio.sleep(self._chance.expovariate(1))
        if not self.up:
            raise anyio.ConnectionFailed("the server is down")

    async def _part(self, number: int) -> None:
        self._audit()
        # One in seven outlasts close_timeout.
        await anyio.sleep(self._chance.expovariate(2))


class Churn:
    """A pool, its borrowers and its world.

    :param seed: what chance starts from
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        # The pool's jitter comes from here.
        random.seed(seed)
        self.network = SoakNetwork(self.chance, self._audit_in_pool)
        self.pool = ConnectionPool(
            self.network,
            max_size=MAX_SIZE,
            min_idle=MIN_IDLE,
            max_idle_time=10,
            max_lifetime=30,
            max_waiting=2,
            connect_timeout=3,
            close_timeout=1,
            connect_retry=Retry(3, interval=0.5),
        )
        #: what happened how often
        self.seen: Counter[str] = Counter()
        self._ceiling: float = MAX_SIZE
        self._detached = 0
        self._pushed_at = -math.inf
        self._wrong: AssertionError | None = None
        self._acts = (self.exchange, self.be_cancelled, self.fail, self.discard, self.detach)
        self._changes = (self.restart, self.retire, self.resize, self.push_unasked)

    async def run(self, seconds: float) -> None:
        """Let the pool live for so long, then bring it back to its first state."""
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._again_and_again, 20, self._change_the_world)
                for _ in range(BORROWERS):
                    tasks.start_soon(self._again_and_again, 8, self._borrow)
        if self._wrong is not None:
            raise self._wrong
        self.network.up = True
        self._set_max_size(MAX_SIZE)
        await anyio.sleep(30)
        self.pool.retire()
        await self._come_to_rest()
        await check_books(self.pool, self.network)
        assert self.pool.statistics().tasks_waiting == 0
        self.network.forget_closed()

    async def _come_to_rest(self) -> None:
        """Wait for a moment in which nothing is being replaced: all live for some seconds only."""
        statistics = self.pool.statistics()
        with anyio.fail_after(100):
            while not statistics.idle == statistics.size == MIN_IDLE:
                await anyio.sleep(0.1)
                statistics = self.pool.statistics()

    def audit(self) -> None:
        """Assert what holds at every moment."""
        now = self.pool.statistics()
        known = now.idle + now.in_use + now.closing
        assert now.size == known + now.connecting, now
        assert 0 <= now.opened - known - sum(now.closed.values()) <= now.connecting, now
        assert now.size <= self._ceiling, (now, self._ceiling)
        assert self.network.open_now <= now.size + self._detached, now
        assert not (now.tasks_waiting and now.idle), now
        # A surplus after max_size was lowered only shrinks.
        self._ceiling = max(now.max_size, min(self._ceiling, now.size))

    def _audit_in_pool(self) -> None:
        # The pool would take what is raised in its tasks for a failure to connect.
        try:
            self.audit()
        except AssertionError as error:
            self._wrong = self._wrong or error

    async def _again_and_again(self, pause: float, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            await anyio.sleep(self.chance.expovariate(1 / pause))
            await act()
            self.audit()

    async def _borrow(self) -> None:
        act = self.chance.choices(self._acts, weights=(30, 2, 1, 1, 1))[0]
        try:
            async with self.pool.acquire(timeout=self.chance.choice((0, 1, 5, math.inf))) as mine:
                self.audit()
                await act(mine)
        except PoolFull:
            self.seen["full"] += 1
        except AcquireTimeout:
            self.seen["late"] += 1
        except BodyError:
            self.seen["failed"] += 1
        except (anyio.ConnectionFailed, anyio.BrokenResourceError, anyio.EndOfStream):
            self.seen["server down"] += 1

    async def exchange(self, connection: PooledConnection) -> None:
        line = b"%d" % self.chance.getrandbits(64)
        begun = anyio.current_time()
        await connection.send_line(line)
        await anyio.sleep(self.chance.expovariate(1))
        reply = await connection.receive_line()
        if reply != line:
            # A greeting for the first borrower, or pushed while this one had it.
            assert reply == UNASKED
            assert self._pushed_at >= begun or not connection.reused
        self.seen["exchanged"] += 1

    async def be_cancelled(self, connection: PooledConnection) -> None:
        with anyio.move_on_after(self.chance.random()):
            await connection.receive(1)
        self.seen["cancelled"] += 1

    async def fail(self, connection: PooledConnection) -> None:
        raise BodyError

    async def discard(self, connection: PooledConnection) -> None:
        connection.discard()
        self.seen["discarded"] += 1

    async def detach(self, connection: PooledConnection) -> None:
        self._detached += 1
        stream = connection.detach()
        with anyio.CancelScope(shield=True):
            await stream.aclose()
        self._detached -= 1
        self.seen["detached"] += 1

    async def _change_the_world(self) -> None:
        change = self.chance.choice(self._changes)
        self.seen[change.__name__] += 1
        await change()

    async def restart(self) -> None:
        self.network.go_down()
        await anyio.sleep(self.chance.uniform(0, 10))
        self.network.up = True

    async def retire(self) -> None:
        self.pool.retire()

    async def resize(self) -> None:
        self._set_max_size(self.chance.randint(MIN_IDLE, MAX_SIZE))

    def _set_max_size(self, max_size: int) -> None:
        self.pool.max_size = max_size
        self._ceiling = max(self._ceiling, max_size)

    async def push_unasked(self) -> None:
        self._pushed_at = anyio.current_time()
        for peer in self.network.peers:
            peer.push(UNASKED + b"\n")
