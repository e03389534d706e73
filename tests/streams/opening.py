"""Open a stream of ours by the way that a pool goes."""

from __future__ import annotations

from anyconnpool._remote import Endpoint, Remote, TLSOptions
from anyconnpool._streams.connectable import AddressConnectable
from anyconnpool._streams.socket_stream import PoolSocketStream


async def connect_to(remote: Remote, tls: TLSOptions | None = None) -> PoolSocketStream:
    """Check an address and connect to it."""
    return await AddressConnectable(Endpoint.of(remote, tls)).connect()
