"""Tell what the clients of the echo server do: who comes, what arrives, who reuses a connection."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from anyio.abc import AnyByteStream, SocketAttribute

from anyconnpool import PackageTooLarge
from anyconnpool.command._output import standard_output
from anyconnpool.command._reasons import CommandError, reason

#: how the first record of TLS begins that a client sends
_CLIENT_HELLO = b"\x16\x03"
_TLS_TO_PLAIN = "it looks like TLS, which this server speaks with --tls-cert only"

# The first that fits counts; as the server sees it.
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (anyio.IncompleteRead, "the client closed it within a message"),
    (anyio.DelimiterNotFound, "a line is too long: is --format right?"),
    (PackageTooLarge, "a package is too large: are --format and --header-size right?"),
    (TimeoutError, "the handshake of TLS took too long"),
)


class Narrator:
    """Write lines about clients to standard output.

    :param stop: called if nothing can be written there: the reason is then in ``failure``
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._connections = 0
        self.failure: Exception | None = None

    def greet(self, accepted: AnyByteStream) -> Visit:
        """Tell that somebody has connected."""
        self._connections += 1
        visit = Visit(self.tell, self._connections)
        visit.open(accepted)
        return visit

    def tell(self, text: str) -> None:
        """Write a line."""
        try:
            with standard_output() as output:
                output.write(f"{text}\n")
        except (CommandError, BrokenPipeError) as error:
            self.failure = error
            self._stop()


class Visit:
    """One connection of a client.

    :param tell: writes a line
    :param number: of the connection, from 1
    """

    def __init__(self, tell: Callable[[str], None], number: int) -> None:
        self._tell = tell
        self._number = number
        self._messages = 0

    def open(self, accepted: AnyByteStream) -> None:
        """Tell who has connected."""
        address = accepted.extra(SocketAttribute.remote_address, None)
        by = ""
        # A client of a UNIX socket has no address.
        if isinstance(address, tuple):
            host, port = address[:2]
            by = f" by [{host}]:{port}" if ":" in host else f" by {host}:{port}"
        self._tell(f"connection {self._number}: opened{by}")

    def receive(self, message: bytes) -> None:
        """Tell that a message has come, and whether it is the first one of this connection."""
        self._messages += 1
        again = ", over the same connection" if self._messages > 1 else ""
        self._tell(
            f"connection {self._number}: message {self._messages}, {len(message)} bytes{again}"
        )

    def end(self, error: BaseException, unread: bytes) -> None:
        """Tell why the connection has ended.

        :param unread: what the client sent that is no whole message
        """
        count = f"{self._messages} message{'' if self._messages == 1 else 's'}"
        if isinstance(error, anyio.EndOfStream) and not unread:
            self._tell(f"connection {self._number}: closed by the client after {count}")
            return
        why = next((text for kind, text in _REASONS if isinstance(error, kind)), reason(error))
        if unread.startswith(_CLIENT_HELLO):
            why = _TLS_TO_PLAIN
        self._tell(f"connection {self._number}: ended after {count}: {why}")
