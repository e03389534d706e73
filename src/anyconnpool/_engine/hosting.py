"""Blocks of pools and managers that no ``async with`` of the caller's encloses.

A block has to be entered and left in one task. Where the code that begins and the code that ends
can't be in one task (a notebook's cells, hooks of frameworks, fixtures), another task runs it
until ``aclose()``: one of the caller's (``serve``), or on asyncio one that is made for it
(``open``). That one is the only task that is spawned outside a pool's own task group. No scope ends
it, so this module also ends the block of a pool that was forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import TypeVar

from anyio import CancelScope, Event
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from anyconnpool._engine.event_loop import HomeLoop
from anyconnpool._exceptions import PoolClosed
from anyconnpool._util.interrupts import defer_interrupts

OwnerT = TypeVar("OwnerT")

# asyncio itself refers to its tasks weakly, and so may everybody else when the pool has gone.
_tasks: set[asyncio.Task[None]] = set()


class HostedBlock:
    """One block that a task runs until it is told to end.

    :param name: the pool's name in errors
    """

    __slots__ = ("closed", "closing", "ended", "home", "task")

    def __init__(self, name: str) -> None:
        self.home = HomeLoop(name, hosted=True)
        #: set when the block is to end
        self.closing = Event()
        #: set when it has ended
        self.ended = Event()
        #: the task of its own, with ``open``
        self.task: asyncio.Task[None] | None = None
        #: whether ``aclose()`` was called
        self.closed = False

    def task_done(self, task: asyncio.Task[None]) -> None:
        """Note that the block's own task has ended."""
        _tasks.discard(task)
        self.ended.set()


class BlockHost:
    """Run the block of one pool or manager in a task, and see that there is one at a time.

    It doesn't refer to the pool, and neither does the task of ``open``: a pool that was forgotten
    goes away like any object, and its block is told to end then.

    :param name: the pool's name in errors
    """

    __slots__ = ("_block", "_entering", "_name", "_occupied")

    def __init__(self, name: str) -> None:
        self._name = name
        self._occupied = False
        self._block: HostedBlock | None = None
        # Between entering a block here and its call of occupy().
        self._entering: HostedBlock | None = None

    @contextmanager
    def occupy(self) -> Generator[bool]:
        """Be the only block until it has ended: every block, however it is run, begins with this.

        :return: a context manager; its value tells whether a task of ``serve`` or ``open`` runs it
        :raises RuntimeError: if the pool is open already
        """
        block, self._entering = self._entering, None
        self._check_free()
        self._occupied = True
        self._block = block
        try:
            yield block is not None
        finally:
            self._occupied = False

    @defer_interrupts
    async def serve(
        self, context: AbstractAsyncContextManager[OwnerT], task_status: TaskStatus[OwnerT]
    ) -> None:
        """Run the block in this task until ``aclose()`` or a cancellation.

        :param context: the block
        :param task_status: gets what the block yields
        :raises RuntimeError: if the pool is open already
        """
        block = HostedBlock(self._name)
        try:
            await self._run(context, block, task_status.started)
        finally:
            block.ended.set()

    async def open(self, context: AbstractAsyncContextManager[object]) -> None:
        """Run the block in a task of its own until ``aclose()``, on asyncio only.

        :param context: the block; nothing keeps what it yields
        :raises RuntimeError: if the pool is open already, or the event loop is trio's
        """
        self._check_free()
        # Cancelled here, nothing has begun.
        await checkpoint()
        block = HostedBlock(self._name)
        if not block.home.on_asyncio:
            raise RuntimeError(
                'open() works on asyncio only: use "await task_group.start(pool.serve)", in a task '
                "group that lives as long as the pool"
            )
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        block.task = task = asyncio.create_task(  # noqa: TID251 (see above: the one exception)
            self._run(context, block, lambda _: started.set_result(None)),
            name=f"pool {self._name!r}",
        )
        _tasks.add(task)
        task.add_done_callback(block.task_done)
        try:
            await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            # Nobody has the pool yet, who could close it.
            await self._undo(task)
            raise
        if not started.done():
            if task.cancelled():
                raise PoolClosed(self._name, "was cancelled while it was opened")
            task.result()

    async def aclose(self) -> None:
        """End the block, and wait until it has ended.

        :raises RuntimeError: if no task runs the block, or has run it last
        :raises PoolError: in another event loop
        """
        block = self._block
        if block is None:
            raise RuntimeError(
                f"pool {self._name!r} was not opened: aclose() ends what open() or serve() has "
                "begun, whereas an async with block and a manager close their pools themselves"
            )
        block.home.check()
        block.closing.set()
        # Cancelled here, the block ends all the same.
        await block.ended.wait()
        task = block.task
        if task is not None and not block.closed and not task.cancelled():
            block.closed = True
            task.result()
        block.closed = True

    def abandon(self) -> bool:
        """End a block that ``open`` has begun and that nobody can end any more: for finalizers.

        :return: whether there is such a block, also if a cancellation has ended it before
        """
        block = self._block
        if block is None or block.task is None or block.closing.is_set():
            return False
        if not block.task.done() and not block.home.call_soon(block.closing.set):
            # Its event loop is closed: nothing can end it any more, and nothing should keep it.
            _tasks.discard(block.task)
        return True

    def _check_free(self) -> None:
        if self._occupied:
            raise RuntimeError(
                f"pool {self._name!r} is open already: it can be opened or entered again when its "
                "block has ended"
            )

    @defer_interrupts
    async def _run(
        self,
        context: AbstractAsyncContextManager[OwnerT],
        block: HostedBlock,
        started: Callable[[OwnerT], object],
    ) -> None:
        self._entering = block
        try:
            async with context as owner:
                started(owner)
                del owner
                await block.closing.wait()
        finally:
            # What a subclass has added may have failed before occupy().
            if self._entering is block:
                self._entering = None

    async def _undo(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        # Shielded, since a cancelled scope would interrupt the wait at every turn.
        with CancelScope(shield=True):
            while not task.done():
                # A further native cancellation changes nothing: one is raised in any case.
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # what it failed with is not "never retrieved"
        self._block = None
