"""The client of the page "Write a client for your protocol" does what the page says of it."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute

from anyconnpool import FramedStream
from anyconnpool.testing import MemoryConnectable, assert_clean
from shelf_client import MESSAGES, ShelfClient, ShelfError, exchange, main
from shelf_server import Shelves
from tests.servers.programs import Program, reserved_port
from tests.sockets.checks import eventually

from .programs import EXAMPLES, run

SAYS = ["hello", "hello", "there is no greeting on the shelf main"]


# What the page shows begins here.
@pytest.mark.anyio
async def test_a_refusal_costs_no_connection() -> None:
    """The server's errors reach the caller, and the next request has the same connection."""
    async with (
        MemoryConnectable(Shelves().answer) as remote,
        ShelfClient(remote, user="alice", password="secret") as client,
    ):
        for _ in range(3):
            with pytest.raises(ShelfError, match="no greeting"):
                await client.get("greeting")
        assert client.pool.statistics().closed == {}


@pytest.mark.anyio
async def test_a_text_is_never_taken_twice() -> None:
    """When the connection breaks, to look is repeated, and to take is not."""
    requests: list[str] = []

    async def hang_up(stream: FramedStream) -> None:  # after the request, before the reply
        await stream.send_frame({"hello": "shelves"}, MESSAGES)
        await stream.receive_frame(MESSAGES)
        await stream.send_frame({"ok": "alice"}, MESSAGES)
        requests.append((await stream.receive_frame(MESSAGES))["do"])

    async with (
        MemoryConnectable(hang_up) as remote,
        ShelfClient(remote, user="alice", password="secret") as client,
    ):
        with pytest.raises(anyio.EndOfStream):
            await client.get("greeting")
        assert requests == ["get"] * 3
        with pytest.raises(anyio.EndOfStream):
            await client.take("greeting")
        assert requests == ["get"] * 3 + ["use"]


# What the page shows ends here.


@asynccontextmanager
async def connected(shelves: Shelves) -> AsyncGenerator[ShelfClient]:
    """Connect a client that has one connection."""
    async with (
        MemoryConnectable(shelves.answer) as remote,
        ShelfClient(remote, user="alice", password="secret", max_size=1) as client,
    ):
        yield client
        assert remote.opened == 1


async def test_the_shelf_client(capsys: pytest.CaptureFixture[str]) -> None:
    """It puts, gets and takes a text, on every backend, over sockets."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as server,
    ):
        server.start_soon(listener.serve, Shelves().answer)
        await main(listener.extra(SocketAttribute.local_port))
        server.cancel_scope.cancel()
    assert capsys.readouterr().out.splitlines() == SAYS


def test_the_shelf_client_as_a_program(tmp_path: Path) -> None:
    """The commands of its docstring run it to its end."""
    with reserved_port() as port:
        command = [sys.executable, "-W", "error", str(EXAMPLES / "shelf_server.py"), str(port)]
        with Program("python3", command, port, tmp_path / "server.log"):
            assert run("shelf_client", port, directory=tmp_path) == SAYS


async def test_nobody_finds_the_shelf_that_another_has_chosen() -> None:
    """Whether it was there or not, the next borrower is at the main shelf again."""
    shelves = Shelves()
    shelves.texts = {("cellar", "wine"): "red", ("main", "wine"): "white"}
    async with connected(shelves) as client:
        assert await client.take("wine", "cellar") == "red"
        assert await client.get("wine") == "white"
        with pytest.raises(ShelfError, match="no wine on the shelf cellar"):
            await client.take("wine", "cellar")
        assert await client.get("wine") == "white"


async def test_notices_are_read_wherever_they_come(caplog: pytest.LogCaptureFixture) -> None:
    """Before a reply, behind one, and between two borrows: none costs the connection."""
    shelves = Shelves()
    shelves.texts["main", "greeting"] = "hello"
    async with connected(shelves) as client:
        async with client.pool.acquire() as connection:
            await shelves.announce("before")
            assert await exchange(connection, {"do": "get", "key": "greeting"}) == "hello"
            await shelves.announce("behind")
        assert await client.get("greeting") == "hello"
        await eventually(lambda: client.pool.statistics().idle)
        await shelves.announce("between")
        assert await client.get("greeting") == "hello"
        await eventually(lambda: "between" in caplog.text)
    heard = [record.getMessage() for record in caplog.records if record.name == "shelf_client"]
    assert heard == [f"the server says: {place}" for place in ("before", "behind", "between")]


async def test_a_reply_that_nobody_asked_for_ends_the_connection() -> None:
    """The hook for notices takes nothing else."""

    async def talk_too_much(stream: FramedStream) -> None:
        await stream.send_frame({"hello": "shelves"}, MESSAGES)
        for reply in ("alice", "hello", "hello"):
            await stream.receive_frame(MESSAGES)
            await stream.send_frame({"ok": reply}, MESSAGES)
            if reply == "hello":
                await stream.send_frame({"ok": "wrong"}, MESSAGES)

    async with (
        MemoryConnectable(talk_too_much) as remote,
        ShelfClient(remote, user="alice", password="secret", max_size=1) as client,
    ):
        for _ in range(2):
            assert await client.get("greeting") == "hello"
        await eventually(lambda: client.pool.statistics().closed == {"unread_data": 2})


async def test_a_wrong_password_is_final() -> None:
    """It is no outage: nothing is tried again, and the caller gets the server's words."""
    async with (
        MemoryConnectable(Shelves().answer) as remote,
        ShelfClient(remote, user="alice", password="sesame") as client,
    ):
        with pytest.raises(ShelfError, match="log in first"):
            await client.get("greeting")
        assert client.pool.statistics().open_failed == 1


async def test_it_says_bye(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last message on a connection is a farewell."""
    said: list[str] = []
    receive = FramedStream.receive_package

    async def listen(stream: FramedStream, *arguments: Any) -> bytes:
        package = await receive(stream, *arguments)
        said.append(package.decode())
        return package

    monkeypatch.setattr(FramedStream, "receive_package", listen)
    async with connected(Shelves()) as client:
        await client.put("greeting", "hello")
    assert said[-1] == '{"do": "bye"}'


async def test_it_can_live_in_a_task_of_a_group() -> None:
    """It is served until it is closed, and leaves nothing open."""
    async with MemoryConnectable(Shelves().answer) as remote, anyio.create_task_group() as tasks:
        client = ShelfClient(remote, user="alice", password="secret")
        await tasks.start(client.serve)
        await client.put("greeting", "hello")
        await client.aclose()
        assert remote.open_now == 0
        assert_clean(client.pool)


async def test_it_can_be_opened_and_closed(anyio_backend: tuple[str, Any]) -> None:
    """On asyncio, no block need enclose it; trio says what to do instead."""
    async with MemoryConnectable(Shelves().answer) as remote:
        client = ShelfClient(remote, user="alice", password="secret")
        if anyio_backend[0] == "trio":
            with pytest.raises(RuntimeError, match="serve"):
                await client.open()
            return
        await client.open()
        await client.put("greeting", "hello")
        await client.aclose()
        assert remote.open_now == 0
