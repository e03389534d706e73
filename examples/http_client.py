"""An HTTP/1.1 client: h11 knows the protocol, and the pool keeps the connections.

``pip install h11``, start a web server on this machine, then run
``python examples/http_client.py [port]``. It asks for the same page three times. For work, take a
client that also knows redirects, cookies and proxies; this one shows how a parser goes with a pool.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass

import anyio
import h11

from anyconnpool import ConnectionPool, PooledConnection, Retry

# To send one of these twice does no more than to send it once (RFC 9110, section 9.2.2).
IDEMPOTENT = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}
MAX_BODY = 16 * 1024 * 1024


@dataclass
class Response:
    """What the server has answered."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


async def begin(connection: PooledConnection) -> h11.Connection:
    """Give a new connection a parser of its own, which lives as long as the connection."""
    return h11.Connection(h11.CLIENT)


def make_pool(host: str, port: int, max_size: int = 4) -> ConnectionPool[h11.Connection]:
    """Make a pool whose connections have a parser as their session."""
    return ConnectionPool((host, port), max_size=max_size, on_connect=begin)


async def receive_event(connection: PooledConnection[h11.Connection]) -> object:
    """Receive until the parser has an event."""
    http = connection.session
    while (event := http.next_event()) is h11.NEED_DATA:
        try:
            http.receive_data(await connection.receive())
        except anyio.EndOfStream:
            http.receive_data(b"")
            with suppress(h11.RemoteProtocolError):
                return http.next_event()  # the end of a body whose length nobody has announced
            raise
    return event


async def exchange(
    connection: PooledConnection[h11.Connection], request: h11.Request, body: bytes
) -> Response:
    """Send a request, receive the whole response, and see whether another request may follow."""
    http = connection.session
    await connection.send(
        b"".join(http.send(part) or b"" for part in (request, h11.Data(body), h11.EndOfMessage()))
    )
    head, content = None, bytearray()
    while not isinstance(event := await receive_event(connection), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            content += event.data
            if len(content) > MAX_BODY:
                raise ValueError(f"the body of the response is longer than {MAX_BODY} bytes")
    assert head is not None
    # One side may have said "Connection: close", and bytes behind the response belong to nobody.
    if http.our_state is http.their_state is h11.DONE and not http.trailing_data[0]:
        http.start_next_cycle()
    else:
        connection.discard()
    return Response(head.status_code, head.headers.raw_items(), bytes(content))


class HTTPClient:
    """Make each request on a connection of a pool."""

    def __init__(self, pool: ConnectionPool[h11.Connection], host: str) -> None:
        self._pool = pool
        self._host = host

    async def request(self, method: str, target: str, body: bytes | None = None) -> Response:
        """Make one exchange; it is repeated only if the method allows it."""
        headers = [("Host", self._host)]
        if body is not None:
            headers.append(("Content-Length", str(len(body))))
        request = h11.Request(method=method, target=target, headers=headers)
        retry = Retry(2) if method in IDEMPOTENT else None
        return await self._pool.run(exchange, request, body or b"", timeout=30, retry=retry)


async def main(port: int) -> None:
    """Ask for a page three times, over one connection."""
    async with make_pool("127.0.0.1", port) as pool:
        client = HTTPClient(pool, "localhost")
        for _ in range(3):
            response = await client.request("GET", "/")
            print(response.status, len(response.body), "bytes")
        print("connections opened:", pool.statistics().opened)


if __name__ == "__main__":
    # backend="trio" would do as well.
    anyio.run(main, int(sys.argv[1]) if sys.argv[1:] else 80)
