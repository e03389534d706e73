"""Where the server listens, and how a client of it connects."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from anyio import as_connectable
from anyio.abc import ByteStream, ByteStreamConnectable

#: of connections
Kind: TypeAlias = Literal["tcp", "tls", "unix"]

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Remotes:
    """The addresses of one server.

    :param tcp: port that echoes
    :param tls: port that echoes under TLS
    :param unix: path of a socket that echoes
    :param push: port that pushes frames
    :param authority: certificate of who vouches for the server, as PEM
    """

    tcp: int
    tls: int
    unix: str
    push: int
    authority: str

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Remotes:
        """Read what the server printed."""
        return cls(**fields)

    def connectable(self, kind: Kind) -> ByteStreamConnectable:
        """Return what connects to the echo."""
        if kind == "unix":
            return as_connectable(self.unix)
        if kind == "tcp":
            return as_connectable((HOST, self.tcp))
        return as_connectable((HOST, self.tls), tls=True, ssl_context=self.tls_context())

    def tls_context(self) -> ssl.SSLContext:
        """Return what trusts the server."""
        return ssl.create_default_context(cadata=self.authority)

    async def connect(self, kind: Kind = "tcp") -> ByteStream:
        """Connect to the echo."""
        return await self.connectable(kind).connect()
