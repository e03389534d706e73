"""Remotes, URLs and TLS options: wrong ones are refused before anything is opened."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from anyio import TCPConnectable, UNIXConnectable
from anyio.abc import ByteStream, ByteStreamConnectable
from anyio.streams.tls import TLSConnectable

from anyconnpool import ConnectionPool, PoolManager
from anyconnpool._remote import Endpoint, Remote, TLSOptions, make_endpoint, parse_url
from anyconnpool._streams.connectable import AddressConnectable, make_connectable

# With it, a connection that was cut looks like one that has ended. Older Pythons set it themselves.
IGNORE_CUTS = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)

CONTEXT = ssl.create_default_context()
FORMS = "is not tcp://host:port, tls://host:port or unix:///path: "


class Nowhere(ByteStreamConnectable):
    """A connectable that must not be used, and cannot be hashed."""

    __hash__ = None  # type: ignore[assignment]

    async def connect(self) -> ByteStream:
        raise AssertionError("nothing is opened")

    def __repr__(self) -> str:
        return "Nowhere()"


class OwnTCP(TCPConnectable):
    """A class of the user's, which may do more than connect to its address."""


def secured(below: ByteStreamConnectable, **options: Any) -> TLSConnectable:
    settings: dict[str, Any] = {"hostname": "h", "ssl_context": CONTEXT, **options}
    return TLSConnectable(below, **settings)


def endpoint(
    remote: Remote,
    *,
    tls: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    tls_hostname: str | None = None,
    tls_standard_compatible: bool = True,
) -> Endpoint:
    return make_endpoint(remote, tls, ssl_context, tls_hostname, tls_standard_compatible)


def test_a_wrong_remote_is_refused() -> None:
    """The error tells what a remote is, and shows what was given, except a URL."""
    wrong: list[tuple[Any, type[Exception], str]] = [
        (None, TypeError, "a remote is a (host, port) tuple, the path of a UNIX socket or"),
        (8999, TypeError, "not 8999"),
        (["localhost", 1], TypeError, "not ['localhost', 1]"),
        (Nowhere, TypeError, "or an AnyIO connectable"),
        ((), ValueError, "a TCP remote is a (host, port) tuple, not one of 0 items"),
        (("localhost",), ValueError, "a TCP remote is a (host, port) tuple"),
        (("localhost", 1, 2), ValueError, "a TCP remote is a (host, port) tuple"),
        (("", 1), ValueError, "a host must not be empty"),
        ((None, 1), TypeError, "a host must be a str or an IP address, not None"),
        (("me:s3cret@h", 1), ValueError, "credentials go to the server, in on_connect"),
        (("h\x1b", 1), ValueError, "no control characters"),
        (("h\0", 1), ValueError, "no control characters"),
        ((b"localhost", 1), TypeError, "a host must be a str or an IP address"),
        (("tcp://h", 1), ValueError, "a host is a name or an IP address, no URL and no path"),
        (("/run/x", 1), ValueError, "a host is a name or an IP address, no URL and no path"),
        (("localhost", "80"), TypeError, "a port must be an int, not '80'"),
        (("localhost", True), TypeError, "a port must be an int, not True"),
        (("localhost", 80.0), TypeError, "a port must be an int, not 80.0"),
        (("localhost", 0), ValueError, "a port must be 1 to 65535, not 0"),
        (("localhost", -1), ValueError, "a port must be 1 to 65535, not -1"),
        (("localhost", 65536), ValueError, "a port must be 1 to 65535, not 65536"),
        ("", ValueError, "the path of a UNIX socket must not be empty"),
        (b"", ValueError, "the path of a UNIX socket must not be empty"),
        ("tcp://localhost:1", ValueError, "use ConnectionPool.from_url() for that"),
        ("http://localhost", ValueError, "use ConnectionPool.from_url() for that"),
        ("localhost:80", ValueError, "write ('localhost', 80) for a host and a port"),
        ("::1:80", ValueError, "or pathlib.Path('::1:80') if it is a path"),
        ("[::1]:80", ValueError, "write ('::1', 80) for a host and a port"),
        ("a:1,b:2", ValueError, "for several servers, write Replicas("),
        (":80", ValueError, "would be the path of a UNIX socket"),
    ]
    for remote, error, text in wrong:
        with pytest.raises(error) as caught:
            ConnectionPool(remote)
        assert text in str(caught.value), remote
    secret: list[Remote] = [
        "tls://me:s3cret@localhost:1",
        "me:s3cret@localhost:1",
        ("me:s3cret@localhost", 1),
        TCPConnectable("me:s3cret@localhost", 1),
    ]
    for remote in secret:
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            ConnectionPool(remote)
        assert "s3cret" not in str(caught.value)


def test_what_only_looks_like_an_address_is_a_path() -> None:
    """A slash, or no port, makes it one."""
    for path in ("/run/x:80", "./localhost:80", "localhost", "localhost:", "x:http"):
        assert endpoint(path).target == path
    # Whoever writes it like that means it.
    assert endpoint(Path("localhost:80")).target == "localhost:80"
    assert endpoint(b"localhost:80").target == b"localhost:80"


def test_a_right_remote_gives_the_pool_its_name() -> None:
    """A pool is called like the URL of its remote, or the type of its connectable."""
    right: list[tuple[Remote, str]] = [
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
        (OwnTCP("localhost", 1), "OwnTCP"),
        (TCPConnectable("localhost", 1), "tcp://localhost:1"),
        (TCPConnectable(IPv6Address("::1"), 1), "tcp://[::1]:1"),
        (UNIXConnectable(Path("/run/x")), "unix:///run/x"),
        (UNIXConnectable(b"/run/x"), "unix:///run/x"),
        (secured(TCPConnectable("localhost", 1)), "tls://localhost:1"),
        (secured(UNIXConnectable("/run/x")), "tls+unix:///run/x"),
        (secured(Nowhere()), "Nowhere"),
        (secured(secured(TCPConnectable("localhost", 1))), "TCPConnectable"),
    ]
    for remote, name in right:
        pool = ConnectionPool(remote)
        assert pool.name == pool.statistics().name == endpoint(remote).name == name
        assert repr(pool) == f"<ConnectionPool {name!r}>"


def test_a_name_can_be_printed() -> None:
    """What a terminal, a log or a metrics page could choke on is escaped."""
    awkward: list[tuple[Remote, str]] = [
        (b"/run/\xff", r"unix:///run/\udcff"),
        ("/run/\udcff", r"unix:///run/\udcff"),
        ("\0abstract\0", r"unix://\x00abstract\x00"),
        (b"\0abstract", r"unix://\x00abstract"),
        ("/run/\x1b[31mred", r"unix:///run/\x1b[31mred"),
        ("/run/two\nlines\t", r"unix:///run/two\nlines\t"),
        ("/run/\u202ekcab", r"unix:///run/\u202ekcab"),
        (UNIXConnectable(b"/run/\xff\x00"), r"unix:///run/\udcff\x00"),
    ]
    for remote, name in awkward:
        assert endpoint(remote).name == name
        name.encode()
        assert name.isprintable()
        assert str(ConnectionPool(remote).statistics()).isprintable()


def test_the_name_tells_of_tls() -> None:
    """TLS has a scheme of its own."""
    assert Endpoint.of(("localhost", 1), TLSOptions()).name == "tls://localhost:1"
    assert Endpoint.of("/run/x", TLSOptions()).name == "tls+unix:///run/x"


def test_a_name_of_ones_own_takes_the_place_of_the_remote() -> None:
    """The name that was given is the one that is shown."""
    assert ConnectionPool(("localhost", 1), name="cache").name == "cache"


def test_endpoints_are_the_same_however_they_were_written() -> None:
    """What the manager keeps its pools by: same target and same TLS, or another pool."""
    same: list[list[Remote]] = [
        [("::1", 1), (IPv6Address("::1"), 1), TCPConnectable(IPv6Address("::1"), 1)],
        [
            "/run/x",
            b"/run/x",
            Path("/run/x"),
            UNIXConnectable("/run/x"),
            UNIXConnectable(b"/run/x"),
        ],
        [secured(TCPConnectable("h", 1)), secured(TCPConnectable("h", 1))],
        [("h", 1)],
        [("h", 2)],
        [secured(TCPConnectable("h", 1), hostname="other")],
        [secured(TCPConnectable("h", 1), standard_compatible=False)],
        [secured(TCPConnectable("h", 1), ssl_context=ssl.create_default_context())],
        [OwnTCP("h", 1)],
    ]
    keys = [{Endpoint.of(remote).key for remote in remotes} for remotes in same]
    assert [len(each) for each in keys] == [1] * len(keys)
    assert len(set(chain.from_iterable(keys))) == len(keys)
    # What can't be hashed is compared.
    one, other = Nowhere(), Nowhere()
    assert Endpoint.of(one).key == Endpoint.of(one).key
    assert Endpoint.of(one).key != Endpoint.of(other).key
    assert hash(Endpoint.of(one).key) == hash(Endpoint.of(other).key)
    assert Endpoint.of(one).key != Endpoint.of(("h", 1)).key


def test_a_pool_is_no_remote_of_a_pool() -> None:
    """It would give back what the outer pool closes; the error says what to do."""
    pool = ConnectionPool(("localhost", 1))
    with pytest.raises(TypeError, match="use it directly"):
        ConnectionPool(pool)


def test_tls_options_with_a_ready_made_connectable_are_refused() -> None:
    """Nobody would heed them; the error tells where they belong."""
    wrong: list[dict[str, Any]] = [
        {"tls": True},
        {"ssl_context": CONTEXT},
        {"tls_hostname": "example.org"},
        {"tls_standard_compatible": False},
    ]
    for options in wrong:
        for remote in (Nowhere(), TCPConnectable("localhost", 1), secured(Nowhere())):
            with pytest.raises(ValueError, match=r"wrap it in anyio\.streams\.tls\.TLSConnectable"):
                ConnectionPool(remote, **options)


def test_tls_options_without_tls_are_refused() -> None:
    """Nobody should believe to speak TLS who doesn't, with an address or a plain URL."""
    wrong: list[dict[str, Any]] = [
        {"ssl_context": CONTEXT},
        {"tls_hostname": "example.org"},
        {"tls_standard_compatible": False},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match="no effect without tls=True"):
            ConnectionPool(("localhost", 1), **options)
        with pytest.raises(ValueError, match="no effect without tls=True"):
            ConnectionPool.from_url("tcp://localhost:1", **options)


def test_a_wrong_ssl_context_is_refused() -> None:
    """The error names the type that is wanted; one for servers could connect to nobody."""
    with pytest.raises(ValueError, match="one for servers"):
        ConnectionPool(
            ("localhost", 1), tls=True, ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        )
    context: Any = "secure"
    with pytest.raises(TypeError, match=r"ssl_context must be .*SSLContext"):
        ConnectionPool(("localhost", 1), tls=True, ssl_context=context)


def test_tls_over_a_unix_socket_needs_a_hostname() -> None:
    """A path has no host to check the certificate for; every connect would fail."""
    with pytest.raises(ValueError, match="tls_hostname"):
        ConnectionPool("/run/x", tls=True)
    with pytest.raises(ValueError, match="tls_hostname"):
        ConnectionPool("/run/x", tls=True, ssl_context=ssl.create_default_context())
    ConnectionPool("/run/x", tls=True, tls_hostname="example.org")
    context = ssl.create_default_context()
    context.check_hostname = False
    ConnectionPool("/run/x", tls=True, ssl_context=context)


def test_tls_options_reach_the_endpoint() -> None:
    """What was chosen is what the stream gets, from options and from AnyIO's connectable alike."""
    options = TLSOptions(CONTEXT, "example.org", standard_compatible=False)
    chosen = endpoint(
        ("localhost", 1),
        tls=True,
        ssl_context=CONTEXT,
        tls_hostname="example.org",
        tls_standard_compatible=False,
    )
    assert chosen == Endpoint(("localhost", 1), options)
    below = TCPConnectable("localhost", 1)
    assert chosen == endpoint(secured(below, hostname="example.org", standard_compatible=False))
    assert endpoint(("localhost", 1), tls=True).tls == TLSOptions()
    assert endpoint(("localhost", 1)).tls is None


def test_a_pool_connects_by_streams_of_its_own_where_it_knows_the_address() -> None:
    """A connectable of AnyIO's is as good as its address; what may do more is left as it is."""
    known: list[Remote] = [
        ("localhost", 1),
        "/run/x",
        Path("/run/x"),
        TCPConnectable("localhost", 1),
        UNIXConnectable("/run/x"),
        secured(TCPConnectable("localhost", 1)),
        secured(UNIXConnectable("/run/x")),
    ]
    for remote in known:
        assert isinstance(make_connectable(endpoint(remote)), AddressConnectable), remote
    pool = ConnectionPool(("localhost", 1))
    others: list[ByteStreamConnectable] = [
        Nowhere(),
        OwnTCP("localhost", 1),
        secured(Nowhere()),
        secured(OwnTCP("localhost", 1)),
        secured(pool),
        # TLS within TLS
        secured(secured(TCPConnectable("localhost", 1))),
    ]
    for connectable in others:
        assert make_connectable(endpoint(connectable)) is connectable


def ready_made(context: ssl.SSLContext, standard_compatible: bool) -> TLSConnectable:
    return secured(
        TCPConnectable("localhost", 1),
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
    "connectable of one's own": lambda context, expected: ConnectionPool(
        secured(Nowhere(), ssl_context=context, standard_compatible=expected)
    ),
}


def test_a_context_loses_the_option_to_ignore_cuts() -> None:
    """It is cleared where the closing handshake is expected; all other options stay."""
    for make in MAKERS.values():
        context = ssl.create_default_context()
        others = context.options & ~IGNORE_CUTS
        context.options |= IGNORE_CUTS
        make(context, False)
        assert context.options == others | IGNORE_CUTS
        make(context, True)
        assert context.options == others


def test_a_url_names_a_remote() -> None:
    """All forms are understood; schemes in any case, paths with percent-encoding."""
    right: list[tuple[str, Any, bool]] = [
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
    ]
    for url, remote, tls in right:
        assert parse_url(url) == (remote, tls)
        assert ConnectionPool.from_url(url).name == endpoint(remote, tls=tls).name


def test_a_wrong_url_is_refused_and_shown_no_further_than_its_scheme() -> None:
    """The error has the forms that are understood, and what is wrong; the rest may be a secret."""
    host_and_port = "it takes a host and a port, and nothing after them"
    unknown = "the scheme is none of these"
    unparsable = "it can't be parsed"
    settings = "settings are keyword arguments, credentials go to the server"
    path = "a UNIX socket needs an absolute path after three slashes"
    wrong = [
        ("", "this", unknown),
        ("s3cret", "this", unknown),
        ("s3cret:8999", "this", unknown),
        ("me:s3cret@h:1", "this", unknown),
        ("//s3cret:80", "this", unknown),
        ("tcp:/user:s3cret@h:1", "this", unknown),
        ("tcp:s3cret:80", "this", unknown),
        ("http://s3cret:80", "http://…", unknown),
        ("tcp://s3cret", "tcp://…", host_and_port),
        ("tcp://s3cret:", "tcp://…", host_and_port),
        ("tcp://:80", "tcp://…", host_and_port),
        ("tls://h:80/s3cret", "tls://…", host_and_port),
        ("tcp://h:s3cret", "tcp://…", unparsable),
        ("tcp://s3cret:65536", "tcp://…", unparsable),
        ("tcp://s3cret:-1", "tcp://…", unparsable),
        ("tcp://[s3cret", "tcp://…", unparsable),
        ("tcp://s3cr℀et:80", "tcp://…", unparsable),
        ("tcp://h:80?password=s3cret", "tcp://…", settings),
        ("tcp://h:80#s3cret", "tcp://…", settings),
        ("unix:///run/x?a=s3cret", "unix://…", settings),
        ("tcp://s3cret@localhost:80", "tcp://…", settings),
        ("tcp://me:s3cret@localhost:80", "tcp://…", settings),
        ("tls://:s3cret@localhost:80?a=1", "tls://…", settings),
        ("tcp://@localhost:80", "tcp://…", settings),
        ("unix://me:s3cret@/run/x", "unix://…", settings),
        ("tcp://me:s3\ncret@localhost:80", "tcp://…", settings),
        ("unix://", "unix://…", path),
        ("unix:///", "unix://…", path),
        ("unix:run/s3cret", "this", path),
        ("unix://run/s3cret", "unix://…", path),
    ]
    for url, shown, text in wrong:
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            ConnectionPool.from_url(url)
        assert str(caught.value) == f"{shown} {FORMS}{text}", url
        # A cause would be shown, too.
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_port_0_of_a_url_is_refused() -> None:
    """It can be listened on, not connected to."""
    with pytest.raises(ValueError, match="a port must be 1 to 65535, not 0"):
        ConnectionPool.from_url("tcp://localhost:0")


def test_a_url_is_a_string() -> None:
    """Anything else is a TypeError that doesn't show it."""
    wrong: list[Any] = [None, 5, b"tcp://me:s3cret@localhost:1", ("localhost", 1)]
    for url in wrong:
        with pytest.raises(TypeError, match="a URL must be a str, not ") as caught:
            ConnectionPool.from_url(url)
        assert "s3cret" not in str(caught.value)


def test_an_endpoint_is_a_value() -> None:
    """Equal ones are equal, also as the key of a dictionary."""
    one = endpoint(("localhost", 1), tls=True)
    assert {one: 1}[replace(one)] == 1
