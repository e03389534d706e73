"""What can be known of an open stream without waiting: the one type that core and streams share."""

from __future__ import annotations

from enum import Enum, auto


class Liveness(Enum):
    """What can be known of a connection without waiting."""

    #: open, and nothing to read
    ALIVE = auto()
    #: the peer hung up, or the connection was closed here
    CLOSED = auto()
    #: bytes that nobody has asked for are waiting
    UNREAD = auto()
    #: something is waiting that may be harmless (TLS session tickets): only a receive can show it
    UNSURE = auto()


# Looking up a member of an enumeration takes longer than looking up a global.
ALIVE = Liveness.ALIVE
