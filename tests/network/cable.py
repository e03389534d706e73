"""Two network namespaces joined by a cable that can be cut: the pool's end and the server's.

Only the thread that enters a namespace is in it, with the threads that it starts there. A socket
stays in the namespace it was made in.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import subprocess
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

#: addresses of the two ends, from TEST-NET-1 (RFC 5737)
NEAR = "192.0.2.1"
FAR = "192.0.2.2"

#: ways to cut the cable, see :meth:`Cable.cut`
CUTS = ("silent", "unplugged")

_CLONE_NEWNET = 0x4000_0000
# An address of Ethernet that nobody has.
_NOBODY = "02:00:00:00:00:99"


class Cable:
    """A pair of network namespaces, each with one end of the cable."""

    def __init__(self) -> None:
        name = f"anyconnpool-{os.getpid()}-{secrets.token_hex(4)}"
        self._near = f"{name}-near"
        self._far = f"{name}-far"
        self._ends = ((self._near, NEAR, FAR), (self._far, FAR, NEAR))
        self._made: list[str] = []
        self._cut = ""

    def lay(self) -> None:
        """Make the namespaces and join them.

        :raises FileNotFoundError: if there is no ``ip`` to call
        :raises subprocess.CalledProcessError: if the kernel refuses
        """
        for namespace in (self._near, self._far):
            _ip(f"netns add {namespace}")
            self._made.append(namespace)
        _ip(f"link add cable netns {self._near} type veth peer name cable netns {self._far}")
        for namespace, address, _ in self._ends:
            _ip(f"-n {namespace} address add {address}/24 dev cable")
            # A kernel tells its own sockets over the loopback that a host is unreachable.
            _ip(f"-n {namespace} link set lo up")
            _ip(f"-n {namespace} link set cable up")

    def remove(self) -> None:
        """Delete what :meth:`lay` has made, were it only a part."""
        while self._made:
            _ip(f"netns delete {self._made.pop()}")

    def near_end(self) -> AbstractContextManager[None]:
        """Put the calling thread into the client's namespace."""
        return _inside(self._near)

    def far_end(self) -> AbstractContextManager[None]:
        """Put the calling thread into the server's namespace."""
        return _inside(self._far)

    def cut(self, how: str = "silent") -> None:
        """Cut the cable.

        :param how: ``"silent"``: both ends keep their link and their route, and what they send
            vanishes without a word, as behind a switch or in a firewall; it is addressed to nobody.
            ``"unplugged"`` at the server: the client's kernel sees the link go, asks in vain where
            the server is, and calls it unreachable after 3 s
        """
        self._cut = how
        if how == "unplugged":
            _ip(f"-n {self._far} link set cable down")
            return
        for namespace, _, other in self._ends:
            entry = f"{other} dev cable lladdr {_NOBODY} nud permanent"
            _ip(f"-n {namespace} neighbour replace {entry}")

    def mend(self) -> None:
        """Join what was cut; after ``"unplugged"`` the kernel may take a second to notice."""
        if self._cut == "unplugged":
            _ip(f"-n {self._far} link set cable up")
            return
        for namespace, _, other in self._ends:
            _ip(f"-n {namespace} neighbour delete {other} dev cable")


def counters() -> dict[str, int]:
    """Return what this thread's namespace counts, such as ``Tcp.OutSegs`` (RFC 4022)."""
    found: dict[str, int] = {}
    for name in ("snmp", "netstat"):
        lines = Path("/proc/thread-self/net", name).read_text("ascii").splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            group = names.partition(":")[0]
            for key, value in zip(names.split()[1:], values.split()[1:], strict=True):
                found[f"{group}.{key}"] = int(value)
    return found


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)


@contextmanager
def _inside(namespace: str) -> Generator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)


def _enter(descriptor: int) -> None:
    if sys.version_info >= (3, 12):
        os.setns(descriptor, os.CLONE_NEWNET)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
