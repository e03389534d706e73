"""Probes tell what can be known of an idle connection, without waiting or taking anything."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anyio.abc import SocketAttribute

from anyconnpool._streams.probes import (
    LivenessAttribute,
    OwnProbe,
    SocketProbe,
    plain_socket_probe,
    probe_for,
)
from anyconnpool._util.liveness import Liveness
from tests.cases import table

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Return both ends of a connection; the first is the one that is probed."""
    if request.param == "unix":
        near, far = socket.socketpair()
    else:
        near, far = tcp_pair()
    with near, far:
        yield near, far


def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        return near, listener.accept()[0]


def wait_for_news(near: socket.socket) -> None:
    """Wait until the kernel has brought what the far end did."""
    assert select.select([near], [], [], 10)[0]


@pytest.fixture(params=["poll", "select"])
def probe(
    request: pytest.FixtureRequest, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> SocketProbe:
    """Return a probe of the near end, as on Linux and as where there is no poll."""
    if request.param == "select":
        monkeypatch.delattr(select, "poll")
    return SocketProbe(pair[0])


def test_a_silent_connection_is_alive(probe: SocketProbe) -> None:
    """As long as nothing arrives, every look says so."""
    assert [probe(), probe(), probe.first()] == [Liveness.ALIVE] * 3


def test_unread_bytes_are_seen_and_left_where_they_are(probe: SocketProbe, pair: Pair) -> None:
    """A look takes nothing; once the bytes are read, the connection is alive."""
    near, far = pair
    far.send(b"abc")
    wait_for_news(near)
    assert [probe(), probe.first()] == [Liveness.UNREAD] * 2
    assert near.recv(10) == b"abc"
    assert probe() is Liveness.ALIVE


def test_a_peer_that_hung_up_is_noticed(pair: Pair) -> None:
    """A FIN is enough, even with bytes before it."""
    near, far = pair
    probe = SocketProbe(near)
    far.send(b"goodbye")
    far.close()
    wait_for_news(near)
    assert [probe(), probe.first()] == [Liveness.CLOSED] * 2


def test_a_peer_that_will_send_no_more_is_closed(pair: Pair) -> None:
    """After a half-close no reply can come, so that the connection is of no use."""
    near, far = pair
    probe = SocketProbe(near)
    far.shutdown(socket.SHUT_WR)
    wait_for_news(near)
    assert probe() is Liveness.CLOSED


def test_without_poll_a_hang_up_is_unfit_too(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Select can't tell a hang-up from data; the connection is refused in either case."""
    near, far = pair
    monkeypatch.delattr(select, "poll")
    probe = SocketProbe(near)
    far.close()
    wait_for_news(near)
    assert probe() is not Liveness.ALIVE


def test_a_reset_is_noticed() -> None:
    """A peer that was killed with bytes unread resets the connection."""
    near, far = tcp_pair()
    with near:
        probe = SocketProbe(near)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        wait_for_news(near)
        assert probe() is Liveness.CLOSED


def test_a_socket_that_was_closed_here_is_closed(probe: SocketProbe, pair: Pair) -> None:
    """Nothing is asked of a descriptor that is no longer the connection's."""
    pair[0].close()
    assert [probe(), probe.first()] == [Liveness.CLOSED] * 2


def test_the_descriptor_of_a_closed_socket_may_be_anothers(probe: SocketProbe, pair: Pair) -> None:
    """The number is used again by a socket that is alive, and the probe isn't fooled."""
    near, _ = pair
    number = near.fileno()
    stranger, its_peer = socket.socketpair()
    with stranger, its_peer:
        near.close()
        os.dup2(stranger.fileno(), number)
        try:
            assert [probe(), probe.first()] == [Liveness.CLOSED] * 2
        finally:
            os.close(number)


def test_a_closed_socket_cannot_be_given_a_probe() -> None:
    """The error comes when the probe is made, not when it is needed."""
    near, far = socket.socketpair()
    near.close()
    far.close()
    with pytest.raises(ValueError, match="negative"):
        SocketProbe(near)


class LoopsSocket:
    """Stands in for uvloop's socket object, which is not Python's."""

    def __init__(self, near: socket.socket) -> None:
        self.fileno = near.fileno


def test_only_a_loop_that_reads_ahead_can_hide_bytes() -> None:
    """With such a loop's sockets a full chunk may have siblings; with Python's none has."""
    near, far = socket.socketpair()
    with near, far:
        plain = SocketProbe(near)
        assert not plain.may_hide(10**6, 1, 10**6)
        ahead = SocketProbe(LoopsSocket(near))
        assert ahead() is Liveness.ALIVE
        assert not ahead.may_hide(10**6, 9, 255_999)
        assert ahead.may_hide(256_000, 1, 256_000)


@table("answer", list(Liveness))
def test_a_stream_that_is_no_socket_can_answer_for_itself(answer: Liveness) -> None:
    """Its typed attribute is asked at every look."""
    answers = [answer, Liveness.CLOSED, answer]
    probe = probe_for({LivenessAttribute.probe: lambda: lambda: answers.pop()})
    assert isinstance(probe, OwnProbe)
    assert [probe(), probe.first(), probe()] == [answer, Liveness.CLOSED, answer]
    assert not probe.may_hide(10**9, 1, 10**9)


def test_a_stream_that_says_nothing_of_itself_is_taken_to_be_alive() -> None:
    """What nobody can know doesn't keep a connection from being used again."""
    probe = probe_for({})
    assert [probe(), probe.first()] == [Liveness.ALIVE] * 2


class Attributed:
    """A stream of which nothing is asked but its attributes."""

    def __init__(self, attributes: dict[Any, Callable[[], Any]]) -> None:
        self.extra_attributes = attributes


def test_only_an_open_plain_socket_gets_the_probe_for_plain_sockets() -> None:
    """Other streams, and a socket that is gone already, have none; that is no error."""
    near, far = socket.socketpair()
    stream: Any = Attributed({SocketAttribute.raw_socket: lambda: near})
    no_socket: Any = Attributed({})
    with near, far:
        assert isinstance(plain_socket_probe(stream), SocketProbe)
        assert plain_socket_probe(no_socket) is None
    assert plain_socket_probe(stream) is None
