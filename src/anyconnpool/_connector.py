"""Open one connection within its time limit, and tell every failure in one way."""

from __future__ import annotations

from anyio import BrokenResourceError, ConnectionFailed, EndOfStream, move_on_after
from anyio.abc import ByteStream, ByteStreamConnectable

from anyconnpool._transport import Transport, force_close


class Connector:
    """Open connections to one remote.

    :param connectable: what to connect to
    :param name: how to call it in errors
    :param timeout: limit of one attempt, TLS handshake included, in seconds
    """

    def __init__(self, connectable: ByteStreamConnectable, name: str, timeout: float) -> None:
        self._connectable = connectable
        self._name = name
        self._timeout = timeout

    async def open(self) -> Transport:
        """Open a connection.

        A cancellation leaves nothing open.

        :raises ~anyio.ConnectionFailed: if it fails or takes too long
        """
        stream = await self._connect()
        # No await from here on: the stream has no other owner until it is returned.
        try:
            return Transport(stream)
        except (AttributeError, ValueError, OSError) as error:
            # uvloop's socket is gone as soon as the transport has closed itself.
            await force_close(stream)
            raise ConnectionFailed(f"{self._name} hung up at once") from error

    async def _connect(self) -> ByteStream:
        stream: ByteStream | None = None
        try:
            with move_on_after(self._timeout):
                stream = await self._connectable.connect()
        except ConnectionFailed:
            raise
        except (OSError, BrokenResourceError, EndOfStream) as error:
            raise ConnectionFailed(
                f"error connecting to {self._name}: {str(error) or type(error).__name__}"
            ) from error
        if stream is None:
            raise ConnectionFailed(
                f"connecting to {self._name} took longer than connect_timeout, {self._timeout:g} s"
            )
        return stream
