"""Ask the kernel what waits in a socket, without waiting and without taking anything out of it."""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from anyconnpool._util.liveness import ALIVE, CLOSED, UNREAD, Liveness

# PyPy has no name for it on Linux. Elsewhere there is none: a hang-up then looks like data.
_POLLRDHUP: int = getattr(select, "POLLRDHUP", 0x2000 if sys.platform == "linux" else 0)
_POLLIN: int = getattr(select, "POLLIN", 1)


class KernelLook:
    """Look at one socket again and again; what has to be prepared for it is prepared once.

    :param sock: a connected, non-blocking socket, or what an event loop gives out as one
    """

    __slots__ = ("_fd", "_poll", "_sock", "_tells_hang_ups")

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._fd: int = sock.fileno()
        has_poll = self._fd >= 0 and hasattr(select, "poll")
        self._poll = _poll_function(self._fd) if has_poll else partial(_select, self._fd)
        self._tells_hang_ups = has_poll and _POLLRDHUP != 0

    def look(self) -> Liveness:
        """Say what the kernel knows of the socket. Never raises."""
        # Once the socket is closed, its number may be that of another file.
        if self._sock.fileno() != self._fd or self._fd < 0:
            return CLOSED
        try:
            ready = self._poll(0)
        except (OSError, ValueError):
            return CLOSED
        return self._judge(ready[0][1]) if ready else ALIVE

    def _judge(self, events: int) -> Liveness:
        if events != _POLLIN:
            return CLOSED
        if self._tells_hang_ups:
            return UNREAD
        try:
            return UNREAD if self._peek() else CLOSED
        except BlockingIOError:
            return ALIVE
        except OSError:
            return CLOSED

    def _peek(self) -> bytes:
        """Return the first byte that waits, or nothing at the end of the stream."""
        sock = self._sock
        if isinstance(sock, socket.socket):
            return sock.recv(1, socket.MSG_PEEK)
        # What asyncio and uvloop give out as a socket can't receive.
        with socket.fromfd(self._fd, sock.family, sock.type) as duplicate:
            # PyPy makes the descriptor block with every new socket object of it.
            duplicate.setblocking(False)
            return duplicate.recv(1, socket.MSG_PEEK)


def _poll_function(fd: int) -> Callable[[int], list[tuple[int, int]]]:
    poll = select.poll()
    poll.register(fd, _POLLIN | _POLLRDHUP)
    return poll.poll


def _select(fd: int, timeout: int) -> list[tuple[int, int]]:
    """Ask where there is no poll (Windows)."""
    return [(fd, _POLLIN) for fd in select.select([fd], [], [], timeout)[0]]
