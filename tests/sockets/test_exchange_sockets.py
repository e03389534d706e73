"""Whole exchanges over real sockets, with servers that come and go."""

from __future__ import annotations

import math
import socket
import ssl
import threading
from typing import Any

import anyio
import pytest
from anyio import create_task_group, to_thread
from anyio.abc import SocketAttribute

from anyconnpool import ConnectionPool, KeepAlive, PooledConnection, Retry
from tests.cases import table

from .checks import eventually, expect_closed
from .conftest import Serve
from .servers import Peer, Server, echo_when_told, every_kind, one_reply

pytestmark = pytest.mark.usefixtures("no_socket_left")

CLEAR = (
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.BrokenResourceError,
    anyio.ConnectionFailed,
    ssl.SSLError,
)
QUICK = Retry(1000, interval=0.01, max_interval=0.05)


def echo_raw(peer: Peer) -> None:
    """Answer whatever comes with itself."""
    while data := peer.socket.recv(65_536):
        peer.send(data)


@pytest.mark.parametrize(("kind", "count"), [("tcp", 500), ("unix", 200), ("tls13", 100)])
async def test_a_server_that_closes_after_each_reply_answers_every_request(
    serve: Serve, count: int
) -> None:
    """Back to back with ``Retry(2)``, as many right replies as requests; gtcp loses half."""
    async with serve(one_reply).pool() as pool:
        for number in range(count):
            line = b"%d" % number
            assert await pool.send_receive_line(line, retry=Retry(2)) == b"> " + line
        assert pool.statistics().opened == count


def reply_in_part(peer: Peer) -> None:
    """Answer the first line with itself, and the next one with a part."""
    peer.send(peer.receive_line() + b"\n")
    peer.receive_line()
    peer.send(b"ab")
    peer.receive_line()


async def test_a_timeout_tells_how_far_the_reply_had_come(serve: Serve) -> None:
    """Where the exchange has no scope of its own: the stream is interrupted."""
    said = text = ""
    async with serve(reply_in_part).pool(name="slow", max_size=1) as pool:
        for limit in (0.1, 1, 5, 20):
            assert await pool.send_receive_line(b"x", timeout=20) == b"x"
            with pytest.raises(TimeoutError) as caught:
                await pool.send_receive_line(b"hello", timeout=limit)
            text = f"no reply from pool 'slow' within {limit:g} s: sent 6 bytes, received "
            said = str(caught.value)
            # On a busy machine, the part may come late, too.
            if said != f"{text}0":
                break
    assert said == f"{text}2, and no newline b'\\n' is among the 2 bytes that are buffered"


class Load:
    """Twenty tasks that make exchanges while a server is killed and started again.

    :param server: echoes lines
    :param retry: what each exchange is told
    """

    def __init__(self, server: Server, retry: Retry | None) -> None:
        self.server = server
        self.retry = retry
        self.right = 0
        self.failed: list[Exception] = []
        #: failures of requests that began and ended while the server was up
        self.unexplained: list[Exception] = []
        #: odd while the server is being killed and started
        self._phase = 0
        self._over = False

    async def run(self, restarts: int, *, reset: bool) -> None:
        async with self.server.pool(max_size=8) as pool:
            async with create_task_group() as tasks:
                for name in range(20):
                    tasks.start_soon(self._talk, pool, name)
                for _ in range(restarts):
                    await self._make_progress()
                    self._phase += 1
                    await to_thread.run_sync(lambda: self.server.restart(reset=reset))
                    self._phase += 1
                await self._make_progress()
                self._over = True
            await eventually(lambda: pool.statistics().size == pool.statistics().idle)

    async def _make_progress(self) -> None:
        enough = self.right + 40
        await eventually(lambda: self.right >= enough)

    async def _talk(self, pool: ConnectionPool, name: int) -> None:
        number = 0
        while not self._over:
            number += 1
            line, phase = b"%d %d" % (name, number), self._phase
            try:
                reply = await pool.send_receive_line(line, retry=self.retry)
            except Exception as error:
                self.failed.append(error)
                # A connect may have begun, for another request, before this one.
                steady = phase == self._phase and not phase % 2
                if steady and not isinstance(error, anyio.ConnectionFailed):
                    self.unexplained.append(error)
                await anyio.sleep(0.001)
            else:
                assert reply == b"> " + line
                self.right += 1


@table("reset", [False, True])
async def test_with_retry_a_server_killed_under_load_loses_no_request(
    serve: Serve, reset: bool
) -> None:
    """Every one of them gets its own reply, whatever happened in between."""
    load = Load(serve(), QUICK)
    await load.run(4, reset=reset)
    assert not load.failed


@table("reset", [False, True])
async def test_without_retry_only_what_was_in_flight_fails(serve: Serve, reset: bool) -> None:
    """Each with an error that tells of the connection; no reply is somebody else's."""
    load = Load(serve(), None)
    await load.run(4, reset=reset)
    assert load.unexplained == []
    assert [error for error in load.failed if not isinstance(error, CLEAR)] == []


async def test_requests_wait_for_a_server_that_is_down(serve: Serve) -> None:
    """With ``connect_retry`` all complete when it is back, and few dials were made meanwhile."""
    server, served = serve(), set[bytes]()
    retry = Retry(math.inf, interval=0.05, backoff=1, jitter=0)

    async def ask(line: bytes) -> None:
        assert await pool.send_receive_line(line) == b"> " + line
        served.add(line)

    async with server.pool(max_size=5, connect_retry=retry) as pool:
        await ask(b"before")
        server.stop()
        async with create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(ask, b"%d" % number)
            began = anyio.current_time()
            await eventually(lambda: pool.statistics().open_failed >= 5 + 3)
            assert served == {b"before"}
            assert pool.statistics().tasks_waiting == 30
            # One dial a pause, and those made before the first one had failed.
            pauses = (anyio.current_time() - began) / retry.interval
            assert pool.statistics().open_failed <= 5 + pauses + 1
            server.start()
        assert len(served) == 31
        assert server.most <= 5


async def test_a_client_of_ones_own_protocol_keeps_one_connection(serve: Serve) -> None:
    """Lines with a newline of their own, a session, and errors that are only replies."""

    class ReplyError(Exception):
        pass

    async def greet(connection: PooledConnection) -> dict[bytes, bytes]:
        return {b"greeting": await connection.send_receive_line(b"hello")}

    async def ask(connection: PooledConnection[dict[bytes, bytes]], question: bytes) -> None:
        connection.session[question] = await connection.send_receive_line(question)
        raise ReplyError

    server = serve(echo_raw)
    async with ConnectionPool(
        server.remote, on_connect=greet, harmless=(ReplyError,), newline=b"\r\n"
    ) as pool:
        for question in (b"one\n", b"two\n"):
            with pytest.raises(ReplyError):
                await pool.run(ask, question, timeout=20)
            # The short way, where no object stands for the borrow.
            assert await pool.send_receive_line(question, timeout=20) == question
        connection = await pool.acquire()
        with pytest.raises(ReplyError):
            try:
                raise ReplyError
            finally:
                await connection.aclose()
        assert connection.session == {b"greeting": b"hello", b"one\n": b"one\n", b"two\n": b"two\n"}
        assert pool.statistics().opened == pool.statistics().idle == 1


async def test_hooks_speak_with_the_server(serve: Serve) -> None:
    """A login before the first borrow, a check before each other one; both by framed methods."""
    asked: list[bytes] = []

    async def ask(connection: PooledConnection, line: bytes) -> None:
        asked.append(line)
        assert await connection.send_receive_line(line) == b"> " + line

    async with serve().pool(
        on_connect=lambda connection: ask(connection, b"user"),
        check=lambda connection: ask(connection, b"PING"),
        check_after=0,
    ) as pool:
        for _ in range(3):
            assert await pool.send_receive_line(b"a") == b"> a"
        assert asked == [b"user", b"PING", b"PING"]
        assert pool.statistics().opened == 1


async def test_a_check_finds_a_server_that_hangs(serve: Serve) -> None:
    """One that keeps its sockets open without answering costs a tenth of a second, no request."""
    gate = threading.Event()
    server = serve(echo_when_told(gate))

    async def check(connection: PooledConnection) -> None:
        await connection.send_receive_line(b"slow PING")

    try:
        async with server.pool(check=check, check_after=0, check_timeout=1) as pool:
            assert await pool.send_receive_line(b"a") == b"> a"
            assert await pool.send_receive_line(b"b") == b"> b"
            await eventually(lambda: pool.statistics().closed)
            await expect_closed(pool, check_failed=1)
            assert pool.statistics().opened == 2
    finally:
        gate.set()


def options_of(raw_socket: Any) -> list[int]:
    """Return what the kernel has been told about dead peers."""
    tcp = socket.IPPROTO_TCP
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
    if raw_socket.family != socket.AF_UNIX:
        options += [
            (tcp, socket.TCP_KEEPIDLE),
            (tcp, socket.TCP_KEEPINTVL),
            (tcp, socket.TCP_KEEPCNT),
            (tcp, socket.TCP_USER_TIMEOUT),
        ]
    return [raw_socket.getsockopt(level, option) for level, option in options]


@every_kind
@table(
    "settings, expected",
    [
        ({}, [1, 60, 10, 6, 120_000]),
        (
            {"keepalive": KeepAlive(idle=7, interval=3, count=2, user_timeout=1.5)},
            [1, 7, 3, 2, 1500],
        ),
    ],
)
async def test_the_kernel_is_told_to_look_for_dead_peers(
    serve: Serve, kind: str, settings: Any, expected: list[int]
) -> None:
    """The options are on every TCP socket, also below TLS; a UNIX socket has no dead peer."""
    async with serve().pool(**settings) as pool, pool.acquire() as connection:
        raw_socket = connection.extra(SocketAttribute.raw_socket)
        assert options_of(raw_socket) == ([0] if kind == "unix" else expected)


async def test_without_keepalive_the_socket_is_left_alone(serve: Serve) -> None:
    """All options are the system's own."""
    with socket.socket() as fresh:
        expected = options_of(fresh)
    async with serve().pool(keepalive=None) as pool, pool.acquire() as connection:
        assert options_of(connection.extra(SocketAttribute.raw_socket)) == expected


async def test_without_a_user_timeout_that_is_left_to_the_system(serve: Serve) -> None:
    """The others are set."""
    keepalive = KeepAlive(user_timeout=math.inf)
    async with serve().pool(keepalive=keepalive) as pool, pool.acquire() as connection:
        options = options_of(connection.extra(SocketAttribute.raw_socket))
        assert options == [1, 60, 10, 6, 0]
