"""The three answers to a look at an open stream: the one word that core and streams share."""

from __future__ import annotations

from enum import Enum


class Liveness(Enum):
    """What a look at an open byte stream has found."""

    #: open, and there is nothing to read
    ALIVE = "alive"
    #: the peer has hung up, the connection is broken, or this end has closed it
    CLOSED = "closed"
    #: bytes are waiting that nobody has asked for
    UNREAD = "unread"


# Looking up a name of a module is faster than an attribute of a class.
ALIVE = Liveness.ALIVE
CLOSED = Liveness.CLOSED
UNREAD = Liveness.UNREAD
