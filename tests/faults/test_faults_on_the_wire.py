"""Each fault does on the wire what it says: plain sockets at both ends."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest
from anyio import current_time, to_thread
from anyio.streams.tls import TLSConnectable

from anyconnpool.testing import FaultProxy, Faults, Flow
from tests.cases import table
from tests.certificates import client_context
from tests.sockets.checks import eventually
from tests.sockets.servers import Peer, Server

from .wire import Client, Recorder, client_of, receive


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """Return a server that does what the test tells it."""
    return serve(script=None)


@dataclass
class Line:
    """A proxy and both ends of the first connection through it."""

    proxy: FaultProxy
    client: Client
    peer: Peer

    async def heard(self, nbytes: int) -> bytes:
        """Return so many bytes that came to the server, or what came before the end."""
        return await receive(self.peer.socket, nbytes)


@asynccontextmanager
async def line(server: Server, faults: Faults) -> AsyncGenerator[Line]:
    async with FaultProxy(server.remote, faults=faults) as proxy, client_of(proxy.remote) as client:
        yield Line(proxy, client, await server.peer(0))


async def test_without_faults_bytes_and_ends_pass_as_they_are(server: Server) -> None:
    """In both directions, each ending on its own; then the connection is gone."""
    async with line(server, Faults()) as ends:
        await ends.client.send(b"question")
        assert await ends.heard(8) == b"question"
        ends.peer.send(b"answer" * 100_000)
        assert await ends.client.receive(600_000) == b"answer" * 100_000
        ends.client.socket.shutdown(socket.SHUT_WR)
        assert await ends.heard(1) == b""
        ends.peer.send(b"last")
        assert await ends.client.receive(4) == b"last"
        assert len(ends.proxy.connections) == 1
        ends.peer.hang_up()
        assert await ends.client.receive(1) == b""
        await eventually(lambda: not ends.proxy.connections)


async def test_latency_holds_what_passes(server: Server) -> None:
    """Each direction by its own."""
    async with line(server, Faults(Flow(latency=0.03), Flow(latency=0.05))) as ends:
        began = current_time()
        await ends.client.send(b"?")
        assert await ends.heard(1) == b"?"
        heard_at = current_time()
        ends.peer.send(b"!")
        assert await ends.client.receive(1) == b"!"
        # The clock of uvloop ticks in milliseconds.
        assert heard_at - began > 0.028
        assert current_time() - heard_at > 0.048


@table("ended", [False, True])
async def test_a_chunk_size_takes_bytes_apart(ended: bool) -> None:
    """One byte at a time, up to where the flow ends; any connectable is a remote."""
    recorder = Recorder()
    flow = Flow(chunk_size=1, half_close_after=2 if ended else None)
    pieces = [b"a", b"b", b"EOF" if ended else b"c"]
    async with (
        FaultProxy(recorder, faults=Faults(flow)) as proxy,
        client_of(proxy.remote) as client,
    ):
        await client.send(b"abc")
        await eventually(lambda: recorder.pieces == pieces)


async def test_a_cut_reply_ends_after_so_many_bytes(server: Server) -> None:
    """By FIN, and the remote's end too."""
    async with line(server, Faults(replies=Flow(cut_after=3))) as ends:
        ends.peer.send(b"abcdef")
        assert await ends.client.receive(6) == b"abc"
        assert await ends.heard(1) == b""


async def test_a_cut_request_ends_after_so_many_bytes(server: Server) -> None:
    """The count runs over all that is sent."""
    async with line(server, Faults(requests=Flow(cut_after=3))) as ends:
        await ends.client.send(b"ab")
        assert await ends.heard(2) == b"ab"
        await ends.client.send(b"cdef")
        assert await ends.heard(4) == b"c"
        assert await ends.client.receive(1) == b""


async def test_a_reset_comes_after_so_many_bytes(server: Server) -> None:
    """By RST, which is an error and no end of the stream."""
    async with line(server, Faults(replies=Flow(reset_after=3))) as ends:
        ends.peer.send(b"abcdef")
        with pytest.raises(ConnectionResetError):
            assert await ends.client.receive(3) == b"abc"
            await ends.client.receive(1)
        assert await ends.heard(1) == b""


async def test_a_half_closed_reply_leaves_the_way_of_the_requests_open(server: Server) -> None:
    """What the remote sends after it is thrown away."""
    async with line(server, Faults(replies=Flow(half_close_after=3))) as ends:
        ends.peer.send(b"abcdef")
        assert await ends.client.receive(6) == b"abc"
        ends.peer.send(b"more")
        await ends.client.send(b"still here")
        assert await ends.heard(10) == b"still here"


async def test_a_half_closed_request_leaves_the_way_of_the_replies_open(server: Server) -> None:
    """The server sees the end of the stream, and can still answer."""
    async with line(server, Faults(requests=Flow(half_close_after=3))) as ends:
        await ends.client.send(b"abcdef")
        assert await ends.heard(6) == b"abc"
        ends.peer.send(b"half a question")
        assert await ends.client.receive(15) == b"half a question"


async def test_a_tls_remote_is_cut_where_it_should_be_half_closed(
    serve: Callable[..., Server],
) -> None:
    """TLS has no half-close; the client sees the end as well."""
    host, port = serve("tls13").remote
    tls = TLSConnectable(
        anyio.TCPConnectable(host, port), hostname=host, ssl_context=client_context()
    )
    async with FaultProxy(tls) as proxy, client_of(proxy.remote) as client:
        await client.send(b"hello")
        assert await client.receive(5) == b"hello"
        client.socket.shutdown(socket.SHUT_WR)
        assert await client.receive(1) == b""
        assert proxy.connections == ()


async def test_a_stalled_reply_goes_on_when_the_fault_is_lifted(server: Server) -> None:
    """No byte of it is lost."""
    async with line(server, Faults(replies=Flow(stall_after=3))) as ends:
        ends.peer.send(b"abcdef")
        assert await ends.client.receive(3) == b"abc"
        await anyio.wait_all_tasks_blocked()
        assert ends.client.silent
        ends.proxy.faults = Faults()
        assert await ends.client.receive(3) == b"def"


async def test_a_stalled_request_jams_the_sender(server: Server) -> None:
    """Only what the kernel buffers is taken; when the fault is lifted, it arrives."""
    async with line(server, Faults(requests=Flow(stall_after=0))) as ends:
        sent = await to_thread.run_sync(ends.client.jam)
        ends.proxy.faults = Faults()
        assert len(await ends.heard(sent)) == sent


async def test_a_count_begins_when_the_faults_are_set(server: Server) -> None:
    """What had passed before doesn't count; ends at 0 come at once."""
    async with line(server, Faults()) as ends:
        ends.peer.send(b"abc")
        assert await ends.client.receive(3) == b"abc"
        ends.proxy.faults = Faults(replies=Flow(half_close_after=2))
        ends.peer.send(b"defg")
        assert await ends.client.receive(4) == b"de"
        ends.proxy.faults = Faults(requests=Flow(half_close_after=0))
        assert await ends.heard(1) == b""
        ends.proxy.faults = Faults(requests=Flow(reset_after=0))
        assert ends.proxy.connections == ()
        with pytest.raises(BrokenPipeError):
            await ends.client.send(b"x")


async def test_a_remote_that_resets_resets_the_client(server: Server) -> None:
    """An error stays an error."""
    async with line(server, Faults()) as ends:
        ends.peer.reset()
        with pytest.raises(ConnectionResetError):
            await ends.client.receive(1)


async def test_a_client_that_goes_ends_the_remote(server: Server) -> None:
    """Even while the remote goes on sending."""
    async with line(server, Faults()) as ends:
        ends.client.socket.close()
        await eventually(lambda: ends.peer.hung_up)
        ends.peer.send(b"x" * 100_000)
        await eventually(lambda: not ends.proxy.connections)


async def test_an_unreachable_remote_resets_the_client(server: Server) -> None:
    """The proxy has accepted before it can know."""
    server.stop()
    async with FaultProxy(server.remote) as proxy, client_of(proxy.remote) as client:
        with pytest.raises(ConnectionResetError):
            await client.receive(1)
        await eventually(lambda: not proxy.connections)


async def test_a_connection_that_ended_takes_every_command(server: Server) -> None:
    """And does nothing."""
    async with line(server, Faults()) as ends:
        (connection,) = ends.proxy.connections
        connection.cut()
        assert not connection.is_open
        connection.freeze()
        connection.thaw()
        connection.faults = Faults(replies=Flow(half_close_after=0))
        connection.reset()
        assert await ends.client.receive(1) == b""
