"""The synchronous part of TLS: bytes of the network in, plaintext out, and the other way round.

It decides what has come and what is owed, and knows nothing of sockets, event loops or pools.

Rules:

- **Everything is decrypted as it arrives.** So a session ticket of TLS 1.3, a key update or an
  alert is digested at once, and only bytes that somebody has to receive count as unread.
- **Records are counted.** OpenSSL moves the beginning of a record out of the
  :class:`~ssl.MemoryBIO` and mentions it nowhere: neither ``MemoryBIO.pending`` nor
  ``SSLObject.pending()`` tells half a record from nothing. Each record begins with five bytes, the
  last two of which are its length (RFC 8446, section 5.1), so a counter can tell.
- **What OpenSSL wants to say by itself** (the handshake, answers to key updates, alerts) collects
  in the codec until the stream takes it. A peer that asks for answers and doesn't read them is
  refused once :data:`MAX_OWED` bytes have collected.
- **An error is kept, not raised**, because plaintext that came before it is still to be delivered.

What doesn't work: sending while a peer of TLS 1.2 renegotiates. :meth:`TLSCodec.encrypt` raises
then, and the connection is of no more use. TLS 1.3 has no renegotiation.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, NoReturn

from anyio import to_thread
from anyio.streams.tls import TLSAttribute

#: How much a record's plaintext can be, in bytes (RFC 8446, section 5.1).
MAX_PLAINTEXT: Final = 16_384
#: How many bytes of answers may collect while the peer doesn't read: some 600 key updates.
MAX_OWED: Final = 16_384
#: How many bytes a stream encrypts at once: seven records. They take less than the 128 KiB above
#: which glibc maps and unmaps memory each time; fewer records would take more turns of the loop.
SLICE_SIZE: Final = 7 * MAX_PLAINTEXT
#: how often a look reads at most; a peer that sends tickets without an end is unfit, too
MAX_READS: Final = 16
_HEADER: Final = 5


class TLSCodec:
    """Turn records into plaintext and plaintext into records, as a client, without any I/O.

    :param context: the settings of TLS
    :param hostname: the name or IP address to check the peer's certificate for; None if the
        context doesn't check it
    :param standard_compatible: whether an end without a ``close_notify`` is an error
    :raises ValueError: if the context checks host names and none is given
    """

    __slots__ = (
        "_header",
        "_incoming",
        "_missing",
        "_outgoing",
        "closed",
        "error",
        "established",
        "ssl_object",
        "standard_compatible",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        hostname: str | None,
        *,
        standard_compatible: bool = True,
    ) -> None:
        if context.check_hostname and hostname is None:
            # An SSLObject, unlike an SSLSocket, would check no name and say nothing.
            raise ValueError(
                "the TLS context checks host names: give the name to check, as tls_hostname"
            )
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl_object = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_hostname=None if hostname is None else encode_hostname(hostname),
        )
        self.standard_compatible = standard_compatible
        #: whether the handshake is done
        self.established = False
        #: whether the peer has said that nothing more comes
        self.closed = False
        #: what ended the connection, if it didn't end well
        self.error: OSError | None = None
        self._header = b""  # the beginning of a record's header, fewer than five bytes
        self._missing = 0  # how many bytes the last record lacks

    @property
    def within_record(self) -> bool:
        """Whether a part of a record has come and the rest has not."""
        return bool(self._missing or self._header)

    @property
    def owed(self) -> int:
        """How many bytes wait to be taken by :meth:`take` or :meth:`encrypt`."""
        return self._outgoing.pending

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of :class:`~anyio.streams.tls.TLSAttribute`, as AnyIO's streams say them.

        Those of the socket are not among them.
        """
        tls = self.ssl_object
        attribute: Any = TLSAttribute  # whose types are those of the values, not of the keys
        return {
            attribute.alpn_protocol: tls.selected_alpn_protocol,
            attribute.channel_binding_tls_unique: tls.get_channel_binding,
            attribute.cipher: tls.cipher,
            attribute.peer_certificate: lambda: tls.getpeercert(False),
            attribute.peer_certificate_binary: lambda: tls.getpeercert(True),
            attribute.server_side: lambda: False,
            attribute.shared_ciphers: lambda: None,
            attribute.ssl_object: lambda: tls,
            attribute.standard_compatible: lambda: self.standard_compatible,
            attribute.tls_version: tls.version,
        }

    def take(self) -> bytes:
        """Return what is to be sent: the handshake, answers and alerts."""
        return self._outgoing.read()

    def start(self) -> None:
        """Begin the handshake: afterwards a client's first message is owed."""
        # A peer that speaks first may have begun it, or spoilt it.
        if not self.established and self.error is None:
            self._advance()

    def receive(self, data: bytes | bytearray | memoryview) -> bytes:
        """Take what has arrived and decrypt it.

        Afterwards :attr:`established`, :attr:`closed` and :attr:`error` are up to date, and
        :meth:`take` returns the answers. What arrives after the end or an error is dropped.

        :param data: bytes of the network, cut anywhere
        :return: all plaintext that has become readable
        """
        if self.closed or self.error is not None:
            return b""
        if self._outgoing.pending > MAX_OWED:
            text = "the peer asks for answers and doesn't read them"
            self.error = _ssl_error(ssl.SSLError, ssl.SSL_ERROR_SSL, "TOO_MANY_KEY_UPDATES", text)
            return b""
        self._count(data)
        self._incoming.write(data)
        if not self.established and not self._advance():
            return b""
        return self._decrypt()

    def receive_eof(self) -> None:
        """Take note that no more bytes come: an error, unless the peer has said it before.

        It is decided here, since with ``OP_IGNORE_UNEXPECTED_EOF``, which some versions of Python
        set by default, OpenSSL takes a cut for an end.
        """
        if self.standard_compatible and not self.closed and self.error is None:
            text = "the connection ended without a close_notify"
            reason = "UNEXPECTED_EOF_WHILE_READING"
            self.error = _ssl_error(ssl.SSLEOFError, ssl.SSL_ERROR_EOF, reason, text)

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """Make records of data. They are numbered: from now on, the peer has to get them.

        :param data: the plaintext, not empty
        :return: what is to be sent: what was owed before, and then the data's records
        :raises ssl.SSLError: if the connection has failed or is being renegotiated
        """
        written = self.ssl_object.write(data)
        while written < len(data):
            written += self.ssl_object.write(memoryview(data)[written:])
        return self._outgoing.read()

    def close(self) -> bytes:
        """Say that nothing more will be sent.

        :return: what is to be sent: what was owed before, and then the ``close_notify``
        """
        if self.established and self.error is None:
            # Mostly SSLWantReadError: the peer's own close_notify has not come yet.
            with suppress(OSError):
                self.ssl_object.unwrap()
        return self._outgoing.read()

    def _count(self, data: bytes | bytearray | memoryview) -> None:
        """Step from header to header, to know where in a record the data ends."""
        end = len(data)
        position = self._missing
        if position > end:
            self._missing = position - end
            return
        if self._header:
            data = self._header + bytes(data)
            end = len(data)
        while position + _HEADER <= end:
            position += _HEADER + (data[position + 3] << 8) + data[position + 4]
        if position < end:
            self._header = bytes(data[position:])
            self._missing = 0
        else:
            self._header = b""
            self._missing = position - end

    def _fail(self, error: OSError) -> None:
        # Without the traceback, which leads here: together they would be a cycle.
        self.error = error.with_traceback(None)

    def _advance(self) -> bool:
        """Go on with the handshake, and tell whether it is done."""
        try:
            self.ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except OSError as error:
            self._fail(error)
            return False
        self.established = True
        return True

    def _decrypt(self) -> bytes:
        """Read all plaintext. A read of a whole record's size leaves nothing inside OpenSSL."""
        chunks: list[bytes] = []
        incoming, read = self._incoming, self.ssl_object.read
        try:
            while incoming.pending:
                chunk = read(MAX_PLAINTEXT)
                if not chunk:
                    self.closed = True
                    break
                chunks.append(chunk)
        except ssl.SSLWantReadError:
            # A ticket, a key update, or the beginning of a record.
            pass
        except ssl.SSLZeroReturnError:
            # The same as an empty chunk, if close_notify was sent before.
            self.closed = True
        except OSError as error:
            self._fail(error)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def client_codec(
    context: ssl.SSLContext, hostname: str | None, *, standard_compatible: bool = True
) -> TLSCodec:
    """Make the codec of a client.

    :param context: the settings of TLS
    :param hostname: the name or IP address to check the server's certificate for; None if the
        context doesn't check it
    :param standard_compatible: whether an end without a ``close_notify`` is an error
    :raises ValueError: if the context checks host names and none is given
    """
    if type(context) is ssl.SSLContext:
        return TLSCodec(context, hostname, standard_compatible=standard_compatible)
    # Contexts of others, truststore's for one, may read files in wrap_bio(). Cancelled here,
    # there is nothing to close.
    return await to_thread.run_sync(
        lambda: TLSCodec(context, hostname, standard_compatible=standard_compatible)
    )


def encode_hostname(hostname: str) -> bytes:
    """Encode a host name by IDNA 2008, as AnyIO does; Python itself still has IDNA 2003.

    :param hostname: a host name or an IP address
    """
    try:
        return hostname.encode("ascii")
    except UnicodeEncodeError:
        import idna

        return idna.encode(hostname, uts46=True)


def raise_handshake_error(codec: TLSCodec) -> None:
    """Raise what has failed in TLS itself; a cut is told by the stream, as after the handshake.

    :param codec: a codec whose handshake is not done
    """
    error = codec.error
    if error is not None and not isinstance(error, ssl.SSLEOFError):
        try:
            raise error
        finally:
            # Its traceback leads to this function and to the codec.
            del error
            codec.error = None


def record_cut() -> ssl.SSLError:
    """Return the error of a stream whose ``send`` was cancelled after records were made."""
    text = "a cancelled send has left the peer without records"
    return _ssl_error(ssl.SSLError, ssl.SSL_ERROR_SSL, "RECORD_CUT", text)


def refuse_send_eof(codec: TLSCodec) -> NoReturn:
    """Raise what AnyIO raises: before TLS 1.3 there is no half-close, and AnyIO has none yet.

    :param codec: the codec of the stream
    """
    version = codec.ssl_object.version()
    if version != "TLSv1.3":
        text = f"send_eof() requires at least TLSv1.3; current session uses {version}"
        raise NotImplementedError(text)
    raise NotImplementedError("send_eof() has not yet been implemented for TLS streams")


def _ssl_error(kind: type[ssl.SSLError], code: int, reason: str, text: str) -> ssl.SSLError:
    error = kind(code, f"[SSL: {reason}] {text}")
    error.library, error.reason = "SSL", reason
    return error
