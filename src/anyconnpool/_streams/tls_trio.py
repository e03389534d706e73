"""TLS on a socket for trio.

A receive decrypts all that one read has brought and keeps what was not asked for. A look reads and
decrypts, too, since that is the only way to tell a session ticket from data.

What doesn't work: a cancelled ``send`` has used up the numbers of records that the peer will not
get, so the stream is broken afterwards.

Only to be imported where trio runs.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import trio
from anyio import BrokenResourceError

from anyconnpool._exceptions import StreamBusy
from anyconnpool._streams.socket_stream import broken_error
from anyconnpool._streams.tls import (
    MAX_READS,
    SLICE_SIZE,
    TLSCodec,
    raise_handshake_error,
    record_cut,
    refuse_send_eof,
)
from anyconnpool._streams.trio_socket import TrioSocketStream
from anyconnpool._util.liveness import ALIVE, CLOSED, UNREAD, Liveness

#: how many bytes to read at once
READ_SIZE: Final = 65_536


class TrioTLSStream(TrioSocketStream):
    """A connected socket as a stream of TLS. :meth:`start` has to be called before anything else.

    :param sock: a connected, non-blocking socket, TCP or UNIX, which from now on is the stream's
    :param codec: the settings of TLS, which have not been used yet
    """

    def __init__(self, sock: socket.socket, codec: TLSCodec) -> None:
        super().__init__(sock)
        self._codec = codec
        # What was decrypted and nobody has received yet; a view, or small receives would copy it.
        self._plaintext: bytes | memoryview = b""
        # Answers that the kernel didn't take.
        self._unsent = b""
        # Why nothing can be sent any more, and whether sending itself has broken the stream.
        self._send_error: BaseException | None = None
        self._broken = False

    async def start(self) -> None:
        """Shake hands with the peer. If this fails or is cancelled, the socket is closed.

        :raises ssl.SSLError: if the handshake fails, of which :exc:`ssl.SSLCertVerificationError`
            is the case that the peer's certificate is not what it should be
        :raises BrokenResourceError: if the connection is lost, or cut while ``standard_compatible``
        :raises EndOfStream: if the peer hangs up, unless ``standard_compatible``
        """
        try:
            await self._shake_hands()
        except BaseException:
            # Cancelled here, nobody gets the stream.
            self._close_now()
            # It may be the one that is on its way, whose traceback leads here.
            self._error = self._send_error = None
            raise

    async def _shake_hands(self) -> None:
        codec = self._codec
        codec.start()
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            while not self._pay():
                await trio.lowlevel.wait_writable(self._sock.fileno())
            if codec.established:
                return
            raise_handshake_error(codec)
            self._raise_if_ended()
            if not self._read():
                await trio.lowlevel.wait_readable(self._sock.fileno())

    @property
    def has_part_only(self) -> bool:
        """Whether all that is unread is a part of a record."""
        return self._codec.within_record and not self._plaintext

    def look(self) -> Liveness:
        """Say whether it is open and has nothing to read: exactly, and without waiting.

        What has come is decrypted and kept, unless a task waits in ``receive``, which does so
        itself.
        """
        for _ in range(MAX_READS):
            known = super().look()
            if known is CLOSED:
                return CLOSED
            if self._plaintext:
                return UNREAD
            if known is ALIVE:
                return UNREAD if self._codec.within_record else ALIVE
            if self._receiving:
                break
            self._read()
        return UNREAD

    def interrupt(self, error: Exception) -> None:
        """Make the receive and the send under way, and every later one, raise an error."""
        super().interrupt(error)
        self._plaintext = b""

    def _try_to_receive(self, max_bytes: int) -> bytes | None:
        if not self._plaintext and not self._receives_no_more:
            self._read()
        plaintext = self._plaintext
        if not plaintext:
            self._raise_if_ended()
            return None
        if len(plaintext) <= max_bytes:
            self._plaintext = b""
            return bytes(plaintext)
        self._plaintext = memoryview(plaintext)[max_bytes:]
        return bytes(plaintext[:max_bytes])

    def _read(self) -> bool:
        """Decrypt what one read brings, and answer; tell whether there was something. Never raises.

        Afterwards it is known how the stream has ended, if it has.
        """
        codec = self._codec
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return False
        except OSError as error:
            # Without the traceback, which leads here: together they would be a cycle.
            self._error = self._error or error.with_traceback(None)
            self._receives_no_more = True
            return True
        if data:
            plaintext = codec.receive(data)
            if not self._closed:
                self._plaintext = plaintext
            if codec.owed and not self._sending:
                self._pay()
        else:
            codec.receive_eof()
        if not data or codec.closed:
            self._eof = self._receives_no_more = True
        if codec.error is not None:
            self._error = self._error or codec.error
            self._receives_no_more = True
            if data:
                # After a cut, as after an end, the other direction may still be open.
                self._send_error = codec.error
        return True

    def _pay(self) -> bool:
        """Send the answers that are owed, and tell whether the kernel has taken them all."""
        while self._unsent or self._codec.owed:
            self._unsent = self._unsent or self._codec.take()
            try:
                sent = self._sock.send(self._unsent)
            except BlockingIOError:
                return False
            except OSError:
                # The connection is lost, as the next receive will say.
                self._unsent = b""
                return True
            self._unsent = self._unsent[sent:]
        return True

    async def send(self, item: bytes) -> None:
        """Encrypt bytes and send them, and wait until the kernel has all of them.

        Much is encrypted slice by slice, each when the kernel has taken the one before. Cancelled
        while it waits, it breaks the stream: the peer could not decrypt what would come next.

        :param item: the bytes
        :raises BrokenResourceError: if the connection is lost or TLS has failed; the cause says why
        :raises ClosedResourceError: if this end has closed it
        :raises BusyResourceError: if another task is in ``send``
        """
        if self._sending:
            raise StreamBusy("writing to")
        self._sending = True
        try:
            data = item if len(item) <= SLICE_SIZE else memoryview(item)
            for start in range(0, len(item) or 1, SLICE_SIZE):
                await self._checkpoint()
                rest = self._try_to_send_slice(data[start : start + SLICE_SIZE])
                if rest:
                    await self._send_rest(rest)
        finally:
            self._sending = False
        if self._codec.owed:
            self._pay()

    def _try_to_send_slice(self, data: bytes | memoryview) -> bytes | memoryview:
        """Encrypt a slice, and return what the kernel has not taken of its records."""
        self._raise_if_unsendable()
        if not data:
            return b""
        try:
            records = self._unsent + self._codec.encrypt(data)
        except ssl.SSLError as error:
            self._break(error)
            raise broken_error(error) from error
        self._unsent = b""
        try:
            sent = self._sock.send(records)
        except BlockingIOError:
            return records
        except OSError as error:
            self._send_error = error.with_traceback(None)
            raise broken_error(error) from error
        return memoryview(records)[sent:] if sent < len(records) else b""

    async def _send_rest(self, records: bytes | memoryview) -> None:
        try:
            await self._send_all(records)
        except BrokenResourceError as error:
            # What the peer has sent before, an alert for one, can still be received.
            cause = error.__cause__
            if self._send_error is None and cause is not None:
                self._send_error = cause.with_traceback(None)
            raise
        except BaseException:
            # Cancelled, mostly.
            self._break(record_cut())
            raise

    def _raise_if_unsendable(self) -> None:
        super()._raise_if_unsendable()
        if self._send_error is not None:
            raise broken_error(self._send_error) from self._send_error

    def _break(self, error: OSError) -> None:
        """Give up the connection: no operation succeeds any more, and there is no goodbye."""
        error = error.with_traceback(None)
        self._error = self._error or error
        self._send_error = self._send_error or error
        self._receives_no_more = self._broken = True
        self._plaintext = b""

    async def send_at_once(self, data: bytes) -> None:
        """Send as :meth:`send` does: encrypting takes so long that a question more is nothing."""
        await self.send(data)

    def begin_to_send(self, data: bytes) -> Coroutine[Any, Any, None]:
        """Send all when it is awaited: answers of TLS must not get between the parts of records."""
        return self.send(data)

    async def send_eof(self) -> None:
        """Refuse it, as AnyIO's TLS streams do.

        :raises NotImplementedError: always
        """
        refuse_send_eof(self._codec)

    # As in the class above: Ctrl-C must not part the mark from the closing.
    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Say goodbye, wait for the peer's goodbye, and close it.

        There is no goodbye unless ``standard_compatible``, and none where it would be wrong: while
        a ``send`` is under way or after one was cancelled, or after an interruption. The descriptor
        is closed on return, also of a cancelled call, which doesn't wait for the peer any longer.
        Nor does a second call.

        :raises BrokenResourceError: if the connection has ended without the peer's goodbye
        """
        polite = self._codec.standard_compatible and not (
            self._closed or self._interruption or self._sending or self._broken
        )
        try:
            if polite:
                await self._exchange_goodbyes()
        finally:
            # Cancelled before, it closes at once.
            await super().aclose()
        if polite and self._error is not None and not self._codec.closed:
            raise broken_error(self._error) from self._error

    async def _exchange_goodbyes(self) -> None:
        codec = self._codec
        self._mark_closed()
        self._unsent += codec.close()
        try:
            while not self._pay():
                await trio.lowlevel.wait_writable(self._sock.fileno())
            while not (codec.closed or self._eof or self._error or self._sock.fileno() < 0):
                if self._read():
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._sock.fileno())
        except trio.ClosedResourceError:
            # A second call has closed it.
            pass

    def _mark_closed(self) -> None:
        super()._mark_closed()
        self._plaintext = b""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the socket and of TLS, as AnyIO's streams have them."""
        return {**super().extra_attributes, **self._codec.extra_attributes}
