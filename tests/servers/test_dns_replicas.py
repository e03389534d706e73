"""``Replicas.from_dns`` and a resolver whose answers change while exchanges run, over TLS."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.certificates import authority

from .name_server import NameServer, skip_without_namespaces
from .programs import Program, redis_tls, reserved_port

NAME, OTHER_NAME = "redis.pool.test", "other.pool.test"
HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
BACKENDS = ("asyncio", "uvloop", "trio")

pytestmark = pytest.mark.timeout(300)


class Site:
    """Three Redis with one certificate for one name, and a resolver that knows two of them.

    :param stack: ends them
    :param directory: for their files
    """

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        certificate = directory / "server.pem"
        authority().issue_cert(NAME).private_key_and_cert_chain_pem.write_to_path(str(certificate))
        self._ca = directory / "ca.pem"
        authority().cert_pem.write_to_path(str(self._ca))
        self._port = stack.enter_context(reserved_port())
        self.servers: dict[str, Program] = {
            host: stack.enter_context(redis_tls(directory, host, self._port, certificate))
            for host in HOSTS
        }
        self.names = NameServer(directory, {NAME: HOSTS[:2], OTHER_NAME: HOSTS[:2]})
        stack.enter_context(self.names.run())

    @contextmanager
    def program(self, backend: str, name: str) -> Generator[subprocess.Popen[str]]:
        """Run the program that asks the servers of a name."""
        arguments = (backend, name, str(self._port), str(self._ca))
        command = [sys.executable, "-m", "tests.servers.dns_program", *arguments]
        with self.names.start(command) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def site(tmp_path: Path) -> Generator[Site]:
    """Run the servers and the resolver."""
    skip_without_namespaces()
    with ExitStack() as stack:
        yield Site(stack, tmp_path)


def read_until(process: subprocess.Popen[str], *hosts: str) -> None:
    """Read what the program says until just these addresses have connections."""
    assert process.stdout is not None
    for line in process.stdout:
        if tuple(line.split()) == hosts:
            return
    assert process.stderr is not None
    pytest.fail(f"the program has ended: {process.stderr.read()}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_name_that_changes_moves_the_connections(site: Site, backend: str) -> None:
    """What leaves the name can be killed without a failed exchange; what is new gets its share."""
    first, second, third = HOSTS
    with site.program(backend, NAME) as process:
        read_until(process, first, second)
        site.names.set({NAME: (second, third)})
        read_until(process, second, third)
        site.servers[first].kill()
        site.names.set({NAME: (third,)})
        read_until(process, third)
        site.servers[second].kill()
        site.servers[first].start()
        site.names.set({NAME: (first, third)})
        read_until(process, first, third)
        output, errors = process.communicate()
    assert (errors, process.returncode) == ("", 0)
    word, count = output.splitlines()[-1].split()
    assert word == "done"
    assert int(count) > 0


def test_the_certificate_is_checked_for_the_name(site: Site) -> None:
    """Another name of the same addresses is not in it."""
    with site.program("asyncio", OTHER_NAME) as process:
        output, errors = process.communicate()
    assert not output
    assert process.returncode
    assert "Hostname mismatch" in errors
