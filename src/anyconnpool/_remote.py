"""What a pool connects to: checked before anything is opened, and named for logs and errors."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast
from urllib.parse import unquote, urlsplit

from anyio import TCPConnectable, UNIXConnectable
from anyio.abc import ByteStreamConnectable
from anyio.streams.tls import TLSConnectable

from anyconnpool._util.checks import make_printable, quoted

if TYPE_CHECKING:
    from typing_extensions import Self

#: what :func:`anyio.as_connectable` takes
Remote: TypeAlias = (
    ByteStreamConnectable
    | tuple[str | IPv4Address | IPv6Address, int]
    | str
    | bytes
    | os.PathLike[str]
)

ValueT = TypeVar("ValueT")
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_SEVERAL = (
    ": for several servers, write Replicas([…]), with a list of remotes or a function for them"
)
_URL_FORMS = "tcp://host:port, tls://host:port or unix:///path"


class RemoteGroup(ByteStreamConnectable):
    """What stands for several remotes: to each of them the options of TLS apply."""

    def describe(self, *, tls: bool) -> str:
        """Return what it is called in logs and errors.

        :param tls: whether TLS is spoken to those that are addresses
        """
        raise NotImplementedError


@dataclass(frozen=True)
class TLSOptions:
    """How TLS is to be spoken.

    :ivar ssl_context: the settings; ``None`` for secure defaults
    :ivar hostname: the name to check the peer's certificate for, if not the host
    :ivar standard_compatible: whether the closing handshake is made and expected
    """

    ssl_context: ssl.SSLContext | None = None
    hostname: str | None = None
    standard_compatible: bool = True


@dataclass(frozen=True)
class Endpoint:
    """A remote that has been checked.

    :ivar target: ``(host, port)``, the path of a UNIX socket, or a connectable that the pool can't
        see into
    :ivar tls: how TLS is to be spoken to an address, if at all
    """

    target: tuple[str, int] | str | bytes | ByteStreamConnectable
    tls: TLSOptions | None = None

    @classmethod
    def of(cls, remote: Remote, tls: TLSOptions | None = None) -> Self:
        """Check a remote.

        AnyIO's own connectables are taken apart: a :class:`~anyio.TCPConnectable` is as good as its
        address.

        :param remote: what to connect to
        :param tls: how TLS is to be spoken, if at all
        :raises TypeError: if the remote is nothing to connect to
        :raises ValueError: if an address makes no sense, or TLS options would have no effect
        """
        if isinstance(remote, RemoteGroup):
            return cls(remote, tls)
        if not isinstance(remote, ByteStreamConnectable):
            return cls(_check_address(remote), tls)
        if tls is not None:
            raise ValueError(
                "TLS options have no effect on a ready-made connectable: wrap it in "
                "anyio.streams.tls.TLSConnectable, or give an address instead"
            )
        return cls(*_take_apart(remote))

    @property
    def name(self) -> str:
        """How the remote is called in logs and errors: its URL, or the type of its connectable."""
        target = self.target
        if isinstance(target, tuple):
            host, port = target
            shown = f"[{host}]" if ":" in host else host
            return make_printable(f"{'tls' if self.tls else 'tcp'}://{shown}:{port}")
        if isinstance(target, (str, bytes)):
            return make_printable(f"{'tls+' if self.tls else ''}unix://{os.fsdecode(target)}")
        if isinstance(target, RemoteGroup):
            return target.describe(tls=self.tls is not None)
        while isinstance(target, TLSConnectable):
            target = cast("ByteStreamConnectable", target.connectable)
        return type(target).__name__

    @property
    def key(self) -> Hashable:
        """What is equal for two endpoints only if the same is meant, however it was written."""
        target = self.target
        if isinstance(target, (str, bytes)):
            return os.fsdecode(target), self.tls
        return _hashable(target), self.tls


class ByRemote(Mapping[Remote, ValueT], Generic[ValueT]):
    """Look something up by remotes, hashable or not, in whatever form they are written.

    :param found: remotes and values
    :param tls: how TLS is spoken to addresses, if at all
    """

    def __init__(
        self, found: Iterable[tuple[Remote, ValueT]], tls: TLSOptions | None = None
    ) -> None:
        self._tls = tls
        self._found = {Endpoint.of(item[0], tls).key: item for item in found}

    def __getitem__(self, remote: Remote) -> ValueT:
        found = self._found.get(Endpoint.of(remote, self._tls).key)
        if found is None:
            # Not with the key, which is nobody's but ours.
            raise KeyError(remote)
        return found[1]

    def __iter__(self) -> Iterator[Remote]:
        return (remote for remote, _ in self._found.values())

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        items = ", ".join(f"{remote!r}: {value!r}" for remote, value in self._found.values())
        return f"{type(self).__name__}({{{items}}})"


def make_endpoint(
    remote: Remote,
    tls: bool,
    ssl_context: ssl.SSLContext | None,
    tls_hostname: str | None,
    tls_standard_compatible: bool,
) -> Endpoint:
    """Check a remote and the options of TLS, and refuse what would have no effect.

    If the closing handshake of TLS is expected, the context, whoever made it, loses the option
    ``OP_IGNORE_UNEXPECTED_EOF``.

    :raises TypeError: if the remote is nothing to connect to
    :raises ValueError: if an address makes no sense, or TLS options would have no effect
    """
    if ssl_context is not None and not isinstance(cast("object", ssl_context), ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {quoted(ssl_context)}")
    if ssl_context is not None and ssl_context.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ValueError(
            "ssl_context is one for servers: make one for clients, by ssl.create_default_context()"
        )
    for name, value in (("tls", tls), ("tls_standard_compatible", tls_standard_compatible)):
        if not isinstance(cast("object", value), bool):
            raise TypeError(f"{name} must be a bool, not {type(value).__name__}")
    if tls_hostname is not None and not isinstance(cast("object", tls_hostname), str):
        raise TypeError(f"tls_hostname must be a str, not {type(tls_hostname).__name__}")
    wants_tls = bool(ssl_context or tls_hostname or not tls_standard_compatible)
    given = TLSOptions(ssl_context, tls_hostname, tls_standard_compatible)
    endpoint = Endpoint.of(remote, given if tls or wants_tls else None)
    if wants_tls and not tls:
        raise ValueError("TLS options have no effect without tls=True")
    if tls and not isinstance(endpoint.target, (tuple, RemoteGroup)) and not tls_hostname:
        _check_needs_no_hostname(ssl_context)
    target, options = endpoint.target, endpoint.tls
    if isinstance(target, TLSConnectable) and target.standard_compatible:
        _report_cuts(target.ssl_context)
    elif options and options.ssl_context and options.standard_compatible:
        _report_cuts(options.ssl_context)
    return endpoint


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


def _take_apart(remote: ByteStreamConnectable) -> tuple[Any, TLSOptions | None]:
    """Return the address that a connectable of AnyIO's own stands for, or the connectable.

    A class that derives from one of them may do anything.
    """
    if type(remote) is TCPConnectable:
        return _check_host_and_port((remote.host, remote.port)), None
    if type(remote) is UNIXConnectable:
        return os.fspath(cast("str | bytes | os.PathLike[str]", remote.path)), None
    if type(remote) is TLSConnectable:
        target, tls = _take_apart(cast("ByteStreamConnectable", remote.connectable))
        if tls is None and not isinstance(target, ByteStreamConnectable):
            options = TLSOptions(remote.ssl_context, remote.hostname, remote.standard_compatible)
            return target, options
    return remote, None


def _check_address(remote: object) -> tuple[str, int] | str | bytes:
    if isinstance(remote, tuple):
        return _check_host_and_port(cast("tuple[object, ...]", remote))
    if not isinstance(remote, (str, bytes, os.PathLike)):
        raise TypeError(
            f"a remote is a (host, port) tuple, the path of a UNIX socket or an AnyIO "
            f"connectable, not {quoted_remote(remote)}{_advise(remote)}"
        )
    path = os.fspath(cast("str | bytes | os.PathLike[str]", remote))
    if not path:
        raise ValueError("the path of a UNIX socket must not be empty")
    # With a NUL at its beginning, it is an abstract name of Linux's, which may have others.
    encoded = os.fsencode(path)
    if b"\0" in encoded and not encoded.startswith(b"\0"):
        raise ValueError("the path of a UNIX socket must not contain NUL characters")
    if isinstance(remote, str):
        _check_is_path(remote)
    return path


def quoted_remote(remote: object) -> str:
    """Return how what is no remote is quoted in an error, unless a password may stand in it."""
    text = quoted(remote)
    if "@" in text or "pass" in text.lower():
        return f"what was given, of type {type(remote).__name__}"
    return text


def _advise(remote: object) -> str:
    """Say what to do with something that is more or less than one remote."""
    if isinstance(remote, type):
        return ": give an object, not its class"
    if isinstance(remote, (list, set, frozenset)) or callable(remote):
        return _SEVERAL
    # The testing kit's proxy is one of these.
    return ": give its attribute, remote" if hasattr(type(remote), "remote") else ""


def _check_is_path(remote: str) -> None:
    """Refuse a string that means something else than the path of a UNIX socket."""
    if "://" in remote:
        raise ValueError("a remote is no URL: use ConnectionPool.from_url() for that")
    host, colon, port = remote.rpartition(":")
    if colon and port.isdecimal() and "/" not in remote:
        # What stands before an "@" may be a password.
        given, host = ("…", "host") if "@" in host else (quoted(remote), host.strip("[]"))
        several = "," in host
        raise ValueError(
            f"{given} would be the path of a UNIX socket"
            + (_SEVERAL if several else f": write ({quoted(host)}, {port}) for a host and a port")
            + f", or pathlib.Path({given}) if it is a path"
        )


def _check_host_and_port(remote: tuple[object, ...]) -> tuple[str, int]:
    if remote and all(isinstance(each, tuple) for each in remote):
        raise TypeError(f"a remote is one (host, port) tuple{_SEVERAL}")
    if len(remote) != 2:
        raise ValueError(f"a TCP remote is a (host, port) tuple, not one of {len(remote)} items")
    host, port = remote
    if not isinstance(host, (str, IPv4Address, IPv6Address)):
        raise TypeError(f"a host must be a str or an IP address, not {quoted_remote(host)}")
    if not host:
        raise ValueError("a host must not be empty")
    if isinstance(host, str) and "/" in host:
        raise ValueError("a host is a name or an IP address, no URL and no path")
    if isinstance(host, str) and ("@" in host or not host.isprintable() or " " in host):
        raise ValueError(
            "a host is a name or an IP address: no user, no password, no spaces and "
            "no control characters (credentials go to the server, in on_connect)"
        )
    if isinstance(host, str) and ":" in host and not _is_ipv6(host):
        raise ValueError(
            "a host with a colon must be an IPv6 address, without brackets; the port stands after "
            "it in the tuple"
        )
    if not isinstance(port, int) or isinstance(port, bool):
        digits = isinstance(port, str) and port.isdecimal() and len(port) < 6
        advice = f": write {port}" if digits else ""
        raise TypeError(f"a port must be an int, not {quoted_remote(port)}{advice}")
    if not 1 <= port <= 65535:
        raise ValueError(f"a port must be 1 to 65535, not {quoted(port)}")
    return str(host), port


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class _Equal:
    """Stand in for a connectable that can't be hashed."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Equal) and bool(self._target == other._target)

    def __hash__(self) -> int:
        return hash(type(self._target))


def _hashable(target: object) -> Hashable:
    try:
        hash(target)
    except TypeError:
        return _Equal(target)
    return target


def parse_url(url: str) -> tuple[Remote, bool]:
    """Split the URL of a remote.

    :param url: ``tcp://host:port``, ``tls://host:port`` or ``unix:///path``
    :return: the remote, and whether TLS is to be spoken
    :raises ValueError: if it has another form, or contains more than that
    :raises TypeError: if it is not a string
    """
    if not isinstance(cast("object", url), str):
        raise TypeError(f"a URL must be a str, not {type(url).__name__}")
    # The rest may hold a password, and errors go to logs.
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)", url)
    shown = f"{scheme[0]}://…" if scheme else "this"
    advice = f"{shown} is not {_URL_FORMS}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        several = ", or names more than one server" if "," in url else ""
        raise ValueError(f"{advice}: it can't be parsed{several}") from None
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{advice}: settings are keyword arguments, credentials go to the server")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/") or parts.path == "/":
            raise ValueError(f"{advice}: a UNIX socket needs an absolute path after three slashes")
        return unquote(parts.path), False
    if not scheme or parts.scheme not in ("tcp", "tls"):
        raise ValueError(f"{advice}: the scheme is none of these")
    if not host or port is None or parts.path not in ("", "/"):
        raise ValueError(f"{advice}: it takes a host and a port, and nothing after them")
    return (host, port), parts.scheme == "tls"


def takes_one_address(make: FunctionT) -> FunctionT:
    """Have an ``__init__`` say what to write if it gets a host and a port as two arguments."""

    @wraps(make)
    def checked(self: object, *remote: object, **settings: object) -> None:
        if len(remote) == 2 and isinstance(remote[0], str):
            name = type(self).__name__
            address = f"({quoted(remote[0])}, {quoted(remote[1])})"
            raise TypeError(f"a host and a port are one argument, a tuple: write {name}({address})")
        make(self, *remote, **settings)

    return cast("FunctionT", checked)
