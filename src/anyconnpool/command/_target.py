"""The server that a command talks to."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace

from anyio import ConnectionFailed, aclose_forcefully, as_connectable, fail_after
from anyio.abc import ByteStreamConnectable

from anyconnpool import ConnectionPool
from anyconnpool._remote import Endpoint, Remote, TLSOptions
from anyconnpool.command._framing import MAX_LINE_BYTES
from anyconnpool.command._reasons import EXCHANGE_ERRORS, CommandError

_CLOSE_TIMEOUT = 2
# For looking what a server is that did not answer as expected, in seconds.
_PROBE_TIMEOUT = 5


@dataclass(frozen=True)
class Target:
    """Where to connect to, and how TLS is spoken there, if it is.

    Connections of TLS are closed without waiting for the server's closing handshake.
    """

    remote: Remote
    ssl_context: ssl.SSLContext | None

    def __str__(self) -> str:
        return Endpoint.of(self.remote, TLSOptions() if self.ssl_context else None).name

    def pool(self, *, max_size: int, timeout: float, pipeline: int = 1) -> ConnectionPool:
        """Make a pool of connections to it.

        :param max_size: most connections at once
        :param pipeline: how many requests share a connection
        :param timeout: limit for connecting, in seconds
        """
        tls = self.ssl_context is not None
        return ConnectionPool(
            self.remote,
            tls=tls,
            ssl_context=self.ssl_context,
            tls_standard_compatible=not tls,
            max_size=max_size,
            pipeline=pipeline,
            connect_timeout=timeout,
            close_timeout=_CLOSE_TIMEOUT,
            max_line_bytes=MAX_LINE_BYTES,
        )

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
