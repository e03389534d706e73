"""Remotes, URLs and TLS options: wrong ones are refused before anything is opened."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from anyio import TCPConnectable, UNIXConnectable
from anyio.abc import ByteStream, ByteStreamConnectable
from anyio.streams.tls import TLSConnectable

from anyconnpool import ConnectionPool, PoolManager
from anyconnpool._remote import Remote, describe_remote, parse_url, resolve_remote
from tests.cases import table

# With it, a connection that was cut looks like one that has ended. Older Pythons set it themselves.
IGNORE_CUTS = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)

ADVICE = "is not tcp://host:port, tls://host:port or unix:///path: "


class Nowhere(ByteStreamConnectable):
    """A connectable that must not be used, and cannot be hashed."""

    __hash__ = None  # type: ignore[assignment]

    async def connect(self) -> ByteStream:
        raise AssertionError("nothing is opened")

    def __repr__(self) -> str:
        return "Nowhere()"


@table(
    "remote, error, text",
    [
        (None, TypeError, "a remote is a (host, port) tuple, the path of a UNIX socket or"),
        (8999, TypeError, "not 8999"),
        (["localhost", 1], TypeError, "not ['localhost', 1]"),
        (Nowhere, TypeError, "or an AnyIO connectable"),
        ((), ValueError, "a TCP remote is a (host, port) tuple, not ()"),
        (("localhost",), ValueError, "a TCP remote is a (host, port) tuple"),
        (("localhost", 1, 2), ValueError, "a TCP remote is a (host, port) tuple"),
        (("", 1), ValueError, "a host must not be empty"),
        ((None, 1), TypeError, "a host must be a str or an IP address, not None"),
        ((b"localhost", 1), TypeError, "a host must be a str or an IP address"),
        (("localhost", "80"), TypeError, "a port must be an int, not '80'"),
        (("localhost", True), TypeError, "a port must be an int, not True"),
        (("localhost", 80.0), TypeError, "a port must be an int, not 80.0"),
        (("localhost", 0), ValueError, "a port must be 1 to 65535, not 0"),
        (("localhost", -1), ValueError, "a port must be 1 to 65535, not -1"),
        (("localhost", 65536), ValueError, "a port must be 1 to 65535, not 65536"),
        ("", ValueError, "the path of a UNIX socket must not be empty"),
        (b"", ValueError, "the path of a UNIX socket must not be empty"),
        ("tcp://localhost:1", ValueError, "is a URL, not a path: use ConnectionPool.from_url()"),
        ("http://localhost", ValueError, "is a URL, not a path"),
    ],
)
def test_a_wrong_remote_is_refused(remote: Any, error: type[Exception], text: str) -> None:
    """The error tells what a remote is, and shows what was given."""
    with pytest.raises(error) as caught:
        ConnectionPool(remote)
    assert text in str(caught.value)


@table(
    "remote, name",
    [
        (("localhost", 1), "tcp://localhost:1"),
        (("localhost", 65535), "tcp://localhost:65535"),
        (("::1", 80), "tcp://[::1]:80"),
        ((IPv4Address("127.0.0.1"), 80), "tcp://127.0.0.1:80"),
        ((IPv6Address("::1"), 80), "tcp://[::1]:80"),
        ("/run/x", "unix:///run/x"),
        (b"/run/x", "unix:///run/x"),
        (Path("/run/x"), "unix:///run/x"),
        (os.fsencode("/run/ä"), "unix:///run/ä"),
        (Nowhere(), "Nowhere"),
        (TCPConnectable("localhost", 1), "tcp://localhost:1"),
    ],
)
def test_a_right_remote_gives_the_pool_its_name(remote: Remote, name: str) -> None:
    """A pool is called like the URL of its remote, or the type of its connectable."""
    pool = ConnectionPool(remote)
    assert pool.name == pool.statistics().name == describe_remote(remote, tls=False) == name
    assert repr(pool) == f"<ConnectionPool {name!r}>"


def test_the_name_tells_of_tls() -> None:
    """TLS has a scheme of its own."""
    assert describe_remote(("localhost", 1), tls=True) == "tls://localhost:1"
    assert describe_remote("/run/x", tls=True) == "tls+unix:///run/x"


def test_a_name_of_ones_own_takes_the_place_of_the_remote() -> None:
    """The name that was given is the one that is shown."""
    assert ConnectionPool(("localhost", 1), name="cache").name == "cache"


@table(
    "options",
    [
        {"tls": True},
        {"ssl_context": ssl.create_default_context()},
        {"tls_hostname": "example.org"},
        {"tls_standard_compatible": False},
    ],
)
def test_tls_options_with_a_ready_made_connectable_are_refused(options: dict[str, Any]) -> None:
    """AnyIO would ignore them silently; the error tells where they belong."""
    with pytest.raises(ValueError, match=r"wrap it in anyio\.streams\.tls\.TLSConnectable"):
        ConnectionPool(Nowhere(), **options)


@table(
    "options",
    [
        {"ssl_context": ssl.create_default_context()},
        {"tls_hostname": "example.org"},
        {"tls_standard_compatible": False},
    ],
)
def test_tls_options_without_tls_are_refused(options: dict[str, Any]) -> None:
    """Nobody should believe to speak TLS who doesn't, with an address or a plain URL."""
    with pytest.raises(ValueError, match="no effect without tls=True"):
        ConnectionPool(("localhost", 1), **options)
    with pytest.raises(ValueError, match="no effect without tls=True"):
        ConnectionPool.from_url("tcp://localhost:1", **options)


def test_a_wrong_ssl_context_is_refused() -> None:
    """The error names the type that is wanted."""
    context: Any = "secure"
    with pytest.raises(TypeError, match=r"ssl_context must be .*SSLContext"):
        ConnectionPool(("localhost", 1), tls=True, ssl_context=context)


def test_tls_over_a_unix_socket_needs_a_hostname() -> None:
    """A path has no host to check the certificate for; every connect would fail."""
    with pytest.raises(ValueError, match="tls_hostname"):
        ConnectionPool("/run/x", tls=True)
    ConnectionPool("/run/x", tls=True, tls_hostname="example.org")


def test_tls_options_reach_the_connectable() -> None:
    """What was chosen is what AnyIO gets."""
    context = ssl.create_default_context()
    connectable = resolve_remote(
        ("localhost", 1),
        tls=True,
        ssl_context=context,
        tls_hostname="example.org",
        tls_standard_compatible=False,
    )
    assert isinstance(connectable, TLSConnectable)
    assert isinstance(connectable.connectable, TCPConnectable)
    assert connectable.ssl_context is context
    assert connectable.hostname == "example.org"
    assert connectable.standard_compatible is False


def ready_made(context: ssl.SSLContext, standard_compatible: bool) -> TLSConnectable:
    return TLSConnectable(
        TCPConnectable("localhost", 1),
        hostname="localhost",
        ssl_context=context,
        standard_compatible=standard_compatible,
    )


MAKERS: dict[str, Callable[[ssl.SSLContext, bool], object]] = {
    "pool": lambda context, expected: ConnectionPool(
        ("localhost", 1), tls=True, ssl_context=context, tls_standard_compatible=expected
    ),
    "url": lambda context, expected: ConnectionPool.from_url(
        "tls://localhost:1", ssl_context=context, tls_standard_compatible=expected
    ),
    "manager": lambda context, expected: PoolManager(
        tls=True, ssl_context=context, tls_standard_compatible=expected
    ),
    "connectable": lambda context, expected: ConnectionPool(ready_made(context, expected)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_context_loses_the_option_to_ignore_cuts(
    make: Callable[[ssl.SSLContext, bool], object],
) -> None:
    """It is cleared where the closing handshake is expected; all other options stay."""
    context = ssl.create_default_context()
    others = context.options & ~IGNORE_CUTS
    context.options |= IGNORE_CUTS
    make(context, False)
    assert context.options == others | IGNORE_CUTS
    make(context, True)
    assert context.options == others


def test_no_context_that_anyio_makes_ignores_cuts() -> None:
    """Without a context of the user's, a cut is told from an end as well, on every Python."""
    connectable = resolve_remote(
        ("localhost", 1),
        tls=True,
        ssl_context=None,
        tls_hostname=None,
        tls_standard_compatible=True,
    )
    assert isinstance(connectable, TLSConnectable)
    assert not connectable.ssl_context.options & IGNORE_CUTS


@table("remote, kind", [(("localhost", 1), TCPConnectable), ("/run/x", UNIXConnectable)])
def test_an_address_is_connected_to_without_tls_by_default(
    remote: Remote, kind: type[ByteStreamConnectable]
) -> None:
    """TLS is spoken only where it was asked for."""
    connectable = resolve_remote(
        remote, tls=False, ssl_context=None, tls_hostname=None, tls_standard_compatible=True
    )
    assert type(connectable) is kind


@table(
    "url, remote, tls",
    [
        ("tcp://localhost:8999", ("localhost", 8999), False),
        ("tls://localhost:8999", ("localhost", 8999), True),
        ("TCP://localhost:8999", ("localhost", 8999), False),
        ("Tls://localhost:8999/", ("localhost", 8999), True),
        ("tcp://127.0.0.1:1", ("127.0.0.1", 1), False),
        ("tcp://[::1]:8999", ("::1", 8999), False),
        ("unix:///run/my.socket", "/run/my.socket", False),
        ("UNIX:///run/x", "/run/x", False),
        ("unix:///run/with%20space%3F", "/run/with space?", False),
        ("unix:///run/%C3%A4", "/run/ä", False),
    ],
)
def test_a_url_names_a_remote(url: str, remote: object, tls: bool) -> None:
    """All forms are understood; schemes in any case, paths with percent-encoding."""
    assert parse_url(url) == (remote, tls)
    assert ConnectionPool.from_url(url).name == describe_remote(*parse_url(url)[:1], tls=tls)


@table(
    "url, text",
    [
        ("", "unknown scheme ''"),
        ("localhost:8999", "unknown scheme 'localhost'"),
        ("http://localhost:80", "unknown scheme 'http'"),
        ("//localhost:80", "unknown scheme ''"),
        ("tcp://localhost", "it takes a host and a port, and nothing after them"),
        ("tcp://localhost:", "it takes a host and a port"),
        ("tcp://:80", "it takes a host and a port"),
        ("tcp:localhost:80", "it takes a host and a port"),
        ("tls://localhost:80/path", "it takes a host and a port, and nothing after them"),
        ("tcp://localhost:port", "Port could not be cast to integer value as 'port'"),
        ("tcp://localhost:65536", "Port out of range 0-65535"),
        ("tcp://localhost:-1", "Port"),
        ("tcp://[::1", "Invalid IPv6 URL"),
        ("tcp://ex℀mple:80", ""),
        ("tcp://localhost:80?max_size=5", "settings are keyword arguments"),
        ("tcp://localhost:80#here", "settings are keyword arguments"),
        ("unix:///run/x?a=1", "settings are keyword arguments"),
        ("unix://", "an absolute path after three slashes"),
        ("unix:///", "an absolute path after three slashes"),
        ("unix:run/x", "an absolute path after three slashes"),
        ("unix://run/x", "an absolute path after three slashes"),
    ],
)
def test_a_wrong_url_is_refused(url: str, text: str) -> None:
    """The error shows the URL, the forms that are understood, and what is wrong with this one."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ConnectionPool.from_url(url)
    assert str(caught.value).startswith(f"{url!r} {ADVICE}")
    assert text in str(caught.value)


@table(
    "url",
    [
        "tcp://me@localhost:80",
        "tcp://me:s3cret@localhost:80",
        "tls://:s3cret@localhost:80?a=1",
        "tcp://@localhost:80",
        "unix://me:s3cret@/run/x",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_shown(url: str) -> None:
    """The pool logs in nowhere; errors go to logs, and passwords don't."""
    with pytest.raises(ValueError, match="credentials go to the server") as caught:
        ConnectionPool.from_url(url)
    assert "s3cret" not in str(caught.value)


def test_the_port_0_of_a_url_is_refused() -> None:
    """It can be listened on, not connected to."""
    with pytest.raises(ValueError, match="a port must be 1 to 65535, not 0"):
        ConnectionPool.from_url("tcp://localhost:0")


@table("url", [None, 5, b"tcp://localhost:1", ("localhost", 1)])
def test_a_url_is_a_string(url: Any) -> None:
    """Anything else is a TypeError."""
    with pytest.raises(TypeError, match="a URL must be a str, not "):
        ConnectionPool.from_url(url)
