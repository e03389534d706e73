"""What those who make a mistake read: what happened, and what to do."""

from __future__ import annotations

import copy
import logging
import pickle
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from decimal import Decimal
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import ByteStreamConnectable

from anyconnpool import (
    ConnectionPool,
    FramedStream,
    KeepAlive,
    LineFormat,
    PackageFormat,
    PoolClosed,
    PooledConnection,
    PoolManager,
    Replicas,
    Retry,
)
from anyconnpool.events import PoolObserver
from anyconnpool.testing import (
    FaultProxy,
    Faults,
    Flow,
    MemoryConnectable,
    ScriptedPeer,
    assert_clean,
    virtual_clock_backend,
)
from tests.cases import in_case

from .network import MemoryNetwork, delayed, fill, peer_of, settle

Use: TypeAlias = Callable[[Any], object]

REMOTE = ("127.0.0.1", 8999)
HUGE = 10**400
ENORMOUS = 10**5000


class Number:
    """A number that is not one of Python's own, as NumPy has them."""

    def __index__(self) -> int:
        return 4

    def __float__(self) -> float:
        return 4.0


class Escaping:
    """Something whose text would reach a terminal."""

    def __repr__(self) -> str:
        return "\x1b[31m\n"


class Unprintable:
    """Something that fails when it is shown."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


def make(**settings: Any) -> ConnectionPool:
    return ConnectionPool(REMOTE, **settings)


async def read(connection: PooledConnection[Any]) -> bytes:
    return await connection.receive_line()


async def generate(connection: PooledConnection[Any]) -> AsyncGenerator[bytes]:
    yield await connection.receive_line()


async def without_parameters() -> None:
    """Take nothing where a connection is given."""


async def send_and_read(connection: PooledConnection[Any]) -> bytes:
    return await connection.send_receive_line(b"more")


async def read_and_leave(connection: PooledConnection[Any]) -> bytes:
    async with connection:
        return await connection.receive_line()


def make_one(kind: Any, name: str, others: dict[str, int], value: object) -> object:
    return kind(**others, **{name: value})


def test_wrong_numbers_are_refused_whatever_they_are() -> None:
    """The text is short and says what to do; nothing but a TypeError or a ValueError is raised."""
    makers: dict[str, Callable[[Any], object]] = {
        "max_size": lambda value: make(max_size=value),
        "min_idle": lambda value: make(min_idle=value),
        "max_uses": lambda value: make(max_uses=value),
        "max_line_bytes": lambda value: make(max_line_bytes=value),
        "acquire_timeout": lambda value: make(acquire_timeout=value),
        "max_idle_time": lambda value: make(max_idle_time=value),
        "a port": lambda value: ConnectionPool(("127.0.0.1", value)),
        "max_total": lambda value: PoolManager(max_total=value),
        "timeout": lambda value: make().acquire(timeout=value),
    }
    for any_class, names in (
        (Retry, ["interval", "backoff", "max_interval", "jitter"]),
        (KeepAlive, ["idle", "interval", "count", "user_timeout"]),
        (PackageFormat, ["header_size", "max_size"]),
        (LineFormat, ["max_bytes"]),
    ):
        more = {"count": 1} if any_class is Retry else {}
        for name in names:
            makers[name] = partial(make_one, any_class, name, more)
    makers["count"] = Retry
    odd: list[object] = [HUGE, -HUGE, ENORMOUS, -ENORMOUS, float("nan"), True, 1j, "4", b"4", {}]
    odd += [Decimal(4), Number(), Unprintable(), Escaping(), "\x1b[31m\0\udcff"]
    for name, maker in makers.items():
        for value in odd:
            with in_case(name):
                with pytest.raises((TypeError, ValueError)) as caught:
                    maker(value)
                text = str(caught.value)
                assert text.startswith(name)
                assert text.isprintable()
                assert len(text) < 300


#: as somebody without a type checker makes one
pool_of: Any = ConnectionPool

Row: TypeAlias = tuple[Use, type[Exception], str]

#: what somebody did with a pool that is running, and what the answer says
MISTAKES: list[Row] = [
    # settings
    (lambda _: make(max_size=HUGE), ValueError, "use math.inf for no limit"),
    (lambda _: make(max_size=ENORMOUS), ValueError, "not an int of 16610 bits"),
    (lambda _: make(connect_timeout=HUGE), ValueError, "too large for a number of seconds"),
    (lambda _: make(connect_timeout=Decimal(1)), TypeError, "convert it with float()"),
    (lambda _: make(max_size=Number()), TypeError, "convert it with int()"),
    (lambda _: make(max_connections=5), TypeError, "did you mean max_size?"),
    (lambda _: make(retry=3), TypeError, "did you mean connect_retry?"),
    (lambda _: make(connect_retry=3), TypeError, "a Retry or None, not int: write Retry(3)"),
    (lambda _: make(connect_retry=Retry), TypeError, "not the class itself"),
    (lambda _: make(keepalive=False), TypeError, "must be a KeepAlive or None, not bool"),
    (lambda _: make(tls="yes"), TypeError, "tls must be a bool, not str"),
    (lambda _: make(tls=True, tls_hostname=b"h"), TypeError, "tls_hostname must be a str"),
    (lambda _: ConnectionPool(("h", "6379")), TypeError, "not '6379': write 6379"),  # type: ignore[arg-type]
    (lambda _: ConnectionPool(("h:80", 80)), ValueError, "stands after it in the tuple"),
    (lambda _: ConnectionPool(("[::1]", 80)), ValueError, "without brackets"),
    (lambda _: ConnectionPool("/run/a\0b"), ValueError, "must not contain NUL"),
    (lambda _: pool_of("h", 6379), TypeError, "a tuple: write ConnectionPool(('h', 6379))"),
    (lambda _: pool_of("h", 1, tls=True), TypeError, "write ConnectionPool(('h', 1))"),
    (lambda _: pool_of(("h", 1), 5), TypeError, "takes 2 positional arguments but 3"),
    (lambda _: pool_of("h", 1, 5), TypeError, "takes 2 positional arguments but 4"),
    (lambda _: FramedStream(5), TypeError, "must be a byte stream of AnyIO's, not 5"),  # type: ignore[arg-type]
    # entering and acquiring
    (lambda p: p.acquire().send_line(b"x"), AttributeError, "async with pool.acquire() as"),
    (lambda p: p.acquire().__enter__(), TypeError, 'AcquireContext is entered by "async with", '),
    (lambda p: p.__enter__(), TypeError, '"async with", not by "with"'),
    (lambda _: PoolManager().__enter__(), TypeError, '"async with", not by "with"'),  # type: ignore[attr-defined]
    (lambda p: p.__reduce_ex__(2), TypeError, "make a pool in each process"),
    # exchanges
    (lambda p: p.send("x"), TypeError, "what is sent must be bytes, not str: encode it first"),
    (lambda p: p.send_receive_line("x"), TypeError, "a line must be bytes, not str: encode it"),
    (lambda p: p.send_line(b"x", newline="\n"), TypeError, "the newline must be bytes, not str"),
    (lambda p: p.send_receive(b"x", "4"), TypeError, "nbytes must be an int"),
    (lambda p: p.send_receive(b"x", 4.0), TypeError, "nbytes must be an int"),
    (lambda p: p.send_receive_line(b"x", max_bytes="4"), TypeError, "max_bytes must be an int"),
    (lambda p: p.send_receive_package(b"x", 4), TypeError, "not int: write PackageFormat(4)"),
    (lambda p: p.send_receive_line(b"x", retry=3), TypeError, "not int: write Retry(3)"),
    (lambda p: p.send_receive_line(b"x", timeout=HUGE), ValueError, "timeout is too large"),
    (lambda p: p.send_frame(b"x", None), TypeError, "encode() and decode(), which None has not"),
    (lambda p: p.send_receive_frame(b"x", LineFormat), TypeError, "write LineFormat()"),
    (lambda p: p.run(None), TypeError, "given without a call of it"),
    (lambda p: p.exchange("x", read), TypeError, "the request must be bytes, not str: encode it"),
    (lambda p: p.exchange(read, b"x"), TypeError, "the request must be bytes, not function"),
    (lambda p: p.exchange(b"x", 5), TypeError, "which receives the reply, given without a call"),
    (lambda p: p.exchange(b"x", read, retry=2), TypeError, "not int: write Retry(2)"),
    (lambda p: p.exchange(b"x", read, timeout="5"), TypeError, "must be a number of seconds"),
    (lambda p: p.retire(where="x"), TypeError, "where must be a plain function or None, not 'x'"),
    (lambda p: p.retire(where=read), TypeError, "or None, not the async function read"),
    (lambda p: p.describe(limit="x"), TypeError, "limit must be an int or math.inf"),
    (lambda p: p.open(), RuntimeError, "pool 'mem' is open already"),
    (lambda p: p.serve(), RuntimeError, "pool 'mem' is open already"),
    (lambda p: p.aclose(), RuntimeError, "aclose() ends what open() or serve() has begun"),
    (lambda p: make(name="x").aclose(), RuntimeError, "pool 'x' was not opened"),
    (
        lambda p: make(name="x").exchange(b"x", read),
        PoolClosed,
        "or open it with serve() or open()",
    ),
    (lambda p: PoolManager().retire(), PoolClosed, "has not been entered"),
    (lambda p: copy.copy(p), TypeError, "can't be pickled or copied"),
    (lambda p: pickle.dumps(PoolManager()), TypeError, "make a manager in each process"),
    (lambda p: copy.copy(PoolManager()), TypeError, "make a manager in each process"),
]

#: the same, where a connection is needed to see it
CALLS: list[Row] = [
    (lambda p: p.run(bool), TypeError, "bool returned bool, which can't be awaited"),
    (lambda p: p.exchange(b"x\n", bool), TypeError, "the read function must be an async function"),
    (lambda p: p.exchange(b"x\n", generate), TypeError, "returned async_generator, which can't be"),
    (lambda p: p.exchange(b"x\n", send_and_read), RuntimeError, "only reads: it must not send on"),
    (lambda p: p.exchange(b"x\n", read_and_leave), RuntimeError, "only reads: it must not close"),
    (
        lambda p: p.send_receive_frame(b"x", Odd((b"x", 9))),
        ValueError,
        "found a frame that ends at 9",
    ),
    (lambda p: p.send_receive_frame(b"x", Odd(9)), TypeError, "must return None, or a tuple of"),
]


class Odd(Unprintable):
    """A frame format that can't be shown, and is wrong."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def encode(self, data: bytes) -> bytes:
        return data

    def decode(self, buffer: bytes, start: int, eof: bool) -> Any:
        return self.found


class NotAsync(ByteStreamConnectable):
    """A connectable whose connect is no coroutine function."""

    def connect(self) -> Any:
        return None


#: what somebody made, or set
MADE: list[Row] = [
    # settings
    (lambda _: make(pipeline=float("inf")), TypeError, "pipeline must be an int, not inf"),
    (lambda _: make(pipeline=True), TypeError, "pipeline must be an int, not True"),
    (lambda _: make(pipeline=4, one_way=True), ValueError, "no replies: pipeline must be 1"),
    (lambda _: make(stall_timeout=0), ValueError, "math.inf switches it off"),
    (lambda _: make(check_every=0), ValueError, "math.inf switches it off"),
    (lambda _: make(stall_timeout=None), TypeError, "(math.inf for no limit), not NoneType"),
    (lambda _: make(harmless=ValueError), TypeError, "write (ValueError,)"),
    (lambda _: make(on_close="QUIT"), TypeError, "on_close must be an async function, not 'QUIT'"),
    (lambda _: make(newline="\r\n"), TypeError, "newline must be bytes, not str: encode it first"),
    (lambda _: make(fail_fast_after=None), TypeError, "fail_fast_after must be a number"),
    (lambda _: make(check_every=5), ValueError, "check_every needs a check"),
    (lambda _: make(observers=[PoolObserver]), TypeError, "write PoolObserver()"),
    (lambda _: make(reset=read), TypeError, "did you mean on_release?"),
    (lambda _: make(on_disconnect=read), TypeError, "did you mean on_close?"),
    (lambda _: make(min_connections=1), TypeError, "did you mean min_idle?"),
    (lambda _: make(health_check=read), TypeError, "did you mean check?"),
    (lambda _: make(circuit_breaker=5), TypeError, "did you mean fail_fast_after?"),
    (lambda _: make(pipelining=5), TypeError, "did you mean pipeline?"),
    (lambda _: make(password="s3cret"), TypeError, "'password': log in in on_connect"),
    (lambda _: make(max_total=5), TypeError, "a PoolManager has it"),
    (lambda _: make(replicas=[REMOTE]), TypeError, "several servers are the pool's remote"),
    (lambda _: make(read_timeout=5), TypeError, "exchanges have timeout="),
    (lambda _: PoolManager(tls=True, tls_hostname="h"), TypeError, "leave out tls_hostname"),  # type: ignore[call-overload]
    (lambda _: PoolManager(max_total=2, min_idle=3), ValueError, "must not exceed max_total, 2"),
    # remotes
    (lambda _: ConnectionPool((("a", 1), ("b", 2))), TypeError, "write Replicas([…])"),  # type: ignore[arg-type]
    (lambda _: ConnectionPool({("a", 1)}), TypeError, "write Replicas([…])"),  # type: ignore[call-overload]
    (lambda _: ConnectionPool(read), TypeError, "write Replicas([…])"),  # type: ignore[call-overload]
    (lambda _: ConnectionPool(Replicas), TypeError, "give an object, not its class"),  # type: ignore[call-overload]
    (lambda _: ConnectionPool(FaultProxy(REMOTE)), TypeError, "give its attribute, remote"),  # type: ignore[call-overload]
    (lambda _: ConnectionPool({"password": "s3cret"}), TypeError, "of type dict"),  # type: ignore[call-overload]
    (lambda _: ConnectionPool((b"me:s3cret@h", 1)), TypeError, "of type bytes"),  # type: ignore[arg-type]
    (lambda _: ConnectionPool(urlsplit("tcp://me:s3cret@h:1")), ValueError, "of 5 items"),  # type: ignore[arg-type]
    (lambda _: ConnectionPool.from_url("tcp://a:1,b:2"), ValueError, "names more than one server"),
    (lambda _: Replicas({"a": 1}), TypeError, "must be a collection of remotes"),
    (lambda _: Replicas("me:s3cret@h:1"), TypeError, "must be a collection of remotes"),
    (lambda _: Replicas(["tcp://a:1"]), ValueError, "a remote is no URL"),
    (lambda _: Replicas(make()), TypeError, "a ConnectionPool can't be one of several"),  # type: ignore[arg-type]
    (lambda _: Replicas(Replicas([REMOTE])), TypeError, "a Replicas can't be one of several"),  # type: ignore[arg-type]
    (lambda _: Replicas([REMOTE], rest=5), TypeError, "write Retry(5)"),  # type: ignore[arg-type]
    (lambda _: Replicas.from_dns("me:s3cret@h", 1), ValueError, "no user, no password"),
    (lambda _: Replicas.from_dns("h", 1).set([REMOTE]), RuntimeError, "an async function finds"),
    (lambda _: Replicas([REMOTE]).set(("h", 2)), TypeError, "write [('h', 2)]"),  # type: ignore[arg-type]
    # formats and streams
    (lambda _: PackageFormat(byteorder=Unprintable()), ValueError, "an object of type Unprint"),  # type: ignore[arg-type]
    (lambda _: LineFormat(b"ab" * 999).encode(b"ab" * 999 + b"c"), ValueError, "b'abab"),
    (lambda _: FramedStream(make()), TypeError, "must be a byte stream of AnyIO's"),  # type: ignore[arg-type]
    (lambda _: FramedStream(FramedStream), TypeError, "must be a byte stream of AnyIO's"),  # type: ignore[arg-type]
    # the testing kit
    (lambda _: MemoryConnectable(Unprintable()), TypeError, "an object of type Unprintable"),  # type: ignore[arg-type]
    (lambda _: MemoryConnectable([(b"a", b"b")]), TypeError, "peer must be an async function"),  # type: ignore[arg-type]
    (lambda _: MemoryConnectable(read).connect(), RuntimeError, '"async with remote:"'),  # type: ignore[arg-type]
    (lambda _: ScriptedPeer(None), TypeError, "a list of pairs of bytes, not None"),  # type: ignore[arg-type]
    (lambda _: ScriptedPeer([("a", "b")]), TypeError, "pairs of bytes, a request and a reply"),  # type: ignore[list-item]
    (lambda _: ScriptedPeer([Escaping()]), TypeError, "not \\x1b[31m\\n"),  # type: ignore[list-item]
    (lambda _: FaultProxy(REMOTE, faults=Flow()), TypeError, "write Faults(replies=…)"),  # type: ignore[arg-type]
    (lambda _: FaultProxy(REMOTE, faults=Unprintable()), TypeError, "an object of type"),  # type: ignore[arg-type]
    (lambda _: FaultProxy(REMOTE, path=5), TypeError, "a UNIX socket to listen on, not 5"),  # type: ignore[arg-type]
    (lambda _: FaultProxy(REMOTE).remote, RuntimeError, '"async with proxy:"'),
    (lambda _: Faults(replies=Escaping()), TypeError, "must be a Flow, not \\x1b[31m\\n"),  # type: ignore[arg-type]
    (lambda _: assert_clean(Escaping()), TypeError, "a pool or a manager, not \\x1b"),  # type: ignore[arg-type]
    (lambda _: virtual_clock_backend("uvloop"), ValueError, 'are "asyncio" and "trio"'),
]

#: the same with a connection
READS: list[Row] = [
    (lambda c: c.receive("4"), TypeError, "max_bytes must be an int"),
    (lambda c: c.receive_exactly("4"), TypeError, "nbytes must be an int"),
    (lambda c: c.receive_exactly(4.0), TypeError, "nbytes must be an int"),
    (lambda c: c.receive_until("x", 4), TypeError, "the delimiter must be bytes, not str"),
    (lambda c: c.receive_until(b"x", "4"), TypeError, "max_bytes must be an int"),
    (lambda c: c.receive_line(newline="x"), TypeError, "the delimiter must be bytes, not str"),
    (lambda c: c.receive_line(max_bytes="4"), TypeError, "max_bytes must be an int"),
    (lambda c: c.receive_line(max_bytes=4.5), TypeError, "max_bytes must be an int"),
    (lambda c: c.receive_frame(b"x"), TypeError, "encode() and decode(), which b'x' has not"),
    (lambda c: c.receive_frame(LineFormat), TypeError, "write LineFormat()"),
    (lambda c: c.feed_data("x"), TypeError, "data must be bytes, not str"),
    (lambda c: c.send("x"), TypeError, "what is sent must be bytes, not str: encode it first"),
    (lambda c: copy.copy(c), TypeError, "two would read one connection"),
    (lambda c: pickle.dumps(c), TypeError, "two would read one connection"),
]


async def expect(use: Use, subject: object, kind: type[Exception], text: str) -> None:
    """See that a use fails with a text."""
    with in_case(text), anyio.fail_after(5):
        with pytest.raises(kind) as caught:
            result = use(subject)
            if isinstance(result, Awaitable):
                await result
        error = caught.value
        assert type(error).__name__ == kind.__name__
        assert text in str(error)
        assert str(error).isprintable()
        assert len(str(error)) < 400
        assert "s3cret" not in str(error)
        assert not type(error).__module__.startswith("anyconnpool._")
        arrived = pickle.loads(pickle.dumps(error))
        assert (type(arrived).__name__, str(arrived)) == (kind.__name__, str(error))


async def test_the_answer_to_a_mistake_says_what_to_do() -> None:
    """Those who read it need not read our source."""
    network = MemoryNetwork()
    async with ConnectionPool(network, name="mem") as pool:
        for row in MISTAKES + MADE:
            await expect(row[0], pool, *row[1:])
        assert network.attempts == 0
        for row in CALLS:
            await expect(row[0], pool, *row[1:])
        async with pool.acquire() as connection:
            for row in READS:
                await expect(row[0], connection, *row[1:])
    async with ConnectionPool(network, name="shared", pipeline=4) as pool:
        for row in CALLS:
            await expect(row[0], pool, *row[1:])


async def test_a_plain_with_is_answered_with_the_name_of_what_was_entered() -> None:
    """The text begins with it."""
    async with ConnectionPool(MemoryNetwork()) as made:
        pool: Any = made
        with pytest.raises(TypeError, match=r"^AcquireContext is entered by"):
            pool.acquire().__enter__()


class Wrong:
    """A frame format that somebody got wrong."""

    def __init__(self, encoded: Any = b"x", found: Any = None) -> None:
        self.encoded = encoded
        self.found = found

    def encode(self, data: Any) -> Any:
        return self.encoded

    def decode(self, buffer: bytes, start: int, eof: bool) -> Any:
        return self.found


async def test_a_wrong_format_is_told_from_a_wrong_reply() -> None:
    """The error says which of its methods gives what it shouldn't."""
    async with ConnectionPool(MemoryNetwork()) as pool:
        text = "what encode() of the format makes must be bytes, not str: encode it first"
        await expect(lambda p: p.send_frame(b"x", Wrong("x")), pool, TypeError, text)
        for found in (b"frame", (b"frame", "1"), 4, [b"frame"]):
            text = "must return None, or a tuple of the frame and the index at which it ends, not "
            text += type(found).__name__
            wrong = Wrong(found=found)
            await expect(lambda p, w=wrong: p.send_receive_frame(b"x", w), pool, TypeError, text)  # type: ignore[misc]


async def test_use_after_release_says_so() -> None:
    """Of a connection and of a stream; nothing is empty."""
    network = MemoryNetwork()
    uses: list[Use] = [
        *(lambda c: c.receive(), lambda c: c.send(b"x"), lambda c: c.receive_line()),
        *(lambda c: c.discard(), lambda c: c.detach(), lambda c: c.feed_data(b"x")),
    ]
    async with ConnectionPool(network) as pool:
        async with pool.acquire() as connection:
            pass
        for use in uses:
            text = "given back, discarded or detached already: use it inside its async with block"
            await expect(use, connection, anyio.ClosedResourceError, text)
    stream = FramedStream(await network.connect())
    await stream.aclose()
    await expect(uses[0], stream, anyio.ClosedResourceError, "this stream was closed already")


async def test_a_timeout_tells_how_far_the_reply_had_come() -> None:
    """With bytes, but not all of them, somebody waits for the wrong end."""
    async with ConnectionPool(MemoryNetwork(answer=lambda data: b"ab"), name="mem") as pool:
        with pytest.raises(TimeoutError) as caught:
            await pool.send_receive_line(b"x", newline=b"\r\n", timeout=2)
        assert str(caught.value) == (
            "no reply from pool 'mem' within 2 s: sent 3 bytes, received 2 without a newline, "
            "b'\\r\\n'"
        )
        with pytest.raises(TimeoutError) as caught:
            await pool.send_receive(b"x", 3, timeout=2)
        assert str(caught.value).endswith("sent 1 bytes, received 2, which is not the whole reply")


@pytest.mark.parametrize("pipeline", [1, 4])
async def test_no_end_is_told_by_nothing(pipeline: int) -> None:
    """Streams of others raise AnyIO's errors without a text."""
    network, texts = MemoryNetwork(answer=lambda data: b""), list[str]()
    async with ConnectionPool(network, pipeline=pipeline, max_size=1) as pool:

        async def ask() -> None:
            with pytest.raises(anyio.EndOfStream) as caught:
                await pool.send_receive_line(b"x")
            texts.append(str(caught.value))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await settle()
            network.peers[0].hang_up()
        async with pool.acquire() as connection:
            peer_of(connection).hang_up()
            with pytest.raises(anyio.EndOfStream, match="the peer has closed the connection"):
                await connection.receive()
            with pytest.raises(anyio.BrokenResourceError, match="the connection is lost"):
                await connection.send(b"x")
    assert texts == ["the peer has closed the connection"]


@pytest.mark.parametrize("exchange", ["line", "read"])
async def test_on_a_shared_connection_it_does_so_too(exchange: str) -> None:
    """Whose reply has come in part is known; those behind have nothing yet."""
    network, texts = MemoryNetwork(answer=lambda data: b""), list[str]()
    async with ConnectionPool(network, name="mem", max_size=1, pipeline=4) as pool:

        async def ask() -> None:
            with pytest.raises(TimeoutError) as caught:
                if exchange == "line":
                    await pool.send_receive_line(b"x", timeout=2)
                else:
                    await pool.exchange(b"x\n", read, timeout=2)
            texts.append(str(caught.value))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.send_receive_line, b"first")
            for _ in range(2):
                await settle()
                tasks.start_soon(ask)
            await settle()
            network.peers[0].push(b"first\nab")
            await anyio.sleep(3)
            network.peers[0].push(b"\nc\n")
    sent = "no reply from pool 'mem' within 2 s: sent 2 bytes, received "
    # They run out of time in one moment.
    lacks = {"line": " without a newline, b'\\n'", "read": ", which is not the whole reply"}
    assert sorted(texts) == [f"{sent}0", f"{sent}2{lacks[exchange]}"]


@pytest.mark.parametrize("role", ["on_connect", "check", "on_release", "on_unread", "on_close"])
async def test_a_hook_that_takes_no_connection_is_told_so(
    role: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log too, which names the type alone of what a hook raises itself."""
    caplog.set_level(logging.DEBUG, "anyconnpool")
    hooks: dict[str, Any] = {role: without_parameters}
    if role == "check":
        hooks["check_after"] = 0
    network = MemoryNetwork()
    async with ConnectionPool(network, **hooks) as pool:
        if role == "on_connect":
            with pytest.raises(TypeError, match="on_connect must take one argument: without_par"):
                await pool.acquire()
        else:
            await fill(pool, 1)
            network.peers[0].push(b"x" if role == "on_unread" else b"")
            await anyio.sleep(6)
            await fill(pool, 1)
    assert f"{role} must take one argument: without_parameters() takes 0 positional" in caplog.text


async def test_a_connect_that_is_not_async_is_told_so() -> None:
    """As a hook is, by the name of what was given."""
    async with ConnectionPool(NotAsync(), name="mem") as pool:
        with pytest.raises(TypeError, match=r"connect\(\) of mem must be an async function"):
            await pool.acquire()


async def test_a_read_function_does_not_tell_the_others_what_it_has_read() -> None:
    """What it raises may quote a reply, which is its caller's alone."""
    network, texts = MemoryNetwork(answer=lambda data: b""), set[str]()

    async def refuse(connection: PooledConnection[Any]) -> None:
        raise LookupError(await connection.receive_line())

    async def ask(function: Callable[[PooledConnection[Any]], Awaitable[object]]) -> None:
        try:
            await pool.exchange(b"?\n", function)
        except Exception as error:
            texts.add(str(error))

    async with (
        ConnectionPool(network, max_size=1, pipeline=4) as pool,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(ask, refuse)
        await settle()
        tasks.start_soon(ask, read)
        await settle()
        network.peers[0].push(b"s3cret\n")
    assert texts == {"b's3cret'", "the reply before this one could not be read: LookupError"}


async def test_a_function_is_named_without_its_arguments() -> None:
    """They may be a password."""

    def log_in(connection: PooledConnection, password: str) -> None:
        """Be no async function."""

    hook: Any = partial(log_in, password="s3cret")
    async with ConnectionPool(MemoryNetwork(), on_connect=hook) as pool:
        with pytest.raises(TypeError) as caught:
            await pool.acquire()
    assert str(caught.value) == (
        f"on_connect must be an async function, but {log_in.__qualname__} returned NoneType, which "
        f"can't be awaited"
    )


async def test_each_caller_gets_an_error_of_its_own() -> None:
    """Those who share the failure of an attempt, and those who wait for the pool to be ready."""
    caught: list[Exception] = []

    async def refuse(number: int) -> None:
        raise anyio.ConnectionFailed(f"refused: {number}")

    async def catch(use: Callable[[], Awaitable[object]]) -> None:
        try:
            await use()
        except Exception as error:
            caught.append(error)

    retry = Retry(2, interval=1, jitter=0)
    async with (
        ConnectionPool(MemoryNetwork(refuse), connect_retry=retry) as pool,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(4):
            tasks.start_soon(catch, pool.acquire().__aenter__)
    for hook in (refuse, delayed(1e9)):
        async with (
            anyio.create_task_group() as tasks,
            ConnectionPool(MemoryNetwork(hook), min_idle=1) as pool,
        ):
            for _ in range(3):
                tasks.start_soon(catch, pool.wait_ready)
            await settle()
    assert [type(error) for error in caught] == [anyio.ConnectionFailed] * 7 + [PoolClosed] * 3
    # Those who share a failure read the same text.
    assert len({str(error) for error in caught}) < 10
    assert len({id(error) for error in caught}) == 10
    if sys.version_info >= (3, 11):
        for number, error in enumerate(caught):
            error.add_note(str(number))
        assert [error.__notes__ for error in caught] == [[str(n)] for n in range(10)]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if (record.name, record.levelno) == ("anyconnpool.pool", logging.WARNING)
    ]


async def test_a_pool_that_should_be_one_way_is_told_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ten closes in a row after a send; what ends otherwise in between begins the count anew."""
    network = MemoryNetwork(answer=lambda data: b"")
    async with ConnectionPool(network, name="mem") as pool:
        for _ in range(9):
            await pool.send_line(b"x")
        await fill(pool, 1)
        for _ in range(9):
            await pool.send_line(b"x")
        assert warnings_in(caplog) == []
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(pool.send_line, b"x")
    (warning,) = warnings_in(caplog)
    assert warning.startswith("pool mem: the last 10 connections were closed after one borrow")
    assert "make the pool with one_way=True, else receive each reply" in warning


async def test_what_is_right_after_a_send_is_not_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In a pool that is one way, and where the body raised or discarded."""
    network = MemoryNetwork(answer=lambda data: b"")
    async with ConnectionPool(network, one_way=True) as pool:
        for _ in range(30):
            await pool.send_line(b"x")
    async with ConnectionPool(network) as pool:
        for _ in range(30):
            async with pool.acquire() as connection:
                await connection.send_line(b"x")
                connection.discard()
            with pytest.raises(LookupError):
                async with pool.acquire() as connection:
                    await connection.send_line(b"x")
                    raise LookupError
    assert warnings_in(caplog) == []


async def test_a_greeting_that_nobody_reads_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Three new connections in a row are closed for unread data, and none was ever reused."""

    async def be_greeted(times: int) -> None:
        for _ in range(times):
            async with pool.acquire() as connection:
                peer_of(connection).push(b"hello\n")
            await settle()

    async with ConnectionPool(MemoryNetwork(), name="mem") as pool:
        for _ in range(5):
            await be_greeted(2)
            await fill(pool, 1)
            await fill(pool, 1)
            pool.acquire_nowait().discard()
            await settle()
        assert pool.statistics().closed["unread_data"] == 10
        assert warnings_in(caplog) == []
        await be_greeted(12)
    (warning,) = warnings_in(caplog)
    assert warning.startswith("pool mem: the last 3 connections were closed after their first use")
    assert "receive the greeting in on_connect" in warning


async def test_a_task_that_waits_for_itself_is_warned_of_once_a_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After five seconds; others that wait, and waits for a slow connect, are not named."""

    async def wait(pool: ConnectionPool, *, holding: bool) -> None:
        if holding:
            async with pool.acquire():
                await wait(pool, holding=False)
        else:
            with anyio.move_on_after(60):
                await pool.acquire()

    warning = ""
    async with (
        ConnectionPool(MemoryNetwork(), name="mem", max_size=1) as pool,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(partial(wait, holding=True), pool, name="selfish")
        await settle()
        tasks.start_soon(partial(wait, holding=False), pool, name="patient")
        await anyio.sleep(4.9)
        assert warnings_in(caplog) == []
        await anyio.sleep(5.2)
        (warning,) = warnings_in(caplog)
        await anyio.sleep(40)
        assert warnings_in(caplog) == [warning]
    assert warning == (
        "pool mem: task 'selfish' has been waiting for a connection for 5 s or longer, and holds 1 "
        "of the 1 in use itself: have it use what it holds, or give it back before it asks for "
        "another"
    )
    caplog.clear()
    async with ConnectionPool(MemoryNetwork(delayed(0, 1e9)), connect_timeout=100) as pool:
        await wait(pool, holding=True)
    assert warnings_in(caplog) == []


async def test_a_task_that_waits_for_what_it_holds_of_another_remote_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In a manager whose limit it uses up; not where something else makes it wait."""
    one, other, down = MemoryNetwork(), MemoryNetwork(), MemoryNetwork(delayed(1e9))

    async def hold(manager: PoolManager, remote: MemoryNetwork) -> None:
        async with manager.acquire(one):
            with anyio.move_on_after(30):
                await (await manager.acquire(remote)).aclose()

    async with (
        PoolManager(max_total=9, max_size=2, connect_timeout=100) as manager,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(hold, manager, down)
        async with manager.acquire(other), manager.acquire(other):
            tasks.start_soon(hold, manager, other)
            await anyio.sleep(29)
    assert warnings_in(caplog) == []
    async with PoolManager(max_total=2) as manager, anyio.create_task_group() as tasks:
        tasks.start_soon(hold, manager, other, name="selfish")
        tasks.start_soon(hold, manager, other, name="selfish too")
    told = warnings_in(caplog)
    assert {line.partition(" has been")[0] for line in told} == {
        "pool MemoryNetwork: task 'selfish'",
        "pool MemoryNetwork: task 'selfish too'",
    }
    assert len(told) == 2
    assert all("and holds 1 of the 2 in use itself: have it use what it holds" in t for t in told)
