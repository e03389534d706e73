"""A cancelled read loses nothing, wherever the cancellation strikes: the next read has it all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from anyio import CancelScope
from anyio.lowlevel import checkpoint

from anyconnpool import FramedStream, PackageFormat
from tests.cases import table
from tests.conftest import BACKENDS

from .scripted import ScriptedStream, rest_of

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

Read = Callable[[FramedStream], Awaitable[bytes]]


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Return both kinds of loops: each has cancellations and turns of its own."""
    return BACKENDS[request.param]


@dataclass(frozen=True)
class Case:
    """A read that needs several chunks, what it gives, and what is left of them."""

    name: str
    read: Read
    chunks: tuple[bytes, ...]
    gives: bytes
    leaves: bytes = b""


CASES = [
    Case("line", lambda s: s.receive_line(), (b"a", b"b", b"c\nd"), b"abc", b"d"),
    Case(
        "line with a long newline",
        lambda s: s.receive_line(newline=b"\r\n"),
        (b"ab\r", b"c\r", b"\nd"),
        b"ab\rc",
        b"d",
    ),
    Case("until", lambda s: s.receive_until(b"END", 99), (b"aE", b"N", b"Db"), b"a", b"b"),
    Case("exactly", lambda s: s.receive_exactly(5), (b"ab", b"cd", b"ef"), b"abcde", b"f"),
    Case("package", lambda s: s.receive_package(), (b"\0", b"\3a", b"bc\0"), b"abc", b"\0"),
    Case(
        "large package",
        lambda s: s.receive_package(PackageFormat(4)),
        (b"\0\5\0\0", *[b"x" * 65536] * 5, b"end"),
        b"x" * 327_680,
        b"end",
    ),
    Case("long line", lambda s: s.receive_line(), (*[b"x" * 999] * 9, b"\n"), b"x" * 8991),
    Case("available", lambda s: s.receive_available(quiet=3600), (b"ab", b"c"), b"abc"),
    Case("drain", lambda s: s.drain(quiet=3600), (b"ab", b"c"), b"abc"),
]


def case_name(case: Case) -> str:
    return case.name


async def points_of(case: Case) -> int:
    """Count the points at which the read can be cancelled."""
    source = ScriptedStream(*case.chunks)
    assert await case.read(FramedStream(source)) == case.gives
    return source.points


@table("fed", [0, 1])
@table("case", CASES)
async def test_a_read_cancelled_by_a_scope_can_be_repeated(case: Case, fed: int) -> None:
    """Cancelled at the k-th point, for every k, the repeated read gives the whole frame."""
    for point in range(await points_of(case)):
        source = ScriptedStream(*case.chunks[fed:])
        stream = FramedStream(source)
        stream.feed_data(b"".join(case.chunks[:fed]))
        results: list[bytes] = []
        with CancelScope() as scope:
            source.at_point(point, scope.cancel)
            results.append(await case.read(stream))
        if not results:
            results.append(await case.read(stream))
        assert results == [case.gives], point
        assert await rest_of(stream) == case.leaves, point


@on_asyncio
@table("case", CASES)
async def test_a_read_cancelled_natively_can_be_repeated(case: Case) -> None:
    """The same for ``task.cancel()``, which knows neither scopes nor shields."""
    for point in range(await points_of(case)):
        source = ScriptedStream(*case.chunks)
        stream = FramedStream(source)
        # A task that finishes with a cancellation pending drops its result: keep it here.
        results: list[bytes] = []

        async def read(stream: FramedStream = stream, results: list[bytes] = results) -> None:
            results.append(await case.read(stream))

        task = asyncio.get_running_loop().create_task(read())
        source.at_point(point, task.cancel)
        await asyncio.wait([task])
        assert task.cancelled()
        if not results:
            results.append(await case.read(stream))
        assert results == [case.gives], point
        assert await rest_of(stream) == case.leaves, point


@table("case", CASES)
async def test_a_read_may_be_cancelled_again_and_again(case: Case) -> None:
    """Cancelled at its first chance in every try, a read still gets on by a chunk a try."""
    source = ScriptedStream(*case.chunks)
    stream = FramedStream(source)
    results: list[bytes] = []
    tries = 0
    while not results:
        tries += 1
        assert tries <= 2 * len(case.chunks) + 2, "the read makes no progress"
        with CancelScope() as scope:
            source.at_point(1, scope.cancel)
            results.append(await case.read(stream))
    assert results == [case.gives]
    assert await rest_of(stream) == case.leaves


@table("case", CASES)
async def test_a_read_that_has_to_wait_in_a_cancelled_scope_takes_nothing(case: Case) -> None:
    """A read begun after the cancellation doesn't touch what the peer sent."""
    source = ScriptedStream(*case.chunks)
    stream = FramedStream(source)
    with CancelScope() as scope:
        scope.cancel()
        await case.read(stream)
    assert scope.cancelled_caught
    assert source.delivered == 0
    assert await case.read(stream) == case.gives


@table("case", CASES)
async def test_another_read_gets_the_bytes_of_a_cancelled_one(case: Case) -> None:
    """What arrived isn't tied to the kind of read: a plain receive gets every byte."""
    wire = b"".join(case.chunks)
    for point in range(await points_of(case)):
        source = ScriptedStream(*case.chunks)
        stream = FramedStream(source)
        taken = 0
        with CancelScope() as scope:
            source.at_point(point, scope.cancel)
            await case.read(stream)
            taken = len(wire) - len(case.leaves)
        assert await rest_of(stream) == wire[taken:], point


@table("size", [1, 1000])
async def test_a_cancelled_send_leaves_the_reads_alone(size: int) -> None:
    """A send that was given up says nothing about the bytes that the peer sent."""

    class Blocked(ScriptedStream):
        async def send(self, item: bytes) -> None:
            scope.cancel()
            await checkpoint()

    stream = FramedStream(Blocked(b"reply\n"))
    with CancelScope() as scope:
        await stream.send_package(bytes(size))
    assert scope.cancelled_caught
    assert await stream.receive_line() == b"reply"
