"""Open streams of TLS over connected sockets, in the same way on every event loop."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from anyconnpool._streams.connect import closed_on_error, on_trio
from anyconnpool._streams.socket_stream import PoolSocketStream
from anyconnpool._streams.tls import TLSCodec

if TYPE_CHECKING:
    from anyconnpool._streams.tls_asyncio import AsyncioTLSStream
    from anyconnpool._streams.tls_trio import TrioTLSStream


async def open_tls_stream(sock: socket.socket, codec: TLSCodec) -> PoolSocketStream:
    """Shake hands over a connected socket, which is closed if this fails or is cancelled.

    :param sock: a connected, non-blocking socket
    :param codec: the settings of TLS, which have not been used yet
    """
    stream: TrioTLSStream | AsyncioTLSStream
    # Where no descriptor is left, the import fails, too.
    with closed_on_error(sock):
        if on_trio():
            from anyconnpool._streams.tls_trio import TrioTLSStream

            stream = TrioTLSStream(sock, codec)
        else:
            from anyconnpool._streams.tls_asyncio import AsyncioTLSStream

            stream = AsyncioTLSStream(sock, codec)
    await stream.start()
    return stream
