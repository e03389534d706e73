"""The TLS probe tells session tickets, left-over plaintext and closing alerts apart."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from anyconnpool._streams.probes import SocketProbe, TLSProbe, probe_for
from anyconnpool._util.liveness import Liveness

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


def test_a_socket_that_was_closed_here_is_closed(session: Session) -> None:
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
