"""The oracle of shared connections: whatever happens, each caller gets his own reply or an error.

Delays, hang-ups between and within replies, time limits, cancellations by scopes and natively, and
``read`` functions that raise are drawn from ``--seed``. `--long -rP` makes hundreds of thousands of
exchanges and prints what has become of them.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from random import Random
from typing import Any

import anyio
import pytest
from anyio import create_task_group, fail_after

from anyconnpool import ConnectionPool, ExchangeError, PooledConnection, Retry
from tests.sockets.checks import open_sockets
from tests.sockets.conftest import Serve
from tests.sockets.conftest import kind as kind
from tests.sockets.conftest import no_unix_noise as no_unix_noise
from tests.sockets.conftest import serve as serve
from tests.sockets.servers import KINDS, Peer

# Long enough that no answer is late because the machine is busy.
_PATIENCE = 50
CLIENTS = 24
SHORT, LONG = 400, 40_000


class ReadError(Exception):
    """What a read function raises that has read its reply."""


def unreliable(seed: int, trouble: float) -> Any:
    """Make a script that echoes lines, in one send or in pieces, and hangs up now and then.

    :param trouble: how often, of all replies, it hangs up
    """
    numbers = iter(range(1, 1_000_000))

    def script(peer: Peer) -> None:
        random = Random(f"{seed} {next(numbers)}")
        while True:
            lines = [peer.receive_line()]
            while peer.has_line and len(lines) < 50:
                lines.append(peer.receive_line())
            if random.random() < 0.1:
                # A server that is late now and then, in a thread of its own: nothing waits for it.
                time.sleep(random.random() / 200)
            reply = b"".join(b"> " + line + b"\n" for line in lines)
            if random.random() < trouble * len(lines):
                peer.send(reply[: random.randrange(len(reply) + 1)])
                return
            while reply:
                cut = random.randrange(1, len(reply) + 1) if random.random() < 0.2 else len(reply)
                peer.send(reply[:cut])
                reply = reply[cut:]

    return script


class Oracle:
    """Tasks that ask, and what they get.

    :param pool: the pool
    :param seed: what all chance is drawn from
    :param native: whether tasks may be cancelled natively
    :param harmless: whether an error of a read function is
    """

    def __init__(
        self, pool: ConnectionPool[Any], seed: int, *, native: bool, harmless: bool
    ) -> None:
        self.pool, self.seed, self.native, self.harmless = pool, seed, native, harmless
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    async def client(self, number: int, exchanges: int) -> None:
        random = Random(f"{self.seed} client {number}")
        for turn in range(exchanges):
            token = b"%d.%d." % (number, turn) + b"x" * random.choice([0, 0, 5, 3000])
            try:
                # Nobody is left without an answer.
                with fail_after(_PATIENCE):
                    await self._ask(token, random)
            except TimeoutError:
                self.faults.append(f"no answer to {token[:20]!r}")

    async def _ask(self, token: bytes, random: Random) -> None:
        chance = random.random()
        reply: bytes | None = None
        try:
            if chance < 0.1:
                with anyio.move_on_after(random.random() / 100):
                    reply = await self._exchange(token, random)
                if reply is None:
                    self.counts["cancelled"] += 1
            elif chance < 0.15 and self.native:
                reply = await self._exchange_in_a_task(token, random)
            else:
                reply = await self._exchange(token, random)
        except ReadError:
            self.counts["read raised"] += 1
        except ExchangeError as error:
            self.counts[type(error).__name__] += 1
        if reply is not None:
            self.counts["served"] += 1
            if reply != b"> " + token:
                self.faults.append(f"{token[:20]!r} got {reply[:20]!r}")

    async def _exchange(self, token: bytes, random: Random) -> bytes:
        pool, chance = self.pool, random.random()
        timeout = random.random() / 50 if random.random() < 0.1 else None
        retry = Retry(3, interval=0.001) if random.random() < 0.5 else None
        options: dict[str, Any] = {"timeout": timeout, "retry": retry}
        if chance < 0.3:
            return await pool.send_receive_line(token, **options)
        if chance < 0.5:
            return (await pool.send_receive(token + b"\n", len(token) + 3, **options))[:-1]
        if chance < 0.55:
            return await pool.run(lambda connection: connection.send_receive_line(token), **options)
        fails = random.random() < 0.05

        async def read(connection: PooledConnection[Any]) -> bytes:
            start = await connection.receive_exactly(2)
            if fails and not self.harmless:
                raise ReadError
            reply = start + await connection.receive_line()
            if fails:
                # One that is harmless comes after a whole reply only.
                raise ReadError
            return reply

        return await pool.exchange(token + b"\n", read, **options)

    async def _exchange_in_a_task(self, token: bytes, random: Random) -> bytes | None:
        """Do an exchange in a task of asyncio's that is cancelled natively, maybe in time."""
        delay = random.random() / 100
        task = asyncio.ensure_future(self._exchange(token, random))
        await asyncio.wait([task], timeout=delay)
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            self.counts["cancelled natively"] += 1
            return None


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("no_unix_noise")
@pytest.mark.parametrize("kind", KINDS)
async def test_each_caller_gets_his_own_reply_or_an_error(
    request: pytest.FixtureRequest,
    serve: Serve,
    anyio_backend_name: str,
    seed: int,
    long_form: bool,
) -> None:
    """However exchanges and connections end, nobody gets another's reply, nobody gets none."""
    before = open_sockets()
    exchanges = LONG if long_form else SHORT
    counts: Counter[str] = Counter()
    for share, (trouble, settings) in enumerate(
        [
            (0.0, {"max_size": 1, "pipeline": 64}),
            (0.01, {"max_size": 3, "pipeline": 5}),
            (0.03, {"max_size": 2, "pipeline": 64, "max_uses": 50}),
        ]
    ):
        server = serve(unreliable(seed + share, trouble))
        harmless = share == 1
        options: dict[str, Any] = {**settings, "harmless": (ReadError,) if harmless else ()}
        async with server.pool(None, close_timeout=20, **options) as pool:
            native = anyio_backend_name == "asyncio"
            oracle = Oracle(pool, seed + share, native=native, harmless=harmless)
            async with create_task_group() as tasks:
                for number in range(CLIENTS):
                    tasks.start_soon(oracle.client, number, exchanges // CLIENTS // 3)
        counts += oracle.counts
        assert not oracle.faults, oracle.faults[0]
        facts = pool.statistics()
        assert (facts.in_flight, facts.size, facts.tasks_waiting) == (0, 0, 0)
        server.stop()
    assert counts["served"] > exchanges / 3
    assert open_sockets() == before
    if long_form:
        text = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        sys.stdout.write(f"{request.node.name}: {text}\n")


async def test_what_follows_a_reply_unasked_reaches_no_later_exchange(serve: Serve) -> None:
    """A server that says more than it was asked for loses the connection, not the order."""

    def talkative(peer: Peer) -> None:
        for number in range(1_000_000):
            line = peer.receive_line()
            peer.send(b"> " + line + b"\n" + (b"> pushed\n" if number % 3 == 2 else b""))

    server = serve(talkative)
    async with server.pool(max_size=1, pipeline=8) as pool:
        for number in range(60):
            token = b"%d" % number
            assert await pool.send_receive_line(token) == b"> " + token
        assert pool.statistics().closed["unread_data"] >= 19
