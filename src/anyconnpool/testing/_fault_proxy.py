"""A proxy on loopback that forwards to a remote, and misbehaves on demand."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from anyio import (
    AsyncContextManagerMixin,
    ClosedResourceError,
    create_task_group,
    notify_closing,
    sleep,
    wait_readable,
)
from anyio.abc import TaskGroup

from anyconnpool._remote import Endpoint, Remote
from anyconnpool._streams.connectable import make_connectable
from anyconnpool._util.cancellation import survive_stray_cancellation
from anyconnpool._util.checks import quoted
from anyconnpool.testing._faults import Faults, check_faults
from anyconnpool.testing._proxied import ProxiedConnection

if TYPE_CHECKING:
    from typing_extensions import Self

_BACKLOG = 1024
# How long to wait for descriptors when there are none left to accept with, in seconds.
_PAUSE = 0.01
_NO_FAULTS = Faults()


class FaultProxy(AsyncContextManagerMixin):
    """Stand between a client and a real server, and cause the faults of real networks.

    Inside its ``async with`` block it listens on a free port of 127.0.0.1, or on a UNIX socket, and
    connects to the remote once for each client. :attr:`faults` sets what happens to all
    connections, :meth:`script` what happens to the next ones, and the connection's own
    :attr:`~ProxiedConnection.faults` what happens to that one::

        async with FaultProxy(("127.0.0.1", 6379)) as proxy:
            async with ConnectionPool(proxy.remote) as pool:
                proxy.script(Faults(replies=Flow(cut_after=3)))
                ...  # the first connection breaks in the middle of its first reply

    The commands (:meth:`cut`, :meth:`reset`, :meth:`freeze`, :meth:`thaw`, :meth:`refuse`,
    :meth:`admit`) are synchronous: what they do has reached the client's kernel when they return.
    If a remote can't be reached, its handshake of TLS fails, or a connectable of the test fails in
    whatever way, the client is reset, and a WARNING to the logger ``anyconnpool.testing`` says why;
    the proxy and its other connections go on. At the end of the block everything is closed at once,
    whatever the peers do. An exception of the body leaves the block as the same object. Like a
    pool, a proxy is for one event loop.

    :param remote: what a :class:`~anyconnpool.ConnectionPool` takes: ``(host, port)``, the path of
        a UNIX socket, or a connectable
    :param faults: what happens to connections, by default nothing
    :param path: where to listen on a UNIX socket instead of a port; it must not exist, and is
        removed at the end
    :raises TypeError: if an argument is of the wrong type
    :raises ValueError: if the remote makes no sense
    """

    def __init__(
        self,
        remote: Remote,
        *,
        faults: Faults = _NO_FAULTS,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        self._connectable = make_connectable(Endpoint.of(remote))
        self._faults = check_faults(faults)
        if not (path is None or isinstance(cast("object", path), (str, os.PathLike))):
            raise TypeError(f"path must be that of a UNIX socket to listen on, not {quoted(path)}")
        self._path = None if path is None else os.fspath(path)
        self._script: deque[Faults] = deque()
        self._connections: list[ProxiedConnection] = []
        self._tasks: TaskGroup | None = None
        self._listener: socket.socket | None = None
        # Bound, never listening: the port stays ours while connections are refused.
        self._claim: socket.socket | None = None
        self._address: Any = None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        body_error: BaseException | None = None
        try:
            self._claim_address()
            listener = self._listener = self._listen()
            async with create_task_group() as self._tasks:
                self._tasks.start_soon(self._accept, listener)
                try:
                    yield self
                except BaseException as error:
                    # Kept out of the group, which would wrap it.
                    body_error = error
                # This ends every task. Were the group cancelled instead, asyncio could take a
                # native cancellation of this task for that one.
                self._end()
        finally:
            # Also what no task looks after, because it was cancelled before its first step.
            self._end()
            self._connections.clear()
        if body_error is not None:
            try:
                raise body_error
            finally:
                body_error = None

    @property
    def remote(self) -> Any:
        """Where the proxy listens: ``("127.0.0.1", port)``, or the path.

        :raises RuntimeError: outside the proxy's block
        """
        self._check_entered()
        return self._address

    @property
    def faults(self) -> Faults:
        """What happens to connections; a new value is for the present ones too.

        :raises TypeError: if it is set to something else
        """
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = check_faults(faults)
        for connection in self.connections:
            connection.faults = faults

    def script(self, *faults: Faults) -> None:
        """Set what happens to the next connections, one by one as they are accepted.

        Those after them get :attr:`faults`. The rest of an earlier script is forgotten.

        :param faults: one for each connection
        :raises TypeError: if one is something else
        """
        self._script = deque(check_faults(each) for each in faults)

    @property
    def connections(self) -> tuple[ProxiedConnection, ...]:
        """The connections that are open, in the order in which they were accepted."""
        return tuple(connection for connection in self._connections if connection.is_open)

    def cut(self) -> None:
        """Close all connections; see :meth:`ProxiedConnection.cut`."""
        for connection in self.connections:
            connection.cut()

    def reset(self) -> None:
        """Reset all connections; see :meth:`ProxiedConnection.reset`."""
        for connection in self.connections:
            connection.reset()

    def freeze(self) -> None:
        """Pass on nothing on the present connections; see :meth:`ProxiedConnection.freeze`."""
        for connection in self.connections:
            connection.freeze()

    def thaw(self) -> None:
        """Go on after :meth:`freeze`, on all connections."""
        for connection in self.connections:
            connection.thaw()

    def refuse(self) -> None:
        """Stop listening, so that connecting is refused; the present connections go on.

        Those that have not been accepted yet are reset. The port is kept.
        """
        if self._listener is not None:
            notify_closing(self._listener)
            self._listener.close()
            self._listener = None
            if self._path is not None:
                with suppress(FileNotFoundError):
                    os.unlink(self._path)

    def admit(self) -> None:
        """Listen at the same address again, after :meth:`refuse`.

        :raises RuntimeError: outside the proxy's block
        :raises OSError: if the address can't be listened at
        """
        tasks = self._check_entered()
        if self._listener is None:
            self._listener = self._listen()
            tasks.start_soon(self._accept, self._listener)

    def _check_entered(self) -> TaskGroup:
        if self._tasks is None:
            raise RuntimeError('the proxy is closed: use it inside "async with proxy:"')
        return self._tasks

    def _claim_address(self) -> None:
        self._address = self._path
        if self._path is None:
            self._claim = _bind(socket.AF_INET, ("127.0.0.1", 0))
            self._address = self._claim.getsockname()

    def _listen(self) -> socket.socket:
        family = socket.AF_INET if self._path is None else socket.AF_UNIX
        listener = _bind(family, self._address)
        listener.setblocking(False)
        listener.listen(_BACKLOG)
        return listener

    async def _accept(self, listener: socket.socket) -> None:
        while listener.fileno() >= 0:
            try:
                await wait_readable(listener)
                accepted, _ = listener.accept()
            except ClosedResourceError:
                return
            except OSError:
                await sleep(_PAUSE)
                continue
            faults = self._script.popleft() if self._script else self._faults
            tasks = self._check_entered()
            connection = ProxiedConnection(accepted, faults, tasks)
            self._connections.append(connection)
            tasks.start_soon(self._serve, connection)

    async def _serve(self, connection: ProxiedConnection) -> None:
        try:
            # What a remote's own stream awaits when it is closed may be cancelled, too.
            with survive_stray_cancellation():
                await connection.serve(self._connectable)
        finally:
            self._connections.remove(connection)

    def _end(self) -> None:
        self.refuse()
        self.cut()
        self._tasks = None
        if self._claim is not None:
            self._claim.close()
            self._claim = None


def _bind(family: int, address: Any) -> socket.socket:
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound
