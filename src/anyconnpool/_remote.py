"""What a pool connects to: checked before anything is opened, and given a name for logs."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Hashable
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias, cast
from urllib.parse import unquote, urlsplit

from anyio import TCPConnectable, UNIXConnectable, as_connectable
from anyio.abc import ByteStreamConnectable
from anyio.streams.tls import TLSConnectable

#: what :func:`anyio.as_connectable` takes
Remote: TypeAlias = (
    ByteStreamConnectable
    | tuple[str | IPv4Address | IPv6Address, int]
    | str
    | bytes
    | os.PathLike[str]
)


def resolve_remote(
    remote: Remote,
    tls: bool,
    ssl_context: ssl.SSLContext | None,
    tls_hostname: str | None,
    tls_standard_compatible: bool,
) -> ByteStreamConnectable:
    """Turn a remote into a connectable, refusing what AnyIO would ignore silently.

    If the closing handshake of TLS is expected, the context, whoever made it, loses the option
    ``OP_IGNORE_UNEXPECTED_EOF``.

    :raises TypeError: if the remote is of the wrong type
    :raises ValueError: if an address makes no sense, or TLS options would have no effect
    """
    wants_tls = bool(ssl_context or tls_hostname or not tls_standard_compatible)
    _check_remote(remote, tls or wants_tls)
    if wants_tls and not tls:
        raise ValueError("TLS options have no effect without tls=True")
    if tls and not isinstance(remote, tuple) and not tls_hostname:
        _check_needs_no_hostname(ssl_context)
    connectable = as_connectable(
        remote,
        tls=tls,
        ssl_context=ssl_context,
        tls_hostname=tls_hostname,
        tls_standard_compatible=tls_standard_compatible,
    )
    if isinstance(connectable, TLSConnectable) and connectable.standard_compatible:
        _report_cuts(connectable.ssl_context)
    return connectable


def _report_cuts(context: ssl.SSLContext) -> None:
    """Let a stream that is cut fail, instead of looking like one that has ended.

    With OpenSSL 3, Python before 3.10.11 and 3.11.3 sets the option in every new context
    (python/cpython#95494). AnyIO clears it in the contexts that TLSStream.wrap() makes, but neither
    in those of TLSConnectable nor in the user's.
    """
    # Python doesn't have the option where OpenSSL doesn't.
    option = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    if context.options & option:
        context.options &= ~option


def _check_needs_no_hostname(ssl_context: ssl.SSLContext | None) -> None:
    if ssl_context is None or ssl_context.check_hostname:
        raise ValueError(
            "TLS over a UNIX socket needs tls_hostname, the name to check the certificate for"
        )


def _check_remote(remote: object, tls: bool) -> None:
    if not isinstance(remote, ByteStreamConnectable):
        _check_address(remote)
    elif tls:
        raise ValueError(
            "TLS options have no effect on a ready-made connectable: wrap it in "
            "anyio.streams.tls.TLSConnectable, or give an address instead"
        )


def _check_address(remote: object) -> None:
    if isinstance(remote, tuple):
        _check_host_and_port(cast("tuple[object, ...]", remote))
    elif not isinstance(remote, (str, bytes, os.PathLike)):
        raise TypeError(
            f"a remote is a (host, port) tuple, the path of a UNIX socket or an AnyIO "
            f"connectable, not {remote!r}"
        )
    elif not os.fspath(remote):
        raise ValueError("the path of a UNIX socket must not be empty")
    elif isinstance(remote, str) and "://" in remote:
        raise ValueError(f"{remote!r} is a URL, not a path: use ConnectionPool.from_url()")


def _check_host_and_port(remote: tuple[object, ...]) -> None:
    if len(remote) != 2:
        raise ValueError(f"a TCP remote is a (host, port) tuple, not {remote!r}")
    host, port = remote
    if not isinstance(host, (str, IPv4Address, IPv6Address)):
        raise TypeError(f"a host must be a str or an IP address, not {host!r}")
    if not host:
        raise ValueError("a host must not be empty")
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"a port must be an int, not {port!r}")
    if not 1 <= port <= 65535:
        raise ValueError(f"a port must be 1 to 65535, not {port}")


def describe_remote(remote: Remote, *, tls: bool) -> str:
    """Name a remote: its URL, or the type of its connectable.

    :param tls: whether TLS is spoken over it
    """
    if isinstance(remote, TLSConnectable):
        return describe_remote(cast("Remote", remote.connectable), tls=True)
    if isinstance(remote, TCPConnectable):
        remote = (remote.host, remote.port)
    elif isinstance(remote, UNIXConnectable):
        remote = cast("Remote", remote.path)
    if isinstance(remote, tuple):
        host, port = remote
        shown = f"[{host}]" if ":" in str(host) else str(host)
        return f"{'tls' if tls else 'tcp'}://{shown}:{port}"
    if isinstance(remote, ByteStreamConnectable):
        return type(remote).__name__
    return f"{'tls+' if tls else ''}unix://{os.fsdecode(remote)}"


class _Equal:
    """Stand in for a remote that can't be hashed, as AnyIO's own connectables can't."""

    def __init__(self, remote: object) -> None:
        self._remote = remote

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Equal) and bool(self._remote == other._remote)

    def __hash__(self) -> int:
        return hash(type(self._remote))


def remote_key(remote: Remote, *, tls: bool) -> Hashable:
    """Return a key under which the same remote is found again, however it is written.

    :param tls: whether TLS is to be spoken
    :raises TypeError: if the remote is of the wrong type
    :raises ValueError: if an address makes no sense, or ``tls`` is set for a connectable
    """
    _check_remote(remote, tls)
    return _key(remote)


def _key(remote: Remote) -> Hashable:
    if isinstance(remote, TLSConnectable):
        inner = _key(cast("Remote", remote.connectable))
        return inner, remote.hostname, remote.ssl_context, remote.standard_compatible
    if isinstance(remote, TCPConnectable):
        remote = (remote.host, remote.port)
    elif isinstance(remote, UNIXConnectable):
        remote = cast("Remote", remote.path)
    if isinstance(remote, tuple):
        return (str(remote[0]), *remote[1:])
    if isinstance(remote, (str, bytes, os.PathLike)):
        return os.fsdecode(remote)
    try:
        hash(remote)
    except TypeError:
        return _Equal(remote)
    return remote


def parse_url(url: str) -> tuple[Remote, bool]:
    """Split the URL of a remote.

    :param url: ``tcp://host:port``, ``tls://host:port`` or ``unix:///path``
    :return: the remote, and whether TLS is to be spoken
    :raises ValueError: if it has another form, or contains more than that
    :raises TypeError: if it is not a string
    """
    if not isinstance(cast("object", url), str):
        raise TypeError(f"a URL must be a str, not {type(url).__name__}")
    # It may hold a password, and errors go to logs.
    shown = re.sub("//.*@", "//***@", url)
    advice = f"{shown!r} is not tcp://host:port, tls://host:port or unix:///path"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{advice}: {error}" if shown == url else advice) from None
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{advice}: settings are keyword arguments, credentials go to the server")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/") or parts.path == "/":
            raise ValueError(f"{advice}: a UNIX socket needs an absolute path after three slashes")
        return unquote(parts.path), False
    if parts.scheme not in ("tcp", "tls"):
        raise ValueError(f"{advice}: unknown scheme {parts.scheme!r}")
    if not host or port is None or parts.path not in ("", "/"):
        raise ValueError(f"{advice}: it takes a host and a port, and nothing after them")
    return (host, port), parts.scheme == "tls"
