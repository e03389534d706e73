"""Code of the user's that a pool calls, wherever that is, raises anything: the pool lives on."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest
from anyio import BrokenResourceError, ConnectionFailed, create_task_group, fail_after
from anyio.abc import SocketAttribute

from anyconnpool import ConnectionPool, PooledConnection, PoolError, Replicas, Retry
from tests.cases import table

from .network import MemoryNetwork, MemoryStream, check_books, fill, settle
from .test_fence import Fatal, each_oddity, is_in

Make = Callable[[], BaseException]


@each_oddity
@table("role", ["on_release", "on_unread", "on_close"])
async def test_a_hook_that_raises_what_is_no_exception_has_failed(make: Make, role: str) -> None:
    """Its connection is closed, and the pool goes on."""
    network, calls = MemoryNetwork(), list[int]()

    async def hook(connection: PooledConnection) -> None:
        calls.append(1)
        raise make()

    settings: dict[str, Any] = {role: hook}
    async with ConnectionPool(network, max_size=1, **settings) as pool:
        for _ in range(2):
            with fail_after(60):
                await fill(pool, 1)
            await settle()
            if role == "on_unread":
                network.peers[-1].push(b"PING\n")
                await anyio.sleep(6)
            if role == "on_close":
                pool.retire()
                await settle()
        reason = {"on_release": "release_failed", "on_unread": "unread_data"}.get(role, "retired")
        assert pool.statistics().closed == {reason: 2}
        assert len(calls) == 2
        await check_books(pool, network)


@each_oddity
async def test_a_discovery_that_raises_what_is_no_exception_has_failed(make: Make) -> None:
    """Whoever waits for it is told; the next call may find something."""
    errors = [make()]
    (error,) = errors
    network = MemoryNetwork()

    async def find() -> list[MemoryNetwork]:
        if errors:
            raise errors.pop()
        return [network]

    async with ConnectionPool(Replicas(find)) as pool:
        with fail_after(60), pytest.raises(ConnectionFailed, match="no replica") as got:
            await pool.acquire()
        assert is_in(error, got.value)
        await anyio.sleep(2)
        await fill(pool, 1)


@each_oddity
async def test_a_rest_that_raises_what_is_no_exception_is_as_long_as_by_default(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked in the middle of an event, which comes to its end."""

    class Unsteady(Retry):
        def pause(self, repeat: int, draw: Callable[[], float] = float) -> float:
            raise make()

    async def refuse(number: int) -> None:
        raise OSError

    caplog.clear()
    network, well = MemoryNetwork(refuse), MemoryNetwork()
    async with ConnectionPool(Replicas([network, well], rest=Unsteady(1))) as pool:
        with fail_after(60):
            for _ in range(3):
                await pool.acquire()
        assert "the default's is taken" in caplog.text
        await settle()
        assert (network.open_now, well.open_now, pool.statistics().size) == (0, 3, 3)


@table("pause", [-1, math.nan, "1", None, "raise StopIteration"])
@table("settings", [{}, {"fail_fast_after": 60}])
async def test_a_pause_that_makes_no_sense_is_an_error(
    pause: object, settings: dict[str, Any]
) -> None:
    """Who waits gets it; the state machine doesn't reckon with it."""

    class Odd(Retry):
        def pause(self, repeat: int, draw: Callable[[], float] = float) -> Any:
            if pause == "raise StopIteration":
                raise StopIteration
            return pause

    async def refuse(number: int) -> None:
        if number == 1:
            raise OSError

    network = MemoryNetwork(refuse)
    async with ConnectionPool(network, connect_retry=Odd(3), **settings) as pool:
        # What is raised to end an iteration can't leave a coroutine.
        expected = (ValueError, TypeError, RuntimeError)
        with fail_after(60), pytest.raises(expected, match=r"the pause of connect_retry|StopIter"):
            await pool.acquire()
        await fill(pool, 1)
        await check_books(pool, network)


@table("pause", [-1, math.nan, "1", None])
async def test_a_pause_of_an_exchange_that_makes_no_sense_is_an_error(pause: Any) -> None:
    """Its caller gets it; an event loop may do anything with a time that is no number."""

    class Odd(Retry):
        def pause(self, repeat: int, draw: Callable[[], float] = float) -> Any:
            return pause

    async def refuse(number: int) -> None:
        raise OSError

    async with ConnectionPool(MemoryNetwork(refuse)) as pool:
        with pytest.raises((ValueError, TypeError), match="the pause of retry"):
            await pool.send_receive_line(b"a", retry=Odd(1))


class Unasked:
    """An observer that fails when it is asked for its name, as a proxy of nothing does."""

    def __call__(self, event: object) -> None:
        raise LookupError

    def __getattr__(self, name: str) -> Any:
        if name == "__qualname__":
            raise RuntimeError
        raise AttributeError


async def test_an_observer_may_have_no_name(caplog: pytest.LogCaptureFixture) -> None:
    """The log names its class."""
    async with ConnectionPool(MemoryNetwork(), observers=[Unasked()]) as pool:
        await fill(pool, 1)
    assert "the observer Unasked failed" in caplog.text


@each_oddity
async def test_a_read_function_that_raises_what_is_no_exception_breaks_one_connection(
    make: Make,
) -> None:
    """Those who share it get an error of their own each, and the next request is served."""

    async def read(connection: PooledConnection[Any]) -> bytes:
        await connection.receive_line()
        raise make()

    async def read_line(connection: PooledConnection[Any]) -> bytes:
        return await connection.receive_line()

    got: dict[object, BaseException] = {}

    async def ask(read: Callable[[PooledConnection[Any]], Any]) -> None:
        try:
            await pool.exchange(b"a\n", read)
        except BrokenResourceError as error:
            got[read] = error

    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1, pipeline=8) as pool:
        with fail_after(60):
            async with create_task_group() as tasks:
                for function in (read, read_line):
                    tasks.start_soon(ask, function)
                    await anyio.lowlevel.checkpoint()
            assert str(got[read]).startswith("reading the reply")
            assert isinstance(got[read].__cause__, BaseException)
            await pool.exchange(b"b\n", read_line)
        await check_books(pool, network)


@each_oddity
async def test_asking_what_is_harmless_may_raise_anything(make: Make) -> None:
    """The connection is closed, and whoever shares it gets an error."""

    class Strange(type):
        def __instancecheck__(cls, instance: object) -> bool:
            raise make()

    class Refused(Exception, metaclass=Strange):
        pass

    async def read(connection: PooledConnection[Any]) -> bytes:
        await connection.receive_line()
        raise LookupError

    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1, pipeline=8, harmless=(Refused,)) as pool:
        for _ in range(2):
            with fail_after(60), pytest.raises(LookupError):
                await pool.exchange(b"a\n", read)
            await settle()
        assert await pool.send_receive_line(b"b") == b"b"
        await check_books(pool, network)


@each_oddity
async def test_a_filter_of_the_log_may_raise_anything(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was to be done is done; the error is shown where logging shows those of handlers."""

    def refuse(record: logging.LogRecord) -> bool:
        raise make()

    async def fail_first(number: int) -> None:
        if number == 1:
            raise OSError

    names = ["pool", "housekeeper", "leaks", "observers"]
    loggers = [logging.getLogger(f"anyconnpool.{name}") for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addFilter(refuse)
        logger.setLevel(logging.DEBUG)
    try:
        network = MemoryNetwork(fail_first)
        async with ConnectionPool(network, observers=[lambda event: 1 // 0]) as pool:
            with pytest.raises(ConnectionFailed):
                await pool.acquire()
            for _ in range(2):
                await fill(pool, 2)
                pool.retire()
                await settle()
            network.peers[-1].look_error = make()
            await fill(pool, 1)
            await check_books(pool, network)
            await pool.acquire()
        assert network.open_now == 0
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeFilter(refuse)
            logger.setLevel(level)
    assert type(make()).__name__ in capsys.readouterr().err


@table("error", [SystemExit, KeyboardInterrupt])
def test_a_filter_of_the_log_may_end_the_program(error: type[BaseException]) -> None:
    """As everywhere."""

    def refuse(record: logging.LogRecord) -> bool:
        raise error

    async def run() -> None:
        async with ConnectionPool(network) as pool:
            await fill(pool, 1)

    network, logger = MemoryNetwork(), logging.getLogger("anyconnpool.pool")
    level = logger.level
    logger.addFilter(refuse)
    logger.setLevel(logging.DEBUG)
    try:
        with pytest.raises(error):
            anyio.run(run)
    finally:
        logger.removeFilter(refuse)
        logger.setLevel(level)
    assert network.open_now == 0


class NoText(ConnectionFailed):
    """Something is wrong with the class itself."""

    def __str__(self) -> str:
        raise LookupError


@table("make", [lambda: ConnectionFailed("no"), NoText, lambda: OSError(1, 2)])
@table("role", ["on_connect", "check"])
async def test_an_error_may_be_its_own_cause_and_have_no_text(
    make: Callable[[], Exception], role: str
) -> None:
    """``raise error from error`` makes a circle, which nobody follows for ever."""
    failing = [True]

    async def hook(connection: PooledConnection) -> None:
        if failing:
            failing.pop()
            try:
                raise make()
            except Exception as error:
                raise error from error

    settings: dict[str, Any] = {role: hook}
    if role == "check":
        settings["check_after"] = 0
    async with ConnectionPool(MemoryNetwork(), **settings) as pool:
        if role == "on_connect":
            with pytest.raises((ConnectionFailed, OSError)):
                await pool.acquire()
        for _ in range(3):
            await fill(pool, 1)
        assert not failing


async def test_addresses_may_have_no_text() -> None:
    """Of a stream of the user's: what is said of it says so."""

    class Strange:
        def __repr__(self) -> str:
            raise LookupError

        __str__ = __repr__

    class Stream(MemoryStream):
        @property
        def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
            return {**super().extra_attributes, SocketAttribute.local_address: Strange}

    class Network(MemoryNetwork):
        async def connect(self) -> MemoryStream:
            stream = await super().connect()
            stream.__class__ = Stream
            return stream

    network = Network()
    async with ConnectionPool(network) as pool:
        await fill(pool, 2)
        assert "addresses have no text" in pool.describe()
        pool.retire()
        await settle()
        await check_books(pool, network)
    assert network.open_now == 0


@each_oddity
async def test_what_chooses_the_retired_may_raise_anything(make: Make) -> None:
    """It leaves from retire() as it is, and nothing is retired."""
    error = make()

    def choose(info: object) -> bool:
        raise error

    async with ConnectionPool(MemoryNetwork()) as pool:
        await fill(pool, 2)
        with pytest.raises(type(error)) as got:
            pool.retire(where=choose)
        assert got.value is error
        await settle()
        assert pool.statistics().idle == 2


class OddFormat:
    """A format that can't do what it is asked for."""

    def __init__(self, method: str, make: Make) -> None:
        self._method, self._make = method, make

    def encode(self, data: bytes) -> bytes:
        if self._method == "encode":
            raise self._make()
        return data

    def decode(self, buffer: bytes, start: int, eof: bool) -> None:
        raise self._make()


@each_oddity
@table("pipeline", [1, 8])
@table("method", ["encode", "decode"])
async def test_a_format_may_raise_anything(make: Make, pipeline: int, method: str) -> None:
    """It leaves as it is from the call in its caller's own task; the connection isn't reused."""
    error = make()
    network = MemoryNetwork()
    async with ConnectionPool(network, max_size=1, pipeline=pipeline) as pool:
        with fail_after(60), pytest.raises(BaseException) as got:  # noqa: PT011
            await pool.send_receive_frame(b"a\n", OddFormat(method, lambda: error))
        assert got.value is error or isinstance(got.value, PoolError)
        await settle()
        assert await pool.send_receive_line(b"b") == b"b"
        await check_books(pool, network)


BODIES: list[type[BaseException]] = [
    StopIteration,
    StopAsyncIteration,
    GeneratorExit,
    Fatal,
    asyncio.CancelledError,
]


@table("kind", BODIES)
async def test_a_body_may_raise_anything(kind: type[BaseException]) -> None:
    """It leaves as the same object, from the borrow and from the block."""
    error, network = kind(), MemoryNetwork()
    with pytest.raises(kind) as got:
        async with ConnectionPool(network) as pool, pool.acquire():
            raise error
    assert got.value is error
    assert network.open_now == 0
