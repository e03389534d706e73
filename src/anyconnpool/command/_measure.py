"""Ask a server again and again from many tasks for some time, and note how that went."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

# Not the event loop's clock: that of uvloop goes in steps of 1 ms.
from time import perf_counter  # noqa: TID251
from typing import NamedTuple, TypeAlias

from anyio import Event, create_task_group, fail_after
from anyio.abc import ByteStream, ByteStreamConnectable

from anyconnpool import ConnectionPool, FramedStream, PooledConnection, PoolStatistics
from anyconnpool.command._framing import MAX_LINE_BYTES, Framing
from anyconnpool.command._hints import Attempt
from anyconnpool.command._latency import Latencies
from anyconnpool.command._noise import Slices
from anyconnpool.command._pace import Extent
from anyconnpool.command._payload import Payload
from anyconnpool.command._reasons import EXCHANGE_ERRORS, CommandError, reason
from anyconnpool.command._results import PERCENTILES, Point, PoolUse
from anyconnpool.command._spread import Spread, Visit
from anyconnpool.command._target import Greet, Target

# Clocks may stand still for a moment.
_TICK = 1e-6
_BARS = 24
# How long a server must be silent before it is asked for the first time, in seconds.
_SILENCE, _LONGEST_SILENCE = 0.1, 1.0


class Answer(NamedTuple):
    """What is known of a request that was answered.

    :ivar connected_at: when it had a connection
    :ivar replied_at: when it had the reply
    :ivar sent, received: bytes of the message and of its reply, without what separates messages
    """

    connected_at: float
    replied_at: float
    sent: int
    received: int


#: makes one request
Ask: TypeAlias = Callable[[], Awaitable[Answer]]


class Meter:
    """What became of the requests of one measurement.

    :param extent: for how long requests are begun, and when
    :param spread: what each of several servers has of them; it begins now
    """

    def __init__(self, extent: Extent, spread: Spread | None = None) -> None:
        self._extent = extent
        self.spread = spread
        if spread is not None:
            spread.begin()
        self._pace = extent.pace()
        self._stopped_at: float | None = None
        self.latencies = Latencies()
        self.errors: Counter[str] = Counter()
        self._slices = Slices()
        self._in_time = 0
        self._waited = 0.0
        self._sent = self._received = 0

    @property
    def elapsed(self) -> float:
        """For how long requests have been begun, in seconds."""
        now = perf_counter() if self._stopped_at is None else self._stopped_at
        return min(max(now - self._pace.begun_at, _TICK), self._extent.duration)

    @property
    def progress(self) -> float:
        """Which share of the measurement is done, 0 to 1."""
        if math.isfinite(self._extent.requests):
            return self._pace.begun / self._extent.requests
        return self.elapsed / self._extent.duration

    @property
    def throughput(self) -> float:
        """Requests answered so far, per second."""
        return self._in_time / self.elapsed

    async def keep_asking(self, ask: Ask) -> None:
        """Make requests as they are due; the last one is finished."""
        pace = self._pace
        due = await pace.first()
        while due is not None:
            try:
                answer = await ask()
            except EXCHANGE_ERRORS as error:
                self.errors[reason(error)] += 1
                await pace.rest()
            else:
                self._note(due, answer)
            due = await pace.next()

    def _note(self, due: float, answer: Answer) -> None:
        self.latencies.add(answer.replied_at - due)
        self._waited += answer.connected_at - due
        moment = answer.replied_at - self._pace.begun_at
        if moment <= self._extent.duration:
            self._in_time += 1
            self._sent += answer.sent
            self._received += answer.received
            self._slices.add(moment)

    def stop(self) -> None:
        """Let the time be over, now that all have been answered."""
        end = self._pace.begun_at + self._extent.duration
        # At a rate, the last request may be begun and answered some time before the end.
        self._stopped_at = end if math.isfinite(end) else perf_counter()

    def point(self, pool: PoolUse | None) -> Point:
        """Return what has been measured, whether it is complete or not.

        :param pool: how the pool was used, if there was one
        """
        latencies = self.latencies
        elapsed = self.elapsed
        latency = {f"p{percent:g}": latencies.percentile(percent) for percent in PERCENTILES}
        return Point(
            pool=pool,
            elapsed=elapsed,
            answered=latencies.count,
            throughput=self._in_time / elapsed,
            noise=self._slices.noise(elapsed),
            latency={**latency, "max": latencies.longest},
            histogram=latencies.histogram(_BARS),
            waiting=self._waited / latencies.total if latencies.total else 0.0,
            sent=self._sent / elapsed,
            received=self._received / elapsed,
            missed=self._pace.missed(),
            errors=dict(self.errors),
            shares=() if self.spread is None else self.spread.shares(),
        )


class Requests:
    """What a server is asked, with a pool or without.

    :param framing: how it is sent
    :param payload: what is sent
    :param timeout: limit for one request, connecting included, in seconds
    """

    def __init__(self, framing: Framing, payload: Payload, timeout: float) -> None:
        self._framing = framing
        self._payload = payload
        self._timeout = timeout

    @property
    def greet(self) -> Greet | None:
        """What receives the greeting of a pool's new connection, if the server greets."""
        return self._framing.skip_greeting if self._framing.greeting else None

    def through(self, pool: ConnectionPool, *, shared: bool = False) -> Ask:
        """Return what asks over a connection of a pool.

        :param shared: whether the connection is shared, so that nobody waits for one of his own
        """

        async def ask() -> Answer:
            return await pool.run(self._exchange, timeout=self._timeout)

        async def share() -> Answer:
            asked_at = perf_counter()
            message = self._payload.make()
            reply = await self._framing.exchange(pool, message, self._timeout)
            return Answer(asked_at, perf_counter(), len(message), len(reply))

        return share if shared else ask

    def spread_through(self, pool: ConnectionPool, spread: Spread, *, shared: bool = False) -> Ask:
        """Return what asks over a connection of a pool to several servers, and notes to which.

        :param spread: where to note it
        :param shared: see :meth:`through`
        """

        async def ask(visit: Visit) -> Answer:
            async def exchange(connection: PooledConnection) -> Answer:
                visit.remote = connection.remote
                return await self._exchange(connection)

            return await pool.run(exchange, timeout=self._timeout)

        async def share(visit: Visit) -> Answer:
            async def read(connection: PooledConnection) -> bytes:
                visit.remote = connection.remote
                return await self._framing.receive_reply(connection, message)

            asked_at = perf_counter()
            message = self._payload.make()
            reply = await pool.exchange(self._framing.pack(message), read, timeout=self._timeout)
            return Answer(asked_at, perf_counter(), len(message), len(reply))

        return spread.counting(share if shared else ask)

    def without_pool(self, connectable: ByteStreamConnectable) -> Ask:
        """Return what connects, asks and closes."""
        return lambda: self._ask_once(connectable.connect)

    def spread_without_pool(
        self, connect: Callable[[Visit], Awaitable[ByteStream]], spread: Spread
    ) -> Ask:
        """Return what connects to one of several servers, asks and closes, and notes which it is.

        :param connect: connects, and notes to which
        :param spread: where to note it
        """
        return spread.counting(lambda visit: self._ask_once(partial(connect, visit)))

    async def _ask_once(self, connect: Callable[[], Awaitable[ByteStream]]) -> Answer:
        with fail_after(self._timeout):
            stream = await connect()
            async with FramedStream(stream, max_line_bytes=MAX_LINE_BYTES) as framed:
                await self._framing.skip_greeting(framed)
                return await self._exchange(framed)

    async def try_once(self, target: Target) -> None:
        """Make one request without a pool.

        Before that, the server must be silent: what it says would be taken for the reply.

        :raises CommandError: if it fails; the text says what may be wrong with the command
        """
        attempt = Attempt(self._framing)
        try:
            with fail_after(self._timeout) as limit:
                began_at = perf_counter()
                stream = await target.connectable().connect()
                # A greeting is under way for as long as it took to connect, at most.
                silence = min(_LONGEST_SILENCE, max(_SILENCE, 2 * (perf_counter() - began_at)))
                async with FramedStream(stream, max_line_bytes=MAX_LINE_BYTES) as framed:
                    if self._framing.greeting:
                        await attempt.receive_greeting(framed)
                    limit.deadline += silence
                    if unasked := await attempt.listen(framed, silence):
                        raise CommandError(f"{target}: {unasked}")
                    await attempt.exchange(framed, self._payload.make())
        except EXCHANGE_ERRORS as error:
            raise CommandError(await attempt.explain(target, error)) from error

    async def _exchange(self, stream: FramedStream) -> Answer:
        connected_at = perf_counter()
        message = self._payload.make()
        reply = await self._framing.exchange(stream, message)
        return Answer(connected_at, perf_counter(), len(message), len(reply))


async def ask_from_many(meter: Meter, ask: Ask, tasks: int) -> None:
    """Ask from a number of tasks until the meter's time is over, or its requests are used up."""
    async with create_task_group() as asking:
        for _ in range(tasks):
            asking.start_soon(meter.keep_asking, ask)
    meter.stop()


async def open_beforehand(pool: ConnectionPool, count: int, timeout: float) -> None:
    """Let a pool open connections, so that they are there when the measurement begins.

    What fails here fails again, and is counted, when it is measured.

    :param timeout: how long to wait at most, in seconds
    """
    missing = count
    all_there = Event()

    def arrive() -> None:
        nonlocal missing
        missing -= 1
        if not missing:
            all_there.set()

    async def borrow() -> None:
        try:
            async with pool.acquire(timeout=timeout):
                arrive()
                await all_there.wait()
        except EXCHANGE_ERRORS:
            arrive()

    async with create_task_group() as borrowers:
        for _ in range(count):
            borrowers.start_soon(borrow)


def use_since(before: PoolStatistics, now: PoolStatistics) -> PoolUse:
    """Return how a pool was used since a moment."""
    acquired = now.acquired - before.acquired
    closed = {why: count - before.closed.get(why, 0) for why, count in now.closed.items()}
    return PoolUse(
        max_size=int(now.max_size),
        opened=now.opened - before.opened,
        reused=(now.reused - before.reused) / acquired if acquired else 0.0,
        closed={why: count for why, count in closed.items() if count},
    )
