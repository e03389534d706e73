"""An echo server in a process of its own, so that its descriptors and memory are not the test's."""

from __future__ import annotations

import asyncio
import resource
import sys


class Echo(asyncio.Protocol):
    """Echo what arrives.

    :param present: all connections that are open, the oldest first
    """

    def __init__(self, present: dict[Echo, None]) -> None:
        self._present = present

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._present[self] = None

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del self._present[self]


def say(answer: object) -> None:
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()


async def main(path: str) -> None:
    """Listen, and answer each number on the standard input with how many connections are open.

    On so many the server hangs up first. It ends with the standard input, and so with the test.
    """
    loop = asyncio.get_running_loop()
    present: dict[Echo, None] = {}
    server = await loop.create_unix_server(lambda: Echo(present), path, backlog=4096)
    async with server:
        say("ready")
        while number := await loop.run_in_executor(None, sys.stdin.readline):
            for connection in list(present)[: int(number)]:
                connection.transport.close()
            say(len(present))


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(sys.argv[1]))
