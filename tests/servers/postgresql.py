"""A PostgreSQL server, from Debian's package, with a cluster of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import pytest

from .programs import Program, reserved_port

USER = "postgres"
PASSWORD = "pencil"

_PATIENCE = 30


class PostgreSQLServer(Program):
    """A PostgreSQL that is killed with all its processes: its parent's death alone they outlive.

    A new server would refuse the shared memory that they still use.

    :param command: how it is started
    :param port: where it listens
    :param directory: of its cluster and its log
    """

    def __init__(self, command: Sequence[str], port: int, directory: Path) -> None:
        super().__init__("postgresql", command, port, directory / "log")
        self._lock_file = directory / "data" / "postmaster.pid"

    def __exit__(self, *args: object) -> None:
        # Killed, it would leave its shared memory behind.
        try:
            self.stop()
        finally:
            self.kill()

    def start(self) -> None:
        """Start it, and wait until it is ready: it accepts connections before."""
        super().start()
        end = time.monotonic() + _PATIENCE
        while not self._is_ready():
            assert time.monotonic() < end, self._log.read_text("utf-8", "replace")
            # It writes that into a file, and tells nobody: look again.
            time.sleep(0.005)

    def _is_ready(self) -> bool:
        assert self._process is not None
        lines = self._lock_file.read_text("utf-8").splitlines()
        # Killed, it has left the file behind.
        return lines[:1] == [str(self._process.pid)] and lines[7:] == ["ready   "]

    def stop(self, by: signal.Signals = signal.SIGINT) -> None:
        """Have it end its sessions and then itself, which SIGINT asks for ("fast")."""
        super().stop(by)

    def kill(self) -> None:
        """Kill all of its processes by SIGKILL."""
        if self._process is not None:
            # Stopped, it can't start another one meanwhile.
            self._process.send_signal(signal.SIGSTOP)
            children = _children_of(self._process.pid)
            super().kill()
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            _wait_for_the_end(children)

    def kill_a_session(self) -> None:
        """Kill the process of one session, upon which the server ends them all."""
        assert self._process is not None
        end = time.monotonic() + _PATIENCE
        sessions: list[int] = []
        while not sessions:
            assert time.monotonic() < end
            # So a process calls itself: "postgres: user database host(port) what it does".
            sessions = [
                child
                for child in _children_of(self._process.pid)
                if f"{USER} {USER} 127.0.0.1" in _command_line_of(child)
            ]
        with suppress(ProcessLookupError):
            os.kill(sessions[0], signal.SIGKILL)


def _children_of(parent: int) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii")
    return [int(child) for child in listed.split()]


def _command_line_of(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text("utf-8")
    return ""


def _wait_for_the_end(processes: list[int]) -> None:
    """Wait until processes that are nobody's children any more are gone."""
    end = time.monotonic() + _PATIENCE
    for process in processes:
        # A dead one whose new parent hasn't collected it has no command line left.
        while _command_line_of(process):
            assert time.monotonic() < end
            # Nobody is told of the end of what is not a child: look again.
            time.sleep(0.005)


def _find_programs() -> Path:
    """Return the directory with the programs of the newest PostgreSQL; Debian's is in no PATH."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = max(versions, key=lambda path: int(path.parts[-3]), default=None)
    path = newest or shutil.which("postgres")
    if path is None:
        pytest.fail("postgres is not there: install the Debian package postgresql", pytrace=False)
    return Path(path).parent


def _as_its_user() -> list[str]:
    """Return what goes before the programs' commands: they refuse to run as root."""
    if os.geteuid():
        return []
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--"]


@contextmanager
def _directory() -> Generator[Path]:
    """Make a directory of its user's: those that pytest makes are closed to others."""
    directory = mkdtemp(prefix="anyconnpool-")
    try:
        if not os.geteuid():
            shutil.chown(directory, USER, USER)
        yield Path(directory)
    finally:
        shutil.rmtree(directory)


@contextmanager
def postgresql_server() -> Generator[PostgreSQLServer]:
    """Run a PostgreSQL that lets its user in by SCRAM-SHA-256 alone."""
    programs, prefix = _find_programs(), _as_its_user()
    with _directory() as directory, reserved_port() as port:
        (directory / "password").write_text(PASSWORD, "ascii")
        (directory / "password").chmod(0o644)
        data = directory / "data"
        initdb = [str(programs / "initdb"), "-D", str(data), "-U", USER, "-A", "scram-sha-256"]
        initdb += [f"--pwfile={directory / 'password'}", "-E", "UTF8", "--locale=C", "-N"]
        made = subprocess.run([*prefix, *initdb], capture_output=True, text=True, check=False)
        assert not made.returncode, made.stderr
        command = [*prefix, str(programs / "postgres"), "-D", str(data)]
        # An empty directory of UNIX sockets means none of them.
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": ""}
        settings |= {"fsync": "off", "shared_buffers": "16MB", "max_connections": 20}
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with PostgreSQLServer(command, port, directory) as program:
            yield program
