"""How streams of TLS begin, are cancelled and are closed; no way leaves a socket open."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, TypeAlias

import pytest
from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    aclose_forcefully,
    create_task_group,
    fail_after,
    sleep_forever,
)

from anyconnpool._remote import TLSOptions
from anyconnpool._streams.connect import on_trio, open_tcp_socket
from anyconnpool._streams.socket_stream import PoolSocketStream
from anyconnpool._streams.tls_connect import open_tls_stream
from anyconnpool._util.liveness import ALIVE, CLOSED
from tests.certificates import client_context

from .opening import connect_to
from .tls_peers import (
    LIMIT,
    VERSIONS,
    CountingCodec,
    Script,
    Wire,
    client_sockets,
    connected,
    eventually,
    listening,
    read_by_the_loop,
    server_context,
    turns,
)

each_version = pytest.mark.parametrize("version", VERSIONS)
HTTP_ANSWER = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"

Operation: TypeAlias = Callable[[], Coroutine[Any, Any, Any]]


class Cancellable:
    """An operation in a task of its own, to be cancelled by a scope or natively.

    :param operation: what to run
    :param native: whether to cancel it with asyncio's own means
    """

    def __init__(self, operation: Operation, *, native: bool) -> None:
        self._operation, self._native = operation, native
        self._scope = CancelScope()
        self._task: asyncio.Task[Any] | None = None
        self.ended = Event()
        self.result: Any = None

    async def run(self) -> None:
        try:
            if self._native:
                self._task = asyncio.ensure_future(self._operation())
                with suppress(asyncio.CancelledError):
                    self.result = await self._task
            else:
                with self._scope:
                    self.result = await self._operation()
        finally:
            self.ended.set()

    def cancel(self) -> None:
        if self._native:
            assert self._task is not None
            self._task.cancel()
        else:
            self._scope.cancel()


async def cancelled(operation: Operation, native: bool, *meanwhile: Operation) -> Any:
    """Run an operation, let something happen meanwhile, cancel it; return what it returned."""
    run = Cancellable(operation, native=native)
    async with create_task_group() as group:
        group.start_soon(run.run)
        await turns(1)
        for happening in meanwhile:
            await happening()
        run.cancel()
    return run.result


@pytest.fixture(params=["by scope", "natively"])
def native(request: pytest.FixtureRequest, anyio_backend: tuple[str, object]) -> bool:
    """Tell whether to cancel natively, which only asyncio has."""
    native: bool = request.param == "natively"
    if native and anyio_backend[0] == "trio":
        pytest.skip("trio has scopes only")
    return native


async def silent(wire: Wire) -> None:
    await sleep_forever()


async def polite(wire: Wire) -> None:
    """Shake hands and say nothing more."""
    with suppress(OSError):
        await wire.shake_hands()


# Handshakes that fail.


async def failure_of(script: Script, **options: Any) -> BaseException:
    """Return what connecting raises, and see that no socket of the client's is open by then."""
    options.setdefault("ssl_context", client_context())
    error: BaseException | None = None
    async with listening(script, options.pop("context", None)) as address:
        with fail_after(LIMIT):
            try:
                await connect_to(address, TLSOptions(**options))
            except Exception as caught:
                error = caught
        assert error is not None
        assert not client_sockets(address)
    return error


async def test_a_server_without_tls_is_an_ssl_error() -> None:
    """A plain HTTP server's answer ends the handshake."""

    async def script(wire: Wire) -> None:
        await wire.read()
        wire.send(HTTP_ANSWER)

    async def script_that_speaks_first(wire: Wire) -> None:
        wire.send(b"220 Welcome\r\n")

    for speak in (script, script_that_speaks_first):
        error = await failure_of(speak)
        assert isinstance(error, ssl.SSLError)
        assert not isinstance(error, ssl.SSLEOFError)


async def test_a_wrong_certificate_comes_through_and_the_server_is_told() -> None:
    """A name that doesn't match is an SSLCertVerificationError here and an alert there."""
    alerts: list[str] = []
    told = Event()

    async def script(wire: Wire) -> None:
        wire.send(wire.server.advance(await wire.read()))
        try:
            wire.server.hear(await wire.read())
        except ssl.SSLError as error:
            alerts.append(error.reason.upper())
        told.set()

    async with listening(script) as address:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"example\.org"):
            await connect_to(address, TLSOptions(client_context(), "example.org"))
        assert not client_sockets(address)
        with fail_after(LIMIT):
            await told.wait()
    assert "ALERT" in alerts[0]


async def test_a_failed_handshake_keeps_nothing_alive() -> None:
    """What has failed to shake hands is gone a few turns later, without the garbage collector."""

    async def script(wire: Wire) -> None:
        wire.send(HTTP_ANSWER)

    async def fail(address: tuple[str, int]) -> weakref.ref[ssl.SSLObject]:
        codec = CountingCodec()
        with pytest.raises(ssl.SSLError):
            await open_tls_stream(await open_tcp_socket(*address), codec)
        return weakref.ref(codec.ssl_object)

    async with listening(script) as address:
        gc.disable()
        try:
            gone = await fail(address)
            await eventually(lambda: gone() is None)
        finally:
            gc.enable()


async def test_an_unknown_authority_comes_through() -> None:
    """The default trusts the system's authorities only."""
    assert isinstance(await failure_of(polite, ssl_context=None), ssl.SSLCertVerificationError)


@pytest.mark.parametrize("standard_compatible", [False, True])
async def test_a_hang_up_in_the_handshake_is_told_as_anyio_does(standard_compatible: bool) -> None:
    """It is a cut, or an end for those who don't insist; a reset is a loss for all."""

    async def hang_up(wire: Wire) -> None:
        await wire.read()
        wire.hang_up()

    async def reset(wire: Wire) -> None:
        await wire.read()
        wire.reset()

    error = await failure_of(hang_up, standard_compatible=standard_compatible)
    if standard_compatible:
        assert isinstance(error, BrokenResourceError)
        assert isinstance(error.__cause__, ssl.SSLEOFError)
    else:
        assert isinstance(error, EndOfStream)
    error = await failure_of(reset, standard_compatible=standard_compatible)
    assert isinstance(error, BrokenResourceError)
    assert isinstance(error.__cause__, ConnectionResetError)


async def test_a_missing_certificate_fails_the_handshake_of_tls_1_2() -> None:
    """There the server answers before the handshake is done: an SSLError with its alert."""
    error = await failure_of(polite, context=server_context("1.2", wants_certificate=True))
    assert isinstance(error, ssl.SSLError)
    assert "ALERT" in error.reason.upper()


async def test_a_context_that_makes_no_sense_fails_the_handshake() -> None:
    """Where no version of TLS is allowed, nothing is waited for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert isinstance(await failure_of(silent, ssl_context=context), ssl.SSLError)


# Cancellation.


async def test_a_cancelled_connect_leaves_no_socket(native: bool) -> None:
    """At whatever turn connecting and shaking hands are cancelled, nothing stays open."""

    async def connect_and_close() -> object:
        stream = await connect_to(address, TLSOptions(client_context()))
        await aclose_forcefully(stream)
        return True

    async with listening(polite) as address:
        count = 0
        while not await cancelled(connect_and_close, native, partial(turns, count)):
            await eventually(lambda: not client_sockets(address))
            count += 1
            assert count < 2_000
        assert count > 3


async def test_a_cancelled_handshake_closes_at_once(native: bool) -> None:
    """Who gives up on a server that says nothing leaves no socket behind, not even for a turn."""
    async with listening(silent) as address:
        sock = await open_tcp_socket(*address)

        async def connect() -> None:
            try:
                await open_tls_stream(sock, CountingCodec())
            finally:
                assert not client_sockets(address)

        await cancelled(connect, native, partial(turns, 20))


@each_version
async def test_a_cancelled_receive_loses_nothing(version: str, native: bool, seed: int) -> None:
    """Whenever a receive is cancelled, what has come and what comes later is received once."""
    random = Random(f"{seed} {version} {native}")
    async with connected(version) as (stream, wire, _):
        for _ in range(60):
            data = random.randbytes(random.choice((1, 5, 20_000)))
            record = wire.server.say(data)
            cuts = sorted(random.randrange(len(record) + 1) for _ in range(2))
            most = random.choice((3, 65_536))

            async def feed(record: bytes = record, cuts: list[int] = cuts) -> None:
                wire.send(record[cuts[0] : cuts[1]])
                await turns(random.randrange(4))

            wire.send(record[: cuts[0]])
            heard = await cancelled(partial(stream.receive, most), native, feed) or b""
            wire.send(record[cuts[1] :])
            while len(heard) < len(data):
                heard += await stream.receive()
            assert heard == data
        await eventually(lambda: stream.look() is ALIVE)


async def test_a_cancelled_send_breaks_the_stream_on_trio_only(native: bool) -> None:
    """On trio the peer misses records, so nothing works any more; elsewhere they still go out."""
    async with connected(buffers=16_384) as (stream, wire, codec):
        data = Random(4).randbytes(1 << 20)
        await cancelled(lambda: stream.send(data), native, partial(turns, 10))
        if on_trio():
            assert stream.look() is CLOSED
            for operation in (stream.receive, lambda: stream.send(b"x")):
                with pytest.raises(BrokenResourceError) as caught:
                    await operation()
                assert isinstance(caught.value.__cause__, ssl.SSLError)
            # There is no goodbye to wait for.
            await stream.aclose()
        else:
            sent = codec.encrypted
            assert await wire.hear(sent) == data[:sent]
            await stream.send(b"more")
            assert await wire.hear(4) == b"more"


async def test_a_send_that_is_cancelled_before_it_begins_breaks_nothing() -> None:
    """Where no record was made, none is missed."""
    async with connected() as (stream, wire, _):
        with CancelScope() as scope:
            scope.cancel()
            await stream.send(b"never")
        assert scope.cancelled_caught
        await stream.send(b"hello")
        assert await wire.hear(5) == b"hello"


# Closing.


async def expect_closed(stream: PoolSocketStream, wire: Wire) -> None:
    """See that nothing works any more, and that the descriptor is closed."""
    assert not client_sockets(wire.address)
    assert stream.look() is CLOSED
    with pytest.raises(ClosedResourceError):
        await stream.receive()
    with pytest.raises(ClosedResourceError):
        await stream.send(b"x")
    # Once more does no harm.
    await stream.aclose()


@each_version
async def test_closing_waits_for_the_peers_goodbye(version: str) -> None:
    """A close_notify is sent, data that still comes is dropped, the peer's close_notify ends it."""
    async with connected(version) as (stream, wire, _):
        closing = Cancellable(stream.aclose, native=False)
        async with create_task_group() as group:
            group.start_soon(closing.run)
            assert await wire.hear_goodbye() == b""
            wire.say(b"too late")
            await turns(10)
            assert not closing.ended.is_set()
            assert stream.look() is CLOSED
            with pytest.raises(ClosedResourceError):
                await stream.receive()
            wire.send(wire.server.goodbye())
        await expect_closed(stream, wire)


@each_version
async def test_closing_after_the_peers_goodbye_waits_for_nothing(version: str) -> None:
    """Who closes second answers, and is done."""
    async with connected(version) as (stream, wire, _):
        wire.send(wire.server.goodbye())
        with pytest.raises(EndOfStream):
            await stream.receive()
        await stream.aclose()
        await expect_closed(stream, wire)
        assert await wire.hear_goodbye() == b""


async def test_closing_where_the_peers_goodbye_never_comes() -> None:
    """A peer that hangs up without one, before or while this end waits, is complained of."""
    for before in (False, True):
        async with connected() as (stream, wire, _):

            async def close_and_complain(stream: PoolSocketStream = stream) -> None:
                with pytest.raises(BrokenResourceError) as caught:
                    await stream.aclose()
                assert isinstance(caught.value.__cause__, ssl.SSLEOFError)

            async with create_task_group() as group:
                if not before:
                    group.start_soon(close_and_complain)
                    await wire.hear_goodbye()
                wire.sock.shutdown(socket.SHUT_WR)
                if before:
                    await read_by_the_loop(stream)
                    assert stream.look() is CLOSED
                    await close_and_complain()
            await expect_closed(stream, wire)


async def test_closing_for_who_does_not_insist_on_goodbyes() -> None:
    """Where ``standard_compatible`` is false, closing hangs up and waits for nobody."""
    async with connected(standard_compatible=False) as (stream, wire, _):
        await stream.aclose()
        await expect_closed(stream, wire)
        while data := await wire.read():
            wire.server.hear(data)
        assert not wire.server.heard_goodbye


async def test_who_gives_up_waiting_for_a_goodbye_closes_at_once(native: bool) -> None:
    """A cancelled close has closed the descriptor when it returns; the goodbye was sent."""
    async with connected() as (stream, wire, _):

        async def close() -> None:
            try:
                await stream.aclose()
            finally:
                assert not client_sockets(wire.address)

        await cancelled(close, native, wire.hear_goodbye)
        await expect_closed(stream, wire)


async def test_closing_by_force_says_goodbye_and_does_not_wait() -> None:
    """In a cancelled scope the goodbye costs no time."""
    async with connected() as (stream, wire, _):
        await aclose_forcefully(stream)
        await expect_closed(stream, wire)
        assert await wire.hear_goodbye() == b""


async def test_closing_twice_at_once_does_not_wait() -> None:
    """A second task that closes ends the first one's wait."""
    async with connected() as (stream, wire, _), create_task_group() as group:
        group.start_soon(stream.aclose)
        await wire.hear_goodbye()
        await stream.aclose()
        await expect_closed(stream, wire)


async def test_closing_ends_a_receive_that_waits() -> None:
    """The one who waits hears at once that the stream is closed, before the peer's goodbye."""
    async with connected() as (stream, wire, _):

        async def receive() -> None:
            with pytest.raises(ClosedResourceError):
                await stream.receive()

        receiving = Cancellable(receive, native=False)
        async with create_task_group() as group:
            group.start_soon(receiving.run)
            await turns(5)
            group.start_soon(stream.aclose)
            await receiving.ended.wait()
            await wire.hear_goodbye()
            wire.send(wire.server.goodbye())
        await expect_closed(stream, wire)


async def test_closing_while_a_send_waits_says_no_goodbye() -> None:
    """Data that was cut must not look complete."""
    async with connected(buffers=16_384) as (stream, wire, _):

        async def send() -> None:
            with pytest.raises(ClosedResourceError):
                await stream.send(bytes(1 << 20))

        async with create_task_group() as group:
            group.start_soon(send)
            await turns(10)
            await stream.aclose()
        await expect_closed(stream, wire)
        while data := await wire.read():
            wire.server.hear(data)
        assert not wire.server.heard_goodbye


async def test_closing_drops_what_nobody_has_received() -> None:
    """Unread plaintext, more than the stream reads ahead, does not keep it from closing."""
    async with connected() as (stream, wire, _), create_task_group() as group:
        records = b"".join(wire.server.say(bytes(16_384)) for _ in range(100))
        goodbye = wire.server.goodbye()
        group.start_soon(wire.pour, records + goodbye)
        await eventually(lambda: getattr(stream, "_read_paused", True))
        assert await stream.receive(1) == b"\0"
        await stream.aclose()
        await expect_closed(stream, wire)


# Interruptions.


async def interrupted(stream: PoolSocketStream, *operations: Callable[[], Awaitable[Any]]) -> None:
    """Interrupt operations that wait; see that each raises the error, and later ones, too."""
    error = TimeoutError("the time is over")

    async def expect_error(operation: Callable[[], Awaitable[Any]]) -> None:
        with pytest.raises(TimeoutError, match="the time is over") as caught:
            await operation()
        assert caught.value is not error

    async with create_task_group() as group:
        for operation in operations:
            group.start_soon(expect_error, operation)
        await turns(10)
        stream.interrupt(error)
    await expect_error(stream.receive)
    await expect_error(lambda: stream.send(b"x"))
    assert stream.look() is CLOSED


async def test_an_interruption_ends_what_waits() -> None:
    """Receive and send raise the error, then and later; closing says no goodbye and is quick."""
    async with connected(buffers=16_384) as (stream, wire, _):
        await interrupted(stream, stream.receive, lambda: stream.send(bytes(1 << 20)))
        await stream.aclose()
        assert not client_sockets(wire.address)


async def test_an_interruption_drops_what_was_not_received() -> None:
    """The rest of a plaintext is not handed out after an interruption."""
    async with connected() as (stream, wire, _):
        wire.say(b"hello")
        assert await stream.receive(1) == b"h"
        await interrupted(stream)
