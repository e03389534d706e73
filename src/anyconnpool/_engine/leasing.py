"""Lend the connections of a running pool: at once, or in turn, and take them back.

Nothing that gives back awaits, so that neither a cancelled scope nor a native ``task.cancel()``,
which pierces shields, can come in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from anyio import move_on_after
from anyio.lowlevel import checkpoint

from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._core.states import PoolEntry, Waiter
from anyconnpool._engine.connection import AcquireContext, PooledConnection
from anyconnpool._engine.event_loop import HomeLoop
from anyconnpool._engine.leaks import BorrowCounts
from anyconnpool._engine.tasks import ConnectionTasks
from anyconnpool._exceptions import AcquireTimeout, PoolClosed, PoolFull
from anyconnpool._observing import tell
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason
from anyconnpool._streams.framed import FrameDefaults
from anyconnpool._streams.transport import Transport
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool.events import ExchangeReplayed

# Acquires without waiting before the others get a turn, less one: a loop that does nothing else
# would starve them, and could not be cancelled.
_TURN_MASK = 63


class Lender:
    """Lend and take back, from the entering of a pool to its end.

    :param settings: the pool's settings
    :param machine: decides
    :param connection_tasks: carry out what it actions
    :param home: the event loop of the pool
    :param held: returns the connections that aren't idle
    """

    def __init__(
        self,
        settings: Settings,
        machine: PoolStateMachine[Transport],
        connection_tasks: ConnectionTasks,
        home: HomeLoop,
        held: Callable[[], Iterable[PoolEntry[Transport]]],
    ) -> None:
        self.settings = settings
        self.frame_defaults = FrameDefaults(settings.package_format, settings.max_line_bytes)
        self.now = home.now
        self._machine = machine
        self._connection_tasks = connection_tasks
        self._check_place = home.check
        self._new_signal = home.new_signal
        self._checkpoint_if_cancelled = home.checkpoint_if_cancelled
        self._current_task = home.current_task
        self._borrow_counts = BorrowCounts(held)
        self._turns = 0
        #: whether the pool's block has not ended yet
        self.running = True

    @defer_interrupts
    async def lend(self, timeout: float, context: AcquireContext | None = None) -> PooledConnection:
        """Borrow an idle connection, or wait for one.

        :param timeout: limit in seconds
        :param context: what is to give it back
        """
        # What check() does, without a call for it.
        if not self.running:
            raise self._closed_error()
        self._check_place()
        # Nothing is owned yet: a cancellation here leaves nothing behind.
        await self._checkpoint_if_cancelled()
        entry = self._machine.checkout(self.now())
        if self._machine.actions:
            self._connection_tasks.run_actions()
        self._turns += 1
        if entry is None:
            entry = await self._wait_for_entry(timeout)
        elif not self._turns & _TURN_MASK:
            # Only now: whoever asks meanwhile must not overtake.
            await self._pause_holding(entry)
        entry.borrower = self._current_task()
        connection = PooledConnection(self, entry)
        if context is not None:
            context.connection = connection
        return connection

    @defer_interrupts
    def lend_nowait(self) -> PooledConnection:
        """Borrow an idle connection.

        :raises PoolFull: if there is none
        """
        self.check()
        entry = self._machine.checkout(self.now())
        self._connection_tasks.run_actions()
        if entry is None:
            raise PoolFull(self._machine.statistics(), "has no idle connection to lend at once")
        entry.borrower = self._current_task()
        return PooledConnection(self, entry)

    @defer_interrupts
    def take_back(
        self, entry: PoolEntry[Transport], reason: CloseReason | None, unsure: bool
    ) -> None:
        """Take a connection back; with a reason, to close it."""
        entry.borrower = None
        self._machine.release(entry, self.now(), reason, unsure)
        if self._machine.actions:
            self._connection_tasks.run_actions()

    @defer_interrupts
    def let_go(self, entry: PoolEntry[Transport]) -> bool:
        """Give a connection away for good; false if it has been closed already."""
        entry.borrower = None
        mine = self._machine.detach(entry)
        self._connection_tasks.run_actions()
        return mine

    @defer_interrupts
    def seize(self, entry: PoolEntry[Transport]) -> None:
        """Close a connection under its borrower's hands; nothing if nobody has borrowed it."""
        self._machine.seize(entry)
        self._connection_tasks.run_actions()

    @defer_interrupts
    async def wait_ready(self) -> None:
        """Wait until ``min_idle`` connections are idle, or raise why they can't be opened."""
        await checkpoint()
        self.check()
        signal = self._new_signal()
        watcher: Waiter[Transport] = Waiter(signal.set)
        self._machine.watch(watcher)
        self._machine.refill()
        self._connection_tasks.run_actions()
        try:
            await signal.wait()
        finally:
            self._machine.unwatch(watcher)
        if watcher.error is not None:
            raise watcher.error

    def count_replay(self, error: Exception) -> None:
        """Count an exchange that is repeated.

        :param error: what went wrong
        """
        self._machine.replayed += 1
        tell(self.settings.observers, ExchangeReplayed(self.settings.name, error))

    @defer_interrupts
    def retire(self) -> None:
        """Replace every present connection when it next comes back."""
        self.check()
        self._machine.retire()
        self._connection_tasks.run_actions()

    @defer_interrupts
    def resize(self, max_size: float) -> None:
        """Change the most connections."""
        self.check()
        self._machine.resize(max_size)
        self._connection_tasks.run_actions()

    @defer_interrupts
    def end(self, drained: Callable[[], object]) -> None:
        """Refuse everybody from now on, and close what is idle.

        :param drained: called when nothing is borrowed any more
        """
        self.running = False
        self._machine.shut(self._closed_error, drained)
        self._connection_tasks.run_actions()

    def check(self) -> None:
        """Refuse use after the end, or in another event loop than the pool's.

        :raises PoolClosed: after the end
        :raises PoolError: in another event loop or thread
        """
        if not self.running:
            raise self._closed_error()
        self._check_place()

    def _closed_error(self) -> PoolClosed:
        return PoolClosed(self.settings.name, "has been left: its async with block has ended")

    async def _pause_holding(self, entry: PoolEntry[Transport]) -> None:
        """Give the other tasks a turn; cancelled, give back what nobody has used."""
        try:
            await checkpoint()
        except BaseException:
            self._machine.release(entry, self.now(), None)
            self._connection_tasks.run_actions()
            raise

    async def _wait_for_entry(self, timeout: float) -> PoolEntry[Transport]:
        signal = self._new_signal()
        waiter: Waiter[Transport] = Waiter(signal.set)
        if not self._machine.join(waiter):
            raise PoolFull(
                self._machine.statistics(),
                "is in full use, and as many tasks as max_waiting allows wait already",
            )
        if self._machine.actions:
            self._connection_tasks.run_actions()
        try:
            if timeout == math.inf:
                await signal.wait()
            else:
                with move_on_after(timeout):
                    await signal.wait()
        except BaseException:
            # What was granted in this very moment goes to the next in line.
            self._machine.cancelled += 1
            self._abandon(waiter)
            raise
        if waiter.entry is None:
            raise self._failure(waiter, timeout)
        return waiter.entry

    def _failure(self, waiter: Waiter[Transport], timeout: float) -> Exception:
        if waiter.error is not None:
            return waiter.error
        self._machine.timed_out += 1
        statistics = self._machine.statistics()
        held = self._borrow_counts.of(self._current_task(), statistics)
        error = AcquireTimeout(timeout, statistics, self._machine.last_connect_error, held)
        self._abandon(waiter)
        return error

    def _abandon(self, waiter: Waiter[Transport]) -> None:
        self._machine.abandon(waiter, self.now())
        self._connection_tasks.run_actions()
