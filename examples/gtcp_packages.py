"""Packages as GoFrame's gtcp sends them: two bytes of length, then the body.

Run ``python examples/gtcp_packages.py``. The server is part of it; one written in Go with
``conn.RecvPkg()`` and ``conn.SendPkg()`` would do as well.
"""

import anyio
from anyio.abc import SocketAttribute, SocketStream

from anyconnpool import ConnectionPool, FramedStream, PackageFormat

# The defaults are gtcp's. PackageFormat(4) has a header of four bytes, as PkgOption{HeaderSize: 4}.
FORMAT = PackageFormat()


async def answer(accepted: SocketStream) -> None:
    """Answer each package of a client with its body in capitals, until the client hangs up."""
    async with FramedStream(accepted, package_format=FORMAT) as stream:
        try:
            while True:
                await stream.send_package((await stream.receive_package()).upper())
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            # The client has hung up, perhaps in the middle of a package or by a reset. An exception
            # that leaves this function would end the server for all clients.
            pass


async def ask(pool: ConnectionPool, word: str) -> None:
    """Exchange a package for a package."""
    reply = await pool.send_receive_package(word.encode(), timeout=5)
    print(f"{word} -> {reply.decode()}")


async def main() -> None:
    """Start the server, and let three tasks talk to it over two connections."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as server,
    ):
        server.start_soon(listener.serve, answer)
        address = ("127.0.0.1", listener.extra(SocketAttribute.local_port))
        async with ConnectionPool(address, max_size=2, package_format=FORMAT) as pool:
            async with anyio.create_task_group() as tasks:
                for word in ("one", "two", "three"):
                    tasks.start_soon(ask, pool, word)
            # For more than one exchange in a row, borrow a connection.
            async with pool.acquire() as connection:
                await connection.send_package(b"four")
                await connection.send_package(b"five")
                print(await connection.receive_package(), await connection.receive_package())
            print(f"connections opened: {pool.statistics().opened}")
        server.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)  # or anyio.run(main, backend="trio")
