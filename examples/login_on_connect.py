"""A pool whose connections log in when they are opened, and are asked if they are still well.

Run ``python examples/login_on_connect.py``. The server is part of it: it wants ``LOGIN password``
before anything else and answers it with the number of the visitor, answers ``PING`` with ``PONG``,
and prints what it is sent. What the login has found out is kept with the connection.
"""

from dataclasses import dataclass
from functools import partial
from itertools import count

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


VISITORS = count(1)


class LoginRefusedError(Exception):
    """The server doesn't accept the password."""


@dataclass
class Session:
    """What belongs to a connection, from its login to its end."""

    visitor: int
    questions: int = 0


async def login(connection: PooledConnection, password: bytes) -> Session:
    """Log in on a new connection, before anybody borrows it."""
    reply = await connection.send_receive_line(b"LOGIN " + password)
    if not reply.startswith(b"welcome, visitor "):
        raise LoginRefusedError(reply.decode())
    return Session(int(reply.split()[-1]))


async def ask(connection: PooledConnection[Session], question: bytes) -> str:
    """Do an exchange that needs to know who the server thinks we are."""
    session = connection.session
    session.questions += 1
    reply = await connection.send_receive_line(question)
    return f"visitor {session.visitor}, question {session.questions}: {reply.decode()}"


async def ping(connection: PooledConnection[Session]) -> None:
    """See that the server still answers on a connection that has rested."""
    reply = await connection.send_receive_line(b"PING", timeout=1)
    if reply != b"PONG":
        raise ValueError(f"PING was answered with {reply!r}")


async def answer(accepted: SocketStream) -> None:
    """Serve one client, until it hangs up or gives a wrong password."""
    replies = {b"PING": b"PONG", b"LOGIN sesame": b"welcome, visitor %d" % next(VISITORS)}
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
        address, max_size=1, on_connect=partial(login, password=password), check=ping, check_after=0
    ) as pool:
        print(await pool.run(ask, b"one", timeout=5))
        print(await pool.run(ask, b"two", timeout=5))


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
