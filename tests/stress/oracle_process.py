"""Start the oracle's server, ask it for its figures, and end it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyconnpool import ConnectionPool
from tests.certificates import authority, client_context

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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self._process.kill()
        self._process.communicate()

    def endpoint(self, kind: str) -> Endpoint:
        """Return what serves one kind of socket."""
        place = self._remotes[kind]
        return Endpoint(self, kind, place if kind == "unix" else ("127.0.0.1", place))

    def figures(self, kind: str) -> dict[str, int]:
        """Ask for the figures since the last time: open, most, requests."""
        assert self._process.stdin is not None
        self._process.stdin.write(kind + "\n")
        self._process.stdin.flush()
        figures: dict[str, int] = self._hear()
        return figures

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
