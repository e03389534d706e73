"""Speak to memcached: lines and data blocks of its text protocol, on framed reads."""

from __future__ import annotations

from anyconnpool import FramedStream

_END = b"\r\n"


async def store(stream: FramedStream, key: str, value: bytes) -> bytes:
    """Store a value; return memcached's answer."""
    await stream.send(b"set %b 0 0 %d\r\n%b\r\n" % (key.encode(), len(value), value))
    return await stream.receive_line(newline=_END)


async def look_up(stream: FramedStream, *keys: str) -> dict[str, bytes]:
    """Return the values that memcached has of these keys."""
    await stream.send(b"get %b\r\n" % " ".join(keys).encode())
    found: dict[str, bytes] = {}
    while (line := await stream.receive_line(newline=_END)) != b"END":
        word, key, _, size = line.split()
        assert word == b"VALUE", line
        block = await stream.receive_exactly(int(size) + len(_END))
        assert block.endswith(_END)
        found[key.decode()] = block[: -len(_END)]
    return found


async def connections(stream: FramedStream) -> int:
    """Return how many connections memcached has, its own ones included."""
    await stream.send(b"stats\r\n")
    count = 0
    while (line := await stream.receive_line(newline=_END)) != b"END":
        _, name, value = line.split(b" ", 2)
        if name == b"curr_connections":
            count = int(value)
    assert count
    return count
