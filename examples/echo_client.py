"""An echo client: once a second it borrows a connection, sends the time and prints the reply.

It prints both addresses too. While the server keeps the connection open, the local port stays the
same: the pool hands out the same connection again. When the server hangs up, the port changes, and
nothing else does.
"""

import argparse
from datetime import datetime

import anyio

from anyconnpool import ConnectionPool, PooledConnection

BACKENDS: dict[str, tuple[str, dict[str, bool]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "asyncio+uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


async def send_the_time(connection: PooledConnection) -> None:
    """Send the time, wait for the reply and print it with the addresses of both ends."""
    await connection.send(f"{datetime.now():%Y-%m-%d %H:%M:%S}".encode())
    reply = await connection.receive_available()
    local_host, local_port = connection.local_address
    remote_host, remote_port = connection.remote_address
    print(reply.decode(), f"{local_host}:{local_port} {remote_host}:{remote_port}", flush=True)


async def run(port: int, count: int, interval: float) -> None:
    """Exchange `count` messages, `interval` seconds apart, over pooled connections."""
    async with ConnectionPool(("127.0.0.1", port)) as pool:
        for number in range(count):
            if number:
                await anyio.sleep(interval)
            # A server that waits for a newline would never answer.
            with anyio.fail_after(10):
                async with pool.acquire() as connection:
                    await send_the_time(connection)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="Send the time to an echo server.")
    parser.add_argument("--port", type=int, default=8999)
    parser.add_argument("--count", type=int, default=10, help="how many messages to send")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two messages")
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio")
    arguments = parser.parse_args()
    backend, options = BACKENDS[arguments.backend]
    anyio.run(
        run,
        arguments.port,
        arguments.count,
        arguments.interval,
        backend=backend,
        backend_options=options,
    )


if __name__ == "__main__":
    main()
