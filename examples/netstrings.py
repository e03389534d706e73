"""A frame format of one's own: netstrings, ``5:hello,``, as djb has described them.

Run ``python examples/netstrings.py``. The server is part of it. The format is one small class,
which the pool, its connections and the server's streams take alike.
"""

import re

import anyio
from anyio.abc import SocketAttribute, SocketStream

from anyconnpool import ConnectionPool, FramedStream

# A length has no leading zeros, and here five digits at most.
LENGTH = re.compile(rb"(0|[1-9]\d{0,4}):")
UNFINISHED = re.compile(rb"(0|[1-9]\d{0,4})?")


class Netstrings:
    """Frames of a length in decimal digits, a colon, the data and a comma."""

    def encode(self, data: bytes) -> bytes:
        """Put data into a frame."""
        return b"%d:%b," % (len(data), data)

    def decode(self, buffer: bytes, start: int, eof: bool) -> tuple[bytes, int] | None:
        """Return the data of the next frame and where the frame ends; None if bytes are missing."""
        length = LENGTH.match(buffer, start)
        if length is None:
            if UNFINISHED.fullmatch(buffer, start):
                return None
            raise ValueError(f"{buffer[start : start + 6]!r} is not the length of a netstring")
        end = length.end() + int(length[1])
        if end >= len(buffer):
            return None
        if buffer[end : end + 1] != b",":
            raise ValueError("a netstring ends with a comma, and nothing else")
        return buffer[length.end() : end], end + 1


NETSTRINGS = Netstrings()


async def answer(accepted: SocketStream) -> None:
    """Answer each netstring of a client with its reverse, until the client is gone."""
    async with FramedStream(accepted) as stream:
        try:
            while True:
                text = await stream.receive_frame(NETSTRINGS)
                await stream.send_frame(text[::-1], NETSTRINGS)
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            pass  # it hung up, perhaps in the middle of a frame, or has reset the connection
        except (ValueError, anyio.DelimiterNotFound) as error:
            print("server: hanging up:", error)


async def ask(pool: ConnectionPool, text: bytes) -> None:
    """Exchange a netstring for a netstring."""
    reply = await pool.send_receive_frame(text, NETSTRINGS, timeout=5)
    print(text.decode(), "->", reply.decode())


async def main() -> None:
    """Start the server, talk to it in frames, and once in something else."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as server,
    ):
        server.start_soon(listener.serve, answer)
        address = ("127.0.0.1", listener.extra(SocketAttribute.local_port))
        async with ConnectionPool(address) as pool:
            for text in (b"stressed", b"", b"1:2,"):
                await ask(pool, text)
            # For more than one exchange in a row, borrow a connection.
            async with pool.acquire() as connection:
                await connection.send_frame(b"one", NETSTRINGS)
                await connection.send_frame(b"two", NETSTRINGS)
                for _ in range(2):
                    print(await connection.receive_frame(NETSTRINGS))
            try:
                await pool.send_receive_line(b"hello", timeout=5)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                print("the server takes netstrings only")
            print("connections opened:", pool.statistics().opened)
        server.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)  # or anyio.run(main, backend="trio")
