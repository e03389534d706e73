"""Acquire the connections of a running pool, at once or in turn, and release them.

Nothing that releases awaits, so that neither a cancelled scope nor a native ``task.cancel()``,
which pierces shields, can come in between.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol, TypeVar

from anyio import ConnectionFailed, move_on_after
from anyio.lowlevel import checkpoint

from anyconnpool._core.health import Replica
from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import PoolEntry, State, Waiter
from anyconnpool._engine.connection import (
    AcquireContext,
    PooledConnection,
    continue_exchange,
    describe,
    entry_of,
    has_failed,
    is_open,
    revoke,
)
from anyconnpool._engine.describing import describe_pool, hook_of
from anyconnpool._engine.event_loop import HomeLoop
from anyconnpool._engine.leaks import BlockBorrows, BorrowCounts, SelfWaits, UnansweredSends
from anyconnpool._engine.reading import ReplyConnection
from anyconnpool._engine.replay import Attempt
from anyconnpool._engine.replicas import acquire_elsewhere, join, note_answer, note_failure
from anyconnpool._engine.tasks import ConnectionTasks
from anyconnpool._engine.time_limits import TimeLimit, TimeLimits
from anyconnpool._exceptions import FULL_AND_AWAITED, AcquireTimeout, PoolClosed, PoolFull
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason, ConnectionInfo, PoolStatistics
from anyconnpool._streams.exchanges import Exchange
from anyconnpool._streams.transport import Transport
from anyconnpool._util.deadline import Deadline, describe_timeout
from anyconnpool._util.errors import copy_for_caller
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.log import describe_with_cause
from anyconnpool.events import (
    ExchangeReplayed,
    notify,
)

# Acquires without waiting before the others get a turn, less one: a loop that does nothing else
# would starve them, and could not be cancelled.
_TURN_MASK = 63

T = TypeVar("T")


class Pipelining(Protocol):
    """Exchanges that share connections."""

    async def exchange(
        self, exchange: Exchange[T], timeout: float, acquire_timeout: float, attempt: Attempt | None
    ) -> T:
        """Do an exchange; see :meth:`Leasing.exchange`."""
        ...


class Leasing:
    """Acquire and release, from the entering of a pool to its end.

    :param settings: the pool's settings
    :param machine: decides
    :param connection_tasks: the tasks that connections need
    :param home: the event loop of the pool
    :param time_limits: interrupts exchanges that take too long
    :param held: returns the pool's connections
    """

    def __init__(
        self,
        settings: Settings,
        machine: PoolStateMachine[Transport],
        connection_tasks: ConnectionTasks,
        home: HomeLoop,
        time_limits: TimeLimits,
        held: Callable[[], Iterable[PoolEntry[Transport]]],
    ) -> None:
        self.settings = settings
        self.now = home.now
        self._machine = machine
        self._connection_tasks = connection_tasks
        self._time_limits = time_limits
        self.check_home = home.check
        self._home = home
        self._where = home.where
        self._farewell = home.farewell
        self._new_signal = home.new_signal
        self._checkpoint_if_cancelled = home.checkpoint_if_cancelled
        self._current_task = home.current_task
        self._held = held
        self._borrow_counts = BorrowCounts(held)
        self._unanswered = UnansweredSends(settings.name)
        self._self_waits = SelfWaits(settings.name, self._borrow_counts, home)
        #: what the tasks have borrowed from all pools of the block
        self.block_borrows: BlockBorrows | None = None
        self._turns = 0
        #: does the exchanges that share connections; None in a pool that doesn't pipeline
        self.pipelines: Pipelining | None = None
        #: whether the pool's block has not ended yet
        self.running = True

    @defer_interrupts
    async def acquire(
        self,
        timeout: float,
        context: AcquireContext[Any] | None = None,
        kind: type[PooledConnection[Any]] = PooledConnection,
        avoided: Collection[Replica] = (),
    ) -> PooledConnection[Any]:
        """Acquire an idle connection, or wait for one.

        :param timeout: limit in seconds
        :param context: the context that will release it, if it is entered
        :param kind: what to make for the borrower
        :param avoided: replicas to be taken only if there is no other one
        """
        # What check() does, without a call for it.
        if not self.running:
            raise self.closed_error()
        if self._where() is not self._home.token:
            self.check_home()
        # Nothing is owned yet: a cancellation here leaves nothing behind.
        await self._checkpoint_if_cancelled()
        if avoided:
            entry = acquire_elsewhere(self._machine, avoided, self.now())
        else:
            entry = self._machine.acquire(self.now())
        self._turns += 1
        if entry is None:
            entry = await self._wait_for_entry(timeout, avoided)
        else:
            if not self._turns & _TURN_MASK:
                # Only now: whoever asks meanwhile must not overtake.
                await self._pause_holding(entry)
            entry.borrower = self._current_task()
        connection = kind(self, entry)
        if context is not None:
            context.connection = connection
        return connection

    @defer_interrupts
    def acquire_nowait(self) -> PooledConnection[Any]:
        """Acquire an idle connection.

        :raises PoolFull: if there is none
        """
        if not self.running:
            raise self.closed_error()
        self.check_home()
        entry = self._machine.acquire(self.now())
        if entry is None:
            raise PoolFull(self.statistics(), "has no idle connection; acquire() waits for one")
        entry.borrower = self._current_task()
        return PooledConnection(self, entry)

    @defer_interrupts
    async def exchange(
        self, exchange: Exchange[T], timeout: float, acquire_timeout: float, attempt: Attempt | None
    ) -> T:
        """Acquire a connection, do an exchange on it, release it.

        This is the short way, which nearly every exchange takes: an idle connection, one send, one
        chunk that is the whole reply. No object stands for the borrow, since each call costs twice
        as much after a system call as it does in a loop. Whatever else happens leaves for the
        general way.

        :param exchange: what to send and to receive
        :param timeout: limit for all of it, in seconds
        :param acquire_timeout: limit for acquiring the connection, in seconds
        :param attempt: where to note how far it has come, should it fail
        """
        # What check() does, without a call for it.
        if not self.running or self._where() is not self._home.token:
            self.check()
        # Nothing is owned yet: a cancellation here leaves nothing behind.
        await self._checkpoint_if_cancelled()
        quickly = exchange.finds_replies and (attempt is None or not attempt.avoided)
        if not quickly or (entry := self._machine.acquire(self.now())) is None:
            return await self._exchange_in_turn(
                exchange, timeout, acquire_timeout, attempt, asked=quickly
            )
        entry.borrower = self._current_task()
        if (stream := entry.transport.own) is None or entry.transport.early:
            connection: PooledConnection[Any] = PooledConnection(self, entry)
            return await self._exchange_on(connection, exchange, Deadline(timeout), attempt)
        limit = None
        if timeout != math.inf:
            limit = self._time_limits.begin(stream, timeout, exchange)
        try:
            await stream.send_at_once(exchange.request)
            chunk = await stream.receive()
        except BaseException as error:
            # Failed or cancelled, by a scope or natively: what was sent can't be known.
            self._give_up(entry, limit, attempt, error)
            raise
        if entry.replica is not None and entry.replica.failures:
            note_answer(self._machine.replicas, entry, self.now())
        found = exchange.take(chunk, 0)
        if found is None or found[1] != len(chunk):
            connection = continue_exchange(self, entry, chunk)
            # Kept here, the chunk would be kept until the rest has come.
            del chunk
            return await self._receive_rest(connection, exchange, limit, attempt)
        if limit is not None:
            self._time_limits.end(limit)
        entry.borrower = None
        self._machine.release(entry, self.now(), None)
        return found[0]

    def _give_up(
        self,
        entry: PoolEntry[Transport],
        limit: TimeLimit | None,
        attempt: Attempt | None,
        error: BaseException,
    ) -> None:
        """End an exchange that has failed before anything of its reply was received."""
        note_failure(self._machine.replicas, entry, error, self.now())
        if attempt is not None:
            attempt.replica = entry.replica
            attempt.connection_failed = attempt.has_sent = True
            attempt.reused = entry.borrows > 1
        if limit is not None:
            self._time_limits.end(limit)
        self.release(entry, CloseReason.UNCLEAN)

    async def _receive_rest(
        self,
        connection: PooledConnection[Any],
        exchange: Exchange[T],
        limit: TimeLimit | None,
        attempt: Attempt | None,
    ) -> T:
        """Go on with an exchange whose reply has come in part, or with more than the reply."""
        if limit is not None:
            limit.connection = connection
        try:
            async with connection:
                return await exchange.receive(connection)
        except BaseException:
            if attempt is not None:
                attempt.note(connection)
            raise
        finally:
            if limit is not None:
                self._time_limits.end(limit)

    async def _exchange_in_turn(
        self,
        exchange: Exchange[T],
        timeout: float,
        acquire_timeout: float,
        attempt: Attempt | None,
        asked: bool = False,
    ) -> T:
        """Do an exchange on a connection that may have to be waited for.

        :param asked: whether nothing idle is to be had: to ask again could have another connection
            checked for the same request
        """
        deadline = Deadline(timeout)
        acquire_timeout = min(timeout, acquire_timeout)
        if asked:
            self._turns += 1
            entry = await self._wait_for_entry(acquire_timeout)
            connection = PooledConnection(self, entry)
        else:
            kind = PooledConnection if exchange.read is None else ReplyConnection
            avoided = () if attempt is None else attempt.avoided
            connection = await self.acquire(acquire_timeout, None, kind, avoided)
        return await self._exchange_on(connection, exchange, deadline, attempt)

    async def _exchange_on(
        self,
        connection: PooledConnection[Any],
        exchange: Exchange[T],
        deadline: Deadline,
        attempt: Attempt | None,
    ) -> T:
        """Do an exchange on a connection that was acquired for it."""

        def describe() -> str:
            subject = f"no reply from pool {self.settings.name!r}"
            size, received = len(exchange.request), connection.bytes_received
            return describe_timeout(subject, deadline.seconds, size, received, exchange.lacks)

        try:
            # Given back within the limit: what was cut short by it is never harmless.
            with deadline.limit(describe):
                async with connection:
                    await connection.send(exchange.request)
                    return await exchange.receive(connection)
        except BaseException as error:
            # What the limit cuts short looked like a cancellation when it was given back.
            self.note_end(connection, error)
            if attempt is not None:
                attempt.note(connection)
            raise

    @defer_interrupts
    def release(self, entry: PoolEntry[Transport], reason: CloseReason | None) -> None:
        """Take a connection back; with a reason, to close it.

        :raises PoolError: in another event loop or thread: nothing has changed then
        """
        # What check_home() does, without a call for it.
        if self._where() is not self._home.token:
            self.check_home()
        entry.borrower = entry.connection = None
        self._machine.release(entry, self.now(), reason)

    @defer_interrupts
    def detach(self, entry: PoolEntry[Transport]) -> bool:
        """Take a connection out of the pool for good; false if it has been closed already."""
        entry.borrower = entry.connection = None
        if entry.lane is not None:
            entry.lane.stop()
        return self._machine.detach(entry, self.now())

    @defer_interrupts
    def seize(self, entry: PoolEntry[Transport]) -> None:
        """Close a connection that somebody still holds; do nothing if nobody does.

        Whatever its borrower has under way on it, or goes on to do, raises :exc:`PoolClosed`.
        """
        if entry.state is State.IN_USE:
            revoke(entry, self._seized_error)
        self._machine.seize(entry, self.now())

    @defer_interrupts
    async def wait_ready(self) -> None:
        """Wait until ``min_idle`` connections are idle, or raise why they can't be opened."""
        self.check()
        signal = self._new_signal()
        watcher: Waiter[Transport] = Waiter(signal.set)
        self._machine.watch(watcher, self.now())
        self._machine.refill(self.now())
        try:
            await signal.wait()
        finally:
            self._machine.unwatch(watcher)
        if watcher.error is not None:
            raise self.error_of(watcher)

    def note_unanswered(self) -> None:
        """Take note that a connection will be closed because a reply may follow its last send."""
        self._unanswered.note(self.statistics())

    def note_end(self, connection: PooledConnection[Any], error: BaseException | None) -> None:
        """Take note of how a borrow has ended of a connection to one of several replicas.

        :param error: what its borrower has raised
        """
        entry, now = entry_of(connection), self.now()
        if has_failed(connection) and not connection.bytes_received:
            note_failure(self._machine.replicas, entry, error, now)
        elif connection.bytes_received or self.settings.one_way:
            note_answer(self._machine.replicas, entry, now)

    def warn_of_self_waits(self) -> None:
        """Log the tasks that have been waiting for connections that they hold themselves."""
        statistics = self.statistics()
        # Where there is room in this pool, the others of its manager use up what they share.
        others = statistics.size < statistics.max_size and not self._machine.supply.has_room()
        waiters = [*self._machine.line.waiters]
        self._self_waits.look(waiters, statistics, self.block_borrows if others else None)

    def count_replay(self, error: Exception) -> None:
        """Count an exchange that is repeated.

        :param error: the error that leads to the repeat
        """
        self._machine.totals.replayed += 1
        notify(self.settings.observers, ExchangeReplayed(self.settings.name, error))

    def statistics(self) -> PoolStatistics:
        """Return the pool's statistics, from any thread."""
        return self._machine.statistics(self.now)

    def describe(self, limit: float) -> str:
        """Say what the pool is doing, from any thread.

        :param limit: most connections, and most tasks that wait, to show
        """
        return describe_pool(self._machine, self._held, self._home, limit)

    def reset_peaks(self) -> None:
        """Begin the peaks of the statistics anew, from any thread."""
        self._machine.reset_peaks()

    def choose(
        self, where: Callable[[ConnectionInfo], object] | None
    ) -> list[PoolEntry[Transport]] | None:
        """Return the open connections that a function chooses, or None for all there are.

        :raises PoolClosed: after the end
        :raises Exception: what the function raises
        """
        self.check()
        if where is None:
            return None
        # As they are now: the function may do anything.
        found = [entry for entry in self._held() if is_open(entry)]
        return [entry for entry in found if where(describe(entry, self.now()))]

    @defer_interrupts
    def retire(self, chosen: Collection[PoolEntry[Transport]] | None, within: float) -> None:
        """Replace connections, those in use when they come back.

        :param chosen: which ones; None for all
        :param within: over how many seconds to spread the closing of idle ones
        """
        self.check()
        self._machine.retire(self.now(), chosen, within)

    @defer_interrupts
    def resize(self, max_size: float) -> None:
        """Change the maximum of connections."""
        self.check()
        self._machine.resize(max_size, self.now())

    @defer_interrupts
    def end(self, drained: Callable[[], object]) -> None:
        """Refuse everybody from now on, and close what is idle.

        :param drained: called when nothing is in use any more
        """
        self.running = False
        self._machine.end(self.closed_error, drained)

    def check(self) -> None:
        """Refuse use after the end, or in another event loop than the pool's.

        :raises PoolClosed: after the end
        :raises PoolError: in another event loop or thread
        """
        if not self.running:
            raise self.closed_error()
        self.check_home()

    def closed_error(self) -> PoolClosed:
        """Make the error of whoever asks for a connection after the end."""
        return PoolClosed(self.settings.name, self._farewell)

    def _seized_error(self) -> PoolClosed:
        return PoolClosed(
            self.settings.name,
            f"{self._farewell}, and this connection was closed, which was still borrowed",
        )

    async def _pause_holding(self, entry: PoolEntry[Transport]) -> None:
        """Give the other tasks a turn; cancelled, take back what nobody has used."""
        try:
            await checkpoint()
        except BaseException:
            self._machine.totals.cancelled += 1
            self._machine.take_back(entry, self.now())
            raise

    async def _wait_for_entry(
        self, timeout: float, avoided: Collection[Replica] = ()
    ) -> PoolEntry[Transport]:
        signal = self._new_signal()
        waiter: Waiter[Transport] = Waiter(signal.set)
        waiter.task = self._current_task()
        if avoided:
            joined = join(self._machine, waiter, avoided, self.now())
        else:
            joined = self._machine.join(waiter, self.now())
        if not joined:
            raise PoolFull(
                self.statistics(),
                FULL_AND_AWAITED,
            )
        if waiter.failing_since is not None:
            # It fails fast: a loop that does nothing but ask must not starve the attempts.
            if not self._turns & _TURN_MASK:
                await checkpoint()
            raise self.error_of(waiter)
        try:
            if timeout == math.inf:
                await signal.wait()
            else:
                with move_on_after(timeout):
                    await signal.wait()
        except BaseException:
            # What was granted in this very moment goes to the next in line.
            self._machine.totals.cancelled += 1
            self._machine.abandon(waiter, self.now())
            raise
        if waiter.entry is None:
            raise self._failure(waiter, timeout)
        waiter.entry.borrower = waiter.task
        return waiter.entry

    def _failure(self, waiter: Waiter[Transport], timeout: float) -> Exception:
        if waiter.error is not None:
            return self.error_of(waiter)
        error = self.note_timeout(waiter, timeout)
        self._machine.abandon(waiter, self.now())
        return error

    def note_timeout(self, waiter: Waiter[Transport], timeout: float) -> AcquireTimeout:
        """Count an acquire that is out of time, and return the error."""
        self._machine.totals.timed_out += 1
        statistics = self._machine.statistics(self.now)
        held = self._borrow_counts.of(waiter.task, statistics)
        under_way = self._machine.line.under_way() if statistics.connecting else ()
        hooks = Counter(filter(None, map(hook_of, under_way)))
        return AcquireTimeout(timeout, statistics, self._machine.supply.last_error, held, hooks)

    def error_of(self, waiter: Waiter[Transport]) -> Exception:
        """Return the error that a task was woken with, as an object of its own."""
        error = waiter.take_error()
        if waiter.failing_since is None:
            return copy_for_caller(error) if waiter.shares_error else error
        refusal = ConnectionFailed(
            f"pool {self.settings.name!r} refuses at once, since connecting has failed for "
            f"{self.now() - waiter.failing_since:.1f} s, the last time with "
            f"{describe_with_cause(error)}; it goes on trying by itself"
        )
        refusal.__cause__ = copy_for_caller(error)
        return refusal
