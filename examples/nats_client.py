"""A NATS client: requests are answered by way of an inbox, and resting connections answer PING.

Start a ``nats-server``, then run ``python examples/nats_client.py [port]``. The protocol is that of
https://docs.nats.io/reference/reference-protocols/nats-protocol.

A server of NATS asks its clients now and then whether they are still there, and hangs up on one
that doesn't answer. It asks while a connection rests, too. Then ``on_unread`` answers; it also
drops what comes too late, such as a second answer to a request.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, NamedTuple

import anyio
from anyio.abc import TaskStatus

from anyconnpool import ConnectionPool, PooledConnection

OPTIONS = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}


class NatsError(Exception):
    """The server refuses us, or what we have said, and mostly hangs up."""


class NoRespondersError(Exception):
    """Nobody answers to this subject."""


class Message(NamedTuple):
    """What somebody has published; who answers it publishes to ``reply_to``."""

    subject: str
    reply_to: str
    headers: bytes
    data: bytes


class Session:
    """The inbox of a connection, in which each request has a number."""

    def __init__(self) -> None:
        self.inbox = f"_INBOX.{secrets.token_hex(11)}"
        self.numbers = count(1)


async def receive(connection: PooledConnection[Any]) -> Message | str:
    """Receive a message, or the name of what else the server says; answer it if it is PING."""
    line = (await connection.receive_line()).decode()
    operation, *words = line.split()
    if operation in ("MSG", "HMSG"):
        content = (await connection.receive_exactly(int(words[-1]) + 2))[:-2]
        subject, _, *reply_to = words[: -1 if operation == "MSG" else -2]
        size = int(words[-2]) if operation == "HMSG" else 0
        return Message(subject, "".join(reply_to), content[:size], content[size:])
    if operation == "PING":
        await connection.send(b"PONG\r\n")
    elif operation == "-ERR":
        raise NatsError(line)
    return operation


async def log_in(connection: PooledConnection) -> Session:
    """Introduce ourselves, and subscribe to an inbox."""
    await receive(connection)  # INFO
    session = Session()
    hello = f"CONNECT {json.dumps(OPTIONS)}\r\nSUB {session.inbox}.* inbox\r\nPING\r\n"
    await connection.send(hello.encode())
    while await receive(connection) != "PONG":
        pass
    return session


async def rest(connection: PooledConnection[Session]) -> None:
    """Read what the server says on an idle connection."""
    await receive(connection)
    while connection.buffer:
        await receive(connection)


def publication(subject: str, data: bytes, reply_to: str = "") -> bytes:
    """Return the bytes that publish something."""
    if subject.split() != [subject]:
        raise ValueError(f"{subject!r} can't be a subject")
    return f"PUB {subject} {reply_to} {len(data)}\r\n".encode() + data + b"\r\n"


async def ask(connection: PooledConnection[Session], subject: str, data: bytes) -> bytes:
    """Publish a request, and return the first answer to it."""
    inbox = f"{connection.session.inbox}.{next(connection.session.numbers)}"
    await connection.send(publication(subject, data, inbox))
    answer: Message | None = None
    # What has come behind the answer is read as well.
    while answer is None or connection.buffer:
        heard = await receive(connection)
        # What has another number answers an earlier request once more.
        if answer is None and isinstance(heard, Message) and heard.subject == inbox:
            answer = heard
    if answer.headers.startswith(b"NATS/1.0 503"):
        raise NoRespondersError(subject)
    return answer.data


def make_pool(host: str, port: int) -> ConnectionPool[Session]:
    """Make a pool whose connections may rest; what is published has no reply."""
    return ConnectionPool(
        (host, port),
        max_size=4,
        newline=b"\r\n",
        one_way=True,
        on_connect=log_in,
        on_unread=rest,
        harmless=(NoRespondersError,),
    )


class Nats:
    """Publish, ask and answer on connections of a pool."""

    def __init__(self, pool: ConnectionPool[Session]) -> None:
        self._pool = pool

    async def publish(self, subject: str, data: bytes) -> None:
        """Send something to whoever listens."""
        await self._pool.send(publication(subject, data), timeout=5)

    async def request(self, subject: str, data: bytes) -> bytes:
        """Ask whoever listens, and return the first answer."""
        return await self._pool.run(ask, subject, data, timeout=5)

    async def serve(
        self,
        subject: str,
        answer: Callable[[bytes], Awaitable[bytes]],
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer what is asked of a subject, on a connection that is borrowed for this."""
        async with self._pool.acquire() as connection:
            await connection.send(f"SUB {subject} requests\r\nPING\r\n".encode())
            while True:
                heard = await receive(connection)
                if heard == "PONG":
                    task_status.started()
                elif isinstance(heard, Message) and heard.reply_to:
                    await connection.send(publication(heard.reply_to, await answer(heard.data)))


async def shout(data: bytes) -> bytes:
    """Answer a request."""
    return data.upper() + b"!"


async def main(port: int) -> None:
    """Ask a service, and ask for one that isn't there."""
    async with make_pool("127.0.0.1", port) as pool, anyio.create_task_group() as services:
        nats = Nats(pool)
        await services.start(nats.serve, "anyconnpool.shout", shout)
        print(await nats.request("anyconnpool.shout", b"hello"))
        try:
            await nats.request("anyconnpool.whisper", b"hello")
        except NoRespondersError as error:
            print("nobody answers to", error)
        print("connections opened:", pool.statistics().opened)
        services.cancel_scope.cancel()


if __name__ == "__main__":
    # backend="trio" would do as well.
    anyio.run(main, int(sys.argv[1]) if sys.argv[1:] else 4222)
