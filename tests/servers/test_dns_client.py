"""The DNS client of examples/ talks to unbound, over TCP and over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from anyio import create_task_group

from anyconnpool import ConnectionPool, FramedStream, PackageFormat
from anyconnpool.testing import MemoryConnectable
from tests.certificates import authority, client_context
from tests.examples.programs import load, run

from .checks import until_at_rest
from .names import NAMES, address_of, unbound
from .programs import Program
from .upheaval import live_through_deaths

example = load("dns_client")


@pytest.fixture(params=[False, True], ids=["tcp", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    """Tell whether the server speaks TLS."""
    return bool(request.param)


@pytest.fixture
def server(tmp_path: Path, tls: bool) -> Iterator[Program]:
    """Run an unbound."""
    with unbound(tmp_path, tls=tls) as program:
        yield program


def pool_of(server: Program, tls: bool, max_size: int = 4) -> ConnectionPool:
    pool: ConnectionPool = example.make_pool(
        *server.remote, max_size, tls=tls, ssl_context=client_context() if tls else None
    )
    return pool


def test_the_dns_client_as_a_program(tmp_path: Path) -> None:
    """Its command asks over TLS, and runs to its end."""
    certificate = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(certificate))
    with unbound(tmp_path, tls=True) as server:
        asked = ("n258.pool.test", *server.remote, certificate)
        lines = run("dns_client", *asked, directory=tmp_path)
    assert lines[:2] == ["A 10.0.1.2", "AAAA"]
    # If the handshake takes long, a second connection is opened.
    assert lines[2:] in (["connections opened: 1"], ["connections opened: 2"])


async def test_replies_of_every_form_are_read(server: Program, tls: bool) -> None:
    """No address, one, several, only an alias, and errors: all over one connection."""
    async with pool_of(server, tls, max_size=1) as pool:
        resolver = example.Resolver(pool)
        for name, kind, expected in (
            ("n7.pool.test", "A", ["10.0.0.7"]),
            ("n7.pool.test.", "A", ["10.0.0.7"]),
            ("n7.pool.test", "AAAA", []),
            ("both.pool.test", "A", ["10.1.0.1", "10.1.0.2"]),
            ("both.pool.test", "AAAA", ["fd00::1"]),
            ("alias.pool.test", "A", []),
        ):
            addresses = await resolver.resolve(name, kind)
            assert sorted(addresses) == [ip_address(each) for each in expected], (name, kind)
        with pytest.raises(example.DNSError, match=r"nothing\.pool\.test is the error 3"):
            await resolver.resolve("nothing.pool.test")
        for name in ("a..pool.test", "a" * 64 + ".test"):
            with pytest.raises(UnicodeError):
                await resolver.resolve(name)
        assert (pool.statistics().opened, pool.statistics().closed) == (1, {})


async def test_queries_share_a_few_connections(server: Program, tls: bool) -> None:
    """A hundred tasks make no more handshakes than the pool has connections."""
    async with pool_of(server, tls) as pool:
        resolver = example.Resolver(pool)

        async def ask(number: int) -> None:
            assert await resolver.resolve(f"n{number}.pool.test") == [
                ip_address(address_of(number))
            ]

        async with create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(ask, number)
        await until_at_rest(pool)
        assert pool.statistics().opened <= pool.max_size
        assert pool.statistics().closed == {}


async def test_an_address_behind_aliases_is_found() -> None:
    """Aliases come before it, with names that are written out and with such as point to others."""
    packages = PackageFormat(2)

    async def peer(stream: FramedStream) -> None:
        query = await stream.receive_package(packages)
        alias, address, rest = b"\0\5\0\1", b"\0\1\0\1", bytes(4)
        answers = [
            # The question's name is at 12, and its second label, "test", at 14.
            b"\xc0\x0c" + alias + rest + b"\0\x08\1b\4test\0",
            b"\1b\4test\0" + alias + rest + b"\0\4\1c\xc0\x0e",
            b"\1c\xc0\x0e" + address + rest + b"\0\4\x0a\2\0\1",
        ]
        header = query[:2] + b"\x81\x80\0\1" + bytes([0, len(answers)]) + bytes(4)
        await stream.send_package(header + query[12:] + b"".join(answers), packages)

    async with (
        MemoryConnectable(peer) as remote,
        ConnectionPool(remote, package_format=packages) as pool,
    ):
        addresses = await example.Resolver(pool).resolve("a.test")
        assert addresses == [ip_address("10.2.0.1")]


@pytest.mark.parametrize("part", ["number", "question"])
async def test_the_reply_to_another_question_is_refused(part: str) -> None:
    """Neither another number nor another name is taken, and the connection is closed."""
    packages = PackageFormat(2)

    async def peer(stream: FramedStream) -> None:
        query = bytearray(await stream.receive_package(packages))
        query[0 if part == "number" else 13] ^= 1
        await stream.send_package(bytes(query), packages)
        await stream.receive()

    async with (
        MemoryConnectable(peer) as remote,
        ConnectionPool(remote, package_format=packages) as pool,
    ):
        with pytest.raises(ValueError, match="another question"):
            await example.Resolver(pool).resolve("pool.test")
        await until_at_rest(pool)
        assert pool.statistics().closed == {"unclean": 1}


async def test_whatever_dies_every_answer_is_its_questions(
    server: Program, tls: bool, seed: int, anyio_backend: tuple[str, Any]
) -> None:
    """While unbound is killed and callers give up, nobody gets another one's address."""
    async with pool_of(server, tls) as pool:
        resolver = example.Resolver(pool)

        async def ask(number: int) -> None:
            number %= NAMES
            addresses = await resolver.resolve(f"n{number}.pool.test")
            assert addresses == [ip_address(address_of(number))]

        await live_through_deaths(pool, server, ask, seed, anyio_backend[0] == "asyncio")
