"""The HTTP client of examples/ talks to nginx."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import h11
import pytest

from anyconnpool import ConnectionPool, FramedStream
from anyconnpool.testing import MemoryConnectable
from tests.cases import table
from tests.examples.programs import load, run

from .checks import until_at_rest
from .programs import Program
from .upheaval import live_through_deaths
from .web import REQUESTS_A_CONNECTION, chunked_body, nginx

example = load("http_client")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Program]:
    """Run an nginx with one page."""
    with nginx(tmp_path) as program:
        (tmp_path / "files" / "index.html").write_text("hello\n")
        yield program


def check_what_it_says(lines: list[str]) -> None:
    assert lines[:3] == ["200 6 bytes"] * 3
    # If connecting takes long, a second one is opened.
    assert lines[3:] in (["connections opened: 1"], ["connections opened: 2"])


async def test_the_http_client(server: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """It gets a page three times, on every backend."""
    await example.main(server.remote[1])
    check_what_it_says(capsys.readouterr().out.splitlines())


def test_the_http_client_as_a_program(server: Program, tmp_path: Path) -> None:
    """Its command runs it to its end."""
    check_what_it_says(run("http_client", server.remote[1], directory=tmp_path))


async def test_responses_of_every_form_leave_the_connection_clean(server: Program) -> None:
    """Bodies of a length, of chunks and of no bytes, requests with bodies: on one connection."""
    large = bytes(range(256)) * 1000
    async with example.make_pool(*server.remote, max_size=1) as pool:
        client = example.HTTPClient(pool, "localhost")
        for method, target, body, status, expected in (
            ("GET", "/say/a", None, 200, b"/say/a"),
            ("HEAD", "/say/a", None, 200, b""),
            ("GET", "/chunked/a", None, 200, chunked_body("/chunked/a")),
            ("GET", "/nothing/", None, 204, b""),
            ("PUT", "/files/large", large, 201, b""),
            ("GET", "/files/large", None, 200, large),
            ("PUT", "/files/empty", b"", 201, b""),
            ("GET", "/files/empty", None, 200, b""),
            ("DELETE", "/files/large", None, 204, b""),
        ):
            response = await client.request(method, target, body)
            assert (response.status, response.body) == (status, expected), (method, target)
        assert (await client.request("GET", "/files/large")).status == 404
        assert (pool.statistics().opened, pool.statistics().closed) == (1, {})


async def test_a_connection_that_the_server_closes_is_not_reused(server: Program) -> None:
    """Each response that says "Connection: close" ends its connection, the next one has its own."""
    async with example.make_pool(*server.remote, max_size=1) as pool:
        client = example.HTTPClient(pool, "localhost")
        for _ in range(3):
            response = await client.request("GET", "/close/a")
            assert (b"Connection", b"close") in response.headers
            assert response.body == b"/close/a"
        for _ in range(2 * REQUESTS_A_CONNECTION):
            assert (await client.request("GET", "/seven/a")).body == b"/seven/a"
        await until_at_rest(pool)
        assert pool.statistics().closed == {"discarded": 5}
        assert pool.statistics().opened == 5


async def test_a_body_may_end_with_its_connection(server: Program) -> None:
    """Where nobody announces a length, the end of the stream is the end of the body."""
    async with example.make_pool(*server.remote, max_size=1) as pool:
        client = example.HTTPClient(pool, "localhost")
        for _ in range(2):
            response = await client.request("GET", "/until-close/a")
            assert response.body == b"/until-close/a"
        await until_at_rest(pool)
        assert (pool.statistics().opened, pool.statistics().idle) == (2, 0)


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


@table("answer", [b"", ANSWER[:20], ANSWER + b"hel", ANSWER.replace(b"5", b"five")])
async def test_half_a_response_is_none(answer: bytes) -> None:
    """What breaks off is an error, at its beginning, in its head and in its body."""

    async def peer(stream: FramedStream) -> None:
        await stream.receive_until(b"\r\n\r\n", 1000)
        await stream.send(answer)

    async with (
        MemoryConnectable(peer) as remote,
        ConnectionPool(remote, max_size=1, on_connect=example.begin) as pool,
    ):
        client = example.HTTPClient(pool, "localhost")
        with pytest.raises((anyio.EndOfStream, h11.RemoteProtocolError)) as caught:
            await client.request("POST", "/", b"data")
        assert isinstance(caught.value, h11.RemoteProtocolError) == (b"five" in answer)
        await until_at_rest(pool)
        assert pool.statistics().idle == 0


async def test_bytes_behind_a_response_are_nobodys() -> None:
    """A response that nobody has asked for is not the next request's."""

    async def peer(stream: FramedStream) -> None:
        await stream.receive_until(b"\r\n\r\n", 1000)
        await stream.send(ANSWER + b"right" + ANSWER + b"wrong")
        await stream.receive()

    async with (
        MemoryConnectable(peer) as remote,
        ConnectionPool(remote, max_size=1, on_connect=example.begin) as pool,
    ):
        client = example.HTTPClient(pool, "localhost")
        for _ in range(2):
            assert (await client.request("GET", "/")).body == b"right"
        await until_at_rest(pool)
        assert pool.statistics().closed == {"discarded": 2}


async def test_an_endless_body_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile server costs no more memory than the limit."""
    monkeypatch.setattr(example, "MAX_BODY", 10_000)

    async def peer(stream: FramedStream) -> None:
        await stream.receive_until(b"\r\n\r\n", 1000)
        await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send(bytes(1000))

    async with (
        MemoryConnectable(peer) as remote,
        ConnectionPool(remote, max_size=1, on_connect=example.begin) as pool,
    ):
        with pytest.raises(ValueError, match="longer than 10000 bytes"):
            await example.HTTPClient(pool, "localhost").request("GET", "/")


async def test_whatever_dies_every_response_is_its_requests(
    server: Program, seed: int, anyio_backend: tuple[str, Any]
) -> None:
    """While nginx is killed and callers give up, nobody gets another one's response."""
    async with example.make_pool(*server.remote) as pool:
        client = example.HTTPClient(pool, "localhost")

        async def ask(number: int) -> None:
            form = ("say", "chunked", "close", "seven", "files")[number % 5]
            target = f"/{form}/{number}"
            expected = chunked_body(target) if form == "chunked" else target.encode()
            if form == "files":
                response = await client.request("PUT", target, expected)
                assert response.status in (201, 204), response
            response = await client.request("GET", target)
            assert (response.status, response.body) == (200, expected)

        await live_through_deaths(pool, server, ask, seed, anyio_backend[0] == "asyncio")
