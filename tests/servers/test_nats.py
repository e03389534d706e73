"""The example of NATS: connections rest as long as they like, and answers go to who has asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import create_task_group
from anyio.abc import TaskStatus

from anyconnpool import ConnectionPool, FramedStream
from anyconnpool.testing import MemoryConnectable
from tests.examples.programs import load, run
from tests.sockets.checks import eventually

from .checks import HANG_UPS, until_at_rest
from .nats import nats_server
from .programs import Program
from .upheaval import Callers, check_survived

EXAMPLE = load("nats_client")
SAYS = ["b'HELLO!'", "nobody answers to anyconnpool.whisper", "connections opened: 2"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Program]:
    """Run a NATS server."""
    with nats_server(tmp_path) as program:
        yield program


async def test_the_client(server: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows on every backend what it should."""
    await EXAMPLE.main(server.remote[1])
    assert capsys.readouterr().out.splitlines() == SAYS


def test_the_client_as_a_program(server: Program, tmp_path: Path) -> None:
    """Its command runs it to its end."""
    assert run("nats_client", server.remote[1], directory=tmp_path) == SAYS


async def echo(data: bytes) -> bytes:
    return b"> " + data


async def test_a_connection_that_rests_answers_pings_and_stays(tmp_path: Path) -> None:
    """The server asks several times while nobody uses the connection, and gets its answers."""
    # It hangs up when so many in a row were not answered. On trio that takes five seconds.
    with nats_server(tmp_path, "ping_interval: '0.1s'", "ping_max: 300", "trace: true") as server:
        log = tmp_path / "nats.log"
        async with EXAMPLE.make_pool(*server.remote) as pool:
            await EXAMPLE.Nats(pool).publish("a", b"b")
            await until_at_rest(pool)
            answered = log.read_text("utf-8").count("<<- [PONG]")
            await eventually(
                lambda: log.read_text("utf-8").count("<<- [PONG]") >= answered + 5, tries=12_000
            )
            await until_at_rest(pool)
            assert (pool.statistics().opened, pool.statistics().closed) == (1, {})


async def test_a_connection_whose_pings_nobody_answers_is_lost(tmp_path: Path) -> None:
    """The server does hang up: without the hook, or with one that only reads."""
    with nats_server(tmp_path, "ping_interval: '0.1s'", "ping_max: 2") as server:
        async with EXAMPLE.make_pool(*server.remote) as pool, pool.acquire() as connection:
            with pytest.raises((*HANG_UPS, EXAMPLE.NatsError)):
                while True:
                    await connection.receive()


async def test_a_second_answer_is_nobodys(server: Program) -> None:
    """Of two who answer, the slower one is not heard by who asks next, nor costs a connection."""
    async with (
        EXAMPLE.make_pool(*server.remote) as pool,
        EXAMPLE.make_pool(*server.remote) as theirs,
        create_task_group() as services,
    ):
        nats, others = EXAMPLE.Nats(pool), EXAMPLE.Nats(theirs)
        late = anyio.Semaphore(0)

        async def answer_late(data: bytes) -> bytes:
            await late.acquire()
            return b"late: " + data

        await services.start(others.serve, "ask", echo)
        await services.start(others.serve, "ask", answer_late)
        for turn in range(20):
            question = b"question %d" % turn
            assert await nats.request("ask", question) == b"> " + question
            late.release()
        await until_at_rest(pool)
        assert pool.statistics().closed == {}
        services.cancel_scope.cancel()


async def test_nobody_to_answer_costs_no_connection(server: Program) -> None:
    """The server says so at once, and the next question uses the same connection."""
    async with EXAMPLE.make_pool(*server.remote) as pool:
        for _ in range(5):
            with pytest.raises(EXAMPLE.NoRespondersError, match="nowhere"):
                await EXAMPLE.Nats(pool).request("nowhere", b"hello")
        assert pool.statistics().opened == 1
        with pytest.raises(ValueError, match="can't be a subject"):
            await EXAMPLE.Nats(pool).request("a b", b"hello")


async def test_what_comes_in_one_chunk_is_read_in_whole() -> None:
    """Whatever is behind an answer, or behind a PING, costs no connection and is no answer."""
    rested, has_spoken = anyio.Event(), anyio.Event()

    async def serve(stream: FramedStream) -> None:
        await stream.send(b"INFO {}\r\n")
        inbox = (await stream.receive_until(b".* inbox\r\n", 1000)).split()[-1]
        assert await stream.receive_until(b"\r\n", 1000) == b"PING"
        await stream.send(b"PONG\r\n")
        await stream.receive_until(b"\r\none\r\n", 1000)
        answer = b"MSG " + inbox + b".%d inbox 1\r\n%d\r\n"
        await stream.send(answer % (1, 1) + b"PING\r\nINFO {}\r\n")
        assert await stream.receive_until(b"\r\n", 1000) == b"PONG"
        await rested.wait()
        await stream.send(b"PING\r\n" + answer % (1, 1) + b"INFO {}\r\n")
        has_spoken.set()
        assert await stream.receive_until(b"\r\n", 1000) == b"PONG"
        await stream.receive_until(b"\r\ntwo\r\n", 1000)
        await stream.send(answer % (1, 1) + answer % (2, 2) + answer % (2, 3))
        await stream.receive_until(b"\r\n", 1000)

    async with (
        MemoryConnectable(serve) as remote,
        ConnectionPool(
            remote,
            max_size=1,
            newline=b"\r\n",
            one_way=True,
            on_connect=EXAMPLE.log_in,
            on_unread=EXAMPLE.rest,
        ) as pool,
    ):
        nats = EXAMPLE.Nats(pool)
        assert await nats.request("ask", b"one") == b"1"
        rested.set()
        await has_spoken.wait()
        assert await nats.request("ask", b"two") == b"2"
        assert pool.statistics().closed == {}


async def test_it_survives_restarts_kills_and_cancellation(
    server: Program, seed: int, anyio_backend_name: str
) -> None:
    """Nobody is given the answer to another question, and the services come back by themselves."""
    async with (
        EXAMPLE.make_pool(*server.remote) as pool,
        EXAMPLE.make_pool(*server.remote) as theirs,
        create_task_group() as services,
    ):
        nats = EXAMPLE.Nats(pool)

        async def ask(caller: int, turn: int) -> None:
            question = b"%d %d " % (caller, turn) + b"x" * (turn % 5 * 20_000)
            assert await nats.request("ask", question) == b"> " + question

        def restart() -> None:
            server.stop()
            server.start()

        for _ in range(2):
            await services.start(serve_again, EXAMPLE.Nats(theirs))
        refusals = (EXAMPLE.NoRespondersError,)
        callers = Callers(ask, seed, anyio_backend_name == "asyncio", refusals)
        await callers.live_through([restart, server.restart, restart, server.restart])
        await check_survived(pool)
        services.cancel_scope.cancel()


async def serve_again(nats: Any, *, task_status: TaskStatus[None]) -> None:
    """Answer questions, on a new connection whenever one has ended."""
    task_status.started()
    while True:
        try:
            await nats.serve("ask", echo)
        except (*HANG_UPS, OSError):
            await anyio.sleep(0.005)
