"""Let the kernel find out about peers that are gone and have not closed the connection."""

from __future__ import annotations

import math
import socket
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Any

from anyconnpool._util.checks import check_count, check_duration

_LONGEST = 32_767
# What fits into the kernel's 31 bits of milliseconds.
_LONGEST_USER_TIMEOUT = 2_147_483
_IDLE_OPTION = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_INTERVAL_OPTION = getattr(socket, "TCP_KEEPINTVL", None)
_COUNT_OPTION = getattr(socket, "TCP_KEEPCNT", None)
_USER_TIMEOUT_OPTION = getattr(socket, "TCP_USER_TIMEOUT", None)


@dataclass(frozen=True)
class KeepAlive:
    """Set when the kernel gives up a TCP connection whose peer doesn't answer any more.

    Keepalive probes find a dead peer on a connection where nothing is being sent: idle ones, and
    those whose borrower waits for a reply. They cost one empty segment each way per ``idle``. The
    user timeout finds it where something was sent and not acknowledged; without it, Linux repeats
    the segment for about 15 minutes. It also ends a connection whose peer, alive, reads nothing for
    so long. Options that the system lacks are left out.

    With the defaults, a cable that is cut is noticed after 120 s. On Linux, a user timeout replaces
    ``count``; its default is equal to ``idle + interval * count``.

    :param idle: silence before the first probe, in seconds, 1 to 32 767
    :param interval: time between two probes, in seconds, 1 to 32 767
    :param count: unanswered probes before the connection is given up, 1 to 127
    :param user_timeout: how long something sent may stay unacknowledged, in seconds (Linux),
        0.001 to 2 147 483; ``math.inf`` leaves it to the system
    :raises TypeError: if an argument is not a number
    :raises ValueError: if one is out of range
    """

    _: KW_ONLY
    idle: float = 60
    interval: float = 10
    count: int = 6
    user_timeout: float = 120

    def __post_init__(self) -> None:
        for name in ("idle", "interval"):
            value: float = getattr(self, name)
            if not 1 <= check_duration(name, value) <= _LONGEST:
                raise ValueError(f"{name} must be 1 to {_LONGEST} seconds, not {value}")
        check_count("count", self.count, least=1, unlimited=False)
        if self.count > 127:
            raise ValueError(f"count must be 1 to 127, not {self.count}")
        user_timeout = check_duration("user_timeout", self.user_timeout)
        if not 0.001 <= user_timeout <= _LONGEST_USER_TIMEOUT and user_timeout != math.inf:
            raise ValueError(
                f"user_timeout must be 0.001 to {_LONGEST_USER_TIMEOUT} seconds, or math.inf to "
                f"leave it to the system, not {self.user_timeout}"
            )

    def apply(self, raw_socket: Any) -> None:
        """Set the options on a TCP socket.

        :param raw_socket: the socket, or what an event loop gives out as one
        """
        options = [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, _IDLE_OPTION, int(self.idle)),
            (socket.IPPROTO_TCP, _INTERVAL_OPTION, int(self.interval)),
            (socket.IPPROTO_TCP, _COUNT_OPTION, self.count),
        ]
        if self.user_timeout != math.inf:
            milliseconds = int(self.user_timeout * 1000)
            options.append((socket.IPPROTO_TCP, _USER_TIMEOUT_OPTION, milliseconds))
        for level, option, value in options:
            if option is not None:
                # A socket that was reset meanwhile refuses; that shows at its first use.
                with suppress(OSError):
                    raw_socket.setsockopt(level, option, value)
