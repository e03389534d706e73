"""A trio program like any other: the pool is entered in it, and trio's scopes cancel it.

``pip install ".[trio]"``, then run ``python examples/trio_program.py``. Nothing here but
the pool knows of AnyIO. The server is part of the program; it never answers ``sleep``.
"""

from contextlib import suppress

import trio

from anyconnpool import ConnectionPool


async def answer(stream: trio.SocketStream) -> None:
    """Answer each line with its length, until the client hangs up."""
    buffer = b""
    # A client that resets its connection must not end the server for all others.
    with suppress(trio.BrokenResourceError):
        async for chunk in stream:
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                if line == b"sleep":
                    await trio.sleep_forever()
                await stream.send_all(b"%d\n" % len(line))


async def ask(pool: ConnectionPool, line: bytes) -> None:
    """Make one exchange, and give up after a second."""
    with trio.move_on_after(1) as scope:
        print(line.decode(), "->", (await pool.send_receive_line(line)).decode())
    if scope.cancelled_caught:
        print(line.decode(), "-> no answer")


async def main() -> None:
    """Start the server, and ask it from several tasks at once over two connections."""
    async with trio.open_nursery() as server:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.start_soon(trio.serve_listeners, answer, listeners)
        async with ConnectionPool(listeners[0].socket.getsockname(), max_size=2) as pool:
            async with trio.open_nursery() as nursery:
                for line in (b"one", b"three", b"sleep", b"eleven"):
                    nursery.start_soon(ask, pool, line)
            await ask(pool, b"again")
        # The connection whose reply might still have come was not reused.
        print("closed, a reply was owed:", pool.statistics().closed["unclean"])
        server.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
