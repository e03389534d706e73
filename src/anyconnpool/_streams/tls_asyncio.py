"""TLS on a socket for asyncio, uvloop and Proactor.

What the loop reads is decrypted in the same turn, before anybody is woken or notified. So a session
ticket wakes nobody, and the rules of :mod:`.asyncio_socket` hold for plaintext.

What a cancelled ``send`` leaves in the transport are whole records, which still go out; the stream
stays in order, unless a part of the data has not been encrypted yet. Close the stream in any case.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from anyio import EndOfStream

from anyconnpool._exceptions import StreamBusy
from anyconnpool._streams.asyncio_socket import AsyncioSocketStream
from anyconnpool._streams.socket_stream import ENDED, broken_error
from anyconnpool._streams.tls import (
    MAX_READS,
    SLICE_SIZE,
    TLSCodec,
    raise_handshake_error,
    refuse_send_eof,
)
from anyconnpool._util.liveness import ALIVE, UNREAD, Liveness


class AsyncioTLSStream(AsyncioSocketStream):
    """A connected socket as a stream of TLS. :meth:`start` has to be called before anything else.

    :param sock: a connected, non-blocking socket, TCP or UNIX, which from now on is the stream's
    :param codec: the settings of TLS, which have not been used yet
    """

    def __init__(self, sock: socket.socket, codec: TLSCodec) -> None:
        super().__init__(sock)
        self._codec = codec
        # Whether a send is under way that takes several slices.
        self._slicing = False
        # What aclose() waits for: the peer's goodbye or the end.
        self._goodbye: asyncio.Event | None = None

    async def start(self) -> None:
        """Hand the socket over to the event loop and shake hands with the peer.

        If this fails or is cancelled, the socket is closed.

        :raises ssl.SSLError: if the handshake fails, of which :exc:`ssl.SSLCertVerificationError`
            is the case that the peer's certificate is not what it should be
        :raises BrokenResourceError: if the connection is lost, or cut while ``standard_compatible``
        :raises EndOfStream: if the peer hangs up, unless ``standard_compatible``
        """
        await super().start()
        try:
            await self._shake_hands()
        except BaseException:
            # Cancelled here, nobody gets the stream.
            self._begin_to_close()
            await self._finish_closing()
            # It may be the one that is on its way, whose traceback leads here.
            self._error = None
            raise

    async def _shake_hands(self) -> None:
        codec = self._codec
        codec.start()
        self._pay()
        while not codec.established:
            raise_handshake_error(codec)
            if self._error is not None:
                raise broken_error(self._error) from self._error
            if self._receives_no_more:
                raise EndOfStream(ENDED)
            self._receiver = self._home.loop.create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None

    # What the event loop calls, by way of the protocol.

    def data_arrived(self, data: bytes | bytearray | memoryview) -> None:
        """Decrypt what the loop has read, store the plaintext, and answer what asks for an answer.

        The receiver is woken only if there is something for it.
        """
        codec = self._codec
        was_established = codec.established
        plaintext = codec.receive(data)
        if codec.owed:
            self._pay()
        if plaintext and not self._closed:
            super().data_arrived(plaintext)
        elif codec.within_record or not was_established:
            self._notify()
        if codec.error is not None:
            self._fail(codec.error)
        elif codec.closed and not self._eof:
            self.eof_arrived()

    def eof_arrived(self) -> None:
        """Take note that the peer sends no more: after its close_notify, or by a cut."""
        self._codec.receive_eof()
        self._error = self._error or self._codec.error
        super().eof_arrived()
        self._end_goodbye()

    def connection_lost(self, error: Exception | None) -> None:
        """Take note that the connection is gone; the descriptor is closed after this call."""
        super().connection_lost(error)
        self._end_goodbye()

    def resume_writing(self) -> None:
        """Let the sender go on: the kernel has everything."""
        super().resume_writing()
        self._pay()

    def _pay(self) -> None:
        """Send the answers that are owed, unless the peer doesn't read what it has got before."""
        if self._codec.owed and not self._write_paused and not self._transport.is_closing():
            self._transport.write(self._codec.take())

    def _fail(self, error: OSError) -> None:
        """Give up the connection for an error of TLS. What was received before is still there."""
        self._error = self._error or error.with_traceback(None)
        self._transport.abort()
        self._notify()
        self._end_goodbye()

    def _end_goodbye(self) -> None:
        if self._goodbye is not None:
            self._goodbye.set()

    # What the pool and the stream's user call.

    @property
    def has_part_only(self) -> bool:
        """Whether all that is unread is a part of a record."""
        return self._codec.within_record and not self._chunks

    def look(self) -> Liveness:
        """Say whether it is open and has nothing to read: exactly, and without waiting.

        What the kernel has is read and decrypted here, since it may be a session ticket; the loop
        would do the same in its next turn. On Proactor, which reads ahead of both, it is unread.
        """
        known = super().look()
        for _ in range(MAX_READS):
            if known is not UNREAD or self._chunks or self._receiver or self._home.hides_a_receive:
                break
            self._read_before_the_loop()
            known = super().look()
        return UNREAD if known is ALIVE and self._codec.within_record else known

    def _read_before_the_loop(self) -> None:
        """Decrypt what one read brings. The event loop then finds nothing, which does no harm."""
        # Whoever looks will see it: there is nothing to notify.
        on_event, self.on_event = self.on_event, None
        try:
            data = self._sock.recv(SLICE_SIZE)
            if data:
                self.data_arrived(data)
            else:
                self.eof_arrived()
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(error)
        finally:
            self.on_event = on_event

    async def send(self, item: bytes) -> None:
        """Encrypt bytes and send them, and wait until the kernel has all of them.

        Much is encrypted slice by slice, each when the kernel has taken the one before. Cancelled
        while it waits, what was encrypted still goes out, unless the stream is closed.

        :param item: the bytes
        :raises BrokenResourceError: if the connection is lost or TLS has failed; the cause says why
        :raises ClosedResourceError: if this end has closed it
        :raises BusyResourceError: if another task waits in ``send``
        """
        if self._slicing:
            raise StreamBusy("writing to")
        if len(item) <= SLICE_SIZE:
            await super().send(item)
            return
        data = memoryview(item).cast("B")
        self._slicing = True
        try:
            for start in range(0, len(data), SLICE_SIZE):
                await super().send(data[start : start + SLICE_SIZE])  # type: ignore[arg-type]
        finally:
            self._slicing = False

    def _write(self, data: bytes) -> None:
        if not data:
            return
        try:
            records = self._codec.encrypt(data)
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._transport.write(records)

    async def send_at_once(self, data: bytes) -> None:
        """Send as :meth:`send` does: encrypting takes so long that a question more is nothing."""
        await self.send(data)

    def begin_to_send(self, data: bytes) -> Coroutine[Any, Any, None] | None:
        """Send what the kernel takes at once, unless it is too much to be encrypted at once."""
        return super().begin_to_send(data) if len(data) <= SLICE_SIZE else self.send(data)

    async def send_eof(self) -> None:
        """Refuse it, as AnyIO's TLS streams do.

        :raises NotImplementedError: always
        """
        refuse_send_eof(self._codec)

    async def aclose(self) -> None:
        """Say goodbye, wait for the peer's goodbye, and close it.

        There is no goodbye unless ``standard_compatible``, and none where it would be wrong: while
        a ``send`` is under way, or after an interruption. The descriptor is closed on return, also
        of a cancelled call, which doesn't wait for the peer any longer. Nor does a second call.

        :raises BrokenResourceError: if the connection has ended without the peer's goodbye
        """
        polite = self._codec.standard_compatible and not (
            self._closed or self._interruption or self._slicing or self._sender
        )
        try:
            if polite:
                await self._exchange_goodbyes()
        finally:
            await super().aclose()
        if polite and self._error is not None and not self._codec.closed:
            raise broken_error(self._error) from self._error

    async def _exchange_goodbyes(self) -> None:
        self._mark_closed()
        goodbye = self._codec.close()
        if self._transport.is_closing():
            return
        self._transport.write(goodbye)
        if self._read_paused:
            self._resume_reading()
        if not self._eof:
            self._goodbye = asyncio.Event()
            await self._goodbye.wait()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the socket and of TLS, as AnyIO's streams have them."""
        return {**super().extra_attributes, **self._codec.extra_attributes}
