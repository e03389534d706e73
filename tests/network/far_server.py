"""The scripted server of the socket tests, at the far end of a cable."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyconnpool import ConnectionPool
from tests.certificates import client_context
from tests.sockets.servers import Script, Server, echo_lines

from .cable import FAR, Cable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from anyconnpool._settings import Hook, PoolOptions


class FarServer(Server):
    """A server whose listener and threads are in the cable's other namespace.

    Restarted by reset while the cable is cut, it is a machine that has rebooted: its resets are
    lost, and it knows nothing of earlier connections.

    :param cable: what leads to the server
    :param kind: one of ``KINDS``, but no UNIX socket
    :param script: what a thread does with each connection
    """

    def __init__(self, cable: Cable, kind: str = "tcp", script: Script | None = echo_lines) -> None:
        self._cable = cable
        super().__init__(kind, Path(), script)

    @property
    def remote(self) -> Any:
        return FAR, self._port

    def pool(
        self, on_connect: Hook | None = None, **settings: Unpack[PoolOptions]
    ) -> ConnectionPool[Any]:
        return ConnectionPool(
            self.remote,
            tls=self.tls,
            ssl_context=client_context() if self.tls else None,
            # What the certificate is for.
            tls_hostname="127.0.0.1" if self.tls else None,
            on_connect=on_connect,
            **settings,
        )

    def start(self) -> None:
        with self._cable.far_end():
            self._listener = socket.create_server((FAR, self._port), backlog=128)
            self._port = self._listener.getsockname()[1]
            self._acceptor = threading.Thread(target=self._accept, args=(self._listener,))
            self._acceptor.start()
