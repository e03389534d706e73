"""Open streams of TLS over TCP and UNIX sockets, in the same way on every event loop.

Whatever cancels it, and wherever, leaves no socket open.
"""

from __future__ import annotations

import os
import socket
import ssl
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from anyconnpool._streams.connect import on_trio, open_tcp_socket, open_unix_socket
from anyconnpool._streams.socket_stream import PoolSocketStream
from anyconnpool._streams.tls import TLSCodec, client_codec


async def connect_tls(
    host: str | IPv4Address | IPv6Address,
    port: int,
    *,
    ssl_context: ssl.SSLContext | None = None,
    hostname: str | None = None,
    standard_compatible: bool = True,
) -> PoolSocketStream:
    """Connect to a TCP port and shake hands.

    :param host: a host name or an IP address
    :param port: the port
    :param ssl_context: the settings of TLS; by default those of :func:`.tls.secure_context`, which
        reads the system's authorities anew for each call
    :param hostname: the name or IP address to check the certificate for, if not ``host``
    :param standard_compatible: whether to exchange goodbyes before closing, and to take an end
        without one for an error
    :raises ValueError: if the context makes no sense
    :raises ConnectionFailed: if no address of the host can be connected to
    :raises OSError: if the host name can't be resolved
    :raises ssl.SSLError: if the handshake fails
    :raises BrokenResourceError: if the connection is lost, or cut while ``standard_compatible``
    :raises EndOfStream: if the server hangs up, unless ``standard_compatible``
    """
    codec = await client_codec(
        ssl_context, hostname or str(host), standard_compatible=standard_compatible
    )
    return await open_tls_stream(await open_tcp_socket(host, port), codec)


async def connect_tls_unix(
    path: str | bytes | os.PathLike[Any],
    *,
    ssl_context: ssl.SSLContext | None = None,
    hostname: str | None = None,
    standard_compatible: bool = True,
) -> PoolSocketStream:
    """Connect to a UNIX socket and shake hands.

    :param path: the path of the socket
    :param ssl_context: the settings of TLS; by default those of :func:`.tls.secure_context`, which
        reads the system's authorities anew for each call
    :param hostname: the name or IP address to check the certificate for; needed if the context
        checks names, as the default does
    :param standard_compatible: whether to exchange goodbyes before closing, and to take an end
        without one for an error
    :raises ValueError: if the context checks names and there is none
    :raises OSError: if nobody listens there, or the system has no such sockets
    :raises ssl.SSLError: if the handshake fails
    :raises BrokenResourceError: if the connection is lost, or cut while ``standard_compatible``
    :raises EndOfStream: if the server hangs up, unless ``standard_compatible``
    """
    codec = await client_codec(ssl_context, hostname, standard_compatible=standard_compatible)
    return await open_tls_stream(await open_unix_socket(path), codec)


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
