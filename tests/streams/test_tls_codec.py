"""The codec of TLS: what has come, what is half there, what is owed, and how it ends."""

from __future__ import annotations

import gc
import ssl
import weakref
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from anyio.streams.tls import TLSAttribute

from anyconnpool._streams.tls import (
    MAX_OWED,
    MAX_PLAINTEXT,
    TLSCodec,
    client_codec,
    encode_hostname,
)
from tests.certificates import client_context

from .tls_peers import VERSIONS, KeyUpdates, Server, begin, establish, server_context

HTTP_ANSWER = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


def make_codec(hostname: str = "localhost", **options: bool) -> TLSCodec:
    return TLSCodec(client_context(), hostname, **options)


def random_cuts(random: Random, length: int, how_many: int) -> list[tuple[int, int]]:
    """Cut a length into pieces, the smallest of one byte, with many cuts close together."""
    places = {0, length}
    while len(places) < min(how_many, length):
        place = random.randrange(length)
        places.update(range(place, min(length, place + random.choice((1, 1, 2, 6)))))
    return list(pairwise(sorted(places)))


def dialog(random: Random, server: Server, first: bytes) -> list[tuple[bytes, bytes]]:
    """Make what a server says, as records with their plaintext, after what it says at first."""
    said = [(record, b"") for record in split_records(first)]
    for _ in range(random.randrange(1, 8)):
        size = random.choice((1, 2, random.randrange(1, 300), MAX_PLAINTEXT))
        data = random.randbytes(size)
        said.append((server.say(data), data))
    if random.random() < 0.5:
        said.append((server.goodbye(), b""))
    return said


def split_records(data: bytes) -> list[bytes]:
    records: list[bytes] = []
    while data:
        length = 5 + int.from_bytes(data[3:5], "big")
        records.append(data[:length])
        data = data[length:]
    return records


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_known_at_every_cut_whether_a_record_is_half_there(
    version: str, seed: int, long_form: bool
) -> None:
    """Wherever the bytes are cut, the plaintext of whole records is there, and half ones known."""
    cuts = 0
    for number in range(2_000 if long_form else 60):
        random = Random(f"{seed} {version} {number}")
        codec, server = make_codec(), Server(server_context(version))
        answer = server.advance(begin(codec))
        while not server.ready:
            for start, end in random_cuts(random, len(answer), 20):
                assert codec.receive(answer[start:end]) == b""
                cuts += 1
            answer = server.advance(codec.take())
        said = dialog(random, server, answer)
        stream = b"".join(record for record, _ in said)
        ends, plaintext, ready = {0: b""}, b"", 0
        for record, data in said:
            ready += len(record)
            plaintext += data
            ends[ready] = plaintext
        received = b""
        for start, end in random_cuts(random, len(stream), 60):
            received += codec.receive(memoryview(stream)[start:end])
            assert codec.within_record == (end not in ends)
            assert received == ends[max(place for place in ends if place <= end)]
            cuts += 1
        assert codec.error is None
        assert codec.established
    assert cuts > (100_000 if long_form else 3_000)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_byte_of_a_record_makes_it_half_there_until_the_last(version: str) -> None:
    """From the first byte of the header to the last but one of the body, a record is half there."""
    codec, server = make_codec(), Server(server_context(version))
    codec.receive(establish(codec, server))
    record = server.say(b"hello")
    for place in range(len(record) - 1):
        assert codec.receive(record[place : place + 1]) == b""
        assert codec.within_record
    assert codec.receive(record[-1:]) == b"hello"
    assert not codec.within_record


def test_tickets_are_digested() -> None:
    """The tickets of TLS 1.3 are not plaintext, are owed no answer, and leave nothing half."""
    codec, server = make_codec(), Server()
    tickets = establish(codec, server)
    assert len(split_records(tickets)) == 2
    assert codec.receive(tickets) == b""
    assert (codec.within_record, codec.owed, codec.closed, codec.error) == (False, 0, False, None)


def test_what_is_encrypted_is_what_the_peer_hears() -> None:
    """Any size of data reaches the peer, of records that are as large as records can be."""
    codec, server = make_codec(), Server()
    codec.receive(establish(codec, server))
    for size in (1, MAX_PLAINTEXT, MAX_PLAINTEXT + 1, 1 << 20):
        data = Random(size).randbytes(size)
        records = codec.encrypt(memoryview(data))
        assert len(split_records(records)) == -(-size // MAX_PLAINTEXT)
        assert server.hear(records) == data


def test_a_server_that_answers_plain_http_is_an_ssl_error() -> None:
    """A peer that speaks no TLS fails the handshake at once, and later bytes change nothing."""
    codec = make_codec()
    codec.start()
    assert codec.receive(HTTP_ANSWER) == b""
    error = codec.error
    assert isinstance(error, ssl.SSLError)
    assert codec.receive(HTTP_ANSWER * 1_000) == b""
    assert codec.error is error
    assert not codec.established


def test_a_peer_that_speaks_first_may_spoil_the_handshake() -> None:
    """What has failed before it begins stays failed, for the first reason."""
    codec = make_codec()
    codec.receive(HTTP_ANSWER)
    error = codec.error
    assert isinstance(error, ssl.SSLError)
    codec.start()
    assert codec.error is error
    assert not codec.established


def test_garbage_is_an_error_before_it_fills_the_memory(seed: int) -> None:
    """Whatever bytes come instead of a handshake, an error is there before 64 KiB are."""
    random = Random(seed)
    # Fragments that look like TLS, or like SSL 2, at first.
    starts = [b"", b"\x16\x03\x01", b"\x16\x03\x03\x3f\xff", b"\x80\x2e\x01\x03\x01", b"\0" * 9]
    for start in starts * 10:
        codec = make_codec()
        codec.start()
        garbage = start + random.randbytes(65_536)
        for place, end in random_cuts(random, len(garbage), 10):
            assert codec.receive(garbage[place:end]) == b""
        assert isinstance(codec.error, ssl.SSLError)


@pytest.mark.parametrize("version", VERSIONS)
def test_plaintext_before_an_error_is_delivered(version: str) -> None:
    """A broken record after a good one in the same bytes takes nothing of the good one away."""
    codec, server = make_codec(), Server(server_context(version))
    codec.receive(establish(codec, server))
    good, bad = server.say(b"good"), bytearray(server.say(b"bad"))
    bad[-1] ^= 1
    assert codec.receive(good + bad) == b"good"
    assert isinstance(codec.error, ssl.SSLError)
    # The peer is told: an alert.
    assert codec.owed
    assert codec.receive(server.say(b"more")) == b""


def test_a_wrong_certificate_is_its_own_error_and_the_server_hears_of_it() -> None:
    """A host name that the certificate doesn't have is an SSLCertVerificationError, with alert."""
    codec, server = make_codec("example.org"), Server()
    codec.receive(server.advance(begin(codec)))
    assert isinstance(codec.error, ssl.SSLCertVerificationError)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        server.hear(codec.take())


@pytest.mark.parametrize("hostname", ["localhost", "127.0.0.1", "::1", "faß.de"])
def test_names_and_addresses_are_checked(hostname: str) -> None:
    """Host names, also international ones, and IP addresses of both kinds are in certificates."""
    codec, server = make_codec(hostname), Server()
    establish(codec, server)
    assert codec.established


@pytest.mark.parametrize("version", VERSIONS)
def test_close_notify_is_the_end(version: str) -> None:
    """After the peer's close_notify nothing counts any more, and the end of bytes is in order."""
    codec, server = make_codec(), Server(server_context(version))
    codec.receive(establish(codec, server))
    assert codec.receive(server.say(b"last") + server.goodbye()) == b"last"
    assert codec.closed
    assert codec.receive(b"anything") == b""
    codec.receive_eof()
    assert codec.error is None
    assert not codec.within_record


@pytest.mark.parametrize("version", VERSIONS)
def test_closing_first_waits_for_the_peer(version: str) -> None:
    """Data that comes after the own close_notify is still decrypted, up to the peer's."""
    codec, server = make_codec(), Server(server_context(version))
    codec.receive(establish(codec, server))
    late = server.say(b"late")
    assert server.hear(codec.encrypt(b"bye") + codec.close()) == b"bye"
    assert codec.receive(late) == b"late"
    assert not codec.closed
    assert codec.receive(server.goodbye()) == b""
    assert codec.closed
    assert codec.error is None


@pytest.mark.parametrize("ignores", [False, True])
def test_a_cut_is_an_error_if_it_is_to_be(ignores: bool) -> None:
    """An end without a close_notify is an SSLEOFError, whatever OpenSSL is told to think of it."""
    context = client_context()
    flag = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    before = context.options
    try:
        context.options = before | flag if ignores else before & ~flag
        codec, server = make_codec(), Server()
        codec.receive(establish(codec, server))
        codec.receive_eof()
        assert isinstance(codec.error, ssl.SSLEOFError)
        assert codec.error.reason == "UNEXPECTED_EOF_WHILE_READING"
        tolerant = make_codec(standard_compatible=False)
        tolerant.receive(establish(tolerant, Server()))
        tolerant.receive_eof()
        assert tolerant.error is None
    finally:
        context.options = before


def test_an_error_keeps_nothing_alive() -> None:
    """A codec that has failed is gone when nobody needs it, without the garbage collector."""
    codec = make_codec()
    codec.start()
    codec.receive(HTTP_ANSWER)
    assert codec.error is not None
    gone = weakref.ref(codec.ssl_object)
    gc.disable()
    try:
        del codec
        assert gone() is None
    finally:
        gc.enable()


def test_a_cut_does_not_hide_an_earlier_error() -> None:
    """The first error stays the cause."""
    codec = make_codec()
    codec.start()
    codec.receive(HTTP_ANSWER)
    error = codec.error
    codec.receive_eof()
    assert codec.error is error


def test_closing_before_the_handshake_says_nothing() -> None:
    """Where there is no connection yet, there is no goodbye."""
    codec = make_codec()
    assert begin(codec)
    assert codec.close() == b""


def keyed_server(tmp_path: Path) -> tuple[Server, Path]:
    context = server_context()
    context.keylog_filename = str(tmp_path / "keys")
    return Server(context), tmp_path / "keys"


def test_key_updates_are_answered(tmp_path: Path) -> None:
    """A key update is no plaintext; it is answered before the next data, which is understood."""
    server, keylog = keyed_server(tmp_path)
    codec = make_codec()
    codec.receive(establish(codec, server))
    updates = KeyUpdates(keylog, sent=2)
    for _ in range(3):
        record = updates.record()
        assert codec.receive(record[:7]) == b""
        assert codec.within_record
        assert codec.receive(record[7:]) == b""
        assert not codec.within_record
    assert codec.owed
    records = codec.encrypt(b"hello")
    assert len(split_records(records)) == 4
    assert server.hear(records) == b"hello"


def test_a_peer_that_asks_for_answers_and_reads_none_is_refused(tmp_path: Path) -> None:
    """What is owed is bounded: a flood of key updates that nobody takes the answers of ends."""
    server, keylog = keyed_server(tmp_path)
    codec = make_codec()
    codec.receive(establish(codec, server))
    updates = KeyUpdates(keylog, sent=2)
    while codec.error is None:
        codec.receive(updates.record())
        assert codec.owed < MAX_OWED + 100
    assert isinstance(codec.error, ssl.SSLError)
    assert codec.owed > MAX_OWED


def test_a_flood_of_key_updates_is_answered_as_long_as_the_answers_are_taken(
    tmp_path: Path,
) -> None:
    """A peer that reads what it asks for may ask on."""
    server, keylog = keyed_server(tmp_path)
    codec = make_codec()
    codec.receive(establish(codec, server))
    updates = KeyUpdates(keylog, sent=2)
    for _ in range(1_000):
        codec.receive(updates.record())
        assert server.hear(codec.take()) == b""
    assert codec.error is None


def test_attributes_are_those_of_anyio() -> None:
    """Every attribute of AnyIO's TLSStream is there, and says what the SSL object says."""
    codec, server = make_codec(), Server()
    establish(codec, server)
    attributes = {name: read() for name, read in codec.extra_attributes.items()}
    expected = {value for name, value in vars(TLSAttribute).items() if not name.startswith("_")}
    assert set(attributes) == expected
    assert attributes[TLSAttribute.tls_version] == "TLSv1.3"
    assert attributes[TLSAttribute.server_side] is False
    assert attributes[TLSAttribute.shared_ciphers] is None
    assert attributes[TLSAttribute.standard_compatible] is True
    assert attributes[TLSAttribute.ssl_object] is codec.ssl_object
    assert isinstance(attributes[TLSAttribute.peer_certificate], dict)
    assert isinstance(attributes[TLSAttribute.peer_certificate_binary], bytes)


async def test_a_context_that_checks_names_needs_one() -> None:
    """Before anything is opened, a missing host name is a ValueError."""
    with pytest.raises(ValueError, match="give the name to check"):
        await client_codec(client_context(), None)


async def test_a_context_of_another_kind_is_used_in_a_thread() -> None:
    """A context whose wrap_bio() may block, as truststore's, doesn't hold up the event loop."""

    class Context(ssl.SSLContext):
        pass

    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    codec = await client_codec(context, "localhost")
    assert codec.ssl_object.context is context


def test_host_names_are_encoded_by_idna_2008() -> None:
    """What is ASCII stays, the rest is not Python's older IDNA."""
    assert encode_hostname("example.org") == b"example.org"
    assert encode_hostname("faß.de") == b"xn--fa-hia.de"
