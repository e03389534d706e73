"""The reads and writes of gtcp: one test per row of its table, over real sockets.

Each docstring says what gtcp does, and then what holds here.
"""

from __future__ import annotations

import hashlib

import pytest
from anyio import IncompleteRead

from anyconnpool import PackageFormat, PackageTooLarge
from tests.core.test_formats import RIGHT_ROWS, format_of, payload_of

from .checks import expect_closed
from .conftest import Serve
from .servers import Peer, Script

pytestmark = pytest.mark.usefixtures("no_socket_left")

SINGLE_ROWS = [row for row in RIGHT_ROWS if "packages_hex" not in row]


def saying(data: bytes) -> Script:
    """Make a server's script: say this and hang up."""

    def script(peer: Peer) -> None:
        peer.send(data)

    return script


def sending(*chunks: bytes) -> Script:
    """Make a server's script: answer a line with these bytes, then wait for the client's end."""

    def script(peer: Peer) -> None:
        peer.receive_line()
        for chunk in chunks:
            peer.send(chunk)
        peer.receive_line()

    return script


def echo_packages(peer: Peer) -> None:
    """Answer every package of gtcp's default format with itself."""
    data = b""
    while chunk := peer.socket.recv(65536):
        data += chunk
        while len(data) > 1 and len(data) >= (end := 2 + int.from_bytes(data[:2], "big")):
            peer.send(data[:end])
            data = data[end:]


async def test_gtcp_recv_n(serve: Serve) -> None:
    """gtcp's Recv(n) is exactly n bytes, or some with an error; here what came stays buffered."""
    async with (
        serve(saying(b"abcdef")).pool() as pool,
        pool.acquire() as connection,
    ):
        assert await connection.receive_exactly(4) == b"abcd"
        with pytest.raises(IncompleteRead):
            await connection.receive_exactly(4)
        assert connection.buffer == b"ef"


async def test_gtcp_recv_0(serve: Serve) -> None:
    """gtcp's Recv(0) is one read of 128 bytes at most; here as many as there are, if wanted."""
    async with serve(sending(bytes(1000))).pool() as pool, pool.acquire() as connection:
        await connection.send_line(b"go")
        received = b""
        while len(received) < 1000:
            received += await connection.receive()
        assert received == bytes(1000)


async def test_gtcp_recv_minus_1(serve: Serve) -> None:
    """gtcp's Recv(-1) reads until the line is silent for 1 ms, in steps of 128 bytes; as here.

    There is no step here, and how long the silence has to be can be chosen.
    """
    async with serve(sending(bytes(500), bytes(500))).pool() as pool, pool.acquire() as connection:
        await connection.send_line(b"go")
        assert await connection.receive_available(quiet=0.2) == bytes(1000)


async def test_gtcp_recv_line(serve: Serve) -> None:
    r"""gtcp's RecvLine strips \n, leaves \r and reads byte by byte; here in chunks, with a limit.

    An end within a line is an error in both; here the fragment isn't mistaken for a line.
    """
    async with (
        serve(saying(b"one\r\ntwo\n\npartial")).pool() as pool,
        pool.acquire() as connection,
    ):
        assert [await connection.receive_line() for _ in range(3)] == [b"one\r", b"two", b""]
        with pytest.raises(IncompleteRead):
            await connection.receive_line()
        assert connection.buffer == b"partial"


async def test_gtcp_recv_till(serve: Serve) -> None:
    """gtcp's RecvTill ignores case by mistake and misses "aab" in "aaab"; neither happens here.

    The delimiter is taken and not returned, as AnyIO has it, and there is a limit.
    """
    async with serve(sending(b"xxendyyENDaaab.")).pool() as pool, pool.acquire() as connection:
        await connection.send_line(b"go")
        assert await connection.receive_until(b"END", 100) == b"xxendyy"
        assert await connection.receive_until(b"aab", 100) == b"a"
        assert await connection.receive_exactly(1) == b"."


async def test_gtcp_send_pkg_recv_pkg(serve: Serve) -> None:
    """gtcp's packages are a big-endian length of 1 to 4 bytes and the body; byte for byte so here.

    gtcp corrupts the stream where MaxDataSize exceeds the header; here making the format fails.
    An oversize send makes gtcp dial needlessly; here nothing is written and nothing lost.
    """
    server = serve(echo_packages)
    async with server.pool() as pool:
        for body in (b"", b"hello", bytes(65_535)):
            async with pool.acquire() as connection:
                await connection.send_package(body)
                assert await connection.receive_package() == body
        async with pool.acquire() as connection:
            with pytest.raises(PackageTooLarge):
                await connection.send_package(bytes(70_000))
            assert await connection.send_receive_package(b"still good") == b"still good"
        async with pool.acquire() as connection:
            assert connection.reused
            await connection.send_package(b"hello")
            with pytest.raises(PackageTooLarge):
                await connection.receive_package(PackageFormat(2, max_size=4))
        await expect_closed(pool, unclean=1)
    for header_size in (1, 2, 3):
        with pytest.raises(ValueError, match="header"):
            PackageFormat(header_size, max_size=256**header_size)


async def test_gtcp_pkg_vectors(serve: Serve) -> None:
    """gtcp's SendPkg put these bytes on the wire; so does a connection here."""

    def answer_digests(peer: Peer) -> None:
        for row in SINGLE_ROWS:
            wire = b""
            while len(wire) < row["wire_len"]:
                wire += peer.socket.recv(row["wire_len"] - len(wire))
            peer.send(hashlib.sha256(wire).hexdigest().encode() + b"\n")

    async with serve(answer_digests).pool() as pool, pool.acquire() as connection:
        for row in SINGLE_ROWS:
            await connection.send_package(payload_of(row), format_of(row))
            assert await connection.receive_line() == row["wire_sha256"].encode()


async def test_gtcp_send_recv_pkg(serve: Serve) -> None:
    """gtcp's SendRecvPkg is one exchange of packages, as here."""
    async with serve(echo_packages).pool() as pool:
        assert await pool.send_receive_package(b"hello") == b"hello"
        async with pool.acquire() as connection:
            assert await connection.send_receive_package(b"again") == b"again"
            assert connection.reused
