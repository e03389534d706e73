"""A pool for each of many servers, and one maximum for the sockets of all of them together.

Run ``python examples/many_remotes.py``. The three servers are part of it.
"""

from contextlib import AsyncExitStack
from functools import partial

import anyio
from anyio.abc import SocketAttribute, SocketStream

from anyconnpool import FramedStream, PoolManager

NAMES = ("amber", "beryl", "coral")

# A client hangs up, also in the middle of a line or by a reset, or sends a line that is too long.
# An exception that leaves the server's function would end the server for all clients.
HANG_UPS = (
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.DelimiterNotFound,
    anyio.BrokenResourceError,
)


async def answer(name: str, accepted: SocketStream) -> None:
    """Answer each line with the name of the server, until the client hangs up."""
    async with FramedStream(accepted) as stream:
        try:
            while True:
                line = await stream.receive_line()
                await stream.send_line(name.encode() + b" has read " + line)
        except HANG_UPS:
            pass


async def ask(manager: PoolManager, address: tuple[str, int], line: bytes) -> None:
    """Make one exchange with the server at an address."""
    print((await manager.send_receive_line(address, line, timeout=5)).decode())


async def ask_all(addresses: list[tuple[str, int]]) -> None:
    """Ask all the servers at once, three times each."""
    # max_size is for each server, max_total for all of them. An idle connection to one server gives
    # way when another one needs the room.
    async with PoolManager(max_total=4, max_size=2, connect_timeout=5) as manager:
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                for address in addresses:
                    tasks.start_soon(ask, manager, address, b"line %d" % number)
        statistics = manager.statistics()
        print("exchanges:", [statistics[address].acquired for address in addresses])
        print("sockets:", sum(each.size for each in statistics.values()), "of 4")


async def main() -> None:
    """Start the servers, each at a port of its own, and ask them."""
    addresses: list[tuple[str, int]] = []
    async with AsyncExitStack() as listeners, anyio.create_task_group() as servers:
        for name in NAMES:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            await listeners.enter_async_context(listener)
            servers.start_soon(listener.serve, partial(answer, name))
            addresses.append(("127.0.0.1", listener.extra(SocketAttribute.local_port)))
        await ask_all(addresses)
        servers.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)  # or anyio.run(main, backend="trio")
