"""The exchanges of a pool, with the remote as first argument."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from anyconnpool._engine.connection import PooledConnection
from anyconnpool._formats import PackageFormat
from anyconnpool._pool import ConnectionPool
from anyconnpool._remote import Remote
from anyconnpool._retry import Retry

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Args = TypeVarTuple("Args")

T = TypeVar("T")


class RemoteExchanges:
    """Give a manager the exchanges of its pools; see :class:`ConnectionPool` for what they do."""

    @abstractmethod
    def pool(self, remote: Remote) -> ConnectionPool:
        """Return the pool of a remote."""

    async def run(
        self,
        remote: Remote,
        function: Callable[[PooledConnection, Unpack[Args]], Awaitable[T]],
        *args: Unpack[Args],
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> T:
        """Borrow a connection, call a function with it; see :meth:`ConnectionPool.run`."""
        return await self.pool(remote).run(function, *args, timeout=timeout, retry=retry)

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
        newline: bytes = b"\n",
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
        newline: bytes = b"\n",
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
