"""Whatever code of the user's raises in a task of the pool: that attempt has failed, no more."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import ConnectionFailed, create_task_group, fail_after
from anyio.abc import ByteStream, ByteStreamConnectable

from anyconnpool import ConnectionPool, PooledConnection, Retry
from anyconnpool._util.cancellation import fence
from anyconnpool.events import PoolEnded, PoolEvent
from tests.cases import table

from .network import MemoryNetwork, MemoryStream, check_books, fill, hang, settle

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


class Fatal(BaseException):
    """What nobody catches."""


def keep_cancellation() -> BaseException:
    """Return a cancellation of trio's that a scope asked for which is over."""
    kept: list[BaseException] = []

    async def be_cancelled() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await anyio.lowlevel.checkpoint()
            except BaseException as error:
                kept.append(error)
                raise

    # Beside the event loop that runs the test. A new one each time: it keeps where it was raised.
    thread = threading.Thread(target=lambda: anyio.run(be_cancelled, backend="trio"))
    thread.start()
    thread.join()
    return kept.pop()


#: what code of the user's may raise that is not an Exception
ODDITIES: list[Callable[[], BaseException]] = [
    Fatal,
    GeneratorExit,
    asyncio.CancelledError,
    keep_cancellation,
    lambda: BaseExceptionGroup("mixed", [Fatal(), ValueError()]),
    lambda: BaseExceptionGroup("cancelled", [asyncio.CancelledError(), ValueError()]),
]

_ENDED = r"is not an Exception$|was cancelled$"

each_oddity = table("make", ODDITIES)


def is_in(error: BaseException, exception: BaseException) -> bool:
    """Return whether an exception caused another."""
    cause = exception.__cause__
    return cause is error or (cause is not None and is_in(error, cause))


@each_oddity
@table("where", ["connect", "on_connect", "extra_attributes", "pause"])
async def test_an_attempt_that_raises_what_is_no_exception_has_failed(
    make: Callable[[], BaseException], where: str
) -> None:
    """Whoever waited gets ConnectionFailed with that cause; the next attempt is untouched."""
    errors = [make()]
    (error,) = errors

    async def stumble(*_: object) -> None:
        if errors:
            raise errors.pop()

    class Stumbling(MemoryStream):
        @property
        def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
            if errors:
                raise errors.pop()
            return super().extra_attributes

    class Unsteady(Retry):
        def pause(self, repeat: int, draw: Callable[[], float] = float) -> float:
            raise errors.pop()

    class Network(MemoryNetwork):
        async def connect(self) -> MemoryStream:
            stream = await super().connect()
            if where == "extra_attributes":
                stream.__class__ = Stumbling
            return stream

    settings: dict[str, Any] = {}
    network = Network(stumble if where == "connect" else None)
    if where == "on_connect":
        settings["on_connect"] = stumble
    if where == "pause":
        settings["connect_retry"] = Unsteady(1)
        network.on_connect = fail_once()
    async with ConnectionPool(network, **settings) as pool:
        with fail_after(60), pytest.raises(ConnectionFailed, match=_ENDED) as got:
            await pool.acquire()
        assert is_in(error, got.value)
        assert await pool.send_receive_line(b"ask") == b"ask"
        assert pool.statistics().open_failed == 1
    assert network.open_now == 0


def fail_once() -> Callable[[int], Any]:
    async def hook(number: int) -> None:
        if number == 1:
            raise OSError("down")

    return hook


@each_oddity
async def test_a_check_that_raises_what_is_no_exception_has_failed(
    make: Callable[[], BaseException],
) -> None:
    """Another connection is opened for whoever waited."""

    async def check(connection: PooledConnection) -> None:
        raise make()

    async with ConnectionPool(MemoryNetwork(), check=check, check_after=0) as pool:
        await fill(pool, 1)
        with fail_after(60):
            assert await pool.send_receive_line(b"ask") == b"ask"
        assert pool.statistics().closed == {"check_failed": 1}


@each_oddity
@table("forced", [False, True])
async def test_a_close_that_raises_what_is_no_exception_frees_its_slot(
    make: Callable[[], BaseException], forced: bool
) -> None:
    """A foreign stream's aclose() reaches nobody, and the pool goes on."""

    class Network(MemoryNetwork):
        async def connect(self) -> MemoryStream:
            stream = await super().connect()
            stream.__class__ = Stumbling
            return stream

    class Stumbling(MemoryStream):
        async def aclose(self) -> None:
            self._drop(forced=forced)
            raise make()

    network = Network()
    async with ConnectionPool(network, max_size=1) as pool:
        for _ in range(3):
            async with pool.acquire() as connection:
                if forced:
                    connection.discard()
            pool.retire()
        await settle()
        await check_books(pool, network)
        assert pool.statistics().size == 0
        await fill(pool, 1)
    assert network.open_now == 0


async def test_a_close_that_fails_does_not_replace_why_an_attempt_has_failed() -> None:
    """The caller gets what on_connect raised."""

    class Network(MemoryNetwork):
        async def connect(self) -> MemoryStream:
            stream = await super().connect()
            stream.__class__ = Stumbling
            return stream

    class Stumbling(MemoryStream):
        async def aclose(self) -> None:
            self._drop(forced=True)
            raise asyncio.CancelledError

    async def refuse(connection: PooledConnection) -> None:
        raise LookupError

    async with ConnectionPool(Network(), on_connect=refuse) as pool:
        with pytest.raises(LookupError):
            await pool.acquire()


@each_oddity
async def test_an_observer_that_raises_what_is_no_exception_is_logged(
    make: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the pool nor its users notice it, wherever it is called."""
    events: list[PoolEvent] = []

    def observe(event: PoolEvent) -> None:
        events.append(event)
        raise make()

    caplog.clear()
    async with ConnectionPool(MemoryNetwork(), observers=[observe]) as pool:
        assert await pool.send_receive_line(b"ask") == b"ask"
        pool.acquire_nowait().detach()
        assert await pool.send_receive_line(b"ask") == b"ask"
    assert isinstance(events[-1], PoolEnded)
    assert all("the observer" in record.getMessage() for record in caplog.records)
    assert caplog.records


@table("what", [None, 5, "stream", object()])
async def test_a_connectable_that_returns_no_stream_is_told_so(what: Any) -> None:
    """The error names what it has returned."""

    class Wrong(ByteStreamConnectable):
        async def connect(self) -> ByteStream:
            return what  # type: ignore[no-any-return]

    async with ConnectionPool(Wrong()) as pool:
        with pytest.raises(TypeError, match=f"returned {type(what).__name__}, which is not a byte"):
            await pool.acquire()
        assert pool.statistics().size == 0


async def test_errors_that_meet_the_end_of_the_block_do_not_leave_it() -> None:
    """A login that is cancelled and fails in its own task group is nobody's any more."""

    async def fail_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError

    async def log_in(connection: PooledConnection) -> None:
        async with create_task_group() as tasks:
            tasks.start_soon(fail_when_cancelled)
            await hang()

    network = MemoryNetwork()
    async with ConnectionPool(network, on_connect=log_in, min_idle=1):
        await settle()
        assert network.opened == 1
    assert network.open_now == 0


# asyncio stops at once then, and leaves tasks behind that have not begun.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@table("end", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_ends_the_program_ends_the_block(backend: str, end: type[BaseException]) -> None:
    """It comes out of the event loop, and all is closed."""
    network = MemoryNetwork()

    async def log_in(connection: PooledConnection) -> None:
        raise end

    async def run() -> None:
        async with ConnectionPool(network, on_connect=log_in) as pool:
            await pool.acquire()

    with pytest.raises(BaseException) as caught:  # noqa: PT011
        anyio.run(run, backend=backend)
    assert any(isinstance(leaf, end) for leaf in leaves_of(caught.value))
    assert network.attempts
    assert network.open_now == 0
    gc.collect()


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that a group is made of, or a single one."""
    members: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    if not members:
        yield error
    for member in members:
        yield from leaves_of(member)


def test_a_coroutine_that_is_thrown_away_ends() -> None:
    """What closes it, when its event loop runs no more, gets no other error."""
    loop = asyncio.new_event_loop()
    never = loop.create_future()

    async def wait() -> None:
        with fence("waiting", ValueError):
            await never

    task = loop.create_task(wait())
    loop.call_soon(loop.stop)
    loop.run_forever()
    coroutine = task.get_coro()
    assert coroutine is not None
    coroutine.close()
    never.set_result(None)
    loop.run_until_complete(asyncio.wait([task]))
    assert isinstance(task.exception(), RuntimeError)  # asyncio has found it closed
    loop.close()


def test_groups_of_errors_are_exceptions() -> None:
    """Where all in a group are Exceptions, the caller gets the group."""

    async def refuse(connection: PooledConnection) -> None:
        raise ExceptionGroup("two", [ValueError(), LookupError()])

    async def run() -> None:
        async with ConnectionPool(MemoryNetwork(), on_connect=refuse) as pool:
            with pytest.raises(ExceptionGroup, match="two"):
                await pool.acquire()

    anyio.run(run)


def test_what_ends_the_program_is_not_replaced_by_an_error_of_the_body() -> None:
    """Ctrl-C while the block is left for an error leaves it, with that error as its context."""
    pytest.importorskip("trio")

    async def interrupt(number: int) -> None:
        raise KeyboardInterrupt

    async def run() -> None:
        async with ConnectionPool(MemoryNetwork(on_close=interrupt)) as pool:
            await fill(pool, 1)
            raise LookupError

    with pytest.raises(BaseException) as caught:  # noqa: PT011
        anyio.run(run, backend="trio")
    assert any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves_of(caught.value))
