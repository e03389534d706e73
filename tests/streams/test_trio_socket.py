"""What the stream does on trio only."""

from __future__ import annotations

from functools import partial
from typing import NoReturn, cast

import anyio
import pytest
import trio
from anyio import ClosedResourceError, create_task_group

from .wires import error_of, fileno, is_open, read_all, turns, wire

pytestmark = pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)


async def test_a_receive_gives_a_turn_before_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes in that turn makes the wait needless."""

    async def refuse(_: object) -> NoReturn:
        raise AssertionError("it waited")

    got: list[bytes] = []
    async with wire() as (stream, peer), create_task_group() as group:
        monkeypatch.setattr(trio.lowlevel, "wait_readable", refuse)

        async def receive() -> None:
            got.append(await stream.receive())

        group.start_soon(receive)

        async def answer() -> None:
            peer.sendall(b"soon")

        group.start_soon(answer)
    assert got == [b"soon"]


async def test_the_rest_of_a_cancelled_send_is_cut_off() -> None:
    """What the kernel has taken arrives, nothing else of it."""
    async with wire() as (stream, peer):
        with anyio.move_on_after(0.05) as scope:
            await stream.send(b"a" * (1 << 24))
        assert scope.cancelled_caught
        await stream.aclose()
        data = read_all(peer, 1 << 25)
        assert 0 < len(data) < 1 << 24
        assert not data.strip(b"a")


async def test_the_rest_of_a_waiting_send_is_as_it_was() -> None:
    """The owner of an item's memory may use it for something else."""
    item = bytearray(b"a" * (1 << 24))
    data = b""
    async with wire() as (stream, peer), create_task_group() as group:
        group.start_soon(stream.send, cast("bytes", item))
        await turns()
        item[:] = b"b" * len(item)
        data += await anyio.to_thread.run_sync(read_all, peer, len(item))
    assert data == b"a" * len(item)


async def test_an_interruption_closes_nothing() -> None:
    """The descriptor stays open until the stream is closed."""
    async with wire() as (stream, _):
        stream.interrupt(ValueError())
        assert is_open(fileno(stream))


async def test_closing_reaches_a_task_between_two_tries() -> None:
    """A receive that gives others a turn, and a send that waits, are told."""
    errors: list[Exception] = []

    async with wire() as (stream, _):

        async def collect(call: object) -> None:
            errors.append(await error_of(call))  # type: ignore[arg-type]

        async with create_task_group() as group:
            group.start_soon(collect, stream.receive)
            group.start_soon(collect, partial(stream.send, bytes(1 << 24)))
            await trio.lowlevel.checkpoint()
            await stream.aclose()
    assert [type(error) for error in errors] == [ClosedResourceError] * 2


async def test_a_wake_up_that_means_nothing_means_nothing() -> None:
    """Others may notify trio of a close that doesn't come."""
    got: list[bytes] = []
    async with wire() as (stream, peer), create_task_group() as group:

        async def receive() -> None:
            got.append(await stream.receive())

        group.start_soon(receive)
        await turns()
        trio.lowlevel.notify_closing(fileno(stream))
        await turns()
        peer.sendall(b"x")
    assert got == [b"x"]
