"""Open streams of TLS over connected sockets, in the same way on every event loop."""

from __future__ import annotations

import socket

from anyconnpool._streams.connect import on_trio
from anyconnpool._streams.socket_stream import PoolSocketStream
from anyconnpool._streams.tls import TLSCodec


async def open_tls_stream(sock: socket.socket, codec: TLSCodec) -> PoolSocketStream:
    """Shake hands over a connected socket, which is closed if this fails or is cancelled.

    :param sock: a connected, non-blocking socket
    :param codec: the settings of TLS, which have not been used yet
    """
    if on_trio():
        from anyconnpool._streams.tls_trio import TrioTLSStream

        trio_stream = TrioTLSStream(sock, codec)
        await trio_stream.start()
        return trio_stream
    from anyconnpool._streams.tls_asyncio import AsyncioTLSStream

    stream = AsyncioTLSStream(sock, codec)
    await stream.start()
    return stream
