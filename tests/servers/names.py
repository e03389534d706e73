"""unbound, with names of its own, as the DNS client of examples/ meets it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.certificates import authority

from .programs import Program, reserved_port

#: how many names with one address there are: ``n0.pool.test``, ``n1.pool.test`` and so on
NAMES = 1000

_SETTINGS = """\
server:
  interface: 127.0.0.1@{port}
  tls-port: {tls_port}
  tls-service-key: "{certificate}"
  tls-service-pem: "{certificate}"
  directory: "{directory}"
  chroot: ""
  username: ""
  pidfile: ""
  logfile: ""
  use-syslog: no
  do-daemonize: no
  num-threads: 1
  so-reuseport: no
  do-udp: no
  do-ip6: no
  incoming-num-tcp: 100
  module-config: "iterator"
  local-zone: "pool.test." static
  local-data: "alias.pool.test. CNAME n1.pool.test."
  local-data: "both.pool.test. A 10.1.0.1"
  local-data: "both.pool.test. A 10.1.0.2"
  local-data: "both.pool.test. AAAA fd00::1"
{names}
remote-control:
  control-enable: no
"""


def address_of(number: int) -> str:
    """Return the address of a name."""
    return f"10.0.{number // 256}.{number % 256}"


@contextmanager
def unbound(directory: Path, *, tls: bool) -> Generator[Program]:
    """Run an unbound that speaks TCP, or TLS on it.

    :param directory: for its configuration
    :param tls: whether it speaks TLS, with a certificate of the tests' authority
    """
    certificate = directory / "server.pem"
    pem = authority().issue_cert("127.0.0.1").private_key_and_cert_chain_pem
    pem.write_to_path(str(certificate))
    names = (f'  local-data: "n{n}.pool.test. A {address_of(n)}"' for n in range(NAMES))
    configuration = directory / "unbound.conf"
    with reserved_port() as port:
        settings = _SETTINGS.format(
            port=port,
            # Where it listens at no such port, it speaks no TLS.
            tls_port=port if tls else 853,
            certificate=certificate,
            directory=directory,
            names="\n".join(names),
        )
        configuration.write_text(settings, "utf-8")
        command = ["unbound", "-d", "-c", str(configuration)]
        with Program("unbound", command, port, directory / "unbound.log") as program:
            yield program
