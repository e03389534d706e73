"""Say what may be wrong with the command when an exchange fails: TLS, or the format."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from anyconnpool import FramedStream
from anyconnpool.command._framing import Framing
from anyconnpool.command._reasons import reason, root_of, speaks_no_tls
from anyconnpool.command._target import Target

# How an alert of TLS begins.
_TLS_ALERT = b"\x15\x03"
_USE_TLS = "the server speaks TLS: use tls://, or --tls"
_USE_TCP = "it accepts connections, but not the handshake of TLS: try tcp://"

_WAITS = "perhaps it waits for the rest of the message: is --format right?"
_NO_GREETING = (
    "no such greeting came: leave --greeting out if the server waits to be asked, or is --format "
    "right?"
)
_HUNG_UP = "perhaps it did not understand the message: is --format right?"


class Attempt:
    """An exchange of which one knows afterwards what came instead of the reply.

    :param framing: how messages are separated
    """

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._begun = False
        self._awaits_greeting = False
        self._greetings: list[bytes] = []
        self._received = b""

    async def receive_greeting(self, stream: FramedStream) -> None:
        """Receive what the server sends before it is asked, and keep it."""
        self._begun = self._awaits_greeting = True
        try:
            self._greetings.append(await self._framing.receive_greeting(stream))
        finally:
            self._received = stream.buffer
        self._awaits_greeting = False

    async def listen(self, stream: FramedStream, seconds: float) -> str:
        """Return what is wrong if something comes, that no request has asked for; else nothing.

        :param seconds: how long to wait for it
        """
        self._begun = True
        unasked = len(await stream.drain(quiet=seconds))
        if not unasked:
            return ""
        if self._framing.greeting:
            return f"{unasked} bytes came behind its greeting, unasked: is --format right?"
        return f"it sends {unasked} bytes to who connects, before it is asked: try --greeting"

    def take_greetings(self) -> Sequence[bytes]:
        """Return the greetings that came since the last call."""
        greetings, self._greetings = self._greetings, []
        return greetings

    async def exchange(self, stream: FramedStream, message: bytes) -> bytes:
        """Send a message and receive the reply."""
        self._begun = True
        try:
            return await self._framing.exchange(stream, message)
        finally:
            self._received = stream.buffer

    async def explain(self, target: Target, error: BaseException) -> str:
        """Return why it failed, and what may help.

        :param target: the server, which may be connected to once more, without a request
        """
        text = f"{target}: {reason(error)}"
        hint = await self._hint(target, error)
        return f"{text}; {hint}" if hint else text

    async def _hint(self, target: Target, error: BaseException) -> str:
        root = root_of(error)
        # Who refuses us in the language of TLS speaks it, and has said why.
        refused = isinstance(root, ssl.SSLError) and not speaks_no_tls(root)
        if target.ssl_context is not None and not self._begun:
            # Whoever can be connected to has failed in the handshake.
            return _USE_TCP if not refused and await target.accepts() else ""
        if refused or not self._begun:
            return ""
        plain = target.ssl_context is None and isinstance(target.remote, tuple)
        if plain and (self._received.startswith(_TLS_ALERT) or await target.speaks_tls()):
            return _USE_TLS
        if self._awaits_greeting and not self._received:
            return _NO_GREETING
        if not self._received:
            return _WAITS if isinstance(root, TimeoutError) else _HUNG_UP
        return misfit(self._framing, self._received)


def misfit(framing: Framing, received: bytes) -> str:
    """Return what the bytes of an incomplete reply look like, compared with the format.

    :param received: what came and is no reply
    """
    if framing.format != "line" and received.endswith(b"\n") and received.rstrip().isascii():
        return "what came looks like a line: try --format line"
    for size in (2, 4, 1, 3):
        fits = len(received) == size + int.from_bytes(received[:size], "big") > size
        if fits and (framing.format, framing.package_format.header_size) != ("package", size):
            return f"what came looks like a package: try --format package --header-size {size}"
    missing = {
        "line": "and no newline: is --format right?",
        "package": "less than their header announces: are --format and --header-size right?",
        "raw": f"instead of {framing.reply_bytes}: is --reply-bytes right?",
    }
    return f"{len(received)} bytes came, {missing[framing.format]}"
