"""One pool per remote, and one maximum for all of them together."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast, overload
from weakref import WeakValueDictionary, ref

from anyio import TASK_STATUS_IGNORED, AsyncContextManagerMixin, current_time, sleep
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from anyconnpool._core.shared_limit import SharedLimit, SharedPoolStateMachine
from anyconnpool._engine.connection import AcquireContext, OnConnect, PooledConnection, SessionT_co
from anyconnpool._engine.hosting import BlockHost
from anyconnpool._engine.leasing import Leasing
from anyconnpool._engine.lifecycle import PoolLifecycle, RunningPool
from anyconnpool._exceptions import PoolClosed
from anyconnpool._formats import FrameFormat, PackageFormat
from anyconnpool._pool import ConnectionPool
from anyconnpool._remote import ByRemote, Endpoint, Remote, TLSOptions, make_endpoint
from anyconnpool._retry import Retry
from anyconnpool._settings import Hook, PoolOptions, Settings
from anyconnpool._statistics import ConnectionInfo, PoolStatistics
from anyconnpool._streams.transport import Transport
from anyconnpool._util.checks import check_count
from anyconnpool._util.functions import check_retirement, refuse_plain_with
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.log import warn_of_neglect

if TYPE_CHECKING:
    from typing_extensions import Self, TypeVarTuple, Unpack

    Args = TypeVarTuple("Args")

T = TypeVar("T")
DataT = TypeVar("DataT")
FrameT = TypeVar("FrameT")

_SWEEP_INTERVAL = 5.0
_SHORTEST_PAUSE = 0.01


class ManagedPool(ConnectionPool[SessionT_co]):
    """A pool that runs inside its manager's block, started whenever it is needed."""

    _start: Callable[[ManagedPool[Any]], RunningPool]

    #: what the pool connects to, in the form in which it was first given
    remote: Remote

    def start_with(self, start: Callable[[ManagedPool[Any]], RunningPool], remote: Remote) -> None:
        """Start now, and again whenever the manager has dropped the pool meanwhile."""
        self.remote = remote
        self._start = start
        self._use(start(self))

    def make(self, lifecycle: PoolLifecycle, shared_limit: SharedLimit[Transport]) -> RunningPool:
        """Start the parts of this pool.

        :param lifecycle: the block to run in
        :param shared_limit: what it shares with the other pools
        """
        make_machine = partial(SharedPoolStateMachine[Transport], shared_limit=shared_limit)
        return lifecycle.start(self._settings, self._target, make_machine)

    def _running_leasing(self) -> Leasing:
        leasing = super()._running_leasing()
        if not leasing.running:
            self._use(self._start(self))
            leasing = super()._running_leasing()
        return leasing

    def __del__(self) -> None:
        """Leave it to the manager to warn."""

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        raise RuntimeError(
            f"pool {self.name!r} lives in its manager's block: use it without entering it"
        )
        yield self


class PoolManager(AsyncContextManagerMixin, Generic[SessionT_co]):
    """Keep one :class:`ConnectionPool` per remote, with one maximum for all of them together.

    Enter the manager with ``async with``: all pools live in that block, and when the block ends
    every socket is closed. A pool is made when its remote is first used. A pool that has had no
    open connection for ``max_idle_time`` is dropped, and made again when it is next used. The
    manager's exchanges are those of a pool, with the remote as the first argument.

    When ``max_total`` is reached, the connection that has been idle longest in any pool is closed
    to make room, one for each that is needed. If none is idle, the callers of all remotes wait in
    one line: the next free slot goes to the task that has waited longest, whatever its remote.

    :param max_total: most sockets of all pools together (default: no limit)
    :param tls: whether to speak TLS to the remotes that are addresses
    :param ssl_context: the TLS settings, if they are not the secure defaults; the manager may
        clear an option of it, see :class:`ConnectionPool`
    :param tls_standard_compatible: whether the closing handshake of TLS is made and expected; see
        :class:`ConnectionPool`
    :param settings: the settings of every pool, except ``name``; see :class:`ConnectionPool`
    :raises TypeError: if a setting is of the wrong type
    :raises ValueError: if a setting makes no sense
    """

    @overload
    def __init__(
        self: PoolManager[None],
        *,
        max_total: float = math.inf,
        tls: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        tls_standard_compatible: bool = True,
        on_connect: None = None,
        **settings: Unpack[PoolOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        *,
        max_total: float = math.inf,
        tls: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        tls_standard_compatible: bool = True,
        on_connect: OnConnect[SessionT_co],
        **settings: Unpack[PoolOptions],
    ) -> None: ...

    def __init__(
        self,
        *,
        max_total: float = math.inf,
        tls: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        tls_standard_compatible: bool = True,
        on_connect: Hook | None = None,
        **settings: Unpack[PoolOptions],
    ) -> None:
        check_count("max_total", max_total, least=1)
        if "name" in settings:
            raise TypeError("a manager's pools are named after their remotes: leave name out")
        if "tls_hostname" in settings:
            raise TypeError(
                "a manager checks each certificate for the host of its remote: leave out "
                "tls_hostname"
            )
        checked = Settings.from_options({**settings, "name": "manager"}, on_connect)
        if checked.min_idle > max_total:
            raise ValueError(f"min_idle must not exceed max_total, {max_total}")
        # Whatever the remote: refuse wrong options now.
        endpoint = make_endpoint(("localhost", 1), tls, ssl_context, None, tls_standard_compatible)
        self._tls = endpoint.tls
        self._max_total = max_total
        # An iterator would serve the first pool only.
        self._settings: PoolOptions = {**settings, "observers": checked.observers}
        self._on_connect = on_connect
        self._close_timeout = checked.close_timeout
        self._max_idle_time = checked.max_idle_time
        self._pools: WeakValueDictionary[object, ManagedPool[SessionT_co]] = WeakValueDictionary()
        self._running: dict[ManagedPool[SessionT_co], RunningPool] = {}
        self._empty_since: dict[ManagedPool[SessionT_co], float] = {}
        self._lifecycle: PoolLifecycle | None = None
        self._shared_limit: SharedLimit[Transport] = SharedLimit(max_total)
        self._ended = False
        self._host = BlockHost("manager")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._running)} pools>"

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} can't be pickled or copied, because its connections can't: make a manager "
            f"in each process"
        )

    # Unseen by type checkers, which know better.
    if not TYPE_CHECKING:
        __enter__ = __exit__ = refuse_plain_with

    def __del__(self) -> None:
        if not hasattr(self, "_host"):
            return  # __init__ refused the settings
        if self._host.abandon():
            warn_of_neglect(self, "closed", "await its aclose()")
        elif self._lifecycle is None:
            warn_of_neglect(self, "entered")
        elif not self._ended:
            warn_of_neglect(self, "left")

    @defer_interrupts
    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        with self._host.occupy() as hosted:
            lifecycle = PoolLifecycle("manager", self._close_timeout, hosted=hosted)
            self._lifecycle = lifecycle
            self._ended = False
            # Neither this frame nor the sweep keeps the manager: one that was opened and forgotten
            # goes away.
            this: ref[PoolManager[Any]] = ref(self)
            handed_over = [self]
            del self
            try:
                async with lifecycle.run():
                    sweep = partial(PoolManager._drop_unused, this)
                    lifecycle.spawn("pool 'manager': dropping unused pools", sweep)
                    try:
                        yield handed_over.pop()
                    finally:
                        # Before the block ends its pools: none must be started after that.
                        if (manager := this()) is not None:
                            manager._ended = True
            finally:
                if (manager := this()) is not None:
                    manager._running.clear()
                    manager._empty_since.clear()

    @defer_interrupts
    async def serve(self, *, task_status: TaskStatus[Any] = TASK_STATUS_IGNORED) -> None:
        """Run the manager's block in this task; see :meth:`ConnectionPool.serve`.

        :param task_status: gets the manager as the start value
        """
        await self._host.serve(self.__asynccontextmanager__(), task_status)

    async def open(self) -> Self:
        """Run the manager's block in a task of its own; see :meth:`ConnectionPool.open`.

        :return: the manager
        """
        await self._host.open(self.__asynccontextmanager__())
        return self

    async def aclose(self) -> None:
        """End the block of :meth:`open` or :meth:`serve`; see :meth:`ConnectionPool.aclose`."""
        await self._host.aclose()

    @defer_interrupts
    def pool(self, remote: Remote) -> ConnectionPool[SessionT_co]:
        """Return the pool of a remote; it is made if there is none.

        :param remote: ``(host, port)``, the path of a UNIX socket, a :class:`Replicas`, or any
            other AnyIO connectable except a pool
        :return: the pool, which lives in the manager's block: use it without entering it
        :raises PoolClosed: outside the manager's block
        :raises TypeError: if the remote is of the wrong type
        :raises ValueError: if an address makes no sense, or the manager has TLS options, which
            would have no effect on a connectable
        """
        self._check()
        key = Endpoint.of(remote, self._tls).key
        pool = self._pools.get(key)
        if pool is None:
            tls = self._tls or TLSOptions()
            pool = ManagedPool(
                remote,
                tls=self._tls is not None,
                ssl_context=tls.ssl_context,
                tls_standard_compatible=tls.standard_compatible,
                on_connect=cast("OnConnect[SessionT_co]", self._on_connect),
                **self._settings,
            )
            pool.start_with(self._start, remote)
            self._pools[key] = pool
        return pool

    def acquire(
        self, remote: Remote, *, timeout: float | None = None
    ) -> AcquireContext[SessionT_co]:
        """Acquire a connection to a remote; see :meth:`ConnectionPool.acquire`.

        :param remote: see :meth:`pool`
        :param timeout: limit in seconds; by default ``acquire_timeout``
        """
        return self.pool(remote).acquire(timeout=timeout)

    async def run(
        self,
        remote: Remote,
        function: Callable[[PooledConnection[SessionT_co], Unpack[Args]], Awaitable[T]],
        *args: Unpack[Args],
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> T:
        """Acquire a connection and call a function with it; see :meth:`ConnectionPool.run`."""
        return await self.pool(remote).run(function, *args, timeout=timeout, retry=retry)

    async def exchange(
        self,
        remote: Remote,
        request: bytes | bytearray | memoryview,
        read: Callable[[PooledConnection[SessionT_co]], Awaitable[T]],
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> T:
        """Send a request, and have a function read the reply; see :meth:`ConnectionPool.exchange`.

        :return: what ``read`` returns
        """
        return await self.pool(remote).exchange(request, read, timeout=timeout, retry=retry)

    async def send(
        self,
        remote: Remote,
        item: bytes,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Send bytes; see :meth:`ConnectionPool.send`."""
        await self.pool(remote).send(item, timeout=timeout, retry=retry)

    async def send_line(
        self,
        remote: Remote,
        data: bytes,
        *,
        newline: bytes | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Send a line; see :meth:`ConnectionPool.send_line`."""
        await self.pool(remote).send_line(data, newline=newline, timeout=timeout, retry=retry)

    async def send_package(
        self,
        remote: Remote,
        data: bytes,
        format: PackageFormat | None = None,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Send a package; see :meth:`ConnectionPool.send_package`."""
        await self.pool(remote).send_package(data, format, timeout=timeout, retry=retry)

    async def send_receive(
        self,
        remote: Remote,
        data: bytes,
        nbytes: int | None = None,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> bytes:
        """Send bytes and receive the reply; see :meth:`ConnectionPool.send_receive`."""
        return await self.pool(remote).send_receive(data, nbytes, timeout=timeout, retry=retry)

    async def send_receive_line(
        self,
        remote: Remote,
        data: bytes,
        *,
        newline: bytes | None = None,
        max_bytes: int | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> bytes:
        """Send a line and receive one; see :meth:`ConnectionPool.send_receive_line`."""
        return await self.pool(remote).send_receive_line(
            data, newline=newline, max_bytes=max_bytes, timeout=timeout, retry=retry
        )

    async def send_receive_package(
        self,
        remote: Remote,
        data: bytes,
        format: PackageFormat | None = None,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> bytes:
        """Send a package and receive one; see :meth:`ConnectionPool.send_receive_package`."""
        return await self.pool(remote).send_receive_package(
            data, format, timeout=timeout, retry=retry
        )

    async def send_frame(
        self,
        remote: Remote,
        data: DataT,
        format: FrameFormat[DataT, Any],
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Send data in a frame; see :meth:`ConnectionPool.send_frame`."""
        await self.pool(remote).send_frame(data, format, timeout=timeout, retry=retry)

    async def send_receive_frame(
        self,
        remote: Remote,
        data: DataT,
        format: FrameFormat[DataT, FrameT],
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> FrameT:
        """Send a frame and receive one; see :meth:`ConnectionPool.send_receive_frame`."""
        pool = self.pool(remote)
        return await pool.send_receive_frame(data, format, timeout=timeout, retry=retry)

    def retire(
        self,
        *,
        where: Callable[[ConnectionInfo], object] | None = None,
        within: float = 0.0,
    ) -> None:
        """Replace present connections of all pools; see :meth:`ConnectionPool.retire`.

        It retires in all pools or, if ``where`` raises, in none. Each pool spreads the closing of
        its own idle connections over the time.

        :param where: chooses which ones
        :param within: over how many seconds to spread the closing of the idle ones
        :raises PoolClosed: outside the manager's block
        :raises TypeError: if ``where`` is not a plain function
        :raises ValueError: if ``within`` is negative or not finite
        """
        self._check()
        within = check_retirement(where, within)
        leasings = [running.leasing for running in self._running.values()]
        # Before anything changes.
        chosen = [leasing.choose(where) for leasing in leasings]
        for leasing, entries in zip(leasings, chosen, strict=True):
            leasing.retire(entries, within)

    def statistics(self) -> Mapping[Remote, PoolStatistics]:
        """Return the statistics of the running pools by their remotes, from any thread.

        A remote is found in whatever form it is written, as an address or as a connectable.
        """
        found = [(pool.remote, pool.statistics()) for pool in list(self._running)]
        return ByRemote(found, self._tls)

    def describe(self, *, limit: float = 100) -> str:
        """Say in words what the running pools are doing; see :meth:`ConnectionPool.describe`.

        :param limit: most connections, and most tasks that wait, to show of each pool
        :raises TypeError: if the limit is not a whole number or ``math.inf``
        :raises ValueError: if the limit is negative
        """
        check_count("limit", limit, least=0)
        pools = [*self._running]
        parts = [pool.describe(limit=limit) for pool in pools]
        size = sum(pool.statistics().size for pool in pools)
        most = "" if self._max_total == math.inf else f" of {self._max_total}"
        head = f"manager: pools: {len(pools)}, connections: {size}{most}"
        return "\n".join([head, *parts])

    def _check(self) -> None:
        if self._lifecycle is None:
            advice = 'use it inside "async with manager:", or open it with serve() or open()'
            raise PoolClosed("manager", f"has not been entered: {advice}")
        if self._ended:
            raise PoolClosed("manager", self._lifecycle.farewell)

    @defer_interrupts
    def _start(self, pool: ManagedPool[Any]) -> RunningPool:
        self._check()
        assert self._lifecycle is not None
        self._running[pool] = running = pool.make(self._lifecycle, self._shared_limit)
        return running

    @staticmethod
    @defer_interrupts
    async def _drop_unused(this: ref[PoolManager[Any]]) -> None:
        while (manager := this()) is not None:
            pause = max(min(_SWEEP_INTERVAL, manager._max_idle_time / 4), _SHORTEST_PAUSE)
            await manager._sweep()
            del manager
            await sleep(pause)

    async def _sweep(self) -> None:
        for pool, running in list(self._running.items()):
            now, machine = current_time(), running.machine
            assert isinstance(machine, SharedPoolStateMachine)
            if machine.is_wanted():
                self._empty_since.pop(pool, None)
                continue
            # One that may fail fast is kept as long as anybody asks, even in vain.
            since = machine.line.outage.unasked_since()
            if since is None:
                since = self._empty_since.setdefault(pool, now)
            if now - since < self._max_idle_time:
                continue
            if machine.supply.unused():
                self._drop(pool, running)
                await checkpoint()
            else:
                # What it tries by itself may hang: the next sweep drops it.
                machine.give_up(now)

    def _drop(self, pool: ManagedPool[Any], running: RunningPool) -> None:
        del self._running[pool]
        self._empty_since.pop(pool, None)
        assert self._lifecycle is not None
        self._lifecycle.stop(running)
