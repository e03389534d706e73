"""A peer for conversations that are known in advance."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import cast

from anyio import BrokenResourceError, EndOfStream

from anyconnpool._streams.framed import FramedStream
from anyconnpool._util.checks import quoted

# How much of what differs is shown, in bytes.
_SHOWN = 200


class ScriptedPeer:
    r"""Expect requests one by one, and send the reply to each.

    It is a peer of a :class:`MemoryConnectable`. Each connection goes through the whole script::

        peer = ScriptedPeer([(b"PING\n", b"PONG\n"), (b"QUIT\n", b"")])

    If a client sends something else, or more, or closes before the end of the script, an
    :exc:`AssertionError` names the exchange, what was expected and what was sent. A connection on
    which nothing was ever sent is not a failure, because pools open some in reserve.

    :param script: pairs of a request and its reply; without a request (``b""``) the peer speaks
        first, without a reply it says nothing
    :raises TypeError: if the script is anything else
    """

    def __init__(self, script: Iterable[tuple[bytes, bytes]]) -> None:
        if not isinstance(cast("object", script), Iterable):
            raise TypeError(f"a script is a list of pairs of bytes, not {quoted(script)}")
        self._script = tuple(script)
        for exchange in self._script:
            _check_exchange(exchange)

    async def __call__(self, stream: FramedStream) -> None:
        """Play the server's side of one connection."""
        received, has_begun = b"", False
        for number, (request, reply) in enumerate(self._script, 1):
            position = f"in exchange {number} of {len(self._script)}"
            while len(received) < len(request) and request.startswith(received):
                try:
                    received += await stream.receive()
                except EndOfStream:
                    if has_begun or received:
                        _fail(position, _show(request), _show(received) + ", and then closed")
                    return
                has_begun = True
            if not received.startswith(request):
                _fail(position, _show(request), _show(received))
            received = received[len(request) :]
            if reply:
                # A client need not wait for the reply; what it has sent counts all the same.
                with suppress(BrokenResourceError):
                    await stream.send(reply)
        await self._expect_end(stream, received)

    async def _expect_end(self, stream: FramedStream, received: bytes) -> None:
        if not received:
            try:
                received = await stream.receive()
            except EndOfStream:
                return
        _fail("after the last exchange", "nothing", _show(received))


def _check_exchange(exchange: object) -> None:
    match exchange:
        case (bytes(), bytes()):
            pass
        case _:
            raise TypeError(
                f"a script has pairs of bytes, a request and a reply, not {quoted(exchange)}"
            )


def _show(data: bytes) -> str:
    if len(data) <= _SHOWN:
        return repr(data)
    return f"{data[:_SHOWN]!r}… ({len(data)} bytes)"


def _fail(position: str, expected: str, sent: str) -> None:
    raise AssertionError(
        f"the client did not keep to the script {position}\n"
        f"  expected: {expected}\n  sent:     {sent}"
    )
