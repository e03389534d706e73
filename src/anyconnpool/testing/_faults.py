"""What can happen to a connection: values, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import isinf

from anyconnpool._util.checks import check_count, check_duration, quoted


class Ending(Enum):
    """What happens to one direction of a connection after so many bytes."""

    CUT = "cut_after"
    RESET = "reset_after"
    HALF_CLOSE = "half_close_after"
    STALL = "stall_after"


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Set how bytes flow in one direction; by default as they arrive.

    Bytes are counted from when the flow is set, and 0 means at once. A flow has one end at most.
    ``latency`` and ``chunk_size`` can be combined with each end.

    :param latency: how long each chunk is held before it is passed on, in seconds; no further one
        is read meanwhile
    :param chunk_size: the most bytes to pass on at a time; 1 for one byte at a time
    :param cut_after: close both ends after so many bytes, as a process does that is killed: with
        FIN, or RST if the client has sent what was not read
    :param reset_after: close the client's end with RST after so many bytes; a UNIX socket is cut
    :param half_close_after: pass on the end of the stream (FIN) after so many bytes and throw away
        what follows; the other direction goes on, unless the remote's end is TLS, which knows no
        half-close: then both ends are closed
    :param stall_after: pass on nothing, and read nothing, after so many bytes
    :raises TypeError: if an argument is not a number
    :raises ValueError: if one makes no sense, or there are two ends
    """

    latency: float = 0.0
    chunk_size: int | None = None
    cut_after: int | None = None
    reset_after: int | None = None
    half_close_after: int | None = None
    stall_after: int | None = None

    def __post_init__(self) -> None:
        if isinf(check_duration("latency", self.latency)):
            raise ValueError("latency must be finite: use stall_after=0 to let nothing pass")
        if self.chunk_size is not None:
            check_count("chunk_size", self.chunk_size, least=1, unlimited=False)
        ends = [ending.value for ending in Ending if getattr(self, ending.value) is not None]
        for name in ends:
            check_count(name, getattr(self, name), least=0, unlimited=False)
        if len(ends) > 1:
            raise ValueError(f"a flow has one end, not {' and '.join(ends)}")

    @property
    def ending(self) -> Ending | None:
        """How the flow ends, if it does."""
        return next((e for e in Ending if getattr(self, e.value) is not None), None)

    @property
    def ends_after(self) -> int | None:
        """After how many bytes it ends, if it does."""
        return None if self.ending is None else getattr(self, self.ending.value)


@dataclass(frozen=True)
class Faults:
    """Set what happens to a connection; by default nothing.

    :param requests: what happens to the bytes from the client to the remote
    :param replies: what happens to those from the remote to the client
    :raises TypeError: if an argument is not a :class:`Flow`
    """

    requests: Flow = Flow()
    replies: Flow = Flow()

    def __post_init__(self) -> None:
        for name in ("requests", "replies"):
            flow: object = getattr(self, name)
            if not isinstance(flow, Flow):
                raise TypeError(f"{name} must be a Flow, not {quoted(flow)}")

    @classmethod
    def both_ways(cls, flow: Flow) -> Faults:
        """Let the same happen to requests and replies.

        ``Faults.both_ways(Flow(stall_after=0))`` is a black hole.

        :param flow: what happens to both; each counts its own bytes
        """
        return cls(flow, flow)


def check_faults(value: object) -> Faults:
    """Check that a value is an object of :class:`Faults`, and return it.

    :raises TypeError: if it is something else
    """
    if not isinstance(value, Faults):
        advice = ""
        if isinstance(value, Flow):
            advice = ": write Faults(replies=…), Faults(requests=…) or Faults.both_ways(…)"
        raise TypeError(f"faults must be Faults, not {quoted(value)}{advice}")
    return value
