"""A DNS client over TLS or TCP: each message is a package, with its length in two bytes before it.

Run ``python examples/dns_client.py name server [port [path of a CA's certificate]]``, for example
``python examples/dns_client.py example.org 9.9.9.9``. It asks over TLS; the certificate is needed
only for a server that no public authority knows.
"""

from __future__ import annotations

import random
import ssl
import struct
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address

import anyio

from anyconnpool import ConnectionPool, PackageFormat, PooledConnection, Retry

TYPES = {"A": 1, "AAAA": 28}


class DNSError(Exception):
    """The server has answered with the code of an error (RFC 1035, section 4.1.1)."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(name, code)
        self.code = code

    def __str__(self) -> str:
        return f"the answer for {self.args[0]} is the error {self.code}"


def make_pool(
    host: str,
    port: int,
    max_size: int = 4,
    *,
    tls: bool,
    ssl_context: ssl.SSLContext | None = None,
) -> ConnectionPool:
    """Make a pool for DNS over TCP (RFC 7766, port 53) or over TLS (RFC 7858, port 853)."""
    return ConnectionPool(
        (host, port),
        tls=tls,
        ssl_context=ssl_context,
        max_size=max_size,
        package_format=PackageFormat(2),
    )


def make_query(name: str, kind: str) -> bytes:
    """Make a message that asks for the addresses of a name."""
    labels = [label for label in name.encode("idna").split(b".") if label]
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    recursion_desired = 0x0100
    header = struct.pack("!6H", random.getrandbits(16), recursion_desired, 1, 0, 0, 0)
    return header + question + struct.pack("!2H", TYPES[kind], 1)


def skip_name(message: bytes, at: int) -> int:
    """Return where a name ends: with an empty label, or with a pointer to an earlier name."""
    while length := message[at]:
        if length >= 0xC0:
            return at + 2
        at += 1 + length
    return at + 1


async def ask(connection: PooledConnection, query: bytes) -> bytes:
    """Exchange a query for its reply."""
    reply = await connection.send_receive_package(query)
    # Raised here, where the connection is still borrowed, the error has it closed.
    if reply[:2] != query[:2] or reply[12 : len(query)] != query[12:]:
        raise ValueError("the server has answered another question")
    return reply


def read_addresses(reply: bytes, at: int, kind: str) -> list[IPv4Address | IPv6Address]:
    """Return the addresses in a reply whose answers begin at an index."""
    addresses: list[IPv4Address | IPv6Address] = []
    for _ in range(int.from_bytes(reply[6:8], "big")):
        at = skip_name(reply, at)
        kind_of_this, _, _, size = struct.unpack_from("!HHIH", reply, at)
        at += 10
        if kind_of_this == TYPES[kind]:  # there may be aliases before it
            addresses.append(ip_address(reply[at : at + size]))
        at += size
    return addresses


class Resolver:
    """Make each query on a connection of a pool."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def resolve(self, name: str, kind: str = "A") -> list[IPv4Address | IPv6Address]:
        """Return the addresses of a name; to ask twice does no harm."""
        query = make_query(name, kind)
        reply = await self._pool.run(ask, query, timeout=5, retry=Retry(2))
        if code := reply[3] & 0x0F:
            raise DNSError(name, code)
        return read_addresses(reply, len(query), kind)


async def main(name: str, host: str, port: int, certificate: str | None) -> None:
    """Ask for both kinds of addresses, over TLS."""
    context = ssl.create_default_context(cafile=certificate)
    async with make_pool(host, port, tls=True, ssl_context=context) as pool:
        resolver = Resolver(pool)
        for kind in TYPES:
            try:
                print(kind, *await resolver.resolve(name, kind))
            except DNSError as error:
                print(kind, error)
        print("connections opened:", pool.statistics().opened)


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    if 2 not in given:
        sys.exit("usage: dns_client.py name server [port [certificate]]")
    # backend="trio" would do as well.
    anyio.run(main, given[1], given[2], int(given.get(3, 853)), given.get(4))
