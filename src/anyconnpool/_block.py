"""The life of a pool from the first line of its ``async with`` block to the last socket closed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

from anyio import CapacityLimiter, Event, create_task_group, move_on_after
from anyio.abc import ByteStreamConnectable, TaskGroup

from anyconnpool._connector import Connector
from anyconnpool._entry import Entry, State
from anyconnpool._housekeeper import Housekeeper
from anyconnpool._ledger import Ledger
from anyconnpool._lender import Lender
from anyconnpool._runtime import Runtime
from anyconnpool._settings import Settings
from anyconnpool._transport import Transport, force_close, inspect
from anyconnpool._workers import Workers


class Block:
    """Run one pool once.

    :param settings: the pool's settings
    :param connectable: what it connects to
    """

    def __init__(self, settings: Settings, connectable: ByteStreamConnectable) -> None:
        self._settings = settings
        self._runtime = Runtime(settings.name)
        self._slots = CapacityLimiter(settings.max_size)
        self.ledger: Ledger[Transport] = Ledger(settings, self._slots, inspect)
        self._connector = Connector(connectable, settings.name, settings.connect_timeout)

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[Lender]:
        """Lend connections until the body ends, then close everything.

        What the body raises leaves as the same object: it is kept out of the task groups, which
        would wrap it, and errors of the clean-up don't replace it.
        """
        body_error: BaseException | None = None
        try:
            async with create_task_group() as closers, self._work(closers) as lender:
                try:
                    yield lender
                except BaseException as error:
                    body_error = error
                    if not isinstance(error, Exception):
                        # Cancelled or interrupted: nobody gets any grace.
                        closers.cancel_scope.cancel()
        except BaseException:
            if body_error is None:
                raise
        finally:
            await self._close_left_over()
        if body_error is not None:
            try:
                raise body_error
            finally:
                body_error = None

    @asynccontextmanager
    async def _work(self, closers: TaskGroup) -> AsyncGenerator[Lender]:
        """Open and keep house while the block lasts; afterwards, borrowers get some grace."""
        settings, runtime = self._settings, self._runtime
        tasks = create_task_group()
        workers = Workers(
            self.ledger, self._connector, runtime.now, settings.close_timeout, tasks, closers
        )
        lender = Lender(settings, self.ledger, workers, runtime)
        housekeeper = Housekeeper(settings, self.ledger, workers, runtime)
        drained = Event()
        try:
            async with tasks:
                tasks.start_soon(housekeeper.run)
                yield lender
                lender.end(drained.set)
                tasks.cancel_scope.cancel()
            with move_on_after(settings.close_timeout):
                await drained.wait()
        finally:
            # Reached at once if the block was cancelled.
            for entry in self._held():
                self.ledger.seize(entry)
            workers.carry_out()

    async def _close_left_over(self) -> None:
        """Close what a native cancellation of the closing tasks has left open."""
        for entry in self._held():
            if entry.state is State.CLOSING:
                await force_close(entry.link.stream)
                self.ledger.closed(entry)

    def _held(self) -> tuple[Entry[Transport], ...]:
        return cast("tuple[Entry[Transport], ...]", self._slots.statistics().borrowers)
