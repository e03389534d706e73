"""Whole exchanges over a pool: borrow, send, receive, give back, and repeat where that is right.

An exchange is repeated without being asked only if no byte of its request was handed to the
operating system. With a :class:`Retry` the caller says that the request may be sent again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from anyio import sleep

from anyconnpool._engine.connection import AcquireContext, PooledConnection
from anyconnpool._engine.replay import is_hang_up, is_retryable
from anyconnpool._formats import PackageFormat
from anyconnpool._retry import Retry
from anyconnpool._settings import Settings
from anyconnpool._streams.framed import frame_line
from anyconnpool._util.checks import check_size
from anyconnpool._util.deadline import Deadline

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Args = TypeVarTuple("Args")

T = TypeVar("T")

# Dead connections that one exchange replaces for free, before they count as tries: more than a
# pool usually has, so that a restart of the server costs nothing, but not without end.
_FREE_REPLACEMENTS = 100


class Exchanges:
    """Give a pool its exchanges: one borrow each, with one time limit for all of it.

    All of them take ``timeout=``, the limit for acquire, send and receive together in seconds, and
    ``retry=``, which says that the request may be sent more than once: without it, an exchange is
    only repeated if nothing of it was sent. A reused connection that turns out dead before the
    first byte of a reply is replaced at once and doesn't count as a try. They raise what
    :meth:`ConnectionPool.acquire` raises and what the connection's method of the same name raises.
    When time runs out, that is :exc:`TimeoutError`, of which :exc:`AcquireTimeout` is a kind. A
    connection whose exchange failed, was cancelled or ran out of time is closed. Arguments that
    make no sense are refused before a connection is borrowed.
    """

    _settings: Settings
    #: the limit of acquire, in seconds
    _acquire_timeout: float

    @abstractmethod
    def acquire(self, *, timeout: float | None = None) -> AcquireContext:
        """Borrow a connection."""

    @abstractmethod
    def _count_replay(self, error: Exception) -> None:
        """Count an exchange that is repeated, after an error."""

    async def run(
        self,
        function: Callable[[PooledConnection, Unpack[Args]], Awaitable[T]],
        *args: Unpack[Args],
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> T:
        """Borrow a connection, call a function with it, and give it back.

        :param function: an async function of a connection, which does one exchange
        :param args: what else to call it with
        :param timeout: limit for all tries together, in seconds
        :param retry: whether the function may be called again after it has sent something
        :return: what the function returns
        :raises TypeError: if the function can't be called
        """
        _check_callable(function)
        return await self._exchange(lambda connection: function(connection, *args), timeout, retry)

    async def send(
        self, item: bytes, *, timeout: float | None = None, retry: Retry | None = None
    ) -> None:
        """Send bytes on a borrowed connection.

        Unless the pool is ``one_way``, the connection is closed afterwards: a reply may follow.
        """
        await self._exchange(lambda connection: connection.send(item), timeout, retry)

    async def send_line(
        self,
        data: bytes,
        *,
        newline: bytes = b"\n",
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Send a line on a borrowed connection; see :meth:`send`."""
        line = frame_line(data, newline)
        await self._exchange(lambda connection: connection.send(line), timeout, retry)

    async def send_package(
        self,
        data: bytes,
        format: PackageFormat | None = None,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Send a package on a borrowed connection; see :meth:`send`."""
        package = (format or self._settings.package_format).pack(data)
        await self._exchange(lambda connection: connection.send(package), timeout, retry)

    async def send_receive(
        self,
        data: bytes,
        nbytes: int | None = None,
        *,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> bytes:
        """Send bytes and receive the reply; see :meth:`FramedStream.send_receive`."""
        if nbytes is not None:
            check_size("nbytes", nbytes)
        return await self._exchange(
            lambda connection: connection.send_receive(data, nbytes), timeout, retry
        )

    async def send_receive_line(
        self,
        data: bytes,
        *,
        newline: bytes = b"\n",
        max_bytes: int | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> bytes:
        """Send a line and receive one; see :meth:`FramedStream.send_receive_line`."""
        if max_bytes is not None:
            check_size("max_bytes", max_bytes)
        line = frame_line(data, newline)

        async def exchange(connection: PooledConnection) -> bytes:
            await connection.send(line)
            return await connection.receive_line(newline=newline, max_bytes=max_bytes)

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
        package = (format or self._settings.package_format).pack(data)

        async def exchange(connection: PooledConnection) -> bytes:
            await connection.send(package)
            return await connection.receive_package(format)

        return await self._exchange(exchange, timeout, retry)

    async def _exchange(
        self,
        exchange: Callable[[PooledConnection], Awaitable[T]],
        timeout: float | None,
        retry: Retry | None,
    ) -> T:
        _check_retry(retry)
        deadline = Deadline(timeout)
        replacements = tries = 0
        while True:
            connection: PooledConnection | None = None
            try:
                limit = min(deadline.remaining(), self._acquire_timeout)
                async with self.acquire(timeout=limit) as connection:
                    with deadline.limit():
                        return await exchange(connection)
            except Exception as error:
                if not is_retryable(error):
                    raise
                dead = is_hang_up(error) and _may_replace(connection, retry)
                if dead and replacements < _FREE_REPLACEMENTS:
                    replacements += 1
                elif retry is not None and tries < retry.count:
                    tries += 1
                    with deadline.limit():
                        await sleep(retry.pause(tries))
                else:
                    raise
                self._count_replay(error)


def _check_callable(function: object) -> None:
    if not callable(function):
        raise TypeError(f"the function to run must be an async function, not {function!r}")


def _check_retry(retry: object) -> None:
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"retry must be a Retry, not {type(retry).__name__}")


def _may_replace(connection: PooledConnection | None, retry: Retry | None) -> bool:
    """Tell whether an exchange that met a hang-up may be repeated on another connection at once."""
    if connection is None or not connection.reused or connection.bytes_received:
        return False
    return retry is not None or not connection.has_sent
