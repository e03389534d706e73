"""The command ``echo-server``: send back what comes."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute, TaskGroup
from anyio.streams.stapled import MultiListener
from anyio.streams.tls import TLSStream

from anyconnpool import FramedStream
from anyconnpool._remote import Endpoint, TLSOptions
from anyconnpool.command._framing import MAX_LINE_BYTES, Framing
from anyconnpool.command._narration import Narrator, Visit
from anyconnpool.command._output import standard_output
from anyconnpool.command._reasons import EXCHANGE_ERRORS, CommandError, reason
from anyconnpool.command._run import run
from anyconnpool.command._target import check_readable, describe_file_error

# Before a server that could not accept a connection tries again, in seconds.
_PAUSE = 0.01
# How long the handshake of TLS may take, in seconds.
_HANDSHAKE_TIMEOUT = 30


@dataclass(frozen=True)
class EchoServer:
    """An echo server.

    :ivar host: where to listen
    :ivar port: where to listen; 0 lets the system choose
    :ivar path: where to listen on a UNIX socket instead
    :ivar framing: how messages are separated
    :ivar delay: how long to wait before each reply, in seconds
    :ivar cert: file with the certificate to speak TLS with
    :ivar key: file with its key, if it is not in the same file
    :ivar backend: on which event loop
    :ivar verbose: whether to tell what clients do
    """

    host: str
    port: int
    path: str | None
    framing: Framing
    delay: float
    cert: str | None
    key: str | None
    backend: str
    verbose: bool = False

    def run(self) -> int:
        """Serve until interrupted.

        :return: the program's exit code
        :raises CommandError: if it can't listen
        """
        context = self._server_context()
        run(self.backend, lambda: self.serve(context))
        return 0

    def _server_context(self) -> ssl.SSLContext | None:
        if self.cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        named = f"--tls-cert {self.cert}"
        check_readable("--tls-cert", self.cert)
        if self.key is not None:
            check_readable("--tls-key", self.key)
            named += f", --tls-key {self.key}"
        try:
            context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            raise CommandError(f"{named}: {describe_file_error(error)}", 2) from error
        return context

    async def serve(self, context: ssl.SSLContext | None) -> None:
        """Serve until cancelled.

        :param context: how to speak TLS, if at all
        :raises CommandError: if it can't listen, or can't tell what clients do
        """
        listener = await self._listen()
        scope = anyio.CancelScope()
        narrator = Narrator(scope.cancel)
        with scope:

            async def answer(accepted: ByteStream) -> None:
                visit = narrator.greet(accepted) if self.verbose else None
                await self._answer(accepted, context, visit)

            try:
                async with listener:
                    _announce(listener, tls=context is not None, framing=self.framing)
                    await listener.serve(answer)
            finally:
                self._remove_socket()
        if narrator.failure is not None:
            raise narrator.failure

    async def _answer(
        self, accepted: ByteStream, context: ssl.SSLContext | None, visit: Visit | None
    ) -> None:
        """Answer one client until it closes its end, or sends what the format forbids."""
        unread = b""
        try:
            # Also after a handshake that failed or was cancelled, which closes nothing itself.
            async with accepted:
                opened = accepted if context is None else await _speak_tls(accepted, context)
                async with FramedStream(opened, max_line_bytes=MAX_LINE_BYTES) as stream:
                    try:
                        await self._echo(stream, visit)
                    finally:
                        unread = stream.buffer
        except EXCHANGE_ERRORS as error:
            if visit is not None:
                visit.end(error, unread)

    async def _echo(self, stream: FramedStream, visit: Visit | None) -> None:
        while True:
            message = await self.framing.receive(stream)
            if visit is not None:
                visit.receive(message)
            if self.delay:
                await anyio.sleep(self.delay)
            await stream.send(self.framing.pack(message))

    def _remove_socket(self) -> None:
        if self.path is not None:
            Path(self.path).unlink(missing_ok=True)

    async def _listen(self) -> MultiListener[Any]:
        try:
            if self.path is not None:
                return MultiListener([_Acceptor(await anyio.create_unix_listener(self.path))])
            listening = await anyio.create_tcp_listener(local_host=self.host, local_port=self.port)
            return MultiListener([_Acceptor(one) for one in listening.listeners])
        except (OSError, UnicodeError) as error:
            address = self.path or f"{self.host}:{self.port}"
            raise CommandError(f"can't listen on {address}: {reason(error)}") from error


class _Acceptor(Listener[Any]):
    """A listener that outlives what goes wrong with one client, or when no descriptor is left."""

    def __init__(self, listener: Listener[Any]) -> None:
        # AnyIO's own listeners of sockets: the method is public, its class's place is not one here.
        self._listener: Any = listener

    async def serve(
        self, handler: Callable[[Any], Any], task_group: TaskGroup | None = None
    ) -> None:
        if task_group is None:
            async with anyio.create_task_group() as own:
                await self.serve(handler, own)
            return
        while True:
            try:
                accepted = await self._listener.accept()
            except (OSError, anyio.BrokenResourceError):
                await anyio.sleep(_PAUSE)
            else:
                task_group.start_soon(handler, accepted)

    async def aclose(self) -> None:
        await self._listener.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        attributes: Mapping[Any, Callable[[], Any]] = self._listener.extra_attributes
        return attributes


def _announce(listener: MultiListener[Any], *, tls: bool, framing: Framing) -> None:
    for one in listener.listeners:
        address = one.extra(SocketAttribute.local_address)
        remote = address if isinstance(address, str) else address[:2]
        url = Endpoint.of(remote, TLSOptions() if tls else None).name
        with standard_output() as output:
            output.write(f"listening on {url}, format {framing.format}; Ctrl-C ends it\n")


async def _speak_tls(accepted: ByteStream, context: ssl.SSLContext) -> ByteStream:
    with anyio.fail_after(_HANDSHAKE_TIMEOUT):
        return await TLSStream.wrap(
            accepted, server_side=True, ssl_context=context, standard_compatible=False
        )
