"""unbound as the resolver that the system asks: its names change while programs look them up.

Which one a program asks stands in a file, ``/etc/resolv.conf``. A program that is to ask another
one gets a file of its own there, in a mount namespace, which takes root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from .programs import Program

_ROOT = Path(__file__).parents[2]
#: resolvers ask there and nowhere else
_PORT = 53

_SETTINGS = """\
server:
  interface: {host}@{port}
  directory: "{directory}"
  chroot: ""
  username: ""
  pidfile: ""
  logfile: ""
  use-syslog: no
  do-daemonize: no
  num-threads: 1
  do-ip6: no
  module-config: "iterator"
  local-zone: "pool.test." static
{records}
remote-control:
  control-enable: no
"""

# The files of the second and third argument take the places of the system's; then the rest is run.
_ENTER = """\
mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/nsswitch.conf || exit 77
shift 2
exec "$@"
"""


class NameServer:
    """An unbound at an address of the loopback that no other test has.

    :param directory: for its files
    :param names: the addresses of each name
    """

    def __init__(self, directory: Path, names: Mapping[str, Sequence[str]]) -> None:
        self._directory = directory
        self._configuration = directory / "unbound.conf"
        number = os.getpid() % 2**16
        self._host = f"127.77.{number // 256}.{number % 256}"
        self._write(names)
        (directory / "resolv.conf").write_text(
            f"nameserver {self._host}\noptions timeout:1 attempts:10\n", "utf-8"
        )
        (directory / "nsswitch.conf").write_text("hosts: dns\n", "utf-8")
        command = ["unbound", "-d", "-c", str(self._configuration)]
        log = directory / "unbound.log"
        self._program = Program("unbound", command, _PORT, log, host=self._host)

    @contextmanager
    def run(self) -> Generator[None]:
        """Run it for the length of the block."""
        with self._program:
            yield

    def set(self, names: Mapping[str, Sequence[str]]) -> None:
        """Have it know other names or addresses, within a moment."""
        self._write(names)
        self._program.send_signal(signal.SIGHUP)

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start a program that asks this resolver, in the root of the project."""
        files = [str(self._directory / name) for name in ("resolv.conf", "nsswitch.conf")]
        enter = ["unshare", "--mount", "sh", "-c", _ENTER, "sh"]
        return subprocess.Popen(
            [*enter, *files, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )

    def _write(self, names: Mapping[str, Sequence[str]]) -> None:
        records = "\n".join(
            f'  local-data: "{name}. A {address}"'
            for name, addresses in names.items()
            for address in addresses
        )
        settings = _SETTINGS.format(
            host=self._host, port=_PORT, directory=self._directory, records=records
        )
        self._configuration.write_text(settings, "utf-8")


def skip_without_namespaces() -> None:
    """Skip a test where no program can have a resolver of its own."""
    if os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("to ask another resolver than the system's takes root and unshare")
    enter = ["unshare", "--mount", "sh", "-c", _ENTER, "sh"]
    tried = subprocess.run(
        [*enter, "/etc/resolv.conf", "/etc/nsswitch.conf", "true"], capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"mount namespaces are refused: {tried.stderr.strip()}")
