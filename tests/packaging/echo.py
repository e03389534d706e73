"""Exchange a line with a server of its own: `echo.py BACKEND`, run in a fresh environment."""

from __future__ import annotations

import sys
from contextlib import suppress

import anyio
from anyio.abc import SocketAttribute, SocketStream

from anyconnpool import ConnectionPool, FramedStream


async def answer(accepted: SocketStream) -> None:
    """Answer each line with itself."""
    async with FramedStream(accepted) as stream:
        with suppress(anyio.EndOfStream):
            while True:
                await stream.send_line(b"> " + await stream.receive_line())


async def main() -> None:
    """Make two exchanges over one connection."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as server,
    ):
        server.start_soon(listener.serve, answer)
        address = ("127.0.0.1", listener.extra(SocketAttribute.local_port))
        async with ConnectionPool(address) as pool:
            for _ in range(2):
                assert await pool.send_receive_line(b"ping", timeout=30) == b"> ping"
            assert pool.statistics().opened == 1
        server.cancel_scope.cancel()


if __name__ == "__main__":
    name, _, loop = sys.argv[1].partition("+")
    anyio.run(main, backend=name, backend_options={"use_uvloop": True} if loop else {})
