"""A remote in memory, whose server is an async function of the test."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from math import isinf
from typing import TYPE_CHECKING

from anyio import (
    AsyncContextManagerMixin,
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    ConnectionFailed,
    EndOfStream,
    IncompleteRead,
    create_task_group,
    get_cancelled_exc_class,
    sleep,
    sleep_forever,
)
from anyio.abc import ByteStream, ByteStreamConnectable, TaskGroup
from anyio.lowlevel import checkpoint

from anyconnpool._streams.framed import FramedStream
from anyconnpool._util.cancellation import survive_stray_cancellation
from anyconnpool._util.checks import check_duration, make_printable, quoted
from anyconnpool._util.functions import call_async
from anyconnpool._util.log import GuardedLogger
from anyconnpool.testing._memory_stream import connected_pair

if TYPE_CHECKING:
    from typing_extensions import Self

_logger = GuardedLogger("anyconnpool.testing")

_HANG_UPS = (EndOfStream, IncompleteRead, BrokenResourceError)
# How many turns of the event loop a peer has to deal with what its client left behind. It is turns
# that count, so that a busy machine makes no difference.
_LAST_TURNS = 100


class _Connection:
    """A connection with its peer.

    :param number: counts the connections from 1 on
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.client, self.server = connected_pair()
        self.scope = CancelScope()
        self.served = False

    @property
    def winding_up(self) -> bool:
        """Whether the client has closed, and the peer has not ended yet."""
        return self.client.closed and not self.served

    def cut(self) -> None:
        self.scope.cancel()
        self.server.close()


class MemoryConnectable(AsyncContextManagerMixin, ByteStreamConnectable):
    """A remote without sockets: an async function plays the server's side of each connection.

    Use it wherever AnyIO or a :class:`~anyconnpool.ConnectionPool` takes a connectable. The peers
    run in tasks of its ``async with`` block::

        async def answer(stream: FramedStream) -> None:
            while True:
                line = await stream.receive_line()
                await stream.send_line(b"> " + line)

        async with MemoryConnectable(answer) as remote, ConnectionPool(remote) as pool:
            assert await pool.send_receive_line(b"hello") == b"> hello"

    When a peer returns, its end is closed. :exc:`~anyio.EndOfStream`,
    :exc:`~anyio.IncompleteRead` and :exc:`~anyio.BrokenResourceError`, or a group of them, end it
    quietly: its client has hung up. Any other error closes its end too, and later connects are
    refused. The error does not cancel the body; it leaves the block, as the same object, when the
    body ends, unless the body has failed before or was cancelled. Every such error is logged as
    well. If a peer awaits something that was cancelled, that is an error too, a
    :exc:`RuntimeError`.

    Both ends behave like a socket's: what was sent is received before the end of the stream,
    sending to an end that is closed raises :exc:`~anyio.BrokenResourceError`, and a sender of more
    than 64 KiB waits until the other end reads. Resets and addresses don't exist.

    At the end of the block, peers whose client has closed may finish what they can do without
    waiting; then everything is cut off.

    :param peer: an async function that is called with the server's end of each connection; or a
        :class:`ScriptedPeer`
    :param connect_delay: how long connecting takes, in seconds; with ``math.inf``, for ever
    :raises TypeError: if an argument is of the wrong type
    :raises ValueError: if the delay is negative or NaN
    """

    def __init__(
        self, peer: Callable[[FramedStream], Awaitable[object]], *, connect_delay: float = 0.0
    ) -> None:
        if not callable(peer):
            raise TypeError(f"peer must be an async function, not {quoted(peer)}")
        self._peer = peer
        self.connect_delay = connect_delay
        self._refusing = False
        self._connections: list[_Connection] = []
        self._tasks: TaskGroup | None = None
        #: what failed first, of peers and body
        self._error: BaseException | None = None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        interruption: BaseException | None = None
        try:
            async with create_task_group() as self._tasks:
                try:
                    yield self
                    await self._let_peers_finish()
                except Exception as error:
                    # Kept out of the group, which would wrap it.
                    self._error = self._error or error
                except BaseException as error:
                    interruption = error
                self._end()
        finally:
            # Also what no task looks after, because it was cancelled before its first step.
            self._end()
        first_error, self._error = interruption or self._error, None
        if first_error is not None:
            try:
                raise first_error
            finally:
                first_error = interruption = None

    @property
    def connect_delay(self) -> float:
        """How long connecting takes, in seconds.

        :raises TypeError: if it is set to something other than a number
        :raises ValueError: if it is set to a negative number or NaN
        """
        return self._connect_delay

    @connect_delay.setter
    def connect_delay(self, delay: float) -> None:
        self._connect_delay = check_duration("connect_delay", delay)

    @property
    def opened(self) -> int:
        """How many connections have been made so far."""
        return len(self._connections)

    @property
    def open_now(self) -> int:
        """How many of them have not been closed by their clients yet."""
        return sum(not connection.client.closed for connection in self._connections)

    async def connect(self) -> ByteStream:
        """Connect to a new peer.

        :return: the client's end
        :raises ~anyio.ConnectionFailed: after :meth:`refuse`, or after a peer has failed
        :raises RuntimeError: outside the block
        """
        await (sleep_forever() if isinf(self._connect_delay) else sleep(self._connect_delay))
        if self._tasks is None:
            raise RuntimeError('the remote does not exist: use it inside "async with remote:"')
        if self._error is not None:
            text = f"refused: a peer has failed: {_describe(self._error)}"
            raise ConnectionFailed(text) from self._error
        if self._refusing:
            raise ConnectionFailed("refused")
        connection = _Connection(self.opened + 1)
        self._connections.append(connection)
        self._tasks.start_soon(self._serve, connection)
        return connection.client

    def refuse(self) -> None:
        """Let every connect fail from now on, also a delayed one; present connections go on."""
        self._refusing = True

    def admit(self) -> None:
        """Let connects succeed again, after :meth:`refuse`."""
        self._refusing = False

    def cut(self) -> None:
        """Close all connections, as the end of a server's process does, and cancel their peers."""
        for connection in self._connections:
            connection.cut()

    async def _serve(self, connection: _Connection) -> None:
        scope = connection.scope
        try:
            with survive_stray_cancellation():
                with scope:
                    await self._play(connection)
                return
            raise RuntimeError("the peer, or what it waited for, was cancelled")
        except (get_cancelled_exc_class(), KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # A peer that was cut off may still have got to see that its end was closed.
            expected = (*_HANG_UPS, ClosedResourceError) if scope.cancel_called else _HANG_UPS
            if not _consists_of(error, expected):
                text = _describe(error)
                _logger.error("the peer of connection %d failed: %s", connection.number, text)
                self._error = self._error or error
        finally:
            connection.served = True
            connection.server.close()

    async def _play(self, connection: _Connection) -> None:
        await call_async(self._peer, "peer", FramedStream(connection.server))

    async def _let_peers_finish(self) -> None:
        for _ in range(_LAST_TURNS):
            if not any(connection.winding_up for connection in self._connections):
                break
            await checkpoint()

    def _end(self) -> None:
        self._tasks = None
        self.cut()


def _describe(error: BaseException) -> str:
    """Return type and text of an error; it may quote what a client has sent."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    # A script's failure has lines that are to be compared.
    return "\n".join(map(make_printable, text.split("\n")))


def _consists_of(error: BaseException, expected: tuple[type[BaseException], ...]) -> bool:
    """Tell whether an error, or each one in a group of a peer's own tasks, is an expected one."""
    parts: Sequence[BaseException] = getattr(error, "exceptions", ())
    return isinstance(error, expected) or (
        bool(parts) and all(_consists_of(part, expected) for part in parts)
    )
