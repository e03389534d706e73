"""One connection through the proxy: two ends, and what happens to the bytes between them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager, suppress

from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    create_task_group,
    notify_closing,
    sleep,
    wait_readable,
    wait_writable,
)
from anyio.abc import ByteStream, ByteStreamConnectable, TaskGroup

from anyconnpool._streams.transport import force_close
from anyconnpool._util.cancellation import survive_stray_cancellation
from anyconnpool._util.log import GuardedLogger, describe_with_cause
from anyconnpool.testing._faults import Ending, Faults, Flow, check_faults

_logger = GuardedLogger("anyconnpool.testing")

_CHUNK = 65_536
_HANG_UPS = (OSError, BrokenResourceError, ClosedResourceError)
# How a remote may fail that can't be reached, or hangs up in the handshake of TLS. A UnicodeError
# is a host name that none can have.
_UNREACHABLE = (*_HANG_UPS, EndOfStream, UnicodeError)


class _ClientEnd(ByteStream):
    """An accepted socket that is closed, or reset, at once: AnyIO's own close later, with FIN."""

    def __init__(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        self._is_tcp = accepted.family != socket.AF_UNIX
        # macOS refuses options of a socket whose peer has reset it.
        if self._is_tcp:
            with suppress(OSError):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = accepted

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    async def receive(self, max_bytes: int = _CHUNK) -> bytes:
        while not self.closed:
            await wait_readable(self._socket)
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                continue
            if not data:
                raise EndOfStream
            return data
        raise ClosedResourceError

    async def send(self, item: bytes) -> None:
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await wait_writable(self._socket)

    async def send_eof(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        self.close()

    def close(self, *, reset: bool = False) -> None:
        if self.closed:
            return
        notify_closing(self._socket)
        if reset and self._is_tcp:
            linger = struct.pack("ii", 1, 0)
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()


class _Lane:
    """Pass on what goes in one direction.

    :param connection: whose direction
    :param flow: what happens to the bytes
    """

    def __init__(self, connection: ProxiedConnection, flow: Flow) -> None:
        self._connection = connection
        #: whether the end of the stream was passed on
        self._over = False
        self.follow(flow)

    def follow(self, flow: Flow) -> None:
        """Do from now on what a flow says."""
        self._flow = flow
        self._left = flow.ends_after

    async def run(self, source: ByteStream, sink: ByteStream) -> None:
        with self._connection.resetting("passing bytes on", _HANG_UPS):
            await self._end_if_due(sink)
            while True:
                await self._wait_open()
                try:
                    data = await source.receive(_CHUNK)
                except EndOfStream:
                    break
                await self._pass_on(data, sink)
            await sleep(self._flow.latency)
            await self._wait_open()
            await self._pass_on_end(sink)

    async def end(self, sink: ByteStream) -> None:
        """End what a new flow says is to end at once."""
        with self._connection.resetting("passing an end on", _HANG_UPS):
            await self._wait_open()
            await self._end_if_due(sink)

    def close_if_due(self) -> None:
        """Close the connection if the flow says so after what has passed."""
        if self._left == 0 and self._flow.ending is Ending.CUT:
            self._connection.cut()
        elif self._left == 0 and self._flow.ending is Ending.RESET:
            self._connection.reset()

    async def _end_if_due(self, sink: ByteStream) -> None:
        """End what the flow says is to end after what has passed."""
        self.close_if_due()
        if self._left == 0 and self._flow.ending is Ending.HALF_CLOSE:
            await self._pass_on_end(sink)

    async def _wait_open(self) -> None:
        while self._connection.frozen or (self._left == 0 and self._flow.ending is Ending.STALL):
            await self._connection.changed.wait()

    async def _pass_on(self, data: bytes, sink: ByteStream) -> None:
        start = 0
        while start < len(data) and not self._over:
            # Without latency, too, it gives the reader a turn to see each chunk alone.
            await sleep(self._flow.latency)
            await self._wait_open()
            end = start + min(
                self._flow.chunk_size or _CHUNK, _CHUNK if self._left is None else self._left
            )
            chunk = data[start:end]
            start += len(chunk)
            # Counted before it is sent: the flow may be replaced meanwhile.
            if self._left is not None:
                self._left -= len(chunk)
            await sink.send(chunk)
            await self._end_if_due(sink)

    async def _pass_on_end(self, sink: ByteStream) -> None:
        if self._over:
            return
        self._over = True
        try:
            await sink.send_eof()
        except NotImplementedError:
            self._connection.cut()


class ProxiedConnection:
    """A connection that a :class:`FaultProxy` has accepted; the proxy makes it.

    Its methods are synchronous, and what they do has reached the client's kernel when they return.
    On a connection that has ended, they do nothing.
    """

    def __init__(self, accepted: socket.socket, faults: Faults, tasks: TaskGroup) -> None:
        self._client = _ClientEnd(accepted)
        self._remote: ByteStream | None = None
        self._tasks = tasks
        self._scope = CancelScope()
        #: of what passes on an end while the connection is served
        self._scopes: set[CancelScope] = {self._scope}
        self._faults = faults
        #: set, and replaced, when something changed that may let bytes pass
        self.changed: Event = Event()
        self.frozen: bool = False
        self._requests = _Lane(self, faults.requests)
        self._replies = _Lane(self, faults.replies)

    @property
    def is_open(self) -> bool:
        """Whether the client's end is open, as far as the proxy has noticed."""
        return not self._client.closed

    @property
    def faults(self) -> Faults:
        """What happens to the connection; a new value counts bytes from then on.

        :raises TypeError: if it is set to something else
        """
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = check_faults(faults)
        self._requests.follow(faults.requests)
        self._replies.follow(faults.replies)
        self._close_if_due()
        if self.is_open and self._remote is not None:
            self._tasks.start_soon(self._end_lane, self._requests, self._remote)
            self._tasks.start_soon(self._end_lane, self._replies, self._client)
        self._wake()

    def cut(self) -> None:
        """Close both ends: with FIN, or RST if the client has sent what was not read."""
        self._end(reset=False)

    def reset(self) -> None:
        """Close the client's end with RST, and the remote's; a UNIX socket is cut."""
        self._end(reset=True)

    def freeze(self) -> None:
        """Pass on nothing until :meth:`thaw`, in either direction, not even the end of a stream."""
        self.frozen = True

    def thaw(self) -> None:
        """Go on after :meth:`freeze`."""
        self.frozen = False
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = Event()

    def _close_if_due(self) -> None:
        self._requests.close_if_due()
        self._replies.close_if_due()

    def _end(self, *, reset: bool) -> None:
        self._client.close(reset=reset)
        for scope in self._scopes:
            scope.cancel()

    async def _end_lane(self, lane: _Lane, sink: ByteStream) -> None:
        # A remote that takes its time with it must not outlive the connection.
        with CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if self.is_open:
                    await lane.end(sink)
            finally:
                self._scopes.remove(scope)

    @contextmanager
    def resetting(self, action: str, quiet: tuple[type[Exception], ...] = ()) -> Generator[None]:
        """Reset this connection if the block fails, or awaits what was cancelled; no other ends.

        :param action: what the block does, for the log
        :param quiet: errors that are not logged
        """
        with survive_stray_cancellation():
            try:
                yield
            except quiet:
                self.reset()
            except Exception as error:
                # The network's errors are no mistake in the test's code.
                trace = None if isinstance(error, _UNREACHABLE) else error
                text = describe_with_cause(error)
                _logger.warning("%s failed, its client is reset: %s", action, text, exc_info=trace)
                self.reset()
            return
        _logger.warning("%s, or what it waited for, was cancelled; its client is reset", action)
        self.reset()

    async def serve(self, connectable: ByteStreamConnectable) -> None:
        """Connect to the remote, and pass bytes on until both directions have ended.

        :param connectable: the remote; if it can't be reached, the client is reset
        """
        with self._scope:
            try:
                with self.resetting("connecting to the remote"):
                    self._close_if_due()
                    if self.is_open:
                        self._remote = await connectable.connect()
                if self._remote is not None:
                    await self._pass_both_ways(self._remote)
            finally:
                self.cut()
                if self._remote is not None:
                    await force_close(self._remote)

    async def _pass_both_ways(self, remote: ByteStream) -> None:
        async with create_task_group() as tasks:
            tasks.start_soon(self._requests.run, self._client, remote)
            tasks.start_soon(self._replies.run, remote, self._client)
