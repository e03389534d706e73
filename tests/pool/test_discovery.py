"""Replicas that an async function finds, and what becomes of a pool while it finds none."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from anyio import ConnectionFailed, create_task_group

from anyconnpool import ConnectionPool, Replicas, Retry

from .network import MemoryNetwork, settle
from .service import REST, Server, ask, give_back, hold


class Directory:
    """Find servers: an async function that a test controls."""

    def __init__(self, *found: MemoryNetwork) -> None:
        self.found: Sequence[Any] = found
        self.called_at: list[float] = []
        self.error: Exception | None = None
        self.slowness = 0.0

    async def __call__(self) -> Sequence[Any]:
        self.called_at.append(anyio.current_time())
        await anyio.sleep(self.slowness)
        if self.error is not None:
            raise self.error
        return self.found


def make_pool(directory: Directory, refresh: float = 10, **settings: Any) -> ConnectionPool:
    return ConnectionPool(Replicas(directory, refresh=refresh, rest=REST), **settings)


async def test_it_is_called_before_the_first_connect_and_after_every_refresh() -> None:
    """Once for all who ask meanwhile, and not before anybody asks."""
    directory = Directory(MemoryNetwork(), MemoryNetwork())
    directory.slowness = 0.05
    async with make_pool(directory) as pool:
        await anyio.sleep(5)
        assert directory.called_at == []
        async with create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(ask, pool)
        await anyio.sleep(25)
        assert directory.called_at == pytest.approx([5, 15.05, 25.1])
    await anyio.sleep(20)
    assert len(directory.called_at) == 3


async def test_what_it_finds_replaces_the_replicas() -> None:
    """Those that are gone get nothing more; duplicates are dropped."""
    first, second, third = (MemoryNetwork() for _ in range(3))
    directory = Directory(first, second, first)
    async with make_pool(directory) as pool:
        await give_back(await hold(pool, 4))
        assert (first.open_now, second.open_now) == (2, 2)
        directory.found = [second, third]
        await anyio.sleep(10.5)
        assert first.open_now == 0
        await anyio.sleep(2)
        assert (second.open_now, third.open_now) == (1, 1)


async def test_who_waits_is_served_as_soon_as_it_finds_anything() -> None:
    """The pause of ``connect_retry`` was for what it had not found."""
    directory = Directory(MemoryNetwork())
    directory.error = LookupError("no such service")
    retry = Retry(math.inf, interval=20, jitter=0)
    async with make_pool(directory, connect_retry=retry) as pool, create_task_group() as tasks:
        tasks.start_soon(ask, pool)
        await anyio.sleep(2.5)
        directory.error = None
        await anyio.sleep(1)
        assert pool.statistics().idle == 1


@pytest.mark.parametrize("answer", ["error", "nothing", "nonsense"])
async def test_an_error_of_it_keeps_the_last_replicas(
    answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """So does an empty answer, and one that makes no sense; it is logged."""
    network = MemoryNetwork()
    directory = Directory(network)
    async with make_pool(directory, name="service") as pool:
        await ask(pool)
        if answer == "error":
            directory.error = LookupError("no such service")
        else:
            directory.found = [] if answer == "nothing" else [5]
        with caplog.at_level(logging.WARNING):
            await anyio.sleep(11)
            await ask(pool)
        assert len(directory.called_at) == 2
        assert network.open_now == 1
        assert "pool service: the discovery of replicas failed" in caplog.text


async def test_with_none_known_connecting_fails() -> None:
    """At most one call a second, whoever asks; the error of the call is the cause."""
    directory = Directory(MemoryNetwork())
    directory.error = LookupError("no such service")
    async with make_pool(directory) as pool:
        for _ in range(3):
            with pytest.raises(ConnectionFailed, match=r"no replica of .* is known") as caught:
                await ask(pool)
            assert isinstance(caught.value.__cause__, LookupError)
        assert directory.called_at == [0]
        directory.error = None
        await anyio.sleep(1)
        await ask(pool)
        assert directory.called_at == [0, 1]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([], "there must be one remote at least"),
        (("h", 1), r"write \[\('h', 1\)\]"),
        ([("h", "1")], "a port must be an int, not '1': write 1"),
        (None, "must be a collection of remotes"),
        ("me:s3cret@h:1", "must be a collection of remotes"),
    ],
)
async def test_what_it_must_not_return_is_told(
    found: Any, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """To callers, in the log, and without a pool: these texts are ours, and hold no secret."""
    directory = Directory()
    directory.found = found
    replicas = Replicas(directory, rest=REST)
    text = f"no replica .*: ConnectionFailed: .*{text}"
    with pytest.raises(ConnectionFailed, match=text):
        await replicas.connect()
    async with ConnectionPool(replicas, name="service") as pool:
        with pytest.raises(ConnectionFailed, match=text):
            await ask(pool)
    assert "the discovery of replicas has returned what makes no sense: " in caplog.text
    assert "s3cret" not in caplog.text


async def test_a_function_that_takes_parameters_is_told_so() -> None:
    """In the text, which of what it raises itself would name the type alone."""

    async def find(name: str) -> list[Any]:
        return []

    given: Any = find
    async with ConnectionPool(Replicas(given)) as pool:
        with pytest.raises(ConnectionFailed, match=r"must take no argument: .*find\(\) missing 1"):
            await ask(pool)


async def test_connect_timeout_is_its_limit() -> None:
    """Whoever waits for it gets an error then, and the next call may succeed."""
    directory = Directory(MemoryNetwork())
    directory.slowness = 100
    async with make_pool(directory, connect_timeout=2) as pool:
        with pytest.raises(ConnectionFailed, match="it took longer than connect_timeout, 2 s"):
            await ask(pool)
        assert anyio.current_time() == 2
        directory.slowness = 0
        await anyio.sleep(1)
        await ask(pool)


async def test_it_is_called_at_once_when_all_rest() -> None:
    """At most once a second; what it finds then ends the outage."""
    dead, well = Server(), Server()
    directory = Directory(dead.network)
    async with make_pool(directory, refresh=60, fail_fast_after=2) as pool:
        await ask(pool)
        await anyio.sleep(5)
        dead.die()
        await settle()
        with pytest.raises(ConnectionFailed):
            await ask(pool)
        await anyio.sleep(3.5)
        assert directory.called_at == [0, 5, 6, 7, 8]
        directory.found = [dead.network, well.network]
        await anyio.sleep(1)
        assert directory.called_at[-1] == 9
        await ask(pool)
        await anyio.sleep(10)
        assert directory.called_at[-1] == 9


async def test_the_end_of_the_pool_interrupts_it() -> None:
    """Also while somebody waits for its first answer."""
    directory = Directory(MemoryNetwork())
    directory.slowness = 1000
    async with make_pool(directory, connect_timeout=900) as pool:
        with anyio.move_on_after(1):
            await ask(pool)
    assert anyio.current_time() < 7


async def test_what_it_is_decides_the_default_name() -> None:
    """The function's, or the DNS name."""
    assert make_pool(Directory()).name.endswith("Directory")
    assert ConnectionPool(Replicas.from_dns("service.test", 80)).name == "service.test"
    assert ConnectionPool(Replicas.from_dns("service.test", 80), tls=True).name == "service.test"


async def test_a_function_that_is_not_async_is_an_error_of_each_call() -> None:
    """It says what to do."""

    def find() -> list[object]:
        return [MemoryNetwork()]

    replicas: Any = Replicas(find)  # type: ignore[arg-type]
    async with ConnectionPool(replicas) as pool:
        with pytest.raises(ConnectionFailed, match="must be an async function"):
            await ask(pool)


async def test_a_refresh_that_is_hardly_any_time_leaves_turns_to_others() -> None:
    """Added to the time, it is nothing."""
    network = MemoryNetwork()
    calls = 0

    async def find() -> list[Any]:
        nonlocal calls
        calls += 1
        if calls == 100:
            # What never waits for anything would go on for ever.
            await anyio.sleep(1)
        return [network]

    await anyio.sleep(80_000)
    async with ConnectionPool(Replicas(find, refresh=1e-12)) as pool:
        await ask(pool)
    assert calls < 100
