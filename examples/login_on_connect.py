"""A pool whose connections log in when they are opened, and are asked if they are still well.

Run ``python examples/login_on_connect.py``. The server is part of it: it wants ``LOGIN password``
before anything else, answers ``PING`` with ``PONG``, and prints what it is sent.
"""

from functools import partial

import anyio
from anyio.abc import SocketAttribute, SocketStream

from anyconnpool import ConnectionPool, FramedStream, PooledConnection

# A client hangs up, also in the middle of a line or by a reset, or sends a line that is too long.
# An exception that leaves the server's function would end the server for all clients.
HANG_UPS = (
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.DelimiterNotFound,
    anyio.BrokenResourceError,
)


class LoginRefusedError(Exception):
    """The server doesn't accept the password."""


async def login(connection: PooledConnection, password: bytes) -> None:
    """Log in on a new connection, before anybody borrows it."""
    reply = await connection.send_receive_line(b"LOGIN " + password)
    if reply != b"welcome":
        raise LoginRefusedError(reply.decode())


async def ping(connection: PooledConnection) -> None:
    """See that the server still answers on a connection that has rested."""
    reply = await connection.send_receive_line(b"PING", timeout=1)
    if reply != b"PONG":
        raise ValueError(f"PING was answered with {reply!r}")


async def answer(accepted: SocketStream) -> None:
    """Serve one client, until it hangs up or gives a wrong password."""
    replies = {b"LOGIN sesame": b"welcome", b"PING": b"PONG"}
    async with FramedStream(accepted) as stream:
        try:
            while True:
                line = await stream.receive_line()
                print("server:", line.decode())
                reply = b"go away" if line.startswith(b"LOGIN") else b"you said " + line
                await stream.send_line(replies.get(line, reply))
        except HANG_UPS:
            pass


async def talk(address: tuple[str, int], password: bytes) -> None:
    """Make two exchanges on connections that log in with a password."""
    # Every connection is checked before it is reused. check_after is 30 s by default.
    async with ConnectionPool(
        address, on_connect=partial(login, password=password), check=ping, check_after=0
    ) as pool:
        print(await pool.send_receive_line(b"one", timeout=5))
        print(await pool.send_receive_line(b"two", timeout=5))


async def main() -> None:
    """Start the server, talk to it, and try a wrong password."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as server,
    ):
        server.start_soon(listener.serve, answer)
        address = ("127.0.0.1", listener.extra(SocketAttribute.local_port))
        await talk(address, b"sesame")
        try:
            await talk(address, b"open up")
        except LoginRefusedError as error:
            print("refused:", error)
        server.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)  # or anyio.run(main, backend="trio")
