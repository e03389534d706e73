"""Scripted peers, and what they say of clients that don't keep to the script."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from anyconnpool import ConnectionPool
from anyconnpool.testing import MemoryConnectable, ScriptedPeer
from tests.cases import table

SCRIPT = [(b"PING\n", b"PONG\n"), (b"GET key\n", b"value\n")]


async def deviation(*chunks: bytes, script: list[tuple[bytes, bytes]] = SCRIPT) -> str:
    """Send a scripted peer some chunks, close, and return what it complains of."""
    with pytest.raises(AssertionError) as caught:
        async with (
            MemoryConnectable(ScriptedPeer(script)) as remote,
            await remote.connect() as client,
        ):
            for chunk in chunks:
                await client.send(chunk)
    return str(caught.value)


async def test_a_client_that_keeps_to_the_script_passes() -> None:
    """Over a pool, on each connection the whole script."""
    async with MemoryConnectable(ScriptedPeer(SCRIPT)) as remote:
        for _ in range(2):
            async with ConnectionPool(remote) as pool:
                assert await pool.send_receive_line(b"PING") == b"PONG"
                assert await pool.send_receive_line(b"GET key") == b"value"
        assert remote.opened == 2


async def test_a_peer_answers_requests_that_are_in_flight_together() -> None:
    """On a shared connection each gets the reply to his own, in the order of the script."""
    script = [(b"%d\n" % number, b"reply %d\n" % number) for number in range(20)]
    async with MemoryConnectable(ScriptedPeer(script)) as remote:
        async with ConnectionPool(remote, max_size=1, pipeline=20) as pool:
            replies: list[bytes] = []

            async def ask(number: int) -> None:
                replies.append(await pool.send_receive_line(b"%d" % number))

            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(ask, number)
                    # One after the other, or trio would have them ask in any order.
                    await anyio.wait_all_tasks_blocked()
        assert replies == [b"reply %d" % number for number in range(20)]
        assert remote.opened == 1


@table("size", [1, 3, 100])
async def test_requests_may_come_in_any_chunks(size: int) -> None:
    """In pieces, or several at once."""
    async with MemoryConnectable(ScriptedPeer(SCRIPT)) as remote, await remote.connect() as client:
        requests = b"".join(request for request, _ in SCRIPT)
        for start in range(0, len(requests), size):
            await client.send(requests[start : start + size])
        received = b""
        while len(received) < 11:
            received += await client.receive()
        assert received == b"PONG\nvalue\n"


async def test_a_peer_may_speak_first_or_say_nothing() -> None:
    """A greeting is a reply to nothing."""
    peer = ScriptedPeer([(b"", b"READY\n"), (b"LOG x\n", b""), (b"PING\n", b"PONG\n")])
    async with (
        MemoryConnectable(peer) as remote,
        ConnectionPool(remote) as pool,
        pool.acquire() as connection,
    ):
        assert await connection.receive_line() == b"READY"
        await connection.send_line(b"LOG x")
        assert await connection.send_receive_line(b"PING") == b"PONG"


async def test_another_request_is_told_beside_the_expected_one() -> None:
    """At once, even if it is shorter than the expected one."""
    assert await deviation(b"PONG") == (
        "the client did not keep to the script in exchange 1 of 2\n"
        "  expected: b'PING\\n'\n"
        "  sent:     b'PONG'"
    )
    message = await deviation(b"PING\n", b"GET kez\n")
    assert message.splitlines() == [
        "the client did not keep to the script in exchange 2 of 2",
        "  expected: b'GET key\\n'",
        "  sent:     b'GET kez\\n'",
    ]


async def test_a_client_that_waits_for_its_reply_learns_of_the_deviation() -> None:
    """It is not left waiting: the peer hangs up."""
    with pytest.raises(AssertionError, match=r"sent: .*b'PONG"), anyio.fail_after(10):
        async with MemoryConnectable(ScriptedPeer(SCRIPT)) as remote, ConnectionPool(remote) as p:
            await p.send_receive_line(b"PONG")


async def test_more_than_the_script_has_is_a_deviation() -> None:
    """Whether it comes with the last request or later."""
    for chunks in ((b"PING\nGET key\nQUIT\n",), (b"PING\n", b"GET key\n", b"QUIT\n")):
        message = await deviation(*chunks)
        assert "after the last exchange" in message
        assert message.endswith("  expected: nothing\n  sent:     b'QUIT\\n'")


async def test_a_client_that_closes_early_is_told() -> None:
    """Between two exchanges, and in the middle of one; after less than nothing it isn't."""
    message = await deviation(b"PING\n")
    assert "in exchange 2 of 2" in message
    assert message.endswith("sent:     b'', and then closed")
    assert (await deviation(b"PI")).endswith("sent:     b'PI', and then closed")
    async with MemoryConnectable(ScriptedPeer(SCRIPT)) as remote:
        await (await remote.connect()).aclose()


async def test_much_is_not_shown_whole() -> None:
    """A request of megabytes does not bury the message."""
    message = await deviation(bytes(50_000), script=[(b"x" * 50_000, b"")])
    assert len(message) < 1500
    assert message.count("(50000 bytes)") == 2


async def test_a_connection_that_the_pool_has_to_close_is_told_of() -> None:
    """A borrower that doesn't wait for its reply never comes to the end of the script."""
    with pytest.raises(AssertionError, match="in exchange 2 of 2"):
        async with (
            MemoryConnectable(ScriptedPeer([(b"A\n", b""), (b"B\n", b"")])) as remote,
            ConnectionPool(remote) as pool,
        ):
            async with pool.acquire() as connection:
                await connection.send_line(b"A")
            assert pool.statistics().closed == {"unclean": 1}


@table("script", [[("PING", "PONG")], [b"PING"], [(b"PING",)], [None]])
def test_what_is_no_script_is_refused(script: Any) -> None:
    """When it is made, with a text that shows what is wrong."""
    with pytest.raises(TypeError, match=r"pairs of bytes.*not"):
        ScriptedPeer(script)
