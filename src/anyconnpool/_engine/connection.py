"""A borrow from its start to its end: the stream that one borrower can use once."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from itertools import count
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeAlias

from anyio import ClosedResourceError, ConnectionFailed, TypedAttributeLookupError

from anyconnpool._core.states import PoolEntry, State
from anyconnpool._settings import Settings
from anyconnpool._statistics import CloseReason, ConnectionInfo
from anyconnpool._streams.buffered import ClosedStream
from anyconnpool._streams.framed import FramedStream
from anyconnpool._streams.transport import Transport
from anyconnpool._util.errors import is_hang_up
from anyconnpool._util.functions import call_async, refuse_plain_with
from anyconnpool._util.interrupts import defer_interrupts
from anyconnpool._util.liveness import Liveness

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    # Of what AnyIO needs itself on these Pythons.
    from typing_extensions import TypeVar

SessionT = TypeVar("SessionT")
#: what ``on_connect`` returns for a connection
SessionT_co = TypeVar("SessionT_co", covariant=True, default=None)

_numbers = count(1)


def _number_of(error: BaseException) -> int:
    """Return the number of an exception, which it gets when it is first asked for."""
    # Exceptions can't be referred to weakly, and an address may soon be another's.
    number: int = error.__dict__.setdefault("_anyconnpool_number", next(_numbers))
    return number


class Owner(Protocol):
    """The part of a pool that a borrowed connection is released to."""

    settings: Settings

    now: Callable[[], float]

    def check_home(self) -> None:
        """Refuse to be used from another event loop or thread.

        :raises PoolError: if the running event loop, if any, is not the pool's
        """

    def release(self, entry: PoolEntry[Transport], reason: CloseReason | None) -> None:
        """Take a connection back; with a reason, to close it.

        :raises PoolError: in another event loop or thread: nothing has changed then
        """

    def detach(self, entry: PoolEntry[Transport]) -> bool:
        """Take a connection out of the pool for good; false if it has been closed already."""
        ...

    def note_unanswered(self) -> None:
        """Take note that a connection will be closed because a reply may follow its last send."""

    def note_end(self, connection: PooledConnection[Any], error: BaseException | None) -> None:
        """Take note of how a borrow ends of a connection to one of several replicas.

        :param error: what its borrower has raised
        """


class PooledConnection(FramedStream, Generic[SessionT_co]):
    """A connection borrowed from a pool; its borrower alone uses it until it is given back.

    The pool makes it; it has all that a :class:`FramedStream` has. After it was given back,
    discarded or detached, every call raises :exc:`~anyio.ClosedResourceError`; the facts about it
    (addresses, age, session) can still be read. Sending, and waiting for bytes, in another event
    loop or thread than the pool's is a :exc:`PoolError`, which changes nothing; so is every 256th
    read of bytes that are buffered.

    It goes back into the pool only if it is known to be clean: no operation on it failed, was
    cancelled or is under way, the body of the ``async with`` raised nothing except what the pool's
    ``harmless`` names, nothing that was received is left unread, and no reply is owed. Otherwise it
    is closed.
    """

    _closed_stream = ClosedStream(
        partial(
            ClosedResourceError,
            "this connection was given back, discarded or detached already: use it inside its "
            "async with block, or acquire another one",
        )
    )

    def __init__(self, owner: Owner, entry: PoolEntry[Transport]) -> None:
        transport = entry.transport
        self._begin(transport.stream, True)
        self._defaults = owner.settings
        self._owner = owner
        self._entry = entry
        entry.connection = self
        # An exception that was being handled already says nothing about this borrow. It is known
        # by a number: kept itself, it would keep all that its traceback leads to, the connection
        # before this one for example, as long as this one is borrowed.
        handled = sys.exc_info()[1]
        self._handled = None if handled is None else _number_of(handled)
        if transport.early:
            self._data, transport.early = transport.early, b""

    def __repr__(self) -> str:
        state = "given back" if self._ended else "borrowed"
        return f"<{type(self).__name__} {self._entry.transport}, {state}>"

    @property
    def session(self) -> SessionT_co:
        """What ``on_connect`` returned for this connection: a parser, the result of a login.

        It is kept with the connection: every borrower and every other hook gets the same object.
        It is ``None`` without ``on_connect``, and until that has returned.
        """
        session: SessionT_co = self._entry.session
        return session

    @property
    def local_address(self) -> Any:
        """The address at this end, as AnyIO gives it: ``(host, port)``, or a path.

        :raises ~anyio.TypedAttributeLookupError: if the connection is not a socket
        """
        return self._address(self._entry.transport.local_address)

    @property
    def remote_address(self) -> Any:
        """The address of the peer, as AnyIO gives it: ``(host, port)``, or a path.

        :raises ~anyio.TypedAttributeLookupError: if the connection is not a socket
        """
        return self._address(self._entry.transport.remote_address)

    @staticmethod
    def _address(address: object) -> Any:
        if address is None:
            raise TypedAttributeLookupError("this connection has no addresses: it is not a socket")
        return address

    @property
    def remote(self) -> Any:
        """Where the connection leads to: the pool's remote, or one of several, as it was given.

        :attr:`remote_address` is the address only, without the host name.
        """
        return self._entry.remote

    @property
    def reused(self) -> bool:
        """Whether the connection had been borrowed before."""
        return self._entry.borrows > 1

    @property
    def age(self) -> float:
        """How long ago the connection was opened, in seconds."""
        return self._owner.now() - self._entry.opened_at

    @property
    def has_sent(self) -> bool:
        """Whether its borrower has sent anything, or has tried to."""
        return self._has_sent

    @property
    def bytes_received(self) -> int:
        """How many bytes have arrived since it was borrowed, read or not."""
        return self._bytes_received

    @defer_interrupts
    async def aclose(self) -> None:
        """Give the connection back; it is closed only if it is not clean.

        While an exception is on its way (in a ``finally`` block, for example), the connection is
        closed, because nobody can know what the exception interrupted, unless the pool's
        ``harmless`` names it. To call this twice does no harm. It never waits and is not a
        checkpoint, so a cancellation can't interrupt it. A connection of
        :meth:`ConnectionPool.connect` is closed for good instead.
        """
        raised = sys.exc_info()[1]
        if not self._ended:
            if raised is None or self._was_handled(raised):
                self._finish(self._find_fault())
            else:
                self._finish_after(raised)

    @defer_interrupts
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if not self._ended:
            if exc_type is None:
                self._finish(self._find_fault())
            else:
                self._finish_after(exc_val)

    @defer_interrupts
    def discard(self) -> None:
        """Give the connection back to be closed instead of reused, without waiting.

        :raises ~anyio.ClosedResourceError: if it was given back already; :exc:`PoolClosed`, which
            is one, if the pool's block ended and it was closed
        :raises PoolError: in another event loop or thread
        """
        self._check_open()
        self._finish(CloseReason.DISCARDED)

    @defer_interrupts
    def detach(self) -> FramedStream:
        """Take the connection out of the pool for good, without waiting; its slot is free then.

        :return: the stream, with all that was buffered; the caller has to close it
        :raises ~anyio.ClosedResourceError: if it was given back already; :exc:`PoolClosed`, which
            is one, if the pool's block ended and it was closed
        :raises PoolError: in another event loop or thread
        """
        self._check_open()
        self._owner.check_home()
        self._note_end(None)
        buffered = self.buffer
        stream = self._end()
        if not self._owner.detach(self._entry):
            raise ClosedResourceError("the pool's block has ended, and this connection is closed")
        framed = FramedStream(
            stream,
            package_format=self._defaults.package_format,
            max_line_bytes=self._defaults.max_line_bytes,
            newline=self._defaults.newline,
        )
        framed.feed_data(buffered)
        return framed

    def _was_handled(self, raised: BaseException) -> bool:
        return _number_of(raised) == self._handled

    def _note_end(self, raised: BaseException | None) -> None:
        """Take note of how the borrow ends, for the sake of the replica that it is one to."""
        if self._entry.replica is not None:
            self._owner.note_end(self, raised)

    def _check_place(self) -> None:
        self._owner.check_home()

    def _find_fault(self) -> CloseReason | None:
        if self._unfinished:
            return CloseReason.UNCLEAN
        if self._reply_owed and not self._owner.settings.one_way:
            self._owner.note_unanswered()
            return CloseReason.UNCLEAN
        if self._position < len(self._data):
            return CloseReason.UNREAD_DATA
        return None

    def _finish_after(self, raised: BaseException | None) -> None:
        """Give back the connection of a borrower who has raised something."""
        reason: CloseReason | None = CloseReason.UNCLEAN
        self._note_end(raised)
        try:
            if isinstance(raised, self._owner.settings.harmless):
                reason = self._find_fault()
        finally:
            # Also if a class of the user's can't say whether this is one of its instances.
            self._finish(reason)

    def _finish(self, reason: CloseReason | None) -> None:
        entry = self._entry
        # A reply matters after failures only.
        if (replica := entry.replica) is not None and replica.failures:
            self._owner.note_end(self, None)
        try:
            self._owner.release(entry, reason)
        finally:
            # Unless that was refused, in another event loop or thread.
            if entry.connection is not self:
                self._end()


#: an async function that is called with a new connection, and returns its session
OnConnect: TypeAlias = Callable[[PooledConnection[Any]], Awaitable[SessionT]]


class ConnectedStream(PooledConnection[SessionT_co]):
    """What :meth:`ConnectionPool.connect` returns: a connection that its caller closes for good.

    Code that was written for AnyIO's connectables hangs up when it has enough, in the middle of a
    reply maybe. So nothing that was connected like this is reused.
    """

    @defer_interrupts
    async def aclose(self) -> None:
        """Close the connection, as any stream of AnyIO's; its slot is free a turn or two later.

        Cancelled, it is closed by force before this returns.
        """
        if self._ended:
            return
        self._owner.check_home()
        raised = sys.exc_info()[1]
        self._note_end(None if raised is None or self._was_handled(raised) else raised)
        stream = self._end()
        try:
            await stream.aclose()
        finally:
            # Cancelled above or not: the pool sees to it that it is closed.
            self._owner.release(self._entry, CloseReason.DISCARDED)

    @defer_interrupts
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()


def entry_of(connection: PooledConnection[Any]) -> PoolEntry[Transport]:
    """Return the entry of a borrowed connection, which its borrower has no business with."""
    return connection._entry  # pyright: ignore[reportPrivateUsage]


def is_open(entry: PoolEntry[Transport]) -> bool:
    """Return whether a connection is made and not being closed; a hook may be at work on it."""
    return entry.state < State.CLOSING and hasattr(entry, "transport")


def describe(entry: PoolEntry[Transport], now: float) -> ConnectionInfo:
    """Return what ``retire()`` shows of an open connection."""
    transport = entry.transport
    return ConnectionInfo(
        local_address=transport.local_address,
        remote_address=transport.remote_address,
        age=now - entry.opened_at,
        session=entry.session,
        remote=entry.remote,
    )


def revoke(entry: PoolEntry[Transport], make_error: Callable[[], Exception]) -> None:
    """End a borrow from outside: what its borrower does or goes on to do with it raises this.

    :param make_error: makes an error for each call
    """
    connection, entry.connection = entry.connection, None
    if isinstance(connection, PooledConnection) and not connection._ended:  # pyright: ignore[reportPrivateUsage]
        connection._revoke(make_error)  # pyright: ignore[reportPrivateUsage]
    stream = entry.transport.own
    if stream is not None:
        stream.interrupt(make_error())


def has_failed(connection: PooledConnection[Any]) -> bool:
    """Return whether an operation on a connection failed, was cancelled or is under way."""
    return connection._unfinished > 0  # pyright: ignore[reportPrivateUsage]


def continue_exchange(
    owner: Owner, entry: PoolEntry[Transport], chunk: bytes
) -> PooledConnection[Any]:
    """Return the connection of an exchange whose request was sent, to receive the reply's rest.

    :param chunk: what has come of the reply
    """
    connection: PooledConnection[Any] = PooledConnection(owner, entry)
    connection._has_sent = connection._reply_owed = True  # pyright: ignore[reportPrivateUsage]
    connection._data = chunk  # pyright: ignore[reportPrivateUsage]
    connection._bytes_received = len(chunk)  # pyright: ignore[reportPrivateUsage]
    return connection


class Acquirer(Protocol):
    """The part of a pool that an :class:`AcquireContext` asks for a connection."""

    async def acquire(
        self, timeout: float, context: AcquireContext[Any] | None = None
    ) -> PooledConnection[Any]:
        """Acquire an idle connection, or wait for one.

        :param context: the context that will release it, if it is entered
        """
        ...


class AcquireContext(Generic[SessionT_co]):
    """Acquire a connection when entered or awaited; :meth:`ConnectionPool.acquire` returns it.

    It can be used once, in one of the two ways; a second use is a :exc:`RuntimeError`.
    ``async with`` releases the connection at the end of the block. ``await`` returns the
    connection; release that with :meth:`PooledConnection.aclose`, or use it in an ``async with`` of
    its own.
    """

    __slots__ = ("_acquirer", "_timeout", "connection")

    def __init__(self, acquirer: Acquirer, timeout: float) -> None:
        #: ``None`` when it was used
        self._acquirer: Acquirer | None = acquirer
        self._timeout = timeout
        #: what was acquired by entering
        self.connection: PooledConnection[SessionT_co] | None = None

    # No coroutine functions themselves: one coroutine each way is enough. Pyright asks what enters
    # a context for a CoroutineType; mypy gives every coroutine function the wider type.
    def __aenter__(self) -> CoroutineType[Any, Any, PooledConnection[SessionT_co]]:
        acquirer, self._acquirer = self._acquirer, None
        if acquirer is None:
            raise _used_twice()
        return acquirer.acquire(self._timeout, self)  # type: ignore[return-value]

    @defer_interrupts
    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> CoroutineType[Any, Any, None]:
        connection = self.connection
        if connection is None:
            return _do_nothing()  # type: ignore[return-value]
        return connection.__aexit__(exc_type, exc_val, exc_tb)  # type: ignore[return-value]

    def __await__(self) -> Generator[Any, Any, PooledConnection[SessionT_co]]:
        acquirer, self._acquirer = self._acquirer, None
        if acquirer is None:
            raise _used_twice()
        return acquirer.acquire(self._timeout).__await__()

    # Seen by those who forgot to enter or await it, and unseen by type checkers, which know better.
    if not TYPE_CHECKING:
        __enter__ = __exit__ = refuse_plain_with

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(
                f"acquire() returns no connection yet, which {name!r} could belong to: write "
                f'"async with pool.acquire() as connection", or "connection = await pool.acquire()"'
            )


def _used_twice() -> RuntimeError:
    return RuntimeError(
        "this acquire() was entered or awaited already: call acquire() again for another borrow"
    )


async def _do_nothing() -> None:
    """Do nothing: the context has been left already."""


class _HookOwner:
    """The owner of a connection that one of the pool's hooks uses.

    :param role: which hook, as in "on_connect"
    """

    def __init__(self, role: str, settings: Settings, now: Callable[[], float]) -> None:
        self.role = role
        self.settings = settings
        self.now = now

    def check_home(self) -> None:
        """Do nothing: the pool notices nothing of what a hook does."""

    def release(self, entry: PoolEntry[Transport], reason: CloseReason | None) -> None:
        """Take the connection back from the hook, but not from the pool's task."""
        entry.connection = None

    def detach(self, entry: PoolEntry[Transport]) -> bool:
        """Refuse.

        :raises ~anyio.ConnectionFailed: always
        """
        raise self.refusal()

    def note_unanswered(self) -> None:
        """Do nothing: what a hook leaves behind has consequences of its own."""

    def note_end(self, connection: PooledConnection[Any], error: BaseException | None) -> None:
        """Do nothing: whether the hook fails decides."""

    def refusal(self) -> ConnectionFailed:
        """Return the error for a hook that gave its connection away."""
        return ConnectionFailed(
            f"{self.role} gave the connection away, by discard(), detach(), aclose() or an async "
            f"with block: it was closed, and so it counts as failed"
        )


class _HookConnection(PooledConnection[Any]):
    """A connection in the hands of a hook."""

    def finish(self, owner: _HookOwner, result: object, *, greeting: bool) -> None:
        """Refuse the connection if it is unfit, or if the hook says so.

        :param owner: the owner, which knows the hook
        :param result: what the hook returned
        :param greeting: whether bytes that the hook left unread, or that are still to come, are
            for the first borrower
        :raises ~anyio.ConnectionFailed: if the connection is unfit
        """
        if self._ended:
            raise owner.refusal()
        if owner.role == "on_unread":
            # What it has answered last has no reply.
            self._reply_owed = False
        if result is False:
            raise ConnectionFailed(f"{owner.role} returned False, which refuses the connection")
        fault = self._find_fault()
        if fault is not None and (self._unfinished or not greeting):
            raise ConnectionFailed(
                f"{owner.role} left the connection unfit: {fault.value}; it must read every reply "
                f"whole"
            )
        if owner.role in ("on_release", "on_unread") and self._has_left_bytes(owner.role):
            raise ConnectionFailed(
                f"{owner.role} left bytes unread that were waiting; it must read all that has come"
            )
        if self._has_sent or self._bytes_received:
            self._entry.spoken = True
        self._entry.transport.early = self.buffer

    def _has_left_bytes(self, role: str) -> bool:
        """Return whether what waits in the stream now may be what the hook should have read.

        After a send it may be the reply, but not to what ``on_unread`` sends where nothing has a
        reply. Else it has arrived since, unless the hook was called for it and has read nothing.
        """
        answers = role == "on_unread"
        may_be_reply = self._has_sent and not (answers and self._owner.settings.one_way)
        idle_hook = answers and not self._bytes_received
        return (may_be_reply or idle_hook) and self._entry.look() is Liveness.UNREAD


async def run_hook(
    entry: PoolEntry[Transport],
    settings: Settings,
    now: Callable[[], float],
    hook: Callable[[PooledConnection[Any]], Awaitable[object]],
    *,
    greeting: bool,
    role: str = "on_connect",
) -> object:
    """Call a hook with a connection, and refuse the connection if it is unfit.

    :param role: which hook; after ``on_close``, nothing is refused
    :param greeting: whether bytes that the hook left unread, or that are still to come, are for
        the first borrower
    :return: what the hook returned
    :raises ~anyio.ConnectionFailed: if the hook refused the connection, by giving it away or by
        returning ``False``, if it left it unfit, or if the connection ended in it
    :raises Exception: what the hook raised
    """
    owner = _HookOwner(role, settings, now)
    connection = _HookConnection(owner, entry)
    entry.running_hook = role
    try:
        result = await call_async(hook, owner.role, connection)
        if role != "on_close":
            connection.finish(owner, result, greeting=greeting)
        return result
    except Exception as error:
        # An error of another connection, or of the hook's own making, stays as it is.
        if has_failed(connection) and is_hang_up(error):
            raise ConnectionFailed(
                f"the connection to {settings.name} ended in {owner.role}: "
                f"{str(error) or type(error).__name__}"
            ) from error
        raise
    finally:
        entry.running_hook = None
        await connection.aclose()
