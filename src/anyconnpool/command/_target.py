"""The server that a command talks to."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from anyio import as_connectable
from anyio.abc import ByteStreamConnectable

from anyconnpool import ConnectionPool
from anyconnpool._remote import Endpoint, Remote, TLSOptions
from anyconnpool.command._framing import MAX_LINE_BYTES
from anyconnpool.command._reasons import CommandError

_CLOSE_TIMEOUT = 2


@dataclass(frozen=True)
class Target:
    """Where to connect to, and how TLS is spoken there, if it is.

    Connections of TLS are closed without waiting for the server's closing handshake.
    """

    remote: Remote
    ssl_context: ssl.SSLContext | None

    def __str__(self) -> str:
        return Endpoint.of(self.remote, TLSOptions() if self.ssl_context else None).name

    def pool(self, *, max_size: int, timeout: float) -> ConnectionPool:
        """Make a pool of connections to it.

        :param max_size: most connections at once
        :param timeout: limit for connecting, in seconds
        """
        tls = self.ssl_context is not None
        return ConnectionPool(
            self.remote,
            tls=tls,
            ssl_context=self.ssl_context,
            tls_standard_compatible=not tls,
            max_size=max_size,
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


def describe_file_error(error: OSError) -> str:
    """Say why a file with certificates or a key could not be read."""
    if isinstance(error, ssl.SSLError):
        return "there is no certificate or key in PEM format that fits"
    return error.strerror or str(error)
