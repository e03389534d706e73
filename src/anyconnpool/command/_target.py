"""The server that a command talks to, or the several ones of a load."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from anyio import ConnectionFailed, aclose_forcefully, as_connectable, fail_after
from anyio.abc import ByteStream, ByteStreamConnectable

from anyconnpool import ConnectionPool, PooledConnection, Replicas
from anyconnpool._remote import Endpoint, Remote, TLSOptions
from anyconnpool.command._framing import MAX_LINE_BYTES
from anyconnpool.command._reasons import EXCHANGE_ERRORS, CommandError
from anyconnpool.command._spread import Spread, Visit
from anyconnpool.events import Observer

_CLOSE_TIMEOUT = 2
# For looking what a server is that did not answer as expected, in seconds.
_PROBE_TIMEOUT = 5

#: receives the greeting of a new connection
Greet: TypeAlias = Callable[[PooledConnection], Awaitable[None]]


@dataclass(frozen=True)
class Target:
    """Where to connect to, and how TLS is spoken there, if it is.

    Connections of TLS are closed without waiting for the server's closing handshake.
    """

    remote: Remote
    ssl_context: ssl.SSLContext | None

    def __str__(self) -> str:
        return Endpoint.of(self.remote, TLSOptions() if self.ssl_context else None).name

    @property
    def servers(self) -> Sequence[Target]:
        """This one."""
        return (self,)

    def pool(
        self, *, max_size: int, timeout: float, pipeline: int = 1, greet: Greet | None = None
    ) -> ConnectionPool:
        """Make a pool of connections to it.

        :param max_size: most connections at once
        :param pipeline: how many requests share a connection
        :param timeout: limit for connecting, in seconds
        :param greet: receives the greeting of a new connection
        """
        return _make_pool(self.remote, self.ssl_context, max_size, timeout, pipeline, greet)

    def connectable(self) -> ByteStreamConnectable:
        """Return what opens connections to it without a pool."""
        return as_connectable(
            self.remote,
            tls=self.ssl_context is not None,
            ssl_context=self.ssl_context,
            tls_standard_compatible=False,
        )

    async def accepts(self) -> bool:
        """Tell whether the server lets itself be connected to, without TLS."""
        try:
            with fail_after(_PROBE_TIMEOUT):
                await aclose_forcefully(await as_connectable(self.remote).connect())
        except EXCHANGE_ERRORS:
            return False
        return True

    async def speaks_tls(self) -> bool:
        """Tell whether the server answers the handshake of TLS; nothing else is sent."""
        trusting = replace(self, ssl_context=client_context(None, insecure=True))
        try:
            with fail_after(_PROBE_TIMEOUT):
                await aclose_forcefully(await trusting.connectable().connect())
        except EXCHANGE_ERRORS as error:
            # Who refuses us in the language of TLS speaks it, too.
            cause = error.__cause__ if isinstance(error, ConnectionFailed) else error
            return "_ALERT_" in (getattr(cause, "reason", None) or "")
        return True


@dataclass(frozen=True)
class Service:
    """Several servers that can all answer each request.

    :ivar servers: two at least; TLS is spoken to all of them, or to none
    :ivar order: how a pool chooses among them
    """

    servers: Sequence[Target]
    order: Literal["balanced", "in_order"] = "balanced"

    def __str__(self) -> str:
        return ",".join(map(str, self.servers))

    @property
    def names(self) -> Mapping[Remote, str]:
        """What the servers are called, by their remotes."""
        return {server.remote: str(server) for server in self.servers}

    def pool(
        self,
        *,
        max_size: int,
        timeout: float,
        pipeline: int = 1,
        greet: Greet | None = None,
        spread: Spread,
    ) -> ConnectionPool:
        """Make a pool of connections to all of them; see :meth:`Target.pool`.

        :param spread: takes note of what becomes of the servers
        """
        replicas = Replicas([server.remote for server in self.servers], order=self.order)
        spread.watch(replicas.states)
        context = self.servers[0].ssl_context
        return _make_pool(replicas, context, max_size, timeout, pipeline, greet, spread.observe)

    def opener(self) -> Callable[[Visit], Awaitable[ByteStream]]:
        """Return what connects to one of them without a pool, and notes to which.

        The servers take turns, or come in order; one that can't be connected to is passed over.
        """
        opened: dict[ByteStream, Remote] = {}
        replicas = Replicas([_Noting(each, opened) for each in self.servers], order=self.order)

        async def connect(visit: Visit) -> ByteStream:
            stream = await replicas.connect()
            visit.remote = opened.pop(stream)
            return stream

        return connect


class _Noting(ByteStreamConnectable):
    """Connect to a server, and note which streams lead to it.

    :param server: the server
    :param opened: where to note it
    """

    def __init__(self, server: Target, opened: dict[ByteStream, Remote]) -> None:
        self._remote, self._connectable = server.remote, server.connectable()
        self._opened = opened

    async def connect(self) -> ByteStream:
        stream = await self._connectable.connect()
        self._opened[stream] = self._remote
        return stream


def _make_pool(
    remote: Remote,
    ssl_context: ssl.SSLContext | None,
    max_size: int,
    timeout: float,
    pipeline: int,
    greet: Greet | None,
    *observers: Observer,
) -> ConnectionPool:
    tls = ssl_context is not None
    return ConnectionPool(
        remote,
        tls=tls,
        ssl_context=ssl_context,
        tls_standard_compatible=not tls,
        max_size=max_size,
        pipeline=pipeline,
        connect_timeout=timeout,
        close_timeout=_CLOSE_TIMEOUT,
        max_line_bytes=MAX_LINE_BYTES,
        on_connect=greet,
        observers=observers,
    )


def client_context(ca: str | None, *, insecure: bool) -> ssl.SSLContext:
    """Return the settings of TLS for a client.

    :param ca: file of certificates to trust instead of the system's, in PEM
    :param insecure: whether to trust any certificate
    :raises CommandError: if the file can't be read
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise CommandError(f"--ca {ca}: {describe_file_error(error)}", 2) from error
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def check_readable(option: str, path: str) -> None:
    """See that a file can be read: the errors of ssl don't say which one can't.

    :raises CommandError: if it can't
    """
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise CommandError(f"{option} {path}: {describe_file_error(error)}", 2) from error


def describe_file_error(error: OSError) -> str:
    """Say why a file with certificates or a key could not be read."""
    if isinstance(error, ssl.SSLError):
        return "there is no certificate or key in PEM format that fits"
    return error.strerror or str(error)
