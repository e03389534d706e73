"""The connection pool that users hold, with whole exchanges."""

from __future__ import annotations

import dataclasses
import math
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from anyio import TASK_STATUS_IGNORED, AsyncContextManagerMixin
from anyio.abc import ByteStreamConnectable, TaskStatus
from anyio.lowlevel import checkpoint

from anyconnpool._core.state_machine import PoolStateMachine
from anyconnpool._engine.connection import (
    AcquireContext,
    ConnectedStream,
    OnConnect,
    PooledConnection,
    SessionT,
    SessionT_co,
)
from anyconnpool._engine.exchanges import exchange_again, run_borrowing
from anyconnpool._engine.hosting import BlockHost
from anyconnpool._engine.leasing import Leasing
from anyconnpool._engine.lifecycle import PoolLifecycle, RunningPool
from anyconnpool._engine.reading import ReadingExchange
from anyconnpool._exceptions import PoolClosed
from anyconnpool._formats import (
    FrameFormat,
    PackageFormat,
    choose_package_format,
    encode_frame,
    frame_line,
)
from anyconnpool._remote import Remote, make_endpoint, parse_url, takes_one_address
from anyconnpool._replicas import Replicas, make_target
from anyconnpool._retry import Retry
from anyconnpool._settings import Hook, PoolOptions, RemoteOptions, Settings, describes_settings
from anyconnpool._statistics import ConnectionInfo, PoolStatistics
from anyconnpool._streams.exchanges import (
    Exchange,
    FrameExchange,
    LineExchange,
    PackageExchange,
    bytes_exchange,
)
from anyconnpool._streams.transport import Transport
from anyconnpool._util.checks import as_bytes, check_count, check_duration, quoted
from anyconnpool._util.functions import as_awaitable, check_retirement, refuse_plain_with
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.log import warn_of_neglect

if TYPE_CHECKING:
    from typing_extensions import Self, TypeVarTuple, Unpack

    Args = TypeVarTuple("Args")

T = TypeVar("T")
DataT = TypeVar("DataT")
FrameT = TypeVar("FrameT")


@describes_settings
class ConnectionPool(AsyncContextManagerMixin, ByteStreamConnectable, Generic[SessionT_co]):
    """Keep connections to a remote open; one borrower at a time uses each of them.

    Enter the pool with ``async with``: its tasks live in that block, and when the block ends every
    socket is closed. The pool can be entered again afterwards. If no block can enclose the code
    that uses the pool, :meth:`serve` and :meth:`open` run one until :meth:`aclose`. All durations
    are in seconds, with ``math.inf`` for no limit. Connections are opened on demand, except those
    that ``min_idle`` keeps ready.

    The exchanges (:meth:`exchange`, :meth:`run` and all methods whose names begin with "send")
    acquire a connection, use it once and release it. ``timeout=`` is the limit for acquire, send
    and receive together, in seconds. ``retry=`` allows the request to be sent more than once;
    without it, an exchange is repeated only if its connection failed before anything was sent. With
    it, a reused connection that turns out dead before the first byte of a reply is replaced at
    once, and that doesn't count as a try. The exchanges raise what :meth:`acquire` raises and what
    the connection's method of the same name raises, and :exc:`TimeoutError` when time runs out
    (:exc:`AcquireTimeout` is a kind of it). If an exchange fails, is cancelled or runs out of time,
    its connection is closed. Wrong arguments are refused before a connection is acquired.

    :param remote: ``(host, port)``, the path of a UNIX socket, or any AnyIO connectable except a
        pool; for several servers of one service, a :class:`Replicas`, or a list of remotes, which
        is short for one. To an address, and to one of AnyIO's own connectables, the pool opens
        streams of its own, of which it knows more than of the streams of other connectables
    :param tls: whether to speak TLS; this and the other TLS options are those of
        :func:`anyio.as_connectable`
    :param ssl_context: the TLS settings, if they are not the secure defaults. If the closing
        handshake is expected, the pool clears the option ``OP_IGNORE_UNEXPECTED_EOF`` of this
        context, and of a :class:`~anyio.streams.tls.TLSConnectable` that is the remote: with the
        option, which older Pythons set by themselves, a connection that was cut looks like one
        that has ended
    :param tls_hostname: the name to check the server's certificate for, if it is not the host
    :param tls_standard_compatible: whether the closing handshake of TLS is made and expected; if
        so, reading from a connection that ends without one raises
        :exc:`~anyio.BrokenResourceError` (default: yes)
    :settings:
    :raises TypeError: if the remote or a setting is of the wrong type
    :raises ValueError: if a setting makes no sense, or TLS options would have no effect
    """

    @overload
    def __init__(
        self: ConnectionPool[None],
        remote: Remote | list[Any],
        *,
        tls: bool = False,
        on_connect: None = None,
        **settings: Unpack[RemoteOptions],
    ) -> None: ...

    @overload
    def __init__(
        self,
        remote: Remote | list[Any],
        *,
        tls: bool = False,
        on_connect: OnConnect[SessionT_co],
        **settings: Unpack[RemoteOptions],
    ) -> None: ...

    @takes_one_address
    def __init__(
        self,
        remote: Remote | list[Any],
        *,
        tls: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        tls_hostname: str | None = None,
        tls_standard_compatible: bool = True,
        on_connect: Hook | None = None,
        **settings: Unpack[PoolOptions],
    ) -> None:
        given: Remote = Replicas(remote) if isinstance(remote, list) else remote
        options = (tls, ssl_context, tls_hostname, tls_standard_compatible)
        endpoint = make_endpoint(given, *options)
        if isinstance(endpoint.target, ConnectionPool):
            raise TypeError("a pool can't be the remote of a pool: use it directly")
        self._settings = Settings.from_options(settings, on_connect, endpoint.name)
        self._target = make_target(given, endpoint, self._settings.name, options)
        self._acquire_timeout = self._settings.acquire_timeout
        self._host = BlockHost(self._settings.name)
        self._machine: PoolStateMachine[Transport] | None = None
        self._leasing: Leasing | None = None

    @overload
    @classmethod
    def from_url(
        cls, url: str, *, on_connect: None = None, **settings: Unpack[RemoteOptions]
    ) -> Self: ...

    @overload
    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        on_connect: OnConnect[SessionT_co],
        **settings: Unpack[RemoteOptions],
    ) -> Self: ...

    @overload
    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        on_connect: OnConnect[SessionT],
        **settings: Unpack[RemoteOptions],
    ) -> ConnectionPool[SessionT]: ...

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        tls_hostname: str | None = None,
        tls_standard_compatible: bool = True,
        on_connect: Hook | None = None,
        **settings: Unpack[PoolOptions],
    ) -> ConnectionPool[Any]:
        """Make a pool for the remote that a URL names.

        :param url: ``tcp://host:port``, ``tls://host:port`` or ``unix:///path``
        :param ssl_context: see the class, also for the other parameters
        :raises TypeError: if the URL or a setting is of the wrong type
        :raises ValueError: if the URL has another form, or a setting makes no sense
        """
        remote, tls = parse_url(url)
        return cls(
            remote,
            tls=tls,
            ssl_context=ssl_context,
            tls_hostname=tls_hostname,
            tls_standard_compatible=tls_standard_compatible,
            on_connect=cast("OnConnect[SessionT_co]", on_connect),
            **settings,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    def __getstate__(self) -> dict[str, Any]:
        if self._leasing is not None and self._leasing.running:
            raise TypeError(
                f"{self!r} can't be pickled or copied, because its connections can't: make a pool "
                f"in each process"
            )
        return dict(vars(self))

    # Unseen by type checkers, which know better.
    if not TYPE_CHECKING:
        __enter__ = __exit__ = refuse_plain_with

    def __del__(self) -> None:
        if not hasattr(self, "_leasing"):
            return  # __init__ refused the settings
        if self._host.abandon():
            warn_of_neglect(self, "closed", "await its aclose()")
        elif self._leasing is None:
            warn_of_neglect(self, "entered")
        elif self._leasing.running:
            warn_of_neglect(self, "left")

    @property
    def name(self) -> str:
        """The pool's name in logs, errors and statistics."""
        return self._settings.name

    @property
    def max_size(self) -> float:
        """The most sockets that may be open at once.

        It can be changed at any time. A higher limit lets waiting tasks through at once. A lower
        one closes surplus idle connections now, and borrowed ones when they come back.

        :raises ValueError: if it is set to less than 1 or than ``min_idle``
        """
        return self._settings.max_size

    @max_size.setter
    def max_size(self, value: float) -> None:
        settings = dataclasses.replace(self._settings, max_size=value)
        if self._leasing is not None and self._leasing.running:
            self._leasing.resize(value)
        self._settings = settings

    @defer_interrupts
    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        with self._host.occupy() as hosted:
            settings = self._settings
            lifecycle = PoolLifecycle(settings.name, settings.close_timeout, hosted=hosted)
            async with lifecycle.run():
                self._use(lifecycle.start(settings, self._target))
                # This frame doesn't keep the pool: one that was opened and forgotten goes away.
                handed_over = [self]
                del self
                yield handed_over.pop()

    @defer_interrupts
    async def serve(self, *, task_status: TaskStatus[Any] = TASK_STATUS_IGNORED) -> None:
        """Run the pool's block in this task, until :meth:`aclose` or a cancellation.

        For code that begins and ends in different tasks, so that no ``async with`` can enclose it:
        ``await task_group.start(pool.serve)``, in a task group that lives at least as long. It does
        what ``async with pool`` does. A cancellation closes everything at once, as that of a block
        does. An exception that ends the block (a hook's ``SystemExit``) is raised here.

        :param task_status: gets the pool as the start value; AnyIO's and trio's task groups pass it
        :raises RuntimeError: if the pool is entered, opened or served already
        """
        await self._host.serve(self.__asynccontextmanager__(), task_status)

    async def open(self) -> Self:
        """Run the pool's block in a task of its own, until :meth:`aclose`; on asyncio only.

        For code that has no task group for :meth:`serve`, such as a notebook, or a class with
        methods that connect and close. The task is named after the pool. It is the only one that
        a pool starts outside a task group, so that no scope ends it, only ``aclose()``. A pool that
        is forgotten gives a :exc:`ResourceWarning` when the object goes away, and is closed. If the
        task is cancelled, as ``asyncio.run()`` does with all that are left at its end, everything
        is closed at once.

        This is a cancellation point before anything is opened. A later cancellation is raised when
        the block has ended. So a cancelled call leaves nothing behind, and can be repeated.

        :return: the pool
        :raises RuntimeError: if the pool is entered, opened or served already, or on trio
        """
        await self._host.open(self.__asynccontextmanager__())
        return self

    async def aclose(self) -> None:
        """End the block that :meth:`open` or :meth:`serve` runs; return when it has ended.

        Everything is closed as at the end of ``async with pool``: borrowers have ``close_timeout``.
        It may be called more than once, by several tasks, and after a cancellation has ended the
        block. If it is cancelled, the pool closes all the same. Afterwards the pool can be opened
        or entered again. An exception that has ended a block of :meth:`open` (a hook's
        ``SystemExit``) is raised by the first call, in an exception group, as by ``async with``.

        :raises RuntimeError: if the pool was not opened or served, or is in an ``async with`` block
        :raises PoolError: in another event loop than the block's
        """
        await self._host.aclose()

    def _use(self, running: RunningPool) -> None:
        self._machine, self._leasing = running.machine, running.leasing

    def acquire(self, *, timeout: float | None = None) -> AcquireContext[SessionT_co]:
        """Acquire a connection: an idle one at once, or else the first that comes back or opens.

        Use the result with ``async with``, or await it. Whoever comes first is served first. An
        idle connection is looked at before it is handed out: if the peer has closed it, or if it
        was used before and bytes have arrived that nobody asked for, it is closed and the next one
        taken. This is a cancellation point before anything is taken. A later cancellation loses
        nothing: a connection that was being opened serves the next caller.

        :param timeout: limit for all of it, in seconds; by default ``acquire_timeout``
        :return: an asynchronous context manager that is awaitable too, to be used once
        :raises PoolClosed: outside the pool's block, or if the block ends meanwhile
        :raises PoolFull: if ``max_waiting`` tasks are waiting already
        :raises AcquireTimeout: if no connection became available in time
        :raises ~anyio.ConnectionFailed: if connecting failed
        :raises ValueError: if the timeout is negative or NaN
        """
        timeout = self._acquire_timeout if timeout is None else check_duration("timeout", timeout)
        leasing = self._leasing
        if leasing is None or not leasing.running:
            leasing = self._running_leasing()
        return AcquireContext(leasing, timeout)

    def acquire_nowait(self) -> PooledConnection[SessionT_co]:
        """Acquire an idle connection, without waiting and without opening one.

        :return: the connection; release it with :meth:`PooledConnection.aclose`
        :raises PoolFull: if there is no idle connection
        :raises PoolClosed: outside the pool's block
        """
        return self._running_leasing().acquire_nowait()

    async def connect(self) -> PooledConnection[SessionT_co]:
        """Acquire a connection that its caller closes for good, as with AnyIO's connectables.

        For code that takes a connectable; :meth:`acquire` is the way to reuse connections. The pool
        can't know what such code leaves on a connection. So ``aclose()`` and the end of an ``async
        with`` close it, as they close any stream of AnyIO's, and its slot is free a turn or two
        later. Until then it counts as in use. When the pool's block ends, it is closed at the
        latest after ``close_timeout``. This raises what :meth:`acquire` raises.

        :return: the connection, to be closed like any other stream
        """
        return await self._running_leasing().acquire(self._acquire_timeout, None, ConnectedStream)

    async def run(
        self,
        function: Callable[[PooledConnection[SessionT_co], Unpack[Args]], Awaitable[T]],
        *args: Unpack[Args],
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> T:
        """Acquire a connection, call a function with it, and release it.

        :param function: an async function that does one exchange; its first argument is the
            connection
        :param args: further arguments of the function
        :param timeout: limit for all tries together, in seconds
        :param retry: how often the function may be called again after it has sent something;
            without it, it is called again only if its connection failed before anything was sent
        :return: what the function returns
        :raises TypeError: if the function can't be called
        """
        if not callable(function):
            raise TypeError(
                f"the function to run must be an async function, given without a call of it "
                f"(pool.run(function, argument)), not {quoted(function)}"
            )

        def call(connection: PooledConnection[SessionT_co]) -> Awaitable[T]:
            return as_awaitable(function(connection, *args), function, "the function to run")

        return await self._run(call, timeout, retry)

    async def exchange(
        self,
        request: bytes | bytearray | memoryview,
        read: Callable[[PooledConnection[SessionT_co]], Awaitable[T]],
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> T:
        """Send a request, and have a function read the reply: for protocols of your own.

        With ``pipeline``, the connection is shared, and the function runs in a task of the pool, in
        the context variables of the caller and outside its scopes. If it raises anything that is
        not ``harmless``, the exchanges that share it get a :exc:`~anyio.BrokenResourceError`.

        :param request: the bytes, or any bytes-like object, which is copied
        :param read: an async function of the connection that receives just the reply, only reading
        :return: what ``read`` returns
        """
        return await self._exchange(ReadingExchange(request, read), timeout, retry)

    async def send(
        self, item: bytes, *, timeout: float | None = None, retry: Retry | None = None
    ) -> None:
        """Acquire a connection and send bytes on it.

        Unless the pool is ``one_way``, the connection is closed then, since a reply may follow.
        """
        item = as_bytes("what is sent", item)
        await self._run(lambda connection: connection.send(item), timeout, retry)

    async def send_line(
        self,
        data: bytes,
        *,
        newline: bytes | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Send a line; see :meth:`send` and :meth:`FramedStream.send_line`."""
        newline = self._settings.newline if newline is None else newline
        await self.send(frame_line(data, newline), timeout=timeout, retry=retry)

    async def send_package(
        self,
        data: bytes,
        format: PackageFormat | None = None,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Acquire a connection and send a package on it; see :meth:`send`."""
        format = choose_package_format(format, self._settings.package_format)
        await self.send(format.encode(data), timeout=timeout, retry=retry)

    async def send_frame(
        self,
        data: DataT,
        format: FrameFormat[DataT, Any],
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Acquire a connection and send data in a frame on it; see :meth:`send`."""
        await self.send(encode_frame(data, format), timeout=timeout, retry=retry)

    async def send_receive(
        self,
        data: bytes,
        nbytes: int | None = None,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> bytes:
        """Send bytes and receive the reply; see :meth:`FramedStream.send_receive`."""
        return await self._exchange(bytes_exchange(data, nbytes), timeout, retry)

    async def send_receive_line(
        self,
        data: bytes,
        *,
        newline: bytes | None = None,
        max_bytes: int | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> bytes:
        """Send a line and receive one; see :meth:`FramedStream.send_receive_line`."""
        exchange = LineExchange(data, newline, max_bytes, self._settings)
        return await self._exchange(exchange, timeout, retry)

    async def send_receive_package(
        self,
        data: bytes,
        format: PackageFormat | None = None,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> bytes:
        """Send a package and receive one; see :meth:`FramedStream.send_receive_package`."""
        exchange = PackageExchange(data, format, self._settings.package_format)
        return await self._exchange(exchange, timeout, retry)

    async def send_receive_frame(
        self,
        data: DataT,
        format: FrameFormat[DataT, FrameT],
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> FrameT:
        """Send a frame and receive one; see :meth:`FramedStream.send_receive_frame`."""
        return await self._exchange(FrameExchange(data, format), timeout, retry)

    async def wait_ready(self) -> None:
        """Wait until ``min_idle`` connections are idle; a cancellation loses nothing.

        :raises ~anyio.ConnectionFailed: if the remote can't be reached
        :raises PoolClosed: outside the pool's block, or if the block ends meanwhile
        """
        # Before the pool is asked whether it runs: a manager may stop it in that turn.
        await checkpoint()
        await self._running_leasing().wait_ready()

    def retire(
        self,
        *,
        where: Callable[[ConnectionInfo], object] | None = None,
        within: float = 0.0,
    ) -> None:
        """Replace present connections: idle ones are closed now, others when they come back.

        Call it after a failover, or when the remote's name resolves to other addresses. With
        ``within``, an idle connection may be borrowed until its time has come, and is closed when
        it comes back. The end of the pool's block doesn't wait.

        :param where: chooses which ones: a plain function of a :class:`ConnectionInfo`, called at
            once for each connection that is open, also while a hook is at work on it; if it raises
            an exception, this raises it, and nothing is retired (default: all, also those that are
            just being connected)
        :param within: over how many seconds to spread the closing of the idle ones: each ends at a
            random moment within an equal part of that time
        :raises PoolClosed: outside the pool's block
        :raises TypeError: if ``where`` is not a plain function
        :raises ValueError: if ``within`` is negative or not finite
        """
        within = check_retirement(where, within)
        leasing = self._running_leasing()
        leasing.retire(leasing.choose(where), within)

    def statistics(self) -> PoolStatistics:
        """Return what the pool is doing and has done, at any time and from any thread.

        It may be called in a signal handler, too. If that interrupts the pool in the middle of a
        change, the figures may be those of half of it. Outside the pool's block, nothing is open
        and the totals are those of the last block.
        """
        if self._leasing is None:
            return PoolStatistics(name=self.name, max_size=self.max_size)
        return self._leasing.statistics()

    def describe(self, *, limit: float = 100) -> str:
        """Say in words what the pool is doing, for people; the wording may change.

        Figures come first, then a line for each connection (what it is doing and for how long, its
        borrower's task, addresses, age, uses) and for each task that waits. Neither data nor
        sessions are shown. It can be called whenever :meth:`statistics` can.

        :param limit: most connections, and most tasks that wait, to show; the rest is counted
        :raises TypeError: if the limit is not a whole number or ``math.inf``
        :raises ValueError: if the limit is negative
        """
        check_count("limit", limit, least=0)
        if self._leasing is None:
            return f"pool {self.name!r}: not entered"
        return self._leasing.describe(limit)

    def reset_peaks(self) -> None:
        """Begin the peaks of the statistics anew with the present figures, from any thread.

        They begin anew for all readers. Outside the pool's block this does nothing.
        """
        if self._leasing is not None and self._leasing.running:
            self._leasing.reset_peaks()

    def _exchange(
        self, exchange: Exchange[T], timeout: float | None, retry: Retry | None
    ) -> Awaitable[T]:
        # Not a coroutine function: one coroutine less between the caller and the stream.
        limit = math.inf if timeout is None else check_duration("timeout", timeout)
        leasing = self._leasing
        if leasing is None or not leasing.running:
            leasing = self._running_leasing()
        if retry is None:
            if leasing.pipelines is not None and exchange.may_share:
                return leasing.pipelines.exchange(exchange, limit, self._acquire_timeout, None)
            return leasing.exchange(exchange, limit, self._acquire_timeout, None)
        return exchange_again(exchange, limit, retry, self._running_leasing, self._acquire_timeout)

    def _run(
        self,
        function: Callable[[PooledConnection[SessionT_co]], Awaitable[T]],
        timeout: float | None,
        retry: Retry | None,
    ) -> Awaitable[T]:
        return run_borrowing(function, timeout, retry, self._running_leasing, self._acquire_timeout)

    def _running_leasing(self) -> Leasing:
        if self._leasing is None:
            advice = 'use it inside "async with pool:", or open it with serve() or open()'
            raise PoolClosed(self.name, f"has not been entered: {advice}")
        return self._leasing
