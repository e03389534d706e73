"""Start the oracle's server, ask it for its figures, and end it."""

from __future__ import annotations

import json
import mmap
import struct
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyconnpool import ConnectionPool
from tests.certificates import authority, client_context

from .oracle_wire import Manners

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from anyconnpool._settings import PoolOptions

ROOT = Path(__file__).parents[2]


class OracleServer:
    """The server's process.

    :param directory: for its certificate and its UNIX socket
    """

    def __init__(self, directory: Path) -> None:
        certificate = authority().issue_cert("127.0.0.1")
        pem = certificate.private_key_and_cert_chain_pem
        pem.write_to_path(directory / "certificate.pem")  # pyright: ignore[reportUnknownMemberType]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.stress.oracle_server", str(directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._remotes = self._hear()
        with (directory / "news").open("r+b") as file:
            self._news = mmap.mmap(file.fileno(), 8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self._process.kill()
        self._process.communicate()

    def endpoint(self, kind: str) -> Endpoint:
        """Return what serves one kind of socket."""
        place = self._remotes[kind]
        return Endpoint(self, kind, place if kind == "unix" else ("127.0.0.1", place))

    def figures(self, kind: str, manners: Manners | None = None) -> dict[str, int]:
        """Ask for the figures since the last time: open, most, requests.

        :param manners: how to treat new connections from now on, if that changes
        """
        order = kind if manners is None else f"{kind} {json.dumps(asdict(manners))}"
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        figures: dict[str, int] = self._hear()
        return figures

    def last_news(self) -> int:
        """Return the number of the last news that have left the server."""
        return int(struct.unpack("q", self._news[:])[0])

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


class Endpoint:
    """The server on one kind of socket."""

    def __init__(self, server: OracleServer, kind: str, remote: Any) -> None:
        self._server = server
        self.kind = kind
        self.remote = remote

    def pool(self, **settings: Unpack[PoolOptions]) -> ConnectionPool:
        """Make a pool of connections to it."""
        tls = self.kind.startswith("tls")
        context = client_context() if tls else None
        return ConnectionPool(self.remote, tls=tls, ssl_context=context, **settings)

    def figures(self) -> dict[str, int]:
        """Ask for its figures since the last time: open, most, requests."""
        return self._server.figures(self.kind)

    def conduct(self, manners: Manners) -> None:
        """End the connections that there are, and treat new ones in this way."""
        self._server.figures(self.kind, manners)

    def last_news(self) -> int:
        """Return the number of the last news that have left the server."""
        return self._server.last_news()
