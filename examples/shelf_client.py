"""A typed client for ``shelf_server.py``, with all that a pool can do for a protocol.

Start ``python examples/shelf_server.py``, then run ``python examples/shelf_client.py [port]``. The
documentation's page "Write a client for your protocol" leads to it step by step.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio import TASK_STATUS_IGNORED, AsyncContextManagerMixin
from anyio.abc import ByteStreamConnectable, TaskStatus

from anyconnpool import ConnectionPool, PackageFormat, PooledConnection, Retry

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("shelf_client")

Message = dict[str, Any]


class Messages:
    """Messages in JSON, each in a package with four bytes of length."""

    packages = PackageFormat(4, max_size=60_000)

    def encode(self, data: Message) -> bytes:
        """Make the bytes of a message."""
        return self.packages.encode(json.dumps(data).encode())

    def decode(self, buffer: bytes, start: int, eof: bool) -> tuple[Message, int] | None:
        """Return the next message and where it ends, or None if bytes are missing."""
        found = self.packages.decode(buffer, start, eof)
        if found is None:
            return None
        body, end = found
        return json.loads(body), end


MESSAGES = Messages()


class ShelfError(Exception):
    """The server has refused a request."""


@dataclass
class Session:
    """What belongs to a connection, from its login to its end."""

    user: str
    shelf: str = "main"


async def exchange(connection: PooledConnection[object], request: Message) -> Any:
    """Send a request and receive its reply; notices may come before it."""
    await connection.send_frame(request, MESSAGES)
    while "notice" in (reply := await connection.receive_frame(MESSAGES)):
        logger.warning("the server says: %s", reply["notice"])
    if "error" in reply:
        raise ShelfError(reply["error"])
    return reply["ok"]


async def log_in(connection: PooledConnection, user: str, password: str) -> Session:
    """Read the greeting of a new connection, and log in."""
    greeting = await connection.receive_frame(MESSAGES)
    if greeting != {"hello": "shelves"}:
        raise ShelfError("this is another server")
    login = {"do": "login", "user": user, "password": password}
    return Session(await exchange(connection, login))


async def return_to_main(connection: PooledConnection[Session]) -> None:
    """Undo what a borrower has chosen, before anybody else gets the connection."""
    if connection.session.shelf != "main":
        await exchange(connection, {"do": "use", "shelf": "main"})
        connection.session.shelf = "main"


async def say_bye(connection: PooledConnection[Session]) -> None:
    """Tell the server that nothing more will come; it doesn't answer."""
    await connection.send_frame({"do": "bye"}, MESSAGES)


async def read_notices(connection: PooledConnection[Session]) -> None:
    """Read what the server has sent on a connection that nobody uses."""
    while True:
        message = await connection.receive_frame(MESSAGES)
        if "notice" not in message:
            raise ValueError("nobody has asked for a reply")
        logger.warning("the server says: %s", message["notice"])
        if not connection.buffer:
            break


async def take_from(connection: PooledConnection[Session], shelf: str, key: str) -> str:
    """Take a text from a shelf, which stays chosen on this connection."""
    connection.session.shelf = shelf
    await exchange(connection, {"do": "use", "shelf": shelf})
    text: str = await exchange(connection, {"do": "take", "key": key})
    return text


class ShelfClient(AsyncContextManagerMixin):
    """Keep texts on the shelves of a server.

    :param remote: ``(host, port)``, or what else a pool takes
    :param user: who logs in
    :param password: the user's
    :param max_size: the most connections
    """

    def __init__(
        self,
        remote: tuple[str, int] | ByteStreamConnectable,
        *,
        user: str,
        password: str,
        max_size: int = 10,
    ) -> None:
        self.pool = ConnectionPool(
            remote,
            max_size=max_size,
            on_connect=partial(log_in, user=user, password=password),
            on_release=return_to_main,
            on_close=say_bye,
            on_unread=read_notices,
            harmless=(ShelfError,),
        )

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with self.pool:
            yield self

    async def serve(self, *, task_status: TaskStatus[object] = TASK_STATUS_IGNORED) -> None:
        """Run the client in a task of a task group, until ``aclose()``."""
        await self.pool.serve(task_status=task_status)

    async def open(self) -> Self:
        """Run the client in a task of its own, until ``aclose()``; on asyncio only."""
        await self.pool.open()
        return self

    async def aclose(self) -> None:
        """End what ``serve()`` or ``open()`` has begun."""
        await self.pool.aclose()

    async def put(self, key: str, text: str) -> None:
        """Put a text on the main shelf; to do it twice does no harm."""
        request = {"do": "put", "key": key, "text": text}
        await self.pool.run(exchange, request, timeout=5, retry=Retry(2))

    async def get(self, key: str) -> str:
        """Return a text from the main shelf; to ask twice does no harm."""
        request = {"do": "get", "key": key}
        text: str = await self.pool.run(exchange, request, timeout=5, retry=Retry(2))
        return text

    async def take(self, key: str, shelf: str = "main") -> str:
        """Return a text and remove it: this is never done twice."""
        return await self.pool.run(take_from, shelf, key, timeout=5)


async def main(port: int) -> None:
    """Put a text on the shelf, look at it, take it away, and look again."""
    async with ShelfClient(("127.0.0.1", port), user="alice", password="secret") as client:
        await client.put("greeting", "hello")
        print(await client.get("greeting"))
        print(await client.take("greeting"))
        try:
            await client.get("greeting")
        except ShelfError as error:
            print(error)


if __name__ == "__main__":
    # backend="trio" would do as well.
    anyio.run(main, int(sys.argv[1]) if sys.argv[1:] else 9005)
