"""TLS ended by a foreign program, stunnel, in front of Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from anyio import create_task_group, to_thread

from anyconnpool import ConnectionPool
from tests.certificates import authority, client_context
from tests.sockets.checks import eventually

from .checks import PERSISTENT, all_ended, fill, until_at_rest
from .programs import Program, redis_server, stunnel
from .redis_side import Load, admin, census, greet
from .resp import command

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from anyconnpool._settings import Hook, PoolOptions

SIZE = 6


class Site:
    """A Redis behind an stunnel."""

    def __init__(self, stack: ExitStack, directory: Path, version: str) -> None:
        certificate = directory / "certificate.pem"
        pem = authority().issue_cert("127.0.0.1").private_key_and_cert_chain_pem
        pem.write_to_path(str(certificate))
        self.redis = stack.enter_context(redis_server(directory))
        self.stunnel: Program = stack.enter_context(
            stunnel(directory, version, certificate, self.redis.remote)
        )

    def pool(
        self, on_connect: Hook | None = None, **settings: Unpack[PoolOptions]
    ) -> ConnectionPool[Any]:
        settings["max_size"] = SIZE
        return ConnectionPool(
            self.stunnel.remote,
            tls=True,
            ssl_context=client_context(),
            on_connect=on_connect,
            **settings,
        )


@pytest.fixture(params=["TLSv1.2", "TLSv1.3"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Run a Redis behind an stunnel that speaks one version of TLS."""
    with ExitStack() as stack:
        yield Site(stack, tmp_path, request.param)


async def test_every_task_finds_the_values_that_it_stored(site: Site, seed: int) -> None:
    """No connection is lost to what TLS sends beside the replies, and there are 6 of them."""
    async with site.pool(on_connect=greet) as pool, census(site.redis) as counter:
        load = Load(pool, seed)
        async with create_task_group() as tasks:
            for name in range(50):
                tasks.start_soon(load.rounds, name, 6)
        assert load.right == 300
        await until_at_rest(pool)
        assert pool.statistics().closed == {}
        assert counter.most == SIZE == pool.statistics().opened


async def test_a_connection_that_nobody_has_read_from_is_reused(site: Site) -> None:
    """Session tickets of TLS 1.3 make it readable, but they are no data."""
    async with site.pool() as pool:
        for _ in range(3):
            async with pool.acquire():
                pass
            await until_at_rest(pool)
        assert await pool.run(command, "PING") == "PONG"
        await until_at_rest(pool)
        assert (pool.statistics().opened, pool.statistics().closed) == (1, {})


async def test_what_redis_ends_behind_stunnel_fails_no_request(site: Site) -> None:
    """The closing alert of TLS is an end like any other, to idle connections."""
    async with site.pool(on_connect=greet) as pool, admin(site.redis) as killer:
        await fill(pool)
        assert await killer.kill_clients() == SIZE
        await eventually(lambda: all_ended(pool, site.stunnel))
        async with create_task_group() as tasks:
            for _ in range(3 * SIZE):
                tasks.start_soon(pool.run, command, "PING")
        await until_at_rest(pool)
        assert pool.statistics().closed == {"peer_closed": SIZE}
        assert pool.statistics().replayed == 0


async def test_a_restart_while_all_is_idle_fails_no_request(site: Site) -> None:
    """Killed, stunnel says nothing more; its kernel's FIN is enough."""
    async with site.pool(on_connect=greet) as pool:
        await fill(pool)
        await to_thread.run_sync(site.stunnel.restart)
        await eventually(lambda: all_ended(pool, site.stunnel))
        assert await pool.run(command, "PING") == "PONG"
        await until_at_rest(pool)
        assert pool.statistics().closed == {"peer_closed": SIZE}
        assert pool.statistics().replayed == 0


async def test_a_restart_under_load_fails_no_request(site: Site, seed: int) -> None:
    """With a retry all requests complete, whatever was cut in the middle of a record."""
    async with site.pool(on_connect=greet, connect_retry=PERSISTENT) as pool:
        load = Load(pool, seed, PERSISTENT)
        async with create_task_group() as tasks:
            for name in range(30):
                tasks.start_soon(load.until_finished, name)
            for _ in range(3):
                await load.make_progress(100)
                await to_thread.run_sync(site.stunnel.restart)
            await load.make_progress(100)
            load.finish()
        assert load.failed == []
        assert pool.statistics().opened > SIZE
        await until_at_rest(pool)
