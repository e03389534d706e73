"""The command ``echo-server``: send back what comes."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import AnyByteStream, ByteStream, Listener, SocketAttribute, TaskGroup
from anyio.streams.stapled import MultiListener
from anyio.streams.tls import TLSListener

from anyconnpool import FramedStream
from anyconnpool._remote import Endpoint, TLSOptions
from anyconnpool.command._framing import MAX_LINE_BYTES, Framing
from anyconnpool.command._output import standard_output
from anyconnpool.command._reasons import EXCHANGE_ERRORS, CommandError, reason
from anyconnpool.command._run import run
from anyconnpool.command._target import describe_file_error

# Before a server that could not accept a connection tries again, in seconds.
_PAUSE = 0.01


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
    """

    host: str
    port: int
    path: str | None
    framing: Framing
    delay: float
    cert: str | None
    key: str | None
    backend: str

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
        try:
            context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            text = f"--tls-cert, --tls-key: {describe_file_error(error)}"
            raise CommandError(text, 2) from error
        return context

    async def serve(self, context: ssl.SSLContext | None) -> None:
        """Serve until cancelled.

        :param context: how to speak TLS, if at all
        :raises CommandError: if it can't listen
        """
        listener = await self._listen()
        serving: Listener[Any] = listener
        if context is not None:
            serving = _QuietTLSListener(listener, context, standard_compatible=False)
        try:
            async with serving:
                _announce(listener, tls=context is not None, framing=self.framing)
                await serving.serve(partial(_echo, self.framing, self.delay))
        finally:
            self._remove_socket()

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


class _QuietTLSListener(TLSListener):
    """A listener for TLS that logs no traceback of a handshake that failed."""

    @staticmethod
    async def handle_handshake_error(exc: BaseException, stream: AnyByteStream) -> None:
        await anyio.aclose_forcefully(stream)
        if not isinstance(exc, EXCHANGE_ERRORS):
            raise exc


def _announce(listener: MultiListener[Any], *, tls: bool, framing: Framing) -> None:
    for one in listener.listeners:
        address = one.extra(SocketAttribute.local_address)
        remote = address if isinstance(address, str) else address[:2]
        url = Endpoint.of(remote, TLSOptions() if tls else None).name
        with standard_output() as output:
            output.write(f"listening on {url}, format {framing.format}; Ctrl-C ends it\n")


async def _echo(framing: Framing, delay: float, accepted: ByteStream) -> None:
    """Answer one client until it closes its end, or sends what the format forbids."""
    with suppress(*EXCHANGE_ERRORS):
        async with FramedStream(accepted, max_line_bytes=MAX_LINE_BYTES) as stream:
            while True:
                message = await framing.echo(stream)
                if delay:
                    await anyio.sleep(delay)
                await stream.send(message)
