"""Probes tell what can be known of an idle connection, without waiting or taking anything."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from anyconnpool._streams.probes import (
    LivenessAttribute,
    OwnProbe,
    SocketProbe,
    TLSProbe,
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


AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("localhost")
VERSIONS = {"TLS 1.2": ssl.TLSVersion.TLSv1_2, "TLS 1.3": ssl.TLSVersion.TLSv1_3}


class Session:
    """A TLS session in memory; what the server sends waits in a real socket, as with a stream.

    :meth:`receive` does what the stream above the socket does when somebody receives.
    """

    def __init__(self, version: ssl.TLSVersion) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = version
        AUTHORITY.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        CERTIFICATE.configure_cert(server_context)  # pyright: ignore[reportUnknownMemberType]
        self._incoming, self._from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._to_server, self._to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(
            self._incoming, self._from_client, server_hostname="localhost"
        )
        self.server = server_context.wrap_bio(self._to_server, self._to_client, server_side=True)
        self.probe = TLSProbe(SocketProbe(self.near), self.client)
        self._shake_hands()

    def _shake_hands(self) -> None:
        client_done = server_done = False
        while not (client_done and server_done):
            client_done = client_done or self._advance(self.client)
            self._to_server.write(self._from_client.read())
            server_done = server_done or self._advance(self.server)
            self.flush()
            if not client_done:
                self.receive()

    def _advance(self, side: ssl.SSLObject) -> bool:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def flush(self) -> None:
        """Let the socket carry what the server has written."""
        data = self._to_client.read()
        if data:
            self.far.sendall(data)
            assert select.select([self.near], [], [], 10)[0]

    def send(self, *records: bytes) -> None:
        for record in records:
            self.server.write(record)
        self.flush()

    def receive(self) -> None:
        """Move what the socket has to the SSL object, undecrypted."""
        while select.select([self.near], [], [], 0)[0]:
            self._incoming.write(self.near.recv(65_536))

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture(params=list(VERSIONS))
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """Return a session whose tickets, if any, have been received."""
    session = Session(VERSIONS[request.param])
    session.receive()
    yield session
    session.close()


@pytest.fixture
def fresh() -> Iterator[Session]:
    """Return a TLS 1.3 session whose tickets still wait in the socket."""
    session = Session(ssl.TLSVersion.TLSv1_3)
    yield session
    session.close()


def test_waiting_session_tickets_are_no_reason_to_close(fresh: Session) -> None:
    """From outside they look like data, so that only receiving can tell."""
    assert [fresh.probe.first(), fresh.probe()] == [Liveness.UNSURE] * 2
    fresh.receive()
    assert [fresh.probe.first(), fresh.probe()] == [Liveness.ALIVE] * 2


def test_data_among_the_tickets_is_found_by_receiving(fresh: Session) -> None:
    """What looked like tickets was a greeting as well."""
    fresh.send(b"hello")
    assert fresh.probe.first() is Liveness.UNSURE
    fresh.receive()
    assert fresh.probe() is Liveness.UNREAD


def test_a_silent_session_is_alive(session: Session) -> None:
    """With everything received and nothing left, the connection is clean."""
    assert [session.probe(), session.probe.first(), session.probe()] == [Liveness.ALIVE] * 3


def test_bytes_in_the_socket_need_a_closer_look(session: Session) -> None:
    """An encrypted record may be a ticket, a key update or data."""
    session.send(b"reply")
    assert [session.probe(), session.probe.first()] == [Liveness.UNSURE] * 2


def test_a_record_that_was_received_and_not_decrypted_is_unread(session: Session) -> None:
    """The socket is empty; the reply waits in the SSL object."""
    session.send(b"reply")
    session.receive()
    assert session.probe() is Liveness.UNREAD


def test_the_rest_of_a_decrypted_record_is_unread(session: Session) -> None:
    """A reader took a part of the reply; the rest belongs to nobody else."""
    session.send(b"reply")
    session.receive()
    assert session.client.read(4) == b"repl"
    assert session.probe() is Liveness.UNREAD


def test_a_further_record_is_unread(session: Session) -> None:
    """One record was read whole; the one that came with it was not."""
    session.send(b"one", b"two")
    session.receive()
    assert session.client.read(100) == b"one"
    assert session.probe() is Liveness.UNREAD


def test_a_record_that_was_read_whole_leaves_the_session_clean(session: Session) -> None:
    """An ordinary exchange doesn't spoil the connection."""
    session.send(b"reply")
    session.receive()
    assert session.client.read(100) == b"reply"
    assert session.probe() is Liveness.ALIVE


def test_a_first_look_takes_no_plaintext(session: Session) -> None:
    """A greeting that was received already stays whole for the first borrower."""
    session.send(b"hello")
    session.receive()
    assert session.probe.first() is Liveness.ALIVE
    assert session.client.read(100) == b"hello"


def test_a_closing_alert_that_was_received_closes(session: Session) -> None:
    """The peer said goodbye by TLS, though its socket is still open."""
    with pytest.raises(ssl.SSLWantReadError):
        session.server.unwrap()
    session.flush()
    assert session.probe() is Liveness.UNSURE
    session.receive()
    assert session.probe() is Liveness.CLOSED


def test_a_broken_record_closes(session: Session) -> None:
    """What cannot be decrypted makes a session useless."""
    session.far.sendall(b"\x17\x03\x03\x00\x05nonsense")
    session.receive()
    assert session.probe() is Liveness.CLOSED


def test_a_peer_that_hung_up_below_is_noticed(session: Session) -> None:
    """The socket's end is the session's end, whatever is left in it."""
    session.send(b"goodbye")
    session.far.close()
    assert [session.probe(), session.probe.first()] == [Liveness.CLOSED] * 2


def test_under_a_socket_that_was_closed_here_tls_is_closed(session: Session) -> None:
    """It is enough to look at the socket."""
    session.near.close()
    assert [session.probe(), session.probe.first()] == [Liveness.CLOSED] * 2


def test_a_stream_below_that_reads_ahead_can_hide_records(session: Session) -> None:
    """TLS takes 64 KiB at a time, the overhead of the records and an incomplete one included."""
    assert not session.probe.may_hide(10**6, 1, 10**6), "Python's sockets keep nothing back"
    socket_probe = SocketProbe(session.near)
    socket_probe.keeps_surplus = True
    probe = TLSProbe(socket_probe, session.client)
    assert not probe.may_hide(5, 1, 5)
    assert not probe.may_hide(40_000, 3, 10_000)
    assert probe.may_hide(49_000, 3, 16_000)
    assert probe.may_hide(5000, 500, 10)


def test_the_probe_follows_from_the_streams_attributes(session: Session) -> None:
    """A socket alone gets the plain probe, with an SSL object the one for TLS."""
    attributes: dict[Any, Callable[[], Any]] = {SocketAttribute.raw_socket: lambda: session.near}
    assert isinstance(probe_for(attributes), SocketProbe)
    attributes[TLSAttribute.ssl_object] = lambda: session.client
    assert isinstance(probe_for(attributes), TLSProbe)
