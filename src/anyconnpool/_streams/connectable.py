"""What a pool connects by: streams of its own for addresses, or what the user brings."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple, cast

from anyio.abc import ByteStreamConnectable

from anyconnpool._remote import Endpoint
from anyconnpool._streams.connect import open_stream, open_tcp_socket, open_unix_socket
from anyconnpool._streams.socket_stream import PoolSocketStream
from anyconnpool._streams.tls import TLSCodec, client_codec
from anyconnpool._streams.tls_connect import open_tls_stream


class Target(NamedTuple):
    """What a pool connects to: one remote, or one of several replicas."""

    #: as it was given
    remote: Any
    connectable: ByteStreamConnectable
    #: what it is called in logs and errors
    name: str


def make_connectable(endpoint: Endpoint) -> ByteStreamConnectable:
    """Return what connects to an endpoint.

    :param endpoint: what to connect to
    """
    target = endpoint.target
    return target if isinstance(target, ByteStreamConnectable) else AddressConnectable(endpoint)


class AddressConnectable(ByteStreamConnectable):
    """Connect to an address.

    :param endpoint: the address, and how TLS is to be spoken to it, if at all
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._address = address = cast("tuple[str, int] | str | bytes", endpoint.target)
        self._make_codec: Callable[[], Awaitable[TLSCodec]] | None = None
        tls = endpoint.tls
        if tls is not None:
            self._make_codec = partial(
                client_codec,
                # Made once, since it reads the certificates that the system trusts.
                tls.ssl_context or ssl.create_default_context(),
                tls.hostname or (address[0] if isinstance(address, tuple) else None),
                standard_compatible=tls.standard_compatible,
            )

    async def connect(self) -> PoolSocketStream:
        """Connect, and shake hands if TLS is spoken. Cancelled, it leaves no socket open.

        :raises ~anyio.ConnectionFailed: if no address of a host can be connected to
        :raises OSError: if a name can't be resolved, a UNIX socket not be connected to, or the
            handshake of TLS fails
        :raises ~anyio.BrokenResourceError: if the connection is lost in the handshake
        :raises ~anyio.EndOfStream: if the peer hangs up in the handshake
        """
        # Nothing is open yet: a missing host name is refused first.
        codec = None if self._make_codec is None else await self._make_codec()
        address = self._address
        if isinstance(address, tuple):
            sock = await open_tcp_socket(*address)
        else:
            sock = await open_unix_socket(address)
        # Now the socket belongs to the stream that is being opened.
        return await (open_stream(sock) if codec is None else open_tls_stream(sock, codec))
