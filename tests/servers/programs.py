"""Programs that others wrote, from Debian's packages: started for one test, and killed by pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing_extensions import Self

_HOST = "127.0.0.1"
_PATIENCE = 30


@contextmanager
def reserved_port() -> Generator[int]:
    """Keep a port of 127.0.0.1 for a server that may come and go.

    A socket that is bound and never listens is in nobody's way who also sets ``SO_REUSEADDR``, as
    servers do. But the kernel gives its port neither to another who asks for a free one nor to a
    client; one that dials a server on its own port would be connected with itself.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((_HOST, 0))
        yield holder.getsockname()[1]


class Program:
    """A server in a process of its own, from the entering of this object to its end.

    :param package: the Debian package that has it
    :param command: how it is started, so that it stays in the foreground
    :param port: where it listens
    :param log: the file for what it prints
    :param host: the address that it listens on
    """

    def __init__(
        self, package: str, command: Sequence[str], port: int, log: Path, *, host: str = _HOST
    ) -> None:
        self.remote = (host, port)
        self._command = [_find(command[0], package), *command[1:]]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the program and wait until it accepts connections."""
        self._start()

    def _start(self, *options: str) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._wait_until_it_accepts(self._process)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill the program by SIGKILL: its kernel ends its connections, it can't."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        """Have the program end in its own way, and wait until it has.

        :param by: the signal that asks it to
        """
        if self._process is not None:
            self._process.send_signal(by)
            self._process.wait(_PATIENCE)
            self._process = None

    def send_signal(self, number: signal.Signals) -> None:
        """Send the program a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def reload(self) -> None:
        """Have HAProxy's successor take over, as a reload does, and wait for the end of the former.

        The former accepts no more connections, and cuts those that it has a while later.
        """
        former = self._process
        assert former is not None
        try:
            self._start("-sf", str(former.pid))
            former.wait(_PATIENCE)
        finally:
            former.kill()
            former.wait()

    def restart(self) -> None:
        """Kill the program and start it again, at the same address."""
        self.kill()
        self.start()

    def _wait_until_it_accepts(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and process.poll() is None:
            try:
                socket.create_connection(self.remote, timeout=_PATIENCE).close()
            except OSError:
                # These programs tell nobody when they are ready: ask again.
                time.sleep(0.005)
            else:
                return
        said = self._log.read_text("utf-8", "replace")
        raise RuntimeError(f"{self._command} doesn't accept connections; it says:\n{said}")


def _find(name: str, package: str) -> str:
    path = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))
    if path is None:
        pytest.fail(f"{name} is not there: install the Debian package {package}", pytrace=False)
    return path


@contextmanager
def redis_server(directory: Path, *settings: str) -> Generator[Program]:
    """Run a Redis that a SIGKILL costs no write that it has acknowledged.

    :param directory: for its data
    :param settings: further ones, as on its command line
    """
    with reserved_port() as port:
        command = ["redis-server", "--bind", _HOST, "--port", str(port), "--dir", str(directory)]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "no"]
        command += ["--enable-debug-command", "yes", *settings]
        with Program("redis-server", command, port, directory / "redis.log") as program:
            yield program


@contextmanager
def redis_tls(directory: Path, host: str, port: int, certificate: Path) -> Generator[Program]:
    """Run a Redis that speaks TLS alone, and keeps nothing.

    :param directory: for its log
    :param host: the address that it listens on
    :param port: likewise
    :param certificate: a file with the private key and the certificates
    """
    command = ["redis-server", "--bind", host, "--port", "0", "--tls-port", str(port)]
    command += ["--tls-cert-file", str(certificate), "--tls-key-file", str(certificate)]
    command += ["--tls-auth-clients", "no", "--save", "", "--dir", str(directory)]
    log = directory / f"redis-{host}.log"
    with Program("redis-server", command, port, log, host=host) as program:
        yield program


@contextmanager
def memcached(directory: Path) -> Generator[Program]:
    """Run a memcached.

    :param directory: for its log
    """
    with reserved_port() as port:
        command = ["memcached", "-l", _HOST, "-p", str(port), "-U", "0", "-m", "64", "-t", "2"]
        if not os.geteuid():
            command += ["-u", "root"]
        with Program("memcached", command, port, directory / "memcached.log") as program:
            yield program


@contextmanager
def haproxy(
    directory: Path,
    backends: dict[str, tuple[str, int]],
    *,
    client_timeout: str = "60s",
    checks: bool = True,
) -> Generator[Program]:
    """Run an HAProxy that spreads connections in turn over backends, which it checks.

    Until it knows that a backend is dead, it hangs up on clients whose turn is on that one.

    :param directory: for its configuration
    :param backends: their addresses by their names
    :param client_timeout: how long a client may be silent, in HAProxy's notation
    :param checks: whether it checks them; else it takes all of them for well
    """
    with reserved_port() as port:
        lines = [
            "global",
            "nbthread 1",
            "hard-stop-after 300ms",
            "defaults",
            "mode tcp",
            "retries 0",
            "timeout connect 5s",
        ]
        lines += ["timeout check 5s", f"timeout client {client_timeout}", "timeout server 60s"]
        lines += ["listen balancer", f"bind {_HOST}:{port}", "balance roundrobin"]
        if checks:
            lines += ["default-server check inter 300ms fastinter 50ms rise 1 fall 2"]
        lines += [f"server {name} {host}:{port}" for name, (host, port) in backends.items()]
        configuration = directory / "haproxy.cfg"
        configuration.write_text("\n".join(lines) + "\n", "utf-8")
        command = ["haproxy", "-db", "-f", str(configuration)]
        with Program("haproxy", command, port, directory / "haproxy.log") as program:
            yield program


@contextmanager
def stunnel(
    directory: Path, version: str, certificate: Path, behind: tuple[str, int]
) -> Generator[Program]:
    """Run an stunnel that takes TLS off before another server.

    :param directory: for its configuration
    :param version: the version of TLS, in stunnel's notation
    :param certificate: a file with the private key and the certificates
    :param behind: the address of the server
    """
    with reserved_port() as port:
        lines = ["foreground = yes", "pid =", "syslog = no", "[service]"]
        lines += [f"sslVersionMin = {version}", f"sslVersionMax = {version}"]
        lines += [f"accept = {_HOST}:{port}", f"connect = {behind[0]}:{behind[1]}"]
        lines += [f"cert = {certificate}"]
        configuration = directory / "stunnel.conf"
        configuration.write_text("\n".join(lines) + "\n", "utf-8")
        command = ["stunnel", str(configuration)]
        with Program("stunnel4", command, port, directory / "stunnel.log") as program:
            yield program
