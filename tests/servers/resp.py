"""Speak to Redis: commands and replies of its protocol, RESP2, on framed reads."""

from __future__ import annotations

from typing import TypeAlias

from anyconnpool import FramedStream

Argument: TypeAlias = "bytes | str | int"
Reply: TypeAlias = "bytes | str | int | RedisError | list[Reply] | None"

_END = b"\r\n"


class RedisError(Exception):
    """Redis has answered with an error."""


def encode(*arguments: Argument) -> bytes:
    """Return a command as Redis wants it: an array of byte strings of known lengths."""
    parts = [b"*%d" % len(arguments)]
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts += [b"$%d" % len(data), data]
    return _END.join(parts) + _END


async def receive_reply(stream: FramedStream) -> Reply:
    """Receive a whole reply: byte strings as bytes, status lines as str, an error as a value."""
    line = await stream.receive_line(newline=_END)
    kind, rest = line[:1], line[1:]
    if kind == b"+":
        return rest.decode()
    if kind == b"-":
        return RedisError(rest.decode())
    number = int(rest)
    if kind == b":":
        return number
    if number < 0:
        return None
    if kind == b"*":
        return [await receive_reply(stream) for _ in range(number)]
    assert kind == b"$", line
    data = await stream.receive_exactly(number + len(_END))
    assert data.endswith(_END)
    return data[:number]


async def command(stream: FramedStream, *arguments: Argument) -> Reply:
    """Make one exchange.

    :raises RedisError: if the reply is an error
    """
    await stream.send(encode(*arguments))
    reply = await receive_reply(stream)
    if isinstance(reply, RedisError):
        raise reply
    return reply
