"""Peers that several tests here use."""

from __future__ import annotations

import anyio

from anyconnpool import FramedStream


async def answer_lines(stream: FramedStream) -> None:
    """Answer each line, in a loop that ends when the client hangs up."""
    while True:
        await stream.send_line(b"> " + await stream.receive_line())


async def say_nothing(stream: FramedStream) -> None:
    """Never answer, nor read, nor end."""
    await anyio.sleep_forever()
