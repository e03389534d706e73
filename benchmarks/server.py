"""The other end of the connections, a program of its own: it echoes, and pushes frames in bulk.

It prints where it listens as one line of JSON, and ends when its standard input does, that is with
whoever started it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import tempfile
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import anyio
import trustme

from benchmarks.descriptors import allow_sockets

MESSAGE_SIZE = 64
_BACKLOG = 4096
_MOST_CLIENTS = 10_000


class Echo(asyncio.Protocol):
    """Send every message of 64 bytes back."""

    _transport: asyncio.WriteTransport

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember whom to answer."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer what is complete."""
        data = self._rest + data
        complete = len(data) - len(data) % MESSAGE_SIZE
        self._rest = data[complete:]
        self._transport.write(data[:complete])


class Push(asyncio.Protocol):
    """Send frames, as many as a request asks for: header size, body size and count in a line."""

    _transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember whom to answer."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Push; requests are short and come one at a time."""
        self._transport.write(_frames(*map(int, data.split())))


@lru_cache(8)
def _frames(header_size: int, size: int, count: int) -> bytes:
    """Return packages, or with a header size of 0 lines."""
    header = size.to_bytes(header_size, "big") if header_size else b""
    return (header + b"x" * size + (b"" if header_size else b"\n")) * count


async def _serve() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "socket")
        # A server that nobody refers to may be collected, and closed.
        servers = {
            "tcp": await loop.create_server(Echo, "127.0.0.1", 0, backlog=_BACKLOG),
            "tls": await loop.create_server(Echo, "127.0.0.1", 0, backlog=_BACKLOG, ssl=context),
            "push": await loop.create_server(Push, "127.0.0.1", 0, backlog=_BACKLOG),
            "unix": await loop.create_unix_server(Echo, path, backlog=_BACKLOG),
        }
        addresses = {name: one.sockets[0].getsockname() for name, one in servers.items()}
        ports = {name: addresses[name][1] for name in ("tcp", "tls", "push")}
        authority_pem = authority.cert_pem.bytes().decode()
        print(json.dumps({**ports, "unix": path, "authority": authority_pem}), flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Serve on the fastest event loop there is, until standard input ends."""
    allow_sockets(_MOST_CLIENTS)
    fastest = find_spec("uvloop") is not None
    anyio.run(_serve, backend="asyncio", backend_options={"use_uvloop": fastest})


if __name__ == "__main__":
    main()
